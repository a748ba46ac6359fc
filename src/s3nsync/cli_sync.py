"""`s3nsync verify` and `s3nsync sync`: the two verbs that look at whole routes.

Both list both sides and join them (`sides`). Verify judges (`verify`) and, if asked to, has what differs mended
(`repair`); sync sends what NetStorage lacks (`backfill`). Changes go to the bulk queue for the workers or, with
`--direct`, to a worker of this very process (`direct`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import structlog
import typer

from s3nsync.app import App, assemble, resolve
from s3nsync.backfill import Cursor, Sent, backfill
from s3nsync.compare import Scope
from s3nsync.direct import Direct, working
from s3nsync.doctor import wiring
from s3nsync.errors import ConfigError
from s3nsync.events import Burial
from s3nsync.figures import human_bytes, settled_name
from s3nsync.findings import Teller, facts, words
from s3nsync.lanes import Bucket
from s3nsync.logs import configure
from s3nsync.mapping import check_routes
from s3nsync.metrics import verified_line
from s3nsync.model import Change, Copied, ObjectRef, Report, Route
from s3nsync.repair import DeleteCap, Mender
from s3nsync.settings import Settings
from s3nsync.shell import AsJson, ConfigFile, finish, new_ui, run_async, settings_of
from s3nsync.sides import Selection, joined
from s3nsync.ui import Advance, Ui
from s3nsync.verify import Care, Tally, Verifier

log = structlog.get_logger("s3nsync.sync")

EXIT_OF = {"clean": 0, "differs": 1, "unsure": 5}

RouteNames = Annotated[
    list[str] | None,
    typer.Option(
        "--route", metavar="ROUTE", help="Only this one: its number, bucket or bucket/prefix. May be repeated."
    ),
]
Prefix = Annotated[str, typer.Option("--prefix", help="Only keys that begin so.")]
Include = Annotated[
    list[str] | None, typer.Option("--include", metavar="PATTERN", help="Only keys that match. May be repeated.")
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", metavar="PATTERN", help="Not these keys. May be repeated; wins.")
]
Inventory = Annotated[
    str,
    typer.Option("--inventory", metavar="S3URL", help="The manifest.json of an S3 Inventory to read, not the listing."),
]
InProcess = Annotated[bool, typer.Option("--direct", help="Copy in this process; without it the workers do.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")]


# --- verify ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Repair:
    """What verify may do about what it finds; `cap` is None if nothing may be deleted."""

    direct: bool
    cap: DeleteCap | None
    ask: bool
    dry_run: bool


def verify(
    *,
    routes: RouteNames = None,
    prefix: Prefix = "",
    include: Include = None,
    exclude: Exclude = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Ask S3 about every object; read and hash where need be.")
    ] = False,
    tolerance: Annotated[
        float, typer.Option(min=0, help="Seconds a difference must be old to count; younger ones are looked at again.")
    ] = 180.0,
    inventory: Inventory = "",
    checksums: Annotated[
        str, typer.Option(metavar="S3URL", help="The manifest.json of a Batch Operations report with MD5 checksums.")
    ] = "",
    csv_file: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write the findings to a CSV file, too.")
    ] = None,
    expect_empty: Annotated[
        bool, typer.Option("--expect-empty", help="The bucket may list nothing though NetStorage holds files.")
    ] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Have what is missing or different copied.")] = False,
    direct: InProcess = False,
    delete: Annotated[
        bool, typer.Option("--delete", help="With --repair: have what is extra deleted, where the route deletes.")
    ] = False,
    max_delete: Annotated[int, typer.Option(min=0, help="Delete nothing if it were more files than this.")] = 100,
    max_delete_percent: Annotated[
        float, typer.Option(min=0, max=100, help="Nor if it were more of the route's files than this.")
    ] = 10.0,
    trash: Annotated[
        str, typer.Option(metavar="DIR", help="With --direct: move to this directory of the CP code, do not delete.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before files are deleted.")] = False,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Prove that both sides agree, or list where they do not: 0 if they do, 1 if not, 5 if that cannot be told.

    With --repair: 0 if nothing is left to be mended but what was sent.
    """
    ui = new_ui(as_json=as_json)

    async def work() -> int:
        if not repair and (direct or delete or trash or dry_run):
            raise ConfigError("--direct, --delete, --trash and --dry-run go with --repair")
        if trash and not (direct and delete):
            raise ConfigError(
                "--trash goes with --direct and --delete", hint="the workers trash by the route's setting"
            )
        ask = delete and not (yes or dry_run)
        if ask and not sys.stdin.isatty():
            raise ConfigError("nobody can be asked before files are deleted", hint="say --yes, or --dry-run first")
        settings = _with_trash(await resolve(settings_of(config)), trash)
        selection = Selection(prefix, tuple(include or ()), tuple(exclude or ()), _ref(inventory), _ref(checksums))
        care = Care(
            deep=deep,
            tolerance_s=tolerance,
            metadata_mtime=settings.worker.mtime_from_metadata,
            expect_empty=expect_empty,
        )
        cap = DeleteCap(max_delete, max_delete_percent) if delete else None
        mending = Repair(direct=direct, cap=cap, ask=ask, dry_run=dry_run) if repair else None
        chosen = choose(settings.routes, routes or (), selection)
        with Teller(ui, csv_file) as teller:
            run = Verification(ui, settings, selection=selection, care=care, teller=teller, repair=mending)
            return await run.run(chosen)

    finish(ui, lambda: run_async(work()))


