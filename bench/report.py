"""What a run of the bench found: as a file, as Markdown, and against what was set out to be reached.

bench/results/latest.json holds it, and docs/performance.md shows it between two marks, made from that file alone:

    python -m bench.report            write the page's part anew
    python -m bench.report --check    fail if the page says anything else than the file
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter

RESULTS = Path(__file__).parent / "results" / "latest.json"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- made by `make bench` -->\n", "<!-- end -->\n"
MIB: Final = 1 << 20

OURS, PATH = "s3nsync worker", "s3nsync data path"
RCLONE, RCLONE_NS = "rclone, S3 to S3", "rclone, S3 to NetStorage"
POOL, POC = "boto3 and Akamai's kit", "proof of concept"
WRK, CURL = "wrk GET, wrk PUT", "curl to curl -T -"
SMALL, LARGE = "4 KiB", "4 GiB"
"""The sizes that are judged."""
LARGE_BYTES = 16 * MIB
"""From here on objects are told by the GB."""

RCLONE_THERE_S = 0.34
"""CPU seconds of rclone, S3 to S3, for 1,000 objects of 4 KiB where the data path's figure was set."""


@dataclass(frozen=True, slots=True)
class Run:
    """One client once: what it did, what it cost; `peak_bytes` is 0 where it means nothing.

    `server_busy` is the share of one core that nginx used, `requests` what each server was asked, by method or action.
    """

    objects: int
    cpu_s: float
    wall_s: float
    peak_bytes: int
    server_busy: float
    requests: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Cell:
    """One client on one size, with TLS or without, run by run."""

    client: str
    size: str
    size_bytes: int
    tls: bool
    runs: list[Run] = field(default_factory=list)

    @property
    def cpu_s(self) -> list[float]:
        """Give the CPU seconds for 1,000 objects, run by run."""
        return [each.cpu_s / each.objects * 1000 for each in self.runs]

    @property
    def cpu_s_per_gb(self) -> float:
        """Give the median CPU seconds for 10^9 bytes."""
        return statistics.median(self.cpu_s) / 1000 / self.size_bytes * 1e9

    @property
    def objects_per_s(self) -> float:
        """Give the median rate by the clock."""
        return statistics.median(each.objects / each.wall_s for each in self.runs)

    @property
    def peak_bytes(self) -> int:
        """Give the largest resident size seen."""
        return max(each.peak_bytes for each in self.runs)

    def per_object(self, server: str) -> float:
        """Give the requests that one server got for an object, in the last run."""
        requests = self.runs[-1].requests
        return sum(requests[server].values()) / max(1, *(requests["sink"].get(what, 0) for what in ("PUT", "PUT 204")))


