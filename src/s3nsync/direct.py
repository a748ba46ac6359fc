"""`--direct`: the work done in this process, by the engine and, for what does not go well, by the real worker.

    lister -> Express: copies that go well at the first try; the lister waits when it is full
                 |
                 v   all others
              bulk queue -> worker -> check queue: looked at again after the grace

What the worker does is what it does in a container: a look at S3 before and, since others may write the key at the same
time, after each copy (many together: `second_look`); a Check after the grace for whatever may still land; burial, with
the reason, of what cannot be done. Only the queues do not outlive the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from s3nsync.app import App, assemble, suspended_clock_s
from s3nsync.aws import CredentialSource
from s3nsync.events import Burial
from s3nsync.model import QueueName, Report
from s3nsync.queues.memory import MemoryQueue
from s3nsync.reconcile.express import Express
from s3nsync.settings import Settings

CAPACITY = 2_000
"""Changes that wait in memory: some seconds of work, and a megabyte."""

LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Direct:
    """Everything at work: `express` takes Changes, `bulk` is what the worker lives on, `work` the task of both."""

    app: App
    express: Express
    bulk: MemoryQueue
    check: MemoryQueue
    work: asyncio.Task[None]

    async def finished(self, on_checks: Callable[[int], None]) -> None:
        """Wait until everything is done; `on_checks` hears how many Checks are still waited for, when only they are."""
        told = False
        while self.express.count or self.bulk.count or self.check.count or self.app.worker.held:
            if not self.express.count and not self.bulk.count and not told:
                told = True
                on_checks(self.check.count)
            if self.app.worker.stopping:
                return
            await asyncio.sleep(LOOK_S)

    async def stopped(self, on_work: Callable[[int], None]) -> None:
        """Take nothing more and wait for what is in hand; `on_work` hears how much that is, if it is any."""
        self.express.stop()
        self.app.worker.stop()
        held = self.express.at_work + self.app.worker.held
        if held:
            on_work(held)
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
        express = Express(
            engine=app.engine,
            s3=app.s3,
            at_once=settings.worker.max_in_flight,
            leave=bulk.send,
            owe=check.send,
            report=report,
            clock_s=suspended_clock_s,
        )
        work = asyncio.create_task(_work(app, express, queues))
        try:
            yield Direct(app, express, bulk, check, work)
        finally:
            express.stop()
            app.worker.stop()
            await _close(queues)
            await work


async def _work(app: App, express: Express, queues: Mapping[QueueName, MemoryQueue]) -> None:
    """Run both; when the worker dies nobody may go on waiting for it, and it waits for what the other has in hand."""
    copying = asyncio.create_task(express.run())
    copying.add_done_callback(lambda _task: app.worker.stop())
    try:
        await app.worker.run()
    finally:
        express.stop()
        await _close(queues)
        _, late = await asyncio.wait([copying], timeout=app.settings.worker.drain_s)
        for task in late:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await copying


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
