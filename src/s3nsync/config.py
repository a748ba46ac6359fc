"""Settings: one frozen tree, read once, from one TOML file and the environment.

`load` is the only function in the product that reads a configuration file or takes the environment; everything else is
given the tree or a part of it. Three sources, the later wins:

    1  what the platform says about itself: AWS_REGION, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL, AWS_CA_BUNDLE
    2  the TOML file: the path given, else S3NSYNC_CONFIG, else ./s3nsync.toml if there is one
    3  our own variables: S3NSYNC_<SECTION>_<NAME>, and the short names QUEUE_URL, REGION, NS_SECRET, BUCKET, CPCODE

A variable that is set but empty counts as unset, because templates write them so. Loading goes in three steps: merge
the sources into one raw table while noting where each value came from; let pydantic check the table; say all mistakes
at once in one ConfigError, each with its place, its value (never one that may be secret) and what is allowed.

`describe` gives the same tree as data; docs/configuration.md is made from it, so page and code cannot differ.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Literal, Self, get_args, get_origin
from urllib.parse import urlsplit

import annotated_types
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from s3nsync.errors import ConfigError
from s3nsync.mapping import check_routes, route_from_mapping, routes_from_json
from s3nsync.model import Route

MIB = 1024 * 1024

DEFAULT_FILE = Path("s3nsync.toml")

OTHER_VARIABLES: Mapping[str, str] = {
    "S3NSYNC_CONFIG": "path of the TOML file",
    "S3NSYNC_ROUTES": "all routes as a JSON list, worded as in `[[routes]]` and in the Terraform variable `routes`",
    "S3NSYNC_DEBUG": "1 shows tracebacks with errors",
    "S3NSYNC_FAILURE_QUEUE_URL": "read by the Lambda only",
    "S3NSYNC_INTEROP": "read by the test suite only",
    "BUCKET": "with CPCODE: one route, the whole bucket into the root of the CP code",
    "CPCODE": "see BUCKET",
    "NS_SECRET": "account `default` as JSON: NS_HOSTNAME, NS_USER and NS_KEY",
    "NS_SECRET_<NAME>": "account `<name>` (in lower case), in the same form",
}
"""Variables that are not one setting each; the generated page lists them beside the settings."""

_SECRET_PARTS = {"NS_HOSTNAME": "host", "NS_USER": "user", "NS_KEY": "key"}
_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_FROZEN = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


# --- what a value may be ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Env:
    """The environment names of a setting: `names` beat the file, `ambient` ones only fill in what nobody set."""

    names: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


def _not_bool(value: object) -> object:
    """Refuse true and false where a number is meant: Python would take them for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic collects ValueError only
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL that begins with https:// (or http://)")
    if parts.username or parts.password:
        raise ValueError("must not hold a user name or password")
    return value


def _queue_url(value: str) -> str:
    if not _url(value).endswith(".fifo"):
        raise ValueError("must be the URL of a FIFO queue (its name ends in .fifo); standard queues are not supported")
    return value


def _host(value: str) -> str:
    if "://" in value or "/" in value:
        raise ValueError("must be a bare host name, such as example-nsu.akamaihd.net (a :port may follow)")
    if not _HOST.fullmatch(value):
        raise ValueError("must be a host name, such as example-nsu.akamaihd.net (a :port may follow)")
    return value


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


Whole = Annotated[int, BeforeValidator(_not_bool)]
Seconds = Annotated[float, BeforeValidator(_not_bool)]
Url = Annotated[str, AfterValidator(_url)]
QueueUrl = Annotated[str, AfterValidator(_queue_url)]
Host = Annotated[str, AfterValidator(_host)]
Text = Annotated[str, Field(min_length=1)]


# --- the tree --------------------------------------------------------------------------------------------------


