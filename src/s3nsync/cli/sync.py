"""`s3nsync sync`: list both sides (`sides`), and have copied what NetStorage lacks (`backfill`)."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from s3nsync.app import resolve
from s3nsync.cli import options
from s3nsync.cli.over_routes import Asked, Hands, Shown, choose, open_hands, showing, warn_of_nothing
from s3nsync.cli.shell import finish, new_ui, run_async, settings_of
from s3nsync.cli.ui import Ui
from s3nsync.compare import Scope
from s3nsync.errors import ConfigError
from s3nsync.figures import counted, human_bytes, human_time
from s3nsync.lanes import Bucket
from s3nsync.logs import configure
from s3nsync.model import Change, Route
from s3nsync.ops.doctor import wiring
from s3nsync.reconcile.backfill import LOT, MESSAGES, Cursor, Sent, backfill
from s3nsync.reconcile.sides import Selection, joined
from s3nsync.settings import Settings


def sync(
    *,
    routes: options.RouteNames = None,
    prefix: options.Prefix = "",
    include: options.Include = None,
    exclude: options.Exclude = None,
    newer_than: options.NewerThan = "",
    inventory: options.Inventory = "",
    rate: options.Rate = None,
    direct: options.Direct = False,
    state: options.StateFile = None,
    dry_run: options.DryRun = False,
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Copy what was there before the events: all that NetStorage lacks, or has otherwise. Deletes nothing.

    Wire the events first, then sync: what changes meanwhile then comes by its own event. Stopped, it is simply run
    again: what was copied is found to be the same.
    """
    ui = new_ui(as_json=as_json)
    asked = Asked(routes=routes, prefix=prefix, include=include, exclude=exclude, inventory=inventory)

    async def work() -> int:
        if direct and state is not None:
            raise ConfigError("--state is for the queue", hint="leave it out: with --direct, what was copied is seen")
        selection = asked.selection()
        plan = Plan(
            newer_than_s=_moment_s(newer_than, time.time()) if newer_than else None,
            pace=None if rate is None else Bucket(rate, time.monotonic()),
            direct=direct,
            state=state,
            dry_run=dry_run,
            asked=asked.words(newer_than=newer_than),
        )
        settings = await resolve(settings_of(config, queues=False))
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
        ui.redact = configure(settings.log.format, "warning", settings.secrets(), ui.log_stream).redact
        self._sent = Sent()
        self._began_s = time.monotonic()
        self._listed = False
        self._resumed = False

    async def run(self, routes: Sequence[Route]) -> int:
        """Send what NetStorage lacks; with --direct, until it has it."""
        plan = self._plan
        run = f"sync-{secrets.token_hex(8)}"
        cursor = self._cursor(run)
        if cursor is not None:
            self._say_where(cursor, routes)
        await self._warn_of_wiring(routes)
        async with open_hands(self._ui, self._settings, writes=not plan.dry_run, direct=plan.direct) as hands:
            try:
                with showing(self._ui, "sync", lambda: self._progress(hands)):
                    for route in routes:
                        await self._one(route, hands, cursor, run if cursor is None else cursor.run)
                    self._listed = True
                    await hands.finish()
            except asyncio.CancelledError:
                await hands.stop()
                self._tell(hands, complete=False)
                raise
        if cursor is not None:
            cursor.done()
        self._tell(hands, complete=True)
        if not self._resumed:
            warn_of_nothing(self._ui, self._selection, self._sent.objects)
        return 1 if hands.failures else 0

    def _cursor(self, run: str) -> Cursor | None:
        plan = self._plan
        if plan.state is None or plan.dry_run:
            return None
        return Cursor(plan.state, run=run, asked=plan.asked, since_s=plan.newer_than_s)

    def _say_where(self, cursor: Cursor, routes: Sequence[Route]) -> None:
        """Say of each route from where an earlier run is gone on with, if one is."""
        for route in routes:
            after = cursor.after(route)
            if after:
                self._resumed = True
                where = f"s3://{route.bucket}/{after}"
                text = f"Going on with an earlier run, by {self._plan.state}: after {where}"
                self._ui.say("resumed", text, bucket=route.bucket, prefix=route.prefix, after=after)

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
            newer_than_s=self._plan.newer_than_s if cursor is None else cursor.since_s,
            together=LOT if self._plan.direct and self._plan.pace is None else MESSAGES,
            reached=(lambda _key: None) if cursor is None else lambda key: cursor.reached(route, key),
        )

    async def _warn_of_wiring(self, routes: Sequence[Route]) -> None:
        """Say it if a bucket sends no events: what changes while this runs would fall between."""
        if self._settings.queues is None:
            self._ui.warn("note: no queues are set up, so what changes while this runs is not copied: run it again")
            return
        for bucket in sorted({route.bucket for route in routes}):
            for finding in await wiring(self._settings, bucket):
                if finding.level == "failed":
                    self._ui.warn(f"warning: {finding.what}; wire the events first, else what changes now is missed")

    def _progress(self, hands: Hands) -> Shown:
        sent = sum(self._sent.sent.values())
        if not self._plan.direct:
            verb = "to be copied" if self._plan.dry_run else "sent"
            return Shown(self._sent.objects, self._sent.size_bytes, f"{sent:,} {verb}")
        total = sent if self._listed else None
        return Shown(hands.done, hands.copied_bytes, f"{self._sent.objects:,} looked at", total)

    def _tell(self, hands: Hands, *, complete: bool) -> None:
        seconds = time.monotonic() - self._began_s
        sent, count = self._sent, sum(self._sent.sent.values())
        data = {
            "complete": complete,
            "dry_run": self._plan.dry_run,
            "resumed": self._resumed,
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
        self._ui.say("summary", self._words(seconds) + hands.words() + ("" if complete else self._stopped()), **data)

    def _words(self, seconds: float) -> str:
        sent, count = self._sent, sum(self._sent.sent.values())
        verb = "to be copied" if self._plan.dry_run else "sent to be copied"
        since = " after those of the earlier run" if self._resumed else ""
        listed = f"S3 lists {counted(sent.objects, 'object')}{since}, {human_bytes(sent.size_bytes)}"
        left_out = f" Left out: {sent.ignored:,}." if sent.ignored else ""
        skipped = ", ".join(f"{number:,} {kind}" for kind, number in sent.skipped.items())
        lines = [
            f"{listed}; there already: {sent.same:,}.{left_out}",
            f"{count:,} {verb}, {human_bytes(sent.sent_bytes)}, in {human_time(seconds)}."
            + (f" Not touched: {skipped}." if skipped else ""),
        ]
        return "\n".join(lines)

    def _stopped(self) -> str:
        """Say how to go on after a stop before the end."""
        state, direct = self._plan.state, self._plan.direct or self._plan.dry_run
        if state is not None and not direct:
            how = f"run it again with --state {state}, and it goes on from there"
        elif direct:
            how = "run it again, and what is there by then is passed over"
        else:
            how = "run it again; with --state FILE it could have gone on from there"
        return f"\nStopped before the end: {how}."


_UNITS_S = {"m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}
_AGO = re.compile(r"([0-9]{1,6}(?:\.[0-9]+)?)([mhdw])")


def _moment_s(text: str, now_s: float) -> float:
    """Read a moment: a date or time (ISO 8601, UTC unless it says otherwise), or how long ago it was."""
    if ago := _AGO.fullmatch(text):
        return now_s - float(ago[1]) * _UNITS_S[ago[2]]
    with contextlib.suppress(ValueError):
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    raise ConfigError(f"{text!r} is no time", hint="write 2026-01-31, 2026-01-31T12:00:00Z, or 36h, 7d (ago)")
