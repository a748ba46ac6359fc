r"""The wire format of NetStorage's HTTP API, as pure functions: what to send, and what an answer means.

A request is an HTTP request on `/<cpcode>/<path>` whose meaning stands in three headers:

    X-Akamai-ACS-Action     version=1&action=<name>&<option>=<value>…, in query-string spelling
    X-Akamai-ACS-Auth-Data  5, 0.0.0.0, 0.0.0.0, <Unix time>, <unique id>, <upload account>
    X-Akamai-ACS-Auth-Sign  base64(HMAC-SHA256(key, data + target + "\nx-akamai-acs-action:" + action + "\n"))

`target` is exactly what goes on the request line, percent-encoded, so a path is encoded once, here, and never again.
Neither method, host nor body is signed, and a signature is good for about a minute: TLS guards the rest, and every
try is signed anew. Names are byte strings on NetStorage. They travel through Python as text, UTF-8 with
`surrogateescape`, so a name that is not UTF-8 survives the way there and back.

Answers to stat, dir, list and du are XML documents. They are read by expat as they come in, but for the plain files of
long listings (`plain`); a document type declaration is refused, and with it every way of making entities expand.

Sources: Akamai's NetStorage Usage API documentation (techdocs.akamai.com/netstorage-usage) and recorded answers of
real servers in the test data of Akamai's own PHP client.
"""

from __future__ import annotations

import binascii
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from functools import partial
from html import unescape
from itertools import repeat
from typing import Literal, NamedTuple, Protocol
from urllib.parse import quote
from xml.parsers import expat

from s3nsync.errors import (
    BadAnswer,
    ConfigError,
    TargetClock,
    TargetConflict,
    TargetCredentials,
    TargetError,
    TargetMissing,
    TargetPrecondition,
    TargetRefused,
    TargetUnavailable,
)
from s3nsync.mac import hmac_sha256
from s3nsync.netstorage.plain import PlainFiles, PlainReader

Scheme = Literal["http", "https"]
Personality = Literal["objectstore", "filestore"]
EntryType = Literal["file", "dir", "symlink"]

CLOCK_TOLERANCE_S = 30.0
"""NetStorage accepts a minute by its current documentation, 30 s by the older one; Akamai's Java and C# clients call
anything beyond 30 s a clock fault, and so do we."""

_PLAIN = re.compile(rb"[A-Za-z0-9._~/-]*")
_PLAIN_TEXT = re.compile(_PLAIN.pattern.decode())
_USER = re.compile(r"[A-Za-z0-9_.:-]+")
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_ENTRY_TYPES: Mapping[str, EntryType] = {"file": "file", "dir": "dir", "symlink": "symlink"}


# --- who and where ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Account:
    """An upload account and the host it lives on; the key never shows in a repr.

    `host` is an IPv6 literal without brackets, or a name like `example-nsu.akamaihd.net`. ConfigError if the fields
    cannot be used.
    """

    host: str
    user: str
    key: str = field(repr=False)
    scheme: Scheme = "https"
    port: int = 443

    def __post_init__(self) -> None:
        """Refuse what would break the comma-separated Auth-Data header or cannot be signed with."""
        if not _USER.fullmatch(self.user):
            msg = f"the NetStorage upload account {self.user!r} is not usable: letters, digits and _ - : . only"
            raise ConfigError(msg, hint="NS_USER is the upload account's Id in Akamai Control Center, not its name")
        if not self.key:
            msg = f"the key of NetStorage upload account {self.user} is empty"
            raise ConfigError(msg, hint="NS_KEY is the account's HTTP API key (G2O key)")

    @classmethod
    def parse(cls, hostname: str, user: str, key: str, *, scheme: Scheme = "https") -> Account:
        """Read `host[:port]`; ConfigError on anything else, a scheme or path above all."""
        host, colon, port = hostname.partition(":") if not hostname.startswith("[") else _split_literal(hostname)
        usable_port = not colon or (port.isascii() and port.isdigit() and 0 < int(port) < 65536)
        if not _HOST.fullmatch(host) or not usable_port:
            msg = f"{hostname!r} is no NetStorage host name"
            raise ConfigError(msg, hint="NS_HOSTNAME is a bare name such as example-nsu.akamaihd.net, or host:port")
        default = 443 if scheme == "https" else 80
        return cls(host.strip("[]"), user, key, scheme, int(port) if colon else default)


