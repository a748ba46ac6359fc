"""Reading S3: against a local AWS that checks signatures and policies, and made-up answers where it gives none.

The made-up answers use S3's documented error codes; their texts are ours, and none is a recording of AWS.
"""

from __future__ import annotations

import base64
import hashlib
import re
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from awscrt import checksums
from hypothesis import given
from hypothesis import strategies as st

from aws_emulator import REGION, Aws
from hostile import Peer, answering, hostile
from s3nsync.errors import (
    BadAnswer,
    BucketElsewhere,
    BucketMissing,
    SourceArchived,
    SourceChanged,
    SourceCorrupt,
    SourceCredentials,
    SourceError,
    SourceForbidden,
    SourceKeyDenied,
    SourceUnavailable,
)
from s3nsync.http import Headers, Http, Origin
from s3nsync.model import Gone, ObjectRef, SourceInfo
from s3nsync.pacing import Backoff
from s3nsync.s3 import S3, Fault, address_of, error_of, gone_of, info_of
from s3nsync.sigv4 import EMPTY_SHA256, Credentials, Signer

KEYS = Credentials("AKIDEXAMPLE", "secret-of-tests", "token-of-tests")


@dataclass
class FixedKeys:
    """A source of credentials that gives `keys`, and after a refusal `fresh`; counts the refusals."""

    keys: Credentials
    fresh: Credentials | None = None
    refused: list[Credentials] = field(default_factory=list)

    async def get(self) -> Credentials:
        """Give the keys."""
        return self.keys

    async def renew(self, refused: Credentials) -> Credentials:
        """Give the fresh keys from now on, if there are any."""
        self.refused.append(refused)
        self.keys = self.fresh or self.keys
        return self.keys


@pytest.fixture
async def http() -> AsyncIterator[Http]:
    """Give a client whose connections must all be at rest in the end."""
    async with Http() as client:
        yield client
        assert re.search(r"[1-9]\d* busy", repr(client)) is None


@pytest.fixture
def s3(aws: Aws, http: Http) -> S3:
    """Read the local AWS with keys whose signatures it checks."""
    return S3(http, region=REGION, credentials=FixedKeys(aws.keys), endpoint=aws.url)


@pytest.fixture
def bucket(aws: Aws) -> str:
    """Give a new bucket."""
    return aws.bucket()


def at(http: Http, origin: Origin, keys: FixedKeys | None = None) -> S3:
    """Read from a scripted server, without real waits."""

    async def no_wait(_seconds: float) -> None:
        pass

    return S3(
        http,
        region=REGION,
        credentials=keys or FixedKeys(KEYS),
        endpoint=str(origin),
        sleep=no_wait,
        backoff=Backoff(0.001, 0.001),
    )


async def read(s3: S3, ref: ObjectRef) -> tuple[SourceInfo, bytes]:
    """Open, read all, close."""
    opened = await s3.open(ref)
    assert not isinstance(opened, Gone)
    try:
        return opened.info, await opened.read_all()
    finally:
        await opened.aclose()


def error_answer(status: int, code: str, message: str = "", extra: str = "", headers: str = "") -> bytes:
    """Word an answer the way S3 does."""
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{extra}'
        "<RequestId>4442587FB7D0A2F9</RequestId></Error>"
    ).encode()
    head = f"HTTP/1.1 {status} Said\r\nContent-Type: application/xml\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def object_answer(body: bytes, *, status: int = 200, headers: str = "", etag: str = "e1") -> bytes:
    """Word the answer to a GET of an object."""
    return (
        f'HTTP/1.1 {status} OK\r\nETag: "{etag}"\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n'
        f"Content-Length: {len(body)}\r\n{headers}\r\n"
    ).encode() + body


# --- against the local AWS ---------------------------------------------------------------------------------------


