"""Reading S3: one GET per object, every refusal told apart.

An answer is either the object or a `Fault`, S3's own words about what was wrong; `error_of` turns a Fault into the
error that says what it means here. Nothing that is not S3's own "no such key" counts as gone: a 404 without S3's error
document (a proxy's, another service's) or for a missing bucket stops the route instead of deleting anything.

A body broken on its way is read on from the same byte (see body.py): Range says from where, If-Match that it is still
the same version. Requests are addressed virtual-hosted style at AWS, and path style at any other endpoint and for
buckets with dots, which no wildcard certificate covers. They are signed by sigv4; x-amz headers are signed, the
rest is not, so that a proxy on the way may touch it.

A bucket in another region than ours is asked for there as soon as S3 says where it is: signed anew, to that region's
own address, and so for every later request. No address is ever taken from an answer; nothing else is followed.
"""

from __future__ import annotations

import asyncio
import binascii
import contextlib
import functools
import html
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from s3nsync.aws import CredentialSource
from s3nsync.body import OpenObject
from s3nsync.errors import (
    BadAnswer,
    BucketElsewhere,
    BucketMissing,
    SourceArchived,
    SourceChanged,
    SourceCredentials,
    SourceError,
    SourceForbidden,
    SourceKeyDenied,
    SourceUnavailable,
)
from s3nsync.http import Answer, Header, Headers, Http, Layout, Lines, Origin
from s3nsync.model import Gone, ObjectRef, SourceInfo
from s3nsync.pacing import Backoff
from s3nsync.sigv4 import EMPTY_SHA256, Credentials, Seal, Signer, encode_path, encode_query
from s3nsync.spans import Ahead

ERROR_LIMIT_BYTES = 64 * 1024
"""S3's error documents are below 2 KiB; a longer one is not S3's."""

LIST_LIMIT_BYTES = 8 << 20
"""1,000 keys of 1,024 bytes, each of them three in the answer, and what stands around them."""

_CHECKSUM_MODE = (("x-amz-checksum-mode", "ENABLED"),)
_IDENTITY = ("Accept-Encoding", "identity")
_PINNED = Layout("Range", "If-Match")
_CHECKSUMS = tuple(
    (name, f"x-amz-checksum-{name}") for name in ("crc64nvme", "crc32c", "crc32", "sha256", "sha1", "md5")
)
"""The digests that `body` or NetStorage can check, and the headers that they come in."""
_EXPIRED = frozenset({"ExpiredToken", "TokenRefreshRequired"})
_REGION = re.compile(r"[a-z][a-z0-9-]{1,30}")  # no dot: it becomes one label of a host name

# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_BY_CODE: dict[str, type[SourceError]] = {
    "NoSuchBucket": BucketMissing,
    "InvalidObjectState": SourceArchived,
    "PreconditionFailed": SourceChanged,
    "PermanentRedirect": BucketElsewhere,
    "IllegalLocationConstraintException": BucketElsewhere,
    "InvalidAccessKeyId": SourceCredentials,
    "SignatureDoesNotMatch": SourceCredentials,
    "InvalidToken": SourceCredentials,
    "InvalidSecurity": SourceCredentials,
    "NotSignedUp": SourceCredentials,
    "AuthorizationHeaderMalformed": SourceCredentials,
    **dict.fromkeys(_EXPIRED, SourceCredentials),
    "RequestTimeTooSkewed": SourceUnavailable,
    "RequestTimeout": SourceUnavailable,
    "SlowDown": SourceUnavailable,
    "Throttling": SourceUnavailable,
    "ThrottlingException": SourceUnavailable,
    "KMS.ThrottlingException": SourceUnavailable,
    "OperationAborted": SourceUnavailable,
    "TemporaryRedirect": SourceUnavailable,
}

_BY_STATUS: dict[int, type[SourceError]] = {
    301: BucketElsewhere,
    307: SourceUnavailable,
    403: SourceForbidden,
    404: BucketMissing,
    412: SourceChanged,
    429: SourceUnavailable,
}

