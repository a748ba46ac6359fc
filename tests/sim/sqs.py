"""An executable model of an SQS FIFO queue, as far as the worker can tell it from the real one.

    order        a group's messages come in the order they were sent; one is held back while an earlier one of its
                 group is out, delayed or given back for later. So an earlier message whose lease has run out is given
                 again although a later one of the same receive is still held
    lease        a receipt is good until its lease ends or the message is received again; a stale one is refused
    count        each receive adds one; a redrive, which makes a new message, starts again at one
    again        a receive repeated under its attempt id gives the same messages and receipts, leases begun anew, as
                 long as all of them are out and untouched
    duplicates   a deduplication id is remembered for five minutes, whether its message still exists or not
    delay        the queue's own, for each message from its sending; there is none by message
    dead         after so many receives a message moves on; its message id becomes its deduplication id there
    limits       12 hours from a receive; so many messages out at once

All methods are immediate and take the time as an argument; `sim.network` puts a simulated network in front of it,
`sqs_stub` a real one. No step looks at more messages than are out, but for those that count the delayed ones.
Sources: Amazon SQS Developer Guide ("FIFO queue delivery logic", "exactly-once processing", "visibility timeout",
"dead-letter queues") and API reference (ReceiveMessage for the attempt id).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

DEDUP_S = 300.0
"""How long an id is remembered from its sending on."""

ATTEMPT_S = 300.0
"""How long a receive may be repeated."""

LIFE_S = 12 * 3600.0
"""How long a message may stay out, counted from the receive."""


@dataclass(eq=False)
class Message:
    """One message; it is out while `receipt` is set and `shown_at_s` lies ahead. `holder` is for its readers."""

    number: int
    message_id: str
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


class Line(OrderedDict[Message, None]):
    """The messages in the order of their sending; each can be taken out at once, wherever it stands."""

    def remove(self, message: Message) -> None:
        """Take one out; KeyError if it is not there."""
        del self[message]


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a receive gave: good for a repetition while each message has the receipt and the end that it had."""

    made_at_s: float
    given: tuple[tuple[Message, str, float], ...]


