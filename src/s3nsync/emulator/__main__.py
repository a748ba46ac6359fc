"""`python -m s3nsync.emulator`: one ready line on standard output, then serve until told to stop.

Exit codes: 0 stopped by SIGINT or SIGTERM, 1 could not start, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path

from s3nsync.emulator.protocol import Personality
from s3nsync.emulator.serve import Options, serve
from s3nsync.emulator.server import Emulator


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    key = os.environ.get(given.key_env)
    if not key:
        parser.error(f"environment variable {given.key_env} is empty: put the upload account's key there")
    if given.tls_key is not None and given.tls_cert is None:
        parser.error("--tls-key needs --tls-cert")
    if given.folder is not None and given.discard:
        parser.error("--folder and --discard exclude each other")
    options = Options(
        user=given.user,
        key=key,
        cpcodes=tuple(given.cpcode or ["123456"]),
        personality=Personality(given.personality),
        host=given.host,
        port=given.port,
        control_port=None if given.no_control else given.control_port,
        folder=given.folder,
        discard=given.discard,
        tls_cert=given.tls_cert,
        tls_key=given.tls_key,
        clock_window_s=given.clock_window,
        nonce_replay=given.refuse_replay,
        quick_delete=given.quick_delete,
        page_cap=given.page_cap,
        seed=given.seed,
    )
    return _run(options, as_json=given.json)


def _run(options: Options, *, as_json: bool) -> int:
    try:
        asyncio.run(serve(options, ready=lambda emulator: _announce(emulator, options, as_json=as_json)))
    except (OSError, ValueError) as error:
        sys.stderr.write(f"error: the emulator cannot start: {error}\n")
        return 1
    return 0


def _announce(emulator: Emulator, options: Options, *, as_json: bool) -> None:
    control_url = None if options.control_port is None else emulator.control_url
    facts = {"url": emulator.url, "control_url": control_url, "user": options.user, "cpcodes": options.cpcodes}
    control = "" if control_url is None else f", control {control_url}"
    line = json.dumps(facts) if as_json else f"ready: {emulator.url} ({options.personality}){control}"
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m s3nsync.emulator", description="A NetStorage on this machine, for tests and demonstrations."
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=int, default=0, help="port; 0 picks a free one (default)")
    add("--control-port", type=int, default=0, help="port of the control API; 0 picks a free one (default)")
    add("--no-control", action="store_true", help="leave the control API off")
    add("--user", default="user", help="upload account (default: %(default)s)")
    add("--key-env", default="NS_KEY", metavar="NAME", help="environment variable with its key (default: %(default)s)")
    add("--cpcode", action="append", help="CP code to serve, may be repeated (default: 123456)")
    add("--personality", choices=[str(member) for member in Personality], default=str(Personality.OBJECTSTORE))
    add("--folder", type=Path, help="keep bytes in files below this folder instead of in memory")
    add("--discard", action="store_true", help="keep no bytes, only sizes and digests")
    add("--tls-cert", type=Path, help="serve https with this certificate chain (PEM)")
    add("--tls-key", type=Path, help="its private key, unless it is in the same file")
    add("--clock-window", type=float, default=60, metavar="S", help="seconds a request may be off (default: 60)")
    add("--refuse-replay", action="store_true", help="refuse a signature that was used before")
    add("--quick-delete", action="store_true", help="enable quick-delete, which is off by default as on NetStorage")
    add(
        "--page-cap", type=int, default=1000, metavar="N", help="most entries in a page of dir and list (default: 1000)"
    )
    add("--seed", type=int, default=0, help="seed of all randomness (default: 0)")
    add("--json", action="store_true", help="print the ready line as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
