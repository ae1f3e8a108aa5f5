"""R-33 and R-34. Nothing waits for ever: not for a row, not for a connection; and who goes away leaves none behind."""

import asyncio
import gc
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import asyncpg
import pytest
from sqlalchemy import Connection, text

from app.core.database import Database, PostgresDatabase, SqliteDatabase
from tests.edge.service import Reply, Service, Wire, exchange, post, service
from tests.edge.test_load import busy

CANCELLED, AT_ONCE, CALLERS = 1000, 50, 100
SOON_S, HANGING_S = 15.0, 6.0
# A database that is waited for as SQLAlchemy and PostgreSQL would have it.
PATIENT = """
import app.core.database as database
database.POOL_TIMEOUT_S, database.SQLITE_BUSY_TIMEOUT_MS, database.SQLITE_BUSY_S = 30.0, 60_000, 60.0
engine = database.postgres_engine
def patient(*arguments, **options):
    made = database.create_async_engine
    def make(*given, connect_args, **others):
        connect_args["server_settings"] |= {"lock_timeout": "0", "statement_timeout": "0"}
        return made(*given, connect_args=connect_args, **others)
    database.create_async_engine = make
    try:
        return engine(*arguments, **options)
    finally:
        database.create_async_engine = made
database.postgres_engine = patient
"""
# What every request borrows is kept.
LEAKY = """
import app.core.database as database
kept, proper = [], database.PostgresDatabase._run
async def leak(self, engine, work, *arguments, **options):
    if self._engine.pool.size() < 30:
        return await proper(self, engine, work, *arguments, **options)
    connection = await engine.connect()
    kept.append(connection)
    return await connection.run_sync(work, *arguments, **options)
database.PostgresDatabase._run = leak
"""


@contextmanager
def locked(url: str) -> Iterator[None]:
    """While this lasts nobody can write a learner."""
    if url.startswith("sqlite"):
        with busy(url.removeprefix("sqlite:///")):
            yield
        return
    with asyncio.Runner() as runner:
        other = runner.run(asyncpg.connect(url))
        runner.run(other.execute("BEGIN; LOCK TABLE learner IN ACCESS EXCLUSIVE MODE"))
        try:
            yield
        finally:
            runner.run(other.close())


async def ask_all(started: Service, seconds: float) -> Counter[str]:
    """One answer by each caller: how each ended within so many seconds."""

    async def one(number: int) -> str:
        try:
            async with asyncio.timeout(seconds):
                return ended(await exchange(started, post(started, f"r-{number}", f"l{number}")))
        except TimeoutError:
            return "waits"

    return Counter(await asyncio.gather(*(one(number) for number in range(CALLERS))))


async def read_all(started: Service, seconds: float) -> Counter[str]:
    """The same with requests each of which needs a connection of its own."""
    head = f"Host: service\r\nAuthorization: Bearer {started.key}\r\n\r\n"

    async def one(number: int) -> str:
        try:
            async with asyncio.timeout(seconds):
                path = f"/v1/courses/arithmetic/learners/l{number}/mastery"
                return ended(await exchange(started, f"GET {path} HTTP/1.1\r\n{head}".encode()))
        except TimeoutError:
            return "waits"

    return Counter(await asyncio.gather(*(one(number) for number in range(CALLERS))))


def ended(reply: Reply) -> str:
    """How a request ended, with `Retry-After` where that is due."""
    return f"{reply.status}{' later' if 'retry-after' in reply.headers else ''}"


async def hang_up_all(started: Service) -> None:
    """A thousand requests, whose senders go away at once or a little later."""
    rng = Random(7)

    async def one(number: int) -> None:
        async with Wire(started) as wire:
            await wire.send(post(started, f"gone-{number}", f"l{number % 40}"))
            await asyncio.sleep(rng.choice([0, 0, 0.001, 0.01]))
            wire.hang_up()

    for first in range(0, CANCELLED, AT_ONCE):
        await asyncio.gather(*(one(number) for number in range(first, first + AT_ONCE)))


def open_files(started: Service) -> int:
    return len(list(Path(f"/proc/{started.process.pid}/fd").iterdir()))


def comes_down_to(most: int, started: Service) -> bool:
    """Whether no more files than this stay open; a socket of a caller who has gone is closed a moment later."""
    given_up = time.monotonic() + SOON_S
    while open_files(started) > most and time.monotonic() < given_up:
        time.sleep(0.1)
    return open_files(started) <= most


