"""A fast SQS on loopback: the executable model of a FIFO queue (`sim.sqs`) behind SQS's JSON protocol.

It is for tests that need FIFO rules to be right, and for load that an emulator of all AWS cannot bear. A long poll
wakes at once when a message comes to light. It checks no signatures, keeps nothing on disk, and knows FIFO queues
alone. The clock is handed in, so that a test can let five minutes or twelve hours pass; `wake` tells it that time has
jumped.

    python tests/sqs_stub.py [--port N] [--queue NAME[:DELAY_S]]...

prints one line of JSON, {"url": ..., "queues": {name: url}}, and serves until SIGTERM or SIGINT. Queues can also be
made by CreateQueue. Errors are worded as SQS words them.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self, cast
from urllib.parse import urlsplit

from sim.sqs import FifoQueue, Message

ARN = "arn:aws:sqs:us-east-1:000000000000:"
MAX_BODY_BYTES = 1 << 20
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TARGET = re.compile(rb"\r\nx-amz-target: *AmazonSQS\.(\w+)", re.IGNORECASE)
_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ID = re.compile(r"[!-~]{1,128}")

Payload = Mapping[str, Any]
Result = dict[str, Any]


class RefusedError(Exception):
    """A call, or an entry of a batch, that SQS refuses with this code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(eq=False)
class Served:
    """A queue, what it was made with, and who waits for it."""

    model: FifoQueue
    attributes: dict[str, str]
    waiting: dict[Poll, None] = field(default_factory=dict)
    timer: asyncio.TimerHandle | None = None

    @property
    def lease_s(self) -> int:
        """Give the queue's own visibility time-out."""
        return int(self.attributes.get("VisibilityTimeout", "30"))


@dataclass(eq=False)
class Poll:
    """A receive that waits, until `ends_s` by the loop's clock."""

    payload: Payload
    ends_s: float
    connection: _Connection


