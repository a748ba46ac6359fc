"""The health check: what is judged healthy, what a worker says of itself, and that its word reaches whoever asks."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from fakes import NOW_S, FakeGate, FakeQueue
from s3nsync import __version__, health
from s3nsync.cli import commands as cli
from s3nsync.cli.ui import Ui
from s3nsync.engine import Hand
from s3nsync.errors import QueueError
from s3nsync.health import SILENCE_MAX_S, Finding, Health, answering, judge, look, socket_name
from s3nsync.model import Change, Copied, ObjectRef, Outcome
from s3nsync.worker import Limits, Worker

Loop = Callable[[], asyncio.AbstractEventLoop]
LOOPS = [pytest.param(asyncio.new_event_loop, id="asyncio"), pytest.param(uvloop.new_event_loop, id="uvloop")]
FINE = Health("running", 3, 1.5)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """Give a socket name that is this test's alone."""
    return f"\0s3nsync-test-{os.getpid()}-{id(request)}"


def _run(loop: Loop, work: Coroutine[object, object, Finding]) -> Finding:
    with asyncio.Runner(loop_factory=loop) as runner:
        return runner.run(work)


@contextmanager
def _listener(name: str, answer: bytes | None) -> Iterator[None]:
    """Be somebody who takes one connection and sends these bytes, or (None) never takes it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind(name)
        server.listen()
        server.settimeout(60)

        def serve() -> None:
            with server.accept()[0] as taken:
                taken.sendall(answer or b"")

        thread = threading.Thread(target=serve)
        if answer is not None:
            thread.start()
        try:
            yield
        finally:
            if answer is not None:
                thread.join()


@pytest.mark.parametrize(
    ("state", "silence_s", "healthy"),
    [
        ("running", 0.0, True),
        ("running", SILENCE_MAX_S, True),
        ("running", SILENCE_MAX_S + 0.1, False),
        ("paused", 3600.0, True),
        ("stopping", 3600.0, True),
    ],
)
def test_only_a_worker_that_should_take_messages_and_cannot_is_unhealthy(
    state: health.State, silence_s: float, healthy: bool
) -> None:
    """Paused and stopping are intended: to replace such a worker would only lose its work."""
    finding = judge(Health(state, 1, silence_s))
    assert finding.healthy is healthy
    assert "\n" not in finding.text


@pytest.mark.parametrize("loop", LOOPS)
def test_a_workers_word_arrives(name: str, loop: Loop) -> None:
    """State, figures and version come through the socket as the worker gave them, as often as somebody asks."""

    async def serve_and_ask() -> Finding:
        told = iter([Health("stopping", 7, 0.0), FINE])
        async with answering(lambda: next(told), name):
            await asyncio.to_thread(look, name)
            return await asyncio.to_thread(look, name)

    found = _run(loop, serve_and_ask())
    assert found.health == FINE
    assert found.facts() == {
        "healthy": True,
        "reason": f"healthy: running, 3 in flight, live queue heard 2 s ago, version {__version__}",
        "state": "running",
        "in_flight": 3,
        "silence_s": 1.5,
        "version": __version__,
    }


@pytest.mark.parametrize("loop", LOOPS)
def test_a_blocked_event_loop_is_unhealthy(name: str, loop: Loop) -> None:
    """The kernel takes the connection, but nobody speaks."""

    async def block_and_ask() -> Finding:
        async with answering(lambda: FINE, name):
            return look(name, within_s=0.05)  # on the loop's own thread, so that it is blocked

    found = _run(loop, block_and_ask())
    assert not found.healthy
    assert "no answer in 0.05 s" in found.text


@pytest.mark.parametrize("loop", LOOPS)
def test_nothing_is_left_when_the_worker_ends(name: str, loop: Loop) -> None:
    """The name is free again at once, and who asks then hears that nobody is there."""

    async def twice() -> Finding:
        for _ in range(2):
            async with answering(lambda: FINE, name):
                assert (await asyncio.to_thread(look, name)).healthy
        return look(name)

    found = _run(loop, twice())
    assert not found.healthy
    assert "no worker is running here" in found.text


@pytest.mark.parametrize("loop", LOOPS)
def test_who_connects_and_goes_hurts_nobody(name: str, loop: Loop) -> None:
    """Askers that hang up, or say something nobody asked for, cost the next one nothing."""

    async def rudely() -> Finding:
        async with answering(lambda: FINE, name):
            for word in (b"", b"GET / HTTP/1.1\r\n\r\n", b"x" * 100_000):
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as rude, suppress(OSError):
                    rude.connect(name)
                    rude.settimeout(0.5)
                    rude.send(word)
            return await asyncio.to_thread(look, name)

    assert _run(loop, rudely()).healthy


async def test_a_name_that_is_taken_is_an_error(name: str) -> None:
    """Two workers in one container: the second is told, and the first goes on answering."""
    async with answering(lambda: FINE, name):
        with pytest.raises(OSError, match="in use"):
            async with answering(lambda: FINE, name):
                pytest.fail("both got the name")
        assert (await asyncio.to_thread(look, name)).healthy


def test_a_process_that_listens_but_never_answers_is_unhealthy(name: str) -> None:
    """A frozen process still has its socket."""
    with _listener(name, None):
        assert not look(name, within_s=0.05).healthy


@given(st.binary(max_size=200) | st.from_type(dict[str, int | str | None]).map(lambda each: json.dumps(each).encode()))
def test_a_strange_answer_is_a_finding(answer: bytes) -> None:
    """Whatever sits on the socket: no traceback, and never healthy."""
    strange = f"\0s3nsync-test-strange-{os.getpid()}"
    with _listener(strange, answer):
        found = look(strange)
    assert not found.healthy
    assert found.health is None


def test_a_state_that_this_version_does_not_know_is_not_healthy(name: str) -> None:
    """Old and new versions never share a container, so the shape is checked strictly."""
    with _listener(name, b'{"state": "dancing", "in_flight": 0, "silence_s": 0, "version": "9"}\n'):
        assert look(name).text == "unhealthy: what answered is not this version's worker; see the log"


async def test_the_command_tells_by_exit_code_and_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """0 is healthy and 1 is not, in both forms of the command, and --json has the facts."""
    people, machine = io.StringIO(), io.StringIO()
    async with answering(lambda: FINE, name):
        assert await asyncio.to_thread(health.main, name) == 0
        assert await asyncio.to_thread(cli._show_health, Ui(stdout=people), name) == 0
        assert await asyncio.to_thread(cli._show_health, Ui(as_json=True, stdout=machine), name) == 0
    line = f"healthy: running, 3 in flight, live queue heard 2 s ago, version {__version__}\n"
    assert capsys.readouterr().out == people.getvalue() == line
    assert json.loads(machine.getvalue()) == {"type": "health", **judge(FINE).facts()}

    assert health.main(name) == 1
    assert cli._show_health(Ui(as_json=True, stdout=io.StringIO()), name) == 1


def test_the_name_is_this_process_namespaces_own() -> None:
    """Containers that share a network do not answer for each other."""
    assert socket_name() == f"\0s3nsync-health-{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - said another way


def test_the_check_imports_the_standard_library_only() -> None:
    """It runs twice a minute on a fraction of a core: neither the AWS SDK nor an event loop is loaded for it."""
    code = "import sys, s3nsync.health; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    heavy = {"asyncio", "boto3", "botocore", "pydantic", "rich", "structlog", "typer"}
    assert not heavy & set(done.stdout.split())


def test_the_health_check_of_the_image_is_this_one() -> None:
    """The Dockerfile names the module; a rename must not leave it behind."""
    dockerfile = (Path(__file__).parents[2] / "Dockerfile").read_text()
    assert '"-m", "s3nsync.health"]' in dockerfile
    assert f'org.opencontainers.image.version="{__version__}"' in dockerfile


# --- what a worker says of itself ------------------------------------------------------------------------------


class Scene:
    """A real worker with one slot, on a clock that the test moves; `outcome` is what its next work comes to."""

    def __init__(self) -> None:
        self.clock = 1000.0
        self.live = FakeQueue("live", clock_s=lambda: self.clock)
        self.gate = FakeGate()
        self.working = asyncio.Event()
        self.outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.worker = Worker(
            live=self.live,
            bulk=None,
            check=FakeQueue("check", clock_s=lambda: self.clock),
            engine=self,
            gate=self.gate,
            limits=Limits(max_in_flight=1, poll_wait_s=0.02, stall_s=1e6, lease_s=1e6),
            report=lambda _report: None,
            clock_s=lambda: self.clock,
            now_s=lambda: NOW_S,
        )

    async def replicate(self, change: Change, hand: Hand) -> Outcome:
        del change, hand
        self.working.set()
        return await self.outcome

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.worker.run())
        try:
            yield
        finally:
            self.worker.stop()
            await asyncio.wait_for(task, 60)

    async def work(self) -> None:
        """Have the worker's one slot busy."""
        self.live.put(Change(ObjectRef("media", "a.txt"), "put"))
        await asyncio.wait_for(self.working.wait(), 60)

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not holds():
                await asyncio.sleep(0.001)


