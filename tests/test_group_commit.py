"""Concurrent answers share transactions, and none of them pays for another."""

import asyncio
import threading
from collections.abc import AsyncIterator, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Connection, event, select

from app import group_commit
from app.adaptive.tracing.replay import replay_marked
from app.adaptive.tracing.state_codec import encode_states
from app.core.database import Database, SqliteDatabase
from app.core.errors import Overloaded, ProximaError, Unavailable
from app.group_commit import MAX_GROUP, GroupCommit
from app.models import Response
from app.queries.learners import find_learners
from app.services import responses
from app.services.catalogue import upsert
from app.services.course_model import read_course_model
from app.services.keys import create_key
from app.services.replay import rebuild
from app.services.responses import NewResponse, RecordedResponse, late, read, record
from app.services.responses.decide import make_decision
from tests.client import CATALOGUE, COURSE, find_differences, make_response, opened

pytestmark = pytest.mark.anyio


async def begin(database: Database) -> Database:
    """The same database with the small course of tenant 1."""
    await database.write(create_key, "school", ["admin"], 1)
    await database.write(upsert, 1, COURSE, CATALOGUE, 1)
    return database


def answer(number: int, learner: str = "ann", item: str = "i1", *, correct: bool = True) -> NewResponse:
    return make_response(f"r-{number:04d}", learner, item, number, correct=correct)


class Counting:
    """A database that counts its transactions, and can hold them back."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sizes: list[int] = []
        self.begun, self.free = asyncio.Event(), asyncio.Event()
        self.free.set()
        self.broken: Exception | None = None

    @property
    def dialect(self) -> str:
        return self.database.dialect

    async def read(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.database.read(work, *args, **kwargs)

    async def write(self, work: Any, *args: Any, **kwargs: Any) -> Any:
        self.sizes.append(len(args[0]))
        self.begun.set()
        await self.free.wait()
        if self.broken is not None:
            raise self.broken
        return await self.database.write(work, *args, **kwargs)

    async def close(self) -> None:
        await self.database.close()


def outcomes(results: Sequence[RecordedResponse | ProximaError]) -> list[bytes]:
    """Of answers that were all taken."""
    told = []
    for result in results:
        assert isinstance(result, RecordedResponse), result
        told.append(result.outcome)
    return told


def stored_ids(db: Connection) -> list[str]:
    return list(db.execute(select(Response.id).order_by(Response.id)).scalars())


async def state_equals_a_replay(database: Database, learner: str) -> bool:
    def compare(db: Connection) -> bool:
        course_model = read_course_model(db, 1, COURSE)
        row = find_learners(db, 1, COURSE, [learner])[learner]
        return row.state == encode_states(course_model.parameters, rebuild(db, course_model, [learner]).states)[0]

    return await database.read(compare)


async def test_group_commit_puts_answers_that_arrive_together_into_one_transaction(database: Database) -> None:
    counting = Counting(await begin(database))
    door = GroupCommit(counting, 1000)
    results = await asyncio.gather(*(door.submit([answer(n, f"learner-{n % 7}")]) for n in range(64)))
    assert sum(counting.sizes) == 64
    assert len(counting.sizes) <= 2
    for number, result in enumerate(results):
        [told] = outcomes(result)
        assert f'"id":"r-{number:04d}"'.encode() in told
    assert len(await database.read(stored_ids)) == 64


async def test_group_commit_lets_a_single_answer_wait_for_no_other(database: Database) -> None:
    counting = Counting(await begin(database))
    door = GroupCommit(counting, 1000)
    for number in range(3):
        outcomes(await door.submit([answer(number)]))
    assert counting.sizes == [1, 1, 1]


def late_answers(count: int) -> list[NewResponse]:
    """Answers of two learners that were given before minute 100."""
    return [make_response(f"late-{n:03d}", ["ann", "bob"][n % 2], "i2", n, correct=n % 3 > 0) for n in range(count)]


async def test_group_commit_replays_late_answers_side_by_side(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The work of a group with n late answers is one replay, not n one after the other."""
    door = GroupCommit(await begin(database), 1000)
    outcomes(await door.submit([answer(100 + n, ["ann", "bob"][n % 2]) for n in range(20)]))
    replayed: list[int] = []

    def count(parameters: Any, log: Any, *rest: Any) -> Any:
        replayed.append(log.learners)
        return replay_marked(parameters, log, *rest)

    monkeypatch.setattr(late, "replay_marked", count)
    outcomes(await door.submit(late_answers(12)))
    assert replayed == [12]
    assert await state_equals_a_replay(database, "ann")
    assert await find_differences(database) == []