def _split_literal(hostname: str) -> tuple[str, str, str]:
    host, bracket, rest = hostname.partition("]")
    colon, port = rest[:1], rest[1:]
    return host + bracket, colon, port if colon == ":" else "no port"


def name_bytes(path: str) -> bytes:
    """Give the bytes that NetStorage stores for a name held as text; TargetRefused for text that is no name."""
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        msg = f"{path!r} cannot be a NetStorage name: it holds half a character"
        raise TargetRefused(msg, hint="rename the object") from error


def name_text(raw: bytes) -> str:
    """Give the text under which we handle a stored name; `name_bytes` takes it back."""
    return raw.decode("utf-8", "surrogateescape")


def request_target(path: str | bytes) -> str:
    """Percent-encode an absolute path once, as it goes on the request line and into the signature.

    Every byte but `A-Za-z0-9-._~` and `/` is encoded. TargetRefused for a path that does not begin with `/`, or has a
    `.` or `..` segment: a proxy may resolve those, and then another object than the signed one would be addressed.
    """
    if isinstance(path, str) and path.startswith("/") and "/." not in path and _PLAIN_TEXT.fullmatch(path):
        return path
    raw = path if isinstance(path, bytes) else name_bytes(path)
    if not raw.startswith(b"/"):
        msg = f"{name_text(raw)!r} is no NetStorage path"
        raise TargetRefused(msg, hint="a path begins with / and the CP code: /123456/directory/file")
    if b"/." in raw and any(part in {b".", b".."} for part in raw.split(b"/")):
        msg = f"{name_text(raw)!r} cannot be addressed safely: it has a `.` or `..` segment"
        raise TargetRefused(msg, hint="rename the object")
    return raw.decode() if _PLAIN.fullmatch(raw) else quote(raw, safe="/")


# --- the three headers -----------------------------------------------------------------------------------------


SIGNED_NAMES = ("X-Akamai-ACS-Action", "X-Akamai-ACS-Auth-Data", "X-Akamai-ACS-Auth-Sign")
"""The three headers (or trailer fields) of each try."""


def action_header(action: str, **options: str | int | None) -> str:
    """Spell the Action header: the options in the order given, without those that are None.

    Values are escaped once, `/` included, as the documentation asks for `destination` and `target`.
    """
    text = f"version=1&action={action}"
    for name, value in options.items():
        if value is not None:
            is_plain = not isinstance(value, str) or (value.isalnum() and value.isascii())
            text += f"&{name}={value if is_plain else quote(name_bytes(str(value)), safe='')}"
    return text


def signed_values(account: Account, target: str, action: str, *, now_s: float, nonce: str) -> tuple[str, str, str]:
    """Give the values of SIGNED_NAMES for one try, by HMAC-SHA256 (version 5).

    `nonce` must never be used twice; `now_s` is cut to whole seconds.
    """
    data = f"5, 0.0.0.0, 0.0.0.0, {int(now_s)}, {nonce}, {account.user}"
    message = f"{data}{target}\nx-akamai-acs-action:{action}\n"
    return (
        action,
        data,
        binascii.b2a_base64(hmac_sha256(account.key.encode(), message.encode()), newline=False).decode(),
    )


def upload_options(
    *,
    size: int | None,
    mtime_s: int | None,
    md5: str | None = None,
    sha1: str | None = None,
    sha256: str | None = None,
    index_zip: bool = False,
) -> dict[str, str | int | None]:
    """Name an upload's options in the order of the official example: digest, mtime, size.

    Digests are lower-case hex, or `atend`. ValueError for `index_zip` with a size or digest: the server changes such a
    zip as it stores it, so neither could match.
    """
    if index_zip:
        if size is not None or md5 or sha1 or sha256:
            msg = "index_zip cannot go with size or digest: the server changes the zip as it stores it"
            raise ValueError(msg)
        return {"mtime": mtime_s, "index-zip": 1}
    return {"md5": md5, "sha1": sha1, "sha256": sha256, "mtime": mtime_s, "size": size}


