"""Kill -9 at each named moment, start again, and both sides are equal (G1, G5).

The moments are on the wire, seen by the proxies before the worker's servers, so no test code is in the product. At each
one the proxy stops the world, the worker is killed, its leases end, and another worker starts. What had left the dead
worker meets one of three fates: it lands at once, it is lost, or it lands late, after the next worker's ack. The table
says what must hold: what the queues owe at the moment of death, what the next worker then does, and how many uploads
NetStorage sees in all.

`make test` takes one moment of each kind; with S3NSYNC_CRASH_POINTS=all every one is met, and once more with the object
overwritten in the meantime.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from aws_emulator import Aws
from fault_proxy import Injection, Place, Side
from wired_world import RECEIVE, World, wired
from worker_process import Process

pytestmark = pytest.mark.slow

Story = Literal["put", "stream", "trailers", "delete", "again", "forbidden", "bulk", "check", "extend", "drain"]
"""How the worker comes to the moment: see `_trigger`."""

Fate = Literal["lands", "lost", "late"]

SMALL = b"small" * 1000
LARGE = bytes(range(256)) * 1200
"""Above the worker's buffer of 64 KiB in these tests, so it is streamed."""

NEWER = b"newer" * 2000
ALL = os.environ.get("S3NSYNC_CRASH_POINTS") == "all"

GET = r"^GET /bucket-\d+/key "
HEAD = r"^HEAD /bucket-\d+/key "
UPLOAD = "^PUT .*action=upload"
DELETE = "^PUT .*action=delete"
STAT = r"^GET \S+/key .*action=stat"
ACK = r"AmazonSQS\.DeleteMessageBatch"
VISIBILITY = r"AmazonSQS\.ChangeMessageVisibilityBatch"
CHECK = r"AmazonSQS\.SendMessageBatch"
BURY = r"AmazonSQS\.SendMessage\r"


@dataclass(frozen=True)
class Moment:
    """A crash point: when the worker dies in its `story`, and what must hold from then on.

    `owes`: messages by queue at the moment of death. `then`: what becomes of the Changes in the next worker, in order.
    `uploads`: how many NetStorage has heard of in the end, broken ones too.
    """

    name: str
    story: Story
    request: str
    side: Side
    at: Place
    owes: Mapping[str, int]
    then: Sequence[str]
    uploads: int
    fate: Fate = "lands"


ONE = {"live": 1}
COPY = ("copied", "unchanged")
LOOK = ("unchanged", "unchanged")
TWICE = ("unchanged",) * 3
RESEND = ("copied", "copied")
"""S3 tells no digest of these, so no stat can prove them."""
DELETED = ("deleted", "deleted")

