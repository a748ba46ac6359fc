"""Turn what two listings show into Changes for the worker.

Nothing is copied or deleted here, and nothing is decided for good: a Change only says where to look, and the engine
asks S3 itself before it acts. So an old listing, or one that changed while it was read, costs requests and no data.

A pair that a listing leaves open counts as the same if size and time agree, as they do after every copy: what has the
same time and other bytes is for `verify` to find. Everything else that is not the same gets a Change.

`Cursor` remembers how far a run has come whose Changes went to a queue, so that a killed one goes on where it was. A
run that copies by itself needs none: what it has copied compares as the same.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from s3nsync.compare import Finding, Kind, Scope, Section, compare
from s3nsync.errors import ConfigError
from s3nsync.model import Change, ObjectRef, Route

T = TypeVar("T")

LOT = 100
"""Changes sent before the cursor moves: what a killed run may send twice."""

MESSAGES = 10
"""Changes in one call of SQS."""


@dataclass(slots=True)
class Sent:
    """How far a backfill has come: what S3 lists, what is the same, and what was sent, by why."""

    objects: int = 0
    size_bytes: int = 0
    same: int = 0
    ignored: int = 0
    sent: Counter[Kind] = field(default_factory=Counter)
    sent_bytes: int = 0
    skipped: Counter[Kind] = field(default_factory=Counter)


def change_for(finding: Finding, bucket: str, *, run: str, event_name: str) -> Change | None:
    """Give the Change that has a finding looked at; None where nothing could be done about it."""
    ref = ObjectRef(bucket, finding.key)
    match finding.kind:
        case "missing" | "different" | "unverifiable":
            source = finding.source
            return Change(
                ref,
                "put",
                event_name=event_name,
                etag=source.etag if source else None,
                size=source.size_bytes if source else None,
                run=run,
            )
        case "extra":
            return Change(ref, "delete", event_name=event_name, run=run)
        case _:
            return None


async def backfill(
    sections: AsyncGenerator[Section, None],
    scope: Scope,
    send: Callable[[Sequence[Change]], Awaitable[None]],
    sent: Sent,
    *,
    run: str,
    newer_than_s: float | None = None,
    reached: Callable[[str], None] = lambda _key: None,
    together: int = MESSAGES,
) -> None:
    """Send a Change for each object that NetStorage lacks or has otherwise; closes `sections`.

    `sent` grows meanwhile; `newer_than_s` (Unix time) leaves out what was written before; `reached` hears of each key
    up to which everything was sent. So many Changes go `together` by one call of `send`, a lot's calls side by side.
    Raises what the listings and `send` raise.
    """
    async with aclosing(sections):
        async for section in sections:
            compared = compare(section, scope)
            sent.objects += len(section.pairs) + len(section.source_only)
            sent.size_bytes += sum([source.size_bytes for source, _ in section.pairs])
            sent.size_bytes += sum([source.size_bytes for source in section.source_only])
            sent.same += sum(compared.same.values())
            sent.ignored += compared.ignored
            wanted = list(_wanted(compared.findings, sent, newer_than_s))
            for lot in _lots(wanted, LOT):
                found = [change_for(each, scope.route.bucket, run=run, event_name="Sync") for each in lot]
                await _send([each for each in found if each is not None], send, together)
                for each in lot:
                    sent.sent[each.kind] += 1
                    sent.sent_bytes += each.source.size_bytes if each.source else 0
                reached(lot[-1].key)
            reached(section.upto)


def _wanted(findings: Sequence[Finding], sent: Sent, newer_than_s: float | None) -> Iterator[Finding]:
    for each in findings:
        source, target = each.source, each.target
        if source is None or each.kind not in {"missing", "different", "unverifiable"}:
            sent.skipped[each.kind] += 1
        elif newer_than_s is not None and source.mtime_s < newer_than_s:
            sent.ignored += 1
        elif each.kind == "unverifiable" and target is not None and target.mtime_s == source.mtime_s:
            sent.same += 1
        else:
            yield each


async def _send(changes: Sequence[Change], send: Callable[[Sequence[Change]], Awaitable[None]], together: int) -> None:
    """Send them, in parts side by side where they are more than go together."""
    if len(changes) <= together:
        await send(changes)
    else:
        await asyncio.gather(*(send(part) for part in _lots(changes, together)))


def _lots(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


# --- going on after a kill -------------------------------------------------------------------------------------


class Cursor:
    """Where a run has come to on each route, in a small file; gone when the run is done."""

    def __init__(self, path: Path, *, run: str, asked: str, since_s: float | None = None) -> None:
        """Read the file if there is one, and take up its run; else begin one by this id.

        `asked` words what the run is of: going on with another selection would pass keys over. So would a moment that
        is so long ago each time anew: `since_s` (Unix seconds) is the first one's. ConfigError if the file is damaged,
        or another run's, or cannot be written.
        """
        self._path = path
        self._asked = asked
        self.run = run
        self.since_s = since_s
        self._after: dict[str, str] = {}
        if path.exists():
            self._read()
        try:
            self._write()
        except OSError as error:
            problem = f"{path}: cannot be written: {error.strerror}"
            raise ConfigError(problem, hint="name a file that may be written and replaced") from None

    def _read(self) -> None:
        hint = "name another file, or remove this one: the run then begins at the beginning"
        try:
            data = json.loads(self._path.read_bytes())
            self.run, asked, after = str(data["run"]), str(data["asked"]), data["after"]
            self.since_s = None if data["since_s"] is None else float(data["since_s"])
            self._after = {str(route): str(key) for route, key in after.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{self._path}: is no state of a sync: {error!r}", hint=hint) from None
        if asked != self._asked:
            problem = f"{self._path}: is the state of another sync, with {asked or 'no choice of keys'}"
            raise ConfigError(problem, hint=hint)

    def after(self, route: Route) -> str:
        """Give the key after which the route's run goes on; empty for the beginning."""
        return self._after.get(str(route), "")

    def reached(self, route: Route, key: str) -> None:
        """Write down that everything up to a key was sent; whole, or as it was before."""
        self._after[str(route)] = key
        self._write()

    def _write(self) -> None:
        draft = self._path.with_name(self._path.name + ".new")
        state = {"run": self.run, "asked": self._asked, "since_s": self.since_s, "after": self._after}
        draft.write_text(json.dumps(state))
        draft.replace(self._path)

    def done(self) -> None:
        """Forget the run."""
        self._path.unlink(missing_ok=True)
