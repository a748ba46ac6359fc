"""Event bodies of every dialect in, Changes out; and the bodies, group and deduplication ids of our own queues.

`decode` walks a body from the outside in. Envelopes (SNS, Lambda's failure record, SQS or SNS records handed to a
Lambda, our own burials) are opened until something that speaks of one object is found; each such thing becomes one
finding: a Change, the name of an event that is none of our business, or a sentence on why it cannot be understood.

A body with several records may be good in part. Losing the good ones, or hiding the bad one, would both be wrong, so
`decode` raises only when nothing at all could be understood. Otherwise `Decoded.undecodable` says what was not: the
caller handles the rest first and then fails or buries the body, visibly.

What S3 and its kin promise, as far as it matters here:

* S3's own records carry the key form-encoded (a space is `+`), through SNS, SQS and Lambda alike; EventBridge and
  Ceph carry it as it is. It is decoded exactly once.
* The record version is 2.x; a minor version only adds fields, so any minor is read and unknown fields are skipped.
* Sequencers compare within one key and one dialect. Ceph's are little-endian bytes and do not compare at all.

Only an event's bucket and key steer anything. So a malformed size or time is dropped and the object still looked at,
while anything wrong with bucket or key makes the record undecodable: a guessed key would be another object.

The module is long because a body may hold any shape inside any other: the walk and all shapes, ours too, stay together.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Final, NamedTuple, NoReturn, cast, get_args
from urllib.parse import unquote_plus

from s3nsync.errors import UndecodableEvent
from s3nsync.model import Change, Dialect, Kind, ObjectRef

OWN_VERSION: Final = 1
"""Version of our own queue body. Fields may be added under one version; a new version means that old readers fail."""

_OWN_MARK: Final = "s3nsync"
_OWN_START: Final = f'{{"{_OWN_MARK}":{OWN_VERSION},'
_BURIAL_MARK: Final = "s3nsync-burial"
_MAX_ENVELOPES: Final = 8
"""S3 in SNS in Lambda's failure record in a burial is four; more is somebody playing."""


class Decoded(NamedTuple):
    """What a body spoke of; at least one of the three is not empty.

    `ignored` holds the names of events that change no object's bytes, `undecodable` one sentence per record that
    could not be understood.
    """

    changes: tuple[Change, ...] = ()
    ignored: tuple[str, ...] = ()
    undecodable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Ignored:
    """A finding: an event that changes no object's bytes."""

    name: str


@dataclass(frozen=True, slots=True)
class _Fault:
    """A finding: why a record cannot be understood."""

    why: str


_Finding = Change | _Ignored | _Fault


class _UnreadableError(Exception):
    """Raised by the readers of the dialects; its text becomes a _Fault."""


def decode(body: str | bytes | Mapping[str, object]) -> Decoded:
    """Read an event body of any known dialect, wrapped in any known envelope.

    Takes JSON text, its UTF-8 bytes, or the parsed object that Lambda hands over. Raises UndecodableEvent when nothing
    in the body could be understood; the message names fields and kinds, never values that may be secret.
    """
    decoded = survey(body)
    if decoded.undecodable and not decoded.changes and not decoded.ignored:
        raise UndecodableEvent(summary(decoded.undecodable))
    return decoded


def survey(body: str | bytes | Mapping[str, object]) -> Decoded:
    """Read as `decode` does, but give the hopeless body as a value too: it never raises."""
    own = _plainly_own(body)
    if own is not None:
        return Decoded((own,))
    found = list(_open(body, 0))
    return Decoded(
        changes=tuple(each for each in found if isinstance(each, Change)),
        ignored=tuple(each.name for each in found if isinstance(each, _Ignored)),
        undecodable=tuple(each.why for each in found if isinstance(each, _Fault)),
    )


def _plainly_own(body: object) -> Change | None:
    """Read our own queue body as it stands, which nearly all are; None for all that `_open` must look into."""
    if not isinstance(body, str) or not body.startswith(_OWN_START):
        return None
    try:
        node, end = _JSON_READER.raw_decode(body)
        return _own(node) if end == len(body) and "Records" not in node else None
    except (_UnreadableError, ValueError, RecursionError):
        return None


def summary(undecodable: tuple[str, ...]) -> str:
    """Put the faults of one body into one short sentence."""
    more = f" (and {len(undecodable) - 3} more)" if len(undecodable) > 3 else ""
    return "not an event that can be understood: " + "; ".join(undecodable[:3]) + more


# --- envelopes -------------------------------------------------------------------------------------------------


