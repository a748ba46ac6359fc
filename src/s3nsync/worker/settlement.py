"""What becomes of a hand's messages, as one pure table: an outcome and a debt in, a verdict out."""

from __future__ import annotations

from typing import Literal, NamedTuple

from s3nsync.decide import is_hopeless
from s3nsync.engine import Debt
from s3nsync.model import Outcome, Rejected, Retry


class Verdict(NamedTuple):
    """What to do with a hand's messages; `check`: put a Check on the queue first."""

    verb: Literal["ack", "retry", "bury", "leave"]
    check: bool = False
    after_s: float = 0.0
    reason: str = ""
    hint: str = ""


def settle(
    outcome: Outcome | None,
    *,
    attempt: int,
    first_received_at_s: float,
    debt: Debt,
    grace_s: float,
    now_s: float,
) -> Verdict:
    """Turn an outcome into a verdict; None stands for a lost lease.

    ==================================  ===========================================================
    lease lost                          leave; with a Check if anything was sent (rule 3)
    Retry, hopeless                     bury, for this key failed often and long enough while others did not
    Retry                               retry, and not before the grace if a write may still land (rule 8)
    Rejected                            bury
    all others                          ack
    ==================================  ===========================================================

    Before an ack or a burial comes a Check wherever an older write of this key may still land: a later attempt, or
    something ambiguous in this hand (rule 4; so a Check that goes well at once spawns none). A key without an address
    on NetStorage can owe nothing.
    """
    if outcome is None:
        return Verdict("leave", check=debt.sent)
    suspect = attempt > 1 or debt.may_land
    check = suspect and debt.placed
    if isinstance(outcome, Retry):
        if outcome.failed and not outcome.outage and is_hopeless(attempt, first_received_at_s, now_s):
            return Verdict("bury", check=check, reason=outcome.reason, hint="tried for over an hour; retry it by hand")
        after_s = max(outcome.after_s, grace_s) if debt.may_land else outcome.after_s
        return Verdict("retry", after_s=after_s)
    if isinstance(outcome, Rejected):
        return Verdict("bury", check=check, reason=outcome.reason, hint=outcome.hint)
    return Verdict("ack", check=check)
