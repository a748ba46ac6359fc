"""The NetStorage command line, run against the emulator: what it does, prints, and exits with."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from s3nsync.cli.by_hand import advise
from s3nsync.cli.ns import app
from s3nsync.cli.ns.access import Access
from s3nsync.cli.ns.transfers import _chunks
from s3nsync.emulator import Emulator, Fault, running
from s3nsync.errors import (
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    S3nsyncError,
    Stalled,
    TargetClock,
    TargetConflict,
    TargetCredentials,
    TargetMissing,
    TargetPrecondition,
    TargetRefused,
    TargetUnavailable,
    TlsRefused,
)
from s3nsync.figures import printable

KEY = "the-s3cret-key"
MTIME_S = 1_700_000_000


@dataclass(slots=True)
class Shell:
    """Runs `ns` verbs with the right environment."""

    emulator: Emulator
    env: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Name the emulator in the environment."""
        self.env = {
            "NS_HOSTNAME": f"127.0.0.1:{self.emulator.port}",
            "NS_USER": "user",
            "NS_KEY": KEY,
            "NS_INSECURE_HTTP": "1",
            "NS_SECRET": "",
            "NS_CA_FILE": "",
        }

    def __call__(self, *args: str, exit_code: int = 0, stdin: bytes | None = None) -> Result:
        """Run one verb and check its exit code; no key and no traceback may ever show."""
        result = CliRunner().invoke(app, args, env=self.env, input=stdin)
        assert result.exit_code == exit_code, result.output
        assert KEY not in result.output
        assert "Traceback" not in result.output
        return result

    def json(self, *args: str) -> list[dict[str, object]]:
        """Run one verb with --json and read its lines."""
        return [json.loads(line) for line in self(*args, "--json").stdout.splitlines()]

    @property
    def paths(self) -> list[str]:
        """Give the paths of all files stored."""
        return sorted(self.emulator.snapshot())


@pytest.fixture(params=["objectstore", "filestore"])
def ns(request: pytest.FixtureRequest) -> Iterator[Shell]:
    """Give a shell on an empty NetStorage, of each personality."""
    with running(
        Emulator(accounts={"user": KEY}, personality=request.param, page_cap=3, quick_delete=True)
    ) as emulator:
        yield Shell(emulator)


@pytest.fixture
def local_file(tmp_path: Path) -> Path:
    """Give a local file with a known time."""
    return written(tmp_path / "hello é.txt", b"hello")


def written(file: Path, data: bytes) -> Path:
    """Write a local file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    os.utime(file, (MTIME_S, MTIME_S))
    return file


# --- put and get -----------------------------------------------------------------------------------------------


def test_put_sends_a_file_with_all_that_proves_it(ns: Shell, local_file: Path) -> None:
    """Bytes and modification time arrive; after a final slash the local name is kept."""
    assert ns.json("put", str(local_file), "/123456/d/") == [{"path": "/123456/d/hello é.txt", "size_bytes": 5}]
    stored = ns.emulator.snapshot()["/123456/d/hello é.txt"]
    assert (stored.read(), stored.mtime_s) == (b"hello", MTIME_S)


@contextlib.contextmanager
def recorder(seen: list[str]) -> Iterator[int]:
    """Run a server that says 200 to every PUT and notes its Action header; yields its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            seen.append(self.headers["X-Akamai-ACS-Action"])
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def test_put_declares_size_digest_and_time(ns: Shell, local_file: Path) -> None:
    """So the server can refuse what was damaged on its way."""
    seen: list[str] = []
    with recorder(seen) as port:
        ns.env["NS_HOSTNAME"] = f"127.0.0.1:{port}"
        ns("put", str(local_file), "/123456/a")
    sha256 = hashlib.sha256(b"hello").hexdigest()
    assert seen == [f"version=1&action=upload&sha256={sha256}&mtime={MTIME_S}&size=5"]


async def test_a_file_that_changes_while_it_is_sent_keeps_its_announced_size(tmp_path: Path) -> None:
    """What has grown is cut, so that the digest decides; what has shrunk is an error, never a clean end."""
    file = written(tmp_path / "a", bytes(700_000))
    with file.open("rb") as opened:
        sent = [len(chunk) async for chunk in _chunks(opened, 600_000, lambda _: None)]
        assert sum(sent) == 600_000
        opened.seek(0)
        with pytest.raises(S3nsyncError, match="shorter"):
            _ = [chunk async for chunk in _chunks(opened, 700_001, lambda _: None)]


