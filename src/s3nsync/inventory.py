"""S3 Inventory instead of a listing."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

from s3nsync.compare import SourceItem
from s3nsync.model import ObjectRef
from s3nsync.s3 import S3


def list_inventory(
    s3: S3, manifest: ObjectRef, *, bucket: str, prefix: str = "", after: str = "", scratch: Path | None = None
) -> AsyncGenerator[list[SourceItem], None]:
    """List what an S3 Inventory (CSV) of `bucket` says, as `listing.list_bucket` would: current versions, in key order.

    `manifest` names its manifest.json; the manifest and every file are checked against their MD5s. What AWS left
    unsorted is sorted in files below `scratch` (default: the system's directory for temporary files). Raises
    SourceCorrupt naming the file that is missing, damaged or not readable, ConfigError for an inventory of another
    bucket or format.
    """
    raise NotImplementedError
