"""The HTTP client against peers that break every rule, on both event loops; each test ends with no connection busy."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

import pytest
import trustme

from hostile import Hostile, Peer, Script, answering, hostile
from s3nsync.errors import (
    BadAnswer,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    Stalled,
    TlsRefused,
    TransportError,
)
from s3nsync.http import Answer, Body, Chunk, Header, Http, Origin, Timeouts, tls_context

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

ROUNDING_S = 1e-6
"""What may get lost where a loop's times are added up. They are compared with no other clock: uvloop's are whole
milliseconds, read once in a turn, so that by another clock a time-out of the loop may end some of them early."""


@contextlib.asynccontextmanager
async def client(
    *, tls: ssl.SSLContext | None = None, max_per_origin: int = 256, **timeouts: float
) -> AsyncIterator[Http]:
    """Give a client; at the end no connection may be busy."""
    settings = Timeouts(**{"connect_s": 30.0, "progress_s": 30.0, **timeouts})
    async with asyncio.timeout(60), Http(tls=tls, timeouts=settings, max_per_origin=max_per_origin) as http:
        yield http
        assert _states(http)[1] == 0, http


def _states(http: Http) -> tuple[int, int]:
    """Read idle and busy connections out of the repr."""
    found = re.findall(r"(\d+) idle, (\d+) busy", repr(http))
    return sum(int(idle) for idle, _ in found), sum(int(busy) for _, busy in found)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that nobody announces; the client's time-out bounds it."""
    while not condition():
        await asyncio.sleep(0.001)


def none() -> Sequence[Header]:
    """Give no headers."""
    return ()


async def get(http: Http, origin: Origin, *, method: str = "GET") -> bytes:
    """Fetch the body."""
    return await (await http.send(origin, method, "/", headers=none)).read()


async def put(http: Http, origin: Origin, body: Body, *, length: int | None = None) -> Answer:
    """Upload a body."""
    return await http.send(origin, "PUT", "/x", headers=none, body=body, length=length)


async def collect(answer: Answer, into: bytearray) -> None:
    """Stream a body into `into`, as far as it comes."""
    async for chunk in answer.chunks():
        into += chunk


async def stream(*chunks: Chunk) -> AsyncIterator[Chunk]:
    """Give the chunks."""
    for chunk in chunks:
        yield chunk


# --- answers


@pytest.mark.parametrize(
    ("raw", "status", "body", "idle"),
    [
        (OK, 200, b"ok", 1),
        (b"HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", 200, b"", 1),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", 1),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", 304, b"", 1),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\nab\r\n1\r\nc\r\n0\r\nX-T: 1\r\n\r\n",
            200,
            b"abc",
            1,
        ),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\n" + OK, 200, b"ok", 1),
        (b"HTTP/1.1 200 OK\r\nUpgrade: h2\r\nConnection: Upgrade\r\nContent-Length: 1\r\n\r\nu", 200, b"u", 1),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nc", 200, b"c", 0),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\no", 200, b"o", 0),
        (OK + b"HTTP/1.1 200 OK\r\n", 200, b"ok", 0),
        (OK + b"surplus", 200, b"ok", 0),
    ],
)
async def test_answers_of_every_shape(raw: bytes, status: int, body: bytes, idle: int) -> None:
    """Status and body are right for each way to frame an answer, and only a clean connection is kept."""
    async with client() as http, hostile(answering(raw)) as server:
        answer = await http.send(server.origin, "GET", "/", headers=none)
        assert (answer.status, await answer.read(), answer.early) == (status, body, False)
        assert answer.reason in ("OK", "No Content", "Not Modified", "")
        assert _states(http) == (idle, 0)


async def test_a_body_that_ends_with_the_connection() -> None:
    """An answer without length ends where the peer closes."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\nall ", b"there is")

    async with client() as http, hostile(script) as server:
        assert await get(http, server.origin) == b"all there is"
        assert _states(http) == (0, 0)


async def test_a_get_after_a_head_uses_the_same_connection() -> None:
    """HEAD ends at the headers, whatever length they announce, and the connection serves on."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\nETag: x\r\n\r\n"
    chunked = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with client() as http, hostile(answering(head, OK, chunked, OK)) as server:
        for _ in range(2):
            assert await get(http, server.origin, method="HEAD") == b""
            assert await get(http, server.origin) == b"ok"
        assert server.accepted == 1


@pytest.mark.parametrize("rest", [b"ok", b"2\r\nab\r\n0\r\n\r\n", b"0\r\n\r\n", b"f"])
async def test_a_body_after_a_head_spoils_the_connection(rest: bytes) -> None:
    """A peer that sends a body for HEAD is not listened to again."""
    raw = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" if rest != b"ok" else OK[:-2]
    async with client() as http, hostile(answering(raw + rest)) as server:
        assert await get(http, server.origin, method="HEAD") == b""
        assert _states(http) == (0, 0)


