"""Write docs/configuration.md and docs/cli.md from the code, or (--check) tell whether they are what the code gives.

The diagram of the deployment is drawn, or checked, with them (draw_diagram.py).

Settings describe themselves (`s3nsync.settings.describe`), and so do the commands (the typer application); what is
written here is only the prose around them and the keys of a route.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, fields
from inspect import cleandoc
from pathlib import Path
from typing import Protocol, cast

import draw_diagram
import typer

from s3nsync.cli.ui import EXIT_CODES
from s3nsync.model import Route
from s3nsync.settings import OTHER_VARIABLES, Setting, describe

DOCS = Path(__file__).parent.parent / "docs"

GENERATED = "<!-- Written by `make docs` from the code: do not edit. -->"

ROUTE_KEYS = {
    "bucket": "The S3 bucket.",
    "cpcode": "The NetStorage CP code, digits only.",
    "directory": "Where below the CP code the keys go.",
    "prefix": "Only keys that begin so. Among a bucket's routes the longest matching prefix decides, alone.",
    "strip_prefix": "Cut from the key before `directory` is put in front; must be a leading part of `prefix`.",
    "include": "Shell-style patterns over the whole key (`*` also crosses `/`); one must match. None means every key.",
    "exclude": "Patterns of keys to leave out; wins over `include`.",
    "account": "The upload account, by its name under `accounts`.",
    "deletes": "`mirror` deletes on NetStorage what is deleted in S3; `ignore` leaves it there; `trash` moves it to the"
    " directory `trash`, with the time behind its name.",
    "trash": 'With `deletes = "trash"`: a directory of the same CP code, outside of all routes\' own. Deleted files'
    " keep their path below it; nobody empties it but you.",
    "folder_markers": "Keys that end in `/` (the S3 console's empty folders): `ignore` them, or `mkdir`.",
    "content_encoding": "NetStorage cannot hold Content-Encoding. `warn` copies such an object's bytes as they are and"
    " says so in the log; `reject` puts it aside in the dead-letter queue.",
    "settle_s": "Seconds that must have passed since an object's last change before it is written, because NetStorage"
    " advises against rapid overwrites of one name. At most 43,200.",
}
"""What each key of a route is for; the generated page has a row for each field of Route."""

NOTES = {
    "accounts.<name>": "One table for each upload account: either host, user and key, or secret_arn. The variables are"
    " those of the account `default`, the one that routes use unless they name another; those with"
    " `_<NAME>` are the account `<name>`'s, in lower case.",
}
"""What must be said before a table of settings."""

CONFIGURATION = """
# Configuration

One TOML file, the environment, or both. The file is the one given by `--config`, else by `S3NSYNC_CONFIG`, else
`s3nsync.toml` in the working directory. The environment beats the file. What the platform says about itself
(`AWS_REGION`, `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL`, `AWS_CA_BUNDLE`) only fills in what nobody set. A variable that
is empty counts as unset.

`s3nsync config` shows what is in force, secrets masked. If something is wrong, every mistake is told at once, with its
place and what is allowed.

A whole file:

```toml
region = "eu-central-1"

[queues]
live = "https://sqs.eu-central-1.amazonaws.com/123456789012/media-live.fifo"
check = "https://sqs.eu-central-1.amazonaws.com/123456789012/media-check.fifo"
dead = "https://sqs.eu-central-1.amazonaws.com/123456789012/media-dead.fifo"
bulk = "https://sqs.eu-central-1.amazonaws.com/123456789012/media-bulk.fifo"

[accounts.default]
secret_arn = "arn:aws:secretsmanager:eu-central-1:123456789012:secret:netstorage"

[[routes]]
bucket = "my-media"
cpcode = "123456"
directory = "media"

[[routes]]
bucket = "my-software"
prefix = "public/"
strip_prefix = "public/"
cpcode = "123456"
directory = "downloads"
deletes = "ignore"
```

The same in variables, as a container has them (the secret comes from Secrets Manager):

```sh
REGION=eu-central-1
QUEUE_URL=https://sqs.eu-central-1.amazonaws.com/123456789012/media-live.fifo
S3NSYNC_CHECK_QUEUE_URL=https://sqs.eu-central-1.amazonaws.com/123456789012/media-check.fifo
S3NSYNC_DEAD_QUEUE_URL=https://sqs.eu-central-1.amazonaws.com/123456789012/media-dead.fifo
S3NSYNC_BULK_QUEUE_URL=https://sqs.eu-central-1.amazonaws.com/123456789012/media-bulk.fifo
NS_SECRET={"NS_HOSTNAME":"example-nsu.akamaihd.net","NS_USER":"upload","NS_KEY":"the key"}
BUCKET=my-media
CPCODE=123456
```
"""

COMMANDS = """
# Commands

Every command takes `--help`. With `--json` each result, errors included, is one JSON object a line on standard output;
progress and the log go to standard error.
"""


class Parameter(Protocol):
    """What is read of a command's option or argument."""

    param_type_name: str
    name: str | None
    opts: list[str]
    secondary_opts: list[str]
    default: object
    required: bool
    envvar: str | list[str] | None


