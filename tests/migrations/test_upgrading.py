"""PostgreSQL is migrated while programs of the revision before go on working with it.

Two views: what any program of an older revision may be sending is sent while each real revision is applied; and a
real service serves clients while revisions that are not yet written are. In both, somebody has read everything in a
transaction that goes on, as a backup does.
"""

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Column, Connection, Engine, Table, UniqueConstraint, event, inspect, select, text

from app.core import migrate
from app.core.database import Database, open_database
from tests.faults.harness import Service, clients_of, create_courses, response_of, serving, wait_until
from tests.migrations.test_migrations import fill, tables, within

SCRIPT = ScriptDirectory.from_config(migrate.configuration())
REVISIONS = [script.revision for script in SCRIPT.walk_revisions()][::-1]
# 0002 was not written for a service that goes on.
STEPS = [(before, revision) for before, revision in pairwise(REVISIONS) if before >= "0002"]
READS_ON_S = 1.5
LONGEST_S = 90

FUTURE = """
import sqlalchemy as sa
from alembic import op

revision, down_revision = "{revision}", "{before}"
{declared}

def upgrade():
{body}
"""
SAFE = """
    op.add_column("response", sa.Column("tone", sa.Text))
    op.add_column("learner", sa.Column("mood", sa.Integer, nullable=False, server_default="0"))
    op.create_table("feeling", sa.Column("tenant_id", sa.BigInteger, primary_key=True))
    with op.get_context().autocommit_block():
        op.execute("SET lock_timeout = '600s'")  # it waits for transactions that read; nobody waits for it
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_response_tone")  # a broken attempt left it invalid
        op.create_index("ix_response_tone", "response", ["tenant_id", "tone"], postgresql_concurrently=True)
"""
UNSAFE = """
    op.alter_column("learner", "theta", new_column_name="ability")
"""

only_postgres = pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)


# Any program of an older revision


def use(db: Connection, table: Table, number: int) -> None:
    """Read all columns, rewrite a row, and add one: an own one, or the same again after deleting it, if it can be."""
    row = dict(db.execute(select(table).limit(1)).mappings().one())
    keys = [column.name for column in table.primary_key.columns]
    same = [table.c[name] == row[name] for name in keys]
    db.execute(table.update().where(*same).values(row))
    new = {**row, **{column.name: another(row[column.name], number) for column in own_keys(table)}}
    if any(new[name] != row[name] for name in keys):
        db.execute(table.insert().values(new))
        db.execute(table.delete().where(*(table.c[name] == new[name] for name in keys)))
    elif not is_referenced(table):
        db.execute(table.delete().where(*same))
        db.execute(table.insert().values(row))


def is_referenced(table: Table) -> bool:
    """Whether rows of other tables refer to rows of this one."""
    return any(key.column.table is table for other in table.metadata.tables.values() for key in other.foreign_keys)


def own_keys(table: Table) -> list[Column[Any]]:
    """Columns that tell rows apart and do not refer to others."""
    unique = {c for u in table.constraints if isinstance(u, UniqueConstraint) for c in u.columns}
    unique |= {c for index in table.indexes if index.unique for c in index.columns}
    return [column for column in {*table.primary_key.columns, *unique} if not column.foreign_keys]


def another(value: Any, number: int) -> Any:
    """A value of the same type that no other row has."""
    if isinstance(value, int):
        return 1000 + number
    return f"n{number}" if isinstance(value, str) else str(number).encode()


async def go_on(database: Database, table: Table | None, done: Counter[str], failed: Counter[str]) -> None:
    """Work on a table (none: ask for the version, as `/readyz` does) until cancelled, and count how it went."""
    name = "the version" if table is None else table.name
    for number in count():
        try:
            if table is None:
                await database.read(migrate.current_revision)
            else:
                await database.write(use, table, number)
        except Exception as error:  # noqa: BLE001 (whatever it is, an older program would have met it)
            failed[f"{name}: {error.__cause__ or error}"[:300]] += 1
        done[name] += 1


@asynccontextmanager
async def a_long_reader(url: str) -> AsyncIterator[None]:
    """A transaction that has read every table and goes on."""
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction(readonly=True):
            for row in await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"):
                await connection.fetch(f'SELECT 1 FROM "{row[0]}" LIMIT 1')
            yield
    finally:
        await connection.close()


async def upgrade_beside_a_reader(url: str, revision: str, reads_on_s: float = READS_ON_S) -> None:
    """Migrate while somebody reads on."""
    async with a_long_reader(url):
        upgrading = asyncio.create_task(
            asyncio.to_thread(migrate.run_exclusively, url, partial(migrate.upgrade, revision=revision))
        )
        await asyncio.wait([upgrading], timeout=reads_on_s)
    await asyncio.wait_for(upgrading, LONGEST_S)


