"""The product's one HTTP client: a thin HTTP/1.1 transport on asyncio, answers parsed by httptools (llhttp).

Each part is the only owner of its state:

    client       Http, the face: one pool per origin, the request's head, the one repeat that is safe here
    pool         slots and idle connections of an origin; last used is first reused, waiters are served in order
    connection   the asyncio side: bytes in and out, write back-pressure, the watchdog's one timer
    exchange     one request and its answer: writes the body, records what the parser says, holds what is not yet read
    heads        header fields and a request's head, as pure functions
    plain        the head of an answer that is as most are, as a pure function; llhttp reads all others
    origin       where to connect, how patiently
    tls          whom to trust, and the session that a host's next connection goes on with
    dial         a host's addresses, and the first of them that answers
    proxy        the tunnel through a proxy

What it does that general clients do not: `headers()` is called when a usable connection is in hand, right before the
first byte, once per try, so that a caller can check a lease and sign as late as can be; the request target goes out
exactly as given; a chunked body may end in trailers made after its last byte; an answer that comes before the body is
sent is noticed and ends the sending; nothing is ever decompressed. A body that cannot be sent whole ends with the
connection cut, never with a clean end.

A connection returns to the pool by itself once both directions are over, even before the caller reads what is
buffered. Nothing is repeated here but a GET or HEAD without body whose reused connection turned out dead; every other
failure says by `sent` and `reused` what the caller needs to decide.

Where the CPU goes was measured, and four things matter: one write for a small request; reading into one buffer that
all connections of an origin share (asyncio's TLS otherwise allocates 256 KiB for each read, which costs as much as all
else here); no timer, task or coroutine of its own for a request that meets an idle connection; and no call for each
field of a usual answer. What is left of a small exchange is kernel and TLS, and some twenty calls of Python functions.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1 messages).
"""

from s3nsync.http.client import Http
from s3nsync.http.exchange import Answer, Body
from s3nsync.http.heads import Chunk, Fields, Header, Headers, Layout, Lines
from s3nsync.http.origin import Origin, Scheme, Timeouts
from s3nsync.http.proxy import Proxies, Proxy
from s3nsync.http.tls import tls_context

__all__ = [
    "Answer",
    "Body",
    "Chunk",
    "Fields",
    "Header",
    "Headers",
    "Http",
    "Layout",
    "Lines",
    "Origin",
    "Proxies",
    "Proxy",
    "Scheme",
    "Timeouts",
    "tls_context",
]
