"""Checks the Terraform sources without an AWS: format, validity, choices and refusals, policies, a scan, the tables.

    cd tests && python -m terraform.static [--checkov PROGRAM]

Root, module and examples are initialised in a copy; `terraform test` plays the provider (mock_provider). The scan needs
checkov, from the environment of requirements/checkov.txt; every check that it skips has its reason in the sources. The
provider comes from the folder in S3NSYNC_TF_MIRROR, else from a mirror in a usual place, else from terraform's
registry. Exit status 1: something failed; its output is shown.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from terraform import policies, tables, workshop

STEP_LIMIT_S = 600
_SUMMARY = re.compile(r"(Success! \d+ passed, .*|Passed checks: .*|The configuration is valid\.)")


def steps(root: Path, checkov: str | None) -> Iterator[tuple[str, Path, Sequence[str]]]:
    """Give what is run: a title, where, and the command."""
    module = root / "modules" / "s3nsync"
    yield "format", root, ["terraform", "fmt", "-check", "-recursive", "-diff"]
    for folder in (root, module, *sorted((root / "examples").iterdir())):
        name = str(folder.relative_to(root.parent))
        yield f"init {name}", folder, ["terraform", "init", "-input=false", "-backend=false", "-no-color"]
        yield f"validate {name}", folder, ["terraform", "validate", "-no-color"]
    for folder in (root, module):
        yield f"test {folder.relative_to(root.parent)}", folder, ["terraform", "test", "-no-color"]
    if checkov:
        scan = ["--framework", "terraform", "--compact", "--quiet", "--skip-download", "--directory", "."]
        scan += ["--skip-path", "examples"]  # the same module, four times more
        yield "scan", root, [checkov, *scan]


def run(title: str, folder: Path, command: Sequence[str], env: Mapping[str, str]) -> bool:
    """Run one step, say how it went in a line, show its output if it failed."""
    started_s = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        env=dict(env),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=STEP_LIMIT_S,
        check=False,
    )
    found = _SUMMARY.findall(done.stdout)
    words = "FAILED" if done.returncode else found[-1] if found else "ok"
    sys.stdout.write(f"{title}: {words} ({time.monotonic() - started_s:.1f} s)\n")
    if done.returncode:
        sys.stdout.write(done.stdout)
    sys.stdout.flush()
    return done.returncode == 0


def main(arguments: Sequence[str]) -> int:
    """Run every step, also after one failed."""
    checkov = str(Path(arguments[1]).absolute()) if list(arguments[:1]) == ["--checkov"] else None
    with tempfile.TemporaryDirectory(prefix="s3nsync-terraform-") as folder:
        scratch = Path(folder)
        settings = workshop.terraform_settings(scratch, workshop.find_mirror(os.environ))
        env = {"PATH": os.environ["PATH"], "HOME": folder, **settings}
        root = workshop.copy_sources(scratch)
        results = [run(title, where, command, env) for title, where, command in steps(root, checkov)]
    results.append(policies.main(["--check"]) == 0)
    results.append(tables.main(["--check"]) == 0)
    sys.stdout.write(f"{sum(results)} steps passed, {len(results) - sum(results)} failed\n")
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
