"""The answers of `s3nsync status`: what was seen in, state and reason out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import get_args

import pytest

from fakes import NOW_S
from s3nsync.cli.shell import parse_ref
from s3nsync.errors import (
    ConfigError,
    QueueMissing,
    S3nsyncError,
    SourceArchived,
    SourceForbidden,
    SourceUnavailable,
    TargetUnavailable,
)
from s3nsync.events import Burial, encode
from s3nsync.mapping import place
from s3nsync.model import Change, Delivery, Gone, ObjectRef, Route, SourceInfo
from s3nsync.netstorage import Entry
from s3nsync.ops.failed import Entry as Letter
from s3nsync.ops.status import COULD_NOT_TELL, Seen, State, Status, exit_code, facts, judge, words

ROUTE = Route("media", "123456", "web", exclude=("*.tmp",))
REF = ObjectRef("media", "a/b.txt")
PATH = "/123456/web/a/b.txt"
MD5, OTHER_MD5 = "0" * 32, "1" * 32
WRITTEN_S = int(NOW_S) - 1000
PLAIN = SourceInfo(size_bytes=5, etag=MD5, last_modified_s=WRITTEN_S)
PARTS = SourceInfo(size_bytes=5, etag=f"{MD5}-2", last_modified_s=WRITTEN_S)
KMS = SourceInfo(size_bytes=5, etag=OTHER_MD5, last_modified_s=WRITTEN_S, encryption="aws:kms")
GZIP = SourceInfo(size_bytes=6, etag=MD5, last_modified_s=WRITTEN_S, content_encoding="gzip")
FILE = Entry(PATH, "file", size_bytes=5, md5=MD5, mtime_s=WRITTEN_S)
LATE = Entry(PATH, "file", size_bytes=5, md5=MD5, mtime_s=WRITTEN_S - 50)
DIR = Entry(PATH, "dir")
GONE = Gone("no-such-key")
ARCHIVED = SourceArchived("in Glacier")


def letter(last_s: float = NOW_S, reason: str = "has ..") -> Letter:
    """Give a dead letter of the key, buried at a time."""
    change = Change(REF, "put", sequencer="01")
    burial = Burial(
        ref=REF,
        reason=reason,
        hint="rename it",
        first_attempt_s=last_s - 60,
        last_attempt_s=last_s,
        attempts=3,
        queue="live",
        body=encode(change),
    )
    return Letter(Delivery("dead", "m", "r", "", "g"), burial, (change,))


def nameless() -> Letter:
    """Give one that SQS moved by itself."""
    return Letter(Delivery("dead", "m", "r", "", "g"), None, (Change(REF, "put"),))


def answer(
    source: SourceInfo | Gone | S3nsyncError | None = None,
    target: Entry | S3nsyncError | None = None,
    *,
    route: Route = ROUTE,
    key: str = REF.key,
    letters: Sequence[Letter] | S3nsyncError = (),
    unreadable: S3nsyncError | None = None,
    waiting: int | None = None,
) -> Status:
    """Judge what was seen of a key."""
    ref = ObjectRef("media", key)
    seen = Seen(ref, place(ref, [route]), source, target, unreadable, letters, waiting)
    return judge(seen, metadata_mtime=False, now_s=NOW_S)


@pytest.mark.parametrize(
    ("key", "state", "says"),
    [
        ("x.tmp", "out_of_scope", "excluded by pattern"),
        ("a/../b", "forbidden", "`..`"),
        ("a/b/", "out_of_scope", "folder marker"),
    ],
)
def test_a_key_without_a_place_is_told_from_the_route_alone(key: str, state: State, says: str) -> None:
    """Neither side is asked: what they hold changes nothing."""
    found = answer(key=key)
    assert (found.state, found.in_order) == (state, False)
    assert says in found.reason
    assert found.hint


@pytest.mark.parametrize(
    ("source", "target", "state", "evidence"),
    [
        (PLAIN, FILE, "replicated", "md5"),
        (PLAIN, LATE, "replicated", "md5"),
        (PARTS, FILE, "replicated", "size and time"),
        (KMS, FILE, "replicated", "size and time"),
        (PARTS, LATE, "unknown", None),
        (KMS, LATE, "unknown", None),
        (PLAIN, None, "behind", None),
        (PLAIN, Entry(PATH, "file", size_bytes=6, md5=MD5, mtime_s=WRITTEN_S), "behind", None),
        (PLAIN, Entry(PATH, "file", size_bytes=5, md5=OTHER_MD5, mtime_s=WRITTEN_S), "behind", None),
        (PLAIN, DIR, "behind", None),
        (GONE, None, "gone", None),
        (GONE, DIR, "gone", None),
        (GONE, FILE, "behind", None),
        (SourceForbidden("403"), FILE, "unknown", None),
        (PLAIN, TargetUnavailable("503"), "unknown", None),
    ],
)
def test_both_sides_decide_whether_it_is_replicated(
    source: SourceInfo | Gone | S3nsyncError, target: Entry | S3nsyncError | None, state: State, evidence: str | None
) -> None:
    """The evidence is that of verify; an ETag that is no MD5 proves nothing, and a side unseen is no answer."""
    found = answer(source, target)
    assert (found.state, found.evidence) == (state, evidence)
    assert found.in_order is {"unknown": None, "behind": False}.get(state, True)
    assert found.hint or found.in_order


def test_each_state_of_a_folder_marker_where_directories_are_made() -> None:
    """The directory is all that is asked for; deletes leave it alone, as replication does."""
    route = Route("media", "123456", "web", folder_markers="mkdir")
    for source, target, state in ((PLAIN, DIR, "replicated"), (PLAIN, None, "behind"), (GONE, DIR, "gone")):
        assert answer(source, target, route=route, key="a/b/").state == state
    assert answer(PLAIN, FILE, route=route, key="a/b/").state == "behind"


def test_what_the_route_keeps_is_in_order() -> None:
    """With `deletes = "ignore"` the file stays, and should."""
    found = answer(GONE, FILE, route=Route("media", "123456", "web", deletes="ignore"))
    assert (found.state, found.in_order) == ("kept", True)


def test_a_dead_letter_younger_than_the_object_is_the_reason() -> None:
    """With its own advice, and since its first attempt."""
    found = answer(PLAIN, None, letters=[letter(WRITTEN_S - 1, "long ago"), letter(WRITTEN_S)])
    assert (found.state, found.since_s) == ("buried", WRITTEN_S - 60)
    assert "has .." in found.reason
    assert "rename it" in found.hint
    assert "failed retry" in found.hint
    assert answer(GONE, FILE, letters=[letter(1.0)]).state == "buried", "nobody tells when it was deleted"
    assert answer(PARTS, LATE, letters=[letter()]).state == "buried"


def test_a_dead_letter_of_an_older_version_is_only_mentioned() -> None:
    """The newer version has its own message, so its burial is not the cause."""
    found = answer(PLAIN, None, letters=[letter(WRITTEN_S - 1)])
    assert found.state == "behind"
    assert "older version" in found.reason


def test_a_letter_that_sqs_moved_has_no_time_and_counts() -> None:
    """It may be a message that kills workers."""
    found = answer(PLAIN, None, letters=[nameless()])
    assert (found.state, found.since_s) == ("buried", None)
    assert "no reason recorded" in found.reason


def test_a_letter_never_makes_a_replicated_object_look_bad() -> None:
    """What both sides show is stronger than what was once written down."""
    assert answer(PLAIN, FILE, letters=[letter()]).state == "replicated"


def test_an_archived_object_is_set_aside_unless_it_is_there() -> None:
    """Only replication's own way of asking, a GET, tells that it cannot be read."""
    found = answer(PLAIN, None, unreadable=ARCHIVED)
    assert found.state == "set_aside"
    assert "restore" in found.hint
    assert answer(PLAIN, FILE, unreadable=ARCHIVED).state == "replicated"


