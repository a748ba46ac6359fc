"""What the verbs share: how they begin, run and end, and the one look at the environment."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine
from inspect import cleandoc
from pathlib import Path
from typing import TypeVar

import typer

from s3nsync.cli import interrupts
from s3nsync.cli.ui import FAILED, Ui
from s3nsync.config import load
from s3nsync.errors import ConfigError
from s3nsync.model import ObjectRef
from s3nsync.settings import Settings

T = TypeVar("T")


def new_ui(*, as_json: bool = False, failed: int = FAILED) -> Ui:
    """Give a command its face; `failed` as in `Ui`."""
    return Ui(as_json=as_json, debug=bool(os.environ.get("S3NSYNC_DEBUG")), failed=failed)


def settings_of(config: Path | None, *, accounts: bool = True, queues: bool = True) -> Settings:
    """Read the settings (`config.load`); ConfigError names every mistake."""
    return load(config, os.environ, accounts=accounts, queues=queues)


def parse_ref(url: str, *, example: str = "s3://bucket/key") -> ObjectRef:
    """Read `s3://bucket/key`; the key is taken as it stands. Raises ConfigError with an example of what is wanted."""
    bucket, slash, key = url.removeprefix("s3://").partition("/")
    if not (url.startswith("s3://") and bucket and slash and key):
        raise ConfigError(f"{url!r} is no object", hint=f"write {example}")
    return ObjectRef(bucket, key)


def finish(ui: Ui, action: Callable[[], int | None]) -> None:
    """Run a verb and leave with its exit code; Ctrl-C raises KeyboardInterrupt in it, and nowhere else."""
    with interrupts.heard():
        code = ui.run(action)
    if code == interrupts.INTERRUPTED:
        interrupts.leave()  # the ordinary end would wait for threads, and they for an answer of AWS, or a line of stdin
    raise typer.Exit(code)


def run_async(work: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end, on uvloop where it is installed; Ctrl-C cancels it, and a second one ends it all."""

    async def interruptible() -> T:
        with interrupts.once():
            return await work

    runner = asyncio.Runner(loop_factory=_loop_factory())
    try:
        return runner.run(interruptible())
    finally:
        if not isinstance(sys.exception(), KeyboardInterrupt):  # else see `finish`
            runner.close()


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop  # noqa: PLC0415 - optional: everything works without it
    except ImportError:
        return None
    return uvloop.new_event_loop


def tidy(app: typer.Typer) -> None:
    """Have the help of every verb wrapped by the terminal alone: where its source breaks a line says nothing."""
    for verb in app.registered_commands:
        text = verb.help or (verb.callback and verb.callback.__doc__) or ""
        verb.help = "\n\n".join(" ".join(paragraph.split()) for paragraph in cleandoc(text).split("\n\n"))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            tidy(group.typer_instance)
