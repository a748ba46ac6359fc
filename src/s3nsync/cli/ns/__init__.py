"""`s3nsync ns`: NetStorage on the command line, over the same client that the worker uses.

    looking      ls, tree, stat, du
    transfers    get, put
    changes      rm, mkdir, mv
    many         one thing done to many files at once
    access       which account a verb acts for, how it runs, and how it tells of an entry

Results go to stdout (with `--json` one JSON object a line), progress and complaints to stderr; exit codes are those of
`ui`.
"""

from __future__ import annotations

import typer

from s3nsync.cli.ns import changes, looking, transfers

app = typer.Typer(
    help="Look at and change NetStorage by hand.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # locals may hold the key
)

for _verb in (
    looking.ls,
    looking.tree,
    looking.stat,
    looking.du,
    transfers.get,
    transfers.put,
    changes.rm,
    changes.mkdir,
    changes.mv,
):
    app.command()(_verb)
