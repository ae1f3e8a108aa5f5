"""Bring a database to the version of this program, once, however many processes start together.

A revision says with `compatible_from` which older programs go on working with what it makes. The database keeps what
all of its revisions say together, so that a program can ask about revisions that are younger than itself.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import ConnectionPoolEntry

import app
from app.core.database import create_sqlite_file, is_unavailable, postgres_engine, sqlite_engine
from app.core.errors import Invalid, InvalidSetting, NotMigrated, Unavailable

PACKAGE = Path(app.__file__).resolve().parent
# In a wheel they are inside the package, in a checkout beside it.
MIGRATIONS = next(folder / "migrations" for folder in (PACKAGE, PACKAGE.parent) if (folder / "migrations").is_dir())
ADVISORY_LOCK = 7_306_071_185
LONGEST_MIGRATION_S = 600
# That of Debian 12; the tests start the program on it where it is installed.
OLDEST_POSTGRES = 15
ATTEMPTS = 6
# Requests queue behind a migration that waits for a lock, so it waits less than a request may wait for a lock.
LOCK_TIMEOUT = "500ms"
LOCK_ATTEMPTS = 60
LOCK_NOT_AVAILABLE = "55P03"
# From here on a database says which programs it goes on serving.
FIRST_TO_DECLARE = "0005"


def migrate(url: str, to: str | None = None, *, lose_data: bool = False) -> None:
    """Upgrade the database at `url` to the newest revision, or bring it up or down to revision `to`.

    Do not call this in an event loop. Raises `Invalid` for a revision that this program does not have, and for a way
    down that loses data, unless `lose_data` allows it: then nothing has been changed.
    """
    run_exclusively(url, upgrade if to is None else partial(_move, to=to, lose_data=lose_data))


def _move(connection: Connection, to: str, *, lose_data: bool) -> None:
    """Upgrade or downgrade, whichever leads to revision `to`."""
    known = sorted(revisions())
    if to not in {"base", *known}:
        raise Invalid(f"there is no revision {to}; this program has base, {', '.join(known)}")
    if to == "base" or to < (_read_current(connection) or ""):
        downgrade(connection, to, lose_data=lose_data)
    else:
        upgrade(connection, to)


def is_current(db: Connection) -> bool:
    """Whether this program can work with the database: made for its revision, or for an older one it still serves."""
    revision, own = current_revision(db), head_revision()
    if revision is None or own is None or revision <= own:
        return revision == own
    return oldest_served(db) <= own


def need_supported_server(db: Connection) -> None:
    """Raise `InvalidSetting` if the PostgreSQL is older than this program knows."""
    if db.dialect.name == "postgresql":
        number = int(db.execute(text("SHOW server_version_num")).scalar_one())
        if number < OLDEST_POSTGRES * 10_000:
            version = db.execute(text("SHOW server_version")).scalar_one()
            raise InvalidSetting(f"the database is PostgreSQL {version}; this program needs {OLDEST_POSTGRES} or later")


def oldest_served(db: Connection) -> str:
    """The revision of the oldest programs that the database, of a revision that says so, goes on serving."""
    return str(db.execute(text("SELECT compatible_from FROM alembic_version")).scalar_one() or current_revision(db))


def current_revision(db: Connection) -> str | None:
    """The revision the database is at; none if it was never migrated."""
    return MigrationContext.configure(db).get_current_revision()


def _read_current(connection: Connection) -> str | None:
    """`current_revision`, in a transaction of its own if none is open."""
    with _transaction(connection):
        return current_revision(connection)


def _transaction(connection: Connection) -> AbstractContextManager[object]:
    """The transaction that is open, else a new one."""
    return nullcontext() if connection.in_transaction() else connection.begin()


@cache
def revisions() -> frozenset[str]:
    """The revisions this program knows."""
    return frozenset(script.revision for script in ScriptDirectory.from_config(configuration()).walk_revisions())


@cache
def head_revision() -> str | None:
    """The newest revision."""
    return ScriptDirectory.from_config(configuration()).get_current_head()


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Upgrade to a revision; nothing is done to a newer database that still serves this program."""
    with _transaction(connection):
        newer = (current_revision(connection) or "") > (head_revision() or "")
        if newer and not is_current(connection):
            raise NotMigrated("the database was migrated by a newer program, beside which this one cannot work")
    if not newer:
        command.upgrade(configuration(connection), revision)


def downgrade(connection: Connection, revision: str, *, lose_data: bool = False) -> None:
    """Downgrade to a revision. Raises `Invalid`, before anything is changed, if that loses data and may not."""
    script = ScriptDirectory.from_config(configuration())
    at = _read_current(connection)
    if at is not None and at not in revisions():
        raise NotMigrated(f"the database is at revision {at} of a newer program; only that program can take it back")
    passed = [step.revision for step in script.iterate_revisions(at, revision)] if at else []
    losing = sorted(step for step in passed if not keeps_data(script, step))
    if losing and not lose_data:
        raise Invalid(
            f"going down to {revision} loses data of revision {', '.join(losing)}; "
            "make a backup, then allow it with --lose-data"
        )
    command.downgrade(configuration(connection, lose_data=lose_data), revision)


