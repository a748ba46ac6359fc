"""The SQS adapter: against a local AWS that checks signatures, and scripted answers where it has none to give."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

import pytest
from botocore.exceptions import ClientError

from aws_emulator import REGION, Aws
from hostile import Peer, hostile
from s3nsync.errors import QueueError, QueueMissing, SourceCredentials
from s3nsync.events import Burial, decode, decode_burial, group_id
from s3nsync.http import Http, Origin
from s3nsync.model import Change, Delivery, ObjectRef
from s3nsync.pacing import Backoff
from s3nsync.queues import Depth, Queue
from s3nsync.queues.sqs import COALESCE_S, TRIES, SqsQueue, locate
from s3nsync.sigv4 import Credentials

KEYS = Credentials("AKIDEXAMPLE", "secret-of-tests", "token-of-tests")
URL = "https://sqs.us-east-1.amazonaws.com/123456789012/live.fifo"


@dataclass
class FixedKeys:
    """A source of credentials that gives `keys`, and after a refusal `fresh`."""

    keys: Credentials
    fresh: Credentials | None = None

    async def get(self) -> Credentials:
        """Give the keys."""
        return self.keys

    async def renew(self, refused: Credentials) -> Credentials:  # noqa: ARG002 - the protocol's
        """Give the fresh keys from now on, if there are any."""
        self.keys = self.fresh or self.keys
        return self.keys


class NoKeys(FixedKeys):
    """A source that finds nothing."""

    async def get(self) -> Credentials:
        """Fail as a metadata service does that is away."""
        raise SourceCredentials("no AWS credentials were found")


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    """Give a client whose connections must all be at rest in the end."""
    async with Http() as client:
        yield client
        assert re.search(r"[1-9]\d* busy", repr(client)) is None


@pytest.fixture
async def make(aws: Aws, http: Http) -> AsyncIterator[Callable[..., SqsQueue]]:
    """Open queues at the local AWS; all must have settled everything in the end."""
    opened: list[SqsQueue] = []

    def build(url: str, *, lease_s: float = 30, dead_url: str | None = None, keys: Credentials = aws.keys) -> SqsQueue:
        queue = SqsQueue(
            "live",
            url,
            http,
            FixedKeys(keys),
            region=REGION,
            lease_s=lease_s,
            dead_url=dead_url,
            endpoint=aws.url,
        )
        opened.append(queue)
        return queue

    yield build
    for queue in opened:
        await queue.aclose()
        assert "0 settling" in repr(queue)


def change(key: str, sequencer: str = "01") -> Change:
    """Make a live change of `key`."""
    return Change(ObjectRef("bucket", key), "put", "s3", "ObjectCreated:Put", sequencer=sequencer)


def keys_of(deliveries: Sequence[Delivery]) -> list[str]:
    """Decode what was received, down to the keys."""
    return [one.ref.key for delivery in deliveries for one in decode(delivery.body).changes]


def burial_of(delivery: Delivery, reason: str = "no") -> Burial:
    """Word a burial."""
    return Burial(ObjectRef("bucket", "k"), reason, "do this", 1.0, 2.0, delivery.attempt, "live", delivery.body)


# --- against the local AWS ---------------------------------------------------------------------------------------


async def test_is_a_queue(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """The adapter has the face that the worker asks for."""
    queue: Queue = make(aws.queue())
    assert queue.name == "live"


async def test_a_change_makes_the_round(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """Sent, received with all its facts, acked, and then gone for good."""
    queue = make(aws.queue())
    sent = change("Ünï/日本語 ☃.bin")
    await queue.send([sent])
    (delivery,) = await queue.receive(10, 0)
    assert decode(delivery.body).changes == (sent,)
    assert delivery.group == group_id(sent.ref)
    assert delivery.attempt == 1
    assert 0 <= delivery.first_received_at_s - delivery.sent_at_s < 60
    assert await queue.depth() == Depth(0, 1, 0)
    assert await queue.ack(delivery)
    assert await queue.depth() == Depth(0, 0, 0)


async def test_a_group_is_blocked_while_one_of_it_is_out(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """Nobody else gets a key that is in somebody's hands; other keys flow; order within the key is kept."""
    queue = make(aws.queue())
    await queue.send([change("a", "01")])
    first = await queue.receive(1, 0)
    await queue.send([change("a", "02"), change("b", "01")])
    assert keys_of(await queue.receive(10, 0)) == ["b"]
    assert await queue.ack(first[0])
    (second,) = await queue.receive(10, 0)
    assert decode(second.body).changes[0].sequencer == "02"


