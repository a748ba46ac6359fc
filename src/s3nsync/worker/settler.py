"""Settlement carried out: what `settlement.settle` decides about a hand, done to its messages.

A Check is on its queue before anything is acked or buried that it is owed for; where it cannot be put there, the
message itself goes on owing. Nothing here is remembered from one hand to the next, but for the counts.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping

import structlog

from s3nsync.errors import QueueError, QueueMissing, TransportError
from s3nsync.events import Burial
from s3nsync.figures import settled_name
from s3nsync.model import Change, Delivery, Outcome, QueueName, Rejected, Report
from s3nsync.queues import Queue
from s3nsync.worker.hands import Hand
from s3nsync.worker.settlement import Verdict, settle

log = structlog.get_logger("s3nsync.settler")

LOST_PERHAPS = frozenset({"lease lost", "unsettled"})
"""What `_apply` gives where the message may be another's by now."""


class Settler:
    """Acks, gives back and buries; `settled` counts by the words that log and metrics use.

    `give_up_s`: from then on, by the worker's clock, a Check that cannot be enqueued is not tried again.
    """

    def __init__(
        self,
        *,
        queues: Mapping[QueueName, Queue],
        grace_s: float,
        report: Callable[[Report], None],
        die: Callable[[QueueMissing], None],
        clock_s: Callable[[], float],
        now_s: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """Wire the settler; `die` is told when a queue is not there."""
        self.settled: Counter[str] = Counter()
        self.give_up_s = float("inf")
        self._queues = queues
        self._grace_s = grace_s
        self._report = report
        self._die = die
        self._clock_s = clock_s
        self._now_s = now_s
        self._sleep = sleep

    async def settle(self, hand: Hand, outcome: Outcome | None, started_s: float) -> None:
        """Settle a hand whose work began then, and report it; None means that its lease was lost. It cannot be cut."""
        hand.settling = True
        attempt = hand.attempt
        verdict = settle(
            outcome,
            attempt=attempt,
            first_received_at_s=hand.first_received_at_s,
            debt=hand.debt,
            grace_s=self._grace_s,
            now_s=self._now_s(),
        )
        checked = verdict.check and await self._owe_check(hand)
        if verdict.check and not checked and verdict.verb != "leave":
            # Without its Check the message itself must go on owing: as a later attempt it brings the Check along.
            verdict = Verdict("retry", after_s=self._grace_s)
        how = await self._apply(hand, verdict)
        if how in LOST_PERHAPS and hand.debt.sent and not verdict.check:
            # Rule 3: a refused settlement is a lost lease, and something was sent under it. One that went unanswered
            # may have been refused: then the message does not come back, for another worker was done with it.
            checked = await self._owe_check(hand)
        self._tell(
            Report(
                change=hand.change,
                queue=hand.queue,
                outcome=outcome,
                verb=how,
                attempt=attempt,
                seconds=self._clock_s() - started_s,
                sent_at_s=min([each.sent_at_s for each in hand.deliveries]),
                coalesced=len(hand.leases) - 1,
                ambiguous=hand.debt.may_land,
                checked=checked,
            )
        )

    async def bury_unread(self, queue: Queue, delivery: Delivery, reason: str, hint: str) -> None:
        """Bury a message that nobody can make sense of, and report it: it has no key, but it has a reason."""
        kept = await queue.bury(delivery, self._burial(delivery, None, reason, hint))
        self._tell(
            Report(
                change=None,
                queue=queue.name,
                outcome=Rejected(reason, hint),
                verb="bury" if kept else "lease lost",
                attempt=delivery.attempt,
                seconds=0.0,
                sent_at_s=delivery.sent_at_s,
                coalesced=0,
                ambiguous=False,
                checked=False,
            )
        )

    def _tell(self, report: Report) -> None:
        """Count what was settled, by the word that log and metrics use, and pass it on."""
        self.settled[settled_name(report)] += 1
        if report.coalesced:
            self.settled["coalesced"] += report.coalesced
        self._report(report)

    async def _apply(self, hand: Hand, verdict: Verdict) -> str:
        """Do what the verdict says to each message; gives the verb, or why it could not be done."""
        queue = self._queues[hand.queue]
        match verdict.verb:
            case "leave":
                return "lease lost"
            case "ack":
                calls = [queue.ack(each) for each in hand.deliveries]
            case "retry":
                calls = [queue.retry(each, verdict.after_s) for each in hand.deliveries]
            case "bury":
                burials = [(each, self._burial(each, hand, verdict.reason, verdict.hint)) for each in hand.deliveries]
                calls = [queue.bury(each, burial) for each, burial in burials]
        try:
            # One alone, as nearly always, needs no task of its own.
            done = [await calls[0]] if len(calls) == 1 else await asyncio.gather(*calls)
        except QueueMissing as error:
            self._die(error)
            return "unsettled"
        except (QueueError, TransportError) as error:
            log.warning("could not settle; the message comes back", ref=str(hand.change.ref), reason=error.message)
            return "unsettled"
        return verdict.verb if all(done) else "lease lost"

    def _burial(self, delivery: Delivery, hand: Hand | None, reason: str, hint: str) -> Burial:
        return Burial(
            ref=hand.change.ref if hand is not None else None,
            reason=reason,
            hint=hint,
            first_attempt_s=delivery.first_received_at_s,
            last_attempt_s=max(delivery.first_received_at_s, self._now_s()),  # SQS's clock and ours may differ
            attempts=delivery.attempt,
            queue=delivery.queue,
            body=delivery.body,
        )

    async def _owe_check(self, hand: Hand) -> bool:
        """Put a Check on its queue, which shows it after the grace; tries for as long as the worker lives.

        False if it could not be: its caller must leave the debt with the message, or say aloud that it is lost.
        """
        change = Change(hand.change.ref, "check", event_name="Check", event_time=hand.change.event_time)
        wait_s = 0.5
        while True:
            try:
                await self._queues["check"].send([change], fresh=True)
            except QueueMissing as error:
                self._die(error)
                break
            except (QueueError, TransportError) as error:
                log.warning("a check could not be enqueued yet", ref=str(hand.change.ref), reason=error.message)
                if self._clock_s() + wait_s > self.give_up_s:
                    break
                await self._sleep(wait_s)
                wait_s = min(wait_s * 2, 15.0)
            else:
                self.settled["checks"] += 1
                return True
        log.error(
            "no check could be enqueued for a write that may be stale or may still land",
            ref=str(hand.change.ref),
            hint="if its message does not come back, verify this key",
        )
        return False
