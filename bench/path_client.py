"""The data path alone, as a process to be measured: S3 GET, decision, digest, NetStorage PUT; no queue, no log.

Prints one line of JSON: {"cpu_s", "wall_s"} of the copying, without the start.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from s3nsync.app import relax_collector
from s3nsync.engine import Debt, Replicator
from s3nsync.http import Http, tls_context
from s3nsync.lanes import Lane
from s3nsync.model import Change, Copied, ObjectRef, Route
from s3nsync.netstorage import Account, NetStorage
from s3nsync.pacing import Breaker, ByteBudget
from s3nsync.s3 import S3
from s3nsync.sigv4 import Credentials


@dataclass
class AlwaysOurs:
    """A hand whose lease never ends: there is no queue."""

    exclusive: bool = True
    urgent: bool = True
    attempt: int = 1
    debt: Debt = field(default_factory=Debt)

    def check(self) -> None:
        """Hold."""

    def progress(self) -> None:
        """Move."""

    def patience(self) -> AbstractContextManager[None]:
        """Wait."""
        return nullcontext()


class AnyCredentials:
    """Any key will do: nobody checks it. It is one object for all, as a session's is for hours."""

    _any = Credentials("bench", "bench", None)

    async def get(self) -> Credentials:
        """Give the key."""
        return self._any

    async def renew(self, refused: Credentials) -> Credentials:
        """Give the same key."""
        return refused


async def copy_all(refs: Iterable[ObjectRef], engine: Replicator, in_flight: int) -> tuple[float, float]:
    """Replicate every object once, so many at a time; gives the seconds of CPU and of the clock that it took."""
    left = iter(refs)

    async def slot() -> None:
        for ref in left:
            outcome = await engine.replicate(Change(ref, "put"), AlwaysOurs())
            if not isinstance(outcome, Copied):
                raise SystemExit(f"{ref}: {outcome}")

    cpu_s, wall_s = time.process_time(), time.perf_counter()
    await asyncio.gather(*(slot() for _ in range(in_flight)))
    return time.process_time() - cpu_s, time.perf_counter() - wall_s


def engine_on(route: Route, endpoint: str, account: Account, s3_http: Http, ns_http: Http) -> Replicator:
    """Wire the engine as the product does, but for what belongs to a queue."""
    return Replicator(
        routes=(route,),
        source=S3(s3_http, region="us-east-1", credentials=AnyCredentials(), endpoint=endpoint),
        targets={"default": NetStorage(account, ns_http)},
        lanes={"default": Lane(1024, time.monotonic)},
        budget=ByteBudget(64 << 20),
        gate=Breaker((route,), time.monotonic, on_stop=lambda *_: None, on_go=lambda *_: None),
        backoff_s=lambda _attempt: 1.0,
        now_s=time.time,
        sleep=asyncio.sleep,
        offload=lambda update, data: asyncio.get_running_loop().run_in_executor(None, update, data),
        brake_s=lambda _route: 0.0,
        buffer_bytes=1 << 20,
    )


async def copy(given: argparse.Namespace) -> dict[str, float]:
    """Copy the objects of the bucket once."""
    tls = tls_context(given.ca_file)
    account = Account.parse(
        given.target, given.user, given.key, scheme="https" if given.source.startswith("https:") else "http"
    )
    async with Http(tls=tls) as s3_http, Http(tls=tls) as ns_http:
        engine = engine_on(Route(given.bucket, given.cpcode), given.source, account, s3_http, ns_http)
        refs = [ObjectRef(given.bucket, str(number)) for number in range(given.count)]
        relax_collector()
        cpu_s, wall_s = await copy_all(refs, engine, given.in_flight)
        return {"cpu_s": cpu_s, "wall_s": wall_s}


def main() -> None:
    """Read the command line, copy, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("source", "target", "ca-file", "bucket", "cpcode", "user", "key"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--in-flight", type=int, required=True)
    given = parser.parse_args()
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        found = asyncio.run(copy(given))
    else:
        found = uvloop.run(copy(given))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
