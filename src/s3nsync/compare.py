"""Comparing what S3 and NetStorage hold, as pure functions over two listings in key order.

Both sides speak of keys: what NetStorage holds at a path is named by the key that the route would put there
(`listing` does that), so one order and one vocabulary serve both. The order is S3's, that of the keys' UTF-8 bytes. A
directory's key ends in `/`, as a folder marker's does.

    source batches ─┐
                    ├─ join ─→ Section: pairs, source_only, target_only ─ compare ─→ Compared: counts and findings
    target batches ─┘

The streams come in batches, and no key costs an await: sections are cut where the shorter batch ends, and inside one
the two sides meet as lists if their keys are the same ones, else as dictionaries. Only a section's ends are compared
by bytes. Memory is that of one batch a side.

What proves a pair equal, strongest first:

    S3 tells            NetStorage tells   equal           unequal
    ------------------  -----------------  --------------  ------------------------------------------------------
    size                size               (goes on)       different
    MD5, known as such  md5                same            different
    ETag, may be MD5    md5                same            unverifiable: a HEAD tells how the object is encrypted
    LastModified        mtime              same, by time   unverifiable: only the bytes can tell

A listing does not say how an object is encrypted, and the ETag of a KMS-encrypted one looks like an MD5 and is none.
So from a listing an ETag without `-` proves equality, never difference. `look_closer` judges again with what a HEAD
adds.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter, gt
from typing import Generic, Literal, NamedTuple, TypeVar

from s3nsync.decide import etag_md5, lost_metadata, modification_time
from s3nsync.errors import BadAnswer
from s3nsync.mapping import FolderMarker, OutOfScope, Refused, place
from s3nsync.model import ObjectRef, Route, SourceInfo
from s3nsync.netstorage.wire import EntryType

Evidence = Literal["md5", "size and time", "directory"]
"""What proved a pair to be the same."""

Kind = Literal["missing", "extra", "different", "unverifiable", "forbidden", "kept", "archived", "metadata"]
"""What was found of a key: not on NetStorage; only there; not equal; not to be told from this evidence; only one side
can hold such a key, or the route refuses the object; only on NetStorage, by a route that keeps what was deleted; not on
NetStorage, and not readable in S3 before it is restored; equal, but NetStorage cannot keep all that S3 knows of it."""

ARCHIVES = frozenset({"GLACIER", "DEEP_ARCHIVE"})
"""Storage classes of objects that must be restored before they are read (Amazon S3 User Guide, "Storage classes")."""

Needs = Literal["", "head", "bytes"]
"""What would settle an unverifiable pair: a HEAD of the object, or reading its bytes."""


class SourceItem(NamedTuple):
    """One object as a listing, an inventory or a checksum report tells it.

    `etag` stands without quotes. `md5` is surely that of the bytes, `hint` is an ETag that may be; both lower-case hex,
    None where there is none. `storage_class` is empty where it was not told.
    """

    key: str
    size_bytes: int
    mtime_s: int
    etag: str = ""
    md5: str | None = None
    hint: str | None = None
    storage_class: str = ""


class TargetItem(NamedTuple):
    """One entry on NetStorage, under the key that the route gives its path; None is what was not told.

    A directory's key ends in `/`. A name that is not UTF-8 has its stray bytes as lone surrogates (surrogateescape).
    """

    key: str
    type: EntryType
    size_bytes: int | None = None
    mtime_s: int | None = None
    md5: str | None = None


Item = TypeVar("Item", bound=SourceItem | TargetItem)
Batches = AsyncIterator[Sequence[Item]]
"""A listing: batches of items, in the order of their keys' bytes within and across batches."""


@dataclass(frozen=True, slots=True)
class Section:
    """A stretch of the key space as both sides have it.

    All keys up to `upto`, that one included, have been seen: it is where a run that was cut short may go on (`after` of
    the listings), once the section is dealt with.
    """

    pairs: Sequence[tuple[SourceItem, TargetItem]]
    source_only: Sequence[SourceItem]
    target_only: Sequence[TargetItem]
    upto: str


