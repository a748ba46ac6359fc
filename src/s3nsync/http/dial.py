"""Finding a host's addresses and connecting to the first that answers.

An address that swallows packets (an IPv6 route that leads nowhere, above all) must not cost the whole time-out: when
one has kept silent for a quarter of a second the next is tried beside it, families by turns. uvloop's own
create_connection goes through the addresses one after the other.

Source: RFC 8305 (Happy Eyeballs), sections 4 and 5.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

_SILENCE_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Address:
    """One of a host's addresses; `sockaddr` is what `connect` takes."""

    family: int
    sockaddr: tuple[str, int] | tuple[str, int, int, int] | tuple[int, bytes]


async def dial(host: str, port: int) -> socket.socket:
    """Connect to the first of the host's addresses that answers; OSError when none does, or there is none."""
    literal = address_of(host, port)
    if literal is not None:  # a resolver would only take a thread to say the same
        return await _connect(literal)
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return await connect_first(by_turns([Address(family, sockaddr) for family, _, _, _, sockaddr in found]))


def address_of(host: str, port: int) -> Address | None:
    """Give the address that `host` spells; None for a name, and for an address with a zone (`%eth0`)."""
    try:
        version = ipaddress.ip_address(host).version
    except ValueError:
        return None
    if version == 4:
        return Address(socket.AF_INET, (host, port))
    return None if "%" in host else Address(socket.AF_INET6, (host, port, 0, 0))


def by_turns(addresses: Sequence[Address]) -> list[Address]:
    """Order the addresses so that families take turns, the first one's first; else as the resolver has them."""
    first = [each for each in addresses if each.family == addresses[0].family]
    others = [each for each in addresses if each.family != addresses[0].family]
    pairs = itertools.zip_longest(first, others)
    return [each for pair in pairs for each in pair if each is not None]


async def connect_first(addresses: Sequence[Address], silence_s: float = _SILENCE_S) -> socket.socket:
    """Connect to the first that answers; each next one is tried when the one before fails or keeps silent."""
    left = list(addresses)
    tries: set[asyncio.Task[socket.socket]] = set()
    failure: BaseException = OSError("the name has no address")
    try:
        while left or tries:
            if left:
                tries.add(asyncio.ensure_future(_connect(left.pop(0))))
            done, tries = await asyncio.wait(
                tries, timeout=silence_s if left else None, return_when=asyncio.FIRST_COMPLETED
            )
            for each in done:
                error = each.exception()
                if error is None:
                    tries |= done - {each}
                    return each.result()
                failure = error
        raise failure
    finally:
        for each in tries:
            each.cancel()
            each.add_done_callback(_close_late)


async def _connect(address: Address) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        sock.settimeout(0)
        await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


def _close_late(task: asyncio.Task[socket.socket]) -> None:
    """Close what connected although nobody wanted it any more."""
    if not task.cancelled() and task.exception() is None:
        task.result().close()
