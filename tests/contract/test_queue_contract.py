"""One contract for every queue: what the worker's protocol leans on, by way of the product's own adapter.

Each behaviour below is told by a function. It runs on the executable model and on two emulators of AWS; where a
stand-in is known to be wrong, it must go on being wrong, so that the table stays true and nobody trusts it there.

                                                                model      ministack  moto
    a change makes the round                                    holds      holds      holds
    a group is blocked while one of it is out                   holds      holds      holds
    a group stays blocked until all of it are settled           holds      holds      holds
    one receive gives several of a group in order               holds      holds      holds
    an expired group comes again in order                       holds      holds      WRONG
    a receipt is refused once another has the message           holds      holds      WRONG
    a receipt is refused once its lease is over                 holds      WRONG      WRONG
    an expired message comes again while a later one is held    holds      WRONG      WRONG
    a message given back comes again while a later one is held  holds      WRONG      WRONG
    extending keeps the lease                                   holds      holds      holds
    no lease outlives twelve hours                              holds      WRONG      WRONG
    a retry hides the message and its group                     holds      holds      holds
    receives are counted                                        holds      holds      holds
    a receive is repeated under its attempt id                  holds      WRONG      WRONG
    so many messages are out at once                            holds      -          -
    duplicates are dropped while the first is there             holds      holds      holds
    duplicates are dropped after the first is gone              holds      holds      WRONG
    duplicates are taken after five minutes                     holds      -          -
    each group remembers ids of its own where told              holds      holds      WRONG
    a bad entry fails alone                                     holds      holds      WRONG
    ids are held to their alphabet                              holds      WRONG      WRONG
    the queues delay holds messages back                        holds      holds      holds
    a long poll ends when a message is sent                     holds      holds      holds
    a long poll ends when a lease runs out                      holds      holds      holds
    too many receives lead to the dead letter queue             holds      holds      holds
    the message id becomes the deduplication id of the dead     holds      WRONG      WRONG
    a redrive starts the count anew                             holds      WRONG      WRONG
    burying moves with the reason and once                      holds      holds      WRONG
    a missing queue is permanent                                holds      holds      holds

    ministack, wrong:
            a receipt is refused once its lease is over: it is good until somebody else has the message
            an expired message comes again while a later one is held: any message out blocks its whole group
            a message given back comes again while a later one is held: any message out blocks its whole group
            no lease outlives twelve hours: there is no limit
            a receive is repeated under its attempt id: the id is ignored
            ids are held to their alphabet: any text will do
            the message id becomes the deduplication id of the dead: the old id is kept
            a redrive starts the count anew: there is no StartMessageMoveTask

    moto, wrong:
            an expired group comes again in order: the first of the group are skipped
            a receipt is refused once another has the message: every receipt is good for ever
            a receipt is refused once its lease is over: every receipt is good for ever
            an expired message comes again while a later one is held: any message out blocks its whole group
            a message given back comes again while a later one is held: any message out blocks its whole group
            no lease outlives twelve hours: it counts from the sending, and refuses the whole batch
            a receive is repeated under its attempt id: the id is ignored
            duplicates are dropped after the first is gone: an id is forgotten with its message
            each group remembers ids of its own where told: the scope is always the queue
            a bad entry fails alone: text that is not XML's is taken
            ids are held to their alphabet: any text will do
            the message id becomes the deduplication id of the dead: the old id is kept
            a redrive starts the count anew: there is no StartMessageMoveTask
            burying moves with the reason and once: a receipt settles twice

    ministack, not tried (-):
            so many messages are out at once: there is no limit to reach
            duplicates are taken after five minutes: its clock cannot be moved

    moto, not tried (-):
            so many messages are out at once: there is no limit to reach
            duplicates are taken after five minutes: its clock cannot be moved
"""

# ruff: noqa: D401 - a behaviour's docstring states its rule, as a test's does

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import pytest
from _pytest.mark.structures import ParameterSet