async def test_reads_an_object_and_its_facts(aws: Aws, s3: S3, bucket: str) -> None:
    """One GET gives the bytes, size, ETag, date, encryption, encoding, checksum and the uploader's mtime."""
    body = b"hello " * 1000
    sha256 = base64.b64encode(hashlib.sha256(body).digest()).decode()
    put = aws.s3.put_object(
        Bucket=bucket,
        Key="a.txt",
        Body=body,
        ServerSideEncryption="AES256",
        ContentEncoding="gzip",
        Metadata={"mtime": "1700000000.5"},
        ChecksumSHA256=sha256,
    )
    info, got = await read(s3, ObjectRef(bucket, "a.txt"))
    assert got == body
    assert info.size_bytes == 6000
    assert f'"{info.etag}"' == put["ETag"]
    assert info.last_modified_s == int(aws.s3.head_object(Bucket=bucket, Key="a.txt")["LastModified"].timestamp())
    assert info.encryption == "AES256"
    assert not info.customer_key
    assert info.content_encoding == "gzip"
    assert info.metadata_mtime == "1700000000.5"
    assert info.checksums == {"sha256": hashlib.sha256(body).hexdigest()}
    assert await s3.head(ObjectRef(bucket, "a.txt")) == info


@pytest.mark.parametrize(
    "key",
    [
        "plain",
        "with space.txt",
        "a+b%2Bc%zz",
        "Ünï/日本語 ☃.bin",
        "x=1&y=2;?#'\"<>\\|^`{}[]",
        "//leading//double",
        "dots/../and/./more",
        "~tilde!*'()@:,$",
        "line\nbreak\tand\x01control",
    ],
)
async def test_reads_any_key(aws: Aws, s3: S3, bucket: str, key: str) -> None:
    """The key on the request line is the key that was signed, and the key in S3, whatever is in it."""
    aws.s3.put_object(Bucket=bucket, Key=key, Body=key.encode())
    _, got = await read(s3, ObjectRef(bucket, key))
    assert got == key.encode()


@pytest.mark.parametrize("size", [0, 1, 262_143, 262_144, 262_145, 3_000_000])
async def test_reads_any_size(aws: Aws, s3: S3, bucket: str, size: int) -> None:
    """Empty, tiny and many chunks long: the bytes are the same, checked against S3's CRC64NVME."""
    body = bytes(i * 31 % 251 for i in range(size))
    crc = base64.b64encode(checksums.crc64nvme(body).to_bytes(8, "big")).decode()
    aws.s3.put_object(Bucket=bucket, Key="k", Body=body, ChecksumCRC64NVME=crc)
    info, got = await read(s3, ObjectRef(bucket, "k"))
    assert got == body
    assert info.checksums == {"crc64nvme": f"{checksums.crc64nvme(body):016x}"}


