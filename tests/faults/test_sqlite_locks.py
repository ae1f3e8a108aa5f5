"""SQLite under writers, readers and a calibration, on the connections of several processes: nobody finds it locked."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest

from app import database as foundations
from app import worker
from app.adaptive import calibration
from app.adaptive.calibration import silent
from app.database import Database
from app.errors import Unavailable
from app.intake import Intake
from app.services.calibrations import request
from app.services.mastery import learner_mastery
from app.times import now
from tests.client import COURSE, NEW_YEAR_US, opened, right_or_wrong, verified
from tests.faults.harness import ITEMS, amounts, outcomes
from tests.test_worker import LEARNERS, prepare, state

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("engine_name", ["sqlite"], indirect=True)]

WRITERS, READERS, LEAST = 8, 4, 20


async def crowd(url: str, calibrations: int) -> list[str]:
    """Writers at two doors, and readers, while a third calibrates; what anybody complained about."""
    complaints: list[str] = []

    async def attempt(work: Coroutine[Any, Any, Any]) -> None:
        try:
            await work
        except Unavailable as error:
            complaints.append(repr(error.__cause__))

    async def write(door: Intake, number: int, done: asyncio.Event) -> int:
        written = 0
        while written < LEAST or not done.is_set():
            learner, item = f"l{written % LEARNERS}", ITEMS[written % len(ITEMS)]
            answer = right_or_wrong(f"w-{number}-{written}", learner, item, written, correct=written % 3 > 0)
            [result] = await door.submit([answer])
            if isinstance(result, Exception):
                complaints.append(repr(result.__cause__))
            written += 1
        return written

    async def read(database: Database, done: asyncio.Event) -> None:
        while not done.is_set():
            await attempt(database.read(learner_mastery, 1, COURSE, "l1", None, NEW_YEAR_US))

    async with opened(url) as one, opened(url) as other:
        await prepare(one)
        before = len(await one.read(outcomes))
        doors, done = [Intake(one, 100), Intake(other, 100)], asyncio.Event()
        readers = [asyncio.create_task(read(one, done)) for _ in range(READERS)]
        writers = [asyncio.create_task(write(doors[number % 2], number, done)) for number in range(WRITERS)]
        for _ in range(calibrations):
            await attempt(asyncio.to_thread(asyncio.run, calibrated(url)))
        done.set()
        written = sum(await asyncio.gather(*writers))
        await asyncio.gather(*readers)
        assert before < len(await one.read(outcomes)) <= before + written
    return complaints


async def calibrated(url: str) -> None:
    """A calibration, with connections of its own."""
    async with opened(url) as database:
        claim = await database.write(request, 1, COURSE, now())
        await worker.fit_claimed(database, claim, silent)
        assert (await database.read(state, claim.number))[0] == "succeeded"


@pytest.mark.parametrize("calibrations", amounts(2, 50))
async def test_nobody_finds_the_database_locked(
    calibrations: int, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "ROUNDS", 1)
    monkeypatch.setattr(calibration, "SEARCH_EVALUATIONS", 8)
    assert await crowd(database_url, calibrations) == []
    async with opened(database_url) as database:
        assert (await verified(database)).differences == []


def deferred(real: Any, *args: Any, **kwargs: Any) -> Any:
    """An engine whose transactions do not begin by locking."""
    return real(*args, **{**kwargs, "begin": "BEGIN"})


async def test_transactions_that_do_not_begin_by_locking_find_it_locked(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(foundations, "sqlite_engine", partial(deferred, foundations.sqlite_engine))
    complaints = await crowd(database_url, 0)
    assert complaints
    assert all("database is locked" in complaint for complaint in complaints)
