"""Leases run on while their work moves: an extender renews them, marks the lost ones, and cuts work that stands still.

A lease that is marked lost stops its hand at the next `Hand.check`: before a signature, before a stream's next bytes,
or after the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog

from s3nsync.errors import QueueError, QueueMissing, TransportError
from s3nsync.model import QueueName
from s3nsync.queues import Queue
from s3nsync.worker.hands import Hand, Lease

log = structlog.get_logger("s3nsync.extender")

LEASE_LIFE_S = 12 * 3600.0 - 60.0
"""SQS lets a message be held for 12 hours from its first receive, whatever is asked (SQS API reference)."""


class Extender:
    """Keeps the leases of the hands that are at work, or wait to be; `hands` gives them as they are now."""

    def __init__(
        self,
        *,
        queues: Mapping[QueueName, Queue],
        hands: Callable[[], Iterable[Hand]],
        lease_s: float,
        stall_s: float,
        clock_s: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        """Wire the extender; a lease is renewed for `lease_s`, work that stands still for `stall_s` is cut."""
        self._queues = queues
        self._hands = hands
        self._lease_s = lease_s
        self._stall_s = stall_s
        self._clock_s = clock_s
        self._sleep = sleep

    async def run(self) -> None:
        """Go on until cancelled: renew leases when a third of their time is gone, cut work that does not move."""
        while True:
            await self._sleep(min(1.0, self._lease_s / 20))
            now_s = self._clock_s()
            due: dict[QueueName, list[Lease]] = {}
            for hand in self._hands():
                if hand.is_stalled(self._stall_s):
                    log.error("work does not move and is cut", ref=str(hand.change.ref))
                    hand.progress()
                    hand.cut()
                    continue
                due.setdefault(hand.queue, []).extend(lease for lease in hand.leases if self._is_due(lease, now_s))
            await asyncio.gather(*(self._extend(self._queues[name], leases) for name, leases in due.items() if leases))

    def _is_due(self, lease: Lease, now_s: float) -> bool:
        fresh = lease.ends_s - now_s > self._lease_s * 2 / 3
        return not (fresh or lease.lost or now_s - lease.taken_s > LEASE_LIFE_S)

    async def _extend(self, queue: Queue, leases: list[Lease]) -> None:
        asked_s = self._clock_s()
        for lease in leases:
            # Over is over: SQS may well say yes to a receipt that stands for nothing any more.
            lease.lost = lease.lost or asked_s > lease.ends_s
        leases = [lease for lease in leases if not lease.lost]
        if not leases:
            return
        try:
            refused = await queue.extend([lease.delivery for lease in leases], self._lease_s)
        except QueueMissing:
            raise
        except (QueueError, TransportError) as error:
            log.warning("leases could not be extended yet", queue=queue.name, reason=error.message)
            return
        lost = {delivery.receipt for delivery in refused}
        for lease in leases:
            if lease.delivery.receipt in lost:
                lease.lost = True
            else:
                lease.ends_s = asked_s + self._lease_s
