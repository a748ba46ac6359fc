"""The world around the workers: S3, NetStorage and SQS as models, a network that loses things, and the watch on it all.

The replicator, the worker, its gate and brake and the NetStorage client are the real ones; the models stand where
S3's GETs, NetStorage's HTTP and SQS's calls would leave the machine. A call goes through four moments, and at each the
fault plan may strike:

    before    nothing has left: the host freezes or dies, the connection fails
    sent      the request is on its way and can no longer be called back: freeze, death, answer lost, answer late
    landed    the server acts: refusals, bytes altered on the way
    done      the answer is on its way: freeze, death

What was sent lands at most `GRACE_S` after it was sent, replicas included, or never: that is what "grace" means. So a
freeze between a lease check and its send, longer than the grace, does not happen here; nor does the death of a host
whose clock stood still for so long that it trusts a lease long lost (the known limit of docs/design.md).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from email.utils import formatdate
from hashlib import md5, new
from typing import Self, TypeVar
from urllib.parse import parse_qsl, unquote

from s3nsync import errors
from s3nsync.events import Burial, burial_dedup_id, burial_group_id, dedup_id, encode, encode_burial, group_id
from s3nsync.hands import LEASE_MARGIN_S
from s3nsync.http import Header, Headers, Origin
from s3nsync.model import Change, Delivery, Gone, ObjectRef, QueueName, Route, SourceInfo
from s3nsync.queues import Depth
from sim.loop import HOST, Host, SimLoop
from sim.sqs import FifoQueue, Message

T = TypeVar("T")

UNIX_S = 1_800_000_000.0
"""Unix time at the loop's zero."""

GRACE_S, LEASE_S = 80.0, 120.0
SIGNATURE_S = 60.0
"""How old a signature NetStorage accepts."""

IDLE_S = 30.0
"""How long NetStorage waits for the rest of a body."""

LATE = frozenset({"late", "late, hangs", "busy 502", "busy 503"})
"""A write that lands later than its client waits: the connection breaks, stalls, or a server in front gives up."""

REFUSALS = frozenset({"refused", "forbidden", "no bucket"})
"""A server answers, and does nothing: 503, and what only S3 says, 403 and 404 NoSuchBucket."""

CHUNK_BYTES, BUFFER_BYTES = 8, 16
ROUTE = Route(bucket="media", cpcode="123456", directory="site")
BELOW = "/123456/site/"


@dataclass(frozen=True, slots=True)
class Fault:
    """The `nth` call at `point` meets `what`; `for_s` is for those that last."""

    point: str
    nth: int
    what: str
    for_s: float = 0.0

    def __str__(self) -> str:
        """Tell it in a line of the story."""
        return f"fault: {self.point} no. {self.nth}: {self.what}" + (f" ({self.for_s:.1f} s)" if self.for_s else "")


@dataclass(eq=False)
class Look:
    """What one hand has seen and done, as the watch knows it."""

    host: Host
    ref: ObjectRef
    task: asyncio.Task[object] | None
    data: bytes | None = None
    at_s: float = -1.0
    confirmed_at_s: float = -2.0


LOOK: ContextVar[Look | None] = ContextVar("look", default=None)


@dataclass(eq=False)
class Flight:
    """A write on its way to NetStorage; `data` is None for a delete."""

    path: str
    data: bytes | None
    mtime_s: int | None
    options: dict[str, str]
    sent_at_s: float
    look: Look | None


@dataclass(frozen=True, slots=True)
class File:
    """What NetStorage holds at a path."""

    data: bytes
    mtime_s: int


def data_of(file: File | None) -> bytes | None:
    """Give a file's bytes, or None if there is no file."""
    return None if file is None else file.data


