"""What every measurement needs: durable databases that can be copied, servers as processes, and what they use."""

import asyncio
import csv
import http.client
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Protocol

from sqlalchemy.engine import make_url

from app.core.database import Database, open_database
from app.core.migrate import migrate
from app.core.times import now
from app.jobs.imports import import_responses
from app.queries.durability import durability_faults
from app.services.catalogue import upsert
from app.services.keys import choose_tenant, create_key
from tests import postgres

COURSE = "bench"
TENANT = 1
PATH = f"/v1/courses/{COURSE}/responses"
LEARNERS, ITEMS, SKILLS, ANSWERS_EACH = 10_000, 1_000, 50, 10
START_S = 60
TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
# 2025-01-01T00:00:00Z in seconds: answers made up lie a minute apart from then on.
NEW_YEAR = 1_735_689_600


class Server(Protocol):
    """A kind of database, and where its databases are."""

    name: str

    def create(self) -> str:
        """The URL of a new, migrated database."""

    def copy(self, url: str) -> str:
        """The URL of a copy of a database that nobody uses."""

    def drop(self, url: str) -> None:
        """Remove a database."""

    def vacuum(self, url: str) -> None:
        """After a load: on the disk, and with the statistics and the order that autovacuum would bring later."""

    def cpu_us(self) -> float:
        """CPU time of the server's own processes so far; 0 where there are none."""


@dataclass
class Sqlite:
    """Files in a folder."""

    folder: Path
    names: "count[int]"
    name: str = "SQLite"

    def create(self) -> str:
        url = f"sqlite:///{self.folder}/{next(self.names)}.db"
        migrate(url)
        return url

    def copy(self, url: str) -> str:
        copied = f"sqlite:///{self.folder}/{next(self.names)}.db"
        shutil.copyfile(url.removeprefix("sqlite:///"), copied.removeprefix("sqlite:///"))
        return copied

    def drop(self, url: str) -> None:
        for ending in ("", "-wal", "-shm"):
            Path(url.removeprefix("sqlite:///") + ending).unlink(missing_ok=True)

    def vacuum(self, url: str) -> None:
        """Nothing: the last connection has written the WAL back."""

    def cpu_us(self) -> float:
        return 0.0


@dataclass
class Postgres:
    """Databases of one server, started for the run."""

    url: str
    process: "subprocess.Popen[bytes]"
    names: "count[int]"
    name: str = "PostgreSQL"

    def create(self) -> str:
        url = self._make("template0")
        migrate(url)
        return url

    def copy(self, url: str) -> str:
        return self._make(str(make_url(url).database))

    def _make(self, template: str) -> str:
        name = f"bench_{next(self.names)}"
        # With a checkpoint before: then every measurement begins at the same place of the log.
        postgres.administer(self.url, f'CREATE DATABASE "{name}" TEMPLATE "{template}" STRATEGY FILE_COPY')
        return make_url(self.url).set(database=name).render_as_string(hide_password=False)

    def drop(self, url: str) -> None:
        postgres.administer(self.url, f'DROP DATABASE "{make_url(url).database}" WITH (FORCE)')

    def vacuum(self, url: str) -> None:
        postgres.administer(url, "VACUUM ANALYZE")
        postgres.administer(url, "CHECKPOINT")

    def cpu_us(self) -> float:
        # Those that ended are counted with the postmaster, which waited for them.
        children = [pid for pid in processes() if parent(pid) == self.process.pid]
        return cpu_us(self.process.pid, ended=True) + sum(cpu_us(pid) for pid in children)


@contextmanager
def database_servers() -> Iterator[list[Server]]:
    """PostgreSQL and SQLite, both gone at the end."""
    names = count()
    folder = Path(tempfile.mkdtemp(prefix="proxima-bench-"))
    # Servers start from bytecode, as an installed program does, wherever it may be written.
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    home = Path(tempfile.mkdtemp(prefix="proxima-bench-pg-"))
    process = postgres.start(home, postgres.DURABLE)
    try:
        url = postgres.server_url(home)
        postgres.wait_until_ready(url)
        yield [Postgres(url, process, names), Sqlite(folder, names)]
    finally:
        postgres.stop(process, home)
        shutil.rmtree(folder, ignore_errors=True)


