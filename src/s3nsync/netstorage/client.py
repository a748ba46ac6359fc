"""A NetStorage client: one method per action, with what each action's answers mean.

How a call is signed, sent and tried again is the business of `calls`; what it looks like on the wire that of `wire`.
Here stands what is particular to an action: that a delete is content with nothing to delete, that a rename whose
answer was lost can be recognised, how listings go on from page to page and stay inside their directory.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from s3nsync.errors import BadAnswer, ConfigError, TargetConflict, TargetMissing, TargetRefused
from s3nsync.http import Answer, Http, Layout, Proxies, tls_context
from s3nsync.netstorage import wire
from s3nsync.netstorage.calls import Call, Caller, Options, Stream, draw_nonce, nothing
from s3nsync.netstorage.wire import Account, Applied, AtEnd, Entry, Page, Removed, Uploaded, Usage

T = TypeVar("T")

LISTING_LIMIT_BYTES = 64 << 20
"""The longest stat, dir or list answer read: FileStore's own limit for a directory listing is 64 MB."""

_RANGED = Layout("Range")
_CONFIRMED = "imreallyreallysure"  # the documented value without which quick-delete is refused


class NetStorage:
    """One upload account on one NetStorage host.

    Paths are absolute and decoded: `/<cpcode>/directory/file`. Every method raises TransportError when the network
    or TLS fails, and a TargetError that names the action and path when NetStorage refuses.
    """

    def __init__(
        self,
        account: Account,
        http: Http,
        *,
        now_s: Callable[[], float] = time.time,
        nonce: Callable[[], str] = draw_nonce,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        on_clock_skew: Callable[[float], None] | None = None,
    ) -> None:
        """Set up; nothing is sent yet. `on_clock_skew` gets each newly learned offset (server minus us, seconds)."""
        self.account = account
        self._caller = Caller(
            account, http, now_s=now_s, nonce=nonce, sleep=sleep, jitter=jitter, on_clock_skew=on_clock_skew
        )

    def __repr__(self) -> str:
        """Show the account (never its key) and what has been learned about the clock."""
        return f"NetStorage({self.account!r}, clock_offset_s={self.clock_offset_s:.0f})"

    @property
    def clock_offset_s(self) -> float:
        """How far the server's clock is ahead of ours, in seconds; 0 until a refusal has shown otherwise."""
        return self._caller.clock_offset_s

    # --- writes ----------------------------------------------------------------------------------------------

    async def upload(
        self,
        path: str,
        body: bytes | AsyncIterable[bytes],
        *,
        size: int | None = None,
        mtime_s: int | None = None,
        md5: str | None = None,
        sha1: str | None = None,
        sha256: str | None = None,
        at_end: Callable[[], AtEnd] | None = None,
        index_zip: bool = False,
        guard: Callable[[], None] = nothing,
    ) -> Uploaded:
        """Write a file, replacing the one that may be there; returns once NetStorage has confirmed it.

        NetStorage checks `size` (bytes; known by itself for a `bytes` body) and the digests (hex) and refuses what
        does not match (TargetPrecondition). With `at_end` a streamed body goes out chunked, and digest and mtime
        follow it in signed trailers: it is called once, after the last chunk. `guard` is called before each
        signature and may raise to stop. A `bytes` body may be sent again if the connection breaks, a stream never.
        """
        if at_end is not None:
            if isinstance(body, bytes) or md5 or sha1 or sha256 or mtime_s is not None or index_zip:
                msg = "at_end goes with a stream, and takes the place of mtime_s, digests and index_zip"
                raise ValueError(msg)
            return await self._upload_at_end(path, Stream(body), size, at_end, guard)
        if isinstance(body, bytes):
            if size is not None and size != len(body):
                msg = f"upload {path}: the body has {len(body)} bytes where {size} were announced"
                raise ValueError(msg)
            # The zip that index_zip stores differs from what is sent, so no size can be declared for it.
            size = None if index_zip else len(body)
        options = wire.upload_options(
            size=size, mtime_s=mtime_s, md5=md5, sha1=sha1, sha256=sha256, index_zip=index_zip
        )
        if isinstance(body, bytes):
            repeated = await self._caller.write(Call("PUT", "upload", path, options, body=body, guard=guard))
            return Uploaded(len(body), repeated)
        stream = Stream(body)
        repeated = await self._caller.write(Call("PUT", "upload", path, options, body=stream, length=size, guard=guard))
        return Uploaded(stream.size_bytes, repeated)

    async def _upload_at_end(
        self, path: str, stream: Stream, size: int | None, at_end: Callable[[], AtEnd], guard: Callable[[], None]
    ) -> Uploaded:
        def real() -> Options:
            if size is not None and stream.size_bytes != size:
                msg = f"upload {path}: the body ended after {stream.size_bytes} of {size} bytes"
                raise ValueError(msg)
            end = at_end()
            return {"sha256": end.sha256, "mtime": end.mtime_s, "size": size}

        promised: Options = {"sha256": "atend", "mtime": "atend", "size": size}
        call = Call("PUT", "upload", path, promised, body=stream, at_end=real, guard=guard)
        repeated = await self._caller.write(call)
        return Uploaded(stream.size_bytes, repeated)

    async def delete(self, path: str, *, guard: Callable[[], None] = nothing) -> Removed:
        """Remove a file or symlink; fine if there is none."""
        return await self._remove(Call("PUT", "delete", path, guard=guard))

    async def rmdir(self, path: str, *, guard: Callable[[], None] = nothing) -> Removed:
        """Remove an empty directory; fine if there is none. TargetConflict if it is not empty."""
        return await self._remove(Call("PUT", "rmdir", path, guard=guard))

    async def _remove(self, call: Call) -> Removed:
        try:
            return Removed(existed=True, repeated=await self._caller.write(call))
        except TargetMissing as missing:
            return Removed(existed=False, repeated=missing.ambiguous)

    async def mkdir(self, path: str, *, guard: Callable[[], None] = nothing) -> None:
        """Make a directory; fine if it exists. On FileStore its parent must exist, on ObjectStore none is needed."""
        try:
            await self._caller.write(Call("PUT", "mkdir", path, guard=guard))
        except TargetConflict:
            # FileStore answers 409 both for a directory that exists and for a file in its place.
            entry = await self.stat(path)
            if entry is None or entry.type != "dir":
                raise

    async def rename(self, source: str, destination: str, *, guard: Callable[[], None] = nothing) -> Applied:
        """Move a file or symlink within its CP code; what happens to an existing destination is not documented."""
        call = Call("PUT", "rename", source, {"destination": destination}, guard=guard)
        try:
            return Applied(await self._caller.write(call))
        except (TargetMissing, TargetConflict) as refusal:
            # The first try may have done it, and only its answer was lost: which of the two a second one then gets
            # depends on the name that the server looks at first.
            if refusal.ambiguous and await self._is_moved(source, destination):
                return Applied(repeated=True)
            raise

    async def _is_moved(self, source: str, destination: str) -> bool:
        return await self.stat(destination) is not None and await self.stat(source) is None

    async def make_parents(self, path: str, *, guard: Callable[[], None] = nothing) -> bool:
        """Make the directories above `path` that are missing (FileStore needs them); False if they were all there."""
        above = [path[:at] for at, char in enumerate(path) if char == "/"][2:]  # neither the root nor the CP code
        if not above or await self.stat(above[-1], implicit=True) is not None:
            return False
        for directory in above:
            await self.mkdir(directory, guard=guard)
        return True

    async def symlink(
        self, path: str, target: str, *, mtime_s: int | None = None, guard: Callable[[], None] = nothing
    ) -> Applied:
        """Make a symlink at `path` to `target`, an absolute or relative path."""
        call = Call("POST", "symlink", path, {"target": target, "mtime": mtime_s}, guard=guard)
        return Applied(await self._caller.write(call))

    async def set_mtime(self, path: str, mtime_s: int, *, guard: Callable[[], None] = nothing) -> Applied:
        """Set a file's modification time, in Unix seconds."""
        return Applied(await self._caller.write(Call("POST", "mtime", path, {"mtime": mtime_s}, guard=guard)))

    async def quick_delete(self, path: str, *, confirm: str) -> Applied:
        """Order the whole tree at `path` removed, at some later time; `confirm` must be the same path once more.

        NetStorage allows it only where Akamai has enabled it, gives no sign of completion, and cannot undo it.
        ConfigError if `confirm` differs.
        """
        if confirm != path:
            msg = f"quick-delete {path}: not confirmed"
            raise ConfigError(msg, hint="repeat exactly the same path as confirmation; it cannot be undone")
        return Applied(await self._caller.write(Call("POST", "quick-delete", path, {"quick-delete": _CONFIRMED})))

    # --- reads -----------------------------------------------------------------------------------------------

    async def stat(self, path: str, *, implicit: bool = False) -> Entry | None:
        """Look at one path; None if there is nothing. A replica may be behind: an old or missing entry proves little.

        `implicit` also finds ObjectStore directories that exist only by what lies below them; it costs the server
        more. Where a file and a directory share the name the file is told, unless the path ends in a slash.
        """
        options = {"format": "xml", "encoding": "utf-8", "implicit": "yes" if implicit else None}
        try:
            page = await self._xml("stat", path, options, wire.XmlReader.page)
        except TargetMissing:
            return None
        ranked = sorted(page.entries, key=lambda entry: (entry.type == "dir") != path.endswith("/"))
        if ranked and "//" in path:  # servers differ in how they tell empty parts: only the question is exact
            return ranked[0]._replace(path=path.removesuffix("/"))
        return ranked[0] if ranked else None

    async def du(self, path: str) -> Usage:
        """Add up all that lies below a directory; TargetMissing if it is none."""
        return await self._xml("du", path, {"format": "xml", "encoding": "utf-8"}, wire.XmlReader.usage)

    async def dir_page(
        self,
        path: str,
        *,
        start: str | None = None,
        end: str | None = None,
        prefix: str | None = None,
        max_entries: int | None = None,
    ) -> Page:
        """List a part of a directory's direct children; go on with `start=page.resume`.

        `start` is inclusive. FileStore gives the whole directory at once, unsorted, and may refuse the options.
        """
        options = {"format": "xml", "encoding": "utf-8", "max_entries": max_entries}
        bounds = {"start": start, "end": end, "prefix": prefix}
        page = await self._xml("dir", path, options | bounds, wire.XmlReader.page)
        return wire.with_slashes_of(page, path)

    async def dir_into(self, path: str, begin: Callable[[], Callable[[Sequence[Entry]], None]]) -> str | None:
        """List a directory's direct children as they come in, for one that may be too large to be held.

        `begin` is called once for each try of the request, and gives what takes that try's entries. Gives where to go
        on, by `dir_page`: None from FileStore, which tells the whole directory at once.
        """

        async def consume(answer: Answer) -> str | None:
            take, reader = begin(), wire.XmlReader(f"dir {path}")
            await _feed(reader, answer, f"dir {path}", lambda: take(wire.with_slashes_of(reader.part(), path).entries))
            page = wire.with_slashes_of(reader.page(), path)
            take(page.entries)
            return page.resume

        return await self._caller.read(Call("GET", "dir", path, {"format": "xml", "encoding": "utf-8"}), consume)

    async def dir(
        self, path: str, *, start: str | None = None, end: str | None = None, prefix: str | None = None
    ) -> AsyncGenerator[Entry, None]:
        """List a directory's direct children, page by page."""
        while True:
            page = await self.dir_page(path, start=start, end=end, prefix=prefix)
            for entry in page.entries:
                yield entry
            if page.resume is None:
                return
            _must_advance("dir", path, start, page.resume)
            start = page.resume

    async def list_page(self, path: str, *, end: str, max_entries: int | None = None) -> Page:
        """List what sorts from `path` on and up to `end` (ObjectStore only); go on from `path=page.resume`."""
        options = {
            "format": "xml",
            "encoding": "utf-8",
            "mtime_all": "yes",
            "max_entries": max_entries,
            "end": end,
        }
        return await self._xml("list", path, options, wire.XmlReader.page)

    async def list(self, directory: str, *, max_entries: int | None = None) -> AsyncGenerator[Entry, None]:
        """List everything below a directory in the order of its whole path's bytes (ObjectStore only).

        Implicit directories are not listed. `max_entries` is the page size asked for; the server may send fewer.
        TargetMissing if there is no such directory (an empty CP code gives nothing), TargetRefused on FileStore.
        """
        inside, end = directory.rstrip("/") + "/", wire.list_end(directory)
        start = directory.rstrip("/")
        while True:
            page = await self._list_or_end(start, end, max_entries, first=start == directory.rstrip("/"))
            for entry in page.entries:
                # Names such as `dir-2` sort between `dir` and `dir/`: they are on the page, but not below.
                if entry.path.startswith(inside):
                    yield entry
            if page.resume is None:
                return
            resume = page.resume if page.resume.startswith("/") else "/" + page.resume
            _must_advance("list", directory, start, resume)
            start = resume

    async def _list_or_end(self, path: str, end: str, max_entries: int | None, *, first: bool) -> Page:
        """Get a page; a 404 is the end if the CP code is empty, or the rest has been deleted since."""
        try:
            return await self.list_page(path, end=end, max_entries=max_entries)
        except TargetMissing:
            if first and path.count("/") > 1:
                raise
            return Page(())

    async def walk(self, directory: str) -> AsyncGenerator[Entry, None]:
        """List everything below a directory by one dir action per directory, in no order but parents first.

        Works on both kinds of store, with implicit directories. Directories that vanish meanwhile are passed over. A
        directory whose name is empty (`/1//a` has one) is given, but not gone into: it lists the same as its parent.
        """
        pending = [directory]
        while pending:
            path = pending.pop()
            try:
                async for entry in self.dir(path):
                    if entry.leads_below(path):
                        pending.append(entry.path)
                    yield entry
            except TargetMissing:
                if path == directory:
                    raise

    async def below(self, directory: str) -> AsyncGenerator[Entry, None]:
        """List everything below a directory: by list, or by walk where the store has no list (FileStore)."""
        begun = False
        try:
            async for entry in self.list(directory):
                begun = True
                yield entry
        except TargetRefused:
            if begun:
                raise
        else:
            return
        async for entry in self.walk(directory):
            yield entry

    async def download(self, path: str, *, byte_range: tuple[int, int | None] | None = None) -> Answer:
        """Open a file; stream it by `answer.chunks()` and close the answer when done.

        `byte_range` is first and last byte, both inclusive, None for the end. Status 206 says that the range was
        honoured, 200 that the whole file comes.
        """
        unsigned = ""
        if byte_range is not None:
            first, last = byte_range
            unsigned = _RANGED.fill(f"bytes={first}-{'' if last is None else last}")
        return await self._caller.read(Call("GET", "download", path, unsigned=unsigned), _as_it_is)

    async def _xml(self, action: str, path: str, options: Options, result: Callable[[wire.XmlReader], T]) -> T:
        async def consume(answer: Answer) -> T:
            reader = wire.XmlReader(f"{action} {path}")
            await _feed(reader, answer, f"{action} {path}")
            return result(reader)

        return await self._caller.read(Call("GET", action, path, options), consume)


