"""What is read from event bodies, and what our own bodies and ids promise."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args
from urllib.parse import quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from s3nsync import events
from s3nsync.errors import UndecodableEvent
from s3nsync.events import Burial, Decoded
from s3nsync.model import Change, Dialect, Kind, ObjectRef

steady = settings(deadline=None, derandomize=True)  # the same examples on every run, however busy the machine

FIXTURES = Path(__file__).parent.parent / "fixtures" / "events"


def load(*patterns: str) -> list[tuple[str, dict[str, Any]]]:
    """Read fixture files, named for the test report."""
    paths = sorted(path for pattern in patterns for path in FIXTURES.glob(pattern))
    return [(path.stem, json.loads(path.read_text())) for path in paths]


WRITTEN = [(f"{name}: {case['name']}", case) for name, file in load("*.json") for case in file.get("cases", [])]
RECORDED = load("ministack-*.json", "moto-*.json")


def expected_change(data: dict[str, Any]) -> Change:
    """Build the Change that a fixture describes."""
    data = dict(data)
    return Change(ObjectRef(data.pop("bucket"), data.pop("key")), data.pop("kind"), **data)


def record(name: str = "ObjectCreated:Put", key: object = "k", **record: object) -> dict[str, Any]:
    """Make the shortest record of S3's form."""
    s3 = {"bucket": {"name": "b"}, "object": {"key": key}}
    return {"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": name, "s3": s3} | record


# --- dialects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "case"), WRITTEN, ids=[name for name, _ in WRITTEN])
def test_every_written_body_is_read_as_it_says(name: str, case: dict[str, Any]) -> None:
    """Each golden body gives exactly the Changes, ignored names and faults written beside it."""
    decoded = events.survey(case["body"])
    assert decoded.changes == tuple(map(expected_change, case.get("changes", []))), name
    assert decoded.ignored == tuple(case.get("ignored", []))
    assert len(decoded.undecodable) == case.get("undecodable", 0)


@pytest.mark.parametrize(("name", "file"), RECORDED, ids=[name for name, _ in RECORDED])
def test_every_recorded_body_tells_of_what_was_done(name: str, file: dict[str, Any]) -> None:
    """What an emulator sent decodes to the changes that were made, but for the differences its README names."""
    changes = [change for body in file["bodies"] for change in events.decode(body).changes]
    told = [f"{change.kind} {change.ref.key}" for change in changes]
    did = file["did"]
    if name == "moto-versioned-bucket":  # delete markers tell nothing
        did = [each for each in did if each.startswith("put")]
    if name.startswith("moto"):  # a multipart upload tells twice
        did = [each for each in did for _ in range(1 + (each == "put multi"))]
    assert told == did


def test_every_shape_of_envelope_opens_to_the_same_change() -> None:
    """SNS, Lambda's records and a mapping instead of text change nothing about what is inside."""
    inner = {"Records": [record(key="a+b")]}
    plain = events.decode(json.dumps(inner))
    sns = {"Type": "Notification", "TopicArn": "t", "Message": json.dumps(inner)}
    sqs = {"Records": [{"eventSource": "aws:sqs", "body": json.dumps(sns)}]}
    failed = {"requestPayload": {"Records": [{"EventSource": "aws:sns", "Sns": sns}]}}
    assert plain.changes == (Change(ObjectRef("b", "a b"), "put", "s3", event_name="ObjectCreated:Put"),)
    assert events.decode(inner) == plain
    assert events.decode(json.dumps(inner).encode()) == plain
    assert [events.survey(each) for each in (sns, sqs, failed)] == [plain] * 3


def test_envelopes_are_opened_only_so_deep() -> None:
    """A body wrapped without end is refused instead of exhausting the stack."""
    body: object = {"Records": [record()]}
    for _ in range(20):
        body = {"requestPayload": body}
    with pytest.raises(UndecodableEvent, match="wrapped more than"):
        events.decode(json.dumps(body))


