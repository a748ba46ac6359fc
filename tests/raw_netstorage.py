"""A bare NetStorage client for tests of the emulator: requests byte by byte, signed by the published formula.

It shares no code with the emulator: the HMAC is written out here once more, so that a mistake cannot agree with itself.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Self, TypedDict, Unpack

USER = "media-1"
KEY = "correct-horse-battery"
NOW_S = 1_700_000_000
CPCODE = "123456"
_HASHES = {"3": hashlib.md5, "4": hashlib.sha1, "5": hashlib.sha256}
_IDS = count(1)


class Auth(TypedDict, total=False):
    """What a signature may be made with, other than the usual."""

    key: str
    user: str
    version: str
    time_s: int
    unique: str


@dataclass(frozen=True)
class Reply:
    """A whole answer: header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    def xml(self) -> ET.Element:
        """Return the body's root element."""
        return ET.fromstring(self.body)  # noqa: S314 -- our own emulator wrote it

    def files(self) -> list[dict[str, str]]:
        """Return the attributes of every `file` element."""
        return [dict(element.attrib) for element in self.xml().iter("file")]


def auth_headers(
    target: str,
    action: str,
    *,
    key: str = KEY,
    user: str = USER,
    version: str = "5",
    time_s: int = NOW_S,
    unique: str | None = None,
) -> list[tuple[str, str]]:
    """Return the three signature headers for `action` (given whole) on `target`."""
    data = f"{version}, 0.0.0.0, 0.0.0.0, {time_s}, {unique or next(_IDS)}, {user}"
    message = data + target + "\n" + "x-akamai-acs-action:" + action + "\n"
    digest = hmac.new(key.encode(), message.encode("latin-1"), _HASHES[version]).digest()
    return [
        ("X-Akamai-ACS-Action", action),
        ("X-Akamai-ACS-Auth-Data", data),
        ("X-Akamai-ACS-Auth-Sign", base64.b64encode(digest).decode()),
    ]


def head(method: str, target: str, headers: Iterable[tuple[str, str]]) -> bytes:
    """Return a request head."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in (("Host", "ns"), *headers))
    return f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")


def request(
    method: str,
    target: str,
    action: str,
    body: bytes = b"",
    *,
    extra: Iterable[tuple[str, str]] = (),
    **auth: Unpack[Auth],
) -> bytes:
    """Return a whole signed request: `action` without its `version=1&action=`."""
    signed = auth_headers(target, f"version=1&action={action}", **auth)
    length = [] if method in ("GET", "HEAD") else [("Content-Length", str(len(body)))]
    return head(method, target, [*signed, *length, *extra]) + body


def chunked(parts: Iterable[bytes], trailers: Iterable[tuple[str, str]] = ()) -> bytes:
    """Return a chunked body with its trailer section."""
    framed = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts if part)
    return framed + b"0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in trailers) + b"\r\n"


class Raw:
    """One connection to an emulator."""

    def __init__(self, port: int) -> None:
        """Remember where to connect."""
        self._port = port

    async def __aenter__(self) -> Self:
        """Connect."""
        self.reader, self.writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Disconnect."""
        self.writer.transport.abort()
        await asyncio.sleep(0)

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self, *, bodiless: bool = False) -> Reply:
        """Return the next answer; raise what breaks the connection."""
        async with asyncio.timeout(30):
            raw = await self.reader.readuntil(b"\r\n\r\n")
            status_line, *lines = raw.decode("latin-1").split("\r\n")[:-2]
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
            status = int(status_line.split(" ")[1])
            size = 0 if bodiless or status == 100 else int(headers["content-length"])
            return Reply(status, headers, await self.reader.readexactly(size))

    async def ask(self, method: str, target: str, action: str, body: bytes = b"", **auth: Unpack[Auth]) -> Reply:
        """Send one signed request and return its answer."""
        await self.send(request(method, target, action, body, **auth))
        return await self.reply(bodiless=method == "HEAD")

    async def closed(self) -> bool:
        """Whether the other side has ended the connection, in order or not, with nothing left to read."""
        async with asyncio.timeout(30):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True
