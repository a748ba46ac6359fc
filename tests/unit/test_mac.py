"""The MAC against Python's own."""

from __future__ import annotations

import hmac

from hypothesis import given
from hypothesis import strategies as st

from s3nsync.mac import hmac_sha256


@given(st.binary(max_size=200), st.lists(st.binary(max_size=300), min_size=1, max_size=3))
def test_every_key_signs_as_python_does_however_often_it_is_used(key: bytes, messages: list[bytes]) -> None:
    """Keys shorter, as long and longer than a block; a key's second message is signed like its first."""
    assert [hmac_sha256(key, message) for message in messages] == [hmac.digest(key, m, "sha256") for m in messages]


def test_keys_around_one_block_sign_as_python_does() -> None:
    """A key of a whole block is used as it is, one byte more is hashed first."""
    for size in (0, 1, 63, 64, 65, 128):
        assert hmac_sha256(b"k" * size, b"message") == hmac.digest(b"k" * size, b"message", "sha256")
