"""An SQS FIFO queue over its JSON protocol, on the product's own HTTP client.

The SDK costs some 240 us of CPU a message, more than the whole copy of a small object. Settling is coalesced: acks
that come within a few milliseconds share one DeleteMessageBatch (ten at most), as do retries, and each caller gets its
own entry's verdict. A batch answer of 200 may hold failures, so an entry counts as done only where SQS lists it as
done.

A refused receipt means that the lease is lost; that is an answer (False), not an error. Everything sent here may be
sent twice without harm (deduplication ids and receive-attempt ids are chosen once per call), so lost answers and
faults on SQS's side are tried again here, a few times; then QueueError goes up.

Do not cancel `receive` if that can be avoided: what SQS has handed out to a cancelled call stays hidden until its
lease ends, and blocks its keys so long. To drain, stop calling it and let the last call come back.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

from s3nsync.aws import CredentialSource
from s3nsync.errors import QueueError, QueueMissing, SourceCredentials, TransportError
from s3nsync.events import (
    Burial,
    burial_dedup_id,
    burial_group_id,
    dedup_id,
    encode,
    encode_burial,
    group_id,
    is_distinct,
)
from s3nsync.http import Answer, Header, Http, Origin
from s3nsync.model import Change, Delivery, QueueName
from s3nsync.pacing import Backoff
from s3nsync.queues import Depth
from s3nsync.sigv4 import Credentials, Signer

BATCH_ENTRIES = 10
"""SQS's limit for every batch action, and for one receive."""

LONG_POLL_S = 20
"""SQS's limit for WaitTimeSeconds."""

MAX_VISIBILITY_S = 12 * 3600
"""SQS's limit for a lease, from the receive on."""

COALESCE_S = 0.005
"""How long an entry waits for company: little beside a network round trip, enough to fill batches under load."""

CALL_STALL_S = 10.0
"""A call that moves no byte for this long is broken off: other leases wait behind it. Long polls say their own time."""

TRIES = 4
"""Of each call, and of each entry of a batch."""

ANSWER_LIMIT_BYTES = 16 * 1024 * 1024
"""Ten messages of at most 1 MiB together, every character escaped."""

_ATTRIBUTES = ("MessageGroupId", "ApproximateReceiveCount", "SentTimestamp", "ApproximateFirstReceiveTimestamp")
_DEPTH = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed")

# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html and each action's own list
_MISSING = frozenset(
    {
        "QueueDoesNotExist",
        "NonExistentQueue",
        "QueueDeletedRecently",
        "AccessDenied",
        "AccessDeniedException",
        "InvalidAddress",
        "InvalidSecurity",
        "KmsAccessDenied",
        "KmsDisabled",
        "KmsNotFound",
        "KmsInvalidState",
    }
)
_UNKNOWN_CALLER = frozenset(
    {
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "UnrecognizedClientException",
        "MissingAuthenticationToken",
        "SignatureDoesNotMatch",
        "InvalidSignatureException",
    }
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException"})
_THROTTLED = frozenset({"ThrottlingException", "Throttling", "RequestThrottled", "OverLimit", "KmsThrottled"})
_LEASE_LOST = frozenset({"ReceiptHandleIsInvalid", "MessageNotInflight"})

Entry = Mapping[str, str | int]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Failure:
    """What SQS said of a call, or of one entry of a batch, that it did not do."""

    code: str
    message: str
    transient: bool
    hint: str | None = None
    retry_after_s: float | None = None

    @property
    def lease_lost(self) -> bool:
        """Say whether the receipt no longer stands for a lease of ours, or the lease may last no longer."""
        about_the_receipt = self.code == "InvalidParameterValue" and re.search(
            r"ReceiptHandle is invalid|expired|beyond the limit", self.message, re.IGNORECASE
        )
        return self.code in _LEASE_LOST or bool(about_the_receipt)


class SqsQueue:
    """One SQS FIFO queue, and the dead-letter queue beside it."""

    def __init__(
        self,
        name: QueueName,
        url: str,
        http: Http,
        credentials: CredentialSource,
        *,
        region: str,
        lease_s: float,
        dead_url: str | None = None,
        endpoint: str | None = None,
        now_s: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        token: Callable[[], str] = lambda: uuid4().hex,
        backoff: Backoff = Backoff(),  # noqa: B008  (a frozen value)
    ) -> None:
        """Use the queue at `url`; its region is read from the URL where AWS wrote it, else it is `region`.

        `endpoint` is the URL to connect to instead of the queue URL's host (emulators). `lease_s` is how long a
        message received stays ours without `extend`; `token` gives a text never given before.
        """
        self.name: QueueName = name
        self._url = url
        self._http = http
        self._credentials = credentials
        self._origin, self._region = locate(url, region, endpoint)
        self._lease_s = lease_s
        self._dead_url = dead_url
        self._now_s = now_s
        self._sleep = sleep
        self._token = token
        self._backoff = backoff
        self._signer: Signer | None = None
        self._acks = _Coalescer(lambda entries: self._batch("DeleteMessageBatch", entries))
        self._retries = _Coalescer(lambda entries: self._batch("ChangeMessageVisibilityBatch", entries))

    def __repr__(self) -> str:
        """Show which queue this is and what is under way."""
        return f"SqsQueue({self.name}, {self._url}, {self._acks.pending + self._retries.pending} settling)"

    async def receive(self, max_n: int, wait_s: float) -> list[Delivery]:
        """Take at most `max_n` (1 to 10) messages, waiting at most `wait_s` (20 at most) for the first one.

        A lost answer is asked for again under the same attempt id, for which SQS gives the same messages again.
        """
        wait_s = min(LONG_POLL_S, math.floor(wait_s))
        answer = await self._call(
            "ReceiveMessage",
            {
                "QueueUrl": self._url,
                "MaxNumberOfMessages": max_n,
                "WaitTimeSeconds": wait_s,
                "VisibilityTimeout": math.ceil(self._lease_s),
                "AttributeNames": _ATTRIBUTES,
                "ReceiveRequestAttemptId": self._token(),
            },
            progress_s=wait_s + 10.0,
        )
        return [_delivery(self.name, message) for message in answer.get("Messages", ())]

    async def ack(self, delivery: Delivery) -> bool:
        """Remove the message for good; False if the lease was lost."""
        return _verdict("ack", await self._acks.add({"ReceiptHandle": delivery.receipt}))

    async def retry(self, delivery: Delivery, after_s: float) -> bool:
        """Give the message back, to be seen again after `after_s` seconds; False if the lease was lost."""
        return _verdict("give back", await self._retries.add(_visibility(delivery, after_s)))

    async def extend(self, deliveries: Sequence[Delivery], for_s: float) -> list[Delivery]:
        """Let the leases run for `for_s` seconds from now; the deliveries whose lease was lost come back.

        It is not coalesced with anything: a cancelled extension must not go out later, behind a `retry`. A refusal in
        words that nobody knows counts as a lost lease: an error would keep the others from being extended, for ever.
        """
        refused: list[Delivery] = []
        for batch in _tens(deliveries):
            failures = await self._batch("ChangeMessageVisibilityBatch", [_visibility(one, for_s) for one in batch])
            refused += [one for one, failure in zip(batch, failures, strict=True) if not _is_extended(failure)]
        return refused

    async def bury(self, delivery: Delivery, burial: Burial) -> bool:
        """Put `burial` on the dead-letter queue, then remove the message; False if the lease was lost."""
        if self._dead_url is None:
            raise QueueMissing(f"{self._url} has no dead-letter queue to bury in", hint="set DEAD_QUEUE_URL")
        await self._call(
            "SendMessage",
            {
                "QueueUrl": self._dead_url,
                "MessageBody": encode_burial(burial),
                "MessageGroupId": burial_group_id(burial),
                "MessageDeduplicationId": burial_dedup_id(burial),
            },
        )
        return await self.ack(delivery)

    async def send(self, changes: Sequence[Change], *, fresh: bool = False) -> None:
        """Append the changes in batches of ten; QueueError if any could not be, which may leave others sent.

        With `fresh`, and for a Change that nothing tells from an earlier one, the deduplication id gets a random part.
        """
        entries = [self._message(change, fresh=fresh) for change in changes]
        for batch in _tens(entries):
            for failure in await self._batch("SendMessageBatch", batch):
                if failure is not None:
                    raise QueueError(f"SQS did not take a message: {failure.code}: {failure.message}")

    async def depth(self) -> Depth:
        """Count the messages."""
        answer = await self._call("GetQueueAttributes", {"QueueUrl": self._url, "AttributeNames": _DEPTH})
        counts = answer.get("Attributes", {})
        return Depth(*(int(counts.get(name, 0)) for name in _DEPTH))

    async def probe(self) -> None:
        """Check that the queue exists and may be looked at; raises QueueMissing."""
        await self._call("GetQueueAttributes", {"QueueUrl": self._url, "AttributeNames": ["QueueArn"]})

    async def aclose(self) -> None:
        """Send what waits for company, and see everything under way to its end."""
        await asyncio.gather(self._acks.aclose(), self._retries.aclose())

    def _message(self, change: Change, *, fresh: bool) -> Entry:
        unique = self._token() if fresh or not is_distinct(change) else ""
        return {
            "MessageBody": encode(change),
            "MessageGroupId": group_id(change.ref),
            "MessageDeduplicationId": dedup_id(change, fresh=unique),
        }

    async def _batch(self, action: str, entries: Sequence[Entry]) -> list[Failure | None]:
        """Run a batch action on the queue; entry by entry None or why not, faults of SQS's side tried again."""
        verdicts: dict[int, Failure | None] = {}
        left = dict(enumerate(entries))
        for failures in range(1, TRIES + 1):
            numbered = [{"Id": str(n), **entry} for n, entry in left.items()]
            answer = await self._call(action, {"QueueUrl": self._url, "Entries": numbered})
            verdicts |= _verdicts(left, answer)
            left = {n: entry for n, entry in left.items() if (found := verdicts[n]) is not None and found.transient}
            if not left:
                break
            if failures < TRIES:
                await self._sleep(self._backoff.delay_s(failures))
        return [verdicts[n] for n in range(len(entries))]

    async def _call(
        self, action: str, payload: Mapping[str, object], *, progress_s: float = CALL_STALL_S
    ) -> Mapping[str, Any]:
        """Call SQS, again where that may help; QueueMissing or QueueError when it does not."""
        body = json.dumps(payload).encode()
        failures = 0
        while True:
            found = await self._attempt(action, body, progress_s)
            if not isinstance(found, Failure):
                return found
            failures += 1
            if failures == TRIES or not found.transient:
                raise _error_of(found, action, self._url)
            await self._sleep(self._backoff.delay_s(failures, found.retry_after_s))

    async def _attempt(self, action: str, body: bytes, progress_s: float) -> Mapping[str, Any] | Failure:
        """Call once, or twice if SQS calls our token expired and there is a new one."""
        try:
            credentials = await self._credentials.get()
            found = await self._exchange(action, body, credentials, progress_s)
            if isinstance(found, Failure) and found.code in _EXPIRED:
                renewed = await self._credentials.renew(credentials)
                if renewed != credentials:
                    found = await self._exchange(action, body, renewed, progress_s)
        except (TransportError, SourceCredentials) as error:
            transient = error.transient or isinstance(error, SourceCredentials)  # the next lookup may find some
            return Failure(type(error).__name__, error.message, transient=transient, hint=error.hint)
        return found

    async def _exchange(
        self, action: str, body: bytes, credentials: Credentials, progress_s: float
    ) -> Mapping[str, Any] | Failure:
        signer = self._signer_for(credentials)
        payload_sha256 = hashlib.sha256(body).hexdigest()
        given = (("Content-Type", "application/x-amz-json-1.0"), ("X-Amz-Target", f"AmazonSQS.{action}"))

        def headers() -> list[Header]:
            return signer.sign(
                "POST",
                "/",
                self._origin.authority,
                headers=given,
                payload_sha256=payload_sha256,
                now_s=self._now_s(),
            )

        answer = await self._http.send(self._origin, "POST", "/", headers=headers, body=body, progress_s=progress_s)
        async with answer:
            return _read(answer, await answer.read(ANSWER_LIMIT_BYTES))

    def _signer_for(self, credentials: Credentials) -> Signer:
        if self._signer is None or self._signer.credentials != credentials:
            self._signer = Signer(credentials, region=self._region, service="sqs")
        return self._signer


class _Coalescer:
    """Gathers entries for one batch action; the first waits COALESCE_S at most, the tenth sends them all at once.

    An entry whose caller is cancelled goes out nevertheless: it was asked for, and the others wait for no one.
    """

    def __init__(self, send: Callable[[Sequence[Entry]], Awaitable[list[Failure | None]]]) -> None:
        self._send = send
        self._waiting: list[tuple[Entry, asyncio.Future[Failure | None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()
        self.pending = 0

    def add(self, entry: Entry) -> asyncio.Future[Failure | None]:
        """Give what will be the entry's own verdict, or what the whole batch raised."""
        loop = asyncio.get_running_loop()
        verdict: asyncio.Future[Failure | None] = loop.create_future()
        self._waiting.append((entry, verdict))
        self.pending += 1
        if len(self._waiting) == BATCH_ENTRIES:
            self._flush()
        elif self._timer is None:
            self._timer = loop.call_later(COALESCE_S, self._flush)
        return verdict

    async def aclose(self) -> None:
        """Send what waits, and see what is under way to its end."""
        self._flush()
        while self._running:
            await asyncio.wait(self._running)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        batch, self._waiting = self._waiting, []
        if batch:
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _run(self, batch: list[tuple[Entry, asyncio.Future[Failure | None]]]) -> None:
        try:
            verdicts: Sequence[Failure | Exception | None] = await self._send([entry for entry, _ in batch])
        except Exception as error:  # noqa: BLE001  (it is the waiting callers' error, whatever it is)
            verdicts = [error] * len(batch)
        finally:
            self.pending -= len(batch)
        for (_, waiting), verdict in zip(batch, verdicts, strict=True):
            if waiting.done():
                continue  # its caller was cancelled
            if isinstance(verdict, Exception):
                waiting.set_exception(verdict)
            else:
                waiting.set_result(verdict)


# --- where, and what an answer means ---------------------------------------------------------------------------


def locate(url: str, region: str, endpoint: str | None) -> tuple[Origin, str]:
    """Say which origin serves the queue at `url`, and for which region to sign.

    Reads AWS's own host names (also of VPC endpoints, and the old `REGION.queue.amazonaws.com`, which has moved);
    for any other host the region is `region`.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    old = re.fullmatch(r"(?:([a-z0-9-]+)\.)?queue\.amazonaws\.com", host)
    if old is not None:
        region = old[1] or "us-east-1"
        return Origin.parse(endpoint or f"https://sqs.{region}.amazonaws.com"), region
    own = re.search(r"(?:^|\.)sqs(?:-fips)?\.([a-z0-9-]+)\.(?:vpce\.)?amazonaws\.com(?:\.cn)?$", host)
    return Origin.parse(endpoint or f"{parts.scheme}://{parts.netloc}"), own[1] if own is not None else region


def _read(answer: Answer, text: bytes) -> Mapping[str, Any] | Failure:
    try:
        document = json.loads(text or b"{}")
    except ValueError:
        document = None
    if not isinstance(document, dict):
        return Failure("", f"an answer of {answer.status} that is not SQS's", transient=True)
    if answer.status == 200:
        return document
    code = _code(str(document.get("__type", "")))
    message = str(document.get("message") or document.get("Message") or "")
    wish = answer.headers.get("retry-after", "")
    return Failure(
        code or str(answer.status),
        message,
        transient=answer.status >= 500 or answer.status == 429 or code in _THROTTLED,
        retry_after_s=float(wish) if wish.isdecimal() else None,
    )


def _code(text: str) -> str:
    """Reduce `com.amazonaws.sqs#QueueDoesNotExist` and `AWS.SimpleQueueService.NonExistentQueue` to the last word."""
    return text.rpartition("#")[2].rpartition(".")[2]


def _verdicts(left: Iterable[int], answer: Mapping[str, Any]) -> dict[int, Failure | None]:
    """Read a batch answer; an entry that SQS does not list as done is not done."""
    done = {str(entry["Id"]) for entry in answer.get("Successful", ())}
    failed = {str(entry["Id"]): entry for entry in answer.get("Failed", ())}
    return {n: None if str(n) in done else _entry_failure(failed.get(str(n))) for n in left}


def _entry_failure(entry: Mapping[str, Any] | None) -> Failure:
    if entry is None:
        return Failure("", "SQS said nothing of this entry", transient=True)
    code = _code(str(entry.get("Code", "")))
    return Failure(
        code, str(entry.get("Message", "")), transient=not entry.get("SenderFault", False) or code in _THROTTLED
    )


def _verdict(verb: str, failure: Failure | None) -> bool:
    """Say whether a message was settled; QueueError when SQS neither did it nor called the lease lost."""
    if failure is None:
        return True
    if failure.lease_lost:
        return False
    raise QueueError(f"SQS did not {verb} a message: {failure.code}: {failure.message}")


def _is_extended(failure: Failure | None) -> bool:
    """Say whether a lease was extended; QueueError where trying again may help."""
    return _verdict("extend", failure) if failure is None or failure.transient else False


def _error_of(failure: Failure, action: str, url: str) -> QueueError:
    said = f"SQS {action} on {url} failed: {failure.code}: {failure.message}"
    if re.search(r"signature expired|not yet current", failure.message, re.IGNORECASE):
        return QueueError(said, hint="the clock of this machine is off: set it by NTP")
    if failure.code in _UNKNOWN_CALLER | _EXPIRED:
        return QueueMissing(said, hint="check the task role or the AWS credentials in the environment")
    if failure.code in _MISSING or failure.code == "TlsRefused":
        return QueueMissing(said, hint=failure.hint)
    return QueueError(said, hint=failure.hint, retry_after_s=failure.retry_after_s)


# --- messages --------------------------------------------------------------------------------------------------


def _delivery(queue: QueueName, message: Mapping[str, Any]) -> Delivery:
    attributes = message.get("Attributes", {})
    return Delivery(
        queue=queue,
        message_id=message["MessageId"],
        receipt=message["ReceiptHandle"],
        body=message["Body"],
        group=attributes.get("MessageGroupId", ""),
        attempt=int(attributes.get("ApproximateReceiveCount", 1)),
        sent_at_s=int(attributes.get("SentTimestamp", 0)) / 1000,
        first_received_at_s=int(attributes.get("ApproximateFirstReceiveTimestamp", 0)) / 1000,
    )


def _visibility(delivery: Delivery, for_s: float) -> Entry:
    return {
        "ReceiptHandle": delivery.receipt,
        "VisibilityTimeout": min(MAX_VISIBILITY_S, max(0, math.ceil(for_s))),
    }


def _tens(items: Sequence[T]) -> Iterable[Sequence[T]]:
    return (items[start : start + BATCH_ENTRIES] for start in range(0, len(items), BATCH_ENTRIES))
