"""Builds the worker's image and pushes it to ECR, unless the registry has it.

Run by the module, with BUILD_IMAGE (repository:tag), BUILD_CONTEXT (the folder with the Dockerfile), BUILD_PLATFORM and
BUILD_REGION in the environment. The tag is a digest of the sources, so an image that is there is the right one. The
builder is the first of docker, podman and buildah that answers: one that is merely installed may have no engine behind
it. The registry's password goes from the AWS command line to the builder's standard input, and nowhere else. Standard
library only.
"""  # noqa: INP001 - a script of its own, no part of a package

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BUILDERS = ("docker", "podman", "buildah")
"""In the order in which they are asked."""


FOR_DOCKER = {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}
"""Docker before 23 has BuildKit, which the Dockerfile's platforms need, and does not use it unasked. And without an
attestation beside it an image is one entry in the registry, not three: the registry keeps the last ten."""


class Failure(Exception):
    """What failed, and what to do about it."""


@dataclass(frozen=True)
class Order:
    """What to build, and where to put it."""

    image: str
    context: str
    platform: str
    region: str

    @property
    def registry(self) -> str:
        """Give the registry's host."""
        return self.image.split("/", 1)[0]

    @property
    def repository(self) -> str:
        """Give the repository's name within the registry."""
        return self.image.split("/", 1)[1].rsplit(":", 1)[0]

    @property
    def tag(self) -> str:
        """Give the image's tag."""
        return self.image.rsplit(":", 1)[1]


def answers(command: Sequence[str]) -> bool:
    """Tell whether a command is there and succeeds within half a minute; its output is dropped."""
    try:
        return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0  # noqa: S603 - ours
    except (OSError, subprocess.TimeoutExpired):
        return False


def run(command: Sequence[str], given: str | None = None, more: Mapping[str, str] | None = None) -> None:
    """Run a command with its output shown, and `more` in its environment; raises Failure."""
    env = {**os.environ, **(more or {})}  # noqa: TID251 - the builders find their engine and their settings by it
    try:
        subprocess.run(command, input=given, text=True, check=True, env=env)  # noqa: S603 - the words are this file's own
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failure(f"{' '.join(command[:2])} failed: {error}; its own words are above") from None


def read(command: Sequence[str]) -> str:
    """Give what a command prints; raises Failure."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout  # noqa: S603 - ours
    except FileNotFoundError:
        raise Failure(f"{command[0]} is not on PATH; install it, or give an image: -var image=…") from None
    except subprocess.CalledProcessError as error:
        raise Failure(f"{' '.join(command[:3])} failed: {error.stderr.strip()}") from None


def is_pushed(order: Order) -> bool:
    """Tell whether the registry has the image."""
    return answers(
        [
            *("aws", "ecr", "describe-images", "--region", order.region, "--repository-name", order.repository),
            *("--image-ids", f"imageTag={order.tag}"),
        ]
    )


def choose() -> str:
    """Give the first builder that answers; raises Failure."""
    for builder in BUILDERS:
        if answers([builder, "info"]):
            return builder
    raise Failure(
        f"None of {', '.join(BUILDERS)} answers on this machine (`docker info` must succeed). Start or install one, or "
        "build the image elsewhere and give it: -var image=…"
    )


def own_platform(machine: str) -> str:
    """Give this machine's platform in the builders' words."""
    return "linux/" + {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)


def peculiarities(builder: str) -> list[str]:
    """Give what a builder must be told beside the others: buildah knows no BUILDPLATFORM and drops HEALTHCHECK."""
    if builder == "docker":
        return []
    return ["--build-arg", f"BUILDPLATFORM={own_platform(platform.machine())}", "--format", "docker"]


def build(order: Order) -> None:
    """Build and push; raises Failure."""
    builder = choose()
    dockerfile = os.path.join(order.context, "Dockerfile")  # noqa: PTH118 - as it is given to the builder
    more = peculiarities(builder)
    run(
        [
            builder,
            "build",
            "--platform",
            order.platform,
            *more,
            "--file",
            dockerfile,
            "--tag",
            order.image,
            order.context,
        ],
        more=FOR_DOCKER,
    )
    password = read(["aws", "ecr", "get-login-password", "--region", order.region])
    run([builder, "login", "--username", "AWS", "--password-stdin", order.registry], given=password)
    run([builder, "push", order.image])


def main() -> int:
    """Do what the environment asks for; exit status 1 is a failure."""
    env = os.environ  # noqa: TID251 - Terraform hands the order over so
    order = Order(env["BUILD_IMAGE"], env["BUILD_CONTEXT"], env["BUILD_PLATFORM"], env["BUILD_REGION"])
    try:
        if is_pushed(order):
            sys.stdout.write(f"{order.image} is there already\n")
        else:
            build(order)
    except Failure as failure:
        sys.stderr.write(f"{order.image} was not built: {failure}\n")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