_HINTS = {
    "RequestTimeTooSkewed": "the clock of this machine is off by more than 15 minutes: set it by NTP",
    "NoSuchBucket": "check the bucket's name; nothing was deleted on NetStorage",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """An answer that is not the object: S3's error document, as far as there was one (`code` is empty without).

    `region` is the bucket's, where S3 told it and it is not the one asked.
    """

    status: int
    code: str = ""
    message: str = ""
    region: str = ""
    delete_marker: bool = False
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Address:
    """Where a bucket is: the origin to connect to and what stands before the key in the request path."""

    origin: Origin
    root: str

    def target_of(self, path: str) -> str:
        """Give the request target of an encoded key, or of a query on the bucket (`?…`)."""
        return f"{self.root.rstrip('/') or '/'}{path}" if path.startswith("?") else self.root + path


def address_of(bucket: str, region: str, endpoint: str | None = None) -> Address:
    """Say where `bucket` is reached: virtual-hosted style at AWS, path style at `endpoint` and for names with dots."""
    if endpoint is not None:
        return Address(Origin.parse(endpoint), f"/{encode_path(bucket)}/")
    host = f"s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    if "." in bucket:
        return Address(Origin("https", host, 443), f"/{encode_path(bucket)}/")
    return Address(Origin("https", f"{bucket}.{host}", 443), "/")


class _Ask(NamedTuple):
    """A request without a body: `path` is below the bucket's root, or a query on it (`?…`), encoded.

    `signed` headers are covered by the signature, `unsigned` ones are not.
    """

    method: str
    bucket: str
    path: str
    signed: tuple[Header, ...] = ()
    unsigned: Lines = ""


@dataclass(frozen=True, slots=True, repr=False)
class _Opening:
    """What the heads of a second's requests of one kind have in common: all but target, signature, unsigned fields.

    Shown nowhere: the token is in it.
    """

    now_s: int
    credentials: Credentials
    seal: Seal
    lines: Lines


@dataclass(slots=True)
class _Home:
    """Where a bucket is, and what this second's requests to it share; a bucket that moves gets another one.

    A request keeps to the home it began with: host, region and signature go together, whatever is learned meanwhile.
    """

    region: str
    address: Address
    openings: dict[tuple[str, tuple[Header, ...]], _Opening] = field(default_factory=dict, repr=False)


class S3:
    """The objects of any bucket; those in other regions cost one more request each, once."""

    def __init__(
        self,
        http: Http,
        *,
        region: str,
        credentials: CredentialSource,
        endpoint: str | None = None,
        now_s: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        backoff: Backoff = Backoff(),  # noqa: B008  (a frozen value)
        on_elsewhere: Callable[[str, str], None] = lambda _bucket, _region: None,
        ahead: Ahead | None = None,
    ) -> None:
        """Read through `http`; `endpoint` is the URL of an S3 that is not AWS's, `now_s` the Unix time to sign with.

        `on_elsewhere` gets each bucket that turns out to be in another region, and that region. `ahead` says how large
        objects are read by several GETs at once; none are without it.
        """
        self._http = http
        self._region = region
        self._credentials = credentials
        self._endpoint = endpoint
        self._now_s = now_s
        self._sleep = sleep
        self._backoff = backoff
        self._on_elsewhere = on_elsewhere
        self._ahead = ahead
        self._homes: dict[str, _Home] = {}
        self._signers: dict[str, Signer] = {}

    def __repr__(self) -> str:
        """Show where objects are read from."""
        return f"S3({self._region}{f', {self._endpoint}' if self._endpoint else ''})"

    async def open(self, ref: ObjectRef) -> OpenObject | Gone:
        """GET the object; Gone only when S3 itself says that there is no such key, or a delete marker on top.

        Raises SourceError by what S3 said, TransportError when no answer came. Close what is returned.
        """
        answer = await self._exchange(_Ask("GET", ref.bucket, encode_path(ref.key), _CHECKSUM_MODE))
        if isinstance(answer, Fault):
            gone = gone_of(answer)
            if gone is not None:
                return gone
            raise error_of(answer, str(ref))
        try:
            info = info_of(answer.status, answer.headers, ref)
        except BaseException:
            await answer.aclose()
            raise
        reopen = functools.partial(self._open_from, ref, info)
        return OpenObject(ref, info, answer, reopen=reopen, sleep=self._sleep, backoff=self._backoff, ahead=self._ahead)

    async def head(self, ref: ObjectRef, _saw: SourceInfo | None = None) -> SourceInfo | None:
        """Look at the object without its bytes; None when the answer is 404, which is a hint, never a proof of absence.

        Raises SourceError by the status alone (such answers have no body), TransportError when no answer came.
        """
        answer = await self._exchange(_Ask("HEAD", ref.bucket, encode_path(ref.key), _CHECKSUM_MODE))
        if isinstance(answer, Fault):
            if answer.status == 404:
                return None
            raise error_of(answer, str(ref))
        async with answer:
            return info_of(answer.status, answer.headers, ref)

    async def probe(self, bucket: str) -> str:
        """Check that the bucket exists and that we may list it; gives its region, raises what is wrong.

        Without s3:ListBucket S3 answers 403 for keys that do not exist, so deletes could not be told from refusals.
        """
        answer = await self._exchange(self._asking_list(bucket, [("list-type", "2"), ("max-keys", "1")]))
        if isinstance(answer, Fault):
            raise _error_of_probe(answer, bucket)
        async with answer:
            page = await answer.read()
        if b"<ListBucketResult" not in page:
            raise BucketMissing(f"what answers for bucket {bucket} at {self._home(bucket).address.origin} is not S3")
        region = answer.headers.get("x-amz-bucket-region", "")
        home = self._move(bucket, region) if _REGION.fullmatch(region) else self._home(bucket)
        return home.region

    async def list_page(self, bucket: str, query: Sequence[tuple[str, str]]) -> bytes:
        """Ask for one page of the bucket's listing with these parameters; give S3's XML document as it came.

        Raises SourceError by what S3 said, TransportError when no answer came, or one longer than a page can be.
        """
        answer = await self._exchange(self._asking_list(bucket, query))
        if isinstance(answer, Fault):
            raise _error_of_probe(answer, bucket)
        async with answer:
            return await answer.read(LIST_LIMIT_BYTES)

    async def _open_from(self, ref: ObjectRef, info: SourceInfo, offset: int, stop: int) -> Answer:
        """GET the bytes from `offset` up to `stop` of the same version; SourceChanged if it is no longer there."""
        pinned = _PINNED.fill(f"bytes={offset}-{stop - 1}", f'"{info.etag}"')
        answer = await self._exchange(_Ask("GET", ref.bucket, encode_path(ref.key), unsigned=pinned))
        if isinstance(answer, Fault):
            if answer.status == 416 or gone_of(answer) is not None:
                raise SourceChanged(f"{ref} was replaced or deleted while it was read")
            raise error_of(answer, str(ref))
        expected = f"bytes {offset}-{stop - 1}/{info.size_bytes}"
        found = answer.headers.get("content-range", "no range")
        if answer.status != 206 or found != expected:
            await answer.aclose()
            raise BadAnswer(f"{ref}: asked for {expected}, got {answer.status} with {found}", sent=True)
        return answer

    def _asking_list(self, bucket: str, query: Sequence[tuple[str, str]]) -> _Ask:
        return _Ask("GET", bucket, f"?{encode_query(query)}")

    async def _exchange(self, ask: _Ask) -> Answer | Fault:
        """Send; once more with new keys if S3 calls ours expired, and once to where S3 says that the bucket is."""
        credentials = await self._credentials.get()
        home = self._homes.get(ask.bucket) or self._home(ask.bucket)
        answer = await self._send(home, ask, credentials)
        if answer.status in (200, 206):
            return answer
        found: Answer | Fault = await _read_fault(answer, home.region)
        if isinstance(found, Fault) and _is_expiry(found, ask.method):
            renewed = await self._credentials.renew(credentials)
            if renewed != credentials:
                found, credentials = await self._send_again(home, ask, renewed), renewed
        if isinstance(found, Fault) and _is_redirect(found):
            found = await self._send_again(self._move(ask.bucket, found.region), ask, credentials)
        return found

    async def _send_again(self, home: _Home, ask: _Ask, credentials: Credentials) -> Answer | Fault:
        answer = await self._send(home, ask, credentials)
        return answer if answer.status in (200, 206) else await _read_fault(answer, home.region)

    def _send(self, home: _Home, ask: _Ask, credentials: Credentials) -> Awaitable[Answer]:
        target = home.address.target_of(ask.path)
        headers = functools.partial(self._lines, home, ask, target, credentials)
        return self._http.send(home.address.origin, ask.method, target, headers=headers)

    def _lines(self, home: _Home, ask: _Ask, target: str, credentials: Credentials) -> Lines:
        """Sign: lay out all header fields of a request."""
        now_s = int(self._now_s())
        kind = (ask.method, ask.signed)
        opening = home.openings.get(kind)
        if opening is None or opening.now_s != now_s or opening.credentials is not credentials:
            opening = home.openings[kind] = self._opening(home, ask, credentials, now_s)
        return f"{opening.lines}{opening.seal.signature(target)}\r\n{ask.unsigned}"

    def _opening(self, home: _Home, ask: _Ask, credentials: Credentials, now_s: int) -> _Opening:
        signer = self._signer_for(home.region, credentials)
        host = home.address.origin.authority
        seal = signer.seal(ask.method, host, headers=ask.signed, payload_sha256=EMPTY_SHA256, now_s=now_s)
        names, values = zip(*seal.fields, _IDENTITY, ("Authorization", seal.authorization), strict=True)
        return _Opening(now_s, credentials, seal, Layout(*names).fill(*values).removesuffix("\r\n"))

    def _signer_for(self, region: str, credentials: Credentials) -> Signer:
        signer = self._signers.get(region)
        if signer is None or signer.credentials != credentials:
            signer = self._signers[region] = Signer(credentials, region=region, service="s3")
        return signer

    def _move(self, bucket: str, region: str) -> _Home:
        """Ask for the bucket in `region` from now on, and say so; many may learn it at once, one says it."""
        home = self._home(bucket)
        if region != home.region:
            home = self._homes[bucket] = _Home(region, address_of(bucket, region, self._endpoint))
            self._on_elsewhere(bucket, region)
        return home

    def _home(self, bucket: str) -> _Home:
        home = self._homes.get(bucket)
        if home is None:
            home = self._homes[bucket] = _Home(self._region, address_of(bucket, self._region, self._endpoint))
        return home


# --- what an answer means --------------------------------------------------------------------------------------


def gone_of(fault: Fault) -> Gone | None:
    """Say whether S3 itself declared the object absent; for answers to a GET only."""
    if fault.status != 404:
        return None
    if fault.delete_marker:
        return Gone("delete-marker")
    return Gone("no-such-key") if fault.code == "NoSuchKey" else None


def error_of(fault: Fault, subject: str) -> SourceError:
    """Turn S3's words about `subject` into the error that says what they mean."""
    kind = _kind_of(fault)
    said = f"{fault.code}: {fault.message}" if fault.code else "without an error document of S3's"
    return kind(
        f"S3 answered {fault.status} for {subject}, {said}",
        hint=_hint_of(fault, kind),
        status=fault.status,
        retry_after_s=fault.retry_after_s,
    )


def _kind_of(fault: Fault) -> type[SourceError]:
    if fault.status >= 500:  # whatever the code says: no trouble of S3's own may stop a route
        return SourceUnavailable
    if fault.code == "AuthorizationHeaderMalformed" and fault.region:
        return BucketElsewhere
    if fault.code in _BY_CODE:
        return _BY_CODE[fault.code]
    if _is_about_the_key(fault):
        return SourceKeyDenied
    if fault.region and fault.status in (400, 301):
        return BucketElsewhere
    return _BY_STATUS.get(fault.status, SourceError)


def _is_about_the_key(fault: Fault) -> bool:
    if fault.code.startswith("KMS."):
        return True
    if fault.code == "AccessDenied":
        return "kms:" in fault.message.lower()
    return fault.code == "InvalidRequest" and "server side encryption" in fault.message.lower()


def _hint_of(fault: Fault, kind: type[SourceError]) -> str | None:
    if kind is BucketElsewhere and fault.region:
        return f"set region to {fault.region}: the bucket is there"
    if kind is SourceKeyDenied and fault.code == "InvalidRequest":
        return "the object is encrypted with a key of its uploader's (SSE-C), which cannot be read here: exclude it"
    return _HINTS.get(fault.code)


def _error_of_probe(fault: Fault, bucket: str) -> SourceError:
    error = error_of(fault, f"bucket {bucket}")
    if isinstance(error, SourceForbidden):
        error.hint = "grant s3:ListBucket on the bucket: without it, deleted objects cannot be told from forbidden ones"
    return error


def _is_expiry(fault: Fault, method: str) -> bool:
    """Say whether the token may have expired; S3 says so with 400, and a HEAD's answer has no more than that."""
    return fault.code in _EXPIRED or (method == "HEAD" and fault.status == 400)


def _is_redirect(fault: Fault) -> bool:
    """Say whether S3 told of another region, in words that can be one; a refusal (403) is final wherever it is."""
    return fault.status in (301, 307, 400) and _REGION.fullmatch(fault.region) is not None


async def _read_fault(answer: Answer, our_region: str) -> Fault:
    text = ""
    with contextlib.suppress(BadAnswer):  # too long for S3: judged by its status alone
        async with answer:
            text = (await answer.read(ERROR_LIMIT_BYTES)).decode("utf-8", "replace")
    headers = answer.headers
    region = headers.get("x-amz-bucket-region") or _element(text, "Region")
    return Fault(
        status=answer.status,
        code=_element(text, "Code"),
        message=_element(text, "Message"),
        region="" if region == our_region else region,
        delete_marker=headers.get("x-amz-delete-marker", "").lower() == "true",
        retry_after_s=_seconds(headers.get("retry-after")),
    )


def _element(text: str, name: str) -> str:
    """Read one element of S3's flat error document, printable and at most 300 characters of it."""
    found = re.search(rf"<{name}>([^<]*)</{name}>", text) if "<Error>" in text else None
    return "" if found is None else "".join(filter(str.isprintable, html.unescape(found[1])))[:300]


def _seconds(text: str | None) -> float | None:
    return float(text) if text is not None and text.isdecimal() else None


def info_of(status: int, headers: Headers, ref: ObjectRef) -> SourceInfo:
    """Read what the headers of a 200 say of the object; BadAnswer when size, ETag or date are missing."""
    fields = headers.by_name
    try:
        size_bytes = int(fields["content-length"])
        etag = fields["etag"].strip('"')
        last_modified_s = http_date_s(fields["last-modified"])
    except (KeyError, ValueError) as error:
        raise BadAnswer(f"{ref}: the {status} answer is not S3's: {error!r}", sent=True) from error
    if status != 200:
        raise BadAnswer(f"{ref}: asked for the whole object, got {status}", sent=True)
    return SourceInfo(
        size_bytes=size_bytes,
        etag=etag,
        last_modified_s=last_modified_s,
        version_id=fields.get("x-amz-version-id"),
        encryption=fields.get("x-amz-server-side-encryption"),
        customer_key="x-amz-server-side-encryption-customer-algorithm" in fields,
        checksums=_checksums(fields),
        content_encoding=fields.get("content-encoding") or None,
        storage_class=fields.get("x-amz-storage-class"),
        metadata_mtime=fields.get("x-amz-meta-mtime"),
    )


_IMF_DATE = re.compile(r"[A-Z][a-z]{2}, ([0-9]{2} [A-Z][a-z]{2} [0-9]{4}) ([0-9]{2}):([0-5][0-9]):([0-5][0-9]) GMT")


def http_date_s(text: str) -> int:
    """Read an HTTP date as Unix seconds; ValueError if it is none (RFC 9110, 5.6.7).

    What S3 sends is the one form that servers may send; all else is left to the slower reader of mail.
    """
    found = _IMF_DATE.fullmatch(text)
    if found is None:
        return int(parsedate_to_datetime(text).timestamp())
    day, hour, minute, second = found.groups()
    return _day_s(day) + int(hour) * 3600 + int(minute) * 60 + int(second)


@functools.lru_cache(maxsize=1024)
def _day_s(day: str) -> int:
    return int(parsedate_to_datetime(f"{day} 00:00:00 GMT").timestamp())


def _checksums(fields: Mapping[str, str]) -> dict[str, str]:
    """Collect the full-object digests; a COMPOSITE one (told by type or by its "-parts" ending) is of other digests."""
    found: dict[str, str] = {}
    if fields.get("x-amz-checksum-type", "FULL_OBJECT") == "FULL_OBJECT":
        for name, field in _CHECKSUMS:
            if field in fields and (digest := _hex_of(fields[field])):
                found[name] = digest
    return found


def _hex_of(value: str) -> str:
    try:
        return binascii.a2b_base64(value, strict_mode=True).hex()
    except binascii.Error:
        return ""
