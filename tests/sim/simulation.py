"""One simulated run: a plan drawn from a seed, the real worker in a hostile world, and the promises held against it.

A plan is data (`sim.plan`): what happens in S3 and when, which calls meet which fault. `run` plays it, and the same
plan always plays the same way; `sim.judge` holds it against the promises; `sim.story` makes a failing one short. Models
stand where S3's GETs, NetStorage's HTTP and SQS's calls would leave the machine; engine, worker, gate, brake and
NetStorage client are the real ones.

At the end the events stop, faults strike no more, a repair has those keys looked at whose events were lost, and an
operator retries what was buried: then everything must come to rest.

Not modelled: the bytes on the wire (HTTP, TLS, SQS's JSON), S3's answers as HTTP, several routes and accounts, folder
markers, messages of other shapes than our own, SQS losing what it accepted, NetStorage's replicas disagreeing for
longer than the grace, failures so long that messages are buried for them, and the known limits of docs/design.md.
Other tests meet these, or none can.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import cast
from urllib.parse import quote_plus

from s3nsync.engine import Replicator
from s3nsync.events import decode, group_id
from s3nsync.http import Http
from s3nsync.lanes import Lane
from s3nsync.model import Change, ObjectRef
from s3nsync.netstorage import Account, NetStorage
from s3nsync.pacing import Backoff, Breaker, ByteBudget, DeleteBrake
from s3nsync.worker import Limits, Worker
from sim.facts import BUFFER_BYTES, GRACE_S, LEASE_S, ROUTE, UNIX_S
from sim.judge import Judge
from sim.loop import HOST, Deadlock, Host, SimLoop
from sim.model_netstorage import NetStorageModel, SimHttp
from sim.model_s3 import S3, SimSource
from sim.network import Net
from sim.plan import CHANGES, Op, Plan
from sim.queues import Queues, SimQueue
from sim.sqs import FifoQueue
from sim.watch import Watch

REST_WITHIN_S = 6000.0
"""How long everything may take to come to rest after the last change: rests, back-offs and chains of Checks."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run; `violations` is empty if every promise was kept."""

    plan: Plan
    violations: tuple[str, ...]
    story: tuple[str, ...]
    injected: dict[str, int]
    lasted_s: float

    def without_story(self) -> Result:
        """Leave out the story, which is long."""
        return replace(self, story=())


@dataclass(eq=False)
class Process:
    """One worker process on its host."""

    host: Host
    worker: Worker
    budget: ByteBudget
    lane: Lane
    task: asyncio.Task[None] | None = None
    replaced: bool = False

    @property
    def is_busy(self) -> bool:
        """Say whether it holds anything of its own gauges."""
        lane = self.lane.figures()
        return any((self.worker.held, self.budget.in_use_bytes, lane.in_use, lane.waiting))


EVENT_NAMES = {"put": "ObjectCreated:Put", "delete": "ObjectRemoved:Delete", "restore": "ObjectRestore:Completed"}


def event(what: str, ref: ObjectRef, sequencer: str) -> str:
    """Word an event as S3 does: its key is form-encoded (S3 User Guide, "Event message structure")."""
    entity = {"key": quote_plus(ref.key), "size": 1, "sequencer": sequencer}
    record = {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "eventName": EVENT_NAMES[what],
        "s3": {"bucket": {"name": ref.bucket}, "object": entity},
    }
    return json.dumps({"Records": [record]})


