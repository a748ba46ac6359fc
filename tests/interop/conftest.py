"""Emulators for clients that are not ours, and at the end of the run the table of what each of them can do.

Every check runs inside `Matrix.cell`, so that the table says what was really tried. It is also written to
`.cache/interop-matrix.md`.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme

from interop.matrix import CPCODE, KEY, SITES, USER, Matrix, OpenSite, Site
from s3nsync.emulator import Emulator, running

ROOT = Path(__file__).parents[2]

MATRIX = pytest.StashKey[Matrix]()


@pytest.fixture(scope="session")
def matrix(pytestconfig: pytest.Config) -> Matrix:
    """Return the table, shown when the run is over."""
    return pytestconfig.stash.setdefault(MATRIX, Matrix())


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Who signs the emulators' certificates."""
    return trustme.CA()


@pytest.fixture(params=SITES, ids=lambda pair: f"{pair[0]}-{pair[1]}")
def open_site(request: pytest.FixtureRequest, authority: trustme.CA, tmp_path: Path) -> OpenSite:
    """Return what starts an emulator of this generation and scheme, with more settings if given."""
    personality, scheme = request.param
    ca_file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)

    @contextmanager
    def opened(*, page_cap: int = 1000, quick_delete: bool = False) -> Iterator[Site]:
        emulator = Emulator(
            accounts={USER: KEY},
            cpcodes=(CPCODE,),
            personality=personality,
            tls=context if scheme == "https" else None,
            page_cap=page_cap,
            quick_delete=quick_delete,
            nonce_replay=True,
        )
        with running(emulator):
            yield Site(emulator, personality, scheme, ca_file)

    return opened


@pytest.fixture
def site(open_site: OpenSite) -> Iterator[Site]:
    """Run an emulator with the usual settings."""
    with open_site() as opened:
        yield opened


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Show and keep the table."""
    table = config.stash.get(MATRIX, Matrix()).markdown()
    if not table:
        return
    path = ROOT / ".cache" / "interop-matrix.md"
    path.parent.mkdir(exist_ok=True)
    path.write_text(table + "\n", encoding="utf-8")
    terminalreporter.section("interop matrix")
    terminalreporter.write_line(table)
    terminalreporter.write_line(f"\nwritten to {path.relative_to(ROOT)}")