class SqsStub:
    """The server; use it with `async with`. `now_s` is Unix time."""

    def __init__(self, now_s: Callable[[], float] = time.time) -> None:
        self._now_s = now_s
        self._queues: dict[str, Served] = {}
        self._server: asyncio.Server | None = None
        self._open: set[_Connection] = set()
        self.url = ""

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; port 0 picks a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self, self._open), "127.0.0.1", port, backlog=1024)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Close every connection."""
        assert self._server is not None
        self._server.close()
        for connection in list(self._open):
            connection.abort()
        for queue in self._queues.values():
            _cancel(queue)
        await self._server.wait_closed()

    async def __aenter__(self) -> Self:
        """Start on a free port."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    def queue(self, name: str) -> FifoQueue:
        """Give the model behind a queue."""
        return self._queues[name].model

    def waiting(self, name: str) -> int:
        """Count the receives that wait at a queue, but for those whose client has gone."""
        return sum(not each.connection.is_gone for each in self._queues[name].waiting)

    def create(self, name: str, attributes: Mapping[str, str]) -> str:
        """Make a FIFO queue and give its URL; the attributes are those of CreateQueue."""
        if not name.endswith(".fifo") or attributes.get("FifoQueue") != "true":
            raise RefusedError("InvalidParameterValue", "this stand-in knows FIFO queues alone")
        policy = json.loads(attributes.get("RedrivePolicy", "{}"))
        dead = self._queues.get(policy.get("deadLetterTargetArn", "").rpartition(":")[2])
        self._queues[name] = Served(
            FifoQueue(
                name,
                delay_s=float(attributes.get("DelaySeconds", "0")),
                max_receives=int(policy["maxReceiveCount"]) if policy else None,
                dead=dead.model if dead else None,
                dedup_by_group=attributes.get("DeduplicationScope") == "messageGroup",
            ),
            dict(attributes),
        )
        return f"{self.url}/000000000000/{name}"

    def wake(self) -> None:
        """Look again on behalf of everybody who waits: the clock has jumped, or a model was changed from outside."""
        for queue in self._queues.values():
            self._serve_waiting(queue)

    # --- calls -------------------------------------------------------------------------------------------------

    def call(self, action: str, payload: Payload, connection: _Connection) -> None:
        """Answer a call, now or, for a long poll, later; raises RefusedError."""
        if action == "CreateQueue":
            connection.answer({"QueueUrl": self.create(payload["QueueName"], payload.get("Attributes", {}))})
            return
        if action == "StartMessageMoveTask":
            connection.answer(self._move(payload))
            return
        if action not in _ACTIONS and action != "ReceiveMessage":
            raise RefusedError("InvalidAction", f"this stand-in has no {action}")
        queue = self._at(str(payload.get("QueueUrl", "")))
        if action == "ReceiveMessage":
            self._receive(queue, payload, connection)
            return
        connection.answer(_ACTIONS[action](queue, payload, self._now_s()))
        if queue.waiting:
            self._serve_waiting(queue)

    def _at(self, url: str) -> Served:
        queue = self._queues.get(urlsplit(url).path.rpartition("/")[2])
        if queue is None:
            raise RefusedError("QueueDoesNotExist", "The specified queue does not exist.")
        return queue

    def _move(self, payload: Payload) -> Result:
        """Redrive a dead-letter queue, at once: to the destination given, or to the queue that names it as its own."""
        source = self._at(payload["SourceArn"].replace(":", "/"))
        to = payload.get("DestinationArn")
        found = (
            [self._at(to.replace(":", "/"))]
            if to
            else [each for each in self._queues.values() if each.model.dead is source.model]
        )
        if not found:
            raise RefusedError("InvalidParameterValue", "The queue is the dead-letter queue of none.")
        moved = source.model.redrive(found[0].model, self._now_s())
        self._serve_waiting(found[0])
        return {"TaskHandle": f"moved {moved}"}

    def _receive(self, queue: Served, payload: Payload, connection: _Connection) -> None:
        if not 1 <= payload.get("MaxNumberOfMessages", 1) <= 10:
            raise RefusedError("InvalidParameterValue", "MaxNumberOfMessages must be between 1 and 10.")
        found = self._take(queue, payload)
        wait_s = payload.get("WaitTimeSeconds", int(queue.attributes.get("ReceiveMessageWaitTimeSeconds", "0")))
        if found or not wait_s:
            connection.answer({"Messages": found} if found else {})
            return
        queue.waiting[Poll(payload, asyncio.get_running_loop().time() + wait_s, connection)] = None
        self._set_timer(queue)

    def _take(self, queue: Served, payload: Payload) -> list[Result]:
        taken = queue.model.receive(
            payload.get("MaxNumberOfMessages", 1),
            payload.get("VisibilityTimeout", queue.lease_s),
            self._now_s(),
            payload.get("ReceiveRequestAttemptId", ""),
        )
        return [_spelled(each) for each in taken]

    def _serve_waiting(self, queue: Served) -> None:
        now_s = asyncio.get_running_loop().time()
        for poll in list(queue.waiting):
            if poll.connection.is_gone:
                del queue.waiting[poll]
            elif (found := self._take(queue, poll.payload)) or poll.ends_s <= now_s:
                del queue.waiting[poll]
                poll.connection.answer({"Messages": found} if found else {})
        self._set_timer(queue)

    def _set_timer(self, queue: Served) -> None:
        """Look again when the next message comes to light, or the next poll ends."""
        _cancel(queue)
        if queue.waiting:
            loop = asyncio.get_running_loop()
            now_s = self._now_s()
            shown_s = queue.model.next_shown_s(now_s)
            at_s = min(poll.ends_s for poll in queue.waiting)
            if shown_s is not None:
                at_s = min(at_s, loop.time() + shown_s - now_s)
            queue.timer = loop.call_at(at_s + 0.001, self._serve_waiting, queue)


def _cancel(queue: Served) -> None:
    if queue.timer is not None:
        queue.timer.cancel()
        queue.timer = None


