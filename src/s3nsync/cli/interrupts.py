"""Ctrl-C: heard by a verb while it runs (`heard`), and before and after that the end of the process, without a word.

Python's own way is an exception wherever the signal finds the program: while modules are imported, or threads are
joined at the end, it shows a traceback.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""The exit code that shells give to what was ended by Ctrl-C."""

SHOW_CURSOR = b"\x1b[?25h"


def mute() -> None:
    """Have Ctrl-C end the process from now on, unless whoever started us has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def leave(_number: int = signal.SIGINT, _frame: FrameType | None = None) -> None:
    """End the process at once: no thread is waited for, and nothing but what was flushed is written."""
    if os.isatty(2):
        os.write(2, SHOW_CURSOR)  # a progress bar may have hidden it
    os._exit(INTERRUPTED)


@contextmanager
def heard() -> Iterator[None]:
    """Let Ctrl-C raise KeyboardInterrupt within the block, where `mute` has silenced it."""
    if signal.getsignal(signal.SIGINT) is not leave:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, leave)


@contextmanager
def once() -> Iterator[None]:
    """Let the second Ctrl-C within the block end the process, whatever the first does.

    For asyncio, whose runner cancels the work at the first; at the second it would raise in the middle of its own loop.
    """
    cancel = signal.getsignal(signal.SIGINT)
    if not callable(cancel) or cancel is leave:
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, leave)
        cancel(number, frame)

    signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is first:
            signal.signal(signal.SIGINT, cancel)
