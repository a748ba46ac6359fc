"""The four queues behind the network, as the worker's adapters see them; `sim.sqs` holds the rules of each.

What a worker does to a message takes effect, and is judged, where the call reaches the queue; its answer may be lost.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from s3nsync import errors
from s3nsync.events import Burial, burial_dedup_id, burial_group_id, dedup_id, encode, encode_burial, group_id
from s3nsync.model import Change, Delivery, ObjectRef, QueueName
from s3nsync.queues import Depth
from sim.facts import LEASE_S, UNIX_S
from sim.loop import HOST
from sim.network import Net, resolve
from sim.sqs import FifoQueue, Message
from sim.watch import LOOK, Look

if TYPE_CHECKING:
    from sim.judge import Judge


@dataclass(eq=False)
class Queues:
    """The four queues, who waits at them, and what of S3's events is still on its way to them."""

    net: Net
    live: FifoQueue
    bulk: FifoQueue
    check: FifoQueue
    dead: FifoQueue
    judge: Judge = field(init=False)
    refs: dict[str, ObjectRef] = field(default_factory=dict)
    waiting: dict[QueueName, list[Callable[[], None]]] = field(
        default_factory=lambda: {"live": [], "bulk": [], "check": []}
    )
    underway: Counter[ObjectRef] = field(default_factory=Counter)
    numbers: Counter[str] = field(default_factory=Counter)

    def named(self, name: QueueName) -> FifoQueue:
        """Give one of the three."""
        return {"live": self.live, "bulk": self.bulk, "check": self.check}[name]

    def send(self, name: QueueName, change: Change, *, fresh: bool) -> None:
        """Append a change as the product does."""
        self.numbers["fresh"] += 1
        self.refs[group_id(change.ref)] = change.ref
        dedup = dedup_id(change, fresh=f"f{self.numbers['fresh']}" if fresh else "")
        if self.named(name).send(encode(change), group_id(change.ref), dedup, self.net.loop.time()) is None:
            self.net.watch.counts["duplicates dropped"] += 1
        self.wake(name)

    def wake(self, name: QueueName) -> None:
        """Let those who wait at a queue look again."""
        waiting, self.waiting[name] = self.waiting[name], []
        for look in waiting:
            look()

    @property
    def moved(self) -> int:
        """How many messages SQS itself has moved to the dead-letter queue, after too many receives."""
        return self.dead.accepted - self.numbers["buried"]

    def holds(self, look: Look) -> bool:
        """Say whether the hand's host has a message of the key on lease."""
        now_s = self.net.loop.time()
        return any(each.holder == look.host.name and each.is_out(now_s) for each in self.owing(look.ref))

    def owing(self, ref: ObjectRef) -> list[Message]:
        """List every message of this key, the dead-letter queue's too."""
        queues = (self.live, self.bulk, self.check, self.dead)
        return [each for queue in queues for each in queue.messages if self.refs.get(each.group) == ref]


def _queue_error(what: str) -> errors.S3nsyncError:
    return errors.QueueError(f"SQS: {what}")


