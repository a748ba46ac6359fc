"""What a command shows: results, failures, progress, exit codes."""

import io
import json
import os
import subprocess
import sys
from functools import partial

import pytest

from s3nsync import errors
from s3nsync.cli.ui import EXIT_CODES, Ui
from s3nsync.errors import ConfigError, S3nsyncError, TargetCredentials, TargetError


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        """Say so."""
        return True


class Shown:
    """A Ui and what it wrote."""

    def __init__(self, *, as_json: bool = False, debug: bool = False, terminal: bool = False) -> None:
        self.out = io.StringIO()
        self.err = Terminal() if terminal else io.StringIO()
        self.ui = Ui(as_json=as_json, debug=debug, stdout=self.out, stderr=self.err)


def fail_with(error: BaseException) -> int:
    """Raise the error."""
    raise error


def tree(base: type[S3nsyncError]) -> list[type[S3nsyncError]]:
    """Give every error type below, the base included."""
    return [base, *(each for below in base.__subclasses__() for each in tree(below))]


def test_a_result_is_text_to_people_and_a_line_of_json_to_programs() -> None:
    """The same call serves both; names are escaped on the screen and whole in JSON."""
    plain, machine = Shown(), Shown(as_json=True)
    for shown in (plain, machine):
        shown.ui.say("copied", "copied a\x1b[2J", path="/1/a\x1b[2J", bytes=3)
    assert plain.out.getvalue() == "copied a\\x1b[2J\n"
    assert json.loads(machine.out.getvalue()) == {"type": "copied", "path": "/1/a\x1b[2J", "bytes": 3}


def test_notes_never_mix_with_results() -> None:
    """Notes go to standard error, and nowhere with --json."""
    plain, machine = Shown(), Shown(as_json=True)
    for shown in (plain, machine):
        shown.ui.note("by the way")
        assert not shown.out.getvalue()
    assert plain.err.getvalue() == "by the way\n"
    assert not machine.err.getvalue()


def test_a_failure_is_what_and_hint_with_the_types_exit_code() -> None:
    """Two lines, no traceback; in JSON the same facts on standard output."""
    plain, machine = Shown(), Shown(as_json=True)
    error = TargetCredentials("403 for /1/a")
    assert plain.ui.run(lambda: fail_with(error)) == 3
    assert plain.err.getvalue() == f"error: 403 for /1/a\n  hint: {error.hint}\n"
    assert not plain.out.getvalue()
    assert machine.ui.run(lambda: fail_with(error)) == 3
    assert json.loads(machine.out.getvalue()) == {
        "type": "error",
        "error": "TargetCredentials",
        "message": "403 for /1/a",
        "hint": error.hint,
        "exit_code": 3,
    }


def test_a_verb_whose_1_says_something_else_fails_by_a_code_of_its_own() -> None:
    """Only where the type has none: no connection is 3 everywhere."""
    ui = Ui(as_json=True, failed=6, stdout=(out := io.StringIO()))
    for error in (errors.SourceCorrupt("damaged"), errors.SourceUnavailable("503"), OSError("disk full"), KeyError(1)):
        assert ui.run(partial(fail_with, error)) == 6
    assert ui.run(lambda: fail_with(errors.ConnectFailed("no"))) == 3
    assert ui.run(lambda: 1) == 1
    assert [json.loads(line)["exit_code"] for line in out.getvalue().splitlines()] == [6, 6, 6, 6, 3]


def test_a_full_disk_is_told_with_where_else_to_go() -> None:
    """It has no name, as what is sorted on disk has none."""
    shown = Shown()
    assert shown.ui.run(lambda: fail_with(OSError(28, "No space left on device"))) == 1
    assert shown.err.getvalue().startswith("error: No space left on device\n  hint: make room there; ")
    assert "TMPDIR" in shown.err.getvalue()


def test_the_lines_of_many_mistakes_stay_lines() -> None:
    """A configuration's mistakes are shown one below the other."""
    shown = Shown()
    assert shown.ui.fail(ConfigError("2 settings cannot be used:\n  a\n  b")) == 2
    assert shown.err.getvalue().startswith("error: 2 settings cannot be used:\n  a\n  b\n  hint: ")


@pytest.mark.parametrize("error", tree(S3nsyncError), ids=lambda each: each.__name__)
def test_every_error_type_ends_in_a_documented_exit_code_with_a_hint(error: type[S3nsyncError]) -> None:
    """No type of the tree lacks advice, and no exit code lacks its meaning."""
    shown = Shown()
    code = shown.ui.fail(error("it failed"))
    assert code in EXIT_CODES
    assert code != 0
    assert "  hint: " in shown.err.getvalue()
    assert error.__module__ == errors.__name__