def test_put_sends_stdin_of_unknown_size(ns: Shell) -> None:
    """The digest follows in the trailers."""
    data = os.urandom(700_000)
    assert ns("put", "-", "/123456/a", stdin=data).stdout == ""
    assert ns.emulator.snapshot()["/123456/a"].read() == data


def test_put_sends_a_whole_directory(ns: Shell, tmp_path: Path) -> None:
    """Every file keeps its place below the target."""
    for name in ("a", "b/c d", "b/é/ü", "b/+%25"):
        written(tmp_path / "tree" / name, name.encode())
    ns("put", str(tmp_path / "tree"), "/123456/t")
    assert ns.paths == sorted(f"/123456/t/{name}" for name in ("a", "b/c d", "b/é/ü", "b/+%25"))
    ns("put", str(tmp_path / "tree"), "/123456/into/")
    assert "/123456/into/tree/a" in ns.paths


def test_one_bad_file_does_not_stop_the_others(ns: Shell, tmp_path: Path) -> None:
    """It is named, counted, and the exit code tells."""
    for name in ("a", "b", "c"):
        written(tmp_path / "tree" / name, b"x")
    (tmp_path / "tree" / "broken").symlink_to("nowhere")
    ns.emulator.inject(Fault(kind="status", path="*/b", status=400))
    result = ns("put", str(tmp_path / "tree"), "/123456/t", exit_code=1)
    assert ns.paths == ["/123456/t/a", "/123456/t/c"]
    assert "/123456/t/b: NetStorage answered 400" in result.stderr
    assert "broken" in result.stderr
    assert "2 failed" in result.stderr


def test_a_fault_of_the_account_stops_a_directory(ns: Shell, tmp_path: Path) -> None:
    """All the others would fail alike."""
    for n in range(40):
        written(tmp_path / "tree" / str(n), b"x")
    ns.env["NS_KEY"] = "wrong"
    result = ns("put", str(tmp_path / "tree"), "/123456/t", "--jobs", "2", exit_code=3)
    assert result.stderr.count("answered 403") <= 4


def test_get_brings_back_bytes_and_time(ns: Shell, local_file: Path, tmp_path: Path) -> None:
    """What comes back is what was sent, under its own name in a directory or under a new one."""
    ns("put", str(local_file), "/123456/d/")
    (tmp_path / "out").mkdir()
    ns("get", "/123456/d/hello é.txt", str(tmp_path / "out"))
    [printed] = ns.json("get", "/123456/d/hello é.txt", str(tmp_path / "new"))
    for file in (tmp_path / "out" / "hello é.txt", tmp_path / "new"):
        assert (file.read_bytes(), int(file.stat().st_mtime)) == (b"hello", MTIME_S)
    assert printed["md5"] == hashlib.md5(b"hello", usedforsecurity=False).hexdigest()
    assert ns("get", "/123456/d/hello é.txt", "-").stdout == "hello"
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["hello é.txt"]


def test_get_goes_on_where_it_was_cut(ns: Shell, tmp_path: Path) -> None:
    """Only the rest is asked for; a part that is of another file is found out by its MD5 and thrown away."""
    ns("put", "-", "/123456/a", stdin=b"0123456789")
    written(tmp_path / ".a.part", b"01234")
    ns("get", "/123456/a", str(tmp_path / "a"), "--resume")
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    assert [request.status for request in ns.emulator.requests if request.action == "download"] == [206]
    written(tmp_path / ".b.part", b"wrong")
    result = ns("get", "/123456/a", str(tmp_path / "b"), "--resume", exit_code=1)
    assert "run it again" in result.stderr
    assert not (tmp_path / "b").exists()
    ns("get", "/123456/a", str(tmp_path / "b"), "--resume")
    assert (tmp_path / "b").read_bytes() == b"0123456789"


def test_get_of_a_complete_part_asks_for_nothing(ns: Shell, tmp_path: Path) -> None:
    """It is only proven and renamed."""
    ns("put", "-", "/123456/a", stdin=b"0123456789")
    written(tmp_path / ".a.part", b"0123456789")
    ns("get", "/123456/a", str(tmp_path / "a"), "--resume")
    assert (tmp_path / "a").read_bytes() == b"0123456789"
    assert [request.action for request in ns.emulator.requests].count("download") == 0


