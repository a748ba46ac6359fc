"""Fuzz the HTTP client's reading side: make answers by a grammar, damage them, cut them anywhere, and judge the result.

The client runs as it is, over a transport that hands it our bytes and then the end of the connection. Beside it stands
an oracle: a second, strict reader of HTTP/1.1 that shares no code with the client. Judged is each case by these rules:

    whole     an answer that nobody damaged is read as what it was made from
    typed     any other ends in an answer or a TransportError, and at once: nothing else is raised, nothing hangs
    right     where the oracle can read a damaged answer too, both read the same
    clean     the connection is used again only after an answer that the oracle reads to the last byte, no byte over
    apart     the next request's answer is its own, whatever came before
    same      in one read, where the plainest answers are not given to llhttp, it comes to the same as with its first
              byte alone, where all are
    bounded   no more is held of an answer than was sent, and never more than the limit of header bytes before a body

A case is known by its number: `python tests/fuzz/answers.py --first 123 --count 1` plays it again.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from s3nsync.errors import TransportError
from s3nsync.http import Header, Http, Origin
from s3nsync.http.connection import Connection
from s3nsync.http.pool import Pool

ORIGIN = Origin("http", "h", 80)
PATIENCE = 50  # turns of the event loop in which everything must be over
BODY_LIMIT = 1 << 20
ONE_READ_BYTES = 64 << 10  # fits into one read of the client, and into its limit of header bytes
MAX_FIELDS = 128  # more than the client takes

TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: [^\r\n]*)?")  # llhttp takes any byte here
FIELD = re.compile(rb"(" + TOKEN + rb"):[ \t]*([\t \x21-\x7e\x80-\xff]*)")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t \x21-\x7e\x80-\xff]*)?")


class Wire(asyncio.Transport):
    """The socket's place: swallows what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = False

    def write(self, data: bytes | bytearray | memoryview[int]) -> None:
        """Swallow."""

    def get_write_buffer_size(self) -> int:
        """Everything is always gone."""
        return 0

    def is_closing(self) -> bool:
        """Say whether it was aborted."""
        return self.closed

    def abort(self) -> None:
        """Close."""
        self.closed = True

    def pause_reading(self) -> None:
        """Be asked to wait; the case goes on, as bytes under way do."""

    def resume_reading(self) -> None:
        """Be asked to go on."""


# --- the oracle ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reading:
    """What an answer says; `rest` is what follows it, `reusable` whether the connection may serve again."""

    status: int
    body: bytes
    rest: bytes
    reusable: bool


def read_strictly(raw: bytes, method: str) -> Reading | None:
    """Read the first final answer; None if it is not whole, or anything but plain HTTP/1.1 in every byte."""
    while True:
        # Line breaks before an answer mean nothing: llhttp skips them, as RFC 9112, 2.2, has servers do.
        head, end, rest = raw.lstrip(b"\r\n").partition(b"\r\n\r\n")
        lines = head.split(b"\r\n")
        status_line = STATUS_LINE.fullmatch(lines[0])
        found = [FIELD.fullmatch(line) for line in lines[1:]]
        if not end or status_line is None or None in found or len(found) > MAX_FIELDS:
            return None
        status = int(status_line[2])
        if status >= 200:
            break
        raw = rest
    fields = [(each[1].lower(), each[2].strip(b" \t")) for each in found if each is not None]
    asked = b",".join([value.lower() for name, value in fields if name == b"connection"])
    options = {option.strip(b" \t") for option in asked.split(b",")}
    reusable = status_line[1] == b"1" and b"close" not in options
    lengths = [value for name, value in fields if name == b"content-length"]
    codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
    if method == "HEAD" or status in (204, 304):
        return Reading(status, b"", rest, reusable)
    if codings:
        return _read_chunks(status, rest, reusable=reusable) if codings == [b"chunked"] and not lengths else None
    if not lengths:
        return Reading(status, rest, b"", reusable=False)
    if len(lengths) > 1 or not re.fullmatch(rb"[0-9]{1,18}", lengths[0]) or len(rest) < int(lengths[0]):
        return None
    length = int(lengths[0])
    return Reading(status, rest[:length], rest[length:], reusable)


