"""`s3nsync demo`: create, overwrite and delete objects in S3, break a few things, and prove both sides identical.

The story runs on the stage of `dev` (every part real, see there): three acts of live events, and two of what was there
before them and of damage on NetStorage (`proof`). After each, the demo waits until
NetStorage holds exactly what S3 holds, comparing every object's bytes by its own means: the expected path is spelled
out here, not taken from the product. Reports of the worker give the table its outcome, proof, attempts and lag: the
time from S3's answer to the write until NetStorage had confirmed the copy.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import shlex
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from s3nsync.app import App, assemble
from s3nsync.config import load
from s3nsync.emulator import Fault
from s3nsync.errors import S3nsyncError
from s3nsync.events import Burial, decode_burial
from s3nsync.figures import outcome_name
from s3nsync.local import proof
from s3nsync.local.dev import BUCKET, CPCODE, DIRECTORY, REGION, Stage, stage
from s3nsync.model import Copied, Report, Retry
from s3nsync.sigv4 import Credentials

if TYPE_CHECKING:
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

MIB = 1024 * 1024
FILM = "film/master 4K.mov"
FORBIDDEN = "private/../escape.txt"
PAGES = tuple(f"site/page-{number:02}.html" for number in range(24))
ODD_NAMES = (
    "empty.bin",
    "one-byte.bin",
    "names/with space.txt",
    "names/a+b=c&d.txt",
    "names/100% sure #1?.txt",
    "names/ünïcödé/日本語/ファイル.txt",
    "names/emoji 🎬.txt",
    "names/'quotes' \"and\" <tags>.xml",
    "deep/" + "/".join("abcdefghij") + "/bottom.txt",
)
CONVERGE_WITHIN_S = 240.0
POLL_S = 0.2


@dataclass(slots=True)
class Line:
    """What became of one object: a row of the table, a line of the JSON."""

    key: str
    did: str
    size_bytes: int = 0
    outcome: str = ""
    proof: str = ""
    attempts: int = 0
    lag_s: float | None = None
    note: str = ""


@dataclass(slots=True)
class Story:
    """Everything the demo did and saw."""

    lines: dict[str, Line] = field(default_factory=dict)
    written_s: dict[str, float] = field(default_factory=dict)
    lags_s: list[float] = field(default_factory=list)
    created: int = 0
    overwritten: int = 0
    deleted: int = 0
    synced: int = 0
    damage_found: dict[str, int] = field(default_factory=dict)
    verdict: str = ""

    def in_order(self) -> list[Line]:
        """Give the lines by name."""
        return sorted(self.lines.values(), key=lambda each: each.key)

    def wrote(self, key: str, did: str, size_bytes: int) -> None:
        """Note a write to S3 that S3 has confirmed just now."""
        self.written_s[key] = time.time()
        line = self.lines.setdefault(key, Line(key, did))
        line.did, line.size_bytes, line.attempts, line.proof = did, size_bytes, 0, ""

    def settled(self, report: Report) -> None:
        """Note what the worker reports; checks confirm, they are no new write."""
        key = report.change.ref.key if report.change is not None else ""
        line = self.lines.get(key)
        if line is None or report.queue == "check":
            return
        line.attempts = max(line.attempts, report.attempt)
        line.outcome = "buried" if report.verb == "bury" else outcome_name(report.outcome)
        match report.outcome:
            case Copied(proof=proof):
                line.proof = proof
            case Retry(reason=reason):
                line.note = f"{reason.partition(':')[0]} at first"
        if report.verb == "ack" and report.queue == "live":
            line.lag_s = round(max(0.0, time.time() - self.written_s[key]), 3)
            self.lags_s.append(line.lag_s)
            if report.ambiguous:
                line.note = "answer lost: sent again, checked later"


class LoopbackCredentials:
    """The emulated AWS takes any key."""

    async def get(self) -> Credentials:
        """Give the key."""
        return Credentials("demo", "demo", None)

    async def renew(self, refused: Credentials) -> Credentials:
        """Give the same key: there is no other."""
        return refused


async def run_demo(*, as_json: bool, console: Console, progress: Console) -> bool:
    """Run the whole story; says whether both sides ended identical. Raises S3nsyncError if it cannot start."""
    started_s = time.monotonic()
    story = Story()
    async with stage() as scene, replicating(scene, story.settled) as app:
        progress.print(f"All parts are up after {time.monotonic() - started_s:.1f} s.")
        with _timed(progress, f"create {len(PAGES) + len(ODD_NAMES) + 1} objects, one of them a multipart upload"):
            await asyncio.to_thread(_create, scene, story)
            await _converge(scene)
        with _timed(progress, "overwrite 8, while NetStorage answers 503 to one and cuts the connection of another"):
            _break_things(scene)
            await asyncio.to_thread(_overwrite, scene, story)
            await _converge(scene)
        with _timed(progress, "delete 7, and put one key that would leave its directory"):
            await asyncio.to_thread(_delete, scene, story)
            await _converge(scene)
        with _timed(progress, "wait for the second looks that the broken uploads owe"):
            await _until(lambda: _is_settled(app), "the queues did not come to rest")
        with _timed(progress, f"sync {len(proof.BEFORE)} objects that were there before the events"):
            await _sync_the_past(scene, story, app)
        with _timed(progress, "damage 4 files on NetStorage, find them by verify, have them repaired, verify again"):
            await _damage_and_repair(scene, story, app)
        differences = await asyncio.to_thread(differing, scene)
        burials = await asyncio.to_thread(_buried, scene)
        summary = _summary(story, scene, burials, differences, time.monotonic() - started_s)
        if as_json:
            story.lines[FORBIDDEN].note = "; ".join(burial.reason for burial in burials)
            for line in (*({"type": "object", **asdict(each)} for each in story.in_order()), summary):
                console.print(json.dumps(line, ensure_ascii=False), soft_wrap=True, markup=False, highlight=False)
        else:
            _show(console, story, summary, burials, differences)
        return not differences and len(burials) == 1 and story.verdict == "clean"


@asynccontextmanager
async def replicating(scene: Stage, report: Callable[[Report], None]) -> AsyncIterator[App]:
    """Run a worker on the stage for the length of the block; a worker that dies ends the block with its error."""
    settings = load(scene.write_settings(), {})
    async with assemble(settings, report=report, credentials=LoopbackCredentials()) as app:
        await app.probe()
        worker = asyncio.create_task(app.worker.run())
        try:
            yield app
        finally:
            app.worker.stop()
            await worker


# --- the acts --------------------------------------------------------------------------------------------------


def _body(key: str, size_bytes: int, edition: int) -> bytes:
    """Give bytes that differ for each key and edition."""
    seed = hashlib.sha256(f"{key}#{edition}".encode()).digest()
    return (seed * (size_bytes // len(seed) + 1))[:size_bytes]


def _put(scene: Stage, story: Story, key: str, size_bytes: int, did: str, *, edition: int = 1) -> None:
    scene.aws.s3.put_object(Bucket=BUCKET, Key=key, Body=_body(key, size_bytes, edition))
    story.wrote(key, did, size_bytes)


def _create(scene: Stage, story: Story) -> None:
    sizes = {"empty.bin": 0, "one-byte.bin": 1}
    for key in (*ODD_NAMES, *PAGES):
        _put(scene, story, key, sizes.get(key, 4096), "created")
        story.created += 1
    _put_multipart(scene, FILM, 30 * MIB)
    story.wrote(FILM, "created", 30 * MIB)
    story.created += 1


def _put_multipart(scene: Stage, key: str, size_bytes: int) -> None:
    s3 = scene.aws.s3
    body = _body(key, size_bytes, 1)
    upload = s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
    parts: list[CompletedPartTypeDef] = []
    for number, start in enumerate(range(0, size_bytes, 8 * MIB), 1):
        part = s3.upload_part(
            Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=number, Body=body[start : start + 8 * MIB]
        )
        parts.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.complete_multipart_upload(Bucket=BUCKET, Key=key, UploadId=upload, MultipartUpload={"Parts": parts})


def _break_things(scene: Stage) -> None:
    scene.emulator.inject(
        Fault(kind="status", status=503, action="upload", path=f"*/{PAGES[1]}", times=1),
        Fault(kind="reset", action="upload", path=f"*/{PAGES[2]}", times=1),
    )


def _overwrite(scene: Stage, story: Story) -> None:
    for key in PAGES[:8]:
        _put(scene, story, key, 5000, "overwritten", edition=2)
        story.overwritten += 1


def _delete(scene: Stage, story: Story) -> None:
    for key in (*PAGES[18:], "names/with space.txt"):
        scene.aws.s3.delete_object(Bucket=BUCKET, Key=key)
        story.wrote(key, "deleted", 0)
        story.deleted += 1
    _put(scene, story, FORBIDDEN, 12, "created")


async def _sync_the_past(scene: Stage, story: Story, app: App) -> None:
    await asyncio.to_thread(proof.put_unseen, scene, 4096)
    for key in proof.BEFORE:
        story.wrote(key, "there before", 4096)
    story.synced = sum((await proof.sync(app)).sent.values())
    await _converge(scene)
    await _until(lambda: _is_settled(app), "the queues did not come to rest")
    _must_be_clean(await proof.verify(app))


async def _damage_and_repair(scene: Stage, story: Story, app: App) -> None:
    await proof.damage(app)
    found = await proof.verify(app)
    story.damage_found = found.kinds
    await proof.repair(app, found)
    await _converge(scene)
    await _until(lambda: _is_settled(app), "the queues did not come to rest")
    story.verdict = (await proof.verify(app)).tally.verdict


def _must_be_clean(proof: proof.Proof) -> None:
    if proof.tally.verdict != "clean":
        raise S3nsyncError(f"verify found differences after sync: {proof.kinds}", hint="see the log lines above")


# --- looking ---------------------------------------------------------------------------------------------------


def differing(scene: Stage) -> list[str]:
    """Compare every object's bytes on both sides by our own reading; the forbidden key must not be there at all."""
    root = f"/{CPCODE}/{DIRECTORY}/"
    expected = {root + key: digest for key, digest in _digests(scene) if key != FORBIDDEN}
    stored = scene.emulator.snapshot()
    found = {path: hashlib.md5(each.read(), usedforsecurity=False).hexdigest() for path, each in stored.items()}
    missing = [f"missing on NetStorage: {path}" for path in expected.keys() - found.keys()]
    extra = [f"only on NetStorage: {path}" for path in found.keys() - expected.keys()]
    other = [f"different: {path}" for path in expected.keys() & found.keys() if expected[path] != found[path]]
    return sorted((*missing, *extra, *other))


