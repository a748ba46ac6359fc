"""The engine against models of S3 and NetStorage: what it asks, what it writes, what it owes."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterable, Callable
from dataclasses import replace

import pytest

from fakes import NOW_S, FakeBudget, FakeGate, FakeHand, FakeLane, FakeSource, FakeTarget, info_of
from s3nsync import errors
from s3nsync.engine import MAX_ROUNDS, STREAM_BYTES, Debt, Replicator
from s3nsync.lanes import Lane
from s3nsync.model import (
    Change,
    Copied,
    Deleted,
    Ignored,
    ObjectRef,
    Outcome,
    Rejected,
    Retry,
    Route,
    Unchanged,
)
from s3nsync.pacing import TRIP_AFTER, Breaker

REF = ObjectRef("media", "in/a b.txt")
PATH = "/123456/web/a b.txt"
ROUTE = Route("media", "123456", directory="web", prefix="in/", strip_prefix="in/")
PUT = Change(REF, "put")


class World:
    """S3, NetStorage and an engine between them."""

    def __init__(self, route: Route = ROUTE, *, buffer_bytes: int = 16, trailers: bool = True) -> None:
        self.source = FakeSource()
        self.target = FakeTarget()
        self.budget = FakeBudget()
        self.gate = FakeGate()
        self.lane = FakeLane()
        self.hashed_off_loop = 0
        self.brake_s = 0.0
        self.slept_s: list[float] = []
        self.engine = Replicator(
            routes=(route,),
            source=self.source,
            targets={"default": self.target},
            lanes={"default": self.lane},
            budget=self.budget,
            gate=self.gate,
            backoff_s=lambda attempt: float(attempt * 10),
            now_s=lambda: NOW_S,
            sleep=self._sleep,
            offload=self._offload,
            brake_s=lambda _route: self.brake_s,
            buffer_bytes=buffer_bytes,
            trailers=trailers,
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)

    async def _offload(self, update: Callable[[bytes], None], data: bytes) -> None:
        self.hashed_off_loop += 1
        update(data)

    async def replicate(self, change: Change = PUT, hand: FakeHand | None = None) -> Outcome:
        outcome = await self.engine.replicate(change, hand or FakeHand())
        assert self.budget.held_bytes == 0
        assert self.lane.in_use == 0
        assert all(opened.closed for opened in self.source.opened), "a GET was left open"
        return outcome


async def test_a_small_object_costs_one_get_and_one_put() -> None:
    """The hot path: no HEAD, no stat, no mkdir."""
    world = World()
    info = world.source.put(REF, b"hello")
    hand = FakeHand()
    assert await world.replicate(hand=hand) == Copied(PATH, 5, "md5")
    assert (hand.debt.placed, hand.debt.sent, hand.debt.may_land) == (True, True, False)
    assert (world.source.calls, world.target.calls) == (["open"], [f"upload {PATH}"])
    assert world.target.files[PATH] == (b"hello", info.last_modified_s)


async def test_a_missing_object_is_deleted_and_one_already_gone_is_fine() -> None:
    """Absence in S3 costs one GET and one delete."""
    world = World()
    world.target.files[PATH] = (b"old", 1)
    assert await world.replicate() == Deleted(PATH, existed=True)
    assert await world.replicate() == Deleted(PATH, existed=False)
    assert world.target.calls == [f"delete {PATH}"] * 2


def _lost_after_sending() -> errors.S3nsyncError:
    error = errors.ConnectionLost("cut", sent=True)
    error.ambiguous = True
    return error


TRASHING = replace(ROUTE, deletes="trash")
TRASH = "/123456/.s3nsync-trash/web/a b.txt.20270115T080000.000Z"


async def test_where_the_route_has_a_trash_a_deleted_object_is_moved_there() -> None:
    """One GET and one rename; the trash's directories are made when the first refusal shows that they are missing."""
    world = World(TRASHING)
    world.target.files[PATH] = (b"old", 1)
    hand = FakeHand()
    assert await world.replicate(hand=hand) == Deleted(PATH, existed=True, trash=TRASH)
    assert world.target.calls == [f"rename {PATH} {TRASH}", f"make parents {TRASH}", f"rename {PATH} {TRASH}"]
    assert world.target.files == {TRASH: (b"old", 1)}
    assert (hand.debt.sent, hand.debt.may_land) == (True, False)
    world.target.calls.clear()
    world.target.files[PATH] = (b"new", 2)
    assert await world.replicate(hand=FakeHand()) == Deleted(PATH, existed=True, trash=TRASH)
    assert world.target.calls == [f"rename {PATH} {TRASH}"]


