"""One object by several ranged GETs: against a local AWS, and a server that answers some of them as it should not."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import pytest
from awscrt import checksums

from aws_emulator import REGION, Aws
from hostile import Peer, hostile
from s3nsync.body import OpenObject
from s3nsync.errors import SourceChanged, SourceCorrupt, SourceError, SourceForbidden, SourceUnavailable
from s3nsync.http import Http
from s3nsync.model import Gone, ObjectRef
from s3nsync.pacing import Backoff, ByteBudget
from s3nsync.s3 import S3
from s3nsync.sigv4 import Credentials
from s3nsync.spans import Ahead

DATA = bytes(i * 31 % 251 for i in range(3_000_000))
STREAMS, RANGE_BYTES = 3, 400_000
CRC = base64.b64encode(checksums.crc64nvme(DATA).to_bytes(8, "big")).decode()
REF = ObjectRef("bucket", "k")


class Keys:
    """Credentials that are never renewed."""

    def __init__(self, keys: Credentials) -> None:
        """Hold the keys."""
        self._keys = keys

    async def get(self) -> Credentials:
        """Give them."""
        return self._keys

    async def renew(self, _refused: Credentials) -> Credentials:
        """Give the same."""
        return self._keys


@dataclass
class Ranges:
    """An S3 with one object; `odd` may give another answer to the GET of a range from its first byte and try."""

    odd: Callable[[int, int], bytes | None] = lambda _start, _try: None
    data: bytes = DATA
    asked: list[tuple[int, int]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    async def __call__(self, peer: Peer) -> None:
        """Answer one connection's requests; an answer that is cut short ends the connection."""
        while True:
            head = (await peer.head()).decode()
            self.heads.append(head)
            found = re.search(r"Range: bytes=(\d+)-(\d+)\r\n", head)
            if found is None:
                await peer.send(answer(200, self.data, f"x-amz-checksum-crc64nvme: {CRC}\r\n"))
                continue
            start, last = int(found[1]), int(found[2])
            self.asked.append((start, last))
            odd = self.odd(start, sum(asked[0] == start for asked in self.asked))
            if odd is not None:
                await peer.send(odd)
                return
            await peer.send(part(start, last, self.data[start : last + 1]))


def answer(status: int, body: bytes, headers: str = "") -> bytes:
    """Word an answer."""
    return (
        f'HTTP/1.1 {status} Said\r\nETag: "e1"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n'
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    ).encode() + body


def part(start: int, last: int, body: bytes) -> bytes:
    """Word the answer to a GET of a range."""
    return answer(206, body, f"Content-Range: bytes {start}-{last}/{len(DATA)}\r\n")


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    """Give a client whose connections must all be at rest in the end."""
    async with Http() as client:
        yield client
        assert re.search(r"[1-9]\d* busy", repr(client)) is None


def reader(http: Http, endpoint: str, keys: Credentials, budget: ByteBudget) -> S3:
    """Read by STREAMS connections at once, without real waits."""

    async def no_wait(_seconds: float) -> None:
        pass

    return S3(
        http,
        region=REGION,
        credentials=Keys(keys),
        endpoint=endpoint,
        sleep=no_wait,
        backoff=Backoff(0.001, 0.001),
        ahead=Ahead(STREAMS, RANGE_BYTES, RANGE_BYTES, budget),
    )


async def copy(http: Http, endpoint: str, keys: Credentials = Credentials("AKID", "secret")) -> bytes:  # noqa: B008
    """Read REF's bytes chunk by chunk; nothing may be held afterwards, whatever happens."""
    budget = ByteBudget(2 * STREAMS * RANGE_BYTES)
    opened = await reader(http, endpoint, keys, budget).open(REF)
    assert not isinstance(opened, Gone)
    got = bytearray()
    try:
        async with asyncio.timeout(120):
            await drain(opened, got)
    finally:
        await opened.aclose()
        assert budget.in_use_bytes == 0
        assert len(got) == len(DATA) or DATA.startswith(bytes(got))
    return bytes(got)


async def drain(opened: OpenObject, into: bytearray) -> None:
    """Read chunk by chunk to the end."""
    async for chunk in opened.chunks():
        into += chunk


async def test_an_object_read_in_ranges_is_the_object(aws: Aws, http: Http) -> None:
    """The real thing understands the ranges, and the bytes match its own checksum."""
    bucket = aws.bucket()
    aws.s3.put_object(Bucket=bucket, Key="k", Body=DATA, ChecksumCRC64NVME=CRC)
    s3 = reader(http, aws.url, aws.keys, ByteBudget(2 * STREAMS * RANGE_BYTES))
    opened = await s3.open(ObjectRef(bucket, "k"))
    assert not isinstance(opened, Gone)
    assert b"".join([chunk async for chunk in opened.chunks()]) == DATA
    await opened.aclose()


async def test_an_overwrite_while_reading_ranges_never_mixes_versions(aws: Aws, http: Http) -> None:
    """Ranges asked for after the overwrite are refused by S3 itself, for each names the version."""
    bucket = aws.bucket()
    aws.s3.put_object(Bucket=bucket, Key="k", Body=DATA)
    s3 = reader(http, aws.url, aws.keys, ByteBudget(2 * STREAMS * RANGE_BYTES))
    opened = await s3.open(ObjectRef(bucket, "k"))
    assert not isinstance(opened, Gone)
    got = bytearray(await anext(opened.chunks()))
    aws.s3.put_object(Bucket=bucket, Key="k", Body=DATA[::-1])
    with pytest.raises(SourceChanged):
        await drain(opened, got)
    await opened.aclose()
    assert DATA.startswith(got)