from aws_emulator import Aws
from queue_stand_ins import MOTO, NAMES, Name, Place, StandIn, moto, stand_in
from s3nsync.errors import QueueError, QueueMissing
from s3nsync.events import Burial, decode, decode_burial, group_id
from s3nsync.model import Change, Delivery, ObjectRef
from s3nsync.queues import Depth
from s3nsync.queues.sqs import MAX_VISIBILITY_S, SqsQueue

Behaviour = Callable[[StandIn], Awaitable[None]]
BEHAVIOURS: dict[str, Behaviour] = {}

TOGETHER = 6
"""How many behaviours run at once on one stand-in: most of their time is waiting."""


def behaviour(tell: Behaviour) -> Behaviour:
    """Add a function to the contract, under its name."""
    BEHAVIOURS[tell.__name__.replace("_", " ")] = tell
    return tell


def change(key: str, number: int = 1) -> Change:
    """Make a live change of `key`."""
    return Change(ObjectRef("bucket", key), "put", "s3", "ObjectCreated:Put", sequencer=f"{number:04x}")


def names(deliveries: Sequence[Delivery]) -> list[str]:
    """Show what was received: key and number of each."""
    changes = [one for each in deliveries for one in decode(each.body).changes]
    return [f"{one.ref.key}{int(one.sequencer or '0', 16)}" for one in changes]


async def filled(on: StandIn, *pairs: str, lease_s: float = 60, url: str | None = None) -> SqsQueue:
    """Open a queue that holds these changes, each named by key and number (`a1`)."""
    queue = on.queue(url or await on.make(), lease_s=lease_s)
    await queue.send([change(pair[0], int(pair[1:])) for pair in pairs])
    return queue


async def refuses(on: StandIn, url: str, message: Mapping[str, object]) -> bool:
    """Say whether the message is not taken."""
    try:
        await on.call(url, "SendMessage", {"QueueUrl": url, **message})
    except QueueError:
        return True
    return False


# --- groups ------------------------------------------------------------------------------------------------------


@behaviour
async def a_change_makes_the_round(on: StandIn) -> None:
    """Sent, received with all its facts, acked, and gone for good."""
    queue = on.queue(await on.make())
    sent = change("Ünï/日本語 ☃.bin")
    await queue.send([sent])
    (held,) = await queue.receive(10, 0)
    assert decode(held.body).changes == (sent,)
    assert (held.group, held.attempt) == (group_id(sent.ref), 1)
    assert 0 <= held.first_received_at_s - held.sent_at_s < 60
    assert await queue.depth() == Depth(0, 1, 0)
    assert await queue.ack(held)
    assert await queue.depth() == Depth(0, 0, 0)


@behaviour
async def a_group_is_blocked_while_one_of_it_is_out(on: StandIn) -> None:
    """Other groups flow on; the next of the group comes after the ack."""
    queue = await filled(on, "a1", "a2", "b1")
    (first,) = await queue.receive(1, 0)
    assert names([first]) == ["a1"]
    assert names(await queue.receive(10, 0)) == ["b1"]
    assert await queue.receive(10, 0) == []
    assert await queue.ack(first)
    assert names(await queue.receive(10, 0)) == ["a2"]


@behaviour
async def a_group_stays_blocked_until_all_of_it_are_settled(on: StandIn) -> None:
    """Of two in hand one ack frees nothing."""
    queue = await filled(on, "a1", "a2", "a3")
    first, second = await queue.receive(2, 0)
    assert await queue.ack(first)
    assert await queue.receive(10, 0) == []
    assert await queue.ack(second)
    assert names(await queue.receive(10, 0)) == ["a3"]


@behaviour
async def one_receive_gives_several_of_a_group_in_order(on: StandIn) -> None:
    """In the order of their sending, whatever the batches they were sent in."""
    queue = await filled(on, *(f"a{n}" for n in range(1, 13)))
    held = await queue.receive(10, 0)
    assert names(held) == [f"a{n}" for n in range(1, 11)]
    assert all(await asyncio.gather(*map(queue.ack, held)))
    assert names(await queue.receive(10, 0)) == ["a11", "a12"]