def _digests(scene: Stage) -> Iterator[tuple[str, str]]:
    for page in scene.aws.s3.get_paginator("list_objects_v2").paginate(Bucket=BUCKET):
        for each in page.get("Contents", []):
            body = scene.aws.s3.get_object(Bucket=BUCKET, Key=each["Key"])["Body"].read()
            yield each["Key"], hashlib.md5(body, usedforsecurity=False).hexdigest()


async def _converge(scene: Stage) -> None:
    async def looks_equal() -> bool:
        return await asyncio.to_thread(_listing, scene) == {
            path: (each.size_bytes, "" if each.size_bytes > MIB else each.md5)
            for path, each in scene.emulator.snapshot().items()
        }

    await _until(looks_equal, "NetStorage did not become equal to S3")


def _listing(scene: Stage) -> dict[str, tuple[int, str]]:
    """Give size and ETag by expected path (no ETag for the multipart object): enough to wait by, without reading."""
    listed = scene.aws.s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
    return {
        f"/{CPCODE}/{DIRECTORY}/{each['Key']}": (each["Size"], "" if each["Size"] > MIB else each["ETag"].strip('"'))
        for each in listed
        if each["Key"] != FORBIDDEN
    }


async def _is_settled(app: App) -> bool:
    depths = await asyncio.gather(*(queue.depth() for name, queue in app.queues.items() if name != "dead"))
    return not app.worker.held and not any(each.visible + each.in_flight + each.delayed for each in depths)


