"""Run a process from an image's root as an engine would, with what util-linux and coreutils bring.

The root is read-only, the user is the image's, process and mount namespaces are its own; the network is the host's.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from image.building import Config

_ENTER = """
set -eu
root=$1 user=$2
shift 2
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user" "$root" "$@"
"""


@dataclass(frozen=True, slots=True)
class Image:
    """An image's configuration and its unpacked root."""

    config: Config
    root: Path

    def enter(self, command: Sequence[str], user: str | None = None) -> list[str]:
        """Give the command line that starts `command` as the first process of a container."""
        unshare = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        return [*unshare, "sh", "-c", _ENTER, "sh", str(self.root), user or self.config.user, *command]

    def run(
        self, *arguments: str, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the image's entry point with these arguments, to its end."""
        return self.call([*self.config.entrypoint, *arguments], user=user, env=env)

    def call(
        self, command: Sequence[str], *, user: str | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run any command of the image, to its end."""
        return _call(self.enter(command, user), {**self.config.env, **(env or {})})

    @contextmanager
    def started(self, env: Mapping[str, str], log: Path) -> Iterator[Container]:
        """Run what the image runs by default, until the block ends; its output goes to `log`."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                self.enter([*self.config.entrypoint, *self.config.cmd]),
                env={**self.config.env, **env},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )
        try:
            yield Container(self.config, process, self._entered(process))
        finally:
            process.kill()  # its child dies with it
            process.wait(10)

    def _entered(self, process: subprocess.Popen[bytes], within_s: float = 10.0) -> int:
        """Wait until the first process of the container is at its root, and give its number outside."""
        deadline_s = time.monotonic() + within_s
        while time.monotonic() < deadline_s and process.poll() is None:
            children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
            if children and Path(f"/proc/{children[0]}/root").readlink() == self.root:
                return int(children[0])
            time.sleep(0.02)
        raise AssertionError(f"the container did not start: {process}")


@dataclass(frozen=True, slots=True)
class Container:
    """A running container; `first_pid` is its first process, by its number outside."""

    config: Config
    process: subprocess.Popen[bytes] = field(repr=False)
    first_pid: int

    def health(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run the image's own health check inside, or this command."""
        test = self.config.healthcheck["Test"]
        assert isinstance(test, list)
        assert test[0] == "CMD"
        uid, gid = self.config.user.split(":")
        inside = ["nsenter", "-t", str(self.first_pid), "--mount", "--pid", "--root", "--wd=/", "-S", uid, "-G", gid]
        return _call([*inside, *(command or test[1:])], self.config.env)

    def send(self, number: signal.Signals) -> None:
        """Signal the first process, as an engine does."""
        os.kill(self.first_pid, number)


def _call(command: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