async def test_true_duplicates_are_dropped_and_nothing_else(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """The same event twice is one message; another event of the key, and a fresh copy, are messages of their own."""
    queue = make(aws.queue())
    await queue.send([change("a", "01"), change("a", "01")])
    await queue.send([change("a", "01")])
    assert (await queue.depth()).visible == 1
    await queue.send([change("a", "02")])
    assert (await queue.depth()).visible == 2
    await queue.send([change("a", "01")], fresh=True)
    await queue.send([change("a", "01")], fresh=True)
    assert (await queue.depth()).visible == 4
    bare = Change(ObjectRef("bucket", "a"), "check")
    await queue.send([bare, bare])
    assert (await queue.depth()).visible == 6


async def test_a_lost_lease_is_refused_everywhere(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """Once another has received the message, the old receipt settles nothing; the new one does."""
    url = aws.queue()
    ours, theirs = make(url, lease_s=1), make(url)
    await ours.send([change("a")])
    (lost,) = await ours.receive(1, 0)
    (held,) = await theirs.receive(1, 20)
    assert held.attempt == 2
    assert not await ours.ack(lost)
    assert not await ours.retry(lost, 0)
    assert await ours.extend([lost, held], 30) == [lost]
    assert not await make(url, dead_url=aws.queue()).bury(lost, burial_of(lost))
    assert await theirs.ack(held)


async def test_retry_gives_back_after_the_wait(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """With 0 the message is there at once, with its attempt counted; with more it stays hidden."""
    queue = make(aws.queue())
    await queue.send([change("a")])
    (delivery,) = await queue.receive(1, 0)
    assert await queue.retry(delivery, 0)
    (again,) = await queue.receive(1, 0)
    assert again.attempt == 2
    assert again.first_received_at_s == delivery.first_received_at_s
    assert await queue.retry(again, 2.2)  # rounded up to whole seconds, never down
    assert await queue.receive(1, 0) == []
    assert len(await queue.receive(1, 20)) == 1


async def test_extending_keeps_the_lease(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """More than ten leases at once; after the first lease's time nobody else gets the messages."""
    queue = make(aws.queue(), lease_s=3)
    await queue.send([change(f"k{n}") for n in range(12)])
    held = await queue.receive(10, 0) + await queue.receive(10, 0)
    assert len(held) == 12
    assert await queue.extend(held, 60) == []
    await asyncio.sleep(3.1)
    assert await queue.receive(10, 0) == []
    assert await queue.extend([], 60) == []


async def test_many_acks_at_once_each_get_their_own_verdict(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """Good and lost receipts in the same batches: each caller hears about its own message."""
    queue = make(aws.queue())
    await queue.send([change(f"k{n}") for n in range(25)])
    held = [*await queue.receive(10, 0), *await queue.receive(10, 0), *await queue.receive(10, 0)]
    gone = held[::3]
    assert all(await asyncio.gather(*map(queue.ack, gone)))
    verdicts = await asyncio.gather(*map(queue.ack, held))
    assert verdicts == [one not in gone for one in held]
    assert await queue.depth() == Depth(0, 0, 0)


async def test_burying_moves_with_the_reason_and_once(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """The dead-letter entry holds reason and message; burying again after a crash adds none."""
    dead_url = aws.queue()
    queue, dead = make(aws.queue(), dead_url=dead_url), make(dead_url)
    await queue.send([change("a")])
    (delivery,) = await queue.receive(1, 0)
    aws_side = burial_of(delivery)
    assert await queue.bury(delivery, aws_side)
    assert not await queue.bury(delivery, aws_side)
    assert await queue.depth() == Depth(0, 0, 0)
    (entry,) = await dead.receive(10, 0)
    assert decode_burial(entry.body) == aws_side
    assert keys_of([entry]) == ["a"]


async def test_burying_needs_a_dead_letter_queue(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """Without one nothing is deleted; the error says what to set."""
    queue = make(aws.queue())
    await queue.send([change("a")])
    (delivery,) = await queue.receive(1, 0)
    with pytest.raises(QueueMissing) as caught:
        await queue.bury(delivery, burial_of(delivery))
    assert "DEAD_QUEUE_URL" in caught.value.hint
    assert (await queue.depth()).in_flight == 1


async def test_a_failed_burial_keeps_the_message(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """When the dead-letter queue cannot take it, the message is not deleted."""
    url = aws.queue()
    queue = make(url, dead_url=url.replace("queue-", "no-queue-"))
    await queue.send([change("a")])
    (delivery,) = await queue.receive(1, 0)
    with pytest.raises(QueueMissing):
        await queue.bury(delivery, burial_of(delivery))
    assert (await queue.depth()).in_flight == 1


async def test_a_long_poll_ends_with_a_message_or_its_time(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """Waiting ends as soon as something comes, and with nothing when the time is over."""
    queue = make(aws.queue())
    loop = asyncio.get_running_loop()
    waiting = asyncio.ensure_future(queue.receive(10, 20))
    await asyncio.sleep(0.2)
    began_s = loop.time()
    await queue.send([change("a")])
    assert keys_of(await waiting) == ["a"]
    assert loop.time() - began_s < 15
    began_s = loop.time()
    assert await queue.receive(10, 1) == []
    assert 0.8 < loop.time() - began_s < 15


async def test_delayed_messages_are_counted_apart(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """The queue's own delay (the check queue's grace) shows as delayed."""
    queue = make(aws.queue({"DelaySeconds": "60"}))
    await queue.send([change("a")])
    assert await queue.depth() == Depth(0, 0, 1)


async def test_a_missing_queue_is_permanent(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """Receiving from, sending to and asking a queue that is not there is QueueMissing, at once."""
    queue = make(aws.queue().replace("queue-", "no-queue-"))
    for call in (queue.receive(1, 0), queue.send([change("a")]), queue.depth()):
        with pytest.raises(QueueMissing, match="DoesNotExist"):
            await call


async def test_a_forbidden_queue_is_permanent(aws: Aws, make: Callable[..., SqsQueue]) -> None:
    """AccessDenied names the call that is not allowed; unknown keys point at the credentials; no secret shows."""
    url = aws.queue()
    with pytest.raises(QueueMissing, match="sqs:ReceiveMessage"):
        await make(url, keys=aws.user("s3:GetObject")).receive(1, 0)
    for keys in (Credentials("AKIANOBODY", "s3cr3t"), Credentials(aws.keys.access_key, "s3cr3t")):
        queue = make(url, keys=keys)
        with pytest.raises(QueueMissing) as caught:
            await queue.receive(1, 0)
        assert "credentials" in caught.value.hint
        assert "s3cr3t" not in f"{caught.value!r}{caught.value.hint}{queue!r}"


async def test_the_emulator_refuses_what_sqs_refuses(aws: Aws) -> None:
    """A control: messages without ids, and bodies that are no XML text, are refused, so ours were valid."""
    url = aws.queue()
    with pytest.raises(ClientError):
        aws.sqs.send_message(QueueUrl=url, MessageBody="x")
    with pytest.raises(ClientError):
        aws.sqs.send_message(QueueUrl=url, MessageBody="\x01", MessageGroupId="g", MessageDeduplicationId="d")


# --- scripted answers --------------------------------------------------------------------------------------------


@dataclass
class Scripted:
    """An SQS that answers calls by `answer(action, payload)`: (status, document), or None to drop the connection."""

    answer: Callable[[str, dict[str, object]], tuple[int, dict[str, object]] | None]
    calls: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)

    async def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        while True:
            head = (await peer.head()).decode()
            length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            target = re.search(r"x-amz-target: AmazonSQS\.(\w+)", head, re.IGNORECASE)
            assert length is not None
            assert target is not None
            payload = json.loads(await peer.exactly(int(length[1])))
            self.calls.append((target[1], payload))
            self.heads.append(head)
            found = self.answer(target[1], payload)
            if found is None:
                return
            body = json.dumps(found[1]).encode()
            await peer.send(b"HTTP/1.1 %d Said\r\nContent-Length: %d\r\n\r\n" % (found[0], len(body)) + body)


@dataclass
class Waits:
    """A sleep that takes no time and keeps count."""

    seconds: list[float] = field(default_factory=list)

    async def __call__(self, seconds: float) -> None:
        """Note the wait."""
        self.seconds.append(seconds)


def scripted_queue(http: Http, origin: Origin, waits: Waits, keys: FixedKeys | None = None) -> SqsQueue:
    """Use a scripted SQS."""
    return SqsQueue(
        "live",
        URL,
        http,
        keys or FixedKeys(KEYS),
        region=REGION,
        lease_s=30,
        dead_url=URL,
        endpoint=str(origin),
        sleep=waits,
        token=map("token-{}".format, itertools.count()).__next__,
        backoff=Backoff(1.0, 60.0, lambda: 0.0),
    )


def held(n: int = 0) -> Delivery:
    """Give a message in our hands."""
    return Delivery("live", f"m{n}", f"receipt-{n}", "{}", "group")


def error(code: str, message: str = "said", status: int = 400) -> tuple[int, dict[str, object]]:
    """Word an error the way the JSON protocol does."""
    return status, {"__type": f"com.amazonaws.sqs#{code}", "message": message}


def all_done(payload: dict[str, object]) -> tuple[int, dict[str, object]]:
    """List every entry of a batch as done."""
    entries = payload["Entries"]
    assert isinstance(entries, list)
    return 200, {"Successful": [{"Id": entry["Id"]} for entry in entries]}


async def test_acks_that_come_together_go_out_together(http: Http) -> None:
    """Ten go at once; what is left waits for company, but not for more than COALESCE_S."""
    script = Scripted(lambda _action, payload: all_done(payload))
    async with hostile(script) as server:
        queue = scripted_queue(http, server.origin, Waits())
        took_s: list[float] = []
        for _ in range(10):  # the first opens the connection, and the machine may stand still during some
            began_s = asyncio.get_running_loop().time()
            assert await queue.ack(held())
            took_s.append(asyncio.get_running_loop().time() - began_s)
        assert min(took_s) < COALESCE_S + 0.2
        assert all(await asyncio.gather(*(queue.ack(held(n)) for n in range(23))))
        await queue.aclose()
    sizes = [len(str(payload["Entries"]).split("receipt-")) - 1 for _, payload in script.calls]
    assert sizes == [1] * 10 + [10, 10, 3]


async def test_closing_sends_what_waits(http: Http) -> None:
    """A close does not wait for company, and leaves no call without its answer."""
    script = Scripted(lambda _action, payload: all_done(payload))
    async with hostile(script) as server:
        queue = scripted_queue(http, server.origin, Waits())
        ack, retry = asyncio.ensure_future(queue.ack(held())), asyncio.ensure_future(queue.retry(held(), 5))
        await asyncio.sleep(0)
        assert "2 settling" in repr(queue)
        await queue.aclose()
        assert ack.done()
        assert await ack
        assert await retry
    assert {action for action, _ in script.calls} == {"DeleteMessageBatch", "ChangeMessageVisibilityBatch"}


async def test_a_cancelled_ack_disturbs_no_other(http: Http) -> None:
    """The others of the batch get their answers; nothing is left pending."""
    script = Scripted(lambda _action, payload: all_done(payload))
    async with hostile(script) as server:
        queue = scripted_queue(http, server.origin, Waits())
        one, two = (asyncio.ensure_future(queue.ack(held(n))) for n in range(2))
        await asyncio.sleep(0)
        one.cancel()
        assert await two
        with pytest.raises(asyncio.CancelledError):
            await one
        await queue.aclose()
        assert "0 settling" in repr(queue)


async def test_an_entry_that_sqs_does_not_mention_is_not_done(http: Http) -> None:
    """Silence about an entry is no success: it is sent again, alone, and fails in the end."""
    script = Scripted(lambda _action, _payload: (200, {"Successful": [{"Id": "0"}], "Failed": []}))
    async with hostile(script) as server:
        queue = scripted_queue(http, server.origin, Waits())
        first, second = await asyncio.gather(queue.ack(held(0)), queue.ack(held(1)), return_exceptions=True)
    assert first is True
    assert isinstance(second, QueueError)
    assert len(script.calls) == TRIES
    assert script.calls[-1][1]["Entries"] == [{"Id": "1", "ReceiptHandle": "receipt-1"}]


@pytest.mark.parametrize(
    ("failure", "expected"),
    [
        # documented codes of DeleteMessage and ChangeMessageVisibility; the entries are made up
        ({"Code": "ReceiptHandleIsInvalid", "SenderFault": True}, False),
        ({"Code": "AWS.SimpleQueueService.MessageNotInflight", "SenderFault": True}, False),
        # AWS's words, as quoted in aws/aws-sdk-js#1279 and localstack/localstack#3956
        (
            {
                "Code": "InvalidParameterValue",
                "SenderFault": True,
                "Message": "Value AQEB for parameter ReceiptHandle is invalid. Reason: The receipt handle has expired.",
            },
            False,
        ),
        (
            {
                "Code": "InvalidParameterValue",
                "SenderFault": True,
                "Message": "Total VisibilityTimeout for the message is beyond the limit [43200 seconds]",
            },
            False,
        ),
        # of a message that is gone; as quoted in vmihailenco/taskq#29 and mapbox/ecs-watchbot#135
        (
            {
                "Code": "InvalidParameterValue",
                "SenderFault": True,
                "Message": "Value AQEB for parameter ReceiptHandle is invalid. Reason: Message does not exist or is not"
                " available for visibility timeout change.",
            },
            False,
        ),
        ({"Code": "InvalidParameterValue", "SenderFault": True, "Message": "Value 99999 is invalid."}, None),
        ({"Code": "InternalError", "SenderFault": False}, None),
    ],
)
async def test_the_verdict_of_one_entry(http: Http, failure: dict[str, object], expected: bool | None) -> None:
    """A lost lease is False, for ack and retry; any other failure is QueueError; the other entry is done."""

    def answer(_action: str, payload: dict[str, object]) -> tuple[int, dict[str, object]]:
        entries = payload["Entries"]
        assert isinstance(entries, list)
        good = [{"Id": entry["Id"]} for entry in entries if entry["ReceiptHandle"] == "receipt-0"]
        bad = [{"Id": entry["Id"], **failure} for entry in entries if entry["ReceiptHandle"] != "receipt-0"]
        return 200, {"Successful": good, "Failed": bad}

    async with hostile(Scripted(answer)) as server:
        queue = scripted_queue(http, server.origin, Waits())
        for settle in (queue.ack, lambda one: queue.retry(one, 0)):
            good, bad = await asyncio.gather(settle(held(0)), settle(held(1)), return_exceptions=True)
            assert good is True
            assert bad is expected if expected is not None else isinstance(bad, QueueError)
        if failure["SenderFault"]:  # in whatever words: others must be extended though one cannot be
            assert await queue.extend([held(0), held(1)], 30) == [held(1)]
        else:
            with pytest.raises(QueueError):
                await queue.extend([held(0), held(1)], 30)


async def test_failed_entries_of_a_send_go_again_with_the_same_ids(http: Http) -> None:
    """Only what failed on SQS's side is sent again, under the same deduplication id; then it is well."""
    failing = {"1", "3"}

    def answer(_action: str, payload: dict[str, object]) -> tuple[int, dict[str, object]]:
        entries = payload["Entries"]
        assert isinstance(entries, list)
        bad = {entry["Id"] for entry in entries} & failing
        failing.clear()
        return 200, {
            "Successful": [{"Id": entry["Id"]} for entry in entries if entry["Id"] not in bad],
            "Failed": [{"Id": n, "Code": "InternalError", "SenderFault": False} for n in sorted(bad)],
        }

    script, waits = Scripted(answer), Waits()
    async with hostile(script) as server:
        await scripted_queue(http, server.origin, waits).send([change(f"k{n}") for n in range(5)], fresh=True)
    first, second = (payload["Entries"] for _, payload in script.calls)
    assert isinstance(first, list)
    assert second == [first[1], first[3]]
    assert waits.seconds == [0.5]


async def test_a_send_that_cannot_be_completed_raises(http: Http) -> None:
    """A message that SQS will not take is never dropped in silence."""
    bad = {"Id": "0", "Code": "InvalidMessageContents", "Message": "not allowed", "SenderFault": True}
    async with hostile(Scripted(lambda _action, _payload: (200, {"Failed": [bad]}))) as server:
        with pytest.raises(QueueError, match="InvalidMessageContents"):
            await scripted_queue(http, server.origin, Waits()).send([change("a")])


async def test_a_lost_answer_is_asked_for_again_under_the_same_attempt_id(http: Http) -> None:
    """SQS gives the same messages again for the same ReceiveRequestAttemptId; the next receive has another."""
    count = itertools.count()
    script = Scripted(lambda _action, _payload: None if next(count) == 0 else (200, {}))
    waits = Waits()
    async with hostile(script) as server:
        queue = scripted_queue(http, server.origin, waits)
        assert await queue.receive(10, 2.9) == []
        assert await queue.receive(10, 99) == []
    ids = [payload["ReceiveRequestAttemptId"] for _, payload in script.calls]
    assert ids == ["token-0", "token-0", "token-1"]
    assert [payload["WaitTimeSeconds"] for _, payload in script.calls] == [2, 2, 20]
    assert waits.seconds == [0.5]


@pytest.mark.parametrize(
    "refusal",
    [
        error("RequestThrottled"),
        error("ThrottlingException"),
        error("OverLimit", status=403),
        error("InternalFailure", status=500),
        error("ServiceUnavailable", status=503),
        (503, {}),
        None,
    ],
)
async def test_what_may_pass_is_tried_again_a_few_times(
    http: Http, refusal: tuple[int, dict[str, object]] | None
) -> None:
    """Throttling, faults and lost answers: TRIES times with growing waits, then a transient QueueError."""
    script, waits = Scripted(lambda _action, _payload: refusal), Waits()
    async with hostile(script) as server:
        with pytest.raises(QueueError) as caught:
            await scripted_queue(http, server.origin, waits).depth()
    assert caught.value.transient
    assert len(script.calls) == TRIES
    assert waits.seconds == [0.5, 1.0, 2.0]


@pytest.mark.parametrize(
    ("refusal", "kind", "hint"),
    [
        (error("QueueDoesNotExist"), QueueMissing, "queue URL"),
        (error("AWS.SimpleQueueService.NonExistentQueue"), QueueMissing, "queue URL"),
        (error("AccessDeniedException"), QueueMissing, "sqs:ReceiveMessage"),
        (error("InvalidClientTokenId", status=403), QueueMissing, "credentials"),
        (error("ExpiredTokenException", status=403), QueueMissing, "credentials"),
        (error("SignatureDoesNotMatch", "Signature expired: 1 is now earlier than 2", 403), QueueError, "clock"),
        (error("InvalidParameterValue"), QueueError, ""),
    ],
)
async def test_what_will_not_pass_is_not_tried_again(
    http: Http, refusal: tuple[int, dict[str, object]], kind: type[QueueError], hint: str
) -> None:
    """Each refusal has its type and advice, after one call."""
    script = Scripted(lambda _action, _payload: refusal)
    async with hostile(script) as server:
        with pytest.raises(QueueError) as caught:
            await scripted_queue(http, server.origin, Waits()).depth()
    assert type(caught.value) is kind
    assert hint in caught.value.hint
    assert len(script.calls) == 1


async def test_an_expired_token_is_renewed_once(http: Http) -> None:
    """With new keys the call goes out again at once, signed with them."""
    count = itertools.count()
    script = Scripted(lambda _action, _payload: error("ExpiredToken") if next(count) == 0 else (200, {}))
    keys, waits = FixedKeys(KEYS, fresh=Credentials("AKIDFRESH", "other")), Waits()
    async with hostile(script) as server:
        assert await scripted_queue(http, server.origin, waits, keys).receive(1, 0) == []
    assert "AKIDEXAMPLE" in script.heads[0]
    assert "AKIDFRESH" in script.heads[1]
    assert waits.seconds == []
    assert "secret-of-tests" not in script.heads[0]


async def test_credentials_that_cannot_be_had_are_a_queue_error(http: Http) -> None:
    """A metadata service that is away is transient for the queue: the next look-up may find some."""
    waits = Waits()
    queue = scripted_queue(http, Origin("http", "127.0.0.1", 9), waits, NoKeys(KEYS))
    with pytest.raises(QueueError, match="no AWS credentials") as caught:
        await queue.depth()
    assert not isinstance(caught.value, QueueMissing)
    assert len(waits.seconds) == TRIES - 1


async def test_an_answer_that_is_not_sqs(http: Http) -> None:
    """A page of something else is a transient error, not a crash."""

    async def script(peer: Peer) -> None:
        while True:
            length = re.search(rb"content-length: (\d+)", await peer.head(), re.IGNORECASE)
            assert length is not None
            await peer.exactly(int(length[1]))
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n<html/>")

    async with hostile(script) as server:
        with pytest.raises(QueueError, match="not SQS's"):
            await scripted_queue(http, server.origin, Waits()).depth()


@pytest.mark.parametrize(
    ("url", "endpoint", "origin", "region"),
    [
        (
            "https://sqs.eu-central-1.amazonaws.com/1/q.fifo",
            None,
            "https://sqs.eu-central-1.amazonaws.com",
            "eu-central-1",
        ),
        (
            "https://sqs.cn-north-1.amazonaws.com.cn/1/q.fifo",
            None,
            "https://sqs.cn-north-1.amazonaws.com.cn",
            "cn-north-1",
        ),
        (
            "https://vpce-1a2b.sqs.us-west-2.vpce.amazonaws.com/1/q.fifo",
            None,
            "https://vpce-1a2b.sqs.us-west-2.vpce.amazonaws.com",
            "us-west-2",
        ),
        ("https://us-west-2.queue.amazonaws.com/1/q.fifo", None, "https://sqs.us-west-2.amazonaws.com", "us-west-2"),
        ("https://queue.amazonaws.com/1/q.fifo", None, "https://sqs.us-east-1.amazonaws.com", "us-east-1"),
        ("http://localhost:4566/000000000000/q.fifo", None, "http://localhost:4566", "given"),
        ("http://sqs:4566/000000000000/q.fifo", "http://127.0.0.1:5610", "http://127.0.0.1:5610", "given"),
        ("https://sqs.eu-central-1.amazonaws.com.evil.example/1/q", None, None, "given"),
    ],
)
def test_where_a_queue_is(url: str, endpoint: str | None, origin: str | None, region: str) -> None:
    """AWS's own host names tell the region; others are taken as they are, with the region given."""
    found, signed_for = locate(url, "given", endpoint)
    assert signed_for == region
    assert origin is None or str(found) == origin
