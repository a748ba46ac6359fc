"""Reaching origins through a proxy, and hosts by several addresses; on both event loops."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field

import pytest
import trustme

from hostile import Hostile, Peer, answering, hostile
from s3nsync.errors import ConfigError, ConnectFailed, TlsRefused
from s3nsync.http import Http, Origin, Proxies, Proxy, Timeouts, tls_context
from s3nsync.http.dial import Address, address_of, by_turns, connect_first, dial

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclass
class Tunnel:
    """A proxy that tunnels to `to`, whatever name was asked for; keeps the heads it got."""

    to: Hostile
    heads: list[bytes] = field(default_factory=list)

    async def __call__(self, peer: Peer) -> None:
        """Serve one connection."""
        self.heads.append(await peer.head())
        reader, writer = await asyncio.open_connection("127.0.0.1", self.to.origin.port)
        await peer.send(b"HTTP/1.1 200 Connection established\r\nX-Proxy: yes\r\n\r\n")
        try:
            await asyncio.gather(_pass_on(peer.reader, writer), _pass_on(reader, peer.writer))
        finally:
            writer.close()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Make a certificate authority."""
    return trustme.CA()


def _server_tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def _client_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = tls_context()
    authority.configure_trust(context)
    return context


@contextlib.asynccontextmanager
async def through(proxy: Hostile, tls: ssl.SSLContext | None = None, user: str = "") -> AsyncIterator[Http]:
    """Give a client that goes through the proxy for everything."""
    url = f"http://{user}{proxy.origin.authority}"
    proxies = Proxies.parse(https=url, http=url)
    async with asyncio.timeout(60), Http(tls=tls, timeouts=Timeouts(connect_s=30.0), proxies=proxies) as http:
        yield http


async def _get(http: Http, origin: Origin) -> bytes:
    return await (await http.send(origin, "GET", "/x", headers=list)).read()


async def test_tls_goes_through_the_tunnel_and_names_the_origin(authority: trustme.CA) -> None:
    """CONNECT asks for the origin, TLS is the origin's own, and the tunnel serves again."""
    tls = _server_tls(authority, "media.example")
    async with hostile(answering(OK, OK), tls=tls) as server:
        tunnel = Tunnel(server)
        async with hostile(tunnel) as proxy, through(proxy, _client_tls(authority), "ann:pa%20ss@") as http:
            origin = Origin("https", "media.example", 8443)
            assert [await _get(http, origin), await _get(http, origin)] == [b"ok", b"ok"]
            assert (proxy.accepted, server.accepted) == (1, 1)
    credentials = base64.b64encode(b"ann:pa ss").decode()
    assert tunnel.heads == [
        "CONNECT media.example:8443 HTTP/1.1\r\nHost: media.example:8443\r\n"
        f"Proxy-Authorization: Basic {credentials}\r\n\r\n".encode()
    ]


async def test_plain_http_goes_through_a_tunnel_too() -> None:
    """A plain origin is reached by CONNECT as well: its request goes out as it was signed, without credentials."""
    asked: list[bytes] = []

    async def script(peer: Peer) -> None:
        asked.append(await peer.head())
        await peer.send(OK)
        await peer.rest()

    async with hostile(script) as server:
        tunnel = Tunnel(server)
        async with hostile(tunnel) as proxy, through(proxy, user="ann:secret@") as http:
            assert await _get(http, Origin("http", "2001:db8::1", 80)) == b"ok"
    assert tunnel.heads[0].startswith(b"CONNECT [2001:db8::1]:80 HTTP/1.1\r\n")
    assert asked == [b"GET /x HTTP/1.1\r\nHost: [2001:db8::1]\r\n\r\n"]


async def test_the_origin_behind_a_proxy_is_verified(authority: trustme.CA) -> None:
    """A proxy that answers in the origin's place is told by its certificate."""
    tls = _server_tls(authority, "other.example")
    async with (
        hostile(answering(OK), tls=tls) as server,
        hostile(Tunnel(server)) as proxy,
        through(proxy, _client_tls(authority)) as http,
    ):
        with pytest.raises(TlsRefused):
            await _get(http, Origin("https", "media.example", 443))


@pytest.mark.parametrize(
    ("answer", "says", "hint"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "answered 407", "user:password"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "answered 403", "allows CONNECT"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "does not speak HTTP", "the proxy's address"),
        (b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 injected\r\n", "answered 200", "allows CONNECT"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 4000, "answered 200", "allows CONNECT"),
        (b"", "no connection by proxy", ""),
    ],
)
async def test_a_proxy_that_does_not_open_the_tunnel(answer: bytes, says: str, hint: str) -> None:
    """Whatever the proxy does instead is ConnectFailed with nothing sent, and its password is not in the error."""

    async def script(peer: Peer) -> None:
        await peer.head()
        await peer.send(answer)
        if answer:
            await peer.rest()

    async with hostile(script) as proxy, through(proxy, user="ann:secret@") as http:
        with pytest.raises(ConnectFailed, match=says) as caught:
            await _get(http, Origin("http", "media.example", 80))
        assert not caught.value.sent
        assert hint in caught.value.hint
        assert "secret" not in f"{caught.value}{caught.value.hint}{http}"


async def test_a_silent_proxy_ends_with_the_connect_timeout() -> None:
    """A proxy that says nothing costs no more than a host that does not answer, and its socket is closed."""
    ended = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.rest()
        ended.set()

    async with hostile(script) as proxy:
        proxies = Proxies.parse(http=str(proxy.origin))
        async with Http(timeouts=Timeouts(connect_s=0.2), proxies=proxies) as http:
            with pytest.raises(ConnectFailed, match="by proxy"):
                await _get(http, Origin("http", "media.example", 80))
        async with asyncio.timeout(30):
            await ended.wait()


