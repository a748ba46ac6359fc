"""The emulator's command line: what it refuses, in which words, and that a refused start leaves nothing behind."""

from __future__ import annotations

import json
import signal
import socket
from pathlib import Path

import pytest

from s3nsync.emulator import Emulator, running
from s3nsync.emulator.command import main

KEY = "correct-horse-battery"


def run(*arguments: str) -> int:
    """Run a command line that cannot start; return its exit code. One that does start is ended after a while."""
    before = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it started"))
    signal.setitimer(signal.ITIMER_REAL, 5)
    try:
        return main(list(arguments), {"NS_KEY": KEY}, program="emulate")
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("option", ["--port", "--control-port"])
@pytest.mark.parametrize("number", ["65536", "99999", "-1", "http", "²"])
def test_a_number_that_is_no_port(option: str, number: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A port past 65535 is refused: the system would quietly take another one."""
    assert run(option, number) == 2
    assert f"argument {option}: {number} is no port: 0 to 65535" in capsys.readouterr().err


@pytest.mark.parametrize(("port", "control_port"), [(65536, None), (-1, None), (0, 65536)])
async def test_a_number_that_is_no_port_in_python(port: int, control_port: int | None) -> None:
    """The same holds for `start`, before anything listens."""
    emulator = Emulator(accounts={})
    with pytest.raises(ValueError, match="is no port: 0 to 65535"):
        await emulator.start(port=port, control_port=control_port)
    await emulator.stop()


def test_a_personality_that_is_none(capsys: pytest.CaptureFixture[str]) -> None:
    """The two there are get named."""
    assert run("--personality", "foo") == 2
    said = capsys.readouterr().err
    assert ("objectstore" in said, "filestore" in said) == (True, True)


def test_a_folder_without_parent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only the last folder is ever made: a missing parent is named, and nothing is left behind."""
    assert run("--folder", str(tmp_path / "nope" / "x")) == 1
    assert f"{tmp_path / 'nope'}: no directory to make 'x' in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file in the folder's place is named."""
    (tmp_path / "x").touch()
    assert run("--folder", str(tmp_path / "x")) == 1
    assert f"{tmp_path / 'x'}: Not a directory" in capsys.readouterr().err


def test_a_folder_is_left_as_it_was(tmp_path: Path) -> None:
    """A folder that was made goes away at the end; one that was there stays."""
    for folder, stays in ((tmp_path / "new", False), (tmp_path, True)):
        with running(Emulator(accounts={}, folder=folder)):
            assert folder.is_dir()
        assert folder.exists() is stays
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--port", "--control-port"])
def test_a_port_that_is_taken(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Host and port are named, for either port, and the folder that was made is gone again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run(option, str(port), "--folder", str(tmp_path / "x")) == 1
    said = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use\n" in said
    assert list(tmp_path.iterdir()) == []


def test_certificate_files_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is missing or holds no certificate is named."""
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("no PEM")
    for arguments, said in (
        (("--tls-cert", "/does/not/exist"), "/does/not/exist: No such file"),
        (("--tls-cert", str(wrong), "--tls-key", "/no/key"), "/no/key: No such file"),
        (("--tls-cert", str(wrong)), f"{wrong}: no certificate"),
    ):
        assert run(*arguments) in (1, 2)
        assert said in capsys.readouterr().err


def test_a_failure_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """With --json the reason is an object on standard output too, in the form of the other commands."""
    assert run("--json", "--key-env", "NOT_SET") == 2
    shown = capsys.readouterr()
    error = json.loads(shown.out)
    assert (error["type"], "NOT_SET" in error["message"], error["exit_code"], shown.err) == ("error", True, 2, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prot", "1"], "unrecognized arguments: --prot 1"),
        (["--tls-key", "key.pem"], "--tls-key needs --tls-cert"),
        (["--cpcode", "images"], "argument --cpcode: images is no CP code: digits only"),
    ],
)
def test_wrong_usage_is_json_where_json_is_asked_for(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever --json stands; else in argparse's own words."""
    assert run(*arguments) == 2
    assert said in capsys.readouterr().err
    assert run(*arguments, "--json") == 2
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "type": "error",
        "message": said,
        "hint": "see `emulate --help`",
        "exit_code": 2,
    }
    assert not shown.err
