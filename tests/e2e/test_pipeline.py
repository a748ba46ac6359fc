"""The real command on the real parts: S3, Lambda and SQS by ministack, NetStorage by the emulator over TLS.

One stage serves the whole file; each test starts its own worker process, and puts its own keys.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest

from s3nsync.emulator import Fault
from s3nsync.errors import ConfigError
from s3nsync.events import decode_burial
from s3nsync.local.demo import differing, how_to
from s3nsync.local.dev import BUCKET, CPCODE, DIRECTORY, Stage, find_ministack, stage
from worker_process import S3NSYNC, Process, until

pytestmark = pytest.mark.slow

ROOT = f"/{CPCODE}/{DIRECTORY}/"


@pytest.fixture(scope="module")
def scene() -> Iterator[Stage]:
    """Run the stage in a thread with a loop of its own."""
    try:
        find_ministack(os.environ)
    except ConfigError:
        here = Path(__file__).parents[2] / ".venv-ministack/bin/ministack"
        if not here.exists():
            pytest.skip("ministack is not installed: `make test` sets it up")
        os.environ["S3NSYNC_MINISTACK"] = str(here)
    ready: list[Stage] = []
    failed: list[BaseException] = []
    stop = threading.Event()

    async def keep() -> None:
        async with stage() as made:
            ready.append(made)
            await asyncio.to_thread(stop.wait)

    def run() -> None:
        try:
            asyncio.run(keep())
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        until(lambda: bool(ready or failed))
        if failed:
            raise failed[0]
        yield ready[0]
    finally:
        stop.set()
        thread.join(30)


@contextmanager
def worker(scene: Stage, folder: Path, verb: str = "run", **env: str) -> Iterator[Process]:
    """Start the command, end it, and see that it gave no secret away."""
    process = Process(verb, {**_env(scene, folder), **env}, folder)
    try:
        yield process
    finally:
        if process.popen.poll() is None:
            process.popen.terminate()
        try:
            process.wait()
        finally:
            if process.popen.poll() is None:
                process.popen.kill()
        assert scene.key not in process.text + "".join(process.out)


def _env(scene: Stage, folder: Path) -> dict[str, str]:
    settings = folder / "s3nsync.toml"
    if not settings.exists():
        settings.write_text(f'[accounts.default]\nca_file = "{scene.ca_file}"\n')
    env = {name: value for name, value in scene.env.items() if name != "NS_CA_FILE"}
    return {
        **env,
        "AWS_ACCESS_KEY_ID": "demo",
        "AWS_SECRET_ACCESS_KEY": "demo-secret-key",
        "S3NSYNC_WORKER_LEASE_S": "12",
        "S3NSYNC_WORKER_GRACE_S": "5",
    }


def _put(scene: Stage, key: str, body: bytes = b"x", **more: str) -> None:
    scene.aws.s3.put_object(Bucket=BUCKET, Key=key, Body=body, **more)  # type: ignore[arg-type]


def _has(scene: Stage, *keys: str) -> bool:
    stored = scene.emulator.snapshot()
    return all(ROOT + key in stored for key in keys)


def _depth(scene: Stage, name: str) -> int:
    names = ("", "NotVisible", "Delayed")
    wanted = [f"ApproximateNumberOfMessages{name}" for name in names]
    found = scene.aws.sqs.get_queue_attributes(QueueUrl=scene.queues[name], AttributeNames=wanted)["Attributes"]  # type: ignore[arg-type]
    return sum(int(each) for each in found.values())


def test_put_overwrite_and_delete_arrive_and_sigterm_leaves_cleanly(scene: Stage, tmp_path: Path) -> None:
    """The whole path, and exit code 0 after SIGTERM."""
    with worker(scene, tmp_path) as process:
        _put(scene, "life/a b+c.txt", b"one")
        until(lambda: _has(scene, "life/a b+c.txt"))
        _put(scene, "life/a b+c.txt", b"two two")
        until(lambda: scene.emulator.snapshot()[ROOT + "life/a b+c.txt"].read() == b"two two")
        scene.aws.s3.delete_object(Bucket=BUCKET, Key="life/a b+c.txt")
        until(lambda: not _has(scene, "life/a b+c.txt"))
        until(lambda: len(process.changes()) >= 3)
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert [each["outcome"] for each in process.changes()] == ["copied", "copied", "deleted"]
    assert all(each["attempt"] == 1 and isinstance(each["lag_s"], float) for each in process.changes())


def test_a_worker_killed_at_any_moment_loses_nothing(scene: Stage, tmp_path: Path) -> None:
    """Kill -9 in the middle, three times; the fourth worker finishes and both sides are equal (G5)."""
    slow = Fault(kind="slow", action="upload", path="*/kill/*", delay_s=0.15)
    scene.emulator.inject(slow)
    keys = [f"kill/{number:02}" for number in range(30)]
    for key in keys:
        _put(scene, key, key.encode() * 50)
    for _ in range(3):
        before = len([path for path in scene.emulator.snapshot() if "/kill/" in path])
        with worker(scene, tmp_path, S3NSYNC_WORKER_MAX_IN_FLIGHT="4") as process:
            enough = min(before + 3, len(keys))  # a slow test may have let the last worker finish
            until(lambda enough=enough: len([p for p in scene.emulator.snapshot() if "/kill/" in p]) >= enough)  # type: ignore[misc]
            process.popen.kill()
    scene.emulator.clear_faults()
    with worker(scene, tmp_path):
        until(lambda: _has(scene, *keys))
        until(lambda: not any(_depth(scene, name) for name in ("live", "check")))
    assert differing(scene) == []


def test_a_drain_gives_back_what_cannot_finish(scene: Stage, tmp_path: Path) -> None:
    """SIGTERM with an upload that hangs: the worker leaves in time, and another one does the work."""
    scene.emulator.inject(Fault(kind="stall", action="upload", path="*/hang.bin", times=1))
    _put(scene, "hang.bin", b"hello")
    with worker(scene, tmp_path, S3NSYNC_WORKER_DRAIN_S="1") as process:
        until(lambda: scene.emulator.injected().get("stall", 0) > 0)
        started_s = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        assert process.wait() == 0
        assert time.monotonic() - started_s < 45, "an upload that hangs ends by itself after a minute"
    assert [each["verb"] for each in process.changes() if each["key"] == "hang.bin"] == ["retry"]
    scene.emulator.clear_faults()
    with worker(scene, tmp_path):
        until(lambda: _has(scene, "hang.bin"))


def test_an_outage_of_netstorage_rests_the_route_and_buries_nothing(scene: Stage, tmp_path: Path) -> None:
    """The backlog stays on the queue, the log says so once, and afterwards everything arrives."""
    scene.emulator.inject(Fault(kind="status", status=503, action="upload", path="*/outage/*"))
    keys = [f"outage/{number:02}" for number in range(40)]
    for key in keys:
        _put(scene, key)
    with worker(scene, tmp_path) as process:
        until(lambda: "the route rests" in process.text)
        looks: list[int] = []

        def quiet_for_a_second() -> bool:
            """Tell when what was under way as the route stopped has been refused."""
            looks.append(scene.emulator.injected()["status"])
            return looks[-20:] == looks[-1:] * 20

        until(quiet_for_a_second)
        refused = scene.emulator.injected()["status"]
        time.sleep(3)
        assert scene.emulator.injected()["status"] - refused <= 2, "a resting route is asked by one key at a time"
        scene.emulator.clear_faults()
        until(lambda: _has(scene, *keys))
    assert "the route goes again" in process.text
    assert not [each for each in process.changes() if each["verb"] == "bury"]


def test_a_clock_off_by_two_minutes_is_learned_with_one_warning(scene: Stage, tmp_path: Path) -> None:
    """The offset comes from NetStorage's own Date, and work goes on."""
    scene.emulator.inject(Fault(kind="skew", skew_s=120))
    try:
        with worker(scene, tmp_path) as process:
            for number in range(5):
                _put(scene, f"clock/{number}")
            until(lambda: _has(scene, *(f"clock/{number}" for number in range(5))))
    finally:
        scene.emulator.clear_faults()
    assert process.text.count("clock is off") == 1
    assert "Traceback" not in process.text


