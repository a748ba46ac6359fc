"""HMAC-SHA256 (RFC 2104) under a key that signs many messages.

Both hashes begin with a block made from the key alone. Those beginnings are kept for the keys in use: OpenSSL's own
HMAC sets everything up anew for each message, which takes four times as long as hashing a short one.
"""

from __future__ import annotations

import functools
import hashlib

_BLOCK_BYTES = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


def hmac_sha256(key: bytes, message: bytes) -> bytes:
    """Sign the message."""
    begun_inner, begun_outer = _beginnings(key)
    inner, outer = begun_inner.copy(), begun_outer.copy()
    inner.update(message)
    outer.update(inner.digest())
    return outer.digest()


@functools.lru_cache(maxsize=16)
def _beginnings(key: bytes) -> tuple[hashlib._Hash, hashlib._Hash]:
    """Hash the first block of both; there are a few keys at a time: one an upload account, one a day and service."""
    short = hashlib.sha256(key).digest() if len(key) > _BLOCK_BYTES else key
    block = short.ljust(_BLOCK_BYTES, b"\0")
    return hashlib.sha256(block.translate(_INNER)), hashlib.sha256(block.translate(_OUTER))
