"""The whole way in: a bucket's notification starts the real archive, and its messages stand in the FIFO queue."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

import aws_emulator
from s3nsync import events, lambda_zip, mapping
from s3nsync.model import Change, ObjectRef, Route

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_sqs.type_defs import MessageTypeDef

    from aws_emulator import Aws

pytestmark = pytest.mark.slow  # processes start and queues are waited for

ARRIVE_S = 120.0


@pytest.fixture(scope="module")
def session() -> boto3.Session:
    """Give the SDK with the emulator's first keys."""
    keys = aws_emulator.ROOT
    return boto3.Session(keys.access_key, keys.secret_key, region_name=aws_emulator.REGION)


@pytest.fixture(scope="module")
def functions(aws: Aws, session: boto3.Session) -> LambdaClient:
    """Give the SDK's client for Lambda."""
    return session.client("lambda", endpoint_url=aws.url)


@pytest.fixture(scope="module")
def role(aws: Aws, session: boto3.Session) -> str:
    """Make the function's role and give its ARN."""
    iam = session.client("iam", endpoint_url=aws.url)
    trust = {"Effect": "Allow", "Principal": {"Service": "lambda.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    made = iam.create_role(RoleName=f"intake-{next(aws.numbers)}", AssumeRolePolicyDocument=document)
    allowed = {"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    iam.put_role_policy(RoleName=made["Role"]["RoleName"], PolicyName="queues", PolicyDocument=policy)
    return str(made["Role"]["Arn"])


class Scene:
    """A versioned bucket, its queues and the function between them."""

    def __init__(self, aws: Aws, functions: LambdaClient, role: str, archive: bytes) -> None:
        """Set all up, as the infrastructure would."""
        self.aws = aws
        self.bucket = aws.bucket(versioned=True)
        self.live, self.dead = aws.queue(), aws.queue()
        self.failures = aws.sqs.create_queue(QueueName=f"failures-{next(aws.numbers)}")["QueueUrl"]
        self.name = f"intake-{next(aws.numbers)}"
        made = functions.create_function(
            FunctionName=self.name,
            Runtime="python3.13",
            Role=role,
            Handler=lambda_zip.HANDLER,
            Code={"ZipFile": archive},
            Timeout=120,
            Environment={"Variables": self._environment()},
        )
        functions.put_function_event_invoke_config(
            FunctionName=self.name,
            MaximumRetryAttempts=0,
            DestinationConfig={"OnFailure": {"Destination": self.arn(self.failures)}},
        )
        aws.s3.put_bucket_notification_configuration(
            Bucket=self.bucket,
            NotificationConfiguration={
                "LambdaFunctionConfigurations": [
                    {
                        "LambdaFunctionArn": made["FunctionArn"],
                        "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
                    }
                ]
            },
        )

    def _environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": self.aws.keys.access_key,
            "AWS_SECRET_ACCESS_KEY": self.aws.keys.secret_key,
            "AWS_ENDPOINT_URL": self.aws.url,
            "QUEUE_URL": self.live,
            "S3NSYNC_ROUTES": mapping.routes_to_json([Route(self.bucket, "1", exclude=("*.tmp",))]),
            "S3NSYNC_FAILURE_QUEUE_URL": self.failures,
            "S3NSYNC_DEAD_QUEUE_URL": self.dead,
        }

    def arn(self, url: str) -> str:
        """Ask for a queue's ARN."""
        return self.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]

    def arrivals(self, url: str, wanted: int) -> Iterator[MessageTypeDef]:
        """Take messages until as many are there as wanted, and see that no more come."""
        deadline_s = time.monotonic() + ARRIVE_S
        while time.monotonic() < deadline_s:
            answer = self.aws.sqs.receive_message(
                QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1, MessageSystemAttributeNames=["All"]
            )
            messages = answer.get("Messages", [])
            yield from messages
            for each in messages:
                self.aws.sqs.delete_message(QueueUrl=url, ReceiptHandle=each["ReceiptHandle"])
            wanted -= len(messages)
            if wanted <= 0 and not messages:
                return
        pytest.fail(f"{wanted} messages did not arrive")


@pytest.fixture
def scene(aws: Aws, functions: LambdaClient, role: str, tmp_path: Path) -> Scene:
    """Set the scene with the archive as it is built."""
    return Scene(aws, functions, role, lambda_zip.build(tmp_path / "lambda.zip").path.read_bytes())


def one_change(message: MessageTypeDef) -> Change:
    """Read the one Change of a message and see that the message stands under its ids."""
    [change] = events.decode(message["Body"]).changes
    assert message["Attributes"]["MessageGroupId"] == events.group_id(change.ref)
    assert message["Attributes"]["MessageDeduplicationId"] == events.dedup_id(change)
    return change


def test_every_change_of_a_bucket_stands_in_the_queue(scene: Scene) -> None:
    """Put, overwrite and delete of plain and of wild keys arrive once each under the ids of key and event."""
    keys = ["plain.txt", "a b/c+d%2Be.txt", "Ü/☃ ?&=#.bin"]
    for key in keys:
        scene.aws.s3.put_object(Bucket=scene.bucket, Key=key, Body=b"one")
        scene.aws.s3.put_object(Bucket=scene.bucket, Key=key, Body=b"two!")
        scene.aws.s3.delete_object(Bucket=scene.bucket, Key=key)
    scene.aws.s3.put_object(Bucket=scene.bucket, Key="left-out.tmp", Body=b"")
    changes = list(map(one_change, scene.arrivals(scene.live, 9)))
    for key in keys:
        own = sorted((each for each in changes if each.ref.key == key), key=lambda each: each.sequencer or "")
        assert [(each.ref.bucket, each.kind, each.dialect, each.size) for each in own[:2]] == [
            (scene.bucket, "put", "s3", 3),
            (scene.bucket, "put", "s3", 4),
        ]
        assert (own[2].kind, own[2].event_name) == ("delete", "ObjectRemoved:DeleteMarkerCreated")
        assert len({each.version_id for each in own}) == len(own) == 3
    assert len(changes) == 9


def test_an_event_that_fails_for_good_comes_back_through_the_failure_queue(
    scene: Scene, functions: LambdaClient
) -> None:
    """Lambda's own failure record is what the drain expects: the good part is queued, the bad part buried."""
    good = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventName": "ObjectCreated:Put",
        "s3": {"bucket": {"name": scene.bucket}, "object": {"key": "a", "sequencer": "0A"}},
    }
    event = {"Records": [good, {"eventVersion": "9"}]}
    functions.invoke(FunctionName=scene.name, InvocationType="Event", Payload=json.dumps(event))
    [first] = scene.arrivals(scene.live, 1)
    assert one_change(first).ref == ObjectRef(scene.bucket, "a")
    _await_visible(scene, scene.failures)
    answer = functions.invoke(FunctionName=scene.name, Payload=json.dumps({"s3nsync": "drain-failures"}))
    told = json.loads(answer["Payload"].read())
    assert (told["task"], told["queued"], told["buried"], told["failed"]) == ("drain", 1, 1, 0)
    [buried] = scene.arrivals(scene.dead, 1)
    burial = events.decode_burial(buried["Body"])
    assert burial is not None
    assert "record 2" in burial.reason
    assert json.loads(burial.body)["requestPayload"] == event
    assert list(scene.arrivals(scene.live, 0)) == []  # the good record's second sending was recognised


def _await_visible(scene: Scene, url: str) -> None:
    deadline_s = time.monotonic() + ARRIVE_S
    while time.monotonic() < deadline_s:
        count = scene.aws.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
        if count["Attributes"]["ApproximateNumberOfMessages"] != "0":
            return
        time.sleep(0.1)
    pytest.fail("Lambda did not hand its failure over")
