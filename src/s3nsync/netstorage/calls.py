"""One call on NetStorage: signed, sent, and tried again as far as that is safe.

Every try is signed anew, inside the `headers` callback of the HTTP client: when a connection is in hand and nothing
has been sent yet. That is also where the caller's `guard` is asked whether it may still write. Three things can go
wrong with a try, and each has one owner:

    no connection, or broken   reads are tried again; a small write too, if its answer can no longer come (then the
                               result says `repeated`, since the first one may still land); a stream never, once begun
    429, 5xx                   reads are tried again for a few seconds; a write goes back to the caller, who paces
    403                        if the answer's Date shows that the signature was too old or too new, the offset of the
                               clocks is learned and the request is signed and sent once more; else it is final

An error that leaves a write in doubt has `ambiguous` set: it was sent and its answer never came, or the answer was
502 or 504, by which a server in front says that the one behind did not answer it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import secrets
import time
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple, TypeVar

from s3nsync.errors import (
    BadAnswer,
    ConnectionLost,
    S3nsyncError,
    Stalled,
    TargetClock,
    TargetError,
    TargetUnavailable,
    TransportError,
)
from s3nsync.http import Answer, Chunk, Http, Layout, Lines, Origin
from s3nsync.netstorage import wire
from s3nsync.netstorage.wire import Account

T = TypeVar("T")
Options = Mapping[str, str | int | None]
"""An action's options; None leaves one out."""

TRIES = 3
"""Tries of one call; what needs more belongs to the queue, which does not hold a connection while it waits."""

BACKOFF_S = 0.2
"""Middle of the first wait; each next one is three times as long, all of them jittered by half."""

LONGEST_WAIT_S = 5.0
"""A server that asks for a longer pause than this gets it from the caller."""

_ERROR_TEXT_BYTES = 1 << 16

_SIGNED = Layout(*wire.SIGNED_NAMES)


def nothing() -> None:
    """Guard nothing."""


_nonces = itertools.count(secrets.randbits(63))


def draw_nonce() -> str:
    """Draw a unique id: numeric, as documented, and too long to meet twice; counted on from a random start."""
    return str(next(_nonces))


class Call(NamedTuple):
    """One action on one path, ready to be signed as often as it takes."""

    method: Literal["GET", "PUT", "POST"]
    action: str
    path: str
    options: Options = MappingProxyType({})
    unsigned: Lines = ""
    body: Chunk | Stream | None = None
    length: int | None = None
    at_end: Callable[[], Options] | None = None
    guard: Callable[[], None] = nothing

    def may_repeat(self, error: TransportError) -> bool:
        """Say whether this write may be sent once more after `error`: it can do no harm that is not told."""
        if not error.transient or (isinstance(self.body, Stream) and self.body.begun):
            return False
        if not error.sent:
            return True
        # A stalled upload may just be slow to be stored: a second one beside it would race it.
        return isinstance(error, ConnectionLost) or (isinstance(error, Stalled) and self.action != "upload")