def test_a_settling_object_is_waited_for() -> None:
    """With the time that is left."""
    found = answer(PLAIN, None, route=Route("media", "123456", "web", settle_s=1060.0))
    assert (found.state, found.in_order) == ("settling", False)
    assert "1 min" in found.hint


def test_an_encoded_object_is_forbidden_where_the_route_rejects_it() -> None:
    """And elsewhere the loss is told beside the good news."""
    rejecting = Route("media", "123456", "web", content_encoding="reject")
    assert answer(GZIP, None, route=rejecting).state == "forbidden"
    there = Entry(PATH, "file", size_bytes=6, md5=MD5, mtime_s=WRITTEN_S)
    found = answer(GZIP, there)
    assert found.state == "replicated"
    assert "gzip" in found.reason


@pytest.mark.parametrize(
    ("waiting", "says"),
    [(7, "7 changes wait or are"), (1, "1 change waits or is"), (0, "no change waits"), (None, "`s3nsync doctor`")],
)
def test_behind_says_what_to_do_by_what_the_queues_hold(waiting: int | None, says: str) -> None:
    """SQS cannot be asked about one key, only about all."""
    found = answer(PLAIN, None, waiting=waiting)
    assert found.hint.startswith(says)
    assert "doctor" in found.hint
    assert "not buried" in found.reason


