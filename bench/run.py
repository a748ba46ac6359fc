"""Compare s3nsync with its peers: `make bench`, or `make bench QUICK=1` to see only that everything runs.

Every client copies the same objects between the same servers (stand_ins.py), one client at a time, sizes and clients
interleaved, in several rounds. The figure to trust is the client's own CPU seconds for 1,000 objects, as a ratio to
another client's in the same round: objects a second depend on what else the machine does. After each client every
object is compared byte by byte. Prints Markdown, and writes it into docs/performance.md and all figures into
bench/results/latest.json (report.py).

What the budget is about comes first in each round: 4 KiB and 4 GiB over TLS, memory, lag, ranged reads, two workers.
Where a run tells little and takes long, it is made in the first round only: the slow clients but with 4 KiB, what TLS
costs but with 4 KiB and 4 GiB, and one plain stream from a slow source, whose speed is the source's.

The command fails if our requests for an object are not exactly one GET and one PUT, or if any byte differs. What it had
by then is kept: `make bench ARGS=--resume` goes on from there.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench import clients, interpreter
from bench.clients import Client, Measure
from bench.report import (
    CURL,
    OURS,
    PAGE,
    PATH,
    POC,
    POOL,
    RCLONE,
    RCLONE_NS,
    RESULTS,
    SMALL,
    WRK,
    Cell,
    Lag,
    Peak,
    Reading,
    Results,
    Run,
    Sharing,
    dump,
    load,
    report,
    with_report,
)
from bench.stand_ins import ROOT, Case, Servers, line, servers

K1, K4 = Case("1 KiB", "k1", 1 << 10, 6_000), Case(SMALL, "k4", 4 << 10, 20_000)
K100, M1 = Case("100 KiB", "k100", 100 << 10, 2_000), Case("1 MiB", "m1", 1 << 20, 500)
G1, G4 = Case("1 GiB", "one", 1 << 30, 1), Case("4 GiB", "four", 4 << 30, 1)
PARTS = Case("4 GiB, in parts", "parts", 4 << 30, 1, parts_of="four")

UNFINISHED = ROOT / ".cache" / "bench-unfinished.json"
IN_FLIGHT_MOST = 256
SLOW_BYTES_PER_S = 25e6
STREAMS = 4
DELAY_S = 0.1
IN_FLIGHT_FAR = 16
IDLE_PER_S = 10.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A client in the table, and the most objects that it is given; `copies` is false of one that moves no object."""

    name: str
    run: Client
    most: int = 1_000_000
    copies: bool = True


WORKER, DATA_PATH = Entry(OURS, clients.worker), Entry(PATH, clients.data_path)
TO_S3 = Entry(RCLONE, clients.rclone_to_s3)
OTHERS = (
    Entry(RCLONE_NS, clients.rclone_to_netstorage),
    Entry(POOL, clients.boto_and_kit, 1_000),
    Entry(POC, clients.poc, 15),
    Entry(WRK, clients.wrk, copies=False),
)
FOR_SMALL = (WORKER, DATA_PATH, TO_S3, *OTHERS)
ON_ONE = Entry(OURS, clients.worker_on_one)
FOR_LARGE = (ON_ONE, TO_S3, Entry(POOL, clients.boto_and_kit), Entry(CURL, clients.curl))


