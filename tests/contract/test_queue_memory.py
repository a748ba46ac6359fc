"""The queue in memory is held to the contract of all queues, where it makes the same promise."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.test_queue_contract import BEHAVIOURS
from queue_stand_ins import StandIn
from s3nsync.errors import QueueError, QueueMissing
from s3nsync.events import Burial, encode, group_id
from s3nsync.model import Change, Delivery, ObjectRef
from s3nsync.queues import Depth
from s3nsync.queues.memory import MemoryQueue
from sim.sqs import FifoQueue, Message

PROMISED = (
    "a change makes the round",
    "a group is blocked while one of it is out",
    "a group stays blocked until all of it are settled",
    "one receive gives several of a group in order",
    "an expired group comes again in order",
    "a receipt is refused once another has the message",
    "a receipt is refused once its lease is over",
    "an expired message comes again while a later one is held",
    "a message given back comes again while a later one is held",
    "extending keeps the lease",
    "a retry hides the message and its group",
    "receives are counted",
    "the queues delay holds messages back",
    "a long poll ends when a message is sent",
    "a long poll ends when a lease runs out",
)
"""The others are about SQS's own limits and ids, its dead-letter queue, and duplicates: here there are none."""


@dataclass
class Clock:
    """Seconds that a test moves; `pass_` wakes who waits."""

    at_s: float = 1000.0

    def __call__(self) -> float:
        return self.at_s


@dataclass
class InMemory:
    """Plays the stand-in of the contract: a queue is named by its delay."""

    clock: Clock = field(default_factory=Clock)
    queues: dict[str, MemoryQueue] = field(default_factory=dict)
    stub: object = None

    async def make(self, DelaySeconds: str = "0") -> str:  # noqa: N803 - SQS's own name
        return f"{len(self.queues)}:{DelaySeconds}"

    def queue(self, url: str, *, lease_s: float = 60) -> MemoryQueue:
        if url not in self.queues:
            self.queues[url] = MemoryQueue(
                "live", lease_s=lease_s, clock_s=self.clock, now_s=self.clock, delay_s=float(url.partition(":")[2])
            )
        return self.queues[url]

    async def call(self, _url: str, _action: str, _payload: object) -> None:
        """Refuse what is not the adapter's."""
        raise QueueError("there is no such call")

    async def pass_s(self, seconds: float) -> None:
        self.clock.at_s += seconds
        await asyncio.sleep(0)


def test_every_promise_is_one_of_the_contract() -> None:
    """No behaviour is named here that is told nowhere."""
    assert set(PROMISED) <= set(BEHAVIOURS)


@pytest.mark.parametrize("title", PROMISED)
async def test_it_keeps_the_contract(title: str) -> None:
    """What is told of every queue holds for this one."""
    await asyncio.wait_for(BEHAVIOURS[title](cast("StandIn", InMemory())), 60)


def change(key: str) -> Change:
    """Make a change."""
    return Change(ObjectRef("bucket", key), "put")


def new(clock: Clock, capacity: int | None = None, buried: list[Burial] | None = None) -> MemoryQueue:
    """Make a queue with leases of 10 s."""
    told = [] if buried is None else buried
    return MemoryQueue("bulk", lease_s=10, clock_s=clock, now_s=clock, capacity=capacity, on_burial=told.append)


async def test_a_full_queue_lets_its_sender_wait() -> None:
    """No more than its capacity is ever held; an ack makes room, one message's worth."""
    queue = new(Clock(), capacity=2)
    sending = asyncio.ensure_future(queue.send([change(key) for key in "abcd"]))
    await asyncio.sleep(0)
    assert queue.count == 2
    for left in (True, False):
        assert await queue.ack((await queue.receive(1, 0))[0])
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert (queue.count, sending.done()) == (2, not left)
    await sending


