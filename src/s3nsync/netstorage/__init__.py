"""An async, typed, streaming client for Akamai NetStorage's HTTP API, usable on its own.

    async with open_netstorage("example-nsu.akamaihd.net", "user", "key") as netstorage:
        await netstorage.upload("/123456/hello.txt", b"hello")

`wire` holds the protocol as pure functions, `client` the network around it; all that a user needs is named here.
"""

from s3nsync.netstorage.client import NetStorage, open_netstorage
from s3nsync.netstorage.wire import Account, Applied, AtEnd, Entry, Page, Removed, Uploaded, Usage

__all__ = [
    "Account",
    "Applied",
    "AtEnd",
    "Entry",
    "NetStorage",
    "Page",
    "Removed",
    "Uploaded",
    "Usage",
    "open_netstorage",
]
