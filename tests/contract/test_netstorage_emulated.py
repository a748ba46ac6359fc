"""The client against the emulator: both are written from the protocol's facts alone, and meet here on the wire."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from s3nsync.emulator import Emulator, Fault, running
from s3nsync.errors import ConnectionLost, TargetConflict, TargetMissing, TargetPrecondition, TransportError
from s3nsync.http import Http
from s3nsync.netstorage import Account, Applied, AtEnd, Entry, NetStorage, Removed, open_netstorage

KEY = "key"
ROOT = "/123456"


@pytest.fixture(params=["objectstore", "filestore"])
async def emulator(request: pytest.FixtureRequest) -> AsyncIterator[Emulator]:
    """Run an emulator that refuses replayed signatures and sends small pages."""
    made = Emulator(accounts={"user": KEY}, personality=request.param, page_cap=3, nonce_replay=True)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def netstorage(emulator: Emulator) -> AsyncIterator[NetStorage]:
    """Open a client for it."""
    async with open_netstorage(f"127.0.0.1:{emulator.port}", "user", KEY, insecure_http=True) as client:
        yield client


async def chunks(data: bytes, size_bytes: int = 1 << 16) -> AsyncIterator[bytes]:
    """Stream data."""
    for at in range(0, len(data), size_bytes):
        yield data[at : at + size_bytes]


# --- round trips -----------------------------------------------------------------------------------------------


async def test_a_file_goes_there_and_back(netstorage: NetStorage) -> None:
    """Bytes, size, digest and time are what was sent."""
    data = os.urandom(300_000)
    md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
    await netstorage.upload(f"{ROOT}/d/a", data, md5=md5, mtime_s=7)
    assert await netstorage.stat(f"{ROOT}/d/a") == Entry(f"{ROOT}/d/a", "file", len(data), md5, 7)
    async with await netstorage.download(f"{ROOT}/d/a") as answer:
        assert await answer.read() == data
    async with await netstorage.download(f"{ROOT}/d/a", byte_range=(10, 19)) as answer:
        assert (answer.status, await answer.read()) == (206, data[10:20])


@pytest.mark.parametrize("size_known", [True, False])
async def test_a_stream_is_proven_at_its_end(netstorage: NetStorage, size_known: bool) -> None:
    """Digest and time arrive in the trailers and are checked there."""
    data = os.urandom(3 << 20)
    size = len(data) if size_known else None
    sha256 = hashlib.sha256(data).hexdigest()
    done = await netstorage.upload(f"{ROOT}/a", chunks(data), size=size, at_end=lambda: AtEnd(sha256, 9))
    assert done.size_bytes == len(data)
    entry = await netstorage.stat(f"{ROOT}/a")
    assert entry is not None
    assert (entry.size_bytes, entry.mtime_s) == (len(data), 9)


async def test_what_does_not_match_is_refused_and_the_old_file_stays(
    emulator: Emulator, netstorage: NetStorage
) -> None:
    """Every declared digest is checked by the server, at the start or at the end."""
    await netstorage.upload(f"{ROOT}/a", b"old")
    for digests in ({"md5": "0" * 32}, {"sha1": "0" * 40}, {"sha256": "0" * 64}):
        with pytest.raises(TargetPrecondition):
            await netstorage.upload(f"{ROOT}/a", b"new", **digests)  # type: ignore[arg-type]  # names are digests'
    with pytest.raises(TargetPrecondition):
        await netstorage.upload(f"{ROOT}/a", chunks(b"new"), at_end=lambda: AtEnd("0" * 64, 9))
    assert emulator.snapshot()[f"{ROOT}/a"].read() == b"old"


@pytest.fixture(params=["objectstore", "filestore"], scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """Run one emulator for all examples of a property."""
    with running(Emulator(accounts={"user": KEY}, personality=request.param, page_cap=3)) as made:
        yield made


names = st.binary(min_size=1, max_size=40).filter(
    lambda raw: b"/" not in raw and b"\0" not in raw and raw not in {b".", b".."}
)


@given(raw=names)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_name_can_be_written_listed_read_renamed_and_removed(shared: Emulator, raw: bytes) -> None:
    """Whatever its bytes, a name is the same in the path, in listings and as a rename's destination."""
    name = raw.decode("utf-8", "surrogateescape")
    path, moved = f"{ROOT}/n/{name}", f"{ROOT}/m/{name}"

    async def scenario() -> None:
        async with open_netstorage(f"127.0.0.1:{shared.port}", "user", KEY, insecure_http=True) as netstorage:
            await netstorage.upload(path, b"abc")
            await netstorage.upload(f"{ROOT}/m/other", b"")
            listed = [entry.path async for entry in netstorage.dir(f"{ROOT}/n")]
            assert listed == [path]
            assert path in [entry.path async for entry in netstorage.below(ROOT)]
            entry = await netstorage.stat(path)
            assert entry is not None
            assert (entry.path, entry.size_bytes) == (path, 3)
            await netstorage.rename(path, moved)
            assert await netstorage.stat(path) is None
            assert (await netstorage.delete(moved)).existed

    asyncio.run(scenario())