def is_loopback(host: str) -> bool:
    """Say whether a host, as Account holds it, is surely this machine: `localhost` or a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def list_end(directory: str) -> str:
    """Give the bound that keeps a list action inside a directory: `0` is the character after `/` in ASCII."""
    return directory.rstrip("/") + "0"


# --- answers in XML --------------------------------------------------------------------------------------------


class Entry(NamedTuple):
    """One file, directory or symlink as stat, dir or list tell it; None is what the answer did not say.

    `path` is absolute and without a trailing slash. `md5` is lower-case hex. `implicit` marks an ObjectStore
    directory that is there only because something lies below it. `files` and `total_bytes` are a directory's
    recursive totals (dir action, ObjectStore only; `files` counts the directory itself).
    """

    path: str
    type: EntryType
    size_bytes: int | None = None
    md5: str | None = None
    mtime_s: int | None = None
    target: str | None = None
    implicit: bool = False
    files: int | None = None
    total_bytes: int | None = None

    @property
    def name(self) -> str:
        """Give the last segment of the path."""
        return self.path.rpartition("/")[2]

    def leads_below(self, directory: str) -> bool:
        """Say whether to go down into this child of `directory`: not if its name is empty.

        A listing of `/1/` is that of `/1`, with the same child in it: whoever goes down into it never ends.
        """
        return self.type == "dir" and self.path.rstrip("/") != directory.rstrip("/")


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing; `resume` is where the next part starts, None if this was the last."""

    entries: tuple[Entry, ...]
    resume: str | None = None


def with_slashes_of(page: Page, directory: str) -> Page:
    """Give a page's entries the path of the directory that was asked for, if that has empty parts.

    A server may answer `/1//d` for `/1//d/` and for `/1//d`, or leave slashes out: only the question is exact.
    """
    if "//" not in directory:
        return page
    inside = directory.removesuffix("/") + "/"
    return Page(tuple(entry._replace(path=inside + entry.name) for entry in page.entries), page.resume)


@dataclass(frozen=True, slots=True)
class Usage:
    """What lies below a directory in all (du action)."""

    files: int
    total_bytes: int


class XmlReader:
    """Reads one stat, dir, list or du answer as it comes in: `feed` chunks, then ask for `page` or `usage` once.

    Both `ISO-8859-1` (the server's default) and UTF-8 documents are understood, and the `_base64` twins that stand in
    for names which the document's encoding cannot hold. BadAnswer for anything else: broken XML, a document type
    declaration, an unknown root, numbers that are none.
    """

    def __init__(self, what: str) -> None:
        """Begin; `what` names the request in errors."""
        self._what = what
        self._root: str | None = None
        self._directory = ""
        self._entries: list[Entry] = []
        self._resume: str | None = None
        self._usage: Usage | None = None
        self._parser = expat.ParserCreate()
        self._parser.StartDoctypeDeclHandler = self._on_doctype
        self._parser.StartElementHandler = self._on_element
        self._plain = PlainReader()

    def feed(self, chunk: bytes) -> None:
        """Read on."""
        for part in self._plain.feed(chunk):
            if isinstance(part, bytes):
                self._parse(part)
            else:
                self._on_files(part)

    def part(self) -> Page:
        """Give the entries read since the last part, while the document goes on."""
        entries, self._entries = self._entries, []
        return Page(tuple(entries))

    def page(self) -> Page:
        """End the document and give its entries, but for those given in parts."""
        self._finish("stat", "list")
        return Page(self.part().entries, self._resume)

    def usage(self) -> Usage:
        """End the document and give its totals."""
        self._finish("du")
        if self._usage is None:
            raise self._bad("it has no du-info")
        return self._usage

    def _parse(self, chunk: bytes, *, final: bool = False) -> None:
        try:
            self._parser.Parse(chunk, final)
        except expat.ExpatError as error:
            raise self._bad(f"it is not well-formed XML ({error})") from error
        except (ValueError, LookupError) as error:  # LookupError: an encoding that Python does not know, too
            raise self._bad(f"an attribute is missing or wrong ({error})") from error

    def _finish(self, *roots: str) -> None:
        self._parse(self._plain.rest(), final=True)
        # Expat's hold on us and ours on it would be left to the cycle collector, and it looks rarely.
        self._parser.StartDoctypeDeclHandler = self._parser.StartElementHandler = None
        if self._root not in roots:
            raise self._bad(f"its root is <{self._root}>")

    def _bad(self, why: str) -> BadAnswer:
        return BadAnswer(f"{self._what}: the answer cannot be read: {why}", sent=True)

    def _on_doctype(self, *_: object) -> None:
        raise self._bad("it has a document type declaration, which NetStorage never sends")

    def _on_element(self, name: str, attributes: dict[str, str]) -> None:
        if self._root is None:
            self._root = name
            self._directory = _directory(attributes) if name == "stat" else ""
        elif name == "file":
            self._entries.append(_entry(attributes, self._directory))
        elif name == "resume":
            self._resume = _text(attributes, "start")
        elif name == "du-info":
            self._usage = Usage(int(attributes["files"]), int(attributes["bytes"]))

    def _on_files(self, files: PlainFiles) -> None:
        """Take in files that did not go through expat: listings of millions are nothing else."""
        inside = self._directory + "/"
        columns = zip(
            [inside + name for name in files.names],
            repeat("file"),
            repeat(None) if files.sizes is None else map(int, files.sizes),
            repeat(None) if files.md5s is None else map(str.lower, files.md5s),
            repeat(None) if files.mtimes is None else map(int, files.mtimes),
            *map(repeat, Entry("", "file")[5:]),
        )
        self._entries.extend(map(_make_entry, columns))


