"""The client: one pool per origin, the request's head, and the one repeat that is safe here."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from types import TracebackType
from typing import Self

from s3nsync.errors import ConnectionLost
from s3nsync.http.exchange import JOIN_BYTES, Answer, Body
from s3nsync.http.heads import Fields, encode_head, framing_of, request_line
from s3nsync.http.origin import Origin, Timeouts
from s3nsync.http.pool import Pool
from s3nsync.http.proxy import Proxies
from s3nsync.http.tls import tls_context


class Http:
    """A client with a pool of keep-alive connections per origin; used by any number of tasks of one event loop."""

    def __init__(
        self,
        *,
        tls: ssl.SSLContext | None = None,
        timeouts: Timeouts | None = None,
        max_per_origin: int = 256,
        proxies: Proxies | None = None,
    ) -> None:
        """Set up; nothing is opened yet. `tls` defaults to `tls_context()`, made at first need; `proxies` to none."""
        self._tls = tls
        self._timeouts = timeouts or Timeouts()
        self._max_per_origin = max_per_origin
        self._proxies = proxies or Proxies()
        self._pools: dict[Origin, Pool] = {}
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
        headers: Callable[[], Fields],
        body: Body | None = None,
        length: int | None = None,
        trailers: Callable[[], Fields] | None = None,
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
        line = request_line(method, target)
        announced, framing = framing_of(method, body, length, trailers=trailers is not None)
        pool = self._pools.get(origin) or self._open_pool(origin)
        may_repeat = body is None and method in ("GET", "HEAD")
        fresh = False
        while True:
            connection = (None if fresh else pool.take_idle()) or await pool.take(fresh=fresh)
            try:
                head, keep_alive = encode_head(line, origin.authority, headers(), framing)
            except BaseException:
                connection.rest()
                raise
            exchange = connection.begin(
                method, keep_alive=keep_alive, progress_s=progress_s or self._timeouts.progress_s
            )
            try:
                if body is None:
                    exchange.send_whole(head)
                elif isinstance(body, bytes) and len(body) <= JOIN_BYTES:
                    exchange.send_whole(head + body)
                else:
                    await exchange.send(head, body, announced, trailers)
                while not exchange.status:
                    await exchange.change()
            except ConnectionLost as lost:
                exchange.abort()
                if not (may_repeat and lost.reused) or exchange.received:
                    raise
            except BaseException:
                exchange.abort()
                raise
            else:
                return exchange
            fresh = True

    def _open_pool(self, origin: Origin) -> Pool:
        if self._tls is None and origin.scheme == "https":
            self._tls = tls_context()
        tls = self._tls if origin.scheme == "https" else None
        pool = Pool(origin, tls, self._timeouts, self._max_per_origin, self._proxies.proxy_for(origin))
        pool.closed = self._closed
        self._pools[origin] = pool
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
