"""Prove that both sides of a route agree, or say where they do not.

    sections of both listings ─ compare ─→ same, by the evidence that the pair offers
                                       └─→ findings ─ HEAD where one settles it ─→ old:   it counts
                                                                                └─→ young: held, looked at again

A listing is a picture of a moment, and replication runs meanwhile. So a difference whose object was written within the
tolerance is held, and looked at again (HEAD and stat) once it is older than that; a file without its object always,
because nobody tells when an object was deleted. Only what is still there then counts. What is held is bounded: when
there is too much of it, the listings wait.

A listing does not say how an object is encrypted, so an ETag that differs from NetStorage's md5 proves nothing. A HEAD
does: such pairs get one, up to HEADS of them. With `deep` every pair gets one, which also tells what NetStorage cannot
keep; and pairs without a digest that both sides have are read and hashed.

An inventory is a picture of another day. What differs from it is looked at by HEAD and stat at once, up to HEADS of it.

An S3 that suddenly lists nothing, while NetStorage holds files, is refused at once: more often that is a mistake in a
name or a policy than the truth.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from s3nsync.compare import (
    Evidence,
    Finding,
    Kind,
    Scope,
    Section,
    SourceItem,
    TargetItem,
    compare,
    look_closer,
    only_on_netstorage,
    order,
)
from s3nsync.decide import lost_metadata
from s3nsync.errors import BucketEmpty, SourceArchived, SourceForbidden, TargetMissing
from s3nsync.mapping import target_directory
from s3nsync.model import Gone, ObjectRef, SourceInfo
from s3nsync.netstorage import Entry, NetStorage
from s3nsync.reconcile.listing import Patience, list_bucket
from s3nsync.s3 import S3

T = TypeVar("T")

HEADS = 10_000
"""HEADs spent on pairs that a listing leaves open, without `deep`: half a cent, and half a minute."""

HELD = 10_000
"""Young differences kept for a second look, some 5 MB; with more of them the listings wait."""

ROUNDS = 3
"""How often an object that is written again and again is waited for before its difference counts."""

READS = 4
"""Objects read and hashed at once: two keep a core busy."""

DIFFERENCES: frozenset[Kind] = frozenset({"missing", "extra", "different"})
"""Findings that say: the two sides are not what they should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Care:
    """How closely is looked; `tolerance_s` is how old a difference must be to count, `parallel` the looks at once.

    `dated` says that S3's side is an inventory, which may be some days old.
    """

    deep: bool = False
    dated: bool = False
    tolerance_s: float = 180.0
    metadata_mtime: bool = False
    parallel: int = 32
    expect_empty: bool = False


@dataclass(slots=True)
class Tally:
    """What was seen so far.

    `same` counts pairs by what proved them, `findings` the others by kind, `ignored` what the route leaves out or does
    not keep, `settled` differences that were gone at the second look, `held` those that wait for theirs.
    """

    source_objects: int = 0
    source_bytes: int = 0
    target_files: int = 0
    same: Counter[Evidence] = field(default_factory=Counter)
    same_bytes: int = 0
    ignored: int = 0
    settled: int = 0
    held: int = 0
    findings: Counter[Kind] = field(default_factory=Counter)

    def see(self, section: Section) -> None:
        """Count what a section shows."""
        self.source_objects += len(section.pairs) + len(section.source_only)
        self.source_bytes += sum([source.size_bytes for source, _ in section.pairs])
        self.source_bytes += sum([source.size_bytes for source in section.source_only])
        self.target_files += len(section.pairs) + sum([each.type != "dir" for each in section.target_only])

    def prove(self, evidence: Evidence, size_bytes: int) -> None:
        """Count a pair that is the same."""
        self.same[evidence] += 1
        self.same_bytes += size_bytes

    def add(self, other: Tally) -> None:
        """Take in the counts of another route."""
        self.source_objects += other.source_objects
        self.source_bytes += other.source_bytes
        self.target_files += other.target_files
        self.same.update(other.same)
        self.same_bytes += other.same_bytes
        self.ignored += other.ignored
        self.settled += other.settled
        self.findings.update(other.findings)

    @property
    def verdict(self) -> Literal["clean", "differs", "unsure"]:
        """Say what it comes to; what the other side cannot hold, or is not meant to, is no difference."""
        if any(self.findings[kind] for kind in DIFFERENCES):
            return "differs"
        return "unsure" if self.findings["unverifiable"] else "clean"


