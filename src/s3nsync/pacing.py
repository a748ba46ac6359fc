"""Pacing: how long to wait before trying again, how many bytes to hold at once, and when a route must rest.

`Backoff` is a value: the wait depends on the number of failures and one random number, so whoever retries keeps the
count. `ByteBudget` is the one limit on buffered bytes. Requests are served strictly in the order they came, so a large
one is not starved by small ones; a request for more than the whole budget waits until all of it is free, and then
stands for all of it. Where several upload accounts share the budget, streams to a slow one hold three quarters of it at
most, and two slow ones not all of it either: each account has a floor that the others leave alone, however much they
want. So two are passed by in line, who waits for its own owner's bytes, and who waits for what is no part of a floor by
one who waits for its floor. Whoever reserves does so once, for everything needed: nobody holds bytes while waiting for
more.
`DeleteBrake` counts deletes, `Breaker` stops a route whose other side is in trouble: a backlog is kept, not burnt.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from s3nsync.model import Route

WISH_MAX_S = 30.0
"""The longest Retry-After that is waited for in place: the loop that renews the leases may be the one that waits."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential back-off with jitter, in seconds; `uniform` draws from [0, 1)."""

    base_s: float = 0.1
    cap_s: float = 5.0
    uniform: Callable[[], float] = random.random

    def delay_s(self, failures: int, at_least_s: float | None = None) -> float:
        """Give the wait after the `failures`-th failure in a row (from 1), never under the peer's wish `at_least_s`.

        It lies between half and all of base * 2^(failures-1), at most `cap_s`: the half keeps a struggling peer from
        being asked again at once, the rest keeps many askers from coming back together. Of the wish WISH_MAX_S count.
        """
        full = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60))
        return max(min(at_least_s or 0.0, WISH_MAX_S), full * (0.5 + 0.5 * self.uniform()))