class Verification:
    """One run of verify, over several routes."""

    def __init__(
        self, ui: Ui, settings: Settings, *, selection: Selection, care: Care, teller: Teller, repair: Repair | None
    ) -> None:
        """Take what was asked for; `repair` is None if nothing is to be mended."""
        self._ui = ui
        self._settings = settings
        self._selection = selection
        self._care = care
        self._teller = teller
        self._repair = repair
        self._sink = configure(settings.log.format, "warning", settings.secrets())
        ui.redact = self._sink.redact
        self._total = Tally()
        self._now = Tally()
        self._began_s = time.monotonic()
        self._run_id = f"repair-{secrets.token_hex(8)}"
        self._sent: Counter[str] = Counter()
        self._left: Counter[str] = Counter()

    async def run(self, routes: Sequence[Route]) -> int:
        """Look at the routes, tell what is found, mend what may be; gives the exit code."""
        writes = self._repair is not None and not self._repair.dry_run
        direct = self._repair is not None and self._repair.direct
        async with _hands(self._ui, self._settings, writes=writes, direct=direct) as hands:
            try:
                with _shown(self._ui, "verify", self._progress):
                    for route in routes:
                        await self._one(route, hands)
                await hands.finish()
            except asyncio.CancelledError:
                self._total.add(self._now)
                self._tell(hands, complete=False)
                raise
        self._tell(hands, complete=True)
        return self._exit_code(hands)

    async def _one(self, route: Route, hands: Hands) -> None:
        netstorage = hands.app.targets[route.account]
        verifier = Verifier(
            hands.app.s3,
            netstorage,
            Scope(route, self._settings.routes),
            self._care,
            prefix=self._selection.prefix_in(route),
            now_s=time.time,
            on_wait=self._say_wait,
        )
        self._now = verifier.tally
        mender = self._mender(route, hands)
        sections = joined(hands.app.s3, netstorage, route, self._selection)
        async with aclosing(verifier.findings(sections)) as findings:
            async for finding in findings:
                self._teller.tell(route, finding)
                if mender is not None:
                    await mender.take(finding)
        if mender is not None:
            await self._delete(mender, verifier.tally.target_files)
            await mender.flush()
            self._sent.update(mender.sent)
            self._left.update(mender.left)
        self._total.add(verifier.tally)
        self._now = Tally()

    def _mender(self, route: Route, hands: Hands) -> Mender | None:
        return None if self._repair is None else Mender(route, hands.send, run=self._run_id, cap=self._repair.cap)

    async def _delete(self, mender: Mender, files: int) -> None:
        """List what is to be deleted, ask, and have it deleted; or say why not."""
        assert self._repair is not None
        if not mender.extras:
            return
        refusal = mender.refusal(files)
        if refusal is not None:
            self._ui.say("refused", f"nothing is deleted: {refusal}", reason=refusal)
            return
        for each in mender.extras:
            self._ui.say("delete", f"to be deleted: {each.key}", key=each.key)
        if self._repair.ask and not await asyncio.to_thread(_confirmed, len(mender.extras)):
            return
        await mender.delete()

    def _say_wait(self, seconds: float, count: int) -> None:
        self._ui.note(f"{count:,} recent differences are looked at again in {seconds:.0f} s (--tolerance)")

    def _progress(self) -> Shown:
        seen = self._total.source_objects + self._now.source_objects
        size_bytes = self._total.source_bytes + self._now.source_bytes
        found = sum(self._total.findings.values()) + sum(self._now.findings.values())
        return Shown(seen, size_bytes, f"{found:,} findings")

    def _tell(self, hands: Hands, *, complete: bool) -> None:
        seconds = time.monotonic() - self._began_s
        self._teller.tell_rest()
        data = {**facts(self._total), "complete": complete, "seconds": round(seconds, 3)}
        text = words(self._total, seconds, complete=complete)
        if self._repair is not None:
            verb = "would be sent" if self._repair.dry_run else "sent"
            sent = ", ".join(f"{count:,} {kind}" for kind, count in self._sent.items())
            data["repair"] = {"sent": dict(self._sent), "dry_run": self._repair.dry_run, **hands.facts()}
            text += f"\nRepair: {sent or 'nothing'} {verb}." + hands.words()
        self._ui.say("summary", text, **data)
        if complete and self._settings.metrics.emf and self._sink.is_json:
            self._sink.write(self._metric_line(seconds))

    def _metric_line(self, seconds: float) -> str:
        return verified_line(
            self._total.findings,
            keys=self._total.source_objects,
            seconds=seconds,
            namespace=self._settings.metrics.namespace,
            service=self._settings.metrics.service,
            timestamp_ms=int(time.time() * 1000),
        )

    def _exit_code(self, hands: Hands) -> int:
        if self._repair is None or self._repair.dry_run:
            return EXIT_OF[self._total.verdict]
        if hands.failures or any(self._left[kind] for kind in ("missing", "extra", "different")):
            return 1
        return 5 if self._left["unverifiable"] else 0


