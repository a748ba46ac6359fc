"""Joining and judging two listings, against a naive comparison of sets."""

from __future__ import annotations

import asyncio
import string
from collections.abc import AsyncIterator, Sequence
from typing import Literal, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import info_of
from s3nsync.compare import (
    Compared,
    Finding,
    Scope,
    Section,
    SourceItem,
    TargetItem,
    compare,
    join,
    judge,
    look_closer,
    order,
)
from s3nsync.errors import BadAnswer
from s3nsync.model import Route

ROUTE = Route("bucket", "1")
MD5, OTHER = "a" * 32, "b" * 32


def source(
    key: str = "k", size: int = 3, *, mtime: int = 7, md5: str | None = None, hint: str | None = MD5
) -> SourceItem:
    """Make an object as a listing tells it."""
    return SourceItem(key, size, mtime, hint or "e-2", md5, hint)


def target(key: str = "k", size: int = 3, *, mtime: int = 7, md5: str | None = MD5) -> TargetItem:
    """Make a file as NetStorage tells it."""
    return TargetItem(key, "file", size, mtime, md5)


T = TypeVar("T")


async def batches(items: Sequence[T], size: int) -> AsyncIterator[Sequence[T]]:
    """Give the items so many at once, and an empty batch in between."""
    for at in range(0, len(items), size):
        yield items[at : at + size]
        yield []


def sections(one: Sequence[SourceItem], other: Sequence[TargetItem], sizes: tuple[int, int] = (3, 2)) -> list[Section]:
    """Join two whole listings."""

    async def run() -> list[Section]:
        return [each async for each in join(batches(one, sizes[0]), batches(other, sizes[1]))]

    return asyncio.run(run())


def compared(
    one: Sequence[SourceItem], other: Sequence[TargetItem], route: Route = ROUTE, routes: Sequence[Route] = ()
) -> Compared:
    """Join and judge two whole listings."""
    total = Compared()
    for section in sections(one, other):
        found = compare(section, Scope(route, routes or [route]))
        total.add(found)
        total.findings += found.findings
    return total


def kinds(found: Compared) -> dict[str, str]:
    """Give what was found of each key."""
    return {each.key: each.kind for each in found.findings}


# --- joining ---------------------------------------------------------------------------------------------------

# Slashes, what sorts around them, characters of one to four bytes, and names that are not UTF-8.
names = st.text(st.sampled_from("a.0/-é\ud7ff\ue000\uffe0🎈\udc80\udcff"), min_size=1, max_size=5)


@given(
    one=st.sets(names, max_size=30),
    other=st.sets(names, max_size=30),
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_a_join_is_what_sets_say(one: set[str], other: set[str], sizes: tuple[int, int]) -> None:
    """Whatever the keys and the batches, pairs and leftovers are those of the two sets, section after section."""
    left = [source(key) for key in sorted(one, key=order)]
    right = [target(key) for key in sorted(other, key=order)]
    found = sections(left, right, sizes)
    assert [a.key for each in found for a, _ in each.pairs] == sorted(one & other, key=order)
    assert all(a.key == b.key for each in found for a, b in each.pairs)
    assert [a.key for each in found for a in each.source_only] == sorted(one - other, key=order)
    assert [b.key for each in found for b in each.target_only] == sorted(other - one, key=order)
    upto = b""
    for each in found:
        keys = [a.key for a, _ in each.pairs] + [a.key for a in each.source_only] + [b.key for b in each.target_only]
        assert all(upto < order(key) <= order(each.upto) for key in keys)
        upto = order(each.upto)


@pytest.mark.parametrize("keys", [["b", "a"], ["a", "b", "ab"], ["a/b", "a.txt"], ["\udc80", "\ue000", "a"]])
@pytest.mark.parametrize("size", [1, 9])
def test_a_listing_out_of_order_is_refused(keys: list[str], size: int) -> None:
    """Keys out of order, within a batch or from one to the next, are an error and no findings."""
    with pytest.raises(BadAnswer, match="not in key order"):
        sections([source(key) for key in keys], [], (size, size))
    with pytest.raises(BadAnswer, match="not in key order"):
        sections([], [target(key) for key in keys], (size, size))


def test_a_name_that_is_not_text_is_in_the_order_of_its_bytes() -> None:
    """Byte 0xF5 sorts after every character's bytes, though its lone surrogate does not."""
    keys = ["\ue000", "🎈", "\udcf5"]
    assert sorted(keys) != keys
    assert [each.key for part in sections([], [target(key) for key in keys]) for each in part.target_only] == keys


def test_a_file_wins_over_a_symlink_of_its_name() -> None:
    """ObjectStore may hold both under one name: the file is what is compared."""
    link = TargetItem("k", "symlink")
    for both in ([target(), link], [link, target()]):
        assert compared([source()], both).same == {"md5": 1}


# --- judging ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        (source(), target(), "md5"),
        (source(md5=MD5, hint=None), target(), "md5"),
        (source(mtime=1), target(), "md5"),
        (source(md5=OTHER, hint=None), target(), "different"),
        (source(), target(size=4), "different"),
        (source(hint=None), target(size=4), "different"),
        (source(), target(md5=OTHER), "unverifiable head"),
        (source(hint=None), target(), "size and time"),
        (source(), target(md5=None), "size and time"),
        (source(hint=None), target(mtime=8), "unverifiable bytes"),
        (source(md5=MD5, hint=None), target(md5=None, mtime=8), "unverifiable bytes"),
        (source(), TargetItem("k", "symlink", None, 7), "different"),
        (source(), TargetItem("k", "symlink", 3, 7, MD5), "different"),
    ],
)
def test_a_pair_is_judged_by_the_strongest_evidence(one: SourceItem, other: TargetItem, verdict: str) -> None:
    """Each row of the table; what judges one pair judges the same in a section."""
    judged = judge(one, other)
    assert (f"{judged.kind} {judged.needs}".strip() if isinstance(judged, Finding) else judged) == verdict
    found = compared([one], [other])
    assert [*found.findings, *found.same] == [judged]
    assert found.same_bytes == (0 if found.findings else 3)


