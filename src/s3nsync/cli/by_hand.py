"""NetStorage used by a person: what a path is, and what to do when something fails.

The error types advise the worker, which tries again by itself; `advise` says what a person does instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from s3nsync.errors import (
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    S3nsyncError,
    Stalled,
    TargetClock,
    TargetConflict,
    TargetPrecondition,
    TargetRefused,
    TargetUnavailable,
    TlsRefused,
)
from s3nsync.netstorage.wire import request_target


def check_path(path: str) -> None:
    """Refuse what cannot be a path before anything is sent: ConfigError, for it is wrong usage."""
    if not path.startswith("/"):
        like = f": /{path}" if path[:1].isdigit() else ", such as /123456/directory/file"
        raise ConfigError(f"{path!r} is no NetStorage path", hint=f"a path begins with / and the CP code{like}")
    if not path.strip("/"):
        raise ConfigError(f"{path!r} names no CP code", hint="begin with a CP code of your account: /123456")
    try:
        request_target(path)
    except TargetRefused as error:
        raise ConfigError(error.message, hint="write the path out, without . and .. in it") from None


_MAY_BE_STORED = "run it again; what was sent may have been stored"
_ADVICE: Mapping[type[S3nsyncError], str] = {
    TlsRefused: "check the host (NS_HOSTNAME); for a certificate authority of your own set NS_CA_FILE (ca_file)",
    ConnectFailed: "check the host (NS_HOSTNAME), and that this machine may connect to it",
    ConnectionLost: "run it again; if it goes on, check the network path to the host",
    Stalled: "run it again; if it goes on, check the network path to the host",
    TargetClock: "set this machine's clock (NTP), then run it again",
    TargetConflict: "a file is in the place of a directory, or the other way round: `ls` shows which",
    TargetPrecondition: "it changed while it was sent, or was damaged on its way: run it again",
    TargetUnavailable: "wait a little and run it again; after a 429 with fewer --jobs",
}
"""What a person does about an error whose own advice is meant for the worker."""


def advise(error: S3nsyncError) -> None:
    """Put advice for a person in place of a type's own; advice for its special case stays."""
    if error.ambiguous:
        error.hint = _MAY_BE_STORED
    elif error.hint == error.default_hint:
        error.hint = _ADVICE.get(type(error), error.hint)


@contextlib.contextmanager
def advice(kind: type[S3nsyncError], hint: str) -> Iterator[None]:
    """Advise on errors of this kind within the block, unless they know better."""
    try:
        yield
    except kind as error:
        if error.hint == error.default_hint:
            error.hint = hint
        raise
