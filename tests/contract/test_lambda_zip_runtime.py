"""The real archive under AWS's own Lambda client, with a real SQS interface behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import lambda_runtime
from s3nsync import events, lambda_zip, mapping
from s3nsync.model import Change, ObjectRef, Route

if TYPE_CHECKING:
    from aws_emulator import Aws
    from lambda_runtime import Runtime

pytestmark = pytest.mark.slow  # processes start and queues are waited for

ROUTES = mapping.routes_to_json([Route("b", "1", prefix="in/")])


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Build the archive."""
    return lambda_zip.build(tmp_path / "lambda.zip").path


def environment(aws: Aws, live: str, **more: str) -> dict[str, str]:
    """Give what the function's configuration and its role would."""
    keys = {"AWS_ACCESS_KEY_ID": aws.keys.access_key, "AWS_SECRET_ACCESS_KEY": aws.keys.secret_key}
    return {**keys, "AWS_ENDPOINT_URL": aws.url, "QUEUE_URL": live, "S3NSYNC_ROUTES": ROUTES, **more}


def record(key: str, sequencer: str = "0A") -> dict[str, Any]:
    """Make a record of S3's form."""
    s3 = {"bucket": {"name": "b"}, "object": {"key": key, "sequencer": sequencer}}
    return {"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": "ObjectCreated:Put", "s3": s3}


def receive(aws: Aws, url: str) -> list[tuple[str, str, str]]:
    """Take all messages of a queue: body, group id, deduplication id."""
    taken = []
    while messages := aws.sqs.receive_message(
        QueueUrl=url, MaxNumberOfMessages=10, MessageSystemAttributeNames=["All"]
    ).get("Messages"):
        for each in messages:
            attributes = each["Attributes"]
            taken.append((each["Body"], attributes["MessageGroupId"], attributes["MessageDeduplicationId"]))
            aws.sqs.delete_message(QueueUrl=url, ReceiptHandle=each["ReceiptHandle"])
    return taken


@pytest.fixture
def live(aws: Aws) -> str:
    """Make a queue for workers."""
    return aws.queue()


@pytest.fixture
def function(aws: Aws, live: str, archive: Path, tmp_path: Path) -> Iterator[Runtime]:
    """Run the function without the optional queues."""
    with lambda_runtime.running(archive, lambda_zip.HANDLER, environment(aws, live), tmp_path) as runtime:
        yield runtime


def test_an_event_reaches_the_queue_with_its_ids(function: Runtime, aws: Aws, live: str) -> None:
    """Twelve records and their repetition arrive once each, under key's group and event's id; the log tells counts."""
    event = {"Records": [*(record(f"in/a+{number:02}") for number in range(12)), record("out/x")]}
    for _ in range(2):
        answer = function.invoke(event)
        assert answer.error is None
        assert (answer.payload["queued"], answer.payload["out_of_scope"]) == (12, 1)
    changes = [
        Change(ObjectRef("b", f"in/a {number:02}"), "put", "s3", "ObjectCreated:Put", sequencer="0A")
        for number in range(12)
    ]
    wanted = [(events.encode(each), events.group_id(each.ref), events.dedup_id(each)) for each in changes]
    assert sorted(receive(aws, live)) == sorted(wanted)
    lines = [line for line in function.log_lines() if line.get("event") == "intake"]
    assert [(line["level"], line["queued"], line["request_id"]) for line in lines] == [("INFO", 12, "r-1")] * 2
    assert "in/a" not in function.log_path.read_text()  # the event itself is not logged


def test_a_bad_event_is_lambdas_to_keep(function: Runtime, aws: Aws, live: str) -> None:
    """What cannot be understood ends the call with an error, after the good record is queued; the next call works."""
    answer = function.invoke({"Records": [record("%ff"), record("in/good")]})
    assert answer.error == "UndecodableEvent"
    assert "record 1" in answer.payload["errorMessage"]
    assert len(receive(aws, live)) == 1
    assert function.invoke({"Records": [record("in/next")]}).error is None
    assert [line["level"] for line in function.log_lines() if line.get("event") == "intake"] == ["ERROR", "INFO"]


def test_a_queue_that_is_not_there_is_an_error(aws: Aws, live: str, archive: Path, tmp_path: Path) -> None:
    """The error names SQS's code and the object, at once: waiting would not help."""
    wrong = environment(aws, live + "-gone.fifo")
    with lambda_runtime.running(archive, lambda_zip.HANDLER, wrong, tmp_path) as function:
        answer = function.invoke({"Records": [record("in/a")]})
    assert answer.error == "QueueError"
    assert "s3://b/in/a was not sent" in answer.payload["errorMessage"]
    assert "NonExistentQueue" in answer.payload["errorMessage"]


def test_missing_settings_are_an_error_of_their_own(archive: Path, tmp_path: Path) -> None:
    """A function without environment says which variable is missing."""
    with lambda_runtime.running(archive, lambda_zip.HANDLER, {}, tmp_path) as function:
        answer = function.invoke({"Records": [record("in/a")]})
    assert answer.error == "ConfigError"
    assert "QUEUE_URL" in answer.payload["errorMessage"]


def test_the_failure_queue_is_emptied(aws: Aws, live: str, archive: Path, tmp_path: Path) -> None:
    """A schedule's call queues what Lambda's failure records hold, buries what nobody understands, deletes both."""
    failures = aws.sqs.create_queue(QueueName=f"failures-{next(aws.numbers)}")["QueueUrl"]
    dead = aws.queue()
    payloads: list[object] = [{"Records": [record("in/a")]}, {"x": 1}]
    bodies = [json.dumps({"version": "1.0", "requestPayload": each}) for each in payloads]
    for body in bodies:
        aws.sqs.send_message(QueueUrl=failures, MessageBody=body)
    both = environment(aws, live, S3NSYNC_FAILURE_QUEUE_URL=failures, S3NSYNC_DEAD_QUEUE_URL=dead)
    with lambda_runtime.running(archive, lambda_zip.HANDLER, both, tmp_path) as function:
        answer = function.invoke({"source": "aws.events", "detail-type": "Scheduled Event"})
        again = function.invoke({"s3nsync": "drain-failures"})
    assert (answer.error, answer.payload["queued"], answer.payload["buried"]) == (None, 1, 1)
    assert (again.error, again.payload["queued"], again.payload["buried"]) == (None, 0, 0)
    assert len(receive(aws, live)) == 1
    [(body, _, _)] = receive(aws, dead)
    burial = events.decode_burial(body)
    assert burial is not None
    assert burial.body == bodies[1]
    assert burial.attempts == 1
    assert burial.last_attempt_s >= burial.first_attempt_s > 1_500_000_000