def test_what_cannot_be_replicated_is_buried_or_set_aside_and_the_rest_goes_on(scene: Stage, tmp_path: Path) -> None:
    """A poison message, a forbidden key and an archived object harm nobody and are all told."""
    scene.aws.sqs.send_message(
        QueueUrl=scene.queues["live"], MessageBody="poison {", MessageGroupId="x", MessageDeduplicationId="x"
    )
    _put(scene, "bad/../../key")
    _put(scene, "cold.bin", b"frozen", StorageClass="GLACIER")
    _put(scene, "fine.txt")
    with worker(scene, tmp_path) as process:
        until(lambda: _has(scene, "fine.txt") and len(process.changes()) >= 3)
        until(lambda: not _depth(scene, "live"))
    outcomes = {str(each.get("key", "poison")): each for each in process.changes()}
    assert outcomes["bad/../../key"]["outcome"] == "rejected"
    assert outcomes["bad/../../key"]["hint"]
    assert outcomes["poison"]["outcome"] == "rejected"
    assert outcomes["cold.bin"]["outcome"] == "set_aside"
    answer = scene.aws.sqs.receive_message(QueueUrl=scene.queues["dead"], MaxNumberOfMessages=10)
    burials = [decode_burial(message["Body"]) for message in answer["Messages"]]
    assert {
        burial.body if burial and burial.ref is None else burial and burial.ref and burial.ref.key for burial in burials
    } == {
        "poison {",
        "bad/../../key",
    }
    scene.aws.s3.delete_object(Bucket=BUCKET, Key="cold.bin")
    with worker(scene, tmp_path):
        until(lambda: not _has(scene, "cold.bin"))


