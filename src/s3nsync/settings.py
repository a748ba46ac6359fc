"""The settings: one frozen tree of pydantic models, each value with its bounds and its reason.

This module is data: nothing is read here. `s3nsync.config` fills the tree from file and environment and finds the words
for mistakes; docs/configuration.md is made from `describe`, so page and code cannot differ.

A setting is named by its path in the tree: `[worker] lease_s = 300` in TOML, S3NSYNC_WORKER_LEASE_S in the environment,
unless an `Env` says otherwise.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
from collections.abc import Iterator, Mapping
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
    model_validator,
)
from pydantic.fields import FieldInfo

from s3nsync.model import Route

MIB = 1024 * 1024

RANGE_BYTES = 8 * MIB
"""What one of several GETs of a large object asks for: AWS advises 8 to 16 MiB, and 8 is what its own tools upload in
parts of. At 90 MB/s it takes three times as long as S3 takes to answer."""

OTHER_VARIABLES: Mapping[str, str] = {
    "S3NSYNC_CONFIG": "path of the TOML file",
    "S3NSYNC_ROUTES": "all routes as a JSON list, worded as in `[[routes]]` and in the Terraform variable `routes`",
    "S3NSYNC_DEBUG": "1 shows tracebacks with errors",
    "S3NSYNC_FAILURE_QUEUE_URL": "read by the Lambda only",
    "S3NSYNC_INTEROP": "read by the test suite only",
    "S3NSYNC_MINISTACK": "path of the ministack program, for the commands `demo` and `dev`",
    "BUCKET": "with CPCODE: one route, the whole bucket into the root of the CP code",
    "CPCODE": "see BUCKET",
    "NS_SECRET": "account `default` as JSON: NS_HOSTNAME, NS_USER and NS_KEY",
    "NS_SECRET_<NAME>": "account `<name>` (in lower case), in the same form",
}
"""Variables that are not one setting each; the generated page lists them beside the settings."""

_HOST = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?")
_FROZEN = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True, validate_default=True)


# --- what a value may be ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Env:
    """The environment names of a setting: `names` beat the file, `ambient` ones only fill in what nobody set.

    Those of the account `default` that are `suffixed` are the account <name>'s with _<NAME> behind.
    """

    names: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()
    suffixed: bool = False


def _not_bool(value: object) -> object:
    """Refuse true and false where a number is meant: Python would take them for 1 and 0."""
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic collects ValueError only
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
    except ValueError:  # its own words quote the value
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("must be a URL that begins with https:// (or http://)")
    if "@" in parts.netloc:
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
Number = Annotated[float, BeforeValidator(_not_bool)]
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
        description="Backfill, repair and retried entries: served only in slots that live events leave free. Whoever"
        " has many keys looked at again puts them here, so that live events do not wait.",
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

    host: Annotated[Host | None, Env(("NS_HOSTNAME",))] = Field(
        default=None, description="The storage group's API host, such as example-nsu.akamaihd.net; a :port may follow."
    )
    user: Annotated[Text | None, Env(("NS_USER",))] = Field(default=None, description="The upload account's name.")
    key: Annotated[SecretStr | None, Env(("NS_KEY",))] = Field(
        default=None, description="The upload account's HTTP API key. Better kept out of files: see secret_arn."
    )
    secret_arn: Annotated[Text | None, Env(("S3NSYNC_SECRET_ARN",))] = Field(
        default=None,
        description="A Secrets Manager secret (ARN or name) that holds NS_HOSTNAME, NS_USER and NS_KEY as JSON; read at"
        " start-up, in place of host, user and key.",
    )
    ca_file: Annotated[Text | None, Env(("NS_CA_FILE",), suffixed=True)] = Field(
        default=None, description="A PEM file of certificate authorities to trust instead of the system's."
    )
    insecure_http: Annotated[bool, Env(("NS_INSECURE_HTTP",), suffixed=True)] = Field(
        default=False, description="Speak plain HTTP. Loopback hosts only: for the emulator and tests."
    )
    max_in_flight: Annotated[Whole | None, Field(ge=1, le=1024), Env(("NS_MAX_IN_FLIGHT",), suffixed=True)] = Field(
        default=None,
        description="The most keys of this account worked on at once; the worker goes below it by itself while"
        " NetStorage answers 429 or 5xx, fails, or slows down. Without it worker.max_in_flight. Several accounts"
        " share that: one that is busy alone gets some three quarters, and none can take all.",
    )
    requests_per_s: Annotated[Number | None, Field(ge=0.1), Env(("NS_REQUESTS_PER_S",), suffixed=True)] = Field(
        default=None,
        description="The most requests a second for this account, by each worker process. No limit without it.",
    )
    bytes_per_s: Annotated[Whole | None, Field(ge=65_536), Env(("NS_BYTES_PER_S",), suffixed=True)] = Field(
        default=None,
        description="The most bytes a second sent for this account, by each worker process. No limit without it. A low"
        " rate also means fewer objects at once, lest each stands still for longer than servers wait.",
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


class WorkerSettings(BaseModel):
    """How much the worker does at once, and how long it holds on."""

    model_config = _FROZEN

    max_in_flight: Annotated[Whole, Field(ge=4, le=1024)] = Field(
        default=64,
        description="Changes worked on at once. 64 keeps a core busy with small objects. At least 4, of which one is"
        " for live events alone. Lower it if NetStorage goes on answering 429.",
    )
    lease_s: Annotated[Whole, Field(ge=1, le=43_200)] = Field(
        default=300,
        description="How long a received message is ours before it must be extended; the queues' visibility time-out."
        " Must be one and a half times grace_s, and 10 s more than poll_wait_s. SQS allows 12 hours at most.",
    )
    grace_s: Annotated[Whole, Field(ge=0, le=900)] = Field(
        default=180,
        description="After this long nothing that was sent earlier can still land on NetStorage: 60 s of signature"
        " window, 60 s of server idle time-out, 60 s of slack. The check queue's delay must equal it (SQS allows 900 at"
        " most). Less is safe against the emulator only.",
    )
    drain_s: Annotated[Whole, Field(ge=1, le=105)] = Field(
        default=100,
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
    ranged_reads: Annotated[Whole, Field(ge=1, le=16)] = Field(
        default=1,
        description="How many GETs read one large object at once, for the one PUT that sends it. 1 is a plain stream:"
        " S3 gives some 85 MB/s to one connection, and few PUTs across the internet take that much. More is worth it"
        " where one does, and costs 8 MiB of memory and a request for each 8 MiB. It is taken from"
        " memory_budget_bytes, half of it at most, and only while that is to spare.",
    )
    ranged_from_bytes: Annotated[Whole, Field(ge=MIB)] = Field(
        default=64 * MIB,
        description="Objects from this size on are read so, as long as this much of them is left. Smaller ones take a"
        " single connection less than a second.",
    )
    poll_wait_s: Annotated[Whole, Field(ge=0, le=20)] = Field(
        default=20, description="SQS long polling: 20 s is the most that SQS allows, and the cheapest."
    )
    deletes_per_minute: Annotated[Whole, Field(ge=1)] = Field(
        default=1000,
        description="The brake on live deletes: above this many in a minute the route rests and says so, because an"
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
        if self.lease_s * 2 < self.grace_s * 3:
            # Leases are renewed when a third is gone; what is left then must outlast what a crashed worker had sent.
            mistakes.append(f"lease_s ({self.lease_s}) must be at least one and a half times grace_s ({self.grace_s})")
        if self.lease_s < self.poll_wait_s + 10:
            mistakes.append(f"lease_s ({self.lease_s}) must be at least 10 more than poll_wait_s ({self.poll_wait_s})")
        if self.buffer_bytes > self.memory_budget_bytes:
            mistakes.append(
                f"buffer_bytes ({self.buffer_bytes}) must fit memory_budget_bytes ({self.memory_budget_bytes})"
            )
        if self.ranged_reads > 1 and self.ranged_reads * RANGE_BYTES * 2 > self.memory_budget_bytes:
            mistakes.append(
                f"ranged_reads ({self.ranged_reads}) needs memory_budget_bytes of at least"
                f" {self.ranged_reads * RANGE_BYTES * 2}"
            )
        if mistakes:
            raise ValueError("; ".join(mistakes))
        return self


class AwsSettings(BaseModel):
    """Where AWS is, when it is not AWS."""

    model_config = _FROZEN

    endpoint_url: Annotated[Url | None, Env(("S3NSYNC_AWS_ENDPOINT_URL",), ambient=("AWS_ENDPOINT_URL",))] = Field(
        default=None, description="One endpoint for every AWS service: an emulator, or a private gateway."
    )
    s3_endpoint_url: Annotated[Url | None, Env(("S3NSYNC_AWS_S3_ENDPOINT_URL",), ambient=("AWS_ENDPOINT_URL_S3",))] = (
        Field(default=None, description="Where S3 is, if it is somewhere else than endpoint_url says.")
    )
    sqs_endpoint_url: Annotated[
        Url | None, Env(("S3NSYNC_AWS_SQS_ENDPOINT_URL",), ambient=("AWS_ENDPOINT_URL_SQS",))
    ] = Field(default=None, description="Where SQS is, if it is somewhere else than endpoint_url says.")
    ca_file: Annotated[Text | None, Env(("S3NSYNC_AWS_CA_FILE",), ambient=("AWS_CA_BUNDLE",))] = Field(
        default=None, description="A PEM file of certificate authorities to trust instead of the system's."
    )

    @property
    def s3(self) -> str | None:
        """Give the endpoint of S3, or None for AWS's own."""
        return self.s3_endpoint_url or self.endpoint_url

    @property
    def sqs(self) -> str | None:
        """Give the endpoint of SQS, or None for AWS's own."""
        return self.sqs_endpoint_url or self.endpoint_url


