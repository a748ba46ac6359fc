"""Runs the pipeline that Terraform deploys: from a write to the bucket to the bytes on NetStorage.

    cd tests && python -m terraform.pipeline      a temporary folder, fresh stand-ins, the whole story

The root and the module are the ones that ship, unmodified; the environment alone says where AWS is. stage.py has the
stand-ins, and says what they cannot show.

Story: apply, and a second plan that is empty; the function's code is the archive in the outputs; `doctor` as the output
`one_off_command` starts it finds no fault; a worker with the task definition's command, environment and secret, and the
permissions of its role, makes the emulator's files equal to the bucket's, byte for byte, through puts, overwrites and
deletes; a key that no path can hold ends in the dead-letter queue; events that could not be queued end in the failure
queue and are brought back by the schedule; after a change to EventBridge everything still arrives.

Beyond the task definition the worker is told three things only: where the stand-in is, keys for it (in place of the
task role's), and the authority of both certificates.

The worker runs from this source; in builder.py, from the image.

Needs terraform on PATH, ministack (S3NSYNC_MINISTACK), the environment of requirements/moto.txt (S3NSYNC_MOTO_PYTHON,
or .venv-moto), and runs in the product's own. Exit status 1: something did not hold.
"""

from __future__ import annotations

import base64
import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path

from s3nsync.events import Burial, decode_burial
from terraform.apply import BUCKET, Broken, Verdict, perform, plans_empty, step
from terraform.stage import NS_KEY, Scene, deployed, one_off, played

WITHIN_S = 90.0
PART_BYTES = 5 * 1024 * 1024

KEYS = (
    "plain.txt",
    "with space/a b.txt",
    "signs/a+b=c&d%20e.txt",
    "signs/100% sure #1?.txt",
    "names/ünïcödé/日本語/ファイル.txt",
    "names/emoji 🎬.txt",
    "overwritten.bin",
    "deleted/a + b.txt",
)
EMPTY, LARGE = "empty.bin", "film/two parts.mov"
ESCAPE = "private/../escape.txt"


def until(what: str, holds: Callable[[], object], within_s: float = WITHIN_S) -> None:
    """Wait until something holds; raises Broken when it does not in time."""
    deadline_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise Broken(f"not within {within_s:.0f} s: {what}")
        time.sleep(0.1)


# --- the story -------------------------------------------------------------------------------------------------


