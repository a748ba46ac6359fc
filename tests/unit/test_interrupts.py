"""Ctrl-C at any moment of a real process: no traceback, and the exit code that shells know."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest

COMMANDS = ([sys.executable, "-m", "s3nsync"], [str(Path(sys.executable).with_name("s3nsync"))])
TRIES = 10


def started(
    command: list[str], verb: str, folder: Path, env: Mapping[str, str] | None = None, *, ignoring: bool = False
) -> subprocess.Popen[str]:
    """Start a verb that tells on stderr which modules it has imported; wait until the first of ours is in charge."""
    shell = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if ignoring else []
    process = subprocess.Popen(
        [*shell, *command, *verb.split()],
        env={**os.environ, **(env or {}), "PYTHONPROFILEIMPORTTIME": "1"},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith("s3nsync.cli.interrupts"):
            break
    process.stderr.readline()  # the next import began after that
    return process


def told(process: subprocess.Popen[str], within_s: float = 60) -> str:
    """Wait for its end; give what it said on stderr, imports aside."""
    _, said = process.communicate(timeout=within_s)
    return "".join(line for line in said.splitlines(keepends=True) if not line.startswith("import time:"))


@pytest.mark.parametrize("command", COMMANDS, ids=["module", "script"])
def test_no_moment_of_coming_up_or_going_down_shows_a_traceback(command: list[str], tmp_path: Path) -> None:
    """Imports, reading of options, a verb that fails at once, the end of the interpreter."""
    moments = random.Random(7)
    codes = set()
    for _ in range(TRIES):
        process = started(command, "config", tmp_path)
        time.sleep(moments.uniform(0, 1.2))
        process.send_signal(signal.SIGINT)
        said = told(process)
        assert "Traceback" not in said, said
        assert "Exception ignored" not in said, said
        codes.add(process.returncode)
    # A signal that comes when Python is all but gone ends the process by its default: to shells, 130 too.
    assert codes <= {130, -signal.SIGINT, 2}
    assert 130 in codes


def test_ctrl_c_does_not_wait_for_an_answer_that_never_comes(tmp_path: Path) -> None:
    """One is enough, though a thread waits for AWS."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        silent.settimeout(120)
        env = {
            "S3NSYNC_REGION": "us-east-1",
            "S3NSYNC_AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "BUCKET": "media",
            "CPCODE": "1",
            "NS_SECRET": '{"NS_HOSTNAME": "127.0.0.1:1", "NS_USER": "u", "NS_KEY": "key-canary"}',
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "y",
        }
        process = started(COMMANDS[0], "doctor", tmp_path, env)
        asked, _ = silent.accept()
        with contextlib.closing(asked):
            process.send_signal(signal.SIGINT)
            said = told(process, 20)
    assert (process.returncode, said) == (130, "interrupted\n")


def test_an_interrupt_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """What a shell starts in the background goes on when somebody presses Ctrl-C in front of it."""
    process = started(COMMANDS[0], "config", tmp_path, ignoring=True)
    process.send_signal(signal.SIGINT)
    assert "nothing is set up yet" in told(process)
    assert process.returncode == 2
