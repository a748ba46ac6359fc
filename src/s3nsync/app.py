"""Put the parts together: settings in, a worker ready to run out. The only place where objects are wired.

Opened in this order, closed in the reverse: HTTP clients (one for AWS, one for each certificate authority of the
NetStorage accounts), S3, queues, NetStorage clients, the hashing threads, engine, worker. `probe` asks every outside
party one cheap question before any work is taken, so that a wrong name or key is one clear message at start-up and
not a queue full of failures.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import boto3
import structlog
from botocore.exceptions import BotoCoreError, ClientError

from s3nsync.aws import CredentialSource, SessionCredentials
from s3nsync.body import CHUNK_BYTES
from s3nsync.config import with_secret
from s3nsync.engine import STREAM_BYTES, Replicator
from s3nsync.engine.uploads import WHOLE_EXTRA_PART
from s3nsync.errors import ConfigError, S3nsyncError
from s3nsync.http import Http, Proxies, tls_context
from s3nsync.lanes import Lane, Shares, places_for
from s3nsync.model import QueueName, Report, Route
from s3nsync.netstorage import Account, NetStorage
from s3nsync.pacing import Backoff, Breaker, ByteBudget, DeleteBrake
from s3nsync.queues.memory import MemoryQueue
from s3nsync.queues.sqs import SqsQueue
from s3nsync.reconcile.second_look import SecondLooks
from s3nsync.s3 import S3
from s3nsync.settings import RANGE_BYTES, AccountSettings, Settings
from s3nsync.spans import Ahead
from s3nsync.worker import Limits, Worker

log = structlog.get_logger("s3nsync.app")

RETRY_BASE_S, RETRY_CAP_S = 2.0, 900.0
"""How long a message rests after its first failure, and at most: an outage of hours must not cost an hour more."""

YOUNG_OBJECTS = 50_000
"""New objects alive before the collector looks: some 10 MiB of them."""

HASH_THREADS = 2
"""hashlib lets go of the interpreter for large inputs; two threads keep one core of streams fed."""


@dataclass(frozen=True, slots=True)
class App:
    """The live parts of one process."""

    settings: Settings
    worker: Worker
    engine: Replicator
    s3: S3
    queues: Mapping[QueueName, SqsQueue | MemoryQueue]
    targets: Mapping[str, NetStorage]
    budget: ByteBudget
    lanes: Mapping[str, Lane]

    async def probe(self) -> None:
        """Ask buckets, queues and accounts one cheap question each; logs every failure, and raises the first."""
        questions = [
            *(self.s3.probe(bucket) for bucket in sorted({route.bucket for route in self.settings.routes})),
            *(queue.probe() for queue in self.queues.values()),
            *(
                self.targets[account].stat(f"/{cpcode}")
                for account, cpcode in sorted({(route.account, route.cpcode) for route in self.settings.routes})
            ),
        ]
        answers = await asyncio.gather(*questions, return_exceptions=True)
        failures = [answer for answer in answers if isinstance(answer, BaseException)]
        for failure in failures:
            if isinstance(failure, S3nsyncError):
                log.error("start-up check failed", reason=failure.message, hint=failure.hint)
        if failures:
            raise failures[0]


@asynccontextmanager
async def assemble(
    settings: Settings,
    *,
    report: Callable[[Report], None],
    credentials: CredentialSource | None = None,
    in_memory: Mapping[QueueName, MemoryQueue] | None = None,
) -> AsyncIterator[App]:
    """Open everything that `settings` (see `resolve`) describes, and close it in the end.

    `report` is called once for each settled Change. `credentials` replaces the AWS credential search, `in_memory` the
    queues of SQS: then keys come in key order, and second looks are taken together.
    """
    source = credentials or SessionCredentials()
    async with AsyncExitStack() as stack:
        proxies = _proxies(settings)
        aws_http = await stack.enter_async_context(Http(tls=tls_context(settings.aws.ca_file), proxies=proxies))
        budget = open_budget(settings)
        s3 = S3(
            aws_http,
            region=settings.region,
            credentials=source,
            endpoint=settings.aws.s3,
            on_elsewhere=_warn_of_region,
            ahead=_ahead(settings, budget),
        )
        queues: Mapping[QueueName, SqsQueue | MemoryQueue] = in_memory or _queues(settings, aws_http, source)
        for queue in queues.values():
            stack.push_async_callback(queue.aclose)
        targets = await _targets(settings, stack, proxies)
        limits = _limits(settings, has_live=in_memory is None)
        lanes = open_lanes(settings, limits)
        threads = stack.enter_context(ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="hash"))
        gate = Breaker(settings.routes, suspended_clock_s, on_stop=_warn_of_rest, on_go=_tell_of_recovery)
        brake = DeleteBrake(settings.worker.deletes_per_minute, suspended_clock_s)
        backoff = Backoff(base_s=RETRY_BASE_S, cap_s=RETRY_CAP_S)
        engine = Replicator(
            routes=settings.routes,
            source=s3 if in_memory is None else SecondLooks(s3),
            targets=targets,
            lanes=lanes,
            budget=budget,
            gate=gate,
            backoff_s=backoff.delay_s,
            now_s=time.time,
            sleep=asyncio.sleep,
            offload=lambda update, data: asyncio.get_running_loop().run_in_executor(threads, update, data),
            brake_s=brake.wait_s,
            buffer_bytes=settings.worker.buffer_bytes,
            metadata_mtime=settings.worker.mtime_from_metadata,
            trailers=settings.worker.unknown_digest == "trailer",
        )
        worker = Worker(
            live=queues["live"],
            bulk=queues.get("bulk"),
            check=queues["check"],
            engine=engine,
            gate=gate,
            limits=limits,
            report=report,
            clock_s=suspended_clock_s,
            now_s=time.time,
        )
        yield App(settings, worker, engine, s3, queues, targets, budget, lanes)


def relax_collector() -> None:
    """Let Python's cycle collector look rarely, and never at what was loaded at the start.

    By default it goes through the young objects each time that 700 more are alive than before, which objects in flight
    are at every turn: a sixth of the CPU time of copying small ones. What is done with is freed by its reference count.
    """
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 20, 20)


suspended_clock_s: Callable[[], float] = functools.partial(
    time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
)
"""Gives a monotonic time that goes on while the machine sleeps: leases end by the queue's clock, not by ours. It is
asked a dozen times for each object, hence no function of Python's."""


