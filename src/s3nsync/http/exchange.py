"""One request and its answer on a connection: writes the body, takes the answer in, holds what is not yet read.

    Answer      what the caller sees: status, fields, and the body, to be read
    Exchange    how it comes about: the request goes out, the answer's bytes come in

An exchange is an answer, not beside one: small objects are counted in single calls. One task at a time waits for a
`change`: first the sender, then whoever reads the answer.

An answer that comes as most do is read at one stroke (see `plain`), any other by llhttp from its first byte. Neither
sees more of a body whose length is known than what came along with the head.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Final, Protocol, Self

import httptools

from s3nsync.errors import BadAnswer, ConnectionLost, Stalled, TransportError
from s3nsync.http.heads import Chunk, Fields, Headers, encode_trailers, size_of
from s3nsync.http.origin import Origin
from s3nsync.http.plain import read_plain

Body = Chunk | AsyncIterable[Chunk]
"""A request's body. A chunk must not be changed once it was given: it may be written later, and is not copied."""

JOIN_BYTES: Final = 64 << 10
"""Up to here copying a body behind its head is cheaper than a second system call."""

_PIECE_BYTES: Final = 256 << 10  # one write at most; more throughput was not to be had with larger ones
_WINDOW_BYTES: Final = 256 << 10  # of an answer's body held unread before reading pauses
_UNASKED_BYTES: Final = 32 << 10  # the same until somebody reads: many answers may wait for memory to be read into
_DRAIN_BYTES: Final = 64 << 10  # an unread rest up to here costs less than a new TLS connection
_DRAIN_S: Final = 1.0
_MAX_HEAD_BYTES: Final = 64 << 10  # S3 and nginx answer with less than 10 KiB
_MAX_FIELDS: Final = 128


class Answer:
    """One answer: status line and headers are here, the body is read by `read`, `take` or `chunks`, once, by one task.

    Read it to its end or close it (`async with`): until then it keeps its connection. `early` says that it came
    before the request's body was wholly sent; `complete` that the body is wholly here, read or not, so that there is
    nothing to wait for and nothing to close.
    """

    # What most answers never change stands on the class: setting it up for each would cost more than parsing does.
    status = 0
    reason = ""
    headers = Headers(())
    early = False
    complete = False
    _error: TransportError | None = None
    _wake: asyncio.Future[None] | None = None
    _unread_bytes = 0
    _counted_bytes = 0
    _window_bytes = _UNASKED_BYTES

    def __init__(self, connection: Carrier, method: str, *, keep_alive: bool) -> None:
        """Made by the client, on a connection that is idle; `method` says whether there will be a body."""
        self._connection = connection
        self._method = method
        self._keep_alive = keep_alive
        self._reused = connection.served > 0
        self._parts: deque[bytes] = deque()

    def __repr__(self) -> str:
        """Show status, reason and whether the body is wholly here."""
        return f"<Answer {self.status} {self.reason} {'complete' if self.complete else 'under way'}>"

    def take(self) -> bytes | None:
        """Give all of the body that is not yet read, if it is complete; None, and take nothing, while it is not."""
        if not self.complete:
            return None
        parts, self._unread_bytes = self._parts, 0
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        return body

    async def read(self, limit_bytes: int = 1 << 20) -> bytes:
        """Read the whole body; BadAnswer when it is longer than the limit, ConnectionLost when it is cut short."""
        parts: list[bytes] = []
        size = 0
        while (part := await self._next_part()) is not None:
            size += len(part)
            if size > limit_bytes:
                error = self._failure(BadAnswer, f"the answer's body is longer than {limit_bytes} bytes")
                self.abort()
                raise error
            parts.append(part)
        return b"".join(parts)

    def chunks(self) -> AsyncIterator[bytes]:
        """Stream the body, with back-pressure to the peer; ConnectionLost when it is cut short."""
        return _Chunks(self._next_part)

    async def aclose(self) -> None:
        """Be done with the answer: the connection is reused if little is left to drain, else closed."""
        try:
            if not self.complete and self._keep_alive and 0 < self._counted_bytes <= _DRAIN_BYTES:
                async with asyncio.timeout(_DRAIN_S):
                    while await self._next_part() is not None:
                        pass
        except (TransportError, TimeoutError):
            pass  # nobody wants these bytes any more
        finally:
            if not self.complete:
                self.abort()

    async def __aenter__(self) -> Self:
        """Enter: the answer itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Be done with the answer."""
        await self.aclose()

    async def _next_part(self) -> bytes | None:
        """Give the body's next bytes, None at its end."""
        self._window_bytes = _WINDOW_BYTES
        while not self._parts:
            if self.complete:
                return None
            await self.change()
        part = self._parts.popleft()
        self._unread_bytes -= len(part)
        if self._unread_bytes <= _WINDOW_BYTES // 2 and self._connection.exchange is self:
            self._connection.resume_reading()
        return part

    def change(self) -> asyncio.Future[None]:
        """Give what to await until something happened; raises what went wrong."""
        if self._error is not None:
            raise self._error
        self._wake = wake = self._connection.loop.create_future()
        return wake

    def abort(self) -> None:
        """Cut the connection, if it is still ours."""
        if self._connection.exchange is self:
            self._connection.abort()

    def _failure(self, kind: type[TransportError], why: str) -> TransportError:
        """Make the error that says what became of this request."""
        return kind(f"{self._method} {self._connection.origin}: {why}", sent=True, reused=self._reused)


