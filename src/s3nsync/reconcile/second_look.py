"""Second looks at S3, many with one request.

A copy that is not alone with its key is looked at once more afterwards: does S3 still hold what was copied? A HEAD for
each would be a third request for every object. A backfill copies keys in key order, so those that wait for their look
lie close together, and one page of the listing tells of all of them: ETag, size and time, which is what is compared.
S3's listing is as current as its HEAD ("Amazon S3 data consistency model", Amazon S3 User Guide), and the page is asked
for after each look was wanted.

A page can only confirm. What it does not show as it was copied gets a HEAD; and where pages confirm little, because
what is copied lies far apart, the next looks are HEADs at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from s3nsync.body import OpenObject
from s3nsync.compare import SourceItem, order
from s3nsync.errors import S3nsyncError
from s3nsync.model import Gone, ObjectRef, SourceInfo
from s3nsync.reconcile.listing.page import read_page
from s3nsync.s3 import S3

WAIT_S = 0.02
"""How long a look waits for company: as long as a copy or two."""

MOST = 200
"""Looks that one page answers."""

ROOM_LEAST = 50
"""Keys that nobody asks about and a page has room for: those between that are not done yet, or were there already."""

PAGE_MOST = 1_000
"""S3's limit for a page."""

HEADS_AFTER = 500
"""Looks made by HEAD after a page that confirmed less than half of what was asked."""


@dataclass(frozen=True, slots=True)
class _Look:
    saw: SourceInfo
    answer: asyncio.Future[SourceInfo | None]


class SecondLooks:
    """S3 as the engine sees it, with looks that are answered together."""

    def __init__(self, s3: S3, *, wait_s: float = WAIT_S, most: int = MOST) -> None:
        """Look by `s3`; a look waits at most `wait_s` for company, and not when there are `most`."""
        self._s3 = s3
        self._wait_s = wait_s
        self._most = most
        self._waiting: dict[str, dict[str, _Look]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._heads_left = 0

    async def open(self, ref: ObjectRef) -> OpenObject | Gone:
        """GET the object."""
        return await self._s3.open(ref)

    async def head(self, ref: ObjectRef, saw: SourceInfo | None = None) -> SourceInfo | None:
        """Look at the object as it is now; raises what S3 raises.

        One that is as it was seen is told as it was seen.
        """
        waiting = self._waiting.setdefault(ref.bucket, {})
        if saw is None or self._heads_left > 0 or ref.key in waiting:
            self._heads_left = max(0, self._heads_left - 1)
            return await self._s3.head(ref)
        answer: asyncio.Future[SourceInfo | None] = asyncio.get_running_loop().create_future()
        waiting[ref.key] = _Look(saw, answer)
        if len(waiting) == 1:
            asyncio.get_running_loop().call_later(self._wait_s, self._flush, ref.bucket, waiting)
        if len(waiting) >= self._most:
            self._flush(ref.bucket, waiting)
        return await answer

    def _flush(self, bucket: str, waiting: dict[str, _Look]) -> None:
        """Answer those who wait, unless that has begun."""
        if self._waiting.get(bucket) is waiting:
            del self._waiting[bucket]
            task = asyncio.create_task(self._answer(bucket, waiting))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _answer(self, bucket: str, waiting: Mapping[str, _Look]) -> None:
        open_keys = await unconfirmed(self._s3, bucket, {key: look.saw for key, look in waiting.items()})
        for key in waiting.keys() - open_keys:
            look = waiting[key]
            if not look.answer.done():
                look.answer.set_result(look.saw)
        if len(open_keys) * 2 > len(waiting):
            self._heads_left = HEADS_AFTER
        await asyncio.gather(*(self._head(ObjectRef(bucket, key), waiting[key]) for key in open_keys))

    async def _head(self, ref: ObjectRef, look: _Look) -> None:
        try:
            info = await self._s3.head(ref)
        except Exception as error:  # noqa: BLE001 -- it is raised where the answer is waited for
            if not look.answer.done():
                look.answer.set_exception(error)
        else:
            if not look.answer.done():
                look.answer.set_result(info)


async def unconfirmed(s3: S3, bucket: str, saw: Mapping[str, SourceInfo]) -> list[str]:
    """Give those of the keys that one page of the listing does not show as they were seen: it can only confirm."""
    room = len(saw) + max(ROOM_LEAST, len(saw) // 8)
    found = await _listed(s3, bucket, min(saw, key=order), most=min(PAGE_MOST, room)) if saw else {}
    return [key for key, each in saw.items() if not _confirms(found.get(key), each)]


async def _listed(s3: S3, bucket: str, first: str, *, most: int) -> Mapping[str, SourceItem]:
    """Give a page of the listing from a key on, by key; nothing if that fails: a HEAD says what is wrong."""
    asked = {"list-type": "2", "encoding-type": "url", "max-keys": str(most), "start-after": just_before(first)}
    query = [(name, value) for name, value in asked.items() if value]
    try:
        page = read_page(await s3.list_page(bucket, query), bucket)
    except S3nsyncError:
        return {}
    return {item.key: item for item in page.items}


def just_before(key: str) -> str:
    """Give a text that sorts before the key, with hardly anything between the two."""
    before = ord(key[-1]) - 1
    if before < 0x20 or 0xD800 <= before <= 0xDFFF:  # no character that a request may carry
        return key[:-1]
    return f"{key[:-1]}{chr(before)}\U0010fffd"


def is_as_it_was(now: SourceInfo | None, saw: SourceInfo) -> bool:
    """Say whether a look shows what was seen before."""
    return now is not None and (now.etag, now.size_bytes, now.last_modified_s) == (
        saw.etag,
        saw.size_bytes,
        saw.last_modified_s,
    )


def _confirms(item: SourceItem | None, saw: SourceInfo) -> bool:
    return item is not None and (item.etag, item.size_bytes, item.mtime_s) == (
        saw.etag,
        saw.size_bytes,
        saw.last_modified_s,
    )
