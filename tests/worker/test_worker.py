"""The worker's life: taking, settling, leases, draining. Queues in memory, the real engine or a scripted one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from fakes import NOW_S, FakeBudget, FakeGate, FakeLane, FakeQueue, FakeSource, FakeTarget
from s3nsync import errors
from s3nsync.engine import Hand, Replicator
from s3nsync.events import encode, group_id
from s3nsync.model import Change, Copied, Deleted, Delivery, ObjectRef, Outcome, Rejected, Report, Retry, Route
from s3nsync.worker import Limits, Worker

REF = ObjectRef("media", "a.txt")
PUT = Change(REF, "put", event_name="ObjectCreated:Put", sequencer="01")
DONE = Copied("/123456/a.txt", 1, "md5")
Script = Callable[[Change, Hand], Awaitable[Outcome]]


class ScriptedEngine:
    """An engine whose verb is a function of the test."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.seen: list[Change] = []

    async def replicate(self, change: Change, hand: Hand) -> Outcome:
        self.seen.append(change)
        return await self.script(change, hand)


async def _done(_change: Change, hand: Hand) -> Outcome:
    hand.debt.placed = hand.debt.sent = True
    return DONE


class Stage:
    """Three queues, an engine and a worker, on a clock that the test moves."""

    def __init__(self, script: Script = _done, **limits: float) -> None:
        self.clock = 1000.0
        self.live = FakeQueue("live", clock_s=lambda: self.clock)
        self.bulk = FakeQueue("bulk", clock_s=lambda: self.clock)
        self.checks = FakeQueue("check", clock_s=lambda: self.clock, delay_s=180.0)
        self.engine = ScriptedEngine(script)
        self.reports: list[Report] = []
        self.gate = FakeGate()
        numbers = {"max_in_flight": 8, "lease_s": 60.0, "grace_s": 30.0, "drain_s": 2.0, "poll_wait_s": 1.0, **limits}
        self.worker = Worker(
            live=self.live,
            bulk=self.bulk,
            check=self.checks,
            engine=self.engine,
            gate=self.gate,
            limits=Limits(**numbers),  # type: ignore[arg-type]
            report=self.reports.append,
            clock_s=lambda: self.clock,
            now_s=lambda: NOW_S,
            sleep=_quick,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.worker.run())
        try:
            yield task
        finally:
            self.worker.stop()
            with suppress(errors.S3nsyncError, RuntimeError):
                await asyncio.wait_for(task, 60)
            assert self.worker.in_flight == self.worker.held == 0
            assert self.worker._slots.free == self.worker._slots.total

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):  # thousands of times what any state here takes
            while not holds():
                await asyncio.sleep(0.001)


async def _quick(_seconds: float) -> None:
    await asyncio.sleep(0.001)


async def test_a_message_is_acked_after_its_key_was_replicated() -> None:
    """The plain life of a message, reported once."""
    stage = Stage()
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: stage.live.empty)
    assert stage.live.history == ["ack"]
    assert [(r.change, r.outcome, r.verb, r.coalesced) for r in stage.reports] == [(PUT, DONE, "ack", 0)]


async def test_messages_of_one_key_in_hand_are_one_look_and_are_acked_together() -> None:
    """Coalescing: what was received together, and only that."""
    stage = Stage()
    for number in range(4):
        stage.live.put(Change(REF, "put", sequencer=f"0{number}"))
    stage.worker._is_full["live"] = True  # as after a full receive: an idle poll takes one message only
    async with stage.running():
        await stage.until(lambda: stage.live.empty)
    assert len(stage.engine.seen) == 1
    assert stage.live.history == ["ack"] * 4
    assert stage.worker.settled["coalesced"] == 3


async def test_a_message_that_comes_during_the_look_gets_its_own() -> None:
    """Nobody joins later (rule 5), not even while the answer to the ack is on its way."""
    stage = Stage()
    ack = stage.live.ack

    async def arrive(_change: Change, _hand: Hand) -> Outcome:
        if len(stage.engine.seen) == 1:
            stage.live.put(Change(REF, "put", sequencer="02"))
        return DONE

    async def answered_late(delivery: Delivery) -> bool:
        done = await ack(delivery)
        await asyncio.sleep(0.01)
        return done

    stage.engine.script = arrive
    stage.live.ack = answered_late  # type: ignore[method-assign]
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: stage.live.empty)
    assert len(stage.engine.seen) == 2


async def test_different_keys_are_worked_on_at_once_up_to_the_slots() -> None:
    """A slot is taken before a message is, so what is in hand never exceeds the slots."""
    peak = [0]
    gate = asyncio.Event()
    stage = Stage(max_in_flight=3)

    async def wait(_change: Change, _hand: Hand) -> Outcome:
        peak[0] = max(peak[0], stage.worker.in_flight)
        await gate.wait()
        return DONE

    stage.engine.script = wait
    for number in range(7):
        stage.live.put(Change(ObjectRef("media", f"k{number}"), "put"))
    async with stage.running():
        await stage.until(lambda: len(stage.engine.seen) == 3)
        assert (await stage.live.depth()).in_flight == 3
        gate.set()
        await stage.until(lambda: stage.live.empty)
    assert peak[0] == 3