class Watch:
    """Notes what happens and what must not: the story, the violations, the counts."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self.story: list[str] = []
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        host = HOST.get()
        self.story.append(f"{self._clock_s() - 1000.0:9.3f}  {host.name if host else '-':<4} {what}")

    def violate(self, rule: str, what: str) -> None:
        """Note that a promise was broken."""
        self.violations.append(f"{rule}: {what}")
        self.tell(f"VIOLATION {rule}: {what}")


@dataclass(eq=False)
class Net:
    """The network between hosts and servers, with the fault plan."""

    loop: SimLoop
    watch: Watch
    seed: int
    faults: dict[tuple[str, int], Fault]
    calls: Counter[str] = field(default_factory=Counter)
    looks: list[Look] = field(default_factory=list)
    slow: float = 0.1
    calm: bool = False
    closed: bool = False

    def next_fault(self, point: str) -> Fault | None:
        """Count a call and say what is planned for it; freezes and deaths `before` are up to `enter`."""
        if self.closed:
            raise asyncio.CancelledError
        self.calls[point] += 1
        fault = None if self.calm else self.faults.get((point, self.calls[point]))
        if fault is not None and self.strikes(fault):
            self.watch.counts[fault.what] += 1
            self.watch.tell(str(fault))
            return fault
        return None

    def strikes(self, fault: Fault) -> bool:
        """Leave out the one death that the protocol cannot survive."""
        host = HOST.get()
        return not (fault.what.startswith("die") and host is not None and host.behind_s > LEASE_MARGIN_S)

    def delay_s(self, point: str) -> float:
        """Draw a travel time: mostly short, seldom long; the same for the same call of the same seed."""
        drawn = random.Random(f"{self.seed} {point} {self.calls[point]}").random()
        return 0.005 + 0.1 * drawn if drawn > self.slow else 3.0 * drawn / self.slow

    async def enter(self, fault: Fault | None) -> None:
        """Strike before anything was sent."""
        self.strike(fault, "before")
        await asyncio.sleep(0)

    def strike(self, fault: Fault | None, moment: str, host: Host | None = None) -> None:
        """Freeze or kill the host at this moment, if that is the plan."""
        host = host or HOST.get()
        if fault is None or host is None or host.dead or not fault.what.endswith(moment):
            return
        if fault.what.startswith("die"):
            self.loop.kill(host)
        elif fault.what.startswith("freeze"):
            self.loop.freeze(host, fault.for_s, clock_stops="clock" in fault.what)

    async def call(self, point: str, act: Callable[[], T], failed: Callable[[str], errors.S3nsyncError]) -> T:
        """Call a server: `act` runs there; `failed` words what the caller is told when it goes wrong."""
        fault = self.next_fault(point)
        await self.enter(fault)
        what = fault.what if fault else ""
        if what in REFUSALS:
            await asyncio.sleep(self.delay_s(point))
            raise failed(what)
        answer: asyncio.Future[T] = self.loop.create_future()
        host = HOST.get()

        def arrive() -> None:
            if what == "dropped":
                return
            result = act()
            self.strike(fault, "done", host)
            self.loop.call_later(self.delay_s(point), _resolve, answer, result, context=self.loop.outside)

        self.later(self.delay_s(point), arrive)
        self.strike(fault, "sent")
        if what in {"lost", "dropped"}:
            await asyncio.sleep(fault.for_s if fault else 0.0)
            raise failed(what)
        return await answer

    def later(self, delay_s: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        """Let something happen outside of every host."""

        def unless_closed() -> None:
            if not self.closed:
                act()

        return self.loop.call_later(delay_s, unless_closed, context=self.loop.outside)


def _resolve(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def digest(data: bytes) -> str:
    """Give the MD5 in hex."""
    return md5(data, usedforsecurity=False).hexdigest()


def show(data: bytes | None) -> str:
    """Show an object's bytes in the story: its first letters, or that there is none."""
    return "nothing" if data is None else f"{data[:3].decode()}[{len(data)}]"


# --- S3 --------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class S3:
    """Strongly consistent; every version it ever had is remembered."""

    clock_s: Callable[[], float]
    now: dict[ObjectRef, tuple[SourceInfo, bytes]] = field(default_factory=dict)
    versions: dict[ObjectRef, list[bytes]] = field(default_factory=dict)

    def put(self, ref: ObjectRef, data: bytes) -> None:
        """Write an object; a key that begins with `kms` has an ETag that says nothing of its bytes."""
        secret = ref.key.startswith("kms")
        etag = digest(data + b"secret" + str(self.clock_s()).encode()) if secret else digest(data)
        modified_s = int(UNIX_S + self.clock_s())
        info = SourceInfo(len(data), etag, modified_s, encryption="aws:kms" if secret else None)
        self.now[ref] = (info, data)
        self.versions.setdefault(ref, []).append(data)

    def delete(self, ref: ObjectRef) -> None:
        """Remove an object."""
        self.now.pop(ref, None)

    def data(self, ref: ObjectRef) -> bytes | None:
        """Give what it holds now."""
        found = self.now.get(ref)
        return found[1] if found else None