async def test_moving_what_is_gone_already_is_fine() -> None:
    """A duplicate, or a Check: the missing directories are looked at once, so that a 404 is not misread."""
    world = World(TRASHING)
    for calls in (4, 3):
        hand = FakeHand()
        assert await world.replicate(hand=hand) == Deleted(PATH, existed=False)
        assert not hand.debt.may_land
        assert len(world.target.calls) == calls
        world.target.calls.clear()


def _gone_after_an_unanswered_try() -> errors.S3nsyncError:
    error = errors.TargetMissing("404")
    error.ambiguous = True
    return error


@pytest.mark.parametrize(
    ("script", "outcome", "ambiguous"),
    [
        ([errors.TargetUnavailable("503")], Retry, False),
        ([_lost_after_sending()], Retry, True),
        ([_gone_after_an_unanswered_try()], Deleted, True),
        ([errors.TargetRefused("400", hint="a rename stays within one CP code")], Rejected, False),
        ([errors.TargetConflict("409"), None, errors.TargetConflict("409")], Rejected, False),
        ([errors.TargetMissing("404"), errors.TargetConflict("409: a file is in the way")], Rejected, False),
    ],
)
async def test_a_failed_move_owes_what_a_failed_delete_would(
    script: list[errors.S3nsyncError | None], outcome: type[Outcome], ambiguous: bool
) -> None:
    """The debt is that of any write, and nothing is removed because it could not be moved."""
    world = World(TRASHING)
    world.target.files[PATH] = (b"old", 1)
    world.target.script = list(script)
    hand = FakeHand()
    assert isinstance(await world.replicate(hand=hand), outcome)
    assert hand.debt.may_land is ambiguous
    assert not any(call.startswith("delete") for call in world.target.calls)


async def test_a_move_repeated_in_place_is_ambiguous() -> None:
    """The first try may still land, on a newer object."""
    world = World(TRASHING)
    world.target.repeated = True
    world.target.files[PATH] = (b"old", 1)
    world.target.directories.add(TRASH.rpartition("/")[0])
    hand = FakeHand()
    await world.replicate(hand=hand)
    assert hand.debt.ambiguous


async def test_a_lease_lost_before_the_move_moves_nothing() -> None:
    """Nor before the second try of it."""
    for lose_after, calls in ((1, 1), (3, 3)):
        world = World(TRASHING)
        world.target.files[PATH] = (b"old", 1)
        with pytest.raises(errors.LeaseLost):
            await world.replicate(hand=FakeHand(lose_after=lose_after))
        assert (PATH in world.target.files, len(world.target.calls)) == (True, calls)


async def test_what_the_event_said_never_steers() -> None:
    """A delete event for an object that exists again copies it."""
    world = World()
    world.source.put(REF, b"hello")
    assert isinstance(await world.replicate(Change(REF, "delete")), Copied)


@pytest.mark.parametrize(("change", "attempt", "stats"), [(PUT, 1, 0), (PUT, 2, 1), (Change(REF, "check"), 1, 1)])
async def test_unchanged_comes_only_from_a_stat_of_this_attempt(change: Change, attempt: int, stats: int) -> None:
    """The first attempt writes without looking; a later one, or a check, looks first."""
    world = World()
    info = world.source.put(REF, b"hello")
    world.target.files[PATH] = (b"hello", info.last_modified_s)
    outcome = await world.replicate(change, FakeHand(attempt=attempt))
    assert isinstance(outcome, Unchanged if stats else Copied)
    assert world.target.calls.count(f"stat {PATH}") == stats