async def test_a_composite_checksum_is_left_out(aws: Aws, s3: S3, bucket: str) -> None:
    """A multipart upload's checksum of checksums says nothing about the bytes, so it is not offered."""
    upload = aws.s3.create_multipart_upload(
        Bucket=bucket, Key="k", ChecksumAlgorithm="SHA256", ChecksumType="COMPOSITE"
    )["UploadId"]
    part = aws.s3.upload_part(
        Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"part one", ChecksumAlgorithm="SHA256"
    )
    aws.s3.complete_multipart_upload(
        Bucket=bucket,
        Key="k",
        UploadId=upload,
        MultipartUpload={
            "Parts": [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": part["ChecksumSHA256"]}],
        },
    )
    info, got = await read(s3, ObjectRef(bucket, "k"))
    assert got == b"part one"
    assert info.checksums == {}
    assert info.etag.endswith("-1")


async def test_an_absent_key_is_gone(s3: S3, bucket: str) -> None:
    """NoSuchKey in answer to a GET is Gone; a HEAD gives None, which is no more than a hint."""
    assert await s3.open(ObjectRef(bucket, "nope")) == Gone("no-such-key")
    assert await s3.head(ObjectRef(bucket, "nope")) is None


async def test_a_delete_marker_is_gone(aws: Aws, s3: S3) -> None:
    """A deleted key of a versioned bucket is Gone, and the answer says why."""
    bucket = aws.bucket(versioned=True)
    put = aws.s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    info, _ = await read(s3, ObjectRef(bucket, "k"))
    assert info.version_id == put["VersionId"]
    aws.s3.delete_object(Bucket=bucket, Key="k")
    assert await s3.open(ObjectRef(bucket, "k")) == Gone("delete-marker")


async def test_a_missing_bucket_is_not_a_missing_object(s3: S3) -> None:
    """NoSuchBucket stops the route; it never counts as gone."""
    with pytest.raises(BucketMissing, match="NoSuchBucket"):
        await s3.open(ObjectRef("no-such-bucket-here", "k"))
    with pytest.raises(BucketMissing):
        await s3.probe("no-such-bucket-here")


async def test_an_archived_object_says_so(aws: Aws, s3: S3, bucket: str) -> None:
    """A GLACIER object can be looked at, and reading it is SourceArchived, not a failure to retry."""
    aws.s3.put_object(Bucket=bucket, Key="k", Body=b"x", StorageClass="GLACIER")
    with pytest.raises(SourceArchived, match="InvalidObjectState") as caught:
        await s3.open(ObjectRef(bucket, "k"))
    assert not caught.value.transient
    info = await s3.head(ObjectRef(bucket, "k"))
    assert info is not None
    assert info.storage_class == "GLACIER"


async def test_an_object_under_its_uploaders_key_says_so(aws: Aws, s3: S3, bucket: str) -> None:
    """An SSE-C object cannot be read without the key, and the hint says what to do."""
    aws.s3.put_object(Bucket=bucket, Key="k", Body=b"x", SSECustomerAlgorithm="AES256", SSECustomerKey="0" * 32)
    with pytest.raises(SourceKeyDenied) as caught:
        await s3.open(ObjectRef(bucket, "k"))
    assert "SSE-C" in caught.value.hint


async def test_a_forbidden_object_is_not_an_absent_one(aws: Aws, http: Http, bucket: str) -> None:
    """403 is SourceForbidden for GET and HEAD, whether the object exists or not."""
    aws.s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    keys = FixedKeys(aws.user("s3:ListAllMyBuckets"))
    s3 = S3(http, region=REGION, credentials=keys, endpoint=aws.url)
    for key in ("k", "nope"):
        with pytest.raises(SourceForbidden, match="403"):
            await s3.open(ObjectRef(bucket, key))
        with pytest.raises(SourceForbidden, match="403"):
            await s3.head(ObjectRef(bucket, key))


async def test_unknown_keys_are_a_credentials_error(aws: Aws, http: Http, bucket: str) -> None:
    """An access key that AWS does not know stops the route, and so does a wrong secret; neither shows in the error."""
    for keys in (Credentials("AKIANOBODY", "s3cr3t"), Credentials(aws.keys.access_key, "s3cr3t")):
        s3 = S3(http, region=REGION, credentials=FixedKeys(keys), endpoint=aws.url)
        with pytest.raises(SourceCredentials) as caught:
            await s3.open(ObjectRef(bucket, "k"))
        assert caught.value.pauses_route
        assert "s3cr3t" not in f"{caught.value!r} {caught.value.hint} {s3!r}"


async def test_a_wrong_clock_is_not_the_objects_fault(aws: Aws, http: Http, bucket: str) -> None:
    """RequestTimeTooSkewed is transient, teaches nothing about the object, and the hint names the clock."""
    s3 = S3(
        http,
        region=REGION,
        credentials=FixedKeys(aws.keys),
        endpoint=aws.url,
        now_s=lambda: 1_600_000_000.0,
    )
    with pytest.raises(SourceUnavailable, match="RequestTimeTooSkewed") as caught:
        await s3.open(ObjectRef(bucket, "k"))
    assert "clock" in caught.value.hint


async def test_the_probe_passes_and_names_what_is_missing(aws: Aws, http: Http, s3: S3, bucket: str) -> None:
    """A bucket that can be listed passes, also when empty; without s3:ListBucket the hint names that right."""
    await s3.probe(bucket)
    keys = FixedKeys(aws.user("s3:GetObject"))
    with pytest.raises(SourceForbidden) as caught:
        await S3(http, region=REGION, credentials=keys, endpoint=aws.url).probe(bucket)
    assert "s3:ListBucket" in caught.value.hint


async def test_a_bucket_of_another_region_is_read_there(aws: Aws, http: Http) -> None:
    """Wherever the difference shows, GET, HEAD, probe or list, the request is signed for the bucket's own region."""
    aws.s3.create_bucket(Bucket="bucket-abroad", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    aws.s3.put_object(Bucket="bucket-abroad", Key="k", Body=b"x")
    ref = ObjectRef("bucket-abroad", "k")
    told: list[tuple[str, str]] = []

    def reader() -> S3:
        return S3(
            http,
            region="us-east-1",
            credentials=FixedKeys(aws.keys),
            endpoint=aws.url,
            on_elsewhere=lambda bucket, region: told.append((bucket, region)),
        )

    s3 = reader()
    for _ in range(2):  # it is found out once
        assert (await read(s3, ref))[1] == b"x"
        assert await s3.head(ref) is not None
        assert await s3.probe("bucket-abroad") == "eu-west-1"
    assert told == [("bucket-abroad", "eu-west-1")]
    assert await reader().head(ref) is not None
    assert await reader().probe("bucket-abroad") == "eu-west-1"
    assert b"<Key>k</Key>" in await reader().list_page("bucket-abroad", [("list-type", "2")])


async def test_an_overwrite_while_reading_never_mixes_versions(aws: Aws, http: Http, bucket: str) -> None:
    """After a break the rest is asked of the same version only: replaced is SourceChanged, and so is deleted."""
    old = b"old " * 500_000
    for replace in (True, False):
        aws.s3.put_object(Bucket=bucket, Key="k", Body=old)
        ref = ObjectRef(bucket, "k")
        s3 = S3(http, region=REGION, credentials=FixedKeys(aws.keys), endpoint=aws.url)
        opened = await s3.open(ref)
        assert not isinstance(opened, Gone)
        first = await anext(opened.chunks())
        assert old.startswith(first)
        if replace:
            aws.s3.put_object(Bucket=bucket, Key="k", Body=b"new " * 500_000)
        else:
            aws.s3.delete_object(Bucket=bucket, Key="k")
        await opened.aclose()  # the connection goes; the next chunk needs a new one
        with pytest.raises(SourceChanged):
            await opened.read_all()
        await opened.aclose()


async def test_a_broken_read_goes_on_from_its_byte(aws: Aws, s3: S3, bucket: str) -> None:
    """A connection that goes away in the middle costs nothing but a ranged GET that the real thing understands."""
    body = bytes(i * 7 % 256 for i in range(2_000_000))
    aws.s3.put_object(Bucket=bucket, Key="k", Body=body)
    opened = await s3.open(ObjectRef(bucket, "k"))
    assert not isinstance(opened, Gone)
    first = await anext(opened.chunks())
    await opened.aclose()
    assert first + await opened.read_all() == body
    await opened.aclose()


# --- answers of our own --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "kind", "hint"),
    [
        (error_answer(503, "SlowDown", "Please reduce your request rate."), SourceUnavailable, ""),
        (error_answer(500, "InternalError", "We encountered an internal error."), SourceUnavailable, ""),
        (error_answer(400, "RequestTimeout", "Your socket connection timed out."), SourceUnavailable, ""),
        (error_answer(409, "OperationAborted", "A conflicting operation is in progress."), SourceUnavailable, ""),
        (error_answer(307, "TemporaryRedirect", "Please re-send this request."), SourceUnavailable, ""),
        (error_answer(403, "InvalidAccessKeyId", "not in our records"), SourceCredentials, ""),
        (error_answer(400, "InvalidToken", "The provided token is malformed."), SourceCredentials, ""),
        (error_answer(403, "AccessDenied", "Access Denied"), SourceForbidden, "s3:GetObject"),
        (error_answer(403, "AllAccessDisabled", "All access has been disabled."), SourceForbidden, ""),
        # KMS refusals come as plain AccessDenied; only the text names the action
        (
            error_answer(403, "AccessDenied", "User: x is not authorized to perform: kms:Decrypt on the resource y"),
            SourceKeyDenied,
            "kms:Decrypt",
        ),
        (error_answer(400, "KMS.DisabledException", "arn is disabled."), SourceKeyDenied, "kms:Decrypt"),
        (error_answer(400, "KMS.ThrottlingException", "You have exceeded the rate."), SourceUnavailable, ""),
        (error_answer(400, "AuthorizationHeaderMalformed", "bad"), SourceCredentials, ""),
        (error_answer(301, "PermanentRedirect", "use the endpoint"), BucketElsewhere, "region"),
        (error_answer(400, "IllegalLocationConstraintException", "incompatible"), BucketElsewhere, "region"),
        (error_answer(412, "PreconditionFailed", "did not hold"), SourceChanged, ""),
        (error_answer(400, "InvalidArgument", "what?"), SourceError, ""),
        # Not S3's: a proxy, a load balancer, a captive portal
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nnot found", BucketMissing, "nothing was deleted"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", BucketMissing, "nothing was deleted"),
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 31\r\n\r\n<html><Code>NoSuchKey</Code></ht",
            BucketMissing,
            "nothing was deleted",
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", SourceUnavailable, ""),
        (b"HTTP/1.1 429 Slower\r\nContent-Length: 0\r\n\r\n", SourceUnavailable, ""),
    ],
)
async def test_every_refusal_has_its_meaning(http: Http, answer: bytes, kind: type[SourceError], hint: str) -> None:
    """Each answer is the error that says what it means, with the advice that belongs to it; none of them is Gone."""
    async with hostile(answering(answer)) as server:
        with pytest.raises(SourceError) as caught:
            await at(http, server.origin).open(ObjectRef("bucket", "k"))
    assert type(caught.value) is kind
    assert hint in caught.value.hint
    assert "s3://bucket/k" in caught.value.message


