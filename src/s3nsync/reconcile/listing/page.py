"""Reading a page of ListObjectsV2: most of it by one regular expression, all else by expat.

A page has a thousand objects, and S3 words nearly all of them alike: the same elements in the same order, their text
without entities. Such plain objects are found by one pattern, which gives their texts column by column, in a sixth of
the time that expat takes. What is left of the page without them is read by expat as ever, so a page that is cut
short, or no page at all, is found out as before.

That is right only if the pattern sees what expat would see: no comment, no CDATA section and no other element around
the plain objects. So it is used where the page begins with its root and elements that hold nothing but text, and the
plain objects follow each other without a gap; whatever comes behind them is expat's. Of any other page all is.

Source: ListObjectsV2 in the Amazon S3 API Reference.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache, partial
from itertools import repeat
from urllib.parse import unquote_to_bytes
from xml.parsers import expat

from s3nsync.compare import SourceItem
from s3nsync.decide import MD5_ETAG
from s3nsync.errors import BadAnswer


@dataclass(slots=True)
class ListingPage:
    """One page of ListObjectsV2; `prefixes` are the common ones, `token` asks for the next page."""

    items: list[SourceItem] = field(default_factory=list)
    prefixes: list[str] = field(default_factory=list)
    truncated: bool = False
    token: str = ""


def read_page(document: bytes, bucket: str) -> ListingPage:
    """Read one answer to ListObjectsV2; BadAnswer for anything else."""
    try:
        plain, rest = _parted(document)
        reader = _PageReader()
        page = reader.read(rest)
        page.items[:0] = _plain_items(plain, is_encoded=reader.is_encoded)
    except (expat.ExpatError, LookupError, ValueError) as error:
        why = f"{type(error).__name__}: {error}"
        raise BadAnswer(f"listing bucket {bucket}: the page cannot be read: {why}", sent=True) from error
    return page


# --- plain objects ---------------------------------------------------------------------------------------------

_TEXT = "[!-%'-;=?-~]"  # printable ASCII without white space and what XML gives a meaning
_PLAIN = re.compile(
    rf"<Contents><Key>({_TEXT}+)</Key>"
    r"<LastModified>(2[0-9]{3}-[0-9]{2}-[0-9]{2}T)([0-9]{2}:[0-9]{2}):([0-9]{2})(?:\.[0-9]{3})?Z</LastModified>"
    r'<ETag>(?:&quot;|&#34;|")([0-9a-f-]+)(?:&quot;|&#34;|")</ETag>'
    r"(?:<ChecksumAlgorithm>[A-Z0-9]+</ChecksumAlgorithm>)*(?:<ChecksumType>[A-Z_]+</ChecksumType>)?"
    r"<Size>([0-9]{1,18})</Size><StorageClass>([A-Z_]+)</StorageClass></Contents>"
)
_COLUMNS = 1 + _PLAIN.groups  # of what `split` gives: what stood before an object, and the object's texts
_HEAD = re.compile(
    rf"(?:<\?xml [^<>?]*\?>)?\s*<ListBucketResult(?: xmlns=\"{_TEXT}*\")?>"
    r"(?:\s*<([A-Za-z]+)>[^<>]*</\1>|\s*<[A-Za-z]+/>)*\s*"
)


def _parted(document: bytes) -> tuple[Sequence[str], bytes]:
    """Part a page into its plain objects, as `split` gives them, and the document without them."""
    parts: list[str] = _PLAIN.split(document.decode("latin-1"))
    if len(parts) == 1 or any(parts[_COLUMNS:-1:_COLUMNS]) or not _HEAD.fullmatch(parts[0]):
        return (), document
    return parts, (parts[0] + parts[-1]).encode("latin-1")


def _plain_items(parts: Sequence[str], *, is_encoded: bool) -> Iterable[SourceItem]:
    """Build the items column by column; a KeyError or ValueError is a time that is none."""
    keys, days, minutes, seconds, etags, sizes, classes = (parts[at::_COLUMNS] for at in range(1, _COLUMNS))
    columns = zip(
        map(unquoted, keys) if is_encoded and _QUOTED.search("\n".join(keys)) else keys,
        map(int, sizes),
        [
            _midnight_s(day) + _MINUTES[minute] + _SECONDS[second]
            for day, minute, second in zip(days, minutes, seconds, strict=True)
        ],
        etags,
        repeat(None),
        [etag if len(etag) == _MD5_LENGTH and "-" not in etag else None for etag in etags],
        classes,
    )
    return map(_make_item, columns)


_make_item: Callable[[Iterable[object]], SourceItem] = partial(tuple.__new__, SourceItem)
_MD5_LENGTH = 32
_SECONDS = {f"{second:02}": second for second in range(60)}
_MINUTES = {f"{hour:02}:{minute:02}": 3600 * hour + 60 * minute for hour in range(24) for minute in range(60)}


@lru_cache(maxsize=10_000)
def _midnight_s(day: str) -> int:
    """Give the Unix time at which a day (`2024-05-01T`) begins."""
    return int(datetime.fromisoformat(day.rstrip("T")).replace(tzinfo=UTC).timestamp())


# --- everything else -------------------------------------------------------------------------------------------

_OF_THE_PAGE = frozenset({"IsTruncated", "NextContinuationToken", "EncodingType"})


class _PageReader:
    """Collects the text of elements by name, a dictionary for each of <Contents>."""

    def __init__(self) -> None:
        self._root = ""
        self._objects: list[dict[str, str]] = []
        self._prefixes: list[str] = []
        self._page: dict[str, str] = {}
        self._said: dict[str, str] = {}
        self._text = ""

    @property
    def is_encoded(self) -> bool:
        """Whether the page says that its keys are URL-encoded."""
        return self._page.get("EncodingType", "").strip() == "url"

    def read(self, document: bytes) -> ListingPage:
        """Read a page; ValueError when it is no listing, KeyError when it does not say whether there is more."""
        # The parser is not kept: what holds each other is left to the cycle collector, and it looks rarely.
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartDoctypeDeclHandler = self._on_doctype
        parser.StartElementHandler = self._on_start
        parser.EndElementHandler = self._on_end
        parser.CharacterDataHandler = self._on_text
        parser.Parse(document, True)  # noqa: FBT003 -- expat's own signature
        if self._root != "ListBucketResult":
            raise ValueError(f"its root is <{self._root}>")
        key_of = unquoted if self.is_encoded else _as_it_is
        return ListingPage(
            [_item(each, key_of) for each in self._objects],
            [key_of(each) for each in self._prefixes],
            self._page["IsTruncated"].strip() == "true",
            self._page.get("NextContinuationToken", "").strip(),
        )

    def _on_doctype(self, *_: object) -> None:
        raise ValueError("it has a document type declaration, which S3 never sends")

    def _on_start(self, name: str, _attributes: dict[str, str]) -> None:
        self._root = self._root or name
        self._text = ""

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


_QUOTED = re.compile("[%+]")


def unquoted(text: str) -> str:
    """Give a key that S3 wrote URL-encoded, the way of a form: in listings, inventories and reports alike."""
    text = text.strip()
    if not _QUOTED.search(text):
        return text
    return unquote_to_bytes(text.replace("+", " ")).decode("utf-8", "surrogateescape")


def _as_it_is(text: str) -> str:
    return text
