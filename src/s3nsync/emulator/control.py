"""The control API: plain HTTP and JSON on a port of its own, for people with curl and tests in other processes.

GET    /health     {"status": "ok"}
GET    /stats      totals: requests by action and status, faults injected by kind, bytes, connections, entries
GET    /snapshot   path → {size_bytes, md5, mtime_s} of every file
GET    /requests   the last requests, oldest first
GET    /faults     the faults in force, without those used up
POST   /faults     one fault or a list of them: puts them in force
DELETE /faults     takes them all back
POST   /clock      {"skew_s": 90}: puts the server's clock off
POST   /reset      forgets objects, faults, counts, log and skew
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from typing import Protocol, cast

from s3nsync.emulator.exchange import Request
from s3nsync.emulator.faults import Fault, fault_from_json
from s3nsync.emulator.http import BadRequest, Body, Cut, Head, Wire, binding, render_head

_BODY_LIMIT_BYTES = 1024 * 1024


class StoredFile(Protocol):
    """What the control API tells about a file."""

    @property
    def size_bytes(self) -> int:
        """How many bytes it has."""

    @property
    def md5(self) -> str:
        """Its MD5, hex."""

    @property
    def mtime_s(self) -> int:
        """Its modification time, Unix seconds."""


class Controlled(Protocol):
    """What the control API needs of the emulator."""

    @property
    def requests(self) -> list[Request]:
        """The last requests."""

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults in force."""

    def snapshot(self) -> Mapping[str, StoredFile]:
        """Every stored file by path."""

    def stats(self) -> dict[str, object]:
        """All totals."""

    def inject(self, *faults: Fault) -> None:
        """Put faults in force."""

    def clear_faults(self) -> None:
        """Take them back."""

    def set_skew(self, skew_s: float) -> None:
        """Put the clock off."""

    def reset(self) -> None:
        """Forget everything."""


class Control:
    """Serves the control API for one emulator."""

    def __init__(self, emulator: Controlled) -> None:
        """Bind the routes."""
        self._emulator = emulator
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._host = ""
        self._routes: dict[tuple[str, str], Callable[[bytes], object]] = {
            ("GET", "/health"): lambda _: {"status": "ok"},
            ("GET", "/stats"): lambda _: emulator.stats(),
            ("GET", "/snapshot"): lambda _: _snapshot(emulator),
            ("GET", "/requests"): lambda _: [asdict(request) for request in emulator.requests],
            ("GET", "/faults"): lambda _: [asdict(fault) for fault in emulator.faults],
            ("POST", "/faults"): self._inject,
            ("DELETE", "/faults"): self._clear,
            ("POST", "/clock"): self._skew,
            ("POST", "/reset"): self._reset,
        }

    async def start(self, host: str, port: int) -> None:
        """Listen; raise OSError that names host and port."""
        self._host = host
        with binding(host, port):
            self._server = await asyncio.start_server(self._accept, host, port)

    async def stop(self) -> None:
        """Close every connection and stop listening."""
        if self._server is None:
            return
        self._server.close()
        for task, writer in self._open.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        return f"http://{self._host}:{self._server.sockets[0].getsockname()[1]}"

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(Wire(reader, writer)))
        self._open[task] = writer
        task.add_done_callback(lambda done: self._open.pop(done, None))

    async def _serve(self, wire: Wire) -> None:
        try:
            with suppress(Cut, BadRequest):
                while (head := await wire.read_head()) is not None:
                    await self._exchange(wire, head)
                    if not head.keep_alive:
                        break
        finally:
            await wire.close()

    async def _exchange(self, wire: Wire, head: Head) -> None:
        status, value = self._respond(head, await _read(Body(wire.reader, head, wire.go_ahead)))
        text = json.dumps(value).encode() + b"\n"
        headers = (("Content-Type", "application/json"), ("Content-Length", str(len(text))))
        await wire.write(render_head(status, headers) + text)

    def _respond(self, head: Head, body: bytes) -> tuple[int, object]:
        path = head.target.partition(b"?")[0].decode("latin-1")
        route = self._routes.get((head.method, path))
        if route is None:
            known = any(path == other for _, other in self._routes)
            return (405, {"error": "method not allowed"}) if known else (404, {"error": f"no such path: {path}"})
        try:
            return 200, route(body)
        except ValueError as error:
            return 400, {"error": str(error)}

    def _inject(self, body: bytes) -> object:
        value: object = json.loads(body)
        faults = [fault_from_json(item) for item in (value if isinstance(value, list) else [value])]
        self._emulator.inject(*faults)
        return {"faults": len(self._emulator.faults)}

    def _clear(self, body: bytes) -> object:  # noqa: ARG002 -- one shape for all routes
        self._emulator.clear_faults()
        return {"faults": 0}

    def _skew(self, body: bytes) -> object:
        value: object = json.loads(body)
        skew_s = cast("Mapping[str, object]", value).get("skew_s") if isinstance(value, dict) else None
        if not isinstance(skew_s, (int, float)):
            raise ValueError('give {"skew_s": seconds}')  # noqa: TRY004 -- the caller sent a wrong value
        self._emulator.set_skew(float(skew_s))
        return {"skew_s": skew_s}

    def _reset(self, body: bytes) -> object:  # noqa: ARG002 -- one shape for all routes
        self._emulator.reset()
        return {"status": "ok"}


def _snapshot(emulator: Controlled) -> dict[str, dict[str, object]]:
    return {
        path: {"size_bytes": file.size_bytes, "md5": file.md5, "mtime_s": file.mtime_s}
        for path, file in emulator.snapshot().items()
    }


async def _read(body: Body) -> bytes:
    parts: list[bytes] = []
    size = 0
    while data := await body.read():
        parts.append(data)
        size += len(data)
        if size > _BODY_LIMIT_BYTES:
            raise BadRequest("body is too long")
    return b"".join(parts)