async def test_a_large_object_is_streamed_with_its_declared_digest() -> None:
    """With S3's own MD5 a stream needs no hashing, and holds a fixed share of the budget."""
    world = World(buffer_bytes=4)
    data = bytes(range(100))
    world.source.put(REF, data)
    assert await world.replicate() == Copied(PATH, 100, "md5")
    assert world.target.declared[0]["md5"] is not None
    assert (world.hashed_off_loop, world.budget.peak_bytes) == (0, STREAM_BYTES)


@pytest.mark.parametrize("told", [None, 0, 7, 10, 5000], ids=str)
@pytest.mark.parametrize("size", [0, 10, 3000])
async def test_memory_is_held_before_the_get_by_the_events_word_and_mended_by_s3s(told: int | None, size: int) -> None:
    """No GET waits half read for memory where the event's size is true; a wrong one is replaced, never added to."""
    world = World(buffer_bytes=1000)
    world.source.put(REF, bytes(size))
    held_at_get: list[int] = []
    world.source.on_open = lambda: held_at_get.append(world.budget.held_bytes)
    assert isinstance(await world.replicate(Change(REF, "put", size=told)), Copied)
    share = {n: n + n // 4 if n <= 1000 else STREAM_BYTES for n in (told or 0, size)}
    assert held_at_get == [share[told or 0]]
    assert world.budget.peak_bytes == max(share.values())


async def test_a_large_object_without_a_digest_declares_its_own_at_the_end() -> None:
    """The last row of the ladder: SHA-256 in the trailers, hashed away from the loop."""
    world = World(buffer_bytes=4)
    data = bytes(range(100))
    info = world.source.put(REF, data, etag="abc-2")
    assert await world.replicate() == Copied(PATH, 100, "sha256 at end")
    assert world.target.declared[0]["sha256"] == hashlib.sha256(data).hexdigest()
    assert world.target.declared[0]["at_end"]
    assert world.target.files[PATH] == (data, info.last_modified_s)
    assert world.hashed_off_loop == 25


async def test_a_small_object_without_a_digest_is_hashed_first() -> None:
    """The third row of the ladder."""
    world = World()
    world.source.put(REF, b"hello", encryption="aws:kms")
    assert await world.replicate() == Copied(PATH, 5, "sha256")
    assert world.target.declared[0]["md5"] is None


async def test_an_empty_object_is_copied() -> None:
    """Nothing is a size like any other."""
    world = World()
    world.source.put(REF, b"")
    assert await world.replicate() == Copied(PATH, 0, "md5")
    assert world.target.files[PATH][0] == b""


async def test_an_exclusive_hand_takes_no_second_look_and_others_do() -> None:
    """A live hand's stale write is owed by the message behind it; bulk and check must look for themselves."""
    world = World()
    world.source.put(REF, b"hello")
    await world.replicate(hand=FakeHand(exclusive=True))
    assert world.source.calls.count("head") == 0
    await world.replicate(hand=FakeHand(exclusive=False))
    assert world.source.calls.count("head") == 1


async def test_a_second_look_that_differs_goes_round_with_a_lease_check() -> None:
    """What changed behind a bulk write is written again before the ack."""
    world = World()
    world.source.put(REF, b"one")
    looks: list[int] = []

    def change_once() -> None:
        looks.append(len(looks))
        if len(looks) == 1:
            world.source.put(REF, b"two!")

    world.source.on_head = change_once
    hand = FakeHand(exclusive=False)
    assert await world.replicate(hand=hand) == Copied(PATH, 4, "md5")
    assert world.target.files[PATH][0] == b"two!"
    assert len(looks) == 2


async def test_a_bulk_delete_of_a_key_that_came_back_is_undone_at_once() -> None:
    """A HEAD that finds the object after a delete goes round, and copies it."""
    world = World()

    def come_back() -> None:
        if not world.source.objects:
            world.source.put(REF, b"back")

    world.source.on_head = come_back
    assert isinstance(await world.replicate(hand=FakeHand(exclusive=False)), Copied)
    assert world.target.files[PATH][0] == b"back"


async def test_a_key_that_never_rests_goes_back_to_the_queue() -> None:
    """Rounds are bounded, and giving up on them is no failure."""
    world = World()
    count = [0]

    def churn() -> None:
        count[0] += 1
        world.source.put(REF, b"x" * (count[0] % 16))

    churn()
    world.source.on_head = churn
    outcome = await world.replicate(hand=FakeHand(exclusive=False))
    assert isinstance(outcome, Retry)
    assert not outcome.failed
    assert count[0] == MAX_ROUNDS + 1


async def test_a_change_under_the_read_goes_round_at_once() -> None:
    """412 on a later range means a newer version: read that one."""
    world = World(buffer_bytes=2)
    world.source.put(REF, b"first version")
    seen: list[int] = []

    def swap(start: int) -> None:
        seen.append(start)
        if len(seen) == 2:
            world.source.put(REF, b"second")
            msg = "changed"
            raise errors.SourceChanged(msg)

    world.source.before_chunk = swap
    hand = FakeHand()
    assert await world.replicate(hand=hand) == Copied(PATH, 6, "md5")
    assert not hand.debt.may_land


@pytest.mark.parametrize("buffer_bytes", [4, 4096])
async def test_a_lease_lost_before_the_send_sends_nothing(buffer_bytes: int) -> None:
    """Check the lease, then sign, then send."""
    world = World(buffer_bytes=buffer_bytes)
    world.source.put(REF, b"hello world")
    hand = FakeHand(lose_after=1)
    with pytest.raises(errors.LeaseLost):
        await world.replicate(hand=hand)
    assert not hand.debt.sent
    assert PATH not in world.target.files


async def test_a_lease_lost_during_a_stream_stops_before_the_last_chunk() -> None:
    """A cut stream is never a whole one, so the server stores nothing; but something was sent."""
    world = World(buffer_bytes=4)
    world.source.put(REF, b"0123456789ab")
    hand = FakeHand(lose_after=4)
    with pytest.raises(errors.LeaseLost):
        await world.replicate(hand=hand)
    assert hand.debt.sent
    assert not hand.debt.may_land
    assert PATH not in world.target.files


async def test_a_lease_lost_after_the_answer_is_noticed() -> None:
    """The lease is checked after the answer too: the write is done, and owed."""
    world = World()
    world.source.put(REF, b"hello")
    hand = FakeHand(lose_after=2)
    with pytest.raises(errors.LeaseLost):
        await world.replicate(hand=hand)
    assert hand.debt.sent
    assert PATH in world.target.files


@pytest.mark.parametrize(
    ("error", "ambiguous"),
    [
        (_lost_after_sending(), True),
        (errors.Stalled("no answer", sent=True), True),
        (errors.ConnectFailed("refused"), False),
        (errors.TargetUnavailable("503"), False),
        (errors.TargetPrecondition("412"), False),
    ],
)
async def test_only_an_unanswered_write_may_still_land(error: errors.S3nsyncError, ambiguous: bool) -> None:
    """A definite answer, or no connection at all, leaves nothing behind."""
    world = World()
    world.source.put(REF, b"hello")
    world.target.script = [error]
    hand = FakeHand(attempt=3)
    outcome = await world.replicate(hand=hand)
    assert isinstance(outcome, Retry)
    assert outcome.after_s == 30.0
    assert hand.debt.may_land is ambiguous


@pytest.mark.parametrize("exists", [True, False])
async def test_a_write_repeated_in_place_is_ambiguous_though_it_succeeded(exists: bool) -> None:
    """The first, unanswered try of a put or a delete may land after the second."""
    world = World()
    world.target.repeated = True
    if exists:
        world.source.put(REF, b"hello")
    hand = FakeHand()
    await world.replicate(hand=hand)
    assert hand.debt.ambiguous


async def test_a_failed_upload_deletes_nothing() -> None:
    """The old good copy stays (G2)."""
    world = World()
    world.source.put(REF, b"new")
    world.target.files[PATH] = (b"old", 1)
    world.target.script = [errors.TargetPrecondition("412")]
    await world.replicate()
    assert world.target.files[PATH] == (b"old", 1)
    assert not any(call.startswith("delete") for call in world.target.calls)


@pytest.mark.parametrize(
    "error",
    [
        errors.SourceForbidden("403"),
        errors.SourceKeyDenied("kms"),
        errors.BucketMissing("NoSuchBucket"),
        errors.SourceCredentials("InvalidAccessKeyId"),
        errors.BucketElsewhere("301"),
        errors.SourceUnavailable("503"),
        errors.ConnectionLost("cut"),
        errors.Stalled("stalled"),
        errors.SourceArchived("InvalidObjectState"),
        errors.TlsRefused("certificate"),
    ],
)
@pytest.mark.parametrize("route", [ROUTE, TRASHING])
async def test_no_error_of_s3_ever_deletes(error: errors.S3nsyncError, route: Route) -> None:
    """Only an absence that S3 states deletes, or moves to the trash (G2)."""
    world = World(route)
    world.target.files[PATH] = (b"old", 1)
    world.source.script = [error]
    outcome = await world.replicate(Change(REF, "delete"))
    assert isinstance(outcome, Retry | Rejected | Ignored)
    assert world.target.calls == []


async def test_keys_outside_the_routes_and_refused_keys_cost_no_request() -> None:
    """Containment comes first (G6), and such a key can owe nothing."""
    world = World()
    hand = FakeHand()
    assert isinstance(await world.replicate(Change(ObjectRef("media", "elsewhere"), "put"), hand), Ignored)
    assert isinstance(await world.replicate(Change(ObjectRef("media", "in/../x"), "put"), hand), Rejected)
    assert (world.source.calls, world.target.calls, hand.debt.placed) == ([], [], False)


async def test_a_folder_marker_is_ignored_or_made() -> None:
    """A key ending in `/` is no file; a route may want its directory."""
    marker = Change(ObjectRef("media", "in/dir/"), "put")
    assert isinstance(await World().replicate(marker), Ignored)
    world = World(replace(ROUTE, folder_markers="mkdir"))
    assert isinstance(await world.replicate(marker), Ignored)
    world.source.put(marker.ref, b"")
    assert isinstance(await world.replicate(marker), Copied)
    assert world.target.directories in ({"/123456/web/dir"}, {"/123456/web/dir/"})


async def test_an_archived_object_is_set_aside() -> None:
    """It wakes by its own later event."""
    world = World()
    world.source.script = [errors.SourceArchived("GLACIER")]
    outcome = await world.replicate()
    assert isinstance(outcome, Ignored)
    assert outcome.set_aside


async def test_a_settling_object_waits_without_failing() -> None:
    """A wait never counts towards burying."""
    world = World(replace(ROUTE, settle_s=30.0))
    world.source.objects[REF] = (info_of(b"x", mtime_s=int(NOW_S) - 10), b"x")
    outcome = await world.replicate()
    assert outcome == Retry("settling: written less than 30 s ago", 20.0, failed=False)
    assert world.target.calls == []


async def test_where_trailers_are_off_a_stream_is_proven_by_a_stat() -> None:
    """The fallback of the ladder's last row: NetStorage's own MD5 must be ours."""
    world = World(buffer_bytes=4, trailers=False)
    data = bytes(range(50))
    world.source.put(REF, data, etag="abc-2")
    assert await world.replicate() == Copied(PATH, 50, "md5 by stat")
    assert not world.target.declared[0]["at_end"]


async def test_a_stat_that_never_agrees_fails_the_copy() -> None:
    """A replica gets time to catch up; after that it is a mismatch."""
    world = World(buffer_bytes=4, trailers=False)
    world.source.put(REF, bytes(range(50)), etag="abc-2")

    def damage() -> None:
        world.target.stat = _nothing  # type: ignore[method-assign,assignment]

    world.target.script = [damage]
    outcome = await world.replicate()
    assert isinstance(outcome, Retry)
    assert "TargetPrecondition" in outcome.reason
    assert sum(world.slept_s) > 5


async def _nothing(_path: str) -> None:
    return None


@pytest.mark.parametrize("has_room", [True, False])
async def test_a_file_that_could_not_be_moved_is_not_taken_for_gone(has_room: bool) -> None:
    """A replica that does not know the trash's directory, or a new one yet, answers 404 as for a file that is gone."""
    world = World(TRASHING)
    world.target.files[PATH] = (b"old", 1)
    if has_room:
        world.target.directories.add(TRASH.rpartition("/")[0])
    world.target.script = [errors.TargetMissing("404"), None, errors.TargetMissing("404")]
    hand = FakeHand(attempt=3)
    outcome = await world.replicate(hand=hand)
    assert isinstance(outcome, Retry)
    assert (outcome.after_s, outcome.failed, hand.debt.may_land) == (30.0, True, False)
    assert world.target.calls[-1] == f"stat {PATH}"
    assert PATH in world.target.files


@pytest.mark.parametrize("route", [ROUTE, TRASHING])
async def test_the_brake_stops_live_deletes_and_says_so(route: Route) -> None:
    """Above the limit nothing is deleted, nothing is buried, and receiving pauses; bulk work is capped elsewhere."""
    world = World(route)
    world.target.files[PATH] = (b"old", 1)
    world.brake_s = 12.0
    outcome = await world.replicate(Change(REF, "delete"))
    assert isinstance(outcome, Retry)
    assert (outcome.after_s, outcome.failed) == (12.0, False)
    assert world.gate.told[0] == "hold 12"
    assert PATH in world.target.files
    assert isinstance(await world.replicate(Change(REF, "delete"), FakeHand(exclusive=False)), Deleted)


async def test_a_resting_route_costs_no_request_and_is_no_failure() -> None:
    """What is received for it goes back for the rest of its rest."""
    world = World()
    world.gate.rest_s = 40.0
    outcome = await world.replicate()
    assert isinstance(outcome, Retry)
    assert (outcome.after_s, outcome.failed) == (40.0, False)
    assert world.source.calls == []


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, ["answered"]),
        (errors.TargetUnavailable("503"), ["failed"]),
        (errors.TargetUnavailable("429", status=429), ["alive"]),
        (errors.ConnectFailed("refused"), ["failed"]),
        (errors.TargetCredentials("403"), ["failed at once"]),
        (errors.TargetPrecondition("412"), ["answered"]),
        (errors.TargetConflict("409"), ["answered"]),
    ],
)
async def test_the_gate_is_told_whose_fault_it_was(error: errors.S3nsyncError | None, told: list[str]) -> None:
    """Trouble of the other side counts against the route; whatever it says of a key shows that it works."""
    world = World()
    world.source.put(REF, b"hello")
    world.target.script = [error]
    await world.replicate()
    assert world.gate.told == told