def test_get_leaves_nothing_half_done_under_the_final_name(ns: Shell, tmp_path: Path) -> None:
    """Missing files and directories are named as such; an old local copy stays."""
    ns("put", "-", "/123456/d/a", stdin=b"abc")
    old = written(tmp_path / "a", b"old")
    ns("get", "/123456/x", str(old), exit_code=4)
    assert "is a directory" in ns("get", "/123456/d", str(old), exit_code=1).stderr
    assert old.read_bytes() == b"old"


def test_put_with_a_clock_that_is_off_sends_the_file_once_more(ns: Shell, tmp_path: Path) -> None:
    """A file is read again, in a directory too; before stdin is read the server's time is known."""
    for name in ("a", "b/c"):
        written(tmp_path / "tree" / name, name.encode() * 200_000)
    with running(Emulator(accounts={"user": KEY}, now_s=lambda: time.time() + 500)) as emulator:
        other = Shell(emulator)
        other("put", str(tmp_path / "tree" / "a"), "/123456/f")
        other("put", str(tmp_path / "tree"), "/123456/t")
        other("put", "-", "/123456/s", stdin=b"once")
        sizes = {path: len(file.read()) for path, file in emulator.snapshot().items()}
    assert sizes == {"/123456/f": 200_000, "/123456/t/a": 200_000, "/123456/t/b/c": 600_000, "/123456/s": 4}
    ns.emulator.inject(Fault(kind="status", action="upload", status=403))
    ns("put", str(tmp_path / "tree" / "a"), "/123456/f", exit_code=3)
    assert [request.status for request in ns.emulator.requests] == [403]


def test_put_says_what_it_leaves_out(ns: Shell, tmp_path: Path) -> None:
    """Empty directories and symlinks to directories: one line each on stderr, also with --json."""
    tree = tmp_path / "tree"
    written(tree / "real" / "a", b"x")
    (tree / "empty").mkdir()
    (tree / "link").symlink_to(tree / "real")
    for options in ((), ("--json",)):
        result = ns("put", str(tree), "/123456/t", *options)
        lines = result.stderr.splitlines()
        assert len(lines) == 2
        assert any(line.startswith(f"skipped {tree}/empty: an empty directory") for line in lines)
        assert any(line.startswith(f"skipped {tree}/link: a symlink to a directory") for line in lines)
    assert ns.paths == ["/123456/t/real/a"]


def test_put_of_a_dangling_symlink_is_a_clear_error(ns: Shell, tmp_path: Path) -> None:
    """It and its target are named; a pipe is refused too, where opening it would wait for ever."""
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "broken").symlink_to("nowhere")
    os.mkfifo(tmp_path / "tree" / "pipe")
    for local in ("tree", "tree/broken"):
        result = ns("put", str(tmp_path / local), "/123456/t", exit_code=1)
        assert "broken: it is a symlink to nowhere, and there is nothing" in result.stderr
    assert "`put -` sends" in ns("put", str(tmp_path / "tree" / "pipe"), "/123456/t", exit_code=1).stderr
    assert ns.paths == []


def test_put_of_a_directory_that_may_not_be_read_fails(ns: Shell, tmp_path: Path) -> None:
    """It is not passed over in silence, and does not stop the others."""
    written(tmp_path / "tree" / "a", b"x")
    written(tmp_path / "tree" / "shut" / "b", b"x")
    (tmp_path / "tree" / "shut").chmod(0)
    try:
        if os.access(tmp_path / "tree" / "shut", os.R_OK):
            pytest.skip("this user may read everything")
        result = ns("put", str(tmp_path / "tree"), "/123456/t", exit_code=1)
    finally:
        (tmp_path / "tree" / "shut").chmod(0o700)
    assert "tree/shut" in result.stderr
    assert ns.paths == ["/123456/t/a"]


def test_names_with_an_empty_part_are_listed_and_fetched(ns: Shell, tmp_path: Path) -> None:
    """Tree ends, with the child without a name shown once; get asks for every slash it was given."""
    ns("put", "-", "/123456//x//z", stdin=b"abc")
    ns("put", "-", "/123456/d/b", stdin=b"abc")
    assert sorted(ns("tree", "/123456").stdout.splitlines()) == ["  b", "/", "d/"]
    assert sorted(ns("tree", "/123456//").stdout.splitlines()) == ["  /", "x/"]
    ns("get", "/123456//x//z", str(tmp_path))
    assert (tmp_path / "z").read_bytes() == b"abc"
    assert ns.json("stat", "/123456//x//z")[0]["path"] == "/123456//x//z"


