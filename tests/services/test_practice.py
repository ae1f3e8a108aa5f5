"""Practice as a teacher sees it: a first exercise for everybody, rest where nothing is learnt, true sentences."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest
from sqlalchemy import Connection, select

from app.models import Outbox
from app.services.webhooks import LEARNER_STUCK, create_webhook
from app.texts import TEXTS
from tests.client import app_of, find_differences, minute_text, school

pytestmark = pytest.mark.anyio

STUCK_AFTER = 8
ANSWERS = 40


async def follow_next(
    client: httpx.AsyncClient, learner: str, score: float, answers: int, easy: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The outcomes of a learner who always has the same score, but on easy items, and does what comes next."""
    offer = (await client.post(f"learners/{learner}/recommendations")).json()["recommendations"][0]
    outcomes: list[dict[str, Any]] = []
    for number in range(answers):
        body = {
            "id": f"{learner}-{number}",
            "learner": learner,
            "item": offer["item"],
            "correct": score > 0 or offer["item"] in easy,
        }
        reply = await client.post("responses", json={**body, "occurred_at": minute_text(number)})
        outcomes.append(reply.json())
        offer = outcomes[-1]["next"]
        if offer is None:
            break
    return outcomes


def read_outbox(db: Connection) -> list[dict[str, Any]]:
    """The events that are to be delivered, as the receiver will see them."""
    return [json.loads(body) for body in db.execute(select(Outbox.body)).scalars()]


async def test_new_learner_gets_a_first_exercise_and_exists_once_it_is_offered(database_url: str) -> None:
    async with school(database_url) as client:
        preview = await client.get("learners/new/recommendations")
        [first] = preview.json()["recommendations"]
        assert (preview.status_code, first["skill"], first["reason"]["code"]) == (200, "add", "practice_skill")
        assert (await client.get("learners/new/mastery")).status_code == 404
        offered = await client.post("learners/new/recommendations")
        [offer] = offered.json()["recommendations"]
        assert (offered.status_code, offer["skill"]) == (201, "add")
        mastery = (await client.get("learners/new/mastery")).json()
        assert (mastery["position"], {row["responses"] for row in mastery["mastery"]}) == (0, {0})
        assert (await client.get("learners/new/recommendations")).json() == preview.json()
        response = {"id": "r", "learner": "new", "item": offer["item"], "correct": True, "recommendation": offer["id"]}
        outcome = (await client.post("responses", json=response)).json()
        assert outcome["offer"]["matches"]
        assert await find_differences(app_of(client).state.database) == []
        unknown = client.base_url.join("/v1/courses/none/learners/new/recommendations")
        assert {(await client.request(method, unknown)).status_code for method in ("GET", "POST")} == {404}


async def test_new_learner_is_created_once_by_simultaneous_offers(database_url: str) -> None:
    async with school(database_url) as client:
        replies = await asyncio.gather(*(client.post("learners/new/recommendations") for _ in range(4)))
        assert {reply.status_code for reply in replies} == {201}
        assert len({reply.json()["recommendations"][0]["id"] for reply in replies}) == 4
        assert await find_differences(app_of(client).state.database) == []


async def test_learner_who_knows_nothing_is_stuck_told_so_once_and_gets_other_skills(database_url: str) -> None:
    async with school(database_url) as client:
        database = app_of(client).state.database
        await database.write(create_webhook, 1, "https://lms.example.org", [LEARNER_STUCK], None, 1)
        outcomes = await follow_next(client, "ann", 0, ANSWERS)
        events = await database.read(read_outbox)
        assert await find_differences(database) == []
    practised = [outcome["next"]["skill"] for outcome in outcomes]
    assert len(set(practised)) == 4
    runs = [practised[n : n + STUCK_AFTER + 2] for n in range(ANSWERS - STUCK_AFTER - 1)]
    assert all(len(set(run)) > 1 for run in runs)
    rows = [row for outcome in outcomes for row in outcome["mastery"]]
    first = next(outcome for outcome in outcomes if any("stuck" in row for row in outcome["mastery"]))
    assert all(row["stuck"] is True for row in rows if row["responses"] >= STUCK_AFTER)
    assert not any("stuck" in row for row in rows if row["responses"] < STUCK_AFTER)
    assert events[0]["data"]["response"] == first["response"]["id"]
    named = [event["data"]["skill"] for event in events]
    assert sorted(named) == sorted({row["skill"] for row in rows if "stuck" in row})
    codes = {outcome["next"]["reason"]["code"] for outcome in outcomes}
    assert {"rest_skill", "retry_skill"} <= codes


async def test_reason_names_the_skills_that_rest_while_a_mastered_one_is_kept_up(database_url: str) -> None:
    """Also at the second exercise of the rest, which follows one on the mastered skill."""
    async with school(database_url) as client:
        outcomes = await follow_next(client, "ann", 0, 80, easy=("i1", "i2"))
        assert await find_differences(app_of(client).state.database) == []
    rested = [outcome for outcome in outcomes if outcome["next"]["reason"]["code"] == "rest_skill"]
    followed = [outcome for outcome in rested if outcome["response"]["item"] in {"i1", "i2"}]
    assert followed
    assert all(outcome["next"]["reason"]["text"].startswith("No progress is made on “") for outcome in rested)


async def test_learner_who_makes_progress_is_never_stuck(database_url: str) -> None:
    async with school(database_url) as client:
        outcomes = await follow_next(client, "ann", 1, 80)
    assert outcomes[-1]["reason"]["code"] == "all_mastered"
    assert not any("stuck" in row for outcome in outcomes for row in outcome["mastery"])


@pytest.mark.parametrize("score", [0, 1])
async def test_sentence_names_the_chance_for_what_it_is(database_url: str, score: int) -> None:
    async with school(database_url) as client:
        outcomes = await follow_next(client, "ann", score, ANSWERS)
    words = {name: TEXTS["en"][f"match.{name}"].split(",")[0] for name in ("easy", "right", "hard")}
    seen = set()
    for outcome in outcomes:
        if outcome["next"] is None:
            continue
        p, text = outcome["next"]["p_correct"], outcome["next"]["reason"]["text"]
        expected = "easy" if p >= 0.8 else "hard" if p < 0.45 else "right"
        assert [name for name, words_of in words.items() if words_of in text] == [expected]
        seen.add(expected)
    assert {0: "hard", 1: "easy"}[score] in seen