def test_what_could_not_be_seen_is_said() -> None:
    """A dead-letter queue that may not be read is no proof that nothing was buried; nor is an unreadable object."""
    found = answer(PLAIN, None, letters=QueueMissing("not allowed"))
    assert found.state == "behind"
    assert "could not be seen: not allowed" in found.reason
    assert "buried, so" not in found.reason
    refused = answer(PLAIN, None, unreadable=SourceForbidden("403 here"))
    assert "403 here" in refused.reason
    assert "s3:GetObject" in refused.hint
    assert "a dead letter says: has .." in answer(SourceForbidden("403"), FILE, letters=[letter()]).reason


def test_the_worst_answer_is_the_exit_code() -> None:
    """1 before 5 before 0; no keys at all are in order."""
    good, bad, unknown = answer(PLAIN, FILE), answer(PLAIN, None), answer(PARTS, LATE)
    assert exit_code([good, good]) == 0
    assert exit_code([good, unknown]) == COULD_NOT_TELL
    assert exit_code([unknown, bad, good]) == 1


def test_every_answer_can_be_told_and_written_down() -> None:
    """Each state, to people and as JSON, with both sides where they were asked."""
    found = [
        answer(PLAIN, FILE),
        answer(GONE),
        answer(GONE, FILE, route=Route("media", "123456", "web", deletes="ignore")),
        answer(key="x.tmp"),
        answer(key="a/../b"),
        answer(PLAIN, None, letters=[letter()]),
        answer(PLAIN, None, unreadable=ARCHIVED),
        answer(PLAIN, None, route=Route("media", "123456", "web", settle_s=1060.0)),
        answer(PLAIN),
        answer(SourceUnavailable("503"), TargetUnavailable("503")),
    ]
    assert {each.state for each in found} == set(get_args(State))
    for each in found:
        told = json.loads(json.dumps(facts(each)))
        assert (told["ref"], told["state"], told["in_order"]) == (str(each.seen.ref), each.state, each.in_order)
        assert words(each).startswith(f"s3://media/{each.seen.ref.key}: {each.state.replace('_', ' ')}\n")
    first = facts(found[0])
    assert first["path"] == PATH
    assert first["target"] == {"type": "file", "size_bytes": 5, "md5": MD5, "mtime_s": WRITTEN_S}
    assert f"NetStorage  {PATH}: file, 5 B, md5 {MD5}" in words(found[0])


@pytest.mark.parametrize("text", ["media/a.txt", "s3://media", "s3://media/", "s3:///a", "https://media/a", ""])
def test_what_is_no_object_is_refused(text: str) -> None:
    """With the form that is wanted."""
    with pytest.raises(ConfigError) as caught:
        parse_ref(text)
    assert "s3://bucket/key" in caught.value.hint


def test_a_key_is_taken_as_it_stands() -> None:
    """Slashes, spaces, percent signs and all."""
    assert parse_ref("s3://media//a b%20+é/") == ObjectRef("media", "/a b%20+é/")