# --- looking ---------------------------------------------------------------------------------------------------


@pytest.fixture
def full(ns: Shell) -> Shell:
    """Fill NetStorage with a small tree."""
    for name in ("a", "d/b", "d/e/c", "d/e/f\udcff"):
        ns("put", "-", f"/123456/{name}", stdin=name.encode("utf-8", "surrogateescape"))
    return ns


def test_ls_shows_a_directory_or_a_file(full: Shell) -> None:
    """Directories end in a slash; sizes and times are for people, JSON for programs."""
    lines = sorted(full("ls", "/123456").stdout.splitlines(), key=lambda line: line[-2:])
    assert [line.split()[-1] for line in lines] == ["a", "d/"]
    assert lines[0].startswith("       1 B  2")
    assert full("ls", "/123456/a").stdout.rstrip().endswith("Z  a")
    assert [entry["path"] for entry in full.json("ls", "/123456/d/b")] == ["/123456/d/b"]
    full("ls", "/123456/nothing", exit_code=4)


def test_names_that_are_no_text_are_shown_escaped_and_survive_json(full: Shell) -> None:
    """A terminal gets an escape, a program the exact bytes."""
    assert "f\\udcff" in full("ls", "/123456/d/e").stdout
    names = {str(entry["path"]) for entry in full.json("ls", "/123456/d/e")}
    assert names == {"/123456/d/e/c", "/123456/d/e/f\udcff"}
    assert printable("a\x1b[31m") == "a\\x1b[31m"


def test_tree_shows_everything_below(full: Shell) -> None:
    """Indented by depth, or flat in JSON; the depth can be bounded."""
    assert sorted(full("tree", "/123456").stdout.splitlines()) == sorted(
        ["a", "d/", "  b", "  e/", "    c", "    f\\udcff"]
    )
    assert sorted(full("tree", "/123456", "--depth", "2").stdout.splitlines()) == sorted(["a", "d/", "  b", "  e/"])
    assert len(full.json("tree", "/123456")) == 6


def test_stat_shows_one_path(full: Shell) -> None:
    """Files with size and MD5, directories even when implicit, nothing as exit code 4."""
    text = full("stat", "/123456/d/b").stdout
    assert "size    3 B\n" in text
    assert hashlib.md5(b"d/b", usedforsecurity=False).hexdigest() in text
    assert full.json("stat", "/123456/d")[0]["type"] == "dir"
    assert "nothing at this path" in full("stat", "/123456/x", exit_code=4).stderr


def test_du_adds_up(full: Shell) -> None:
    """Both figures, for people and programs."""
    [usage] = full.json("du", "/123456/d")
    assert usage["total_bytes"] == 3 + 5 + 6
    assert "14 B in" in full("du", "/123456/d").stdout


def test_du_of_a_file_is_its_size(full: Shell) -> None:
    """One file, and what it holds; nothing there is exit code 4."""
    assert full.json("du", "/123456/d/b") == [{"path": "/123456/d/b", "files": 1, "total_bytes": 3}]
    assert full("du", "/123456/d/b").stdout == "3 B in 1 file  /123456/d/b\n"
    full("du", "/123456/nothing", exit_code=4)


# --- changing --------------------------------------------------------------------------------------------------


def test_rm_removes_a_file_once(full: Shell) -> None:
    """The second time there is nothing."""
    full("rm", "/123456/a")
    assert "/123456/a" not in full.paths
    full("rm", "/123456/a", exit_code=4)


def on_a_terminal(shell: Shell, answer: bytes, *args: str) -> tuple[int, str]:
    """Run one verb with a terminal as its stdin, on which `answer` is typed; give exit code and stderr."""
    ours, its = pty.openpty()
    try:
        os.write(ours, answer)
        command = [sys.executable, "-c", "from s3nsync.cli.ns import app; app()", *args]
        done = subprocess.run(
            command, env=os.environ | shell.env, stdin=its, capture_output=True, timeout=120, check=False
        )
    finally:
        os.close(ours)
        os.close(its)
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stderr.decode()