async def test_an_endless_404_is_not_s3s(http: Http) -> None:
    """An error document longer than any of S3's is not believed, even if it begins like one."""
    body = b"<Error><Code>NoSuchKey</Code><Message>" + b"x" * 100_000 + b"</Message></Error>"
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    async with hostile(answering(answer)) as server:
        with pytest.raises(BucketMissing):
            await at(http, server.origin).open(ObjectRef("bucket", "k"))


async def test_retry_after_is_passed_on(http: Http) -> None:
    """The peer's own wish is on the error, in seconds."""
    answer = error_answer(503, "SlowDown", headers="Retry-After: 7\r\n")
    async with hostile(answering(answer)) as server:
        with pytest.raises(SourceUnavailable) as caught:
            await at(http, server.origin).open(ObjectRef("bucket", "k"))
    assert caught.value.retry_after_s == 7.0


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_expired_token_is_renewed_once(http: Http, method: str) -> None:
    """With new keys the request goes out again, signed with them; HEAD answers carry no code, so 400 is enough."""
    refusal = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/xml\r\nContent-Length: 0\r\n\r\n"
    if method == "GET":
        refusal = error_answer(400, "ExpiredToken", "The provided token has expired.")
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.head())
        await peer.send(refusal)
        seen.append(await peer.head())
        await peer.send(object_answer(b"" if method == "HEAD" else b"x"))
        await peer.rest()

    keys = FixedKeys(KEYS, fresh=Credentials("AKIDFRESH", "other", "new-token"))
    async with hostile(script) as server:
        s3, ref = at(http, server.origin, keys), ObjectRef("bucket", "k")
        if method == "GET":
            assert (await read(s3, ref))[1] == b"x"
        else:
            assert await s3.head(ref) is not None
    assert keys.refused == [KEYS]
    assert b"x-amz-security-token: token-of-tests" in seen[0]
    assert b"AKIDFRESH" in seen[1]
    assert b"x-amz-security-token: new-token" in seen[1]


