"""Header fields, and a request's head as bytes: pure functions.

A caller sends the same few sets of names over and over with other values, so what depends on the names alone (are they
tokens, is the framing ours, how do the lines look) is worked out once for each set.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar, overload

Header = tuple[str, str]
Chunk = bytes | bytearray | memoryview
T = TypeVar("T")

_TARGET = re.compile(r"/[!-~]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_OWN_FRAMING: Final = frozenset({"content-length", "transfer-encoding"})


class Headers(Mapping[str, str]):
    """Header fields: a case-insensitive mapping, repeated fields joined by `, `; `pairs` has all as they came."""

    __slots__ = ("_values", "pairs")

    def __init__(self, pairs: Iterable[Header]) -> None:
        """Index the fields by lower-case name."""
        self.pairs: tuple[Header, ...] = tuple(pairs)
        names, values = _columns(self.pairs)
        self._values = dict(zip(map(str.lower, names), values, strict=True))
        if len(self._values) < len(self.pairs):
            self._values = _joined(self.pairs)

    @classmethod
    def parse(cls, fields: Sequence[bytes]) -> Headers:
        """Take names and values by turns, as they came off the wire; no line break may be in them."""
        texts = b"\n".join(fields).decode("latin-1").split("\n")
        return cls(zip(texts[::2], texts[1::2], strict=bool(fields)))

    def __getitem__(self, name: str) -> str:
        """Give the field's value; KeyError when there is none."""
        return self._values[name.lower()]

    @overload
    def get(self, name: str, /) -> str | None: ...
    @overload
    def get(self, name: str, /, default: str | T) -> str | T: ...
    def get(self, name: str, /, default: str | T | None = None) -> str | T | None:
        """Give the field's value, or `default`; without the exception that Mapping's own way costs."""
        return self._values.get(name.lower(), default)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the lower-case names."""
        return iter(self._values)

    def __len__(self) -> int:
        """Count the different names."""
        return len(self._values)

    def __repr__(self) -> str:
        """Show the names only: values may be secrets."""
        return f"Headers({', '.join(self._values)})"


def _joined(pairs: Iterable[Header]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in pairs:
        lower = name.lower()
        values[lower] = f"{values[lower]}, {value}" if lower in values else value
    return values


class Framing(NamedTuple):
    """Where a request's body ends: how many bytes it has, None if it goes out in chunks; and the line that says so."""

    length: int | None
    line: str


_NO_BODY: Final = Framing(0, "")
_EMPTY_BODY: Final = Framing(0, "Content-Length: 0\r\n")
_CHUNKED: Final = Framing(None, "Transfer-Encoding: chunked\r\n")


def size_of(chunk: Chunk) -> int:
    """Count bytes, whatever a view's items are."""
    return chunk.nbytes if isinstance(chunk, memoryview) else len(chunk)


def framing_of(method: str, body: object, length: int | None, *, trailers: bool) -> Framing:
    """Say where the body ends; ValueError when the arguments do not go together."""
    sized = size_of(body) if isinstance(body, bytes | bytearray | memoryview) else None if body is None else length
    if trailers and (body is None or sized is not None):
        raise ValueError("trailers need a body that is an iterator without length")
    if length is not None and length != sized:
        raise ValueError(f"a length of {length} was given for a body of {sized or 0} bytes")
    if sized is not None:
        return Framing(sized, f"Content-Length: {sized}\r\n")
    if body is not None:
        return _CHUNKED
    return _EMPTY_BODY if method in ("PUT", "POST") else _NO_BODY


def check_request_line(method: str, target: str) -> None:
    """Raise ValueError unless both can stand in a request line as they are."""
    if not _TARGET.fullmatch(target):
        raise ValueError(f"not a request target: {target!r}")
    _field_name(method)


def encode_head(method: str, target: str, authority: str, fields: Sequence[Header], framing: str) -> tuple[bytes, bool]:
    """Return the request's head, and whether the connection may be kept afterwards; ValueError if it cannot be one.

    Method and target have passed `check_request_line`.
    """
    names, values = _columns(fields)
    form = _form_of(names)
    host = "" if form.has_host else f"Host: {authority}\r\n"
    lines = _fill(form, values)
    keep_alive = not form.has_connection or "close" not in Headers(fields)["connection"].lower()
    return _encode(f"{method} {target} HTTP/1.1\r\n{host}{lines}{framing}\r\n"), keep_alive


def encode_trailers(fields: Sequence[Header]) -> bytes:
    """Return the fields that follow a body's last chunk; ValueError when one could forge another."""
    names, values = _columns(fields)
    return _encode(_fill(_form_of(names), values))


class _Form(NamedTuple):
    """What is known of header fields by their names alone: the text to fill with values, and who sets what."""

    text: str
    has_host: bool
    has_connection: bool


@functools.lru_cache(maxsize=512)
def _form_of(names: tuple[str, ...]) -> _Form:
    """Check the names, and lay out the lines; ValueError for a name that is none, or that is ours to set."""
    lower = {_field_name(name) for name in names}
    if not lower.isdisjoint(_OWN_FRAMING):
        raise ValueError("Content-Length and Transfer-Encoding are set by the client")
    text = "".join([f"{name.replace('%', '%%')}: %s\r\n" for name in names])
    return _Form(text, "host" in lower, "connection" in lower)


def _columns(fields: Sequence[Header]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Part names from values."""
    names, values = zip(*fields, strict=True) if fields else ((), ())
    return names, values


def _fill(form: _Form, values: tuple[str, ...]) -> str:
    """Return the fields as lines; ValueError (without the value: it may be a secret) when one could forge another."""
    text = "".join(values)
    if "\r" in text or "\n" in text or "\0" in text:
        raise ValueError("a header field's value holds a line break or NUL")
    return form.text % values


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
