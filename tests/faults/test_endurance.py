"""An hour of mixed load: memory, open files and latency stay where they were, and nothing fails.

`SOAK_MINUTES` says how long (60). Everything of the second half is compared with the second quarter: the first quarter
fills the caches.
"""

import asyncio
import json
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx
import pytest

from tests.client import opened, verify
from tests.faults.harness import ITEMS, Service, clients_of, create_courses, serving

pytestmark = [pytest.mark.anyio, pytest.mark.soak]

SECONDS = 60 * float(os.environ.get("SOAK_MINUTES", "60"))
WINDOWS = 40
CLIENTS, LEARNERS, PAUSE_S = 8, 500, 0.02
MOST_GROWTH_MB_IN_TEN_MINUTES = 1.0
MOST_DRIFT = 1.1


@dataclass(frozen=True)
class Window:
    """What one stretch of time looked like."""

    minute: float
    memory_mb: float
    files: int
    p99_ms: float


@pytest.mark.parametrize(("engine_name", "workers"), [("sqlite", 1), ("postgresql", 2)], indirect=["engine_name"])
async def test_service_stays_as_fast_and_as_small_for_an_hour_under_load(
    workers: int, engine_name: str, database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = await create_courses(database_url)
    with serving(database_url, key, tmp_path / "service", workers=workers) as service:
        await service.ready(workers)
        windows, statuses = await load(service)
        assert service.unexpected() == []
    early, late = windows[WINDOWS // 4 : WINDOWS // 2], windows[WINDOWS // 2 :]
    growth = slope([w.minute for w in late], [w.memory_mb for w in late]) * 10
    drift = statistics.median(w.p99_ms for w in late) / statistics.median(w.p99_ms for w in early)
    found = {"requests": sum(statuses.values()), "MB in ten minutes": growth, "p99, late over early": drift}
    told = {"database": engine_name, **found, "first": vars(windows[0]), "last": vars(windows[-1])}
    with capsys.disabled():
        sys.stdout.write(f"\n{json.dumps(told)}\n")
    assert {status // 100 for status in statuses} == {2}
    assert max(w.files for w in late) <= max(w.files for w in early) + 2
    assert growth <= MOST_GROWTH_MB_IN_TEN_MINUTES
    assert drift <= MOST_DRIFT
    async with opened(database_url) as database:
        assert (await verify(database)).differences == []


async def load(service: Service) -> tuple[list[Window], Counter[int]]:
    """Clients who answer, look, ask for more and correct, for all windows."""
    statuses: Counter[int] = Counter()
    latencies: list[float] = []
    windows: list[Window] = []
    started = time.monotonic()

    async def work(client: httpx.AsyncClient, number: int) -> None:
        chance = Random(number)
        for place in range(10**9):
            began = time.monotonic()
            for status in await send_one_answer(client, chance, f"r{number}-{place}"):
                statuses[status] += 1
            latencies.append((time.monotonic() - began) * 1000)
            await asyncio.sleep(PAUSE_S)

    async with clients_of(service, clients=CLIENTS) as client, asyncio.TaskGroup() as group:
        tasks = [group.create_task(work(client, number)) for number in range(CLIENTS)]
        for number in range(WINDOWS):
            latencies.clear()
            await asyncio.sleep(max(started + (number + 1) * SECONDS / WINDOWS - time.monotonic(), 0))
            windows.append(look(service, (time.monotonic() - started) / 60, latencies))
        for task in tasks:
            task.cancel()
    return windows, statuses


async def send_one_answer(client: httpx.AsyncClient, chance: Random, id_: str) -> list[int]:
    """An answer, and now and then what people do beside: look, ask, correct."""
    learner = f"l{chance.randrange(LEARNERS)}"
    answer = {"id": id_, "learner": learner, "item": chance.choice(ITEMS), "correct": chance.random() < 0.6}
    replies = [await client.post("responses", json=answer)]
    match chance.randrange(50):
        case 0 | 1 | 2 | 3 | 4:
            replies.append(await client.get(f"learners/{learner}/mastery"))
        case 5 | 6:
            replies.append(await client.get(f"learners/{learner}/recommendations", params={"limit": 3}))
        case 7:
            replies.append(await client.post(f"learners/{learner}/recommendations"))
        case 8:
            replies.append(await client.post(f"responses/{id_}/void", json={"reason": "soak"}))
        case 9:
            replies.append(await client.get("mastery", params={"limit": 100}))
    return [reply.status_code for reply in replies]


def look(service: Service, minute: float, latencies: Sequence[float]) -> Window:
    """Memory and open files of all processes that answer, and the slowest of a hundred turns."""
    memory, files = 0, 0
    for pid in service.pids:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
        memory += int(next(line for line in status if line.startswith("VmRSS")).split()[1])
        files += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return Window(minute, memory / 1000, files, statistics.quantiles(latencies, n=100)[-1])


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the straight line through the points; the median over all pairs (Theil 1950), so that one peak is no trend."""
    pairs = [(b - a, d - c) for a, c in zip(x, y, strict=True) for b, d in zip(x, y, strict=True) if b > a]
    return statistics.median(rise / run for run, rise in pairs)