def after_step(step: MigrationInfo, heads: Collection[str], db: Connection, *, lose_data: bool) -> None:
    """What belongs to every revision, in its transaction: ask before data is lost, say which programs are served."""
    script = ScriptDirectory.from_config(configuration())
    if not step.is_upgrade and not lose_data and not keeps_data(script, step.up_revision_id):
        raise CommandError(
            f"going back from revision {step.up_revision_id} loses what the older schema cannot hold: "
            "make a backup, then run alembic -x lose-data=yes downgrade …"
        )
    at = max(heads, default="")
    if at >= FIRST_TO_DECLARE:
        db.execute(
            text("UPDATE alembic_version SET compatible_from = :oldest"), {"oldest": compatible_from(script, at)}
        )


def keeps_data(script: ScriptDirectory, revision: str | None) -> bool:
    """Whether a revision says that its downgrade loses nothing."""
    return bool(getattr(script.get_revision(revision or "").module, "keeps_data", False))


def compatible_from(script: ScriptDirectory, revision: str) -> str:
    """The oldest programs that work with a database at a revision: of all steps on the way there the strictest decides.

    A step that says nothing serves its own program and later ones.
    """
    steps = (step.module for step in script.iterate_revisions(revision, "base"))
    return max(str(getattr(module, "compatible_from", module.revision)) for module in steps)


def configuration(connection: Connection | None = None, *, lose_data: bool = False) -> Config:
    """What Alembic needs to know; it finds the revisions from any working directory."""
    attributes = {} if connection is None else {"connection": connection}
    config = Config(attributes={**attributes, "lose_data": lose_data})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    return config


def run_exclusively(url: str, work: Callable[[Connection], None]) -> None:
    """Run `work` while no other process can be in here for the same database.

    SQLite: in one transaction. PostgreSQL: in those that `work` begins, so that no revision holds the locks of another.
    """
    if url.startswith("sqlite:"):
        _run_exclusively_on_sqlite(url, work)
    else:
        asyncio.run(_run_exclusively_on_postgres(url, work))


def _run_exclusively_on_sqlite(url: str, work: Callable[[Connection], None]) -> None:
    """The write lock is taken before the version is read, so nobody acts on a version that has gone."""
    create_sqlite_file(url)
    engine = sqlite_engine(url, connections=1, begin="BEGIN IMMEDIATE", read_only=False)
    event.listen(engine, "connect", _wait_long_and_allow_replacing_tables)
    try:
        with _connect_with_retries(engine) as connection, connection.begin():
            work(connection)
            broken = connection.execute(text("PRAGMA foreign_key_check")).all()
            if broken:
                raise RuntimeError(f"the migration would leave {len(broken)} rows that refer to nothing")
    finally:
        engine.dispose()


def _wait_long_and_allow_replacing_tables(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    """SQLite alters a table by replacing it; enforced keys would forbid the moment in between."""
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {LONGEST_MIGRATION_S * 1000}")
    cursor.execute("PRAGMA foreign_keys = OFF")
    cursor.close()


def _connect_with_retries(engine: Engine) -> Connection:
    """SQLite refuses, instead of waiting, when two processes switch a new file to its write-ahead log at once."""
    for attempt in range(1, ATTEMPTS):
        try:
            return engine.connect()
        except OperationalError:
            time.sleep(0.05 * 2**attempt)
    return engine.connect()


async def _run_exclusively_on_postgres(url: str, work: Callable[[Connection], None]) -> None:
    """An advisory lock on a connection of its own keeps the others waiting, for a bounded time."""
    engine = postgres_engine(url, pool_size=2, statement_timeout_s=LONGEST_MIGRATION_S)
    try:
        async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as lock_connection:
            await lock_connection.run_sync(need_supported_server)
            await lock_connection.execute(text(f"SET lock_timeout = '{LONGEST_MIGRATION_S}s'"))
            await lock_connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": ADVISORY_LOCK})
            await _run_with_retries(engine, work)
            await lock_connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
    except Exception as error:
        if not is_unavailable(error):
            raise
        raise Unavailable("the database cannot be reached; see that it runs and what its URL says") from error
    finally:
        await engine.dispose()


async def _run_with_retries(engine: AsyncEngine, work: Callable[[Connection], None]) -> None:
    """Run `work`, again if a table stayed locked: a long wait would stop everyone behind it too."""
    for attempt in range(1, LOCK_ATTEMPTS + 1):
        try:
            async with engine.connect() as connection:
                await connection.run_sync(_run_with_short_locks, work)
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE or attempt == LOCK_ATTEMPTS:
                raise
            await asyncio.sleep(1)
        else:
            return


def _run_with_short_locks(connection: Connection, work: Callable[[Connection], None]) -> None:
    """Run `work` on a connection that does not wait long for locks."""
    with connection.begin():
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
    work(connection)
