"""Background work survives the death of whoever does it: kill -9 at every step, and somebody else ends the job."""

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, func, select, update

from app import main
from app.adaptive.calibration import fit
from app.adaptive.calibration.fit import ignore_progress
from app.adaptive.parameters import BehaviourModel
from app.core.database import Database
from app.core.times import now
from app.jobs import calibrations as calibration_jobs
from app.jobs import loop, replay_stale
from app.jobs.calibrations import finish_calibration, fit_claimed, run_calibration
from app.jobs.replay_stale import rebuild_course
from app.models import Course, Learner
from app.queries.calibrations import find_calibration, find_parameters
from app.services import calibrations
from app.services.calibration_codec import decode_calibration
from app.services.calibrations import Claim, activate, request_calibration, take_over
from app.services.catalogue import upsert
from app.services.keys import create_key
from app.services.replay import count_stale
from app.services.responses import RecordedResponse, record
from tests.client import CATALOGUE, COURSE, app_of, find_differences, make_response, opened, school, served

pytestmark = pytest.mark.anyio

LEARNERS = 20
ITEMS = [item["id"] for item in CATALOGUE["items"] if item["id"] not in {"i5", "i8"}]
LONGEST_S = 60.0

# A process that fits as ours does, only quicker, and does what `harm` says.
QUICK = """
import os, signal, sys, time
from app.jobs import calibrations as jobs
from app.adaptive.calibration import fit as calibration
from app.services import calibrations

calibration.ROUNDS, calibration.SEARCH_EVALUATIONS = 1, 8

def around(name, before=lambda: None, after=lambda: None):
    function = getattr(jobs, name)
    def wrapped(*arguments):
        before()
        result = function(*arguments)
        after()
        return result
    setattr(jobs, name, wrapped)

def die():
    os.kill(os.getpid(), signal.SIGKILL)

{harm}
jobs.run_fit_process()
"""
HARMS = {
    "before it reads": "around('read_calibration_job', before=die)",
    "while it fits": "calibration._fit_rates = lambda *_: die()",
    "when it has fitted": "around('build_result', before=die)",
    "between its write and the commit": "around('save_result', after=die)",
}
AFTER_ALL = "os._exit = lambda _: die()"

# A service that dies while it fits, killed by its own child, which then has nobody to work for.
SERVICE = """
import asyncio, sys
from app.jobs import calibrations as jobs
from app.core.database import open_database
from app.services import calibrations
from app.core.times import now

calibrations.LEASE_US = 200_000
jobs.FIT = sys.argv[2]

async def main():
    database = open_database(sys.argv[1])
    claim = await database.write(calibrations.request_calibration, 1, "arithmetic", now())
    await jobs.run_calibration(database, sys.argv[1], claim)

asyncio.run(main())
"""
ORPHAN = QUICK.format(
    harm="around('_fit_job', before=lambda: (os.kill(os.getppid(), signal.SIGKILL), print(os.getpid(), file=sys.stderr,"
    " flush=True), time.sleep(60)))"
)


async def prepare(database: Database, course: str = COURSE) -> None:
    """A course with enough answers."""
    if course == COURSE:
        await database.write(create_key, "school", ["admin"], 1)
    await database.write(upsert, 1, course, CATALOGUE, 1)
    answers = [
        make_response(f"r-{who}-{n}", f"l{who}", item, 10 * who + n, correct=(who * n + who) % 3 > 0)
        for who in range(LEARNERS)
        for n, item in enumerate(ITEMS)
    ]
    told = await database.write(
        record, [answer.__class__(**{**vars_of(answer), "course_id": course}) for answer in answers]
    )
    assert all(isinstance(result, RecordedResponse) for result in told)


def vars_of(answer: Any) -> dict[str, Any]:
    return {name: getattr(answer, name) for name in answer.__dataclass_fields__}


def state(db: Connection, number: int = 1, course: str = COURSE) -> tuple[str, bool, int | None]:
    """Status, whether there is a result, and what is in force."""
    row = find_calibration(db, 1, course, number)
    assert row is not None
    packed = find_parameters(db, 1, course, number)
    assert (packed is None) == (row.report is None) == (row.status != "succeeded"), "half a result"
    return row.status, packed is not None, db.scalar(select(Course.calibration).where(Course.id == course))


def values(db: Connection, course: str = COURSE, number: int = 1) -> list[Any]:
    packed = find_parameters(db, 1, course, number)
    assert packed is not None
    found = [decode_calibration(packed, trained=trained) for trained in (False, True)]
    row = find_calibration(db, 1, course, number)
    assert row is not None
    heads = [getattr(part.behaviour, name, None) for part in found for name in BehaviourModel.__dataclass_fields__]
    plain = [name for name in found[0].__dataclass_fields__ if name != "behaviour"]
    return [row.report, *heads, *(getattr(part, name) for part in found for name in plain)]


def equal(one: list[Any], other: list[Any]) -> bool:
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in zip(one, other, strict=True))