@pytest.mark.parametrize(
    ("encryption", "data", "verdict"),
    [
        (None, b"abc", "md5"),
        (None, b"abd", "different"),
        ("AES256", b"abd", "different"),
        ("aws:kms", b"abd", "size and time"),
    ],
)
def test_a_head_settles_what_a_listing_cannot(encryption: str | None, data: bytes, verdict: str) -> None:
    """With the encryption known an unequal ETag is a difference, or else no digest at all."""
    info = info_of(data, mtime_s=7)._replace(encryption=encryption)
    there = target(md5=info_of(b"abc").etag)
    judged, lost = look_closer(source(hint=OTHER), there, info, metadata_mtime=False)
    assert (judged.kind if isinstance(judged, Finding) else judged) == verdict
    assert lost == ()


def test_a_closer_look_tells_what_is_lost_and_judges_the_object_of_now() -> None:
    """A Content-Encoding is told; a report's MD5 counts only for the version that it was made of."""
    info = info_of(b"abcd", etag="new-2", mtime_s=9)._replace(content_encoding="gzip")
    there = target(size=4, mtime=7, md5=MD5)
    judged, lost = look_closer(source(md5=MD5, hint=None), there, info, metadata_mtime=False)
    assert isinstance(judged, Finding)
    assert (judged.kind, judged.needs) == ("unverifiable", "bytes")
    assert "gzip" in lost[0]


# --- scope -----------------------------------------------------------------------------------------------------


def test_what_only_one_side_has_is_missing_extra_or_forbidden() -> None:
    """Keys without a path, and paths that no key may have, are told apart from missing and extra ones."""
    one = [source(key) for key in ("a//b", "new", "same")]
    other = [target(key) for key in ("\udc80", "old", "same", "x/../y")]
    found = compared(one, sorted(other, key=lambda each: order(each.key)))
    assert kinds(found) == {
        "a//b": "forbidden",
        "new": "missing",
        "old": "extra",
        "x/../y": "forbidden",
        "\udc80": "forbidden",
    }
    assert [each.key for each in found.findings] == ["a//b", "new", "old", "x/../y", "\udc80"]
    assert found.same == {"md5": 1}


def test_keys_out_of_scope_are_nobodys_findings() -> None:
    """Excluded keys and those of a nested route are counted as ignored, on either side and on both."""
    nested = Route("bucket", "1", prefix="in/", deletes="ignore")
    route = Route("bucket", "1", exclude=("*.tmp",))
    one = [source(key) for key in ("a.tmp", "b.tmp", "in/a", "in/b", "z")]
    other = [target("b.tmp", md5=OTHER), target("c.tmp"), target("in/b"), target("in/c"), target("z")]
    found = compared(one, other, route, [route, nested])
    assert (found.findings, found.ignored, found.same) == ([], 6, {"md5": 1})


@pytest.mark.parametrize(("policy", "same", "missing"), [("ignore", {}, []), ("mkdir", {"directory": 1}, ["p/b/"])])
def test_folder_markers_count_only_where_the_route_keeps_them(
    policy: Literal["ignore", "mkdir"], same: dict[str, int], missing: list[str]
) -> None:
    """A directory without a marker is no extra; the marker of the stripped prefix is the route's own directory."""
    route = Route("bucket", "1", prefix="p/", strip_prefix="p/", folder_markers=policy)
    one = [source(key, 0) for key in ("p/", "p/a/", "p/b/")]
    other = [TargetItem(key, "dir") for key in ("p/a/", "p/c/")]
    found = compared(one, other, route)
    assert found.same == same
    assert [each.key for each in found.findings] == missing


trees = st.dictionaries(
    st.text(st.sampled_from(string.ascii_lowercase[:3] + "./0é"), min_size=1, max_size=4),
    st.tuples(st.integers(0, 1), st.sampled_from([MD5, OTHER]), st.booleans()),
    max_size=20,
)


@given(one=trees, other=trees)
def test_findings_are_those_of_a_naive_comparison(
    one: dict[str, tuple[int, str, bool]], other: dict[str, tuple[int, str, bool]]
) -> None:
    """On random trees: the same keys are found, as what a walk over two dictionaries says."""

    def naive(key: str) -> str | None:
        here, there = one.get(key), other.get(key)
        marker = key.endswith("/") and "//" not in key and not key.startswith("/")
        bad = any(part in {"", ".", ".."} for part in key.removesuffix("/").split("/"))
        if here is None or there is None:
            return None if marker and not bad else "forbidden" if bad else "missing" if there is None else "extra"
        if here[:2] == there[:2]:
            return None
        return "unverifiable" if here[0] == there[0] and not here[2] else "different"

    left = [
        source(key, size, md5=md5 if sure else None, hint=None if sure else md5)
        for key, (size, md5, sure) in sorted(one.items(), key=lambda each: order(each[0]))
    ]
    right = [
        target(key, size, md5=md5) for key, (size, md5, _) in sorted(other.items(), key=lambda each: order(each[0]))
    ]
    expected = {key: kind for key in one.keys() | other.keys() if (kind := naive(key))}
    assert kinds(compared(left, right)) == expected
