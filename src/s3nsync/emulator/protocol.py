"""The words of the NetStorage HTTP API: who may ask (signature headers) and what is asked (action header).

Both headers are read as they came. The signature covers the request-target bytes and the action value verbatim, so
nothing is decoded before it has been checked.
"""

from __future__ import annotations

import base64
import hmac
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import unquote_to_bytes

ACTION_HEADER = "x-akamai-acs-action"
AUTH_DATA_HEADER = "x-akamai-acs-auth-data"
AUTH_SIGN_HEADER = "x-akamai-acs-auth-sign"

READS = frozenset({"stat", "dir", "list", "du", "download"})
WRITES = frozenset({"upload", "delete", "mkdir", "rmdir", "rename", "symlink", "mtime", "quick-delete"})

# Signature version → HMAC hash, as Akamai's page on the signature headers lists them.
_HASHES = {"3": "md5", "4": "sha1", "5": "sha256"}


class Personality(StrEnum):
    """The two generations of NetStorage, told apart by their Server header, texts and rules about directories."""

    OBJECTSTORE = "objectstore"
    FILESTORE = "filestore"


class Refused(Exception):
    """The request is answered with `status` and an unstructured text."""

    def __init__(self, status: int, text: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        """Keep what the answer needs."""
        super().__init__(f"{status} {text}")
        self.status = status
        self.text = text
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Call:
    """One API request, understood: `name` is the decoded path without its leading slash, `params` the action's rest."""

    action: str
    name: bytes
    params: Mapping[str, bytes]

    @property
    def names_directory(self) -> bool:
        """Whether the path ends in a slash."""
        return self.name.endswith(b"/")

    @property
    def leaf(self) -> bytes:
        """The name of the file or symlink addressed."""
        return self.name.removesuffix(b"/")

    @property
    def directory(self) -> bytes:
        """The name of the directory addressed, with its closing slash."""
        return self.leaf + b"/"

    def flag(self, name: str, value: bytes) -> bool:
        """Whether option `name` was given with this very `value`."""
        return self.params.get(name) == value

    def whole_number(self, name: str) -> int | None:
        """Return option `name` as a number ≥ 0, None when absent; refuse with 400 anything else."""
        raw = self.params.get(name)
        if raw is None:
            return None
        if not raw.isdigit():
            raise Refused(400, f"{name} is not a whole number")
        return int(raw)


def parse_call(method: str, target: bytes, action: str | None) -> Call:
    """Return what is asked; refuse a missing action (403), a malformed one (400), a method that does not fit (403)."""
    if action is None:
        raise Refused(403, "Access denied: no action given")
    params = parse_action(action)
    name = params.pop("action", b"").decode("latin-1")
    if params.pop("version", b"") != b"1" or name not in READS | WRITES:
        raise Refused(400, "Bad request: version or action unknown")
    allowed = ("PUT", "POST") if name in WRITES else ("GET", "HEAD") if name == "download" else ("GET",)
    if method not in allowed:
        raise Refused(403, "Access denied: method does not fit the action")
    return Call(name, decode_path(target), params)


def parse_action(action: str) -> dict[str, bytes]:
    """Return the action header's parameters, values decoded once; refuse with 400 what is not `name=value&…`.

    Empty parts are passed over: Akamai's Python kit ends the action of dir and list in `&`.
    """
    params: dict[str, bytes] = {}
    for part in filter(None, action.split("&")):
        name, equals, value = part.partition("=")
        if not name or not equals or "=" in value or " " in value:
            raise Refused(400, "Bad request: malformed action")
        params[name] = unquote_to_bytes(value.replace("+", " ").encode("latin-1"))
    return params


def decode_path(target: bytes) -> bytes:
    """Return the name a request-target addresses: query cut off, percent-decoded once, no leading slash."""
    path = target.partition(b"?")[0]
    return (unquote_to_bytes(path) if b"%" in path else path)[1:]


@dataclass(slots=True)
class Gate:
    """Checks signatures: keys by upload account, clock window, and (if asked) that no signature is used twice."""

    keys: Mapping[str, tuple[str, ...]] = field(repr=False)
    window_s: float
    refuse_replay: bool
    _seen: set[str] = field(default_factory=set, repr=False)
    _seen_order: deque[tuple[float, str]] = field(default_factory=deque, repr=False)

    def check(self, headers: Mapping[str, str], target: bytes, now_s: float) -> None:
        """Refuse with 403 unless the three headers are a fresh, right signature of this very request."""
        data, sign = headers.get(AUTH_DATA_HEADER), headers.get(AUTH_SIGN_HEADER)
        if data is None or sign is None:
            raise Refused(403, "Access denied: signature headers missing")
        fields = [part.strip() for part in data.split(",")]
        if len(fields) != 6 or fields[0] not in _HASHES or not fields[3].isdigit() or not fields[4]:
            raise Refused(403, "Access denied: malformed signature data")
        message = message_to_sign(data, target, headers[ACTION_HEADER])
        if not any(_matches(sign, key, fields[0], message) for key in self.keys.get(fields[5], ())):
            raise Refused(403, "Access denied: signature does not match")
        if abs(now_s - int(fields[3])) > self.window_s:
            raise Refused(403, "Access denied: request time is outside the window")
        if self.refuse_replay:
            self._remember(data, now_s)

    def _remember(self, data: str, now_s: float) -> None:
        while self._seen_order and self._seen_order[0][0] < now_s - 2 * self.window_s:
            self._seen.discard(self._seen_order.popleft()[1])
        if data in self._seen:
            raise Refused(403, "Access denied: signature was used before")
        self._seen.add(data)
        self._seen_order.append((now_s, data))


def message_to_sign(data: str, target: bytes, action: str) -> bytes:
    """Return the signed text: auth data, path as sent, newline, action header line (Akamai, signature headers page)."""
    return b"%b%b\n%b:%b\n" % (
        data.encode("latin-1"), target, ACTION_HEADER.encode("ascii"), action.encode("latin-1"),
    )  # fmt: skip


def signature(key: str, version: str, message: bytes) -> str:
    """Return the base64 HMAC of `message` by signature version 3 (MD5), 4 (SHA-1) or 5 (SHA-256)."""
    return base64.b64encode(hmac.digest(key.encode("utf-8"), message, _HASHES[version])).decode("ascii")


def _matches(sign: str, key: str, version: str, message: bytes) -> bool:
    return hmac.compare_digest(sign.encode("latin-1"), signature(key, version, message).encode("ascii"))
