"""The generated pages: complete, true, and made from what is really there."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated

import generate_docs
import pytest
import typer

from s3nsync.cli.ui import EXIT_CODES
from s3nsync.config import load
from s3nsync.model import Route
from s3nsync.settings import describe


def fenced(page: str, language: str) -> str:
    """Give the page's first block of a language."""
    found = re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)
    assert found, f"no {language} block"
    return found[1]


def test_every_setting_variable_and_route_key_is_on_the_page() -> None:
    """Nothing that can be set is left unsaid."""
    page = generate_docs.configuration_page()
    for setting in describe():
        assert f"| `{setting.name.rpartition('.')[2]}` |" in page
        assert all(f"`{name}`" in page for name in setting.env)
    assert set(generate_docs.ROUTE_KEYS) == {each.name for each in fields(Route)}


def test_the_files_example_loads(tmp_path: Path) -> None:
    """The example in TOML is a whole configuration."""
    text = fenced(generate_docs.configuration_page(), "toml")
    assert tomllib.loads(text)
    path = tmp_path / "example.toml"
    path.write_text(text)
    settings = load(path, {})
    assert [route.prefix for route in settings.routes] == ["", "public/"]


def test_the_variables_example_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example in variables is a whole configuration."""
    monkeypatch.chdir(tmp_path)
    lines = fenced(generate_docs.configuration_page(), "sh").splitlines()
    settings = load(None, dict(line.split("=", 1) for line in lines))
    assert settings.accounts["default"].user == "upload"


def application() -> typer.Typer:
    """Give a small application with all that a page must show."""
    app = typer.Typer(help="What it is.")
    below = typer.Typer(help="More of it.")

    @app.callback()
    def root(
        *,
        config: Annotated[
            Path | None, typer.Option("--config", "-c", envvar="S3NSYNC_CONFIG", help="The file.")
        ] = None,
    ) -> None:
        """Take what is for all verbs."""

    @app.command()
    def run(name: str, slots: Annotated[int, typer.Option(help="At once: a | b.")] = 64) -> None:
        """Run until stopped.

        Further words.
        """

    @app.command(hidden=True)
    def secret() -> None:
        """Do not show."""

    @below.command("ls")
    def list_(*, recursive: Annotated[bool, typer.Option("--recursive/--flat", help="Go down.")] = False) -> None:
        """List."""

    app.add_typer(below, name="ns")
    return app


def test_every_visible_command_and_option_is_on_the_page() -> None:
    """Groups, arguments, defaults, variables, both names of a flag; nothing that is hidden."""
    page = generate_docs.cli_page(application())
    for wanted in (
        "## `s3nsync`\n\nWhat it is.",
        "| `--config`, `-c` | The file. (variable `S3NSYNC_CONFIG`) |  |",
        "- `s3nsync run`: Run until stopped.\n",
        "### `s3nsync run`\n\nRun until stopped.\n\nFurther words.",
        "| `NAME` |  | **required** |",
        "| `--slots` | At once: a \\| b. | `64` |",
        "### `s3nsync ns ls`",
        "| `--recursive`, `--flat` | Go down. |  |",
    ):
        assert wanted in page
    assert "secret" not in page
    assert "--install-completion" not in page


def test_every_exit_code_is_on_the_page() -> None:
    """The table is that of the code."""
    page = generate_docs.cli_page(application())
    assert all(f"| {code} | {meaning} |" in page for code, meaning in EXIT_CODES.items())
