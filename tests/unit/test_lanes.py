"""Lanes: how the window breathes, who is let in when, and how rates are kept."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3nsync import errors
from s3nsync.lanes import (
    ASKED_MAX_S,
    CUT_TO,
    LATENCY_PLACES,
    LINGER_S,
    REST_FIRST_S,
    REST_MAX_S,
    SMALL_BYTES,
    TELL_EVERY_S,
    Bucket,
    Lane,
    LaneFigures,
    Shares,
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


async def test_who_finds_no_slot_to_spare_lingers_and_is_then_told() -> None:
    """The line is bounded where others need the slots; once lingering was in vain, keys are sent back at once."""
    loop = asyncio.get_running_loop()
    shares = Shares(2, slots=16, kept_for_live=4)
    lane = Lane(1, loop.time, shares=shares)
    assert await lane.enter()
    waiting = asyncio.create_task(lane.enter())  # its line is one long, as its floor
    await _settle()
    began_s = loop.time()
    assert not await lane.enter()
    assert loop.time() - began_s >= LINGER_S
    lingered_s = loop.time() - began_s
    assert not await lane.enter()
    assert loop.time() - began_s - lingered_s < LINGER_S
    lane.leave()
    assert await waiting
    assert repr(lane) == "Lane(1 of 1 places in use, 0 waiting)"
    lane.leave()
    assert (lane.held, shares.held, shares.lacking) == (0, 0, 2)


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


class Visit(NamedTuple):
    """One key's way through a lane: when it comes, how long it stays, when it is cut, what its request meets."""

    comes_s: float
    stays_s: float
    cut_s: float | None
    error: errors.S3nsyncError | None
    whose: int
    urgent: bool


