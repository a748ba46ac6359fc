"""`s3nsync failed`: the dead-letter queue, told entry by entry, and what is to become of each (`ops.failed`)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Literal

import typer

from s3nsync.app import App, assemble
from s3nsync.cli import options
from s3nsync.cli.shell import finish, new_ui, run_async, settings_of
from s3nsync.cli.ui import NOT_THERE, Ui, check_terminal
from s3nsync.errors import ConfigError
from s3nsync.figures import utc
from s3nsync.logs import configure
from s3nsync.ops import failed

NAMED = 3
"""Names of entries that are shown to somebody whose pattern matches none."""

Fate = Literal["keep", "remove"]
Decide = Callable[[failed.Entry, App], Coroutine[object, object, Fate]]

app = typer.Typer(help="Read the dead-letter queue, and have what failed looked at again.", no_args_is_help=True)


async def _sweep(ui: Ui, config: Path | None, patterns: Sequence[str], limit: int, decide: Decide) -> int:
    """Decide on the entries that match, one after the other; gives the exit code."""
    settings = settings_of(config, accounts=False)
    ui.redact = configure("auto", "error", settings.secrets()).redact
    matched, others = 0, list[str]()
    async with assemble(settings, report=lambda _report: None) as parts:

        async def visit(entry: failed.Entry) -> Fate:
            if not failed.selected(entry, tuple(patterns)):
                others.extend([entry.name] if len(others) < NAMED else [])
                return "keep"
            nonlocal matched
            matched += 1
            return await decide(entry, parts)

        swept = await failed.sweep(parts.queues["dead"], visit, limit)
    for name in swept.refused:
        ui.say("kept", f"{name}: the dead-letter queue kept it, as its lease had ended: it is listed again", name=name)
    counts = {"seen": swept.seen, "matched": matched, "removed": swept.removed}
    missed = matched == 0 and tuple(patterns) not in {(), ("*",)}
    hint = _hint(others, swept.seen, limit) if missed else ""
    told = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    text = told if swept.seen else "the dead-letter queue is empty"
    ui.say("summary", text + (f"\n  hint: {hint}" if hint else ""), **counts, hint=hint)
    return NOT_THERE if missed else 0


def _hint(others: Sequence[str], seen: int, limit: int) -> str:
    """Say to somebody whose pattern matches nothing what there is."""
    if seen == 0:
        return "nothing was buried, or somebody else holds it right now: look again in a minute"
    more = " and more" if seen > len(others) else ""
    cut = f"; no more than {limit:,} were looked at (--limit)" if seen >= limit else ""
    return f"a pattern is for whole names, as `s3nsync failed list` shows them: {', '.join(others)}{more}{cut}"


@app.command("list")
def list_(
    patterns: options.SomePatterns = None,
    *,
    limit: options.Limit = 1000,
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Show what could not be replicated, why, and since when; nothing is removed.

    Exit code 4: no entry matches.
    """
    ui = new_ui(as_json=as_json)

    async def show(entry: failed.Entry, _parts: App) -> Fate:
        facts = entry.facts()
        times = [_told(facts[name]) for name in ("first_attempt_s", "last_attempt_s")]
        tried = f"attempts: {facts['attempts'] or '?'}, first {times[0]}, last {times[1]}"
        ui.say("failed", f"{entry.name}\n  {entry.reason}\n  {facts['hint']}\n  {tried}", **facts)
        return "keep"

    finish(ui, lambda: run_async(_sweep(ui, config, patterns or (), limit, show)))


def _told(moment_s: object) -> str:
    return utc(moment_s) if isinstance(moment_s, int | float) and moment_s > 0 else "unknown"


@app.command()
def retry(
    patterns: options.Patterns,
    *,
    limit: options.Limit = 1000,
    dry_run: options.DryRun = False,
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Have entries looked at again by the workers, through the bulk queue; they leave the dead-letter queue.

    What fails again comes back to it. Exit code 4: no entry matches.
    """
    ui = new_ui(as_json=as_json)
    run_id = f"retry-{secrets.token_hex(8)}"

    async def send(entry: failed.Entry, parts: App) -> Fate:
        bulk = parts.queues.get("bulk")
        if bulk is None:
            raise ConfigError("there is no bulk queue", hint="set queues.bulk: retried entries go there")
        if failed.came_back(entry, run_id):
            ui.say("retried", f"{entry.name}: failed again, and stays: {entry.reason}", name=entry.name, retried=False)
            return "keep"
        sent = bool(entry.changes) and (dry_run or await failed.retry(entry, bulk, run_id))
        word = ("would be retried" if dry_run else "retried") if sent else "names no object: left here"
        ui.say("retried", f"{entry.name}: {word}", name=entry.name, retried=sent and not dry_run)
        return "remove" if sent and not dry_run else "keep"

    finish(ui, lambda: run_async(_sweep(ui, config, patterns, limit, send)))


@app.command()
def drop(
    patterns: options.Patterns,
    *,
    limit: options.Limit = 1000,
    dry_run: options.DryRun = False,
    yes: options.Yes = False,
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Remove entries for good: their keys stay as they are on NetStorage until their next event.

    Exit code 4: no entry matches.
    """
    ui = new_ui(as_json=as_json)

    async def remove(entry: failed.Entry, _parts: App) -> Fate:
        word = "would be dropped" if dry_run else "dropped"
        ui.say("dropped", f"{entry.name}: {word}", name=entry.name, dropped=not dry_run)
        return "keep" if dry_run else "remove"

    def work() -> int:
        if not (yes or dry_run):
            check_terminal("say --yes, and entries are removed unasked; --dry-run shows which")
            if not ui.ask(f"Remove the entries that match {' '.join(patterns)} for good?"):
                ui.note("nothing was removed")
                return 1
        return run_async(_sweep(ui, config, patterns, limit, remove))

    finish(ui, work)