class ProxySettings(BaseModel):
    """The way out, where there is no direct one. Every origin is reached by CONNECT: no proxy sees a signed request."""

    model_config = _FROZEN

    https: Annotated[SecretStr | None, Env(("S3NSYNC_PROXY_HTTPS",), ambient=("https_proxy", "HTTPS_PROXY"))] = Field(
        default=None, description="The proxy for https origins: http://[user:password@]host:port."
    )
    http: Annotated[SecretStr | None, Env(("S3NSYNC_PROXY_HTTP",), ambient=("http_proxy",))] = Field(
        default=None, description="The same for plain http origins."
    )
    direct: Annotated[Text | None, Env(("S3NSYNC_PROXY_DIRECT",), ambient=("no_proxy", "NO_PROXY"))] = Field(
        default=None,
        description="Names (with their subdomains), addresses and networks to reach directly, by commas; loopback is.",
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

    emf: bool = Field(default=True, description="Write the lines: with the log, where that is JSON.")
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/#:-]{1,255}$")] = Field(
        default="s3nsync", description="The CloudWatch namespace. CloudWatch allows letters, digits and . _ / # : -"
    )
    service: Annotated[str, Field(pattern=r"^[A-Za-z0-9._/#-]{1,255}$")] = Field(
        default="s3nsync",
        description="The value of the dimension Service: one name for each deployment, lest several add up.",
    )
    flush_s: Annotated[Number, Field(gt=0, le=300)] = Field(
        default=60.0,
        description="Seconds between two lines. CloudWatch keeps minutes: more often only costs log volume.",
    )


