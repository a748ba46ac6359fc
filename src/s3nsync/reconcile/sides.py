"""Both sides of a route, joined: what `verify` judges and `sync` copies by.

What S3 has comes from its listing or from an inventory, with the digests of a checksum report laid over it if there is
one; what NetStorage has from its own listing. A `Selection` narrows both sides alike, so that nothing looks missing or
extra because only one of them was narrowed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import TypeVar

from s3nsync.compare import Batches, Section, SourceItem, TargetItem, join
from s3nsync.model import ObjectRef, Route
from s3nsync.netstorage import NetStorage
from s3nsync.reconcile.inventory import list_checksums, list_inventory, with_checksums
from s3nsync.reconcile.listing import list_bucket, list_directory
from s3nsync.s3 import S3

Item = TypeVar("Item", SourceItem, TargetItem)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which part of a route, and where S3's side is told.

    `prefix`, `include` and `exclude` narrow what the route takes, with its own kinds of pattern. `inventory` names the
    manifest.json of an S3 Inventory to read in place of the listing, `checksums` that of a Batch Operations report.
    """

    prefix: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    inventory: ObjectRef | None = None
    checksums: ObjectRef | None = None

    def meets(self, route: Route) -> bool:
        """Say whether the prefix leaves anything of the route."""
        return self.prefix.startswith(route.prefix) or route.prefix.startswith(self.prefix)

    def prefix_in(self, route: Route) -> str:
        """Give what the keys looked at begin with: the longer of the two prefixes."""
        return max(self.prefix, route.prefix, key=len)

    def takes(self, key: str) -> bool:
        """Say whether the patterns let a key through."""
        if any(fnmatchcase(key, pattern) for pattern in self.exclude):
            return False
        return not self.include or any(fnmatchcase(key, pattern) for pattern in self.include)


async def joined(
    s3: S3, netstorage: NetStorage, route: Route, selection: Selection, *, after: str = ""
) -> AsyncGenerator[Section, None]:
    """Join what both sides have of a route, from the first key after `after` on; close it when not read to its end.

    Raises what the listings raise: SourceError, TargetError, TransportError, ConfigError for an unusable inventory.
    """
    async with AsyncExitStack() as stack:
        prefix = selection.prefix_in(route)
        source = await stack.enter_async_context(aclosing(_source(s3, route.bucket, prefix, selection, after)))
        narrowed = replace(route, prefix=prefix)
        target = await stack.enter_async_context(aclosing(list_directory(netstorage, narrowed, after=after)))
        sections = await stack.enter_async_context(aclosing(join(_only(source, selection), _only(target, selection))))
        async for section in sections:
            yield section


async def _source(
    s3: S3, bucket: str, prefix: str, selection: Selection, after: str
) -> AsyncGenerator[Sequence[SourceItem], None]:
    """Give S3's side in key order, with the digests of a report where there is one."""
    async with AsyncExitStack() as stack:
        if selection.inventory is None:
            listing = list_bucket(s3, bucket, prefix, after=after)
        else:
            listing = list_inventory(s3, selection.inventory, bucket=bucket, prefix=prefix, after=after)
        batches: Batches[SourceItem] = await stack.enter_async_context(aclosing(listing))
        if selection.checksums is not None:
            report = list_checksums(s3, selection.checksums, bucket=bucket)
            checksums = await stack.enter_async_context(aclosing(report))
            batches = await stack.enter_async_context(aclosing(with_checksums(batches, checksums)))
        async for items in batches:
            yield items


def _only(batches: Batches[Item], selection: Selection) -> Batches[Item]:
    """Leave out what the selection's patterns do not take; costs nothing without patterns."""
    return _filtered(batches, selection) if selection.include or selection.exclude else batches


async def _filtered(batches: Batches[Item], selection: Selection) -> AsyncGenerator[Sequence[Item], None]:
    async for items in batches:
        yield [each for each in items if selection.takes(each.key)]
