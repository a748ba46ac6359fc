"""The image that the Dockerfile makes: built for real, looked into, run as in production, pushed and pulled."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from image.building import ARM64_MARK, REPOSITORY, Buildah
from image.container import Image
from ports import own_port
from s3nsync import __version__
from s3nsync.local.demo import differing
from s3nsync.local.dev import BUCKET, Stage, stage

pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(os.environ.get("S3NSYNC_IMAGE") != "1", reason="run by `make image-test`"),
]

COMPRESSED_MAX_BYTES = 200_000_000
AARCH64 = 183
"""EM_AARCH64, the machine number in an ELF header."""

UNCHECKED_HASH = b"\x01\x00\x00\x00"
"""The flags of bytecode that is never held against its source (PEP 552)."""

SETTINGS = {
    "S3NSYNC_REGION": "eu-central-1",
    "S3NSYNC_LIVE_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/111122223333/live.fifo",
    "S3NSYNC_CHECK_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/111122223333/check.fifo",
    "S3NSYNC_DEAD_QUEUE_URL": "https://sqs.eu-central-1.amazonaws.com/111122223333/dead.fifo",
    "S3NSYNC_ROUTES": '[{"bucket": "media", "cpcode": "123456", "directory": "mirror"}]',
    "NS_HOSTNAME": "example-nsu.akamaihd.net",
    "NS_USER": "user",
    "NS_KEY": "the-secret-key",
}


def test_the_dockerfile_has_nothing_that_hadolint_would_change() -> None:
    """The linter's rules, with the one exception that gives its reason in the file."""
    lint = ["hadolint", str(REPOSITORY / "Dockerfile")]
    done = subprocess.run(lint, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")


# --- what is in it ---------------------------------------------------------------------------------------------


def test_the_image_says_how_it_is_run(image: Image) -> None:
    """A numeric user that is not root, one entry point, and a signal that drains."""
    config = image.config
    assert config.user == "10001:10001"
    assert (config.entrypoint, config.cmd) == (["python3", "-m", "s3nsync"], ["run"])
    assert config.stop_signal == "SIGTERM"
    assert config.healthcheck["Test"] == ["CMD", "python3", "-m", "s3nsync.health"]
    assert config.labels["org.opencontainers.image.version"] == __version__


def test_our_layers_hold_our_files_and_nothing_else(buildah: Buildah, native: str) -> None:
    """Below /app, owned by root, writable by nobody else, no setuid bit, no compiler, no pip, and small enough."""
    base, *ours = buildah.layers(native)
    names = {entry.name.strip("/") for layer in ours for entry in layer.entries}
    assert {name.split("/")[0] for name in names} == {"app"}
    for entry in (entry for layer in ours for entry in layer.entries):
        assert (entry.uid, entry.gid) == (0, 0), entry.name
        assert entry.issym() or not entry.mode & 0o6022, f"{entry.name}: {entry.mode:o}"
        assert entry.isfile() or entry.isdir(), entry.name
    packages = {name.split("/")[1] for name in names if name.count("/") == 1}
    assert not packages & {"bin", "pip", "setuptools", "wheel", "hatchling", "trustme", "pytest"}

    sizes = [base.size_bytes, *(layer.size_bytes for layer in ours)]
    print(f"\nimage: {sum(sizes) / 1e6:.1f} MB compressed; base {sizes[0] / 1e6:.1f} MB, then", end=" ")  # noqa: T201
    print(", ".join(f"{size / 1e6:.3f} MB" for size in sizes[1:]))  # noqa: T201 - the figures are a result
    assert sum(sizes) < COMPRESSED_MAX_BYTES


def test_the_sources_are_those_of_the_working_copy(buildah: Buildah, image: Image) -> None:
    """Every module and no more: nothing that lies about in a working copy gets in."""
    source, packed = buildah.context / "src/s3nsync", image.root / "app/s3nsync"
    wanted = {path.relative_to(source): path.read_bytes() for path in source.rglob("*.py")}
    wanted[Path("py.typed")] = b""
    found = {path.relative_to(packed): path for path in packed.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert found.keys() == wanted.keys()
    assert all(path.read_bytes() == wanted[name] for name, path in found.items())


def test_every_module_has_its_bytecode(image: Image) -> None:
    """Made in the build, valid whatever the file times, and naming the place where the source is now."""
    sources = [path for path in (image.root / "app").rglob("*.py") if "templates" not in path.parts]
    assert len(sources) > 500
    without = []
    for source in sources:
        compiled = next((source.parent / "__pycache__").glob(f"{source.stem}.cpython-3??.pyc"), None)
        if compiled is None:
            without.append(source)
            continue
        assert compiled.read_bytes()[4:8] == UNCHECKED_HASH, source
    assert without == []
    (health,) = (image.root / "app/s3nsync/__pycache__").glob("health.*.pyc")
    assert b"/app/s3nsync/health.py" in health.read_bytes()


def test_no_tool_that_builds_is_needed_or_brought(image: Image) -> None:
    """No compiler is in the image, and the interpreter imports the product without one."""
    found = [image.root / place / tool for place in ("usr/bin", "app") for tool in ("gcc", "cc", "make", "ld")]
    assert not any(path.exists() for path in found)
    assert not list(image.root.glob("root/.cache/*"))


# --- how it runs -----------------------------------------------------------------------------------------------


def test_the_commands_work_as_the_images_user_on_a_read_only_root(image: Image) -> None:
    """Version and settings, the key masked; nothing is written, because nothing can be."""
    version = image.run("--version")
    assert (version.returncode, version.stdout) == (0, f"s3nsync {__version__}\n"), version.stderr
    shown = image.run("config", env=SETTINGS)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert json.loads(shown.stdout)["region"] == "eu-central-1"
    assert "the-secret-key" not in shown.stdout + shown.stderr
    # That the root is read-only indeed: root itself cannot write.
    write = ["python3", "-c", "open('/app/x', 'w')"]
    assert "Read-only file system" in image.call(write, user="0:0").stderr
    assert image.call(["id", "-u"]).stdout == "10001\n"
    assert image.call(["id", "-G"]).stdout == "10001\n"


def test_wrong_settings_end_the_container_with_a_sentence(image: Image) -> None:
    """No traceback, and the exit code of a wrong configuration."""
    done = image.run("run")
    assert done.returncode == 2
    assert "region" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_health_check_without_a_worker_fails(image: Image) -> None:
    """In both forms, with exit code 1, which is what engines call unhealthy."""
    verb = image.run("health", "--json")
    assert verb.returncode == 1
    assert json.loads(verb.stdout)["healthy"] is False
    quick = image.call(["python3", "-m", "s3nsync.health"])
    assert (quick.returncode, quick.stderr) == (1, "")
    assert "no worker is running here" in quick.stdout


async def test_the_worker_of_the_image_does_the_work(
    image: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole pipeline with the worker in its container: objects arrive and go, it is healthy, and it drains."""
    if "S3NSYNC_MINISTACK" not in os.environ:
        monkeypatch.setenv("S3NSYNC_MINISTACK", str(REPOSITORY / ".venv-ministack/bin/ministack"))
    async with stage() as scene:
        (image.root / "mnt/ca.pem").write_bytes(scene.ca_file.read_bytes())
        await asyncio.to_thread(_play, image, scene, tmp_path / "log")


def _play(image: Image, scene: Stage, log: Path) -> None:
    credentials = {"AWS_ACCESS_KEY_ID": "demo", "AWS_SECRET_ACCESS_KEY": "demo-secret-key"}
    with image.started({**scene.env, **credentials, "NS_CA_FILE": "/mnt/ca.pem"}, log) as container:

        def healthy() -> bool:
            if container.process.poll() is not None:
                pytest.fail(log.read_text())
            return container.health().returncode == 0

        _until(healthy)
        bodies = {f"image/{number:02} a+b": os.urandom(number * 10_000) for number in range(20)}
        for key, body in bodies.items():
            scene.aws.s3.put_object(Bucket=BUCKET, Key=key, Body=body)
        _until(lambda: len(scene.emulator.snapshot()) == len(bodies))
        scene.aws.s3.delete_object(Bucket=BUCKET, Key="image/00 a+b")
        _until(lambda: differing(scene) == [])

        verb = container.health(*image.config.entrypoint, "health", "--json")
        facts = json.loads(verb.stdout)
        assert (verb.returncode, facts["state"], facts["version"]) == (0, "running", __version__)
        assert facts["silence_s"] < 30

        container.send(signal.SIGSTOP)  # a worker that is stuck
        stuck = container.health()
        assert stuck.returncode == 1
        assert "no answer" in stuck.stdout
        container.send(signal.SIGCONT)
        _until(healthy)

        container.send(signal.SIGTERM)
        assert container.process.wait(30) == 0
    written = log.read_text()
    assert written.count('"outcome":"copied"') == len(bodies), written[-2000:]
    assert "Traceback" not in written
    assert "cannot be answered" not in written
    assert scene.key not in written


def _until(holds: Callable[[], bool], within_s: float = 60.0) -> None:
    deadline_s = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.1)


# --- the other platform, and the registry ----------------------------------------------------------------------


def test_an_arm64_image_is_built_without_running_anything_of_arm64(buildah: Buildah, arm64: str) -> None:
    """Its base could not run at all; each compiled wheel in it is for aarch64, and so says the image."""
    assert buildah.config(arm64).architecture == "arm64"
    with buildah.root(arm64) as root:
        assert (root / ARM64_MARK).exists()
        assert sorted(path.name for path in root.iterdir()) == ["app", "etc"]
        compiled = [path for path in (root / "app").rglob("*.so*") if path.is_file()]
        machines = {path.name: int.from_bytes(path.read_bytes()[18:20], "little") for path in compiled}
        assert {"_awscrt.abi3.so"} < machines.keys()
        assert set(machines.values()) == {AARCH64}, machines
        assert list((root / "app/s3nsync/worker/__pycache__").glob("loop.*.pyc"))


def test_a_platform_without_wheels_is_refused(buildah: Buildah) -> None:
    """The build stops with a sentence, not with an image that cannot start."""
    with pytest.raises(AssertionError, match="build for linux/amd64 or linux/arm64"):
        buildah.build("localhost/s3nsync:other", "--build-arg", "TARGETARCH=s390x")


def test_the_image_goes_to_a_registry_and_comes_back_the_same(buildah: Buildah, native: str, tmp_path: Path) -> None:
    """Pushed, removed here, pulled: the same bytes."""
    with _registry(tmp_path) as address:
        there = f"docker://{address}/s3nsync:{__version__}"
        before = buildah("inspect", "--type", "image", "--format", "{{.FromImageID}}", native)
        buildah("push", "--quiet", "--tls-verify=false", native, there, within_s=200)
        pulled = buildah("pull", "--quiet", "--tls-verify=false", there, within_s=200)
        assert pulled == before


@contextmanager
def _registry(folder: Path) -> Iterator[str]:
    port = own_port()
    address = f"127.0.0.1:{port}"
    settings = folder / "registry.yml"
    storage = {"filesystem": {"rootdirectory": str(folder / "registry")}}
    settings.write_text(json.dumps({"version": 0.1, "storage": storage, "http": {"addr": address}}))
    log = folder / "registry.log"
    with log.open("wb") as out:
        process = subprocess.Popen(["docker-registry", "serve", settings], stdout=out, stderr=out)
    try:
        _until(lambda: _listens(port), 20)
        yield address
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
