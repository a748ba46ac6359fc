"""`s3nsync ns`: NetStorage on the command line, over the same client that the worker uses.

Credentials come from the environment alone: NS_SECRET (JSON with NS_HOSTNAME, NS_USER and NS_KEY) or the three names
one by one; where both say something, it must be the same. NS_CA_FILE adds a private certificate authority,
NS_INSECURE_HTTP=1 speaks plain HTTP to loopback.

Results go to stdout (with `--json` one JSON object a line), progress and complaints to stderr; exit codes are those of
`ui`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import IO, Annotated, Protocol, TypeVar

import typer
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from s3nsync.cli.by_hand import Access, advice, advise, check_path
from s3nsync.cli.ui import Ui
from s3nsync.errors import (
    ConfigError,
    S3nsyncError,
    TargetClock,
    TargetConflict,
    TargetCredentials,
    TargetMissing,
    TargetPrecondition,
    TargetRefused,
)
from s3nsync.figures import printable
from s3nsync.http import Proxies
from s3nsync.netstorage import AtEnd, Entry, NetStorage, Usage, open_netstorage

CHUNK_BYTES = 256 << 10
JOBS = 8
"""Files under way at once in recursive verbs: enough to hide the round trips, few enough for a shared account."""

_NO_DIRECTORY = "check the path; on ObjectStore a directory exists only while files lie below it (or after mkdir)"
_NOT_ENABLED = (
    "Akamai must have enabled quick-delete: ask for it, or use rm -r; if other verbs fail too, check NS_USER and NS_KEY"
)
_RUN_AGAIN = "each is named above; run it again for the rest"

T = TypeVar("T")

app = typer.Typer(
    help="Look at and change NetStorage by hand.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold the key
)

RemotePath = Annotated[str, typer.Argument(metavar="PATH", help="/CPCODE/directory/name")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


# --- running a verb ----------------------------------------------------------------------------------------------


class Digest(Protocol):
    """A running digest of hashlib's."""

    def update(self, data: bytes, /) -> None:
        """Take in more bytes."""

    def hexdigest(self) -> str:
        """Give the digest of all so far."""
        ...


def _ui(*, as_json: bool = False) -> Ui:
    return Ui(as_json=as_json, debug=bool(os.environ.get("S3NSYNC_DEBUG")))


def _run(work: Callable[[NetStorage], Awaitable[None]], *paths: str, as_json: bool = False) -> None:
    """Run one verb against the NetStorage that the environment names, and leave with its exit code."""

    async def main() -> None:
        for path in paths:
            check_path(path)
        access = Access.from_environment(os.environ)
        async with open_netstorage(
            access.hostname,
            access.user,
            access.key,
            ca_file=access.ca_file,
            insecure_http=access.insecure_http,
            proxies=Proxies.from_environment(os.environ),
        ) as netstorage:
            try:
                await work(netstorage)
            except S3nsyncError as error:
                advise(error)
                raise

    if code := _ui(as_json=as_json).run(lambda: asyncio.run(main())):
        raise typer.Exit(code)


# --- output ----------------------------------------------------------------------------------------------------


def _print_json(**fields: str | int | bool | None) -> None:
    typer.echo(json.dumps({name: value for name, value in fields.items() if value is not None}))


def _print_entry_json(entry: Entry) -> None:
    _print_json(
        path=entry.path,
        type=entry.type,
        size_bytes=entry.size_bytes,
        md5=entry.md5,
        mtime_s=entry.mtime_s,
        target=entry.target,
        implicit=entry.implicit or None,
        files=entry.files,
        total_bytes=entry.total_bytes,
    )


def _label(entry: Entry) -> str:
    """Name an entry the way `ls -F` does."""
    suffix = "/" if entry.type == "dir" else f" -> {entry.target}" if entry.type == "symlink" else ""
    return printable(entry.name + suffix)


def _line(entry: Entry) -> str:
    size = "-" if entry.size_bytes is None else decimal(entry.size_bytes)
    return f"{size:>10}  {_iso(entry.mtime_s):20}  {_label(entry)}"