class Stream:
    """A body that can be sent once: knows whether it was begun, and how much of it was taken."""

    __slots__ = ("_chunks", "begun", "size_bytes")

    def __init__(self, body: AsyncIterable[bytes]) -> None:
        """Take the chunks; nothing is read yet."""
        self._chunks = aiter(body)
        self.begun = False
        self.size_bytes = 0

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Begin."""
        self.begun = True
        return self

    async def __anext__(self) -> bytes:
        """Give the next chunk."""
        chunk = await anext(self._chunks)
        self.size_bytes += len(chunk)
        return chunk


class Caller:
    """Signs the calls of one account, sends them, and learns how far the server's clock is from ours."""

    def __init__(
        self,
        account: Account,
        http: Http,
        *,
        now_s: Callable[[], float] = time.time,
        nonce: Callable[[], str] = draw_nonce,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
        on_clock_skew: Callable[[float], None] | None = None,
    ) -> None:
        """Set up; nothing is sent yet. `on_clock_skew` gets each newly learned offset (server minus us, seconds)."""
        self.clock_offset_s = 0.0
        self.account = account
        self._http = http
        self._origin = Origin(account.scheme, account.host, account.port)
        self.nonce = nonce
        self._now_s = now_s
        self._sleep = sleep
        self._jitter = jitter
        self._on_clock_skew = on_clock_skew

    def now_s(self) -> float:
        """Give the time by the server's clock, as far as it is known."""
        return self._now_s() + self.clock_offset_s

    async def read(self, call: Call, consume: Callable[[Answer], Awaitable[T]]) -> T:
        """Do a read, again if need be: it changes nothing, so any transient fault may be tried once more."""
        for failures in range(1, TRIES + 1):
            try:
                return await consume(await self._signed(call))
            except (TransportError, TargetUnavailable) as error:
                await self._pause(error, failures)
        raise AssertionError(call)

    async def write(self, call: Call) -> bool:
        """Do a write; say whether it was sent more than once.

        The errors tell whether it may still land (`ambiguous`): NetStorage's verdict on a second try does not undo a
        first one that went unanswered.
        """
        unanswered = False
        for failures in range(1, TRIES + 1):
            try:
                answer = await self._signed(call)
            except TransportError as error:
                error.ambiguous = unanswered = unanswered or error.sent
                if not call.may_repeat(error):
                    raise
                await self._pause(error, failures)
            except S3nsyncError as error:
                error.ambiguous = error.ambiguous or unanswered or error.status in {502, 504}
                raise
            else:
                if answer.early:
                    raise await _answered_early(call, answer)
                if not answer.complete:
                    await answer.aclose()
                return unanswered
        raise AssertionError(call)

    async def _pause(self, error: S3nsyncError, failures: int) -> None:
        """Wait before the next try; raise `error` if there is none, or none that could help."""
        asked_s = error.retry_after_s or 0.0
        if not error.transient or failures == TRIES or asked_s > LONGEST_WAIT_S:
            raise error
        await self._sleep(max(asked_s, BACKOFF_S * 3 ** (failures - 1) * (0.5 + self._jitter())))

    async def _signed(self, call: Call) -> Answer:
        """Send once, or twice if the first signature met a clock that is not ours; give the answer if it is 2xx."""
        for is_last in (False, True):
            seal = _Seal(self, call)
            try:
                answer = await self._http.send(
                    self._origin,
                    call.method,
                    seal.target,
                    headers=seal.lines,
                    body=call.body,
                    length=call.length,
                    trailers=None if call.at_end is None else seal.trailers,
                )
            except TransportError as error:
                error.message = f"{call.action} {call.path}: {error.message}"
                error.args = (error.message,)
                raise
            if 200 <= answer.status < 300:  # write actions are documented as 204 and recorded as 200
                return answer
            refusal = await self._refusal(call, answer, seal.signed_at_s)
            if is_last or not isinstance(refusal, TargetClock) or (isinstance(call.body, Stream) and call.body.begun):
                raise refusal
        raise AssertionError(call)

    async def _refusal(self, call: Call, answer: Answer, signed_at_s: float) -> TargetError:
        """Read a refusal to its end and say what it means; learn the offset if the clocks disagree."""
        ours_s = self.now_s()
        date = answer.headers.get("Date")
        text = ""
        # The status is the verdict; after an early answer the text is often cut off.
        with contextlib.suppress(TransportError):
            async with answer:
                text = (await answer.read(_ERROR_TEXT_BYTES)).decode("utf-8", "replace")
        if answer.status == 403:
            self._learn(wire.skew_s(date, ours_s))
        # Judged from the signature's time: it is too old also if it lay about, the clocks being right.
        skew = wire.skew_s(date, signed_at_s)
        return wire.verdict(answer.status, answer.headers, text, call.action, call.path, skew=skew)

    def _learn(self, skew: float | None) -> None:
        if skew is None or not wire.clock_is_off(skew):
            return
        self.clock_offset_s += skew
        if self._on_clock_skew is not None:
            self._on_clock_skew(self.clock_offset_s)


class _Seal:
    """What signs one try of a call, when a connection is in hand; `signed_at_s` is when it last did."""

    __slots__ = ("_call", "_caller", "signed_at_s", "target")

    def __init__(self, caller: Caller, call: Call) -> None:
        self._caller = caller
        self._call = call
        self.target = wire.request_target(call.path)
        self.signed_at_s = 0.0

    def lines(self, at_end: Options | None = None) -> Lines:
        """Ask the guard, and sign the call as it begins, or as it ends if there is something to say `at_end`."""
        call, caller = self._call, self._caller
        self._call.guard()
        self.signed_at_s = now_s = caller.now_s()
        action = wire.action_header(call.action, **(call.options if at_end is None else at_end))
        signed = wire.signed_values(caller.account, self.target, action, now_s=now_s, nonce=caller.nonce())
        return _SIGNED.fill(*signed) + (call.unsigned if at_end is None else "")

    def trailers(self) -> Lines:
        """Sign once more when the body has left."""
        assert self._call.at_end is not None
        return self.lines(self._call.at_end())


async def _answered_early(call: Call, answer: Answer) -> BadAnswer:
    await answer.aclose()
    msg = f"{call.action} {call.path}: NetStorage answered {answer.status} before it had the whole body"
    early = BadAnswer(msg, sent=True)
    early.ambiguous = True
    return early
