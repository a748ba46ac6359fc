"""Real rclone against the emulator: its netstorage backend signs, chunks, sends trailers and pages by itself."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import time
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from urllib.parse import quote

import pytest

from interop.matrix import CPCODE, KEY, USER, Matrix, OpenSite, Site, missing
from raw_netstorage import auth_headers
from s3nsync.emulator import Fault

pytestmark = pytest.mark.interop

TREE = {
    "plain.txt": b"plain",
    "empty": b"",
    "a b/c+d/100%/é ü/x#?&=;,'y.txt": b"odd",
    "日本/ファイル": b"wide",
    "deep/1/2/3/4/5/6/7/8/9/f": b"deep",
    "deep-er/g": b"sibling that sorts between deep and deep/",
    "big.bin": bytes(range(256)) * 8000,
}
NO_LIST = "its recursive listing is the list action, which FileStore refuses (412); `--disable ListR` helps"
NO_MKDIR = "it makes every directory level anew in each run, which FileStore refuses (409) once they exist"


class Rclone:
    """The command, set up for one site by environment alone."""

    def __init__(self, site: Site, tmp_path: Path) -> None:
        """Find it and hide the key the way it wants."""
        path = shutil.which("rclone")
        if path is None:
            missing("rclone", "`apt-get install rclone`, or see https://rclone.org/install/")
        version = self._run("version").stdout.split()[1].lstrip("v").removesuffix("-DEV")
        self.name = f"rclone {version}"
        self._ca_file = site.ca_file
        self._environment = {
            "RCLONE_CONFIG": str(tmp_path / "rclone.conf"),
            "RCLONE_CONFIG_NS_TYPE": "netstorage",
            "RCLONE_CONFIG_NS_HOST": f"{site.host}/{CPCODE}",
            "RCLONE_CONFIG_NS_ACCOUNT": USER,
            "RCLONE_CONFIG_NS_SECRET": self._run("obscure", KEY).stdout.strip(),
            "RCLONE_CONFIG_NS_PROTOCOL": site.scheme,
        }
        (tmp_path / "rclone.conf").touch()

    def __call__(self, *arguments: str) -> str:
        """Run it and want success; return its standard output."""
        result = self._ask(*arguments)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def refused(self, *arguments: str) -> str:
        """Run it and want failure; return what it said."""
        result = self._ask(*arguments)
        assert result.returncode != 0
        return result.stderr

    def _ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._run("--retries=1", "--low-level-retries=1", f"--ca-cert={self._ca_file}", *arguments)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **getattr(self, "_environment", {})}
        return subprocess.run(
            ["rclone", *arguments], env=environment, capture_output=True, text=True, timeout=240, check=False
        )


@pytest.fixture
def rclone(site: Site, tmp_path: Path) -> Rclone:
    """Return the command, set up for `site`."""
    return Rclone(site, tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Make a directory tree with every kind of name that has ever been trouble."""
    root = tmp_path / "tree"
    for name, body in TREE.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
        os.utime(path, (1_600_000_000, 1_600_000_000))
    return root


