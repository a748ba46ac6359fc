"""A model of NetStorage below the real client: two replicas, late writes, bodies that end too soon.

The client's `send` comes in, with the same guard, signature and trailers as on the wire. A write that has left lands
whatever becomes of its sender, soon, late or never. A body that was cut is stored as far as it came if its size was not
declared, as was seen in the field; a declared size or digest that does not match is refused. A read meets either
replica, and the second shows each change some time after the first.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import new
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, unquote

from s3nsync import errors
from s3nsync.http import Fields, Headers, Origin
from sim.facts import GRACE_S, IDLE_S, SIGNATURE_S, UNIX_S, digest, show
from sim.loop import HOST
from sim.network import LATE, Net, resolve
from sim.plan import Fault
from sim.watch import LOOK, Look

if TYPE_CHECKING:
    from sim.judge import Judge

DIGESTS = frozenset({"md5", "sha1", "sha256"})


@dataclass(eq=False)
class Flight:
    """A write on its way to NetStorage; `data` is None for a delete. It was sent when its lease was last looked at."""

    path: str
    data: bytes | None
    options: dict[str, str]
    sent_at_s: float
    look: Look | None


@dataclass(eq=False)
class Incoming:
    """A body on its way in, as the server sees it; after `patience` it is given up."""

    heard_s: float
    data: bytes = b""
    closed: bool = False
    patience: asyncio.TimerHandle | None = None

    def hear(self, chunk: bytes, now_s: float | None = None) -> None:
        """Take what came; nothing can come over a connection that the server has closed."""
        if self.patience is not None:
            self.patience.cancel()
        if self.closed:
            raise errors.ConnectionLost("NetStorage has closed the connection", sent=True)
        self.data += chunk
        self.heard_s = self.heard_s if now_s is None else now_s


@dataclass(frozen=True, slots=True)
class File:
    """What NetStorage holds at a path."""

    data: bytes
    mtime_s: int


def data_of(file: File | None) -> bytes | None:
    """Give a file's bytes, or None if there is no file."""
    return None if file is None else file.data


@dataclass(eq=False)
class NetStorageModel:
    """Two replicas: the second shows each change `lag_s` later, and a read may meet either."""

    net: Net
    lag_s: float
    judge: Judge = field(init=False)
    history: dict[str, list[tuple[float, File | None]]] = field(default_factory=dict)
    flights: list[Flight] = field(default_factory=list)

    def now(self, path: str) -> File | None:
        """Give what lies at the path now."""
        changes = self.history.get(path)
        return changes[-1][1] if changes else None

    def read(self, path: str) -> File | None:
        """Give what a read meets: either replica."""
        old = random.Random(f"{self.net.seed} replica {self.net.calls['ns.stat']}").random() < 0.5
        until_s = self.net.loop.time() - (self.lag_s if old else 0.0)
        known = [file for at_s, file in self.history.get(path, []) if at_s <= until_s]
        return known[-1] if known else None

    def depart(self, flight: Flight) -> None:
        """Note that a write can no longer be called back."""
        self.flights.append(flight)
        self.judge.on_departure(flight)

    def land(self, flight: Flight, *, altered: bool) -> int:
        """Apply a write and give the status of its answer."""
        self.flights.remove(flight)
        existed = self.now(flight.path)
        if flight.data is None:
            if existed is not None and "destination" in flight.options:
                self._change(flight.options["destination"], existed)
            self._change(flight.path, None)
            return 200 if existed else 404
        data = flight.data[:-1] + b"~" if altered else flight.data
        if not _matches(data, flight.options):
            self.net.watch.tell(f"NetStorage refuses {flight.path}: not the bytes announced")
            return 412
        self.judge.on_landing(flight, data)
        self._change(flight.path, File(data, int(flight.options.get("mtime", 0))))
        return 200

    def _change(self, path: str, file: File | None) -> None:
        self.history.setdefault(path, []).append((self.net.loop.time(), file))
        self.net.watch.tell(f"NetStorage now has {show(data_of(file))} at {path}")


