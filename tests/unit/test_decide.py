"""The decision table: one row, one rule."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fakes import NOW_S, info_of, md5
from s3nsync import errors
from s3nsync.decide import (
    Declared,
    Delete,
    HashAtEnd,
    HashFirst,
    Nothing,
    Reject,
    Upload,
    Wait,
    decide,
    etag_md5,
    is_hopeless,
    lost_metadata,
    modification_time,
    outcome_of,
    proof_for,
    wants_stat,
)
from s3nsync.model import Change, Gone, Ignored, ObjectRef, Rejected, Retry, Route, SourceInfo
from s3nsync.netstorage.wire import Entry

ROUTE = Route("media", "123456")
DATA = b"hello"
INFO = info_of(DATA)
ENTRY = Entry("/123456/a", "file", len(DATA), md5(DATA), INFO.last_modified_s)


def _decide(
    route: Route, source: SourceInfo | Gone, target: Entry | None = None
) -> Upload | Delete | Nothing | Wait | Reject:
    return decide(route, source, target, buffered=True, metadata_mtime=False, now_s=NOW_S)


@pytest.mark.parametrize("gone", [Gone("no-such-key"), Gone("delete-marker")])
def test_absence_deletes_where_the_route_mirrors_deletes(gone: Gone) -> None:
    """Either kind of absence that S3 states deletes, unless the route keeps what was copied."""
    assert _decide(ROUTE, gone) == Delete(to_trash=False)
    assert _decide(replace(ROUTE, deletes="trash"), gone) == Delete(to_trash=True)
    kept = _decide(replace(ROUTE, deletes="ignore"), gone)
    assert isinstance(kept, Nothing)
    assert not kept.unchanged


def test_absence_deletes_even_if_a_stat_says_that_nothing_is_there() -> None:
    """A stat never spares a delete: the replica that answered may be behind."""
    assert isinstance(_decide(ROUTE, Gone("no-such-key"), None), Delete)


def test_an_object_is_uploaded_with_its_etag_as_proof_and_its_time() -> None:
    """A plain object's MD5 and LastModified are declared as they are."""
    assert _decide(ROUTE, INFO) == Upload(Declared("md5", md5(DATA)), INFO.last_modified_s)


def test_unchanged_needs_size_md5_and_mtime() -> None:
    """One of the three being different is enough to write again."""
    assert _decide(ROUTE, INFO, ENTRY) == Nothing(
        "size, md5 and mtime are already what would be written", unchanged=True
    )
    different = [
        ENTRY._replace(size_bytes=6),
        ENTRY._replace(md5="0" * 32),
        ENTRY._replace(mtime_s=1),
        ENTRY._replace(type="dir"),
        ENTRY._replace(md5=None),
    ]
    for entry in different:
        assert isinstance(_decide(ROUTE, INFO, entry), Upload), entry


def test_without_an_md5_of_the_source_nothing_is_ever_unchanged() -> None:
    """Equal size and time prove nothing about the bytes."""
    multipart = INFO._replace(etag="d41d8cd98f00b204e9800998ecf8427e-2")
    assert isinstance(_decide(ROUTE, multipart, ENTRY), Upload)


def test_a_settling_object_waits_for_the_rest_of_its_time() -> None:
    """With settle_s nothing is written before LastModified + settle_s."""
    fresh = INFO._replace(last_modified_s=int(NOW_S) - 4)
    waiting = _decide(replace(ROUTE, settle_s=10.0), fresh)
    assert isinstance(waiting, Wait)
    assert waiting.after_s == 6.0
    assert isinstance(_decide(replace(ROUTE, settle_s=4.0), fresh), Upload)


def test_a_clock_that_is_behind_does_not_hide_a_key_for_long() -> None:
    """However far in the future S3's LastModified seems to lie, the wait is no longer than settle_s."""
    ahead = INFO._replace(last_modified_s=int(NOW_S) + 7200)
    waiting = _decide(replace(ROUTE, settle_s=10.0), ahead)
    assert isinstance(waiting, Wait)
    assert waiting.after_s == 10.0


@pytest.mark.parametrize(
    ("encryption", "customer_key", "is_md5"),
    [
        (None, False, True),
        ("AES256", False, True),
        ("aws:kms", False, False),
        ("aws:kms:dsse", False, False),
        (None, True, False),
    ],
)
def test_an_etag_is_an_md5_only_without_kms_and_customer_keys(
    encryption: str | None,
    customer_key: bool,
    is_md5: bool,
) -> None:
    """A 32-digit ETag is judged by the encryption, never by its length."""
    info = INFO._replace(encryption=encryption, customer_key=customer_key)
    assert etag_md5(info) == (md5(DATA) if is_md5 else None)


