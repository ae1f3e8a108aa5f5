"""Who is calling, and whether they may: `caller: Annotated[Caller, require("analytics:read")]` in a route."""

import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer
from fastapi.security.base import SecurityBase

from app.core.errors import Forbidden, Unauthenticated
from app.core.security import SCOPES, allows, parse_key, parse_token
from app.core.times import now
from app.http.rate_limits import Limits, charge, charge_failure
from app.queries.keys import find_key, find_token

SECOND_US = 1_000_000
KEY_LIFETIME_S = 5.0
KNOWN_KEYS = 4096


@dataclass(frozen=True, slots=True)
class Caller:
    """The key of this request, and whose it is."""

    tenant_id: int
    key_id: str
    scopes: frozenset[str]


class KnownKeys:
    """A cache of keys found in the database less than five seconds ago, so that a revoked key fails as soon."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._callers: dict[bytes, tuple[float, Caller]] = {}

    def get(self, key_hash: bytes) -> Caller | None:
        """Return the caller with that key, if it is still fresh."""
        known = self._callers.get(key_hash)
        return known[1] if known is not None and self.clock() < known[0] + KEY_LIFETIME_S else None

    def put(self, key_hash: bytes, caller: Caller, read_at: float) -> None:
        """Store a caller; `read_at` is the time before the database was asked."""
        self._callers.pop(key_hash, None)
        if len(self._callers) >= KNOWN_KEYS:
            del self._callers[next(iter(self._callers))]
        self._callers[key_hash] = (read_at, caller)


class Permit(SecurityBase):
    """A dependency that returns the caller, if its key has `scope`; the OpenAPI document has it as a bearer key."""

    def __init__(self, scope: str) -> None:
        if scope not in SCOPES:
            raise ValueError(f"unknown scope {scope}")
        self.scope = scope
        self.scheme_name = "key"
        self.model = HTTPBearer(description="A key as `proxima key create` prints it: `Authorization: Bearer prx_…`")

    async def __call__(self, request: Request) -> Caller:
        caller: Caller | None = getattr(request.state, "caller", None)
        if caller is None:
            caller = request.state.caller = await _identify(request)
        if not allows(caller.scopes, self.scope):
            raise Forbidden(f"the key lacks the scope {self.scope}; make one that has it")
        return caller


def require(scope: str) -> Any:
    """Require a key with this scope; to stand in `Annotated[Caller, …]`."""
    return Depends(Permit(scope))


def permits_of(dependant: Dependant) -> Iterator[Permit]:
    """Return the permits a route asks for: each names its `scope`."""
    for child in dependant.dependencies:
        if isinstance(child.call, Permit):
            yield child.call
        yield from permits_of(child)


async def _identify(request: Request) -> Caller:
    """Return the caller whose key the request carries, charged for one request.

    Raises `Unauthenticated`, `RateLimited`; a valid key is never refused for failures of others from its address.
    """
    return await charge_caller(request, _find_caller(request))


async def charge_caller(request: Request, lookup: Awaitable[Caller]) -> Caller:
    """Charge a known caller's quota, or the failure quota of the address."""
    try:
        caller = await lookup
    except Unauthenticated:
        await charge_failure(request)
        raise
    limits: Limits = request.app.state.limits
    await charge(request, limits.requests, caller.tenant_id, caller.key_id)
    return caller


async def _find_caller(request: Request) -> Caller:
    """Return the caller whose key, or token, the request carries. Raises `Unauthenticated` if there is none."""
    scheme, _, text = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("send the key in the header Authorization: Bearer prx_…")
    text = text.strip(" ")
    key, token = parse_key(text), parse_token(text)
    if key is not None:
        return await caller_of_key(request, *key)
    if token is not None:
        return await _caller_of_token(request, *token)
    raise Unauthenticated("this is not a key of this service; see that it was copied whole")


async def caller_of_key(request: Request, tenant_id: int, key_hash: bytes) -> Caller:
    """Return the caller with a key. Raises `Unauthenticated`."""
    known: KnownKeys = request.app.state.known_keys
    caller = known.get(key_hash)
    if caller is None:
        read_at = known.clock()
        row = await request.app.state.database.read(find_key, tenant_id, key_hash)
        if row is None:
            raise Unauthenticated("the key is unknown or was revoked")
        caller = Caller(tenant_id, row.id, frozenset(row.scopes))
        known.put(key_hash, caller, read_at)
    return caller


async def _caller_of_token(request: Request, tenant_id: int, token_hash: bytes) -> Caller:
    """Return the caller with a token: its key, with the scopes of the token. Raises `Unauthenticated`."""
    known: KnownKeys = request.app.state.known_keys
    caller = known.get(token_hash)
    if caller is None:
        read_at, moment = known.clock(), now()
        row = await request.app.state.database.read(find_token, tenant_id, token_hash, moment)
        if row is None:
            raise Unauthenticated("the token has expired, or its key was revoked; get another one")
        caller = Caller(tenant_id, row.key_id, frozenset(row.scopes))
        known.put(token_hash, caller, min(read_at, read_at + (row.expires_at - moment) / SECOND_US - KEY_LIFETIME_S))
    return caller
