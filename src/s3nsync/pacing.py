"""Pacing: how long to wait before trying again, and how many bytes the process may hold at once.

`Backoff` is a value: the wait depends on the number of failures and one random number, so whoever retries keeps the
count. `ByteBudget` is the one limit on buffered bytes. Requests are served strictly in the order they came, so a large
one is not starved by small ones; a request for more than the whole budget waits until all of it is free, and then
stands for all of it. Whoever reserves does so once, for everything needed: nobody holds bytes while waiting for more.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from s3nsync.model import Route


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with jitter, in seconds; `uniform` draws from [0, 1)."""

    base_s: float = 0.1
    cap_s: float = 5.0
    uniform: Callable[[], float] = random.random

    def delay_s(self, failures: int, at_least_s: float | None = None) -> float:
        """Give the wait after the `failures`-th failure in a row (from 1), never under the peer's wish `at_least_s`.

        It lies between half and all of base * 2^(failures-1), at most `cap_s`: the half keeps a struggling peer from
        being asked again at once, the rest keeps many askers from coming back together.
        """
        full = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60))
        return max(at_least_s or 0.0, full * (0.5 + 0.5 * self.uniform()))


class ByteBudget:
    """A limit on bytes held at once by everybody together."""

    def __init__(self, total_bytes: int) -> None:
        """Start with all of `total_bytes` (at least 1) free."""
        if total_bytes < 1:
            raise ValueError("a budget needs at least one byte")
        self.total_bytes = total_bytes
        self.in_use_bytes = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    def __repr__(self) -> str:
        """Show how much is in use and how many wait."""
        return f"ByteBudget({self.in_use_bytes} of {self.total_bytes} in use, {len(self._waiting)} waiting)"

    @asynccontextmanager
    async def reserve(self, size_bytes: int) -> AsyncIterator[None]:
        """Hold `size_bytes` for the length of a `with` block, waiting in line for them first."""
        wanted = min(size_bytes, self.total_bytes)
        await self._take(wanted)
        try:
            yield
        finally:
            self._give_back(wanted)

    async def _take(self, wanted: int) -> None:
        if not self._waiting and self._fits(wanted):
            self.in_use_bytes += wanted
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (wanted, turn)
        self._waiting.append(entry)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove(entry)
                self._serve()  # the one behind may fit now
            else:  # the turn came in the same moment
                self._give_back(wanted)
            raise

    def _give_back(self, taken: int) -> None:
        self.in_use_bytes -= taken
        self._serve()

    def _fits(self, wanted: int) -> bool:
        return self.in_use_bytes + wanted <= self.total_bytes

    def _serve(self) -> None:
        while self._waiting:
            wanted, turn = self._waiting[0]
            if turn.done() or not self._fits(
                wanted
            ):  # done here means cancelled: its task leaves the line, then serves
                return
            self._waiting.popleft()
            self.in_use_bytes += wanted
            turn.set_result(None)


class DeleteBrake:
    """Lets at most `per_minute` deletes through in any minute, for each route by itself.

    An emptied bucket is more often an accident than a wish; the brake buys the time to notice.
    """

    def __init__(self, per_minute: int, clock_s: Callable[[], float]) -> None:
        """Start with nothing counted; `clock_s` is monotonic."""
        self._per_minute = per_minute
        self._clock_s = clock_s
        self._passed: dict[Route, deque[float]] = {}

    def wait_s(self, route: Route) -> float:
        """Count one more delete and give 0, or give the seconds until another may pass."""
        now_s = self._clock_s()
        passed = self._passed.setdefault(route, deque())
        while passed and passed[0] <= now_s - 60.0:
            passed.popleft()
        if len(passed) >= self._per_minute:
            return min(60.0, passed[0] + 60.0 - now_s)
        passed.append(now_s)
        return 0.0
