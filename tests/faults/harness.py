"""Faults on real processes: a service that can be killed, clients that do not give up, a ledger of what they were told.

A client sends an answer until it is acknowledged, always under the same id, and notes what it was told. Whatever was
killed meanwhile, `find_losses` must then be empty: everything in the ledger is stored, as it was told.
"""

import asyncio
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.mmap_dict import MmapedDict
from sqlalchemy import Connection, select

from app.core.database import Database
from app.models import Response
from app.queries.learners import find_learners
from app.services.catalogue import upsert
from tests import processes
from tests.client import CATALOGUE, COURSE, make_key, minute_text, opened, verify
from tests.postgres import children_of

ROOT = Path(__file__).parents[2]
PROXIMA = (sys.executable, "-m", "app", "serve")
HOOKED = (sys.executable, "-m", "tests.faults.hooked")
LONGEST_S = 90.0
CLIENTS = 16
AGAIN_S = 0.05
STARTED = "Application startup complete"
UNEXPECTED = ("Traceback", "unexpected error", "could not be recorded")
# Items whose score is all or nothing.
ITEMS = ("i1", "i2", "i3", "i4", "i6", "i7")
LEARNERS = 12

Answer = dict[str, Any]


def fault_counts(gate: int, soak: int) -> list[Any]:
    """How many faults: few in every run, many under `-m soak`."""
    return [pytest.param(gate, id="gate"), pytest.param(soak, id="soak", marks=pytest.mark.soak)]


# Processes


def is_worker(pid: int) -> bool:
    """Whether a child of the service is one that serves: its tracker of resources is not."""
    with suppress(OSError):
        return b"resource_tracker" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


async def wait_until(condition: Callable[[], bool], longest_s: float = LONGEST_S) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + longest_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.02)


@dataclass
class Service:
    """Processes that serve a database; `workers` of them answer. One `alone` has no parent that replaces it."""

    url: str
    key: str
    folder: Path
    workers: int
    command: tuple[str, ...]
    settings: Mapping[str, str]
    forked: bool = field(init=False)
    alone: bool = field(init=False)
    port: int = field(default_factory=free_port)
    process: "processes.Started | subprocess.Popen[bytes]" = field(init=False)

    def __post_init__(self) -> None:
        self.forked = self.command is PROXIMA
        self.alone = self.forked and self.workers == 1

    @property
    def log(self) -> str:
        """Everything it has said."""
        return (self.folder / "log").read_text()

    @property
    def pids(self) -> list[int]:
        """The processes that answer, or soon will."""
        if self.alone:
            return [self.process.pid]
        return [pid for pid in children_of(self.process.pid) if is_worker(pid)]

    @property
    def started(self) -> int:
        """How often a process has begun to answer."""
        return self.log.count(STARTED)

    def start(self) -> None:
        """Start it, again if it was killed."""
        environment = {**os.environ, **self.settings, "TMPDIR": str(self.folder)}
        with (self.folder / "log").open("ab") as log:
            environment |= {"PROXIMA_DATABASE_URL": self.url, "PROXIMA_LOG_LEVEL": "info"}
            options = ["--port", str(self.port), "--workers", str(self.workers)]
            if self.forked:
                self.process = processes.start(
                    ["serve", *options],
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            else:
                self.process = subprocess.Popen(
                    [*self.command, *options],
                    env=environment,
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    async def ready(self, starts: int) -> None:
        """Wait until processes have begun to answer so many times in all."""

        def has_begun() -> bool:
            assert self.process.poll() is None, self.log[-2000:]
            return self.started >= starts

        await wait_until(has_begun)

    def kill(self, pids: Sequence[int]) -> None:
        """Kill -9; one that is alone is started again."""
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.alone:
            self.process.wait()
            self.start()

    def end(self) -> None:
        """Kill whatever is left of it."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def taken(self) -> list[int]:
        """How many answers came to each worker; `PROMETHEUS_MULTIPROC_DIR` must lie in the folder."""
        return [
            int(value)
            for file in self.folder.rglob("histogram_*.db")
            for key, value, _, _ in MmapedDict.read_all_values_from_file(file)  # type: ignore[no-untyped-call]
            if json.loads(key)[1] == "proxima_group_commit_size_sum"
        ]

    def unexpected(self) -> list[str]:
        """The lines of the log that tell of something nobody foresaw."""
        return [line for line in self.log.splitlines() if any(word in line for word in UNEXPECTED)]


@contextmanager
def serving(
    url: str,
    key: str,
    folder: Path,
    *,
    workers: int = 1,
    command: tuple[str, ...] = PROXIMA,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Service]:
    """A started service; await its `ready` before use."""
    folder.mkdir()
    service = Service(url, key, folder, workers, command, settings or {})
    service.start()
    try:
        yield service
    finally:
        service.end()


async def create_courses(url: str, *courses: str) -> str:
    """Make courses of the small catalogue in an empty database; a key for them."""
    async with opened(url) as database:
        key = await make_key(database)
        for course in courses or [COURSE]:
            await database.write(upsert, 1, course, CATALOGUE, 1)
    return key


# Clients


def response_of(id_: str) -> Answer:
    """The answer that has this id: whoever sends the id again sends the same. Every third comes late."""
    number = int.from_bytes(hashlib.sha256(id_.encode()).digest()[:4], "big")
    answer = {
        "id": id_,
        "learner": f"l{number % LEARNERS}",
        "item": ITEMS[number // LEARNERS % len(ITEMS)],
        "correct": number % 5 > 1,
    }
    return {**answer, "occurred_at": minute_text(number % 1000)} if number % 3 == 0 else answer


class Ledger:
    """What clients were told, on the disk before it counts: the id of an answer and a digest of its outcome."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("ab", buffering=0)

    def note(self, id_: str, outcome: bytes) -> None:
        """Keep what was told of an answer."""
        self._file.write(f"{id_} {hashlib.sha256(outcome).hexdigest()}\n".encode())
        os.fdatasync(self._file.fileno())

    def read(self) -> dict[str, str]:
        """The digests by id, from the disk."""
        rows = [line.split() for line in self._path.read_text().splitlines()]
        digests = dict(rows)
        assert len(digests) == len(rows), "an answer was acknowledged twice"
        return digests

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


@asynccontextmanager
async def clients_of(
    service: Service, course: str = COURSE, clients: int = CLIENTS, keepalive: int = CLIENTS
) -> AsyncIterator[httpx.AsyncClient]:
    """Callers of a course of a service, each on a connection of its own; so many `keepalive` for the next request."""
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=keepalive)
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{service.port}/v1/courses/{course}/",
        headers={"Authorization": f"Bearer {service.key}"},
        limits=limits,
        timeout=LONGEST_S,
        verify=processes.NO_CERTIFICATES,
    ) as client:
        yield client


