"""A local AWS (ministack) for contract tests, in a process and a virtual environment of its own.

It runs with AUTH=true, so it checks SigV4 signatures and IAM policies: a request that it accepts was signed right.
Where it differs from AWS: a receipt stays good after its lease has run out until somebody else receives the message,
and ReceiveRequestAttemptId is ignored.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.config import Config

from ports import own_port
from s3nsync.sigv4 import Credentials

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

REGION = "us-east-1"
COMMAND = Path(__file__).parents[1] / ".venv-ministack" / "bin" / "ministack"
ROOT = Credentials("test", "test")
START_S = 240.0
_PATH_STYLE = Config(s3={"addressing_style": "path"})


@dataclass
class Aws:
    """A running emulator: its URL, the SDK's clients to set the scene with, and keys whose signatures are checked."""

    url: str
    s3: S3Client
    sqs: SQSClient
    keys: Credentials
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def bucket(self, *, versioned: bool = False) -> str:
        """Make a new bucket."""
        name = f"bucket-{next(self.numbers)}"
        self.s3.create_bucket(Bucket=name)
        if versioned:
            self.s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
        return name

    def queue(self, attributes: Mapping[QueueAttributeNameType, str] | None = None) -> str:
        """Make a new FIFO queue and give its URL."""
        name = f"queue-{next(self.numbers)}.fifo"
        return self.sqs.create_queue(QueueName=name, Attributes={"FifoQueue": "true", **(attributes or {})})["QueueUrl"]

    def user(self, *actions: str) -> Credentials:
        """Make a user who may do only this, and give its keys."""
        return new_user(self.url, f"user-{next(self.numbers)}", actions)


@contextlib.contextmanager
def running(scratch: Path) -> Iterator[Aws]:
    """Start the emulator on a free port of the loopback and end it with the block."""
    port = own_port()
    url = f"http://127.0.0.1:{port}"
    environment = {
        **os.environ,
        "AUTH": "true",
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "TMPDIR": str(scratch),
        "MINISTACK_REGION": REGION,
    }
    with (scratch / "ministack.log").open("wb") as log:
        process = subprocess.Popen([COMMAND], cwd=scratch, env=environment, stdout=log, stderr=log)
        try:
            _await_health(port, process)
            session = _session()
            yield Aws(
                url,
                session.client("s3", endpoint_url=url, config=_PATH_STYLE),
                session.client("sqs", endpoint_url=url),
                new_user(url, "tester", ("*",)),
            )
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def new_user(url: str, name: str, actions: tuple[str, ...]) -> Credentials:
    """Make a user who may do `actions` on everything."""
    iam = _session().client("iam", endpoint_url=url)
    iam.create_user(UserName=name)
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": list(actions), "Resource": "*"}]}
    iam.put_user_policy(UserName=name, PolicyName="only", PolicyDocument=json.dumps(policy))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return Credentials(key["AccessKeyId"], key["SecretAccessKey"])


def _await_health(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/_ministack/health")
            connection.getresponse().read()
            return
        time.sleep(0.05)
    raise RuntimeError(f"the AWS emulator did not start on port {port} (exit code {process.poll()})")


def _session() -> boto3.Session:
    return boto3.Session(ROOT.access_key, ROOT.secret_key, region_name=REGION)