def test_failed_lists_retries_and_drops_what_was_buried(scene: Stage, tmp_path: Path) -> None:
    """G7 made visible: reason, hint, attempts; a mended entry is retried, a hopeless one dropped."""
    gzip = json.dumps([{"bucket": BUCKET, "cpcode": CPCODE, "directory": DIRECTORY, "content_encoding": "reject"}])
    _put(scene, "later/a.txt", b"zipped", ContentEncoding="gzip")
    _put(scene, "later/../b.txt")
    with worker(scene, tmp_path, S3NSYNC_ROUTES=gzip) as process:
        until(lambda: len([each for each in process.changes() if each["verb"] == "bury"]) == 2)
    with worker(scene, tmp_path, "failed list --json", NS_SECRET="") as process:  # an account is not needed
        assert process.wait() == 0, process.text
    found = {line["name"]: line for line in map(json.loads, process.out) if line["type"] == "failed"}
    assert "gzip" in found[f"s3://{BUCKET}/later/a.txt"]["reason"]
    assert found[f"s3://{BUCKET}/later/../b.txt"]["hint"]
    assert found[f"s3://{BUCKET}/later/a.txt"]["attempts"] == 1
    with worker(scene, tmp_path, "failed retry *later/a.txt") as process:
        assert process.wait() == 0, process.text
    assert _depth(scene, "bulk") == 1
    with worker(scene, tmp_path, "failed drop --yes *later/..*") as process:
        assert process.wait() == 0, process.text
    assert any("dropped" in line for line in process.out)
    with worker(scene, tmp_path):
        until(lambda: _has(scene, "later/a.txt"))
    with worker(scene, tmp_path, "failed list --json *later*") as process:
        assert process.wait() == 4, "no entry matches"
    assert [json.loads(line)["type"] for line in process.out] == ["summary"]


def test_a_retry_that_a_running_worker_refuses_loses_nothing(scene: Stage, tmp_path: Path) -> None:
    """G7: the worker buries it again while the sweep goes on; it is retried once, and listed afterwards."""
    key = "again/../x.txt"
    _put(scene, key)
    with worker(scene, tmp_path) as working:

        def verbs() -> list[object]:
            """Tell what became of this key: the queues may hold what other tests left."""
            return [each["verb"] for each in working.changes() if each.get("key") == key]

        until(lambda: verbs() == ["bury"])
        with worker(scene, tmp_path, "failed retry *again/..*") as process:
            assert process.wait() == 0, process.text
        until(lambda: len(verbs()) >= 2)
        until(lambda: _depth(scene, "dead") >= 1)
        assert verbs() == ["bury", "bury"]
    with worker(scene, tmp_path, "failed drop --yes *again/..*") as process:
        assert process.wait() == 0, process.text
    assert any("1 removed" in line for line in process.out)


def test_drain_ends_by_itself_and_sums_up(scene: Stage, tmp_path: Path) -> None:
    """The `drain` verb empties the queues and leaves."""
    for number in range(12):
        _put(scene, f"drained/{number}")
    until(lambda: _depth(scene, "live") >= 12)
    with worker(scene, tmp_path, "drain --json") as process:
        assert process.wait() == 0
    summary = json.loads(process.out[-1])
    assert summary["type"] == "summary"
    assert summary["copied"] == 12
    assert _has(scene, *(f"drained/{number}" for number in range(12)))


def test_the_names_of_the_proof_of_concept_keep_working(scene: Stage, tmp_path: Path) -> None:
    """QUEUE_URL, BUCKET, REGION, CPCODE and NS_SECRET, with the two queues that safety needs."""
    env = _env(scene, tmp_path)
    for name in ("S3NSYNC_LIVE_QUEUE_URL", "S3NSYNC_ROUTES", "S3NSYNC_REGION"):
        del env[name]
    env |= {"QUEUE_URL": scene.queues["live"], "BUCKET": BUCKET, "REGION": "us-east-1", "CPCODE": CPCODE}
    process = Process("run", env, tmp_path)
    try:
        _put(scene, "poc.txt", b"as before")
        until(lambda: f"/{CPCODE}/poc.txt" in scene.emulator.snapshot())
        scene.aws.s3.delete_object(Bucket=BUCKET, Key="poc.txt")
        until(lambda: f"/{CPCODE}/poc.txt" not in scene.emulator.snapshot())
    finally:
        process.popen.terminate()
        assert process.wait() == 0