def _read_chunks(status: int, rest: bytes, *, reusable: bool) -> Reading | None:
    body = b""
    while True:
        line, end, rest = rest.partition(b"\r\n")
        size = CHUNK_SIZE.fullmatch(line)
        if not end or size is None:
            return None
        length = int(size[1], 16)
        if not length:
            break
        if len(rest) < length + 2 or rest[length : length + 2] != b"\r\n":
            return None
        body, rest = body + rest[:length], rest[length + 2 :]
    while True:
        line, end, rest = rest.partition(b"\r\n")
        if not end or (line and FIELD.fullmatch(line) is None):
            return None
        if not line:
            return Reading(status, body, rest, reusable)


# --- making answers, and spoiling them -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Case:
    """One exchange: what the peer sends, in which pieces, and what was meant if nobody damaged it."""

    method: str
    raw: bytes
    pieces: Sequence[bytes]
    meant: tuple[int, bytes] | None
    reset: bool


_NAMES = (
    b"Server",
    b"ETag",
    b"Date",
    b"X-Amz-Id-2",
    b"Set-Cookie",
    b"Connection",
    b"Keep-Alive",
    b"Upgrade",
    b"Via",
    b"Proxy-Connection",
)
_VALUES = (b"", b"x", b'"abc"', b"keep-alive", b"close", b"Upgrade, close", b"a, b", b"\xe9\xff", b"a\tb", b"h2c")
_MORSELS = (
    b"\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b"0\r\n\r\n", b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.0 ",
    b"Content-Length: 3\r\n", b"Content-Length: 0\r\n", b"Content-Length: 99999999999999999999\r\n", b"-1", b"+5",
    b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip, chunked\r\n", b"Connection: close\r\n", b"\xff",
    b"ffffffffffffffff", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 304 Not Modified\r\n\r\n", b"101", b"A" * 300,
    b" folded\r\n", b";", b"0x5",
)  # fmt: skip


def make(number: int) -> Case:
    """Make the case of this number: a third of them whole, the others damaged, and half of both plain."""
    draw = random.Random(number)
    method = draw.choice(("GET", "PUT", "HEAD"))
    raw, meant = _plain_answer(draw) if number % 2 and method != "HEAD" else _answer(draw, method)
    damaged = number % 3 > 0
    if damaged:
        raw = _damage(draw, raw)
    return Case(method, raw, list(_cut(draw, raw)), None if damaged else meant, reset=draw.random() < 0.2)


def _plain_answer(draw: random.Random) -> tuple[bytes, tuple[int, bytes]]:
    """Make an answer such as servers give nearly always."""
    status = draw.choice((200, 200, 200, 201, 204, 206, 403, 404, 503))
    body = b"" if status == 204 else draw.randbytes(draw.choice((0, 1, 10, 300)))
    fields = [(name, draw.choice((b"x", b'"abc"', b"a, b: c", b"(!)"))) for name in draw.sample(_NAMES[:5], 3)]
    fields += [(b"Connection", b"keep-alive")] * draw.randrange(2)
    fields += [(b"Content-Length", b"%d" % len(body))] * (status != 204)
    draw.shuffle(fields)
    lines = b"".join(b"%s: %s\r\n" % field for field in fields)
    return b"HTTP/1.1 %d OK\r\n%s\r\n%s" % (status, lines, body), (status, body)


