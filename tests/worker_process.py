"""The real command as a process of its own, its output collected as it comes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

S3NSYNC = (sys.executable, "-m", "s3nsync")


class Process:
    """A running `s3nsync`: `log` grows by the lines of its stderr, `out` by those of its stdout."""

    def __init__(self, verb: str, env: Mapping[str, str], cwd: Path) -> None:
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NS_", "S3NSYNC"))
        }
        self.popen = subprocess.Popen(
            [*S3NSYNC, *verb.split()],
            env={**inherited, **env},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log: list[str] = []
        self.out: list[str] = []
        assert self.popen.stderr is not None
        assert self.popen.stdout is not None
        self._readers = [
            threading.Thread(target=self.log.extend, args=(self.popen.stderr,)),
            threading.Thread(target=self.out.extend, args=(self.popen.stdout,)),
        ]
        for reader in self._readers:
            reader.start()

    def wait(self, within_s: float = 120.0) -> int:
        """Wait for its end and give its exit code; raises subprocess.TimeoutExpired."""
        code = self.popen.wait(within_s)
        for reader in self._readers:
            reader.join(60)
        for pipe in (self.popen.stdout, self.popen.stderr):
            assert pipe is not None
            pipe.close()
        return code

    def kill(self) -> None:
        """Kill -9, and wait until it is gone; harmless for one that is."""
        self.popen.kill()
        self.wait()

    @property
    def text(self) -> str:
        """Give the whole log so far."""
        return "".join(self.log)

    def lines(self) -> list[dict[str, object]]:
        """Give the log's JSON lines so far."""
        return [json.loads(line) for line in list(self.log) if line.startswith("{")]

    def changes(self) -> list[dict[str, object]]:
        """Give one line for each settled Change."""
        return [line for line in self.lines() if line.get("event") == "change"]


def until(holds: Callable[[], bool], within_s: float = 240.0) -> None:
    """Wait for a state, by looking; fails the test if it does not come in time."""
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.05)
