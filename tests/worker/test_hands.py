"""What a hand is, apart from the worker that holds it."""

from __future__ import annotations

import pytest

from s3nsync.model import Change, ObjectRef, QueueName
from s3nsync.worker.hands import Hand


@pytest.mark.parametrize(("queue", "exclusive"), [("live", True), ("bulk", False), ("check", False)])
def test_rule_2_only_the_live_queue_is_exclusive(queue: QueueName, exclusive: bool) -> None:
    """Bulk and check run beside live messages of the same key: their hands owe S3 a second look."""
    hand = Hand(Change(ObjectRef("media", "a"), "put"), queue, [], clock_s=lambda: 0.0, moved_s=0.0)
    assert hand.exclusive is exclusive
