"""Take messages, replicate their keys, settle them: who holds what, for how long, and what becomes of it.

    feeder (per queue)   take slots, then receive; sort the messages into Hands, one for each key. A look at an idle
                         bulk or check queue holds no slot: what it finds waits for one
    hand (a task each)   replicate -> Outcome -> Settler: what `settlement` decides, done; nothing cuts it short
    Extender             lets leases run on while their work moves; a refusal marks the lease lost

The order of things is the protocol of docs/design.md, section 6. In short: a slot before the work on a message; the
lease before a signature (the engine asks `Hand.check`); a Check on the queue before an ack wherever something may still
land; an ack only for what was in the hand before the GET; and never leave with a debt: give the message back with its
lease, or enqueue a Check.

If any of the loops dies the worker dies: replicating without extending leases would be worse than stopping. `stop()`
ends the taking; hands finish, or are cut at the drain deadline and given back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from s3nsync.engine import Hand as EngineHand
from s3nsync.errors import LeaseLost, QueueError, QueueMissing, TransportError, UndecodableEvent
from s3nsync.events import group_id, summary, survey
from s3nsync.model import Change, Delivery, Outcome, QueueName, Report, Retry
from s3nsync.queues import Queue
from s3nsync.worker.extender import Extender
from s3nsync.worker.hands import Hand, Lease, Slots
from s3nsync.worker.settler import Settler

log = structlog.get_logger("s3nsync.worker")

RECEIVE_MAX = 10
"""The most that one SQS receive returns (SQS API reference)."""

SETTLING_PART = 4
"""One message more for each four slots may be held while it is only being settled: acks take a round trip and the wait
for company, an eighth of the time of an object that takes 0.1 s. Bounded, lest a queue that hangs fills the memory."""

IDLE_LOOKS = 3

CUT_WITHIN_S = 13.0
"""How long hands that were cut may take to give their messages back: with the drain, less than ECS's two minutes."""

CUT_STEPS = 10
"""Waited for in so many steps: a process that stands still meanwhile loses one of them, not all of its hands' time."""

FEEDER_RETRY_S = 2.0
"""How long a feeder waits after a receive that failed for a passing reason."""


# --- the worker ------------------------------------------------------------------------------------------------


class Gate(Protocol):
    """How many messages are worth taking: see `pacing.Breaker`."""

    def appetite(self) -> int:
        """Give 0 while every route rests, 1 to try one that has rested, else more."""


