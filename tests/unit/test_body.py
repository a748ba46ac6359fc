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
from s3nsync.pacing import Backoff, ByteBudget
from s3nsync.spans import Ahead

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
        self.read_bytes = 0
        self.piece_bytes = 0
        self.offsets: list[int] = []
        self.slept_s: list[float] = []
        self.refusals: list[S3nsyncError] = []

    async def reopen(self, offset: int, stop: int) -> WireStream:
        """Answer a ranged GET, or refuse it with the next of `refusals`."""
        self.offsets.append(offset)
        if self.refusals:
            raise self.refusals.pop(0)
        return WireStream(self, offset, stop)

    async def sleep(self, seconds: float) -> None:
        """Note the wait instead of waiting."""
        self.slept_s.append(seconds)

    def body(
        self,
        *,
        size: int | None = None,
        sums: dict[str, str] | None = None,
        chunk_bytes: int = CHUNK_BYTES,
        ahead: Ahead | None = None,
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
            ahead=ahead,
        )


class WireStream:
    """One connection's answer."""

    def __init__(self, wire: Wire, offset: int, stop: int | None = None) -> None:
        """Begin at `offset`, and end before `stop`."""
        self._wire = wire
        self._offset = offset
        self._data = wire.data[:stop]
        self._closed = False
        wire.open_streams += 1

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give pieces by the next step of the plan; past the plan, all that is left."""
        lengths, end = next(self._wire.plan, ([self._wire.piece_bytes or len(self._wire.data)] * 300, None))
        for length in lengths:
            piece = self._data[self._offset : self._offset + length]
            self._offset += len(piece)
            self._wire.read_bytes += len(piece)
            await asyncio.sleep(0)
            if piece:
                yield piece
        if end is not None:
            raise end

    def take(self) -> bytes | None:
        """Have nothing complete: all is still to come."""
        return None

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


class Complete(WireStream):
    """An answer whose body came along with its head."""

    def take(self) -> bytes | None:
        """Give the rest, once."""
        taken, self._offset = self._data[self._offset :], len(self._data)
        return taken


def opened_whole(data: bytes, *, size: int, sums: dict[str, str]) -> tuple[Wire, OpenObject]:
    """Open an object whose answer is complete, and announced as `size` bytes."""
    wire = Wire(data, [])
    info = SourceInfo(size_bytes=size, etag="e", last_modified_s=0, checksums=sums)
    return wire, OpenObject(REF, info, Complete(wire, 0), reopen=wire.reopen, sleep=wire.sleep)


async def test_a_body_that_is_here_already_is_checked_too() -> None:
    """What came along with the head is given out whole if the checksum agrees, and not at all if it does not."""
    wire, opened = opened_whole(b"abc", size=3, sums=crc64(b"abc"))
    assert await opened.read_all() == b"abc"
    assert await anext(opened.chunks(), b"end") == b"end"
    await opened.aclose()
    assert wire.offsets == []
    with pytest.raises(SourceCorrupt, match="crc64nvme"):
        await opened_whole(b"abc", size=3, sums=crc64(b"abd"))[1].read_all()


async def test_a_body_that_is_here_already_has_the_announced_size() -> None:
    """More bytes than announced are damage; fewer are read on from where they end."""
    with pytest.raises(SourceCorrupt, match="3 bytes"):
        await opened_whole(b"abcd", size=3, sums={})[1].read_all()
    wire, opened = opened_whole(b"ab", size=3, sums={})
    wire.data = b"abc"
    assert await opened.read_all() == b"abc"
    assert wire.offsets == [2]


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
        with pytest.raises(SourceCorrupt, match="more than the bytes up to 4"):
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


PIECE = 40

steps = st.tuples(
    st.lists(st.integers(0, PIECE), max_size=4),
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


# --- several connections at once -----------------------------------------------------------------------------------


def ahead_of(streams: int, range_bytes: int, *, from_bytes: int = 0, budget: ByteBudget | None = None) -> Ahead:
    """Read ahead out of a budget of which this window is half."""
    return Ahead(streams, from_bytes, range_bytes, budget or ByteBudget(2 * streams * range_bytes))


@given(
    data=st.binary(max_size=300),
    plan=st.lists(steps, max_size=12),
    known=st.booleans(),
    chunk=st.integers(1, 40),
    streams=st.integers(2, 5),
    range_bytes=st.integers(1, 60),
    stop_after=st.none() | st.integers(0, 5),
)
def test_read_ahead_gives_the_same_bytes_or_a_typed_error(
    data: bytes,
    plan: list[tuple[list[int], str]],
    *,
    known: bool,
    chunk: int,
    streams: int,
    range_bytes: int,
    stop_after: int | None,
) -> None:
    """In order, whole and never more than a window in memory, however the connections end and whenever one stops."""

    async def scenario() -> None:
        wire = Wire(data, [(lengths, None if end == "end" else lost()) for lengths, end in plan])
        wire.piece_bytes = PIECE
        ahead = ahead_of(streams, range_bytes)
        opened = wire.body(sums=crc64(data) if known else None, chunk_bytes=chunk, ahead=ahead)
        got, chunks = b"", 0
        try:
            async for part in opened.chunks():
                got += part
                chunks += 1
                assert wire.read_bytes - len(got) <= streams * range_bytes + PIECE  # what the first GET goes on with
                if chunks == stop_after:
                    break
            else:
                assert got == data
        except SourceUnavailable:
            assert len(got) < len(data)
        assert data.startswith(got)
        await opened.aclose()
        assert wire.open_streams == 0
        assert ahead.budget.in_use_bytes == 0
        assert len(asyncio.all_tasks()) == 1

    asyncio.run(scenario())


async def test_read_ahead_asks_for_each_range_once_and_in_step() -> None:
    """The GET under way gives the first range; so many others are asked for at once, and the next as one is used up."""
    data = bytes(range(100))
    wire = Wire(data, [])
    opened = wire.body(sums=crc64(data), chunk_bytes=10, ahead=ahead_of(3, 10))
    assert await anext(opened.chunks()) == data[:10]
    for _ in range(5):
        await asyncio.sleep(0)
    assert wire.offsets == [10, 20]
    assert await anext(opened.chunks()) == data[10:20]
    assert await opened.read_all() == data[20:]
    assert wire.offsets == [10, 20, 30, 40, 50, 60, 70, 80, 90]
    assert wire.open_streams == 0
    await opened.aclose()


async def test_no_memory_to_spare_means_one_stream_until_there_is() -> None:
    """Nobody who waits for memory is passed, nothing is waited for, and what is left later is read ahead."""
    data = bytes(200)
    wire, budget = Wire(data, [([10] * 20, None)]), ByteBudget(60)
    opened = wire.body(chunk_bytes=10, ahead=ahead_of(3, 10, budget=budget))
    held = await budget.take(40, "other")
    for _ in range(3):
        await anext(opened.chunks())
    assert wire.offsets == []
    assert budget.in_use_bytes == 40
    budget.give_back(held, "other")
    await anext(opened.chunks())
    assert budget.in_use_bytes == 30
    assert wire.offsets == [40, 50]
    await opened.aclose()
    assert budget.in_use_bytes == 0


async def test_what_is_left_of_a_small_object_is_not_read_ahead() -> None:
    """Below the size named one GET it is."""
    wire = Wire(bytes(99), [([10] * 10, None)])
    opened = wire.body(chunk_bytes=10, ahead=ahead_of(3, 10, from_bytes=100))
    assert sum([len(part) async for part in opened.chunks()]) == 99
    assert wire.offsets == []


async def test_another_version_in_a_range_ends_the_body() -> None:
    """A range whose version is gone fails when its turn comes, each time it is asked, and leaves nothing open."""
    data = bytes(100)
    wire = Wire(data, [])
    wire.refusals = [SourceChanged("412")]
    opened = wire.body(chunk_bytes=10, ahead=ahead_of(3, 10))
    assert len(await anext(opened.chunks())) == 10
    for _ in range(2):
        with pytest.raises(SourceChanged):
            await anext(opened.chunks())
    await opened.aclose()
    assert wire.open_streams == 0


async def test_a_range_longer_than_asked_for_is_corrupt() -> None:
    """Bytes beyond a range's end would shift all that follow: none of them is passed on."""

    class Generous(Wire):
        async def reopen(self, offset: int, stop: int) -> WireStream:
            return await super().reopen(offset, stop + 1)

    opened = Generous(bytes(100), []).body(chunk_bytes=10, ahead=ahead_of(3, 10))
    assert len(await anext(opened.chunks())) == 10
    for _ in range(2):
        with pytest.raises(SourceCorrupt, match="more than the bytes up to 20"):
            await anext(opened.chunks())
    await opened.aclose()