def _iso(mtime_s: int | None) -> str:
    return "-" if mtime_s is None else datetime.fromtimestamp(mtime_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextlib.contextmanager
def _progress(what: str, total_bytes: int | None) -> Iterator[Callable[[int], None]]:
    """Show a bar on stderr if that is a terminal; yields the function that moves it on by bytes."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(printable(what), total=total_bytes)
        yield lambda n_bytes: progress.advance(task, n_bytes)


# --- looking ---------------------------------------------------------------------------------------------------


@app.command()
def ls(path: RemotePath, *, as_json: AsJson = False) -> None:
    """List a directory, or show one file."""

    async def work(netstorage: NetStorage) -> None:
        async for entry in _children(netstorage, path):
            if as_json:
                _print_entry_json(entry)
            else:
                typer.echo(_line(entry))

    _run(work, path, as_json=as_json)


async def _children(netstorage: NetStorage, path: str) -> AsyncIterator[Entry]:
    try:
        with advice(TargetMissing, _NO_DIRECTORY):
            async for entry in netstorage.dir(path):
                yield entry
    except (TargetConflict, TargetMissing):
        entry_itself = await netstorage.stat(path)
        if entry_itself is None:
            raise
        yield entry_itself


@app.command()
def tree(
    path: RemotePath,
    *,
    depth: Annotated[int | None, typer.Option(min=1, metavar="N", help="Levels to go down; all if not given.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show everything below a directory."""

    async def work(netstorage: NetStorage) -> None:
        with advice(TargetMissing, _NO_DIRECTORY):
            async for level, entry in _descend(netstorage, path, depth):
                if as_json:
                    _print_entry_json(entry)
                else:
                    typer.echo("  " * level + _label(entry))

    _run(work, path, as_json=as_json)


async def _descend(
    netstorage: NetStorage, path: str, depth: int | None, level: int = 0
) -> AsyncIterator[tuple[int, Entry]]:
    async for entry in netstorage.dir(path):
        yield level, entry
        if entry.leads_below(path) and (depth is None or level + 1 < depth):
            async for below in _descend(netstorage, entry.path, depth, level + 1):
                yield below


@app.command()
def stat(path: RemotePath, *, as_json: AsJson = False) -> None:
    """Show all that NetStorage knows about one path."""

    async def work(netstorage: NetStorage) -> None:
        entry = await _existing(netstorage, path)
        if as_json:
            _print_entry_json(entry)
            return
        typer.echo(f"path    {printable(entry.path)}\ntype    {entry.type}{' (implicit)' if entry.implicit else ''}")
        if entry.size_bytes is not None:
            typer.echo(f"size    {entry.size_bytes} ({decimal(entry.size_bytes)})")
        typer.echo(f"mtime   {_iso(entry.mtime_s)}")
        if entry.md5 is not None:
            typer.echo(f"md5     {entry.md5}")
        if entry.target is not None:
            typer.echo(f"target  {printable(entry.target)}")

    _run(work, path, as_json=as_json)


async def _existing(netstorage: NetStorage, path: str) -> Entry:
    """Look at a path; TargetMissing if there is nothing. People wait, so implicit directories are looked for too."""
    entry = await netstorage.stat(path, implicit=True)
    if entry is None:
        raise TargetMissing(f"stat {path}: there is nothing at this path")
    return entry


@app.command()
def du(path: RemotePath, *, as_json: AsJson = False) -> None:
    """Add up what lies below a directory."""

    async def work(netstorage: NetStorage) -> None:
        usage = await _usage(netstorage, path)
        if as_json:
            _print_json(path=path, files=usage.files, total_bytes=usage.total_bytes)
        else:
            typer.echo(f"{_amount(usage)}  {printable(path)}")

    _run(work, path, as_json=as_json)


async def _usage(netstorage: NetStorage, path: str) -> Usage:
    """Add up a directory, or take the size of a file; TargetMissing if there is neither."""
    try:
        with advice(TargetMissing, _NO_DIRECTORY):
            return await netstorage.du(path)
    except (TargetConflict, TargetMissing):
        entry = await netstorage.stat(path)
        if entry is None or entry.type == "dir":
            raise
        return Usage(1, entry.size_bytes or 0)


def _amount(usage: Usage) -> str:
    return f"{decimal(usage.total_bytes)} in {usage.files} file{'' if usage.files == 1 else 's'}"


# --- get -------------------------------------------------------------------------------------------------------


@app.command()
def get(
    path: RemotePath,
    local: Annotated[str, typer.Argument(metavar="LOCAL", help="File or directory to write to; - is stdout.")] = ".",
    *,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what an earlier try has left.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fetch a file; it takes its name only when it is whole and its MD5 is right."""

    async def work(netstorage: NetStorage) -> None:
        entry = await _existing(netstorage, path)
        if entry.type == "dir":
            raise TargetConflict(f"get {path}: it is a directory", hint="name a file; `tree` shows what is there")
        if local == "-":
            await _fetch(netstorage, entry, sys.stdout.buffer, hashlib.md5(usedforsecurity=False), 0)
            return
        written = await _fetch_to_file(netstorage, entry, Path(local), resume=resume)
        if as_json:
            _print_json(path=path, local=str(written), size_bytes=entry.size_bytes, md5=entry.md5)

    _run(work, path, as_json=as_json)


async def _fetch_to_file(netstorage: NetStorage, entry: Entry, local: Path, *, resume: bool) -> Path:
    """Fetch into a temporary file beside the final one, and rename it when it is proven."""
    final = _in_directory(local, entry.name)
    part = final.with_name(f".{final.name}.part")
    digest = hashlib.md5(usedforsecurity=False)
    with part.open("ab" if resume else "wb") as file:
        offset = _digest_so_far(part, digest) if resume else 0
        try:
            await _fetch(netstorage, entry, file, digest, offset)
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


async def _fetch(netstorage: NetStorage, entry: Entry, file: IO[bytes], digest: Digest, offset: int) -> None:
    """Copy the rest of a file from `offset` on and prove the whole; TargetPrecondition if it is not what stat said."""
    size_bytes = offset
    if entry.size_bytes is None or offset < entry.size_bytes:
        async with await netstorage.download(entry.path, byte_range=(offset, None) if offset else None) as answer:
            if offset and answer.status != 206:
                raise TargetRefused(f"get {entry.path}: the server does not resume", hint="leave out --resume")
            with _progress(entry.name, entry.size_bytes) as advance:
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


@app.command()
def put(
    local: Annotated[str, typer.Argument(metavar="LOCAL", help="File or directory to send; - is stdin.")],
    path: Annotated[str, typer.Argument(metavar="PATH", help="Where to; after a final / the local name is kept.")],
    *,
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Files under way at once.")] = JOBS,
    as_json: AsJson = False,
) -> None:
    """Send a file, a whole directory, or stdin; NetStorage checks size and SHA-256."""

    async def work(netstorage: NetStorage) -> None:
        def sent(remote: str, size_bytes: int) -> None:
            if as_json:
                _print_json(path=remote, size_bytes=size_bytes)

        source, target = Path(local), _target(local, path)
        whole_directory = _is_directory(local)
        if not whole_directory:
            _check_names_a_file(target)
        with _progress(local, _size_bytes(source)) as advance:
            if local == "-":
                sent(path, await _put_stdin(netstorage, path, advance))
            elif not whole_directory:
                sent(target, await _put_file(netstorage, source, target, advance))
            else:

                async def send(file: Path) -> None:
                    remote = f"{target}/{file.relative_to(source).as_posix()}"
                    sent(remote, await _put_file(netstorage, file, remote, advance))

                await _each(_files_below(source), send, jobs)

    _run(work, path, as_json=as_json)


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


async def _files_below(directory: Path) -> AsyncIterator[Path]:
    """Give all that is to be sent, and say on stderr what is left out; what cannot be read is given, to fail."""
    unreadable: list[OSError] = []
    for folder, folders, names in os.walk(directory, onerror=unreadable.append):
        folders.sort()
        if not folders and not names:
            _note(f"skipped {folder}: an empty directory; `ns mkdir` makes one")
        for link in filter(Path.is_symlink, (Path(folder, name) for name in folders)):
            _note(f"skipped {link}: a symlink to a directory; put {link} sends what is there")
        for name in sorted(names):
            yield Path(folder, name)
    for error in unreadable:
        yield Path(os.fsdecode(error.filename))


def _note(text: str) -> None:
    typer.echo(printable(text), err=True)


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


# --- changing --------------------------------------------------------------------------------------------------


@app.command()
def rm(
    path: RemotePath,
    *,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Everything below it too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Let NetStorage remove the tree, at some later time.")] = False,
    confirm: Annotated[str, typer.Option(metavar="PATH", help="With --quick: the same path once more.")] = "",
    jobs: Annotated[int, typer.Option(min=1, metavar="N", help="Deletes under way at once.")] = JOBS,
) -> None:
    """Remove a file, or with -r a whole tree."""

    async def work(netstorage: NetStorage) -> None:
        if quick:
            with advice(TargetCredentials, _NOT_ENABLED):
                await netstorage.quick_delete(path, confirm=confirm)
        elif recursive:
            await _check_removal(netstorage, path, agreed=yes)
            await _remove_tree(netstorage, path.rstrip("/"), jobs)
        else:
            await _remove_file(netstorage, path)

    _run(work, path)


async def _check_removal(netstorage: NetStorage, path: str, *, agreed: bool) -> None:
    """Ask before a tree is removed, and say how much that is; ConfigError if there is nobody to ask."""
    if path.endswith("//"):
        hint = f"is all below {path.rstrip('/')} meant? Then write that"
        raise ConfigError(f"rm -r {path}: it ends in more than one /", hint=hint)
    if agreed:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"rm -r {path}: there is no terminal to ask on", hint="--yes removes without asking")
    usage = await _usage(netstorage, path)
    try:
        agreed = typer.confirm(f"Remove {_amount(usage)} at {printable(path)}?", err=True)
    except typer.Abort:
        agreed = False
    if not agreed:
        raise S3nsyncError(f"rm -r {path}: not confirmed, nothing was removed", hint="answer y, or give --yes")


async def _remove_file(netstorage: NetStorage, path: str) -> None:
    """Remove one file; TargetConflict if it is a directory, TargetMissing if there is nothing."""
    refused: S3nsyncError = TargetMissing(f"rm {path}: there is nothing at this path")
    try:
        if (await netstorage.delete(path)).existed:
            return
    except TargetConflict as error:
        refused = error
    entry = await netstorage.stat(path, implicit=True)
    if entry is not None and entry.type == "dir":
        raise TargetConflict(f"rm {path}: it is a directory", hint="-r removes it, with everything below it")
    raise refused


async def _remove_tree(netstorage: NetStorage, path: str, jobs: int) -> None:
    """Delete the files as they are listed, then the directories from the deepest up, then `path` itself."""
    directories: list[str] = []
    seen = False

    async def files() -> AsyncIterator[str]:
        nonlocal seen
        async for entry in netstorage.below(path):
            seen = True
            if entry.type != "dir":
                yield entry.path
            elif entry.name:
                directories.append(entry.path)

    async def delete(file: str) -> None:
        await netstorage.delete(file)

    with contextlib.suppress(TargetMissing, TargetConflict):  # no directory: it may still be a file
        await _each(files(), delete, jobs)
    for directory in sorted(directories, key=lambda name: name.count("/"), reverse=True):
        await netstorage.rmdir(directory)
    if path.count("/") > 1:
        existed = (await netstorage.rmdir(path)).existed if seen else await _remove_one(netstorage, path)
        if not seen and not existed:
            raise TargetMissing(f"rm {path}: there is nothing at this path")


async def _remove_one(netstorage: NetStorage, path: str) -> bool:
    """Remove a file or an empty directory, whichever it is."""
    entry = await netstorage.stat(path)
    if entry is not None and entry.type == "dir":
        return (await netstorage.rmdir(path)).existed
    return (await netstorage.delete(path)).existed


@app.command()
def mkdir(
    path: RemotePath,
    *,
    parents: Annotated[bool, typer.Option("--parents", "-p", help="Its parents first; FileStore needs them.")] = False,
) -> None:
    """Make a directory; fine if it exists."""

    async def work(netstorage: NetStorage) -> None:
        parts = path.strip("/").split("/")
        for depth in range(2, len(parts)) if parents else ():
            await netstorage.mkdir("/" + "/".join(parts[:depth]))
        await netstorage.mkdir(path)

    _run(work, path)


@app.command()
def mv(
    source: Annotated[str, typer.Argument(metavar="FROM", help="A file or symlink.")],
    destination: Annotated[
        str, typer.Argument(metavar="TO", help="In the same CP code; after a final / keeps its name.")
    ],
) -> None:
    """Move a file within its CP code. What becomes of a file already there is not documented by Akamai."""

    async def work(netstorage: NetStorage) -> None:
        if source.split("/")[1] != destination.split("/")[1]:
            hint = "rename stays within one CP code: `get` the file, `put` it there, then `rm` it here"
            raise ConfigError(f"mv {source} {destination}: to another CP code", hint=hint)
        name = source.rpartition("/")[2] if destination.endswith("/") else ""
        await netstorage.rename(source, destination + name)

    _run(work, source, destination)


# --- many at once ----------------------------------------------------------------------------------------------


async def _each(items: AsyncIterator[T], work: Callable[[T], Awaitable[None]], jobs: int) -> None:
    """Work on all items, `jobs` at once; what fails is named at once and counted at the end.

    Stops taking more when the account or the connection itself is at fault: the rest would fail alike.
    """
    slots = asyncio.Semaphore(jobs)
    failed: list[S3nsyncError] = []
    broken: S3nsyncError | None = None

    async def one(item: T) -> None:
        try:
            await work(item)
        except S3nsyncError as error:
            advise(error)
            failed.append(error)
            _ui().fail(error)
        except OSError as error:
            failed.append(S3nsyncError(str(error), hint="check the file that is named"))
            _ui().fail(failed[-1])
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        try:
            async for item in items:
                await slots.acquire()
                if any(error.exit_code == 3 for error in failed):
                    break
                group.create_task(one(item))
        except S3nsyncError as error:
            broken = error
    if broken is not None:
        raise broken
    if failed:
        worst = max(failed, key=lambda error: error.exit_code == 3)
        raise worst if worst.exit_code == 3 else S3nsyncError(f"{len(failed)} failed", hint=_RUN_AGAIN)
