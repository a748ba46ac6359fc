"""Applies the Terraform root that ships, unmodified, to a stand-in for AWS, and reads back what it made.

    cd tests && python -m terraform.apply      a temporary folder, a fresh stand-in, the whole story

The root is told where AWS is by the environment alone (AWS_ENDPOINT_URL). Everything else is real: terraform, its
provider, the AWS command line, python3 for the function's archive. Only the image builder is played: a program `docker`
that writes down how it was called. What the stand-in cannot show is said in aws_stand_in.py.

Story: bad input is refused and leaves nothing behind; a bucket that somebody takes between two applies is left to them;
the proof of concept's command applies; a second plan is empty; the key is in neither state nor plan; every resource is
what README.md promises; drift is seen; a changed deployment (rotated key, EventBridge, Spot) applies and plans empty;
destroy leaves the bucket, its object and nothing else. In the end a state like the proof of concept's, which owns the
bucket, lets go of it as README.md says.

Needs terraform on PATH and the environment of requirements/moto.txt, in which it runs. The provider comes from the
folder in S3NSYNC_TF_MIRROR, else from a mirror in a usual place, else from terraform's registry. Exit status 1:
something did not hold; the failed checks are listed. S3NSYNC_KEEP_LOGS names a folder for the logs of a failed run.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

from ports import own_port
from terraform import workshop
from terraform.read_back import Deployment, client, deployed, leftovers

REGION = "eu-central-1"
ACCOUNT = "123456789012"  # moto's
BUCKET, FOREIGN, ELSEWHERE = "media", "media-taken", "media-elsewhere"
KEY, NEW_KEY = "n0t-in-state-n0t-in-plan", "n0r-is-the-rotated-0ne"
STEP_LIMIT_S = 900


class Broken(Exception):
    """A step could not be done; the rest of the story makes no sense."""


# --- saying what holds -----------------------------------------------------------------------------------------


@dataclass
class Verdict:
    """Collects what held and what did not."""

    held: int = 0
    failures: list[str] = field(default_factory=list)

    def check(self, what: str, found: object, wanted: object) -> None:
        """Compare; a difference is a failure."""
        self.true(f"{what}: {found!r}, not {wanted!r}" if found != wanted else what, found == wanted)

    def true(self, what: str, holds: object) -> None:
        """Count what holds, keep what does not."""
        if holds:
            self.held += 1
        else:
            self.failures.append(what)
            sys.stdout.write(f"    FAILED {what}\n")

    def told(self, seconds: float) -> int:
        """Say it all once more; give the exit status."""
        for failure in self.failures:
            sys.stdout.write(f"FAILED {failure}\n")
        sys.stdout.write(f"{self.held} checks held, {len(self.failures)} did not, {seconds:.0f} s\n")
        return 1 if self.failures else 0


@contextlib.contextmanager
def step(title: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    sys.stdout.write(f"--- {title}\n")
    sys.stdout.flush()
    started_s = time.monotonic()
    yield
    sys.stdout.write(f"    {time.monotonic() - started_s:.1f} s\n")
    sys.stdout.flush()


# --- the stage -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stand_in(scratch: Path, python: str = sys.executable) -> Iterator[str]:
    """Start the stand-in for AWS on a free port, give its URL, and end it with the block; `python` is one with moto."""
    port = own_port()
    program = [python, str(Path(__file__).with_name("aws_stand_in.py")), str(port)]
    with (scratch / "aws.log").open("wb") as log:
        process = subprocess.Popen(program, cwd=scratch, stdout=log, stderr=log)
        try:
            _await_answer(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(20)


def _await_answer(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/moto-api/data.json")
            connection.getresponse().read()
            return
        time.sleep(0.2)
    raise Broken("the stand-in for AWS did not start; see aws.log")


def play_docker(scratch: Path) -> Path:
    """Put a `docker` on PATH that writes down its arguments and what it read; give the folder."""
    folder = scratch / "bin"
    folder.mkdir()
    docker = folder / "docker"
    docker.write_text(f'#!/bin/sh\necho "$@" >> {scratch}/docker.log\ncase "$1" in login) cat > /dev/null;; esac\n')
    docker.chmod(docker.stat().st_mode | stat.S_IXUSR)
    return folder


THEIRS: Any = {
    "QueueConfigurations": [
        {
            "Id": "theirs",
            "QueueArn": f"arn:aws:sqs:{REGION}:{ACCOUNT}:somebody-elses",
            "Events": ["s3:ObjectCreated:*"],
        }
    ]
}
"""What a bucket notifies that is somebody else's."""


