"""The network between hosts and servers: it delays, it loses, and it is where the fault plan strikes.

A call goes through four moments, and at each the plan may strike:

    before    nothing has left: the host freezes or dies, the connection fails
    sent      the request is on its way and can no longer be called back: freeze, death, answer lost, answer late
    landed    the server acts: refusals, bytes altered on the way
    done      the answer is on its way: freeze, death

and besides at any step of a host: between any two awaits of any task, or of those alone that work on a key.

What was sent lands at most `GRACE_S` after it was sent, replicas included, or never: that is what "grace" means. So a
freeze between a lease check and its send, longer than the grace, does not happen here; nor does the death of a host
whose clock stood still for so long that it trusts a lease long lost (the known limit of docs/design.md).
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from typing import TypeVar

from s3nsync import errors
from s3nsync.worker.hands import LEASE_MARGIN_S
from sim.loop import HOST, Host, SimLoop
from sim.plan import Fault
from sim.watch import LOOK, Look, Watch

T = TypeVar("T")

STEPS = ("step", "step at work")
"""The steps of all hosts; those of tasks that work on a key."""

LATE = frozenset({"late", "late, hangs", "busy 502", "busy 503"})
"""A write that lands later than its client waits: the connection breaks, stalls, or a server in front gives up."""

REFUSALS = frozenset({"refused", "forbidden", "no bucket"})
"""A server answers, and does nothing: 503, and what only S3 says, 403 and 404 NoSuchBucket."""


@dataclass(eq=False)
class Net:
    """The network between hosts and servers, with the fault plan."""

    loop: SimLoop
    watch: Watch
    seed: int
    faults: dict[tuple[str, int], Fault]
    calls: Counter[str] = field(default_factory=Counter)
    looks: list[Look] = field(default_factory=list)
    slow: float = 0.1
    calm: bool = False
    closed: bool = False

    def __post_init__(self) -> None:
        """Count steps only where one is to be struck: there are very many."""
        if any(point in STEPS for point, _ in self.faults):
            self.loop.on_step = self._step

    def _step(self, host: Host, context: Context) -> None:
        points = STEPS if LOOK in context else STEPS[:1]
        for point in points:
            self.calls[point] += 1
            fault = self.faults.get((point, self.calls[point]))
            if fault is not None and not (self.calm or self.closed) and self._strikes(fault, host):
                self.watch.counts[fault.what] += 1
                self.watch.tell(f"{fault}: {host}")
                self.strike(fault, "between", host)

    def next_fault(self, point: str) -> Fault | None:
        """Count a call and say what is planned for it; freezes and deaths `before` are up to `enter`."""
        if self.closed:
            raise asyncio.CancelledError
        self.calls[point] += 1
        fault = None if self.calm else self.faults.get((point, self.calls[point]))
        if fault is not None and self._strikes(fault, HOST.get()):
            self.watch.counts[fault.what] += 1
            self.watch.tell(str(fault))
            return fault
        return None

    def _strikes(self, fault: Fault, host: Host | None) -> bool:
        """Leave out the one death that the protocol cannot survive."""
        return not (fault.what.startswith("die") and host is not None and host.behind_s > LEASE_MARGIN_S)

    def delay_s(self, point: str) -> float:
        """Draw a travel time: mostly short, seldom long; the same for the same call of the same seed."""
        drawn = random.Random(f"{self.seed} {point} {self.calls[point]}").random()
        return 0.005 + 0.1 * drawn if drawn > self.slow else 3.0 * drawn / self.slow

    async def enter(self, fault: Fault | None) -> None:
        """Strike before anything was sent."""
        self.strike(fault, "before")
        await asyncio.sleep(0)

    def strike(self, fault: Fault | None, moment: str, host: Host | None = None) -> None:
        """Freeze or kill the host at this moment, if that is the plan."""
        host = host or HOST.get()
        if fault is None or host is None or host.dead or moment not in fault.what:
            return
        if fault.what.startswith("die"):
            self.loop.kill(host)
        elif fault.what.startswith("freeze"):
            self.loop.freeze(host, fault.for_s, clock_stops="clock" in fault.what)
            self.later(fault.for_s, lambda: None if host.dead else self.watch.tell(f"{host} wakes up"))

    async def call(self, point: str, act: Callable[[], T], failed: Callable[[str], errors.S3nsyncError]) -> T:
        """Call a server: `act` runs there; `failed` words what the caller is told when it goes wrong."""
        fault = self.next_fault(point)
        await self.enter(fault)
        what = fault.what if fault else ""
        if what in REFUSALS:
            await asyncio.sleep(self.delay_s(point))
            raise failed(what)
        answer: asyncio.Future[T] = self.loop.create_future()
        host = HOST.get()

        def arrive() -> None:
            if what == "dropped":
                return
            result = act()
            self.strike(fault, "done", host)
            self.loop.call_later(self.delay_s(point), resolve, answer, result, context=self.loop.outside)

        self.later(self.delay_s(point), arrive)
        self.strike(fault, "sent")
        if what in {"lost", "dropped", "cut"}:
            await asyncio.sleep(fault.for_s if fault else 0.0)
            raise failed(what)
        return await answer

    def later(self, delay_s: float, act: Callable[[], None]) -> asyncio.TimerHandle:
        """Let something happen outside of every host."""

        def unless_closed() -> None:
            if not self.closed:
                act()

        return self.loop.call_later(delay_s, unless_closed, context=self.loop.outside)


def resolve(future: asyncio.Future[T], result: T) -> None:
    """Answer, unless nobody waits any more."""
    if not future.done():
        future.set_result(result)
