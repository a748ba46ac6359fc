"""Random steps on the model of SQS FIFO and on an emulator, side by side: what they answer must be the same.

Each run draws sends (with duplicates), receives, acks, give-backs, extensions, counts and waits, on one to three
groups, with leases of a second or two that run out now and then. The emulator is driven by the product's adapter.
Receipts are used fresh and stale. Runs go on at the same time, each on a queue of its own.

Both sides live on the real clock. So that a few milliseconds decide nothing, no step is made within a margin of the
end of a lease; a step that took longer than that itself, while a short lease ran, ends its run. Then the same seed is
played again with every time doubled, and so on: a slow machine, or one that stands still, makes for long runs, not for
other results.

The differences that are known, each left out where it would show (`DIFFERENCES` holds them; the contract suite proves
that they still exist):

    stale       the emulator honours a receipt whose lease is over until somebody else has the message; SQS refuses it.
                Left out: settling by a receipt that is a message's last, after its lease
    gap         the emulator keeps a message that is free from everybody while a later one of its group is out; SQS
                gives it. Left out: receiving while there is such a gap
    forgetting  moto forgets a deduplication id with its message. Left out: sending what was sent and is gone
    any receipt moto takes every receipt that a message ever had. Left out: settling by one that is not its last
    reorder     moto skips messages when several of a group come free. Left out on moto: short leases, and giving back
                one of several of a group

A failure names its seed and tells the run's steps. S3NSYNC_QUEUE_SEEDS=FIRST:COUNT runs others: 17:1 replays seed 17,
0:1000 takes some minutes.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aws_emulator import Aws
from queue_stand_ins import MOTO, Name, Place, StandIn, moto, stand_in
from s3nsync.events import decode, dedup_id, encode, group_id
from s3nsync.model import Change, Delivery, ObjectRef
from s3nsync.queues import Depth
from s3nsync.queues.sqs import SqsQueue
from sim.sqs import FifoQueue, Message

STEPS = 40
MARGIN_S = 0.25
"""Further from the end of every lease than both calls of a step take together, on a machine at leisure."""
PACES = (1, 2, 4, 8, 16)
"""By what all times are multiplied, until a run goes through."""

TOGETHER = 12
"""Runs at once: they wait most of the time, and yet no call must take long."""
FIRST, COUNT = map(int, os.environ.get("S3NSYNC_QUEUE_SEEDS", "0:24").split(":"))

SHORT_S = 2
"""A lease that runs out now and then."""
LONG_S = 3600.0
"""A lease that does not end in a run."""


class DifferError(AssertionError):
    """The two sides do not answer the same."""


def _stale(run: Run, held: Held | None, _verb: str) -> bool:
    """Tell a message's last receipt, its lease over."""
    return held is not None and held.is_last and run.has(held) and not held.message.is_out(run.now_s)


def _gap(run: Run, _held: Held | None, verb: str) -> bool:
    """Tell a receive while some group has a free message before one that is out."""
    free: set[str] = set()
    for each in run.model.messages if verb == "receive" else ():
        if each.shown_at_s <= run.now_s:
            free.add(each.group)
        elif each.group in free:
            return True
    return False


def _any_receipt(run: Run, held: Held | None, _verb: str) -> bool:
    """Tell a receipt that is not its message's last, or whose message is gone."""
    return held is not None and not (held.is_last and run.has(held))


def _reorder(run: Run, held: Held | None, verb: str) -> bool:
    """Tell a give-back while others of the group have been received; and a wait, which no lease of moto's would end."""
    return verb == "wait" or (
        verb == "retry"
        and held is not None
        and any(
            each.receipt for each in run.model.messages if each.group == held.message.group and each != held.message
        )
    )


Difference = Callable[["Run", "Held | None", str], bool]
DIFFERENCES: Mapping[Name, tuple[Difference, ...]] = {
    "ministack": (_stale, _gap),
    "moto": (_stale, _gap, _any_receipt, _reorder),
}


