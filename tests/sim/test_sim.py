"""The promises of docs/design.md in a simulated world; `SEED=n pytest tests/sim/test_sim.py` replays one seed."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
import structlog

from sim.plan import MENU, draw
from sim.simulation import Result, run
from sim.story import shrink, tell

SEEDS = [int(os.environ["SEED"])] if "SEED" in os.environ else list(range(1, 301))


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    """Keep the workers' warnings to themselves: they are told of hundreds of faults."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    yield
    structlog.configure(**before)


@pytest.fixture(scope="module")
def played() -> list[Result]:
    """Play every seed once."""
    return [run(draw(seed)) for seed in SEEDS]


@pytest.mark.slow
def test_every_promise_is_kept(played: list[Result]) -> None:
    """G1 to G8 hold through crashes, freezes, lost answers and late writes; a failure tells its shortest story."""
    broken = [result for result in played if result.violations]
    assert not broken, tell(shrink(broken[0]))


@pytest.mark.parametrize("seed", [200_036, 203_015])
def test_a_worker_that_stands_still_while_it_cuts_its_hands_leaves_none_behind(seed: int) -> None:
    """In these plans a worker sleeps through the time its cut hands have to settle: they are given what they need."""
    result = run(draw(seed))
    assert not result.violations, tell(result)


@pytest.mark.slow
@pytest.mark.skipif(len(SEEDS) == 1, reason="one seed does not meet every fault")
def test_every_kind_of_fault_really_strikes(played: list[Result]) -> None:
    """A simulation whose faults miss proves nothing."""
    struck: Counter[str] = Counter()
    for result in played:
        struck.update(result.injected)
    assert {kind for kinds in MENU.values() for kind in kinds} <= set(struck)
    assert sum(struck.values()) > len(SEEDS)


def test_a_seed_is_one_story() -> None:
    """The same plan plays the same way, to the last line."""
    first, second = (run(draw(5)) for _ in range(2))
    assert len(first.story) > 10
    assert first == second
