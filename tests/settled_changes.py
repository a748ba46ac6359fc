"""A settled Change as the worker reports it, for the tests of what is made from it."""

from __future__ import annotations

from s3nsync.model import Change, Copied, ObjectRef, Report

NOW_S = 1_790_000_000.0

COPIED = Copied("/123456/a b.jpg", 12_345, "md5")

PUT = Change(ObjectRef("media", "a b.jpg"), "put", dialect="s3")


def settled(**changes: object) -> Report:
    """Give the plainest report; tests change what they are about."""
    plain: dict[str, object] = {
        "change": PUT,
        "queue": "live",
        "outcome": COPIED,
        "verb": "ack",
        "attempt": 1,
        "seconds": 0.0341,
        "sent_at_s": NOW_S - 2,
        "coalesced": 0,
        "ambiguous": False,
        "checked": False,
    }
    return Report(**{**plain, **changes})  # type: ignore[arg-type]
