"""`python -m benchmarks.growth`: what size costs, as tables and in docs/benchmarks.md.

To measure less, in the environment: ANSWERS of the large log, ITEMS of the large course, LONG the answers of the
longest learner, COHORT its learners, IMPORT the answers of the file; ROUNDS, and SECONDS of each load.
"""

import http.client
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import IO, Any, cast
from urllib.parse import urlsplit

import numpy as np
from sqlalchemy import create_engine

from app.adaptive.practice.choose import choose_items
from app.core.times import now
from app.services.course_model import read_course_model
from app.services.recommendations import choice_seeds
from app.services.replay import read_states_page, states_at
from benchmarks import harness
from benchmarks.filling import fill
from benchmarks.harness import (
    COURSE,
    PATH,
    TENANT,
    Server,
    cpu_us,
    database_servers,
    memory_mb,
    prepare_database,
    serve,
)
from benchmarks.load import need_wrk
from benchmarks.load import run as load
from benchmarks.report import paired_ratios, publish, summarise, table

ANSWERS = int(os.environ.get("ANSWERS", "10_000_000"))
ITEMS = int(os.environ.get("ITEMS", "100_000"))
LONG = int(os.environ.get("LONG", "10_000"))
COHORT = int(os.environ.get("COHORT", "10_000"))
IMPORT = int(os.environ.get("IMPORT", "1_000_000"))
ROUNDS = int(os.environ.get("ROUNDS", "5"))
SECONDS = int(os.environ.get("SECONDS", "8"))

CLIENTS = 64
# As many learners come through the service; the others are copies.
REPLAYED, REPLAYED_COHORT, COHORT_EACH = 500, 200, 300
IMPORT_EACH = 50
GROUP, CHOICES = 64, 100

# By measure and column: one figure a round.
Figures = defaultdict[tuple[str, str], list[float]]


def main() -> None:
    """Measure, print, publish."""
    need_wrk()
    text = f"`python -m benchmarks.growth`, {datetime.now(UTC).date().isoformat()}."
    with database_servers() as servers:
        for measure, title in SECTIONS.items():
            figures: Figures = defaultdict(list)
            for server in servers if measure is not measure_choosing else servers[-1:]:
                print(f"{measure.__name__}: {server.name}", file=sys.stderr)
                measure(server, figures)
            text = f"{text}\n\n{title}\n\n{format_figures(figures)}"
    print(text)
    publish("growth", text)


def format_figures(figures: Figures) -> str:
    """All figures, with the goals there are."""
    columns = list(dict.fromkeys(column for _, column in figures))
    rows = [
        [
            measure,
            GOALS.get(measure, ""),
            *(summarise(figures[measure, c]) if (measure, c) in figures else "" for c in columns),
        ]
        for measure in dict.fromkeys(measure for measure, _ in figures)
    ]
    return table(["", "goal", *columns], rows)


LARGE, SMALL = "large log", "small log"