@pytest.mark.parametrize("kind", ["archived", "forbidden", "ignored", "unchanged"])
async def test_what_s3_or_a_stat_says_does_not_make_a_route_healthy(kind: str) -> None:
    """NetStorage may take no write for hours while such keys go through: those that need it are not buried for that."""
    world = World(replace(ROUTE, deletes="ignore"))
    gate = Breaker((ROUTE,), lambda: 0.0, on_stop=lambda *_: None, on_go=lambda _: None)
    world.engine = replace(world.engine, gate=gate)
    if kind == "unchanged":
        info = world.source.put(REF, b"hello")
        world.target.files[PATH] = (b"hello", info.last_modified_s)
    errors_of = {"archived": errors.SourceArchived("403"), "forbidden": errors.SourceForbidden("403")}
    world.source.script = [errors_of.get(kind)]
    first = await world.replicate(hand=FakeHand(attempt=2))
    assert isinstance(first, Rejected if kind == "forbidden" else Unchanged if kind == "unchanged" else Ignored)
    world.source.put(REF, b"other")
    world.target.script = [errors.ConnectFailed("refused")]
    outcome = await world.replicate()
    assert isinstance(outcome, Retry)
    assert outcome.outage
    await world.replicate()
    world.target.script = [errors.ConnectFailed("refused")]
    outcome = await world.replicate()
    assert isinstance(outcome, Retry)
    assert not outcome.outage, "the same failure beside a write that went well"


