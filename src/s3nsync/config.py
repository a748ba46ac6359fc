"""Loading the settings: one TOML file and the environment, read once, every mistake reported at once.

`load` is the only function in the product that reads a configuration file or takes the environment; everything else is
given the tree (`s3nsync.settings`) or a part of it. Three sources, the later wins:

    1  what the platform says about itself: AWS_REGION, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL, AWS_CA_BUNDLE
    2  the TOML file: the path given, else S3NSYNC_CONFIG, else ./s3nsync.toml if there is one
    3  our own variables: S3NSYNC_<SECTION>_<NAME>, and the short names QUEUE_URL, REGION, NS_SECRET, BUCKET, CPCODE;
       of accounts besides `default`: NS_SECRET_<ACCOUNT>, NS_MAX_IN_FLIGHT_<ACCOUNT> and so on

A variable that is set but empty counts as unset, because templates write them so. Loading goes in three steps: merge
the sources into one raw table while noting where each value came from; let pydantic check the table; say all mistakes
in one ConfigError, each with its place, its value (never one that may be secret) and what is allowed.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from s3nsync.errors import ConfigError
from s3nsync.mapping import check_routes, route_from_mapping, routes_from_json
from s3nsync.model import Route
from s3nsync.settings import OTHER_VARIABLES, AccountSettings, Leaf, Settings, known_names, leaves, sections

DEFAULT_FILE = Path("s3nsync.toml")

_SECRET_PARTS = {"NS_HOSTNAME": "host", "NS_USER": "user", "NS_KEY": "key"}


def load(path: Path | None, env: Mapping[str, str], *, accounts: bool = True, queues: bool = True) -> Settings:
    """Read file and environment into Settings; raises one ConfigError that names every mistake.

    `path` is the `--config` option; `env` is normally `os.environ`. Without `accounts`, for what never speaks to
    NetStorage, the tree has none: whatever is said of them is passed over. Without `queues`, for what can do before
    they are made, none need be named; if one is, all must be right.
    """
    env = {name: value for name, value in env.items() if value.strip() and (accounts or not name.startswith("NS_"))}
    draft = _Draft(accounts=accounts, queues=queues)
    draft.read_file(path, env)
    draft.read_env(env)
    routes = draft.take_routes(env)
    return draft.settle(routes)


def settings_file(path: Path | None, env: Mapping[str, str]) -> Path | None:
    """Give the TOML file that `load` reads: the one named, or the one in the working directory, or None."""
    if path is not None or env.get("S3NSYNC_CONFIG", "").strip():
        return path or Path(env["S3NSYNC_CONFIG"])
    return DEFAULT_FILE if DEFAULT_FILE.is_file() else None


def parse_secret(text: str, *, where: str) -> dict[str, str]:
    """Give host, user and key from a secret's JSON text; raises ConfigError that names `where` and the missing parts.

    The text is never quoted: half of it may be the key.
    """
    try:
        data = json.loads(text)
    except ValueError:
        data = None
    if not isinstance(data, dict):
        raise _config_error([f"{where}: must be a JSON object with NS_HOSTNAME, NS_USER and NS_KEY"])
    missing = [part for part in _SECRET_PARTS if not (isinstance(data.get(part), str) and data[part].strip())]
    if missing:
        raise _config_error([f"{where}: lacks {', '.join(missing)} (a JSON object with NS_HOSTNAME, NS_USER, NS_KEY)"])
    return {name: data[part].strip() for part, name in _SECRET_PARTS.items()}


def with_secret(account: AccountSettings, text: str) -> AccountSettings:
    """Give the account with host, user and key from the text of its secret; raises ConfigError, never quoting it."""
    where = account.secret_arn or "secret"
    parts = parse_secret(text, where=where)
    kept = account.model_dump(exclude={"secret_arn", *_SECRET_PARTS.values()})
    try:
        return AccountSettings.model_validate({**parts, **kept})
    except ValidationError as error:
        raise _config_error([f"{where}: {_dotted(each['loc'])}: {_says(each)}" for each in error.errors()]) from None


class _Draft:
    """The raw table while it is put together, where each value came from, and the mistakes found so far."""

    def __init__(self, *, accounts: bool, queues: bool) -> None:
        self.accounts = accounts
        self.queues = queues
        self.table: dict[str, object] = {}
        self.origin: dict[tuple[str, ...], str] = {}
        self.file = ""
        self.mistakes: list[str] = []

    def read_file(self, path: Path | None, env: Mapping[str, str]) -> None:
        """Take the TOML file, if one is named or lies in the working directory."""
        chosen = settings_file(path, env)
        if chosen is None:
            return
        self.file = str(chosen)
        self.table = _read_toml(chosen)

    def read_env(self, env: Mapping[str, str]) -> None:
        """Lay the environment over the file."""
        self._refuse_unknown_names(env)
        for leaf in leaves():
            own = [name for name in leaf.env.names if name in env]
            if len({env[name] for name in own}) > 1:
                self.mistakes.append(f"{' and '.join(own)}: say different things; set one of them")
            path = tuple("default" if part == "*" else part for part in leaf.path)
            ambient = [] if self._get(path) is not None else [name for name in leaf.env.ambient if name in env]
            for name in (own or ambient)[:1]:
                self._put(path, env[name], f"environment variable {name}")
        for name, text in env.items():
            if name == "NS_SECRET" or name.startswith("NS_SECRET_"):
                self._read_account(name, text)
        for leaf in leaves():
            for name in leaf.env.names if leaf.env.suffixed else ():
                self._read_suffixed(name, leaf.path[-1], env)
        for part in _SECRET_PARTS:
            if "NS_SECRET" in env and part in env:
                self.mistakes.append(f"NS_SECRET and {part}: are both set; keep one or the other")

    def take_routes(self, env: Mapping[str, str]) -> tuple[Route, ...]:
        """Take the routes out of the table or the environment; they must be said in one place only."""
        said = {
            "S3NSYNC_ROUTES": "S3NSYNC_ROUTES" in env,
            "BUCKET and CPCODE": "BUCKET" in env and "CPCODE" in env,
            "[[routes]]": "routes" in self.table,
        }
        places = [place for place, is_said in said.items() if is_said]
        raw = self.table.pop("routes", None)
        if len(places) != 1:
            self.mistakes.append(f"routes: given by {' and by '.join(places)}; keep one" if places else _no_routes(env))
            return ()
        try:
            return _routes(places[0], raw, env)
        except ConfigError as error:
            origin = self.file if places[0] == "[[routes]]" else f"environment, {places[0]}"
            self.mistakes += [f"{origin}: {line}" for line in error.message.splitlines()]
            return ()

    def settle(self, routes: tuple[Route, ...]) -> Settings:
        """Check everything and give the tree; raises ConfigError with all mistakes."""
        for section in sections():
            self.table.setdefault(section, {})
        if not (self.queues or self.table["queues"]):
            self.table["queues"] = None
        if self.accounts:
            self._check_accounts(routes)
        else:
            self.table["accounts"] = {}
        try:
            settings = Settings.model_validate({**self.table, "routes": routes})
        except ValidationError as error:
            self.mistakes += [self._sentence(each) for each in error.errors()]
        if self.mistakes:
            raise _config_error(self.mistakes, is_first=self._says_nothing(routes))
        return settings

    def _says_nothing(self, routes: tuple[Route, ...]) -> bool:
        """Tell whether nobody has set anything yet, whatever the platform says about itself."""
        ambient = {"region", "aws", "proxy"}
        others = [each for each in self.mistakes if ": is required;" not in each and ": there is none;" not in each]
        return not (self.file or routes or others or any(path[0] not in ambient for path in self.origin))

    def _refuse_unknown_names(self, env: Mapping[str, str]) -> None:
        known = [name for leaf in leaves() for name in leaf.env.names] + list(OTHER_VARIABLES)
        for name in env:
            if name.startswith("S3NSYNC_") and name not in known:
                self.mistakes.append(f"environment variable {name}: there is no such setting{_nearest(name, known)}")

    def _read_account(self, variable: str, text: str) -> None:
        name = variable.removeprefix("NS_SECRET").removeprefix("_").lower() or "default"
        try:
            parts = parse_secret(text, where=f"environment variable {variable}")
        except ConfigError as error:
            self.mistakes.append(error.message)
            # The mistake is said; stand-ins keep the account from being reported as missing too.
            parts = dict.fromkeys(_SECRET_PARTS.values(), "unknown")
        before = self._get(("accounts", name))
        kept = {k: v for k, v in before.items() if k != "secret_arn"} if isinstance(before, dict) else {}
        self._put(("accounts", name), {**kept, **parts}, f"environment variable {variable}")

    def _read_suffixed(self, name: str, setting: str, env: Mapping[str, str]) -> None:
        """Take what the environment says of one setting of accounts that are known by now."""
        accounts = self._get(("accounts",))
        known = list(accounts) if isinstance(accounts, dict) else []
        for variable in (each for each in env if each.startswith(f"{name}_")):
            account = variable.removeprefix(f"{name}_").lower()
            if account not in known:
                self.mistakes.append(
                    f"environment variable {variable}: there is no account {account!r}{_nearest(account, known)}"
                )
                continue
            if account == "default" and env.get(name, env[variable]) != env[variable]:
                self.mistakes.append(f"{name} and {variable}: say different things; set one of them")
            self._put(("accounts", account, setting), env[variable], f"environment variable {variable}")

    def _check_accounts(self, routes: tuple[Route, ...]) -> None:
        accounts = self.table["accounts"]
        names = list(accounts) if isinstance(accounts, dict) else []
        if not names:
            self.mistakes.append("accounts: there is none; set NS_SECRET, or write [accounts.default] in the file")
            return
        for route in routes:
            if route.account not in names:
                self.mistakes.append(
                    f"route {route}: there is no account {route.account!r}{_nearest(route.account, names)}"
                )

    def _get(self, path: tuple[str, ...]) -> object:
        at: object = self.table
        for part in path:
            at = at.get(part) if isinstance(at, dict) else None
        return at

    def _put(self, path: tuple[str, ...], value: object, origin: str) -> None:
        at = self.table
        for part in path[:-1]:
            below = at.setdefault(part, {})
            if not isinstance(below, dict):
                return  # the file has a plain value where a table must be: pydantic says so
            at = below
        at[path[-1]] = value
        self.origin[path] = origin

    def _sentence(self, error: ErrorDetails) -> str:
        """Say one of pydantic's findings: place, value where it may be shown, what is allowed."""
        path = tuple(str(part) for part in error["loc"])
        leaf = next((leaf for leaf in leaves() if leaf.matches(path)), None)
        if error["type"] == "missing":
            return f"{_dotted(path)}: is required; {_how_to_set(leaf)}"
        if error["type"] == "extra_forbidden":
            known = known_names(path[:-1])
            return f"{_dotted(path)}{self._from(path)}: there is no such setting{_nearest(path[-1], known)}"
        shown = f" = {_shown(error['input'])}" if leaf and leaf.may_be_shown else ""
        return f"{_dotted(path)}{shown}{self._from(path)}: {_says(error)}"

    def _from(self, path: tuple[str, ...]) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.origin:
                return f" ({self.origin[path[:length]]})"
        return f" ({self.file})" if self.file and self._get(path) is not None else ""


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}", hint="check the path given by --config"
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})", hint="save the file as UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}", hint="mend the file at that line") from None


