"""`python -m benchmarks [FILE]`: rates and latencies of the write path, on both databases in turn, as a table.

FILE is a log to import and verify, by default the sample course. Every figure is the median of the rounds with the
lowest and the highest beside it. Databases are durable: fsync and synchronous_commit on, SQLite FULL.
"""

import asyncio
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from random import Random
from urllib.request import urlopen

from app import sample
from app.database import Database, open_database
from app.migrate import migrate
from app.services.catalogue import upsert
from app.services.keys import choose_tenant, create_key
from app.times import now
from app.worker import import_responses, verify_course
from benchmarks.load import Load, run
from tests import postgres

ROUNDS = int(os.environ.get("ROUNDS", "3"))
SECONDS = float(os.environ.get("SECONDS", "8"))
LEARNERS, ITEMS, SKILLS = 10_000, 1_000, 50
COURSE = "bench"
Figures = dict[tuple[str, str], list[float]]


def main() -> None:
    """Measure and print."""
    file = Path(sys.argv[1]) if len(sys.argv) > 1 else sample.responses()
    figures: Figures = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="proxima-bench-") as folder, servers(Path(folder)) as fresh:
        for number in range(ROUNDS):
            for name, make in fresh.items():
                print(f"round {number + 1} of {ROUNDS}: {name}", file=sys.stderr)
                asyncio.run(measure_import(name, make(), file, figures))
                measure_service(name, make(), figures)
    print(table(figures))


@contextmanager
def servers(folder: Path) -> Iterator[dict[str, Callable[[], str]]]:
    """For each database a way to get the URL of a new, migrated one."""
    server = Path(tempfile.mkdtemp(prefix="proxima-bench-pg-"))
    process = postgres.start(server, postgres.DURABLE)
    url = postgres.server_url(server)
    names = (f"bench_{number}" for number in range(10_000))

    def sqlite() -> str:
        made = f"sqlite:///{folder}/{next(names)}.db"
        migrate(made)
        return made

    def postgresql() -> str:
        name = next(names)
        postgres.administer(url, f'CREATE DATABASE "{name}"')
        made = url.replace("/postgres?", f"/{name}?")
        migrate(made)
        return made

    try:
        postgres.wait_until_ready(url)
        yield {"SQLite": sqlite, "PostgreSQL": postgresql}
    finally:
        postgres.stop(process, server)


async def measure_import(name: str, url: str, file: Path, figures: Figures) -> None:
    """Load a log, then recompute all of it."""
    database = open_database(url, statement_timeout_s=600)
    tenant_id = await database.write(choose_tenant, None, now())
    started = time.perf_counter()
    totals = await import_responses(database, tenant_id, COURSE, file, lambda _: None, lambda *_: None)
    figures["import, answers/s", name].append(totals.created / (time.perf_counter() - started))
    started = time.perf_counter()
    verified = await verify_course(database, tenant_id, COURSE, lambda _: None)
    if verified.differences:
        raise RuntimeError(verified.differences[0])
    figures["replay --verify, answers/s", name].append(verified.responses / (time.perf_counter() - started))
    await database.close()


def measure_service(name: str, url: str, figures: Figures) -> None:
    """One worker of the real server: one client, then 64."""
    key = asyncio.run(prepare(url))
    with serving(url) as (port, process):
        for clients in (1, 64):
            path = f"/v1/courses/{COURSE}/responses"
            asyncio.run(run(port, path, key, clients, 1.0, (LEARNERS, ITEMS)))
            load: Load = asyncio.run(run(port, path, key, clients, SECONDS, (LEARNERS, ITEMS)))
            figures[f"answers/s, {clients} client(s)", name].append(load.rate)
            figures[f"p50 ms, {clients} client(s)", name].append(load.quantile(0.5))
            figures[f"p99 ms, {clients} client(s)", name].append(load.quantile(0.99))
        figures["memory of the worker, MB", name].append(resident(process.pid))


async def prepare(url: str) -> str:
    """A course of 1,000 items and 50 skills, a quarter of the items with two; a key for it."""
    chance = Random(1)
    database: Database = open_database(url)
    key = await database.write(create_key, "bench", ["admin"], now())
    tenant_id = await database.write(choose_tenant, "bench", now())
    skills = [{"id": f"skill-{s}", "prerequisites": [f"skill-{s // 2}"] if s > 1 else []} for s in range(SKILLS)]
    items = [
        {"id": f"item-{i}", "skills": [f"skill-{s}" for s in chance.sample(range(SKILLS), 2 if i % 4 == 0 else 1)]}
        for i in range(ITEMS)
    ]
    await database.write(upsert, tenant_id, COURSE, {"skills": skills, "items": items}, now())
    await database.close()
    return key.text


@contextmanager
def serving(url: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """The service on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PROXIMA_DATABASE_URL": url, "PROXIMA_LOG_LEVEL": "warning"}
    process = subprocess.Popen([sys.executable, "-m", "app", "serve", "--port", str(port)], env=environment)
    try:
        for _ in range(200):
            try:
                with urlopen(f"http://127.0.0.1:{port}/readyz"):
                    break
            except OSError:
                time.sleep(0.1)
        yield port, process
    finally:
        process.terminate()
        process.wait(30)


def resident(pid: int) -> float:
    """Resident memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1000


def table(figures: Figures) -> str:
    """All figures as Markdown."""
    names = list(dict.fromkeys(name for _, name in figures))
    rows = [
        f"| {measure} | " + " | ".join(told(figures[measure, name]) for name in names) + " |"
        for measure in measures(figures)
    ]
    return "\n".join([f"| measure | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|", *rows])


def measures(figures: Figures) -> list[str]:
    """What was measured, in order."""
    return list(dict.fromkeys(measure for measure, _ in figures))


def told(values: Sequence[float]) -> str:
    """Median, lowest and highest."""
    digits = 1 if statistics.median(values) < 1000 else 0
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


if __name__ == "__main__":
    main()
