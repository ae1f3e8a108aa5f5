"""Answers that came too fast to be thought about: told, without effect, and the same after any replay."""

from typing import Any

import httpx
import pytest
from sqlalchemy import Connection

from app.adaptive.calibration.fit import CalibrationFit
from app.core.database import Database
from app.core.times import now
from app.services import calibrations
from tests.client import COURSE, app_of, find_differences, minute_text, school

pytestmark = pytest.mark.anyio

USUAL_MS, RAPID_MS = 20_000, 1_500


def request_one(db: Connection) -> calibrations.Claim:
    """A calibration of the small course, whatever it has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrations, "MIN_RESPONSES", 1)
        return calibrations.request_calibration(db, 1, COURSE, now())


async def calibrate(database: Database) -> dict[str, Any]:
    """Put a calibration in force that changes nothing but what it knows of durations; its report."""
    claim = await database.write(request_one)
    job = await database.read(calibrations.read_calibration_job, claim)
    fit = CalibrationFit(job.course.parameters, job.course.parameters, 1, 0.6, 0.6, 0.5, 0.5, 0.6)
    result = calibrations.build_result(job, fit)
    await database.write(calibrations.save_result, claim, result, now())
    await database.write(calibrations.activate, 1, COURSE, claim.number, now(), force=True)
    assert len(job.log.items) == result.report["responses"]
    return result.report


async def answer(
    client: httpx.AsyncClient, id_: str, learner: str, minute: int, duration_ms: int | None
) -> dict[str, Any]:
    """The outcome of a right answer to the first item."""
    body = {"id": id_, "learner": learner, "item": "i1", "correct": True, "occurred_at": minute_text(minute)}
    reply = await client.post("responses", json=body | {"duration_ms": duration_ms})
    return dict(reply.json())


async def test_rapid_answer_is_told_and_moves_no_number(database_url: str) -> None:
    async with school(database_url) as client:
        database = app_of(client).state.database
        for n in range(30):
            assert "rapid" not in await answer(client, f"r{n}", f"l{n}", n, USUAL_MS)
        # Before there is a calibration nobody knows how long the item takes.
        assert "rapid" not in await answer(client, "early", "l1", 60, RAPID_MS)
        report = await calibrate(database)
        assert report["rapid_responses"] == 1
        before = (await client.get("learners/l2/mastery")).json()
        rapid = await answer(client, "fast", "l2", 100, RAPID_MS)
        assert rapid["rapid"] is True
        [row] = rapid["mastery"]
        [was] = [each for each in before["mastery"] if each["skill"] == row["skill"]]
        assert (row["responses"], row["change"]) == (was["responses"], 0)
        assert rapid["ability"]["theta"] == before["ability"]["theta"]
        slow = await answer(client, "slow", "l2", 101, USUAL_MS)
        assert "rapid" not in slow
        assert slow["mastery"][0]["change"] > 0
        # A late one, which is replayed in its place, and one without a duration.
        late = await answer(client, "late", "l3", -5, RAPID_MS)
        assert late["rapid"] is True
        assert "rapid" not in await answer(client, "unknown", "l3", 102, None)
        assert await find_differences(database) == []
