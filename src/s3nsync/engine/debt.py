"""What a hand may owe for what it sent, from the first signature to the last answer.

A write is in one of three states: its last byte has not left (nothing can land), it has left and no answer came yet
(`pending`), or it was answered. Where an answer never comes, or a write was sent twice, the doubt stays (`ambiguous`):
settlement makes a message owe it (rules 3, 4 and 8 of docs/design.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from s3nsync.errors import S3nsyncError, TargetError, TransportError


@dataclass(slots=True)
class Debt:
    """What a hand may owe: a write that is stale, or may still land, must be owed by some message.

    `placed`: the key has an address on NetStorage. `sent`: a write has left. `pending`: its last byte has left and no
    answer came yet. `ambiguous`: an answer never came, or the write was repeated.
    """

    placed: bool = False
    sent: bool = False
    pending: bool = False
    ambiguous: bool = False

    @property
    def may_land(self) -> bool:
        """Say whether something sent may still take effect on NetStorage after we stop looking."""
        return self.pending or self.ambiguous

    def last_byte_leaves(self) -> None:
        """Note that from here on the write may take effect; a second time means that the first went unanswered."""
        self.ambiguous |= self.pending
        self.sent = self.pending = True

    def answered(self, *, repeated: bool) -> None:
        """Note a confirmed write."""
        self.pending = False
        self.ambiguous |= repeated

    def failed(self, error: S3nsyncError) -> None:
        """Note a failed write: a definite answer, or nothing sent, leaves nothing to land."""
        refused = isinstance(error, TargetError) and not error.ambiguous
        never_left = isinstance(error, TransportError) and not error.sent
        if refused or never_left:
            self.pending = False
        self.ambiguous |= self.pending or error.ambiguous
        self.pending = False
