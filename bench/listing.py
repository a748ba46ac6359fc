"""How many keys a second are listed on both sides and compared, and how much memory that takes.

    a process of its own, which makes up keys  ->  S3 pages       -> listing -+
                                               ->  list or dir    -> listing -+-> join, compare (this process)

Keys lie in directories of 1,000; a few are missing or differ on NetStorage, and are counted, so that nothing can be
skipped for speed. The figure to trust is keys for each CPU second of this process: parsing, joining, judging, HTTP
without TLS. Memory is this process's peak, Python and libraries included (the first line has those alone).
`--rclone` lists the same S3 keys by `rclone size --fast-list` in the same run.

    python bench/listing.py [--keys 1000000] [--store objectstore|filestore] [--rclone]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from html import escape
from urllib.parse import parse_qsl, unquote, urlsplit

from s3nsync.compare import Compared, Scope, compare, join
from s3nsync.http import Http, Origin
from s3nsync.model import Route
from s3nsync.netstorage import Account, NetStorage
from s3nsync.reconcile.listing import list_bucket, list_directory
from s3nsync.s3 import S3
from s3nsync.sigv4 import Credentials

BUCKET, CPCODE, USER, KEY = "bench", "123456", "bench", "a-key-for-the-bench"
DIRECTORY_KEYS = 1_000
S3_PAGE = 1_000
LIST_PAGE = 5_000
ROUTE = Route(BUCKET, CPCODE)


# --- the made-up stores ----------------------------------------------------------------------------------------


class Names(Sequence[str]):
    """So many keys in order, none of them held."""

    def __init__(self, count: int) -> None:
        """Set their number."""
        self._count = count

    def __len__(self) -> int:
        """Count the keys."""
        return self._count

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # slices are not needed
        """Make up a key."""
        return f"media/{index // DIRECTORY_KEYS:06d}/object-{index:09d}.jpg"


def md5_of(index: int) -> str:
    """Make up a digest."""
    return f"{index * 0x9E3779B97F4A7C15 % (1 << 128):032x}"


def is_missing(index: int) -> bool:
    """Say whether NetStorage lacks a key."""
    return index % 10_000 == 7


def is_altered(index: int) -> bool:
    """Say whether NetStorage has other bytes of a key."""
    return index % 10_000 == 8


class Stores:
    """Both stores' answers to the questions that listings ask."""

    def __init__(self, count: int) -> None:
        """Set the number of keys."""
        self._names = Names(count)

    def s3(self, query: dict[str, str]) -> str:
        """Word a page of ListObjectsV2."""
        after = query.get("continuation-token") or query.get("start-after", "")
        prefix = query.get("prefix", "")
        at = max(bisect_right(self._names, after), bisect_left(self._names, prefix))
        if "delimiter" in query:
            return self._prefixes(prefix, at, int(query.get("max-keys", S3_PAGE)))
        end = min(at + S3_PAGE, len(self._names))
        more = end < len(self._names) and self._names[end].startswith(prefix)
        return _s3_page("".join(map(self._contents, range(at, end))), self._names[end - 1] if more else None)

    def _contents(self, index: int) -> str:
        return (
            f"<Contents><Key>{self._names[index]}</Key><LastModified>2024-05-01T10:00:00.000Z</LastModified>"
            f"<ETag>&quot;{md5_of(index)}&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
            "<ChecksumType>FULL_OBJECT</ChecksumType><Size>12345</Size><StorageClass>STANDARD</StorageClass></Contents>"
        )

    def _prefixes(self, prefix: str, at: int, most: int) -> str:
        found: list[str] = []
        while at < len(self._names) and self._names[at].startswith(prefix) and len(found) < most:
            slash = self._names[at].find("/", len(prefix))
            if slash < 0:
                return _s3_page("", None)  # a directory of files: nothing to be told
            found.append(self._names[at][: slash + 1])
            at = bisect_left(self._names, found[-1][:-1] + "0")
        more = at < len(self._names) and self._names[at].startswith(prefix)
        text = "".join(f"<CommonPrefixes><Prefix>{each}</Prefix></CommonPrefixes>" for each in found)
        return _s3_page(text, self._names[at - 1] if more else None)

    def list(self, path: str, most: int) -> str:
        """Word a page of NetStorage's list."""
        name = path.removeprefix(f"/{CPCODE}").removeprefix("/")
        at = bisect_left(self._names, name)
        end = min(at + min(most, LIST_PAGE), len(self._names))
        resume = f'<resume start="/{CPCODE}/{self._names[end]}"/>' if end < len(self._names) else ""
        return f"<list>{self._files(at, end, lambda index: f'{CPCODE}/{self._names[index]}')}{resume}</list>"

    def dir(self, path: str) -> str:
        """Word NetStorage's answer about one directory."""
        depth = path.rstrip("/").count("/")
        if depth == 1:
            inner = '<file type="dir" name="media" mtime="7"/>'
        elif depth == 2:
            count = -(-len(self._names) // DIRECTORY_KEYS)
            inner = "".join(f'<file type="dir" name="{number:06d}" mtime="7"/>' for number in range(count))
        else:
            at = int(path.rpartition("/")[2]) * DIRECTORY_KEYS
            end = min(at + DIRECTORY_KEYS, len(self._names))
            inner = self._files(at, end, lambda index: self._names[index].rpartition("/")[2])
        return f'<stat directory="{escape(path)}">{inner}</stat>'

    @staticmethod
    def _files(at: int, end: int, name: Callable[[int], str]) -> str:
        return "".join(
            f'<file type="file" name="{name(index)}" mtime="1714557600" size="12345"'
            f' md5="{md5_of(index + 1 if is_altered(index) else index)}"/>'
            for index in range(at, end)
            if not is_missing(index)
        )


def _s3_page(inner: str, token: str | None) -> str:
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
    told = "<IsTruncated>false</IsTruncated>" if token is None else more
    return f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><EncodingType>url</EncodingType>{told}{inner}</ListBucketResult>'


async def serve(count: int, filestore: bool) -> None:  # noqa: FBT001 -- from the command line
    """Answer until standard input ends."""
    stores = Stores(count)

    def document(target: str, action: dict[str, str]) -> str | None:
        parts = urlsplit(target)
        match action.get("action"):
            case None:
                return stores.s3(dict(parse_qsl(parts.query)))
            case "dir":
                return stores.dir(unquote(parts.path))
            case _ if filestore:
                return None
            case _:
                return stores.list(unquote(parts.path), int(action.get("max_entries", LIST_PAGE)))

    async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                answer = document(lines[0].split()[1], dict(parse_qsl(fields.get("x-akamai-acs-action", ""))))
                body = (answer or "").encode()
                status = "412 Precondition Failed" if answer is None else "200 OK"
                writer.write(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(exchange, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


# --- measuring -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run took."""

    what: str
    keys: int
    wall_s: float
    cpu_s: float
    peak_mib: float

    def __str__(self) -> str:
        """Give a line of the table."""
        return (
            f"{self.what:<28} {self.keys:>11,} keys {self.wall_s:>7.1f} s {self.cpu_s:>7.1f} CPU s"
            f" {self.keys / self.cpu_s:>9,.0f} keys/CPU s {self.peak_mib:>6.0f} MiB"
        )


@contextmanager
def stores(count: int, *, filestore: bool) -> Iterator[Origin]:
    """Run the made-up stores in a process of their own."""
    command = [sys.executable, __file__, "--serve", "--keys", str(count), *(["--store=filestore"] if filestore else [])]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Origin("http", "127.0.0.1", int(process.stdout.readline()))
        finally:
            process.stdin.close()


class Keys:
    """Keys that nobody checks."""

    async def get(self) -> Credentials:
        """Give them."""
        return Credentials("bench", "bench")

    async def renew(self, refused: Credentials) -> Credentials:
        """Give the same."""
        return refused


async def verify(origin: Origin) -> tuple[Compared, Counter[str]]:
    """List both sides and compare them."""
    total, kinds = Compared(), Counter[str]()
    async with Http() as http:
        s3 = S3(http, region="us-east-1", credentials=Keys(), endpoint=str(origin))
        netstorage = NetStorage(Account(origin.host, USER, KEY, "http", origin.port), http)
        scope = Scope(ROUTE, [ROUTE])
        async with (
            aclosing(list_bucket(s3, BUCKET)) as source,
            aclosing(list_directory(netstorage, ROUTE)) as target,
        ):
            async for section in join(source, target):
                found = compare(section, scope)
                total.add(found)
                kinds.update(each.kind for each in found.findings)
    return total, kinds


def peak_mib() -> float:
    """Give this process's peak memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_ours(count: int, *, filestore: bool) -> Measured:
    """Verify so many keys; AssertionError when not exactly what differs was found."""
    with stores(count, filestore=filestore) as origin:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        total, kinds = asyncio.run(verify(origin))
        wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    missing, altered = (sum(map(each, range(count))) for each in (is_missing, is_altered))
    assert (kinds["missing"], kinds["unverifiable"]) == (missing, altered), kinds
    assert total.same["md5"] == count - missing - altered
    return Measured(f"verify, {'filestore' if filestore else 'objectstore'}", count, wall_s, cpu_s, peak_mib())


def measure_rclone(count: int) -> Measured:
    """Have rclone list the S3 side alone."""
    settings = {
        "TYPE": "s3",
        "PROVIDER": "Other",
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "s",
        "REGION": "us-east-1",
    }
    with stores(count, filestore=False) as origin:
        settings |= {"ENDPOINT": str(origin), "FORCE_PATH_STYLE": "true", "LIST_VERSION": "2"}
        own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment = own | {f"RCLONE_CONFIG_B_{name}": value for name, value in settings.items()}
        began_s = time.perf_counter()
        command = ["rclone", "size", "--fast-list", "--config", "/dev/null", f"b:{BUCKET}"]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall_s = time.perf_counter() - began_s
        process.stdout.close()
    assert process.returncode == 0, said
    assert f"{count}" in said.replace(",", ""), said
    return Measured("rclone size, S3 side only", count, wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--store", choices=["objectstore", "filestore"], default="objectstore")
    parser.add_argument("--rclone", action="store_true", help="list the S3 side by rclone too")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    filestore = options.store == "filestore"
    if options.serve:
        asyncio.run(serve(options.keys, filestore))
        return
    print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, {peak_mib():.0f} MiB idle"
    )
    print(measure_ours(options.keys, filestore=filestore))
    if options.rclone and shutil.which("rclone"):
        print(measure_rclone(options.keys))


if __name__ == "__main__":
    main()