def test_doctor_finds_the_stage_in_order_and_leaves_nothing_behind(scene: Stage, tmp_path: Path) -> None:
    """Every check runs against the real parts; a spoilt check queue is found, with exit code 1."""
    with worker(scene, tmp_path, "doctor --json") as process:
        assert process.wait() == 0, process.text
    findings = [json.loads(line) for line in process.out]
    assert findings[-1]["type"] == "summary"
    assert findings[-1]["failed"] == 0
    said = " ".join(str(each.get("what", "")) for each in findings)
    for word in (
        "AWS credentials",
        "clock",
        f"bucket {BUCKET}: is in",
        f"s3://{BUCKET}/*: may be read",
        "expirations reach arn:",
        "check queue",
        "a probe was",
    ):
        assert word in said
    assert not any(".s3nsync-doctor" in path for path in scene.emulator.snapshot())
    with worker(scene, tmp_path, "doctor", S3NSYNC_WORKER_GRACE_S="7") as process:
        assert process.wait() == 1
    assert any(line.startswith("failed") and "check queue" in line for line in process.out)


@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="status", status=403, action="stat", path="*/.s3nsync-doctor-*"),
        Fault(kind="lost-answer", action="upload", path="*/.s3nsync-doctor-*"),
    ],
)
def test_the_doctors_probe_is_removed_also_where_it_fails(scene: Stage, tmp_path: Path, fault: Fault) -> None:
    """An account that may write but not look, and one whose answers are lost: failed is said, and nothing is left."""
    scene.emulator.inject(fault)
    try:
        with worker(scene, tmp_path, "doctor --json") as process:
            assert process.wait() == 1, process.text
    finally:
        scene.emulator.clear_faults()
    findings = [json.loads(line) for line in process.out]
    assert [each["level"] for each in findings if str(each.get("what")).startswith("NetStorage /")] == ["failed"]
    assert not any(".s3nsync-doctor" in path for path in scene.emulator.snapshot())


def test_doctor_looks_before_anything_is_set_up(scene: Stage, tmp_path: Path) -> None:
    """Without a queue in its settings it looks at the rest, and at whom the bucket notifies already."""
    queues = ("S3NSYNC_LIVE_QUEUE_URL", "S3NSYNC_BULK_QUEUE_URL", "S3NSYNC_CHECK_QUEUE_URL", "S3NSYNC_DEAD_QUEUE_URL")
    with worker(scene, tmp_path, "doctor --json", **dict.fromkeys(queues, "")) as process:
        assert process.wait() == 0, process.text
    findings = [json.loads(line) for line in process.out]
    assert [each["level"] for each in findings if "queues: skipped" in str(each.get("what"))] == ["warning"]
    said = " ".join(str(each.get("what", "")) for each in findings)
    for word in ("AWS credentials", f"bucket {BUCKET}: is in", f"bucket {BUCKET}: notifies", "a probe was"):
        assert word in said


def test_the_account_may_come_from_secrets_manager(scene: Stage, tmp_path: Path) -> None:
    """With secret_arn the key is in no file and no variable, and still in no log."""
    session = boto3.Session("demo", "demo", region_name="us-east-1")
    vault = session.client("secretsmanager", endpoint_url=scene.aws.endpoint_url)
    arn = vault.create_secret(Name="netstorage", SecretString=scene.netstorage_env["NS_SECRET"])["ARN"]
    (tmp_path / "s3nsync.toml").write_text(f'[accounts.default]\nsecret_arn = "{arn}"\nca_file = "{scene.ca_file}"\n')
    env = {name: value for name, value in _env(scene, tmp_path).items() if name != "NS_SECRET"}
    process = Process("run", env, tmp_path)
    try:
        _put(scene, "vault.txt")
        until(lambda: _has(scene, "vault.txt"))
    finally:
        process.popen.terminate()
        assert process.wait() == 0
    assert scene.key not in process.text
    (tmp_path / "s3nsync.toml").write_text('[accounts.default]\nsecret_arn = "no-such-secret"\n')
    process = Process("run", env, tmp_path)
    assert process.wait() == 2
    assert "no-such-secret" in process.text
    assert "secretsmanager:GetSecretValue" in process.text


