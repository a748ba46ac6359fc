"""Lanes: how the window breathes, who is let in when, and how rates are kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3nsync import errors
from s3nsync.lanes import (
    ASKED_MAX_S,
    CUT_TO,
    LATENCY_PLACES,
    REST_FIRST_S,
    REST_MAX_S,
    SMALL_BYTES,
    TELL_EVERY_S,
    Bucket,
    Lane,
    LaneFigures,
    Window,
    places_for,
)
from sim.loop import SimLoop

# --- the window ------------------------------------------------------------------------------------------------


def test_a_window_begins_wide_open_and_never_grows_beyond_its_most() -> None:
    """An account that never refuses never waits."""
    window = Window(10)
    for second in range(100):
        window.answered("upload", second, second + 0.1, in_use=10, small=True)
    assert (window.places, window.cuts) == (10, 0)


def test_one_round_trip_is_cut_for_once() -> None:
    """What was asked before the last cut says nothing about the smaller window."""
    window = Window(100)
    assert window.refused(1.0, 2.0, None)
    assert not any(window.refused(began_s, 2.5, None) for began_s in (0.5, 1.0, 1.9, 2.0))
    assert window.size == pytest.approx(100 * CUT_TO)
    assert window.failed(2.1, 3.0)
    assert window.size == pytest.approx(100 * CUT_TO * CUT_TO)


def test_a_cut_window_grows_by_one_place_a_round_trip_and_only_while_it_is_used() -> None:
    """Additive increase: a window's worth of good answers makes one place; idle ones prove nothing."""
    window = Window(100)
    window.refused(1.0, 2.0, None)
    for _ in range(70):
        window.answered("upload", 3.0, 3.1, in_use=34, small=True)
    assert window.size == pytest.approx(70.0)
    for _ in range(70):
        window.answered("upload", 3.0, 3.1, in_use=35, small=True)
    assert 70.9 < window.size < 71.0


def test_an_account_that_refuses_its_last_place_rests_longer_each_time() -> None:
    """Half a second at first, doubling to a limit; a good answer ends it."""
    window, now_s, rests = Window(1), 0.0, []
    for _ in range(7):
        now_s += 100.0
        window.refused(now_s - 1, now_s, None)
        rests.append(window.closed_until_s - now_s)
    assert rests == [REST_FIRST_S * 2**n for n in range(5)] + [REST_MAX_S] * 2
    assert window.rests == 7
    window.answered("upload", now_s + 20, now_s + 21, in_use=1, small=True)
    window.refused(now_s + 22, now_s + 23, None)
    assert window.closed_until_s - now_s - 23 == pytest.approx(REST_FIRST_S)


def test_an_account_that_cannot_be_reached_is_cut_but_does_not_rest() -> None:
    """Whether anybody is there is the breaker's question."""
    window = Window(1)
    window.failed(1.0, 2.0)
    window.failed(3.0, 4.0)
    assert (window.places, window.rests) == (1, 0)
    assert window.closed_until_s < 0


@pytest.mark.parametrize(("asked_s", "waits_s"), [(7.0, 7.0), (3600.0, ASKED_MAX_S)])
def test_a_retry_after_closes_the_window(asked_s: float, waits_s: float) -> None:
    """The account's own wish counts, up to a limit."""
    window = Window(64)
    window.refused(1.0, 2.0, asked_s)
    assert window.closed_until_s == 2.0 + waits_s


def test_a_latency_far_above_its_baseline_cuts_but_never_below_a_few_places() -> None:
    """A server that is slow by itself is not helped by less; one that is normally slow is not cut at all."""
    window, now_s = Window(64), 0.0
    for latency_s, places in ((0.2, 64), (0.9, 64), (5.0, LATENCY_PLACES)):
        for _ in range(50):
            now_s += latency_s
            window.answered("upload", now_s - latency_s, now_s, in_use=window.places, small=True)
        assert window.places == places


def test_a_narrow_window_does_not_jump_up_because_answers_are_slow() -> None:
    """What refusals have cut grows by its own pace."""
    window, now_s = Window(64), 0.0
    window.answered("upload", 0.0, 0.01, in_use=64, small=True)
    for _ in range(12):
        now_s += 1.0
        window.refused(now_s, now_s, None)
    assert window.places == 1
    window.answered("upload", now_s + 1.0, now_s + 61.0, in_use=1, small=True)
    assert window.places == 2


