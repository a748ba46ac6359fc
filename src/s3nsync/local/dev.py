"""The whole pipeline on one machine: every real part, nothing in the cloud.

    ministack (S3, SQS FIFO, Lambda)  --the real zip, wired by a bucket notification-->  live queue
    worker (this process)             <--long polling--  live, bulk and check queue, with one dead-letter queue
    emulator (this process, TLS)      <--HTTP API--      worker

`stage` opens it all and closes it all. ministack runs as a process of its own from a virtual environment of its own
(it pins botocore); it is found by S3NSYNC_MINISTACK or on PATH. Everything listens on loopback, on free ports.
"""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import trustme
from botocore.config import Config as BotoConfig

from s3nsync import lambda_zip
from s3nsync.emulator import Emulator
from s3nsync.errors import ConfigError
from s3nsync.http import Http, Origin, Timeouts
from s3nsync.mapping import routes_to_json
from s3nsync.model import Route

if TYPE_CHECKING:
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_sqs import SQSClient
    from mypy_boto3_sqs.literals import QueueAttributeNameType

REGION = "us-east-1"
BUCKET = "demo-media"
CPCODE = "123456"
DIRECTORY = "mirror"
ROUTE = Route(BUCKET, CPCODE, DIRECTORY)
"""The one route of the stage: the whole bucket into one directory."""
USER = "demo"
ACCOUNT_ID = "000000000000"

START_WITHIN_S = 120.0
"""ministack answers within a second or two on an idle machine, and a slow and busy one may take twenty times that."""

_NEVER_GIVEN = range(20_000, 32_000)
"""Ports below those that systems hand out to who asks for any (Linux: from 32,768 on, ip(7))."""

GRACE_S = 5
"""Enough against an emulator on the same machine; the product's default is argued in docs/configuration.md."""

WARM_FUNCTIONS = 3

MISSING_MINISTACK = (
    "python3 -m venv .venv-ministack && .venv-ministack/bin/pip install ministack boto3, then set "
    "S3NSYNC_MINISTACK=.venv-ministack/bin/ministack; in a clone, `make demo` does all of this"
)


@dataclass(frozen=True, slots=True)
class Aws:
    """Loopback AWS: where it is, and clients for it."""

    endpoint_url: str
    s3: S3Client
    sqs: SQSClient
    functions: LambdaClient


@dataclass(frozen=True, slots=True)
class Stage:
    """All parts, running: `env` is what a worker needs to know, in the environment's own names."""

    aws: Aws
    emulator: Emulator
    queues: Mapping[str, str]
    ca_file: Path
    key: str = field(repr=False)

    @property
    def env(self) -> dict[str, str]:
        """Give the worker's environment."""
        return {
            "S3NSYNC_REGION": REGION,
            "S3NSYNC_AWS_ENDPOINT_URL": self.aws.endpoint_url,
            "S3NSYNC_LIVE_QUEUE_URL": self.queues["live"],
            "S3NSYNC_BULK_QUEUE_URL": self.queues["bulk"],
            "S3NSYNC_CHECK_QUEUE_URL": self.queues["check"],
            "S3NSYNC_DEAD_QUEUE_URL": self.queues["dead"],
            "S3NSYNC_ROUTES": routes_to_json([ROUTE]),
            "S3NSYNC_WORKER_GRACE_S": str(GRACE_S),
            "S3NSYNC_WORKER_LEASE_S": "60",
            "S3NSYNC_WORKER_POLL_WAIT_S": "1",
            "S3NSYNC_WORKER_DRAIN_S": "10",
            **self.netstorage_env,
        }

    def write_settings(self) -> Path:
        """Write the same as a settings file, which goes with the stage, and give its path."""
        path = self.ca_file.with_name("s3nsync.toml")
        queues = "".join(f'{name} = "{url}"\n' for name, url in self.queues.items())
        path.write_text(
            f'region = "{REGION}"\n\n[aws]\nendpoint_url = "{self.aws.endpoint_url}"\n\n[queues]\n{queues}\n'
            f'[accounts.default]\nhost = "localhost:{self.emulator.port}"\nuser = "{USER}"\nkey = "{self.key}"\n'
            f'ca_file = "{self.ca_file}"\n\n'
            f"[worker]\ngrace_s = {GRACE_S}\nlease_s = 60\npoll_wait_s = 1\ndrain_s = 10\n\n"
            f'[[routes]]\nbucket = "{BUCKET}"\ncpcode = "{CPCODE}"\ndirectory = "{DIRECTORY}"\n'
        )
        return path

    @property
    def netstorage_env(self) -> dict[str, str]:
        """Give what `s3nsync ns` needs to look at the emulator."""
        secret = {"NS_HOSTNAME": f"localhost:{self.emulator.port}", "NS_USER": USER, "NS_KEY": self.key}
        return {"NS_SECRET": json.dumps(secret), "NS_CA_FILE": str(self.ca_file)}


@asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """Start every part but the worker, and stop them in the end; raises ConfigError if ministack is missing."""
    program = find_ministack(os.environ)
    with tempfile.TemporaryDirectory(prefix="s3nsync-") as folder:
        home = Path(folder)
        authority = trustme.CA()
        ca_file = home / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        async with ministack(program, home) as aws, _emulator(authority) as (emulator, key):
            queues = await asyncio.to_thread(provision, aws, home)
            yield Stage(aws, emulator, queues, ca_file, key)


@asynccontextmanager
async def _emulator(authority: trustme.CA) -> AsyncIterator[tuple[Emulator, str]]:
    import secrets  # noqa: PLC0415 - only this function needs it
    import ssl  # noqa: PLC0415 - ditto

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(tls)
    key = secrets.token_hex(16)
    emulator = Emulator(accounts={USER: key}, cpcodes=(CPCODE,), tls=tls)
    async with emulator:
        yield emulator, key


