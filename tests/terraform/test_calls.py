"""calls.json is what our programs use today."""

from __future__ import annotations

import pytest

from s3nsync.errors import ConfigError
from s3nsync.local.dev import ACCOUNT_ID
from terraform import calls
from terraform.calls import Call, Exchange


@pytest.mark.slow
def test_the_recorded_permissions_are_those_that_are_used_now() -> None:
    """A call that is new, or that nobody makes any more, is seen: `python -m terraform.calls` records it."""
    try:
        found = calls.record()
    except ConfigError:
        pytest.skip("ministack is not installed: `make test` sets it up")
    assert found == calls.kept()


def exchange(service: str, target: str = "/", *, method: str = "GET", operation: str = "", body: str = "") -> Exchange:
    """Give a request of the worker."""
    return Exchange(signed_by="run", service=service, method=method, target=target, operation=operation, body=body)


SEND = '{"QueueUrl": "http://localhost/1/s3nsync-live.fifo"}'


@pytest.mark.parametrize(
    ("request_", "needed"),
    [
        (
            exchange("sqs", method="POST", operation="AmazonSQS.SendMessageBatch", body=SEND),
            ("sqs:SendMessage", "live"),
        ),
        (exchange("sqs", method="POST", operation="AmazonSQS.SendMessage", body=SEND), ("sqs:SendMessage", "live")),
        (exchange("s3", "/media/a/b?x-id=GetObject"), ("s3:GetObject", "object")),
        (exchange("s3", "/media/a/b", method="HEAD"), ("s3:GetObject", "object")),
        (exchange("s3", "/media?list-type=2&max-keys=1"), ("s3:ListBucket", "bucket")),
        (exchange("s3", "/media?notification"), ("s3:GetBucketNotification", "bucket")),
        (exchange("sts", method="POST", body="Action=GetCallerIdentity"), None),
    ],
)
def test_a_request_tells_its_permission(request_: Exchange, needed: tuple[str, str] | None) -> None:
    """As the service authorization reference has it."""
    assert calls.needed_by(request_) == needed


@pytest.mark.parametrize(
    "request_",
    [
        exchange("s3", "/media/a", method="DELETE"),
        exchange("s3", "/media/a?versionId=1"),
        exchange("s3", "/media?policy"),
        exchange("dynamodb", method="POST"),
        exchange("sts", method="POST", body="Action=AssumeRole"),
    ],
)
def test_a_request_of_an_unknown_kind_is_an_error(request_: Exchange) -> None:
    """Nothing that our programs send goes unjudged."""
    with pytest.raises(ValueError, match="what does this call"):
        calls.permissions([request_])


def test_only_our_programs_count() -> None:
    """The stage's own requests are nobody's role; the function is known by the key that ministack gives it."""
    sent = exchange("sqs", method="POST", operation="AmazonSQS.SendMessage", body=SEND)
    assert calls.permissions([{**sent, "signed_by": "demo"}]) == set()
    assert calls.permissions([{**sent, "signed_by": ACCOUNT_ID}]) == {
        Call("intake", "function", "sqs:SendMessage", "live")
    }
