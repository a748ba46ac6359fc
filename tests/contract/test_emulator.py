"""The emulator on the wire: each action of both generations, uploads that must not be stored, every fault, control."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import shlex
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Unpack

import pytest
import trustme

from raw_netstorage import CPCODE, KEY, NOW_S, USER, Auth, Raw, Reply, auth_headers, chunked, head, request
from s3nsync.emulator import Emulator, Fault, Options, Personality, running

OBJECT, FILE = Personality.OBJECTSTORE, Personality.FILESTORE
BOTH = pytest.mark.parametrize("personality", [OBJECT, FILE])
MD5_ABC = hashlib.md5(b"abc", usedforsecurity=False).hexdigest()


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        """Start at the time requests are signed for."""
        self.now_s: float = NOW_S

    def __call__(self) -> float:
        """Return the time."""
        return self.now_s


def emulator_of(
    personality: Personality = OBJECT, *, now_s: Callable[[], float] = lambda: NOW_S, **more: object
) -> Emulator:
    """Return an emulator with the account and CP code the raw client uses."""
    return Emulator(accounts={USER: KEY}, cpcodes=(CPCODE,), personality=personality, now_s=now_s, **more)  # type: ignore[arg-type]


@asynccontextmanager
async def scene(personality: Personality = OBJECT, **more: object) -> AsyncIterator[tuple[Emulator, Raw]]:
    """Yield a running emulator and one connection to it."""
    async with emulator_of(personality, **more) as emulator, Raw(emulator.port) as raw:  # type: ignore[arg-type]
        yield emulator, raw


async def put(raw: Raw, name: str, body: bytes = b"abc", options: str = "") -> Reply:
    """Upload `body` and want it stored."""
    reply = await raw.ask("PUT", f"/{CPCODE}/{name}", f"upload&size={len(body)}{options}", body)
    assert reply.status == 200, reply
    return reply


async def get(raw: Raw, name: str, action: str, status: int = 200) -> Reply:
    """Ask a read and want `status`."""
    reply = await raw.ask("GET", f"/{CPCODE}/{name}".removesuffix("/-"), action)
    assert reply.status == status, reply
    return reply


async def do(raw: Raw, name: str, action: str, status: int = 200) -> Reply:
    """Ask a write without a body and want `status`."""
    reply = await raw.ask("POST", f"/{CPCODE}/{name}", action)
    assert reply.status == status, reply
    return reply


def paths(emulator: Emulator) -> set[str]:
    """Return the names stored, below the CP code."""
    return {path.removeprefix(f"/{CPCODE}/") for path in emulator.snapshot()}


# --- answers' outside ----------------------------------------------------------------------------------------------


async def test_objectstore_looks() -> None:
    """ObjectStore: empty 200 after upload, one-word texts, `Server` and `X-N` as recorded from the real one."""
    async with scene(OBJECT) as (_, raw):
        stored = await put(raw, "x")
        assert (stored.body, stored.headers["server"]) == (b"", "AkamaiNetStorage")
        assert stored.headers["cache-control"] == "max-age=0, no-cache, no-store"
        assert "date" in stored.headers
        missing = await get(raw, "gone", "stat", 404)
        assert missing.headers["x-n"] == "S"
        assert "content-type" not in missing.headers
        assert missing.headers["connection"] == "keep-alive"


async def test_filestore_looks() -> None:
    """FileStore: Apache, HTML answers, and the connection ends after a 409."""
    async with scene(FILE) as (_, raw):
        stored = await put(raw, "d/x")
        assert (stored.headers["server"], b"Request Processed" in stored.body) == ("Apache", True)
        assert (await get(raw, "gone", "stat", 404)).headers["content-type"].startswith("text/html")
        assert (await do(raw, "d", "mkdir", 409)).headers["connection"] == "close"
        assert await raw.closed()


@BOTH
async def test_refusals_before_the_signature(personality: Personality) -> None:
    """No action, an action with the wrong method, a strange CP code and a wrong key are all 403."""
    async with scene(personality) as (_, raw):
        await raw.send(head("GET", f"/{CPCODE}/x", []))
        assert (await raw.reply()).status == 403
        assert (await raw.ask("PUT", f"/{CPCODE}/x", "stat")).status == 403
        assert (await raw.ask("GET", "/999/x", "stat")).status == 403
        assert (await raw.ask("GET", f"/{CPCODE}/x", "stat", key="wrong")).status == 403
        assert (await raw.ask("GET", f"/{CPCODE}/x", "stat", time_s=NOW_S - 61)).status == 403
        assert (await raw.ask("GET", f"/{CPCODE}/x", "stat")).status == 404


async def test_replayed_signature() -> None:
    """With `nonce_replay` the same signature is good once."""
    async with scene(nonce_replay=True) as (_, raw):
        for status in (404, 403):
            assert (await raw.ask("GET", f"/{CPCODE}/x", "stat", unique="77")).status == status


async def test_nonsense_ends_the_connection() -> None:
    """What is not HTTP gets a 400 and a closed connection."""
    async with scene() as (_, raw):
        await raw.send(b"HELO there\r\n\r\n")
        assert (await raw.reply()).status == 400
        assert await raw.closed()


@pytest.mark.parametrize("door", ["api", "control"])
async def test_tls_on_a_plain_port(door: str) -> None:
    """A TLS client that knocks at a plain-HTTP port is not left waiting: the connection is closed at once."""
    async with emulator_of() as emulator:
        url = emulator.url if door == "api" else emulator.control_url
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"\x16\x03\x01")
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        await writer.wait_closed()


async def test_endless_head() -> None:
    """A head without an end is refused at a bounded size."""
    async with scene() as (_, raw):
        await raw.send(b"GET / HTTP/1.1\r\nX: " + b"a" * 600_000)
        assert (await raw.reply()).status == 400


# --- uploads -------------------------------------------------------------------------------------------------------


@BOTH
async def test_upload_and_stat(personality: Personality) -> None:
    """A stored file has the size, MD5 and mtime it was sent with."""
    async with scene(personality) as (emulator, raw):
        await put(raw, "a/x%20%C3%A9", b"abc", f"&md5={MD5_ABC}&mtime=1600000000")
        stat = await get(raw, "a/x%20%C3%A9", "stat&format=xml&encoding=utf-8")
        assert stat.xml().attrib == {"directory": f"/{CPCODE}/a"}
        assert stat.files() == [{"type": "file", "name": "x é", "mtime": "1600000000", "size": "3", "md5": MD5_ABC}]
        stored = emulator.snapshot()[f"/{CPCODE}/a/x é"]
        assert (stored.size_bytes, stored.md5, stored.mtime_s, stored.read()) == (3, MD5_ABC, 1600000000, b"abc")


async def test_mtime_defaults_to_completion() -> None:
    """Without `mtime` the time of completion is taken."""
    async with scene() as (emulator, raw):
        await put(raw, "x")
        assert emulator.snapshot()[f"/{CPCODE}/x"].mtime_s == NOW_S


@BOTH
@pytest.mark.parametrize("declared", ["size=4", "md5=" + "0" * 32, "sha1=" + "0" * 40, "sha256=" + "0" * 64])
async def test_mismatch_stores_nothing(personality: Personality, declared: str) -> None:
    """A body that is not what was declared is a 412, and the old object stays."""
    async with scene(personality) as (emulator, raw):
        await put(raw, "x", b"old")
        reply = await raw.ask("PUT", f"/{CPCODE}/x", f"upload&{declared}", b"new")
        assert reply.status == 412
        assert emulator.snapshot()[f"/{CPCODE}/x"].read() == b"old"


@pytest.mark.parametrize("name", ["md5", "sha1", "sha256"])
async def test_right_digests_pass(name: str) -> None:
    """Each digest is checked as hex, in either case."""
    async with scene() as (_, raw):
        digest = hashlib.new(name, b"abc").hexdigest().upper()
        await put(raw, "x", b"abc", f"&{name}={digest}")


async def test_length_required() -> None:
    """Neither Content-Length nor chunks is a 411."""
    async with scene() as (emulator, raw):
        target = f"/{CPCODE}/x"
        await raw.send(head("PUT", target, auth_headers(target, "version=1&action=upload")))
        assert (await raw.reply()).status == 411
        assert paths(emulator) == set()


@pytest.mark.parametrize(
    ("name", "action", "status"),
    [
        ("", "upload", 404),
        ("d/", "upload", 400),
        ("x", "upload&upload-type=form", 400),
        ("x", "upload&upload-type=binary", 200),
        ("x.zip", "upload&index-zip=1", 200),
        ("x", "upload&size=-3", 400),
        ("x", "upload&sha256=atend", 400),
    ],
)
async def test_upload_options(name: str, action: str, status: int) -> None:
    """What an upload may ask for, and what it may not."""
    async with scene() as (_, raw):
        target = f"/{CPCODE}/{name}" if name else f"/{CPCODE}"
        assert (await raw.ask("PUT", target, action, b"abc")).status == status


async def test_expect_continue() -> None:
    """The go-ahead comes after the signature was found good, never before a refusal."""
    async with scene() as (_, raw):
        target = f"/{CPCODE}/x"
        expect = [("Content-Length", "3"), ("Expect", "100-continue")]
        await raw.send(head("PUT", target, [*auth_headers(target, "version=1&action=upload"), *expect]))
        assert (await raw.reply()).status == 100
        await raw.send(b"abc")
        assert (await raw.reply()).status == 200
        await raw.send(head("PUT", target, [*auth_headers(target, "version=1&action=upload", key="no"), *expect]))
        assert (await raw.reply()).status == 403
        assert await raw.closed()


async def test_early_refusal_of_a_large_upload() -> None:
    """A refused upload is answered before its body has come, and the connection then ends."""
    async with scene() as (_, raw):
        target = f"/{CPCODE}/x"
        signed = auth_headers(target, "version=1&action=upload", key="wrong")
        await raw.send(head("PUT", target, [*signed, ("Content-Length", str(1 << 30))]) + b"z" * 100_000)
        reply = await raw.reply()
        assert (reply.status, reply.headers["connection"]) == (403, "close")
        assert await raw.closed()


async def test_a_client_that_talks_on_still_hears_the_refusal() -> None:
    """What a client sends after it was refused is swallowed for a while, so that no reset eats the answer."""
    async with scene() as (emulator, raw):
        target = f"/{CPCODE}/x"
        signed = auth_headers(target, "version=1&action=upload", key="wrong")
        await raw.send(head("PUT", target, [*signed, ("Content-Length", "900000")]))
        await until(lambda: len(emulator.requests) == 1)
        for _ in range(3):
            await asyncio.sleep(0.01)
            await raw.send(b"z" * 300_000)
        assert (await raw.reply()).status == 403


async def test_small_refused_upload_keeps_the_connection() -> None:
    """A short body is swallowed, so that the next request can use the connection."""
    async with scene() as (emulator, raw):
        assert (await raw.ask("PUT", f"/{CPCODE}/x", "upload", b"abc", key="wrong")).status == 403
        await put(raw, "x")
        assert emulator.stats()["connections"] == 1


def trailed(values: str, *, action: str = "upload", body: bytes = b"abc", **auth: Unpack[Auth]) -> bytes:
    """Return a chunked upload whose trailers declare `values`, signed as `auth` says."""
    target = f"/{CPCODE}/x"
    opening = auth_headers(target, "version=1&action=upload&sha256=atend&mtime=atend")
    closing = auth_headers(target, f"version=1&action={action}&{values}", **auth)
    return head("PUT", target, [*opening, ("Transfer-Encoding", "chunked")]) + chunked([body[:1], body[1:]], closing)


SHA256_ABC = hashlib.sha256(b"abc").hexdigest()


async def test_signed_trailers() -> None:
    """Values promised with `atend` come in re-signed trailers and count."""
    async with scene() as (emulator, raw):
        await raw.send(trailed(f"sha256={SHA256_ABC}&mtime=1500000000"))
        assert (await raw.reply()).status == 200
        assert emulator.snapshot()[f"/{CPCODE}/x"].mtime_s == 1500000000


@pytest.mark.parametrize(
    ("raw_request", "status"),
    [
        (trailed(f"sha256={'0' * 64}&mtime=1"), 412),
        (trailed(f"sha256={SHA256_ABC}"), 400),
        (trailed(f"sha256={SHA256_ABC}&mtime=atend"), 400),
        (trailed(f"sha256={SHA256_ABC}&mtime=soon"), 400),
        (trailed(f"sha256={SHA256_ABC}&mtime=1", key="wrong"), 403),
        (trailed(f"sha256={SHA256_ABC}&mtime=1", time_s=NOW_S - 300), 403),
        (trailed(f"sha256={SHA256_ABC}&mtime=1", action="delete"), 400),
        (trailed(f"sha256={SHA256_ABC}&mtime=1").replace(b"&mtime=1\r\n", b"&mtime=2\r\n"), 403),
        (trailed(f"sha256={SHA256_ABC}&mtime=1").replace(b"0\r\nX-Akamai-ACS-Action:", b"0\r\nX-Other:"), 400),
    ],
)
async def test_bad_trailers_store_nothing(raw_request: bytes, status: int) -> None:
    """Missing, unsigned, stale or untrue trailers leave the old object."""
    async with scene() as (emulator, raw):
        await put(raw, "x", b"old")
        await raw.send(raw_request)
        assert (await raw.reply()).status == status
        assert emulator.snapshot()[f"/{CPCODE}/x"].read() == b"old"


@pytest.mark.parametrize("framing", ["sized", "chunked"])
@pytest.mark.parametrize("folder", [False, True])
async def test_cut_upload_stores_nothing(framing: str, folder: bool, tmp_path: Path) -> None:
    """A client that leaves in the middle of a body has changed nothing, and no bytes are left lying about."""
    async with scene(folder=tmp_path if folder else None) as (emulator, raw):
        await put(raw, "x", b"old")
        target = f"/{CPCODE}/x"
        header = ("Content-Length", "100") if framing == "sized" else ("Transfer-Encoding", "chunked")
        async with Raw(emulator.port) as cut:
            await cut.send(head("PUT", target, [*auth_headers(target, "version=1&action=upload"), header]))
            await cut.send(b"20\r\n" + b"n" * 20)
        await until(lambda: len(emulator.requests) == 2)
        assert emulator.requests[-1].status == 0
        assert emulator.snapshot()[f"/{CPCODE}/x"].read() == b"old"
        assert files_in(tmp_path) == folder


def files_in(folder: Path) -> int:
    """Return how many files lie in `folder`, at any depth."""
    return sum(path.is_file() for path in folder.rglob("*"))


async def until(condition: Callable[[], bool]) -> None:
    """Wait, for a bounded time, until `condition` holds."""
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


async def test_readers_see_one_object_whole(tmp_path: Path) -> None:
    """A download begun before an overwrite ends with the old bytes, one begun after has the new ones."""
    async with scene(folder=tmp_path) as (_, raw):
        old, new = b"o" * 20_000_000, b"n" * 20_000_000
        await put(raw, "x", old)
        await raw.send(request("GET", f"/{CPCODE}/x", "download"))
        async with Raw(int(raw.writer.get_extra_info("peername")[1])) as other:
            await put(other, "x", new)
            assert (await raw.reply()).body == old
            assert (await get(other, "x", "download")).body == new


# --- reads ---------------------------------------------------------------------------------------------------------


async def test_stat_of_directories_on_objectstore() -> None:
    """Implicit directories are found only with `implicit=yes`; `slash=both` gives the file and the directory."""
    async with scene() as (_, raw):
        await put(raw, "a")
        await put(raw, "a/b/c")
        await get(raw, "a/b", "stat", 404)
        implicit = (await get(raw, "a/b", "stat&implicit=yes")).files()
        assert implicit == [{"type": "dir", "name": "b", "implicit": "true"}]
        both = (await get(raw, "a", "stat&implicit=yes&slash=both")).files()
        assert [(entry["type"], entry["name"]) for entry in both] == [("file", "a"), ("dir", "a/")]
        await do(raw, "e", "mkdir")
        assert (await get(raw, "e/", "stat")).files() == [{"type": "dir", "name": "e/", "mtime": str(NOW_S)}]
        assert (await get(raw, "-", "stat")).files()[0]["name"] == CPCODE


async def test_implicit_directories_vanish() -> None:
    """On ObjectStore a directory nobody made goes with its last file; one that was made stays."""
    async with scene(OBJECT) as (_, raw):
        await put(raw, "a/b/c")
        await do(raw, "a", "mkdir")
        await do(raw, "a/b/c", "delete")
        await get(raw, "a/b", "stat&implicit=yes", 404)
        await get(raw, "a", "stat")


async def test_filestore_directories_stay() -> None:
    """On FileStore an upload makes real directories, which outlive their files."""
    async with scene(FILE) as (_, raw):
        await put(raw, "a/b/c")
        await do(raw, "a/b/c", "delete")
        assert (await get(raw, "a/b", "stat")).files()[0]["type"] == "dir"
        assert (await get(raw, "a/b", "dir")).files() == []
        assert (await get(raw, "a/b/", "stat&slash=both")).files()[0]["name"] == "b"


async def test_dir_on_objectstore() -> None:
    """Direct children in order, directories with recursive totals and without a slash."""
    async with scene(OBJECT) as (_, raw):
        for name in ("d/z", "d/b/x", "d/b/c/y", "d/b-", "d-", "d/a"):
            await put(raw, name)
        reply = await get(raw, "d", "dir&encoding=utf-8")
        assert reply.xml().attrib == {"directory": f"/{CPCODE}/d"}
        assert [entry["name"] for entry in reply.files()] == ["a", "b", "b-", "z"]
        assert reply.files()[1] == {"type": "dir", "name": "b", "implicit": "true", "bytes": "6", "files": "2"}
        assert (await get(raw, "-", "dir")).status == 200


@BOTH
async def test_dir_is_whole_unless_pages_are_asked_for(personality: Personality) -> None:
    """Without `max_entries` the cap does not cut a directory short: clients in the field ignore `resume`."""
    async with scene(personality, page_cap=2) as (_, raw):
        for number in range(5):
            await put(raw, f"d/{number}")
        assert len((await get(raw, "d", "dir")).files()) == 5


@BOTH
async def test_dir_of_what_is_none(personality: Personality) -> None:
    """A file is a 412, nothing a 404, an empty CP code an empty listing."""
    async with scene(personality) as (_, raw):
        assert (await get(raw, "-", "dir")).files() == []
        await put(raw, "x")
        await get(raw, "x", "dir", 412)
        await get(raw, "y", "dir", 404)


async def test_dir_bounds_and_both() -> None:
    """Start is inclusive, end exclusive, prefix a prefix; a file hides a directory unless `slash=both`."""
    async with scene() as (_, raw):
        for name in ("d/a", "d/b", "d/b/x", "d/b-", "d/ba", "d/c"):
            await put(raw, name)
        for options, names in (
            ("", ["a", "b", "b-", "ba", "c"]),
            ("&start=b", ["b", "b-", "ba", "c"]),
            ("&start=b&end=c", ["b", "b-", "ba"]),
            ("&prefix=b", ["b", "b-", "ba"]),
            ("&slash=both", ["a", "b", "b-", "b/", "ba", "c"]),
        ):
            assert [entry["name"] for entry in (await get(raw, "d", "dir" + options)).files()] == names


@pytest.mark.parametrize(("cap", "asked"), [(1, 100), (2, 100), (100, 3)])
@pytest.mark.parametrize("slash", ["", "&slash=both"])
async def test_dir_pages(cap: int, asked: int, slash: str) -> None:
    """Pages are bounded by the server's cap or the client's wish, and together they are the whole directory."""
    async with scene(page_cap=cap) as (_, raw):
        for name in ("d/a", "d/sub-x", "d/sub/1", "d/sub", "d/sub/2", "d/z%C0", "d/z%FF"):
            await put(raw, name)
        seen: list[str] = []
        start = ""
        for _page in range(12):
            reply = await get(raw, "d", f"dir&encoding=utf-8&max_entries={asked}{slash}{start}")
            seen += [entry.get("name", entry.get("name_base64", "")) for entry in reply.files()]
            assert len(reply.files()) <= min(cap, asked)
            resume = reply.xml().find("resume")
            if resume is None:
                break
            start = "&start=" + escaped(named(resume.attrib, "start"))
        ends = [base64.b64encode(name).decode() for name in (b"z\xc0", b"z\xff")]
        middle = ["sub", "sub-x", "sub/"] if slash else ["sub", "sub-x"]
        assert seen == ["a", *middle, *ends]


def named(attributes: dict[str, str], name: str) -> bytes:
    """Return an attribute or its base64 twin as bytes."""
    plain = attributes.get(name)
    return base64.b64decode(attributes[name + "_base64"]) if plain is None else plain.encode()


def escaped(name: bytes) -> str:
    """Percent-encode every byte."""
    return "".join(f"%{byte:02X}" for byte in name)


async def test_list_runs_on_unless_bounded() -> None:
    """Listings give full names without a leading slash, past the directory unless `end=<dir>0` is given."""
    async with scene() as (_, raw):
        for name in ("a/x", "a/y/z", "a-", "b"):
            await put(raw, name)
        await do(raw, "a/y", "mkdir")
        every = [entry["name"] for entry in (await get(raw, "a/", "list")).files()]
        assert every == [f"{CPCODE}/{name}" for name in ("a/x", "a/y/", "a/y/z", "b")]
        for end in (f"{CPCODE}/a0", f"%2F{CPCODE}%2Fa0"):
            bounded = await get(raw, "a/", f"list&end={end}")
            assert [entry["name"] for entry in bounded.files()] == every[:3]
        directory = (await get(raw, "a/", "list")).files()[1]
        assert directory == {"type": "dir", "name": f"{CPCODE}/a/y/"}
        assert (await get(raw, "a/", "list&mtime_all=yes")).files()[1]["mtime"] == str(NOW_S)


async def test_list_stays_in_its_cp_code() -> None:
    """However far it runs, list never leaves the CP code."""
    emulator = Emulator(accounts={USER: KEY}, cpcodes=("1", "2"), now_s=lambda: NOW_S)
    async with emulator, Raw(emulator.port) as raw:
        for target in ("/1/a", "/2/b"):
            assert (await raw.ask("PUT", target, "upload", b"x")).status == 200
        assert [entry["name"] for entry in (await raw.ask("GET", "/1", "list")).files()] == ["1/a"]
        assert [entry["name"] for entry in (await raw.ask("GET", "/1", "list&end=2%2Fz")).files()] == ["1/a"]


async def test_list_pages_by_path_and_by_start() -> None:
    """A listing can be resumed by asking for the resume path, or with `start=`."""
    async with scene(page_cap=2) as (_, raw):
        names = [f"d/{number}" for number in range(5)] + ["d/%FF"]
        for name in names:
            await put(raw, name)
        for by_path in (True, False):
            seen, target, start = list[bytes](), f"/{CPCODE}/d", ""
            for _page in range(3):
                reply = await raw.ask("GET", target, f"list&encoding=utf-8&max_entries=50&end={CPCODE}/d0{start}")
                seen += [named(entry, "name") for entry in reply.files()]
                resume = reply.xml().find("resume")
                if resume is None:
                    break
                point = named(dict(resume.attrib), "start")
                target, start = (escaped_path(point), "") if by_path else (target, "&start=" + escaped(point))
            assert len(seen) == 6
            assert seen[-1] == f"{CPCODE}/d/".encode() + b"\xff"


def escaped_path(name: bytes) -> str:
    """Percent-encode every byte but slashes."""
    return "/".join(escaped(part) for part in name.split(b"/"))


async def test_list_of_nothing() -> None:
    """An empty CP code is a 404, as is a directory nothing lies in; FileStore has no list at all."""
    async with scene(OBJECT) as (_, raw):
        await get(raw, "-", "list", 404)
    async with scene(FILE) as (_, raw):
        await put(raw, "x")
        await get(raw, "-", "list", 412)


@BOTH
async def test_du(personality: Personality) -> None:
    """Disk usage sums up a directory; a file is a 404."""
    async with scene(personality) as (_, raw):
        await put(raw, "d/x", b"12345")
        await put(raw, "d/y")
        await do(raw, "d/e", "mkdir")
        info = (await get(raw, "d", "du")).xml().find("du-info")
        assert info is not None
        assert info.attrib == {"files": "3" if personality is OBJECT else "4", "bytes": "8"}
        await get(raw, "d/x", "du", 404)


async def test_filestore_dir_knows_no_options() -> None:
    """FileStore lists in no order, without totals, and refuses options with 400."""
    async with scene(FILE) as (_, raw):
        names = [f"{number:02}" for number in range(20)]
        for name in names:
            await put(raw, f"d/{name}")
        entries = [entry["name"] for entry in (await get(raw, "d", "dir")).files()]
        assert sorted(entries) == names != entries
        assert entries == [entry["name"] for entry in (await get(raw, "d", "dir")).files()]
        assert "bytes" not in (await get(raw, "-", "dir")).files()[0]
        await get(raw, "d", "dir&max_entries=3", 400)


@BOTH
async def test_download(personality: Personality) -> None:
    """Bytes, length, type by extension; HEAD without the bytes; a directory is 404 or, on FileStore, 412."""
    async with scene(personality) as (_, raw):
        await put(raw, "d/x.html", b"<p>", "&mtime=784111777")
        reply = await get(raw, "d/x.html", "download")
        assert (reply.body, reply.headers["content-type"]) == (b"<p>", "text/html")
        assert reply.headers["last-modified"] == "Sun, 06 Nov 1994 08:49:37 GMT"
        assert reply.headers["accept-ranges"] == "bytes"
        assert reply.headers["etag"].startswith("W/") == (personality is FILE)
        only_head = await raw.ask("HEAD", f"/{CPCODE}/d/x.html", "download")
        assert (only_head.status, only_head.headers["content-length"]) == (200, "3")
        await get(raw, "d", "download", 404 if personality is OBJECT else 412)
        await get(raw, "nothing", "download", 404)


@pytest.mark.parametrize(
    ("asked", "status", "body"),
    [
        ("bytes=2-4", 206, b"234"),
        ("bytes=8-", 206, b"89"),
        ("bytes=-3", 206, b"789"),
        ("bytes=-30", 206, b"0123456789"),
        ("bytes=5-99", 206, b"56789"),
        ("bytes=10-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=4-2", 200, b"0123456789"),
        ("bytes=0-1,3-4", 200, b"0123456789"),
        ("lines=1-2", 200, b"0123456789"),
    ],
)
async def test_ranges(asked: str, status: int, body: bytes | None) -> None:
    """One byte range is honoured, one past the end is 416, anything else is ignored."""
    async with scene() as (_, raw):
        await put(raw, "x", b"0123456789")
        await raw.send(request("GET", f"/{CPCODE}/x", "download", extra=[("Range", asked)]))
        reply = await raw.reply()
        assert reply.status == status
        assert body is None or reply.body == body
        if status == 206:
            assert body is not None
            start = b"0123456789".index(body)
            assert reply.headers["content-range"] == f"bytes {start}-{start + len(body) - 1}/10"
        if status == 416:
            assert reply.headers["content-range"] == "bytes */10"


# --- writes --------------------------------------------------------------------------------------------------------


async def test_objectstore_writes() -> None:
    """A second mkdir is fine, rmdir wants emptiness, delete wants a file, `path/` deletes a directory's own entry."""
    async with scene(OBJECT) as (emulator, raw):
        for _ in range(2):
            assert b"successful" in (await do(raw, "d/e", "mkdir")).body
        await put(raw, "d/e/x")
        await do(raw, "d/e", "rmdir", 409)
        await do(raw, "d/e", "delete", 404)
        await do(raw, "d/e/", "delete")
        assert (await get(raw, "d/e", "stat&implicit=yes")).files()[0]["implicit"] == "true"
        assert b"deleted" in (await do(raw, "d/e/x", "delete")).body
        await do(raw, "d/e/x", "delete", 404)
        await do(raw, "d/e", "rmdir", 404)
        await put(raw, "d")
        await put(raw, "d/x")
        assert paths(emulator) == {"d", "d/x"}


