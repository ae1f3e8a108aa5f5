"""SQLite under writers, readers and a calibration, on the connections of several processes: nobody finds it locked."""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest

from app.adaptive.calibration import fit
from app.adaptive.calibration.fit import ignore_progress
from app.core import database as foundations
from app.core.database import Database
from app.core.errors import Unavailable
from app.core.times import now
from app.group_commit import GroupCommit
from app.jobs.calibrations import fit_claimed
from app.services.calibrations import request_calibration
from app.services.mastery import learner_mastery
from tests.client import COURSE, NEW_YEAR_US, make_response, opened, verify
from tests.faults.harness import ITEMS, fault_counts, stored_outcomes
from tests.jobs.test_background_work import LEARNERS, prepare, state

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

    async def write(door: GroupCommit, number: int, done: asyncio.Event) -> int:
        written = 0
        while written < LEAST or not done.is_set():
            learner, item = f"l{written % LEARNERS}", ITEMS[written % len(ITEMS)]
            answer = make_response(f"w-{number}-{written}", learner, item, written, correct=written % 3 > 0)
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
        before = len(await one.read(stored_outcomes))
        doors, done = [GroupCommit(one, 100), GroupCommit(other, 100)], asyncio.Event()
        readers = [asyncio.create_task(read(one, done)) for _ in range(READERS)]
        writers = [asyncio.create_task(write(doors[number % 2], number, done)) for number in range(WRITERS)]
        for _ in range(calibrations):
            await attempt(asyncio.to_thread(asyncio.run, calibrated(url)))
        done.set()
        written = sum(await asyncio.gather(*writers))
        await asyncio.gather(*readers)
        assert before < len(await one.read(stored_outcomes)) <= before + written
    return complaints


async def calibrated(url: str) -> None:
    """A calibration, with connections of its own."""
    async with opened(url) as database:
        claim = await database.write(request_calibration, 1, COURSE, now())
        await fit_claimed(database, claim, ignore_progress)
        assert (await database.read(state, claim.number))[0] == "succeeded"


@pytest.mark.parametrize("calibrations", fault_counts(2, 50))
async def test_concurrent_requests_never_find_the_database_locked(
    calibrations: int, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "ROUNDS", 1)
    monkeypatch.setattr(fit, "SEARCH_EVALUATIONS", 8)
    assert await crowd(database_url, calibrations) == []
    async with opened(database_url) as database:
        assert (await verify(database)).differences == []


def deferred(real: Any, *args: Any, **kwargs: Any) -> Any:
    """An engine whose transactions do not begin by locking."""
    return real(*args, **{**kwargs, "begin": "BEGIN"})


async def test_deferred_transactions_find_the_database_locked(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control."""
    monkeypatch.setattr(foundations, "sqlite_engine", partial(deferred, foundations.sqlite_engine))
    complaints = await crowd(database_url, 0)
    assert complaints
    assert all("database is locked" in complaint for complaint in complaints)
