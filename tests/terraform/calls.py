"""Records which permissions our programs really use, and keeps them in calls.json.

    cd tests && python -m terraform.calls           play the story, write calls.json anew
    cd tests && python -m terraform.calls --check   exit status 1 if the story now uses other permissions

The story runs on the stage of `s3nsync dev`, with recorder.py in ministack's place: the worker as its own process
(`s3nsync run`), the function from its real archive, `s3nsync doctor` (a task with the worker's role), `s3nsync verify`,
and a person who uses `s3nsync failed`. Each has an access key id of its own, which is how a request's role is known.
Faults make the worker take the ways that a good day does not show: second looks, give-backs, burials, messages sent
home.

A request of a kind that `needed_by` does not know ends the story with an error: a new call wants a new line there.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict
from urllib.parse import parse_qs, urlsplit

from s3nsync.emulator import Fault
from s3nsync.local.dev import ACCOUNT_ID, BUCKET, CPCODE, DIRECTORY, Stage, find_ministack, stage

KEPT = Path(__file__).with_name("calls.json")
ROOT = f"/{CPCODE}/{DIRECTORY}/"
WITHIN_S = 120.0


@dataclass(frozen=True, slots=True, order=True)
class Call:
    """A permission that a role used, by a program of ours; `resource` is a word: a queue's name, bucket, object."""

    role: str
    program: str
    action: str
    resource: str


class Exchange(TypedDict):
    """A line of recorder.py."""

    signed_by: str
    service: str
    method: str
    target: str
    operation: str
    body: str


PROGRAMS = {
    ACCOUNT_ID: ("intake", "function"),  # the key id that ministack gives to functions
    "run": ("worker", "s3nsync run"),
    "doctor": ("worker", "s3nsync doctor"),
    "verify": ("verify", "s3nsync verify"),
    "failed": ("operator", "s3nsync failed"),
}
"""Role and program by access key id. Others (the stage's own) are nobody's role."""

QUEUES = {
    "s3nsync-live.fifo": "live",
    "s3nsync-bulk.fifo": "bulk",
    "s3nsync-check.fifo": "check",
    "s3nsync-dead.fifo": "dead",
    "s3nsync-failure": "failure",
}


# --- from requests to permissions ------------------------------------------------------------------------------


def needed_by(exchange: Exchange) -> tuple[str, str] | None:
    """Give the IAM action and the resource that a request needs; None where AWS wants no permission for it.

    SQS's batch actions need the permission of the single one; HEAD of an object needs s3:GetObject. Raises ValueError
    for a request of an unknown kind. Source: the service authorization reference.
    """
    match exchange["service"]:
        case "sqs":
            action = exchange["operation"].removeprefix("AmazonSQS.").removesuffix("Batch")
            url = str(json.loads(exchange["body"])["QueueUrl"])
            return f"sqs:{action}", QUEUES[url.rsplit("/", 1)[1]]
        case "s3":
            return _needed_of_s3(exchange["method"], urlsplit(exchange["target"]).path, exchange["target"])
        case "sts" if "Action=GetCallerIdentity" in exchange["body"]:
            return None
        case service:
            raise ValueError(f"what does this call of {service} need? {exchange}")


def _needed_of_s3(method: str, path: str, target: str) -> tuple[str, str]:
    _, _, key = path.lstrip("/").partition("/")
    query = parse_qs(urlsplit(target).query, keep_blank_values=True)
    if key and method in {"GET", "HEAD"} and not set(query) - {"x-id"}:
        return "s3:GetObject", "object"
    if not key and method == "GET":
        for part, action in (("list-type", "ListBucket"), ("notification", "GetBucketNotification")):
            if part in query:
                return f"s3:{action}", "bucket"
    raise ValueError(f"what does this call of S3 need? {method} {target}")


def permissions(exchanges: Iterable[Exchange]) -> set[Call]:
    """Give what our programs needed."""
    found = set()
    for exchange in exchanges:
        who = PROGRAMS.get(exchange["signed_by"])
        if who and (needed := needed_by(exchange)):
            found.add(Call(*who, *needed))
    return found


