"""Changing: `rm`, `mkdir`, `mv`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from s3nsync.cli import options
from s3nsync.cli.by_hand import advice
from s3nsync.cli.ns.access import Asked, act, print_json
from s3nsync.cli.ns.looking import amount, usage
from s3nsync.cli.ns.many import JOBS, each_of
from s3nsync.cli.ui import Ui, check_terminal
from s3nsync.errors import ConfigError, S3nsyncError, TargetConflict, TargetCredentials, TargetMissing
from s3nsync.netstorage import NetStorage

_NOT_ENABLED = (
    "Akamai must have enabled quick-delete: ask for it, or use rm -r; if other verbs fail too, check NS_USER and NS_KEY"
)


def rm(
    path: options.RemotePath,
    *,
    recursive: options.Recursive = False,
    yes: options.Yes = False,
    quick: options.Quick = False,
    confirm: options.Confirm = "",
    jobs: options.Deletes = JOBS,
    account: options.AccountName = "",
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Remove a file, or with -r a whole tree."""

    async def work(netstorage: NetStorage, ui: Ui) -> None:
        if quick:
            with advice(TargetCredentials, _NOT_ENABLED):
                await netstorage.quick_delete(path, confirm=confirm)
        elif recursive:
            _check_removal(path, agreed=yes)
            found = None if yes else await usage(netstorage, path)
            if found and not ui.ask(f"Remove {amount(found)} at {path}?"):
                raise S3nsyncError(f"rm -r {path}: not confirmed, nothing was removed", hint="answer y, or give --yes")
            await _remove_tree(netstorage, path.rstrip("/"), jobs, ui)
        else:
            await _remove_file(netstorage, path)
        if as_json:
            print_json(path=path, removed=not quick)

    act(work, [path], Asked(account, config, as_json))


def _check_removal(path: str, *, agreed: bool) -> None:
    """Refuse a path that may mean another, and a tree to be removed unless somebody agreed, or can be asked."""
    if path.endswith("//"):
        hint = f"is all below {path.rstrip('/')} meant? Then write that"
        raise ConfigError(f"rm -r {path}: it ends in more than one /", hint=hint)
    if not agreed:
        check_terminal("--yes removes without asking")


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


async def _remove_tree(netstorage: NetStorage, path: str, jobs: int, ui: Ui) -> None:
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
        await each_of(files(), delete, jobs, ui)
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


def mkdir(
    path: options.RemotePath,
    *,
    parents: options.Parents = False,
    account: options.AccountName = "",
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Make a directory; fine if it exists."""

    async def work(netstorage: NetStorage, _ui: Ui) -> None:
        parts = path.strip("/").split("/")
        for depth in range(2, len(parts)) if parents else ():
            await netstorage.mkdir("/" + "/".join(parts[:depth]))
        await netstorage.mkdir(path)
        if as_json:
            print_json(path=path)

    act(work, [path], Asked(account, config, as_json))


def mv(
    source: options.FromPath,
    destination: options.ToPath,
    *,
    account: options.AccountName = "",
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Move a file within its CP code. What becomes of a file already there is not documented by Akamai."""

    async def work(netstorage: NetStorage, _ui: Ui) -> None:
        if source.split("/")[1] != destination.split("/")[1]:
            hint = "rename stays within one CP code: `get` the file, `put` it there, then `rm` it here"
            raise ConfigError(f"mv {source} {destination}: to another CP code", hint=hint)
        target = destination + (source.rpartition("/")[2] if destination.endswith("/") else "")
        await netstorage.rename(source, target)
        if as_json:
            print_json(path=target, moved_from=source)

    act(work, [source, destination], Asked(account, config, as_json))
