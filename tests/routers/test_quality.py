"""The quality of predictions as it is told, against what was told with every answer, computed again by hand."""

import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, insert

from app.models import Calibration
from app.queries.catalogue import update_course
from app.services import calibrations
from tests.client import CATALOGUE, COURSE, app_of, client_of, make_key, minute_text, school
from tests.contract.replies import check_json, check_problem

pytestmark = pytest.mark.anyio

DAY = 24 * 60
# Seven weeks over the turn of a month.
DAYS = range(0, 49, 3)
SKILLS = {item["id"]: item["skills"] or [None] for item in CATALOGUE["items"]}
HIGHEST = {"i5": 2, "i8": 3}
# What is told with an answer is rounded to six digits.
ROUNDING = 2e-6


@dataclass(frozen=True)
class PredictedResponse:
    """An answer, and what was predicted before it, as its outcome told; `share` is the score that counts now."""

    id: str
    learner: str
    item: str
    share: float
    day: datetime
    p: float
    calibration: str | None


async def answer(client: httpx.AsyncClient, learner: str, item: str, day: int, score: float) -> PredictedResponse:
    minute = day * DAY + len(learner)
    body = {"learner": learner, "item": item, "score": score, "occurred_at": minute_text(minute)}
    reply = check_json(await client.post("responses", json=body), 201, body)
    moment = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(minutes=minute)
    share = score / HIGHEST.get(item, 1)
    return PredictedResponse(
        reply["response"]["id"], learner, item, share, moment, reply["p_correct"], reply["calibration"]
    )