@pytest.mark.parametrize("healthy", [True, False])
async def test_a_failure_is_the_keys_own_only_while_the_route_is_healthy(healthy: bool) -> None:
    """An outage buries nobody; one key that fails while others succeed is the key's fault."""
    world = World()
    world.gate.healthy = healthy
    world.source.put(REF, b"hello")
    world.target.script = [errors.TargetUnavailable("500")]
    outcome = await world.replicate()
    assert isinstance(outcome, Retry)
    assert outcome.outage is not healthy


async def test_a_place_is_taken_before_anything_is_asked_of_s3() -> None:
    """No S3 connection idles while NetStorage makes us wait; the place is held to the end."""
    world = World()
    world.source.put(REF, b"hello")
    world.lane.on_enter = lambda: world.source.calls.append("enter")
    await world.replicate(hand=FakeHand(exclusive=False, attempt=2))
    assert world.source.calls == ["enter", "open", "head"]
    assert world.lane.told == ["stat 0", "upload 5"]
    assert world.lane.tolls == [(1, 0), (1, 5)]


async def test_a_key_whose_account_is_too_busy_goes_back_and_is_no_failure() -> None:
    """Its slot is wanted for others; nothing was asked, and nobody is told of an answer."""
    world = World()
    world.lane.full = True
    world.lane.leave = lambda **_: pytest.fail("a place was given back that was never taken")  # type: ignore[method-assign]
    outcome = await world.replicate(hand=FakeHand(attempt=3))
    assert isinstance(outcome, Retry)
    assert (outcome.after_s, outcome.failed) == (30.0, False)
    assert (world.source.calls, world.gate.told) == ([], [])


