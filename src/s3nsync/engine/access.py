"""One hand's way to one upload account: every request of the engine to NetStorage goes through here, and only once.

1 the toll   wait until the account's rates allow it; the chunks of a stream pay as they leave
2 the guard  the client calls it just before it signs each try: a lost lease sends nothing (rule 1 of docs/design.md)
3 the answer told to the account's lane, which adapts to it, and to the hand's debt, which it ends or leaves open
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from typing import TypedDict, TypeVar

from s3nsync.decide import Declared
from s3nsync.engine.parties import Hand, Lane, Target
from s3nsync.errors import S3nsyncError, TargetError
from s3nsync.netstorage.wire import Applied, AtEnd, Entry, Removed, Uploaded

T = TypeVar("T")


class Digests(TypedDict, total=False):
    """The digest to declare, by the name of its algorithm."""

    md5: str
    sha1: str
    sha256: str


@dataclass(slots=True)
class Access:
    """What a hand may ask of an upload account; made for one piece of work. Errors are the client's.

    `heard`: the account had its say on something that was to be changed, be it a refusal.
    """

    target: Target
    lane: Lane
    hand: Hand
    sleep: Callable[[float], Awaitable[None]]
    heard: bool = False

    async def stat(self, path: str) -> Entry | None:
        """Look at the path; None when there is nothing."""
        await self.pay()
        return await self._ask("stat", self.target.stat(path))

    async def upload(
        self,
        path: str,
        body: bytes | AsyncIterable[bytes],
        *,
        size_bytes: int,
        mtime_s: int | None = None,
        digest: Declared | None = None,
        at_end: Callable[[], AtEnd] | None = None,
    ) -> Uploaded:
        """Write an object; one that is streamed pays for its bytes, and notes that its last one leaves, by itself."""
        whole = isinstance(body, bytes)
        wait_s = self.lane.toll_s(requests=1, size_bytes=size_bytes if whole else 0)
        if wait_s > 0:
            await self._wait(wait_s)
        upload = self.target.upload(
            path,
            body,
            size=size_bytes,
            mtime_s=mtime_s,
            **_declared(digest),
            at_end=at_end,
            guard=self._before_whole if whole else self._before_stream,
        )
        uploaded = await self._ask("upload", upload, size_bytes=size_bytes)
        self.hand.debt.answered(repeated=uploaded.repeated)
        return uploaded

    async def delete(self, path: str) -> Removed:
        """Remove the file; fine if there is none."""
        await self.pay()
        removed = await self._ask("delete", self.target.delete(path, guard=self._before_whole))
        self.hand.debt.answered(repeated=removed.repeated)
        return removed

    async def rename(self, source: str, destination: str) -> Applied:
        """Move the file; TargetMissing if there is none, or no directory for it."""
        await self.pay()
        moved = await self._ask("rename", self.target.rename(source, destination, guard=self._before_whole))
        self.hand.debt.answered(repeated=moved.repeated)
        return moved

    async def make_parents(self, path: str) -> bool:
        """Make the directories above the path, False if all were there; one made late does no harm: it owes nothing."""
        await self.pay()
        return await self._ask("make_parents", self.target.make_parents(path, guard=self.hand.check))

    async def mkdir(self, path: str) -> None:
        """Make the directory; fine if it exists."""
        await self.pay()
        await self._ask("mkdir", self.target.mkdir(path, guard=self._before_whole))
        self.hand.debt.answered(repeated=False)

    async def pay(self, *, requests: int = 1, size_bytes: int = 0) -> None:
        """Wait until the account's rates allow what is about to be sent."""
        wait_s = self.lane.toll_s(requests=requests, size_bytes=size_bytes)
        if wait_s > 0:
            await self._wait(wait_s)

    async def _wait(self, wait_s: float) -> None:
        with self.hand.patience():
            await self.sleep(wait_s)

    async def _ask(self, action: str, request: Awaitable[T], *, size_bytes: int = 0) -> T:
        """Make a request, and tell the account's lane how it went; a failure is told to the debt too.

        A body that S3 stops sending tells against the account too: rare, and a cut is soon made good.
        """
        began_s = self.lane.now_s()
        try:
            answer = await request
        except S3nsyncError as error:
            self.heard |= action != "stat" and isinstance(error, TargetError)
            self.lane.failed(error, began_s)
            self.hand.debt.failed(error)
            raise
        self.heard |= action != "stat"
        self.lane.answered(action, began_s, size_bytes=size_bytes)
        return answer

    def _before_stream(self) -> None:
        """Guard a try whose bytes leave one after the other."""
        self.hand.check()
        self.hand.debt.sent = True

    def _before_whole(self) -> None:
        """Guard a try that leaves in one piece."""
        self.hand.check()
        self.hand.debt.last_byte_leaves()


def _declared(digest: Declared | None) -> Digests:
    if digest is None:
        return {}
    match digest.algorithm:
        case "md5":
            return {"md5": digest.hex}
        case "sha1":
            return {"sha1": digest.hex}
        case "sha256":
            return {"sha256": digest.hex}
