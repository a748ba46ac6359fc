"""The Lambda function: S3's events in, messages of the FIFO queue out.

S3 calls it asynchronously with one event; it decodes, keeps what some route takes, and sends each Change with the group
id of its key and a deduplication id of its event. Keys that no path can hold are sent as well: the worker buries them
with the reason, so they can be listed; only what the routes leave out on purpose ends here, counted.

Nothing is lost by failing: after queuing all that could be queued the handler raises if anything could not. Lambda then
repeats the event (what was queued already is dropped by its deduplication id, or does no harm), and in the end hands it
to the failure queue. A schedule empties that queue through the same function: it opens Lambda's failure record, queues
what is inside, and only then deletes the message.

One JSON line a call says what became of the event's records; the event itself is never logged. This module and what it
imports travel alone in the function's archive, so: the standard library, boto3, and our pure modules, nothing else.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import random
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NotRequired, Protocol, TypedDict, cast

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from s3nsync import events, mapping
from s3nsync.errors import ConfigError, QueueError, S3nsyncError, UndecodableEvent
from s3nsync.model import Change, Route

BATCH_ENTRIES: Final = 10
"""SQS takes at most ten messages in one call."""

BATCH_BYTES: Final = 262_144
"""Most bytes in one call. SQS takes 1 MiB since August 2025; other makes still have the 256 KiB of before."""

RESERVE_S: Final = 3.0
"""Time kept back for the log line and the error: a call that times out says nothing."""

_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 5.0

DRAIN_COMMAND: Final = {"s3nsync": "drain-failures"}
"""An event that makes the function empty the failure queue, for schedulers that let one choose the payload."""


# --- what it needs from outside --------------------------------------------------------------------------------


class Context(Protocol):
    """What we use of Lambda's context object."""

    @property
    def aws_request_id(self) -> str:
        """Give the id of this call."""

    def get_remaining_time_in_millis(self) -> int:
        """Tell how long Lambda lets us go on."""


class SendEntry(TypedDict):
    """One message of SendMessageBatch."""

    Id: str
    MessageBody: str
    MessageGroupId: str
    MessageDeduplicationId: str


class SendFailure(TypedDict):
    """One message that SendMessageBatch did not take."""

    Id: str
    SenderFault: bool
    Code: str


class SendAnswer(TypedDict):
    """What SendMessageBatch answers, as far as it matters here."""

    Failed: NotRequired[list[SendFailure]]


class DeleteEntry(TypedDict):
    """One message of DeleteMessageBatch."""

    Id: str
    ReceiptHandle: str


class Message(TypedDict):
    """One message that ReceiveMessage gave."""

    MessageId: str
    ReceiptHandle: str
    Body: str
    Attributes: NotRequired[Mapping[str, str]]


class ReceiveAnswer(TypedDict):
    """What ReceiveMessage answers."""

    Messages: NotRequired[list[Message]]


class Sqs(Protocol):
    """What we use of boto3's SQS client; the names are its own."""

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[SendEntry]) -> SendAnswer:  # noqa: N803 boto3's names
        """Send up to ten messages; the answer names those that were not taken."""

    def receive_message(
        self,
        *,
        QueueUrl: str,  # noqa: N803 boto3's names
        MaxNumberOfMessages: int,  # noqa: N803 ditto
        WaitTimeSeconds: int,  # noqa: N803 ditto
        MessageSystemAttributeNames: Sequence[Literal["SentTimestamp", "ApproximateReceiveCount"]],  # noqa: N803 ditto
    ) -> ReceiveAnswer:
        """Take messages from a queue."""

    def delete_message_batch(self, *, QueueUrl: str, Entries: Sequence[DeleteEntry]) -> object:  # noqa: N803 ditto
        """Remove messages for good; one that stays is merely seen again."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the function's environment says."""

    routes: tuple[Route, ...]
    queue_url: str
    failure_queue_url: str | None = None
    dead_queue_url: str | None = None


def settings_from_env(env: Mapping[str, str]) -> Settings:
    """Read the environment: S3NSYNC_ROUTES, QUEUE_URL (or the older queueUrl), and the two optional queues.

    Raises ConfigError.
    """
    queue_url = env.get("QUEUE_URL") or env.get("queueUrl")
    if not queue_url:
        raise ConfigError("QUEUE_URL is not set", hint="set it to the URL of the FIFO queue that the workers read")
    if not env.get("S3NSYNC_ROUTES"):
        raise ConfigError("S3NSYNC_ROUTES is not set", hint="set it to the JSON list of routes")
    return Settings(
        # Whether a key is misspelt is for Terraform and the worker to say: only scope matters here.
        routes=mapping.routes_from_json(env["S3NSYNC_ROUTES"], unknown="ignore"),
        queue_url=queue_url,
        failure_queue_url=env.get("S3NSYNC_FAILURE_QUEUE_URL") or None,
        dead_queue_url=env.get("S3NSYNC_DEAD_QUEUE_URL") or None,
    )


