"""Credentials: looked up once, off the loop, renewed when due, never shown."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from botocore.credentials import Credentials as BotoCredentials
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import CredentialRetrievalError
from botocore.session import Session

from s3nsync.aws import RENEWAL_PAUSE_S, SessionCredentials
from s3nsync.errors import SourceCredentials
from s3nsync.sigv4 import Credentials


class CannedSession(Session):
    """A session that has the given credentials, and notes in which thread it was asked."""

    def __init__(self, found: BotoCredentials | None, threads: list[int]) -> None:
        """Hold what is to be found."""
        super().__init__()
        self._canned = found
        self._threads = threads

    def get_credentials(self) -> BotoCredentials | None:
        """Give what was put in."""
        self._threads.append(threading.get_ident())
        return self._canned


def sessions(*found: BotoCredentials | None) -> tuple[SessionCredentials, list[int]]:
    """Give a source that makes a session for each of `found` in turn, and the list of threads it asked in."""
    threads: list[int] = []
    supply: Iterator[BotoCredentials | None] = iter(found)
    return SessionCredentials(lambda: CannedSession(next(supply), threads)), threads


async def test_looked_up_once_and_off_the_loop() -> None:
    """Many callers at once share one look-up, in another thread than the event loop's."""
    source, threads = sessions(BotoCredentials("AKID", "secret", "token"))
    found = await asyncio.gather(*(source.get() for _ in range(5)))
    assert found == [Credentials("AKID", "secret", "token")] * 5
    assert await source.get() is found[0]
    assert len(threads) == 1
    assert threads[0] != threading.get_ident()


async def test_secrets_are_not_shown() -> None:
    """The source shows the access key at most."""
    source, _ = sessions(BotoCredentials("AKID", "the-secret", "the-token"))
    await source.get()
    assert repr(source) == "SessionCredentials(Credentials(access_key='AKID'))"


async def test_none_found_says_where_they_may_be() -> None:
    """Without credentials, or with half of them, the error is SourceCredentials; a later look-up may succeed."""
    source, _ = sessions(None, BotoCredentials("", ""), BotoCredentials("AKID", "secret"))
    with pytest.raises(SourceCredentials, match="no AWS credentials"):
        await source.get()
    with pytest.raises(SourceCredentials, match="no access key"):
        await source.get()
    assert (await source.get()).access_key == "AKID"


async def test_a_failing_provider_is_a_credentials_error() -> None:
    """What botocore raises comes out as our own error, with its words."""

    class Broken(CannedSession):
        def get_credentials(self) -> BotoCredentials | None:
            raise CredentialRetrievalError(provider="sso", error_msg="token has expired")

    with pytest.raises(SourceCredentials, match="token has expired"):
        await SessionCredentials(lambda: Broken(None, [])).get()


async def test_renewing_finds_everything_anew_but_once() -> None:
    """After a refusal all callers get the new keys, from one new session; refusing the old again changes nothing."""
    source, threads = sessions(BotoCredentials("OLD", "s"), BotoCredentials("NEW", "s"))
    old = await source.get()
    found = await asyncio.gather(*(source.renew(old) for _ in range(3)))
    assert {keys.access_key for keys in found} == {"NEW"}
    assert (await source.renew(old)).access_key == "NEW"
    assert len(threads) == 2


async def test_keys_near_their_end_are_renewed_and_kept_if_that_fails() -> None:
    """Keys near their end are renewed; while that fails the old ones go on, asked for again after a pause."""
    answers = iter([10 * 60, None, 3600])
    clock = [0.0]

    def fetch() -> dict[str, str]:
        seconds = next(answers)
        if seconds is None:
            raise CredentialRetrievalError(provider="ecs", error_msg="metadata service is away")
        return {
            "access_key": f"KEY{seconds}",
            "secret_key": "s",
            "token": "t",
            "expiry_time": (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(),
        }

    boto = RefreshableCredentials.create_from_metadata(
        fetch(), fetch, "test", advisory_timeout=15 * 60, mandatory_timeout=60
    )
    threads: list[int] = []
    source = SessionCredentials(lambda: CannedSession(boto, threads), clock_s=lambda: clock[0])
    assert (await source.get()).access_key == "KEY600"  # the refresh failed, the old keys still serve
    assert (await source.get()).access_key == "KEY600"  # within the pause nothing is asked
    clock[0] += RENEWAL_PAUSE_S
    assert (await source.get()).access_key == "KEY3600"
    assert len(threads) == 1
