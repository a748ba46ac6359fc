"""One simulated run: a plan drawn from a seed, the real worker in a hostile world, and the promises held against it.

A plan is data: what happens in S3 and when, which calls meet which fault. `draw` makes one from a seed, `run` plays it,
`shrink` drops what a failing one does not need. The same plan always plays the same way.

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
from sim.loop import HOST, Deadlock, Host, SimLoop
from sim.sqs import FifoQueue, Message
from sim.world import (
    BUFFER_BYTES,
    GRACE_S,
    LEASE_S,
    ROUTE,
    S3,
    UNIX_S,
    Fault,
    Flight,
    Look,
    Net,
    NetStorageModel,
    Queues,
    SimHttp,
    SimQueue,
    SimSource,
    Watch,
    data_of,
    path_of,
    show,
)

REST_WITHIN_S = 6000.0
"""How long everything may take to come to rest after the last change: rests, back-offs and chains of Checks."""

_MOMENTS = [f"{verb} {moment}" for verb in ("die", "freeze", "freeze clock") for moment in ("before", "sent", "done")]
_WRITE = ["refused", "lost", "dropped", "late", "late", "late, hangs", "busy 502", "busy 503", "hangs", "unreachable"]
_CALL = ["refused", "lost", "dropped"]
MENU: dict[str, list[str]] = {
    "s3.open": [*_MOMENTS, *_CALL, "forbidden", "no bucket"],
    "s3.head": [*_MOMENTS, *_CALL, "forbidden"],
    "s3.chunk": [*_MOMENTS, "dropped"],
    "ns.upload": [*_MOMENTS, *_WRITE, *_WRITE, "altered", "altered"],
    "ns.delete": [*_MOMENTS, *_WRITE, *_WRITE],
    "ns.stat": [*_MOMENTS, *_CALL],
    "q.receive live": [*_MOMENTS, *_CALL],
    "q.receive bulk": [*_MOMENTS, *_CALL],
    "q.receive check": [*_MOMENTS, *_CALL],
    "q.ack": [*_MOMENTS, *_CALL],
    "q.retry": [*_MOMENTS, *_CALL],
    "q.extend": [*_MOMENTS, *_CALL],
    "q.bury": [*_MOMENTS, *_CALL],
    "q.send check": [*_MOMENTS, *_CALL],
}
"""What may strike where."""

_OFTEN = [*MENU, *["ns.upload", "ns.delete", "s3.open", "s3.head", "q.ack", "q.send check"] * 4]


@dataclass(frozen=True, slots=True)
class Theme:
    """What a seed tends to: kinds of operations, their pace, where faults strike and of which kind."""

    ops: tuple[int, int, int, int, int] = (6, 4, 2, 1, 1)
    pace_s: tuple[float, ...] = (0.05, 0.5, 5.0, 30.0)
    points: tuple[str, ...] = ()
    faults: tuple[str, ...] = ("",)
    workers: tuple[int, ...] = (1, 2, 2, 3)
    late_s: tuple[float, ...] = (0.5, 0.5, 5.0, 400.0)
    sleep_s: tuple[tuple[float, float], ...] = ((0, 5), (5, GRACE_S), (LEASE_S, 2.5 * LEASE_S))


THEMES = (
    Theme(),
    Theme(),
    # writes that land late, and what happens to their senders meanwhile
    Theme(pace_s=(0.5, 5.0), points=("ns.upload", "ns.delete"), faults=("late", "busy", "die sent")),
    # workers that sleep through their leases with something in hand
    Theme(
        pace_s=(5.0, 30.0),
        points=("s3.open", "ns.upload", "ns.delete", "q.receive live", "q.ack"),
        faults=("freeze",),
    ),
    # the same, each for so long that what others have left behind for them is over, and perhaps dead afterwards
    Theme(
        ops=(6, 4, 0, 0, 0),
        pace_s=(30.0, 60.0),
        points=("s3.open", "s3.open", "ns.upload", "ns.delete"),
        faults=("freeze clock done", "freeze clock before"),
        workers=(2, 3),
        late_s=(0.5,),
        sleep_s=((LEASE_S + GRACE_S, 3 * LEASE_S),),
    ),
    Theme(
        ops=(6, 4, 0, 0, 0),
        pace_s=(30.0, 60.0),
        points=("s3.open", "s3.open", "ns.upload", "ns.delete"),
        faults=("freeze done", "freeze before", "die sent", "die done"),
        workers=(2, 3),
        late_s=(0.5,),
        sleep_s=((LEASE_S + GRACE_S, 3 * LEASE_S),),
    ),
    # bulk beside live
    Theme(ops=(6, 4, 8, 1, 0), pace_s=(0.05, 0.5), points=("s3.open", "ns.upload", "ns.delete"), faults=("freeze",)),
    # keys that are refused after something was sent
    Theme(
        ops=(8, 2, 1, 0, 4),
        pace_s=(5.0, 30.0),
        points=("s3.open", "ns.upload"),
        faults=("forbidden", "busy"),
        late_s=(0.5,),
        sleep_s=((20.0, GRACE_S),),
    ),
)


@dataclass(frozen=True, slots=True)
class Op:
    """Something that happens at a time: in S3, or to the workers. Its event comes after each of `events_s`."""

    at_s: float
    what: Literal["put", "delete", "bulk", "retry", "restart"]
    key: str = ""
    data: bytes = b""
    events_s: tuple[float, ...] = ()

    def __str__(self) -> str:
        """Tell it in a line of the story."""
        events = f", events after {' and '.join(f'{each:.1f} s' for each in self.events_s)}" if self.events_s else ""
        what = f"put of {show(self.data)}" if self.what == "put" else self.what
        return f"{self.at_s:9.3f}  {what} {self.key}{events}"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a run depends on."""

    seed: int
    workers: int
    slots: int
    shuffle: bool
    lag_s: float
    slow: float
    wall_is_right: bool
    ops: tuple[Op, ...]
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a run; `violations` is empty if every promise was kept."""

    plan: Plan
    violations: tuple[str, ...]
    story: tuple[str, ...]
    injected: dict[str, int]
    lasted_s: float


# --- the plan --------------------------------------------------------------------------------------------------


def draw(seed: int) -> Plan:
    """Make a plan from a seed; every twelfth has no fault."""
    rng = random.Random(seed)
    theme = rng.choice(THEMES)
    keys = rng.sample(["a", "b", "kms"], rng.choice([1, 1, 1, 2]))
    pace_s = rng.choice(theme.pace_s)
    at_s = 0.5
    ops = []
    late_s = rng.choice(theme.late_s)
    for _ in range(rng.choice([rng.randint(2, 5), rng.randint(2, 8), rng.randint(3, 14)])):
        ops.append(_draw_op(rng, theme, at_s, rng.choice(keys), late_s))
        at_s += rng.expovariate(1.0 / rng.choice([0.05, pace_s, pace_s]))
    faults = [] if seed % 12 == 0 else [_draw_fault(rng, theme) for _ in range(rng.randint(1, 7))]
    return Plan(
        seed=seed,
        workers=rng.choice(theme.workers),
        slots=rng.choice([3, 8, 32]),
        shuffle=rng.random() < 0.5,
        lag_s=rng.choice([0.0, 0.5, 10.0]),
        slow=rng.choice([0.1, 0.1, 0.5]),
        wall_is_right=rng.random() < 0.5,
        ops=tuple(ops),
        faults=tuple({(each.point, each.nth): each for each in faults}.values()),
    )


def _draw_op(rng: random.Random, theme: Theme, at_s: float, key: str, late_s: float) -> Op:
    what = rng.choices(["put", "delete", "bulk", "restart", "retry"], theme.ops)[0]
    if what == "restart":
        return Op(at_s, "restart")
    if what == "retry":
        return Op(at_s, "retry")
    if what == "bulk":
        return Op(at_s, "bulk", key)
    events_s = [_draw_delay_s(rng, late_s) for _ in range(rng.choice([1, 1, 1, 1, 2]))]
    if what == "delete":
        return Op(at_s, "delete", key, b"", tuple(events_s))
    data = rng.choice([b"A", b"B"]) * rng.choice([3, 3, 3, 12, 30])
    return Op(at_s, "put", key, data, tuple(events_s))


def _draw_delay_s(rng: random.Random, late_s: float) -> float:
    """Draw how long an event takes: mostly it comes at once, in some seeds much later and out of order."""
    return rng.choice([0.01, 0.2, 0.2, rng.uniform(0, late_s)])


def _draw_fault(rng: random.Random, theme: Theme) -> Fault:
    point = rng.choice(theme.points if theme.points and rng.random() < 0.8 else _OFTEN)
    menu = [each for each in MENU[point] if each.startswith(theme.faults)] if rng.random() < 0.8 else []
    what = rng.choice(menu or MENU[point])
    nth = 1 + int(rng.expovariate(0.4))
    if what.startswith(("freeze", "late", "busy")):
        for_s = rng.uniform(*rng.choice(theme.sleep_s))
    else:
        for_s = rng.uniform(0.0, 10.0)
    return Fault(point, nth, what, for_s)


# --- the run ---------------------------------------------------------------------------------------------------


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


# --- shrinking -------------------------------------------------------------------------------------------------


def shrink(result: Result, tries: int = 400) -> Result:
    """Drop workers, operations and faults for as long as the same promise stays broken."""
    rule = result.violations[0].partition(":")[0]
    best = result
    again = True
    while again and tries > 0:
        again = False
        for smaller in _smaller(best.plan):
            tries -= 1
            found = run(smaller)
            if any(each.startswith(rule) for each in found.violations):
                best, again = found, True
                break
            if tries <= 0:
                break
    return best


def _smaller(plan: Plan) -> list[Plan]:
    """List the plans that lack one thing of this one; where a call falls away, a fault may have to strike earlier."""
    plans = [replace(plan, faults=plan.faults[:n] + plan.faults[n + 1 :]) for n in range(len(plan.faults))]
    fewer = [plan.ops[:n] + plan.ops[n + 1 :] for n in range(len(plan.ops))]
    plans += [replace(plan, ops=ops) for ops in fewer]
    if plan.workers > 1:
        plans.append(replace(plan, workers=plan.workers - 1))
    plans += [replace(plan, ops=ops, faults=faults) for ops in fewer for faults in _earlier(plan.faults)]
    if plan.lag_s:
        plans.append(replace(plan, lag_s=0.0))
    if plan.shuffle:
        plans.append(replace(plan, shuffle=False))
    for n, op in enumerate(plan.ops):
        if len(op.events_s) > 1:
            plans.append(replace(plan, ops=(*plan.ops[:n], replace(op, events_s=op.events_s[:1]), *plan.ops[n + 1 :])))
    return plans


def _earlier(faults: tuple[Fault, ...]) -> list[tuple[Fault, ...]]:
    """List these faults with one of them a call or two earlier."""
    return [
        (*faults[:n], replace(fault, nth=fault.nth - by), *faults[n + 1 :])
        for n, fault in enumerate(faults)
        for by in (1, 2)
        if fault.nth > by
    ]


def tell(result: Result) -> str:
    """Give the story of a run that broke a promise."""
    plan = result.plan
    head = f"seed {plan.seed}: {plan.workers} workers, {len(plan.ops)} operations, {len(plan.faults)} faults"
    return "\n".join([head, *map(str, plan.ops), *map(str, plan.faults), *result.story, *result.violations])
