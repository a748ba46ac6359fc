"""Faults on demand: which request they strike, how often, and how many really did.

A `Fault` says what happens and whom it strikes; a `FaultPlan` holds those in force and draws from them, request by
request, with one seeded source of randomness: the same requests meet the same faults again. What each kind does:

    status        answer `status` (with `retry_after_s` if given), before the body is read or, with `after_body`, after
    reset         TCP reset, nothing done; `after_bytes` into the upload's or download's body if given
    lost-answer   do what was asked, then TCP reset instead of an answer
    late-commit   take the body, TCP reset, do what was asked `delay_s` later
    truncate      upload: keep only the first `after_bytes` bytes, or what came until the client went away
    slow          wait `delay_s` before anything; move bodies at `bytes_per_s`
    stall         never answer: after the request, or `after_bytes` into the upload's or download's body
    stale         stat, dir, list, du and download see the state `lag_s` ago
    skew          this request meets a clock off by `skew_s` (signature window and Date)
    close-idle    answer as always, then close the connection `delay_s` later without a word
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from fnmatch import fnmatchcase
from typing import Literal, cast, get_args

from s3nsync.emulator.protocol import READS, WRITES

Kind = Literal[
    "status", "reset", "lost-answer", "late-commit", "truncate", "slow", "stall", "stale", "skew", "close-idle"
]
_KINDS: tuple[str, ...] = get_args(Kind)
_ONLY: dict[Kind, frozenset[str]] = {
    "truncate": frozenset({"upload"}),
    "late-commit": WRITES,
    "stale": READS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong, for requests of `action` (any when None) whose decoded path matches the glob `path`.

    Of those it strikes the `nth` alone (from 1), `every` so many-th, or each with `probability`; and at most `times`.
    Raises ValueError for a kind, an action or a number that makes no sense.
    """

    kind: Kind
    action: str | None = None
    path: str = "*"
    nth: int | None = None
    every: int | None = None
    probability: float = 1.0
    times: int | None = None
    status: int = 503
    after_body: bool = False
    retry_after_s: int | None = None
    after_bytes: int | None = None
    delay_s: float = 0.0
    bytes_per_s: float | None = None
    lag_s: float = 0.0
    skew_s: float = 0.0

    def __post_init__(self) -> None:
        """Check what the types cannot."""
        if self.kind not in _KINDS:
            raise ValueError(f"kind {self.kind!r} is none of {', '.join(_KINDS)}")
        if self.action is not None and self.action not in _ONLY.get(self.kind, READS | WRITES):
            raise ValueError(f"action {self.action!r} cannot meet {self.kind}")
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError("probability lies between 0 and 1")
        if any(number is not None and number < 1 for number in (self.nth, self.every, self.times, self.bytes_per_s)):
            raise ValueError("nth, every, times and bytes_per_s are at least 1")
        if self.after_bytes is not None and self.after_bytes < 0:
            raise ValueError("after_bytes is at least 0")

    def concerns(self, action: str, path: str) -> bool:
        """Whether a request for `action` on `path` is among those this fault may strike."""
        if self.action is not None and self.action != action:
            return False
        return action in _ONLY.get(self.kind, READS | WRITES) and fnmatchcase(path, self.path)


def fault_from_json(value: object) -> Fault:
    """Return the fault a JSON object describes (keys are Fault's fields); raise ValueError naming what is wrong."""
    if not isinstance(value, dict):
        raise ValueError("a fault is a JSON object")  # noqa: TRY004 -- one error type for everything a caller sent
    members = cast("Mapping[str, object]", value)
    known = {item.name: item for item in fields(Fault)}
    if unknown := sorted(set(members) - set(known)):
        raise ValueError(f"unknown: {', '.join(unknown)}; known: {', '.join(known)}")
    if "kind" not in members:
        raise ValueError(f"kind is missing: one of {', '.join(_KINDS)}")
    for name, member in members.items():
        _check_type(name, member, str(known[name].type), optional=known[name].default is not MISSING)
    return Fault(**members)  # type: ignore[arg-type]  # each member was checked against its field just now


def _check_type(name: str, member: object, declared: str, *, optional: bool) -> None:
    if member is None and optional and "None" in declared:
        return
    numeric = isinstance(member, (int, float)) and not isinstance(member, bool)
    fits = {
        "Kind": isinstance(member, str),
        "str": isinstance(member, str),
        "bool": isinstance(member, bool),
        "int": numeric and isinstance(member, int),
        "float": numeric,
    }[declared.removesuffix(" | None")]
    if not fits:
        raise ValueError(f"{name} must be {declared}")


class _Armed:
    """A fault in force, with what it has seen and done."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.seen = 0
        self.drawn = 0

    @property
    def used_up(self) -> bool:
        """Whether it can strike no more."""
        fault = self.fault
        return (fault.times is not None and self.drawn >= fault.times) or (
            fault.nth is not None and self.seen >= fault.nth
        )

    def strikes(self, chance: random.Random) -> bool:
        fault = self.fault
        if self.used_up:
            return False
        self.seen += 1
        if fault.nth is not None and self.seen != fault.nth:
            return False
        if fault.every is not None and self.seen % fault.every:
            return False
        if fault.probability < 1.0 and chance.random() >= fault.probability:
            return False
        self.drawn += 1
        return True


class FaultPlan:
    """The faults in force; draws those that strike a request and counts, by kind, those that really did."""

    def __init__(self, seed: int) -> None:
        """Start without faults; `seed` fixes every later draw."""
        self._seed = seed
        self._chance = random.Random(seed)  # noqa: S311 -- repeatable on purpose
        self._armed: list[_Armed] = []
        self.injected: Counter[str] = Counter()

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The faults that can still strike, oldest first."""
        return tuple(armed.fault for armed in self._armed if not armed.used_up)

    def add(self, fault: Fault) -> None:
        """Put `fault` in force."""
        self._armed = [*self._armed, _Armed(fault)]

    def clear(self) -> None:
        """Take all faults back; counts stay."""
        self._armed = []

    def reset(self) -> None:
        """Take all faults back, forget counts, start the randomness again."""
        self.clear()
        self.injected.clear()
        self._chance.seed(self._seed)

    def draw(self, action: str, path: str, *, skew: bool) -> dict[Kind, Fault]:
        """Return what strikes this request, one fault a kind: skew before the signature is checked, the rest after."""
        drawn: dict[Kind, Fault] = {}
        for armed in self._armed:
            fault = armed.fault
            mine = (fault.kind == "skew") == skew and fault.kind not in drawn and fault.concerns(action, path)
            if mine and armed.strikes(self._chance):
                drawn[fault.kind] = fault
        return drawn

    def count(self, kind: Kind) -> None:
        """Note that a fault of `kind` was really injected."""
        self.injected[kind] += 1
