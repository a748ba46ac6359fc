"""What the worker holds: leases on messages, hands of messages for one key, and slots to work in."""

from __future__ import annotations

import asyncio
from collections import deque
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
    """The messages of one key that were received together; the engine sees it as its `Hand`.

    `settling`: what became of the key is known, and its messages are being settled: nothing may cut that short, for
    half a settlement could lose a debt. `urgent`: it is of the live queue, or the only check at work.
    """

    change: Change
    queue: QueueName
    leases: list[Lease]
    clock_s: Callable[[], float]
    moved_s: float
    debt: Debt = field(default_factory=Debt)
    task: asyncio.Task[None] | None = None
    patient: bool = False
    settling: bool = False
    urgent: bool = True

    @property
    def exclusive(self) -> bool:
        """Only the live queue keeps everybody else away: the other two run beside it."""
        return self.queue == "live"

    @property
    def attempt(self) -> int:
        """How often the most-tried message was received."""
        return (
            self.leases[0].delivery.attempt if len(self.leases) == 1 else max(each.attempt for each in self.deliveries)
        )

    @property
    def first_received_at_s(self) -> float:
        """When the oldest message was first received, in Unix seconds by the queue's clock."""
        return min(each.first_received_at_s for each in self.deliveries)

    @property
    def deliveries(self) -> list[Delivery]:
        """Its messages."""
        return [lease.delivery for lease in self.leases]

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
        return not (self.patient or self.settling) and self.clock_s() - self.moved_s > stall_s

    def cut(self) -> None:
        """Cancel the work, unless it is done and being settled."""
        if self.task is not None and not self.settling:
            self.task.cancel()


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
    """How many keys may be worked on at once; a part is kept for the live queue.

    Who waits stands in line, and is called once there is a slot for it: that one is no newcomer's. What else came free
    until it gets to run is its too, so that one receive serves several.

    While no check is at work the next one has a live message's rights: a check looks after what may be stale, and may
    not wait for as long as live events keep every slot at work. The last slot of those kept is for live events alone.
    """

    def __init__(self, total: int, kept_for_live: int) -> None:
        """Open `total` slots of which the last `kept_for_live` go to live messages only."""
        self.total = total
        self.free = total
        self.checks = 0
        self._kept = kept_for_live
        self._closed = False
        self._waiting: deque[tuple[QueueName, asyncio.Future[None]]] = deque()
        self._called = 0

    async def take(self, queue: QueueName, want: int) -> int:
        """Wait for at least one slot this queue may use, and take up to `want`; 0 once they are closed."""
        while not self._closed and self.free - self._called <= self._kept_from(queue):
            await self._wait(queue)
        if self._closed:
            return 0
        taken = min(want, max(1, self.free - self._called - (0 if queue == "live" else self._kept)))
        self.free -= taken
        if queue == "check":
            self.checks += taken
        return taken

    def give(self, n: int, queue: QueueName = "live") -> None:
        """Give slots back that this queue had."""
        self.free += n
        if queue == "check":
            self.checks -= n
        self._call()

    def _kept_from(self, queue: QueueName) -> int:
        if queue == "live" or (queue == "check" and self.checks == 0 and self._kept > 1):
            return 0
        return self._kept

    def close(self) -> None:
        """Give nothing out any more, and let nobody wait."""
        self._closed = True
        self._call()

    async def _wait(self, queue: QueueName) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((queue, turn))
        self._call()  # one that was called in vain leaves its slot to those behind it
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._waiting.remove((queue, turn))
            else:  # called in the same moment
                self._called -= 1
                self._call()
            raise
        self._called -= 1

    def _call(self) -> None:
        """Call those in line for whom there is a slot."""
        for each in tuple(self._waiting):
            queue, turn = each
            if (self._closed or self.free - self._called > self._kept_from(queue)) and not turn.done():
                self._waiting.remove(each)
                self._called += 1
                turn.set_result(None)
