"""A stage for what Terraform deploys: two stand-ins that are one AWS, an emulated NetStorage, a host for the container.

Each service is played by one stand-in, as AWS_ENDPOINT_URL_<SERVICE> says:

    ministack   S3, SQS, Lambda, EventBridge, IAM, STS. It does what they do: notifies, runs the function's archive,
                tries again, keeps failures, ticks schedules, leases messages. It checks each signature, and asks IAM
                and the queues' own policies before each call; so it is spoken to over TLS
    moto        all the others, ECS and Secrets Manager among them. It keeps what it is told (aws_stand_in.py)

What this cannot show. ministack knows no VPC and no KMS: nothing here goes through a NAT or is decrypted. It runs the
function with its own Python, and asks no permission of S3 or EventBridge to call it. moto runs no task: the container
is started here, by a Host. And its permissions are its role's policy on a user, for only ECS may take the role.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import shlex
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import boto3
import trustme

from ports import own_port
from s3nsync.emulator import Emulator, running
from terraform import workshop
from terraform.apply import (
    ACCOUNT,
    BUCKET,
    REGION,
    Broken,
    Terraform,
    Verdict,
    nat_route_table,
    plans_empty,
    play_docker,
    stand_in,
    step,
)

CPCODE, USER = "123456", "upload"
NS_KEY = "the-key-of-the-emulator"
ROOT_KEYS = ("test", "test")
"""ministack's own: they may do everything."""

DOERS = {"s3": "S3", "sqs": "SQS", "lambda": "LAMBDA", "events": "EVENTBRIDGE", "iam": "IAM", "sts": "STS"}
"""The services that ministack plays, as boto3 names them and as AWS_ENDPOINT_URL_… does."""

BATCHED = ("sqs:SendMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility")


# --- the parts -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cloud:
    """The two stand-ins as one AWS."""

    does: str
    keeps: str
    ca_file: Path

    def client(self, service: str) -> Any:
        """Give a client of a service, with the keys that may do everything."""
        url = self.does if service in DOERS else self.keeps
        session = boto3.Session(*ROOT_KEYS, region_name=REGION)
        return session.client(service, endpoint_url=url, verify=str(self.ca_file))  # type: ignore[call-overload]  # any name

    @property
    def env(self) -> dict[str, str]:
        """Give what tells terraform and the AWS command line where AWS is."""
        return {
            "AWS_ENDPOINT_URL": self.keeps,
            **{f"AWS_ENDPOINT_URL_{name}": self.does for name in DOERS.values()},
            "AWS_ACCESS_KEY_ID": ROOT_KEYS[0],
            "AWS_SECRET_ACCESS_KEY": ROOT_KEYS[1],
            "AWS_CA_BUNDLE": str(self.ca_file),
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@dataclass(frozen=True)
class Authority:
    """Who signs the stand-ins' certificates; `file` and `pair` are files that the others read."""

    ca: trustme.CA
    file: Path
    pair: tuple[Path, Path]


def authority(scratch: Path) -> Authority:
    """Make an authority, and a certificate of it with its key."""
    made = Authority(trustme.CA(), scratch / "ca.pem", (scratch / "cert.pem", scratch / "key.pem"))
    made.ca.cert_pem.write_to_path(str(made.file))
    cert = made.ca.issue_cert("localhost", "127.0.0.1")
    cert.cert_chain_pems[0].write_to_path(str(made.pair[0]))
    cert.private_key_pem.write_to_path(str(made.pair[1]))
    return made


@contextlib.contextmanager
def ministack(scratch: Path, trust: Authority) -> Iterator[str]:
    """Run ministack, with IAM in force, on a free port; give its URL, and end it and its functions with the block."""
    port = own_port()
    settings = {
        "PATH": os.environ["PATH"],
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "MINISTACK_ACCOUNT_ID": ACCOUNT,
        "MINISTACK_REGION": REGION,
        "AUTH": "true",
        "USE_SSL": "1",
        "MINISTACK_SSL_CERT": str(trust.pair[0]),
        "MINISTACK_SSL_KEY": str(trust.pair[1]),
        "AWS_CA_BUNDLE": str(trust.file),  # the function's processes inherit it
        "LAMBDA_ASYNC_RETRY_BASE_SECONDS": "0.2",  # AWS waits a minute before it tries again
    }
    program = os.environ.get("S3NSYNC_MINISTACK", str(workshop.REPOSITORY / ".venv-ministack/bin/ministack"))
    with (scratch / "ministack.log").open("wb") as log:
        process = subprocess.Popen([program], cwd=scratch, env=settings, stdout=log, stderr=log, start_new_session=True)
        try:
            _await_health(port, process, trust.file)
            yield f"https://127.0.0.1:{port}"
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the function's processes are in its group
            process.wait(10)


def _await_health(port: int, process: subprocess.Popen[bytes], ca_file: Path) -> None:
    tls = ssl.create_default_context(cafile=str(ca_file))
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and process.poll() is None:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=tls)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/_ministack/health")
            connection.getresponse().read()
            return
        time.sleep(0.1)
    raise Broken("ministack did not start; see ministack.log")


