"""A command on a terminal: what was drawn, and what stands on the screen now and at the end.

The screen knows what rich and we send: text, line ends, erasing, moving up, hiding and showing the cursor. Anything
else is an error, so that nothing goes unseen.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_ON_ITS_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)
"""Makes the terminal one whose Ctrl-C is a signal, and becomes the command."""

_TOKEN = re.compile(r"\x1b\[(\??[0-9;]*)([A-Za-z])|\x1b(.)|([^\x1b])", re.DOTALL)


class Screen:
    """The rows of a terminal so many columns wide; `frames` are the texts that stood on it, one after the other."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.rows: list[str] = [""]
        self.cursor_shown = True
        self.frames: list[str] = []
        self._row = self._column = 0
        self._rest = ""

    def feed(self, text: str) -> None:
        """Draw."""
        self._rest += text
        end = self._rest.rfind("\x1b")
        whole = len(self._rest) if end < 0 or _TOKEN.match(self._rest, end) else end
        ready, self._rest = self._rest[:whole], self._rest[whole:]
        for numbers, command, other, plain in _TOKEN.findall(ready):
            assert not other, f"an escape that is not known: {other!r}"
            if plain:
                self._plain(plain)
            else:
                self._command(numbers, command)
        if self.text and (not self.frames or self.frames[-1] != self.text):
            self.frames.append(self.text)

    @property
    def text(self) -> str:
        """Give what stands on the screen."""
        return "\n".join(self.rows).rstrip()

    def _plain(self, char: str) -> None:
        if char == "\r":
            self._column = 0
        elif char == "\n":
            self._down()
        elif char != "\x07":
            if self._column == self.columns:
                self._column = 0
                self._down()
            row = self.rows[self._row].ljust(self._column)
            self.rows[self._row] = row[: self._column] + char + row[self._column + 1 :]
            self._column += 1

    def _down(self) -> None:
        self._row += 1
        if self._row == len(self.rows):
            self.rows.append("")

    def _command(self, numbers: str, command: str) -> None:
        match numbers, command:
            case _, "m":
                pass
            case "?25", ("l" | "h"):
                self.cursor_shown = command == "h"
            case (("2" | "" | "0"), "K"):
                row = self.rows[self._row]
                self.rows[self._row] = "" if numbers == "2" else row[: self._column]
            case _, "A":
                self._row = max(0, self._row - int(numbers or 1))
            case _:
                raise AssertionError(f"a command that is not known: {numbers}{command}")


class OnTerminal:
    """A process whose three streams are one terminal; use as a context, which ends it."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], folder: Path, *, columns: int = 100) -> None:
        # COLUMNS and LINES, which pytest-xdist sets, would stand for the size of this terminal.
        strange = ("AWS_", "NS_", "S3NSYNC", "COLUMNS", "LINES")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(strange)}
        self.screen = Screen(columns)
        self._ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.popen = subprocess.Popen(
            [sys.executable, "-c", _ON_ITS_TERMINAL, *command],
            env={**inherited, **env, "TERM": "xterm-256color"},
            cwd=folder,
            stdin=its,
            stdout=its,
            stderr=its,
            start_new_session=True,
        )
        os.close(its)
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        decoder = codecs.getincrementaldecoder("utf-8")()
        while True:
            try:
                data = os.read(self._ours, 65_536)
            except OSError:  # the other end is closed
                return
            self.screen.feed(decoder.decode(data))

    def press(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def until(self, holds: Callable[[str], bool], within_s: float = 60.0) -> None:
        """Wait until the screen shows something."""
        deadline_s = time.monotonic() + within_s
        while not holds(self.screen.text):
            assert time.monotonic() < deadline_s, self.screen.text
            assert self.popen.poll() is None, self.screen.text
            time.sleep(0.01)

    def wait(self, within_s: float = 60.0) -> int:
        """Wait for its end; gives its exit code."""
        code = self.popen.wait(within_s)
        self._reader.join(10)
        return code

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Kill what still runs, and close the terminal."""
        if self.popen.poll() is None:
            self.popen.kill()
            self.popen.wait()
        self._reader.join(10)
        os.close(self._ours)
