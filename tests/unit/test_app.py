"""Wiring: what the settings make of the parts, where that is more than handing a value on."""

from __future__ import annotations

from typing import Any

import pytest

from s3nsync.app import open_budget, open_lanes
from s3nsync.config import load
from s3nsync.lanes import Lane
from s3nsync.worker import Limits

ACCOUNT = '{"NS_HOSTNAME": "example-nsu.akamaihd.net", "NS_USER": "upload", "NS_KEY": "key"}'
ENV = {
    "QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/1/live.fifo",
    "S3NSYNC_CHECK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/1/check.fifo",
    "S3NSYNC_DEAD_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/1/dead.fifo",
    "REGION": "eu-central-1",
    "BUCKET": "media",
    "CPCODE": "123456",
    "NS_SECRET": ACCOUNT,
}


def lanes_of(more: dict[str, Any]) -> dict[str, Lane]:
    """Open the lanes of a worker with live events."""
    settings = load(None, ENV | more)
    return open_lanes(settings, Limits(max_in_flight=settings.worker.max_in_flight))


@pytest.mark.parametrize(
    ("more", "places"),
    [
        ({}, {"default": 64}),
        ({"NS_MAX_IN_FLIGHT": "5"}, {"default": 5}),
        ({"NS_MAX_IN_FLIGHT": "500"}, {"default": 64}),
        ({"NS_SECRET_VIDEO": ACCOUNT, "NS_MAX_IN_FLIGHT": "5"}, {"default": 5, "video": 64}),
        ({"NS_BYTES_PER_S": "1048576"}, {"default": 20}),
        ({"NS_BYTES_PER_S": "1048576", "S3NSYNC_WORKER_BUFFER_BYTES": "0"}, {"default": 64}),
    ],
)
def test_an_accounts_window_has_the_workers_slots_or_fewer(more: dict[str, Any], places: dict[str, int]) -> None:
    """Its own limits narrow it; what several accounts leave each other is the business of their shares."""
    assert {name: lane.window.places for name, lane in lanes_of(more).items()} == places


@pytest.mark.parametrize("urgent", [True, False])
@pytest.mark.parametrize("accounts", [2, 3, 4])
@pytest.mark.parametrize("slots", [4, 5, 7, 8, 64, 1024])
def test_however_many_slots_other_accounts_hold_one_is_left(slots: int, accounts: int, urgent: bool) -> None:
    """Each of the others takes what it gets and never lets go; the last is let in nevertheless."""
    names = [f"NS_SECRET_A{number}" for number in range(1, accounts)]
    lanes = list(lanes_of(dict.fromkeys(names, ACCOUNT) | {"S3NSYNC_WORKER_MAX_IN_FLIGHT": str(slots)}).values())
    assert len(lanes) == accounts
    held = 0
    for lane in lanes[:-1]:
        while lane.enter_at_once(urgent=urgent):
            held += 1
    assert held < max(accounts, slots if urgent else slots - max(1, slots // 4))
    assert lanes[-1].enter_at_once(urgent=urgent)


async def test_only_several_accounts_share_slots() -> None:
    """With one account nobody else wants them."""
    for more, shares in (({}, False), ({"NS_SECRET_VIDEO": ACCOUNT}, True)):
        lane = lanes_of(more)["default"]
        assert (lane._shares is not None) is shares
        assert lane.toll_s(requests=1000) == 0.0
    lane = lanes_of({"NS_REQUESTS_PER_S": "2"})["default"]
    assert lane.toll_s(requests=12) == pytest.approx(5.0, abs=0.01)


def test_several_accounts_have_floors_in_the_byte_budget() -> None:
    """Each a part that one object at work fits into, and all of them never more than half; one account has all."""
    mib = 1 << 20
    for more, total, floor in (
        ({}, 64 * mib, None),
        ({"NS_SECRET_VIDEO": ACCOUNT}, 64 * mib, 8 * mib),
        ({f"NS_SECRET_A{number}": ACCOUNT for number in range(15)}, 64 * mib, 2 * mib),
        ({"NS_SECRET_VIDEO": ACCOUNT, "S3NSYNC_WORKER_MEMORY_BUDGET_BYTES": str(mib)}, mib, mib // 4),
    ):
        budget = open_budget(load(None, ENV | more))
        assert budget.total_bytes == total
        assert set(budget._floors.values()) == (set() if floor is None else {floor})
    nobody = load(None, ENV).model_copy(update={"accounts": {}})
    assert open_budget(nobody).total_bytes == 64 * mib
    assert open_lanes(nobody, Limits()) == {}
