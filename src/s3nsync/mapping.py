"""Where a key belongs: routes as users write them, and the path that a route gives a key.

The path is `/{cpcode}/{directory}/{key minus strip_prefix}`, as text; encoding it for the request line is the HTTP
side's business. The longest prefix among a bucket's routes decides, alone: a key that its `include` and `exclude` leave
out is out of scope and does not fall to a shorter prefix, so that adding a route never moves keys by surprise.

Patterns are shell-style (`fnmatch.fnmatchcase`) and are matched against the whole key, prefix included: `*` also
crosses `/`, `?` is any one character, `[a-c]` and `[!a-c]` are sets, letters' case counts.

Keys that a path cannot hold faithfully are refused, never rewritten: two keys must not meet at one path, and no key may
climb out of its route's directory. `.` and `..` are refused because HTTP software between here and there resolves them,
empty segments because it merges them, control characters because listings (XML) and logs cannot carry them.

Routes have one schema everywhere: the configuration file, the Terraform variable and the Lambda's environment all end
in `route_from_mapping`, which tells every mistake at once.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import Final, Literal, NamedTuple, TypeVar

from s3nsync.errors import ConfigError
from s3nsync.model import ObjectRef, Route

MAX_PATH_BYTES: Final = 2048
"""Longest path, in UTF-8 bytes. NetStorage's own limit is not published. Every byte may take three on the request line,
and web servers' usual limit for that line is 8 KiB; S3 keys end at 1,024 bytes, so only long directories come near."""

MAX_SEGMENT_BYTES: Final = 255
"""Longest name between two slashes, in UTF-8 bytes. NetStorage's own limit is not published; 255 is that of the usual
file systems, and FileStore is one."""

MAX_SETTLE_S: Final = 43_200
"""The wait is spent in the queue, and SQS hides a message for at most 12 hours."""


class Placed(NamedTuple):
    """The key belongs at `path`."""

    route: Route
    path: str


@dataclass(frozen=True, slots=True)
class FolderMarker:
    """The key ends in `/`: an empty object that stands for a directory. `path` names it, without the slash."""

    route: Route
    path: str


@dataclass(frozen=True, slots=True)
class OutOfScope:
    """No route takes the key."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refused:
    """The route takes the key, but no path can hold it."""

    route: Route
    reason: str
    hint: str


Placement = Placed | FolderMarker | OutOfScope | Refused


# --- placing keys ----------------------------------------------------------------------------------------------


def place(ref: ObjectRef, routes: Iterable[Route]) -> Placement:
    """Find the key's route and its path there."""
    bucket, key = ref.bucket, ref.key
    taking, is_known = None, False
    for route in routes:  # a loop, not comprehensions: each object comes through here
        if route.bucket == bucket:
            is_known = True
            if key.startswith(route.prefix) and (taking is None or len(route.prefix) > len(taking.prefix)):
                taking = route
    if taking is None:
        return OutOfScope(
            f"no route for a prefix of this key in bucket {bucket}" if is_known else "no route for bucket"
        )
    if left_out := _left_out(key, taking):
        return OutOfScope(left_out)
    return _place_in(key, taking)


def target_directory(route: Route) -> str:
    """Give the path below which everything of the route lies, without a slash at its end."""
    return f"/{route.cpcode}/{route.directory}".rstrip("/")


def trash_path(route: Route, path: str, now_s: float) -> str:
    """Give the place in the route's trash for what lies at `path` and is deleted now (Unix seconds).

    It keeps its path below the CP code, with the time behind its name: what NetStorage does with a rename onto a name
    that is taken is not documented, so no name is used twice, and every deleted version stays. A name that would
    become too long is cut.
    """
    moment = datetime.fromtimestamp(now_s, UTC)
    suffix = f".{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}Z"
    directory, _, name = path.removeprefix(f"/{route.cpcode}/").rpartition("/")
    short = name.encode()[: MAX_SEGMENT_BYTES - len(suffix)].decode(errors="ignore")
    return "/".join(part for part in (trash_directory(route), directory, short + suffix) if part)


def trash_directory(route: Route) -> str:
    """Give the directory that the route moves deleted files to, if it does."""
    return f"/{route.cpcode}/{route.trash}"


