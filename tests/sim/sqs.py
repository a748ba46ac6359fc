"""An executable model of an SQS FIFO queue, as far as the worker can tell it from the real one.

    order        a group's messages come in the order they were sent; one is held back while an earlier one of its
                 group is out, delayed or given back for later. So an earlier message whose lease has run out is given
                 again although a later one of the same receive is still held
    lease        a receipt is good until its lease ends or the message is received again; a stale one is refused
    count        each receive adds one; a redrive, which makes a new message, starts again at one
    duplicates   a deduplication id is remembered for five minutes, whether its message still exists or not
    delay        the queue's own, for each message from its sending; there is none by message
    limits       12 hours from a receive; so many messages out at once; after so many receives the dead-letter queue

All methods are immediate and take the time as an argument; `sim.queues` puts a network in front. Sources: Amazon SQS
Developer Guide ("FIFO queue delivery logic", "exactly-once processing", "visibility timeout", "dead-letter queues") and
API reference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

DEDUP_S = 300.0
"""How long an id is remembered from its sending on."""

LIFE_S = 12 * 3600.0
"""How long a message may stay out, counted from the receive."""


@dataclass(eq=False)
class Message:
    """One message; it is out while `receipt` is set and `shown_at_s` lies ahead. `holder` is for its readers."""

    number: int
    body: str
    group: str
    dedup: str
    sent_at_s: float
    shown_at_s: float
    receives: int = 0
    first_received_at_s: float = 0.0
    received_at_s: float = 0.0
    receipt: str = ""
    holder: str = ""

    def is_out(self, now_s: float) -> bool:
        """Say whether somebody holds it, or has given it back for later."""
        return bool(self.receipt) and self.shown_at_s > now_s


@dataclass(eq=False)
class FifoQueue:
    """The model; `lost` counts what went to `dead` by too many receives."""

    name: str
    delay_s: float = 0.0
    max_out: int = 20_000
    max_receives: int | None = None
    dead: FifoQueue | None = None
    messages: list[Message] = field(default_factory=list)
    seen: dict[str, float] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    accepted: int = 0
    deleted: int = 0

    def send(self, body: str, group: str, dedup: str, now_s: float) -> Message | None:
        """Append a message; None if its id was sent within five minutes."""
        if now_s - self.seen.get(dedup, float("-inf")) < DEDUP_S:
            return None
        self.seen[dedup] = now_s
        message = Message(next(self.numbers), body, group, dedup, now_s, now_s + self.delay_s)
        self.messages.append(message)
        self.accepted += 1
        return message

    def receive(self, max_n: int, lease_s: float, now_s: float) -> list[Message]:
        """Lend at most `max_n` messages, in order within each group."""
        taken: list[Message] = []
        blocked: set[str] = set()
        room = self.max_out - self.out(now_s)
        for message in list(self.messages):
            if len(taken) == min(max_n, room):
                break
            if message.group in blocked:
                continue
            if message.shown_at_s > now_s:
                blocked.add(message.group)
            elif self.max_receives is not None and message.receives >= self.max_receives:
                self._move_to_dead(message, now_s)
            else:
                taken.append(message)
        for message in taken:
            self._lend(message, lease_s, now_s)
        return taken

    def _lend(self, message: Message, lease_s: float, now_s: float) -> None:
        message.receives += 1
        message.receipt = f"{self.name}-{message.number}-{message.receives}"
        message.first_received_at_s = message.first_received_at_s or now_s
        message.received_at_s = now_s
        message.shown_at_s = now_s + lease_s

    def _move_to_dead(self, message: Message, now_s: float) -> None:
        self.messages.remove(message)
        if self.dead is not None:
            self.dead.send(message.body, message.group, message.dedup, now_s)

    def delete(self, receipt: str, now_s: float) -> Message | None:
        """Remove a message for good and give it; None if the receipt is stale."""
        message = self._held(receipt, now_s)
        if message is not None:
            self.messages.remove(message)
            self.deleted += 1
        return message

    def change_visibility(self, receipt: str, for_s: float, now_s: float) -> bool:
        """Let the lease end `for_s` from now; False if the receipt is stale or the message would be out too long."""
        message = self._held(receipt, now_s)
        if message is None or now_s + for_s > message.received_at_s + LIFE_S:
            return False
        message.shown_at_s = now_s + for_s
        return True

    def _held(self, receipt: str, now_s: float) -> Message | None:
        return next((each for each in self.messages if each.receipt == receipt and each.is_out(now_s)), None)

    def redrive(self, to: FifoQueue, now_s: float) -> None:
        """Move everything that is not out to another queue, as new messages."""
        for message in [each for each in self.messages if not each.is_out(now_s)]:
            self.messages.remove(message)
            to.send(message.body, message.group, f"{message.dedup}-{message.number}-again", now_s)

    def out(self, now_s: float) -> int:
        """Count the messages in somebody's hands."""
        return sum(message.is_out(now_s) for message in self.messages)

    def delayed(self, now_s: float) -> int:
        """Count the messages that the queue's delay holds back."""
        return sum(not message.receipt and message.shown_at_s > now_s for message in self.messages)

    def next_shown_s(self, now_s: float) -> float | None:
        """Say when the next message that is hidden now comes to light."""
        return min((each.shown_at_s for each in self.messages if each.shown_at_s > now_s), default=None)
