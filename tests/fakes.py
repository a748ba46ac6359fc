"""Owned fakes at the engine's and the worker's seams: S3, NetStorage and a queue, in memory and scriptable."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field

from s3nsync.engine import Debt
from s3nsync.errors import LeaseLost, S3nsyncError, TargetMissing
from s3nsync.events import Burial, dedup_id, encode, group_id
from s3nsync.model import Change, Delivery, Gone, ObjectRef, QueueName, Route, SourceInfo
from s3nsync.netstorage.wire import Applied, AtEnd, Entry, Removed, Uploaded
from s3nsync.queues import Depth

NOW_S = 1_800_000_000.0


def md5(data: bytes) -> str:
    """Give the MD5 in hex."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def info_of(data: bytes, *, etag: str | None = None, mtime_s: int = 1_700_000_000) -> SourceInfo:
    """Describe an object as S3 would for a plain single-part put."""
    return SourceInfo(
        size_bytes=len(data),
        etag=etag or md5(data),
        last_modified_s=mtime_s,
        version_id=None,
        encryption=None,
        customer_key=False,
        checksums={},
        content_encoding=None,
        storage_class=None,
        metadata_mtime=None,
    )


@dataclass
class FakeOpened:
    """An answered GET; `before_chunk` runs before each chunk is handed out."""

    info: SourceInfo
    data: bytes
    chunk_bytes: int
    before_chunk: Callable[[int], None]
    closed: bool = False

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.data), self.chunk_bytes):
            self.before_chunk(start)
            await asyncio.sleep(0)
            yield self.data[start : start + self.chunk_bytes]

    async def read_all(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def aclose(self) -> None:
        self.closed = True


@dataclass
class FakeSource:
    """S3 in a dict; `script` holds errors to raise by the next opens, `calls` what was asked."""

    objects: dict[ObjectRef, tuple[SourceInfo, bytes]] = field(default_factory=dict)
    chunk_bytes: int = 4
    script: list[S3nsyncError | None] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    opened: list[FakeOpened] = field(default_factory=list)
    before_chunk: Callable[[int], None] = lambda _start: None
    on_head: Callable[[], None] = lambda: None
    on_open: Callable[[], None] = lambda: None

    def put(self, ref: ObjectRef, data: bytes, **changes: object) -> SourceInfo:
        info = info_of(data)._replace(**changes)  # type: ignore[arg-type]
        self.objects[ref] = (info, data)
        return info

    async def open(self, ref: ObjectRef) -> FakeOpened | Gone:
        self.calls.append("open")
        self.on_open()
        await asyncio.sleep(0)
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error
        found = self.objects.get(ref)
        if found is None:
            return Gone("no-such-key")
        self.opened.append(FakeOpened(*found, self.chunk_bytes, self.before_chunk))
        return self.opened[-1]

    async def head(self, ref: ObjectRef, _saw: SourceInfo | None = None) -> SourceInfo | None:
        self.calls.append("head")
        self.on_head()
        await asyncio.sleep(0)
        found = self.objects.get(ref)
        return found[0] if found else None


@dataclass
class FakeTarget:
    """NetStorage in a dict; `script` holds what the next writes do instead, `calls` what was asked."""

    files: dict[str, tuple[bytes, int | None]] = field(default_factory=dict)
    directories: set[str] = field(default_factory=set)
    script: list[S3nsyncError | Callable[[], None] | None] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    declared: list[dict[str, object]] = field(default_factory=list)
    repeated: bool = False
    hang: asyncio.Event | None = None

    async def upload(
        self,
        path: str,
        body: bytes | AsyncIterable[bytes],
        *,
        size: int | None = None,
        mtime_s: int | None = None,
        md5: str | None = None,
        sha1: str | None = None,
        sha256: str | None = None,
        at_end: Callable[[], AtEnd] | None = None,
        guard: Callable[[], None],
    ) -> Uploaded:
        self.calls.append(f"upload {path}")
        guard()
        await asyncio.sleep(0)
        data = bytes(body) if isinstance(body, bytes) else b"".join([bytes(chunk) async for chunk in body])
        if at_end is not None:
            guard()
            end = at_end()
            sha256, mtime_s = end.sha256, end.mtime_s
        await self._act()
        assert size == len(data)
        for algorithm, digest in (("md5", md5), ("sha1", sha1), ("sha256", sha256)):
            assert digest is None or digest == hashlib.new(algorithm, data).hexdigest()
        self.declared.append({"size": size, "md5": md5, "sha1": sha1, "sha256": sha256, "at_end": at_end is not None})
        self.files[path] = (data, mtime_s)
        return Uploaded(len(data), self.repeated)

    async def delete(self, path: str, *, guard: Callable[[], None]) -> Removed:
        self.calls.append(f"delete {path}")
        guard()
        await self._act()
        return Removed(self.files.pop(path, None) is not None, self.repeated)

    async def rename(self, source: str, destination: str, *, guard: Callable[[], None]) -> Applied:
        self.calls.append(f"rename {source} {destination}")
        guard()
        await self._act()
        if source not in self.files or destination.rpartition("/")[0] not in self.directories:
            raise TargetMissing("404")
        self.files[destination] = self.files.pop(source)
        return Applied(self.repeated)

    async def make_parents(self, path: str, *, guard: Callable[[], None]) -> bool:
        self.calls.append(f"make parents {path}")
        guard()
        await self._act()
        parent = path.rpartition("/")[0]
        is_missing = parent not in self.directories
        self.directories.add(parent)
        return is_missing

    async def stat(self, path: str) -> Entry | None:
        self.calls.append(f"stat {path}")
        await asyncio.sleep(0)
        found = self.files.get(path)
        if found is None:
            return None
        data, mtime_s = found
        return Entry(path, "file", len(data), md5(data), mtime_s)

    async def mkdir(self, path: str, *, guard: Callable[[], None]) -> None:
        self.calls.append(f"mkdir {path}")
        guard()
        await self._act()
        self.directories.add(path)

    async def _act(self) -> None:
        await asyncio.sleep(0)
        if self.hang is not None:
            await self.hang.wait()
        step = self.script.pop(0) if self.script else None
        if isinstance(step, S3nsyncError):
            raise step
        if step is not None:
            step()


@dataclass
class FakeHand:
    """A hand for engine tests; `lose_after` makes that many lease checks succeed and the next fail."""

    exclusive: bool = True
    urgent: bool = True
    attempt: int = 1
    debt: Debt = field(default_factory=Debt)
    lose_after: int | None = None
    checks: int = 0
    moves: int = 0

    def check(self) -> None:
        self.checks += 1
        if self.lose_after is not None and self.checks > self.lose_after:
            msg = "lost"
            raise LeaseLost(msg)

    def progress(self) -> None:
        self.moves += 1

    def patience(self) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass
class FakeGate:
    """A gate that is open unless told otherwise, and remembers what it was told."""

    rest_s: float = 0.0
    healthy: bool = False
    wants: int = 10
    told: list[str] = field(default_factory=list)

    def wait_s(self, _route: Route) -> float:
        return self.rest_s

    def answered(self, _route: Route) -> None:
        self.told.append("answered")

    def alive(self, _route: Route) -> None:
        self.told.append("alive")

    def failed(self, _route: Route, _reason: str, *, at_once: bool = False) -> None:
        self.told.append("failed at once" if at_once else "failed")

    def hold(self, _route: Route, for_s: float, _reason: str) -> None:
        self.told.append(f"hold {for_s:g}")

    def is_healthy(self, _route: Route) -> bool:
        return self.healthy

    def appetite(self) -> int:
        return self.wants


@dataclass
class FakeLane:
    """A lane with room, unless `full`; `tolls_s` are the next waits, `told` what it heard of requests."""

    full: bool = False
    in_use: int = 0
    tolls_s: list[float] = field(default_factory=list)
    tolls: list[tuple[int, int]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)
    on_enter: Callable[[], None] = lambda: None

    def enter_at_once(self, *, urgent: bool) -> bool:  # noqa: ARG002 - the real one's face
        return False

    async def enter(self, *, urgent: bool) -> bool:  # noqa: ARG002 - the real one's face
        self.on_enter()
        await asyncio.sleep(0)
        self.in_use += not self.full
        return not self.full

    def leave(self, *, urgent: bool) -> None:  # noqa: ARG002 - the real one's face
        self.in_use -= 1

    def toll_s(self, *, requests: int = 0, size_bytes: int = 0) -> float:
        self.tolls.append((requests, size_bytes))
        return self.tolls_s.pop(0) if self.tolls_s else 0.0

    def now_s(self) -> float:
        return 0.0

    def answered(self, action: str, _began_s: float, *, size_bytes: int = 0) -> None:
        self.told.append(f"{action} {size_bytes}")

    def failed(self, error: S3nsyncError, _began_s: float) -> None:
        self.told.append(type(error).__name__)


class FakeBudget:
    """A byte budget that only counts."""

    held_bytes = 0
    peak_bytes = 0

    def take_at_once(self, _size_bytes: int, _owner: str) -> None:
        return None

    async def take(self, size_bytes: int, _owner: str) -> int:
        self.held_bytes += size_bytes
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
        return size_bytes

    def give_back(self, taken: int, _owner: str) -> None:
        self.held_bytes -= taken


@dataclass
class _Stored:
    message_id: str
    group: str
    dedup: str
    body: str
    sent_at_s: float
    visible_at_s: float
    attempt: int = 0
    first_received_at_s: float = 0.0
    receipt: str = ""


class FakeQueue:
    """A FIFO queue by key in memory: group blocking, leases by the clock given, stale receipts refused.

    It keeps what the worker relies on and no more; SQS itself is met through ministack in the contract tests.
    """

    def __init__(
        self, name: QueueName, *, clock_s: Callable[[], float], lease_s: float = 60.0, delay_s: float = 0.0
    ) -> None:
        self._name: QueueName = name
        self._clock_s = clock_s
        self._lease_s = lease_s
        self._delay_s = delay_s
        self._messages: list[_Stored] = []
        self._receipts = 0
        self._seen: set[str] = set()
        self.buried: list[Burial] = []
        self.sent: list[Change] = []
        self.history: list[str] = []
        self.fail_next: list[S3nsyncError] = []
        self.arrived = asyncio.Event()

    @property
    def name(self) -> QueueName:
        return self._name

    def put_body(self, body: str, group: str, *, attempt: int = 0, first_received_at_s: float = 0.0) -> None:
        number = len(self._seen) + len(self._messages) + 1
        self._messages.append(
            _Stored(
                f"m{number}-{self._receipts}",
                group,
                "",
                body,
                NOW_S,
                self._clock_s() + self._delay_s,
                attempt,
                first_received_at_s,
            )
        )
        self.arrived.set()

    def put(self, change: Change, *, attempt: int = 0, first_received_at_s: float = 0.0) -> None:
        self.put_body(encode(change), group_id(change.ref), attempt=attempt, first_received_at_s=first_received_at_s)

    @property
    def empty(self) -> bool:
        return not self._messages

    async def receive(self, max_n: int, wait_s: float) -> list[Delivery]:
        self._raise_scripted()
        found = self._take(max_n)
        if not found and wait_s > 0:
            self.arrived.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.arrived.wait(), min(wait_s, 0.02))
            found = self._take(max_n)
        return found

    def _take(self, max_n: int) -> list[Delivery]:
        now_s = self._clock_s()
        blocked = {m.group for m in self._messages if m.receipt and m.visible_at_s > now_s}
        taken: list[Delivery] = []
        for message in self._messages:
            if len(taken) == max_n:
                break
            if message.visible_at_s > now_s or message.group in blocked:
                blocked.add(message.group)
                continue
            self._receipts += 1
            message.receipt = f"r{self._receipts}"
            message.attempt += 1
            message.first_received_at_s = message.first_received_at_s or NOW_S
            message.visible_at_s = now_s + self._lease_s
            taken.append(
                Delivery(
                    self._name,
                    message.message_id,
                    message.receipt,
                    message.body,
                    message.group,
                    message.attempt,
                    message.sent_at_s,
                    message.first_received_at_s,
                )
            )
        return taken

    def expire(self) -> None:
        """End every lease now, as if the holders had been frozen for too long."""
        for message in self._messages:
            message.visible_at_s = min(message.visible_at_s, self._clock_s())
            message.receipt = f"gone-{message.receipt}"

    def _held(self, delivery: Delivery) -> _Stored | None:
        now_s = self._clock_s()
        return next((m for m in self._messages if m.receipt == delivery.receipt and m.visible_at_s > now_s), None)

    async def ack(self, delivery: Delivery) -> bool:
        self._raise_scripted()
        held = self._held(delivery)
        self.history.append("ack" if held else "ack refused")
        if held:
            self._messages.remove(held)
        return held is not None

    async def retry(self, delivery: Delivery, after_s: float) -> bool:
        self._raise_scripted()
        held = self._held(delivery)
        self.history.append(f"retry {after_s:g}" if held else "retry refused")
        if held:
            held.visible_at_s = self._clock_s() + after_s
            if after_s == 0:
                held.receipt = ""
                self.arrived.set()
        return held is not None

    async def extend(self, deliveries: Sequence[Delivery], for_s: float) -> list[Delivery]:
        refused = []
        for delivery in deliveries:
            held = self._held(delivery)
            if held is None:
                refused.append(delivery)
            else:
                held.visible_at_s = self._clock_s() + for_s
        self.history.append(f"extend {len(deliveries) - len(refused)}")
        return refused

    async def bury(self, delivery: Delivery, burial: Burial) -> bool:
        self._raise_scripted()
        self.buried.append(burial)
        self.history.append("bury")
        held = self._held(delivery)
        if held:
            self._messages.remove(held)
        return held is not None

    async def send(self, changes: Sequence[Change], *, fresh: bool = False) -> None:
        self._raise_scripted()
        for change in changes:
            dedup = dedup_id(change, fresh=str(len(self.sent)) if fresh else "")
            if dedup in self._seen:
                continue
            self._seen.add(dedup)
            self.sent.append(change)
            self.history.append(f"send {change.kind}")
            self.put(change)

    async def depth(self) -> Depth:
        now_s = self._clock_s()
        in_flight = sum(1 for m in self._messages if m.visible_at_s > now_s and m.receipt)
        delayed = sum(1 for m in self._messages if m.visible_at_s > now_s and not m.receipt)
        return Depth(len(self._messages) - in_flight - delayed, in_flight, delayed)

    def _raise_scripted(self) -> None:
        if self.fail_next:
            raise self.fail_next.pop(0)