@pytest.mark.parametrize("source", ["aws:s3", "minio:s3"])
@steady
@given(key=st.text(st.characters(codec="utf-8"), min_size=1))
def test_form_encoded_keys_are_decoded_exactly_once(source: str, key: str) -> None:
    """For any key, S3's form encoding of it (with and without `/`) decodes to that key, percent signs included."""
    for safe in ("/", ""):
        body = {"Records": [record(key=quote_plus(key, safe=safe), eventSource=source)]}
        assert events.decode(body).changes[0].ref.key == key


@steady
@given(key=st.text(st.characters(codec="utf-8"), min_size=1))
def test_raw_keys_stay_as_they_are(key: str) -> None:
    """EventBridge and Ceph send keys as they are: nothing in them is decoded."""
    bridge = {"source": "aws.s3", "detail-type": "Object Created", "detail": record(key=key)["s3"]}
    ceph = {"Records": [record(key=key, eventSource="ceph:s3")]}
    assert [events.decode(each).changes[0].ref.key for each in (bridge, ceph)] == [key, key]


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("", "not JSON (at character 0 of 0)"),
        ("{", "not JSON"),
        ("NaN", "not JSON"),
        ('{"s3nsync":1,"size":Infinity}', "not JSON"),
        ('{"a":' + "9" * 5000 + "}", "not JSON (in a number"),
        ("[" * 200_000, "nested too deeply"),
        (b"\xff{}", "not UTF-8 (byte 0"),
        ("7", "a JSON number where an event should be"),
        ("null", "a JSON null where"),
        ("{}", "an empty object"),
        ('{"foo":1,"bar":2}', "an object with 'foo', 'bar'"),
        ('["x"]', "record 1: a JSON string where a record should be"),
        (json.dumps([record(eventSource="acme:s3")]), "eventSource 'acme:s3' is none of aws:s3, minio:s3, ceph:s3"),
        (json.dumps([record(eventVersion="3.0")]), "eventVersion '3.0' is not 2.x"),
        (json.dumps([record(eventVersion="21.0")]), "eventVersion '21.0' is not 2.x"),
        (json.dumps([record(eventName=None)]), "no eventName"),
        (json.dumps([record(key="")]), "no object key"),
        (json.dumps([record(key=5)]), "no object key"),
        (json.dumps([record(s3={"object": {"key": "k"}})]), "no bucket name"),
        (json.dumps([record(key="%C3%28")]), "the object key '%C3%28' does not decode to UTF-8"),
        (json.dumps([record(key="a\ud800")]), "half a surrogate pair"),
        ('{"source":"aws.ec2","detail-type":"X","detail":{}}', "source is 'aws.ec2', not aws.s3"),
        ('{"s3nsync":9,"bucket":"b","key":"k"}', "version 9, and this s3nsync reads version 1"),
    ],
)
def test_what_cannot_be_understood_is_said_in_words(body: str | bytes, says: str) -> None:
    """A hopeless body raises UndecodableEvent, and the message says what was seen."""
    with pytest.raises(UndecodableEvent) as caught:
        events.decode(body)
    assert says in caught.value.message
    assert len(caught.value.message) < 300


def test_messages_never_show_values_that_may_be_secret() -> None:
    """Faults name fields and kinds; tokens, signatures and bodies stay out."""
    canary = "C4N4RY"
    bodies = [
        f"not json {canary}",
        {"Token": canary, "x": [canary]},
        [canary],
        {"requestPayload": {"Signature": canary}},
    ]
    for body in bodies:
        with pytest.raises(UndecodableEvent) as caught:
            events.decode(body if isinstance(body, str) else json.dumps(body))
        assert canary not in str(caught.value)


@pytest.mark.parametrize("good", [record(), record("ObjectTagging:Put")], ids=["change", "ignored"])
def test_a_body_good_in_part_does_not_raise(good: dict[str, Any]) -> None:
    """One record understood is enough: the bad ones are told beside it, each with its number."""
    decoded = events.decode(json.dumps([7, good, {}]))
    assert len(decoded.changes) + len(decoded.ignored) == 1
    assert [each.partition(":")[0] for each in decoded.undecodable] == ["record 1", "record 3"]


