"""Keys in the database: found by tenant and hash until they are revoked."""

import pytest

from app.core.database import Database
from app.core.errors import Invalid, NotFound
from app.core.security import parse_key
from app.queries.keys import find_key
from app.services.keys import create_key, list_keys, revoke_key

pytestmark = pytest.mark.anyio


async def test_key_is_found_by_its_tenant_and_hash_only(database: Database) -> None:
    key = await database.write(create_key, "school", ["learners:read", "responses:write", "learners:read"], 1)
    other = await database.write(create_key, "college", ["admin"], 2)
    tenant_id, key_hash = parse_key(key.text) or pytest.fail("not a key")
    other_id, other_hash = parse_key(other.text) or pytest.fail("not a key")
    assert tenant_id != other_id

    row = await database.read(find_key, tenant_id, key_hash)
    assert row is not None
    assert (row.id, row.scopes, row.created_at) == (key.id, ["learners:read", "responses:write"], 1)
    assert await database.read(find_key, other_id, key_hash) is None
    assert await database.read(find_key, tenant_id, other_hash) is None


async def test_keys_of_one_name_share_the_tenant(database: Database) -> None:
    first = await database.write(create_key, "school", ["admin"], 1)
    second = await database.write(create_key, "school", ["admin"], 2)
    assert [row.id for row in await database.read(list_keys, "school")] == [first.id, second.id]
    assert first.text.split("_")[1] == second.text.split("_")[1]


async def test_revoked_key_is_not_found_but_listed(database: Database) -> None:
    key = await database.write(create_key, "school", ["admin"], 1)
    await database.write(create_key, "college", ["admin"], 1)
    with pytest.raises(NotFound):
        await database.write(revoke_key, "college", key.id, 5)
    await database.write(revoke_key, "school", key.id, 5)
    assert await database.read(find_key, *(parse_key(key.text) or pytest.fail("not a key"))) is None
    assert [row.revoked_at for row in await database.read(list_keys, "school")] == [5]
    with pytest.raises(NotFound):
        await database.write(revoke_key, "school", key.id, 6)


@pytest.mark.parametrize(
    ("tenant", "scopes"), [("school", []), ("school", ["root"]), ("", ["admin"]), ("x" * 256, ["admin"])]
)
async def test_key_with_an_invalid_tenant_or_scope_is_refused(
    database: Database, tenant: str, scopes: list[str]
) -> None:
    with pytest.raises(Invalid):
        await database.write(create_key, tenant, scopes, 1)
    with pytest.raises(NotFound):
        await database.read(list_keys, "school")
