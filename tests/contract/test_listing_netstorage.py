"""Listing NetStorage for a route: both personalities of the emulator, and scripted answers for what it never says."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.parse import parse_qsl

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hostile import Peer, hostile
from s3nsync.compare import TargetItem, order
from s3nsync.emulator import Emulator, Fault, running
from s3nsync.errors import BadAnswer, TargetConflict, TargetCredentials, TargetRefused, TargetUnavailable
from s3nsync.http import Http
from s3nsync.model import Route
from s3nsync.netstorage import Account, NetStorage, open_netstorage
from s3nsync.pacing import Backoff
from s3nsync.reconcile.listing import Patience, list_directory

KEY = "key"
ROUTE = Route("b", "123456", "d")
Option = str | int | Sequence[str] | Patience
EMPTY_MD5 = "d41d8cd98f00b204e9800998ecf8427e"


@pytest.fixture(params=["objectstore", "filestore"])
async def emulator(request: pytest.FixtureRequest) -> AsyncIterator[Emulator]:
    """Run an emulator that sends small pages, and lists a FileStore's directories in no order."""
    made = Emulator(accounts={"user": KEY}, personality=request.param, page_cap=3)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def netstorage(emulator: Emulator) -> AsyncIterator[NetStorage]:
    """Open a client for it."""
    async with open_netstorage(f"127.0.0.1:{emulator.port}", "user", KEY, insecure_http=True) as client:
        yield client


async def fill(netstorage: NetStorage, names: Iterable[str], base: str = "/123456/d") -> None:
    """Write empty files."""
    for name in names:
        await netstorage.upload(f"{base}/{name}", b"", mtime_s=7)


async def listed(netstorage: NetStorage, route: Route = ROUTE, **options: Option) -> list[TargetItem]:
    """List all."""
    found = list_directory(netstorage, route, **options)  # type: ignore[arg-type]
    return [item async for items in found for item in items]


async def files(netstorage: NetStorage, route: Route = ROUTE, **options: Option) -> list[str]:
    """Give the keys of the files listed."""
    return [item.key for item in await listed(netstorage, route, **options) if item.type == "file"]


TRAPS = ["a.txt", "a/b", "a/c/d", "a0", "é/ü", "m/1", "m/2", "~/x", "z", "🎈", "\udcff"]


async def test_what_is_there_is_listed_in_key_order(netstorage: NetStorage) -> None:
    """Names around the slash, of other bytes than text, and in directories: with size, time and digest."""
    await fill(netstorage, TRAPS)
    await fill(netstorage, ["d-2", "d.x", "d0", "e/a"], "/123456")
    found = await listed(netstorage)
    assert [each for each in found if each.type == "file"] == [
        TargetItem(key, "file", 0, 7, EMPTY_MD5) for key in sorted(TRAPS, key=order)
    ]
    keys = [order(each.key) for each in found]
    assert keys == sorted(keys)
    assert all(each.key.endswith("/") == (each.type == "dir") for each in found)


async def test_an_empty_or_absent_directory_gives_nothing(netstorage: NetStorage) -> None:
    """Neither a directory that is not there nor an empty CP code is an error."""
    assert await files(netstorage) == []
    assert await files(netstorage, Route("b", "123456")) == []


async def test_a_route_may_lie_at_the_root(netstorage: NetStorage) -> None:
    """At a CP code's root everything in it is the route's, and the CP code with a longer number is not."""
    await fill(netstorage, ["a", "d/b"], "/123456")
    assert await files(netstorage, Route("b", "123456")) == ["a", "d/b"]


async def test_keys_are_those_of_the_route(netstorage: NetStorage) -> None:
    """A prefix bounds the listing whether or not it is a directory; what is stripped from keys is put back."""
    await fill(netstorage, ["p/2024-1/a", "p/2024-2", "p/2025-1/a", "p/2023", "q", "o"])
    plain = replace(ROUTE, prefix="p/2024-")
    assert await files(netstorage, plain) == ["p/2024-1/a", "p/2024-2"]
    stripped = replace(ROUTE, prefix="in/p/2024-", strip_prefix="in/")
    assert await files(netstorage, stripped) == ["in/p/2024-1/a", "in/p/2024-2"]
    whole = replace(ROUTE, prefix="in/", strip_prefix="in/")
    assert (await files(netstorage, whole))[0] == "in/o"


