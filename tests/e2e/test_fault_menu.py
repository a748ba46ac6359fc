"""Bad days that no single broken connection makes: things removed, purged, expired, and done far too often at once.

Each story runs the real worker against real parts. `make test` takes small numbers; with S3NSYNC_CRASH_POINTS=all they
are the ones that the field's own test plans name.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from pathlib import Path

import boto3
import pytest

from aws_emulator import REGION, Aws
from fault_proxy import Fault
from hostile import Peer, hostile
from raw_netstorage import Raw
from s3nsync.emulator import Fault as Trouble
from wired_world import World, wired

pytestmark = pytest.mark.slow

ALL = os.environ.get("S3NSYNC_CRASH_POINTS") == "all"
MIB = 1024 * 1024
UPLOAD = "^PUT .*action=upload"
SLOW_DAY_S = 400.0 if ALL else 240.0
LONG_DAY_S = 1500.0 if ALL else SLOW_DAY_S


def _answer(status: str, content_type: str, body: str) -> bytes:
    return (f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode()


EXPIRED_XML = _answer(
    "400 Bad Request", "application/xml", "<Error><Code>ExpiredToken</Code><Message>expired</Message></Error>"
)
EXPIRED_JSON = _answer(
    "400 Bad Request",
    "application/x-amz-json-1.0",
    json.dumps({"__type": "com.amazon.coral.service#ExpiredTokenException", "message": "expired"}),
)


async def test_task_credentials_that_expire_are_renewed_without_a_failed_change(aws: Aws, tmp_path: Path) -> None:
    """S3 and SQS refuse the old token in the middle of work; the endpoint of the task role gives new keys."""
    sts = boto3.client(
        "sts",
        endpoint_url=aws.url,
        region_name=REGION,
        aws_access_key_id=aws.keys.access_key,
        aws_secret_access_key=aws.keys.secret_key,
    )
    given: list[str] = []

    async def endpoint(peer: Peer) -> None:
        """Be ECS: each request gets new keys, good for an hour."""
        await peer.head()
        keys = (await asyncio.to_thread(sts.get_session_token))["Credentials"]
        given.append(keys["AccessKeyId"])
        answer = {
            "AccessKeyId": keys["AccessKeyId"],
            "SecretAccessKey": keys["SecretAccessKey"],
            "Token": keys["SessionToken"],
            "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600)),
        }
        await peer.send(_answer("200 OK", "application/json", json.dumps(answer)))

    async with hostile(endpoint) as ecs, wired(aws, tmp_path) as world:
        role = f"http://127.0.0.1:{ecs.origin.port}/role"
        nothing = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
        async with world.worker(**nothing, AWS_CONTAINER_CREDENTIALS_FULL_URI=role) as process:
            await world.put("before", b"1")
            await world.settled()
            assert len(given) == 1
            by_sqs = world.cloud.inject(_refused("POST", given[0], EXPIRED_JSON))
            world.cloud.inject(_refused("GET", given[0], EXPIRED_XML))
            for number in range(10):
                await world.put(f"after/{number}", b"2")
            await world.settled()
            assert by_sqs.has_struck
            assert len(given) == 2, "however many calls were refused, one look-up"
            by_s3 = world.cloud.inject(_refused("GET", given[1], EXPIRED_XML))
            await world.put("later", b"3")
            await world.settled()
            assert by_s3.has_struck
            assert len(given) == 3
    assert {(each["outcome"], each["attempt"]) for each in process.changes()} == {("copied", 1)}


def _refused(method: str, access_key: str, reply: bytes) -> Fault:
    """Call these keys expired from now on."""
    return Fault(kind="reply", request=f"^{method} .*Credential={access_key}/", reply=reply, times=1000)


async def test_a_clock_that_jumps_there_and_back_is_followed(aws: Aws, tmp_path: Path) -> None:
    """Each jump costs a refusal and a warning, and no change."""
    async with wired(aws, tmp_path) as world, world.worker() as process:
        for number, skew_s in enumerate((0, 300, -300, 0)):
            world.emulator.set_skew(skew_s)
            await world.put(f"jump/{number}", b"x")
            await world.settled()
        assert process.text.count("clock is off") == 3
        assert {each["attempt"] for each in process.changes()} == {1}


async def test_a_purged_queue_stops_nothing(aws: Aws, tmp_path: Path) -> None:
    """What is in hand is finished though its message is gone; what comes later is worked on."""
    async with wired(aws, tmp_path) as world, world.worker() as process:
        held = world.netstorage.hold(UPLOAD, side="answer")
        await world.put("in hand", b"x")
        await held.reached()
        await asyncio.to_thread(aws.sqs.purge_queue, QueueUrl=world.queues["live"])
        held.release()
        await world.until(lambda: len(process.changes()) == 1)
        await world.put("later", b"y")
        await world.settled()
    assert await world.burials() == []


async def test_a_bucket_that_is_removed_rests_its_route_deletes_nothing_and_comes_back(
    aws: Aws, tmp_path: Path
) -> None:
    """NoSuchBucket is nobody's delete (G2): the copies stay, the log says so, and work goes on by itself."""
    async with wired(aws, tmp_path) as world, world.worker() as process:
        for key in ("a", "b", "c"):
            await world.put(key, key.encode())
        await world.settled()
        for key in ("a", "b", "c"):
            await asyncio.to_thread(aws.s3.delete_object, Bucket=world.bucket, Key=key)
        await asyncio.to_thread(aws.s3.delete_bucket, Bucket=world.bucket)
        for key in ("a", "b", "c"):
            await world.tell(key, "delete")
        await world.until(lambda: "the route rests" in process.text)
        assert "NoSuchBucket" in process.text
        assert [world.stored(key) for key in ("a", "b", "c")] == [b"a", b"b", b"c"]
        assert (await world.owed())["live"] == 3
        await asyncio.to_thread(aws.s3.create_bucket, Bucket=world.bucket)
        for key in ("a", "b", "d"):
            await world.put(key, b"new " + key.encode())
        world.forget("c")
        await world.settled(SLOW_DAY_S)
        assert "the route goes again" in process.text
    assert await world.burials() == []
    assert world.stored("c") is None, "now S3 itself says that it is gone"