async def test_filestore_writes() -> None:
    """A new directory wants a parent and a free name; a file and a directory cannot share one."""
    async with scene(FILE) as (emulator, raw):
        await do(raw, "d/e", "mkdir", 404)
        await do(raw, "d", "mkdir")
        await do(raw, "d/e", "mkdir")
    async with scene(FILE) as (emulator, raw):
        await put(raw, "d/x")
        for target, action in (("d", "upload"), ("d/x/y", "upload"), ("d", "mkdir"), ("d", "rmdir"), ("d", "delete")):
            async with Raw(emulator.port) as other:
                assert (await other.ask("PUT", f"/{CPCODE}/{target}", action)).status == 409
        assert paths(emulator) == {"d/x"}
        await do(raw, "d/x", "delete")
        await do(raw, "d", "rmdir")
        await do(raw, "d", "rmdir", 404)


@BOTH
async def test_rename(personality: Personality) -> None:
    """A file moves within its CP code with bytes and mtime; a taken name, another CP code, a directory are refused."""
    async with scene(personality) as (emulator, raw):
        await put(raw, "a", b"abc", "&mtime=5")
        await put(raw, "e/b")
        await do(raw, "a", f"rename&destination=%2F{CPCODE}%2Fe%2Fc%20d")
        moved = emulator.snapshot()[f"/{CPCODE}/e/c d"]
        assert (moved.read(), moved.mtime_s, paths(emulator)) == (b"abc", 5, {"e/b", "e/c d"})
        await do(raw, "a", f"rename&destination=%2F{CPCODE}%2Fq", 404)
        await do(raw, "e/b", "rename&destination=%2F999%2Fq", 400)
        await do(raw, "e/b", f"rename&destination=%2F{CPCODE}", 400)
        await do(raw, "e/b", "rename", 400)
        if personality is FILE:
            await do(raw, "e/b", f"rename&destination=%2F{CPCODE}%2Fnowhere%2Fb", 404)
        await do(raw, "e/b", f"rename&destination=%2F{CPCODE}%2Fe%2Fc%20d", 409)
        assert paths(emulator) == {"e/b", "e/c d"}


