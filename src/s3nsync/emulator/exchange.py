"""One request, from its head to the last byte of its answer, with the faults that strike it.

The order is fixed: the call is parsed, the clock may be skewed, the signature is checked, faults are drawn, the body
is taken in, and only then, in one step without an await, the tree is changed. So a reader sees the old or the new
object whole, and a request that breaks before that step has done nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import formatdate
from functools import partial
from typing import TYPE_CHECKING

from s3nsync.emulator import actions, answers
from s3nsync.emulator.answers import Answer
from s3nsync.emulator.blobs import Blob, Blobs, Spool
from s3nsync.emulator.faults import Fault, FaultPlan, Kind
from s3nsync.emulator.http import READ_BYTES, BadRequest, Body, Cut, Head, Wire, render_head
from s3nsync.emulator.protocol import (
    ACTION_HEADER,
    AUTH_DATA_HEADER,
    AUTH_SIGN_HEADER,
    READS,
    Call,
    Gate,
    Refused,
    decode_path,
    parse_action,
    parse_call,
)
from s3nsync.emulator.store import File, Tree

if TYPE_CHECKING:
    from hashlib import _Hash

REQUESTS_KEPT = 10_000
_DIGESTS = ("md5", "sha1", "sha256")
_TRAILED = (*_DIGESTS, "mtime")
_STALL_POLL_S = 0.05


class Dropped(Exception):
    """A fault: the connection is reset and nothing is answered."""


@dataclass(frozen=True, slots=True)
class Request:
    """One line of the log: `status` is 0 when no answer was sent, `fault` names the faults met, comma-separated.

    The times are Unix seconds: when the head was read, and when the answer was about to be sent or the request failed.
    """

    method: str
    action: str
    path: str
    status: int
    fault: str
    began_s: float
    ended_s: float


@dataclass(slots=True)
class Ledger:
    """What has been served: the last requests and running totals."""

    requests: deque[Request] = field(default_factory=lambda: deque(maxlen=REQUESTS_KEPT))
    actions: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    bytes_in: int = 0
    bytes_out: int = 0
    connections: int = 0

    def note(self, request: Request) -> None:
        """Add a finished request."""
        self.requests.append(request)
        self.actions[request.action] += 1
        self.statuses[request.status] += 1

    def reset(self) -> None:
        """Forget everything."""
        self.requests.clear()
        self.actions.clear()
        self.statuses.clear()
        self.bytes_in = self.bytes_out = self.connections = 0


@dataclass(slots=True)
class World:
    """What all requests share."""

    tree: Tree
    blobs: Blobs
    gate: Gate
    rules: actions.Rules
    cpcodes: frozenset[bytes]
    faults: FaultPlan
    ledger: Ledger
    now_s: Callable[[], float]
    skew_s: float = 0.0
    late: set[asyncio.TimerHandle] = field(default_factory=set)


class _DateCache:
    """The HTTP date, worded once a second."""

    def __init__(self) -> None:
        self._at_s = -1
        self._text = ""

    def text(self, now_s: float) -> str:
        if int(now_s) != self._at_s:
            self._at_s, self._text = int(now_s), formatdate(int(now_s), usegmt=True)
        return self._text


_DATES = _DateCache()


class Exchange:
    """Serves one request on `wire`."""

    def __init__(self, world: World, wire: Wire, head: Head) -> None:
        """Take up a request whose head was read; raise BadRequest when its framing makes no sense."""
        self._world = world
        self._wire = wire
        self._head = head
        self._body = Body(wire.reader, head, wire.go_ahead)
        self._drawn: dict[Kind, Fault] = {}
        self._met: list[str] = []
        self._action = ""
        self._skew_s = world.skew_s
        self._began_s = world.now_s()

    async def run(self) -> bool:
        """Serve the request; return whether the connection can carry another one."""
        try:
            answer = await self._answer()
        except (Dropped, Cut) as end:
            self._note(0)
            if isinstance(end, Dropped):
                self._wire.reset()
            return False
        try:
            return await self._send(answer)
        except Dropped:
            self._wire.reset()
        except Cut:
            pass
        return False

    def _note(self, status: int) -> None:
        path = "/" + decode_path(self._head.target).decode("utf-8", "backslashreplace")
        self._world.ledger.note(
            Request(
                self._head.method,
                self._action,
                path,
                status,
                ",".join(self._met),
                self._began_s,
                self._world.now_s(),
            )
        )

    async def _answer(self) -> Answer:
        try:
            return await self._perform(self._admit())
        except Refused as refused:
            return answers.refusal(self._world.rules.personality, refused)
        except BadRequest as error:
            return Answer(400, f"{error}\n".encode(), (("Content-Type", "text/plain"),), close=True)

    def _admit(self) -> Call:
        world, head = self._world, self._head
        call = parse_call(head.method, head.target, head.headers.get(ACTION_HEADER))
        self._action = call.action
        path = "/" + call.name.decode("utf-8", "backslashreplace")
        if world.faults.faults:
            skewed = world.faults.draw(call.action, path, skew=True)
            if fault := skewed.get("skew"):
                self._skew_s += fault.skew_s
                self._count("skew")
        world.gate.check(head.headers, head.target, self._now_s())
        actions.check_path(call, world.cpcodes)
        if world.faults.faults:
            self._drawn = world.faults.draw(call.action, path, skew=False)
        return call

    async def _perform(self, call: Call) -> Answer:
        if fault := self._drawn.get("slow"):
            self._count("slow")
            await asyncio.sleep(fault.delay_s)
        self._answer_status(after_body=False)
        if call.action == "upload":
            effect = await self._take_upload(call)
        else:
            await self._body.drain()
            effect = partial(self._apply, call)
        if call.action != "download" or not self._cuts_body():
            await self._break_off()
        return self._commit(effect)

    def _commit(self, effect: Callable[[], Answer]) -> Answer:
        if fault := self._drawn.get("late-commit"):
            self._count("late-commit")
            self._schedule(fault.delay_s, effect)
            raise Dropped
        self._answer_status(after_body=True)
        if "lost-answer" in self._drawn:
            self._count("lost-answer")
            with suppress(Refused):
                effect()
            raise Dropped
        return effect()

    def _schedule(self, delay_s: float, effect: Callable[[], Answer]) -> None:
        def land() -> None:
            self._world.late.discard(handle)
            with suppress(Refused):
                effect()

        handle = asyncio.get_running_loop().call_later(delay_s, land)
        self._world.late.add(handle)

    # --- faults ---

    def _count(self, kind: Kind) -> None:
        self._met.append(kind)
        self._world.faults.count(kind)

    def _cuts_body(self) -> bool:
        """Whether reset or stall is to strike inside a body rather than in place of an answer."""
        fault = self._drawn.get("reset") or self._drawn.get("stall")
        return fault is not None and fault.after_bytes is not None

    def _answer_status(self, *, after_body: bool) -> None:
        fault = self._drawn.get("status")
        if fault is not None and fault.after_body == after_body:
            self._count("status")
            retry = () if fault.retry_after_s is None else (("Retry-After", str(fault.retry_after_s)),)
            raise Refused(fault.status, "Service unavailable", retry)

    def _announce(self, answer: Answer) -> None:
        """Count the faults still to come while the answer is sent: the log is written before its first byte."""
        if answer.blob is not None and self._head.method == "GET" and self._cuts_body():
            self._count("reset" if "reset" in self._drawn else "stall")
        if "close-idle" in self._drawn:
            self._count("close-idle")

    async def _break_off(self) -> None:
        for kind in ("reset", "stall"):
            if kind in self._drawn:
                self._count(kind)
                await self._end()

    async def _end(self) -> None:
        """Reset the connection, or hold it without a word until the client gives up or the emulator stops."""
        if "reset" in self._drawn:
            raise Dropped
        while not self._wire.gone:  # noqa: ASYNC110 -- a stream tells nobody that its peer left
            await asyncio.sleep(_STALL_POLL_S)
        raise Cut

    def _piece_limit(self, moved_bytes: int) -> int:
        """How much of a body may move before a fault has its say."""
        if not self._drawn:
            return READ_BYTES
        edges = [fault.after_bytes for kind, fault in self._drawn.items() if kind in ("reset", "stall", "truncate")]
        left = [edge - moved_bytes for edge in edges if edge is not None]
        slow = self._drawn.get("slow")
        if slow is not None and slow.bytes_per_s is not None:
            left.append(max(1, int(slow.bytes_per_s / 10)))
        return max(0, min([READ_BYTES, *left]))

    async def _pace(self, moved_bytes: int) -> None:
        slow = self._drawn.get("slow")
        if slow is not None and slow.bytes_per_s is not None:
            await asyncio.sleep(moved_bytes / slow.bytes_per_s)

    # --- uploads ---

    async def _take_upload(self, call: Call) -> Callable[[], Answer]:
        if not self._head.chunked and self._head.length_bytes is None:
            raise Refused(411, "Length required")
        trailed = [name for name in _TRAILED if call.params.get(name) == b"atend"]
        actions.check_upload(call, self._world.rules)
        hashes = {
            name: hashlib.new(name, usedforsecurity=False) for name in _DIGESTS if name == "md5" or name in call.params
        }
        spool = self._world.blobs.spool()
        try:
            size_bytes = await self._receive(spool, hashes)
            if trailed:
                call = self._with_trailers(call, trailed)
            digests = {name: value.hexdigest() for name, value in hashes.items()}
            _check_declared(call, size_bytes, digests)
            mtime_s = call.whole_number("mtime")
            blob = spool.finish()
        except BaseException:
            spool.abort()
            raise
        return partial(self._store, call, blob, digests["md5"], mtime_s)

    async def _receive(self, spool: Spool, hashes: dict[str, _Hash]) -> int:
        """Take the body in; return its size, or that of what a truncating fault let through."""
        size_bytes = 0
        truncate = self._drawn.get("truncate")
        cuts = self._cuts_body()
        while True:
            limit = self._piece_limit(size_bytes)
            if limit == 0:
                break
            try:
                data = await self._body.read(limit)
            except Cut:
                if truncate is None:
                    raise
                break
            if not data:
                break
            spool.write(data)
            for value in hashes.values():
                value.update(data)
            size_bytes += len(data)
            self._world.ledger.bytes_in += len(data)
            await self._pace(len(data))
        if cuts:
            await self._break_off()
        if truncate is not None:
            self._count("truncate")
        return size_bytes

    def _with_trailers(self, call: Call, trailed: list[str]) -> Call:
        """Return the call with the values its signed trailers hold in place of `atend`."""
        trailers = self._body.trailers
        if not all(name in trailers for name in (ACTION_HEADER, AUTH_DATA_HEADER, AUTH_SIGN_HEADER)):
            raise Refused(400, "Bad request: signed trailers are missing")
        self._world.gate.check(trailers, self._head.target, self._now_s())
        values = parse_action(trailers[ACTION_HEADER])
        if values.get("version") != b"1" or values.get("action") != b"upload":
            raise Refused(400, "Bad request: trailers are not those of an upload")
        if any(values.get(name, b"atend") == b"atend" for name in trailed):
            raise Refused(400, "Bad request: a value promised at the end is missing")
        return Call(call.action, call.name, {**call.params, **{name: values[name] for name in trailed}})

    def _store(self, call: Call, blob: Blob, md5: str, mtime_s: int | None) -> Answer:
        world, now_s = self._world, self._world.now_s()
        file = File(blob, md5, int(now_s) if mtime_s is None else mtime_s)
        return actions.upload(call, world.tree, world.rules, file, now_s)

    def _apply(self, call: Call) -> Answer:
        world = self._world
        if call.action not in READS:
            return actions.WRITE_ACTIONS[call.action](call, world.tree, world.rules, world.now_s())
        tree = world.tree
        if fault := self._drawn.get("stale"):
            self._count("stale")
            tree = tree.as_of(world.now_s() - fault.lag_s)
        if call.action == "download":
            return actions.download(call, tree, world.rules, self._head.headers.get("range"))
        return actions.READ_ACTIONS[call.action](call, tree, world.rules)

    # --- the answer ---

    def _now_s(self) -> float:
        return self._world.now_s() + self._skew_s

    async def _send(self, answer: Answer) -> bool:
        self._announce(answer)
        self._note(answer.status)
        if not self._body.complete and self._body.short_enough_to_drain and not answer.close:
            await self._body.drain()
        keep_alive = self._head.keep_alive and self._body.complete and not answer.close
        headers = (
            *answers.common_headers(self._world.rules.personality, _DATES.text(self._now_s())),
            *answer.headers,
            ("Content-Length", str(answer.length_bytes)),
            ("Connection", "keep-alive" if keep_alive else "close"),
        )
        head = render_head(answer.status, headers)
        self._world.ledger.bytes_out += len(answer.body)
        await self._wire.write(head if self._head.method == "HEAD" else head + answer.body)
        if answer.blob is not None and self._head.method != "HEAD":
            await self._send_blob(answer)
        if not self._body.complete:
            await self._wire.linger()
        if fault := self._drawn.get("close-idle"):
            await asyncio.sleep(fault.delay_s)
            return False
        return keep_alive

    async def _send_blob(self, answer: Answer) -> None:
        assert answer.blob is not None
        sent = 0
        for piece in answer.blob.pieces(answer.start, answer.stop):
            offset = 0
            while offset < len(piece):
                limit = self._piece_limit(sent)
                if limit == 0:
                    await self._end()
                part = piece[offset : offset + limit]
                await self._pace(len(part))
                await self._wire.write(part)
                offset += len(part)
                sent += len(part)
                self._world.ledger.bytes_out += len(part)
        if self._cuts_body():
            await self._end()


def _check_declared(call: Call, size_bytes: int, digests: dict[str, str]) -> None:
    """Refuse with 412 a body that is not what its action header declared."""
    declared = call.whole_number("size")
    if declared is not None and declared != size_bytes:
        raise Refused(412, "Precondition failed: size does not match")
    for name, digest in digests.items():
        wanted = call.params.get(name)
        if wanted is not None and wanted.lower() != digest.encode("ascii"):
            raise Refused(412, f"Precondition failed: {name} does not match")
