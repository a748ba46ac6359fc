"""The settlement table, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fakes import NOW_S
from s3nsync.engine import Debt
from s3nsync.model import Copied, Deleted, Ignored, Outcome, Rejected, Retry, Unchanged
from s3nsync.worker.settlement import Verdict, settle

GRACE_S = 180.0
CLEAN = Debt(placed=True, sent=True)
AMBIGUOUS = Debt(placed=True, sent=True, ambiguous=True)
DONE: list[Outcome] = [Copied("/1/a", 1, "md5"), Deleted("/1/a", existed=True), Unchanged("/1/a"), Ignored("archived")]


def _settle(outcome: Outcome | None, *, attempt: int = 1, debt: Debt = CLEAN, age_s: float = 0.0) -> Verdict:
    return settle(outcome, attempt=attempt, first_received_at_s=NOW_S - age_s, debt=debt, grace_s=GRACE_S, now_s=NOW_S)


@pytest.mark.parametrize("outcome", DONE)
def test_a_first_attempt_that_went_well_is_just_acked(outcome: Outcome) -> None:
    """The hot path costs no Check."""
    assert _settle(outcome) == Verdict("ack")


@pytest.mark.parametrize("outcome", DONE)
def test_rule_4_a_later_attempt_leaves_a_check_before_the_ack(outcome: Outcome) -> None:
    """What an earlier holder sent may land after us, whatever we found."""
    assert _settle(outcome, attempt=2) == Verdict("ack", check=True)


@pytest.mark.parametrize("debt", [AMBIGUOUS, replace(CLEAN, pending=True)])
def test_rule_4_anything_ambiguous_leaves_a_check_before_the_ack(debt: Debt) -> None:
    """A write repeated in place, or cut without an answer, may land after its successor."""
    assert _settle(DONE[0], debt=debt) == Verdict("ack", check=True)


def test_rule_3_a_lost_lease_is_left_and_owed_if_anything_was_sent() -> None:
    """Nobody acks or gives back what may be somebody else's by now."""
    assert _settle(None, debt=CLEAN) == Verdict("leave", check=True)
    assert _settle(None, debt=Debt(placed=True)) == Verdict("leave")


def test_rule_8_an_ambiguous_retry_waits_for_the_grace_and_others_do_not() -> None:
    """A late write must land before the next attempt, not after it."""
    assert _settle(Retry("cut", 3.0), debt=AMBIGUOUS).after_s == GRACE_S
    assert _settle(Retry("cut", 500.0), debt=AMBIGUOUS).after_s == 500.0
    assert _settle(Retry("503", 3.0)).after_s == 3.0
    assert _settle(Retry("stopping", failed=False), debt=Debt(placed=True)).after_s == 0.0


def test_rejected_is_buried_at_once_with_its_reason() -> None:
    """What can never work does not go round."""
    verdict = _settle(Rejected("no way", "rename it"))
    assert verdict == Verdict("bury", reason="no way", hint="rename it")


def test_a_refused_key_owes_nothing_however_often_it_comes() -> None:
    """A key without an address was never sent anywhere, so burying it makes no Check that buries it again."""
    assert not _settle(Rejected("no way"), attempt=5, debt=Debt()).check


def test_burying_after_attempts_leaves_a_check() -> None:
    """A buried entry stays owed until a later look finds the key equal (rule 7)."""
    assert _settle(Rejected("403"), attempt=2).check


def test_a_transient_failure_is_buried_only_after_eight_attempts_and_an_hour() -> None:
    """An outage does not empty the queue into the dead letters."""
    assert _settle(Retry("503"), attempt=8, age_s=3599).verb == "retry"
    assert _settle(Retry("503"), attempt=7, age_s=9999).verb == "retry"
    buried = _settle(Retry("503"), attempt=8, age_s=3600)
    assert (buried.verb, buried.check) == ("bury", True)


def test_going_back_is_not_failing() -> None:
    """Settling, draining and pauses raise the receive count, and never bury."""
    assert _settle(Retry("settling", failed=False), attempt=99, age_s=99999).verb == "retry"
