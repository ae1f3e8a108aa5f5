"""Two databases, one way to use them: a transaction is a plain function of a connection.

    outcomes = await database.write(record, answers)      # one transaction, durable on return
    page = await database.read(list_items, course)        # one consistent, read-only snapshot

A transaction that is a function can run on SQLite's one writer thread, inside SQLAlchemy's asyncio bridge over
asyncpg, or again after a deadlock (docs/decisions/0002). `write` and `read` are called from routers, group
commit, jobs and cli only, so that every transaction can be found by looking there.
"""

import asyncio
import os
import socket
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from secrets import SystemRandom
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import asyncpg
from pydantic_core import to_json
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    DatabaseError,
    DBAPIError,
    DisconnectionError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection, QueuePool
from sqlalchemy.util import await_only
from sqlalchemy.util.concurrency import in_greenlet

from app.core.errors import InvalidSetting, NotMigrated, Unavailable

ATTEMPTS = 4
SQLITE_READERS = 4
SQLITE_BUSY_TIMEOUT_MS = 5000
SQLITE_CACHE_KIB = 32_768
# How long a writer waits for another process that writes, and how often it looks.
SQLITE_BUSY_S, SQLITE_LOOK_S = 5.0, 0.001
# Computations at once that transactions wait for, how long one may queue, and how many one transaction may ask for.
COMPUTERS, COMPUTING_QUEUE_S, MOST_COMPUTATIONS = 2, 5.0, 100
STEPS_BETWEEN_LOOKS = 100_000
POOL_TIMEOUT_S = 1.0
CUT_OFF_S = 2.0
CLOSING_MS = 1000
IDLE_S = 15.0
STATEMENT_TIMEOUT_S = 10.0
# Of the system, as what draws from the interpreter's own generator would change what others draw by a seed.
RANDOM = SystemRandom()

# serialization failure, deadlock, and a key taken by a transaction that committed in between:
# running the same function again finds what the other transaction left.
RETRIED_STATES = frozenset({"40001", "40P01", "23505"})
# No connection, no such database or user, in the way after all attempts, short of resources, a row that stays locked,
# stopped by a timeout or an operator.
LOCK_NOT_AVAILABLE = "55P03"
UNAVAILABLE_STATES = ("08", "28", "3D000", "40", "53", LOCK_NOT_AVAILABLE, "57", "25P03")

# Why a database cannot be used, for who runs it; replies to callers say less. By the states of PostgreSQL, by the codes
# of SQLite, and by the errors on the way to a server.
STATES = {
    "08P01": "a connection pooler refuses the limits that the service asks for; see PostgreSQL in docs/operate.md",
    "28000": "the server does not let the role of PROXIMA_DATABASE_URL in",
    "28P01": "the password in PROXIMA_DATABASE_URL is not that of the role",
    "25006": "the database can only be read",
    "3D000": "there is no database of the name in PROXIMA_DATABASE_URL; create it",
    "42501": "the role lacks a privilege; it must own the tables",
    "53100": "the disk of the server is full",
    "53300": "all connections of the server, the database or the role are taken",
    "55P03": "a row or a table stayed locked",
    "57014": "a statement took longer than it may",
    "57P03": "the server is starting or stopping",
}
FILE_CODES = {
    sqlite3.SQLITE_BUSY: "another process keeps the file locked",
    sqlite3.SQLITE_CANTOPEN: "the file, or -wal and -shm beside it, cannot be opened; see who owns them",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore a backup",
    sqlite3.SQLITE_FULL: "the disk is full; make room",
    sqlite3.SQLITE_INTERRUPT: "reading took longer than it may",
    sqlite3.SQLITE_IOERR: "the disk has failed",
    sqlite3.SQLITE_NOTADB: "the file is no SQLite database",
    sqlite3.SQLITE_READONLY: "the file, or its folder, can only be read",
}
ON_THE_WAY: tuple[tuple[type[Exception], str], ...] = (
    (socket.gaierror, "the host in PROXIMA_DATABASE_URL is not known"),
    (ConnectionRefusedError, "nothing listens at the address in PROXIMA_DATABASE_URL"),
    (FileNotFoundError, "there is no server at the folder in PROXIMA_DATABASE_URL"),
    (PermissionError, "the socket of the server may not be opened"),
    (TimeoutError, "there is no reply in time"),
    (PoolTimeout, "all connections of this process are in use"),
)