async def _feed(reader: wire.XmlReader, answer: Answer, what: str, fed: Callable[[], None] = nothing) -> None:
    """Read an answer to its end; `fed` is called after each chunk."""
    size_bytes = 0
    async with answer:
        async for chunk in answer.chunks():
            size_bytes += len(chunk)
            if size_bytes > LISTING_LIMIT_BYTES:
                raise BadAnswer(f"{what}: the answer is longer than {LISTING_LIMIT_BYTES >> 20} MiB", sent=True)
            reader.feed(chunk)
            fed()


async def _as_it_is(answer: Answer) -> Answer:
    return answer


def _must_advance(action: str, path: str, start: str | None, resume: str) -> None:
    """Refuse a resume point that would go round for ever."""
    if resume == start:
        raise BadAnswer(f"{action} {path}: the listing does not advance beyond {resume!r}", sent=True)


@asynccontextmanager
async def open_netstorage(
    hostname: str,
    user: str,
    key: str,
    *,
    ca_file: str | None = None,
    insecure_http: bool = False,
    proxies: Proxies | None = None,
) -> AsyncIterator[NetStorage]:
    """Open a client of its own for `host[:port]`; connections are closed at the end of the block.

    `ca_file` adds a private certificate authority (PEM). `insecure_http` speaks plain HTTP, for tests on loopback:
    ConfigError for any other host. `proxies` says by which proxy to go, if by any.
    """
    account = Account.parse(hostname, user, key, scheme="http" if insecure_http else "https")
    if insecure_http and not wire.is_loopback(account.host):
        msg = f"plain HTTP to {account.host} is refused: anybody on the way could read and change what is sent"
        raise ConfigError(msg, hint="leave out NS_INSECURE_HTTP (insecure_http): it is for loopback hosts only")
    async with Http(tls=None if insecure_http else tls_context(ca_file), proxies=proxies) as http:
        yield NetStorage(account, http)
