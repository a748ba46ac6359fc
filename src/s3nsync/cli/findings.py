"""How verify tells what it found: to people, as JSON lines, and as a CSV file."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from s3nsync.cli.ui import Ui
from s3nsync.compare import Finding, Kind
from s3nsync.errors import ConfigError
from s3nsync.figures import counted, human_bytes, human_time, utc
from s3nsync.mapping import target_directory
from s3nsync.model import Route
from s3nsync.reconcile.verify import Tally

SHOWN = 20
"""Findings of one kind that people are shown; --json and --csv have all of them."""

COLUMNS = ("kind", "bucket", "key", "path", "why", "s3_bytes", "s3_mtime", "s3_etag", "ns_bytes", "ns_mtime", "ns_md5")
"""Of the CSV file, whose times are ISO 8601; in JSON they are Unix seconds, and named `s3_mtime_s` and `ns_mtime_s`."""


class _Writer(Protocol):
    def writerow(self, row: list[object], /) -> object:
        """Write one row."""


class Teller:
    """Tells findings as they come; use as a context, which closes the CSV file."""

    def __init__(self, ui: Ui, csv_file: Path | None) -> None:
        """Take where to; the file is written anew."""
        self._ui = ui
        self._csv_file = csv_file
        self._csv: _Writer | None = None
        self._stack = ExitStack()
        self._told: Counter[Kind] = Counter()

    def __enter__(self) -> Self:
        """Open the file, if one was asked for; ConfigError if it cannot be."""
        if self._csv_file is not None:
            # A name that is not UTF-8 comes out as the bytes that it is.
            try:
                file = self._csv_file.open("w", newline="", encoding="utf-8", errors="surrogateescape")
            except OSError as error:
                problem = f"{self._csv_file}: cannot be written: {error.strerror}"
                raise ConfigError(problem, hint="check the path given by --csv") from error
            self._csv = csv.writer(self._stack.enter_context(file))
            self._csv.writerow(list(COLUMNS))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._stack.close()

    def tell(self, route: Route, finding: Finding) -> None:
        """Tell one finding."""
        row = _row(route, finding)
        if self._csv is not None:
            self._csv.writerow([_spelled(name, value) for name, value in row.items()])
        self._told[finding.kind] += 1
        if self._ui.as_json or self._told[finding.kind] <= SHOWN:
            self._ui.say("finding", f"{finding.kind:12} {finding.key}  ({finding.why})", **row)

    def tell_rest(self) -> None:
        """Say how many findings people were not shown."""
        for kind, count in self._told.items():
            if count > SHOWN and not self._ui.as_json:
                where = self._csv_file or "--json or --csv FILE"
                self._ui.say("more", f"{kind:12} … and {count - SHOWN:,} more: see {where}")


def _row(route: Route, finding: Finding) -> dict[str, object]:
    source, target = finding.source, finding.target
    return {
        "kind": finding.kind,
        "bucket": route.bucket,
        "key": finding.key,
        "path": f"{target_directory(route)}/{finding.key[len(route.strip_prefix) :]}",
        "why": finding.why,
        "s3_bytes": source.size_bytes if source else None,
        "s3_mtime_s": source.mtime_s if source else None,
        "s3_etag": source.etag if source else None,
        "ns_bytes": target.size_bytes if target else None,
        "ns_mtime_s": target.mtime_s if target else None,
        "ns_md5": target.md5 if target else None,
    }


def _spelled(name: str, value: object) -> object:
    """Spell a value for a spreadsheet."""
    return utc(value) if name.endswith("_s") and isinstance(value, int) else value


def facts(tally: Tally, *, complete: bool) -> dict[str, object]:
    """Give a tally as plain data. Only a run that came to its end can say `clean`."""
    return {
        "verdict": tally.verdict if complete or tally.verdict == "differs" else "unsure",
        "complete": complete,
        "objects": tally.source_objects,
        "bytes": tally.source_bytes,
        "files": tally.target_files,
        "same": dict(tally.same),
        "same_bytes": tally.same_bytes,
        "ignored": tally.ignored,
        "settled": tally.settled,
        "findings": dict(tally.findings),
    }


VERDICTS: Mapping[str, str] = {
    "clean": "Both sides agree.",
    "differs": "The two sides DIFFER.",
    "unsure": "No difference was found, and not everything could be told: --deep reads and hashes what is left.",
}


def words(tally: Tally, seconds: float, *, complete: bool) -> str:
    """Give a tally in words. Only a run that came to its end can say that both sides agree."""
    is_told = complete or tally.verdict == "differs"
    verdict = VERDICTS[tally.verdict] if is_told else "Whether both sides agree is not told."
    same = ", ".join(f"{count:,} by {evidence}" for evidence, count in tally.same.items() if evidence != "directory")
    found = ", ".join(f"{count:,} {kind}" for kind, count in tally.findings.items() if count)
    rate = f", {tally.source_objects / seconds:,.0f} objects a second" if seconds > 0 and tally.source_objects else ""
    settled = f" Gone at a second look: {tally.settled:,}." if tally.settled else ""
    ignored = f" Left out by the route: {tally.ignored:,}." if tally.ignored else ""
    listed = f"S3 lists {counted(tally.source_objects, 'object')}, {human_bytes(tally.source_bytes)}"
    lines = [
        f"{listed}; NetStorage {counted(tally.target_files, 'file')}. Same: {same or 'none'}.",
        f"Found: {found or 'nothing'}.{settled}{ignored}",
        f"{human_time(seconds)}{rate}. {verdict}",
    ]
    return "\n".join([*lines, *(() if complete else ("Stopped before the end: this is what was seen so far.",))])
