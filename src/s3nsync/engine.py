"""Replicate one key: look at S3, decide, act on NetStorage, prove it.

    0 lane.enter     a place with the upload account, before anything is asked of S3
    1 source.open    one GET: what is true in S3 now (the event is only a hint)
    2 target.stat    only on later attempts and for checks
    3 decide         pure: Upload | Delete | Nothing | Wait | Reject
    4 target.upload / target.delete / target.rename into the trash, guarded by the lease
    5 not alone with the key (bulk and check queues)? source.head again; different: back to 1

The engine neither acks nor remembers. What it leaves for the worker beside the Outcome is the hand's `Debt`: whether
anything was sent, and whether something may still land. The rules are the protocol of docs/design.md, section 6:
check the lease, then sign, then send (the client calls our guard just before it signs each try, and the body stops
before its last chunk if the lease is gone); never skip anything because of what was seen before this attempt.

Everything impure is passed in: the two sides, the byte budget, clock, back-off and the thread that hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, replace
from typing import Protocol, TypedDict, TypeVar

from s3nsync.decide import (
    Declared,
    Delete,
    HashAtEnd,
    Nothing,
    Reject,
    Upload,
    Wait,
    decide,
    is_outage,
    is_throttled,
    outcome_of,
    wants_stat,
)
from s3nsync.errors import (
    LeaseLost,
    S3nsyncError,
    SourceChanged,
    TargetConflict,
    TargetError,
    TargetMissing,
    TargetPrecondition,
    TransportError,
)
from s3nsync.mapping import FolderMarker, OutOfScope, Placed, Refused, place, trash_path
from s3nsync.model import (
    Change,
    Copied,
    Deleted,
    Gone,
    Ignored,
    ObjectRef,
    Outcome,
    Rejected,
    Retry,
    Route,
    SourceInfo,
    Unchanged,
)
from s3nsync.netstorage.wire import Applied, AtEnd, Entry, Removed, Uploaded

T = TypeVar("T")

MAX_ROUNDS = 5
"""How often one hand goes round for a key that changes under it before it gives the message back."""

STREAM_BYTES = 2 * 1024 * 1024
"""What one streamed object holds of the byte budget: a chunk being read, one held back, one being sent."""

HASH_INLINE_BYTES = 64 * 1024
"""Below this, hashing (some 60 us) costs less than handing the bytes to a thread."""


STAT_WAITS_S = (0.0, 0.5, 2.0, 5.0)
"""When NetStorage's MD5 is asked for after an upload: a replica that is behind gets this long to catch up."""


class Digests(TypedDict, total=False):
    """The digest to declare, by the name of its algorithm."""

    md5: str
    sha1: str
    sha256: str


class Opened(Protocol):
    """An object of S3 whose GET was answered: its facts, and its bytes once."""

    @property
    def info(self) -> SourceInfo:
        """What the answer's headers said."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the bytes in order; ends only after all of them, checked."""

    async def read_all(self) -> bytes:
        """Give all bytes at once, checked."""

    async def aclose(self) -> None:
        """Let go of the connection; harmless after the end."""


class Source(Protocol):
    """S3, as far as the engine sees it."""

    async def open(self, ref: ObjectRef) -> Opened | Gone:
        """GET the object; Gone only when S3 itself says that there is no such key."""

    async def head(self, ref: ObjectRef) -> SourceInfo | None:
        """Look at the object without its bytes; None when the answer is 404."""


class Target(Protocol):
    """NetStorage, as far as the engine sees it; `guard` is called just before each try is signed."""

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
        """Write the object; returns once NetStorage has confirmed size and digest."""

    async def delete(self, path: str, *, guard: Callable[[], None]) -> Removed:
        """Remove the file; fine if there is none."""

    async def rename(self, source: str, destination: str, *, guard: Callable[[], None]) -> Applied:
        """Move the file; TargetMissing if there is none, or no directory for it."""

    async def make_parents(self, path: str, *, guard: Callable[[], None]) -> bool:
        """Make the directories above the path; False if they were all there."""

    async def stat(self, path: str) -> Entry | None:
        """Look at the path; None when there is nothing."""

    async def mkdir(self, path: str, *, guard: Callable[[], None]) -> None:
        """Make the directory; fine if it exists."""