MOMENTS = (
    Moment("receive: in the middle of the answer", "put", RECEIVE, "answer", b'"Body"', ONE, COPY, 1),
    Moment("receive answered", "put", GET, "request", "start", ONE, COPY, 1),
    Moment("GET sent", "put", GET, "answer", "start", ONE, COPY, 1),
    Moment("GET: its head is back", "put", GET, "answer", 0, ONE, COPY, 1),
    Moment("GET: in the middle of the body", "put", GET, "answer", 2000, ONE, COPY, 1),
    Moment("PUT: on its way, lost", "put", UPLOAD, "request", "start", ONE, COPY, 1, "lost"),
    Moment("PUT: first byte passed, the rest lost", "put", UPLOAD, "request", 1, ONE, COPY, 2, "lost"),
    Moment("PUT: on its way, lands", "put", UPLOAD, "request", "start", ONE, LOOK, 1),
    Moment("PUT: last byte passed", "put", UPLOAD, "answer", "start", ONE, LOOK, 1),
    Moment("PUT answered", "put", ACK, "request", "start", ONE, LOOK, 1, "lost"),
    Moment("ack sent", "put", ACK, "answer", "start", {}, (), 1),
    Moment("ack answered", "put", ACK, "answer", "end", {}, (), 1),
    Moment("stream: GET and PUT in the middle", "stream", UPLOAD, "request", 100_000, ONE, COPY, 2, "lost"),
    Moment("stream: all but the last byte passed", "stream", UPLOAD, "request", len(LARGE) - 1, ONE, COPY, 2, "lost"),
    Moment("stream: last byte passed", "stream", UPLOAD, "answer", "start", ONE, LOOK, 1),
    Moment("trailers: last chunk passed", "trailers", UPLOAD, "request", b"\r\n0\r\n", ONE, RESEND, 3, "lost"),
    Moment("trailers passed", "trailers", UPLOAD, "answer", "start", ONE, RESEND, 3),
    Moment("delete: on its way, lost", "delete", DELETE, "request", "start", ONE, DELETED, 1, "lost"),
    Moment("delete sent", "delete", DELETE, "answer", "start", ONE, DELETED, 1),
    Moment("delete answered", "delete", ACK, "request", "start", ONE, DELETED, 1, "lost"),
    Moment("later attempt: check sent", "again", CHECK, "answer", "start", ONE | {"check": 1}, TWICE, 1),
    Moment("later attempt: check enqueued", "again", ACK, "request", "start", ONE | {"check": 1}, TWICE, 1, "lost"),
    Moment("later attempt: ack sent", "again", ACK, "answer", "start", {"check": 1}, ("unchanged",), 1),
    Moment("burial: entry on its way, lost", "forbidden", BURY, "request", "start", ONE, ("rejected",), 0, "lost"),
    Moment("burial: entry sent", "forbidden", BURY, "answer", "start", ONE, ("rejected",), 0),
    Moment("burial: entry there", "forbidden", ACK, "request", "start", ONE, ("rejected",), 0, "lost"),
    Moment("burial: ack sent", "forbidden", ACK, "answer", "start", {}, (), 0),
    Moment("bulk: second look sent", "bulk", HEAD, "answer", "start", {"bulk": 1}, LOOK, 1),
    Moment("bulk: looked again", "bulk", ACK, "request", "start", {"bulk": 1}, LOOK, 1, "lost"),
    Moment("check: stat sent", "check", STAT, "answer", "start", {"check": 1}, COPY, 1),
    Moment("check: second look sent", "check", HEAD, "answer", "start", {"check": 1}, LOOK, 1),
    Moment("check: looked again", "check", ACK, "request", "start", {"check": 1}, LOOK, 1, "lost"),
    Moment("lease extension under way", "extend", VISIBILITY, "answer", "start", ONE, LOOK, 1),
    Moment("drain: give-back on its way, lost", "drain", VISIBILITY, "request", "start", ONE, LOOK, 1, "lost"),
    Moment("drain: given back", "drain", VISIBILITY, "answer", "start", ONE, LOOK, 1),
)

LATE = (
    Moment("PUT: on its way, lands late", "put", UPLOAD, "request", "start", ONE, (), 3, "late"),
    Moment("delete: on its way, lands late", "delete", DELETE, "request", "start", ONE, (), 3, "late"),
)
"""What was under way lands after the next worker's ack: its Check must find and mend that (rule 4)."""

SHORT = {
    "receive answered",
    "GET: in the middle of the body",
    "PUT: first byte passed, the rest lost",
    "PUT: last byte passed",
    "PUT answered",
    "ack sent",
    "trailers passed",
    "delete answered",
    "later attempt: check enqueued",
    "burial: entry sent",
    "bulk: looked again",
    "check: stat sent",
    "drain: given back",
}


async def _trigger(moment: Moment, world: World) -> None:
    """Change S3 and tell a queue, as the story goes."""
    match moment.story:
        case "stream":
            await world.put("key", LARGE)
        case "trailers":
            await world.put("key", LARGE, parts=True)
        case "delete":
            await world.delete("key")
        case "forbidden":
            await world.put("bad/../key", SMALL)
        case "bulk":
            await world.put("key", SMALL, queue="bulk")
        case "check":
            await world.put("key", SMALL, queue="check", kind="check")
        case _:
            await world.put("key", SMALL)


