"""The express way of `--direct`: what goes well needs no queue, and everything else gets there with its debts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import cast

import pytest

from fakes import NOW_S, FakeBudget, FakeGate, FakeLane, FakeSource, FakeTarget
from s3nsync.engine import Replicator
from s3nsync.errors import QueueMissing, S3nsyncError, SourceUnavailable, TargetUnavailable
from s3nsync.model import Change, Copied, Deleted, ObjectRef, Report, Route
from s3nsync.reconcile.express import Express
from s3nsync.s3 import S3

ROUTE = Route("media", "123456")


@dataclass
class Bucket(FakeSource):
    """S3 in a dict that lists itself; `broken` refuses listings."""

    pages: int = 0
    broken: bool = False

    async def list_page(self, bucket: str, query: Sequence[tuple[str, str]]) -> bytes:
        self.pages += 1
        if self.broken:
            raise SourceUnavailable("no listing")
        after = dict(query)["start-after"]
        items = [
            f"<Contents><Key>{ref.key}</Key><LastModified>"
            f"{datetime.fromtimestamp(info.last_modified_s, UTC):%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
            f"<ETag>&quot;{info.etag}&quot;</ETag><Size>{info.size_bytes}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
            for ref, (info, _) in sorted(self.objects.items())
            if ref.bucket == bucket and ref.key > after
        ]
        text = "".join(items[: int(dict(query)["max-keys"])])
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{text}</ListBucketResult>".encode()


@dataclass
class World:
    """Both sides, the way between them, and what it left elsewhere: `notes` in their order."""

    bucket: Bucket = field(default_factory=Bucket)
    target: FakeTarget = field(default_factory=FakeTarget)
    reports: list[Report] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    left: list[Change] = field(default_factory=list)
    leave_raises: bool = False

    def express(
        self, at_once: int = 4, *, capacity: int = 1_000, most: int = 500, look_after_s: float = 0.1
    ) -> Express:
        engine = Replicator(
            routes=(ROUTE,),
            source=self.bucket,
            targets={"default": self.target},
            lanes={"default": FakeLane()},
            budget=FakeBudget(),
            gate=FakeGate(),
            backoff_s=lambda _attempt: 1.0,
            now_s=lambda: NOW_S,
            sleep=asyncio.sleep,
            offload=self._offload,
            brake_s=lambda _route: 0.0,
            buffer_bytes=64,
        )
        return Express(
            engine=engine,
            s3=cast("S3", self.bucket),
            at_once=at_once,
            leave=self._leave,
            owe=self._owe,
            report=self._report,
            clock_s=lambda: 0.0,
            capacity=capacity,
            most=most,
            look_after_s=look_after_s,
        )

    def put(self, *keys: str) -> list[Change]:
        changes = [Change(ObjectRef("media", key), "put") for key in keys]
        for change in changes:
            self.bucket.put(change.ref, f"bytes of {change.ref.key}".encode())
        return changes

    async def _offload(self, update: Callable[[bytes], None], data: bytes) -> None:
        update(data)

    async def _leave(self, changes: Sequence[Change]) -> None:
        if self.leave_raises:
            raise QueueMissing("gone")
        self.left += changes
        self.notes += [f"left {each.ref.key}" for each in changes]

    async def _owe(self, changes: Sequence[Change]) -> None:
        self.notes += [f"{each.kind} {each.ref.key}" for each in changes]

    def _report(self, report: Report) -> None:
        assert report.change is not None
        self.reports.append(report)
        self.notes.append(f"done {report.change.ref.key}")


@asynccontextmanager
async def running(express: Express) -> AsyncIterator[asyncio.Task[None]]:
    """Run it until the block has ended and everything is through."""
    task = asyncio.create_task(express.run())
    yield task
    async with asyncio.timeout(30):
        while express.count and not task.done():
            await asyncio.sleep(0.005)
        express.stop()
        await task
    assert (express.count, express.at_work) == (0, 0)


def _drop(bucket: Bucket, ref: ObjectRef) -> None:
    del bucket.objects[ref]


def _overwrite(bucket: Bucket, ref: ObjectRef) -> None:
    bucket.put(ref, b"other")


KEYS = [f"k/{number:02}" for number in range(20)]


async def test_what_goes_well_costs_a_get_a_put_and_its_share_of_a_page() -> None:
    """Every object is reported once, as copied from the bulk queue would be; there is no HEAD, and nothing is left."""
    world = World()
    express = world.express()
    async with running(express):
        await express.send(world.put(*KEYS))
    assert sorted(each.change.ref.key for each in world.reports if each.change) == KEYS
    assert {(each.verb, each.queue, type(each.outcome)) for each in world.reports} == {("ack", "bulk", Copied)}
    assert (world.bucket.calls.count("open"), world.bucket.calls.count("head"), world.bucket.pages) == (20, 0, 1)
    assert (len(world.target.files), world.left) == (20, [])


async def test_pages_are_filled_before_they_are_asked_for() -> None:
    """With as many looks as a page answers it is asked for at once."""
    world = World()
    express = world.express(most=5, look_after_s=3600.0)
    async with running(express):
        await express.send(world.put(*KEYS))
    assert world.bucket.pages == 4
    assert len(world.reports) == 20


async def test_what_s3_no_longer_holds_goes_to_the_queue() -> None:
    """An object that is overwritten or deleted after its GET is not reported, and is looked at again."""
    world = World()
    express = world.express(at_once=1)
    changes = world.put("a", "b", "c")
    world.target.script = [
        partial(_drop, world.bucket, changes[0].ref),
        partial(_overwrite, world.bucket, changes[1].ref),
    ]
    async with running(express):
        await express.send(changes)
    assert sorted(world.left) == changes[:2]
    assert [each.change for each in world.reports] == [changes[2]]


async def test_a_listing_that_fails_costs_heads_only() -> None:
    """A page can only confirm: without it each copy is asked about."""
    world = World()
    world.bucket.broken = True
    express = world.express()
    async with running(express):
        await express.send(world.put("a", "b"))
    assert (len(world.reports), world.bucket.calls.count("head"), world.left) == (2, 2, [])


async def test_what_fails_is_left_to_the_worker() -> None:
    """Nothing is reported, and a definite refusal owes nothing."""
    world = World()
    world.target.script = [TargetUnavailable("503", status=503)]
    express = world.express()
    async with running(express):
        await express.send(world.put("a"))
    assert world.notes == ["left a"]


async def test_an_unexpected_error_is_left_to_the_worker() -> None:
    """A bug in the work on one key loses neither that key nor the others."""
    world = World()

    def bug() -> None:
        raise RuntimeError("bug")

    world.target.script = [bug]
    express = world.express(at_once=1)
    async with running(express):
        await express.send(world.put("a", "b"))
    assert world.notes == ["check a", "left a", "done b"]


async def test_what_may_still_land_owes_a_check_first() -> None:
    """The Check is there before the key is given away, or told as done (rule 4)."""
    lost = TargetUnavailable("no answer")
    lost.ambiguous = True
    world = World()
    world.target.script = [lost]
    express = world.express(at_once=1)
    async with running(express):
        await express.send(world.put("a"))
        while not world.left:
            await asyncio.sleep(0)
        world.target.repeated = True
        await express.send(world.put("b"))
    assert world.notes == ["check a", "left a", "check b", "done b"]
    assert [(each.ambiguous, each.checked) for each in world.reports] == [(True, True)]


async def test_what_has_vanished_is_gone_on_netstorage_too() -> None:
    """An object that was deleted since it was listed is the engine's business, with its own second look."""
    world = World()
    world.target.files["/123456/a"] = (b"old", None)
    express = world.express()
    async with running(express):
        await express.send([Change(ObjectRef("media", "a"), "put")])
    assert (world.target.files, [type(each.outcome) for each in world.reports]) == ({}, [Deleted])
    assert world.bucket.calls == ["open", "head"]