# --- leases ------------------------------------------------------------------------------------------------------


@behaviour
async def an_expired_group_comes_again_in_order(on: StandIn) -> None:
    """When all leases of a hand run out, the next receive starts with the first of them."""
    queue = await filled(on, "a1", "a2", "a3", lease_s=1)
    assert names(await queue.receive(2, 0)) == ["a1", "a2"]
    await on.pass_s(1.2)
    assert names(await queue.receive(2, 0)) == ["a1", "a2"]


@behaviour
async def a_receipt_is_refused_once_another_has_the_message(on: StandIn) -> None:
    """The old one settles nothing, by any call; the new one does."""
    url = await on.make()
    ours, theirs = await filled(on, "a1", lease_s=1, url=url), on.queue(url)
    (lost,) = await ours.receive(1, 0)
    await on.pass_s(1.2)
    (held,) = await theirs.receive(1, 0)
    assert held.attempt == 2
    assert not await ours.ack(lost)
    assert not await ours.retry(lost, 0)
    assert await ours.extend([lost, held], 60) == [lost]
    assert await theirs.ack(held)


@behaviour
async def a_receipt_is_refused_once_its_lease_is_over(on: StandIn) -> None:
    """Even if nobody else has received the message."""
    queue = await filled(on, "a1", lease_s=1)
    (lost,) = await queue.receive(1, 0)
    await on.pass_s(1.2)
    assert await queue.extend([lost], 60) == [lost]
    assert not await queue.retry(lost, 0)
    assert not await queue.ack(lost)
    assert (await queue.depth()).visible == 1


@behaviour
async def an_expired_message_comes_again_while_a_later_one_is_held(on: StandIn) -> None:
    """A lease that ran out frees its message, though the group is not free."""
    queue = await filled(on, "a1", "a2", "a3", lease_s=1)
    _, second = await queue.receive(2, 0)
    assert await queue.extend([second], 60) == []
    await on.pass_s(1.2)
    assert names(await queue.receive(10, 0)) == ["a1"]
    assert await queue.ack(second)


@behaviour
async def a_message_given_back_comes_again_while_a_later_one_is_held(on: StandIn) -> None:
    """Giving back is letting the lease end."""
    queue = await filled(on, "a1", "a2", "a3")
    first, second = await queue.receive(2, 0)
    assert await queue.retry(first, 0)
    assert names(await queue.receive(10, 0)) == ["a1"]
    assert await queue.ack(second)


@behaviour
async def extending_keeps_the_lease(on: StandIn) -> None:
    """After the first lease's time nobody else gets the messages, and the receipts are good."""
    queue = await filled(on, "a1", "b1", "c1", lease_s=5)
    held = await queue.receive(10, 0)
    assert await queue.extend(held, 60) == []
    await on.pass_s(5.2)
    assert await queue.receive(10, 0) == []
    assert all(await asyncio.gather(*map(queue.ack, held)))


@behaviour
async def no_lease_outlives_twelve_hours(on: StandIn) -> None:
    """Counted from the receive, not from the sending: an extension beyond is refused, the lease goes on as it was."""
    queue = await filled(on, "a1")
    await on.pass_s(5)
    (held,) = await queue.receive(1, 0)
    await on.pass_s(1.2)
    assert await queue.extend([held], MAX_VISIBILITY_S) == [held]
    assert await queue.extend([held], MAX_VISIBILITY_S - 4) == []
    assert await queue.ack(held)


@behaviour
async def a_retry_hides_the_message_and_its_group(on: StandIn) -> None:
    """Order holds also while a message waits out its back-off."""
    queue = await filled(on, "a1", "a2", "b1")
    (first,) = await queue.receive(1, 0)
    assert await queue.retry(first, 4.1)
    assert names(await queue.receive(10, 0)) == ["b1"]
    await on.pass_s(4.15)
    if on.stub is not None:  # elsewhere time goes on by itself, too fast on a busy machine
        assert await queue.receive(10, 0) == [], "rounded down to whole seconds, not up"
    await on.pass_s(1.05)
    assert names(await queue.receive(10, 0)) == ["a1", "a2"]


