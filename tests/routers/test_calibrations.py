"""Calibrations at the interface: a body that may be absent, what is refused, and the way there and back."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from app.adaptive.calibration.fit import CalibrationFit
from app.core.times import now
from app.services import calibrations
from app.services.calibrations import build_result, read_calibration_job, request_calibration, save_result
from tests.client import COURSE, app_of, school

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[httpx.AsyncClient]:
    """A course with one answer, a calibration c-1 that is better than the defaults, and c-2 that is worse."""
    monkeypatch.setattr(calibrations, "MIN_RESPONSES", 1)
    async with school(database_url) as client:
        answer = {"id": "r-1", "learner": "ann", "item": "i1", "correct": True}
        assert (await client.post("responses", json=answer)).status_code == 201
        database = app_of(client).state.database
        for after in (0.5, 0.7):
            claim = await database.write(request_calibration, 1, COURSE, now())
            job = await database.read(read_calibration_job, claim)
            parameters = job.course.parameters
            skills = replace(parameters.skills, prior=parameters.skills.prior / 2)
            fit = CalibrationFit(replace(parameters, skills=skills), parameters, 1, 0.6, after, 0.5, 0.5, 0.6)
            await database.write(save_result, claim, build_result(job, fit), now())
        yield client


async def activate(client: httpx.AsyncClient, id_: str, **arguments: Any) -> httpx.Response:
    return await client.post(f"calibrations/{id_}/activate", **arguments)


async def active(client: httpx.AsyncClient) -> list[str]:
    return [one["id"] for one in (await client.get("calibrations")).json()["data"] if one["active"]]


@pytest.mark.parametrize("arguments", [{}, {"json": {}}, {"json": {"force": False}}, {"content": b""}])
async def test_activation_of_a_worse_calibration_is_refused_without_force(
    client: httpx.AsyncClient, arguments: dict[str, Any]
) -> None:
    assert (await activate(client, "c-1", **arguments)).status_code == 200
    refused = await activate(client, "c-2", **arguments)
    assert (refused.status_code, refused.json()["code"]) == (409, "calibration_worse")
    assert "from 0.60000 to 0.70000" in refused.json()["detail"]
    assert await active(client) == ["c-1"]


async def test_forced_activation_can_be_undone_and_repeated(client: httpx.AsyncClient) -> None:
    forced = await activate(client, "c-2", json={"force": True})
    assert (forced.status_code, forced.json()["active"]) == (200, True)
    assert forced.json()["activated_at"] is not None
    for id_ in ("c-1", "c-2"):
        assert (await activate(client, id_)).status_code == 200
        assert await active(client) == [id_]
        told = (await client.get("learners/ann/mastery")).json()
        assert told["calibration"] == id_


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        ({"json": {"force": "yes"}}, 422, "invalid"),
        ({"json": {"force": 1}}, 422, "invalid"),
        ({"json": {"forced": True}}, 422, "invalid"),
        ({"json": [True]}, 422, "invalid"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "malformed_json"),
        ({"content": b'{"force": true}'}, 415, "unsupported_media_type"),
        ({"params": {"force": "true"}}, 422, "invalid"),
    ],
)
async def test_activation_with_an_invalid_body_changes_nothing(
    client: httpx.AsyncClient, arguments: dict[str, Any], status: int, code: str
) -> None:
    refused = await activate(client, "c-2", **arguments)
    assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert await active(client) == []


async def test_activation_reads_a_body_in_pieces(client: httpx.AsyncClient) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for piece in (b'{"for', b'ce": true}'):
            yield piece

    told = await activate(client, "c-2", content=pieces(), headers={"content-type": "application/json"})
    assert told.status_code == 200


async def report_of(client: httpx.AsyncClient, id_: str) -> Any:
    """The report of a calibration that runs in a process of its own."""
    await asyncio.gather(*app_of(client).state.tasks)
    said = (await client.get(f"calibrations/{id_}")).json()
    assert said["status"] == "succeeded", said
    return said["report"]


async def test_calibration_leaves_out_what_it_is_asked_to(client: httpx.AsyncClient) -> None:
    """Learners with all their answers, and the answers of everybody in a span of time; the report says so."""
    for day, learner in ((1, "bot"), (2, "bob"), (3, "bob"), (4, "bob")):
        body = {"id": f"d-{day}", "learner": learner, "item": "i1", "correct": True}
        sent = await client.post("responses", json=body | {"occurred_at": f"2026-01-0{day}T12:00:00Z"})
        assert sent.status_code == 201, sent.text
    span = {"since": "2026-01-03T12:00:00Z", "until": "2026-01-04T12:00:00Z"}
    started = await client.post("calibrations", json={"leave_out": {"learners": ["bot", "nobody"], "spans": [span]}})
    assert (started.status_code, started.json()["report"]) == (202, None)
    report = await report_of(client, started.json()["id"])
    assert (report["responses"], report["learners"]) == (3, 2)
    assert report["left_out"] == {"responses": 2, "learners": ["bot", "nobody"], "spans": [span]}

    whole = await client.post("calibrations")
    report = await report_of(client, whole.json()["id"])
    assert (report["responses"], report["left_out"]) == (5, None)


@pytest.mark.parametrize(
    "leave_out",
    [
        {"learners": ["x"] * 1001},
        {"learners": [""]},
        {"learners": "ann"},
        {"spans": [{}]},
        {"spans": [{"since": "2026-01-02T00:00:00Z", "until": "2026-01-02T00:00:00Z"}]},
        {"spans": [{"since": "yesterday"}]},
        {"spans": [{"until": "2026-01-02T00:00:00Z"}] * 21},
        {"items": ["i1"]},
    ],
)
async def test_request_that_leaves_out_nonsense_starts_nothing(client: httpx.AsyncClient, leave_out: Any) -> None:
    refused = await client.post("calibrations", json={"leave_out": leave_out})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
    assert len((await client.get("calibrations")).json()["data"]) == 2
