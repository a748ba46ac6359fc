"""Whom to trust, and how a second connection to the same host goes on where the first one's handshake ended.

Servers end connections often: after a hundred requests, or a few seconds of rest. A handshake costs as much CPU as a
dozen small requests, half of it for the certificate. So a session that a host gave out is kept and offered when the
next connections to it are opened (RFC 8446, 2.2; RFC 5077), and the certificate is verified once for all of them. A
host that no longer takes it shakes hands in full and gives out another; one that fails over it is offered it no more.

A session is bound to the context that made it and is offered to the host name that it was verified for, no other. It
ends with the ticket, whose life the server sets. Nothing is ever sent before the handshake is over.
"""

from __future__ import annotations

import asyncio
import ssl

from s3nsync.errors import ConfigError

_UNFINISHED = (ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Resuming(ssl.SSLObject):
    """A TLS connection that offers the session of an earlier one to its host. Each context has a class of its own."""

    sessions: dict[str, ssl.SSLSession]
    _offered: ssl.SSLSession | None = None
    _begun = False

    def do_handshake(self) -> None:
        """Shake hands, or go on with it; called again until it is through."""
        host = self.server_hostname or ""
        if not self._begun:
            self._begun = True
            self._offered = self.sessions.get(host)
            if self._offered is not None:
                self.session = self._offered
        try:
            super().do_handshake()
        except _UNFINISHED:
            raise
        except ssl.SSLError:
            self._forget(host)
            raise
        if not self.session_reused:
            self._forget(host)

    def keep(self) -> None:
        """Keep the session for later connections, if there is none for the host yet: a copy costs a tenth of a ms.

        TLS 1.3 gives it out after the handshake, with the first data.
        """
        host = self.server_hostname or ""
        if host not in self.sessions and (session := self.session) is not None and session.has_ticket:
            self.sessions[host] = session

    def _forget(self, host: str) -> None:
        """Have no session that the host did not take; another connection may have put a newer one in its place."""
        if self._offered is not None and self.sessions.get(host) is self._offered:
            del self.sessions[host]


def keep_session(transport: asyncio.BaseTransport) -> None:
    """Keep a connection's session, if it has one and its context was made here; for when data has come in."""
    tls = transport.get_extra_info("ssl_object")
    if isinstance(tls, Resuming):
        tls.keep()


def tls_context(ca_file: str | None = None) -> ssl.SSLContext:
    """Make a verifying TLS context (TLS 1.2 or later, ALPN http/1.1); `ca_file` adds to the system's authorities.

    Raises ConfigError when the file cannot be used.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.sslobject_class = type("Resuming", (Resuming,), {"sessions": {}})
    if ca_file is not None:
        try:
            context.load_verify_locations(ca_file)
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"ca_file {ca_file!r} cannot be used: {error}", hint="name a readable PEM file") from None
    return context