@behaviour
async def receives_are_counted(on: StandIn) -> None:
    """Each adds one; the time of the first stays."""
    queue = await filled(on, "a1")
    first_s: set[float] = set()
    for attempt in (1, 2, 3):
        (held,) = await queue.receive(1, 0)
        assert held.attempt == attempt
        first_s.add(held.first_received_at_s)
        assert await queue.retry(held, 0)
    assert len(first_s) == 1


@behaviour
async def a_receive_is_repeated_under_its_attempt_id(on: StandIn) -> None:
    """What a lost answer held comes again, with the same receipts, and counted once."""
    url = await on.make()
    await filled(on, "a1", "b1", "c1", url=url)
    asked = {
        "QueueUrl": url,
        "MaxNumberOfMessages": 2,
        "AttributeNames": ["All"],
        "VisibilityTimeout": 60,
        "ReceiveRequestAttemptId": "attempt",
    }
    first = (await on.call(url, "ReceiveMessage", asked))["Messages"]
    again = (await on.call(url, "ReceiveMessage", asked)).get("Messages", [])
    assert [each["ReceiptHandle"] for each in again] == [each["ReceiptHandle"] for each in first]
    assert {each["Attributes"]["ApproximateReceiveCount"] for each in again} == {"1"}


@behaviour
async def so_many_messages_are_out_at_once(on: StandIn) -> None:
    """Beyond the limit nothing is given, and nothing is said."""
    url = await on.make()
    assert on.stub is not None
    on.stub.queue(url.rpartition("/")[2]).max_out = 2
    queue = await filled(on, "a1", "b1", "c1", url=url)
    held = await queue.receive(10, 0)
    assert names(held) == ["a1", "b1"]
    assert await queue.receive(10, 0) == []
    assert await queue.ack(held[0])
    assert names(await queue.receive(10, 0)) == ["c1"]


# --- sending -----------------------------------------------------------------------------------------------------


@behaviour
async def duplicates_are_dropped_while_the_first_is_there(on: StandIn) -> None:
    """The same event twice is one message; another of the key, and a fresh copy, are messages of their own."""
    queue = await filled(on, "a1", "a1", "a2")
    await queue.send([change("a", 1)])
    assert (await queue.depth()).visible == 2
    await queue.send([change("a", 1), change("a", 1)], fresh=True)
    assert (await queue.depth()).visible == 4


@behaviour
async def duplicates_are_dropped_after_the_first_is_gone(on: StandIn) -> None:
    """SQS remembers the id for five minutes also after the delete."""
    queue = await filled(on, "a1")
    assert await queue.ack((await queue.receive(1, 0))[0])
    await queue.send([change("a", 1)])
    assert await queue.depth() == Depth(0, 0, 0)


@behaviour
async def duplicates_are_taken_after_five_minutes(on: StandIn) -> None:
    """Counted from the first one's sending."""
    queue = await filled(on, "a1")
    await on.pass_s(299)
    await queue.send([change("a", 1)])
    assert (await queue.depth()).visible == 1
    await on.pass_s(1.1)
    await queue.send([change("a", 1)])
    assert (await queue.depth()).visible == 2


@behaviour
async def each_group_remembers_ids_of_its_own_where_told(on: StandIn) -> None:
    """By DeduplicationScope: one id in two groups is two messages, or one."""
    for scope, expected in (("queue", 1), ("messageGroup", 2)):
        url = await on.make(DeduplicationScope=scope)
        for group in "ab":
            sent = {"MessageBody": "x", "MessageGroupId": group, "MessageDeduplicationId": "same"}
            await on.call(url, "SendMessage", {"QueueUrl": url, **sent})
        assert (await on.queue(url).depth()).visible == expected


