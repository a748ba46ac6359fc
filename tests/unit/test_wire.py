"""The wire format, against golden vectors and by properties."""

from __future__ import annotations

import base64
import json
from email.utils import formatdate
from pathlib import Path
from typing import TypedDict
from urllib.parse import parse_qsl, unquote_to_bytes
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3nsync.errors import (
    BadAnswer,
    ConfigError,
    TargetClock,
    TargetConflict,
    TargetCredentials,
    TargetError,
    TargetMissing,
    TargetPrecondition,
    TargetRefused,
    TargetUnavailable,
)
from s3nsync.netstorage import wire
from s3nsync.netstorage.wire import Account, Entry, Page, Usage, XmlReader


class Signature(TypedDict):
    """One signed request."""

    origin: str
    key: str
    user: str
    time_s: int
    unique_id: str
    target: str
    action: str
    data: str
    sign: str


class TargetVector(TypedDict, total=False):
    """One path and how it goes on the request line."""

    path: str
    path_base64: str
    target: str


class ActionVector(TypedDict):
    """One Action header."""

    action: str
    options: dict[str, str | int]
    header: str


class PageVector(TypedDict):
    """One listing."""

    xml: str
    entries: list[dict[str, str | int | bool]]
    resume: str | None


class UsageVector(TypedDict):
    """One du answer."""

    xml: str
    files: int
    total_bytes: int


class Vectors(TypedDict):
    """The whole file."""

    signatures: list[Signature]
    targets: list[TargetVector]
    actions: list[ActionVector]
    pages: list[PageVector]
    usages: list[UsageVector]


VECTORS: Vectors = json.loads((Path(__file__).parents[1] / "vectors" / "netstorage.json").read_text("utf-8"))
NOW_S = 1_280_000_000
DATE = formatdate(NOW_S, usegmt=True)


def read_page(xml: str | bytes) -> Page:
    """Read a whole document."""
    reader = XmlReader("test")
    reader.feed(xml.encode() if isinstance(xml, str) else xml)
    return reader.page()


# --- signature, path, action -----------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["signatures"], ids=lambda v: v["target"])
def test_signed_values_match_the_published_vectors(vector: Signature) -> None:
    """The three headers are byte for byte those that Akamai publishes."""
    account = Account("h", vector["user"], vector["key"])
    values = wire.signed_values(
        account, vector["target"], vector["action"], now_s=vector["time_s"] + 0.9, nonce=vector["unique_id"]
    )
    assert dict(zip(wire.SIGNED_NAMES, values, strict=True)) == {
        "X-Akamai-ACS-Action": vector["action"],
        "X-Akamai-ACS-Auth-Data": vector["data"],
        "X-Akamai-ACS-Auth-Sign": vector["sign"],
    }


@pytest.mark.parametrize("vector", VECTORS["targets"], ids=lambda v: v["target"])
def test_request_target_matches_the_vectors(vector: TargetVector) -> None:
    """Every byte but the unreserved and the slash is percent-encoded, once."""
    path = base64.b64decode(vector["path_base64"]) if "path_base64" in vector else vector["path"]
    assert wire.request_target(path) == vector["target"]


@pytest.mark.parametrize("vector", VECTORS["actions"], ids=lambda v: v["header"])
def test_action_header_matches_the_vectors(vector: ActionVector) -> None:
    """Options stand in the order given, values escaped once."""
    assert wire.action_header(vector["action"], **vector["options"]) == vector["header"]


@given(st.binary(max_size=60).filter(lambda raw: not {b".", b".."} & set(raw.split(b"/"))))
def test_any_bytes_survive_the_way_there_and_back(raw: bytes) -> None:
    """A name of any bytes becomes text, a request target and itself again."""
    text = "/1/" + wire.name_text(raw)
    target = wire.request_target(text)
    assert target == wire.request_target(b"/1/" + raw)
    assert unquote_to_bytes(target) == b"/1/" + raw
    assert set(target) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~/%")


