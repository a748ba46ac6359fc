"""Header fields, and a request's head as bytes: pure functions.

A caller sends the same few sets of names over and over with other values, so what depends on the names alone (are they
tokens, is the framing ours, how do the lines look) is worked out once for each set.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar, overload

Header = tuple[str, str]
Lines = str
"""Header fields as they go out, Host and Connection not among them. Made by `Layout.fill`, which sees that no field can
forge another; whoever adds to them adds what cannot hold a line break."""
Fields = Lines | Sequence[Header]
Chunk = bytes | bytearray | memoryview
T = TypeVar("T")

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_REQUEST_LINE = re.compile(rf"{_TOKEN.pattern} /[!-~]*")
_WHOLE: Final = (bytes, bytearray, memoryview)  # a union would be built for each look
_OWN_FRAMING: Final = frozenset({"content-length", "transfer-encoding"})


class Headers(Mapping[str, str]):
    """Header fields: a case-insensitive mapping, repeated fields joined by `, `; `pairs` has all as they came.

    `by_name` is the same with lower-case names, for who looks up many.
    """

    __slots__ = ("_lines", "_pairs", "by_name")

    by_name: dict[str, str]

    def __init__(self, pairs: Iterable[Header]) -> None:
        """Index the fields by lower-case name."""
        self._pairs: tuple[Header, ...] = tuple(pairs)
        self._lines: list[str] = []
        self.by_name = _joined(self._pairs)

    @classmethod
    def parse(cls, fields: Sequence[bytes]) -> Headers:
        """Take names and values by turns, as they came off the wire; no line break may be in them."""
        texts = b"\n".join(fields).decode("latin-1").split("\n")
        return cls(zip(texts[::2], texts[1::2], strict=bool(fields)))

    @classmethod
    def of_lines(cls, lines: list[str]) -> Headers | None:
        """Take lines that are `name: value` each; None if a name stands there twice."""
        self = cls.__new__(cls)
        by_name: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            by_name[name.lower()] = value
        self._pairs, self._lines, self.by_name = (), lines, by_name
        return self if len(by_name) == len(lines) else None

    @property
    def pairs(self) -> tuple[Header, ...]:
        """Give the fields in their order and spelling."""
        if self._lines:
            parted = [line.partition(": ") for line in self._lines]
            self._pairs, self._lines = tuple([(name, value) for name, _, value in parted]), []
        return self._pairs

    def __getitem__(self, name: str) -> str:
        """Give the field's value; KeyError when there is none."""
        return self.by_name[name.lower()]

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, /, default: str | T) -> str | T: ...
    def get(self, name: str, /, default: str | T | None = None) -> str | T | None:
        """Give the field's value, or `default`; without the exception that Mapping's own way costs."""
        return self.by_name.get(name.lower(), default)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the lower-case names."""
        return iter(self.by_name)

    def __len__(self) -> int:
        """Count the different names."""
        return len(self.by_name)

    def __repr__(self) -> str:
        """Show the names only: values may be secrets."""
        return f"Headers({', '.join(self.by_name)})"


def _joined(pairs: Iterable[Header]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in pairs:
        lower = name.lower()
        values[lower] = f"{values[lower]}, {value}" if lower in values else value
    return values


Framing = tuple[int | None, str]
"""Where a request's body ends: how many bytes it has, None if it goes out in chunks; and the line that says so."""

_NO_BODY: Final = (0, "")
_EMPTY_BODY: Final = (0, "Content-Length: 0\r\n")
_CHUNKED: Final = (None, "Transfer-Encoding: chunked\r\n")


def size_of(chunk: Chunk) -> int:
    """Count bytes, whatever a view's items are."""
    return chunk.nbytes if isinstance(chunk, memoryview) else len(chunk)


def framing_of(method: str, body: object, length: int | None, *, trailers: bool) -> Framing:
    """Say where the body ends; ValueError when the arguments do not go together."""
    sized = size_of(body) if isinstance(body, _WHOLE) else None if body is None else length
    if trailers and (body is None or sized is not None):
        raise ValueError("trailers need a body that is an iterator without length")
    if length is not None and length != sized:
        raise ValueError(f"a length of {length} was given for a body of {sized or 0} bytes")
    if sized is not None:
        return sized, f"Content-Length: {sized}\r\n"
    if body is not None:
        return _CHUNKED
    return _EMPTY_BODY if method in ("PUT", "POST") else _NO_BODY


def request_line(method: str, target: str) -> str:
    """Return the line's first two parts; ValueError unless both can stand there as they are."""
    line = f"{method} {target}"
    if not _REQUEST_LINE.fullmatch(line):
        _field_name(method)
        raise ValueError(f"not a request target: {target!r}")
    return line


def encode_head(line: str, authority: str, fields: Fields, framing: str) -> tuple[bytes, bool]:
    """Return the request's head, and whether the connection may be kept afterwards; ValueError if it cannot be one.

    `line` is from `request_line`.
    """
    if isinstance(fields, str):
        return _encode(f"{line} HTTP/1.1\r\nHost: {authority}\r\n{fields}{framing}\r\n"), True
    names, values = _columns(fields)
    layout = _layout_of(names)
    host = "" if layout.has_host else f"Host: {authority}\r\n"
    lines = layout.fill(*values)
    keep_alive = not layout.has_connection or "close" not in Headers(fields)["connection"].lower()
    return _encode(f"{line} HTTP/1.1\r\n{host}{lines}{framing}\r\n"), keep_alive


def encode_trailers(fields: Fields) -> bytes:
    """Return the fields that follow a body's last chunk; ValueError when one could forge another."""
    if isinstance(fields, str):
        return _encode(fields)
    names, values = _columns(fields)
    return _encode(_layout_of(names).fill(*values))


class Layout:
    """Header fields of which the names are known long before the values."""

    __slots__ = ("_text", "has_connection", "has_host")

    def __init__(self, *names: str) -> None:
        """Check the names once; ValueError for one that is none, or that is ours to set."""
        lower = {_field_name(name) for name in names}
        if not lower.isdisjoint(_OWN_FRAMING):
            raise ValueError("Content-Length and Transfer-Encoding are set by the client")
        self.has_host = "host" in lower
        self.has_connection = "connection" in lower
        self._text = "".join([f"{name.replace('%', '%%')}: %s\r\n" for name in names])

    def fill(self, *values: str) -> Lines:
        """Lay out a value for each name; ValueError (without the value) when one could forge another field."""
        text = "".join(values)
        if "\r" in text or "\n" in text or "\0" in text:
            raise ValueError("a header field's value holds a line break or NUL")
        return self._text % values


@functools.lru_cache(maxsize=512)
def _layout_of(names: tuple[str, ...]) -> Layout:
    return Layout(*names)


def _columns(fields: Sequence[Header]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Part names from values."""
    names, values = zip(*fields, strict=True) if fields else ((), ())
    return names, values


def _encode(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError("a header field's value holds a character outside Latin-1") from None


@functools.lru_cache(maxsize=512)
def _field_name(name: str) -> str:
    """Return the name in lower case; ValueError if it is no token."""
    if not _TOKEN.fullmatch(name):
        raise ValueError(f"not a header name or method: {name!r}")
    return name.lower()
