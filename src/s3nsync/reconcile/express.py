"""The express way of `--direct`: a copy that goes well at the first try needs no queue.

Nearly all objects of a backfill are read, written and confirmed without a hitch. For these a queue would carry messages
that nobody ever gives back, at a third of what the copies themselves cost. So as many tasks as objects may be in flight
take Changes straight from the lister, and run the engine.

    it goes well            reported, once its second look was taken
    it may land later       a Check is owed first, as ever
    anything else           left to the worker's queue as if nobody had tried: it waits, tries again, buries

The second look is that of any copy which is not alone with its key (rule 2 of docs/design.md): does S3 still hold what
was copied? It is taken for MOST copies at once, by a page of the listing (see `second_look`), and not within the
engine, which is told what it saw: so no task waits for it. A copy that S3 no longer holds goes to the queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Final, NamedTuple

import structlog

from s3nsync.engine import Debt, Replicator
from s3nsync.errors import QueueMissing, S3nsyncError
from s3nsync.model import Change, Copied, Deleted, Ignored, ObjectRef, Outcome, Report, SourceInfo, Unchanged
from s3nsync.reconcile.second_look import is_as_it_was, unconfirmed
from s3nsync.s3 import S3

log = structlog.get_logger("s3nsync.express")

Send = Callable[[Sequence[Change]], Awaitable[None]]

CAPACITY: Final = 1_000
"""Changes that wait for a task: a fraction of a second's work."""

MOST: Final = 500
"""Second looks that are taken at once, by one page of S3's listing."""

LOOK_AFTER_S: Final = 0.1
"""How long a second look waits for company."""


class _Hand:
    """The engine's hand without a message: there is no lease to lose, and others may write the key."""

    __slots__ = ("debt",)
    exclusive = False
    urgent = False
    attempt = 1

    def __init__(self) -> None:
        self.debt = Debt()

    def check(self) -> None:
        """Hold."""

    def progress(self) -> None:
        """Move."""

    def patience(self) -> AbstractContextManager[None]:
        """Wait."""
        return _WAIT


_WAIT: Final[AbstractContextManager[None]] = nullcontext()


class _Deferring:
    """S3 as the engine sees it, which puts off the second look at what was copied; `owed` gives what it had seen."""

    def __init__(self, s3: S3) -> None:
        self.open = s3.open
        self._s3 = s3
        self._owed: dict[ObjectRef, SourceInfo] = {}

    async def head(self, ref: ObjectRef, saw: SourceInfo | None = None) -> SourceInfo | None:
        """Tell what was copied as it was, and owe the look; look at anything else."""
        if saw is None:
            return await self._s3.head(ref)
        self._owed[ref] = saw
        return saw

    def owed(self, ref: ObjectRef) -> SourceInfo | None:
        """Give what the object was when it was copied, once: its look is the caller's to take."""
        return self._owed.pop(ref, None)


class _Copy(NamedTuple):
    """A copy whose second look is still to be taken."""

    saw: SourceInfo
    change: Change
    report: Report