async def prepare(url: str, file: Path, items: int, skills: int) -> str:
    """A course, the answers of a file, and a key that may do everything."""
    database = open_database(url, statement_timeout_s=600)
    await need_durable(database)
    key = await database.write(create_key, "bench", ["admin"], now())
    if await database.write(choose_tenant, "bench", now()) != TENANT:
        raise RuntimeError("the comparison servers write for the first tenant")
    await database.write(upsert, TENANT, COURSE, make_catalogue(items, skills), now())
    totals = await import_responses(database, TENANT, COURSE, file, lambda _: None, lambda *_: None)
    if totals.rejected:
        raise RuntimeError(f"{totals.rejected} answers were refused")
    await database.close()
    return key.text


async def need_durable(database: Database) -> None:
    """Raises RuntimeError unless every commit is on the disk when it returns."""
    faults = await database.write(durability_faults)
    if faults:
        raise RuntimeError("; ".join(faults))


def make_catalogue(items: int, skills: int) -> dict[str, object]:
    """A course whose skills build on one another as a binary tree; a quarter of the items ask for two."""
    chance = Random(1)
    return {
        "skills": [{"id": f"skill-{s}", "prerequisites": [f"skill-{s // 2}"] if s > 1 else []} for s in range(skills)],
        "items": [
            {"id": f"item-{i}", "skills": [f"skill-{s}" for s in chance.sample(range(skills), 2 if i % 4 == 0 else 1)]}
            for i in range(items)
        ],
    }


def write_answers(path: Path, learners: int, each: int, items: int) -> Path:
    """A file of answers: each learner's a minute apart, to random items, two in three right."""
    chance = Random(2)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(("learner_id", "item_id", "skill_ids", "correct", "attempted_at"))
        for turn in range(each):
            moment = NEW_YEAR + turn * 60
            out.writerows(
                (f"learner-{n}", f"item-{chance.randrange(items)}", "", int(chance.random() < 0.65), moment)
                for n in range(learners)
            )
    return path


@contextmanager
def serve(url: str, module: Sequence[str] = ("app", "serve")) -> Iterator[tuple[str, int]]:
    """A server of ours on a free port: its address and its process id, once it is ready."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "PROXIMA_DATABASE_URL": url, "PROXIMA_LOG_LEVEL": "warning"}
    process = subprocess.Popen([sys.executable, "-m", *module, "--port", str(port)], env=environment)
    try:
        wait_until_ready(port, process)
        yield f"http://127.0.0.1:{port}", process.pid
    finally:
        process.terminate()
        process.wait(START_S)


def wait_until_ready(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Return once the server answers; it may listen before it can. The comparison servers have no such address."""
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)) as connection, suppress(OSError):
            connection.request("GET", "/readyz")
            if connection.getresponse().status in (200, 404):
                return
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {process.args!r}")


def processes() -> list[int]:
    """All process ids."""
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name, from the state on; zeros if the process has gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ["0"] * 50


def parent(pid: int) -> int:
    """Whose child a process is."""
    return int(stat(pid)[1])


def cpu_us(pid: int, *, ended: bool = False) -> float:
    """User and system time of a process in µs; with its children that have ended, if asked for."""
    return sum(map(int, stat(pid)[11 : 15 if ended else 13])) * TICK_US


def memory_mb(pid: int, field: str = "VmRSS") -> float:
    """Resident memory of a process, or its peak (VmHWM)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1000


def prepare_database(
    server: Server, learners: int = LEARNERS, each: int = ANSWERS_EACH, items: int = ITEMS, skills: int = SKILLS
) -> tuple[str, str]:
    """The URL of a database with a course and learners, and a key for it."""
    with tempfile.TemporaryDirectory() as folder:
        file = write_answers(Path(folder) / "answers.csv", learners, each, items)
        url = server.create()
        key = asyncio.run(prepare(url, file, items, skills))
    server.vacuum(url)
    return url, key
