"""The brake on live deletes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from s3nsync.model import Route
from s3nsync.pacing import DeleteBrake

ROUTE = Route("media", "1")


@given(st.integers(1, 5), st.lists(st.floats(0, 30, allow_nan=False), max_size=40))
def test_no_minute_sees_more_deletes_than_allowed(per_minute: int, gaps_s: list[float]) -> None:
    """In every window of a minute at most N pass, and the wait that is named is long enough."""
    clock = [0.0]
    brake = DeleteBrake(per_minute, lambda: clock[0])
    passed: list[float] = []
    for gap_s in gaps_s:
        clock[0] += gap_s
        wait_s = brake.wait_s(ROUTE)
        assert 0 <= wait_s <= 60
        if wait_s == 0:
            passed.append(clock[0])
    for start in passed:
        assert sum(1 for at in passed if start <= at < start + 60) <= per_minute


def test_routes_are_braked_apart() -> None:
    """One route's flood does not hold another's deletes."""
    brake = DeleteBrake(1, lambda: 0.0)
    assert brake.wait_s(ROUTE) == 0
    assert brake.wait_s(ROUTE) == 60
    assert brake.wait_s(Route("other", "1")) == 0
