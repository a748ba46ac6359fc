"""The Lambda function's decisions and its dealings with SQS, against an owned model of the SQS client."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from hypothesis import given, settings
from hypothesis import strategies as st

from s3nsync import events, intake, mapping
from s3nsync.errors import ConfigError, QueueError, UndecodableEvent
from s3nsync.intake import DeleteEntry, Fate, Intake, Letter, Message, ReceiveAnswer, SendAnswer, SendEntry, Settings
from s3nsync.model import Change, Kind, ObjectRef, Route

steady = settings(deadline=None, derandomize=True)  # the same examples on every run, however busy the machine

LIVE, FAILURES, DEAD = "https://sqs/live.fifo", "https://sqs/failures", "https://sqs/dead.fifo"
MIRROR = Route("b", "1", directory="m")
KEEP = Route("b", "1", directory="keep", prefix="keep/", strip_prefix="keep/", deletes="ignore", folder_markers="mkdir")
SETTINGS = Settings((MIRROR, KEEP), LIVE, FAILURES, DEAD)


@dataclass
class FakeSqs:
    """An SQS client whose answers are scripted: `trouble` takes a call's entries and says what goes wrong.

    Trouble is an exception to raise, or a code for each Id that is not taken (with `!` behind it: the sender's fault).
    """

    trouble: Callable[[int, Sequence[SendEntry]], Exception | dict[str, str] | None] = lambda _call, _entries: None
    waiting: list[Message] = field(default_factory=list)
    calls: list[list[SendEntry]] = field(default_factory=list)
    taken: dict[str, list[SendEntry]] = field(default_factory=lambda: {LIVE: [], DEAD: []})
    deleted: list[str] = field(default_factory=list)
    receives: int = 0

    def send_message_batch(self, *, QueueUrl: str, Entries: Sequence[SendEntry]) -> SendAnswer:  # noqa: N803 boto3's
        """Take what the script does not refuse."""
        self.calls.append(list(Entries))
        trouble = self.trouble(len(self.calls), Entries) or {}
        if isinstance(trouble, Exception):
            raise trouble
        self.taken[QueueUrl] += [each for each in Entries if each["Id"] not in trouble]
        failed = [(number, code) for number, code in trouble.items() if number in {each["Id"] for each in Entries}]
        return {
            "Failed": [
                {"Id": number, "Code": code.rstrip("!"), "SenderFault": code.endswith("!")} for number, code in failed
            ]
        }

    def receive_message(
        self,
        *,
        QueueUrl: str,  # noqa: N803 boto3's
        MaxNumberOfMessages: int,  # noqa: N803 boto3's
        WaitTimeSeconds: int,  # noqa: N803 boto3's
        MessageSystemAttributeNames: Sequence[Literal["SentTimestamp", "ApproximateReceiveCount"]],  # noqa: N803 boto3's
    ) -> ReceiveAnswer:
        """Give what was not deleted, from the front; nothing is hidden, as if every lease had ended."""
        assert (QueueUrl, MaxNumberOfMessages, WaitTimeSeconds) == (FAILURES, 10, 1)
        assert set(MessageSystemAttributeNames) == {"SentTimestamp", "ApproximateReceiveCount"}
        self.receives += 1
        left = [each for each in self.waiting if each["ReceiptHandle"] not in self.deleted]
        return {"Messages": left[:10]} if left else {}

    def delete_message_batch(self, *, QueueUrl: str, Entries: Sequence[DeleteEntry]) -> object:  # noqa: N803 boto3's
        """Forget messages."""
        assert QueueUrl == FAILURES
        self.deleted += [each["ReceiptHandle"] for each in Entries]
        return {}


@dataclass
class Clock:
    """A Lambda's time: sleeping spends it, and so does every look at it."""

    left_s: float = 60.0
    slept: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        """Spend time."""
        self.slept.append(seconds)
        self.left_s -= seconds

    def remaining_s(self) -> float:
        """Tell what is left."""
        self.left_s -= 0.01
        return self.left_s


def working(sqs: FakeSqs, clock: Clock | None = None, settings: Settings = SETTINGS) -> Intake:
    """Make the function's working part over a model of SQS; tokens count upwards."""
    tokens: Iterator[str] = map(str, range(10**6))
    sleep = (clock or Clock()).sleep
    return Intake(settings, sqs, sleep=sleep, now_s=lambda: 2000.0, uniform=lambda: 0.0, token=lambda: next(tokens))


def record(key: str, name: str = "ObjectCreated:Put", bucket: str = "b", **more: object) -> dict[str, Any]:
    """Make a record of S3's form."""
    s3 = {"bucket": {"name": bucket}, "object": {"key": key, "sequencer": "0A"} | more}
    return {"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": name, "s3": s3}


def event(*records: object) -> dict[str, object]:
    """Make an event of S3."""
    return {"Records": list(records)}


def change(key: str, kind: Kind = "put", name: str = "", version_id: str | None = None) -> Change:
    """Make a Change."""
    return Change(ObjectRef("b", key), kind, "s3", name, version_id=version_id)


# --- what goes to the queue ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "fate"),
    [
        (change("a"), "queued"),
        (change("a", "delete", "ObjectRemoved:Delete"), "queued"),
        (change("a", "check"), "queued"),
        (Change(ObjectRef("c", "a"), "put"), "out_of_scope"),
        (change("a/"), "folder_markers"),
        (change("keep/a/"), "queued"),
        (change("../a"), "refused"),
        (change("../a", "delete"), "refused"),
        (change("keep/a"), "queued"),
        (change("keep/a", "delete", "ObjectRemoved:Delete"), "deletes_ignored"),
        (change("keep/../a", "delete", "ObjectRemoved:Delete"), "deletes_ignored"),
        (change("keep/a", "delete", "ObjectRemoved:DeleteMarkerCreated", "m"), "deletes_ignored"),
        (change("keep/a", "delete", "Object Deleted:DeleteObject:Delete Marker Created", "m"), "deletes_ignored"),
        (change("keep/a", "delete", "ObjectRemoved:Delete", "v"), "queued"),
        (change("keep/a", "delete", "Object Deleted:DeleteObject:Permanently Deleted", "v"), "queued"),
    ],
)
def test_each_change_has_one_fate(change: Change, fate: Fate) -> None:
    """Routes decide; a removed version is queued even where deletes are ignored: it may uncover older content."""
    assert intake.fate(change, SETTINGS.routes) == fate


