"""A proxy that breaks connections on order: between a client and one HTTP/1.1 server, both on loopback, without TLS.

It knows where messages begin and end, and nothing else of HTTP. A `Fault` names requests by a regular expression over
their text, a side (the request or its answer), a place on that side, and what happens there:

    reset        both connections end by a TCP reset
    truncate     what has passed is delivered, then both connections end in order (FIN)
    half-close   the receiver is told that nothing more comes (FIN); the other direction goes on
    stall        nothing passes for `for_s` seconds, then all goes on
    slow         from here on `bytes_per_s` pass
    flip         one bit of the next byte of the body is changed
    hold         nothing passes until the test says so: how a test stops the world at a moment on the wire
    reply        the server never hears of the request; `reply` is the answer

Places are "start" (before the first byte), a number of bytes of the body, some text of the body (just behind it), and
"end" (behind the last byte). `inject` gives an `Injection`, which counts how often its fault really happened: a test
that asserts less proves nothing.

Each exchange has a connection of its own to the server, so that the server's idea of how long idle connections live
stays out of the game. Requests whose body is AWS's JSON are read whole before they are matched: their text is head
and body, and their exchange keeps the answer's body. Python's asyncio only; one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["reset", "truncate", "half-close", "stall", "slow", "flip", "hold", "reply"]
Side = Literal["request", "answer"]
Place = int | bytes | Literal["start", "end"]

PIECE_BYTES = 64 * 1024
_NO_LINGER = struct.pack("ii", 1, 0)  # close() then sends RST (man 7 socket)
_FLIPPED_BIT = 0x20


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What goes wrong, and where, for requests whose text `request` matches.

    It spares the first `skip` of them and ends once it has struck `times`: a message that is too short for the place,
    or that another fault broke before, does not count.
    """

    kind: Kind
    request: str = ""
    side: Side = "answer"
    at: Place = "start"
    skip: int = 0
    times: int = 1
    for_s: float = 0.0
    bytes_per_s: int = 0
    reply: bytes = b""


@dataclass(eq=False)
class Injection:
    """A fault in force: `struck` counts how often it really happened."""

    fault: Fault
    struck: int = 0
    _met: int = 0
    _reached: asyncio.Event = field(default_factory=asyncio.Event)
    _released: asyncio.Event = field(default_factory=asyncio.Event)

    async def reached(self, within_s: float = 120.0) -> None:
        """Wait until it has happened once; fails the test if it does not in time."""
        try:
            await asyncio.wait_for(self._reached.wait(), within_s)
        except TimeoutError:
            raise AssertionError(f"never came to pass: {self.fault}") from None

    @property
    def has_struck(self) -> bool:
        """Whether it has happened."""
        return self.struck > 0

    def release(self) -> None:
        """Let what is held pass, and hold nothing more."""
        self._released.set()

    @property
    def _is_over(self) -> bool:
        return self._released.is_set() or self.struck >= self.fault.times

    def _meets(self, text: str) -> bool:
        """Say whether it may strike this request, and count it."""
        if self._is_over or not re.search(self.fault.request, text, re.DOTALL):
            return False
        self._met += 1
        return self._met > self.fault.skip

    def _strike(self) -> None:
        self.struck += 1
        self._reached.set()


@dataclass(eq=False)
class Exchange:
    """One request and what became of it: `body` is the answer's, kept for AWS's JSON only; times are monotonic."""

    text: str
    status: int = 0
    body: bytes = b""
    ended_s: float | None = None
    began_s: float = field(default_factory=time.monotonic)

    @property
    def answered(self) -> bool:
        """Whether the answer's last byte has passed."""
        return self.ended_s is not None

    def tell(self, now_s: float) -> str:
        """Say in one line what was asked and when, and how long the answer took, or has been waited for."""
        action = re.search(r"x-amz-target: *(\S+)", self.text, re.IGNORECASE)
        what = action[1] if action else self.text.partition(" HTTP/")[0]
        took_s = (self.ended_s or now_s) - self.began_s
        how = f"{self.status} after" if self.answered else "no answer for"
        return f"{now_s - self.began_s:7.2f} s ago: {what}: {how} {took_s:.2f} s"


class _SourceGone(Exception):
    """The side that was read from has closed its connection in the middle of a message."""


class _Cut(Exception):
    """A fault ends both connections."""

    def __init__(self, *, reset: bool) -> None:
        super().__init__()
        self.reset = reset


# --- messages --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Head:
    """A message's head as it came: names of `fields` in lower case."""

    raw: bytes
    first_line: str
    fields: Mapping[str, str]

    @property
    def status(self) -> int:
        return int(self.first_line.split(" ")[1])


