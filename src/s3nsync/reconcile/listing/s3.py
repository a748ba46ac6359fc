"""The objects of a bucket in key order, several stretches of it at once.

S3 lists in the order of the keys' UTF-8 bytes, 1,000 a page, and each page waits for the one before. So the bucket is
cut into stretches at prefixes that a listing with a delimiter shows, level by level for a bounded number of requests;
the stretches are read side by side and given out one after the other (`ahead`). A stretch is the keys after one
boundary up to and with the next: wherever the boundaries lie, and whatever changes meanwhile, no key is left out or
told twice. A bucket of one page costs one request.

Keys are asked for URL-encoded: XML 1.0 has no way to write most control characters; whether they are is read from the
answer, for not every S3 does it. Pages are read whole (`page`); one that is cut short or refused (503 SlowDown) is
asked for again, with back-off.

Source: ListObjectsV2 in the Amazon S3 API Reference.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence

from s3nsync.compare import SourceItem, order
from s3nsync.errors import BadAnswer
from s3nsync.reconcile.listing.ahead import in_order
from s3nsync.reconcile.listing.page import ListingPage, read_page
from s3nsync.reconcile.listing.patience import Patience
from s3nsync.reconcile.listing.spill import by_key
from s3nsync.s3 import S3

DISCOVERY_REQUESTS = 32
"""Requests spent on finding boundaries: a bucket that is worth it takes hundreds of pages."""

BOUNDARIES = 2_000
"""Boundaries after which no more are looked for."""

STRETCH_PAGES = 8
"""Pages that a stretch should have, by the density of the first page: each costs a page more than it
has, to see its end, and only as many as are read ahead come side by side."""


async def list_bucket(
    s3: S3,
    bucket: str,
    prefix: str = "",
    *,
    after: str = "",
    parallel: int = 8,
    patience: Patience = Patience(),  # noqa: B008  (a frozen value)
) -> AsyncGenerator[list[SourceItem], None]:
    """List the objects whose keys begin with `prefix`, in key order, from the first one after `after` on.

    Up to `parallel` stretches of the bucket are read at once. Close the generator when it is not read to its end.
    Raises SourceError by what S3 said, TransportError when no answer came, both after several tries of each page.
    """
    lister = _Lister(s3, bucket, prefix, patience, seen=after)
    after = _as_text(after)
    first = await lister.page(after=after)
    if first.items:
        yield first.items
    if not first.truncated:
        return
    if not first.items:
        bounds: Sequence[str] = ()
        reached = after
    else:
        reached = first.items[-1].key
        bounds = await lister.boundaries(after=after, reached=reached, parallel=parallel)
    stretches = itertools.pairwise([reached, *bounds, None])
    rest = in_order(stretches, lambda ends: lister.stretch(ends[0] or "", ends[1]), parallel=parallel)
    try:
        async for items in rest:
            yield items
    finally:
        await rest.aclose()


class _Lister:
    """Asks for pages of one bucket below one prefix."""

    def __init__(self, s3: S3, bucket: str, prefix: str, patience: Patience, *, seen: str) -> None:
        self._s3 = s3
        self._bucket = bucket
        self._prefix = prefix
        self._patience = patience
        self._seen = None if _as_text(seen) == seen else order(seen)

    async def page(
        self, *, prefix: str | None = None, after: str = "", token: str = "", delimiter: str = ""
    ) -> ListingPage:
        """Get one page, again if need be: it is the same question every time."""
        asked = {
            "list-type": "2",
            "encoding-type": "url",
            "prefix": self._prefix if prefix is None else prefix,
            "delimiter": delimiter,
            "start-after": "" if token else after,
            "continuation-token": token,
        }
        query = [(name, value) for name, value in asked.items() if value]

        async def read() -> ListingPage:
            page = read_page(await self._s3.list_page(self._bucket, query), self._bucket)
            if self._seen is not None:
                page.items = page.items[bisect_right(page.items, self._seen, key=by_key) :]
            return page

        return await self._patience.ask(read)

    async def stretch(self, after: str, until: str | None) -> AsyncGenerator[list[SourceItem], None]:
        """List the keys after one up to and with another."""
        end = None if until is None else order(until)
        token = ""
        while True:
            page = await self.page(after=after, token=token)
            items = page.items
            if items and order(items[0].key) <= order(after):
                raise BadAnswer(f"listing bucket {self._bucket}: {items[0].key!r} was told behind {after!r}")
            beyond = end is not None and bool(items) and order(items[-1].key) > end
            if beyond and end is not None:
                items = items[: bisect_right(items, end, key=by_key)]
            if items:
                yield items
                after = items[-1].key
            if beyond or not page.truncated:
                return
            if not items and page.token in ("", token):
                raise BadAnswer(f"listing bucket {self._bucket}: S3 says there is more after {after!r}, but not how")
            token = page.token

    async def boundaries(self, *, after: str, reached: str, parallel: int) -> Sequence[str]:
        """Find where to cut what comes after `reached`, the first page's last key: common prefixes, in key order."""
        found: set[str] = set()
        level = [self._prefix]
        left = DISCOVERY_REQUESTS
        while level and left > 0 and len(found) < BOUNDARIES:
            asked, level = level[: min(left, parallel)], level[min(left, parallel) :]
            lists = await asyncio.gather(*[self._prefixes_below(each, after, left // len(asked)) for each in asked])
            left -= sum(requests for _, requests in lists)
            for prefixes, _ in lists:
                found.update(prefixes)
                level.extend(prefixes)
        later = sorted((each for each in found if order(each) > order(reached)), key=order)
        # Of those that the first page reached, the last one may go on behind it.
        a_page = len(found) - len(later) - 1
        step = max(1, a_page * STRETCH_PAGES)
        return later[step - 1 :: step]

    async def _prefixes_below(self, prefix: str, after: str, most: int) -> tuple[list[str], int]:
        """Give the common prefixes just below one, and how many requests it took: `most` at most, and one at least."""
        found: list[str] = []
        token = ""
        for requests in itertools.count(1):
            # Boundaries before `after` would be of no use; a longer one begins with it and must be skipped by hand.
            page = await self.page(prefix=prefix, after=max(after, prefix), token=token, delimiter="/")
            found += page.prefixes
            if not page.token or not page.truncated or not page.prefixes or requests >= most:
                return found, requests
            token = page.token
        raise AssertionError(prefix)


_STRAY = re.compile("[\udc80-\udcff]")


def _as_text(key: str) -> str:
    """Give the key, or one before it and behind most others: a name from NetStorage need not be UTF-8, S3's keys are.

    S3 is asked in UTF-8 only, and a stray byte sorts behind all of ASCII.
    """
    text, *rest = _STRAY.split(key, maxsplit=1)
    return f"{text}\x7f" if rest else text
