"""`python -m benchmarks`: the write path beside servers that store the same rows, as tables and in docs/benchmarks.md.

Every round measures every server on both databases, each on a fresh copy of the same database, in an order that moves
on by one; ratios are taken within a round. ROUNDS and SECONDS (of each load) may be set in the environment.
"""

import asyncio
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime

from sqlalchemy import Connection, func, select

from app.core.database import open_database
from app.models import Recommendation, Response
from benchmarks.harness import (
    ANSWERS_EACH,
    COURSE,
    ITEMS,
    LEARNERS,
    PATH,
    SKILLS,
    Server,
    cpu_us,
    database_servers,
    memory_mb,
    prepare_database,
    serve,
)
from benchmarks.load import Load, need_wrk
from benchmarks.load import run as load
from benchmarks.report import paired_ratios, publish, summarise, table
from benchmarks.servers import raw

ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = int(os.environ.get("SECONDS", "8"))
CLIENTS = 64
SHAPE = (LEARNERS, ITEMS)

PROXIMA, ORM, GROUPED, PLAIN, RAW, ALONE = (
    "Proxima",
    "ORM service",
    "floor, FastAPI",
    "floor, plain ASGI",
    "raw driver, plain ASGI",
    "raw driver, no HTTP",
)
MODULES = {
    PROXIMA: ("app", "serve"),
    ORM: ("benchmarks.servers", "orm"),
    GROUPED: ("benchmarks.servers", "grouped"),
    PLAIN: ("benchmarks.servers", "grouped-plain"),
    RAW: ("benchmarks.servers", "raw"),
}
RATE, P50, P99, SPREAD = (f"{each}, {CLIENTS} clients" for each in ("answers/s", "p50 ms", "p99 ms", "p99 / p50"))
CPU, DATABASE_CPU = "CPU of the server, µs an answer", "CPU of PostgreSQL, µs an answer"
LONE_RATE, LONE_P50, LONE_P99 = (f"{each}, 1 client" for each in ("answers/s", "p50 ms", "p99 ms"))
LONE_CPU = "CPU of the server, µs an answer, 1 client"
IDLE, LOADED = "memory of the worker before a request, MB", "memory after the load, MB"
MEASURES = (RATE, P50, P99, SPREAD, CPU, DATABASE_CPU, LONE_RATE, LONE_P50, LONE_P99, LONE_CPU, IDLE, LOADED)

# By database, server and measure: one figure a round.
Figures = dict[tuple[str, str, str], list[float]]

EXPLANATION = """\
Each round ({rounds} of them, {seconds} s a load) measures every server on both databases, in changing order, on a fresh
copy of one database: {learners:,} learners with {each} answers each, {items:,} items, {skills} skills. The load is
`wrk`, one thread, connections that stay open, random learners and items, on the same two cores; a reply that is not a
2xx ends the run, and afterwards the rows are counted. Median (lowest–highest); ratios are taken within a round. One
worker each, under the HTTP server, event loop and parser of `proxima serve`; the same tables, indexes and sizes of rows
(`tests/benchmarks/test_servers.py` compares them). PostgreSQL has `fsync` and `synchronous_commit` on, SQLite
`synchronous=FULL`; every server looks when it starts.

- **Proxima**: `proxima serve`. Key, strict JSON, repetitions, fold, mastery, the next exercise with its reason and
  chance: the whole outcome.
- **ORM service**: FastAPI, pydantic in and out, an `AsyncSession` as a dependency (asyncpg, pool of 16), the learner
  read `FOR UPDATE` and changed, objects added, a commit a request; on SQLite a plain endpoint, one writing connection.
- **floor, FastAPI**: what waits shares a transaction, as in Proxima: lock the learners, two inserts, an update
  (SQLAlchemy Core), an outcome that is ready. No engine, no key, no look for repetitions.
- **floor, plain ASGI**: the same without FastAPI: the strict parser and the pydantic model of Proxima, nothing else.
- **raw driver, plain ASGI**: asyncpg (pool of 8) or `sqlite3`, a transaction an answer: lock, two inserts, an update,
  commit. No SQLAlchemy, no key, no look for repetitions.
- **raw driver, no HTTP**: the same function in a loop in one process: what the database itself takes for an answer.
"""


def main() -> None:
    """Measure, print, publish."""
    need_wrk()
    figures: Figures = defaultdict(list)
    with database_servers() as servers:
        made = {server.name: prepare_database(server) for server in servers}
        for number in range(ROUNDS):
            for server in servers:
                measure_round(number, server, *made[server.name], figures)
    text = report(figures)
    print(text)
    publish("bench", text)


def measure_round(number: int, server: Server, template: str, key: str, figures: Figures) -> None:
    """Every server once on one database."""
    names = [*MODULES, ALONE]
    for name in names[number % len(names) :] + names[: number % len(names)]:
        url = server.copy(template)
        for measure, value in measure_server(name, server, url, key, f"{number}"):
            figures[server.name, name, measure].append(value)
        server.drop(url)
        [shown] = figures[server.name, name, LONE_P50][-1:]
        rate = figures[server.name, name, RATE][-1:] or [1000 / shown]
        print(f"round {number + 1}/{ROUNDS} {server.name} {name}: {rate[0]:,.0f}/s, {shown:.2f} ms", file=sys.stderr)


