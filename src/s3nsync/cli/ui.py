"""What a command shows: messages as text or JSON lines, progress on a terminal, and every failure the same way.

Standard output is for results, standard error for everything about them (progress, errors, the log). With `--json`
each message, errors included, is one JSON object a line on standard output, with a `type`.

Exit codes are the same for every verb (EXIT_CODES). A failure has one or two lines, what and what to do, and no
traceback unless S3NSYNC_DEBUG asks for it.
"""

from __future__ import annotations

import errno
import io
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TextColumn
from rich.table import Column
from rich.text import Text

from s3nsync.cli.interrupts import INTERRUPTED
from s3nsync.errors import ConfigError, S3nsyncError
from s3nsync.figures import printable

EXIT_CODES: Mapping[int, str] = {
    0: "done",
    1: "failed, or found something that is not as it should be",
    2: "wrong usage or configuration: nothing was done",
    3: "no connection, or the credentials were not accepted",
    4: "what was asked for is not there",
    5: "could not tell: nothing wrong was found, and not everything could be proven",
    6: "could not check: `verify` was broken off, so it says neither that both sides agree nor that they differ",
    130: "interrupted (Ctrl-C)",
}
"""Exit codes of every verb, for the documentation; an error's own is `exit_code` of its type."""

FAILED = 1
NOT_THERE = 4
COULD_NOT_CHECK = 6

Show = Callable[[str, float, float | None], None]
"""Shows how far things are: `show(words, done, total)`; `total` is None as long as nobody knows it."""

BAR_CHARS = 20
BAR_FROM_CHARS = 70
"""Narrower terminals have room for the words alone."""

ECHO_CHARS = 6
"""Kept free at the end of a progress line: the terminal echoes `^C` there, and a line break would hide it from us."""