class Finding(NamedTuple):
    """A key of which there is something to say; the side that has nothing is None. `why` is one line for people."""

    key: str
    kind: Kind
    why: str
    source: SourceItem | None = None
    target: TargetItem | None = None
    needs: Needs = ""


@dataclass(slots=True)
class Compared:
    """What a section came to; sections add up with `add`.

    `same` counts pairs by what proved them, `same_bytes` is their size. `ignored` counts what the route leaves out or
    does not keep: keys out of scope, folder markers, directories without one.
    """

    same: Counter[Evidence] = field(default_factory=Counter)
    same_bytes: int = 0
    ignored: int = 0
    findings: list[Finding] = field(default_factory=list)

    def prove(self, evidence: Evidence, pairs: int, size_bytes: int) -> None:
        """Count pairs that are the same."""
        if pairs:
            self.same[evidence] += pairs
            self.same_bytes += size_bytes

    def add(self, other: Compared) -> None:
        """Take in the counts of another section, and not its findings: those are for passing on."""
        self.same.update(other.same)
        self.same_bytes += other.same_bytes
        self.ignored += other.ignored


# --- joining ---------------------------------------------------------------------------------------------------


def order(key: str) -> bytes:
    """Give what keys are ordered by: their bytes, also of a key that is not UTF-8."""
    return key.encode("utf-8", "surrogateescape")


_key = attrgetter("key")


def _order_of(item: SourceItem | TargetItem) -> bytes:
    return order(item.key)


class _Side(Generic[Item]):
    """One stream, read as far as it is needed."""

    def __init__(self, batches: Batches[Item], name: str) -> None:
        self._batches = batches
        self._name = name
        self._batch: Sequence[Item] = ()
        self._at = 0
        self._last: bytes | None = None
        self.ended = False

    async def fill(self) -> bytes | None:
        """Read on if nothing is left; give the last key in hand, None at the stream's end."""
        while self._at == len(self._batch) and not self.ended:
            batch = await anext(self._batches, None)
            if batch is None:
                self.ended = True
                self._batch, self._at = (), 0
            elif batch:
                self._check(batch)
                self._batch, self._at = batch, 0
        return None if self.ended else self._last

    def take(self, upto: bytes | None) -> Sequence[Item]:
        """Give what is in hand up to a key, that one included; all of it for None or the last key in hand."""
        begin = self._at
        if upto is None or upto == self._last:
            self._at = len(self._batch)
        else:
            self._at = bisect_right(self._batch, upto, lo=begin, key=_order_of)
        whole = begin == 0 and self._at == len(self._batch)
        return self._batch if whole else self._batch[begin : self._at]

    def _check(self, batch: Sequence[Item]) -> None:
        """Refuse a batch that is out of order: the join would report every key after it wrongly."""
        first, last = _order_of(batch[0]), _order_of(batch[-1])
        keys = list(map(_key, batch))
        # Text and bytes have the same order but for names that are not UTF-8; the bytes are asked only about those.
        disordered = any(map(gt, keys, keys[1:])) and _is_disordered(keys)
        if disordered or (self._last is not None and first < self._last):
            raise BadAnswer(
                f"the listing of {self._name} is not in key order near {batch[0].key!r}",
                hint="only general purpose buckets list in key order; a directory bucket cannot be compared",
            )
        self._last = last


def _is_disordered(keys: Sequence[str]) -> bool:
    as_bytes = list(map(order, keys))
    return any(map(gt, as_bytes, as_bytes[1:]))