class Command(Protocol):
    """What is read of a command or a group of commands."""

    help: str | None
    hidden: bool
    params: list[Parameter]


def configuration_page() -> str:
    """Give docs/configuration.md."""
    sections: dict[str, list[Setting]] = {}
    for setting in describe():
        table = setting.name.rpartition(".")[0]
        sections.setdefault(table, []).append(setting)
    parts = [GENERATED, CONFIGURATION.strip()]
    for table, settings in sections.items():
        parts.append(f"## `[{table}]`" if table else "## Top of the file")
        parts += [NOTES[table]] if table in NOTES else []
        parts.append(_settings_table(settings))
    parts += ["## `[[routes]]`", _routes_intro(), _routes_table(), "## Other variables", _variables_table()]
    return "\n\n".join(parts) + "\n"


def cli_page(app: typer.Typer) -> str:
    """Give docs/cli.md for a typer application."""
    root = cast("Command", typer.main.get_command(app))  # of a private type of typer's
    codes = _table(("Code", "Meaning"), [(str(code), meaning) for code, meaning in EXIT_CODES.items()])
    parts = [GENERATED, COMMANDS.strip(), *_command_parts("s3nsync", root), "## Exit codes", codes]
    return "\n\n".join(parts) + "\n"


def _settings_table(settings: Iterable[Setting]) -> str:
    rows = [
        (
            f"`{setting.name.rpartition('.')[2]}`",
            "<br>".join(f"`{name}`" for name in setting.env),
            f"{setting.type}{f': {setting.allowed}' if setting.allowed else ''}",
            _default(setting),
            setting.reason,
        )
        for setting in settings
    ]
    return _table(("Setting", "Variable", "Value", "Default", "What for, and why so"), rows)


def _default(setting: Setting) -> str:
    if not setting.default:
        return "**required**"
    return "" if setting.default == "null" else f"`{setting.default}`"


def _routes_intro() -> str:
    return (
        "Which keys go where. The same words are used in the file, in `S3NSYNC_ROUTES` (a JSON list) and in Terraform's"
        " variable `routes`. An object lands at `/{cpcode}/{directory}/{key without strip_prefix}`."
    )


def _routes_table() -> str:
    rows = [
        (f"`{each.name}`", "**required**" if each.default is MISSING else _shown(each.default), ROUTE_KEYS[each.name])
        for each in fields(Route)
    ]
    return _table(("Key", "Default", "What for"), rows)


def _shown(value: object) -> str:
    return f"`{value}`" if value not in ("", ()) else ""


def _variables_table() -> str:
    return _table(("Variable", "What for"), [(f"`{name}`", what) for name, what in OTHER_VARIABLES.items()])


def _command_parts(name: str, command: Command) -> Iterator[str]:
    """Give the parts of a command's section, and of those below it."""
    below: dict[str, Command] = getattr(command, "commands", {})
    yield f"{'##' if ' ' not in name else '###'} `{name}`"
    if command.help:
        yield cleandoc(command.help)
    rows = [_parameter_row(each) for each in command.params if not getattr(each, "hidden", False)]
    if rows := [row for row in rows if row[0] not in ("`--help`", "`--install-completion`", "`--show-completion`")]:
        yield _table(("Option", "What for", "Default"), rows)
    if below:
        yield "\n".join(f"- `{name} {verb}`: {_first_line(each)}" for verb, each in below.items() if not each.hidden)
    for verb, each in below.items():
        if not each.hidden:
            yield from _command_parts(f"{name} {verb}", each)


def _first_line(command: Command) -> str:
    return (cleandoc(command.help or "").splitlines() or [""])[0]


def _parameter_row(parameter: Parameter) -> tuple[str, str, str]:
    is_argument = parameter.param_type_name == "argument"
    names = [(parameter.name or "").upper()] if is_argument else [*parameter.opts, *parameter.secondary_opts]
    what = " ".join((getattr(parameter, "help", None) or "").split())
    if parameter.envvar:
        what += f" (variable `{parameter.envvar}`)"
    default = "**required**" if parameter.required else _parameter_default(parameter.default)
    return ", ".join(f"`{each}`" for each in names), what, default


def _parameter_default(default: object) -> str:
    """Show a default that says something: an unset one, a false flag and a function do not."""
    return f"`{default}`" if default and isinstance(default, str | int | float | Path) else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """Write the pages, or check them; exit code 1 if one is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, only tell")
    check = parser.parse_args(arguments).check
    app = importlib.import_module("s3nsync.cli.commands").app
    pages = {
        DOCS / "configuration.md": configuration_page(),
        DOCS / "cli.md": cli_page(app),
        draw_diagram.DRAWING: draw_diagram.drawing(draw_diagram.SOURCE.read_text(encoding="utf-8")),
    }
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            sys.stderr.write(f"docs/{path.name} is not what its source says: run `make docs`\n")
        else:
            path.write_text(pages[path], encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