class Ui:
    """One command's face. `stdout` and `stderr` are the process's own unless given."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        debug: bool = False,
        failed: int = FAILED,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        """Choose the form; `failed` is the exit code of failures without one of their own, where 1 says else."""
        self.as_json = as_json
        self._failed = failed
        self.debug = debug
        self.redact: Callable[[str], str] = str  # the log's own, once the secrets are known
        self._stdout = stdout if stdout is not None else sys.stdout
        self._stderr = stderr if stderr is not None else sys.stderr
        self._bar: Progress | None = None
        self._is_asking = False

    def say(self, kind: str, text: str, /, **data: object) -> None:
        """Give a result: `text` to people, or `kind` and `data` as JSON. Object names may stand in both as they are."""
        if self.as_json:
            self._line(self._stdout, json.dumps({"type": kind, **data}, default=str))
        else:
            self._line(self._stdout, "\n".join(printable(line) for line in text.split("\n")))

    def note(self, text: str) -> None:
        """Say something by the way, to people only: never part of the result."""
        if not self.as_json:
            self._line(self._stderr, "\n".join(printable(line) for line in text.split("\n")))

    def warn(self, text: str) -> None:
        """Say something that nobody should miss, programs' keepers included: on standard error in either form."""
        self._line(self._stderr, printable(text))

    def fail(self, error: BaseException) -> int:
        """Show a failure and give its exit code; anything but an S3nsyncError is a bug of ours, and says so."""
        what, hint, code = _verdict(error)
        code = self._failed if code == FAILED else code
        what = self.redact(what)
        if self.as_json:
            data = {"type": "error", "error": type(error).__name__, "message": what, "hint": hint, "exit_code": code}
            self._line(self._stdout, json.dumps(data))
        else:
            self._line(self._stderr, "\n".join(printable(line) for line in f"error: {what}".split("\n")))
            self._line(self._stderr, f"  hint: {printable(hint)}")
        if self.debug:
            self._line(self._stderr, self.redact("".join(traceback.format_exception(error)).rstrip()))
        return code

    @property
    def is_watched(self) -> bool:
        """Whether somebody looks at a terminal: then there is progress to be shown."""
        return not self.as_json and self._stderr.isatty()

    @property
    def log_stream(self) -> TextIO:
        """Give standard error for the log, whose lines go above a progress bar and not across it."""
        return cast("TextIO", _Log(self._stderr, self._line))  # as much of one as a log needs

    @contextmanager
    def progress(self, title: str) -> Iterator[Show]:
        """Show how far things are, on standard error and only if that is a terminal (and not with --json)."""
        if not self.is_watched:
            yield lambda _words, _done, _total: None
            return
        console = Console(file=self._stderr)
        console.width = max(1, console.width - ECHO_CHARS)
        name = Text(title)
        name.truncate(console.width // 3, overflow="ellipsis")
        columns = _columns(console.width)
        with Progress(*columns, console=console, transient=True, refresh_per_second=4, expand=True) as bar:
            task = bar.add_task(name.plain, total=None, words="")
            self._bar = bar
            try:
                yield lambda words, done, total: bar.update(task, completed=done, total=total, words=printable(words))
            finally:
                self._bar = None

    def ask(self, question: str) -> bool:
        """Ask on the terminal (see `check_terminal`) whether to go on; all but a yes is no."""
        bar = self._bar
        if bar is not None:
            bar.stop()
        try:
            self._stderr.write(f"{printable(question)} [y/N]: ")
            self._stderr.flush()
            self._is_asking = True
            return sys.stdin.readline().strip().lower() in {"y", "yes"}
        finally:
            self._is_asking = False
            if bar is not None:
                bar.start()

    def run(self, action: Callable[[], int | None]) -> int:
        """Run a verb and give the process's exit code: the one place where failures end."""
        try:
            return action() or 0
        except KeyboardInterrupt:
            self.note("interrupted")
            return INTERRUPTED
        except BrokenPipeError:
            # Whoever read us has gone (`| head`); without this Python would complain once more at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stdout.fileno())
            return self._failed
        except Exception as error:  # noqa: BLE001 - the last one to catch: every failure ends as message and exit code
            return self.fail(error)

    def _line(self, stream: TextIO, text: str) -> None:
        if self._is_asking:  # Ctrl-C was the answer: what is said now begins a line of its own
            self._is_asking = False
            self._stderr.write("\n")
        if self._bar is not None and stream.isatty():
            self._bar.console.print(Text(text), soft_wrap=True)  # above it; beside it, both would be garbled
        else:
            stream.write(text + "\n")
            stream.flush()


class _Log(io.TextIOBase):
    """Writes lines where a Ui writes its own."""

    def __init__(self, stream: TextIO, line: Callable[[TextIO, str], None]) -> None:
        self._stream = stream
        self._line = line

    def write(self, text: str) -> int:
        """Write lines."""
        self._line(self._stream, text.removesuffix("\n"))
        return len(text)

    def isatty(self) -> bool:
        """Say what the stream says."""
        return self._stream.isatty()


def check_terminal(hint: str) -> None:
    """See that there is somebody to ask; raises ConfigError, with a hint on what to say instead."""
    if not sys.stdin.isatty():
        raise ConfigError("there is no terminal to ask on", hint=hint)


def _columns(width: int) -> list[ProgressColumn]:
    """Give the parts of a progress line: one line, however narrow the terminal; words without room are cut off."""
    bar = [BarColumn(BAR_CHARS)] if width >= BAR_FROM_CHARS else []
    rest = Column(ratio=1, no_wrap=True, overflow="ellipsis")  # what the others leave
    words = TextColumn("{task.fields[words]}", markup=False, table_column=rest)
    return [SpinnerColumn(), TextColumn("{task.description}", markup=False), *bar, words]


def _verdict(error: BaseException) -> tuple[str, str, int]:
    """Give message, hint and exit code of a failure."""
    if isinstance(error, S3nsyncError):
        return error.message, error.hint, error.exit_code
    hint = "this is a bug in s3nsync: please report it, with what S3NSYNC_DEBUG=1 shows"
    if isinstance(error, OSError):
        hint = "check the file or the address that is named"
        if error.errno == errno.ENOSPC:
            hint = "make room there; what is sorted on disk goes to another folder by the environment variable TMPDIR"
        what = error.strerror or str(error) or type(error).__name__
        return f"{what}: {error.filename}" if error.filename else what, hint, FAILED
    return f"{type(error).__name__}: {error}", hint, FAILED