async def join(source: Batches[SourceItem], target: Batches[TargetItem]) -> AsyncGenerator[Section, None]:
    """Join two listings into sections, in key order.

    Raises BadAnswer when a listing is not in key order, and whatever the streams raise. The streams are not closed.
    """
    left, right = _Side(source, "S3"), _Side(target, "NetStorage")
    while True:
        ends = [end for end in (await left.fill(), await right.fill()) if end is not None]
        if not ends:
            return
        upto = min(ends)
        one, other = left.take(upto), right.take(upto)
        yield _section(one, other, upto.decode("utf-8", "surrogateescape"))


def _section(source: Sequence[SourceItem], target: Sequence[TargetItem], upto: str) -> Section:
    keys = list(map(_key, source))
    if keys == list(map(_key, target)):
        return Section(list(zip(source, target, strict=True)), (), (), upto)
    by_key = _by_key(target)
    pairs = [(each, by_key[each.key]) for each in source if each.key in by_key]
    source_only = [each for each in source if each.key not in by_key]
    known = set(keys)
    target_only = [each for each in target if each.key not in known]
    return Section(pairs, source_only, target_only, upto)


def _by_key(target: Sequence[TargetItem]) -> dict[str, TargetItem]:
    by_key = {each.key: each for each in target}
    if len(by_key) < len(target):  # ObjectStore lets a file and a symlink share a name: the file is what we wrote
        by_key.update((each.key, each) for each in target if each.type == "file")
    return by_key


# --- judging ---------------------------------------------------------------------------------------------------


class Scope:
    """Which keys are a route's own: not left out by its patterns, and not another route's, nested inside."""

    def __init__(self, route: Route, routes: Iterable[Route]) -> None:
        """Work out, once, whether there is anything to look at for each key. `routes` holds all of them."""
        self.route = route
        self._routes = tuple(each for each in routes if each.bucket == route.bucket) or (route,)
        nested = any(each != route and each.prefix.startswith(route.prefix) for each in self._routes)
        self.takes_all = not (route.include or route.exclude or nested)

    def __contains__(self, key: str) -> bool:
        """Say whether the key is this route's own, whether or not a path can hold it."""
        return self.takes_all or self._is_own(self.place(key))

    def place(self, key: str) -> Refused | FolderMarker | OutOfScope | None:
        """Say what hinders a key from being a file at its path; None if nothing does."""
        placement = place(ObjectRef(self.route.bucket, key), self._routes)
        if isinstance(placement, OutOfScope):
            return placement
        if placement.route is not self.route and placement.route != self.route:
            return OutOfScope(f"belongs to {placement.route}")
        return placement if isinstance(placement, Refused | FolderMarker) else None

    @staticmethod
    def _is_own(hindrance: Refused | FolderMarker | OutOfScope | None) -> bool:
        return not isinstance(hindrance, OutOfScope)


def compare(section: Section, scope: Scope) -> Compared:
    """Judge a section; findings are in key order."""
    found = Compared()
    same = same_bytes = 0
    takes_all = scope.takes_all
    for source, target in section.pairs:
        # The common case, first and in one place: millions of pairs go through here.
        md5 = target.md5
        if (
            md5 is not None
            and (md5 == source.hint or md5 == source.md5)  # noqa: PLR1714 -- a tuple or set for each pair costs time
            and source.size_bytes == target.size_bytes
            and target.type == "file"
            and (takes_all or source.key in scope)
        ):
            same += 1
            same_bytes += source.size_bytes
        else:
            _compare_pair(source, target, scope, found)
    found.prove("md5", same, same_bytes)
    is_sorted = not found.findings and not section.target_only  # what S3 lists is
    for each in section.source_only:
        _note_missing(each, scope, found)
    for extra in section.target_only:
        _note_extra(extra, scope, found)
    if not is_sorted:
        found.findings.sort(key=lambda finding: order(finding.key))
    return found


