"""From findings to Changes: what sync sends, what a repair may do, and how a killed run goes on."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import AsyncGenerator, Awaitable, Sequence
from functools import partial
from pathlib import Path

import pytest

from s3nsync.compare import Finding, Kind, Scope, Section, SourceItem, TargetItem
from s3nsync.errors import ConfigError
from s3nsync.model import Change, Route
from s3nsync.reconcile.backfill import LOT, Cursor, Sent, backfill
from s3nsync.reconcile.repair import DeleteCap, Mender

ROUTE = Route("b", "1")
ETAG, OTHER = "a" * 32, "b" * 32


def ours(key: str, etag: str = ETAG, mtime_s: int = 100, storage: str = "") -> SourceItem:
    """Make an object of one byte."""
    return SourceItem(key, 1, mtime_s, etag, None, None if "-" in etag else etag, storage)


def theirs(key: str, md5: str = ETAG, mtime_s: int = 100) -> TargetItem:
    """Make a file of one byte."""
    return TargetItem(key, "file", 1, mtime_s, md5)


class Bulk:
    """Takes Changes in."""

    def __init__(self) -> None:
        self.calls: list[Sequence[Change]] = []

    async def send(self, changes: Sequence[Change]) -> None:
        self.calls.append(changes)

    @property
    def keys(self) -> list[str]:
        return [change.ref.key for call in self.calls for change in call]


async def run(*sections: Section, newer_than_s: float | None = None) -> tuple[Bulk, Sent, list[str]]:
    """Backfill these sections; also gives what was reached."""
    bulk, sent, reached = Bulk(), Sent(), list[str]()

    async def given() -> AsyncGenerator[Section, None]:
        for each in sections:
            yield each

    scope = Scope(ROUTE, [ROUTE])
    await backfill(given(), scope, bulk.send, sent, run="r", newer_than_s=newer_than_s, reached=reached.append)
    return bulk, sent, reached


async def test_what_is_not_there_or_not_the_same_is_sent() -> None:
    """Pairs that agree by digest, or by size and time, are not; nor are extras, archives and refused keys."""
    pairs = [
        (ours("same"), theirs("same")),
        (ours("kms", OTHER), theirs("kms")),
        (ours("parts", "x-2"), theirs("parts")),
        (ours("older", "x-2"), theirs("older", mtime_s=7)),
        (ours("cut"), TargetItem("cut", "file", 0, 100, OTHER)),
    ]
    alone = [ours("new"), ours("ice", storage="GLACIER"), ours("../bad")]
    bulk, sent, _ = await run(Section(pairs, alone, [theirs("stray")], "z"))
    assert sorted(bulk.keys) == ["cut", "new", "older"]
    assert (sent.objects, sent.size_bytes, sent.same) == (8, 8, 3)
    assert sent.skipped == {"archived": 1, "extra": 1, "forbidden": 1}
    assert sent.sent == {"missing": 1, "different": 1, "unverifiable": 1}
    (change,) = [each for call in bulk.calls for each in call if each.ref.key == "new"]
    assert (change.kind, change.run, change.etag, change.size) == ("put", "r", ETAG, 1)


async def test_only_what_is_newer_is_sent() -> None:
    """By S3's LastModified."""
    bulk, sent, _ = await run(Section([], [ours("new", mtime_s=200), ours("old")], [], "z"), newer_than_s=150)
    assert (bulk.keys, sent.ignored) == (["new"], 1)


async def test_the_cursor_never_runs_ahead_of_what_was_sent() -> None:
    """It moves behind each lot of Changes, and behind each section."""
    keys = [f"{number:04}" for number in range(LOT + 5)]
    bulk, _, reached = await run(Section([], [ours(key) for key in keys], [], "5"), Section([], [], [], "9"))
    assert sorted(bulk.keys) == keys
    assert max(map(len, bulk.calls)) == 10
    assert reached == [keys[LOT - 1], keys[-1], "5", "9"]


def test_a_cursor_goes_on_where_the_run_was(tmp_path: Path) -> None:
    """Its run id too, so that the queue knows what was sent twice; a finished run leaves nothing."""
    path = tmp_path / "state"
    first = Cursor(path, run="one", asked="all")
    assert first.after(ROUTE) == ""
    first.reached(ROUTE, "é/\udcff")
    again = Cursor(path, run="two", asked="all")
    assert (again.run, again.after(ROUTE), again.after(Route("other", "1"))) == ("one", "é/\udcff", "")
    again.done()
    assert list(tmp_path.iterdir()) == []


class Killed(BaseException):
    """What kill -9 is to a coroutine: nothing after it happens."""


