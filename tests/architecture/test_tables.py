"""The tables as models, as migrations make them, and as the isolation of tenants needs them."""

from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, MetaData, Table, UniqueConstraint

from app.core.database import Database
from app.core.migrate import head_revision, is_current
from app.models import Base

OWNER = "tenant"
TABLES = sorted(Base.metadata.tables)
TENANT_TABLES = [table for table in TABLES if table != OWNER]


def differences(connection: Connection) -> list[object]:
    """What autogenerate would write into a new revision."""
    return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))


@pytest.mark.anyio
async def test_migrations_make_the_tables_of_the_models(database: Database) -> None:
    assert await database.read(differences) == []
    assert await database.read(collations) == await database.read(collations, Base.metadata)


@pytest.mark.controls
@pytest.mark.anyio
async def test_the_comparison_can_fail(database: Database) -> None:
    def drop_and_compare(connection: Connection) -> list[object]:
        Base.metadata.tables["correction"].drop(connection)
        return differences(connection)

    assert await database.write(drop_and_compare)


def collations(connection: Connection, metadata: MetaData | None = None) -> dict[str, str | None]:
    """The collation of every text column: autogenerate does not compare them, and the order of pages rests on them."""
    if metadata is None:
        metadata = MetaData()
        metadata.reflect(connection, only=TABLES)
    return {
        f"{table.name}.{column.name}": getattr(column.type.dialect_impl(connection.dialect), "collation", None)
        for table in metadata.tables.values()
        for column in table.columns
    }


@pytest.mark.anyio
async def test_a_migrated_database_is_current(database: Database) -> None:
    assert head_revision() is not None
    assert await database.read(is_current)


def test_no_row_can_be_stored_without_its_tenant() -> None:
    for name in TENANT_TABLES:
        column = Base.metadata.tables[name].c.tenant_id
        assert (column.nullable, column.default, column.server_default) == (False, None, None), name


def test_every_key_starts_with_the_tenant() -> None:
    for name in TENANT_TABLES:
        for columns in keys(Base.metadata.tables[name]):
            assert columns[0] == "tenant_id", f"{name}: {columns}"


def keys(table: Table) -> Iterator[list[str]]:
    """Columns of the primary key, of every unique constraint or index, and of both ends of every foreign key."""
    yield [column.name for column in table.primary_key.columns]
    for constraint in table.constraints:
        if isinstance(constraint, UniqueConstraint):
            yield [column.name for column in constraint.columns]
    for index in table.indexes:
        if index.unique:
            yield [column.name for column in index.columns]
    for foreign in table.foreign_key_constraints:
        yield [column.name for column in foreign.columns]
        if foreign.referred_table.name != OWNER:
            yield [element.column.name for element in foreign.elements]
