"""Sorting what does not fit into memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3nsync.compare import TargetItem, order
from s3nsync.reconcile.listing import spill
from s3nsync.reconcile.listing.spill import Sorter


def item(key: str) -> TargetItem:
    """Make a file."""
    return TargetItem(key, "file", 1, None, "a" * 32)


keys = st.lists(st.text(st.sampled_from('a/é\udcf5\ue000🎈\n"'), max_size=4), max_size=60)


@given(lots=st.lists(keys, max_size=6), bound=st.integers(1, 20), size=st.integers(1, 7))
def test_what_goes_in_comes_out_in_order(lots: list[list[str]], bound: int, size: int) -> None:
    """Nothing is lost, doubled or altered, whatever the order, the bound and the batches."""
    with Sorter(TargetItem._make, in_memory_items=bound) as sorter:
        for lot in lots:
            sorter.add(map(item, lot))
        found = list(sorter.batches(size))
        flat = [each for lot in lots for each in lot]
        assert sorter.count == len(flat)
        assert [each for batch in found for each in batch] == [item(key) for key in sorted(flat, key=order)]
        assert all(len(batch) == size for batch in found[:-1])


def test_only_what_exceeds_the_bound_goes_to_disk(tmp_path: Path) -> None:
    """Below it no file is written; above it the files have no name that could be left behind."""
    with Sorter(TargetItem._make, in_memory_items=10, scratch=tmp_path / "not there") as sorter:
        sorter.add(map(item, "abc"))
        assert not sorter.spilled
        assert [each.key for each in sorter.in_hand] == list("abc")
    with Sorter(TargetItem._make, in_memory_items=10, scratch=tmp_path) as sorter:
        sorter.add(map(item, "abcdefghijklm"))
        assert sorter.spilled
        assert list(tmp_path.iterdir()) == []
        assert sum(map(len, sorter.batches(5))) == 13


def test_what_comes_in_order_makes_one_run(tmp_path: Path) -> None:
    """Sorted files are not taken to pieces."""
    with Sorter(TargetItem._make, in_memory_items=10, scratch=tmp_path) as sorter:
        for number in range(50):
            sorter.add([item(f"{number * 10 + last:04}") for last in range(10)])
        assert len(sorter._runs) == 1


def test_many_runs_are_merged_before_files_run_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """However disordered it is, the number of open files is bounded."""
    monkeypatch.setattr(spill, "MAX_RUNS", 4)
    with Sorter(TargetItem._make, in_memory_items=2) as sorter:
        for number in range(50, 0, -1):
            sorter.add([item(f"{number:04}"), item(f"{number:04}x")])
            assert len(sorter._runs) <= 4
        assert [each.key for each in next(sorter.batches(200))] == [
            f"{n:04}{x}" for n in range(1, 51) for x in ("", "x")
        ]
