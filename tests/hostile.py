"""A TCP server that follows a script: how tests get the peers that real servers are on their bad days.

A script is called once for each accepted connection with a `Peer`; what it raises, but for a broken connection, fails
the test. Everything is on loopback and ended with the `async with`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from s3nsync.http import Origin


@dataclass
class Peer:
    """The server's end of one connection; `number` counts connections from 1."""

    number: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> bytes:
        """Read a request's head."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def exactly(self, count: int) -> bytes:
        """Read so many bytes."""
        return await self.reader.readexactly(count)

    async def rest(self) -> bytes:
        """Read until the client closes; a reset counts as such."""
        received = bytearray()
        with contextlib.suppress(ConnectionError):
            while data := await self.reader.read(1 << 16):
                received += data
        return bytes(received)

    async def send(self, *pieces: bytes, pause_s: float = 0.0) -> None:
        """Write the pieces one by one."""
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()
            await asyncio.sleep(pause_s)


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class Hostile:
    """A running server: where it is and how many connections it has accepted."""

    origin: Origin
    accepted: int = 0
    failures: list[Exception] = field(default_factory=list)


@contextlib.asynccontextmanager
async def hostile(
    script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Hostile]:
    """Serve `script` on a free port; when a script returns its connection is closed."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.accepted += 1
        try:
            await script(Peer(server.accepted, reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except Exception as error:  # noqa: BLE001 - raised again when the server ends
            server.failures.append(error)
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(lambda _: writer.close())  # for one that is cancelled before it begins never gets there

    listener = await asyncio.start_server(accept, host, 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server = Hostile(Origin("https" if tls else "http", "localhost" if tls else host, port))
    try:
        yield server
    finally:
        listener.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await listener.wait_closed()
    if server.failures:
        raise server.failures[0]


def answering(*answers: bytes) -> Script:
    """Give the answers in turn, one for each request without body, then wait for the client to close."""

    async def script(peer: Peer) -> None:
        for answer in answers:
            await peer.head()
            await peer.send(answer)
        await peer.rest()

    return script