def set_scene(aws: boto3.Session, url: str) -> str:
    """Make what users have before us: buckets, one that notifies somebody, a NAT gateway's route table. Give its id."""
    for name, region in ((BUCKET, REGION), (FOREIGN, REGION), (ELSEWHERE, "eu-west-1")):
        there = client(aws, url, "s3", region)
        there.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": region})
    s3 = client(aws, url, "s3")
    s3.put_object(Bucket=BUCKET, Key="kept.txt", Body=b"kept")
    client(aws, url, "sqs").create_queue(QueueName="somebody-elses")
    s3.put_bucket_notification_configuration(Bucket=FOREIGN, NotificationConfiguration=THEIRS)
    return nat_route_table(client(aws, url, "ec2"))


def nat_route_table(ec2: Any) -> str:
    """Make a NAT gateway in the default VPC and a route table that leads to it; give the table's id."""
    vpc = ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"][0]["VpcId"]
    subnet = ec2.describe_subnets(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["Subnets"][0]["SubnetId"]
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    nat = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address)["NatGateway"]["NatGatewayId"]
    table: str = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
    ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
    return table


# --- terraform -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Terraform:
    """The command, in one root and one environment."""

    root: Path
    env: Mapping[str, str]
    variables: Mapping[str, str]

    def run(self, verb: str, *options: str, **changed: str) -> tuple[int, str]:
        """Run a verb with the variables, some of them changed, empty ones left out; gives exit status and output."""
        values = {**self.variables, **changed} if verb in {"plan", "apply", "destroy"} else {}
        given = [f"-var={name}={value}" for name, value in values.items() if value]
        done = subprocess.run(
            ["terraform", verb, "-no-color", *given, *options],  # a saved plan stands last
            cwd=self.root,
            env=dict(self.env),
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=STEP_LIMIT_S,
            check=False,
        )
        with Path(self.env["HOME"], "terraform.log").open("a") as log:
            log.write(f"\n$ terraform {verb} {' '.join(options)}\n{done.stdout}")
        return done.returncode, done.stdout

    def must(self, verb: str, *options: str, **changed: str) -> str:
        """Run a verb that must succeed."""
        status, output = self.run(verb, *options, **changed)
        if status:
            raise Broken(f"terraform {verb} failed:\n{output[-4000:]}")
        return output

    def outputs(self) -> dict[str, Any]:
        """Give the root's outputs."""
        return {name: each["value"] for name, each in json.loads(self.must("output", "-json")).items()}


def words(text: str) -> str:
    """Undo terraform's frames and line breaks."""
    return " ".join(text.replace("│", " ").split())


def secret(key: str) -> str:
    """Give the secret as the proof of concept's command line has it."""
    return json.dumps({"NS_HOSTNAME": "example-nsu.akamaihd.net", "NS_USER": "upload", "NS_KEY": key})


# --- the story -------------------------------------------------------------------------------------------------


