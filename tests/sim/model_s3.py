"""A model of S3: strongly consistent, every version remembered, seen by the engine as its `Source`.

What a GET showed is noted on the hand that made it: by that every later delete and ack is judged.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from s3nsync import errors
from s3nsync.model import Gone, ObjectRef, SourceInfo
from sim.facts import CHUNK_BYTES, UNIX_S, digest, show
from sim.loop import HOST
from sim.network import Net
from sim.watch import LOOK, Look


@dataclass(eq=False)
class S3:
    """Strongly consistent; every version it ever had is remembered."""

    clock_s: Callable[[], float]
    now: dict[ObjectRef, tuple[SourceInfo, bytes]] = field(default_factory=dict)
    versions: dict[ObjectRef, list[bytes]] = field(default_factory=dict)
    archived: set[ObjectRef] = field(default_factory=set)

    def put(self, ref: ObjectRef, data: bytes) -> None:
        """Write an object; `kms` has an ETag that says nothing of its bytes, `cold` is archived."""
        secret = ref.key.startswith("kms")
        etag = digest(data + b"secret" + str(self.clock_s()).encode()) if secret else digest(data)
        modified_s = int(UNIX_S + self.clock_s())
        info = SourceInfo(len(data), etag, modified_s, encryption="aws:kms" if secret else None)
        self.now[ref] = (info, data)
        self.versions.setdefault(ref, []).append(data)
        if ref.key.startswith("cold"):
            self.archived.add(ref)

    def delete(self, ref: ObjectRef) -> None:
        """Remove an object."""
        self.now.pop(ref, None)
        self.archived.discard(ref)

    def restore(self, ref: ObjectRef) -> None:
        """Let an archived object be read."""
        self.archived.discard(ref)

    def data(self, ref: ObjectRef) -> bytes | None:
        """Give what it holds now."""
        found = self.now.get(ref)
        return found[1] if found else None


@dataclass(eq=False)
class SimOpened:
    """An answered GET of the model."""

    info: SourceInfo
    data: bytes
    net: Net

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the bytes; each chunk travels by itself."""
        for start in range(0, len(self.data), CHUNK_BYTES):
            await self.net.call("s3.chunk", lambda: None, _body_error)
            yield self.data[start : start + CHUNK_BYTES]

    async def read_all(self) -> bytes:
        """Give all bytes."""
        return b"".join([chunk async for chunk in self.chunks()])

    async def aclose(self) -> None:
        """Nothing is held."""


@dataclass(eq=False)
class SimSource:
    """S3 as a worker sees it."""

    s3: S3
    net: Net

    async def open(self, ref: ObjectRef) -> SimOpened | Gone:
        """GET; what is seen is noted on the hand."""
        look = LOOK.get()
        host = HOST.get()
        assert host is not None
        if look is None:
            look = Look(host, ref, asyncio.current_task())
            LOOK.set(look)
            self.net.looks.append(look)
        look.at_s = -1.0

        def get() -> tuple[SourceInfo, bytes] | None:
            look.at_s, look.data = self.net.loop.time(), self.s3.data(ref)
            look.archived = ref in self.s3.archived
            self.net.watch.tell(f"{host} sees {'an archived ' if look.archived else ''}{show(look.data)} in S3")
            return self.s3.now.get(ref)

        found = await self.net.call("s3.open", get, _source_error)
        if look.archived:
            raise errors.SourceArchived("S3 answered 403 InvalidObjectState", status=403)
        return Gone("no-such-key") if found is None else SimOpened(*found, self.net)

    async def head(self, ref: ObjectRef, _saw: SourceInfo | None = None) -> SourceInfo | None:
        """HEAD."""
        host = HOST.get()

        def look_again() -> tuple[SourceInfo, bytes] | None:
            self.net.watch.tell(f"{host} looks again: {show(self.s3.data(ref))} in S3")
            return self.s3.now.get(ref)

        found = await self.net.call("s3.head", look_again, _source_error)
        return found[0] if found else None


def _body_error(what: str) -> errors.S3nsyncError:
    """Word a body that does not come to its end: the object was changed, or every resumption has failed."""
    if what == "dropped":
        return errors.SourceChanged("changed while read")
    return errors.ConnectionLost("S3's body was cut", sent=True)


def _source_error(what: str) -> errors.S3nsyncError:
    """Word a failed GET or HEAD."""
    match what:
        case "refused":
            return errors.SourceUnavailable("S3 answered 503", status=503)
        case "forbidden":
            return errors.SourceForbidden("S3 answered 403", status=403)
        case "no bucket":
            return errors.BucketMissing("S3 answered 404 NoSuchBucket", status=404)
        case _:
            return errors.ConnectionLost("S3's answer was lost", sent=True)
