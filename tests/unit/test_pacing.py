"""Pacing: back-off bounds, and a byte budget that is fair, never overdrawn and always given back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3nsync.pacing import WISH_MAX_S, Backoff, ByteBudget


@contextlib.asynccontextmanager
async def reserved(budget: ByteBudget, size_bytes: int, owner: str = "default") -> AsyncIterator[None]:
    """Hold so many bytes for the length of a block."""
    taken = await budget.take(size_bytes, owner)
    try:
        yield
    finally:
        budget.give_back(taken, owner)


@given(
    failures=st.integers(1, 10_000),
    drawn=st.floats(0, 1, exclude_max=True),
    base_s=st.floats(0.001, 10),
    cap_s=st.floats(0.001, 100),
)
def test_backoff_stays_in_its_bounds(failures: int, drawn: float, base_s: float, cap_s: float) -> None:
    """Each wait lies between half and all of the doubled base, never above the cap."""
    delay_s = Backoff(base_s, cap_s, lambda: drawn).delay_s(failures)
    full = min(cap_s, base_s * 2.0 ** min(failures - 1, 60))
    assert full / 2 <= delay_s <= full


def test_backoff_doubles_and_honours_the_peers_wish() -> None:
    """Waits double with each failure; the peer's own wish is a floor, not a replacement."""
    backoff = Backoff(1.0, 100.0, lambda: 0.0)
    assert [backoff.delay_s(n) for n in (1, 2, 3, 4)] == [0.5, 1.0, 2.0, 4.0]
    assert backoff.delay_s(1, at_least_s=7.0) == 7.0
    assert backoff.delay_s(4, at_least_s=1.0) == 4.0


def test_a_peers_wish_holds_nobody_for_an_hour() -> None:
    """A proxy's `Retry-After: 3600` on one call of SQS would let every lease end that the call was to renew."""
    assert Backoff(1.0, 5.0, lambda: 0.0).delay_s(1, at_least_s=3600.0) == WISH_MAX_S
    assert Backoff(100.0, 900.0, lambda: 0.0).delay_s(4, at_least_s=inf) == 400.0


def test_a_budget_needs_a_size() -> None:
    """A budget of nothing would block for ever, so it is refused."""
    with pytest.raises(ValueError, match="at least one"):
        ByteBudget(0)


async def test_budget_serves_in_order() -> None:
    """A large request that waits is not overtaken by a small one that would fit."""
    budget = ByteBudget(10)
    order: list[int] = []

    async def user(size: int) -> None:
        async with reserved(budget, size):
            order.append(size)

    async with reserved(budget, 6):
        tasks = [asyncio.ensure_future(user(size)) for size in (8, 1)]
        await asyncio.sleep(0)
        assert order == []
        assert "2 waiting" in repr(budget)
    await asyncio.gather(*tasks)
    assert order == [8, 1]
    assert budget.in_use_bytes == 0


async def test_a_request_above_the_whole_budget_waits_for_all_of_it() -> None:
    """It is served alone, and stands for the whole budget."""
    budget = ByteBudget(10)
    async with reserved(budget, 1_000):
        assert budget.in_use_bytes == 10
    assert budget.in_use_bytes == 0


async def test_cancelling_the_head_of_the_line_serves_the_next() -> None:
    """A cancelled waiter leaves the line at once; the one behind does not wait for anything more."""
    budget = ByteBudget(10)
    async with reserved(budget, 6):
        large = asyncio.ensure_future(_touch(budget, 8))
        small = asyncio.ensure_future(_touch(budget, 4))
        await asyncio.sleep(0)
        large.cancel()
        await asyncio.wait_for(small, 30)
    assert budget.in_use_bytes == 0


async def test_cancelled_in_the_moment_of_being_served_gives_back() -> None:
    """A waiter whose turn and whose cancellation come together leaves nothing reserved."""
    budget = ByteBudget(10)
    async with reserved(budget, 10):
        waiter = asyncio.ensure_future(_touch(budget, 10))
        await asyncio.sleep(0)
    waiter.cancel()  # its turn was set by the line above, and it has not run yet
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert budget.in_use_bytes == 0


async def test_bytes_freed_while_the_cancelled_head_has_not_run_are_not_lost() -> None:
    """A cancellation and a release in the same moment still serve the next in line."""
    budget = ByteBudget(10)
    async with reserved(budget, 10):
        head = asyncio.ensure_future(_touch(budget, 10))
        behind = asyncio.ensure_future(_touch(budget, 10))
        await asyncio.sleep(0)
        head.cancel()
    await asyncio.wait_for(behind, 30)
    assert budget.in_use_bytes == 0