@pytest.mark.parametrize(
    ("environment", "origin", "proxy"),
    [
        ({}, "https://a.example", None),
        ({"HTTPS_PROXY": "http://p:1"}, "https://a.example", "p:1"),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": "q:2"}, "https://a.example", "q:2"),
        ({"HTTPS_PROXY": "http://p:1"}, "http://a.example", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://a.example", None),
        ({"http_proxy": "http://p"}, "http://a.example", "p:3128"),
        ({"HTTPS_PROXY": "p:1"}, "https://localhost", None),
        ({"HTTPS_PROXY": "p:1"}, "https://127.3.2.1", None),
        ({"HTTPS_PROXY": "p:1"}, "https://[::1]", None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "*"}, "https://a.example", None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "b.example, A.example"}, "https://a.example", None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": ".example"}, "https://a.example", None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "*.example"}, "https://x.a.example", None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "a.example"}, "https://ba.example", "p:1"),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "10.0.0.0/8"}, "https://10.1.2.3", None),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "10.0.0.0/8,x"}, "https://11.1.2.3", "p:1"),
        ({"HTTPS_PROXY": "p:1", "NO_PROXY": "[2001:db8::1]"}, "https://[2001:db8::1]", None),
        ({"HTTPS_PROXY": "p:1", "no_proxy": " , "}, "https://a.example", "p:1"),
    ],
)
def test_which_proxy(environment: dict[str, str], origin: str, proxy: str | None) -> None:
    """The usual variables mean what they mean to curl; loopback is always direct."""
    found = Proxies.from_environment(environment).proxy_for(Origin.parse(origin))
    assert (str(found) if found else None) == proxy


@pytest.mark.parametrize(
    "url", ["https://secret@p:1", "socks5://p:1", "http://ann:secret@p:x", "http://p:1/secret", "http://", "p q"]
)
def test_proxies_that_cannot_be_used(url: str) -> None:
    """A URL that is no proxy's is a configuration error that quotes nothing of it."""
    with pytest.raises(ConfigError) as caught:
        Proxies.parse(https=url)
    assert "https" in caught.value.message
    assert "secret" not in f"{caught.value}{caught.value.hint}"


def test_a_proxys_password_is_not_shown() -> None:
    """Neither repr nor text of a proxy has the password, encoded or not."""
    proxy = Proxy.parse("http://ann:secret@p:1")
    assert proxy.credentials == "Basic " + base64.b64encode(b"ann:secret").decode()
    assert [repr(proxy), str(proxy)] == ["Proxy(host='p', port=1)", "p:1"]


# --- addresses


def _v4(port: int, host: str = "127.0.0.1") -> Address:
    return Address(socket.AF_INET, (host, port))


@contextlib.contextmanager
def _full() -> Iterator[int]:
    """Listen with a full backlog: a further connection is neither accepted nor refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        port = listener.getsockname()[1]
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.settimeout(0)
            with contextlib.suppress(BlockingIOError):
                waiting.connect(("127.0.0.1", port))
        yield port


async def test_a_silent_address_is_passed_by() -> None:
    """An address that swallows packets costs its silence only; the try is given up once another has answered."""
    async with hostile(answering()) as server:
        with _full() as port:
            loop = asyncio.get_running_loop()
            began_s = loop.time()
            sock = await connect_first([_v4(port), _v4(server.origin.port)], silence_s=0.05)
            assert 0.04 <= loop.time() - began_s < 30
            assert sock.getpeername()[1] == server.origin.port
            sock.close()


async def test_a_refusing_address_costs_no_wait() -> None:
    """After a refusal the next address is tried at once; when all refuse, the last refusal is the error."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        async with hostile(answering()) as server:
            async with asyncio.timeout(30):
                sock = await connect_first([_v4(port), _v4(server.origin.port)], silence_s=600.0)
            assert sock.getpeername()[1] == server.origin.port
            sock.close()
        with pytest.raises(ConnectionRefusedError):
            await connect_first([_v4(port), _v4(port)])


async def test_a_cancelled_dial_leaves_no_socket() -> None:
    """Giving up while an address keeps silent closes its socket: no warning of a lost one is raised."""
    with _full() as port:
        task = asyncio.ensure_future(connect_first([_v4(port)]))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)


async def test_a_name_is_dialled() -> None:
    """`localhost` is reached whatever family its server listens on, though the name may stand for two addresses."""
    async with hostile(answering()) as server:
        sock = await dial("localhost", server.origin.port)
        assert sock.getpeername()[1] == server.origin.port
        sock.close()


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", Address(socket.AF_INET, ("127.0.0.1", 80))),
        ("::1", Address(socket.AF_INET6, ("::1", 80, 0, 0))),
        ("localhost", None),
        ("fe80::1%eth0", None),
        ("1.2.3", None),
    ],
)
def test_which_hosts_need_no_resolver(host: str, address: Address | None) -> None:
    """An address is taken as it is; a name or a zone is the resolver's to read."""
    assert address_of(host, 80) == address


@pytest.mark.parametrize(
    ("families", "order"), [("", ""), ("4", "4"), ("666444", "646464"), ("4466", "4646"), ("6444", "6444")]
)
def test_families_take_turns(families: str, order: str) -> None:
    """Addresses alternate between families, beginning with the resolver's first, and keep their order within one."""
    make: Callable[[str, int], Address] = lambda family, n: Address(int(family), (family, n))  # noqa: E731
    given = [make(family, n) for n, family in enumerate(families)]
    turned = by_turns(given)
    assert "".join(str(each.family) for each in turned) == order
    assert all([a for a in turned if a.family == f] == [a for a in given if a.family == f] for f in (4, 6))
