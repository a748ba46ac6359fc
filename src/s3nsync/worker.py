"""Take messages, replicate their keys, settle them: who holds what, for how long, and what becomes of it.

    feeder (per queue)   take slots, then receive; sort the messages into Hands, one for each key
    hand (a task each)   replicate -> Outcome -> settlement.settle says what to do -> do it, shielded from cancellation
    extender             lets leases run on while their work moves; a refusal marks the lease lost

The order of things is the protocol of docs/design.md, section 6. In short: a slot before a message; the lease before
a signature (the engine asks `Hand.check`); a Check on the queue before an ack wherever something may still land; an
ack only for what was in the hand before the GET; and never leave with a debt: give the message back with its lease,
or enqueue a Check.

If any of the loops dies the worker dies: replicating without extending leases would be worse than stopping. `stop()`
ends the taking; hands finish, or are cut at the drain deadline and given back.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from s3nsync.engine import Hand as EngineHand
from s3nsync.errors import LeaseLost, QueueError, QueueMissing, TransportError, UndecodableEvent
from s3nsync.events import Burial, decode, group_id
from s3nsync.hands import Hand, Lease, Slots
from s3nsync.model import Change, Delivery, Outcome, QueueName, Report, Retry
from s3nsync.queues import Queue
from s3nsync.settlement import Verdict, settle

log = structlog.get_logger("s3nsync.worker")

RECEIVE_MAX = 10
"""The most that one SQS receive returns (SQS API reference)."""

LEASE_LIFE_S = 12 * 3600.0 - 60.0
"""SQS lets a message be held for 12 hours from its first receive, whatever is asked (SQS API reference)."""

PAUSE_FIRST_S = 5.0
PAUSE_MAX_S = 300.0
"""How long to stop receiving when going on would only burn the backlog; doubles while nothing succeeds."""

FEEDER_RETRY_S = 2.0
"""How long a feeder waits after a receive that failed for a passing reason."""


# --- the worker ------------------------------------------------------------------------------------------------


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
    drain_s: float = 110.0
    poll_wait_s: float = 20.0
    stall_s: float = 300.0


class Worker:
    """Drives the engine from the queues until it is stopped."""

    def __init__(
        self,
        *,
        live: Queue,
        bulk: Queue | None,
        check: Queue,
        engine: Replicate,
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
        self._limits = limits
        self._report = report
        self._clock_s = clock_s
        self._now_s = now_s
        self._sleep = sleep
        self._slots = Slots(limits.max_in_flight, kept_for_live=limits.max_in_flight // 4)
        self._hands: set[Hand] = set()
        self._stopping = asyncio.Event()
        self._paused_until_s = 0.0
        self._pause_s = PAUSE_FIRST_S
        self._live_is_full = False
        self._heard_s = clock_s()
        self.settled: Counter[str] = Counter()

    def __repr__(self) -> str:
        """Show the live state."""
        state = "stopping" if self._stopping.is_set() else "running"
        return f"<Worker {state}: {self.in_flight} in flight, {self._slots.free}/{self._slots.total} slots free>"

    @property
    def in_flight(self) -> int:
        """How many keys are being worked on."""
        return len(self._hands)

    @property
    def paused(self) -> bool:
        """Whether receiving is stopped because going on would only burn the backlog."""
        return self._clock_s() < self._paused_until_s

    @property
    def stopping(self) -> bool:
        """Whether nothing more is taken."""
        return self._stopping.is_set()

    @property
    def silence_s(self) -> float:
        """For how long the live queue has not answered; 0 while it is not asked: paused, or every slot at work."""
        return 0.0 if self._saturated else max(0.0, self._clock_s() - self._heard_s)

    @property
    def _saturated(self) -> bool:
        return self.in_flight >= self._slots.total

    def _expect_answer_from(self, moment_s: float) -> None:
        """Count the live queue's silence from this moment at the earliest."""
        self._heard_s = max(self._heard_s, moment_s)

    def stop(self) -> None:
        """Take nothing more; hands finish or are given back. Safe to call twice and from a signal handler."""
        self._stopping.set()

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
        extender = asyncio.create_task(self._extend_leases(), name="extender")
        feeders = [asyncio.create_task(feed, name="feeder") for feed in self._feeds()]
        if idle_ends:
            feeders.append(asyncio.create_task(self._stop_when_idle(), name="idle-watch"))
        stopped = asyncio.create_task(self._stopping.wait(), name="stop")
        loops = [extender, *feeders]
        try:
            await asyncio.wait([stopped, *loops], return_when=asyncio.FIRST_COMPLETED)
            self.stop()
            deadline_s = self._clock_s() + self._limits.drain_s
            await asyncio.wait(feeders, timeout=self._limits.drain_s)
            await self._finish_hands(deadline_s - self._clock_s())
        finally:
            self.stop()
            await self._cut_hands()
            for task in (stopped, *loops):
                task.cancel()
            results = await asyncio.gather(*loops, return_exceptions=True)
        for result in results:
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
            if self.paused or (helps and not self._live_is_full):
                await self._nap(0.2)
                continue
            taken = await self._take_slots(queue.name)
            if not taken:
                continue
            try:
                await self._receive(queue, taken)
            except QueueMissing:
                raise
            except (QueueError, TransportError) as error:
                log.warning("receive failed", queue=queue.name, reason=error.message, hint=error.hint)
                await self._nap(FEEDER_RETRY_S)

    async def _take_slots(self, name: QueueName) -> int:
        """Take slots, or none if the worker is to stop first."""
        take = asyncio.ensure_future(self._slots.take(name, RECEIVE_MAX))
        stop = asyncio.ensure_future(self._stopping.wait())
        await asyncio.wait([take, stop], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if take.done():
            return take.result()
        take.cancel()
        return 0

    async def _receive(self, queue: Queue, taken: int) -> None:
        """Receive into slots already taken; each key's messages use one, the rest go back."""
        hands: list[Hand] = []
        try:
            asked_s = self._clock_s()
            deliveries = await queue.receive(taken, self._limits.poll_wait_s)
            if queue.name == "live":
                self._expect_answer_from(self._clock_s())
                self._live_is_full = len(deliveries) == RECEIVE_MAX
            if self._stopping.is_set():
                await self._give_back(queue, deliveries)
            else:
                hands = await self._sort(queue, deliveries, asked_s)
        finally:
            await self._slots.give(taken - len(hands))
        for hand in hands:
            self._hands.add(hand)
            hand.task = asyncio.create_task(self._work(hand), name=f"hand {hand.change.ref}")

    async def _give_back(self, queue: Queue, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            await queue.retry(delivery, 0.0)

    async def _sort(self, queue: Queue, deliveries: Sequence[Delivery], asked_s: float) -> list[Hand]:
        """Sort messages into hands by key; those that are not one Change in its own group are settled here."""
        hands: dict[str, Hand] = {}
        for delivery in deliveries:
            try:
                change = await self._only_change(queue, delivery)
            except (QueueError, TransportError) as error:
                log.warning("could not re-send a message; it comes back", queue=queue.name, reason=error.message)
                continue
            if change is None:
                continue
            lease = Lease(delivery, asked_s, asked_s + self._limits.lease_s)
            hand = hands.get(delivery.group)
            if hand is None:
                hands[delivery.group] = Hand(change, queue.name, [lease], self._clock_s, self._clock_s())
            else:
                hand.leases.append(lease)
        return list(hands.values())

    async def _only_change(self, queue: Queue, delivery: Delivery) -> Change | None:
        """Decode a message; anything but one Change in its key's own group is re-sent in that form, or buried.

        Sending comes before the ack, so nothing is lost in between; a message sent twice is harmless.
        """
        try:
            decoded = decode(delivery.body)
        except UndecodableEvent as error:
            await self._bury_unread(queue, delivery, error.message, error.hint)
            return None
        if len(decoded.changes) == 1 and not decoded.undecodable:
            (change,) = decoded.changes
            if delivery.group == group_id(change.ref):
                return change
        if decoded.changes:
            await queue.send(decoded.changes)
            self.settled["rehomed"] += len(decoded.changes)
        if decoded.undecodable:
            await self._bury_unread(queue, delivery, "; ".join(decoded.undecodable), UndecodableEvent.default_hint)
        else:
            await queue.ack(delivery)
        return None

    async def _bury_unread(self, queue: Queue, delivery: Delivery, reason: str, hint: str) -> None:
        log.error("undecodable message buried", queue=queue.name, message_id=delivery.message_id, reason=reason)
        self.settled["buried"] += 1
        await queue.bury(delivery, self._burial(delivery, None, reason, hint))

    # --- working ---

    async def _work(self, hand: Hand) -> None:
        """See one hand through, from the engine to the settled messages."""
        started_s = self._clock_s()
        try:
            outcome = await self._replicate(hand)
            await _uncut(self._settle(hand, outcome, started_s))
        finally:
            if self._saturated:
                self._expect_answer_from(self._clock_s())
            self._hands.discard(hand)
            await self._slots.give(1)

    async def _replicate(self, hand: Hand) -> Outcome | None:
        """Run the engine; None means that the lease was lost."""
        try:
            return await self._engine.replicate(hand.change, hand)
        except LeaseLost:
            return None
        except asyncio.CancelledError:
            reason = "the worker is stopping" if self._stopping.is_set() else "the work did not move and was cut"
            return Retry(reason, failed=not self._stopping.is_set())
        except Exception as error:
            log.exception("unexpected error; the message goes back", ref=str(hand.change.ref))
            return Retry(f"unexpected {type(error).__name__}: {error}", after_s=30.0)

    async def _settle(self, hand: Hand, outcome: Outcome | None, started_s: float) -> None:
        verdict = settle(
            outcome,
            attempt=hand.attempt,
            first_received_at_s=hand.first_received_at_s,
            debt=hand.debt,
            grace_s=self._limits.grace_s,
            now_s=self._now_s(),
        )
        if verdict.check:
            await self._owe_check(hand)
        kept = await self._apply(hand, verdict)
        checked = verdict.check
        if not kept and hand.debt.sent and not checked:
            # Rule 3: a refused settlement is a lost lease, and something was sent under it.
            await self._owe_check(hand)
            checked = True
        self._note_pause(outcome)
        self.settled[type(outcome).__name__.lower() if outcome is not None else "lease_lost"] += 1
        self.settled["coalesced"] += len(hand.leases) - 1
        oldest = min(hand.leases, key=lambda lease: lease.delivery.sent_at_s).delivery
        self._report(
            Report(
                change=hand.change,
                queue=hand.queue,
                outcome=outcome,
                verb=verdict.verb if kept else "lease lost",
                attempt=hand.attempt,
                seconds=self._clock_s() - started_s,
                sent_at_s=oldest.sent_at_s,
                coalesced=len(hand.leases) - 1,
                ambiguous=hand.debt.may_land,
                checked=checked,
            )
        )

    async def _apply(self, hand: Hand, verdict: Verdict) -> bool:
        """Do what the verdict says to each message; False if the queue refused any."""
        queue = self._queues[hand.queue]
        try:
            match verdict.verb:
                case "ack":
                    done = await asyncio.gather(*(queue.ack(lease.delivery) for lease in hand.leases))
                case "retry":
                    done = await asyncio.gather(
                        *(queue.retry(lease.delivery, verdict.after_s) for lease in hand.leases)
                    )
                case "bury":
                    done = await asyncio.gather(
                        *(
                            queue.bury(lease.delivery, self._burial(lease.delivery, hand, verdict.reason, verdict.hint))
                            for lease in hand.leases
                        )
                    )
                case "leave":
                    done = [False]
        except (QueueError, TransportError) as error:
            log.warning("could not settle; the message comes back", ref=str(hand.change.ref), reason=error.message)
            return False
        return all(done)

    def _burial(self, delivery: Delivery, hand: Hand | None, reason: str, hint: str) -> Burial:
        return Burial(
            ref=hand.change.ref if hand is not None else None,
            reason=reason,
            hint=hint,
            first_attempt_s=delivery.first_received_at_s,
            last_attempt_s=self._now_s(),
            attempts=delivery.attempt,
            queue=delivery.queue,
            body=delivery.body,
        )

    async def _owe_check(self, hand: Hand) -> None:
        """Put a Check on its queue, which shows it after the grace; tries until it is there: a debt must be owed."""
        change = Change(hand.change.ref, "check", event_name="Check", event_time=hand.change.event_time)
        wait_s = 0.5
        while True:
            try:
                await self._queues["check"].send([change], fresh=True)
            except (QueueError, TransportError) as error:
                log.warning("a check could not be enqueued yet", ref=str(hand.change.ref), reason=error.message)
                await self._sleep(wait_s)
                wait_s = min(wait_s * 2, 15.0)
            else:
                self.settled["checks"] += 1
                return

    def _note_pause(self, outcome: Outcome | None) -> None:
        """Stop receiving for a while when the outcome asks for it; any success ends the doubling."""
        if not isinstance(outcome, Retry):
            if outcome is not None:
                self._pause_s = PAUSE_FIRST_S
            return
        if outcome.pause and not self.paused:
            log.error("receiving is paused", seconds=self._pause_s, reason=outcome.reason)
            self._paused_until_s = self._clock_s() + self._pause_s
            self._expect_answer_from(self._paused_until_s)
            self._pause_s = min(self._pause_s * 2, PAUSE_MAX_S)

    # --- leases ---

    async def _extend_leases(self) -> None:
        """Renew leases when a third of their time is gone, while their work moves; cut work that does not."""
        while True:
            await self._sleep(min(1.0, self._limits.lease_s / 20))
            now_s = self._clock_s()
            due: dict[QueueName, list[Lease]] = {}
            for hand in self._hands:
                if now_s - hand.moved_s > self._limits.stall_s:
                    log.error("work does not move and is cut", ref=str(hand.change.ref))
                    hand.progress()
                    if hand.task is not None:
                        hand.task.cancel()
                    continue
                due.setdefault(hand.queue, []).extend(lease for lease in hand.leases if self._is_due(lease, now_s))
            for name, leases in due.items():
                if leases:
                    await self._extend(self._queues[name], leases)

    def _is_due(self, lease: Lease, now_s: float) -> bool:
        fresh = lease.ends_s - now_s > self._limits.lease_s * 2 / 3
        return not (fresh or lease.lost or now_s - lease.taken_s > LEASE_LIFE_S)

    async def _extend(self, queue: Queue, leases: list[Lease]) -> None:
        asked_s = self._clock_s()
        try:
            refused = await queue.extend([lease.delivery for lease in leases], self._limits.lease_s)
        except QueueMissing:
            raise
        except (QueueError, TransportError) as error:
            log.warning("leases could not be extended yet", queue=queue.name, reason=error.message)
            return
        lost = {delivery.receipt for delivery in refused}
        for lease in leases:
            if lease.delivery.receipt in lost:
                lease.lost = True
            else:
                lease.ends_s = asked_s + self._limits.lease_s

    # --- leaving ---

    async def _finish_hands(self, within_s: float) -> None:
        """Wait for the work in hand, with its leases kept alive."""
        tasks = [hand.task for hand in self._hands if hand.task is not None]
        if tasks and within_s > 0:
            log.info("draining", in_flight=len(tasks), within_s=round(within_s, 1))
            await asyncio.wait(tasks, timeout=within_s)

    async def _cut_hands(self) -> None:
        """Cut what is left; each hand gives its messages back by itself."""
        tasks = [hand.task for hand in self._hands if hand.task is not None]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop_when_idle(self) -> None:
        """Stop once live and bulk queue are empty and nothing is in hand, seen twice in a row."""
        quiet = 0
        while quiet < 2 and not self._stopping.is_set():
            await self._nap(0.5)
            waiting = 0
            for name, queue in self._queues.items():
                if name != "check":
                    depth = await queue.depth()
                    waiting += depth.visible + depth.in_flight + depth.delayed
            quiet = 0 if waiting or self._hands else quiet + 1
        self._stopping.set()

    async def _nap(self, seconds: float) -> None:
        """Sleep, but wake when the worker is to stop."""
        stop = asyncio.ensure_future(self._stopping.wait())
        nap = asyncio.ensure_future(self._sleep(max(0.0, seconds)))
        await asyncio.wait([stop, nap], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        nap.cancel()


async def _uncut(settling: Coroutine[None, None, None]) -> None:
    """Finish a settlement whatever is cancelled meanwhile: half a settlement could lose a debt."""
    task = asyncio.ensure_future(settling)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    task.result()