def _wrong_secret(env: dict[str, str], _: Path) -> None:
    env["NS_SECRET"] = json.dumps({**json.loads(env["NS_SECRET"]), "NS_KEY": "wrong-key-0123456789"})


def _wrong_host(env: dict[str, str], _: Path) -> None:
    env["NS_SECRET"] = json.dumps({**json.loads(env["NS_SECRET"]), "NS_HOSTNAME": "localhost:9"})


def _half_a_secret(env: dict[str, str], _: Path) -> None:
    env["NS_SECRET"] = json.dumps({"NS_HOSTNAME": "example-nsu.akamaihd.net", "NS_USER": "u"})


def _missing_queue(env: dict[str, str], _: Path) -> None:
    env["S3NSYNC_LIVE_QUEUE_URL"] = env["S3NSYNC_LIVE_QUEUE_URL"].replace("live", "nowhere")


def _no_queue(env: dict[str, str], _: Path) -> None:
    del env["S3NSYNC_LIVE_QUEUE_URL"]


def _missing_bucket(env: dict[str, str], _: Path) -> None:
    env["S3NSYNC_ROUTES"] = json.dumps([{"bucket": "no-such-bucket", "cpcode": CPCODE}])


def _unknown_key(env: dict[str, str], folder: Path) -> None:
    del env["S3NSYNC_WORKER_LEASE_S"]
    (folder / "s3nsync.toml").write_text("[worker]\nleases_s = 300\n")


def _not_toml(_: dict[str, str], folder: Path) -> None:
    (folder / "s3nsync.toml").write_text("worker = {")


def _unreadable(env: dict[str, str], folder: Path) -> None:
    env["S3NSYNC_CONFIG"] = str(folder / "nowhere.toml")


def _untrusted(_: dict[str, str], folder: Path) -> None:
    (folder / "s3nsync.toml").write_text("")


@pytest.mark.parametrize(
    ("spoil", "code", "says"),
    [
        (_wrong_secret, 3, "NS_KEY"),
        (_wrong_host, 3, "localhost:9"),
        (_half_a_secret, 2, "NS_KEY"),
        (_missing_queue, 3, "nowhere"),
        (_no_queue, 2, "QUEUE_URL"),
        (_missing_bucket, 3, "no-such-bucket"),
        (_unknown_key, 2, "did you mean lease_s"),
        (_not_toml, 2, "s3nsync.toml"),
        (_unreadable, 2, "nowhere.toml"),
        (_untrusted, 3, "certificate"),
    ],
)
def test_bad_settings_are_one_clear_message_and_a_documented_exit_code(
    scene: Stage,
    tmp_path: Path,
    spoil: Callable[[dict[str, str], Path], None],
    code: int,
    says: str,
) -> None:
    """What is wrong, what to do, no traceback, no secret, before any work is taken."""
    env = _env(scene, tmp_path)
    spoil(env, tmp_path)
    process = Process("run", env, tmp_path)
    assert process.wait() == code, process.text
    assert says in process.text
    assert process.text.count("error: ") == 1
    assert "hint: " in process.text
    assert "Traceback" not in process.text
    assert scene.key not in process.text
    assert "wrong-key" not in process.text


def test_what_dev_says_to_paste_can_be_pasted(scene: Stage) -> None:
    """Each line for operators that `s3nsync dev` prints runs in a shell as it stands."""
    lines = [
        line for line in how_to(scene, shlex.join(S3NSYNC)).splitlines() if line.endswith(("doctor", "failed list"))
    ]
    assert len(lines) == 2
    for line in lines:
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_demo_proves_both_sides_identical(tmp_path: Path, scene: Stage) -> None:
    """`s3nsync demo --json` ends with its summary and exit code 0."""
    done = subprocess.run(
        [*S3NSYNC, "demo", "--json"], cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    summary = lines[-1]
    assert summary["type"] == "summary"
    assert summary["size_bytes"] == sum(line["size_bytes"] for line in lines if line.get("outcome") == "copied")
    assert (summary["created"], summary["overwritten"], summary["deleted"], summary["buried"]) == (34, 8, 7, 1)
    assert summary["identical"] is True
    assert summary["faults"] == {"status": 1, "reset": 1}
    assert (summary["synced"], summary["verify"]) == (12, "clean")
    assert summary["damage_found"] == {"different": 2, "extra": 1, "missing": 1}
    assert {line["key"]: line["proof"] for line in lines[:-1]}["film/master 4K.mov"] == "sha256 at end"
    assert scene.key not in done.stdout
