"""`s3nsync verify`: join both sides (`sides`), judge (`verify`), tell it (`findings`), have it mended (`repair`)."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path

from s3nsync.app import resolve
from s3nsync.cli import options
from s3nsync.cli.findings import Teller, facts, words
from s3nsync.cli.over_routes import Asked, Hands, Shown, choose, open_hands, showing, warn_of_nothing
from s3nsync.cli.shell import finish, new_ui, run_async, settings_of
from s3nsync.cli.ui import COULD_NOT_CHECK, Ui, check_terminal
from s3nsync.compare import Scope
from s3nsync.errors import ConfigError, S3nsyncError
from s3nsync.figures import counted, human_time
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
    trash: str
    ask: bool
    dry_run: bool

    def check(self) -> None:
        """See that the options go together, and that there is somebody to ask; raises ConfigError."""
        if self.trash and not (self.direct and self.cap):
            hint = "the workers trash by the route's setting"
            raise ConfigError("--trash goes with --direct and --delete", hint=hint)
        if self.ask:
            check_terminal("say --yes, and files are deleted unasked; --dry-run shows which")


def verify(
    *,
    routes: options.RouteNames = None,
    prefix: options.Prefix = "",
    include: options.Include = None,
    exclude: options.Exclude = None,
    deep: options.Deep = False,
    tolerance: options.Tolerance = 180.0,
    inventory: options.Inventory = "",
    checksums: options.Checksums = "",
    csv_file: options.CsvFile = None,
    expect_empty: options.ExpectEmpty = False,
    repair: options.Repair = False,
    direct: options.RepairDirect = False,
    delete: options.Delete = False,
    max_delete: options.MaxDelete = 100,
    max_delete_percent: options.MaxDeletePercent = 10.0,
    trash: options.Trash = "",
    yes: options.YesToDeletes = False,
    dry_run: options.RepairDryRun = False,
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Prove that both sides agree, or list where they do not: 0 if they do, 1 if not, 5 if that cannot be told.

    Exit code 6: it was broken off, as by a damaged inventory. With --repair: 0 if nothing is left to be mended but what
    was sent.
    """
    ui = new_ui(as_json=as_json, failed=COULD_NOT_CHECK)
    asked = Asked(
        routes=routes, prefix=prefix, include=include, exclude=exclude, inventory=inventory, checksums=checksums
    )
    care = Care(deep=deep, dated=bool(inventory), tolerance_s=tolerance, expect_empty=expect_empty)
    mending = Repair(
        direct=direct,
        cap=DeleteCap(max_delete, max_delete_percent) if delete else None,
        trash=trash,
        ask=delete and not (yes or dry_run),
        dry_run=dry_run,
    )

    def work() -> int:
        if not repair and (direct or delete or trash or dry_run):
            hint = "add --repair, or leave them out: verify alone changes nothing"
            raise ConfigError("--direct, --delete, --trash and --dry-run go with --repair", hint=hint)
        return run_async(_verify(ui, config, asked, care=care, repair=mending if repair else None, csv_file=csv_file))

    finish(ui, work)


async def _verify(
    ui: Ui, config: Path | None, asked: Asked, *, care: Care, repair: Repair | None, csv_file: Path | None
) -> int:
    if repair is not None:
        repair.check()
    selection = asked.selection()
    settings = _with_trash(await resolve(settings_of(config, queues=False)), repair.trash if repair else "")
    care = replace(care, metadata_mtime=settings.worker.mtime_from_metadata)
    chosen = choose(settings.routes, asked.routes or (), selection)
    with Teller(ui, csv_file) as teller:
        run = Verification(ui, settings, selection=selection, care=care, teller=teller, repair=repair)
        return await run.run(chosen)


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
        self._sink = configure(settings.log.format, "warning", settings.secrets(), ui.log_stream)
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
                await hands.stop()
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
            await self._delete(mender, route, verifier.tally.target_files)
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

    async def _delete(self, mender: Mender, route: Route, files: int) -> None:
        """List what is to be deleted, ask, and have it deleted; or say why not."""
        assert self._repair is not None
        if not mender.extras:
            return
        refusal = mender.refusal(files)
        if refusal is not None:
            self._ui.say("refused", f"nothing is deleted: {refusal}", reason=refusal)
            return
        trash = route.trash if route.deletes == "trash" else None
        fate = "deleted" if trash is None else "moved to the trash"
        for each in mender.extras:
            self._ui.say("delete", f"to be {fate}: {each.key}", key=each.key, trash=trash)
        question = f"Have {counted(len(mender.extras), 'file')} {fate}?"
        if not self._repair.ask or await asyncio.to_thread(self._ui.ask, question):
            await mender.delete()

    def _say_wait(self, seconds: float, count: int) -> None:
        again = f"looked at again in {human_time(seconds)} (--tolerance)"
        self._ui.note(f"{counted(count, 'recent difference')} to be {again}")

    def _progress(self) -> Shown:
        seen = self._total.source_objects + self._now.source_objects
        size_bytes = self._total.source_bytes + self._now.source_bytes
        found = sum(self._total.findings.values()) + sum(self._now.findings.values())
        total = None if self._expected is None else self._total.source_objects + self._expected
        return Shown(seen, size_bytes, counted(found, "finding"), total if total and total >= seen else None)

    def _tell(self, hands: Hands, *, complete: bool) -> None:
        seconds = time.monotonic() - self._began_s
        self._teller.tell_rest()
        data = {**facts(self._total, complete=complete), "seconds": round(seconds, 3)}
        text = words(self._total, seconds, complete=complete)
        if self._repair is not None:
            verb = "would be sent" if self._repair.dry_run else "sent"
            sent = ", ".join(f"{count:,} {kind}" for kind, count in self._sent.items())
            data["repair"] = {"sent": dict(self._sent), "dry_run": self._repair.dry_run, **hands.facts()}
            text += f"\nFor repair {verb}: {sent or 'nothing'}." + hands.words()
        self._ui.say("summary", text, **data)
        if complete:
            warn_of_nothing(self._ui, self._selection, self._total.source_objects + self._total.target_files)
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
