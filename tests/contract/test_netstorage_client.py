"""The client against a scripted server: every promise about tries, signatures, clocks and listings, on a real socket.

The server is ours and knows nothing of NetStorage: a test says, request by request, what it answers or how it fails.
What the protocol means is proven elsewhere (golden vectors, and the emulator).
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import itertools
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Literal
from urllib.parse import parse_qs

import pytest
import trustme

from s3nsync.errors import (
    BadAnswer,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    LeaseLost,
    Stalled,
    TargetClock,
    TargetConflict,
    TargetCredentials,
    TargetMissing,
    TargetPrecondition,
    TargetRefused,
    TargetUnavailable,
    TlsRefused,
)
from s3nsync.http import Http, Timeouts
from s3nsync.netstorage import (
    Account,
    Applied,
    AtEnd,
    Entry,
    NetStorage,
    Removed,
    Uploaded,
    Usage,
    open_netstorage,
)

NOW_S = 1_700_000_000
KEY = "the-s3cret-key"
DATE = formatdate(NOW_S, usegmt=True)
BUSY = re.compile(r"[1-9]\d* busy")


# --- the scripted server ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Request:
    """One request as it came over the wire."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    whole: bool = False

    @property
    def action(self) -> dict[str, str]:
        """Give the Action header's fields."""
        return _fields_of(self.headers)

    @property
    def time_s(self) -> int:
        """Give the time it was signed with."""
        return int(self.headers["x-akamai-acs-auth-data"].split(", ")[3])


def _fields_of(headers: dict[str, str]) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(headers["x-akamai-acs-action"], strict_parsing=True).items()}


def is_signed(headers: dict[str, str], target: str) -> bool:
    """Check the signature by the published formula."""
    data, action = headers["x-akamai-acs-auth-data"], headers["x-akamai-acs-action"]
    message = f"{data}{target}\nx-akamai-acs-action:{action}\n".encode()
    expected = base64.b64encode(hmac.new(KEY.encode(), message, hashlib.sha256).digest()).decode()
    return headers["x-akamai-acs-auth-sign"] == expected


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer; `early` sends it before the body is read, `meet` waits for others that are to be sent with it."""

    status: int = 200
    body: bytes = b""
    headers: Sequence[tuple[str, str]] = (("Date", DATE),)
    early: bool = False
    before: Callable[[], None] | None = None
    meet: asyncio.Barrier | None = None
    promised_bytes: int | None = None

    def encode(self) -> bytes:
        """Spell it."""
        lines = [f"HTTP/1.1 {self.status} Said So", f"Content-Length: {self.promised_bytes or len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return ("\r\n".join(lines) + "\r\n\r\n").encode() + self.body


Step = Reply | Literal["reset", "hang"]


@dataclass(slots=True)
class Peer:
    """A server that follows a script, one step per request; beyond its end everything is 200."""

    script: list[Step] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @property
    def actions(self) -> list[str]:
        """Name the actions that came, in order."""
        return [request.action["action"] for request in self.requests]

    @contextlib.asynccontextmanager
    async def serving(self, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
        """Listen on a free loopback port for the length of the block."""
        self.server = server = await asyncio.start_server(self._connected, "127.0.0.1", 0, ssl=tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while await self._one(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError, ssl.SSLError):
                await writer.wait_closed()

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        method, target, _ = head[0].split(" ")
        request = Request(method, target, _parse(head[1:-1]))
        self.requests.append(request)
        step = self.script.pop(0) if self.script else Reply()
        if isinstance(step, Reply) and step.early:
            writer.write(step.encode())
            return False
        await _read_body(reader, request)
        if step == "reset":
            return False
        if step == "hang":
            await asyncio.sleep(60)
            return False
        if step.before is not None:
            step.before()
        if step.meet is not None:
            await step.meet.wait()
        writer.write(step.encode())
        await writer.drain()
        return True


def _parse(lines: list[str]) -> dict[str, str]:
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def _read_body(reader: asyncio.StreamReader, request: Request) -> None:
    """Read a body by length or in chunks, with its trailers."""
    if request.headers.get("transfer-encoding") != "chunked":
        request.body = await reader.readexactly(int(request.headers.get("content-length", "0")))
        request.whole = True
        return
    while size := int(await reader.readline(), 16):
        request.body += (await reader.readexactly(size + 2))[:-2]
    lines: list[str] = []
    while (line := (await reader.readline()).decode("latin-1").rstrip("\r\n")) != "":
        lines.append(line)
    request.trailers = _parse(lines)
    request.whole = True


# --- the client under test -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Rig:
    """A client whose clock, nonces and sleeps are the test's own."""

    peer: Peer
    now_s: float = NOW_S
    sleeps: list[float] = field(default_factory=list)
    skews: list[float] = field(default_factory=list)
    before_retry: Callable[[], None] = lambda: None

    @contextlib.asynccontextmanager
    async def client(self, *, progress_s: float = 10.0, port: int | None = None) -> AsyncIterator[NetStorage]:
        """Open the client; at the end no connection may be left busy."""
        nonces = itertools.count(1)

        async def sleep(seconds: float) -> None:
            self.sleeps.append(seconds)
            self.before_retry()

        account = Account("127.0.0.1", "user", KEY, "http", self.peer.port if port is None else port)
        async with Http(timeouts=Timeouts(connect_s=5, progress_s=progress_s)) as http:
            yield NetStorage(
                account,
                http,
                now_s=lambda: self.now_s,
                nonce=lambda: str(next(nonces)),
                sleep=sleep,
                jitter=lambda: 0.5,
                on_clock_skew=self.skews.append,
            )
            assert BUSY.search(repr(http)) is None, repr(http)


