"""The log: one line for each Change, JSON in a container, plain words on a terminal, no secret in either.

Everything goes to standard error, the CloudWatch metric lines too: standard output belongs to what a command was asked
for (`--json` above all), and container log drivers take both streams.

Redaction is done last, on the finished line, so that nothing can come round it: not a library's own logging, not a
traceback, not a nested value. It takes out the secrets that it was given, in each spelling that a line can hold, and
the values of headers that carry signatures.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from json.encoder import encode_basestring_ascii
from typing import Any, Literal, TextIO, get_args
from urllib.parse import quote

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from s3nsync.figures import human_bytes, printable, record, severity
from s3nsync.model import Report

Format = Literal["auto", "json", "console"]
Level = Literal["debug", "info", "warning", "error"]

LEVELS = get_args(Level)
"""From the least to the greatest."""

MASK = "[redacted]"

MIN_SECRET_CHARS = 4
"""Shorter values are no secrets, and taking them out would take the log apart."""

_SIGNED = re.compile(
    r"""(?ix) \b (authorization | x-akamai-acs-auth-[a-z]+ | x-amz-security-token)
        (["']? \s* [:=,] \s* b? ["']?)      # as a header, a JSON member, a pair in a repr
        [^"'\r\n\\]+ """
)

_JSON_WRITER = json.JSONEncoder(default=str, separators=(",", ":"))  # json.dumps would make one for each line


class Sink:
    """Where lines go, redacted: the end of every path to the log. `is_json` tells which form was chosen."""

    def __init__(self, stream: TextIO, secrets: Iterable[str], *, is_json: bool, level: Level) -> None:
        """Take the stream, the values that must never reach it, and the level below which changes are left out."""
        self.is_json = is_json
        self._levels = frozenset(LEVELS[LEVELS.index(level) :])
        self._second: tuple[int, str] = (-1, "")
        self._stream = stream
        self._changes: list[str] = []
        self._spellings = _spellings(secrets)

    def change(self, settled: Report, now_s: float) -> None:
        """Write the one line of a Change, in the form of all others but without their way through structlog."""
        level = severity(settled.outcome)
        if level in self._levels:
            first = {"time": self._stamp(now_s), "level": level, "event": "change"}
            event = {**first, **record(settled, now_s)}
            self._hold(_flat_json(event) if self.is_json else _plain(None, level, event))

    def _hold(self, line: str) -> None:
        """Write a Change's line with those of the same turn of the event loop: ten are often acked by one answer."""
        self._changes.append(self.redact(line) + "\n")
        if len(self._changes) == 1:
            try:
                asyncio.get_running_loop().call_soon(self._release)
            except RuntimeError:  # there is no loop
                self._release()

    def write(self, line: str) -> None:
        """Write one line (its end is added here), in one piece, behind those that came before."""
        self._changes.append(self.redact(line) + "\n")
        self._release()

    def _release(self) -> None:
        if self._changes:
            self._stream.write("".join(self._changes))
            self._changes.clear()
            self._stream.flush()

    def redact(self, text: str) -> str:
        """Give the text without secrets and signatures."""
        for spelling in self._spellings:
            if spelling in text:
                text = text.replace(spelling, MASK)
        lower = text.lower()
        if "authorization" in lower or "-auth-" in lower or "security-token" in lower:
            text = _SIGNED.sub(rf"\1\2{MASK}", text)
        return text

    def _stamp(self, now_s: float) -> str:
        """Write the time as structlog's stamper does: in UTC for machines, of the local day for people."""
        whole_s = int(now_s)
        known_s, text = self._second
        if known_s != whole_s:
            moment = time.gmtime(whole_s) if self.is_json else time.localtime(whole_s)
            text = time.strftime("%Y-%m-%dT%H:%M:%S" if self.is_json else "%H:%M:%S", moment)
            self._second = (whole_s, text)
        return f"{text}.{int((now_s - whole_s) * 1e6):06}Z" if self.is_json else text


def _spellings(secrets: Iterable[str]) -> tuple[str, ...]:
    """Give each secret as it stands, as Python and URLs escape it, and all of these in JSON; longest first."""
    plain = [secret for secret in secrets if len(secret) >= MIN_SECRET_CHARS]
    found = {
        spelling for secret in plain for spelling in (secret, repr(secret)[1:-1], quote(secret), quote(secret, ""))
    }
    found |= {json.dumps(spelling)[1:-1] for spelling in found}
    return tuple(sorted(found, key=len, reverse=True))


def configure(
    log_format: Format = "auto", level: Level = "info", secrets: Iterable[str] = (), stream: TextIO | None = None
) -> Sink:
    """Set up logging for the process, ours and the libraries'; gives the sink, for lines that are no log events.

    `stream` is standard error unless given. May be called again, when the secrets are known.
    """
    stream = stream if stream is not None else sys.stderr
    is_json = log_format == "json" or (log_format == "auto" and not stream.isatty())
    sink = _Changes.sink = Sink(stream, secrets, is_json=is_json, level=level)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso" if is_json else "%H:%M:%S", utc=is_json, key="time"),
        structlog.processors.format_exc_info,
    ]
    render: Processor = _json if is_json else _plain
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *_: _SinkLogger(sink),
        cache_logger_on_first_use=False,
    )
    _take_over_stdlib(sink, shared, render, level)
    return sink


