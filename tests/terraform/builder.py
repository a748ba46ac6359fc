"""The pipeline with the image that Terraform builds: by a real builder, pushed to a registry, pulled and run.

    cd tests && python -m terraform.builder       as root, on Debian for x86-64; a temporary folder, the whole story

No `image` is given, so `terraform apply` runs the module's build_image.py. No docker engine answers, so the script
takes buildah, which builds the shipped Dockerfile without one (in a chroot), logs in and pushes to the name that ECR
gives (ecr.py says how it gets there). The base is Debian's own Python, as in image/building.py. Then the image is
pulled from the registry and runs the pipeline's story (pipeline.py) as ECS would run it: by the name, user, command,
environment and secret in the task definition, on a read-only root.

In the end: an apply builds nothing; an image that the registry has is not built again, even when Terraform asks; a
changed source is another tag, built from it, for the other platform too.

Needs what pipeline.py needs, and buildah, debootstrap and docker-registry.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from image.building import BASE, Buildah, make_base
from image.container import Image
from terraform.apply import ACCOUNT, REGION, Broken, Verdict, perform, plans_empty, step
from terraform.ecr import PASSWORD, Ecr, ecr, registry
from terraform.pipeline import replicates
from terraform.stage import Builder, Host, Scene, deployed

HOST_NAME = f"{ACCOUNT}.dkr.ecr.{REGION}.amazonaws.com"
REPOSITORY_NAME = "s3nsync"
TOOLS = ("buildah", "debootstrap", "docker-registry", "unshare", "terraform")
COMPRESSED_MAX_BYTES = 200_000_000


# --- where the image runs --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contained:
    """Runs the container's commands in the image's root, as its user."""

    image: Image

    def trust(self, ca_file: Path) -> str:
        """See Host."""
        (self.image.root / "mnt/ca.pem").write_bytes(ca_file.read_bytes())
        return "/mnt/ca.pem"

    def run(self, words: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """See Host."""
        return self.image.run(*words, env=env)

    @contextlib.contextmanager
    def started(self, words: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[Callable[[], int]]:
        """See Host."""
        if list(words) != self.image.config.cmd:
            raise Broken(f"the task definition's command is {words}, the image's {self.image.config.cmd}")
        with self.image.started(env, log) as container:

            def stop() -> int:
                container.send(signal.SIGTERM)
                return container.process.wait(60)

            yield stop


@contextlib.contextmanager
def pulled(buildah: Buildah, there: Ecr, image: str) -> Iterator[Host]:
    """Pull an image by its name in the task definition, and unpack it."""
    name = image.replace(there.host, f"localhost:{there.port}")
    buildah("pull", "--quiet", "--tls-verify=false", "--creds", f"AWS:{PASSWORD}", f"docker://{name}", within_s=300)
    with buildah.root(name) as root:
        shutil.copy("/etc/hosts", root / "etc/hosts")
        yield Contained(Image(buildah.config(name), root))


# --- who builds it ---------------------------------------------------------------------------------------------


def settings(folder: Path, hub: int, volumes: Sequence[str]) -> dict[str, str]:
    """Write the files that every program of the containers project reads; give the variables that name them.

    The store is a folder of ours. `python` comes from the registry at port `hub`, which stands in for Docker's own. The
    volumes bring this machine's pip settings into each RUN, and stay out of the image.
    """
    (folder / "tmp").mkdir(parents=True)
    texts = {
        "CONTAINERS_CONF": f"[containers]\nvolumes = {json.dumps(list(volumes))}\n",
        "CONTAINERS_REGISTRIES_CONF": 'unqualified-search-registries = ["docker.io"]\n'
        '[[registry]]\nprefix = "docker.io/library/python"\n'
        f'location = "127.0.0.1:{hub}/python"\ninsecure = true\n',
        "CONTAINERS_STORAGE_CONF": '[storage]\ndriver = "vfs"\n'
        f'graphroot = "{folder}/store"\nrunroot = "{folder}/run"\n',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    return {
        **{name: str(folder / name) for name in texts},
        "REGISTRY_AUTH_FILE": str(folder / "auth.json"),
        "BUILDAH_ISOLATION": "chroot",
        "DOCKER_HOST": f"unix://{folder}/no-engine",  # one that runs would know nothing of all this
        "TMPDIR": str(folder / "tmp"),
    }


@dataclass(frozen=True)
class Real:
    """A builder that builds, and the registry that it pushes to."""

    builder: Builder
    there: Ecr


@contextlib.contextmanager
def real(scratch: Path) -> Iterator[Real]:
    """Make the base image and run both registries, until the block ends."""
    (home := scratch / "buildah").mkdir()
    buildah = Buildah(home)
    with registry(scratch / "hub") as hub, ecr(scratch / "ecr", HOST_NAME) as (there, env):
        with step("make the base image, and put it where the builder looks"):
            make_base(buildah)
            hub_name = f"docker://127.0.0.1:{hub}/python:3.13-slim"
            buildah("manifest", "push", "--all", "--quiet", "--tls-verify=false", BASE, hub_name, within_s=300)
        try:
            yield Real(
                Builder(
                    {
                        **env,
                        **settings(scratch / "builder", hub, list(buildah.pip_volumes())),
                        "PATH": os.environ["PATH"],
                    },
                    {"architecture": "X86_64"},
                    lambda image: pulled(buildah, there, image),
                ),
                there,
            )
        finally:
            buildah.close()


# --- the story -------------------------------------------------------------------------------------------------


def is_pushed(scene: Scene, verdict: Verdict, there: Ecr, image: str, architecture: str) -> None:
    """Compare the registry's image with the task definition's, and let the stand-in's API know of it."""
    name, tag = image.rsplit(":", 1)
    verdict.check("the image's name is ECR's", name, f"{HOST_NAME}/{REPOSITORY_NAME}")
    manifest = there.manifest(REPOSITORY_NAME, tag)
    if manifest is None:
        raise Broken(f"the registry has {there.tags(REPOSITORY_NAME)}, not {tag}")
    config = there.config(REPOSITORY_NAME, tag)
    sizes = [layer["size"] for layer in manifest["layers"]]
    sys.stdout.write(f"    {tag}: {architecture}, {sum(sizes) / 1e6:.1f} MB compressed, {len(sizes)} layers\n")
    verdict.true(f"less than {COMPRESSED_MAX_BYTES} bytes", sum(sizes) < COMPRESSED_MAX_BYTES)
    verdict.check("its platform", config["architecture"], architecture)
    verdict.check("its user is the task's", config["config"]["User"], scene.container.user)
    verdict.true("it knows how to tell its health", config["config"].get("Healthcheck"))
    there.tell(scene.cloud.client("ecr"), REPOSITORY_NAME, tag)


