"""Reading ahead: several streams at once, their batches in the order of the streams.

Listings have a natural order and a slow server. So the next stretches are read while the first is still being given
out; each may be a few batches ahead of its reader and then waits, which bounds memory whatever the stretches' sizes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Generic, TypeVar

R = TypeVar("R")
Batch = TypeVar("Batch", bound=Sequence[object])

BATCHES_AHEAD = 8
"""Batches that one stream may be ahead: 8 streams of 1,000 items are about 30 MB."""


class _Pump(Generic[Batch]):
    """One stream, read by a task of its own into a short queue."""

    def __init__(self, stream: AsyncGenerator[Batch, None], ahead: int) -> None:
        self._queue: asyncio.Queue[Batch | Exception | None] = asyncio.Queue(ahead)
        self._task = asyncio.create_task(self._run(stream))

    async def _run(self, stream: AsyncGenerator[Batch, None]) -> None:
        end: Exception | None = None
        try:
            async with aclosing(stream):
                async for batch in stream:
                    await self._queue.put(batch)
        except Exception as error:  # noqa: BLE001 -- it is raised where the stream is read
            end = error
        await self._queue.put(end)

    async def next(self) -> Batch | None:
        """Give the next batch, None at the end; raise what the stream raised."""
        batch = await self._queue.get()
        if isinstance(batch, Exception):
            raise batch
        return batch

    async def aclose(self) -> None:
        """Stop reading."""
        self._task.cancel()
        await asyncio.wait([self._task])


async def in_order(
    stretches: Iterable[R],
    read: Callable[[R], AsyncGenerator[Batch, None]],
    *,
    parallel: int,
    ahead: int = BATCHES_AHEAD,
) -> AsyncGenerator[Batch, None]:
    """Give the batches of all stretches, in their order; up to `parallel` are read at once, each `ahead` batches.

    Raises what a stream raises, when its turn comes. No task is left behind when the generator is closed.
    """
    waiting = iter(stretches)
    pumps: deque[_Pump[Batch]] = deque()

    def start_more() -> None:
        for stretch in waiting:
            pumps.append(_Pump(read(stretch), ahead))
            if len(pumps) >= parallel:
                return

    try:
        start_more()
        while pumps:
            while (batch := await pumps[0].next()) is not None:
                yield batch
            await pumps.popleft().aclose()
            start_more()
    finally:
        for pump in pumps:
            await pump.aclose()