async def test_a_part_of_the_slots_is_kept_for_live_events() -> None:
    """A backfill cannot take the last slots, so a live event never waits for it."""
    gate = asyncio.Event()
    stage = Stage(max_in_flight=4)

    async def wait(_change: Change, hand: Hand) -> Outcome:
        if not hand.exclusive:
            await gate.wait()
        return DONE

    stage.engine.script = wait
    for number in range(9):
        stage.bulk.put(Change(ObjectRef("media", f"bulk{number}"), "put"))
    async with stage.running():
        await stage.until(lambda: len(stage.engine.seen) >= 2)
        stage.live.put(PUT)
        await stage.until(lambda: stage.live.empty)
        gate.set()
        await stage.until(lambda: stage.bulk.empty)


async def test_a_message_that_is_only_being_settled_leaves_its_slot_to_the_next() -> None:
    """The slots stay at work while acks are on their way; but no more is held than a quarter above them."""
    stage, answered = Stage(max_in_flight=4), asyncio.Event()
    ack = stage.live.ack

    async def slow_ack(delivery: Delivery) -> bool:
        await answered.wait()
        return await ack(delivery)

    stage.live.ack = slow_ack  # type: ignore[method-assign]
    for number in range(9):
        stage.live.put(Change(ObjectRef("media", f"k{number}"), "put"))
    async with stage.running():
        await stage.until(lambda: len(stage.engine.seen) == 5)
        await asyncio.sleep(0.02)
        assert (len(stage.engine.seen), stage.worker.in_flight, stage.worker.held) == (5, 4, 5)
        answered.set()
        await stage.until(lambda: stage.live.empty)
    assert stage.live.history == ["ack"] * 9


async def test_a_hand_that_was_cut_settles_in_a_task_that_nobody_is_cancelling() -> None:
    """Up to Python 3.11.2 time-outs of the settlement's requests would else take themselves for the cancellation."""
    stage, cancelling = Stage(drain_s=0.01), []
    retry = stage.live.retry

    async def look(delivery: Delivery, after_s: float) -> bool:
        task = asyncio.current_task()
        assert task is not None
        cancelling.append(task.cancelling())
        return await retry(delivery, after_s)

    async def hang(_change: Change, _hand: Hand) -> Outcome:
        await asyncio.Event().wait()
        return DONE

    stage.live.retry = look  # type: ignore[method-assign]
    stage.engine.script = hang
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: stage.worker.in_flight == 1)
    assert cancelling == [0]
    assert stage.live.history == ["retry 0"]


async def test_a_hand_cut_before_it_has_begun_gives_its_message_back() -> None:
    """The end of the worker may come in the very turn of the loop in which a receive came back."""
    stage = Stage(drain_s=0.0)
    receive = stage.live.receive

    async def hang(_change: Change, _hand: Hand) -> Outcome:
        await asyncio.Event().wait()
        return DONE

    async def end_with_it(max_n: int, wait_s: float) -> list[Delivery]:
        found = await receive(max_n, wait_s)
        if found:
            task.cancel()
        return found

    stage.live.receive = end_with_it  # type: ignore[method-assign]
    stage.engine.script = hang
    stage.live.put(PUT)
    task = asyncio.create_task(stage.worker.run())
    with suppress(asyncio.CancelledError):
        await asyncio.wait_for(task, 5)
    assert set(stage.live.history) == {"retry 0"}  # more than once if another receive was under way
    assert (stage.worker.held, stage.worker._slots.free) == (0, stage.worker._slots.total)


async def test_a_look_at_an_idle_queue_holds_no_slot() -> None:
    """Live events have every slot while nothing else has work; what a look then finds waits, and its lease runs on."""
    stage, looking, gate = Stage(max_in_flight=4), asyncio.Event(), asyncio.Event()

    def polling_long(queue: FakeQueue) -> Callable[[int, float], Awaitable[list[Delivery]]]:
        receive = queue.receive

        async def receive_late(max_n: int, wait_s: float) -> list[Delivery]:
            await looking.wait()
            return await receive(max_n, wait_s)

        return receive_late

    async def wait(change: Change, hand: Hand) -> Outcome:
        await gate.wait()
        return await _done(change, hand)

    stage.engine.script = wait
    for queue in (stage.bulk, stage.checks):
        queue.receive = polling_long(queue)  # type: ignore[method-assign,assignment]
    async with stage.running():
        await asyncio.sleep(0.01)
        for number in range(6):
            stage.live.put(Change(ObjectRef("media", f"live{number}"), "put"))
        await stage.until(lambda: stage.worker.in_flight == 4)
        stage.bulk.put(PUT)
        looking.set()
        await asyncio.sleep(0.02)
        stage.clock += 30.0
        await stage.until(lambda: "extend 1" in stage.bulk.history)
        assert (stage.worker.in_flight, [each for each in stage.engine.seen if each == PUT]) == (4, [])
        gate.set()
        await stage.until(lambda: stage.bulk.empty)
    assert stage.bulk.history[-1] == "ack"


