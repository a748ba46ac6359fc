"""The two programs that the Terraform module runs, started as Terraform starts them: questions in the environment.

The AWS command line and the image builders are played by small programs on PATH that write down how they were called.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "terraform" / "modules" / "s3nsync" / "scripts"
SOURCES = Path(__file__).resolve().parents[2] / "src"
IMAGE = "111122223333.dkr.ecr.eu-central-1.amazonaws.com/tools/s3nsync:0123456789abcdef"
OWN_PLATFORM = "linux/" + {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


@dataclass(frozen=True)
class Stage:
    """A folder that is all of PATH, and the log of the programs in it."""

    folder: Path

    def program(self, name: str, script: str) -> None:
        """Put a program on PATH: it writes down its arguments and input, then does `script`."""
        path = self.folder / name
        log = self.folder / "calls.log"
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {log}\n{script}\n')
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run(self, script: str, *arguments: str, **questions: str) -> subprocess.CompletedProcess[str]:
        """Run one of the module's programs."""
        return subprocess.run(
            [sys.executable, SCRIPTS / script, *arguments],
            env={"PATH": f"{self.folder}:{os.defpath}", **questions},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def calls(self) -> list[str]:
        """Give how the programs were called, in order."""
        log = self.folder / "calls.log"
        return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Give an empty stage."""
    return Stage(tmp_path)


def ask_notifications(stage: Stage, answer: object) -> subprocess.CompletedProcess[str]:
    """Ask about a bucket whose notification settings are `answer`."""
    stage.program("aws", f"cat <<'END'\n{json.dumps(answer) if answer is not None else ''}\nEND")
    return stage.run(
        "preflight.py",
        "notifications",
        PREFLIGHT_BUCKET="media",
        PREFLIGHT_OURS="s3nsync",
        PREFLIGHT_REGION="eu-central-1",
    )


def entry(name: str) -> dict[str, str]:
    """Give one call of a function by a bucket."""
    return {"Id": name, "LambdaFunctionArn": "arn:aws:lambda:eu-central-1:111122223333:function:resize"}


@pytest.mark.parametrize("answer", [None, {}, {"LambdaFunctionConfigurations": [entry("s3nsync-0a1b2c3d")]}])
def test_a_bucket_that_notifies_nobody_but_us_is_free(stage: Stage, answer: object) -> None:
    """No settings, empty settings and our own entries are no reason to refuse."""
    done = ask_notifications(stage, answer)
    assert (done.returncode, done.stderr) == (0, "")
    assert stage.calls() == [
        "aws s3api get-bucket-notification-configuration --bucket media --region eu-central-1 --output json"
    ]


@pytest.mark.parametrize(
    ("answer", "who"),
    [
        ({"LambdaFunctionConfigurations": [entry("s3nsync-0a1b2c3d"), entry("resize")]}, "resize -> arn:aws:lambda:"),
        ({"LambdaFunctionConfigurations": [entry("s3nsync2-0a1b2c3d")]}, "s3nsync2-0a1b2c3d -> arn:aws:lambda:"),
        (
            {"LambdaFunctionConfigurations": [entry("s3nsync-site-0a1b2c3d")]},
            "s3nsync-site-0a1b2c3d -> arn:aws:lambda:",
        ),
        ({"QueueConfigurations": [{"Id": "q", "QueueArn": "arn:aws:sqs:::q"}]}, "q -> arn:aws:sqs:::q"),
        ({"TopicConfigurations": [{"TopicArn": "arn:aws:sns:::t"}]}, "without an id -> arn:aws:sns:::t"),
        ({"EventBridgeConfiguration": {}}, "EventBridge is on"),
    ],
)
def test_a_bucket_that_notifies_others_is_refused(stage: Stage, answer: object, who: str) -> None:
    """The refusal names who is notified and the setting that helps."""
    done = ask_notifications(stage, answer)
    assert done.returncode == 1
    assert who in done.stderr
    assert "manage_bucket_notification = false" in done.stderr


def ask_routes(
    stage: Stage, *routes: Mapping[str, object], sources: Path = SOURCES
) -> subprocess.CompletedProcess[str]:
    """Ask about routes."""
    return stage.run("preflight.py", "routes", PREFLIGHT_ROUTES=json.dumps(routes), PREFLIGHT_SOURCES=str(sources))


def test_sound_routes_pass(stage: Stage) -> None:
    """Routes that the product takes are no reason to refuse, and nothing else is needed or left behind."""
    sources = shutil.copytree(SOURCES, stage.folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    routes = ({"bucket": "media", "cpcode": "123456"}, {"bucket": "site", "cpcode": "654321"})
    done = ask_routes(stage, *routes, sources=sources)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(sources.rglob("*.pyc"))


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        (
            {"bucket": "site", "cpcode": "1"},
            "these write to the same place: s3://media/* -> /1/ and s3://site/* -> /1/",
        ),
        ({"bucket": "site", "cpcode": "2", "trash": "bin"}, "trash: has no effect without deletes"),
        ({"bucket": "site", "cpcode": "2", "directory": "a", "deletes": "trash", "trash": "a/b"}, "in one another"),
        ({"bucket": "site", "cpcode": "2", "prefix": "a//"}, "no key under it can be placed"),
    ],
)
def test_routes_that_do_not_go_together_are_refused(stage: Stage, second: Mapping[str, object], sentence: str) -> None:
    """What function and worker would refuse at their start is refused before anything is written, in their words."""
    done = ask_routes(stage, {"bucket": "media", "cpcode": "1"}, second)
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Nothing was changed" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_old_python_is_told_by_its_number(stage: Stage) -> None:
    """Amazon Linux 2023 and macOS have python3 of 3.9, on which the product's reader ends in a traceback."""
    preflight = str(SCRIPTS / "preflight.py")
    as_if = f"""
import runpy, sys
sys.version_info, sys.version, sys.argv = (3, 9, 25, "final", 0), "3.9.25 (main)", [{preflight!r}, "routes"]
runpy.run_path({preflight!r}, run_name="__main__")
"""
    done = subprocess.run(
        [sys.executable, "-c", as_if],
        env={"PATH": os.defpath, "PREFLIGHT_ROUTES": "[]", "PREFLIGHT_SOURCES": str(stage.folder)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert "is 3.9.25, and the product is written for 3.11 or later" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("tables", "state", "status"),
    [
        ([], "available", 0),
        (["rtb-0a1b"], "available", 0),
        (["rtb-0a", "rtb-0a1b2c"], "available", 1),
        (["rtb-0a1b2c"], "deleting", 1),
        (["rtb-0a1b2c"], "deleted", 0),
        (["rtb-0a1b2c"], "Deleted", 0),
    ],
)
def test_a_second_endpoint_is_refused(stage: Stage, tables: list[str], state: str, status: int) -> None:
    """Only an endpoint of this very route table is in the way, and not one that a destroy has just removed."""
    answer = {"VpcEndpoints": [{"VpcEndpointId": "vpce-1", "State": state, "RouteTableIds": tables}]}
    stage.program("aws", f"echo '{json.dumps(answer)}'")
    done = stage.run("preflight.py", "endpoint", PREFLIGHT_ROUTE_TABLE="rtb-0a1b2c", PREFLIGHT_REGION="eu-central-1")
    assert done.returncode == status
    assert ("create_s3_endpoint = false" in done.stderr) == bool(status)
    assert "Values=com.amazonaws.eu-central-1.s3" in stage.calls()[0]


def test_a_missing_command_line_is_said(stage: Stage) -> None:
    """Without the AWS command line nothing is taken for granted."""
    done = subprocess.run(
        [sys.executable, SCRIPTS / "preflight.py", "notifications"],
        env={"PATH": str(stage.folder), "PREFLIGHT_BUCKET": "b", "PREFLIGHT_OURS": "s", "PREFLIGHT_REGION": "r"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 1
    assert "not on this machine's PATH" in done.stderr


def test_what_aws_refuses_is_passed_on(stage: Stage) -> None:
    """An answer that did not come is a refusal, in AWS's words."""
    stage.program("aws", "echo 'AccessDenied: not you' >&2; exit 254")
    done = stage.run(
        "preflight.py", "notifications", PREFLIGHT_BUCKET="b", PREFLIGHT_OURS="s", PREFLIGHT_REGION="eu-central-1"
    )
    assert done.returncode == 1
    assert "AccessDenied: not you" in done.stderr


def build(stage: Stage) -> subprocess.CompletedProcess[str]:
    """Run the build."""
    return stage.run(
        "build_image.py",
        BUILD_IMAGE=IMAGE,
        BUILD_CONTEXT="/sources",
        BUILD_PLATFORM="linux/arm64",
        BUILD_REGION="eu-central-1",
    )


NO_IMAGE_YET = 'case "$2" in describe-images) exit 254;; get-login-password) echo "the-password";; esac'


def test_the_first_builder_that_answers_builds_and_pushes(stage: Stage) -> None:
    """The docker that is there has no engine: podman is taken, and only its standard input sees the password."""
    stage.program("aws", NO_IMAGE_YET)
    stage.program("docker", "exit 1")
    stage.program("podman", f'case "$1" in login) cat > {stage.folder}/password;; esac')
    stage.program("buildah", "")
    done = build(stage)
    assert done.returncode == 0, done.stderr
    assert [call for call in stage.calls() if not call.startswith("aws")] == [
        "docker info",
        "podman info",
        (
            f"podman build --platform linux/arm64 --build-arg BUILDPLATFORM={OWN_PLATFORM} --format docker"
            f" --file /sources/Dockerfile --tag {IMAGE} /sources"
        ),
        "podman login --username AWS --password-stdin 111122223333.dkr.ecr.eu-central-1.amazonaws.com",
        f"podman push {IMAGE}",
    ]
    assert (stage.folder / "password").read_text().strip() == "the-password"
    assert "the-password" not in "".join(stage.calls()) + done.stdout + done.stderr


def test_docker_builds_with_buildkit_and_pushes_nothing_beside_the_image(stage: Stage) -> None:
    """Docker 20.10 would read the Dockerfile without BuildKit and fail; attestations would count among the last ten."""
    stage.program("aws", NO_IMAGE_YET)
    told = f'echo "$DOCKER_BUILDKIT $BUILDX_NO_DEFAULT_ATTESTATIONS" >> {stage.folder}/told'
    stage.program("docker", f'case "$1" in build) {told};; login) cat > /dev/null;; esac')
    done = build(stage)
    assert done.returncode == 0, done.stderr
    assert (stage.folder / "told").read_text() == "1 1\n"
    assert f"docker build --platform linux/arm64 --file /sources/Dockerfile --tag {IMAGE} /sources" in stage.calls()


def test_an_image_that_is_there_is_not_built(stage: Stage) -> None:
    """A tag is a digest of the sources, so what the registry has is right."""
    stage.program("aws", "")
    stage.program("docker", "")
    assert build(stage).returncode == 0
    call = "aws ecr describe-images --region eu-central-1 --repository-name tools/s3nsync --image-ids imageTag="
    assert stage.calls() == [f"{call}0123456789abcdef"]


def test_no_builder_is_said(stage: Stage) -> None:
    """With none that answers, the message says what to start, and the way around."""
    stage.program("aws", NO_IMAGE_YET)
    for builder in ("docker", "podman", "buildah"):
        stage.program(builder, "exit 1")
    done = build(stage)
    assert done.returncode == 1
    assert "None of docker, podman, buildah answers" in done.stderr


def test_a_failed_push_fails(stage: Stage) -> None:
    """A push that fails must not leave Terraform believing in the image."""
    stage.program("aws", NO_IMAGE_YET)
    stage.program("docker", 'case "$1" in push) exit 1;; esac')
    done = build(stage)
    assert done.returncode == 1
    assert "docker push failed" in done.stderr
