"""Ten million answers in minutes: learners that were really folded, many times over, straight into the tables.

Every new learner is a copy of one that came through the service, with its answers, its times and its packed state;
only the ids differ. So each snapshot is still the fold of its log, and all indexes are kept up while it is filled.
"""

import asyncio
import sqlite3
import sys
from collections.abc import Iterable, Iterator
from itertools import chain

import asyncpg

from app.models import Learner, Response
from benchmarks.harness import COURSE, TENANT

LEARNERS_AT_ONCE = 20_000
# Ids of answers begin with something like chance, so that they lie all over the index.
SCATTERED = "({n} * 2654435761 + t.position * 40503) % 4294967296"
HEX = {"postgresql": "lpad(to_hex({}), 8, '0')", "sqlite": "printf('%08x', {})"}

FAST = {
    "postgresql": ("SET session_replication_role = replica", "SET synchronous_commit = off"),
    "sqlite": ("PRAGMA foreign_keys = OFF", "PRAGMA synchronous = OFF", "PRAGMA cache_size = -1000000"),
}


def fill(url: str, known: int, learners: int, *, answers: bool = True) -> None:
    """Copy `learner-0` to `learner-<known - 1>` until there are `learners`, with their answers or alone."""
    dialect = url.partition(":")[0]
    statements = [copying(Learner, dialect), *([copying(Response, dialect)] if answers else [])]
    run = run_sqlite if dialect == "sqlite" else run_postgres
    run(url, parts(statements, known, learners))


def copying(kind: type[Learner] | type[Response], dialect: str) -> str:
    """INSERT … SELECT of the learners `first` to `end` as copies of those below `known`, or of their answers."""
    scattered = HEX[dialect].format(SCATTERED.format(n="g.n"))
    response_id = f"{scattered} || '-' || g.n || '-' || t.position"
    own, new = "learner_id", {"id": response_id, "learner_id": "'learner-' || g.n"}
    if kind is Learner:
        own, new = "id", {"id": "'learner-' || g.n", "last_response_id": response_id}
    columns = [column.name for column in kind.__table__.columns]
    chosen = ", ".join(new.get(name, f"t.{name}") for name in columns)
    return f"""
        WITH RECURSIVE g(n) AS
            (SELECT CAST({{first}} AS bigint) UNION ALL SELECT n + 1 FROM g WHERE n + 1 < {{end}})
        INSERT INTO {kind.__tablename__} ({", ".join(columns)}) SELECT {chosen} FROM g JOIN {kind.__tablename__} AS t
        ON t.tenant_id = {TENANT} AND t.course_id = '{COURSE}' AND t.{own} = 'learner-' || (g.n % {{known}})
    """  # noqa: S608 (names of ours)


def parts(statements: list[str], known: int, learners: int) -> Iterator[str]:
    """The statements for some thousand learners after the other."""
    for first in range(known, learners, LEARNERS_AT_ONCE):
        end = min(first + LEARNERS_AT_ONCE, learners)
        for statement in statements:
            yield statement.format(first=first, end=end, known=known)
        print(f"\r{end:,} of {learners:,} learners", end="\n" if end == learners else "", file=sys.stderr, flush=True)


def run_sqlite(url: str, statements: Iterable[str]) -> None:
    """Every statement is a transaction."""
    db = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    for statement in chain(FAST["sqlite"], statements):
        db.execute(statement)
    db.close()


def run_postgres(url: str, statements: Iterable[str]) -> None:
    """The same."""

    async def work() -> None:
        db = await asyncpg.connect(url)
        for statement in chain(FAST["postgresql"], statements):
            await db.execute(statement)
        await db.close()

    asyncio.run(work())
