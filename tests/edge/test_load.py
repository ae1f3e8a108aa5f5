"""R-32. More than can be done is refused at once and told when to come back; what was accepted is stored."""

import asyncio
import sqlite3
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from app.queries.responses import count_responses
from tests.client import COURSE, opened
from tests.edge.service import Reply, Service, Wire, exchange, post, service

ROOM, CALLERS = 50, 200
SMALL = f"import app.http.admission as guard\nguard.MOST_IN_HAND = {ROOM}\n"
NO_LIMIT = "guard.MOST_IN_HAND = 10**9\n"
NO_EXEMPTION = "guard.PROBES = frozenset()\n"
PROBE = b"GET /livez HTTP/1.1\r\nHost: service\r\n\r\n"


@contextmanager
def busy(path: str) -> Iterator[None]:
    """While this lasts nobody can write to the file."""
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.close()


async def crowd(started: Service, path: str) -> tuple[Counter[tuple[int, str, str]], list[int]]:
    """Send one answer by each caller while none can be stored; what they are told, and a probe meanwhile."""
    with busy(path):
        tasks = [asyncio.create_task(exchange(started, post(started, f"r-{n}", f"l{n}"))) for n in range(CALLERS)]
        # As soon as all that is too much was refused, or after a while if nothing is.
        with suppress(TimeoutError):
            async with asyncio.timeout(3):
                for place, one in enumerate(asyncio.as_completed(tasks), start=1):
                    await one
                    if place == CALLERS - ROOM:
                        break
        probes = [(await exchange(started, PROBE)).status for _ in range(5)]
    return Counter(kind(reply) for reply in await asyncio.gather(*tasks)), probes


def kind(reply: Reply) -> tuple[int, str, str]:
    """Status, code and when to come back."""
    return reply.status, reply.code if reply.status >= 400 else "", reply.headers.get("retry-after", "")


def stored(url: str) -> int:
    async def count() -> int:
        async with opened(url) as database:
            return await database.read(count_responses, 1, COURSE)

    return asyncio.run(count())


@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
def test_overload_is_refused_and_the_rest_is_stored(database_url: str) -> None:
    with service(database_url, patch=SMALL) as started:
        told, probes = asyncio.run(crowd(started, database_url.removeprefix("sqlite:///")))
    assert told == {(201, "", ""): ROOM, (503, "overloaded", "1"): CALLERS - ROOM}
    assert stored(database_url) == ROOM
    assert probes == [200] * 5


@pytest.mark.controls
@pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("mutant", "refused", "alive"), [(NO_LIMIT, 0, 200), (NO_EXEMPTION, CALLERS - ROOM, 503)])
def test_overload_is_noticed_if_half_of_the_admission_control_is_missing(
    database_url: str, mutant: str, refused: int, alive: int
) -> None:
    with service(database_url, patch=SMALL + mutant) as started:
        told, probes = asyncio.run(crowd(started, database_url.removeprefix("sqlite:///")))
    assert told[503, "overloaded", "1"] == refused
    assert set(probes) == {alive}


# More than a worker takes at once, or the callers themselves would be what limits the load.
CONNECTIONS, SOAK_S = 4000, 60


async def flood(started: Service, rate: float, seconds: float) -> tuple[Counter[int], list[float], list[float]]:
    """An open loop: requests start at this rate, whatever becomes of those before; statuses and times of the accepted.

    A time counts from the moment at which the request was due. The times of a probe are measured beside it.
    """
    told: Counter[int] = Counter()
    times: list[float] = []
    probes: list[float] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    due = iter(range(int(rate * seconds)))

    async def caller(name: int) -> None:
        async with Wire(started) as wire:
            for number in due:
                moment = began + number / rate
                await asyncio.sleep(moment - loop.time())
                await wire.send(post(started, f"s-{number}-{rate:.0f}", f"l{name}-{number % 17}"))
                status = (await wire.reply()).status
                told[status] += 1
                if status == 201:
                    times.append(loop.time() - moment)

    async def probe() -> None:
        async with Wire(started) as wire:
            while True:
                moment = loop.time()
                await wire.send(PROBE)
                assert (await wire.reply()).status == 200
                probes.append(loop.time() - moment)
                await asyncio.sleep(0.1)

    beside = asyncio.create_task(probe())
    await asyncio.gather(*(caller(name) for name in range(CONNECTIONS)))
    beside.cancel()
    return told, times, probes


async def peak(started: Service, seconds: float, callers: int = 64) -> float:
    """Answers a second in a closed loop."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    done = 0

    async def caller(name: int) -> None:
        nonlocal done
        async with Wire(started) as wire:
            while loop.time() < end:
                await wire.send(post(started, f"p-{name}-{done}-{time.monotonic_ns()}", f"l{name}-{done % 17}"))
                assert (await wire.reply()).status == 201
                done += 1

    await asyncio.gather(*(caller(name) for name in range(callers)))
    return done / seconds


@pytest.mark.soak
def test_overload_of_three_times_the_capacity(database_url: str) -> None:
    with service(database_url) as started:
        best = asyncio.run(peak(started, SOAK_S / 4))
        began = time.monotonic()
        told, times, probes = asyncio.run(flood(started, 3 * best, SOAK_S))
        seconds = time.monotonic() - began
    p99 = statistics.quantiles(times, n=100)[98]
    slowest = statistics.quantiles(probes, n=100)[98]
    print(  # noqa: T201 (the figures are what this is for)
        f"peak {best:.0f}/s; offered {3 * best:.0f}/s for {seconds:.0f} s: {dict(told)}; goodput "
        f"{told[201] / seconds / best:.0%} of peak; accepted p50 {statistics.median(times):.2f} s, p99 {p99:.2f} s; "
        f"livez p99 {slowest * 1000:.0f} ms"
    )
    assert set(told) <= {201, 503}
    assert told[201]
