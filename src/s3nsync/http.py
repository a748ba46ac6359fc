"""The product's one HTTP client: a thin HTTP/1.1 transport on asyncio, answers parsed by httptools (llhttp).

Four small parts, each the only owner of its state:

    Http         the face: one pool per origin, the request's head, the one repeat that is safe here
    _Pool        slots and idle connections of an origin; last used is first reused, waiters are served in order
    _Connection  the asyncio side: bytes in and out, write back-pressure, the watchdog's one timer
    _Exchange    one request and its answer: writes the body, records what the parser says, holds what is not yet read

What it does that general clients do not: `headers()` is called when a usable connection is in hand, right before the
first byte, once per try, so that a caller can check a lease and sign as late as can be; the request target goes out
exactly as given; a chunked body may end in trailers made after its last byte; an answer that comes before the body is
sent is noticed and ends the sending; nothing is ever decompressed. A body that cannot be sent whole ends with the
connection cut, never with a clean end.

A connection returns to the pool by itself once both directions are over, even before the caller reads what is
buffered. Nothing is repeated here but a GET or HEAD without body whose reused connection turned out dead; every other
failure says by `sent` and `reused` what the caller needs to decide.

The four stay in one module: who may cut a connection, and when both directions are over, is only clear side by side.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1 messages).
"""

from __future__ import annotations

import asyncio
import functools
import ipaddress
import re
import ssl
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self, cast
from urllib.parse import urlsplit

import httptools

from s3nsync.errors import (
    BadAnswer,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    Stalled,
    TlsRefused,
    TransportError,
)

Header = tuple[str, str]
Chunk = bytes | bytearray | memoryview
Body = Chunk | AsyncIterable[Chunk]
"""A request's body. A chunk must not be changed once it was given: it may be written later, and is not copied."""

Scheme = Literal["http", "https"]

