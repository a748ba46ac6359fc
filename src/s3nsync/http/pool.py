"""An origin's connections: who may open one, who gets the next, and how one is opened."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import ssl
from collections import deque
from typing import Final

from s3nsync.errors import ConnectFailed, TlsRefused
from s3nsync.http.connection import Connection
from s3nsync.http.dial import dial
from s3nsync.http.origin import Origin, Timeouts
from s3nsync.http.proxy import Proxy, ProxyRefusal, open_tunnel

_READ_BYTES: Final = 256 << 10  # one read at most; more throughput was not to be had with larger ones


class Pool:
    """Connections of one origin: `taken` ones hold a slot each, idle ones none.

    All of them read into one buffer: what has arrived is taken out of it before anything else can.
    """

    def __init__(
        self, origin: Origin, tls: ssl.SSLContext | None, timeouts: Timeouts, limit: int, proxy: Proxy | None = None
    ) -> None:
        """Set up; nothing is opened yet."""
        self.origin = origin
        self.timeouts = timeouts
        self.buffer = memoryview(bytearray(_READ_BYTES))
        self.idle: list[Connection] = []
        self.busy = 0
        self.sockets: set[Connection] = set()
        self.closed = False
        self._tls = tls
        self._limit = limit
        self._proxy = proxy
        self._waiting: deque[asyncio.Future[None]] = deque()

    def take_idle(self) -> Connection | None:
        """Give the connection that was last in use, if there is one and nobody waits for a slot."""
        while self.idle and self.busy < self._limit and not self._waiting:
            connection = self.idle.pop()
            if not connection.transport.is_closing():
                self.busy += 1
                connection.taken = True
                return connection
        return None

    async def take(self, *, fresh: bool) -> Connection:
        """Wait for a slot, then give the connection that was last in use, or a new one."""
        await self._take_slot()
        try:
            connection = (None if fresh else self._pop_idle()) or await self._open()
        except BaseException:
            self._free_slot()
            raise
        connection.taken = True
        return connection

    def give_back(self, connection: Connection) -> None:
        """Put a connection that may serve again on top."""
        connection.taken = False
        self.idle.append(connection)
        if self._waiting:
            self._free_slot()
        else:
            self.busy -= 1

    def drop(self, connection: Connection) -> None:
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

    async def _take_slot(self) -> None:
        if self.busy < self._limit and not self._waiting:
            self.busy += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                with contextlib.suppress(ValueError):
                    self._waiting.remove(turn)
            else:  # the turn came in the same moment
                self._free_slot()
            raise

    def _free_slot(self) -> None:
        """Let the first in line have the slot, or count it as free."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.busy -= 1

    def _pop_idle(self) -> Connection | None:
        while self.idle:
            connection = self.idle.pop()
            if connection.usable:
                return connection
        return None

    async def _open(self) -> Connection:
        self._refuse_if_closed()
        if self.idle and self.busy + len(self.idle) > self._limit:
            self.idle[0].abort()
        loop = asyncio.get_running_loop()
        make = functools.partial(Connection, self, loop)
        try:
            async with asyncio.timeout(self.timeouts.connect_s):
                if self._proxy is None:
                    sock = await dial(self.origin.host, self.origin.port)
                    name = self.origin.host if self._tls else None
                    _, connection = await loop.create_connection(make, sock=sock, ssl=self._tls, server_hostname=name)
                else:
                    connection = await open_tunnel(self._proxy, self.origin, self._tls, make)
        except ProxyRefusal as refusal:
            raise ConnectFailed(f"{self.origin}: {refusal}", hint=refusal.hint) from None
        except (OSError, ssl.CertificateError) as error:
            raise self._connect_failure(error) from error
        if self.closed:
            connection.abort()
        self._refuse_if_closed()
        if not connection.usable:
            raise ConnectFailed(f"{self.origin}: the peer hung up, or spoke before it was asked")
        return connection

    def _refuse_if_closed(self) -> None:
        if self.closed:
            raise ConnectFailed(f"{self.origin}: this client was closed", hint="nothing to do while shutting down")

    def _connect_failure(self, error: Exception) -> ConnectFailed:
        by = f" by proxy {self._proxy}" if self._proxy else ""
        if isinstance(error, ssl.SSLCertVerificationError):
            return TlsRefused(f"{self.origin}: the certificate is not accepted: {error.verify_message}")
        if isinstance(error, ssl.SSLError):
            hint = "does this port speak TLS (1.2 or later)?"
            return ConnectFailed(f"{self.origin}: no TLS: {error.reason or error}", hint=hint)
        if isinstance(error, TimeoutError):
            return ConnectFailed(f"{self.origin}: no connection{by} within {self.timeouts.connect_s:g} s")
        return ConnectFailed(f"{self.origin}: no connection{by}: {str(error) or 'the peer hung up'}")