# --- listings --------------------------------------------------------------------------------------------------


async def test_every_way_of_listing_finds_the_same_files(netstorage: NetStorage) -> None:
    """Across small pages, with names that sort around the slash."""
    paths = {
        f"{ROOT}/t/{name}" for name in ("a", "a-b", "a.c", "a0", "d/x", "d/y/z", "d-e", "é", "z/1", "z/2", "z/3", "z/4")
    }
    for path in [*sorted(paths), f"{ROOT}/t0", f"{ROOT}/t-1", f"{ROOT}/s"]:
        await netstorage.upload(path, b"x")
    for listing in (netstorage.walk(f"{ROOT}/t"), netstorage.below(f"{ROOT}/t"), netstorage.below(f"{ROOT}/t/")):
        found = [entry.path async for entry in listing if entry.type == "file"]
        assert len(found) == len(set(found))
        assert set(found) == paths
    assert (await netstorage.du(f"{ROOT}/t")).total_bytes == len(paths)


async def test_names_with_an_empty_part_do_not_make_a_listing_endless(netstorage: NetStorage) -> None:
    """Walk shows the child without a name and goes on, below finds the file; stat and dir keep every slash."""
    paths = [f"{ROOT}//x//z", f"{ROOT}/a", f"{ROOT}/d/b"]
    for path in paths:
        await netstorage.upload(path, b"x")
    async with asyncio.timeout(60):
        walked = [entry.path async for entry in netstorage.walk(ROOT)]
    assert sorted(walked) == [f"{ROOT}/", f"{ROOT}/a", f"{ROOT}/d", f"{ROOT}/d/b"]
    assert {f"{ROOT}/a", f"{ROOT}/d/b"} < {entry.path async for entry in netstorage.below(ROOT)}
    assert [entry.path async for entry in netstorage.walk(f"{ROOT}//")] == [f"{ROOT}//x", f"{ROOT}//x/"]
    assert [entry.path async for entry in netstorage.dir(f"{ROOT}//x//")] == [f"{ROOT}//x//z"]
    entry = await netstorage.stat(f"{ROOT}//x//z")
    assert entry is not None
    assert (entry.path, entry.name) == (f"{ROOT}//x//z", "z")


async def test_bounds_and_order_of_an_object_store() -> None:
    """Dir is narrowed by name, start included; list comes in the order of the path's bytes."""
    made = Emulator(accounts={"user": KEY}, page_cap=2)
    await made.start()
    async with open_netstorage(f"127.0.0.1:{made.port}", "user", KEY, insecure_http=True) as netstorage:
        for name in ("a1", "a2", "a3", "b1", "b2"):
            await netstorage.upload(f"{ROOT}/{name}", b"")
        assert [entry.name async for entry in netstorage.dir(ROOT, prefix="a")] == ["a1", "a2", "a3"]
        assert [entry.name async for entry in netstorage.dir(ROOT, start="a3")] == ["a3", "b1", "b2"]
        for name in ("b/1", "b-1", "b.1", "b0", "é", "\udcff"):
            await netstorage.upload(f"{ROOT}/{name}", b"")
        listed = [entry.path async for entry in netstorage.list(ROOT)]
        assert len(listed) == 11
        assert listed == sorted(listed, key=lambda path: path.encode("utf-8", "surrogateescape"))
    await made.stop()


# --- directories, links, times ---------------------------------------------------------------------------------


async def test_directories_are_made_once_and_removed_when_empty(netstorage: NetStorage) -> None:
    """Making one twice and removing one twice are fine; a full one stays."""
    await netstorage.mkdir(f"{ROOT}/d")
    await netstorage.mkdir(f"{ROOT}/d")
    await netstorage.upload(f"{ROOT}/d/a", b"")
    with pytest.raises(TargetConflict):
        await netstorage.rmdir(f"{ROOT}/d")
    await netstorage.delete(f"{ROOT}/d/a")
    assert await netstorage.rmdir(f"{ROOT}/d") == Removed(existed=True)
    assert await netstorage.rmdir(f"{ROOT}/d") == Removed(existed=False)
    with pytest.raises(TargetMissing):
        _ = [entry async for entry in netstorage.dir(f"{ROOT}/d")]


