"""The demo's last acts: what was there before the events is synced, damage is found by verify, and repaired.

They go the way of the commands `sync`, `verify` and `verify --repair`: the same parts, and the demo's own worker serves
the bulk queue.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from s3nsync.app import App
from s3nsync.compare import Finding, Scope
from s3nsync.errors import S3nsyncError
from s3nsync.local.dev import BUCKET, CPCODE, DIRECTORY, ROUTE, Stage
from s3nsync.netstorage import NetStorage
from s3nsync.reconcile.backfill import Sent, backfill
from s3nsync.reconcile.repair import DeleteCap, Mender
from s3nsync.reconcile.sides import Selection, joined
from s3nsync.reconcile.verify import Care, Tally, Verifier

BEFORE = tuple(f"archive/2019/{number:02}.jpg" for number in range(12))
"""Put into the bucket while it sends no events."""

FLIPPED, LOST, CUT, STRAY = BEFORE[0], BEFORE[1], BEFORE[2], "archive/2019/stray.tmp"

SCOPE = Scope(ROUTE, [ROUTE])


@dataclass(frozen=True, slots=True)
class Proof:
    """What a verify came to."""

    findings: tuple[Finding, ...]
    tally: Tally

    @property
    def kinds(self) -> dict[str, int]:
        """Count the findings that are differences."""
        return {kind: count for kind, count in sorted(self.tally.findings.items()) if kind != "forbidden"}


def put_unseen(scene: Stage, size_bytes: int) -> None:
    """Put objects while the bucket sends no events, as it did before there was a replication."""
    s3 = scene.aws.s3
    wired = s3.get_bucket_notification_configuration(Bucket=BUCKET)
    s3.put_bucket_notification_configuration(Bucket=BUCKET, NotificationConfiguration={})
    for key in BEFORE:
        s3.put_object(Bucket=BUCKET, Key=key, Body=key.encode().ljust(size_bytes))
    functions = wired["LambdaFunctionConfigurations"]
    s3.put_bucket_notification_configuration(
        Bucket=BUCKET, NotificationConfiguration={"LambdaFunctionConfigurations": functions}
    )


async def sync(app: App) -> Sent:
    """Have copied what NetStorage lacks."""
    sent = Sent()
    sections = joined(app.s3, _netstorage(app), ROUTE, Selection())
    await backfill(sections, SCOPE, app.queues["bulk"].send, sent, run=f"sync-{time.time_ns()}")
    return sent


async def verify(app: App) -> Proof:
    """Compare both sides as they are now: nothing else goes on, so no difference is too young to count."""
    care = Care(tolerance_s=0.0)
    verifier = Verifier(app.s3, _netstorage(app), SCOPE, care, prefix="", now_s=time.time)
    sections = joined(app.s3, _netstorage(app), ROUTE, Selection())
    return Proof(tuple([each async for each in verifier.findings(sections)]), verifier.tally)


async def damage(app: App) -> None:
    """Flip a byte, lose a file, cut one short, and leave one that nobody knows."""
    netstorage = _netstorage(app)
    path = _path(FLIPPED)
    entry = await netstorage.stat(path)
    if entry is None or entry.size_bytes is None:
        raise S3nsyncError(f"{path} is not there to be damaged")
    body = FLIPPED.encode().ljust(entry.size_bytes)
    await netstorage.upload(path, bytes([body[0] ^ 1]) + body[1:], mtime_s=entry.mtime_s)
    await netstorage.delete(_path(LOST))
    await netstorage.upload(_path(CUT), body[:100], mtime_s=entry.mtime_s)
    await netstorage.upload(_path(STRAY), b"left behind", mtime_s=entry.mtime_s)


async def repair(app: App, proof: Proof) -> None:
    """Have mended what was found; raises S3nsyncError when more would be deleted than may be."""
    mender = Mender(ROUTE, app.queues["bulk"].send, run=f"repair-{time.time_ns()}", cap=DeleteCap(100, 10.0))
    for finding in proof.findings:
        await mender.take(finding)
    refusal = mender.refusal(proof.tally.target_files)
    if refusal is not None:
        raise S3nsyncError(refusal)
    await mender.delete()
    await mender.flush()


def _netstorage(app: App) -> NetStorage:
    return app.targets[ROUTE.account]


def _path(key: str) -> str:
    return f"/{CPCODE}/{DIRECTORY}/{key}"
