"""What one piece of work holds of the byte budget."""

from __future__ import annotations

from dataclasses import dataclass

from s3nsync.engine.parties import Budget, Hand


@dataclass(slots=True)
class Share:
    """A part of the budget on an account's behalf, as large as was last asked for; nothing at first."""

    budget: Budget
    account: str
    hand: Hand
    _wanted_bytes: int = 0
    _taken: int = 0

    async def hold(self, size_bytes: int) -> None:
        """Hold this much in place of what is held: nobody holds bytes while waiting for others."""
        if size_bytes == self._wanted_bytes:
            return
        self.give_back()
        taken = self.budget.take_at_once(size_bytes, self.account)
        if taken is None:
            with self.hand.patience():
                taken = await self.budget.take(size_bytes, self.account)
        self._taken, self._wanted_bytes = taken, size_bytes

    def give_back(self) -> None:
        """Hold nothing; harmless when that is so."""
        taken, self._taken, self._wanted_bytes = self._taken, 0, 0
        if taken:
            self.budget.give_back(taken, self.account)