@dataclass(eq=False)
class SimOpened:
    """An answered GET of the model."""

    info: SourceInfo
    data: bytes
    net: Net

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the bytes; each chunk travels by itself."""
        for start in range(0, len(self.data), CHUNK_BYTES):
            await self.net.call("s3.chunk", lambda: None, lambda _what: errors.SourceChanged("changed while read"))
            yield self.data[start : start + CHUNK_BYTES]

    async def read_all(self) -> bytes:
        """Give all bytes."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def aclose(self) -> None:
        """Nothing is held."""


@dataclass(eq=False)
class SimSource:
    """S3 as a worker sees it."""

    s3: S3
    net: Net

    async def open(self, ref: ObjectRef) -> SimOpened | Gone:
        """GET; what is seen is noted on the hand."""
        look = LOOK.get()
        host = HOST.get()
        assert host is not None
        if look is None:
            look = Look(host, ref, asyncio.current_task())
            LOOK.set(look)
            self.net.looks.append(look)
        look.at_s = -1.0

        def get() -> tuple[SourceInfo, bytes] | None:
            look.at_s, look.data = self.net.loop.time(), self.s3.data(ref)
            return self.s3.now.get(ref)

        found = await self.net.call("s3.open", get, _source_error)
        return Gone("no-such-key") if found is None else SimOpened(*found, self.net)

    async def head(self, ref: ObjectRef) -> SourceInfo | None:
        """HEAD."""
        found = await self.net.call("s3.head", lambda: self.s3.now.get(ref), _source_error)
        return found[0] if found else None


def _source_error(what: str) -> errors.S3nsyncError:
    """Word a failed GET or HEAD."""
    match what:
        case "refused":
            return errors.SourceUnavailable("S3 answered 503", status=503)
        case "forbidden":
            return errors.SourceForbidden("S3 answered 403", status=403)
        case "no bucket":
            return errors.BucketMissing("S3 answered 404 NoSuchBucket", status=404)
        case _:
            return errors.ConnectionLost("S3's answer was lost", sent=True)


# --- NetStorage ------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class NetStorageModel:
    """Two replicas: the second shows each change `lag_s` later, and a read may meet either."""

    net: Net
    s3: S3
    lag_s: float
    holds: Callable[[Look], bool] = lambda _look: True
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
        """Note that a write can no longer be called back, and look at what it may do (G2, G3, G6)."""
        self.flights.append(flight)
        ref = ref_of(flight.path)
        if ref is None:
            self.net.watch.violate("G6", f"a write outside of the route: {flight.path}")
        elif flight.look is None or flight.look.ref != ref:
            self.net.watch.violate("G2", f"a write to {flight.path} without a look at its object")
        elif flight.data is None and flight.look.at_s < 0:
            self.net.watch.violate("G2", f"delete of {flight.path}, though S3 had not answered")
        elif flight.data is None and flight.look.data is not None:
            self.net.watch.violate("G2", f"delete of {flight.path}, though S3 had said {show(flight.look.data)}")
        elif flight.look.host.behind_s == 0.0 and not self.holds(flight.look):
            self.net.watch.violate("rule 1", f"a write to {flight.path} without a lease, though the clock was right")

    def land(self, flight: Flight, *, altered: bool) -> int:
        """Apply a write and give the status of its answer."""
        self.flights.remove(flight)
        existed = self.now(flight.path)
        if flight.data is None:
            self._change(flight.path, None)
            return 200 if existed else 404
        data = flight.data[:-1] + b"~" if altered else flight.data
        if not _matches(data, flight.options):
            self.net.watch.tell(f"NetStorage refuses {flight.path}: not the bytes announced")
            return 412
        ref = ref_of(flight.path)
        if ref is not None and data not in self.s3.versions.get(ref, ()):
            self.net.watch.violate("G3", f"{flight.path} holds {data!r}, which S3 never had")
        self._change(flight.path, File(data, int(flight.options.get("mtime", 0))))
        return 200

    def _change(self, path: str, file: File | None) -> None:
        self.history.setdefault(path, []).append((self.net.loop.time(), file))
        self.net.watch.tell(f"NetStorage now has {show(data_of(file))} at {path}")


