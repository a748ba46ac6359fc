"""Play many seeds and print one JSON line: `python tests/sim/soak.py --seeds 10000 [--from 1] [--stop]`.

The line says how many seeds and operations were played, which faults really struck and how often, and which seeds broke
a promise. With `--stop` the first of those ends the run; its shrunk story goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from pathlib import Path

import structlog

sys.path.insert(0, str(Path(__file__).parents[1]))

from sim.plan import draw
from sim.simulation import Result, run
from sim.story import shrink, tell


def main() -> int:
    """Play, and give the exit code: 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--from", type=int, default=1, dest="first")
    parser.add_argument("--stop", action="store_true", help="end at the first violation")
    parser.add_argument("--quiet", action="store_true", help="do not shrink or tell the stories")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    began_s = time.monotonic()
    counts: Counter[str] = Counter()
    failed: list[Result] = []
    played = operations = 0
    for seed in range(options.first, options.first + options.seeds):
        result = run(draw(seed))
        played += 1
        operations += len(result.plan.ops)
        counts.update(result.injected)
        if result.violations:
            failed.append(result)
            if not options.quiet and len(failed) == 1:
                sys.stderr.write(tell(shrink(result)) + "\n")
            if options.stop:
                break
    summary = {
        "seeds": played,
        "operations": operations,
        "faults": dict(sorted(counts.items())),
        "violations": {str(each.plan.seed): each.violations[0] for each in failed},
        "seconds": round(time.monotonic() - began_s, 1),
    }
    sys.stdout.write(json.dumps(summary) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