def builds_only_what_changed(scene: Scene, verdict: Verdict, there: Ecr) -> None:
    """Apply with nothing changed, with the image asked for again, and with a source changed."""
    terraform, path = scene.terraform, "module.s3nsync.terraform_data.image[0]"
    built = "STEP 1/"
    changed = {"event_path": "eventbridge"}
    with step("an apply builds nothing; nor does one that asks for the image again"):
        output = terraform.must("apply", "-input=false", "-auto-approve", **changed)
        verdict.true("nothing is provisioned", "Provisioning" not in output)
        output = terraform.must("apply", "-input=false", "-auto-approve", f"-replace={path}", **changed)
        verdict.true("the script finds the image", f"{scene.container.image} is there already" in output)
        verdict.true("and builds nothing", built not in output)
        verdict.check("the registry has one tag", there.tags(REPOSITORY_NAME), [scene.container.image.rsplit(":")[-1]])
    with step("a changed source, and the module's own platform"):
        source = terraform.root.parent / "src/s3nsync/health.py"
        source.write_text(source.read_text() + "# changed\n")
        status, output = terraform.run("plan", "-input=false", "-detailed-exitcode", **changed)
        verdict.check("a changed source is something to do", status, 2)
        verdict.true("namely the image", f"{path} must be replaced" in output)
        verdict.true("and the task", "module.s3nsync.aws_ecs_task_definition.worker must be replaced" in output)
        output = terraform.must("apply", "-input=false", "-auto-approve", **changed, architecture="ARM64")
        verdict.true("it is built", built in output)
        image = terraform.outputs()["image"]
        verdict.check("both are there", len(there.tags(REPOSITORY_NAME)), 2)
        is_pushed(scene, verdict, there, image, "arm64")
        plans_empty(terraform, verdict, "after the change", **changed, architecture="ARM64")


def tell(verdict: Verdict, scratch: Path) -> None:
    """Tell the whole story on a stage of its own."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing or os.geteuid() != 0:
        raise Broken(f"needs root, and {', '.join(TOOLS)}; missing: {', '.join(missing) or 'root'}")
    with real(scratch) as by, deployed(verdict, scratch, by.builder) as scene:
        is_pushed(scene, verdict, by.there, scene.container.image, "amd64")
        replicates(scene, verdict)
        builds_only_what_changed(scene, verdict, by.there)


if __name__ == "__main__":
    raise SystemExit(perform("s3nsync-builder-", tell))
