"""Where to connect, and how patiently."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import urlsplit

from s3nsync.errors import ConfigError

Scheme = Literal["http", "https"]

_PORTS: Final[dict[Scheme, int]] = {"http": 80, "https": 443}
_HOST_NAME = re.compile(r"[0-9A-Za-z_]([0-9A-Za-z._-]*[0-9A-Za-z_])?")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where to connect: scheme, host (an IPv6 literal without brackets) and port."""

    scheme: Scheme
    host: str
    port: int
    authority: str = field(init=False, repr=False, compare=False)
    """The Host header's value: the port only where it is not the scheme's own."""

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
        host = f"[{self.host}]" if ":" in self.host else self.host
        authority = host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"
        object.__setattr__(self, "authority", authority)

    def __hash__(self) -> int:
        """Hash what tells most origins apart; a pool is looked up by it for each request."""
        return hash(self.authority)

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
