"""Build images without an engine: buildah as root, with a store of its own that ends with the test.

The base stands in for `python:3.13-slim`, which needs a registry to come from: Debian 13 (Python 3.13) by debootstrap.
Its arm64 variant is an empty root with a mark in it, for nothing of the target's platform may run in a build.
"""

from __future__ import annotations

import ast
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
CONTEXT = ("Dockerfile", ".dockerignore", "LICENSE", "README.md", "requirements", "src")
STRAY = (
    ".env",
    "src/s3nsync/.env",
    "src/s3nsync/key.pem",
    "src/s3nsync/worker/__pycache__/loop.cpython-313.pyc",
    "app/x.py",
)
"""What may lie about in a working copy and must not get into an image."""

BASE = "localhost/base"
ARM64_MARK = "etc/arm64-base"


@dataclass(frozen=True, slots=True)
class Config:
    """What an image says about running it."""

    architecture: str
    user: str
    env: Mapping[str, str]
    entrypoint: list[str]
    cmd: list[str]
    stop_signal: str
    healthcheck: Mapping[str, object]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of a pushed image: its compressed size, and its entries."""

    size_bytes: int
    entries: list[tarfile.TarInfo]


class Buildah:
    """buildah with everything it keeps below `home`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.context = home / "context"
        self._scratch = home / "tmp"
        self._scratch.mkdir()

    def __call__(self, *arguments: str, within_s: float = 120) -> str:
        store = ("--root", str(self.home / "store"), "--runroot", str(self.home / "run"), "--storage-driver", "vfs")
        done = subprocess.run(
            ["buildah", *store, *arguments],
            env={**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self._scratch)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
        assert done.returncode == 0, f"buildah {' '.join(arguments)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout.strip()

    def build(self, tag: str, *options: str) -> str:
        """Build the shipped Dockerfile in `context`."""
        arguments = (
            "--pull-never",
            "--format",
            "docker",
            "--build-arg",
            f"BASE={BASE}",
            *(f"--volume={each}" for each in self.pip_volumes()),
            *options,
        )
        self("bud", *arguments, "--tag", tag, str(self.context), within_s=400)
        return tag

    def config(self, image: str) -> Config:
        """Read an image's configuration."""
        found = json.loads(self("inspect", "--type", "image", image))["Docker"]
        inner = found["config"]
        return Config(
            architecture=found["architecture"],
            user=inner["User"],
            env=dict(each.split("=", 1) for each in inner["Env"]),
            entrypoint=inner["Entrypoint"],
            cmd=inner["Cmd"],
            stop_signal=inner["StopSignal"],
            healthcheck=inner["Healthcheck"],
            labels=inner["Labels"],
        )

    def layers(self, image: str) -> list[Layer]:
        """Give the layers as they would travel, the base's first."""
        archive = self.home / "image.tar"
        self("push", "--quiet", image, f"oci-archive:{archive}", within_s=200)
        try:
            with tarfile.open(archive) as outer:
                index = json.loads(_member(outer, "index.json"))
                manifest = json.loads(_member(outer, _blob(index["manifests"][0]["digest"])))
                return [_layer(outer, _blob(layer["digest"]), layer["size"]) for layer in manifest["layers"]]
        finally:
            archive.unlink()

    @contextmanager
    def root(self, image: str) -> Iterator[Path]:
        """Unpack an image into a root of its own, which may be written."""
        container = self("from", "--pull-never", image)
        try:
            yield Path(self("mount", container))
        finally:
            self("umount", container)
            self("rm", container)

    def close(self) -> None:
        """Let go of every mount."""
        self("umount", "--all")
        self("rm", "--all")

    def pip_volumes(self) -> Iterator[str]:
        """Give the mounts that bring this machine's pip settings (which index, which authorities) into a build.

        They are never in the image.
        """
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        pairs = re.findall(r"^(?:global|install|:env:)\.([a-z-]+)=('.*'|\".*\")$", listed, re.MULTILINE)
        settings = {name: str(ast.literal_eval(value)).replace("\n", "\n    ") for name, value in pairs}
        file = self.home / "pip.conf"
        file.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        yield f"{file}:/etc/pip.conf:ro"
        named = [Path(word.removeprefix("file://")) for value in settings.values() for word in value.split()]
        # An index's pages point sideways, so what is beside a folder is needed too.
        for folder in sorted({path.parent for path in named if path.is_absolute() and path.exists()} - {Path("/")}):
            yield f"{folder}:{folder}:ro"


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    with file:
        return file.read()


def _blob(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def _layer(archive: tarfile.TarFile, name: str, size_bytes: int) -> Layer:
    file = archive.extractfile(name)
    assert file is not None
    with file, gzip.open(file) as unpacked, tarfile.open(fileobj=unpacked, mode="r|") as entries:
        return Layer(size_bytes, list(entries))


def make_context(folder: Path) -> None:
    """Copy the working copy, so that it may be edited meanwhile; litter it, and let everybody write to it."""
    folder.mkdir()
    for name in CONTEXT:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    for name in STRAY:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("NS_KEY=stray")
    for path in folder.rglob("*"):
        path.chmod(path.stat().st_mode | 0o022)


def make_base(buildah: Buildah) -> None:
    """Make the image BASE for amd64 and arm64."""
    root = buildah.home / "debian"
    debootstrap = [
        "debootstrap",
        "--variant=minbase",
        "--include=python3,python3-pip,ca-certificates",
        "trixie",
        str(root),
    ]
    subprocess.run(debootstrap, check=True, timeout=300, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    empty = buildah.home / "empty"
    mark = empty / ARM64_MARK
    mark.parent.mkdir(parents=True)
    mark.touch()
    buildah("manifest", "create", BASE)
    for architecture, tree in (("amd64", root), ("arm64", empty)):
        container = buildah("from", "--arch", architecture, "scratch")
        buildah("add", "--quiet", container, str(tree), "/")
        buildah("commit", "--quiet", "--rm", container, f"{BASE}-{architecture}")
        buildah("manifest", "add", BASE, f"containers-storage:{BASE}-{architecture}")