async def failures(url: str, before: str, revision: str, reads_on_s: float = READS_ON_S) -> Counter[str]:
    """What failed for programs of the revision before, while a filled database was migrated and afterwards."""
    await asyncio.to_thread(migrate.run_exclusively, url, partial(migrate.upgrade, revision=before))
    await asyncio.to_thread(within, url, fill)
    known: list[Table | None] = [None, *await asyncio.to_thread(within, url, tables)]
    done: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    database = open_database(url, pool_size=len(known))
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(go_on(database, table, done, failed)) for table in known]
            await worked(done, len(known))
            await upgrade_beside_a_reader(url, revision, reads_on_s)
            done.clear()
            await worked(done, len(known))
            for task in tasks:
                task.cancel()
    finally:
        await database.close()
    assert await asyncio.to_thread(within, url, migrate.current_revision) == revision
    return failed


async def worked(done: Counter[str], count_: int) -> None:
    """Wait until each has worked twice: once from its beginning on."""
    await wait_until(lambda: len(done) == count_ and min(done.values()) > 1)


def promises(before: str, revision: str) -> bool:
    """Whether a revision leaves programs of the one before working; one that is silent is held to it here."""
    script = SCRIPT.get_revision(revision)
    return bool(getattr(script.module, "compatible_from", before) <= before)


@only_postgres
@pytest.mark.anyio
@pytest.mark.parametrize(("before", "revision"), [step for step in STEPS if promises(*step)])
async def test_older_program_continues_while_a_revision_is_applied(
    empty_database_url: str, before: str, revision: str
) -> None:
    assert await failures(empty_database_url, before, revision) == Counter()


