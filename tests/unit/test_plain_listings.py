"""Listings' plain entries are found by patterns, all else by expat: both readers must see the same, whatever comes.

Expat knows UTF-16, and no pattern of ours matches it: what a document means must be the same in that encoding.
"""

from __future__ import annotations

import gc
import re
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s3nsync.compare import SourceItem
from s3nsync.errors import BadAnswer
from s3nsync.netstorage.plain import PlainReader
from s3nsync.netstorage.wire import Entry, Page, XmlReader
from s3nsync.reconcile.listing.page import ListingPage, read_page

T = TypeVar("T")
DECLARED = '<?xml version="1.0" encoding="UTF-8"?>\n'
MD5 = "900150983cd24fb0d6963f7d28e17f72"
COMMENT = "<!---->"

SNIPPETS = st.sampled_from(
    [
        *("<!--", "-->", "<!-- > -->", "<![CDATA[", "]]>", "<?x ", "?>", "&", "&amp;", "&#65;", "<", ">", "/>", '"'),
        *("<x>", "</x>", "<x/>", '<x y="/>"/>', "<file ", 'name="b"', 'type="file"', " ", "\n", "0", "é", "\x01"),
        *("<Contents>", "</Contents>", "<Key>a</Key>", "</ListBucketResult>", "<list>", "</list>"),
    ]
)


AROUND = st.sampled_from([("<!--", "-->"), ("<![CDATA[", "]]>"), ("<x>", "</x>"), ('<x y="', '"/>'), ("<?x ", "?>")])


@st.composite
def damaged(draw: st.DrawFn, documents: st.SearchStrategy[str]) -> str:
    """Give a document, now and then with something put in, put around some of its elements, or cut off."""
    text = draw(documents)
    match draw(st.sampled_from(["", "", "put in", "put in", "put around", "put around", "cut off"])):
        case "put in":
            for _ in range(draw(st.integers(1, 3))):
                at = draw(st.integers(0, len(text)))
                text = text[:at] + draw(SNIPPETS) + text[at:]
        case "put around":
            ends = [0, *(match.end() for match in re.finditer("(?=<Contents>|<file )|(?<=</Contents>)|/>", text))]
            begin, end = sorted([draw(st.sampled_from(ends)), draw(st.sampled_from(ends))])
            before, after = draw(AROUND)
            text = text[:begin] + before + text[begin:end] + after + text[end:]
        case "cut off":
            text = text[: draw(st.integers(0, len(text)))]
    return text


def outcome(read: Callable[[], T]) -> T | str:
    """Give what is read, or that it cannot be: in which words is each reader's business."""
    try:
        return read()
    except BadAnswer:
        return "cannot be read"


def python_calls(do: Callable[[], object]) -> int:
    """Count the calls of Python functions."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        do()
    finally:
        sys.setprofile(before)
    return count


def garbage(do: Callable[[], object]) -> int:
    """Count the objects that are left to the cycle collector."""
    gc.collect()
    gc.disable()
    try:
        do()
        return gc.collect()
    finally:
        gc.enable()


# --- S3 --------------------------------------------------------------------------------------------------------


def contents(
    key: str = "k",
    *,
    etag: str = f"&quot;{MD5}&quot;",
    modified: str = "2024-05-01T10:00:00.000Z",
    size: str = "3",
    checksum: str = "",
    storage: str = "<StorageClass>STANDARD</StorageClass>",
) -> str:
    """Word one object."""
    return (
        f"<Contents><Key>{key}</Key><LastModified>{modified}</LastModified><ETag>{etag}</ETag>{checksum}"
        f"<Size>{size}</Size>{storage}</Contents>"
    )


KEYS = ["k", "a/b.txt", "a%2Fb", "c+d", "%C3%A9", "é", "a&amp;b", " a", "a b", "<![CDATA[a]]>", "", "]"]
ETAGS = [
    f'"{MD5}"',
    f"&#34;{MD5}&#34;",
    f"&quot;{MD5}-12&quot;",
    f"&quot;{MD5[:30]}-1&quot;",
    "&quot;e&quot;",
    MD5.upper(),
    "",
]
TIMES = [
    "2024-02-29T23:59:59Z",
    "2023-02-29T00:00:00.000Z",
    "2024-05-01T24:00:00.000Z",
    "2024-05-01T10:00:60.000Z",
    "1969-12-31T23:59:59.500Z",
    "2024-05-01T10:00:00.123456Z",
    "2024-05-01T10:00:00+02:00",
]
SIZES = ["0", "007", "9" * 18, "9" * 30, "-1", "+1", "1_0", " 1", "x"]
CHECKSUMS = [
    "<ChecksumAlgorithm>CRC32</ChecksumAlgorithm>" * 2,
    "<ChecksumAlgorithm>SHA1</ChecksumAlgorithm><ChecksumType>FULL_OBJECT</ChecksumType>",
    "<New>1</New>",
]
STORAGE = ["", "<StorageClass>GLACIER</StorageClass>", "<StorageClass/>", "<Owner><ID>i</ID></Owner>"]
objects = st.sampled_from(KEYS).map(contents) | st.fixed_dictionaries(
    {},
    optional={
        "etag": st.sampled_from(ETAGS),
        "modified": st.sampled_from(TIMES),
        "size": st.sampled_from(SIZES),
        "checksum": st.sampled_from(CHECKSUMS),
        "storage": st.sampled_from(STORAGE),
    },
).map(lambda said: contents(**said))
LAST = "<IsTruncated>false</IsTruncated>"
MORE = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>"
ENCODED = "<EncodingType>url</EncodingType>"
HEADS = [LAST, f"\n<Name>b</Name><Prefix/>{LAST}{ENCODED}", f"{ENCODED}{MORE}", ENCODED, f"<x><y/></x>{LAST}"]
TAILS = ["", LAST, f"{MORE}{ENCODED}", "<CommonPrefixes><Prefix>p%2F</Prefix></CommonPrefixes>", COMMENT]


@st.composite
def s3_bodies(draw: st.DrawFn) -> str:
    """Give what stands between a listing's root tags: plain objects mostly, one after the other."""
    plain = [contents(f"p{number}") for number in range(draw(st.integers(0, 3)))]
    odd = draw(st.lists(st.one_of(objects, st.sampled_from(["\n", COMMENT])), max_size=2))
    return "".join([draw(st.sampled_from(HEADS)), *draw(st.permutations(plain + odd)), draw(st.sampled_from(TAILS))])


