"""Reading S3 inventories, from a local AWS: worded as the S3 User Guide describes them, none is a recording."""

from __future__ import annotations

import asyncio
import base64
import csv
import gzip
import hashlib
import io
import json
import random
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aws_emulator import REGION, Aws
from s3nsync.compare import SourceItem, order
from s3nsync.errors import ConfigError, S3nsyncError, SourceCorrupt
from s3nsync.http import Http
from s3nsync.model import ObjectRef
from s3nsync.reconcile.inventory import ROW_LIMIT_BYTES, list_checksums, list_inventory, with_checksums
from s3nsync.s3 import S3
from s3nsync.sigv4 import Credentials

MD5 = "900150983cd24fb0d6963f7d28e17f72"
AT, AT_S = "2024-05-01T10:00:00.000Z", 1714557600
COLUMNS = ("Bucket", "Key", "Size", "LastModifiedDate", "ETag")
FULL = (*COLUMNS, "StorageClass", "IsMultipartUploaded", "EncryptionStatus")


class Keys:
    """A source of credentials that never change."""

    def __init__(self, keys: Credentials) -> None:
        self._keys = keys

    async def get(self) -> Credentials:
        return self._keys

    async def renew(self, refused: Credentials) -> Credentials:
        return refused


def row(key: str, *more: str) -> tuple[str, ...]:
    """Word a row."""
    return ("source", quote_plus(key, safe="/"), "3", AT, MD5, *more)


def packed(rows: Sequence[Sequence[str]]) -> bytes:
    """Word a file."""
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return gzip.compress(text.getvalue().encode(), mtime=0)


@dataclass
class Inventory:
    """An inventory in a bucket: files are put as they are, the manifest as its fields are changed."""

    aws: Aws
    bucket: str
    files: list[dict[str, object]] = field(default_factory=list)

    def put(self, body: bytes, *, md5: str | None = None) -> str:
        """Put a file and name it in the manifest."""
        key = f"i/source/all/data/{len(self.files)}.csv.gz"
        self.aws.s3.put_object(Bucket=self.bucket, Key=key, Body=body)
        digest = md5 or hashlib.md5(body, usedforsecurity=False).hexdigest()
        self.files.append({"key": key, "size": len(body), "MD5checksum": digest})
        return key

    def publish(self, columns: Sequence[str] = COLUMNS, **changes: object) -> ObjectRef:
        """Put the manifest and its checksum."""
        manifest = {
            "sourceBucket": "source",
            "destinationBucket": f"arn:aws:s3:::{self.bucket}",
            "version": "2016-11-30",
            "creationTimestamp": "1714557600000",
            "fileFormat": "CSV",
            "fileSchema": ", ".join(columns),
            "files": self.files,
        }
        text = json.dumps(manifest | changes).encode()
        ref = ObjectRef(self.bucket, "i/source/all/2024-05-01T01-00Z/manifest.json")
        self.aws.s3.put_object(Bucket=self.bucket, Key=ref.key, Body=text)
        checksum = hashlib.md5(text, usedforsecurity=False).hexdigest().encode() + b"\n"
        self.aws.s3.put_object(Bucket=self.bucket, Key=ref.key.replace(".json", ".checksum"), Body=checksum)
        return ref


@pytest.fixture
def inventory(aws: Aws) -> Inventory:
    """Give an inventory without files."""
    return Inventory(aws, aws.bucket())


@pytest.fixture
async def s3(aws: Aws) -> AsyncIterator[S3]:
    """Read the local AWS."""
    async with Http() as http:
        yield S3(http, region=REGION, credentials=Keys(aws.keys), endpoint=aws.url)
        assert " 0 busy" in repr(http)


async def read(s3: S3, ref: ObjectRef, **options: str | int | Path) -> list[SourceItem]:
    """Read an inventory to its end."""
    found = list_inventory(s3, ref, bucket="source", **options)  # type: ignore[arg-type]
    return [item async for items in found for item in items]