@given(st.dictionaries(st.sampled_from(["md5", "target", "start", "end"]), st.text(st.characters(codec="utf-8"))))
def test_action_options_survive_query_parsing(options: dict[str, str]) -> None:
    """A query-string parser reads back exactly the options that went in."""
    header = wire.action_header("stat", **options)
    expected = [("version", "1"), ("action", "stat"), *options.items()]
    assert parse_qsl(header, keep_blank_values=True, strict_parsing=True) == expected


def test_options_of_none_are_left_out() -> None:
    """None means: not said."""
    assert wire.action_header("upload", md5=None, size=0) == "version=1&action=upload&size=0"


@pytest.mark.parametrize("path", ["", "a", "/1/../2", "/1/./a", "/..", "/1/..", "/1/\ud800"])
def test_paths_that_could_address_something_else_are_refused(path: str) -> None:
    """Relative paths, dot segments and half characters never reach the wire."""
    with pytest.raises(TargetRefused) as caught:
        wire.request_target(path)
    assert caught.value.hint


@pytest.mark.parametrize("path", ["/1/...", "/1/.hidden", "/1/a.", "/1/..a", "/1/a/..b/c"])
def test_dots_within_a_name_are_just_dots(path: str) -> None:
    """Only whole `.` and `..` segments are special."""
    assert wire.request_target(path) == path


def test_upload_options_come_in_the_official_order() -> None:
    """Digest, mtime, size, as in the official example."""
    options = wire.upload_options(size=3, mtime_s=7, sha256="ab", md5="cd")
    assert wire.action_header("upload", **options) == "version=1&action=upload&md5=cd&sha256=ab&mtime=7&size=3"


def test_an_indexed_zip_cannot_be_proven_by_size_or_digest() -> None:
    """The server changes such a zip while storing it."""
    options = wire.upload_options(size=None, mtime_s=None, index_zip=True)
    assert wire.action_header("upload", **options) == "version=1&action=upload&index-zip=1"
    with pytest.raises(ValueError, match="index_zip"):
        wire.upload_options(size=3, mtime_s=None, index_zip=True)


def test_the_list_bound_is_the_first_name_after_the_directory() -> None:
    """`0` follows `/`, so everything below sorts before the bound and nothing else of that prefix does."""
    assert wire.list_end("/1/a") == wire.list_end("/1/a/") == "/1/a0"
    assert "/1/a/\U0010ffff" < wire.list_end("/1/a") <= "/1/a0"


# --- accounts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hostname", "scheme", "expected"),
    [
        ("x-nsu.akamaihd.net", "https", ("x-nsu.akamaihd.net", 443)),
        ("127.0.0.1:8080", "http", ("127.0.0.1", 8080)),
        ("localhost", "http", ("localhost", 80)),
        ("[::1]:81", "http", ("::1", 81)),
        ("[::1]", "https", ("::1", 443)),
    ],
)
def test_hostnames_are_read_with_their_port(hostname: str, scheme: wire.Scheme, expected: tuple[str, int]) -> None:
    """The port defaults to the scheme's."""
    account = Account.parse(hostname, "u", "k", scheme=scheme)
    assert (account.host, account.port) == expected


@pytest.mark.parametrize(
    "hostname",
    [
        "",
        "https://x.net",
        "x.net/",
        "x.net/123",
        "a b",
        "x:",
        "x:0",
        "x:65536",
        "x:y",
        "x:²",
        "[::1",
        "[::1]x",
        "a\r\nb",
    ],
)
def test_what_is_no_hostname_is_a_config_error(hostname: str) -> None:
    """The message says what a host name looks like."""
    with pytest.raises(ConfigError, match="host name") as caught:
        Account.parse(hostname, "u", "k")
    assert "nsu.akamaihd.net" in caught.value.hint


@pytest.mark.parametrize("user", ["", "a b", "a,b", "a\n", "ü", "a/b"])
def test_a_user_that_would_break_the_header_is_refused(user: str) -> None:
    """Auth-Data is comma-separated: the account's charset is narrow."""
    with pytest.raises(ConfigError, match="upload account"):
        Account("h", user, "k")


