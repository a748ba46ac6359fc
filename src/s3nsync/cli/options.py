"""The options that several verbs have, and what they are called: one place, so that all mean the same everywhere."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer
from typer.models import OptionInfo

KEYS, REPAIR = "Which keys", "Repair"
"""Parts of a long help."""


def _finite(value: float | None) -> float | None:
    """Refuse what Python takes for a number and nobody means: `nan` would be within every bound."""
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter("must be a number")
    return value


def _flag(*names: str, what: str, panel: str | None = None) -> OptionInfo:
    """Make an option that is said or not, and takes no value."""
    option: OptionInfo = typer.Option(*names, metavar="", help=what, rich_help_panel=panel)
    return option


ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The TOML file; else S3NSYNC_CONFIG, else ./s3nsync.toml."),
]
AsJson = Annotated[bool, _flag("--json", what="One JSON object a line on standard output.")]
DryRun = Annotated[bool, _flag("--dry-run", what="Only say what would be done.")]
Yes = Annotated[bool, _flag("--yes", "-y", what="Do not ask.")]

# --- which keys, and from where: verify and sync ---------------------------------------------------------------

RouteNames = Annotated[
    list[str] | None,
    typer.Option(
        "--route",
        metavar="ROUTE",
        help="Only this one: its number, bucket or bucket/prefix. May be repeated.",
        rich_help_panel=KEYS,
    ),
]
Prefix = Annotated[str, typer.Option("--prefix", metavar="TEXT", help="Only keys that begin so.", rich_help_panel=KEYS)]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", metavar="PATTERN", help="Only keys that match. May be repeated.", rich_help_panel=KEYS),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option("--exclude", metavar="PATTERN", help="Not these keys. May be repeated; wins.", rich_help_panel=KEYS),
]
Inventory = Annotated[
    str,
    typer.Option(
        "--inventory",
        metavar="S3URL",
        help="The manifest.json of an S3 Inventory to read, not the listing.",
        rich_help_panel=KEYS,
    ),
]
Direct = Annotated[bool, _flag("--direct", what="Copy in this process; without it the workers do.")]

# --- verify ----------------------------------------------------------------------------------------------------

Deep = Annotated[bool, _flag("--deep", what="Ask S3 about every object; read and hash where need be.")]
Tolerance = Annotated[
    float,
    typer.Option(
        min=0,
        callback=_finite,
        metavar="SECONDS",
        help="Seconds a difference must be old to count; younger ones are looked at again.",
    ),
]
Checksums = Annotated[
    str, typer.Option(metavar="S3URL", help="The manifest.json of a Batch Operations report with MD5 checksums.")
]
CsvFile = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write the findings to a CSV file, too.")]
ExpectEmpty = Annotated[
    bool, _flag("--expect-empty", what="The bucket may list nothing though NetStorage holds files.")
]
Repair = Annotated[bool, _flag("--repair", what="Have what is missing or different copied.", panel=REPAIR)]
Delete = Annotated[
    bool, _flag("--delete", what="With --repair: have what is extra deleted, where the route deletes.", panel=REPAIR)
]
MaxDelete = Annotated[
    int,
    typer.Option(
        "--max-delete",
        min=0,
        metavar="N",
        help="Delete nothing of a route if it were more files than this.",
        rich_help_panel=REPAIR,
    ),
]
MaxDeletePercent = Annotated[
    float,
    typer.Option(
        "--max-delete-percent",
        callback=_finite,
        min=0,
        max=100,
        metavar="N",
        help="Nor if it were more of its files than this.",
        rich_help_panel=REPAIR,
    ),
]
Trash = Annotated[
    str,
    typer.Option(
        metavar="DIR",
        help="With --direct: move to this directory of the CP code, do not delete.",
        rich_help_panel=REPAIR,
    ),
]
YesToDeletes = Annotated[bool, _flag("--yes", "-y", what="Do not ask before files are deleted.", panel=REPAIR)]

RepairDirect = Annotated[bool, _flag("--direct", what="Copy in this process; without it the workers do.", panel=REPAIR)]
RepairDryRun = Annotated[bool, _flag("--dry-run", what="Only say what would be done.", panel=REPAIR)]

# --- sync ------------------------------------------------------------------------------------------------------

NewerThan = Annotated[
    str,
    typer.Option(
        metavar="TIME",
        help="Only objects written since: 2026-01-31, with a time, or 36h, 7d ago.",
        rich_help_panel=KEYS,
    ),
]
Rate = Annotated[float | None, typer.Option(min=0.01, callback=_finite, metavar="N", help="Objects a second, at most.")]
StateFile = Annotated[
    Path | None,
    typer.Option("--state", metavar="FILE", help="Without --direct: go on from here after a kill; gone at the end."),
]

# --- failed ----------------------------------------------------------------------------------------------------

Limit = Annotated[int, typer.Option(min=1, metavar="N", help="Entries to look at, at most.")]
SomePatterns = Annotated[
    list[str] | None, typer.Argument(metavar="PATTERN", help="Names to match, such as 's3://media/site/*'.")
]
Patterns = Annotated[list[str], typer.Argument(metavar="PATTERN", help="Names to match; '*' is all of them.")]

# --- ns --------------------------------------------------------------------------------------------------------

RemotePath = Annotated[str, typer.Argument(metavar="PATH", help="/CPCODE/directory/name")]
AccountName = Annotated[
    str,
    typer.Option(
        "--account", metavar="NAME", help="The settings' account of that name; else NS_*, else the CP code's."
    ),
]
Depth = Annotated[int | None, typer.Option(min=1, metavar="N", help="Levels to go down; all if not given.")]
LocalTarget = Annotated[str, typer.Argument(metavar="LOCAL", help="File or directory to write to; - is stdout.")]
Resume = Annotated[bool, _flag("--resume", what="Go on with what an earlier try has left.")]
LocalSource = Annotated[str, typer.Argument(metavar="LOCAL", help="File or directory to send; - is stdin.")]
WhereTo = Annotated[str, typer.Argument(metavar="PATH", help="Where to; after a final / the local name is kept.")]
Jobs = Annotated[int, typer.Option(min=1, metavar="N", help="Files under way at once.")]
Recursive = Annotated[bool, _flag("--recursive", "-r", what="Everything below it too.")]
Quick = Annotated[bool, _flag("--quick", what="Let NetStorage remove the tree, at some later time.")]
Confirm = Annotated[str, typer.Option(metavar="PATH", help="With --quick: the same path once more.")]
Deletes = Annotated[int, typer.Option("--jobs", min=1, metavar="N", help="Deletes under way at once.")]
Parents = Annotated[bool, _flag("--parents", "-p", what="Its parents first; FileStore needs them.")]
FromPath = Annotated[str, typer.Argument(metavar="FROM", help="A file or symlink.")]
ToPath = Annotated[str, typer.Argument(metavar="TO", help="In the same CP code; after a final / keeps its name.")]