class Replicate(Protocol):
    """The engine's one verb."""

    async def replicate(self, change: Change, hand: EngineHand) -> Outcome:
        """Bring the key up to date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The worker's numbers; docs/configuration.md gives each one's reason.

    A lease is taken for `lease_s` and renewed well before; it must outlast the grace, so that a crash waits out what
    the crashed worker had sent. Work that does not move for `stall_s` is cut.
    """

    max_in_flight: int = 64
    lease_s: float = 300.0
    grace_s: float = 180.0
    drain_s: float = 100.0
    poll_wait_s: float = 20.0
    stall_s: float = 300.0

    @property
    def kept_for_live(self) -> int:
        """How many of the slots no bulk or check message may have."""
        return max(1, self.max_in_flight // 4)


class Worker:
    """Drives the engine from the queues until it is stopped."""

    def __init__(
        self,
        *,
        live: Queue,
        bulk: Queue | None,
        check: Queue,
        engine: Replicate,
        gate: Gate,
        limits: Limits,
        report: Callable[[Report], None],
        clock_s: Callable[[], float],
        now_s: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Wire the worker; `clock_s` is monotonic and counts suspended time, `now_s` is Unix time."""
        self._queues: dict[QueueName, Queue] = {"live": live, "check": check}
        if bulk is not None:
            self._queues["bulk"] = bulk
        self._engine = engine
        self._gate = gate
        self._limits = limits
        self._clock_s = clock_s
        self._sleep = sleep
        self._slots = Slots(limits.max_in_flight, kept_for_live=limits.kept_for_live)
        self._hands: set[Hand] = set()
        self._found: set[Hand] = set()
        self._settling = 0
        self._settling_most = limits.max_in_flight // SETTLING_PART
        self._stopping = asyncio.Event()
        self._fatal: QueueMissing | None = None
        self._is_full: dict[QueueName, bool] = dict.fromkeys(self._queues, False)
        self._heard_s = clock_s()
        self._settler = Settler(
            queues=self._queues,
            grace_s=limits.grace_s,
            report=report,
            die=self._die,
            clock_s=clock_s,
            now_s=now_s,
            sleep=sleep,
        )
        self._extender = Extender(
            queues=self._queues,
            hands=lambda: (*self._hands, *self._found),
            lease_s=limits.lease_s,
            stall_s=limits.stall_s,
            clock_s=clock_s,
            sleep=sleep,
        )
        self.settled = self._settler.settled

    def __repr__(self) -> str:
        """Show the live state."""
        state = "stopping" if self._stopping.is_set() else "running"
        return f"<Worker {state}: {self.in_flight} in flight, {self._slots.free}/{self._slots.total} slots free>"

    @property
    def in_flight(self) -> int:
        """How many keys are being worked on; those that gave up their slot are only being settled."""
        return len(self._hands) - self._settling

    @property
    def held(self) -> int:
        """How many keys have messages in hand: at work, being settled, or found and waiting for a slot."""
        return len(self._hands) + len(self._found)

    @property
    def paused(self) -> bool:
        """Whether receiving is stopped because every route rests: going on would only burn the backlog."""
        return self._gate.appetite() == 0

    @property
    def stopping(self) -> bool:
        """Whether nothing more is taken."""
        return self._stopping.is_set()

    @property
    def silence_s(self) -> float:
        """For how long the live queue has not answered; 0 while it is not asked: paused, or every slot at work."""
        return 0.0 if self._saturated or self.paused else max(0.0, self._clock_s() - self._heard_s)

    @property
    def _saturated(self) -> bool:
        return self.in_flight >= self._slots.total

    def _expect_answer_from(self, moment_s: float) -> None:
        """Count the live queue's silence from this moment at the earliest."""
        self._heard_s = max(self._heard_s, moment_s)

    def stop(self) -> None:
        """Take nothing more; hands finish or are given back. Safe to call twice and from a signal handler."""
        self._stopping.set()
        self._slots.close()

    async def stopped(self) -> None:
        """Wait until the worker is told to stop, or stops by itself."""
        await self._stopping.wait()

    async def run(self) -> None:
        """Work until `stop`, then drain; raises what killed a loop (a missing queue, a bug)."""
        await self._until_stopped(idle_ends=False)

    async def drain(self) -> None:
        """Work until live and bulk queue are empty, then leave; Checks still delayed stay where they are."""
        await self._until_stopped(idle_ends=True)

    async def _until_stopped(self, *, idle_ends: bool) -> None:
        extender = asyncio.create_task(self._extender.run(), name="extender")
        feeders = [asyncio.create_task(feed, name="feeder") for feed in self._feeds()]
        if idle_ends:
            feeders.append(asyncio.create_task(self._stop_when_idle(), name="idle-watch"))
        stopped = asyncio.create_task(self._stopping.wait(), name="stop")
        loops = [extender, *feeders]
        try:
            await asyncio.wait([stopped, *loops], return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            self._settler.give_up_s = self._clock_s() + self._limits.drain_s
            await asyncio.wait(feeders, timeout=self._limits.drain_s)
            await self._finish_hands(self._settler.give_up_s - self._clock_s())
        finally:
            self.stop()
            self._settler.give_up_s = min(self._settler.give_up_s, self._clock_s())
            await self._cut_hands()
            for task in (stopped, *loops):
                task.cancel()
            results = await asyncio.gather(*loops, return_exceptions=True)
        for result in (self._fatal, *results):
            if isinstance(result, Exception):
                raise result

    def _feeds(self) -> Iterable[Coroutine[None, None, None]]:
        """Give each queue one feeder, and the live one more of them where there are slots to fill."""
        for queue in self._queues.values():
            yield self._feed(queue)
        for _ in range(min(4, self._limits.max_in_flight // 32)):
            yield self._feed(self._queues["live"], helps=True)

    # --- taking ---

    async def _feed(self, queue: Queue, *, helps: bool = False) -> None:
        """Take messages of one queue until the worker stops; one that `helps` works only while there is a backlog."""
        while not self._stopping.is_set():
            if self._expects_nothing(queue.name, helps=helps):
                await self._nap(0.2)
                continue
            want = RECEIVE_MAX if self._is_full[queue.name] else 1
            taken = await self._slots.take(queue.name, min(want, max(1, self._gate.appetite())))
            if not taken:
                continue  # the worker is to stop
            if self._expects_nothing(queue.name, helps=helps):
                self._slots.give(taken, queue.name)
                continue
            try:
                if want == 1 and queue.name != "live":
                    self._slots.give(taken, queue.name)
                    await self._look(queue)
                else:
                    await self._receive(queue, taken)
            except QueueMissing:
                raise
            except (QueueError, TransportError) as error:
                log.warning("receive failed", queue=queue.name, reason=error.message, hint=error.hint)
                await self._nap(FEEDER_RETRY_S)
            # Hands begin before more is asked for: one may be the try of a route that has rested. And a queue that
            # answers without waiting must not keep the loop to itself.
            await asyncio.sleep(0)

    def _expects_nothing(self, name: QueueName, *, helps: bool) -> bool:
        """Say whether a receive makes no sense now: every route rests, or a helper's queue has no backlog."""
        if self.paused:
            self._expect_answer_from(self._clock_s())
            return True
        return helps and not self._is_full[name]

    async def _receive(self, queue: Queue, taken: int) -> None:
        """Receive into slots already taken; each key's messages use one, the rest go back."""
        hands: list[Hand] = []
        try:
            hands, strays = await self._fetch(queue, taken)
        finally:
            self._slots.give(taken - len(hands), queue.name)
        self._start(hands)
        await self._send_home(queue, strays)

    async def _look(self, queue: Queue) -> None:
        """Wait for a message without a slot, then for a slot with the message, while its lease runs on.

        For an idle queue beside the live one: a long poll must not keep a slot from whoever has work.
        """
        hands, strays = await self._fetch(queue, 1)
        await self._send_home(queue, strays)
        for hand in hands:
            self._found.add(hand)
            try:
                with hand.patience():
                    taken = await self._slots.take(queue.name, 1)
            finally:
                self._found.discard(hand)
            if taken:
                self._start([hand])
            else:
                await self._give_back(queue, hand.deliveries)

    async def _fetch(self, queue: Queue, most: int) -> tuple[list[Hand], list[Delivery]]:
        """Receive, and sort what came into hands and strays; gives it back if the worker is to stop."""
        asked_s = self._clock_s()
        deliveries = await queue.receive(most, self._limits.poll_wait_s)
        if queue.name == "live":
            self._expect_answer_from(self._clock_s())
        self._is_full[queue.name] = len(deliveries) == most
        if self._stopping.is_set():
            await self._give_back(queue, deliveries)
            return [], []
        return self._sort(queue, deliveries, asked_s)

    def _start(self, hands: Iterable[Hand]) -> None:
        loop = asyncio.get_running_loop()
        for hand in hands:
            hand.urgent = hand.queue == "live" or (hand.queue == "check" and self._slots.checks == 1)
            self._hands.add(hand)
            hand.task = loop.create_task(self._work(hand))

    async def _give_back(self, queue: Queue, deliveries: Sequence[Delivery]) -> None:
        given = await asyncio.gather(*(queue.retry(each, 0.0) for each in deliveries), return_exceptions=True)
        for failure in given:
            if isinstance(failure, Exception):
                log.warning("a message could not be given back; its lease ends by itself", reason=str(failure))

    def _sort(self, queue: Queue, deliveries: Sequence[Delivery], asked_s: float) -> tuple[list[Hand], list[Delivery]]:
        """Sort messages into hands by key, and those that are not one Change in its own group."""
        hands: dict[str, Hand] = {}
        strays: list[Delivery] = []
        for delivery in deliveries:
            change = only_change(delivery)
            if change is None:
                strays.append(delivery)
                continue
            lease = Lease(delivery, asked_s, asked_s + self._limits.lease_s)
            hand = hands.get(delivery.group)
            if hand is None:
                hands[delivery.group] = Hand(change, queue.name, [lease], self._clock_s, self._clock_s())
            else:
                hand.leases.append(lease)
        return list(hands.values()), strays

    async def _send_home(self, queue: Queue, strays: Iterable[Delivery]) -> None:
        """Settle messages that are not one Change in its key's own group: re-sent in that form, or buried.

        Sending comes before the ack, so nothing is lost in between; a message sent twice is harmless.
        """
        for delivery in strays:
            found = survey(delivery.body)
            try:
                if found.changes:
                    await queue.send(found.changes, fresh=True)
                    self.settled["rehomed"] += len(found.changes)
                if found.undecodable:
                    why = "; ".join(found.undecodable) if found.changes or found.ignored else summary(found.undecodable)
                    await self._settler.bury_unread(queue, delivery, why, UndecodableEvent.default_hint)
                else:
                    await queue.ack(delivery)
            except (QueueError, TransportError) as error:
                log.warning("could not re-send a message; it comes back", queue=queue.name, reason=error.message)

    # --- working ---

    async def _work(self, hand: Hand) -> None:
        """See one hand through, from the engine to the settled messages.

        Its slot is the next one's as soon as only the settlement is left, which keeps nobody busy but the queue.
        """
        started_s = self._clock_s()
        is_early = False
        try:
            outcome = await self._replicate(hand)
            is_early = self._settling < self._settling_most
            if is_early:
                self._settling += 1
                self._slots.give(1, hand.queue)
            await self._settler.settle(hand, outcome, started_s)
        except Exception:
            log.exception("a message could not be settled; it comes back", ref=str(hand.change.ref))
        finally:
            if self._saturated:
                self._expect_answer_from(self._clock_s())
            self._hands.discard(hand)
            if is_early:
                self._settling -= 1
            else:
                self._slots.give(1, hand.queue)

    async def _replicate(self, hand: Hand) -> Outcome | None:
        """Run the engine; None means that the lease was lost."""
        try:
            return await self._engine.replicate(hand.change, hand)
        except LeaseLost:
            return None
        except asyncio.CancelledError:
            # The cancellation is dealt with here: what settles goes on in this task, whose time-outs must know that.
            task = asyncio.current_task()
            while task is not None and task.uncancel():
                pass
            reason = "the worker is stopping" if self._stopping.is_set() else "the work did not move and was cut"
            return Retry(reason, failed=not self._stopping.is_set())
        except Exception as error:
            log.exception("unexpected error; the message goes back", ref=str(hand.change.ref))
            return Retry(f"unexpected {type(error).__name__}: {error}", after_s=30.0)

    def _die(self, error: QueueMissing) -> None:
        """Stop for good: without its queues a worker only looks alive."""
        self._fatal = self._fatal or error
        self.stop()

    # --- leaving ---

    async def _finish_hands(self, within_s: float) -> None:
        """Wait for the work in hand, with its leases kept alive."""
        tasks = [hand.task for hand in self._hands if hand.task is not None]
        if tasks and within_s > 0:
            log.info("draining", in_flight=len(tasks), within_s=round(within_s, 1))
            await asyncio.wait(tasks, timeout=within_s)

    async def _cut_hands(self) -> None:
        """Cut what is left; each hand gives its messages back by itself."""
        await asyncio.sleep(0)  # one made in this very turn has to begin before it can be cut, or it never does
        tasks = [hand.task for hand in self._hands if hand.task is not None]
        for hand in self._hands:
            hand.cut()
        left = set(tasks)
        for _ in range(CUT_STEPS):
            if left:
                _, left = await asyncio.wait(left, timeout=CUT_WITHIN_S / CUT_STEPS)
        if left:
            log.error("some messages could not be given back; their leases end by themselves", count=len(left))

    async def _stop_when_idle(self) -> None:
        """Stop once live and bulk queue were empty, and nothing in hand, at several looks in a row: counts lag."""
        quiet = 0
        while quiet < IDLE_LOOKS and not self._stopping.is_set():
            await self._nap(1.0)
            try:
                depths = [await queue.depth() for name, queue in self._queues.items() if name != "check"]
            except QueueMissing:
                raise
            except (QueueError, TransportError) as error:
                log.warning("the queues could not be counted", reason=error.message)
                quiet = 0
                continue
            waiting = any(depth.visible + depth.in_flight + depth.delayed for depth in depths)
            quiet = 0 if waiting or self.held else quiet + 1
        self.stop()

    async def _nap(self, seconds: float) -> None:
        """Sleep, but wake when the worker is to stop."""
        stop = asyncio.ensure_future(self._stopping.wait())
        nap = asyncio.ensure_future(self._sleep(max(0.0, seconds)))
        await asyncio.wait([stop, nap], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        nap.cancel()


def only_change(delivery: Delivery) -> Change | None:
    """Give what a message speaks of if that is one Change, in its key's own group; None for any other."""
    if delivery.change is not None:
        return delivery.change
    decoded = survey(delivery.body)
    if len(decoded.changes) != 1 or decoded.undecodable:
        return None
    change = decoded.changes[0]
    return change if delivery.group == group_id(change.ref) else None
