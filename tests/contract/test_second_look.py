"""Second looks through one page of the listing: what it confirms, and that everything else is asked about."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_emulator import REGION, Aws
from queue_stand_ins import Keys
from s3nsync.compare import order
from s3nsync.errors import BucketMissing, S3nsyncError
from s3nsync.http import Http
from s3nsync.model import Gone, ObjectRef, SourceInfo
from s3nsync.reconcile.second_look import SecondLooks, just_before
from s3nsync.s3 import S3


class Counting(S3):
    """S3 that counts what is asked; `broken` refuses listings."""

    heads = 0
    lists = 0
    broken = False

    async def head(self, ref: ObjectRef, saw: SourceInfo | None = None) -> SourceInfo | None:
        self.heads += 1
        return await super().head(ref, saw)

    async def list_page(self, bucket: str, query: object) -> bytes:
        self.lists += 1
        if self.broken:
            raise BucketMissing("no listing")
        return await super().list_page(bucket, query)  # type: ignore[arg-type]


@pytest.fixture
async def s3(aws: Aws) -> AsyncIterator[Counting]:
    """Open S3."""
    async with Http() as http:
        yield Counting(http, region=REGION, credentials=Keys(aws.keys), endpoint=aws.url)


def put(aws: Aws, bucket: str, keys: Iterable[str], body: bytes = b"1") -> list[ObjectRef]:
    """Write objects."""
    for key in keys:
        aws.s3.put_object(Bucket=bucket, Key=key, Body=body)
    return [ObjectRef(bucket, key) for key in keys]


async def opened(looks: SecondLooks, refs: Iterable[ObjectRef]) -> list[SourceInfo]:
    """Open objects, as copies do."""
    found = []
    for ref in refs:
        each = await looks.open(ref)
        assert not isinstance(each, Gone)
        await each.aclose()
        found.append(each.info)
    return found


KEYS = ["a", "a b", "a/1", "a/2", "é/ü+%", "z", "🎈"]


async def test_unchanged_objects_are_confirmed_by_one_request(aws: Aws, s3: Counting) -> None:
    """All of them together; what is told is what the GET told."""
    looks = SecondLooks(s3)
    refs = put(aws, aws.bucket(), KEYS)
    saw = await opened(looks, refs)
    assert await asyncio.gather(*map(looks.head, refs, saw)) == saw
    assert (s3.lists, s3.heads) == (1, 0)


async def test_what_has_changed_or_gone_is_asked_about(aws: Aws, s3: Counting) -> None:
    """A page only confirms: other bytes, and absence, are told by a HEAD."""
    looks, bucket = SecondLooks(s3), aws.bucket()
    refs = put(aws, bucket, KEYS)
    saw = await opened(looks, refs)
    put(aws, bucket, ["a/1"], b"other")
    aws.s3.delete_object(Bucket=bucket, Key="a/2")
    found = await asyncio.gather(*map(looks.head, refs, saw))
    assert found[3] is None
    assert found[2] is not None
    assert found[2].size_bytes == 5
    assert [each for number, each in enumerate(found) if number not in {2, 3}] == [*saw[:2], *saw[4:]]
    assert (s3.lists, s3.heads) == (1, 2)


async def test_looks_that_lie_far_apart_are_heads(aws: Aws, s3: Counting) -> None:
    """One page finds it out; then no more pages are spent for a while."""
    looks, bucket = SecondLooks(s3), aws.bucket()
    put(aws, bucket, [f"k/{number:03}" for number in range(181)])
    refs = [ObjectRef(bucket, f"k/{number:03}") for number in (0, 60, 120, 180)]
    for _ in range(2):
        saw = await opened(looks, refs)
        assert [each and each.etag for each in await asyncio.gather(*map(looks.head, refs, saw))] == [
            each.etag for each in saw
        ]
    assert (s3.lists, s3.heads) == (1, 3 + 4)


async def test_a_listing_that_fails_costs_heads_and_no_answer(aws: Aws, s3: Counting) -> None:
    """Nothing is told by a failure; what a HEAD raises is raised."""
    looks = SecondLooks(s3)
    refs = put(aws, aws.bucket(), ["a", "b"])
    saw = await opened(looks, refs)
    s3.broken = True
    assert [each and each.etag for each in await asyncio.gather(*map(looks.head, refs, saw))] == [
        each.etag for each in saw
    ]
    assert s3.heads == 2


async def test_a_look_without_its_get_is_a_head(aws: Aws, s3: Counting) -> None:
    """There is nothing to be confirmed."""
    looks = SecondLooks(s3)
    (ref,) = put(aws, aws.bucket(), ["a"])
    assert await looks.head(ref) is not None
    assert (s3.lists, s3.heads) == (0, 1)


async def test_a_full_page_does_not_wait(aws: Aws, s3: Counting) -> None:
    """With as many looks as a page answers, it is asked for at once."""
    looks = SecondLooks(s3, wait_s=3600, most=3)
    refs = put(aws, aws.bucket(), ["a", "b", "c"])
    saw = await opened(looks, refs)
    await asyncio.wait_for(asyncio.gather(*map(looks.head, refs, saw)), 120)
    assert s3.lists == 1


async def test_a_cancelled_look_harms_no_other(aws: Aws, s3: Counting) -> None:
    """The others are answered."""
    looks = SecondLooks(s3)
    refs = put(aws, aws.bucket(), ["a", "b"])
    saw = await opened(looks, refs)
    first, second = (asyncio.ensure_future(looks.head(*each)) for each in zip(refs, saw, strict=True))
    await asyncio.sleep(0)
    first.cancel()
    assert await second == saw[1]


async def test_errors_of_a_head_go_to_who_looks(aws: Aws, s3: Counting) -> None:
    """A bucket that goes away meanwhile."""
    looks, bucket = SecondLooks(s3), aws.bucket()
    (ref,) = put(aws, bucket, ["a"])
    (saw,) = await opened(looks, [ref])
    s3.broken = True
    wrong = S3nsyncError("wrong")

    async def refuse(_ref: ObjectRef, _saw: SourceInfo | None = None) -> None:
        raise wrong

    s3.head = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(S3nsyncError, match="wrong"):
        await looks.head(ref, saw)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_just_before_is_before(key: str) -> None:
    """In the order of S3, and so that a key which differs in its last character only does not come between."""
    before = just_before(key)
    assert order(before) < order(key)
    assert "\ud800" not in before