class Express:
    """Replicates what it is sent, `at_once` objects at a time; `run` must be running meanwhile."""

    def __init__(
        self,
        *,
        engine: Replicator,
        s3: S3,
        at_once: int,
        leave: Send,
        owe: Send,
        report: Callable[[Report], None],
        clock_s: Callable[[], float],
        capacity: int = CAPACITY,
        most: int = MOST,
        look_after_s: float = LOOK_AFTER_S,
    ) -> None:
        """Wire it: `leave` takes what is for the worker's queue, `owe` Checks; `clock_s` is monotonic."""
        self._source = _Deferring(s3)
        self._engine = replace(engine, source=self._source)
        self._s3 = s3
        self._at_once = at_once
        self._leave = leave
        self._owe = owe
        self._report = report
        self._clock_s = clock_s
        self._capacity = capacity
        self._most = most
        self._look_after_s = look_after_s
        self._waiting: deque[Change] = deque()
        self._more = asyncio.Event()
        self._room = asyncio.Event()
        self._closed = False
        self._at_work = 0
        self._copies: dict[str, dict[str, _Copy]] = {}
        self._looking = 0
        self._flushes: set[asyncio.Task[None]] = set()

    @property
    def at_work(self) -> int:
        """How many objects are being copied, or looked at once more."""
        return self._at_work + self._looking + sum(map(len, self._copies.values()))

    @property
    def count(self) -> int:
        """How many Changes are here, those that wait among them."""
        return len(self._waiting) + self.at_work

    async def send(self, changes: Sequence[Change]) -> None:
        """Take Changes, each once there is room for it; QueueMissing if nobody is left who would make it.

        What is no copy goes to the worker's queue: for a delete it is the message that matters.
        """
        for change in changes:
            if change.kind != "put":
                await self._leave([change])
                continue
            while len(self._waiting) >= self._capacity and not self._closed:
                self._room.clear()
                await self._room.wait()
            if self._closed:
                raise QueueMissing("the worker of this process has stopped", hint="see the message before this one")
            self._waiting.append(change)
            self._more.set()

    async def run(self) -> None:
        """Work until `stop`, finish what is in hand, and take the looks that are left."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(self._at_once):
                    tasks.create_task(self._work())
        finally:
            self.stop()
        await asyncio.gather(*self._flushes, *(self._flush(bucket) for bucket in tuple(self._copies)))

    def stop(self) -> None:
        """Begin nothing more: what waits is dropped."""
        self._closed = True
        self._waiting.clear()
        self._more.set()
        self._room.set()

    async def _work(self) -> None:
        waiting = self._waiting
        while not self._closed:
            if not waiting:
                self._more.clear()
                await self._more.wait()
                continue
            change = waiting.popleft()
            if len(waiting) <= self._capacity // 2:
                self._room.set()
            self._at_work += 1
            try:
                await self._one(change)
            except QueueMissing:  # the worker has died, and says why
                self.stop()
            finally:
                self._at_work -= 1

    async def _one(self, change: Change) -> None:
        """See one Change through, or leave it to the worker."""
        hand, began_s = _Hand(), self._clock_s()
        try:
            outcome: Outcome | None = await self._engine.replicate(change, hand)
        except Exception:
            log.exception("unexpected error; the key goes to the queue", ref=str(change.ref))
            outcome = None
        saw = self._source.owed(change.ref)
        may_land = hand.debt.may_land
        if may_land:
            await self._owe([Change(change.ref, "check", event_name="Check")])
        if isinstance(outcome, Copied) and saw is not None:
            report = self._settled(change, outcome, began_s, ambiguous=may_land)
            copies = self._look_later(_Copy(saw, change, report))
            if len(copies) >= self._most:  # whose copy fills the page waits for it, so that no heap of them grows
                await self._flush(change.ref.bucket)
        elif isinstance(outcome, Deleted | Ignored | Unchanged):
            self._report(self._settled(change, outcome, began_s, ambiguous=may_land))
        else:
            await self._leave([change])

    def _settled(self, change: Change, outcome: Outcome, began_s: float, *, ambiguous: bool) -> Report:
        seconds = self._clock_s() - began_s
        return Report(change, "bulk", outcome, "ack", 1, seconds, 0.0, 0, ambiguous=ambiguous, checked=ambiguous)

    # --- second looks

    def _look_later(self, copy: _Copy) -> Mapping[str, _Copy]:
        """Have the look taken with others; gives them."""
        bucket, key = copy.change.ref.bucket, copy.change.ref.key
        copies = self._copies.get(bucket)
        if copies is None:
            copies = self._copies[bucket] = {}
            asyncio.get_running_loop().call_later(self._look_after_s, self._flush_late, bucket, copies)
        copies[key] = copy
        return copies

    def _flush_late(self, bucket: str, copies: Mapping[str, _Copy]) -> None:
        if self._copies.get(bucket) is copies:
            task = asyncio.get_running_loop().create_task(self._flush(bucket))
            self._flushes.add(task)
            task.add_done_callback(self._flushes.discard)

    async def _flush(self, bucket: str) -> None:
        """Look at all that waits: report what S3 still holds, and leave the rest to the worker."""
        copies = self._copies.pop(bucket, {})
        self._looking += len(copies)
        try:
            saw = {key: copy.saw for key, copy in copies.items()}
            open_keys = await unconfirmed(self._s3, bucket, saw)
            kept = await asyncio.gather(*(self._is_still(ObjectRef(bucket, key), saw[key]) for key in open_keys))
            altered = {key for key, is_still in zip(open_keys, kept, strict=True) if not is_still}
            for key, copy in copies.items():
                if key not in altered:
                    self._report(copy.report)
            await self._leave([copies[key].change for key in altered])
        except QueueMissing:
            self.stop()
        finally:
            self._looking -= len(copies)

    async def _is_still(self, ref: ObjectRef, saw: SourceInfo) -> bool:
        try:
            return is_as_it_was(await self._s3.head(ref), saw)
        except S3nsyncError:
            return False