async def _read_head(reader: asyncio.StreamReader) -> _Head | None:
    """Read the next message's head; None if the connection ended before it began."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    first_line, *lines = raw[:-4].decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return _Head(raw, first_line, fields)


async def _body(reader: asyncio.StreamReader, head: _Head, *, until_end: bool) -> AsyncGenerator[bytes, None]:
    """Give the bytes behind a head as they come, framing included; raises _SourceGone when they end early."""
    try:
        if "chunked" in head.fields.get("transfer-encoding", ""):
            async for piece in _chunks(reader):
                yield piece
        elif "content-length" in head.fields:
            async for piece in _exactly(reader, int(head.fields["content-length"])):
                yield piece
        elif until_end:
            while piece := await reader.read(PIECE_BYTES):
                yield piece
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        raise _SourceGone from error


async def _exactly(reader: asyncio.StreamReader, left_bytes: int) -> AsyncIterator[bytes]:
    while left_bytes:
        piece = await reader.read(min(left_bytes, PIECE_BYTES))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left_bytes)
        left_bytes -= len(piece)
        yield piece


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while True:
        line = await reader.readuntil(b"\r\n")
        yield line
        size_bytes = int(line.split(b";")[0], 16)
        if not size_bytes:
            break
        async for piece in _exactly(reader, size_bytes + 2):
            yield piece
    while line != b"\r\n":
        line = await reader.readuntil(b"\r\n")
        yield line


async def _once(whole: bytes) -> AsyncGenerator[bytes, None]:
    yield whole


# --- one direction ---------------------------------------------------------------------------------------------


class _Lane:
    """One direction of one exchange: passes bytes on and lets each fault strike at its place."""

    def __init__(self, out: asyncio.StreamWriter, injections: Sequence[Injection]) -> None:
        self._out = out
        self._ahead = list(injections)
        self._passed_bytes = 0
        self._tail = b""
        self._bytes_per_s = 0
        self.closed = False

    async def run(self, head: _Head, body: AsyncGenerator[bytes, None]) -> None:
        """Pass one message on."""
        await self._strike([each for each in self._ahead if each.fault.at == "start"])
        await self._write(head.raw)
        await self._advance(b"")
        async with aclosing(body):
            async for piece in body:
                await self._advance(piece)
        await self._strike([each for each in self._ahead if each.fault.at == "end"])

    async def _advance(self, piece: bytes) -> None:
        while True:
            due = {each: self._distance(each.fault.at, piece) for each in self._ahead}
            step = min((*(each for each in due.values() if each is not None), len(piece)))
            await self._write(piece[:step])
            self._passed_bytes += step
            self._tail, piece = (self._tail + piece[:step])[-PIECE_BYTES:], piece[step:]
            now = [each for each, distance in due.items() if distance == step]
            flips = [each for each in now if each.fault.kind == "flip" and not each._is_over]
            if flips and piece:
                piece = bytes((piece[0] ^ _FLIPPED_BIT,)) + piece[1:]
            await self._strike([each for each in now if piece or each not in flips])
            if not piece:
                return

    def _distance(self, at: Place, piece: bytes) -> int | None:
        """Give how many bytes of `piece` lie before the place; None if it is not in it."""
        if isinstance(at, int):
            found = at - self._passed_bytes
        elif isinstance(at, bytes):
            kept = self._tail[-(len(at) - 1) :] if len(at) > 1 else b""
            index = (kept + piece).find(at)
            found = index + len(at) - len(kept) if index >= 0 else -1
        else:
            return None
        return found if 0 <= found <= len(piece) else None

    async def _strike(self, injections: Sequence[Injection]) -> None:
        for each in injections:
            self._ahead.remove(each)
            if each._is_over:  # another request was there first
                continue
            each._strike()
            fault = each.fault
            match fault.kind:
                case "reset" | "truncate":
                    raise _Cut(reset=fault.kind == "reset")
                case "half-close":
                    self.closed = True
                    self._out.write_eof()
                case "stall":
                    await asyncio.sleep(fault.for_s)
                case "slow":
                    self._bytes_per_s = fault.bytes_per_s
                case "hold":
                    await each._released.wait()
                case "flip" | "reply":
                    pass

    async def _write(self, data: bytes) -> None:
        if self.closed or not data:
            return
        if not self._bytes_per_s:
            self._out.write(data)
            await self._out.drain()
            return
        step = max(1, self._bytes_per_s // 20)
        for start in range(0, len(data), step):
            await asyncio.sleep(step / self._bytes_per_s)
            self._out.write(data[start : start + step])
            await self._out.drain()


# --- the proxy -------------------------------------------------------------------------------------------------


class FaultProxy:
    """A listening proxy before one server; `exchanges` holds everything that went through it."""

    def __init__(self, port: int) -> None:
        """Stand before the server on that port of the loopback; see `proxying`."""
        self._server_port = port
        self._injections: list[Injection] = []
        self._connections: set[asyncio.Task[None]] = set()
        self.exchanges: list[Exchange] = []
        self.port = 0

    def inject(self, fault: Fault) -> Injection:
        """Put a fault in force for requests from now on."""
        injection = Injection(fault)
        self._injections.append(injection)
        return injection

    def hold(self, request: str, *, side: Side = "request", at: Place = "start") -> Injection:
        """Stop the first such exchange at a moment on the wire, until `release`."""
        return self.inject(Fault(kind="hold", request=request, side=side, at=at))

    def clear(self) -> None:
        """Take every fault back, and let pass what is held."""
        for each in self._injections:
            each.release()
        self._injections.clear()

    def seen(self, request: str) -> list[Exchange]:
        """Give the exchanges whose request matches."""
        return [each for each in self.exchanges if re.search(request, each.text, re.DOTALL)]

    def tell(self, last: int = 12) -> str:
        """Say what went through last, for a test that failed: what stands still differs from what was just asked."""
        now_s = time.monotonic()
        return "\n".join(each.tell(now_s) for each in self.exchanges[-last:])

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a client's connection in a task of its own."""
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        task.add_done_callback(lambda _: writer.close())  # for one that is cut before it begins has no end of its own

    async def cut(self) -> None:
        """End every connection now: what is held is lost."""
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (head := await _read_head(reader)) is not None and await self._exchange(head, reader, writer):
                pass
        except _Cut as cut:
            if cut.reset:
                _reset(writer)
        except (_SourceGone, ConnectionError):
            pass
        finally:
            await _close(writer)

    async def _exchange(self, head: _Head, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """See one request and its answer through; False if the client's connection cannot serve another."""
        body = _body(reader, head, until_end=False)
        text = head.raw.decode("latin-1")
        is_json = "application/x-amz-json" in head.fields.get("content-type", "")
        if is_json:
            async with aclosing(body):
                whole = b"".join([piece async for piece in body])
            text, body = text + whole.decode(), _once(whole)
        exchange = Exchange(text)
        self.exchanges.append(exchange)
        injections = [each for each in self._injections if each._meets(text)]
        reply = next((each for each in injections if each.fault.kind == "reply"), None)
        if reply is not None:
            async with aclosing(body):
                async for _ in body:
                    pass
            reply._strike()
            writer.write(reply.fault.reply)
            await writer.drain()
            return True
        server_reader, server_writer = await asyncio.open_connection(
            "127.0.0.1", self._server_port, limit=PIECE_BYTES * 4
        )
        there = _Lane(server_writer, [each for each in injections if each.fault.side == "request"])
        back = _Lane(writer, [each for each in injections if each.fault.side == "answer"])
        sending = asyncio.create_task(_send(there, head, body, server_writer))
        answering = asyncio.create_task(_answer(back, exchange, server_reader, keep=is_json))
        try:
            await asyncio.wait((sending, answering), return_when=asyncio.FIRST_EXCEPTION)
            for task in (sending, answering):
                if task.done():
                    task.result()
        except _Cut as cut:
            if cut.reset:
                _reset(server_writer)
            raise
        finally:
            for task in (sending, answering):
                task.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)
            await _close(server_writer)
        return answering.result() and not back.closed