def test_the_ladder_of_proofs_is_taken_from_the_top() -> None:
    """S3's MD5, then its checksums, then our hash before the bytes, then our hash after them."""
    kms = INFO._replace(encryption="aws:kms")
    assert proof_for(INFO, buffered=True) == Declared("md5", md5(DATA))
    assert proof_for(kms._replace(checksums={"sha1": "aa", "sha256": "bb"}), buffered=False) == Declared("sha256", "bb")
    assert proof_for(kms._replace(checksums={"sha1": "aa", "crc64nvme": "cc"}), buffered=False) == Declared(
        "sha1", "aa"
    )
    assert proof_for(kms._replace(checksums={"crc64nvme": "cc"}), buffered=True) == HashFirst()
    assert proof_for(kms, buffered=False) == HashAtEnd()


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("1600000000", 1600000000),
        ("1600000000.25", 1600000000),
        ("yesterday", INFO.last_modified_s),
        ("-5", INFO.last_modified_s),
        (None, INFO.last_modified_s),
    ],
)
def test_metadata_mtime_is_used_only_if_it_is_a_time(metadata: str | None, expected: int) -> None:
    """Nonsense in x-amz-meta-mtime falls back to LastModified."""
    info = INFO._replace(metadata_mtime=metadata)
    assert modification_time(info, metadata_mtime=True) == expected
    assert modification_time(info, metadata_mtime=False) == INFO.last_modified_s


@pytest.mark.parametrize("encoding", [None, "", "identity", "aws-chunked", "AWS-Chunked, identity"])
def test_harmless_encodings_lose_nothing(encoding: str | None) -> None:
    """Encodings that leave the bytes as they are need no word."""
    assert lost_metadata(INFO._replace(content_encoding=encoding)) == ()


def test_a_gzip_object_is_copied_with_a_note_or_rejected() -> None:
    """What NetStorage cannot keep is said; the route may refuse it."""
    gzip = INFO._replace(content_encoding="gzip")
    copied = _decide(ROUTE, gzip)
    assert isinstance(copied, Upload)
    assert "gzip" in copied.notes[0]
    assert isinstance(_decide(replace(ROUTE, content_encoding="reject"), gzip), Reject)


def test_a_stat_is_spent_only_on_later_attempts_and_checks() -> None:
    """The hot path costs two requests."""
    ref = ObjectRef("media", "a")
    assert not wants_stat(Change(ref, "put"), 1)
    assert wants_stat(Change(ref, "put"), 2)
    assert wants_stat(Change(ref, "check"), 1)


def test_an_errors_type_decides_what_becomes_of_the_message() -> None:
    """Archived is set aside, what stops a route pauses, transient goes back, the rest is buried."""
    assert outcome_of(errors.SourceArchived("x"), wait_s=1) == Ignored("SourceArchived: x", set_aside=True)
    paused = outcome_of(errors.TargetCredentials("x"), wait_s=1)
    assert isinstance(paused, Retry)
    assert paused.outage
    assert not paused.failed
    busy = outcome_of(errors.SourceUnavailable("x", retry_after_s=9), wait_s=1)
    assert busy == Retry("SourceUnavailable: x", 9, outage=True)
    assert outcome_of(errors.ConnectionLost("x"), wait_s=2) == Retry("ConnectionLost: x", 2, outage=True)
    assert outcome_of(errors.TargetPrecondition("x"), wait_s=2) == Retry("TargetPrecondition: x", 2)
    assert isinstance(outcome_of(errors.SourceKeyDenied("x"), wait_s=1), Rejected)
    assert isinstance(outcome_of(errors.TargetConflict("x"), wait_s=1), Rejected)


def test_a_failing_message_is_hopeless_after_eight_attempts_and_an_hour() -> None:
    """Neither many attempts nor a long time alone bury a message."""
    assert not is_hopeless(50, NOW_S - 3599, NOW_S)
    assert not is_hopeless(7, NOW_S - 9000, NOW_S)
    assert is_hopeless(8, NOW_S - 3600, NOW_S)


def _all_errors(kind: type[errors.S3nsyncError]) -> list[type[errors.S3nsyncError]]:
    return [kind, *(deeper for below in kind.__subclasses__() for deeper in _all_errors(below))]


@pytest.mark.parametrize("kind", _all_errors(errors.S3nsyncError))
def test_every_error_type_has_a_hint_a_promise_and_a_place_in_the_tree(kind: type[errors.S3nsyncError]) -> None:
    """What to do next is part of the type, and the module's picture shows each type."""
    assert kind.default_hint
    assert kind.__doc__
    assert kind is errors.S3nsyncError or kind.__name__ in (errors.__doc__ or "")
