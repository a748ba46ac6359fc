"""Figures for CloudWatch, as log lines in its embedded metric format: no agent, no API calls, no permission.

`record` adds one settled Change to plain counters; every `flush_s` seconds `run` writes what came together as one line
for the whole service, one for each bucket that saw work and one for each upload account, and starts anew. The service's
line is written when nothing happened too: its `heartbeat` is what an alarm for a dead worker watches. A verify writes
one line at its end (`verified_line`): an alarm watches its differences, another that it comes at all.

Format: Amazon CloudWatch User Guide, "Specification: Embedded metric format". One JSON object a line; `_aws` names the
metrics and the dimension sets, the values stand beside it; a value is a number or a list of at most 100 numbers, a
metric directive has at most 100 metrics. A lag list longer than that is thinned to 100 evenly spaced quantiles, the
greatest value among them: percentiles stay true, the sample count does not (`objects` is the true one).
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping

from s3nsync.compare import Kind
from s3nsync.figures import OUTCOMES, lag_s, outcome_name
from s3nsync.lanes import LaneFigures
from s3nsync.model import Copied, Report

MAX_VALUES = 100
"""The most numbers that one metric may hold in one line (the specification's limit)."""

MAX_SAMPLES = 8192
"""Lags kept between two lines; above it every second one goes, so that memory does not grow with the load."""

UNITS = {
    "lag_s": "Seconds",
    "bytes": "Bytes",
    "objects": "Count",
    "heartbeat": "Count",
    "in_flight": "Count",
    "retries": "Count",
    "buried": "Count",
    "coalesced": "Count",
    "ambiguous": "Count",
    "checks_enqueued": "Count",
    "window": "Count",
    "waiting": "Count",
    "window_cuts": "Count",
    "window_rests": "Count",
    "verify_runs": "Count",
    "verify_keys": "Count",
    "verify_differences": "Count",
    "verify_missing": "Count",
    "verify_extra": "Count",
    "verify_different": "Count",
    "verify_unverifiable": "Count",
    "verify_seconds": "Seconds",
    **dict.fromkeys(OUTCOMES, "Count"),
}
"""Every metric there is, with CloudWatch's name of its unit."""

ALWAYS = ("objects", "bytes", "retries", "buried")
"""Written even when zero: alarms and graphs need to tell nothing from no data."""


class Lags:
    """A bounded sample of lags: the first MAX_SAMPLES, then every second, every fourth; the greatest always."""

    def __init__(self) -> None:
        """Start empty."""
        self._values: list[float] = []
        self._stride = 1
        self._seen = 0
        self._greatest = 0.0

    def add(self, value_s: float) -> None:
        """Take one lag into account."""
        self._greatest = max(self._greatest, value_s)
        if self._seen % self._stride == 0:
            self._values.append(value_s)
        self._seen += 1
        if len(self._values) == MAX_SAMPLES:
            self._values = self._values[::2]
            self._stride *= 2

    def quantiles(self) -> list[float]:
        """Give at most MAX_VALUES evenly spaced quantiles, in order, the greatest lag included."""
        values = sorted(self._values)
        values[-1:] = [self._greatest] * bool(values)  # it may have been thinned out
        if len(values) > MAX_VALUES:
            last = len(values) - 1
            values = [values[round(step * last / (MAX_VALUES - 1))] for step in range(MAX_VALUES)]
        return [round(value, 3) for value in values]


class Tally:
    """What came together since the last line for one bucket, or for what is of none of ours."""

    def __init__(self) -> None:
        """Start at zero."""
        self.counts: Counter[str] = Counter()
        self.lags = Lags()

    def add(self, settled: Report, lag: float | None) -> None:
        """Count one settled Change."""
        counts = self.counts
        counts[outcome_name(settled.outcome)] += 1
        if isinstance(settled.outcome, Copied):
            counts["bytes"] += settled.outcome.size_bytes
        if settled.verb != "ack":
            counts["retries"] += settled.verb == "retry"
            counts["buried"] += settled.verb == "bury"
        if settled.coalesced or settled.ambiguous or settled.checked:
            counts["coalesced"] += settled.coalesced
            counts["ambiguous"] += settled.ambiguous
            counts["checks_enqueued"] += settled.checked
        if lag is not None:
            self.lags.add(lag)


def _values(counts: Counter[str], lags: Lags) -> dict[str, float | list[float]]:
    """Give the metrics that have something to say."""
    found: dict[str, float | list[float]] = dict.fromkeys(ALWAYS, 0)
    found.update({name: count for name, count in counts.items() if count})
    found["objects"] = sum(counts[name] for name in ("copied", "deleted", "unchanged"))
    if quantiles := lags.quantiles():
        found["lag_s"] = quantiles
    return found


class Metrics:
    """Counts what the worker settles, and writes it as embedded metric format lines."""

    def __init__(
        self,
        *,
        write: Callable[[str], None],
        now_s: Callable[[], float],
        in_flight: Callable[[], int],
        buckets: Collection[str],
        lanes: Callable[[], Mapping[str, LaneFigures]],
        namespace: str = "s3nsync",
        service: str = "s3nsync",
    ) -> None:
        """Take where lines go, the clock (Unix seconds), the gauges, and the routes' buckets: no other has a line."""
        self._write = write
        self._now_s = now_s
        self._in_flight = in_flight
        self._lanes = lanes
        self._lanes_before: Mapping[str, LaneFigures] = {}
        self._namespace = namespace
        self._service = service
        self._buckets = frozenset(buckets)
        self._lags = Lags()
        self._by_bucket: dict[str, Tally] = {}

    def record(self, settled: Report) -> None:
        """Count one settled Change."""
        bucket = settled.change.ref.bucket if settled.change is not None else ""
        tally = self._by_bucket.get(bucket)
        if tally is None:
            tally = self._by_bucket.setdefault(bucket if bucket in self._buckets else "", Tally())
        lag = lag_s(settled, self._now_s())
        tally.add(settled, lag)
        if lag is not None:
            self._lags.add(lag)

    def flush(self) -> None:
        """Write what came together, and start anew."""
        lags, by_bucket = self._lags, self._by_bucket
        self._lags, self._by_bucket = Lags(), {}
        timestamp_ms = int(self._now_s() * 1000)
        total = sum((tally.counts for tally in by_bucket.values()), Counter[str]())
        values = {"heartbeat": 1, "in_flight": self._in_flight(), **_values(total, lags)}
        self._write(emf_line(self._namespace, {"Service": self._service}, values, timestamp_ms))
        by_bucket.pop("", None)
        for bucket, tally in sorted(by_bucket.items()):
            dimensions = {"Service": self._service, "Bucket": bucket}
            self._write(emf_line(self._namespace, dimensions, _values(tally.counts, tally.lags), timestamp_ms))
        before, self._lanes_before = self._lanes_before, self._lanes()
        for account, lane in self._lanes_before.items():
            dimensions = {"Service": self._service, "Account": account}
            figures = lane_values(lane, before.get(account))
            self._write(emf_line(self._namespace, dimensions, figures, timestamp_ms))

    async def run(self, flush_s: float, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        """Flush every `flush_s` seconds until cancelled, at once to begin with and once more at the end."""
        try:
            while True:
                self.flush()
                await sleep(flush_s)
        finally:
            self.flush()


def lane_values(lane: LaneFigures, before: LaneFigures | None) -> dict[str, float | list[float]]:
    """Give a lane's gauges, and its counts since the last line."""
    return {
        "window": lane.window,
        "waiting": lane.waiting,
        "window_cuts": lane.cuts - (before.cuts if before else 0),
        "window_rests": lane.rests - (before.rests if before else 0),
    }


def verified_line(
    findings: Mapping[Kind, int], *, keys: int, seconds: float, namespace: str, service: str, timestamp_ms: int
) -> str:
    """Give the line for one verify that came to its end: how many findings of each kind, over how many objects in S3.

    One that broke off has no line: that none came is what tells.
    """
    missing, extra, different = (findings.get(kind, 0) for kind in ("missing", "extra", "different"))
    values: dict[str, float | list[float]] = {
        "verify_runs": 1,
        "verify_keys": keys,
        "verify_differences": missing + extra + different,
        "verify_missing": missing,
        "verify_extra": extra,
        "verify_different": different,
        "verify_unverifiable": findings.get("unverifiable", 0),
        "verify_seconds": round(seconds, 3),
    }
    return emf_line(namespace, {"Service": service}, values, timestamp_ms)


def emf_line(
    namespace: str, dimensions: dict[str, str], values: dict[str, float | list[float]], timestamp_ms: int
) -> str:
    """Give one line of the embedded metric format, its end left out."""
    directive = {
        "Namespace": namespace,
        "Dimensions": [list(dimensions)],
        "Metrics": [{"Name": name, "Unit": UNITS[name]} for name in values],
    }
    about = {"_aws": {"Timestamp": timestamp_ms, "CloudWatchMetrics": [directive]}}
    return json.dumps({**about, **dimensions, **values}, separators=(",", ":"))