class Bench:
    """What has been measured so far, and the servers to measure more."""

    def __init__(self, at: Servers, results: Results) -> None:
        """Begin with nothing, or go on."""
        self.at = at
        self.results = results

    def compare(self, entry: Entry, case: Case, *, tls: bool) -> str:
        """Run one client once; a wrong byte or a wrong number of requests ends the bench. Gives the figure in words."""
        case = replace(case, count=min(case.count, entry.most))
        site = self.at.begin(tls=tls)
        before_s, began_s = self.at.cpu_s(), time.perf_counter()
        done = entry.run(self.at, site, case)
        busy = (self.at.cpu_s() - before_s) / (time.perf_counter() - began_s)
        requests = {server: dict(counts) for server, counts in self._requests().items()}
        run = Run(done.objects, done.cpu_s, done.wall_s, done.peak_bytes, busy, requests)
        self._cell(entry, case, tls=tls).runs.append(run)
        if entry.copies:
            self._judge_bytes(entry.name, case, done)
        if entry.name in {OURS, PATH}:
            judge_requests(entry.name, case, run)
        return f"{done.cpu_s / done.objects * 1000:.3f} CPU s for 1,000"

    def _requests(self) -> dict[str, dict[str, int]]:
        self.at.settle()
        return {server: dict(counts) for server, counts in self.at.requests().items()}

    def _cell(self, entry: Entry, case: Case, *, tls: bool) -> Cell:
        try:
            return self.results.cell(entry.name, case.name, tls=tls)
        except KeyError:
            self.results.cells.append(Cell(entry.name, case.name, case.size_bytes, tls))
            return self.results.cells[-1]

    def _judge_bytes(self, name: str, case: Case, done: Measure) -> None:
        """Hold a client to what it should have stored, once nothing of it is under way."""
        self.at.settle()
        if wrong := self.at.wrong(case, whole=done.complete):
            shown = "\n".join([*wrong[:5], *([f"and {len(wrong) - 5} more"] if len(wrong) > 5 else [])])
            raise SystemExit(f"{name}, {case.name}: {len(wrong)} objects are not what they should be:\n{shown}")

    def peak(self, case: Case) -> str:
        """Measure the worker's largest resident size with many objects of one size in flight."""
        done = clients.worker(self.at, self.at.begin(tls=True), case, in_flight=IN_FLIGHT_MOST)
        self._judge_bytes(OURS, case, done)
        self.results.peaks.append(Peak(case.name, IN_FLIGHT_MOST, done.peak_bytes))
        return f"{done.peak_bytes / 2**20:.0f} MiB"

    def lag(self, case: Case, load_: str, per_s: Callable[[], float], count: int) -> str:
        """Measure how long a Change takes from the queue to NetStorage's answer, at a rate."""
        rate = per_s()
        found = clients.lags_s(self.at, self.at.begin(tls=True), case, per_s=rate, count=count)
        p50_s, p99_s = statistics.median(found), found[int(0.99 * count)]
        self.results.lags.append(Lag(load_, round(rate, 1), count, p50_s, p99_s))
        return f"p99 {p99_s * 1000:.0f} ms"

    def half_load(self) -> float:
        """Give half of what the worker did in the first round."""
        first = self.results.cell(OURS).runs[0]
        return first.objects / first.wall_s / 2

    def reading(self, case: Case, streams: int) -> str:
        """Measure one large object by so many GETs at once, where each connection to the source carries little."""
        site = self.at.begin(tls=True, source="shared")
        with line(self.at, site.source_url, bytes_per_s=SLOW_BYTES_PER_S) as slow:
            site = replace(site, source_url=f"https://{slow}")
            done = clients.worker_on_one(self.at, site, case, streams=streams)
        self._judge_bytes(OURS, case, done)
        self.results.readings.append(
            Reading(streams, case.size_bytes, SLOW_BYTES_PER_S, done.cpu_s, done.wall_s, done.peak_bytes)
        )
        return f"{case.size_bytes / done.wall_s / 1e6:.0f} MB/s, {done.peak_bytes / 2**20:.0f} MiB"

    def sharing(self, case: Case, workers: int, seconds: float) -> str:
        """Measure what workers on one queue do when NetStorage is far away, for about so long."""
        count = min(case.count, int(workers * IN_FLIGHT_FAR / DELAY_S * seconds))
        site = self.at.begin(tls=True)
        with line(self.at, site.sink_host, delay_s=DELAY_S) as far:
            rate = clients.rate_of_workers(
                self.at, replace(site, sink_host=far), case, workers=workers, in_flight=IN_FLIGHT_FAR, count=count
            )
        self._judge_bytes(OURS, replace(case, count=count), Measure(count, 0.0, 0.0))
        self.results.sharings.append(Sharing(workers, IN_FLIGHT_FAR, DELAY_S, rate))
        return f"{rate:.0f} objects/s"


