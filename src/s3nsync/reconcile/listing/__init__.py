"""Listing both sides in key order, in batches, with bounded memory.

`s3` asks for pages of ListObjectsV2, several stretches of the bucket at once, and `page` reads them; `netstorage`
reads ObjectStore's `list` or walks FileStore's directories; `ahead` is how both read ahead of their reader and still
give everything in order; `spill` sorts what does not fit into memory; `patience` is how often each page is asked for.
`compare.join` takes what comes out.
"""

from s3nsync.reconcile.listing.netstorage import list_directory
from s3nsync.reconcile.listing.patience import Patience
from s3nsync.reconcile.listing.s3 import list_bucket

__all__ = ["Patience", "list_bucket", "list_directory"]
