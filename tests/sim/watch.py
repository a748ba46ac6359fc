"""What is noted of a run: the story, the promises that were broken, the counts; and what each hand has seen.

A `Look` belongs to one hand of one worker, from its first GET until its messages are settled. It travels in a context
variable: whatever the hand's task does, sending and acking, is held against what the hand saw.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass

from s3nsync.model import ObjectRef, Report
from sim.loop import HOST, Host


@dataclass(eq=False)
class Look:
    """What one hand has seen and done: S3's `data` at `at_s`, when NetStorage confirmed it, messages `removed`."""

    host: Host
    ref: ObjectRef
    task: asyncio.Task[object] | None
    data: bytes | None = None
    at_s: float = -1.0
    confirmed_at_s: float = -2.0
    archived: bool = False
    removed: int = 0
    reported: Report | None = None

    @property
    def is_at_work(self) -> bool:
        """Say whether the hand will still settle: its task goes on, and its host lives."""
        return not self.host.dead and self.task is not None and not self.task.done()


LOOK: ContextVar[Look | None] = ContextVar("look", default=None)


class Watch:
    """Notes what happens and what must not: the story, the violations, the counts."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self.story: list[str] = []
        self.violations: list[str] = []
        self.counts: Counter[str] = Counter()

    def tell(self, what: str) -> None:
        """Add a line to the story."""
        host = HOST.get()
        self.story.append(f"{self._clock_s() - 1000.0:9.3f}  {host.name if host else '-':<4} {what}")

    def violate(self, rule: str, what: str) -> None:
        """Note that a promise was broken."""
        self.violations.append(f"{rule}: {what}")
        self.tell(f"VIOLATION {rule}: {what}")
