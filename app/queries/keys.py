"""Tenants and their keys."""

from typing import NamedTuple

from sqlalchemy import Connection, and_, delete, insert, select, update

from app.models import AccessToken, ApiKey, Tenant


class KeyRow(NamedTuple):
    """A key as it is stored, without its hash."""

    id: str
    scopes: list[str]
    created_at: int
    revoked_at: int | None


class _TokenRow(NamedTuple):
    """A token as it is stored, without its hash."""

    key_id: str
    scopes: list[str]
    expires_at: int


def find_tenant(db: Connection, name: str) -> int | None:
    """The id of the tenant of that name."""
    return db.scalar(select(Tenant.id).where(Tenant.name == name))


def insert_tenant(db: Connection, name: str, now: int) -> int:
    """Store a tenant and give its id."""
    return db.execute(insert(Tenant).values(name=name, created_at=now).returning(Tenant.id)).scalar_one()


def insert_key(db: Connection, tenant_id: int, key_id: str, key_hash: bytes, scopes: list[str], now: int) -> None:
    """Store a key by its hash."""
    db.execute(
        insert(ApiKey).values(
            tenant_id=tenant_id, id=key_id, hash=key_hash, scopes=scopes, created_at=now, revoked_at=None
        )
    )


def find_key(db: Connection, tenant_id: int, key_hash: bytes) -> KeyRow | None:
    """The key with that hash, unless it was revoked."""
    row = db.execute(
        select(ApiKey.id, ApiKey.scopes, ApiKey.created_at, ApiKey.revoked_at).where(
            ApiKey.tenant_id == tenant_id, ApiKey.hash == key_hash, ApiKey.revoked_at.is_(None)
        )
    ).one_or_none()
    return None if row is None else KeyRow(*row)


def insert_token(
    db: Connection, tenant_id: int, token_hash: bytes, key_id: str, scopes: list[str], expires_at: int
) -> None:
    """Store a token by its hash."""
    row = {"tenant_id": tenant_id, "hash": token_hash, "key_id": key_id, "scopes": scopes, "expires_at": expires_at}
    db.execute(insert(AccessToken), row)


def delete_expired_tokens(db: Connection, tenant_id: int, now: int) -> None:
    """Forget the tokens of a tenant that nobody can use any more."""
    db.execute(delete(AccessToken).where(AccessToken.tenant_id == tenant_id, AccessToken.expires_at <= now))


def find_token(db: Connection, tenant_id: int, token_hash: bytes, now: int) -> _TokenRow | None:
    """The token with that hash, unless it has expired or its key was revoked."""
    its_key = and_(ApiKey.tenant_id == AccessToken.tenant_id, ApiKey.id == AccessToken.key_id)
    row = db.execute(
        select(AccessToken.key_id, AccessToken.scopes, AccessToken.expires_at)
        .join(ApiKey, its_key)
        .where(
            AccessToken.tenant_id == tenant_id,
            AccessToken.hash == token_hash,
            AccessToken.expires_at > now,
            ApiKey.revoked_at.is_(None),
        )
    ).one_or_none()
    return None if row is None else _TokenRow(*row)


def list_keys(db: Connection, tenant_id: int) -> list[KeyRow]:
    """All keys of the tenant, also the revoked ones, oldest first."""
    rows = db.execute(
        select(ApiKey.id, ApiKey.scopes, ApiKey.created_at, ApiKey.revoked_at)
        .where(ApiKey.tenant_id == tenant_id)
        .order_by(ApiKey.created_at, ApiKey.id)
    )
    return [KeyRow(*row) for row in rows]


def revoke_key(db: Connection, tenant_id: int, key_id: str, now: int) -> bool:
    """Mark the key as revoked; false if the tenant has no such key in force."""
    result = db.execute(
        update(ApiKey)
        .where(ApiKey.tenant_id == tenant_id, ApiKey.id == key_id, ApiKey.revoked_at.is_(None))
        .values(revoked_at=now)
    )
    return result.rowcount == 1


def list_tenants(db: Connection) -> list[tuple[int, str]]:
    """All tenants, id and name."""
    return [(id_, name) for id_, name in db.execute(select(Tenant.id, Tenant.name).order_by(Tenant.id))]
