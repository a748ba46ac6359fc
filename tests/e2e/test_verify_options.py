"""The options of `verify` and `sync`, each on the real command line, with what people then read."""

from __future__ import annotations

import asyncio
import base64
import csv
import gzip
import hashlib
import io
import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote_plus

import pytest

from aws_emulator import Aws
from fakes import md5
from sync_site import ROOT, Site, digests, found, site

pytestmark = pytest.mark.slow

COLUMNS = ("Bucket", "Key", "Size", "LastModifiedDate", "ETag")
REPORT_COLUMNS = ("Bucket", "Key", "VersionId", "TaskStatus", "ErrorCode", "HTTPStatusCode", "ResultMessage")


def _rows(rows: Sequence[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


async def _publish(at: Site, name: str, text: bytes, *, checksum: bool = True) -> str:
    """Put a manifest, with its checksum beside it; gives its URL."""
    await at.put({f"{name}/manifest.json": text})
    if checksum:
        await at.put({f"{name}/manifest.checksum": hashlib.md5(text, usedforsecurity=False).hexdigest().encode()})
    return f"s3://{at.bucket}/{name}/manifest.json"


async def _inventory(at: Site, *, damaged: bool = False, name: str = "i") -> str:
    """Put an inventory of the bucket as it is now, in two files; gives the URL of its manifest."""
    listed = at.aws.s3.list_objects_v2(Bucket=at.bucket)["Contents"]
    rows = [
        (
            at.bucket,
            quote_plus(each["Key"], safe="/"),
            str(each["Size"]),
            each["LastModified"].isoformat(),
            each["ETag"].strip('"'),
        )
        for each in listed
    ]
    files = []
    for number, part in enumerate((rows[::2], rows[1::2])):
        body, key = gzip.compress(_rows(part)), f"{name}/data/{number}.csv.gz"
        files.append({"key": key, "size": len(body), "MD5checksum": md5(body)})
        await at.put({key: gzip.compress(_rows(part[:-1])) if damaged else body})
    manifest = {
        "sourceBucket": at.bucket,
        "destinationBucket": f"arn:aws:s3:::{at.bucket}",
        "version": "2016-11-30",
        "fileFormat": "CSV",
        "fileSchema": ", ".join(COLUMNS),
        "files": files,
    }
    return await _publish(at, name, json.dumps(manifest).encode())


async def _report(at: Site, key: str, etag: str, body: bytes, name: str) -> str:
    """Put the report of a job that computed the MD5 of one object; gives the URL of its manifest."""
    digest = base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
    told = {"checksum_base64": digest, "etag": etag, "checksumAlgorithm": "MD5", "checksumType": "FULL_OBJECT"}
    rows = _rows([(at.bucket, key, "", "succeeded", "", "200", json.dumps(told))])
    await at.put({f"{name}/results.csv": rows})
    results = {"TaskExecutionStatus": "succeeded", "Bucket": at.bucket, "MD5Checksum": md5(rows)}
    manifest = {"ReportSchema": ", ".join(REPORT_COLUMNS), "Results": [{**results, "Key": f"{name}/results.csv"}]}
    return await _publish(at, name, json.dumps(manifest).encode(), checksum=False)


async def test_an_inventory_stands_in_for_the_listing(aws: Aws, tmp_path: Path) -> None:
    """What it holds is copied and judged; what came after its day is no business of it."""
    bodies = {f"media/{number}": b"%d" % number for number in range(9)} | {"media/ä b+c.txt": b"name"}
    async with site(aws, tmp_path) as at:
        await at.put(bodies)
        manifest = await _inventory(at)
        await at.put({"media/later": b"later"})
        code, lines = await at.run(f"sync --direct --prefix media/ --inventory {manifest}")
        assert (code, lines[-1]["objects"], lines[-1]["outcomes"]) == (0, 10, {"copied": 10})
        assert at.stored() == digests(bodies)
        code, lines = await at.run(f"verify --tolerance 0 --prefix media/ --inventory {manifest}")
        assert (code, lines[-1]["verdict"], lines[-1]["same"]) == (0, "clean", {"md5": 10})
        code, lines = await at.run("verify --tolerance 0 --prefix media/")
        assert (code, found(lines)) == (1, {("missing", "media/later")})
        await asyncio.to_thread(aws.s3.delete_object, Bucket=at.bucket, Key="media/0")
        await at.netstorage.delete(ROOT + "media/0")
        code, lines = await at.run(f"verify --tolerance 0 --prefix media/ --inventory {manifest}")
        assert (code, lines[-1]["verdict"], lines[-1]["settled"]) == (0, "clean", 1)


async def test_what_vanished_since_the_inventory_is_not_told_as_deleted(aws: Aws, tmp_path: Path) -> None:
    """Neither side has it when its turn comes: nothing was deleted. A file that was there is, and that is said."""
    async with site(aws, tmp_path) as at:
        await at.put({"media/here": b"1", "media/never": b"2", "media/old": b"33"})
        manifest = await _inventory(at)
        await at.netstorage.upload(f"{ROOT}media/old", b"3")
        for key in ("media/never", "media/old"):
            await asyncio.to_thread(aws.s3.delete_object, Bucket=at.bucket, Key=key)
        sync = f"sync --direct --prefix media/ --inventory {manifest}"
        code, lines = await at.run(sync)
        assert (code, lines[-1]["outcomes"]) == (0, {"copied": 1, "deleted": 1, "gone": 1})
        assert at.stored() == digests({"media/here": b"1"})
        _, out, _ = await at.say(sync)
        assert "Done here: 2 gone from both sides meanwhile; 0 B." in out


async def test_an_inventory_that_is_damaged_or_not_whole_is_refused(aws: Aws, tmp_path: Path) -> None:
    """The file is named, and what to do; nothing is copied, and nothing is called missing or extra."""
    async with site(aws, tmp_path) as at:
        await at.put({"media/1": b"1", "media/2": b"2"})
        damaged = await _inventory(at, damaged=True)
        code, out, err = await at.say(f"sync --direct --inventory {damaged}")
        assert (code, out) == (1, "")
        assert f"s3://{at.bucket}/i/data/0.csv.gz is damaged: its MD5 is" in err
        assert "inventory of another day" in err
        whole = await _inventory(at, name="j")
        await asyncio.to_thread(aws.s3.delete_object, Bucket=at.bucket, Key="j/data/1.csv.gz")
        code, lines = await at.run(f"verify --inventory {whole}")
        assert (code, lines[-1]["error"], lines[-1]["exit_code"]) == (6, "SourceCorrupt", 6)
        assert "j/data/1.csv.gz is missing" in str(lines[-1]["message"])
        other = await _inventory(at, name="k")
        await at.put({"k/manifest.checksum": b"0" * 32})
        code, lines = await at.run(f"sync --direct --inventory {other}")
        assert (code, "manifest.checksum" in str(lines[-1]["message"])) == (1, True)
        code, lines = await at.run(f"sync --direct --inventory s3://{at.bucket}/none/manifest.json")
        assert (code, "none/manifest.json is missing" in str(lines[-1]["message"])) == (1, True)
        assert at.stored() == {}


async def test_a_checksum_report_proves_what_an_etag_cannot(aws: Aws, tmp_path: Path) -> None:
    """A multipart object is then compared by MD5, unread; a report of another version of it counts for nothing."""
    async with site(aws, tmp_path) as at:
        etag = await at.put_parts("film.mov", b"film")
        report = await _report(at, "film.mov", etag, b"film", "r")
        verify = "verify --tolerance 0 --include film.mov"
        assert (await at.run("sync --direct --include film.mov"))[0] == 0
        code, lines = await at.run(f"{verify} --checksums {report}")
        assert (code, lines[-1]["same"]) == (0, {"md5": 1})
        entry = await at.netstorage.stat(ROOT + "film.mov")
        assert entry is not None
        await at.netstorage.upload(ROOT + "film.mov", b"fi1m", mtime_s=entry.mtime_s)
        assert (await at.run(verify))[0] == 0, "size and time are all that is known without the report"
        code, lines = await at.run(f"{verify} --checksums {report}")
        assert (code, found(lines)) == (1, {("different", "film.mov")})
        older = await _report(at, "film.mov", "0" * 32 + "-1", b"f1lm", "s")
        code, lines = await at.run(f"{verify} --checksums {older}")
        assert (code, lines[-1]["same"]) == (0, {"size and time": 1})


async def test_a_checksum_report_that_is_none_is_refused(aws: Aws, tmp_path: Path) -> None:
    """Damaged, or about another bucket: said so, before anything is judged by it."""
    async with site(aws, tmp_path) as at:
        etag = await at.put_parts("film.mov", b"film")
        report = await _report(at, "film.mov", etag, b"film", "r")
        await at.put({"r/results.csv": b'"damaged"\n'})
        code, _, err = await at.say(f"verify --checksums {report}")
        assert code == 6
        assert "r/results.csv" in err
        await at.put({"s/manifest.json": b"{}"})
        code, _, err = await at.say(f"verify --checksums s3://{at.bucket}/s/manifest.json")
        assert code == 6
        assert "no report's manifest" in err
        code, _, err = await at.say("verify --checksums s3://only-a-bucket")
        assert code == 2
        assert "s3://bucket/path/manifest.json" in err


async def test_a_bucket_that_is_suddenly_empty_stops_everything_but_what_was_expected(aws: Aws, tmp_path: Path) -> None:
    """Verify, repair and a narrowed look alike; --expect-empty goes on, and counts every file as extra."""
    async with site(aws, tmp_path) as at:
        await at.put({"media/1": b"1", "media/2": b"2", "other": b"3"})
        assert (await at.run("sync --direct"))[0] == 0
        for key in ("media/1", "media/2"):
            await asyncio.to_thread(aws.s3.delete_object, Bucket=at.bucket, Key=key)
        code, out, err = await at.say("verify --tolerance 0 --prefix media/")
        assert (code, out) == (6, "")
        assert f"s3://{at.bucket}/media/ lists no object" in err
        assert "--expect-empty" in err
        code, lines = await at.run("verify --tolerance 0")
        assert (code, found(lines)) == (1, {("extra", "media/1"), ("extra", "media/2")})
        code, out, _ = await at.say("verify --tolerance 0 --prefix media/ --expect-empty")
        assert code == 1
        assert "Found: 2 extra." in out


async def test_deletes_are_capped_by_number_and_by_share(aws: Aws, tmp_path: Path) -> None:
    """Beyond either none of them is deleted, and it is said by which; within both all are."""
    async with site(aws, tmp_path) as at:
        await at.put({f"k{number}": b"x" for number in range(6)})
        assert (await at.run("sync --direct"))[0] == 0
        for number in range(4):
            await at.netstorage.upload(f"{ROOT}stray{number}", b"stray")
        repair = "verify --tolerance 0 --repair --direct --delete --yes"
        for caps, name in (("--max-delete 3", "--max-delete)"), ("", "--max-delete-percent)")):
            code, out, _ = await at.say(f"{repair} {caps}")
            assert code == 1
            assert "nothing is deleted: 4 " in out
            assert name in out
            assert len(at.stored()) == 10
        code, out, _ = await at.say(f"{repair} --max-delete 4 --max-delete-percent 40")
        assert (code, len(at.stored())) == (0, 6)
        assert "to be deleted: stray0" in out
        assert "Done here: 4 deleted" in out


async def test_what_goes_to_the_trash_is_not_called_deleted(aws: Aws, tmp_path: Path) -> None:
    """In the list, the summary and the JSON: it is still there."""
    async with site(aws, tmp_path) as at:
        await at.put({"a": b"1", "b": b"2"})
        assert (await at.run("sync --direct"))[0] == 0
        await at.netstorage.upload(ROOT + "stray", b"stray")
        repair = "verify --tolerance 0 --repair --direct --delete --yes --max-delete-percent 50 --trash bin"
        code, out, _ = await at.say(repair)
        assert code == 0
        assert "to be moved to the trash: stray" in out
        assert "Done here: 1 moved to the trash" in out
        assert "deleted" not in out
        await at.netstorage.upload(ROOT + "stray", b"stray")
        code, lines = await at.run(repair)
        repaired = lines[-1]["repair"]
        assert isinstance(repaired, dict)
        assert (code, repaired["outcomes"]) == (0, {"trashed": 1})
        assert [each["trash"] for each in lines if each["type"] == "delete"] == ["bin"]


async def test_only_what_is_asked_for_is_looked_at(aws: Aws, tmp_path: Path) -> None:
    """--prefix, --include and --exclude narrow both sides; --newer-than what is copied."""
    old = {"site/a.jpg": b"1", "site/a.png": b"2", "site/tmp/b.jpg": b"3", "other/c.jpg": b"4"}
    narrowed = "--prefix site/ --include *.jpg --exclude *tmp*"
    async with site(aws, tmp_path) as at:
        await at.put(old)
        await asyncio.sleep(1.1)  # S3's times are whole seconds
        since = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        await asyncio.sleep(0.9)
        await at.put({"site/new.jpg": b"5"})
        code, out, _ = await at.say(f"sync --direct --newer-than {since}")
        assert (code, set(at.stored())) == (0, {"site/new.jpg"})
        assert "S3 lists 5 objects" in out
        assert "Left out: 4." in out
        assert (await at.run(f"sync --direct {narrowed}"))[0] == 0
        assert at.stored().keys() == {"site/new.jpg", "site/a.jpg"}
        await at.netstorage.upload(ROOT + "site/stray.png", b"stray")
        code, lines = await at.run(f"verify --tolerance 0 {narrowed}")
        assert (code, lines[-1]["objects"], lines[-1]["files"]) == (0, 2, 2)
        code, lines = await at.run("verify --tolerance 0 --prefix site/ --include *.png")
        assert (code, found(lines)) == (1, {("missing", "site/a.png"), ("extra", "site/stray.png")})
        for verb in ("verify --prefix stie/", "verify --include *.jpeg", "sync --direct --prefix stie/"):
            code, _, err = await at.say(verb)
            assert (code, "warning: nothing was compared: no key is taken" in err) == (0, True)
        code, _, err = await at.say("verify --tolerance 0 --prefix other/")
        assert (code, "nothing was compared" in err) == (1, False)
        code, _, err = await at.say("sync --direct --newer-than yesterday")
        assert (code, "36h" in err) == (2, True)


async def test_a_dry_run_says_what_it_would_do_and_does_nothing(aws: Aws, tmp_path: Path) -> None:
    """Each key is named; no queue and no store is touched, and a state file is neither read nor written."""
    async with site(aws, tmp_path) as at:
        await at.put({"a": b"1", "b": b"2"})
        code, out, _ = await at.say(f"sync --dry-run --state {tmp_path}/state")
        assert (code, at.depth("bulk"), at.stored()) == (0, 0, {})
        assert out.startswith("to be copied: a\nto be copied: b\n")
        assert "2 to be copied, 2 B, in " in out
        assert not (tmp_path / "state").exists()
        code, out, _ = await at.say("verify --tolerance 0 --repair --dry-run")
        assert (code, at.depth("bulk")) == (1, 0)
        assert "For repair would be sent: 2 missing." in out


async def test_a_resumed_sync_says_so_and_from_where(aws: Aws, tmp_path: Path) -> None:
    """And what it then counts is the rest alone; a stop says how to go on, and a state that is no use stops it."""
    bodies = {f"k/{number:04}": b"" for number in range(300)}
    async with site(aws, tmp_path) as at:
        await at.put(bodies)
        verb = f"sync --state {tmp_path}/state"
        process = at.start(f"{verb} --rate 30")
        while at.depth("bulk") < 110:
            assert process.popen.poll() is None, process.text
            await asyncio.sleep(0.05)
        process.popen.send_signal(2)
        assert await asyncio.to_thread(process.wait) == 130
        summary = json.loads(process.out[-1])
        assert (summary["complete"], summary["resumed"]) == (False, False)
        after = next(iter(json.loads((tmp_path / "state").read_text())["after"].values()))
        code, _, err = await at.say(f"{verb} --prefix k/0")
        assert (code, "state of another sync, with no choice of keys" in err) == (2, True)
        code, out, _ = await at.say(verb)
        assert code == 0
        assert out.startswith(f"Going on with an earlier run, by {tmp_path}/state: after s3://{at.bucket}/{after}\n")
        assert "after those of the earlier run" in out
        assert at.depth("bulk") == len(bodies)
        code, _, err = await at.say(f"sync --state {tmp_path}/no/folder/state")
        assert (code, "cannot be written" in err, at.depth("bulk")) == (2, True, len(bodies))


async def test_times_in_a_csv_file_are_times(aws: Aws, tmp_path: Path) -> None:
    """A spreadsheet shows 2026-01-31T12:00:00Z, not ten digits."""
    async with site(aws, tmp_path) as at:
        await at.put({"a": b"1"})
        before_s = time.time()
        assert (await at.say(f"verify --tolerance 0 --csv {tmp_path}/found.csv"))[0] == 1
        with (tmp_path / "found.csv").open(newline="", encoding="utf-8") as file:
            (row,) = csv.DictReader(file)
        written = datetime.fromisoformat(row["s3_mtime"])
        assert written.tzinfo is not None
        assert abs(written.timestamp() - before_s) < 600
        assert row["ns_mtime"] == ""
