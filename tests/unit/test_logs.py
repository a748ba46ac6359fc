"""The log: one record for each Change, in two forms, without secrets."""

import asyncio
import io
import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from s3nsync.figures import (
    OUTCOMES,
    counted,
    human_bytes,
    human_time,
    lag_s,
    outcome_name,
    printable,
    record,
    settled_name,
    utc,
)
from s3nsync.logs import MASK, Sink, configure, log_change
from s3nsync.model import Change, Copied, Deleted, Ignored, ObjectRef, Outcome, Rejected, Report, Retry, Unchanged
from settled_changes import COPIED, NOW_S, settled

CANARY = 'k3y/+with"odd\\chars='


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Give the process its logging back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
    structlog.reset_defaults()


def json_lines(stream: io.StringIO) -> list[dict[str, object]]:
    """Read what was logged."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# --- the record ------------------------------------------------------------------------------------------------


def test_a_plain_copy_has_exactly_the_canonical_fields() -> None:
    """What says nothing is left out; what every line has is always there."""
    assert record(settled(), NOW_S) == {
        "outcome": "copied",
        "bucket": "media",
        "key": "a b.jpg",
        "path": "/123456/a b.jpg",
        "bytes": 12_345,
        "seconds": 0.034,
        "attempt": 1,
        "lag_s": 2.0,
        "queue": "live",
        "dialect": "s3",
        "proof": "md5",
        "verb": "ack",
    }


def test_a_troubled_change_says_what_and_why() -> None:
    """Reason, hint, notes and the flags stand in the record when there are any."""
    done = settled(outcome=Rejected("has ..", "rename it"), verb="bury", coalesced=2, ambiguous=True, checked=True)
    found = record(done, NOW_S)
    assert (found["reason"], found["hint"], found["verb"]) == ("has ..", "rename it", "bury")
    assert (found["coalesced"], found["ambiguous"], found["checked"]) == (2, True, True)
    assert "path" not in found
    assert record(settled(outcome=Copied("/1/a", 1, "md5", ("gzip",))), NOW_S)["notes"] == ["gzip"]


@pytest.mark.parametrize(
    ("outcome", "name"),
    [
        (COPIED, "copied"),
        (Deleted("/1/a", existed=True), "deleted"),
        (Unchanged("/1/a"), "unchanged"),
        (Ignored("not ours"), "ignored"),
        (Ignored("archived", set_aside=True), "set_aside"),
        (Retry("503"), "retry"),
        (Rejected("no"), "rejected"),
        (None, "lease_lost"),
    ],
)
def test_each_outcome_has_its_word(outcome: Outcome | None, name: str) -> None:
    """The words are those of OUTCOMES."""
    assert outcome_name(outcome) == name
    assert name in OUTCOMES


@pytest.mark.parametrize(
    ("done", "lag"),
    [
        (settled(), 2.0),
        (settled(change=Change(ObjectRef("m", "k"), "put", event_time="2026-09-21T14:13:10.000Z")), 10.0),
        (settled(change=Change(ObjectRef("m", "k"), "put", event_time="2026-09-21T14:13:10")), 2.0),
        (settled(change=Change(ObjectRef("m", "k"), "put", event_time="yesterday")), 2.0),
        (settled(change=Change(ObjectRef("m", "k"), "put", event_time="2030-01-01T00:00:00Z")), 0.0),
        (settled(sent_at_s=0.0), None),
        (settled(queue="bulk"), None),
        (settled(queue="check"), None),
        (settled(outcome=Retry("later")), None),
        (settled(outcome=None), None),
    ],
)
def test_only_live_changes_that_arrived_have_a_lag(done: Report, lag: float | None) -> None:
    """From the event's own time, else from the message's; a time without a zone is none; never negative."""
    assert lag_s(done, NOW_S) == lag


@given(st.text())
def test_printable_text_is_one_harmless_line(text: str) -> None:
    """No control character, no line end and no lone surrogate survives, whatever the key."""
    assert printable(text).isprintable()
    printable(text).encode()


def test_sizes_read_well() -> None:
    """Binary units, one digit after the point."""
    assert [human_bytes(n) for n in (0, 1023, 1536, 5 << 30, 3 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]


def test_counts_and_lengths_of_time_read_well() -> None:
    """One thing is no plural; two units of time at most, and tenths only of seconds."""
    assert [counted(n, "file") for n in (0, 1, 12_000)] == ["0 files", "1 file", "12,000 files"]
    lengths = {
        0.04: "0.0 s",
        59.94: "59.9 s",
        59.96: "1 min",
        61: "1 min 1 s",
        3599.6: "1 h",
        5400: "1 h 30 min",
        90_000: "1 d 1 h",
    }
    assert {seconds: human_time(seconds) for seconds in lengths} == lengths


@given(st.floats(0, 1e12))
def test_any_length_of_time_can_be_told(seconds: float) -> None:
    """What is told is within a fiftieth of what it was."""
    size_s = {"s": 1, "min": 60, "h": 3600, "d": 86_400}
    numbers, units = human_time(seconds).replace(",", "").split()[::2], human_time(seconds).split()[1::2]
    told_s = sum(float(number) * size_s[unit] for number, unit in zip(numbers, units, strict=True))
    assert abs(told_s - seconds) <= max(0.06, seconds / 50)


def test_moments_are_told_in_utc() -> None:
    """To the second; what no calendar holds is told as it is."""
    assert utc(1_700_000_000) == "2023-11-14T22:13:20Z"
    assert utc(10**15) == "1000000000000000 s"


def test_a_file_that_went_to_the_trash_is_not_summed_up_as_deleted() -> None:
    """It is still there, after all."""
    assert settled_name(settled(outcome=Deleted("/1/a", existed=True, trash="/1/bin/a"))) == "trashed"
    assert settled_name(settled(outcome=Deleted("/1/a", existed=True))) == "deleted"
    assert settled_name(settled(outcome=Rejected("x", "y"), verb="bury")) == "buried"


# --- forms -----------------------------------------------------------------------------------------------------


def test_in_a_container_every_line_is_json() -> None:
    """Off a terminal `auto` is JSON: time, level and event first, with the record after them."""
    stream = io.StringIO()
    assert configure("auto", stream=stream).is_json
    log_change(settled(), NOW_S)
    (line,) = json_lines(stream)
    assert list(line)[:4] == ["time", "level", "event", "outcome"]
    assert line["event"] == "change"
    assert line["lag_s"] == 2.0


@pytest.mark.parametrize("form", ["json", "console"])
def test_the_line_of_a_change_has_the_form_of_all_others(form: Literal["json", "console"]) -> None:
    """It takes a shorter way to the sink, which nobody who reads the log can see."""
    stream = io.StringIO()
    configure(form, stream=stream)
    now_s = time.time()
    log_change(settled(), now_s)
    structlog.get_logger("test").info("change", **record(settled(), now_s))
    ours, others = map(_without_times, stream.getvalue().splitlines())
    assert ours == others
    assert "TIME" in ours


def _without_times(line: str) -> str:
    """Blank times out, and days: each line has a time of its own, and midnight may lie between two of them."""
    line = re.sub(r"\d\d:\d\d:\d\d(\.\d+)?", "TIME", line)
    return re.sub(r"\d{4}-\d\d-\d\dTTIME", "DAY TIME", line)


@given(
    outcome=st.one_of(
        st.builds(Copied, st.text(), st.integers(0), st.text(), st.tuples(st.text())),
        st.builds(Rejected, st.text(), st.text()),
        st.none(),
    ),
    key=st.text(min_size=1),
    seconds=st.floats(0, 1e9),
    coalesced=st.integers(0, 9),
    ambiguous=st.booleans(),
)
def test_what_a_line_says_is_what_the_record_says(
    outcome: Outcome | None, key: str, seconds: float, coalesced: int, ambiguous: bool
) -> None:
    """Whatever a key, a path or a reason holds, the line is JSON of the record."""
    stream = io.StringIO()
    sink = Sink(stream, (), is_json=True, level="info")
    change = Change(ObjectRef("media", key), "put")
    done = settled(change=change, outcome=outcome, seconds=seconds, coalesced=coalesced, ambiguous=ambiguous)
    sink.change(done, NOW_S)
    (line,) = json_lines(stream)
    assert {name: line[name] for name in list(line)[3:]} == record(done, NOW_S)


class Pieces(io.StringIO):
    """A stream that keeps what was written in one piece together."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return super().write(text)


