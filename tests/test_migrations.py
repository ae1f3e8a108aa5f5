"""Migrations go up, down and up again on a filled database, and happen once however many processes start."""

import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from subprocess import PIPE
from typing import Any, TypeVar

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    Connection,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    inspect,
    select,
)

from app.migrate import alone, configuration, downgrade, is_current, migrate, upgrade
from app.models import Base

REVISIONS = [script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions()][::-1]
PROCESSES = 6

T = TypeVar("T")

RACER = """
import os, sys, time
import app.migrate
from app.database import sqlite_engine
from sqlalchemy import Engine, event

{preparation}
runs = 0

@event.listens_for(Engine, "before_cursor_execute")
def watch(connection, cursor, statement, *_):
    global runs
    if "CREATE TABLE alembic_version" in statement:
        time.sleep(1)  # whoever is let in meanwhile finds an empty database too
    runs += statement.startswith("INSERT INTO alembic_version")

print("ready", flush=True)
sys.stdin.readline()
app.migrate.migrate(sys.argv[1])
print(runs)
"""
WITHOUT_LOCK = {
    "sqlite": "app.migrate.sqlite_engine = lambda url, **options: sqlite_engine(url, **options | {'begin': 'BEGIN'})",
    "postgresql": "app.migrate.ADVISORY_LOCK = os.getpid()",
}


@pytest.mark.parametrize(("before", "revision"), list(pairwise(["base", *REVISIONS])))
def test_up_down_up_on_a_filled_database(empty_database_url: str, before: str, revision: str) -> None:
    def do(work: Callable[[Connection], T]) -> T:
        return within(empty_database_url, work)

    if before != "base":
        do(partial(upgrade, revision=before))
    do(fill)
    old_schema, old_rows = do(schema), do(rows)

    do(partial(upgrade, revision=revision))
    do(fill)
    new_schema, new_rows = do(schema), do(rows)
    assert all(new_rows.values())

    do(partial(downgrade, revision=before))
    assert (do(schema), do(rows)) == (old_schema, old_rows)

    do(partial(upgrade, revision=revision))
    do(fill)
    assert do(schema) == new_schema
    assert do(rows).keys() == new_rows.keys()
    assert all(do(rows).values())


def test_the_newest_revision_has_the_tables_of_the_models(empty_database_url: str) -> None:
    migrate(empty_database_url)
    assert within(empty_database_url, rows) == {name: [] for name in Base.metadata.tables}


def test_an_empty_database_is_not_current(empty_database_url: str) -> None:
    assert not within(empty_database_url, is_current)
    migrate(empty_database_url)
    assert within(empty_database_url, is_current)


def test_processes_that_start_together_migrate_once(empty_database_url: str) -> None:
    outcomes = race(empty_database_url, "")
    assert [error for _, error in outcomes if error] == []
    assert sorted(runs for runs, _ in outcomes) == [0] * (PROCESSES - 1) + [1]
    assert within(empty_database_url, is_current)


def test_the_race_is_lost_without_the_lock(empty_database_url: str, engine_name: str) -> None:
    outcomes = race(empty_database_url, WITHOUT_LOCK[engine_name])
    assert [error for _, error in outcomes if error]


def race(url: str, preparation: str) -> list[tuple[int, str]]:
    """How often each of the processes migrated, and what it complained about, when all start at the same moment."""
    command = [sys.executable, "-c", RACER.format(preparation=preparation), url]
    processes = [subprocess.Popen(command, text=True, stdin=PIPE, stdout=PIPE, stderr=PIPE) for _ in range(PROCESSES)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60) for process in processes]
    return [(int(runs or 0), errors) for runs, errors in outputs]


def within(url: str, work: Callable[[Connection], T]) -> T:
    """What `work` returns, run in a transaction."""
    results: list[T] = []
    alone(url, lambda connection: results.append(work(connection)))
    return results[0]


def tables(connection: Connection) -> list[Table]:
    """The tables as they are now, each after those it refers to."""
    metadata = MetaData()
    metadata.reflect(connection)
    return [table for table in metadata.sorted_tables if table.name != "alembic_version"]


def fill(connection: Connection) -> None:
    """Put one row into every empty table."""
    stored: dict[str, dict[str, Any]] = {}
    for table in tables(connection):
        query = select(table)
        if connection.execute(query).first() is None:
            connection.execute(table.insert().values({c.name: value(c, stored) for c in table.columns}))
        stored[table.name] = dict(connection.execute(query).mappings().one())


def value(column: Column[Any], stored: dict[str, dict[str, Any]]) -> object:
    """The value the column refers to, or any of its type."""
    for foreign in column.foreign_keys:
        return stored[foreign.column.table.name][foreign.column.name]
    samples = {Boolean: True, Integer: 1, Float: 0.5, LargeBinary: b"\x00\x01", JSON: {"a": [1]}, String: "ü"}
    return next(sample for kind, sample in samples.items() if isinstance(column.type, kind))


def rows(connection: Connection) -> dict[str, list[Any]]:
    """All there is."""
    return {table.name: list(connection.execute(select(table))) for table in tables(connection)}


def schema(connection: Connection) -> dict[str, list[str]]:
    """Columns, keys and indexes of every table, in words."""
    look = inspect(connection)
    return {
        name: [
            *(f"{c['name']} {c['type']!r} {c['nullable']}" for c in look.get_columns(name)),
            repr(look.get_pk_constraint(name)),
            *sorted(map(repr, look.get_unique_constraints(name))),
            *sorted(map(repr, look.get_foreign_keys(name))),
            *sorted(map(repr, look.get_indexes(name))),
        ]
        for name in look.get_table_names()
        if name != "alembic_version"
    }
