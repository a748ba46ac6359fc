"""The name space against plain models of it: order, children, totals and the past."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3nsync.emulator.blobs import Blobs, FolderBlobs, MemoryBlobs, read_all
from s3nsync.emulator.store import IMPLICIT, Directory, File, Node, Tree, parent_of, past

SEGMENT = st.text(alphabet="ab-0 ", min_size=1, max_size=3).map(str.encode)
LEAF = st.lists(SEGMENT, min_size=1, max_size=3).map(lambda parts: b"9/" + b"/".join(parts))
NAME = st.one_of(LEAF, LEAF.map(lambda name: name + b"/"))
STEPS = st.lists(st.tuples(NAME, st.booleans()), max_size=30)


def node_for(name: bytes, size: int = 3) -> Node:
    """Return a directory for names that end in a slash, a file for others."""
    if name.endswith(b"/"):
        return Directory(1)
    spool = MemoryBlobs().spool()
    spool.write(b"x" * size)
    return File(spool.finish(), "", 1)


def grown(steps: list[tuple[bytes, bool]]) -> tuple[Tree, set[bytes], list[set[bytes]]]:
    """Apply puts (True) and removals at times 1, 2, …; return the tree, its names, and the names after each step."""
    tree, names, past_names = Tree(), set[bytes](), [set[bytes]()]
    for at_s, (name, put) in enumerate(steps, start=1):
        if put:
            tree.put(name, node_for(name), at_s)
            names.add(name)
        elif name in names:
            tree.remove(name, at_s)
            names.discard(name)
        past_names.append(set(names))
    return tree, names, past_names


@given(STEPS, LEAF, LEAF)
def test_ranges_are_in_byte_order(steps: list[tuple[bytes, bool]], start: bytes, end: bytes) -> None:
    """A range holds exactly the stored names between its ends, sorted."""
    tree, names, _ = grown(steps)
    assert list(tree.names(start, end)) == sorted(name for name in names if start <= name < end)


@given(STEPS, LEAF)
def test_children_follow_from_the_names(steps: list[tuple[bytes, bool]], at: bytes) -> None:
    """A directory's children are the first segments of what lies below it, implicit directories too."""
    tree, names, _ = grown(steps)
    for directory in (b"9/", at + b"/"):
        below = {name[len(directory) :] for name in names if name.startswith(directory)} - {b""}
        firsts = {name.partition(b"/")[0] + (b"/" if b"/" in name else b"") for name in below}
        children = list(tree.children(directory))
        assert children == sorted(directory + first for first in firsts)
        assert tree.has_content(directory) == bool(below)


@given(STEPS)
def test_usage_counts_everything_below(steps: list[tuple[bytes, bool]]) -> None:
    """Totals count files, directories and the directory itself; bytes are those of files."""
    tree, names, _ = grown(steps)
    files = [name for name in names if not name.endswith(b"/")]
    assert tree.usage(b"9/") == (len(names), 3 * len(files))


@given(STEPS)
def test_the_past_can_be_seen(steps: list[tuple[bytes, bool]]) -> None:
    """The tree as of a moment has the names it had then, and looking back changes nothing."""
    tree, names, past_names = grown(steps)
    for at_s, then in enumerate(past_names):
        assert list(tree.as_of(at_s).names(b"")) == sorted(then)
    assert list(tree.names(b"")) == sorted(names)


def test_the_past_is_bounded() -> None:
    """Old bytes are let go once too many of them were replaced."""
    tree = Tree()
    for at_s in range(200):
        tree.put(b"9/big", node_for(b"9/big", 1024 * 1024), at_s)
    assert tree._history_bytes <= 64 * 1024 * 1024


def test_file_and_directory_share_a_name() -> None:
    """`a` and `a/` are two names; a directory with content only is implicit."""
    tree = Tree()
    tree.put(b"9/a", node_for(b"9/a"), 1)
    tree.put(b"9/a/b", node_for(b"9/a/b"), 1)
    assert isinstance(tree.leaf(b"9/a"), File)
    assert tree.directory(b"9/a/") is IMPLICIT
    tree.remove(b"9/a/b", 2)
    assert tree.directory(b"9/a/") is None


def test_path_arithmetic() -> None:
    """Parents end in a slash; the first name past a directory has its slash counted up."""
    assert [parent_of(name) for name in (b"9/a/b", b"9/a/", b"9")] == [b"9/a/", b"9/", b"/"]
    assert past(b"9/a/") == b"9/a0"


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_blobs_keep_bytes(kind: str, tmp_path: Path) -> None:
    """What was written comes back, whole and in ranges; what was aborted leaves nothing."""
    blobs: Blobs = MemoryBlobs() if kind == "memory" else FolderBlobs(tmp_path)
    data = bytes(range(256)) * 3000
    spool = blobs.spool()
    for offset in range(0, len(data), 100_000):
        spool.write(data[offset : offset + 100_000])
    blob = spool.finish()
    assert (blob.size_bytes, read_all(blob)) == (len(data), data)
    assert b"".join(blob.pieces(5, 700_000)) == data[5:700_000]
    aborted = blobs.spool()
    aborted.write(b"x")
    aborted.abort()
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == (kind == "folder")
    blobs.close()
    assert not any(tmp_path.iterdir())


def test_a_reader_keeps_its_object(tmp_path: Path) -> None:
    """A blob's file goes away with its last reference, and not under a reader."""
    blobs = FolderBlobs(tmp_path)
    spool = blobs.spool()
    spool.write(b"old" * 200_000)
    blob = spool.finish()
    pieces = blob.pieces(0, blob.size_bytes)
    first = next(pieces)
    del blob
    assert first + b"".join(pieces) == b"old" * 200_000
    del pieces
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    blobs.close()


def test_folder_holds_little_in_memory(tmp_path: Path) -> None:
    """Spooling 64 MiB to a folder takes no memory to speak of."""
    blobs = FolderBlobs(tmp_path)
    piece = b"z" * 262_144
    tracemalloc.start()
    spool = blobs.spool()
    for _ in range(256):
        spool.write(piece)
    blob = spool.finish()
    digest = hashlib.md5(usedforsecurity=False)
    for part in blob.pieces(0, blob.size_bytes):
        digest.update(part)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (blob.size_bytes, digest.hexdigest()) == (
        64 << 20,
        hashlib.md5(piece * 256, usedforsecurity=False).hexdigest(),
    )
    assert peak < 2 << 20
    blobs.close()


def test_discarded_bytes_are_counted() -> None:
    """With discard a blob knows its size and refuses to be read."""
    spool = MemoryBlobs(discard=True).spool()
    spool.write(b"abc")
    blob = spool.finish()
    assert blob.size_bytes == 3
    with pytest.raises(OSError, match="not kept"):
        read_all(blob)
