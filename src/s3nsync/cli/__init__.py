"""The command line: every verb of `s3nsync`, what it prints, and how it ends.

    commands            the verbs that run the worker and look after it, and the list of all
    sync, verify, ns    the verbs with a file of their own
    over_routes         what `sync` and `verify` share: the routes asked for, both sides of each, a stop in the middle
    findings            a comparison told: summary, NDJSON, CSV
    shell               settings, console, event loop and exit code of any verb
    by_hand             what `ns` may tell a person that a log may not
    ui                  the terminal: colour, progress, errors

Each imports only those below it. Nothing here decides anything about an object.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Be the `s3nsync` command; imports are within, so that Ctrl-C ends it quietly from the first moment."""
    try:
        from s3nsync.cli.commands import app  # noqa: PLC0415 - see above
    except KeyboardInterrupt:
        sys.exit(130)
    app()
