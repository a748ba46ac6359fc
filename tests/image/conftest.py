"""The image, built once for all its tests: `make image-test` asks for it, and brings the tools."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from image.building import Buildah, make_base, make_context
from image.container import Image

TOOLS = ("buildah", "debootstrap", "docker-registry", "hadolint", "unshare", "nsenter")


@pytest.fixture(scope="session")
def buildah() -> Iterator[Buildah]:
    """Give buildah, with the base image in its store; nothing is left of it in the end."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    assert not missing, f"not installed: {', '.join(missing)}; run `make image-test`"
    assert os.geteuid() == 0, "images are built in a chroot here, which only root can make"
    with tempfile.TemporaryDirectory(prefix="s3nsync-image-") as folder:
        tool = Buildah(Path(folder))
        try:
            make_context(tool.context)
            make_base(tool)
            yield tool
        finally:
            tool.close()


@pytest.fixture(scope="session")
def native(buildah: Buildah) -> str:
    """Build the image for this machine's platform."""
    return buildah.build("localhost/s3nsync:amd64")


@pytest.fixture(scope="session")
def arm64(buildah: Buildah) -> str:
    """Build the image for another platform; BuildKit knows its own platform, older buildah must be told."""
    return buildah.build(
        "localhost/s3nsync:arm64", "--platform=linux/arm64", "--build-arg", "BUILDPLATFORM=linux/amd64"
    )


@pytest.fixture(scope="session")
def image(buildah: Buildah, native: str) -> Iterator[Image]:
    """Unpack the image, with the names of this machine as an engine would bring them."""
    with buildah.root(native) as root:
        shutil.copy("/etc/hosts", root / "etc/hosts")
        yield Image(buildah.config(native), root)
