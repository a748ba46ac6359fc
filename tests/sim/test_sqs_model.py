"""The model of SQS FIFO: each rule that the worker's protocol leans on, and the same steps against an emulator."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from aws_emulator import Aws
from sim.sqs import DEDUP_S, LIFE_S, FifoQueue, Message


def bodies(messages: Sequence[Message]) -> list[str]:
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


class Emulated:
    """The same operations on a real SQS API; receipts are kept by message, as the model does."""

    def __init__(self, aws: Aws) -> None:
        self._sqs = aws.sqs
        self._url = aws.queue()

    def send(self, body: str, group: str, dedup: str) -> None:
        """Send one."""
        self._sqs.send_message(QueueUrl=self._url, MessageBody=body, MessageGroupId=group, MessageDeduplicationId=dedup)

    def receive(self, max_n: int) -> list[tuple[str, int, str]]:
        """Take some: body, receive count and receipt of each."""
        answer = self._sqs.receive_message(
            QueueUrl=self._url, MaxNumberOfMessages=max_n, VisibilityTimeout=600, AttributeNames=["All"]
        )
        return [
            (each["Body"], int(each["Attributes"]["ApproximateReceiveCount"]), each["ReceiptHandle"])
            for each in answer.get("Messages", [])
        ]

    def delete(self, receipt: str) -> bool:
        """Remove one; False if refused."""
        try:
            self._sqs.delete_message(QueueUrl=self._url, ReceiptHandle=receipt)
        except self._sqs.exceptions.ClientError:
            return False
        return True

    def give_back(self, receipt: str) -> bool:
        """Give one back at once; False if refused."""
        try:
            self._sqs.change_message_visibility(QueueUrl=self._url, ReceiptHandle=receipt, VisibilityTimeout=0)
        except self._sqs.exceptions.ClientError:
            return False
        return True


@pytest.mark.parametrize("seed", range(12))
def test_model_and_emulator_agree_on_random_steps(aws: Aws, seed: int) -> None:
    """Sends, duplicates, receives, deletes and give-backs, fresh and stale, come out the same on both.

    Two differences are known and left out. The emulator honours a receipt whose lease is over until somebody else has
    the message, where SQS refuses it for FIFO queues. And it keeps a message that was given back from everybody while
    a later one of its group is out, where SQS may give it again. No step waits, so no lease ends but by giving back.
    """
    rng = random.Random(seed)
    model, real = FifoQueue("q"), Emulated(aws)
    receipts: list[tuple[str, str]] = []
    for step in range(40):
        match rng.choice(["send", "send", "receive", "receive", "delete", "give back"]):
            case "send":
                group, number = rng.choice("abc"), rng.randrange(8)
                model.send(f"{group}{number}-{step}", group, f"{group}{number}", 0.0)
                real.send(f"{group}{number}-{step}", group, f"{group}{number}")
            case "receive":
                want = rng.choice([1, 2, 10])
                ours = model.receive(want, 600, 0.0)
                theirs = real.receive(want)
                assert [(each.body, each.receives) for each in ours] == [each[:2] for each in theirs], step
                receipts += [(one.receipt, other[2]) for one, other in zip(ours, theirs, strict=True)]
            case verb if not receipts or _differ(model, verb, (pair := rng.choice(receipts))[0]):
                assert verb in {"delete", "give back"}
            case "delete":
                one, other = pair
                assert (model.delete(one, 0.0) is not None) == real.delete(other), step
            case "give back":
                one, other = pair
                assert model.change_visibility(one, 0.0, 0.0) == real.give_back(other), step


def _differ(queue: FifoQueue, verb: str, receipt: str) -> bool:
    """Say whether model and emulator are known to differ after this step."""
    message = next((each for each in queue.messages if each.receipt == receipt), None)
    if message is None:
        return False
    later = [each for each in queue.messages if each.group == message.group and each.number > message.number]
    return not message.is_out(0.0) or (verb == "give back" and any(each.is_out(0.0) for each in later))
