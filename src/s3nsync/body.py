"""An object's bytes on their way from S3: resumed when the connection breaks, checked before the last of them leaves.

Two promises hold whatever the network does. The body ends cleanly only after exactly as many bytes as S3 announced:
when the connection breaks, stalls or ends early, reading goes on from the very byte reached, over a new GET that
`reopen` pins to the same version (Range and If-Match). And where S3 gave a checksum of the whole object, it is compared
before the last chunk is handed out: whoever uploads the chunks as they come can never complete an upload of bad bytes.
How the bytes come, by one connection or by several, is the business of `spans`.

Checked here are the CRCs, because they cost next to nothing (CRC64NVME 20 GB/s, CRC32C 14 GB/s, CRC32 2 to 3 GB/s on
one core). Cryptographic digests cost more than the transfer itself; NetStorage checks those, at the other end.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Protocol, Self

from awscrt import checksums

from s3nsync.errors import SourceCorrupt
from s3nsync.model import ObjectRef, SourceInfo
from s3nsync.pacing import Backoff
from s3nsync.spans import Ahead, Reopen, Span, Stream, Window, open_window

CHUNK_BYTES = 256 * 1024
"""Smallest chunk handed out, but for the last: above this, larger chunks no longer save CPU. Pieces off the socket are
at most that long too, so a chunk stays below twice as much."""

CrcUpdate = Callable[[bytes, int], int]

_CRCS: tuple[tuple[str, int, CrcUpdate], ...] = (
    ("crc64nvme", 16, checksums.crc64nvme),
    ("crc32c", 8, checksums.crc32c),
    ("crc32", 8, zlib.crc32),
)
"""Name, hex digits, running update; the first that S3 gave is the one checked."""


class Crc:
    """A running checksum against the one that S3 announced; checks nothing if there is none that we can do."""

    def __init__(self, announced: Mapping[str, str]) -> None:
        """Choose among `announced`: algorithm name to hex digest of the whole object."""
        known = [crc for crc in _CRCS if crc[0] in announced]
        self._name, self._digits, self._update = known[0] if known else ("", 0, _no_crc)
        self._announced = announced.get(self._name, "")
        self._value = 0

    def add(self, data: bytes) -> None:
        """Take in the next bytes."""
        self._value = self._update(data, self._value)

    def mismatch(self) -> str:
        """Say how the bytes taken in differ from what was announced; empty if they do not."""
        found = f"{self._value:0{self._digits}x}" if self._name else ""
        return "" if found == self._announced else f"{self._name} is {found}, S3 announced {self._announced}"


def is_sound(whole: bytes, announced: Mapping[str, str]) -> bool:
    """Say whether a whole object has the checksum that S3 announced: in one go, as small objects come by thousands."""
    for name, digits, update in _CRCS:
        if name in announced:
            return f"{update(whole, 0):0{digits}x}" == announced[name]
    return True


class Opened(Stream, Protocol):
    """The answer to the first GET, whose body may be here already."""

    def take(self) -> bytes | None:
        """Give what is unread of the body if nothing of it is still to come; else None, and take nothing."""


class OpenObject:
    """An object whose GET was answered: its facts, and its bytes once."""

    def __init__(
        self,
        ref: ObjectRef,
        info: SourceInfo,
        stream: Opened,
        *,
        reopen: Reopen,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        backoff: Backoff = Backoff(),  # noqa: B008  (a frozen value)
        chunk_bytes: int = CHUNK_BYTES,
        ahead: Ahead | None = None,
    ) -> None:
        """Begin at the first byte of `stream`; `reopen(offset, stop)` answers with those bytes of the same version.

        With `ahead`, chunks are read by several connections at once where enough is left and memory is to spare.
        """
        self.info = info
        self._ref = ref
        self._reopen = reopen
        self._sleep = sleep
        self._backoff = backoff
        self._chunk_bytes = chunk_bytes
        self._ahead = ahead
        self._offset = 0
        self._gathered: list[bytes] = []
        self._crc: Crc | None = None
        self._sound = False
        self._stream: Opened | None = stream
        self._span: Span | None = None
        self._window: Window | None = None

    def __repr__(self) -> str:
        """Show how far reading got."""
        return f"OpenObject({self._ref}, {self._offset} of {self.info.size_bytes} bytes)"

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the bytes in order, in chunks of `chunk_bytes` or more but for the last.

        It ends only after all of them. Raises SourceCorrupt in place of the last chunk when the checksum differs,
        SourceChanged when another version took the object's place, and SourceUnavailable when TRIES_PER_STALL new
        connections brought no byte.
        """
        return self

    def __aiter__(self) -> Self:
        """Iterate over the chunks."""
        return self

    async def __anext__(self) -> bytes:
        """Give the next chunk."""
        if self._offset == self.info.size_bytes and not self._gathered:
            if not self._sound:
                self._check(b"")
            raise StopAsyncIteration
        if self._ahead is not None and self._window is None:
            self._window = self._open_window(self._ahead)
        await self._gather(self._chunk_bytes)
        return self._handed_out()

    async def read_all(self) -> bytes:
        """Give all bytes at once, checked; raises what `chunks` raises."""
        whole = None if self._stream is None else self._stream.take()
        if whole is not None:  # small objects come along with their heads: nothing can break any more
            self._stream, self._offset = None, len(whole)
            self._sound = len(whole) == self.info.size_bytes and is_sound(whole, self.info.checksums)
            if self._sound:
                return whole
            self._gathered.append(whole)
        if self._offset < self.info.size_bytes:
            await self._gather(self.info.size_bytes)
        return self._handed_out()

    async def aclose(self) -> None:
        """Let go of the connections; harmless after the end, and twice."""
        window, span, stream = self._window, self._span, self._stream
        if window is not None:
            self._window = self._ahead = None
            self._span = self._span_of(self._offset, self.info.size_bytes)
            await window.aclose()
        if span is not None:
            await span.aclose()  # a window's task that had not begun has not done it
        if stream is not None:
            await stream.aclose()

    def _begun(self) -> Span:
        """Give the span that is read, from the stream that was opened to begin with."""
        if self._span is None:
            stream, self._stream = self._stream, None
            self._span = self._span_of(self._offset, self.info.size_bytes, stream)
        return self._span

    def _span_of(self, at: int, stop: int, stream: Stream | None = None) -> Span:
        return Span(self._ref, at, stop, reopen=self._reopen, sleep=self._sleep, backoff=self._backoff, stream=stream)

    def _open_window(self, ahead: Ahead) -> Window | None:
        """Read the rest by several GETs at once, the first of them the one that is under way."""
        if self.info.size_bytes - self._offset < ahead.from_bytes:
            return None
        return open_window(ahead, lambda: self._spans(ahead.range_bytes))

    def _spans(self, range_bytes: int) -> Iterator[Span]:
        """Cut what is left at multiples of `range_bytes`: uploaders cut so too, and S3 serves whole parts best."""
        size_bytes = self.info.size_bytes
        ends_at = (self._offset // range_bytes + 1) * range_bytes
        first = self._begun()
        first.end_at(min(ends_at, size_bytes))
        yield first
        for start in range(ends_at, size_bytes, range_bytes):
            yield self._span_of(start, min(start + range_bytes, size_bytes))

    async def _gather(self, least_bytes: int) -> None:
        """Have at least so many bytes, or all that are left."""
        size_bytes = self.info.size_bytes
        reader = self._window or self._begun()
        gathered_bytes = sum(map(len, self._gathered))
        while self._offset < size_bytes and gathered_bytes < least_bytes:
            piece = await reader.next_piece()
            self._gathered.append(piece)  # kept on the object: a cancelled or failed call must not lose bytes
            self._offset += len(piece)
            gathered_bytes += len(piece)

    def _handed_out(self) -> bytes:
        """Give what was gathered; checked, if it is the last."""
        pieces, self._gathered = self._gathered, []
        chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._check(chunk)
        return chunk

    def _check(self, chunk: bytes) -> None:
        """Take the next chunk into the checksum, and compare that after the last."""
        self._crc = self._crc or Crc(self.info.checksums)
        self._crc.add(chunk)
        size_bytes = self.info.size_bytes
        if self._offset >= size_bytes:
            mismatch = self._crc.mismatch() if self._offset == size_bytes else f"there are {self._offset}"
            if mismatch:
                raise SourceCorrupt(f"{self._ref}: the {size_bytes} bytes that arrived are damaged: {mismatch}")


def _no_crc(_data: bytes, value: int) -> int:
    return value
