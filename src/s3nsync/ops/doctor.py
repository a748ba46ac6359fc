"""`s3nsync doctor`: look at everything that replication depends on, and say what to mend.

Facts are gathered by thin calls; each judgement on them is a pure function that gives Findings. Nothing is changed but
one probe object on each NetStorage target, which is written, looked at and removed again. A check that cannot be made
(a permission that only the doctor lacks) is a warning, never a failure: the worker may well be fine.

Settings without queues are those of somebody who has not yet set anything up: then a bucket should notify nobody.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Literal

import boto3
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from s3nsync.app import App, assemble, resolve
from s3nsync.direct import idle_queues
from s3nsync.engine.parties import Source
from s3nsync.errors import S3nsyncError, SourceForbidden
from s3nsync.figures import counted
from s3nsync.mapping import target_directory
from s3nsync.model import Gone, ObjectRef, QueueName, Report, Route
from s3nsync.netstorage import NetStorage
from s3nsync.netstorage.wire import Entry
from s3nsync.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import NotificationConfigurationResponseTypeDef
    from mypy_boto3_sqs import SQSClient

Level = Literal["ok", "warning", "failed"]

EVENTS_NEEDED = ("s3:ObjectCreated:", "s3:ObjectRemoved:", "s3:LifecycleExpiration:")
"""Without the last, objects that a lifecycle rule deletes stay on NetStorage for ever."""

MAX_SKEW_S = 30.0
"""NetStorage refuses signatures that are a minute off; half of that leaves room for a slow request."""

DEAD_RETENTION_S = 14 * 86_400
"""The longest that SQS keeps a message, and what dead letters deserve."""

REDRIVE_AT_LEAST = 20
"""Receives are also raised by waiting and draining, so a small limit would bury healthy messages without a reason."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `hint` says what to do unless all is well."""

    level: Level
    what: str
    hint: str = ""


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Give the findings one after the other, the cheap and basic ones first."""
    for finding in await _asked(lambda: asyncio.to_thread(_identity, settings), "AWS credentials", needed=True):
        yield finding
    try:
        whole = await resolve(settings)
    except S3nsyncError as error:
        yield Finding("failed", error.message, error.hint)
        return
    yield Finding("ok", f"accounts: {', '.join(sorted(whole.accounts))} (host, user and key are there)")
    parts = assemble(whole, report=_nobody_listens, in_memory=idle_queues(whole) if whole.queues is None else None)
    try:
        app = await parts.__aenter__()
    except S3nsyncError as error:
        yield Finding("failed", error.message, error.hint)
        return
    async with AsyncExitStack() as stack:
        stack.push_async_exit(parts)
        for bucket in sorted({route.bucket for route in whole.routes}):
            async for finding in _bucket(app, whole, bucket):
                yield finding
        async for finding in _queues(whole):
            yield finding
        for route in whole.routes:
            yield await _netstorage(app.targets[route.account], route)


def _nobody_listens(_report: Report) -> None:
    """Take reports that never come: the doctor moves no message."""


async def _asked(
    ask: Callable[[], Awaitable[Sequence[Finding]]], what: str, *, needed: bool = False
) -> Sequence[Finding]:
    """Give what a question brings; a refused one is a finding of its own."""
    try:
        return await ask()
    except (BotoCoreError, ClientError) as error:
        level: Level = "failed" if needed else "warning"
        return [Finding(level, f"{what}: {error}", _hint_for(error, needed=needed))]


def _hint_for(error: BotoCoreError | ClientError, *, needed: bool) -> str:
    """Say what to do about a question that AWS did not answer."""
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code", "")
        if "NonExistent" in code or "NotFound" in code or code.startswith("NoSuch"):
            return "check its name or URL, its region and its account; has it been made?"
        if code in {"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"}:
            return "allow it to this role" if needed else "allow it to this role if you want it checked"
        return "check the AWS credentials"
    if isinstance(error, NoCredentialsError):
        return "give AWS credentials: the task role, AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    return "check the region, the endpoint and the network path to it"


# --- AWS -------------------------------------------------------------------------------------------------------


def _identity(settings: Settings) -> Sequence[Finding]:
    client = boto3.client("sts", region_name=settings.region, endpoint_url=settings.aws.endpoint_url)
    answer = client.get_caller_identity()
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date", "")
    return [
        Finding("ok", f"AWS credentials: {answer['Arn']}, account {answer['Account']}"),
        *judge_clock(date, time.time(), "AWS"),
    ]


def judge_clock(date: str, now_s: float, whose: str) -> Iterator[Finding]:
    """Judge our clock by the Date header of an answer that came just now."""
    try:
        skew_s = parsedate_to_datetime(date).timestamp() - now_s
    except ValueError:
        return
    if abs(skew_s) > MAX_SKEW_S:
        yield Finding("warning", f"clock: {abs(skew_s):.0f} s off {whose}'s", "set this machine's clock by NTP")
    else:
        yield Finding("ok", f"clock: within {MAX_SKEW_S:.0f} s of {whose}'s")


async def _bucket(app: App, settings: Settings, bucket: str) -> AsyncIterator[Finding]:
    try:
        region = await app.s3.probe(bucket)
    except S3nsyncError as error:
        yield Finding("failed", f"bucket {bucket}: {error.message}", error.hint)
        return
    if region == settings.region:
        yield Finding("ok", f"bucket {bucket}: is in {region} and may be listed")
    else:
        what = f"bucket {bucket}: is in {region} and may be listed, but the configured region is {settings.region}"
        yield Finding("warning", what, f"it is read in {region}; AWS charges for what crosses regions: run there")
    for route in settings.routes:
        if route.bucket == bucket:
            yield await readable(app.s3, route)
    for finding in await wiring(settings, bucket):
        yield finding


async def readable(source: Source, route: Route) -> Finding:
    """Ask for an object that is not there, where the route's objects are: whoever may read is told that it is gone.

    Only for a bucket that may be listed: else S3 says "forbidden" of what is gone.
    """
    where = f"s3://{route.bucket}/{route.prefix}*"
    try:
        found = await source.open(ObjectRef(route.bucket, f"{route.prefix}.s3nsync-doctor-{secrets.token_hex(8)}"))
    except SourceForbidden as error:
        hint = "grant s3:GetObject on these objects, and see that the bucket's policy does not deny it"
        return Finding("failed", f"{where}: may not be read: {error.message}", hint)
    except S3nsyncError as error:
        return Finding("failed", f"{where}: {error.message}", error.hint)
    if not isinstance(found, Gone):
        await found.aclose()
    return Finding("ok", f"{where}: may be read")


async def wiring(settings: Settings, bucket: str) -> Sequence[Finding]:
    """Look where the bucket's events go: to our function or EventBridge or, before there are queues, to nobody."""

    def ask() -> Sequence[Finding]:
        client = boto3.client("s3", region_name=settings.region, endpoint_url=settings.aws.s3)
        found = client.get_bucket_notification_configuration(Bucket=bucket)
        judge = judge_vacancy if settings.queues is None else judge_wiring
        return list(judge(bucket, found, settings.metrics.service))

    return await _asked(lambda: asyncio.to_thread(ask), f"bucket {bucket}: notifications")


