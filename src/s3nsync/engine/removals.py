"""What S3 has no more: deleted on NetStorage, or moved to the route's trash. That there is none is fine."""

from __future__ import annotations

from s3nsync.engine.access import Access
from s3nsync.errors import TargetConflict, TargetMissing
from s3nsync.model import Deleted, Retry


async def delete(access: Access, path: str) -> Deleted:
    """Remove the file for good."""
    removed = await access.delete(path)
    return Deleted(path, existed=removed.existed)


async def discard(access: Access, path: str, trash: str, *, retry_s: float) -> Deleted | Retry:
    """Move the file to its place in the trash; raises TargetConflict where it cannot go there.

    A first refusal may also mean that the trash lacks a directory (FileStore needs each): if one had to be made,
    the file is moved once more. If that fails too, a stat says whether the file is gone or only the replica that
    was asked is behind with the trash: both are told as 404. It is tried again in `retry_s` seconds then.
    """
    for may_lack_room in (True, False):
        try:
            await access.rename(path, trash)
        except (TargetMissing, TargetConflict) as error:
            if may_lack_room and await access.make_parents(trash):
                continue
            if isinstance(error, TargetConflict):
                raise
            return await _was_gone(access, path, retry_s)
        return Deleted(path, existed=True, trash=trash)
    raise AssertionError(path)


async def _was_gone(access: Access, path: str, retry_s: float) -> Deleted | Retry:
    entry = await access.stat(path)
    if entry is None or entry.type == "dir":
        return Deleted(path, existed=False)
    reason = f"{path} could not be moved to the trash: NetStorage says that one of them is missing"
    return Retry(reason, retry_s)
