"""S3 and NetStorage of any number of keys, none of them held: pages are made up as they are asked for.

Keys lie in directories of 1,000. One in 10,000 is missing on NetStorage, and one has other bytes there, so that nothing
can be skipped for speed. Times and sizes differ from key to key. It answers what listings ask (ListObjectsV2, list,
dir, stat) and HEAD, in a process of its own, until its standard input ends.

    python -m bench.made_up --keys 1000000 [--store filestore]
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from typing import Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from s3nsync.http import Origin

Store = Literal["objectstore", "filestore"]

BUCKET, CPCODE, USER, KEY = "bench", "123456", "bench", "a-key-for-the-bench"
DIRECTORY_KEYS = 1_000
S3_PAGE = 1_000
LIST_PAGE = 5_000
MAY_2024_S = 1_714_521_600
CLOCK = [f"{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}" for second in range(86_400)]


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


def day_of(index: int) -> int:
    """Give the day of May 2024, from 0, at which an object was written."""
    return index // 50_000 % 31


def second_of(index: int) -> int:
    """Give the second of that day."""
    return index * 7_919 % 86_400


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
        if query.get("delimiter"):
            return self._by_delimiter(prefix, at, int(query.get("max-keys", S3_PAGE)))
        end = min(at + S3_PAGE, len(self._names))
        more = end < len(self._names) and self._names[end].startswith(prefix)
        return _s3_page("".join(map(self._contents, range(at, end))), self._names[end - 1] if more else None)

    def head(self, key: str) -> str:
        """Word the header fields of an object."""
        index = bisect_left(self._names, key)
        when = f"{1 + day_of(index):02} May 2024 {CLOCK[second_of(index)]} GMT"
        return f'ETag: "{md5_of(index)}"\r\nLast-Modified: Wed, {when}\r\nContent-Length: {12_345 + index}'

    def _contents(self, index: int) -> str:
        return (
            f"<Contents><Key>{self._names[index]}</Key>"
            f"<LastModified>2024-05-{1 + day_of(index):02}T{CLOCK[second_of(index)]}.000Z</LastModified>"
            f"<ETag>&quot;{md5_of(index)}&quot;</ETag><ChecksumAlgorithm>CRC64NVME</ChecksumAlgorithm>"
            f"<ChecksumType>FULL_OBJECT</ChecksumType><Size>{12_345 + index}</Size>"
            "<StorageClass>STANDARD</StorageClass></Contents>"
        )

    def _by_delimiter(self, prefix: str, at: int, most: int) -> str:
        """Word a page of one level: its directories, or the files of one that has no more of them."""
        found: list[str] = []
        begin = at
        while at < len(self._names) and self._names[at].startswith(prefix) and len(found) < most:
            slash = self._names[at].find("/", len(prefix))
            if slash < 0:
                end = min(begin - begin % DIRECTORY_KEYS + DIRECTORY_KEYS, len(self._names))
                return _s3_page("".join(map(self._contents, range(begin, end))), None)
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
    def stat(path: str) -> str:
        """Word NetStorage's answer about a path, a directory always."""
        above, _, name = path.rstrip("/").rpartition("/")
        return f'<stat directory="{escape(above)}"><file type="dir" name="{escape(name)}" mtime="7"/></stat>'

    @staticmethod
    def _files(at: int, end: int, name: Callable[[int], str]) -> str:
        return "".join(
            f'<file type="file" name="{name(index)}" mtime="{MAY_2024_S + 86_400 * day_of(index) + second_of(index)}"'
            f' size="{12_345 + index}" md5="{md5_of(index + 1 if is_altered(index) else index)}"/>'
            for index in range(at, end)
            if not is_missing(index)
        )


def _s3_page(inner: str, token: str | None) -> str:
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"
    told = "<IsTruncated>false</IsTruncated>" if token is None else more
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{BUCKET}</Name><EncodingType>url</EncodingType>{told}{inner}</ListBucketResult>"
    )


class Server:
    """Answers over HTTP, both stores on one port."""

    def __init__(self, count: int, store: Store) -> None:
        """Set what there is."""
        self._stores = Stores(count)
        self._store = store

    async def run(self) -> None:
        """Print the port, and answer until standard input ends."""
        server = await asyncio.start_server(self._exchange, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.to_thread(sys.stdin.read)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                method, target, _ = lines[0].split()
                fields = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
                action = dict(parse_qsl(fields.get("x-akamai-acs-action", "")))
                writer.write(self._answer(method, target, action))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def _answer(self, method: str, target: str, action: dict[str, str]) -> bytes:
        parts = urlsplit(target)
        path = unquote(parts.path)
        if method == "HEAD":
            key = path.removeprefix(f"/{BUCKET}/")
            return f"HTTP/1.1 200 OK\r\n{self._stores.head(key)}\r\n\r\n".encode()
        document = self._document(path, dict(parse_qsl(parts.query)), action)
        body = (document or "").encode()
        status = "412 Precondition Failed" if document is None else "200 OK"
        return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    def _document(self, path: str, query: dict[str, str], action: dict[str, str]) -> str | None:
        match action.get("action"):
            case None:
                return self._stores.s3(query)
            case "dir":
                return self._stores.dir(path)
            case "stat":
                return self._stores.stat(path)
            case _ if self._store == "filestore":
                return None
            case _:
                return self._stores.list(path, int(action.get("max_entries", LIST_PAGE)))


@contextmanager
def made_up(count: int, store: Store) -> Iterator[Origin]:
    """Run the stores in a process of their own."""
    command = [sys.executable, "-m", __name__, "--keys", str(count), "--store", store]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield Origin("http", "127.0.0.1", int(process.stdout.readline()))
        finally:
            process.stdin.close()


def main() -> None:
    """Serve."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--store", choices=["objectstore", "filestore"], default="objectstore")
    options = parser.parse_args()
    asyncio.run(Server(options.keys, options.store).run())


if __name__ == "__main__":
    main()
