"""An ECR that a real builder can push to: Debian's docker-registry, under ECR's name, over TLS, behind ECR's login.

The builder pushes to ACCOUNT.dkr.ecr.REGION.amazonaws.com, for so the image is called. A proxy on loopback leads that
one name to a docker-registry on loopback, and every other where it wants to go. The registry's certificate bears the
name, and its password is the one that moto gives out. The base image comes from a second registry, by a registries.conf
as companies with a mirror have one. All of this the builder is told by environment variables and files that it reads
anyway; program, arguments and image names are the module's own.

What it does not do: refuse a second push of a tag, as ECR does where tags are immutable; expire images; scan. And
moto's API learns of a push only when it is told (`Ecr.tell`).
"""

from __future__ import annotations

import base64
import contextlib
import json
import select
import socket
import socketserver
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

from ports import own_port
from terraform.apply import Broken

PASSWORD = "123456789012-auth-token"
"""What `aws ecr get-login-password` prints at moto."""

HTPASSWD = "AWS:$2y$05$s3nsyncs3nsyncs3nsyncuCyq1ysQBAyZWlDpXakHk.6/aaGbKMY.\n"
"""That password for the user AWS, by bcrypt: docker-registry knows no other digest."""

SYSTEM_CA_FILE = Path("/etc/ssl/certs/ca-certificates.crt")
"""Where Debian keeps the authorities."""

MANIFEST_TYPES = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True)
class Ecr:
    """A running registry: `host` is its name for the builder, `port` where it really is."""

    host: str
    port: int
    tls: ssl.SSLContext

    def manifest(self, repository: str, tag: str) -> dict[str, Any] | None:
        """Give an image's manifest, or None where the registry has no such tag."""
        found = self._get(f"/v2/{repository}/manifests/{tag}")
        return None if found is None else json.loads(found)

    def tags(self, repository: str) -> list[str]:
        """Give a repository's tags; none where there is no such repository."""
        found = self._get(f"/v2/{repository}/tags/list")
        return [] if found is None else sorted(json.loads(found)["tags"] or [])

    def config(self, repository: str, tag: str) -> dict[str, Any]:
        """Give an image's configuration."""
        manifest = self.manifest(repository, tag)
        assert manifest is not None
        found = self._get(f"/v2/{repository}/blobs/{manifest['config']['digest']}")
        assert found is not None
        config: dict[str, Any] = json.loads(found)
        return config

    def tell(self, client: Any, repository: str, tag: str) -> None:
        """Let the stand-in's ECR API know of a push, as ECR itself would."""
        client.put_image(
            repositoryName=repository, imageTag=tag, imageManifest=json.dumps(self.manifest(repository, tag))
        )

    def _get(self, path: str) -> bytes | None:
        login = base64.b64encode(f"AWS:{PASSWORD}".encode()).decode()
        request = urllib.request.Request(
            f"https://localhost:{self.port}{path}",
            headers={"Authorization": f"Basic {login}", "Accept": MANIFEST_TYPES},
        )
        try:
            with urllib.request.urlopen(request, context=self.tls, timeout=20) as answer:  # noqa: S310 - ditto
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as refusal:
            refusal.close()
            if refusal.code == 404:
                return None
            raise


# --- the registries --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def registry(folder: Path, tls: Mapping[str, str] | None = None, passwords: Path | None = None) -> Iterator[int]:
    """Run docker-registry with its files in `folder`; gives its port, and ends it with the block.

    `tls` names certificate and key; without it, it speaks HTTP. `passwords` is an htpasswd file; without it, all may.
    """
    folder.mkdir()
    port = own_port()
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "files")}},
        "http": {"addr": f"127.0.0.1:{port}", **({"tls": tls} if tls else {})},
        **({"auth": {"htpasswd": {"realm": "ECR", "path": str(passwords)}}} if passwords else {}),
    }
    (folder / "registry.yml").write_text(json.dumps(settings))
    with (folder / "registry.log").open("wb") as log:
        process = subprocess.Popen(["docker-registry", "serve", folder / "registry.yml"], stdout=log, stderr=log)
    try:
        _await_listener(port, process)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _await_listener(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 20
    while process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.1)
    raise Broken("docker-registry did not start; see registry.log")


@contextlib.contextmanager
def ecr(folder: Path, host: str) -> Iterator[tuple[Ecr, dict[str, str]]]:
    """Run ECR's registry under the name `host`; gives it, and the environment in which a builder finds it."""
    folder.mkdir()
    authority = trustme.CA()
    ca_file = folder / "ca.pem"
    ca_file.write_bytes(SYSTEM_CA_FILE.read_bytes() + authority.cert_pem.bytes())  # terraform may have to fetch too
    pair = authority.issue_cert(host, "localhost")
    pair.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
    pair.private_key_pem.write_to_path(str(folder / "key.pem"))
    (passwords := folder / "htpasswd").write_text(HTPASSWD)
    tls = {"certificate": str(folder / "cert.pem"), "key": str(folder / "key.pem")}
    with registry(folder / "registry", tls, passwords) as port, way_to({f"{host}:443": port}) as proxy:
        env = {
            "HTTPS_PROXY": f"http://127.0.0.1:{proxy}",
            "NO_PROXY": "127.0.0.1,localhost",
            "SSL_CERT_FILE": str(ca_file),
        }
        yield Ecr(host, port, ssl.create_default_context(cafile=str(ca_file))), env


# --- the way there ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def way_to(places: Mapping[str, int]) -> Iterator[int]:
    """Run a proxy that knows CONNECT and leads the named places to ports on loopback; gives its own port."""

    class Connect(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            verb, place, _ = self.rfile.readline().decode("ascii").split(" ", 2)
            while self.rfile.readline().strip():
                pass
            if verb != "CONNECT":
                self.wfile.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
                return
            host, _, port = place.rpartition(":")
            where = ("127.0.0.1", places[place]) if place in places else (host, int(port))
            try:
                there = socket.create_connection(where, 20)
            except OSError:
                self.wfile.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
                return
            with there:
                self.wfile.write(b"HTTP/1.1 200 Connected\r\n\r\n")
                _carry(self.connection, there)

    class Proxy(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Proxy(("127.0.0.1", 0), Connect) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        try:
            yield proxy.server_address[1]
        finally:
            proxy.shutdown()


def _carry(here: socket.socket, there: socket.socket) -> None:
    """Carry bytes both ways until one side is done."""
    other = {here: there, there: here}
    with contextlib.suppress(OSError):
        while True:
            for ready in select.select(list(other), [], [], 300)[0]:
                if not (chunk := ready.recv(65536)):
                    return
                other[ready].sendall(chunk)
