"""Verify, repair and sync as commands, on real parts: ministack's S3 and SQS, the emulator in both its natures."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import signal
from collections.abc import Mapping
from pathlib import Path

import pytest

from aws_emulator import Aws
from fault_proxy import proxying
from s3nsync.emulator import Fault
from sync_site import CPCODE, ROOT, digests, found, site

pytestmark = pytest.mark.slow

BODIES: Mapping[str, bytes] = {
    "a.txt": b"one",
    "a/b/c.txt": b"two two",
    "a b+c&d%.txt": b"three",
    "ünïcödé/日本語 🎬.txt": b"four",
    "empty.bin": b"",
    **{f"many/{number:03}": b"%03d" % number * 10 for number in range(40)},
}
MULTIPART = "film.mov"


@pytest.fixture(params=["objectstore", "filestore"])
def nature(request: pytest.FixtureRequest) -> str:
    """Go through both kinds of store."""
    return str(request.param)


async def test_what_was_there_is_synced_and_damage_found_and_mended(aws: Aws, tmp_path: Path, nature: str) -> None:
    """Sync copies all, verify is clean; a flipped byte, a lost, an extra and a cut file are found and mended."""
    film = b"film" * 100_000
    async with site(aws, tmp_path, nature) as at:
        await at.put(BODIES)
        await at.put_parts(MULTIPART, film)
        expected = digests({**BODIES, MULTIPART: film})

        code, lines = await at.run("sync --direct --dry-run")
        assert (code, lines[-1]["sent"], at.stored()) == (0, len(expected), {})
        code, lines = await at.run("sync --direct")
        assert (code, lines[-1]["outcomes"]) == (0, {"copied": len(expected)})
        assert at.stored() == expected
        stats = [each.path for each in at.emulator.requests if each.action == "stat"]
        assert stats == [f"/{CPCODE}"], "a missing file needs no stat; the one is that of the start-up check"

        code, lines = await at.run("verify --tolerance 0")
        assert (code, found(lines), lines[-1]["verdict"]) == (0, set(), "clean")
        assert lines[-1]["same"] == {"md5": len(BODIES), "size and time": 1}

        before = await at.netstorage.stat(ROOT + "a.txt")
        assert before is not None
        await at.netstorage.upload(ROOT + "a.txt", b"onE", mtime_s=before.mtime_s)
        await at.netstorage.delete(ROOT + "many/003")
        await at.netstorage.upload(ROOT + "stray.txt", b"extra", mtime_s=7)
        await at.netstorage.upload(ROOT + "a/b/c.txt", b"two", mtime_s=7)
        damage = {
            ("different", "a.txt"),
            ("missing", "many/003"),
            ("extra", "stray.txt"),
            ("different", "a/b/c.txt"),
        }
        code, lines = await at.run(f"verify --tolerance 0 --csv {tmp_path}/found.csv")
        assert (code, found(lines), lines[-1]["verdict"]) == (1, damage, "differs")
        with (tmp_path / "found.csv").open(newline="", encoding="utf-8") as file:
            assert {(row["kind"], row["key"]) for row in csv.DictReader(file)} == damage

        code, lines = await at.run("verify --tolerance 0 --repair --direct --delete --dry-run")
        assert (code, at.stored().keys() - expected.keys()) == (1, {"stray.txt"})
        code, lines = await at.run("verify --tolerance 0 --repair --direct")
        assert (code, at.stored().keys() - expected.keys()) == (1, {"stray.txt"}), "nothing is deleted unless asked for"
        code, lines = await at.run("verify --tolerance 0 --repair --direct --delete --yes")
        assert (code, lines[-1]["repair"]) == (
            0,
            {
                "sent": {"extra": 1},
                "dry_run": False,
                "outcomes": {"deleted": 1},
                "copied_bytes": 0,
                "checks_awaited": 0,
            },
        )
        code, lines = await at.run("verify --tolerance 0")
        assert (code, found(lines), at.stored()) == (0, set(), expected)


async def test_only_reading_finds_other_bytes_without_a_common_digest(aws: Aws, tmp_path: Path) -> None:
    """A multipart object of the same size and time looks the same; --deep reads it."""
    async with site(aws, tmp_path) as at:
        await at.put_parts(MULTIPART, b"film")
        assert (await at.run("sync --direct"))[0] == 0
        entry = await at.netstorage.stat(ROOT + MULTIPART)
        assert entry is not None
        await at.netstorage.upload(ROOT + MULTIPART, b"fi1m", mtime_s=entry.mtime_s)
        assert (await at.run("verify --tolerance 0"))[0] == 0
        code, lines = await at.run("verify --tolerance 0 --deep")
        assert (code, found(lines)) == (1, {("different", MULTIPART)})
        await at.netstorage.upload(ROOT + MULTIPART, b"film", mtime_s=entry.mtime_s)
        code, lines = await at.run("verify --tolerance 0 --deep")
        assert (code, lines[-1]["same"]) == (0, {"md5": 1})


async def test_what_netstorage_cannot_keep_is_listed(aws: Aws, tmp_path: Path) -> None:
    """A Content-Encoding is told by --deep, and is no difference; none of this needs queues."""
    async with site(aws, tmp_path) as at:
        aws.s3.put_object(Bucket=at.bucket, Key="page.html", Body=b"zipped", ContentEncoding="gzip")
        env = {name: value for name, value in at.env().items() if not name.endswith("_QUEUE_URL")}
        code, lines = await at.run("sync", env)
        assert (code, "--direct" in str(lines[-1]["hint"])) == (2, True)
        assert (await at.run("sync --direct", env))[0] == 0
        code, lines = await at.run("verify --tolerance 0 --deep", env)
        assert (code, found(lines)) == (0, {("metadata", "page.html")})
        assert "Content-Encoding gzip" in str(lines[0]["why"])


async def test_an_empty_bucket_and_too_many_deletes_stop_it(aws: Aws, tmp_path: Path) -> None:
    """Nothing is deleted, and what to say is told; files are trashed rather than deleted if asked for."""
    async with site(aws, tmp_path) as at:
        await at.put({"a": b"1", "b": b"2"})
        assert (await at.run("sync --direct"))[0] == 0
        for key in ("a", "b"):
            aws.s3.delete_object(Bucket=at.bucket, Key=key)
        code, lines = await at.run("verify --tolerance 0 --repair --direct --delete --yes")
        assert (code, lines[-1]["error"], "--expect-empty" in str(lines[-1]["hint"])) == (6, "BucketEmpty", True)
        repair = "verify --tolerance 0 --repair --direct --delete --yes --expect-empty"
        code, lines = await at.run(repair)
        assert code == 1
        assert [each["type"] for each in lines] == ["finding", "finding", "refused", "summary"]
        assert at.stored().keys() == {"a", "b"}
        code, lines = await at.run(f"{repair} --max-delete-percent 100 --trash bin")
        assert (code, [each["key"] for each in lines if each["type"] == "delete"]) == (0, ["a", "b"])
        assert sorted(re.sub(r"\.\d{8}T\d{6}\.\d{3}Z$", "", path) for path in at.emulator.snapshot()) == [
            f"/{CPCODE}/bin/mirror/a",
            f"/{CPCODE}/bin/mirror/b",
        ]
        code, lines = await at.run("verify")
        assert (code, lines[-1]["files"]) == (0, 0)


async def test_repairs_and_copies_go_to_the_bulk_queue(aws: Aws, tmp_path: Path) -> None:
    """Without --direct nothing is written: the workers' queue has a message for each key, and they do the work."""
    async with site(aws, tmp_path) as at:
        await at.put(BODIES)
        assert (await at.run("sync --prefix many/ --exclude *9"))[0] == 0
        assert (at.depth("bulk"), at.uploads()) == (36, 0)
        assert (await at.run("drain"))[0] == 0
        assert len(at.stored()) == 36
        code, _ = await at.run("verify --tolerance 0 --repair")
        assert (code, at.depth("bulk")) == (0, len(BODIES) - 36)
        assert (await at.run("drain"))[0] == 0
        assert (await at.run("verify --tolerance 0"))[0] == 0
        assert at.stored() == digests(BODIES)