async def undisturbed(database: Database, patch: pytest.MonkeyPatch) -> list[Any]:
    """The result of the same answers in another course, where nothing happened."""
    await prepare(database, "twin")
    with patch.context() as quick:
        quick.setattr(fit, "ROUNDS", 1)
        quick.setattr(fit, "SEARCH_EVALUATIONS", 8)
        await fit_claimed(database, await database.write(request_calibration, 1, "twin", now()), ignore_progress)
    return list(await database.read(values, "twin"))


async def until(condition: Callable[[], Any], longest_s: float = LONGEST_S) -> None:
    """Wait for a condition that is asked for with `await`."""
    started = time.monotonic()
    while not await condition():
        assert time.monotonic() - started < longest_s, "it did not happen"
        await asyncio.sleep(0.1)


async def test_calibration_killed_at_any_step_ends_with_the_same_result(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(database)
    expected = await undisturbed(database, monkeypatch)
    monkeypatch.setattr(calibrations, "MAX_ATTEMPTS", len(HARMS) + 1)
    claim: Claim | None = await database.write(request_calibration, 1, COURSE, now())
    for step, harm in HARMS.items():
        assert claim is not None, step
        monkeypatch.setattr(calibration_jobs, "FIT", QUICK.format(harm=harm))
        await run_calibration(database, database_url, claim)
        assert await database.read(state) == ("running", False, None), step
        claim = await database.write(take_over, 1, COURSE, 1, now())
    assert claim is not None
    assert claim.attempt == len(HARMS) + 1
    # Whoever is killed when all is written changes nothing.
    monkeypatch.setattr(calibration_jobs, "FIT", QUICK.format(harm=AFTER_ALL))
    await run_calibration(database, database_url, claim)
    assert await database.read(state) == ("succeeded", True, None)
    assert await database.write(take_over, 1, COURSE, 1, now()) is None
    assert equal(await database.read(values), expected)


@pytest.mark.soak
async def test_calibration_killed_at_twenty_random_moments_ends_with_the_same_result(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(database)
    expected = await undisturbed(database, monkeypatch)
    monkeypatch.setattr(calibrations, "MAX_ATTEMPTS", 100)
    monkeypatch.setattr(calibration_jobs, "FIT", QUICK.format(harm=""))
    start = asyncio.create_subprocess_exec
    started = time.monotonic()
    await finish_calibration(database, database_url, await database.write(request_calibration, 1, COURSE, now()))
    longest = time.monotonic() - started
    assert equal(await database.read(values), expected)

    async def start_and_kill(*arguments: Any, **options: Any) -> Any:
        process = await start(*arguments, **options)
        asyncio.get_running_loop().call_later(
            random.uniform(0, longest),
            lambda: end(process),
        )
        return process

    for number in range(2, 22):
        claim: Claim | None = await database.write(request_calibration, 1, COURSE, now())
        monkeypatch.setattr(asyncio, "create_subprocess_exec", start_and_kill)
        assert claim is not None
        await run_calibration(database, database_url, claim)
        monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
        status, whole, _ = await database.read(state, number)
        assert whole == (status == "succeeded")
        claim = await database.write(take_over, 1, COURSE, number, now())
        if claim is not None:
            await finish_calibration(database, database_url, claim)
        assert (await database.read(state, number))[0] == "succeeded"


def end(process: Any) -> None:
    if process.returncode is None:
        process.kill()


async def killed_service(url: str) -> None:
    """A service that requested a calibration and was killed in the middle; its child is gone too."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SERVICE, url, ORPHAN, stderr=subprocess.PIPE)
    assert process.stderr is not None
    child = int(await process.stderr.readline())
    assert await process.wait() == -9

    async def gone() -> bool:
        return not is_alive(child)

    await until(gone, 10)


def is_alive(pid: int) -> bool:
    """Whether a process is there and not only waiting to be looked after."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "POLL_S", 0.1)


@pytest.mark.usefixtures("_quick")
async def test_calibration_continues_when_a_killed_service_starts_again(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(database)
    expected = await undisturbed(database, monkeypatch)
    await killed_service(database_url)
    assert await database.read(state) == ("running", False, None)

    monkeypatch.setattr(calibration_jobs, "FIT", QUICK.format(harm=""))

    async def ended() -> bool:
        return bool((await database.read(state))[0] != "running")

    # The control: without somebody who takes over, it stays as it is, and so does what is in force.
    with monkeypatch.context() as patch:
        patch.setattr(loop, "take_over_lapsed", nothing)
        async with served(database_url):
            with pytest.raises(AssertionError, match="it did not happen"):
                await until(ended, 1.0)
    assert await database.read(state) == ("running", False, None)

    async with served(database_url):
        await until(ended)
    assert await database.read(state) == ("succeeded", True, None)
    assert equal(await database.read(values), expected)


async def nothing(*_: Any) -> None:
    """What a service without that duty does."""


async def test_calibration_of_a_service_that_stops_is_continued_by_another_at_once(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(database)
    monkeypatch.setattr(main, "STOP_S", 0.2)
    monkeypatch.setattr(calibration_jobs, "FIT", "import time; time.sleep(60)")
    async with school(database_url) as client:
        assert (await client.post("calibrations")).status_code == 202
        assert await database.write(take_over, 1, COURSE, 1, now()) is None
        [task] = app_of(client).state.tasks
        await asyncio.sleep(0.3)
    assert task.cancelled()
    claim = await database.write(take_over, 1, COURSE, 1, now())
    assert claim == Claim(1, COURSE, 1, attempt=1)


async def test_calibration_attempt_that_lost_its_lease_ends(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(database)
    monkeypatch.setattr(calibration_jobs, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(calibration_jobs, "FIT", "import time; time.sleep(60)")
    claim = await database.write(request_calibration, 1, COURSE, now())
    running = asyncio.create_task(run_calibration(database, database_url, claim))
    other = await database.write(take_over, 1, COURSE, 1, now() + 2 * calibrations.LEASE_US)
    assert other is not None
    await asyncio.wait_for(running, 20)
    row = await database.read(find_calibration, 1, COURSE, 1)
    assert row is not None
    assert (row.status, row.attempt) == ("running", other.attempt)
    assert row.leased_until > now() + calibrations.LEASE_US


async def test_lease_is_renewed_while_a_calibration_runs(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(database)
    monkeypatch.setattr(calibration_jobs, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(calibrations, "LEASE_US", 1_000_000)
    monkeypatch.setattr(calibration_jobs, "FIT", "import time; time.sleep(2.5)")
    claim = await database.write(request_calibration, 1, COURSE, now())
    running = asyncio.create_task(run_calibration(database, database_url, claim))
    while not running.done():
        assert await database.write(take_over, 1, COURSE, 1, now()) is None or running.done()
        await asyncio.sleep(0.2)
    await running


async def test_calibration_that_would_fail_again_is_not_repeated(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    await prepare(database)

    def broken(*_: Any) -> None:
        raise ValueError("l7 answered 3")

    monkeypatch.setattr(calibration_jobs, "_fit_job", broken)
    claim = await database.write(request_calibration, 1, COURSE, now())
    await fit_claimed(database, claim, ignore_progress)
    row = await database.read(find_calibration, 1, COURSE, 1)
    assert row is not None
    assert (row.status, row.error) == ("failed", "the fit failed: ValueError")


async def activated_and_killed(database: Database) -> None:
    """A course whose pointer was moved by a process that died before it folded anybody again."""
    await prepare(database)
    claim = await database.write(request_calibration, 1, COURSE, now())
    await fit_claimed(database, claim, ignore_progress)
    await database.write(activate_anyway)
    assert await database.read(count_stale, 1, COURSE) == LEARNERS


def activate_anyway(db: Connection) -> None:
    activate(db, 1, COURSE, 1, now(), force=True)


async def test_stale_snapshots_are_rebuilt_when_a_service_starts(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await activated_and_killed(database)

    async def done() -> bool:
        return await database.read(count_stale, 1, COURSE) == 0

    with monkeypatch.context() as patch:
        patch.setattr(loop, "rebuild_courses", nothing)
        async with served(database_url):
            with pytest.raises(AssertionError, match="it did not happen"):
                await until(done, 0.5)
    async with served(database_url):
        await until(done)
    assert await find_differences(database) == []


async def test_rebuilding_takes_fewer_learners_at_a_time_where_it_is_slow(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []

    def slow(_db: Connection, _tenant: int, _course: str, limit: int) -> int:
        taken.append(limit)
        time.sleep(0.06 if len(taken) < 6 else 0)
        return limit if len(taken) < 16 else 0

    monkeypatch.setattr(replay_stale, "rebuild_stale", slow)
    started = time.monotonic()
    assert await rebuild_course(database, 1, COURSE) == sum(taken[:-1])
    assert taken[:6] == [8, 4, 2, 1, 1, 1]
    assert taken[6:] == [2, 4, 8, 16, 32, 64, 128, 200, 200, 200]
    # It rests as long as it works.
    assert time.monotonic() - started > 2 * 5 * 0.06


async def test_course_is_rebuilt_by_two_services_at_once_without_differences(
    database: Database, database_url: str
) -> None:
    await activated_and_killed(database)
    async with opened(database_url) as other:
        await asyncio.gather(rebuild_course(database, 1, COURSE), rebuild_course(other, 1, COURSE))
    assert await database.read(count_stale, 1, COURSE) == 0
    assert await find_differences(database) == []


async def test_courses_with_stale_snapshots_are_found(database: Database) -> None:
    await prepare(database)
    assert await database.read(calibrations.list_stale_courses) == []

    def age(db: Connection) -> None:
        db.execute(update(Learner).where(Learner.id == "l3").values(engine=Learner.engine - 1))

    await database.write(age)
    assert await database.read(calibrations.list_stale_courses) == [(1, COURSE)]
    assert await database.read(lambda db: db.scalar(select(func.count()).select_from(Learner))) == LEARNERS


async def test_background_work_goes_on_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    async def work() -> None:
        nonlocal calls
        calls += 1
        raise ValueError if calls == 1 else asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await loop.repeat_forever(work, 0)
    assert calls == 2
