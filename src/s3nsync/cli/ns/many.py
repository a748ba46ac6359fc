"""One thing done to many files at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from s3nsync.cli.by_hand import advise
from s3nsync.cli.ui import Ui
from s3nsync.errors import S3nsyncError

T = TypeVar("T")

JOBS = 8
"""Files under way at once in recursive verbs: enough to hide the round trips, few enough for a shared account."""

_RUN_AGAIN = "each is named above; run it again for the rest"


async def each_of(items: AsyncIterator[T], work: Callable[[T], Awaitable[None]], jobs: int, ui: Ui) -> None:
    """Work on all items, `jobs` at once; what fails is named at once and counted at the end.

    Stops taking more when the account or the connection itself is at fault: the rest would fail alike.
    """
    slots = asyncio.Semaphore(jobs)
    failed: list[S3nsyncError] = []
    broken: S3nsyncError | None = None

    async def one(item: T) -> None:
        try:
            await work(item)
        except S3nsyncError as error:
            advise(error)
            failed.append(error)
            ui.fail(error)
        except OSError as error:
            failed.append(S3nsyncError(str(error), hint="check the file that is named"))
            ui.fail(failed[-1])
        finally:
            slots.release()

    async with asyncio.TaskGroup() as group:
        try:
            async for item in items:
                await slots.acquire()
                if any(error.exit_code == 3 for error in failed):
                    break
                group.create_task(one(item))
        except S3nsyncError as error:
            broken = error
    if broken is not None:
        raise broken
    if failed:
        worst = max(failed, key=lambda error: error.exit_code == 3)
        raise worst if worst.exit_code == 3 else S3nsyncError(f"{len(failed)} failed", hint=_RUN_AGAIN)