def body(key: str, edition: int, size_bytes: int = 4096) -> bytes:
    """Give bytes that differ for each key and edition."""
    seed = hashlib.sha256(f"{key}#{edition}".encode()).digest()
    return (seed * (size_bytes // len(seed) + 1))[:size_bytes]


def function_is_the_archive(scene: Scene, verdict: Verdict) -> None:
    """Compare what Lambda has with what the outputs name."""
    archive = scene.terraform.root / scene.outputs["function_archive"]
    found = scene.cloud.client("lambda").get_function(FunctionName=scene.outputs["function_name"])["Configuration"]
    digest = base64.b64encode(hashlib.sha256(archive.read_bytes()).digest()).decode()
    verdict.check("the function's code is the archive", found["CodeSha256"], digest)
    verdict.check("it runs with a role of its own", found["Role"], scene.outputs["role_arns"]["intake"])


def doctor_finds_no_fault(scene: Scene, verdict: Verdict) -> None:
    """Run what the output `one_off_command` has a task run."""
    words = one_off(scene.outputs["one_off_command"])
    verdict.check("the one-off task's command", words, ["doctor"])
    done = scene.host.run([*words, "--json"], scene.env)
    findings = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    faults = [each for each in findings if each.get("level") == "failed"]
    verdict.true(f"doctor finds no fault: {done.returncode}, {faults or done.stderr[-2000:]}", done.returncode == 0)
    verdict.true(f"doctor looks at everything: {len(findings)} findings", len(findings) > 10)
    verdict.check("doctor leaves nothing behind", list(scene.emulator.snapshot()), [])


def write(scene: Scene) -> None:
    """Put objects with all sorts of names, an empty one, one in two parts."""
    s3 = scene.cloud.client("s3")
    for key in KEYS:
        s3.put_object(Bucket=BUCKET, Key=key, Body=body(key, 1))
    s3.put_object(Bucket=BUCKET, Key=EMPTY, Body=b"")
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=LARGE)["UploadId"]
    parts = []
    for number, part in enumerate((body(LARGE, 1, PART_BYTES), body(LARGE, 2, 12_345)), 1):
        answer = s3.upload_part(Bucket=BUCKET, Key=LARGE, UploadId=upload, PartNumber=number, Body=part)
        parts.append({"PartNumber": number, "ETag": answer["ETag"]})
    s3.complete_multipart_upload(Bucket=BUCKET, Key=LARGE, UploadId=upload, MultipartUpload={"Parts": parts})


def become_equal(scene: Scene, verdict: Verdict, what: str, files: int) -> None:
    """Wait until both sides are the same, and count: an empty bucket and an empty directory are equal too."""
    until(f"{what}: both sides equal", lambda: not scene.differences(without=ESCAPE))
    verdict.check(f"{what}: files on NetStorage", len(scene.emulator.snapshot()), files)


def objects_arrive(scene: Scene, verdict: Verdict) -> int:
    """Put, overwrite, delete; give how many files there are in the end."""
    s3 = scene.cloud.client("s3")
    write(scene)
    become_equal(scene, verdict, "put", len(KEYS) + 2)
    for edition in range(2, 6):
        s3.put_object(Bucket=BUCKET, Key="overwritten.bin", Body=body("overwritten.bin", edition, 1000 * edition))
    s3.delete_object(Bucket=BUCKET, Key="deleted/a + b.txt")
    s3.delete_object(Bucket=BUCKET, Key=LARGE)
    become_equal(scene, verdict, "overwritten and deleted", len(KEYS))
    return len(KEYS)


def bad_key_is_buried(scene: Scene, verdict: Verdict) -> None:
    """Put a key that would leave its directory: the dead-letter queue holds it with the reason, and nothing else."""
    scene.cloud.client("s3").put_object(Bucket=BUCKET, Key=ESCAPE, Body=b"out")
    found: list[Burial | None] = []

    def look() -> bool:
        url = scene.outputs["queue_urls"]["dead"]
        answer = scene.cloud.client("sqs").receive_message(QueueUrl=url, WaitTimeSeconds=1)
        found.extend(decode_burial(each["Body"]) for each in answer.get("Messages", []))
        return bool(found)

    until("the bad key is a dead letter", look)
    buried = found[0]
    verdict.true(f"a burial of that key: {buried}", buried and buried.ref and buried.ref.key == ESCAPE)
    verdict.true(f"with a reason and a hint: {buried}", buried and buried.reason and buried.hint)
    verdict.check("and of no other", (len(found), scene.waiting("dead")), (1, 1))


def failures_come_back(scene: Scene, verdict: Verdict, files: int) -> None:
    """Let the function miss its queue: Lambda's record of the failure is kept, and the schedule brings it back."""
    function, name = scene.cloud.client("lambda"), scene.outputs["function_name"]
    whole = function.get_function_configuration(FunctionName=name)["Environment"]["Variables"]
    broken = {**whole, "QUEUE_URL": f"{whole['QUEUE_URL'].removesuffix('.fifo')}-gone.fifo"}
    function.update_function_configuration(FunctionName=name, Environment={"Variables": broken})
    for number in range(3):
        scene.cloud.client("s3").put_object(Bucket=BUCKET, Key=f"late/{number} ü+.txt", Body=body(str(number), 1))
    until("Lambda gave up on three calls", lambda: scene.waiting("failure") == 3)
    verdict.check("what failed is not on NetStorage", len(scene.emulator.snapshot()), files)
    function.update_function_configuration(FunctionName=name, Environment={"Variables": whole})
    rules = scene.cloud.client("events")
    rule = "s3nsync-drain-failures"
    (target,) = rules.list_targets_by_rule(Rule=rule)["Targets"]
    verdict.true("the schedule has no input of its own", not {"Input", "InputPath", "InputTransformer"} & target.keys())
    # It was made more than a minute ago, so as a rule of every minute it is due at ministack's next tick.
    rules.put_rule(Name=rule, ScheduleExpression="rate(1 minute)")
    become_equal(scene, verdict, "brought back by the schedule", files + 3)
    until("the failure queue is empty", lambda: scene.waiting("failure") == 0)


def eventbridge_carries_too(scene: Scene, verdict: Verdict, files: int) -> None:
    """Change the way of the events, which mends the schedule too; new names arrive, deleted ones go."""
    changed = {"event_path": "eventbridge"}
    scene.terraform.must("apply", "-input=false", "-auto-approve", **changed)
    plans_empty(scene.terraform, verdict, "by EventBridge", **changed)
    s3 = scene.cloud.client("s3")
    verdict.check(
        "the bucket calls nobody itself",
        "LambdaFunctionConfigurations" in s3.get_bucket_notification_configuration(Bucket=BUCKET),
        False,  # noqa: FBT003 - what is wanted
    )
    for number in range(3):
        s3.put_object(Bucket=BUCKET, Key=f"bridge/{number} a+b%20ü 🎬.txt", Body=body(str(number), 2))
    s3.delete_object(Bucket=BUCKET, Key="names/emoji 🎬.txt")
    become_equal(scene, verdict, "by EventBridge", files + 2)


def replicates(scene: Scene, verdict: Verdict) -> None:
    """Let the whole of it work."""
    with step("the function, and doctor as a one-off task"):
        function_is_the_archive(scene, verdict)
        doctor_finds_no_fault(scene, verdict)
    with scene.worker():
        with step("put, overwrite, delete"):
            files = objects_arrive(scene, verdict)
        with step("a key that no path can hold"):
            bad_key_is_buried(scene, verdict)
        with step("calls that fail come back by the schedule"):
            failures_come_back(scene, verdict, files)
        with step("the same by EventBridge"):
            eventbridge_carries_too(scene, verdict, files + 3)
    written = scene.log.read_text()
    verdict.true("the worker met no fault of its own", "Traceback" not in written)
    verdict.true("the key is not in its log", NS_KEY not in written)


def tell(verdict: Verdict, scratch: Path) -> None:
    """Tell the whole story on a stage of its own."""
    with deployed(verdict, scratch, played(scratch)) as scene:
        replicates(scene, verdict)


if __name__ == "__main__":
    raise SystemExit(perform("s3nsync-pipeline-", tell))
