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

from worker_process import until

COMMANDS = ([sys.executable, "-m", "s3nsync"], [str(Path(sys.executable).with_name("s3nsync"))])
TRIES = 10
SAID = "said.txt"


def started(
    command: list[str], verb: str, folder: Path, env: Mapping[str, str] | None = None, *, ignoring: bool = False
) -> subprocess.Popen[bytes]:
    """Start a verb that tells in a file which modules it has imported; wait until the first of ours is in charge.

    A file, for what a pipe's reader had taken in beyond the line that it waited for, half a line may be, is lost later.
    """
    shell = ["sh", "-c", 'trap "" INT; exec "$@"', "sh"] if ignoring else []
    with (folder / SAID).open("wb") as said:
        process = subprocess.Popen(
            [*shell, *command, *verb.split()],
            env={**os.environ, **(env or {}), "PYTHONPROFILEIMPORTTIME": "1"},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=said,
        )

    def in_charge() -> bool:
        """Tell whether an import has ended that began after the one of that module, or the process has."""
        _, found, after = (folder / SAID).read_text().partition("s3nsync.cli.interrupts\n")
        return "\n" in after if found else process.poll() is not None

    until(in_charge)
    return process


def told(process: subprocess.Popen[bytes], folder: Path, within_s: float = 60) -> str:
    """Wait for its end; give what it said on stderr, imports aside."""
    process.wait(within_s)
    said = (folder / SAID).read_text().splitlines(keepends=True)
    return "".join(line for line in said if not line.startswith("import time:"))


@pytest.mark.parametrize("command", COMMANDS, ids=["module", "script"])
def test_no_moment_of_coming_up_or_going_down_shows_a_traceback(command: list[str], tmp_path: Path) -> None:
    """Imports, reading of options, a verb that fails at once, the end of the interpreter."""
    moments = random.Random(7)
    codes = set()
    for _ in range(TRIES):
        process = started(command, "config", tmp_path)
        time.sleep(moments.uniform(0, 1.2))
        process.send_signal(signal.SIGINT)
        said = told(process, tmp_path)
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
            said = told(process, tmp_path, 20)
    assert (process.returncode, said) == (130, "interrupted\n")


def test_an_interrupt_that_is_ignored_stays_ignored(tmp_path: Path) -> None:
    """What a shell starts in the background goes on when somebody presses Ctrl-C in front of it."""
    process = started(COMMANDS[0], "config", tmp_path, ignoring=True)
    process.send_signal(signal.SIGINT)
    assert "nothing is set up yet" in told(process, tmp_path)
    assert process.returncode == 2