def test_a_change_is_queued_under_its_key_and_its_event() -> None:
    """The message is our own body, its group that of the key, its deduplication id that of the event."""
    sqs = FakeSqs()
    report = working(sqs).handle(event(record("a+b")), Clock().remaining_s)
    told = Change(ObjectRef("b", "a b"), "put", "s3", "ObjectCreated:Put", sequencer="0A")
    [sent] = sqs.taken[LIVE]
    assert events.decode(sent["MessageBody"]).changes == (told,)
    assert sent["MessageGroupId"] == events.group_id(told.ref)
    assert sent["MessageDeduplicationId"] == events.dedup_id(told)
    assert report.error() is None


def test_an_event_without_anything_distinct_gets_a_fresh_id() -> None:
    """What SQS could not tell from the key's previous message is sent under an id that was never used."""
    sqs = FakeSqs()
    bare = record("a")
    del bare["s3"]["object"]["sequencer"]
    function = working(sqs)
    for _ in range(2):
        function.handle(event(bare), Clock().remaining_s)
    assert len({each["MessageDeduplicationId"] for each in sqs.taken[LIVE]}) == 2


def test_the_report_counts_every_record() -> None:
    """Queued, refused (queued too), left out, ignored and undecodable records add up to what came."""
    sqs = FakeSqs()
    records = [
        *(record("a"), record("../x"), record("d/"), record("a", bucket="other"), record("a", "ObjectTagging:Put")),
        *(record("keep/a", "ObjectRemoved:Delete"), record("%ff")),
    ]
    report = working(sqs).handle(event(*records), Clock().remaining_s)
    counts = {"queued": 2, "refused": 1, "out_of_scope": 1, "folder_markers": 1, "deletes_ignored": 1, "buried": 0}
    assert report.as_dict() == counts | {
        "task": "queue",
        "failed": 0,
        "dialects": {"s3": 5},
        "ignored": {"ObjectTagging:Put": 1},
        "undecodable": 1,
        "faults": ["record 7: the object key '%ff' does not decode to UTF-8 (invalid start byte)"],
    }
    assert [events.decode(each["MessageBody"]).changes[0].ref.key for each in sqs.taken[LIVE]] == ["a", "../x"]


def test_good_records_are_queued_before_bad_ones_raise() -> None:
    """An event with a bad record fails, so that Lambda keeps it, but only after the good ones are queued."""
    sqs = FakeSqs()
    report = working(sqs).handle(event(record("%ff"), record("a")), Clock().remaining_s)
    assert len(sqs.taken[LIVE]) == 1
    assert isinstance(report.error(), UndecodableEvent)


