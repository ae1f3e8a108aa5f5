"""Wrong clocks: of a host that is a day behind, or a year ahead, beside others that are right.

Processes whose own clock is moved always run. Where libfaketime is installed, whole processes are told the wrong time
as well, interpreter and libraries included.
"""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select

from app.core import times
from app.core.database import Database
from app.core.times import DAY_US, to_text
from app.http.auth import Caller, KnownKeys
from app.jobs import calibrations as calibration_jobs
from app.models import Response
from app.queries.calibrations import find_calibration, list_lapsed
from app.routers import calibrations as calibration_routes
from app.services import calibrations
from app.services.calibrations import call_at_database_time, renew_lease, request_calibration, take_over
from tests.client import COURSE, opened, school, verify
from tests.faults.harness import PROXIMA, Service, clients_of, create_courses, serving

DAY_S = 86_400
YEAR_S = 365 * DAY_S
LIBRARY = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
# A server whose own clock is wrong by so many seconds.
MOVED = """
import sys, time, types
import app.core.times
moved = int(sys.argv.pop(1)) * 10**9
app.core.times.time = types.SimpleNamespace(time_ns=lambda: time.time_ns() + moved)
from app.cli import main
main(["serve", *sys.argv[1:]])
"""

Start = Callable[[str, str, Path, int], Any]


def moved(url: str, key: str, folder: Path, skew_s: int) -> Any:
    """A service that reads the wrong time."""
    return serving(url, key, folder, command=(sys.executable, "-c", MOVED, str(skew_s)))


