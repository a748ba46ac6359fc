"""The breaker: when a route rests, when one key tries, when it goes again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s3nsync.model import Route
from s3nsync.pacing import ALL, HEALTHY_S, PROBE_S, REST_FIRST_S, REST_MAX_S, TRIP_AFTER, Breaker

ONE, TWO = Route("one", "1"), Route("two", "1")


class Bench:
    """A breaker on a clock that the test moves."""

    def __init__(self, *routes: Route) -> None:
        self.clock = 1000.0
        self.told: list[str] = []
        self.breaker = Breaker(
            routes or (ONE,),
            lambda: self.clock,
            on_stop=lambda route, seconds, reason: self.told.append(f"{route.bucket} stops {seconds:g}: {reason}"),
            on_go=lambda route: self.told.append(f"{route.bucket} goes"),
        )

    def trip(self) -> None:
        for _ in range(TRIP_AFTER):
            self.breaker.failed(ONE, "503")


def test_failures_in_a_row_stop_a_route_once() -> None:
    """One fewer does not, and the stragglers that went before add nothing."""
    bench = Bench()
    for _ in range(TRIP_AFTER - 1):
        bench.breaker.failed(ONE, "503")
    assert bench.breaker.wait_s(ONE) == 0
    for _ in range(50):
        bench.breaker.failed(ONE, "503")
    assert bench.breaker.wait_s(ONE) == REST_FIRST_S
    assert bench.told == ["one stops 5: 503"]


def test_an_answer_in_between_starts_the_count_anew() -> None:
    """A side that answers now and then is not down."""
    bench = Bench()
    for _ in range(TRIP_AFTER * 3):
        bench.breaker.failed(ONE, "503")
        bench.breaker.answered(ONE)
    assert bench.breaker.wait_s(ONE) == 0
    assert bench.told == []


def test_a_side_that_only_asks_for_less_is_not_down() -> None:
    """It starts the count anew and sets a resting route going, but does not count as healthy: it did no work."""
    bench = Bench()
    for _ in range(TRIP_AFTER * 3):
        bench.breaker.failed(ONE, "503")
        bench.breaker.alive(ONE)
    assert bench.told == []
    bench.trip()
    bench.clock += REST_FIRST_S
    assert bench.breaker.wait_s(ONE) == 0
    bench.breaker.alive(ONE)
    assert (bench.told[-1], bench.breaker.wait_s(ONE), bench.breaker.is_healthy(ONE)) == ("one goes", 0, False)


def test_a_braked_route_goes_on_resting_whoever_answers() -> None:
    """The brake's rest is not about the other side."""
    bench = Bench()
    bench.breaker.hold(ONE, 12.0, "brake")
    bench.breaker.alive(ONE)
    bench.breaker.answered(ONE)
    assert bench.breaker.wait_s(ONE) == 12.0


def test_refused_credentials_stop_a_route_at_once() -> None:
    """Going on would only burn the backlog."""
    bench = Bench()
    bench.breaker.failed(ONE, "403", at_once=True)
    assert bench.breaker.wait_s(ONE) == REST_FIRST_S
    assert bench.breaker.appetite() == 0


def test_after_its_rest_one_key_tries_while_the_others_wait() -> None:
    """An outage is not probed with the whole backlog."""
    bench = Bench()
    bench.trip()
    bench.clock += REST_FIRST_S
    assert bench.breaker.appetite() == 1
    assert bench.breaker.wait_s(ONE) == 0
    assert bench.breaker.wait_s(ONE) == PROBE_S
    assert bench.breaker.appetite() == 0


def test_a_try_that_is_answered_sets_the_route_going() -> None:
    """And the next rest is a short one again."""
    bench = Bench()
    bench.trip()
    bench.clock += REST_FIRST_S
    bench.breaker.wait_s(ONE)
    bench.breaker.answered(ONE)
    assert bench.breaker.wait_s(ONE) == 0
    assert bench.breaker.appetite() == ALL
    assert bench.told[-1] == "one goes"
    bench.trip()
    assert bench.breaker.wait_s(ONE) == REST_FIRST_S


def test_each_try_that_fails_doubles_the_rest_up_to_its_limit() -> None:
    """An outage of hours is asked about every few minutes."""
    bench = Bench()
    bench.trip()
    rests = []
    for _ in range(9):
        bench.clock += bench.breaker.wait_s(ONE)
        assert bench.breaker.wait_s(ONE) == 0
        bench.breaker.failed(ONE, "503")
        rests.append(bench.breaker.wait_s(ONE))
    assert rests == [10, 20, 40, 80, 160, 300, 300, 300, REST_MAX_S]


def test_a_try_that_is_never_heard_of_lets_another_one_try() -> None:
    """A lost lease in the wrong moment does not stop a route for ever."""
    bench = Bench()
    bench.trip()
    bench.clock += REST_FIRST_S
    bench.breaker.wait_s(ONE)
    bench.clock += PROBE_S
    assert bench.breaker.wait_s(ONE) == 0


def test_routes_rest_each_by_itself() -> None:
    """One account's trouble stops nobody else; only when all rest is nothing taken."""
    bench = Bench(ONE, TWO)
    bench.trip()
    assert bench.breaker.wait_s(TWO) == 0
    assert bench.breaker.appetite() == ALL
    bench.breaker.failed(TWO, "403", at_once=True)
    assert bench.breaker.appetite() == 0


def test_a_hold_rests_a_healthy_route_and_answers_do_not_end_it() -> None:
    """The brake's rest lasts its time, though uploads in hand go on being confirmed."""
    bench = Bench()
    bench.breaker.hold(ONE, 20.0, "brake")
    bench.breaker.answered(ONE)
    assert bench.breaker.wait_s(ONE) == 20.0
    bench.clock += 20.0
    assert bench.breaker.wait_s(ONE) == 0
    assert bench.told == ["one stops 20: brake"]


def test_a_route_is_healthy_for_ten_minutes_after_an_answer() -> None:
    """What fails then is the key's own fault; without any answer nobody can tell."""
    bench = Bench()
    assert not bench.breaker.is_healthy(ONE)
    bench.breaker.answered(ONE)
    bench.clock += HEALTHY_S - 1
    assert bench.breaker.is_healthy(ONE)
    bench.clock += 1
    assert not bench.breaker.is_healthy(ONE)


@given(st.lists(st.sampled_from(["ask", "answer", "fail", "wait"]), max_size=200))
def test_no_route_is_stopped_for_ever(steps: list[str]) -> None:
    """Whatever happened, a key may go within the longest rest."""
    bench = Bench()
    for step in steps:
        match step:
            case "ask":
                assert 0 <= bench.breaker.wait_s(ONE) <= REST_MAX_S
            case "answer":
                bench.breaker.answered(ONE)
            case "fail":
                bench.breaker.failed(ONE, "503")
            case _:
                bench.clock += 3.0
    bench.clock += REST_MAX_S
    assert bench.breaker.appetite() >= 1
    assert bench.breaker.wait_s(ONE) == 0