class Gate(Protocol):
    """Which routes may be worked on: see `pacing.Breaker`."""

    def wait_s(self, route: Route) -> float:
        """Give 0 if a key of the route may go now, else the seconds to wait."""

    def answered(self, route: Route) -> None:
        """Note that the other side did its work."""

    def alive(self, route: Route) -> None:
        """Note that the other side answers, though it did not do its work."""

    def failed(self, route: Route, reason: str, *, at_once: bool = False) -> None:
        """Note that the other side is in trouble."""

    def hold(self, route: Route, for_s: float, reason: str) -> None:
        """Rest the route for a while."""

    def is_healthy(self, route: Route) -> bool:
        """Say whether the other side did its work lately."""


class Lane(Protocol):
    """How much may be asked of one upload account: see `lanes.Lane`."""

    async def enter(self) -> bool:
        """Take a place, waiting in line for it; False if too many wait already."""

    def leave(self) -> None:
        """Give the place back."""

    def toll_s(self, *, requests: int = 0, size_bytes: int = 0) -> float:
        """Count what is about to be sent, and give the seconds to wait before sending it."""

    def now_s(self) -> float:
        """Give the lane's time."""

    def answered(self, action: str, began_s: float, *, size_bytes: int = 0) -> None:
        """Note that a request with so long a body went well."""

    def failed(self, error: S3nsyncError, began_s: float) -> None:
        """Note that a request failed."""


class Budget(Protocol):
    """The process-wide budget of bytes held in memory."""

    async def take(self, size_bytes: int, owner: str) -> int:
        """Wait for the bytes and hold them on the account's behalf; gives what to give back."""

    def give_back(self, taken: int, owner: str) -> None:
        """Let others have them."""


@dataclass(slots=True)
class Debt:
    """What a hand may owe: a write that is stale, or may still land, must be owed by some message.

    `placed`: the key has an address on NetStorage. `sent`: a write has left. `pending`: its last byte has left and no
    answer came yet. `ambiguous`: an answer never came, or the write was repeated.
    """

    placed: bool = False
    sent: bool = False
    pending: bool = False
    ambiguous: bool = False

    @property
    def may_land(self) -> bool:
        """Say whether something sent may still take effect on NetStorage after we stop looking."""
        return self.pending or self.ambiguous

    def last_byte_leaves(self) -> None:
        """Note that from here on the write may take effect; a second time means that the first went unanswered."""
        self.ambiguous |= self.pending
        self.sent = self.pending = True

    def answered(self, *, repeated: bool) -> None:
        """Note a confirmed write."""
        self.pending = False
        self.ambiguous |= repeated

    def failed(self, error: S3nsyncError) -> None:
        """Note a failed write: a definite answer, or nothing sent, leaves nothing to land."""
        refused = isinstance(error, TargetError) and not error.ambiguous
        never_left = isinstance(error, TransportError) and not error.sent
        if refused or never_left:
            self.pending = False
        self.ambiguous |= self.pending or error.ambiguous
        self.pending = False


class Hand(Protocol):
    """The messages of one key that the worker holds, as far as the engine sees them.

    `exclusive`: nobody else is given this key while every lease lives (the live queue). `attempt` is the highest of
    its messages.
    """

    @property
    def exclusive(self) -> bool:
        """Whether the queue keeps everybody else away from this key."""

    @property
    def attempt(self) -> int:
        """How often the most-tried message was received."""

    @property
    def debt(self) -> Debt:
        """What this hand may owe."""

    def check(self) -> None:
        """Raise LeaseLost unless every lease of the hand is alive."""

    def progress(self) -> None:
        """Note that the work moves: leases are extended only while it does."""

    def patience(self) -> AbstractContextManager[None]:
        """Count the block as moving, however long it takes: it waits for something of our own."""