async def test_each_request_is_signed_for_its_second_and_by_the_keys_of_now(http: Http) -> None:
    """What the requests of a second share is never used in another one, with other keys, method or bucket."""
    seen: list[str] = []

    async def script(peer: Peer) -> None:
        while head := await peer.head():
            seen.append(head.decode())
            await peer.send(object_answer(b"" if head.startswith(b"HEAD") else b"x"))

    other = Credentials("AKIDOTHER", "other")
    keys, now_s = FixedKeys(KEYS), 1_800_000_000.0
    async with hostile(script) as server:
        s3 = S3(http, region=REGION, credentials=keys, endpoint=str(server.origin), now_s=lambda: now_s)
        signed = []
        for keys.keys, now_s, bucket, key in (
            (KEYS, 1_800_000_000.2, "one", "a"),
            (KEYS, 1_800_000_000.9, "one", "b"),
            (KEYS, 1_800_000_001.0, "one", "c"),
            (KEYS, 1_800_000_001.0, "two", "c"),
            (other, 1_800_000_001.0, "two", "d"),
        ):
            for method in ("HEAD", "GET"):
                ref = ObjectRef(bucket, key)
                assert await (s3.head(ref) if method == "HEAD" else read(s3, ref))
                signer = Signer(keys.keys, region=REGION, service="s3")
                signed.append(
                    signer.sign(
                        method,
                        f"/{bucket}/{key}",
                        server.origin.authority,
                        headers=(("x-amz-checksum-mode", "ENABLED"),),
                        payload_sha256=EMPTY_SHA256,
                        now_s=now_s,
                    )
                )
    assert len(seen) == len(signed)
    for head, fields in zip(seen, signed, strict=True):
        for name, value in fields:
            assert f"\r\n{name}: {value}\r\n" in head