def judge_requests(client: str, case: Case, run: Run) -> None:
    """Hold us to one GET and one PUT for an object; beside them a worker that starts asks each end one question."""
    start = {"source": {"GET list": 1}, "sink": {"GET 404": 1}} if client == OURS else {"source": {}, "sink": {}}
    wanted = {"source": {"GET": case.count, **start["source"]}, "sink": {"PUT": case.count, **start["sink"]}}
    found = {server: dict(run.requests[server]) for server in wanted}
    if found != wanted:
        raise SystemExit(f"{client}, {case.name}: {found} requests, not {wanted}")


# --- what is run, and in which order ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Step:
    """One measurement: its name, and what to do; `act` gives the figure in words."""

    name: str
    act: Callable[[Bench], str]


def compare(entry: Entry, case: Case, *, tls: bool) -> Step:
    """Plan one client on one size."""
    name = f"{case.name}, {'TLS' if tls else 'plain'}, {entry.name}"
    return Step(name, lambda bench: bench.compare(entry, case, tls=tls))


def peak(case: Case) -> Step:
    """Plan a look at memory."""
    return Step(f"memory, {IN_FLIGHT_MOST} of {case.name} in flight", lambda bench: bench.peak(case))


def lags(case: Case, idle_count: int, busy_s: float) -> Iterator[Step]:
    """Plan the lag of an idle worker, and of one with half of what it bears."""
    yield Step("lag, idle", lambda bench: bench.lag(case, "idle", lambda: IDLE_PER_S, idle_count))
    yield Step(
        "lag, half load",
        lambda bench: bench.lag(case, "half load", bench.half_load, min(case.count, int(bench.half_load() * busy_s))),
    )


def reading(case: Case, streams: int) -> Step:
    """Plan one large object from a slow source."""
    return Step(f"{case.name} by {streams} GETs at once", lambda bench: bench.reading(case, streams))


def sharing(case: Case, seconds: float) -> Iterator[Step]:
    """Plan one and two workers."""
    for workers in (1, 2):
        yield Step(
            f"workers: {workers}, NetStorage far away",
            lambda bench, workers=workers: bench.sharing(case, workers, seconds),  # type: ignore[misc]
        )


def whole_round(number: int) -> Iterator[Step]:
    """Give one round: what the budget is about first, the rest after it; what tells little only in round 0."""
    first = number == 0
    yield from (compare(entry, K4, tls=True) for entry in FOR_SMALL)
    yield from (compare(entry, G4, tls=True) for entry in FOR_LARGE)
    yield from (peak(case) for case in (K4, K100, M1))
    yield from lags(K4, 100, 5.0)
    yield from (reading(G1, streams) for streams in ((1, STREAMS) if first else (STREAMS,)))
    yield from sharing(K4, 4.0)
    for case in (K1, K100, M1):
        yield from (compare(entry, case, tls=True) for entry in (FOR_SMALL if first else FOR_SMALL[:3]))
    for case in (K1, K4, K100, M1) if first else (K4,):
        yield from (compare(entry, case, tls=False) for entry in (FOR_SMALL if first else FOR_SMALL[:3]))
    yield from (compare(entry, G4, tls=False) for entry in (FOR_LARGE if first else FOR_LARGE[:2]))
    if first:
        yield compare(ON_ONE, PARTS, tls=True)


def quick_round() -> Iterator[Step]:
    """Give a round with few objects: every client, every kind of measurement, every way through the worker, once."""
    k1, k4, k100, m1 = (replace(case, count=200) for case in (K1, K4, K100, M1))
    large, parts = (
        replace(each, name=each.name.replace("4 GiB", "64 MiB"), size_bytes=64 << 20) for each in (G4, PARTS)
    )
    yield from (compare(entry, k4, tls=True) for entry in FOR_SMALL)
    yield from (compare(entry, large, tls=True) for entry in FOR_LARGE)
    yield from (compare(WORKER, case, tls=True) for case in (k1, k100, m1))
    yield from (compare(entry, k4, tls=False) for entry in (WORKER, DATA_PATH, TO_S3))
    yield compare(ON_ONE, large, tls=False)
    yield compare(ON_ONE, parts, tls=True)
    yield peak(m1)
    yield from lags(k4, 20, 0.5)
    yield from (reading(replace(large, name="64 MiB"), streams) for streams in (1, STREAMS))
    yield from sharing(k4, 1.0)


