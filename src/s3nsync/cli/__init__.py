"""The command line: every verb of `s3nsync`, what it prints, and how it ends.

    commands                    the verbs that run the worker and look after it, and the list of all
    sync, verify, failed, ns    the verbs with a file of their own
    over_routes                 what `sync` and `verify` share: the routes asked for, both sides of each, progress
    findings                    a comparison told: summary, NDJSON, CSV
    shell                       settings, event loop and exit code of any verb
    options                     the options that several verbs have
    by_hand                     what `ns` may tell a person that a log may not
    ui                          the terminal: results, progress, questions, errors
    interrupts                  Ctrl-C

Each imports only those below it. Nothing here decides anything about an object.
"""

from __future__ import annotations

import os


def main() -> None:
    """Be the `s3nsync` command; what takes time is imported within, where Ctrl-C is already provided for."""
    try:
        from s3nsync.cli import interrupts  # noqa: PLC0415 - see above

        interrupts.mute()
    except KeyboardInterrupt:
        os._exit(130)
    from s3nsync.cli.commands import start  # noqa: PLC0415 - see above

    start()