@behaviour
async def a_bad_entry_fails_alone(on: StandIn) -> None:
    """A batch is answered 200 with the others done; an ack batch tells each receipt's own fate."""
    url = await on.make()
    entries = [
        {"Id": n, "MessageBody": body, "MessageGroupId": n, "MessageDeduplicationId": n}
        for n, body in (("0", "well"), ("1", "not XML: \x01"), ("2", "well"))
    ]
    answer = await on.call(url, "SendMessageBatch", {"QueueUrl": url, "Entries": entries})
    assert [each["Id"] for each in answer["Successful"]] == ["0", "2"]
    assert [each["Id"] for each in answer["Failed"]] == ["1"]
    queue = on.queue(url)
    held = await queue.receive(10, 0)
    assert await queue.ack(held[0])
    assert await asyncio.gather(*map(queue.ack, held)) == [False, True]


@behaviour
async def ids_are_held_to_their_alphabet(on: StandIn) -> None:
    """A group id with a space, beyond ASCII or too long is refused: keys must be digested."""
    url = await on.make()
    for group in ("a b", "ü", "x" * 129):
        sent = {"MessageBody": "x", "MessageGroupId": group, "MessageDeduplicationId": "d"}
        assert await refuses(on, url, sent)


@behaviour
async def the_queues_delay_holds_messages_back(on: StandIn) -> None:
    """They are counted apart until it is over; there is no delay by message."""
    url = await on.make(DelaySeconds="5")
    queue = await filled(on, "a1", url=url)
    assert await queue.depth() == Depth(0, 0, 1)
    assert await queue.receive(10, 0) == []
    await on.pass_s(5.2)
    assert names(await queue.receive(10, 0)) == ["a1"]
    sent = {"MessageBody": "x", "MessageGroupId": "g", "MessageDeduplicationId": "d", "DelaySeconds": 5}
    assert await refuses(on, url, sent)


@behaviour
async def a_long_poll_ends_when_a_message_is_sent(on: StandIn) -> None:
    """At once, not when its time is over."""
    queue = on.queue(await on.make())
    waiting = asyncio.ensure_future(queue.receive(10, 20))
    await asyncio.sleep(0.2)
    began_s = asyncio.get_running_loop().time()
    await queue.send([change("a")])
    assert names(await waiting) == ["a1"]
    assert asyncio.get_running_loop().time() - began_s < 15


@behaviour
async def a_long_poll_ends_when_a_lease_runs_out(on: StandIn) -> None:
    """Expiry is arrival, too."""
    queue = await filled(on, "a1", lease_s=1)
    await queue.receive(1, 0)
    waiting = asyncio.ensure_future(queue.receive(10, 20))
    await asyncio.sleep(0.2)
    await on.pass_s(1)
    assert names(await asyncio.wait_for(waiting, 15)) == ["a1"]


# --- the dead-letter queue ---------------------------------------------------------------------------------------


@behaviour
async def too_many_receives_lead_to_the_dead_letter_queue(on: StandIn) -> None:
    """The message moves, and its group is free."""
    url, dead_url = await on.make_pair(max_receives=2)
    queue, dead = await filled(on, "a1", "a2", url=url), on.queue(dead_url)
    for _ in range(2):
        (held,) = await queue.receive(1, 0)
        assert names([held]) == ["a1"]
        assert await queue.retry(held, 0)
    assert names(await queue.receive(10, 0)) == ["a2"]
    assert names(await dead.receive(10, 0)) == ["a1"]


@behaviour
async def the_message_id_becomes_the_deduplication_id_of_the_dead(on: StandIn) -> None:
    """So the dead-letter queue drops nothing as a duplicate."""
    url, dead_url = await on.make_pair(max_receives=1)
    queue = await filled(on, "a1", url=url)
    (held,) = await queue.receive(1, 0)
    assert await queue.retry(held, 0)
    assert await queue.receive(1, 0) == []
    (dead,) = (await on.call(dead_url, "ReceiveMessage", {"QueueUrl": dead_url, "AttributeNames": ["All"]}))["Messages"]
    assert dead["Attributes"]["MessageDeduplicationId"] == held.message_id


