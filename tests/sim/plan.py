"""All that a run depends on, as data, and the generator that draws it from a seed.

A plan says what happens in S3 and when its events come, which calls meet which fault, and what the machines are like.
The same plan always plays the same way. A seed first draws a theme: schedules that break a careless replicator are
rare among all schedules, so each theme leans towards one kind of trouble.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal, get_args

from sim.facts import GRACE_S, LEASE_S, show


@dataclass(frozen=True, slots=True)
class Fault:
    """The `nth` call at `point` meets `what`; `for_s` is for those that last."""

    point: str
    nth: int
    what: str
    for_s: float = 0.0

    def __str__(self) -> str:
        """Tell it in a line of the story."""
        return f"fault: {self.point} no. {self.nth}: {self.what}" + (f" ({self.for_s:.1f} s)" if self.for_s else "")


_MOMENTS = [f"{verb} {moment}" for verb in ("die", "freeze", "freeze clock") for moment in ("before", "sent", "done")]
_WRITE = ["refused", "lost", "dropped", "late", "late", "late, hangs", "busy 502", "busy 503", "hangs", "unreachable"]
_CALL = ["refused", "lost", "dropped"]
_BETWEEN = [f"{verb} between awaits" for verb in ("die", "freeze", "freeze clock")]
MENU: dict[str, list[str]] = {
    "s3.open": [*_MOMENTS, *_CALL, "forbidden", "no bucket"],
    "s3.head": [*_MOMENTS, *_CALL, "forbidden"],
    "s3.chunk": [*_MOMENTS, "dropped", "cut"],
    "ns.upload": [*_MOMENTS, *_WRITE, *_WRITE, "altered", "altered"],
    "ns.delete": [*_MOMENTS, *_WRITE, *_WRITE],
    "ns.stat": [*_MOMENTS, *_CALL],
    "q.receive live": [*_MOMENTS, *_CALL],
    "q.receive bulk": [*_MOMENTS, *_CALL],
    "q.receive check": [*_MOMENTS, *_CALL],
    "q.ack": [*_MOMENTS, *_CALL],
    "q.ack stale": _CALL,
    "q.retry": [*_MOMENTS, *_CALL],
    "q.extend": [*_MOMENTS, *_CALL],
    "q.bury": [*_MOMENTS, *_CALL],
    "q.send check": [*_MOMENTS, *_CALL],
    "step": _BETWEEN,
    "step at work": _BETWEEN,
}
"""What may strike where."""

# An ack whose lease is gone before it is sent is a point of its own: it is rare, and what it may lose is rarer still.
_OFTEN = [
    *MENU,
    *["ns.upload", "ns.delete", "s3.open", "s3.head", "q.ack", "q.send check", "step at work"] * 4,
    *["s3.chunk", "ns.stat"] * 2,
]


KEYS = ["a", "50% + b%2F", "kms", "kms", "cold"]
"""Two that are copied with S3's own digest, the second hard to encode; for the others see `sim.model_s3`."""

Verb = Literal["put", "delete", "bulk", "restart", "retry", "restore"]
VERBS: tuple[Verb, ...] = get_args(Verb)
CHANGES = frozenset({"put", "delete", "restore"})
"""What happens in S3 itself; the others happen to the workers, or are an operator's doing."""


@dataclass(frozen=True, slots=True)
class Theme:
    """What a seed tends to: kinds of operations (weights of `VERBS`), their pace, where which faults strike."""

    ops: tuple[int, ...] = (6, 4, 2, 1, 1, 1)
    pace_s: tuple[float, ...] = (0.05, 0.5, 5.0, 30.0)
    points: tuple[str, ...] = ()
    faults: tuple[str, ...] = ("",)
    workers: tuple[int, ...] = (1, 2, 2, 3)
    late_s: tuple[float, ...] = (0.5, 0.5, 5.0, 400.0)
    sleep_s: tuple[tuple[float, float], ...] = ((0, 5), (5, GRACE_S), (LEASE_S, 2.5 * LEASE_S))
    max_receives: int | None = None


