"""Signature and action header: published vectors, the clock window, replay, several keys, what is refused."""

from __future__ import annotations

import json
from base64 import b64decode
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Unpack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raw_netstorage import KEY, NOW_S, USER, Auth, auth_headers
from s3nsync.emulator.protocol import Gate, Refused, decode_path, message_to_sign, parse_action, parse_call, signature

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "netstorage.json").read_text(encoding="utf-8"))
TARGET = "/123456/a%20b"
ACTION = "version=1&action=upload"


def gate(*, window_s: float = 60, refuse_replay: bool = False) -> Gate:
    """Return a gate with one account that has two keys."""
    return Gate({USER: (KEY, "older-key")}, window_s, refuse_replay)


def headers(target: str = TARGET, action: str = ACTION, **auth: Unpack[Auth]) -> dict[str, str]:
    """Return signature headers by lower-case name."""
    return {name.lower(): value for name, value in auth_headers(target, action, **auth)}


def refused_status(headers: dict[str, str], target: str = TARGET, now_s: float = NOW_S) -> int:
    """Return the status a fresh gate refuses with, 0 when it lets pass."""
    try:
        gate().check(headers, target.encode(), now_s)
    except Refused as refused:
        return refused.status
    return 0


@pytest.mark.parametrize("vector", VECTORS["signatures"], ids=lambda vector: vector["target"])
def test_published_signatures(vector: dict[str, str]) -> None:
    """Signatures others have published come out as printed, and open the gate."""
    target = vector["target"].encode()
    assert signature(vector["key"], "5", message_to_sign(vector["data"], target, vector["action"])) == vector["sign"]
    signed = {
        "x-akamai-acs-action": vector["action"],
        "x-akamai-acs-auth-data": vector["data"],
        "x-akamai-acs-auth-sign": vector["sign"],
    }
    Gate({vector["user"]: (vector["key"],)}, 0, refuse_replay=True).check(signed, target, float(vector["time_s"]))


@pytest.mark.parametrize("vector", VECTORS["targets"], ids=lambda vector: vector["target"])
def test_published_targets(vector: dict[str, str]) -> None:
    """Request targets address the path they were made from."""
    path = b64decode(vector["path_base64"]) if "path_base64" in vector else vector["path"].encode()
    assert b"/" + decode_path(vector["target"].encode()) == path


@pytest.mark.parametrize("vector", VECTORS["actions"], ids=lambda vector: vector["header"])
def test_published_actions(vector: dict[str, Any]) -> None:
    """Action headers say what they were made to say."""
    options = {name: str(value).encode() for name, value in vector["options"].items()}
    assert parse_action(vector["header"]) == {"version": b"1", "action": vector["action"].encode(), **options}


@pytest.mark.parametrize("version", ["3", "4", "5"])
def test_three_versions(version: str) -> None:
    """Versions 3, 4 and 5 are MD5, SHA-1 and SHA-256, by a second hand's reckoning."""
    assert refused_status(headers(version=version)) == 0


def test_rotation() -> None:
    """Every key an account has is good, another one is not."""
    assert refused_status(headers(key="older-key")) == 0
    assert refused_status(headers(key="wrong")) == 403
    assert refused_status(headers(user="stranger")) == 403


def test_request_target_is_signed_as_sent() -> None:
    """Two spellings of one path are two signatures."""
    assert refused_status(headers("/123456/a%20b"), "/123456/a%20b") == 0
    assert refused_status(headers("/123456/a b"), "/123456/a%20b") == 403
    assert refused_status(headers("/123456/%c3%a9"), "/123456/%C3%A9") == 403


@pytest.mark.parametrize(("offset_s", "status"), [(0, 0), (60, 0), (-60, 0), (61, 403), (-61, 403)])
def test_clock_window(offset_s: int, status: int) -> None:
    """A request may be off by the window and no more."""
    assert refused_status(headers(time_s=NOW_S + offset_s)) == status


def test_replay_is_refused_when_asked_for() -> None:
    """The same auth data passes twice by default, once with the option, and is forgotten after the window."""
    signed = headers()
    lenient, strict = gate(), gate(refuse_replay=True)
    for _ in range(2):
        lenient.check(signed, TARGET.encode(), NOW_S)
    strict.check(signed, TARGET.encode(), NOW_S)
    with pytest.raises(Refused):
        strict.check(signed, TARGET.encode(), NOW_S)
    strict.check(headers(time_s=NOW_S + 200), TARGET.encode(), NOW_S + 200)
    assert signed["x-akamai-acs-auth-data"] not in strict._seen


@pytest.mark.parametrize("data", ["", "5,0,0", "6, 0.0.0.0, 0.0.0.0, 1700000000, 1, media-1", "5,0,0,now,1,media-1"])
def test_malformed_auth_data(data: str) -> None:
    """Auth data that is not six fields of the known kinds is refused."""
    assert refused_status({**headers(), "x-akamai-acs-auth-data": data}) == 403


def test_missing_headers() -> None:
    """No signature is a refusal, not an error."""
    assert refused_status({"x-akamai-acs-action": ACTION}) == 403


def test_keys_stay_out_of_sight() -> None:
    """A gate's repr does not show its keys."""
    assert KEY not in repr(gate())


@pytest.mark.parametrize(
    ("method", "action", "status"),
    [
        ("PUT", None, 403),
        ("PUT", "action=upload", 400),
        ("PUT", "version=2&action=upload", 400),
        ("PUT", "version=1&action=fly", 400),
        ("PUT", "version=1", 400),
        ("PUT", "version=1&action=upload&size", 400),
        ("PUT", "version=1&action=rename&destination=/a=b", 400),
        ("GET", "version=1&action=upload", 403),
        ("PUT", "version=1&action=stat", 403),
        ("HEAD", "version=1&action=stat", 403),
        ("POST", "version=1&action=upload", 0),
        ("GET", "version=1&action=dir&format=xml&", 0),
        ("PUT", "version=1&action=delete", 0),
        ("HEAD", "version=1&action=download", 0),
    ],
)
def test_what_is_a_call(method: str, action: str | None, status: int) -> None:
    """Actions want version 1, a known name, escaped values and a fitting method; PUT and POST are alike for writes."""
    with pytest.raises(Refused) if status else nullcontext() as refusal:
        parse_call(method, b"/123456/x", action)
    assert (refusal.value.status if refusal else 0) == status


def test_values_are_decoded_once() -> None:
    """An escaped escape stays an escape; plus is a space."""
    assert parse_action("destination=%2F1%2Fa%252Fb+c")["destination"] == b"/1/a%2Fb c"


@given(st.binary(max_size=40))
def test_any_name_can_be_asked_for(name: bytes) -> None:
    """Percent-encoded bytes come back whatever they are; the query is no part of the name."""
    encoded = "".join(f"%{byte:02X}" for byte in name).encode()
    assert decode_path(b"/" + encoded + b"?x=1") == name