class ByteBudget:
    """A limit on bytes held at once by everybody together."""

    def __init__(
        self, total_bytes: int, each_bytes: int | None = None, *, floors: Mapping[str, int] | None = None
    ) -> None:
        """Start with all of `total_bytes` (at least 1) free; no owner holds more than `each_bytes` in several parts.

        An owner in `floors` may always hold so many bytes: together they must be less than all.
        """
        if total_bytes < 1:
            raise ValueError("a budget needs at least one byte")
        self.total_bytes = total_bytes
        self.in_use_bytes = 0
        self._each_bytes = total_bytes if each_bytes is None else each_bytes
        self._floors = floors or {}
        self._held: Counter[str] = Counter()
        self._waiting: deque[_Turn] = deque()

    def __repr__(self) -> str:
        """Show how much is in use and how many wait."""
        return f"ByteBudget({self.in_use_bytes} of {self.total_bytes} in use, {len(self._waiting)} waiting)"

    async def take(self, size_bytes: int, owner: str) -> int:
        """Wait in line for `size_bytes` and hold them; gives what to `give_back`, which is less if all is less."""
        taken = self.take_at_once(size_bytes, owner)
        if taken is None:
            taken = min(size_bytes, self._most_bytes(owner))
            await self._wait_for(taken, owner)
        return taken

    def take_at_once(self, size_bytes: int, owner: str) -> int | None:
        """Hold the bytes as `take` does, if that needs no waiting; None if it does."""
        wanted = min(size_bytes, self._most_bytes(owner) if self._floors else self.total_bytes)
        if self._waiting or not self._fits(wanted, owner) or not self._is_due(wanted, owner):
            return None
        self._hold(wanted, owner)
        return wanted

    def take_spare(self, size_bytes: int, owner: str) -> bool:
        """Hold `size_bytes` if nobody waits and they are free at once; such bytes are never more than half of all."""
        spare = not self._waiting and self._fits(size_bytes, owner)
        if spare := spare and (self._held[owner] + size_bytes) * 2 <= self.total_bytes:
            self._hold(size_bytes, owner)
        return spare

    async def _wait_for(self, wanted: int, owner: str) -> None:
        turn = _Turn(wanted, owner, asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        self._serve()  # the others may all wait for bytes of their own owners
        try:
            await turn.comes
        except asyncio.CancelledError:
            if turn.comes.cancelled():
                self._waiting.remove(turn)
                self._serve()  # the one behind may fit now
            else:  # the turn came in the same moment
                self.give_back(wanted, owner)
            raise

    def give_back(self, taken: int, owner: str) -> None:
        """Let others have what `take` gave."""
        self._hold(-taken, owner)
        if self._waiting:
            self._serve()

    def _hold(self, size_bytes: int, owner: str) -> None:
        self.in_use_bytes += size_bytes
        self._held[owner] += size_bytes

    def _most_bytes(self, owner: str) -> int:
        """Give what stands for all of the budget to this owner: everything but the others' floors."""
        return self.total_bytes - sum(floor for name, floor in self._floors.items() if name != owner)

    def _fits(self, wanted: int, owner: str) -> bool:
        """Say whether the bytes are free, and not what others lack of their floors."""
        free_bytes = self.total_bytes - self.in_use_bytes
        if self._floors:
            free_bytes -= sum(max(0, floor - self._held[name]) for name, floor in self._floors.items() if name != owner)
        return wanted <= free_bytes

    def _is_due(self, wanted: int, owner: str) -> bool:
        held = self._held[owner]
        return not held or held + wanted <= self._each_bytes

    def _is_own(self, wanted: int, owner: str) -> bool:
        """Say whether the owner holds no more than its floor with these."""
        return self._held[owner] + wanted <= self._floors.get(owner, 0)

    def _serve(self) -> None:
        full: set[str] = set()
        blocked = False
        for turn in tuple(self._waiting):
            size_bytes, owner = turn.size_bytes, turn.owner
            if turn.comes.done():
                return  # cancelled: its task leaves the line, then serves
            if owner in full:
                continue
            if not self._is_due(size_bytes, owner):
                full.add(owner)  # nor may a smaller one of the same owner pass
            elif not self._is_own(size_bytes, owner) and (blocked or not self._fits(size_bytes, owner)):
                if not self._floors:
                    return
                blocked = True
                full.add(owner)
            else:
                self._waiting.remove(turn)
                self._hold(size_bytes, owner)
                turn.comes.set_result(None)


@dataclass(frozen=True, slots=True, eq=False)
class _Turn:
    """Somebody in line."""

    size_bytes: int
    owner: str
    comes: asyncio.Future[None]


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


TRIP_AFTER = 10
"""Failures in a row, with no answer in between, that stop a route: one busy moment is no outage."""

REST_FIRST_S, REST_MAX_S = 5.0, 300.0
"""How long a stopped route rests before one key may try again; doubles with each try that fails."""

PROBE_S = 15.0
"""How long the others wait for the one that tries before another may."""

HEALTHY_S = 600.0
"""A route that was answered within this time is healthy: what fails on it then is the key's own fault."""

ALL = 10
"""As many messages as one receive can bring."""


@dataclass(slots=True)
class _Pulse:
    """What is known of one route's other side."""

    failures: int = 0
    rest_s: float = REST_FIRST_S
    tripped: bool = False
    probing: bool = False
    closed_until_s: float = 0.0
    answered_s: float | None = None


@dataclass(slots=True)
class Breaker:
    """Stops a route whose other side is in trouble, and lets one key through now and then to see.

    ============  =======================================================================================
    going         everything goes; TRIP_AFTER failures in a row stop it, refused credentials at once
    resting       nothing goes, for a time that doubles with each failed try
    trying        one key goes: an answer sets the route going, a failure rests it, silence lets another one try
    ============  =======================================================================================

    `on_stop` (route, seconds, reason) and `on_go` (route) are called when a route stops and goes again. Routes rest
    each by itself; messages of a resting one are given back, and none are taken once all rest.
    """

    routes: Sequence[Route]
    clock_s: Callable[[], float]
    on_stop: Callable[[Route, float, str], None]
    on_go: Callable[[Route], None]
    _pulses: dict[Route, _Pulse] = field(default_factory=dict)

    def wait_s(self, route: Route) -> float:
        """Give 0 if a key of the route may go now, else the seconds until it makes sense to ask again."""
        pulse, now_s = self._pulse(route), self.clock_s()
        if now_s < pulse.closed_until_s:
            return pulse.closed_until_s - now_s
        if pulse.tripped:
            pulse.probing = True
            pulse.closed_until_s = now_s + PROBE_S
        return 0.0

    def answered(self, route: Route) -> None:
        """Note that the other side did its work, whatever it said of the key."""
        pulse = self._pulse(route)
        pulse.failures, pulse.answered_s = 0, self.clock_s()
        if pulse.tripped:
            self._pulses[route] = _Pulse(answered_s=pulse.answered_s)
            self.on_go(route)

    def alive(self, route: Route) -> None:
        """Note that the other side answers, though it did not do its work: it asks for less, or only S3 was asked."""
        pulse = self._pulse(route)
        if pulse.tripped:
            self._pulses[route] = _Pulse(answered_s=pulse.answered_s)
            self.on_go(route)
        else:
            pulse.failures = 0

    def failed(self, route: Route, reason: str, *, at_once: bool = False) -> None:
        """Note that the other side is in trouble; `at_once` stops the route without waiting for more of it."""
        pulse = self._pulse(route)
        pulse.failures += 1
        if pulse.tripped and not pulse.probing:
            return  # went before the route was stopped
        if pulse.tripped or at_once or pulse.failures >= TRIP_AFTER:
            pulse.tripped, pulse.probing = True, False
            self.hold(route, pulse.rest_s, reason)
            pulse.rest_s = min(REST_MAX_S, pulse.rest_s * 2)

    def hold(self, route: Route, for_s: float, reason: str) -> None:
        """Rest the route for a while, whatever its other side's state."""
        pulse, now_s = self._pulse(route), self.clock_s()
        if now_s >= pulse.closed_until_s or pulse.tripped:
            self.on_stop(route, for_s, reason)
        pulse.closed_until_s = now_s + for_s

    def is_healthy(self, route: Route) -> bool:
        """Say whether the other side did its work lately."""
        answered_s = self._pulse(route).answered_s
        return answered_s is not None and self.clock_s() - answered_s < HEALTHY_S

    def appetite(self) -> int:
        """Give how many messages are worth taking at once: 0 while every route rests, 1 to try one that has rested."""
        now_s = self.clock_s()
        pulses = [self._pulse(route) for route in self.routes]
        if any(not pulse.tripped and now_s >= pulse.closed_until_s for pulse in pulses):
            return ALL
        return 1 if any(now_s >= pulse.closed_until_s for pulse in pulses) else 0

    def _pulse(self, route: Route) -> _Pulse:
        pulse = self._pulses.get(route)
        if pulse is None:
            pulse = self._pulses[route] = _Pulse()
        return pulse