async def test_a_directory_may_be_left_out(netstorage: NetStorage) -> None:
    """Neither the directory nor what lies in it is listed, and one of a similar name is."""
    await fill(netstorage, ["a", "trash-2", "trash/x", "trash/y/z", "u"])
    found = await listed(netstorage, leave_out=["/123456/d/trash/"])
    assert [each.key for each in found if each.type == "file"] == ["a", "trash-2", "u"]
    assert not [each for each in found if each.key.startswith("trash/")]


async def test_symlinks_are_told(netstorage: NetStorage) -> None:
    """A symlink is listed as one."""
    await fill(netstorage, ["a"])
    await netstorage.symlink("/123456/d/l", "/123456/d/a")
    assert [(each.key, each.type) for each in await listed(netstorage)] == [("a", "file"), ("l", "symlink")]


@pytest.fixture(params=["objectstore", "filestore"], scope="module")
def shared(request: pytest.FixtureRequest) -> Iterator[Emulator]:
    """Run one emulator for all examples of a property."""
    with running(Emulator(accounts={"user": KEY}, personality=request.param, page_cap=4)) as made:
        yield made


segment = st.text(st.sampled_from("ab.0-é\udcff"), min_size=1, max_size=3).filter(lambda text: text not in {".", ".."})
NUMBERS = itertools.count()
trees = st.sets(st.lists(segment, min_size=1, max_size=4).map("/".join), max_size=25)


def without_clashes(names: Iterable[str]) -> list[str]:
    """Leave out names that are directories of others: FileStore cannot hold both."""
    names = set(names)
    return sorted((each for each in names if not any(other.startswith(each + "/") for other in names)), key=order)


@given(
    tree=trees,
    after=st.lists(segment, min_size=1, max_size=4).map("/".join),
    prefix=st.sampled_from(["", "a", "a/", "b/a"]),
    bound=st.integers(1, 9),
)
@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_any_tree_is_listed_in_key_order(shared: Emulator, tree: set[str], after: str, prefix: str, bound: int) -> None:
    """Whatever the names, from wherever on and however much goes to disk: each file once, in the order of bytes."""
    names = without_clashes(tree)
    number = next(NUMBERS)  # a directory of its own: FileStore's stay
    route = Route("b", "123456", f"t{number}", prefix=prefix)

    async def run() -> tuple[list[str], list[str]]:
        async with open_netstorage(f"127.0.0.1:{shared.port}", "user", KEY, insecure_http=True) as client:
            await fill(client, names, f"/123456/t{number}")
            whole = await files(client, route, in_memory_items=bound, parallel=2)
            rest = await files(client, route, after=after, in_memory_items=bound)
            return whole, rest

    whole, rest = asyncio.run(run())
    assert whole == [each for each in names if each.startswith(prefix)]
    assert rest == [each for each in whole if order(each) > order(after)]


# --- trouble ---------------------------------------------------------------------------------------------------


async def test_a_lost_connection_costs_a_try(emulator: Emulator, netstorage: NetStorage) -> None:
    """A listing whose connection broke is asked for anew."""
    names = [f"{group}/{number}" for group in "abc" for number in range(5)]
    await fill(netstorage, names)
    for action in ("list", "dir"):
        emulator.inject(Fault(kind="reset", action=action, after_bytes=300, times=2))
    assert await files(netstorage, in_memory_items=2) == names
    assert emulator.injected()["reset"] >= 2


async def test_a_refusal_inside_the_tree_is_raised(emulator: Emulator, netstorage: NetStorage) -> None:
    """What may not be read is no empty directory."""
    await fill(netstorage, ["a/1", "a/2", "b/1", "b/2", "c/1", "c/2"])
    emulator.inject(Fault(kind="status", status=403, nth=2))
    with pytest.raises(TargetCredentials):
        await files(netstorage)


async def test_a_file_in_the_directorys_place_is_an_error(netstorage: NetStorage) -> None:
    """A FileStore's file where the route's directory should be is no empty directory; ObjectStore holds both."""
    await fill(netstorage, ["d"], "/123456")
    try:
        await netstorage.upload("/123456/d/z", b"")
    except TargetConflict:
        with pytest.raises(TargetConflict):
            await files(netstorage)
    else:
        assert await files(netstorage) == ["z"]