async def test_a_queue_that_answers_at_once_does_not_keep_the_loop_to_itself() -> None:
    """With poll_wait_s = 0 a queue in memory never waits: everybody else gets a turn all the same."""
    stage = Stage(poll_wait_s=0.0)
    async with stage.running():
        await asyncio.sleep(0.01)
        stage.live.put(PUT)
        await stage.until(lambda: stage.live.empty)


async def test_what_a_look_has_found_goes_back_when_the_worker_stops() -> None:
    """Nothing is begun any more, and nothing stays hidden until its lease ends."""
    stage, gate = Stage(max_in_flight=4), asyncio.Event()

    async def wait(change: Change, hand: Hand) -> Outcome:
        await gate.wait()
        return await _done(change, hand)

    receive = stage.bulk.receive

    async def find(max_n: int, wait_s: float) -> list[Delivery]:
        await stage.until(lambda: stage.worker.in_flight == 4)
        return await receive(max_n, wait_s)

    stage.engine.script = wait
    stage.bulk.receive = find  # type: ignore[method-assign]
    stage.bulk.put(PUT)
    async with stage.running():
        await asyncio.sleep(0.01)
        for number in range(4):
            stage.live.put(Change(ObjectRef("media", f"live{number}"), "put"))
        await stage.until(lambda: bool(stage.worker._found))
        stage.worker.stop()
        await stage.until(lambda: bool(stage.bulk.history))
        gate.set()
    assert stage.bulk.history == ["retry 0"]
    assert not stage.worker._found


async def test_rule_4_a_later_attempt_enqueues_a_check_before_its_ack() -> None:
    """The order on the wire is check first."""
    stage = Stage()
    order: list[str] = stage.live.history
    stage.checks.history = order
    stage.live.put(PUT, attempt=1)
    async with stage.running():
        await stage.until(lambda: stage.live.empty)
    assert order == ["send check", "ack"]
    assert stage.checks.sent[0].ref == REF


async def test_rule_4_a_check_that_goes_well_at_once_spawns_none() -> None:
    """Else checks would never end."""
    stage = Stage()
    await stage.checks.send([Change(REF, "check")], fresh=True)
    stage.clock += 200.0
    async with stage.running():
        await stage.until(lambda: stage.checks.empty)
    assert len(stage.checks.sent) == 1
    assert stage.reports[0].queue == "check"


async def test_rule_3_a_lease_lost_after_a_write_enqueues_a_check_and_acks_nothing() -> None:
    """The write is owed; the message may be somebody else's."""
    stage = Stage()

    async def lose(_change: Change, hand: Hand) -> Outcome:
        hand.debt.placed = hand.debt.sent = True
        stage.live.expire()
        msg = "lost"
        raise errors.LeaseLost(msg)

    stage.engine.script = lose
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: bool(stage.checks.sent))
        stage.engine.script = _done
        await stage.until(lambda: stage.live.empty)
    assert stage.live.history.count("ack refused") == 0
    assert stage.reports[0].outcome is None


async def test_rule_2_a_refused_ack_is_a_lost_lease() -> None:
    """If the queue refuses the ack, the write is owed by a check."""
    stage = Stage()

    async def freeze(_change: Change, hand: Hand) -> Outcome:
        hand.debt.placed = hand.debt.sent = True
        stage.live.expire()
        return DONE

    stage.engine.script = freeze
    stage.live.put(PUT)
    order: list[str] = stage.live.history
    stage.checks.history = order
    async with stage.running():
        await stage.until(lambda: bool(stage.reports))
        stage.engine.script = _done
        await stage.until(lambda: stage.live.empty)
    assert order[:2] == ["ack refused", "send check"]
    assert (stage.reports[0].verb, stage.reports[0].checked) == ("lease lost", True)


@pytest.mark.parametrize("sent", [True, False])
async def test_rule_3_a_settlement_that_went_unanswered_owes_a_check_if_anything_was_sent(sent: bool) -> None:
    """The lease may have been lost long ago, and another worker done with the message: then it never comes back."""
    stage = Stage()

    async def freeze(_change: Change, hand: Hand) -> Outcome:
        hand.debt.placed, hand.debt.sent = True, sent
        return DONE

    async def unanswered(delivery: Delivery) -> bool:
        raise errors.QueueError(f"no answer for {delivery.receipt}")

    stage.engine.script = freeze
    stage.live.ack = unanswered  # type: ignore[method-assign]
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: bool(stage.reports))
    assert (stage.reports[0].verb, stage.reports[0].checked) == ("unsettled", sent)
    assert [each.kind for each in stage.checks.sent] == ["check"] * sent


