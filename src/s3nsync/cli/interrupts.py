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


def mute() -> None:
    """Have Ctrl-C end the process from now on, unless whoever started us has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, leave)


def leave(_number: int = signal.SIGINT, _frame: FrameType | None = None) -> None:
    """End the process at once: no thread is waited for, and nothing but what was flushed is written."""
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
