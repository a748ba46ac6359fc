"""The command line: one function a verb, everything of substance elsewhere.

Failures end in `ui.Ui.run`: one message with its hint and the exit code of its type, never a traceback unless asked
for. Results go to standard output; the log, metric lines and progress go to standard error.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from s3nsync import __version__
from s3nsync.app import App, assemble, relax_collector, resolve
from s3nsync.cli import failed, ns, options, sync, verify
from s3nsync.cli.over_routes import outcome_words
from s3nsync.cli.shell import finish, new_ui, parse_ref, run_async, settings_of, tidy
from s3nsync.cli.ui import Ui
from s3nsync.errors import UsageError
from s3nsync.figures import human_bytes
from s3nsync.health import Health, State, answering, look
from s3nsync.lambda_zip import build
from s3nsync.logs import configure, log_change
from s3nsync.metrics import Metrics
from s3nsync.model import Report
from s3nsync.settings import Settings
from s3nsync.worker import Worker

log = structlog.get_logger("s3nsync.cli")


app = typer.Typer(
    name="s3nsync",
    help="Keeps an Akamai NetStorage directory equal to an Amazon S3 bucket.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
)
app.add_typer(ns.app, name="ns")
app.add_typer(failed.app, name="failed")


@app.callback(invoke_without_command=True)
def _root(*, version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False) -> None:
    if version:
        typer.echo(f"s3nsync {__version__}")
        raise typer.Exit


# --- replicating -----------------------------------------------------------------------------------------------


@app.command()
def run(*, config: options.ConfigFile = None) -> None:
    """Replicate until stopped: what the container does. SIGTERM or Ctrl-C drains and leaves."""
    ui = new_ui()
    finish(ui, lambda: run_async(_replicate(ui, settings_of(config), drain=False)))


@app.command()
def drain(*, config: options.ConfigFile = None, as_json: options.AsJson = False) -> None:
    """Replicate until the live and bulk queues are empty, then leave."""
    ui = new_ui(as_json=as_json)
    finish(ui, lambda: run_async(_replicate(ui, settings_of(config), drain=True)))


async def _replicate(ui: Ui, settings: Settings, *, drain: bool) -> None:
    relax_collector()
    settings = await resolve(settings)
    sink = configure(settings.log.format, settings.log.level, settings.secrets())
    ui.redact = sink.redact
    live: list[App] = []
    metrics = Metrics(
        write=sink.write,
        now_s=time.time,
        in_flight=lambda: sum(each.worker.in_flight for each in live),
        buckets={route.bucket for route in settings.routes},
        lanes=lambda: {name: lane.figures() for each in live for name, lane in each.lanes.items()},
        namespace=settings.metrics.namespace,
        service=settings.metrics.service,
    )
    measured = metrics if settings.metrics.emf and sink.is_json else None  # the lines are for CloudWatch, not for eyes

    def report(settled: Report) -> None:
        log_change(settled, time.time())
        metrics.record(settled)

    async with assemble(settings, report=report) as parts:
        live.append(parts)
        await parts.probe()
        async with AsyncExitStack() as stack:
            await _answer_health(parts.worker, stack)
            stack.enter_context(_stopping(parts.worker.stop))
            work = parts.worker.drain() if drain else parts.worker.run()
            await _with_metrics(work, measured, settings.metrics.flush_s)
        if drain:
            left = await parts.queues["check"].depth()
            counts = dict(sorted(parts.worker.settled.items()))
            counts["checks_left"] = left.visible + left.in_flight + left.delayed
            ui.say("summary", outcome_words(counts) or "live and bulk queue were empty", **counts)


async def _answer_health(worker: Worker, stack: AsyncExitStack) -> None:
    """Answer `s3nsync health` until the stack closes; work goes on where that cannot be."""
    try:
        await stack.enter_async_context(answering(lambda: _health(worker)))
    except OSError as error:
        log.warning(
            "`s3nsync health` cannot be answered",
            reason=error.strerror,
            hint="harmless but where containers are checked: is another worker in this container, or is this no Linux?",
        )


def _health(worker: Worker) -> Health:
    state: State = "stopping" if worker.stopping else "paused" if worker.paused else "running"
    return Health(state, worker.in_flight, round(worker.silence_s, 1))


async def _with_metrics(work: Coroutine[object, object, None], metrics: Metrics | None, flush_s: float) -> None:
    """Do the work while metrics are written; if writing them dies, the work is cancelled: nothing runs unseen."""
    if metrics is None:
        await work
        return
    working, writing = asyncio.create_task(work), asyncio.create_task(metrics.run(flush_s))
    try:
        done, _ = await asyncio.wait([working, writing], return_when=asyncio.FIRST_COMPLETED)
    finally:
        working.cancel()
        writing.cancel()
        await asyncio.gather(working, writing, return_exceptions=True)
    for task in done:
        task.result()


@contextmanager
def _stopping(stop: Callable[[], None], *, hard: bool = True) -> Iterator[None]:
    """Have SIGTERM and SIGINT call `stop`; a second one, if `hard`, ends the process at once: that loses nothing."""
    loop = asyncio.get_running_loop()
    numbers = (signal.SIGTERM, signal.SIGINT)

    def first() -> None:
        stop()
        for number in numbers if hard else ():
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # not Python's own, which waits for whatever is under way

    for number in numbers:
        loop.add_signal_handler(number, first)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@app.command()
def health(*, as_json: options.AsJson = False) -> None:
    """Ask this container's worker whether it is alive and working: 1 if not. `python -m s3nsync.health` is quicker."""
    ui = new_ui(as_json=as_json)
    finish(ui, lambda: _show_health(ui))