def cases(quick: bool) -> list[Case]:  # noqa: FBT001
    """Give every object that is needed."""
    if not quick:
        return [K1, K4, K100, M1, G1, G4, PARTS]
    small = [replace(case, count=200) for case in (K1, K4, K100, M1)]
    return [*small, *(replace(case, size_bytes=64 << 20) for case in (G4, PARTS))]


# --- the command -----------------------------------------------------------------------------------------------


def machine() -> str:
    """Name what it ran on."""
    model = next(
        (text.partition(":")[2].strip() for text in Path("/proc/cpuinfo").read_text().splitlines() if "name" in text),
        platform.machine(),
    )
    rclone = subprocess.run(["rclone", "version"], capture_output=True, text=True, check=True).stdout.split()[1]  # noqa: S607
    return (
        f"{os.cpu_count()} cores ({model}), Linux {platform.release().split('-')[0]}, {_loop()}; "
        f"rclone {rclone.removesuffix('-DEV')}, boto3 {version('boto3')}; load {os.getloadavg()[0]:.1f} at the start"
    )


def _loop() -> str:
    try:
        return f"uvloop {version('uvloop')}"
    except ModuleNotFoundError:
        return "asyncio's own loop"


def measure(at: Servers, results: Results, rounds: Sequence[Sequence[Step]], minutes: float) -> None:
    """Make every step that is not made yet, tell how it went, and stop when the time is up."""
    bench, began_s = Bench(at, results), time.monotonic() - results.minutes * 60
    steps = [step for each in rounds for step in each]
    for step in steps[results.steps :]:
        if results.minutes > minutes:
            results.left_out = len(steps) - results.steps
            break
        found = step.act(bench)
        spent_s = time.monotonic() - began_s
        results.steps += 1
        results.minutes = round(spent_s / 60, 2)
        UNFINISHED.write_text(dump(results))
        clock = f"{int(spent_s) // 60}:{int(spent_s) % 60:02}"
        print(f"  {clock} {results.steps}/{len(steps)} {step.name}: {found}", file=sys.stderr)


def main() -> None:
    """Run the bench and show what came out."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="few objects, once: shows only that everything runs")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--minutes", type=float, default=20.0, help="after this nothing more is measured")
    options.add_argument("--resume", action="store_true", help="go on where a run was cut off, with the same options")
    given = options.parse_args()
    if given.resume and not UNFINISHED.exists():
        raise SystemExit("there is no run that was cut off: leave out --resume")
    if absent := clients.missing():
        raise SystemExit(f"not installed: {', '.join(absent)}; `make bench` installs what it can")
    rounds = [list(whole_round(number)) for number in range(given.rounds)]
    if given.quick:
        rounds = [list(quick_round())]
    UNFINISHED.parent.mkdir(exist_ok=True)
    results = load(UNFINISHED.read_bytes()) if given.resume else _nothing_yet(len(rounds), quick=given.quick)
    with (
        tempfile.TemporaryDirectory(dir="/dev/shm") as folder,
        servers(Path(folder), cases(given.quick), str(clients.PYTHON)) as at,
    ):
        measure(at, results, rounds, given.minutes)
    UNFINISHED.unlink()
    text = dump(results)
    print("\n".join(report(load(text))))
    if not given.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(text)
        PAGE.write_text(with_report(PAGE.read_text(), load(text)))


def _nothing_yet(rounds: int, *, quick: bool) -> Results:
    """Name the time, the machine and the Pythons."""
    ours = interpreter.describe(str(clients.PYTHON))
    assert ours is not None
    found = [ours] if quick else interpreter.found()
    ours = next((each for each in found if each.executable == ours.executable), ours)
    others = [str(each) for each in found if each != ours]
    return Results(datetime.now(UTC).isoformat(timespec="minutes"), machine(), f"Python {ours}", others, rounds)


if __name__ == "__main__":
    main()
