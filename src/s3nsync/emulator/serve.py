"""Run an emulator as a process: until SIGINT or SIGTERM, then stop in order."""

from __future__ import annotations

import asyncio
import signal
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from s3nsync.emulator.protocol import Personality
from s3nsync.emulator.server import Emulator


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How to run: see `Emulator` for what the settings mean; `control_port` None leaves the control API off."""

    user: str
    key: str = field(repr=False)
    cpcodes: tuple[str, ...]
    personality: Personality = Personality.OBJECTSTORE
    host: str = "127.0.0.1"
    port: int = 0
    control_port: int | None = 0
    folder: Path | None = None
    discard: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    clock_window_s: float = 60
    nonce_replay: bool = False
    quick_delete: bool = False
    page_cap: int = 1000
    seed: int = 0

    def emulator(self) -> Emulator:
        """Return the emulator these options describe; raise ValueError or OSError."""
        return Emulator(
            accounts={self.user: self.key},
            cpcodes=self.cpcodes,
            personality=self.personality,
            folder=self.folder,
            discard=self.discard,
            tls=None if self.tls_cert is None else _tls(self.tls_cert, self.tls_key),
            clock_window_s=self.clock_window_s,
            nonce_replay=self.nonce_replay,
            quick_delete=self.quick_delete,
            page_cap=self.page_cap,
            seed=self.seed,
        )


async def serve(options: Options, *, ready: Callable[[Emulator], None]) -> None:
    """Run until SIGINT or SIGTERM; `ready` is called once it listens. Raise ValueError, OSError at the start."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    emulator = options.emulator()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        await emulator.start(options.host, options.port, options.control_port)
        ready(emulator)
        await stop.wait()
    finally:
        await emulator.stop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _tls(certificate: Path, key: Path | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    files = (certificate,) if key is None else (certificate, key)
    for path in files:
        path.open("rb").close()  # an error of ssl's does not name the file
    try:
        context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        names = " and ".join(map(str, files))
        raise ValueError(f"{names}: no certificate with its private key, both as PEM") from error
    return context