def _show_health(ui: Ui, name: str | None = None) -> int:
    finding = look(name)
    ui.say("health", finding.text, **finding.facts())
    return 0 if finding.healthy else 1


@app.command()
def doctor(*, config: options.ConfigFile = None, as_json: options.AsJson = False) -> None:
    """Look at everything that replication depends on, and say what to mend; exit code 1 if anything failed.

    Before anything is set up it wants no queues: region, bucket, CP code and account are enough.
    """
    from s3nsync.ops.doctor import examine  # noqa: PLC0415 - no other verb needs it

    ui = new_ui(as_json=as_json)

    async def show() -> int:
        settings = settings_of(config, queues=False)
        ui.redact = configure("auto", "error", settings.secrets()).redact
        counts = dict.fromkeys(("ok", "warning", "failed"), 0)
        async for each in examine(settings):
            counts[each.level] += 1
            hint = f"\n         {each.hint}" if each.hint else ""
            ui.say("finding", f"{each.level:8} {each.what}{hint}", level=each.level, what=each.what, hint=each.hint)
        words = ", ".join(f"{count} {level}" for level, count in counts.items() if count)
        ui.say("summary", words, **counts)
        return 1 if counts["failed"] else 0

    finish(ui, lambda: run_async(show()))


@app.command()
def status(
    urls: Annotated[list[str], typer.Argument(metavar="S3_URL", help="Objects, such as s3://media/site/a.txt.")],
    *,
    config: options.ConfigFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Say whether objects are replicated and, if not, why.

    Exit code 0: all are as they should be; 1: one is not; 5: one could not be told. Nothing is written. If one is not,
    the dead-letter queue is looked through, and everything given back.
    """
    from s3nsync.ops.status import examine, exit_code, facts, words  # noqa: PLC0415 - no other verb needs it

    ui = new_ui(as_json=as_json)

    async def show() -> int:
        refs = [parse_ref(url) for url in urls]
        settings = await resolve(settings_of(config))
        ui.redact = configure("auto", "error", settings.secrets()).redact
        async with assemble(settings, report=lambda _report: None) as parts:
            found = await examine(refs, parts, time.time)
        for each in found:
            ui.say("status", words(each), **facts(each))
        return exit_code(found)

    finish(ui, lambda: run_async(show()))


app.command()(verify.verify)
app.command()(sync.sync)


# --- settings and packaging ------------------------------------------------------------------------------------


@app.command("config")
def show_config(*, config: options.ConfigFile = None) -> None:
    """Check the settings and show what is in force, as JSON; secrets are masked."""
    ui = new_ui()
    finish(ui, lambda: typer.echo(json.dumps(settings_of(config).masked(), indent=2)))


@app.command("lambda-zip")
def lambda_zip(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write.")] = Path("s3nsync-lambda.zip"),
    *,
    as_json: options.AsJson = False,
) -> None:
    """Write the intake function's archive: the same sources give the same bytes."""
    ui = new_ui(as_json=as_json)

    def write() -> None:
        built = build(out)
        ui.say(
            "lambda_zip",
            f"{built.path}  {human_bytes(built.size_bytes)}  sha256 {built.sha256}",
            path=str(built.path),
            size_bytes=built.size_bytes,
            sha256=built.sha256,
        )

    finish(ui, write)


# --- trying it out ---------------------------------------------------------------------------------------------


@app.command()
def demo(*, as_json: options.AsJson = False) -> None:
    """Watch the whole pipeline at work on this machine, faults included, and see both sides proven identical."""
    ui = new_ui(as_json=as_json)

    def show() -> int:
        from s3nsync.local.demo import run_demo  # noqa: PLC0415 - needs the `dev` extra

        configure("auto", "error")
        console = Console(width=None if sys.stdout.isatty() else 150, legacy_windows=False)
        identical = run_async(run_demo(as_json=as_json, console=console, progress=Console(stderr=True, soft_wrap=True)))
        return 0 if identical else 1

    finish(ui, show)


@app.command()
def dev() -> None:
    """Keep the demo's whole set running, and mirror what you put into its bucket. Ctrl-C ends it."""
    ui = new_ui()

    def keep() -> None:
        from s3nsync.local.demo import run_dev  # noqa: PLC0415 - needs the `dev` extra

        configure("auto", "info")
        run_async(run_dev(ui.note, partial(_stopping, hard=False), lambda settled: log_change(settled, time.time())))

    finish(ui, keep)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,  # the emulator's own command line has all the options, --help among them
)
def emulate(context: typer.Context) -> None:
    """Run a NetStorage on this machine, for tests and experiments: see docs/emulator.md.

    Its options stand there, and in `s3nsync emulate --help`; they are those of `python -m s3nsync.emulator`.
    """
    from s3nsync.emulator.command import main as serve  # noqa: PLC0415 - no other verb needs it

    finish(new_ui(), lambda: serve(context.args, os.environ, program="s3nsync emulate"))


tidy(app)


def start() -> None:
    """Run the command line of this process, and leave with its exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that the terminal's encoding lacks is escaped, and no error
        sys.stdout.reconfigure(errors="backslashreplace")
    as_json = "--json" in sys.argv[1:]
    try:
        code = app(standalone_mode=not as_json)
    except Exception as error:
        # What is wrong about the usage: typer's own classes, or click's, by its version; both have this method.
        told = getattr(error, "format_message", None)
        if told is None:
            raise
        code = new_ui(as_json=True).fail(UsageError(told()))
    sys.exit(code)
