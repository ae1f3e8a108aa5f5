"""A course with something of everything: skills that build on others, a graded item, answers, a calibration."""

import asyncio
from typing import Any

import httpx
from sqlalchemy import Connection

from app.core.database import Database
from app.core.times import now
from app.http import ims_status
from app.queries.calibrations import insert_calibration
from app.queries.webhooks import insert_webhook
from app.services.calibrations import request_calibration
from tests.client import app_of, encoded, fixed_cat_ids

COURSE = "c1"
CATALOGUE: dict[str, Any] = {
    "title": "Fractions",
    "skills": [
        {"id": "s1", "title": "Subtract"},
        {"id": "s2", "prerequisites": ["s1"]},
        {"id": "s/3 ü", "prerequisites": ["s1", "s2"]},
    ],
    "items": [
        {"id": "i1", "skills": ["s1"], "tags": ["easy"], "url": "https://example.org/i1", "kind": "choice"},
        {"id": "i2", "skills": ["s1", "s2"], "parameters": {"model": "2PL", "a": 1.1, "b": 0.3}},
        {"id": "i3", "skills": ["s/3 ü"]},
        {"id": "free", "skills": []},
        {"id": "graded", "skills": ["s2"], "parameters": {"model": "graded", "thresholds": [-1, 0, 1]}},
    ],
}
CROWD = 20
HOUR_US = 3_600_000_000
# Sections of 1EdTech CAT, each with one session; many, as they are deleted.
SECTIONS, CAT_SESSIONS = ([f"{kind}-{number:032x}" for number in range(100)] for kind in "st")
HOOKS = [f"wh-000000000000000{number}" for number in (1, 2, 3)]
# The last one has no item to offer, the others this one.
OVER, OFFERED = "t-over", "i2"
SESSIONS = [*(f"t-{number}" for number in range(1, 16)), OVER]
ITEMS = [item["id"] for item in CATALOGUE["items"]]


def crowd() -> list[dict[str, Any]]:
    """Enough answers for a calibration: every learner of the crowd answers every item."""
    return [
        {
            "id": f"crowd-{learner}-{item}",
            "learner": f"learner {learner:02d}",
            "item": item,
            "correct": (learner + index) % 3 > 0,
            "occurred_at": f"2026-01-{learner + 1:02d}T09:{index:02d}:00Z",
        }
        for learner in range(CROWD)
        for index, item in enumerate(ITEMS)
    ]


async def fill(client: httpx.AsyncClient) -> None:
    """Make the course with its answers."""
    assert (await client.put(f"courses/{COURSE}/catalogue", json=CATALOGUE)).status_code == 200
    for number, (learner, item) in enumerate([("ann", "i1"), ("bob", "i2"), ("ann", "graded"), ("ann", "i3")], 1):
        body = {"id": f"r-{number}", "learner": learner, "item": item, "correct": True}
        assert (await client.post(f"courses/{COURSE}/responses", json=body)).status_code == 201
    for session in SESSIONS:
        pool = {"tags": ["none"]} if session == OVER else {"items": [OFFERED, "graded"]}
        test = {
            "id": session,
            "stop": {"max_items": 2},
            "pool": pool,
            "selection": {"first": [OFFERED] * (session != OVER)},
        }
        assert (await client.post(f"courses/{COURSE}/sessions", json=test)).status_code == 201
    batch = await client.post(f"courses/{COURSE}/responses:batch", json={"responses": crowd()})
    assert {result["status"] for result in batch.json()["results"]} == {"created"}


async def open_sections(client: httpx.AsyncClient) -> None:
    """Sections of the course, and a session in each."""
    for number, section in enumerate(SECTIONS):
        configuration = encoded({"pool": COURSE, "stop": {"max_items": number + 1}})
        with fixed_cat_ids(number):
            made = await client.post(
                f"http://service{ims_status.PREFIX}/sections", json={"sectionConfiguration": configuration}
            )
            session_made = await client.post(f"http://service{ims_status.PREFIX}/sections/{section}/sessions", json={})
        assert (made.status_code, session_made.status_code) == (201, 201)


def insert_webhooks(db: Connection) -> None:
    """Webhooks with ids that are known beforehand."""
    row = {"tenant_id": 1, "url": "https://lms.example.org", "events": ["skill.mastered"], "course_id": None}
    for id_ in HOOKS:
        insert_webhook(db, {**row, "id": id_, "secret": "whsec_AAAA", "created_at": now()})


async def calibrate(client: httpx.AsyncClient) -> str:
    """Add a calibration to the course; its id, once it has succeeded."""
    started = await client.post(f"courses/{COURSE}/calibrations")
    assert started.status_code == 202
    await asyncio.gather(*app_of(client).state.tasks)
    calibration = (await client.get(client.base_url.join(started.headers["location"]))).json()
    assert calibration["status"] == "succeeded", calibration
    return str(calibration["id"])


async def insert_worse_calibration(database: Database, course: str) -> None:
    """Give a course a calibration, c-1, that predicts worse than what was before it."""
    moment = now()
    row: dict[str, Any] = {
        "tenant_id": 1,
        "course_id": course,
        "number": 1,
        "status": "succeeded",
        "requested_at": moment,
        "leased_until": moment,
        "finished_at": moment,
        "activated_at": None,
        "revision": 1,
        "attempt": 1,
        "compared_with": None,
        "parameters": b"",
        "report": {"log_loss_before": 0.5, "log_loss_after": 0.51},
        "error": None,
    }
    await database.write(insert_calibration, row)


async def insert_running_calibration(database: Database) -> None:
    """Leave the course with a calibration that seems to run, for an hour: another one is refused."""
    await database.write(request_calibration, 1, COURSE, now() + HOUR_US)