async def test_headers_are_a_case_insensitive_mapping() -> None:
    """Header fields are found in any case, repeated ones are joined, all stay visible in order; values not in repr."""
    raw = b'HTTP/1.1 200 Fine\r\nETag: "e"\r\nX-A: 1\r\nx-a: \xe9\r\nContent-Length: 0\r\n\r\n'
    async with client() as http, hostile(answering(raw)) as server:
        answer = await http.send(server.origin, "GET", "/", headers=none)
        assert answer.reason == "Fine"
        assert (answer.headers.get("etag"), answer.headers["X-a"], answer.headers.get("no")) == ('"e"', "1, é", None)
        assert answer.headers.pairs[1:3] == (("X-A", "1"), ("x-a", "é"))
        assert list(answer.headers) == ["etag", "x-a", "content-length"]
        assert len(answer.headers) == 3
        assert "é" not in repr(answer.headers)
        assert "complete" in repr(answer)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok",
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 129 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 66_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3000,
        b"HTTP/1.1 199 Hints\r\nContent-Length: 2\r\n\r\nno" + OK,
    ],
)
async def test_what_is_not_http_is_refused(raw: bytes) -> None:
    """Garbage, ambiguous framing, unasked-for codings and endless heads are BadAnswer, and the connection is cut."""
    async with client() as http, hostile(answering(raw)) as server:
        with pytest.raises(BadAnswer) as caught:
            await get(http, server.origin)
        assert caught.value.sent
        assert _states(http) == (0, 0)


@pytest.mark.parametrize("raw", [b"zz\r\n", b"0\r\nX: " + b"t" * 66_000])
async def test_a_body_that_turns_bad_is_refused(raw: bytes) -> None:
    """Nonsense within a chunked body, and trailers without end, are BadAnswer after what came before."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n"

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(head, raw, pause_s=0.02)
        await peer.rest()

    async with client() as http, hostile(script) as server:
        answer = await http.send(server.origin, "GET", "/", headers=none)
        got = bytearray()
        with pytest.raises(BadAnswer):
            await collect(answer, got)
        assert got == b"a"


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\n",
    ],
)
async def test_a_cut_body_is_never_a_clean_end(raw: bytes) -> None:
    """A body that stops before its announced end gives what came, then ConnectionLost."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(raw)

    async with client() as http, hostile(script) as server:
        answer = await http.send(server.origin, "GET", "/", headers=none)
        got = bytearray()
        with pytest.raises(ConnectionLost, match="within the answer"):
            await collect(answer, got)
        assert got == b"short"


@pytest.mark.parametrize("announced", [True, False])
async def test_read_has_a_limit(announced: bool) -> None:
    """`read` refuses a body above its limit, announced or not, and cuts the connection."""
    raw = b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 300000\r\n\r\n" if announced else b"\r\n") + b"x" * 300_000
    async with client() as http, hostile(answering(raw, OK)) as server:
        with pytest.raises(BadAnswer, match="longer than 1000 bytes"):
            await (await http.send(server.origin, "GET", "/", headers=none)).read(1000)


@pytest.mark.parametrize(("size", "reused"), [(40_000, True), (4_000_000, False)])
async def test_closing_an_unread_answer(size: int, reused: bool) -> None:
    """A small rest is drained and the connection kept, a large one costs the connection."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size, b"x" * size, pause_s=0.05)
        await peer.head()
        await peer.send(OK)

    async with client() as http, hostile(script) as server:
        async with await http.send(server.origin, "GET", "/", headers=none) as answer:
            assert answer.status == 200
        assert _states(http) == (int(reused), 0)


async def test_closing_an_answer_whose_last_bytes_are_unread() -> None:
    """It is what is left that counts: after most of a large body was read, the connection is kept."""
    async with (
        client() as http,
        hostile(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n" + bytes(900_000))) as server,
    ):
        async with await http.send(server.origin, "GET", "/", headers=none) as answer:
            size = 0
            async for chunk in answer.chunks():
                size += len(chunk)
                if size > 860_000:
                    break
        assert _states(http) == (1, 0)


async def test_closing_does_not_wait_for_a_slow_rest() -> None:
    """Draining is given up after a second, long before the peer counts as stalled."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
        await peer.rest()

    async with client(progress_s=50.0) as http, hostile(script) as server:
        answer = await http.send(server.origin, "GET", "/", headers=none)
        began_s = time.monotonic()
        await answer.aclose()
        assert time.monotonic() - began_s < 25
        assert _states(http) == (0, 0)


# --- early answers


def _large_bodies() -> Iterator[tuple[Body, int | None]]:
    size = 64 << 20
    chunk = bytes(1 << 20)
    yield bytes(size), None
    yield stream(*[chunk] * 64), size
    yield stream(*[chunk] * 64), None


@pytest.mark.parametrize("which", [0, 1, 2])
async def test_an_early_answer_ends_the_upload(which: int) -> None:
    """An answer that comes during a PUT stops the sending, is returned as `early`, and spends the connection."""
    body, length = list(_large_bodies())[which]
    received: list[int] = []

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.exactly(100_000)
        await peer.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\n", b"no!", pause_s=0.05)
        received.append(len(await peer.rest()))

    async with client() as http, hostile(script) as server:
        async with await put(http, server.origin, body, length=length) as answer:
            assert (answer.status, answer.early, await answer.read()) == (403, True, b"no!")
        assert _states(http) == (0, 0)
        await until(lambda: bool(received))
    assert received[0] < 40 << 20


