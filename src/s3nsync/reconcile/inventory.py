"""S3 Inventory in place of a listing: for buckets so large that listing them takes hours, or costs too much.

S3 writes an inventory once a day or a week: CSV files, compressed, and a manifest.json that names them, their columns
and their MD5s; manifest.checksum, written last, holds the manifest's own MD5. All of these are checked before the first
object is given out, and nothing that is missing is passed over: half an inventory would look like a bucket half empty.

Which object stands where in the files is not documented, so all of them go through a sort on disk (`spill`), which
costs little where the files are in order already. Of the versions of a key only the latest counts, and not if it is a
delete marker. Keys are URL-encoded, like those of a form. An inventory says how an object was encrypted and uploaded,
if these columns were asked for: then an ETag is known to be the MD5, or not to be. It is as old as its day: what it
tells of a key may have changed since.

A Batch Operations job can compute what an ETag does not say, the MD5 of every object, without a download. Its report is
read here too, and laid over a listing (`with_checksums`).

Sources: "Amazon S3 Inventory", "Locating your inventory list", "Compute checksums" and "Examples: S3 Batch Operations
completion reports" in the Amazon S3 User Guide.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import zlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from s3nsync.compare import Batches, SourceItem, order
from s3nsync.decide import MD5_ETAG
from s3nsync.errors import ConfigError, SourceCorrupt
from s3nsync.model import Gone, ObjectRef
from s3nsync.reconcile.listing.page import unquoted
from s3nsync.reconcile.listing.spill import IN_MEMORY_ITEMS, Sorter
from s3nsync.s3 import S3

MANIFEST_LIMIT_BYTES = 64 << 20
"""A manifest names each file in some 200 bytes; 10^10 objects are a few thousand files."""

BATCH_ITEMS = 1_000

PIECE_BYTES = 1 << 20
"""What is unzipped at once: a few bytes may stand for a thousand times as many."""

ROW_LIMIT_BYTES = 1 << 20
"""No row is longer: a key has 1,024 bytes, each of them three in the file."""

_NEEDED = ("Bucket", "Key", "Size", "LastModifiedDate", "ETag")
_PLAIN = frozenset({"SSE-S3", "NOT-SSE"})


@dataclass(frozen=True, slots=True)
class InventoryFile:
    """One of an inventory's files: its key in the manifest's bucket, and the MD5 of its bytes in hex."""

    key: str
    md5: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What manifest.json says: whose inventory it is, the columns of its files, and the files."""

    bucket: str
    columns: tuple[str, ...]
    files: tuple[InventoryFile, ...]


async def list_inventory(
    s3: S3,
    manifest: ObjectRef,
    *,
    bucket: str,
    prefix: str = "",
    after: str = "",
    scratch: Path | None = None,
    in_memory_items: int = IN_MEMORY_ITEMS,
) -> AsyncGenerator[list[SourceItem], None]:
    """List what an S3 Inventory (CSV) of `bucket` says, as `listing.list_bucket` would: current versions, in key order.

    `manifest` names its manifest.json. What AWS left unsorted is sorted in files below `scratch` (default: the system's
    directory for temporary files), about 200 bytes an object. Raises SourceCorrupt naming the file that is missing,
    damaged or not readable, ConfigError for an inventory of another bucket or format, and what reading S3 raises.
    """
    found = await read_manifest(s3, manifest, bucket=bucket)
    wanted = _Wanted(prefix, order(after) if after else b"")
    with Sorter(SourceItem._make, in_memory_items=in_memory_items, scratch=scratch) as sorter:
        for each in found.files:
            ref = ObjectRef(manifest.bucket, each.key)
            make = _row_reader(found, ref)
            async with aclosing(_rows(s3, ref, each.md5)) as lots:
                async for rows in lots:
                    sorter.add(item for item in map(make, rows) if item is not None and wanted(item.key))
        for batch in sorter.batches(BATCH_ITEMS):
            yield batch


