"""The bare driver: one transaction for each answer, with no SQLAlchemy; behind plain ASGI, or with no HTTP at all.

Lock the learner, write the answer, the recommendation and the learner, commit: the least an answer can cost that is
not grouped. It checks nothing.
"""

import asyncio
import json
import sqlite3
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from functools import cache
from random import Random
from typing import Any

import asyncpg
import uvloop
from pydantic_core import from_json
from starlette.types import ASGIApp

from app.core.database import open_database
from app.schemas.responses import ResponseIn
from benchmarks.servers.plain import Take, plain
from benchmarks.servers.rows import (
    TENANT,
    Answer,
    advanced,
    need_durable,
    outcome_text,
    received,
    recommendation_row,
    response_row,
    settle,
)

POOL = 8
SQLITE_FULL = 2
MINE = "tenant_id = {} AND course_id = {} AND id = {}"
Write = Callable[[Answer], Awaitable[bytes]]


@cache
def inserting(table: str, columns: tuple[str, ...], mark: str) -> str:
    """An INSERT of one row."""
    marks = ", ".join(mark.format(number) for number in range(1, len(columns) + 1))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 (names of ours)


@cache
def locking(mark: str) -> str:
    """The SELECT of a learner."""
    return f"SELECT * FROM learner WHERE {MINE.format(*map(mark.format, (1, 2, 3)))}"  # noqa: S608 (names of ours)


@cache
def saving(columns: tuple[str, ...], mark: str) -> str:
    """The UPDATE of a learner; the key comes first among the values."""
    changed = ", ".join(f"{name} = {mark.format(number)}" for number, name in enumerate(columns, start=4))
    return f"UPDATE learner SET {changed} WHERE {MINE.format(*map(mark.format, (1, 2, 3)))}"  # noqa: S608 (the same)


def values(row: Mapping[str, Any]) -> list[Any]:
    """A row as parameters."""
    return [json.dumps(value) if isinstance(value, (dict, list)) else value for value in row.values()]


def steps(course: str, answer: Answer, learner: Mapping[str, Any], mark: str) -> tuple[bytes, list[tuple[str, Any]]]:
    """What is told, and the statements that write it."""
    key, change = [TENANT, course, answer.body.learner], advanced(learner, answer)
    after = {**learner, **change}
    told = outcome_text(answer, after["position"])
    response = response_row(course, answer, after, told.decode())
    recommendation = recommendation_row(course, answer, after)
    return told, [
        (inserting("response", tuple(response), mark), values(response)),
        (inserting("recommendation", tuple(recommendation), mark), values(recommendation)),
        (saving(tuple(change), mark), [*key, *values(change)]),
    ]


@asynccontextmanager
async def writing(url: str, course: str) -> AsyncIterator[Write]:
    """A function that stores an answer and returns when it is durable."""
    opening = on_sqlite if url.startswith("sqlite") else on_postgres
    async with opening(url, course) as write:
        settle()
        yield write


@asynccontextmanager
async def on_postgres(url: str, course: str) -> AsyncIterator[Write]:
    async def as_it_is(_: object) -> None:
        """Nothing was changed about the session, so nothing is to be reset."""

    database = open_database(url)
    try:
        await database.write(need_durable)
    finally:
        await database.close()
    async with asyncpg.create_pool(url, min_size=POOL, max_size=POOL, reset=as_it_is) as pool:

        async def write(answer: Answer) -> bytes:
            async with pool.acquire() as db, db.transaction():
                key = (TENANT, course, answer.body.learner)
                learner = await db.fetchrow(locking("${}") + " FOR UPDATE", *key)
                told, statements = steps(course, answer, learner, "${}")
                for statement, parameters in statements:
                    await db.execute(statement, *parameters)
            return told

        yield write


@asynccontextmanager
async def on_sqlite(url: str, course: str) -> AsyncIterator[Write]:
    db = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    db.row_factory = sqlite3.Row
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        db.execute(f"PRAGMA {pragma}")
    if db.execute("PRAGMA synchronous").fetchone()[0] != SQLITE_FULL:
        raise RuntimeError("synchronous is not FULL")

    async def write(answer: Answer) -> bytes:
        db.execute("BEGIN IMMEDIATE")
        learner = db.execute(locking("?{}"), (TENANT, course, answer.body.learner)).fetchone()
        told, statements = steps(course, answer, dict(learner), "?{}")
        for statement, parameters in statements:
            db.execute(statement, parameters)
        db.execute("COMMIT")
        return told

    with closing(db):
        yield write


def create(url: str, course: str) -> ASGIApp:
    """Behind HTTP: what that costs by itself."""

    @asynccontextmanager
    async def taking() -> AsyncIterator[Take]:
        async with writing(url, course) as write:

            async def take(body: bytes) -> bytes:
                return await write(received(ResponseIn.model_validate(from_json(body))))

            yield take

    return plain(taking)


def alone(url: str, course: str, seconds: float, shape: tuple[int, int]) -> float:
    """The median time of one transaction in ms: one after the other, in this process."""
    chance = Random(3)
    times: list[float] = []

    async def run() -> None:
        async with writing(url, course) as write:
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                learner, item = (chance.randrange(size) for size in shape)
                id_ = f"{chance.getrandbits(32):08x}-alone-{len(times)}"
                body = ResponseIn(id=id_, learner=f"learner-{learner}", item=f"item-{item}", correct=True)
                began = time.perf_counter()
                await write(received(body))
                times.append((time.perf_counter() - began) * 1000)
                await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    return statistics.median(times)