def read_tree(root: Path) -> dict[str, bytes]:
    """Return bytes by relative name."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_reading_and_writing(site: Site, rclone: Rclone, matrix: Matrix, tree: Path, tmp_path: Path) -> None:
    """A tree goes there, is checked, listed, printed and comes back, byte for byte, with its times."""
    name = rclone.name
    recursive = () if site.objectstore else ("--disable=ListR",)
    with matrix.cell(name, "copy to", site):
        rclone("copy", str(tree), "ns:there")
        assert site.contents("there") == TREE
        assert {file.mtime_s for file in site.emulator.snapshot().values()} == {1_600_000_000}
    with matrix.cell(name, "check (md5)", site):
        rclone("check", str(tree), "ns:there")
        (tree / "plain.txt").write_bytes(b"PLAIN")
        assert "md5 differ" in rclone.refused("check", str(tree), "ns:there")
        (tree / "plain.txt").write_bytes(b"plain")
    with matrix.cell(name, "lsjson, by dir", site):
        entries = json.loads(rclone("lsjson", "-R", "--disable=ListR", "--hash", "ns:there"))
        assert {entry["Path"]: entry["Size"] for entry in entries if not entry["IsDir"]} == {
            path: len(body) for path, body in TREE.items()
        }
    with matrix.cell(name, "cat", site):
        assert rclone("cat", "ns:there/a b/c+d/100%/é ü/x#?&=;,'y.txt") == "odd"
        assert rclone("cat", "--offset=1", "--count=3", "ns:there/plain.txt") == "lai"
    with matrix.cell(name, "copy from", site):
        rclone("copy", *recursive, "ns:there", str(tmp_path / "back"))
        assert read_tree(tmp_path / "back") == TREE
    with matrix.cell(name, "size", site):
        assert json.loads(rclone("size", "--json", *recursive, "ns:there"))["count"] == len(TREE)
    with matrix.cell(name, "backend du", site):
        assert json.loads(rclone("backend", "du", "ns:there"))["Total bytes"] == sum(map(len, TREE.values()))


def test_changing(site: Site, rclone: Rclone, matrix: Matrix, tree: Path) -> None:
    """What changes here changes there: new, altered, removed files, times, directories."""
    name = rclone.name
    rclone("copy", str(tree), "ns:there")
    with matrix.cell(name, "sync: overwrite, delete", site):
        (tree / "plain.txt").write_bytes(b"altered")
        (tree / "deep-er/g").unlink()
        rclone("sync", str(tree), "ns:there")
        assert site.contents("there") == read_tree(tree)
    with matrix.cell(name, "sync: mtime only", site):
        os.utime(tree / "empty", (1_500_000_000, 1_500_000_000))
        rclone("sync", str(tree), "ns:there")
        assert site.emulator.snapshot()[f"/{CPCODE}/there/empty"].mtime_s == 1_500_000_000
        assert site.emulator.counts()["mtime"] == 1
    (tree / "deep/1/new").write_bytes(b"new")
    if site.objectstore:
        with matrix.cell(name, "sync: new in old directory", site):
            rclone("sync", str(tree), "ns:there")
            assert site.contents("there") == read_tree(tree)
    else:
        with matrix.unsupported(name, "sync: new in old directory", site, NO_MKDIR):
            assert "409" in rclone.refused("sync", str(tree), "ns:there")
    with matrix.cell(name, "deletefile", site):
        rclone("deletefile", "ns:there/big.bin")
        assert "big.bin" not in site.contents("there")
    with matrix.cell(name, "mkdir, rmdir", site):
        rclone("mkdir", "ns:one/two")
        assert json.loads(rclone("lsjson", "ns:one"))[0]["Name"] == "two"
        rclone("rmdir", "ns:one/two")
        assert json.loads(rclone("lsjson", "ns:one")) == []
        assert "409" in rclone.refused("rmdir", "ns:there")
    with matrix.cell(name, "backend symlink", site):
        rclone("backend", "symlink", "ns:there/link", f"/{CPCODE}/there/plain.txt")
        assert "link.rclonelink" in rclone("lsf", "ns:there")


def test_removing(site: Site, rclone: Rclone, matrix: Matrix, tree: Path) -> None:
    """Files go with delete, whole trees with purge, which falls back to single deletes where quick-delete is off."""
    recursive = () if site.objectstore else ("--disable=ListR",)
    rclone("copy", str(tree), "ns:one")
    rclone("copy", str(tree), "ns:two")
    with matrix.cell(rclone.name, "delete", site):
        rclone("delete", *recursive, "ns:one")
        assert site.contents("") == {f"two/{path}": body for path, body in TREE.items()}
    with matrix.cell(rclone.name, "purge, one by one", site):
        rclone("purge", *recursive, "ns:two")
        assert site.contents("") == {}
        assert "two/" not in rclone("lsf", "ns:")


def test_quick_delete(open_site: OpenSite, matrix: Matrix, tree: Path, tmp_path: Path) -> None:
    """Where quick-delete is enabled, purge is one request."""
    with open_site(quick_delete=True) as site:
        rclone = Rclone(site, tmp_path)
        rclone("copy", str(tree), "ns:there")
        with matrix.cell(rclone.name, "purge by quick-delete", site):
            rclone("purge", "ns:there")
            assert site.contents("") == {}
            assert (site.emulator.counts()["quick-delete"], "delete" in site.emulator.counts()) == (1, False)


def test_faults(site: Site, rclone: Rclone, matrix: Matrix, tree: Path, tmp_path: Path) -> None:
    """Refusals and resets are ridden out by its retries, each of them signed afresh."""
    patient = ("--retries=5", "--retries-sleep=10ms", "--low-level-retries=10", "--disable=ListR")
    with matrix.cell(rclone.name, "copy through 503s and resets", site):
        site.emulator.inject(Fault(kind="status", status=503, every=4, times=6))
        rclone(*patient, "copy", str(tree), "ns:there")
        assert site.contents("there") == TREE
        site.emulator.clear_faults()
        site.emulator.inject(Fault(kind="reset", action="download", path="*/big.bin", after_bytes=300_000, times=2))
        rclone(*patient, "copy", "ns:there", str(tmp_path / "back"))
        assert read_tree(tmp_path / "back") == TREE
        assert site.emulator.injected() == {"status": 6, "reset": 2}


def fill(site: Site, names: list[str]) -> None:
    """Upload an empty file under each name, over one connection (rclone paces itself to 100 calls a second)."""
    context = ssl.create_default_context(cafile=str(site.ca_file))
    port = site.emulator.port
    connection: HTTPConnection = HTTPSConnection("127.0.0.1", port, context=context, timeout=60)
    if site.scheme == "http":
        connection = HTTPConnection("127.0.0.1", port, timeout=60)
    for name in names:
        target = quote(f"/{CPCODE}/{name}")
        signed = auth_headers(target, "version=1&action=upload", key=KEY, user=USER, time_s=int(time.time()))
        connection.request("PUT", target, b"", dict(signed))
        with connection.getresponse() as answer:
            assert answer.read() == b"" or not site.objectstore
            assert answer.status == 200
    connection.close()


def test_paging(open_site: OpenSite, matrix: Matrix, tmp_path: Path) -> None:
    """Thousands of names come whole through pages of 500, by list and by dir, and stop at the directory's end."""
    with open_site(page_cap=500) as site:
        rclone = Rclone(site, tmp_path)
        names = [f"{number % 7}/{'é +%'[number % 4]}/{number:04}" for number in range(3000)]
        fill(site, [f"many/{name}" for name in names] + ["many-more", "many0"])
        with matrix.cell(rclone.name, "thousands of names, by dir", site):
            found = rclone("lsf", "-R", "--files-only", "--disable=ListR", "ns:many").splitlines()
            assert sorted(found) == sorted(names)
        if not site.objectstore:
            with matrix.unsupported(rclone.name, "thousands of names, by list", site, NO_LIST):
                assert "412" in rclone.refused("lsf", "-R", "--fast-list", "ns:many")
            return
        with matrix.cell(rclone.name, "thousands of names, by list", site):
            found = rclone("lsf", "-R", "--files-only", "--fast-list", "ns:many").splitlines()
            assert sorted(found) == sorted(names)
            assert site.emulator.counts()["list"] >= 6