async def test_files_in_any_order_become_one_listing(inventory: Inventory, s3: S3, tmp_path: Path) -> None:
    """Rows of several files, in no order and more than memory may hold, come out in key order, keys decoded."""
    keys = [f"{part}/{number}" for part in ("a b", "a+b", "é%", "x.y", "x") for number in range(60)]
    shuffled = random.Random(1).sample(keys, len(keys))
    for at in range(0, len(keys), 100):
        inventory.put(packed([row(key) for key in shuffled[at : at + 100]]))
    ref = inventory.publish()
    found = await read(s3, ref, in_memory_items=20, scratch=tmp_path)
    assert [item.key for item in found] == sorted(keys, key=order)
    assert found[0] == SourceItem("a b/0", 3, AT_S, MD5, None, MD5)
    some = await read(s3, ref, prefix="x", after="x.y/2")
    assert [item.key for item in some] == [key for key in sorted(keys) if key.startswith("x") and key > "x.y/2"]


async def test_only_latest_versions_count(inventory: Inventory, s3: S3) -> None:
    """Older versions and keys whose latest version is a delete marker are no objects."""
    columns = ("Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", *COLUMNS[2:])
    rows = [
        ("source", "a", "v2", "true", "false", "3", AT, MD5),
        ("source", "a", "v1", "false", "false", "9", AT, MD5),
        ("source", "b", "v2", "true", "true", "", AT, ""),
        ("source", "b", "v1", "false", "false", "9", AT, MD5),
    ]
    inventory.put(packed(rows))
    assert [(item.key, item.size_bytes) for item in await read(s3, inventory.publish(columns))] == [("a", 3)]


@pytest.mark.parametrize(
    ("columns", "told", "digests"),
    [
        (FULL, (MD5, "STANDARD", "false", "SSE-S3"), (MD5, None)),
        (FULL, (MD5, "STANDARD", "false", "NOT-SSE"), (MD5, None)),
        (FULL, (MD5, "STANDARD", "false", "SSE-KMS"), (None, None)),
        (FULL, (MD5, "STANDARD", "false", "SSE-C"), (None, None)),
        (FULL, (MD5, "STANDARD", "true", "SSE-S3"), (None, None)),
        (FULL, (f"{MD5}-2", "STANDARD", "true", "SSE-S3"), (None, None)),
        ((*COLUMNS, "StorageClass", "IsMultipartUploaded"), (MD5, "STANDARD", "false"), (None, MD5)),
        ((*COLUMNS, "StorageClass", "EncryptionStatus"), (MD5, "STANDARD", "NOT-SSE"), (None, MD5)),
    ],
)
async def test_an_etag_is_an_md5_only_where_the_columns_say_so(
    inventory: Inventory,
    s3: S3,
    columns: tuple[str, ...],
    told: tuple[str, ...],
    digests: tuple[str | None, str | None],
) -> None:
    """Upload and encryption decide; without these columns it is a hint, and never by its length alone."""
    inventory.put(packed([("source", "k", "3", AT, *told)]))
    assert await read(s3, inventory.publish(columns)) == [SourceItem("k", 3, AT_S, told[0], *digests, "STANDARD")]


async def test_an_empty_inventory_and_joined_gzip_files(inventory: Inventory, s3: S3) -> None:
    """No files are no objects; a file may be several gzip streams one after the other, without a last line break."""
    assert await read(s3, inventory.publish()) == []
    last = gzip.compress(",".join(row("c")).encode())
    inventory.put(packed([row("a")]) + packed([row("b")]) + last)
    assert [item.key for item in await read(s3, inventory.publish())] == ["a", "b", "c"]


async def test_memory_does_not_grow_with_what_a_file_unzips_to(inventory: Inventory, s3: S3) -> None:
    """A few hundred kilobytes may be a hundred megabytes of rows: they are unzipped and read a piece at a time."""
    old = ",".join(("source", "k" * 1000, "v", "false", "false", "3", AT, MD5)).encode() + b"\n"
    new = old.replace(b"false", b"true", 1)
    inventory.put(gzip.compress(old * 100_000 + new))
    ref = inventory.publish(("Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", *COLUMNS[2:]))
    tracemalloc.start()
    try:
        assert len(await read(s3, ref)) == 1
        assert tracemalloc.get_traced_memory()[1] < 32 << 20
    finally:
        tracemalloc.stop()


# --- damage ----------------------------------------------------------------------------------------------------


async def refused(s3: S3, ref: ObjectRef, kind: type[S3nsyncError], words: str) -> None:
    """See that reading fails, saying what and naming the file, before anything was given out."""
    with pytest.raises(kind, match=words) as caught:
        await anext(list_inventory(s3, ref, bucket="source"))
    assert caught.value.hint


