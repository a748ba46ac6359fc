"""What `verify --repair` does about findings: which it sends to be looked at again, and which it may delete.

What NetStorage lacks or has otherwise is sent as it is found. Files that are extra are gathered, listed and capped
first, for a mistake on S3's side looks just like them; and they are deleted by the engine alone, after S3 itself has
said that there is no such object.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from s3nsync.compare import Finding, Kind
from s3nsync.figures import counted
from s3nsync.model import Change, Route
from s3nsync.reconcile.backfill import MESSAGES, change_for

MENDABLE: frozenset[Kind] = frozenset({"missing", "different"})


@dataclass(frozen=True, slots=True)
class DeleteCap:
    """The most files that a repair may delete at once: so many, and so many in a hundred of those there are."""

    most: int
    percent: float

    def refusal(self, extras: int, files: int) -> str | None:
        """Say why so many of so many files are not deleted; None if they may be."""
        if extras > self.most:
            return f"{counted(extras, 'file')} would be deleted, {self.most:,} at most may be (--max-delete)"
        if extras * 100 > self.percent * files:
            share = f"{extras:,} of {counted(files, 'file')} would be deleted"
            return f"{share}, {self.percent:g} % at most may be (--max-delete-percent)"
        return None


class Mender:
    """Takes the findings of one route; `sent` counts what went out, by why, and `left` what did not."""

    def __init__(
        self,
        route: Route,
        send: Callable[[Sequence[Change]], Awaitable[None]],
        *,
        run: str,
        cap: DeleteCap | None,
    ) -> None:
        """Wire it; without `cap` nothing is deleted, nor is it where the route does not delete."""
        self.sent: Counter[Kind] = Counter()
        self.left: Counter[Kind] = Counter()
        self.extras: list[Finding] = []
        self._route = route
        self._send = send
        self._run = run
        self._cap = None if route.deletes == "ignore" else cap
        self._waiting: list[Change] = []

    async def take(self, finding: Finding) -> None:
        """Send what can be mended, keep what may be deleted, count what is left."""
        if finding.kind in MENDABLE:
            await self._enqueue(finding)
        elif finding.kind == "extra" and self._cap is not None:
            self.left["extra"] += 1
            if len(self.extras) <= self._cap.most:  # one more than may be: enough to refuse
                self.extras.append(finding)
        else:
            self.left[finding.kind] += 1

    def refusal(self, files: int) -> str | None:
        """Say why the extras are not to be deleted; None if they may be. `files` is how many NetStorage holds."""
        return None if self._cap is None else self._cap.refusal(self.left["extra"], files)

    async def delete(self) -> None:
        """Have the extras looked at, and deleted if S3 has no such objects."""
        for finding in self.extras:
            await self._enqueue(finding)
        self.left["extra"] -= len(self.extras)
        self.extras = []

    async def flush(self) -> None:
        """Send what waits for company."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            await self._send(waiting)

    async def _enqueue(self, finding: Finding) -> None:
        change = change_for(finding, self._route.bucket, run=self._run, event_name="Repair")
        assert change is not None
        self.sent[finding.kind] += 1
        self._waiting.append(change)
        if len(self._waiting) >= MESSAGES:
            await self.flush()