async def test_a_check_that_cannot_be_enqueued_holds_the_ack_back() -> None:
    """Never leave with a debt: the ack waits until the check is on its queue."""
    stage = Stage()
    stage.checks.fail_next = []
    stage.live.put(PUT, attempt=1)
    failures: list[errors.S3nsyncError] = [errors.QueueError("down"), errors.QueueError("down")]

    async def done(change: Change, hand: Hand) -> Outcome:
        stage.checks.fail_next = failures
        return await _done(change, hand)

    stage.engine.script = done
    order: list[str] = stage.live.history
    stage.checks.history = order
    async with stage.running():
        await stage.until(lambda: stage.live.empty)
    assert order == ["send check", "ack"]


async def test_rejected_is_buried_with_reason_and_attempts() -> None:
    """What can never work is listed, with everything one needs to mend it."""
    stage = Stage()

    async def reject(_change: Change, _hand: Hand) -> Outcome:
        return Rejected("`..` in the key", "rename it")

    stage.engine.script = reject
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: stage.live.empty)
    (burial,) = stage.live.buried
    assert (burial.ref, burial.reason, burial.hint, burial.attempts) == (REF, "`..` in the key", "rename it", 1)
    assert burial.body == encode(PUT)


async def test_an_undecodable_message_is_buried_and_the_rest_goes_on() -> None:
    """A poison message harms nobody and is not lost."""
    stage = Stage()
    stage.live.put_body("not json {", "g1")
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: stage.live.empty)
    assert [burial.body for burial in stage.live.buried] == ["not json {"]
    assert stage.worker.settled["copied"] == 1


async def test_a_message_that_cannot_be_buried_yet_keeps_no_other_waiting() -> None:
    """What came in the same receive is worked on all the same; the bad one comes back."""
    stage = Stage()
    bury = stage.live.bury

    async def refused(_delivery: Delivery, _burial: object) -> bool:
        raise errors.QueueError("the dead-letter queue is busy")

    stage.live.bury = refused  # type: ignore[method-assign,assignment]
    stage.worker._is_full["live"] = True
    for key in "ab":
        stage.live.put(Change(ObjectRef("media", key), "put"))
    stage.live.put_body("not json {", "g1")
    stage.live.put(Change(ObjectRef("media", "c"), "put"))
    async with stage.running():
        await stage.until(lambda: stage.worker.settled["copied"] == 3)
        stage.live.bury = bury  # type: ignore[method-assign]
        stage.clock += 61.0
        await stage.until(lambda: stage.live.empty)
    assert stage.live.history == ["ack"] * 3 + ["bury"]


async def test_a_foreign_body_is_resent_key_by_key_before_its_ack() -> None:
    """The proof of concept's lists, and any message outside its key's own group, find their way home."""
    stage = Stage()
    body = json.dumps(
        [
            {"eventName": "ObjectCreated:Put", "bucket": "media", "key": "a+b", "etag": "0", "sequencer": "01"},
            {"eventName": "ObjectCreated:Put", "bucket": "media", "key": "c", "etag": "0", "sequencer": "02"},
        ]
    )
    stage.live.put_body(body, "1612137600")
    async with stage.running():
        await stage.until(lambda: len(stage.reports) == 2)
    assert {change.ref.key for change in stage.live.sent} == {"a b", "c"}
    assert stage.live.history[:3] == ["send put", "send put", "ack"]


async def test_an_unexpected_error_gives_the_message_back() -> None:
    """A bug loses nothing and does not stop the others."""
    stage = Stage()

    async def bug(change: Change, hand: Hand) -> Outcome:
        if change.ref == REF:
            msg = "a bug"
            raise RuntimeError(msg)
        return await _done(change, hand)

    stage.engine.script = bug
    stage.live.put(PUT)
    stage.live.put(Change(ObjectRef("media", "b"), "put"))
    async with stage.running():
        await stage.until(lambda: len(stage.reports) == 2)
    assert "retry 30" in stage.live.history
    assert not stage.live.empty


async def test_leases_are_extended_while_the_work_moves() -> None:
    """A long copy keeps its message."""
    stage = Stage()
    gate = asyncio.Event()

    async def long(_change: Change, hand: Hand) -> Outcome:
        await gate.wait()
        hand.check()
        return DONE

    stage.engine.script = long
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: stage.worker.in_flight == 1)
        for _ in range(5):
            before = stage.live.history.count("extend 1")
            stage.clock += 30.0
            await stage.until(lambda before=before: stage.live.history.count("extend 1") > before)  # type: ignore[misc]
        gate.set()
        await stage.until(lambda: stage.live.empty)
    assert stage.live.history[-1] == "ack"