@contextlib.asynccontextmanager
async def rig(*script: Step, progress_s: float = 10.0) -> AsyncIterator[tuple[NetStorage, Rig]]:
    """Run a client against a script."""
    async with Peer(list(script)).serving() as peer:
        made = Rig(peer)
        async with made.client(progress_s=progress_s) as netstorage:
            yield netstorage, made


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    """Give chunks, one by one."""
    for chunk in chunks:
        yield chunk
        await asyncio.sleep(0)


def lost() -> None:
    """Refuse as a lost lease does."""
    raise LeaseLost("gone")


def xml(*names: str, root: str = "stat", directory: str = "/1", resume: str | None = None, kind: str = "file") -> Reply:
    """Answer with a listing."""
    where = f' directory="{directory}"' if root == "stat" else ""
    files = "".join(f'<file type="{kind}" name="{name}"/>' for name in names)
    more = f'<resume start="{resume}"/>' if resume else ""
    return Reply(body=f"<{root}{where}>{files}{more}</{root}>".encode())


# --- uploads on the wire ---------------------------------------------------------------------------------------


async def test_an_upload_of_bytes_declares_all_it_knows() -> None:
    """Path, size, digest and mtime are on the wire, signed over the target as sent."""
    async with rig() as (netstorage, r):
        done = await netstorage.upload("/1/é a", b"abc", mtime_s=7, md5="aa", sha256="bb")
    assert done == Uploaded(3, repeated=False)
    (request,) = r.peer.requests
    assert (request.method, request.target, request.body) == ("PUT", "/1/%C3%A9%20a", b"abc")
    assert request.headers["x-akamai-acs-action"] == "version=1&action=upload&md5=aa&sha256=bb&mtime=7&size=3"
    assert request.headers["x-akamai-acs-auth-data"] == f"5, 0.0.0.0, 0.0.0.0, {NOW_S}, 1, user"
    assert request.headers["content-length"] == "3"
    assert is_signed(request.headers, request.target)


async def test_a_stream_of_known_size_goes_out_with_its_length() -> None:
    """Content-Length and `size=` both say it."""
    async with rig() as (netstorage, r):
        done = await netstorage.upload("/1/a", stream(b"ab", b"", b"c"), size=3, sha1="cc")
    assert done == Uploaded(3, repeated=False)
    assert r.peer.requests[0].headers["content-length"] == "3"
    assert r.peer.requests[0].action == {"version": "1", "action": "upload", "sha1": "cc", "size": "3"}
    assert r.peer.requests[0].body == b"abc"


async def test_a_digest_at_the_end_is_promised_then_kept_in_signed_trailers() -> None:
    """Both signatures hold, over different nonces, and the size stands in both headers."""
    asked: list[str] = []

    def at_end() -> AtEnd:
        asked.append("at_end")
        return AtEnd("dd", 9)

    async with rig() as (netstorage, r):
        done = await netstorage.upload(
            "/1/a", stream(b"ab", b"c"), size=3, at_end=at_end, guard=lambda: asked.append("guard")
        )
    assert done == Uploaded(3, repeated=False)
    (request,) = r.peer.requests
    assert request.headers["x-akamai-acs-action"] == "version=1&action=upload&sha256=atend&mtime=atend&size=3"
    assert request.trailers["x-akamai-acs-action"] == "version=1&action=upload&sha256=dd&mtime=9&size=3"
    assert request.trailers["x-akamai-acs-auth-data"].endswith(", 2, user")
    assert is_signed(request.headers, "/1/a")
    assert is_signed(request.trailers, "/1/a")
    assert sorted(request.trailers) == ["x-akamai-acs-action", "x-akamai-acs-auth-data", "x-akamai-acs-auth-sign"]
    assert asked[0] == "guard"
    assert sorted(asked[1:]) == ["at_end", "guard"]