async def test_changes_of_one_turn_are_written_in_one_piece_and_in_order() -> None:
    """Ten messages are acked by one answer: their lines need one system call; any other line stays behind them."""
    stream = Pieces()
    sink = Sink(stream, ("hidden-secret",), is_json=True, level="info")
    sink.change(settled(), NOW_S)
    sink.change(settled(outcome=Rejected("hidden-secret")), NOW_S)
    assert stream.pieces == []
    await asyncio.sleep(0)
    assert [piece.count("\n") for piece in stream.pieces] == [2]
    assert "hidden-secret" not in stream.getvalue()
    sink.change(settled(), NOW_S)
    sink.write("other")
    await asyncio.sleep(0)
    assert [piece.count("\n") for piece in stream.pieces] == [2, 2]
    assert stream.getvalue().endswith("}\nother\n")


def test_on_a_terminal_a_line_is_words() -> None:
    """On a terminal `auto` is plain: what, from where, to where, how much."""
    stream = Terminal()
    assert not configure("auto", stream=stream).is_json
    log_change(settled(), NOW_S)
    assert "copied    s3://media/a b.jpg -> /123456/a b.jpg (12.1 KiB)  seconds=0.034  lag_s=2.0" in stream.getvalue()
    assert "queue=" not in stream.getvalue()