def judge(source: SourceItem, target: TargetItem) -> Evidence | Finding:
    """Judge one pair by the table above."""
    if target.type != "file":
        return Finding(source.key, "different", f"a {target.type} has the file's name", source, target)
    if target.size_bytes != source.size_bytes:
        why = f"{target.size_bytes} bytes, S3 has {source.size_bytes}"
        return Finding(source.key, "different", why, source, target)
    if target.md5 is not None and target.md5 in (source.md5, source.hint):
        return "md5"
    if target.md5 is not None and source.md5 is not None:
        return Finding(source.key, "different", "same size, other bytes (MD5)", source, target)
    if target.md5 is not None and source.hint is not None:
        why = "the ETag is not NetStorage's md5, and need not be one: the encryption is not known"
        return Finding(source.key, "unverifiable", why, source, target, "head")
    if target.mtime_s == source.mtime_s:
        return "size and time"
    why = "same size, other time, and no digest that both sides have"
    return Finding(source.key, "unverifiable", why, source, target, "bytes")


def look_closer(
    source: SourceItem, target: TargetItem, info: SourceInfo, *, metadata_mtime: bool
) -> tuple[Evidence | Finding, tuple[str, ...]]:
    """Judge one pair again with what a HEAD told, and say what NetStorage cannot keep of the object.

    `info` replaces what the listing said, for the object may be a newer one. `metadata_mtime` says whether uploads
    take their time from x-amz-meta-mtime.
    """
    known = source._replace(
        size_bytes=info.size_bytes,
        mtime_s=modification_time(info, metadata_mtime=metadata_mtime),
        etag=info.etag,
        md5=etag_md5(info) or info.checksums.get("md5") or (source.md5 if info.etag == source.etag else None),
        hint=None,
    )
    return judge(known, target), lost_metadata(info)


def _compare_pair(source: SourceItem, target: TargetItem, scope: Scope, found: Compared) -> None:
    if source.key not in scope:
        found.ignored += 1
        return
    if source.key.endswith("/") and target.type == "dir":
        _count_marker(scope, found)
        return
    verdict = judge(source, target)
    if isinstance(verdict, Finding):
        found.findings.append(verdict)
    else:
        found.prove(verdict, 1, source.size_bytes)


def _count_marker(scope: Scope, found: Compared) -> None:
    if scope.route.folder_markers == "mkdir":
        found.same["directory"] += 1
    else:
        found.ignored += 1


def _note_missing(source: SourceItem, scope: Scope, found: Compared) -> None:
    hindrance = scope.place(source.key)
    match hindrance:
        case None if source.storage_class in ARCHIVES:
            why = f"set aside: in {source.storage_class}, and not readable before it is restored"
            found.findings.append(Finding(source.key, "archived", why, source))
        case None:
            found.findings.append(Finding(source.key, "missing", "not on NetStorage", source))
        case Refused(reason=reason):
            found.findings.append(Finding(source.key, "forbidden", reason, source))
        case FolderMarker() if scope.route.folder_markers == "mkdir" and source.key != scope.route.strip_prefix:
            found.findings.append(Finding(source.key, "missing", "no such directory on NetStorage", source))
        case _:
            found.ignored += 1


def _note_extra(target: TargetItem, scope: Scope, found: Compared) -> None:
    """Note what only NetStorage has; directories come and go with their files and are no finding."""
    hindrance = scope.place(target.key)
    if target.type == "dir" or isinstance(hindrance, OutOfScope | FolderMarker):
        found.ignored += 1
    elif isinstance(hindrance, Refused):
        found.findings.append(
            Finding(target.key, "forbidden", f"only on NetStorage: {hindrance.reason}", target=target)
        )
    else:
        found.findings.append(only_on_netstorage(scope.route, target.key, "not in S3", target))


def only_on_netstorage(route: Route, key: str, why: str, target: TargetItem | None) -> Finding:
    """Judge a file without an object: extra, unless the route keeps what was deleted in S3."""
    if route.deletes == "ignore":
        return Finding(key, "kept", f"{why}, and this route keeps what was copied", target=target)
    return Finding(key, "extra", why, target=target)
