"""One simulated run: a plan drawn from a seed, the real worker in a hostile world, and the promises held against it.

A plan is data (`sim.plan`): what happens in S3 and when, which calls meet which fault. `run` plays it, and the same plan
always plays the same way; `sim.story` makes a failing one short. The models stand where S3's GETs, NetStorage's HTTP and
SQS's calls would leave the machine; the engine, the worker, its gate and brake and the NetStorage client are the real ones.

What is watched (docs/design.md, "What is promised"): G2, G3, G5, G6 and rule 1 at each write and ack, the debt
ledger at each ack, G8's gauges at each report; and when S3 is quiet and no fault strikes any more, that everything
comes to rest with NetStorage equal to S3 (G1, G4) and every message accounted for (G7).

Not modelled: the bytes on the wire (HTTP, TLS, SQS's JSON), S3's answers as HTTP, several routes and accounts, folder
markers, archived objects, events that are lost, messages of other shapes than our own, native redrives, SQS losing
what it accepted, NetStorage's replicas disagreeing for longer than the grace, and failures so long that messages are
buried for them. Other tests meet these, or none can.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal, cast

from s3nsync.engine import Replicator
from s3nsync.events import decode, group_id
from s3nsync.http import Http
from s3nsync.model import Change, ObjectRef, Report
from s3nsync.netstorage import Account, NetStorage
from s3nsync.pacing import Backoff, Breaker, ByteBudget, DeleteBrake
from s3nsync.worker import Limits, Worker
from sim.facts import BUFFER_BYTES, GRACE_S, LEASE_S, ROUTE, UNIX_S, path_of, show
from sim.loop import HOST, Deadlock, Host, SimLoop
from sim.model_netstorage import Flight, NetStorageModel, SimHttp, data_of
from sim.model_s3 import S3, SimSource
from sim.network import Net
from sim.plan import Op, Plan
from sim.queues import Queues, SimQueue
from sim.sqs import FifoQueue, Message
from sim.watch import Look, Watch

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


# --- the plan --------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class Process:
    """One worker process on its host."""

    host: Host
    worker: Worker
    budget: ByteBudget
    task: asyncio.Task[None] | None = None
    replaced: bool = False


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
    processes: list[Process] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    events: int = 0

    def __post_init__(self) -> None:
        """Set the stage."""
        plan = self.plan
        self.loop = SimLoop(random.Random(plan.seed), shuffle=plan.shuffle)
        self.watch = Watch(self.loop.time)
        self.net = Net(self.loop, self.watch, plan.seed, {(each.point, each.nth): each for each in plan.faults})
        self.net.slow = plan.slow
        self.s3 = S3(self.loop.time)
        self.store = NetStorageModel(self.net, self.s3, plan.lag_s)
        self.queues = Queues(
            self.net,
            FifoQueue("live"),
            FifoQueue("bulk"),
            FifoQueue("check", delay_s=GRACE_S),
            FifoQueue("dead"),
            self._on_settled,
        )
        self.store.holds = self.queues.holds

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
        quiet_s = self.loop.time() + ends_s
        while not (self.watch.violations or (self.loop.time() >= quiet_s and self._is_at_rest())):
            await asyncio.sleep(1.0)
            self._replace()
            if self.loop.time() >= quiet_s:
                self.net.calm = True
                self._retry_buried()
            if self.loop.time() > quiet_s + REST_WITHIN_S:
                self.watch.violate("G1", f"no rest: {self._left()}")
        if not self.watch.violations:
            self._judge_rest()
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
        self._announce(op, ref)

    def _announce(self, op: Op, ref: ObjectRef) -> None:
        """Let S3's event of this change come, once or twice, in its own time."""
        self.events += 1
        name = "ObjectCreated:Put" if op.what == "put" else "ObjectRemoved:Delete"
        kind: Literal["put", "delete"] = "put" if op.what == "put" else "delete"
        change = Change(ref, kind, "s3", name, sequencer=f"{self.events:016X}")
        for delay_s in op.events_s:
            self.queues.underway[ref] += 1
            self.net.later(delay_s, partial(self._deliver, change))

    def _deliver(self, change: Change) -> None:
        self.queues.underway[change.ref] -= 1
        self.queues.send("live", change, fresh=False)

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

        gate = Breaker([ROUTE], clock_s, on_stop=lambda *_: None, on_go=lambda _: None)
        client = NetStorage(
            Account("ns.test", "user", "key"),
            cast("Http", SimHttp(self.store, self.net)),
            now_s=now_s,
            nonce=lambda: "1",
            jitter=draw_one,
        )
        engine = Replicator(
            routes=[ROUTE],
            source=SimSource(self.s3, self.net),
            targets={"default": client},
            budget=budget,
            gate=gate,
            backoff_s=Backoff(base_s=2.0, cap_s=60.0, uniform=draw_one).delay_s,
            now_s=now_s,
            sleep=asyncio.sleep,
            offload=inline,
            brake_s=DeleteBrake(20, clock_s).wait_s,
            buffer_bytes=BUFFER_BYTES,
        )
        worker = Worker(
            live=SimQueue("live", self.queues, self.net),
            bulk=SimQueue("bulk", self.queues, self.net),
            check=SimQueue("check", self.queues, self.net),
            engine=engine,
            gate=gate,
            limits=Limits(max_in_flight=self.plan.slots, lease_s=LEASE_S, grace_s=GRACE_S, drain_s=10.0, stall_s=60.0),
            report=self._on_report,
            clock_s=clock_s,
            now_s=now_s,
        )
        return Process(host, worker, budget)

    def _replace(self) -> None:
        """Start a new process for each that has died or left."""
        for process in list(self.processes):
            assert process.task is not None
            if process.replaced or not (process.host.dead or process.task.done()):
                continue
            process.replaced = True
            if not process.host.dead:
                self._judge_end(process)
            self._start()

    def _judge_end(self, process: Process) -> None:
        assert process.task is not None
        error = process.task.exception()
        slots = process.worker._slots
        if error is not None:
            self.watch.violate("bug", f"{process.host} died of {error!r}")
        elif (slots.free, process.budget.in_use_bytes, process.worker.in_flight) != (slots.total, 0, 0):
            self.watch.violate("G8", f"{process.host} left with {process.worker!r}, {process.budget!r}")

    async def _stop_all(self) -> None:
        left = [each for each in self.processes if not each.replaced]
        for process in left:
            process.worker.stop()
        await asyncio.wait([each.task for each in left if each.task is not None], timeout=200.0)
        for process in left:
            if process.task is not None and process.task.done():
                self._judge_end(process)
            else:
                self.watch.violate("G8", f"{process.host} does not stop")

    # --- the judge ---

    def _on_report(self, report: Report) -> None:
        self.reports.append(report)
        for process in self.processes:
            over = process.budget.in_use_bytes > process.budget.total_bytes
            if over or process.worker.in_flight > self.plan.slots:
                self.watch.violate("G8", f"{process.worker!r}, {process.budget!r}")

    def _on_settled(self, message: Message, look: Look | None) -> None:
        """Keep the ledger: after each ack, what is stale or may still land must be owed by something."""
        ref = self.queues.refs[message.group]
        owing = self.queues.owing(ref)
        file = self.store.now(path_of(ref))
        is_stale = data_of(file) != self.s3.data(ref)
        busy = [each for each in self.net.looks if each.ref == ref and each is not look and _is_at_work(each)]
        if is_stale and not (owing or busy or self.queues.underway[ref]):
            self.watch.violate("G4", f"{ref.key} is stale after the ack of {message.receipt}, and nothing owes it")
        for flight in self.store.flights:
            if flight.path == path_of(ref) and not self._is_owed(flight, owing, look):
                what = "delete" if flight.data is None else f"upload of {show(flight.data)}"
                self.watch.violate("G4", f"a {what} may land after the ack of {message.receipt}, and nothing owes it")

    def _is_owed(self, flight: Flight, owing: list[Message], acker: Look | None) -> bool:
        """Say whether somebody will look at the key after this write has landed."""
        if flight.look is not None and flight.look is not acker and _is_at_work(flight.look):
            return True
        dead = set(map(id, self.queues.dead.messages))
        checks = {id(each) for each in self.queues.check.messages if each.sent_at_s >= flight.sent_at_s}
        return any(id(each) in checks or (each.receives > 0 and id(each) not in dead) for each in owing)

    def _is_at_rest(self) -> bool:
        queues = (self.queues.live, self.queues.bulk, self.queues.check, self.queues.dead)
        empty = not any(queue.messages for queue in queues)
        underway = self.store.flights or any(self.queues.underway.values())
        awake = [each for each in self.processes if not each.host.dead]
        frozen = any(each.host.stalled for each in awake)
        return empty and not underway and not frozen and not any(each.worker.in_flight for each in awake)

    def _retry_buried(self) -> None:
        """Do what the operator does with buried entries: send them again, be it at once."""
        for message in list(self.queues.dead.messages):
            self.queues.dead.messages.remove(message)
            for change in decode(message.body).changes:
                self.events += 1
                self.queues.refs[group_id(change.ref)] = change.ref
                self.watch.tell(f"the operator retries {change.ref.key}")
                self.queues.send("bulk", replace(change, run=f"retry{self.events}"), fresh=False)

    def _judge_rest(self) -> None:
        """Hold NetStorage against S3, and the messages against the reports."""
        refs = set(self.s3.versions) | set(self.queues.refs.values())
        for ref in sorted(refs):
            file = self.store.now(path_of(ref))
            held, truth = data_of(file), self.s3.data(ref)
            if held != truth:
                self.watch.violate("G1", f"at rest {ref.key} is {show(held)} on NetStorage and {show(truth)} in S3")
        deleted = sum(queue.deleted for queue in (self.queues.live, self.queues.bulk, self.queues.check))
        settled = sum(1 + each.coalesced for each in self.reports if each.verb in {"ack", "bury"})
        if not self.plan.faults and deleted != settled:
            self.watch.violate("G7", f"{deleted} messages were settled, {settled} were reported")

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


def _is_at_work(look: Look) -> bool:
    """Say whether the hand will still settle: its task goes on, and its host lives."""
    return not look.host.dead and look.task is not None and not look.task.done()


def run(plan: Plan) -> Result:
    """Play a plan."""
    return Stage(plan).play()
