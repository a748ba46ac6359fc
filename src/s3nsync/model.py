"""The nouns: immutable values that every other module takes and returns.

Nothing here does I/O, reads a clock or draws a random number, and nothing of ours is imported, so any layer may use
it, the Lambda's zip included. What is made anew for each object is a NamedTuple: to make one costs a third of a frozen
dataclass, which sets its fields one by one. The words are those of docs/design.md:

    ObjectRef   bucket and key, decoded
    Change      "something may have changed at this ref": a hint, never the truth
    Route       which keys go where, and by which policies
    Delivery    one queue message in our hands
    Outcome     what replicating one key came to; `settlement.settle` says what that does to its messages
    Report      one settled Change, for log, metrics and screen
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

Kind = Literal["put", "delete", "check"]
"""What the event said happened. `check` is of our own making: look at the key again, it pays a debt."""

Dialect = Literal["s3", "eventbridge", "minio", "ceph", "poc", "own"]
"""Who worded the event. Sequencers compare only within one key and one dialect."""

QueueName = Literal["live", "bulk", "check", "dead"]
"""Live events first; bulk (backfill, repair, redrive) and check only in slots left free; dead is served by people."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectRef:
    """One object's address in S3; the key is decoded text, exactly as S3 stores it."""

    bucket: str
    key: str

    def __hash__(self) -> int:
        """Hash what tells most of them apart; text knows its own."""
        return hash(self.key)

    def __str__(self) -> str:
        """Give the address the way people write it."""
        return f"s3://{self.bucket}/{self.key}"


class Change(NamedTuple):
    """A hint that something may have changed at `ref`, with what the event said about it.

    Only `ref` steers anything; the rest serves the deduplication id, lag figures and log lines. `event_time` is the
    event's own ISO 8601 text, `size` is in bytes, `run` is the id of the backfill, repair, redrive or check that made
    the Change (empty for live events).
    """

    ref: ObjectRef
    kind: Kind
    dialect: Dialect = "own"
    event_name: str = ""
    event_time: str | None = None
    etag: str | None = None
    size: int | None = None
    version_id: str | None = None
    sequencer: str | None = None
    run: str = ""


@dataclass(frozen=True, slots=True)
class Route:
    """Which keys of a bucket belong where on NetStorage, and how they are treated.

    `include` and `exclude` are shell-style patterns matched against the whole key (`*` also crosses `/`); an empty
    `include` means everything, `exclude` wins. `strip_prefix` must be a leading part of `prefix`; it is cut from the
    key before `directory` is put in front. `settle_s` holds a write back until that long after the object's
    LastModified, because NetStorage advises against rapid overwrites of one name. With `deletes = "trash"` what is
    deleted in S3 is moved to the directory `trash` of the same CP code (`mapping.trash_path`).
    """

    bucket: str
    cpcode: str
    directory: str = ""
    prefix: str = ""
    strip_prefix: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    account: str = "default"
    deletes: Literal["mirror", "ignore", "trash"] = "mirror"
    trash: str = ".s3nsync-trash"
    folder_markers: Literal["ignore", "mkdir"] = "ignore"
    content_encoding: Literal["warn", "reject"] = "warn"
    settle_s: float = 0.0

    def __hash__(self) -> int:
        """Hash what no two routes share; each object's way asks for it several times."""
        return hash((self.bucket, self.prefix))

    def __str__(self) -> str:
        """Name the route for messages: source and target, no policies."""
        target = f"/{self.cpcode}/{self.directory}".rstrip("/")
        return f"s3://{self.bucket}/{self.prefix}* -> {target}/"


class Delivery(NamedTuple):
    """One queue message in our hands, from a receive until it is settled.

    `attempt` counts receives, this one included (SQS ApproximateReceiveCount); the two times are Unix seconds by the
    queue's clock. `receipt` is what settles it, and is no use after the lease is lost. `change` is what the body says,
    from a queue that knows, and spares reading it.
    """

    queue: QueueName
    message_id: str
    receipt: str
    body: str
    group: str
    attempt: int = 1
    sent_at_s: float = 0.0
    first_received_at_s: float = 0.0
    change: Change | None = None

    def __repr__(self) -> str:
        """Show which message it is; what settles it and what it says stay out of logs."""
        return f"Delivery({self.queue}, {self.message_id}, group={self.group}, attempt={self.attempt})"


# --- what S3 says ----------------------------------------------------------------------------------------------


class SourceInfo(NamedTuple):
    """What S3 tells of one object: its size, its digests, and what NetStorage may not be able to keep of it.

    `etag` stands without its quotes. `encryption` is the value of x-amz-server-side-encryption, None when the answer
    had no such header; `customer_key` says that the key was the caller's own (SSE-C). `checksums` maps a lower-case
    algorithm name ("crc64nvme", "sha256") to the lower-case hex digest of the whole object; digests of digests
    (COMPOSITE) are left out. `metadata_mtime` is x-amz-meta-mtime, unparsed.
    """

    size_bytes: int
    etag: str
    last_modified_s: int
    version_id: str | None = None
    encryption: str | None = None
    customer_key: bool = False
    checksums: Mapping[str, str] = MappingProxyType({})
    content_encoding: str | None = None
    storage_class: str | None = None
    metadata_mtime: str | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """S3 itself said, in answer to a GET, that there is no such object: the only ground for a delete."""

    reason: Literal["no-such-key", "delete-marker"]


# --- outcomes --------------------------------------------------------------------------------------------------


class Copied(NamedTuple):
    """The object's bytes are on NetStorage and proven; `proof` names the digest that NetStorage checked.

    `notes` holds what NetStorage cannot keep of the object (its Content-Encoding above all).
    """

    path: str
    size_bytes: int
    proof: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Deleted:
    """S3 has no such object, and neither has NetStorage now; `existed` is false if it was gone already.

    `trash` is where the file went, None if it was removed or had gone already.
    """

    path: str
    existed: bool
    trash: str | None = None


@dataclass(frozen=True, slots=True)
class Unchanged:
    """A stat made in this very attempt showed what we would have written: nothing was sent."""

    path: str


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing is to be done for this key, by the route's own rules.

    With `set_aside` the object cannot be read yet (archived): it is logged and counted, and woken by its own later
    event.
    """

    reason: str
    set_aside: bool = False


@dataclass(frozen=True, slots=True)
class Retry:
    """Not done, but it may be later: the message goes back for at least `after_s` seconds.

    `failed` is false for a mere wait (settling, draining, paused), which never counts towards burying. `outage` says
    that the other side is in trouble and not this key: it is not buried for that.
    """

    reason: str
    after_s: float = 0.0
    failed: bool = True
    outage: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """It will never work as it is: the message is buried with the reason, which says what to do."""

    reason: str
    hint: str = ""


Outcome = Copied | Deleted | Unchanged | Ignored | Retry | Rejected


class Report(NamedTuple):
    """One settled Change, as the worker reports it to log, metrics and screen; times in seconds.

    `verb` is what became of the messages: ack, retry, bury; `lease lost` if it was gone,
    `unsettled` if the queue could not be reached. `outcome` is None when the lease was lost, `change` when the message
    could not be read. `coalesced` counts the further messages of the key that this look served.
    """

    change: Change | None
    queue: QueueName
    outcome: Outcome | None
    verb: str
    attempt: int
    seconds: float
    sent_at_s: float
    coalesced: int
    ambiguous: bool
    checked: bool