async def test_the_lane_hears_of_every_failure_of_netstorage() -> None:
    """Also of those that the queue tries again."""
    world = World()
    world.source.put(REF, b"hello")
    world.target.script = [errors.TargetUnavailable("503")]
    await world.replicate()
    del world.source.objects[REF]
    world.target.script = [errors.ConnectionLost("cut", sent=True)]
    await world.replicate()
    assert world.lane.told == ["TargetUnavailable", "ConnectionLost"]


async def test_a_stream_is_paced_chunk_by_chunk_and_a_buffered_body_at_once() -> None:
    """Waiting for a rate is our own doing: it counts as patience, and the lease is checked after it."""
    world = World(buffer_bytes=4)
    world.source.put(REF, b"0123456789")
    world.lane.tolls_s = [0.0, 3.0, 0.0, 4.0]
    await world.replicate()
    assert world.lane.tolls == [(1, 0), (0, 4), (0, 4), (0, 2)]
    assert world.slept_s == [3.0, 4.0]
    world.source.put(REF, b"0123")
    world.lane.tolls_s = [9.0]
    hand = FakeHand(lose_after=1)
    with pytest.raises(errors.LeaseLost):
        await world.replicate(hand=hand)
    assert (world.slept_s, hand.debt.sent) == ([3.0, 4.0, 9.0], False)


