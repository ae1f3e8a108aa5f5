"""Answers that say nothing, too fast or to a suspect item: told, without effect, and the same after any replay."""

from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import Connection

from app.adaptive.calibration.fit import CalibrationFit
from app.core.database import Database
from app.core.times import now
from app.services import calibrations
from tests.client import COURSE, app_of, find_differences, minute_text, school

pytestmark = pytest.mark.anyio

USUAL_MS, RAPID_MS = 20_000, 1_500
MOSTLY = 0.8


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


def half_able_answers() -> list[dict[str, Any]]:
    """Learners of whom half are mostly right and half mostly wrong; on the first item it is the other way round."""
    rng = np.random.default_rng(1)
    pairs = [(n, item) for n in range(160) for item in ("i1", "i2", "i3", "i4", "i6", "i7")]
    right = [(rng.random() < MOSTLY) == (n % 2 == (item == "i1")) for n, item in pairs]
    return [
        {"id": f"{n}-{item}", "learner": f"l{n}", "item": item, "correct": correct}
        for (n, item), correct in zip(pairs, right, strict=True)
    ]


async def test_answers_to_a_suspect_item_move_no_number_until_it_is_reviewed(database_url: str) -> None:
    async with school(database_url) as client:
        database = app_of(client).state.database
        reply = await client.post("./responses:batch", json={"responses": half_able_answers()})
        assert reply.status_code == 200, reply.text[:500]
        assert {result["status"] for result in reply.json()["results"]} == {"created"}, reply.text[:500]
        assert "suspect" not in await answer(client, "before", "l2", 9, None)
        report = await calibrate(database)
        assert [item["item"] for item in report["suspect_items"]["items"]] == ["i1"]
        ignored = await answer(client, "after", "l2", 10, None)
        assert (ignored["suspect"], ignored["mastery"][0]["change"]) == (True, 0)
        offer = (await client.post("learners/new/recommendations")).json()["recommendations"][0]
        assert offer["item"] == "i2"
        item = {"id": "i1", "skills": ["add"], "reviewed": True}
        assert (await client.put("catalogue", json={"items": [item]})).status_code == 200
        counted = await answer(client, "reviewed", "l2", 11, None)
        assert "suspect" not in counted
        assert counted["mastery"][0]["change"] != 0
        assert await find_differences(database) == []
