"""Many clients at two processes: an answer sent often is recorded once, and a learner loses nothing to a neighbour."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from app.core import database as foundations
from app.core.database import Database
from app.core.errors import ProximaError
from app.group_commit import GroupCommit
from app.queries.learners import find_learners
from app.services.responses import RecordedResponse, read
from tests.client import COURSE, make_response, opened, verify
from tests.faults.harness import (
    CLIENTS,
    HOOKED,
    ITEMS,
    Answer,
    Service,
    clients_of,
    create_courses,
    fault_counts,
    positions,
    response_of,
    send_until_acknowledged,
    serving,
    stored_outcomes,
)

pytestmark = pytest.mark.anyio

TIMES = 4
ONE, MANY = "one-learner", "many-learners"


async def all_sent(service: Service, course: str, answers: Iterable[Answer]) -> dict[str, list[tuple[int, bytes]]]:
    """What was told of each answer, each time; no connection is used twice, so that both processes are met."""
    told: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    waiting = iter(answers)
    async with clients_of(service, course, keepalive=0) as client:

        async def work() -> None:
            for answer in waiting:
                reply = await send_until_acknowledged(client, answer, Counter())
                told[answer["id"]].append((reply.status_code, reply.content))

        await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return told


@pytest.mark.parametrize("count", fault_counts(60, 2000))
async def test_two_processes_record_an_answer_once_and_lose_nothing_of_a_learner(
    count: int, database_url: str, tmp_path: Path
) -> None:
    key = await create_courses(database_url, ONE, MANY)
    ids = [f"r-{number}" for number in range(count)]
    folder = tmp_path / "service"
    settings = {"PROMETHEUS_MULTIPROC_DIR": str(folder)}
    with serving(database_url, key, folder, workers=2, command=HOOKED, settings=settings) as service:
        await service.ready(2)

        # Learners who are not there yet: there is no row to lock.
        doubled = ({**response_of(id_), "learner": f"of {id_}"} for id_ in ids for _ in range(TIMES))
        told = await all_sent(service, MANY, doubled)
        assert {tuple(sorted(status for status, _ in each)) for each in told.values()} == {(200, 200, 200, 201)}
        assert {len({body for _, body in each}) for each in told.values()} == {1}

        alone = await all_sent(service, ONE, ({**response_of(id_), "learner": "ann"} for id_ in ids))
        assert {status for [(status, _)] in alone.values()} == {201}
        assert sum(taken > 0 for taken in service.taken) == 2
        assert service.unexpected() == []

    async with opened(database_url) as database:
        assert (
            (await database.read(stored_outcomes, MANY)).keys()
            == (await database.read(stored_outcomes, ONE)).keys()
            == set(ids)
        )
        assert await database.read(positions, "ann", ONE) == (count, list(range(1, count + 1)))
        for course in (ONE, MANY):
            assert (await verify(database, course)).differences == []


# The controls, in this process: two doors to one database are what two processes have.


def deferred(real: Any, *args: Any, **kwargs: Any) -> Any:
    """An engine of SQLite whose transactions do not begin by locking."""
    return real(*args, **{**kwargs, "begin": "BEGIN"})


async def twice(database: Database, other: Database) -> list[RecordedResponse | ProximaError]:
    """What is told of answers of new learners that come to two doors at the same moment; until one is refused."""
    doors = [GroupCommit(database, 100), GroupCommit(other, 100)]
    told: list[RecordedResponse | ProximaError] = []
    for number in range(20):
        answer = make_response(f"r-{number}", f"l-{number}", "i1", number, correct=True)
        told += chain(*await asyncio.gather(*(door.submit([answer]) for door in doors)))
        if not all(isinstance(result, RecordedResponse) for result in told):
            break
    return told


@pytest.mark.controls
@pytest.mark.parametrize("broken", [False, True])
async def test_concurrent_answers_fail_without_retries_and_immediate_transactions(
    broken: bool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_courses(database_url)
    if broken:
        monkeypatch.setattr(foundations, "RETRIED_STATES", frozenset())
        monkeypatch.setattr(foundations, "sqlite_engine", partial(deferred, foundations.sqlite_engine))
    async with opened(database_url) as database, opened(database_url) as other:
        told = await twice(database, other)
    assert all(isinstance(result, RecordedResponse) for result in told) != broken


def unlocked(real: Any, *args: Any, **kwargs: Any) -> Any:
    """Learners who are read as if nobody else wrote."""
    return real(*args, **{**kwargs, "lock": False})


@pytest.mark.controls
@pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
@pytest.mark.parametrize("broken", [False, True])
async def test_answers_of_a_learner_are_lost_without_the_lock(
    broken: bool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create_courses(database_url)
    if broken:
        monkeypatch.setattr(read, "find_learners", partial(unlocked, find_learners))
    async with opened(database_url) as database, opened(database_url) as other:
        doors = [GroupCommit(database, 100), GroupCommit(other, 100)]

        async def client(number: int) -> None:
            for step in range(10):
                place = 10 * number + step
                answer = make_response(f"r-{place}", "ann", ITEMS[place % len(ITEMS)], place, correct=place % 3 > 0)
                await doors[number % 2].submit([answer])

        await asyncio.gather(*map(client, range(8)))
        whole = await database.read(positions, "ann") == (80, list(range(1, 81)))
        sound = (await verify(database, COURSE)).differences == []
    assert (whole, sound) == (not broken, not broken)