async def test_a_token_that_stays_expired_is_a_credentials_error(http: Http) -> None:
    """When there are no other keys, the request is not sent again."""
    keys = FixedKeys(KEYS)
    async with hostile(answering(error_answer(400, "ExpiredToken"))) as server:
        with pytest.raises(SourceCredentials):
            await at(http, server.origin, keys).open(ObjectRef("bucket", "k"))
    assert keys.refused == [KEYS]


async def test_the_request_as_it_is_on_the_wire(http: Http) -> None:
    """GET asks for S3's checksum and for unaltered bytes; only x-amz headers and Host are signed."""
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.head())
        await peer.send(object_answer(b"x"))
        await peer.rest()

    async with hostile(script) as server:
        await read(at(http, server.origin), ObjectRef("bucket", "a b/ü+%.txt"))
    lines = seen[0].decode().split("\r\n")
    assert lines[0] == "GET /bucket/a%20b/%C3%BC%2B%25.txt HTTP/1.1"
    assert "accept-encoding: identity" in seen[0].decode().lower()
    assert "x-amz-checksum-mode: ENABLED" in lines
    assert (
        "SignedHeaders=host;x-amz-checksum-mode;x-amz-content-sha256;x-amz-date;x-amz-security-token,"
        in seen[0].decode()
    )
    assert b"secret-of-tests" not in seen[0]


async def test_resuming_asks_for_the_rest_of_the_same_version(http: Http) -> None:
    """After a cut the new GET has Range and If-Match, and the pieces make the object."""
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        seen.append(await peer.head())
        if peer.number == 1:
            await peer.send(object_answer(b"0123456789")[:-6])
            return
        await peer.send(object_answer(b"456789", status=206, headers="Content-Range: bytes 4-9/10\r\n"))
        await peer.rest()

    async with hostile(script) as server:
        assert (await read(at(http, server.origin), ObjectRef("bucket", "k")))[1] == b"0123456789"
    assert b"Range: bytes=4-9\r\n" in seen[1]
    assert b'If-Match: "e1"\r\n' in seen[1]


@pytest.mark.parametrize(
    "second",
    [
        object_answer(b"0123456789"),  # Range ignored: the whole again
        object_answer(b"56789", status=206, headers="Content-Range: bytes 5-9/10\r\n"),  # another place
        object_answer(b"456789x", status=206, headers="Content-Range: bytes 4-10/11\r\n"),  # another size
        object_answer(b"456789", status=206),  # no word about the place
    ],
)
async def test_a_wrong_range_is_never_spliced_in(http: Http, second: bytes) -> None:
    """An answer that does not begin at the byte asked for, of the size known, is refused each time."""

    async def script(peer: Peer) -> None:
        await peer.head()
        if peer.number == 1:
            await peer.send(object_answer(b"0123456789")[:-6])
            return
        while True:
            await peer.send(second)
            await peer.head()

    async with hostile(script) as server:
        with pytest.raises(SourceUnavailable, match="asked for bytes"):
            await read(at(http, server.origin), ObjectRef("bucket", "k"))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (error_answer(412, "PreconditionFailed"), SourceChanged),
        (error_answer(404, "NoSuchKey"), SourceChanged),
        (error_answer(404, "NoSuchKey", headers="x-amz-delete-marker: true\r\n"), SourceChanged),
        (error_answer(416, "InvalidRange"), SourceChanged),
        (error_answer(404, "NoSuchBucket"), BucketMissing),
        (error_answer(403, "AccessDenied"), SourceForbidden),
    ],
)
async def test_what_stops_a_resumed_read(http: Http, answer: bytes, kind: type[SourceError]) -> None:
    """When the rest of this very version cannot be had any more, the read ends with the reason, at once."""
    count = 0

    async def script(peer: Peer) -> None:
        nonlocal count
        count += 1
        await peer.head()
        await peer.send(object_answer(b"0123456789")[:-6] if peer.number == 1 else answer)
        if peer.number != 1:
            await peer.rest()

    async with hostile(script) as server:
        with pytest.raises(SourceError) as caught:
            await read(at(http, server.origin), ObjectRef("bucket", "k"))
    assert type(caught.value) is kind
    assert count == 2


