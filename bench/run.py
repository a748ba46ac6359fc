"""Compare s3nsync with its peers: `make bench`, or `make bench QUICK=1` to see only that everything runs.

Every client copies the same objects between the same servers (stand_ins.py), one client at a time, sizes and clients
interleaved, in several rounds. The figure to trust is the client's own CPU seconds for 1,000 objects, as a ratio to
another client's in the same run: objects a second depend on what else the machine does. After each client every object
is compared byte by byte. Prints Markdown, and writes it into docs/performance.md and all figures into
bench/results/latest.json.

The command fails if our requests for an object are not exactly one GET and one PUT, or if any byte differs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench import clients
from bench.clients import Client, Measure
from bench.stand_ins import Case, Servers, servers

RESULTS = Path(__file__).parent / "results" / "latest.json"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- made by `make bench` -->\n", "<!-- end -->\n"
SMALL = (
    Case("1 KiB", "k1", 1 << 10, 6_000),
    Case("4 KiB", "k4", 4 << 10, 6_000),
    Case("100 KiB", "k100", 100 << 10, 2_000),
    Case("1 MiB", "m1", 1 << 20, 500),
)
LARGE = (Case("4 GiB", "whole", 4 << 30, 1), Case("4 GiB, in parts", "parts", 4 << 30, 1, parts=True))
OURS = "s3nsync worker"
LAG_SIZE = "4 KiB"


@dataclass(frozen=True, slots=True)
class Entry:
    """A client in the table, and the most objects that it is given."""

    name: str
    run: Client
    most: int = 1_000_000
    rounds: int = 1_000


FOR_SMALL = (
    Entry(OURS, clients.worker),
    Entry("s3nsync data path", clients.data_path),
    Entry("rclone, S3 to S3", clients.rclone_to_s3),
    Entry("rclone, S3 to NetStorage", clients.rclone_to_netstorage, rounds=1),
    Entry("boto3 and Akamai's kit", clients.boto_and_kit, 1_000),
    Entry("proof of concept", clients.poc, 15, rounds=1),
    Entry("wrk GET, wrk PUT", clients.wrk),
)
FOR_LARGE = (
    Entry(OURS, clients.worker_on_one),
    Entry("rclone, S3 to S3", clients.rclone_to_s3),
    Entry("boto3 and Akamai's kit", clients.boto_and_kit),
    Entry("curl to curl -T -", clients.curl),
)
LARGE_ROUNDS = 2


@dataclass(slots=True)
class Cell:
    """One client on one size, with TLS or without: what each round measured."""

    client: str
    case: Case
    tls: bool
    rounds: list[Measure] = field(default_factory=list)
    requests: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    server_busy: list[float] = field(default_factory=list)

    @property
    def cpu_s(self) -> list[float]:
        """Give the CPU seconds for 1,000 objects, round by round."""
        return [each.cpu_s / each.objects * 1000 for each in self.rounds]

    @property
    def cpu_s_per_gb(self) -> float:
        """Give the median CPU seconds for 10^9 bytes."""
        return statistics.median(self.cpu_s) / 1000 / self.case.size_bytes * 1e9

    @property
    def objects_per_s(self) -> float:
        """Give the median rate by the clock."""
        return statistics.median(each.objects / each.wall_s for each in self.rounds)

    @property
    def peak_bytes(self) -> int:
        """Give the largest resident size seen."""
        return max(each.peak_bytes for each in self.rounds)

    def per_object(self, server: str) -> float:
        """Give the requests that one server got for an object, in the last round."""
        handled = max(1, *(self.requests["sink"].get(what, 0) for what in ("PUT", "PUT 204")))
        return sum(self.requests[server].values()) / handled


# --- measuring -------------------------------------------------------------------------------------------------


def measure(at: Servers, cells: Mapping[tuple[str, str, bool], Cell], entry: Entry, case: Case, *, tls: bool) -> None:
    """Run one client once and note what came out; a wrong byte or a wrong number of requests ends the bench."""
    case = replace(case, count=min(case.count, entry.most))
    at.forget()
    before_s, began_s = at.cpu_s(), time.perf_counter()
    done = entry.run(at, at.site(tls=tls), case)
    busy = (at.cpu_s() - before_s) / (time.perf_counter() - began_s)
    cell = cells[entry.name, case.name, tls]
    cell.rounds.append(done)
    cell.server_busy.append(busy)
    cell.requests = {server: dict(counts) for server, counts in at.requests().items()}
    if done.complete and (wrong := at.differing(case, case.keys)):
        raise SystemExit(f"{entry.name}, {case.name}: {len(wrong)} objects are not what they should be")
    if entry.name.startswith("s3nsync"):
        _judge_requests(cell, case)
    scheme = "TLS" if tls else "plain"
    print(f"  {case.name}, {scheme}, {entry.name}: {done.cpu_s / done.objects * 1000:.3f} CPU s", file=sys.stderr)


def _judge_requests(cell: Cell, case: Case) -> None:
    """Hold us to one GET and one PUT for an object; beside them a worker that starts asks each end one question."""
    start = {"source": {"GET list": 1}, "sink": {"GET 404": 1}} if cell.client == OURS else {"source": {}, "sink": {}}
    wanted = {"source": {"GET": case.count, **start["source"]}, "sink": {"PUT": case.count, **start["sink"]}}
    found = {server: dict(cell.requests[server]) for server in wanted}
    if found != wanted:
        raise SystemExit(f"{cell.client}, {case.name}: {found} requests, not {wanted}")


def plan(small: Sequence[Case], large: Sequence[Case], rounds: int) -> Iterator[tuple[Entry, Case, bool]]:
    """Give every run of the comparison, round by round; the large object comes in fewer of them."""
    for number in range(rounds):
        for tls in (True, False):
            for case in small:
                yield from ((entry, case, tls) for entry in FOR_SMALL if number < entry.rounds)
            if number < LARGE_ROUNDS:
                yield from ((entry, case, tls) for case in large for entry in FOR_LARGE[: 1 if case.parts else None])


def lags(at: Servers, case: Case, per_s: float, count: int) -> dict[str, float]:
    """Measure how long a Change takes from the queue to NetStorage's answer, at a rate."""
    at.forget()
    found = clients.lags_s(at, at.site(tls=True), case, per_s=per_s, count=count)
    return {"per_s": per_s, "count": count, "p50_s": statistics.median(found), "p99_s": found[int(0.99 * count)]}


