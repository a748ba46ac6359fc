"""What is said of a settled Change: one flat record, from which log line, metrics and screen are all made.

Pure, so that the three cannot tell different stories.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import get_args

from s3nsync.model import Copied, Deleted, Ignored, Outcome, Rejected, Report, Retry, Unchanged

OUTCOMES = ("copied", "deleted", "unchanged", "ignored", "set_aside", "retry", "rejected", "lease_lost")
"""Every word that `outcome_name` gives."""

_NAMES = {each: each.__name__.lower() for each in get_args(Outcome)}


def outcome_name(outcome: Outcome | None) -> str:
    """Give the outcome's word, one of OUTCOMES."""
    if outcome is None:
        return "lease_lost"
    return "set_aside" if isinstance(outcome, Ignored) and outcome.set_aside else _NAMES[type(outcome)]


def settled_name(settled: Report) -> str:
    """Give the word under which a settled Change is summed up: what became of it, else what it came to."""
    if settled.verb == "bury":
        return "buried"
    if isinstance(settled.outcome, Deleted) and settled.outcome.trash is not None:
        return "trashed"
    return outcome_name(settled.outcome)


def size_bytes(outcome: Outcome | None) -> int:
    """Give the bytes that were replicated."""
    return outcome.size_bytes if isinstance(outcome, Copied) else 0


def lag_s(settled: Report, now_s: float) -> float | None:
    """Give the seconds from the event in S3 to the end of its replication, or None where that says nothing.

    Only live events that reached NetStorage have a lag: a Check is late on purpose, a backfill by nature, and what was
    given back is not there yet. Without an event time the message's own counts.
    """
    if settled.queue != "live" or not isinstance(settled.outcome, Copied | Deleted | Unchanged):
        return None
    event_time = settled.change.event_time if settled.change is not None else None
    began_s = _event_time_s(event_time) or settled.sent_at_s
    return max(0.0, now_s - began_s) if began_s else None


@lru_cache(maxsize=64)  # the log's line and the metrics ask for the same Change
def _event_time_s(text: str | None) -> float | None:
    """Read ISO 8601; a time without a zone is no time that can be compared."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None


def record(settled: Report, now_s: float) -> dict[str, object]:
    """Give the canonical record of a Change: always the same first fields, then only those that say something."""
    change, outcome = settled.change, settled.outcome
    fields: dict[str, object] = {"outcome": outcome_name(outcome)}
    if change is not None:
        fields["bucket"], fields["key"] = change.ref.bucket, change.ref.key
    if isinstance(outcome, Copied | Deleted | Unchanged):
        fields["path"] = outcome.path
    if isinstance(outcome, Deleted) and outcome.trash is not None:
        fields["trash"] = outcome.trash
    if isinstance(outcome, Copied):
        fields["bytes"] = outcome.size_bytes
    fields["seconds"], fields["attempt"] = round(settled.seconds, 3), settled.attempt
    if (lag := lag_s(settled, now_s)) is not None:
        fields["lag_s"] = round(lag, 3)
    fields["queue"] = settled.queue
    if change is not None:
        fields["dialect"] = change.dialect
    _tell_why(fields, outcome)
    fields["verb"] = settled.verb
    for name in ("coalesced", "ambiguous", "checked"):
        if value := getattr(settled, name):
            fields[name] = value
    return fields


def _tell_why(fields: dict[str, object], outcome: Outcome | None) -> None:
    """Add what an outcome says of itself: its reason and hint, or its proof and notes."""
    if isinstance(outcome, Copied):
        fields["proof"] = outcome.proof
        if outcome.notes:
            fields["notes"] = list(outcome.notes)
    elif isinstance(outcome, Ignored | Retry | Rejected):
        fields["reason"] = outcome.reason
        if isinstance(outcome, Rejected) and outcome.hint:
            fields["hint"] = outcome.hint


def severity(outcome: Outcome | None) -> str:
    """Give the log level: warning for what will be tried again, error for what a person must look at."""
    match outcome:
        case Copied(notes=notes):
            return "warning" if notes else "info"
        case Rejected():
            return "error"
        case None | Retry(failed=True):
            return "warning"
        case _:
            return "info"


def printable(text: str) -> str:
    """Give the text with everything escaped that could steer a terminal or break a line."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


def human_bytes(size: int) -> str:
    """Give a size the way people read it, in binary units."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def exact_bytes(size: int) -> str:
    """Give a size to the byte, and the way people read it."""
    return f"{size:,} B" if size < 1024 else f"{size:,} B ({human_bytes(size)})"


def counted(count: int, what: str) -> str:
    """Give a count of things: `1 file`, `12,000 files`."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def human_time(seconds: float) -> str:
    """Give a length of time the way people read it: two units of it, and tenths only below a minute."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    size_s, unit, below_s, below = next(each for each in _LENGTHS if whole >= each[0])
    rest = whole % size_s // below_s
    return f"{whole // size_s:,} {unit}" + (f" {rest} {below}" if rest else "")


_LENGTHS = ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))
"""Units of time in seconds, each with the next smaller one."""


def utc(moment_s: float) -> str:
    """Give a moment (Unix seconds) in ISO 8601, in UTC, to the second; as it is where the calendar has no such year."""
    try:
        return datetime.fromtimestamp(moment_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{moment_s:.0f} s"
