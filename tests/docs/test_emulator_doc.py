"""docs/emulator.md says what the emulator does: its options, faults, routes and examples are the real ones."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import get_args

from s3nsync.emulator import Emulator, Fault, running
from s3nsync.emulator.command import _access, _parser
from s3nsync.emulator.control import Control
from s3nsync.emulator.faults import Kind, fault_from_json

DOC = (Path(__file__).parents[2] / "docs" / "emulator.md").read_text(encoding="utf-8")


def test_options_exist() -> None:
    """Every option the page names is one of the command's, and every one of the command's is named."""
    command = [sys.executable, "-m", "s3nsync.emulator", "--help"]
    usage = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    named = set(re.findall(r"`(--[a-z-]+)", DOC)) | set(re.findall(r" (--(?!disable)[a-z-]+) ", DOC))
    assert len(named) > 10
    assert named == set(re.findall(r"^ +(?:-h, )?(--[a-z-]+)", usage, re.MULTILINE)) - {"--help"}


def test_how_to_point_ns_at_it() -> None:
    """The variables the page shows are those the ready line for people has, and the key stands in none."""
    shown = re.search(r"^try: +(.*) s3nsync ns ls /123456$", DOC, re.MULTILINE)
    assert shown is not None
    given = _parser("emulate").parse_args(["--user", "media-1"])
    with running(Emulator(accounts={})) as emulator:
        assert _access(emulator, given).replace(str(emulator.port), "8080") == shown[1]


def test_fault_table_is_whole() -> None:
    """The table has each kind once, with settings a fault really has."""
    rows = re.findall(r"^\| `([a-z-]+)` \| [^|]+ \| ([^|]*)\|$", DOC, re.MULTILINE)
    kinds = [(kind, settings) for kind, settings in rows if kind in get_args(Kind)]
    assert [kind for kind, _ in kinds] == list(get_args(Kind))
    settings = {name for _, text in kinds for name in re.findall(r"`([a-z_]+)`", text)}
    assert settings <= set(Fault.__dataclass_fields__)


def test_examples_are_faults() -> None:
    """What the page sends with curl is accepted."""
    bodies = re.findall(r"curl -d (.*?) http", DOC)
    assert [fault_from_json(json.loads(shlex.split(body)[0])).kind for body in bodies] == ["status", "late-commit"]


def test_routes_are_whole() -> None:
    """The control table has every route, and none that is not there."""
    named = {
        (method, path)
        for method, paths in re.findall(r"^\| `(GET|POST|DELETE) (.*?)` \|", DOC, re.MULTILINE)
        for path in re.findall(r"/[a-z]+", paths)
    }
    assert named == set(Control(Emulator(accounts={}))._routes)
