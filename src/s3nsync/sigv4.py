"""AWS Signature Version 4 for header-signed requests: a pure function of request, credentials and time.

Source: AWS, "Create a signed AWS API request" (Signature Version 4). Differences that the service makes: S3 signs the
request path exactly as it is on the request line and wants the payload's hash in `x-amz-content-sha256`; every other
service percent-encodes the (already encoded) path once more and takes the hash from the signature alone.
"""

from __future__ import annotations

import functools
import hashlib
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import NamedTuple
from urllib.parse import quote

from s3nsync.mac import hmac_sha256

Header = tuple[str, str]

UNSIGNED_PAYLOAD = "UNSIGNED-PAYLOAD"
"""Payload hash for S3 over TLS: the body is not covered by the signature."""

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
"""Payload hash of no body."""

_UNRESERVED = "-._~"
_PLAIN = re.compile(r"[A-Za-z0-9._~/-]*")
_ALGORITHM = "AWS4-HMAC-SHA256"
_UNSIGNED = frozenset({"authorization", "expect", "transfer-encoding", "user-agent", "x-amzn-trace-id"})
"""Header fields that proxies may change on the way; botocore leaves out the same ones."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """AWS keys; `token` goes with temporary ones."""

    access_key: str
    secret_key: str = field(repr=False)
    token: str | None = field(default=None, repr=False)


def encode_path(key: str) -> str:
    """Percent-encode an object key for a request path, once: UTF-8, all but unreserved characters and `/`."""
    return key if _PLAIN.fullmatch(key) else quote(key, safe=_UNRESERVED + "/")


def encode_query(pairs: Iterable[tuple[str, str]]) -> str:
    """Encode and order query parameters canonically, so that the query on the wire is the one that is signed."""
    encoded = sorted((quote(name, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)


class Signer:
    """Signs requests for one service in one region; the derived key is worked out once a day."""

    def __init__(self, credentials: Credentials, *, region: str, service: str) -> None:
        """Bind credentials to `region` and `service` (`s3`, `sqs`, …)."""
        self.credentials = credentials
        self._region = region
        self._service = service
        self._key_of_day: tuple[str, bytes] = ("", b"")
        self._moment: _Moment | None = None

    def __repr__(self) -> str:
        """Show what is signed for and by whom, never the secret."""
        return f"Signer({self.credentials!r}, region={self._region!r}, service={self._service!r})"

    def sign(
        self,
        method: str,
        target: str,
        host: str,
        *,
        headers: Sequence[Header] = (),
        payload_sha256: str,
        now_s: float,
    ) -> list[Header]:
        """Return every header to send but Host: those given, then `x-amz-date`, token, payload hash, Authorization.

        `target` is the encoded path and, after `?`, the query exactly as it goes on the request line; `host` is the
        Host header's value. Given headers are signed but those that proxies change. `payload_sha256` is lower-case
        hex or UNSIGNED_PAYLOAD; `now_s` is Unix time. Outside S3 the path must hold no `.`, `..` or empty segment.
        """
        seal = self.seal(method, host, headers=headers, payload_sha256=payload_sha256, now_s=now_s)
        return [*seal.fields, ("Authorization", seal.authorization + seal.signature(target))]

    def seal(
        self, method: str, host: str, *, headers: Sequence[Header] = (), payload_sha256: str, now_s: float
    ) -> Seal:
        """Do all that `sign` does but for the target: requests that differ in nothing else share it for a second."""
        moment = self._moment_of(int(now_s))
        sent = [*headers, ("x-amz-date", moment.stamp)]
        if self._service == "s3":
            sent.append(("x-amz-content-sha256", payload_sha256))
        if self.credentials.token is not None:
            sent.append(("x-amz-security-token", self.credentials.token))
        names, fields = _canonical_headers([("host", host), *sent])
        return Seal(
            fields=sent,
            authorization=f"{moment.credential}, SignedHeaders={names}, Signature=",
            method=method,
            rest=f"{fields}\n{names}\n{payload_sha256}",
            preamble=moment.preamble,
            key=moment.key,
            path_is_final=self._service == "s3",
        )

    def _moment_of(self, now_s: int) -> _Moment:
        """Work out what all requests of one second have in common, or give it again."""
        moment = self._moment  # read and written as one value: threads may share a signer
        if moment is None or moment.now_s != now_s:
            stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_s))
            day = stamp[:8]
            scope = f"{day}/{self._region}/{self._service}/aws4_request"
            self._moment = moment = _Moment(
                now_s=now_s,
                stamp=stamp,
                preamble=f"{_ALGORITHM}\n{stamp}\n{scope}\n",
                credential=f"{_ALGORITHM} Credential={self.credentials.access_key}/{scope}",
                key=self._signing_key(day),
            )
        return moment

    def _signing_key(self, day: str) -> bytes:
        known_day, key = self._key_of_day
        if known_day == day:
            return key
        key = f"AWS4{self.credentials.secret_key}".encode()
        for part in (day, self._region, self._service, "aws4_request"):
            key = hmac_sha256(key, part.encode())
        self._key_of_day = (day, key)
        return key


@dataclass(slots=True, repr=False)
class Seal:
    """A signature but for the request target; good for one second. Not shown anywhere, for the key is a secret.

    `fields` are to be sent, and Authorization, whose value is `authorization` followed by the signature.
    """

    fields: Sequence[Header]
    authorization: str
    method: str
    rest: str
    preamble: str
    key: bytes
    path_is_final: bool

    def signature(self, target: str) -> str:
        """Sign the request for `target`; lower-case hex."""
        path, _, query = target.partition("?")
        if not self.path_is_final:
            path = quote(path, safe=_UNRESERVED + "/")
        request = f"{self.method}\n{path}\n{_canonical_query(query) if query else ''}\n{self.rest}"
        text = f"{self.preamble}{hashlib.sha256(request.encode()).hexdigest()}"
        return hmac_sha256(self.key, text.encode()).hex()


class _Moment(NamedTuple):
    """What the signatures of one second share; not shown anywhere, for the key is a secret."""

    now_s: int
    stamp: str
    preamble: str
    credential: str
    key: bytes


def _canonical_headers(headers: Sequence[Header]) -> tuple[str, str]:
    """Return the signed names (`a;b`) and a line for each of them, equal names joined."""
    fields = dict(headers)
    form = _form_of(tuple(fields))
    if len(fields) < len(headers) or not form.is_plain:
        return _joined_headers(headers)
    return form.names, form.text % tuple(map(_single_spaced, form.values_of(fields)))


class _Form(NamedTuple):
    """What is known of header fields by their names alone: the signed ones, and the lines to fill with values."""

    names: str
    text: str
    values_of: Callable[[dict[str, str]], tuple[str, ...]]
    is_plain: bool


@functools.lru_cache(maxsize=512)
def _form_of(names: tuple[str, ...]) -> _Form:
    """Lay out the lines; `is_plain` unless the names do not tell, as two of them differ by case only."""
    by_lower = {name.lower(): name for name in names}
    signed = sorted(by_lower.keys() - _UNSIGNED)
    text = "".join([f"{lower.replace('%', '%%')}:%s\n" for lower in signed])
    values_of = itemgetter(*[by_lower[lower] for lower in signed])
    return _Form(";".join(signed), text, values_of, len(by_lower) == len(names))


@functools.lru_cache(maxsize=128)
def _single_spaced(value: str) -> str:
    return " ".join(value.split())


def _joined_headers(headers: Sequence[Header]) -> tuple[str, str]:
    fields: dict[str, str] = {}
    for name, value in headers:
        lower, text = name.lower(), _single_spaced(value)
        if lower not in _UNSIGNED:
            fields[lower] = f"{fields[lower]},{text}" if lower in fields else text
    names = sorted(fields)
    return ";".join(names), "".join([f"{name}:{fields[name]}\n" for name in names])


def _canonical_query(query: str) -> str:
    """Order what is encoded already."""
    if "&" not in query:
        return query if "=" in query or not query else f"{query}="
    pairs = (pair.partition("=") for pair in query.split("&"))
    return "&".join(f"{name}={value}" for name, _, value in sorted(pairs))