@BOTH
async def test_symlink_and_mtime(personality: Personality) -> None:
    """Links are listed with their target and followed by download; mtime is for files."""
    async with scene(personality) as (_, raw):
        await put(raw, "d/x")
        await do(raw, "d/rel", "symlink&target=x&mtime=9")
        await do(raw, "abs", f"symlink&target=%2F{CPCODE}%2Fd%2Fx")
        link = (await get(raw, "d/rel", "stat")).files()[0]
        assert link == {"type": "symlink", "name": "rel", "mtime": "9", "target": "x"}
        for name in ("d/rel", "abs"):
            assert (await get(raw, name, "download")).body == b"abc"
        await do(raw, "d/x", "mtime&mtime=77")
        assert (await get(raw, "d/x", "stat")).files()[0]["mtime"] == "77"
        await do(raw, "nothing", "mtime&mtime=77", 404)
        await do(raw, "d/x", "mtime", 400)
        await do(raw, "d/x", "mtime&mtime=soon", 400)
        await do(raw, "d/y", "symlink", 400)


async def test_filestore_links_want_a_target() -> None:
    """FileStore refuses a link over something, and one to nothing, with 409."""
    async with scene(FILE) as (emulator, raw):
        await put(raw, "x")
        for name, target in (("x", "x"), ("new", "nothing")):
            async with Raw(emulator.port) as other:
                await do(other, name, f"symlink&target={target}", 409)