async def _send(lane: _Lane, head: _Head, body: AsyncGenerator[bytes, None], server: asyncio.StreamWriter) -> None:
    """Pass the request on; a server that hangs up has its reasons, which its answer may tell."""
    try:
        await lane.run(head, body)
    except _SourceGone:
        server.transport.abort()
        raise
    except ConnectionError:
        pass


async def _answer(lane: _Lane, exchange: Exchange, server: asyncio.StreamReader, *, keep: bool) -> bool:
    """Pass the answer on, interim ones first; False if only the connection's end ends it."""
    while True:
        head = await _read_head(server)
        if head is None:
            raise _Cut(reset=isinstance(server.exception(), ConnectionError))
        if head.status >= 200:
            break
        await lane._write(head.raw)
    bodiless = exchange.text.startswith("HEAD ") or head.status in (204, 304)
    ends_itself = bodiless or not head.fields.keys().isdisjoint({"content-length", "transfer-encoding"})
    body = _once(b"") if bodiless else _body(server, head, until_end=True)
    if keep:
        async with aclosing(body):
            exchange.body = b"".join([piece async for piece in body])
        body = _once(exchange.body)
    exchange.status = head.status
    await lane.run(head, body)
    exchange.ended_s = time.monotonic()
    return ends_itself


def _reset(writer: asyncio.StreamWriter) -> None:
    found: socket.socket | None = writer.get_extra_info("socket")
    if found is not None and not writer.transport.is_closing():
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        writer.transport.abort()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(ConnectionError, TimeoutError):
        await asyncio.wait_for(writer.wait_closed(), 1)
    writer.transport.abort()


@asynccontextmanager
async def proxying(port: int) -> AsyncIterator[FaultProxy]:
    """Run a proxy before the server on that port of the loopback, on a free port of its own, until the block ends."""
    proxy = FaultProxy(port)
    listener = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, limit=PIECE_BYTES * 4)
    proxy.port = listener.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        listener.close()
        await proxy.cut()
        await listener.wait_closed()
