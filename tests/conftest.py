"""What tests of several directories share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import aws_emulator


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[aws_emulator.Aws]:
    """Run one local AWS for the session; each test makes its own buckets and queues."""
    if not aws_emulator.COMMAND.exists():
        pytest.skip("the AWS emulator is not installed: make .venv-ministack/.ready")
    with aws_emulator.running(tmp_path_factory.mktemp("aws")) as found:
        yield found