async def test_links_in_a_ring() -> None:
    """Links that lead to each other lead to a 404."""
    async with scene() as (_, raw):
        await do(raw, "a", "symlink&target=b")
        await do(raw, "b", "symlink&target=a")
        await get(raw, "a", "download", 404)


async def test_quick_delete() -> None:
    """Off by default; where enabled it wants its confirmation and removes the whole tree and nothing beside it."""
    async with scene() as (_, raw):
        await put(raw, "d/x")
        await do(raw, "d", "quick-delete&quick-delete=imreallyreallysure", 403)
    async with scene(quick_delete=True) as (emulator, raw):
        for name in ("d/x", "d/e/y", "d-", "d0"):
            await put(raw, name)
        await do(raw, "d", "quick-delete", 400)
        await do(raw, "d", "quick-delete&quick-delete=imreallyreallysure")
        assert paths(emulator) == {"d-", "d0"}


@BOTH
async def test_the_root_stays(personality: Personality) -> None:
    """Nothing changes a CP code's root."""
    async with scene(personality) as (emulator, _):
        for action in ("delete", "rmdir", "mtime&mtime=1", "symlink&target=x", f"rename&destination=%2F{CPCODE}%2Fx"):
            async with Raw(emulator.port) as raw:
                assert (await raw.ask("POST", f"/{CPCODE}", action)).status == 404


