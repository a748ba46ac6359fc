"""Who has slots where there are too few: several upload accounts, and the three queues; real worker, engine, lanes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from fakes import FakeBudget, FakeGate, FakeSource, FakeTarget
from s3nsync.engine import Replicator
from s3nsync.lanes import Lane, Shares
from s3nsync.model import Change, Copied, ObjectRef, QueueName, Report, Route
from s3nsync.netstorage.wire import Uploaded
from s3nsync.pacing import Backoff
from s3nsync.queues.memory import MemoryQueue
from s3nsync.worker import Limits, Worker
from sim.loop import SimLoop

LIMITS = Limits(max_in_flight=16, drain_s=2.0, stall_s=10_000.0)
QUEUES: tuple[QueueName, ...] = ("live", "bulk", "check")


@dataclass
class SlowTarget(FakeTarget):
    """An account that takes its time for each upload."""

    takes_s: float = 0.0
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    async def upload(self, path: str, body: bytes | AsyncIterable[bytes], **options: Any) -> Uploaded:
        await asyncio.sleep(self.takes_s * self.rng.uniform(0.5, 1.5))
        return await super().upload(path, body, **options)


@dataclass
class Site:
    """A worker for accounts that take so long for an upload, each with a bucket of its own; and queues in memory."""

    takes_s: dict[str, float]
    loop: SimLoop = field(default_factory=lambda: SimLoop(random.Random(1)))
    source: FakeSource = field(default_factory=FakeSource)
    reports: list[tuple[float, Report]] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Wire it as `app` does."""
        clock_s, delays_s = self.loop.time, {"check": LIMITS.grace_s}
        self.queues = {
            name: MemoryQueue(
                name, lease_s=LIMITS.lease_s, clock_s=clock_s, now_s=clock_s, delay_s=delays_s.get(name, 0.0)
            )
            for name in QUEUES
        }
        accounts = len(self.takes_s)
        shares = Shares(accounts, LIMITS.max_in_flight, LIMITS.kept_for_live) if accounts > 1 else None
        self.lanes = {name: Lane(LIMITS.max_in_flight, clock_s, shares=shares) for name in self.takes_s}
        gate = FakeGate()
        engine = Replicator(
            routes=[Route(name, "123456", name, account=name) for name in self.takes_s],
            source=self.source,
            targets={name: SlowTarget(takes_s=takes_s) for name, takes_s in self.takes_s.items()},
            lanes=self.lanes,
            budget=FakeBudget(),
            gate=gate,
            backoff_s=Backoff(base_s=2.0, cap_s=900.0).delay_s,
            now_s=clock_s,
            sleep=asyncio.sleep,
            offload=_inline,
            brake_s=lambda _route: 0.0,
            buffer_bytes=1024,
        )
        self.worker = Worker(
            live=self.queues["live"],
            bulk=self.queues["bulk"],
            check=self.queues["check"],
            engine=engine,
            gate=gate,
            limits=LIMITS,
            report=lambda report: self.reports.append((clock_s(), report)),
            clock_s=clock_s,
            now_s=clock_s,
        )

    async def put(self, queue: QueueName, account: str, number: int) -> None:
        """Put an object, and its event on a queue."""
        ref = ObjectRef(account, f"{number}.txt")
        self.source.put(ref, b"data")
        await self.queues[queue].send([Change(ref, "put", sequencer=f"{number:04}")])

    def done(self, account: str) -> list[float]:
        """Give when keys of an account were copied."""
        return [
            at_s
            for at_s, report in self.reports
            if report.change is not None
            and report.change.ref.bucket == account
            and isinstance(report.outcome, Copied)
            and report.verb == "ack"
        ]

    def run(self, play: Callable[[], Any]) -> None:
        """Let the worker work while the play goes on, and see it leave with nothing in its hands."""

        async def main() -> None:
            working = asyncio.create_task(self.worker.run())
            await play()
            self.worker.stop()
            await working

        self.loop.run(main())
        assert not self.loop.faults
        self.loop.close()
        assert self.worker._slots.free == self.worker._slots.total
        assert not any(lane.in_use or lane.held or lane.waits for lane in self.lanes.values())


async def _inline(update: Callable[[bytes], None], data: bytes) -> None:
    update(data)


@pytest.mark.parametrize("queue", ["live", "bulk"])
def test_two_accounts_that_hang_leave_a_third_its_slots(queue: Literal["live", "bulk"]) -> None:
    """Their backlog is long, and what they have in hand takes for ever: the third's keys go on, on either queue."""
    site = Site({"a": 5000.0, "b": 5000.0, "c": 0.1})

    async def play() -> None:
        for number in range(200):
            await site.put(queue, "a", number)
            await site.put(queue, "b", number)
        await asyncio.sleep(30.0)
        began_s = site.loop.time()
        for number in range(50):
            await site.put(queue, "c", number)
        await asyncio.sleep(60.0)
        assert len(site.done("c")) == 50
        assert site.done("c")[0] - began_s < 2.0

    site.run(play)


def test_one_account_of_two_that_is_busy_and_quick_has_no_key_sent_back() -> None:
    """Slots that the other does not need now pass its keys on as they come: a return would cost a stat and a Check."""
    site = Site({"a": 0.1, "b": 0.1})

    async def play() -> None:
        for number in range(1000):
            await site.put("live", "a", number)
        await asyncio.sleep(20.0)

    site.run(play)
    assert len(site.done("a")) == 1000
    assert {report.verb for _, report in site.reports} == {"ack"}


def test_a_check_has_its_turn_while_live_events_keep_every_slot_at_work() -> None:
    """What may be stale is looked at some minutes after the trouble, and not when the backlog of an hour is done."""
    site = Site({"a": 0.1})

    async def play() -> None:
        for number in range(100):
            await site.put("check", "a", 10_000 + number)
        await asyncio.sleep(LIMITS.grace_s - 10.0)
        for number in range(10_000):
            await site.put("live", "a", number)
        await asyncio.sleep(90.0)

    site.run(play)
    order = [report.queue for _, report in site.reports]
    assert len(order) == 10_100
    assert order.index("check") < 3000
    assert order.count("check") == order[:6000].count("check") == 100
