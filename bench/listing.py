"""How many keys a second `s3nsync verify` compares, and how much memory that takes, beside rclone in the same run.

    made_up.py, a process of its own  ->  S3 pages       -> listing -+
                                      ->  list or dir    -> listing -+-> join, judge, HEAD what is open

Each client is a process of its own. Ours is what `s3nsync verify` runs: listings, join, judgement, a HEAD for each
object whose ETag is not NetStorage's md5. What differs is counted, so that nothing can be skipped for speed. The figure
to trust is keys (of each side) for a CPU second of the client: parsing, joining, judging, HTTP without TLS. Memory is
the process's, Python and libraries included, sampled through the run; its peak may not grow with the number of keys.

rclone compares the same keys on the same servers (`rclone check`, MD5 against MD5), and lists S3's alone
(`rclone size --fast-list`), of at most `--rclone-keys`: it needs some 1 KiB of memory for each.

    python -m bench.listing [--keys 1000000] [--store both] [--rclone-keys 200000] [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import uvloop
from bench.made_up import BUCKET, CPCODE, KEY, USER, Store, is_altered, is_missing, made_up
from bench.path_client import AnyCredentials

from s3nsync.app import relax_collector
from s3nsync.compare import Kind, Scope
from s3nsync.http import Http, Origin
from s3nsync.model import Route
from s3nsync.netstorage import Account, NetStorage
from s3nsync.reconcile.sides import Selection, joined
from s3nsync.reconcile.verify import Care, Verifier
from s3nsync.s3 import S3

ROUTE = Route(BUCKET, CPCODE)
SLICES = 20
"""Stretches of the run of which each one's peak memory is told."""

SAMPLE_S = 0.1
MOST_GROWTH_MIB = 32
"""How much more memory the last half of a run may take than the first: what the allocator needs to settle."""

RCLONE_LIMIT_S = 120


@dataclass(frozen=True, slots=True)
class Measured:
    """What one client took for so many keys of each side it listed."""

    what: str
    keys: int
    wall_s: float
    cpu_s: float
    peak_mib: float

    @property
    def keys_per_cpu_s(self) -> float:
        """Give keys for a CPU second."""
        return self.keys / self.cpu_s

    def __str__(self) -> str:
        """Give a row of the table."""
        return (
            f"| {self.what} | {self.keys:,} | {self.wall_s:.1f} | {self.cpu_s:.1f} | {self.keys / self.wall_s:,.0f}"
            f" | {self.keys_per_cpu_s:,.0f} | {self.peak_mib:.0f} |"
        )


HEAD = """| client | keys a side | wall s | CPU s | keys/s | keys/CPU s | peak MiB |
|---|--:|--:|--:|--:|--:|--:|"""