# --- deciding (pure) -------------------------------------------------------------------------------------------

Fate = Literal["queued", "refused", "out_of_scope", "folder_markers", "deletes_ignored"]
"""What becomes of a Change here; `refused` is queued as well, for the worker to bury with the reason."""


def fate(change: Change, routes: Iterable[Route]) -> Fate:
    """Decide whether a Change goes to the queue, and if not, why."""
    place = mapping.place(change.ref, routes)
    if isinstance(place, mapping.OutOfScope):
        return "out_of_scope"
    if isinstance(place, mapping.FolderMarker) and place.route.folder_markers == "ignore":
        return "folder_markers"
    if place.route.deletes == "ignore" and _only_deletes(change):
        return "deletes_ignored"
    return "refused" if isinstance(place, mapping.Refused) else "queued"


def _only_deletes(change: Change) -> bool:
    """Say whether the event can only mean that the key is gone.

    Removing one version, or a delete marker, may bring an older version to light, and that is new content.
    """
    makes_marker = "markercreated" in change.event_name.replace(" ", "").lower()  # EventBridge writes it with spaces
    return change.kind == "delete" and (change.version_id is None or makes_marker)


@dataclass(frozen=True, slots=True)
class Letter:
    """A message to be sent: `about` names its object for messages to people."""

    about: str
    body: str = field(repr=False)
    group: str
    dedup: str


def letter(change: Change, token: Callable[[], str]) -> Letter:
    """Make the queue's message of a Change; `token` gives a fresh text where the event has nothing distinct in it."""
    fresh = "" if events.is_distinct(change) else token()
    return Letter(
        about=str(change.ref),
        body=events.encode(change),
        group=events.group_id(change.ref),
        dedup=events.dedup_id(change, fresh=fresh),
    )