async def test_an_extension_that_is_refused_loses_the_lease() -> None:
    """The queue's no is final: the engine's next check fails."""
    stage = Stage()
    lost: list[str] = []
    gate = asyncio.Event()

    async def long(_change: Change, hand: Hand) -> Outcome:
        await gate.wait()
        try:
            hand.check()
        except errors.LeaseLost:
            lost.append("yes")
            raise
        return DONE

    stage.engine.script = long
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: stage.worker.in_flight == 1)
        stage.live.expire()
        stage.clock += 30.0
        await stage.until(lambda: "extend 0" in stage.live.history)
        gate.set()
        await stage.until(lambda: bool(lost))
        stage.engine.script = _done
        await stage.until(lambda: stage.live.empty)


async def test_a_freeze_longer_than_the_lease_is_noticed_before_the_next_send() -> None:
    """After a freeze the clock alone says that the lease may be gone."""
    stage = Stage()
    result: list[bool] = []

    async def frozen(_change: Change, hand: Hand) -> Outcome:
        if not result:
            stage.clock += 600.0
            try:
                hand.check()
            except errors.LeaseLost:
                result.append(True)
                raise
        return DONE

    stage.engine.script = frozen
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: bool(result))
        await stage.until(lambda: stage.live.empty)


async def test_a_lease_that_is_over_is_not_brought_back_by_an_extension() -> None:
    """A machine sleeps through its lease; the queue, asked to extend it, says yes, but means nothing by it."""
    stage, woken, lost = Stage(), asyncio.Event(), []

    async def says_yes(_deliveries: object, _for_s: float) -> list[Delivery]:
        return []

    async def sleep(_change: Change, hand: Hand) -> Outcome:
        await woken.wait()
        try:
            hand.check()
        except errors.LeaseLost:
            lost.append(hand)
            raise
        return DONE

    stage.engine.script = sleep
    stage.live.extend = says_yes  # type: ignore[method-assign,assignment]
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: stage.worker.in_flight == 1)
        stage.clock += 61.0
        await asyncio.sleep(0.05)  # the extender looks every millisecond here
        woken.set()
        await stage.until(lambda: bool(lost))


async def test_work_that_does_not_move_is_cut_and_goes_back() -> None:
    """Progress, not time, is the watchdog."""
    stage = Stage(stall_s=40.0)
    stuck = [True]

    async def stall(change: Change, hand: Hand) -> Outcome:
        if stuck.pop() if stuck else False:
            await asyncio.Event().wait()
        return await _done(change, hand)

    stage.engine.script = stall
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: stage.worker.in_flight == 1)
        stage.clock += 41.0
        await stage.until(lambda: stage.live.empty)
    assert stage.live.history[0] == "retry 0"
    assert stage.worker.settled["copied"] == 1


async def test_stop_lets_the_work_in_hand_finish() -> None:
    """A drain is no loss: what was begun is acked."""
    stage = Stage()
    gate = asyncio.Event()

    async def slow(_change: Change, _hand: Hand) -> Outcome:
        await gate.wait()
        return DONE

    stage.engine.script = slow
    stage.live.put(PUT)
    async with stage.running() as task:
        await stage.until(lambda: stage.worker.in_flight == 1)
        stage.worker.stop()
        await asyncio.sleep(0.01)
        assert not task.done()
        gate.set()
        await asyncio.wait_for(task, 60)
    assert stage.live.history == ["ack"]


@pytest.mark.parametrize(("pending", "given_back"), [(False, "retry 0"), (True, "retry 30")])
async def test_rule_8_a_drain_cuts_what_cannot_finish_and_gives_it_back(pending: bool, given_back: str) -> None:
    """At once if nothing can land any more, after the grace if the last byte had left."""
    stage = Stage(drain_s=0.05)

    async def never(_change: Change, hand: Hand) -> Outcome:
        hand.debt.placed = hand.debt.sent = True
        hand.debt.pending = pending
        await asyncio.Event().wait()
        return DONE

    stage.engine.script = never
    stage.live.put(PUT)
    async with stage.running() as task:
        await stage.until(lambda: stage.worker.in_flight == 1)
        stage.worker.stop()
        await asyncio.wait_for(task, 60)
    assert stage.live.history == [given_back]


async def test_what_is_received_while_stopping_is_given_back_at_once() -> None:
    """A message that arrives with the last poll waits for nobody's lease to end."""
    stage = Stage()
    receiving, gate = asyncio.Event(), asyncio.Event()
    receive = stage.live.receive

    async def slow_receive(max_n: int, wait_s: float) -> list[Delivery]:
        receiving.set()
        await gate.wait()
        return await receive(max_n, wait_s)

    stage.live.receive = slow_receive  # type: ignore[method-assign]
    stage.live.put(PUT)
    async with stage.running() as task:
        await receiving.wait()
        stage.worker.stop()
        gate.set()
        await asyncio.wait_for(task, 60)
    assert stage.live.history == ["retry 0"]
    assert stage.engine.seen == []