P = ParamSpec("P")
T = TypeVar("T")
Work = Callable[Concatenate[Connection, P], T]


class ComputeFirst(Exception):
    """Raised by work that needs a long computation: it ends, `compute` runs in a thread, and the work runs again.

    So that meanwhile nobody waits for the writer, a lock or the event loop. What was computed must be found again.
    """

    def __init__(self, compute: Callable[[], object]) -> None:
        super().__init__("what this transaction needs has not been computed")
        self.compute = compute


class Database(Protocol):
    """What both databases offer."""

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, …)` on one consistent snapshot; it cannot write."""

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(connection, …)` in one transaction; when this returns it is committed and durable.

        `work` may run more than once (after a deadlock, a lost race or `ComputeFirst`), so it must have no effect but
        on the database. Raises `Unavailable` if the database cannot be reached or does not answer in time.
        """

    async def close(self) -> None:
        """Give all connections back."""


def open_database(url: str, *, pool_size: int = 8, statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> Database:
    """Open the database at `sqlite:///path` or `postgresql://…`; nothing is contacted before the first use."""
    if url.startswith("sqlite:///"):
        return SqliteDatabase(url, statement_timeout_s=statement_timeout_s)
    if url.startswith("postgresql://"):
        return PostgresDatabase(url, pool_size=pool_size, statement_timeout_s=statement_timeout_s)
    raise InvalidSetting("the database URL must start with sqlite:/// or postgresql://")


class SqliteDatabase:
    """A SQLite file: one writer thread, a few readers beside it (WAL), every commit synced to the disk."""

    dialect = "sqlite"

    def __init__(self, url: str, *, statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> None:
        self._longest_read_s = statement_timeout_s
        self._path = sqlite_path(url)
        self._file: tuple[int, int] | None = None
        self._writer = sqlite_engine(url, connections=1, begin="BEGIN IMMEDIATE", read_only=False)
        self._reader = sqlite_engine(url, connections=SQLITE_READERS, begin="BEGIN", read_only=True)
        self._write_thread = ThreadPoolExecutor(1, "sqlite-writer")
        self._read_threads = ThreadPoolExecutor(SQLITE_READERS, "sqlite-reader")
        self._computers = ThreadPoolExecutor(COMPUTERS, "compute")

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        def limited(connection: Connection, /, *args: P.args, **kwargs: P.kwargs) -> T:
            with _read_deadline(connection, self._longest_read_s):
                return work(connection, *args, **kwargs)

        return await self._run(self._read_threads, self._reader, limited, *args, **kwargs)

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _compute_between(
            self._computers, lambda: self._run(self._write_thread, self._writer, work, *args, **kwargs)
        )

    async def _run(
        self, threads: ThreadPoolExecutor, engine: Engine, work: Work[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        queued_at = time.monotonic()

        def transaction() -> T:
            if time.monotonic() - queued_at > SQLITE_BUSY_S:
                raise Unavailable("too much waits for the database; try again")
            self._need_same_file()
            with engine.begin() as connection:
                self._file = self._file or _file_identity(self._path)
                return work(connection, *args, **kwargs)

        try:
            return await asyncio.get_running_loop().run_in_executor(threads, transaction)
        except OperationalError as error:
            if self._file is None and not self._path.exists():
                raise NotMigrated("the file of the database does not exist; run `proxima migrate`") from error
            raise Unavailable("the database is busy or its disk is full; try again") from error
        except DatabaseError as error:
            if type(error) is DatabaseError:
                raise Unavailable("the database file cannot be read; it may be damaged") from error
            raise

    def _need_same_file(self) -> None:
        """Raise `Unavailable` if the file is no longer where it was: what is written to it would not be found again."""
        if self._file is not None and _file_identity(self._path) != self._file:
            raise Unavailable(
                "the file of the database was moved or replaced while the service ran; put it back, or restart it"
            )

    async def close(self) -> None:
        self._computers.shutdown()
        self._write_thread.shutdown()
        self._read_threads.shutdown()
        self._writer.dispose()
        self._reader.dispose()


def _file_identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from one that has taken its place; nothing if there is no file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def run_off_loop(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run what only computes, from within a transaction: in a thread, if the transaction is on the event loop."""
    if not in_greenlet():
        return work(*args, **kwargs)
    return await_only(asyncio.to_thread(work, *args, **kwargs))


