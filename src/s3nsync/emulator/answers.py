"""Answers: status, headers and text as each personality words them, and the XML of the listing actions.

Texts and headers follow recorded answers of both generations; clients are told to go by the status alone.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from s3nsync.emulator.blobs import Blob
from s3nsync.emulator.protocol import Personality, Refused

Encoding = Literal["utf-8", "iso-8859-1"]
Attribute = tuple[str, bytes | int | str]

_HTML = "text/html; charset=iso-8859-1"
_SERVERS = {Personality.OBJECTSTORE: "AkamaiNetStorage", Personality.FILESTORE: "Apache"}
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)
_REQUEST_PROCESSED = b"<HTML>Request Processed</HTML>\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: `body` in hand, or bytes `start` to `stop` of `blob`; `close` ends the connection after it."""

    status: int = 200
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    blob: Blob | None = None
    start: int = 0
    stop: int = 0
    close: bool = False

    @property
    def length_bytes(self) -> int:
        """The Content-Length."""
        return len(self.body) if self.blob is None else self.stop - self.start


OBJECTSTORE_UPLOADED = Answer()
_FILESTORE_DONE = Answer(body=_REQUEST_PROCESSED, headers=(("Content-Type", _HTML),))


def done(personality: Personality, word: str) -> Answer:
    """Return the answer to a write that succeeded; ObjectStore says what it did in `word`, nothing for an upload."""
    if personality is Personality.FILESTORE:
        return _FILESTORE_DONE
    if not word:
        return OBJECTSTORE_UPLOADED
    return Answer(body=word.encode("ascii") + b"\n", headers=(("Content-Type", "text/plain"),))


def refusal(personality: Personality, refused: Refused) -> Answer:
    """Return the answer to a request that was refused, worded and closed as the personality does."""
    if personality is Personality.OBJECTSTORE:
        if refused.status == 404:
            return Answer(404, b"Not found\n", (("X-N", "S"), *refused.headers))
        return Answer(refused.status, f"{refused.text}\n".encode(), (("Content-Type", "text/plain"), *refused.headers))
    text = "File not found" if refused.status == 404 else refused.text
    html = f"<html><head><title>{refused.status}</title></head><body><h1>{text}</h1></body></html>\n"
    return Answer(
        refused.status, html.encode(), (("Content-Type", _HTML), *refused.headers), close=refused.status == 409
    )


def common_headers(personality: Personality, date: str) -> tuple[tuple[str, str], ...]:
    """Return the headers every answer carries; `date` is the HTTP date."""
    headers = (
        ("Date", date),
        ("Server", _SERVERS[personality]),
        ("Cache-Control", "max-age=0, no-cache, no-store"),
    )
    return (*headers, ("Accept-Ranges", "bytes")) if personality is Personality.OBJECTSTORE else headers


def xml_answer(root: str, attributes: Iterable[Attribute], children: Iterable[bytes], encoding: Encoding) -> Answer:
    """Return a 200 with an XML document: `root` with its attributes around ready-made child elements."""
    opening = element(root, attributes, encoding, closed=False)
    declaration = f'<?xml version="1.0" encoding="{encoding.upper()}"?>\n'.encode("ascii")
    body = b"%b%b\n%b\n</%b>\n" % (declaration, opening, b"\n".join(children), root.encode("ascii"))
    return Answer(body=body, headers=(("Content-Type", f"text/xml;charset={encoding}"),))


def element(tag: str, attributes: Iterable[Attribute], encoding: Encoding, *, closed: bool = True) -> bytes:
    """Return one start tag (self-closing if `closed`); bytes no XML text can hold go into a `…_base64` twin."""
    parts = [tag.encode("ascii")]
    for name, value in attributes:
        if isinstance(value, bytes):
            parts.append(_name_attribute(name, value, encoding))
        else:
            parts.append(f'{name}="{value}"'.encode("ascii"))
    return b"<%b%b>" % (b" ".join(parts), b"/" if closed else b"")


def _name_attribute(name: str, value: bytes, encoding: Encoding) -> bytes:
    text = _printable(value, encoding)
    if text is None:
        return f'{name}_base64="{base64.b64encode(value).decode("ascii")}"'.encode("ascii")
    return f'{name}="{text.translate(_ESCAPES)}"'.encode(encoding)


def _printable(value: bytes, encoding: Encoding) -> str | None:
    try:
        text = value.decode(encoding)
    except UnicodeDecodeError:
        return None
    forbidden = any((char < " " and char not in "\t\n\r") or char in "\ufffe\uffff" for char in text)
    return None if forbidden else text