def _routes(place: str, raw: object, env: Mapping[str, str]) -> tuple[Route, ...]:
    if place == "S3NSYNC_ROUTES":
        routes = routes_from_json(env["S3NSYNC_ROUTES"])
    elif place == "BUCKET and CPCODE":
        routes = (route_from_mapping({"bucket": env["BUCKET"], "cpcode": env["CPCODE"]}, "routes[0]"),)
    elif isinstance(raw, list):
        routes = _routes_of_file(raw)
    else:
        raise ConfigError("routes: must be a list of tables, each headed [[routes]]")
    check_routes(routes)
    return routes


def _routes_of_file(raw: list[object]) -> tuple[Route, ...]:
    routes, mistakes = [], []
    for number, each in enumerate(raw):
        where = f"routes[{number}]"
        try:
            routes.append(route_from_mapping(each if isinstance(each, dict) else {}, where))
        except ConfigError as error:
            mistakes.append(error.message)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return tuple(routes)


def _no_routes(env: Mapping[str, str]) -> str:
    half = {"BUCKET": "CPCODE", "CPCODE": "BUCKET"}
    for given, missing in half.items():
        if given in env:
            return f"routes: {given} is set, but {missing} is not"
    return "routes: there is none; write [[routes]] in the file, or set S3NSYNC_ROUTES, or BUCKET and CPCODE"