async def test_an_answer_after_the_last_byte_is_not_early() -> None:
    """An answer that overtakes the end of the caller's iterator, but not its last byte, is an ordinary one."""
    answered = asyncio.Event()
    states: list[tuple[int, int]] = []

    async def body() -> AsyncIterator[bytes]:
        yield b"all"
        await answered.wait()
        [connection] = http._pools[server.origin].sockets
        await until(lambda: connection.exchange is not None and connection.exchange.complete)
        states.append(_states(http))

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.exactly(3)
        await peer.send(OK)
        answered.set()
        await peer.rest()

    async with client() as http, hostile(script) as server:
        answer = await put(http, server.origin, body(), length=3)
        assert (answer.early, await answer.read()) == (False, b"ok")
        assert states == [(0, 1)]
        assert _states(http) == (1, 0)


# --- dead connections


async def test_a_close_without_answer_is_reported_not_repeated() -> None:
    """On a new connection even a GET is sent once: ConnectionLost with sent and not reused."""

    async def script(peer: Peer) -> None:
        await peer.head()

    async with client() as http, hostile(script) as server:
        with pytest.raises(ConnectionLost, match="before any answer") as caught:
            await get(http, server.origin)
        assert (caught.value.sent, caught.value.reused, server.accepted) == (True, False, 1)


async def _one_then_cut(peer: Peer) -> None:
    """Serve one request on the first connection and drop the second one; serve all on later connections."""
    await peer.head()
    await peer.send(OK)
    await peer.head()
    if peer.number > 1:
        await peer.send(OK)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_stale_connection_costs_a_get_nothing(method: str) -> None:
    """A GET or HEAD whose reused connection dies unanswered is sent again on a new one, with headers made anew."""
    made: list[int] = []

    def headers() -> list[Header]:
        made.append(len(made))
        return [("X-Try", str(len(made)))]

    async with client() as http, hostile(_one_then_cut) as server:
        await get(http, server.origin)
        answer = await http.send(server.origin, method, "/", headers=headers)
        assert (answer.status, made, server.accepted) == (200, [0, 1], 2)
        await answer.aclose()


@pytest.mark.parametrize("body", [None, b"", b"x"])
async def test_a_stale_connection_is_told_to_everybody_else(body: bytes | None) -> None:
    """A request that is no plain GET is not repeated: ConnectionLost with reused says what happened."""
    async with client() as http, hostile(_one_then_cut) as server:
        await get(http, server.origin)
        with pytest.raises(ConnectionLost) as caught:
            await http.send(server.origin, "POST", "/", headers=none, body=body)
        assert (caught.value.sent, caught.value.reused, server.accepted) == (True, True, 1)


async def test_a_get_is_repeated_once_only() -> None:
    """If the new connection dies too, that is reported."""

    async def script(peer: Peer) -> None:
        await peer.head()
        if peer.number == 1:
            await peer.send(OK)
            await peer.head()

    async with client() as http, hostile(script) as server:
        await get(http, server.origin)
        with pytest.raises(ConnectionLost) as caught:
            await get(http, server.origin)
        assert (caught.value.reused, server.accepted) == (False, 2)


async def test_a_get_with_half_an_answer_is_not_repeated() -> None:
    """Once a byte of the answer came, the connection was not stale."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        await peer.head()
        await peer.send(b"HTTP/1.1 2")

    async with client() as http, hostile(script) as server:
        await get(http, server.origin)
        with pytest.raises(ConnectionLost) as caught:
            await get(http, server.origin)
        assert (caught.value.reused, server.accepted) == (True, 1)


@pytest.mark.parametrize("parting", [b"", b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n"])
async def test_an_idle_connection_that_stirs_is_dropped(parting: bytes) -> None:
    """A peer's close or unasked-for bytes on an idle connection drop it: even a POST then gets a new one."""
    rests = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(OK)
        if peer.number == 1:
            await rests.wait()
            await peer.send(parting)
            if parting:
                await peer.rest()
        else:
            await peer.rest()

    async with client(idle_s=60) as http, hostile(script) as server:
        assert await get(http, server.origin, method="POST") == b"ok"
        assert _states(http) == (1, 0)
        rests.set()
        await until(lambda: _states(http) == (0, 0))
        assert await get(http, server.origin, method="POST") == b"ok"
        assert server.accepted == 2


async def test_idle_connections_expire() -> None:
    """A connection that has rested for `idle_s` is closed by us, and not before."""
    loop = asyncio.get_running_loop()
    async with client(idle_s=0.2, progress_s=600.0) as http, hostile(answering(OK, OK)) as server:
        await get(http, server.origin)
        await asyncio.sleep(0.1)
        used_s = loop.time()  # the connection notes its use after this, by the same clock
        await get(http, server.origin)
        await until(lambda: _states(http) == (0, 0))
        assert loop.time() - used_s >= 0.2 - ROUNDING_S


async def test_use_begins_the_rest_anew() -> None:
    """Each look at a connection lets it live that has rested for less than `idle_s` since it was last in use."""
    async with client(idle_s=600.0, progress_s=6000.0) as http, hostile(answering(OK, OK)) as server:
        for _ in range(2):
            await get(http, server.origin)
            connection = http._pools[server.origin].idle[0]
            connection._moved_s -= 400
            connection._look()
            assert _states(http) == (1, 0)
        assert server.accepted == 1
        connection._moved_s -= 250
        connection._look()
        assert _states(http) == (0, 0)


async def test_what_was_sent_before_a_rest_does_not_make_it_longer() -> None:
    """The first look at a connection that rests ends it, though bytes were written since the last look."""
    async with client(idle_s=60) as http, hostile(answering(OK)) as server:
        await get(http, server.origin)
        connection = http._pools[server.origin].idle[0]
        connection._moved_s -= 61
        connection._look()
        assert _states(http) == (0, 0)


