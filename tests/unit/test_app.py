"""Wiring: what the settings make of the parts, where that is more than handing a value on."""

from __future__ import annotations

from typing import Any

import pytest

from s3nsync.app import open_lanes
from s3nsync.config import load

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


@pytest.mark.parametrize(
    ("more", "places"),
    [
        ({}, {"default": 64}),
        ({"NS_MAX_IN_FLIGHT": "5"}, {"default": 5}),
        ({"NS_MAX_IN_FLIGHT": "500"}, {"default": 64}),
        ({"NS_SECRET_VIDEO": ACCOUNT}, {"default": 48, "video": 48}),
        ({"NS_BYTES_PER_S": "1048576"}, {"default": 20}),
        ({"NS_BYTES_PER_S": "1048576", "S3NSYNC_WORKER_BUFFER_BYTES": "0"}, {"default": 64}),
    ],
)
def test_an_accounts_window_has_the_workers_slots_or_fewer(more: dict[str, Any], places: dict[str, int]) -> None:
    """One account may use all slots, one of several three quarters; its own limits narrow it further."""
    lanes = open_lanes(load(None, ENV | more))
    assert {name: lane.window.places for name, lane in lanes.items()} == places


@pytest.mark.parametrize("slots", [4, 5, 7, 8, 64, 1024])
def test_one_of_several_accounts_never_has_all_slots(slots: int) -> None:
    """Its places and its line together leave at least one to the others."""
    lanes = open_lanes(load(None, ENV | {"NS_SECRET_VIDEO": ACCOUNT, "S3NSYNC_WORKER_MAX_IN_FLIGHT": str(slots)}))
    assert all(lane.window.places + lane._line < slots for lane in lanes.values())


async def test_only_one_of_several_accounts_sends_keys_back() -> None:
    """With one account nobody else wants the slots."""
    for more, waits in (({}, True), ({"NS_SECRET_VIDEO": ACCOUNT}, False)):
        lane = open_lanes(load(None, ENV | more))["default"]
        assert (lane._line == float("inf")) is waits
        assert lane.toll_s(requests=1000) == 0.0
    lane = open_lanes(load(None, ENV | {"NS_REQUESTS_PER_S": "2"}))["default"]
    assert lane.toll_s(requests=12) == pytest.approx(5.0, abs=0.01)