async def test_an_object_without_its_facts_is_not_read(http: Http) -> None:
    """A 200 without an ETag, and a part where the whole was asked for, are BadAnswer; no connection is left open."""
    plain = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"
    for answer in (plain, object_answer(b"x", status=206)):
        async with hostile(answering(answer)) as server:
            with pytest.raises(BadAnswer):
                await at(http, server.origin).open(ObjectRef("bucket", "k"))
            assert " 0 busy" in repr(http)


async def test_damaged_bytes_never_come_out_whole(http: Http) -> None:
    """A checksum header that does not fit the bytes is SourceCorrupt."""
    crc = base64.b64encode(zlib.crc32(b"0123456789").to_bytes(4, "big")).decode()
    answer = object_answer(b"0123456798", headers=f"x-amz-checksum-crc32: {crc}\r\n")
    async with hostile(answering(answer)) as server:
        with pytest.raises(SourceCorrupt, match="crc32"):
            await read(at(http, server.origin), ObjectRef("bucket", "k"))


async def test_a_page_that_is_not_a_listing_fails_the_probe(http: Http) -> None:
    """A 200 from something that is not S3 does not pass for a bucket."""
    async with hostile(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")) as server:
        with pytest.raises(BucketMissing, match="not S3"):
            await at(http, server.origin).probe("bucket")


async def test_the_probe_learns_the_region_it_is_told(http: Http) -> None:
    """A listing that names another region (a request routed across regions) is told, and is where to ask from then."""
    body = b"<ListBucketResult></ListBucketResult>"
    answer = b"HTTP/1.1 200 OK\r\nx-amz-bucket-region: sa-east-1\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        while True:
            seen.append(await peer.head())
            await peer.send(answer)

    async with hostile(script) as server:
        s3 = at(http, server.origin)
        assert [await s3.probe("bucket") for _ in range(2)] == ["sa-east-1"] * 2
    assert [b"/sa-east-1/s3/" in head for head in seen] == [False, True]


MOVED = "x-amz-bucket-region: ap-south-1\r\nLocation: http://127.0.0.1:1/\r\n"


@pytest.mark.parametrize(
    "moved",
    [
        error_answer(301, "PermanentRedirect", extra="<Endpoint>evil.example</Endpoint>", headers=MOVED),
        error_answer(307, "TemporaryRedirect", extra="<Endpoint>evil.example</Endpoint>", headers=MOVED),
        error_answer(400, "AuthorizationHeaderMalformed", "wrong", "<Region>ap-south-1</Region>"),
    ],
)
async def test_a_region_that_s3_tells_is_followed_once(http: Http, moved: bytes) -> None:
    """The request goes out again, signed for that region, and so does every later one; a second word is an error."""
    seen: list[bytes] = []

    async def script(peer: Peer) -> None:
        for answer in (moved, object_answer(b"x"), object_answer(b"x"), moved.replace(b"ap-south", b"eu-south"), moved):
            seen.append(await peer.head())
            await peer.send(answer)
        await peer.rest()

    async with hostile(script) as server:
        s3, ref = at(http, server.origin), ObjectRef("bucket", "k")
        assert (await read(s3, ref))[1] == b"x"
        assert (await read(s3, ref))[1] == b"x"
        with pytest.raises(SourceError, match=r"S3 answered (301|307|400)"):
            await s3.open(ref)
    regions = [b"ap-south-1", b"ap-south-1", b"ap-south-1", b"eu-south-1"]
    assert f"/{REGION}/s3/".encode() in seen[0]
    assert all(b"/%b/s3/" % region in head for region, head in zip(regions, seen[1:], strict=True))


@pytest.mark.parametrize("region", ["evil.example/", "EU-WEST-1", "", "x", "eu-west-1@evil", "a" * 40])
async def test_what_cannot_be_a_region_is_not_followed(http: Http, region: str) -> None:
    """A redirect to anything but a region's name, or without one, is an error after one request."""
    answer = error_answer(301, "PermanentRedirect", extra=f"<Region>{region}</Region><Endpoint>evil</Endpoint>")
    async with hostile(answering(answer)) as server:
        with pytest.raises(BucketElsewhere):
            await at(http, server.origin).open(ObjectRef("bucket", "k"))


async def test_no_location_is_ever_followed(http: Http) -> None:
    """A redirect of a proxy's or a captive portal's is S3's word on nothing."""
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with hostile(answering(answer)) as server:
        with pytest.raises(SourceError):
            await at(http, server.origin).open(ObjectRef("bucket", "k"))


# --- pure parts --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bucket", "region", "endpoint", "origin", "root"),
    [
        ("media", "eu-central-1", None, "https://media.s3.eu-central-1.amazonaws.com", "/"),
        ("media.example.com", "eu-central-1", None, "https://s3.eu-central-1.amazonaws.com", "/media.example.com/"),
        ("media", "cn-north-1", None, "https://media.s3.cn-north-1.amazonaws.com.cn", "/"),
        ("media", "us-east-1", "http://127.0.0.1:4566", "http://127.0.0.1:4566", "/media/"),
    ],
)
def test_addresses(bucket: str, region: str, endpoint: str | None, origin: str, root: str) -> None:
    """Virtual-hosted style at AWS, path style for dotted names and for other endpoints."""
    found = address_of(bucket, region, endpoint)
    assert (str(found.origin), found.root) == (origin, root)


