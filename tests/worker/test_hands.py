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


@given(st.integers(2, 9), st.lists(STEPS, max_size=60))
def test_every_slot_comes_back_and_everybody_in_line_gets_one(total: int, steps: list[Step]) -> None:
    """Whatever is taken, given and cancelled in whatever order: none is lost, none made, none of the kept ones lent."""
    asyncio.run(_play(total, steps))


async def _play(total: int, steps: list[Step]) -> None:
    kept = max(1, total // 4)
    slots = Slots(total, kept)
    line: list[tuple[QueueName, asyncio.Task[int]]] = []
    held: list[int] = []

    async def take(queue: QueueName, want: int) -> int:
        taken = await slots.take(queue, want)
        assert 1 <= taken <= want
        assert slots.free >= (0 if queue == "live" else kept)
        held.append(taken)
        return taken

    for what, number in steps:
        match what:
            case "give":
                slots.give(held.pop(number % len(held)) if held else 0)
            case "cancel" if line:
                line[number % len(line)][1].cancel()
            case "live" | "bulk" | "check":
                line.append((what, asyncio.create_task(take(what, number + 1))))
            case _:
                await asyncio.sleep(0)
        assert slots.free + sum(held) == total
    for _ in range(len(steps) + 2):
        for _ in range(4):
            await asyncio.sleep(0)
        usable = {"live": slots.free > 0, "bulk": slots.free > kept, "check": slots.free > kept}
        assert not [queue for queue, each in line if not each.done() and usable[queue]], "waits beside free slots"
        if held:
            slots.give(held.pop())
    assert all(each.cancelled() or each.exception() is None for _, each in line)
    assert slots.free == total
