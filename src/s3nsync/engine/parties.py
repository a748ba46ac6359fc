"""Whom the engine deals with, as the protocols it sees of them.

    Source, Opened    S3
    Target            NetStorage, as one upload account
    Lane, Gate        how much may be asked of an account, and whether its route may be worked on at all
    Budget            the bytes that may be held
    Hand              the messages that the work is for

Who plays them is the business of `app`, and of the tests; no adapter is imported here.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Protocol

from s3nsync.engine.debt import Debt
from s3nsync.errors import S3nsyncError
from s3nsync.model import Gone, ObjectRef, Route, SourceInfo
from s3nsync.netstorage.wire import Applied, AtEnd, Entry, Removed, Uploaded


class Opened(Protocol):
    """An object of S3 whose GET was answered: its facts, and its bytes once."""

    @property
    def info(self) -> SourceInfo:
        """What the answer's headers said."""

    def chunks(self) -> AsyncIterator[bytes]:
        """Give the bytes in order; ends only after all of them, checked."""

    async def read_all(self) -> bytes:
        """Give all bytes at once, checked."""

    async def aclose(self) -> None:
        """Let go of the connection; harmless after the end."""


class Source(Protocol):
    """S3, as far as the engine sees it."""

    async def open(self, ref: ObjectRef) -> Opened | Gone:
        """GET the object; Gone only when S3 itself says that there is no such key."""

    async def head(self, ref: ObjectRef, saw: SourceInfo | None = None, /) -> SourceInfo | None:
        """Look at the object without its bytes; None when the answer is 404.

        `saw` is what it was when it was opened: whoever can confirm that in a cheaper way may answer with it.
        """


class Target(Protocol):
    """NetStorage, as far as the engine sees it; `guard` is called just before each try is signed."""

    async def upload(
        self,
        path: str,
        body: bytes | AsyncIterable[bytes],
        *,
        size: int | None = None,
        mtime_s: int | None = None,
        md5: str | None = None,
        sha1: str | None = None,
        sha256: str | None = None,
        at_end: Callable[[], AtEnd] | None = None,
        guard: Callable[[], None],
    ) -> Uploaded:
        """Write the object; returns once NetStorage has confirmed size and digest."""

    async def delete(self, path: str, *, guard: Callable[[], None]) -> Removed:
        """Remove the file; fine if there is none."""

    async def rename(self, source: str, destination: str, *, guard: Callable[[], None]) -> Applied:
        """Move the file; TargetMissing if there is none, or no directory for it."""

    async def make_parents(self, path: str, *, guard: Callable[[], None]) -> bool:
        """Make the directories above the path; False if they were all there."""

    async def stat(self, path: str) -> Entry | None:
        """Look at the path; None when there is nothing."""

    async def mkdir(self, path: str, *, guard: Callable[[], None]) -> None:
        """Make the directory; fine if it exists."""


class Gate(Protocol):
    """Which routes may be worked on: see `pacing.Breaker`."""

    def wait_s(self, route: Route) -> float:
        """Give 0 if a key of the route may go now, else the seconds to wait."""

    def answered(self, route: Route) -> None:
        """Note that the other side did its work."""

    def alive(self, route: Route) -> None:
        """Note that the other side, or one half of it, answers, though it did not do its work."""

    def failed(self, route: Route, reason: str, *, at_once: bool = False) -> None:
        """Note that the other side is in trouble."""

    def hold(self, route: Route, for_s: float, reason: str) -> None:
        """Rest the route for a while."""

    def is_healthy(self, route: Route) -> bool:
        """Say whether the other side did its work lately."""


class Lane(Protocol):
    """How much may be asked of one upload account: see `lanes.Lane`."""

    def enter_at_once(self, *, urgent: bool) -> bool:
        """Take a place if there is one for whoever comes now; `urgent`: every slot is open to its message."""

    async def enter(self, *, urgent: bool) -> bool:
        """Take a place, waiting in line for it; False if its slot is rather to be another account's."""

    def leave(self, *, urgent: bool) -> None:
        """Give the place back."""

    def toll_s(self, *, requests: int = 0, size_bytes: int = 0) -> float:
        """Count what is about to be sent, and give the seconds to wait before sending it."""

    def now_s(self) -> float:
        """Give the lane's time."""

    def answered(self, action: str, began_s: float, *, size_bytes: int = 0) -> None:
        """Note that a request with so long a body went well."""

    def failed(self, error: S3nsyncError, began_s: float) -> None:
        """Note that a request failed."""


class Budget(Protocol):
    """The process-wide budget of bytes held in memory."""

    def take_at_once(self, size_bytes: int, owner: str) -> int | None:
        """Hold the bytes as `take` does, if that needs no waiting; None if it does."""

    async def take(self, size_bytes: int, owner: str) -> int:
        """Wait for the bytes and hold them on the account's behalf; gives what to give back."""

    def give_back(self, taken: int, owner: str) -> None:
        """Let others have them."""


class Hand(Protocol):
    """The messages of one key that the worker holds, as far as the engine sees them.

    `exclusive`: nobody else is given this key while every lease lives (the live queue). `urgent`: it may have a slot
    that is kept for live events. `attempt` is the highest of its messages.
    """

    @property
    def urgent(self) -> bool:
        """Whether every slot is open to it."""

    @property
    def exclusive(self) -> bool:
        """Whether the queue keeps everybody else away from this key."""

    @property
    def attempt(self) -> int:
        """How often the most-tried message was received."""

    @property
    def debt(self) -> Debt:
        """What this hand may owe."""

    def check(self) -> None:
        """Raise LeaseLost unless every lease of the hand is alive."""

    def progress(self) -> None:
        """Note that the work moves: leases are extended only while it does."""

    def patience(self) -> AbstractContextManager[None]:
        """Count the block as moving, however long it takes: it waits for something of our own."""


Offload = Callable[[Callable[[bytes], None], bytes], Awaitable[None]]
"""Runs a hash update with its bytes away from the event loop."""