async def _until(holds: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    deadline_s = time.monotonic() + CONVERGE_WITHIN_S
    while not await holds():
        if time.monotonic() > deadline_s:
            raise S3nsyncError(f"{otherwise} within {CONVERGE_WITHIN_S:.0f} s", hint="see the log lines above")
        await asyncio.sleep(POLL_S)


def _buried(scene: Stage) -> list[Burial]:
    answer = scene.aws.sqs.receive_message(QueueUrl=scene.queues["dead"], MaxNumberOfMessages=10, WaitTimeSeconds=1)
    found = (decode_burial(message["Body"]) for message in answer.get("Messages", []))
    return [burial for burial in found if burial is not None]


# --- telling ---------------------------------------------------------------------------------------------------


def _summary(
    story: Story, scene: Stage, burials: Sequence[Burial], differences: Sequence[str], seconds: float
) -> dict[str, object]:
    stored = scene.emulator.snapshot().values()
    return {
        "type": "summary",
        "created": story.created,
        "overwritten": story.overwritten,
        "deleted": story.deleted,
        "buried": len(burials),
        "synced": story.synced,
        "damage_found": story.damage_found,
        "verify": story.verdict,
        "identical": not differences,
        "lag_p50_s": round(percentile(story.lags_s, 0.50), 3),
        "lag_p99_s": round(percentile(story.lags_s, 0.99), 3),
        "objects": len(stored),
        "size_bytes": sum(each.size_bytes for each in stored),
        "faults": scene.emulator.injected(),
        "seconds": round(seconds, 1),
    }


def percentile(values: Iterable[float], part: float) -> float:
    """Give the smallest value that at least `part` of all values do not exceed (nearest rank); 0 for none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)] if ordered else 0.0


def _show(
    console: Console,
    story: Story,
    summary: dict[str, object],
    burials: Sequence[Burial],
    differences: Sequence[str],
) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, justify in (
        ("object", "left"),
        ("in S3", "left"),
        ("bytes", "right"),
        ("on NetStorage", "left"),
        ("proof", "left"),
        ("tries", "right"),
        ("lag", "right"),
        ("", "left"),
    ):
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    for line in story.in_order():
        lag = "" if line.lag_s is None else f"{line.lag_s:.2f} s"
        table.add_row(
            line.key, line.did, f"{line.size_bytes:,}", line.outcome, line.proof, str(line.attempts), lag, line.note
        )
    with console.capture() as drawn:
        console.print(table, markup=False)
    console.file.write("\n".join(line.rstrip() for line in drawn.get().splitlines()) + "\n\n")
    for burial in burials:
        console.print(f"buried: {burial.ref}: {burial.reason}", markup=False, highlight=False)
        console.print(f"        {burial.hint}", markup=False, highlight=False)
    for difference in differences:
        console.print(difference, style="red", markup=False)
    verdict = "identical" if summary["identical"] else "DIFFERENT"
    console.print(
        f"Both sides are {verdict}: {summary['objects']} objects, {summary['size_bytes']:,} bytes, all compared.\n"
        f"{summary['created']} created, {summary['overwritten']} overwritten, {summary['deleted']} deleted, "
        f"{summary['buried']} buried; faults survived: {_counted(summary['faults'])}.\n"
        f"{summary['synced']} that were there before were synced; damage found by verify and repaired: "
        f"{_counted(summary['damage_found'])}; verify now says: {summary['verify']}.\n"
        f"Lag from S3 to NetStorage: p50 {summary['lag_p50_s']} s, p99 {summary['lag_p99_s']} s. "
        f"All in {summary['seconds']} s.\n"
        "To try it by hand: `make dev` (s3nsync dev). How it works: docs/design.md.",
        highlight=False,
    )


def _counted(faults: object) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(faults.items())) if isinstance(faults, dict) else ""


@contextmanager
def _timed(progress: Console, what: str) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    progress.print(f"{time.monotonic() - started_s:6.1f} s  {what}", highlight=False)


async def run_dev(
    say: Callable[[str], None],
    stopping: Callable[[Callable[[], None]], AbstractContextManager[None]],
    report: Callable[[Report], None],
) -> None:
    """Keep the stage and a worker running until a signal, mirroring what is put into the bucket."""
    stop = asyncio.Event()
    with stopping(stop.set):
        async with stage() as scene, replicating(scene, report) as app:
            say(how_to(scene, _called()))
            await _first(stop.wait(), app.worker.stopped())


async def _first(*waits: Coroutine[object, object, object]) -> None:
    """Wait until one of several things has happened."""
    tasks = [asyncio.create_task(each) for each in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()


def _called() -> str:
    """Say how this program was called."""
    module = sys.argv[0].endswith("__main__.py")
    return shlex.join([sys.executable, "-m", "s3nsync"] if module else [sys.argv[0]])


def how_to(scene: Stage, program: str) -> str:
    """Give a stage's addresses, and lines to paste that work as they stand; `program` is how `s3nsync` is called."""
    keys = "AWS_ACCESS_KEY_ID=demo AWS_SECRET_ACCESS_KEY=demo"
    aws = f"{keys} aws --region {REGION} --endpoint-url {scene.aws.endpoint_url}"
    operator = f"{keys} S3NSYNC_CONFIG='{scene.write_settings()}' {program}"
    return f"""
S3, SQS, Lambda   {scene.aws.endpoint_url}
NetStorage        {scene.emulator.url}/{CPCODE}/{DIRECTORY}
its faults        {scene.emulator.control_url}   (docs/emulator.md)

Put something in, overwrite it, delete it:
  {aws} s3 cp README.md s3://{BUCKET}/
See it on NetStorage:
  {operator} ns ls /{CPCODE}/{DIRECTORY}
(there is no such directory, 404, until something is in it)

Look at it the way an operator would:
  {operator} doctor
  {operator} status s3://{BUCKET}/README.md
  {operator} verify
  {operator} failed list

Every change that the route takes is one line below. Ctrl-C ends everything; nothing is kept.
"""
