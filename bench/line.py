"""A line in front of a server, as distance makes it: answers come later, and a connection carries so much and no more.

    client  ->  this process  ->  server

Bytes pass unread, so TLS does too. Each connection is held back by itself: two of them carry twice as much as one.

    python -m bench.line --port 8080 --to 8081 --delay-s 0.1 --bytes-per-s 25000000

Prints {"ready": true} when it listens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
from collections import deque
from typing import cast

HOLD_BYTES = 64 << 10
CATCH_UP_S = 0.05
"""How much of a delay of our own is made good afterwards."""


class Line:
    """One connection to the server and one from the client, and what is on its way between them."""

    def __init__(self, client: asyncio.Transport, delay_s: float, bytes_per_s: float) -> None:
        """Begin with nothing on its way."""
        self.client = client
        self.server: asyncio.Transport | None = None
        self._early: list[bytes] = []
        self._delay_s = delay_s
        self._bytes_per_s = bytes_per_s
        self._free_at_s = -math.inf
        self._coming: deque[tuple[float, bytes]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._ended = False
        self._loop = asyncio.get_running_loop()

    def asked(self, data: bytes) -> None:
        """Pass on what the client sends."""
        if self.server is None:
            self._early.append(data)
        else:
            self.server.write(data)

    def connected(self, server: asyncio.Transport) -> None:
        """Pass on what the client sent meanwhile."""
        self.server = server
        server.writelines(self._early)

    def answered(self, data: bytes) -> None:
        """Pass on what the server sends when its time has come; nothing more is read until the line is free."""
        assert self.server is not None
        now_s = self._loop.time()
        self._free_at_s = max(self._free_at_s, now_s - CATCH_UP_S) + len(data) / self._bytes_per_s
        self._coming.append((max(self._free_at_s, now_s) + self._delay_s, data))
        if self._free_at_s > now_s and self.server.is_reading():
            self.server.pause_reading()
            self._loop.call_at(self._free_at_s, self._read_on)
        if self._timer is None:
            self._arrive()

    def _read_on(self) -> None:
        if self.server is not None and not self.server.is_closing():
            self.server.resume_reading()

    def _arrive(self) -> None:
        """Give the client all that is due, and come again for the rest."""
        self._timer = None
        while self._coming and self._coming[0][0] <= self._loop.time() + 0.0005:
            self.client.write(self._coming.popleft()[1])
        if self._coming:
            self._timer = self._loop.call_at(self._coming[0][0], self._arrive)
        elif self._ended:
            self.client.close()

    def hung_up(self) -> None:
        """End the server's side, and forget what was on its way to the client that is gone."""
        self._coming.clear()
        if self._timer is not None:
            self._timer.cancel()
        if self.server is not None:
            self.server.close()

    def ended(self) -> None:
        """End the client's side when all has arrived that the server sent."""
        self._ended = True
        if self._timer is None:
            self.client.close()


class Client(asyncio.BufferedProtocol):
    """The client's side."""

    def __init__(self, to: int, delay_s: float, bytes_per_s: float) -> None:
        """Know where to connect to."""
        self._to = to
        self._manner = delay_s, bytes_per_s
        self._buffer = bytearray(HOLD_BYTES)
        self._line: Line | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server."""
        loop = asyncio.get_running_loop()
        line = self._line = Line(cast("asyncio.Transport", transport), *self._manner)
        self._connecting = loop.create_task(loop.create_connection(lambda: Server(line), "127.0.0.1", self._to))

    def get_buffer(self, _sizehint: int) -> bytearray:
        """Give where to put what the client sends."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass it on."""
        assert self._line is not None
        self._line.asked(bytes(self._buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the server's side."""
        del exc
        assert self._line is not None
        self._line.hung_up()


class Server(asyncio.BufferedProtocol):
    """The server's side."""

    def __init__(self, line: Line) -> None:
        """Know the line."""
        self._line = line
        self._buffer = bytearray(HOLD_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._line.connected(cast("asyncio.Transport", transport))

    def get_buffer(self, _sizehint: int) -> bytearray:
        """Give where to put what the server sends."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Pass it on, later."""
        self._line.answered(bytes(self._buffer[:nbytes]))

    def connection_lost(self, exc: Exception | None) -> None:
        """End the client's side."""
        del exc
        self._line.ended()


async def listen(port: int, to: int, *, delay_s: float = 0.0, bytes_per_s: float = math.inf) -> asyncio.Server:
    """Begin to pass connections on, from one port of loopback to another; port 0 picks a free one."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Client(to, delay_s, bytes_per_s), "127.0.0.1", port, backlog=1024)


async def serve(given: argparse.Namespace) -> None:
    """Listen until killed."""
    await listen(given.port, given.to, delay_s=given.delay_s, bytes_per_s=given.bytes_per_s)
    print(json.dumps({"ready": True}), flush=True)
    await asyncio.Event().wait()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--to", type=int, required=True)
    parser.add_argument("--delay-s", type=float, default=0.0)
    parser.add_argument("--bytes-per-s", type=float, default=math.inf)
    given = parser.parse_args()
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        asyncio.run(serve(given))
    else:
        uvloop.run(serve(given))


if __name__ == "__main__":
    main()
