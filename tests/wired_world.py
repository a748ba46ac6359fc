"""A worker process and everything it talks to, with a fault proxy on each wire.

    worker  --cloud-->       ministack: S3 and SQS on one port; it checks every signature
            --netstorage-->  the emulator

Each world has a bucket, queues and an emulator of its own, so that worlds share nothing but ministack. There is no
Lambda: `put` and `delete` change S3 and put the Change on a queue themselves. Nothing is encrypted, since the proxies
must see where messages begin. What the test itself does goes past the proxies, and in a thread wherever it waits for
AWS: the wires run on the test's event loop, and a call that blocks it is a world that stands still.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from aws_emulator import REGION, Aws
from fault_proxy import FaultProxy, proxying
from s3nsync.emulator import Emulator
from s3nsync.events import Burial, decode_burial, dedup_id, encode, group_id
from s3nsync.model import Change, Kind, ObjectRef
from worker_process import Process

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedMultipartUploadTypeDef

CPCODE = "123456"
DIRECTORY = "mirror"
USER = "media-1"
KEY = "correct-horse-battery"
LEASE_S = 10
"""The shortest that the settings allow with short polls."""

RECEIVE = r"AmazonSQS\.ReceiveMessage"
WITHIN_S = 120.0

START_S = 120.0
"""How long a worker may take to ask for its first message: on a busy machine Python alone has taken half a minute."""


@dataclass
class World:
    """One worker's world: `queues` are URLs by name."""

    aws: Aws
    bucket: str
    queues: Mapping[str, str]
    emulator: Emulator
    cloud: FaultProxy
    netstorage: FaultProxy
    folder: Path
    grace_s: int
    _ids: Iterator[int] = field(default_factory=itertools.count)
    _expected: dict[str, bytes] = field(default_factory=dict)

    def env(self, **more: str) -> dict[str, str]:
        """Give the worker's environment: both wires lead through their proxies."""
        return {
            "S3NSYNC_REGION": REGION,
            "S3NSYNC_AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.cloud.port}",
            **{f"S3NSYNC_{name.upper()}_QUEUE_URL": url for name, url in self.queues.items()},
            "S3NSYNC_ROUTES": json.dumps([{"bucket": self.bucket, "cpcode": CPCODE, "directory": DIRECTORY}]),
            "S3NSYNC_WORKER_GRACE_S": str(self.grace_s),
            "S3NSYNC_WORKER_LEASE_S": str(LEASE_S),
            "S3NSYNC_WORKER_POLL_WAIT_S": "0",
            "S3NSYNC_METRICS_EMF": "false",
            "NS_HOSTNAME": f"localhost:{self.netstorage.port}",
            "NS_USER": USER,
            "NS_KEY": KEY,
            "NS_INSECURE_HTTP": "1",
            "AWS_ACCESS_KEY_ID": self.aws.keys.access_key,
            "AWS_SECRET_ACCESS_KEY": self.aws.keys.secret_key,
            **more,
        }

    @asynccontextmanager
    async def worker(self, verb: str = "run", **env: str) -> AsyncIterator[Process]:
        """Run the command; at the end stop it in order, and see that it told no secret and had no accident."""
        asked = len(self.cloud.seen(RECEIVE))
        process = Process(verb, self.env(**env), self.folder)
        try:
            await self.begun(process, asked)
            yield process
            if process.popen.poll() is None:
                await self.leave(process)
        except BaseException:
            # The wires first: when even asking AWS fails, they have said it already.
            print(process.text, self.cloud.tell(), self.netstorage.tell(), sep="\n")  # noqa: T201 - tells why
            print(await self.owed())  # noqa: T201 - tells why
            raise
        finally:
            self.cloud.clear()
            self.netstorage.clear()
            if process.popen.returncode is None:
                await asyncio.to_thread(process.kill)
        assert "Traceback" not in process.text, process.text
        assert KEY not in process.text
        assert self.aws.keys.secret_key not in process.text

    async def begun(self, process: Process, asked: int = 0) -> None:
        """Wait until a worker asks for messages, of which `asked` others were before it, or has ended.

        No other wait counts a worker's start: how long that takes says how busy the machine is, and nothing else.
        """
        await self.until(lambda: len(self.cloud.seen(RECEIVE)) > asked or process.popen.poll() is not None, START_S)

    async def leave(self, process: Process) -> None:
        """Stop the worker by SIGTERM; it must leave with 0."""
        process.popen.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait) == 0, process.text

    # --- S3 and its events ---

    async def put(self, key: str, body: bytes, *, queue: str = "live", kind: Kind = "put", parts: bool = False) -> None:
        """Write an object, with `parts` by a multipart upload, whose ETag is no digest; and tell the queue."""
        await asyncio.to_thread(self._write_parts if parts else self._write, key, body)
        self._expected[key] = body
        await self.tell(key, kind, queue=queue)

    def _write(self, key: str, body: bytes) -> None:
        self.aws.s3.put_object(Bucket=self.bucket, Key=key, Body=body)

    def _write_parts(self, key: str, body: bytes) -> None:
        s3, bucket = self.aws.s3, self.bucket
        upload = s3.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        etag = s3.upload_part(Bucket=bucket, Key=key, UploadId=upload, PartNumber=1, Body=body)["ETag"]
        whole: CompletedMultipartUploadTypeDef = {"Parts": [{"PartNumber": 1, "ETag": etag}]}
        s3.complete_multipart_upload(Bucket=bucket, Key=key, UploadId=upload, MultipartUpload=whole)

    async def delete(self, key: str, *, queue: str = "live") -> None:
        """Remove an object and tell the queue."""
        await asyncio.to_thread(self.aws.s3.delete_object, Bucket=self.bucket, Key=key)
        self._expected.pop(key, None)
        await self.tell(key, "delete", queue=queue)

    async def tell(self, key: str, kind: Kind, *, queue: str = "live") -> None:
        """Put a Change on a queue."""
        change = Change(ObjectRef(self.bucket, key), kind)
        await asyncio.to_thread(
            self.aws.sqs.send_message,
            QueueUrl=self.queues[queue],
            MessageBody=encode(change),
            MessageGroupId=group_id(change.ref),
            MessageDeduplicationId=dedup_id(change, fresh=str(next(self._ids))),
        )

    async def tell_all(self, keys: Sequence[str], kind: Kind) -> None:
        """Put a Change for each key on the live queue, in batches."""
        for start in range(0, len(keys), 10):
            changes = [Change(ObjectRef(self.bucket, key), kind) for key in keys[start : start + 10]]
            entries = [
                {
                    "Id": str(number),
                    "MessageBody": encode(change),
                    "MessageGroupId": group_id(change.ref),
                    "MessageDeduplicationId": dedup_id(change, fresh=str(next(self._ids))),
                }
                for number, change in enumerate(changes)
            ]
            answer = await asyncio.to_thread(
                self.aws.sqs.send_message_batch,
                QueueUrl=self.queues["live"],
                Entries=entries,  # type: ignore[arg-type]
            )
            assert not answer.get("Failed")

    def forget(self, key: str) -> None:
        """Expect no such object any longer: it went without an event."""
        self._expected.pop(key, None)

    # --- what has become of it ---

    async def owed(self) -> dict[str, int]:
        """Give the queues that hold messages, with their number."""
        depths = {name: await asyncio.to_thread(self._depth, name) for name in ("live", "bulk", "check")}
        return {name: depth for name, depth in depths.items() if depth}

    def _depth(self, queue: str) -> int:
        """Count a queue's messages: visible, in flight and delayed."""
        names = ["", "NotVisible", "Delayed"]
        wanted = [f"ApproximateNumberOfMessages{name}" for name in names]
        found = self.aws.sqs.get_queue_attributes(QueueUrl=self.queues[queue], AttributeNames=wanted)["Attributes"]  # type: ignore[arg-type]
        return sum(int(each) for each in found.values())

    async def burials(self) -> list[Burial]:
        """Read what is on the dead-letter queue, once."""
        receive = self.aws.sqs.receive_message
        answer = await asyncio.to_thread(receive, QueueUrl=self.queues["dead"], MaxNumberOfMessages=10)
        found = (decode_burial(message["Body"]) for message in answer.get("Messages", []))
        return [each for each in found if each is not None]

    async def end_leases(self) -> None:
        """Let every lease that a dead worker held end now, by the receipts that its proxy saw; saves their seconds."""
        answers = [json.loads(exchange.body or b"{}") for exchange in self.cloud.seen(RECEIVE)]
        receipts = [message["ReceiptHandle"] for answer in answers for message in answer.get("Messages", [])]
        await asyncio.to_thread(self._let_go, receipts)

    def _let_go(self, receipts: Sequence[str]) -> None:
        for url, receipt in itertools.product(self.queues.values(), receipts):
            with suppress(ClientError):  # another queue's, or acked since
                self.aws.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=0)

    def uploads(self, key: str) -> int:
        """Count the uploads of this key that NetStorage has heard of."""
        return sum(each.action == "upload" and each.path == self.path(key) for each in self.emulator.requests)

    def path(self, key: str) -> str:
        """Say where a key lies on NetStorage."""
        return f"/{CPCODE}/{DIRECTORY}/{key}"

    def stored(self, key: str) -> bytes | None:
        """Read a key on NetStorage."""
        found = self.emulator.snapshot().get(self.path(key))
        return None if found is None else found.read()

    async def differing(self) -> list[str]:
        """Compare every byte on both sides; the bucket's own listing must be what the test put there."""
        assert await asyncio.to_thread(self._listing) == self._expected.keys()
        expected = {self.path(key): _digest(body) for key, body in self._expected.items() if ".." not in key}
        found = {path: _digest(each.read()) for path, each in self.emulator.snapshot().items()}
        return sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))

    def _listing(self) -> set[str]:
        pages = self.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket)
        return {each["Key"] for page in pages for each in page.get("Contents", [])}

    async def settled(self, within_s: float = WITHIN_S) -> None:
        """Wait until no queue owes anything, and both sides are equal then."""
        await self.emptied("live", "bulk", "check", within_s=within_s)
        assert await self.differing() == []

    async def emptied(self, *queues: str, within_s: float = WITHIN_S) -> None:
        """Wait until these queues hold nothing."""
        async with asyncio.timeout(within_s):
            while not (await self.owed()).keys().isdisjoint(queues):
                await asyncio.sleep(0.05)

    async def until(self, holds: Callable[[], bool], within_s: float = WITHIN_S) -> None:
        """Wait for a state, by looking."""
        async with asyncio.timeout(within_s):
            while not holds():
                await asyncio.sleep(0.05)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@asynccontextmanager
async def wired(aws: Aws, folder: Path, *, grace_s: int = 1) -> AsyncIterator[World]:
    """Make a world; `grace_s` may be this short because nothing here travels for longer than a test lets it."""
    emulator = Emulator(accounts={USER: KEY}, cpcodes=(CPCODE,))
    queues = {name: aws.queue() for name in ("live", "bulk", "dead")}
    queues["check"] = aws.queue({"DelaySeconds": str(grace_s)})
    async with (
        emulator,
        proxying(emulator.port) as netstorage,
        proxying(int(aws.url.rpartition(":")[2])) as cloud,
    ):
        yield World(aws, aws.bucket(), queues, emulator, cloud, netstorage, folder, grace_s)
