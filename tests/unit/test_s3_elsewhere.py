"""Buckets of other regions at AWS itself, where another region is another host: played by an S3 that checks signatures.

No stand-in for S3 has regional hosts, so that the client's HTTP is what is played here: a host answers for its region.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Self, cast

import pytest

from s3nsync.http import Fields, Header, Headers, Http, Origin
from s3nsync.model import Gone, ObjectRef
from s3nsync.s3 import S3
from s3nsync.sigv4 import EMPTY_SHA256, Credentials, Signer

KEYS = Credentials("AKIDEXAMPLE", "a-secret")
HOME = "eu-west-1"
REDIRECT = b"<Error><Code>PermanentRedirect</Code><Message>elsewhere</Message></Error>"
MISMATCH = b"<Error><Code>SignatureDoesNotMatch</Code><Message>no</Message></Error>"


class Keys:
    """Gives always the same key."""

    async def get(self) -> Credentials:
        """Give it."""
        return KEYS

    async def renew(self, _rejected: Credentials) -> Credentials:
        """Have no other."""
        return KEYS


class Said:
    """An answer that is wholly here."""

    complete, early, reason = True, False, ""

    def __init__(self, status: int, headers: Sequence[Header], body: bytes) -> None:
        """Say it."""
        self.status, self.headers, self._body = status, Headers(headers), body

    def take(self) -> bytes:
        """Give the body."""
        return self._body

    async def read(self, _limit_bytes: int = 0) -> bytes:
        """Give the body."""
        return self._body

    async def aclose(self) -> None:
        """Be done."""

    async def __aenter__(self) -> Self:
        """Enter."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Be done."""


class Regions:
    """S3's hosts, as the client's HTTP: `slow` targets wait for a connection to us-east-1 until `connected`."""

    def __init__(self, *slow: str) -> None:
        """Have the bucket at home only."""
        self.connected = asyncio.Event()
        self.asked: list[tuple[str, str]] = []
        self.now_s: Callable[[], float] = lambda: 1_000.0
        self._slow = slow

    async def send(
        self, origin: Origin, method: str, target: str, *, headers: Callable[[], Fields], **_: object
    ) -> Said:
        """Redirect where the bucket is not, and refuse a signature that is not for this host and its region."""
        region = origin.host.split(".")[2]
        if region != HOME and target in self._slow:
            await self.connected.wait()
        lines = headers()
        assert isinstance(lines, str)
        signer = Signer(KEYS, region=region, service="s3")
        mode = (("x-amz-checksum-mode", "ENABLED"),)
        signed = signer.sign(
            method, target, origin.authority, headers=mode, payload_sha256=EMPTY_SHA256, now_s=self.now_s()
        )
        self.asked.append((region, target))
        if f"Authorization: {dict(signed)['Authorization']}\r\n" not in lines:
            return Said(403, [], MISMATCH)
        if region != HOME:
            return Said(301, [("x-amz-bucket-region", HOME)], REDIRECT)
        facts = [("content-length", "1"), ("etag", '"x"'), ("last-modified", "Mon, 23 Nov 2026 05:00:00 GMT")]
        return Said(200, facts, b"x")


async def test_a_bucket_abroad_is_asked_at_its_own_host() -> None:
    """At AWS the one redirect is followed to the other region's host, with its signature; later requests go there."""
    regions = Regions()
    s3 = S3(cast("Http", regions), region="us-east-1", credentials=Keys(), now_s=lambda: 1_000.0)
    for key in ("a", "b"):
        assert not isinstance(await s3.open(ObjectRef("bkt", key)), Gone)
    assert regions.asked == [("us-east-1", "/a"), (HOME, "/a"), (HOME, "/b")]


@pytest.mark.parametrize("another_second", [False, True])
async def test_a_bucket_that_moves_under_requests_on_their_way(*, another_second: bool) -> None:
    """A request that connects while another learns where the bucket is keeps host and signature together, and follows.

    Its signature once mixed old host and new region, and went into what the requests to the new host shared.
    """
    now_s = 999.0 if another_second else 1_000.0
    told: list[str] = []
    regions = Regions("/late")
    s3 = S3(
        cast("Http", regions),
        region="us-east-1",
        credentials=Keys(),
        now_s=lambda: now_s,
        on_elsewhere=lambda _bucket, region: told.append(region),
    )
    regions.now_s = lambda: now_s
    late = asyncio.ensure_future(s3.open(ObjectRef("bkt", "late")))
    await asyncio.sleep(0)
    assert not isinstance(await s3.open(ObjectRef("bkt", "first")), Gone)
    now_s = 1_000.0  # what a second's requests share is made anew, or what the first one has left
    regions.connected.set()
    assert not isinstance(await late, Gone)
    assert not isinstance(await s3.open(ObjectRef("bkt", "next")), Gone)
    assert regions.asked[-2:] == [(HOME, "/late"), (HOME, "/next")]
    assert told == [HOME]