# --- what each action does -------------------------------------------------------------------------------------


def _send(queue: Served, entry: Payload, now_s: float) -> Result:
    body, group, dedup = entry["MessageBody"], entry.get("MessageGroupId", ""), entry.get("MessageDeduplicationId", "")
    if not _ID.fullmatch(group) or not _ID.fullmatch(dedup):
        raise RefusedError("InvalidParameterValue", "Ids are 1 to 128 letters, digits, punctuation marks.")
    if "DelaySeconds" in entry:
        raise RefusedError("InvalidParameterValue", "The request includes a parameter that is not valid: DelaySeconds")
    if _NO_XML.search(body):
        raise RefusedError("InvalidMessageContents", "The message contains characters outside the allowed set.")
    if len(body) > MAX_BODY_BYTES:
        raise RefusedError("InvalidParameterValue", f"Message must be shorter than {MAX_BODY_BYTES} bytes.")
    before = queue.model.original(group, dedup, now_s)
    message = None if before is not None else queue.model.send(body, group, dedup, now_s)
    return {
        "MessageId": before if message is None else message.message_id,
        "MD5OfMessageBody": _md5(body),
        "SequenceNumber": "0" if message is None else f"{message.number:020}",
    }


def _delete(queue: Served, entry: Payload, now_s: float) -> Result:
    if queue.model.delete(entry["ReceiptHandle"], now_s) is None:
        raise _stale(entry["ReceiptHandle"])
    return {}


def _change_visibility(queue: Served, entry: Payload, now_s: float) -> Result:
    receipt, for_s = entry["ReceiptHandle"], entry["VisibilityTimeout"]
    if queue.model.change_visibility(receipt, for_s, now_s):
        return {}
    if not queue.model.holds(receipt, now_s):
        raise _stale(receipt)
    reason = "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]"
    raise RefusedError(
        "InvalidParameterValue", f"Value {for_s} for parameter VisibilityTimeout is invalid. Reason: {reason}"
    )


def _stale(receipt: str) -> RefusedError:
    """Word a refusal as AWS does (quoted in aws/aws-sdk-js#1279 and localstack/localstack#3956)."""
    return RefusedError(
        "InvalidParameterValue",
        f"Value {receipt} for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
    )


def _attributes(queue: Served, _payload: Payload, now_s: float) -> Result:
    out, delayed = queue.model.out(now_s), queue.model.delayed(now_s)
    counts = {
        "ApproximateNumberOfMessages": str(len(queue.model.messages) - out - delayed),
        "ApproximateNumberOfMessagesNotVisible": str(out),
        "ApproximateNumberOfMessagesDelayed": str(delayed),
        "QueueArn": ARN + queue.model.name,
    }
    return {"Attributes": {**queue.attributes, **counts}}


def _purge(queue: Served, _payload: Payload, _now_s: float) -> Result:
    queue.model.purge()
    return {}


Act = Callable[[Served, Payload, float], Result]


def _batch(act: Act) -> Act:
    """Make a batch action of one that takes a single entry: 200 always, each entry done or failed by itself."""

    def act_on_each(queue: Served, payload: Payload, now_s: float) -> Result:
        entries = payload.get("Entries", [])
        if not entries:
            raise RefusedError("EmptyBatchRequest", "There should be at least one entry in the request.")
        if len(entries) > 10:
            raise RefusedError("TooManyEntriesInBatchRequest", "A maximum of 10 messages are allowed.")
        if len({entry["Id"] for entry in entries}) < len(entries):
            raise RefusedError("BatchEntryIdsNotDistinct", "Two entries have the same id.")
        done: list[Result] = []
        failed: list[Result] = []
        for entry in entries:
            try:
                done.append({"Id": entry["Id"], **act(queue, entry, now_s)})
            except RefusedError as error:
                failed.append({"Id": entry["Id"], "Code": error.code, "Message": str(error), "SenderFault": True})
        return {"Successful": done, "Failed": failed}

    return act_on_each