def judge_vacancy(bucket: str, found: NotificationConfigurationResponseTypeDef, deployment: str) -> Iterator[Finding]:
    """Judge a bucket's notification configuration before anything is set up: Terraform takes it over if it is empty.

    What already goes to the function of `deployment` (the Terraform module's `name`) is in nobody's way.
    """
    functions = found.get("LambdaFunctionConfigurations", [])
    ours = [each["LambdaFunctionArn"] for each in functions if _is_intake(each["LambdaFunctionArn"], deployment)]
    for arn in dict.fromkeys(ours):
        what = f"bucket {bucket}: notifies {arn} already, which is the function of this deployment"
        yield Finding("ok", what)
    others = [arn for arn in _listeners(found) if arn not in ours]
    if others:
        hint = (
            "terraform apply refuses to replace that: add the module's function where those settings are kept, or turn"
            ' EventBridge on there and set event_path = "eventbridge"; manage_bucket_notification = false in both cases'
        )
        yield Finding("warning", f"bucket {bucket}: notifies {', '.join(others)} already", hint)
    if found.get("EventBridgeConfiguration") is not None:
        hint = 'set event_path = "eventbridge" and manage_bucket_notification = false, else terraform apply refuses'
        yield Finding("warning", f"bucket {bucket}: tells EventBridge already", hint)
    elif not (ours or others):
        yield Finding("ok", f"bucket {bucket}: notifies nobody yet")


def judge_wiring(bucket: str, found: NotificationConfigurationResponseTypeDef, deployment: str) -> Iterator[Finding]:
    """Judge a bucket's notification configuration: the events that we need must reach our function or EventBridge.

    Ours is named after the `deployment`, as Terraform names it. Where none is, it may have been made by hand: all are
    judged together, and named.
    """
    functions = found.get("LambdaFunctionConfigurations", [])
    ours = [each for each in functions if _is_intake(each["LambdaFunctionArn"], deployment)]
    taken = ours or functions
    arns = list(dict.fromkeys(each["LambdaFunctionArn"] for each in taken))
    if not ours and found.get("EventBridgeConfiguration") is not None:
        taken, arns = [], []
        yield Finding("ok", f"bucket {bucket}: its events go to EventBridge")
    elif not taken:
        hint = "apply the Terraform module, or add the notification by hand (README)"
        yield Finding("failed", f"bucket {bucket}: its events go to no function", hint)
    else:
        yield from _judge_events(bucket, {event for each in taken for event in each["Events"]}, ", ".join(arns))
        if not ours:
            hint = f"is that the intake function? Terraform's would be {deployment}-intake (see metrics.service)"
            yield Finding("warning", f"bucket {bucket}: its events reach {', '.join(arns)}", hint)
    others = [arn for arn in _listeners(found) if arn not in arns]
    if others:
        yield Finding("ok", f"bucket {bucket}: other notifications, to {', '.join(others)}, are left alone")


