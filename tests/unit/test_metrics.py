"""Figures: counted once, written as CloudWatch's embedded metric format asks."""

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3nsync.compare import Kind
from s3nsync.lanes import LaneFigures
from s3nsync.metrics import MAX_SAMPLES, MAX_VALUES, UNITS, Lags, Metrics, verified_line
from s3nsync.model import Change, Deleted, Ignored, ObjectRef, Rejected, Retry
from settled_changes import COPIED, NOW_S, settled


def lane(cuts: int) -> LaneFigures:
    """Give an account's gauges, and a count since the start."""
    return LaneFigures(window=7, in_use=5, waiting=2, cuts=cuts, rests=1)


class Board:
    """Metrics with a fixed clock, and the lines that they wrote."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.lanes: dict[str, LaneFigures] = {}
        self.metrics = Metrics(
            write=self.lines.append,
            now_s=lambda: NOW_S,
            in_flight=lambda: 3,
            buckets=["media"],
            lanes=lambda: self.lanes,
            namespace="space",
            service="prod",
        )

    def flushed(self) -> list[dict[str, object]]:
        """Flush, and read the lines."""
        self.lines.clear()
        self.metrics.flush()
        return [json.loads(line) for line in self.lines]


def check_emf(line: dict[str, object]) -> None:
    """Check a line against the specification: every target there, numbers only, units known, limits kept."""
    about = line.pop("_aws")
    assert isinstance(about, dict)
    assert set(about) == {"Timestamp", "CloudWatchMetrics"}
    assert about["Timestamp"] == int(NOW_S * 1000)
    (directive,) = about["CloudWatchMetrics"]
    assert set(directive) == {"Namespace", "Dimensions", "Metrics"}
    (dimensions,) = directive["Dimensions"]
    assert all(isinstance(line.pop(name), str) for name in dimensions)
    assert len(directive["Metrics"]) <= 100
    for metric in directive["Metrics"]:
        assert metric["Unit"] in {"Count", "Bytes", "Seconds"}
        value = line.pop(metric["Name"])
        values = value if isinstance(value, list) else [value]
        assert 1 <= len(values) <= 100
        assert all(isinstance(each, int | float) and not isinstance(each, bool) for each in values)
    assert not line


def test_each_upload_account_has_a_line_of_its_window() -> None:
    """Gauges as they are, counts since the line before."""
    board = Board()
    board.lanes = {"video": lane(cuts=3)}
    _, first = board.flushed()
    board.lanes = {"video": lane(cuts=8)}
    _, second = board.flushed()
    assert (first["Account"], first["window"], first["waiting"]) == ("video", 7, 2)
    assert [(each["window_cuts"], each["window_rests"]) for each in (first, second)] == [(3, 1), (5, 0)]
    check_emf(first)


def test_an_idle_worker_still_beats() -> None:
    """The service's line comes with heartbeat and gauge when nothing happened, and no bucket's does."""
    (line,) = Board().flushed()
    assert (line["Service"], line["heartbeat"], line["in_flight"], line["objects"]) == ("prod", 1, 3, 0)
    assert "lag_s" not in line
    check_emf(line)


def test_a_busy_minute_is_one_line_for_the_service_and_one_for_each_bucket() -> None:
    """Everything settled is counted under its word, in both."""
    board = Board()
    for done in (
        settled(),
        settled(outcome=Deleted("/1/a", existed=True), coalesced=2),
        settled(outcome=Retry("503"), verb="retry", ambiguous=True, checked=True),
        settled(outcome=Rejected("x"), verb="bury"),
        settled(outcome=Ignored("archived", set_aside=True)),
        settled(outcome=None, verb="lease lost"),
    ):
        board.metrics.record(done)
    service, bucket = board.flushed()
    expected = {
        "objects": 2,
        "bytes": 12_345,
        "copied": 1,
        "deleted": 1,
        "retry": 1,
        "retries": 1,
        "rejected": 1,
        "buried": 1,
        "set_aside": 1,
        "lease_lost": 1,
        "coalesced": 2,
        "ambiguous": 1,
        "checks_enqueued": 1,
        "lag_s": [2.0, 2.0],
    }
    assert {name: service[name] for name in expected} == expected
    assert {name: bucket[name] for name in expected} == expected
    assert bucket["Bucket"] == "media"
    assert service["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "space"  # type: ignore[index]  # JSON
    check_emf(service)
    check_emf(bucket)


def test_each_line_starts_anew() -> None:
    """What was written once is not written again."""
    board = Board()
    board.metrics.record(settled())
    board.flushed()
    (line,) = board.flushed()
    assert line["objects"] == 0


def test_a_strange_bucket_gets_no_line_of_its_own() -> None:
    """Dimensions cost money and come from messages: only the routes' buckets count."""
    board = Board()
    board.metrics.record(settled(change=Change(ObjectRef("stranger", "k"), "put")))
    (line,) = board.flushed()
    assert line["objects"] == 1


