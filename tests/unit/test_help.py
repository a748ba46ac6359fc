"""Help of every verb, as a terminal shows it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from inspect import cleandoc

import pytest
import typer.main
from typer.testing import CliRunner

from s3nsync.cli.commands import app


def verbs(command: object, *names: str) -> Iterator[tuple[str, ...]]:
    """Give the names of every verb and group of verbs, that of none first."""
    yield names
    for name, below in getattr(command, "commands", {}).items():
        yield from verbs(below, *names, name)


ALL = [names for names in verbs(typer.main.get_command(app)) if names != ("emulate",)]  # its help is argparse's
SOURCES = {
    verb.name or getattr(verb.callback, "__name__", ""): cleandoc(getattr(verb.callback, "__doc__", "") or "")
    for group in [app, *(each.typer_instance for each in app.registered_groups)]
    if group is not None
    for verb in group.registered_commands
}


def shown(names: tuple[str, ...], columns: int) -> list[str]:
    """Give the lines of a verb's help on a terminal so wide."""
    result = CliRunner().invoke(app, [*names, "--help"], env={"COLUMNS": str(columns), "TERMINAL_WIDTH": ""})
    assert result.exit_code == 0, result.output
    return [line.rstrip() for line in result.output.splitlines()]


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("names", ALL, ids=" ".join)
def test_help_breaks_lines_only_where_the_terminal_ends(names: tuple[str, ...], columns: int) -> None:
    """However the text was wrapped in its source; and nothing is wider than the terminal."""
    lines = shown(names, columns)
    assert max(map(len, lines)) <= columns
    text = [line for line in lines if not re.match("[╭│╰]", line)]
    for line, following in itertools.pairwise(text):
        if line and following and "Usage:" not in line:
            assert len(line) + 1 + len(following.split()[0]) > columns - 1, f"{line!r} was broken before its end"


@pytest.mark.parametrize("name", SOURCES)
def test_paragraphs_stay_paragraphs(name: str) -> None:
    """Nothing of a docstring is lost, and its paragraphs do not run together."""
    if name == "emulate":
        return
    (names,) = [each for each in ALL if each[-1:] == (name.rstrip("_"),)] or [("failed", "list")]
    text = "\n".join(line.strip() for line in shown(names, 500))
    for paragraph in SOURCES[name].split("\n\n"):
        assert "\n" + " ".join(paragraph.split()) + "\n" in text


@pytest.mark.parametrize("names", ALL, ids=" ".join)
def test_no_option_is_unexplained_and_no_flag_has_a_value(names: tuple[str, ...]) -> None:
    """Each has words; what is said or not shows no type but in typer's own."""
    command = typer.main.get_command(app)
    for name in names:
        command = getattr(command, "commands")[name]  # noqa: B009 - typer's types are private
    own = {"help", "install_completion", "show_completion", "version"}
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name
        if getattr(parameter, "is_flag", False) and parameter.name not in own:
            assert parameter.metavar == "", parameter.name