@dataclass(frozen=True, slots=True)
class Lag:
    """How long `count` Changes took from the queue to NetStorage's answer, at so many a second."""

    load: str
    per_s: float
    count: int
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest resident size of a worker with so many objects of a size in flight."""

    size: str
    in_flight: int
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Reading:
    """One large object by so many GETs at once, from a source that gives each connection so many bytes a second."""

    streams: int
    size_bytes: int
    bytes_per_s: float
    cpu_s: float
    wall_s: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class Sharing:
    """Several workers on one queue, with NetStorage so far away: objects a second."""

    workers: int
    in_flight: int
    delay_s: float
    objects_per_s: float


@dataclass(slots=True)
class Results:
    """Everything that the bench found in `steps` runs; `rounds` were planned, and for `left_out` runs was no time."""

    at: str
    machine: str
    python: str
    others: list[str]
    rounds: int
    minutes: float = 0.0
    steps: int = 0
    left_out: int = 0
    cells: list[Cell] = field(default_factory=list)
    lags: list[Lag] = field(default_factory=list)
    peaks: list[Peak] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    sharings: list[Sharing] = field(default_factory=list)

    def cell(self, client: str, size: str = SMALL, *, tls: bool = True) -> Cell:
        """Give one cell; KeyError if it was not measured."""
        for each in self.cells:
            if (each.client, each.size, each.tls) == (client, size, tls):
                return each
        raise KeyError(client, size, tls)

    def times(self, client: str, size: str = SMALL) -> list[float]:
        """Give another client's CPU for an object over TLS as a multiple of our worker's, round by round."""
        rounds = zip(self.cell(client, size).cpu_s, self.cell(OURS, size).cpu_s, strict=False)  # some run in fewer
        return [theirs / ours for theirs, ours in rounds]


_FILE = TypeAdapter(Results)


def load(text: str | bytes) -> Results:
    """Read what `dump` wrote."""
    return _FILE.validate_json(text)


def dump(results: Results) -> str:
    """Give the results as JSON."""
    return _FILE.dump_json(results, indent=1).decode() + "\n"


# --- the page --------------------------------------------------------------------------------------------------


def with_report(page: str, results: Results) -> str:
    """Give the page with the report in its place."""
    before, _, rest = page.partition(BEGIN)
    return before + BEGIN + "\n".join(["", *report(results), "", ""]) + END + rest.partition(END)[2]


def report(results: Results) -> list[str]:
    """Give everything as Markdown: ratios first, then what was to be reached, then the tables."""
    lines = [*_about(results), "", *_ratios(results), "", *budget(results), ""]
    lines += [
        "Over TLS:",
        "",
        *table(results.cells, tls=True),
        "",
        "Without TLS:",
        "",
        *table(results.cells, tls=False),
    ]
    lines += ["", *_lags(results.lags), *_peaks(results.peaks), ""]
    return [*lines, *_readings(results.readings), "", *_sharings(results.sharings)]


def _about(results: Results) -> list[str]:
    others = f" Found beside it: {', '.join(results.others)}." if results.others else ""
    left_out = f" There was no time for {_counted(results.left_out, 'run')}." if results.left_out else ""
    when = f"Measured on {results.at[:10]}, {_counted(results.rounds, 'round')} in {results.minutes:.0f} minutes"
    what_it_means = "The milliseconds are those of one loop of calls: they tell how quick a Python is."
    return [
        f"{when}: {results.machine}.{left_out}",
        "",
        f"Every client written in Python ran on {results.python}.{others} {what_it_means}",
    ]


def _ratios(results: Results) -> list[str]:
    """Give what others need for an object, with TLS, as a multiple of ours."""
    ours_s = statistics.median(results.cell(OURS).cpu_s)
    clients = (RCLONE, RCLONE_NS, POOL, POC)
    others = [f"- {client}: {_spread(results.times(client), _times)} times as much" for client in clients]
    return [f"One object of {SMALL} over TLS costs our whole worker {ours_s:.2f} ms of CPU.", "", *others]


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _times(value: float) -> str:
    return f"{value:.{2 if value < 10 else 0}f}"


def _spread(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """Show the median, and the least and the most where there are several."""
    if len(values) == 1:
        return f"{shown(values[0])} (one round)"
    return f"{shown(statistics.median(values))} ({shown(min(values))} to {shown(max(values))})"


def table(cells: Iterable[Cell], *, tls: bool) -> list[str]:
    """Give one comparison as Markdown: ratios first."""
    head = (
        "| object | client | CPU, times the worker's | CPU s for 1,000: median (min to max) | CPU s for a GB "
        "| objects/s for a core | objects/s seen | peak MiB | requests for an object: S3 + NetStorage + SQS |"
    )
    mine = sorted((cell for cell in cells if cell.tls == tls), key=lambda cell: (cell.size_bytes, cell.size))
    ours = {cell.size: statistics.median(cell.cpu_s) for cell in mine if cell.client == OURS}
    rows = [_row(cell, ours[cell.size]) for cell in mine if cell.size in ours]
    return [head, "|---|---|--:|--:|--:|--:|--:|--:|--:|", *rows]


def _row(cell: Cell, ours_s: float) -> str:
    middle_s = statistics.median(cell.cpu_s)
    bound = " (server-bound)" if statistics.median(each.server_busy for each in cell.runs) > 0.85 else ""
    peak = f"{cell.peak_bytes / MIB:.0f}" if cell.peak_bytes else ""
    requests = " + ".join(f"{cell.per_object(server):.3g}" for server in ("source", "sink", "queue"))
    if cell.client == WRK:
        requests = "1 + 1 + 0"
    large = cell.size_bytes >= LARGE_BYTES
    per_gb = f"{cell.cpu_s_per_gb:.2f}"
    if large:
        per_gb = _spread([each / 1000 / cell.size_bytes * 1e9 for each in cell.cpu_s], lambda value: f"{value:.2f}")
    return (
        f"| {cell.size} | {cell.client} | {middle_s / ours_s:.2f} "
        f"| {'' if large else _spread(cell.cpu_s, lambda value: f'{value:.3f}')} "
        f"| {per_gb} | {'' if large else f'{1000 / middle_s:,.0f}'} "
        f"| {cell.objects_per_s:,.{2 if cell.objects_per_s < 10 else 0}f}{bound} | {peak} "
        f"| {'' if large else requests} |"
    )


def _lags(lags: Sequence[Lag]) -> Iterator[str]:
    for load in dict.fromkeys(each.load for each in lags):
        mine = [each for each in lags if each.load == load]
        p50, p99 = ([getattr(each, name) * 1000 for each in mine] for name in ("p50_s", "p99_s"))
        yield (
            f"- Lag until NetStorage answers, {load}, {mine[0].per_s:,.0f} changes of {SMALL} a second,"
            f" {mine[0].count} in a round: p50 {_spread(p50, _ms)}, p99 {_spread(p99, _ms)}."
        )


def _ms(value: float) -> str:
    return f"{value:.0f} ms"


def _peaks(peaks: Sequence[Peak]) -> Iterator[str]:
    for in_flight in dict.fromkeys(each.in_flight for each in peaks):
        mine = [each for each in peaks if each.in_flight == in_flight]
        sizes = dict.fromkeys(each.size for each in mine)
        shown = ", ".join(
            f"{size}: {_spread([each.peak_bytes / MIB for each in mine if each.size == size], _mib)}" for size in sizes
        )
        yield f"- Peak memory of a worker with {in_flight} objects in flight. {shown}."


def _mib(value: float) -> str:
    return f"{value:.0f} MiB"


def _readings(readings: Sequence[Reading]) -> Iterator[str]:
    """Show what several GETs at once are good for."""
    if readings:
        one = readings[0]
        yield (
            f"An object of {one.size_bytes / MIB:,.0f} MiB over TLS, from a source that gives a connection"
            f" {one.bytes_per_s / 1e6:.0f} MB/s:"
        )
        yield ""
        yield "| GETs at once | MB/s | CPU s for a GB | peak MiB |"
        yield "|--:|--:|--:|--:|"
    for streams in dict.fromkeys(each.streams for each in readings):
        mine = [each for each in readings if each.streams == streams]
        rate = _spread([each.size_bytes / each.wall_s / 1e6 for each in mine], lambda value: f"{value:.0f}")
        cpu = _spread([each.cpu_s / each.size_bytes * 1e9 for each in mine], lambda value: f"{value:.2f}")
        yield f"| {streams} | {rate} | {cpu} | {max(each.peak_bytes for each in mine) / MIB:.0f} |"


def _sharings(sharings: Sequence[Sharing]) -> Iterator[str]:
    """Show what a second worker is good for."""
    if sharings:
        one = sharings[0]
        yield (
            f"Workers on one queue, {one.in_flight} objects of {SMALL} in flight each, NetStorage's answers"
            f" {one.delay_s * 1000:.0f} ms away:"
        )
        yield ""
        yield "| workers | objects/s | times one worker's |"
        yield "|--:|--:|--:|"
    for workers in dict.fromkeys(each.workers for each in sharings):
        rate = _spread(
            [each.objects_per_s for each in sharings if each.workers == workers], lambda value: f"{value:.0f}"
        )
        yield f"| {workers} | {rate} | {_spread(shared(sharings, workers), _times)} |"


def shared(sharings: Sequence[Sharing], workers: int) -> list[float]:
    """Give how many times as much as one worker so many did, round by round."""
    ones = [each.objects_per_s for each in sharings if each.workers == 1]
    several = [each.objects_per_s for each in sharings if each.workers == workers]
    return [many / one for many, one in zip(several, ones, strict=False)]


# --- what was to be reached ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure of the budget: at least or at most `bound`, and what was found, a value for each round."""

    what: str
    wanted: str
    found: Sequence[float]
    bound: float
    shown: Callable[[float], str]
    at_least: bool = False
    remark: str = ""

    @property
    def value(self) -> float:
        """Give the figure that is judged: the median."""
        return statistics.median(self.found)

    @property
    def reached(self) -> bool:
        """Say if it was reached."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def row(self) -> str:
        """Show it as a row."""
        verdict = "reached" if self.reached else "**not reached**"
        return f"| {self.what} | {self.wanted} | {_spread(self.found, self.shown)}{self.remark} | {verdict} |"


def budget(results: Results) -> list[str]:
    """Give the budget as a table; what was not measured is left out."""
    head = ["| what was to be reached, over TLS | wanted | found: median (min to max) | |", "|---|---|---|---|"]
    return [*head, *(goal.row() for goal in goals(results) if goal.found)]


def goals(results: Results) -> Iterator[Goal]:
    """Give every figure of the budget with what was found."""
    yield from _small_goals(results)
    yield from _large_goals(results)
    for streams, bound, what in ((1, 96, "one plain stream"), (4, 160, "ranged reads, four times 8 MiB")):
        peaks = [each.peak_bytes / MIB for each in results.readings if each.streams == streams]
        yield Goal(f"memory of a worker: {what}", f"at most {bound} MiB", peaks, bound, _mib)
    most = [max(round_) for round_ in _rounds(results.peaks)]
    yield Goal("memory of a worker: 256 in flight, the dearest size", "at most 192 MiB", most, 192, _mib)
    idle = [each.p99_s * 1000 for each in results.lags if each.load == "idle"]
    yield Goal("lag of an idle system, p99", "at most 250 ms", idle, 250, _ms)
    two = shared(results.sharings, 2)
    yield Goal("two workers, far from NetStorage", "1.8 times one's work", two, 1.8, _times, at_least=True)


def _small_goals(results: Results) -> Iterator[Goal]:
    for client, bound in ((RCLONE, 2), (POOL, 15)):
        yield Goal(
            f"whole worker, {SMALL}: objects for a CPU second against {client}",
            f"{bound} times as many",
            results.times(client),
            bound,
            _times,
            at_least=True,
        )
    path, there = results.cell(PATH).cpu_s, results.cell(RCLONE).cpu_s
    like_there = [ours * RCLONE_THERE_S / theirs for ours, theirs in zip(path, there, strict=False)]
    rclone = f"; rclone {statistics.median(there):.3f} s"
    for more, found, remark in (
        ("", path, rclone),
        (f", if rclone took {RCLONE_THERE_S} s, as where this was set", like_there, ""),
    ):
        what = f"data path alone, 1,000 objects of {SMALL}{more}"
        yield Goal(what, "at most 0.10 CPU s", found, 0.10, lambda value: f"{value:.3f} s", remark=remark)


def _large_goals(results: Results) -> Iterator[Goal]:
    size = next(each.size for each in results.cells if each.size_bytes >= LARGE_BYTES)  # `quick` has a smaller one
    ours, theirs = results.cell(OURS, size), results.cell(RCLONE, size)
    yield Goal(
        f"{size}, before hashing",
        "at most 1.3 CPU s for a GB",
        [each / 1000 / ours.size_bytes * 1e9 for each in ours.cpu_s],
        1.3,
        lambda value: f"{value:.2f} s",
        remark=f"; rclone {theirs.cpu_s_per_gb:.2f} s",
    )
    peaks = [each.peak_bytes / MIB for each in ours.runs]
    yield Goal(f"memory of a worker: {size}", "at most 96 MiB", peaks, 96, _mib)


def _rounds(peaks: Sequence[Peak]) -> Iterator[list[float]]:
    """Give the MiB of each round, whatever the size."""
    by_size = [
        [each.peak_bytes / MIB for each in peaks if each.size == size] for size in dict.fromkeys(p.size for p in peaks)
    ]
    yield from (list(each) for each in zip(*by_size, strict=False))


def main() -> None:
    """Write the page, or check it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--check", action="store_true", help="only say whether the page is what the file says")
    given = options.parse_args()
    page = PAGE.read_text()
    wanted = with_report(page, load(RESULTS.read_bytes()))
    if given.check and page != wanted:
        raise SystemExit(f"{PAGE.name} does not say what {RESULTS.name} says: run `python -m bench.report`")
    if not given.check:
        PAGE.write_text(wanted)


if __name__ == "__main__":
    main()
