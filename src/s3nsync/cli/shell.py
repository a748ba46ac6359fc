"""What the verbs share: their common options, how they run, and the one look at the environment."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from s3nsync.app import relax_collector
from s3nsync.cli.ui import Ui
from s3nsync.config import load
from s3nsync.errors import ConfigError
from s3nsync.model import ObjectRef
from s3nsync.settings import Settings

T = TypeVar("T")

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The TOML file; else S3NSYNC_CONFIG, else ./s3nsync.toml."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object a line on standard output.")]


def new_ui(*, as_json: bool = False) -> Ui:
    """Give a command its face."""
    return Ui(as_json=as_json, debug=bool(os.environ.get("S3NSYNC_DEBUG")))


def settings_of(config: Path | None) -> Settings:
    """Read the settings, of somebody who may have no queues; ConfigError names every mistake."""
    return load(config, os.environ, queues=False)


def parse_ref(url: str, *, example: str = "s3://bucket/key") -> ObjectRef:
    """Read `s3://bucket/key`; the key is taken as it stands. Raises ConfigError with an example of what is wanted."""
    bucket, slash, key = url.removeprefix("s3://").partition("/")
    if not (url.startswith("s3://") and bucket and slash and key):
        raise ConfigError(f"{url!r} is no object", hint=f"write {example}")
    return ObjectRef(bucket, key)


def finish(ui: Ui, action: Callable[[], int | None]) -> None:
    """Run a verb and leave with its exit code."""
    raise typer.Exit(ui.run(action))


def run_async(work: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end, on uvloop where it is installed; Ctrl-C cancels it."""
    relax_collector()
    try:
        import uvloop  # noqa: PLC0415 - optional: everything works without it
    except ImportError:
        return asyncio.run(work)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