@dataclass(eq=False)
class Stage:
    """Everything of one run."""

    plan: Plan
    loop: SimLoop = field(init=False)
    watch: Watch = field(init=False)
    net: Net = field(init=False)
    s3: S3 = field(init=False)
    store: NetStorageModel = field(init=False)
    queues: Queues = field(init=False)
    judge: Judge = field(init=False)
    processes: list[Process] = field(default_factory=list)
    lost: set[ObjectRef] = field(default_factory=set)
    events: int = 0

    def __post_init__(self) -> None:
        """Set the stage."""
        plan = self.plan
        self.loop = SimLoop(random.Random(plan.seed), shuffle=plan.shuffle)
        self.watch = Watch(self.loop.time)
        self.net = Net(self.loop, self.watch, plan.seed, {(each.point, each.nth): each for each in plan.faults})
        self.net.slow = plan.slow
        self.s3 = S3(self.loop.time)
        self.store = NetStorageModel(self.net, plan.lag_s)
        dead = FifoQueue("dead")
        self.queues = Queues(
            self.net,
            live=FifoQueue("live", max_receives=plan.max_receives, dead=dead),
            bulk=FifoQueue("bulk", max_receives=plan.max_receives, dead=dead),
            check=FifoQueue("check", delay_s=GRACE_S, max_receives=plan.max_receives, dead=dead),
            dead=dead,
        )
        self.judge = Judge(
            self.watch, self.s3, self.store, self.queues, plan.slots, plan.trailers, self.net.looks, self.processes
        )
        self.store.judge = self.queues.judge = self.judge

    def play(self) -> Result:
        """Play the plan to its end and take everything down."""
        try:
            self.loop.run(self._main())
        except Deadlock as error:
            self.watch.violate("G1", str(error))
        for fault in self.loop.faults:
            self.watch.violate("bug", f"{fault.get('message')}: {fault.get('exception')!r}")
        lasted_s = self.loop.time() - 1000.0
        result = Result(
            self.plan, tuple(self.watch.violations), tuple(self.watch.story), dict(self.watch.counts), lasted_s
        )
        self._take_down()
        return result

    async def _main(self) -> None:
        for _ in range(self.plan.workers):
            self._start()
        for op in self.plan.ops:
            self.net.later(op.at_s, partial(self._happen, op))
        ends_s = max((op.at_s + max(op.events_s, default=0.0) for op in self.plan.ops), default=0.0) + 2 * GRACE_S
        # What sleepers do when they wake is part of the trouble.
        ends_s += max((each.for_s for each in self.plan.faults if each.what.startswith("freeze")), default=0.0)
        quiet_s = self.loop.time() + ends_s
        while not (self.watch.violations or (self.loop.time() >= quiet_s and self._is_at_rest())):
            await asyncio.sleep(1.0)
            self._replace()
            if self.loop.time() >= quiet_s:
                self.net.calm = True
                self._repair()
                self._retry_buried()
            if self.loop.time() > quiet_s + REST_WITHIN_S:
                self.watch.violate("G1", f"no rest: {self._left()}")
        if not self.watch.violations:
            self.judge.at_rest()
            await self._stop_all()

    def _left(self) -> str:
        queues = (self.queues.live, self.queues.bulk, self.queues.check, self.queues.dead)
        return ", ".join(f"{len(queue.messages)} in {queue.name}" for queue in queues)

    # --- what happens ---

    def _happen(self, op: Op) -> None:
        ref = ObjectRef("media", op.key)
        if op.key:
            self.watch.tell(f"S3: {str(op).strip().split('  ', 1)[1]}")
        match op.what:
            case "put":
                self.s3.put(ref, op.data)
            case "delete":
                self.s3.delete(ref)
            case "bulk":
                self.events += 1
                self.queues.send("bulk", Change(ref, "put", event_name="Backfill", run=f"r{self.events}"), fresh=False)
            case "retry":
                self._retry_buried()
            case "restart":
                self._restart_one()
            case "restore":
                self.s3.restore(ref)
        if op.what in CHANGES:
            self._announce(op, ref)

    def _announce(self, op: Op, ref: ObjectRef) -> None:
        """Let S3's event of this change come, once or twice, in its own time; or never, until a repair finds out."""
        self.events += 1
        body = event(op.what, ref, f"{self.events:016X}")
        if not op.events_s and ref not in self.lost:
            self.lost.add(ref)
            self.watch.counts["event lost"] += 1
            self.queues.underway[ref] += 1
        for delay_s in op.events_s:
            self.queues.underway[ref] += 1
            self.net.later(delay_s, partial(self._deliver, ref, body))

    def _deliver(self, ref: ObjectRef, body: str) -> None:
        self.queues.underway[ref] -= 1
        for change in decode(body).changes:
            self.queues.send("live", change, fresh=False)

    def _repair(self) -> None:
        """Do what `verify --repair` does: have those keys looked at of which no event has come."""
        for ref in sorted(self.lost):
            self.queues.underway[ref] -= 1
            self.watch.tell(f"a repair finds {ref.key}")
            self.queues.send("bulk", Change(ref, "put", event_name="Repair", run="repair"), fresh=False)
        self.lost.clear()

    def _restart_one(self) -> None:
        running = [each for each in self.processes if not each.replaced and not each.host.dead]
        if running:
            process = running[self.events % len(running)]
            self.watch.tell(f"{process.host} is told to stop")
            process.worker.stop()

    # --- processes ---

    def _start(self) -> None:
        host = Host(f"w{len(self.processes) + 1}")
        process = self._assemble(host)
        context = self.loop.outside.copy()
        context.run(HOST.set, host)
        process.task = self.loop.create_task(process.worker.run(), context=context)
        self.processes.append(process)

    def _assemble(self, host: Host) -> Process:
        """Wire the real parts, as `s3nsync.app` does, to the models."""
        draw_one = random.Random(f"{self.plan.seed} {host.name}").random
        budget = ByteBudget(3 * 1024 * 1024)

        def clock_s() -> float:
            return self.loop.time() - host.behind_s

        def now_s() -> float:
            return UNIX_S + (self.loop.time() if self.plan.wall_is_right else clock_s())

        async def inline(update: Callable[[bytes], None], data: bytes) -> None:
            await asyncio.sleep(0)
            update(data)

        route = replace(ROUTE, deletes="trash") if self.plan.trash else ROUTE
        lane = Lane(self.plan.slots, clock_s, requests_per_s=self.plan.requests_per_s)
        gate = Breaker([route], clock_s, on_stop=lambda *_: None, on_go=lambda _: None)
        client = NetStorage(
            Account("ns.test", "user", "key"),
            cast("Http", SimHttp(self.store, self.net)),
            now_s=now_s,
            nonce=lambda: "1",
            jitter=draw_one,
        )
        engine = Replicator(
            routes=[route],
            source=SimSource(self.s3, self.net),
            targets={"default": client},
            lanes={"default": lane},
            budget=budget,
            gate=gate,
            backoff_s=Backoff(base_s=2.0, cap_s=60.0, uniform=draw_one).delay_s,
            now_s=now_s,
            sleep=asyncio.sleep,
            offload=inline,
            brake_s=DeleteBrake(20, clock_s).wait_s,
            buffer_bytes=BUFFER_BYTES,
            trailers=self.plan.trailers,
        )
        worker = Worker(
            live=SimQueue("live", self.queues, self.net),
            bulk=SimQueue("bulk", self.queues, self.net),
            check=SimQueue("check", self.queues, self.net),
            engine=engine,
            gate=gate,
            limits=Limits(
                max_in_flight=self.plan.slots, lease_s=LEASE_S, grace_s=GRACE_S, drain_s=self.plan.drain_s, stall_s=60.0
            ),
            report=self.judge.on_report,
            clock_s=clock_s,
            now_s=now_s,
        )
        return Process(host, worker, budget, lane)

    def _replace(self) -> None:
        """Start a new process for each that has died or left."""
        for process in list(self.processes):
            assert process.task is not None
            if process.replaced or not (process.host.dead or process.task.done()):
                continue
            process.replaced = True
            if not process.host.dead:
                self.judge.on_end(process)
            self._start()

    async def _stop_all(self) -> None:
        left = [each for each in self.processes if not each.replaced]
        for process in left:
            process.worker.stop()
        await asyncio.wait([each.task for each in left if each.task is not None], timeout=200.0)
        for process in left:
            if process.task is not None and process.task.done():
                self.judge.on_end(process)
            else:
                self.watch.violate("G8", f"{process.host} does not stop")

    # --- rest ---

    def _is_at_rest(self) -> bool:
        queues = (self.queues.live, self.queues.bulk, self.queues.check, self.queues.dead)
        empty = not any(queue.messages for queue in queues)
        underway = self.store.flights or any(self.queues.underway.values())
        awake = [each for each in self.processes if not each.host.dead]
        frozen = any(each.host.stalled for each in awake)
        return empty and not underway and not frozen and not any(each.worker.held for each in awake)

    def _retry_buried(self) -> None:
        """Do what the operator does with buried entries: send them again, be it at once."""
        for message in list(self.queues.dead.messages):
            self.queues.dead.messages.remove(message)
            for change in decode(message.body).changes:
                self.events += 1
                self.queues.refs[group_id(change.ref)] = change.ref
                self.watch.tell(f"the operator retries {change.ref.key}")
                self.queues.send("bulk", change._replace(run=f"retry{self.events}"), fresh=False)

    def _take_down(self) -> None:
        """End every task, those of killed hosts too, with nothing left to reach."""
        self.net.closed = True
        for process in self.processes:
            self.loop.revive(process.host)

        async def end() -> None:
            me = asyncio.current_task()
            for _ in range(100):
                tasks = asyncio.all_tasks() - {me}
                if not tasks:
                    return
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks, timeout=0.01)

        self.loop.run(end())
        self.loop.run(self.loop.shutdown_asyncgens())
        self.loop.close()


def run(plan: Plan) -> Result:
    """Play a plan."""
    return Stage(plan).play()