async def test_a_bug_while_reading_ahead_is_raised_where_the_bytes_are_missed() -> None:
    """What is no error of ours ends the read too: nobody waits for bytes that will not come."""

    class Broken(Wire):
        async def reopen(self, offset: int, stop: int) -> WireStream:
            raise ZeroDivisionError(offset, stop)

    opened = Broken(bytes(100), []).body(chunk_bytes=10, ahead=ahead_of(3, 10))
    await anext(opened.chunks())
    with pytest.raises(ZeroDivisionError):
        await anext(opened.chunks())
    await opened.aclose()


async def test_closing_before_a_task_has_begun_leaves_nothing_open() -> None:
    """A read that is cancelled at once closes the first connection too."""
    wire = Wire(bytes(100), [])
    opened = wire.body(chunk_bytes=10, ahead=ahead_of(3, 10))
    task = asyncio.ensure_future(anext(opened.chunks()))
    await asyncio.sleep(0)
    task.cancel()
    await opened.aclose()
    assert wire.open_streams == 0
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await opened.read_all() == bytes(100)  # one that was closed is read on plainly


@given(data=st.binary(min_size=1, max_size=100), at=st.integers(0, 99), bit=st.integers(0, 7))
def test_any_flipped_bit_is_caught(data: bytes, at: int, bit: int) -> None:
    """One bit that differs from what S3 announced never reaches the end of the body."""
    bad = bytearray(data)
    bad[at % len(data)] ^= 1 << bit
    sums = {"crc32": f"{zlib.crc32(data):08x}"}
    with pytest.raises(SourceCorrupt):
        asyncio.run(Wire(bytes(bad), []).body(sums=sums).read_all())
