"""The few facts that every part of the simulation shares: its times, its one route, and how bytes and paths are told.

Times are in seconds. Sizes are small, so that a handful of bytes already makes a stream of several chunks.
"""

from __future__ import annotations

from hashlib import md5

from s3nsync.model import ObjectRef, Route

UNIX_S = 1_800_000_000.0
"""Unix time at the loop's zero."""

GRACE_S, LEASE_S = 80.0, 120.0
SIGNATURE_S = 60.0
"""How old a signature NetStorage accepts."""

IDLE_S = 30.0

CHUNK_BYTES, BUFFER_BYTES = 8, 16
ROUTE = Route(bucket="media", cpcode="123456", directory="site")
BELOW = "/123456/site/"


def digest(data: bytes) -> str:
    """Give the MD5 in hex."""
    return md5(data, usedforsecurity=False).hexdigest()


def show(data: bytes | None) -> str:
    """Show an object's bytes in the story: its first letters, or that there is none."""
    return "nothing" if data is None else f"{data[:3].decode()}[{len(data)}]"


def ref_of(path: str) -> ObjectRef | None:
    """Give the object whose place this is."""
    return ObjectRef("media", path.removeprefix(BELOW)) if path.startswith(BELOW) else None


def path_of(ref: ObjectRef) -> str:
    """Give the place of an object."""
    return BELOW + ref.key
