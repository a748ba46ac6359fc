"""Verify's judgement over time: what is young is looked at again, what a listing leaves open is asked about."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import NOW_S, FakeSource, FakeTarget, md5
from s3nsync.compare import Finding, Kind, Scope, Section, SourceItem, TargetItem, order
from s3nsync.errors import SourceForbidden
from s3nsync.model import ObjectRef, Route
from s3nsync.netstorage import NetStorage
from s3nsync.reconcile.verify import Care, Tally, Verifier
from s3nsync.s3 import S3

ROUTE = Route("b", "1", "d")
OLD_S = int(NOW_S) - 10_000
YOUNG_S = int(NOW_S) - 10
KMS = "aws:kms"


@dataclass
class World:
    """Both sides, whose listings are taken when asked for, and a clock that sleeping moves."""

    source: FakeSource = field(default_factory=FakeSource)
    target: FakeTarget = field(default_factory=FakeTarget)
    now_s: float = NOW_S
    slept_s: list[float] = field(default_factory=list)
    on_sleep: Callable[[], None] = lambda: None

    def put(self, key: str, data: bytes, at_s: int = OLD_S, **changes: object) -> None:
        """Write an object; `changes` are to what S3 tells of it."""
        self.source.put(ObjectRef("b", key), data, **{"last_modified_s": at_s, **changes})

    def file(self, key: str, data: bytes, at_s: int = OLD_S) -> None:
        """Write a file."""
        self.target.files[f"/1/d/{key}"] = (data, at_s)

    def both(self, key: str, data: bytes, at_s: int = OLD_S, **changes: object) -> None:
        """Write it on both sides."""
        self.put(key, data, at_s, **changes)
        self.file(key, data, at_s)

    def section(self) -> Section:
        """List both sides."""
        ours = {
            ref.key: SourceItem(ref.key, info.size_bytes, info.last_modified_s, info.etag, None, _hint(info.etag))
            for ref, (info, _) in self.source.objects.items()
        }
        theirs = {
            path.removeprefix("/1/d/"): TargetItem(path.removeprefix("/1/d/"), "file", len(data), at_s, md5(data))
            for path, (data, at_s) in self.target.files.items()
        }
        keys = sorted(ours.keys() | theirs.keys(), key=order)
        return Section(
            [(ours[key], theirs[key]) for key in keys if key in ours and key in theirs],
            [ours[key] for key in keys if key in ours and key not in theirs],
            [theirs[key] for key in keys if key in theirs and key not in ours],
            keys[-1] if keys else "",
        )

    async def sleep(self, seconds: float) -> None:
        """Let time pass, and something happen."""
        self.slept_s.append(seconds)
        self.now_s += seconds
        self.on_sleep()

    async def verify(
        self, *, times: int = 1, held_most: int = 100, route: Route = ROUTE, **care: object
    ) -> tuple[list[Finding], Tally]:
        """Verify, with so many sections like the listing of now."""

        async def sections() -> AsyncGenerator[Section, None]:
            for _ in range(times):
                yield self.section()

        verifier = Verifier(
            cast("S3", self.source),
            cast("NetStorage", self.target),
            Scope(route, [route]),
            Care(**{"expect_empty": True, **care}),  # type: ignore[arg-type]
            prefix="",
            now_s=lambda: self.now_s,
            sleep=self.sleep,
            held_most=held_most,
        )
        return [each async for each in verifier.findings(sections())], verifier.tally


def _hint(etag: str) -> str | None:
    return None if "-" in etag else etag


def kinds(findings: Sequence[Finding]) -> list[tuple[Kind, str]]:
    """Give kind and key."""
    return [(each.kind, each.key) for each in findings]


async def test_an_old_difference_counts_at_once() -> None:
    """Nothing is asked, and nobody waits."""
    world = World()
    world.put("lost", b"1")
    world.put("cut", b"whole")
    world.file("cut", b"who")
    found, tally = await world.verify()
    assert kinds(found) == [("different", "cut"), ("missing", "lost")]
    assert (world.source.calls, world.slept_s, tally.verdict) == ([], [], "differs")


async def test_a_young_difference_that_goes_away_does_not_count() -> None:
    """Written ten seconds ago, replicated meanwhile: looked at again when it is as old as the tolerance."""
    world = World(on_sleep=lambda: None)
    world.put("new", b"1", YOUNG_S)
    world.put("newer", b"22", YOUNG_S + 5)
    world.file("newer", b"1", OLD_S)

    def replicated() -> None:
        world.file("new", b"1", YOUNG_S)
        world.file("newer", b"22", YOUNG_S + 5)

    world.on_sleep = replicated
    found, tally = await world.verify(tolerance_s=60.0)
    assert (found, tally.verdict, tally.settled) == ([], "clean", 2)
    assert world.slept_s == pytest.approx([55])
    assert tally.held == 0
    assert tally.same == {"md5": 2}


async def test_a_young_difference_that_stays_counts() -> None:
    """It is told with what both sides are at the second look."""
    world = World()
    world.put("new", b"1", YOUNG_S)
    found, tally = await world.verify(tolerance_s=60.0)
    assert kinds(found) == [("missing", "new")]
    assert (tally.settled, tally.verdict) == (0, "differs")


async def test_an_object_written_again_and_again_is_waited_for_a_few_times_only() -> None:
    """Each look finds it young anew: after some it counts."""
    world = World()
    world.put("hot", b"1", YOUNG_S)
    world.on_sleep = lambda: world.put("hot", b"1", int(world.now_s))
    found, _ = await world.verify(tolerance_s=60.0)
    assert kinds(found) == [("missing", "hot")]
    assert len(world.slept_s) == 3


async def test_an_extra_file_is_always_looked_at_again() -> None:
    """Nobody tells when an object was deleted: only what is still there after the tolerance is extra."""
    world = World()
    world.file("going", b"1")
    world.file("staying", b"2")
    world.on_sleep = lambda: world.target.files.pop("/1/d/going", None) and None
    found, tally = await world.verify(tolerance_s=60.0)
    assert kinds(found) == [("extra", "staying")]
    assert world.slept_s == pytest.approx([60])
    assert tally.settled == 1


async def test_more_young_differences_than_are_held_are_looked_at_on_the_way() -> None:
    """What is held is bounded: the listings wait."""
    world, listed = World(), list[str]()
    for number in range(5):
        world.put(f"{number}", b"1", YOUNG_S)
    whole = world.section()

    def section() -> Section:
        listed.append("listed")
        return whole

    world.section = section  # type: ignore[method-assign]
    world.on_sleep = lambda: listed.append("waited")
    found, tally = await world.verify(times=2, held_most=5, tolerance_s=60.0)
    assert listed == ["listed", "waited", "listed"]
    assert (len(found), tally.held) == (10, 0)


async def test_a_head_settles_what_a_listing_leaves_open() -> None:
    """An ETag that is no MD5 proves nothing: by time it is the same; a plain one does: the bytes are others."""
    world = World()
    world.both("secret", b"1", etag="0" * 32, encryption=KMS)
    world.put("flipped", b"1")
    world.file("flipped", b"2")
    found, tally = await world.verify()
    assert kinds(found) == [("different", "flipped")]
    assert tally.same == {"size and time": 1}
    assert world.source.calls == ["head", "head"]


async def test_an_object_that_may_not_be_looked_at_cannot_be_told() -> None:
    """A 403 on one object is a finding, and does not end the run."""
    world = World()
    world.put("closed", b"1", etag="0" * 32)
    world.file("closed", b"2")
    world.put("open", b"1")

    def refuse() -> None:
        raise SourceForbidden("S3 answered 403")

    world.source.on_head = refuse
    found, tally = await world.verify()
    assert kinds(found) == [("unverifiable", "closed"), ("missing", "open")]
    del world.source.objects[ObjectRef("b", "open")]
    found, tally = await world.verify()
    assert tally.verdict == "unsure"


async def test_deep_asks_about_all_and_reads_what_has_no_common_digest() -> None:
    """An encoding that is lost, and other bytes behind the same size and time, only show so."""
    world = World()
    world.both("plain", b"1")
    world.both("zipped", b"2", content_encoding="gzip")
    world.both("secret", b"3", etag="0" * 32, encryption=KMS)
    world.put("forged", b"4", etag="0" * 32, encryption=KMS)
    world.file("forged", b"5")
    found, tally = await world.verify(deep=True)
    assert kinds(found) == [("different", "forged"), ("metadata", "zipped")]
    assert tally.same == {"md5": 3}
    assert sorted(world.source.calls) == ["head"] * 4 + ["open"] * 2
    assert all(each.closed for each in world.source.opened)
    assert (await world.verify())[1].verdict == "clean"


async def test_what_changed_since_an_inventory_is_no_difference() -> None:
    """It tells of another day: what differs from it is asked about, and what still differs counts."""
    world = World()
    world.put("deleted", b"1")
    world.both("written", b"old")
    world.put("lost", b"2")
    world.put("damaged", b"whole")
    world.file("damaged", b"dam")
    picture = world.section()
    del world.source.objects[ObjectRef("b", "deleted")]
    world.both("written", b"newer")
    picture = replace(
        picture, pairs=[(old, new) for (old, _), (_, new) in zip(picture.pairs, world.section().pairs, strict=True)]
    )
    world.section = lambda: picture  # type: ignore[method-assign]
    found, tally = await world.verify(dated=True)
    assert kinds(found) == [("different", "damaged"), ("missing", "lost")]
    assert (tally.settled, tally.verdict, world.slept_s) == (2, "differs", [])
    found, _ = await world.verify()
    assert len(found) == 4


async def test_what_a_route_keeps_is_no_difference() -> None:
    """`deletes = "ignore"`: the file is as the route wants it, as `status` says, and nobody waits for it."""
    world = World()
    world.both("here", b"1")
    world.file("deleted", b"2")
    found, tally = await world.verify(route=replace(ROUTE, deletes="ignore"))
    assert (kinds(found), tally.verdict, world.slept_s) == ([("kept", "deleted")], "clean", [])


async def test_what_a_route_refuses_is_no_difference() -> None:
    """`content_encoding = "reject"`: NetStorage is not meant to have it; what else is missing is."""
    world = World()
    world.put("zipped", b"1", content_encoding="gzip")
    world.put("zipped now", b"1", YOUNG_S, content_encoding="gzip")
    world.put("lost", b"2")
    rejecting = replace(ROUTE, content_encoding="reject")
    found, tally = await world.verify(route=rejecting)
    assert kinds(found) == [("missing", "lost"), ("forbidden", "zipped"), ("forbidden", "zipped now")]
    assert "gzip" in found[1].why
    assert tally.verdict == "differs"
    found, _ = await world.verify()
    assert {each.kind for each in found} == {"missing"}

    def refuse() -> None:
        raise SourceForbidden("S3 answered 403")

    world.source.on_head = refuse
    found, _ = await world.verify(route=rejecting, tolerance_s=0)
    assert {each.kind for each in found} == {"missing"}, "who may not look cannot say that it is refused"


async def test_archived_objects_are_told_and_are_no_difference() -> None:
    """They are set aside until they are restored."""
    world = World()
    section = replace(world.section(), source_only=[SourceItem("ice", 1, OLD_S, "e", storage_class="GLACIER")])
    world.section = lambda: section  # type: ignore[method-assign]
    found, tally = await world.verify()
    assert (kinds(found), tally.verdict) == ([("archived", "ice")], "clean")


BODIES = st.sampled_from([b"", b"1", b"2", b"22"])
SIDE = st.dictionaries(st.sampled_from(["a", "a/b", "a b", "é", "z/~", "🎈"]), BODIES)


@given(SIDE, SIDE, st.booleans())
async def test_it_finds_what_a_naive_comparison_finds(
    ours: dict[str, bytes], theirs: dict[str, bytes], deep: bool
) -> None:
    """On plain objects every missing, extra and different key is told, once, and nothing else."""
    world = World()
    for key, body in ours.items():
        world.put(key, body)
    for key, body in theirs.items():
        world.file(key, body)
    found, tally = await world.verify(deep=deep, tolerance_s=0.0)
    expected = {("missing", key) for key in ours.keys() - theirs.keys()}
    expected |= {("extra", key) for key in theirs.keys() - ours.keys()}
    expected |= {("different", key) for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
    assert sorted(kinds(found)) == sorted(expected)
    assert (tally.verdict == "clean") == (ours == theirs)
    assert (tally.source_objects, tally.target_files) == (len(ours), len(theirs))
