"""The words of the interop tests: a site (one emulator), and the table of what each client can do there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from s3nsync.emulator import Emulator, Personality

USER, KEY, CPCODE = "media-1", "correct-horse+battery/staple=", "123456"
SITES = [(personality, scheme) for personality in Personality for scheme in ("http", "https")]


class Matrix:
    """What was tried: client and action → site → result."""

    def __init__(self) -> None:
        """Start empty."""
        self._results: dict[tuple[str, str], dict[tuple[str, str], str]] = {}
        self._reasons: list[str] = []

    @contextmanager
    def cell(self, client: str, action: str, site: Site) -> Iterator[None]:
        """Record as passed what runs through, as failed what does not."""
        results = self._results.setdefault((client, action), {})
        results[site.name] = "**fail**"
        yield
        results[site.name] = "pass"

    @contextmanager
    def unsupported(self, client: str, action: str, site: Site, reason: str) -> Iterator[None]:
        """Record as not supported by the client, for `reason`, what runs through: the check shows that it is so."""
        with self.cell(client, action, site):
            yield
        if reason not in self._reasons:
            self._reasons.append(reason)
        self._results[client, action][site.name] = f"no ({self._reasons.index(reason) + 1})"

    def markdown(self) -> str:
        """Return the table, "" when nothing was tried."""
        if not self._results:
            return ""
        names = [f"{personality} {scheme}" for personality, scheme in SITES]
        lines = [f"| client | action | {' | '.join(names)} |", f"|---|---|{'---|' * len(names)}"]
        for (client, action), results in sorted(self._results.items()):
            cells = [results.get(site, "not tried") for site in SITES]
            lines.append(f"| {client} | {action} | {' | '.join(cells)} |")
        notes = [f"{number}. not supported by the client: {text}" for number, text in enumerate(self._reasons, start=1)]
        return "\n".join(lines + ([""] if notes else []) + notes)


@dataclass(frozen=True, slots=True)
class Site:
    """A running emulator of one generation, and how to reach it."""

    emulator: Emulator
    personality: Personality
    scheme: str
    ca_file: Path

    @property
    def name(self) -> tuple[str, str]:
        """What the table calls it."""
        return (self.personality, self.scheme)

    @property
    def objectstore(self) -> bool:
        """Whether it is an ObjectStore."""
        return self.personality is Personality.OBJECTSTORE

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.emulator.port}"

    def contents(self, below: str) -> dict[str, bytes]:
        """Return bytes by name of everything stored below a path of the CP code."""
        root = f"/{CPCODE}/{below}/".replace("//", "/")
        files = self.emulator.snapshot().items()
        return {path.removeprefix(root): file.read() for path, file in files if path.startswith(root)}


OpenSite = Callable[..., AbstractContextManager[Site]]


def missing(what: str, how: str) -> None:
    """Skip because a client is not installed; fail where it has to be (CI, `make interop`)."""
    reason = f"{what} is not installed: {how}"
    if os.environ.get("CI") or os.environ.get("S3NSYNC_INTEROP") == "1":
        pytest.fail(reason)
    pytest.skip(reason)