def ref_of(path: str) -> ObjectRef | None:
    """Give the object whose place this is."""
    return ObjectRef("media", path.removeprefix(BELOW)) if path.startswith(BELOW) else None


def path_of(ref: ObjectRef) -> str:
    """Give the place of an object."""
    return BELOW + ref.key


def _matches(data: bytes, options: dict[str, str]) -> bool:
    """Check size and digest as far as they were declared."""
    if "size" in options and int(options["size"]) != len(data):
        return False
    return all(
        options[name] == new(name, data, usedforsecurity=False).hexdigest()
        for name in ("md5", "sha1", "sha256")
        if name in options
    )


@dataclass(eq=False)
class SimAnswer:
    """An HTTP answer whose body is here."""

    status: int
    headers: Headers
    body: bytes = b""
    reason: str = ""
    early: bool = False

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
        _method: str,
        target: str,
        *,
        headers: Callable[[], Sequence[Header]],
        body: bytes | AsyncIterable[bytes] | None = None,
        length: int | None = None,  # noqa: ARG002 - the real one's face
        trailers: Callable[[], Sequence[Header]] | None = None,
        progress_s: float | None = None,  # noqa: ARG002 - the real one's face
    ) -> SimAnswer:
        """Send one request; the guard is asked, the request signed and gone in one step."""
        point = f"ns.{'upload' if body is not None else 'delete' if _method == 'PUT' else 'stat'}"
        fault = self.net.next_fault(point)
        await self.net.enter(fault)
        if fault is not None and fault.what == "unreachable":
            raise errors.ConnectFailed("no connection")
        fields = dict(headers())
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
        if isinstance(body, AsyncIterable):
            return await self._stream(path, body, options, trailers, fault)
        return await self._answered(self._depart(path, body, options, fault), point, fault)

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
        trailers: Callable[[], Sequence[Header]] | None,
        fault: Fault | None,
    ) -> SimAnswer:
        """Take a body as it comes: cut short it stores nothing if its size was declared, else what there is."""
        size = int(options["size"]) if "size" in options and trailers is None else None
        data, heard_s, answer = b"", self.net.loop.time(), None
        try:
            async for chunk in body:
                self._must_be_open(heard_s)
                data += chunk
                if len(data) == size:
                    answer = self._depart(path, data, options, fault)
                else:
                    await asyncio.sleep(0.02)
                heard_s = self.net.loop.time()
        except BaseException:
            if "size" not in options and answer is None and data and not self.net.closed:
                self._depart(path, data, {}, None)
            raise
        if answer is None:
            self._must_be_open(heard_s)
            if trailers is not None:
                options = dict(parse_qsl(dict(trailers())["X-Akamai-ACS-Action"]))
            answer = self._depart(path, data, options, fault)
        return await self._answered(answer, "ns.upload", fault)

    def _must_be_open(self, heard_s: float) -> None:
        """Break the connection if NetStorage has waited for too long."""
        if self.net.loop.time() - heard_s > IDLE_S:
            raise errors.ConnectionLost("NetStorage has closed the connection", sent=True)

    def _depart(
        self, path: str, body: object, options: dict[str, str], fault: Fault | None
    ) -> asyncio.Future[SimAnswer]:
        """Let a write go: from here on it lands whatever becomes of its sender, or is lost on the way."""
        assert body is None or isinstance(body, bytes)
        net, host, look = self.net, HOST.get(), LOOK.get()
        answer: asyncio.Future[SimAnswer] = net.loop.create_future()
        flight = Flight(path, body, None, options, net.loop.time(), look)
        what = fault.what if fault else ""
        point = "ns.upload" if body is not None else "ns.delete"
        net.watch.tell(f"sends {'upload of ' + show(body) if body is not None else 'delete'} to {path}")
        self.store.depart(flight)

        def arrive() -> None:
            if what == "dropped":
                self.store.flights.remove(flight)
                return
            status = self.store.land(flight, altered=what == "altered")
            net.strike(fault, "done", host)
            net.loop.call_later(net.delay_s(point), _resolve, answer, self._answer(status), context=net.loop.outside)

        late_s = fault.for_s if fault is not None and what in LATE else net.delay_s(point)
        net.later(min(late_s, GRACE_S - self.store.lag_s - 1.0), arrive)
        net.strike(fault, "sent")
        return answer

    async def _answered(self, answer: asyncio.Future[SimAnswer], point: str, fault: Fault | None) -> SimAnswer:
        """Wait for the answer, or for what the client is told instead."""
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
        if look is not None and (found.status == 200 or (found.status == 404 and point == "ns.delete")):
            look.confirmed_at_s = look.at_s
        return found