def test_anything_else_is_a_bug_and_says_so() -> None:
    """No traceback at people, but the way to one."""
    shown = Shown()
    assert shown.ui.run(lambda: fail_with(KeyError("x"))) == 1
    assert shown.err.getvalue().startswith("error: KeyError: 'x'\n  hint: this is a bug")
    assert "Traceback" not in shown.err.getvalue()


def test_the_systems_errors_name_their_file() -> None:
    """A missing file is no bug."""
    shown = Shown()
    assert shown.ui.run(lambda: fail_with(FileNotFoundError(2, "No such file or directory", "a.txt"))) == 1
    assert "error: No such file or directory: a.txt\n" in shown.err.getvalue()
    assert "bug" not in shown.err.getvalue()
    shown.ui.fail(TimeoutError())
    assert "error: TimeoutError\n" in shown.err.getvalue()


def test_debug_shows_the_traceback_without_secrets() -> None:
    """--debug adds the traceback; what the log redacts is redacted here."""
    shown = Shown(debug=True)
    shown.ui.redact = lambda text: text.replace("CANARY", "[redacted]")
    shown.ui.run(lambda: fail_with(TargetError("key CANARY")))
    assert "Traceback" in shown.err.getvalue()
    assert "CANARY" not in shown.err.getvalue()


def test_an_interrupt_is_no_failure_to_explain() -> None:
    """Ctrl-C ends with the shell's own code for it."""
    shown = Shown()
    assert shown.ui.run(lambda: fail_with(KeyboardInterrupt())) == 130
    assert shown.err.getvalue() == "interrupted\n"


def test_an_action_without_a_code_is_done() -> None:
    """None is success; a verb's own code passes."""
    assert Shown().ui.run(lambda: None) == 0
    assert Shown().ui.run(lambda: 4) == 4


def test_a_reader_that_left_ends_the_command_quietly() -> None:
    """`s3nsync … | head` leaves no traceback."""
    code = (
        "import sys; from s3nsync.cli.ui import Ui; ui = Ui();"
        "sys.exit(ui.run(lambda: [ui.say('x', 'y' * 999) for _ in range(9999)] and 0))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == 1


def test_progress_is_for_terminals_only() -> None:
    """Nothing is drawn into pipes or beside JSON; on a terminal title and words are seen, odd names and all."""
    quiet, machine, seen = Shown(), Shown(as_json=True, terminal=True), Shown(terminal=True)
    for shown in (quiet, machine, seen):
        with shown.ui.progress("copying [x]") as show:
            show("1 of 3 a[red]\x1b", 1, 3)
        assert not shown.out.getvalue()
    assert not quiet.err.getvalue()
    assert not machine.err.getvalue()
    assert "copying [x]" in seen.err.getvalue()
    assert "a[red]\\x1b" in seen.err.getvalue()


def test_a_long_title_leaves_room_for_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a narrow terminal too, and whatever stands in the name of a file."""
    monkeypatch.setenv("COLUMNS", "40")
    shown = Shown(terminal=True)
    with shown.ui.progress("archive/{2026}/" + "long" * 20) as show:
        show("3 of 9 objects", 3, 9)
    assert "archive/{2… 3 of 9 objects" in shown.err.getvalue()


def test_lines_and_log_stand_above_the_bar() -> None:
    """Each is whole, and the bar is drawn anew below it; what is written to a file is not touched by that."""
    shown = Shown(terminal=True)
    with shown.ui.progress("sync") as show:
        show("1 object", 1, None)
        shown.ui.note("by the way")
        shown.ui.log_stream.write("10:00:00 warning: slow\n")
        shown.ui.say("x", "result [red]")
    assert "by the way\n" in shown.err.getvalue()
    assert "10:00:00 warning: slow\n" in shown.err.getvalue()
    assert shown.out.getvalue() == "result [red]\n"
    shown.ui.log_stream.write("later\n")
    assert shown.err.getvalue().endswith("later\n")
    assert shown.ui.log_stream.isatty()


def test_a_warning_is_told_in_either_form() -> None:
    """On standard error: whoever reads the JSON is a program, whoever keeps it is not."""
    for shown in (Shown(), Shown(as_json=True)):
        shown.ui.warn("no events")
        assert (shown.err.getvalue(), shown.out.getvalue()) == ("no events\n", "")


def test_the_processes_own_streams_are_the_default(capfd: pytest.CaptureFixture[str]) -> None:
    """Without streams given, results go to standard output and failures to standard error."""
    ui = Ui()
    ui.say("x", "result")
    ui.fail(ConfigError("wrong"))
    captured = capfd.readouterr()
    assert captured.out == f"result{os.linesep}"
    assert captured.err.startswith("error: wrong")
