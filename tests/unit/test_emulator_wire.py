"""HTTP heads and bodies from bytes, and names into XML and back."""

from __future__ import annotations

import asyncio
import base64
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raw_netstorage import chunked
from s3nsync.emulator.answers import Encoding, xml_answer
from s3nsync.emulator.answers import element as start_tag
from s3nsync.emulator.http import BadRequest, Body, Cut, Head, parse_head


async def go_ahead() -> None:
    """Nobody waits for it here."""


async def read_body(raw: bytes, head: Head, limit: int = 7) -> tuple[bytes, Body]:
    """Read a whole body out of `raw`."""
    reader = asyncio.StreamReader()
    reader.feed_data(raw)
    reader.feed_eof()
    body = Body(reader, head, go_ahead)
    parts = []
    while part := await body.read(limit):
        parts.append(part)
    return b"".join(parts), body


def head_of(**headers: str) -> Head:
    """Return a head with `headers` (underscores are dashes)."""
    return Head("PUT", b"/", {name.replace("_", "-"): value for name, value in headers.items()}, keep_alive=True)


CHUNKED = head_of(transfer_encoding="chunked")


def test_head_keeps_the_target() -> None:
    """The request-target is kept byte for byte, header names are folded, repeated headers joined."""
    head = parse_head(b"PUT /1/%7e//a%2Fb?q HTTP/1.1\r\nX-A: 1\r\nx-a:2 \r\nConnection: close\r\n\r\n")
    assert (head.method, head.target, head.headers["x-a"]) == ("PUT", b"/1/%7e//a%2Fb?q", "1, 2")
    assert not head.keep_alive


@pytest.mark.parametrize(
    "raw",
    [
        b"PUT /a b HTTP/1.1\r\n\r\n",
        b"PUT http://h/a HTTP/1.1\r\n\r\n",
        b"PUT /a HTTP/2\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nno colon\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nname : x\r\n\r\n",
        b"PUT /a HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
    ],
)
def test_heads_that_are_none(raw: bytes) -> None:
    """What is not a request head is refused."""
    with pytest.raises(BadRequest):
        parse_head(raw)


@pytest.mark.parametrize("value", ["-1", "1x", "", "1, 1", "٣"])
def test_lengths_that_are_none(value: str) -> None:
    """A Content-Length that is no plain number is refused, and so is one beside chunks."""
    with pytest.raises(BadRequest):
        _ = head_of(content_length=value).length_bytes
    with pytest.raises(BadRequest):
        _ = head_of(content_length="1", transfer_encoding="chunked").length_bytes


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=5), st.integers(1, 30))
def test_any_chunking_is_the_same_body(parts: list[bytes], limit: int) -> None:
    """However a body is cut into chunks and reads, its bytes and trailers come out."""
    raw = chunked(parts, [("X-Late", "yes")])
    data, body = asyncio.run(read_body(raw, CHUNKED, limit))
    assert (data, body.trailers, body.complete) == (b"".join(parts), {"x-late": "yes"}, True)


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=4), st.data())
def test_a_short_body_is_never_whole(parts: list[bytes], data: st.DataObject) -> None:
    """A chunked body that ends anywhere before its last byte is cut, not complete."""
    raw = chunked(parts, [("X-Late", "yes")])
    stop = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(Cut):
        asyncio.run(read_body(raw[:stop], CHUNKED))


async def test_a_short_sized_body_is_cut() -> None:
    """A sized body short by one byte is cut."""
    with pytest.raises(Cut):
        await read_body(b"ab", head_of(content_length="3"))


@pytest.mark.parametrize("raw", [b"x\r\n", b"-1\r\n", b"\r\n", b"1\r\nabc\r\n", b"1\r\naXY0\r\n\r\n", b"0x1\r\na\r\n"])
async def test_chunks_that_are_none(raw: bytes) -> None:
    """A chunk that lies about itself is refused."""
    with pytest.raises(BadRequest):
        await read_body(raw, CHUNKED)


@given(st.binary(max_size=30), st.sampled_from(["utf-8", "iso-8859-1"]))
def test_any_name_survives_xml(name: bytes, encoding: Encoding) -> None:
    """Any bytes come back from an XML attribute, as text in the encoding asked for or as base64."""
    answer = xml_answer("stat", [("directory", b"/1")], [start_tag("file", [("name", name)], encoding)], encoding)
    entry = ET.fromstring(answer.body).find("file")  # noqa: S314 -- written two lines above
    assert entry is not None
    if "name" in entry.attrib:
        assert entry.attrib["name"].encode(encoding) == name
    else:
        assert base64.b64decode(entry.attrib["name_base64"]) == name


def test_plain_names_stay_readable() -> None:
    """Base64 is used only where text cannot hold the name."""
    assert start_tag("file", [("name", "é&".encode())], "utf-8") == '<file name="é&amp;"/>'.encode()
    assert start_tag("file", [("name", b"\xc0\xc0")], "utf-8") == b'<file name_base64="wMA="/>'
