"""S3's side."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from s3nsync.compare import SourceItem
from s3nsync.s3 import S3


def list_bucket(
    s3: S3, bucket: str, prefix: str = "", *, after: str = "", parallel: int = 8
) -> AsyncGenerator[list[SourceItem], None]:
    """List the objects whose keys begin with `prefix`, in key order, from the first one after `after` on.

    Up to `parallel` stretches of the bucket are read at once. Close the generator when it is not read to its end.
    Raises SourceError by what S3 said, TransportError when no answer came, both after several tries of each page.
    """
    raise NotImplementedError
