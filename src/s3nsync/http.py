"""The product's one HTTP client: a thin HTTP/1.1 transport on asyncio (interface; being filled in)."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

Header = tuple[str, str]
Chunk = bytes | bytearray | memoryview
Body = Chunk | AsyncIterable[Chunk]
Scheme = Literal["http", "https"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where to connect: scheme, host (an IPv6 literal without brackets) and port."""

    scheme: Scheme
    host: str
    port: int

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Read `https://host[:port]`; ConfigError on anything else (a path other than `/`, a query, user info)."""
        raise NotImplementedError

    @property
    def authority(self) -> str:
        """Give the Host header's value: the port only where it is not the scheme's own."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: to connect (TLS included), without any byte moving, and that a pooled connection may rest."""

    connect_s: float = 10.0
    progress_s: float = 60.0
    idle_s: float = 4.0


class Headers(Mapping[str, str]):
    """An answer's header fields: a case-insensitive mapping (`get(name) -> str | None`); `pairs` has all, in order."""

    pairs: tuple[Header, ...]


class Answer:
    """One answer: status line and headers are here, the body is read by `read` or `chunks`."""

    status: int
    reason: str
    headers: Headers
    early: bool
    """It came before the request's body was wholly sent."""

    async def read(self, limit_bytes: int = 1 << 20) -> bytes:
        """Read the whole body; BadAnswer when it is longer than the limit, ConnectionLost when it is cut short."""
        raise NotImplementedError

    def chunks(self) -> AsyncIterator[bytes]:
        """Stream the body; ConnectionLost when it is cut short."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Be done with the answer: the connection is reused if little is left to drain, else closed."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        """Enter: the answer itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Be done with the answer."""
        await self.aclose()


class Http:
    """A pool of keep-alive connections per origin."""

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, timeouts: Timeouts = Timeouts(), max_per_origin: int = 256
    ) -> None:
        """Set up; nothing is opened yet. `tls` defaults to `tls_context()`, made at first need."""
        raise NotImplementedError

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
        """Send one request and return its answer once the answer's headers are in."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Close every connection."""
        raise NotImplementedError

    async def __aenter__(self) -> Self:
        """Enter: the client itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close every connection."""
        await self.aclose()


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Make a verifying TLS context (TLS 1.2 or later, ALPN http/1.1); `ca_file` adds to the system's authorities."""
    raise NotImplementedError
