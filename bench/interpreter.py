"""Choose the Python that every client of the bench written in Python runs on: ours and its yardsticks alike.

Pythons built by hand often lack profile-guided optimisation, which those of distributions and container images have:
the same program then takes a third more CPU. What ships is an optimised one (the worker's image stands on
python:3.13-slim), so such a one is taken where it is found: one that says so by its CONFIG_ARGS, or the system's.
Debian optimises it, though its `sysconfig` describes another build of the same sources; the loop here bears that out.
Of several, or where there is none, the quickest is taken, by that loop of calls, attributes, dictionaries and strings.

    python bench/interpreter.py FILE              write the path of such a Python to FILE, unless one stands there
    python bench/interpreter.py FILE --named P    write that of P to FILE

FILE is not touched when it says so already, so that make can tell whether to make the environment anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

OLDEST = (3, 11)
NAMES = ("python3", "python3.11", "python3.12", "python3.13")
FOLDERS = ("/usr/local/bin", "/usr/bin")
RUNS = 60
TURNS = 3
"""How often each Python is asked, in turns: on a busy machine the least of several is the truest."""
WAIT_S = 20
PLAIN = "not optimised"
LIKE = 1.05
"""How many times slower a Python may be and still count as quick: of those the first one found is taken."""


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python, how it was built as far as it says so, and the milliseconds of CPU that it takes for the loop."""

    executable: str
    version: str
    build: str
    loop_ms: float

    def __str__(self) -> str:
        """Show all of it but where it is."""
        return f"{self.version} ({self.build}, {self.loop_ms:.1f} ms)"


class _Walker:
    """Something to call and to keep."""

    def __init__(self) -> None:
        self.seen: dict[int, str] = {}

    def step(self, number: int) -> int:
        self.seen[number & 15] = f"{number}:{len(self.seen)}"
        return sum([len(part) for part in self.seen[number & 15].partition(":")])


def _loop() -> None:
    walker = _Walker()
    for number in range(4_000):
        walker.step(number)


def this() -> Interpreter:
    """Describe the Python that runs this, by the quickest of several runs."""
    taken_s = []
    for _ in range(RUNS):
        began_s = time.process_time()
        _loop()
        taken_s.append(time.process_time() - began_s)
    return Interpreter(
        os.path.realpath(sys.executable), platform.python_version(), _build(), round(min(taken_s) * 1000, 2)
    )


def _build() -> str:
    if "--enable-optimizations" in str(sysconfig.get_config_var("CONFIG_ARGS")):
        return "optimised"
    return "optimised by its distribution" if sys.base_prefix == "/usr" else PLAIN


def describe(executable: str) -> Interpreter | None:
    """Ask a Python to describe itself; None if it cannot, or is too old."""
    try:
        told = subprocess.run(
            [executable, __file__, "--this"], capture_output=True, text=True, check=True, timeout=WAIT_S
        )
        return Interpreter(**json.loads(told.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, TypeError):
        return None


def found() -> list[Interpreter]:
    """Give every Python that is on the search path, in the system's folders or in pyenv's, each once."""
    told = [each for path in list(dict.fromkeys(_paths())) * TURNS if (each := describe(path))]
    executables = dict.fromkeys(each.executable for each in told)
    return [min((one for one in told if one.executable == path), key=lambda one: one.loop_ms) for path in executables]


def _paths() -> Iterator[str]:
    yield os.path.realpath(sys.executable)
    folders = [Path(folder) for folder in (*os.environ.get("PATH", "").split(":"), *FOLDERS)]
    folders += sorted(Path.home().glob(".pyenv/versions/*/bin"))
    for path in (folder / name for folder in folders for name in NAMES):
        if path.is_file():
            yield os.path.realpath(path)


def quickest(among: list[Interpreter]) -> Interpreter:
    """Give the first that is as quick as any, near enough; one that is not optimised only if they all are not."""
    best = [each for each in among if each.build != PLAIN] or among
    least_ms = min(each.loop_ms for each in best)
    return next(each for each in best if each.loop_ms <= least_ms * LIKE)


def main() -> None:
    """Write down the chosen Python."""
    if sys.version_info < OLDEST or not find_spec("venv"):
        raise SystemExit(f"this is Python {platform.python_version()}: too old, or without venv")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--named")
    parser.add_argument("--this", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.this or given.file is None:
        print(json.dumps(asdict(this())))
        return
    before = given.file.read_text().strip() if given.file.exists() else ""
    if given.named:
        chosen = describe(given.named)
        if chosen is None:
            raise SystemExit(f"{given.named} is no Python from {'.'.join(map(str, OLDEST))} on that works")
    elif before and (kept := describe(before)) and kept.build != PLAIN:
        return
    else:
        chosen = quickest(found())
    if chosen.executable != before:
        given.file.write_text(chosen.executable + "\n")
        print(f"the bench's clients run on Python {chosen}", file=sys.stderr)


if __name__ == "__main__":
    main()
