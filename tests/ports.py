"""Ports for the programs that tests start and that cannot choose one by themselves.

Between the choice of a port and the moment in which a program listens on it lie seconds: it has to start first. In that
time nobody else may get the port, neither from the system (Linux gives ports from 32,768 on to who asks for any, ip(7))
nor from this module in another process.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from typing import Final

_NEVER_GIVEN: Final = range(20_000, 32_000)


def own_port() -> int:
    """Give a loopback port that nobody listens on, and that this gives to nobody else as long as this process lives."""
    while True:
        port = secrets.choice(_NEVER_GIVEN)
        with contextlib.suppress(OSError), socket.socket() as probe, _claim(port) as claim:
            probe.bind(("127.0.0.1", port))
            claim.detach()  # it ends with the process
            return port


def _claim(port: int) -> socket.socket:
    """Take the port's name (Linux: abstract, unix(7)); OSError if another process has it."""
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0s3nsync-test-port-{port}")
    except OSError:
        claim.close()
        raise
    return claim
