"""What people see on a terminal: progress, lines above it, questions, and what Ctrl-C leaves behind."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from aws_emulator import Aws
from s3nsync.emulator import Fault
from s3nsync.events import Burial, encode, encode_burial, group_id
from s3nsync.model import Change, ObjectRef
from sync_site import ROOT, Site, site
from terminal import OnTerminal
from worker_process import S3NSYNC

pytestmark = pytest.mark.slow

PRESS_CTRL_C = "\x03"


def on_terminal(at: Site, verb: str, columns: int = 120) -> OnTerminal:
    """Run a verb on a terminal, a few objects at once."""
    env = {**at.env(), "S3NSYNC_WORKER_MAX_IN_FLIGHT": "4"}
    return OnTerminal([*S3NSYNC, *verb.split()], env, at.folder, columns=columns)


async def ended(terminal: OnTerminal) -> int:
    """Wait for the end; the cursor is there again, and nothing of the bar is left."""
    code = await asyncio.to_thread(terminal.wait)
    screen = terminal.screen
    assert screen.cursor_shown
    assert not bars(screen.text), screen.text
    assert "Traceback" not in screen.text
    return code


def bars(text: str) -> list[str]:
    """Give the rows of a screen that show progress: they begin with a spinner."""
    return [row for row in text.splitlines() if re.match("[⠀-⣿] ", row)]


async def seen(terminal: OnTerminal, holds: Callable[[str], bool]) -> None:
    """Wait until the screen shows something."""
    await asyncio.to_thread(terminal.until, holds)


@pytest.mark.parametrize("columns", [120, 40])
async def test_progress_tells_objects_bytes_rate_and_time_left(aws: Aws, tmp_path: Path, columns: int) -> None:
    """In one row, however narrow the terminal: what has no room there is cut off, and never wrapped."""
    async with site(aws, tmp_path) as at:
        await at.put({f"k/{number:02}": b"x" * 3000 for number in range(24)})
        at.emulator.inject(Fault(kind="slow", action="upload", delay_s=0.5))
        with on_terminal(at, "sync --direct", columns) as terminal:
            assert await ended(terminal) == 0
        drawn = [bars(frame) for frame in terminal.screen.frames]
        assert max(map(len, drawn)) == 1, "one bar, and no trace of an earlier one"
        rows = [row.rstrip() for frame in drawn for row in frame]
        assert all(len(row) <= columns for row in rows)
        if columns == 120:
            told = (
                r"[⠀-⣿] sync [━╸╺ ]+ \d+ of 24 objects, [0-9.]+ KiB, [0-9.]+/s, ([0-9.]+ s|\d min.*) left, 24 looked at"
            )
            assert any(re.fullmatch(told, row) for row in rows), rows
        else:
            assert any(re.match(r"[⠀-⣿] sync \d+ of 24 objects", row) for row in rows), rows
        assert "24 sent to be copied" in terminal.screen.text


async def test_lines_stand_above_the_bar(aws: Aws, tmp_path: Path) -> None:
    """Findings, notes and the log's warnings alike: none is written into the bar, and none is lost."""
    async with site(aws, tmp_path) as at:
        await at.put({f"k/{number:02}": b"x" for number in range(12)})
        at.emulator.inject(Fault(kind="status", action="upload", status=503, times=2))
        at.emulator.inject(Fault(kind="slow", action="upload", delay_s=0.5))
        with on_terminal(at, "sync --direct") as terminal:
            assert await ended(terminal) == 0
        await at.netstorage.delete(ROOT + "k/01")
        await at.netstorage.upload(ROOT + "stray", b"stray")
        with on_terminal(at, "verify --tolerance 4") as terminal:
            await seen(terminal, lambda text: "recent difference" in text and bool(bars(text)))
            assert await ended(terminal) == 1
        rows = terminal.screen.text.splitlines()
        assert [row.split()[:2] for row in rows if "(not " in row] == [["missing", "k/01"], ["extra", "stray"]]
        for frame in terminal.screen.frames:
            assert frame.splitlines()[-1] in bars(frame) or not bars(frame), "the bar is the last row"


