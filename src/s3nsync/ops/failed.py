"""The dead-letter queue, made readable: what was buried, why, and back again.

SQS has no way to look without taking, so a sweep takes every entry for a while, decides on each, removes those that are
done with and gives the others back at once. Entries that the worker buried carry their reason; those that SQS itself
moved, after three hundred receives, carry none: a message that kills workers.

A retried entry goes to the bulk queue with an id of its own, and is removed only after it is there. What a worker has
buried again before the sweep is over is met a second time: it stays (`came_back`), or one that fails at once would go
round for as long as the sweep lasts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from s3nsync.errors import UndecodableEvent
from s3nsync.events import Burial, decode, decode_burial
from s3nsync.model import Change, Delivery
from s3nsync.queues import Queue

NO_REASON = "no reason recorded: SQS moved it here after too many receives, so it may be a message that kills workers"

HOLD_S = 900.0
"""How long an entry is held that came a second time; it is given back at the sweep's end."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One dead letter; `changes` is empty if its body is none of ours."""

    delivery: Delivery
    burial: Burial | None
    changes: tuple[Change, ...]

    @property
    def name(self) -> str:
        """Name the object, or the message where there is none."""
        if self.burial is not None and self.burial.ref is not None:
            return str(self.burial.ref)
        return str(self.changes[0].ref) if self.changes else f"message {self.delivery.message_id}"

    @property
    def reason(self) -> str:
        """Say why it is here."""
        return self.burial.reason if self.burial is not None else NO_REASON

    def facts(self) -> dict[str, object]:
        """Give the entry as plain data; times in Unix seconds."""
        burial = self.burial
        return {
            "name": self.name,
            "reason": self.reason,
            "hint": burial.hint if burial else "look at its body with --json before you retry it",
            "attempts": burial.attempts if burial else None,
            "first_attempt_s": burial.first_attempt_s if burial else None,
            "last_attempt_s": burial.last_attempt_s if burial else None,
            "queue": burial.queue if burial else None,
            "body": burial.body if burial else self.delivery.body,
        }


def read(delivery: Delivery) -> Entry:
    """Make sense of a dead letter."""
    try:
        changes = decode(delivery.body).changes
    except UndecodableEvent:
        changes = ()
    return Entry(delivery, decode_burial(delivery.body), changes)


def selected(entry: Entry, patterns: tuple[str, ...]) -> bool:
    """Say whether an entry's name is one of the patterns, or matches one as a shell's would; all do if there are none.

    A name may hold what would be a pattern: `a[1].txt`.
    """
    return not patterns or entry.name in patterns or any(fnmatchcase(entry.name, each) for each in patterns)


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep came to: `refused` names the entries that were to be removed, and that the queue kept."""

    seen: int
    removed: int
    refused: tuple[str, ...]


async def sweep(dead: Queue, decide: Callable[[Entry], Awaitable[Literal["keep", "remove"]]], limit: int) -> Swept:
    """Show up to `limit` entries to `decide`, remove those it says, give the others back.

    Entries of one key are one group: while the first is held, later ones may stay out of sight. An entry stays if its
    lease ended before it could be removed. What comes a second time, because the sweep takes longer than the queue's
    leases, is held for longer, or it would hide what is behind it.
    """
    refused: list[str] = []
    removed = 0
    held: list[Delivery] = []
    seen: set[str] = set()
    try:
        while len(seen) < limit:
            deliveries = await dead.receive(10, 1.0)
            if not deliveries:
                break
            held += deliveries
            again = [each for each in deliveries if each.message_id in seen]
            if again:
                await dead.extend(again, HOLD_S)
            fresh = [each for each in deliveries if each.message_id not in seen][: limit - len(seen)]
            for delivery in fresh:
                seen.add(delivery.message_id)
                entry = read(delivery)
                if await decide(entry) == "remove":
                    if await dead.ack(delivery):
                        removed += 1
                    else:
                        refused.append(entry.name)
                    held.remove(delivery)
    finally:
        await asyncio.gather(*(dead.retry(delivery, 0.0) for delivery in held))
    return Swept(len(seen), removed, tuple(refused))


def came_back(entry: Entry, run: str) -> bool:
    """Say whether this run has retried the entry already: it failed again at once."""
    return any(change.run == run for change in entry.changes)


async def retry(entry: Entry, bulk: Queue, run: str) -> bool:
    """Have the entry's keys looked at again; False if it names none. Its caller removes it afterwards.

    `run` is told by what is buried again. It is no deduplication id: a message that is taken for an earlier one is
    dropped, and its entry is removed all the same.
    """
    if not entry.changes:
        return False
    await bulk.send([change._replace(run=run) for change in entry.changes], fresh=True)
    return True
