"""`s3nsync sync`: list both sides (`sides`), and have copied what NetStorage lacks (`backfill`)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from s3nsync.app import resolve
from s3nsync.cli.over_routes import (
    DryRun,
    Exclude,
    Hands,
    Include,
    InProcess,
    Inventory,
    Prefix,
    RouteNames,
    Shown,
    choose,
    open_hands,
    ref_of,
    showing,
)
from s3nsync.cli.shell import AsJson, ConfigFile, finish, new_ui, run_async, settings_of
from s3nsync.cli.ui import Ui
from s3nsync.compare import Scope
from s3nsync.errors import ConfigError
from s3nsync.figures import human_bytes
from s3nsync.lanes import Bucket
from s3nsync.logs import configure
from s3nsync.model import Change, Route
from s3nsync.ops.doctor import wiring
from s3nsync.reconcile.backfill import Cursor, Sent, backfill
from s3nsync.reconcile.sides import Selection, joined
from s3nsync.settings import Settings


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
        selection = Selection(prefix, tuple(include or ()), tuple(exclude or ()), ref_of(inventory))
        plan = Plan(
            newer_than_s=_moment_s(newer_than, time.time()) if newer_than else None,
            pace=None if rate is None else Bucket(rate, time.monotonic()),
            direct=direct,
            state=state,
            dry_run=dry_run,
            asked=f"{selection!r} newer than {newer_than or 'anything'}",
        )
        return await Backfill(ui, settings, selection, plan).run(choose(settings.routes, routes or (), selection))

    finish(ui, lambda: run_async(work()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a sync is done; `newer_than_s` is Unix time, `pace` sells objects, `asked` words what is synced."""

    newer_than_s: float | None
    pace: Bucket | None
    direct: bool
    state: Path | None
    dry_run: bool
    asked: str


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
        cursor = None if plan.state is None or plan.dry_run else Cursor(plan.state, run=run, asked=plan.asked)
        await self._warn_of_wiring(routes)
        async with open_hands(self._ui, self._settings, writes=not plan.dry_run, direct=plan.direct) as hands:
            try:
                with showing(self._ui, "sync", lambda: self._progress(hands)):
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
        if self._settings.queues is None:
            self._ui.note("note: no queues are set up, so what changes while this runs is not copied: run it again")
            return
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


_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def _moment_s(text: str, now_s: float) -> float:
    """Read a moment: a date or time (ISO 8601, UTC unless it says otherwise), or how long ago it was."""
    with contextlib.suppress(ValueError):
        if text[-1:] in _UNITS_S:
            return now_s - float(text[:-1]) * _UNITS_S[text[-1]]
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    raise ConfigError(f"{text!r} is no time", hint="write 2026-01-31, 2026-01-31T12:00:00Z, or 36h, 7d")