def _open(node: object, depth: int) -> Iterator[_Finding]:
    """Open one layer, whatever it is."""
    if depth > _MAX_ENVELOPES:
        yield _Fault(f"wrapped more than {_MAX_ENVELOPES} times")
    elif isinstance(node, str | bytes):
        yield from _open_text(node, depth)
    elif isinstance(node, list):
        yield from _each(node, depth)
    elif isinstance(node, Mapping):
        yield from _open_object(node, depth)
    else:
        yield _Fault(f"a JSON {_kind_of(node)} where an event should be")


def _open_text(text: str | bytes, depth: int) -> Iterator[_Finding]:
    try:
        node = _JSON_READER.decode(text if isinstance(text, str) else text.decode())
    except UnicodeDecodeError as error:
        yield _Fault(f"not UTF-8 (byte {error.start} of {len(text)})")
    except RecursionError:
        yield _Fault(f"JSON nested too deeply ({len(text)} characters)")
    except ValueError as error:  # JSONDecodeError, or a number with thousands of digits
        where = f"at character {error.pos}" if isinstance(error, json.JSONDecodeError) else "in a number"
        yield _Fault(f"not JSON ({where} of {len(text)})")
    else:
        yield from _open(node, depth + 1)


def _refuse_constant(name: str) -> NoReturn:
    """Refuse NaN and the infinities, which Python reads and JSON does not know."""
    raise ValueError(name)


# Made once: json.loads and json.dumps build a new one on each call that has options, which costs more than the work.
_JSON_READER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_JSON_WRITER: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def _open_object(node: Mapping[str, object], depth: int) -> Iterator[_Finding]:
    """Tell the shapes apart by the fields that only they have."""
    if isinstance(records := node.get("Records"), list):
        yield from _each(records, depth)
    elif isinstance(command := node.get(_OWN_MARK), str):  # a word to the Lambda, come back in its failure record
        yield _Ignored(f"s3nsync:{_short(command)}")
    elif _OWN_MARK in node:
        yield _attempt(_own, node)
    elif _BURIAL_MARK in node:
        yield from _open(node.get("body"), depth + 1)
    elif "requestPayload" in node:  # Lambda's record of an invocation that failed for good
        yield from _open(node["requestPayload"], depth + 1)
    elif node.get("Event") == "s3:TestEvent":  # sent once, when notifications are set up
        yield _Ignored("s3:TestEvent")
    elif "Type" in node and "TopicArn" in node:
        yield from _sns(node, depth)
    elif "detail-type" in node:
        yield _attempt(_eventbridge, node)
    else:
        yield from _record(node, depth)


def _each(records: list[object], depth: int) -> Iterator[_Finding]:
    if not records:
        yield _Ignored("empty list of records")
    for number, record in enumerate(records, 1):
        for found in _record(record, depth):
            yield _Fault(f"record {number}: {found.why}") if isinstance(found, _Fault) else found


def _sns(node: Mapping[str, object], depth: int) -> Iterator[_Finding]:
    if node["Type"] == "Notification":
        yield from _open(node.get("Message"), depth + 1)
    else:  # SubscriptionConfirmation and its kin
        yield _Ignored(f"sns:{_short(node['Type'])}")


def _record(record: object, depth: int) -> Iterator[_Finding]:
    """Read one element of a list of records: an event, or an envelope that Lambda put around one."""
    if not isinstance(record, Mapping):
        yield _Fault(f"a JSON {_kind_of(record)} where a record should be")
    elif isinstance(sns := record.get("Sns"), Mapping):
        yield from _open(sns.get("Message"), depth + 1)
    elif record.get("eventSource") == "aws:sqs":
        yield from _open(record.get("body"), depth + 1)
    elif isinstance(record.get("s3"), Mapping):
        yield _attempt(_s3, record)
    elif isinstance(record.get("bucket"), str) and "eventName" in record:
        yield _attempt(_poc, record)
    else:
        yield _Fault(f"neither an event nor an envelope that is known: {_fields(record)}")


# --- dialects --------------------------------------------------------------------------------------------------

_SOURCES: Final[Mapping[str, Dialect]] = {"aws:s3": "s3", "minio:s3": "minio", "ceph:s3": "ceph"}