@dataclass(eq=False)
class FifoQueue:
    """The model. `dedup_by_group` lets each group remember ids of its own."""

    name: str
    delay_s: float = 0.0
    max_out: int = 120_000
    max_receives: int | None = None
    dead: FifoQueue | None = None
    dedup_by_group: bool = False
    messages: Line = field(default_factory=Line)
    lent: dict[str, Message] = field(default_factory=dict)
    seen: OrderedDict[tuple[str, str], tuple[float, str]] = field(default_factory=OrderedDict)
    attempts: OrderedDict[str, Attempt] = field(default_factory=OrderedDict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    accepted: int = 0
    deleted: int = 0

    def send(self, body: str, group: str, dedup: str, now_s: float) -> Message | None:
        """Append a message; None if its id was sent within five minutes."""
        if self.original(group, dedup, now_s) is not None:
            return None
        number = next(self.numbers)
        message = Message(number, f"{self.name}:{number}", body, group, dedup, now_s, now_s + self.delay_s)
        self.seen[self._memory_of(group, dedup)] = (now_s, message.message_id)
        self.messages[message] = None
        self.accepted += 1
        return message

    def original(self, group: str, dedup: str, now_s: float) -> str | None:
        """Give the message id that was sent with this deduplication id within five minutes."""
        while self.seen and now_s - next(iter(self.seen.values()))[0] >= DEDUP_S:
            self.seen.popitem(last=False)
        found = self.seen.get(self._memory_of(group, dedup))
        return None if found is None else found[1]

    def _memory_of(self, group: str, dedup: str) -> tuple[str, str]:
        return (group if self.dedup_by_group else "", dedup)

    def receive(self, max_n: int, lease_s: float, now_s: float, attempt: str = "") -> list[Message]:
        """Lend at most `max_n` messages, in order within each group; the same again for an `attempt` made before."""
        taken = self._given_before(attempt, lease_s, now_s)
        if taken is not None:
            return taken
        taken = self._next(max_n, now_s)
        for message in taken:
            self._lend(message, lease_s, now_s)
        if attempt and taken:
            self.attempts[attempt] = Attempt(now_s, tuple((each, each.receipt, each.shown_at_s) for each in taken))
        return taken

    def _next(self, max_n: int, now_s: float) -> list[Message]:
        taken: list[Message] = []
        spent: list[Message] = []
        blocked: set[str] = set()
        room = min(max_n, self.max_out - self.out(now_s))
        for message in self.messages:
            if len(taken) >= room:
                break
            if message.group in blocked:
                continue
            if message.shown_at_s > now_s:
                blocked.add(message.group)
            elif self.max_receives is not None and message.receives >= self.max_receives:
                spent.append(message)
            else:
                taken.append(message)
        for message in spent:
            self._move_to_dead(message, now_s)
        return taken

    def _given_before(self, attempt: str, lease_s: float, now_s: float) -> list[Message] | None:
        while self.attempts and now_s - next(iter(self.attempts.values())).made_at_s >= ATTEMPT_S:
            self.attempts.popitem(last=False)
        before = self.attempts.get(attempt)
        if before is None or not all(
            self._held(receipt, now_s) is each and each.shown_at_s == ends_s for each, receipt, ends_s in before.given
        ):
            return None
        for each, _, _ in before.given:
            each.shown_at_s = now_s + lease_s
        self.attempts[attempt] = Attempt(
            before.made_at_s, tuple((each, receipt, each.shown_at_s) for each, receipt, _ in before.given)
        )
        return [each for each, _, _ in before.given]

    def _lend(self, message: Message, lease_s: float, now_s: float) -> None:
        self.lent.pop(message.receipt, None)
        message.receives += 1
        message.receipt = f"{self.name}-{message.number}-{message.receives}"
        message.first_received_at_s = message.first_received_at_s or now_s
        message.received_at_s = now_s
        message.shown_at_s = now_s + lease_s
        self.lent[message.receipt] = message

    def _move_to_dead(self, message: Message, now_s: float) -> None:
        self._remove(message)
        if self.dead is not None:
            self.dead.send(message.body, message.group, message.message_id, now_s)

    def _remove(self, message: Message) -> None:
        self.messages.remove(message)
        self.lent.pop(message.receipt, None)

    def delete(self, receipt: str, now_s: float) -> Message | None:
        """Remove a message for good and give it; None if the receipt is stale."""
        message = self._held(receipt, now_s)
        if message is not None:
            self._remove(message)
            self.deleted += 1
        return message

    def change_visibility(self, receipt: str, for_s: float, now_s: float) -> bool:
        """Let the lease end `for_s` from now; False if the receipt is stale or the message would be out too long."""
        message = self._held(receipt, now_s)
        if message is None or now_s + for_s > message.received_at_s + LIFE_S:
            return False
        message.shown_at_s = now_s + for_s
        return True

    def holds(self, receipt: str, now_s: float) -> bool:
        """Say whether the receipt stands for a lease that runs."""
        return self._held(receipt, now_s) is not None

    def _held(self, receipt: str, now_s: float) -> Message | None:
        message = self.lent.get(receipt)
        return message if message is not None and message in self.messages and message.is_out(now_s) else None

    def redrive(self, to: FifoQueue, now_s: float) -> int:
        """Move everything that is not out to another queue, as new messages; gives how many."""
        moved = [each for each in self.messages if not each.is_out(now_s)]
        for message in moved:
            self._remove(message)
            to.send(message.body, message.group, f"{message.dedup}-{message.number}-again", now_s)
        return len(moved)

    def purge(self) -> None:
        """Forget every message, those out included; what was sent is remembered nevertheless."""
        self.messages.clear()
        self.lent.clear()

    def out(self, now_s: float) -> int:
        """Count the messages in somebody's hands."""
        return sum(message.is_out(now_s) and message in self.messages for message in self.lent.values())

    def delayed(self, now_s: float) -> int:
        """Count the messages that the queue's delay holds back."""
        if not self.delay_s:
            return 0
        return sum(not message.receipt and message.shown_at_s > now_s for message in self.messages)

    def next_shown_s(self, now_s: float) -> float | None:
        """Say when the next message that is hidden now comes to light."""
        candidates = self.messages if self.delay_s else self.lent.values()
        return min((each.shown_at_s for each in candidates if each.shown_at_s > now_s), default=None)
