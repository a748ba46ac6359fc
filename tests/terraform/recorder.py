"""Stands in ministack's place and writes down every request that it gets, to tell which permissions they need.

    recorder.py MINISTACK FILE      with GATEWAY_PORT in the environment, as for ministack itself

ministack runs behind it, on a port of its own; bytes pass both ways as they are. Each request becomes one line of JSON
in FILE: who signed it (the access key's id), for which service, method, target, the operation's name and, but for S3,
the body. Functions call back by AWS_ENDPOINT_URL, so their requests come by here too.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from pathlib import Path

import httptools

from s3nsync.local.dev import free_port

_SIGNED_BY = re.compile(r"Credential=([^/]+)/\d{8}/[^/]+/([^/]+)/aws4_request")
BODY_LIMIT_BYTES = 1 << 20
"""The most that SQS takes for one request."""


class Requests:
    """Reads one connection's requests from the client's bytes; httptools calls its methods."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._target, self._headers, self._body = b"", dict[str, str](), b""
        self._parser = httptools.HttpRequestParser(self)

    def feed(self, data: bytes) -> None:
        """Take what the client sent."""
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        """Forget the request before."""
        self._target, self._headers, self._body = b"", {}, b""

    def on_url(self, part: bytes) -> None:
        """Collect the target."""
        self._target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header."""
        self._headers[name.decode().lower()] = value.decode("latin-1")

    def on_body(self, part: bytes) -> None:
        """Collect the body, up to what any call but S3's may have."""
        if len(self._body) < BODY_LIMIT_BYTES:
            self._body += part

    def on_message_complete(self) -> None:
        """Write the request down if it is signed."""
        signed = _SIGNED_BY.search(self._headers.get("authorization", ""))
        if signed is None:
            return
        line = {
            "signed_by": signed[1],
            "service": signed[2],
            "method": self._parser.get_method().decode(),
            "target": self._target.decode(),
            "operation": self._headers.get("x-amz-target", ""),
            "body": "" if signed[2] == "s3" else self._body.decode(),
        }
        with self._file.open("a") as file:
            file.write(json.dumps(line) + "\n")


async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, requests: Requests | None) -> None:
    """Move bytes until one side ends."""
    try:
        while data := await reader.read(1 << 16):
            if requests is not None:
                requests.feed(data)
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def record(program: str, file: Path, port: int) -> None:
    """Serve on `port` until SIGTERM."""
    behind = free_port()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", behind)
        except ConnectionError:  # it is not up yet
            writer.close()
            return
        await asyncio.gather(
            pass_on(reader, there_writer, Requests(file)),
            pass_on(there_reader, writer, None),
        )

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    face = {"GATEWAY_PORT": str(behind), "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    ministack = await asyncio.create_subprocess_exec(program, env={**os.environ, **face})
    server = await asyncio.start_server(serve, "127.0.0.1", port)
    try:
        await stop.wait()
    finally:
        server.close()
        ministack.terminate()
        await ministack.wait()


if __name__ == "__main__":
    asyncio.run(record(sys.argv[1], Path(sys.argv[2]), int(os.environ["GATEWAY_PORT"])))