def log_change(settled: Report, now_s: float) -> None:
    """Write the one line of a Change to where `configure` said; `now_s` is Unix time."""
    (_Changes.sink or configure()).change(settled, now_s)


class _Changes:
    """Where they go: set by `configure`."""

    sink: Sink | None = None


class _SinkLogger:
    """The end of structlog's chain: every level is the same write."""

    def __init__(self, sink: Sink) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = self.msg = sink.write


class _SinkHandler(logging.Handler):
    """The end of the standard library's logging."""

    def __init__(self, sink: Sink, formatter: logging.Formatter) -> None:
        super().__init__()
        self._sink = sink
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record."""
        self._sink.write(self.format(record))


def _take_over_stdlib(sink: Sink, shared: list[Processor], render: Processor, level: Level) -> None:
    """Bring what libraries log (asyncio, botocore) into the same form; from warning on, or all of it at debug."""
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
    )
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _SinkHandler)]:
        root.removeHandler(handler)
    root.addHandler(_SinkHandler(sink, formatter))
    root.setLevel({"debug": logging.INFO, "error": logging.ERROR}.get(level, logging.WARNING))


def _json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Render a line for machines; what is no JSON value goes as its text."""
    first = {name: event.pop(name, None) for name in ("time", "level", "event")}
    return _JSON_WRITER.encode({**first, **event})


def _flat_json(event: Mapping[str, object]) -> str:
    """Write what `_JSON_WRITER` would, of an object whose names are plain words: it is asked only for what is rare."""
    members = [f'"{name}":{_WRITERS.get(type(value), _JSON_WRITER.encode)(value)}' for name, value in event.items()]
    return f"{{{','.join(members)}}}"


_WRITERS: Mapping[type, Callable[[Any], str]] = {str: encode_basestring_ascii, int: repr, float: repr}


def _plain(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Render a line for people: time, what, where, how much, and only then the rest."""
    time, level, what = event.pop("time", ""), event.pop("level", "info"), str(event.pop("event", ""))
    trace = event.pop("exception", "")
    head = [str(time), _change_words(event) if what == "change" else printable(what)]
    if level != "info":
        head.insert(1, f"{level}:")
    rest = [f"{name}={_value(value)}" for name, value in event.items()]
    return "  ".join([" ".join(head), *rest]) + (f"\n{trace}" if trace else "")


def _change_words(event: EventDict) -> str:
    """Say a Change in words, taking its main fields out of the event."""
    event.pop("queue" if event.get("queue") == "live" else "", None)
    event.pop("attempt" if event.get("attempt") == 1 else "", None)
    for name in ("dialect", "verb"):
        event.pop(name, None)
    what = f"s3://{event.pop('bucket')}/{event.pop('key')}" if "bucket" in event else "a message that cannot be read"
    words = [f"{event.pop('outcome'):9}", printable(what)]
    if path := event.pop("path", None):
        words += ["->", printable(path)]
    if (size := event.pop("bytes", None)) is not None:
        words.append(f"({human_bytes(size)})")
    return " ".join(words)


def _value(value: object) -> str:
    text = printable(value) if isinstance(value, str) else str(value)
    return f'"{text}"' if " " in text else text
