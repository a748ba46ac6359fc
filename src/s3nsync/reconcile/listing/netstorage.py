"""What NetStorage holds for a route, in the order of S3's keys.

ObjectStore has a `list` action, which gives everything below a directory in the order of the names' bytes, that is in
key order: its pages are read one ahead. FileStore refuses it; there each directory is asked for by `dir`, and answers
all at once and in no order. Sorted by name, a directory's name ending in `/`, and walked depth first, the entries come
in key order too. The directories next in line are asked for ahead, and a directory too long for memory is sorted on
disk (`spill`).

Nothing says beforehand which of the two an account is on: `list` is asked, and its refusal (400, 412) means FileStore.
A directory that is not there (404) is empty: NetStorage makes it with the first upload. A listing may come from a
replica that is behind, so what it shows of the last minutes proves little; whoever compares looks again later.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from functools import partial

from s3nsync.compare import TargetItem, order
from s3nsync.errors import BadAnswer, TargetConflict, TargetMissing, TargetRefused
from s3nsync.mapping import target_directory
from s3nsync.model import Route
from s3nsync.netstorage import Entry, NetStorage, Page
from s3nsync.netstorage.wire import list_end
from s3nsync.reconcile.listing.ahead import in_order
from s3nsync.reconcile.listing.patience import Patience
from s3nsync.reconcile.listing.spill import IN_MEMORY_ITEMS, Sorter

PAGE_ENTRIES = 5_000
"""Entries asked for at once; the server's own bound is not published, and it may send fewer."""

BATCH_ITEMS = 1_000
"""Items of a batch that a walk gives."""

HELD_ITEMS = 50_000
"""Items of directories read ahead, above which no more are: with those being read about 60 MB at the very most."""


async def list_directory(
    netstorage: NetStorage,
    route: Route,
    *,
    after: str = "",
    leave_out: Sequence[str] = (),
    parallel: int = 8,
    in_memory_items: int = IN_MEMORY_ITEMS,
    patience: Patience = Patience(),  # noqa: B008  (a frozen value)
) -> AsyncGenerator[list[TargetItem], None]:
    """List what NetStorage holds for a route, under the keys that the route gives its paths, in key order.

    It begins with the first key after `after`. `leave_out` names directories (absolute paths) that are passed over,
    such as a trash. FileStore is found out by its refusal of `list`; its directories are walked, `parallel` at once,
    one of more than `in_memory_items` entries over a temporary file. An absent directory is an empty one. Close the
    generator when it is not read to its end. Raises TargetError, TransportError.
    """
    window = _Window(route, after, leave_out)
    pages = in_order([window], lambda each: _listed(netstorage, each, patience), parallel=1, ahead=1)
    begun = False
    try:
        async for items in pages:
            begun = True
            yield items
    except TargetRefused:
        if begun:
            raise
    else:
        return
    finally:
        await pages.aclose()
    walk = _Walk(netstorage, window, parallel, in_memory_items, patience)
    try:
        async for items in walk.batches():
            yield items
    finally:
        await walk.aclose()