MUCH_GIVEN = {
    "kms_key_arn": f"arn:aws:kms:{REGION}:{ACCOUNT}:key/00000000-0000-0000-0000-000000000000",
    "operations": json.dumps({"alarm_topic_arn": f"arn:aws:sns:{REGION}:{ACCOUNT}:on-call", "verify_every_hours": 24}),
    "image": "example.com/s3nsync:1.0",
    "secret": "",
    "secret_arns": json.dumps({"default": f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:netstorage-AbCdEf"}),
}
"""What hangs on a key, a topic, an image or a secret of ours has one dependency less with these."""


SAME_PLACE = {
    "bucket": "",
    "cpcode": "",
    "routes": json.dumps([{"bucket": BUCKET, "cpcode": "1"}, {"bucket": FOREIGN, "cpcode": "1"}]),
    "manage_bucket_notification": "false",
}
"""Two buckets to one directory."""


def refusals(terraform: Terraform, verdict: Verdict, nothing_was_made: Callable[[], Sequence[str]]) -> None:
    """Give bad input; each must be refused by the sentence that says what to do, and leave nothing behind."""
    cases = (
        ("plan", "a bucket elsewhere", {"bucket": ELSEWHERE}, "is in eu-west-1, and this deployment in eu-central-1"),
        ("plan", "no such route table", {"natgwrtid": "rtb-00000000"}, "there is no route table rtb-00000000"),
        ("plan", "no such bucket", {"bucket": "nobody-has-it"}, "nobody-has-it"),
        ("plan", "another account", {"accountid": "210987654321"}, "AWS account ID not allowed: 123456789012"),
        ("plan", "a CP code that is none", {"cpcode": "video"}, "cpcode must be the CP code's number"),
        ("apply", "routes that meet", SAME_PLACE, "these write to the same place"),
        ("apply", "a bucket that notifies others", {"bucket": FOREIGN}, "notifies somebody already (theirs -> "),
        (
            "apply",
            "the same with much given",
            {"bucket": FOREIGN, **MUCH_GIVEN},
            "notifies somebody already (theirs -> ",
        ),
    )
    for verb, what, changed, sentence in cases:
        options = ("-input=false", "-auto-approve") if verb == "apply" else ("-input=false",)
        status, output = terraform.run(verb, *options, **changed)
        verdict.true(f"{what} is refused", status == 1)
        verdict.true(f"{what}: says {sentence!r}, not {words(output)[-600:]}", sentence in words(output))
    verdict.check("refusals leave nothing behind", list(nothing_was_made()), [])


def bucket_is_taken_in_between(terraform: Terraform, verdict: Verdict, s3: Any) -> None:
    """Let somebody else have the bucket notify them after it was found free: it is asked again, and left to them.

    Then they let go of it, and all that the refused apply has made is there for the next one.
    """
    first = "-target=module.s3nsync.terraform_data.bucket_is_free"
    terraform.must("apply", "-input=false", "-auto-approve", first)
    s3.put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration=THEIRS)
    status, output = terraform.run("apply", "-input=false", "-auto-approve")
    verdict.true("a bucket that was taken in between is refused", status == 1)
    verdict.true(f"and says so: {words(output)[-600:]}", "notifies somebody already (theirs -> " in words(output))
    kept = s3.get_bucket_notification_configuration(Bucket=BUCKET)
    verdict.check("their notification stays", kept.get("QueueConfigurations"), THEIRS["QueueConfigurations"])
    s3.put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration={})


def plans_empty(terraform: Terraform, verdict: Verdict, what: str, **changed: str) -> None:
    """Plan again: there must be nothing to do."""
    status, output = terraform.run("plan", "-input=false", "-detailed-exitcode", **changed)
    verdict.true(f"{what}: the second plan is empty, not {output[-3000:] if status else ''}", status == 0)


def key_is_nowhere(terraform: Terraform, verdict: Verdict) -> None:
    """Look for the key in the state and in a saved plan, which is a zip."""
    terraform.must("plan", "-input=false", "-out=saved.tfplan", secret=secret(NEW_KEY), secret_version="2")
    places = {path.name: path.read_bytes() for path in terraform.root.glob("*.tfstate*")}
    with zipfile.ZipFile(terraform.root / "saved.tfplan") as plan:
        places |= {f"plan: {name}": plan.read(name) for name in plan.namelist()}
    verdict.true("state and plan were looked at", len(places) >= 4)
    for place, content in places.items():
        verdict.true(f"no key in {place}", KEY.encode() not in content and NEW_KEY.encode() not in content)


