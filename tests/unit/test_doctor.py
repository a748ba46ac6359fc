"""The doctor's judgements: facts in, findings out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import TYPE_CHECKING, cast

import pytest
from botocore.exceptions import BotoCoreError, ClientError, EndpointConnectionError, NoCredentialsError

from fakes import NOW_S, FakeSource
from s3nsync.errors import S3nsyncError, SourceForbidden, SourceUnavailable
from s3nsync.model import Route
from s3nsync.ops.doctor import (
    EVENTS_NEEDED,
    Finding,
    _hint_for,
    judge_clock,
    judge_queue,
    judge_vacancy,
    judge_wiring,
    readable,
)

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import NotificationConfigurationResponseTypeDef


def _redrive(arn: str, receives: int) -> str:
    return json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": receives})


DEAD = "https://sqs.eu-central-1.amazonaws.com/123456789012/s3nsync-dead.fifo"
DEAD_ARN = "arn:aws:sqs:eu-central-1:123456789012:s3nsync-dead.fifo"
GOOD = {
    "FifoQueue": "true",
    "DeduplicationScope": "messageGroup",
    "FifoThroughputLimit": "perMessageGroupId",
    "DelaySeconds": "0",
    "VisibilityTimeout": "300",
    "MessageRetentionPeriod": "1209600",
    "RedrivePolicy": _redrive(DEAD_ARN, 100),
}
RESTORED = "s3:ObjectRestore:Completed"
INTAKE = "arn:aws:lambda:eu-central-1:123456789012:function:s3nsync-intake"
THEIRS = "arn:aws:lambda:eu-central-1:123456789012:function:thumbnails"
TOPIC = "arn:aws:sns:eu-central-1:123456789012:uploads"
FUNCTION = {"LambdaFunctionArn": INTAKE, "Events": [*(f"{prefix}*" for prefix in EVENTS_NEEDED), RESTORED]}


def _levels(findings: list[Finding]) -> list[str]:
    assert all(each.hint or each.level == "ok" for each in findings), "each trouble says what to do"
    return [each.level for each in findings]


@pytest.mark.parametrize(("off_s", "level"), [(0, "ok"), (29, "ok"), (31, "warning"), (-300, "warning")])
def test_a_clock_half_a_minute_off_is_a_warning(off_s: float, level: str) -> None:
    """Either way: signatures are refused on both sides."""
    date = format_datetime(datetime.fromtimestamp(NOW_S + off_s, UTC), usegmt=True)
    assert _levels(list(judge_clock(date, NOW_S, "AWS"))) == [level]
    assert list(judge_clock("", NOW_S, "AWS")) == []


def test_a_queue_as_the_readme_makes_it_is_fine() -> None:
    """All four of them."""
    for name in ("live", "bulk", "dead"):
        assert _levels(list(judge_queue(name, GOOD, grace_s=180, lease_s=300, dead=DEAD))) == ["ok"]
    assert _levels(
        list(judge_queue("check", {**GOOD, "DelaySeconds": "180"}, grace_s=180, lease_s=300, dead=DEAD))
    ) == ["ok"]


@pytest.mark.parametrize(
    ("name", "spoilt", "level", "says"),
    [
        ("live", {"FifoQueue": "false"}, "failed", "no FIFO"),
        ("live", {"DeduplicationScope": "queue"}, "warning", "high-throughput"),
        ("bulk", {"FifoThroughputLimit": "perQueue"}, "warning", "high-throughput"),
        ("live", {"DelaySeconds": "5"}, "warning", "5 s"),
        ("live", {"VisibilityTimeout": "30"}, "warning", "30 s, and worker.lease_s is 300 s"),
        ("check", {"DelaySeconds": "179"}, "failed", "179 s"),
        ("dead", {"MessageRetentionPeriod": "345600"}, "warning", "4 days"),
        ("live", {"RedrivePolicy": _redrive(DEAD_ARN, 3)}, "warning", "3 receives"),
        ("bulk", {"RedrivePolicy": _redrive(f"{DEAD_ARN}-of-old", 300)}, "warning", "of-old, which nobody reads"),
    ],
)
def test_what_is_wrong_with_a_queue_is_named(name: str, spoilt: dict[str, str], level: str, says: str) -> None:
    """What breaks the protocol is failed, what costs speed or days is a warning."""
    good = {**GOOD, "DelaySeconds": "180"} if name == "check" else GOOD
    (finding,) = judge_queue(name, {**good, **spoilt}, grace_s=180, lease_s=300, dead=DEAD)  # type: ignore[arg-type]
    assert finding.level == level
    assert says in finding.what
    assert finding.hint


@pytest.mark.parametrize(("count", "says"), [("1", "1 message "), ("1200", "1,200 messages ")])
def test_letters_in_the_dead_queue_are_a_warning_with_their_number(count: str, says: str) -> None:
    """Each is a change that was not replicated; `failed list` is named. In other queues messages are work."""
    told = {**GOOD, "ApproximateNumberOfMessages": count}
    (finding,) = judge_queue("dead", told, grace_s=180, lease_s=300, dead=DEAD)
    assert finding.level == "warning"
    assert says in finding.what
    assert "s3nsync failed list" in finding.hint
    assert _levels(list(judge_queue("live", told, grace_s=180, lease_s=300, dead=DEAD))) == ["ok"]


def test_a_queue_without_redrive_is_a_warning() -> None:
    """A message that kills workers would go round for ever."""
    bare = {name: value for name, value in GOOD.items() if name != "RedrivePolicy"}
    assert _levels(list(judge_queue("live", bare, grace_s=180, lease_s=300, dead=DEAD))) == ["warning"]


def _wiring(found: Mapping[str, object]) -> list[Finding]:
    return list(judge_wiring("media", cast("NotificationConfigurationResponseTypeDef", found), "s3nsync"))


def _judged(found: Mapping[str, object]) -> list[str]:
    return _levels(_wiring(found))


def _vacancy(found: Mapping[str, object]) -> list[Finding]:
    return list(judge_vacancy("media", cast("NotificationConfigurationResponseTypeDef", found), "s3nsync"))


def test_wiring_needs_all_three_kinds_of_event() -> None:
    """Objects deleted by a lifecycle rule would stay for ever without LifecycleExpiration."""
    assert _judged({"LambdaFunctionConfigurations": [FUNCTION]}) == ["ok"]
    for prefix in EVENTS_NEEDED:
        events = [event for event in FUNCTION["Events"] if not event.startswith(prefix)]
        assert _judged({"LambdaFunctionConfigurations": [{**FUNCTION, "Events": events}]}) == ["failed"]
        some = [*events, f"{prefix}Delete"]
        assert _judged({"LambdaFunctionConfigurations": [{**FUNCTION, "Events": some}]}) == ["warning"]


def test_restored_objects_should_be_told_of() -> None:
    """An archived object is set aside, and only its own later event brings it."""
    events = [event for event in FUNCTION["Events"] if event != RESTORED]
    assert _judged({"LambdaFunctionConfigurations": [{**FUNCTION, "Events": events}]}) == ["ok", "warning"]


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ClientError({"Error": {"Code": "AWS.SimpleQueueService.NonExistentQueue"}}, "x"), "name or URL"),
        (ClientError({"Error": {"Code": "AccessDenied"}}, "x"), "allow it"),
        (ClientError({"Error": {"Code": "InvalidClientTokenId"}}, "x"), "credentials"),
        (EndpointConnectionError(endpoint_url="http://127.0.0.1:1"), "endpoint"),
        (NoCredentialsError(), "AWS_PROFILE"),
    ],
)
def test_what_aws_refuses_has_advice_of_its_own(error: ClientError | BotoCoreError, says: str) -> None:
    """Credentials are blamed only where they are to blame."""
    assert says in _hint_for(error, needed=True)


def test_a_bucket_that_tells_nobody_has_failed_and_eventbridge_is_fine() -> None:
    """Other people's notifications are no concern, but none at all is."""
    topic = {"TopicConfigurations": [{"TopicArn": TOPIC}]}
    assert _judged({}) == ["failed"]
    assert _judged(topic) == ["failed", "ok"]
    assert _judged({"EventBridgeConfiguration": {}}) == ["ok"]
    assert _judged({"LambdaFunctionConfigurations": [FUNCTION], **topic}) == ["ok", "ok"]