async def test_a_body_shorter_than_promised_never_ends_cleanly() -> None:
    """Neither by length nor chunked does a cut body look whole to the server."""
    async with rig() as (netstorage, r):
        with pytest.raises(ValueError, match="2 "):
            await netstorage.upload("/1/a", stream(b"ab"), size=3)
        with pytest.raises(ValueError, match="2 of 3 bytes"):
            await netstorage.upload("/1/a", stream(b"ab"), size=3, at_end=lambda: AtEnd("dd", 9))
        with pytest.raises(ValueError, match="2 bytes where 3"):
            await netstorage.upload("/1/a", b"ab", size=3)
    assert [request.whole for request in r.peer.requests] == [False, False]


async def test_an_indexed_zip_declares_no_size() -> None:
    """Its stored form differs from what was sent."""
    async with rig() as (netstorage, r):
        await netstorage.upload("/1/a.zip", b"PK", index_zip=True)
    assert r.peer.requests[0].action == {"version": "1", "action": "upload", "index-zip": "1"}


async def test_at_end_takes_the_place_of_what_is_known_before() -> None:
    """Contradicting arguments are a programming error, found before anything is sent."""
    async with rig() as (netstorage, r):
        with pytest.raises(ValueError, match="at_end"):
            await netstorage.upload("/1/a", b"abc", at_end=lambda: AtEnd("dd", 9))
        with pytest.raises(ValueError, match="at_end"):
            await netstorage.upload("/1/a", stream(b"a"), md5="aa", at_end=lambda: AtEnd("dd", 9))
    assert r.peer.requests == []


# --- the guard -------------------------------------------------------------------------------------------------


async def test_a_guard_that_refuses_keeps_everything_unsent() -> None:
    """The lease is checked before the signature: not a byte leaves."""
    async with rig() as (netstorage, r):
        for call in (netstorage.upload("/1/a", b"abc", guard=lost), netstorage.delete("/1/a", guard=lost)):
            with pytest.raises(LeaseLost) as caught:
                await call
            assert not caught.value.ambiguous
    assert r.peer.requests == []


async def test_a_guard_that_refuses_the_trailers_cuts_the_upload() -> None:
    """A lease lost while streaming leaves an unfinished request, which stores nothing."""
    asked = itertools.count()

    def guard() -> None:
        if next(asked) == 1:
            lost()

    async with rig() as (netstorage, r):
        with pytest.raises(LeaseLost):
            await netstorage.upload("/1/a", stream(b"abc"), at_end=lambda: AtEnd("dd", 9), guard=guard)
    assert [request.whole for request in r.peer.requests] == [False]


async def test_a_guard_that_refuses_the_repeat_leaves_the_first_in_doubt() -> None:
    """The error says that something was sent and may land."""
    asked = itertools.count()

    def guard() -> None:
        if next(asked) == 1:
            lost()

    async with rig("reset") as (netstorage, r):
        with pytest.raises(LeaseLost) as caught:
            await netstorage.delete("/1/a", guard=guard)
    assert caught.value.ambiguous
    assert r.peer.actions == ["delete"]


# --- tries: reads ----------------------------------------------------------------------------------------------


async def test_reads_are_tried_again_signed_anew() -> None:
    """A broken connection and a 503 cost a wait each, and every try has its own nonce."""
    async with rig("reset", Reply(503), xml("a")) as (netstorage, r):
        assert await netstorage.stat("/1/a") == Entry("/1/a", "file")
    nonces = [request.headers["x-akamai-acs-auth-data"].split(", ")[4] for request in r.peer.requests]
    assert len(set(nonces)) == 3
    assert all(is_signed(request.headers, "/1/a") for request in r.peer.requests)
    assert r.sleeps == pytest.approx([0.2, 0.6])


async def test_reads_give_up_after_three_tries() -> None:
    """The last refusal is what the caller sees, with action and path."""
    async with rig(Reply(500), Reply(429), Reply(503, b"<p>busy</p>")) as (netstorage, r):
        with pytest.raises(TargetUnavailable, match=r"du /1: .* 503 \(busy\)"):
            await netstorage.du("/1")
    assert len(r.peer.requests) == 3


async def test_a_read_waits_as_long_as_the_server_asks_within_reason() -> None:
    """A short Retry-After is honoured; a long one is the caller's to wait for."""
    async with rig(Reply(429, headers=[("Retry-After", "2")]), xml("a")) as (netstorage, r):
        await netstorage.stat("/1/a")
    assert r.sleeps == [2.0]
    async with rig(Reply(429, headers=[("Retry-After", "60")])) as (netstorage, r):
        with pytest.raises(TargetUnavailable) as caught:
            await netstorage.stat("/1/a")
    assert caught.value.retry_after_s == 60
    assert r.sleeps == []


async def test_a_listing_cut_short_is_read_again() -> None:
    """The body belongs to the try: half a document is no answer."""
    whole = xml("a").body
    cut = Reply(body=whole[:20])
    async with rig(cut, xml("a")) as (netstorage, r):
        assert await netstorage.stat("/1/a") is not None
    assert len(r.peer.requests) == 2