def test_what_is_slow_for_ten_minutes_is_the_new_baseline() -> None:
    """A server that moved further away is used in full again."""
    window, now_s = Window(64), 0.0
    for latency_s in (0.02, 1.0):
        for _ in range(3000):
            now_s += latency_s
            window.answered("upload", now_s - latency_s, now_s, in_use=window.places, small=True)
    assert window.cuts > 0
    assert window.places == 64


def test_the_latency_of_large_bodies_is_no_sign() -> None:
    """A gigabyte takes its time."""
    window = Window(64)
    for second in range(100):
        window.answered("upload", second, second + 0.02, in_use=64, small=True)
        window.answered("upload", second, second + 500.0, in_use=64, small=False)
    assert window.cuts == 0


def test_uploads_after_many_stats_are_no_sign_of_a_slow_server() -> None:
    """Each action has its own latency and its own baseline: a write may well take twenty times as long as a look."""
    window, now_s = Window(64), 0.0
    for action, latency_s in (("stat", 0.02), ("upload", 0.4), ("delete", 0.1), ("upload", 0.4), ("stat", 0.02)):
        for _ in range(200):
            now_s += latency_s / 40
            window.answered(action, now_s - latency_s, now_s, in_use=40, small=True)
    assert (window.places, window.cuts) == (64, 0)


# --- the line --------------------------------------------------------------------------------------------------


async def _settle() -> None:
    for _ in range(3):
        await asyncio.sleep(0)


async def test_places_go_out_in_the_order_asked_for() -> None:
    """Nobody overtakes, and an empty line costs no wait."""
    lane, order = Lane(1, lambda: 0.0), []
    assert await lane.enter()

    async def come(name: str) -> None:
        await lane.enter()
        order.append(name)

    tasks = [asyncio.create_task(come(name)) for name in "abc"]
    await _settle()
    assert order == []
    for _ in "abc":
        lane.leave()
        await _settle()
    assert order == ["a", "b", "c"]
    await asyncio.gather(*tasks)
    lane.leave()
    assert lane.figures() == LaneFigures(window=1, in_use=0, waiting=0, cuts=0, rests=0)


async def test_at_once_there_is_a_place_only_where_nobody_waits_and_nothing_rests() -> None:
    """The short way in is no way past the line."""
    lane = Lane(1, lambda: 0.0)
    assert (lane.enter_at_once(), lane.in_use) == (True, 1)
    waiting = asyncio.create_task(lane.enter())
    await _settle()
    lane.window.size = 3.0  # room for two more, and one who came first
    assert not lane.enter_at_once()
    lane.leave()
    assert await waiting
    assert lane.enter_at_once()
    lane.failed(errors.TargetUnavailable("429", status=429, retry_after_s=9.0), 0.0)
    assert not lane.enter_at_once()


async def test_who_finds_the_line_full_is_told_at_once() -> None:
    """The line is bounded where others need the slots."""
    lane = Lane(1, lambda: 0.0, line=1)
    assert await lane.enter()
    waiting = asyncio.create_task(lane.enter())
    await _settle()
    assert not await lane.enter()
    lane.leave()
    assert await waiting
    assert repr(lane) == "Lane(1 of 1 places in use, 0 waiting)"


async def test_cancelled_in_the_moment_of_being_served_gives_the_place_back() -> None:
    """A place given to somebody who is gone goes to the next."""
    lane = Lane(1, lambda: 0.0)
    await lane.enter()
    first, second = asyncio.create_task(lane.enter()), asyncio.create_task(lane.enter())
    await _settle()
    lane.leave()
    first.cancel()
    assert await second
    assert lane.in_use == 1


async def test_a_place_freed_while_the_cancelled_head_has_not_run_is_not_lost() -> None:
    """The one behind gets it as soon as the head has left the line."""
    lane = Lane(1, lambda: 0.0)
    await lane.enter()
    first, second = asyncio.create_task(lane.enter()), asyncio.create_task(lane.enter())
    await _settle()
    first.cancel()  # its turn is cancelled, and its task has not run yet
    lane.leave()
    async with asyncio.timeout(30):
        assert await second
    assert (lane.in_use, first.cancelled()) == (1, True)


