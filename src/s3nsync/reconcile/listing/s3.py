"""The objects of a bucket in key order, several stretches of it at once.

S3 lists in the order of the keys' UTF-8 bytes, 1,000 a page, and each page waits for the one before. So the bucket is
cut into stretches at prefixes that a listing with a delimiter shows, level by level for a bounded number of requests;
the stretches are read side by side and given out one after the other (`ahead`). A stretch is the keys after one
boundary up to and with the next: wherever the boundaries lie, and whatever changes meanwhile, no key is left out or
told twice. A bucket of one page costs one request.

Keys are asked for URL-encoded: XML 1.0 has no way to write most control characters; whether they are is read from the
answer, for not every S3 does it. Pages are read whole, by expat; one
that is cut short or refused (503 SlowDown) is asked for again, with back-off.

Source: ListObjectsV2 in the Amazon S3 API Reference.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from bisect import bisect_right
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import unquote_to_bytes
from xml.parsers import expat

from s3nsync.compare import SourceItem, order
from s3nsync.decide import MD5_ETAG
from s3nsync.errors import BadAnswer
from s3nsync.reconcile.listing.ahead import in_order
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


@dataclass(slots=True)
class ListingPage:
    """One page of ListObjectsV2; `prefixes` are the common ones, `token` asks for the next page."""

    items: list[SourceItem] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    truncated: bool = False
    token: str = ""


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


def _as_text(key: str) -> str:
    """Give the key, or one before it and behind most others: a name from NetStorage need not be UTF-8, S3's keys are.

    S3 is asked in UTF-8 only, and a stray byte sorts behind all of ASCII.
    """
    text, *rest = _STRAY.split(key, maxsplit=1)
    return f"{text}\x7f" if rest else text


# --- reading a page --------------------------------------------------------------------------------------------

_QUOTED = re.compile("[%+]")
_STRAY = re.compile("[\udc80-\udcff]")
_OF_THE_PAGE = frozenset({"IsTruncated", "NextContinuationToken", "EncodingType"})


def read_page(document: bytes, bucket: str) -> ListingPage:
    """Read one answer to ListObjectsV2; BadAnswer for anything else."""
    reader = _PageReader()
    try:
        reader.parser.Parse(document, True)  # noqa: FBT003 -- expat's own signature
        return reader.page()
    except (expat.ExpatError, KeyError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise BadAnswer(f"listing bucket {bucket}: the page cannot be read: {why}", sent=True) from error


class _PageReader:
    """Collects the text of elements by name, a dictionary for each of <Contents>.

    There are seven elements an object, so each call from expat counts. None is made where an element begins: what
    stands between elements comes before the next one's text and is stripped off. No value begins or ends in white
    space, because keys are encoded; where a server did not encode them, elements must follow each other closely.
    """

    def __init__(self) -> None:
        self._root = ""
        self._objects: list[dict[str, str]] = []
        self._prefixes: list[str] = []
        self._page: dict[str, str] = {}
        self._said: dict[str, str] = {}
        self._text = ""
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartDoctypeDeclHandler = self._on_doctype
        self.parser.StartElementHandler = self._on_root
        self.parser.EndElementHandler = self._on_end
        self.parser.CharacterDataHandler = self._on_text

    def page(self) -> ListingPage:
        """Give what was read; ValueError when it is no listing, KeyError when it does not say whether there is more."""
        if self._root != "ListBucketResult":
            raise ValueError(f"its root is <{self._root}>")
        key_of = unquoted if self._page.get("EncodingType", "").strip() == "url" else _as_it_is
        return ListingPage(
            [_item(each, key_of) for each in self._objects],
            [key_of(each) for each in self._prefixes],
            self._page["IsTruncated"].strip() == "true",
            self._page.get("NextContinuationToken", "").strip(),
        )

    def _on_doctype(self, *_: object) -> None:
        raise ValueError("it has a document type declaration, which S3 never sends")

    def _on_root(self, name: str, _attributes: dict[str, str]) -> None:
        self._root = name
        self.parser.StartElementHandler = None

    def _on_text(self, text: str) -> None:
        self._text += text

    def _on_end(self, name: str) -> None:
        if name == "Contents":
            self._objects.append(self._said)
            self._said = {}
        elif name == "CommonPrefixes":
            self._prefixes.append(self._said.pop("Prefix"))
        elif name in _OF_THE_PAGE:
            self._page[name] = self._text
        else:
            self._said[name] = self._text
        self._text = ""


def _item(said: dict[str, str], key_of: Callable[[str], str]) -> SourceItem:
    etag = said.get("ETag", "").strip('" \r\n\t')
    return SourceItem(
        key_of(said["Key"]),
        int(said["Size"]),
        int(datetime.fromisoformat(said["LastModified"].strip()).timestamp()),
        etag,
        None,
        etag if MD5_ETAG.fullmatch(etag) else None,
        said.get("StorageClass", "").strip(),
    )


def unquoted(text: str) -> str:
    """Give a key that S3 wrote URL-encoded, the way of a form: in listings, inventories and reports alike."""
    text = text.strip()
    if not _QUOTED.search(text):
        return text
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "surrogateescape")


def _as_it_is(text: str) -> str:
    return text
