"""The HTTP client against a real server: nginx with TLS, ranges and dav uploads, on both event loops."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from ports import own_port
from s3nsync.http import Header, Http, Origin, tls_context

CONFIGURATION = """
daemon off;
master_process off;
pid {prefix}/pid;
error_log {prefix}/error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;
  client_max_body_size 0;
  server {{
    listen 127.0.0.1:{plain};
    listen 127.0.0.1:{tls} ssl;
    ssl_certificate {prefix}/server.pem;
    ssl_certificate_key {prefix}/server.pem;
    root {prefix}/root;
    merge_slashes off;
    location / {{ dav_methods PUT DELETE; create_full_put_path on; }}
    location /refused/ {{ client_max_body_size 1k; dav_methods PUT; }}
    location /echo {{ add_header X-Target $request_uri always; return 200 ok; }}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """A running server: its two origins, its document root and a CA file that vouches for it."""

    plain: Origin
    tls: Origin
    root: Path
    ca_file: str


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(1500):
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            assert process.poll() is None, "nginx has ended"
            time.sleep(0.02)
        else:
            return
    pytest.fail("nginx does not listen")


@pytest.fixture(scope="module")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """Run nginx in a folder and on ports of its own."""
    prefix = tmp_path_factory.mktemp("nginx")
    (prefix / "root").mkdir()
    authority = trustme.CA()
    authority.cert_pem.write_to_path(prefix / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(prefix / "server.pem")
    plain, tls = own_port(), own_port()
    (prefix / "nginx.conf").write_text(CONFIGURATION.format(prefix=prefix, plain=plain, tls=tls))
    command = ["nginx", "-p", str(prefix), "-c", str(prefix / "nginx.conf"), "-e", str(prefix / "error.log")]
    with subprocess.Popen(command) as process:
        try:
            _wait_for(plain, process)
            yield Nginx(
                Origin("http", "127.0.0.1", plain),
                Origin("https", "localhost", tls),
                prefix / "root",
                str(prefix / "ca.pem"),
            )
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture(params=["http", "https"])
def origin(request: pytest.FixtureRequest, nginx: Nginx) -> Origin:
    """Give the server's plain or TLS origin."""
    return nginx.plain if request.param == "http" else nginx.tls


@pytest.fixture
async def http(nginx: Nginx) -> AsyncIterator[Http]:
    """Give a client that knows the server's authority; at the end no connection may be busy."""
    async with asyncio.timeout(120), Http(tls=tls_context(nginx.ca_file), max_per_origin=8) as client:
        yield client
        assert "0 busy" in repr(client)


def none() -> Sequence[Header]:
    """Give no headers."""
    return ()


async def stream(data: bytes, size: int) -> AsyncIterator[memoryview]:
    """Give the data in pieces of `size`."""
    for start in range(0, len(data), size):
        yield memoryview(data)[start : start + size]


def _data(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, 70_000, 5_000_000])
@pytest.mark.parametrize("way", ["bytes", "counted", "chunked"])
async def test_uploads_arrive_whole(http: Http, nginx: Nginx, origin: Origin, size: int, way: str) -> None:
    """What is PUT, as bytes, as a counted stream or in chunks, is what the server stores and gives back."""
    data = _data(size)
    body = data if way == "bytes" else stream(data, 100_000)
    length = size if way == "counted" else None
    answer = await http.send(origin, "PUT", f"/{way}/{size}", headers=none, body=body, length=length)
    assert (answer.status in (201, 204), answer.early, await answer.read()) == (True, False, b"")
    assert (nginx.root / way / str(size)).read_bytes() == data
    answer = await http.send(origin, "GET", f"/{way}/{size}", headers=none)
    assert await answer.read(size) == data
    assert f"{origin}: 1 idle" in repr(http)


async def test_ranges_and_heads(http: Http, nginx: Nginx, origin: Origin) -> None:
    """HEAD, ranges and conditional requests work one after the other on one connection."""
    (nginx.root / "r").write_bytes(b"0123456789")
    answer = await http.send(origin, "HEAD", "/r", headers=none)
    assert (answer.status, answer.headers["content-length"], await answer.read()) == (200, "10", b"")
    etag = answer.headers["ETag"]
    answer = await http.send(origin, "GET", "/r", headers=lambda: [("Range", "bytes=2-4"), ("If-Match", etag)])
    assert (answer.status, answer.headers.get("content-range"), await answer.read()) == (206, "bytes 2-4/10", b"234")
    answer = await http.send(origin, "GET", "/r", headers=lambda: [("If-None-Match", etag)])
    assert (answer.status, await answer.read()) == (304, b"")
    answer = await http.send(origin, "DELETE", "/r", headers=none)
    assert (answer.status, await answer.read()) == (204, b"")
    assert f"{origin}: 1 idle, 0 busy" in repr(http)


async def test_a_server_that_closes_against_its_word_costs_a_get_nothing(
    http: Http, nginx: Nginx, origin: Origin
) -> None:
    """After a 412 this server closes although it said keep-alive: the next GET succeeds all the same."""
    (nginx.root / "p").write_bytes(b"0123456789")
    for _ in range(5):
        answer = await http.send(origin, "GET", "/p", headers=lambda: [("If-Match", '"other"')])
        assert answer.status == 412
        assert b"412" in await answer.read()
        answer = await http.send(origin, "GET", "/p", headers=none)
        assert (answer.status, await answer.read()) == (200, b"0123456789")


async def test_the_target_goes_out_as_given(http: Http, origin: Origin) -> None:
    """Dots, double slashes and escapes reach the server untouched."""
    for target in ("/echo/../echo//%7e/%C3%A9?b&a=%2F", "/echo/a%2fb+c~'()*!;,@$&="):
        answer = await http.send(origin, "GET", target, headers=none)
        assert (answer.headers["x-target"], await answer.read()) == (target, b"ok")


async def test_many_at_once_share_few_connections(http: Http, nginx: Nginx, origin: Origin) -> None:
    """A hundred transfers at once, of mixed size, all come out right over eight connections."""

    async def there_and_back(number: int) -> None:
        data = _data(number * 3_000)
        target = f"/many/{origin.scheme}-{number}"
        async with await http.send(origin, "PUT", target, headers=none, body=data) as answer:
            assert answer.status in (201, 204)
        digest = hashlib.sha256()
        async with await http.send(origin, "GET", target, headers=none) as answer:
            async for chunk in answer.chunks():
                digest.update(chunk)
        assert digest.digest() == hashlib.sha256(data).digest()

    await asyncio.gather(*[there_and_back(number) for number in range(100)])
    assert f"{origin}: 8 idle, 0 busy" in repr(http)
    assert len(list((nginx.root / "many").glob(f"{origin.scheme}-*"))) == 100


@pytest.mark.parametrize("way", ["bytes", "counted", "chunked"])
async def test_a_refusal_during_an_upload_is_read(http: Http, origin: Origin, way: str) -> None:
    """The 413 of a real server arrives, although most of the body was never sent, and costs the connection."""

    def answered() -> bool:
        """Tell whether the answer is here; the connection may have ended behind it."""
        exchanges = [each.exchange for each in http._pools[origin].sockets]
        return all(each is None or each.status for each in exchanges)

    async def slowly() -> AsyncIterator[bytes]:
        yield bytes(100_000)
        while not answered():
            await asyncio.sleep(0.001)
        for _ in range(59):
            yield bytes(100_000)

    body = bytes(60 << 20) if way == "bytes" else slowly()
    length = 6_000_000 if way == "counted" else None
    answer = await http.send(origin, "PUT", "/refused/x", headers=none, body=body, length=length)
    assert (answer.status, answer.early) == (413, True)
    await answer.aclose()
    assert f"{origin}: 0 idle" in repr(http)
