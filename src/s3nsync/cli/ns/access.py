"""Which upload account a verb of `ns` acts for, how it runs, and how it tells of what NetStorage holds.

Who we are comes from the same settings as everywhere, file or environment. But nobody needs settings for this: what the
NS_ variables say wholly is enough, and wins.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import typer

from s3nsync.app import resolve
from s3nsync.cli.by_hand import advise, check_path
from s3nsync.cli.shell import finish, new_ui, run_async, settings_of
from s3nsync.cli.ui import Ui
from s3nsync.config import settings_file
from s3nsync.errors import ConfigError, S3nsyncError
from s3nsync.figures import printable
from s3nsync.http import Proxies
from s3nsync.netstorage import Entry, NetStorage, open_netstorage
from s3nsync.settings import Settings

NAMES = ("NS_HOSTNAME", "NS_USER", "NS_KEY")


@dataclass(frozen=True, slots=True)
class Access:
    """Where NetStorage is, who we are there, and by which proxy to go."""

    hostname: str
    user: str
    key: str = field(repr=False)
    ca_file: str | None = None
    insecure_http: bool = False
    proxies: Proxies = field(default_factory=Proxies)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Access:
        """Read the NS_ variables; ConfigError names all that are missing, or said twice in different ways."""
        known = _known(environment)
        missing = [name for name in NAMES if name not in known]
        if missing:
            hint = "set all three, or NS_SECRET to JSON with them; or name a settings file with an account: --config"
            raise ConfigError(f"no credentials for NetStorage: {', '.join(missing)} not set", hint=hint)
        hostname, user, key = (known[name] for name in NAMES)
        proxies = Proxies.from_environment(environment)
        return cls(hostname, user, key, known.get("NS_CA_FILE"), known.get("NS_INSECURE_HTTP") == "1", proxies)


def _known(environment: Mapping[str, str]) -> dict[str, str]:
    """Give what the NS_ variables say, those in NS_SECRET included."""
    secret = _secret(environment.get("NS_SECRET", ""))
    single = {name: value for name, value in environment.items() if value}
    if different := [n for n, v in secret.items() if n.startswith("NS_") and single.get(n, v) != v]:
        msg = f"NS_SECRET and {', '.join(different)}: say different things"
        raise ConfigError(msg, hint="keep one or the other: unset NS_SECRET, or the single names")
    return secret | single


def _secret(text: str) -> dict[str, str]:
    """Read NS_SECRET; nothing of it is ever quoted in an error."""
    if not text:
        return {}
    try:
        fields: object = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
        raise ConfigError(
            "NS_SECRET is not a JSON object of strings", hint='{"NS_HOSTNAME": …, "NS_USER": …, "NS_KEY": …}'
        )
    return fields


async def access_for(path: str, account: str, config: Path | None, environment: Mapping[str, str]) -> Access:
    """Find out who we are: as `account` of the settings if one is named, else by NS_ variables, else by the settings.

    Raises ConfigError if nobody says it, or if the settings have several accounts and none for the CP code of `path`.
    """
    has_settings = settings_file(config, environment) is not None or bool(environment.get("S3NSYNC_SECRET_ARN"))
    if not account and (not has_settings or all(name in _known(environment) for name in NAMES)):
        return Access.from_environment(environment)
    settings = settings_of(config, queues=False)
    name = account_name(settings, path, account)
    whole = await resolve(settings.model_copy(update={"accounts": {name: settings.accounts[name]}}))
    return _access(whole, name)


def account_name(settings: Settings, path: str, asked: str) -> str:
    """Choose an account: the one that is asked for, else that of the routes to this CP code, else the only one."""
    names = sorted(settings.accounts)
    if asked:
        if asked not in names:
            raise ConfigError(f"there is no account {asked!r}", hint=f"the settings have {', '.join(names)}")
        return asked
    cpcode = path.split("/")[1]
    of_routes = {route.account for route in settings.routes if route.cpcode == cpcode}
    candidates = sorted(of_routes) or names
    if len(candidates) > 1:
        msg = f"several accounts may be meant for CP code {cpcode}: {', '.join(candidates)}"
        raise ConfigError(msg, hint="say which: --account NAME")
    return candidates[0]


def _access(settings: Settings, name: str) -> Access:
    account, proxy = settings.accounts[name], settings.proxy
    assert account.host is not None
    assert account.user is not None
    assert account.key is not None
    https, http = (each.get_secret_value() if each else None for each in (proxy.https, proxy.http))
    proxies = Proxies.parse(https, http, proxy.direct)
    key = account.key.get_secret_value()
    return Access(account.host, account.user, key, account.ca_file, account.insecure_http, proxies)


# --- running a verb --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """What the options of every verb say."""

    account: str
    config: Path | None
    as_json: bool


def act(work: Callable[[NetStorage, Ui], Awaitable[None]], paths: Sequence[str], asked: Asked) -> None:
    """Run one verb on NetStorage paths, and leave with its exit code."""
    ui = new_ui(as_json=asked.as_json)

    async def main() -> None:
        for path in paths:
            check_path(path)
        access = await access_for(paths[0], asked.account, asked.config, os.environ)
        async with open_netstorage(
            access.hostname,
            access.user,
            access.key,
            ca_file=access.ca_file,
            insecure_http=access.insecure_http,
            proxies=access.proxies,
        ) as netstorage:
            try:
                await work(netstorage, ui)
            except S3nsyncError as error:
                advise(error)
                raise

    finish(ui, lambda: run_async(main()))


# --- telling ---------------------------------------------------------------------------------------------------


def print_json(**fields: str | int | bool | None) -> None:
    """Print what is known as one line of JSON."""
    typer.echo(json.dumps({name: value for name, value in fields.items() if value is not None}))


def print_entry_json(entry: Entry) -> None:
    """Print an entry of NetStorage's as one line of JSON."""
    print_json(
        path=entry.path,
        type=entry.type,
        size_bytes=entry.size_bytes,
        md5=entry.md5,
        mtime_s=entry.mtime_s,
        target=entry.target,
        implicit=entry.implicit or None,
        files=entry.files,
        total_bytes=entry.total_bytes,
    )


def label(entry: Entry) -> str:
    """Name an entry the way `ls -F` does."""
    suffix = "/" if entry.type == "dir" else f" -> {entry.target}" if entry.type == "symlink" else ""
    return printable(entry.name + suffix)
