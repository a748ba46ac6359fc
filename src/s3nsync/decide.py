"""What to do about one key, as pure functions: facts in, a decision out.

    S3 says               the route says        NetStorage (if asked)      so
    --------------------  --------------------  -------------------------  --------------------------
    there is no such key  deletes = mirror      -                          Delete
    there is no such key  deletes = trash       -                          Delete, into the trash
    there is no such key  deletes = ignore      -                          Nothing
    here it is            settle time not over  -                          Wait
    here it is            encoding = reject     -                          Reject (if it is encoded)
    here it is            -                     size, md5, mtime all ours  Nothing, as unchanged
    here it is            -                     anything else              Upload, with a Proof

NetStorage is asked only where it earns its keep (`wants_stat`): a second attempt, or a check. An absent object is
always deleted without asking: a replica may still be hiding what must go.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from s3nsync.errors import S3nsyncError, SourceArchived, SourceUnavailable, TargetUnavailable, TransportError
from s3nsync.model import Change, Gone, Ignored, Outcome, Rejected, Retry, Route, SourceInfo
from s3nsync.netstorage.wire import Entry

MD5_ETAG = re.compile(r"[0-9a-f]{32}")
"""A single-part ETag; whether it is an MD5 depends on the encryption too."""

BURY_AFTER_ATTEMPTS = 8
BURY_AFTER_S = 3600.0
"""A transient failure is buried only after this many attempts and this long: an outage must not empty the queue."""

# NetStorage keeps bytes, not headers. These values of Content-Encoding change nothing about the bytes: `aws-chunked`
# is a leftover of how some SDKs sent the object.
HARMLESS_ENCODINGS = frozenset({"", "identity", "aws-chunked"})


class Declared(NamedTuple):
    """A digest that S3 vouches for: NetStorage checks the bytes against it, we hash nothing."""

    algorithm: Literal["md5", "sha1", "sha256"]
    hex: str


@dataclass(frozen=True, slots=True)
class HashFirst:
    """The bytes are in memory: their SHA-256 is computed before they are sent."""


@dataclass(frozen=True, slots=True)
class HashAtEnd:
    """The bytes are streamed: their SHA-256 follows in the request's signed trailers."""


Proof = Declared | HashFirst | HashAtEnd


class Upload(NamedTuple):
    """Send the bytes with this proof and modification time; `notes` says what NetStorage cannot keep."""

    proof: Proof
    mtime_s: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove what is at the path, or move it to the route's trash."""

    to_trash: bool = False


@dataclass(frozen=True, slots=True)
class Nothing:
    """Send nothing; `unchanged` when NetStorage holds just what we would have written."""

    reason: str
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class Wait:
    """Too early: come back after `after_s` seconds."""

    reason: str
    after_s: float


@dataclass(frozen=True, slots=True)
class Reject:
    """It will never be done under the route's rules."""

    reason: str
    hint: str


Action = Upload | Delete | Nothing | Wait | Reject


def decide(
    route: Route,
    source: SourceInfo | Gone,
    target: Entry | None,
    *,
    buffered: bool,
    metadata_mtime: bool,
    now_s: float,
) -> Action:
    """Decide by the table above; `target` is what a stat in this attempt showed, None if it was not made."""
    if isinstance(source, Gone):
        if route.deletes == "ignore":
            return Nothing("deleted in S3, and this route keeps what was copied")
        return Delete(to_trash=route.deletes == "trash")
    wait_s = source.last_modified_s + route.settle_s - now_s
    if route.settle_s > 0 and wait_s > 0:
        # Never longer than that: a clock of ours that is hours behind must not hide the key for as long.
        return Wait(f"settling: written less than {route.settle_s:g} s ago", min(wait_s, route.settle_s))
    notes = lost_metadata(source)
    if notes and route.content_encoding == "reject":
        return Reject(notes[0], "store the object unencoded, or set content_encoding = 'warn' on the route")
    mtime_s = modification_time(source, metadata_mtime=metadata_mtime)
    if target is not None and holds(target, source, mtime_s):
        return Nothing("size, md5 and mtime are already what would be written", unchanged=True)
    return Upload(proof_for(source, buffered=buffered), mtime_s, notes)