@dataclass(frozen=True, slots=True)
class _Held:
    """A young difference, and when it is old enough to count (Unix seconds)."""

    finding: Finding
    due_s: float


class Verifier:
    """Compares one route; `tally` grows while `findings` is read."""

    def __init__(
        self,
        s3: S3,
        netstorage: NetStorage,
        scope: Scope,
        care: Care,
        *,
        prefix: str,
        now_s: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        patience: Patience = Patience(),  # noqa: B008  (a frozen value)
        on_wait: Callable[[float, int], None] = lambda _seconds, _count: None,
        held_most: int = HELD,
    ) -> None:
        """Wire it.

        `prefix` is what all keys looked at begin with, `now_s` Unix time; `on_wait` hears for how long how many young
        differences are waited for.
        """
        self.tally = Tally()
        self._s3 = s3
        self._netstorage = netstorage
        self._scope = scope
        self._care = care
        self._now_s = now_s
        self._sleep = sleep
        self._patience = patience
        self._on_wait = on_wait
        self._held_most = held_most
        self._prefix = prefix
        self._knows_objects = False
        self._held: list[_Held] = []
        self._heads_left = HEADS
        self._looks = asyncio.Semaphore(care.parallel)
        self._reads = asyncio.Semaphore(READS)

    async def findings(self, sections: AsyncGenerator[Section, None]) -> AsyncGenerator[Finding, None]:
        """Give what there is to say, mostly in key order: what was looked at again comes last. Closes `sections`.

        Raises what the listings and looks raise, and BucketEmpty.
        """
        async with aclosing(sections):
            async for section in sections:
                self.tally.see(section)
                await self._refuse_emptiness()
                for finding in await self._judge(section):
                    yield self._counted(finding)
                if len(self._held) >= self._held_most:
                    async for finding in self._look_again():
                        yield self._counted(finding)
        async for finding in self._look_again():
            yield self._counted(finding)

    def _counted(self, finding: Finding) -> Finding:
        self.tally.findings[finding.kind] += 1
        return finding

    async def _refuse_emptiness(self) -> None:
        """Refuse a bucket that lists nothing; the sections alone do not tell, its first keys may come later."""
        tally = self.tally
        if self._knows_objects or tally.target_files == 0 or self._care.expect_empty:
            return
        route = self._scope.route
        async with aclosing(list_bucket(self._s3, route.bucket, self._prefix, patience=self._patience)) as listing:
            self._knows_objects = tally.source_objects > 0 or await anext(listing, None) is not None
        if not self._knows_objects:
            where = f"s3://{route.bucket}/{self._prefix}"
            raise BucketEmpty(f"{where} lists no object, and {target_directory(route)} holds files")

    # --- first looks ---

    async def _judge(self, section: Section) -> list[Finding]:
        """Judge a section; what is left of it after closer looks, and is old enough, in key order."""
        pairs = [pair for pair in section.pairs if self._is_deep_pair(*pair)] if self._care.deep else []
        if pairs:
            section = replace(section, pairs=[pair for pair in section.pairs if not self._is_deep_pair(*pair)])
        compared = compare(section, self._scope)
        for evidence, count in compared.same.items():
            self.tally.same[evidence] += count
        self.tally.same_bytes += compared.same_bytes
        self.tally.ignored += compared.ignored
        looked = await self._all(
            [*(self._first_look(each) for each in compared.findings), *(self._deep_look(*pair) for pair in pairs)]
        )
        return sorted(self._aged(looked), key=lambda finding: order(finding.key))

    def _is_deep_pair(self, source: SourceItem, target: TargetItem) -> bool:
        return target.type == "file" and not source.key.endswith("/") and source.key in self._scope

    async def _first_look(self, finding: Finding) -> Sequence[Finding]:
        """Ask S3 about what its listing leaves open, as long as there are HEADs to spend."""
        source, target = finding.source, finding.target
        is_open = finding.needs == "head" and target is not None
        is_dated = self._care.dated and finding.kind in {"missing", "different"}
        may_be_refused = finding.kind == "missing" and self._scope.route.content_encoding == "reject"
        if source is None or not (is_open or is_dated or may_be_refused):
            return [finding]
        if self._heads_left <= 0 and not self._care.deep:
            return [finding._replace(why=f"{finding.why}; --deep asks about every such object")]
        self._heads_left -= 1
        if is_dated:
            looked = await self._fresh_look(finding)
            self.tally.settled += _is_settled(looked)
            return looked
        return [await self._refused(finding)] if target is None else await self._deep_look(source, target)

    async def _refused(self, finding: Finding) -> Finding:
        """Say whether it is the route that does not take an object which NetStorage lacks."""
        try:
            async with self._looks:
                info = await self._ask(lambda: self._s3.head(self._ref(finding.key)))
        except SourceForbidden:
            return finding
        return finding if info is None else self._missing(finding.key, info)

    def _missing(self, key: str, info: SourceInfo) -> Finding:
        """Judge an object without a file: missing, unless the route refuses it for what NetStorage could not keep."""
        source, route = _source_item(key, info), self._scope.route
        lost = lost_metadata(info) if route.content_encoding == "reject" else ()
        if lost:
            return Finding(key, "forbidden", f"this route refuses it: {lost[0]}", source)
        return Finding(key, "missing", "not on NetStorage", source)

    async def _deep_look(self, source: SourceItem, target: TargetItem) -> Sequence[Finding]:
        """Judge a pair by a HEAD and, if deep, by its bytes; also say what NetStorage cannot keep of it."""
        ref = self._ref(source.key)
        try:
            async with self._looks:
                info = await self._ask(lambda: self._s3.head(ref))
            if info is None:
                return [self._alone(source.key, "not in S3 any more", target)]
            return await self._closer(source, target, info)
        except SourceForbidden as error:
            return [Finding(source.key, "unverifiable", error.message, source, target)]

    async def _closer(self, source: SourceItem, target: TargetItem, info: SourceInfo) -> Sequence[Finding]:
        verdict, lost = look_closer(source, target, info, metadata_mtime=self._care.metadata_mtime)
        seen = source._replace(size_bytes=info.size_bytes, mtime_s=info.last_modified_s, etag=info.etag)
        if self._care.deep and (verdict == "size and time" or (isinstance(verdict, Finding) and verdict.needs)):
            verdict = await self._by_bytes(seen, target)
        if isinstance(verdict, Finding):
            return [verdict._replace(source=seen)]
        self.tally.prove(verdict, info.size_bytes)
        return [Finding(source.key, "metadata", "; ".join(lost), seen, target)] if lost else []

    # --- second looks ---

    def _aged(self, looked: Iterable[Sequence[Finding]]) -> list[Finding]:
        """Give the findings that count; those that are too young are held."""
        old: list[Finding] = []
        for finding in (each for some in looked for each in some):
            due_s = self._due_s(finding)
            if due_s is None:
                old.append(finding)
            else:
                self._held.append(_Held(finding, due_s))
        self.tally.held = len(self._held)
        return old

    def _due_s(self, finding: Finding) -> float | None:
        """Say when a difference will be old enough; None if it is."""
        if finding.kind == "extra":
            return self._now_s() + self._care.tolerance_s
        if finding.kind in {"missing", "different", "unverifiable"} and finding.source is not None:
            due_s = finding.source.mtime_s + self._care.tolerance_s
            return due_s if due_s > self._now_s() else None
        return None

    async def _look_again(self) -> AsyncIterator[Finding]:
        """Wait until all that is held is old enough, look at each once more, and give what is still there."""
        for rounds_left in reversed(range(ROUNDS)):
            held, self._held = self._held, []
            if not held:
                return
            wait_s = max(each.due_s for each in held) - self._now_s()
            if wait_s > 0:
                self._on_wait(wait_s, len(held))
                await self._sleep(wait_s)
            looked = await self._all([self._fresh_look(each.finding) for each in held])
            for finding in (each for some in looked for each in some):
                due_s = None if rounds_left == 0 or finding.kind == "extra" else self._due_s(finding)
                if due_s is None:
                    yield finding
                else:
                    self._held.append(_Held(finding, due_s))
            self.tally.settled += sum(map(_is_settled, looked))
            self.tally.held = len(self._held)

    async def _fresh_look(self, finding: Finding) -> Sequence[Finding]:
        """Look at both sides of a key as they are now."""
        key, ref = finding.key, self._ref(finding.key)
        async with self._looks:
            try:
                info = await self._ask(lambda: self._s3.head(ref))
            except SourceForbidden as error:
                return [Finding(key, "unverifiable", error.message, target=finding.target)]
            entry = await self._ask(lambda: self._netstorage.stat(self._path(key)))
        if entry is not None and entry.type == "dir" and (info is None or key.endswith("/")):
            return []
        if entry is None:
            return [] if info is None else [self._missing(key, info)]
        if info is None:
            return [self._alone(key, "not in S3", _target_item(key, entry))]
        return await self._closer(finding.source or _source_item(key, info), _target_item(key, entry), info)

    def _alone(self, key: str, why: str, target: TargetItem) -> Finding:
        return only_on_netstorage(self._scope.route, key, why, target)

    def _path(self, key: str) -> str:
        route = self._scope.route
        return f"{target_directory(route)}/{key[len(route.strip_prefix) :]}"

    # --- bytes ---

    async def _by_bytes(self, source: SourceItem, target: TargetItem) -> Evidence | Finding:
        """Read the object, and the file too if NetStorage does not tell its md5, and compare their MD5s."""
        async with self._reads:
            try:
                ours = await self._ask(lambda: self._md5_of_object(source.key))
                theirs = target.md5 or await self._ask(lambda: self._md5_of_file(source.key))
            except (SourceArchived, SourceForbidden) as error:
                return Finding(source.key, "unverifiable", error.message, source, target)
        if ours is None:
            return self._alone(source.key, "not in S3 any more", target)
        if theirs is None:
            return Finding(source.key, "missing", "not on NetStorage any more", source)
        if ours == theirs:
            return "md5"
        return Finding(source.key, "different", "same size, other bytes (read and hashed)", source, target)

    async def _md5_of_object(self, key: str) -> str | None:
        opened = await self._s3.open(self._ref(key))
        if isinstance(opened, Gone):
            return None
        try:
            return await _md5(opened.chunks())
        finally:
            await opened.aclose()

    async def _md5_of_file(self, key: str) -> str | None:
        try:
            async with await self._netstorage.download(self._path(key)) as answer:
                return await _md5(answer.chunks())
        except TargetMissing:
            return None

    # --- asking ---

    def _ref(self, key: str) -> ObjectRef:
        return ObjectRef(self._scope.route.bucket, key)

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T:
        return await self._patience.ask(question)

    async def _all(self, looks: Sequence[Coroutine[None, None, T]]) -> list[T]:
        """Look at many keys side by side; the first failure ends the others."""
        tasks = [asyncio.ensure_future(each) for each in looks]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _is_settled(looked: Sequence[Finding]) -> bool:
    """Say whether a look has left nothing of a difference."""
    return all(each.kind == "metadata" for each in looked)


def _source_item(key: str, info: SourceInfo) -> SourceItem:
    return SourceItem(key, info.size_bytes, info.last_modified_s, info.etag)


def _target_item(key: str, entry: Entry) -> TargetItem:
    return TargetItem(key, entry.type, entry.size_bytes, entry.mtime_s, entry.md5)


async def _md5(chunks: AsyncIterator[bytes]) -> str:
    """Hash away from the event loop: large objects are what is read here."""
    digest = hashlib.md5(usedforsecurity=False)
    async for chunk in chunks:
        await asyncio.to_thread(digest.update, chunk)
    return digest.hexdigest()