_NOT_THE_BYTES: Final = frozenset(
    {
        # MinIO files these under ObjectCreated and ObjectRemoved, yet no byte of the object changes.
        "ObjectCreated:PutTagging",
        "ObjectCreated:DeleteTagging",
        "ObjectCreated:PutRetention",
        "ObjectCreated:PutLegalHold",
        "ObjectRemoved:NoOP",
        # Ceph (documentation and code spell them differently): neither touches the current version.
        "ObjectLifecycle:Expiration:NonCurrent",
        "ObjectLifecycle:Expiration:Noncurrent",
        "ObjectLifecycle:Expiration:AbortMultipartUpload",
        "ObjectLifecycle:Expiration:AbortMPU",
    }
)
_KIND_BY_PREFIX: Final[tuple[tuple[str, Kind], ...]] = (
    # By prefix, not by list: S3 may add a way to create or remove, and a look too many is harmless.
    ("ObjectCreated:", "put"),
    ("ObjectRestore:Completed", "put"),  # an archived object that was set aside can be read now
    ("ObjectRemoved:", "delete"),
    ("LifecycleExpiration:", "delete"),  # ObjectRemoved does not cover lifecycle rules
    ("LifecycleDelMarkerExpiration:", "delete"),  # MinIO
    ("ObjectLifecycle:Expiration:", "delete"),  # Ceph
    ("ObjectSynced:Create", "put"),  # Ceph, multi-site
    ("ObjectSynced:Delet", "delete"),  # Ceph: Delete and DeletionMarkerCreated
    ("Replication:Create", "put"),  # Ceph's newer names for the two above
    ("Replication:Delet", "delete"),
)
_EVENTBRIDGE_KINDS: Final[Mapping[str, Kind]] = {
    "Object Created": "put",
    "Object Restore Completed": "put",
    "Object Deleted": "delete",
}


def _attempt(read: Callable[[Mapping[str, object]], Change | _Ignored], node: Mapping[str, object]) -> _Finding:
    try:
        return read(node)
    except _UnreadableError as error:
        return _Fault(str(error))


def _kind_of_name(name: str) -> Kind | None:
    """Say what an event name means for the object's bytes, None for nothing; the `s3:` in front is optional."""
    plain = name.removeprefix("s3:")
    if plain in _NOT_THE_BYTES:
        return None
    return next((kind for prefix, kind in _KIND_BY_PREFIX if plain.startswith(prefix)), None)


def _s3(record: Mapping[str, object]) -> Change | _Ignored:
    """Read a record of S3's own form (2.x), also as MinIO and Ceph write it."""
    dialect = _SOURCES.get(_text(record, "eventSource") or "")
    if dialect is None:
        raise _UnreadableError(f"eventSource {_short(record.get('eventSource'))} is none of {', '.join(_SOURCES)}")
    if (_text(record, "eventVersion") or "").partition(".")[0] != "2":
        raise _UnreadableError(f"eventVersion {_short(record.get('eventVersion'))} is not 2.x")
    name = _event_name(record)
    kind = _kind_of_name(name)
    if kind is None:
        return _Ignored(name)
    size = _count(record, "s3", "object", "size")
    if dialect == "minio" and kind == "put" and size is None:
        size = 0  # MinIO leaves out what is zero
    key = _at(record, "s3", "object", "key")
    return Change(
        _ref(_at(record, "s3", "bucket", "name"), key if dialect == "ceph" else _form_decoded(key)),
        kind,
        dialect,
        event_name=name,
        event_time=_text(record, "eventTime"),
        etag=_text(record, "s3", "object", "eTag"),
        size=size,
        version_id=_text(record, "s3", "object", "versionId"),
        sequencer=_text(record, "s3", "object", "sequencer"),
    )


def _poc(record: Mapping[str, object]) -> Change | _Ignored:
    """Read what the proof of concept's Lambda put into the queue: five fields copied out of S3's record."""
    name = _event_name(record)
    kind = _kind_of_name(name)
    if kind is None:
        return _Ignored(name)
    return Change(
        _ref(record["bucket"], _form_decoded(record.get("key"))),
        kind,
        "poc",
        event_name=name,
        etag=_text(record, "etag"),
        sequencer=_text(record, "sequencer"),
    )


def _eventbridge(node: Mapping[str, object]) -> Change | _Ignored:
    """Read S3's event as EventBridge carries it: other field names, and the key as it is."""
    source, detail_type = node.get("source"), _text(node, "detail-type") or ""
    if source == "aws.events":  # a schedule's call, come back in Lambda's failure record
        return _Ignored(detail_type)
    if source != "aws.s3":
        raise _UnreadableError(f"an EventBridge event whose source is {_short(source)}, not aws.s3")
    kind = _EVENTBRIDGE_KINDS.get(detail_type)
    if kind is None:
        return _Ignored(detail_type)
    detail = node.get("detail")
    how = (_text(detail, "reason"), _text(detail, "deletion-type"))
    return Change(
        _ref(_at(detail, "bucket", "name"), _at(detail, "object", "key")),
        kind,
        "eventbridge",
        event_name=":".join((detail_type, *filter(None, how))),
        event_time=_text(node, "time"),
        etag=_text(detail, "object", "etag"),
        size=_count(detail, "object", "size"),
        version_id=_text(detail, "object", "version-id"),
        sequencer=_text(detail, "object", "sequencer"),
    )


