"""The fuzzer's short form: some cases of every kind, and the oracle itself."""

from __future__ import annotations

import pytest

from fuzz.answers import Reading, play_all, read_strictly


@pytest.mark.parametrize("first", [0, 10_000])
async def test_damaged_answers_are_read_right_or_refused(first: int) -> None:
    """Whatever arrives ends in the right answer or a typed error, and nothing of it reaches the next request."""
    counts = await play_all(range(first, first + 600))
    assert counts["cases"] == 600
    assert min(counts[what] for what in ("kept", "answer", "BadAnswer", "ConnectionLost")) > 20, counts


@pytest.mark.parametrize(
    ("raw", "method", "reading"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokX", "GET", Reading(200, b"ok", b"X", reusable=True)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", "GET", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "HEAD", Reading(200, b"", b"", reusable=True)),
        (b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 204 N\r\n\r\nX", "PUT", Reading(204, b"", b"X", reusable=True)),
        (b"HTTP/1.1 200 OK\r\n\r\nall", "GET", Reading(200, b"all", b"", reusable=False)),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "GET", Reading(200, b"", b"", reusable=False)),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1;a\r\nx\r\n0\r\nT: 1\r\n\r\nX",
            "GET",
            Reading(200, b"x", b"X", reusable=False),
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nx\r\n0\r\n\r\n", "GET", None),
        (b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n", "GET", None),
    ],
)
def test_the_oracle(raw: bytes, method: str, reading: Reading | None) -> None:
    """The oracle reads what is plain HTTP/1.1, tells what is left over, and refuses the rest."""
    assert read_strictly(raw, method) == reading
