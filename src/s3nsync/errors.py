"""Everything that can go wrong, as one tree of types.

An error is part of the product: it says what failed, on what, what that means and what to do next. Whether trying
again can help (`transient`) is a property of the type, set here, read where a message is settled; nobody else decides.

    S3nsyncError
    ├── ConfigError              the user's settings; exit code 2
    │   └── UsageError             the command line
    ├── UndecodableEvent         a message nobody can make sense of
    ├── LeaseLost                the queue may have given our message to another worker
    ├── TransportError           (transient) HTTP could not carry the request or its answer
    │   ├── ConnectFailed          no connection: nothing was sent
    │   │   └── TlsRefused           (permanent) the peer's certificate was not accepted (stops the route)
    │   ├── ConnectionLost         broke while in use
    │   ├── Stalled                no byte moved for too long
    │   └── BadAnswer              the peer does not speak HTTP as it should
    ├── SourceError              what S3 said
    │   ├── SourceForbidden        403 on one object
    │   ├── SourceKeyDenied        the object's KMS key may not be used
    │   ├── SourceArchived         in Glacier, Deep Archive or an archive tier
    │   ├── SourceCredentials      S3 does not accept who we are (stops the route)
    │   ├── BucketMissing          NoSuchBucket, or a 404 that is not S3's (stops the route)
    │   ├── BucketElsewhere        the bucket lives in another region
    │   ├── BucketEmpty            it lists nothing, where something was expected
    │   ├── SourceChanged          (transient) another version took its place while we read
    │   ├── SourceCorrupt          (transient) bytes and S3's own checksum differ
    │   └── SourceUnavailable      (transient) 5xx, throttled
    ├── TargetError              what NetStorage said
    │   ├── TargetCredentials      403 although the clock is right (stops the route)
    │   ├── TargetClock            403 because our clock is off
    │   ├── TargetMissing          404
    │   ├── TargetConflict         409, or a file where a directory must be
    │   ├── TargetPrecondition     (transient) 412: size or digest did not match what arrived
    │   ├── TargetRefused          400 and other 4xx
    │   └── TargetUnavailable      (transient) 429, 5xx
    └── QueueError               (transient) what SQS said
        └── QueueMissing           the queue does not exist, or we may not use it
"""

from __future__ import annotations

from typing import ClassVar


class S3nsyncError(Exception):
    """Something failed: `message` says what and on what, `hint` what to do next.

    `retry_after_s` is the peer's own wish, if it voiced one. `ambiguous` is true when a write was sent and its answer
    never came: it may still land.
    """

    transient: ClassVar[bool] = False
    pauses_route: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1
    default_hint: ClassVar[str] = "try again; if it stays, run it with S3NSYNC_DEBUG=1 and report what it shows"

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        ambiguous: bool = False,
    ) -> None:
        """Build the error; `hint` replaces the type's own advice."""
        super().__init__(message)
        self.message = message
        self.hint = hint if hint is not None else self.default_hint
        self.status = status
        self.retry_after_s = retry_after_s
        self.ambiguous = ambiguous


class ConfigError(S3nsyncError):
    """The settings cannot be used as they are."""

    exit_code = 2
    default_hint = "mend the setting named above; docs/configuration.md lists them all"


class UsageError(ConfigError):
    """The command line cannot be understood."""

    default_hint = "--help has all options; so has docs/cli.md"


class UndecodableEvent(S3nsyncError):
    """A message that is none of the known event dialects."""

    default_hint = "look at the body in the dead-letter queue; if it is a new dialect, report it"


class LeaseLost(S3nsyncError):
    """The queue may have handed our message to another worker: write nothing more, do not ack."""

    default_hint = "nothing to do: the message comes back, and a check covers what was sent"


# --- HTTP ------------------------------------------------------------------------------------------------------


class TransportError(S3nsyncError):
    """HTTP could not carry the request or its answer.

    `sent` is true when at least one byte of the request was handed to the socket; `reused` when the connection had
    served another request before (it may simply have been closed by the peer while idle).
    """

    transient = True
    default_hint = "check the network path to the host; the work is tried again by itself"

    def __init__(self, message: str, *, sent: bool = False, reused: bool = False, hint: str | None = None) -> None:
        """Build the error with what is known about the bytes that left."""
        super().__init__(message, hint=hint)
        self.sent = sent
        self.reused = reused


class ConnectFailed(TransportError):
    """No connection could be made; nothing was sent."""

    exit_code = 3
    default_hint = "check host name, port, security group and route; is the host the one of your account?"


class TlsRefused(ConnectFailed):
    """The peer's certificate was not accepted; nothing was sent."""

    transient = False
    pauses_route = True
    default_hint = "check the host name; for a private certificate authority set ca_file"