@pytest.mark.parametrize("budget", [1, 60, 10_000])
async def test_group_commit_divides_late_answers_that_cost_too_much(
    database: Database, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    """Each transaction takes at least one, in order, and others may write between them."""
    monkeypatch.setattr(late, "REPLAY_BUDGET", budget)
    counting = Counting(await begin(database))
    door = GroupCommit(counting, 1000)
    outcomes(await door.submit([answer(100 + n, ["ann", "bob"][n % 2]) for n in range(20)]))
    counting.sizes.clear()
    sent = late_answers(12)
    told = outcomes(await door.submit([*sent, sent[-1]]))
    assert all(f'"id":"{each.id}"'.encode() in outcome for each, outcome in zip(sent, told, strict=False))
    assert told[-1] == told[-2]
    # Each replays ten to seventeen answers.
    assert len(counting.sizes) == {1: 12, 60: 3, 10_000: 1}[budget]
    for learner in ("ann", "bob"):
        assert await state_equals_a_replay(database, learner)
    assert await find_differences(database) == []


async def test_group_commit_bounds_its_groups_and_returns_results_in_order(database: Database) -> None:
    counting = Counting(await begin(database))
    door = GroupCommit(counting, 1000)
    many = [answer(n, f"learner-{n % 50}") for n in range(MAX_GROUP + 10)]
    told = outcomes(await door.submit(many))
    assert counting.sizes == [MAX_GROUP, 10]
    assert all(f'"id":"{each.id}"'.encode() in outcome for each, outcome in zip(many, told, strict=True))


async def test_repeated_answers_sent_together_are_one_row_with_equal_replies(database: Database) -> None:
    door = GroupCommit(await begin(database), 1000)
    results = await asyncio.gather(*(door.submit([answer(n % 8)]) for n in range(64)))
    told = [outcomes(result)[0] for result in results]
    assert len(set(told)) == 8
    statuses = [result[0].status for result in results if isinstance(result[0], RecordedResponse)]
    assert (statuses.count("created"), statuses.count("duplicate")) == (8, 56)
    assert await database.read(stored_ids) == [f"r-{n:04d}" for n in range(8)]
    assert await find_differences(database) == []


async def test_repeated_answers_at_two_workers_are_one_row_with_equal_replies(
    database_url: str, database: Database
) -> None:
    await begin(database)
    async with opened(database_url) as other:
        doors = [GroupCommit(database, 1000), GroupCommit(other, 1000)]
        for start in range(0, 40, 8):
            sent = [answer(start + n % 8, f"learner-{n % 8 % 3}") for n in range(32)]
            results = await asyncio.gather(*(doors[n % 2].submit([each]) for n, each in enumerate(sent)))
            by_id: dict[str, set[bytes]] = {}
            for each, result in zip(sent, results, strict=True):
                by_id.setdefault(each.id, set()).update(outcomes(result))
            assert all(len(bodies) == 1 for bodies in by_id.values())
    assert len(await database.read(stored_ids)) == 40
    assert await find_differences(database) == []


async def test_answers_of_one_learner_at_two_workers_are_all_stored(database_url: str, database: Database) -> None:
    await begin(database)
    async with opened(database_url) as other:
        doors = [GroupCommit(database, 1000), GroupCommit(other, 1000)]

        async def client(number: int) -> None:
            for step in range(6):
                place = step * 8 + number
                outcomes(await doors[number % 2].submit([answer(place, item=f"i{1 + place % 4}")]))

        await asyncio.gather(*map(client, range(8)))
    assert len(await database.read(stored_ids)) == 48
    row = (await database.read(find_learners, 1, COURSE, ["ann"]))["ann"]
    assert row.position == 48
    assert await state_equals_a_replay(database, "ann")
    assert await find_differences(database) == []


async def test_invalid_answer_fails_alone_in_its_group(database: Database) -> None:
    door = GroupCommit(await begin(database), 1000)
    elsewhere = replace(answer(2), course_id="nowhere")
    results = await asyncio.gather(
        *(door.submit([each]) for each in (answer(0), answer(1, item="unheard of"), elsewhere, answer(3)))
    )
    assert [type(result[0]).__name__ for result in results] == [
        "RecordedResponse",
        "UnknownItem",
        "UnknownCourse",
        "RecordedResponse",
    ]
    assert await database.read(stored_ids) == ["r-0000", "r-0003"]


async def test_unexpected_error_fails_alone_in_its_group(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(db: Connection, answers: Sequence[NewResponse]) -> list[RecordedResponse | ProximaError]:
        results = record(db, answers)
        if any(each.id == "r-0005" for each in answers):
            raise ZeroDivisionError
        return results

    monkeypatch.setattr(group_commit, "record", poisoned)
    door = GroupCommit(await begin(database), 1000)
    results = await asyncio.gather(*(door.submit([answer(n, f"learner-{n % 3}")]) for n in range(10)))
    failed = [number for number, [result] in enumerate(results) if isinstance(result, ProximaError)]
    assert failed == [5]
    assert [type(result) for result in results[5]] == [ProximaError]
    assert await database.read(stored_ids) == [f"r-{n:04d}" for n in range(10) if n != 5]
    outcomes(await door.submit([answer(10)]))


async def test_answer_cancelled_before_the_transaction_leaves_nothing(database: Database) -> None:
    counting = Counting(await begin(database))
    door = GroupCommit(counting, 20)
    counting.free.clear()
    first = asyncio.create_task(door.submit([answer(0)]))
    await asyncio.sleep(0)
    gone = [asyncio.create_task(door.submit([answer(n)])) for n in range(1, 20)]
    stays = asyncio.create_task(door.submit([answer(20)]))
    await asyncio.sleep(0)
    for task in gone:
        task.cancel()
    await asyncio.gather(*gone, return_exceptions=True)
    counting.free.set()
    outcomes(await first + await stays)
    assert counting.sizes == [1, 1]
    assert await database.read(stored_ids) == ["r-0000", "r-0020"]
    await door.close()
    outcomes(await door.submit([answer(n, f"learner-{n}") for n in range(30, 50)]))


async def test_answer_cancelled_during_the_transaction_is_recorded(database: Database) -> None:
    counting = Counting(await begin(database))
    door = GroupCommit(counting, 20)
    counting.free.clear()
    gone, stays = (asyncio.create_task(door.submit([answer(n)])) for n in (0, 1))
    await counting.begun.wait()
    gone.cancel()
    counting.free.set()
    outcomes(await stays)
    assert await database.read(stored_ids) == ["r-0000", "r-0001"]


async def test_group_commit_refuses_too_many_answers_at_once_and_whole(database: Database) -> None:
    counting = Counting(await begin(database))
    door = GroupCommit(counting, 10)
    counting.free.clear()
    first = asyncio.create_task(door.submit([answer(0)]))
    await counting.begun.wait()
    second = asyncio.create_task(door.submit([answer(n) for n in range(1, 8)]))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await door.submit([answer(n) for n in range(8, 12)])
    third = asyncio.create_task(door.submit([answer(n) for n in range(12, 15)]))
    await asyncio.sleep(0)
    counting.free.set()
    outcomes([*await first, *await second, *await third])
    assert await database.read(stored_ids) == [f"r-{n:04d}" for n in (*range(8), *range(12, 15))]


async def test_database_that_does_not_answer_fails_the_group_after_one_try(database: Database) -> None:
    counting = Counting(await begin(database))
    door = GroupCommit(counting, 100)
    counting.broken = Unavailable("gone")
    results = await asyncio.gather(*(door.submit([answer(n)]) for n in range(9)))
    assert all(isinstance(result[0], Unavailable) for result in results)
    assert counting.sizes == [9]
    counting.broken = None
    outcomes(await door.submit([answer(1)]))


async def test_group_commit_stores_accepted_answers_before_it_closes(database: Database) -> None:
    door = GroupCommit(await begin(database), 100)
    task = asyncio.create_task(door.submit([answer(n, f"learner-{n}") for n in range(9)]))
    await asyncio.sleep(0)
    await door.close()
    assert len(await database.read(stored_ids)) == 9
    outcomes(await task)


def interrupt(monkeypatch: pytest.MonkeyPatch, name: str, interlude: Coroutine[Any, Any, object]) -> None:
    """Let something happen at another worker just before the write path first calls `read.name`."""
    real = getattr(read, name)
    waiting = [interlude]

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if waiting:
            with ThreadPoolExecutor(1) as threads:
                threads.submit(asyncio.run, waiting.pop()).result()
        return real(*args, **kwargs)

    monkeypatch.setattr(read, name, interrupted)


@pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("function", "known"), [("find_learners", True), ("create_learners", False)])
async def test_group_commit_mixes_no_course_models_when_the_catalogue_changes(
    function: str, known: bool, database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    door = GroupCommit(await begin(database), 100)
    if known:
        outcomes(await door.submit([answer(0)]))

    async def interlude() -> None:
        async with opened(database_url) as other:
            change = {"skills": [{"id": "new"}], "items": [{"id": "i1", "skills": ["new", "add"]}]}
            await other.write(upsert, 1, COURSE, change, 2)
            outcomes(await GroupCommit(other, 100).submit([answer(1)]))

    interrupt(monkeypatch, function, interlude())
    [result] = await door.submit([answer(2)])
    if not known:
        assert isinstance(result, Unavailable)
        [result] = await door.submit([answer(2)])
    outcomes([result])
    assert await find_differences(database) == []


@asynccontextmanager
async def ann_locked_elsewhere(database_url: str) -> AsyncIterator[None]:
    """Another process, as it were, holds the row of the learner."""
    locked, done = threading.Event(), threading.Event()

    def hold(db: Connection) -> None:
        find_learners(db, 1, COURSE, ["ann"], lock=True)
        locked.set()
        assert done.wait(30)

    async def elsewhere() -> None:
        async with opened(database_url) as other:
            await other.write(hold)

    holder = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
    await asyncio.to_thread(locked.wait, 10)
    try:
        yield
    finally:
        done.set()
        await holder


@pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
async def test_learner_who_stays_locked_gives_unavailable_and_no_internal_error(
    database_url: str, database: Database
) -> None:
    door = GroupCommit(await begin(database), 100)
    outcomes(await door.submit([answer(0)]))
    async with ann_locked_elsewhere(database_url):
        [result] = await door.submit([answer(1)])
    assert isinstance(result, Unavailable)
    outcomes(await door.submit([answer(1)]))


@pytest.mark.parametrize(("fewest", "ticks"), [(1, True), (1000, False)], ids=["beside", "control"])
@pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
async def test_deciding_on_many_answers_leaves_the_event_loop_free(
    database: Database, monkeypatch: pytest.MonkeyPatch, fewest: int, *, ticks: bool
) -> None:
    """The control decides on the loop, which then has no moment to say that it lives."""
    ticked = threading.Event()
    found: list[bool] = []

    def ask_the_loop(known: Any) -> Any:
        loop.call_soon_threadsafe(ticked.set)
        found.append(ticked.wait(10 if ticks else 0.3))
        return make_decision(known)

    loop = asyncio.get_running_loop()
    monkeypatch.setattr(responses, "FEWEST_FOR_THREAD", fewest)
    monkeypatch.setattr(responses, "make_decision", ask_the_loop)
    outcomes(await GroupCommit(await begin(database), 100).submit([answer(n, f"learner-{n}") for n in range(9)]))
    assert found == [ticks]


@pytest.mark.parametrize("engine_name", ["postgresql"], indirect=True)
@pytest.mark.parametrize("splits", [True, False])
async def test_locked_learner_is_nobody_elses_failure(
    database_url: str, database: Database, monkeypatch: pytest.MonkeyPatch, *, splits: bool
) -> None:
    """Neither another tenant's nor another learner's of the course. The control fails the group as a whole."""
    if not splits:
        monkeypatch.setattr(group_commit, "is_locked", lambda _: False)
    await begin(database)
    await database.write(create_key, "other", ["admin"], 1)
    await database.write(upsert, 2, COURSE, CATALOGUE, 1)
    door = GroupCommit(database, 1000)
    outcomes(await door.submit([answer(0)]))
    async with ann_locked_elsewhere(database_url):
        for round_number in (1, 2):
            [hot, beside, far] = await asyncio.gather(
                door.submit([answer(10 * round_number)]),
                door.submit([answer(10 * round_number + 1, "bob")]),
                door.submit([replace(answer(10 * round_number + 2, "eve"), tenant_id=2)]),
            )
            assert isinstance(hot[0], Unavailable)
            assert [isinstance(other[0], RecordedResponse) for other in (beside, far)] == [splits, splits]
    outcomes(await door.submit([answer(40)]))
    await door.close()
    assert await find_differences(database) == []


async def test_answers_that_are_recorded_apart_count_as_waiting_and_are_stored_before_it_closes(
    database: Database,
) -> None:
    counting = Counting(await begin(database))
    door = GroupCommit(counting, 10)
    door._locked[1, COURSE, "ann"] = asyncio.get_running_loop().time() + 60
    counting.free.clear()
    apart = asyncio.create_task(door.submit([answer(n) for n in range(8)]))
    await counting.begun.wait()
    with pytest.raises(Overloaded):
        await door.submit([answer(n) for n in range(8, 12)])
    beside = asyncio.create_task(door.submit([answer(20, "bob")]))
    counting.free.set()
    await door.close()
    assert len(await database.read(stored_ids)) == 9
    outcomes([*await apart, *await beside])


# Of known learners: lock them, read the course, look for repetitions, insert answers and recommendations, save.
STATEMENTS = 6


@pytest.mark.parametrize("size", [1, 2, 64])
async def test_group_commit_needs_the_same_statements_for_any_size_of_group(database: Database, size: int) -> None:
    await begin(database)
    await database.write(record, [answer(number, f"learner-{number}") for number in range(size)])
    seen = statements(database)
    await database.write(record, [answer(number, f"learner-{number % 100}") for number in range(100, 100 + size)])
    assert [each.split()[0] for each in seen] == ["SELECT", "SELECT", "SELECT", "INSERT", "INSERT", "UPDATE"]
    assert len(seen) == STATEMENTS


async def test_law_of_statements_notices_one_more_statement(database: Database) -> None:
    await begin(database)
    seen = statements(database)
    await database.write(record, [answer(1, "new")])
    assert len(seen) > STATEMENTS


def statements(database: Database) -> list[str]:
    """What is sent to the database from now on, one for each way there and back; transactions not counted."""
    seen: list[str] = []
    writer = database._writer if isinstance(database, SqliteDatabase) else database._engine.sync_engine  # type: ignore[attr-defined]

    @event.listens_for(writer, "before_cursor_execute")
    def _note(_db: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if not statement.startswith("BEGIN"):
            seen.append(statement)

    return seen
