"""Moving bytes: `get`, `put`."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import IO, Protocol

from s3nsync.cli import options
from s3nsync.cli.ns.access import Asked, act, print_json
from s3nsync.cli.ns.looking import existing
from s3nsync.cli.ns.many import JOBS, each_of
from s3nsync.cli.ui import Ui
from s3nsync.errors import ConfigError, S3nsyncError, TargetClock, TargetConflict, TargetPrecondition, TargetRefused
from s3nsync.figures import human_bytes, printable
from s3nsync.netstorage import AtEnd, Entry, NetStorage

CHUNK_BYTES = 256 << 10


class Digest(Protocol):
    """A running digest of hashlib's."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Give the digest of all so far."""
        ...


@contextlib.contextmanager
def byte_progress(ui: Ui, what: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Show how many bytes went, and how fast; yields the function that moves it on by bytes."""
    began_s, done_bytes = time.monotonic(), 0
    of_total = "" if total_bytes is None else f" of {human_bytes(total_bytes)}"
    with ui.progress(printable(what)) as show:

        def advance(n_bytes: int) -> None:
            nonlocal done_bytes
            done_bytes += n_bytes
            rate = done_bytes / max(0.001, time.monotonic() - began_s)
            show(f"{human_bytes(done_bytes)}{of_total}, {human_bytes(int(rate))}/s", done_bytes, total_bytes)

        yield advance


# --- get -------------------------------------------------------------------------------------------------------


def get(
    path: options.RemotePath,
    local: options.LocalTarget = ".",
    *,
    resume: options.Resume = False,
    account: options.AccountName = "",
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Fetch a file; it takes its name only when it is whole and its MD5 is right."""

    async def work(netstorage: NetStorage, ui: Ui) -> None:
        entry = await existing(netstorage, path)
        if entry.type == "dir":
            raise TargetConflict(f"get {path}: it is a directory", hint="name a file; `tree` shows what is there")
        if local == "-":
            await _fetch(netstorage, entry, sys.stdout.buffer, hashlib.md5(usedforsecurity=False), 0, ui=ui)
            return
        written = await _fetch_to_file(netstorage, entry, Path(local), ui, resume=resume)
        if as_json:
            print_json(path=path, local=str(written), size_bytes=entry.size_bytes, md5=entry.md5)

    act(work, [path], Asked(account, config, as_json))


async def _fetch_to_file(netstorage: NetStorage, entry: Entry, local: Path, ui: Ui, *, resume: bool) -> Path:
    """Fetch into a temporary file beside the final one, and rename it when it is proven."""
    final = _in_directory(local, entry.name)
    part = final.with_name(f".{final.name}.part")
    digest = hashlib.md5(usedforsecurity=False)
    with part.open("ab" if resume else "wb") as file:
        offset = _digest_so_far(part, digest) if resume else 0
        try:
            await _fetch(netstorage, entry, file, digest, offset, ui=ui)
        except TargetPrecondition:
            part.unlink()  # what it holds is not the file: a resumed try must not build on it
            raise
    if entry.mtime_s is not None:
        os.utime(part, (entry.mtime_s, entry.mtime_s))
    part.replace(final)
    return final


def _in_directory(local: Path, name: str) -> Path:
    if not name and local.is_dir():
        raise ConfigError(f"get: a path that ends in / has no name to keep in {local}", hint="say which file to write")
    return local / name if local.is_dir() else local


def _digest_so_far(part: Path, digest: Digest) -> int:
    """Digest what an earlier try has left; give its length."""
    with part.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
        return file.tell()


async def _fetch(netstorage: NetStorage, entry: Entry, file: IO[bytes], digest: Digest, offset: int, *, ui: Ui) -> None:
    """Copy the rest of a file from `offset` on and prove the whole; TargetPrecondition if it is not what stat said."""
    size_bytes = offset
    if entry.size_bytes is None or offset < entry.size_bytes:
        async with await netstorage.download(entry.path, byte_range=(offset, None) if offset else None) as answer:
            if offset and answer.status != 206:
                raise TargetRefused(f"get {entry.path}: the server does not resume", hint="leave out --resume")
            with byte_progress(ui, entry.name, entry.size_bytes) as advance:
                advance(offset)
                async for chunk in answer.chunks():
                    file.write(chunk)
                    digest.update(chunk)
                    size_bytes += len(chunk)
                    advance(len(chunk))
    file.flush()
    if entry.md5 not in {None, digest.hexdigest()}:
        msg = f"get {entry.path}: {size_bytes} bytes with MD5 {digest.hexdigest()} came, not what stat told"
        raise TargetPrecondition(msg, hint="it changed meanwhile, or a replica is behind: run it again")


# --- put -------------------------------------------------------------------------------------------------------


def put(
    local: options.LocalSource,
    path: options.WhereTo,
    *,
    jobs: options.Jobs = JOBS,
    account: options.AccountName = "",
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Send a file, a whole directory, or stdin; NetStorage checks size and SHA-256."""

    async def work(netstorage: NetStorage, ui: Ui) -> None:
        def sent(remote: str, size_bytes: int) -> None:
            if as_json:
                print_json(path=remote, size_bytes=size_bytes)

        source, target = Path(local), _target(local, path)
        whole_directory = _is_directory(local)
        if not whole_directory:
            _check_names_a_file(target)
        with byte_progress(ui, local, _size_bytes(source)) as advance:
            if local == "-":
                sent(path, await _put_stdin(netstorage, path, advance))
            elif not whole_directory:
                sent(target, await _put_file(netstorage, source, target, advance))
            else:

                async def send(file: Path) -> None:
                    remote = f"{target}/{file.relative_to(source).as_posix()}"
                    sent(remote, await _put_file(netstorage, file, remote, advance))

                await each_of(_files_below(source, ui), send, jobs, ui)

    act(work, [path], Asked(account, config, as_json))


def _target(local: str, path: str) -> str:
    return path + Path(local).resolve().name if path.endswith("/") and local != "-" else path


def _is_directory(local: str) -> bool:
    return local != "-" and Path(local).is_dir()


def _size_bytes(source: Path) -> int | None:
    return source.stat().st_size if source.is_file() else None


def _check_names_a_file(path: str) -> None:
    if path.endswith("/"):
        raise ConfigError(f"put - {path}: stdin has no name to keep", hint="give the file's whole path")
    if path.count("/") == 1:
        raise ConfigError(f"put: {path} is a CP code, and no file", hint=f"{path}/ keeps the local name")


async def _files_below(directory: Path, ui: Ui) -> AsyncIterator[Path]:
    """Give all that is to be sent, and say on stderr what is left out; what cannot be read is given, to fail."""
    unreadable: list[OSError] = []
    for folder, folders, names in os.walk(directory, onerror=unreadable.append):
        folders.sort()
        if not folders and not names:
            ui.warn(f"skipped {folder}: an empty directory; `ns mkdir` makes one")
        for link in filter(Path.is_symlink, (Path(folder, name) for name in folders)):
            ui.warn(f"skipped {link}: a symlink to a directory; put {link} sends what is there")
        for name in sorted(names):
            yield Path(folder, name)
    for error in unreadable:
        yield Path(os.fsdecode(error.filename))


async def _put_file(netstorage: NetStorage, source: Path, path: str, advance: Callable[[int], None]) -> int:
    """Send a file, once more if the clocks were found to differ; returns its size in bytes."""
    sent_bytes = 0

    def count(n_bytes: int) -> None:
        nonlocal sent_bytes
        sent_bytes += n_bytes
        advance(n_bytes)

    try:
        return await _put_file_once(netstorage, source, path, count)
    except TargetClock:
        # The refusal has taught the client the server's time. A stream cannot be sent again, but a file can be read
        # again; from a new handle, since a read of the old one may still be under way in its thread.
        advance(-sent_bytes)
        return await _put_file_once(netstorage, source, path, advance)


async def _put_file_once(netstorage: NetStorage, source: Path, path: str, advance: Callable[[int], None]) -> int:
    """Read a file twice, once for its digest and once to send it."""
    with _open_regular(source) as file:
        sha256 = (await asyncio.to_thread(hashlib.file_digest, file, "sha256")).hexdigest()
        found = os.fstat(file.fileno())
        file.seek(0)
        uploaded = await netstorage.upload(
            path,
            _chunks(file, found.st_size, advance),
            size=found.st_size,
            mtime_s=int(found.st_mtime),
            sha256=sha256,
        )
    return uploaded.size_bytes


def _open_regular(source: Path) -> BufferedReader:
    """Open a file that can be read twice; S3nsyncError names what is none (to open a pipe might wait for ever)."""
    if source.is_symlink() and not source.exists():
        msg = f"put {source}: it is a symlink to {source.readlink()}, and there is nothing"
        raise S3nsyncError(msg, hint="mend or remove the symlink, then run it again")
    if source.exists() and not source.is_file():
        msg = f"put {source}: it is no file that can be read twice, nor a directory that may be read"
        raise S3nsyncError(msg, hint="`put -` sends what a pipe gives; a directory needs the right to read it")
    return source.open("rb")


async def _chunks(file: IO[bytes], size_bytes: int, advance: Callable[[int], None]) -> AsyncIterator[bytes]:
    """Give exactly `size_bytes` of a file, whatever happens to it meanwhile: the server's digest decides."""
    left_bytes = size_bytes
    while left_bytes:
        chunk = await asyncio.to_thread(file.read, min(CHUNK_BYTES, left_bytes))
        if not chunk:
            raise S3nsyncError(f"put {file.name}: it became shorter while it was read", hint="run it again")
        left_bytes -= len(chunk)
        advance(len(chunk))
        yield chunk


async def _put_stdin(netstorage: NetStorage, path: str, advance: Callable[[int], None]) -> int:
    """Send what comes, with size unknown: the digest follows at the end."""
    # What comes from stdin comes once. A look before learns the server's time, and whether we are let in at all.
    await netstorage.stat(path)
    digest = hashlib.sha256()

    async def body() -> AsyncIterator[bytes]:
        while chunk := await asyncio.to_thread(sys.stdin.buffer.read, CHUNK_BYTES):
            digest.update(chunk)
            advance(len(chunk))
            yield chunk

    uploaded = await netstorage.upload(path, body(), at_end=lambda: AtEnd(digest.hexdigest(), int(time.time())))
    return uploaded.size_bytes