def test_many_faults_are_summed_up() -> None:
    """A body with many bad records gives a short message that says how many more there are."""
    with pytest.raises(UndecodableEvent, match=r"record 3: .*\(and 97 more\)$"):
        events.decode(json.dumps([7] * 100))


FIELDS = [
    *("Records", "s3", "bucket", "name", "object", "key", "size", "eventName", "eventSource", "eventVersion"),
    *("Sns", "Type", "TopicArn", "Message", "body", "Event", "requestPayload", "s3nsync", "s3nsync-burial"),
    *("source", "detail", "detail-type", "kind", "dialect"),
]
VALUES = [
    *("aws:s3", "aws:sqs", "ceph:s3", "2.1", "ObjectCreated:Put", "Notification", "aws.s3", "Object Created"),
    *("s3:TestEvent", "put", "own", "k", "%ff", "\ud800", 1),
]
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=3), inner | st.sampled_from(VALUES), max_size=6)
    ),
    max_leaves=25,
)


@steady
@given(body=JSON_VALUES)
def test_any_json_decodes_or_raises_undecodable_event(body: object) -> None:
    """Whatever JSON comes, nothing but UndecodableEvent is raised, nothing vanishes, and what is found has ids."""
    decoded = events.survey(json.dumps(body))
    assert decoded.changes or decoded.ignored or decoded.undecodable
    for change in decoded.changes:
        assert len(events.dedup_id(change, fresh="f")) == 64
        assert events.decode(events.encode(change)).changes == (change,)


@steady
@given(body=st.text() | st.binary())
def test_any_bytes_decode_or_raise_undecodable_event(body: str | bytes) -> None:
    """Text and bytes that are no JSON raise UndecodableEvent and nothing else."""
    try:
        events.decode(body)
    except UndecodableEvent as error:
        assert error.message  # noqa: PT017 both ways are right; only another exception is not


# --- our own bodies and ids ------------------------------------------------------------------------------------

TEXTS = st.text(st.characters(codec="utf-8"), max_size=12)
REFS = st.builds(
    ObjectRef,
    st.text("abc.-", min_size=1, max_size=5),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=12),
)
CHANGES = st.builds(
    Change,
    ref=REFS,
    kind=st.sampled_from(get_args(Kind)),
    dialect=st.sampled_from(get_args(Dialect)),
    event_name=TEXTS,
    event_time=st.none() | TEXTS,
    etag=st.none() | TEXTS,
    size=st.none() | st.integers(0, 2**70),
    version_id=st.none() | TEXTS,
    sequencer=st.none() | TEXTS,
    run=TEXTS,
)
BASE = Change(ObjectRef("b", "k"), "put", "s3", "ObjectCreated:Put", "t", "e", 1, "v", "0A", "")


@steady
@given(change=CHANGES)
def test_our_body_gives_the_change_back(change: Change) -> None:
    """decode(encode(change)) is the change, every field kept; the body is ASCII without control characters."""
    body = events.encode(change)
    assert events.decode(body) == Decoded(changes=(change,))
    assert body.isascii()
    assert body.isprintable()


def test_our_body_leaves_out_what_says_nothing() -> None:
    """Fields at their default do not travel: the body of a bare change is five fields long."""
    assert events.encode(Change(ObjectRef("b", "é"), "check")) == (
        '{"s3nsync":1,"bucket":"b","key":"\\u00e9","kind":"check","dialect":"own"}'
    )


@steady
@given(change=CHANGES, more=st.dictionaries(st.sampled_from(["Records", "s3nsync", "kind", "size", "x"]), JSON_VALUES))
def test_the_short_way_of_our_own_bodies_reads_what_the_long_way_reads(change: Change, more: dict[str, object]) -> None:
    """A body that begins as `encode` begins is read at once; with a space in front it is opened layer by layer."""
    body = json.dumps({**json.loads(events.encode(change)), **more}, separators=(",", ":"))
    assert events.survey(body) == events.survey(f" {body}")
    for broken in (body[:-1], f"{body}]"):
        assert len(events.survey(broken).undecodable) == 1