def drift_is_seen(terraform: Terraform, verdict: Verdict, made: Deployment) -> None:
    """Change three things behind Terraform's back; the next plan must name them all."""
    urls = made.outputs["queue_urls"]
    made.client("sqs").set_queue_attributes(QueueUrl=urls["live"], Attributes={"VisibilityTimeout": "30"})
    made.client("s3").put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration={})
    made.client("logs").delete_retention_policy(logGroupName=made.outputs["log_groups"]["worker"])
    status, output = terraform.run("plan", "-input=false", "-detailed-exitcode")
    verdict.check("drift: plan has something to do", status, 2)
    for name in ("aws_sqs_queue.live", f'notification.source["{BUCKET}"]', 'aws_cloudwatch_log_group.this["worker"]'):
        verdict.true(f"drift of {name} is seen", f"{name} will be updated" in output)
    verdict.true("drift: nothing else", "Plan: 0 to add, 3 to change, 0 to destroy" in output)


def image_was_built(scratch: Path, verdict: Verdict, image: str) -> None:
    """Look at what the played builder wrote down."""
    calls = (scratch / "docker.log").read_text().splitlines()
    verdict.check("builder: asked, built, logged in, pushed", [call.split()[0] for call in calls], BUILD_CALLS)
    verdict.true("builder: for ARM64", "--platform linux/arm64 --file" in calls[1] and f"--tag {image} " in calls[1])
    verdict.check(
        "builder: login", calls[2], f"login --username AWS --password-stdin {image.split('/', maxsplit=1)[0]}"
    )
    verdict.check("builder: push", calls[3], f"push {image}")


BUILD_CALLS = ["info", "build", "login", "push"]


POC = """
provider "aws" {
  region = "eu-central-1"
}
resource "aws_s3_bucket" "bucket" {
  bucket = "media-of-the-poc"
}
resource "aws_sns_topic" "rest" {
  name = "the-rest-of-the-poc"
}
"""


def bucket_is_let_go(terraform: Terraform, verdict: Verdict, made: Deployment) -> None:
    """Adopt a state that owns the bucket by the example: the bucket stays, the rest goes."""
    folder = terraform.root / "examples" / "adopt"
    example = (folder / "main.tf").read_text()
    poc = Terraform(folder, terraform.env, {})
    (folder / "main.tf").write_text(POC)
    poc.must("init", "-input=false")
    poc.must("apply", "-input=false", "-auto-approve")
    made.client("s3").put_object(Bucket="media-of-the-poc", Key="kept.txt", Body=b"kept")
    (folder / "main.tf").write_text(example)
    output = words(poc.must("plan", "-input=false"))
    verdict.true("adopt: the bucket is let go", "aws_s3_bucket.bucket will no longer be managed by Terraform" in output)
    verdict.true("adopt: the rest is destroyed", "Plan: 0 to add, 0 to change, 1 to destroy" in output)
    poc.must("apply", "-input=false", "-auto-approve")
    kept = made.client("s3").get_object(Bucket="media-of-the-poc", Key="kept.txt")["Body"].read()
    verdict.check("adopt: the bucket and its object stay", kept, b"kept")
    verdict.true("adopt: the state is empty", "The state file is empty" in poc.must("show"))