def test_rm_of_a_tree_asks_first_and_says_how_much_it_is(full: Shell) -> None:
    """`n` and an end of input change nothing; siblings of the same prefix stay."""
    full("put", "-", "/123456/d-2", stdin=b"x")
    for answer in (b"n\n", b"\x04"):
        code, said = on_a_terminal(full, answer, "rm", "-r", "/123456/d")
        assert code == 1
        assert "Remove 14 B in" in said
        assert "nothing was removed" in said
    assert len(full.paths) == 5
    assert on_a_terminal(full, b"y\n", "rm", "-r", "/123456/d")[0] == 0
    assert full.paths == ["/123456/a", "/123456/d-2"]
    assert on_a_terminal(full, b"y\n", "rm", "-r", "/123456/d")[0] == 4
    full("mkdir", "/123456/empty")
    assert on_a_terminal(full, b"y\n", "rm", "-r", "/123456/empty")[0] == 0


def test_rm_of_a_tree_without_a_terminal_needs_yes(full: Shell) -> None:
    """It is refused as wrong usage, and nothing is sent; with --yes it is done."""
    before = len(full.emulator.requests)
    assert "--yes" in full("rm", "-r", "/123456/d", exit_code=2, stdin=b"y\n").stderr
    assert len(full.emulator.requests) == before
    full("rm", "-r", "--yes", "/123456/d")
    assert full.paths == ["/123456/a"]
    full("stat", "/123456/d", exit_code=4)
    full("rm", "-r", "--yes", "/123456/d", exit_code=4)


def test_rm_of_a_tree_does_not_take_two_slashes_for_one(full: Shell) -> None:
    """`/123456//` is a directory without a name, and must not empty the whole CP code."""
    assert "more than one /" in full("rm", "-ry", "/123456//", exit_code=2).stderr
    assert len(full.paths) == 4


def test_rm_of_a_tree_with_an_empty_part_removes_or_tells() -> None:
    """Where there is a list all of it goes; where one must walk, what is out of reach stays and is told."""
    with running(Emulator(accounts={"user": KEY})) as emulator:
        listed = Shell(emulator)
        listed("put", "-", "/123456/t//x//z", stdin=b"abc")
        listed("rm", "-ry", "/123456/t")
        assert listed.paths == []
    with running(Emulator(accounts={"user": KEY}, personality="filestore")) as emulator:
        walked = Shell(emulator)
        walked("put", "-", "/123456/t//x//z", stdin=b"abc")
        walked("put", "-", "/123456/t/a", stdin=b"abc")
        assert "must be empty" in walked("rm", "-ry", "/123456/t", exit_code=1).stderr
        assert walked.paths == ["/123456/t//x//z"]


def test_rm_of_a_directory_without_r_says_so(full: Shell) -> None:
    """Implicit or made, it is refused with the option that is missing."""
    full("mkdir", "/123456/made")
    for path in ("/123456/d", "/123456/made"):
        result = full("rm", path, exit_code=1)
        assert "it is a directory" in result.stderr
        assert "hint: -r " in result.stderr
    assert len(full.paths) == 4


def test_rm_of_a_tree_takes_explicit_directories_and_single_files_too(full: Shell) -> None:
    """Empty directories below go as well, and a path that is a file is just removed."""
    full("mkdir", "-p", "/123456/d/x/y")
    full("rm", "-ry", "/123456/d")
    full("rm", "-ry", "/123456/a")
    assert full.paths == []
    full("stat", "/123456/d/x", exit_code=4)
    full("mkdir", "/123456/empty")
    full("rm", "-ry", "/123456/empty")
    full("stat", "/123456/empty", exit_code=4)


def test_rm_of_a_whole_cp_code_leaves_the_cp_code(full: Shell) -> None:
    """Its root cannot be removed and is not tried."""
    full("rm", "-ry", "/123456")
    assert full.paths == []
    assert "/123456" not in {r.path for r in full.emulator.requests if r.action in {"rmdir", "delete"}}


def test_quick_delete_needs_its_path_twice(full: Shell) -> None:
    """A wrong confirmation is a usage error and sends nothing."""
    full("rm", "--quick", "/123456/d", exit_code=2)
    full("rm", "--quick", "/123456/d", "--confirm", "/123456/D", exit_code=2)
    assert [r for r in full.emulator.requests if r.action == "quick-delete"] == []
    full("rm", "--quick", "/123456/d", "--confirm", "/123456/d")
    assert [r.status for r in full.emulator.requests if r.action == "quick-delete"] == [200]


