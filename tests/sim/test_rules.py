"""Each rule of the protocol has tests that fail when it is taken out: docs/semantics.md lists them, this runs them so.

The simulation finds the same gaps (`sim.mutants`), but late and by chance; these tests say at once which rule it was.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path

import pytest

from sim.mutants import MUTANTS, SECOND_LINES, altered

ROOT = Path(__file__).parents[2]
ENGINE, WORKER, SETTLEMENT = (
    "tests/engine/test_engine.py",
    "tests/worker/test_worker.py",
    "tests/worker/test_settlement.py",
)
CLIENT, HANDS = "tests/contract/test_netstorage_client.py", "tests/worker/test_hands.py"

RULES = {
    "rule 1: no lease is checked before sending": [
        f"{ENGINE}::test_a_lease_lost_before_the_send_sends_nothing",
        f"{ENGINE}::test_a_lease_lost_during_a_stream_stops_before_the_last_chunk",
    ],
    "rule 1: the client asks nobody before it signs": [
        f"{CLIENT}::test_a_guard_that_refuses_keeps_everything_unsent",
        f"{CLIENT}::test_a_guard_that_refuses_the_repeat_leaves_the_first_in_doubt",
    ],
    "rule 2: no lease is checked after the answer": [f"{ENGINE}::test_a_lease_lost_after_the_answer_is_noticed"],
    "rule 2: bulk takes no second look": [f"{HANDS}::test_rule_2_only_the_live_queue_is_exclusive"],
    "rule 2: a refused ack counts as done": [f"{WORKER}::test_rule_2_a_refused_ack_is_a_lost_lease"],
    "rule 3: no check after a lost lease": [
        f"{SETTLEMENT}::test_rule_3_a_lost_lease_is_left_and_owed_if_anything_was_sent",
        f"{WORKER}::test_rule_3_a_lease_lost_after_a_write_enqueues_a_check_and_acks_nothing",
    ],
    "rule 3: no check after a settlement that went unanswered": [
        f"{WORKER}::test_rule_3_a_settlement_that_went_unanswered_owes_a_check_if_anything_was_sent",
    ],
    "rule 4: a later attempt leaves no check": [
        f"{SETTLEMENT}::test_rule_4_a_later_attempt_leaves_a_check_before_the_ack",
    ],
    "rule 4: an ambiguous write leaves no check": [
        f"{SETTLEMENT}::test_rule_4_anything_ambiguous_leaves_a_check_before_the_ack",
    ],
    "rule 4: the check comes after the ack": [
        f"{WORKER}::test_rule_4_a_later_attempt_enqueues_a_check_before_its_ack",
    ],
    "every check leaves another": [f"{WORKER}::test_rule_4_a_check_that_goes_well_at_once_spawns_none"],
    "rule 5: joining a hand at work": [f"{WORKER}::test_a_message_that_comes_during_the_look_gets_its_own"],
    "rule 6: what was written is remembered": [
        f"{ENGINE}::test_rule_6_nothing_is_remembered_from_one_attempt_to_the_next",
    ],
    "rule 6: a stat is remembered": [
        f"{ENGINE}::test_rule_6_nothing_is_remembered_from_one_attempt_to_the_next",
        f"{ENGINE}::test_unchanged_comes_only_from_a_stat_of_this_attempt",
    ],
    "rule 7: a burial leaves no check": [f"{SETTLEMENT}::test_burying_after_attempts_leaves_a_check"],
    "rule 8: what may still land comes back at once": [
        f"{SETTLEMENT}::test_rule_8_an_ambiguous_retry_waits_for_the_grace_and_others_do_not",
        f"{WORKER}::test_rule_8_a_drain_cuts_what_cannot_finish_and_gives_it_back",
    ],
    "a refused extension is taken for a good one": [
        f"{WORKER}::test_an_extension_that_is_refused_loses_the_lease",
    ],
    "a settlement can be cut": [
        f"{WORKER}::test_a_settlement_is_finished_though_the_drain_deadline_cuts_it",
    ],
}
"""By mutant: the tests that must fail."""


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_a_rule_taken_out_is_noticed(name: str) -> None:
    """Every test listed fails on a copy of the source without the rule."""
    with altered({**MUTANTS, **SECOND_LINES}[name]) as scratch:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--tb=no", "-p", "no:cacheprovider", *RULES[name]],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(scratch)},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    failed = set(re.findall(r"^FAILED ([^\s\[]+)", done.stdout, re.MULTILINE))
    assert failed == set(RULES[name]), done.stdout[-2000:]


def test_every_rule_is_taken_out() -> None:
    """The eight rules are all there, and the page for users names the same tests."""
    page = (ROOT / "docs" / "semantics.md").read_text("utf-8")
    assert {name[5] for name in RULES if name.startswith("rule ")} == set("12345678")
    assert not [each for each in chain.from_iterable(RULES.values()) if each not in page]