async def test_links_times_and_names_can_be_set(netstorage: NetStorage) -> None:
    """Symlink, mtime and rename do what they say."""
    await netstorage.upload(f"{ROOT}/a", b"abc")
    assert await netstorage.symlink(f"{ROOT}/l", "a", mtime_s=3) == Applied()
    assert await netstorage.stat(f"{ROOT}/l") == Entry(f"{ROOT}/l", "symlink", mtime_s=3, target="a")
    await netstorage.set_mtime(f"{ROOT}/a", 99)
    await netstorage.rename(f"{ROOT}/a", f"{ROOT}/b c+é")
    entry = await netstorage.stat(f"{ROOT}/b c+é")
    assert entry is not None
    assert entry.mtime_s == 99


# --- faults ----------------------------------------------------------------------------------------------------


async def test_a_lost_answer_is_told_as_a_repeat(emulator: Emulator, netstorage: NetStorage) -> None:
    """The write was committed twice, or found done: the result carries the doubt."""
    for action in ("upload", "delete", "rename", "mkdir"):
        emulator.inject(Fault(kind="lost-answer", action=action, times=1))
    assert (await netstorage.upload(f"{ROOT}/a", b"abc")).repeated
    assert await netstorage.delete(f"{ROOT}/a") == Removed(existed=False, repeated=True)
    await netstorage.upload(f"{ROOT}/b", b"abc")
    assert await netstorage.rename(f"{ROOT}/b", f"{ROOT}/c") == Applied(repeated=True)
    await netstorage.mkdir(f"{ROOT}/d")
    assert set(emulator.snapshot()) == {f"{ROOT}/c"}


async def test_a_stream_whose_answer_is_lost_is_in_doubt(emulator: Emulator, netstorage: NetStorage) -> None:
    """It was stored, and the client cannot know."""
    emulator.inject(Fault(kind="lost-answer", action="upload", times=1))
    with pytest.raises(ConnectionLost) as caught:
        await netstorage.upload(f"{ROOT}/a", chunks(b"abc"), size=3)
    assert caught.value.ambiguous
    assert emulator.snapshot()[f"{ROOT}/a"].read() == b"abc"


async def test_a_cut_upload_leaves_the_old_file(emulator: Emulator, netstorage: NetStorage) -> None:
    """A source that breaks off never ends the request cleanly."""

    async def breaking() -> AsyncIterator[bytes]:
        yield b"ne"
        raise OSError("source gone")

    await netstorage.upload(f"{ROOT}/a", b"old")
    with pytest.raises(OSError, match="source gone"):
        await netstorage.upload(f"{ROOT}/a", breaking(), size=3)
    with pytest.raises(OSError, match="source gone"):
        await netstorage.upload(f"{ROOT}/a", breaking(), at_end=lambda: AtEnd("0" * 64, 9))
    assert emulator.snapshot()[f"{ROOT}/a"].read() == b"old"


async def test_reads_survive_what_passes(emulator: Emulator, netstorage: NetStorage) -> None:
    """A throttle and a broken connection in a row are ridden out."""
    await netstorage.upload(f"{ROOT}/a", b"abc")
    emulator.inject(Fault(kind="status", status=503, action="stat", times=1))
    emulator.inject(Fault(kind="reset", action="stat", times=1))
    assert await netstorage.stat(f"{ROOT}/a") is not None


@pytest.mark.parametrize("ahead_s", [-500, 500])
async def test_a_server_with_another_clock_is_followed(ahead_s: int) -> None:
    """One refused request, then all is well."""
    made = Emulator(accounts={"user": KEY}, now_s=lambda: time.time() + ahead_s)
    await made.start()
    skews: list[float] = []
    async with Http() as http:
        account = Account("127.0.0.1", "user", KEY, "http", made.port)
        netstorage = NetStorage(account, http, on_clock_skew=skews.append)
        await netstorage.upload(f"{ROOT}/a", b"abc")
        await netstorage.delete(f"{ROOT}/a")
    await made.stop()
    assert len(skews) == 1
    assert abs(skews[0] - ahead_s) < 5
    assert [request.status for request in made.requests] == [403, 200, 200]


async def test_many_at_once_share_connections(emulator: Emulator, netstorage: NetStorage) -> None:
    """Calls are independent: a hundred in flight, a tenth of them failing, none mixed up."""
    emulator.inject(Fault(kind="reset", action="upload", every=10))

    async def one(n: int) -> None:
        data = str(n).encode()
        try:
            await netstorage.upload(f"{ROOT}/many/{n}", data, md5=hashlib.md5(data, usedforsecurity=False).hexdigest())
        except TransportError:
            await netstorage.upload(f"{ROOT}/many/{n}", data)

    await asyncio.gather(*(one(n) for n in range(100)))
    stored = emulator.snapshot()
    assert {path: stored[path].read() for path in stored} == {f"{ROOT}/many/{n}": str(n).encode() for n in range(100)}
