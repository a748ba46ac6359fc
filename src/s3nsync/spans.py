"""Bytes of one version of an object, off S3's connections and in order.

    Span     a run of bytes by one GET, taken up again from the very byte reached when its connection breaks
    Window   the rest of an object by several spans at once: the first is passed on as it comes, those behind it are
             read ahead into memory, and as each ends the next one begins

One connection to S3 carries some 85 to 90 MB/s (AWS, "Performance design patterns for Amazon S3"); where a PUT takes
more than that, one GET is not enough. Nobody can know that beforehand, so the user says how many, and from which size
on. The memory for it comes out of the process-wide budget, whole and only if it is to spare: a stream that holds bytes
never waits for more, and an object that gets none is read plainly. Each span holds all that it reads, so no connection
to S3 ever stands still because NetStorage is slow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from s3nsync.errors import S3nsyncError, SourceCorrupt, SourceUnavailable, TransportError
from s3nsync.model import ObjectRef
from s3nsync.pacing import Backoff, ByteBudget

TRIES_PER_STALL = 3
"""How often reading is taken up again at one offset; any byte that arrives starts the count anew."""

_OWNER: Final = "read ahead"
"""Whose bytes the windows are in the budget: no upload account has a space in its name."""


class Stream(Protocol):
    """One answer's body: pieces until it ends or breaks."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the pieces in order; TransportError when the connection breaks."""

    async def aclose(self) -> None:
        """Let go of the connection."""


Reopen = Callable[[int, int], Awaitable[Stream]]
"""Answers with the bytes of one version from one offset up to another, the latter left out."""


@dataclass(frozen=True, slots=True)
class Ahead:
    """How large objects are read: by `streams` GETs at once for `range_bytes` each, from `from_bytes` left to read on.

    A window holds streams * range_bytes of `budget`.
    """

    streams: int
    from_bytes: int
    range_bytes: int
    budget: ByteBudget


class Span:
    """The bytes from `at` up to `stop`, by one connection after the other."""

    def __init__(
        self,
        ref: ObjectRef,
        at: int,
        stop: int,
        *,
        reopen: Reopen,
        sleep: Callable[[float], Awaitable[None]],
        backoff: Backoff,
        stream: Stream | None = None,
    ) -> None:
        """Begin with what `stream` gives, which is at `at`; without one `reopen` is asked first."""
        self.at = at
        self.stop = stop
        self._ref = ref
        self._reopen = reopen
        self._sleep = sleep
        self._backoff = backoff
        self._stream = stream
        self._pieces = None if stream is None else stream.chunks()
        self._runs_on = False
        self._failures = 0

    async def next_piece(self) -> bytes:
        """Give the next bytes, none at the end.

        Raises SourceUnavailable when TRIES_PER_STALL new connections brought no byte, SourceCorrupt when there are
        more than were asked for, and what `reopen` raises where trying again cannot help.
        """
        while self.at < self.stop:
            try:
                piece = await self._read()
            except (TransportError, SourceUnavailable) as error:
                await self._stalled(error)
            else:
                if piece:
                    return self._passed(piece)
                await self._stalled(SourceUnavailable("S3 ended the answer there"))
        self._check_length()
        return b""

    def end_at(self, stop: int) -> None:
        """End before the stream does, which is left there."""
        self.stop = stop
        self._runs_on = True

    async def aclose(self) -> None:
        """Let go of the connection; a later read takes a new one."""
        stream, self._stream, self._pieces = self._stream, None, None
        if stream is not None:
            await stream.aclose()

    async def _read(self) -> bytes:
        if self._pieces is None:
            self._stream = await self._reopen(self.at, self.stop)
            self._pieces = self._stream.chunks()
            self._runs_on = False
        return await anext(self._pieces, b"")

    def _passed(self, piece: bytes) -> bytes:
        """Count what came."""
        self._failures = 0
        if self._runs_on:
            piece = piece[: self.stop - self.at]
        self.at += len(piece)
        self._check_length()
        return piece

    def _check_length(self) -> None:
        if self.at > self.stop:
            raise SourceCorrupt(f"{self._ref}: S3 sent more than the bytes up to {self.stop} that were to come")

    async def _stalled(self, error: S3nsyncError) -> None:
        """Wait before the next try; re-raise if there is none left, or if a new try cannot help."""
        await self.aclose()
        self._failures += 1
        if not error.transient:
            raise error
        if self._failures > TRIES_PER_STALL:
            # Never a TransportError: inside an upload it would read as NetStorage's, and put the PUT in doubt.
            where = f"{self._ref}: reading stopped at byte {self.at} of {self.stop}"
            raise SourceUnavailable(f"{where}: {error.message}") from error
        await self._sleep(self._backoff.delay_s(self._failures, error.retry_after_s))


class Window:
    """Several spans that follow each other, read at once and given in order; made by `open_window`."""

    def __init__(self, spans: Iterator[Span], ahead: Ahead) -> None:
        """Begin with the first read; the window's bytes are held already, and given back when it is closed."""
        self._spans = spans
        self._ahead = ahead
        self._fetches: deque[_Fetch] = deque()
        self._held_bytes = _window_bytes(ahead)

    async def next_piece(self) -> bytes:
        """Give the next bytes, none at the end; raises what the span raised that they belong to."""
        while True:
            while len(self._fetches) < self._ahead.streams and (span := next(self._spans, None)):
                self._fetches.append(_Fetch(span))
            if not self._fetches:
                return b""
            piece = await self._fetches[0].next_piece()
            if piece:
                return piece
            self._fetches.popleft()

    async def aclose(self) -> None:
        """End every read and give the bytes back; may be called again, but nothing can be read afterwards."""
        fetches, self._fetches, self._spans = self._fetches, deque(), iter(())
        held_bytes, self._held_bytes = self._held_bytes, 0
        try:
            await asyncio.gather(*[fetch.aclose() for fetch in fetches])
        finally:
            self._ahead.budget.give_back(held_bytes, _OWNER)


def open_window(ahead: Ahead, spans: Callable[[], Iterator[Span]]) -> Window | None:
    """Open a window on `spans()` if there is memory to spare for it."""
    if not ahead.budget.take_spare(_window_bytes(ahead), _OWNER):
        return None
    return Window(spans(), ahead)


def _window_bytes(ahead: Ahead) -> int:
    return ahead.streams * ahead.range_bytes


class _Fetch:
    """One span read by a task of its own into memory, as far as nobody has taken it yet."""

    def __init__(self, span: Span) -> None:
        self._span = span
        self._pieces: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        piece = b"-"
        try:
            while piece:
                piece = await self._span.next_piece()
                self._pieces.put_nowait(piece)
        except Exception as error:  # noqa: BLE001 - raised again where the bytes are missed
            self._pieces.put_nowait(error)
        finally:
            await self._span.aclose()

    async def next_piece(self) -> bytes:
        found = await self._pieces.get()
        if isinstance(found, Exception):
            self._pieces.put_nowait(found)  # asking again ends no better
            raise found
        return found

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