def test_mkdir_makes_parents_if_asked(ns: Shell) -> None:
    """Twice is fine; FileStore alone insists on parents."""
    ns("mkdir", "-p", "/123456/x/y/z")
    ns("mkdir", "-p", "/123456/x/y/z")
    assert ns.json("stat", "/123456/x/y/z")[0]["type"] == "dir"


def test_mv_moves_a_file(full: Shell) -> None:
    """After a final slash the name is kept; a missing source is exit code 4."""
    full("mv", "/123456/a", "/123456/d/")
    full("mv", "/123456/d/b", "/123456/d/b2")
    assert {"/123456/d/a", "/123456/d/b2"} < set(full.paths)
    full("mv", "/123456/a", "/123456/b", exit_code=4)


def test_mv_says_what_is_in_its_way(full: Shell) -> None:
    """Another CP code is wrong usage, and sends nothing; a file at the destination is named as the obstacle."""
    before = len(full.emulator.requests)
    assert "one CP code" in full("mv", "/123456/a", "/777/a", exit_code=2).stderr
    assert len(full.emulator.requests) == before
    assert "`rm` it first" in full("mv", "/123456/a", "/123456/d/b", exit_code=1).stderr


# --- settings and errors ---------------------------------------------------------------------------------------


def test_credentials_come_from_one_secret_or_from_three_names() -> None:
    """Either will do, or both if they agree; the key shows in no repr."""
    secret = json.dumps({"NS_HOSTNAME": "h", "NS_USER": "u", "NS_KEY": KEY})
    assert Access.from_environment({"NS_SECRET": secret}) == Access("h", "u", KEY)
    assert Access.from_environment({"NS_SECRET": secret, "NS_USER": "u", "NS_KEY": ""}) == Access("h", "u", KEY)
    assert KEY not in repr(Access("h", "u", KEY))
    loopback = {"NS_SECRET": secret, "NS_CA_FILE": "ca.pem", "NS_INSECURE_HTTP": "1"}
    assert Access.from_environment(loopback) == Access("h", "u", KEY, "ca.pem", insecure_http=True)
    assert not Access.from_environment({"NS_SECRET": secret, "NS_INSECURE_HTTP": "0"}).insecure_http


@pytest.mark.parametrize("name", ["NS_HOSTNAME", "NS_USER", "NS_KEY"])
def test_a_secret_and_a_name_that_say_different_things_are_refused(name: str) -> None:
    """Both are named, the values are not."""
    secret = json.dumps({"NS_HOSTNAME": "h-s3cret", "NS_USER": "u-s3cret", "NS_KEY": KEY, "HOME": "/"})
    with pytest.raises(ConfigError, match=f"NS_SECRET and {name}: say different things") as caught:
        Access.from_environment({"NS_SECRET": secret, name: "other-s3cret", "HOME": "/root"})
    assert "s3cret" not in caught.value.message + caught.value.hint


TWO_ACCOUNTS = """
region = "eu-central-1"

[accounts.media]
host = "{host}"
user = "user"
key = "{key}"
insecure_http = true

[accounts.software]
host = "{host}"
user = "nobody"
key = "{key}"
insecure_http = true

[[routes]]
bucket = "media"
cpcode = "123456"
account = "media"

[[routes]]
bucket = "soft"
cpcode = "777"
account = "software"
"""


