"""Broken connections between the worker and each of its servers: all arrives, nothing is buried, no accident.

One run for each server: a set of objects for each fault, all at once where requests name their key, so that sound
connections go on beside broken ones. Every fault is seen to have happened as often as it was ordered. Stalls are
shorter than the worker's patience here; with S3NSYNC_CRASH_POINTS=all they are not, and noticing them takes minutes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

from aws_emulator import REGION, Aws
from fault_proxy import Fault, Kind, Place, Side
from wired_world import RECEIVE, World, wired
from worker_process import Process

pytestmark = pytest.mark.slow

ALL = os.environ.get("S3NSYNC_CRASH_POINTS") == "all"
SMALL_BYTES, LARGE_BYTES = 5_000, 400_000
BUFFER_BYTES = 64 * 1024
OBJECTS = 3
"""Small ones for each fault, beside one that is streamed; each of them meets the fault once."""

S3_FAULTS: Sequence[tuple[Kind, Side, Place]] = (
    ("reset", "request", "start"),
    ("reset", "answer", "start"),
    ("reset", "answer", 3_000),
    ("truncate", "answer", 0),
    ("truncate", "answer", 4_999),
    ("half-close", "answer", "start"),
    ("half-close", "answer", 3_000),
    ("stall", "answer", 3_000),
    ("slow", "answer", 1_000),
    ("flip", "answer", 3_000),
)

NETSTORAGE_FAULTS: Sequence[tuple[Kind, Side, Place]] = (
    ("reset", "request", "start"),
    ("reset", "request", 3_000),
    ("reset", "answer", "start"),
    ("truncate", "request", 4_999),
    ("truncate", "answer", "start"),
    ("truncate", "answer", 0),
    ("half-close", "request", 3_000),
    ("half-close", "answer", "start"),
    ("stall", "request", 3_000),
    ("stall", "answer", "start"),
    ("slow", "request", 1_000),
    ("flip", "request", 3_000),
)

RECEIVE_FAULTS: Sequence[tuple[Kind, Place]] = (
    ("slow", b'"Messages"'),
    ("reset", b'"Messages"'),
    ("truncate", b'"Messages"'),
    ("half-close", b'"Messages"'),
    ("flip", 0),
)

ACK = r"AmazonSQS\.DeleteMessageBatch"
ACK_FAULTS: Sequence[tuple[Kind, Side, Place]] = (
    ("reset", "request", "start"),
    ("reset", "request", 5),
    ("reset", "answer", "start"),
    ("truncate", "answer", 3),
    ("half-close", "answer", "start"),
    ("stall", "answer", "start"),
    ("slow", "request", 5),
    ("flip", "answer", 0),
)


def _fault(kind: Kind, request: str, side: Side, at: Place) -> Fault:
    for_s = 600.0 if ALL and "DeleteMessageBatch" not in request else 2.0
    return Fault(kind=kind, request=request, side=side, at=at, for_s=for_s, bytes_per_s=200_000)


def _objects(folder: str) -> dict[str, bytes]:
    """Give the objects that meet one fault; no two are alike."""
    sizes = [*([SMALL_BYTES] * OBJECTS), LARGE_BYTES]
    return {f"{folder}/{number}": (f"{folder}/{number} ".encode() * size)[:size] for number, size in enumerate(sizes)}


async def test_s3(aws: Aws, tmp_path: Path) -> None:
    """A broken body is read on from where it broke; a damaged one is noticed before its last byte leaves (G3)."""
    async with wired(aws, tmp_path) as world:
        injections = []
        for number, (kind, side, at) in enumerate(S3_FAULTS):
            for key, body in _objects(f"{number}-{kind}").items():
                injections.append(world.cloud.inject(_fault(kind, rf"^GET \S*/{key} ", side, at)))
                await world.put(key, body)
        await _converge(world)
        assert [each.struck for each in injections] == [1] * len(injections)
        _assert_stored_once(world)


async def test_damage_on_the_way_from_s3_is_caught_by_netstorage_where_s3_gives_no_crc(
    aws: Aws, tmp_path: Path
) -> None:
    """The ETag's MD5, declared with the upload, is not that of the damaged bytes: refused, and read again (G3)."""
    async with wired(aws, tmp_path) as world:
        plain = boto3.client(
            "s3",
            endpoint_url=aws.url,
            region_name=REGION,
            aws_access_key_id=aws.keys.access_key,
            aws_secret_access_key=aws.keys.secret_key,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )
        injections = []
        for key, body in _objects("flipped").items():
            injections.append(world.cloud.inject(_fault("flip", rf"^GET \S*/{key} ", "answer", 3_000)))
            await world.put(key, body)
            await asyncio.to_thread(plain.put_object, Bucket=world.bucket, Key=key, Body=body)
        await _converge(world)
        assert [each.struck for each in injections] == [1] * len(injections)
        assert [each.status for each in world.emulator.requests if each.action == "upload"].count(412) == OBJECTS + 1
        _assert_stored_once(world)


async def test_netstorage(aws: Aws, tmp_path: Path) -> None:
    """An upload that broke is repeated, one whose answer was lost is looked at again after the grace (rule 4)."""
    async with wired(aws, tmp_path) as world:
        injections = []
        for number, (kind, side, at) in enumerate(NETSTORAGE_FAULTS):
            for key, body in _objects(f"{number}-{kind}").items():
                injections.append(world.netstorage.inject(_fault(kind, rf"^PUT \S*/{key} ", side, at)))
                await world.put(key, body)
        await _converge(world)
        assert [each.struck for each in injections] == [1] * len(injections)


async def test_sqs(aws: Aws, tmp_path: Path) -> None:
    """A lost receive comes back with its lease, a lost ack is sent again or finds its message gone."""
    async with wired(aws, tmp_path) as world:
        injections = [world.cloud.inject(_fault(kind, RECEIVE, "answer", at)) for kind, at in RECEIVE_FAULTS]
        for kind, _ in RECEIVE_FAULTS:
            for key, body in _objects(kind).items():
                await world.put(key, body)
        async with world.worker() as process:
            await world.settled()
            for kind, side, at in ACK_FAULTS:
                injections.append(world.cloud.inject(_fault(kind, ACK, side, at)))
                await world.put(f"ack/{kind} {side} {at!r}", kind.encode())
                await world.settled()
        assert [each.struck for each in injections] == [1] * len(injections)
        await _assert_explained(world, process)


async def _converge(world: World) -> None:
    """Let a worker bring everything over."""
    async with world.worker(S3NSYNC_WORKER_BUFFER_BYTES=str(BUFFER_BYTES)) as process:
        await world.settled(400 if ALL else 240)
    await _assert_explained(world, process)


async def _assert_explained(world: World, process: Process) -> None:
    """See that nothing was buried, and that there is a reason for whatever was not done at once."""
    assert await world.burials() == []
    for line in process.changes():
        assert line["verb"] in ("ack", "retry", "lease lost", "unsettled"), line
        assert line["outcome"] != "retry" or line["reason"], line
    told = [line for line in process.lines() if line.get("level") in ("warning", "error")]
    assert all(line.get("reason") for line in told), told


def _assert_stored_once(world: World) -> None:
    """See that no broken or damaged body was ever stored: each key was uploaded well exactly once."""
    done = [each.path for each in world.emulator.requests if each.action == "upload" and 200 <= each.status < 300]
    assert len(done) == len(set(done))
