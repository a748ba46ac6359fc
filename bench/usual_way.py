"""The usual ways to do this job in Python, as processes to be measured; run in .venv-bench.

    pool     boto3 and Akamai's kit in a pool of threads: one S3 client for all, a kit (a session) for each thread
    poc      one after the other, as the proof of concept documents it: receive 5, for each download to a file, upload
             that file, delete the message; a client made anew for every call. Its sleep of 20 s is left out here, and
             put back by arithmetic.

Prints one line of JSON: {"cpu_s", "wall_s"} of the work, without the imports.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from akamai.netstorage import Netstorage  # type: ignore[import-untyped]  # as the kit ships
from botocore.config import Config

BUFFER_BYTES = 8 << 20
_PATH_STYLE = Config(s3={"addressing_style": "path"})
_mine = threading.local()


def pool(given: argparse.Namespace) -> None:
    """Copy every object, so many threads at a time; large ones stream."""
    config = Config(s3={"addressing_style": "path"}, max_pool_connections=given.threads)
    s3 = boto3.client("s3", region_name="us-east-1", endpoint_url=given.source, config=config)

    def copy(number: int) -> None:
        if not hasattr(_mine, "kit"):
            _mine.kit = kit_for(given)
        answer = s3.get_object(Bucket=given.bucket, Key=str(number))
        small = answer["ContentLength"] <= BUFFER_BYTES
        body = answer["Body"].read() if small else answer["Body"].iter_chunks(1 << 20)
        _, answer = _mine.kit.stream_upload(body, f"/{given.cpcode}/{number}")
        answer.raise_for_status()  # the kit's own verdict knows 200 alone, and the sink says 201

    with ThreadPoolExecutor(given.threads) as threads:
        list(threads.map(copy, range(given.count)))


def poc(given: argparse.Namespace) -> None:
    """Copy every object the documented way; the queue's messages are as its Lambda writes them, near enough."""
    done = 0
    while done < given.count:
        answer = client("sqs", given.queue).receive_message(
            QueueUrl=given.queue_url,
            AttributeNames=["All"],
            MaxNumberOfMessages=5,
            VisibilityTimeout=30,
            WaitTimeSeconds=0,
        )
        for message in answer.get("Messages", []):
            key = json.loads(message["Body"])["key"]
            client("s3", given.source).download_file(given.bucket, key, key)
            kit_for(given).upload(key, f"/{given.cpcode}/{key}")[1].raise_for_status()
            client("sqs", given.queue).delete_message(QueueUrl=given.queue_url, ReceiptHandle=message["ReceiptHandle"])
            done += 1


def client(service: str, url: str) -> Any:
    """Make a client for one call."""
    return boto3.client(service, region_name="us-east-1", endpoint_url=url, config=_PATH_STYLE)  # type: ignore[call-overload,unused-ignore]  # any service


def kit_for(given: argparse.Namespace) -> Any:
    """Make Akamai's kit, with a session of its own."""
    return Netstorage(given.target, given.user, given.key, ssl=given.source.startswith("https:"))


def main() -> None:
    """Read the command line, work, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=["pool", "poc"])
    for name in ("source", "target", "bucket", "cpcode", "user", "key", "queue", "queue-url"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--threads", type=int, default=16)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # memory: no disk is measured
        os.chdir(folder)
        cpu_s, wall_s = time.process_time(), time.perf_counter()
        (pool if given.way == "pool" else poc)(given)
        print(json.dumps({"cpu_s": time.process_time() - cpu_s, "wall_s": time.perf_counter() - wall_s}))


if __name__ == "__main__":
    main()
