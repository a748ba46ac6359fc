"""`s3nsync status`: whether an object is replicated and, if not, why.

Both sides are asked about each key; of those that are not as they should be, S3 is asked once more whether they can be
read, and the queues for their dead letters. Nothing is written. `judge` gives the answer, as one pure function, in the
order of certainty: where the key belongs, whether both sides are equal, and only then what hinders it.

    the key                          S3           NetStorage           state
    -------------------------------  -----------  -------------------  -------------------------------------------
    no route takes it                -            -                    out_of_scope
    no path can hold it              -            -                    forbidden
    a folder marker, ignored         -            -                    out_of_scope
    any                              one cannot be seen, or the other  unknown
    deleted, or never there          no such key  nothing              gone
    deleted, and deletes are ignored no such key  a file               kept
    any                              here         equal, by evidence   replicated
    any other, in this order:        -            -                    buried: a dead letter younger than the object
                                                                       set_aside: archived, cannot be read yet
                                                                       settling: written too recently
                                                                       forbidden: the route rejects it
                                                                       unknown: no digest that both sides have
                                                                       behind: cause unknown; SQS cannot be asked
                                                                       about one key

A HEAD's 404 is a hint only, so absence is asked by a GET, as replication itself asks. The GET also tells why an object
that is not replicated cannot be read. NetStorage answers from replicas, which may be behind by some seconds.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from s3nsync.app import App
from s3nsync.compare import Evidence, Finding, SourceItem, TargetItem, look_closer
from s3nsync.decide import Reject, Wait, decide, lost_metadata
from s3nsync.errors import QueueError, S3nsyncError, SourceArchived
from s3nsync.figures import exact_bytes, human_time, utc
from s3nsync.mapping import FolderMarker, OutOfScope, Placed, Placement, Refused, place
from s3nsync.model import Gone, ObjectRef, Route, SourceInfo
from s3nsync.netstorage import Entry
from s3nsync.ops import failed
from s3nsync.reconcile.listing import Patience

T = TypeVar("T")

State = Literal[
    "replicated", "gone", "kept", "out_of_scope", "forbidden", "buried", "set_aside", "settling", "behind", "unknown"
]

IN_ORDER: frozenset[State] = frozenset({"replicated", "gone", "kept"})
"""NetStorage holds what the route wants it to hold."""

AT_ONCE = 16
"""Keys looked at side by side."""

TRIES = 3
"""How often a side is asked, where an answer may come yet: somebody waits."""

DEAD_LETTERS = 100_000
"""Dead letters looked through at most; SQS lets 120,000 be in flight."""

COULD_NOT_TELL = 5
"""The exit code, see `ui.EXIT_CODES`."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen of one key; an error stands for what could not be seen.

    `source` and `target` are None also where nobody was asked, because the key has no place on NetStorage.
    `unreadable` is why S3 does not let the object be read, where that was tried. `letters` are the key's dead letters,
    `waiting` counts what is in the other queues, of any key; None where it is not known.
    """

    ref: ObjectRef
    placement: Placement
    source: SourceInfo | Gone | S3nsyncError | None = None
    target: Entry | S3nsyncError | None = None
    unreadable: S3nsyncError | None = None
    letters: Sequence[failed.Entry] | S3nsyncError = ()
    waiting: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """The answer on one key: `reason` says why it is so, `hint` what to do if it should not be.

    `evidence` is what proved both sides equal. `since_s` (Unix seconds) is since when: the first attempt for what was
    buried, else when the object was written; None where nobody tells, as for deletes.
    """

    seen: Seen
    state: State
    reason: str
    hint: str = ""
    evidence: Evidence | None = None
    since_s: float | None = None

    @property
    def in_order(self) -> bool | None:
        """Say whether NetStorage holds what it should; None if it could not be told."""
        return None if self.state == "unknown" else self.state in IN_ORDER


def exit_code(found: Iterable[Status]) -> int:
    """Give 1 if any key is not in order, else COULD_NOT_TELL if any is unknown, else 0."""
    answers = {each.in_order for each in found}
    return 1 if False in answers else COULD_NOT_TELL if None in answers else 0


# --- judging ---------------------------------------------------------------------------------------------------


def judge(seen: Seen, *, metadata_mtime: bool, now_s: float) -> Status:
    """Answer by the table above; `metadata_mtime` as in `decide`, `now_s` is Unix time."""
    placement, source, target = seen.placement, seen.source, seen.target
    if isinstance(placement, OutOfScope):
        return Status(seen, "out_of_scope", placement.reason, "add a route for it, or mend its prefix and patterns")
    if isinstance(placement, Refused):
        return Status(seen, "forbidden", placement.reason, placement.hint)
    if isinstance(placement, FolderMarker) and placement.route.folder_markers == "ignore":
        reason = "a folder marker (the key ends in /), and the route makes no directories of them"
        return Status(seen, "out_of_scope", reason, "set folder_markers = 'mkdir' on the route if it should")
    for side in (source, target):
        if isinstance(side, S3nsyncError):
            return Status(seen, "unknown", "; ".join((side.message, *_said_by_letters(seen))), side.hint)
    assert not isinstance(target, S3nsyncError)
    assert isinstance(source, SourceInfo | Gone)
    if isinstance(source, Gone):
        return _judge_absence(seen, placement, source, target, now_s)
    verdict = _compared(seen.ref.key, placement, source, target, metadata_mtime=metadata_mtime)
    if not isinstance(verdict, Finding):
        reason = "; ".join((f"equal by {verdict}", *lost_metadata(source)))
        return Status(seen, "replicated", reason, evidence=verdict, since_s=source.last_modified_s)
    return _why_not(seen, placement.route, source, verdict, now_s)


def _judge_absence(
    seen: Seen, placement: Placed | FolderMarker, gone: Gone, target: Entry | None, now_s: float
) -> Status:
    if isinstance(placement, FolderMarker):
        return Status(seen, "gone", "not in S3; directories are left alone")
    if target is None or target.type == "dir":
        return Status(seen, "gone", f"on neither side (S3: {gone.reason})")
    if placement.route.deletes == "ignore":
        return Status(seen, "kept", "deleted in S3, and this route keeps what was copied")
    extra = Finding(seen.ref.key, "extra", "deleted in S3, still on NetStorage")
    return _why_not(seen, placement.route, gone, extra, now_s)


def _compared(
    key: str, placement: Placed | FolderMarker, source: SourceInfo, target: Entry | None, *, metadata_mtime: bool
) -> Evidence | Finding:
    if isinstance(placement, FolderMarker):
        if target is not None and target.type == "dir":
            return "directory"
        return Finding(key, "missing", "no such directory on NetStorage")
    if target is None:
        return Finding(key, "missing", "not on NetStorage")
    listed = SourceItem(key, source.size_bytes, source.last_modified_s, source.etag)
    found = TargetItem(key, target.type, target.size_bytes, target.mtime_s, target.md5)
    return look_closer(listed, found, source, metadata_mtime=metadata_mtime)[0]


def _why_not(seen: Seen, route: Route, source: SourceInfo | Gone, finding: Finding, now_s: float) -> Status:
    """Say what hinders a key that is not in order."""
    since_s = source.last_modified_s if isinstance(source, SourceInfo) else None
    letters = seen.letters if not isinstance(seen.letters, S3nsyncError) else ()
    for letter in reversed(letters):
        if _explains(letter, source):
            return _buried(seen, letter, finding)
    if isinstance(seen.unreadable, SourceArchived):
        return Status(seen, "set_aside", f"{finding.why}: it is archived", seen.unreadable.hint, since_s=since_s)
    action = decide(route, source, None, buffered=False, metadata_mtime=False, now_s=now_s)
    if isinstance(action, Wait):
        reason = f"{finding.why}: {action.reason}"
        return Status(seen, "settling", reason, f"look again in {human_time(action.after_s)}", since_s=since_s)
    if isinstance(action, Reject):
        return Status(seen, "forbidden", action.reason, action.hint, since_s=since_s)
    if finding.needs:
        hint = f"`s3nsync verify --deep --prefix {shlex.quote(seen.ref.key)}` reads both sides"
        return Status(seen, "unknown", finding.why, hint, since_s=since_s)
    return Status(seen, "behind", _reason_of(seen, finding), _hint_of(seen), since_s=since_s)


def _said_by_letters(seen: Seen) -> Iterator[str]:
    """Give what dead letters say of a key, without regard to their age."""
    if not isinstance(seen.letters, S3nsyncError):
        yield from (f"a dead letter says: {letter.reason}" for letter in seen.letters[-1:])


def _explains(letter: failed.Entry, source: SourceInfo | Gone) -> bool:
    """Say whether a dead letter speaks of the object as it is now, and not of an older version."""
    if letter.burial is None or isinstance(source, Gone):
        return True
    return letter.burial.last_attempt_s >= source.last_modified_s


def _buried(seen: Seen, letter: failed.Entry, finding: Finding) -> Status:
    hint = letter.burial.hint if letter.burial else "look at its body: `s3nsync failed list --json`"
    hint = f"{hint}; then `s3nsync failed retry {shlex.quote(str(seen.ref))}`"
    since_s = letter.burial.first_attempt_s if letter.burial else None
    return Status(seen, "buried", f"{finding.why}: {letter.reason}", hint, since_s=since_s)


def _reason_of(seen: Seen, finding: Finding) -> str:
    """Say in what it is behind; why is not known."""
    parts = [finding.why]
    if seen.unreadable is not None:
        parts.append(f"it cannot be read from here either: {seen.unreadable.message}")
    if isinstance(seen.letters, S3nsyncError):
        parts.append(f"whether it was buried could not be seen: {seen.letters.message}")
    elif seen.letters:
        parts.append(f"an older version of it was buried: {seen.letters[-1].reason}")
    else:
        parts.append("it was not buried, so a queue may have it still")
    return "; ".join(parts)


def _hint_of(seen: Seen) -> str:
    if seen.unreadable is not None:
        return seen.unreadable.hint
    look = (
        "`s3nsync doctor` checks queues, notifications and NetStorage; the worker's log says what fails; "
        f"`s3nsync verify --repair --prefix {shlex.quote(seen.ref.key)}` has it looked at again"
    )
    if seen.waiting:
        waits = "1 change waits or is" if seen.waiting == 1 else f"{seen.waiting:,} changes wait or are"
        return f"{waits} being worked on: look again soon; {look}"
    return f"no change waits: {look}" if seen.waiting == 0 else look


# --- looking ---------------------------------------------------------------------------------------------------


async def examine(refs: Sequence[ObjectRef], parts: App, now_s: Callable[[], float]) -> list[Status]:
    """Answer on each key, in the order given; what could not be seen is told in the answers."""
    places, patience = asyncio.Semaphore(AT_ONCE), Patience(TRIES)

    def judged(seen: Seen) -> Status:
        return judge(seen, metadata_mtime=parts.settings.worker.mtime_from_metadata, now_s=now_s())

    async def one(ref: ObjectRef) -> Status:
        async with places:
            found = judged(await _both_sides(ref, parts, patience))
            if found.in_order or not isinstance(found.seen.source, SourceInfo):
                return found
            return judged(replace(found.seen, unreadable=await _why_unreadable(ref, parts, patience)))

    found = await asyncio.gather(*(one(ref) for ref in refs))
    wanted = {each.seen.ref for each in found if not each.in_order and each.seen.source is not None}
    if not wanted:
        return found
    letters, waiting = await _dead_letters(parts, wanted), await _waiting(parts)
    return [judged(_with_letters(each.seen, letters, waiting)) if each.seen.ref in wanted else each for each in found]


async def _both_sides(ref: ObjectRef, parts: App, patience: Patience) -> Seen:
    placement = place(ref, parts.settings.routes)
    if isinstance(placement, OutOfScope | Refused):
        return Seen(ref, placement)
    if isinstance(placement, FolderMarker) and placement.route.folder_markers == "ignore":
        return Seen(ref, placement)
    target = parts.targets[placement.route.account]
    path = placement.path + "/" * isinstance(placement, FolderMarker)

    async def of_source() -> SourceInfo | Gone:
        info = await patience.ask(lambda: parts.s3.head(ref))
        if info is not None:
            return info
        opened = await patience.ask(lambda: parts.s3.open(ref))
        if isinstance(opened, Gone):
            return opened
        await opened.aclose()
        return opened.info

    source, entry = await asyncio.gather(
        _or_error(of_source), _or_error(lambda: patience.ask(lambda: target.stat(path, implicit=path.endswith("/"))))
    )
    return Seen(ref, placement, source, entry)


async def _or_error(ask: Callable[[], Awaitable[T]]) -> T | S3nsyncError:
    try:
        return await ask()
    except S3nsyncError as error:
        return error


async def _why_unreadable(ref: ObjectRef, parts: App, patience: Patience) -> S3nsyncError | None:
    """Ask S3 for the object, without reading it; None if it would give it, or has it no more."""
    opened = await _or_error(lambda: patience.ask(lambda: parts.s3.open(ref)))
    if isinstance(opened, S3nsyncError):
        return opened
    if not isinstance(opened, Gone):
        await opened.aclose()
    return None


async def _dead_letters(parts: App, wanted: Collection[ObjectRef]) -> Sequence[failed.Entry] | S3nsyncError:
    """Look through the dead-letter queue for these keys; everything is given back."""
    found: list[failed.Entry] = []

    async def visit(entry: failed.Entry) -> Literal["keep"]:
        if not _refs_of(entry).isdisjoint(wanted):
            found.append(entry)
        return "keep"

    try:
        await failed.sweep(parts.queues["dead"], visit, DEAD_LETTERS)
    except QueueError as error:
        return found or error
    return found


def _refs_of(entry: failed.Entry) -> set[ObjectRef]:
    refs = {change.ref for change in entry.changes}
    return refs | {entry.burial.ref} if entry.burial and entry.burial.ref else refs


async def _waiting(parts: App) -> int | None:
    """Count what the queues hold; None if one of them cannot be asked."""
    try:
        depths = [await queue.depth() for name, queue in parts.queues.items() if name != "dead"]
    except QueueError:
        return None
    return sum(each.visible + each.in_flight + each.delayed for each in depths)


def _with_letters(seen: Seen, letters: Sequence[failed.Entry] | S3nsyncError, waiting: int | None) -> Seen:
    if not isinstance(letters, S3nsyncError):
        letters = [each for each in letters if seen.ref in _refs_of(each)]
    return replace(seen, letters=letters, waiting=waiting)


# --- telling ---------------------------------------------------------------------------------------------------


def facts(found: Status) -> dict[str, object]:
    """Give the answer as plain data: times in Unix seconds, sizes in bytes, None for what is not known."""
    placement = found.seen.placement
    return {
        "ref": str(found.seen.ref),
        "in_order": found.in_order,
        "state": found.state,
        "reason": found.reason,
        "hint": found.hint,
        "evidence": found.evidence,
        "since_s": found.since_s,
        "route": None if isinstance(placement, OutOfScope) else str(placement.route),
        "path": placement.path if isinstance(placement, Placed | FolderMarker) else None,
        "source": _source_facts(found.seen.source),
        "target": _target_facts(found.seen.target),
    }


def _source_facts(source: SourceInfo | Gone | S3nsyncError | None) -> dict[str, object] | None:
    match source:
        case None:
            return None
        case Gone(reason=reason):
            return {"gone": reason}
        case S3nsyncError(message=message):
            return {"error": message}
    return {
        "size_bytes": source.size_bytes,
        "etag": source.etag,
        "checksums": dict(source.checksums),
        "last_modified_s": source.last_modified_s,
        "version_id": source.version_id,
        "encryption": "SSE-C" if source.customer_key else source.encryption,
        "storage_class": source.storage_class or "STANDARD",
        "content_encoding": source.content_encoding,
    }


def _target_facts(target: Entry | S3nsyncError | None) -> dict[str, object] | None:
    if isinstance(target, S3nsyncError):
        return {"error": target.message}
    if target is None:
        return None
    return {"type": target.type, "size_bytes": target.size_bytes, "md5": target.md5, "mtime_s": target.mtime_s}


def words(found: Status) -> str:
    """Give the answer for people, in a few lines."""
    seen = found.seen
    lines = [f"{seen.ref}: {found.state.replace('_', ' ')}", f"  {found.reason}"]
    if found.hint:
        lines.append(f"  to do       {found.hint}")
    if found.since_s is not None:
        lines.append(f"  since       {utc(found.since_s)}")
    if seen.source is not None:
        lines.append(f"  S3          {', '.join(_told(_source_facts(seen.source)))}")
    if isinstance(seen.placement, Placed | FolderMarker):
        told = ", ".join(_told(_target_facts(seen.target))) if seen.source is not None else "not asked"
        lines += [f"  NetStorage  {seen.placement.path}: {told}", f"  route       {seen.placement.route}"]
    return "\n".join(lines)


def _told(side: dict[str, object] | None) -> Iterator[str]:
    """Name what is known of a side."""
    if side is None:
        yield "nothing there"
    for name, value in (side or {}).items():
        if name == "checksums" and isinstance(value, dict):
            yield from (f"{algorithm} {digest}" for algorithm, digest in value.items())
        elif name == "size_bytes" and isinstance(value, int):
            yield exact_bytes(value)
        elif name == "gone":
            yield f"gone ({value})"
        elif name.endswith("_s") and isinstance(value, int):
            yield f"{'written' if name.startswith('last') else 'time'} {utc(value)}"
        elif value is not None:
            yield str(value) if name in {"error", "type"} else f"{name.replace('_', ' ')} {value}"