async def _reach(moment: Moment, world: World, process: Process) -> Injection:
    """Bring the worker to the moment; everything stands still there."""
    if moment.story == "delete":
        await world.begun(process)
        await world.put("key", SMALL)
        await world.settled()
    anchor = world.netstorage.hold(UPLOAD, side="answer") if moment.story in ("extend", "drain") else None
    wire = world.cloud if moment.request in (RECEIVE, GET, HEAD, ACK, VISIBILITY, CHECK, BURY) else world.netstorage
    hold = wire.hold(moment.request, side=moment.side, at=moment.at)
    if moment.story != "again":
        await _trigger(moment, world)
    await world.begun(process)
    if anchor is not None:
        await anchor.reached()
    if moment.story == "drain":
        process.popen.send_signal(signal.SIGTERM)
    await hold.reached()
    return hold


async def _die(moment: Moment, world: World) -> Injection:
    """Run a worker up to the moment, and kill it there."""
    if moment.story == "again":
        await _trigger(moment, world)
        receive = world.aws.sqs.receive_message
        await asyncio.to_thread(receive, QueueUrl=world.queues["live"], VisibilityTimeout=0)
    process = Process("run", world.env(S3NSYNC_WORKER_BUFFER_BYTES="65536", S3NSYNC_WORKER_DRAIN_S="1"), world.folder)
    try:
        hold = await _reach(moment, world, process)
    except BaseException:
        print(process.text, world.cloud.tell(), world.netstorage.tell(), sep="\n")  # noqa: T201 - tells why
        raise
    finally:
        await asyncio.to_thread(process.kill)
    assert "Traceback" not in process.text
    return hold


async def _meet_fate(moment: Moment, world: World) -> None:
    if moment.fate == "lost":
        await world.netstorage.cut()
        await world.cloud.cut()
    if moment.fate != "late":
        world.netstorage.clear()
        world.cloud.clear()
    if moment.fate == "lands" and moment.side == "request":
        held = [wire.seen(moment.request)[-1] for wire in (world.cloud, world.netstorage) if wire.seen(moment.request)]
        await world.until(lambda: all(each.status for each in held))


def _outcomes(process: Process) -> list[object]:
    """Give what became of each message, those that were settled together too."""
    return [line["outcome"] for line in process.changes() for _ in range(1 + int(str(line.get("coalesced", 0))))]


@pytest.mark.parametrize(
    "moment", [each for each in MOMENTS if ALL or each.name in SHORT], ids=lambda moment: moment.name
)
async def test_a_worker_killed_at_this_moment_loses_nothing(moment: Moment, aws: Aws, tmp_path: Path) -> None:
    """The message is owed until the copy is proven and acked, and the next worker does what is left to do."""
    async with wired(aws, tmp_path) as world:
        await _die(moment, world)
        assert await world.owed() == moment.owes
        await _meet_fate(moment, world)
        await world.end_leases()
        async with world.worker(S3NSYNC_WORKER_BUFFER_BYTES="65536") as process:
            await world.settled()
        assert _outcomes(process) == list(moment.then)
        assert world.uploads("key") == moment.uploads
        assert [each.attempts > 0 for each in await world.burials()] == [True] * (moment.story == "forbidden")


@pytest.mark.parametrize("moment", LATE, ids=lambda moment: moment.name)
async def test_what_lands_late_is_mended_by_the_next_workers_check(moment: Moment, aws: Aws, tmp_path: Path) -> None:
    """A dead worker's write that comes after its successor's ack stays for a grace, not for good (G4)."""
    async with wired(aws, tmp_path, grace_s=4) as world:
        await _die(moment, world)
        await world.put("key", NEWER)
        await world.end_leases()
        async with world.worker():
            await world.emptied("live")
            assert world.stored("key") == NEWER
            assert await world.owed() == {"check": 1}
            world.netstorage.clear()
            await world.until(lambda: world.stored("key") != NEWER)
            await world.settled()


@pytest.mark.parametrize("moment", MOMENTS if ALL else MOMENTS[-1:], ids=lambda moment: moment.name)
async def test_an_object_overwritten_while_nobody_works_arrives_too(moment: Moment, aws: Aws, tmp_path: Path) -> None:
    """The dead worker's message and the new one stand in one queue, or in two: the newest bytes win."""
    async with wired(aws, tmp_path) as world:
        await _die(moment, world)
        await _meet_fate(moment, world)
        await world.put("bad/../key" if moment.story == "forbidden" else "key", NEWER)
        await world.end_leases()
        async with world.worker(S3NSYNC_WORKER_BUFFER_BYTES="65536"):
            await world.settled()