def batches(letters: Iterable[Letter]) -> Iterator[list[Letter]]:
    """Cut into calls that SQS takes: ten messages, BATCH_BYTES bytes (a body alone over that goes alone)."""
    batch: list[Letter] = []
    size = 0
    for each in letters:
        if batch and (len(batch) == BATCH_ENTRIES or size + len(each.body) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += len(each.body)  # bodies are ASCII: characters are bytes
    if batch:
        yield batch


# --- acting ----------------------------------------------------------------------------------------------------


_COUNTS: Final = ("queued", "refused", "out_of_scope", "folder_markers", "deletes_ignored", "buried")


@dataclass(slots=True)
class Report:
    """What became of one call's records; goes into the log line and back to Lambda.

    `refused` ones are among the `queued`. `faults` says what SQS did not do, `undecodable` what nobody understands.
    """

    task: Literal["queue", "drain"]
    counts: Counter[str] = field(default_factory=Counter)
    dialects: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    undecodable: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """Give the report as a JSON object: every count, and at most three of the faults of each sort."""
        return {
            "task": self.task,
            **{name: self.counts[name] for name in _COUNTS},
            "dialects": dict(self.dialects),
            "ignored": dict(self.ignored),
            "failed": len(self.faults),
            "undecodable": len(self.undecodable),
            "faults": self.faults[:3] + self.undecodable[:3],
        }

    def error(self) -> S3nsyncError | None:
        """Give the error that the call must end with, if any: Lambda keeps only what fails."""
        if self.faults:
            return QueueError(f"{len(self.faults)} left undone: " + "; ".join(self.faults[:3]), hint=_QUEUE_HINT)
        if self.undecodable:
            return UndecodableEvent(events.summary(tuple(self.undecodable)))
        return None


_QUEUE_HINT: Final = (
    "nothing to do unless it lasts: Lambda tries again, then the failure queue keeps the event; "
    "if it lasts, check the queue's URL, the function's sqs: permissions and throttling"
)


def _pauses(uniform: Callable[[], float]) -> Iterator[float]:
    """Give the seconds to wait after each failed try: doubling up to the longest, each cut by up to half at random."""
    for tries in itertools.count():
        yield min(_FIRST_PAUSE_S * 2 ** min(tries, 10), _LONGEST_PAUSE_S) * (1 - uniform() / 2)


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A message of the failure queue and what must be sent before it may be deleted."""

    message: Message
    live: list[Letter]
    dead: list[Letter]
    stuck: bool


class Intake:
    """The function's working part; clock, sleep and randomness are passed in."""

    def __init__(
        self,
        settings: Settings,
        sqs: Sqs,
        *,
        sleep: Callable[[float], None] = time.sleep,
        now_s: Callable[[], float] = time.time,
        uniform: Callable[[], float] = random.random,
        token: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        """Build it around an SQS client."""
        self._settings = settings
        self._sqs = sqs
        self._sleep = sleep
        self._now_s = now_s
        self._uniform = uniform
        self._token = token

    def handle(self, event: Mapping[str, object], remaining_s: Callable[[], float]) -> Report:
        """Do what the event asks for: queue its Changes, or empty the failure queue. Raises ConfigError only."""
        return self._drain(remaining_s) if _asks_to_drain(event) else self._queue(event, remaining_s)

    def _queue(self, event: Mapping[str, object], remaining_s: Callable[[], float]) -> Report:
        report = Report("queue")
        letters = self._letters(events.survey(event), report)
        unsent = self._deliver(self._settings.queue_url, letters, remaining_s, report)
        report.counts["queued"] += len(letters) - len(unsent)
        return report

    def _letters(self, decoded: events.Decoded, report: Report) -> list[Letter]:
        """Choose what goes to the queue, and count the rest."""
        report.ignored.update(decoded.ignored)
        report.undecodable += decoded.undecodable
        report.dialects.update(change.dialect for change in decoded.changes)
        fates = [(change, fate(change, self._settings.routes)) for change in decoded.changes]
        report.counts.update(kind for _, kind in fates if kind != "queued")  # counted once it is true
        return [letter(change, self._token) for change, kind in fates if kind in {"queued", "refused"}]

    def _deliver(
        self, url: str, letters: Sequence[Letter], remaining_s: Callable[[], float], report: Report
    ) -> list[Letter]:
        """Send until all are taken, refused for good, or time is up; gives back those not taken."""
        waiting = list(letters)
        lost: list[tuple[Letter, str]] = []
        for pause_s in _pauses(self._uniform):
            failed = [each for batch in batches(waiting) for each in self._send(url, batch)]
            lost += [(each, code) for each, code, can_help in failed if not can_help]
            again = [(each, code) for each, code, can_help in failed if can_help]
            waiting = [each for each, _ in again]
            if not waiting:
                break
            if remaining_s() < pause_s + RESERVE_S:
                lost += again
                break
            self._sleep(pause_s)
        report.faults += [f"{each.about} was not sent ({code})" for each, code in lost]
        return [each for each, _ in lost]

    def _send(self, url: str, batch: Sequence[Letter]) -> list[tuple[Letter, str, bool]]:
        """Send one batch; gives back what was not taken, SQS's code for it, and whether trying again can help."""
        entries: list[SendEntry] = [
            {
                "Id": str(number),
                "MessageBody": each.body,
                "MessageGroupId": each.group,
                "MessageDeduplicationId": each.dedup,
            }
            for number, each in enumerate(batch)
        ]
        try:
            answer = self._sqs.send_message_batch(QueueUrl=url, Entries=entries)
        except (BotoCoreError, ClientError) as error:
            return [(each, *_meaning(error)) for each in batch]
        failures = answer.get("Failed", [])
        return [(batch[int(each["Id"])], each["Code"], not each["SenderFault"]) for each in failures]

    # --- the failure queue ---

    def _drain(self, remaining_s: Callable[[], float]) -> Report:
        """Queue what the failure queue holds, until it is empty or time is up; what fails stays there."""
        url = self._settings.failure_queue_url
        if url is None:
            raise ConfigError("S3NSYNC_FAILURE_QUEUE_URL is not set", hint="set it, or remove the schedule")
        report = Report("drain")
        seen: set[str] = set()
        try:
            while remaining_s() > 2 * RESERVE_S:
                messages = [each for each in self._receive(url) if each["MessageId"] not in seen]
                if not messages:
                    break
                seen.update(each["MessageId"] for each in messages)
                self._settle(url, [self._parcel(each, report) for each in messages], remaining_s, report)
        except (BotoCoreError, ClientError) as error:
            report.faults.append(f"the failure queue could not be read or deleted from ({_meaning(error)[0]})")
        return report

    def _receive(self, url: str) -> list[Message]:
        answer = self._sqs.receive_message(
            QueueUrl=url,
            MaxNumberOfMessages=BATCH_ENTRIES,
            WaitTimeSeconds=1,  # a long poll asks all of SQS's servers; a short one may miss messages
            MessageSystemAttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
        )
        return answer.get("Messages", [])

    def _parcel(self, message: Message, report: Report) -> _Parcel:
        """Decide what must be sent for one failed event. What cannot be decoded is buried, else it stays."""
        decoded = events.survey(message["Body"])
        may_bury = self._settings.dead_queue_url is not None
        dead = [self._burial(message, decoded.undecodable)] if decoded.undecodable and may_bury else []
        if dead:
            decoded = events.Decoded(decoded.changes, decoded.ignored)
        return _Parcel(message, self._letters(decoded, report), dead, stuck=bool(decoded.undecodable))

    def _burial(self, message: Message, undecodable: tuple[str, ...]) -> Letter:
        attributes = message.get("Attributes", {})
        burial = events.Burial(
            ref=None,
            reason=events.summary(undecodable),
            hint=UndecodableEvent.default_hint,
            first_attempt_s=int(attributes.get("SentTimestamp", "0")) / 1000,
            last_attempt_s=self._now_s(),
            attempts=int(attributes.get("ApproximateReceiveCount", "1")),
            queue="failure",
            body=message["Body"],
        )
        return Letter(
            about=f"failed event {message['MessageId']}",
            body=events.encode_burial(burial),
            group=events.burial_group_id(burial),
            dedup=events.burial_dedup_id(burial),
        )

    def _settle(self, url: str, parcels: Sequence[_Parcel], remaining_s: Callable[[], float], report: Report) -> None:
        """Send what the messages call for, then delete those for which all was taken."""
        live = [each for parcel in parcels for each in parcel.live]
        dead = [each for parcel in parcels for each in parcel.dead]
        unsent = self._deliver(self._settings.queue_url, live, remaining_s, report)
        report.counts["queued"] += len(live) - len(unsent)
        if self._settings.dead_queue_url is not None:
            unburied = self._deliver(self._settings.dead_queue_url, dead, remaining_s, report)
            report.counts["buried"] += len(dead) - len(unburied)
            unsent += unburied
        done: list[DeleteEntry] = [
            {"Id": str(number), "ReceiptHandle": parcel.message["ReceiptHandle"]}
            for number, parcel in enumerate(parcels)
            if not parcel.stuck and not any(each in unsent for each in parcel.live + parcel.dead)
        ]
        if done:
            self._sqs.delete_message_batch(QueueUrl=url, Entries=done)


def _asks_to_drain(event: Mapping[str, object]) -> bool:
    """Tell a schedule's call from an event of S3."""
    scheduled = event.get("source") == "aws.events" and event.get("detail-type") == "Scheduled Event"
    return scheduled or event == DRAIN_COMMAND


def _meaning(error: BotoCoreError | ClientError) -> tuple[str, bool]:
    """Give a failed call's code, and whether trying again can help."""
    if not isinstance(error, ClientError):
        return type(error).__name__, True  # the network, as a rule
    code = error.response.get("Error", {}).get("Code", "unknown")
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return code, status >= 500 or "throttl" in code.lower()


# --- Lambda's door ---------------------------------------------------------------------------------------------


@functools.cache
def _intake() -> Intake:
    """Make the working part once for the life of the container."""
    config = Config(connect_timeout=2, read_timeout=5, retries={"mode": "standard", "max_attempts": 2})
    # The cast: boto3's published types name every field of every answer, ours those that are read.
    return Intake(settings_from_env(os.environ), cast("Sqs", boto3.client("sqs", config=config)))


def handler(event: Mapping[str, object], context: Context) -> dict[str, object]:
    """Queue the event's Changes, or empty the failure queue; returns the counts that are also logged.

    Raises QueueError, UndecodableEvent or ConfigError, so that Lambda keeps the event.
    """
    report = _intake().handle(event, lambda: context.get_remaining_time_in_millis() / 1000)
    error = report.error()
    line = {"level": "ERROR" if error else "INFO", "event": "intake", "request_id": context.aws_request_id}
    _log(line | report.as_dict() | ({"error": error.message, "hint": error.hint} if error else {}))
    if error:
        raise error
    return report.as_dict()


def _log(line: Mapping[str, object]) -> None:
    """Write one line of JSON where Lambda's log takes it as it is."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()