class ConnectionLost(TransportError):
    """The connection broke while a request was under way."""


class Stalled(TransportError):
    """No byte moved in either direction for longer than the progress time-out."""


class BadAnswer(TransportError):
    """The peer's answer is not HTTP/1.1, or breaks a limit of ours."""

    default_hint = "is this host and port really the service that you mean?"


# --- S3 --------------------------------------------------------------------------------------------------------


class SourceError(S3nsyncError):
    """S3 answered, and it was not the object."""

    default_hint = "see the S3 error code in the message"


class SourceForbidden(SourceError):
    """S3 answered 403 for one object."""

    default_hint = "grant s3:GetObject on the object (and s3:ListBucket on the bucket), then retry the entry"


class SourceKeyDenied(SourceForbidden):
    """The object is encrypted with a KMS key that we may not use."""

    default_hint = "grant kms:Decrypt on the object's key to the worker's role, then retry the entry"


class SourceArchived(SourceError):
    """The object is in an archive class and must be restored before it can be read."""

    default_hint = "restore the object; its ObjectRestore:Completed event brings it here by itself"


class SourceCredentials(SourceError):
    """S3 does not accept our credentials at all."""

    exit_code = 3
    pauses_route = True
    default_hint = "check the task role or the AWS credentials in the environment"


class BucketMissing(SourceError):
    """There is no such bucket, or something that is not S3 answered 404."""

    exit_code = 3
    pauses_route = True
    default_hint = "check the bucket name, the account and the endpoint; nothing was deleted on NetStorage"


class BucketElsewhere(SourceError):
    """The bucket lives in another region than the one configured."""

    exit_code = 3
    pauses_route = True
    default_hint = "set region to the bucket's own region"


class BucketEmpty(SourceError):
    """The bucket lists nothing, and NetStorage holds files."""

    default_hint = "check bucket, prefix and policy; if the bucket really is empty, say so: --expect-empty"


class SourceChanged(SourceError):
    """Another version took the object's place while it was being read."""

    transient = True
    default_hint = "nothing to do: the newer version is read next"


class SourceCorrupt(SourceError):
    """The bytes that arrived do not match S3's own length or checksum."""

    transient = True
    default_hint = "if it persists, the object or the network path damages bytes: compare with `aws s3api head-object`"


class SourceUnavailable(SourceError):
    """S3 is throttling, or failing on its side."""

    transient = True
    default_hint = "nothing to do unless it lasts; S3 scales a prefix up by itself"


# --- NetStorage ------------------------------------------------------------------------------------------------


class TargetError(S3nsyncError):
    """NetStorage answered, and it was a refusal."""

    default_hint = "see the status and text in the message"


class TargetCredentials(TargetError):
    """NetStorage answered 403 although our clock is right: key, account name or path is not accepted."""

    exit_code = 3
    pauses_route = True
    default_hint = "check NS_HOSTNAME, NS_USER, NS_KEY and that the upload account may write below this CP code"


class TargetClock(TargetError):
    """NetStorage answered 403 because the request's time is too far from its own."""

    transient = True
    exit_code = 3
    default_hint = "set the clock by NTP; the offset seen has been learned and is used from now on"


class TargetMissing(TargetError):
    """There is nothing at this path."""

    exit_code = 4
    default_hint = "check the path; it begins with the CP code"


class TargetConflict(TargetError):
    """A file stands where a directory must be, or the other way round."""

    default_hint = "FileStore cannot hold `a` and `a/b` at once: rename one of them in S3 or exclude it"


class TargetPrecondition(TargetError):
    """NetStorage found that size or digest of what arrived is not what was declared."""

    transient = True
    default_hint = "nothing to do unless it lasts: the object is read and sent again"


class TargetRefused(TargetError):
    """NetStorage does not understand or does not allow the request."""

    default_hint = "the text in the message is NetStorage's own; the feature may be off for this storage group"


class TargetUnavailable(TargetError):
    """NetStorage throttles (429) or fails on its side (5xx)."""

    transient = True
    exit_code = 3
    default_hint = "nothing to do unless it lasts; lower max_in_flight if 429s go on"


# --- queue -----------------------------------------------------------------------------------------------------


class QueueError(S3nsyncError):
    """SQS did not do what was asked."""

    transient = True
    default_hint = "nothing to do unless it lasts"


class QueueMissing(QueueError):
    """The queue does not exist, or we may not use it."""

    transient = False
    exit_code = 3
    default_hint = (
        "check the queue URL, its region, and that this role has sqs:ReceiveMessage, SendMessage, DeleteMessage, "
        "ChangeMessageVisibility and GetQueueAttributes on it"
    )
