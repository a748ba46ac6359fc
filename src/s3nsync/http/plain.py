"""The head of an answer as nearly all answers have it, read at one stroke.

Why there are two readers: llhttp calls back into Python for each field, a dozen times for an answer of S3's, and that
costs more than all else here. So what comes in one read, whole and in the plainest form, is cut up by a handful of
string operations; anything else (an interim answer, a folded or repeated field, an odd version, a body in chunks or
without a length, a head in two reads, bytes beyond the answer) is nobody's here and goes to llhttp from its first byte.
So this reader need not know what unusual bytes mean, only that they are unusual. Whatever it takes, llhttp would have
taken for the same: tests/fuzz compares the two.
"""

from __future__ import annotations

import re
from typing import Final

from s3nsync.http.heads import Headers

_MOST_BYTES: Final = 16 << 10
_MOST_FIELDS: Final = 64
_MOST_DIGITS: Final = 18
_HEAD: Final = re.compile(
    rb"HTTP/1\.1 ([2-5][0-9][0-9]) ([!-~][ -~]*+)\r\n((?:[!#$%&'*+.^_`|~0-9A-Za-z-]++: [!-~][ -~]*+\r\n)++)\r\n"
)
_UNUSUAL: Final = frozenset({"transfer-encoding", "upgrade", "proxy-connection"})

Plain = tuple[int, str, Headers, int, int]
"""Status, reason, fields, where in the read the body begins, and how many bytes it has."""


def read_plain(read: memoryview) -> Plain | None:
    """Read the head of an answer to anything but HEAD from what came in one read; None if it is not a plain one."""
    found = _HEAD.match(read)
    if found is None:
        return None
    status, reason, fields = found.groups()
    lines = fields.decode().split("\r\n")
    lines.pop()
    headers = Headers.of_lines(lines)
    if headers is None or b" \r\n" in fields or len(fields) > _MOST_BYTES or len(lines) > _MOST_FIELDS:
        return None
    length, body_at = _length_of(status, headers.by_name), found.end()
    if length is None or len(read) - body_at > length:
        return None
    return int(status), reason.decode(), headers, body_at, length


def _length_of(status: bytes, fields: dict[str, str]) -> int | None:
    """Give the body's length; None if it is told otherwise than by a number, or the connection is not to stay."""
    if not _UNUSUAL.isdisjoint(fields) or fields.get("connection", "keep-alive").lower() != "keep-alive":
        return None
    length = fields.get("content-length")
    if status == b"204":
        return 0 if length is None else None
    return int(length) if length and length.isdigit() and len(length) <= _MOST_DIGITS and status != b"304" else None
