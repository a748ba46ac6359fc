"""The page about NetStorage says what is so: its example runs, its verbs and methods exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import typer.main

from s3nsync.cli.ns import app
from s3nsync.emulator import Emulator, running
from s3nsync.netstorage import NetStorage

PAGE = (Path(__file__).parents[2] / "docs" / "netstorage.md").read_text("utf-8")


def test_the_example_runs() -> None:
    """The library example does what its comments say, on a fresh NetStorage."""
    [example] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    with running(Emulator(accounts={"user": "key"})) as emulator:
        environment = os.environ | {
            "NS_HOSTNAME": f"127.0.0.1:{emulator.port}",
            "NS_USER": "user",
            "NS_KEY": "key",
            "NS_INSECURE_HTTP": "1",
        }
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", example],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert set(emulator.snapshot()) == {"/123456/docs/lines.txt"}
    lines = done.stdout.splitlines()
    assert lines[0] == "/123456/docs/hello.txt 5 5d41402abc4b2a76b9719d911017c592"
    assert lines[-2:] == ["hello", "existed: True"]


def test_every_verb_is_shown_and_none_is_made_up() -> None:
    """The commands on the page are those of the command line, with options that exist."""
    group = typer.main.get_command(app)
    commands = getattr(group, "commands", {})
    shown = re.findall(r"s3nsync ns (\w+)(.*)", PAGE)
    assert {verb for verb, _ in shown} == set(commands)
    for verb, rest in shown:
        known = {option for parameter in commands[verb].params for option in parameter.opts}
        assert set(re.findall(r"(?<= )--?[a-z]+", rest)) <= known


def test_every_method_of_the_table_exists() -> None:
    """And every public method is in the table."""
    table = PAGE.split("| method |")[1].split("### Errors")[0]
    named = {name for row in table.splitlines() for name in re.findall(r"`(\w+)`", row.split(" | ")[0])}
    public = {name for name, value in vars(NetStorage).items() if callable(value) and not name.startswith("_")}
    assert named == public
