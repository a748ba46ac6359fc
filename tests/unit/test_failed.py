"""The dead-letter queue made readable: sweeping, selecting, retrying."""

from __future__ import annotations

from typing import Literal

import pytest

from fakes import NOW_S, FakeQueue
from s3nsync.errors import QueueError
from s3nsync.events import Burial, encode, encode_burial
from s3nsync.model import Change, ObjectRef
from s3nsync.ops.failed import NO_REASON, Entry, Swept, came_back, read, retry, selected, sweep

REF = ObjectRef("media", "site/a b.txt")
PUT = Change(REF, "put", sequencer="01", event_name="ObjectCreated:Put", dialect="s3")


def _burial(ref: ObjectRef | None, body: str) -> str:
    return encode_burial(
        Burial(
            ref=ref,
            reason="has ..",
            hint="rename it",
            first_attempt_s=NOW_S,
            last_attempt_s=NOW_S + 9,
            attempts=3,
            queue="live",
            body=body,
        )
    )


class Bench:
    """A dead-letter queue with some entries, and a bulk queue."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self.dead = FakeQueue("dead", clock_s=lambda: self.clock)
        self.bulk = FakeQueue("bulk", clock_s=lambda: self.clock)
        self.seen: list[Entry] = []

    def fill(self, count: int) -> None:
        for number in range(count):
            ref = ObjectRef("media", f"k{number}")
            self.dead.put_body(_burial(ref, encode(Change(ref, "put", sequencer="01"))), f"g{number}")

    async def keep(self, entry: Entry) -> Literal["keep", "remove"]:
        self.seen.append(entry)
        return "keep"

    async def remove(self, entry: Entry) -> Literal["keep", "remove"]:
        self.seen.append(entry)
        return "remove"


async def test_looking_removes_nothing_and_hides_nothing() -> None:
    """All entries are shown once, and are there for the next look at once."""
    bench = Bench()
    bench.fill(25)
    for _ in range(2):
        bench.seen.clear()
        assert await sweep(bench.dead, bench.keep, 1000) == Swept(25, 0, ())
        assert len({entry.name for entry in bench.seen}) == 25
    assert (await bench.dead.depth()).visible == 25


async def test_a_limit_is_kept_and_the_rest_is_not_hidden() -> None:
    """What was received beyond the limit is given back too."""
    bench = Bench()
    bench.fill(25)
    assert await sweep(bench.dead, bench.remove, 12) == Swept(12, 12, ())
    assert (await bench.dead.depth()).visible == 13


async def test_a_sweep_that_outlasts_the_leases_sees_everything() -> None:
    """The first entries come again before the last ones have come, and hide nothing; all are given back."""
    bench = Bench()
    bench.fill(45)

    async def slowly(entry: Entry) -> Literal["keep", "remove"]:
        bench.clock += 3.0  # leases are of 60 s
        return await bench.keep(entry)

    assert await sweep(bench.dead, slowly, 1000) == Swept(45, 0, ())
    assert (await bench.dead.depth()).visible == 45


async def test_an_entry_whose_removal_is_refused_counts_as_kept() -> None:
    """A lease that ended meanwhile: the entry is still there, and its name is told."""
    bench = Bench()
    bench.fill(3)

    async def dawdle(entry: Entry) -> Literal["keep", "remove"]:
        if entry.name.endswith("k1"):
            bench.dead.expire()
        return "remove"

    assert await sweep(bench.dead, dawdle, 3) == Swept(3, 1, ("s3://media/k1", "s3://media/k2"))
    assert (await bench.dead.depth()).visible == 2


async def test_a_sweep_that_breaks_off_gives_everything_back() -> None:
    """An error in the middle hides nothing."""
    bench = Bench()
    bench.fill(5)

    async def fail(_entry: Entry) -> Literal["keep", "remove"]:
        raise QueueError("down")

    with pytest.raises(QueueError):
        await sweep(bench.dead, fail, 1000)
    assert (await bench.dead.depth()).visible == 5


async def test_a_retried_entry_is_on_the_bulk_queue_before_it_is_removed() -> None:
    """With an id of its own, so that a second retry is no duplicate of the first."""
    bench = Bench()
    bench.dead.put_body(_burial(REF, encode(PUT)), "g")

    async def again(entry: Entry) -> Literal["keep", "remove"]:
        assert await retry(entry, bench.bulk, "retry-1")
        assert not bench.dead.empty
        return "remove"

    await sweep(bench.dead, again, 10)
    assert bench.dead.empty
    assert [(change.ref, change.run) for change in bench.bulk.sent] == [(REF, "retry-1")]


async def test_what_fails_again_during_the_sweep_is_met_again_and_stays() -> None:
    """A worker buries it while the sweep goes on; were it retried and removed once more, nobody would know of it."""
    bench = Bench()
    bench.dead.put_body(_burial(REF, encode(PUT)), "g")

    async def again(entry: Entry) -> Literal["keep", "remove"]:
        bench.seen.append(entry)
        if came_back(entry, "retry-1"):
            return "keep"
        assert await retry(entry, bench.bulk, "retry-1")
        (delivery,) = await bench.bulk.receive(1, 0.0)
        bench.dead.put_body(_burial(REF, delivery.body), "g again")
        return "remove"

    assert await sweep(bench.dead, again, 10) == Swept(2, 1, ())
    assert len(bench.bulk.sent) == 1
    assert (await bench.dead.depth()).visible == 1


async def test_two_entries_of_one_event_are_two_messages() -> None:
    """SQS drops what has an earlier one's deduplication id; the entry would be gone, and nobody would look."""
    bench = Bench()
    bench.dead.put_body(_burial(REF, encode(PUT)), "g")
    (delivery,) = await bench.dead.receive(1, 0.0)
    for _ in range(2):
        assert await retry(read(delivery), bench.bulk, "retry-1")
    assert len(bench.bulk.sent) == 2