async def test_a_missing_file_is_named(inventory: Inventory, s3: S3) -> None:
    """Without one of its files an inventory is not read at all."""
    inventory.put(packed([row("a")]))
    gone = inventory.put(packed([row("b")]))
    inventory.aws.s3.delete_object(Bucket=inventory.bucket, Key=gone)
    await refused(s3, inventory.publish(), SourceCorrupt, f"not complete: .*{gone} is missing")


async def test_damaged_files_are_named(inventory: Inventory, s3: S3) -> None:
    """Other bytes than the manifest's MD5, bytes cut off, no gzip, no CSV, rows that are not the columns."""
    whole = packed([row("a"), row("b")])
    for body, md5, words in [
        (whole, "0" * 32, r"0\.csv\.gz is damaged: its MD5 is"),
        (whole[:-9], None, r"0\.csv\.gz is damaged: it is cut short"),
        (b"plain text", None, r"0\.csv\.gz is damaged: it is not gzip"),
        (gzip.compress(b"x" * (ROW_LIMIT_BYTES + 1)), None, r"0\.csv\.gz is damaged: a row is longer than 1024 KiB"),
        (gzip.compress(b'"a","b'), None, r"0\.csv\.gz is damaged: it is not CSV"),
        (packed([row("a", "more")]), None, r"0\.csv\.gz: a row has 6 columns and not 5"),
        (packed([("source", "a", "three", AT, MD5)]), None, r"0\.csv\.gz: 'a': "),
        (packed([("source", "a", "3", "yesterday", MD5)]), None, r"0\.csv\.gz: 'a': "),
    ]:
        inventory.files.clear()
        inventory.put(body, md5=md5)
        await refused(s3, inventory.publish(), SourceCorrupt, words)


async def test_an_unfinished_or_altered_manifest_is_refused(inventory: Inventory, s3: S3) -> None:
    """manifest.checksum is written last: without it, or with another one, the inventory is not whole."""
    ref = inventory.publish()
    checksum = ref.key.replace(".json", ".checksum")
    inventory.aws.s3.put_object(Bucket=inventory.bucket, Key=checksum, Body=b"0" * 32)
    await refused(s3, ref, SourceCorrupt, "manifest.json does not match manifest.checksum")
    inventory.aws.s3.delete_object(Bucket=inventory.bucket, Key=checksum)
    await refused(s3, ref, SourceCorrupt, "manifest.checksum is missing")


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"fileFormat": "Parquet"}, ConfigError, "format is Parquet"),
        ({"sourceBucket": "other"}, ConfigError, "of bucket other, not source"),
        ({"fileSchema": "Bucket, Key, Size"}, ConfigError, "lacks the columns LastModifiedDate, ETag"),
        ({"files": [{"key": "k"}]}, SourceCorrupt, "no inventory's manifest"),
        ({"files": None}, SourceCorrupt, "no inventory's manifest"),
    ],
)
async def test_an_inventory_of_something_else_is_refused(
    inventory: Inventory, s3: S3, changes: dict[str, object], kind: type[S3nsyncError], words: str
) -> None:
    """Another format, bucket or set of columns: what to do is said."""
    await refused(s3, inventory.publish(COLUMNS, **changes), kind, words)


# --- checksum reports ------------------------------------------------------------------------------------------


def task(
    key: str, md5: str = MD5, *, etag: str = "e-2", status: str = "succeeded", bucket: str = "source", **told: str
) -> list[str]:
    """Word a row of a report."""
    message = {
        "checksum_base64": base64.b64encode(bytes.fromhex(md5)).decode(),
        "etag": etag,
        "checksumAlgorithm": "MD5",
        "checksumType": "FULL_OBJECT",
    }
    return [bucket, quote_plus(key, safe="/"), "", status, "", "200", json.dumps(message | told)]