@given(one=REFS, other=REFS)
def test_each_key_has_a_group_of_its_own(one: ObjectRef, other: ObjectRef) -> None:
    """Group ids are 64 hexadecimal digits, equal exactly where bucket and key are."""
    assert (events.group_id(one) == events.group_id(other)) == (one == other)
    assert len(bytes.fromhex(events.group_id(one))) == 32


def test_bucket_and_key_do_not_run_together() -> None:
    """The end of the bucket's name is part of the group's identity; the digest is SHA-256 with NUL in between."""
    assert events.group_id(ObjectRef("ab", "c")) != events.group_id(ObjectRef("a", "bc"))
    assert events.group_id(ObjectRef("b", "k")) == "265def662ae3808168044d68d81cc945eebb382c7a3622ea0c50f92672565192"


@pytest.mark.parametrize(
    "other",
    [
        BASE._replace(ref=ObjectRef("b", "l")),
        BASE._replace(ref=ObjectRef("c", "k")),
        BASE._replace(event_name="ObjectRemoved:Delete"),
        BASE._replace(sequencer="0B"),
        BASE._replace(run="backfill-1"),
    ],
)
def test_different_events_have_different_ids(other: Change) -> None:
    """Another key, event name, sequencer or run is another message."""
    assert events.dedup_id(other) != events.dedup_id(BASE)


def test_a_repeated_event_has_the_same_id() -> None:
    """With a sequencer, nothing else of the event matters: S3's duplicates carry the same one."""
    again = BASE._replace(event_time="later", version_id="w", etag="f", size=9)
    assert events.dedup_id(again) == events.dedup_id(BASE)
    assert len(events.dedup_id(BASE)) == 64


def test_without_sequencer_the_version_counts_and_then_time_with_etag() -> None:
    """The next best evidence is used only where the better one is missing."""
    versions = [BASE._replace(sequencer=None, version_id=each) for each in ("v", "w")]
    times = [BASE._replace(sequencer=None, version_id=None, event_time=t, etag=e) for t in "tu" for e in "ef"]
    assert len({events.dedup_id(each) for each in (BASE, *versions, *times)}) == 7
    assert events.dedup_id(versions[0]._replace(event_time="x", etag="y")) == events.dedup_id(versions[0])


def test_version_null_is_no_evidence() -> None:
    """`null` names the version of every write to a bucket without versioning, so it tells nothing apart."""
    one, other = (BASE._replace(sequencer=None, version_id="null", event_time=each) for each in "tu")
    assert events.dedup_id(one) != events.dedup_id(other)


def test_the_kinds_of_evidence_do_not_mix() -> None:
    """A version that reads like a sequencer is not taken for it."""
    assert events.dedup_id(BASE._replace(sequencer=None, version_id="0A")) != events.dedup_id(BASE)


def test_an_id_is_never_the_key_alone() -> None:
    """A change that nothing tells from an earlier one needs `fresh`: SQS would swallow the second for five minutes.

    An eTag alone is not enough: A, B and A again is three events.
    """
    bare = Change(ObjectRef("b", "k"), "put", "poc", "ObjectCreated:Put", etag="e")
    assert not events.is_distinct(bare)
    with pytest.raises(ValueError, match="pass fresh"):
        events.dedup_id(bare)
    assert events.dedup_id(bare, fresh="1") != events.dedup_id(bare, fresh="2")
    assert events.is_distinct(bare._replace(run="r"))


def test_fresh_makes_any_message_new() -> None:
    """A Check is never taken for an earlier one, whatever it carries."""
    assert len({events.dedup_id(BASE, fresh=each) for each in ("", "1", "2")}) == 3


# --- burials ---------------------------------------------------------------------------------------------------

BURIALS = st.builds(
    Burial,
    ref=st.none() | REFS,
    reason=TEXTS,
    hint=TEXTS,
    first_attempt_s=st.floats(0, 4e9),
    last_attempt_s=st.floats(0, 4e9),
    attempts=st.integers(0, 10**6),
    queue=st.sampled_from(["live", "bulk", "check", "failure"]),
    body=TEXTS,
)


@steady
@given(burial=BURIALS)
def test_a_burial_comes_back_whole(burial: Burial) -> None:
    """decode_burial(encode_burial(b)) is b, and the text is ASCII."""
    text = events.encode_burial(burial)
    assert events.decode_burial(text) == burial
    assert text.isascii()


