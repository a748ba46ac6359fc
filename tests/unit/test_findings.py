"""What `verify` says at its end, in words and as data."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from s3nsync.cli.findings import COLUMNS, Teller, facts, words
from s3nsync.cli.shell import new_ui
from s3nsync.cli.ui import Ui
from s3nsync.compare import Finding, SourceItem, TargetItem
from s3nsync.errors import ConfigError
from s3nsync.model import Route
from s3nsync.reconcile.verify import Tally


def test_only_a_whole_run_says_that_both_sides_agree() -> None:
    """A run that was stopped has looked at a part: what it did not see may differ."""
    assert "Both sides agree." in words(Tally(), 1.0, complete=True)
    assert facts(Tally(), complete=True)["verdict"] == "clean"
    stopped = words(Tally(), 1.0, complete=False)
    assert "Both sides agree." not in stopped
    assert "Whether both sides agree is not told." in stopped
    assert facts(Tally(), complete=False)["verdict"] == "unsure"


@pytest.mark.parametrize("complete", [True, False])
def test_a_difference_that_was_seen_is_told_in_any_case(*, complete: bool) -> None:
    """One difference is enough to know, however the run ended."""
    tally = Tally()
    tally.findings["missing"] += 1
    assert "The two sides DIFFER." in words(tally, 1.0, complete=complete)
    assert facts(tally, complete=complete)["verdict"] == "differs"


def test_a_csv_file_that_cannot_be_written_is_wrong_usage(tmp_path: Path) -> None:
    """Exit code 1 is kept for a difference: whoever runs this by night reads only that."""
    with (
        pytest.raises(ConfigError, match="cannot be written") as caught,
        Teller(new_ui(as_json=True), tmp_path / "none/x"),
    ):
        pass
    assert "--csv" in caught.value.hint


def test_times_are_iso_8601_in_csv_and_seconds_in_json(tmp_path: Path) -> None:
    """A spreadsheet reads the one, a program the other, whose names tell the unit."""
    source = SourceItem("site/a", 5, 1_700_000_000, "e")
    target = TargetItem("site/a", "file", 4, None, None)
    out = io.StringIO()
    with Teller(Ui(as_json=True, stdout=out), tmp_path / "found.csv") as teller:
        teller.tell(Route("media", "1", prefix="site/"), Finding("site/a", "different", "other size", source, target))
    with (tmp_path / "found.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == COLUMNS
    assert (row["s3_mtime"], row["ns_mtime"], row["s3_bytes"]) == ("2023-11-14T22:13:20Z", "", "5")
    line = json.loads(out.getvalue())
    assert (line["s3_mtime_s"], line["ns_mtime_s"]) == (1_700_000_000, None)
    assert "s3_mtime" not in line