async def test_a_run_killed_again_and_again_repeats_less_than_one_in_a_hundred(tmp_path: Path) -> None:
    """Of 100,000 keys into a queue, killed five times at the worst moment each: no key is left out, few go twice."""
    keys = [f"{number:06}" for number in range(100_000)]
    kills = [1, 12_345, 50_000, 50_001, 99_999]
    dies_at = 0
    queue: list[str] = []

    async def send(changes: Sequence[Change]) -> None:
        nonlocal dies_at
        if dies_at < 0:
            raise Killed
        queue.extend(change.ref.key for change in changes)
        if len(queue) >= dies_at:  # the messages are in the queue, and the file does not say so
            dies_at = -1
            raise Killed

    async def listed(after: str) -> AsyncGenerator[Section, None]:
        for begin in range(bisect_right(keys, after), len(keys), 1_000):
            page = keys[begin : begin + 1_000]
            yield Section([], [ours(key) for key in page], [], page[-1])

    def a_run() -> Awaitable[None]:
        cursor = Cursor(tmp_path / "state", run="r", asked="all")
        sections = listed(cursor.after(ROUTE))
        reached = partial(cursor.reached, ROUTE)
        return backfill(sections, Scope(ROUTE, [ROUTE]), send, Sent(), run="r", reached=reached)

    for moment in kills:
        dies_at = moment
        with pytest.raises(Killed):
            await a_run()
    dies_at = 2 * len(keys)
    await a_run()
    assert sorted(set(queue)) == keys
    assert len(queue) <= len(keys) + 5 * LOT < len(keys) * 1.01


def test_a_state_that_is_damaged_or_anothers_is_refused(tmp_path: Path) -> None:
    """Going on from it would pass keys over."""
    path = tmp_path / "state"
    Cursor(path, run="one", asked="all").reached(ROUTE, "k")
    with pytest.raises(ConfigError, match="state of another sync, with all"):
        Cursor(path, run="two", asked="prefix k")
    assert Cursor(tmp_path / "new", run="one", asked="", since_s=7.5).since_s == 7.5
    assert Cursor(tmp_path / "new", run="two", asked="", since_s=99.0).since_s == 7.5, "so long ago, of the first time"
    with pytest.raises(ConfigError, match="with no choice of keys"):
        Cursor(tmp_path / "new", run="two", asked="--prefix k")
    path.write_text('{"run": 1')
    with pytest.raises(ConfigError, match="no state of a sync"):
        Cursor(path, run="two", asked="all")


# --- repair ----------------------------------------------------------------------------------------------------


def finding(kind: Kind, key: str) -> Finding:
    """Make a finding."""
    return Finding(key, kind, "why", ours(key), theirs(key))


async def mended(cap: DeleteCap | None, *kinds: Kind, route: Route = ROUTE) -> tuple[Bulk, Mender]:
    """Let a mender take findings."""
    bulk = Bulk()
    mender = Mender(route, bulk.send, run="r", cap=cap)
    for number, kind in enumerate(kinds):
        await mender.take(finding(kind, f"{kind}-{number}"))
    return bulk, mender


async def test_a_repair_sends_what_differs_and_leaves_the_rest() -> None:
    """What cannot be told is not mended, and nothing is deleted unless that was asked for."""
    bulk, mender = await mended(None, "missing", "extra", "different", "unverifiable", "forbidden", "metadata")
    await mender.delete()
    await mender.flush()
    assert bulk.keys == ["missing-0", "different-2"]
    assert {change.kind for call in bulk.calls for change in call} == {"put"}
    assert mender.left == {"extra": 1, "unverifiable": 1, "forbidden": 1, "metadata": 1}


async def test_what_a_route_keeps_stays() -> None:
    """Whatever may be deleted, and by whatever name it is found."""
    _, mender = await mended(DeleteCap(10, 100), "kept", "extra", route=Route("b", "1", deletes="ignore"))
    assert (mender.extras, mender.left) == ([], {"kept": 1, "extra": 1})


async def test_extras_are_sent_as_deletes_once_they_may_be() -> None:
    """Within the cap; the engine asks S3 before it deletes."""
    bulk, mender = await mended(DeleteCap(2, 50), "extra", "extra")
    assert mender.refusal(files=4) is None
    await mender.delete()
    await mender.flush()
    assert [change.kind for call in bulk.calls for change in call] == ["delete", "delete"]
    assert (mender.left["extra"], mender.sent) == (0, {"extra": 2})


@pytest.mark.parametrize(
    ("extras", "files", "refusal"),
    [
        (0, 0, None),
        (2, 20, None),
        (2, 19, "2 of 19 files would be deleted, 10 % at most may be (--max-delete-percent)"),
        (3, 1000, "3 files would be deleted, 2 at most may be (--max-delete)"),
        (1, 9, "1 of 9 files would be deleted, 10 % at most may be (--max-delete-percent)"),
        (1, 1, "1 of 1 file would be deleted, 10 % at most may be (--max-delete-percent)"),
    ],
)
def test_deletes_have_a_cap(extras: int, files: int, refusal: str | None) -> None:
    """So many, and so many in a hundred."""
    assert DeleteCap(2, 10.0).refusal(extras, files) == refusal


async def test_no_more_extras_are_kept_than_could_be_deleted() -> None:
    """One more is enough to refuse them all; the count goes on."""
    _, mender = await mended(DeleteCap(1, 100), "extra", "extra", "extra", "extra", "extra")
    assert (len(mender.extras), mender.left["extra"]) == (2, 5)
    assert mender.refusal(100) is not None