async def test_a_drain_tells_each_change_and_what_all_came_to(aws: Aws, tmp_path: Path) -> None:
    """Its log is its progress: a line for people, none for machines."""
    async with site(aws, tmp_path) as at:
        await at.put({"a": b"x" * 2048, "b": b"y"})
        assert (await at.run("sync"))[0] == 0
        with on_terminal(at, "drain") as terminal:
            assert await ended(terminal) == 0
        text = terminal.screen.text
        assert re.search(rf"[0-9:]{{8}} copied    s3://{at.bucket}/a -> {ROOT}a \(2\.0 KiB\)", text)
        assert text.splitlines()[-1] == "2 copied"
        assert "{" not in text


async def test_ctrl_c_says_how_to_go_on(aws: Aws, tmp_path: Path) -> None:
    """The bar is gone, the cursor is back, and the next run goes on from there."""
    async with site(aws, tmp_path) as at:
        await at.put({f"k/{number:03}": b"x" for number in range(300)})
        with on_terminal(at, "sync --rate 40 --state progress") as terminal:
            await seen(terminal, lambda text: "100 sent" in text)  # and five seconds lie before the end
            terminal.press(PRESS_CTRL_C)
            assert await ended(terminal) == 130
        assert "Stopped before the end: run it again with --state progress, and it goes on from there." in (
            terminal.screen.text
        )
        assert terminal.screen.text.endswith("interrupted")
        at.emulator.inject(Fault(kind="slow", action="upload", delay_s=0.5))
        with on_terminal(at, "sync --direct") as terminal:
            await seen(terminal, lambda text: bool(re.search(r"[1-9]\d* of \d+ objects|[1-9]\d* objects", text)))
            terminal.press(PRESS_CTRL_C)
            assert await ended(terminal) == 130
        assert "run it again, and what is there by then is passed over" in terminal.screen.text


async def test_ctrl_c_lets_what_is_under_way_finish_and_a_second_one_does_not(aws: Aws, tmp_path: Path) -> None:
    """What was finished meanwhile is counted; nobody has to wait for it."""
    async with site(aws, tmp_path) as at:
        await at.put({f"k/{number:02}": b"x" for number in range(20)})
        at.emulator.inject(Fault(kind="slow", action="upload", delay_s=3))
        with on_terminal(at, "sync --direct") as terminal:
            await seen(terminal, lambda text: "of 20 objects" in text)
            terminal.press(PRESS_CTRL_C)
            await seen(terminal, lambda text: "Ctrl-C again leaves at once" in text)
            assert await ended(terminal) == 130
        copied = len(at.stored())
        assert 0 < copied < 20
        assert f"Done here: {copied} copied" in terminal.screen.text
        at.emulator.clear_faults()
        at.emulator.inject(Fault(kind="slow", action="upload", delay_s=20))
        with on_terminal(at, "sync --direct") as terminal:
            await seen(terminal, lambda text: "of " in text and " objects" in text and bool(at.uploads() > copied))
            terminal.press(PRESS_CTRL_C)
            await seen(terminal, lambda text: "Ctrl-C again leaves at once" in text)
            terminal.press(PRESS_CTRL_C)
            assert await asyncio.to_thread(terminal.wait, 10) == 130
        assert terminal.screen.cursor_shown
        assert "Traceback" not in terminal.screen.text
        at.emulator.clear_faults()


async def test_a_repair_asks_before_it_deletes(aws: Aws, tmp_path: Path) -> None:
    """The question stands alone, with no bar drawn over it; all but a yes is no."""
    async with site(aws, tmp_path) as at:
        await at.put({"a": b"1", "b": b"2"})
        assert (await at.run("sync --direct"))[0] == 0
        await at.netstorage.upload(ROOT + "stray", b"stray")
        repair = "verify --tolerance 0 --repair --direct --delete --max-delete-percent 50"
        for answer, code in (("\n", 1), ("n\n", 1), ("\x04", 1), ("y\n", 0)):
            with on_terminal(at, repair) as terminal:
                await seen(terminal, lambda text: text.rstrip().endswith("Have 1 file deleted? [y/N]:"))
                await asyncio.sleep(0.6)  # as long as it takes to draw a bar twice
                assert not bars(terminal.screen.text)
                assert "to be deleted: stray" in terminal.screen.text
                terminal.press(answer)
                assert await ended(terminal) == code
            assert ("stray" in at.stored()) == (code == 1)


