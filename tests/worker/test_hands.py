"""What a hand is and how slots are given out, apart from the worker that holds them."""

from __future__ import annotations

import asyncio
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3nsync.model import Change, ObjectRef, QueueName
from s3nsync.worker.hands import Hand, Slots


def a_hand(queue: QueueName = "live") -> Hand:
    """Give a hand without messages, at time 0."""
    return Hand(Change(ObjectRef("media", "a"), "put"), queue, [], clock_s=lambda: 0.0, moved_s=0.0)


@pytest.mark.parametrize(("queue", "exclusive"), [("live", True), ("bulk", False), ("check", False)])
def test_rule_2_only_the_live_queue_is_exclusive(queue: QueueName, exclusive: bool) -> None:
    """Bulk and check run beside live messages of the same key: their hands owe S3 a second look."""
    assert a_hand(queue).exclusive is exclusive


async def test_work_is_cut_and_settling_is_not() -> None:
    """Cutting reaches a hand that is at work; one that is being settled finishes, and is no stall either."""
    hand = a_hand()
    hand.task = asyncio.create_task(asyncio.sleep(60))
    hand.settling, hand.moved_s = True, -1000.0
    hand.cut()
    await asyncio.sleep(0)
    assert not hand.task.cancelling()
    assert not hand.is_stalled(300.0)
    hand.settling = False
    assert hand.is_stalled(300.0)
    hand.cut()
    with pytest.raises(asyncio.CancelledError):
        await hand.task


async def test_a_newcomer_does_not_take_the_slot_of_one_who_waits() -> None:
    """Else a queue that is looked at again and again would keep the others out."""
    slots = Slots(2, kept_for_live=1)
    assert await slots.take("check", 1) == 1
    bulk = asyncio.create_task(slots.take("bulk", 1))
    await asyncio.sleep(0)
    slots.give(1)
    check = asyncio.create_task(slots.take("check", 1))
    assert await asyncio.wait_for(bulk, 30) == 1
    assert not check.done()
    slots.give(1)
    assert await asyncio.wait_for(check, 30) == 1


async def test_a_turn_that_is_cancelled_goes_to_the_next() -> None:
    """The call and the cancellation may come in the same moment."""
    slots = Slots(1, kept_for_live=0)
    assert await slots.take("live", 1) == 1
    first, second = (asyncio.create_task(slots.take("live", 1)) for _ in range(2))
    await asyncio.sleep(0)
    slots.give(1)
    first.cancel()
    assert await asyncio.wait_for(second, 30) == 1


async def test_a_turn_that_comes_in_vain_leaves_its_slot_to_the_next() -> None:
    """What a live newcomer leaves may be a kept slot: no good to the bulk feeder called, but to a live one behind."""
    slots = Slots(2, kept_for_live=1)
    assert await slots.take("live", 2) == 2
    bulk = asyncio.create_task(slots.take("bulk", 1))
    await asyncio.sleep(0)
    live = asyncio.create_task(slots.take("live", 1))  # begins before the bulk feeder hears that it was called
    slots.give(2)
    assert await slots.take("live", 1) == 1
    assert await asyncio.wait_for(live, 30) == 1
    assert not bulk.done()
    bulk.cancel()


async def test_what_comes_free_before_one_gets_to_run_is_taken_together() -> None:
    """One receive serves several slots: they are not handed out one by one."""
    slots = Slots(8, kept_for_live=2)
    assert await slots.take("live", 8) == 8
    waiting = asyncio.create_task(slots.take("live", 10))
    await asyncio.sleep(0)
    for _ in range(5):
        slots.give(1)
    assert await asyncio.wait_for(waiting, 30) == 5


async def test_closed_slots_keep_nobody_waiting() -> None:
    """A worker that stops wakes its feeders, and gives out nothing more."""
    slots = Slots(1, kept_for_live=0)
    assert await slots.take("live", 1) == 1
    waiting = asyncio.create_task(slots.take("live", 1))
    await asyncio.sleep(0)
    slots.close()
    assert await asyncio.wait_for(waiting, 30) == 0
    slots.give(1)
    assert (await slots.take("live", 1), slots.free) == (0, 1)


Step = tuple[Literal["live", "bulk", "check", "give", "cancel", "turn"], int]
STEPS = st.tuples(st.sampled_from(["live", "bulk", "check", "give", "cancel", "turn"]), st.integers(0, 5))


@given(st.integers(2, 12), st.lists(STEPS, max_size=60))
def test_every_slot_comes_back_and_everybody_in_line_gets_one(total: int, steps: list[Step]) -> None:
    """Whatever is taken, given and cancelled in whatever order: none is lost, none made, none of the kept ones lent.

    But for one: the only check at work may have it, unless it is the last one kept.
    """
    asyncio.run(_play(total, steps))


async def _play(total: int, steps: list[Step]) -> None:
    kept = max(1, total // 4)
    slots = Slots(total, kept)
    line: list[tuple[QueueName, asyncio.Task[int]]] = []
    held: list[tuple[QueueName, int]] = []

    async def take(queue: QueueName, want: int) -> int:
        checks = slots.checks
        taken = await slots.take(queue, want)
        assert 1 <= taken <= want
        is_only_check = queue == "check" and slots.checks == taken == 1 and kept > 1
        assert slots.free >= (0 if queue == "live" or is_only_check else kept), checks
        held.append((queue, taken))
        return taken

    def give(number: int) -> None:
        if held:
            queue, taken = held.pop(number % len(held))
            slots.give(taken, queue)

    for what, number in steps:
        match what:
            case "give":
                give(number)
            case "cancel" if line:
                line[number % len(line)][1].cancel()
            case "live" | "bulk" | "check":
                line.append((what, asyncio.create_task(take(what, number + 1))))
            case _:
                await asyncio.sleep(0)
        assert slots.free + sum(taken for _, taken in held) == total
    for _ in range(len(steps) + 2):
        for _ in range(4):
            await asyncio.sleep(0)
        privileged = slots.checks == 0 and kept > 1
        usable = {"live": slots.free > 0, "bulk": slots.free > kept, "check": slots.free > (0 if privileged else kept)}
        assert not [queue for queue, each in line if not each.done() and usable[queue]], "waits beside free slots"
        give(-1)
    assert all(each.cancelled() or each.exception() is None for _, each in line)
    assert (slots.free, slots.checks) == (total, 0)


async def test_one_check_at_a_time_does_not_wait_for_slots_that_are_kept() -> None:
    """Live events may keep every slot at work for hours: a check has its turn among them, the next one after it."""
    slots = Slots(8, kept_for_live=2)
    assert await slots.take("live", 8) == 8
    check, live = (asyncio.create_task(slots.take(queue, 10)) for queue in ("check", "live"))
    await asyncio.sleep(0)
    slots.give(1)
    assert await asyncio.wait_for(check, 30) == 1
    slots.give(1)
    assert await asyncio.wait_for(live, 30) == 1
    second = asyncio.create_task(slots.take("check", 1))
    await asyncio.sleep(0)
    slots.give(2)
    await asyncio.sleep(0)
    assert not second.done()
    slots.give(1, "check")
    assert await asyncio.wait_for(second, 30) == 1


async def test_the_last_slot_kept_is_for_live_events_alone() -> None:
    """With few slots a check waits until there is one to spare."""
    slots = Slots(4, kept_for_live=1)
    assert await slots.take("bulk", 4) == 3
    check = asyncio.create_task(slots.take("check", 1))
    await asyncio.sleep(0)
    assert not check.done()
    assert await slots.take("live", 1) == 1
    slots.give(2)
    assert await asyncio.wait_for(check, 30) == 1
