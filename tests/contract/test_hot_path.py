"""What a small object costs in requests, counted at both servers: one GET and one PUT, and nothing else."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import pytest

from hostile import Peer, hostile
from s3nsync.body import OpenObject
from s3nsync.emulator import Emulator, running
from s3nsync.engine import Debt, Replicator
from s3nsync.http import Answer, Http
from s3nsync.http.exchange import Exchange
from s3nsync.lanes import Lane
from s3nsync.model import Change, Copied, ObjectRef, Route
from s3nsync.netstorage import Account, NetStorage
from s3nsync.pacing import Breaker, ByteBudget
from s3nsync.s3 import S3
from s3nsync.sigv4 import Credentials

OBJECTS, IN_FLIGHT = 60, 8
ROUTE = Route("bucket", "123456")


class Keys:
    """Credentials that nobody checks."""

    async def get(self) -> Credentials:
        return Credentials("AKID", "secret", "token")

    async def renew(self, refused: Credentials) -> Credentials:
        return refused


@dataclass
class Held:
    """A hand on a live message whose lease holds."""

    exclusive: bool = True
    urgent: bool = True
    attempt: int = 1
    debt: Debt = field(default_factory=Debt)

    def check(self) -> None: ...

    def progress(self) -> None: ...

    def patience(self) -> AbstractContextManager[None]:
        return nullcontext()


class Bucket:
    """An S3 that has every object, and counts what it is asked."""

    def __init__(self, *, md5_etags: bool) -> None:
        self.asked: list[str] = []
        self._md5_etags = md5_etags

    async def __call__(self, peer: Peer) -> None:
        """Answer one connection's requests."""
        while head := await peer.head():
            method, target, _ = head.decode().split(" ", 2)
            self.asked.append(f"{method} {target}")
            body = target.encode() * 100
            etag = hashlib.md5(body, usedforsecurity=False).hexdigest() if self._md5_etags else "0-2"
            await peer.send(
                b"HTTP/1.1 200 OK\r\nLast-Modified: Mon, 23 Nov 2026 05:00:00 GMT\r\n"
                b'Content-Length: %d\r\nETag: "%s"\r\n\r\n%s' % (len(body), etag.encode(), body)
            )


@pytest.mark.parametrize("md5_etags", [True, False], ids=["digest-known", "digest-made"])
async def test_a_small_object_costs_one_get_and_one_put(md5_etags: bool) -> None:
    """No HEAD, stat or mkdir, nothing twice, whether S3 knows the digest or not; connections are kept all along."""
    bucket = Bucket(md5_etags=md5_etags)
    with running(Emulator(accounts={"user": "key"})) as emulator:
        async with hostile(bucket) as s3:
            await _copy_all(s3.origin, emulator.port)
        assert sorted(bucket.asked) == sorted(f"GET /bucket/d/{n}" for n in range(OBJECTS))
        assert emulator.counts() == {"upload": OBJECTS}
        assert len(emulator.snapshot()) >= OBJECTS
        assert s3.accepted <= IN_FLIGHT


async def test_copying_leaves_nothing_to_the_collector() -> None:
    """What an object's way was held by is freed as it is done with: the command lets the collector look rarely."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        with running(Emulator(accounts={"user": "key"})) as emulator:
            async with hostile(Bucket(md5_etags=False)) as s3:
                await _copy_all(s3.origin, emulator.port)
        gc.collect()
        left = [each for each in gc.garbage if isinstance(each, Answer | Exchange | OpenObject)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
    assert not left


async def _copy_all(s3_origin: object, target_port: int) -> None:
    async with asyncio.timeout(120), Http() as s3_http, Http() as ns_http:
        account = Account.parse(f"127.0.0.1:{target_port}", "user", "key", scheme="http")
        engine = Replicator(
            routes=(ROUTE,),
            source=S3(s3_http, region="us-east-1", credentials=Keys(), endpoint=str(s3_origin)),
            targets={"default": NetStorage(account, ns_http)},
            lanes={"default": Lane(IN_FLIGHT, time.monotonic)},
            budget=ByteBudget(1 << 20),
            gate=Breaker((ROUTE,), time.monotonic, on_stop=lambda *_: None, on_go=lambda *_: None),
            backoff_s=lambda _attempt: 1.0,
            now_s=time.time,
            sleep=asyncio.sleep,
            offload=asyncio.to_thread,
            brake_s=lambda _route: 0.0,
            buffer_bytes=1 << 20,
        )
        numbers = iter(range(OBJECTS))

        async def work() -> None:
            for number in numbers:
                ref = ObjectRef("bucket", f"d/{number}")
                assert isinstance(await engine.replicate(Change(ref, "put"), Held()), Copied)

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
