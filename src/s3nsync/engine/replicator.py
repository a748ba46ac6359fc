"""Replicate one key: look at S3, decide, act on NetStorage, prove it.

    0 lane.enter     a place with the upload account, and share.hold, memory, before anything is asked of S3
    1 source.open    one GET: what is true in S3 now (the event is only a hint)
    2 access.stat    only on later attempts and for checks
    3 decide         pure: Upload | Delete | Nothing | Wait | Reject
    4 Sending, removals.delete or removals.discard: the act, guarded by the lease
    5 not alone with the key (bulk and check queues)? source.head again; different: back to 1

The engine neither acks nor remembers. What it leaves for the worker beside the Outcome is the hand's `Debt`: whether
anything was sent, and whether something may still land. The rules are the protocol of docs/design.md, section 6:
check the lease, then sign, then send (the client calls our guard just before it signs each try, and the body stops
before its last chunk if the lease is gone); never skip anything because of what was seen before this attempt.

Everything impure is passed in: the two sides, the byte budget, clock, back-off and the thread that hashes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from s3nsync.decide import (
    Delete,
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
from s3nsync.engine.access import Access
from s3nsync.engine.parties import Budget, Gate, Hand, Lane, Opened, Source, Target
from s3nsync.engine.removals import delete, discard
from s3nsync.engine.share import Share
from s3nsync.engine.uploads import STREAM_BYTES, WHOLE_EXTRA_PART, Offload, Sending
from s3nsync.errors import LeaseLost, S3nsyncError, SourceChanged
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
from s3nsync.netstorage.wire import Entry

MAX_ROUNDS = 5
"""How often one hand goes round for a key that changes under it before it gives the message back."""


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
        account = placement.route.account
        lane = self.lanes[account]
        if not lane.enter_at_once(urgent=hand.urgent):
            with hand.patience():
                entered = await lane.enter(urgent=hand.urgent)
            if not entered:
                reason = f"account {account} is busy, and what slots are left are for other accounts"
                return Retry(reason, self.backoff_s(hand.attempt), failed=False)
        access = Access(self.targets[account], lane, hand, self.sleep)
        try:
            return await self._with_place(change, placement, access)
        finally:
            lane.leave(urgent=hand.urgent)

    async def _with_place(self, change: Change, placement: Placed | FolderMarker, access: Access) -> Outcome:
        """Do the work, if the route does not rest; the gate is asked only now, as the wait for a place may be long."""
        rest_s = self.gate.wait_s(placement.route)
        if rest_s > 0:
            # Each return costs one of the queue's receives, and an outage may last for days: so ever more rarely.
            after_s = max(rest_s, self.backoff_s(access.hand.attempt))
            return Retry(f"the route rests: {placement.route}", after_s, failed=False)
        try:
            if isinstance(placement, FolderMarker):
                outcome = await self._mark_folder(change.ref, placement, access)
            else:
                outcome = await self._converge(change, placement, access)
        except LeaseLost:
            raise
        except S3nsyncError as error:
            return self._failed(error, placement.route, access)
        self._answered(placement.route, access)
        return outcome

    def _answered(self, route: Route, access: Access) -> None:
        """Tell the gate of an answer. S3's word alone is no sign of health: NetStorage may be down all the while."""
        if access.heard:
            self.gate.answered(route)
        else:
            self.gate.alive(route)

    def _failed(self, error: S3nsyncError, route: Route, access: Access) -> Outcome:
        """Say what becomes of a failed key, and tell the gate whose fault it was."""
        outcome = outcome_of(error, wait_s=self.backoff_s(access.hand.attempt))
        if not is_outage(error):
            self._answered(route, access)
            return outcome
        if is_throttled(error):  # it lives, and its lane has become narrower
            self.gate.alive(route)
            return outcome
        self.gate.failed(route, f"{error.message}; {error.hint}", at_once=error.pauses_route)
        if isinstance(outcome, Retry) and self.gate.is_healthy(route):
            return replace(outcome, outage=False)
        return outcome

    async def _converge(self, change: Change, placed: Placed, access: Access) -> Outcome:
        """Go round until what was written is what S3 holds."""
        hand = access.hand
        for _ in range(MAX_ROUNDS):
            try:
                outcome, saw = await self._round(change, placed, access)
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
        now = await self.source.head(ref, None if isinstance(saw, Gone) else saw)
        if isinstance(saw, Gone) or now is None:
            return isinstance(saw, Gone) and now is None
        return (now.etag, now.size_bytes, now.last_modified_s) == (saw.etag, saw.size_bytes, saw.last_modified_s)

    async def _round(self, change: Change, placed: Placed, access: Access) -> tuple[Outcome, SourceInfo | Gone]:
        """Look, decide, act, once; memory is held by the event's word on the size first: no open GET waits for it."""
        share = Share(self.budget, placed.route.account, access.hand)
        try:
            if change.size:
                await share.hold(self._held_for(change.size))
            access.hand.check()
            access.hand.progress()
            opened = await self.source.open(change.ref)
            if isinstance(opened, Gone):
                return await self._act_on_absence(placed, opened, access), opened
            try:
                return await self._act_on_object(change, placed, opened, access, share), opened.info
            finally:
                await opened.aclose()
        finally:
            share.give_back()

    def _held_for(self, size_bytes: int) -> int:
        """Give what an object takes of the budget: one held whole costs more than itself, see WHOLE_EXTRA_PART."""
        return size_bytes + size_bytes // WHOLE_EXTRA_PART if size_bytes <= self.buffer_bytes else STREAM_BYTES

    async def _act_on_absence(self, placed: Placed, gone: Gone, access: Access) -> Outcome:
        route = placed.route
        action = self._decide(route, gone, None, buffered=False)
        if isinstance(action, Nothing):
            return Ignored(action.reason)
        assert isinstance(action, Delete)
        rest_s = self.brake_s(route) if access.hand.exclusive else 0.0
        if rest_s > 0:
            reason = f"brake: too many deletes in a minute on {route}; is the bucket being emptied by mistake?"
            self.gate.hold(route, rest_s, reason)
            return Retry(reason, rest_s, failed=False)
        if action.to_trash:
            trash = trash_path(route, placed.path, self.now_s())
            return await discard(access, placed.path, trash, retry_s=self.backoff_s(access.hand.attempt))
        return await delete(access, placed.path)

    async def _act_on_object(
        self, change: Change, placed: Placed, opened: Opened, access: Access, share: Share
    ) -> Outcome:
        entry = await access.stat(placed.path) if wants_stat(change, access.hand.attempt) else None
        size_bytes = opened.info.size_bytes
        buffered = size_bytes <= self.buffer_bytes
        match self._decide(placed.route, opened.info, entry, buffered=buffered):
            case Upload() as action:
                await share.hold(self._held_for(size_bytes))
                sending = Sending(access, placed.path, opened, action, self.offload)
                proof = await (sending.whole() if buffered else sending.streamed(trailers=self.trailers))
                return Copied(placed.path, size_bytes, proof, action.notes)
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

    async def _mark_folder(self, ref: ObjectRef, marker: FolderMarker, access: Access) -> Outcome:
        """Make the directory that a key ending in `/` stands for, where the route wants it."""
        if marker.route.folder_markers == "ignore":
            return Ignored("a folder marker (the key ends in /): NetStorage needs none")
        opened = await self.source.open(ref)
        if isinstance(opened, Gone):
            return Ignored("a folder marker that is gone: directories are left alone")
        await opened.aclose()
        await access.mkdir(marker.path)
        return Copied(marker.path, 0, "directory")
