"""The command line, one for both names it goes by: `s3nsync emulate` and `python -m s3nsync.emulator`.

Once it listens, one ready line goes to standard output, and for people a second one that shows how to point
`s3nsync ns` at it; with `--json` the ready line is one JSON object, and so is the reason why it does not start. The key
is never printed: only the name of the variable that holds it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from shlex import quote
from typing import NoReturn

from s3nsync.emulator.protocol import Personality
from s3nsync.emulator.serve import Options, serve
from s3nsync.emulator.server import LAST_PORT, Emulator

_HERE = frozenset({"127.0.0.1", "0.0.0.0", "::1", "::"})  # noqa: S104 -- compared with, not bound to


def main(arguments: list[str], environment: Mapping[str, str], *, program: str) -> int:
    """Run the command line called `program`; return its exit code.

    0: stopped by SIGINT or SIGTERM. 1: could not start. 2: wrong usage (argparse leaves by SystemExit with it).
    """
    parser = _parser(program, as_json="--json" in arguments)
    given = parser.parse_args(arguments)
    if given.tls_key is not None and given.tls_cert is None:
        parser.error("--tls-key needs --tls-cert")
    if given.folder is not None and given.discard:
        parser.error("--folder and --discard exclude each other")
    key = environment.get(given.key_env)
    if not key:
        hint = f"put any key you like there first: export {given.key_env}=anything"
        return _fail(f"environment variable {given.key_env} is empty", hint, 2, as_json=given.json)
    try:
        asyncio.run(serve(_options(given, key), ready=lambda emulator: _announce(emulator, given)))
    except ValueError as error:
        return _fail(str(error), f"see `{program} --help`", 2, as_json=given.json)
    except OSError as error:
        return _fail(f"the emulator cannot start: {_reason(error)}", _hint(error), 1, as_json=given.json)
    return 0


def _options(given: argparse.Namespace, key: str) -> Options:
    return Options(
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


def _announce(emulator: Emulator, given: argparse.Namespace) -> None:
    control_url = None if given.no_control else emulator.control_url
    cpcodes = given.cpcode or ["123456"]
    if given.json:
        facts = {"url": emulator.url, "control_url": control_url, "user": given.user, "cpcodes": cpcodes}
        _print(json.dumps({"type": "ready", **facts}))
        return
    control = "" if control_url is None else f", control {control_url}"
    _print(f"ready: {emulator.url} ({given.personality}){control}")
    _print(f"try:   {_access(emulator, given)} s3nsync ns ls /{cpcodes[0]}")


def _access(emulator: Emulator, given: argparse.Namespace) -> str:
    """Give the variables that point `s3nsync ns` here, as a shell takes them."""
    host = "localhost" if given.host in _HERE else given.host
    trust = "NS_INSECURE_HTTP=1" if given.tls_cert is None else f"NS_CA_FILE={quote(str(given.tls_cert))}"
    return f'NS_HOSTNAME={host}:{emulator.port} NS_USER={quote(given.user)} NS_KEY="${given.key_env}" {trust}'


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _fail(what: str, hint: str, code: int, *, as_json: bool) -> int:
    """Say why it does not run, in the form all of the project's commands have; return the exit code."""
    if as_json:
        _print(json.dumps({"type": "error", "message": what, "hint": hint, "exit_code": code}))
    else:
        sys.stderr.write(f"error: {what}\n  hint: {hint}\n")
    return code


def _reason(error: OSError) -> str:
    what = error.strerror or str(error)
    return what if error.filename is None else f"{error.filename}: {what}"


def _hint(error: OSError) -> str:
    if error.filename is not None:
        return "check the path that was given"
    return "give another port or host; port 0 picks a free one"


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= LAST_PORT):
        raise argparse.ArgumentTypeError(f"{text} is no port: 0 to {LAST_PORT}, 0 picks a free one")
    return int(text)


def _cpcode(text: str) -> str:
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text} is no CP code: digits only")
    return text


class _Parser(argparse.ArgumentParser):
    """A parser that complains in the form that was asked for."""

    as_json = False

    def error(self, message: str) -> NoReturn:
        """Say what is wrong about the usage, and leave with 2."""
        if self.as_json:
            raise SystemExit(_fail(message, f"see `{self.prog} --help`", 2, as_json=True))
        super().error(message)


def _parser(program: str, *, as_json: bool = False) -> argparse.ArgumentParser:
    parser = _Parser(
        prog=program,
        usage="%(prog)s [options]",
        description="A NetStorage on this machine, for tests and demonstrations: see docs/emulator.md.",
    )
    parser.as_json = as_json
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    add("--port", type=_port, default=0, help="port; 0 picks a free one (default)")
    add("--control-port", type=_port, default=0, help="port of the control API; 0 picks a free one (default)")
    add("--no-control", action="store_true", help="leave the control API off")
    add("--user", default="user", help="upload account (default: %(default)s)")
    add("--key-env", default="NS_KEY", metavar="NAME", help="environment variable with its key (default: %(default)s)")
    add("--cpcode", type=_cpcode, action="append", help="CP code to serve, may be repeated (default: 123456)")
    add(
        "--personality",
        choices=[str(member) for member in Personality],
        default=str(Personality.OBJECTSTORE),
        help="which generation of NetStorage to be (default: %(default)s)",
    )
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