def memory_at_256(at: Servers, cases: Sequence[Case]) -> dict[str, int]:
    """Measure the worker's largest resident size with 256 objects in flight, by size of object."""
    found = {}
    for case in cases:
        at.forget()
        found[case.name] = clients.worker(at, at.site(tls=True), case, in_flight=256).peak_bytes
    return found


# --- showing ---------------------------------------------------------------------------------------------------


def table(cells: Sequence[Cell], *, tls: bool) -> list[str]:
    """Give one comparison as Markdown: ratios first."""
    head = (
        "| object | client | CPU, times the worker's | CPU s for 1,000: median (min to max) | CPU s for a GB "
        "| objects/s for a core | objects/s seen | peak MiB | requests for an object: S3 + NetStorage + SQS |"
    )
    lines = [head, "|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    ours = {cell.case.name: statistics.median(cell.cpu_s) for cell in cells if cell.client == OURS and cell.tls == tls}
    lines += [_row(cell, ours[cell.case.name]) for cell in cells if cell.tls == tls and cell.case.name in ours]
    return lines


def _row(cell: Cell, ours_s: float) -> str:
    cpu_s = cell.cpu_s
    middle_s = statistics.median(cpu_s)
    bound = " (server-bound)" if statistics.median(cell.server_busy) > 0.85 else ""
    peak = f"{cell.peak_bytes / 2**20:.0f}" if cell.peak_bytes else ""
    requests = " + ".join(f"{cell.per_object(server):.3g}" for server in ("source", "sink", "queue"))
    if cell.client.startswith("wrk"):
        requests = "1 + 1 + 0"
    large = cell.case.count == 1
    return (
        f"| {cell.case.name} | {cell.client} | {middle_s / ours_s:.2f} "
        f"| {'' if large else f'{middle_s:.3f} ({min(cpu_s):.3f} to {max(cpu_s):.3f})'} "
        f"| {cell.cpu_s_per_gb:.2f} | {'' if large else f'{1000 / middle_s:,.0f}'} "
        f"| {cell.objects_per_s:,.{2 if cell.objects_per_s < 10 else 0}f}{bound} | {peak} "
        f"| {'' if large else requests} |"
    )


def machine() -> str:
    """Name what it ran on."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "name" in line),
        platform.machine(),
    )
    rclone = subprocess.run(["rclone", "version"], capture_output=True, text=True, check=True).stdout.split()[1]  # noqa: S607
    return (
        f"{os.cpu_count()} cores ({model}), Linux {platform.release().split('-')[0]}, Python "
        f"{platform.python_version()}, {_loop()}; rclone {rclone.removesuffix('-DEV')}, boto3 {version('boto3')}; "
        f"load {os.getloadavg()[0]:.1f} at the start"
    )


def _loop() -> str:
    try:
        return f"uvloop {version('uvloop')}"
    except ModuleNotFoundError:
        return "asyncio's own loop"


def as_data(about: str, cells: Sequence[Cell], more: Mapping[str, object]) -> dict[str, object]:
    """Give everything that was measured, for the file."""
    rows = [{**asdict(cell), "cpu_s_per_1000": cell.cpu_s} for cell in cells]
    return {"at": datetime.now(UTC).isoformat(timespec="minutes"), "about": about, "cells": rows, **more}


# --- the command -----------------------------------------------------------------------------------------------


def main() -> None:
    """Run the bench and show what came out."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="few objects: shows only that everything runs")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--minutes", type=float, default=20.0, help="after this nothing more is compared")
    given = options.parse_args()
    if absent := clients.missing():
        raise SystemExit(f"not installed: {', '.join(absent)}; `make bench` installs what it can")
    small = [replace(case, count=min(case.count, 200)) for case in SMALL] if given.quick else SMALL
    shrunk = [replace(case, name=case.name.replace("4 GiB", "64 MiB"), size_bytes=64 << 20) for case in LARGE]
    large = shrunk if given.quick else LARGE
    about = machine()
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, servers(Path(folder), [*small, *large]) as at:
        cells, more = _all(at, small, large, 1 if given.quick else given.rounds, given.minutes, quick=given.quick)
    report = "\n".join(_report(about, cells, more))
    print(report)
    if not given.quick:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(as_data(about, cells, more), indent=1) + "\n")
        PAGE.write_text(with_report(PAGE.read_text(), report))