async def test_nobody_overtakes_those_who_waited_out_a_rest() -> None:
    """A rest that has just ended finds a line that was there first."""
    clock, order = [0.0], []
    lane = Lane(1, lambda: clock[0])
    lane.failed(errors.TargetUnavailable("429", status=429, retry_after_s=0.02), -1.0)

    async def come(name: str) -> None:
        await lane.enter()
        order.append(name)
        lane.leave()

    early = asyncio.create_task(come("early"))
    await _settle()
    clock[0] = 1.0
    async with asyncio.timeout(30):
        await come("late")
        await early
    assert order == ["early", "late"]


async def test_a_rest_ends_though_nobody_is_at_work() -> None:
    """Those who wait are served when it is over."""
    loop = asyncio.get_running_loop()
    lane = Lane(4, loop.time)
    began_s = loop.time()
    lane.failed(errors.TargetUnavailable("429", status=429, retry_after_s=0.05), began_s)
    async with asyncio.timeout(30):
        assert await lane.enter()
    assert loop.time() >= began_s + 0.05


TROUBLE = [
    errors.TargetUnavailable("429", status=429),
    errors.TargetUnavailable("503", status=503, retry_after_s=1.5),
    errors.ConnectionLost("cut"),
]


@given(
    most=st.integers(1, 5),
    line=st.none() | st.integers(0, 3),
    seed=st.integers(0, 10_000),
    plan=st.lists(
        st.tuples(
            st.floats(0, 3),  # comes
            st.floats(0, 2),  # stays
            st.none() | st.floats(0, 3),  # is cancelled
            st.sampled_from([None, *TROUBLE]),
        ),
        max_size=30,
    ),
)
def test_gauges_return_to_zero_and_the_window_is_never_overdrawn(
    most: int,
    line: int | None,
    seed: int,
    plan: list[tuple[float, float, float | None, errors.S3nsyncError | None]],
) -> None:
    """Whoever comes, is cancelled, fails or is sent away: in the end nobody holds a place or waits for one."""
    loop = SimLoop(random.Random(seed))
    lane = Lane(most, loop.time, line=line)
    done: list[int] = []

    async def work(stays_s: float, error: errors.S3nsyncError | None) -> None:
        assert lane.in_use <= most
        began_s = lane.now_s()
        await asyncio.sleep(stays_s)
        if error is None:
            lane.answered("upload", began_s)
        else:
            lane.failed(error, began_s)

    async def come(number: int, at_s: float, stays_s: float, error: errors.S3nsyncError | None) -> None:
        await asyncio.sleep(at_s)
        if await lane.enter():
            try:
                await work(stays_s, error)
            finally:
                lane.leave()
        done.append(number)

    async def main() -> None:
        tasks = []
        for number, (at_s, stays_s, cancelled_s, error) in enumerate(plan):
            tasks.append(asyncio.create_task(come(number, at_s, stays_s, error)))
            if cancelled_s is not None:
                asyncio.get_running_loop().call_later(cancelled_s, tasks[-1].cancel)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [each for each in results if isinstance(each, Exception)]

    _run(loop, main())
    figures = lane.figures()
    assert (figures.in_use, figures.waiting) == (0, 0)
    assert 1 <= figures.window <= most
    assert set(done) >= {number for number, each in enumerate(plan) if each[2] is None}


def _run(loop: SimLoop, main: Coroutine[Any, Any, None]) -> None:
    try:
        loop.run(main)
        assert not loop.faults
    finally:
        loop.close()


# --- against a server with a limit -----------------------------------------------------------------------------


class Server:
    """One account's server: `capacity` requests at once, more are refused; each takes `takes_s`."""

    def __init__(self, loop: SimLoop, capacity: int, takes_s: float = 0.1) -> None:
        self.loop = loop
        self.capacity = capacity
        self.takes_s = takes_s
        self.at_work = 0
        self.down = False
        self.served = 0
        self.refused = 0

    async def ask(self) -> None:
        """Serve, or refuse."""
        if self.down:
            await asyncio.sleep(0.01)
            raise errors.ConnectFailed("refused")
        if self.at_work >= self.capacity:
            self.refused += 1
            await asyncio.sleep(0.01)
            raise errors.TargetUnavailable("429", status=429)
        self.at_work += 1
        await asyncio.sleep(self.takes_s * self.loop._rng.uniform(0.7, 1.3))
        self.at_work -= 1
        self.served += 1


