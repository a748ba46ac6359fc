"""`--direct`: the real worker in this process, on queues in memory.

The lister fills the bulk queue and waits when it is full. What the worker does is what it does in a container: a look
at S3 before and, since others may write the key at the same time, after each copy (many together: `second_look`); a
Check after the grace for whatever may still land; burial, with the reason, of what cannot be done. Only the queues do
not outlive the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from s3nsync.app import App, assemble, suspended_clock_s
from s3nsync.aws import CredentialSource
from s3nsync.events import Burial
from s3nsync.model import QueueName, Report
from s3nsync.queues.memory import MemoryQueue
from s3nsync.settings import Settings

CAPACITY = 2_000
"""Changes that wait in memory: some seconds of work, and a megabyte."""

LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Direct:
    """A running worker: `bulk` is what it lives on, `work` the task that it runs in."""

    app: App
    bulk: MemoryQueue
    check: MemoryQueue
    work: asyncio.Task[None]

    async def finished(self, on_checks: Callable[[int], None]) -> None:
        """Wait until everything is done; `on_checks` hears how many Checks are still waited for, when only they are."""
        told = False
        while self.bulk.count or self.check.count or self.app.worker.held:
            if not self.bulk.count and not told:
                told = True
                on_checks(self.check.count)
            if self.app.worker.stopping:
                return
            await asyncio.sleep(LOOK_S)

    async def stopped(self, on_work: Callable[[int], None]) -> None:
        """Take nothing more and wait for what is in hand; `on_work` hears how much that is, if it is any."""
        self.app.worker.stop()
        if self.app.worker.held:
            on_work(self.app.worker.held)
        await asyncio.wait([self.work])


@asynccontextmanager
async def working(
    settings: Settings,
    *,
    report: Callable[[Report], None],
    on_burial: Callable[[Burial], None],
    credentials: CredentialSource | None = None,
) -> AsyncIterator[Direct]:
    """Run a worker for the length of the block; one that dies ends the block with its error.

    `settings` are whole (`app.resolve`). What is still queued at the end of the block is dropped, what is in hand is
    finished.
    """

    def queue(name: QueueName, capacity: int | None = None, delay_s: float = 0.0) -> MemoryQueue:
        return MemoryQueue(
            name,
            lease_s=settings.worker.lease_s,
            clock_s=suspended_clock_s,
            now_s=time.time,
            delay_s=delay_s,
            capacity=capacity,
            on_burial=on_burial,
        )

    bulk, check = queue("bulk", CAPACITY), queue("check", delay_s=settings.worker.grace_s)
    queues: dict[QueueName, MemoryQueue] = {"live": queue("live"), "bulk": bulk, "check": check}
    async with assemble(settings, report=report, credentials=credentials, in_memory=queues) as app:
        await app.probe()
        work = asyncio.create_task(_work(app, queues))
        try:
            yield Direct(app, bulk, check, work)
        finally:
            app.worker.stop()
            await _close(queues)
            await work


async def _work(app: App, queues: Mapping[QueueName, MemoryQueue]) -> None:
    """Run the worker; when it dies nobody may go on waiting for it."""
    try:
        await app.worker.run()
    finally:
        await _close(queues)


async def _close(queues: Mapping[QueueName, MemoryQueue]) -> None:
    for each in queues.values():
        await each.aclose()


def idle_queues(settings: Settings) -> dict[QueueName, MemoryQueue]:
    """Give queues for a worker that never runs: for whoever wants the clients beside it, and has no queues."""
    names: tuple[QueueName, ...] = ("live", "check")
    return {
        name: MemoryQueue(name, lease_s=settings.worker.lease_s, clock_s=suspended_clock_s, now_s=time.time)
        for name in names
    }