Offload = Callable[[Callable[[bytes], None], bytes], Awaitable[None]]
"""Runs a hash update with its bytes away from the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replicator:
    """Makes one key on NetStorage equal to S3, under the routes given.

    `targets` holds one client for each upload account, `lanes` the way to it; `gate` says which routes may be worked
    on; `backoff_s` gives the wait after failed attempt n; `brake_s` is asked before each live delete and says how long
    deletes must rest (0: go on). Objects up to `buffer_bytes` are held whole while they are sent, larger ones are
    streamed. Without `trailers`, a stream whose digest S3 does not tell is proven by NetStorage's own MD5 afterwards.
    """

    routes: Sequence[Route]
    source: Source
    targets: Mapping[str, Target]
    lanes: Mapping[str, Lane]
    budget: Budget
    gate: Gate
    backoff_s: Callable[[int], float]
    now_s: Callable[[], float]
    sleep: Callable[[float], Awaitable[None]]
    offload: Offload
    brake_s: Callable[[Route], float]
    buffer_bytes: int
    metadata_mtime: bool = False
    trailers: bool = True

    async def replicate(self, change: Change, hand: Hand) -> Outcome:
        """Bring the Change's key up to date and say what came of it; only LeaseLost and bugs are raised."""
        placement = place(change.ref, self.routes)
        if isinstance(placement, OutOfScope):
            return Ignored(placement.reason)
        if isinstance(placement, Refused):
            return Rejected(placement.reason, placement.hint)
        hand.debt.placed = True
        lane = self.lanes[placement.route.account]
        with hand.patience():
            entered = await lane.enter()
        if not entered:
            reason = f"account {placement.route.account} is busy, and enough keys wait for it already"
            return Retry(reason, self.backoff_s(hand.attempt), failed=False)
        try:
            return await self._with_place(change, placement, hand)
        finally:
            lane.leave()

    async def _with_place(self, change: Change, placement: Placed | FolderMarker, hand: Hand) -> Outcome:
        """Do the work, if the route does not rest; the gate is asked only now, as the wait for a place may be long."""
        rest_s = self.gate.wait_s(placement.route)
        if rest_s > 0:
            return Retry(f"the route rests: {placement.route}", rest_s, failed=False)
        try:
            if isinstance(placement, FolderMarker):
                outcome = await self._mark_folder(change.ref, placement, hand)
            else:
                outcome = await self._converge(change, placement, hand)
        except LeaseLost:
            raise
        except S3nsyncError as error:
            return self._failed(error, placement.route, hand)
        self.gate.answered(placement.route)
        return outcome

    def _failed(self, error: S3nsyncError, route: Route, hand: Hand) -> Outcome:
        """Say what becomes of a failed key, and tell the gate whose fault it was."""
        outcome = outcome_of(error, wait_s=self.backoff_s(hand.attempt))
        if not is_outage(error):
            self.gate.answered(route)
            return outcome
        if is_throttled(error):  # it lives, and its lane has become narrower
            self.gate.alive(route)
            return outcome
        self.gate.failed(route, f"{error.message}; {error.hint}", at_once=error.pauses_route)
        if isinstance(outcome, Retry) and self.gate.is_healthy(route):
            return replace(outcome, outage=False)
        return outcome

    async def _converge(self, change: Change, placed: Placed, hand: Hand) -> Outcome:
        """Go round until what was written is what S3 holds."""
        for _ in range(MAX_ROUNDS):
            try:
                outcome, saw = await self._round(change, placed, hand)
            except SourceChanged:
                continue
            hand.check()
            if not isinstance(outcome, Copied | Deleted | Unchanged):
                return outcome
            if hand.exclusive or await self._is_still(change.ref, saw):
                return outcome
        return Retry("the object changes faster than it can be copied", self.backoff_s(1), failed=False)

    async def _is_still(self, ref: ObjectRef, saw: SourceInfo | Gone) -> bool:
        """Take the second look that a hand owes when others may write the key too."""
        now = await self.source.head(ref)
        if isinstance(saw, Gone) or now is None:
            return isinstance(saw, Gone) and now is None
        return (now.etag, now.size_bytes, now.last_modified_s) == (saw.etag, saw.size_bytes, saw.last_modified_s)

    async def _round(self, change: Change, placed: Placed, hand: Hand) -> tuple[Outcome, SourceInfo | Gone]:
        """Look, decide, act, once."""
        hand.check()
        hand.progress()
        opened = await self.source.open(change.ref)
        if isinstance(opened, Gone):
            return await self._act_on_absence(placed, opened, hand), opened
        try:
            return await self._act_on_object(change, placed, opened, hand), opened.info
        finally:
            await opened.aclose()

    async def _act_on_absence(self, placed: Placed, gone: Gone, hand: Hand) -> Outcome:
        action = self._decide(placed.route, gone, None, buffered=False)
        if isinstance(action, Nothing):
            return Ignored(action.reason)
        assert isinstance(action, Delete)
        rest_s = self.brake_s(placed.route) if hand.exclusive else 0.0
        if rest_s > 0:
            reason = f"brake: too many deletes in a minute on {placed.route}; is the bucket being emptied by mistake?"
            self.gate.hold(placed.route, rest_s, reason)
            return Retry(reason, rest_s, failed=False)
        try:
            return await (self._discard if action.to_trash else self._delete)(placed, hand)
        except S3nsyncError as error:
            hand.debt.failed(error)
            raise

    async def _delete(self, placed: Placed, hand: Hand) -> Outcome:
        guard = _guard(hand, whole=True)
        await self._pay(placed.route, hand)
        delete = self.targets[placed.route.account].delete(placed.path, guard=guard)
        removed = await self._ask("delete", placed.route, delete)
        hand.debt.answered(repeated=removed.repeated)
        return Deleted(placed.path, existed=removed.existed)

    async def _discard(self, placed: Placed, hand: Hand) -> Outcome:
        """Move the file to the route's trash; that there is none, or none any more, is fine.

        A first refusal may also mean that the trash lacks a directory (FileStore needs each): if one had to be made,
        the file is moved once more. If that fails too, a stat says whether the file is gone or only the replica that
        was asked is behind with the trash: both are told as 404.
        """
        target = self.targets[placed.route.account]
        trash = trash_path(placed.route, placed.path, self.now_s())
        for may_lack_room in (True, False):
            await self._pay(placed.route, hand)
            try:
                rename = target.rename(placed.path, trash, guard=_guard(hand, whole=True))
                moved = await self._ask("rename", placed.route, rename)
            except (TargetMissing, TargetConflict) as error:
                hand.debt.failed(error)
                if may_lack_room and await self._make_room(placed.route, trash, hand):
                    continue
                if isinstance(error, TargetConflict):
                    raise
                return await self._was_gone(placed, hand)
            hand.debt.answered(repeated=moved.repeated)
            return Deleted(placed.path, existed=True, trash=trash)
        raise AssertionError(placed)

    async def _was_gone(self, placed: Placed, hand: Hand) -> Outcome:
        entry = await self._stat(placed, hand)
        if entry is None or entry.type == "dir":
            return Deleted(placed.path, existed=False)
        reason = f"{placed.path} could not be moved to the trash: NetStorage says that one of them is missing"
        return Retry(reason, self.backoff_s(hand.attempt))

    async def _make_room(self, route: Route, trash: str, hand: Hand) -> bool:
        """Make the directories above a place in the trash; one that is made late does no harm, so it owes nothing."""
        await self._pay(route, hand)
        made = self.targets[route.account].make_parents(trash, guard=hand.check)
        return await self._ask("make_parents", route, made)

    async def _act_on_object(self, change: Change, placed: Placed, opened: Opened, hand: Hand) -> Outcome:
        entry = await self._stat(placed, hand) if wants_stat(change, hand.attempt) else None
        buffered = opened.info.size_bytes <= self.buffer_bytes
        match self._decide(placed.route, opened.info, entry, buffered=buffered):
            case Upload() as action:
                return await self._upload(placed, opened, action, hand, buffered=buffered)
            case Nothing(unchanged=True):
                return Unchanged(placed.path)
            case Wait(reason, after_s):
                return Retry(reason, after_s, failed=False)
            case Reject(reason, hint):
                return Rejected(reason, hint)
            case other:
                raise AssertionError(other)

    def _decide(
        self, route: Route, source: SourceInfo | Gone, entry: Entry | None, *, buffered: bool
    ) -> Upload | Delete | Nothing | Wait | Reject:
        return decide(
            route,
            source,
            entry,
            buffered=buffered,
            metadata_mtime=self.metadata_mtime,
            now_s=self.now_s(),
        )

    async def _upload(self, placed: Placed, opened: Opened, action: Upload, hand: Hand, *, buffered: bool) -> Outcome:
        send = self._send_buffered if buffered else self._send_stream
        size_bytes = opened.info.size_bytes
        account = placed.route.account
        with hand.patience():
            held_bytes = await self.budget.take(size_bytes if buffered else STREAM_BYTES, account)
        try:
            uploaded, proof = await send(placed, opened, action, hand)
        except S3nsyncError as error:
            hand.debt.failed(error)
            raise
        finally:
            self.budget.give_back(held_bytes, account)
        hand.debt.answered(repeated=uploaded.repeated)
        return Copied(placed.path, size_bytes, proof, action.notes)

    async def _send_buffered(self, placed: Placed, opened: Opened, action: Upload, hand: Hand) -> tuple[Uploaded, str]:
        """Send an object held whole: the client may repeat it in place."""
        body = await opened.read_all()
        declared = action.proof if isinstance(action.proof, Declared) else await self._hash(body)
        await self._pay(placed.route, hand, size_bytes=len(body))
        upload = self.targets[placed.route.account].upload(
            placed.path,
            body,
            size=len(body),
            mtime_s=action.mtime_s,
            **_declared(declared),
            guard=_guard(hand, whole=True),
        )
        uploaded = await self._ask("upload", placed.route, upload, size_bytes=len(body))
        return uploaded, declared.algorithm

    async def _send_stream(self, placed: Placed, opened: Opened, action: Upload, hand: Hand) -> tuple[Uploaded, str]:
        """Send an object as it is read; its digest is declared if S3 knows it, else follows in signed trailers."""
        target = self.targets[placed.route.account]
        size_bytes = opened.info.size_bytes
        guard = _guard(hand, whole=False)
        await self._pay(placed.route, hand)
        if isinstance(action.proof, Declared):
            declared = action.proof
            async with aclosing(self._stream(placed.route, opened, hand, None)) as body:
                upload = target.upload(
                    placed.path,
                    body,
                    size=size_bytes,
                    mtime_s=action.mtime_s,
                    **_declared(declared),
                    guard=guard,
                )
                uploaded = await self._ask("upload", placed.route, upload, size_bytes=size_bytes)
            return uploaded, declared.algorithm
        assert isinstance(action.proof, HashAtEnd)
        if not self.trailers:
            return await self._send_stream_then_stat(placed, opened, action, hand)
        digest = hashlib.sha256()
        async with aclosing(self._stream(placed.route, opened, hand, digest.update)) as body:
            upload = target.upload(
                placed.path,
                body,
                size=size_bytes,
                at_end=lambda: AtEnd(sha256=digest.hexdigest(), mtime_s=action.mtime_s),
                guard=guard,
            )
            uploaded = await self._ask("upload", placed.route, upload, size_bytes=size_bytes)
        return uploaded, "sha256 at end"

    async def _send_stream_then_stat(
        self, placed: Placed, opened: Opened, action: Upload, hand: Hand
    ) -> tuple[Uploaded, str]:
        """Send a stream with its size alone, and compare NetStorage's own MD5 with ours afterwards."""
        target = self.targets[placed.route.account]
        digest = hashlib.md5(usedforsecurity=False)
        async with aclosing(self._stream(placed.route, opened, hand, digest.update)) as body:
            upload = target.upload(
                placed.path,
                body,
                size=opened.info.size_bytes,
                mtime_s=action.mtime_s,
                guard=_guard(hand, whole=False),
            )
            uploaded = await self._ask("upload", placed.route, upload, size_bytes=opened.info.size_bytes)
        hand.debt.answered(repeated=uploaded.repeated)
        for wait_s in STAT_WAITS_S:
            await self.sleep(wait_s)
            entry = await self._stat(placed, hand)
            if entry is not None and entry.md5 == digest.hexdigest():
                return uploaded, "md5 by stat"
        msg = f"{placed.path}: NetStorage's md5 is not that of the bytes sent"
        raise TargetPrecondition(msg)

    async def _stream(
        self, route: Route, opened: Opened, hand: Hand, update: Callable[[bytes], None] | None
    ) -> AsyncGenerator[bytes, None]:
        """Pass the bytes on while the lease lives: a lost lease stops before the last chunk, so nothing is stored."""
        left_bytes = opened.info.size_bytes
        async for chunk in opened.chunks():
            if update is not None:
                await self.offload(update, chunk)
            left_bytes -= len(chunk)
            await self._pay(route, hand, requests=0, size_bytes=len(chunk))
            hand.progress()
            hand.check()
            if left_bytes == 0:
                hand.debt.last_byte_leaves()
            yield chunk

    # --- the account's lane ---

    async def _stat(self, placed: Placed, hand: Hand) -> Entry | None:
        await self._pay(placed.route, hand)
        return await self._ask("stat", placed.route, self.targets[placed.route.account].stat(placed.path))

    async def _pay(self, route: Route, hand: Hand, *, requests: int = 1, size_bytes: int = 0) -> None:
        """Wait until the account's rates allow what is about to be sent."""
        wait_s = self.lanes[route.account].toll_s(requests=requests, size_bytes=size_bytes)
        if wait_s > 0:
            with hand.patience():
                await self.sleep(wait_s)

    async def _ask(self, action: str, route: Route, request: Awaitable[T], *, size_bytes: int = 0) -> T:
        """Make a request, and tell the account's lane how it went.

        A body that S3 stops sending tells against the account too: rare, and a cut is soon made good.
        """
        lane = self.lanes[route.account]
        began_s = lane.now_s()
        try:
            answer = await request
        except S3nsyncError as error:
            lane.failed(error, began_s)
            raise
        lane.answered(action, began_s, size_bytes=size_bytes)
        return answer

    async def _hash(self, body: bytes) -> Declared:
        digest = hashlib.sha256()
        if len(body) <= HASH_INLINE_BYTES:
            digest.update(body)
        else:
            await self.offload(digest.update, body)
        return Declared("sha256", digest.hexdigest())

    async def _mark_folder(self, ref: ObjectRef, marker: FolderMarker, hand: Hand) -> Outcome:
        """Make the directory that a key ending in `/` stands for, where the route wants it."""
        if marker.route.folder_markers == "ignore":
            return Ignored("a folder marker (the key ends in /): NetStorage needs none")
        opened = await self.source.open(ref)
        if isinstance(opened, Gone):
            return Ignored("a folder marker that is gone: directories are left alone")
        await opened.aclose()
        try:
            await self._pay(marker.route, hand)
            mkdir = self.targets[marker.route.account].mkdir(marker.path, guard=_guard(hand, whole=True))
            await self._ask("mkdir", marker.route, mkdir)
        except S3nsyncError as error:
            hand.debt.failed(error)
            raise
        hand.debt.answered(repeated=False)
        return Copied(marker.path, 0, "directory")


def _declared(digest: Declared) -> Digests:
    match digest.algorithm:
        case "md5":
            return {"md5": digest.hex}
        case "sha1":
            return {"sha1": digest.hex}
        case "sha256":
            return {"sha256": digest.hex}


def _guard(hand: Hand, *, whole: bool) -> Callable[[], None]:
    """Build what the client calls before it signs a try; `whole`: the request leaves in one piece."""

    def guard() -> None:
        hand.check()
        hand.debt.sent = True
        if whole:
            hand.debt.last_byte_leaves()

    return guard
