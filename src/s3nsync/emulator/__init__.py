"""A NetStorage that runs on your own machine: the HTTP API of both generations, with faults on demand.

Standard library only, nothing of the rest of the package. Read in this order: `protocol` (signature and action),
`store` and `blobs` (what is kept, and where), `actions` (what each action does), `faults` (what can go wrong),
`http` (bytes on the wire), `exchange` (one request), `server` (the whole), `control` (the JSON API beside
it), `serve` (all of it as a process), `command` (its command line).
"""

from s3nsync.emulator.exchange import Request
from s3nsync.emulator.faults import Fault
from s3nsync.emulator.protocol import Personality
from s3nsync.emulator.serve import Options, serve
from s3nsync.emulator.server import Emulator, Stored, running

__all__ = ["Emulator", "Fault", "Options", "Personality", "Request", "Stored", "running", "serve"]
