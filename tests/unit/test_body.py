"""The streaming body: the same bytes or a typed error, whatever the connection does; never a clean short end."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterable, Sequence

import pytest
from awscrt import checksums
from hypothesis import given
from hypothesis import strategies as st

from s3nsync.body import CHUNK_BYTES, OpenObject
from s3nsync.errors import (
    ConnectionLost,
    S3nsyncError,
    SourceChanged,
    SourceCorrupt,
    SourceUnavailable,
    TlsRefused,
)
from s3nsync.model import ObjectRef, SourceInfo
from s3nsync.pacing import Backoff

REF = ObjectRef("bucket", "key")


class Wire:
    """S3 as seen by one body: each connection gives pieces of the object, then does what the plan says.

    A plan's step is (lengths of the pieces, the end): an error is raised, None ends the stream cleanly.
    """

    def __init__(self, data: bytes, plan: Iterable[tuple[Sequence[int], S3nsyncError | None]]) -> None:
        """Serve `data`, connection by connection as planned; past the plan all goes well."""
        self.data = data
        self.plan = iter(plan)
        self.open_streams = 0
        self.offsets: list[int] = []
        self.slept_s: list[float] = []
        self.refusals: list[S3nsyncError] = []

    async def reopen(self, offset: int) -> WireStream:
        """Answer a ranged GET, or refuse it with the next of `refusals`."""
        self.offsets.append(offset)
        if self.refusals:
            raise self.refusals.pop(0)
        return WireStream(self, offset)

    async def sleep(self, seconds: float) -> None:
        """Note the wait instead of waiting."""
        self.slept_s.append(seconds)

    def body(
        self, *, size: int | None = None, sums: dict[str, str] | None = None, chunk_bytes: int = CHUNK_BYTES
    ) -> OpenObject:
        """Open the object."""
        info = SourceInfo(
            size_bytes=len(self.data) if size is None else size, etag="e", last_modified_s=0, checksums=sums or {}
        )
        return OpenObject(
            REF,
            info,
            WireStream(self, 0),
            reopen=self.reopen,
            sleep=self.sleep,
            backoff=Backoff(1, 8, lambda: 0.0),
            chunk_bytes=chunk_bytes,
        )


class WireStream:
    """One connection's answer."""

    def __init__(self, wire: Wire, offset: int) -> None:
        """Begin at `offset`."""
        self._wire = wire
        self._offset = offset
        self._closed = False
        wire.open_streams += 1

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give pieces by the next step of the plan; past the plan, all that is left."""
        lengths, end = next(self._wire.plan, ([len(self._wire.data)], None))
        for length in lengths:
            piece = self._wire.data[self._offset : self._offset + length]
            self._offset += len(piece)
            await asyncio.sleep(0)
            if piece:
                yield piece
        if end is not None:
            raise end

    async def aclose(self) -> None:
        """Close once."""
        if not self._closed:
            self._closed = True
            self._wire.open_streams -= 1


def lost() -> ConnectionLost:
    """Make the error of a broken connection."""
    return ConnectionLost("reset", sent=True)


def crc64(data: bytes) -> dict[str, str]:
    """Announce the object's CRC64NVME, as S3 does for most new objects."""
    return {"crc64nvme": f"{checksums.crc64nvme(data):016x}"}


async def test_resumes_at_the_byte_reached() -> None:
    """After a reset reading goes on from the very byte reached, and the whole is the object."""
    wire = Wire(b"abcdefghij", [([3], lost()), ([2], None)])
    opened = wire.body(sums=crc64(b"abcdefghij"))
    assert await opened.read_all() == b"abcdefghij"
    assert wire.offsets == [3, 5]
    await opened.aclose()
    await opened.aclose()
    assert wire.open_streams == 0


async def test_gives_up_after_three_tries_without_a_byte() -> None:
    """Three new connections in a row without a byte are the end, told as the source's failure and not the target's."""
    wire = Wire(b"abcdef", [([2], lost()), *[([], lost())] * 9])
    with pytest.raises(SourceUnavailable, match="stopped at byte 2 of 6"):
        await wire.body().read_all()
    assert wire.offsets == [2, 2, 2]
    assert wire.slept_s == [0.5, 1.0, 2.0]
    assert wire.open_streams == 0


async def test_progress_starts_the_count_anew() -> None:
    """Any byte that arrives gives three fresh tries: a bad line is slow, not fatal."""
    wire = Wire(b"0123456789", [([1], lost())] * 9)
    assert await wire.body().read_all() == b"0123456789"
    assert len(wire.offsets) == 9
    assert set(wire.slept_s) == {0.5}


async def test_a_clean_early_end_is_a_stall_not_an_end() -> None:
    """An answer that ends short again and again is an error that says how far it got."""
    wire = Wire(b"abcdef", [([4], None), *[([], None)] * 9])
    with pytest.raises(SourceUnavailable, match="stopped at byte 4 of 6: S3 ended"):
        await wire.body().read_all()


async def test_another_version_stops_the_body_at_once() -> None:
    """When the resuming GET says that the object changed, nothing is tried again."""
    wire = Wire(b"abcdef", [([2], lost())])
    wire.refusals = [SourceChanged("412")]
    with pytest.raises(SourceChanged):
        await wire.body().read_all()
    assert wire.offsets == [2]


async def test_a_permanent_transport_error_is_not_tried_again() -> None:
    """A refused certificate does not get better by asking three times."""
    wire = Wire(b"abcdef", [([2], lost())])
    wire.refusals = [TlsRefused("unknown authority")]
    with pytest.raises(TlsRefused):
        await wire.body().read_all()
    assert wire.offsets == [2]