async def test_room_is_told_of_once_for_many() -> None:
    """Those who wait for room in a large queue wake when an eighth of it is free, and not at each ack."""
    queue = new(Clock(), capacity=80)
    sending = asyncio.ensure_future(queue.send([change(f"{number}") for number in range(90)]))
    await asyncio.sleep(0)
    counts = []
    for held in await queue.receive(10, 0):
        assert await queue.ack(held)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        counts.append(queue.count)
    assert counts == [79, 78, 77, 76, 75, 74, 73, 72, 71, 80]
    await sending


async def test_what_is_buried_is_told_once_and_gone() -> None:
    """A burial under a lost lease is not told: another hand will come to its own end."""
    clock, buried = Clock(), list[Burial]()
    queue = new(clock, buried=buried)
    await queue.send([change("a")])
    (lost,) = await queue.receive(1, 0)
    burial = Burial(ObjectRef("bucket", "a"), "no", "do this", 1.0, 2.0, 1, "bulk", lost.body)
    clock.at_s += 11
    assert not await queue.bury(lost, burial)
    (held,) = await queue.receive(1, 0)
    assert await queue.bury(held, burial)
    assert not await queue.bury(held, burial)
    assert (buried, await queue.depth()) == ([burial], Depth(0, 0, 0))


async def test_nobody_waits_at_a_closed_queue() -> None:
    """A long poll ends when it is closed, and so does the wait for room; where there is room, sending goes on."""
    full = new(Clock(), capacity=1)
    sending = asyncio.ensure_future(full.send([change("a"), change("b")]))
    await asyncio.sleep(0)
    await full.aclose()
    with pytest.raises(QueueMissing, match="has stopped"):
        await asyncio.wait_for(sending, 15)
    queue = new(Clock())
    waiting = asyncio.ensure_future(queue.receive(1, 20))
    await asyncio.sleep(0)
    await queue.aclose()
    assert await asyncio.wait_for(waiting, 15) == []
    assert await queue.receive(1, 20) == []
    await queue.send([change("a")])
    assert queue.count == 1


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from("abc")),
        st.tuples(st.just("receive"), st.just(0)),
        st.tuples(st.sampled_from(["ack", "extend", "retry"]), st.integers(0, 30)),
        st.tuples(st.just("pass"), st.integers(1, 12)),
    ),
    max_size=40,
)


@given(STEPS)
async def test_it_gives_what_the_model_of_sqs_gives(steps: list[tuple[str, str | int]]) -> None:
    """Whatever is sent, received, settled and waited for: the same messages, and the same settlements refused."""
    clock = Clock(0.0)
    queue, model = new(clock), FifoQueue("model")
    out: list[tuple[Delivery, Message]] = []
    for number, (verb, what) in enumerate(steps):
        clock.at_s += 0.01
        if verb == "send":
            one = Change(ObjectRef("bucket", str(what)), "put", sequencer=f"{number}")
            await queue.send([one])
            model.send(encode(one), group_id(one.ref), f"d{number}", clock.at_s)
        elif verb == "receive":
            ours = sorted(await queue.receive(1000, 0), key=lambda each: each.body)
            theirs = sorted(model.receive(1000, 10.0, clock.at_s), key=lambda each: each.body)
            assert [(each.body, each.attempt) for each in ours] == [(each.body, each.receives) for each in theirs]
            out += zip(ours, theirs, strict=True)
        elif verb == "pass":
            clock.at_s += int(what)
        elif out:
            await _settle_both(queue, model, verb, out.pop(int(what) % len(out)), clock.at_s)


async def _settle_both(
    queue: MemoryQueue, model: FifoQueue, verb: str, pair: tuple[Delivery, Message], now_s: float
) -> None:
    delivery, message = pair
    receipt = message.receipt if message.receives == delivery.attempt else "an older one"
    if verb == "ack":
        assert await queue.ack(delivery) == (model.delete(receipt, now_s) is not None)
    elif verb == "retry":
        assert await queue.retry(delivery, 3.0) == model.change_visibility(receipt, 3.0, now_s)
    else:
        assert (await queue.extend([delivery], 20.0) == []) == model.change_visibility(receipt, 20.0, now_s)
