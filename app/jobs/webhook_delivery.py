"""Webhook delivery: calls from the outbox are signed and sent to public addresses until they are accepted.

Signatures are those of Standard Webhooks 1.0. A caller who may add a webhook must not reach with it what only this
machine can reach: a name is resolved, every address behind it must be public, and the address that was checked is the
one that is called. `PROXIMA_WEBHOOK_HOSTS` makes exceptions.
"""

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from secrets import SystemRandom
from ssl import SSLContext
from typing import NoReturn

import httpx
import structlog

from app import __version__
from app.core.database import Database
from app.core.errors import Fault, Invalid, ProximaError, Unavailable
from app.jobs.loop import repeat_forever
from app.jobs.name_lookup import look_up
from app.queries.webhooks import list_webhooks
from app.services.calibrations import call_at_database_time
from app.services.webhooks import WebhookCall, claim_calls, delete_failed_calls, return_calls, settle_calls

# How often to look for calls that are due, and where there is no webhook at all.
POLL_S = 1.0
IDLE_S = 5.0
# Webhooks called at once, in each process, of all tenants and of each: what hangs must leave room for others.
MAX_CONCURRENT, MAX_OF_TENANT = 32, 8
FORGET_S = 3600.0
# After so long every process has seen that a webhook is gone.
STOPPED_ELSEWHERE_S = 1.5 * POLL_S
CONNECT_S = 3.0
LONGEST_CALL_S = 10.0
# Bytes of an answer that are read, so that the connection can be reused; only its status counts.
LONGEST_ANSWER = 1 << 16
LONGEST_URL = 2000
CHANCE = SystemRandom()
LAST_PORT = 65535
SECRET_PREFIX = "whsec_"  # noqa: S105 (the name of a format)
# The only part of IPv6 that is allocated, but for 6to4, which leads on to any IPv4 address.
PUBLIC_V6 = ipaddress.IPv6Network("2000::/3")
SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")

_HOST = re.compile(r"[a-z0-9._-]+|[0-9a-f:.]+")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

log = structlog.get_logger("proxima.delivery")

# Tenant and id.
WebhookKey = tuple[int, str]
Running = dict[WebhookKey, "asyncio.Task[None]"]


@dataclass(frozen=True)
class Target:
    """Where to send: `exempt` if the operator vouches for the host."""

    url: httpx.URL
    host: str
    port: int
    exempt: bool


async def deliver(database: Database, hosts: str, running: Running) -> None:
    """Make the calls that are due, until cancelled; `running` is what is under way, and empty at the end."""
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(repeat_forever(lambda: _start_due_calls(database, hosts, running), POLL_S))
            forget = partial(database.write, call_at_database_time, delete_failed_calls)
            group.create_task(repeat_forever(forget, FORGET_S))
    finally:
        await _stop(running.values())


async def stop_calls(running: Running, webhook: WebhookKey, *, elsewhere: bool) -> None:
    """Stop the calls of a webhook that was deleted; wait for other processes if it may be called `elsewhere`."""
    task = running.get(webhook)
    if task is not None:
        await _stop([task])
    elif elsewhere:
        # Others look for webhooks that are gone as often as for calls that are due.
        await asyncio.sleep(STOPPED_ELSEWHERE_S)


