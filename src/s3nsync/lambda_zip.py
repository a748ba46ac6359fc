"""Builds the Lambda function's archive: `python -m s3nsync.lambda_zip OUT`.

The archive holds the handler `s3nsync.intake.handler` and the pure modules that it imports; boto3 is in Lambda's own
runtime. The same sources give the same bytes on every machine and Python: order, times and modes are fixed, and nothing
is compressed, because compressors differ between builds of zlib. So Terraform sees a change only when there is one.

Terraform runs this file as it is (`python src/s3nsync/lambda_zip.py OUT`), where nothing is installed: it imports the
standard library only.
"""

from __future__ import annotations

import hashlib
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HANDLER: Final = "s3nsync.intake.handler"
"""What the Lambda function's handler must be set to."""

MODULES: Final = ("__init__", "errors", "events", "intake", "mapping", "model")
"""The modules of s3nsync that travel; none may import one that does not."""

_EPOCH: Final = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip file can state
_MODE: Final = 0o100644 << 16  # a plain file that everybody may read; Lambda does not run as its owner
_UNIX: Final = 3

_USAGE: Final = "usage: lambda_zip.py OUT | --hash\n"


@dataclass(frozen=True, slots=True)
class Built:
    """A written archive: its digest is SHA-256 in hexadecimal, its size in bytes."""

    path: Path
    sha256: str
    size_bytes: int


def build(out: Path) -> Built:
    """Write the archive to `out` and say what was written; raises OSError."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in _sources():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_STORED
            entry.create_system = _UNIX  # else it would be that of the machine
            entry.external_attr = _MODE
            archive.writestr(entry, content)
    written = out.read_bytes()
    return Built(out, hashlib.sha256(written).hexdigest(), len(written))


def source_hash() -> str:
    """Give a digest of what the archive would hold, without writing it: SHA-256 in hexadecimal."""
    digest = hashlib.sha256()
    for name, content in _sources():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()


def _sources() -> list[tuple[str, bytes]]:
    """Read the modules that travel, each with its name in the archive; line ends as on Linux."""
    here = Path(__file__).resolve().parent
    return [(f"s3nsync/{name}.py", (here / f"{name}.py").read_bytes().replace(b"\r\n", b"\n")) for name in MODULES]


def main(arguments: list[str]) -> int:
    """Run from the command line: OUT writes the archive, `--hash` prints the digest of its sources."""
    if arguments == ["--hash"]:
        sys.stdout.write(source_hash() + "\n")
        return 0
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write(_USAGE)
        return 2
    built = build(Path(arguments[0]))
    sys.stdout.write(f"{built.sha256}  {built.path}  {built.size_bytes} bytes\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
