"""The bench: its page says what its file says, its verdicts are the budget's, and no wrong byte passes."""

from __future__ import annotations

import asyncio
import hashlib
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench import interpreter
from bench.interpreter import PLAIN, Interpreter, quickest
from bench.line import listen
from bench.report import (
    OURS,
    PAGE,
    PATH,
    POC,
    POOL,
    RCLONE,
    RCLONE_NS,
    RESULTS,
    Cell,
    Lag,
    Peak,
    Reading,
    Results,
    Run,
    Sharing,
    dump,
    goals,
    load,
    report,
    with_report,
)
from bench.run import judge_requests
from bench.stand_ins import COMPARE_BYTES, FIRST_CPCODE, Case, Servers

from hostile import Peer, hostile

MIB = 1 << 20


def run(cpu_s: float, *, peak_mib: int = 80, gets: int = 1000) -> Run:
    """Give a run of 1,000 objects."""
    requests = {"source": {"GET": gets}, "sink": {"PUT": 1000}, "queue": {"ReceiveMessage": 200}}
    return Run(1000, cpu_s, 1.0, peak_mib * MIB, 0.5, requests)


def results(
    *,
    ours_s: tuple[float, ...] = (0.1, 0.2, 0.3),
    rclone_s: tuple[float, ...] = (0.2, 0.6, 0.6),
    ranged_mib: int = 160,
    one: float = 100.0,
    two: float = 180.0,
) -> Results:
    """Give results that reach every goal of the budget, some of them just so."""
    cells = [
        Cell(OURS, "4 KiB", 4096, tls=True, runs=[run(each) for each in ours_s]),
        Cell(PATH, "4 KiB", 4096, tls=True, runs=[run(0.05)]),
        Cell(RCLONE, "4 KiB", 4096, tls=True, runs=[run(each) for each in rclone_s]),
        Cell(RCLONE_NS, "4 KiB", 4096, tls=True, runs=[run(2.0)]),
        Cell(POOL, "4 KiB", 4096, tls=True, runs=[run(each * 15) for each in ours_s]),
        Cell(POC, "4 KiB", 4096, tls=True, runs=[run(50.0)]),
        Cell(OURS, "4 GiB", 4 << 30, tls=True, runs=[run(5_000, peak_mib=96)]),
        Cell(RCLONE, "4 GiB", 4 << 30, tls=True, runs=[run(5_000)]),
    ]
    return Results(
        at="2026-01-02T03:04+00:00",
        machine="a machine",
        python="Python 3.11.2 (the system's, 8 ms)",
        others=[],
        rounds=3,
        cells=cells,
        lags=[Lag("idle", 10, 100, 0.01, 0.25)],
        peaks=[
            Peak(size, 256, mib * MIB) for size, mib in (("4 KiB", 90), ("1 MiB", 192), ("4 KiB", 80), ("1 MiB", 99))
        ],
        readings=[
            Reading(1, 1 << 30, 25e6, 2.0, 40.0, 96 * MIB),
            Reading(4, 1 << 30, 25e6, 2.0, 10.0, ranged_mib * MIB),
        ],
        sharings=[Sharing(1, 32, 0.1, one), Sharing(2, 32, 0.1, two)],
    )


def missed(found: Results) -> list[str]:
    """Give what was not reached, by its first words."""
    return [goal.what.partition(",")[0] for goal in goals(found) if not goal.reached]


def test_the_page_says_what_the_file_says() -> None:
    """docs/performance.md has the report of bench/results/latest.json, letter for letter."""
    page = PAGE.read_text()
    assert page == with_report(page, load(RESULTS.read_bytes()))


def test_results_come_back_from_their_file() -> None:
    """What is written can be read, and nothing is lost."""
    assert load(dump(results())) == results()


def test_every_goal_is_judged_where_it_stands() -> None:
    """On the bound a goal is reached; the median is judged, and ratios are those of the same round."""
    assert missed(results()) == []
    assert len(list(goals(results()))) == 11
    assert missed(results(rclone_s=(0.19, 0.39, 9.0))) == ["whole worker"]
    assert missed(results(ranged_mib=161)) == ["memory of a worker: ranged reads"]
    assert missed(results(two=179.0)) == ["two workers"]


def test_the_report_puts_ratios_and_verdicts_first() -> None:
    """The figures that the README quotes stand above the tables, each with its spread."""
    lines = report(results(ranged_mib=161))
    first_table = lines.index("Over TLS:")
    assert "- rclone, S3 to S3: 2.00 (2.00 to 3.00) times as much" in lines[:first_table]
    assert any("| 161 MiB (one round) | **not reached** |" in text for text in lines[:first_table])
    assert any("Python 3.11.2 (the system's, 8 ms)" in text for text in lines[:first_table])


def python(name: str, loop_ms: float, build: str = "optimised") -> Interpreter:
    """Give a Python."""
    return Interpreter(f"/usr/bin/{name}", "3.11.2", build, loop_ms)


def test_an_optimised_python_is_taken_and_of_equals_the_first() -> None:
    """One that is not optimised counts only where no other is, however quick the moment made it look."""
    slow, plain = python("slow", 20.0), python("plain", 5.0, PLAIN)
    assert quickest([plain, slow]) == slow
    assert quickest([plain]) == plain
    assert quickest([slow, python("like", 10.4), python("quick", 10.0)]).executable == "/usr/bin/like"


