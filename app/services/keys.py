"""Make, list and revoke the keys of a tenant."""

from collections.abc import Sequence

from sqlalchemy import Connection

from app.core.errors import Invalid, NotFound
from app.core.ids import check_id
from app.core.security import SCOPES, NewKey, make_key, make_token
from app.queries import keys as queries
from app.queries.keys import KeyRow

TOKEN_LIFETIME_S = 3600


def create_key(db: Connection, tenant: str, scopes: Sequence[str], now: int) -> NewKey:
    """Create a key, and the tenant if it is new. The text of the key cannot be read again."""
    if not scopes or not SCOPES.keys() >= set(scopes):
        raise Invalid(f"a key needs one or more of the scopes {', '.join(SCOPES)}")
    tenant_id = queries.find_tenant(db, tenant)
    if tenant_id is None:
        try:
            tenant_id = queries.insert_tenant(db, check_id(tenant), now)
        except ValueError as fault:
            raise Invalid(f"the name of a tenant {fault}") from None
    key = make_key(tenant_id)
    queries.insert_key(db, tenant_id, key.id, key.hash, sorted(set(scopes)), now)
    return key


def issue_token(db: Connection, tenant_id: int, key_id: str, scopes: Sequence[str], now: int) -> str:
    """Issue a token that stands for a key for an hour, with some of its scopes; delete the tenant's expired tokens."""
    text, hash_ = make_token(tenant_id)
    queries.delete_expired_tokens(db, tenant_id, now)
    queries.insert_token(db, tenant_id, hash_, key_id, sorted(scopes), now + TOKEN_LIFETIME_S * 1_000_000)
    return text


def list_keys(db: Connection, tenant: str) -> list[KeyRow]:
    """Return all keys of the tenant, also the revoked ones, oldest first."""
    return queries.list_keys(db, _tenant_id(db, tenant))


def revoke_key(db: Connection, tenant: str, key_id: str, now: int) -> None:
    """Revoke a key; within five seconds no worker accepts it any more."""
    if not queries.revoke_key(db, _tenant_id(db, tenant), key_id, now):
        raise NotFound("the tenant has no such key in force; `proxima key list` shows its keys")


def choose_tenant(db: Connection, name: str | None, now: int) -> int:
    """Return the tenant of that name; without a name the only one, created if there is none."""
    if name is None and not queries.list_tenants(db):
        return queries.insert_tenant(db, "default", now)
    return need_tenant(db, name)


def need_tenant(db: Connection, name: str | None) -> int:
    """Return the tenant of that name; without a name the only one. Raises `Invalid` if there is no such tenant."""
    tenants = {known: id_ for id_, known in queries.list_tenants(db)}
    if name in tenants:
        return tenants[name]
    if name is not None or len(tenants) != 1:
        known = ", ".join(tenants) or "none yet; `proxima key create` makes one"
        raise Invalid(f"say --tenant with one of: {known}")
    return next(iter(tenants.values()))


def _tenant_id(db: Connection, tenant: str) -> int:
    tenant_id = queries.find_tenant(db, tenant)
    if tenant_id is None:
        raise NotFound("there is no tenant of that name")
    return tenant_id
