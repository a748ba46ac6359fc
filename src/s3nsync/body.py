"""An object's bytes on their way from S3: resumed when the connection breaks, checked before the last of them leaves.

Two promises hold whatever the network does. The body ends cleanly only after exactly as many bytes as S3 announced:
when the connection breaks, stalls or ends early, reading goes on from the very byte reached, over a new GET that
`reopen` pins to the same version (Range and If-Match). And where S3 gave a checksum of the whole object, it is compared
before the last chunk is handed out: whoever uploads the chunks as they come can never complete an upload of bad bytes.

Checked here are the CRCs, because they cost next to nothing (CRC64NVME 20 GB/s, CRC32C 14 GB/s, CRC32 2 to 3 GB/s on
one core). Cryptographic digests cost more than the transfer itself; NetStorage checks those, at the other end.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol, Self

from awscrt import checksums

from s3nsync.errors import S3nsyncError, SourceCorrupt, SourceUnavailable, TransportError
from s3nsync.model import ObjectRef, SourceInfo
from s3nsync.pacing import Backoff

CHUNK_BYTES = 256 * 1024
"""Smallest chunk handed out, but for the last: above this, larger chunks no longer save CPU. Pieces off the socket are
at most that long too, so a chunk stays below twice as much."""

TRIES_PER_STALL = 3
"""How often reading is taken up again at one offset; any byte that arrives starts the count anew."""

CrcUpdate = Callable[[bytes, int], int]

_CRCS: tuple[tuple[str, int, CrcUpdate], ...] = (
    ("crc64nvme", 16, checksums.crc64nvme),
    ("crc32c", 8, checksums.crc32c),
    ("crc32", 8, zlib.crc32),
)
"""Name, hex digits, running update; the first that S3 gave is the one checked."""


class Stream(Protocol):
    """One answer's body: pieces until it ends or breaks."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the pieces in order; TransportError when the connection breaks."""

    async def aclose(self) -> None:
        """Let go of the connection."""


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


class OpenObject:
    """An object whose GET was answered: its facts, and its bytes once."""

    def __init__(
        self,
        ref: ObjectRef,
        info: SourceInfo,
        stream: Stream,
        *,
        reopen: Callable[[int], Awaitable[Stream]],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        backoff: Backoff = Backoff(),  # noqa: B008  (a frozen value)
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        """Begin at the first byte of `stream`; `reopen(offset)` answers with the same version's bytes from there on."""
        self.info = info
        self._ref = ref
        self._stream: Stream | None = stream
        self._pieces = stream.chunks()
        self._reopen = reopen
        self._sleep = sleep
        self._backoff = backoff
        self._chunk_bytes = chunk_bytes
        self._offset = 0
        self._gathered: list[bytes] = []
        self._failures = 0
        self._crc = Crc(info.checksums)

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
            self._check()
            raise StopAsyncIteration
        return await self._gather(self._chunk_bytes)

    async def read_all(self) -> bytes:
        """Give all bytes at once, checked; raises what `chunks` raises."""
        return await self._gather(self.info.size_bytes)

    async def aclose(self) -> None:
        """Let go of the connection; harmless after the end, and twice."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()

    async def _gather(self, least_bytes: int) -> bytes:
        """Give at least so many bytes, or all that are left; checked, if they are the last."""
        size_bytes = self.info.size_bytes
        gathered_bytes = sum(map(len, self._gathered))
        while self._offset < size_bytes and gathered_bytes < least_bytes:
            piece = await self._next_piece()
            self._gathered.append(piece)  # kept on the object: a cancelled or failed call must not lose bytes
            self._offset += len(piece)
            gathered_bytes += len(piece)
        if self._offset > size_bytes:
            raise SourceCorrupt(f"{self._ref}: S3 sent more than the {size_bytes} bytes that it announced")
        pieces, self._gathered = self._gathered, []
        chunk = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._crc.add(chunk)
        if self._offset == size_bytes:
            self._check()
        return chunk

    async def _next_piece(self) -> bytes:
        while True:
            try:
                if self._stream is None:
                    self._stream = await self._reopen(self._offset)
                    self._pieces = self._stream.chunks()
                piece = await anext(self._pieces, b"")
            except (TransportError, SourceUnavailable) as error:
                await self._stalled(error)
            else:
                if piece:
                    self._failures = 0
                    return piece
                await self._stalled(self._ended_early())

    async def _stalled(self, error: S3nsyncError) -> None:
        """Wait before the next try; re-raise if there is none left, or if a new try cannot help."""
        await self.aclose()
        self._failures += 1
        if not error.transient:
            raise error
        if self._failures > TRIES_PER_STALL:
            # Never a TransportError: inside an upload it would read as NetStorage's, and put the PUT in doubt.
            where = f"{self._ref}: reading stopped at byte {self._offset} of {self.info.size_bytes}"
            raise SourceUnavailable(f"{where}: {error.message}") from error
        await self._sleep(self._backoff.delay_s(self._failures, error.retry_after_s))

    def _ended_early(self) -> SourceUnavailable:
        return SourceUnavailable("S3 ended the answer there")

    def _check(self) -> None:
        mismatch = self._crc.mismatch()
        if mismatch:
            raise SourceCorrupt(f"{self._ref}: the {self.info.size_bytes} bytes that arrived are damaged: {mismatch}")


def _no_crc(_data: bytes, value: int) -> int:
    return value
