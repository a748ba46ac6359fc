"""A connection: bytes in and out, write back-pressure, the watchdog's one timer."""

from __future__ import annotations

import asyncio
import math
from typing import Protocol, cast

from s3nsync.errors import TransportError
from s3nsync.http.exchange import Exchange
from s3nsync.http.heads import Chunk
from s3nsync.http.origin import Origin, Timeouts
from s3nsync.http.tls import keep_session


class Home(Protocol):
    """What a connection needs of the pool that it belongs to."""

    origin: Origin
    timeouts: Timeouts
    buffer: memoryview
    sockets: set[Connection]

    def give_back(self, connection: Connection) -> None:
        """Put a connection that may serve again on top."""

    def drop(self, connection: Connection) -> None:
        """Forget a connection that is closing."""


class Connection(asyncio.BufferedProtocol):
    """One TCP or TLS connection: idle in its pool, or at the service of one exchange.

    The watchdog is one timer that is moved only when it fires. Bytes that move only note the time, or show in the
    transport's buffer when the timer looks. It is not the peer's fault, and does not count, when we wait for the
    caller: for the next chunk of a body, or until what has arrived is read.
    """

    transport: asyncio.Transport
    closed: asyncio.Future[None]

    def __init__(self, pool: Home, loop: asyncio.AbstractEventLoop) -> None:
        """Made by its pool; the transport comes with `connection_made`."""
        self._pool = pool
        self.loop = loop
        self.origin = pool.origin
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_s = math.inf
        self._limit_s = 0.0
        self._moved_s = 0.0
        self._waits_for_caller = False
        self._written_bytes = 0
        self._flushed_bytes = 0
        self._paused = False
        self.writable = True
        self.served = 0
        self.taken = False
        self.exchange: Exchange | None = None

    # --- asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, idle."""
        self.transport = cast("asyncio.Transport", transport)
        self.closed = self.loop.create_future()
        self._moved_s = self.loop.time()
        self._pool.sockets.add(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002  (as asyncio calls it)
        """Give the place to read into, which is the pool's."""
        return self._pool.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass on what was read, before anybody else reads."""
        self._moved_s = self.loop.time()
        if self.exchange is None:
            self.abort()  # nobody asked: whatever it is, no later answer may be mixed up with it
        else:
            self.exchange.feed(self._pool.buffer[:nbytes])

    def eof_received(self) -> None:
        """Be done: we never go on sending to a peer that has ended."""
        self._peer_ended(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Be done; the socket is closed now."""
        self._peer_ended(exc)
        self._pool.sockets.discard(self)
        self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Hold the sender back."""
        self.writable = False

    def resume_writing(self) -> None:
        """Let the sender go on."""
        self.writable = True
        if self.exchange is not None:
            self.exchange.notify()

    def _peer_ended(self, error: Exception | None) -> None:
        self.abort(self.exchange.end_of_stream(error) if self.exchange is not None else None)

    # --- the exchange's side

    @property
    def usable(self) -> bool:
        """Say whether it is open, as far as we know."""
        return not self.transport.is_closing()

    def begin(self, method: str, *, keep_alive: bool, progress_s: float) -> Exchange:
        """Enter the service of a new exchange."""
        self.exchange = exchange = Exchange(self, method, keep_alive=keep_alive)
        self.served += 1
        self._moved_s = self.loop.time()
        self._limit_s = progress_s
        if self._moved_s + progress_s < self._deadline_s:
            self._set_timer()
        return exchange

    def write(self, piece: Chunk) -> None:
        """Hand bytes, or a view whose items are bytes, to the transport.

        Not by `writelines`: asyncio's own (CPython 3.12 and 3.13.0) never pauses its writer, so that a peer that does
        not read would have the whole body pile up in memory.
        """
        self._written_bytes += len(piece)
        self.transport.write(piece)

    def pause_reading(self) -> None:
        """Let the peer wait: the caller has enough to read."""
        if not self._paused:
            self._paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Take more from the peer."""
        if self._paused:
            self._paused = False
            self._moved_s = self.loop.time()
            self.transport.resume_reading()

    def await_caller(self) -> None:
        """Stop the watchdog's clock: the next move is the caller's."""
        self._waits_for_caller = True

    def await_peer(self) -> None:
        """Start the watchdog's clock anew: the next move is the peer's."""
        self._waits_for_caller = False
        self._moved_s = self.loop.time()

    def end(self, *, keep_alive: bool) -> None:
        """Be through with an exchange: go back to the pool, or close."""
        if self.served == 1:
            keep_session(self.transport)
        if keep_alive:
            self.rest()
        else:
            self.abort()

    def rest(self) -> None:
        """Go back to the pool: whatever was under way is over."""
        self.exchange = None
        self._waits_for_caller = False
        if self._paused:
            self.resume_reading()
        self._limit_s = idle_s = self._pool.timeouts.idle_s
        if self._moved_s + idle_s < self._deadline_s:
            self._set_timer()
        self._pool.give_back(self)

    def abort(self, error: TransportError | None = None) -> None:
        """Close at once and fail what is under way; may be called again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.leave(error)
        self.transport.abort()
        self._pool.drop(self)

    # --- the watchdog

    def _set_timer(self) -> None:
        """Look again when the time since the last sign of life will be up."""
        if self._timer is not None:
            self._timer.cancel()
        self._deadline_s = self._moved_s + self._limit_s
        self._timer = self.loop.call_at(self._deadline_s, self._look)

    def _look(self) -> None:
        """End what has stood still for too long; if bytes have moved since, look again later."""
        now_s = self.loop.time()
        # What TLS and the kernel hold counts as moved: pieces are small enough for that to be a small error.
        flushed_bytes = self._written_bytes - self.transport.get_write_buffer_size()
        moves = self._waits_for_caller or self._paused or flushed_bytes != self._flushed_bytes
        self._flushed_bytes = flushed_bytes
        if moves and self.exchange is not None:  # a rest is not made longer by what was sent before it
            self._moved_s = now_s
        if now_s < self._moved_s + self._limit_s:
            self._set_timer()
        elif self.exchange is None:
            self.abort()
        else:
            self.abort(self.exchange.stalled(self._limit_s))