@dataclass(eq=False)
class SimQueue:
    """One queue as a worker's adapter sees it."""

    name: QueueName
    queues: Queues
    net: Net

    @property
    def _model(self) -> FifoQueue:
        return self.queues.named(self.name)

    async def receive(self, max_n: int, wait_s: float) -> list[Delivery]:
        """Poll; the wait is the server's."""
        point = f"q.receive {self.name}"
        fault = self.net.next_fault(point)
        await self.net.enter(fault)
        if fault is not None and fault.what in {"refused", "dropped"}:
            raise _queue_error("receive failed")
        host = HOST.get()
        assert host is not None
        answer: asyncio.Future[list[Delivery]] = self.net.loop.create_future()
        ends_s = self.net.loop.time() + wait_s
        timers: list[asyncio.TimerHandle] = []

        def look() -> None:
            for timer in timers:
                timer.cancel()
            if host.dead or answer.done() or self.net.closed:
                return
            now_s = self.net.loop.time()
            taken = self._model.receive(max_n, LEASE_S, now_s)
            if taken or now_s >= ends_s:
                for each in taken:
                    each.holder = host.name
                    self.net.watch.tell(f"{host} receives {each.receipt} of {self.queues.refs[each.group].key}")
                self.net.strike(fault, "done", host)
                found = [self._delivery(each) for each in taken]
                self.net.loop.call_later(self.net.delay_s(point), resolve, answer, found, context=self.net.loop.outside)
                return
            self.queues.waiting[self.name].append(look)
            shown_s = self._model.next_shown_s(now_s)
            timers[:] = [self.net.later(max(0.001, min(ends_s, shown_s or ends_s) - now_s), wake)]

        def wake() -> None:
            self.queues.waiting[self.name].remove(look)
            look()

        self.net.later(self.net.delay_s(point), look)
        found = await answer
        if fault is not None and fault.what == "lost" and found:
            raise _queue_error("the messages were lost on the way")
        return found

    def _delivery(self, message: Message) -> Delivery:
        return Delivery(
            self.name,
            str(message.number),
            message.receipt,
            message.body,
            message.group,
            message.receives,
            UNIX_S + message.sent_at_s,
            UNIX_S + message.first_received_at_s,
        )

    async def ack(self, delivery: Delivery) -> bool:
        """Delete."""
        return await self._delete("q.ack", delivery, acked=True)

    async def _delete(self, point: str, delivery: Delivery, *, acked: bool) -> bool:
        host = HOST.get()

        def delete() -> bool:
            message = self._model.delete(delivery.receipt, self.net.loop.time())
            self.net.watch.tell(f"{host}'s ack of {delivery.receipt} is {'accepted' if message else 'refused'}")
            if message is not None:
                self.queues.judge.on_removed(message, look, acked=acked)
                self.queues.wake(self.name)
            return message is not None

        look = LOOK.get()
        message = self._model.lent.get(delivery.receipt)
        is_ours = message is not None and message.is_out(self.net.loop.time())
        return await self.net.call(point if is_ours else f"{point} stale", delete, _queue_error)

    async def retry(self, delivery: Delivery, after_s: float) -> bool:
        """Give back."""

        def give_back() -> bool:
            done = self._model.change_visibility(delivery.receipt, after_s, self.net.loop.time())
            self.net.watch.tell(f"{delivery.receipt} goes back for {after_s:.1f} s{'' if done else ': refused'}")
            self.queues.wake(self.name)
            return done

        return await self.net.call("q.retry", give_back, _queue_error)

    async def extend(self, deliveries: Sequence[Delivery], for_s: float) -> list[Delivery]:
        """Prolong leases."""

        def prolong() -> list[Delivery]:
            now_s = self.net.loop.time()
            return [each for each in deliveries if not self._model.change_visibility(each.receipt, for_s, now_s)]

        return await self.net.call("q.extend", prolong, _queue_error)

    async def bury(self, delivery: Delivery, burial: Burial) -> bool:
        """Send to the dead-letter queue, then delete."""
        self.queues.judge.on_burial(burial)

        def entomb() -> None:
            now_s = self.net.loop.time()
            entry = encode_burial(burial), burial_group_id(burial), burial_dedup_id(burial)
            if self.queues.dead.send(*entry, now_s) is not None:
                self.queues.numbers["buried"] += 1
            self.net.watch.tell(f"buries {delivery.receipt}: {burial.reason}")

        await self.net.call("q.bury", entomb, _queue_error)
        return await self._delete("q.ack", delivery, acked=False)

    async def send(self, changes: Sequence[Change], *, fresh: bool = False) -> None:
        """Append changes."""

        def append() -> None:
            for change in changes:
                self.net.watch.tell(f"sends {change.kind} of {change.ref.key} to {self.name}")
                self.queues.send(self.name, change, fresh=fresh)

        await self.net.call(f"q.send {self.name}", append, _queue_error)

    async def depth(self) -> Depth:
        """Count."""
        now_s = self.net.loop.time()
        out, delayed = self._model.out(now_s), self._model.delayed(now_s)
        return Depth(len(self._model.messages) - out - delayed, out, delayed)
