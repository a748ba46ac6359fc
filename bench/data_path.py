"""How much CPU the data path costs: S3 GET, decision, digest, NetStorage PUT, for many objects at once.

    nginx (files as S3 objects)  ->  engine, S3 reader, NetStorage client in this process  ->  emulator (keeps no bytes)

Both sides speak TLS (certificates made for the run); queue, log and metrics are left out. The figure to trust is CPU
seconds of this process for 1,000 objects: on a shared machine objects a second are noisy. Rounds of the sizes are
interleaved; the table shows medians and spread. This is for work on the data path, `python -m bench.data_path`; the
comparison with others is `make bench`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import platform
import resource
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from bench import path_client

from s3nsync.app import relax_collector
from s3nsync.engine import Replicator
from s3nsync.http import Http, tls_context
from s3nsync.model import ObjectRef, Route
from s3nsync.netstorage import Account

BUCKET, CPCODE, USER, KEY = "bench", "123456", "bench", "a-key-for-the-bench"
NGINX = """
worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log; daemon off;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000; types {{ }} default_type application/octet-stream;
  client_body_temp_path {home}/a; proxy_temp_path {home}/b; fastcgi_temp_path {home}/c; uwsgi_temp_path {home}/d;
  scgi_temp_path {home}/e;
  ssl_certificate {home}/server.pem; ssl_certificate_key {home}/server.pem;
  server {{ listen 127.0.0.1:{port} ssl; root {home}/root; }}
}}
"""


@dataclass(frozen=True, slots=True)
class Case:
    """One size of object, and how many of them make a round."""

    name: str
    size_bytes: int
    count: int
    in_flight: int


@dataclass(frozen=True, slots=True)
class Round:
    """What one round cost this process."""

    cpu_s: float
    wall_s: float


async def copy_all(case: Case, engine: Replicator) -> Round:
    """Replicate every object of the case once."""
    refs = [ObjectRef(BUCKET, f"{case.name}/{number}") for number in range(case.count)]
    return Round(*await path_client.copy_all(refs, engine, case.in_flight))


async def measure(
    cases: list[Case], rounds: int, source_url: str, target_port: int, tls: ssl.SSLContext
) -> dict[str, list[Round]]:
    """Run the rounds, sizes interleaved, after one round of each that is not counted."""
    found: dict[str, list[Round]] = {case.name: [] for case in cases}
    account = Account.parse(f"127.0.0.1:{target_port}", USER, KEY)
    async with Http(tls=tls) as s3_http, Http(tls=tls) as ns_http:
        engine = path_client.engine_on(Route(BUCKET, CPCODE), source_url, account, s3_http, ns_http)
        for number in range(rounds + 1):
            for case in cases:
                done = await copy_all(case, engine)
                if number:
                    found[case.name].append(done)
                print(f"  round {number}: {case.name} {done.wall_s:.1f} s", file=sys.stderr)
    return found


def certify(home: Path) -> ssl.SSLContext:
    """Make an authority and a certificate of its for 127.0.0.1, into server.pem; gives what clients trust it by."""
    authority = trustme.CA()
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(home / "server.pem")
    context = tls_context()
    authority.configure_trust(context)
    return context


@contextmanager
def source(home: Path, cases: list[Case]) -> Iterator[str]:
    """Serve the objects by nginx; gives the URL to use as S3's."""
    home.chmod(0o755)  # nginx's own process is another user's
    for case in cases:
        folder = home / "root" / BUCKET / case.name
        folder.mkdir(parents=True)
        for number in range(case.count):
            (folder / str(number)).write_bytes(os.urandom(case.size_bytes))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (home / "nginx.conf").write_text(NGINX.format(home=home, port=port))
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    process = subprocess.Popen([nginx, "-p", home, "-c", home / "nginx.conf", "-e", home / "error.log"])
    try:
        _until(lambda: socket.create_connection(("127.0.0.1", port), 1).close())
        yield f"https://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def target(home: Path) -> Iterator[int]:
    """Run the emulator in a process of its own; gives its port."""
    command = [sys.executable, "-m", "s3nsync.emulator", "--discard", "--json", "--user", USER, "--cpcode", CPCODE]
    command += ["--tls-cert", str(home / "server.pem")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "NS_KEY": KEY})
    assert process.stdout is not None
    try:
        yield int(json.loads(process.stdout.readline())["url"].rpartition(":")[2])
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()


def _until(works: Callable[[], None]) -> None:
    deadline_s = time.monotonic() + 10
    while True:
        try:
            return works()
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)


def table(cases: list[Case], found: dict[str, list[Round]]) -> list[str]:
    """Give the result as Markdown."""
    lines = [
        "| object | in flight | CPU s per 1,000: median (min to max) | objects/s: median | objects per CPU-second |",
        "|---|--:|--:|--:|--:|",
    ]
    for case in cases:
        cpu = [each.cpu_s / case.count * 1000 for each in found[case.name]]
        rate = statistics.median(case.count / each.wall_s for each in found[case.name])
        mid = statistics.median(cpu)
        lines.append(
            f"| {case.name} | {case.in_flight} | {mid:.3f} ({min(cpu):.3f} to {max(cpu):.3f}) | {rate:,.0f} "
            f"| {1000 / mid:,.0f} |"
        )
    return lines


def main() -> None:
    """Run the bench and print what came out."""
    rounds = 5
    cases = [
        Case("4 KiB", 4096, 4000, 64),
        Case("100 KiB", 100 << 10, 1000, 32),
        Case("1 MiB", 1 << 20, 200, 16),
    ]
    with contextlib.ExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tls = certify(home)
        url, port = stack.enter_context(source(home, cases)), stack.enter_context(target(home))
        try:
            import uvloop  # noqa: PLC0415 - optional

            runner, loop = asyncio.Runner(loop_factory=uvloop.new_event_loop), "uvloop"
        except ImportError:
            runner, loop = asyncio.Runner(), "asyncio"
        relax_collector()
        with runner:
            found = runner.run(measure(cases, rounds, url, port, tls))
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    about = f"Python {platform.python_version()}, {loop}, {machine}; TLS on both sides, SHA-256 of each object"
    peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print("\n".join([f"Data path, {about}. Peak memory {peak_bytes / 2**20:.0f} MiB.", "", *table(cases, found)]))


if __name__ == "__main__":
    main()
