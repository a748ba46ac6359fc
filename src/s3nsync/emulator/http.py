"""The server's side of HTTP/1.1, by hand, on asyncio streams.

A signature covers the bytes of the request line, an upload may end in signed trailers, and a refusal may come before
the body: ready-made servers hide all three. `Wire` is one connection; `Head` is one request up to its blank line;
`Body` reads what follows it, piece by piece, and knows whether its end was seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal

HEAD_LIMIT_BYTES = 64 * 1024
READ_BYTES = 256 * 1024
LINGER_BYTES = 1024 * 1024
LINGER_S = 2.0
_CHUNK_LINE_LIMIT_BYTES = 1024
_TLS_HANDSHAKE = b"\x16"  # content type of a TLS record that carries a ClientHello, RFC 8446 §5.1
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class BadRequest(Exception):
    """What came is not an HTTP/1.1 request; the connection cannot be used any more."""


class Cut(Exception):
    """The client went away before its request was whole."""


@dataclass(frozen=True, slots=True)
class Head:
    """Request line and headers; `target` is the request-target byte for byte, header names are in lower case."""

    method: str
    target: bytes
    headers: dict[str, str]
    keep_alive: bool

    @property
    def chunked(self) -> bool:
        """Whether the body is framed in chunks."""
        return self.headers.get("transfer-encoding", "").lower() == "chunked"

    @property
    def length_bytes(self) -> int | None:
        """The declared Content-Length; raises BadRequest when it is no number or contradicts chunked framing."""
        value = self.headers.get("content-length")
        if value is None:
            return None
        if not (value.isascii() and value.isdigit()) or "transfer-encoding" in self.headers:
            raise BadRequest("Content-Length is not usable")
        return int(value)

    @property
    def expects_continue(self) -> bool:
        """Whether the client holds its body back until it is told to go on."""
        return self.headers.get("expect", "").lower() == "100-continue"


def parse_head(raw: bytes) -> Head:
    """Return the request head in `raw` (up to and with the blank line); raise BadRequest when it is none."""
    request_line, *lines = raw[:-4].split(b"\r\n")
    parts = request_line.split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1.") or not parts[1].startswith(b"/"):
        raise BadRequest("request line is malformed")
    headers = parse_fields(lines)
    connection = headers.get("connection", "").lower()
    keep_alive = connection != "close" if parts[2] == b"HTTP/1.1" else connection == "keep-alive"
    if "transfer-encoding" in headers and headers["transfer-encoding"].lower() != "chunked":
        raise BadRequest("Transfer-Encoding is not understood")
    return Head(parts[0].decode("latin-1"), parts[1], headers, keep_alive)


def parse_fields(lines: list[bytes]) -> dict[str, str]:
    """Return header or trailer fields by lower-case name, repeated ones joined by a comma; raise BadRequest."""
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not name or name != name.strip():
            raise BadRequest("header line is malformed")
        key, text = name.decode("latin-1").lower(), value.strip(b" \t").decode("latin-1")
        fields[key] = f"{fields[key]}, {text}" if key in fields else text
    return fields


def render_head(status: int, headers: Sequence[tuple[str, str]]) -> bytes:
    """Return status line, headers and blank line as bytes."""
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"HTTP/1.1 {status} {_REASONS.get(status, 'Unknown')}\r\n{lines}\r\n".encode("latin-1")


@contextlib.contextmanager
def binding(host: str, port: int) -> Iterator[None]:
    """Have an OSError of listening on `host` and `port` name both."""
    try:
        yield
    except OSError as error:
        # A failed look-up of the host has a negative number and a text of its own.
        number = error.errno or 0
        reason = os.strerror(number) if number > 0 else error.strerror
        raise OSError(number, f"cannot listen on {host}, port {port}: {reason}") from error


class Wire:
    """One client connection: heads in, bytes out, and the ways to end it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Take over the two halves of an accepted connection."""
        self.reader = reader
        self._writer = writer

    async def read_head(self) -> Head | None:
        """Return the next request's head, None when the client is done or speaks TLS; raise BadRequest."""
        try:
            # A ClientHello has no blank line: it would be waited for as long as the client waits for its answer.
            first = await self.reader.readexactly(1)
            if first == _TLS_HANDSHAKE:
                return None
            if first == b"\r":
                raise BadRequest("request line is missing")
            raw = first + await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError):
            return None
        except asyncio.LimitOverrunError as error:
            raise BadRequest("request head is too long") from error
        if len(raw) > HEAD_LIMIT_BYTES:
            raise BadRequest("request head is too long")
        return parse_head(raw)

    async def write(self, data: bytes) -> None:
        """Send `data`, waiting while the client is slow; raise Cut when it is gone."""
        if self._writer.is_closing():
            raise Cut
        self._writer.write(data)
        try:
            await self._writer.drain()
        except OSError as error:
            raise Cut from error

    async def go_ahead(self) -> None:
        """Tell a client that holds its body back to send it; raise Cut."""
        await self.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    @property
    def gone(self) -> bool:
        """Whether the client has closed its side and nothing unread is left."""
        return self._writer.is_closing() or self.reader.at_eof()

    async def linger(self) -> None:
        """End our side, then swallow for a moment what the client still sends, so that it can read our answer."""
        with contextlib.suppress(OSError, TimeoutError):
            if self._writer.can_write_eof():
                self._writer.write_eof()
            async with asyncio.timeout(LINGER_S):
                left = LINGER_BYTES
                while left > 0 and (data := await self.reader.read(left)):
                    left -= len(data)

    def reset(self) -> None:
        """Break the connection with a TCP reset."""
        sock = self._writer.get_extra_info("socket")
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def close(self) -> None:
        """Close the connection in order and wait until that is done, for a bounded time."""
        self._writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            await asyncio.wait_for(self._writer.wait_closed(), LINGER_S)


