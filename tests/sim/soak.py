"""Play many seeds and print one JSON line: `python tests/sim/soak.py --seeds 10000 [--from 1] [--jobs 2] [--stop]`.

The line says how many seeds and operations were played, which faults really struck and how often, and which seeds broke
a promise; the shrunk story of the first of these goes to standard error, progress too where that is a terminal. With
`--stop` the first broken promise ends the run. An interrupted run tells what it has played; `--from` goes on there.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).parents[1]))

from sim.plan import draw
from sim.simulation import Result, run
from sim.story import shrink, tell

BATCH = 10
"""Seeds that one process plays at a time: about half a second's work."""


@dataclass(slots=True)
class Tally:
    """What has been played so far."""

    seeds: int = 0
    operations: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    failed: list[Result] = field(default_factory=list)

    def add(self, result: Result) -> None:
        """Count one run."""
        self.seeds += 1
        self.operations += len(result.plan.ops)
        self.faults.update(result.injected)
        if result.violations:
            self.failed.append(result)

    def line(self, seconds: float) -> str:
        """Give the summary as one line of JSON."""
        summary = {
            "seeds": self.seeds,
            "operations": self.operations,
            "faults": dict(sorted(self.faults.items())),
            "violations": {str(each.plan.seed): each.violations[0] for each in self.failed},
            "seconds": round(seconds, 1),
        }
        return json.dumps(summary)


def play(seeds: range) -> list[Result]:
    """Play some seeds; the stories of those that kept their promises are not needed any more."""
    return [each if each.violations else each.without_story() for each in (run(draw(seed)) for seed in seeds)]


def hush(*, alone: bool = True) -> None:
    """Keep the workers' warnings to themselves; a helper process leaves Ctrl-C to the one that started it."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    if not alone:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def results(first: int, seeds: int, jobs: int) -> Generator[Result, None, None]:
    """Give the results in the order of their seeds, from one process or several."""
    if jobs == 1:
        yield from (run(draw(seed)) for seed in range(first, first + seeds))
        return
    ends = first + seeds
    batches = [range(start, min(start + BATCH, ends)) for start in range(first, ends, BATCH)]
    with ProcessPoolExecutor(jobs, initializer=_help) as pool:
        try:
            for batch in pool.map(play, batches):
                yield from batch
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _help() -> None:
    hush(alone=False)


def main() -> int:
    """Play, and give the exit code: 1 if a promise was broken, 130 after Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", type=int, default=1, dest="first")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes to play in")
    parser.add_argument("--stop", action="store_true", help="end at the first violation")
    parser.add_argument("--quiet", action="store_true", help="do not shrink or tell the stories")
    options = parser.parse_args()
    hush()
    for each in (signal.SIGINT, signal.SIGTERM):  # a shell starts its background jobs deaf to SIGINT
        signal.signal(each, signal.default_int_handler)
    began_s = time.monotonic()
    tally, interrupted = Tally(), False
    try:
        with closing(results(options.first, options.seeds, options.jobs)) as played:
            for result in played:
                tally.add(result)
                _show(tally, options.seeds)
                if options.stop and tally.failed:
                    break
        if tally.failed and not options.quiet:
            sys.stderr.write(tell(shrink(tally.failed[0])) + "\n")
    except KeyboardInterrupt:
        interrupted = True
        sys.stderr.write(f"\ninterrupted; to go on: --from {options.first + tally.seeds}\n")
    sys.stdout.write(tally.line(time.monotonic() - began_s) + "\n")
    return 130 if interrupted else 1 if tally.failed else 0


def _show(tally: Tally, seeds: int) -> None:
    if sys.stderr.isatty() and tally.seeds % BATCH == 0:
        ends = "\n" if tally.seeds == seeds else ""
        sys.stderr.write(f"\r{tally.seeds} of {seeds} seeds, {len(tally.failed)} broke a promise{ends}")


if __name__ == "__main__":
    sys.exit(main())