def replies_and_connections(started: Service, url: str) -> tuple[Counter[str], int]:
    """What a hundred callers are told, and how many connections to PostgreSQL there are.

    Those who are told to come again later, as what the others left is still being done, do so.
    """
    given_up = time.monotonic() + SOON_S
    while "503 later" in (told := asyncio.run(ask_all(started, SOON_S))) and time.monotonic() < given_up:
        time.sleep(1)
    return told, connections(url) if url.startswith("postgresql") else 0


def connections(url: str) -> int:
    """How many connections of ours the database has."""

    async def count() -> int:
        other = await asyncpg.connect(url)
        try:
            counted: int = await other.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name = 'proxima'"
            )
            return counted
        finally:
            await other.close()

    return asyncio.run(count())


def test_lock_or_small_pool_ends_in_503_and_cancelled_requests_leave_nothing(database_url: str) -> None:
    with service(database_url, pool_size=2) as started:
        assert replies_and_connections(started, database_url)[0] == {"201": CALLERS}
        before = open_files(started)
        with locked(database_url):
            assert asyncio.run(ask_all(started, SOON_S)) == {"503 later": CALLERS}
            if database_url.startswith("postgresql"):
                told = asyncio.run(read_all(started, SOON_S))
                assert told == {"503 later": CALLERS}
        asyncio.run(hang_up_all(started))
        told, used = replies_and_connections(started, database_url)
        assert told == {"200": CALLERS}
        assert used <= 2
        assert comes_down_to(before + 4, started)


@pytest.mark.controls
def test_requests_without_deadlines_wait(database_url: str) -> None:
    with service(database_url, pool_size=2, patch=PATIENT) as started, locked(database_url):
        assert asyncio.run(ask_all(started, HANGING_S)) == {"waits": CALLERS}


@pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
def test_law_of_deadlines_notices_a_leak_of_connections(database_url: str) -> None:
    with service(database_url, pool_size=30, patch=LEAKY) as started:
        told = asyncio.run(read_all(started, SOON_S))
        assert set(told) == {"500"} | (set(told) & {"404"})


Call = Callable[[Database], Awaitable[object]]


def work(db: Connection) -> int:
    """A statement that takes a millisecond or some."""
    statement = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2000) SELECT count(*) FROM n"
    return int(db.execute(text(statement)).scalar_one())


async def read(database: Database) -> object:
    return await database.read(work)


async def write(database: Database) -> object:
    return await database.write(work)


async def forgetful(database: Database, kept: list[object]) -> None:
    """What `read` would be if it forgot those who are cancelled."""
    if isinstance(database, SqliteDatabase):
        kept.append(database._reader.connect())
    elif isinstance(database, PostgresDatabase):
        kept.append(await database._engine.connect())
    await asyncio.Event().wait()


async def cancel_many(database: Database, calls: list[Call]) -> None:
    """Make a thousand calls and cancel each at any moment."""
    rng = Random(11)
    for _ in range(0, CANCELLED, AT_ONCE):
        tasks = [asyncio.ensure_future(rng.choice(calls)(database)) for _ in range(AT_ONCE)]
        for task in tasks:
            await asyncio.sleep(rng.choice([0, 0, 0, 0.001]))
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def lent(database: Database) -> int:
    """Connections that nobody has given back."""
    if isinstance(database, SqliteDatabase):
        return sum(engine.pool.checkedout() for engine in (database._reader, database._writer))  # type: ignore[attr-defined]
    assert isinstance(database, PostgresDatabase)
    return int(database._engine.pool.checkedout())  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_cancelled_transactions_return_all_connections(database: Database) -> None:
    await cancel_many(database, [read, write])
    # SQLite's threads end what they have begun.
    for _ in range(8):
        assert await database.read(work) == await database.write(work) == 2000
    assert lent(database) == 0


@pytest.mark.anyio
async def test_law_of_cancelled_transactions_notices_one_that_keeps_its_connection(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[object] = []
    tasks = [asyncio.ensure_future(forgetful(database, kept)) for _ in range(4)]
    while len(kept) < len(tasks):  # noqa: ASYNC110 (a pool has no event)
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert lent(database) == len(tasks)
    # Here and now, and not in the middle of another test.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    kept.clear()
    tasks.clear()
    gc.collect()


def test_lock_of_these_tests_locks_the_database(tmp_path: Path) -> None:
    path = str(tmp_path / "x.db")
    with busy(path), pytest.raises(sqlite3.OperationalError, match="locked"):
        sqlite3.connect(path, timeout=0).execute("CREATE TABLE t (a)")
