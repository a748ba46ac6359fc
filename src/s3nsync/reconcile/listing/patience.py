"""Asking again: a listing of hours must not end because a server was busy for a minute.

Reading changes nothing, so whatever may pass by itself (errors.py says what) is waited for, longer each time.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

from s3nsync.errors import S3nsyncError
from s3nsync.pacing import Backoff

T = TypeVar("T")

TRIES = 8
"""Tries of one page; with the back-off below they take some twenty seconds, and longer where the server asks for it."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a page is asked for, and how long the waits in between are."""

    tries: int = TRIES
    backoff: Backoff = field(default_factory=lambda: Backoff(0.2, 10.0))
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def ask(self, page: Callable[[], Awaitable[T]]) -> T:
        """Give what `page` gives; raise what it raises when it is final, or stays."""
        for failures in itertools.count(1):
            try:
                return await page()
            except S3nsyncError as error:
                if not error.transient or failures == self.tries:
                    raise
                await self.sleep(self.backoff.delay_s(failures, error.retry_after_s))
        raise AssertionError(page)