class _Chunks:
    """The body as an iterator that may be dropped half way.

    An async generator would have the event loop run a task for each one that is not read past its end.
    """

    __slots__ = ("_next_part",)

    def __init__(self, next_part: Callable[[], Awaitable[bytes | None]]) -> None:
        self._next_part = next_part

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        part = await self._next_part()
        if part is None:
            raise StopAsyncIteration
        return part


# --- the exchange ----------------------------------------------------------------------------------------------


class Carrier(Protocol):
    """What an exchange needs of the connection that it is on."""

    loop: asyncio.AbstractEventLoop
    origin: Origin
    served: int
    writable: bool
    exchange: Exchange | None

    def write(self, piece: Chunk) -> None:
        """Hand bytes to the transport."""

    def pause_reading(self) -> None:
        """Let the peer wait."""

    def resume_reading(self) -> None:
        """Take more from the peer."""

    def await_caller(self) -> None:
        """Stop the watchdog's clock."""

    def await_peer(self) -> None:
        """Start the watchdog's clock anew."""

    def end(self, *, keep_alive: bool) -> None:
        """Be through with the exchange: go back to the pool, or close."""

    def abort(self, error: TransportError | None = None) -> None:
        """Close at once."""


class Exchange(Answer):
    """One request and its answer on a connection.

    The `on_…` methods are httptools' callbacks and only record; `feed` draws the conclusions after each read.
    """

    received = False
    _request_over = False
    _burst_bytes = 0
    _without_body_bytes = 0
    _until_close = False
    _surplus = False
    _fault = ""
    _parser: httptools.HttpResponseParser | None = None
    _fields: list[bytes]

    # --- the request

    async def send(self, head: bytes, body: Body, length: int | None, trailers: Callable[[], Fields] | None) -> None:
        """Send the request, as far as the answer does not come first; after a failure the connection must be cut.

        `length` is what was announced, None if the body goes out in chunks.
        """
        self.early = not await self._write(head, body, length, trailers)
        self._keep_alive = self._keep_alive and not self.early
        self._end_request()

    def send_whole(self, request: bytes) -> None:
        """Send a request in a single write."""
        self._connection.write(request)
        self._end_request()

    def _end_request(self) -> None:
        self._request_over = True
        if self.complete:
            self._settle()

    async def _write(self, head: bytes, body: Body, length: int | None, trailers: Callable[[], Fields] | None) -> bool:
        """Write all there is and return True; or stop and return False because the answer is here."""
        self._connection.write(head)
        if isinstance(body, bytes | bytearray | memoryview):
            return await self._write_chunk(body, chunked=False)
        return await self._write_stream(body, length, trailers)

    async def _write_stream(
        self, body: AsyncIterable[Chunk], length: int | None, trailers: Callable[[], Fields] | None
    ) -> bool:
        """Write what the caller's iterator gives; its end is checked against `length`, or marked by the last chunk."""
        given = 0
        self._connection.await_caller()
        async for chunk in body:
            self._connection.await_peer()
            given += size_of(chunk)
            if length is not None and given > length:
                raise ValueError(f"the body gave {given} bytes or more where {length} were announced")
            if not await self._write_chunk(chunk, chunked=length is None):
                return False
            self._connection.await_caller()
        self._connection.await_peer()
        if length is None:
            if not await self._room(0):
                return False
            self._connection.write(b"".join((b"0\r\n", encode_trailers(trailers() if trailers else ()), b"\r\n")))
        elif given != length:
            raise ValueError(f"the body gave {given} bytes where {length} were announced")
        return True

    async def _write_chunk(self, chunk: Chunk, *, chunked: bool) -> bool:
        """Write in pieces that the watchdog can tell apart; False when the answer is here first."""
        view = chunk if isinstance(chunk, bytes) and len(chunk) <= _PIECE_BYTES else memoryview(chunk).cast("B")
        for start in range(0, size_of(chunk), _PIECE_BYTES):  # an empty chunk would end the body: it is left out
            piece = view[start : start + _PIECE_BYTES]
            if not await self._room(size_of(piece)):
                return False
            if chunked:
                self._connection.write(b"%x\r\n" % size_of(piece))
                self._connection.write(piece)
                self._connection.write(b"\r\n")
            else:
                self._connection.write(piece)
        return True

    async def _room(self, size: int) -> bool:
        """Wait until the transport takes `size` bytes more; False when the answer is here first."""
        self._burst_bytes += size
        if self._burst_bytes > _PIECE_BYTES:  # let the event loop see answers and (uvloop's TLS) its own full buffer
            self._burst_bytes = size
            await asyncio.sleep(0)
        while not self.status and not self._connection.writable:
            await self.change()
        if not self.status and self._error is not None:
            raise self._error
        return not self.status

    # --- the answer, as llhttp reports it

    def on_message_begin(self) -> None:
        """Note a second answer."""
        self._surplus = self.complete

    def on_status(self, part: bytes) -> None:
        """Take the reason phrase, or a part of it."""
        if not self.status:
            self.reason += part.decode("latin-1")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field, of the head or of the trailers."""
        self._fields += (name, value)

    def on_headers_complete(self) -> None:
        """Take the head, unless an interim answer's: how the body ends, and whether the connection may stay."""
        assert self._parser is not None
        status = self._parser.get_status_code()
        if len(self._fields) > 2 * _MAX_FIELDS:
            self._fault = f"the answer has more than {_MAX_FIELDS} header fields"
        if self.status or status < 200:
            return
        self.status = status
        self.headers = headers = Headers.parse(self._fields)
        self.complete = self._method == "HEAD"
        if headers.get("transfer-encoding", "chunked").lower() != "chunked":
            self._fault = "the answer has a transfer encoding that nobody asked for"
        if not self.complete and status not in (204, 304):
            self._counted_bytes = int(headers.get("content-length", 0))
        # HTTP/1.0 knows neither chunks nor a settled way to keep a connection: such a peer is not trusted with another.
        if not self._parser.should_keep_alive() or self._parser.get_http_version() == "1.0":
            self._keep_alive = False
            self._until_close = "content-length" not in headers and "transfer-encoding" not in headers

    def on_chunk_header(self) -> None:
        """Note a body where there is none."""
        self._surplus = self.complete

    def on_body(self, part: bytes) -> None:
        """Take a part of the body."""
        if self.complete:
            self._surplus = True
            return
        if not self.status:
            self._fault = "an interim answer (1xx) has a body"
            return
        self._parts.append(part)
        self._unread_bytes += len(part)
        self._without_body_bytes = 0
        if self._counted_bytes:
            self._counted_bytes -= len(part)

    def on_message_complete(self) -> None:
        """Take the end."""
        if self.status:
            self.complete = True
        else:  # an interim answer (1xx): the real one follows
            self._fields.clear()
            self.reason = ""

    # --- what follows from it

    def feed(self, data: memoryview) -> None:
        """Take bytes of the answer; the view is good for this call only."""
        if self.received or not self._begin_plain(data):
            self._go_on(data)
        if self.complete:
            if self._request_over:
                self._settle()
        elif self._fault:
            self._connection.abort(self._failure(BadAnswer, self._fault))
        elif self._unread_bytes > self._window_bytes:
            self._connection.pause_reading()
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    def _begin_plain(self, data: memoryview) -> bool:
        """Take what came first, if it is an answer as most are; else take nothing, and leave it to llhttp."""
        self.received = True
        plain = None if self._method == "HEAD" else read_plain(data)
        if plain is None:
            # One parser an exchange: after a HEAD's answer llhttp would go on to wait for the body.
            self._parser = httptools.HttpResponseParser(self)
            self._fields = []
            return False
        self.status, self.reason, self.headers, body_at, length = plain
        if body_at < len(data):
            self._parts.append(bytes(data[body_at:]))
            self._unread_bytes = len(data) - body_at
        self._counted_bytes = length - self._unread_bytes
        self.complete = not self._counted_bytes
        return True

    def _go_on(self, data: memoryview) -> None:
        """Take what is not plain, or not the first."""
        self._without_body_bytes += len(data)
        if self._counted_bytes:
            self._feed_counted(data)
        elif self._parser is not None:
            self._feed_parser(self._parser, data)
        else:
            self._surplus = True
        if not self.complete and self._without_body_bytes > _MAX_HEAD_BYTES:
            self._fault = f"the answer has more than {_MAX_HEAD_BYTES} bytes of header fields"
        # The beginning of a chunk after a HEAD's answer is told by no callback.
        if self.complete and self._method == "HEAD" and not b"\r\n\r\n".endswith(bytes(data[-4:])):
            self._surplus = True
        self.complete = self.complete and not self._fault
        self._keep_alive = self._keep_alive and not self._surplus

    def _feed_parser(self, parser: httptools.HttpResponseParser, data: memoryview) -> None:
        try:
            parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._surplus = True
            if not self.complete:
                self._fault = f"the answer is not HTTP/1.1 as asked for ({error})"

    def _feed_counted(self, data: memoryview) -> None:
        """Take what belongs to a body of known length: the parser would only copy it."""
        self._surplus = len(data) > self._counted_bytes
        self.on_body(bytes(data[: self._counted_bytes]))
        self.complete = not self._counted_bytes

    def end_of_stream(self, error: Exception | None) -> TransportError | None:
        """Take the end of what the peer sends: it completes some answers, and breaks all others."""
        if self._until_close and error is None:
            self.complete = True
        if self.complete:
            return None
        when = "within the answer" if self.received else "before any answer"
        return self._failure(ConnectionLost, f"the connection broke {when}" + (f" ({error})" if error else ""))

    def leave(self, error: TransportError | None) -> None:
        """Part from the connection; what is not complete by now has failed."""
        self._parser = None  # it and we refer to each other
        if not self.complete:
            self._error = error or self._failure(ConnectionLost, "we closed the connection")
        self.notify()

    def notify(self) -> None:
        """Wake the task that waits."""
        wake, self._wake = self._wake, None
        if wake is not None and not wake.done():
            wake.set_result(None)

    def stalled(self, for_s: float) -> TransportError:
        """Say that nothing moved for so long."""
        return self._failure(Stalled, f"no byte moved for {for_s:g} s")

    def _settle(self) -> None:
        """Both directions are over: give the connection back, or be rid of it."""
        if self._connection.exchange is self:
            self._parser = None  # it and we refer to each other
            self._connection.end(keep_alive=self._keep_alive)