class _Window:
    """The part of NetStorage's names that is asked for, and the keys they have."""

    def __init__(self, route: Route, after: str, leave_out: Sequence[str]) -> None:
        self.base = target_directory(route)
        self.prefix = route.prefix
        self.after = after
        self._inside = self.base + "/"
        self._strip = route.strip_prefix
        self._left_out = tuple(each.rstrip("/") + "/" for each in leave_out)
        self._after_bytes = order(after)
        # The whole directories at the prefix's beginning: what the prefix ends in may be no name of its own.
        self.directory = self.path_of(route.prefix).rpartition("/")[0]

    def path_of(self, key: str) -> str:
        """Give the path of a key."""
        return self._inside + key[len(self._strip) :]

    def items_of(self, entries: Iterable[Entry]) -> list[TargetItem]:
        """Give the items for entries, but for those not below the route's directory, or left out."""
        inside, strip, cut = self._inside, self._strip, len(self._inside)
        kept = [each for each in entries if each.path.startswith(inside)]
        if self._left_out:
            kept = [each for each in kept if not f"{each.path}/".startswith(self._left_out)]
        # Millions of entries go through here: no call of Python for each.
        keys = [strip + each.path[cut:] + ("/" if each.type == "dir" else "") for each in kept]
        rows = [(key, each.type, each.size_bytes, each.mtime_s, each.md5) for key, each in zip(keys, kept, strict=True)]
        return list(map(_make_item, rows))

    def wanted(self, items: list[TargetItem]) -> list[TargetItem]:
        """Give those of the items whose keys are in the window."""
        if not self.prefix and not self.after:
            return items
        return [each for each in items if self.wants(each.key)]

    def wants(self, key: str) -> bool:
        """Say whether a key is in the window."""
        return key.startswith(self.prefix) and (not self.after or order(key) > self._after_bytes)

    def leads_to(self, directory_key: str) -> bool:
        """Say whether keys below a directory, given by its key, may be in the window."""
        if not directory_key.startswith(self.prefix):  # the walk begins where the prefix's own directories end
            return False
        return self.after.startswith(directory_key) or order(directory_key) > self._after_bytes

    def is_past(self, key: str) -> bool:
        """Say whether a key lies behind the window."""
        return not key.startswith(self.prefix) and order(key) > order(self.prefix)


_make_item: Callable[[Iterable[object]], TargetItem] = partial(tuple.__new__, TargetItem)


def _must_advance(path: str, start: str, resume: str | None) -> None:
    if resume == start:
        raise BadAnswer(f"the listing of {path} does not advance beyond {resume!r}", sent=True)


# --- ObjectStore -----------------------------------------------------------------------------------------------


async def _listed(
    netstorage: NetStorage, window: _Window, patience: Patience
) -> AsyncGenerator[list[TargetItem], None]:
    end = list_end(window.directory)

    async def ask(path: str) -> Page:
        return await patience.ask(lambda: netstorage.list_page(path, end=end, max_entries=PAGE_ENTRIES))

    begin = _askable(window.path_of(max(window.after, window.prefix, key=order)))
    start = begin if len(begin) > len(window.directory) else window.directory
    page = await _first_page(ask, start, window.directory)
    while True:
        items = window.items_of(page.entries)
        wanted = window.wanted(items)
        if wanted:
            yield wanted
        if page.resume is None or (items and window.is_past(items[-1].key)):
            return
        resume = "/" + page.resume.lstrip("/")
        _must_advance(window.directory, start, resume)
        start = resume
        try:
            page = await ask(start)
        except TargetMissing:  # the rest has been deleted since
            return


def _askable(path: str) -> str:
    """Give the path, cut off before a `.` or `..`: S3's keys may have such parts, and no request may.

    What is cut off sorts behind what is left, so a listing that begins there leaves nothing out.
    """
    parts = itertools.takewhile(lambda part: part not in {".", ".."}, path.split("/"))
    return "/".join(parts).rstrip("/")


async def _first_page(ask: Callable[[str], Awaitable[Page]], start: str, directory: str) -> Page:
    """Get the first page; the directory's own where a name that may not exist is not found."""
    for path in (start, directory):
        try:
            return await ask(path)
        except TargetMissing:
            if path == directory:
                break
    return Page(())


# --- FileStore -------------------------------------------------------------------------------------------------