def _judge_events(bucket: str, sent: Collection[str], whom: str) -> Iterator[Finding]:
    """Judge the kinds of event that are sent to `whom`."""
    for prefix in EVENTS_NEEDED:
        if f"{prefix}*" not in sent:
            some = any(event.startswith(prefix) for event in sent)
            level: Level = "warning" if some else "failed"
            what = "some of" if some else "no"
            yield Finding(level, f"bucket {bucket}: {what} {prefix}* events reach {whom}", f"add {prefix}*")
    if all(f"{prefix}*" in sent for prefix in EVENTS_NEEDED):
        yield Finding("ok", f"bucket {bucket}: creations, deletions and expirations reach {whom}")
    if not {"s3:ObjectRestore:Completed", "s3:ObjectRestore:*"} & set(sent):
        hint = "add s3:ObjectRestore:Completed, else archived objects stay away after they are restored"
        yield Finding("warning", f"bucket {bucket}: restored objects are not told of", hint)


def _is_intake(arn: str, deployment: str) -> bool:
    """Tell whether a function is named as the Terraform module names its own; a version or an alias may follow."""
    return arn.split(":")[6:7] == [f"{deployment}-intake"]


def _listeners(found: NotificationConfigurationResponseTypeDef) -> list[str]:
    """Give the ARN of everything that a bucket notifies."""
    arns = [each["LambdaFunctionArn"] for each in found.get("LambdaFunctionConfigurations", [])]
    arns += [each["QueueArn"] for each in found.get("QueueConfigurations", [])]
    arns += [each["TopicArn"] for each in found.get("TopicConfigurations", [])]
    return list(dict.fromkeys(arns))


# --- queues ----------------------------------------------------------------------------------------------------


async def _queues(settings: Settings) -> AsyncIterator[Finding]:
    if settings.queues is None:
        yield Finding(
            "warning", "queues: skipped, none is configured yet", "set them once they are made, and look again"
        )
        return
    client = boto3.client("sqs", region_name=settings.region, endpoint_url=settings.aws.sqs)
    urls: dict[QueueName, str | None] = {
        "live": settings.queues.live,
        "bulk": settings.queues.bulk,
        "check": settings.queues.check,
        "dead": settings.queues.dead,
    }
    for name, url in urls.items():
        if url is None:
            hint = "set queues.bulk before you use sync, verify --repair or failed retry"
            yield Finding("warning", f"{name} queue: none is configured", hint)
            continue
        for finding in await _asked(_reading(client, name, url, settings), f"{name} queue", needed=True):
            yield finding


def _reading(
    client: SQSClient, name: QueueName, url: str, settings: Settings
) -> Callable[[], Awaitable[Sequence[Finding]]]:
    def read() -> Sequence[Finding]:
        attributes = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        told = {str(key): value for key, value in attributes.items()}
        worker, dead = settings.worker, settings.queues.dead if settings.queues else ""
        return list(judge_queue(name, told, grace_s=worker.grace_s, lease_s=worker.lease_s, dead=dead))

    return lambda: asyncio.to_thread(read)


def judge_queue(
    name: QueueName, attributes: Mapping[str, str], *, grace_s: int, lease_s: int, dead: str
) -> Iterator[Finding]:
    """Judge one queue by its attributes: what the protocol needs is failed, what costs speed or days a warning.

    `dead` is the dead queue's URL.
    """
    findings = [*_judge_fifo(name, attributes), *_judge_delay(name, attributes, grace_s)]
    if name == "dead":
        findings += [*_judge_dead(attributes), *_judge_letters(attributes)]
    else:
        findings += [*_judge_redrive(name, attributes, dead), *_judge_visibility(name, attributes, lease_s)]
    waiting = attributes.get("ApproximateNumberOfMessages", "?")
    yield from findings or [Finding("ok", f"{name} queue: set up as it must be; messages waiting: {waiting}")]