@pytest.mark.controls
@only_postgres
@pytest.mark.anyio
async def test_older_program_fails_behind_a_migration_that_waits_long(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(migrate, "LOCK_TIMEOUT", "60s")
    failed = await failures(empty_database_url, "0004", "0005", reads_on_s=3.5)
    assert any("lock timeout" in told for told in failed), failed


# A service, and revisions of the future


@pytest.fixture
def future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of revisions to which more can be added: while it is there, this process is the newer program."""
    folder = tmp_path / "migrations"
    shutil.copytree(migrate.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    newest = migrate.head_revision()
    write_revision(folder, "9001", str(newest), f'compatible_from = "{newest}"', SAFE)
    write_revision(folder, "9002", "9001", f'compatible_from = "{newest}"', UNSAFE)
    monkeypatch.setattr(migrate, "MIGRATIONS", folder)
    migrate.head_revision.cache_clear()
    yield folder
    monkeypatch.undo()
    migrate.head_revision.cache_clear()


def write_revision(folder: Path, revision: str, before: str, declared: str, body: str) -> None:
    told = FUTURE.format(revision=revision, before=before, declared=declared, body=body)
    (folder / "versions" / f"{revision}_future.py").write_text(told)


async def keep_answering(client: httpx.AsyncClient, name: str, tally: Counter[int]) -> None:
    """Send answers and look at what became of them, until cancelled; counts the statuses."""
    for number in count():
        answer = response_of(f"{name}-{number}")
        for reply in (
            await client.post("responses", json=answer),
            await client.get(f"learners/{answer['learner']}/mastery"),
            await client.get(client.base_url.join("/readyz")),
        ):
            tally[reply.status_code] += 1


async def statuses_during(service: Service, revision: str) -> Counter[int]:
    """What clients were told while the database of a service was migrated, and afterwards."""
    tally: Counter[int] = Counter()

    async def more(count_: int) -> None:
        goal = tally.total() + count_
        await wait_until(lambda: tally.total() >= goal)

    async with clients_of(service) as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(keep_answering(client, f"{revision}-{n}", tally)) for n in range(4)]
        await more(20)
        await upgrade_beside_a_reader(service.url, revision)
        await more(20)
        for task in tasks:
            task.cancel()
    return tally


@only_postgres
@pytest.mark.anyio
async def test_service_continues_while_a_newer_program_migrates(
    database_url: str, tmp_path: Path, future: Path
) -> None:
    key = await create_courses(database_url)
    with serving(database_url, key, tmp_path / "service") as service:
        await service.ready(1)
        assert (await statuses_during(service, "9001")).keys() == {200, 201}
        assert "ix_response_tone" in await asyncio.to_thread(within, database_url, valid_indexes)

        # The control: a revision that promises what it does not keep.
        assert (await statuses_during(service, "9002")).keys() - {200, 201}


def valid_indexes(db: Connection) -> set[str]:
    """The indexes that are complete."""
    statement = "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indisvalid"
    return set(db.execute(text(statement)).scalars())


@only_postgres
@pytest.mark.anyio
async def test_service_is_not_ready_when_a_newer_program_left_it_behind(
    database_url: str, tmp_path: Path, future: Path
) -> None:
    write_revision(future, "9001", str(REVISIONS[-1]), "", SAFE)
    key = await create_courses(database_url)
    with serving(database_url, key, tmp_path / "service") as service:
        await service.ready(1)
        async with clients_of(service) as client:
            assert (await client.get(client.base_url.join("/readyz"))).status_code == 200
            await upgrade_beside_a_reader(database_url, "9001", 0)
            reply = await client.get(client.base_url.join("/readyz"))
            assert (reply.status_code, reply.json()["code"]) == (503, "not_migrated")


# What stops a table that is in use


RISKS = (
    (
        r"CREATE (UNIQUE )?INDEX (?!CONCURRENTLY)",
        "writes wait while it is built: autocommit_block, concurrently",
    ),
    (r"CREATE (UNIQUE )?INDEX CONCURRENTLY IF NOT EXISTS", "what a broken attempt left is not valid: drop it first"),
    (r"ADD COLUMN (?=.*NOT NULL)(?!.*DEFAULT)", "programs do not give a value: let it be null, or have a default"),
    (r"ADD COLUMN .*DEFAULT (?!'|[0-9-]|false|true|NULL)", "the table is written anew: a constant default"),
    (r"ALTER (COLUMN )?\S+ (SET DATA )?TYPE", "the table is written anew: a new column"),
    (r"SET NOT NULL", "all rows are read under the lock: a check NOT VALID, validated later"),
    (r"ADD CONSTRAINT (?!.*NOT VALID)", "all rows are read under the lock: NOT VALID, then VALIDATE"),
    (r"RENAME", "programs use the old name: a new column or table"),
    (r"DROP (COLUMN|TABLE|DEFAULT)", "programs use it: drop it one release later"),
)
NAME = re.compile(r'(?:TABLE|ON)(?: ONLY| IF EXISTS)* "?(\w+)"?', re.IGNORECASE)


def risks(statement: str, existing: set[str]) -> list[str]:
    """What is wrong with a statement for programs that use one of the tables."""
    plain = " ".join(statement.split())
    if not re.match("CREATE (UNIQUE )?INDEX|ALTER TABLE|DROP", plain, re.IGNORECASE):
        return []
    named = NAME.search(plain)
    if named is None or named[1] not in existing:
        return []
    return [why for pattern, why in RISKS if re.search(pattern, plain, re.IGNORECASE)]


def statements_of(url: str, revision: str) -> list[str]:
    """What a revision sends to the database."""
    sent: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        sent.append(statement)

    event.listen(Engine, "before_cursor_execute", note)
    try:
        migrate.run_exclusively(url, partial(migrate.upgrade, revision=revision))
    finally:
        event.remove(Engine, "before_cursor_execute", note)
    return sent


@only_postgres
def test_revisions_do_not_block_tables_that_are_in_use(empty_database_url: str) -> None:
    migrate.run_exclusively(empty_database_url, partial(migrate.upgrade, revision="0002"))
    for before, revision in STEPS:
        existing = set(within(empty_database_url, lambda db: inspect(db).get_table_names()))
        sent = statements_of(empty_database_url, revision)
        assert sent
        if promises(before, revision):
            assert {statement: found for statement in sent if (found := risks(statement, existing))} == {}


@pytest.mark.controls
@only_postgres
def test_law_of_revisions_notices_one_that_blocks_a_table(database_url: str, future: Path) -> None:
    body = '    op.create_index("ix_learner_theta", "learner", ["tenant_id", "theta"])'
    write_revision(future, "9001", str(REVISIONS[-1]), "", body)
    (future / "versions" / "9002_future.py").unlink()
    assert [found for sent in statements_of(database_url, "9001") if (found := risks(sent, {"learner"}))]


@pytest.mark.parametrize(
    ("statement", "risky"),
    [
        ("CREATE INDEX i ON learner (theta)", True),
        ('CREATE UNIQUE INDEX i ON "learner" (theta)', True),
        ("CREATE INDEX CONCURRENTLY IF NOT EXISTS i ON learner (theta)", True),
        ("ALTER TABLE learner ADD COLUMN x INTEGER NOT NULL", True),
        ("ALTER TABLE learner ADD COLUMN x FLOAT DEFAULT random()", True),
        ("ALTER TABLE learner ALTER COLUMN theta TYPE REAL", True),
        ("ALTER TABLE learner ALTER COLUMN theta SET NOT NULL", True),
        ("ALTER TABLE learner ADD CONSTRAINT c CHECK (theta < 9)", True),
        ("ALTER TABLE learner RENAME theta TO ability", True),
        ("ALTER TABLE learner DROP COLUMN theta", True),
        ("DROP TABLE learner", True),
        ("CREATE INDEX CONCURRENTLY i ON learner (theta)", False),
        ("CREATE INDEX i ON brand_new (theta)", False),
        ("ALTER TABLE learner ADD COLUMN x INTEGER", False),
        ("ALTER TABLE learner ADD COLUMN x INTEGER DEFAULT '0' NOT NULL", False),
        ("ALTER TABLE learner ADD CONSTRAINT c CHECK (theta < 9) NOT VALID", False),
        ("ALTER TABLE learner VALIDATE CONSTRAINT c", False),
        ("DROP INDEX CONCURRENTLY IF EXISTS i", False),
        ("UPDATE learner SET theta = 0", False),
    ],
)
def test_statements_that_block_a_table_are_recognised(statement: str, risky: bool) -> None:
    assert bool(risks(statement, {"learner"})) == risky