def test_a_hopeless_event_is_an_error() -> None:
    """What nobody understands must not vanish."""
    error = working(FakeSqs()).handle({"x": 1}, Clock().remaining_s).error()
    assert isinstance(error, UndecodableEvent)
    assert error.message.startswith("not an event that can be understood: neither an event nor an envelope")


# --- batches ---------------------------------------------------------------------------------------------------


@steady
@given(st.lists(st.sampled_from([10, 1000, 30_000, 131_072, 262_144, 300_000]), max_size=40))
def test_batches_keep_to_what_sqs_takes(sizes: list[int]) -> None:
    """Ten messages and BATCH_BYTES at most, all of them, in order; one over the limit goes alone."""
    letters = [Letter(str(number), "x" * size, "g", "d") for number, size in enumerate(sizes)]
    cut = list(intake.batches(letters))
    assert [each for batch in cut for each in batch] == letters
    for batch in cut:
        assert 1 <= len(batch) <= 10
        assert len(batch) == 1 or sum(len(each.body) for each in batch) <= intake.BATCH_BYTES


def test_many_records_take_few_calls() -> None:
    """25 records are three calls."""
    sqs = FakeSqs()
    working(sqs).handle(event(*(record(f"k{number}") for number in range(25))), Clock().remaining_s)
    assert [len(call) for call in sqs.calls] == [10, 10, 5]


# --- trouble ---------------------------------------------------------------------------------------------------


def client_error(code: str, status: int) -> ClientError:
    """Make what boto3 raises when SQS refuses a call."""
    return ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "SendMessageBatch")  # type: ignore[typeddict-item] # the fields that matter


@pytest.mark.parametrize(
    "trouble",
    [
        {"1": "InternalError"},
        client_error("InternalFailure", 500),
        client_error("RequestThrottled", 403),
        client_error("KMS.ThrottlingException", 400),
        EndpointConnectionError(endpoint_url="https://sqs"),
    ],
    ids=str,
)
def test_what_sqs_does_not_take_at_first_is_sent_again(trouble: Exception | dict[str, str]) -> None:
    """Failed entries, and only those, go again after a pause until SQS takes them."""
    sqs = FakeSqs(lambda call, _: trouble if call <= 3 else None)
    clock = Clock()
    report = working(sqs, clock).handle(event(record("a"), record("b"), record("c")), clock.remaining_s)
    assert report.error() is None
    assert report.as_dict()["queued"] == 3
    keys = [events.decode(each["MessageBody"]).changes[0].ref.key for each in sqs.taken[LIVE]]
    assert sorted(keys) == ["a", "b", "c"]
    assert clock.slept == [0.2, 0.4, 0.8] if isinstance(trouble, Exception) else clock.slept == [0.2]


def test_pauses_double_to_a_limit_with_jitter() -> None:
    """0.2 s, doubling to 5 s, each cut by up to half."""
    for share, factor in ((0.0, 1.0), (1.0, 0.5)):
        pauses = intake._pauses(itertools.repeat(share).__next__)
        assert [next(pauses) for _ in range(7)] == [each * factor for each in (0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0)]


@pytest.mark.parametrize(
    "trouble",
    [
        {"0": "InvalidMessageContents!"},
        client_error("AWS.SimpleQueueService.NonExistentQueue", 400),
        client_error("AccessDenied", 403),
    ],
    ids=str,
)
def test_what_can_never_be_sent_fails_at_once(trouble: Exception | dict[str, str]) -> None:
    """The sender's fault, a missing queue, a missing permission: no waiting, and the error names object and code."""
    sqs, clock = FakeSqs(lambda _call, _entries: trouble), Clock()
    report = working(sqs, clock).handle(event(record("a")), clock.remaining_s)
    error = report.error()
    assert isinstance(error, QueueError)
    assert "s3://b/a was not sent (" in error.message
    assert (clock.slept, len(sqs.calls), report.as_dict()["queued"]) == ([], 1, 0)


def test_trying_ends_before_lambda_ends_it() -> None:
    """With SQS down the function gives up while there is time to say so."""
    sqs, clock = FakeSqs(lambda _call, _entries: client_error("InternalFailure", 500)), Clock(left_s=20.0)
    report = working(sqs, clock).handle(event(*(record(f"k{number}") for number in range(12))), clock.remaining_s)
    assert isinstance(report.error(), QueueError)
    assert report.as_dict()["failed"] == 12
    assert len(clock.slept) >= 5
    assert 0 < clock.left_s < intake.RESERVE_S + 5.0 + 1.0
    assert clock.left_s >= intake.RESERVE_S - 0.1


