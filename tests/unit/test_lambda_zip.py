"""The Lambda archive: the same bytes everywhere, only what must travel, importable alone."""

from __future__ import annotations

import ast
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import boto3
import pytest

from s3nsync import lambda_zip

SOURCE = Path(lambda_zip.__file__).parent


def run_plain(
    *arguments: str, python: str = sys.executable, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the module as a plain file, with nothing installed, as Terraform does on a bare machine.

    Its own directory leads the module search path then, so this also shows that no module of ours hides one it needs.
    """
    command = [python, "-S", str(SOURCE / "lambda_zip.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=cwd, check=False)


def test_the_archive_holds_only_what_travels(tmp_path: Path) -> None:
    """Six modules, plain readable files, stored; the figures told are the file's own; well under 200 kB."""
    built = lambda_zip.build(tmp_path / "new" / "lambda.zip")
    content = built.path.read_bytes()
    assert (built.sha256, built.size_bytes) == (hashlib.sha256(content).hexdigest(), len(content))
    assert built.size_bytes < 200_000
    with zipfile.ZipFile(built.path) as archive:
        assert archive.namelist() == [
            *("s3nsync/__init__.py", "s3nsync/errors.py", "s3nsync/events.py"),
            *("s3nsync/intake.py", "s3nsync/mapping.py", "s3nsync/model.py"),
        ]
        assert {each.external_attr >> 16 for each in archive.infolist()} == {0o100644}
        assert {(each.create_system, each.compress_type) for each in archive.infolist()} == {(3, zipfile.ZIP_STORED)}
        assert {each.date_time for each in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.testzip() is None


def test_building_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    """Neither time, place nor the sources' own times and modes show in the archive."""
    first = lambda_zip.build(tmp_path / "a.zip")
    second = lambda_zip.build(tmp_path / "b.zip")
    assert first.path.read_bytes() == second.path.read_bytes()


def pythons() -> list[str]:
    """Find this machine's Pythons that the project supports."""
    return [sys.executable, *sorted(map(str, Path("~/.pyenv/versions").expanduser().glob("3.1[1-9].*/bin/python3")))]


@pytest.mark.parametrize("python", pythons())
def test_every_python_builds_the_same_bytes(python: str, tmp_path: Path) -> None:
    """Run as a plain file by any supported Python, the builder writes the very archive that we do."""
    ours = lambda_zip.build(tmp_path / "ours.zip")
    done = run_plain("theirs.zip", python=python, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{ours.sha256}  theirs.zip  {ours.size_bytes} bytes\n"
    assert (tmp_path / "theirs.zip").read_bytes() == ours.path.read_bytes()


def copy_of_sources(directory: Path) -> Path:
    """Copy the modules that travel, and the builder."""
    directory.mkdir()
    for name in (*lambda_zip.MODULES, "lambda_zip"):
        (directory / f"{name}.py").write_bytes((SOURCE / f"{name}.py").read_bytes())
    return directory / "lambda_zip.py"


def hash_of(builder: Path) -> str:
    """Ask a builder for the digest of its sources."""
    return subprocess.run(
        [sys.executable, builder, "--hash"], capture_output=True, text=True, check=True, timeout=120
    ).stdout


def test_the_source_hash_changes_with_the_sources_and_with_nothing_else(tmp_path: Path) -> None:
    """Another copy, other times, other line ends: the same digest. One byte changed in one module: another."""
    builder = copy_of_sources(tmp_path / "copy")
    assert hash_of(builder) == lambda_zip.source_hash() + "\n" == run_plain("--hash").stdout
    model = builder.parent / "model.py"
    model.write_bytes(model.read_bytes().replace(b"\n", b"\r\n"))
    os.utime(model, (0, 0))
    assert hash_of(builder) == lambda_zip.source_hash() + "\n"
    model.write_bytes(model.read_bytes().replace(b"nouns", b"Nouns", 1))
    assert hash_of(builder) != lambda_zip.source_hash() + "\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["a.zip", "b.zip"]])
def test_wrong_use_says_how(arguments: list[str], tmp_path: Path) -> None:
    """Anything but one path or --hash prints the usage, exits with 2 and writes nothing."""
    done = run_plain(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage:")
    assert not list(tmp_path.iterdir())


def test_modules_that_travel_import_nothing_that_does_not() -> None:
    """Of ours only the archive's own, of others only boto3 and botocore: read from the sources themselves."""
    for name in lambda_zip.MODULES:
        for node in ast.walk(ast.parse((SOURCE / f"{name}.py").read_text())):
            modules = imported(node)
            ours = {each.removeprefix("s3nsync.") for each in modules if each.split(".")[0] == "s3nsync"}
            others = {each.split(".")[0] for each in modules} - {"s3nsync"} - sys.stdlib_module_names
            assert ours <= {"s3nsync", *lambda_zip.MODULES}
            assert others <= ({"boto3", "botocore"} if name == "intake" else set())


def imported(node: ast.AST) -> set[str]:
    """Name what an import statement takes in, `from s3nsync import x` as s3nsync.x."""
    if isinstance(node, ast.Import):
        return {each.name for each in node.names}
    if isinstance(node, ast.ImportFrom):
        return {f"s3nsync.{each.name}" for each in node.names} if node.module == "s3nsync" else {node.module or ""}
    return set()


def test_the_bare_archive_imports_with_nothing_but_boto3(tmp_path: Path) -> None:
    """Unzipped alone, with boto3 and what it needs on the path and nothing else of ours, the handler imports."""
    with zipfile.ZipFile(lambda_zip.build(tmp_path / "lambda.zip").path) as archive:
        archive.extractall(tmp_path / "task")
    runtime = tmp_path / "runtime"
    runtime.mkdir()
    site = Path(boto3.__file__).parent.parent
    for name in ("boto3", "botocore", "jmespath", "s3transfer", "urllib3", "dateutil", "six.py"):
        (runtime / name).symlink_to(site / name)
    program = (
        f"import sys; sys.path[:0] = [{str(tmp_path / 'task')!r}, {str(runtime)!r}]\n"
        "import importlib; module, _, name = sys.argv[1].rpartition('.')\n"
        "handler = getattr(importlib.import_module(module), name)\n"
        "print(sys.modules['s3nsync'].__file__, callable(handler))\n"
        "print(*sorted(each for each in sys.modules if each.startswith('s3nsync.')))"
    )
    command = [sys.executable, "-I", "-S", "-c", program, lambda_zip.HANDLER]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        f"{tmp_path}/task/s3nsync/__init__.py True",
        "s3nsync.errors s3nsync.events s3nsync.intake s3nsync.mapping s3nsync.model",
    ]
