"""The command line of a real process, where it cannot be understood or its terminal cannot show a name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def told(*arguments: str, folder: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run `s3nsync` in a folder with nothing in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("S3NSYNC_", "NS_", "AWS_"))}
    command = [sys.executable, "-m", "s3nsync", *arguments]
    return subprocess.run(command, cwd=folder, env=kept | (env or {}), capture_output=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["verify", "--json", "--repiar"], "No such option: --repiar"),
        (["verify", "--json", "--tolerance", "soon"], "Invalid value for '--tolerance'"),
        (["failed", "retry", "--json"], "Missing argument"),
        (["statsu", "--json"], "No such command 'statsu'"),
        (["run", "--json"], "No such option: --json"),
    ],
)
def test_wrong_usage_is_json_where_json_is_asked_for(arguments: list[str], what: str, tmp_path: Path) -> None:
    """One line on standard output as for every other error, and nothing on standard error; 2 either way."""
    done = told(*arguments, folder=tmp_path)
    (line,) = done.stdout.splitlines()
    error = json.loads(line)
    assert (done.returncode, error["type"], error["error"], error["exit_code"]) == (2, "error", "UsageError", 2)
    assert what in error["message"]
    assert not done.stderr
    plain = told(*(each for each in arguments if each != "--json"), folder=tmp_path)
    assert (plain.returncode, plain.stdout) == (2, b"")


def test_json_changes_no_other_exit_code(tmp_path: Path) -> None:
    """Help is 0; what a verb ends with stays."""
    assert told("verify", "--json", "--help", folder=tmp_path).returncode == 0
    done = told("verify", "--json", folder=tmp_path)
    assert (done.returncode, json.loads(done.stdout)["error"]) == (2, "ConfigError")
    assert told("lambda-zip", "--json", folder=tmp_path).returncode == 0


def test_a_name_that_the_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    """On a terminal of ISO-8859-1 a key from elsewhere is no bug of ours."""
    out = tmp_path / "日本"
    done = told("lambda-zip", str(out), folder=tmp_path, env={"PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"\\u65e5\\u672c" in done.stdout
