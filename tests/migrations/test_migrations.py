"""Migrations go up, down and up again on a filled database, and happen once however many processes start.

What every revision must do is asked of all there are, so a new one is asked without a new test.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import pairwise
from pathlib import Path
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
    text,
)

from app.core.errors import Invalid, NotMigrated
from app.core.migrate import (
    FIRST_TO_DECLARE,
    compatible_from,
    configuration,
    current_revision,
    downgrade,
    head_revision,
    is_current,
    keeps_data,
    migrate,
    oldest_served,
    run_exclusively,
    upgrade,
)
from app.models import Base
from tests.processes import start

SCRIPT = ScriptDirectory.from_config(configuration())
REVISIONS = [script.revision for script in SCRIPT.walk_revisions()][::-1]
STEPS = list(pairwise(["base", *REVISIONS]))
PROCESSES = 6
FEW = 3
ROOT = Path(__file__).parents[2]

T = TypeVar("T")

RACER = """
import os, sys, time
import app.core.migrate
from app.core.database import sqlite_engine
from sqlalchemy import Engine, event

{preparation}
runs = 0
slept = False

@event.listens_for(Engine, "before_cursor_execute")
def watch(connection, cursor, statement, *_):
    global runs, slept
    if "CREATE TABLE" in statement and not slept:
        slept = True
        time.sleep(1)  # whoever is let in meanwhile finds the old database too
    runs += statement.startswith(("INSERT INTO alembic_version", "UPDATE alembic_version SET version_num"))