LATE_S = 1.0
"""How late a write lands: so late that all that is to come before it does, on a machine that stands still meanwhile."""

# --- faults --------------------------------------------------------------------------------------------------------


async def test_status_fault_before_the_body() -> None:
    """A 503 is answered before the body has come; Retry-After only where asked for."""
    async with scene(faults=(Fault(kind="status", status=503, retry_after_s=7, times=1),)) as (emulator, raw):
        target = f"/{CPCODE}/x"
        signed = auth_headers(target, "version=1&action=upload")
        await raw.send(head("PUT", target, [*signed, ("Content-Length", "5000000")]))
        reply = await raw.reply()
        assert (reply.status, reply.headers["retry-after"]) == (503, "7")
        assert emulator.injected() == {"status": 1}
        assert emulator.requests[-1].fault == "status"
        async with Raw(emulator.port) as other:
            await put(other, "x")


async def test_status_fault_after_the_body() -> None:
    """With `after_body` the whole body is taken first, and still nothing is stored."""
    async with scene() as (emulator, raw):
        emulator.inject(Fault(kind="status", status=500, after_body=True, times=1))
        reply = await raw.ask("PUT", f"/{CPCODE}/x", "upload", b"abc")
        assert (reply.status, "retry-after" in reply.headers) == (500, False)
        assert (emulator.stats()["bytes_in"], paths(emulator)) == (3, set())


