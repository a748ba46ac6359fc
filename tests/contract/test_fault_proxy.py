"""The fault proxy itself: what it breaks, where exactly, and that it breaks nothing else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fault_proxy import Exchange, Fault, FaultProxy, Injection, Kind, Place, Side, _Head, _Lane, proxying
from hostile import Peer, hostile

BODY = b"0123456789" * 30
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
BOUND_S = 30.0
"""How long a test waits for what must come: far more than any machine needs."""
REQUEST = b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(BODY), BODY)


@dataclass
class Heard:
    """What reached the server: every byte, and how its connection ended."""

    data: bytes = b""
    end: str = ""


@dataclass
class Scene:
    """A client's connection through a proxy to a server that takes one PUT and answers it."""

    proxy: FaultProxy
    heard: Heard
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def whole(self) -> bytes:
        """Send the request, and give an answer of full length; the connection must stay open."""
        self.writer.write(REQUEST)
        async with asyncio.timeout(BOUND_S):
            received = await self.reader.readexactly(len(ANSWER))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(self.reader.read(1), 0.1)
        return received

    async def rest(self) -> tuple[bytes, str]:
        """Send the request, and give what came back until the connection ended, and how it did: fin or reset."""
        self.writer.write(REQUEST)
        received = b""
        try:
            async with asyncio.timeout(BOUND_S):
                while piece := await self.reader.read(1 << 16):
                    received += piece
        except ConnectionError:
            return received, "reset"
        return received, "fin"


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    """Serve one request after the other."""
    heard = Heard()

    async def serve(peer: Peer) -> None:
        try:
            while piece := await peer.reader.read(1 << 16):
                heard.data += piece
                if heard.data.endswith(BODY):
                    await peer.send(ANSWER)
            heard.end = "fin"
        except ConnectionError:
            heard.end = "reset"

    async with hostile(serve) as server, proxying(server.origin.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        try:
            yield Scene(proxy, heard, reader, writer)
        finally:
            await _hang_up(writer)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a state that nobody announces."""
    async with asyncio.timeout(BOUND_S):
        while not condition():
            await asyncio.sleep(0.005)


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_without_faults_every_byte_passes_on_one_connection() -> None:
    """Two requests on a kept connection, and both are written down."""
    async with scene() as at:
        assert await at.whole() == ANSWER
        assert await at.whole() == ANSWER
        assert at.heard.data == REQUEST * 2
        assert [(each.status, each.answered) for each in at.proxy.seen("^PUT /a ")] == [(200, True)] * 2
        assert at.proxy.seen("^GET ") == []


HEAD_BYTES = len(ANSWER) - len(BODY)


@pytest.mark.parametrize(
    ("kind", "at", "passes", "end"),
    [
        ("reset", "start", 0, "reset"),
        ("reset", 100, None, "reset"),
        ("truncate", "start", 0, "fin"),
        ("truncate", 100, HEAD_BYTES + 100, "fin"),
        ("truncate", b"456", HEAD_BYTES + 7, "fin"),
        ("truncate", "end", len(ANSWER), "fin"),
        ("half-close", 0, HEAD_BYTES, "fin"),
        ("half-close", 100, HEAD_BYTES + 100, "fin"),
    ],
)
async def test_an_answer_breaks_at_the_very_byte(kind: Kind, at: Place, passes: int | None, end: str) -> None:
    """So many bytes arrive, and the connection ends as ordered; a reset may swallow what was on its way."""
    async with scene() as scenery:
        injection = scenery.proxy.inject(Fault(kind=kind, side="answer", at=at))
        received, ended = await scenery.rest()
        assert ANSWER.startswith(received)
        assert ended == end
        assert passes is None or len(received) == passes
        assert injection.struck == 1
        assert scenery.heard.data == REQUEST


@pytest.mark.parametrize(("kind", "end"), [("reset", "reset"), ("truncate", "fin"), ("half-close", "fin")])
async def test_a_request_breaks_at_the_very_byte(kind: Kind, end: str) -> None:
    """The server hears that much of it, and that nothing more comes."""
    async with scene() as scenery:
        injection = scenery.proxy.inject(Fault(kind=kind, side="request", at=100))
        received, _ = await scenery.rest()
        assert received == b""
        await until(lambda: scenery.heard.end == end)
        assert injection.struck == 1
        head_bytes = len(REQUEST) - len(BODY)
        assert REQUEST.startswith(scenery.heard.data)
        assert kind == "reset" or len(scenery.heard.data) == head_bytes + 100


@pytest.mark.parametrize("side", ["request", "answer"])
async def test_a_flip_changes_one_bit(side: Side) -> None:
    """Length and all other bytes stay."""
    async with scene() as scenery:
        injection = scenery.proxy.inject(Fault(kind="flip", side=side, at=0))
        if side == "request":
            scenery.proxy.inject(Fault(kind="flip", side=side, at=299))
            scenery.writer.write(REQUEST)
            await until(lambda: len(scenery.heard.data) == len(REQUEST))
            found, sent = scenery.heard.data, REQUEST
        else:
            found, sent = await scenery.whole(), ANSWER
        assert injection.struck == 1
        changed = [index for index in range(len(sent)) if found[index] != sent[index]]
        head_bytes = len(sent) - len(BODY)
        assert changed == ([head_bytes] if side == "answer" else [head_bytes, head_bytes + 299])
        assert all((found[index] ^ sent[index]).bit_count() == 1 for index in changed)


async def test_stall_and_slow_lose_nothing_but_time() -> None:
    """A pause and a rate, measured by the loop's clock."""
    async with scene() as scenery:
        scenery.proxy.inject(Fault(kind="stall", at=10, for_s=0.15))
        scenery.proxy.inject(Fault(kind="slow", at=200, bytes_per_s=1000))
        began_s = asyncio.get_running_loop().time()
        scenery.writer.write(REQUEST)
        assert await scenery.reader.readexactly(len(ANSWER)) == ANSWER
        assert asyncio.get_running_loop().time() - began_s > 0.15 + 0.09


async def test_held_bytes_pass_once_they_are_released_even_behind_a_client_that_is_gone() -> None:
    """What was on its way when a client died still lands."""
    async with scene() as scenery:
        held = scenery.proxy.hold("^PUT /a ", at=299)
        scenery.writer.write(REQUEST)
        await held.reached()
        await until(lambda: len(scenery.heard.data) == len(REQUEST) - 1)
        await _hang_up(scenery.writer)
        assert scenery.heard.data == REQUEST[:-1]
        held.release()
        await until(lambda: scenery.heard.data == REQUEST)


async def test_faults_strike_whom_and_as_often_as_they_say() -> None:
    """Requests that do not match, skipped ones and those after the last time pass; only what happens is counted."""
    async with scene() as scenery:
        other = scenery.proxy.inject(Fault(kind="reset", request="^GET "))
        beyond = scenery.proxy.inject(Fault(kind="reset", at=len(BODY) + 1))
        third = scenery.proxy.inject(Fault(kind="truncate", request="^PUT", at="end", skip=2))
        assert [await scenery.whole() for _ in range(2)] == [ANSWER] * 2
        assert await scenery.rest() == (ANSWER, "fin")
        assert (other.struck, beyond.struck, third.struck) == (0, 0, 1)
        with pytest.raises(AssertionError, match="never came to pass"):
            await other.reached(0.01)


async def test_aws_json_is_matched_by_its_body_and_its_answer_is_kept() -> None:
    """SQS names the queue in the body; the client of another queue is left alone."""
    body = b'{"QueueUrl": "http://x/live.fifo"}'
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    json = b"POST / HTTP/1.1\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n%b"

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.exactly(len(body))
        await peer.send(answer)

    async with hostile(serve) as server, proxying(server.origin.port) as proxy:
        proxy.inject(Fault(kind="reply", request='POST.*"http://x/live.fifo"', reply=answer.replace(b"{}", b"[]")))
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        for expected in (b"[]", b"{}"):
            writer.write(json % (len(body), body))
            assert (await reader.readuntil(b"\r\n\r\n") + await reader.readexactly(2)).endswith(expected)
        await _hang_up(writer)
        assert server.accepted == 1, "a reply is ours: the server never hears of its request"
        assert [each.body for each in proxy.exchanges] == [b"", b"{}"]


async def test_chunks_trailers_interim_answers_and_answers_without_length_pass() -> None:
    """All framings that the product meets."""
    chunked = b"3;x=1\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n"
    request = b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked
    answer = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\n\r\nuntil the end"
    heard = []

    async def serve(peer: Peer) -> None:
        await peer.head()
        heard.append(await peer.exactly(len(chunked)))
        await peer.send(answer)

    async with hostile(serve) as server, proxying(server.origin.port) as proxy:
        trailers = proxy.hold("^PUT", at=b"\r\n0\r\n")
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(request)
        await trailers.reached()
        trailers.release()
        assert await reader.read() == answer
        assert heard == [chunked]
        await _hang_up(writer)


async def test_a_server_that_hangs_up_is_passed_on_as_such() -> None:
    """The proxy adds no fault of its own, and hides none."""

    async def serve(peer: Peer) -> None:
        await peer.head()
        await peer.send(ANSWER[:-5])

    async with hostile(serve) as server, proxying(server.origin.port) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), BOUND_S) == ANSWER[:-5]
        await _hang_up(writer)
        assert [each.answered for each in proxy.exchanges] == [False]