# --- the words of mistakes -------------------------------------------------------------------------------------


def _config_error(mistakes: list[str], *, is_first: bool = False) -> ConfigError:
    """Word all mistakes as one error; `is_first` if there is nothing yet that could be wrong."""
    lines = [line for mistake in mistakes for line in mistake.splitlines()]
    if len(lines) == 1:
        return ConfigError(lines[0])
    listed = (f"  {line}" for line in lines)
    if is_first:
        return ConfigError("\n".join(["nothing is set up yet; first of all it needs", *listed]), hint=_BEGIN)
    return ConfigError("\n".join([f"{len(lines)} settings cannot be used:", *listed]))


_BEGIN = f"write {DEFAULT_FILE} here, or set the variables: docs/configuration.md has both whole, to begin with"


def _dotted(path: tuple[str | int, ...]) -> str:
    return ".".join(str(part) for part in path)


def _says(error: ErrorDetails) -> str:
    """Give pydantic's finding in our words."""
    about = error.get("ctx", {})
    match error["type"]:
        case "value_error":
            return str(about["error"])
        case "int_type" | "int_parsing" | "int_from_float":
            return "must be a whole number"
        case "float_type" | "float_parsing":
            return "must be a number"
        case "bool_type" | "bool_parsing":
            return "must be true or false"
        case "string_type" | "string_too_short":
            return "must be a text, and not empty"
        case "string_pattern_mismatch":
            return f"must match {about['pattern']}"
        case "literal_error":
            return f"must be one of {about['expected']}"
        case "model_type" | "dict_type" | "model_attributes_type":
            return "must be a table"
        case kind if bound := _BOUNDS.get(kind):
            return f"must be {bound[0]} {about[bound[1]]:g}"
    return error["msg"]


_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    if "@" in text:
        return "(not shown: it may hold a password)"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _how_to_set(leaf: Leaf | None) -> str:
    names = " or ".join(leaf.env.names) if leaf else ""
    return f"set it in the file, or by the environment variable {names}" if names else "set it in the file"