@dataclass(frozen=True, slots=True)
class Held:
    """A message received: the model's, with its receipt of then, and the emulator's."""

    message: Message
    receipt: str
    delivery: Delivery

    @property
    def is_last(self) -> bool:
        """Say whether the message has not been received since."""
        return self.message.receipt == self.receipt


@dataclass
class Run:
    """One run of random steps, on a queue of its own."""

    seed: int
    on: Name
    url: str
    short: SqsQueue
    long: SqsQueue
    pace: int
    model: FifoQueue = field(default_factory=lambda: FifoQueue("model"))
    held: list[Held] = field(default_factory=list)
    sent: set[str] = field(default_factory=set)
    story: list[str] = field(default_factory=list)
    now_s: float = 0.0

    def __post_init__(self) -> None:
        """Draw by the seed alone."""
        self.rng = random.Random(f"{self.on} {self.seed}")
        self.groups = self.rng.choice(["a", "ab", "abc"])

    def has(self, held: Held) -> bool:
        """Say whether the message is still there."""
        return held.message in self.model.messages

    @property
    def margin_s(self) -> float:
        """How far from the end of every lease a step begins."""
        return MARGIN_S * self.pace

    async def play(self) -> bool:
        """Make the steps; False if one took so long that what it shows is nobody's fault."""
        for step in range(STEPS):
            await self._keep_clear_of_ends()
            try:
                await self._step(step)
            except DifferError:
                if self._took_too_long():
                    return False
                raise
            if self._took_too_long():
                return False
        return True

    def _took_too_long(self) -> bool:
        """Say whether the step took so long that a lease ended in it, or that the two sides may see its end apart."""
        took_s = time.time() - self.now_s
        ends = any(self.now_s < each.shown_at_s < self.now_s + LONG_S / 2 for each in self.model.messages)
        return took_s > self.margin_s and self.story[-1] != "wait" and ends

    async def _keep_clear_of_ends(self) -> None:
        """Set the step's time, the first that is far enough from every end."""
        while True:
            self.now_s = time.time()
            close = [e for e in (m.shown_at_s for m in self.model.messages) if abs(e - self.now_s) < self.margin_s]
            if not close:
                return
            await asyncio.sleep(max(close) + self.margin_s - self.now_s)

    async def _step(self, step: int) -> None:
        verb = self.rng.choices(["send", "receive", "ack", "retry", "extend", "count", "wait"], [6, 6, 4, 2, 2, 1, 1])[
            0
        ]
        held = self.rng.choice(self.held) if self.held and verb in {"ack", "retry", "extend"} else None
        drawn = self.rng.random()
        if (held is None and verb in {"ack", "retry", "extend"}) or any(
            shows(self, held, verb) for shows in DIFFERENCES[self.on]
        ):
            self.story.append("-")
            return
        self.story.append(verb)
        match verb:
            case "send":
                await self._send(drawn, step)
            case "receive":
                await self._receive(drawn)
            case "count":
                await self._count()
            case "wait":
                await asyncio.sleep((0.5 + drawn) * self.pace)
            case _:
                assert held is not None
                await self._settle(verb, held, drawn)

    async def _send(self, drawn: float, step: int) -> None:
        """Send one of few events of a key, told apart by the step that sent it; so some are duplicates."""
        key, number = self.groups[int(drawn * len(self.groups))], self.rng.randrange(6)
        change = Change(ObjectRef("b", key), "put", "s3", "Put", event_time=str(step), sequencer=f"{number:02}")
        dedup = dedup_id(change)
        if self.on == "moto" and dedup in self.sent - {each.dedup for each in self.model.messages}:
            return  # "forgetting"
        self.sent.add(dedup)
        self.story[-1] += f" {key}{number}"
        self.model.send(encode(change), group_id(change.ref), dedup, self.now_s)
        await self.short.send([change])

    async def _receive(self, drawn: float) -> None:
        brief = drawn < 0.5 and self.on != "moto"
        want = self.rng.choice([1, 2, 10])
        for_s = SHORT_S * self.pace if brief else LONG_S
        ours = self.model.receive(want, for_s, self.now_s)
        theirs = await (self.short if brief else self.long).receive(want, 0)
        self.story[-1] += f" {want} for {for_s:g} s: {_shown(ours)}"
        self._agree([(m.body, m.receives) for m in ours], [(d.body, d.attempt) for d in theirs])
        self.held += [Held(one, one.receipt, other) for one, other in zip(ours, theirs, strict=True)]

    async def _count(self) -> None:
        out = self.model.out(self.now_s)
        self._agree(Depth(len(self.model.messages) - out, out, 0), await self.short.depth())

    async def _settle(self, verb: str, held: Held, drawn: float) -> None:
        for_s = int(drawn * 3) * self.pace
        if self.on == "moto":
            for_s = 0 if verb == "retry" else int(LONG_S)
        self.story[-1] += f" {_shown([held.message])}" + ("" if verb == "ack" else f" for {for_s} s")
        if verb == "ack":
            ours = self.model.delete(held.receipt, self.now_s) is not None
            self._agree(ours, await self.short.ack(held.delivery))
        else:
            ours = self.model.change_visibility(held.receipt, for_s, self.now_s)
            done = self.short.retry(held.delivery, for_s) if verb == "retry" else self._extend(held.delivery, for_s)
            self._agree(ours, await done)
        self.story[-1] += f": {ours}"

    async def _extend(self, delivery: Delivery, for_s: float) -> bool:
        return await self.short.extend([delivery], for_s) == []

    def _agree(self, ours: object, theirs: object) -> None:
        if ours != theirs:
            steps = "\n".join(f"    {step}" for step in self.story)
            raise DifferError(
                f"seed {self.seed} on {self.on}: the model says {ours}, the emulator {theirs}, after\n{steps}"
            )