def _event_name(record: Mapping[str, object]) -> str:
    name = _text(record, "eventName")
    if name is None:
        raise _UnreadableError("no eventName")
    return name


def _ref(bucket: object, key: object) -> ObjectRef:
    """Make the address, or say what is wrong with it: S3's names are non-empty and UTF-8."""
    return ObjectRef(_name("bucket name", bucket), _name("object key", key))


def _name(what: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _UnreadableError(f"no {what}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _UnreadableError(f"the {what} is not Unicode text (it holds half a surrogate pair)") from None
    return value


def _form_decoded(key: object) -> object:
    """Undo S3's form encoding once; bytes that are not UTF-8 cannot be an S3 key."""
    if not isinstance(key, str):
        return key
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError as error:
        raise _UnreadableError(f"the object key {_short(key)} does not decode to UTF-8 ({error.reason})") from None


# --- our own queue bodies --------------------------------------------------------------------------------------


_KINDS: Final[tuple[object, ...]] = get_args(Kind)
_DIALECTS: Final[tuple[object, ...]] = get_args(Dialect)
_DEFAULTS: Final = {name: value for name, value in Change._field_defaults.items() if name != "dialect"}
"""The hints of a Change: they travel only where they say something."""
_TEXTS: Final = tuple(name for name in _DEFAULTS if name != "size")


def encode(change: Change) -> str:
    """Write a Change as the body of our own queues: one compact ASCII JSON object; `decode` gives it back unchanged.

    ASCII because SQS refuses characters that XML 1.0 does not know, and keys may hold them.
    """
    address = {_OWN_MARK: OWN_VERSION, "bucket": change.ref.bucket, "key": change.ref.key}
    meaning = {"kind": change.kind, "dialect": change.dialect}
    hints = {name: getattr(change, name) for name in _DEFAULTS if getattr(change, name) != _DEFAULTS[name]}
    return _compact(address | meaning | hints)


def _own(node: Mapping[str, object]) -> Change:
    """Read our own body."""
    if node[_OWN_MARK] != OWN_VERSION:
        raise _UnreadableError(
            f"a queue body of version {_short(node[_OWN_MARK])}, and this s3nsync reads version {OWN_VERSION}: "
            "update it before what feeds the queue"
        )
    kind, dialect = node.get("kind"), node.get("dialect")
    if kind not in _KINDS or dialect not in _DIALECTS:
        raise _UnreadableError(f"a queue body of kind {_short(kind)} and dialect {_short(dialect)}")
    return Change(
        _ref(node.get("bucket"), node.get("key")),
        cast("Kind", kind),
        cast("Dialect", dialect),
        size=_whole(node.get("size")),
        **{name: value for name in _TEXTS if isinstance(value := node.get(name), str)},
    )


def group_id(ref: ObjectRef) -> str:
    """Name the FIFO group of one key: 64 hex digits, because S3 keys are longer and wilder than SQS's ids may be."""
    return _digest(f"{ref.bucket}\0{ref.key}")


def dedup_id(change: Change, *, fresh: str = "") -> str:
    """Name a message so that SQS drops true duplicates of it for five minutes, and nothing else: 64 hex digits.

    The same event delivered twice has the same sequencer; without one the version, and without that time and eTag
    together tell events apart. An eTag alone does not (A, B, A again would lose the last), nor does the key. `fresh`
    is a text never used before, for messages that must not be taken for an earlier one. Raises ValueError when
    neither the event, nor a run, nor `fresh` tells this message from any other of its key: see `is_distinct`.
    """
    if not (fresh or is_distinct(change)):
        raise ValueError(f"nothing tells this change of {change.ref} from an earlier one: pass fresh")
    return _digest(
        _compact([change.ref.bucket, change.ref.key, change.event_name, *_evidence(change), change.run, fresh])
    )


def is_distinct(change: Change) -> bool:
    """Say whether the Change carries something that no other Change of its key has."""
    return bool(change.run or any(_evidence(change)))


def _evidence(change: Change) -> tuple[str, ...]:
    if change.sequencer:
        return ("sequencer", change.sequencer)
    if change.version_id and change.version_id != "null":  # `null` is every version of a bucket without versioning
        return ("version", change.version_id)
    if change.event_time:
        return ("time", change.event_time, change.etag or "")
    return ()


# --- burials ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Burial:
    """An entry of the dead-letter queue: what could not be done, why, what to do, and the message itself.

    `ref` is None where the body could not be understood. Times are Unix seconds; `queue` names where it came from.
    """

    ref: ObjectRef | None
    reason: str
    hint: str
    first_attempt_s: float
    last_attempt_s: float
    attempts: int
    queue: str
    body: str = field(repr=False)


def encode_burial(burial: Burial) -> str:
    """Write a dead-letter body; `decode` of it yields the Changes inside, so SQS's own redrive works.

    A message that was redriven and failed again is itself a burial. It is not wrapped twice: first attempt and number
    of attempts go on from the earlier one.
    """
    earlier = decode_burial(burial.body)
    if earlier is not None:
        burial = replace(
            burial,
            body=earlier.body,
            first_attempt_s=min(earlier.first_attempt_s, burial.first_attempt_s),
            attempts=earlier.attempts + burial.attempts,
        )
    return _compact(
        {
            _BURIAL_MARK: OWN_VERSION,
            "bucket": burial.ref and burial.ref.bucket,
            "key": burial.ref and burial.ref.key,
            "reason": burial.reason,
            "hint": burial.hint,
            "first_attempt_s": burial.first_attempt_s,
            "last_attempt_s": burial.last_attempt_s,
            "attempts": burial.attempts,
            "queue": burial.queue,
            "body": burial.body,
        }
    )


def decode_burial(text: str) -> Burial | None:
    """Read a dead-letter body that `encode_burial` wrote; None for any other (SQS's own redrive moves bodies raw)."""
    try:
        node = _JSON_READER.decode(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(node, Mapping) or node.get(_BURIAL_MARK) != OWN_VERSION or not isinstance(node.get("body"), str):
        return None
    bucket, key = _text(node, "bucket"), _text(node, "key")
    return Burial(
        ref=ObjectRef(bucket, key) if bucket and key else None,
        reason=_text(node, "reason") or "",
        hint=_text(node, "hint") or "",
        first_attempt_s=_seconds(node, "first_attempt_s"),
        last_attempt_s=_seconds(node, "last_attempt_s"),
        attempts=_count(node, "attempts") or 0,
        queue=_text(node, "queue") or "",
        body=node["body"],
    )


def burial_dedup_id(burial: Burial) -> str:
    """Name the dead-letter message: burying the same message again after a crash makes no second entry.

    Made from the body as it was received and the reason. A redriven message is another body (the burial itself), so
    burying it again within SQS's five minutes is not taken for the first time and lost.
    """
    return _digest(_compact([burial.body, burial.reason]))


def burial_group_id(burial: Burial) -> str:
    """Name the dead-letter message's FIFO group: that of its key, else one of its own."""
    return group_id(burial.ref) if burial.ref else _digest(burial.body)


# --- small readers ---------------------------------------------------------------------------------------------


def _at(node: object, *path: str) -> object:
    """Follow field names inwards; None where the path ends."""
    for name in path:
        if not isinstance(node, Mapping):
            return None
        node = node.get(name)
    return node


def _text(node: object, *path: str) -> str | None:
    """Read a non-empty text, else None."""
    value = _at(node, *path)
    return value if isinstance(value, str) and value else None


def _count(node: object, *path: str) -> int | None:
    """Read a whole number from 0 up, else None."""
    return _whole(_at(node, *path))


def _whole(value: object) -> int | None:
    """Give a whole number from 0 up, else None; JSON's true is no number."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _seconds(node: object, *path: str) -> float:
    """Read a time in Unix seconds, else 0; what no clock could have said is none."""
    value = _at(node, *path)
    return value if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12 else 0.0


def _compact(node: object) -> str:
    return _JSON_WRITER.encode(node)


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _short(value: object) -> str:
    """Show a value for a message: ASCII, one line, at most 40 characters of it."""
    shown = ascii(value) if isinstance(value, str | int | float | None) else f"a JSON {_kind_of(value)}"
    return shown if len(shown) <= 40 else shown[:37] + "..."


def _fields(node: Mapping[str, object]) -> str:
    """Name a JSON object's fields, without their values."""
    if not node:
        return "an empty object"
    names = ", ".join(_short(name) for name in list(node)[:8])
    return f"an object with {names}" + (", ..." if len(node) > 8 else "")


def _kind_of(value: object) -> str:
    """Name a JSON value's type."""
    if isinstance(value, Mapping):
        return "object"
    if isinstance(value, list):
        return "array"
    return {str: "string", bool: "boolean", type(None): "null"}.get(type(value), "number")