@contextlib.contextmanager
def netstorage(trust: Authority) -> Iterator[Emulator]:
    """Run the emulator with TLS."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.ca.issue_cert("localhost").configure_cert(tls)
    with running(Emulator(accounts={USER: NS_KEY}, cpcodes=(CPCODE,), tls=tls)) as emulator:
        yield emulator


# --- what Terraform made ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Container:
    """The worker's container as ECS would start it: read back, its secrets looked up."""

    image: str
    user: str
    command: list[str]
    env: dict[str, str]


def container(cloud: Cloud, outputs: Mapping[str, Any]) -> Container:
    """Read the service's task definition as ECS has it."""
    ecs = cloud.client("ecs")
    service = ecs.describe_services(cluster=outputs["cluster_name"], services=[outputs["service_name"]])["services"][0]
    task = ecs.describe_task_definition(taskDefinition=service["taskDefinition"])["taskDefinition"]
    worker = task["containerDefinitions"][0]
    vault = cloud.client("secretsmanager")
    secrets = {
        each["name"]: vault.get_secret_value(SecretId=each["valueFrom"])["SecretString"] for each in worker["secrets"]
    }
    env = {**{each["name"]: each["value"] for each in worker["environment"]}, **secrets}
    return Container(worker["image"], worker["user"], worker["command"], env)


def one_off(command: str) -> list[str]:
    """Give what the container is to run according to `aws ecs run-task …`."""
    words = shlex.split(command)
    overrides = json.loads(words[words.index("--overrides") + 1])
    found: list[str] = overrides["containerOverrides"][0]["command"]
    return found


def batches_of(document: Mapping[str, Any]) -> str:
    """Give the policy's SQS permissions once more under the names of the batch calls.

    In AWS a permission to send, delete or hide one message is one for ten of them; ministack (1.5.33) wants both names.
    """
    statements = []
    for each in document["Statement"]:
        actions = [each["Action"]] if isinstance(each["Action"], str) else each["Action"]
        if named := [f"{action}Batch" for action in actions if action in BATCHED]:
            statements.append({**each, "Action": named})
    return json.dumps({**document, "Statement": statements})


def may(cloud: Cloud, outputs: Mapping[str, Any]) -> dict[str, str]:
    """Let function and worker do what Terraform lets them; give the worker's keys, those of a user with its policy."""
    iam = cloud.client("iam")
    user = "in-place-of-the-task-role"
    iam.create_user(UserName=user)
    for job in ("intake", "worker"):
        role = outputs["role_arns"][job].rsplit("/", 1)[1]
        (policy,) = iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]
        version = iam.get_policy(PolicyArn=policy["PolicyArn"])["Policy"]["DefaultVersionId"]
        found = iam.get_policy_version(PolicyArn=policy["PolicyArn"], VersionId=version)["PolicyVersion"]
        batches = batches_of(found["Document"])
        if job == "intake":
            iam.put_role_policy(RoleName=role, PolicyName="batches", PolicyDocument=batches)
        else:
            iam.attach_user_policy(UserName=user, PolicyArn=policy["PolicyArn"])
            iam.put_user_policy(UserName=user, PolicyName="batches", PolicyDocument=batches)
    key = iam.create_access_key(UserName=user)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


# --- where the container runs -----------------------------------------------------------------------------------------


