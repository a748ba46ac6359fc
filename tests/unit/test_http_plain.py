"""Which answers are plain enough to be read without llhttp, and which are not; that both read the same is fuzzed."""

from __future__ import annotations

import pytest

from s3nsync.http.plain import read_plain

S3 = (
    b"HTTP/1.1 200 OK\r\nx-amz-id-2: eftixk72aD6Ap51TnqcoF8eFidJG9Z/2mk=\r\nx-amz-request-id: 318BC8BC148832E5\r\n"
    b'Date: Mon, 23 Nov 2026 05:00:00 GMT\r\nETag: "fba9dede5f27731c9771645a39863328"\r\nContent-Length: 5\r\n\r\n'
)


@pytest.mark.parametrize(
    "raw",
    [
        S3,
        S3 + b"hello",
        S3.replace(b"ETag", b"Connection: Keep-Alive\r\nETag"),
        S3.replace(b"200 OK", b"404 Not Found"),
    ],
    ids=["head", "whole", "kept", "missing"],
)
def test_usual_answers_are_read_at_one_stroke(raw: bytes) -> None:
    """Status, reason, fields in their order and spelling, and where the body is."""
    plain = read_plain(memoryview(raw))
    assert plain is not None
    status, reason, headers, body_at, length = plain
    assert f"HTTP/1.1 {status} {reason}\r\n".encode() == raw[: raw.index(b"\n") + 1]
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.pairs).encode()
    assert raw[raw.index(b"\n") + 1 : body_at] == lines + b"\r\n"
    assert headers["etag"] == headers.get("ETAG") == '"fba9dede5f27731c9771645a39863328"'
    assert (length, raw[body_at:]) == (5, raw.partition(b"\r\n\r\n")[2])


def test_no_content_needs_no_length() -> None:
    """204 is how NetStorage may confirm; it has no body whatever it says."""
    plain = read_plain(memoryview(b"HTTP/1.1 204 No Content\r\nServer: s\r\n\r\n"))
    assert plain is not None
    assert plain[4] == 0


@pytest.mark.parametrize(
    "change",
    [
        (b"HTTP/1.1", b"HTTP/1.0"),
        (b"HTTP/1.1 200", b"HTTP/1.1 100"),
        (b"HTTP/1.1 200", b"HTTP/1.1 304"),
        (b"HTTP/1.1 200", b"HTTP/1.1 204"),
        (b"200 OK", b"200"),
        (b"ETag: ", b"ETag:"),
        (b"ETag: ", b"ETag : "),
        (b"ETag: ", b"ETag:  "),
        (b"ETag: ", b"ETag: \t"),
        (b"ETag: ", b"E\xe9Tag: "),
        (b"ETag: ", b": "),
        (b'8"\r\n', b'8" \r\n'),
        (b'8"\r\n', b'8"\n'),
        (b'8"\r\n', b'8"\r\n folded\r\n'),
        (b'8"\r\n', b'8\0"\r\n'),
        (b'8"\r\n', b'8\xff"\r\n'),
        (b"ETag: ", b"DATE: x\r\nETag: "),
        (b"ETag: ", b"Transfer-Encoding: chunked\r\nETag: "),
        (b"ETag: ", b"Upgrade: h2c\r\nETag: "),
        (b"ETag: ", b"Connection: close\r\nETag: "),
        (b"ETag: ", b"Connection: keep-alive, close\r\nETag: "),
        (b"ETag: ", b"Proxy-Connection: close\r\nETag: "),
        (b"ETag: ", b"content-length: 5\r\nETag: "),
        (b"ETag: ", b"X: " + b"x" * (16 << 10) + b"\r\nETag: "),
        (b"ETag: ", b"".join(b"X-%d: x\r\n" % number for number in range(64)) + b"ETag: "),
        (b"Length: 5", b"Length: +5"),
        (b"Length: 5", b"Length: 5, 5"),
        (b"Length: 5", b"Length: " + b"0" * 18 + b"5"),
        (b"Content-Length: 5", b"X: 5"),
        (b"hello", b"hello!"),
        (b"HTTP", b"\r\nHTTP"),
    ],
)
def test_anything_unusual_is_left_to_llhttp(change: tuple[bytes, bytes]) -> None:
    """Whatever is not of the plainest form is not read here, be it right or wrong."""
    raw = (S3 + b"hello").replace(*change)
    assert raw != S3 + b"hello"
    assert read_plain(memoryview(raw)) is None


def test_a_head_that_is_not_whole_is_left_to_llhttp() -> None:
    """Only what came in one read is read at one stroke."""
    assert not any(read_plain(memoryview(S3[:at])) for at in range(len(S3)))