def test_a_key_cannot_steer_the_terminal_or_forge_a_line() -> None:
    """Control characters in names are escaped in both forms."""
    wild = Change(ObjectRef("media", "a\n\x1b[2Jb\u2028\ud800"), "put")
    done = settled(change=wild, outcome=Rejected("bad\x07 name"))
    for stream in (Terminal(), io.StringIO()):
        configure("auto", stream=stream)
        log_change(done, NOW_S)
        assert stream.getvalue().rstrip("\n").isprintable()


@pytest.mark.parametrize(
    ("outcome", "level"),
    [
        (COPIED, "info"),
        (Retry("settling", failed=False), "info"),
        (Retry("503"), "warning"),
        (None, "warning"),
        (Rejected("x"), "error"),
    ],
)
def test_levels_tell_what_needs_a_person(outcome: Outcome | None, level: str) -> None:
    """Info is business as usual, warning comes again by itself, error wants somebody."""
    stream = io.StringIO()
    configure("json", stream=stream)
    log_change(settled(outcome=outcome), NOW_S)
    assert json_lines(stream)[0]["level"] == level


def test_the_level_leaves_out_what_is_below() -> None:
    """At `warning` the lines of healthy changes are gone."""
    stream = io.StringIO()
    configure("json", "warning", stream=stream)
    log_change(settled(), NOW_S)
    assert not stream.getvalue()


def test_libraries_log_in_the_same_form() -> None:
    """The standard library's logging ends in the same sink, once, even when configured twice."""
    stream = io.StringIO()
    configure("json", stream=io.StringIO())
    configure("json", stream=stream)
    logging.getLogger("asyncio").warning("slow %s", "callback")
    logging.getLogger("botocore").info("chatter")
    (line,) = json_lines(stream)
    assert (line["event"], line["level"]) == ("slow callback", "warning")


# --- secrets ---------------------------------------------------------------------------------------------------


def cause_error() -> None:
    """Raise with the secret in the text."""
    raise ValueError(f"bad signature for {CANARY}")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_secret_reaches_no_line_in_any_spelling(form: str) -> None:
    """As a value, nested, in a traceback, in a URL, through a library, on a raw line: never."""
    stream = io.StringIO()
    sink = configure("json" if form == "json" else "console", secrets=[CANARY, "ab", ""], stream=stream)
    log = structlog.get_logger("test")
    log.info("plain", key=CANARY, nested={"a": [CANARY]}, text=f"key={CANARY};", about="cab")
    log.info(CANARY, url="https://x/?k=k3y%2F%2Bwith%22odd%5Cchars%3D", other="k3y/%2Bwith%22odd%5Cchars%3D")
    logging.getLogger("lib").error("failed with %r", CANARY)
    try:
        cause_error()
    except ValueError:
        log.exception("unexpected")
    sink.write(f"raw {CANARY}")
    assert "k3y" not in stream.getvalue()
    assert stream.getvalue().count(MASK) >= 8
    assert "cab" in stream.getvalue()


@pytest.mark.parametrize("form", ["json", "console"])
def test_signatures_are_taken_out_wherever_a_header_is_shown(form: str) -> None:
    """Authorization, Akamai's auth headers and session tokens lose their values, by name alone."""
    stream = io.StringIO()
    configure("json" if form == "json" else "console", stream=stream)
    log = structlog.get_logger("test")
    log.info("sent", headers={"Authorization": "AWS4-HMAC CANARY", "X-Akamai-ACS-Auth-Sign": "CANARY=="}, status=200)
    log.info("sent", headers=[("x-akamai-acs-auth-data", "5, CANARY"), ("x-amz-security-token", "CANARY")])
    log.info("AUTHORIZATION: CANARY")
    logging.getLogger("lib").warning("headers %s", {"authorization": b"CANARY"})
    assert "CANARY" not in stream.getvalue()
    assert "200" in stream.getvalue()