class Host(Protocol):
    """Where the container runs: with this machine's own facts, and nothing else, around the given environment."""

    def trust(self, ca_file: Path) -> str:
        """Bring a file of authorities there; give its path there."""

    def run(self, words: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """Run a command of the product to its end."""

    def started(
        self, words: Sequence[str], env: Mapping[str, str], log: Path
    ) -> contextlib.AbstractContextManager[Callable[[], int]]:
        """Run a command until the block ends; yields what stops it, and gives its exit status."""


@dataclass(frozen=True)
class Source:
    """Runs the container's commands from this source, with the Python that runs us."""

    home: Path

    def trust(self, ca_file: Path) -> str:
        """See Host."""
        return str(ca_file)

    def run(self, words: Sequence[str], env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """See Host."""
        return subprocess.run(
            [sys.executable, "-m", "s3nsync", *words],
            env={**self._machine(), **env},
            cwd=self.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    @contextlib.contextmanager
    def started(self, words: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[Callable[[], int]]:
        """See Host."""
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "s3nsync", *words],
                env={**self._machine(), **env},
                cwd=self.home,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

        def stop() -> int:
            process.send_signal(signal.SIGTERM)
            return process.wait(60)

        try:
            yield stop
        finally:
            process.kill()
            process.wait(10)

    def _machine(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.home)}


@dataclass(frozen=True)
class Builder:
    """Who builds the image in the apply: what terraform must know of it, and where the image then runs."""

    env: Mapping[str, str]
    variables: Mapping[str, str]
    host: Callable[[str], contextlib.AbstractContextManager[Host]]


def played(scratch: Path) -> Builder:
    """Give a builder that only writes down its calls; the worker then runs from the source."""
    path = f"{play_docker(scratch)}:{os.environ['PATH']}"
    return Builder({"PATH": path}, {}, lambda _image: contextlib.nullcontext(Source(scratch)))


# --- all of it --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """Everything that runs, and the environment in which the worker's container would run."""

    terraform: Terraform
    cloud: Cloud
    emulator: Emulator
    outputs: Mapping[str, Any]
    container: Container
    host: Host
    env: Mapping[str, str]
    log: Path

    @contextlib.contextmanager
    def worker(self) -> Iterator[None]:
        """Run the container's own command until the block ends, and see it drain."""
        with self.host.started(self.container.command, self.env, self.log) as stop:
            yield
            if status := stop():
                raise Broken(f"the worker left with {status}: {self.log.read_text()[-2000:]}")

    def differences(self, *, without: str) -> list[str]:
        """Read both sides whole, but for one key; give the paths that are on one only, or not the same."""
        s3 = self.cloud.client("s3")
        keys = [each["Key"] for each in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []) if each["Key"] != without]
        wanted = {
            f"/{CPCODE}/{key}": hashlib.sha256(s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()).digest()
            for key in keys
        }
        found = {path: hashlib.sha256(each.read()).digest() for path, each in self.emulator.snapshot().items()}
        return sorted(path for path in wanted.keys() | found.keys() if wanted.get(path) != found.get(path))

    def waiting(self, queue: str) -> int:
        """Count what a queue holds, hidden or not."""
        names = [f"ApproximateNumberOfMessages{which}" for which in ("", "NotVisible", "Delayed")]
        sqs = self.cloud.client("sqs")
        found = sqs.get_queue_attributes(QueueUrl=self.outputs["queue_urls"][queue], AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)


@contextlib.contextmanager
def deployed(verdict: Verdict, scratch: Path, builder: Builder) -> Iterator[Scene]:
    """Set up a stage and apply; everything ends with the block."""
    moto = os.environ.get("S3NSYNC_MOTO_PYTHON", str(workshop.REPOSITORY / ".venv-moto/bin/python"))
    trust = authority(scratch)
    with ministack(scratch, trust) as does, stand_in(scratch, moto) as keeps, netstorage(trust) as emulator:
        cloud = Cloud(does, keeps, trust.file)
        place = {"LocationConstraint": REGION}
        cloud.client("s3").create_bucket(Bucket=BUCKET, CreateBucketConfiguration=place)
        secret = {"NS_HOSTNAME": f"localhost:{emulator.port}", "NS_USER": USER, "NS_KEY": NS_KEY}
        terraform = Terraform(
            workshop.copy_sources(scratch),
            {
                "HOME": str(scratch),
                **workshop.terraform_settings(scratch, workshop.find_mirror(os.environ)),
                **cloud.env,
                **builder.env,
                "PATH": f"{Path(moto).parent}:{builder.env['PATH']}",
            },
            {
                "bucket": BUCKET,
                "accountid": ACCOUNT,
                "cpcode": CPCODE,
                "region": REGION,
                "secret": json.dumps(secret),
                "natgwrtid": nat_route_table(cloud.client("ec2")),
                **builder.variables,
            },
        )
        with step("apply, as the proof of concept's command has it"):
            terraform.must("init", "-input=false")
            terraform.must("apply", "-input=false", "-auto-approve")
        with step("plan again"):
            plans_empty(terraform, verdict, "after apply")
        outputs = terraform.outputs()
        made = container(cloud, outputs)
        with builder.host(made.image) as host:
            ca_file = host.trust(trust.file)
            added = {
                **may(cloud, outputs),
                "S3NSYNC_AWS_ENDPOINT_URL": does,
                "AWS_CA_BUNDLE": ca_file,
                "NS_CA_FILE": ca_file,
            }
            log = scratch / "worker.log"
            yield Scene(terraform, cloud, emulator, outputs, made, host, {**made.env, **added}, log)