async def test_permanent_refusals_are_not_tried_again() -> None:
    """A 400 stays a 400."""
    async with rig(Reply(400, b"no")) as (netstorage, r):
        with pytest.raises(TargetRefused):
            await netstorage.stat("/1/a")
    assert len(r.peer.requests) == 1


# --- tries: writes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "ambiguous"), [(429, False), (500, False), (502, True), (503, False), (504, True)])
async def test_an_unavailable_answer_to_a_write_goes_to_the_caller(status: int, ambiguous: bool) -> None:
    """Pacing is not the client's; only a gateway's own error leaves the write in doubt."""
    async with rig(Reply(status)) as (netstorage, r):
        with pytest.raises(TargetUnavailable) as caught:
            await netstorage.upload("/1/a", b"abc")
    assert caught.value.ambiguous == ambiguous
    assert len(r.peer.requests) == 1


async def test_a_mismatch_is_a_failed_precondition() -> None:
    """412 to an upload: what arrived is not what was declared."""
    async with rig(Reply(412)) as (netstorage, _):
        with pytest.raises(TargetPrecondition) as caught:
            await netstorage.upload("/1/a", b"abc", md5="00")
    assert caught.value.transient
    assert not caught.value.ambiguous


async def test_small_writes_are_repeated_once_unanswered_and_say_so() -> None:
    """The result carries the doubt: the first one may still land."""
    async with rig("reset", Reply(), "reset", Reply(), "reset", Reply(), "reset", Reply()) as (netstorage, r):
        assert await netstorage.upload("/1/a", b"abc") == Uploaded(3, repeated=True)
        assert await netstorage.delete("/1/a") == Removed(existed=True, repeated=True)
        assert await netstorage.set_mtime("/1/a", 5) == Applied(repeated=True)
        assert await netstorage.symlink("/1/b", "a", mtime_s=4) == Applied(repeated=True)
    assert len(r.peer.requests) == 8
    assert r.peer.requests[5].action == {"version": "1", "action": "mtime", "mtime": "5"}
    assert r.peer.requests[7].action == {"version": "1", "action": "symlink", "target": "a", "mtime": "4"}
    assert all(request.headers["content-length"] == "0" for request in r.peer.requests[2:])


async def test_a_stream_is_never_repeated() -> None:
    """What was consumed cannot be sent again; the error says that it may have landed."""
    async with rig("reset") as (netstorage, r):
        with pytest.raises(ConnectionLost, match="upload /1/a: ") as caught:
            await netstorage.upload("/1/a", stream(b"abc"), size=3)
    assert caught.value.ambiguous
    assert len(r.peer.requests) == 1


async def test_a_write_that_never_gets_an_answer_ends_in_doubt() -> None:
    """After three tries the caller is told, and told that it may land."""
    async with rig("reset", "reset", "reset") as (netstorage, r):
        with pytest.raises(ConnectionLost) as caught:
            await netstorage.delete("/1/a")
    assert caught.value.ambiguous
    assert len(r.peer.requests) == 3


async def test_a_lost_answer_stays_in_doubt_when_the_server_goes_away() -> None:
    """That nothing of the last try was sent does not settle the first."""
    async with rig("reset") as (netstorage, r):
        assert r.peer.server is not None
        r.before_retry = r.peer.server.close
        with pytest.raises(ConnectFailed) as caught:
            await netstorage.delete("/1/a")
    assert caught.value.ambiguous


async def test_a_refusal_after_a_lost_answer_is_still_in_doubt() -> None:
    """The second try's answer says nothing about the first."""
    async with rig("reset", Reply(429)) as (netstorage, _):
        with pytest.raises(TargetUnavailable) as caught:
            await netstorage.upload("/1/a", b"abc")
    assert caught.value.ambiguous


async def test_a_stalled_upload_is_not_repeated_but_a_stalled_delete_is() -> None:
    """A slow store would race its own repeat; a delete does not."""
    async with rig("hang", progress_s=0.6) as (netstorage, r):
        with pytest.raises(Stalled) as caught:
            await netstorage.upload("/1/a", b"abc")
        assert caught.value.ambiguous
        assert len(r.peer.requests) == 1
    async with rig("hang", progress_s=0.6) as (netstorage, r):
        assert await netstorage.delete("/1/a") == Removed(existed=True, repeated=True)


async def test_a_connection_that_cannot_be_made_is_tried_again_even_for_a_stream() -> None:
    """Nothing was sent, so nothing is in doubt; the stream was not touched."""
    begun: list[str] = []

    async def body() -> AsyncIterator[bytes]:
        begun.append("yes")
        yield b"abc"

    made = Rig(Peer())
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        async with made.client(port=port) as netstorage:
            for call in (netstorage.delete("/1/a"), netstorage.upload("/1/a", body(), size=3), netstorage.stat("/1/a")):
                made.sleeps.clear()
                with pytest.raises(ConnectFailed) as caught:
                    await call
                assert not caught.value.ambiguous
                assert len(made.sleeps) == 2
    assert begun == []


