"""What tests of several directories share."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import pytest

import aws_emulator
import s3nsync


def pytest_configure(config: pytest.Config) -> None:
    """Load every module of ours where several processes share the tests out among them as they get done.

    Hypothesis draws some of its values from the literals in whatever modules are loaded: its examples must not depend
    on which tests ran before in the same process.
    """
    if hasattr(config, "workerinput"):  # pytest-xdist's
        for module in pkgutil.walk_packages(s3nsync.__path__, "s3nsync."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)


@pytest.fixture(scope="session")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[aws_emulator.Aws]:
    """Run one local AWS for the session; each test makes its own buckets and queues."""
    if not aws_emulator.COMMAND.exists():
        pytest.skip("the AWS emulator is not installed: make .venv-ministack/.ready")
    with aws_emulator.running(tmp_path_factory.mktemp("aws")) as found:
        yield found