async def test_who_holds_its_part_leaves_the_rest_to_others() -> None:
    """Streams to a slow account may hold three quarters for hours: others are served meanwhile, past its own line."""
    budget = ByteBudget(8, each_bytes=6)
    async with reserved(budget, 2, "slow"), reserved(budget, 4, "slow"):
        slow = [asyncio.ensure_future(_touch(budget, size, "slow")) for size in (3, 1)]
        await asyncio.sleep(0)
        async with asyncio.timeout(30), reserved(budget, 1, "quick"), reserved(budget, 1, "quick"):
            assert budget.in_use_bytes == 8
            assert not any(task.done() for task in slow)
    await asyncio.gather(*slow)
    async with reserved(budget, 8, "slow"):  # one that is larger than the part is served when nothing else is held
        assert budget.in_use_bytes == 8


async def test_at_once_there_are_only_bytes_that_need_no_waiting() -> None:
    """The short way is no way past the line, nor past an owner's part; it gives what `take` gives."""
    budget = ByteBudget(10, each_bytes=6)
    assert budget.take_at_once(5, "slow") == 5
    assert budget.take_at_once(2, "slow") is None
    assert budget.take_at_once(6, "quick") is None
    waiting = asyncio.create_task(budget.take(6, "quick"))
    await asyncio.sleep(0)
    assert budget.take_at_once(1, "small") is None
    budget.give_back(5, "slow")
    budget.give_back(await waiting, "quick")
    assert (budget.take_at_once(99, "quick"), budget.in_use_bytes) == (10, 10)


async def test_spare_bytes_are_those_that_nobody_needs() -> None:
    """They are free at once, nobody waits for them, and are half of all at most; else there are none."""
    budget = ByteBudget(10)
    assert budget.take_spare(3, "ahead")
    assert not budget.take_spare(3, "ahead")
    assert budget.take_spare(2, "ahead")
    async with reserved(budget, 4):
        large = asyncio.ensure_future(_touch(budget, 8))
        await asyncio.sleep(0)
        budget.give_back(5, "ahead")
        assert not budget.take_spare(1, "ahead")
    await asyncio.wait_for(large, 30)
    async with reserved(budget, 8):
        assert not budget.take_spare(3, "ahead")
    assert budget.in_use_bytes == 0


async def test_two_slow_owners_leave_a_third_its_floor() -> None:
    """However much they want, and though they stood in line before it."""
    budget = ByteBudget(12, each_bytes=9, floors=dict.fromkeys("abc", 2))
    assert (await budget.take(6, "a"), await budget.take(4, "b")) == (6, 4)
    assert not budget.take_spare(1, "ahead")
    slow = [asyncio.ensure_future(_touch(budget, 1, owner)) for owner in "ab"]
    await asyncio.sleep(0)
    async with asyncio.timeout(30), reserved(budget, 1, "c"), reserved(budget, 1, "c"):
        assert budget.in_use_bytes == 12
        assert not any(each.done() for each in slow)
    budget.give_back(6, "a")
    budget.give_back(4, "b")
    await asyncio.gather(*slow)


async def test_one_that_wants_more_than_its_floor_is_not_starved_by_small_ones() -> None:
    """It waits in line for what is free, and those behind it wait too; all but the others' floors stands for all."""
    budget = ByteBudget(12, each_bytes=9, floors=dict.fromkeys("ab", 2))
    assert await budget.take(8, "a") == 8
    large = asyncio.ensure_future(_touch(budget, 5, "b"))
    await asyncio.sleep(0)
    small = asyncio.ensure_future(_touch(budget, 1, "a"))
    await asyncio.sleep(0)
    assert not small.done()
    budget.give_back(8, "a")
    await asyncio.gather(large, small)
    assert budget.take_at_once(99, "a") == 10


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 3), st.booleans(), st.sampled_from("abc")), max_size=30),
    st.integers(1, 20),
    st.none() | st.integers(1, 20),
    st.none() | st.integers(0, 6),
)
def test_budget_is_never_overdrawn_and_returns_to_zero(
    plan: list[tuple[int, int, bool, str]], total: int, each: int | None, floor: int | None
) -> None:
    """Whatever the sizes, owners, holding times and cancellations: at most the total is held, and zero at the end.

    With floors for two of three owners, what these lack of them stays free all along.
    """
    floors = {} if floor is None else dict.fromkeys("ab", min(floor, total // 3))

    async def scenario() -> None:
        budget = ByteBudget(total, each, floors=floors)

        async def user(size: int, turns: int, owner: str) -> None:
            async with reserved(budget, size, owner):
                lacking = sum(max(0, bytes_ - budget._held[name]) for name, bytes_ in floors.items())
                assert budget.in_use_bytes + lacking <= total
                for _ in range(turns):
                    await asyncio.sleep(0)

        tasks = []
        for size, turns, cancelled, owner in plan:
            task = asyncio.ensure_future(user(size, turns, owner))
            tasks.append(task)
            await asyncio.sleep(0)
            if cancelled:
                task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait_for(task, 30)
        assert budget.in_use_bytes == 0

    asyncio.run(scenario())


async def _touch(budget: ByteBudget, size: int, owner: str = "default") -> None:
    async with reserved(budget, size, owner):
        pass