async def test_throttling_while_resuming_waits_as_long_as_s3_asks() -> None:
    """A SlowDown on the resuming GET counts as a try, and its Retry-After is honoured."""
    wire = Wire(b"abcdef", [([2], lost())])
    wire.refusals = [SourceUnavailable("SlowDown", retry_after_s=30.0)]
    assert await wire.body().read_all() == b"abcdef"
    assert wire.slept_s == [0.5, 30.0]


@pytest.mark.parametrize(
    ("name", "digest"),
    [
        ("crc64nvme", f"{checksums.crc64nvme(b'123456789'):016x}"),
        ("crc32c", "e3069283"),
        ("crc32", "cbf43926"),
    ],
)
async def test_checks_each_crc(name: str, digest: str) -> None:
    """The catalogue's check value passes (CRC RevEng: "123456789"), any other digest is SourceCorrupt."""
    assert await Wire(b"123456789", []).body(sums={name: digest}).read_all() == b"123456789"
    wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    opened = Wire(b"123456789", []).body(sums={name: wrong})
    with pytest.raises(SourceCorrupt, match=wrong):
        await opened.read_all()
    with pytest.raises(SourceCorrupt, match=wrong):
        await anext(opened.chunks())  # asking again does not turn it into a clean end


async def test_crc64nvme_known_value() -> None:
    """The library's CRC64NVME is the catalogue's CRC-64/NVME (check value ae8b14860a799888)."""
    assert checksums.crc64nvme(b"123456789") == 0xAE8B14860A799888


async def test_a_checksum_that_we_do_not_compute_is_no_objection() -> None:
    """SHA-256 alone is left to NetStorage; the body passes."""
    assert await Wire(b"abc", []).body(sums={"sha256": "00"}).read_all() == b"abc"


async def test_the_last_chunk_is_withheld_when_the_checksum_differs() -> None:
    """Bad bytes may flow, but never all of them: the upload cannot complete."""
    data = bytes(range(256)) * 4096  # 1 MiB
    sums = crc64(data[:-1] + b"!")
    opened = Wire(data, [([65_536] * 16, None)]).body(sums=sums)
    got = [await anext(opened.chunks()) for _ in range(3)]
    with pytest.raises(SourceCorrupt):
        await anext(opened.chunks())
    assert sum(map(len, got)) == len(data) - CHUNK_BYTES


async def test_chunks_are_large() -> None:
    """Small pieces off the socket are gathered: every chunk but the last has CHUNK_BYTES, and less than twice that."""
    data = b"x" * (CHUNK_BYTES * 3 + 5)
    lengths = [len(chunk) async for chunk in Wire(data, [([16_384] * 49, None)]).body().chunks()]
    assert all(CHUNK_BYTES <= n < 2 * CHUNK_BYTES for n in lengths[:-1])
    assert sum(lengths) == len(data)


async def test_an_empty_object_ends_at_once() -> None:
    """No chunk comes, the checksum is still compared, and nothing is read again."""
    wire = Wire(b"", [])
    assert [chunk async for chunk in wire.body(sums=crc64(b"")).chunks()] == []
    assert wire.offsets == []
    with pytest.raises(SourceCorrupt):
        await Wire(b"", []).body(sums=crc64(b"x")).read_all()


async def test_more_bytes_than_announced_are_corrupt() -> None:
    """An answer longer than its own length is never passed on, nor does asking again end cleanly."""
    opened = Wire(b"abcdef", []).body(size=4)
    for _ in range(2):
        with pytest.raises(SourceCorrupt, match="more than the 4 bytes"):
            await opened.read_all()


async def test_a_cancelled_read_loses_no_byte() -> None:
    """After a cancelled call the next one goes on where the pieces already read end."""
    wire = Wire(b"abcdef", [([1, 1, 1, 1, 1, 1], None)])
    opened = wire.body(sums=crc64(b"abcdef"))
    task = asyncio.ensure_future(opened.read_all())
    for _ in range(4):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert 0 < int(repr(opened).split(", ")[1].split()[0]) < 6
    assert await opened.read_all() == b"abcdef"


steps = st.tuples(
    st.lists(st.integers(0, 40), max_size=4),
    st.sampled_from(["reset", "end"]),
)


@given(data=st.binary(max_size=200), plan=st.lists(steps, max_size=12), known=st.booleans(), chunk=st.integers(1, 64))
def test_same_bytes_or_a_typed_error(
    data: bytes, plan: list[tuple[list[int], str]], *, known: bool, chunk: int
) -> None:
    """Cut anywhere, end anywhere, reset anywhere: the object's bytes, or an error of ours; never a clean short end."""

    async def scenario() -> None:
        wire = Wire(data, [(lengths, None if end == "end" else lost()) for lengths, end in plan])
        opened = wire.body(sums=crc64(data) if known else None, chunk_bytes=chunk)
        got = b""
        try:
            async for part in opened.chunks():
                got += part
        except (ConnectionLost, SourceUnavailable):
            assert data.startswith(got)
            assert len(got) < len(data)
        else:
            assert got == data
        assert all(offset < len(data) for offset in wire.offsets)
        await opened.aclose()
        assert wire.open_streams == 0

    asyncio.run(scenario())


@given(data=st.binary(min_size=1, max_size=100), at=st.integers(0, 99), bit=st.integers(0, 7))
def test_any_flipped_bit_is_caught(data: bytes, at: int, bit: int) -> None:
    """One bit that differs from what S3 announced never reaches the end of the body."""
    bad = bytearray(data)
    bad[at % len(data)] ^= 1 << bit
    sums = {"crc32": f"{zlib.crc32(data):08x}"}
    with pytest.raises(SourceCorrupt):
        asyncio.run(Wire(bytes(bad), []).body(sums=sums).read_all())