# --- SQS -------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Queues:
    """The four queues, who waits at them, and what of S3's events is still on its way to them."""

    net: Net
    live: FifoQueue
    bulk: FifoQueue
    check: FifoQueue
    dead: FifoQueue
    on_settled: Callable[[Message, Look | None], None]
    refs: dict[str, ObjectRef] = field(default_factory=dict)
    waiting: dict[QueueName, list[Callable[[], None]]] = field(
        default_factory=lambda: {"live": [], "bulk": [], "check": []}
    )
    underway: Counter[ObjectRef] = field(default_factory=Counter)
    numbers: Counter[str] = field(default_factory=Counter)

    def named(self, name: QueueName) -> FifoQueue:
        """Give one of the three."""
        return {"live": self.live, "bulk": self.bulk, "check": self.check}[name]

    def send(self, name: QueueName, change: Change, *, fresh: bool) -> None:
        """Append a change as the product does."""
        self.numbers["fresh"] += 1
        self.refs[group_id(change.ref)] = change.ref
        dedup = dedup_id(change, fresh=f"f{self.numbers['fresh']}" if fresh else "")
        if self.named(name).send(encode(change), group_id(change.ref), dedup, self.net.loop.time()) is None:
            self.net.watch.counts["duplicates dropped"] += 1
        self.wake(name)

    def wake(self, name: QueueName) -> None:
        """Let those who wait at a queue look again."""
        waiting, self.waiting[name] = self.waiting[name], []
        for look in waiting:
            look()

    def holds(self, look: Look) -> bool:
        """Say whether the hand's host has a message of the key on lease."""
        now_s = self.net.loop.time()
        return any(each.holder == look.host.name and each.is_out(now_s) for each in self.owing(look.ref))

    def owing(self, ref: ObjectRef) -> list[Message]:
        """List every message of this key, the dead-letter queue's too."""
        queues = (self.live, self.bulk, self.check, self.dead)
        return [each for queue in queues for each in queue.messages if self.refs.get(each.group) == ref]


def _queue_error(what: str) -> errors.S3nsyncError:
    return errors.QueueError(f"SQS: {what}")


