"""The queue as the worker sees it: one protocol, one module per kind of queue.

A queue here is first-in-first-out by key: while one message of a group is in somebody's hands, nobody gets another of
that group. Whoever holds a message holds a lease. Leases end; so each call that settles a message says whether the
queue accepted it. A refusal (False) means that the lease is lost: another worker may hold the message now.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from s3nsync.events import Burial
from s3nsync.model import Change, Delivery, QueueName


@dataclass(frozen=True, slots=True)
class Depth:
    """How many messages wait, are in somebody's hands, and are held back by the queue's own delay."""

    visible: int
    in_flight: int
    delayed: int


class Queue(Protocol):
    """Where Changes wait. All methods raise QueueError (transient) or QueueMissing (permanent)."""

    @property
    def name(self) -> QueueName:
        """Which of the three queues this is."""

    async def receive(self, max_n: int, wait_s: float) -> list[Delivery]:
        """Take at most `max_n` (1 to 10) messages, waiting at most `wait_s` seconds for the first one.

        Do not cancel it if that can be avoided: messages on their way to a cancelled call stay hidden until their
        lease ends.
        """

    async def ack(self, delivery: Delivery) -> bool:
        """Remove the message for good, durably before it returns; False if the lease was lost."""

    async def retry(self, delivery: Delivery, after_s: float) -> bool:
        """Give the message back, to be seen again after `after_s` seconds; False if the lease was lost."""

    async def extend(self, deliveries: Sequence[Delivery], for_s: float) -> list[Delivery]:
        """Let the leases run for `for_s` seconds from now; the deliveries whose lease was lost come back."""

    async def bury(self, delivery: Delivery, burial: Burial) -> bool:
        """Put `burial` on the dead-letter queue, then remove the message; False if the lease was lost.

        A crash or a lost lease in between leaves the entry behind as well as the message. The entry's deduplication
        id depends on its content alone, so doing it again adds none within the queue's memory (five minutes).
        """

    async def send(self, changes: Sequence[Change], *, fresh: bool = False) -> None:
        """Append the changes, durably before it returns; raises if any could not be.

        With `fresh` each gets a deduplication id of its own, so none is ever taken for a duplicate.
        """

    async def depth(self) -> Depth:
        """Count the messages; an estimate where the queue is distributed."""
