"""The HTTP client's pure side: any cut of an answer's bytes parses the same, and URLs are read strictly."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3nsync.errors import ConfigError
from s3nsync.http import Header, Http, Origin
from s3nsync.http.connection import Connection

LENGTH = b'HTTP/1.1 200 OK\r\nETag: "abc"\r\nContent-Length: 11\r\n\r\nhello\r\n\r\nyou'[:-1]
CHUNKED = (
    b"HTTP/1.1 206 Partial\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n1\r\n!\r\n0\r\nX-T: 1\r\nY: 2\r\n\r\n"
)
INTERIM = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\nServer: s\r\n\r\n"
HEAD = b"HTTP/1.1 404 Not Found\r\nContent-Length: 243\r\nX-Long: " + b"v" * 100 + b"\r\n\r\n"


class Wire(asyncio.Transport):
    """The socket's place: keeps each write as one item."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        """Keep what is written."""
        self.writes.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        """Everything is always gone."""
        return 0

    def is_closing(self) -> bool:
        """Say whether it was aborted."""
        return self.closed

    def abort(self) -> None:
        """Close."""
        self.closed = True


async def _parse(method: str, pieces: Sequence[bytes]) -> tuple[int, str, tuple[Header, ...], bytes, bool]:
    """Send a request over `Wire`, let the pieces arrive, return the answer and whether the connection was kept."""
    http = Http()
    origin = Origin("http", "h", 80)
    pool = http._open_pool(origin)
    connection = Connection(pool, asyncio.get_running_loop())
    wire = Wire()
    connection.connection_made(wire)
    pool.idle.append(connection)
    sending = asyncio.ensure_future(http.send(origin, method, "/", headers=lambda: [("X", "y")], body=b"body"))
    await asyncio.sleep(0)
    assert wire.writes == [f"{method} / HTTP/1.1\r\nHost: h\r\nX: y\r\nContent-Length: 4\r\n\r\nbody".encode()]
    for piece in pieces:
        connection.get_buffer(-1)[: len(piece)] = piece
        connection.buffer_updated(len(piece))
    answer = await sending
    body = await answer.read()
    kept = pool.idle == [connection] and pool.busy == 0
    connection.abort()
    connection.connection_lost(None)
    return answer.status, answer.reason, answer.headers.pairs, body, kept


def _cut(raw: bytes, points: list[int]) -> list[bytes]:
    edges = [0, *sorted({point % len(raw) for point in points} - {0}), len(raw)]
    return [raw[start:end] for start, end in itertools.pairwise(edges)]


@settings(max_examples=400, deadline=None)
@given(
    case=st.sampled_from(
        [("PUT", LENGTH, b"hello\r\n\r\nyo"), ("PUT", CHUNKED, b"hello!"), ("PUT", EMPTY, b""), ("HEAD", HEAD, b"")]
    ),
    interim=st.booleans(),
    points=st.lists(st.integers(min_value=0, max_value=1000), max_size=30),
)
def test_any_cut_of_an_answer_parses_the_same(case: tuple[str, bytes, bytes], interim: bool, points: list[int]) -> None:
    """Status, reason, fields and body do not depend on how the bytes arrive, and the connection is kept."""
    method, raw, body = case
    raw = INTERIM + raw if interim else raw
    whole = asyncio.run(_parse(method, [raw]))
    assert asyncio.run(_parse(method, _cut(raw, points))) == whole
    assert whole[3:] == (body, True)
    assert "Link" not in dict(whole[2])


@pytest.mark.parametrize(
    ("method", "raw"), [("PUT", LENGTH), ("PUT", CHUNKED), ("PUT", INTERIM + EMPTY), ("HEAD", HEAD)]
)
def test_an_answer_may_come_byte_by_byte(method: str, raw: bytes) -> None:
    """The finest cut of all parses the same; a small request is one single write."""
    assert asyncio.run(_parse(method, [bytes([byte]) for byte in raw])) == asyncio.run(_parse(method, [raw]))


@pytest.mark.parametrize(
    ("url", "origin", "authority"),
    [
        ("https://h.example", Origin("https", "h.example", 443), "h.example"),
        ("http://h.example/", Origin("http", "h.example", 80), "h.example"),
        ("http://H.example:443", Origin("http", "h.example", 443), "h.example:443"),
        ("https://h:443", Origin("https", "h", 443), "h"),
        ("http://127.0.0.1:8080", Origin("http", "127.0.0.1", 8080), "127.0.0.1:8080"),
        ("https://[::1]:9", Origin("https", "::1", 9), "[::1]:9"),
        ("https://[2001:db8::1]", Origin("https", "2001:db8::1", 443), "[2001:db8::1]"),
    ],
)
def test_origins_are_read(url: str, origin: Origin, authority: str) -> None:
    """Scheme, host and port come out of a URL, and go back into one that reads the same."""
    assert Origin.parse(url) == origin
    assert origin.authority == authority
    assert Origin.parse(str(origin)) == origin


@pytest.mark.parametrize(
    "url",
    ["", "h", "h:443", "ftp://h", "https://", "https://h:0", "https://h:65536", "https://h:x", "https://h/path", "https://h?q",
     "https://h#f", "https://u:p@h", "https://h h", "https://é", "https://[::1", "https://[h]", "https://-h", "https://h\r\nx"],
)  # fmt: skip
def test_urls_that_are_no_origin_are_refused(url: str) -> None:
    """Anything but scheme, host and port is a configuration error."""
    with pytest.raises(ConfigError):
        Origin.parse(url)


@pytest.mark.parametrize("make", [lambda: Origin("http", "a\r\nb", 1), lambda: Origin("http", "a", -1)])
def test_no_origin_can_be_built_around_the_rules(make: Callable[[], Origin]) -> None:
    """An Origin that is built by hand is checked like one that is read."""
    with pytest.raises(ConfigError):
        make()