async def test_a_copy_killed_in_the_middle_goes_on_where_it_was(aws: Aws, tmp_path: Path) -> None:
    """Kill -9: the next run finds what was copied to be the same; less than one in a hundred is sent twice."""
    bodies = {f"k/{number:04}": b"%04d" % number for number in range(500)}
    async with site(aws, tmp_path) as at:
        await at.put(bodies)
        at.emulator.inject(Fault(kind="slow", action="upload", delay_s=0.01))
        env = {**at.env(), "S3NSYNC_WORKER_MAX_IN_FLIGHT": "5"}
        process = at.start("sync --direct", env)
        while at.uploads() < 200:
            assert process.popen.poll() is None, process.text
            await asyncio.sleep(0.01)
        await asyncio.to_thread(process.kill)
        done = len(at.stored())
        assert 190 <= done < 450
        code, lines = await at.run("sync --direct", env)
        assert code == 0
        assert at.stored() == digests(bodies)
        assert int(str(lines[-1]["sent"])) <= len(bodies) - done
        assert at.uploads() <= len(bodies) + 5


async def test_a_queueing_killed_in_the_middle_goes_on_where_it_was(aws: Aws, tmp_path: Path) -> None:
    """Kill -9: the state file says how far it came, and no key has two messages."""
    bodies = {f"k/{number:04}": b"" for number in range(500)}
    async with site(aws, tmp_path) as at:
        await at.put(bodies)
        verb = f"sync --state {tmp_path}/state"
        process = at.start(f"{verb} --rate 75")
        while at.depth("bulk") < 250:
            assert process.popen.poll() is None, process.text
            await asyncio.sleep(0.05)
        await asyncio.to_thread(process.kill)
        state = json.loads((tmp_path / "state").read_text())
        assert "k/0199" <= next(iter(state["after"].values())) < "k/0499"
        code, lines = await at.run(verb)
        assert code == 0
        assert int(str(lines[-1]["sent"])) <= 300
        assert at.depth("bulk") == len(bodies)
        assert not (tmp_path / "state").exists()