class _Directory:
    """One directory's children in key order, and the listings of its subdirectories that are under way."""

    def __init__(self, children: Sorter[TargetItem]) -> None:
        self._sorter = children
        self._children = itertools.chain.from_iterable(children.batches(BATCH_ITEMS))
        # Of a directory on disk the names are not in hand: it is read without looking ahead.
        in_hand = [] if children.spilled else children.in_hand
        self.next_keys = deque(each.key for each in in_hand if each.type == "dir")
        self.count = 0 if children.spilled else children.count
        self.ahead: dict[str, asyncio.Task[_Directory]] = {}

    def next(self) -> TargetItem | None:
        return next(self._children, None)

    async def aclose(self) -> None:
        tasks = list(self.ahead.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        for task in tasks:
            if not task.cancelled() and task.exception() is None:
                await task.result().aclose()
        self._sorter.close()


class _Walk:
    """Depth first through the directories, the next ones asked for ahead."""

    def __init__(
        self, netstorage: NetStorage, window: _Window, parallel: int, in_memory_items: int, patience: Patience
    ) -> None:
        self._netstorage = netstorage
        self._window = window
        self._parallel = parallel
        self._in_memory_items = in_memory_items
        self._patience = patience
        self._slots = asyncio.Semaphore(parallel)
        self._held = 0
        self._path: list[_Directory] = []

    async def batches(self) -> AsyncGenerator[list[TargetItem], None]:
        """Give the items in the window."""
        batch: list[TargetItem] = []
        await self._enter(await self._read(self._window.directory))
        while self._path:
            item = self._path[-1].next()
            if item is None:
                await self._path.pop().aclose()
                continue
            if self._window.wants(item.key):
                batch.append(item)
            if len(batch) >= BATCH_ITEMS:
                yield batch
                batch = []
            if item.type == "dir" and self._window.leads_to(item.key):
                await self._go_down(item.key)
        if batch:
            yield batch

    async def aclose(self) -> None:
        """Stop what is under way, and remove what is on disk."""
        while self._path:
            await self._path.pop().aclose()

    async def _go_down(self, key: str) -> None:
        parent = self._path[-1]
        task = parent.ahead.get(key)
        directory = await (self._read_key(key) if task is None else task)
        if task is not None:
            del parent.ahead[key]
            self._held -= directory.count
        while parent.next_keys and order(parent.next_keys[0]) <= order(key):
            parent.next_keys.popleft()
        self._look_ahead(parent)
        await self._enter(directory)

    async def _enter(self, directory: _Directory) -> None:
        self._path.append(directory)
        self._look_ahead(directory)

    def _look_ahead(self, directory: _Directory) -> None:
        while directory.next_keys and len(directory.ahead) < self._parallel and self._held < HELD_ITEMS:
            key = directory.next_keys.popleft()
            if self._window.leads_to(key):
                directory.ahead[key] = asyncio.create_task(self._read_ahead(key))

    async def _read_ahead(self, key: str) -> _Directory:
        directory = await self._read_key(key)
        self._held += directory.count
        return directory

    async def _read_key(self, key: str) -> _Directory:
        return await self._read(self._window.path_of(key).rstrip("/"))

    async def _read(self, path: str) -> _Directory:
        """Ask for one directory; a missing one has vanished, or never was, and is empty."""
        sorter = self._new_sorter()

        def begin() -> Callable[[Sequence[Entry]], None]:
            nonlocal sorter
            sorter.close()  # with what a failed try brought
            sorter = self._new_sorter()
            return lambda entries: sorter.add(self._items(entries))

        try:
            async with self._slots:
                resume = await self._patience.ask(lambda: self._netstorage.dir_into(path, begin))
                while resume is not None:
                    page = await self._patience.ask(partial(self._netstorage.dir_page, path, start=resume))
                    sorter.add(self._items(page.entries))
                    _must_advance(path, resume, page.resume)
                    resume = page.resume
        except (TargetMissing, TargetConflict) as error:
            # A file in a directory's place has nothing below it; in the route's own, nothing could ever be written.
            if isinstance(error, TargetConflict) and path == self._window.base:
                raise
            begin()
        except BaseException:
            sorter.close()
            raise
        return _Directory(sorter)

    def _new_sorter(self) -> Sorter[TargetItem]:
        return Sorter(TargetItem._make, in_memory_items=self._in_memory_items)

    def _items(self, entries: Iterable[Entry]) -> list[TargetItem]:
        # A directory whose name is empty lists the same as its parent: whoever goes down into it never ends.
        return self._window.items_of([each for each in entries if each.type != "dir" or each.name])