@behaviour
async def a_redrive_starts_the_count_anew(on: StandIn) -> None:
    """StartMessageMoveTask makes new messages; they queue up behind what is there."""
    url, dead_url = await on.make_pair(max_receives=1)
    queue = await filled(on, "a1", url=url)
    assert await queue.retry((await queue.receive(1, 0))[0], 0)
    assert await queue.receive(1, 0) == []
    await queue.send([change("a", 2)])
    await on.call(dead_url, "StartMessageMoveTask", {"SourceArn": on.arn(dead_url)})
    held = await queue.receive(10, 0)
    assert names(held) == ["a2", "a1"]
    assert [each.attempt for each in held] == [1, 1]


@behaviour
async def burying_moves_with_the_reason_and_once(on: StandIn) -> None:
    """The entry holds reason and message, the queue nothing; doing it again after a crash adds none."""
    dead_url = await on.make()
    queue, dead = on.queue(await on.make(), dead_url=dead_url), on.queue(dead_url)
    await queue.send([change("a")])
    (held,) = await queue.receive(1, 0)
    burial = Burial(ObjectRef("bucket", "a"), "no", "do this", 1.0, 2.0, held.attempt, "live", held.body)
    assert await queue.bury(held, burial)
    assert not await queue.bury(held, burial)
    assert await queue.depth() == Depth(0, 0, 0)
    (entry,) = await dead.receive(10, 0)
    assert decode_burial(entry.body) == burial


@behaviour
async def a_missing_queue_is_permanent(on: StandIn) -> None:
    """Receiving from, sending to and asking a queue that is not there is QueueMissing, at once."""
    queue = on.queue((await on.make()).replace(".fifo", "-not.fifo"))
    for call in (queue.receive(1, 0), queue.send([change("a")]), queue.depth()):
        with pytest.raises(QueueMissing, match="DoesNotExist"):
            await call


# --- where it holds ----------------------------------------------------------------------------------------------

LIES: Mapping[tuple[str, Name], str] = {
    ("a receipt is refused once its lease is over", "ministack"): "it is good until somebody else has the message",
    ("an expired message comes again while a later one is held", "ministack"): "any message out blocks its whole group",
    (
        "a message given back comes again while a later one is held",
        "ministack",
    ): "any message out blocks its whole group",
    ("no lease outlives twelve hours", "ministack"): "there is no limit",
    ("a receive is repeated under its attempt id", "ministack"): "the id is ignored",
    ("ids are held to their alphabet", "ministack"): "any text will do",
    ("the message id becomes the deduplication id of the dead", "ministack"): "the old id is kept",
    ("a redrive starts the count anew", "ministack"): "there is no StartMessageMoveTask",
    ("an expired group comes again in order", "moto"): "the first of the group are skipped",
    ("a receipt is refused once another has the message", "moto"): "every receipt is good for ever",
    ("a receipt is refused once its lease is over", "moto"): "every receipt is good for ever",
    ("an expired message comes again while a later one is held", "moto"): "any message out blocks its whole group",
    ("a message given back comes again while a later one is held", "moto"): "any message out blocks its whole group",
    ("no lease outlives twelve hours", "moto"): "it counts from the sending, and refuses the whole batch",
    ("a receive is repeated under its attempt id", "moto"): "the id is ignored",
    ("duplicates are dropped after the first is gone", "moto"): "an id is forgotten with its message",
    ("each group remembers ids of its own where told", "moto"): "the scope is always the queue",
    ("a bad entry fails alone", "moto"): "text that is not XML's is taken",
    ("ids are held to their alphabet", "moto"): "any text will do",
    ("the message id becomes the deduplication id of the dead", "moto"): "the old id is kept",
    ("a redrive starts the count anew", "moto"): "there is no StartMessageMoveTask",
    ("burying moves with the reason and once", "moto"): "a receipt settles twice",
}
UNTRIED: Mapping[tuple[str, Name], str] = {
    ("so many messages are out at once", "ministack"): "there is no limit to reach",
    ("so many messages are out at once", "moto"): "there is no limit to reach",
    ("duplicates are taken after five minutes", "ministack"): "its clock cannot be moved",
    ("duplicates are taken after five minutes", "moto"): "its clock cannot be moved",
}