def tell(verdict: Verdict, scratch: Path) -> None:
    """Tell the whole story on a stage of its own."""
    aws = boto3.Session("stand-in", "stand-in", region_name=REGION)
    with stand_in(scratch) as url:
        table = set_scene(aws, url)
        path = f"{play_docker(scratch)}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        terraform = Terraform(
            workshop.copy_sources(scratch),
            {
                "PATH": path,
                "HOME": str(scratch),
                **workshop.terraform_settings(scratch, workshop.find_mirror(os.environ)),
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "stand-in",
                "AWS_SECRET_ACCESS_KEY": "stand-in",
                "AWS_EC2_METADATA_DISABLED": "true",
            },
            {
                "bucket": BUCKET,
                "accountid": ACCOUNT,
                "cpcode": "123456",
                "region": REGION,
                "secret": secret(KEY),
                "natgwrtid": table,
            },
        )
        before = leftovers(aws, url)

        def new_since() -> list[str]:
            return sorted(leftovers(aws, url) - before)

        with step("init"):
            terraform.must("init", "-input=false")
        with step("bad input is refused"):
            refusals(terraform, verdict, new_since)
            (terraform.root / "terraform.tfstate").unlink(missing_ok=True)  # it knows the refused check, nothing more
        with step("a bucket that is taken during an apply is left to them"):
            bucket_is_taken_in_between(terraform, verdict, client(aws, url, "s3"))
        with step("apply, as the proof of concept's command has it"):
            terraform.must("apply", "-input=false", "-auto-approve")
        made = Deployment(aws, url, terraform.outputs())
        with step("plan again"):
            plans_empty(terraform, verdict, "after apply")
        with step("read back"):
            deployed(made, verdict.check, bucket=BUCKET, table=table, key=KEY)
            image_was_built(scratch, verdict, made.outputs["image"])
            archive = terraform.root / made.outputs["function_archive"]
            verdict.true("the function's archive was built", zipfile.is_zipfile(archive))
        with step("the key is in neither state nor plan"):
            key_is_nowhere(terraform, verdict)
        with step("drift is seen"):
            drift_is_seen(terraform, verdict, made)
        changed = {
            "secret": secret(NEW_KEY),
            "secret_version": "2",
            "event_path": "eventbridge",
            "spot": "true",
            "operations": '{"verify_every_hours": 24}',
        }
        with step("apply a saved plan: rotated key, EventBridge, Spot, verify; drift mended"):
            terraform.must("plan", "-input=false", "-out=changed.tfplan", **changed)
            only_secret = Terraform(terraform.root, terraform.env, {"secret": secret(NEW_KEY)})
            only_secret.must("apply", "-input=false", "changed.tfplan")
            plans_empty(terraform, verdict, "after the change", **changed)
            made = Deployment(aws, url, terraform.outputs())
            now = functools.partial(
                deployed, key=NEW_KEY, secret_version=2, eventbridge=True, spot=True, verify_hours=24
            )
            now(made, verdict.check, bucket=BUCKET, table=table)
        with step("destroy"):
            terraform.must("destroy", "-auto-approve", **changed)
            verdict.check("destroy leaves nothing behind", new_since(), [])
            kept = made.client("s3").get_object(Bucket=BUCKET, Key="kept.txt")["Body"].read()
            verdict.check("the bucket and its object stay", kept, b"kept")
        with step("a state that owns the bucket lets go of it"):
            bucket_is_let_go(terraform, verdict, made)


def perform(prefix: str, story: Callable[[Verdict, Path], None]) -> int:
    """Tell a story in a folder of its own; gives the exit status, 1 if anything did not hold.

    SIGTERM ends it by an exception, so that everything that was started is ended.
    """
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    verdict = Verdict()
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as folder:
        scratch = Path(folder)
        try:
            story(verdict, scratch)
        except Broken as broken:
            verdict.failures.append(str(broken))
        if verdict.failures and (kept := os.environ.get("S3NSYNC_KEEP_LOGS")):
            shutil.copytree(scratch, kept, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".terraform", "clone"))
    return verdict.told(time.monotonic() - started_s)


if __name__ == "__main__":
    raise SystemExit(perform("s3nsync-terraform-", tell))