def kept() -> set[Call]:
    """Read calls.json."""
    return {Call(**each) for each in json.loads(KEPT.read_text())}


def written(calls: Iterable[Call]) -> str:
    """Give the text of calls.json: a line for each call."""
    return "[\n" + ",\n".join(f" {json.dumps(asdict(call))}" for call in sorted(calls)) + "\n]\n"


# --- the story -------------------------------------------------------------------------------------------------


def record() -> set[Call]:
    """Play the story on a recorded stage; give what was needed."""
    with tempfile.TemporaryDirectory(prefix="s3nsync-calls-") as folder:
        home = Path(folder)
        file = home / "requests.jsonl"
        program = home / "ministack"
        recorder = Path(__file__).with_name("recorder.py")
        ministack = Path(_ministack()).absolute()
        program.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{recorder}' '{ministack}' '{file}'\n")
        program.chmod(0o700)
        os.environ["S3NSYNC_MINISTACK"] = str(program)
        try:
            asyncio.run(_on_stage(home))
        finally:
            os.environ["S3NSYNC_MINISTACK"] = str(ministack)
        return permissions(json.loads(line) for line in file.read_text().splitlines())


def _ministack() -> str:
    """Find ministack by the environment or, where `make` has put it, in the tree."""
    made = Path(__file__).parents[2] / ".venv-ministack/bin/ministack"
    return str(made) if made.exists() and "S3NSYNC_MINISTACK" not in os.environ else find_ministack(os.environ)


async def _on_stage(home: Path) -> None:
    async with stage() as scene:
        await asyncio.to_thread(_play, scene, home)


def _play(scene: Stage, home: Path) -> None:
    failure_url = _add_failure_queue(scene)
    with _running(scene, home):
        _through_the_live_queue(scene)
        _through_the_other_queues(scene)
    _command(scene, home, "doctor", "doctor")
    _command(scene, home, "verify", "verify --json --deep")  # deep: the scheduled one asks for objects in doubt only
    for words in ("failed list", "failed retry */a.txt", "failed drop --yes */b.txt"):
        _command(scene, home, "failed", words)
    _empty_failure_queue(scene, failure_url)


def _through_the_live_queue(scene: Stage) -> None:
    """Copy, overwrite and delete; lose an answer, be refused once, meet two keys that cannot be."""
    scene.emulator.inject(
        Fault(kind="lost-answer", action="upload", path="*/ambiguous.txt", times=1),
        Fault(kind="status", status=503, action="upload", path="*/hard-live.txt", times=1),
    )
    keys = ("plain.txt", "gone.txt", "ambiguous.txt", "hard-live.txt", "hard-bulk.txt", "hard-check.txt")
    for key in (*keys, "private/../a.txt", "private/../b.txt"):
        scene.aws.s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode())
    _by_hand(scene, "live", "plain.txt", "gone.txt")
    _until(lambda: _has(scene, *keys))
    scene.aws.s3.delete_object(Bucket=BUCKET, Key="gone.txt")
    _until(lambda: not _has(scene, "gone.txt"))
    _until(lambda: _depth(scene, "dead") == 2 and not _depth(scene, "live"))


def _through_the_other_queues(scene: Stage) -> None:
    """Work the bulk and the check queue, and be refused in each: thrice in the second: the client tries thrice."""
    for queue in ("bulk", "check"):
        scene.emulator.inject(Fault(kind="status", status=503, action="upload", path=f"*/hard-{queue}.txt", times=1))
    _by_hand(scene, "bulk", "hard-bulk.txt", "plain.txt")
    _by_hand(scene, "check", "hard-check.txt", "plain.txt")
    _until(lambda: not any(_depth(scene, queue) for queue in ("live", "bulk", "check")))


