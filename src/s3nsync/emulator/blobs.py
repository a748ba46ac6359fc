"""Where object bytes lie: in memory, in a folder, or nowhere (only their count is kept).

A `Spool` takes an upload's bytes as they arrive; `finish` turns it into a `Blob`, `abort` forgets it. A blob never
changes, so a reader that holds one sees that object whole whatever replaces it meanwhile; a blob's file goes away
with the last thing that refers to it.
"""

from __future__ import annotations

import errno
import os
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Protocol

PIECE_BYTES = 256 * 1024


class Blob(Protocol):
    """The unchanging bytes of one object."""

    @property
    def size_bytes(self) -> int:
        """How many bytes there are."""

    @property
    def kept(self) -> bool:
        """Whether the bytes are there to be read, not only counted."""

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield bytes start to stop (exclusive) in pieces; raise OSError when they were not kept."""


class Spool(Protocol):
    """An upload on its way in."""

    def write(self, data: bytes) -> None:
        """Append `data`."""

    def finish(self) -> Blob:
        """Return what was written as a blob."""

    def abort(self) -> None:
        """Forget what was written."""


class Blobs(Protocol):
    """A place for bytes."""

    def spool(self) -> Spool:
        """Open a new, empty spool."""

    def close(self) -> None:
        """Free the place and everything in it."""


def read_all(blob: Blob) -> bytes:
    """Return all bytes of `blob`."""
    return b"".join(blob.pieces(0, blob.size_bytes))


class MemoryBlobs:
    """Keeps bytes in memory, or with `discard` only their number."""

    def __init__(self, *, discard: bool = False) -> None:
        """Choose whether bytes are kept."""
        self._spool = _CountingSpool if discard else _MemorySpool

    def spool(self) -> Spool:
        """Open a new, empty spool."""
        return self._spool()

    def close(self) -> None:
        """Nothing is held here."""


class _MemoryBlob:
    __slots__ = ("_data",)
    kept = True

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size_bytes(self) -> int:
        return len(self._data)

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        for offset in range(start, stop, PIECE_BYTES):
            yield self._data[offset : min(offset + PIECE_BYTES, stop)]


class _MemorySpool:
    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._parts.append(data)

    def finish(self) -> Blob:
        return _MemoryBlob(self._parts[0] if len(self._parts) == 1 else b"".join(self._parts))

    def abort(self) -> None:
        self._parts.clear()


class _CountedBlob:
    __slots__ = ("size_bytes",)
    kept = False

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        raise OSError(f"bytes {start} to {stop} were counted, not kept")


class _CountingSpool:
    __slots__ = ("_size_bytes",)

    def __init__(self) -> None:
        self._size_bytes = 0

    def write(self, data: bytes) -> None:
        self._size_bytes += len(data)

    def finish(self) -> Blob:
        return _CountedBlob(self._size_bytes)

    def abort(self) -> None:
        self._size_bytes = 0


class FolderBlobs:
    """Keeps bytes in files inside a directory of its own under `folder`, removed again by `close`.

    `folder` itself is made if it is missing, and goes away with the rest then; what lies above it must be there.
    """

    def __init__(self, folder: Path) -> None:
        """Make the directory; raise OSError that names what is in the way."""
        self._made = _made(folder)
        self._home = tempfile.TemporaryDirectory(prefix="objects-", dir=folder, ignore_cleanup_errors=True)
        self._count = 0

    def spool(self) -> Spool:
        """Open a new, empty spool."""
        self._count += 1
        return _FileSpool(Path(self._home.name) / f"{self._count:012d}")

    def close(self) -> None:
        """Remove what was made."""
        self._home.cleanup()
        if self._made is not None:
            with suppress(OSError):  # somebody else keeps something there
                self._made.rmdir()


def _made(folder: Path) -> Path | None:
    """Return `folder` if it had to be made, None if it was there; raise OSError."""
    if folder.is_dir():
        return None
    if folder.exists():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    if not folder.parent.is_dir():
        raise FileNotFoundError(errno.ENOENT, f"no directory to make {folder.name!r} in", str(folder.parent))
    folder.mkdir()
    return folder


class _FileBlob:
    kept = True

    def __init__(self, path: Path, size_bytes: int) -> None:
        self._path = path
        self.size_bytes = size_bytes
        weakref.finalize(self, _unlink, path)

    def pieces(self, start: int, stop: int) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            file.seek(start)
            while start < stop and (data := file.read(min(PIECE_BYTES, stop - start))):
                start += len(data)
                yield data


class _FileSpool:
    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb", buffering=0)
        self._size_bytes = 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file.fileno(), view) :]
        self._size_bytes += len(data)

    def finish(self) -> Blob:
        self._file.close()
        return _FileBlob(self._path, self._size_bytes)

    def abort(self) -> None:
        self._file.close()
        _unlink(self._path)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
