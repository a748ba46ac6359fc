"""A bucket, queues, an emulated NetStorage, and the real command between them: for what `sync` and `verify` do.

There is no worker but where a test runs `drain`; S3 and SQS are ministack's, which checks every signature.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aws_emulator import REGION, Aws
from fakes import md5
from s3nsync.emulator import Emulator
from s3nsync.netstorage import NetStorage, open_netstorage
from worker_process import Process

CPCODE, USER, KEY = "123456", "media-1", "correct-horse-battery"
ROOT = f"/{CPCODE}/mirror/"


@dataclass
class Site:
    """Both sides, and the command between them."""

    aws: Aws
    bucket: str
    queues: Mapping[str, str]
    emulator: Emulator
    netstorage: NetStorage
    folder: Path

    def env(self, **route: str) -> dict[str, str]:
        """Give the command's environment."""
        return {
            "S3NSYNC_REGION": REGION,
            "S3NSYNC_AWS_ENDPOINT_URL": self.aws.url,
            **{f"S3NSYNC_{name.upper()}_QUEUE_URL": url for name, url in self.queues.items()},
            "S3NSYNC_ROUTES": json.dumps([{"bucket": self.bucket, "cpcode": CPCODE, "directory": "mirror", **route}]),
            "S3NSYNC_WORKER_GRACE_S": "1",
            "S3NSYNC_WORKER_LEASE_S": "12",
            "S3NSYNC_WORKER_POLL_WAIT_S": "1",
            "NS_HOSTNAME": f"localhost:{self.emulator.port}",
            "NS_USER": USER,
            "NS_KEY": KEY,
            "NS_INSECURE_HTTP": "1",
            "AWS_ACCESS_KEY_ID": self.aws.keys.access_key,
            "AWS_SECRET_ACCESS_KEY": self.aws.keys.secret_key,
        }

    def start(self, verb: str, env: Mapping[str, str] | None = None) -> Process:
        """Start a verb with --json."""
        return Process(f"{verb} --json", env or self.env(), self.folder)

    async def run(self, verb: str, env: Mapping[str, str] | None = None) -> tuple[int, list[dict[str, object]]]:
        """Run a verb to its end; gives exit code and lines."""
        code, out, _ = await self._ended(self.start(verb, env), verb)
        return code, [json.loads(line) for line in out.splitlines()]

    async def say(self, verb: str, env: Mapping[str, str] | None = None) -> tuple[int, str, str]:
        """Run a verb as people do; gives exit code, what it says, and what it says by the way."""
        return await self._ended(Process(verb, env or self.env(), self.folder), verb)

    async def _ended(self, process: Process, verb: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(process.wait)
        out = "".join(process.out)
        assert "Traceback" not in process.text, process.text
        assert KEY not in process.text + out
        print(verb, code, out, process.text)  # noqa: T201 - told only when the test fails
        return code, out, process.text

    async def put(self, bodies: Mapping[str, bytes]) -> None:
        """Write objects, without telling any queue."""
        for key, body in bodies.items():
            await asyncio.to_thread(self.aws.s3.put_object, Bucket=self.bucket, Key=key, Body=body)

    async def put_parts(self, key: str, body: bytes) -> str:
        """Write an object by a multipart upload: its ETag, which is given, is no digest."""
        s3, at = self.aws.s3, {"Bucket": self.bucket, "Key": key}
        upload = (await asyncio.to_thread(s3.create_multipart_upload, **at))["UploadId"]  # type: ignore[arg-type]
        part = await asyncio.to_thread(s3.upload_part, **at, UploadId=upload, PartNumber=1, Body=body)  # type: ignore[arg-type]
        whole = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
        done = await asyncio.to_thread(s3.complete_multipart_upload, **at, UploadId=upload, MultipartUpload=whole)  # type: ignore[arg-type]
        return done["ETag"].strip('"')

    def stored(self) -> dict[str, str]:
        """Give what NetStorage holds: digests by key."""
        return {path.removeprefix(ROOT): md5(each.read()) for path, each in self.emulator.snapshot().items()}

    def depth(self, queue: str) -> int:
        """Count a queue's messages."""
        found = self.aws.sqs.get_queue_attributes(QueueUrl=self.queues[queue], AttributeNames=["All"])
        return int(found["Attributes"]["ApproximateNumberOfMessages"])

    def uploads(self) -> int:
        """Count the uploads that NetStorage has heard of."""
        return sum(each.action == "upload" for each in self.emulator.requests)


@asynccontextmanager
async def site(aws: Aws, folder: Path, nature: str = "objectstore") -> AsyncIterator[Site]:
    """Make a site."""
    emulator = Emulator(accounts={USER: KEY}, cpcodes=(CPCODE,), personality=nature, nonce_replay=True)
    queues = {name: aws.queue() for name in ("live", "bulk", "check", "dead")}
    async with emulator, open_netstorage(f"127.0.0.1:{emulator.port}", USER, KEY, insecure_http=True) as netstorage:
        yield Site(aws, aws.bucket(), queues, emulator, netstorage, folder)


def digests(bodies: Mapping[str, bytes]) -> dict[str, str]:
    """Give the digests by key."""
    return {key: md5(body) for key, body in bodies.items()}


def found(lines: list[dict[str, object]]) -> set[tuple[object, object]]:
    """Give kind and key of the findings."""
    return {(each["kind"], each["key"]) for each in lines if each["type"] == "finding"}