def test_the_key_is_needed_and_never_shown() -> None:
    """A repr may be logged."""
    assert "s3cret" not in repr(Account("h", "u", "s3cret"))
    with pytest.raises(ConfigError, match="key"):
        Account("h", "u", "")


# --- XML -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("vector", VECTORS["pages"], ids=lambda v: v["xml"][-40:])
def test_pages_match_the_vectors(vector: PageVector) -> None:
    """Listings are read whole, wherever they are cut into chunks."""
    expected = [Entry("", "file")._asdict() | entry for entry in vector["entries"]]
    raw = vector["xml"].encode()
    for size in (1, 7, len(raw)):
        reader = XmlReader("test")
        for at in range(0, len(raw), size):
            reader.feed(raw[at : at + size])
        page = reader.page()
        assert [entry._asdict() for entry in page.entries] == expected
        assert page.resume == vector["resume"]


@pytest.mark.parametrize("vector", VECTORS["usages"], ids=lambda v: v["xml"][:30])
def test_usages_match_the_vectors(vector: UsageVector) -> None:
    """Du answers hold two totals."""
    reader = XmlReader("test")
    reader.feed(vector["xml"].encode())
    assert reader.usage() == Usage(vector["files"], vector["total_bytes"])


xml_names = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"], exclude_characters="/"), min_size=1, max_size=20
)


@given(xml_names, st.sampled_from(["UTF-8", "ISO-8859-1"]))
def test_names_read_the_same_plain_or_base64_in_both_encodings(name: str, encoding: str) -> None:
    """A name comes out as it was stored, whichever way the server had to spell it."""
    twin = f'name_base64="{base64.b64encode(name.encode()).decode()}"'
    plain = f"name={quoteattr(name)}"
    for attribute in (twin, plain):
        document = (
            f'<?xml version="1.0" encoding="{encoding}"?><stat directory="/1"><file type="file" {attribute}/></stat>'
        )
        raw = document.encode(encoding, "xmlcharrefreplace")
        assert read_page(raw).entries[0].path == f"/1/{name}"


def test_an_entry_has_a_name() -> None:
    """The name is the last segment."""
    assert Entry("/1/a/b c", "file").name == "b c"


@pytest.mark.parametrize(
    ("xml", "why"),
    [
        ("", "well-formed"),
        ("Not found", "well-formed"),
        ("<html><body/></html>", "root is <html>"),
        ("<du directory='/1'><du-info files='1' bytes='2'/></du>", "root is <du>"),
        ("<stat directory='/1'>", "well-formed"),
        ("<stat><file type='file' name='a'/></stat>", "directory"),
        ("<stat directory='/1'><file type='file'/></stat>", "name"),
        ("<stat directory='/1'><file name='a'/></stat>", "type"),
        ("<stat directory='/1'><file type='pipe' name='a'/></stat>", "pipe"),
        ("<stat directory='/1'><file type='file' name='a' size='big'/></stat>", "big"),
        ("<stat directory='/1'><file type='file' name_base64='?'/></stat>", "attribute"),
        ("<!DOCTYPE stat><stat directory='/1'/>", "document type"),
        (
            '<!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><list><file type="&b;" name="x"/></list>',
            "document",
        ),
        ('<!DOCTYPE l SYSTEM "file:///etc/passwd"><list/>', "document type"),
    ],
)
def test_what_is_no_listing_is_a_bad_answer(xml: str, why: str) -> None:
    """Broken, foreign and hostile documents are refused, and the message says whose answer and why."""
    with pytest.raises(BadAnswer, match=why) as caught:
        read_page(xml)
    assert caught.value.message.startswith("test: ")


def test_a_du_answer_without_totals_is_a_bad_answer() -> None:
    """Half a du answer is none."""
    reader = XmlReader("test")
    reader.feed(b"<du directory='/1'/>")
    with pytest.raises(BadAnswer, match="du-info"):
        reader.usage()


