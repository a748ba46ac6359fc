"""The loopback SQS as a program, and what it says to those who ask wrongly; its rules are the contract suite's."""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

from queue_stand_ins import Keys, StandIn, stand_in
from s3nsync.errors import QueueError
from s3nsync.http import Http
from s3nsync.model import Change, ObjectRef
from s3nsync.queues import Depth
from s3nsync.queues.sqs import SqsQueue

PROGRAM = Path(__file__).parents[1] / "sqs_stub.py"


def change(key: str) -> Change:
    """Make a change of `key`."""
    return Change(ObjectRef("bucket", key), "put", sequencer="01")


async def test_the_program_makes_queues_serves_and_leaves_in_order() -> None:
    """One line says where the queues are; the delay is each queue's own; SIGTERM ends it with 0."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, PROGRAM, "--queue", "live", "--queue", "check:60", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        told = json.loads(await process.stdout.readline())
        async with Http() as http:
            for name, expected in (("live", Depth(1, 0, 0)), ("check", Depth(0, 0, 1))):
                queue = SqsQueue("live", told["queues"][name], http, Keys(), region="us-east-1", lease_s=30)
                await queue.send([change("a")])
                assert await queue.depth() == expected
                await queue.aclose()
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _until_waiting(on: StandIn, url: str, count: int) -> None:
    assert on.stub is not None
    async with asyncio.timeout(30):
        while on.stub.waiting(url.rpartition("/")[2]) != count:
            await asyncio.sleep(0.001)


async def test_a_long_poll_ends_at_once() -> None:
    """A message sent meanwhile waits for no next look: lag is measured against that.

    What a send and a receive take on this machine, now, is the measure of "at once".
    """
    async with stand_in("model", None) as on:
        url = await on.make()
        queue = on.queue(url)
        polled_s: list[float] = []
        fetched_s: list[float] = []
        for number in range(20):
            waiting = asyncio.ensure_future(queue.receive(1, 10))
            await _until_waiting(on, url, 1)
            began_s = time.perf_counter()
            await queue.send([change(f"polled {number}")])
            assert len(await waiting) == 1
            polled_s.append(time.perf_counter() - began_s)
            began_s = time.perf_counter()
            await queue.send([change(f"fetched {number}")])
            assert len(await queue.receive(1, 0)) == 1
            fetched_s.append(time.perf_counter() - began_s)
        assert statistics.median(polled_s) < 5 * statistics.median(fetched_s)


async def test_who_leaves_a_long_poll_takes_no_message_along() -> None:
    """A message sent after the client hung up goes to the next one."""
    async with stand_in("model", None) as on:
        url = await on.make()
        leaving, staying = on.queue(url), on.queue(url)
        waiting = asyncio.ensure_future(leaving.receive(1, 10))
        await _until_waiting(on, url, 1)
        waiting.cancel()
        await asyncio.wait([waiting])
        await _until_waiting(on, url, 0)
        await staying.send([change("a")])
        assert len(await staying.receive(1, 0)) == 1


@pytest.mark.parametrize(
    ("action", "payload", "code"),
    [
        ("SendMessageBatch", {"Entries": []}, "EmptyBatchRequest"),
        ("DeleteMessageBatch", {"Entries": [{"Id": str(n)} for n in range(11)]}, "TooManyEntriesInBatchRequest"),
        ("DeleteMessageBatch", {"Entries": [{"Id": "0"}, {"Id": "0"}]}, "BatchEntryIdsNotDistinct"),
        ("ReceiveMessage", {"MaxNumberOfMessages": 11}, "InvalidParameterValue"),
        ("ListDeadLetterSourceQueues", {}, "InvalidAction"),
    ],
)
async def test_a_wrong_call_is_refused(action: str, payload: Mapping[str, object], code: str) -> None:
    """In SQS's own words, by its own codes."""
    async with stand_in("model", None) as on:
        url = await on.make()
        with pytest.raises(QueueError, match=code):
            await on.call(url, action, {"QueueUrl": url, **payload})


async def test_only_fifo_queues_are_made() -> None:
    """A standard queue would be a quiet lie."""
    async with stand_in("model", None) as on:
        with pytest.raises(QueueError, match="FIFO"):
            await on.call(on.place.url, "CreateQueue", {"QueueName": "standard"})