async def use(lane: Lane, server: Server, keys: int = 64) -> None:
    """Keep as many keys as there are slots busy with the server, for ever."""

    async def slot() -> None:
        while True:
            if not await lane.enter():
                await asyncio.sleep(2.0)
                continue
            began_s = lane.now_s()
            try:
                await server.ask()
                lane.answered("upload", began_s)
            except errors.S3nsyncError as error:
                lane.failed(error, began_s)
            finally:
                lane.leave()

    async with asyncio.TaskGroup() as group:
        for _ in range(keys):
            group.create_task(slot())


async def watch(lane: Lane, for_s: float) -> list[int]:
    """Give the window's size over a while, ten times a second."""
    seen = []
    for _ in range(int(for_s * 10)):
        await asyncio.sleep(0.1)
        seen.append(lane.window.places)
    return seen


@pytest.mark.parametrize("capacity", [3, 10, 40])
@pytest.mark.parametrize("seed", range(2))
def test_the_window_converges_near_the_servers_capacity(capacity: int, seed: int) -> None:
    """The server is kept busy, its limit is passed seldom, and the window swings about it."""
    loop = SimLoop(random.Random(seed))
    lane, server = Lane(64, loop.time), Server(loop, capacity)

    async def main() -> None:
        users = asyncio.create_task(use(lane, server))
        await asyncio.sleep(5.0)
        server.served = server.refused = 0
        seen = await watch(lane, 20.0)
        users.cancel()
        await asyncio.wait([users])
        assert capacity * CUT_TO - 2 <= sum(seen) / len(seen) <= capacity + 1
        assert max(seen) <= capacity + 2
        assert server.served > 0.7 * capacity * 20 / server.takes_s
        assert server.refused < server.served / capacity

    _run(loop, main())
    assert lane.in_use == 0


def test_the_window_recovers_after_an_outage() -> None:
    """Down to one place while nothing works, and wide open again a quarter of a minute later."""
    loop = SimLoop(random.Random(1))
    lane, server = Lane(64, loop.time), Server(loop, 1000)

    async def main() -> None:
        users = asyncio.create_task(use(lane, server))
        assert set(await watch(lane, 1.0)) == {64}
        server.down = True
        assert (await watch(lane, 5.0))[-1] == 1
        server.down = False
        assert (await watch(lane, 15.0))[-1] == 64
        users.cancel()
        await asyncio.wait([users])

    _run(loop, main())


def test_two_accounts_do_not_disturb_each_other() -> None:
    """One that refuses nearly everything, or is as slow as can be, leaves the other's pace as it is.

    Both share 64 slots, each taken by the next message whoever's it is, as the worker's are; the lanes are those that
    `app` makes for two accounts.
    """
    rates = []
    for capacity, takes_s in ((1000, 0.1), (2, 0.1), (1000, 60.0)):
        loop = SimLoop(random.Random(1))
        lanes = [Lane(48, loop.time, line=4), Lane(48, loop.time, line=4)]
        servers = [Server(loop, 1000), Server(loop, capacity, takes_s)]
        rates.append(_share(loop, lanes, servers))
        loop.close()
    alone, beside_refusing, beside_slow = rates
    assert beside_refusing > 0.9 * alone
    assert beside_slow > 10 / 0.1 * 0.8  # what is left beside 48 + 4 slots that are held for a minute each


def _share(loop: SimLoop, lanes: list[Lane], servers: list[Server]) -> float:
    """Let 64 slots serve messages of both accounts in turn; give how many of the first were served in a second."""
    messages = [0]

    async def slot() -> None:
        while True:
            messages[0] += 1
            number = messages[0] % 2
            lane = lanes[number]
            if not await lane.enter():
                await asyncio.sleep(0.001)  # given back, and the slot takes the next
                continue
            began_s = lane.now_s()
            try:
                await servers[number].ask()
                lane.answered("upload", began_s)
            except errors.S3nsyncError as error:
                lane.failed(error, began_s)
            finally:
                lane.leave()

    async def main() -> float:
        tasks = [asyncio.create_task(slot()) for _ in range(64)]
        await asyncio.sleep(3.0)
        before = servers[0].served
        await asyncio.sleep(10.0)
        served = servers[0].served - before
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        return served / 10.0

    return loop.run(main())