@given(
    status=st.sampled_from([301, 400, 403, 404, 405, 409, 412, 429, 500, 503]),
    code=st.sampled_from(["", "NoSuchKey", "NoSuchBucket", "AccessDenied", "InvalidSecurity", "SlowDown", "Unheard"])
    | st.text(),
    message=st.text(),
    region=st.sampled_from(["", "eu-west-1"]),
    marker=st.booleans(),
)
def test_only_two_answers_mean_gone(status: int, code: str, message: str, region: str, *, marker: bool) -> None:
    """Whatever is answered: Gone needs 404 with NoSuchKey or a delete marker; all else is an error of ours."""
    fault = Fault(status, code, message, region, delete_marker=marker)
    assert (gone_of(fault) is not None) == (status == 404 and (marker or code == "NoSuchKey"))
    error = error_of(fault, "subject")
    assert isinstance(error, SourceError)
    assert error.transient or status < 500
    assert error.hint


@pytest.mark.parametrize(
    ("name", "value"), [("content-length", None), ("etag", None), ("last-modified", None), ("last-modified", "soon")]
)
def test_an_answer_without_its_facts_is_not_s3s(name: str, value: str | None) -> None:
    """Size, ETag and date are always there at S3; without them nothing is copied."""
    fields = {"content-length": "3", "etag": '"e"', "last-modified": "Sun, 06 Nov 1994 08:49:37 GMT"}
    fields.pop(name)
    if value is not None:
        fields[name] = value
    with pytest.raises(BadAnswer):
        info_of(200, Headers(tuple(fields.items())), ObjectRef("b", "k"))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-amz-checksum-crc32": "y/Q5Jg==", "x-amz-checksum-type": "FULL_OBJECT"}, {"crc32": "cbf43926"}),
        ({"x-amz-checksum-crc32": "y/Q5Jg=="}, {"crc32": "cbf43926"}),
        ({"x-amz-checksum-crc32": "y/Q5Jg==", "x-amz-checksum-type": "COMPOSITE"}, {}),
        ({"x-amz-checksum-sha256": "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=-2"}, {}),
        ({"x-amz-checksum-crc32": "not base64!"}, {}),
    ],
)
def test_only_full_object_checksums_count(headers: dict[str, str], expected: dict[str, str]) -> None:
    """A COMPOSITE checksum, told by its type or by its "-parts" ending, is left out; digests are lower-case hex."""
    fields = {"content-length": "3", "etag": '"e"', "last-modified": "Sun, 06 Nov 1994 08:49:37 GMT", **headers}
    info = info_of(200, Headers(tuple(fields.items())), ObjectRef("b", "k"))
    assert info.checksums == expected
    assert info.last_modified_s == 784111777