async def test_every_range_names_the_version_and_is_asked_once(http: Http) -> None:
    """One GET without a range, then the rest by ranges that meet, each with If-Match."""
    ranges = Ranges()
    async with hostile(ranges) as server:
        assert await copy(http, str(server.origin)) == DATA
    starts = range(RANGE_BYTES, len(DATA), RANGE_BYTES)
    assert sorted(ranges.asked) == [(start, min(start + RANGE_BYTES, len(DATA)) - 1) for start in starts]
    assert all('If-Match: "e1"\r\n' in head for head in ranges.heads if "Range:" in head)
    assert sum("Range:" not in head for head in ranges.heads) == 1


ODD = 2 * RANGE_BYTES
WHOLE = DATA[ODD : ODD + RANGE_BYTES]


@pytest.mark.parametrize(
    "odd",
    [
        part(ODD, ODD + RANGE_BYTES - 1, WHOLE)[:-7],  # cut off
        part(ODD, ODD + RANGE_BYTES - 1, WHOLE[:-7]),  # less than it says
        answer(200, DATA),  # Range ignored: the whole again
        part(ODD + 1, ODD + RANGE_BYTES, WHOLE),  # another place
        answer(206, WHOLE),  # no word about the place
        answer(206, WHOLE, f"Content-Range: bytes {ODD}-{ODD + RANGE_BYTES - 1}/1\r\n"),  # another size
        answer(503, b"<Error><Code>SlowDown</Code></Error>"),
        b"HTTP/1.1 what\r\n\r\n",
        b"",
    ],
    ids=["cut", "short", "whole", "elsewhere", "no-range", "other-size", "slow-down", "garbage", "silence"],
)
async def test_a_bad_answer_to_a_range_costs_one_more_request(http: Http, odd: bytes) -> None:
    """What is missing is asked for again, from where it stopped; the body is the object. Three times is the end."""
    ranges = Ranges(lambda start, tries: odd if start == ODD and tries == 1 else None)
    async with hostile(ranges) as server:
        assert await copy(http, str(server.origin)) == DATA
    if not odd.endswith(WHOLE[-7:]) and WHOLE[:100] in odd and b" 200 " not in odd:
        assert (ODD + RANGE_BYTES - 7, ODD + RANGE_BYTES - 1) in ranges.asked
    always = Ranges(lambda start, _tries: odd if ODD <= start < ODD + RANGE_BYTES else None)
    async with hostile(always) as server:
        with pytest.raises((SourceUnavailable, SourceCorrupt)):
            await copy(http, str(server.origin))


@pytest.mark.parametrize(
    ("odd", "kind"),
    [
        (answer(412, b"<Error><Code>PreconditionFailed</Code></Error>"), SourceChanged),
        (answer(404, b"<Error><Code>NoSuchKey</Code></Error>"), SourceChanged),
        (answer(416, b"<Error><Code>InvalidRange</Code></Error>"), SourceChanged),
        (answer(403, b"<Error><Code>AccessDenied</Code></Error>"), SourceForbidden),
    ],
)
async def test_a_range_that_cannot_be_had_ends_the_read(http: Http, odd: bytes, kind: type[SourceError]) -> None:
    """A version that is gone is SourceChanged, a refusal what it says; neither is asked for again."""
    ranges = Ranges(lambda start, _tries: odd if start == ODD else None)
    async with hostile(ranges) as server:
        with pytest.raises(kind):
            await copy(http, str(server.origin))
    assert sum(start == ODD for start, _ in ranges.asked) == 1


async def test_damage_in_one_range_is_caught_by_the_checksum_of_the_whole(http: Http) -> None:
    """The ranges are checked together and in order: bad bytes never come to an end."""
    damaged = part(ODD, ODD + RANGE_BYTES - 1, b"!" + WHOLE[1:])
    ranges = Ranges(lambda start, _tries: damaged if start == ODD else None)
    got = bytearray()
    budget = ByteBudget(2 * STREAMS * RANGE_BYTES)
    async with hostile(ranges) as server:
        opened = await reader(http, str(server.origin), Credentials("AKID", "secret"), budget).open(REF)
        assert not isinstance(opened, Gone)
        with pytest.raises(SourceCorrupt, match="crc64nvme"):
            await drain(opened, got)
        await opened.aclose()
    assert len(got) < len(DATA)


async def test_a_cancelled_read_leaves_no_connection_and_no_task(http: Http) -> None:
    """A range that hangs does not hold up whoever gives up."""
    hangs = asyncio.Event()

    async def script(peer: Peer) -> None:
        head = await peer.head()
        if b"Range:" in head:
            hangs.set()
        await peer.send(answer(200, DATA) if b"Range:" not in head else part(0, 9, b"")[:-4])
        await peer.rest()

    budget = ByteBudget(2 * STREAMS * RANGE_BYTES)
    async with hostile(script) as server:
        opened = await reader(http, str(server.origin), Credentials("AKID", "secret"), budget).open(REF)
        assert not isinstance(opened, Gone)
        reading = asyncio.ensure_future(drain(opened, bytearray()))
        await hangs.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert budget.in_use_bytes > 0
        await opened.aclose()
        assert " 0 busy" in repr(http)
    assert budget.in_use_bytes == 0
