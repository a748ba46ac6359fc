"""Looking: `ls`, `tree`, `stat`, `du`."""

from __future__ import annotations

from collections.abc import AsyncIterator

import typer

from s3nsync.cli import options
from s3nsync.cli.by_hand import advice
from s3nsync.cli.ns.access import Asked, act, label, print_entry_json, print_json
from s3nsync.cli.ui import Ui
from s3nsync.errors import TargetConflict, TargetMissing
from s3nsync.figures import counted, exact_bytes, human_bytes, printable, utc
from s3nsync.netstorage import Entry, NetStorage, Usage

_NO_DIRECTORY = "check the path; on ObjectStore a directory exists only while files lie below it (or after mkdir)"


def ls(
    path: options.RemotePath,
    *,
    account: options.AccountName = "",
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """List a directory, or show one file."""

    async def work(netstorage: NetStorage, _ui: Ui) -> None:
        async for entry in _children(netstorage, path):
            if as_json:
                print_entry_json(entry)
            else:
                typer.echo(_line(entry))

    act(work, [path], Asked(account, config, as_json))


def _line(entry: Entry) -> str:
    size = "-" if entry.size_bytes is None else human_bytes(entry.size_bytes)
    return f"{size:>10}  {_time(entry):20}  {label(entry)}"


def _time(entry: Entry) -> str:
    return "-" if entry.mtime_s is None else utc(entry.mtime_s)


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


def tree(
    path: options.RemotePath,
    *,
    depth: options.Depth = None,
    account: options.AccountName = "",
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Show everything below a directory."""

    async def work(netstorage: NetStorage, _ui: Ui) -> None:
        with advice(TargetMissing, _NO_DIRECTORY):
            async for level, entry in _descend(netstorage, path, depth):
                if as_json:
                    print_entry_json(entry)
                else:
                    typer.echo("  " * level + label(entry))

    act(work, [path], Asked(account, config, as_json))


async def _descend(
    netstorage: NetStorage, path: str, depth: int | None, level: int = 0
) -> AsyncIterator[tuple[int, Entry]]:
    async for entry in netstorage.dir(path):
        yield level, entry
        if entry.leads_below(path) and (depth is None or level + 1 < depth):
            async for below in _descend(netstorage, entry.path, depth, level + 1):
                yield below


def stat(
    path: options.RemotePath,
    *,
    account: options.AccountName = "",
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Show all that NetStorage knows about one path."""

    async def work(netstorage: NetStorage, _ui: Ui) -> None:
        entry = await existing(netstorage, path)
        if as_json:
            print_entry_json(entry)
            return
        typer.echo(f"path    {printable(entry.path)}\ntype    {entry.type}{' (implicit)' if entry.implicit else ''}")
        if entry.size_bytes is not None:
            typer.echo(f"size    {exact_bytes(entry.size_bytes)}")
        typer.echo(f"mtime   {_time(entry)}")
        if entry.md5 is not None:
            typer.echo(f"md5     {entry.md5}")
        if entry.target is not None:
            typer.echo(f"target  {printable(entry.target)}")

    act(work, [path], Asked(account, config, as_json))


async def existing(netstorage: NetStorage, path: str) -> Entry:
    """Look at a path; TargetMissing if there is nothing. People wait, so implicit directories are looked for too."""
    entry = await netstorage.stat(path, implicit=True)
    if entry is None:
        raise TargetMissing(f"stat {path}: there is nothing at this path")
    return entry


def du(
    path: options.RemotePath,
    *,
    account: options.AccountName = "",
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Add up what lies below a directory."""

    async def work(netstorage: NetStorage, _ui: Ui) -> None:
        found = await usage(netstorage, path)
        if as_json:
            print_json(path=path, files=found.files, total_bytes=found.total_bytes)
        else:
            typer.echo(f"{amount(found)}  {printable(path)}")

    act(work, [path], Asked(account, config, as_json))


async def usage(netstorage: NetStorage, path: str) -> Usage:
    """Add up a directory, or take the size of a file; TargetMissing if there is neither."""
    try:
        with advice(TargetMissing, _NO_DIRECTORY):
            return await netstorage.du(path)
    except (TargetConflict, TargetMissing):
        entry = await netstorage.stat(path)
        if entry is None or entry.type == "dir":
            raise
        return Usage(1, entry.size_bytes or 0)


def amount(found: Usage) -> str:
    """Tell how much that is."""
    return f"{human_bytes(found.total_bytes)} in {counted(found.files, 'file')}"