@dataclass
class Crowd:
    """Keys of some accounts, and the lanes that they go by; held all along against what shares promise."""

    most: int
    accounts: int
    slots: int
    seed: int
    done: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Make the lanes: a single account has no shares."""
        self.loop = SimLoop(random.Random(self.seed))
        self.shares = Shares(self.accounts, self.slots, max(1, self.slots // 4)) if self.accounts > 1 else None
        self.lanes = [Lane(self.most, self.loop.time, shares=self.shares) for _ in range(self.accounts)]

    async def come(self, number: int, visit: Visit) -> None:
        """Let one come, and go through it all."""
        lane, shares = self.lanes[visit.whose % self.accounts], self.shares
        await asyncio.sleep(visit.comes_s)
        must_enter = shares is None or lane.held < shares.floor
        entered = await lane.enter(urgent=visit.urgent)
        assert entered or not must_enter
        if entered:
            try:
                self.judge(lane)
                await self.work(lane, visit)
            finally:
                lane.leave(urgent=visit.urgent)
        self.judge(lane)
        self.done.append(number)

    async def work(self, lane: Lane, visit: Visit) -> None:
        """Ask something of the account."""
        began_s = lane.now_s()
        await asyncio.sleep(visit.stays_s)
        if visit.error is None:
            lane.answered("upload", began_s)
        else:
            lane.failed(visit.error, began_s)

    def judge(self, lane: Lane) -> None:
        """Hold windows and shares against their bounds, and shares against the lanes."""
        assert lane.in_use <= self.most
        if (shares := self.shares) is not None:
            assert shares.held == sum(each.held for each in self.lanes)
            assert shares.lacking == sum(max(0, shares.floor - each.held) for each in self.lanes)
            assert shares.held + shares.lacking <= self.slots


@given(
    sizes=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(4, 20), st.integers(0, 10_000)),
    visits=st.lists(
        st.builds(
            Visit,
            st.floats(0, 3),
            st.floats(0, 2),
            st.none() | st.floats(0, 3),
            st.sampled_from([None, *TROUBLE]),
            st.integers(0, 3),
            st.booleans(),
        ),
        max_size=40,
    ),
)
def test_gauges_return_to_zero_and_no_window_or_share_is_overdrawn(
    sizes: tuple[int, int, int, int], visits: list[Visit]
) -> None:
    """Whoever comes, is cancelled, fails or is sent away: in the end nobody holds a place or waits for one.

    And all along: what is held, and what others lack of their floors, is no more than there is; and whose account holds
    less than its floor is let in.
    """
    crowd = Crowd(*sizes)

    async def main() -> None:
        tasks = []
        for number, visit in enumerate(visits):
            tasks.append(asyncio.create_task(crowd.come(number, visit)))
            if visit.cut_s is not None:
                asyncio.get_running_loop().call_later(visit.cut_s, tasks[-1].cancel)
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert not [each for each in results if isinstance(each, Exception)]

    _run(crowd.loop, main())
    for lane in crowd.lanes:
        figures = lane.figures()
        assert (figures.in_use, figures.waiting, lane.held, lane.held_for_bulk) == (0, 0, 0, 0)
        assert 1 <= figures.window <= crowd.most
    shares = crowd.shares
    assert shares is None or (shares.held, shares.lacking) == (0, shares.floor * crowd.accounts)
    assert set(crowd.done) >= {number for number, each in enumerate(visits) if each.cut_s is None}


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


def test_slow_accounts_do_not_disturb_a_quick_one() -> None:
    """Those that refuse nearly everything, or are as slow as can be, leave the other its pace; so do two of them.

    All share 64 slots, each taken by the next message whoever's it is, as the worker's are.
    """
    alone = _pace([(1000, 0.1), (1000, 0.1)])
    assert _pace([(1000, 0.1), (2, 0.1)]) > 0.9 * alone
    assert _pace([(1000, 0.1), (1000, 60.0)]) > 10 / 0.1 * 0.8
    assert _pace([(1000, 0.1), (1000, 60.0), (1000, 60.0)]) > 5 / 0.1 * 0.8
    assert _pace([(1000, 0.1), *[(1000, 60.0)] * 7]) > 1 / 0.1 * 0.5  # its floor of one slot


@pytest.mark.parametrize(
    ("accounts", "parts"), [(2, [45]), (2, [27, 27]), (3, [18, 18, 18]), (3, [26, 26, 4]), (8, [23, 23, 3, 3])]
)
def test_accounts_that_are_busy_get_equal_parts_and_one_alone_three_quarters(accounts: int, parts: list[int]) -> None:
    """Max-min: who wants less than its part leaves the rest to the others."""
    loop = SimLoop(random.Random(1))
    shares = Shares(accounts, 64, 16)
    lanes = [Lane(64, loop.time, shares=shares) for _ in range(accounts)]

    async def slot(lane: Lane) -> None:
        while True:
            if await lane.enter():
                await asyncio.sleep(0.1)
                lane.leave()

    async def main() -> None:
        wanted = [64 if part > 4 else part for part in parts]
        keys = [slot(lane) for lane, most in zip(lanes, wanted, strict=False) for _ in range(most)]
        tasks = [asyncio.create_task(each) for each in keys]
        await asyncio.sleep(5.05)
        for lane, part in zip(lanes, parts, strict=False):
            assert abs(lane.in_use - part) <= 2, [each.in_use for each in lanes]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    _run(loop, main())


def test_one_busy_account_of_several_has_hardly_a_key_sent_back() -> None:
    """Keys beyond its share linger for the moment it takes to have a place; a return costs a stat and more."""
    loop = SimLoop(random.Random(1))
    shares = Shares(2, 64, 16)
    lanes = [Lane(64, loop.time, shares=shares) for _ in range(2)]
    server, sent_back = Server(loop, 1000), [0]

    async def slot() -> None:
        while True:
            if not await lanes[0].enter():
                sent_back[0] += 1
                await asyncio.sleep(0.001)
                continue
            await server.ask()
            lanes[0].leave()

    async def main() -> None:
        tasks = [asyncio.create_task(slot()) for _ in range(64)]
        await asyncio.sleep(20.0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    _run(loop, main())
    assert server.served > 0.9 * 45 * 20.0 / 0.1
    assert sent_back == [0]


def test_bulk_messages_never_take_all_that_is_open_to_them() -> None:
    """Two accounts' endless bulk leaves a third's its floor, within what no live message needs."""
    shares = Shares(3, 64, 16)
    lanes = [Lane(64, lambda: 0.0, shares=shares) for _ in range(3)]
    for _ in range(64):
        for lane in lanes[:2]:
            lane.enter_at_once(urgent=False)
    assert lanes[0].held == lanes[1].held == 20
    while lanes[2].enter_at_once(urgent=False):
        pass
    assert lanes[2].held >= shares.floor
    assert shares.held <= 48
    assert lanes[2].enter_at_once(urgent=True)


async def test_an_accounts_live_messages_leave_its_own_bulk_what_is_left() -> None:
    """What it holds for live ones does not count against its bulk, nor does bulk sent back hurry live ones."""
    loop = asyncio.get_running_loop()
    lane = Lane(64, loop.time, shares=Shares(2, 64, 16))
    assert all(lane.enter_at_once() for _ in range(40))
    assert [lane.enter_at_once(urgent=False) for _ in range(5)] == [True, True, True, False, False]
    for _ in range(2):
        assert not await lane.enter(urgent=False)
    began_s = loop.time()
    while lane.enter_at_once():
        pass
    assert not await lane.enter()
    assert loop.time() - began_s >= LINGER_S


def _pace(accounts: list[tuple[int, float]]) -> float:
    """Let 64 slots serve messages of these accounts' servers in turn; give the first's served keys in a second."""
    loop = SimLoop(random.Random(1))
    shares = Shares(len(accounts), 64, 16)
    lanes = [Lane(64, loop.time, shares=shares) for _ in accounts]
    rate = _share(loop, lanes, [Server(loop, *each) for each in accounts])
    loop.close()
    return rate


def _share(loop: SimLoop, lanes: list[Lane], servers: list[Server]) -> float:
    messages = [0]

    async def slot() -> None:
        while True:
            messages[0] += 1
            number = messages[0] % len(lanes)
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