@given(st.lists(st.floats(0, 1e6), max_size=3 * MAX_VALUES))
def test_lags_keep_their_greatest_and_their_middle(values: list[float]) -> None:
    """At most 100 values, in order, among them the greatest; the median stays within its neighbours."""
    lags = Lags()
    for value in values:
        lags.add(value)
    found = lags.quantiles()
    assert len(found) == min(len(values), MAX_VALUES)
    assert found == sorted(found)
    if values:
        ordered = sorted(values)
        middle = len(ordered) // 2
        assert found[-1] == round(ordered[-1], 3)
        near = ordered[max(0, middle - 3) : middle + 4]
        assert round(near[0], 3) <= found[len(found) // 2] <= round(near[-1], 3)


def test_lags_are_bounded_and_stay_true() -> None:
    """A million lags take the memory of a few thousand, and the median is still right."""
    lags = Lags()
    for number in range(20 * MAX_SAMPLES):
        lags.add(float(number))
    found = lags.quantiles()
    assert len(lags._values) < MAX_SAMPLES
    assert found[-1] == 20 * MAX_SAMPLES - 1
    assert found[50] == pytest.approx(10 * MAX_SAMPLES, rel=0.03)


async def test_running_flushes_at_once_on_time_and_at_the_end() -> None:
    """The first line shows that the worker lives, the last one that nothing was lost."""
    board = Board()
    slept: list[float] = []
    asleep = asyncio.Event()

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            asleep.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(board.metrics.run(60.0, sleep))
    await asyncio.wait_for(asleep.wait(), 60)
    assert (len(board.lines), slept) == (2, [60.0, 60.0])
    board.metrics.record(settled(outcome=COPIED))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert json.loads(board.lines[2])["objects"] == 1


def test_every_metric_has_a_unit() -> None:
    """A name without a unit would be a KeyError in the middle of the night."""
    board = Board()
    for outcome in (COPIED, Ignored("x"), None):
        board.metrics.record(settled(outcome=outcome, coalesced=1, ambiguous=True, checked=True))
    assert {name for line in board.flushed() for name in line} - {"_aws", "Service", "Bucket"} <= set(UNITS)


def test_a_verify_is_one_line_whose_differences_are_what_an_alarm_watches() -> None:
    """Missing, extra and different add up; what cannot be told, or held, is no difference."""
    findings: dict[Kind, int] = {"missing": 2, "extra": 3, "different": 4, "unverifiable": 5, "forbidden": 6}
    line = json.loads(
        verified_line(findings, keys=1000, seconds=1.23456, namespace="n", service="s", timestamp_ms=1_700_000_000_000)
    )
    directive = line["_aws"]["CloudWatchMetrics"][0]
    assert (directive["Namespace"], directive["Dimensions"], line["Service"]) == ("n", [["Service"]], "s")
    assert {each["Name"]: each["Unit"] for each in directive["Metrics"]} == {
        name: UNITS[name] for name in UNITS if name.startswith("verify_")
    }
    assert {name: value for name, value in line.items() if name.startswith("verify_")} == {
        "verify_runs": 1,
        "verify_keys": 1000,
        "verify_differences": 9,
        "verify_missing": 2,
        "verify_extra": 3,
        "verify_different": 4,
        "verify_unverifiable": 5,
        "verify_seconds": 1.235,
    }


def test_a_clean_verify_says_zero() -> None:
    """Not nothing: an alarm must hear that all is well again."""
    line = json.loads(verified_line({}, keys=7, seconds=1, namespace="n", service="s", timestamp_ms=1))
    assert (line["verify_differences"], line["verify_runs"]) == (0, 1)