async def test_reset_before_commit() -> None:
    """A reset leaves the client without an answer and the store without the object."""
    async with scene() as (emulator, raw):
        emulator.inject(Fault(kind="reset"))
        await raw.send(request("PUT", f"/{CPCODE}/x", "upload", b"abc"))
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await raw.reply()
        assert (paths(emulator), emulator.injected()) == (set(), {"reset": 1})


async def test_reset_inside_a_body() -> None:
    """`after_bytes` resets there and nowhere else, on the way in and on the way out."""
    async with scene() as (emulator, raw):
        await put(raw, "x", b"a" * 100_000)
        emulator.inject(Fault(kind="reset", after_bytes=1000))
        async with Raw(emulator.port) as up:
            await up.send(request("PUT", f"/{CPCODE}/y", "upload&size=3000", b"abc" * 1000))
            assert await up.closed()
        assert (emulator.stats()["bytes_in"], paths(emulator)) == (101_000, {"x"})
        async with Raw(emulator.port) as down:
            await down.send(request("GET", f"/{CPCODE}/x", "download"))
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await down.reply()
        assert emulator.stats()["bytes_out"] == 1000
        assert emulator.injected() == {"reset": 2}
        await get(raw, "nothing", "download", 404)
        assert emulator.injected() == {"reset": 2}


async def test_lost_answer() -> None:
    """The object is stored and nobody is told."""
    async with scene() as (emulator, raw):
        emulator.inject(Fault(kind="lost-answer", times=1))
        await raw.send(request("PUT", f"/{CPCODE}/x", "upload", b"abc"))
        assert await raw.closed()
        assert (paths(emulator), emulator.injected()) == ({"x"}, {"lost-answer": 1})
        assert emulator.requests[-1].status == 0


async def test_lost_refusal() -> None:
    """A refusal can get lost like any other answer."""
    async with scene() as (emulator, raw):
        emulator.inject(Fault(kind="lost-answer", times=1))
        await raw.send(request("PUT", f"/{CPCODE}/nothing", "delete"))
        assert await raw.closed()
        assert emulator.injected() == {"lost-answer": 1}


async def test_late_commit() -> None:
    """The connection breaks first, the object lands later, over what came in between."""
    async with scene() as (emulator, raw):
        emulator.inject(Fault(kind="late-commit", action="upload", delay_s=LATE_S, times=1))
        await raw.send(request("PUT", f"/{CPCODE}/x", "upload", b"late"))
        assert await raw.closed()
        assert paths(emulator) == set()
        async with Raw(emulator.port) as other:
            await put(other, "x", b"newer")
        await until(lambda: emulator.snapshot()[f"/{CPCODE}/x"].read() == b"late")


async def test_late_delete(caplog: pytest.LogCaptureFixture) -> None:
    """Deletes can be late too; one that finds nothing left harms nobody."""
    async with scene() as (emulator, raw):
        await put(raw, "x")
        emulator.inject(Fault(kind="late-commit", action="delete", delay_s=LATE_S))
        for _ in range(2):
            async with Raw(emulator.port) as other:
                await other.send(request("PUT", f"/{CPCODE}/x", "delete"))
                assert await other.closed()
        assert paths(emulator) == {"x"}
        await until(lambda: not emulator.snapshot() and not emulator._world.late)
        assert emulator.injected() == {"late-commit": 2}
        assert caplog.records == []


async def test_stop_drops_late_commits() -> None:
    """What has not landed when the emulator stops never does."""
    async with scene() as (emulator, raw):
        emulator.inject(Fault(kind="late-commit", delay_s=LATE_S))
        await raw.send(request("PUT", f"/{CPCODE}/x", "upload", b"late"))
        assert await raw.closed()
    await asyncio.sleep(1.2 * LATE_S)
    assert emulator.snapshot() == {}


async def test_truncated_store() -> None:
    """What came is stored and answered 200, unless size or digest were declared: then it is a 412."""
    async with scene() as (emulator, raw):
        emulator.inject(Fault(kind="truncate", after_bytes=2))
        assert (await raw.ask("PUT", f"/{CPCODE}/x", "upload", b"abcdef")).status == 200
        assert emulator.snapshot()[f"/{CPCODE}/x"].read() == b"ab"
        for declared in ("size=6", f"md5={hashlib.md5(b'abcdef', usedforsecurity=False).hexdigest()}"):
            assert (await raw.ask("PUT", f"/{CPCODE}/y", f"upload&{declared}", b"abcdef")).status == 412
        assert paths(emulator) == {"x"}


