"""A NetStorage client: one method per action, each promise kept over a network that breaks.

Every try is signed anew, inside the `headers` callback of the HTTP client: when a connection is in hand and nothing
has been sent yet. That is also where the caller's `guard` is asked whether it may still write. Three things can go
wrong with a try, and each has one owner:

    no connection, or broken   reads are tried again; a small write too, if its answer can no longer come (then the
                               result says `repeated`, since the first one may still land); a stream never, once begun
    429, 5xx                   reads are tried again for a few seconds; a write goes back to the caller, who paces
    403                        if the answer's Date shows that the signature was too old or too new, the offset of the
                               clocks is learned and the request is signed and sent once more; else it is final

An error that leaves a write in doubt has `ambiguous` set: it was sent and its answer never came, or the answer was
502 or 504, by which a server in front says that the one behind did not answer it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from s3nsync.errors import (
    BadAnswer,
    ConfigError,
    ConnectionLost,
    S3nsyncError,
    Stalled,
    TargetClock,
    TargetConflict,
    TargetError,
    TargetMissing,
    TargetRefused,
    TargetUnavailable,
    TransportError,
)
from s3nsync.http import Answer, Chunk, Header, Http, Origin, tls_context
from s3nsync.netstorage import wire
from s3nsync.netstorage.wire import Account, Applied, AtEnd, Entry, Page, Removed, Uploaded, Usage

T = TypeVar("T")

TRIES = 3
"""Tries of one call; what needs more belongs to the queue, which does not hold a connection while it waits."""

BACKOFF_S = 0.2
"""Middle of the first wait; each next one is three times as long, all of them jittered by half."""

LONGEST_WAIT_S = 5.0
"""A server that asks for a longer pause than this gets it from the caller."""

LISTING_LIMIT_BYTES = 64 << 20
"""The longest stat, dir or list answer read: FileStore's own limit for a directory listing is 64 MB."""

_ERROR_TEXT_BYTES = 1 << 16
_CONFIRMED = "imreallyreallysure"  # the documented value without which quick-delete is refused


def nothing() -> None:
    """Guard nothing."""


def _nonce() -> str:
    """Draw a unique id: numeric, as documented, and too long to meet twice."""
    return str(secrets.randbits(63))


@dataclass(frozen=True, slots=True)
class _Call:
    """One action on one path, ready to be signed as often as it takes."""

    method: Literal["GET", "PUT", "POST"]
    action: str
    path: str
    options: Mapping[str, str | int | None] = field(default_factory=dict)
    headers: Sequence[Header] = ()
    body: Chunk | _Stream | None = None
    length: int | None = None
    at_end: Callable[[], Mapping[str, str | int | None]] | None = None
    guard: Callable[[], None] = nothing

    def may_repeat(self, error: TransportError) -> bool:
        """Say whether this write may be sent once more after `error`: it can do no harm that is not told."""
        if not error.transient or (isinstance(self.body, _Stream) and self.body.begun):
            return False
        if not error.sent:
            return True
        # A stalled upload may just be slow to be stored: a second one beside it would race it.
        return isinstance(error, ConnectionLost) or (isinstance(error, Stalled) and self.action != "upload")