@steady
@given(change=CHANGES, burial=BURIALS)
def test_a_redriven_burial_decodes_to_its_changes(change: Change, burial: Burial) -> None:
    """SQS's own redrive moves the burial's body as it is, and the worker finds the Change inside."""
    assert events.decode(events.encode_burial(replace(burial, body=events.encode(change)))).changes == (change,)


def test_burying_a_redriven_message_again_does_not_nest() -> None:
    """The second burial holds the first message, the first attempt, and the attempts of both."""
    first = Burial(ObjectRef("b", "k"), "r1", "h1", 10.0, 20.0, 8, "live", events.encode(BASE))
    second = Burial(ObjectRef("b", "k"), "r2", "h2", 100.0, 110.0, 2, "live", events.encode_burial(first))
    assert events.decode_burial(events.encode_burial(second)) == Burial(
        ObjectRef("b", "k"), "r2", "h2", 10.0, 110.0, 10, "live", first.body
    )


def test_burying_twice_makes_one_entry_but_burying_after_a_redrive_makes_another() -> None:
    """The id repeats for the same message and reason, whatever the time, but not for the burial that came back."""
    first = Burial(ObjectRef("b", "k"), "r", "h", 10.0, 20.0, 8, "live", events.encode(BASE))
    again = replace(first, last_attempt_s=25.0, attempts=9)
    redriven = replace(first, body=events.encode_burial(first))
    assert events.burial_dedup_id(first) == events.burial_dedup_id(again)
    assert len({events.burial_dedup_id(each) for each in (first, redriven, replace(first, reason="s"))}) == 3


def test_burials_of_one_key_share_its_group() -> None:
    """The dead-letter queue keeps the order of one key; what has no key stands alone."""
    known = Burial(ObjectRef("b", "k"), "r", "h", 1.0, 2.0, 1, "live", "x")
    unknown = [replace(known, ref=None, body=each) for each in "xy"]
    assert events.burial_group_id(known) == events.group_id(ObjectRef("b", "k"))
    assert len({events.burial_group_id(each) for each in (known, *unknown)}) == 3


@pytest.mark.parametrize("text", ["", "{}", "[]", "7", "[" * 200_000, events.encode(BASE), '{"s3nsync-burial":1}'])
def test_what_is_no_burial_is_none(text: str) -> None:
    """A body that SQS's redrive policy moved as it was has no reason recorded, and that is no error."""
    assert events.decode_burial(text) is None


@pytest.mark.parametrize("time", ["1e999", "-1.5", "true", '"x"', "null"])
def test_a_burial_with_senseless_times_can_be_buried_again(time: str) -> None:
    """Whatever a burial's figures are, the entry can be read, and written again."""
    text = f'{{"s3nsync-burial":1,"first_attempt_s":{time},"last_attempt_s":{time},"attempts":{time},"body":"x"}}'
    found = events.decode_burial(text)
    assert found == Burial(None, "", "", 0.0, 0.0, 0, "", "x")
    assert events.decode_burial(events.encode_burial(replace(found, body=text))) == found


def test_a_time_too_great_for_a_float_is_none() -> None:
    """JSON's whole numbers have no end, floats have."""
    found = events.decode_burial('{"s3nsync-burial":1,"first_attempt_s":1' + "0" * 400 + ',"body":"x"}')
    assert found is not None
    assert found.first_attempt_s == 0.0


def test_a_body_does_not_show_in_reprs() -> None:
    """A burial's body may hold anything, so it stays out of logs."""
    assert "C4N4RY" not in repr(Burial(None, "r", "h", 0.0, 0.0, 1, "live", "C4N4RY"))


def test_recordings_have_distinct_ids() -> None:
    """Overwrites of one key in a recording with sequencers never share an id: none would be swallowed."""
    for name, file in RECORDED:
        if name.startswith("ministack"):
            changes = [change for body in file["bodies"] for change in events.decode(body).changes]
            assert max(Counter(map(events.dedup_id, changes)).values()) == 1