def _shown(messages: list[Message]) -> str:
    changes = [decode(each.body).changes[0] for each in messages]
    return " ".join(f"{one.ref.key}{int(one.sequencer or '0')}/{one.event_time}" for one in changes) or "nothing"


async def _compare(name: Name, place: Place, count: int) -> None:
    """Play so many seeds, each to its end."""
    gate = asyncio.Semaphore(TOGETHER)

    async def play(on: StandIn, seed: int) -> Run:
        async with gate:
            for pace in PACES:
                url = await on.make()
                run = Run(seed, name, url, on.queue(url, lease_s=SHORT_S * pace), on.queue(url, lease_s=LONG_S), pace)
                if await run.play():
                    return run
        pytest.fail(f"no step may take {run.margin_s} s, not even on a busy machine")

    async with stand_in(name, place) as on:
        runs = await asyncio.gather(*(play(on, seed) for seed in range(FIRST, FIRST + count)))
    verbs = Counter(itertools.chain.from_iterable((step.split()[0] for step in run.story) for run in runs))
    print(f"{name}: seeds {FIRST} to {FIRST + count - 1}, steps {dict(verbs)}")  # noqa: T201 - for those who ask by -s
    assert sum(verbs.values()) == STEPS * count


async def test_the_model_and_ministack_agree(aws: Aws) -> None:
    """Answers are the same, step by step, leases that run out included."""
    await _compare("ministack", Place(aws.url, aws.keys), COUNT)


async def test_the_model_and_moto_agree_where_moto_is_right(tmp_path: Path) -> None:
    """The same within long leases: no order after a lease, no stale receipts, no memory of what is gone."""
    if not MOTO.exists():
        pytest.skip("moto is not installed: make .venv-moto/.ready")
    with moto(tmp_path) as place:
        await _compare("moto", place, (COUNT + 2) // 3)  # it is slow
