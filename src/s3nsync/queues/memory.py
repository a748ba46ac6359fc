"""A queue in this process: what `--direct` gives the real worker in place of SQS.

It keeps what the worker's protocol leans on, and is held to the same contract as SQS (tests/contract): first in, first
out by key; leases that end; settling refused once a lease is over; a delay for the whole queue. It drops no
duplicates, for nobody delivers to it twice, and outlives nothing: what is lost with the process is found again by
comparing both sides.

A group is an ordered list of messages of which the front ones may be invisible: in somebody's hands, given back for a
while, or delayed. An invisible message hides all behind it. Groups that may have something to give wait in `_ready`;
the time at which the first invisible message shows again is kept as a lower bound, so that a receive looks through
those only when something may have come due.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from math import inf

from s3nsync.errors import QueueMissing
from s3nsync.events import Burial, encode, group_id
from s3nsync.model import Change, Delivery, QueueName
from s3nsync.queues import Depth


@dataclass(slots=True, eq=False)
class _Message:
    number: int
    group: str
    body: str
    change: Change
    sent_at_s: float
    visible_s: float
    attempt: int = 0
    first_received_at_s: float = 0.0
    receipt: str = ""


class MemoryQueue:
    """One queue; `send` waits while it holds `capacity` messages, so that a quick lister cannot fill the memory."""

    def __init__(
        self,
        name: QueueName,
        *,
        lease_s: float,
        clock_s: Callable[[], float],
        now_s: Callable[[], float],
        delay_s: float = 0.0,
        capacity: int | None = None,
        on_burial: Callable[[Burial], None] = lambda _burial: None,
    ) -> None:
        """Start empty; `clock_s` is monotonic, `now_s` Unix time, `on_burial` is told what is buried."""
        self.name: QueueName = name
        self._lease_s = lease_s
        self._clock_s = clock_s
        self._now_s = now_s
        self._delay_s = delay_s
        self._capacity = inf if capacity is None else capacity
        self._roomy = inf if capacity is None else capacity - max(1, capacity // 8)
        self._on_burial = on_burial
        self._groups: dict[str, deque[_Message]] = {}
        self._ready: deque[str] = deque()
        self._invisible: dict[int, _Message] = {}
        self._due_s = inf
        self._count = 0
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False

    def __repr__(self) -> str:
        """Show how many messages there are."""
        return f"MemoryQueue({self.name}, {self._count} messages, {len(self._invisible)} invisible)"

    @property
    def count(self) -> int:
        """How many messages there are, seen or unseen."""
        return self._count

    async def receive(self, max_n: int, wait_s: float) -> list[Delivery]:
        """Take at most `max_n` messages, waiting at most `wait_s` for the first one."""
        give_up_s = self._clock_s() + wait_s
        while True:
            taken = self._take(max_n)
            left_s = give_up_s - self._clock_s()
            if taken or left_s <= 0 or self._closed:
                return taken
            self._changed.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), max(0.001, min(left_s, self._due_s - self._clock_s())))

    async def ack(self, delivery: Delivery) -> bool:
        """Remove the message; False if the lease was lost."""
        message = self._held(delivery)
        if message is None:
            return False
        del self._invisible[message.number]
        group = self._groups[message.group]
        group.remove(message)
        self._count -= 1
        if self._count <= self._roomy:  # for a few at once: each time, all who wait for room wake up
            self._room.set()
        if group:
            self._show(message.group)
        else:
            del self._groups[message.group]
        return True

    async def retry(self, delivery: Delivery, after_s: float) -> bool:
        """Give the message back for after `after_s` seconds; False if the lease was lost."""
        message = self._held(delivery)
        if message is None:
            return False
        message.receipt = ""
        self._hide(message, self._clock_s() + after_s)
        self._changed.set()
        return True

    async def extend(self, deliveries: Sequence[Delivery], for_s: float) -> list[Delivery]:
        """Let the leases run for `for_s` seconds from now; the deliveries whose lease was lost come back."""
        refused = []
        for delivery in deliveries:
            message = self._held(delivery)
            if message is None:
                refused.append(delivery)
            else:
                self._hide(message, self._clock_s() + for_s)
        return refused

    async def bury(self, delivery: Delivery, burial: Burial) -> bool:
        """Tell of the burial, and remove the message; False, and nothing told, if the lease was lost."""
        if self._held(delivery) is None:
            return False
        self._on_burial(burial)
        return await self.ack(delivery)

    async def send(self, changes: Sequence[Change], *, fresh: bool = False) -> None:
        """Append the changes, each once there is room for it; every one is a message of its own, `fresh` or not.

        QueueMissing if the queue is closed and there is none: nobody is left who would make it.
        """
        del fresh
        for change in changes:
            while self._count >= self._capacity:
                if self._closed:
                    raise QueueMissing("the worker of this process has stopped", hint="see the message before this one")
                self._room.clear()
                await self._room.wait()
            self._append(change)

    async def depth(self) -> Depth:
        """Count the messages."""
        self._wake()
        held = sum(bool(each.receipt) for each in self._invisible.values())
        return Depth(self._count - len(self._invisible), held, len(self._invisible) - held)

    async def probe(self) -> None:
        """Say nothing: it is there."""

    async def aclose(self) -> None:
        """Let nobody wait any longer."""
        self._closed = True
        self._changed.set()
        self._room.set()

    # --- groups ---

    def _append(self, change: Change) -> None:
        group = group_id(change.ref)
        shown_s = self._clock_s() + self._delay_s
        message = _Message(next(self._numbers), group, encode(change), change, self._now_s(), shown_s)
        self._count += 1
        if group in self._groups:
            self._groups[group].append(message)
        else:
            self._groups[group] = deque([message])
        if self._delay_s > 0:
            self._hide(message, message.visible_s)
        self._show(group)

    def _take(self, max_n: int) -> list[Delivery]:
        self._wake()
        taken: list[Delivery] = []
        while self._ready and len(taken) < max_n:
            group = self._ready.popleft()
            for message in tuple(self._groups.get(group, ())):
                if message.number in self._invisible:
                    break
                if len(taken) == max_n:
                    self._ready.appendleft(group)
                    break
                taken.append(self._hand_out(message))
        return taken

    def _hand_out(self, message: _Message) -> Delivery:
        message.attempt += 1
        message.receipt = f"{message.number}.{message.attempt}"
        message.first_received_at_s = message.first_received_at_s or self._now_s()
        self._hide(message, self._clock_s() + self._lease_s)
        return Delivery(
            self.name,
            str(message.number),
            message.receipt,
            message.body,
            message.group,
            message.attempt,
            message.sent_at_s,
            message.first_received_at_s,
            message.change,
        )

    def _held(self, delivery: Delivery) -> _Message | None:
        """Give the message if its lease is this delivery's, and not over."""
        message = self._invisible.get(int(delivery.message_id))
        is_ours = message is not None and message.receipt == delivery.receipt and message.visible_s > self._clock_s()
        return message if is_ours else None

    def _hide(self, message: _Message, until_s: float) -> None:
        message.visible_s = until_s
        self._invisible[message.number] = message
        self._due_s = min(self._due_s, until_s)

    def _wake(self) -> None:
        """Let messages show again whose time has come."""
        now_s = self._clock_s()
        if now_s < self._due_s:
            return
        for message in [each for each in self._invisible.values() if each.visible_s <= now_s]:
            del self._invisible[message.number]
            message.receipt = ""
            self._show(message.group)
        self._due_s = min((each.visible_s for each in self._invisible.values()), default=inf)

    def _show(self, group: str) -> None:
        self._ready.append(group)
        self._changed.set()