def _matches(data: bytes, options: dict[str, str]) -> bool:
    """Check size and digest as far as they were declared."""
    if "size" in options and int(options["size"]) != len(data):
        return False
    return all(options[name] == new(name, data, usedforsecurity=False).hexdigest() for name in DIGESTS & options.keys())


def _by_name(fields: Fields) -> dict[str, str]:
    return dict([line.split(": ", 1) for line in fields.splitlines()] if isinstance(fields, str) else fields)


@dataclass(eq=False)
class SimAnswer:
    """An HTTP answer whose body is here."""

    status: int
    headers: Headers
    body: bytes = b""
    reason: str = ""
    early: bool = False
    complete: bool = True

    async def read(self, _limit_bytes: int = 0) -> bytes:
        """Give the body."""
        return self.body

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the body in one piece."""
        yield self.body

    async def aclose(self) -> None:
        """Nothing is held."""

    async def __aenter__(self) -> Self:
        """Enter."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leave."""


@dataclass(eq=False)
class SimHttp:
    """The HTTP client below the real NetStorage client: its `send`, over the model network."""

    store: NetStorageModel
    net: Net

    async def send(
        self,
        _origin: Origin,
        method: str,
        target: str,
        *,
        headers: Callable[[], Fields],
        body: bytes | AsyncIterable[bytes] | None = None,
        length: int | None = None,  # noqa: ARG002 - the real one's face
        trailers: Callable[[], Fields] | None = None,
        progress_s: float | None = None,  # noqa: ARG002 - the real one's face
    ) -> SimAnswer:
        """Send one request; the guard is asked, the request signed and gone in one step."""
        point = f"ns.{'upload' if body is not None else 'delete' if method == 'PUT' else 'stat'}"
        fault = self.net.next_fault(point)
        await self.net.enter(fault)
        if fault is not None and fault.what == "unreachable":
            raise errors.ConnectFailed("no connection")
        fields = _by_name(headers())
        path = unquote(target)
        options = dict(parse_qsl(fields["X-Akamai-ACS-Action"]))
        if self._is_too_old(fields):
            await asyncio.sleep(self.net.delay_s(point))
            return self._answer(403)
        if fault is not None and fault.what == "refused":
            await asyncio.sleep(self.net.delay_s(point))
            return self._answer(503)
        if point == "ns.stat":
            return await self._stat(path, fault)
        if options["action"] == "mkdir":
            return self._answer(200)
        if isinstance(body, AsyncIterable):
            return await self._stream(path, body, options, trailers, fault)
        flight = Flight(path, body, options, self.net.loop.time(), LOOK.get())
        return await self._answered(self._depart(flight, fault), point, fault, proven=True)

    def _is_too_old(self, fields: dict[str, str]) -> bool:
        signed_s = float(fields["X-Akamai-ACS-Auth-Data"].split(", ")[3])
        return abs(UNIX_S + self.net.loop.time() - signed_s) > SIGNATURE_S

    def _answer(self, status: int, body: bytes = b"") -> SimAnswer:
        date = formatdate(UNIX_S + self.net.loop.time(), usegmt=True)
        return SimAnswer(status, Headers([("Date", date)]), body)

    async def _stat(self, path: str, fault: Fault | None) -> SimAnswer:
        if fault is not None and fault.what in {"lost", "dropped"}:
            await asyncio.sleep(fault.for_s)
            raise errors.ConnectionLost("the answer was lost", sent=True)
        self.net.strike(fault, "sent")
        await asyncio.sleep(self.net.delay_s("ns.stat"))
        file = self.store.read(path)
        self.net.watch.tell(f"a replica shows {show(data_of(file))} at {path}")
        if file is None:
            return self._answer(404)
        directory, _, name = path.rpartition("/")
        look = LOOK.get()
        if look is not None and look.data == file.data:
            look.confirmed_at_s = look.at_s
        entry = f'type="file" name="{name}" size="{len(file.data)}" md5="{digest(file.data)}" mtime="{file.mtime_s}"'
        return self._answer(200, f'<stat directory="{directory}"><file {entry}/></stat>'.encode())

    async def _stream(
        self,
        path: str,
        body: AsyncIterable[bytes],
        options: dict[str, str],
        trailers: Callable[[], Fields] | None,
        fault: Fault | None,
    ) -> SimAnswer:
        """Take a body as it comes: cut short it stores nothing if its size was declared, else what there is."""
        size = int(options["size"]) if "size" in options and trailers is None else None
        incoming = Incoming(self.net.loop.time())
        look, answer = LOOK.get(), None

        def breaks_off() -> None:
            incoming.closed = True
            if "size" not in options and incoming.data and not self.net.closed:
                self._depart(Flight(path, incoming.data, {}, incoming.heard_s, look), None)

        try:
            async for chunk in body:
                incoming.hear(chunk, self.net.loop.time())
                if len(incoming.data) == size:
                    answer = self._depart(Flight(path, incoming.data, options, incoming.heard_s, look), fault)
                else:
                    incoming.patience = self.net.later(IDLE_S, breaks_off)
                    await asyncio.sleep(0.02)
            incoming.hear(b"")
        except BaseException:
            if answer is None and not incoming.closed:
                incoming.hear(b"")
                breaks_off()
            raise
        if answer is None:
            if trailers is not None:
                options = dict(parse_qsl(_by_name(trailers())["X-Akamai-ACS-Action"]))
            answer = self._depart(Flight(path, incoming.data, options, incoming.heard_s, look), fault)
        return await self._answered(answer, "ns.upload", fault, proven=bool(DIGESTS & options.keys()))

    def _depart(self, flight: Flight, fault: Fault | None) -> asyncio.Future[SimAnswer]:
        """Let a write go: from here on it lands whatever becomes of its sender, or is lost on the way."""
        net, host = self.net, HOST.get()
        answer: asyncio.Future[SimAnswer] = net.loop.create_future()
        what = fault.what if fault else ""
        kind = flight.options["action"] if flight.data is None else f"upload of {show(flight.data)}"
        point = "ns.delete" if flight.data is None else "ns.upload"
        net.watch.tell(f"sends {kind} to {flight.path}")
        self.store.depart(flight)

        def arrive() -> None:
            if what == "dropped":
                self.store.flights.remove(flight)
                return
            status = self.store.land(flight, altered=what == "altered")
            net.strike(fault, "done", host)
            net.loop.call_later(net.delay_s(point), resolve, answer, self._answer(status), context=net.loop.outside)

        late_s = fault.for_s if fault is not None and what in LATE else net.delay_s(point)
        latest_s = flight.sent_at_s + GRACE_S - self.store.lag_s - 1.0 - net.loop.time()
        net.later(min(late_s, latest_s), arrive)
        net.strike(fault, "sent")
        return answer

    async def _answered(
        self, answer: asyncio.Future[SimAnswer], point: str, fault: Fault | None, *, proven: bool
    ) -> SimAnswer:
        """Wait for the answer, or for what the client is told instead; `proven`: a 200 confirms the bytes."""
        what = fault.what if fault else ""
        if what in {"lost", "dropped", "late"}:
            await asyncio.sleep(self.net.delay_s(point))
            raise errors.ConnectionLost("broke before the answer", sent=True)
        if what.startswith("busy"):
            await asyncio.sleep(self.net.delay_s(point))
            return self._answer(502 if what == "busy 502" else 503)
        if what == "late, hangs":
            await asyncio.sleep(15.0)
            raise errors.Stalled("no answer", sent=True)
        if what == "hangs":
            await asyncio.sleep(200.0)
            raise errors.Stalled("no answer", sent=True)
        found = await answer
        look = LOOK.get()
        done = found.status == 200 or (found.status == 404 and point == "ns.delete")
        if look is not None and done and proven:
            look.confirmed_at_s = look.at_s
        return found