async def test_a_settlement_is_finished_though_the_drain_deadline_cuts_it() -> None:
    """Half a settlement could lose a debt: an ack under way is seen to its end."""
    stage = Stage(drain_s=0.05)
    acking, gate = asyncio.Event(), asyncio.Event()
    ack = stage.live.ack

    async def slow_ack(delivery: Delivery) -> bool:
        acking.set()
        await gate.wait()
        return await ack(delivery)

    stage.live.ack = slow_ack  # type: ignore[method-assign]
    stage.live.put(PUT)
    async with stage.running() as task:
        await acking.wait()
        stage.worker.stop()
        await asyncio.sleep(0.2)
        assert not task.done()
        gate.set()
        await asyncio.wait_for(task, 60)
    assert stage.live.history == ["ack"]
    assert len(stage.reports) == 1


async def test_drain_leaves_when_live_and_bulk_are_empty() -> None:
    """The `drain` verb ends by itself."""
    stage = Stage()
    for number in range(25):
        stage.live.put(Change(ObjectRef("media", f"k{number}"), "put"))
        stage.bulk.put(Change(ObjectRef("media", f"b{number}"), "put"))
    await asyncio.wait_for(stage.worker.drain(), 60)
    assert stage.live.empty
    assert stage.bulk.empty
    assert stage.worker.settled["copied"] == 50


async def test_a_missing_queue_stops_the_worker() -> None:
    """Running on without a queue would look alive and replicate nothing."""
    stage = Stage()
    stage.bulk.fail_next = [errors.QueueMissing("no such queue")]
    with pytest.raises(errors.QueueMissing):
        await asyncio.wait_for(stage.worker.run(), 60)


async def test_a_dead_extender_stops_the_worker() -> None:
    """Replicating without extending leases would be worse than stopping."""
    stage = Stage()

    async def refuse(_deliveries: object, _for_s: float) -> list[object]:
        msg = "the extender died"
        raise RuntimeError(msg)

    stage.live.extend = refuse  # type: ignore[method-assign,assignment]
    gate = asyncio.Event()

    async def slow(_change: Change, _hand: Hand) -> Outcome:
        await gate.wait()
        return DONE

    stage.engine.script = slow
    stage.live.put(PUT)
    task = asyncio.create_task(stage.worker.run())
    await stage.until(lambda: stage.worker.in_flight == 1)
    stage.clock += 30.0
    with pytest.raises(RuntimeError, match="extender"):
        await asyncio.wait_for(task, 60)


async def test_a_passing_queue_error_is_waited_out() -> None:
    """SQS may stumble; the feeder goes on."""
    stage = Stage()
    stage.live.fail_next = [errors.QueueError("throttled")]
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: stage.live.empty)


async def test_nothing_is_taken_while_every_route_rests() -> None:
    """The backlog stays where it is; the worker says that it is paused."""
    stage = Stage()
    stage.gate.wants = 0
    async with stage.running():
        stage.live.put(PUT)
        await asyncio.sleep(0.05)
        assert stage.worker.paused
        assert stage.engine.seen == []
        assert stage.worker.silence_s == 0.0
        stage.gate.wants = 10
        await stage.until(lambda: stage.live.empty)


async def test_a_route_that_has_rested_is_tried_with_one_message_at_a_time() -> None:
    """An outage is not probed with the whole backlog."""
    stage = Stage(max_in_flight=40)
    gate = asyncio.Event()

    async def wait(_change: Change, _hand: Hand) -> Outcome:
        stage.gate.wants = 0
        await gate.wait()
        stage.gate.wants = 10
        return DONE

    stage.engine.script = wait
    stage.gate.wants = 1
    for number in range(30):
        stage.live.put(Change(ObjectRef("media", f"k{number}"), "put"))
    async with stage.running():
        await asyncio.sleep(0.1)
        assert len(stage.engine.seen) <= 3
        gate.set()
        await stage.until(lambda: stage.live.empty)


async def test_idle_polls_leave_the_slots_to_those_with_work() -> None:
    """A backfill beside an idle live queue gets all slots but the kept ones."""
    stage = Stage(max_in_flight=16)
    ten = asyncio.Event()

    async def busy(_change: Change, _hand: Hand) -> Outcome:
        if stage.worker.in_flight >= 10:
            ten.set()
        await ten.wait()
        return DONE

    stage.engine.script = busy
    for number in range(200):
        stage.bulk.put(Change(ObjectRef("media", f"b{number}"), "put"))
    async with stage.running():
        await stage.until(lambda: stage.bulk.empty)
    assert ten.is_set()


