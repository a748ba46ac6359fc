"""docs/operations-image.md says what is so: its metrics are those there are, its figures those in force."""

from __future__ import annotations

import re
from pathlib import Path

from s3nsync.metrics import UNITS
from s3nsync.settings import WorkerSettings

PAGE = (Path(__file__).parents[2] / "docs" / "operations-image.md").read_text("utf-8")


def test_every_metric_is_told_and_no_other() -> None:
    """A graph is built from this table."""
    rows = re.findall(r"^\| (`.*?) \|", PAGE.partition("## Metrics")[2].partition("\n## ")[0], re.MULTILINE)
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == sorted(UNITS)


def test_the_time_to_stop_is_the_default() -> None:
    """Whoever runs the container gives it as long as this."""
    assert f"`worker.drain_s` ({WorkerSettings().drain_s} s by default)" in PAGE