def _limits(settings: Settings, *, has_live: bool) -> Limits:
    """Set the worker's numbers; it keeps a quarter of its slots for live events, which is added where there are none.

    So a queue in memory has as many objects in flight as the settings say, and as the account's lane lets through.
    """
    worker = settings.worker
    return Limits(
        max_in_flight=worker.max_in_flight if has_live else worker.max_in_flight * 4 // 3,
        lease_s=worker.lease_s,
        grace_s=worker.grace_s,
        drain_s=worker.drain_s,
        poll_wait_s=worker.poll_wait_s,
    )


def _queues(settings: Settings, http: Http, source: CredentialSource) -> dict[QueueName, SqsQueue]:
    named = settings.queues
    if named is None:
        raise ConfigError("queues: there are none", hint="a bug: load the settings with their queues")
    urls: Sequence[tuple[QueueName, str | None]] = (
        ("live", named.live),
        ("bulk", named.bulk),
        ("check", named.check),
        ("dead", named.dead),
    )
    return {
        name: SqsQueue(
            name,
            url,
            http,
            source,
            region=settings.region,
            lease_s=settings.worker.lease_s,
            dead_url=named.dead if name != "dead" else None,
            endpoint=settings.aws.sqs,
            token=lambda: secrets.token_hex(16),
        )
        for name, url in urls
        if url
    }


def _proxies(settings: Settings) -> Proxies:
    proxy = settings.proxy
    https, http = (each.get_secret_value() if each else None for each in (proxy.https, proxy.http))
    return Proxies.parse(https, http, proxy.direct)


async def _targets(settings: Settings, stack: AsyncExitStack, proxies: Proxies) -> dict[str, NetStorage]:
    """Open a client for each account; accounts that trust the same authorities share connections."""
    by_ca: dict[str | None, Http] = {}
    targets = {}
    for name, account in settings.accounts.items():
        if account.ca_file not in by_ca:
            http = Http(tls=tls_context(account.ca_file), proxies=proxies)
            by_ca[account.ca_file] = await stack.enter_async_context(http)
        targets[name] = NetStorage(_account(name, account), by_ca[account.ca_file], on_clock_skew=_warn_of_skew)
    return targets


