"""Listing a bucket: against a local AWS, and against scripted servers for what it never does."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aws_emulator import REGION, Aws
from hostile import Peer, hostile
from s3nsync.compare import SourceItem, order
from s3nsync.errors import BadAnswer, BucketMissing, SourceForbidden, SourceUnavailable
from s3nsync.http import Http
from s3nsync.pacing import Backoff
from s3nsync.reconcile.listing import Patience, list_bucket
from s3nsync.reconcile.listing.page import read_page
from s3nsync.reconcile.listing.patience import TRIES
from s3nsync.s3 import S3
from s3nsync.sigv4 import Credentials

MD5 = "900150983cd24fb0d6963f7d28e17f72"
AT = "2024-05-01T10:00:00.000Z"
AT_S = 1714557600


class Keys:
    """A source of credentials that never change."""

    def __init__(self, keys: Credentials) -> None:
        self._keys = keys

    async def get(self) -> Credentials:
        return self._keys

    async def renew(self, refused: Credentials) -> Credentials:
        return refused


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    """Give a client whose connections must all be at rest in the end."""
    async with Http() as client:
        yield client
        assert re.search(r"[1-9]\d* busy", repr(client)) is None


async def keys_of(listing: AsyncIterator[list[SourceItem]]) -> list[str]:
    """Read a listing to its end."""
    return [item.key async for items in listing for item in items]


# --- a local AWS -----------------------------------------------------------------------------------------------


async def test_a_bucket_is_listed_as_it_is(aws: Aws, http: Http) -> None:
    """Odd keys, sizes, times and ETags come through; a multipart ETag is no hint of an MD5."""
    bucket = aws.bucket()
    odd = [
        "a b+c",
        "a%2Bb",
        "a&<b>\"'",
        "é/ü/🎈",
        "new\nline",
        "tab\t",
        "p/a.txt",
        "p/a/b",
        "p/a0",
        "p/",
        "x//y",
        "-",
        "~",
    ]
    for key in odd:
        aws.s3.put_object(Bucket=bucket, Key=key, Body=b"abc")
    upload = aws.s3.create_multipart_upload(Bucket=bucket, Key="zz")["UploadId"]
    part = aws.s3.upload_part(Bucket=bucket, Key="zz", UploadId=upload, PartNumber=1, Body=b"abc")["ETag"]
    aws.s3.complete_multipart_upload(
        Bucket=bucket, Key="zz", UploadId=upload, MultipartUpload={"Parts": [{"ETag": part, "PartNumber": 1}]}
    )
    s3 = S3(http, region=REGION, credentials=Keys(aws.keys), endpoint=aws.url)
    items = [item async for items in list_bucket(s3, bucket) for item in items]
    assert [item.key for item in items] == sorted([*odd, "zz"], key=order)
    told = aws.s3.head_object(Bucket=bucket, Key="-")
    dash = next(item for item in items if item.key == "-")
    assert dash == SourceItem("-", 3, int(told["LastModified"].timestamp()), MD5, None, MD5, "STANDARD")
    assert [(item.etag[-2:], item.hint) for item in items if item.key == "zz"] == [("-1", None)]


async def test_a_listing_of_nothing_is_empty_and_of_no_bucket_an_error(aws: Aws, http: Http) -> None:
    """An empty bucket and a prefix nobody has give nothing; a missing bucket and a refusal say so."""
    bucket = aws.bucket()
    s3 = S3(http, region=REGION, credentials=Keys(aws.keys), endpoint=aws.url)
    assert await keys_of(list_bucket(s3, bucket)) == []
    aws.s3.put_object(Bucket=bucket, Key="a", Body=b"")
    assert await keys_of(list_bucket(s3, bucket, "b")) == []
    with pytest.raises(BucketMissing):
        await keys_of(list_bucket(s3, "no-such-bucket"))
    nobody = S3(http, region=REGION, credentials=Keys(aws.user("s3:GetObject")), endpoint=aws.url)
    with pytest.raises(SourceForbidden, match="AccessDenied"):
        await keys_of(list_bucket(nobody, bucket))


async def test_pages_prefix_and_resuming(aws: Aws, http: Http) -> None:
    """More than one page, below a prefix that ends in no slash, and from the middle on."""
    bucket = aws.bucket()
    keys = sorted([f"p/{group}/{number:03}" for group in "abc" for number in range(350)], key=order)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: aws.s3.put_object(Bucket=bucket, Key=key, Body=b""), [*keys, "o", "q"]))
    s3 = S3(http, region=REGION, credentials=Keys(aws.keys), endpoint=aws.url)
    assert await keys_of(list_bucket(s3, bucket)) == ["o", *keys, "q"]
    assert await keys_of(list_bucket(s3, bucket, "p/b/1")) == keys[450:550]
    for at in (0, 349, 350, 1049):
        assert await keys_of(list_bucket(s3, bucket, "p/", after=keys[at])) == keys[at + 1 :]


# --- a scripted S3 ---------------------------------------------------------------------------------------------


def contents(key: str) -> str:
    """Word one object as a listing does."""
    return (
        f"<Contents><Key>{quote(key)}</Key><LastModified>{AT}</LastModified><ETag>&quot;{MD5}&quot;</ETag>"
        "<Size>3</Size><Owner><ID>o</ID></Owner><StorageClass>STANDARD</StorageClass></Contents>"
    )


class Bucket:
    """A bucket that lists as S3 does, `page` entries at once; `before` may change it or answer in its place."""

    def __init__(self, keys: set[str], page: int = 3, before: Callable[[Bucket], bytes | None] | None = None) -> None:
        self.keys = keys
        self.page = page
        self.before = before or (lambda _bucket: None)
        self.asked: list[dict[str, str]] = []

    async def serve(self, peer: Peer) -> None:
        """Answer each request of a connection."""
        while True:
            head = await peer.head()
            query = parse_qs(urlsplit(head.split()[1].decode()).query)
            self.asked.append({name: values[0] for name, values in query.items()})
            await peer.send(self.before(self) or answer(self.document(**self.asked[-1])))

    def document(self, **asked: str) -> str:
        """Word a page."""
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter")
        after = order(unquote(asked.get("continuation-token", "")) or asked.get("start-after", ""))
        found: list[str] = []
        for key in sorted(self.keys, key=order):
            if not key.startswith(prefix) or order(key) <= after:
                continue
            cut = key.find(delimiter, len(prefix)) if delimiter else -1
            shown = key if cut < 0 else key[: cut + 1]
            if shown not in found and not (cut >= 0 and order(shown) <= after):
                found.append(shown)
        page, truncated = found[: self.page], len(found) > self.page
        is_prefix = {key for key in page if delimiter and key.find(delimiter, len(prefix)) >= 0}
        return (
            '<?xml version="1.0"?><ListBucketResult><EncodingType>url</EncodingType><Name>b</Name>'
            f"<Prefix>{quote(prefix)}</Prefix>"
            f"<IsTruncated>{str(truncated).lower()}</IsTruncated>"
            + "".join(contents(key) for key in page if key not in is_prefix)
            + "".join(f"<CommonPrefixes><Prefix>{quote(key)}</Prefix></CommonPrefixes>" for key in sorted(is_prefix))
            + (f"<NextContinuationToken>{quote(page[-1])}</NextContinuationToken>" if truncated else "")
            + "</ListBucketResult>"
        )


def answer(document: str, status: str = "200 OK", cut: int = 0) -> bytes:
    """Word an HTTP answer; `cut` bytes of the document are missing."""
    body = document.encode()[: -cut or None]
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def error(status: str, code: str) -> bytes:
    """Word a refusal."""
    return answer(f"<Error><Code>{code}</Code><Message>m</Message></Error>", status)


@asynccontextmanager
async def serving(bucket: Bucket) -> AsyncIterator[S3]:
    """Serve a bucket, and give a client of it."""
    async with hostile(bucket.serve) as server, Http() as http:
        yield S3(http, region=REGION, credentials=Keys(Credentials("a", "s")), endpoint=str(server.origin))


def listed(
    s3: S3, prefix: str = "", after: str = "", waits: list[float] | None = None
) -> AsyncIterator[list[SourceItem]]:
    """List without real waits; those asked for are noted."""

    async def sleep(seconds: float) -> None:
        if waits is not None:
            waits.append(seconds)

    return list_bucket(
        s3, "b", prefix, after=after, patience=Patience(backoff=Backoff(1.0, 8.0, lambda: 0.0), sleep=sleep)
    )


tree_keys = st.text(st.sampled_from("ab./0é\x01 +%"), min_size=1, max_size=6)


@given(
    keys=st.sets(tree_keys, max_size=60),
    prefix=st.sampled_from(["", "a", "a/", "b/a"]),
    after=st.one_of(st.just(""), tree_keys),
    page=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_stretches_put_together_are_the_bucket(keys: set[str], prefix: str, after: str, page: int) -> None:
    """However the bucket is cut into stretches, each key is told once and in order."""

    async def run() -> list[str]:
        async with serving(Bucket(keys, page)) as s3:
            return await keys_of(listed(s3, prefix, after))

    wanted = [key for key in keys if key.startswith(prefix) and order(key) > order(after)]
    assert asyncio.run(run()) == sorted(wanted, key=order)


async def test_stretches_are_read_side_by_side() -> None:
    """A bucket with many directories is asked about in several places before the first is over."""
    bucket = Bucket({f"{group:02}/{number:02}" for group in range(30) for number in range(20)})
    async with serving(bucket) as s3:
        assert await keys_of(listed(s3)) == sorted(bucket.keys)
    starts = [asked["start-after"] for asked in bucket.asked if "start-after" in asked and "delimiter" not in asked]
    assert len(starts) > 20
    assert len(bucket.asked) < 600 // 3 + 30 + 40


async def test_a_bucket_of_one_page_costs_one_request() -> None:
    """Nothing is discovered where nothing is left."""
    bucket = Bucket({"a/1", "b/2"})
    async with serving(bucket) as s3:
        assert await keys_of(listed(s3)) == ["a/1", "b/2"]
    assert len(bucket.asked) == 1


async def test_many_small_directories_do_not_cost_a_request_each() -> None:
    """Where the first page spans many prefixes, a stretch takes in as many as fill some pages."""
    bucket = Bucket({f"{number:03}/x" for number in range(600)}, page=20)
    async with serving(bucket) as s3:
        assert await keys_of(listed(s3)) == sorted(bucket.keys)
    flat = [asked for asked in bucket.asked if "delimiter" not in asked]
    assert len(flat) <= 2 * 600 // 20


@pytest.mark.parametrize("after", ["b/\udcff", "b/\udc80x", "\udcff", "b/é\udce2\udc82"])
async def test_a_listing_goes_on_after_a_name_that_is_no_text(after: str) -> None:
    """NetStorage may hold such names, and a comparison may have stopped at one."""
    keys = {"a", "b/a", "b/z", "b/z/\x7f", "b/\x7f", "b/\x7fz", "b/é", "b/éz", "b/éé", "b/€", "b/🎈", "c", "🎈"}
    async with serving(Bucket(keys, page=2)) as s3:
        found = await keys_of(listed(s3, after=after))
    assert found == sorted((key for key in keys if order(key) > order(after)), key=order)


# --- trouble ---------------------------------------------------------------------------------------------------


async def test_a_throttled_or_broken_page_is_asked_for_again() -> None:
    """503 SlowDown, a page cut short, one that is no listing: each costs a wait, growing, and no key."""
    trouble = [
        error("503 Slow Down", "SlowDown"),
        answer("<ListBucketResult><Contents><Key>a</Key>"),
        answer("<html></html>"),
        answer("<ListBucketResult><Name>b</Name></ListBucketResult>"),
        error("500 Internal", "InternalError"),
    ]
    bucket = Bucket(set("abcdefg"), before=lambda _bucket: trouble.pop(0) if trouble else None)
    waits: list[float] = []
    async with serving(bucket) as s3:
        assert await keys_of(listed(s3, waits=waits)) == list("abcdefg")
    assert waits == [0.5, 1.0, 2.0, 4.0, 4.0]


async def test_a_listing_gives_up_in_the_end() -> None:
    """What lasts is raised as what it is, after a bounded number of tries; a refusal at once."""
    for refusal, kind, tries in [
        (error("503 Slow Down", "SlowDown"), SourceUnavailable, TRIES),
        (answer("<ListBucketResult>"), BadAnswer, TRIES),
        (error("403 Forbidden", "AccessDenied"), SourceForbidden, 1),
    ]:
        bucket = Bucket(set(), before=lambda _bucket, refusal=refusal: refusal)  # type: ignore[misc]
        async with serving(bucket) as s3:
            with pytest.raises(kind):
                await keys_of(listed(s3))
        assert len(bucket.asked) == tries


async def test_a_failure_in_a_later_stretch_comes_in_its_turn() -> None:
    """The keys before it are given out; it is not lost, and nothing is left running."""
    bucket = Bucket({f"{group}/{number:02}" for group in "abcdef" for number in range(20)})

    def refuse(bucket: Bucket) -> bytes | None:
        asked = bucket.asked[-1]
        late = "delimiter" not in asked and asked.get("start-after", "") >= "d"
        return error("403 Forbidden", "AccessDenied") if late else None

    bucket.before = refuse
    found: list[str] = []
    async with serving(bucket) as s3:
        listing = listed(s3)
        with pytest.raises(SourceForbidden):  # noqa: PT012 -- what comes before it counts
            async for items in listing:
                found += [item.key for item in items]
    assert found == sorted(key for key in bucket.keys if key < "d")


async def test_a_listing_may_be_left_half_way() -> None:
    """Closing the generator ends what is read ahead."""
    bucket = Bucket({f"{group}/{number:02}" for group in "abcdef" for number in range(20)})
    async with serving(bucket) as s3:
        listing = list_bucket(s3, "b")
        async for _ in listing:
            break
        await anext(listing)
        await listing.aclose()
        assert len(asyncio.all_tasks()) < 20
    assert not [task for task in asyncio.all_tasks() if "_Pump" in repr(task)]


async def test_keys_that_come_and_go_meanwhile_harm_no_others() -> None:
    """Deletes and puts while pages are read: every key that was there all the time is told once, in order."""
    steady = {f"{group}/{number:02}" for group in "abcdef" for number in range(0, 40, 2)}
    coming = itertools.cycle(sorted({f"{group}/{number:02}" for group in "abcdef" for number in range(1, 40, 2)}))

    def churn(bucket: Bucket) -> None:
        bucket.keys ^= {next(coming), next(coming)}

    bucket = Bucket(set(steady), before=churn)
    async with serving(bucket) as s3:
        found = await keys_of(listed(s3))
    assert found == sorted(set(found))
    assert steady <= set(found)


async def test_a_listing_that_stands_still_is_an_error() -> None:
    """More was promised, with neither keys nor a token to go on from."""
    page = answer("<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>")
    async with serving(Bucket(set(), before=lambda _bucket: page)) as s3:
        with pytest.raises(BadAnswer, match="but not how"):
            await keys_of(listed(s3))


# --- pages -----------------------------------------------------------------------------------------------------


def test_a_page_is_read_whoever_worded_it() -> None:
    """Line breaks between elements, unknown and nested ones, times with fractions, keys encoded to the last slash."""
    page = read_page(
        b"""<?xml version="1.0" encoding="UTF-8"?>
        <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
          <IsTruncated>false</IsTruncated><Prefix>x</Prefix>
          <Contents>
            <Key>%0Aa%2Fb+c%01</Key> <Size>3</Size>
            <Owner> <ID>x</ID> <DisplayName/> </Owner> <ETag>"e-1"</ETag> <New><Deep>1</Deep></New>
            <LastModified>2024-05-01T10:00:00.789Z</LastModified>
          </Contents>
          <CommonPrefixes> <Prefix>p%2F</Prefix> </CommonPrefixes>
          <EncodingType> url </EncodingType>
        </ListBucketResult>""",
        "b",
    )
    assert page.items == [SourceItem("\na/b c\x01", 3, AT_S, "e-1")]
    assert (page.prefixes, page.truncated, page.token) == (["p/"], False, "")


def test_keys_that_were_not_encoded_are_left_alone() -> None:
    """A server that does not say so has not encoded them, whatever they look like."""
    said = "<ListBucketResult>\n<IsTruncated>false</IsTruncated>\n" + contents("k") + "\n</ListBucketResult>"
    page = read_page(said.replace(">k<", "> a%2B+b<").encode(), "b")
    assert [item.key for item in page.items] == [" a%2B+b"]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<ListBucketResult>",
        b"<Error><IsTruncated>false</IsTruncated></Error>",
        b"<ListBucketResult/>",
        b"<!DOCTYPE a [<!ENTITY b 'c'>]><ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>",
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a</Key></Contents></ListBucketResult>",
        contents("a").replace(">3<", ">three<").join(["<ListBucketResult>", "</ListBucketResult>"]).encode(),
        contents("a").replace(AT, "yesterday").join(["<ListBucketResult>", "</ListBucketResult>"]).encode(),
        (contents("a") + contents("b").replace("<Key>b</Key>", ""))
        .join(["<ListBucketResult>", "</ListBucketResult>"])
        .encode(),
    ],
)
def test_what_is_no_page_is_an_error(document: bytes) -> None:
    """Cut short, another document, a declaration, an object without its parts: never a shorter listing."""
    with pytest.raises(BadAnswer, match="bucket b: the page cannot be read"):
        read_page(document, "b")


@pytest.mark.parametrize("shown", ["abc", "c", ""])
async def test_a_listing_that_does_not_advance_is_an_error(shown: str) -> None:
    """A page that is told again and again, one key or none in it, would otherwise never end."""
    page = "".join(map(contents, shown)) + "<IsTruncated>true</IsTruncated><NextContinuationToken>t"
    same = answer(f"<ListBucketResult>{page}</NextContinuationToken></ListBucketResult>")
    bucket = Bucket(set(), before=lambda _bucket: same)
    async with asyncio.timeout(60), serving(bucket) as s3:
        with pytest.raises(BadAnswer, match="listing bucket b"):
            await keys_of(listed(s3))
    assert len(bucket.asked) < 50
