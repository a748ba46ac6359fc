"""What is stored: one flat, ordered name space of files, symlinks and directories.

Names are bytes without a leading slash; a directory's name ends in one. So `99/a` (a file) and `99/a/` (a directory)
are two names, as on ObjectStore, and byte order of names is the order of every listing. Directories that exist only
because something lies below them ("implicit") are not stored: they follow from the order.

A `Tree` can be looked at as it was a short while ago: it keeps the last changes and undoes them on a copy.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from s3nsync.emulator.blobs import Blob

HISTORY_CHANGES = 4096
HISTORY_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class File:
    """A stored object: bytes, MD5 (hex) and whole-second modification time."""

    blob: Blob
    md5: str
    mtime_s: int

    @property
    def size_bytes(self) -> int:
        """How many bytes the file has."""
        return self.blob.size_bytes


@dataclass(frozen=True, slots=True)
class Symlink:
    """A name that stands for another: `target` is absolute (`/cpcode/…`) or relative to its directory."""

    target: bytes
    mtime_s: int


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory; `mtime_s` is None for an implicit one."""

    mtime_s: int | None


Leaf = File | Symlink
Node = Leaf | Directory
IMPLICIT = Directory(None)


@dataclass(frozen=True, slots=True)
class _Change:
    at_s: float
    name: bytes
    before: Node | None

    @property
    def weight_bytes(self) -> int:
        return self.before.size_bytes if isinstance(self.before, File) else 0


def parent_of(name: bytes) -> bytes:
    """Return the name of the directory `name` lies in ("" above a CP code's root)."""
    return name.removesuffix(b"/").rpartition(b"/")[0] + b"/"


def past(directory: bytes) -> bytes:
    """Return the first name after everything in `directory`: the byte after "/" is "0"."""
    return directory[:-1] + b"0"


class Tree:
    """The name space: lookups are exact, ranges are in byte order."""

    def __init__(self) -> None:
        """Start empty."""
        self._nodes: dict[bytes, Node] = {}
        self._order: list[bytes] = []
        self._history: deque[_Change] = deque()
        self._history_bytes = 0

    def __len__(self) -> int:
        """How many names are stored."""
        return len(self._nodes)

    def leaf(self, name: bytes) -> Leaf | None:
        """Return the file or symlink called `name`."""
        node = self._nodes.get(name)
        return None if isinstance(node, Directory) else node

    def directory(self, name: bytes) -> Directory | None:
        """Return the directory called `name` (with its slash), IMPLICIT if it only has content."""
        node = self._nodes.get(name)
        if isinstance(node, Directory):
            return node
        return IMPLICIT if self.has_content(name) else None

    def has_content(self, directory: bytes) -> bool:
        """Whether anything lies in `directory`."""
        return next(self.names(directory + b"\0", past(directory)), None) is not None

    def items(self) -> list[tuple[bytes, Node]]:
        """Return everything stored, in no order."""
        return list(self._nodes.items())

    def node(self, name: bytes) -> Node:
        """Return what is stored under `name`; raise KeyError."""
        return self._nodes[name]

    def names(self, start: bytes, end: bytes | None = None) -> Iterator[bytes]:
        """Yield stored names from `start` to before `end`, in byte order."""
        order = self._order
        for index in range(bisect_left(order, start), len(order)):
            name = order[index]
            if end is not None and name >= end:
                return
            yield name

    def children(self, directory: bytes) -> Iterator[bytes]:
        """Yield the names directly in `directory`, implicit directories too, in byte order."""
        order, end = self._order, past(directory)
        index = bisect_left(order, directory + b"\0")
        while index < len(order) and order[index] < end:
            name = order[index]
            slash = name.find(b"/", len(directory))
            if slash == -1:
                yield name
                index += 1
                continue
            yield name[: slash + 1]
            index = bisect_left(order, past(name[: slash + 1]), index)

    def usage(self, directory: bytes) -> tuple[int, int]:
        """Return (entries, bytes) of everything in `directory`, itself counted when it is stored."""
        nodes = [self._nodes[name] for name in self.names(directory, past(directory))]
        return len(nodes), sum(node.size_bytes for node in nodes if isinstance(node, File))

    def put(self, name: bytes, node: Node, now_s: float) -> None:
        """Store `node` under `name`, in place of what was there."""
        before = self._nodes.get(name)
        if before is None:
            insort(self._order, name)
        self._nodes[name] = node
        self._note(_Change(now_s, name, before))

    def remove(self, name: bytes, now_s: float) -> None:
        """Remove what is stored under `name`; raise KeyError."""
        before = self._nodes.pop(name)
        del self._order[bisect_left(self._order, name)]
        self._note(_Change(now_s, name, before))

    def clear(self) -> None:
        """Forget everything, the past too."""
        self._nodes.clear()
        self._order.clear()
        self._history.clear()
        self._history_bytes = 0

    def as_of(self, then_s: float) -> Tree:
        """Return a copy as it was at `then_s`, as far back as the changes kept reach."""
        nodes = dict(self._nodes)
        for change in reversed(self._history):
            if change.at_s <= then_s:
                break
            if change.before is None:
                nodes.pop(change.name, None)
            else:
                nodes[change.name] = change.before
        past_tree = Tree()
        past_tree._nodes, past_tree._order = nodes, sorted(nodes)
        return past_tree

    def _note(self, change: _Change) -> None:
        self._history.append(change)
        self._history_bytes += change.weight_bytes
        while len(self._history) > HISTORY_CHANGES or self._history_bytes > HISTORY_BYTES:
            self._history_bytes -= self._history.popleft().weight_bytes
