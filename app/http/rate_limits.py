"""Rate limits: how often a key may call, and how often an address may fail to authenticate.

Requests are charged in memory; the counter in the database is asked a few times in a window, ahead of need where a
caller calls often. So no request waits for a write, but the first ones of a quota that is small or nearly used.
"""

import asyncio
import hashlib
import ipaddress
import time
from collections.abc import Callable
from contextlib import suppress

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.core.database import Database
from app.core.errors import RateLimited, TooManyFailures, Unavailable
from app.core.rate_limits import Bucket, Policy, exact_policy, sliced_policy
from app.core.settings import Settings
from app.queries.limits import count_use

MINUTE_S, HOUR_S = 60, 3600
KNOWN_BUCKETS = 8192
NOBODY = 0
# A client with one IPv6 address has all addresses of its network.
IPV6_NETWORK = 64
NO_STORE = [(b"cache-control", b"no-store")]


class Limits:
    """The state of all quotas that this worker knows, one in each process."""

    def __init__(self, database: Database, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        self.requests = sliced_policy("requests", settings.requests_per_minute, MINUTE_S)
        self.failures = sliced_policy("failed-keys", settings.failed_keys_per_minute, MINUTE_S)
        self.calibrations = exact_policy("calibrations", settings.calibrations_per_hour, HOUR_S)
        self.exports = exact_policy("exports", settings.exports_per_hour, HOUR_S)
        self.clock = clock
        self._database = database
        self._buckets: dict[tuple[str, int, str], Bucket] = {}
        self._fetching: dict[Bucket, asyncio.Task[None]] = {}

    def bucket(self, policy: Policy, tenant_id: int, subject: str) -> Bucket:
        """Return the state of a quota; the oldest is dropped if there are too many, and fetched again if needed."""
        key = (policy.name, tenant_id, subject)
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= KNOWN_BUCKETS:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[key] = Bucket(policy, tenant_id, subject, self.clock())
        return bucket

    async def spend(self, bucket: Bucket, cost: int) -> None:
        """Charge a cost; more than a whole quota costs the whole quota. Raises `RateLimited`."""
        cost = min(cost, bucket.policy.quota)
        while not bucket.spend(cost, self.clock()):
            if bucket.exhausted:
                quota = f"{bucket.policy.quota:,} {bucket.policy.name} in {bucket.policy.window_s:,} seconds"
                raise RateLimited(f"the quota of {quota} is used up", bucket.seconds_left(self.clock()))
            # Shielded: other requests may wait for the same reply, and cancelling one must not cancel it for them.
            await asyncio.shield(self._fetch(bucket, cost))
        if bucket.runs_low:
            self._fetch(bucket, 1)

    def _fetch(self, bucket: Bucket, cost: int) -> asyncio.Task[None]:
        """Ask the counter for more, unless it is being asked."""
        task = self._fetching.get(bucket)
        if task is None:
            task = self._fetching[bucket] = asyncio.create_task(self._ask(bucket, bucket.amount_to_fetch(cost)))
            task.add_done_callback(_ignore_unavailable)
        return task

    async def _ask(self, bucket: Bucket, amount: int) -> None:
        policy, asked_at = bucket.policy, self.clock()
        subject = f"{policy.name}:{bucket.subject}"
        try:
            taken = await self._database.write(count_use, bucket.tenant_id, subject, policy.window_s, amount)
            bucket.add_grant(amount, taken, asked_at, self.clock())
        finally:
            del self._fetching[bucket]

    async def close(self) -> None:
        """Wait for the fetches in flight."""
        await asyncio.gather(*self._fetching.values(), return_exceptions=True)


def _ignore_unavailable(task: asyncio.Task[None]) -> None:
    """Ignore an unavailable database where no caller waits: it is asked again."""
    with suppress(asyncio.CancelledError, Unavailable):
        task.result()


async def charge(request: Request, policy: Policy, tenant_id: int, subject: str, cost: int = 1) -> None:
    """Charge a request; its reply will say what is left. Raises `RateLimited`."""
    limits: Limits = request.app.state.limits
    bucket = limits.bucket(policy, tenant_id, subject)
    request.scope["state"].setdefault("buckets", {})[policy.name] = bucket
    await limits.spend(bucket, cost)


async def charge_failure(request: Request) -> None:
    """Count a failure to authenticate. Raises `TooManyFailures`.

    If the database does not answer, nothing is counted; the caller gets the usual reply about the key.
    """
    limits: Limits = request.app.state.limits
    host = request.client.host if request.client else ""
    try:
        with suppress(Unavailable):
            await charge(request, limits.failures, NOBODY, address_subject(host))
    except RateLimited as error:
        detail = "keys that are not valid came from this address too often; a valid one is still taken"
        raise TooManyFailures(detail, error.retry_after) from None


def address_subject(host: str) -> str:
    """Return an address as it is counted and stored: a hash, of the network for IPv6."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        counted = host
    else:
        network = IPV6_NETWORK if address.version == 6 else address.max_prefixlen  # noqa: PLR2004 (IPv6 is not a number)
        counted = str(ipaddress.ip_network((address, network), strict=False))
    return hashlib.blake2b(counted.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def _limit_headers(scope: Scope, now: float) -> list[tuple[bytes, bytes]]:
    """Return the headers about the quotas that a request was charged to, and for what only a caller may see."""
    state = scope.get("state", {})
    headers = NO_STORE if state.get("caller") is not None else []
    buckets: dict[str, Bucket] = state.get("buckets", {})
    if not buckets:
        return headers
    used = buckets.values()
    return [
        *headers,
        (b"ratelimit-policy", ", ".join(bucket.policy_text for bucket in used).encode("ascii")),
        (b"ratelimit", ", ".join(bucket.header(now) for bucket in used).encode("ascii")),
    ]


class LimitHeaders:
    """A middleware: every reply to a caller says what is left of quotas, and that it is not to be stored on its way.

    Replies tell of learners, errors too; so no cache of a proxy or a browser keeps one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_limit_headers(scope, time.monotonic())]
            await send(message)

        await self.app(scope, receive, send_with_headers)