def test_a_named_python_is_written_down_whatever_stood_there(tmp_path: Path) -> None:
    """A name given wins; what is no Python is refused, and what stands there already is not touched."""
    file = tmp_path / "python"
    file.write_text("/bin/true\n")
    named = [sys.executable, interpreter.__file__, str(file), "--named"]
    subprocess.run([*named, sys.executable], check=True, capture_output=True, timeout=60)
    assert file.read_text() == str(Path(sys.executable).resolve()) + "\n"
    before = file.stat().st_mtime_ns
    subprocess.run([*named, sys.executable], check=True, capture_output=True, timeout=60)
    assert file.stat().st_mtime_ns == before
    assert subprocess.run([*named, "/bin/true"], check=False, capture_output=True, timeout=60).returncode == 1


@pytest.fixture
def stored(tmp_path: Path) -> Servers:
    """Give the folders of a source with two objects and of a sink with both."""
    for folder in (tmp_path / "source" / "b", tmp_path / "sink" / str(FIRST_CPCODE - 1)):
        folder.mkdir(parents=True)
        for key in "01":
            (folder / key).write_bytes(b"object " + key.encode())
    with subprocess.Popen(["true"]) as process:
        return Servers(tmp_path, {}, process, sys.executable)


def test_a_wrong_byte_is_told_with_both_digests(stored: Servers) -> None:
    """Each object that differs, lacks or is too many is named, with what each side has."""
    case = Case("8 B", "b", 8, 2)
    assert stored.wrong(case, whole=True) == []
    sink = stored.home / "sink" / str(FIRST_CPCODE - 1)
    (sink / "1").write_bytes(b"object 2")
    (told,) = stored.wrong(case, whole=True)
    for text in (b"object 1", b"object 2"):
        assert f"(8 bytes, SHA-256 {hashlib.sha256(text).hexdigest()})" in told
    for folder, size_bytes in ((stored.home / "source" / "b", COMPARE_BYTES), (sink, COMPARE_BYTES + 1)):
        (folder / "1").write_bytes(bytes(size_bytes))
    assert f"({COMPARE_BYTES + 1} bytes" in stored.wrong(case, whole=True)[0]
    (sink / "1").unlink()
    assert stored.wrong(case, whole=False) == []
    assert "(absent)" in stored.wrong(case, whole=True)[0]
    (sink / "2").write_bytes(b"")
    assert "2 was never to be copied" in stored.wrong(case, whole=False)[0]


def test_a_run_is_judged_when_its_last_connection_has_ended(tmp_path: Path) -> None:
    """As long as the server holds a connection, also one that its client has given up, nothing is compared."""
    with socket.create_server(("127.0.0.1", 0)) as listener, subprocess.Popen(["true"]) as process:
        servers = Servers(tmp_path, {"sink": listener.getsockname()[1]}, process, sys.executable)
        servers.settle(wait_s=0)
        client = socket.create_connection(listener.getsockname())
        held, _ = listener.accept()
        with pytest.raises(TimeoutError, match="1 of its connections"):
            servers.settle(wait_s=0)
        client.close()
        with pytest.raises(TimeoutError):
            servers.settle(wait_s=0.1)
        held.close()
        servers.settle()


@pytest.mark.parametrize("gets", [999, 1001])
def test_a_request_too_many_ends_the_bench(gets: int) -> None:
    """One GET and one PUT for an object, no more and no less."""
    case = Case("4 KiB", "b", 4096, 1000)
    judge_requests(PATH, case, run(1.0))
    with pytest.raises(SystemExit, match=str(gets)):
        judge_requests(PATH, case, run(1.0, gets=gets))


async def test_a_line_is_late_and_narrow_and_alters_nothing() -> None:
    """Every byte arrives, as it was, not before its time, and also those after which the server has closed."""
    answer, rate, delay_s = bytes(range(250)) * 1_000, 1e6, 0.1

    async def script(peer: Peer) -> None:
        assert await peer.exactly(3) == b"ask"
        await peer.send(answer)

    async with hostile(script) as server, await listen(0, server.origin.port, delay_s=delay_s, bytes_per_s=rate) as way:
        reader, writer = await asyncio.open_connection(*way.sockets[0].getsockname())
        began_s = time.monotonic()
        writer.write(b"ask")
        assert await asyncio.wait_for(reader.read(), 10) == answer
        assert time.monotonic() - began_s >= delay_s + len(answer) / rate - 0.06
        writer.close()
        await writer.wait_closed()


async def test_who_hangs_up_on_a_line_hangs_up_on_the_server() -> None:
    """A client that goes before its answer has come ends the server's side too."""
    heard = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.exactly(3)
        await peer.send(b"answer")
        assert await peer.rest() == b""
        heard.set()

    async with hostile(script) as server, await listen(0, server.origin.port, delay_s=60.0) as way:
        _, writer = await asyncio.open_connection(*way.sockets[0].getsockname())
        writer.write(b"ask")
        await asyncio.sleep(0.1)
        writer.close()
        await asyncio.wait_for(heard.wait(), 10)
        await writer.wait_closed()
