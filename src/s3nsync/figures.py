"""What is said of a settled Change: one flat record, from which log line, metrics and screen are all made.

Pure, so that the three cannot tell different stories.
"""

from __future__ import annotations

from datetime import UTC, datetime

from s3nsync.model import Copied, Deleted, Ignored, Outcome, Rejected, Report, Retry, Unchanged

OUTCOMES = ("copied", "deleted", "unchanged", "ignored", "set_aside", "retry", "rejected", "lease_lost")
"""Every word that `outcome_name` gives."""


def outcome_name(outcome: Outcome | None) -> str:
    """Give the outcome's word, one of OUTCOMES."""
    match outcome:
        case None:
            return "lease_lost"
        case Ignored(set_aside=True):
            return "set_aside"
        case _:
            return type(outcome).__name__.lower()


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
    lag = lag_s(settled, now_s)
    fields: dict[str, object] = {
        "outcome": outcome_name(outcome),
        "bucket": change.ref.bucket if change is not None else None,
        "key": change.ref.key if change is not None else None,
        "path": getattr(outcome, "path", None),
        "trash": getattr(outcome, "trash", None),
        "bytes": size_bytes(outcome) if isinstance(outcome, Copied) else None,
        "seconds": round(settled.seconds, 3),
        "attempt": settled.attempt,
        "lag_s": None if lag is None else round(lag, 3),
        "queue": settled.queue,
        "dialect": change.dialect if change is not None else None,
        "reason": getattr(outcome, "reason", None),
        "hint": getattr(outcome, "hint", None) or None,
        "proof": getattr(outcome, "proof", None),
        "notes": list(getattr(outcome, "notes", ())) or None,
        "verb": settled.verb,
        "coalesced": settled.coalesced or None,
        "ambiguous": settled.ambiguous or None,
        "checked": settled.checked or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


def severity(outcome: Outcome | None) -> str:
    """Give the log level: warning for what will be tried again, error for what a person must look at."""
    match outcome:
        case Rejected():
            return "error"
        case None | Retry(failed=True):
            return "warning"
        case Copied(notes=notes) if notes:
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
