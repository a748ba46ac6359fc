"""The emulator itself: listening, connections, start and stop, and what tests ask of it."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from s3nsync.emulator.actions import Rules
from s3nsync.emulator.blobs import Blob, FolderBlobs, MemoryBlobs, read_all
from s3nsync.emulator.control import Control
from s3nsync.emulator.exchange import Exchange, Ledger, Request, World
from s3nsync.emulator.faults import Fault, FaultPlan
from s3nsync.emulator.http import HEAD_LIMIT_BYTES, READ_BYTES, BadRequest, Wire, binding, render_head
from s3nsync.emulator.protocol import Gate, Personality
from s3nsync.emulator.store import File, Tree

_STREAM_LIMIT_BYTES = max(READ_BYTES, HEAD_LIMIT_BYTES)
_START_TIMEOUT_S = 10.0
LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored file as a test sees it; `read()` gives its bytes."""

    size_bytes: int
    md5: str
    mtime_s: int
    _blob: Blob

    def read(self) -> bytes:
        """Return the bytes; raise OSError when they were not kept."""
        return read_all(self._blob)


class Emulator:
    """A NetStorage on loopback.

    `accounts` maps upload account → key, or keys while one is being rotated. `folder` keeps bytes in files instead of
    in memory, `discard` keeps none at all. `clock_window_s` is how far a request's time may be off. `page_cap` bounds
    the entries of a page whatever a client asks for: list always has pages, dir when asked. The same `seed` gives the
    same faults and the same FileStore order. `now_s` is the clock, in Unix seconds.
    """

    def __init__(
        self,
        *,
        accounts: Mapping[str, str | tuple[str, ...]],
        cpcodes: tuple[str, ...] = ("123456",),
        personality: Personality | str = Personality.OBJECTSTORE,
        folder: Path | None = None,
        discard: bool = False,
        tls: ssl.SSLContext | None = None,
        clock_window_s: float = 60,
        nonce_replay: bool = False,
        quick_delete: bool = False,
        page_cap: int = 1000,
        seed: int = 0,
        faults: tuple[Fault, ...] = (),
        now_s: Callable[[], float] = time.time,
    ) -> None:
        """Set the scene; nothing listens yet. `nonce_replay` refuses a signature seen before. Raise ValueError."""
        if folder is not None and discard:
            raise ValueError("folder and discard exclude each other")
        if page_cap < 1:
            raise ValueError("page_cap is at least 1")
        plan = FaultPlan(seed)
        for fault in faults:
            plan.add(fault)
        rules = Rules(Personality(personality), page_cap, quick_delete, seed)
        known = frozenset(code.encode("ascii") for code in cpcodes)
        keys = {name: (key,) if isinstance(key, str) else tuple(key) for name, key in accounts.items()}
        self._world = World(
            tree=Tree(),
            blobs=MemoryBlobs(discard=discard) if folder is None else FolderBlobs(folder),
            gate=Gate(keys, clock_window_s, nonce_replay),
            rules=rules,
            cpcodes=known,
            faults=plan,
            ledger=Ledger(),
            now_s=now_s,
        )
        self._tls = tls
        self._host = ""
        self._server: asyncio.Server | None = None
        self._control: Control | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self, host: str = "127.0.0.1", port: int = 0, control_port: int | None = None) -> None:
        """Listen on `host`; port 0 picks a free one, `control_port` None leaves the control API off.

        Raises OSError that names host and port, ValueError for a number that is no port.
        """
        for number in (port, control_port or 0):
            if not 0 <= number <= LAST_PORT:  # the system would take the lower 16 bits
                raise ValueError(f"{number} is no port: 0 to {LAST_PORT}")
        self._host = host
        with binding(host, port):
            self._server = await asyncio.start_server(
                self._accept, host, port, ssl=self._tls, limit=_STREAM_LIMIT_BYTES, backlog=1024
            )
        if control_port is not None:
            self._control = Control(self)
            await self._control.start(host, control_port)

    async def stop(self) -> None:
        """Close every connection at once and free what is held; late commits still due are dropped."""
        if self._control is not None:
            await self._control.stop()
            self._control = None
        for handle in self._world.late:
            handle.cancel()
        self._world.late.clear()
        if self._server is not None:
            self._server.close()
            for task, writer in self._open.items():
                writer.transport.abort()
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
            await self._server.wait_closed()
            self._server = None
        self._world.blobs.close()

    async def __aenter__(self) -> Self:
        """Start on a free port, with the control API on another."""
        await self.start(control_port=0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        await self.stop()

    @property
    def port(self) -> int:
        """The port it listens on."""
        assert self._server is not None, "not started"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    @property
    def url(self) -> str:
        """Where clients reach it, without a closing slash."""
        return f"{'http' if self._tls is None else 'https'}://{self._host}:{self.port}"

    @property
    def control_url(self) -> str:
        """Where the control API is, without a closing slash."""
        assert self._control is not None, "started without a control port"
        return self._control.url

    @property
    def requests(self) -> list[Request]:
        """The last requests, oldest first (10,000 are kept)."""
        return list(self._world.ledger.requests)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults in force."""
        return self._world.faults.faults

    @property
    def open_connections(self) -> int:
        """How many client connections are open."""
        return len(self._open)

    def snapshot(self) -> dict[str, Stored]:
        """Return every stored file by path (`/cpcode/…`, UTF-8; bytes that are none as surrogate escapes)."""
        return {
            "/" + name.decode("utf-8", "surrogateescape"): Stored(node.size_bytes, node.md5, node.mtime_s, node.blob)
            for name, node in sorted(self._world.tree.items())
            if isinstance(node, File)
        }

    def counts(self) -> dict[str, int]:
        """Return how many requests each action had, refused and faulty ones too ("" counts those without one)."""
        return dict(self._world.ledger.actions)

    def injected(self) -> dict[str, int]:
        """Return how often each kind of fault was really injected."""
        return dict(self._world.faults.injected)

    def stats(self) -> dict[str, object]:
        """Return all totals as plain JSON values."""
        ledger = self._world.ledger
        return {
            "actions": self.counts(),
            "statuses": {str(status): count for status, count in ledger.statuses.items()},
            "faults": self.injected(),
            "bytes_in": ledger.bytes_in,
            "bytes_out": ledger.bytes_out,
            "connections": ledger.connections,
            "open_connections": self.open_connections,
            "entries": len(self._world.tree),
        }

    def inject(self, *faults: Fault) -> None:
        """Put faults in force for requests from now on."""
        for fault in faults:
            self._world.faults.add(fault)

    def clear_faults(self) -> None:
        """Take all faults back; their counts stay."""
        self._world.faults.clear()

    def set_skew(self, skew_s: float) -> None:
        """Put the server's clock off by `skew_s` (positive: ahead)."""
        self._world.skew_s = skew_s

    def reset(self) -> None:
        """Forget objects, faults, counts, log and skew; connections stay."""
        self._world.tree.clear()
        self._world.faults.reset()
        self._world.ledger.reset()
        self._world.skew_s = 0.0

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(Wire(reader, writer)))
        self._open[task] = writer
        self._world.ledger.connections += 1
        task.add_done_callback(lambda done: self._open.pop(done, None))

    async def _serve(self, wire: Wire) -> None:
        try:
            while (head := await wire.read_head()) is not None and await Exchange(self._world, wire, head).run():
                pass
        except BadRequest as error:
            text = f"{error}\n".encode()
            headers = (("Content-Length", str(len(text))), ("Connection", "close"))
            with suppress(Exception):
                await wire.write(render_head(400, headers) + text)
        finally:
            await wire.close()


@contextmanager
def running(
    emulator: Emulator, *, host: str = "127.0.0.1", port: int = 0, control_port: int | None = 0
) -> Iterator[Emulator]:
    """Run `emulator` in a thread with a loop of its own, for callers that are not asynchronous."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="netstorage-emulator", daemon=True)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(emulator.start(host, port, control_port), loop).result(_START_TIMEOUT_S)
        try:
            yield emulator
        finally:
            asyncio.run_coroutine_threadsafe(emulator.stop(), loop).result(_START_TIMEOUT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
