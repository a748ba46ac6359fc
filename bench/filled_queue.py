"""An SQS with a full queue: tests/sqs_stub.py, filled without the detour over HTTP.

Prints {"filled": n} when it serves. At a line on standard input the ordered Changes come, evenly spaced; then the
Unix time of each is printed, as one JSON list.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from datetime import UTC, datetime

from s3nsync.events import dedup_id, encode, group_id
from s3nsync.model import Change, ObjectRef
from sqs_stub import SqsStub

QUEUES = {"live": 0, "bulk": 0, "check": 180, "dead": 0}


async def serve(given: argparse.Namespace) -> None:
    """Fill, say so, serve; stream when told."""
    stub = SqsStub()
    await stub.start(given.port)
    for name, delay_s in QUEUES.items():
        stub.create(f"{name}.fifo", {"FifoQueue": "true", "DelaySeconds": str(delay_s)})
    for number in range(given.filled):
        put(stub, given, number)
    print(json.dumps({"filled": given.filled}), flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    sent_s = []
    began_s = time.monotonic()
    for number in range(given.count):
        await asyncio.sleep(began_s + number / given.per_s - time.monotonic())
        sent_s.append(time.time())
        put(stub, given, given.filled + number)
        stub.wake()
    print(json.dumps(sent_s), flush=True)
    await asyncio.Event().wait()


def put(stub: SqsStub, given: argparse.Namespace, number: int) -> None:
    """Put one Change on the live queue, as the Lambda does."""
    change = Change(
        ObjectRef(given.bucket, str(number % given.keys)),
        "put",
        event_name="ObjectCreated:Put",
        event_time=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        size=given.size_bytes,
        sequencer=f"{number:016X}",
    )
    stub.queue("live.fifo").send(encode(change), group_id(change.ref), dedup_id(change), time.time())


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--bucket", required=True)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--size-bytes", type=int, required=True)
    parser.add_argument("--filled", type=int, default=0)
    parser.add_argument("--per-s", type=float, default=0.0)
    parser.add_argument("--count", type=int, default=0)
    given = parser.parse_args()
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        asyncio.run(serve(given))
    else:
        uvloop.run(serve(given))


if __name__ == "__main__":
    main()