_ACTIONS: dict[str, Act] = {
    "SendMessage": _send,
    "SendMessageBatch": _batch(_send),
    "DeleteMessage": _delete,
    "DeleteMessageBatch": _batch(_delete),
    "ChangeMessageVisibility": _change_visibility,
    "ChangeMessageVisibilityBatch": _batch(_change_visibility),
    "GetQueueAttributes": _attributes,
    "PurgeQueue": _purge,
}


def _spelled(message: Message) -> Result:
    return {
        "MessageId": message.message_id,
        "ReceiptHandle": message.receipt,
        "MD5OfBody": _md5(message.body),
        "Body": message.body,
        "Attributes": {
            "MessageGroupId": message.group,
            "MessageDeduplicationId": message.dedup,
            "ApproximateReceiveCount": str(message.receives),
            "SentTimestamp": str(int(message.sent_at_s * 1000)),
            "ApproximateFirstReceiveTimestamp": str(int(message.first_received_at_s * 1000)),
        },
    }


def _md5(body: str) -> str:
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()


# --- HTTP ------------------------------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """One connection: requests one after the other, each with a Content-Length, as SDKs send them."""

    def __init__(self, stub: SqsStub, opened: set[_Connection]) -> None:
        self._stub = stub
        self._opened = opened
        self._pending = bytearray()
        self._busy = False
        self._transport: asyncio.Transport | None = None

    @property
    def is_gone(self) -> bool:
        """Say whether the client has closed."""
        return self._transport is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's own are no subclass
        self._opened.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's
        self._transport = None
        self._opened.discard(self)

    def data_received(self, data: bytes) -> None:
        self._pending += data
        self._next()

    def abort(self) -> None:
        """Close without a word."""
        if self._transport is not None:
            self._transport.abort()

    def answer(self, document: Result, status: bytes = b"200 OK") -> None:
        """Send an answer, and go on to the next request."""
        body = json.dumps(document).encode()
        if self._transport is not None:
            self._transport.write(
                b"HTTP/1.1 %b\r\nContent-Type: application/x-amz-json-1.0\r\nContent-Length: %d\r\n\r\n%b"
                % (status, len(body), body)
            )
        self._busy = False
        if self._pending:
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        end = self._pending.find(b"\r\n\r\n")
        if self._busy or end < 0:
            return
        head = bytes(self._pending[: end + 2])
        length = _LENGTH.search(head)
        target = _TARGET.search(head)
        if length is None or target is None:
            self.abort()
            return
        over = end + 4 + int(length[1])
        if len(self._pending) < over:
            return
        body = bytes(self._pending[end + 4 : over])
        del self._pending[:over]
        self._busy = True
        try:
            self._stub.call(target[1].decode(), json.loads(body), self)
        except RefusedError as error:
            self.answer({"__type": f"com.amazonaws.sqs#{error.code}", "message": str(error)}, b"400 Bad Request")


# --- the program -----------------------------------------------------------------------------------------------


async def serve(port: int, queues: Mapping[str, str]) -> None:
    """Serve queues, named with their delays in seconds, until a signal comes."""
    over = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, over.set)
    stub = SqsStub()
    await stub.start(port)
    made = {
        name: stub.create(f"{name}.fifo", {"FifoQueue": "true", "DelaySeconds": delay or "0"})
        for name, delay in queues.items()
    }
    print(json.dumps({"url": stub.url, "queues": made}), flush=True)  # noqa: T201 - that is the interface
    await over.wait()
    await stub.stop()


def main() -> None:
    """Read the command line and serve; on uvloop where it is installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--queue", action="append", default=[], metavar="NAME[:DELAY_S]")
    given = parser.parse_args()
    queues = {name: delay for name, _, delay in (each.partition(":") for each in given.queue)}
    try:
        import uvloop  # noqa: PLC0415 - optional
    except ImportError:
        asyncio.run(serve(given.port, queues))
    else:
        uvloop.run(serve(given.port, queues))


if __name__ == "__main__":
    main()