async def test_what_a_copy_owes_and_what_failed_is_told(aws: Aws, tmp_path: Path) -> None:
    """A lost answer is looked at again after the grace; a key that cannot be stored is named with its reason."""
    async with site(aws, tmp_path, "filestore") as at:
        await at.put({"a": b"1", "b": b"2", "b/c": b"3", "d": b"4"})
        at.emulator.inject(Fault(kind="lost-answer", action="upload", path="*/a", times=1))
        env = {**at.env(), "S3NSYNC_WORKER_MAX_IN_FLIGHT": "4"}
        code, lines = await at.run("sync --direct", env)
        failed = [str(each["name"]) for each in lines if each["type"] == "failed"]
        assert code == 1
        assert len(failed) == 1
        assert failed[0] in {f"s3://{at.bucket}/b", f"s3://{at.bucket}/b/c"}
        assert lines[-1]["outcomes"] == {"copied": 3, "buried": 1}
        assert int(str(lines[-1]["checks_awaited"])) >= 1
        stats = [each.path for each in at.emulator.requests if each.action == "stat"]
        assert ROOT + "a" in stats, "its Check looked at it again"
        assert at.stored().keys() > {"a", "d"}


async def test_ctrl_c_tells_what_was_seen(aws: Aws, tmp_path: Path) -> None:
    """A verify that waits for its second look is interrupted: summary, incomplete, and exit code 130."""
    async with site(aws, tmp_path) as at:
        await at.put({"a": b"1"})
        async with proxying(int(aws.url.rpartition(":")[2])) as cloud:
            env = {**at.env(), "S3NSYNC_AWS_ENDPOINT_URL": f"http://127.0.0.1:{cloud.port}"}
            process = at.start("verify --tolerance 600", env)
            while not (
                any(each.action == "list" for each in at.emulator.requests)
                and any(each.answered for each in cloud.seen(r"^GET \S*list-type=2"))
            ):
                assert process.popen.poll() is None, process.text
                await asyncio.sleep(0.05)
            await asyncio.sleep(3)  # nothing tells outside when it has compared the one page of each side, and waits
            process.popen.send_signal(signal.SIGINT)
            assert await asyncio.to_thread(process.wait) == 130
        summary = json.loads(process.out[-1])
        assert (summary["type"], summary["complete"], summary["objects"]) == ("summary", False, 1)
        assert "Traceback" not in process.text
