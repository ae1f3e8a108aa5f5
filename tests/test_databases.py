"""A database of PostgreSQL that is used again is as a new one: no row, no number given, nothing defined otherwise."""

import asyncio
import os
from itertools import count

import asyncpg
import pytest

from tests import postgres

TENANT = "INSERT INTO tenant (name, created_at) VALUES ('school', 1) RETURNING id"


def run(url: str, statement: str) -> object:
    async def once() -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(once())


@pytest.fixture(scope="module")
def databases(postgres_server: str, postgres_template: str) -> postgres.Databases:
    """Databases that no other test uses."""
    return postgres.Databases(postgres_server, postgres_template, (f"again_{os.getpid()}_{n}" for n in count()))


def test_database_is_empty_when_it_is_used_again(databases: postgres.Databases) -> None:
    with databases.empty() as first:
        assert run(first, TENANT) == 1
        number = run(first, postgres.OWN)
    with databases.empty() as second:
        assert second != first
        assert run(second, postgres.OWN) == number
        assert run(second, "SELECT count(*) FROM tenant") == 0
        assert run(second, TENANT) == 1


def test_database_is_taken_from_whoever_holds_it(databases: postgres.Databases) -> None:
    with asyncio.Runner() as runner:
        with databases.empty() as first:
            held = runner.run(asyncpg.connect(first))
            runner.run(held.execute("BEGIN; LOCK TABLE tenant"))
            number = run(first, postgres.OWN)
        with databases.empty() as second:
            assert run(second, postgres.OWN) == number
            assert run(second, TENANT) == 1
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
            runner.run(held.execute("SELECT 1"))


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE more (number int)",
        "ALTER TABLE tenant ADD more int",
        "ALTER TABLE tenant ALTER name DROP NOT NULL",
        "ALTER TABLE tenant ALTER name SET DEFAULT 'a'",
        "CREATE INDEX more ON tenant (created_at)",
        "ALTER TABLE response RENAME TO answer",
        "UPDATE alembic_version SET version_num = '0001'",
        "DROP TABLE alembic_version",
        "CREATE FUNCTION more() RETURNS int LANGUAGE sql AS 'SELECT 1'",
        "DO $$ BEGIN EXECUTE 'ALTER DATABASE ' || quote_ident(current_database()) || ' SET work_mem = 64'; END $$",
    ],
)
def test_database_that_was_redefined_is_not_used_again(databases: postgres.Databases, statement: str) -> None:
    with databases.empty() as first:
        run(first, statement)
        number = run(first, postgres.OWN)
    with databases.empty() as second:
        assert run(second, postgres.OWN) != number
