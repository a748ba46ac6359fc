"""The bench of verify: what it makes up is found as it was made, to the last key, on both kinds of store."""

from __future__ import annotations

import pytest
from bench.listing import measure_ours
from bench.made_up import Store


@pytest.mark.parametrize("store", ["objectstore", "filestore"])
def test_what_was_made_up_is_found(store: Store) -> None:
    """The client fails unless just the missing and the altered keys are found, and all others are the same."""
    measured, peaks = measure_ours(12_000, store)
    assert measured.keys == 12_000
    assert max(peaks) == measured.peak_mib > 0