def _account(name: str, account: AccountSettings) -> Account:
    if account.host is None or account.user is None or account.key is None:
        raise ConfigError(f"accounts.{name}: its secret was not read", hint="a bug: resolve the settings first")
    scheme: Literal["http", "https"] = "http" if account.insecure_http else "https"
    return Account.parse(account.host, account.user, account.key.get_secret_value(), scheme=scheme)


def open_budget(settings: Settings) -> ByteBudget:
    """Limit the bytes held at once; of several accounts none holds more than three quarters, and each has a floor.

    The floors are a quarter of all together; more, up to a half, if one object at work would not fit in.
    """
    total_bytes, accounts = settings.worker.memory_budget_bytes, len(settings.accounts)
    if accounts < 2:  # or none: not every command needs one
        return ByteBudget(total_bytes)
    piece_bytes = max(STREAM_BYTES, settings.worker.buffer_bytes * (WHOLE_EXTRA_PART + 1) // WHOLE_EXTRA_PART)
    floor_bytes = min(max(total_bytes // (4 * accounts), piece_bytes), total_bytes // (2 * accounts))
    return ByteBudget(total_bytes, total_bytes * 3 // 4, floors=dict.fromkeys(settings.accounts, floor_bytes))


def _ahead(settings: Settings, budget: ByteBudget) -> Ahead | None:
    worker = settings.worker
    if worker.ranged_reads == 1:
        return None
    return Ahead(worker.ranged_reads, worker.ranged_from_bytes, RANGE_BYTES, budget)


def open_lanes(settings: Settings, limits: Limits) -> dict[str, Lane]:
    """Open the way to each upload account, as wide as the settings let it be; several share the worker's slots."""
    accounts = len(settings.accounts)
    shares = Shares(accounts, limits.max_in_flight, limits.kept_for_live) if accounts > 1 else None
    return {name: _lane(name, settings, shares) for name in settings.accounts}


def _lane(name: str, settings: Settings, shares: Shares | None) -> Lane:
    account, slots = settings.accounts[name], settings.worker.max_in_flight
    most = min(account.max_in_flight or slots, slots)
    return Lane(
        places_for(most, account.bytes_per_s, max(CHUNK_BYTES, settings.worker.buffer_bytes)),
        suspended_clock_s,
        shares=shares,
        requests_per_s=account.requests_per_s,
        bytes_per_s=account.bytes_per_s,
        on_cut=functools.partial(_warn_of_cut, name),
    )


def _warn_of_cut(account: str, places: int, reason: str) -> None:
    log.warning("fewer objects at once for this account", account=account, window=places, reason=reason)


def _warn_of_rest(route: Route, seconds: float, reason: str) -> None:
    log.error("the route rests", route=str(route), seconds=round(seconds, 1), reason=reason)


def _tell_of_recovery(route: Route) -> None:
    log.warning("the route goes again", route=str(route))


def _warn_of_region(bucket: str, region: str) -> None:
    log.warning("the bucket is in another region; it is read there", bucket=bucket, region=region)


def _warn_of_skew(offset_s: float) -> None:
    log.warning("this machine's clock is off; NetStorage's is used for signatures", offset_s=round(offset_s, 1))


async def resolve(settings: Settings) -> Settings:
    """Give the settings with every account whole, read from Secrets Manager where they say so; raises ConfigError."""
    accounts = {name: await _with_secret(account, settings) for name, account in settings.accounts.items()}
    return settings.model_copy(update={"accounts": accounts})


async def _with_secret(account: AccountSettings, settings: Settings) -> AccountSettings:
    """Read the account from Secrets Manager where the settings say so."""
    arn = account.secret_arn
    if arn is None:
        return account
    try:
        text = await asyncio.to_thread(_read_secret, arn, settings)
    except (BotoCoreError, ClientError) as error:
        raise ConfigError(
            f"the secret {arn} cannot be read: {error}",
            hint="check its ARN and region, and secretsmanager:GetSecretValue (and kms:Decrypt) of this role",
        ) from None
    return with_secret(account, text)


def _read_secret(arn: str, settings: Settings) -> str:
    client = boto3.client("secretsmanager", region_name=settings.region, endpoint_url=settings.aws.endpoint_url)
    return client.get_secret_value(SecretId=arn).get("SecretString", "")