async def _compute_between(computers: ThreadPoolExecutor, attempt: Callable[[], Awaitable[T]]) -> T:
    """Attempt a transaction until all that it needs is computed."""
    for _ in range(MOST_COMPUTATIONS):
        try:
            return await attempt()
        except ComputeFirst as needed:
            await asyncio.get_running_loop().run_in_executor(computers, _when_soon(needed.compute))
    raise Unavailable("this needs too much to be computed; ask for less at once")


def _when_soon(compute: Callable[[], object]) -> Callable[[], object]:
    """A computation that is given up if it was queued for too long: nobody waits for it any more."""
    queued_at = time.monotonic()

    def compute_soon() -> object:
        if time.monotonic() - queued_at > COMPUTING_QUEUE_S:
            raise Unavailable("too much waits to be computed; try again")
        return compute()

    return compute_soon


def sqlite_path(url: str) -> Path:
    """The file of a SQLite database, whose folder exists."""
    path = make_url(url).database
    if not path or path == ":memory:":
        raise InvalidSetting("the SQLite database must be a file: sqlite:///path")
    if not Path(path).resolve().parent.is_dir():
        raise InvalidSetting(f"the folder of the SQLite file does not exist: {Path(path).parent}")
    return Path(path)


def create_sqlite_file(url: str) -> None:
    """Create the file of a SQLite database, for its owner only, unless it is there; nothing else ever creates it."""
    os.close(os.open(sqlite_path(url), os.O_RDWR | os.O_CREAT, 0o600))