Results = Mapping[str, Exception | None]


async def run_all(name: Name, place: Place | None) -> Results:
    """Run every behaviour on one stand-in, several at once, each with queues of its own; say what failed."""
    gate = asyncio.Semaphore(TOGETHER)

    async def run(tell: Behaviour) -> Exception | None:
        async with gate, stand_in(name, place) as on:
            try:
                await asyncio.wait_for(tell(on), 120)
            except (AssertionError, QueueError) as error:
                return error
            return None

    tried = {title: tell for title, tell in BEHAVIOURS.items() if (title, name) not in UNTRIED}
    found = await asyncio.gather(*map(run, tried.values()))
    return dict(zip(tried, found, strict=True))


@pytest.fixture(scope="module")
def results_of(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Name], Results]:
    """Run each stand-in's behaviours once, when first asked for."""
    known: dict[Name, Results] = {}

    def results(name: Name) -> Results:
        if name not in known:
            with _place(name, request, tmp_path_factory) as place:
                known[name] = asyncio.run(run_all(name, place))
        return known[name]

    return results


def _place(
    name: Name, request: pytest.FixtureRequest, folders: pytest.TempPathFactory
) -> AbstractContextManager[Place | None]:
    match name:
        case "model":
            return nullcontext(None)
        case "ministack":
            aws: Aws = request.getfixturevalue("aws")
            return nullcontext(Place(aws.url, aws.keys))
        case "moto":
            if not MOTO.exists():
                pytest.skip("moto is not installed: make .venv-moto/.ready")
            return moto(folders.mktemp("moto"))


def _cases() -> list[ParameterSet]:
    """Pair behaviours with stand-ins; a known lie must fail, and strictly so."""
    return [
        pytest.param(
            name,
            title,
            id=f"{name}: {title}",
            marks=pytest.mark.xfail(raises=(AssertionError, QueueError), strict=True, reason=LIES[title, name])
            if (title, name) in LIES
            else (),
        )
        for name in NAMES
        for title in BEHAVIOURS
        if (title, name) not in UNTRIED
    ]


@pytest.mark.parametrize(("name", "title"), _cases())
def test_a_queue_keeps_the_contract(results_of: Callable[[Name], Results], name: Name, title: str) -> None:
    """What the table says holds does hold, and what it calls wrong is still wrong."""
    error = results_of(name)[title]
    if error is not None:
        raise error


def matrix() -> str:
    """Draw the table of behaviours and stand-ins, with the reasons below."""
    width = max(map(len, BEHAVIOURS))
    lines = [f"{'':{width}}  {'  '.join(f'{name:9}' for name in NAMES)}"]
    for title in BEHAVIOURS:
        words = ["WRONG" if (title, on) in LIES else "-" if (title, on) in UNTRIED else "holds" for on in NAMES]
        lines.append(f"{title:{width}}  {'  '.join(f'{word:9}' for word in words)}")
    for heading, reasons in (("wrong", LIES), ("not tried (-)", UNTRIED)):
        for on in NAMES:
            told = [f"        {title}: {reason}" for (title, each), reason in reasons.items() if each == on]
            lines += ["", f"{on}, {heading}:", *told] if told else []
    return "\n".join(f"    {line}".rstrip() for line in lines)


def test_the_table_in_the_docstring_is_the_one_that_is_tested() -> None:
    """What people read is what ran; the model is wrong nowhere and tried everywhere."""
    assert __doc__ is not None
    print(matrix())  # noqa: T201 - for those who ask by -s
    assert matrix() in __doc__
    assert not [each for each in (*LIES, *UNTRIED) if each[1] == "model"]
    assert {title for title, _ in (*LIES, *UNTRIED)} <= set(BEHAVIOURS)