async def test_truncated_by_the_client() -> None:
    """Under a truncating fault a body cut by its client is stored as far as it came."""
    async with scene() as (emulator, _):
        emulator.inject(Fault(kind="truncate"))
        target = f"/{CPCODE}/x"
        async with Raw(emulator.port) as cut:
            signed = auth_headers(target, "version=1&action=upload")
            await cut.send(head("PUT", target, [*signed, ("Content-Length", "100000")]) + b"part")
            cut.writer.write_eof()
            await until(lambda: bool(emulator.snapshot()))
        assert emulator.snapshot()[target].read() == b"part"


async def test_slow() -> None:
    """A delay delays, a rate holds bodies to it, both ways."""
    async with scene() as (emulator, raw):
        emulator.inject(Fault(kind="slow", delay_s=0.1, bytes_per_s=100_000, path="*/x"))
        begun = time.monotonic()
        await put(raw, "x", b"a" * 20_000)
        assert time.monotonic() - begun >= 0.3
        begun = time.monotonic()
        assert len((await get(raw, "x", "download")).body) == 20_000
        assert time.monotonic() - begun >= 0.3
        assert emulator.injected() == {"slow": 2}


@pytest.mark.parametrize("after_bytes", [None, 1000])
async def test_stall(after_bytes: int | None) -> None:
    """A stalled request is never answered, until the client leaves or the emulator stops."""
    async with scene() as (emulator, raw):
        emulator.inject(Fault(kind="stall", after_bytes=after_bytes))
        await raw.send(request("PUT", f"/{CPCODE}/x", "upload", b"abc" * 1000))
        await until(lambda: emulator.injected() == {"stall": 1})
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.reader.read(1), 0.2)
        assert paths(emulator) == set()


async def test_stall_inside_a_download() -> None:
    """A download can stop in the middle and hold the line."""
    async with scene() as (emulator, raw):
        await put(raw, "x", b"a" * 5000)
        emulator.inject(Fault(kind="stall", action="download", after_bytes=1000))
        await raw.send(request("GET", f"/{CPCODE}/x", "download"))
        await raw.reader.readuntil(b"\r\n\r\n")
        assert len(await raw.reader.readexactly(1000)) == 1000
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.reader.read(1), 0.2)


async def test_stale_replica() -> None:
    """A stale read sees the state of `lag_s` ago, in stat, dir, list, du and download alike."""
    clock = Clock()
    async with scene(now_s=clock) as (emulator, raw):
        await put(raw, "d/x", b"old")
        clock.now_s += 10
        await put(raw, "d/x", b"newer")
        await put(raw, "d/y")
        clock.now_s += 10
        emulator.inject(Fault(kind="stale", lag_s=15, times=5))
        assert (await get(raw, "d/x", "stat")).files()[0]["size"] == "3"
        assert len((await get(raw, "d", "dir")).files()) == 1
        assert len((await get(raw, "d", "list")).files()) == 1
        assert b'bytes="3"' in (await get(raw, "d", "du")).body
        assert (await get(raw, "d/x", "download")).body == b"old"
        assert (await get(raw, "d/x", "download")).body == b"newer"
        emulator.clear_faults()
        emulator.inject(Fault(kind="stale", lag_s=25))
        await get(raw, "d/x", "stat", 404)


async def test_skewed_clock() -> None:
    """A clock that is off refuses good requests and says so in Date, for one request or until it is set right."""
    async with scene() as (emulator, raw):
        emulator.inject(Fault(kind="skew", skew_s=300, times=1))
        reply = await get(raw, "x", "stat", 403)
        assert reply.headers["date"] == "Tue, 14 Nov 2023 22:18:20 GMT"
        assert (await get(raw, "x", "stat", 404)).headers["date"] == "Tue, 14 Nov 2023 22:13:20 GMT"
        emulator.set_skew(-300)
        await get(raw, "x", "stat", 403)
        assert (await raw.ask("GET", f"/{CPCODE}/x", "stat", time_s=NOW_S - 300)).status == 404
        assert emulator.injected() == {"skew": 1}


async def test_close_idle() -> None:
    """The answer promises keep-alive, and then the connection is closed all the same."""
    async with scene() as (emulator, raw):
        emulator.inject(Fault(kind="close-idle"))
        assert (await put(raw, "x")).headers["connection"] == "keep-alive"
        assert await raw.closed()
        assert emulator.injected() == {"close-idle": 1}


async def test_a_refused_request_meets_no_fault() -> None:
    """A wrong signature uses up no fault, so tests can count on theirs."""
    async with scene(faults=(Fault(kind="lost-answer", times=1),)) as (emulator, raw):
        assert (await raw.ask("GET", f"/{CPCODE}/x", "stat", key="wrong")).status == 403
        assert emulator.injected() == {}


# --- the whole -----------------------------------------------------------------------------------------------------


def ask_control(url: str, method: str = "GET", body: object = None) -> tuple[int, object]:
    """Ask the control API."""
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, method=method), timeout=30) as reply:  # noqa: S310 -- loopback
            return reply.status, json.load(reply)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


async def test_control() -> None:
    """Everything a test in another process needs, over JSON."""
    async with scene() as (emulator, raw):

        async def control(path: str, method: str = "GET", body: object = None) -> tuple[int, object]:
            return await asyncio.to_thread(ask_control, emulator.control_url + path, method, body)

        await put(raw, "x", b"abc", "&mtime=1")
        assert await control("/health") == (200, {"status": "ok"})
        assert await control("/snapshot") == (200, {f"/{CPCODE}/x": {"size_bytes": 3, "md5": MD5_ABC, "mtime_s": 1}})
        expected = {"method": "PUT", "action": "upload", "path": f"/{CPCODE}/x", "status": 200, "fault": ""}
        expected |= {"began_s": NOW_S, "ended_s": NOW_S}
        assert await control("/requests") == (200, [expected])
        assert await control("/faults", "POST", [{"kind": "status", "status": 429}]) == (200, {"faults": 1})
        assert emulator.faults == (Fault(kind="status", status=429),)
        await get(raw, "x", "stat", 429)
        stats = (await control("/stats"))[1]
        assert isinstance(stats, dict)
        assert (stats["actions"], stats["faults"]) == ({"upload": 1, "stat": 1}, {"status": 1})
        emulator.clear_faults()
        assert await control("/faults", "POST", {"kind": "status", "times": 1}) == (200, {"faults": 1})
        await get(raw, "x", "stat", 503)
        assert await control("/faults") == (200, [])
        assert await control("/faults", "DELETE") == (200, {"faults": 0})
        assert (await control("/clock", "POST", {"skew_s": 90}))[0] == 200
        await get(raw, "x", "stat", 403)
        assert (await control("/reset", "POST"))[0] == 200
        assert (emulator.snapshot(), emulator.counts(), emulator.injected()) == ({}, {}, {})
        await get(raw, "x", "stat", 404)
        for path, method, body, status in (
            ("/faults", "POST", {"kind": "fire"}, 400),
            ("/clock", "POST", {}, 400),
            ("/stats", "DELETE", None, 405),
            ("/nothing", "GET", None, 404),
        ):
            reply = await control(path, method, body)
            assert (reply[0], "error" in str(reply[1])) == (status, True)