# --- what counts, and what is said -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "cuts"),
    [
        (errors.TargetUnavailable("429", status=429), True),
        (errors.TargetUnavailable("500", status=500), True),
        (errors.ConnectFailed("refused"), True),
        (errors.ConnectionLost("cut"), True),
        (errors.Stalled("stalled"), True),
        (errors.TlsRefused("certificate"), False),
        (errors.BadAnswer("not HTTP"), False),
        (errors.TargetMissing("404"), False),
        (errors.TargetCredentials("403"), False),
        (errors.SourceUnavailable("503"), False),
        (errors.LeaseLost("lost"), False),
    ],
)
def test_only_what_speaks_of_too_much_cuts(error: errors.S3nsyncError, cuts: bool) -> None:
    """A refusal of the key, or of who we are, says nothing about how much."""
    lane = Lane(10, lambda: 1.0)
    lane.failed(error, 1.0)
    assert lane.window.cuts == cuts


def test_a_busy_account_is_told_of_now_and_then() -> None:
    """The first cut at once, then no more than one line in half a minute."""
    clock, told = [0.0], []
    lane = Lane(64, lambda: clock[0], on_cut=lambda places, reason: told.append((places, reason)))
    for _ in range(int(TELL_EVERY_S)):
        clock[0] += 1.0
        lane.failed(errors.ConnectFailed("refused"), clock[0])
    assert told == [(44, "refused")]
    clock[0] += 1.0
    lane.failed(errors.ConnectFailed("again"), clock[0])
    assert told[1:] == [(1, "again")]


def test_a_latency_cut_says_so() -> None:
    """The line in the log names the reason."""
    clock, told = [0.0], []
    lane = Lane(64, lambda: clock[0], on_cut=lambda _places, reason: told.append(reason))
    lane.in_use = 64
    for latency_s in [0.01] * 20 + [3.0] * 5:
        clock[0] += latency_s
        lane.answered("upload", clock[0] - latency_s, size_bytes=SMALL_BYTES)
    assert told == ["its answers take much longer than they did"]


# --- rates -----------------------------------------------------------------------------------------------------


@given(
    per_s=st.floats(0.5, 1e6),
    steps=st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 1e6)), min_size=1, max_size=50),
)
def test_a_bucket_never_sells_more_than_its_rate_and_a_seconds_worth(
    per_s: float, steps: list[tuple[float, float]]
) -> None:
    """Up to any moment at which something may be used, no more has been taken than the rate allows."""
    bucket, now_s, taken = Bucket(per_s, 0.0), 0.0, 0.0
    for pause_s, tokens in steps:
        now_s += pause_s
        taken += tokens
        used_at_s = now_s + bucket.take(tokens, now_s)
        assert taken <= (per_s * used_at_s + max(1.0, per_s)) * (1 + 1e-6) + 1e-6


def test_a_bucket_is_not_slower_than_its_rate() -> None:
    """Steady use gets what was asked for."""
    bucket, now_s = Bucket(10.0, 0.0), 0.0
    for _ in range(110):
        now_s += bucket.take(1.0, now_s)
    assert now_s == pytest.approx(10.0)


def test_a_lane_without_rates_asks_for_no_wait_and_one_with_both_for_the_longer() -> None:
    """Requests and bytes are counted side by side."""
    assert Lane(1, lambda: 0.0).toll_s(requests=1_000_000, size_bytes=1 << 40) == 0.0
    lane = Lane(1, lambda: 0.0, requests_per_s=2.0, bytes_per_s=100.0)
    assert lane.toll_s(requests=1, size_bytes=100) == 0.0
    assert lane.toll_s(requests=3, size_bytes=500) == 5.0
    assert lane.toll_s(requests=8) == 5.0


def test_a_low_byte_rate_means_few_places() -> None:
    """So that no stream stands still for longer than the servers wait."""
    assert places_for(64, None, 1 << 20) == 64
    assert places_for(64, 1e9, 1 << 20) == 64
    assert places_for(64, 1 << 20, 1 << 20) == 20
    assert places_for(64, 65_536, 1 << 20) == 1