@pytest.mark.parametrize(("status", "hint"), [(403, "may write below this CP code"), (404, "is the CP code gone")])
async def test_a_cp_code_that_is_removed_rests_its_route_and_comes_back(
    status: int, hint: str, aws: Aws, tmp_path: Path
) -> None:
    """A refusal of everything below a CP code burns no backlog: nothing is buried, and all arrives in the end."""
    async with wired(aws, tmp_path) as world, world.worker() as process:
        await world.put("before", b"x")
        await world.settled()
        world.emulator.inject(Trouble(kind="status", status=status, path="/123456*"))
        for number in range(30):
            await world.put(f"after/{number}", b"y")
        await world.until(lambda: "the route rests" in process.text)
        await world.until(lambda: hint in process.text)
        world.emulator.clear_faults()
        await world.settled(SLOW_DAY_S)
        assert "the route goes again" in process.text
    assert await world.burials() == []


async def test_a_key_overwritten_without_end_ends_with_the_last_bytes(aws: Aws, tmp_path: Path) -> None:
    """Changes that wait together are one look: fewer uploads than writes, each Change settled, the last bytes stay."""
    times = 1000 if ALL else 60
    polls = {"S3NSYNC_WORKER_POLL_WAIT_S": "1", "S3NSYNC_WORKER_LEASE_S": "11"}
    async with wired(aws, tmp_path) as world, world.worker(**polls) as process:
        held = world.netstorage.hold(UPLOAD, side="answer")
        for number in range(times):
            await world.put("hot", f"version {number}".encode())
        await held.reached()
        held.release()
        await world.settled(SLOW_DAY_S)
        assert world.stored("hot") == f"version {times - 1}".encode()
    assert 2 <= world.uploads("hot") < times / 2
    assert {each["verb"] for each in process.changes()} == {"ack"}


async def test_a_large_object_overwritten_while_it_is_sent_is_never_mixed(aws: Aws, tmp_path: Path) -> None:
    """The upload of the old version is cut when S3 cannot go on with it, and the new one is sent whole (G3)."""
    size = (200 if ALL else 24) * MIB
    async with wired(aws, tmp_path) as world, world.worker() as process:
        held = world.cloud.hold(r"^GET \S*/film ", side="answer", at=size // 2)
        await world.put("film", b"old " * (size // 4))
        await held.reached()
        await world.put("film", b"newer " * (size // 6))
        await world.cloud.cut()
        await world.settled(SLOW_DAY_S)
    uploads = [each for each in world.emulator.requests if each.action == "upload"]
    stored = [200 <= each.status < 300 for each in uploads]
    assert (stored[0], stored[-1]) == (False, True), "cut first, whole at the end"
    assert "MemoryError" not in process.text


async def _deletes(world: World, count: int) -> None:
    """Put files on NetStorage that S3 no longer has, and tell the queue of each."""
    keys = [f"gone/{number}" for number in range(count)]
    async with Raw(world.emulator.port) as raw:
        for key in keys:
            answer = await raw.ask("PUT", world.path(key), "upload", b"x", time_s=int(time.time()))
            assert answer.status == 200
    await world.tell_all(keys, "delete")


async def test_many_deletes_at_once_are_done_where_the_brake_allows_it(aws: Aws, tmp_path: Path) -> None:
    """With the limit above their number, all are gone."""
    async with wired(aws, tmp_path) as world:
        await _deletes(world, 10_000 if ALL else 60)
        async with world.worker(S3NSYNC_WORKER_DELETES_PER_MINUTE="100000") as process:
            await world.settled(LONG_DAY_S)
        assert "brake" not in process.text


async def test_an_emptied_bucket_meets_the_brake(aws: Aws, tmp_path: Path) -> None:
    """Above the limit the route rests and says so; nothing is lost, and a raised limit lets the rest go."""
    count, limit = (10_000, 1000) if ALL else (30, 10)
    async with wired(aws, tmp_path) as world:
        await _deletes(world, count)
        began_s = time.monotonic()
        async with world.worker(S3NSYNC_WORKER_DELETES_PER_MINUTE=str(limit)) as process:
            await world.until(lambda: "the route rests" in process.text, LONG_DAY_S)
            assert "is the bucket being emptied by mistake?" in process.text
            await world.until(lambda: count - len(world.emulator.snapshot()) >= limit, LONG_DAY_S)
            await asyncio.sleep(2)
            left = len(world.emulator.snapshot())
        minutes = 1 + (time.monotonic() - began_s) // 60
        assert limit <= count - left <= limit * minutes
        assert (await world.owed())["live"] == len(world.emulator.snapshot())
        assert await world.burials() == []
        await world.end_leases()
        async with world.worker(S3NSYNC_WORKER_DELETES_PER_MINUTE="100000"):
            await world.settled(LONG_DAY_S)