async def test_a_certificate_that_is_not_trusted_ends_it_at_once() -> None:
    """TLS is verified, and trying again cannot help."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with Peer().serving(context) as peer:
        async with open_netstorage(f"localhost:{peer.port}", "user", KEY) as netstorage:
            with pytest.raises(TlsRefused):
                await netstorage.delete("/1/a")
        with authority.cert_pem.tempfile() as ca_file:
            async with open_netstorage(f"localhost:{peer.port}", "user", KEY, ca_file=ca_file) as netstorage:
                assert await netstorage.delete("/1/a") == Removed(existed=True)
    assert peer.actions == ["delete"]


@pytest.mark.parametrize(
    ("hostname", "named"),
    [
        ("example-nsu.akamaihd.net", "example-nsu.akamaihd.net"),
        ("10.0.0.1:8080", "10.0.0.1"),
        ("localhost.example.net", "localhost.example.net"),
        ("[2001:db8::1]", "2001:db8::1"),
    ],
)
async def test_plain_http_to_a_host_that_is_not_loopback_is_refused(hostname: str, named: str) -> None:
    """Before anything is sent; the host is named, the key is not."""
    with pytest.raises(ConfigError, match=re.escape(named)) as caught:
        async with open_netstorage(hostname, "user", KEY, insecure_http=True):
            pass
    assert KEY not in caught.value.message + caught.value.hint
    for loopback in ("localhost", "LOCALHOST:81", "127.0.0.2:80", "[::1]:80"):
        async with open_netstorage(loopback, "user", KEY, insecure_http=True) as netstorage:
            assert netstorage.account.scheme == "http"


async def test_a_long_answer_to_a_write_holds_no_connection() -> None:
    """The status is all that counts; its text is not read, and the connection is not kept for it."""
    async with rig(Reply(200, bytes(4 << 20))) as (netstorage, _):
        assert await netstorage.delete("/1/a") == Removed(existed=True)


async def test_any_2xx_is_success() -> None:
    """The documentation says 204, recordings say 200."""
    async with rig(Reply(204), Reply(201)) as (netstorage, _):
        await netstorage.upload("/1/a", b"")
        assert await netstorage.delete("/1/a") == Removed(existed=True)


# --- early answers ---------------------------------------------------------------------------------------------


async def endless() -> AsyncIterator[bytes]:
    """Give more than any buffer holds."""
    while True:
        yield bytes(1 << 18)
        await asyncio.sleep(0)


async def test_an_early_refusal_is_the_verdict() -> None:
    """The server need not take the whole body to refuse it."""
    async with rig(Reply(403, b"no right here", early=True)) as (netstorage, _):
        with pytest.raises(TargetCredentials, match="403") as caught:
            await netstorage.upload("/1/a", endless(), size=1 << 40)
    assert not caught.value.ambiguous


async def test_a_verdict_stands_even_if_its_text_is_cut_off() -> None:
    """The status line is enough; a server that refuses early often closes at once."""
    async with rig(Reply(403, b"no ri", early=True, promised_bytes=100)) as (netstorage, _):
        with pytest.raises(TargetCredentials):
            await netstorage.upload("/1/a", b"abc")


async def test_an_early_success_is_not_believed() -> None:
    """Nobody can have stored and checked what was not sent."""
    async with rig(Reply(200, early=True)) as (netstorage, _):
        with pytest.raises(BadAnswer, match="before it had the whole body") as caught:
            await netstorage.upload("/1/a", endless(), size=1 << 40)
    assert caught.value.ambiguous


# --- clocks ----------------------------------------------------------------------------------------------------


def forbidden(ahead_s: float, *, early: bool = False, meet: asyncio.Barrier | None = None) -> Reply:
    """Refuse with a clock that is ahead of ours."""
    date = formatdate(NOW_S + ahead_s, usegmt=True)
    return Reply(403, b"expired", headers=[("Date", date)], early=early, meet=meet)


@pytest.mark.parametrize("ahead_s", [300, -300])
async def test_a_wrong_clock_is_learned_and_the_call_succeeds(ahead_s: int) -> None:
    """The offset is told once, used at once, and kept."""
    async with rig(forbidden(ahead_s)) as (netstorage, r):
        assert await netstorage.upload("/1/a", b"abc") == Uploaded(3, repeated=False)
        await netstorage.delete("/1/a")
    assert [request.time_s - NOW_S for request in r.peer.requests] == [0, ahead_s, ahead_s]
    assert r.skews == [ahead_s]
    assert netstorage.clock_offset_s == ahead_s
    assert r.sleeps == []


async def test_a_clock_that_is_set_right_again_is_learned_too() -> None:
    """Offsets are measured from the corrected clock, and may go back to nothing."""
    async with rig(forbidden(300), Reply(), forbidden(0), Reply()) as (netstorage, r):
        await netstorage.delete("/1/a")
        await netstorage.delete("/1/a")
    assert r.skews == [300.0, 0.0]
    assert [request.time_s - NOW_S for request in r.peer.requests] == [0, 300, 300, 0]


async def test_many_calls_in_flight_learn_one_offset_once() -> None:
    """The correction is not added up, and the warning not repeated."""
    all_signed = asyncio.Barrier(5)  # else a call's second try may come before another one's first
    async with rig(*[forbidden(300, meet=all_signed)] * 5) as (netstorage, r):
        await asyncio.gather(*(netstorage.delete(f"/1/{n}") for n in range(5)))
    assert r.skews == [300.0]
    assert netstorage.clock_offset_s == 300.0
    assert [request.time_s - NOW_S for request in r.peer.requests] == [0] * 5 + [300] * 5


async def test_403_with_the_right_clock_is_about_credentials() -> None:
    """No second try: it would be refused as well."""
    async with rig(forbidden(29)) as (netstorage, r):
        with pytest.raises(TargetCredentials) as caught:
            await netstorage.upload("/1/a", b"abc")
    assert caught.value.pauses_route
    assert (len(r.peer.requests), r.skews) == (1, [])


async def test_a_clock_that_stays_wrong_is_reported() -> None:
    """One correction per call; what then is refused for its time is a transient clock fault."""
    async with rig(forbidden(300), forbidden(900)) as (netstorage, r):
        with pytest.raises(TargetClock) as caught:
            await netstorage.delete("/1/a")
    assert caught.value.transient
    assert len(r.peer.requests) == 2


async def test_a_consumed_stream_reports_the_clock_and_the_next_one_is_right() -> None:
    """The offset is learned from an early answer; the caller brings a new stream."""
    async with rig(forbidden(300, early=True)) as (netstorage, r):
        with pytest.raises(TargetClock, match=r"\+300 s"):
            await netstorage.upload("/1/a", endless(), size=1 << 40)
        await netstorage.upload("/1/a", stream(b"abc"), size=3)
    assert r.peer.requests[1].time_s == NOW_S + 300


async def test_a_signature_that_lay_about_is_a_clock_fault_without_an_offset() -> None:
    """The clocks agree, the signature was a minute old: sign again, learn nothing."""
    async with Peer().serving() as peer:
        made = Rig(peer)

        def later() -> None:
            made.now_s += 90

        peer.script = [Reply(403, headers=[("Date", formatdate(NOW_S + 90, usegmt=True))], before=later)]
        async with made.client() as netstorage:
            await netstorage.delete("/1/a")
    assert [request.time_s for request in peer.requests] == [NOW_S, NOW_S + 90]
    assert made.skews == []


# --- single actions --------------------------------------------------------------------------------------------


async def test_deleting_what_is_not_there_is_fine() -> None:
    """404 means it did not exist, or that our own first try removed it."""
    async with rig(Reply(404), "reset", Reply(404), Reply(404)) as (netstorage, _):
        assert await netstorage.delete("/1/a") == Removed(existed=False, repeated=False)
        assert await netstorage.delete("/1/a") == Removed(existed=False, repeated=True)
        assert await netstorage.rmdir("/1/d") == Removed(existed=False, repeated=False)


async def test_making_a_directory_that_exists_is_fine_but_not_over_a_file() -> None:
    """FileStore says 409 to both: a stat tells them apart."""
    async with rig(Reply(409), xml("d", kind="dir"), Reply(409), xml("d")) as (netstorage, r):
        await netstorage.mkdir("/1/d")
        with pytest.raises(TargetConflict):
            await netstorage.mkdir("/1/d")
    assert r.peer.actions == ["mkdir", "stat", "mkdir", "stat"]


async def test_a_rename_whose_answer_was_lost_is_recognised() -> None:
    """Source gone and destination there, after a repeat: the first try did it."""
    async with rig("reset", Reply(404), xml("b"), Reply(404)) as (netstorage, r):
        assert await netstorage.rename("/1/a", "/1/b") == Applied(repeated=True)
    assert r.peer.requests[0].action["destination"] == "/1/b"
    assert "destination=%2F1%2Fb" in r.peer.requests[0].headers["x-akamai-acs-action"]
    async with rig("reset", Reply(404), Reply(404)) as (netstorage, _):
        with pytest.raises(TargetMissing):
            await netstorage.rename("/1/a", "/1/b")
    async with rig(Reply(404), xml("b")) as (netstorage, r):
        with pytest.raises(TargetMissing):
            await netstorage.rename("/1/a", "/1/b")
    assert r.peer.actions == ["rename"]


async def test_a_rename_that_found_its_own_destination_is_recognised() -> None:
    """A server may look at the destination first: a repeat then gets 409 for what the first try did."""
    async with rig("reset", Reply(409), xml("b"), Reply(404)) as (netstorage, r):
        assert await netstorage.rename("/1/a", "/1/b") == Applied(repeated=True)
    assert r.peer.actions == ["rename", "rename", "stat", "stat"]
    for replies in ([Reply(409)], ["reset", Reply(409), xml("b"), xml("a")], ["reset", Reply(409), Reply(404)]):
        async with rig(*replies) as (netstorage, _):
            with pytest.raises(TargetConflict):
                await netstorage.rename("/1/a", "/1/b")


async def test_quick_delete_needs_the_path_twice() -> None:
    """Nothing is sent for a mistyped confirmation."""
    async with rig() as (netstorage, r):
        with pytest.raises(ConfigError):
            await netstorage.quick_delete("/1/d", confirm="/1/D")
        assert r.peer.requests == []
        assert await netstorage.quick_delete("/1/d", confirm="/1/d") == Applied()
    assert r.peer.requests[0].action["quick-delete"] == "imreallyreallysure"


async def test_documented_methods_are_used() -> None:
    """PUT for upload, delete, rmdir, mkdir, rename; POST for mtime, symlink, quick-delete; GET for reads."""
    async with rig(*[Reply()] * 6, xml("a")) as (netstorage, r):
        await netstorage.mkdir("/1/d")
        await netstorage.rmdir("/1/d")
        await netstorage.rename("/1/a", "/1/b")
        await netstorage.set_mtime("/1/a", 1)
        await netstorage.symlink("/1/l", "a")
        await netstorage.quick_delete("/1/d", confirm="/1/d")
        await netstorage.stat("/1/a")
    assert [request.method for request in r.peer.requests] == ["PUT", "PUT", "PUT", "POST", "POST", "POST", "GET"]


async def test_stat_tells_what_is_there() -> None:
    """None for nothing; the file before a directory of the same name, unless the path ends in a slash."""
    both = Reply(body=b'<stat directory="/1"><file type="dir" name="a/"/><file type="file" name="a"/></stat>')
    async with rig(Reply(404), xml(), both, both, xml("a")) as (netstorage, r):
        assert await netstorage.stat("/1/a") is None
        assert await netstorage.stat("/1/a") is None
        assert await netstorage.stat("/1/a") == Entry("/1/a", "file")
        assert await netstorage.stat("/1/a/") == Entry("/1/a", "dir")
        await netstorage.stat("/1/a", implicit=True)
    assert r.peer.requests[0].action == {"version": "1", "action": "stat", "format": "xml", "encoding": "utf-8"}
    assert r.peer.requests[4].action["implicit"] == "yes"


async def test_du_adds_up() -> None:
    """Two totals; a missing directory is an error."""
    totals = Reply(body=b'<du directory="/1"><du-info files="2" bytes="30"/></du>')
    async with rig(totals, Reply(404)) as (netstorage, _):
        assert await netstorage.du("/1") == Usage(2, 30)
        with pytest.raises(TargetMissing):
            await netstorage.du("/1/x")


async def test_downloads_stream_and_may_ask_for_a_range() -> None:
    """The range is inclusive on both ends, and open at its end if told so."""
    async with rig(Reply(200, b"abc"), Reply(206, b"bc"), Reply(206, b"b")) as (netstorage, r):
        async with await netstorage.download("/1/a") as answer:
            assert await answer.read() == b"abc"
        for byte_range in ((1, None), (1, 1)):
            async with await netstorage.download("/1/a", byte_range=byte_range) as answer:
                assert answer.status == 206
    assert [request.headers.get("range") for request in r.peer.requests] == [None, "bytes=1-", "bytes=1-1"]


# --- listings --------------------------------------------------------------------------------------------------


async def paths(entries: AsyncIterator[Entry]) -> list[str]:
    """Collect the paths of a listing."""
    return [entry.path async for entry in entries]


async def test_dir_goes_on_where_the_server_stopped() -> None:
    """The resume point comes back as `start`, other bounds stay."""
    async with rig(xml("a", "b", resume="c d"), xml("c d")) as (netstorage, r):
        assert await paths(netstorage.dir("/1", prefix="")) == ["/1/a", "/1/b", "/1/c d"]
    assert r.peer.requests[1].action["start"] == "c d"
    assert [request.target for request in r.peer.requests] == ["/1", "/1"]


async def test_list_stays_inside_its_directory() -> None:
    """It goes on by URL path with the same end, and siblings that sort in between are left out."""
    first = xml("1/d", "1/d-2", "1/d/a", root="list", resume="/1/d/b c")
    second = xml("1/d/b c", "1/d/z", "1/e", root="list")
    async with rig(first, second) as (netstorage, r):
        assert await paths(netstorage.list("/1/d", max_entries=3)) == ["/1/d/a", "/1/d/b c", "/1/d/z"]
    assert [request.target for request in r.peer.requests] == ["/1/d", "/1/d/b%20c"]
    assert [request.action["end"] for request in r.peer.requests] == ["/1/d0", "/1/d0"]
    assert all(request.action["mtime_all"] == "yes" for request in r.peer.requests)
    assert all(request.action["max_entries"] == "3" for request in r.peer.requests)
    assert is_signed(r.peer.requests[1].headers, "/1/d/b%20c")


async def test_a_resume_point_without_leading_slash_is_understood() -> None:
    """Names in lists have none, and a server may treat the resume point alike."""
    async with rig(xml("1/a", root="list", resume="1/b"), xml("1/b", root="list")) as (netstorage, r):
        assert await paths(netstorage.list("/1")) == ["/1/a", "/1/b"]
    assert r.peer.requests[1].target == "/1/b"


async def test_a_listing_that_does_not_advance_is_refused() -> None:
    """It would go on for ever."""
    async with rig(xml("1/a", root="list", resume="/1/b"), xml(root="list", resume="/1/b")) as (netstorage, _):
        with pytest.raises(BadAnswer, match="advance"):
            await paths(netstorage.list("/1"))
    async with rig(xml("a", resume="b"), xml(resume="b")) as (netstorage, _):
        with pytest.raises(BadAnswer, match="advance"):
            await paths(netstorage.dir("/1"))


async def test_list_knows_the_404_of_an_empty_cp_code() -> None:
    """An empty CP code and a rest that was deleted meanwhile are ends; a missing directory is an error."""
    async with rig(Reply(404), Reply(404), xml("1/d/a", root="list", resume="/1/d/b"), Reply(404)) as (netstorage, _):
        assert await paths(netstorage.list("/1")) == []
        with pytest.raises(TargetMissing):
            await paths(netstorage.list("/1/d"))
        assert await paths(netstorage.list("/1/d")) == ["/1/d/a"]


async def test_below_walks_where_there_is_no_list() -> None:
    """FileStore refuses list: directories are read one by one, those that vanish are passed over."""
    files = b'<file type="dir" name="gone"/><file type="dir" name="d"/><file type="file" name="a"/>'
    root = Reply(body=b'<stat directory="/1">' + files + b"</stat>")
    async with rig(Reply(400), root, xml("b", directory="/1/d"), Reply(404)) as (netstorage, r):
        assert await paths(netstorage.below("/1")) == ["/1/gone", "/1/d", "/1/a", "/1/d/b"]
    assert r.peer.actions == ["list", "dir", "dir", "dir"]
    async with rig(Reply(404)) as (netstorage, _):
        with pytest.raises(TargetMissing):
            await paths(netstorage.walk("/1"))


async def test_walk_ends_where_a_child_without_a_name_lists_its_parent_again() -> None:
    """The child of an empty name is an entry like any other, and its listing is never asked for."""
    async with rig(xml("", kind="dir"), xml("", kind="dir"), xml("", kind="dir")) as (netstorage, r):
        assert await paths(netstorage.walk("/1")) == ["/1/"]
        assert await paths(netstorage.walk("/1/")) == ["/1/"]
    assert len(r.peer.requests) == 2


async def test_entries_keep_the_slashes_that_were_asked_for() -> None:
    """Whatever the server makes of them in its answer."""
    async with rig(xml("z", directory="/1/x"), xml("d", directory="/1/x", kind="dir")) as (netstorage, _):
        entry = await netstorage.stat("/1//x//z")
        assert entry == Entry("/1//x//z", "file")
        assert await paths(netstorage.dir("/1//x//")) == ["/1//x//d"]


async def test_a_list_refused_half_way_is_not_begun_again_by_walking() -> None:
    """What was given already would be given twice."""
    async with rig(xml("1/a", root="list", resume="/1/b"), Reply(400)) as (netstorage, r):
        with pytest.raises(TargetRefused):
            await paths(netstorage.below("/1"))
    assert r.peer.actions == ["list", "list"]


async def test_below_lists_where_it_can() -> None:
    """One list action, no dir."""
    async with rig(xml("1/a", root="list")) as (netstorage, r):
        assert await paths(netstorage.below("/1")) == ["/1/a"]
    assert r.peer.actions == ["list"]


async def test_an_endless_listing_is_cut_off() -> None:
    """Memory is bounded whatever the server sends."""
    async with rig(*[Reply(body=b"<stat directory='/1'>" + b" " * (65 << 20))] * 3) as (netstorage, _):
        with pytest.raises(BadAnswer, match="64 MiB"):
            await netstorage.stat("/1/a")


# --- odds and ends ---------------------------------------------------------------------------------------------


async def test_the_key_is_in_no_repr() -> None:
    """Clients end up in logs."""
    async with rig() as (netstorage, _):
        assert KEY not in repr(netstorage)
        assert "user" in repr(netstorage)
