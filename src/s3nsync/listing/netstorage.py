"""NetStorage's side."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

from s3nsync.compare import TargetItem
from s3nsync.model import Route
from s3nsync.netstorage import NetStorage


def list_directory(
    netstorage: NetStorage, route: Route, *, after: str = "", leave_out: Sequence[str] = (), parallel: int = 8
) -> AsyncGenerator[list[TargetItem], None]:
    """List what NetStorage holds for a route, under the keys that the route gives its paths, in key order.

    It begins with the first key after `after`. `leave_out` names directories (absolute paths) that are passed over,
    such as a trash. FileStore is found out by its refusal of `list`; its directories are walked, `parallel` at once.
    An absent directory is an empty one. Close the generator when it is not read to its end. Raises TargetError,
    TransportError.
    """
    raise NotImplementedError