_PORTS: Final[dict[Scheme, int]] = {"http": 80, "https": 443}
_JOIN_BYTES: Final = 64 << 10  # up to here copying is cheaper than a second system call
_PIECE_BYTES: Final = 256 << 10  # one write at most; more throughput was not to be had with larger ones
_WINDOW_BYTES: Final = 256 << 10  # of an answer's body held unread before reading pauses
_DRAIN_BYTES: Final = 64 << 10  # an unread rest up to here costs less than a new TLS connection
_DRAIN_S: Final = 1.0
_MAX_HEAD_BYTES: Final = 64 << 10  # S3 and nginx answer with less than 10 KiB
_MAX_FIELDS: Final = 128
_TARGET = re.compile(r"/[!-~]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_HOST_NAME = re.compile(r"[0-9A-Za-z_]([0-9A-Za-z._-]*[0-9A-Za-z_])?")
_OWN_FRAMING: Final = frozenset({"content-length", "transfer-encoding"})


@dataclass(frozen=True, slots=True)
class Origin:
    """Where to connect: scheme, host (an IPv6 literal without brackets) and port."""

    scheme: Scheme
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Read `https://host[:port]`; ConfigError on anything else (a path other than `/`, a query, user info)."""
        hint = "write https://host or https://host:port"
        if re.search(r"[^!-~]", url):  # urlsplit would drop line breaks in silence
            raise ConfigError(f"{url!r} is not a URL: it holds more than printable ASCII", hint=hint)
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise ConfigError(f"{url!r} is not a URL: {error}", hint=hint) from None
        if parts.scheme not in _PORTS:
            raise ConfigError(f"{url!r} is neither http nor https", hint=hint)
        if parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc:
            raise ConfigError(f"{url!r} has more than scheme, host and port", hint="leave the rest out")
        scheme: Scheme = parts.scheme
        return cls(scheme, parts.hostname or "", _PORTS[scheme] if port is None else port)

    def __post_init__(self) -> None:
        """Refuse what cannot be a host or port; ConfigError."""
        if not _is_host(self.host) or not 0 < self.port < 65536:
            raise ConfigError(f"{self.host!r}, port {self.port}: no host to connect to", hint="write https://host:port")

    @property
    def authority(self) -> str:
        """Give the Host header's value: the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        """Give the URL."""
        return f"{self.scheme}://{self.authority}"


def _is_host(host: str) -> bool:
    if ":" not in host:
        return _HOST_NAME.fullmatch(host) is not None
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect (TLS included), without any byte moving, and that a pooled connection may rest.

    A stall is noticed after one to two times `progress_s`. A connection rests for less than the shortest common
    keep-alive time of servers (5 s: Apache, Node), so that we close it, not they while our next request is under way.
    """

    connect_s: float = 10.0
    progress_s: float = 60.0
    idle_s: float = 4.0


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Make a verifying TLS context (TLS 1.2 or later, ALPN http/1.1); `ca_file` adds to the system's authorities.

    Raises ConfigError when the file cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"ca_file {ca_file!r} cannot be used: {error}", hint="name a readable PEM file") from None
    return context


# --- answers ---------------------------------------------------------------------------------------------------


class Headers(Mapping[str, str]):
    """Header fields: a case-insensitive mapping, repeated fields joined by `, `; `pairs` has all as they came."""

    __slots__ = ("_values", "pairs")

    def __init__(self, pairs: Sequence[Header]) -> None:
        """Index the fields by lower-case name."""
        self.pairs: tuple[Header, ...] = tuple(pairs)
        self._values: dict[str, str] = {}
        for name, value in pairs:
            lower = name.lower()
            earlier = self._values.get(lower)
            self._values[lower] = value if earlier is None else f"{earlier}, {value}"

    def __getitem__(self, name: str) -> str:
        """Give the field's value; KeyError when there is none."""
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        """Iterate over the lower-case names."""
        return iter(self._values)

    def __len__(self) -> int:
        """Count the different names."""
        return len(self._values)

    def __repr__(self) -> str:
        """Show the names only: values may be secrets."""
        return f"Headers({', '.join(self._values)})"


class Answer:
    """One answer: status line and headers are here, the body is read by `read` or `chunks`, once, by one task.

    Read it to its end or close it (`async with`): until then it keeps its connection. `early` says that it came
    before the request's body was wholly sent.
    """

    __slots__ = ("_exchange", "early", "headers", "reason", "status")

    def __init__(self, exchange: _Exchange, status: int, reason: str, headers: Headers, *, early: bool) -> None:
        """Made by the client when an answer's head is in."""
        self._exchange = exchange
        self.status = status
        self.reason = reason
        self.headers = headers
        self.early = early

    def __repr__(self) -> str:
        """Show status, reason and whether the body is wholly here."""
        return f"<Answer {self.status} {self.reason} {'complete' if self._exchange.complete else 'under way'}>"

    async def read(self, limit_bytes: int = 1 << 20) -> bytes:
        """Read the whole body; BadAnswer when it is longer than the limit, ConnectionLost when it is cut short."""
        parts: list[bytes] = []
        size = 0
        while (part := await self._exchange.next_part()) is not None:
            size += len(part)
            if size > limit_bytes:
                error = self._exchange.failure(BadAnswer, f"the answer's body is longer than {limit_bytes} bytes")
                self._exchange.abort()
                raise error
            parts.append(part)
        return b"".join(parts)

    def chunks(self) -> AsyncIterator[bytes]:
        """Stream the body, with back-pressure to the peer; ConnectionLost when it is cut short."""
        return _Chunks(self._exchange)

    async def aclose(self) -> None:
        """Be done with the answer: the connection is reused if little is left to drain, else closed."""
        await self._exchange.discard_rest()

    async def __aenter__(self) -> Self:
        """Enter: the answer itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Be done with the answer."""
        await self.aclose()


class _Chunks:
    """The body as an iterator that may be dropped half way.

    An async generator would have the event loop run a task for each one that is not read past its end.
    """

    __slots__ = ("_exchange",)

    def __init__(self, exchange: _Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        part = await self._exchange.next_part()
        if part is None:
            raise StopAsyncIteration
        return part


# --- one request and its answer --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Request:
    """What to send, but for the headers: they are made anew for each try."""

    method: str
    target: str
    body: Body | None
    length: int | None
    trailers: Callable[[], Sequence[Header]] | None
    progress_s: float


class _Exchange:
    """One request and its answer on a connection.

    The `on_…` methods are httptools' callbacks and only record; `feed` draws the conclusions after each read. One
    task at a time waits in `_changed`: first the sender, then whoever reads the answer.
    """

    def __init__(self, connection: _Connection, method: str, *, keep_alive: bool) -> None:
        self._connection = connection
        self._method = method
        self._keep_alive = keep_alive
        self._reused = connection.served > 0
        self._request_over = False
        self._wake: asyncio.Future[None] | None = None
        # One parser an exchange: after a HEAD's answer llhttp would go on to wait for the body.
        self._parser = httptools.HttpResponseParser(self)
        self._status = 0
        self._reason = b""
        self._fields: list[Header] = []
        self._headers = Headers(())
        self._burst_bytes = 0
        self._parts: deque[bytes] = deque()
        self._unread_bytes = 0
        self._without_body_bytes = 0
        self._counted_bytes = 0
        self._until_close = False
        self._surplus = False
        self._fault = ""
        self.complete = False
        self.error: TransportError | None = None
        self.received = False

    def failure(self, kind: type[TransportError], why: str) -> TransportError:
        """Make the error that says what became of this request."""
        return kind(f"{self._method} {self._connection.origin}: {why}", sent=True, reused=self._reused)

    # --- the request

    async def run(self, head: bytes, request: _Request) -> Answer:
        """Send the request and wait for the answer's head; whatever goes wrong, the connection is cut."""
        try:
            whole = await self._write(head, request)
            while not self._status:
                await self._changed()
        except BaseException:
            self.abort()
            raise
        self._request_over = True
        self._keep_alive = self._keep_alive and whole
        if self.complete:
            self._settle()
        return Answer(self, self._status, self._reason.decode("latin-1"), self._headers, early=not whole)

    async def _write(self, head: bytes, request: _Request) -> bool:
        """Write all there is and return True; or stop and return False because the answer is here."""
        body = request.body
        if body is None:
            self._connection.write(head)
            return True
        if not isinstance(body, bytes | bytearray | memoryview):
            self._connection.write(head)
            return await self._write_stream(body, request)
        if _size(body) <= _JOIN_BYTES:
            self._connection.write(b"".join((head, body)))
            return True
        self._connection.write(head)
        return await self._write_chunk(body, chunked=False)

    async def _write_stream(self, body: AsyncIterable[Chunk], request: _Request) -> bool:
        """Write what the caller's iterator gives; its end is checked against `length`, or marked by the last chunk."""
        length, trailers = request.length, request.trailers
        given = 0
        self._connection.await_caller()
        async for chunk in body:
            self._connection.await_peer()
            given += _size(chunk)
            if length is not None and given > length:
                raise ValueError(f"the body gave {given} bytes or more where {length} were announced")
            if not await self._write_chunk(chunk, chunked=length is None):
                return False
            self._connection.await_caller()
        self._connection.await_peer()
        if length is None:
            if not await self._room(0):
                return False
            self._connection.write(b"0\r\n", _encode_fields(trailers() if trailers else ()), b"\r\n")
        elif given != length:
            raise ValueError(f"the body gave {given} bytes where {length} were announced")
        return True

    async def _write_chunk(self, chunk: Chunk, *, chunked: bool) -> bool:
        """Write in pieces that the watchdog can tell apart; False when the answer is here first."""
        view = chunk if isinstance(chunk, bytes) and len(chunk) <= _PIECE_BYTES else memoryview(chunk).cast("B")
        for start in range(0, _size(chunk), _PIECE_BYTES):  # an empty chunk would end the body: it is left out
            piece = view[start : start + _PIECE_BYTES]
            if not await self._room(_size(piece)):
                return False
            if chunked:
                self._connection.write(b"%x\r\n" % _size(piece), piece, b"\r\n")
            else:
                self._connection.write(piece)
        return True

    async def _room(self, size: int) -> bool:
        """Wait until the transport takes `size` bytes more; False when the answer is here first."""
        self._burst_bytes += size
        if self._burst_bytes > _PIECE_BYTES:  # let the event loop see answers and (uvloop's TLS) its own full buffer
            self._burst_bytes = size
            await asyncio.sleep(0)
        while not self._status and not self._connection.writable:
            await self._changed()
        if not self._status and self.error is not None:
            raise self.error
        return not self._status

    # --- the answer, as the parser reports it

    def on_message_begin(self) -> None:
        self._surplus = self.complete

    def on_status(self, part: bytes) -> None:
        if not self._status:
            self._reason += part

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if len(self._fields) > _MAX_FIELDS:
            self._fault = f"the answer has more than {_MAX_FIELDS} header fields"
        if self._status or status < 200:
            return
        self._status = status
        self._headers = headers = Headers(self._fields)
        self.complete = self._method == "HEAD"
        if headers.get("transfer-encoding", "chunked").lower() != "chunked":
            self._fault = "the answer has a transfer encoding that nobody asked for"
        if not self.complete and status not in (204, 304):
            self._counted_bytes = int(headers.get("content-length", 0))
        if not self._parser.should_keep_alive():
            self._keep_alive = False
            self._until_close = "content-length" not in headers and "transfer-encoding" not in headers

    def on_chunk_header(self) -> None:
        self._surplus = self.complete

    def on_body(self, part: bytes) -> None:
        if self.complete:
            self._surplus = True
            return
        self._parts.append(part)
        self._unread_bytes += len(part)
        self._without_body_bytes = 0
        if self._counted_bytes:
            self._counted_bytes -= len(part)

    def on_message_complete(self) -> None:
        if self._status:
            self.complete = True
        else:  # an interim answer (1xx): the real one follows
            self._fields.clear()
            self._reason = b""

    # --- what follows from it

    def feed(self, data: bytes) -> None:
        """Take bytes of the answer."""
        self.received = True
        self._without_body_bytes += len(data)
        if self._counted_bytes:
            self._feed_counted(data)
        else:
            self._feed_parser(data)
        if not self.complete and self._without_body_bytes > _MAX_HEAD_BYTES:
            self._fault = f"the answer has more than {_MAX_HEAD_BYTES} bytes of header fields"
        if self._fault:
            self.complete = False
            self._connection.abort(self.failure(BadAnswer, self._fault))
        elif self.complete:
            self._keep_alive = self._keep_alive and not self._surplus
            if self._request_over:
                self._settle()
        elif self._unread_bytes > _WINDOW_BYTES:
            self._connection.pause_reading()
        self.notify()

    def _feed_parser(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._surplus = True
            if not self.complete:
                self._fault = f"the answer is not HTTP/1.1 as asked for ({error})"

    def _feed_counted(self, data: bytes) -> None:
        """Take what belongs to a body of known length: the parser would only copy it."""
        self._surplus = len(data) > self._counted_bytes
        self.on_body(data[: self._counted_bytes])
        self.complete = not self._counted_bytes

    def end_of_stream(self, error: Exception | None) -> TransportError | None:
        """Take the end of what the peer sends: it completes some answers, and breaks all others."""
        if self._until_close and error is None:
            self.complete = True
        if self.complete:
            return None
        when = "within the answer" if self.received else "before any answer"
        return self.failure(ConnectionLost, f"the connection broke {when}" + (f" ({error})" if error else ""))

    def leave(self, error: TransportError | None) -> None:
        """Part from the connection; what is not complete by now has failed."""
        del self._parser  # it and we refer to each other
        if not self.complete:
            self.error = error or self.failure(ConnectionLost, "we closed the connection")
        self.notify()

    def abort(self) -> None:
        """Cut the connection, if it is still ours."""
        if self._connection.exchange is self:
            self._connection.abort()

    def _settle(self) -> None:
        """Both directions are over: give the connection back, or be rid of it."""
        if self._connection.exchange is self:
            if self._keep_alive:
                self._connection.rest()
            else:
                self._connection.abort()

    # --- reading

    async def next_part(self) -> bytes | None:
        """Give the body's next bytes, None at its end."""
        while not self._parts:
            if self.complete:
                return None
            await self._changed()
        part = self._parts.popleft()
        self._unread_bytes -= len(part)
        if self._unread_bytes <= _WINDOW_BYTES // 2 and self._connection.exchange is self:
            self._connection.resume_reading()
        return part

    async def discard_rest(self) -> None:
        """Drain a small rest so that the connection can serve again, else cut it."""
        try:
            if self._keep_alive and 0 < self._counted_bytes <= _DRAIN_BYTES:
                async with asyncio.timeout(_DRAIN_S):
                    while await self.next_part() is not None:
                        pass
        except (TransportError, TimeoutError):
            pass  # nobody wants these bytes any more
        finally:
            self._parts.clear()
            if not self.complete:
                self.abort()

    # --- waiting

    async def _changed(self) -> None:
        """Wait until something happened; raises what went wrong."""
        if self.error is not None:
            raise self.error
        self._wake = self._connection.loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def notify(self) -> None:
        """Wake the task that waits."""
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


# --- connections -----------------------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """One TCP or TLS connection: idle in its pool, or at the service of one exchange.

    The watchdog is one timer that is moved only when it fires. Bytes that move only note the time, or show in the
    transport's buffer when the timer looks. It is not the peer's fault, and does not count, when we wait for the
    caller: for the next chunk of a body, or until what has arrived is read.
    """

    _transport: asyncio.Transport
    closed: asyncio.Future[None]

    def __init__(self, pool: _Pool, loop: asyncio.AbstractEventLoop) -> None:
        self._pool = pool
        self.loop = loop
        self.origin = pool.origin
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_s = 0.0
        self._limit_s = 0.0
        self._moved_s = 0.0
        self._waits_for_caller = False
        self._written_bytes = 0
        self._flushed_bytes = 0
        self._paused = False
        self.writable = True
        self.served = 0
        self.taken = False
        self.exchange: _Exchange | None = None

    # --- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.closed = self.loop.create_future()
        self._pool.sockets.add(self)

    def data_received(self, data: bytes) -> None:
        self._moved_s = self.loop.time()
        if self.exchange is None:
            self.abort()  # nobody asked: whatever it is, no later answer may be mixed up with it
        else:
            self.exchange.feed(data)

    def eof_received(self) -> None:
        self._peer_ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer_ended(exc)
        self._pool.sockets.discard(self)
        self.closed.set_result(None)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        if self.exchange is not None:
            self.exchange.notify()

    def _peer_ended(self, error: Exception | None) -> None:
        self.abort(self.exchange.end_of_stream(error) if self.exchange is not None else None)

    # --- the exchange's side

    @property
    def usable(self) -> bool:
        """Say whether it is open, as far as we know."""
        return not self._transport.is_closing()

    def begin(self, request: _Request, *, keep_alive: bool) -> _Exchange:
        """Enter the service of a new exchange."""
        self.exchange = exchange = _Exchange(self, request.method, keep_alive=keep_alive)
        self.served += 1
        self._watch(request.progress_s)
        return exchange

    def write(self, *pieces: Chunk) -> None:
        """Hand bytes to the transport, piece by piece.

        Not by `writelines`: asyncio's own (CPython 3.12 and 3.13.0) never pauses its writer, so that a peer that does
        not read would have the whole body pile up in memory.
        """
        for piece in pieces:
            self._written_bytes += _size(piece)
            self._transport.write(piece)

    def pause_reading(self) -> None:
        """Let the peer wait: the caller has enough to read."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more from the peer."""
        if self._paused:
            self._paused = False
            self._moved_s = self.loop.time()
            self._transport.resume_reading()

    def await_caller(self) -> None:
        """Stop the watchdog's clock: the next move is the caller's."""
        self._waits_for_caller = True

    def await_peer(self) -> None:
        """Start the watchdog's clock anew: the next move is the peer's."""
        self._waits_for_caller = False
        self._moved_s = self.loop.time()

    def rest(self) -> None:
        """Go back to the pool."""
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.leave(None)
        self.resume_reading()
        self._watch(self._pool.timeouts.idle_s)
        self._pool.give_back(self)

    def abort(self, error: TransportError | None = None) -> None:
        """Close at once and fail what is under way; may be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.leave(error)
        self._transport.abort()
        self._pool.drop(self)

    # --- the watchdog

    def _watch(self, limit_s: float) -> None:
        """Start to wait at most `limit_s` for a sign of life."""
        self._limit_s = limit_s
        self.await_peer()
        deadline_s = self._moved_s + limit_s
        if self._timer is None or deadline_s < self._deadline_s:
            self._set_timer(deadline_s)

    def _set_timer(self, deadline_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._deadline_s = deadline_s
        self._timer = self.loop.call_at(deadline_s, self._look)

    def _look(self) -> None:
        """End what has stood still for too long; if bytes have moved since, look again later."""
        now_s = self.loop.time()
        # What TLS and the kernel hold counts as moved: pieces are small enough for that to be a small error.
        flushed_bytes = self._written_bytes - self._transport.get_write_buffer_size()
        if self._waits_for_caller or self._paused or flushed_bytes != self._flushed_bytes:
            self._flushed_bytes = flushed_bytes
            self._moved_s = now_s
        deadline_s = self._moved_s + self._limit_s
        if now_s < deadline_s:
            self._set_timer(deadline_s)
        elif self.exchange is None:
            self.abort()
        else:
            self.abort(self.exchange.failure(Stalled, f"no byte moved for {self._limit_s:g} s"))


class _Pool:
    """An origin's connections: `taken` ones hold a slot each, idle ones none."""

    def __init__(self, origin: Origin, tls: ssl.SSLContext | None, timeouts: Timeouts, limit: int) -> None:
        self.origin = origin
        self.timeouts = timeouts
        self.idle: list[_Connection] = []
        self.busy = 0
        self.sockets: set[_Connection] = set()
        self.closed = False
        self._tls = tls
        self._limit = limit
        self._slots = asyncio.Semaphore(limit)

    async def take(self, *, fresh: bool) -> _Connection:
        """Wait for a slot, then give the connection that was last in use, or a new one."""
        await self._slots.acquire()
        self.busy += 1
        try:
            connection = (None if fresh else self._pop_idle()) or await self._open()
        except BaseException:
            self._free_slot()
            raise
        connection.taken = True
        return connection

    def give_back(self, connection: _Connection) -> None:
        """Put a connection that may serve again on top."""
        connection.taken = False
        self._free_slot()
        self.idle.append(connection)

    def drop(self, connection: _Connection) -> None:
        """Forget a connection that is closing; may be called again."""
        if connection.taken:
            connection.taken = False
            self._free_slot()
        elif connection in self.idle:
            self.idle.remove(connection)

    async def aclose(self) -> None:
        """Close every connection and wait until the sockets are closed."""
        self.closed = True
        sockets = list(self.sockets)
        for connection in sockets:
            connection.abort()
        await asyncio.gather(*[connection.closed for connection in sockets])

    def _free_slot(self) -> None:
        self.busy -= 1
        self._slots.release()

    def _pop_idle(self) -> _Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if connection.usable:
                return connection
        return None

    async def _open(self) -> _Connection:
        self._refuse_if_closed()
        if self.idle and self.busy + len(self.idle) > self._limit:
            self.idle[0].abort()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.timeouts.connect_s):
                _, connection = await loop.create_connection(
                    functools.partial(_Connection, self, loop), self.origin.host, self.origin.port, ssl=self._tls
                )
        except (OSError, ssl.CertificateError) as error:
            raise self._connect_failure(error) from error
        if self.closed:
            connection.abort()
        self._refuse_if_closed()
        return connection

    def _refuse_if_closed(self) -> None:
        if self.closed:
            raise ConnectFailed(f"{self.origin}: this client was closed", hint="nothing to do while shutting down")

    def _connect_failure(self, error: Exception) -> ConnectFailed:
        if isinstance(error, ssl.SSLCertVerificationError):
            return TlsRefused(f"{self.origin}: the certificate is not accepted: {error.verify_message}")
        if isinstance(error, ssl.SSLError):
            hint = "does this port speak TLS (1.2 or later)?"
            return ConnectFailed(f"{self.origin}: no TLS: {error.reason or error}", hint=hint)
        if isinstance(error, TimeoutError):
            return ConnectFailed(f"{self.origin}: no connection within {self.timeouts.connect_s:g} s")
        return ConnectFailed(f"{self.origin}: no connection: {error}")


# --- the face --------------------------------------------------------------------------------------------------


class Http:
    """A client with a pool of keep-alive connections per origin; used by any number of tasks of one event loop."""

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, timeouts: Timeouts | None = None, max_per_origin: int = 256
    ) -> None:
        """Set up; nothing is opened yet. `tls` defaults to `tls_context()`, made at first need."""
        self._tls = tls
        self._timeouts = timeouts or Timeouts()
        self._max_per_origin = max_per_origin
        self._pools: dict[Origin, _Pool] = {}
        self._closed = False

    def __repr__(self) -> str:
        """Show what is going on per origin."""
        pools = [f"{origin}: {len(pool.idle)} idle, {pool.busy} busy" for origin, pool in self._pools.items()]
        return f"<Http {'; '.join(pools) or 'unused'}{' (closed)' if self._closed else ''}>"

    async def send(
        self,
        origin: Origin,
        method: str,
        target: str,
        *,
        headers: Callable[[], Sequence[Header]],
        body: Body | None = None,
        length: int | None = None,
        trailers: Callable[[], Sequence[Header]] | None = None,
        progress_s: float | None = None,
    ) -> Answer:
        """Send one request and return its answer once the answer's head is in (interim 1xx answers are skipped).

        `target` goes out exactly as given. `headers()` is called once per try, when a connection is in hand and right
        before the first byte; what it raises passes through and costs nothing. Host is added if missing; the framing
        (Content-Length, Transfer-Encoding) is always ours: a bytes-like body announces its length, an iterator sends
        exactly `length` bytes or, without one, chunks, followed by what `trailers()` gives after the last of them.
        What the iterator raises passes through, and so does ValueError when it gives more or fewer bytes than
        announced; the connection is cut then, as it is when this call is cancelled. The iterator is not closed.
        `progress_s` replaces the time-out for this request.

        Raises ConnectFailed, TlsRefused (nothing was sent), ConnectionLost, Stalled, BadAnswer (`sent` is true), and
        ValueError for arguments that cannot be put into a request.
        """
        if not _TARGET.fullmatch(target):
            raise ValueError(f"not a request target: {target!r}")
        _field_name(method)
        request = _Request(method, target, body, length, trailers, progress_s or self._timeouts.progress_s)
        framing = _framing(request)
        pool = self._pool(origin)
        may_repeat = body is None and method in ("GET", "HEAD")
        fresh = False
        while True:
            connection = await pool.take(fresh=fresh)
            try:
                head, keep_alive = _encode_head(request, origin, headers(), framing)
            except BaseException:
                connection.rest()
                raise
            exchange = connection.begin(request, keep_alive=keep_alive)
            try:
                return await exchange.run(head, request)
            except ConnectionLost as lost:
                if not (may_repeat and lost.reused) or exchange.received:
                    raise
            fresh = True

    def _pool(self, origin: Origin) -> _Pool:
        pool = self._pools.get(origin)
        if pool is None:
            if self._tls is None and origin.scheme == "https":
                self._tls = tls_context()
            tls = self._tls if origin.scheme == "https" else None
            pool = self._pools[origin] = _Pool(origin, tls, self._timeouts, self._max_per_origin)
            pool.closed = self._closed
        return pool

    async def aclose(self) -> None:
        """Close every connection; what is under way fails with ConnectionLost, what comes later with ConnectFailed."""
        self._closed = True
        await asyncio.gather(*[pool.aclose() for pool in self._pools.values()])

    async def __aenter__(self) -> Self:
        """Enter: the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self.aclose()


# --- a request's head ------------------------------------------------------------------------------------------


def _size(chunk: Chunk) -> int:
    return chunk.nbytes if isinstance(chunk, memoryview) else len(chunk)


def _framing(request: _Request) -> bytes:
    """Return the header line that says where the body ends; ValueError when the arguments do not go together."""
    body, length = request.body, request.length
    sized = None if body is None else _size(body) if isinstance(body, bytes | bytearray | memoryview) else length
    if request.trailers is not None and (body is None or sized is not None):
        raise ValueError("trailers need a body that is an iterator without length")
    if length not in (None, sized):
        raise ValueError(f"a length of {length} was given for a body of {sized or 0} bytes")
    if sized is not None:
        return b"Content-Length: %d\r\n" % sized
    if body is not None:
        return b"Transfer-Encoding: chunked\r\n"
    return b"Content-Length: 0\r\n" if request.method in ("PUT", "POST") else b""


def _encode_head(request: _Request, origin: Origin, fields: Sequence[Header], framing: bytes) -> tuple[bytes, bool]:
    """Return the request's head, and whether the connection may be kept afterwards."""
    names = {_field_name(name) for name, _ in fields}
    if not names.isdisjoint(_OWN_FRAMING):
        raise ValueError("Content-Length and Transfer-Encoding are set by the client")
    host = "" if "host" in names else f"Host: {origin.authority}\r\n"
    keep_alive = "connection" not in names or "close" not in Headers(fields)["connection"].lower()
    line = f"{request.method} {request.target} HTTP/1.1\r\n{host}".encode("ascii")
    return b"".join((line, _encode_fields(fields), framing, b"\r\n")), keep_alive


def _encode_fields(fields: Sequence[Header]) -> bytes:
    """Return the fields as lines; ValueError (without the value: it may be a secret) when one could forge another."""
    lines = "".join([f"{_field_name(name) and name}: {value}\r\n" for name, value in fields])
    if lines.count("\r") != len(fields) or lines.count("\n") != len(fields) or "\0" in lines:
        raise ValueError("a header field's value holds a line break or NUL")
    try:
        return lines.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError("a header field's value holds a character outside Latin-1") from None


@functools.lru_cache(maxsize=512)
def _field_name(name: str) -> str:
    """Return the name in lower case; ValueError if it is no token."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"not a header name or method: {name!r}")
    return name.lower()