def _left_out(key: str, route: Route) -> str | None:
    """Say why the route's patterns leave the key out."""
    for pattern in route.exclude:
        if fnmatchcase(key, pattern):
            return f"excluded by pattern {pattern}"
    if route.include and not any(fnmatchcase(key, pattern) for pattern in route.include):
        return "matches no include pattern"
    return None


def _place_in(key: str, route: Route) -> Placed | FolderMarker | Refused:
    """Build the path, or refuse."""
    below = key[len(route.strip_prefix) :]
    is_marker = key.endswith("/")
    if is_marker and not below:  # the marker of the stripped prefix itself
        return FolderMarker(route, target_directory(route))
    name = below.removesuffix("/")
    path = f"{target_directory(route)}/{name}"
    fault = _path_fault(name, path)
    if fault is not None:
        return Refused(route, *fault)
    return FolderMarker(route, path) if is_marker else Placed(route, path)


_RENAME = "rename the object in S3, or exclude it from the route"


def _path_fault(name: str, path: str) -> tuple[str, str] | None:
    """Say what is wrong with the part of the path that comes from the key, and what to do: reason and hint."""
    if not name:
        return "nothing is left of the key after strip_prefix", "end strip_prefix with a slash, or exclude the key"
    if not _PLAIN_NAME.fullmatch(name):  # each object's way goes through here: most names are known good by one look
        for segment in name.split("/"):
            if fault := _segment_fault(segment):
                return f"the key {fault}", _RENAME
    if len(path.encode()) > MAX_PATH_BYTES:
        return f"the path is longer than {MAX_PATH_BYTES} bytes", _RENAME
    return None


_UNCARRIABLE: Final = re.compile("[\x00-\x1f\x7f\ufffe\uffff]")
"""C0, DEL and the two code points that XML 1.0 bars. C1 (U+0080 to U+009F) is let through: keys that were encoded
twice are full of them, and nothing on the way minds."""
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_PLAIN_NAME: Final = re.compile(rf"(?:(?!\.\.?(?:/|\Z))[ -.0-~]{{1,{MAX_SEGMENT_BYTES}}}(?:/(?!\Z)|\Z))+")
"""Names of printable ASCII in which no part has a fault."""


def _segment_fault(segment: str) -> str | None:
    """Say what is wrong with a name between two slashes."""
    if not segment:
        return "has an empty part (`//`, or a slash at its start)"
    if segment in {".", ".."}:
        return f"has the part `{segment}`, which would be resolved on the way"
    if found := _UNCARRIABLE.search(segment):
        return f"holds the control character U+{ord(found[0]):04X}"
    if _SURROGATE.search(segment):
        return "is not Unicode text"
    if len(segment.encode()) > MAX_SEGMENT_BYTES:
        return f"has a part longer than {MAX_SEGMENT_BYTES} bytes"
    return None


# --- reading and writing routes --------------------------------------------------------------------------------


def routes_from_json(text: str, *, unknown: Literal["refuse", "ignore"] = "refuse") -> tuple[Route, ...]:
    """Read and check a JSON list of routes; raises ConfigError with every mistake in it.

    `unknown` keys are refused, as a rule: most are misspelt.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" (line {error.lineno}, column {error.colno})" if isinstance(error, json.JSONDecodeError) else ""
        raise ConfigError(f"routes: not JSON{where}", hint=_ROUTES_HINT) from None
    if not isinstance(data, list):
        raise ConfigError("routes: a JSON list is wanted", hint=_ROUTES_HINT)
    read = [_read_route(each, f"routes[{number}]", unknown) for number, each in enumerate(data)]
    _raise_for(list(itertools.chain.from_iterable(mistakes for _, mistakes in read)))
    routes = tuple(route for route, _ in read)
    check_routes(routes)
    return routes


def routes_to_json(routes: Iterable[Route]) -> str:
    """Write routes as compact ASCII JSON, defaults left out: a Lambda's whole environment holds 4 KiB."""
    return json.dumps(
        [
            {each.name: value for each in fields(Route) if (value := getattr(route, each.name)) != each.default}
            for route in routes
        ],
        separators=(",", ":"),
    )


def route_from_mapping(data: Mapping[str, object], where: str) -> Route:
    """Read one route; raises ConfigError with every mistake in it, each with its place (`where` and the key)."""
    route, mistakes = _read_route(data, where, "refuse")
    _raise_for(mistakes)
    return route


