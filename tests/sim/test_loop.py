"""The virtual-time loop: time jumps, the seed alone decides, a host can be frozen and killed."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from sim.loop import HOST, Deadlock, Host, SimLoop


def spawn(loop: SimLoop, host: Host, work: Callable[[], object]) -> None:
    """Start a task of the host that calls `work` every second."""

    async def ticking() -> None:
        while True:
            await asyncio.sleep(1.0)
            work()

    context = loop.outside.copy()
    context.run(HOST.set, host)
    loop.create_task(ticking(), context=context)


def finish(loop: SimLoop, *hosts: Host) -> None:
    """End every task, the killed ones too."""

    async def end() -> None:
        for host in hosts:
            loop.revive(host)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    loop.run(end())
    loop.close()


def test_time_jumps() -> None:
    """An hour of sleep takes no time."""
    loop = SimLoop(random.Random(1))
    began = time.monotonic()
    loop.run(asyncio.sleep(3600.0))
    assert loop.time() == pytest.approx(4600.0)
    assert time.monotonic() - began < 60.0
    loop.close()


def test_one_seed_is_one_order() -> None:
    """The same seed runs tasks that are ready together in the same order, another seed in another."""

    def order(seed: int) -> list[int]:
        seen: list[int] = []

        async def note(number: int) -> None:
            await asyncio.sleep(0)
            seen.append(number)

        async def main() -> None:
            await asyncio.gather(*(note(number) for number in range(8)))

        loop = SimLoop(random.Random(seed))
        loop.run(main())
        loop.close()
        return seen

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(5)}) > 1


def test_a_deadlock_is_told() -> None:
    """Waiting for what can never come is an error, not a hang."""
    loop = SimLoop(random.Random(1))

    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Deadlock):
        loop.run(wait())
    finish(loop)


def test_a_frozen_host_stands_still_and_goes_on() -> None:
    """Nothing of it runs meanwhile; other hosts do; afterwards it goes on."""
    loop = SimLoop(random.Random(1))
    frozen, other = Host("frozen"), Host("other")
    ticks: list[tuple[str, float]] = []
    for host in (frozen, other):
        spawn(loop, host, lambda host=host: ticks.append((host.name, loop.time())))  # type: ignore[misc]
    loop.run(asyncio.sleep(2.5))
    loop.freeze(frozen, 5.0, clock_stops=False)
    loop.run(asyncio.sleep(7.6))
    at = [when - 1000.0 for name, when in ticks if name == "frozen"]
    assert at == pytest.approx([1.0, 2.0, 7.5, 8.5, 9.5])
    assert len([name for name, _ in ticks if name == "other"]) == 10
    finish(loop, frozen, other)


def test_a_stopped_clock_moves_the_timers_too() -> None:
    """What the host had scheduled comes later by as much as its clock has lost."""
    loop = SimLoop(random.Random(1))
    host = Host("frozen")
    ticks: list[float] = []
    spawn(loop, host, lambda: ticks.append(loop.time() - 1000.0))
    loop.run(asyncio.sleep(2.5))
    loop.freeze(host, 5.0, clock_stops=True)
    loop.run(asyncio.sleep(6.0))
    assert ticks == pytest.approx([1.0, 2.0, 8.0])
    assert host.behind_s == 5.0
    finish(loop, host)


def test_a_killed_host_does_nothing_more() -> None:
    """No cleanup runs, not even what `finally` holds."""
    loop = SimLoop(random.Random(1))
    host = Host("killed")
    done: list[str] = []

    async def careful() -> None:
        try:
            await asyncio.sleep(1.0)
        finally:
            done.append("cleanup")

    context = loop.outside.copy()
    context.run(HOST.set, host)
    loop.create_task(careful(), context=context)
    loop.run(asyncio.sleep(0.5))
    loop.kill(host)
    loop.run(asyncio.sleep(5.0))
    assert done == []
    finish(loop, host)
