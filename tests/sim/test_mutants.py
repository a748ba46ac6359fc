"""The simulation finds bugs: some of `sim.mutants`, each of which breaks a promise within a few seeds.

All of them, with more seeds: `python tests/sim/mutants.py`.
"""

from __future__ import annotations

import pytest

from sim.mutants import MUTANTS, SECOND_LINES, hunt

QUICK = {
    "rule 1: no lease is checked before sending": "rule 1",
    "rule 4: a later attempt leaves no check": "G4",
    "rule 4: an ambiguous write leaves no check": "G4",
    "rule 4: the check comes after the ack": "G4",
    "rule 5: joining a hand at work": "G7",
    "rule 6: a stat is remembered": "G5",
    "rule 6: what was written is remembered": "G5",
    "ack before the work": "G5",
    "delete on 403": "G2",
    "delete on NoSuchBucket": "G2",
    "duplicates told by the key alone": "G1",
    "no size is declared where the digest comes at the end": "G3",
    "a burial without a reason": "G7",
    "an archived object is set aside in silence": "G7",
    "slots leak": "G1",
}
"""Mutants that are caught early, and the promise that each breaks."""


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_a_deliberate_bug_is_caught(name: str) -> None:
    """Each breaks the promise that it should, and the story of one fits on a page."""
    caught = hunt(MUTANTS[name], seeds=200, timeout_s=1200.0)
    assert caught is not None
    assert caught.violation.startswith(QUICK[name]), caught


@pytest.mark.slow
def test_the_story_of_a_bug_is_short() -> None:
    """What a failing seed does not need is dropped: the rest fits on a page."""
    caught = hunt(MUTANTS["rule 4: an ambiguous write leaves no check"], seeds=200, timeout_s=1200.0, tells=True)
    assert caught is not None
    assert 5 < caught.story.count("\n") < 40, caught.story


def test_without_an_edit_nothing_is_caught() -> None:
    """The copy itself keeps its promises."""
    assert hunt((), seeds=10, timeout_s=1200.0) is None


def test_an_edit_that_no_longer_fits_is_told() -> None:
    """A mutant whose line has changed must not count as caught."""
    for edits in [*MUTANTS.values(), *SECOND_LINES.values()]:
        assert all(edit.fits() for edit in edits), edits