async def test_leaving_half_way_ends_what_is_under_way(netstorage: NetStorage) -> None:
    """Closing the generator stops the requests made ahead."""
    await fill(netstorage, [f"{group}/{number}" for group in "abcdefgh" for number in range(3)])
    listing = list_directory(netstorage, ROUTE, in_memory_items=2)
    await anext(listing)
    await listing.aclose()
    assert len(asyncio.all_tasks()) < 6


# --- scripted answers ------------------------------------------------------------------------------------------


def answer(document: str, status: str = "200 OK", *, cut: int = 0) -> bytes:
    """Word an answer; `cut` bytes of it never come."""
    body = document.encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    return head + body[: len(body) - cut]


def entries(*names: str) -> str:
    """Word files, and directories for names that end in a slash."""
    return "".join(
        f'<file type="dir" name="{name[:-1]}" mtime="7"/>'
        if name.endswith("/")
        else f'<file type="file" name="{name}" mtime="7" size="0" md5="{EMPTY_MD5}"/>'
        for name in names
    )


def directory(path: str, *names: str, resume: str = "") -> str:
    """Word an answer to dir."""
    return f'<stat directory="{path}">{entries(*names)}{resume}</stat>'


@asynccontextmanager
async def scripted(*answers: bytes) -> AsyncIterator[tuple[NetStorage, list[str]]]:
    """Give the answers in turn, closing the connection after one that is cut short; note action and path asked for."""
    left, asked = list(answers), []

    async def script(peer: Peer) -> None:
        while True:
            head = (await peer.head()).decode()
            options = dict(parse_qsl(head.lower().partition("x-akamai-acs-action: ")[2].splitlines()[0]))
            asked.append(f"{options['action']} {head.split()[1]}")
            data = left.pop(0)
            await peer.send(data)
            length = int(data.partition(b"Content-Length: ")[2].split(b"\r\n")[0])
            if len(data.partition(b"\r\n\r\n")[2]) < length:
                return

    async def no_wait(_seconds: float) -> None:
        pass

    async with hostile(script) as server, Http() as http:
        account = Account(server.origin.host, "user", KEY, "http", server.origin.port)
        yield NetStorage(account, http, sleep=no_wait), asked
    assert not left


NO_LIST = answer("no such action", "412 Precondition Failed")


async def test_what_a_broken_try_brought_is_dropped() -> None:
    """A directory whose answer is cut short is asked for again, and nothing of it counts twice, on disk or not."""
    whole = directory("/123456/d", "c", "a", "e", "b", "d")
    async with scripted(NO_LIST, answer(whole, cut=40), answer(whole)) as (netstorage, asked):
        assert await files(netstorage, in_memory_items=2) == list("abcde")
    assert asked == ["list /123456/d", "dir /123456/d", "dir /123456/d"]


async def test_a_busy_server_is_waited_for() -> None:
    """More refusals than one call bears cost a wait, for lists and directories alike; in the end it gives up."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    patience = Patience(tries=2, backoff=Backoff(4.0, 8.0, lambda: 0.0), sleep=sleep)
    busy = [answer("", "503 Service Unavailable")] * 4  # a call bears two of them
    async with scripted(*busy, NO_LIST, *busy, answer(directory("/123456/d", "a"))) as (netstorage, _):
        assert await files(netstorage, patience=patience) == ["a"]
    assert waits == [2.0, 2.0]
    async with scripted(*busy, *busy[:2]) as (netstorage, _):
        with pytest.raises(TargetUnavailable):
            await files(netstorage, patience=patience)


async def test_directories_are_read_side_by_side() -> None:
    """FileStore's directories are asked for before their turn: here none is answered until four are asked for."""
    asked = 0
    enough = asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal asked
        while True:
            head = (await peer.head()).decode()
            path = head.split()[1]
            if "action=list" in head:
                await peer.send(NO_LIST)
            elif path == "/123456/d":
                await peer.send(answer(directory(path, *(f"{name}/" for name in "hgfedcba"))))
            else:
                asked += 1
                if asked == 4:
                    enough.set()
                await asyncio.wait_for(enough.wait(), 60)
                await peer.send(answer(directory(path, "x")))

    async with hostile(script) as server, Http() as http:
        netstorage = NetStorage(Account(server.origin.host, "user", KEY, "http", server.origin.port), http)
        assert await files(netstorage, parallel=4) == [f"{name}/x" for name in "abcdefgh"]