async def test_a_connection_that_is_cut_in_the_moment_in_which_it_comes_is_closed() -> None:
    """Its task is cancelled before it has begun, and so has nothing that it could end."""
    proxy = FaultProxy(1)

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.accept(reader, writer)
        for task in proxy._connections:
            task.cancel()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listener:
        reader, writer = await asyncio.open_connection(*listener.sockets[0].getsockname())
        assert await asyncio.wait_for(reader.read(), BOUND_S) == b""
        await _hang_up(writer)


def test_what_stands_still_is_told_from_what_was_just_asked() -> None:
    """A failed test's record says when each request came and how long it took, or has been waiting."""
    receive = "POST / HTTP/1.1\r\nX-Amz-Target: AmazonSQS.ReceiveMessage\r\n\r\n{}"
    answered = Exchange(receive, status=200, began_s=100.0, ended_s=100.25)
    waiting = Exchange("GET /bucket/key?a=b HTTP/1.1\r\nHost: s3\r\n\r\n", began_s=101.0)
    assert answered.tell(130.0) == "  30.00 s ago: AmazonSQS.ReceiveMessage: 200 after 0.25 s"
    assert waiting.tell(130.0) == "  29.00 s ago: GET /bucket/key?a=b: no answer for 29.00 s"


@given(st.lists(st.binary(min_size=1, max_size=5), max_size=8), st.integers(0, 20), st.binary(min_size=1, max_size=3))
def test_places_do_not_depend_on_how_bytes_come_in_pieces(pieces: list[bytes], offset: int, text: bytes) -> None:
    """A number of bytes is reached if the body is that long, a text if it occurs, once each, at the same byte."""
    whole = b"".join(pieces)
    by_number = Injection(Fault(kind="stall", at=offset))
    by_text = Injection(Fault(kind="half-close", at=text))
    written = asyncio.run(_passed(pieces, [by_number, by_text]))
    assert by_number.struck == (offset <= len(whole))
    assert by_text.struck == (text in whole)
    assert written == b"head" + (whole[: whole.find(text) + len(text)] if text in whole else whole)


async def _passed(pieces: list[bytes], injections: list[Injection]) -> bytes:
    """Give what a lane lets through."""

    async def body() -> AsyncGenerator[bytes, None]:
        for piece in pieces:
            yield piece

    heard: list[bytes] = []

    async def serve(peer: Peer) -> None:
        heard.append(await peer.rest())

    async with hostile(serve) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.origin.port)
        await _Lane(writer, injections).run(_Head(b"head", "", {}), body())
        if not any(each.fault.kind == "half-close" and each.struck for each in injections):
            writer.write_eof()
        while not heard:
            await asyncio.sleep(0)
        await _hang_up(writer)
    return heard[0]