async def test_what_sqs_moved_by_itself_says_so_and_can_be_retried() -> None:
    """Such an entry has no reason recorded; its body is the message itself."""
    bench = Bench()
    bench.dead.put_body(encode(PUT), "g")
    await sweep(bench.dead, bench.keep, 10)
    (entry,) = bench.seen
    assert (entry.name, entry.reason) == (str(REF), NO_REASON)
    assert await retry(entry, bench.bulk, "r")


async def test_a_poison_body_has_a_name_and_stays() -> None:
    """It names no object, so there is nothing to retry."""
    bench = Bench()
    bench.dead.put_body(_burial(None, "poison {"), "g")
    await sweep(bench.dead, bench.keep, 10)
    (entry,) = bench.seen
    assert entry.name.startswith("message ")
    assert entry.facts()["body"] == "poison {"
    assert not await retry(entry, bench.bulk, "r")
    assert bench.bulk.sent == []


async def test_patterns_match_whole_names() -> None:
    """`*` crosses slashes; no pattern means all."""
    bench = Bench()
    bench.dead.put_body(_burial(REF, encode(PUT)), "g")
    await sweep(bench.dead, bench.keep, 10)
    (entry,) = bench.seen
    assert selected(entry, ())
    assert selected(entry, ("nothing", "s3://media/site/*"))
    assert not selected(entry, ("site/*",))


async def test_a_whole_name_matches_itself() -> None:
    """Even where it holds what a pattern would: it is what `status` and `list` say to paste."""
    bench = Bench()
    ref = ObjectRef("media", "shots/a[1].jpg")
    bench.dead.put_body(_burial(ref, encode(Change(ref, "put"))), "g")
    await sweep(bench.dead, bench.keep, 10)
    assert selected(bench.seen[0], ("s3://media/shots/a[1].jpg",))
    assert not selected(bench.seen[0], ("s3://media/shots/a1.jpg",))