def with_report(page: str, report: str) -> str:
    """Give the page with the report in its place."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{report}\n\n{END}{rest.partition(END)[2]}"


def _all(
    at: Servers, small: Sequence[Case], large: Sequence[Case], rounds: int, minutes: float, *, quick: bool
) -> tuple[Sequence[Cell], Mapping[str, object]]:
    runs = list(plan(small, large, rounds))
    cells = {(entry.name, case.name, tls): Cell(entry.name, case, tls) for entry, case, tls in runs}
    deadline_s = time.monotonic() + minutes * 60
    for entry, case, tls in runs:
        if time.monotonic() > deadline_s:
            break
        measure(at, cells, entry, case, tls=tls)
    (case,) = (case for case in small if case.name == LAG_SIZE)
    half = cells[OURS, LAG_SIZE, True].objects_per_s / 2
    idle = lags(at, case, 10.0, 20 if quick else 300)
    busy = lags(at, case, half, min(case.count, int(half * 10)))
    more = {"lag_idle": idle, "lag_at_half_load": busy, "memory_at_256": memory_at_256(at, small[1:])}
    return [cell for cell in cells.values() if cell.rounds], more


def _report(about: str, cells: Sequence[Cell], more: Mapping[str, object]) -> list[str]:
    lines = [f"Measured on {datetime.now(UTC):%d %B %Y}: {about}.", "", *_ratios(cells), ""]
    lines += ["Over TLS:", "", *table(cells, tls=True), "", "Without TLS:", "", *table(cells, tls=False), ""]
    for name in ("lag_idle", "lag_at_half_load"):
        lag = more[name]
        assert isinstance(lag, dict)
        lines.append(
            f"- Lag until NetStorage answers, {lag['count']} changes of {LAG_SIZE} at {lag['per_s']:,.0f} a second: "
            f"p50 {lag['p50_s'] * 1000:.0f} ms, p99 {lag['p99_s'] * 1000:.0f} ms."
        )
    memory = more["memory_at_256"]
    assert isinstance(memory, dict)
    shown = ", ".join(f"{name}: {value / 2**20:.0f} MiB" for name, value in memory.items())
    return [*lines, f"- Peak memory of a worker with 256 objects in flight. {shown}."]


def _ratios(cells: Sequence[Cell]) -> list[str]:
    """Give what the budget of docs/design.md is about, with TLS: others' CPU for an object, as a multiple of ours."""
    by_name = {
        (cell.client, cell.case.name): statistics.median(cell.cpu_s) for cell in cells if cell.tls and cell.rounds
    }
    ours_s = by_name[OURS, LAG_SIZE]
    lines = [f"One object of {LAG_SIZE} over TLS costs our whole worker {ours_s:.2f} ms of CPU."]
    for client in ("rclone, S3 to S3", "rclone, S3 to NetStorage", "boto3 and Akamai's kit", "proof of concept"):
        times = by_name[client, LAG_SIZE] / ours_s
        lines.append(f"- {client}: {times:.{1 if times < 10 else 0}f} times as much")
    lines[1:1] = [""]
    return lines


if __name__ == "__main__":
    main()