def measure_log(server: Server, figures: Figures) -> None:
    """The throughput on a large log and on a small one, in turn."""
    databases = {
        SMALL: (harness.LEARNERS, *prepare_database(server)),
        LARGE: (ANSWERS // harness.ANSWERS_EACH, *prepare_database(server, REPLAYED)),
    }
    fill(databases[LARGE][1], REPLAYED, databases[LARGE][0])
    for number in range(ROUNDS):
        order = list(databases.items())
        for name, (learners, url, key) in order[number % 2 :] + order[: number % 2]:
            server.vacuum(url)
            for measure, value in measure_load(server, url, key, learners, f"{number}"):
                figures[f"{measure}, {name}", server.name].append(value)
    rates = [figures[f"answers/s, {name}", server.name] for name in (LARGE, SMALL)]
    figures["answers/s: large / small", server.name] = paired_ratios(*rates)
    for _, url, _ in databases.values():
        server.drop(url)


def measure_load(server: Server, url: str, key: str, learners: int, label: str) -> Iterator[tuple[str, float]]:
    """One load of 64 clients on one worker."""
    shape = (learners, harness.ITEMS)
    with serve(url) as (address, pid):
        load(address + PATH, key, f"{label}w", CLIENTS, 2, shape)
        cpu, database_cpu = cpu_us(pid), server.cpu_us()
        seen = load(address + PATH, key, f"{label}m", CLIENTS, SECONDS, shape)
        yield "answers/s", seen.rate
        yield "p50 ms", seen.p50
        yield "p99 ms", seen.p99
        yield "CPU of the server, µs an answer", (cpu_us(pid) - cpu) / seen.requests
        if server.cpu_us():
            yield "CPU of PostgreSQL, µs an answer", (server.cpu_us() - database_cpu) / seen.requests


# How many answers lie behind the late one, in the order of the fold.
BACK: dict[str, Callable[[Random], int]] = {
    "in order": lambda _: 0,
    "1 back": lambda _: 1,
    "100 back": lambda _: 100,
    "1,000 back": lambda _: 1000,
    "at a random place": lambda chance: chance.randrange(1, LONG),
    "before the first": lambda _: LONG,
}


def measure_late(server: Server, figures: Figures) -> None:
    """One learner of many answers, and one more that belongs before some of them."""
    url, key = prepare_database(server, 1, LONG)
    chance = Random(4)
    with serve(url) as (address, pid), closing(Caller(address, key)) as caller:
        caller.ask("POST", PATH, late_response("first", harness.NEW_YEAR + 60 * LONG - 31))
        for number in range(ROUNDS):
            for where, back in BACK.items():
                # Half a minute before an answer; those of other rounds are some seconds away.
                moment = harness.NEW_YEAR + 60 * (LONG - back(chance)) - 30 + number
                cpu, began = cpu_us(pid), time.perf_counter()
                caller.ask("POST", PATH, late_response(f"{where} {number}", moment))
                figures[f"ms, {where}", server.name].append((time.perf_counter() - began) * 1000)
                figures[f"CPU ms, {where}", server.name].append((cpu_us(pid) - cpu) / 1000)
    server.drop(url)


def late_response(id_: str, moment: int) -> dict[str, Any]:
    """An answer given at a moment, in seconds."""
    given = datetime.fromtimestamp(moment, UTC).isoformat()
    return {"id": id_, "learner": "learner-0", "item": "item-1", "correct": False, "occurred_at": given}


def measure_cohort(server: Server, figures: Figures) -> None:
    """The mastery of everybody as a stream of CSV."""
    url, key = prepare_database(server, REPLAYED_COHORT, COHORT_EACH)
    fill(url, REPLAYED_COHORT, COHORT, answers=False)
    server.vacuum(url)
    with serve(url) as (address, pid), closing(Caller(address, key)) as caller:
        # The worker knows the course then, and nothing of the cohort.
        caller.ask("GET", f"/v1/courses/{COURSE}/learners/learner-0/mastery")
        for _ in range(ROUNDS):
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
            figures["memory of the worker before, MB", server.name].append(memory_mb(pid))
            for measure, value in measure_stream(address, key):
                figures[measure, server.name].append(value)
            figures["its highest meanwhile, MB", server.name].append(memory_mb(pid, "VmHWM"))
    server.drop(url)


def measure_stream(address: str, key: str) -> Iterator[tuple[str, float]]:
    """Read the whole cohort."""
    with closing(Caller(address, key)) as caller:
        began = time.perf_counter()
        caller.connection.request(
            "GET", f"/v1/courses/{COURSE}/mastery", headers=caller.headers | {"Accept": "text/csv"}
        )
        reply = caller.connection.getresponse()
        heading, first = reply.readline(), reply.readline()
        if reply.status != 200 or not heading.startswith(b"learner,") or not first:
            raise RuntimeError(f"{reply.status}: {heading!r}")
        yield "first row, ms", (time.perf_counter() - began) * 1000
        rows = 1
        while part := reply.read(1 << 16):
            rows += part.count(b"\n")
        yield "all rows, s", time.perf_counter() - began
        yield "rows", rows


def measure_import(server: Server, figures: Figures) -> None:
    """The command, on a course without answers."""
    url, _ = prepare_database(server, 0, 0)
    with tempfile.TemporaryDirectory() as folder:
        file = harness.write_answers(Path(folder) / "many.csv", IMPORT // IMPORT_EACH, IMPORT_EACH, harness.ITEMS)
        command = [sys.executable, "-m", "app", "import", "responses", str(file), "--course", COURSE]
        began = time.perf_counter()
        with subprocess.Popen(
            command, env={**os.environ, "PROXIMA_DATABASE_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            said, peak = watch_process(process)
            _, status, used = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
    if not said.startswith(f"{IMPORT:,} answers loaded".encode()):
        raise RuntimeError(f"the import ended with {process.returncode}: {said!r}")
    figures["wall time, s", server.name].append(time.perf_counter() - began)
    figures["CPU of the command, s", server.name].append(used.ru_utime + used.ru_stime)
    figures["its peak of memory, MB", server.name].append(peak)
    server.drop(url)


def watch_process(process: "subprocess.Popen[bytes]") -> tuple[bytes, float]:
    """What a process says until it ends, and its peak of memory in MB.

    The kernel's own account of an ended process, `ru_maxrss`, begins with the memory of whoever started it.
    """
    said, peak = b"", 0.0
    with selectors.DefaultSelector() as ready:
        output = cast("IO[bytes]", process.stdout)
        ready.register(output, selectors.EVENT_READ)
        while True:
            heard = ready.select(0.05)
            with suppress(OSError, StopIteration):
                peak = max(peak, memory_mb(process.pid, "VmHWM"))
            if heard and not (part := os.read(output.fileno(), 1 << 16)):
                return said, peak
            said += part if heard else b""


def measure_choosing(server: Server, figures: Figures) -> None:
    """The next exercise in a large course: by the engine alone, and by the service."""
    for skills in (harness.SKILLS, 5):
        name = f"{ITEMS:,} items, {skills} skills"
        url, key = prepare_database(server, GROUP, 20, ITEMS, skills)
        for learners in (1, GROUP):
            times = measure_choices(url, learners)
            figures[f"`choose_items`, {learners} at once, CPU ms each", name] += [each / learners for each in times]
        with serve(url) as (address, pid), closing(Caller(address, key)) as caller:
            path = f"/v1/courses/{COURSE}/learners/learner-{{}}/recommendations"
            began = time.perf_counter()
            caller.ask("GET", path.format(0))
            figures["first request to a worker, s", name].append(time.perf_counter() - began)
            cpu = cpu_us(pid)
            for number in range(CHOICES):
                began = time.perf_counter()
                caller.ask("GET", path.format(number % GROUP))
                figures["GET …/recommendations, ms", name].append((time.perf_counter() - began) * 1000)
            figures["CPU of the server for one, mean, ms", name].append((cpu_us(pid) - cpu) / CHOICES / 1000)
        server.drop(url)


def measure_choices(url: str, learners: int) -> list[float]:
    """CPU times in ms of choices for so many learners at once."""
    engine = create_engine(url)
    with engine.connect() as db:
        course_model = read_course_model(db, TENANT, COURSE)
        _, states = read_states_page(db, course_model, None, GROUP)
    engine.dispose()
    states = states_at(course_model, states, now())
    times = []
    for number in range(CHOICES // learners + 7):
        rows = (number + np.arange(learners)) % GROUP
        some, drawn = states[rows], choice_seeds(course_model, [f"{number}-{row}" for row in rows.tolist()])
        began = time.process_time()
        choose_items(course_model.parameters, some, drawn)
        times.append((time.process_time() - began) * 1000)
    # The first ones meet cold caches.
    return times[2:]


class Caller:
    """One connection to the service that stays open."""

    def __init__(self, address: str, key: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=600)
        self.headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """The body of a reply, which must be a 2xx."""
        self.connection.request(method, path, None if body is None else json.dumps(body), self.headers)
        reply = self.connection.getresponse()
        content = reply.read()
        if reply.status // 100 != 2:
            raise RuntimeError(f"{path}: {reply.status} {content[:500].decode()}")
        return content

    def close(self) -> None:
        """Hang up."""
        self.connection.close()


GOALS = {
    "answers/s: large / small": "≥ 0.9",
    **{f"ms, {where}": "≤ 200" for where in BACK},
    "first row, ms": "≤ 100",
    "its highest meanwhile, MB": "flat",
    "wall time, s": "≤ 60",
    "`choose_items`, 1 at once, CPU ms each": "≤ 3",
    f"`choose_items`, {GROUP} at once, CPU ms each": "≤ 3",
}
SECTIONS: dict[Callable[[Server, Figures], None], str] = {
    measure_log: f"""\
**A log of {ANSWERS:,} answers of {ANSWERS // harness.ANSWERS_EACH:,} learners**, beside one of
{harness.LEARNERS * harness.ANSWERS_EACH:,} of {harness.LEARNERS:,}: {CLIENTS} clients, one worker, {ROUNDS} rounds of
{SECONDS} s, both in turn, learners drawn from all there are. {REPLAYED} learners came through the service; the others
are copies of them, answers and states, under ids of their own (`benchmarks/filling.py`). The indexes were kept up; then
the tables were vacuumed.""",
    measure_late: f"""\
**A learner of {LONG:,} answers**, and one more that belongs so many answers back, in a request of its own;
{ROUNDS} rounds.""",
    measure_cohort: f"""\
**Mastery of {COHORT:,} learners × {harness.SKILLS} skills** as one stream of CSV, {ROUNDS} times, by a worker that
knows the course.""",
    measure_import: f"""\
**Import of {IMPORT:,} answers** of {IMPORT // IMPORT_EACH:,} learners into a course without answers: `proxima import
responses`, one run, with its start.""",
    measure_choosing: f"""\
**The next exercise in a large course**: CPU time of `policy.choose_items` alone, and of the service; learners
with 20 answers, {CHOICES} requests, SQLite.""",
}


if __name__ == "__main__":
    main()