class Settings(BaseModel):
    """Everything that can be set; secrets are masked in every rendering.

    `queues` are None only where the caller asked for that: before they are made.
    """

    model_config = _FROZEN

    region: Annotated[Text, Env(("S3NSYNC_REGION", "REGION"), ambient=("AWS_REGION", "AWS_DEFAULT_REGION"))] = Field(
        description="The AWS region of buckets and queues, such as eu-central-1."
    )
    queues: QueueSettings | None
    accounts: Mapping[str, AccountSettings]
    routes: tuple[Route, ...]
    worker: WorkerSettings
    aws: AwsSettings
    proxy: ProxySettings
    log: LogSettings
    metrics: MetricsSettings

    def secrets(self) -> tuple[str, ...]:
        """Give every secret value in the tree, for redaction."""
        found = [account.key for account in self.accounts.values()] + [self.proxy.https, self.proxy.http]
        return tuple(secret.get_secret_value() for secret in found if secret)

    def masked(self) -> dict[str, object]:
        """Give the tree as JSON-able data, secrets masked: what `s3nsync config` shows."""
        return self.model_dump(mode="json")


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
class Leaf:
    """One value's place in the tree; `*` in the path stands for any account's name."""

    path: tuple[str, ...]
    field: FieldInfo
    env: Env

    @property
    def may_be_shown(self) -> bool:
        """Tell whether a wrong value may be quoted: not where people paste keys and passwords."""
        return self.path[0] not in ("accounts", "proxy")

    def matches(self, path: tuple[str, ...]) -> bool:
        """Tell whether `path` is this leaf."""
        return len(path) == len(self.path) and all(
            mine in ("*", part) for mine, part in zip(self.path, path, strict=True)
        )


def describe() -> tuple[Setting, ...]:
    """Give every setting with its names, type, default, bounds and reason, in the tree's order."""
    return tuple(
        Setting(
            name=".".join("<name>" if part == "*" else part for part in leaf.path),
            env=(
                *leaf.env.names,
                *(f"{name}_<NAME>" for name in leaf.env.names if leaf.env.suffixed),
                *leaf.env.ambient,
            ),
            type=_type_name(leaf.field.annotation),
            default="" if leaf.field.is_required() else json.dumps(leaf.field.default),
            allowed=_allowed(leaf.field),
            reason=leaf.field.description or "",
        )
        for leaf in leaves()
    )


def leaves(model: type[BaseModel] = Settings, at: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Give every value of the tree but the routes, whose schema is `s3nsync.mapping`'s."""
    for name, field in model.model_fields.items():
        path = (*at, name)
        below = _model_in(field.annotation)
        if below is not None:
            yield from leaves(below, (*path, "*") if get_origin(field.annotation) is Mapping else path)
        elif name != "routes":
            given = next((each for each in field.metadata if isinstance(each, Env)), None)
            yield Leaf(path, field, given or Env((f"S3NSYNC_{'_'.join(path).upper()}",)))


def _model_in(annotation: object) -> type[BaseModel] | None:
    """Give the section that an annotation stands for: itself, or the value type of a mapping."""
    for each in (annotation, *get_args(annotation)):
        if isinstance(each, type) and issubclass(each, BaseModel):
            return each
    return None


def sections() -> list[str]:
    """Give the names of the tree's tables."""
    return [name for name, field in Settings.model_fields.items() if _model_in(field.annotation)]


def known_names(path: tuple[str, ...]) -> list[str]:
    """Give the names that may stand in the table at `path`."""
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
    kind = get_args(kinds[0])[0] if get_origin(kinds[0]) is Annotated else kinds[0]
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