@steady
@given(st.lists(st.dictionaries(st.sampled_from("0123456789"), st.sampled_from(["Busy", "Bad!"])), max_size=6))
def test_every_record_is_taken_or_named(script: list[dict[str, str]]) -> None:
    """Whatever SQS refuses and when: each change ends in the queue exactly once or among the faults."""
    sqs, clock = FakeSqs(lambda call, _: script[call - 1] if call <= len(script) else None), Clock(left_s=8.0)
    keys = [f"k{number:02}" for number in range(15)]
    report = working(sqs, clock).handle(event(*map(record, keys)), clock.remaining_s)
    taken = [events.decode(each["MessageBody"]).changes[0].ref.key for each in sqs.taken[LIVE]]
    named = [fault.split()[0].removeprefix("s3://b/") for fault in report.faults]
    assert sorted(taken + named) == keys
    assert report.as_dict()["queued"] == len(taken)


# --- the failure queue -----------------------------------------------------------------------------------------

SCHEDULED = {"source": "aws.events", "detail-type": "Scheduled Event", "detail": {}}


def failed(number: int, payload: object) -> Message:
    """Make a message of the failure queue: Lambda's record around an event."""
    body = json.dumps(
        {"version": "1.0", "requestContext": {"condition": "RetriesExhausted"}, "requestPayload": payload}
    )
    attributes = {"SentTimestamp": "1000500", "ApproximateReceiveCount": "2"}
    return {"MessageId": f"m{number}", "ReceiptHandle": f"h{number}", "Body": body, "Attributes": attributes}


@pytest.mark.parametrize("command", [SCHEDULED, intake.DRAIN_COMMAND], ids=["schedule", "command"])
def test_a_schedule_empties_the_failure_queue(command: Mapping[str, object]) -> None:
    """Every failed event is unwrapped and queued, then deleted, page by page, until nothing is left."""
    sqs = FakeSqs(waiting=[failed(number, event(record(f"k{number}"))) for number in range(23)])
    report = working(sqs).handle(command, Clock().remaining_s)
    assert report.error() is None
    assert sorted(sqs.deleted) == sorted(f"h{number}" for number in range(23))
    assert len(sqs.taken[LIVE]) == 23
    assert (report.as_dict()["task"], report.as_dict()["queued"]) == ("drain", 23)
    assert sqs.receives == 4


def test_draining_twice_sends_the_same_ids() -> None:
    """A drain that died between sending and deleting is repeated without harm: SQS drops the repeated ids."""
    sqs = FakeSqs(waiting=[failed(1, event(record("a"), record("b")))])
    for _ in range(2):
        working(sqs).handle(SCHEDULED, Clock().remaining_s)
        sqs.deleted.clear()
    ids = [each["MessageDeduplicationId"] for each in sqs.taken[LIVE]]
    assert len(ids) == 4
    assert ids[:2] == ids[2:]


def test_what_was_not_sent_is_not_deleted() -> None:
    """A message goes only when all its changes are in the queue; the others of the page are not held up."""
    sqs = FakeSqs(
        lambda _call, entries: {each["Id"]: "Bad!" for each in entries if "bad" in each["MessageBody"]},
        waiting=[failed(1, event(record("a"), record("bad"))), failed(2, event(record("c")))],
    )
    report = working(sqs).handle(SCHEDULED, Clock().remaining_s)
    assert sqs.deleted == ["h2"]
    assert isinstance(report.error(), QueueError)


def test_a_failed_event_that_nobody_understands_is_buried() -> None:
    """It goes to the dead-letter queue with the reason, its times and its body, then leaves the failure queue."""
    message = failed(1, {"x": 1})
    sqs = FakeSqs(waiting=[message])
    report = working(sqs).handle(SCHEDULED, Clock().remaining_s)
    [sent] = sqs.taken[DEAD]
    burial = events.decode_burial(sent["MessageBody"])
    assert burial is not None
    assert "an object with 'x'" in burial.reason
    assert (burial.first_attempt_s, burial.last_attempt_s, burial.attempts) == (1000.5, 2000.0, 2)
    assert (burial.ref, burial.queue, burial.body) == (None, "failure", message["Body"])
    assert (sqs.deleted, report.error(), report.as_dict()["buried"]) == (["h1"], None, 1)


