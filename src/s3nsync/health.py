"""Whether this container's worker is alive and working, for whoever decides to replace it.

    worker process   answering()  one JSON line of facts (Health) to each connection, from its own event loop
    health check     look()       ask, wait 3 s at most, judge -> Finding

The worker states facts and the asker judges, so that a worker that cannot speak any more is judged too: a blocked
event loop gives no answer in time, and that is the finding. A worker that speaks is unhealthy only if it ought to take
messages and the live queue has not answered for two minutes.

The socket is a Linux abstract one: it needs no file system, so the root may be read-only, and it ends with its process,
so nothing stale is left. It tells nothing secret, for abstract sockets have no permissions.

A health check starts every 30 seconds, on a fraction of a core: `python -m s3nsync.health` imports the standard library
only and takes a tenth of the time that `s3nsync health` does. Both say the same.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from s3nsync import __version__

if TYPE_CHECKING:
    import asyncio

State = Literal["running", "paused", "stopping"]

ANSWER_WITHIN_S = 3.0
"""The answer takes a millisecond; an event loop that is blocked for longer renews no leases either. Less than the 5 s
that ECS and this image give the whole check."""

SILENCE_MAX_S = 120.0
"""Six long polls of 20 s, the longest that SQS allows: one that fails, or some, are the network's ordinary life."""


@dataclass(frozen=True, slots=True)
class Health:
    """What a worker says of itself; `silence_s` is for how long the live queue has not answered though it should."""

    state: State
    in_flight: int
    silence_s: float
    version: str = __version__


@dataclass(frozen=True, slots=True)
class Finding:
    """The judgement, in one line; `health` is None if there was no answer."""

    healthy: bool
    text: str
    health: Health | None = None

    def facts(self) -> dict[str, object]:
        """Give everything as JSON-able data."""
        return {"healthy": self.healthy, "reason": self.text, **(asdict(self.health) if self.health else {})}


def judge(health: Health) -> Finding:
    """Say what a worker's own words mean. Paused and stopping are healthy: both are intended, and both end."""
    facts = f"{health.state}, {health.in_flight} in flight, live queue heard {health.silence_s:.0f} s ago"
    if health.state == "running" and health.silence_s > SILENCE_MAX_S:
        return Finding(
            healthy=False,
            text=f"unhealthy: {facts}; see the log for why receiving fails, and check the network path to SQS",
            health=health,
        )
    return Finding(healthy=True, text=f"healthy: {facts}, version {health.version}", health=health)


def socket_name() -> str:
    """Give the name of this container's socket; raises OSError where there is no Linux.

    Abstract names belong to the network namespace, which containers can share (`--network host`, one ECS task), so the
    name has that of the process namespace in it, which they do not.
    """
    return f"\0s3nsync-health-{Path('/proc/self/ns/pid').readlink()}"


@asynccontextmanager
async def answering(state: Callable[[], Health], name: str | None = None) -> AsyncIterator[None]:
    """Tell `state` to everybody who asks, while the block runs; raises OSError if the name is taken."""
    import asyncio  # noqa: PLC0415 - the health check starts in a third of the time without it

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # whoever asked may have gone
            writer.write(json.dumps(asdict(state())).encode() + b"\n")
            writer.close()
            await writer.wait_closed()

    # Bound here, for uvloop takes no abstract name.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(name or socket_name())
        async with await asyncio.start_unix_server(answer, sock=listener):
            yield


def look(name: str | None = None, *, within_s: float = ANSWER_WITHIN_S) -> Finding:
    """Ask the worker and judge; a worker that cannot be asked is a finding, never an error."""
    try:
        line = _ask(name or socket_name(), within_s)
    except TimeoutError:
        return _no_answer(f"the worker gave no answer in {within_s:g} s: its event loop is blocked or has no processor")
    except OSError as error:
        return _no_answer(f"no worker is running here ({error.strerror or error}): start-up may be under way or failed")
    try:
        return judge(_parse(line))
    except ValueError:
        return _no_answer("what answered is not this version's worker")


def _no_answer(reason: str) -> Finding:
    return Finding(healthy=False, text=f"unhealthy: {reason}; see the log")


def _ask(name: str, within_s: float) -> bytes:
    """Give the answer: one short write, so one read."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asker:
        asker.settimeout(within_s)
        asker.connect(name)
        return asker.recv(4096)


def _parse(line: bytes) -> Health:
    """Read a worker's answer; raises ValueError."""
    match json.loads(line):
        case {
            "state": "running" | "paused" | "stopping" as state,
            "in_flight": int(in_flight),
            "silence_s": int() | float() as silence_s,
            "version": str(version),
        }:
            return Health(state, in_flight, silence_s, version)
        case _:
            raise ValueError(line)


def main(name: str | None = None) -> int:
    """Be the container's health check: one line on standard output; 0 is healthy, 1 is not."""
    finding = look(name)
    sys.stdout.write(finding.text + "\n")
    return 0 if finding.healthy else 1


if __name__ == "__main__":
    sys.exit(main())