@pytest.mark.parametrize(
    ("error", "stops", "window"),
    [
        (errors.TargetUnavailable("429", status=429), 0, 1),
        (errors.ConnectFailed("refused"), 1, 1),
        (errors.TargetCredentials("403"), 1, 64),
    ],
)
async def test_a_storm_of_429_narrows_the_lane_where_silence_rests_the_route(
    error: errors.S3nsyncError, stops: int, window: int
) -> None:
    """A 429 is an answer from a living server; ten failed connections in a row, or refused credentials, are none."""
    world, clock, told = World(), [0.0], []
    gate = Breaker((ROUTE,), lambda: clock[0], on_stop=lambda *facts: told.append(facts), on_go=lambda _: None)
    lane = Lane(64, lambda: clock[0])
    engine = replace(world.engine, gate=gate, lanes={"default": lane})
    world.source.put(REF, b"hello")
    for _ in range(TRIP_AFTER + 2):
        clock[0] += 0.1
        world.target.script = [error]
        await engine.replicate(PUT, FakeHand())
    assert (len(told), lane.window.places) == (stops, window)


@pytest.mark.parametrize(("attempt", "after_s"), [(1, 60.0), (2, 60.0), (30, 300.0)])
async def test_a_key_of_a_resting_route_comes_back_ever_more_rarely(attempt: int, after_s: float) -> None:
    """Each return costs one of the queue's receives: an outage of days must not use them up."""
    world = World()
    gate = Breaker((ROUTE,), lambda: 0.0, on_stop=lambda *_: None, on_go=lambda _: None)
    gate.hold(ROUTE, 60.0, "for this test")
    outcome = await replace(world.engine, gate=gate).replicate(PUT, FakeHand(attempt=attempt))
    assert outcome == Retry(f"the route rests: {ROUTE}", after_s, failed=False)