def test_running_in_a_thread() -> None:
    """Synchronous tests get an emulator in a thread, which is gone afterwards."""
    with running(emulator_of()) as emulator:
        assert ask_control(emulator.control_url + "/health") == (200, {"status": "ok"})
        url = emulator.control_url
    with pytest.raises(urllib.error.URLError):
        ask_control(url + "/health")


async def test_stop_is_at_once() -> None:
    """Stop ends idle and stalled connections, and leaves no file behind."""
    emulator = emulator_of(faults=(Fault(kind="stall"),))
    await emulator.start()
    async with Raw(emulator.port) as idle, Raw(emulator.port) as stalled:
        await stalled.send(request("GET", f"/{CPCODE}/x", "stat"))
        await until(lambda: emulator.injected() == {"stall": 1})
        async with asyncio.timeout(30):
            await emulator.stop()
        assert await idle.closed()
        assert await stalled.closed()
    assert emulator.open_connections == 0


async def test_tls() -> None:
    """With a context it speaks https and says so in its URL."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    authority.configure_trust(client)
    async with emulator_of(tls=server) as emulator:
        assert emulator.url == f"https://127.0.0.1:{emulator.port}"
        reader, writer = await asyncio.open_connection("127.0.0.1", emulator.port, ssl=client)
        writer.write(request("PUT", f"/{CPCODE}/x", "upload", b"abc"))
        assert b" 200 " in await asyncio.wait_for(reader.readline(), 30)
        writer.close()
        await writer.wait_closed()


def test_settings_that_exclude_each_other(tmp_path: Path) -> None:
    """Contradictions are refused before anything listens."""
    with pytest.raises(ValueError, match="exclude"):
        emulator_of(folder=tmp_path, discard=True)
    with pytest.raises(ValueError, match="page_cap"):
        emulator_of(page_cap=0)


async def test_discard_keeps_what_a_listing_shows() -> None:
    """Without bytes, size and MD5 are still right; a download says why it cannot be."""
    async with scene(discard=True) as (_, raw):
        await put(raw, "x")
        assert (await get(raw, "x", "stat")).files()[0]["md5"] == MD5_ABC
        assert b"not to keep" in (await get(raw, "x", "download", 500)).body


COMMAND = [sys.executable, "-W", "error", "-m", "s3nsync.emulator"]


VERB = [sys.executable, "-m", "s3nsync", "emulate"]
NAMES = pytest.mark.parametrize("name", [COMMAND, VERB], ids=["module", "verb"])


@NAMES
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_as_a_process(name: list[str], number: signal.Signals) -> None:
    """One JSON line when ready, a clean end on either signal, and the key nowhere to be seen, by either name."""
    environment = {**os.environ, "NS_KEY": KEY}
    command = [*name, "--json", "--user", USER, "--cpcode", "1", "--cpcode", "2"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            ready = json.loads(line)
            assert (ready["type"], ready["user"], ready["cpcodes"]) == ("ready", USER, ["1", "2"])
            assert ask_control(ready["control_url"] + "/health") == (200, {"status": "ok"})
            process.send_signal(number)
            assert process.wait(60) == 0
            assert (KEY in line, process.stderr.read()) == (False, "")
        finally:
            process.kill()


EVERY_OPTION = (
    "--clock-window 5 --refuse-replay --quick-delete --page-cap 7 --discard --seed 3 --personality filestore"
    " --host 127.0.0.1 --port 0 --control-port 0 --cpcode 55 --user a'b --key-env OTHER"
)


@NAMES
def test_ready_lines_for_people(name: list[str]) -> None:
    """Either name takes every option, says where it listens and how to get there, and never says the key."""
    environment = {**os.environ, "OTHER": KEY}
    with subprocess.Popen(
        [*name, *EVERY_OPTION.split()], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            ready, attempt = process.stdout.readline(), process.stdout.readline()
            port = ready.partition("http://127.0.0.1:")[2].partition(" ")[0]
            assert ready.startswith(f"ready: http://127.0.0.1:{port} (filestore), control http://127.0.0.1:")
            *variables, program, group, verb, path = shlex.split(attempt.removeprefix("try:"))
            expected = [f"NS_HOSTNAME=localhost:{port}", "NS_USER=a'b", "NS_KEY=$OTHER", "NS_INSECURE_HTTP=1"]
            assert (variables, program, group, verb, path) == (expected, "s3nsync", "ns", "ls", "/55")
            assert KEY not in ready + attempt
        finally:
            process.terminate()
            process.wait(60)


def test_both_names_have_the_same_help() -> None:
    """`s3nsync emulate --help` is the emulator's own, but for its name."""
    helps = [
        subprocess.run([*name, "--help"], capture_output=True, text=True, timeout=120, check=True).stdout
        for name in (COMMAND, VERB)
    ]
    assert helps[0].replace("python -m s3nsync.emulator", "s3nsync emulate") == helps[1]
    assert "--page-cap N" in helps[1]


@pytest.mark.parametrize(
    ("arguments", "key", "code", "word"),
    [
        ([], "", 2, "NS_KEY"),
        (["--tls-key", "x"], KEY, 2, "--tls-cert"),
        (["--discard", "--folder", "x"], KEY, 2, "exclude"),
        (["--tls-cert", "/does/not/exist"], KEY, 1, "cannot start"),
    ],
)
def test_wrong_usage(arguments: list[str], key: str, code: int, word: str) -> None:
    """A start that cannot be says why, in one line, with an exit code of its own."""
    result = subprocess.run(
        [*COMMAND, *arguments],
        env={**os.environ, "NS_KEY": key},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, word in result.stderr, "Traceback" in result.stderr) == (code, True, False)


def test_options_hide_the_key() -> None:
    """The key does not show in the options' repr."""
    assert KEY not in repr(Options(user=USER, key=KEY, cpcodes=("1",)))
