"""The stand-ins for SQS that queue tests run against, each behind the product's own adapter.

    model       `sim.sqs` behind `sqs_stub`, in this process, on a clock that the test moves
    ministack   an emulator of AWS, with its signatures checked (`aws_emulator`)
    moto        another one, started here from an environment of its own

None of them was compared with AWS itself: what "right" means comes from the SQS Developer Guide and API reference.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from aws_emulator import REGION
from ports import own_port
from s3nsync.http import Http
from s3nsync.queues.sqs import SqsQueue
from s3nsync.sigv4 import Credentials
from sqs_stub import SqsStub

Name = Literal["model", "ministack", "moto"]
NAMES: tuple[Name, ...] = ("model", "ministack", "moto")
MOTO = Path(__file__).parents[1] / ".venv-moto" / "bin" / "moto_server"
START_S = 240.0
ANY_KEYS = Credentials("AKIDEXAMPLE", "secret-of-tests")
ACCOUNTS: Mapping[Name, str] = {"model": "000000000000", "ministack": "000000000000", "moto": "123456789012"}


@dataclass(frozen=True, slots=True)
class Keys:
    """A source of credentials that gives the same ones always."""

    keys: Credentials = ANY_KEYS

    async def get(self) -> Credentials:
        """Give the keys."""
        return self.keys

    async def renew(self, refused: Credentials) -> Credentials:
        """Give none other."""
        return refused


@dataclass
class Clock:
    """Unix time that stands, and jumps ahead when a test says so."""

    at_s: float = field(default_factory=time.time)

    def __call__(self) -> float:
        """Say what time it is."""
        return self.at_s


@dataclass(frozen=True, slots=True)
class Place:
    """Where an emulator is, and what to sign with."""

    url: str
    keys: Credentials = ANY_KEYS


@dataclass
class StandIn:
    """One running stand-in, with an HTTP client: makes queues, opens adapters on them, lets time pass."""

    name: Name
    place: Place
    http: Http
    stub: SqsStub | None = None
    clock: Clock = field(default_factory=Clock)
    opened: list[SqsQueue] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    async def make(self, **attributes: str) -> str:
        """Make a FIFO queue and give its URL; the attributes are those of CreateQueue."""
        name = f"{self.name}-{next(self.numbers)}-{time.time_ns():x}.fifo"
        payload = {"QueueName": name, "Attributes": {"FifoQueue": "true", **attributes}}
        return str((await self.call(self.place.url, "CreateQueue", payload))["QueueUrl"])

    async def make_pair(self, max_receives: int) -> tuple[str, str]:
        """Make a queue with a dead-letter queue; gives both URLs."""
        dead = await self.make()
        policy = json.dumps({"deadLetterTargetArn": self.arn(dead), "maxReceiveCount": max_receives})
        return await self.make(RedrivePolicy=policy), dead

    def arn(self, url: str) -> str:
        """Name a queue the way policies do."""
        return f"arn:aws:sqs:{REGION}:{ACCOUNTS[self.name]}:{url.rpartition('/')[2]}"

    def queue(self, url: str, *, lease_s: float = 60, dead_url: str | None = None) -> SqsQueue:
        """Open the product's adapter on a queue."""
        queue = SqsQueue(
            "live",
            url,
            self.http,
            Keys(self.place.keys),
            region=REGION,
            lease_s=lease_s,
            dead_url=dead_url,
            endpoint=self.place.url,
        )
        self.opened.append(queue)
        return queue

    async def call(self, url: str, action: str, payload: Mapping[str, object]) -> Mapping[str, Any]:
        """Make a call of SQS that the adapter does not make; raises QueueError as the adapter does."""
        return await self.queue(url)._call(action, payload)

    async def pass_s(self, seconds: float) -> None:
        """Let time pass: at once where the clock is ours."""
        if self.stub is None:
            await asyncio.sleep(seconds)
        else:
            self.clock.at_s += seconds
            self.stub.wake()


@contextlib.asynccontextmanager
async def stand_in(name: Name, place: Place | None) -> AsyncIterator[StandIn]:
    """Connect to the emulator at `place`, or start the model; every adapter opened must have settled all in the end."""
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(Http())
        clock = Clock()
        stub = None
        if place is None:
            stub = await stack.enter_async_context(SqsStub(clock))
            place = Place(stub.url)
        made = StandIn(name, place, http, stub, clock)
        try:
            yield made
        finally:
            for queue in made.opened:
                await queue.aclose()
                assert "0 settling" in repr(queue)


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[Place]:
    """Run moto's server on a free port until the block ends."""
    port = own_port()
    with (folder / "moto.log").open("wb") as log:
        process = subprocess.Popen([MOTO, "-H", "127.0.0.1", "-p", str(port)], cwd=folder, stdout=log, stderr=log)
        try:
            _await(port, process)
            yield Place(f"http://127.0.0.1:{port}")
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _await(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/moto-api/data.json")
            connection.getresponse().read()
            return
        time.sleep(0.05)
    raise RuntimeError(f"moto did not start on port {port} (exit code {process.poll()})")
