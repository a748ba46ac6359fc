"""AWS credentials for requests that we sign ourselves.

Finding and renewing credentials (environment, profile, SSO, ECS, EC2) is botocore's business; it blocks, so it runs in
a thread. The hot path only asks "is what I have still good?", which needs no I/O. botocore begins to renew temporary
credentials a quarter of an hour before they end, and keeps the old ones if that fails: a short outage of the metadata
service stops nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from botocore.credentials import Credentials as BotoCredentials
from botocore.credentials import RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session, get_session

from s3nsync.errors import SourceCredentials
from s3nsync.sigv4 import Credentials

RENEWAL_PAUSE_S = 30.0
"""Between two attempts to renew credentials that are still good."""

LOOK_PAUSE_S = 1.0
"""Between two looks at how long they are good: botocore's date arithmetic costs as much as signing."""


class CredentialSource(Protocol):
    """Where signing keys come from."""

    async def get(self) -> Credentials:
        """Give keys that are good now; SourceCredentials if there are none."""

    async def renew(self, refused: Credentials) -> Credentials:
        """Give keys other than `refused`, which AWS called expired, if there are any; SourceCredentials if none."""


class SessionCredentials:
    """The credentials of a botocore session, looked up off the event loop and kept until they near their end."""

    def __init__(
        self, session: Callable[[], Session] = get_session, *, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        """Look nothing up yet; `session` makes a new session each time that all must be found anew."""
        self._session = session
        self._clock_s = clock_s
        self._found: BotoCredentials | None = None
        self._keys: Credentials | None = None
        self._not_before_s = 0.0
        self._lock = asyncio.Lock()

    def __repr__(self) -> str:
        """Show the access key at most."""
        return f"SessionCredentials({self._keys!r})"

    async def get(self) -> Credentials:
        """Give keys that are good now; SourceCredentials if there are none."""
        if self._keys is not None and not self._is_due():
            return self._keys
        async with self._lock:
            if self._keys is None or self._is_due():
                await self._look_up()
            assert self._keys is not None
            return self._keys

    async def renew(self, refused: Credentials) -> Credentials:
        """Give keys other than `refused`, which AWS called expired, if there are any; SourceCredentials if none."""
        async with self._lock:
            if self._keys in (None, refused):  # else another caller has done it already
                self._found = None
                await self._look_up()
            assert self._keys is not None
            return self._keys

    def _is_due(self) -> bool:
        now_s = self._clock_s()
        if now_s < self._not_before_s:
            return False
        if isinstance(self._found, RefreshableCredentials) and self._found.refresh_needed():
            return True
        self._not_before_s = now_s + LOOK_PAUSE_S
        return False

    async def _look_up(self) -> None:
        self._not_before_s = self._clock_s() + RENEWAL_PAUSE_S
        try:
            self._found, self._keys = await asyncio.to_thread(_frozen, self._found, self._session)
        except (BotoCoreError, ClientError) as error:
            raise SourceCredentials(f"the AWS credentials cannot be had: {error}") from error


def _frozen(found: BotoCredentials | None, session: Callable[[], Session]) -> tuple[BotoCredentials, Credentials]:
    found = found or session().get_credentials()
    if found is None:
        raise SourceCredentials("no AWS credentials were found: not in the environment, a profile, ECS or EC2")
    frozen = found.get_frozen_credentials()
    if not frozen.access_key or not frozen.secret_key:
        raise SourceCredentials("the AWS credentials that were found have no access key or no secret key")
    return found, Credentials(frozen.access_key, frozen.secret_key, frozen.token)
