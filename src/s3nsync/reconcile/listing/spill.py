"""Sorting items that may not fit into memory, by runs in a temporary file and a merge of them.

Items are gathered up to a bound, sorted and written as a run. A gathered lot that begins where the last run ended goes
on with that run, so what comes nearly in order (an inventory's files, mostly) makes few runs however much it is. What
never reaches the bound never touches the disk. Too many runs are merged into one before they use up the process's open
files. Runs are lines of JSON: a lone surrogate, which a name that is not UTF-8 has, comes back as it was.
"""

from __future__ import annotations

import heapq
import itertools
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Generic, Self, TypeVar

from s3nsync.compare import SourceItem, TargetItem, order

Item = TypeVar("Item", bound=SourceItem | TargetItem)

IN_MEMORY_ITEMS = 20_000
"""Items gathered before they become a run: about 8 MB."""

MAX_RUNS = 128
"""Runs merged at once, each an open file; a process usually may have 1,024."""

_LINE_ITEMS = 500


def by_key(item: SourceItem | TargetItem) -> bytes:
    """Give what items are sorted by."""
    return order(item.key)


class Sorter(Generic[Item]):
    """Takes items in any order, gives them back in key order, once; close it when done."""

    def __init__(
        self,
        make: Callable[[Iterable[object]], Item],
        *,
        in_memory_items: int = IN_MEMORY_ITEMS,
        scratch: Path | None = None,
    ) -> None:
        """Start empty; `make` builds an item from its fields, `scratch` is where runs go (default: the system's)."""
        self._make = make
        self._in_memory_items = in_memory_items
        self._scratch = scratch
        self._gathered: list[Item] = []
        self._runs: list[IO[str]] = []
        self._last = b""
        self.count = 0

    def add(self, items: Iterable[Item]) -> None:
        """Take items in; OSError when the disk is full."""
        before = len(self._gathered)
        self._gathered.extend(items)
        self.count += len(self._gathered) - before
        if len(self._gathered) >= self._in_memory_items:
            self._write_run()

    def batches(self, size: int) -> Iterator[list[Item]]:
        """Give everything in key order, in lists of `size` but for the last."""
        self._gathered.sort(key=by_key)
        return self._merged(size)

    def _merged(self, size: int) -> Iterator[list[Item]]:
        streams: list[Iterable[Item]] = [self._read(run) for run in self._runs]
        merged = heapq.merge(*streams, self._gathered, key=by_key) if streams else iter(self._gathered)
        while batch := list(itertools.islice(merged, size)):
            yield batch

    @property
    def in_hand(self) -> Sequence[Item]:
        """What is in memory; in key order once `batches` was asked for."""
        return self._gathered

    @property
    def spilled(self) -> bool:
        """Whether anything went to the disk."""
        return bool(self._runs)

    def close(self) -> None:
        """Remove what was written; harmless twice."""
        for run in self._runs:
            run.close()
        self._runs.clear()
        self._gathered.clear()

    def __enter__(self) -> Self:
        """Enter: the sorter itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was written."""
        self.close()

    def _write_run(self) -> None:
        self._gathered.sort(key=by_key)
        if not self._runs or by_key(self._gathered[0]) < self._last:
            if len(self._runs) >= MAX_RUNS:
                self._merge_runs()
            self._runs.append(self._new_run())
        self._write(self._runs[-1], self._gathered)
        self._last = by_key(self._gathered[-1])
        self._gathered = []

    def _merge_runs(self) -> None:
        merged = self._new_run()
        self._write(merged, heapq.merge(*map(self._read, self._runs), key=by_key))
        for run in self._runs:
            run.close()
        self._runs = [merged]

    def _new_run(self) -> IO[str]:
        # Without a name: nothing is left behind whatever becomes of the process.
        return tempfile.TemporaryFile("w+", encoding="ascii", prefix="s3nsync-", dir=self._scratch)

    @staticmethod
    def _write(run: IO[str], items: Iterable[Item]) -> None:
        rest = iter(items)
        while line := list(itertools.islice(rest, _LINE_ITEMS)):
            run.write(json.dumps(line, separators=(",", ":")) + "\n")

    def _read(self, run: IO[str]) -> Iterator[Item]:
        run.seek(0)
        for line in run:
            yield from map(self._make, json.loads(line))
