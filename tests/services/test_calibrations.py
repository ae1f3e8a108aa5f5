"""Calibrations as jobs: one attempt at a time, what it is made from, what it says, and when it may be put in force."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection

from app.adaptive.calibration.fit import CalibrationFit
from app.core.database import Database
from app.core.errors import CalibrationNotReady, CalibrationRunning, CalibrationWorse, ProximaError
from app.core.times import to_text
from app.queries.calibrations import list_lapsed
from app.services import calibrations
from app.services.calibrations import (
    LEASE_US,
    MAX_ATTEMPTS,
    CalibrationJob,
    CalibrationResult,
    Claim,
    activate,
    build_result,
    describe_calibration,
    is_running,
    read_calibration_job,
    release_lease,
    renew_lease,
    request_calibration,
    return_claim,
    save_failure,
    save_result,
    take_over,
)
from app.services.catalogue import upsert
from app.services.corrections import correct_response
from app.services.keys import create_key
from app.services.left_out import LeftOut
from app.services.responses import NewResponse, RecordedResponse, record
from tests.client import CATALOGUE, COURSE, MINUTE_US, NEW_YEAR_US, make_response

pytestmark = pytest.mark.anyio

T0 = NEW_YEAR_US + 1_000_000 * MINUTE_US
ITEMS = [item["id"] for item in CATALOGUE["items"] if item["id"] not in {"i5", "i8"}]
DONE = CalibrationResult(b"", {"log_loss_before": 0.6, "log_loss_after": 0.5})


@pytest.fixture(autouse=True)
def _small_calibrations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrations, "MIN_RESPONSES", 1)


@pytest.fixture
async def school(database: Database) -> Database:
    """A course with sixty answers of ten learners."""
    await database.write(create_key, "school", ["admin"], 1)
    await database.write(upsert, 1, COURSE, CATALOGUE, 1)
    await send(database, [answer(who, n) for who in range(10) for n in range(6)])
    return database


# Right answers with which everybody masters a skill, if few learners do not know it at first.
FURTHER = 12


def answer(who: int, n: int) -> NewResponse:
    return make_response(f"r-{who}-{n}", f"l{who}", ITEMS[n], 10 * who + n, correct=(who * n + who) % 3 > 0)


async def send(database: Database, answers: list[NewResponse]) -> None:
    told = await database.write(record, answers)
    assert all(isinstance(result, RecordedResponse) for result in told), told


def calibration_reply(db: Connection, number: int = 1) -> dict[str, Any]:
    return describe_calibration(db, 1, COURSE, number)


async def asked(database: Database, now: int = T0) -> Claim:
    claim = await database.write(request_calibration, 1, COURSE, now)
    assert isinstance(claim, Claim)
    return claim


async def lapsed(database: Database, now: int) -> Claim | None:
    claim = await database.write(take_over, 1, COURSE, 1, now)
    assert claim is None or isinstance(claim, Claim)
    return claim


async def test_calibrations_of_a_course_run_one_at_a_time(school: Database) -> None:
    first = await asked(school)
    with pytest.raises(CalibrationRunning):
        await asked(school, T0 + LEASE_US - 1)
    assert await lapsed(school, T0 + LEASE_US - 1) is None
    assert await school.write(save_result, first, DONE, T0)
    assert (await asked(school, T0 + 1)).number == 2


async def test_lease_that_was_renewed_cannot_be_taken_over(school: Database) -> None:
    first = await asked(school)
    assert await school.write(renew_lease, first, T0 + LEASE_US // 2)
    assert await lapsed(school, T0 + LEASE_US) is None
    assert await school.read(list_lapsed, T0 + LEASE_US) == []
    assert await school.read(list_lapsed, T0 + 2 * LEASE_US) == [(1, COURSE, 1)]


async def test_attempt_that_lost_its_lease_writes_nothing(school: Database) -> None:
    first = await asked(school)
    second = await lapsed(school, T0 + LEASE_US)
    assert second == replace(first, attempt=2)
    assert await lapsed(school, T0 + LEASE_US) is None

    assert not await school.write(renew_lease, first, T0)
    assert not await school.write(save_result, first, CalibrationResult(b"late", {}), T0)
    assert not await school.write(save_failure, first, "late", T0)
    await school.write(release_lease, first, T0)
    await school.write(return_claim, first, T0)
    assert (await school.read(calibration_reply))["status"] == "running"

    assert await school.write(save_result, second, DONE, T0 + LEASE_US + 1)
    assert (await school.read(calibration_reply))["report"] == DONE.report


async def test_calibration_result_is_never_changed(school: Database) -> None:
    first = await asked(school)
    assert await school.write(save_result, first, DONE, T0)
    assert not await school.read(is_running, first)
    before = await school.read(calibration_reply)
    assert not await school.write(save_result, first, CalibrationResult(b"again", {}), T0 + 1)
    assert not await school.write(save_failure, first, "again", T0 + 1)
    assert await school.read(calibration_reply) == before


async def test_calibration_that_kills_its_process_fails_in_the_end(school: Database) -> None:
    claim: Claim | None = await asked(school)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        assert claim is not None
        assert claim.attempt == attempt
        await school.write(release_lease, claim, T0)
        claim = await lapsed(school, T0)
    assert claim is None
    said = await school.read(calibration_reply)
    assert (said["status"], said["finished_at"] is not None) == ("failed", True)
    assert f"died {MAX_ATTEMPTS} times" in said["error"]
    assert await school.read(list_lapsed, T0 + 10 * LEASE_US) == []


async def test_service_that_stops_returns_its_attempt(school: Database) -> None:
    claim: Claim | None = await asked(school)
    for _ in range(2 * MAX_ATTEMPTS):
        assert claim is not None
        await school.write(return_claim, claim, T0)
        claim = await lapsed(school, T0)
    assert claim is not None


async def test_calibration_without_a_lease_gives_way_to_another_request(school: Database) -> None:
    first = await asked(school)
    second = await asked(school, T0 + LEASE_US)
    assert second.number == 2
    assert not await school.write(save_result, first, DONE, T0 + LEASE_US)
    assert "another was requested" in (await school.read(calibration_reply))["error"]


def same(one: CalibrationJob, other: CalibrationJob) -> bool:
    arrays = [
        (one.log.starts, other.log.starts),
        (one.log.items, other.log.items),
        (one.log.scores, other.log.scores),
        (one.held_out, other.held_out),
        (one.before.items.intercept, other.before.items.intercept),
        (one.course.parameters.items.intercept, other.course.parameters.items.intercept),
        (one.course.parameters.items.skills, other.course.parameters.items.skills),
    ]
    return one.learners == other.learners and all(np.array_equal(a, b) for a, b in arrays)


async def test_calibration_attempts_read_the_log_as_of_the_request(school: Database) -> None:
    """Answers, corrections, items and a switch that come later belong to the next calibration."""
    await school.write(correct_response, 1, COURSE, "r-1-1", 0.25, "misread", "key", T0 - 2)
    first = await asked(school, T0 - 1)
    job = await school.read(read_calibration_job, first)
    await school.write(save_result, first, build_result(job, moved(job, 0.5)), T0)

    claim = await asked(school)
    before = await school.read(read_calibration_job, claim)
    assert len(before.log.items) == 60

    late = [replace(answer(who, 5), id=f"late-{who}", received_at=T0 + 1) for who in range(12)]
    await school.write(upsert, 1, COURSE, {"items": [{"id": "new", "skills": ["add"]}]}, T0 + 1)
    await send(school, [*late, replace(late[0], id="early", item="new", received_at=T0 - 1)])
    for place, score in (("r-1-1", 1.0), ("r-2-2", 0.5), ("r-3-3", None)):
        await school.write(correct_response, 1, COURSE, place, score, "later", "key", T0 + 2)
    await school.write(upsert, 1, COURSE, {"items": [{"id": "i1", "skills": ["multiply"]}]}, T0 + 2)
    await school.write(activate, 1, COURSE, 1, T0 + 3)

    assert same(before, await school.read(read_calibration_job, claim))
    # The control: a later request sees it all.
    await school.write(save_failure, claim, "enough", T0 + 4)
    after = await school.read(read_calibration_job, await asked(school, T0 + 5))
    assert not same(before, after)
    assert len(after.log.items) == 60 + len(late) + 1 - 1


def moved(job: CalibrationJob, by: float, loss: tuple[float, float] = (0.6, 0.5)) -> CalibrationFit:
    """A fit that found every item `by` logits easier."""
    parameters = job.course.parameters
    intercept = np.where(job.course.known, parameters.items.intercept, parameters.items.intercept + by)
    fitted = replace(parameters, items=replace(parameters.items, intercept=intercept))
    return CalibrationFit(fitted, fitted, 10, *loss, 0.5, 0.6, 0.6)


async def test_calibration_report_names_items_skills_and_learners(school: Database) -> None:
    further = [
        make_response(f"x-{who}-{n}", f"l{who}", ("i1", "i2")[n % 2], 900 + 20 * who + n, correct=True)
        for who in range(10)
        for n in range(FURTHER)
    ]
    await send(school, further)
    claim = await asked(school)
    job = await school.read(read_calibration_job, claim)
    rare = replace(job.course.parameters.skills, prior=np.full(4, 0.02), p_learn=np.full(4, 0.012))
    fit = moved(job, 0.5)
    fit = replace(fit, parameters=replace(fit.parameters, skills=rare))
    await school.write(save_result, claim, build_result(job, fit), T0)
    report = (await school.read(calibration_reply))["report"]

    assert report["compared_with"] is None
    assert report["scale"] is None
    assert report["items_changed"] == len(report["most_changed_items"]) == 5
    assert {
        "item": "i1",
        "difficulty_before": 0.0,
        "difficulty_after": -0.5,
        "change": -0.5,
        "responses": 10 + 10 * FURTHER // 2,
    } in report["most_changed_items"]
    crossing = report["mastery"]
    assert crossing["lost"] == sum(skill["lost"] for skill in crossing["skills"]) > 0
    assert crossing["learners"] == len(crossing["learner_ids"]) > 0
    # Evidence is needed, and only two skills have it.
    assert {skill["skill"] for skill in crossing["skills"]} <= {"add", "multiply"}
    assert set(crossing["learner_ids"]) <= {f"l{who}" for who in range(10)}
    # Who seldom knows is taken for able instead.
    assert crossing["ability_change"] > 0


async def test_calibration_is_activated_only_if_better_unless_forced(school: Database) -> None:
    async def calibrated(loss: tuple[float, float]) -> int:
        claim = await asked(school)
        job = await school.read(read_calibration_job, claim)
        await school.write(save_result, claim, build_result(job, moved(job, 0.1, loss)), T0)
        return claim.number

    good, equal, worse = [await calibrated(loss) for loss in ((0.6, 0.5), (0.5, 0.5), (0.5, 0.51))]
    for number in (good, equal):
        assert (await school.write(activate, 1, COURSE, number, T0))["active"]
    with pytest.raises(CalibrationWorse, match=r"0\.50000 to 0\.51000"):
        await school.write(activate, 1, COURSE, worse, T0)
    assert (await school.read(calibration_reply, equal))["active"]
    assert (await school.read(calibration_reply, worse))["activated_at"] is None

    def force(db: Connection) -> dict[str, Any]:
        return activate(db, 1, COURSE, worse, T0 + 1, force=True)

    assert (await school.write(force))["activated_at"] is not None
    await school.write(activate, 1, COURSE, good, T0 + 2)
    # What was in force once may be so again: the way back is never closed.
    assert (await school.write(activate, 1, COURSE, worse, T0 + 3))["active"]


async def test_calibration_without_a_result_is_not_activated(school: Database) -> None:
    claim = await asked(school)
    with pytest.raises(CalibrationNotReady):
        await school.write(activate, 1, COURSE, 1, T0)
    await school.write(save_failure, claim, "no", T0)
    with pytest.raises(CalibrationNotReady):
        await school.write(activate, 1, COURSE, 1, T0)


async def test_calibration_of_voided_answers_only_is_refused(school: Database) -> None:
    for who in range(10):
        for n in range(6):
            await school.write(correct_response, 1, COURSE, f"r-{who}-{n}", None, "all", "key", T0 - 1)
    claim = await asked(school)
    with pytest.raises(ProximaError, match="voided"):
        await school.read(read_calibration_job, claim)


async def test_every_attempt_leaves_out_what_was_asked(school: Database) -> None:
    """The request is stored with the calibration, also for a process that takes it over; a failure shows no report."""
    left_out = LeftOut(frozenset({"l1", "nobody"}), ((None, NEW_YEAR_US + 5 * MINUTE_US),))

    def ask(db: Connection) -> Claim:
        return request_calibration(db, 1, COURSE, T0, left_out=left_out)

    claim = await school.write(ask)
    assert (await school.read(calibration_reply))["report"] is None
    job = await school.read(read_calibration_job, claim)
    assert "l1" not in job.learners
    # Of l0 the answers in the first five minutes.
    assert len(job.log.items) == 60 - 6 - 5
    second = await lapsed(school, T0 + LEASE_US)
    assert second is not None
    assert same(job, await school.read(read_calibration_job, second))

    await school.write(save_result, second, build_result(job, moved(job, 0.1)), T0 + LEASE_US)
    report = (await school.read(calibration_reply))["report"]
    assert report["left_out"] == {
        "responses": 11,
        "learners": ["l1", "nobody"],
        "spans": [{"since": None, "until": to_text(NEW_YEAR_US + 5 * MINUTE_US)}],
    }
    failed = await school.write(ask)
    await school.write(save_failure, failed, "no", T0)
    assert (await school.read(calibration_reply, failed.number))["report"] is None


async def test_calibration_that_leaves_out_everything_is_refused(school: Database) -> None:
    def ask(db: Connection) -> Claim:
        return request_calibration(db, 1, COURSE, T0, left_out=LeftOut(spans=((0, None),)))

    with pytest.raises(ProximaError, match="left out"):
        await school.read(read_calibration_job, await school.write(ask))


async def test_calibration_that_moves_most_items_says_so(school: Database) -> None:
    """But the first one does not: the defaults were only assumed."""

    async def codes(by: float) -> list[str]:
        claim = await asked(school)
        job = await school.read(read_calibration_job, claim)
        await school.write(save_result, claim, build_result(job, moved(job, by)), T0)
        report = (await school.read(calibration_reply, claim.number))["report"]
        await school.write(activate, 1, COURSE, claim.number, T0)
        return [warning["code"] for warning in report["warnings"]]

    assert await codes(0.5) == []
    assert await codes(0.1) == []
    assert await codes(-0.5) == ["many_items_changed"]
