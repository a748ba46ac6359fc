"""Reading ahead."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from s3nsync.reconcile.listing.ahead import in_order


async def test_a_stream_that_fails_as_it_is_closed_is_told_and_never_waited_for() -> None:
    """Whatever a stream raises, at its very end too, reaches the reader."""

    async def read(_stretch: int) -> AsyncGenerator[list[int], None]:
        try:
            yield [1]
        finally:
            raise OSError("no room left for the spill")

    batches = in_order([0], read, parallel=1)
    assert await anext(batches) == [1]
    with pytest.raises(OSError, match="no room"):
        await asyncio.wait_for(anext(batches), 60)
