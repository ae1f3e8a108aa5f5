"""Bring a database to the version of this program, once, however many processes start together."""

import asyncio
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

from app.database import is_unavailable, postgres_engine, sqlite_engine
from app.errors import Unavailable

MIGRATIONS = Path(__file__).resolve().parent.parent / "migrations"
ADVISORY_LOCK = 7_306_071_185
LONGEST_MIGRATION_S = 600
ATTEMPTS = 6
LOCK_NOT_AVAILABLE = "55P03"


def migrate(url: str) -> None:
    """Upgrade the database at `url` to the newest revision, if it is not there yet. Not for use in an event loop."""
    alone(url, upgrade)


def is_current(db: Connection) -> bool:
    """Whether the database is at the revision this program was written for."""
    return MigrationContext.configure(db).get_current_heads() == (head(),)


@cache
def head() -> str | None:
    """The newest revision."""
    return ScriptDirectory.from_config(configuration()).get_current_head()


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Upgrade within the open transaction of `connection`."""
    command.upgrade(configuration(connection), revision)


def downgrade(connection: Connection, revision: str) -> None:
    """Downgrade within the open transaction of `connection`; what the older schema cannot hold is lost."""
    command.downgrade(configuration(connection), revision)


def configuration(connection: Connection | None = None) -> Config:
    """What Alembic needs to know; it finds the revisions from any working directory."""
    config = Config(attributes={} if connection is None else {"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def alone(url: str, work: Callable[[Connection], None]) -> None:
    """Run `work` in one transaction while no other process can be in here for the same database."""
    if url.startswith("sqlite:"):
        alone_on_sqlite(url, work)
    else:
        asyncio.run(alone_on_postgres(url, work))


def alone_on_sqlite(url: str, work: Callable[[Connection], None]) -> None:
    """The write lock is taken before the version is read, so nobody acts on a version that has gone."""
    engine = sqlite_engine(url, connections=1, begin="BEGIN IMMEDIATE", read_only=False)
    event.listen(engine, "connect", wait_long_and_allow_replacing_tables)
    try:
        with connected(engine) as connection, connection.begin():
            work(connection)
            broken = connection.execute(text("PRAGMA foreign_key_check")).all()
            if broken:
                raise RuntimeError(f"the migration would leave {len(broken)} rows that refer to nothing")
    finally:
        engine.dispose()


def wait_long_and_allow_replacing_tables(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """SQLite alters a table by replacing it; enforced keys would forbid the moment in between."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {LONGEST_MIGRATION_S * 1000}")
    cursor.execute("PRAGMA foreign_keys = OFF")
    cursor.close()


def connected(engine: Engine) -> Connection:
    """SQLite refuses, instead of waiting, when two processes switch a new file to its write-ahead log at once."""
    for attempt in range(1, ATTEMPTS):
        try:
            return engine.connect()
        except OperationalError:
            time.sleep(0.05 * 2**attempt)
    return engine.connect()


async def alone_on_postgres(url: str, work: Callable[[Connection], None]) -> None:
    """An advisory lock on a connection of its own keeps the others waiting, for a bounded time."""
    engine = postgres_engine(url, pool_size=2, statement_timeout_s=LONGEST_MIGRATION_S)
    try:
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as guard:
            await guard.execute(text(f"SET lock_timeout = '{LONGEST_MIGRATION_S}s'"))
            await guard.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
            await patiently(engine, work)
            await guard.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
    except Exception as error:
        if not is_unavailable(error):
            raise
        raise Unavailable("the database cannot be reached; see that it runs and what its URL says") from error
    finally:
        await engine.dispose()


async def patiently(engine: AsyncEngine, work: Callable[[Connection], None]) -> None:
    """Run `work` in a transaction, again if a table stayed locked: a long wait would stop everyone behind it too."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            async with engine.begin() as connection:
                await connection.run_sync(work)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE or attempt == ATTEMPTS:
                raise
            await asyncio.sleep(attempt)
        else:
            return
