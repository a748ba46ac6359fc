"""A settled Change as the worker reports it, for the tests of what is made from it."""

from __future__ import annotations

from dataclasses import dataclass

from s3nsync.model import Change, Copied, ObjectRef, Outcome, QueueName

NOW_S = 1_790_000_000.0

COPIED = Copied("/123456/a b.jpg", 12_345, "md5")

PUT = Change(ObjectRef("media", "a b.jpg"), "put", dialect="s3")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The plainest report; tests change what they are about."""

    outcome: Outcome | None = COPIED
    change: Change = PUT
    queue: QueueName = "live"
    verb: str = "ack"
    attempt: int = 1
    seconds: float = 0.0341
    sent_at_s: float = NOW_S - 2
    coalesced: int = 0
    ambiguous: bool = False
    checked: bool = False
