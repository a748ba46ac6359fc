"""Servers fast enough not to be what is measured: nginx as S3, as NetStorage and in front of SQS.

    source   files in memory, answered as S3 answers: ETag, CRC64NVME, a listing; plain and TLS
    sink     PUT into memory, answered 201 where NetStorage says 200; every byte is compared with the source afterwards
    queue    nginx in front of tests/sqs_stub.py (a process of its own), so that SQS calls go over TLS too
    shared   the source once more, for who reads parts of one version: it takes no notice of If-Match

Each server writes one line for each request, from which requests per object and the moment of each upload are read.
Nothing checks signatures, and nobody is throttled: real servers are slower, and further away. `line` puts distance in
front of one.

Nothing that one client did can be taken for another's: each run has a CP code of its own, and is judged when its last
connection has ended. nginx gives a file its name when its last byte has come, so what is there then is whole.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme
from awscrt import checksums

FIRST_CPCODE, USER, KEY, REGION = 100_001, "bench", "a-key-for-the-bench", "us-east-1"
BLOCK_BYTES = 64 << 20
COMPARE_BYTES = 1 << 20
ROOT = Path(__file__).resolve().parent.parent

NGINX = """
{user} worker_processes 1; pid {home}/nginx.pid; error_log {home}/error.log; daemon off;
events {{ worker_connections 4096; }}
http {{
  types {{ }} default_type application/octet-stream; sendfile on; tcp_nodelay on;
  keepalive_requests 100000000; keepalive_timeout 3600; client_max_body_size 0;
  client_body_temp_path {home}/a; proxy_temp_path {home}/b; fastcgi_temp_path {home}/c; uwsgi_temp_path {home}/d;
  scgi_temp_path {home}/e;
  ssl_certificate {home}/server.pem; ssl_certificate_key {home}/server.pem;
  map_hash_max_size 1048576; map_hash_bucket_size 256;
  map $uri $tag {{ include {home}/tags.map; }}
  map $uri $crc {{ include {home}/crcs.map; }}
  map $uri $whole {{ ~. FULL_OBJECT; }}
  map $http_x_akamai_acs_action $absent {{ ~action=(stat|dir) 1; default 0; }}
  log_format line '$msec $request_method $status $request_uri $http_x_amz_target';
  upstream stub {{ server 127.0.0.1:{stub}; keepalive 256; }}
  server {{
    listen 127.0.0.1:{source}; listen 127.0.0.1:{source_tls} ssl; access_log {home}/source.log line;
    root {home}/source; etag off;
    add_header ETag $tag; add_header x-amz-checksum-crc64nvme $crc; add_header x-amz-checksum-type $whole;
    {listings}
  }}
  server {{
    listen 127.0.0.1:{shared}; listen 127.0.0.1:{shared_tls} ssl; access_log {home}/shared.log line;
    location / {{
      proxy_pass http://127.0.0.1:{source}; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header If-Match ""; proxy_max_temp_file_size 0;
    }}
  }}
  server {{
    listen 127.0.0.1:{sink}; listen 127.0.0.1:{sink_tls} ssl; access_log {home}/sink.log line;
    root {home}/sink; dav_methods PUT; create_full_put_path on;
    location / {{ if ($absent) {{ return 404; }} }}
  }}
  server {{
    listen 127.0.0.1:{queue}; listen 127.0.0.1:{queue_tls} ssl; access_log {home}/queue.log line;
    location / {{ proxy_pass http://stub; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""
LISTING = """
    location = /{name} {{
      default_type application/xml;
      if ($args ~ "max-keys=1(&|$)") {{ rewrite ^ /lists/none.xml break; }}
      rewrite ^ /lists/{name}.xml break;
    }}"""
LIST = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>{name}</Name><Prefix></Prefix><KeyCount>{count}</KeyCount><MaxKeys>1000</MaxKeys>"
    "<IsTruncated>false</IsTruncated>{entries}</ListBucketResult>"
)
ENTRY = (
    "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>&quot;{tag}&quot;</ETag>"
    "<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
)
PORTS = ("source", "source_tls", "shared", "shared_tls", "sink", "sink_tls", "queue", "queue_tls", "stub", "line")
LOGS = ("source", "shared", "sink", "queue")
SETTLE_S = 20.0
HELD = {"01", "08"}
"""How /proc/net/tcp tells a connection that the server still has open: established, or given up by the client alone."""


@dataclass(frozen=True, slots=True)
class Case:
    """One size of object, a bucket of its own, and how many objects are in it."""

    name: str
    bucket: str
    size_bytes: int
    count: int
    parts_of: str = ""
    """The bucket whose objects these are, put in several parts: then an ETag is no MD5. It must be made before."""

    @property
    def keys(self) -> list[str]:
        """Give every key of the bucket."""
        return [str(number) for number in range(self.count)]


@dataclass(frozen=True, slots=True)
class Site:
    """How the servers are reached, by TLS or without, and the CP code that one run's uploads belong to."""

    tls: bool
    source_url: str
    sink_host: str
    queue_url: str
    ca_file: Path
    cpcode: str

    @property
    def sink_url(self) -> str:
        """Give the sink as a URL."""
        return f"{'https' if self.tls else 'http'}://{self.sink_host}"


@dataclass(frozen=True, slots=True)
class Line:
    """One request that a server answered, at Unix time `at_s`."""

    at_s: float
    method: str
    status: int
    target: str
    action: str


class Servers:
    """The running nginx, and the folder that it serves; one run of a client after the other."""

    def __init__(self, home: Path, ports: Mapping[str, int], process: subprocess.Popen[bytes], python: str) -> None:
        """Know where everything is, and the Python for what is written in it."""
        self.home = home
        self.ports = ports
        self.python = python
        self._process = process
        self._cpcode = FIRST_CPCODE - 1

    def begin(self, *, tls: bool, source: str = "source") -> Site:
        """Begin a run: empty logs, and a CP code that nobody wrote to before; what the last run left is removed."""
        self.settle()
        shutil.rmtree(self.home / "sink" / str(self._cpcode), ignore_errors=True)
        for name in LOGS:
            os.truncate(self.home / f"{name}.log", 0)
        self._cpcode += 1
        end, scheme = ("_tls", "https") if tls else ("", "http")
        at = {name: f"127.0.0.1:{self.ports[name + end]}" for name in (source, "sink", "queue")}
        queue_url = f"{scheme}://{at['queue']}"
        return Site(tls, f"{scheme}://{at[source]}", at["sink"], queue_url, self.home / "ca.pem", str(self._cpcode))

    def settle(self, wait_s: float = SETTLE_S) -> None:
        """Wait until the last client's last connection has ended, and with it all that it began."""
        deadline_s = time.monotonic() + wait_s
        while held := self._connections():
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"the last client is gone, but {held} of its connections are open still")
            time.sleep(0.02)

    def _connections(self) -> int:
        """Count the connections that nginx holds."""
        ports = {f"{port:04X}" for name, port in self.ports.items() if name not in {"stub", "line"}}
        rows = (row.split() for row in Path("/proc/net/tcp").read_text().splitlines()[1:])
        return sum(row[1].rpartition(":")[2] in ports and row[3] in HELD for row in rows)

    def lines(self, name: str) -> list[Line]:
        """Give what one server was asked in this run."""
        found = []
        for text in (self.home / f"{name}.log").read_text().splitlines():
            at_s, method, status, target, action = text.split(" ", 4)
            found.append(Line(float(at_s), method, int(status), target, action.removeprefix("AmazonSQS.")))
        return found

    def stored(self) -> int:
        """Count the uploads of this run that were stored; cheap enough to ask again and again."""
        return (self.home / "sink.log").read_bytes().count(f" PUT 201 /{self._cpcode}/".encode())

    def requests(self) -> Mapping[str, Counter[str]]:
        """Count what each server was asked, by method or SQS action, and status where it failed."""
        counts: dict[str, Counter[str]] = {}
        for name in ("source", "sink", "queue"):
            counts[name] = Counter()
            for line in self.lines(name):
                what = line.action if name == "queue" else line.method + (" list" if "list-type" in line.target else "")
                counts[name][what if line.status < 300 else f"{what} {line.status}"] += 1
        return counts

    def wrong(self, case: Case, *, whole: bool) -> list[str]:
        """Say of each upload how it differs from its source, byte for byte; `whole`: all objects must be there."""
        here, there = self.home / "source" / case.bucket, self.home / "sink" / str(self._cpcode)
        stored = {path.name for path in there.glob("*")}
        keys = case.keys if whole else sorted(stored.intersection(case.keys))
        stray = [f"{key} was never to be copied" for key in sorted(stored - set(case.keys))]
        return stray + [found for key in keys if (found := _difference(here / key, there / key))]

    def cpu_s(self) -> float:
        """Give the CPU seconds that nginx has used."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return sum(cpu_s_of(int(pid)) for pid in children)


def _difference(one: Path, other: Path) -> str:
    """Say how two files differ, with the digest of each; nothing if they do not."""
    if other.is_file() and _same(one, other):
        return ""
    sides = [f"{path.parent.name}/{path.name} {_described(path)}" for path in (one, other)]
    return " is not ".join(sides)


def _same(one: Path, other: Path) -> bool:
    with one.open("rb") as left, other.open("rb") as right:
        while piece := left.read(COMPARE_BYTES):
            if piece != right.read(COMPARE_BYTES):
                return False
        return not right.read(1)


def _described(path: Path) -> str:
    if not path.is_file():
        return "(absent)"
    with path.open("rb") as file:
        return f"({path.stat().st_size} bytes, SHA-256 {hashlib.file_digest(file, 'sha256').hexdigest()})"


def cpu_s_of(pid: int) -> float:
    """Give the CPU seconds, user and system, that a living process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_bytes_of(pid: int) -> int:
    """Give the largest resident size that a living process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


@contextmanager
def servers(home: Path, cases: Sequence[Case], python: str = sys.executable) -> Iterator[Servers]:
    """Make the objects and serve them; the SQS runs on `python`, which needs what s3nsync needs."""
    home.chmod(0o755)  # nginx's own process may be another user's
    _certify(home)
    _make_objects(home, cases)
    ports = _free_ports()
    user = "user root;" if os.getuid() == 0 else ""
    listings = "".join(LISTING.format(name=case.bucket) for case in cases)
    (home / "sink").mkdir()
    (home / "rclone.conf").touch()
    (home / "nginx.conf").write_text(NGINX.format(home=home, user=user, listings=listings, **ports))
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    process = subprocess.Popen([nginx, "-p", home, "-c", home / "nginx.conf", "-e", home / "error.log"])
    try:
        until(lambda: socket.create_connection(("127.0.0.1", ports["sink"]), 1).close())
        yield Servers(home, ports, process, python)
    finally:
        process.terminate()
        process.wait(10)


def _certify(home: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(home / "ca.pem")
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(home / "server.pem")


def _make_objects(home: Path, cases: Sequence[Case]) -> None:
    """Write random objects, and what S3 would say of them."""
    (home / "source" / "lists").mkdir(parents=True)
    (home / "source" / "lists" / "none.xml").write_text(LIST.format(name="none", count=0, entries=""))
    with (home / "tags.map").open("w") as tags, (home / "crcs.map").open("w") as crcs:
        crc_of: dict[tuple[str, str], str] = {}
        for case in cases:
            folder = home / "source" / case.bucket
            folder.mkdir()
            entries = []
            for key in case.keys:
                if case.parts_of:
                    os.link(folder.parent / case.parts_of / key, folder / key)
                    tag, crc = f"{'0' * 32}-{case.size_bytes // (8 << 20)}", crc_of[case.parts_of, key]
                else:
                    tag, crc = _make_object(folder / key, case.size_bytes)
                crc_of[case.bucket, key] = crc
                tags.write(f"/{case.bucket}/{key} '\"{tag}\"';\n")
                crcs.write(f"/{case.bucket}/{key} '{crc}';\n")
                entries.append(ENTRY.format(key=key, tag=tag, size=case.size_bytes))
            page = LIST.format(name=case.bucket, count=case.count, entries="".join(entries))
            (home / "source" / "lists" / f"{case.bucket}.xml").write_text(page)


def _make_object(path: Path, size_bytes: int) -> tuple[str, str]:
    """Write one object; gives its ETag and its CRC64NVME as S3 spells them."""
    md5, crc, left = hashlib.md5(usedforsecurity=False), 0, size_bytes
    block = os.urandom(min(left, BLOCK_BYTES))
    with path.open("wb") as file:
        while left:
            piece = block[:left]
            file.write(piece)
            md5.update(piece)
            crc = checksums.crc64nvme(piece, crc)
            left -= len(piece)
            block = block[4096:] + block[:4096]  # so that no two blocks are alike
    return md5.hexdigest(), base64.b64encode(crc.to_bytes(8, "big")).decode()


def _free_ports() -> dict[str, int]:
    probes = {name: socket.create_server(("127.0.0.1", 0)) for name in PORTS}
    ports = {name: probe.getsockname()[1] for name, probe in probes.items()}
    for probe in probes.values():
        probe.close()
    return ports


@contextmanager
def queue(servers: Servers, case: Case, *, filled: int, per_s: float = 0.0, count: int = 0) -> Iterator[FilledQueue]:
    """Run SQS with `filled` Changes of the case on its live queue; then `count` more come, `per_s` of them a second."""
    command = ["bench.filled_queue", "--port", str(servers.ports["stub"])]
    command += ["--bucket", case.bucket, "--keys", str(case.count), "--size-bytes", str(case.size_bytes)]
    command += ["--filled", str(filled), "--per-s", str(per_s), "--count", str(count)]
    with _serving(servers.python, command) as process:
        yield FilledQueue(process)


@contextmanager
def line(servers: Servers, to: str, *, delay_s: float = 0.0, bytes_per_s: float | None = None) -> Iterator[str]:
    """Put distance in front of 127.0.0.1:port; gives the host and port to use instead. See line.py."""
    command = ["bench.line", "--port", str(servers.ports["line"]), "--to", to.rpartition(":")[2]]
    command += ["--delay-s", str(delay_s)]
    command += ["--bytes-per-s", str(bytes_per_s)] if bytes_per_s else []
    with _serving(servers.python, command):
        yield f"127.0.0.1:{servers.ports['line']}"


@contextmanager
def _serving(python: str, module: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run one of our servers until the end; it prints a line when it serves."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT / 'tests'}"}
    command = [python, "-m", *module]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env, cwd=ROOT)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        json.loads(process.stdout.readline())
        yield process
    finally:
        process.kill()
        process.wait(10)
        process.stdin.close()
        process.stdout.close()


class FilledQueue:
    """The running SQS."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Talk to it by its standard input and output."""
        self._process = process

    def stream(self) -> list[float]:
        """Let the Changes come that were ordered; gives the Unix time at which each was put on the queue."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        sent: list[float] = json.loads(self._process.stdout.readline())
        return sent

    def cpu_s(self) -> float:
        """Give the CPU seconds that it has used."""
        return cpu_s_of(self._process.pid)


def until(works: Callable[[], None]) -> None:
    """Try until it works, for ten seconds."""
    deadline_s = time.monotonic() + 10
    while True:
        try:
            return works()
        except OSError:
            if time.monotonic() > deadline_s:
                raise
            time.sleep(0.05)