@pytest.mark.parametrize("asked", ["close", "Keep-Alive, CLOSE"])
async def test_our_own_connection_close_is_honoured(asked: str) -> None:
    """A request with `Connection: close` does not leave its connection in the pool."""
    async with client() as http, hostile(answering(OK)) as server:
        answer = await http.send(server.origin, "GET", "/", headers=lambda: [("connection", asked)])
        assert await answer.read() == b"ok"
        assert _states(http) == (0, 0)


# --- the watchdog


def _stalls() -> dict[str, Script]:
    async def never_answers(peer: Peer) -> None:
        await peer.rest()

    async def stops_in_the_head(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-")
        await peer.rest()

    async def stops_in_the_body(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
        await peer.rest()

    async def does_not_read(_peer: Peer) -> None:
        await asyncio.sleep(30)

    return {f.__name__: f for f in (never_answers, stops_in_the_head, stops_in_the_body, does_not_read)}


@pytest.mark.parametrize("name", _stalls())
async def test_a_peer_that_stands_still_is_given_up(name: str) -> None:
    """No byte in either direction for `progress_s` is Stalled, at every stage of a request."""
    body = bytes(32 << 20) if name == "does_not_read" else b"small"
    loop = asyncio.get_running_loop()
    async with client(progress_s=60.0) as http, hostile(_stalls()[name]) as server:
        began_s = loop.time()
        with pytest.raises(Stalled) as caught:
            await (await http.send(server.origin, "PUT", "/", headers=none, body=body, progress_s=0.2)).read()
        assert 0.2 - ROUNDING_S <= loop.time() - began_s < 30
        assert caught.value.sent
        assert _states(http) == (0, 0)


# The three that follow have their peer or caller go slowly for longer than a stall may go unnoticed, twice PATIENCE_S,
# in steps so much shorter than it that a machine which stands still for a while does not make a stall of one.
PATIENCE_S = 1.2


async def test_a_slow_drip_is_not_a_stall() -> None:
    """A peer that moves a byte now and then lives, however long the whole takes."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(*[bytes([byte]) for byte in OK], pause_s=0.08)
        await peer.rest()

    async with client(progress_s=PATIENCE_S) as http, hostile(script) as server:
        began_s = time.monotonic()
        assert await get(http, server.origin) == b"ok"
        assert time.monotonic() - began_s > 2 * PATIENCE_S


async def test_a_slow_reader_is_not_a_stall() -> None:
    """A peer that takes an upload slowly but steadily lives."""
    size = 28 << 20

    async def script(peer: Peer) -> None:
        peer.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
        await peer.head()
        for _ in range(size >> 20):
            await peer.exactly(1 << 20)
            await asyncio.sleep(0.1)
        await peer.send(OK)
        await peer.rest()

    async with client(progress_s=PATIENCE_S) as http, hostile(script) as server:
        began_s = time.monotonic()
        assert await (await put(http, server.origin, bytes(size))).read() == b"ok"
        assert time.monotonic() - began_s > 2 * PATIENCE_S


async def test_waiting_for_the_caller_is_not_a_stall() -> None:
    """While the caller's iterator thinks, or its answer lies unread, the watchdog's clock stands still."""

    async def think() -> None:
        await asyncio.sleep(2.5 * PATIENCE_S)

    async def before_a_chunk() -> AsyncIterator[bytes]:
        yield b"a"
        await think()
        yield b"b"

    async def before_the_end() -> AsyncIterator[bytes]:
        yield b"ab"
        await think()

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.exactly(2)
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 8000000\r\n\r\n" + bytes(8_000_000))
        await peer.rest()

    async with client(progress_s=PATIENCE_S) as http, hostile(script) as server:

        async def upload(body: Body, *, then: Callable[[], Awaitable[None]] | None = None) -> None:
            answer = await put(http, server.origin, body, length=2)
            if then is not None:
                await then()
            assert len(await answer.read(8_000_000)) == 8_000_000

        await asyncio.gather(upload(before_a_chunk()), upload(before_the_end()), upload(b"ab", then=think))


# --- back-pressure


async def test_an_unread_answer_holds_little_memory() -> None:
    """Reading pauses a little above the window; what is read then arrives whole."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 20000000\r\n\r\n" + bytes(20_000_000))
        await peer.rest()

    async with client() as http, hostile(script) as server:
        answer = await http.send(server.origin, "GET", "/", headers=none)
        size = 0
        async for chunk in answer.chunks():
            size += len(chunk)
            if size % 5 == 0:
                await asyncio.sleep(0.001)
            assert answer._unread_bytes <= 512 << 10
        assert size == 20_000_000
        assert _states(http) == (1, 0)


async def test_a_peer_that_does_not_read_holds_the_iterator_back_and_cancelling_cuts() -> None:
    """The caller's iterator is not asked for more than the socket takes; a cancelled send cuts its connection."""
    given = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal given
        while True:
            given += 1 << 18
            yield bytes(1 << 18)

    may_read, ended = asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        await may_read.wait()
        assert not (await peer.rest()).endswith(b"0\r\n\r\n")
        ended.set()

    async with client() as http, hostile(script) as server:
        task = asyncio.ensure_future(put(http, server.origin, body()))
        before = -1
        while before != given or not given:  # the connection may take longer than that
            before = given
            await asyncio.sleep(0.1)
        assert 0 < before < 20 << 20
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert given == before
        assert _states(http) == (0, 0)
        may_read.set()
        await ended.wait()


# --- what goes out


Trailers = Callable[[], Sequence[Header]] | None


async def _wire(
    expected: bytes, body: Body | None, *, method: str = "PUT", length: int | None = None, trailers: Trailers = None
) -> bytes:
    """Return as many of a request's bytes as are expected."""
    received: list[bytes] = []

    async def script(peer: Peer) -> None:
        received.append(await peer.exactly(len(expected)))
        await peer.send(OK)
        await peer.rest()

    def headers() -> list[Header]:
        return [("Host", "h"), ("X-Sign", "s=/+")]

    async with client() as http, hostile(script) as server:
        answer = await http.send(
            server.origin, method, "/a//../b%20?x&y=#", headers=headers, body=body, length=length, trailers=trailers
        )
        assert await answer.read() == b"ok"
        assert not answer.early
        assert _states(http) == (1, 0)
    return received[0]


HEAD = b"PUT /a//../b%20?x&y=# HTTP/1.1\r\nHost: h\r\nX-Sign: s=/+\r\n"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_bytes_bodies_on_the_wire(kind: type[bytes]) -> None:
    """A bytes-like body goes out with its length, small or large."""
    for size in (0, 5, 70_000, 600_000):
        data = bytes(i % 251 for i in range(size))
        expected = HEAD + b"Content-Length: %d\r\n\r\n" % size + data
        assert await _wire(expected, kind(data)) == expected


async def test_streams_on_the_wire() -> None:
    """A stream goes out as announced, or in chunks followed by the trailers made after the last of them."""
    order: list[str] = []

    async def body() -> AsyncIterator[Chunk]:
        yield b"abc"
        yield b""
        yield memoryview(bytearray(b"defghijklmnop"))
        order.append("end")

    def trailers() -> list[Header]:
        order.append("trailers")
        return [("X-Akamai-ACS-Action", "sha256=1"), ("X-Akamai-ACS-Auth-Sign", "a=")]

    counted = HEAD + b"Content-Length: 16\r\n\r\nabcdefghijklmnop"
    assert await _wire(counted, body(), length=16) == counted
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nd\r\ndefghijklmnop\r\n0\r\n"
    assert await _wire(chunked + b"\r\n", body()) == chunked + b"\r\n"
    order.clear()
    signed = chunked + b"X-Akamai-ACS-Action: sha256=1\r\nX-Akamai-ACS-Auth-Sign: a=\r\n\r\n"
    assert await _wire(signed, body(), trailers=trailers) == signed
    assert order == ["end", "trailers"]


async def test_requests_without_body_on_the_wire() -> None:
    """PUT and POST without body announce a length of zero, GET and DELETE announce nothing."""
    for method in ("PUT", "POST", "GET", "DELETE"):
        line = HEAD.replace(b"PUT", method.encode())
        expected = line + (b"Content-Length: 0\r\n" if method in ("PUT", "POST") else b"") + b"\r\n"
        assert await _wire(expected, None, method=method) == expected


async def test_the_host_header_is_added_when_missing() -> None:
    """Host is the origin's authority, port included where it is not the scheme's."""
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        heads.append(await peer.head())
        await peer.send(OK)
        await peer.rest()

    async with client() as http, hostile(script) as server:
        await get(http, server.origin)
        assert heads == [f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{server.origin.port}\r\n\r\n".encode()]


@pytest.mark.parametrize(
    "field",
    [("X", "a\r\nY: b"), ("X", "a\nb"), ("X", "a\rb"), ("X", "\0"), ("X", "€"), ("X Y", ""), ("X:", ""), ("", "a"),
     ("É", "a"), ("X\r\nY", "a"), ("Content-Length", "3"), ("transfer-encoding", "chunked")],
)  # fmt: skip
async def test_headers_cannot_forge_a_request(field: Header) -> None:
    """Line breaks, NUL, characters beyond Latin-1, bad names and framing of the caller's own are refused unsent."""
    async with client() as http, hostile(answering(OK)) as server:
        with pytest.raises(ValueError, match=r"head|length|client") as caught:
            await http.send(server.origin, "GET", "/", headers=lambda: [field])
        assert "Y: b" not in str(caught.value)
        assert await get(http, server.origin) == b"ok"
        assert server.accepted == 1


@pytest.mark.parametrize("target", ["", "x", "/a b", "/é", "/a\r\nb", "http://h/", "/\x7f"])
async def test_targets_that_are_none_are_refused(target: str) -> None:
    """A target is printable ASCII and begins with a slash."""
    async with client() as http:
        with pytest.raises(ValueError, match="not a request target"):
            await http.send(Origin("http", "h", 1), "GET", target, headers=none)


async def test_arguments_that_contradict_each_other_are_refused() -> None:
    """Lengths must fit the body, and trailers need chunks."""
    origin = Origin("http", "h", 1)
    async with client() as http:
        with pytest.raises(ValueError, match="a length of 4"):
            await http.send(origin, "PUT", "/", headers=none, body=b"abc", length=4)
        with pytest.raises(ValueError, match="a length of 4"):
            await http.send(origin, "PUT", "/", headers=none, length=4)
        for body, length in ((b"abc", None), (None, None), (stream(b"abc"), 3)):
            with pytest.raises(ValueError, match="trailers"):
                await http.send(origin, "PUT", "/", headers=none, body=body, length=length, trailers=none)
        with pytest.raises(ValueError, match="not a header name or method"):
            await http.send(origin, "GET /", "/", headers=none)


class Broken(Exception):
    """What a caller's own code may raise."""


async def _breaking() -> AsyncIterator[bytes]:
    yield b"abc"
    raise Broken


def _raising() -> Sequence[Header]:
    raise Broken


@pytest.mark.parametrize(
    ("body", "length", "trailers", "error"),
    [
        (_breaking, None, None, Broken),
        (_breaking, 6, None, Broken),
        (lambda: stream(b"abc"), 4, None, ValueError),
        (lambda: stream(b"abc", b"de"), 4, None, ValueError),
        (lambda: stream(b"abc"), None, _raising, Broken),
        (lambda: stream(b"abc"), None, lambda: [("a", "\n")], ValueError),
        (lambda: stream(b"abc"), None, lambda: [("a b", "")], ValueError),
    ],
)
async def test_a_body_that_fails_never_ends_cleanly(
    body: Callable[[], AsyncIterator[bytes]], length: int | None, trailers: Trailers, error: type[Exception]
) -> None:
    """When iterator or trailers fail, or the count is wrong, the connection is cut without an end of the body."""
    received: list[bytes] = []

    async def script(peer: Peer) -> None:
        await peer.head()
        received.append(await peer.rest())

    async with client() as http, hostile(script) as server:
        with pytest.raises(error):
            await http.send(
                server.origin,
                "PUT",
                "/",
                headers=none,
                body=body(),
                length=length,
                trailers=trailers,
            )
        assert _states(http) == (0, 0)
        await until(lambda: bool(received))
    assert received[0] in ((b"abc", b"") if length else (b"3\r\nabc\r\n", b""))


async def test_a_break_during_an_upload_stops_asking_the_iterator() -> None:
    """Once the connection is gone the caller's iterator, endless here, is left alone: the loss is told."""

    async def body() -> AsyncIterator[bytes]:
        while True:
            yield b"x"
            await asyncio.sleep(0.001)

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.exactly(1)

    async with client() as http, hostile(script) as server:
        with pytest.raises(ConnectionLost, match="before any answer"):
            await put(http, server.origin, body(), length=1 << 40)


async def test_headers_that_raise_cost_nothing() -> None:
    """What `headers` raises passes through and the connection, new or used, serves on."""
    async with client() as http, hostile(answering(OK, OK)) as server:
        for _ in range(2):
            with pytest.raises(Broken):
                await http.send(server.origin, "PUT", "/", headers=_raising, body=b"x")
            assert _states(http) == (1, 0)
            assert await get(http, server.origin) == b"ok"
        assert server.accepted == 1


# --- the pool


class Holding:
    """A script that answers a request only when it is told to."""

    def __init__(self) -> None:
        """Begin with nothing arrived, and every answer held."""
        self._arrivals = asyncio.Semaphore(0)
        self._answers = asyncio.Semaphore(0)

    async def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        while True:
            await peer.head()
            self._arrivals.release()
            await self._answers.acquire()
            await peer.send(OK)

    async def one_more(self) -> None:
        """Wait until one more request's head is in."""
        await self._arrivals.acquire()

    def answer(self, count: int = 1) -> None:
        """Let so many answers go, to those requests that came first."""
        for _ in range(count):
            self._answers.release()


async def test_the_pool_has_a_limit_and_serves_in_order() -> None:
    """Never more than `max_per_origin` connections; those who wait are served first come, first served."""
    order: list[int] = []
    holding = Holding()

    def headers(number: int) -> Sequence[Header]:
        order.append(number)
        return ()

    async def one(http: Http, server: Hostile, number: int) -> None:
        answer = await http.send(server.origin, "GET", "/", headers=lambda: headers(number))
        await answer.read()

    async with client(max_per_origin=2) as http, hostile(holding) as server:
        async with asyncio.TaskGroup() as group:
            for number in range(8):
                group.create_task(one(http, server, number))
            await holding.one_more()
            await holding.one_more()
            assert _states(http) == (0, 2)
            holding.answer(8)
        assert sorted(order[:2]) == [0, 1]
        assert order[2:] == [2, 3, 4, 5, 6, 7]
        assert server.accepted == 2


@pytest.mark.parametrize("moment", ["in the queue", "with its turn", "while served"])
async def test_waiters_may_be_cancelled(moment: str) -> None:
    """A waiter that is cancelled, at whatever moment, leaves no slot taken and harms nobody behind it."""
    holding = Holding()
    async with client(max_per_origin=1) as http, hostile(holding) as server:
        tasks = [asyncio.ensure_future(get(http, server.origin)) for _ in range(12)]
        for kept, cancelled in zip(tasks[::2], tasks[1::2], strict=True):
            await holding.one_more()
            if moment == "in the queue":
                cancelled.cancel()
                holding.answer()
            elif moment == "with its turn":
                queue = http._pools[server.origin]._waiting
                before = len(queue)
                holding.answer()
                while len(queue) == before:
                    await asyncio.sleep(0)
                cancelled.cancel()
            else:
                holding.answer()
                await holding.one_more()
                cancelled.cancel()
                holding.answer()
            assert await kept == b"ok"
            with pytest.raises(asyncio.CancelledError):
                await cancelled
        assert _states(http)[1] == 0
        holding.answer()
        assert await get(http, server.origin) == b"ok"


async def test_the_last_used_connection_is_used_first() -> None:
    """Reuse is last in, first out, so that surplus connections can expire."""
    served: list[int] = []
    may_answer = [asyncio.Event(), asyncio.Event()]

    async def script(peer: Peer) -> None:
        while True:
            await peer.head()
            served.append(peer.number)
            await may_answer[peer.number - 1].wait()
            await peer.send(OK)

    async with client() as http, hostile(script) as server:
        both = asyncio.gather(get(http, server.origin), get(http, server.origin))
        await until(lambda: len(served) == 2)
        may_answer[0].set()
        await until(lambda: _states(http) == (1, 1))
        may_answer[1].set()
        await both
        served.clear()
        for _ in range(3):
            await get(http, server.origin)
        assert served == [2, 2, 2]


async def test_a_repeat_does_not_try_another_idle_connection() -> None:
    """Where one idle connection was stale the others are too: the repeat goes over a new one at once."""
    made: list[int] = []
    arrived = asyncio.Barrier(2)

    def headers() -> Sequence[Header]:
        made.append(1)
        return ()

    async def script(peer: Peer) -> None:
        await peer.head()
        if peer.number <= 2:
            await arrived.wait()
        await peer.send(OK)
        await peer.head()

    async with client() as http, hostile(script) as server:
        await asyncio.gather(get(http, server.origin), get(http, server.origin))
        assert _states(http) == (2, 0)
        answer = await http.send(server.origin, "GET", "/", headers=headers)
        assert (await answer.read(), len(made), server.accepted) == (b"ok", 2, 3)


async def test_a_repeat_keeps_to_the_limit() -> None:
    """If the pool has filled up when a repeat's turn comes, its new connection takes the place of an idle one."""
    open_then: list[int] = []
    arrived, both_again, third, fourth = asyncio.Barrier(2), asyncio.Barrier(2), asyncio.Event(), asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.head()
        if peer.number <= 2:
            await arrived.wait()
        else:
            open_then.append(sum(_states(http)))
            (third, fourth)[peer.number - 3].set()
            await fourth.wait()
        await peer.send(OK)
        await peer.head()
        await both_again.wait()
        if peer.number == 2:
            await third.wait()
            await peer.send(OK)
            await peer.rest()

    async with client(max_per_origin=2) as http, hostile(script) as server:
        await asyncio.gather(*[get(http, server.origin) for _ in range(2)])
        # One of these finds its connection dead, one is served late, one takes the slot of the dead connection.
        assert await asyncio.gather(*[get(http, server.origin) for _ in range(3)]) == [b"ok"] * 3
        assert server.accepted == 4
        assert open_then == [2, 2]


async def test_a_closing_connection_is_not_taken() -> None:
    """A connection that is closing is passed over, even before the event loop has told us."""
    async with client() as http, hostile(answering(OK)) as server:
        await get(http, server.origin)
        http._pools[server.origin].idle[0].transport.abort()
        assert await get(http, server.origin, method="POST") == b"ok"
        assert server.accepted == 2


async def test_closing_the_client() -> None:
    """Closing fails what is under way with ConnectionLost and what waits or comes later with ConnectFailed."""
    holding = Holding()
    async with client(max_per_origin=1) as http, hostile(holding) as server:
        first, second = (asyncio.ensure_future(get(http, server.origin)) for _ in range(2))
        await holding.one_more()
        await http.aclose()
        results = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(result) for result in results] == [ConnectionLost, ConnectFailed]
        for origin in (server.origin, Origin("http", "localhost", 1)):
            with pytest.raises(ConnectFailed, match="closed"):
                await get(http, origin)
        assert "closed" in repr(http)


# --- connecting


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Make a certificate authority."""
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    """Make a server's TLS context for localhost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def test_tls_is_verified_and_names_the_host(authority: trustme.CA, server_tls: ssl.SSLContext) -> None:
    """A known authority is accepted; the host name is announced (SNI) and HTTP/1.1 is agreed on (ALPN)."""
    names: list[str | None] = []
    protocols: list[str | None] = []
    server_tls.sni_callback = lambda _socket, name, _context: names.append(name)

    async def script(peer: Peer) -> None:
        protocols.append(peer.writer.get_extra_info("ssl_object").selected_alpn_protocol())
        await answering(OK, OK)(peer)

    with authority.cert_pem.tempfile() as ca_file:
        context = tls_context(ca_file)
    async with client(tls=context) as http, hostile(script, tls=server_tls) as server:
        assert [await get(http, server.origin) for _ in range(2)] == [b"ok", b"ok"]
        assert server.accepted == 1
        await asyncio.sleep(0)
    assert (names, protocols) == (["localhost"], ["http/1.1"])


async def test_an_unknown_authority_is_refused(server_tls: ssl.SSLContext) -> None:
    """A certificate that nobody vouches for is TlsRefused, permanent, and nothing was sent."""
    async with client() as http, hostile(answering(OK), tls=server_tls) as server:
        with pytest.raises(TlsRefused) as caught:
            await get(http, server.origin)
        assert (caught.value.sent, caught.value.transient, caught.value.hint) == (False, False, TlsRefused.default_hint)


async def test_another_name_is_refused(authority: trustme.CA, server_tls: ssl.SSLContext) -> None:
    """A certificate for another host is TlsRefused."""
    context = tls_context()
    authority.configure_trust(context)
    async with client(tls=context) as http, hostile(answering(OK), tls=server_tls) as server:
        with pytest.raises(TlsRefused, match="not valid for"):
            await get(http, Origin("https", "127.0.0.1", server.origin.port))


def _serving_tls(authority: trustme.CA, version: ssl.TLSVersion) -> tuple[ssl.SSLContext, list[bool]]:
    """Make a server's context, with ticket keys of its own, and a list for `_tells_of_sessions`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    context.maximum_version = version
    return context, []


def _tells_of_sessions(resumed: list[bool]) -> Script:
    """Answer one request a connection, and note whether its handshake went on with an earlier one."""

    async def script(peer: Peer) -> None:
        resumed.append(peer.writer.get_extra_info("ssl_object").session_reused)
        await peer.head()
        await peer.send(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))

    return script


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_the_next_connection_goes_on_with_the_tls_session(authority: trustme.CA, version: ssl.TLSVersion) -> None:
    """One full handshake for many connections; one more for a server that has forgotten, whose session is kept then."""
    context = tls_context()
    authority.configure_trust(context)
    for _ in range(2):  # the second server has other keys, as one that was restarted
        served, resumed = _serving_tls(authority, version)
        async with client(tls=context) as http, hostile(_tells_of_sessions(resumed), tls=served) as server:
            assert [await get(http, server.origin) for _ in range(3)] == [b"ok"] * 3
        assert resumed == [False, True, True]


async def test_a_session_vouches_for_no_other_name(authority: trustme.CA) -> None:
    """A host that is asked for by a name which its certificate does not have is refused, whatever sessions are kept."""
    context = tls_context()
    authority.configure_trust(context)
    served, resumed = _serving_tls(authority, ssl.TLSVersion.TLSv1_3)
    async with client(tls=context) as http, hostile(_tells_of_sessions(resumed), tls=served) as server:
        assert [await get(http, server.origin) for _ in range(2)] == [b"ok"] * 2
        with pytest.raises(TlsRefused, match="not valid for"):
            await get(http, Origin("https", "127.0.0.1", server.origin.port))
        assert await get(http, server.origin) == b"ok"
    assert resumed == [False, True, True]


@contextlib.contextmanager
def _closed_port() -> Iterator[int]:
    """Keep a port on which nobody listens."""
    with socket.socket() as kept:
        kept.bind(("127.0.0.1", 0))
        yield kept.getsockname()[1]


async def _fails_to_connect(http: Http, origin: Origin, why: str) -> None:
    with pytest.raises(ConnectFailed, match=why) as caught:
        await get(http, origin)
    assert not caught.value.sent
    assert not isinstance(caught.value, TlsRefused)
    assert isinstance(caught.value, TransportError)


async def test_no_connection_is_said_with_nothing_sent() -> None:
    """A refused port, an unknown name, a port that speaks no TLS or hangs up instead are ConnectFailed."""

    async def speaks_no_tls(peer: Peer) -> None:
        await peer.send(b"220 smtp\r\n" * 10)

    async def hangs_up(peer: Peer) -> None:
        await peer.exactly(1)

    async with client() as http, hostile(speaks_no_tls) as no_tls, hostile(hangs_up) as gone:
        with _closed_port() as port:
            await _fails_to_connect(http, Origin("http", "127.0.0.1", port), "no connection")
        await _fails_to_connect(http, Origin("http", "no-such-host.invalid", 80), "no connection")
        await _fails_to_connect(http, Origin("https", "127.0.0.1", no_tls.origin.port), "no TLS")
        hung_up = "no connection: .*(hung up|reset)"
        await _fails_to_connect(http, Origin("https", "127.0.0.1", gone.origin.port), hung_up)


async def test_connecting_has_a_time_out_of_its_own() -> None:
    """A port that takes the connection and never answers TLS is ConnectFailed after `connect_s`."""

    async def says_nothing(peer: Peer) -> None:
        await peer.rest()

    async with client(connect_s=0.3) as http, hostile(says_nothing) as silent:
        await _fails_to_connect(http, Origin("https", "127.0.0.1", silent.origin.port), r"within 0\.3 s")


async def test_ipv6_literals_work() -> None:
    """An IPv6 literal is connected to, and stands in brackets in the Host header."""
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        heads.append(await peer.head())
        await peer.send(OK)
        await peer.rest()

    try:
        async with client() as http, hostile(script, host="::1") as server:
            assert await get(http, Origin.parse(f"http://[::1]:{server.origin.port}")) == b"ok"
            assert f"Host: [::1]:{server.origin.port}\r\n".encode() in heads[0]
    except OSError:
        pytest.skip("no IPv6 loopback here")


async def test_small_writes_are_not_held_back() -> None:
    """Nagle's algorithm is off on our side."""
    async with client() as http, hostile(answering(OK)) as server:
        await get(http, server.origin)
        connection = http._pools[server.origin].idle[0]
        sock = connection.transport.get_extra_info("socket")
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_ca_files_that_cannot_be_used() -> None:
    """A missing or broken CA file is a configuration error that names it."""
    for name in ("/nonexistent.pem", __file__):
        with pytest.raises(ConfigError, match=re.escape(name)):
            tls_context(name)