async def test_deletes_go_to_the_queue() -> None:
    """Only copies take the express way."""
    world = World()
    express = world.express()
    async with running(express):
        await express.send([Change(ObjectRef("media", "a"), "delete")])
    assert world.notes == ["left a"]


async def test_who_sends_waits_for_room() -> None:
    """However many objects a bucket has, only so many wait here."""
    world = World()
    world.target.hang = asyncio.Event()
    express = world.express(at_once=2, capacity=6)
    async with running(express):
        sending = asyncio.create_task(express.send(world.put(*KEYS)))
        for _ in range(100):
            await asyncio.sleep(0)
            assert express.count <= 8
        assert (express.at_work, sending.done()) == (2, False)
        world.target.hang.set()
        await sending
    assert len(world.reports) == 20


async def test_a_stop_finishes_what_is_in_hand() -> None:
    """What is being copied is confirmed and told, what waits is dropped, and nothing more is taken."""
    world = World()
    world.target.hang = asyncio.Event()
    express = world.express(at_once=2)
    async with running(express) as task:
        await express.send(world.put(*KEYS))
        while express.at_work < 2:
            await asyncio.sleep(0)
        express.stop()
        world.target.hang.set()
        await task
    assert [each.change.ref.key for each in world.reports if each.change] == KEYS[:2]
    with pytest.raises(QueueMissing):
        await express.send(world.put("late"))


async def test_it_ends_with_the_worker() -> None:
    """Where nobody takes what goes wrong any more, nothing more is begun, and nobody waits for ever to send."""
    world = World(leave_raises=True)
    world.target.script = [TargetUnavailable("503", status=503)]
    express = world.express(at_once=1)
    async with running(express) as task:
        await express.send(world.put("a"))
        await asyncio.wait_for(task, 30)
        with pytest.raises(QueueMissing):
            await express.send(world.put("b"))


async def test_a_bug_ends_it_loudly() -> None:
    """An error in what is told of a copy is raised by `run`, and who sends is told."""
    world = World()
    express = world.express()

    def fail(_report: Report) -> None:
        raise S3nsyncError("told wrongly")

    express._report = fail
    task = asyncio.create_task(express.run())
    await express.send([Change(ObjectRef("media", "gone"), "put")])
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(task, 30)
    with pytest.raises(QueueMissing):
        await express.send(world.put("b"))