print("ready", flush=True)
sys.stdin.readline()
app.core.migrate.migrate(sys.argv[1])
print(runs)
"""
WITHOUT_LOCK = {
    "sqlite": (
        "app.core.migrate.sqlite_engine = lambda url, **options: sqlite_engine(url, **options | {'begin': 'BEGIN'})"
    ),
    "postgresql": "app.core.migrate.ADVISORY_LOCK = os.getpid()",
}


@pytest.mark.parametrize(("before", "revision"), STEPS)
def test_migrations_go_up_down_and_up_on_a_filled_database(empty_database_url: str, before: str, revision: str) -> None:
    def do(work: Callable[[Connection], T]) -> T:
        return within(empty_database_url, work)

    if before != "base":
        run_exclusively(empty_database_url, partial(upgrade, revision=before))
    do(fill)
    old_schema, old_rows = do(schema), do(rows)

    run_exclusively(empty_database_url, partial(upgrade, revision=revision))
    do(fill)
    new_schema, new_rows = do(schema), do(rows)
    assert all(new_rows.values())

    if not keeps_data(SCRIPT, revision):
        with pytest.raises(Invalid, match="lose-data"):
            run_exclusively(empty_database_url, partial(downgrade, revision=before))
        assert (do(schema), do(rows)) == (new_schema, new_rows)

    run_exclusively(empty_database_url, partial(downgrade, revision=before, lose_data=not keeps_data(SCRIPT, revision)))
    assert (do(schema), do(rows)) == (old_schema, old_rows)

    run_exclusively(empty_database_url, partial(upgrade, revision=revision))
    do(fill)
    assert do(schema) == new_schema
    assert do(rows).keys() == new_rows.keys()
    assert all(do(rows).values())


@pytest.mark.controls
def test_migrate_goes_to_a_revision_up_and_down(empty_database_url: str) -> None:
    for revision in ("0004", REVISIONS[-1], "0005"):
        migrate(empty_database_url, revision, lose_data=True)
        assert within(empty_database_url, current_revision) == revision
    migrate(empty_database_url, "0004")  # 0005 says that its way down loses nothing
    assert within(empty_database_url, current_revision) == "0004"
    migrate(empty_database_url, "base", lose_data=True)
    assert within(empty_database_url, tables) == []
    migrate(empty_database_url, "base")
    migrate(empty_database_url)
    assert within(empty_database_url, is_current)


def test_migrate_changes_nothing_if_a_later_step_down_loses_data(empty_database_url: str) -> None:
    """PostgreSQL commits each step, so asking step by step would stop half way: 0005 loses nothing, 0004 does."""
    migrate(empty_database_url, "0005")
    with pytest.raises(Invalid, match="down to 0002 loses data of revision 0004; make a backup"):
        migrate(empty_database_url, "0002")
    assert within(empty_database_url, current_revision) == "0005"


def test_migrate_refuses_a_revision_that_does_not_exist(empty_database_url: str) -> None:
    with pytest.raises(Invalid, match=r"no revision 9001; this program has base, 0001, .*, 0008"):
        migrate(empty_database_url, "9001")


def test_migrate_takes_no_newer_database_down(database_url: str) -> None:
    newer = text("UPDATE alembic_version SET version_num = '9001'")
    within(database_url, lambda db: db.execute(newer))
    with pytest.raises(NotMigrated, match="at revision 9001 of a newer program"):
        migrate(database_url, "0005", lose_data=True)


@pytest.mark.controls
def test_comparison_of_rows_notices_a_changed_name(empty_database_url: str) -> None:
    migrate(empty_database_url)
    within(empty_database_url, fill)
    before = within(empty_database_url, rows)
    within(empty_database_url, lambda db: db.execute(Base.metadata.tables["tenant"].update().values(name="other")))
    assert within(empty_database_url, rows) != before


def test_alembic_downgrade_loses_data_only_if_allowed(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'a.db'}"
    run_exclusively(url, partial(upgrade, revision="0002"))

    def alembic(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "alembic", *arguments]
        environment = {**os.environ, "PROXIMA_DATABASE_URL": url}
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)

    refused = alembic("downgrade", "0001")
    assert refused.returncode != 0
    assert "lose-data=yes" in refused.stderr + refused.stdout
    assert alembic("current").stdout.split()[0] == "0002"
    assert alembic("-x", "lose-data=yes", "downgrade", "0001").returncode == 0
    assert alembic("current").stdout.split()[0] == "0001"


@pytest.mark.parametrize("revision", [revision for revision in REVISIONS if revision >= FIRST_TO_DECLARE])
def test_revisions_say_which_programs_they_serve(revision: str) -> None:
    """Whether an upgrade needs a pause is decided by whoever writes the revision, not by forgetting."""
    oldest = getattr(SCRIPT.get_revision(revision).module, "compatible_from", None)
    assert oldest in REVISIONS
    assert oldest <= revision


def test_database_says_which_programs_it_serves(empty_database_url: str) -> None:
    for revision in (revision for revision in REVISIONS if revision >= FIRST_TO_DECLARE):
        run_exclusively(empty_database_url, partial(upgrade, revision=revision))
        assert within(empty_database_url, oldest_served) == compatible_from(SCRIPT, revision)


@pytest.mark.parametrize(("oldest", "works"), [("0002", True), ("mine", True), ("9001", False), (None, False)])
def test_program_works_with_a_newer_database_that_serves_it(database_url: str, oldest: str | None, works: bool) -> None:
    """The rule itself; real revisions under a real service: tests/migrations/test_upgrading.py."""
    said = f"'{head_revision() if oldest == 'mine' else oldest}'" if oldest else "NULL"
    statement = text(f"UPDATE alembic_version SET version_num = '9001', compatible_from = {said}")
    within(database_url, lambda db: db.execute(statement))
    assert within(database_url, is_current) == works
    with nullcontext() if works else pytest.raises(NotMigrated):
        migrate(database_url)
    assert within(database_url, lambda db: db.scalar(text("SELECT version_num FROM alembic_version"))) == "9001"


def test_program_never_works_with_an_older_database(empty_database_url: str) -> None:
    run_exclusively(empty_database_url, partial(upgrade, revision=REVISIONS[-2]))
    assert not within(empty_database_url, is_current)


def test_newest_revision_has_the_tables_of_the_models(empty_database_url: str) -> None:
    migrate(empty_database_url)
    assert within(empty_database_url, rows) == {name: [] for name in Base.metadata.tables}


def test_empty_database_is_not_current(empty_database_url: str) -> None:
    assert not within(empty_database_url, is_current)
    migrate(empty_database_url)
    assert within(empty_database_url, is_current)


@pytest.mark.parametrize("before", ["base", "0002"])
def test_migration_happens_once_when_processes_start_together(empty_database_url: str, before: str) -> None:
    steps = len(REVISIONS)
    if before != "base":
        run_exclusively(empty_database_url, partial(upgrade, revision=before))
        steps -= REVISIONS.index(before) + 1
    outcomes = race(empty_database_url, "")
    assert [error for _, error in outcomes if error] == []
    assert sorted(runs for runs, _ in outcomes) == [0] * (PROCESSES - 1) + [steps]
    assert within(empty_database_url, is_current)


@pytest.mark.controls
def test_migration_without_the_lock_fails_when_processes_start_together(
    empty_database_url: str, engine_name: str
) -> None:
    outcomes = race(empty_database_url, WITHOUT_LOCK[engine_name], FEW)
    assert [error for _, error in outcomes if error]


def race(url: str, preparation: str, count: int = PROCESSES) -> list[tuple[int, str]]:
    """How often each of the processes migrated, and what it complained about, when all start at the same moment."""
    program = RACER.format(preparation=preparation)
    processes = [start([url], program=program, stdin=PIPE, stdout=PIPE, stderr=PIPE) for _ in range(count)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120) for process in processes]
    return [(int(runs or 0), errors) for runs, errors in outputs]


def within(url: str, work: Callable[[Connection], T]) -> T:
    """What `work` returns, run in a transaction."""
    results: list[T] = []

    def transaction(connection: Connection) -> None:
        with nullcontext() if connection.in_transaction() else connection.begin():
            results.append(work(connection))

    run_exclusively(url, transaction)
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