async def test_waiting_for_our_own_memory_is_no_stall() -> None:
    """A key that waits its turn for the byte budget is not cut, however long it takes."""
    stage = Stage(stall_s=40.0)
    gate = asyncio.Event()

    async def wait(change: Change, hand: Hand) -> Outcome:
        with hand.patience():
            await gate.wait()
        return await _done(change, hand)

    stage.engine.script = wait
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: stage.worker.in_flight == 1)
        for _ in range(4):
            before = stage.live.history.count("extend 1")
            stage.clock += 30.0
            await stage.until(lambda before=before: stage.live.history.count("extend 1") > before)  # type: ignore[misc]
        gate.set()
        await stage.until(lambda: stage.live.empty)
    assert stage.live.history[-1] == "ack"


async def test_a_missing_check_queue_stops_the_worker_without_an_ack() -> None:
    """A debt that cannot be put on its queue stays with the message, and the worker does not go on."""
    stage = Stage()
    stage.live.put(PUT, attempt=1)

    async def spoil(change: Change, hand: Hand) -> Outcome:
        stage.checks.fail_next = [errors.QueueMissing("gone")] * 9
        return await _done(change, hand)

    stage.engine.script = spoil
    with pytest.raises(errors.QueueMissing):
        await asyncio.wait_for(stage.worker.run(), 60)
    assert "ack" not in stage.live.history
    assert "retry 30" in stage.live.history


async def test_a_check_queue_that_is_down_cannot_hold_a_drain_for_ever() -> None:
    """Past the drain deadline the message goes back with its debt."""
    stage = Stage(drain_s=0.05)
    stage.live.put(PUT, attempt=1)

    async def spoil(change: Change, hand: Hand) -> Outcome:
        stage.checks.fail_next = [errors.QueueError("down")] * 999
        stage.worker.stop()
        stage.clock += 1.0
        return await _done(change, hand)

    stage.engine.script = spoil
    await asyncio.wait_for(stage.worker.run(), 60)
    assert stage.live.history == ["retry 30"]
    assert not stage.reports[0].checked


async def test_a_missing_dead_queue_stops_the_worker() -> None:
    """What cannot be buried must not go round for ever."""
    stage = Stage()

    async def reject(_change: Change, _hand: Hand) -> Outcome:
        stage.live.fail_next = [errors.QueueMissing("no dead-letter queue")] * 9
        return Rejected("no", "hint")

    stage.engine.script = reject
    stage.live.put(PUT)
    with pytest.raises(errors.QueueMissing):
        await asyncio.wait_for(stage.worker.run(), 60)
    assert stage.reports[0].verb == "unsettled"


async def test_a_missing_queue_found_while_extending_stops_the_worker() -> None:
    """Leases that cannot be renewed are no leases."""
    stage = Stage()

    async def gone(_deliveries: object, _for_s: float) -> list[Delivery]:
        raise errors.QueueMissing("gone")

    stage.live.extend = gone  # type: ignore[method-assign,assignment]
    gate = asyncio.Event()

    async def slow(_change: Change, _hand: Hand) -> Outcome:
        await gate.wait()
        return DONE

    stage.engine.script = slow
    stage.live.put(PUT)
    task = asyncio.create_task(stage.worker.run())
    await stage.until(lambda: stage.worker.in_flight == 1)
    stage.clock += 30.0
    with pytest.raises(errors.QueueMissing):
        await asyncio.wait_for(task, 60)


async def test_a_bug_in_settling_is_told_and_the_worker_goes_on() -> None:
    """Nobody waits for a hand's task, so it must speak for itself."""
    stage = Stage()
    send = stage.checks.send
    broken = [True]

    async def fail_once(changes: Sequence[Change], *, fresh: bool = False) -> None:
        if broken.pop() if broken else False:
            raise RuntimeError("a bug")
        await send(changes, fresh=fresh)

    stage.checks.send = fail_once  # type: ignore[method-assign]
    stage.live.put(PUT, attempt=1)
    stage.live.put(Change(ObjectRef("media", "b"), "put"))
    async with stage.running():
        await stage.until(lambda: len(stage.reports) == 1)
        await stage.until(lambda: stage.worker.in_flight == 0)


async def test_all_that_is_given_back_is_given_back() -> None:
    """One message that the queue refuses to take does not keep the others hidden."""
    stage = Stage(max_in_flight=40)
    receiving, gate = asyncio.Event(), asyncio.Event()
    receive = stage.live.receive

    async def slow_receive(max_n: int, wait_s: float) -> list[Delivery]:
        receiving.set()
        await gate.wait()
        found = await receive(10, wait_s)
        stage.live.fail_next = [errors.QueueError("throttled")]
        return found[: max(max_n, 5)]

    stage.live.receive = slow_receive  # type: ignore[method-assign]
    for number in range(5):
        stage.live.put(Change(ObjectRef("media", f"k{number}"), "put"))
    task = asyncio.create_task(stage.worker.run())
    await receiving.wait()
    stage.worker.stop()
    gate.set()
    await asyncio.wait_for(task, 60)
    assert stage.live.history == ["retry 0"] * 4