_make_entry: Callable[[Iterable[object]], Entry] = partial(tuple.__new__, Entry)


def _text(attributes: Mapping[str, str], name: str) -> str | None:
    """Read an attribute or its `_base64` twin; the twin wins, it is there when the plain one could not be."""
    encoded = attributes.get(name + "_base64")
    if encoded is None:
        return attributes.get(name)
    return name_text(binascii.a2b_base64(encoded, strict_mode=True))


def _directory(attributes: Mapping[str, str]) -> str:
    directory = _text(attributes, "directory")
    if directory is None:
        raise KeyError("directory")
    return directory.removesuffix("/")


def _number(attributes: Mapping[str, str], name: str) -> int | None:
    text = attributes.get(name)
    return None if text is None else int(text)


def _entry(attributes: Mapping[str, str], directory: str) -> Entry:
    """Build an Entry: stat and dir name what is in `directory`, list gives whole paths without a leading slash."""
    get = attributes.get  # listings come here for each file: what most entries lack costs one look
    name = get("name") if "name_base64" not in attributes else _text(attributes, "name")
    if name is None:
        raise KeyError("name")
    kind = _ENTRY_TYPES[attributes["type"]]
    size, mtime, md5 = get("size"), get("mtime"), get("md5")
    entry = Entry(
        path=f"{directory}/{name.removesuffix('/') if kind == 'dir' else name}",
        type=kind,
        size_bytes=None if size is None else int(size),
        md5=md5.lower() if md5 else None,
        mtime_s=None if mtime is None else int(mtime),
    )
    if kind == "file":
        return entry
    return entry._replace(
        target=_text(attributes, "target"),
        implicit=get("implicit") == "true",
        files=_number(attributes, "files"),
        total_bytes=_number(attributes, "bytes"),
    )


# --- results of writes -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AtEnd:
    """What an upload could not say before its last byte: digest (lower-case hex) and modification time."""

    sha256: str
    mtime_s: int


@dataclass(frozen=True, slots=True)
class Uploaded:
    """NetStorage confirmed an upload; `repeated` if it was sent more than once, so an earlier copy may still land."""

    size_bytes: int
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Removed:
    """Nothing is at the path now; `existed` is false if the answer was 404.

    With `repeated` the request was sent more than once: an earlier one may be what removed it, or may still land.
    """

    existed: bool
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Applied:
    """NetStorage confirmed a rename, symlink, mtime or quick-delete; `repeated` as in Uploaded."""

    repeated: bool = False