class Body:
    """What follows a head: read it in pieces; `complete` tells whether its end was seen, `trailers` what stood there.

    The go-ahead a client asked for with `Expect: 100-continue` is sent at the first read, not before.
    """

    def __init__(self, reader: asyncio.StreamReader, head: Head, go_ahead: Callable[[], Awaitable[None]]) -> None:
        """Frame the body as `head` says; raise BadRequest when it contradicts itself."""
        self._reader = reader
        self._go_ahead = go_ahead
        self._framing: Literal["sized", "chunked"] = "chunked" if head.chunked else "sized"
        self._left = 0 if head.chunked else head.length_bytes or 0
        self.held_back = head.expects_continue
        self.complete = not head.chunked and self._left == 0
        self.trailers: dict[str, str] = {}

    @property
    def short_enough_to_drain(self) -> bool:
        """Whether reading the rest costs less than opening a new connection."""
        return not self.held_back and self._framing == "sized" and self._left <= HEAD_LIMIT_BYTES

    async def read(self, limit: int = READ_BYTES) -> bytes:
        """Return 1 to `limit` next bytes, or b"" at the end; raise Cut when the client stops short, BadRequest."""
        if self.complete:
            return b""
        if self.held_back:
            self.held_back = False
            await self._go_ahead()
        try:
            return await (self._read_chunked(limit) if self._framing == "chunked" else self._read_sized(limit))
        except (asyncio.IncompleteReadError, OSError) as error:
            raise Cut from error
        except asyncio.LimitOverrunError as error:
            raise BadRequest("chunk line is too long") from error

    async def drain(self) -> None:
        """Read and forget the rest."""
        while await self.read():
            pass

    async def _read_sized(self, limit: int) -> bytes:
        data = await self._read_some(limit)
        self.complete = self._left == 0
        return data

    async def _read_chunked(self, limit: int) -> bytes:
        if self._left == 0:
            self._left = await self._read_chunk_size()
            if self._left == 0:
                await self._read_trailers()
                return b""
        data = await self._read_some(limit)
        if self._left == 0 and await self._reader.readexactly(2) != b"\r\n":
            raise BadRequest("chunk is longer than it says")
        return data

    async def _read_some(self, limit: int) -> bytes:
        data = await self._reader.read(min(limit, self._left))
        if not data:
            raise Cut
        self._left -= len(data)
        return data

    async def _read_chunk_size(self) -> int:
        line = await self._reader.readuntil(b"\r\n")
        digits = line[:-2].partition(b";")[0].strip()
        if len(line) > _CHUNK_LINE_LIMIT_BYTES or not digits or digits.strip(b"0123456789abcdefABCDEF"):
            raise BadRequest("chunk size is malformed")
        return int(digits, 16)

    async def _read_trailers(self) -> None:
        lines: list[bytes] = []
        size = 0
        while (line := await self._reader.readuntil(b"\r\n")) != b"\r\n":
            lines.append(line[:-2])
            size += len(line)
            if size > HEAD_LIMIT_BYTES:
                raise BadRequest("trailers are too long")
        self.trailers = parse_fields(lines)
        self.complete = True