_ROUTES_HINT = 'a route is at least {"bucket": "my-bucket", "cpcode": "123456"}; docs/configuration.md has all keys'

DEFAULT_TRASH: Final[str] = Route("", "").trash

_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,254}")  # old and Ceph's names too, but no path, no ARN
_CPCODE: Final = re.compile(r"[0-9]{1,20}")
_ACCOUNT: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

Choice = TypeVar("Choice", bound=str)


class _Reader:
    """Reads one route's values and collects what is wrong with them."""

    def __init__(self, data: Mapping[str, object], where: str) -> None:
        self._data = data
        self._where = where
        self.mistakes: list[str] = []

    def mistake(self, name: str, what: str) -> None:
        """Note a mistake at a key."""
        self.mistakes.append(f"{self._where}.{name}: {what}")

    def unknown(self, known: Sequence[str]) -> None:
        """Note every key that nobody reads."""
        for name in self._data:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, n=1)
                self.mistake(str(name), "unknown key" + (f"; did you mean {near[0]}?" if near else ""))

    def text(self, name: str, default: str = "") -> str:
        """Read a text."""
        value = self._data.get(name, default)
        if isinstance(value, str):
            return value
        self.mistake(name, f"{_shown(value)} is not a text")
        return default

    def matching(self, name: str, pattern: re.Pattern[str], wanted: str, default: str | None = None) -> str:
        """Read a text of a given form; without a default it must be there."""
        if name not in self._data and default is None:
            self.mistake(name, f"missing; {wanted} is wanted")
            return ""
        value = self._data.get(name, default)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)  # 123456 without quotes is what anybody writes for a CP code
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.mistake(name, f"{_shown(value)} is not {wanted}")
            return ""
        return value

    def choice(self, name: str, allowed: tuple[Choice, ...]) -> Choice:
        """Read one of the allowed texts; the first is the default."""
        value = self._data.get(name, allowed[0])
        for each in allowed:
            if value == each:
                return each
        self.mistake(name, f"{_shown(value)} is none of {', '.join(allowed)}")
        return allowed[0]

    def patterns(self, name: str) -> tuple[str, ...]:
        """Read a list of non-empty texts."""
        value = self._data.get(name, [])
        if isinstance(value, list | tuple) and all(isinstance(each, str) and each for each in value):
            return tuple(value)
        self.mistake(name, f"{_shown(value)} is not a list of patterns")
        return ()

    def seconds(self, name: str, most: float) -> float:
        """Read a duration from 0 up."""
        value = self._data.get(name, 0)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= most:
            return float(value)
        self.mistake(name, f"{_shown(value)} is not a number of seconds from 0 to {most:g}")
        return 0.0


def _read_route(data: object, where: str, unknown: Literal["refuse", "ignore"]) -> tuple[Route, list[str]]:
    """Read a route as far as it goes, and tell what is wrong with it."""
    if not isinstance(data, Mapping):
        return Route("", ""), [f"{where}: {_shown(data)} is not a route"]
    read = _Reader(data, where)
    if unknown == "refuse":
        read.unknown([each.name for each in fields(Route)])
    route = Route(
        bucket=read.matching("bucket", _BUCKET, "a bucket name"),
        cpcode=read.matching("cpcode", _CPCODE, "a CP code (digits only)"),
        directory=read.text("directory").strip("/"),
        prefix=read.text("prefix"),
        strip_prefix=read.text("strip_prefix"),
        include=read.patterns("include"),
        exclude=read.patterns("exclude"),
        account=read.matching("account", _ACCOUNT, "an account name (letters, digits, _ and -)", "default"),
        deletes=read.choice("deletes", ("mirror", "ignore", "trash")),
        trash=read.text("trash", DEFAULT_TRASH).strip("/"),
        folder_markers=read.choice("folder_markers", ("ignore", "mkdir")),
        content_encoding=read.choice("content_encoding", ("warn", "reject")),
        settle_s=read.seconds("settle_s", MAX_SETTLE_S),
    )
    return route, read.mistakes + [f"{where}.{what}" for what in _route_faults(route)]


def _address_faults(route: Route) -> list[str]:
    """Tell what is wrong with the names of source and target in a route that nobody read with `_Reader`."""
    checks = (
        ("bucket", _BUCKET, route.bucket),
        ("cpcode", _CPCODE, route.cpcode),
        ("account", _ACCOUNT, route.account),
    )
    return [f"{name}: {_shown(value)} cannot be one" for name, form, value in checks if not form.fullmatch(value)]