def _judge_fifo(name: str, attributes: Mapping[str, str]) -> Iterator[Finding]:
    if attributes.get("FifoQueue") != "true":
        yield Finding("failed", f"{name} queue: is no FIFO queue", "make it anew as FIFO; a standard queue loses order")
    scope = attributes.get("DeduplicationScope")
    limit = attributes.get("FifoThroughputLimit")
    if name != "dead" and (scope != "messageGroup" or limit != "perMessageGroupId"):
        hint = "set DeduplicationScope messageGroup and FifoThroughputLimit perMessageGroupId"
        yield Finding("warning", f"{name} queue: not in high-throughput mode (300 calls a second at most)", hint)


def _judge_delay(name: str, attributes: Mapping[str, str], grace_s: int) -> Iterator[Finding]:
    delay_s = int(attributes.get("DelaySeconds", "0"))
    if name == "check" and delay_s < grace_s:
        hint = f"set its DelaySeconds to {grace_s}: an earlier look may miss a write that lands late"
        what = f"check queue: shows its messages after {delay_s} s, and the grace is {grace_s} s"
        yield Finding("failed", what, hint)
    if name in {"live", "bulk"} and delay_s:
        yield Finding("warning", f"{name} queue: holds each message back for {delay_s} s", "set its DelaySeconds to 0")


def _judge_visibility(name: str, attributes: Mapping[str, str], lease_s: int) -> Iterator[Finding]:
    visible_s = int(attributes.get("VisibilityTimeout", "30"))  # SQS's default
    if visible_s != lease_s:
        what = f"{name} queue: its visibility time-out is {visible_s} s, and worker.lease_s is {lease_s} s"
        hint = "make them equal: workers ask for their own lease, but whoever else reads the queue gets the other"
        yield Finding("warning", what, hint)


def _judge_dead(attributes: Mapping[str, str]) -> Iterator[Finding]:
    retention_s = int(attributes.get("MessageRetentionPeriod", "0"))
    if retention_s < DEAD_RETENTION_S:
        hint = "set its MessageRetentionPeriod to 1209600"
        yield Finding("warning", f"dead queue: forgets its entries after {retention_s // 86_400} days", hint)


def _judge_letters(attributes: Mapping[str, str]) -> Iterator[Finding]:
    count = int(attributes.get("ApproximateNumberOfMessages", "0"))
    if count:
        what = f"dead queue: holds {counted(count, 'message')} on changes that were not replicated"
        yield Finding("warning", what, "`s3nsync failed list` says which, why, and what to do")


def _judge_redrive(name: str, attributes: Mapping[str, str], dead: str) -> Iterator[Finding]:
    policy = attributes.get("RedrivePolicy")
    if policy is None:
        hint = "redrive it to the dead queue after 300 receives"
        yield Finding("warning", f"{name} queue: a message that kills workers would go round for ever", hint)
        return
    told = json.loads(policy)
    arn = str(told.get("deadLetterTargetArn", ""))
    if arn.rpartition(":")[2] != dead.rpartition("/")[2]:
        what = f"{name} queue: a message that kills workers goes to {arn or 'no queue'}, which nobody reads"
        yield Finding("warning", what, f"redrive it to the dead queue, {dead}: `s3nsync failed` reads that one only")
    receives = int(told.get("maxReceiveCount", 0))
    if receives < REDRIVE_AT_LEAST:
        hint = "set maxReceiveCount to 300: waiting and draining count as receives too"
        yield Finding("warning", f"{name} queue: buries after {receives} receives, without a reason", hint)


# --- NetStorage ------------------------------------------------------------------------------------------------


async def _netstorage(target: NetStorage, route: Route) -> Finding:
    """Write, look at and remove one small object where the route's objects go."""
    where = target_directory(route).rstrip("/")
    path = f"{where}/.s3nsync-doctor-{secrets.token_hex(8)}"
    body = f"a probe of s3nsync doctor, {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}; may be removed\n".encode()
    try:
        seen = await _probed(target, path, body)
    except S3nsyncError as error:
        return Finding("failed", f"NetStorage {where}: {error.message}", error.hint)
    if abs(target.clock_offset_s) > MAX_SKEW_S:
        what = f"NetStorage {where}: may be written, but this clock is {abs(target.clock_offset_s):.0f} s off"
        return Finding("warning", what, "set this machine's clock by NTP")
    if seen is None:
        what = f"NetStorage {where}: a probe was written and removed, and a look in between did not see it"
        return Finding("warning", what, "a replica was behind; nothing to do unless it lasts")
    return Finding("ok", f"NetStorage {where}: a probe was written, seen and removed")


async def _probed(target: NetStorage, path: str, body: bytes) -> Entry | None:
    """Write, look, remove: also where the look fails, and where nobody knows whether the write came to pass."""
    try:
        await target.upload(path, body)
    except S3nsyncError as error:
        if error.ambiguous:
            with suppress(S3nsyncError):
                await target.delete(path)
        raise
    try:
        return await target.stat(path)
    finally:
        await target.delete(path)
