"""What verify and sync share: which routes are looked at, where Changes go, and how progress is shown.

Changes go to the bulk queue for the workers or, with `--direct`, to a worker of this very process (`direct`).
"""

from __future__ import annotations

import asyncio
import shlex
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial

from s3nsync.app import App, assemble, relax_collector
from s3nsync.cli.shell import parse_ref
from s3nsync.cli.ui import Show, Ui
from s3nsync.direct import Direct, idle_queues, working
from s3nsync.errors import ConfigError
from s3nsync.events import Burial
from s3nsync.figures import counted, human_bytes, human_time, settled_name
from s3nsync.model import Change, Copied, Deleted, ObjectRef, Report, Route
from s3nsync.reconcile.sides import Selection
from s3nsync.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which part of which routes is asked for, in the words of the options."""

    routes: Sequence[str] | None
    prefix: str
    include: Sequence[str] | None
    exclude: Sequence[str] | None
    inventory: str
    checksums: str = ""

    def selection(self) -> Selection:
        """Give what is selected; raises ConfigError."""
        return Selection(
            self.prefix,
            tuple(self.include or ()),
            tuple(self.exclude or ()),
            ref_of(self.inventory),
            ref_of(self.checksums),
        )

    def words(self, **more: str) -> str:
        """Word it as it was typed, but for the routes."""
        told = {"prefix": self.prefix, "include": self.include, "exclude": self.exclude, "inventory": self.inventory}
        typed: list[str] = []
        for name, value in {**told, **more}.items():
            for each in [value] if isinstance(value, str) else value or ():
                typed += [f"--{name.replace('_', '-')}", each] if each else []
        return shlex.join(typed)


# --- where Changes go ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Hands:
    """Where Changes go, and what became of those that this process worked on itself."""

    app: App
    send: Callable[[Sequence[Change]], Awaitable[None]]
    finish: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]
    direct: bool
    outcomes: Counter[str] = field(default_factory=Counter)
    copied_bytes: int = 0
    checks: int = 0
    failures: int = 0

    @property
    def done(self) -> int:
        """How many keys are finished with."""
        return sum(count for name, count in self.outcomes.items() if name not in {"retry", "lease_lost"})

    def facts(self) -> dict[str, object]:
        """Give what became of them as plain data."""
        if not self.direct:
            return {}
        return {"outcomes": dict(self.outcomes), "copied_bytes": self.copied_bytes, "checks_awaited": self.checks}

    def words(self) -> str:
        """Give the same in words."""
        if not self.outcomes:
            return ""
        checks = f"; looked at again after the grace: {counted(self.checks, 'unanswered write')}" if self.checks else ""
        return f"\nDone here: {outcome_words(self.outcomes)}; {human_bytes(self.copied_bytes)}{checks}."


def done_name(settled: Report) -> str:
    """Give the word for what this process did: an object that had vanished by then, and its file too, is `gone`.

    Elsewhere such a Change counts as a delete, as it most often comes from one.
    """
    if isinstance(settled.outcome, Deleted) and not settled.outcome.existed:
        return "gone"
    return settled_name(settled)


_IN_WORDS: Mapping[str, str] = {
    "gone": "gone from both sides meanwhile",
    "trashed": "moved to the trash",
    "set_aside": "set aside",
    "retry": "to be tried again",
    "lease_lost": "left to another worker",
    "checks_left": "to be looked at again",
}


def outcome_words(counts: Mapping[str, int]) -> str:
    """Tell what became of Changes, by `figures.settled_name`."""
    return ", ".join(f"{count:,} {_IN_WORDS.get(name, name)}" for name, count in sorted(counts.items()) if count)


async def _nothing(_changes: Sequence[Change] = ()) -> None:
    """Do nothing: a dry run."""


@asynccontextmanager
async def open_hands(ui: Ui, settings: Settings, *, writes: bool, direct: bool) -> AsyncIterator[Hands]:
    """Open both sides and, if anything is to be written, the way there."""
    relax_collector()
    async with AsyncExitStack() as stack:
        if writes and direct:
            yield await _open_direct(ui, settings, stack)
            return
        idle = idle_queues(settings) if settings.queues is None else None
        app = await stack.enter_async_context(assemble(settings, report=lambda _report: None, in_memory=idle))
        bulk = app.queues.get("bulk")
        if writes and bulk is None:
            raise ConfigError("there is no bulk queue", hint="set queues.bulk, or copy in this process: --direct")
        if writes and bulk is not None:
            await bulk.probe()
        yield Hands(app, _nothing if bulk is None or not writes else bulk.send, _nothing, _nothing, direct=False)


async def _open_direct(ui: Ui, settings: Settings, stack: AsyncExitStack) -> Hands:
    hands: list[Hands] = []

    def report(settled: Report) -> None:
        if settled.queue == "bulk":
            hands[0].outcomes[done_name(settled)] += 1
            if isinstance(settled.outcome, Copied):
                hands[0].copied_bytes += settled.outcome.size_bytes

    def bury(burial: Burial) -> None:
        hands[0].failures += 1
        ui.say(
            "failed",
            f"failed       {burial.ref}\n{'':12} {burial.reason}\n{'':12} {burial.hint}",
            name=str(burial.ref),
            reason=burial.reason,
            hint=burial.hint,
            attempts=burial.attempts,
        )

    work: Direct = await stack.enter_async_context(working(settings, report=report, on_burial=bury))

    def say_checks(count: int) -> None:
        hands[0].checks = count
        if count:
            grace = human_time(settings.worker.grace_s)
            ui.note(f"looked at again after the grace, in {grace} at most: {counted(count, 'unanswered write')}")

    def say_work(count: int) -> None:
        ui.note(f"to be finished first: {counted(count, 'object')}; Ctrl-C again leaves at once")

    finish, stop = partial(work.finished, say_checks), partial(work.stopped, say_work)
    hands.append(Hands(work.app, work.express.send, finish, stop, direct=True))
    return hands[0]


def choose(routes: Sequence[Route], names: Sequence[str], selection: Selection) -> tuple[Route, ...]:
    """Give the routes that are named, or all, as far as the selection leaves anything of them; raises ConfigError."""
    known = [f"{number}  {each.bucket}/{each.prefix}" for number, each in enumerate(routes, 1)]
    chosen: dict[Route, None] = {}
    for name in names:
        found = [
            each
            for number, each in enumerate(routes, 1)
            if name in {str(number), each.bucket, f"{each.bucket}/{each.prefix}"}
        ]
        if not found:
            raise ConfigError(f"there is no route {name!r}", hint="the routes are: " + "; ".join(known))
        chosen.update(dict.fromkeys(found))
    left = tuple(each for each in (chosen or routes) if selection.meets(each))
    if not left:
        hint = "the routes are: " + "; ".join(known)
        raise ConfigError(f"no route takes keys that begin with {selection.prefix!r}", hint=hint)
    buckets = sorted({each.bucket for each in left})
    if len(buckets) > 1 and (selection.inventory or selection.checksums):
        problem = f"an inventory or report is of one bucket, and these routes are of several: {', '.join(buckets)}"
        raise ConfigError(problem, hint="name those that it is for, such as --route " + buckets[0])
    return left


def warn_of_nothing(ui: Ui, selection: Selection, seen: int) -> None:
    """Say it if what was asked for takes nothing at all: a typo there looks like success."""
    if seen == 0 and (selection.prefix or selection.include or selection.exclude):
        ui.warn("warning: nothing was compared: no key is taken by the prefix and patterns that were given")


def ref_of(url: str) -> ObjectRef | None:
    """Read `s3://bucket/key`; None if it is empty."""
    return parse_ref(url, example="s3://bucket/path/manifest.json") if url else None


# --- progress --------------------------------------------------------------------------------------------------

TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class Shown:
    """How far things are; `total` is None as long as nobody knows it."""

    objects: int
    size_bytes: int
    more: str
    total: int | None = None


@contextmanager
def showing(ui: Ui, title: str, look: Callable[[], Shown]) -> Iterator[None]:
    """Show progress on a terminal for the length of the block: objects, bytes, rate and time left."""
    with ui.progress(title) as show:
        ticking = asyncio.create_task(_tick(show, look)) if ui.is_watched else None
        try:
            yield
        finally:
            if ticking is not None:
                ticking.cancel()


async def _tick(show: Show, look: Callable[[], Shown]) -> None:
    began_s = time.monotonic()
    while True:
        now = look()
        show(progress_words(now, time.monotonic() - began_s), now.objects, now.total)
        await asyncio.sleep(TICK_S)


def progress_words(now: Shown, seconds: float) -> str:
    """Tell how far things are after so many seconds: what matters most first, for a narrow terminal shows no more."""
    rate = now.objects / seconds if seconds > 0 else 0.0
    total = "" if now.total is None else f" of {now.total:,}"
    parts = [f"{now.objects:,}{total} objects", human_bytes(now.size_bytes)]
    if rate:
        parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s")
    if now.total is not None and rate:
        parts.append(f"{human_time((now.total - now.objects) / rate)} left")
    return ", ".join([*parts, now.more])
