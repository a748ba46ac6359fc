"""Akamai's own Python kit against the emulator, every method of it."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol, cast
from xml.etree import ElementTree as ET

import pytest

from interop.matrix import CPCODE, KEY, USER, Matrix, OpenSite, Site, missing

pytestmark = pytest.mark.interop

BODY = bytes(range(256)) * 2000
NO_LIST = "FileStore has no list action (412)"


class Answer(Protocol):
    """What the kit hands back of a response."""

    status_code: int
    text: str
    content: bytes

    def close(self) -> None:
        """Let the connection go."""


class Session(Protocol):
    """What the kit keeps its connections in."""

    def close(self) -> None:
        """Close them."""


Result = tuple[bool, Answer]


class Kit(Protocol):
    """The methods of `akamai.netstorage.Netstorage`."""

    http_client: Session

    def upload(self, local_source: str, ns_destination: str, index_zip: bool = False) -> Result: ...  # noqa: FBT002 -- the kit's own face
    def stream_upload(self, data: object, ns_destination: str) -> Result: ...
    def download(self, ns_source: str, local_destination: str = "") -> Result: ...
    def stream_download(self, ns_source: str) -> Result: ...
    def dir(self, ns_path: str, option: dict[str, object] = ...) -> Result: ...
    def list(self, ns_path: str, option: dict[str, object] = ...) -> Result: ...
    def stat(self, ns_path: str) -> Result: ...
    def du(self, ns_path: str) -> Result: ...
    def mkdir(self, ns_path: str) -> Result: ...
    def rmdir(self, ns_path: str) -> Result: ...
    def mtime(self, ns_path: str, mtime: int) -> Result: ...
    def delete(self, ns_path: str) -> Result: ...
    def quick_delete(self, ns_path: str) -> Result: ...
    def rename(self, ns_target: str, ns_destination: str) -> Result: ...
    def symlink(self, ns_target: str, ns_destination: str) -> Result: ...


def kit_for(site: Site, monkeypatch: pytest.MonkeyPatch) -> Kit:
    """Return the kit, set up for `site`; it finds the test certificate the way requests does."""
    if find_spec("akamai") is None:
        missing("netstorageapi", "`pip install netstorageapi==1.2.13`")
    from akamai.netstorage import Netstorage  # type: ignore[import-untyped]  # noqa: PLC0415 -- may be missing

    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(site.ca_file))
    return cast("Kit", Netstorage(site.host, USER, KEY, ssl=site.scheme == "https"))


@pytest.fixture
def kit(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kit]:
    """Yield the kit, set up for `site`."""
    made = kit_for(site, monkeypatch)
    yield made
    made.http_client.close()


@pytest.fixture
def client() -> str:
    """Return what the table calls it."""
    return f"netstorageapi {version('netstorageapi')}"


def path(name: str) -> str:
    """Return a path in the CP code."""
    return f"/{CPCODE}/{name}"


def good(result: Result) -> Answer:
    """Return the answer of a call that went well."""
    ok, answer = result
    assert ok, (answer.status_code, answer.text)
    return answer


def entries(answer: Answer) -> list[dict[str, str]]:
    """Return the attributes of each `file` element."""
    root = ET.fromstring(answer.content)  # noqa: S314 -- our own emulator wrote it
    return [dict(element.attrib) for element in root.iter("file")]


def test_every_method(site: Site, kit: Kit, matrix: Matrix, client: str, tmp_path: Path) -> None:
    """Each method of the kit does what it says, on both generations, with names that need escaping."""
    source = tmp_path / "x y+z%é.bin"
    source.write_bytes(BODY)
    empty = tmp_path / "empty"
    empty.touch()
    name = "d/x y+z%é.bin"
    with matrix.cell(client, "upload", site):
        good(kit.upload(str(source), path("d/")))
        good(kit.upload(str(empty), path("d/empty")))
        good(kit.upload(str(source), path("d/z.zip"), index_zip=True))
        assert site.contents("d") == {"x y+z%é.bin": BODY, "empty": b"", "z.zip": BODY}
    with matrix.cell(client, "stream_upload", site):
        good(kit.stream_upload(iter([b"ab", b"cd"]), path("d/streamed")))
        assert site.contents("d")["streamed"] == b"abcd"
    with matrix.cell(client, "download", site):
        good(kit.download(path(name), str(tmp_path / "back")))
        assert (tmp_path / "back").read_bytes() == BODY
    with matrix.cell(client, "stream_download", site):
        answer = good(kit.stream_download(path(name)))
        assert answer.content == BODY
        answer.close()
    with matrix.cell(client, "stat", site):
        assert entries(good(kit.stat(path("d/streamed"))))[0]["size"] == "4"
        assert kit.stat(path("nothing"))[1].status_code == 404
    with matrix.cell(client, "dir", site):
        assert len(entries(good(kit.dir(path("d"))))) == 4
    with matrix.cell(client, "du", site):
        assert f'bytes="{2 * len(BODY) + 4}"' in good(kit.du(path("d"))).text
    with matrix.cell(client, "mtime", site):
        good(kit.mtime(path(name), 77))
        assert site.emulator.snapshot()[path(name)].mtime_s == 77
    with matrix.cell(client, "rename", site):
        good(kit.rename(path("d/streamed"), path("d/re named+%é")))
        assert site.contents("d")["re named+%é"] == b"abcd"
    with matrix.cell(client, "symlink", site):
        good(kit.symlink(path("d/re named+%é"), path("d/link")))
        good(kit.download(path("d/link"), str(tmp_path / "linked")))
        assert (tmp_path / "linked").read_bytes() == b"abcd"
    with matrix.cell(client, "mkdir", site):
        good(kit.mkdir(path("e")))
        assert kit.mkdir(path("e"))[0] == site.objectstore
    with matrix.cell(client, "rmdir", site):
        good(kit.rmdir(path("e")))
        assert kit.rmdir(path("e"))[1].status_code == 404
    with matrix.cell(client, "delete", site):
        good(kit.delete(path(name)))
        assert kit.delete(path(name))[1].status_code == 404
        assert "x y+z%é.bin" not in site.contents("d")


def test_listing(site: Site, kit: Kit, matrix: Matrix, client: str) -> None:
    """The list action, with the kit's options, pages by `start`; FileStore has none."""
    for number in range(5):
        good(kit.stream_upload(b"x", path(f"d/{number}")))
    if not site.objectstore:
        with matrix.unsupported(client, "list", site, NO_LIST):
            assert kit.list(path("d"))[1].status_code == 412
        return
    with matrix.cell(client, "list", site):
        first = good(kit.list(path("d"), {"max_entries": 3, "end": f"{CPCODE}/d0"}))
        assert [entry["name"] for entry in entries(first)] == [f"{CPCODE}/d/{number}" for number in range(3)]
        resume = ET.fromstring(first.content).find("resume")  # noqa: S314 -- our own emulator wrote it
        assert resume is not None
        second = good(kit.list(path("d"), {"start": resume.attrib["start"], "end": f"{CPCODE}/d0"}))
        assert [entry["name"] for entry in entries(second)] == [f"{CPCODE}/d/3", f"{CPCODE}/d/4"]


def test_quick_delete(open_site: OpenSite, matrix: Matrix, client: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused by default, a whole tree gone where enabled."""
    for enabled in (False, True):
        with open_site(quick_delete=enabled) as site:
            kit = kit_for(site, monkeypatch)
            try:
                with matrix.cell(client, "quick_delete", site):
                    good(kit.stream_upload(b"x", path("d/e/f")))
                    assert kit.quick_delete(path("d"))[0] == enabled
                    assert (site.contents("d") == {}) == enabled
            finally:
                kit.http_client.close()