async def test_ctrl_c_at_a_question_is_a_no(aws: Aws, tmp_path: Path) -> None:
    """At once, though a thread waits for the answer."""
    async with site(aws, tmp_path) as at:
        await at.put({"a": b"1"})
        assert (await at.run("sync --direct"))[0] == 0
        await at.netstorage.upload(ROOT + "stray", b"stray")
        with on_terminal(at, "verify --tolerance 0 --repair --direct --delete --max-delete-percent 50") as terminal:
            await seen(terminal, lambda text: "[y/N]:" in text)
            terminal.press(PRESS_CTRL_C)
            assert await ended(terminal) == 130
        assert re.search(r"\[y/N\]: (\^C)?\n", terminal.screen.text), "what follows has lines of its own"
        assert "stray" in at.stored()


async def test_nobody_to_ask_is_wrong_usage(aws: Aws, tmp_path: Path) -> None:
    """A job in the night says --yes, or it deletes nothing; and its standard error holds no bar."""
    async with site(aws, tmp_path) as at:
        await at.put({"a": b"1"})
        code, _, err = await at.say("sync --direct")
        assert (code, "\x1b" in err, bool(bars(err))) == (0, False, False)
        code, _, err = await at.say("verify --repair --direct --delete")
        assert (code, "--yes" in err) == (2, True)
        code, _, err = await at.say("failed drop *")
        assert (code, "--yes" in err) == (2, True)


async def test_json_on_a_terminal_is_json_alone(aws: Aws, tmp_path: Path) -> None:
    """No bar, no notes: what a program reads is the same everywhere."""
    async with site(aws, tmp_path) as at:
        await at.put({"a": b"1"})
        with on_terminal(at, "verify --tolerance 0 --json", 1000) as terminal:
            assert await ended(terminal) == 1
        assert [json.loads(row)["type"] for row in terminal.screen.text.splitlines()] == ["finding", "summary"]
        assert not any(bars(frame) for frame in terminal.screen.frames)


async def test_what_failed_is_found_by_its_name_or_else_told(aws: Aws, tmp_path: Path) -> None:
    """A name that is none is no success: 4, what there is, and how to list it. An empty queue says so."""
    async with site(aws, tmp_path) as at:
        code, out, _ = await at.say("failed retry s3://media/a")
        assert (code, "is empty" in out) == (4, True)
        assert (await at.say("failed retry *"))[0] == 0
        ref = ObjectRef("media", "site/a[1].txt")
        burial = Burial(ref, "has ..", "rename it", 1.7e9, 1.7e9 + 60, 3, "live", encode(Change(ref, "put")))
        await asyncio.to_thread(
            aws.sqs.send_message,
            QueueUrl=at.queues["dead"],
            MessageBody=encode_burial(burial),
            MessageGroupId=group_id(ref),
            MessageDeduplicationId="1",
        )
        for verb in ("retry", "drop --yes", "list"):
            code, out, _ = await at.say(f"failed {verb} site/a.txt")
            assert code == 4
            assert "1 seen, 0 matched, 0 removed" in out
            assert f"`s3nsync failed list` shows them: {ref}" in out
        code, out, _ = await at.say("failed list")
        assert code == 0
        assert "attempts: 3, first 2023-11-14T22:13:20Z, last 2023-11-14T22:14:20Z" in out
        code, out, _ = await at.say("doctor")
        assert "dead queue: holds 1 message " in out
        with on_terminal(at, f"failed drop {ref}") as terminal:
            await seen(terminal, lambda text: "for good? [y/N]:" in text)
            terminal.press("n\n")
            assert await ended(terminal) == 1
        code, lines = await at.run(f"failed retry {ref}")
        assert (code, lines[-1]["removed"], lines[-1]["hint"]) == (0, 1, "")
        assert at.depth("bulk") == 1