def _confirmed(count: int) -> bool:
    return typer.confirm(f"Have these {count} files deleted?", err=True)


def _with_trash(settings: Settings, trash: str) -> Settings:
    """Let every route that deletes move to this directory instead."""
    if not trash:
        return settings
    name = trash.strip("/")
    routes = tuple(
        each if each.deletes == "ignore" else replace(each, deletes="trash", trash=name) for each in settings.routes
    )
    check_routes(routes)
    return settings.model_copy(update={"routes": routes})


# --- sync ------------------------------------------------------------------------------------------------------


def sync(
    *,
    routes: RouteNames = None,
    prefix: Prefix = "",
    include: Include = None,
    exclude: Exclude = None,
    newer_than: Annotated[
        str, typer.Option(metavar="TIME", help="Only objects written since: 2026-01-31, with a time, or 36h, 7d ago.")
    ] = "",
    inventory: Inventory = "",
    rate: Annotated[float | None, typer.Option(min=0.01, help="Objects a second, at most.")] = None,
    direct: InProcess = False,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state", metavar="FILE", help="Without --direct: go on from here after a kill; gone at the end."
        ),
    ] = None,
    dry_run: DryRun = False,
    config: ConfigFile = None,
    as_json: AsJson = False,
) -> None:
    """Copy what was there before the events: all that NetStorage lacks, or has otherwise. Deletes nothing.

    Wire the events first, then sync: what changes meanwhile then comes by its own event. Stopped, it is simply run
    again: what was copied is found to be the same.
    """
    ui = new_ui(as_json=as_json)

    async def work() -> int:
        if direct and state is not None:
            raise ConfigError("--state is for the queue", hint="leave it out: with --direct, what was copied is seen")
        settings = await resolve(settings_of(config))
        selection = Selection(prefix, tuple(include or ()), tuple(exclude or ()), _ref(inventory))
        plan = Plan(
            newer_than_s=_moment_s(newer_than, time.time()) if newer_than else None,
            pace=None if rate is None else Bucket(rate, time.monotonic()),
            direct=direct,
            state=state,
            dry_run=dry_run,
        )
        return await Backfill(ui, settings, selection, plan).run(choose(settings.routes, routes or (), selection))

    finish(ui, lambda: run_async(work()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a sync is done; `newer_than_s` is Unix time, `pace` sells objects."""

    newer_than_s: float | None
    pace: Bucket | None
    direct: bool
    state: Path | None
    dry_run: bool


class Backfill:
    """One run of sync, over several routes."""

    def __init__(self, ui: Ui, settings: Settings, selection: Selection, plan: Plan) -> None:
        """Take what was asked for."""
        self._ui = ui
        self._settings = settings
        self._selection = selection
        self._plan = plan
        ui.redact = configure(settings.log.format, "warning", settings.secrets()).redact
        self._sent = Sent()
        self._began_s = time.monotonic()
        self._listed = False

    async def run(self, routes: Sequence[Route]) -> int:
        """Send what NetStorage lacks; with --direct, until it has it."""
        plan = self._plan
        run = f"sync-{secrets.token_hex(8)}"
        cursor = None if plan.state is None or plan.dry_run else Cursor(plan.state, run)
        await self._warn_of_wiring(routes)
        async with _hands(self._ui, self._settings, writes=not plan.dry_run, direct=plan.direct) as hands:
            try:
                with _shown(self._ui, "sync", lambda: self._progress(hands)):
                    for route in routes:
                        await self._one(route, hands, cursor, run if cursor is None else cursor.run)
                    self._listed = True
                    await hands.finish()
            except asyncio.CancelledError:
                self._tell(hands, complete=False)
                raise
        if cursor is not None:
            cursor.done()
        self._tell(hands, complete=True)
        return 1 if hands.failures else 0

    async def _one(self, route: Route, hands: Hands, cursor: Cursor | None, run: str) -> None:
        app = hands.app
        after = "" if cursor is None else cursor.after(route)

        async def send(changes: Sequence[Change]) -> None:
            if self._plan.pace is not None:
                await asyncio.sleep(self._plan.pace.take(len(changes), time.monotonic()))
            if self._plan.dry_run:
                for each in changes:
                    self._ui.say("copy", f"to be copied: {each.ref.key}", bucket=each.ref.bucket, key=each.ref.key)
            await hands.send(changes)

        await backfill(
            joined(app.s3, app.targets[route.account], route, self._selection, after=after),
            Scope(route, self._settings.routes),
            send,
            self._sent,
            run=run,
            newer_than_s=self._plan.newer_than_s,
            reached=(lambda _key: None) if cursor is None else lambda key: cursor.reached(route, key),
        )

    async def _warn_of_wiring(self, routes: Sequence[Route]) -> None:
        """Say it if a bucket sends no events: what changes while this runs would fall between."""
        for bucket in sorted({route.bucket for route in routes}):
            for finding in await wiring(self._settings, bucket):
                if finding.level == "failed":
                    self._ui.note(f"warning: {finding.what}; wire the events first, else what changes now is missed")

    def _progress(self, hands: Hands) -> Shown:
        sent = sum(self._sent.sent.values())
        if not self._plan.direct:
            return Shown(self._sent.objects, self._sent.size_bytes, f"{sent:,} sent")
        total = sent if self._listed else None
        return Shown(hands.done, hands.copied_bytes, f"{self._sent.objects:,} looked at", total)

    def _tell(self, hands: Hands, *, complete: bool) -> None:
        seconds = time.monotonic() - self._began_s
        sent, count = self._sent, sum(self._sent.sent.values())
        data = {
            "complete": complete,
            "dry_run": self._plan.dry_run,
            "objects": sent.objects,
            "bytes": sent.size_bytes,
            "same": sent.same,
            "ignored": sent.ignored,
            "sent": count,
            "sent_bytes": sent.sent_bytes,
            "by_kind": dict(sent.sent),
            "skipped": dict(sent.skipped),
            "seconds": round(seconds, 3),
            **hands.facts(),
        }
        verb = "to be copied" if self._plan.dry_run else "sent to be copied"
        skipped = ", ".join(f"{number:,} {kind}" for kind, number in sent.skipped.items())
        text = (
            f"S3 lists {sent.objects:,} objects, {human_bytes(sent.size_bytes)}; {sent.same:,} are there already.\n"
            f"{count:,} {verb}, {human_bytes(sent.sent_bytes)}, in {seconds:.1f} s."
            + (f" Not touched: {skipped}." if skipped else "")
            + hands.words()
        )
        self._ui.say("summary", text if complete else f"{text}\nStopped before the end: run it again.", **data)


# --- what both do ----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Hands:
    """Where Changes go, and what became of those that this process worked on itself."""

    app: App
    send: Callable[[Sequence[Change]], Awaitable[None]]
    finish: Callable[[], Awaitable[None]]
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
        told = ", ".join(f"{count:,} {name}" for name, count in sorted(self.outcomes.items()))
        checks = f"; {self.checks} unanswered writes were looked at again after the grace" if self.checks else ""
        return f"\nDone here: {told}, {human_bytes(self.copied_bytes)} copied{checks}."


async def _nothing(_changes: Sequence[Change] = ()) -> None:
    """Do nothing: a dry run."""


@asynccontextmanager
async def _hands(ui: Ui, settings: Settings, *, writes: bool, direct: bool) -> AsyncIterator[Hands]:
    """Open both sides and, if anything is to be written, the way there."""
    async with AsyncExitStack() as stack:
        if writes and direct:
            yield await _direct_hands(ui, settings, stack)
            return
        app = await stack.enter_async_context(assemble(settings, report=lambda _report: None))
        bulk = app.queues.get("bulk")
        if writes and bulk is None:
            raise ConfigError("there is no bulk queue", hint="set queues.bulk, or copy in this process: --direct")
        if writes and bulk is not None:
            await bulk.probe()
        yield Hands(app, _nothing if bulk is None or not writes else bulk.send, _nothing, direct=False)


async def _direct_hands(ui: Ui, settings: Settings, stack: AsyncExitStack) -> Hands:
    hands: list[Hands] = []

    def report(settled: Report) -> None:
        if settled.queue == "bulk":
            hands[0].outcomes[settled_name(settled)] += 1
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
            ui.note(f"{count} unanswered writes are looked at again after the grace ({settings.worker.grace_s} s)")

    hands.append(Hands(work.app, work.bulk.send, lambda: work.finished(say_checks), direct=True))
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
        raise ConfigError(f"no route takes keys that begin with {selection.prefix!r}", hint="; ".join(known))
    return left


def _ref(url: str) -> ObjectRef | None:
    """Read `s3://bucket/key`; None if it is empty."""
    if not url:
        return None
    bucket, slash, key = url.removeprefix("s3://").partition("/")
    if not (url.startswith("s3://") and bucket and slash and key):
        raise ConfigError(f"{url!r} is no object", hint="write s3://bucket/path/manifest.json")
    return ObjectRef(bucket, key)


_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def _moment_s(text: str, now_s: float) -> float:
    """Read a moment: a date or time (ISO 8601, UTC unless it says otherwise), or how long ago it was."""
    with contextlib.suppress(ValueError):
        if text[-1:] in _UNITS_S:
            return now_s - float(text[:-1]) * _UNITS_S[text[-1]]
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    raise ConfigError(f"{text!r} is no time", hint="write 2026-01-31, 2026-01-31T12:00:00Z, or 36h, 7d")


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
def _shown(ui: Ui, title: str, look: Callable[[], Shown]) -> Iterator[None]:
    """Show progress on a terminal for the length of the block: objects, bytes, rate and time left."""
    with ui.progress(title) as advance:
        ticking = asyncio.create_task(_tick(advance, look)) if ui.is_watched else None
        try:
            yield
        finally:
            if ticking is not None:
                ticking.cancel()


async def _tick(advance: Advance, look: Callable[[], Shown]) -> None:
    began_s, shown = time.monotonic(), 0
    while True:
        await asyncio.sleep(TICK_S)
        now = look()
        rate = now.objects / (time.monotonic() - began_s)
        left = f", {(now.total - now.objects) / rate:.0f} s left" if now.total is not None and rate else ""
        note = f"{human_bytes(now.size_bytes)}, {rate:,.0f} objects/s, {now.more}{left}"
        advance(now.objects - shown, total=now.total, note=note)
        shown = now.objects