@dataclass(frozen=True, slots=True)
class _Wanted:
    prefix: str
    after: bytes

    def __call__(self, key: str) -> bool:
        return key.startswith(self.prefix) and (not self.after or order(key) > self.after)


# --- the manifest ----------------------------------------------------------------------------------------------


async def read_manifest(s3: S3, ref: ObjectRef, *, bucket: str) -> Manifest:
    """Read manifest.json and check it against manifest.checksum; raises as `list_inventory` does."""
    text = await _read(s3, ref)
    checksum = await _read(s3, ObjectRef(ref.bucket, ref.key.rpartition("/")[0] + "/manifest.checksum"))
    if _md5(text) != checksum.decode("ascii", "replace").strip().lower():
        raise SourceCorrupt(f"{ref} does not match manifest.checksum", hint=_TAKE_ANOTHER)
    return parse_manifest(text, ref, bucket=bucket)


def parse_manifest(text: bytes, ref: ObjectRef, *, bucket: str) -> Manifest:
    """Read a manifest's JSON."""
    try:
        data = json.loads(text)
        form, owner = str(data["fileFormat"]), str(data["sourceBucket"])
        columns = tuple(str(data["fileSchema"]).replace(" ", "").split(","))
        files = tuple(InventoryFile(str(each["key"]), str(each["MD5checksum"]).lower()) for each in data["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise SourceCorrupt(f"{ref} is no inventory's manifest: {error!r}", hint=_TAKE_ANOTHER) from error
    if form != "CSV":
        raise ConfigError(f"{ref}: the inventory's format is {form}", hint="configure the inventory with format CSV")
    if owner != bucket:
        raise ConfigError(f"{ref}: the inventory is of bucket {owner}, not {bucket}", hint="name another manifest.json")
    lacking = [name for name in _NEEDED if name not in columns]
    if lacking:
        msg = f"{ref}: the inventory lacks the columns {', '.join(lacking)}"
        raise ConfigError(msg, hint="add Size, LastModifiedDate and ETag to the inventory's optional fields")
    return Manifest(owner, columns, files)


_TAKE_ANOTHER = "check the name; take the inventory of another day, or another report, or copy the file again"


async def _read(s3: S3, ref: ObjectRef) -> bytes:
    parts: list[bytes] = []
    async with aclosing(_chunks(s3, ref)) as chunks:
        async for chunk in chunks:
            parts.append(chunk)
            if sum(map(len, parts)) > MANIFEST_LIMIT_BYTES:
                raise SourceCorrupt(f"{ref} is longer than {MANIFEST_LIMIT_BYTES >> 20} MiB: it is no manifest")
    return b"".join(parts)


async def _chunks(s3: S3, ref: ObjectRef) -> AsyncGenerator[bytes, None]:
    opened = await s3.open(ref)
    if isinstance(opened, Gone):
        raise SourceCorrupt(f"inventory or report is not complete: {ref} is missing", hint=_TAKE_ANOTHER)
    try:
        async for chunk in opened.chunks():
            yield chunk
    finally:
        await opened.aclose()


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


# --- the files -------------------------------------------------------------------------------------------------


async def _rows(s3: S3, ref: ObjectRef, md5: str, *, packed: bool = True) -> AsyncGenerator[list[list[str]], None]:
    """Give a file's rows, some at a time; SourceCorrupt at the end if the bytes are not those of its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    text = _Text(ref, packed=packed)
    async with aclosing(_chunks(s3, ref)) as chunks:
        async for chunk in chunks:
            digest.update(chunk)
            for rows in text.rows(chunk):
                yield rows
    yield text.end()
    if digest.hexdigest() != md5:
        msg = f"{ref} is damaged: its MD5 is {digest.hexdigest()}, the manifest says {md5}"
        raise SourceCorrupt(msg, hint=_TAKE_ANOTHER)


class _Text:
    """A file's CSV as it comes in, through gzip if `packed`: lines are parsed, what is none yet waits."""

    def __init__(self, ref: ObjectRef, *, packed: bool) -> None:
        self._ref = ref
        self._packed = packed
        self._unzip = zlib.decompressobj(wbits=31)
        self._rest = b""

    def rows(self, chunk: bytes) -> Iterator[list[list[str]]]:
        """Give the rows that are complete with this chunk, a piece's at a time."""
        for piece in self._unzipped(chunk) if self._packed else (chunk,):
            lines, newline, self._rest = (self._rest + piece).rpartition(b"\n")
            if len(self._rest) > ROW_LIMIT_BYTES:
                raise self._damaged(f"a row is longer than {ROW_LIMIT_BYTES >> 10} KiB")
            yield self._parse(lines + newline)

    def end(self) -> list[list[str]]:
        """Give the last row, if no line break follows it."""
        if self._packed and not self._unzip.eof:
            raise self._damaged("it is cut short")
        rest, self._rest = self._rest, b""
        return self._parse(rest)

    def _unzipped(self, chunk: bytes) -> Iterator[bytes]:
        more = True
        while more:
            if self._unzip.eof:  # gzip files may be joined: another one begins
                self._unzip = zlib.decompressobj(wbits=31)
            try:
                piece = self._unzip.decompress(chunk, PIECE_BYTES)
            except zlib.error as error:
                raise self._damaged(f"it is not gzip ({error})") from error
            chunk = self._unzip.unconsumed_tail or self._unzip.unused_data
            more = bool(chunk) or (len(piece) == PIECE_BYTES and not self._unzip.eof)
            yield piece

    def _parse(self, lines: bytes) -> list[list[str]]:
        try:
            return list(csv.reader(io.StringIO(lines.decode("utf-8"), newline=""), strict=True))
        except (csv.Error, UnicodeDecodeError) as error:
            raise self._damaged(f"it is not CSV ({error})") from error

    def _damaged(self, why: str) -> SourceCorrupt:
        return SourceCorrupt(f"{self._ref} is damaged: {why}", hint=_TAKE_ANOTHER)


def _row_reader(manifest: Manifest, ref: ObjectRef) -> Callable[[Sequence[str]], SourceItem | None]:
    """Give what reads a row: None for a version that is not the latest, and for a delete marker."""
    at = {name: place for place, name in enumerate(manifest.columns)}
    size, modified, etag, key = at["Size"], at["LastModifiedDate"], at["ETag"], at["Key"]
    latest, marker = at.get("IsLatest"), at.get("IsDeleteMarker")
    storage = at.get("StorageClass")

    def read(row: Sequence[str]) -> SourceItem | None:
        if len(row) != len(at):
            raise SourceCorrupt(f"{ref}: a row has {len(row)} columns and not {len(at)}", hint=_TAKE_ANOTHER)
        if (latest is not None and row[latest] != "true") or (marker is not None and row[marker] == "true"):
            return None
        try:
            size_bytes = int(row[size])
            mtime_s = int(datetime.fromisoformat(row[modified]).timestamp())
        except ValueError as error:
            raise SourceCorrupt(f"{ref}: {row[key]!r}: {error}", hint=_TAKE_ANOTHER) from error
        md5, hint = _digests(row[etag].strip('"'), row, at)
        storage_class = "" if storage is None else row[storage]
        return SourceItem(unquoted(row[key]), size_bytes, mtime_s, row[etag].strip('"'), md5, hint, storage_class)

    return read


def _digests(etag: str, row: Sequence[str], at: Mapping[str, int]) -> tuple[str | None, str | None]:
    """Say what an ETag is, by the columns on upload and encryption: surely the MD5, or perhaps, or neither."""
    if not MD5_ETAG.fullmatch(etag):
        return None, None
    multipart, encryption = at.get("IsMultipartUploaded"), at.get("EncryptionStatus")
    if multipart is None or encryption is None:
        return None, etag
    plain = row[multipart] == "false" and row[encryption] in _PLAIN
    return (etag, None) if plain else (None, None)


# --- a checksum report -----------------------------------------------------------------------------------------

_REPORT_COLUMNS = ("Bucket", "Key", "TaskStatus", "ResultMessage")


async def list_checksums(
    s3: S3,
    manifest: ObjectRef,
    *,
    bucket: str,
    scratch: Path | None = None,
    in_memory_items: int = IN_MEMORY_ITEMS,
) -> AsyncGenerator[list[SourceItem], None]:
    """List what a Batch Operations job "Compute checksum" (MD5, full object) found out about `bucket`, in key order.

    `manifest` names the report's manifest.json. Items have key, ETag and MD5, and no size or time: they are for
    `with_checksums`. Objects that the job failed on are left out. Raises SourceCorrupt naming the file that is missing,
    damaged or not readable, ConfigError when the report holds no such MD5.
    """
    columns, files = _parse_report(await _read(s3, manifest), manifest)
    with Sorter(SourceItem._make, in_memory_items=in_memory_items, scratch=scratch) as sorter:
        for ref, md5 in files:
            async with aclosing(_rows(s3, ref, md5, packed=False)) as lots:
                async for rows in lots:
                    found = (_checksum_of(row, columns, ref, bucket) for row in rows)
                    sorter.add(item for item in found if item is not None)
        if not sorter.count:
            hint = "run the job on this bucket, with algorithm MD5 and checksum type FULL_OBJECT"
            raise ConfigError(f"{manifest}: the report holds no MD5 of a whole object of bucket {bucket}", hint=hint)
        for batch in sorter.batches(BATCH_ITEMS):
            yield batch


async def with_checksums(
    source: Batches[SourceItem], checksums: Batches[SourceItem]
) -> AsyncGenerator[Sequence[SourceItem], None]:
    """Give a listing with the MD5s of a report; both are in key order, and neither is closed.

    A report is older than a listing: an MD5 counts only where the ETag is still the one that the report saw.
    """
    known: dict[tuple[str, str], str | None] = {}
    reached: bytes | None = b""
    async for items in source:
        end = order(items[-1].key) if items else b""
        while reached is not None and reached <= end:
            batch = await anext(checksums, None)
            known.update(((each.key, each.etag), each.md5) for each in batch or ())
            reached = order(batch[-1].key) if batch else None
        yield [each._replace(md5=known.get((each.key, each.etag), each.md5)) for each in items]
        known = {pair: md5 for pair, md5 in known.items() if order(pair[0]) > end}


def _parse_report(text: bytes, ref: ObjectRef) -> tuple[Mapping[str, int], list[tuple[ObjectRef, str]]]:
    """Read a report's manifest: where its columns are, and its files on tasks that succeeded, with their MD5s."""
    try:
        data = json.loads(text)
        names = str(data["ReportSchema"]).replace(" ", "").split(",")
        files = [
            (ObjectRef(str(each["Bucket"]), str(each["Key"])), str(each["MD5Checksum"]).lower())
            for each in data["Results"]
            if each["TaskExecutionStatus"] == "succeeded"
        ]
        columns = {name: place for place, name in enumerate(names)}
        return {name: columns[name] for name in _REPORT_COLUMNS}, files
    except (ValueError, KeyError, TypeError) as error:
        raise SourceCorrupt(f"{ref} is no report's manifest: {error!r}", hint=_TAKE_ANOTHER) from error


def _checksum_of(row: Sequence[str], columns: Mapping[str, int], ref: ObjectRef, bucket: str) -> SourceItem | None:
    """Read one task; None if it is of another bucket, or brought no MD5 of the whole object."""
    try:
        owner, key, status, message = (row[columns[name]] for name in _REPORT_COLUMNS)
        if owner != bucket or status != "succeeded":
            return None
        told = json.loads(message)
        if (told["checksumAlgorithm"], told["checksumType"]) != ("MD5", "FULL_OBJECT"):
            return None
        md5 = base64.b64decode(told["checksum_base64"], validate=True).hex()
        return SourceItem(unquoted(key), 0, 0, str(told["etag"]).strip('"'), md5)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise SourceCorrupt(f"{ref}: a row cannot be read: {error!r}", hint=_TAKE_ANOTHER) from error