def _answer(draw: random.Random, method: str) -> tuple[bytes, tuple[int, bytes]]:
    status = draw.choice((200, 200, 200, 201, 204, 206, 301, 304, 400, 403, 404, 412, 500, 503, 599))
    body = (
        draw.randbytes(draw.choice((0, 1, 10, 300, 5000)))
        if draw.random() < 0.7
        else b"0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"
    )
    fields = [(draw.choice(_NAMES[:5]), draw.choice(_VALUES)) for _ in range(draw.randrange(6))]
    if draw.random() < 0.2:
        fields.append((b"Connection", draw.choice((b"close", b"keep-alive", b"Close"))))
    bodiless = method == "HEAD" or status in (204, 304)
    framing = draw.choice(("length", "chunked", "close"))
    if framing == "length" and (not bodiless or draw.random() < 0.5):
        fields.append((draw.choice((b"Content-Length", b"content-length")), b"%d" % len(body)))
    elif framing == "chunked":
        fields.append((b"Transfer-Encoding", draw.choice((b"chunked", b"Chunked"))))
    draw.shuffle(fields)
    interim = b"".join(
        draw.choice((b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"))
        for _ in range(draw.choice((0, 0, 0, 1, 2)))
    )
    lines = b"".join(name + draw.choice((b": ", b":", b":  \t")) + value + b"\r\n" for name, value in fields)
    version, reason = draw.choice((1, 1, 1, 0)), draw.choice((b" OK", b"", b" ", b" No"))
    head = b"HTTP/1.%d %d%s\r\n%s\r\n" % (version, status, reason, lines)
    if bodiless:
        return interim + head, (status, b"")
    sent = _chunked(draw, body) if framing == "chunked" else body
    return interim + head + sent, (status, body)


def _chunked(draw: random.Random, body: bytes) -> bytes:
    parts, at = [], 0
    while at < len(body):
        size = draw.randint(1, max(1, len(body) // 2))
        piece = body[at : at + size]
        parts.append(b"%x%s\r\n%s\r\n" % (len(piece), draw.choice((b"", b"", b";a=b")), piece))
        at += size
    return b"".join(parts) + draw.choice((b"0\r\n\r\n", b"000\r\n\r\n", b"0\r\nX-T: 1\r\n\r\n"))


def _damage(draw: random.Random, raw: bytes) -> bytes:
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        # Most damage goes into the head, where the meaning is.
        at = draw.randrange(max(1, min(len(raw), draw.choice((20, 120, 400, len(raw) or 1)))))
        length = draw.choice((1, 1, 2, 8, 40))
        match draw.randrange(8):
            case 0:
                raw = raw[:at] + bytes([draw.randrange(256)]) + raw[at + 1 :]
            case 1:
                raw = raw[:at] + raw[at + length :]
            case 2:
                raw = raw[: at + length] + raw[at:]
            case 3:
                raw = raw[:at]
            case 4:
                raw = raw[:at] + draw.choice(_MORSELS) * draw.choice((1, 1, 2, 400)) + raw[at:]
            case 5:
                raw += draw.choice((raw, *_MORSELS))
            case 6:
                line = draw.choice(_NAMES) + b": " + draw.choice(_VALUES) + b"\r\n"
                raw = raw.replace(b"\r\n", b"\r\n" + line * draw.choice((1, 2, 200)), 1)
            case _:
                at = raw.find(b"\r\n", at)
                raw = raw[: at + 2] + draw.choice(_MORSELS) + raw[at + 2 :]
    return raw


def _cut(draw: random.Random, raw: bytes) -> Iterator[bytes]:
    most = draw.choice((1, 7, 100, 1 << 16)) if len(raw) < 3000 else draw.choice((100, 1 << 16))
    at = 0
    while at < len(raw):
        size = draw.randint(1, most)
        yield raw[at : at + size]
        at += size


# --- playing and judging ---------------------------------------------------------------------------------------


class Finding(AssertionError):
    """A rule was broken."""


Found = tuple[int, bytes, str, tuple[Header, ...]] | TransportError


async def play(case: Case) -> str:
    """Play a case against a client of its own; give what came of it in a word, or raise Finding."""
    found, kept = await _play(case)
    _judge(case, found, kept=kept)
    if 1 < len(case.raw) < ONE_READ_BYTES:
        first, rest = case.raw[:1], case.raw[1:]
        at_once, by_llhttp = [await _play(replace(case, pieces=each)) for each in ([case.raw], [first, rest])]
        if str(at_once) != str(by_llhttp):
            raise Finding(f"in one read it is {at_once}, by llhttp {by_llhttp}")
    return "kept" if kept else "answer" if isinstance(found, tuple) else type(found).__name__


async def _play(case: Case) -> tuple[Found, bool]:
    """Let the pieces arrive, then the end; give the answer, and whether the connection was kept."""
    http = Http()
    pool = http._open_pool(ORIGIN)
    connection = _connect(pool)
    sending = asyncio.ensure_future(_exchange(http, case.method))
    await asyncio.sleep(0)
    for piece in case.pieces:
        _arrive(connection, piece)
        exchange = connection.exchange
        if exchange is not None and sum(map(len, exchange._parts)) > len(case.raw):
            raise Finding("more is held than was sent")
    if pool.idle != [connection] and connection.exchange is not None:
        if case.reset:
            connection.connection_lost(ConnectionResetError("reset"))
        else:
            connection.eof_received()
    found = await _result(sending)
    kept = pool.idle == [connection]
    await _next_is_apart(http, pool)
    return found, kept


async def _exchange(http: Http, method: str) -> Found:
    try:
        async with await http.send(ORIGIN, method, "/", headers=list, body=b"b" if method == "PUT" else None) as answer:
            return answer.status, await answer.read(BODY_LIMIT), answer.reason, answer.headers.pairs
    except TransportError as error:
        return error


def _connect(pool: Pool) -> Connection:
    connection = Connection(pool, asyncio.get_running_loop())
    connection.connection_made(Wire())
    pool.idle.append(connection)
    return connection


def _arrive(connection: Connection, data: bytes) -> None:
    """Let bytes arrive, unless the connection was cut: a closed socket reads nothing."""
    if connection.usable:
        connection.get_buffer(-1)[: len(data)] = data
        connection.buffer_updated(len(data))


async def _result(sending: asyncio.Task[Found]) -> Found:
    for _ in range(PATIENCE):
        if sending.done():
            return sending.result()
        await asyncio.sleep(0)
    sending.cancel()
    raise Finding("it hangs")


def _judge(case: Case, found: Found, *, kept: bool) -> None:
    truth = read_strictly(case.raw, case.method)
    read = found[:2] if isinstance(found, tuple) else None
    if case.meant is not None and not case.reset and read != case.meant:
        raise Finding(f"{case.meant} was sent whole, and read as {found!r}")
    if read is not None and truth is not None and read != (truth.status, truth.body):
        raise Finding(f"read as {found!r}, the oracle says {truth}")
    if kept and (truth is None or not truth.reusable or truth.rest.strip(b"\r\n") or read is None):
        raise Finding(f"the connection is used again after {found!r}, the oracle says {truth}")


async def _next_is_apart(http: Http, pool: Pool) -> None:
    """Ask once more, on the same connection if it was kept: the answer is what is sent now, nothing earlier."""
    connection = next((each for each in pool.idle if each.usable), None) or _connect(pool)
    sending = asyncio.ensure_future(_exchange(http, "GET"))
    await asyncio.sleep(0)
    _arrive(connection, b"HTTP/1.1 299 Next\r\nContent-Length: 4\r\n\r\nnext")
    found = await _result(sending)
    if not isinstance(found, tuple) or found[:2] != (299, b"next"):
        raise Finding(f"the next answer is {found!r}")
    if pool.busy:
        raise Finding(f"{http} holds a slot for nobody")
    for each in list(pool.sockets):
        each.abort()


async def play_all(numbers: Sequence[int] | range, until_s: float = float("inf")) -> Counter[str]:
    """Play the cases until the time is up; gives how many came to what, raises Finding with the case's number."""
    counts: Counter[str] = Counter()
    for number in numbers:
        if time.monotonic() > until_s:
            break
        case = make(number)
        try:
            counts[await play(case)] += 1
        except Finding as finding:
            raise Finding(f"case {number} ({case.method}): {str(finding)[:600]}; sent: {case.raw[:600]!r}") from None
        counts["cases"] += 1
    return counts


def main() -> None:
    """Fuzz for a while and print what was seen."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--first", type=int, default=0, help="the first case's number")
    options.add_argument("--count", type=int, default=sys.maxsize, help="how many cases at most")
    options.add_argument("--seconds", type=float, default=60.0, help="how long at most")
    chosen = options.parse_args()
    numbers = range(chosen.first, min(sys.maxsize, chosen.first + chosen.count))
    counts = asyncio.run(play_all(numbers, time.monotonic() + chosen.seconds))
    print(", ".join(f"{name}: {count}" for name, count in counts.most_common()))  # noqa: T201  (its result)


if __name__ == "__main__":
    main()
