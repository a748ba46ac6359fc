"""What copying by `sync --direct` costs, beside the data path alone: many small objects, in the same run.

    findings -> Changes -> Express -> engine: GET, PUT and, after each copy, a second look

Servers, TLS and objects are those of data_path.py; the ways take turns. The second look is what copies owe that are not
alone with their keys, because live events go on beside them; `--direct` takes many of them together. Beside it stands
what the same would cost by a queue in memory and the real worker, which `--direct` keeps for what does not go well.
Listing both sides is not in it: listing.py measures that. The figure is CPU seconds; the ratio is taken round by round.

    python -m bench.backfill [--objects 20000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import ssl
import statistics
import tempfile
import time
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from operator import truediv
from pathlib import Path
from urllib.parse import quote

import uvloop
from bench.data_path import (
    BUCKET,
    CPCODE,
    KEY,
    USER,
    Case,
    Round,
    certify,
    copy_all,
    source,
    target,
)
from bench.path_client import AnyCredentials

from s3nsync.app import relax_collector
from s3nsync.compare import Scope, Section, SourceItem
from s3nsync.direct import CAPACITY
from s3nsync.engine import Replicator
from s3nsync.http import Http
from s3nsync.lanes import Lane
from s3nsync.model import Change, ObjectRef, QueueName, Report, Route
from s3nsync.netstorage import Account, NetStorage
from s3nsync.pacing import Breaker, ByteBudget
from s3nsync.queues.memory import MemoryQueue
from s3nsync.reconcile.backfill import LOT, Sent, backfill
from s3nsync.reconcile.express import Express
from s3nsync.reconcile.second_look import SecondLooks
from s3nsync.s3 import S3
from s3nsync.worker import Limits, Worker

ROUTE = Route(BUCKET, CPCODE)
WARM_UP = 2_000
WAYS = ("data path alone", "express, as --direct", "worker, no second look", "worker, looks together")


class Listed(S3):
    """S3 by nginx, which lists nothing: pages are made up from the files, and cost one real request each."""

    def __init__(self, home: Path, case: Case, http: Http, endpoint: str) -> None:
        """Know the files."""
        super().__init__(http, region="us-east-1", credentials=AnyCredentials(), endpoint=endpoint)
        self._keys = keys_of(case)
        self._contents = [_contents(key, (home / "root" / BUCKET / key).stat()) for key in self._keys]

    async def list_page(self, bucket: str, query: Sequence[tuple[str, str]]) -> bytes:
        """Word a page of ListObjectsV2."""
        asked = dict(query)
        await super().head(ObjectRef(bucket, self._keys[0]))
        start = bisect_right(self._keys, asked["start-after"])
        inner = "".join(self._contents[start : start + int(asked["max-keys"])])
        told = "<EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>"
        return f"<ListBucketResult>{told}{inner}</ListBucketResult>".encode()


def _contents(key: str, file: os.stat_result) -> str:
    """Word what a listing says of an object, as nginx's headers do."""
    modified = datetime.fromtimestamp(int(file.st_mtime), UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    etag = f"{int(file.st_mtime):x}-{file.st_size:x}"
    return (
        f"<Contents><Key>{quote(key)}</Key><LastModified>{modified}</LastModified><ETag>&quot;{etag}&quot;</ETag>"
        f"<Size>{file.st_size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )


def keys_of(case: Case) -> list[str]:
    """Give the keys in key order, as a backfill copies them."""
    return sorted(f"{case.name}/{number}" for number in range(case.count))


def listed(case: Case) -> list[Section]:
    """Give what two listings come to when NetStorage has nothing yet; made beforehand, as listing is not measured."""
    items = [SourceItem(key, case.size_bytes, 0) for key in keys_of(case)]
    return [Section([], items[at : at + 1_000], [], items[at].key) for at in range(0, len(items), 1_000)]


async def _each(sections: Sequence[Section]) -> AsyncGenerator[Section, None]:
    for section in sections:
        yield section


def _counting(left: int, done: Callable[[], None]) -> Callable[[Report], None]:
    """Hear of each object, and say when that was the last; what is not copied ends the bench."""

    def report(settled: Report) -> None:
        nonlocal left
        if settled.verb != "ack":
            raise SystemExit(f"not copied: {settled}")
        left -= 1
        if left == 0:
            done()

    return report


async def work_all(case: Case, engine: Replicator, gate: Breaker, name: QueueName) -> Round:
    """Copy every object of the case by a worker on queues in memory, all of them through one of its queues."""

    def queue(each: QueueName) -> MemoryQueue:
        return MemoryQueue(each, lease_s=300, clock_s=time.monotonic, now_s=time.time, capacity=CAPACITY)

    done = asyncio.Event()
    queues = {each: queue(each) for each in ("live", "bulk", "check")}
    worker = Worker(
        live=queues["live"],
        bulk=queues["bulk"],
        check=queues["check"],
        engine=engine,
        gate=gate,
        limits=Limits(max_in_flight=case.in_flight * 4 // 3, poll_wait_s=1),  # a quarter is kept for live events
        report=_counting(case.count, done.set),
        clock_s=time.monotonic,
        now_s=time.time,
    )
    sections = listed(case)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    working = asyncio.create_task(worker.run())
    await backfill(_each(sections), Scope(ROUTE, [ROUTE]), queues[name].send, Sent(), run="bench")
    await done.wait()
    worker.stop()
    found = Round(time.process_time() - cpu_s, time.perf_counter() - wall_s)
    for each in queues.values():
        await each.aclose()
    await working
    return found


async def send_all(case: Case, engine: Replicator, s3: S3) -> Round:
    """Copy every object of the case as `--direct` does when all goes well."""

    async def refuse(changes: Sequence[Change]) -> None:
        if changes:
            raise SystemExit(f"not copied: {changes}")

    done = asyncio.Event()
    express = Express(
        engine=engine,
        s3=s3,
        at_once=case.in_flight,
        leave=refuse,
        owe=refuse,
        report=_counting(case.count, done.set),
        clock_s=time.monotonic,
    )
    sections = listed(case)
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    working = asyncio.create_task(express.run())
    await backfill(_each(sections), Scope(ROUTE, [ROUTE]), express.send, Sent(), run="bench", together=LOT)
    await done.wait()
    express.stop()
    await working
    return Round(time.process_time() - cpu_s, time.perf_counter() - wall_s)


async def measure(
    whole: Case, rounds: int, home: Path, urls: tuple[str, int], tls: ssl.SSLContext
) -> dict[str, list[float]]:
    """Give objects a CPU second by way, a figure for each round but the first."""
    found: dict[str, list[float]] = {way: [] for way in WAYS}
    async with Http(tls=tls) as s3_http, Http(tls=tls) as ns_http:
        s3 = Listed(home, whole, s3_http, urls[0])
        gate = Breaker((ROUTE,), time.monotonic, on_stop=lambda *_: None, on_go=lambda *_: None)
        engine = Replicator(
            routes=(ROUTE,),
            source=s3,
            targets={"default": NetStorage(Account.parse(f"127.0.0.1:{urls[1]}", USER, KEY), ns_http)},
            lanes={"default": Lane(1024, time.monotonic)},
            budget=ByteBudget(64 << 20),
            gate=gate,
            backoff_s=lambda _attempt: 1.0,
            now_s=time.time,
            sleep=asyncio.sleep,
            offload=lambda update, data: asyncio.get_running_loop().run_in_executor(None, update, data),
            brake_s=lambda _route: 0.0,
            buffer_bytes=1 << 20,
        )
        for number in range(rounds + 1):
            # The first round is to get warm.
            case = whole if number else replace(whole, count=min(whole.count, WARM_UP))
            for way in WAYS:
                if way == WAYS[0]:
                    done = await copy_all(case, engine)
                elif way == WAYS[1]:
                    done = await send_all(case, engine, s3)
                elif way == WAYS[3]:
                    together = replace(engine, source=SecondLooks(s3))
                    done = await work_all(case, together, gate, "bulk")
                else:
                    done = await work_all(case, engine, gate, "live")
                if number:
                    found[way].append(case.count / done.cpu_s)
    return found


def main() -> None:
    """Run the bench and print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--objects", type=int, default=20_000)
    options.add_argument("--rounds", type=int, default=3)
    asked = options.parse_args()
    case = Case("k4", 4096, asked.objects, 64)
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tls = certify(home)
        url, port = stack.enter_context(source(home, [case])), stack.enter_context(target(home))
        relax_collector()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found = runner.run(measure(case, asked.rounds, home, (url, port), tls))
    print(
        f"{asked.objects:,} objects of 4 KiB, {asked.rounds} rounds, TLS on both sides, load {os.getloadavg()[0]:.1f}\n"
    )
    print("| way | objects per CPU-second: median (min to max) | of the data path |\n|---|--:|--:|")
    for way, each in found.items():
        ratio = statistics.median(map(truediv, each, found[WAYS[0]]))
        print(f"| {way} | {statistics.median(each):,.0f} ({min(each):,.0f} to {max(each):,.0f}) | {ratio:.0%} |")


if __name__ == "__main__":
    main()