def _add_failure_queue(scene: Stage) -> str:
    """Give the function a failure queue, as the module does."""
    url = scene.aws.sqs.create_queue(QueueName="s3nsync-failure")["QueueUrl"]
    name = "s3nsync-intake"
    variables = scene.aws.functions.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    variables = {**variables, "S3NSYNC_FAILURE_QUEUE_URL": url}
    scene.aws.functions.update_function_configuration(FunctionName=name, Environment={"Variables": variables})
    return url


def _empty_failure_queue(scene: Stage, url: str) -> None:
    """Have the function empty its failure queue, of an event and of what is none."""
    event = {"eventName": "ObjectCreated:Put", "bucket": BUCKET, "key": "plain.txt", "etag": "e", "sequencer": "1"}
    for body in (json.dumps([event]), "what is this?"):
        scene.aws.sqs.send_message(QueueUrl=url, MessageBody=body)
    answer = scene.aws.functions.invoke(
        FunctionName="s3nsync-intake", Payload=json.dumps({"s3nsync": "drain-failures"})
    )
    if "FunctionError" in answer:
        raise RuntimeError(f"the function did not empty its failure queue: {answer['Payload'].read()!r}")


def _by_hand(scene: Stage, queue: str, *keys: str) -> None:
    """Put several changes into one message, as the proof of concept did: the worker sends each home to its group."""
    body = [
        {"eventName": "ObjectCreated:Put", "bucket": BUCKET, "key": key, "etag": "e", "sequencer": f"{number:016X}"}
        for number, key in enumerate(keys)
    ]
    scene.aws.sqs.send_message(
        QueueUrl=scene.queues[queue],
        MessageBody=json.dumps(body),
        MessageGroupId=f"by-hand-{queue}",
        MessageDeduplicationId=f"by-hand-{queue}",
    )


def _environment(scene: Stage, access_key_id: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "NS_", "S3NSYNC"))}
    keys = {"AWS_ACCESS_KEY_ID": access_key_id, "AWS_SECRET_ACCESS_KEY": "any", "S3NSYNC_WORKER_LEASE_S": "12"}
    return {**inherited, **scene.env, **keys}


@contextmanager
def _running(scene: Stage, home: Path) -> Iterator[None]:
    """Run a worker; it must leave in good order."""
    with (home / "run.log").open("w") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "s3nsync", "run"],
            cwd=home,
            env=_environment(scene, "run"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            yield
        finally:
            worker.terminate()
            status = worker.wait(WITHIN_S)
    if status:
        raise RuntimeError(f"the worker ended with {status}: {(home / 'run.log').read_text()[-2000:]}")


def _command(scene: Stage, home: Path, access_key_id: str, words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "s3nsync", *words.split()],
        cwd=home,
        env=_environment(scene, access_key_id),
        text=True,
        capture_output=True,
        timeout=WITHIN_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"s3nsync {words} ended with {done.returncode}: {done.stdout}{done.stderr}")


def _has(scene: Stage, *keys: str) -> bool:
    stored = scene.emulator.snapshot()
    return all(ROOT + key in stored for key in keys)


def _depth(scene: Stage, queue: str) -> int:
    found = scene.aws.sqs.get_queue_attributes(
        QueueUrl=scene.queues[queue],
        AttributeNames=[
            "ApproximateNumberOfMessages",
            "ApproximateNumberOfMessagesNotVisible",
            "ApproximateNumberOfMessagesDelayed",
        ],
    )["Attributes"]
    return sum(int(each) for each in found.values())


def _until(holds: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not holds():
        if time.monotonic() > deadline_s:
            raise TimeoutError("the story did not go on")
        time.sleep(0.2)


def main(arguments: Sequence[str]) -> int:
    """Write or check; see the module's text."""
    now = record()
    if list(arguments) != ["--check"]:
        KEPT.write_text(written(now))
        return 0
    before = kept()
    for word, calls in (("no longer used", before - now), ("not in calls.json", now - before)):
        for call in sorted(calls):
            sys.stderr.write(f"{word}: {call}\n")
    return 1 if now != before else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