@pytest.fixture
def settled(ns: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """Give a shell without NS_ variables, in a directory with a settings file."""
    text = TWO_ACCOUNTS.format(host=ns.env["NS_HOSTNAME"], key=KEY)
    (tmp_path / "s3nsync.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    ns.env = dict.fromkeys(ns.env, "")
    return ns


def test_ns_uses_the_settings_file_and_the_account_of_the_cp_code(settled: Shell, local_file: Path) -> None:
    """As every other verb does: the one in the working directory; routes say which account a CP code is of."""
    settled("put", str(local_file), "/123456/a")
    assert settled.paths == ["/123456/a"]
    file = Path("s3nsync.toml")
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace('account = "media"', 'account = "software"'), encoding="utf-8")
    settled("ls", "/123456", exit_code=3)  # as somebody whom the store does not know


def test_an_account_may_be_named(settled: Shell) -> None:
    """Whatever the routes say; a name that is none is told with those there are."""
    settled("mkdir", "/123456/d", "--account", "media")
    settled("ls", "/123456", "--account", "software", exit_code=3)
    assert "media, software" in settled("ls", "/123456", "--account", "sofware", exit_code=2).stderr


def test_a_cp_code_of_no_route_needs_a_name_where_there_are_several_accounts(settled: Shell) -> None:
    """Nothing is sent to the wrong one by mistake."""
    result = settled("ls", "/999", exit_code=2)
    assert "media, software" in result.stderr
    assert "--account NAME" in result.stderr
    assert settled.emulator.requests == []


def test_a_settings_file_may_be_named(settled: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By --config or S3NSYNC_CONFIG; one that is not there is wrong usage."""
    file = str((tmp_path / "s3nsync.toml").rename(tmp_path / "other.toml"))
    assert "no credentials" in settled("du", "/123456", exit_code=2).stderr
    settled("mkdir", "/123456/d", "--config", file)
    settled("ls", "/123456", "--config", "none.toml", exit_code=2)
    monkeypatch.setenv("S3NSYNC_CONFIG", file)
    settled("mkdir", "/123456/e")


def test_ns_variables_win_over_the_file_and_fill_it_in(settled: Shell, tmp_path: Path) -> None:
    """A key that is better kept out of files may come by the environment alone."""
    whole = {"NS_HOSTNAME": "127.0.0.1:1", "NS_USER": "user", "NS_KEY": KEY, "NS_INSECURE_HTTP": "1"}
    settled.env |= whole
    assert "127.0.0.1:1" in settled("ls", "/123456", exit_code=3).stderr
    settled("mkdir", "/123456/d", "--account", "media")
    settled.env |= dict.fromkeys(whole, "") | {"NS_KEY": KEY}
    file = tmp_path / "s3nsync.toml"
    one = file.read_text(encoding="utf-8").split("[accounts.software]")[0].replace("accounts.media", "accounts.default")
    text = one.replace(f'key = "{KEY}"', "") + '[[routes]]\nbucket = "media"\ncpcode = "123456"\n'
    file.write_text(text, encoding="utf-8")
    settled("mkdir", "/123456/e")


def test_plain_http_beyond_loopback_is_wrong_usage(ns: Shell) -> None:
    """The host is named, nothing is sent."""
    ns.env["NS_HOSTNAME"] = "example-nsu.akamaihd.net"
    assert "example-nsu.akamaihd.net" in ns("ls", "/123456", exit_code=2).stderr


@pytest.mark.parametrize(
    ("path", "hint"),
    [
        ("123456/up", "the CP code: /123456/up"),
        ("up", "such as /123456/directory/file"),
        ("", "such as /123456/directory/file"),
        ("/", "begin with a CP code"),
        ("//", "begin with a CP code"),
        ("/../y", "without . and .."),
        ("/123456/./y", "without . and .."),
    ],
)
def test_a_path_that_is_none_is_wrong_usage(ns: Shell, local_file: Path, path: str, hint: str) -> None:
    """Every verb says so with exit code 2, before anything is sent."""
    verbs = [["ls"], ["tree"], ["stat"], ["du"], ["get"], ["rm"], ["rm", "-ry"], ["mkdir", "-p"]]
    for verb in (*verbs, ["put", str(local_file)], ["mv", "/123456/a"]):
        assert hint in " ".join(ns(*verb, path, exit_code=2).stderr.split())
    assert ns.emulator.requests == []


def test_put_to_no_file_name_is_wrong_usage(ns: Shell, local_file: Path) -> None:
    """A CP code is no file, and stdin has no name to keep."""
    assert "/123456/ keeps" in ns("put", str(local_file), "/123456", exit_code=2).stderr
    assert "no name" in ns("put", "-", "/123456/", stdin=b"x", exit_code=2).stderr
    assert ns.emulator.requests == []


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (ConnectionLost("m", sent=True), "run it again"),
        (Stalled("m", sent=True), "run it again"),
        (TlsRefused("m"), "NS_CA_FILE"),
        (TargetPrecondition("m"), "run it again"),
        (TargetUnavailable("m", status=429), "--jobs"),
        (TargetUnavailable("m", status=504, ambiguous=True), "may have been stored"),
        (TargetClock("m"), "NTP"),
        (TargetConflict("m"), "`ls`"),
        (TargetConflict("m", hint="special"), "special"),
    ],
)
def test_advice_is_for_a_person(error: S3nsyncError, hint: str) -> None:
    """Nothing is tried again by itself here, and there is no S3 and no max_in_flight."""
    advise(error)
    assert hint in error.hint
    assert not any(word in error.hint for word in ("by itself", "S3", "max_in_flight", "object is read"))


def test_a_write_in_doubt_says_that_it_may_have_been_stored(ns: Shell, local_file: Path) -> None:
    """The answer to an upload was lost, alone or as one of many."""
    ns.emulator.inject(Fault(kind="lost-answer", action="upload"))
    for local in (local_file, local_file.parent):
        result = ns("put", str(local), "/123456/a", exit_code=1)
        assert "hint: run it again; what was sent may have been stored" in result.stderr


def test_a_missing_directory_is_explained(ns: Shell) -> None:
    """On ObjectStore it goes with its last file."""
    for verb in ("ls", "tree", "du"):
        assert "only while files lie below" in ns(verb, "/123456/none", exit_code=4).stderr


def test_quick_delete_that_is_not_enabled_is_explained() -> None:
    """The 403 need not be about the key."""
    with running(Emulator(accounts={"user": KEY})) as emulator:
        result = Shell(emulator)("rm", "--quick", "/123456/d", "--confirm", "/123456/d", exit_code=3)
    assert "Akamai must have enabled quick-delete" in result.stderr
    assert "rm -r" in result.stderr


def test_places_for_values_are_named_alike_in_help(ns: Shell) -> None:
    """PATH, LOCAL, FROM, TO and N; no option shows a type of the program."""
    usages = {verb: ns(verb, "--help").stdout for verb in ("get", "put", "rm", "mv", "tree")}
    for verb, names in {
        "get": "PATH LOCAL",
        "put": "LOCAL PATH N",
        "rm": "PATH N",
        "mv": "FROM TO",
        "tree": "N",
    }.items():
        words = usages[verb].replace("{", " ").replace("}", " ").replace("[", " ").replace("]", " ").split()
        assert set(names.split()) <= set(words)
    assert not any("int" in text.split() or "<int" in text or "INTEGER" in text for text in usages.values())


@pytest.mark.parametrize("secret", ["", "{", "[]", '"x"', '{"NS_KEY": 5}', '{"NS_KEY": "the-s3cret-key"}'])
def test_unusable_credentials_are_a_config_error_that_quotes_nothing(secret: str) -> None:
    """The message names the variables, never their content."""
    with pytest.raises(ConfigError, match="NS_") as caught:
        Access.from_environment({"NS_SECRET": secret})
    assert "s3cret" not in caught.value.message + caught.value.hint


def test_exit_codes_tell_what_kind_of_failure(ns: Shell) -> None:
    """2 settings, 3 connection or credentials, 4 nothing there, 1 all else."""
    ns.env["NS_KEY"] = "wrong"
    assert "hint: check NS_HOSTNAME" in ns("ls", "/123456", exit_code=3).stderr
    ns.env["NS_KEY"] = KEY
    ns.env["NS_HOSTNAME"] = "127.0.0.1:1"
    ns("ls", "/123456", exit_code=3)
    ns.env["NS_HOSTNAME"] = "https://127.0.0.1"
    ns("ls", "/123456", exit_code=2)
    ns("ls", exit_code=2)
    codes = [
        kind("m").exit_code for kind in (ConfigError, ConnectFailed, TargetCredentials, TargetMissing, TargetRefused)
    ]
    assert codes == [2, 3, 3, 4, 1]


def test_a_local_fault_is_one_clear_line(ns: Shell, tmp_path: Path) -> None:
    """Files that cannot be read are named, without a traceback."""
    for name in ("missing", "missing" * 100):
        result = ns("put", str(tmp_path / name), "/123456/a", exit_code=1)
        assert result.stderr.startswith("error: ")
        assert "missing" in result.stderr


def test_every_verb_explains_itself(ns: Shell) -> None:
    """Help is there for all nine."""
    text = ns("--help").stdout
    for verb in ("ls", "tree", "stat", "get", "put", "rm", "mkdir", "mv", "du"):
        assert f" {verb} " in text
        ns(verb, "--help")
