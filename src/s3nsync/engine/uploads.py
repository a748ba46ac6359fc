"""An object that S3 has, sent to NetStorage with a proof of its bytes.

    held whole                        its digest declared: S3's own, or SHA-256 over the bytes in hand
    streamed, S3 knows a digest       declared
    streamed, S3 knows none           SHA-256 in signed trailers, after the last byte
    the same, but without trailers    compared afterwards with the MD5 that NetStorage made

A stream passes its bytes on only while the lease lives: a lost lease, or bytes that S3 does not vouch for, stop it
before the last chunk, so nothing is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from s3nsync.decide import Declared, Upload
from s3nsync.engine.access import Access
from s3nsync.engine.parties import Opened
from s3nsync.errors import TargetPrecondition
from s3nsync.netstorage.wire import AtEnd

Offload = Callable[[Callable[[bytes], None], bytes], Awaitable[None]]
"""Runs a hash update with its bytes away from the event loop."""

STREAM_BYTES = 2 * 1024 * 1024
"""What one streamed object holds of the byte budget: a chunk being read, one held back, one being sent."""

WHOLE_EXTRA_PART = 4
"""An object held whole is charged a quarter more than its size: pieces that are being joined, TLS records on their way.
With 256 objects of 1 MiB at once, each byte held so was seen to cost 1.5 of memory."""

HASH_INLINE_BYTES = 64 * 1024
"""Below this, hashing (some 60 us) costs less than handing the bytes to a thread."""

STAT_WAITS_S = (0.0, 0.5, 2.0, 5.0)
"""When NetStorage's MD5 is asked for after an upload: a replica that is behind gets this long to catch up."""


@dataclass(slots=True)
class Sending:
    """One object on its way to one path; `whole` or `streamed` sends it, once, and gives the name of its proof."""

    access: Access
    path: str
    opened: Opened
    upload: Upload
    offload: Offload

    async def whole(self) -> str:
        """Send an object held whole: the client may repeat it in place."""
        body = await self.opened.read_all()
        proof = self.upload.proof
        digest = proof if isinstance(proof, Declared) else await self._sha256(body)
        await self.access.upload(self.path, body, size_bytes=len(body), mtime_s=self.upload.mtime_s, digest=digest)
        return digest.algorithm

    async def streamed(self, *, trailers: bool) -> str:
        """Send an object as it is read; `trailers`: a digest that S3 does not know may follow the bytes."""
        if isinstance(self.upload.proof, Declared):
            return await self._declared(self.upload.proof)
        return await (self._hashed_at_end() if trailers else self._compared_afterwards())

    async def _declared(self, digest: Declared) -> str:
        async with aclosing(self._leaving()) as body:
            await self.access.upload(
                self.path, body, size_bytes=self.opened.info.size_bytes, mtime_s=self.upload.mtime_s, digest=digest
            )
        return digest.algorithm

    async def _hashed_at_end(self) -> str:
        digest = hashlib.sha256()
        async with aclosing(self._leaving(digest.update)) as body:
            await self.access.upload(
                self.path,
                body,
                size_bytes=self.opened.info.size_bytes,
                at_end=lambda: AtEnd(sha256=digest.hexdigest(), mtime_s=self.upload.mtime_s),
            )
        return "sha256 at end"

    async def _compared_afterwards(self) -> str:
        digest = hashlib.md5(usedforsecurity=False)
        async with aclosing(self._leaving(digest.update)) as body:
            await self.access.upload(
                self.path, body, size_bytes=self.opened.info.size_bytes, mtime_s=self.upload.mtime_s
            )
        for wait_s in STAT_WAITS_S:
            await self.access.sleep(wait_s)
            entry = await self.access.stat(self.path)
            if entry is not None and entry.md5 == digest.hexdigest():
                return "md5 by stat"
        msg = f"{self.path}: NetStorage's md5 is not that of the bytes sent"
        raise TargetPrecondition(msg)

    async def _leaving(self, update: Callable[[bytes], None] | None = None) -> AsyncGenerator[bytes, None]:
        """Pass the bytes on, hashed by `update`, while the lease lives; each chunk pays its toll."""
        hand = self.access.hand
        left_bytes = self.opened.info.size_bytes
        async for chunk in self.opened.chunks():
            if update is not None:
                await self.offload(update, chunk)
            left_bytes -= len(chunk)
            await self.access.pay(requests=0, size_bytes=len(chunk))
            hand.progress()
            hand.check()
            if left_bytes == 0:
                hand.debt.last_byte_leaves()
            yield chunk

    async def _sha256(self, body: bytes) -> Declared:
        digest = hashlib.sha256()
        if len(body) <= HASH_INLINE_BYTES:
            digest.update(body)
        else:
            await self.offload(digest.update, body)
        return Declared("sha256", digest.hexdigest())
