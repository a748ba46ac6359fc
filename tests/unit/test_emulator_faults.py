"""Which requests a fault strikes, that the same seed strikes the same ones, and what JSON may say."""

from __future__ import annotations

import pytest

from s3nsync.emulator.faults import Fault, FaultPlan, fault_from_json


def struck(plan: FaultPlan, count: int, action: str = "upload", path: str = "/1/x") -> list[int]:
    """Return which of `count` equal requests (from 1) meet a fault."""
    return [number for number in range(1, count + 1) if plan.draw(action, path, skew=False)]


def plan_of(*faults: Fault, seed: int = 0) -> FaultPlan:
    """Return a plan with `faults` in force."""
    plan = FaultPlan(seed)
    for fault in faults:
        plan.add(fault)
    return plan


@pytest.mark.parametrize(
    ("fault", "hits"),
    [
        (Fault(kind="reset"), [1, 2, 3, 4, 5, 6]),
        (Fault(kind="reset", nth=3), [3]),
        (Fault(kind="reset", every=2), [2, 4, 6]),
        (Fault(kind="reset", times=2), [1, 2]),
        (Fault(kind="reset", every=2, times=2), [2, 4]),
        (Fault(kind="reset", probability=0.0), []),
        (Fault(kind="reset", action="delete"), []),
        (Fault(kind="reset", path="/1/*.gif"), []),
    ],
)
def test_whom_a_fault_strikes(fault: Fault, hits: list[int]) -> None:
    """Nth, every, times, action and path each narrow it."""
    assert struck(plan_of(fault), 6) == hits


def test_other_requests_are_not_counted() -> None:
    """Requests the fault does not concern are passed over when the nth is counted."""
    plan = plan_of(Fault(kind="reset", action="upload", path="/1/a*", nth=2))
    assert struck(plan, 3, "stat") == []
    assert struck(plan, 3, "upload", "/1/b") == []
    assert struck(plan, 3, "upload", "/1/ab") == [2]


def test_faults_used_up_are_not_in_force() -> None:
    """Once it struck as often as it may, or its nth request has passed, a fault is no longer listed; others stay."""
    once, third, ever = Fault(kind="reset", times=1), Fault(kind="slow", nth=3), Fault(kind="stall", every=2)
    plan = plan_of(once, third, ever)
    assert set(plan.faults) == {once, third, ever}
    struck(plan, 1)
    assert set(plan.faults) == {third, ever}
    struck(plan, 2)
    assert set(plan.faults) == {ever}


def test_same_seed_same_faults() -> None:
    """Probability draws repeat with the seed, differ with another, and start again at reset."""
    fault = Fault(kind="reset", probability=0.5)
    plan = plan_of(fault, seed=7)
    first = struck(plan, 60)
    assert first == struck(plan_of(fault, seed=7), 60)
    assert first != struck(plan_of(fault, seed=8), 60)
    plan.reset()
    plan.add(fault)
    assert struck(plan, 60) == first


def test_kinds_keep_to_their_actions() -> None:
    """A truncated store can only strike uploads, a stale view only reads, a late commit only writes."""
    plan = plan_of(Fault(kind="truncate"), Fault(kind="stale"), Fault(kind="late-commit"), Fault(kind="slow"))
    assert set(plan.draw("upload", "/1", skew=False)) == {"truncate", "late-commit", "slow"}
    assert set(plan.draw("stat", "/1", skew=False)) == {"stale", "slow"}
    assert set(plan.draw("delete", "/1", skew=False)) == {"late-commit", "slow"}


def test_skew_is_drawn_apart() -> None:
    """Skew is drawn before the signature is checked, everything else after."""
    plan = plan_of(Fault(kind="skew", skew_s=90), Fault(kind="reset"))
    assert set(plan.draw("stat", "/1", skew=True)) == {"skew"}
    assert set(plan.draw("stat", "/1", skew=False)) == {"reset"}


def test_json_describes_a_fault() -> None:
    """Every field can be given, numbers may be whole where fractions are allowed."""
    assert fault_from_json({"kind": "slow", "delay_s": 2, "action": None, "every": 3}) == Fault(
        kind="slow", delay_s=2, every=3
    )


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ([], "object"),
        ({}, "kind"),
        ({"kind": "fire"}, "fire"),
        ({"kind": "reset", "nht": 3}, "nht"),
        ({"kind": "reset", "nth": "3"}, "nth"),
        ({"kind": "reset", "nth": 0}, "at least 1"),
        ({"kind": "reset", "nth": True}, "nth"),
        ({"kind": "reset", "probability": 2}, "probability"),
        ({"kind": "reset", "path": None}, "path"),
        ({"kind": "truncate", "action": "stat"}, "stat"),
        ({"kind": "reset", "after_bytes": -1}, "after_bytes"),
    ],
)
def test_json_that_makes_no_sense(value: object, word: str) -> None:
    """A wrong fault is refused with a text that names what is wrong."""
    with pytest.raises(ValueError, match=word):
        fault_from_json(value)
