"""Reaching an origin through a proxy: which one, by the usual three settings, and the tunnel itself.

Every origin behind a proxy is reached by CONNECT, plain HTTP too: what we sign is the request as it goes out, so
nobody on the way may see it as a request of its own, let alone rewrite it. A proxy's password is a secret: it shows in
no repr, message or log.

    https_proxy, http_proxy   http://[user:password@]host[:port], for origins of that scheme
    no_proxy                  host names, addresses or networks that are reached directly, with their subdomains;
                              `*` is everything. Loopback is always reached directly

Source: RFC 9110, section 9.3.6 (CONNECT); the spelling of the settings is curl's.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar, cast
from urllib.parse import unquote, urlsplit

from s3nsync.errors import ConfigError
from s3nsync.http.dial import dial
from s3nsync.http.origin import Origin

P = TypeVar("P", bound=asyncio.BaseProtocol)

_MAX_ANSWER_BYTES: Final = 16 << 10
_DEFAULT_PORT: Final = 3128


@dataclass(frozen=True, slots=True)
class Proxy:
    """One proxy, reached without TLS; `credentials` is the Proxy-Authorization value, empty if it asks for none."""

    host: str
    port: int
    credentials: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> Proxy:
        """Read `http://[user:password@]host[:port]` (the scheme may be left out); ConfigError on anything else."""
        hint = "write http://host:port, or http://user:password@host:port with % for special characters"
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            port = parts.port or _DEFAULT_PORT
            origin = Origin("http", parts.hostname or "", port)
        except (ValueError, ConfigError):
            raise ConfigError("the proxy's URL cannot be read", hint=hint) from None
        if parts.scheme != "http" or parts.path not in ("", "/") or parts.query or parts.fragment:
            raise ConfigError("the proxy's URL is more than http://, user, password, host and port", hint=hint)
        if parts.username is None:
            return cls(origin.host, port)
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return cls(origin.host, port, "Basic " + base64.b64encode(pair.encode()).decode())

    def __str__(self) -> str:
        """Give the address, never the password."""
        return Origin("http", self.host, self.port).authority


@dataclass(frozen=True, slots=True)
class Proxies:
    """Which proxy each origin is reached by."""

    https: Proxy | None = None
    http: Proxy | None = None
    direct: tuple[str, ...] = ()

    @classmethod
    def parse(cls, https: str | None = None, http: str | None = None, direct: str | None = None) -> Proxies:
        """Read the three settings; ConfigError says which proxy cannot be used."""
        named = [each.strip().lower() for each in (direct or "").split(",")]
        return cls(_read("https", https), _read("http", http), tuple(filter(None, named)))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Proxies:
        """Read HTTPS_PROXY, NO_PROXY and http_proxy; ConfigError says which proxy cannot be used.

        Lower case wins. http_proxy has no upper-case form, as with curl: in a CGI program that would be the client's.
        """
        read = environment.get
        return cls.parse(
            read("https_proxy") or read("HTTPS_PROXY"), read("http_proxy"), read("no_proxy") or read("NO_PROXY")
        )

    def proxy_for(self, origin: Origin) -> Proxy | None:
        """Say by which proxy to reach `origin`; None: directly."""
        proxy = self.https if origin.scheme == "https" else self.http
        return None if proxy is None or self._is_direct(origin.host.lower()) else proxy

    def _is_direct(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return host == "localhost" or any(
                entry == "*" or f".{host}".endswith(f".{entry.removeprefix('*').lstrip('.')}") for entry in self.direct
            )
        return address.is_loopback or any(entry == "*" or _covers(entry, address) for entry in self.direct)


def _read(scheme: str, url: str | None) -> Proxy | None:
    try:
        return Proxy.parse(url) if url else None
    except ConfigError as error:
        raise ConfigError(f"{error.message} (the one for {scheme})", hint=error.hint) from None


def _covers(entry: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    try:
        return address in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        return False


class ProxyRefusal(Exception):
    """The proxy did not open the tunnel: what it said, and what to do."""

    def __init__(self, message: str, hint: str) -> None:
        """Say both."""
        super().__init__(message)
        self.hint = hint


async def open_tunnel(proxy: Proxy, origin: Origin, tls: ssl.SSLContext | None, make: Callable[[], P]) -> P:
    """Connect to the proxy, ask it for `origin`, and set a new protocol on the tunnel.

    Raises OSError and ssl.SSLError as connecting does, ProxyRefusal when the proxy says no.
    """
    loop = asyncio.get_running_loop()
    sock = await dial(proxy.host, proxy.port)
    transport, ask = await loop.create_connection(lambda: _Ask(proxy, origin), sock=sock)
    try:
        await ask.opened
        connection = make()
        if tls is None:
            transport.set_protocol(connection)
            connection.connection_made(transport)
            return connection
        secured = await loop.start_tls(transport, connection, tls, server_hostname=origin.host)
        assert secured is not None
        connection.connection_made(secured)
    except BaseException:
        transport.abort()
        raise
    return connection


class _Ask(asyncio.Protocol):
    """Sends CONNECT and reads the proxy's answer, which has no body if it is yes."""

    def __init__(self, proxy: Proxy, origin: Origin) -> None:
        self._proxy = proxy
        self._origin = origin
        self._text = b""
        self.opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        host = f"[{self._origin.host}]" if ":" in self._origin.host else self._origin.host
        address = f"{host}:{self._origin.port}"
        credentials = f"Proxy-Authorization: {self._proxy.credentials}\r\n" if self._proxy.credentials else ""
        request = f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n{credentials}\r\n"
        cast("asyncio.Transport", transport).write(request.encode("ascii"))

    def data_received(self, data: bytes) -> None:
        self._text += data
        head, end, rest = self._text.partition(b"\r\n\r\n")
        if self.opened.done() or (not end and len(head) <= _MAX_ANSWER_BYTES):
            return
        status = head[9:12] if head.startswith(b"HTTP/1.") else b""
        if len(status) == 3 and status.startswith(b"2") and status.isdigit() and end and not rest:
            self.opened.set_result(None)
        else:
            self._refuse(status.decode("latin-1") if status.isdigit() else "")

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError("the proxy hung up"))

    def _refuse(self, status: str) -> None:
        said = f"answered {status}" if status else "does not speak HTTP as a proxy"
        hint = "check the proxy's address, and that it allows CONNECT to this host and port"
        if status == "407":
            hint = "put user and password into the proxy's URL: http://user:password@host:port"
        self.opened.set_exception(ProxyRefusal(f"proxy {self._proxy} {said}", hint))
