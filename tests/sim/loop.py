"""An event loop on virtual time, for simulations of several processes in one.

Nothing sleeps: when no callback is ready, the clock jumps to the next timer. Nothing is random but by the seed: all
callbacks that are ready together run in an order drawn from it (asyncio promises none between tasks). When nothing is
ready and nothing is scheduled, no one can ever go on: that is a Deadlock, raised to whoever runs the loop.

A `Host` stands for one machine. It owns every task and callback that was started in its context, because a context is
inherited by tasks and handed to callbacks. So a whole process can be frozen between any two awaits, with its clock or
without, or killed with no cleanup at all, while servers and network, which belong to no host, go on. `on_step` is
called before each callback of a host: that is where such a thing can strike.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(Exception):
    """Nothing is ready and nothing is scheduled, though somebody still waits."""


@dataclass(eq=False)
class Host:
    """One machine: `stalled` while none of its callbacks run, `behind_s` how far its clock has fallen back."""

    name: str
    stalled: bool = False
    dead: bool = False
    behind_s: float = 0.0
    parked: list[asyncio.Handle] = field(default_factory=list)

    def __repr__(self) -> str:
        """Name it."""
        return self.name


HOST: ContextVar[Host | None] = ContextVar("host", default=None)


class SimLoop(asyncio.BaseEventLoop):
    """The loop; `shuffle` runs callbacks that are ready together in an order drawn from `rng`, else as they came."""

    # asyncio's own bookkeeping, which typeshed does not know
    _ready: Any
    _scheduled: Any
    _timer_cancelled_count: int

    def __init__(self, rng: random.Random, *, shuffle: bool = True, start_s: float = 1000.0) -> None:
        super().__init__()
        self._rng = rng
        self._shuffle = shuffle
        self._now_s = start_s
        self.outside: Context = copy_context()
        self.faults: list[dict[str, Any]] = []
        self.on_step: Callable[[Host, Context], None] | None = None
        self.set_exception_handler(lambda _loop, facts: self.faults.append(facts))

    def time(self) -> float:
        """Give the virtual time in seconds."""
        return self._now_s

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main` to its end, outside of every host."""
        return self.run_until_complete(self.create_task(main, context=self.outside))

    def freeze(self, host: Host, for_s: float, *, clock_stops: bool) -> None:
        """Run nothing of the host for a while; with `clock_stops` its clock and timers lose that time too."""
        host.stalled = True
        if clock_stops:
            host.behind_s += for_s
            for timer in self._scheduled:
                if _host_of(timer) is host:
                    timer._when += for_s
            heapq.heapify(self._scheduled)
        self.call_later(for_s, self._thaw, host, context=self.outside)

    def kill(self, host: Host) -> None:
        """Never run anything of the host again (but see `revive`)."""
        host.dead = host.stalled = True

    def _thaw(self, host: Host) -> None:
        if not host.dead:
            self.revive(host)

    def revive(self, host: Host) -> None:
        """Let the host's callbacks run on."""
        host.stalled = host.dead = False
        self._ready.extend(host.parked)
        host.parked.clear()

    def _run_once(self) -> None:
        """Run what is ready now, or jump to the next timer; the loop's heart, in place of asyncio's own."""
        self._jump()
        batch = list(self._ready)
        self._ready.clear()
        if self._shuffle:
            self._rng.shuffle(batch)
        for handle in batch:
            if handle._cancelled:
                continue
            host = _host_of(handle)
            if host is not None and not host.stalled and self.on_step is not None:
                self.on_step(host, handle._context)
            if host is not None and host.stalled:
                host.parked.append(handle)
            else:
                handle._run()

    def _jump(self) -> None:
        """Move the clock to the first timer if nothing is ready, and make ready what is due."""
        timers = self._scheduled
        while timers and timers[0]._cancelled:
            self._drop_timer()
        if not self._ready and not self._stopping:  # type: ignore[attr-defined]
            if not timers:
                raise Deadlock(f"at {self._now_s:.3f} s nothing can go on")
            self._now_s = max(self._now_s, timers[0]._when)
        while timers and timers[0]._when <= self._now_s:
            handle = self._drop_timer()
            if not handle._cancelled:
                self._ready.append(handle)

    def _drop_timer(self) -> asyncio.TimerHandle:
        handle: asyncio.TimerHandle = heapq.heappop(self._scheduled)
        handle._scheduled = False  # type: ignore[attr-defined]
        if handle._cancelled:
            self._timer_cancelled_count -= 1
        return handle

    def _process_events(self, _events: object) -> None:
        """There is no I/O."""

    def _write_to_self(self) -> None:
        """No other thread ever wakes this loop."""


def _host_of(handle: asyncio.Handle) -> Host | None:
    context: Context = handle._context  # type: ignore[attr-defined]
    return context.get(HOST)