@given(declared=st.booleans(), body=damaged(s3_bodies().map(lambda body: f"{body}</ListBucketResult>")))
def test_a_page_of_s3_means_the_same_to_both_readers(declared: bool, body: str) -> None:
    """Other fields and orders, entities, comments, CDATA, damage of any kind: the same page, or none for both."""
    document = f'<ListBucketResult xmlns="http://x/">{body}'

    def page(raw: bytes) -> ListingPage | str:
        return outcome(lambda: read_page(raw, "b"))

    assert page((DECLARED * declared + document).encode()) == page(document.encode("utf-16"))


def test_plain_objects_cost_no_calls() -> None:
    """A page as S3 words it is read without a call of Python for each object, completely, and leaves nothing behind."""
    page = ""
    for number in range(1000):
        page += contents(f"k{number:03}", modified=f"2024-05-01T10:{number % 60:02}:{number // 60:02}.000Z")
    document = f"<ListBucketResult><IsTruncated>false</IsTruncated>{page}</ListBucketResult>".encode()
    assert python_calls(lambda: read_page(document, "b")) < 60
    assert garbage(lambda: read_page(document, "b")) == 0
    items = read_page(document, "b").items
    assert items == [
        SourceItem(f"k{number:03}", 3, 1714557600 + number % 60 * 60 + number // 60, MD5, None, MD5, "STANDARD")
        for number in range(1000)
    ]


# --- NetStorage ------------------------------------------------------------------------------------------------

NAMES = ["a", "b c", "1/d/e.txt", "é", "a&amp;b", "a'b", "a>b", 'x type="file', "<", "", " ", "&#x1F388;", "a/"]
attributes = st.lists(
    st.one_of(
        st.sampled_from(NAMES).map(lambda name: f'name="{name}"' if '"' not in name else f"name='{name}'"),
        st.sampled_from(['type="file"', 'type="file"', 'type="dir"', "type='file'", 'type="symlink"', 'target="t"']),
        st.sampled_from(['size="3"', 'size="003"', 'size="+3"', 'size="big"', f'size="{"9" * 30}"']),
        st.sampled_from([f'md5="{MD5}"', f'md5="{MD5.upper()}"', 'md5=""', 'md5="5"']),
        st.sampled_from(['mtime="7"', 'mtime="-7"', 'name_base64="/w=="', 'implicit="true"', 'new="1"', 'files="2"']),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda text: text.partition("=")[0],
)
SHAPES = [
    f'<file type="file" name="{{}}" mtime="7" size="3" md5="{MD5}"/>',
    f'<file type="file" name="{{}}" size="3" md5="{MD5.upper()}" mtime="7"/>',
    '<file name="{}" type="file"/>',
]


@st.composite
def netstorage_bodies(draw: st.DrawFn) -> str:
    """Give what stands between a listing's root tags: one shape of plain files mostly, in pieces of any length."""
    shape = draw(st.sampled_from(SHAPES))
    plain = [shape.format(f"p{number}") for number in range(draw(st.integers(0, 4)))]
    odd = draw(st.lists(attributes.map(lambda each: f"<file {' '.join(each)}/>"), max_size=3))
    other = draw(st.lists(st.sampled_from(["\n", COMMENT, '<resume start="/1/r"/>', "<new/>", "<x></x>"]), max_size=2))
    return "".join(draw(st.permutations(plain + odd + other)))


@given(
    declared=st.booleans(),
    root=st.sampled_from(['stat directory="/1/d"', "list", "list ", "du"]),
    body=damaged(netstorage_bodies()),
    cuts=st.lists(st.integers(0, 300), max_size=3).map(sorted),
)
def test_a_listing_of_netstorage_means_the_same_to_both_readers(
    declared: bool, root: str, body: str, cuts: list[int]
) -> None:
    """Other attributes and orders, entities, comments, damage, chunks cut anywhere: the same, or none for both."""
    document = f"<{root}>{body}</{root.split(maxsplit=1)[0]}>"

    def page(data: bytes) -> Page | str:
        def read() -> Page:
            reader = XmlReader("test")
            for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                reader.feed(data[begin:end])
            return reader.page()

        return outcome(read)

    assert page((DECLARED * declared + document).encode()) == page(document.encode("utf-16"))


@pytest.mark.parametrize("shape", SHAPES)
def test_plain_files_cost_no_calls(shape: str) -> None:
    """Files worded alike are read without a call of Python for each, in their order, and nothing is left behind."""
    names = [f"f{number:04}" for number in range(1000)]
    document = f'<stat directory="/1/d">{"".join(map(shape.format, names))}</stat>'.encode()

    def read() -> Page:
        reader = XmlReader("test")
        for at in range(0, len(document), 16_384):
            reader.feed(document[at : at + 16_384])
        return reader.page()

    assert python_calls(read) < 300
    assert garbage(read) == 0
    entries = read().entries
    assert [entry.path for entry in entries] == [f"/1/d/{name}" for name in names]
    if "md5" in shape:
        assert set(entries) == {Entry(f"/1/d/{name}", "file", 3, MD5, 7) for name in names}


def test_directories_among_plain_files_keep_their_place() -> None:
    """What expat reads and what the pattern finds come out in one order."""
    files = [f'<file type="file" name="f{number}" size="0"/>' for number in range(6)]
    files.insert(2, '<file type="dir" name="d"/>')
    files.insert(5, '<file type="file" name="a&amp;b" size="0"/>')
    reader = XmlReader("test")
    reader.feed(f'<stat directory="/1">{"".join(files)}</stat>'.encode())
    assert [entry.name for entry in reader.page().entries] == ["f0", "f1", "d", "f2", "f3", "a&b", "f4", "f5"]


def test_an_element_without_end_is_not_gathered_for_ever() -> None:
    """What never ends goes on to expat: memory stays that of a chunk."""
    reader = XmlReader("test")
    reader.feed(b'<list><file type="file" name="')
    for _ in range(3):
        reader.feed(b"n" * 8_192)
    reader.feed(b'"/></list>')
    assert [len(entry.name) for entry in reader.page().entries] == [3 * 8_192]


@pytest.mark.parametrize("space", ["\x0b", "\x0c", "\x1c", "\x1f", "\x85", "\xa0"])
def test_what_xml_calls_no_space_is_none_before_a_file(space: str) -> None:
    """Characters that are white space to others than XML are left to expat, byte for byte."""
    plain = '<file type="file" name="a" size="1" mtime="2"/>'
    body = f'<stat directory="/1">{plain}{space}{plain}</stat>'.encode("latin-1")
    parts = list(PlainReader().feed(body))
    assert b"".join(part for part in parts if isinstance(part, bytes)) == body


def test_long_white_space_is_gone_through_once() -> None:
    """Long white space in a listing costs time that grows with its length, not with its square."""
    plain = '<file type="file" name="a" size="1" mtime="2"/>'
    took_s = []
    for size in (2_000, 40_000):
        body = f'<stat directory="/1">{plain}{" " * size}<file type="dir" name="b"/>{plain}</stat>'.encode()
        started_s = time.process_time()
        files = [part for part in PlainReader().feed(body) if not isinstance(part, bytes)]
        took_s.append(time.process_time() - started_s)
        assert sum(len(each.names) for each in files) == 2
    assert took_s[1] < max(100 * took_s[0], 1.0)  # 20 times as long; with its square it takes ten seconds


def test_an_encoding_that_nobody_knows_is_told() -> None:
    """A document in an encoding without a reader is a bad answer, not a crash."""
    reader = XmlReader("list /1")
    with pytest.raises(BadAnswer):
        reader.feed(b'<?xml version="1.0" encoding="no-such-coding"?><stat directory="/1"/>')
    with pytest.raises(BadAnswer):
        read_page(b'<?xml version="1.0" encoding="no-such-coding"?><ListBucketResult/>', "s3://bucket")