async def _stop(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """Cancel tasks, and wait until they have returned what they had claimed."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _start_due_calls(database: Database, hosts: str, running: Running) -> None:
    """Start a task for each webhook that has calls due: none holds up another. Stop those of webhooks that are gone."""
    webhooks = await database.read(call_at_database_time, list_webhooks)
    known = {(tenant_id, webhook_id) for tenant_id, webhook_id, _ in webhooks}
    await _stop(task for webhook, task in list(running.items()) if webhook not in known)
    due = [(tenant_id, webhook_id) for tenant_id, webhook_id, is_due in webhooks if is_due]
    for webhook in _choose_next(due, running):
        running[webhook] = asyncio.create_task(_make_calls(database, hosts, *webhook))
        running[webhook].add_done_callback(lambda _, webhook=webhook: running.pop(webhook))  # type: ignore[misc]
    if not webhooks:
        await asyncio.sleep(IDLE_S)


def _choose_next(due: Iterable[WebhookKey], running: Collection[WebhookKey]) -> list[WebhookKey]:
    """Return the webhooks to call next, in random order but those of tenants first that have the fewest under way."""
    idle = [webhook for webhook in due if webhook not in running]
    CHANCE.shuffle(idle)
    taken = Counter(tenant_id for tenant_id, _ in running)
    numbered = []
    for webhook in idle:
        numbered.append((taken[webhook[0]], webhook))
        taken[webhook[0]] += 1
    numbered.sort(key=lambda entry: entry[0])
    allowed = [webhook for number, webhook in numbered if number < MAX_OF_TENANT]
    return allowed[: MAX_CONCURRENT - len(running)]


async def _make_calls(database: Database, hosts: str, tenant_id: int, webhook_id: str) -> None:
    """Make the calls of a webhook that are due, some at a time, until none is left or one is not accepted."""
    errors: list[str | None] = []
    try:
        async with httpx.AsyncHTTPTransport(verify=tls()) as transport:
            while not any(errors) and (
                calls := await database.write(call_at_database_time, claim_calls, tenant_id, webhook_id)
            ):
                try:
                    errors = await asyncio.gather(*(make_call(transport, hosts, call) for call in calls))
                except asyncio.CancelledError:
                    await database.write(call_at_database_time, return_calls, tenant_id, webhook_id, calls)
                    raise
                outcomes = list(zip(calls, errors, strict=True))
                await database.write(call_at_database_time, settle_calls, tenant_id, webhook_id, outcomes)
    except Unavailable:
        log.warning("the database does not answer; calls wait", webhook=webhook_id)
    except Exception:
        log.exception("the calls of a webhook ended", webhook=webhook_id)


@cache
def tls() -> SSLContext:
    """Return the trusted certificates, read once: it takes longer than many calls."""
    return httpx.create_ssl_context()


async def make_call(transport: httpx.AsyncBaseTransport, hosts: str, call: WebhookCall) -> str | None:
    """Make one call; return why it failed, None if it was accepted."""
    try:
        async with asyncio.timeout(LONGEST_CALL_S):
            error = await _send(transport, read_target(call.url, hosts), call)
    except TimeoutError:
        error = f"no answer within {LONGEST_CALL_S:g} seconds"
    except httpx.HTTPError as fault:
        error = f"the connection failed: {type(fault).__name__}"
    except ProximaError as fault:
        error = fault.detail
    except Exception:
        log.exception("a call could not be made", webhook=call.webhook_id, call=call.id)
        error = "the call could not be made"
    if error is not None:
        log.info("call failed", webhook=call.webhook_id, call=call.id, attempt=call.attempt, reason=error)
    return error


async def _send(transport: httpx.AsyncBaseTransport, target: Target, call: WebhookCall) -> str | None:
    """Send to the first address of the target that takes connections; return why it failed, None if it was accepted."""
    timeout = httpx.Timeout(LONGEST_CALL_S, connect=CONNECT_S).as_dict()
    for address in await find_addresses(call.tenant_id, target):
        request = httpx.Request(
            "POST",
            target.url.copy_with(host=address),
            headers=_call_headers(call, target.url.netloc.decode(), int(time.time())),
            content=call.body,
            extensions={"timeout": timeout, "sni_hostname": target.host},
        )
        with suppress(httpx.ConnectTimeout, httpx.ConnectError):
            response = await transport.handle_async_request(request)
            await _drain_response(response)
            return None if response.is_success else f"answered {response.status_code}"
    return "no connection, or no certificate that is trusted"


async def _drain_response(response: httpx.Response) -> None:
    """Read a short answer to its end, and only the beginning of a long one."""
    read = 0
    try:
        async for part in response.aiter_raw():
            read += len(part)
            if read > LONGEST_ANSWER:
                break
    finally:
        await response.aclose()


def _call_headers(call: WebhookCall, host: str, timestamp: int) -> dict[str, str]:
    """Return the headers of a call that is made now (s)."""
    return {
        "Host": host,
        "Content-Type": "application/json",
        "User-Agent": f"proxima/{__version__}",
        "webhook-id": call.id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(call.secret, call.id, timestamp, call.body),
    }


def sign(secret: str, call_id: str, timestamp: int, body: bytes) -> str:
    """Return the signature that Standard Webhooks 1.0 defines: HMAC-SHA256 of `id.timestamp.body`."""
    key = base64.b64decode(secret.removeprefix(SECRET_PREFIX))
    signed = f"{call_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


def read_target(url: str, hosts: str) -> Target:
    """Return where a URL leads, if webhooks may: https, by name or to a public address, without a user.

    `hosts` are exceptions, `host` or `host:port`, separated by commas. Raises `Invalid`.
    """
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        _refuse_url("is not an address")
    shown_host = f"[{parsed.host}]" if ":" in parsed.host else parsed.host
    port = {"http": 80, "https": 443}.get(parsed.scheme, 0) if parsed.port is None else parsed.port
    exempt = not {shown_host, f"{shown_host}:{port}"}.isdisjoint(entry.strip().lower() for entry in hosts.split(","))
    if len(url) > LONGEST_URL or not (url.isascii() and url.isprintable()) or " " in url or "\\" in url:
        _refuse_url("is not an address; write it in ASCII, with everything else encoded")
    if parsed.scheme != "https" and not (exempt and parsed.scheme == "http"):
        _refuse_url("must begin with https://")
    if parsed.userinfo:
        _refuse_url("must not hold a user or a password; calls are signed")
    if not _HOST.fullmatch(parsed.host) or _is_number(parsed.host) or not 0 < port <= LAST_PORT:
        _refuse_url("names no host that can be called")
    if not exempt and _is_address(parsed.host) and not _is_public(parsed.host):
        _refuse_url("leads to an address that is not public")
    return Target(parsed, parsed.host, port, exempt)


def _refuse_url(reason: str) -> NoReturn:
    """Raise `Invalid` for the URL of a webhook."""
    raise Invalid(f"the url {reason}", [Fault("/url", reason)])


async def find_addresses(tenant_id: int, target: Target) -> Collection[str]:
    """Return the addresses of a target, the preferred one first. Raises `Invalid` if one of them is not public."""
    try:
        addresses = await look_up(tenant_id, target.host, target.port)
    except (OSError, ValueError):
        _refuse_url("names a host that is not known")
    if not target.exempt and not all(map(_is_public, addresses)):
        _refuse_url("leads to an address that is not public")
    return addresses


def _is_address(host: str) -> bool:
    """Return whether a host is an address rather than a name."""
    with suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


def _is_number(host: str) -> bool:
    """Return whether a host is one that some resolvers take for an address, as `0x7f.1`: no name ends in a number."""
    last = host.removesuffix(".").rpartition(".")[2]
    return _NUMBER.fullmatch(last) is not None and not _is_address(host)


def _is_public(text: str) -> bool:
    """Return whether an address is public: not private, loopback or multicast, and without another one inside."""
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and (address not in PUBLIC_V6 or address in SIX_TO_FOUR):
        return False
    return address.is_global and not address.is_multicast