@dataclass(eq=False)
class SimQueue:
    """One queue as a worker's adapter sees it."""

    name: QueueName
    queues: Queues
    net: Net

    @property
    def _model(self) -> FifoQueue:
        return self.queues.named(self.name)

    async def receive(self, max_n: int, wait_s: float) -> list[Delivery]:
        """Poll; the wait is the server's."""
        point = f"q.receive {self.name}"
        fault = self.net.next_fault(point)
        await self.net.enter(fault)
        if fault is not None and fault.what in {"refused", "dropped"}:
            raise _queue_error("receive failed")
        host = HOST.get()
        assert host is not None
        answer: asyncio.Future[list[Delivery]] = self.net.loop.create_future()
        ends_s = self.net.loop.time() + wait_s
        timers: list[asyncio.TimerHandle] = []

        def look() -> None:
            for timer in timers:
                timer.cancel()
            if host.dead or answer.done() or self.net.closed:
                return
            now_s = self.net.loop.time()
            taken = self._model.receive(max_n, LEASE_S, now_s)
            if taken or now_s >= ends_s:
                for each in taken:
                    each.holder = host.name
                    self.net.watch.tell(f"{host} receives {each.receipt} of {self.queues.refs[each.group].key}")
                self.net.strike(fault, "done", host)
                found = [self._delivery(each) for each in taken]
                self.net.loop.call_later(
                    self.net.delay_s(point), _resolve, answer, found, context=self.net.loop.outside
                )
                return
            self.queues.waiting[self.name].append(look)
            shown_s = self._model.next_shown_s(now_s)
            timers[:] = [self.net.later(max(0.001, min(ends_s, shown_s or ends_s) - now_s), wake)]

        def wake() -> None:
            self.queues.waiting[self.name].remove(look)
            look()

        self.net.later(self.net.delay_s(point), look)
        found = await answer
        if fault is not None and fault.what == "lost" and found:
            raise _queue_error("the messages were lost on the way")
        return found

    def _delivery(self, message: Message) -> Delivery:
        return Delivery(
            self.name,
            str(message.number),
            message.receipt,
            message.body,
            message.group,
            message.receives,
            UNIX_S + message.sent_at_s,
            UNIX_S + message.first_received_at_s,
        )

    async def ack(self, delivery: Delivery) -> bool:
        """Delete."""
        return await self._delete("q.ack", delivery, acked=True)

    async def _delete(self, point: str, delivery: Delivery, *, acked: bool) -> bool:
        host = HOST.get()

        def delete() -> bool:
            message = self._model.delete(delivery.receipt, self.net.loop.time())
            self.net.watch.tell(f"{host}'s ack of {delivery.receipt} is {'accepted' if message else 'refused'}")
            if message is not None:
                self._judge(message, look, acked=acked)
                self.queues.wake(self.name)
            return message is not None

        look = LOOK.get()
        return await self.net.call(point, delete, _queue_error)

    def _judge(self, message: Message, look: Look | None, *, acked: bool) -> None:
        """Hold an ack against G5: a look later than the receive, and NetStorage's word for what it saw."""
        looked = look is not None and look.at_s >= message.received_at_s and look.confirmed_at_s == look.at_s
        if acked and not looked:
            self.net.watch.violate("G5", f"{message.receipt} was acked without a confirmed look")
        self.queues.on_settled(message, look)

    async def retry(self, delivery: Delivery, after_s: float) -> bool:
        """Give back."""

        def give_back() -> bool:
            done = self._model.change_visibility(delivery.receipt, after_s, self.net.loop.time())
            self.net.watch.tell(f"{delivery.receipt} goes back for {after_s:.1f} s{'' if done else ': refused'}")
            self.queues.wake(self.name)
            return done

        return await self.net.call("q.retry", give_back, _queue_error)

    async def extend(self, deliveries: Sequence[Delivery], for_s: float) -> list[Delivery]:
        """Prolong leases."""

        def prolong() -> list[Delivery]:
            now_s = self.net.loop.time()
            return [each for each in deliveries if not self._model.change_visibility(each.receipt, for_s, now_s)]

        return await self.net.call("q.extend", prolong, _queue_error)

    async def bury(self, delivery: Delivery, burial: Burial) -> bool:
        """Send to the dead-letter queue, then delete."""

        def entomb() -> None:
            now_s = self.net.loop.time()
            self.queues.dead.send(encode_burial(burial), burial_group_id(burial), burial_dedup_id(burial), now_s)
            self.net.watch.tell(f"buries {delivery.receipt}: {burial.reason}")

        await self.net.call("q.bury", entomb, _queue_error)
        return await self._delete("q.ack", delivery, acked=False)

    async def send(self, changes: Sequence[Change], *, fresh: bool = False) -> None:
        """Append changes."""

        def append() -> None:
            for change in changes:
                self.net.watch.tell(f"sends {change.kind} of {change.ref.key} to {self.name}")
                self.queues.send(self.name, change, fresh=fresh)

        await self.net.call(f"q.send {self.name}", append, _queue_error)

    async def depth(self) -> Depth:
        """Count."""
        now_s = self.net.loop.time()
        out, delayed = self._model.out(now_s), self._model.delayed(now_s)
        return Depth(len(self._model.messages) - out - delayed, out, delayed)