def _route_faults(route: Route) -> list[str]:
    """Tell what is wrong inside one route, each as `key: what`."""
    faults = [f"directory: {fault}" for part in _parts(route.directory) if (fault := _segment_fault(part))]
    if not route.prefix.startswith(route.strip_prefix):
        faults.append(f"strip_prefix: {_shown(route.strip_prefix)} is no leading part of prefix {_shown(route.prefix)}")
    elif fault := _prefix_fault(route.prefix[len(route.strip_prefix) :]):
        faults.append(f"prefix: no key under it can be placed: it {fault}")
    return faults + _trash_faults(route)


def _trash_faults(route: Route) -> list[str]:
    """Tell what is wrong with the place for deleted files."""
    if route.deletes != "trash":
        return [] if route.trash == DEFAULT_TRASH else ["trash: has no effect without deletes = 'trash'"]
    if not route.trash:
        return ["trash: must name a directory below the CP code"]
    faults = [f"trash: {fault}" for part in _parts(route.trash) if (fault := _segment_fault(part))]
    if _overlap(trash_directory(route), target_directory(route)):
        what = "give the route a directory of its own" if not route.directory else "name another directory"
        faults.append(f"trash: {trash_directory(route)} and the route's own files would lie in one another; {what}")
    return faults


def _overlap(one: str, other: str) -> bool:
    """Say whether two directories are the same, or one lies in the other."""
    first, second = f"{one}/", f"{other}/"
    return first.startswith(second) or second.startswith(first)


def _parts(directory: str) -> list[str]:
    return directory.split("/") if directory else []


def _prefix_fault(rest: str) -> str | None:
    """Say why every key that begins so would be refused; the last part is open, so only whole parts count."""
    return next(filter(None, map(_segment_fault, rest.split("/")[:-1])), None)


# --- checks across routes --------------------------------------------------------------------------------------


def check_routes(routes: Sequence[Route]) -> None:
    """Check that routes go together; raises ConfigError naming each pair that does not.

    No two routes may have the same bucket and prefix, and none may write where another does: their objects would
    overwrite each other, and repairing one would delete the other's. Routes of one bucket that nest and agree on every
    path (they differ in policies only) are fine.
    """
    mistakes = [] if routes else ["routes: at least one is wanted"]
    mistakes += [f"{route}: {fault}" for route in routes for fault in (*_address_faults(route), *_route_faults(route))]
    for one, other in itertools.combinations(routes, 2):
        if (one.bucket, one.prefix) == (other.bucket, other.prefix):
            mistakes.append(f"two routes take s3://{one.bucket}/{one.prefix}*: merge them, or make one prefix longer")
        elif _targets_meet(one, other) and not _agree(one, other):
            mistakes.append(f"these write to the same place: {one} and {other}; give each a directory of its own")
        mistakes += [
            f"the trash {trash_directory(first)} of {first} meets the files of {second}; name another directory"
            for first, second in ((one, other), (other, one))
            if first.deletes == "trash" and _overlap(trash_directory(first), target_directory(second))
        ]
    _raise_for(mistakes)


def _targets_meet(one: Route, other: Route) -> bool:
    """Say whether some path could come from both routes: every path of a route begins with its target."""
    first, second = _target_of(one, one.prefix), _target_of(other, other.prefix)
    return first.startswith(second) or second.startswith(first)


def _agree(one: Route, other: Route) -> bool:
    """Say whether the two give every key that both could take the same path."""
    longer = max(one.prefix, other.prefix, key=len)
    return (
        one.bucket == other.bucket
        and longer.startswith(one.prefix)
        and longer.startswith(other.prefix)
        and _target_of(one, longer) == _target_of(other, longer)
    )


def _target_of(route: Route, prefix: str) -> str:
    """Give what the paths of all keys with this prefix begin with."""
    return f"{target_directory(route)}/{prefix[len(route.strip_prefix) :]}"


def _raise_for(mistakes: Sequence[str]) -> None:
    if mistakes:
        raise ConfigError("\n".join(mistakes), hint=_ROUTES_HINT)


def _shown(value: object) -> str:
    """Show a wrong value: one line of ASCII, at most 60 characters of it."""
    shown = ascii(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."