def test_an_event_good_in_part_is_queued_and_buried() -> None:
    """The good record goes to the workers, the whole event to the dead-letter queue for the bad one."""
    sqs = FakeSqs(waiting=[failed(1, event(record("%ff"), record("a")))])
    working(sqs).handle(SCHEDULED, Clock().remaining_s)
    assert (len(sqs.taken[LIVE]), len(sqs.taken[DEAD]), sqs.deleted) == (1, 1, ["h1"])


def test_without_a_dead_letter_queue_it_stays_and_is_an_error() -> None:
    """What can be neither queued nor buried is left where it is, and the call fails; the rest is done, once."""
    sqs = FakeSqs(waiting=[failed(1, {"x": 1}), failed(2, event(record("a")))])
    settings = replace(SETTINGS, dead_queue_url=None)
    report = working(sqs, settings=settings).handle(SCHEDULED, Clock().remaining_s)
    assert sqs.deleted == ["h2"]
    assert isinstance(report.error(), UndecodableEvent)
    assert report.as_dict()["undecodable"] == 1


def test_a_schedule_that_failed_is_not_queued() -> None:
    """A drain's own call that comes back in the failure queue is nobody's event: it is deleted."""
    sqs = FakeSqs(waiting=[failed(1, SCHEDULED), failed(2, intake.DRAIN_COMMAND)])
    report = working(sqs).handle(SCHEDULED, Clock().remaining_s)
    assert (sqs.deleted, sqs.taken, report.error()) == (["h1", "h2"], {LIVE: [], DEAD: []}, None)


def test_draining_ends_before_lambda_ends_it() -> None:
    """A long failure queue is left to the next schedule, without an error."""
    sqs = FakeSqs(waiting=[failed(number, event(record(f"k{number}"))) for number in range(100)])
    clock = Clock(left_s=6.03)
    report = working(sqs, clock).handle(SCHEDULED, clock.remaining_s)
    assert 0 < len(sqs.deleted) < 100
    assert report.error() is None


def test_a_failure_queue_that_cannot_be_read_is_an_error() -> None:
    """The report still tells what was done, and the error names the queue and SQS's code."""

    class Denied(FakeSqs):
        def receive_message(self, **_arguments: object) -> ReceiveAnswer:
            raise client_error("AccessDenied", 403)

    error = working(Denied()).handle(SCHEDULED, Clock().remaining_s).error()
    assert isinstance(error, QueueError)
    assert "the failure queue" in error.message
    assert "AccessDenied" in error.message


def test_draining_needs_a_failure_queue() -> None:
    """A schedule without the queue's URL is a mistake in the settings."""
    with pytest.raises(ConfigError, match="S3NSYNC_FAILURE_QUEUE_URL"):
        working(FakeSqs(), settings=replace(SETTINGS, failure_queue_url=None)).handle(SCHEDULED, Clock().remaining_s)


# --- settings, log ---------------------------------------------------------------------------------------------


def test_settings_come_from_the_environment() -> None:
    """The four variables are read; the name of the proof of concept's variable still works."""
    env = {"S3NSYNC_ROUTES": mapping.routes_to_json(SETTINGS.routes), "QUEUE_URL": LIVE}
    both = {"S3NSYNC_FAILURE_QUEUE_URL": FAILURES, "S3NSYNC_DEAD_QUEUE_URL": DEAD}
    assert intake.settings_from_env(env | both) == SETTINGS
    newer = {"S3NSYNC_ROUTES": env["S3NSYNC_ROUTES"].replace('"bucket"', '"shelf_life_s":7,"bucket"')}
    assert intake.settings_from_env(env | both | newer) == SETTINGS
    old = {"queueUrl": LIVE, "S3NSYNC_ROUTES": env["S3NSYNC_ROUTES"], "S3NSYNC_DEAD_QUEUE_URL": ""}
    assert intake.settings_from_env(old) == Settings(SETTINGS.routes, LIVE)


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "QUEUE_URL is not set"),
        ({"QUEUE_URL": LIVE}, "S3NSYNC_ROUTES is not set"),
        ({"QUEUE_URL": LIVE, "S3NSYNC_ROUTES": "[{}]"}, r"routes\[0\].bucket: missing"),
    ],
)
def test_missing_settings_are_named(env: dict[str, str], says: str) -> None:
    """The error names the variable."""
    with pytest.raises(ConfigError, match=says):
        intake.settings_from_env(env)


def test_the_log_line_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever it holds, a log line is one line."""
    intake._log({"event": "intake", "faults": ["a\nb"]})
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"event": "intake", "faults": ["a\nb"]}
    ]