class _Stream:
    """A body that can be sent once: knows whether it was begun, and how much of it was taken."""

    __slots__ = ("_chunks", "begun", "size_bytes")

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        self._chunks = aiter(body)
        self.begun = False
        self.size_bytes = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        self.begun = True
        return self

    async def __anext__(self) -> bytes:
        chunk = await anext(self._chunks)
        self.size_bytes += len(chunk)
        return chunk


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
        nonce: Callable[[], str] = _nonce,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        on_clock_skew: Callable[[float], None] | None = None,
    ) -> None:
        """Set up; nothing is sent yet. `on_clock_skew` gets each newly learned offset (server minus us, seconds)."""
        self.account = account
        self.clock_offset_s = 0.0
        self._http = http
        self._origin = Origin(account.scheme, account.host, account.port)
        self._now_s = now_s
        self._nonce = nonce
        self._sleep = sleep
        self._jitter = jitter
        self._on_clock_skew = on_clock_skew

    def __repr__(self) -> str:
        """Show the account (never its key) and what has been learned about the clock."""
        return f"NetStorage({self.account!r}, clock_offset_s={self.clock_offset_s:.0f})"

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
        digests = {n: d for n, d in (("md5", md5), ("sha1", sha1), ("sha256", sha256)) if d is not None}
        if at_end is not None:
            if isinstance(body, bytes) or digests or mtime_s is not None or index_zip:
                msg = "at_end goes with a stream, and takes the place of mtime_s, digests and index_zip"
                raise ValueError(msg)
            return await self._upload_at_end(path, _Stream(body), size, at_end, guard)
        if isinstance(body, bytes):
            # The zip that index_zip stores differs from what is sent, so no size can be declared for it.
            size = None if index_zip else len(body)
            options = wire.upload_options(size=size, mtime_s=mtime_s, digests=digests, index_zip=index_zip)
            repeated = await self._write(_Call("PUT", "upload", path, options, body=body, guard=guard))
            return Uploaded(len(body), repeated)
        options = wire.upload_options(size=size, mtime_s=mtime_s, digests=digests, index_zip=index_zip)
        stream = _Stream(body)
        repeated = await self._write(_Call("PUT", "upload", path, options, body=stream, length=size, guard=guard))
        return Uploaded(stream.size_bytes, repeated)

    async def _upload_at_end(
        self, path: str, stream: _Stream, size: int | None, at_end: Callable[[], AtEnd], guard: Callable[[], None]
    ) -> Uploaded:
        def real() -> dict[str, str | int | None]:
            if size is not None and stream.size_bytes != size:
                msg = f"upload {path}: the body ended after {stream.size_bytes} of {size} bytes"
                raise ValueError(msg)
            end = at_end()
            return {"sha256": end.sha256, "mtime": end.mtime_s, "size": size}

        promised: dict[str, str | int | None] = {"sha256": "atend", "mtime": "atend", "size": size}
        call = _Call("PUT", "upload", path, promised, body=stream, at_end=real, guard=guard)
        repeated = await self._write(call)
        return Uploaded(stream.size_bytes, repeated)

    async def delete(self, path: str, *, guard: Callable[[], None] = nothing) -> Removed:
        """Remove a file or symlink; fine if there is none."""
        return await self._remove(_Call("PUT", "delete", path, guard=guard))

    async def rmdir(self, path: str, *, guard: Callable[[], None] = nothing) -> Removed:
        """Remove an empty directory; fine if there is none. TargetConflict if it is not empty."""
        return await self._remove(_Call("PUT", "rmdir", path, guard=guard))

    async def _remove(self, call: _Call) -> Removed:
        tries = _Tries()
        try:
            return Removed(existed=True, repeated=await self._write(call, tries))
        except TargetMissing:
            return Removed(existed=False, repeated=tries.unanswered)

    async def mkdir(self, path: str, *, guard: Callable[[], None] = nothing) -> None:
        """Make a directory; fine if it exists. On FileStore its parent must exist, on ObjectStore none is needed."""
        try:
            await self._write(_Call("PUT", "mkdir", path, guard=guard))
        except TargetConflict:
            # FileStore answers 409 both for a directory that exists and for a file in its place.
            entry = await self.stat(path)
            if entry is None or entry.type != "dir":
                raise

    async def rename(self, source: str, destination: str, *, guard: Callable[[], None] = nothing) -> Applied:
        """Move a file or symlink within its CP code; what happens to an existing destination is not documented."""
        call = _Call("PUT", "rename", source, {"destination": destination}, guard=guard)
        tries = _Tries()
        try:
            return Applied(await self._write(call, tries))
        except TargetMissing:
            # The first try may have done it, and only its answer was lost.
            if tries.unanswered and await self.stat(destination) is not None:
                return Applied(repeated=True)
            raise

    async def symlink(
        self, path: str, target: str, *, mtime_s: int | None = None, guard: Callable[[], None] = nothing
    ) -> Applied:
        """Make a symlink at `path` to `target`, an absolute or relative path."""
        call = _Call("POST", "symlink", path, {"target": target, "mtime": mtime_s}, guard=guard)
        return Applied(await self._write(call))

    async def set_mtime(self, path: str, mtime_s: int, *, guard: Callable[[], None] = nothing) -> Applied:
        """Set a file's modification time, in Unix seconds."""
        return Applied(await self._write(_Call("POST", "mtime", path, {"mtime": mtime_s}, guard=guard)))

    async def quick_delete(self, path: str, *, confirm: str) -> Applied:
        """Order the whole tree at `path` removed, at some later time; `confirm` must be the same path once more.

        NetStorage allows it only where Akamai has enabled it, gives no sign of completion, and cannot undo it.
        ConfigError if `confirm` differs.
        """
        if confirm != path:
            msg = f"quick-delete {path}: not confirmed"
            raise ConfigError(msg, hint="repeat exactly the same path as confirmation; it cannot be undone")
        return Applied(await self._write(_Call("POST", "quick-delete", path, {"quick-delete": _CONFIRMED})))

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
        return await self._xml("dir", path, options | bounds, wire.XmlReader.page)

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

        Works on both kinds of store, with implicit directories. Directories that vanish meanwhile are passed over.
        """
        pending = [directory]
        while pending:
            path = pending.pop()
            try:
                async for entry in self.dir(path):
                    if entry.type == "dir":
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
        headers: tuple[Header, ...] = ()
        if byte_range is not None:
            first, last = byte_range
            headers = (("Range", f"bytes={first}-{'' if last is None else last}"),)
        return await self._read(_Call("GET", "download", path, headers=headers), _as_it_is)

    async def _xml(
        self, action: str, path: str, options: Mapping[str, str | int | None], result: Callable[[wire.XmlReader], T]
    ) -> T:
        async def consume(answer: Answer) -> T:
            reader = wire.XmlReader(f"{action} {path}")
            size_bytes = 0
            async with answer:
                async for chunk in answer.chunks():
                    size_bytes += len(chunk)
                    if size_bytes > LISTING_LIMIT_BYTES:
                        msg = f"{action} {path}: the answer is longer than {LISTING_LIMIT_BYTES >> 20} MiB"
                        raise BadAnswer(msg, sent=True)
                    reader.feed(chunk)
            return result(reader)

        return await self._read(_Call("GET", action, path, options), consume)

    # --- tries -----------------------------------------------------------------------------------------------

    async def _read(self, call: _Call, consume: Callable[[Answer], Awaitable[T]]) -> T:
        """Do a read, again if need be: it changes nothing, so any transient fault may be tried once more."""
        for failures in range(1, TRIES + 1):
            try:
                return await consume(await self._signed(call))
            except (TransportError, TargetUnavailable) as error:
                await self._pause(error, failures)
        raise AssertionError(call)

    async def _write(self, call: _Call, tries: _Tries | None = None) -> bool:
        """Do a write; say whether it was sent more than once. Errors tell whether it may still land."""
        tries = tries or _Tries()
        for failures in range(1, TRIES + 1):
            try:
                answer = await self._signed(call)
            except TransportError as error:
                error.ambiguous = tries.unanswered = tries.unanswered or error.sent
                if not call.may_repeat(error):
                    raise
                await self._pause(error, failures)
            except S3nsyncError as error:
                error.ambiguous = error.ambiguous or tries.unanswered or error.status in {502, 504}
                raise
            else:
                await answer.aclose()
                if answer.early:
                    msg = f"{call.action} {call.path}: NetStorage answered {answer.status} before it had the whole body"
                    early = BadAnswer(msg, sent=True)
                    early.ambiguous = True
                    raise early
                return tries.unanswered
        raise AssertionError(call)

    async def _pause(self, error: S3nsyncError, failures: int) -> None:
        """Wait before the next try; raise `error` if there is none, or none that could help."""
        asked_s = error.retry_after_s or 0.0
        if not error.transient or failures == TRIES or asked_s > LONGEST_WAIT_S:
            raise error
        await self._sleep(max(asked_s, BACKOFF_S * 3 ** (failures - 1) * (0.5 + self._jitter())))

    async def _signed(self, call: _Call) -> Answer:
        """Send once, or twice if the first signature met a clock that is not ours; give the answer if it is 2xx."""
        answer, signed_at_s = await self._send(call)
        if _is_success(answer):
            return answer
        error = await self._refusal(call, answer, signed_at_s)
        if not isinstance(error, TargetClock) or (isinstance(call.body, _Stream) and call.body.begun):
            raise error
        answer, signed_at_s = await self._send(call)
        if _is_success(answer):
            return answer
        raise await self._refusal(call, answer, signed_at_s)

    async def _send(self, call: _Call) -> tuple[Answer, float]:
        """Make one try; give the answer and the time of the last signature."""
        target = wire.request_target(call.path)
        signed_at_s = 0.0

        def sign(options: Mapping[str, str | int | None]) -> Sequence[Header]:
            nonlocal signed_at_s
            call.guard()
            signed_at_s = self._now_s() + self.clock_offset_s
            action = wire.action_header(call.action, **options)
            return wire.signed_headers(self.account, target, action, now_s=signed_at_s, nonce=self._nonce())

        at_end = call.at_end
        try:
            answer = await self._http.send(
                self._origin,
                call.method,
                target,
                headers=lambda: [*sign(call.options), *call.headers],
                body=call.body,
                length=call.length,
                trailers=None if at_end is None else lambda: sign(at_end()),
            )
        except TransportError as error:
            error.message = f"{call.action} {call.path}: {error.message}"
            error.args = (error.message,)
            raise
        return answer, signed_at_s

    async def _refusal(self, call: _Call, answer: Answer, signed_at_s: float) -> TargetError:
        """Read a refusal to its end and say what it means; learn the offset if the clocks disagree."""
        ours_s = self._now_s() + self.clock_offset_s
        date = answer.headers.get("Date")
        text = ""
        # The status is the verdict; after an early answer the text is often cut off.
        with contextlib.suppress(TransportError):
            async with answer:
                text = (await answer.read(_ERROR_TEXT_BYTES)).decode("utf-8", "replace")
        if answer.status == 403:
            self._learn(wire.skew_s(date, ours_s))
        # Judged from the signature's time: it is too old also if it lay about, the clocks being right.
        skew = wire.skew_s(date, signed_at_s)
        return wire.verdict(answer.status, answer.headers, text, call.action, call.path, skew=skew)

    def _learn(self, skew: float | None) -> None:
        if skew is None or not wire.clock_is_off(skew):
            return
        self.clock_offset_s += skew
        if self._on_clock_skew is not None:
            self._on_clock_skew(self.clock_offset_s)


@dataclass(slots=True)
class _Tries:
    """What the tries of one write have come to: `unanswered` once one was sent and its answer did not come."""

    unanswered: bool = False


def _is_success(answer: Answer) -> bool:
    """Accept any 2xx: write actions are documented as 204 and recorded as 200."""
    return 200 <= answer.status < 300


async def _as_it_is(answer: Answer) -> Answer:
    return answer


def _must_advance(action: str, path: str, start: str | None, resume: str) -> None:
    """Refuse a resume point that would go round for ever."""
    if resume == start:
        raise BadAnswer(f"{action} {path}: the listing does not advance beyond {resume!r}", sent=True)


@asynccontextmanager
async def open_netstorage(
    hostname: str, user: str, key: str, *, ca_file: str | None = None, insecure_http: bool = False
) -> AsyncIterator[NetStorage]:
    """Open a client of its own for `host[:port]`; connections are closed at the end of the block.

    `ca_file` adds a private certificate authority (PEM). `insecure_http` speaks plain HTTP, for tests on loopback.
    """
    account = Account.parse(hostname, user, key, scheme="http" if insecure_http else "https")
    async with Http(tls=None if insecure_http else tls_context(ca_file)) as http:
        yield NetStorage(account, http)