async def test_a_directory_that_comes_in_parts_is_read_whole() -> None:
    """FileStore tells a directory at once; if it ever gives a resume point it is followed."""
    async with scripted(
        NO_LIST,
        answer(directory("/123456/d", "b", "a", resume='<resume start="c"/>')),
        answer(directory("/123456/d", "d", "c")),
    ) as (netstorage, _):
        assert await files(netstorage) == list("abcd")


async def test_a_directory_that_vanishes_is_empty() -> None:
    """What is deleted between the listing of its parent and its own is no error."""
    async with scripted(NO_LIST, answer(directory("/123456/d", "a/", "b")), answer("", "404 Not Found")) as (client, _):
        assert await files(client) == ["b"]


async def test_a_directory_without_a_name_is_not_gone_into() -> None:
    """It lists the same as its parent: whoever goes down into it never ends."""
    async with scripted(NO_LIST, answer(directory("/123456/d", "/", "b"))) as (netstorage, _):
        assert await files(netstorage) == ["b"]


async def test_names_in_base64_and_implicit_directories_are_understood() -> None:
    """A name that its encoding cannot hold comes as base64; a directory that is only implied has no time."""
    document = (
        '<list><file type="file" name_base64="MTIzNDU2L2Qv/w==" size="0" mtime="7"/>'
        '<file type="dir" name="123456/d/~/" implicit="true"/></list>'
    )
    # 0xff sorts behind "~": the server's order is that of bytes.
    first, second = document.removeprefix("<list>").removesuffix("</list>").replace("/><", "/>\n<").split("\n")
    async with scripted(answer(f"<list>{second}{first}</list>")) as (netstorage, _):
        assert await listed(netstorage) == [TargetItem("~/", "dir"), TargetItem("\udcff", "file", 0, 7)]


async def test_a_start_that_is_not_found_is_no_end() -> None:
    """Where the listing is to go on from a name that is gone, its directory is listed from the beginning instead."""
    page = answer(
        '<list><file type="file" name="123456/d/a" size="0"/><file type="file" name="123456/d/c" size="0"/></list>'
    )
    async with scripted(answer("", "404 Not Found"), page) as (netstorage, asked):
        assert await files(netstorage, after="b") == ["c"]
    assert asked == ["list /123456/d/b", "list /123456/d"]


@pytest.mark.parametrize("after", ["a/../b", "a/./b", "a/..", "../x"])
async def test_a_key_that_no_request_can_name_is_gone_on_after(after: str) -> None:
    """S3 has such keys, and a comparison may have stopped at one: that is no reason to take it for a FileStore."""
    page = '<list><file type="file" name="123456/d/a/-" size="0"/><file type="file" name="123456/d/b" size="0"/></list>'
    async with scripted(answer(page)) as (netstorage, asked):
        found = await files(netstorage, after=after)
    assert found == [key for key in ("a/-", "b") if order(key) > order(after)]
    assert len(asked) == 1
    assert asked[0].startswith("list")


async def test_a_list_that_does_not_advance_is_an_error() -> None:
    """A resume point that was asked for already would go round for ever."""
    page = answer('<list><file type="file" name="123456/d/a" size="0"/><resume start="/123456/d/a"/></list>')
    async with scripted(page, page) as (netstorage, _):
        with pytest.raises(BadAnswer, match="does not advance"):
            await files(netstorage)


async def test_a_list_refused_half_way_is_not_walked() -> None:
    """A refusal after the first page is not FileStore's: walking would tell everything again."""
    page = answer('<list><file type="file" name="123456/d/a" size="0"/><resume start="/123456/d/b"/></list>')
    async with scripted(page, NO_LIST) as (netstorage, _):
        with pytest.raises(TargetRefused):
            await files(netstorage)