async def test_an_answer_of_the_live_queue_ends_the_silence() -> None:
    """Empty answers count: an idle worker is a healthy one."""
    scene = Scene()
    scene.clock += 500
    assert scene.worker.silence_s == 500
    async with scene.running():
        await scene.until(lambda: scene.worker.silence_s == 0)


async def test_a_live_queue_that_fails_is_silent() -> None:
    """The answers of other queues do not help, and the first good one does."""
    scene = Scene()
    scene.live.fail_next = [QueueError("SQS: 503") for _ in range(1000)]
    async with scene.running():
        await scene.until(lambda: len(scene.live.fail_next) < 1000)
        scene.clock += SILENCE_MAX_S + 1
        assert scene.worker.silence_s == SILENCE_MAX_S + 1
        assert not judge(cli._health(scene.worker)).healthy
        scene.live.fail_next.clear()
        await scene.until(lambda: scene.worker.silence_s == 0)


async def test_a_worker_with_every_slot_at_work_is_not_silent() -> None:
    """It does not ask because it has no hand free; its silence counts from when it has."""
    scene = Scene()
    async with scene.running():
        await scene.work()
        scene.clock += 3600
        assert cli._health(scene.worker) == Health("running", 1, 0.0)
        scene.live.fail_next = [QueueError("SQS: 503") for _ in range(1000)]
        scene.outcome.set_result(Copied("/123456/a.txt", 1, "md5"))
        await scene.until(lambda: scene.worker.in_flight == 0)
        assert scene.worker.silence_s == 0
        scene.clock += 30
        assert scene.worker.silence_s == 30
        scene.live.fail_next.clear()


async def test_the_silence_of_a_pause_counts_from_its_end() -> None:
    """A worker that paused is not called ill in the moment in which it asks again."""
    scene = Scene()
    async with scene.running():
        scene.gate.wants = 0
        scene.clock += 3600
        assert cli._health(scene.worker) == Health("paused", 0, 0.0)
        await scene.until(lambda: scene.worker._heard_s == scene.clock)  # a look at the gate, and no answer: none came
        scene.live.fail_next = [QueueError("SQS: 503") for _ in range(1000)]
        scene.gate.wants = 10
        scene.clock += 8
        assert cli._health(scene.worker) == Health("running", 0, 8.0)


async def test_a_stopping_worker_says_so() -> None:
    """Draining is healthy, however long nothing is received."""
    scene = Scene()
    scene.worker.stop()
    scene.clock += 3600
    assert judge(cli._health(scene.worker)).healthy
    assert cli._health(scene.worker).state == "stopping"