# --- verdicts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "action", "skew", "kind"),
    [
        (403, "upload", None, TargetCredentials),
        (403, "upload", 30.0, TargetCredentials),
        (403, "upload", 31.0, TargetClock),
        (403, "stat", -31.0, TargetClock),
        (404, "delete", None, TargetMissing),
        (404, "upload", None, TargetUnavailable),
        (409, "mkdir", None, TargetConflict),
        (409, "rmdir", None, TargetConflict),
        (412, "upload", None, TargetPrecondition),
        (412, "dir", None, TargetConflict),
        (412, "list", None, TargetRefused),
        (400, "list", None, TargetRefused),
        (400, "upload", None, TargetRefused),
        (411, "upload", None, TargetRefused),
        (302, "stat", None, TargetRefused),
        (423, "upload", None, TargetUnavailable),
        (429, "upload", None, TargetUnavailable),
        (500, "upload", None, TargetUnavailable),
        (503, "list", None, TargetUnavailable),
        (599, "du", None, TargetUnavailable),
    ],
)
def test_every_status_has_its_error_type(status: int, action: str, skew: float | None, kind: type[TargetError]) -> None:
    """What a status means depends on the action, and for 403 on the clocks."""
    error = wire.verdict(status, {}, "", action, "/1/a", skew=skew)
    assert type(error) is kind
    assert error.status == status
    assert error.message.startswith(f"{action} /1/a: NetStorage answered {status}")


@given(st.integers(300, 999), st.sampled_from(["upload", "list", "dir", "rmdir", "delete"]))
def test_every_refusal_has_an_advice(status: int, action: str) -> None:
    """No status leaves the reader without a next step, and retrying is only promised where it can help."""
    error = wire.verdict(status, {}, "", action, "/1/a")
    assert error.hint
    assert error.transient == (
        status in {408, 423, 425, 429} or status >= 500 or (status, action) in {(404, "upload"), (412, "upload")}
    )


def test_a_clock_fault_says_how_far_off() -> None:
    """The figure is in the message."""
    assert "-90 s" in wire.verdict(403, {}, "", "stat", "/1", skew=-90.2).message


def test_the_servers_text_is_quoted_as_plain_text() -> None:
    """Tags, entities, control characters and line ends are gone, and the length is bounded."""
    html = "<HTML><H1>Conflict</H1>\n a &amp; b\x1b[31m\x00</HTML>" + "x" * 500
    text = wire.plain_text(html)
    assert text.startswith("Conflict a & b [31m")
    assert len(text) == 200
    assert "(Not found)" in wire.verdict(404, {}, "Not found\n", "stat", "/1").message


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": formatdate(NOW_S + 9, usegmt=True), "Date": DATE}, 9.0),
        ({"Retry-After": formatdate(NOW_S - 9, usegmt=True), "Date": DATE}, 0.0),
        ({"Retry-After": formatdate(NOW_S + 9, usegmt=True)}, None),
    ],
)
def test_retry_after_is_read_in_both_spellings(headers: dict[str, str], expected: float | None) -> None:
    """A date is measured against the server's own clock, not ours."""
    assert wire.verdict(429, headers, "", "stat", "/1").retry_after_s == expected


def test_skew_is_the_servers_clock_minus_ours() -> None:
    """Positive: the server is ahead; unreadable dates say nothing."""
    assert wire.skew_s(DATE, NOW_S - 40.0) == 40.0
    assert wire.skew_s(None, 0.0) is None
    assert wire.skew_s("yesterday", 0.0) is None
    assert not wire.clock_is_off(None)


@pytest.mark.parametrize(
    ("server", "expected"),
    [
        ("AkamaiNetStorage", "objectstore"),
        ("Apache", "filestore"),
        ("Apache/2.4", "filestore"),
        ("nginx", None),
        (None, None),
    ],
)
def test_the_server_header_tells_the_personality(server: str | None, expected: wire.Personality | None) -> None:
    """ObjectStore and FileStore differ in what they can do."""
    assert wire.personality(server) == expected
