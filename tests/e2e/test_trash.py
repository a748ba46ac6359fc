"""Deletes into the trash, on real parts: the engine, the client, the emulator in both its natures."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from fakes import FakeBudget, FakeGate, FakeHand, FakeSource, md5
from s3nsync.emulator import Emulator, Fault
from s3nsync.engine import Replicator
from s3nsync.errors import TargetMissing, TargetRefused
from s3nsync.lanes import Lane
from s3nsync.model import Change, Copied, Deleted, ObjectRef, Outcome, Rejected, Route
from s3nsync.netstorage import Applied, NetStorage, open_netstorage

ROUTE = Route("media", "123456", "web", deletes="trash", trash="bin/deleted")
NAMES = ["a", "d/e/f.txt", "d/e", "é/ü b+%.jpg", "x" * 255]
"""`d/e` beside `d/e/f.txt` is possible on ObjectStore only."""


@pytest.fixture(params=["objectstore", "filestore"])
def nature(request: pytest.FixtureRequest) -> str:
    """Go through both kinds of store."""
    return str(request.param)


@pytest.fixture
async def emulator(nature: str) -> AsyncIterator[Emulator]:
    """Run an emulator."""
    made = Emulator(accounts={"user": "key"}, personality=nature, nonce_replay=True)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def netstorage(emulator: Emulator) -> AsyncIterator[NetStorage]:
    """Open a client for it."""
    async with open_netstorage(f"127.0.0.1:{emulator.port}", "user", "key", insecure_http=True) as client:
        yield client


class Site:
    """S3 as a model, the engine, and NetStorage."""

    def __init__(self, target: NetStorage, route: Route = ROUTE) -> None:
        self.source = FakeSource()
        self.engine = Replicator(
            routes=(route,),
            source=self.source,
            targets={"default": target},
            lanes={"default": Lane(8, time.monotonic)},
            budget=FakeBudget(),
            gate=FakeGate(),
            backoff_s=lambda _attempt: 1.0,
            now_s=time.time,
            sleep=asyncio.sleep,
            offload=_inline,
            brake_s=lambda _route: 0.0,
            buffer_bytes=1 << 20,
        )

    async def put(self, name: str, data: bytes) -> Outcome:
        """Put an object, and replicate it."""
        self.source.put(ObjectRef("media", name), data)
        return await self.look(name)

    async def delete(self, name: str) -> Outcome:
        """Delete an object, and replicate that."""
        del self.source.objects[ObjectRef("media", name)]
        return await self.look(name)

    async def look(self, name: str, hand: FakeHand | None = None) -> Outcome:
        """Look at a key."""
        return await self.engine.replicate(Change(ObjectRef("media", name), "check"), hand or FakeHand())


async def _inline(update: object, data: bytes) -> None:
    raise AssertionError((update, data))


def _files(emulator: Emulator) -> dict[str, str | None]:
    return {path: file.md5 for path, file in emulator.snapshot().items()}


async def test_what_is_deleted_in_s3_lies_in_the_trash_with_its_bytes(
    nature: str, emulator: Emulator, netstorage: NetStorage
) -> None:
    """Every version that was ever deleted is there, under its own path; the name itself is free."""
    site = Site(netstorage)
    names = [name for name in NAMES if nature == "objectstore" or name != "d/e"]
    trashed: dict[str, str | None] = {}
    for version in (b"one", b"two"):
        for name in names:
            assert isinstance(await site.put(name, version + name.encode()), Copied)
        for name in names:
            outcome = await site.delete(name)
            assert isinstance(outcome, Deleted)
            assert outcome.trash is not None
            assert outcome.trash.startswith(f"/123456/bin/deleted/web/{name[:200]}")
            trashed[outcome.trash] = md5(version + name.encode())
            assert await site.look(name) == Deleted(outcome.path, existed=False)
        await asyncio.sleep(0.002)
    assert len(trashed) == 2 * len(names)
    assert _files(emulator) == trashed


async def test_a_move_whose_answer_was_lost_is_done_and_ambiguous(emulator: Emulator, netstorage: NetStorage) -> None:
    """The client repeats it, finds nothing there, and the file in the trash: it says where it went."""
    site, hand = Site(netstorage), FakeHand()
    for name in "ab":
        await site.put(name, b"1")
    await site.delete("b")
    emulator.inject(Fault(kind="lost-answer", action="rename", times=1))
    del site.source.objects[ObjectRef("media", "a")]
    outcome = await site.look("a", hand)
    assert isinstance(outcome, Deleted)
    assert outcome.existed
    assert outcome.trash in _files(emulator)
    assert hand.debt.ambiguous


async def test_a_storage_group_that_refuses_to_rename_says_so(emulator: Emulator, netstorage: NetStorage) -> None:
    """The key is refused with the way out, and its file stays where it was."""
    site = Site(netstorage)
    await site.put("a", b"1")
    emulator.inject(Fault(kind="status", action="rename", status=405))
    outcome = await site.delete("a")
    assert isinstance(outcome, Rejected)
    assert "deletes = 'trash'" in outcome.hint
    assert list(_files(emulator)) == ["/123456/web/a"]


async def test_a_file_in_the_way_of_the_trash_is_no_loss(
    nature: str, emulator: Emulator, netstorage: NetStorage
) -> None:
    """On FileStore no directory can be made beside it: the key is refused; on ObjectStore both can be."""
    site = Site(netstorage)
    await netstorage.upload("/123456/bin", b"a file")
    await site.put("a", b"1")
    outcome = await site.delete("a")
    files = _files(emulator)
    if nature == "objectstore":
        assert isinstance(outcome, Deleted)
        assert outcome.trash in files
    else:
        assert isinstance(outcome, Rejected)
        assert files["/123456/web/a"] == md5(b"1")


async def test_parents_are_made_only_where_they_are_missing(emulator: Emulator, netstorage: NetStorage) -> None:
    """All levels below the CP code, once."""
    await netstorage.upload("/123456/a", b"1")
    assert await netstorage.make_parents("/123456/x/y/z")
    assert not await netstorage.make_parents("/123456/x/y/other")
    assert not await netstorage.make_parents("/123456/x")
    assert await netstorage.rename("/123456/a", "/123456/x/y/z") == Applied()
    with pytest.raises(TargetMissing):
        await netstorage.rename("/123456/a", "/123456/x/y/z")
    with pytest.raises(TargetRefused, match="400") as caught:
        await netstorage.rename("/123456/x/y/z", "/999/z")
    assert "within one CP code" in caught.value.hint
    assert _files(emulator) == {"/123456/x/y/z": md5(b"1")}