def faked(url: str, key: str, folder: Path, skew_s: int) -> Any:
    """A service whose whole process is told the wrong time. Its steady clock is right: no host moves that one."""
    told = {
        "LD_PRELOAD": str(LIBRARY),
        "FAKETIME": f"{skew_s:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return serving(url, key, folder, command=PROXIMA, settings=told)


only_faked = pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed")
WAYS = [
    pytest.param("sqlite", moved, id="sqlite-moved"),
    pytest.param("postgresql", moved, id="postgresql-moved"),
    pytest.param("postgresql", faked, id="postgresql-faked", marks=only_faked),
]
ANSWERS = 32


@asynccontextmanager
async def skewed(start: Start, url: str, key: str, folder: Path, skews: Sequence[int]) -> AsyncIterator[list[Service]]:
    """Services at one database whose clocks differ."""
    async with AsyncExitStack() as stack:
        services = [stack.enter_context(start(url, key, folder / f"at{skew}", skew)) for skew in skews]
        for service in services:
            await service.ready(1)
        yield services


def answer(number: int, **more: Any) -> dict[str, Any]:
    """Answer so and so of a learner."""
    return {"learner": f"l{number % 3}", "item": f"i{number % 4 + 1}", "correct": number % 3 > 0, **more}


@pytest.mark.anyio
@pytest.mark.parametrize(("engine_name", "start"), WAYS, indirect=["engine_name"])
async def test_states_equal_a_replay_whatever_the_clocks_of_the_servers(
    database_url: str, tmp_path: Path, start: Start
) -> None:
    """Two servers, one a day behind and one a year ahead; every other pair of answers says when it was given."""
    key = await create_courses(database_url)
    past = times.now() - 2 * DAY_US

    async def send(client: httpx.AsyncClient, first: int) -> None:
        for number in range(first, ANSWERS, 2):
            dated = {"occurred_at": to_text(past + number * 1_000_000)} if number % 4 > 1 else {}
            reply = await client.post("responses", json=answer(number, id=f"r{number:02}", **dated))
            assert reply.status_code == 201, reply.text

    async with (
        skewed(start, database_url, key, tmp_path, [-DAY_S, YEAR_S]) as services,
        clients_of(services[0]) as slow,
        clients_of(services[1]) as fast,
    ):
        await asyncio.gather(send(slow, 0), send(fast, 1))
        until_then = {"as_of": to_text(past + ANSWERS * 1_000_000)}
        seen = [(await client.get("learners/l0/mastery", params=until_then)).json() for client in (slow, fast)]
        assert seen[0] == seen[1]
        for client in (slow, fast):
            measured = durations((await client.get(client.base_url.join("/metrics"))).text)
            assert measured
            assert min(measured) >= 0
        assert [await codes_of_times_ahead(slow, -DAY_S), await codes_of_times_ahead(fast, YEAR_S)] == [AHEAD] * 2
    async with opened(database_url) as database:
        found = await verify(database)
        assert (found.responses, found.differences) == (ANSWERS + 4, [])
        dated, undated = await database.read(orders)
    assert dated == sorted(dated)
    # The control: what the servers' clocks decide did go wrong.
    assert undated != sorted(undated)


AHEAD = {-60: "", 60: "", 900: "occurred_in_future"}


async def codes_of_times_ahead(client: httpx.AsyncClient, skew_s: int) -> dict[int, str]:
    """How a server whose clock is wrong takes answers that lie so many seconds ahead of it."""
    now = times.now() + skew_s * 1_000_000
    told = {}
    for ahead_s in AHEAD:
        body = answer(0, id=f"ahead-{skew_s}-{ahead_s}", occurred_at=to_text(now + ahead_s * 1_000_000))
        reply = await client.post("responses", json=body)
        told[ahead_s] = reply.json().get("code", "")
    return told


def orders(db: Connection) -> tuple[list[str], list[str]]:
    """The order of the fold, of the answers that said when they were given and of the others."""
    rows = db.execute(select(Response.id).order_by(Response.occurred_at, Response.id)).scalars()
    ids = [id_ for id_ in rows if id_[1:].isdecimal()]
    return [id_ for id_ in ids if int(id_[1:]) % 4 > 1], [id_ for id_ in ids if int(id_[1:]) % 4 <= 1]


def durations(metrics: str) -> list[float]:
    """The sums of all durations a service has measured."""
    lines = (line.split() for line in metrics.splitlines() if "_seconds_sum" in line)
    return [float(value) for _, value in lines]


# Leases


@pytest.fixture
def moved_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Move the clock of this process by so many seconds."""

    def move(skew_s: int) -> None:
        monkeypatch.setattr(times, "time", SimpleNamespace(time_ns=lambda: time.time_ns() + skew_s * 10**9))

    return move


@pytest.fixture
async def claimed(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Database]:
    """A course of which a host that is right is making the first calibration."""
    monkeypatch.setattr(calibrations, "MIN_RESPONSES", 1)
    async with school(database_url) as client, opened(database_url) as database:
        await client.post("responses", json=answer(1))
        await database.write(call_at_database_time, request_calibration, 1, COURSE)
        yield database


@pytest.mark.anyio
@pytest.mark.parametrize("skew_s", [-DAY_S, YEAR_S])
async def test_host_with_a_wrong_clock_takes_over_no_calibration(
    claimed: Database, moved_clock: Callable[[int], None], skew_s: int
) -> None:
    moved_clock(skew_s)
    assert await claimed.read(call_at_database_time, list_lapsed) == []
    assert await claimed.write(call_at_database_time, take_over, 1, COURSE, 1) is None


@pytest.mark.controls
@pytest.mark.anyio
async def test_host_with_a_wrong_clock_takes_over_by_its_own_time(
    claimed: Database, moved_clock: Callable[[int], None]
) -> None:
    moved_clock(YEAR_S)
    assert await claimed.read(list_lapsed, times.now()) == [(1, COURSE, 1)]
    assert await claimed.write(take_over, 1, COURSE, 1, times.now()) is not None


@pytest.mark.anyio
@pytest.mark.parametrize("skew_s", [-DAY_S, YEAR_S])
async def test_host_with_a_wrong_clock_holds_a_lease_for_its_usual_time(
    claimed: Database, moved_clock: Callable[[int], None], skew_s: int
) -> None:
    real = times.now()
    moved_clock(skew_s)
    claim = calibrations.Claim(1, COURSE, 1, 1)
    assert await claimed.write(call_at_database_time, renew_lease, claim)
    row = await claimed.read(find_calibration, 1, COURSE, 1)
    assert row is not None
    assert real < row.leased_until < real + calibrations.LEASE_US + 60_000_000
    assert await claimed.read(list_lapsed, row.leased_until) == [(1, COURSE, 1)]


@pytest.mark.anyio
async def test_lease_from_a_database_clock_that_was_ahead_delays_no_other(claimed: Database) -> None:
    """The database's own clock was a year ahead when the host died, and was set right."""
    claim = calibrations.Claim(1, COURSE, 1, 1)
    assert await claimed.write(renew_lease, claim, times.now() + YEAR_S * 1_000_000)
    assert await claimed.read(call_at_database_time, list_lapsed) == [(1, COURSE, 1)]
    taken = await claimed.write(call_at_database_time, take_over, 1, COURSE, 1)
    assert taken is not None
    assert taken.attempt == 2


def test_calibration_jobs_take_the_time_from_the_database() -> None:
    """Leases are only safe if nobody brings a time of its own."""
    for module in (calibration_jobs, calibration_routes):
        text = Path(str(module.__file__)).read_text()
        calls = [part.split(")")[0] for part in text.split("database.write(")[1:]]
        for call in calls:
            named = {
                "take_over",
                "renew_lease",
                "release_lease",
                "return_claim",
                "save_result",
                "services.request_calibration",
            }
            if named & set(call.replace(",", " ").split()):
                assert "call_at_database_time" in call, call


# Keys


def test_revoked_key_ends_by_the_monotonic_clock(moved_clock: Callable[[int], None]) -> None:
    """Nothing but five seconds of the steady clock ends what is remembered of a key, or makes it last."""
    known = KnownKeys()
    caller = Caller(1, "k", frozenset())
    for skew_s in (-DAY_S, YEAR_S):
        moved_clock(skew_s)
        known.put(b"k", caller, known.clock())
        moved_clock(-skew_s)
        assert known.get(b"k") is caller
        known.put(b"k", caller, known.clock() - 5.0)
        assert known.get(b"k") is None