async def some_answers(client: httpx.AsyncClient, days: Sequence[int]) -> list[PredictedResponse]:
    items = list(SKILLS)
    return [
        await answer(client, learner, items[place % 8], day, (place * place + len(learner)) % 5 // 3)
        for day in days
        for place, learner in enumerate(["ann", "bo", "clara", "d"], day)
    ]


def put_in_force(db: Connection, number: int) -> None:
    """A calibration that changes nothing but the name under which is predicted."""
    needed = [column for column in Calibration.__table__.columns if not column.nullable]
    blank = {column.name: "" if column.type.python_type is str else 0 for column in needed}
    row = {"tenant_id": 1, "course_id": COURSE, "number": number, "status": calibrations.SUCCEEDED}
    db.execute(insert(Calibration), blank | row)
    update_course(db, 1, COURSE, {"calibration": number})


@dataclass(frozen=True)
class World:
    client: httpx.AsyncClient
    responses: list[PredictedResponse]

    async def rows(self, query: str = "") -> list[dict[str, Any]]:
        page = check_json(await self.client.get(f"quality{query}"), 200, query)
        assert page["next"] is None
        rows: list[dict[str, Any]] = page["data"]
        return rows


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[World]:
    """Answers under the defaults and two calibrations; some late, regraded, twice regraded, voided."""
    async with school(database_url) as client:
        told = await some_answers(client, DAYS[:8])
        database = app_of(client).state.database
        await database.write(put_in_force, 1)
        told += await some_answers(client, DAYS[8:12])
        late = await answer(client, "ann", "i3", 4, 1)
        await database.write(put_in_force, 2)
        told += [late, *await some_answers(client, DAYS[12:])]
        for place, scores in ((3, [1]), (10, [0, 1]), (20, [0]), (30, [1])):
            for score in scores:
                body = {"score": score, "reason": "r"}
                check_json(await client.post(f"responses/{told[place].id}/regrade", json=body), 200, place)
            told[place] = replace(told[place], share=scores[-1] / HIGHEST.get(told[place].item, 1))
        for place in (40, 30, 0):
            check_json(await client.post(f"responses/{told[place].id}/void", json={"reason": "r"}), 200, place)
            del told[place]
        yield World(client, told)


def check_row(row: dict[str, Any], told: Sequence[PredictedResponse]) -> None:
    """The figures of a row, the plain way."""
    count = len(told)
    assert (row["responses"], row["learners"], row["sample"]) == (count, len({each.learner for each in told}), 1)
    loss = -sum(math.log(each.p) * each.share + math.log(1 - each.p) * (1 - each.share) for each in told) / count
    up = [each.p for each in told if each.share >= 0.5]
    down = [each.p for each in told if each.share < 0.5]
    won = [(high > low) + (high == low) / 2 for high in up for low in down]
    bins = defaultdict(list)
    for each in told:
        bins[int(each.p * 10)].append(each)
    expected = {
        "predicted": sum(each.p for each in told) / count,
        "observed": sum(each.share for each in told) / count,
        "log_loss": loss,
        "auc": sum(won) / len(won) if won else None,
        "brier": sum((each.p - each.share) ** 2 for each in told) / count,
        "ece": sum(abs(sum(each.p - each.share for each in part)) for part in bins.values()) / count,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=ROUNDING)
    for point, (_, part) in zip(row["curve"], sorted(bins.items()), strict=True):
        assert point["responses"] == len(part)
        assert point["predicted"] == pytest.approx(sum(each.p for each in part) / len(part), abs=ROUNDING)
        assert point["observed"] == pytest.approx(sum(each.share for each in part) / len(part), abs=ROUNDING)
    for name in ("log_loss", "brier"):
        ends = row["interval"][name]
        assert (ends is None) == (row["learners"] < 2)
        assert ends is None or ends[0] <= row[name] <= ends[1]


async def test_quality_measures_all_answers(world: World) -> None:
    assert len(world.responses) == len(DAYS) * 4 + 1 - 3
    [row] = await world.rows()
    check_row(row, world.responses)
    assert row["interval"]["auc"][0] < row["auc"] < row["interval"]["auc"][1]


GROUPS: dict[str, Callable[[PredictedResponse], list[Any]]] = {
    "calibration": lambda told: [told.calibration],
    "skill": lambda told: SKILLS[told.item],
    "day": lambda told: [told.day.date().isoformat()],
    "week": lambda told: [(told.day.date() - timedelta(days=told.day.weekday())).isoformat()],
    "month": lambda told: [told.day.date().replace(day=1).isoformat()],
}


@pytest.mark.parametrize("by", GROUPS)
async def test_quality_measures_groups(world: World, by: str) -> None:
    groups = defaultdict(list)
    for each in world.responses:
        for group in GROUPS[by](each):
            groups[group].append(each)
    rows = await world.rows(f"?by={by}")
    name = by if by in {"calibration", "skill"} else "period"
    for row in rows:
        check_row(row, groups[row[name]])
    order = {"calibration": [None, "c-1", "c-2"], "skill": [None, "add", "subtract", "multiply", "divide"]}
    assert [row[name] for row in rows] == (order[by] if by in order else sorted(groups))
    assert len(groups) > 1


async def test_quality_filters_select_what_they_name(world: World) -> None:
    for name in (None, "c-1", "c-2"):
        [row] = await world.rows(f"?calibration={name or 'defaults'}")
        check_row(row, [each for each in world.responses if each.calibration == name])
    [row] = await world.rows("?skill=subtract")
    check_row(row, [each for each in world.responses if "subtract" in SKILLS[each.item]])
    edge = world.responses[33].day
    text = edge.isoformat().replace("+00:00", "Z")
    [row] = await world.rows(f"?since={text}")
    check_row(row, [each for each in world.responses if each.day >= edge])
    [row] = await world.rows(f"?until={text}")
    check_row(row, [each for each in world.responses if each.day < edge])
    rows = await world.rows(f"?since={text}&skill=add&by=calibration")
    for row in rows:
        wanted = [each for each in world.responses if each.day >= edge and "add" in SKILLS[each.item]]
        check_row(row, [each for each in wanted if each.calibration == row["calibration"]])
    assert len(rows) == 2


@pytest.mark.parametrize("by", ["skill", "day", "calibration"])
async def test_quality_pages_make_up_the_whole_list(world: World, by: str) -> None:
    whole = await world.rows(f"?by={by}&skill=multiply")
    for limit in (1, 2, len(whole), len(whole) + 1):
        found: list[dict[str, Any]] = []
        reply = await world.client.get(f"quality?by={by}&limit={limit}&skill=multiply")
        while True:
            page = check_json(reply, 200, limit)
            found += page["data"]
            assert len(found) <= len(whole)
            if page["next"] is None:
                break
            reply = await world.client.get(world.client.base_url.join(reply.links["next"]["url"]))
        assert found == whole


async def test_quality_of_a_course_without_answers_is_empty(database_url: str) -> None:
    async with school(database_url) as client:
        [row] = (await client.get("quality?skill=add")).json()["data"]
        assert (row.pop("responses"), row.pop("learners"), row.pop("sample"), row.pop("curve")) == (0, 0, 1, [])
        assert row.pop("interval") == {"log_loss": None, "auc": None, "brier": None}
        assert set(row.values()) == {None}
        assert (await client.get("quality?by=day")).json() == {"data": [], "next": None}
        assert (await client.get("quality?calibration=defaults")).status_code == 200


async def test_quality_refuses_invalid_parameters(database_url: str) -> None:
    async with school(database_url) as client:
        await answer(client, "ann", "i1", 0, 1)
        [cursor] = [(await client.get("quality?by=skill&limit=1")).json()["next"]]
        for query in (
            "by=learner",
            "by=",
            "calibration=1",
            "calibration=c-0",
            "calibration=",
            "skill=",
            "since=yesterday",
            "until=2026-02-30T00:00:00Z",
            "since=2026-01-01T00:00:00Z&until=2026-01-01T00:00:00Z",
            "limit=0",
            "limit=1001",
            "unknown=1",
        ):
            problem = check_problem(await client.get(f"quality?{query}"), 422, "invalid", query)
            assert problem["errors"], query
        for query in (f"cursor={cursor}", f"by=day&cursor={cursor}", "by=skill&cursor=AAAA"):
            check_problem(await client.get(f"quality?{query}"), 422, "invalid_cursor", query)
        check_problem(await client.get("quality?skill=none"), 404, "unknown_skill", "skill")
        check_problem(await client.get("quality?calibration=c-1"), 404, "unknown_calibration", "calibration")


async def test_quality_does_not_see_answers_of_another_tenant(database_url: str) -> None:
    async with school(database_url) as client:
        await answer(client, "ann", "i1", 0, 1)
        database = app_of(client).state.database
        async with client_of(app_of(client), await make_key(database, "other")) as other:
            check_problem(await other.get(f"courses/{COURSE}/quality"), 404, "unknown_course", "no course")
            assert (await other.put(f"courses/{COURSE}/catalogue", json=CATALOGUE)).status_code == 200
            [row] = (await other.get(f"courses/{COURSE}/quality")).json()["data"]
            assert (row["responses"], row["learners"]) == (0, 0)
            assert (await other.get(f"courses/{COURSE}/quality?by=skill")).json()["data"] == []
        async with client_of(app_of(client), await make_key(database, scopes=["learners:read"])) as reader:
            check_problem(await reader.get(f"courses/{COURSE}/quality"), 403, "missing_scope", "scope")
