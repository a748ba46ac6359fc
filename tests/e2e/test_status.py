"""`s3nsync status` on real parts: a worker has done its work, and the command says of each key what came of it.

S3 and SQS are ministack's, which checks permissions: the command runs as users that may do what it needs and no more.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from aws_emulator import REGION, Aws
from s3nsync.emulator import Emulator
from s3nsync.events import dedup_id, encode, group_id
from s3nsync.model import Change, ObjectRef
from s3nsync.sigv4 import Credentials
from worker_process import Process

pytestmark = pytest.mark.slow

CPCODE, USER, KEY = "123456", "media-1", "correct-horse-battery"
QUEUES = ("live", "bulk", "check", "dead")
READS = ("s3:GetObject", "s3:ListBucket")
LETTERS = (
    "sqs:ReceiveMessage",
    "sqs:ChangeMessageVisibility",
    "sqs:ChangeMessageVisibilityBatch",  # ministack's own: AWS has no permission of this name
    "sqs:GetQueueAttributes",
)


@dataclass
class Scene:
    """Everything but the commands."""

    aws: Aws
    bucket: str
    queues: Mapping[str, str]
    emulator: Emulator
    folder: Path

    async def command(self, verb: str, keys: Credentials | None = None) -> Process:
        """Run a command to its end; its exit code is in `popen.returncode`."""
        process = await asyncio.to_thread(Process, verb, self._env(keys or self.aws.keys), self.folder)
        try:
            await asyncio.to_thread(process.wait)
        finally:
            if process.popen.returncode is None:
                process.popen.kill()
        assert "Traceback" not in process.text, process.text
        return process

    async def status(self, *keys: str, by: Credentials | None = None) -> tuple[int, list[dict[str, object]]]:
        """Give the exit code and the answers of `s3nsync status`."""
        urls = " ".join(f"s3://{self.bucket}/{key}" for key in keys)
        done = await self.command(f"status --json {urls}", by)
        assert done.out, done.text
        return done.popen.returncode, [json.loads(line) for line in done.out]

    async def put(self, key: str, *, tell: bool = True, encoding: str = "", storage_class: str = "STANDARD") -> None:
        """Write an object, and tell the live queue of it."""
        await asyncio.to_thread(
            self.aws.s3.put_object,
            Bucket=self.bucket,
            Key=key,
            Body=key.encode(),
            ContentEncoding=encoding,
            StorageClass=storage_class,  # type: ignore[arg-type]
        )
        if tell:
            await self.tell(key)

    async def tell(self, key: str, number: int = 0) -> None:
        """Put a Change for a key on the live queue."""
        change = Change(ObjectRef(self.bucket, key), "put", sequencer=f"{number:08x}")
        await asyncio.to_thread(
            self.aws.sqs.send_message,
            QueueUrl=self.queues["live"],
            MessageBody=encode(change),
            MessageGroupId=group_id(change.ref),
            MessageDeduplicationId=dedup_id(change),
        )

    async def delete(self, key: str) -> None:
        """Delete an object, and tell nobody."""
        await asyncio.to_thread(self.aws.s3.delete_object, Bucket=self.bucket, Key=key)

    def _env(self, keys: Credentials) -> dict[str, str]:
        route = {"bucket": self.bucket, "cpcode": CPCODE, "content_encoding": "reject", "exclude": ["*.tmp"]}
        return {
            "S3NSYNC_REGION": REGION,
            "S3NSYNC_AWS_ENDPOINT_URL": self.aws.url,
            **{f"S3NSYNC_{name.upper()}_QUEUE_URL": url for name, url in self.queues.items()},
            "S3NSYNC_ROUTES": json.dumps([route]),
            "S3NSYNC_WORKER_GRACE_S": "1",
            "S3NSYNC_WORKER_LEASE_S": "30",
            "S3NSYNC_WORKER_POLL_WAIT_S": "1",
            "NS_HOSTNAME": f"localhost:{self.emulator.port}",
            "NS_USER": USER,
            "NS_KEY": KEY,
            "NS_INSECURE_HTTP": "1",
            "AWS_ACCESS_KEY_ID": keys.access_key,
            "AWS_SECRET_ACCESS_KEY": keys.secret_key,
        }


@pytest.fixture
async def scene(aws: Aws, tmp_path: Path) -> AsyncIterator[Scene]:
    """Set a scene of its own for one test."""
    queues = {name: aws.queue({"DelaySeconds": "1"} if name == "check" else {}) for name in QUEUES}
    async with Emulator(accounts={USER: KEY}, cpcodes=(CPCODE,)) as emulator:
        yield Scene(aws, aws.bucket(), queues, emulator, tmp_path)


async def test_each_key_is_told_as_it_is(scene: Scene) -> None:
    """Replicated, buried with its reason, set aside, behind, gone: by a user who may only read; nothing is written."""
    await scene.put("good.txt")
    await scene.put("zipped.txt", encoding="gzip")
    await scene.put("cold.bin", storage_class="GLACIER")
    assert (await scene.command("drain")).popen.returncode == 0
    await scene.put("untold.txt", tell=False)
    await scene.put("stale.txt")
    assert (await scene.command("drain")).popen.returncode == 0
    await scene.delete("stale.txt")
    stored, asked = scene.emulator.snapshot(), len(scene.emulator.requests)
    reader = scene.aws.user(*READS, *LETTERS)
    keys = ("good.txt", "zipped.txt", "cold.bin", "untold.txt", "stale.txt", "never.txt", "x.tmp", "a//b")
    for _ in range(2):  # the second time all dead letters are there again
        code, found = await scene.status(*keys, by=reader)
        assert code == 1
        assert {str(each["ref"]).removeprefix(f"s3://{scene.bucket}/"): each["state"] for each in found} == {
            "good.txt": "replicated",
            "zipped.txt": "buried",
            "cold.bin": "set_aside",
            "untold.txt": "behind",
            "stale.txt": "behind",
            "never.txt": "gone",
            "x.tmp": "out_of_scope",
            "a//b": "forbidden",
        }
        by_state = {str(each["state"]): each for each in found}
        assert "gzip" in str(by_state["buried"]["reason"])
        assert by_state["replicated"]["evidence"] == "md5"
        assert by_state["replicated"]["path"] == f"/{CPCODE}/good.txt"
    assert scene.emulator.snapshot() == stored
    assert {each.action for each in scene.emulator.requests[asked:]} == {"stat"}


async def test_what_is_in_order_needs_no_permission_on_queues(scene: Scene) -> None:
    """Exit code 0, for a user who may read the bucket and nothing else; text is for people."""
    await scene.put("a+b.txt")
    assert (await scene.command("drain")).popen.returncode == 0
    reader = scene.aws.user(*READS)
    code, (found,) = await scene.status("a+b.txt", by=reader)
    assert (code, found["state"], found["in_order"]) == (0, "replicated", True)
    done = await scene.command(f"status s3://{scene.bucket}/a+b.txt", reader)
    assert done.out[0] == f"s3://{scene.bucket}/a+b.txt: replicated\n"


async def test_what_cannot_be_seen_is_no_answer(scene: Scene) -> None:
    """Dead letters that may not be read are said; an object that may not be looked at gives exit code 5."""
    await scene.put("a.txt")
    code, (found,) = await scene.status("a.txt", by=scene.aws.user(*READS))
    assert (code, found["state"]) == (1, "behind")
    assert "could not be seen" in str(found["reason"])
    code, (found,) = await scene.status("a.txt", by=scene.aws.user("s3:ListBucket"))
    assert (code, found["state"], found["in_order"]) == (5, "unknown", None)
    assert "s3:GetObject" in str(found["hint"])
    done = await scene.command("status a.txt")
    assert (done.popen.returncode, "s3://bucket/key" in done.text) == (2, True)
