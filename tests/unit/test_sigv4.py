"""SigV4 against AWS's own signer: the same headers for a thousand random requests."""

from __future__ import annotations

import calendar
import hashlib
import string
import time
from urllib.parse import unquote

import pytest
from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials as BotoCredentials
from hypothesis import given, settings
from hypothesis import strategies as st

from s3nsync.sigv4 import EMPTY_SHA256, UNSIGNED_PAYLOAD, Credentials, Signer, encode_path, encode_query

KEYS = st.text(
    alphabet=st.one_of(
        st.sampled_from(" /+%&=?#~*'()!$,;:@[]\"\\<>^`{|}é€\U0001f600\x7f"), st.characters(codec="utf-8")
    ),
    max_size=40,
)
TEXTS = st.text(alphabet=st.characters(codec="utf-8"), max_size=20)
QUERIES = st.lists(st.tuples(TEXTS, TEXTS), max_size=5)
HEADER_NAMES = st.one_of(
    st.sampled_from(
        ["Range", "If-Match", "x-amz-checksum-mode", "Content-Type", "User-Agent", "Expect", "X-Amz-Target"]
    ),
    st.text(alphabet=string.ascii_letters + string.digits + "-", min_size=1, max_size=12).map("x-t-{}".format),
)
HEADERS = st.lists(
    st.tuples(HEADER_NAMES, st.text(alphabet=string.printable.replace("\r", "").replace("\n", ""), max_size=20)),
    max_size=5,
)
CREDENTIALS = st.builds(
    Credentials,
    access_key=st.text(alphabet=string.ascii_uppercase + string.digits, min_size=16, max_size=20),
    secret_key=st.text(alphabet=string.ascii_letters + string.digits + "/+", min_size=1, max_size=40),
    token=st.none() | st.text(alphabet=string.ascii_letters + string.digits + "/+=", min_size=1, max_size=60),
)
HOST = "media.s3.eu-central-1.amazonaws.com"


def _theirs(
    auth: SigV4Auth, method: str, target: str, headers: list[tuple[str, str]], body: bytes, *, unsigned: bool = False
) -> list[tuple[str, str]]:
    request = AWSRequest(method=method, url=f"https://{HOST}{target}", data=body)
    for name, value in headers:
        request.headers[name] = value
    if unsigned:
        request.context["client_config"] = Config(s3={"payload_signing_enabled": False})
    auth.add_auth(request)
    return sorted((name.lower(), value) for name, value in request.headers.items())


def _ours(
    signer: Signer,
    method: str,
    target: str,
    *,
    headers: list[tuple[str, str]],
    sha256: str,
    theirs: list[tuple[str, str]],
) -> list[tuple[str, str]]:
    now_s = calendar.timegm(time.strptime(dict(theirs)["x-amz-date"], "%Y%m%dT%H%M%SZ"))
    signed = signer.sign(method, target, HOST, headers=headers, payload_sha256=sha256, now_s=now_s)
    return sorted((name.lower(), value) for name, value in signed)


@settings(max_examples=800, deadline=None)
@given(
    credentials=CREDENTIALS,
    method=st.sampled_from(["GET", "HEAD", "PUT"]),
    key=KEYS,
    query=QUERIES,
    headers=HEADERS,
    unsigned=st.booleans(),
)
def test_s3_requests_are_signed_as_botocore_signs_them(
    *,
    credentials: Credentials,
    method: str,
    key: str,
    query: list[tuple[str, str]],
    headers: list[tuple[str, str]],
    unsigned: bool,
) -> None:
    """For S3 every header equals botocore's, for any key, query, header set and credentials."""
    target = "/" + encode_path(key) + ("?" + encode_query(query) if query else "")
    boto = BotoCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    theirs = _theirs(S3SigV4Auth(boto, "s3", "eu-central-1"), method, target, headers, b"", unsigned=unsigned)
    signer = Signer(credentials, region="eu-central-1", service="s3")
    sha256 = UNSIGNED_PAYLOAD if unsigned else EMPTY_SHA256
    assert _ours(signer, method, target, headers=headers, sha256=sha256, theirs=theirs) == theirs


@settings(max_examples=300, deadline=None)
@given(
    credentials=CREDENTIALS, headers=HEADERS, body=st.binary(max_size=200), path=st.sampled_from(["/", "/1/q%20é.fifo"])
)
def test_sqs_requests_are_signed_as_botocore_signs_them(
    credentials: Credentials, headers: list[tuple[str, str]], body: bytes, path: str
) -> None:
    """For SQS every header equals botocore's, the body's hash being part of the signature only."""
    target = encode_path(unquote(path))
    boto = BotoCredentials(credentials.access_key, credentials.secret_key, credentials.token)
    theirs = _theirs(SigV4Auth(boto, "sqs", "eu-central-1"), "POST", target, headers, body)
    signer = Signer(credentials, region="eu-central-1", service="sqs")
    sha256 = hashlib.sha256(body).hexdigest()
    assert _ours(signer, "POST", target, headers=headers, sha256=sha256, theirs=theirs) == theirs


def test_the_published_get_object_example() -> None:
    """The signature of the GET Object example in AWS's S3 API reference comes out."""
    credentials = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    signed = Signer(credentials, region="us-east-1", service="s3").sign(
        "GET",
        "/test.txt",
        "examplebucket.s3.amazonaws.com",
        headers=[("Range", "bytes=0-9")],
        payload_sha256=EMPTY_SHA256,
        now_s=1369353600,
    )
    signature = dict(signed)["Authorization"].rpartition("=")[2]
    assert signature == "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"


def test_the_key_follows_the_day() -> None:
    """A signer used over midnight signs as a new one does, in both directions."""
    credentials = Credentials("AKIA", "secret")
    old = Signer(credentials, region="us-east-1", service="s3")
    for now_s in (86_399.0, 86_400.0, 86_399.5, 0.0):
        new = Signer(credentials, region="us-east-1", service="s3")
        signed = [signer.sign("GET", "/", "h", payload_sha256=EMPTY_SHA256, now_s=now_s) for signer in (old, old, new)]
        assert signed[0] == signed[1] == signed[2]


def test_secrets_are_not_shown() -> None:
    """Neither credentials nor signer show the secret key or the token."""
    credentials = Credentials("AKIAKNOWN", "very-secret", "session-token")
    signer = Signer(credentials, region="us-east-1", service="s3")
    signer.sign("GET", "/", "h", payload_sha256=EMPTY_SHA256, now_s=0)
    seal = signer.seal("GET", "h", payload_sha256=EMPTY_SHA256, now_s=0)
    for text in (repr(credentials), str(credentials), repr(signer), str(signer), repr(seal)):
        assert "AKIAKNOWN" in text or text == repr(seal)
        assert "very-secret" not in text
        assert "session-token" not in text


@pytest.mark.parametrize(
    ("key", "path"),
    [("a/b c", "a/b%20c"), ("a+b%", "a%2Bb%25"), ("é~", "%C3%A9~"), ("//x/../y", "//x/../y"), ("\n", "%0A")],
)
def test_keys_are_encoded_once(key: str, path: str) -> None:
    """A key is encoded as S3 wants it: UTF-8, upper-case hex, slashes and dots left alone."""
    assert encode_path(key) == path
    assert unquote(path) == key


def test_query_order_is_that_of_the_encoded_pairs() -> None:
    """The query is ordered by encoded name, then by encoded value, and empty values keep their `=`."""
    assert encode_query([("b", "2"), ("a", "€"), ("a", "x y"), ("a", "")]) == "a=&a=%E2%82%AC&a=x%20y&b=2"