def measure_server(name: str, server: Server, url: str, key: str, label: str) -> Iterator[tuple[str, float]]:
    """All figures of one server in one round."""
    if name == ALONE:
        yield LONE_P50, raw.alone(url, COURSE, SECONDS, SHAPE)
        return
    before = asyncio.run(count_stored(url))
    with serve(url, MODULES[name]) as (address, pid):
        if name == PROXIMA:
            yield IDLE, memory_mb(pid)
        warm = load(address + PATH, key, f"{label}w", CLIENTS, 2, SHAPE)
        cpu, database_cpu = cpu_us(pid), server.cpu_us()
        many = load(address + PATH, key, f"{label}m", CLIENTS, SECONDS, SHAPE)
        yield RATE, many.rate
        yield P50, many.p50
        yield P99, many.p99
        yield SPREAD, many.p99 / many.p50
        yield CPU, (cpu_us(pid) - cpu) / many.requests
        if server.cpu_us():
            yield DATABASE_CPU, (server.cpu_us() - database_cpu) / many.requests
        cpu = cpu_us(pid)
        lone = load(address + PATH, key, f"{label}l", 1, SECONDS, SHAPE)
        yield LONE_RATE, lone.rate
        yield LONE_P50, lone.p50
        yield LONE_P99, lone.p99
        yield LONE_CPU, (cpu_us(pid) - cpu) / lone.requests
        if name == PROXIMA:
            yield LOADED, memory_mb(pid)
    check_rows(name, before, asyncio.run(count_stored(url)), (warm, many, lone))


async def count_stored(url: str) -> tuple[int, int]:
    """How many answers and recommendations there are."""
    database = open_database(url)
    try:
        return await database.read(count_rows)
    finally:
        await database.close()


def count_rows(db: Connection) -> tuple[int, int]:
    """How many answers and recommendations there are."""
    answers, offers = (
        db.execute(select(func.count()).select_from(kind)).scalar_one() for kind in (Response, Recommendation)
    )
    return answers, offers


def check_rows(name: str, before: tuple[int, int], after: tuple[int, int], loads: tuple[Load, ...]) -> None:
    """What was acknowledged must be there; a load that ends leaves at most one answer in flight for each client."""
    acknowledged = sum(each.requests for each in loads)
    for what, was, there in zip(("answers", "recommendations"), before, after, strict=True):
        if not acknowledged <= there - was <= acknowledged + 2 * CLIENTS + 1:
            raise RuntimeError(f"{name}: {acknowledged:,} answers acknowledged, {there - was:,} {what} stored")


def report(figures: Figures) -> str:
    """Goals, then everything that was measured."""
    databases = list(dict.fromkeys(database for database, _, _ in figures))
    moment = datetime.now(UTC).date().isoformat()
    parts = [
        f"`make bench`, {moment}. {explain()}",
        table(["", "goal", *databases], [[*row[:2], *(ratio(figures, d, row) for d in databases)] for row in RATIOS]),
    ]
    for database in databases:
        names = [name for name in (*MODULES, ALONE) if (database, name, LONE_P50) in figures]
        rows = [
            [measure, *(summarise(values) if (values := figures.get((database, n, measure))) else "" for n in names)]
            for measure in MEASURES
            if any((database, name, measure) in figures for name in names)
        ]
        parts.append(f"**{database}**\n\n{table(['', *names], rows)}")
    return "\n\n".join(parts)


def explain() -> str:
    """How it was measured, and what each server is."""
    numbers = {"learners": LEARNERS, "each": ANSWERS_EACH, "items": ITEMS, "skills": SKILLS}
    return EXPLANATION.format(rounds=ROUNDS, seconds=SECONDS, **numbers)


# What is told, the goal by database, and the two figures whose ratio it is.
Row = tuple[str, str, tuple[str, str], tuple[str, str]]
RATIOS: tuple[Row, ...] = (
    ("answers/s: Proxima / ORM service", "≥ 5 (PostgreSQL)", (PROXIMA, RATE), (ORM, RATE)),
    ("answers/s: Proxima / floor, FastAPI", "≥ 0.7", (PROXIMA, RATE), (GROUPED, RATE)),
    ("answers/s: Proxima / floor, plain ASGI", "", (PROXIMA, RATE), (PLAIN, RATE)),
    ("CPU of the server: Proxima / floor, FastAPI", "", (PROXIMA, CPU), (GROUPED, CPU)),
    ("CPU of the server: Proxima / floor, plain ASGI", "", (PROXIMA, CPU), (PLAIN, CPU)),
    ("p50, 1 client: Proxima / raw driver, no HTTP", "≤ 1.5", (PROXIMA, LONE_P50), (ALONE, LONE_P50)),
    ("p50, 1 client: Proxima / raw driver, plain ASGI", "", (PROXIMA, LONE_P50), (RAW, LONE_P50)),
    ("p50, 1 client: raw driver, plain ASGI / no HTTP", "", (RAW, LONE_P50), (ALONE, LONE_P50)),
    ("p99 / p50, 64 clients: Proxima", "≤ 4", (PROXIMA, P99), (PROXIMA, P50)),
)


def ratio(figures: Figures, database: str, row: Row) -> str:
    """A ratio on a database, paired by round."""
    over, under = (figures[database, *each] for each in row[2:])
    return summarise(paired_ratios(over, under))


if __name__ == "__main__":
    main()