# --- what a refusal means --------------------------------------------------------------------------------------


class Fields(Protocol):
    """An answer's header fields, looked up by name in any case."""

    def get(self, name: str, /) -> str | None:
        """Give the field's value, None if it is absent."""
        ...


def personality(server: str | None) -> Personality | None:
    """Tell ObjectStore from the older FileStore by the `Server` header, as Akamai's clients do; None if unknown."""
    if server is None:
        return None
    if server.startswith("AkamaiNetStorage"):
        return "objectstore"
    return "filestore" if server.startswith("Apache") else None


def skew_s(date: str | None, local_now_s: float) -> float | None:
    """Say how far the server's clock (its `Date`) is ahead of ours, in seconds; None without a readable date."""
    server_s = _http_date(date)
    return None if server_s is None else server_s - local_now_s


def clock_is_off(skew: float | None) -> bool:
    """Judge whether a skew is large enough to explain a 403."""
    return skew is not None and abs(skew) > CLOCK_TOLERANCE_S


def verdict(
    status: int, headers: Fields, text: str, action: str, path: str, *, skew: float | None = None
) -> TargetError:
    """Turn an answer that is no success into the error it means.

    `skew` is how far the server's clock was ahead of the time we signed with: it tells a wrong clock from a wrong
    key. The message quotes the server's text, which is for people only: its wording is not part of the protocol.
    """
    kind, hint = _classify(status, action, skew)
    said = plain_text(text)
    message = f"{action} {path}: NetStorage answered {status}" + (f" ({said})" if said else "")
    if kind is TargetClock:
        message += f"; its clock is {skew:+.0f} s from the time we signed with"
    return kind(message, hint=hint, status=status, retry_after_s=_retry_after_s(headers))


_NO_LIST_HINT = "the list action needs ObjectStore; on FileStore walk the directories instead"
_RENAME_HINT = (
    "a rename stays within one CP code and moves files and symlinks only; if this storage group refuses it altogether,"
    " a route cannot have deletes = 'trash'"
)
_TAKEN_HINT = "there is something at the new name already: `rm` it first, or choose another name"
_NO_PLACE_HINT = (
    "is the CP code gone, or not this upload account's? Nothing is lost: it is tried again until it is back"
)
_TRY_LATER = frozenset({408, 423, 425, 429})


def _classify(status: int, action: str, skew: float | None) -> tuple[type[TargetError], str | None]:
    """Name the error type, and a hint where the type's own is not the best."""
    if status == 403:
        return (TargetClock if clock_is_off(skew) else TargetCredentials), None
    if status == 404 and action == "upload":
        # No key is at fault for that: directories above a file are made by the upload itself.
        return TargetUnavailable, _NO_PLACE_HINT
    if status == 404:
        return TargetMissing, None
    if status in _TRY_LATER or status >= 500:
        return TargetUnavailable, None
    if action == "list" and status in {400, 412}:
        return TargetRefused, _NO_LIST_HINT
    if action == "rmdir" and status in {409, 412}:
        return TargetConflict, "a directory must be empty before it can be removed"
    if action == "rename" and 400 <= status < 500:
        return (TargetConflict, _TAKEN_HINT) if status in {409, 412} else (TargetRefused, _RENAME_HINT)
    if status == 412:
        return (TargetPrecondition if action == "upload" else TargetConflict), None
    return (TargetConflict if status == 409 else TargetRefused), None


def plain_text(text: str, limit: int = 200) -> str:
    """Make a server's text fit for one line of a message: no tags, no control characters, at most `limit` long."""
    bare = unescape(re.sub(r"<[^>]*>", " ", text))
    words = "".join(c if c.isprintable() else " " for c in bare).split()
    line = " ".join(words)
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _retry_after_s(headers: Fields) -> float | None:
    """Read Retry-After: seconds, or a date, which is measured against the answer's own Date."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    until_s, now_s = _http_date(value), _http_date(headers.get("Date"))
    return None if until_s is None or now_s is None else max(0.0, until_s - now_s)


def _http_date(text: str | None) -> float | None:
    try:
        return None if text is None else parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