def report(
    aws: Aws, bucket: str, *files: Sequence[Sequence[str]], md5: str | None = None, **changes: object
) -> ObjectRef:
    """Put a report."""
    results = []
    for number, rows in enumerate(files):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        body = text.getvalue().encode()
        aws.s3.put_object(Bucket=bucket, Key=f"job/results/{number}.csv", Body=body)
        digest = md5 or hashlib.md5(body, usedforsecurity=False).hexdigest()
        result = {"TaskExecutionStatus": "succeeded", "Bucket": bucket, "MD5Checksum": digest}
        results.append(result | {"Key": f"job/results/{number}.csv"})
    results.append(
        {"TaskExecutionStatus": "failed", "Bucket": bucket, "MD5Checksum": "0" * 32, "Key": "job/failed.csv"}
    )
    columns = "Bucket, Key, VersionId, TaskStatus, ErrorCode, HTTPStatusCode, ResultMessage"
    manifest = {"Format": "Report_CSV_20180820", "Results": results, "ReportSchema": columns} | changes
    aws.s3.put_object(Bucket=bucket, Key="job/manifest.json", Body=json.dumps(manifest).encode())
    return ObjectRef(bucket, "job/manifest.json")


async def checksums(s3: S3, ref: ObjectRef) -> list[SourceItem]:
    """Read a report to its end."""
    return [item async for items in list_checksums(s3, ref, bucket="source") for item in items]


async def test_a_report_gives_the_md5s_of_whole_objects(aws: Aws, s3: S3) -> None:
    """In key order; not of other buckets, other algorithms, digests of digests, or tasks that failed."""
    ref = report(
        aws,
        aws.bucket(),
        [task("b c"), task("f", status="failed"), task("s", checksumAlgorithm="SHA256")],
        [task("a", etag='"e"'), task("p", checksumType="COMPOSITE"), task("o", bucket="other")],
    )
    assert await checksums(s3, ref) == [SourceItem("a", 0, 0, "e", MD5), SourceItem("b c", 0, 0, "e-2", MD5)]


async def test_a_report_that_cannot_be_used_is_refused(aws: Aws, s3: S3) -> None:
    """Damaged, of something else, or without a single MD5: what and which file is said."""
    for rows, changes, kind, words in [
        ([task("a")], {"Results": [{"TaskExecutionStatus": "succeeded"}]}, SourceCorrupt, "no report's manifest"),
        ([task("a")], {"ReportSchema": "Bucket"}, SourceCorrupt, "no report's manifest"),
        ([["source", "a"]], {}, SourceCorrupt, r"0\.csv: a row cannot be read"),
        ([task("a", checksum_base64="?")], {}, SourceCorrupt, r"0\.csv: a row cannot be read"),
        ([task("a", bucket="other")], {}, ConfigError, "no MD5 of a whole object of bucket source"),
    ]:
        ref = report(aws, aws.bucket(), rows, **changes)  # type: ignore[arg-type]  # fields of its manifest
        with pytest.raises(kind, match=words):
            await checksums(s3, ref)
    with pytest.raises(SourceCorrupt, match=r"0\.csv is damaged"):
        await checksums(s3, report(aws, aws.bucket(), [task("a")], md5="0" * 32))
    with pytest.raises(SourceCorrupt, match=r"none\.json is missing"):
        await checksums(s3, ObjectRef(aws.bucket(), "none.json"))


pairs = st.dictionaries(
    st.text(st.sampled_from("ab/é"), min_size=1, max_size=3), st.sampled_from(["e1", "e2"]), max_size=20
)


@given(listing=pairs, told=pairs, sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_a_checksum_counts_only_for_the_version_it_is_of(
    listing: dict[str, str], told: dict[str, str], sizes: tuple[int, int]
) -> None:
    """Whatever the batches: the MD5 goes to the key whose ETag is still the same, and nothing else changes."""

    async def batches(found: dict[str, str], size: int, md5: str | None) -> AsyncIterator[list[SourceItem]]:
        items = [
            SourceItem(key, 1, 2, etag, md5) for key, etag in sorted(found.items(), key=lambda pair: order(pair[0]))
        ]
        for at in range(0, len(items), size):
            yield items[at : at + size]

    async def run() -> list[SourceItem]:
        merged = with_checksums(batches(listing, sizes[0], None), batches(told, sizes[1], MD5))
        return [item async for items in merged for item in items]

    assert asyncio.run(run()) == [
        SourceItem(key, 1, 2, etag, MD5 if told.get(key) == etag else None)
        for key, etag in sorted(listing.items(), key=lambda pair: order(pair[0]))
    ]