def test_somebody_elses_function_is_not_taken_for_ours() -> None:
    """It is named and asked about; beside ours its events do not count; with EventBridge on it is left alone."""
    theirs = {**FUNCTION, "LambdaFunctionArn": THEIRS}
    reached, asked = _wiring({"LambdaFunctionConfigurations": [theirs]})
    assert reached.level == "ok"
    assert asked.level == "warning"
    assert all(THEIRS in each.what for each in (reached, asked))
    poor = {"LambdaFunctionArn": f"{INTAKE}:live", "Events": ["s3:ObjectCreated:*", RESTORED]}
    *missing, left = _wiring({"LambdaFunctionConfigurations": [poor, theirs]})
    assert _levels(missing) == ["failed", "failed"]
    assert left.level == "ok"
    assert THEIRS in left.what
    assert _judged({"LambdaFunctionConfigurations": [theirs], "EventBridgeConfiguration": {}}) == ["ok", "ok"]


def test_before_apply_a_bucket_should_notify_nobody() -> None:
    """Whoever it notifies is named, with what to do; this deployment's own function is in nobody's way."""
    theirs = {"LambdaFunctionArn": THEIRS, "Events": ["s3:ObjectCreated:*"]}
    queue = {"QueueConfigurations": [{"QueueArn": "arn:aws:sqs:eu-central-1:123456789012:jobs"}]}
    assert _levels(_vacancy({})) == ["ok"]
    assert _levels(_vacancy({"LambdaFunctionConfigurations": [FUNCTION, FUNCTION]})) == ["ok"]
    for found in ({"LambdaFunctionConfigurations": [theirs]}, queue, {"TopicConfigurations": [{"TopicArn": TOPIC}]}):
        (finding,) = _vacancy(found)
        assert finding.level == "warning"
        assert "arn:aws:" in finding.what
        assert "manage_bucket_notification = false" in finding.hint
    (finding,) = _vacancy({"EventBridgeConfiguration": {}})
    assert finding.level == "warning"
    assert 'event_path = "eventbridge"' in finding.hint
    both = {"LambdaFunctionConfigurations": [FUNCTION, theirs], **queue}
    ours, others = _vacancy(both)
    assert (ours.level, others.level) == ("ok", "warning")
    assert INTAKE in ours.what
    assert INTAKE not in others.what


@pytest.mark.parametrize(
    ("error", "level", "says"),
    [
        (None, "ok", "s3://media/site/*: may be read"),
        (SourceForbidden("S3 said AccessDenied"), "failed", "may not be read: S3 said AccessDenied"),
        (SourceUnavailable("S3 said SlowDown"), "failed", "s3://media/site/*: S3 said SlowDown"),
    ],
)
async def test_where_objects_may_not_be_read_the_doctor_says_so(
    error: S3nsyncError | None, level: str, says: str
) -> None:
    """A role that may list but not read would fail at every object; "gone" shows that both are allowed."""
    finding = await readable(FakeSource(script=[error]), Route(bucket="media", cpcode="1", prefix="site/"))
    assert _levels([finding]) == [level]
    assert says in finding.what
    assert ("s3:GetObject" in finding.hint) == isinstance(error, SourceForbidden)
