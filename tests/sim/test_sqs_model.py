"""The model of SQS FIFO: each rule that the worker's protocol leans on.

`contract/test_queue_contract.py` holds the same rules against the model and the emulators by way of the product's
adapter, `contract/test_queue_differential.py` compares them on random steps.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from sim.sqs import ATTEMPT_S, DEDUP_S, LIFE_S, FifoQueue, Message


def bodies(messages: Iterable[Message]) -> list[str]:
    """Show what was received."""
    return [message.body for message in messages]


def filled(*pairs: str, **settings: float) -> FifoQueue:
    """Make a queue that holds these messages, each named by group and number (`a1`)."""
    queue = FifoQueue("q", **settings)  # type: ignore[arg-type]
    for pair in pairs:
        queue.send(pair, pair[0], pair, 0.0)
    return queue


def test_a_group_is_blocked_while_one_of_it_is_out() -> None:
    """Only other groups flow on; the next of the group comes after the ack."""
    queue = filled("a1", "a2", "b1")
    (first,) = queue.receive(1, 30, 1)
    assert bodies(queue.receive(10, 30, 2)) == ["b1"]
    assert queue.delete(first.receipt, 3)
    assert bodies(queue.receive(10, 30, 4)) == ["a2"]


def test_a_message_given_back_for_later_blocks_its_group() -> None:
    """Order holds also while a message waits out its back-off."""
    queue = filled("a1", "a2")
    (first,) = queue.receive(1, 30, 0)
    assert queue.change_visibility(first.receipt, 60, 1)
    assert queue.receive(10, 30, 60) == []
    assert bodies(queue.receive(10, 30, 61)) == ["a1", "a2"]


def test_an_earlier_message_comes_again_while_a_later_one_is_held() -> None:
    """A lease that ran out frees its message though the group is not free."""
    queue = filled("a1", "a2", "a3")
    first, second = queue.receive(2, 30, 0)
    assert queue.change_visibility(second.receipt, 100, 20)
    old = first.receipt
    assert bodies(queue.receive(10, 30, 31)) == ["a1"]
    assert queue.delete(old, 32) is None
    assert queue.delete(second.receipt, 33)


@pytest.mark.parametrize("when_s", [30.0, 31.0])
def test_a_stale_receipt_is_refused(when_s: float) -> None:
    """After the end of its lease a receipt settles nothing, even if nobody else has the message."""
    queue = filled("a1")
    (first,) = queue.receive(1, 30, 0)
    assert queue.delete(first.receipt, when_s) is None
    assert not queue.change_visibility(first.receipt, 10, when_s)
    assert len(queue.messages) == 1


def test_an_id_is_remembered_for_five_minutes_also_after_the_delete() -> None:
    """A duplicate of a message that is gone is dropped, and accepted once the time is over."""
    queue = filled("a1")
    (first,) = queue.receive(1, 30, 0)
    queue.delete(first.receipt, 1)
    assert queue.send("again", "a", "a1", DEDUP_S - 1) is None
    assert queue.send("again", "a", "a1", DEDUP_S) is not None


def test_receives_are_counted_until_a_redrive() -> None:
    """A message that was moved out of the dead-letter queue is new."""
    dead = FifoQueue("dead")
    queue = filled("a1", max_receives=2)
    queue.dead = dead
    for now_s in (1, 10):
        (message,) = queue.receive(1, 5, now_s)
    assert message.receives == 2
    assert message.first_received_at_s == 1
    assert queue.receive(1, 5, 20) == []
    assert bodies(dead.messages) == ["a1"]
    dead.redrive(queue, 30)
    (again,) = queue.receive(1, 5, 40)
    assert again.receives == 1


def test_the_queues_delay_and_limits() -> None:
    """A delayed message is not given yet, no lease outlives twelve hours, no more than so many are out."""
    queue = filled("a1", "b1", "c1", delay_s=60, max_out=2)
    assert queue.receive(10, 30, 59) == []
    assert queue.delayed(59) == 3
    taken = queue.receive(10, 30, 60)
    assert bodies(taken) == ["a1", "b1"]
    assert queue.change_visibility(taken[0].receipt, LIFE_S - 10, 70)
    assert not queue.change_visibility(taken[0].receipt, LIFE_S, 71)


def test_only_what_is_still_there_counts_as_out() -> None:
    """Expired leases free their room, as do deletes and a purge."""
    queue = filled("a1", "b1", "c1", max_out=2)
    first, _ = queue.receive(10, 30, 0)
    assert queue.receive(10, 30, 1) == []
    assert queue.delete(first.receipt, 2)
    assert bodies(queue.receive(10, 30, 3)) == ["c1"]
    assert queue.out(4) == 2
    assert queue.out(30) == 1
    queue.purge()
    assert queue.out(30) == 0


def test_a_receive_is_repeated_under_its_attempt_id() -> None:
    """The same messages and receipts, counted once, leases begun anew; after any was touched, the next ones come."""
    queue = filled("a1", "b1", "c1")
    first = queue.receive(2, 30, 0, "attempt")
    receipts = [each.receipt for each in first]
    assert queue.receive(2, 30, 20, "attempt") == first
    assert [(each.receipt, each.receives) for each in first] == [(receipt, 1) for receipt in receipts]
    assert queue.out(49) == 2
    assert queue.change_visibility(receipts[0], 40, 21)
    assert bodies(queue.receive(2, 30, 22, "attempt")) == ["c1"]


def test_a_receive_is_not_repeated_after_five_minutes() -> None:
    """What is asked for then is a new receive, even if the leases still run."""
    queue = filled("a1", "b1")
    queue.receive(1, 1000, 0, "attempt")
    assert bodies(queue.receive(1, 1000, ATTEMPT_S, "attempt")) == ["b1"]


def test_in_the_dead_letter_queue_the_message_id_tells_duplicates_apart() -> None:
    """Two messages with one deduplication id, sent more than five minutes apart, both arrive there."""
    queue = FifoQueue("q", max_receives=1, dead=FifoQueue("dead"))
    for at_s in (0, DEDUP_S):
        sent = queue.send("a1", "a", "same", at_s)
        assert sent is not None
    queue.receive(10, 1, DEDUP_S)
    assert queue.receive(10, 1, DEDUP_S + 10) == []
    assert queue.dead is not None
    assert [each.dedup for each in queue.dead.messages] == ["q:1", "q:2"]


def test_each_group_may_remember_ids_of_its_own() -> None:
    """With the scope of the high-throughput mode one id in two groups is two messages."""
    one, other = FifoQueue("q"), FifoQueue("q", dedup_by_group=True)
    for queue in (one, other):
        queue.send("a1", "a", "same", 0)
        queue.send("b1", "b", "same", 1)
    assert bodies(one.messages) == ["a1"]
    assert bodies(other.messages) == ["a1", "b1"]