THEMES = (
    Theme(),
    Theme(),
    # whatever can go wrong on the way of the bytes
    Theme(
        points=("s3.open", "s3.chunk", "ns.upload"), faults=("altered", "cut", "dropped", "hangs", "lost", "refused")
    ),
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
        ops=(6, 4),
        pace_s=(30.0, 60.0),
        points=("s3.open", "s3.open", "ns.upload", "ns.delete", "q.ack stale"),
        faults=("freeze clock done", "freeze clock before"),
        workers=(2, 3),
        late_s=(0.5,),
        sleep_s=((LEASE_S + GRACE_S, 3 * LEASE_S),),
    ),
    Theme(
        ops=(6, 4),
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
    # trouble between any two awaits
    Theme(points=("step", "step at work", "step at work"), workers=(2, 3)),
    # workers that leave, or have lost their leases, and meet errors on their way out
    Theme(
        ops=(6, 3, 2, 5, 1),
        points=("s3.head", "ns.upload", "ns.delete", "q.ack", "q.retry", "q.send check"),
        faults=("freeze", "lost", "dropped", "refused", "late"),
    ),
    # messages that SQS itself puts into the dead-letter queue, and that are redriven from there
    Theme(
        ops=(6, 2, 1, 1, 4),
        pace_s=(0.5, 5.0, 30.0),
        points=("ns.upload", "ns.delete"),
        faults=("late", "busy 502", "die sent"),
        late_s=(0.5,),
        max_receives=2,
    ),
)


@dataclass(frozen=True, slots=True)
class Op:
    """What happens at a time: in S3, or to the workers. Its event comes after each of `events_s`, or is lost."""

    at_s: float
    what: Verb
    key: str = ""
    data: bytes = b""
    events_s: tuple[float, ...] = ()

    def __str__(self) -> str:
        """Tell it in a line of the story."""
        late = " and ".join(f"{each:.1f} s" for each in self.events_s)
        events = f", event after {late}" if late else ", event lost" if self.what in CHANGES else ""
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
    trailers: bool
    drain_s: float
    max_receives: int | None
    trash: bool
    requests_per_s: float | None
    ops: tuple[Op, ...]
    faults: tuple[Fault, ...]


def draw(seed: int) -> Plan:
    """Make a plan from a seed; every twelfth has no fault."""
    rng = random.Random(seed)
    theme = rng.choice(THEMES)
    keys = rng.sample(KEYS, rng.choice([1, 1, 1, 2]))
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
        trailers=rng.random() < 0.85,
        drain_s=rng.choice([2.0, 10.0]),
        max_receives=theme.max_receives,
        trash=rng.random() < 0.25,
        requests_per_s=rng.choice([None, None, None, 0.5]),
        ops=tuple(ops),
        faults=tuple({(each.point, each.nth): each for each in faults}.values()),
    )


def _draw_op(rng: random.Random, theme: Theme, at_s: float, key: str, late_s: float) -> Op:
    (what,) = rng.choices(VERBS[: len(theme.ops)], theme.ops)
    if what in {"restart", "retry"}:
        return Op(at_s, what)
    if what == "bulk":
        return Op(at_s, what, key)
    events_s = tuple(_draw_delay_s(rng, late_s) for _ in range(rng.choice([1] * 12 + [2] * 3 + [0])))
    data = rng.choice([b"A", b"B"]) * rng.choice([3, 3, 3, 12, 30]) if what == "put" else b""
    return Op(at_s, what, key, data, events_s)


def _draw_delay_s(rng: random.Random, late_s: float) -> float:
    """Draw how long an event takes: mostly it comes at once, in some seeds much later and out of order."""
    return rng.choice([0.01, 0.2, 0.2, rng.uniform(0, late_s)])


def _draw_fault(rng: random.Random, theme: Theme) -> Fault:
    point = rng.choice(theme.points if theme.points and rng.random() < 0.8 else _OFTEN)
    menu = [each for each in MENU[point] if each.startswith(theme.faults)] if rng.random() < 0.8 else []
    what = rng.choice(menu or MENU[point])
    nth = 1 + int(rng.expovariate(1.0 / rng.choice([30, 300, 3000]) if point.startswith("step") else 0.4))
    if what.startswith(("freeze", "late", "busy")):
        for_s = rng.uniform(*rng.choice(theme.sleep_s))
        if not what.startswith("freeze"):
            for_s = min(for_s, GRACE_S - 1.0)
    else:
        for_s = rng.uniform(0.0, 10.0)
    return Fault(point, nth, what, for_s)