def wants_stat(change: Change, attempt: int) -> bool:
    """Say whether a stat is worth its request: on later attempts, and for checks."""
    return attempt > 1 or change.kind == "check"


def proof_for(source: SourceInfo, *, buffered: bool) -> Proof:
    """Choose the cheapest proof: S3's own digest if it has one, else ours, before or after the bytes."""
    md5 = etag_md5(source)
    if md5 is not None:
        return Declared("md5", md5)
    for algorithm in ("sha256", "sha1", "md5"):
        digest = source.checksums.get(algorithm)
        if digest is not None:
            return Declared(algorithm, digest)
    return HashFirst() if buffered else HashAtEnd()


def etag_md5(source: SourceInfo) -> str | None:
    """Give the ETag if it is the MD5 of the bytes: single part, and neither KMS nor a customer's key.

    A KMS-encrypted object's ETag looks the same and is none (AWS API reference, Object: ETag).
    """
    plain = source.encryption in {None, "AES256"} and not source.customer_key
    return source.etag if plain and MD5_ETAG.fullmatch(source.etag) else None


def holds(target: Entry, source: SourceInfo, mtime_s: int) -> bool:
    """Say whether NetStorage already has these very bytes with this mtime, as far as digests can tell."""
    md5 = etag_md5(source) or source.checksums.get("md5")
    return (
        md5 is not None
        and target.type == "file"
        and target.size_bytes == source.size_bytes
        and target.md5 == md5
        and target.mtime_s == mtime_s
    )


def modification_time(source: SourceInfo, *, metadata_mtime: bool) -> int:
    """Give the mtime to declare: LastModified, or the `mtime` metadata that copying tools leave, in Unix seconds."""
    if metadata_mtime and source.metadata_mtime is not None:
        whole = source.metadata_mtime.partition(".")[0]
        if re.fullmatch(r"[0-9]{1,10}", whole):
            return int(whole)
    return source.last_modified_s


def lost_metadata(source: SourceInfo) -> tuple[str, ...]:
    """List what NetStorage cannot keep of the object and a viewer would miss."""
    if source.content_encoding is None:
        return ()
    encoding = source.content_encoding.strip().lower()
    parts = {part.strip() for part in encoding.split(",")}
    if parts <= HARMLESS_ENCODINGS:
        return ()
    return (f"Content-Encoding {encoding} cannot be kept by NetStorage: the bytes are served as they are",)


def outcome_of(error: S3nsyncError, *, wait_s: float) -> Outcome:
    """Turn a failure into what becomes of its message; `wait_s` is the back-off for this attempt."""
    reason = f"{type(error).__name__}: {error.message}"
    if isinstance(error, SourceArchived):
        return Ignored(reason, set_aside=True)
    if error.pauses_route:
        return Retry(f"{reason} ({error.hint})", after_s=wait_s, failed=False, outage=True)
    if error.transient:
        return Retry(reason, after_s=max(wait_s, error.retry_after_s or 0.0), outage=is_outage(error))
    return Rejected(reason, error.hint)


def is_outage(error: S3nsyncError) -> bool:
    """Say whether an error speaks of the other side's state rather than of this key."""
    return error.pauses_route or isinstance(error, TransportError | TargetUnavailable | SourceUnavailable)


def is_throttled(error: S3nsyncError) -> bool:
    """Say whether the other side asked for less: it lives, and neither it nor the key is to blame."""
    return isinstance(error, TargetUnavailable) and error.status == 429


def is_hopeless(attempt: int, first_received_at_s: float, now_s: float) -> bool:
    """Say whether a failing message has been tried often and long enough to be buried."""
    return attempt >= BURY_AFTER_ATTEMPTS and now_s - first_received_at_s >= BURY_AFTER_S