async def send_until_acknowledged(
    client: httpx.AsyncClient, answer: Answer, tally: Counter[str], **arguments: Any
) -> httpx.Response:
    """Send an answer until it is acknowledged; it may only be refused with 503 and when to come back."""
    async with asyncio.timeout(LONGEST_S):
        while True:
            try:
                reply = await client.post("responses", json=answer, **arguments)
            except httpx.TransportError:
                tally["broken"] += 1
            else:
                tally[str(reply.status_code)] += 1
                if reply.is_success:
                    return reply
                assert reply.status_code == 503, reply.text
                assert int(reply.headers["Retry-After"]) > 0
                assert reply.json()["code"] == "database_unavailable"
            await asyncio.sleep(AGAIN_S)


@dataclass
class Load:
    """Clients at work: `tally` counts the ends of attempts: a status, or `broken`."""

    ledger: Ledger
    prefix: str
    acknowledged: int = 0
    tally: Counter[str] = field(default_factory=Counter)
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def work(self, client: httpx.AsyncClient, number: int) -> None:
        """One client: an answer, its acknowledgement, the next."""
        for index in range(10**9):
            id_ = f"{self.prefix}{number}-{index}"
            reply = await send_until_acknowledged(client, response_of(id_), self.tally)
            self.ledger.note(id_, reply.content)
            self.acknowledged += 1
            self.changed.set()

    async def more(self, count: int) -> None:
        """Wait until so many more answers are acknowledged."""
        goal = self.acknowledged + count
        async with asyncio.timeout(LONGEST_S):
            while self.acknowledged < goal:
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def under_load(
    service: Service, ledger: Ledger, prefix: str = "r", clients: int = CLIENTS
) -> AsyncIterator[Load]:
    """Clients that send answers as long as the block lasts."""
    load = Load(ledger, prefix)
    async with clients_of(service, clients=clients) as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(load.work(client, number)) for number in range(clients)]
        yield load
        for task in tasks:
            task.cancel()


# What must hold


def stored_outcomes(db: Connection, course: str = COURSE) -> dict[str, bytes]:
    """What was told of every stored answer."""
    rows = db.execute(select(Response.id, Response.outcome).where(Response.course_id == course))
    return {id_: (outcome or "").encode() for id_, outcome in rows}


def positions(db: Connection, learner: str, course: str = COURSE) -> tuple[int, list[int]]:
    """Where the log of a learner stands, and the places of the answers in it."""
    rows = db.execute(
        select(Response.position).where(Response.course_id == course, Response.learner_id == learner)
    ).scalars()
    return find_learners(db, 1, course, [learner])[learner].position, sorted(rows)


async def find_losses(database: Database, ledger: Ledger) -> set[str]:
    """The answers that were acknowledged but are not stored as they were told."""
    stored = await database.read(stored_outcomes)
    return {id_ for id_, digest in ledger.read().items() if outcome_digest(stored.get(id_, b"")) != digest}


def outcome_digest(outcome: bytes) -> str:
    return hashlib.sha256(outcome).hexdigest()


async def find_changed_replies(service: Service, ledger: Ledger) -> set[str]:
    """The answers that are not told the same, byte for byte and as a repetition, when they are sent again."""
    wrong = set()
    waiting = iter(ledger.read().items())
    async with clients_of(service) as client:

        async def resend() -> None:
            for id_, digest in waiting:
                reply = await client.post("responses", json=response_of(id_))
                if reply.status_code != 200 or outcome_digest(reply.content) != digest:
                    wrong.add(id_)

        await asyncio.gather(*(resend() for _ in range(CLIENTS)))
    return wrong


async def assert_nothing_lost(service: Service, ledger: Ledger) -> None:
    """Every acknowledged answer is stored, is told the same again, and the log explains all that was told."""
    async with opened(service.url) as database:
        assert await find_losses(database, ledger) == set()
        assert await find_changed_replies(service, ledger) == set()
        verification = await verify(database)
        assert verification.differences == []
        assert verification.responses == len(await database.read(stored_outcomes)) >= len(ledger.read()) > 0
    assert service.unexpected() == []