def sqlite_engine(url: str, *, connections: int, begin: str, read_only: bool) -> Engine:
    """An engine on a file that exists; one that is `read_only` changes nothing, not even how the journal is kept.

    Its transactions start with `begin`: the driver's own rules would start them too late.
    """
    address = f"{sqlite_path(url).absolute().as_uri()}?mode=rw"
    engine = create_engine(
        url,
        creator=lambda: sqlite3.connect(address, uri=True, check_same_thread=False, cached_statements=256),
        poolclass=QueuePool,
        pool_size=connections,
        max_overflow=0,
        hide_parameters=True,
        json_serializer=_to_json_text,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        for pragma in (
            # To change the journal of a new file may have to wait, for readers and writers alike.
            f"busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}",
            *([] if read_only else ["journal_mode = WAL"]),
            "synchronous = FULL",
            "foreign_keys = ON",
            f"cache_size = -{SQLITE_CACHE_KIB}",
            f"query_only = {'ON' if read_only else 'OFF'}",
            f"busy_timeout = {SQLITE_BUSY_TIMEOUT_MS if read_only else 0}",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        _begin_when_free(connection, begin)

    return engine


def _to_json_text(value: object) -> str:
    """A value of a JSON column."""
    return to_json(value).decode()


@contextmanager
def _read_deadline(connection: Connection, longest_s: float) -> Iterator[None]:
    """Interrupt what is read for too long: SQLite has no limit of its own."""
    driver, deadline = connection.connection.driver_connection, time.monotonic() + longest_s
    assert driver is not None  # noqa: S101
    driver.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_LOOKS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)


def _begin_when_free(connection: Connection, begin: str) -> None:
    """Begin a transaction as soon as no other process writes.

    SQLite itself would look ten times a second, and find it locked each time beside a process that writes without a
    pause: the result of a calibration would be lost.
    """
    deadline = time.monotonic() + SQLITE_BUSY_S
    while True:
        try:
            connection.exec_driver_sql(begin)
        except OperationalError as error:
            code = getattr(error.orig, "sqlite_errorcode", 0)
            if code & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(SQLITE_LOOK_S)
        else:
            return


class PostgresDatabase:
    """PostgreSQL over asyncpg, with bounded waits everywhere."""

    dialect = "postgresql"

    def __init__(self, url: str, *, pool_size: int, statement_timeout_s: float) -> None:
        self._engine = postgres_engine(url, pool_size=pool_size, statement_timeout_s=statement_timeout_s)
        self._snapshots = self._engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        self._computers = ThreadPoolExecutor(COMPUTERS, "compute")

    async def read(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(self._snapshots, work, *args, **kwargs)

    async def write(self, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await _compute_between(self._computers, lambda: self._run(self._engine, work, *args, **kwargs))

    async def _run(self, engine: AsyncEngine, work: Work[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with engine.begin() as connection:
                    return await connection.run_sync(work, *args, **kwargs)
            except Exception as error:
                if _sqlstate(error) in RETRIED_STATES and attempt < ATTEMPTS:
                    await asyncio.sleep(RANDOM.uniform(0, 0.01 * 2**attempt))
                elif is_unavailable(error):
                    raise Unavailable("the database does not answer; try again") from error
                else:
                    raise
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def close(self) -> None:
        self._computers.shutdown()
        # What was cancelled in its middle hands its connection back in a task of its own, a moment later.
        for _ in range(CLOSING_MS):
            if not self._engine.pool.checkedout():  # type: ignore[attr-defined]
                break
            await asyncio.sleep(0.001)
        await self._engine.dispose()


def _sqlstate(error: Exception) -> str:
    """PostgreSQL's code of an error; empty if it is not one of PostgreSQL's."""
    return getattr(getattr(error, "orig", None) or error, "sqlstate", None) or ""


def is_locked(error: Unavailable) -> bool:
    """Whether the database was not available because another transaction held a row for too long."""
    return isinstance(error.__cause__, DBAPIError) and _sqlstate(error.__cause__) == LOCK_NOT_AVAILABLE


def is_unavailable(error: Exception) -> bool:
    """Whether an error of PostgreSQL's or on the way to it says: not now."""
    if isinstance(error, DBAPIError):
        lost = error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError))
        return lost or _sqlstate(error).startswith(UNAVAILABLE_STATES)
    return isinstance(error, (OSError, PoolTimeout, TimeoutError, asyncpg.PostgresError))


def explain(error: BaseException) -> str | None:
    """Say in one line why a database cannot be used; nothing if that is not what the error is about."""
    cause = error.__cause__ if isinstance(error, Unavailable) else error
    if isinstance(cause, (DBAPIError, asyncpg.PostgresError)):
        orig = getattr(cause, "orig", None) or cause
        known = FILE_CODES.get(getattr(orig, "sqlite_errorcode", 0) & 0xFF) or STATES.get(_sqlstate(cause))
        return known or str(orig.__cause__ or orig).strip().partition("\n")[0]
    if isinstance(error, Unavailable):
        known = next((sentence for kind, sentence in ON_THE_WAY if isinstance(cause, kind)), None)
        return known or (str(cause).partition("\n")[0] if cause else None)
    return str(cause).partition("\n")[0] if isinstance(cause, (SQLAlchemyError, asyncpg.InterfaceError)) else None


def server_settings(statement_timeout_s: float = STATEMENT_TIMEOUT_S) -> dict[str, str]:
    """What a session on PostgreSQL asks for when it begins, in the units that `pg_settings` has."""
    return {
        "TimeZone": "UTC",
        "statement_timeout": f"{statement_timeout_s * 1000:.0f}",
        "lock_timeout": "2000",
        # Every query is keyed; but the plan of a foreign key's look-up that was made while a table was small
        # walks through all of it, and is kept until the table has been analysed.
        "enable_seqscan": "off",
        # What computes for long between two statements, as an import may, asks for long statements too.
        "idle_in_transaction_session_timeout": f"{max(IDLE_S, statement_timeout_s) * 1000:.0f}",
    }


def postgres_engine(url: str, *, pool_size: int, statement_timeout_s: float) -> AsyncEngine:
    """An asyncpg engine whose sessions speak UTC and never wait for ever."""
    address = make_url(url).set(drivername="postgresql+asyncpg")
    if "sslmode" in address.query:  # as everybody writes it; the driver has another name for it
        mode = {"ssl": address.query["sslmode"]}
        address = address.difference_update_query(["sslmode"]).update_query_dict(mode)
    engine = create_async_engine(
        address,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT_S,
        pool_use_lifo=True,
        hide_parameters=True,
        json_serializer=_to_json_text,
        connect_args={
            "timeout": 5,
            # The server's own limit comes first, unless the way to it is cut.
            "command_timeout": statement_timeout_s + CUT_OFF_S,
            "server_settings": {"application_name": "proxima", **server_settings(statement_timeout_s)},
        },
    )

    @event.listens_for(engine.sync_engine, "checkout")
    def _look(connection: DBAPIConnection, _: ConnectionPoolEntry, __: PoolProxiedConnection) -> None:
        # What the server has closed is known without asking it: SQLAlchemy's ping costs three round trips.
        if connection.driver_connection.is_closed():
            raise DisconnectionError

    return engine
