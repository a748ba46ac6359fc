"""`s3nsync verify`: join both sides (`sides`), judge (`verify`), tell it (`findings`), have it mended (`repair`)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from s3nsync.app import resolve
from s3nsync.cli.findings import Teller, facts, words
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
from s3nsync.errors import ConfigError, S3nsyncError
from s3nsync.logs import configure
from s3nsync.mapping import check_routes, target_directory
from s3nsync.metrics import verified_line
from s3nsync.model import Route
from s3nsync.netstorage import NetStorage
from s3nsync.reconcile.repair import DeleteCap, Mender
from s3nsync.reconcile.sides import Selection, joined
from s3nsync.reconcile.verify import Care, Tally, Verifier
from s3nsync.settings import Settings

EXIT_OF = {"clean": 0, "differs": 1, "unsure": 5}


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
        selection = Selection(prefix, tuple(include or ()), tuple(exclude or ()), ref_of(inventory), ref_of(checksums))
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
        self._expected: int | None = None
        self._is_part = False
        self._total = Tally()
        self._now = Tally()
        self._began_s = time.monotonic()
        self._run_id = f"repair-{secrets.token_hex(8)}"
        self._sent: Counter[str] = Counter()
        self._left: Counter[str] = Counter()

    async def run(self, routes: Sequence[Route]) -> int:
        """Look at the routes, tell what is found, mend what may be; gives the exit code."""
        self._is_part = len(routes) < len(self._settings.routes)
        writes = self._repair is not None and not self._repair.dry_run
        direct = self._repair is not None and self._repair.direct
        async with open_hands(self._ui, self._settings, writes=writes, direct=direct) as hands:
            try:
                with showing(self._ui, "verify", self._progress):
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
        counting = asyncio.create_task(self._count(netstorage, route)) if self._ui.is_watched else None
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
        if counting is not None:
            counting.cancel()
        self._total.add(verifier.tally)
        self._now = Tally()

    async def _count(self, netstorage: NetStorage, route: Route) -> None:
        """Ask NetStorage how many files there are, for the time left; it may not know, or not say."""
        self._expected = None
        if self._selection.prefix_in(route) == route.prefix:
            with contextlib.suppress(S3nsyncError):
                self._expected = (await netstorage.du(target_directory(route))).files

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
        what = "recent difference is" if count == 1 else "recent differences are"
        self._ui.note(f"{count:,} {what} looked at again in {seconds:.0f} s (--tolerance)")

    def _progress(self) -> Shown:
        seen = self._total.source_objects + self._now.source_objects
        size_bytes = self._total.source_bytes + self._now.source_bytes
        found = sum(self._total.findings.values()) + sum(self._now.findings.values())
        total = None if self._expected is None else self._total.source_objects + self._expected
        return Shown(seen, size_bytes, f"{found:,} findings", total if total and total >= seen else None)

    def _tell(self, hands: Hands, *, complete: bool) -> None:
        seconds = time.monotonic() - self._began_s
        self._teller.tell_rest()
        data = {**facts(self._total, complete=complete), "seconds": round(seconds, 3)}
        text = words(self._total, seconds, complete=complete)
        if self._repair is not None:
            verb = "would be sent" if self._repair.dry_run else "sent"
            sent = ", ".join(f"{count:,} {kind}" for kind, count in self._sent.items())
            data["repair"] = {"sent": dict(self._sent), "dry_run": self._repair.dry_run, **hands.facts()}
            text += f"\nRepair: {sent or 'nothing'} {verb}." + hands.words()
        self._ui.say("summary", text, **data)
        if complete and self._is_measured:
            self._sink.write(self._metric_line(seconds))

    @property
    def _is_measured(self) -> bool:
        """Whether CloudWatch is told: a part of a route, or a run that mends, says nothing about the whole."""
        selection = self._selection
        is_part = self._is_part or selection.prefix or selection.include or selection.exclude
        return self._settings.metrics.emf and self._sink.is_json and not is_part and self._repair is None

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
