"""What the worker holds: leases on messages, hands of messages for one key, and slots to work in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from s3nsync.engine import Debt
from s3nsync.engine import Hand as EngineHand
from s3nsync.errors import LeaseLost
from s3nsync.model import Change, Delivery, QueueName

LEASE_MARGIN_S = 5.0
"""A lease counts as lost this long before its end: clocks drift and answers travel."""


@dataclass(slots=True, eq=False)
class Lease:
    """Our hold on one message: until `ends_s` by the worker's clock, or until the queue said no."""

    delivery: Delivery
    taken_s: float
    ends_s: float
    lost: bool = False


@dataclass(slots=True, eq=False)
class Hand:
    """The messages of one key that were received together; the engine sees it as its `Hand`."""

    change: Change
    queue: QueueName
    leases: list[Lease]
    clock_s: Callable[[], float]
    moved_s: float
    debt: Debt = field(default_factory=Debt)
    task: asyncio.Task[None] | None = None
    patient: bool = False

    @property
    def exclusive(self) -> bool:
        """Only the live queue keeps everybody else away: the other two run beside it."""
        return self.queue == "live"

    @property
    def attempt(self) -> int:
        """How often the most-tried message was received."""
        return max(lease.delivery.attempt for lease in self.leases)

    @property
    def first_received_at_s(self) -> float:
        """When the oldest message was first received, in Unix seconds by the queue's clock."""
        return min(lease.delivery.first_received_at_s for lease in self.leases)

    def check(self) -> None:
        """Raise LeaseLost unless every lease is alive with a margin."""
        now_s = self.clock_s()
        for lease in self.leases:
            if lease.lost or now_s > lease.ends_s - LEASE_MARGIN_S:
                msg = f"the lease on the message of {self.change.ref} was lost"
                raise LeaseLost(msg)

    def progress(self) -> None:
        """Note that the work moves."""
        self.moved_s = self.clock_s()

    def patience(self) -> Patience:
        """Count the block as moving, however long it takes."""
        return Patience(self)

    def is_stalled(self, stall_s: float) -> bool:
        """Say whether the work has not moved for so long."""
        return not self.patient and self.clock_s() - self.moved_s > stall_s


class Patience:
    """A block that counts as moving; a class, for a generator costs several times as much, and each object has two."""

    __slots__ = ("_hand",)

    def __init__(self, hand: Hand) -> None:
        """Nothing changes yet."""
        self._hand = hand

    def __enter__(self) -> None:
        """Begin to be patient."""
        self._hand.patient = True

    def __exit__(self, *_: object) -> None:
        """Go on as before; the end of the wait counts as a move."""
        self._hand.patient = False
        self._hand.progress()


def _hand_is_the_engines(hand: Hand) -> EngineHand:
    """Let the type checker hold our Hand against the engine's."""
    return hand


class Slots:
    """How many keys may be worked on at once; a part is kept for the live queue."""

    def __init__(self, total: int, kept_for_live: int) -> None:
        """Open `total` slots of which the last `kept_for_live` go to live messages only."""
        self.total = total
        self.free = total
        self._kept = kept_for_live
        self._changed = asyncio.Condition()

    async def take(self, queue: QueueName, want: int) -> int:
        """Wait for at least one slot this queue may use, and take up to `want`."""
        kept = 0 if queue == "live" else self._kept
        async with self._changed:
            await self._changed.wait_for(lambda: self.free > kept)
            taken = min(want, self.free - kept)
            self.free -= taken
            return taken

    async def give(self, n: int) -> None:
        """Give slots back."""
        async with self._changed:
            self.free += n
            self._changed.notify_all()