# --- ministack -------------------------------------------------------------------------------------------------


def find_ministack(env: Mapping[str, str]) -> str:
    """Give the path of the ministack program; raises ConfigError that says how to get it."""
    named = env.get("S3NSYNC_MINISTACK")
    found = shutil.which(named or "ministack")
    if found is None:
        where = f"S3NSYNC_MINISTACK={named} does not exist" if named else "ministack is not on PATH"
        raise ConfigError(f"the local AWS is missing: {where}", hint=MISSING_MINISTACK)
    return found


@asynccontextmanager
async def ministack(program: str, home: Path) -> AsyncIterator[Aws]:
    """Run ministack on a free loopback port until the block ends."""
    port = free_port()
    log = home / "ministack.log"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NS_"))}
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            program,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=home,
            start_new_session=True,  # Ctrl-C is for us: we end it in order
            env={**inherited, "BIND_HOST": "127.0.0.1", "GATEWAY_PORT": str(port), "TMPDIR": str(home)},
        )
    try:
        await _until_ready(port, process, log)
        yield _clients(f"http://127.0.0.1:{port}")
    finally:
        await _end(process)


def free_port() -> int:
    """Give a loopback port that nobody listens on, nor is given before whoever it is for has started."""
    while True:
        port = secrets.choice(_NEVER_GIVEN)
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


async def _until_ready(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    origin = Origin("http", "127.0.0.1", port)
    deadline_s = time.monotonic() + START_WITHIN_S
    async with Http(timeouts=Timeouts(connect_s=1.0)) as http:
        while True:
            try:
                async with await http.send(origin, "GET", "/_ministack/health", headers=list) as answer:
                    if answer.status == 200:
                        return
            except Exception as error:
                if process.returncode is not None or time.monotonic() > deadline_s:
                    tail = (await asyncio.to_thread(log.read_text, errors="replace"))[-600:]
                    raise ConfigError(f"ministack did not start: {tail.strip() or error}") from error
            await asyncio.sleep(0.1)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


def _clients(endpoint_url: str) -> Aws:
    session = boto3.session.Session(aws_access_key_id="demo", aws_secret_access_key="demo", region_name=REGION)  # noqa: S106 - any key will do
    config = BotoConfig(s3={"addressing_style": "path"}, retries={"max_attempts": 3, "mode": "standard"})
    return Aws(
        endpoint_url,
        session.client("s3", endpoint_url=endpoint_url, config=config),
        session.client("sqs", endpoint_url=endpoint_url, config=config),
        session.client("lambda", endpoint_url=endpoint_url, config=config),
    )


# --- what Terraform does in the cloud --------------------------------------------------------------------------


def provision(aws: Aws, home: Path) -> dict[str, str]:
    """Make queues, bucket, function and notification; gives the queues' URLs by name."""
    dead = _queue(aws, "s3nsync-dead", {"MessageRetentionPeriod": "1209600"})
    arn = f"arn:aws:sqs:{REGION}:{ACCOUNT_ID}:s3nsync-dead.fifo"
    redrive: dict[QueueAttributeNameType, str] = {
        "RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 300})
    }
    queues = {
        "dead": dead,
        "live": _queue(aws, "s3nsync-live", redrive),
        "bulk": _queue(aws, "s3nsync-bulk", redrive),
        "check": _queue(aws, "s3nsync-check", {**redrive, "DelaySeconds": str(GRACE_S)}),
    }
    aws.s3.create_bucket(Bucket=BUCKET)
    archive = lambda_zip.build(home / "intake.zip").path.read_bytes()
    function = aws.functions.create_function(
        FunctionName="s3nsync-intake",
        Runtime="python3.13",
        Role=f"arn:aws:iam::{ACCOUNT_ID}:role/s3nsync-intake",
        Handler=lambda_zip.HANDLER,
        Code={"ZipFile": archive},
        Timeout=30,
        MemorySize=256,
        Environment={
            "Variables": {
                "QUEUE_URL": queues["live"],
                "S3NSYNC_DEAD_QUEUE_URL": queues["dead"],
                "S3NSYNC_ROUTES": routes_to_json([ROUTE]),
                "AWS_ENDPOINT_URL": aws.endpoint_url,
                "AWS_REGION": REGION,
            }
        },
    )
    _warm_up(aws)
    aws.s3.put_bucket_notification_configuration(
        Bucket=BUCKET,
        NotificationConfiguration={
            "LambdaFunctionConfigurations": [
                {
                    "Id": "s3nsync",
                    "LambdaFunctionArn": function["FunctionArn"],
                    "Events": [
                        "s3:ObjectCreated:*",
                        "s3:ObjectRemoved:*",
                        "s3:LifecycleExpiration:*",
                        "s3:ObjectRestore:Completed",
                    ],
                }
            ]
        },
    )
    return queues


def _warm_up(aws: Aws) -> None:
    """Have some processes of the function up before the first event: else it would wait for a crowd of cold starts."""
    event = json.dumps({"Event": "s3:TestEvent"})
    with ThreadPoolExecutor(WARM_FUNCTIONS) as threads:
        for _ in range(WARM_FUNCTIONS):
            threads.submit(aws.functions.invoke, FunctionName="s3nsync-intake", Payload=event)


def _queue(aws: Aws, name: str, more: Mapping[QueueAttributeNameType, str]) -> str:
    attributes: dict[QueueAttributeNameType, str] = {
        "FifoQueue": "true",
        "DeduplicationScope": "messageGroup",
        "FifoThroughputLimit": "perMessageGroupId",
        "VisibilityTimeout": "60",
        **more,
    }
    return aws.sqs.create_queue(QueueName=f"{name}.fifo", Attributes=attributes)["QueueUrl"]