async def test_rule_8_the_last_byte_of_a_stream_is_noted_as_it_leaves() -> None:
    """Cut before it nothing can land, cut after it something may."""
    for cut_after, pending in ((8, False), (12, True)):
        world = World(buffer_bytes=4)
        world.source.put(REF, b"0123456789ab")
        hand = FakeHand()
        taken = [0]

        def stop_there(cut_after: int = cut_after, taken: list[int] = taken) -> None:
            if taken[0] >= cut_after:
                raise asyncio.CancelledError

        async def upload(_path: str, body: AsyncIterable[bytes], **_more: object) -> None:
            async for chunk in body:
                taken[0] += len(chunk)  # noqa: B023 - used within its own round
                stop_there()

        world.target.upload = upload  # type: ignore[method-assign,assignment]
        with pytest.raises(asyncio.CancelledError):
            await world.engine.replicate(PUT, hand)
        assert hand.debt.pending is pending


def test_a_second_try_of_an_unanswered_write_is_ambiguous() -> None:
    """The guard is asked again while the first answer is still out."""
    debt = Debt()
    debt.last_byte_leaves()
    assert not debt.ambiguous
    debt.last_byte_leaves()
    assert debt.ambiguous


@pytest.mark.parametrize(("data", "mtime_s"), [(b"hello", 1_700_000_050), (b"hullo", 1_700_000_000)])
async def test_a_second_look_compares_content_and_time(data: bytes, mtime_s: int) -> None:
    """The same bytes with another LastModified are written again too: their mtime would be wrong."""
    world = World()
    world.source.put(REF, b"hello")
    heads: list[int] = []

    def alter() -> None:
        heads.append(1)
        world.source.put(REF, data, last_modified_s=mtime_s)

    world.source.on_head = alter
    await world.replicate(hand=FakeHand(exclusive=False))
    assert len(heads) == 2
    assert world.target.files[PATH] == (data, mtime_s)


async def test_rule_6_nothing_is_remembered_from_one_attempt_to_the_next() -> None:
    """What this worker wrote, or saw on NetStorage, says nothing of what is there now: others write too."""
    world = World()
    world.source.put(REF, b"hello")
    assert isinstance(await world.replicate(), Copied)
    assert isinstance(await world.replicate(hand=FakeHand(attempt=2)), Unchanged)
    for attempt in (2, 1):
        world.target.files.clear()
        assert isinstance(await world.replicate(hand=FakeHand(attempt=attempt)), Copied)