async def test_a_mixed_hand_is_as_old_as_its_oldest_message() -> None:
    """One message on its second attempt is reason enough for a Check (rule 4)."""
    stage = Stage()
    stage.live.put(PUT)
    stage.live.put(Change(REF, "put", sequencer="02"), attempt=1)
    stage.worker._is_full["live"] = True
    async with stage.running():
        await stage.until(lambda: stage.live.empty)
    assert len(stage.engine.seen) == 1
    assert len(stage.checks.sent) == 1


async def test_a_change_in_a_foreign_group_is_sent_home_first() -> None:
    """Outside its key's own group nobody is kept away from the key, so it is not worked on there."""
    stage = Stage()
    stage.live.put_body(encode(PUT), "somebody-elses-group")
    async with stage.running():
        await stage.until(lambda: stage.live.empty and len(stage.reports) == 1)
    assert stage.live.history == ["send put", "ack", "ack"]


async def test_an_undecodable_message_is_reported_with_its_reason() -> None:
    """It has no key, but it counts as buried and has its line."""
    stage = Stage()
    stage.live.put_body("not json {", "g1")
    async with stage.running():
        await stage.until(lambda: bool(stage.reports))
    (report,) = stage.reports
    assert (report.change, report.verb) == (None, "bury")
    assert isinstance(report.outcome, Rejected)
    assert stage.worker.settled["buried"] == 1


async def test_a_hopeless_burial_is_counted_as_buried() -> None:
    """What is counted is what happened."""
    stage = Stage()

    async def fail(_change: Change, hand: Hand) -> Outcome:
        hand.debt.placed = True
        return Retry("TargetPrecondition: 412")

    stage.engine.script = fail
    stage.live.put(PUT, attempt=8, first_received_at_s=NOW_S - 4000)
    async with stage.running():
        await stage.until(lambda: bool(stage.live.buried))
    assert stage.worker.settled["buried"] == 1
    assert stage.worker.settled["retry"] == 0


async def test_a_burial_never_ends_before_it_began() -> None:
    """The first attempt is told by SQS's clock; a worker whose own clock is behind it says no earlier time."""

    async def refuse(_change: Change, _hand: Hand) -> Outcome:
        return Rejected("no way", "rename it")

    stage = Stage(refuse)
    stage.live.put(PUT, attempt=2, first_received_at_s=NOW_S + 50)
    async with stage.running():
        await stage.until(lambda: bool(stage.live.buried))
    (burial,) = stage.live.buried
    assert (burial.first_attempt_s, burial.last_attempt_s) == (NOW_S + 50, NOW_S + 50)


async def test_a_lease_is_not_renewed_past_twelve_hours() -> None:
    """SQS ends it then whatever is asked."""
    stage = Stage()
    gate = asyncio.Event()

    async def slow(_change: Change, hand: Hand) -> Outcome:
        await gate.wait()
        hand.check()
        return DONE

    stage.engine.script = slow
    stage.live.put(PUT)
    async with stage.running():
        await stage.until(lambda: stage.worker.in_flight == 1)
        (hand,) = stage.worker._hands
        hand.leases[0].taken_s -= 12 * 3600
        stage.clock += 30.0
        await asyncio.sleep(0.05)
        assert "extend 1" not in stage.live.history
        gate.set()


async def test_the_real_engine_under_the_worker_replicates_and_deletes() -> None:
    """Worker and engine fit together: put, overwrite, delete of one key."""
    stage = Stage()
    source, target = FakeSource(), FakeTarget()

    async def inline(update: Callable[[bytes], None], data: bytes) -> None:
        update(data)

    stage.worker._engine = Replicator(
        routes=(Route("media", "123456"),),
        source=source,
        targets={"default": target},
        lanes={"default": FakeLane()},
        budget=FakeBudget(),
        gate=stage.gate,
        backoff_s=lambda _attempt: 1.0,
        now_s=lambda: NOW_S,
        sleep=_quick,
        offload=inline,
        brake_s=lambda _route: 0.0,
        buffer_bytes=1024,
    )
    async with stage.running():
        source.put(REF, b"one")
        stage.live.put(PUT)
        await stage.until(lambda: target.files.get("/123456/a.txt", (b"",))[0] == b"one")
        del source.objects[REF]
        stage.live.put(Change(REF, "delete", sequencer="02"))
        await stage.until(lambda: not target.files and stage.live.empty)
    assert [type(report.outcome) for report in stage.reports] == [Copied, Deleted]
    assert group_id(REF) == group_id(PUT.ref)


def test_the_worker_shows_its_state() -> None:
    """A repr that tells what is going on."""
    assert repr(Stage().worker) == "<Worker running: 0 in flight, 8/8 slots free>"