# --- ours ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Memory:
    """Peaks of this process's memory in MiB, one for each slice of the keys."""

    keys: int
    peaks: list[float] = field(default_factory=lambda: [0.0] * SLICES)

    def note(self, seen: int) -> None:
        """Take a sample, when so many keys were seen."""
        number = min(SLICES - 1, seen * SLICES // self.keys)
        pages = int(Path("/proc/self/statm").read_text().split(maxsplit=2)[1])
        self.peaks[number] = max(self.peaks[number], pages * os.sysconf("SC_PAGESIZE") / (1 << 20))


async def verify(origin: Origin, memory: Memory) -> Counter[Kind]:
    """Verify as the command does; give what was found."""
    async with Http() as http:
        s3 = S3(http, region="us-east-1", credentials=AnyCredentials(), endpoint=str(origin))
        netstorage = NetStorage(Account(origin.host, USER, KEY, "http", origin.port), http)
        verifier = Verifier(s3, netstorage, Scope(ROUTE, [ROUTE]), Care(), prefix="", now_s=time.time)

        async def watch() -> None:
            while True:
                memory.note(verifier.tally.source_objects)
                await asyncio.sleep(SAMPLE_S)

        watching = asyncio.create_task(watch())
        async with aclosing(verifier.findings(joined(s3, netstorage, ROUTE, Selection()))) as findings:
            async for _ in findings:
                pass
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        tally = verifier.tally
    assert tally.source_objects == memory.keys
    assert tally.same["md5"] + tally.findings.total() == memory.keys
    return tally.findings


def run_here(origin: Origin, keys: int) -> None:
    """Verify in this process, and print what it took as one line of JSON; AssertionError if it found anything else."""
    relax_collector()
    memory = Memory(keys)
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(verify(origin, memory))
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    assert found == {"missing": sum(map(is_missing, range(keys))), "different": sum(map(is_altered, range(keys)))}
    print(json.dumps({"wall_s": wall_s, "cpu_s": cpu_s, "peaks": memory.peaks}))


def measure_ours(keys: int, store: Store) -> tuple[Measured, Sequence[float]]:
    """Verify in a process of its own; also gives the memory's peaks, slice by slice."""
    with made_up(keys, store) as origin:
        command = [sys.executable, "-m", "bench.listing", "--client", str(origin.port), "--keys", str(keys)]
        said = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
    peaks = [each for each in said["peaks"] if each]
    measured = Measured(f"s3nsync verify, {store}", keys, said["wall_s"], said["cpu_s"], max(peaks))
    first, last = max(peaks[: SLICES // 2]), max(peaks[SLICES // 2 :], default=0.0)
    if last > first + MOST_GROWTH_MIB:
        raise SystemExit(f"memory grows with the number of keys: {peaks}")
    return measured, said["peaks"]


# --- rclone ----------------------------------------------------------------------------------------------------


def measure_rclone(keys: int) -> list[Measured]:
    """Have rclone compare both sides, and list S3's alone; SystemExit if it finds anything else than we do."""
    differences = sum(is_missing(index) + is_altered(index) for index in range(keys))
    found = []
    with made_up(keys, "objectstore") as origin, tempfile.TemporaryDirectory() as home:
        environment = _rclone_environment(origin, Path(home))
        for what, arguments, wanted in (
            ("rclone check --fast-list", ["check", f"s:{BUCKET}", "n:", "--fast-list"], f"{differences} differences"),
            ("rclone check", ["check", f"s:{BUCKET}", "n:"], f"{differences} differences"),
            ("rclone size --fast-list, S3 alone", ["size", f"s:{BUCKET}", "--fast-list"], f"({keys})"),
        ):
            measured, said = _run_rclone(what, arguments, keys, environment)
            if differences and wanted not in said:
                raise SystemExit(f"{what} said no {wanted!r}: {said[-2000:]}")
            found.append(measured)
    return found


def _rclone_environment(origin: Origin, home: Path) -> Mapping[str, str]:
    obscured = subprocess.run(["rclone", "obscure", KEY], capture_output=True, text=True, check=True).stdout.strip()  # noqa: S607
    s3 = {"TYPE": "s3", "PROVIDER": "Other", "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "s", "REGION": "us-east-1"}
    s3 |= {"ENDPOINT": str(origin), "FORCE_PATH_STYLE": "true", "LIST_VERSION": "2"}
    netstorage = {"TYPE": "netstorage", "PROTOCOL": "http", "HOST": f"127.0.0.1:{origin.port}/{CPCODE}"}
    netstorage |= {"ACCOUNT": USER, "SECRET": obscured}
    (home / "rclone.conf").touch()
    own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "RCLONE_"))}
    own |= {"RCLONE_CONFIG": str(home / "rclone.conf")}
    own |= {f"RCLONE_CONFIG_S_{name}": value for name, value in s3.items()}
    return own | {f"RCLONE_CONFIG_N_{name}": value for name, value in netstorage.items()}


def _run_rclone(what: str, arguments: Sequence[str], keys: int, environment: Mapping[str, str]) -> tuple[Measured, str]:
    with tempfile.TemporaryFile("w+") as output:
        command = ["timeout", str(RCLONE_LIMIT_S), "rclone", *arguments]
        began_s = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - began_s
        output.seek(0)
        said = output.read()
    return Measured(what, keys, wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024), said


# --- the table -------------------------------------------------------------------------------------------------


def compare_all(keys: int, stores: Sequence[Store], rclone_keys: int) -> None:
    """Measure every client, and print the table with what it comes to."""
    load = os.getloadavg()[0]
    print(f"{platform.machine()}, Python {platform.python_version()}, load {load:.1f} at the start\n\n{HEAD}")
    curves: dict[Store, Sequence[float]] = {}
    ours: list[Measured] = []
    for store in stores:
        measured, curves[store] = measure_ours(keys, store)
        ours.append(measured)
        print(measured, flush=True)
    if rclone_keys:
        others = measure_rclone(rclone_keys)
        print(*others, sep="\n")
        times = ", ".join(f"{each.what} {ours[0].keys_per_cpu_s / each.keys_per_cpu_s:.1f}" for each in others)
        print(f"\nKeys for a CPU second of {ours[0].what}, times those of: {times}.")
    for store, peaks in curves.items():
        curve = ", ".join(f"{number * 100 // SLICES} %: {each:.0f}" for number, each in enumerate(peaks, 1) if each)
        print(f"\nPeak MiB by how many of the keys were seen, {store}: {curve}.")


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--store", choices=["objectstore", "filestore", "both"], default="both")
    parser.add_argument("--rclone-keys", type=int, default=200_000, help="0 leaves it out")
    parser.add_argument("--quick", action="store_true", help="few keys: only shows that everything runs and agrees")
    parser.add_argument("--client", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        run_here(Origin("http", "127.0.0.1", options.client), options.keys)
        return
    stores: tuple[Store, ...] = ("objectstore", "filestore") if options.store == "both" else (options.store,)
    rclone_keys = options.rclone_keys if shutil.which("rclone") else 0
    compare_all(
        50_000 if options.quick else options.keys, stores, min(rclone_keys, 20_000 if options.quick else rclone_keys)
    )


if __name__ == "__main__":
    main()