class QueueSettings(BaseModel):
    """The SQS FIFO queues, by URL."""

    model_config = _FROZEN

    live: Annotated[QueueUrl, Env(("S3NSYNC_LIVE_QUEUE_URL", "QUEUE_URL"))] = Field(
        description="The queue that the Lambda fills with the bucket's own events.",
    )
    check: Annotated[QueueUrl, Env(("S3NSYNC_CHECK_QUEUE_URL",))] = Field(
        description="Where the worker leaves itself a second look at a key whose upload or delete may still land late."
        " Its delivery delay must be grace_s. Without it a stale object could stay, so it is required.",
    )
    dead: Annotated[QueueUrl, Env(("S3NSYNC_DEAD_QUEUE_URL",))] = Field(
        description="Where changes go that will never work, with the reason. Without it they would have to be dropped"
        " or tried for ever, so it is required.",
    )
    bulk: Annotated[QueueUrl | None, Env(("S3NSYNC_BULK_QUEUE_URL",))] = Field(
        default=None,
        description="Backfill, repair and retried entries: served only in slots that live events leave free. Needed by"
        " the commands that enqueue (sync, verify --repair, failed retry).",
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        urls = [url for url in (self.live, self.check, self.dead, self.bulk) if url]
        if len(set(urls)) < len(urls):
            raise ValueError("live, check, dead and bulk must be different queues")
        return self


class AccountSettings(BaseModel):
    """One NetStorage upload account: host, user and key given here, or all three in one AWS secret."""

    model_config = _FROZEN

    host: Annotated[Host | None, Env()] = Field(
        default=None, description="The storage group's API host, such as example-nsu.akamaihd.net; a :port may follow."
    )
    user: Annotated[Text | None, Env()] = Field(default=None, description="The upload account's name.")
    key: Annotated[SecretStr | None, Env()] = Field(
        default=None, description="The upload account's HTTP API key. Better kept out of files: see secret_arn."
    )
    secret_arn: Annotated[Text | None, Env()] = Field(
        default=None,
        description="A Secrets Manager secret (ARN or name) that holds NS_HOSTNAME, NS_USER and NS_KEY as JSON; read at"
        " start-up, in place of host, user and key.",
    )
    ca_file: Annotated[Text | None, Env()] = Field(
        default=None, description="A PEM file of certificate authorities to trust instead of the system's."
    )
    insecure_http: Annotated[bool, Env()] = Field(
        default=False, description="Speak plain HTTP. Loopback hosts only: for the emulator and tests."
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        given = [name for name in ("host", "user", "key") if getattr(self, name) is not None]
        missing = [name for name in ("host", "user", "key") if name not in given]
        if self.secret_arn is not None and given:
            raise ValueError(f"has secret_arn and {', '.join(given)}: give one or the other")
        if self.secret_arn is None and missing:
            raise ValueError(f"lacks {', '.join(missing)} (or secret_arn in place of host, user and key)")
        if self.insecure_http and self.host is not None and not _is_loopback(self.host):
            raise ValueError("insecure_http is for loopback hosts only, and host is none")
        return self

    def with_secret(self, text: str) -> AccountSettings:
        """Give the account with host, user and key from the secret's text; ConfigError never quotes it."""
        parts = parse_secret(text, where=self.secret_arn or "secret")
        kept = {"ca_file": self.ca_file, "insecure_http": self.insecure_http}
        try:
            return AccountSettings.model_validate({**parts, **kept})
        except ValidationError as error:
            raise _config_error([f"{self.secret_arn}: {_says(each)}" for each in error.errors()]) from None


class WorkerSettings(BaseModel):
    """How much the worker does at once, and how long it holds on."""

    model_config = _FROZEN

    max_in_flight: Annotated[Whole, Field(ge=1, le=1024)] = Field(
        default=64,
        description="Changes worked on at once. 64 keeps one core busy with small objects; the limiter goes below it by"
        " itself when NetStorage throttles.",
    )
    lease_s: Annotated[Whole, Field(ge=1, le=43_200)] = Field(
        default=300,
        description="How long a received message is ours before it must be extended; the queues' visibility time-out."
        " Must be more than grace_s. SQS allows 12 hours at most.",
    )
    grace_s: Annotated[Whole, Field(ge=0, le=900)] = Field(
        default=180,
        description="After this long nothing that was sent earlier can still land on NetStorage: 60 s of signature"
        " window, 60 s of server idle time-out, 60 s of slack. The check queue's delay must equal it (SQS allows 900 at"
        " most). Less is safe against the emulator only.",
    )
    drain_s: Annotated[Whole, Field(ge=1, le=115)] = Field(
        default=110,
        description="After SIGTERM, how long work in hand may take to finish. ECS kills after 120 s at most, and giving"
        " messages back takes a few of them.",
    )
    memory_budget_bytes: Annotated[Whole, Field(ge=MIB)] = Field(
        default=64 * MIB,
        description="All object bytes held in memory at once, over all slots; work waits for its share.",
    )
    buffer_bytes: Annotated[Whole, Field(ge=0)] = Field(
        default=MIB,
        description="Objects up to this size are read whole before they are sent, so that a digest can be declared up"
        " front and a broken upload repeated at once. Larger ones stream. At most memory_budget_bytes.",
    )
    poll_wait_s: Annotated[Whole, Field(ge=0, le=20)] = Field(
        default=20, description="SQS long polling: 20 s is the most that SQS allows, and the cheapest."
    )
    deletes_per_minute: Annotated[Whole, Field(ge=1)] = Field(
        default=1000,
        description="The brake on live deletes: above this many in a minute a route pauses and says so, because an"
        " emptied bucket is more often an accident than a wish.",
    )
    unknown_digest: Literal["trailer", "stat"] = Field(
        default="trailer",
        description="How a large object is proven when S3 gives no usable digest: `trailer` sends its SHA-256 after the"
        " last byte, for NetStorage to check; `stat` compares NetStorage's MD5 afterwards, for storage groups that"
        " refuse trailers.",
    )
    mtime_from_metadata: bool = Field(
        default=False,
        description="Take the file time from x-amz-meta-mtime (as rclone and s3fs write it) where an object has it,"
        " instead of S3's LastModified.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        mistakes = []
        if self.lease_s <= self.grace_s:
            mistakes.append(f"lease_s ({self.lease_s}) must be more than grace_s ({self.grace_s})")
        if self.buffer_bytes > self.memory_budget_bytes:
            mistakes.append(
                f"buffer_bytes ({self.buffer_bytes}) must fit memory_budget_bytes ({self.memory_budget_bytes})"
            )
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


class AwsSettings(BaseModel):
    """Where AWS is, when it is not AWS."""

    model_config = _FROZEN

    endpoint_url: Annotated[Url | None, Env(("S3NSYNC_AWS_ENDPOINT_URL",), ambient=("AWS_ENDPOINT_URL",))] = Field(
        default=None, description="One endpoint for S3, SQS and Secrets Manager: an emulator, or a private gateway."
    )
    ca_file: Annotated[Text | None, Env(("S3NSYNC_AWS_CA_FILE",), ambient=("AWS_CA_BUNDLE",))] = Field(
        default=None, description="A PEM file of certificate authorities to trust instead of the system's."
    )


class LogSettings(BaseModel):
    """The log."""

    model_config = _FROZEN

    format: Literal["auto", "json", "console"] = Field(
        default="auto", description="`auto` is `console` on a terminal and `json` everywhere else."
    )
    level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="`info` is one line per change; `warning` only what went wrong."
    )


class MetricsSettings(BaseModel):
    """CloudWatch figures, written as log lines (embedded metric format): no agent and no API calls."""

    model_config = _FROZEN

    emf: bool = Field(default=True, description="Write the lines. They go to standard output, with the log.")
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/#:-]{1,255}$")] = Field(
        default="s3nsync", description="The CloudWatch namespace. CloudWatch allows letters, digits and . _ / # : -"
    )
    flush_s: Annotated[Seconds, Field(gt=0, le=300)] = Field(
        default=60.0,
        description="Seconds between two lines. CloudWatch keeps minutes: more often only costs log volume.",
    )


class Settings(BaseModel):
    """Everything that can be set; secrets are masked in every rendering."""

    model_config = ConfigDict(**_FROZEN, arbitrary_types_allowed=True)

    region: Annotated[Text, Env(("S3NSYNC_REGION", "REGION"), ambient=("AWS_REGION", "AWS_DEFAULT_REGION"))] = Field(
        description="The AWS region of buckets and queues, such as eu-central-1."
    )
    queues: QueueSettings
    accounts: Mapping[str, AccountSettings]
    routes: tuple[Route, ...]
    worker: WorkerSettings
    aws: AwsSettings
    log: LogSettings
    metrics: MetricsSettings

    def secrets(self) -> tuple[str, ...]:
        """Give every secret value in the tree, for redaction."""
        return tuple(account.key.get_secret_value() for account in self.accounts.values() if account.key)

    def masked(self) -> dict[str, object]:
        """Give the tree as JSON-able data, secrets masked: what `s3nsync config` shows."""
        return self.model_dump(mode="json")


# --- loading ---------------------------------------------------------------------------------------------------


def load(path: Path | None, env: Mapping[str, str]) -> Settings:
    """Read file and environment into Settings; raises one ConfigError that names every mistake.

    `path` is the `--config` option; `env` is normally `os.environ`.
    """
    env = {name: value for name, value in env.items() if value.strip()}
    draft = _Draft()
    draft.read_file(path, env)
    draft.read_env(env)
    routes = draft.take_routes(env)
    return draft.settle(routes)


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


class _Draft:
    """The raw table while it is put together, where each value came from, and the mistakes found so far."""

    def __init__(self) -> None:
        self.table: dict[str, object] = {}
        self.origin: dict[tuple[str, ...], str] = {}
        self.file = ""
        self.mistakes: list[str] = []

    def read_file(self, path: Path | None, env: Mapping[str, str]) -> None:
        """Take the TOML file, if one is named or lies in the working directory."""
        chosen = path or (Path(env["S3NSYNC_CONFIG"]) if "S3NSYNC_CONFIG" in env else None)
        if chosen is None and not DEFAULT_FILE.is_file():
            return
        chosen = chosen or DEFAULT_FILE
        self.file = str(chosen)
        self.table = _read_toml(chosen)

    def read_env(self, env: Mapping[str, str]) -> None:
        """Lay the environment over the file."""
        self._refuse_unknown_names(env)
        for leaf in _leaves():
            own = [name for name in leaf.env.names if name in env]
            if len({env[name] for name in own}) > 1:
                self.mistakes.append(f"{' and '.join(own)}: say different things; set one of them")
            ambient = [] if self._get(leaf.path) is not None else [name for name in leaf.env.ambient if name in env]
            for name in (own or ambient)[:1]:
                self._put(leaf.path, env[name], f"environment variable {name}")
        for name, text in env.items():
            if name == "NS_SECRET" or name.startswith("NS_SECRET_"):
                self._read_account(name, text)

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
            self.mistakes.append(error.message)
            return ()

    def settle(self, routes: tuple[Route, ...]) -> Settings:
        """Check everything and give the tree; raises ConfigError with all mistakes."""
        for section in _sections():
            self.table.setdefault(section, {})
        self._check_accounts(routes)
        try:
            settings = Settings.model_validate({**self.table, "routes": routes})
        except ValidationError as error:
            self.mistakes += [self._sentence(each) for each in error.errors()]
        if self.mistakes:
            raise _config_error(self.mistakes)
        return settings

    def _refuse_unknown_names(self, env: Mapping[str, str]) -> None:
        known = [name for leaf in _leaves() for name in leaf.env.names] + list(OTHER_VARIABLES)
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
            parts = {"host": "unknown.invalid", "user": "unknown", "key": "unknown"}
        before = self._get(("accounts", name))
        kept = {k: v for k, v in before.items() if k != "secret_arn"} if isinstance(before, dict) else {}
        self._put(("accounts", name), {**kept, **parts}, f"environment variable {variable}")

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
        leaf = next((leaf for leaf in _leaves() if leaf.matches(path)), None)
        if error["type"] == "missing":
            return f"{'.'.join(path)}: is required; {_how_to_set(leaf)}"
        if error["type"] == "extra_forbidden":
            known = _known_names(path[:-1])
            return f"{'.'.join(path)}{self._from(path)}: there is no such setting{_nearest(path[-1], known)}"
        shown = f" = {_shown(error['input'])}" if leaf and leaf.may_be_shown else ""
        return f"{'.'.join(path)}{shown}{self._from(path)}: {_says(error)}"

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
        routes = (route_from_mapping({"bucket": env["BUCKET"], "cpcode": env["CPCODE"]}, place),)
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


def _config_error(mistakes: list[str]) -> ConfigError:
    lines = [line for mistake in mistakes for line in mistake.splitlines()]
    if len(lines) == 1:
        return ConfigError(lines[0])
    return ConfigError("\n".join([f"{len(lines)} settings cannot be used:", *(f"  {line}" for line in lines)]))


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


def _how_to_set(leaf: _Leaf | None) -> str:
    names = " or ".join(leaf.env.names) if leaf else ""
    return f"set it in the file, or by the environment variable {names}" if names else "set it in the file"


# --- the tree as data ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One line of docs/configuration.md; `default` is empty where the setting is required."""

    name: str
    env: tuple[str, ...]
    type: str
    default: str
    allowed: str
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Leaf:
    path: tuple[str, ...]
    field: FieldInfo
    env: Env

    @property
    def may_be_shown(self) -> bool:
        """Tell whether a wrong value may be quoted: not within an account, where people paste the key anywhere."""
        return self.path[0] != "accounts"

    def matches(self, path: tuple[str, ...]) -> bool:
        """Tell whether `path` is this leaf; `*` stands for any account's name."""
        return len(path) == len(self.path) and all(
            mine in ("*", part) for mine, part in zip(self.path, path, strict=True)
        )


def describe() -> tuple[Setting, ...]:
    """Give every setting with its names, type, default, bounds and reason, in the tree's order."""
    return tuple(
        Setting(
            name=".".join("<name>" if part == "*" else part for part in leaf.path),
            env=leaf.env.names + leaf.env.ambient,
            type=_type_name(leaf.field.annotation),
            default="" if leaf.field.is_required() else json.dumps(leaf.field.default),
            allowed=_allowed(leaf.field),
            reason=leaf.field.description or "",
        )
        for leaf in _leaves()
    )


def _leaves(model: type[BaseModel] = Settings, at: tuple[str, ...] = ()) -> Iterator[_Leaf]:
    for name, field in model.model_fields.items():
        path = (*at, name)
        below = _model_in(field.annotation)
        if below is not None:
            yield from _leaves(below, (*path, "*") if get_origin(field.annotation) else path)
        elif name != "routes":
            given = next((each for each in field.metadata if isinstance(each, Env)), None)
            yield _Leaf(path, field, given or Env((f"S3NSYNC_{'_'.join(path).upper()}",)))


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Give the section that an annotation stands for: itself, or the value type of a mapping."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def _sections() -> list[str]:
    return [name for name, field in Settings.model_fields.items() if _model_in(field.annotation)]


def _known_names(path: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for part in path:
        field = model.model_fields.get(part)
        model = (_model_in(field.annotation) if field else None) or model
    return list(model.model_fields)


def _type_name(annotation: object) -> str:
    kinds = [each for each in (get_args(annotation) or (annotation,)) if each is not type(None)]
    if get_origin(annotation) is Literal:
        return "text"
    names = {int: "whole number", float: "number", bool: "true or false", SecretStr: "secret text"}
    kind = kinds[0]
    return names.get(kind, "text") if isinstance(kind, type) else "text"


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(str(each) for each in get_args(field.annotation))
    words = []
    for bound in field.metadata:
        match bound:
            case annotated_types.Ge(ge=limit):
                words.append(f"at least {limit}")
            case annotated_types.Gt(gt=limit):
                words.append(f"more than {limit}")
            case annotated_types.Le(le=limit):
                words.append(f"at most {limit}")
    return ", ".join(words)
