"""Adaptive tests over HTTP: offered, answered, repeated, gone on with, ended; on both databases."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import Connection, update

from app.adaptive.cat import Assembly, ShadowProblem, assemble_shadow_test
from app.models import SessionResponse
from app.services import sessions, shadow_tests
from app.services.course_model import LruCache
from tests.client import app_of, find_differences, minute_text, school, served

pytestmark = pytest.mark.anyio

STEPS = [-1.5, -0.5, 0.5, 1.5]
BANK: dict[str, Any] = {
    "skills": [{"id": "algebra"}, {"id": "geometry"}],
    "items": [
        *(
            {
                "id": f"q{number:02d}",
                "skills": ["algebra" if number % 2 else "geometry"],
                "tags": ["long"] if number % 5 == 0 else [],
                "kind": "choice" if number < 20 else "open",
                "parameters": {"model": "2PL", "a": 0.8 + 0.05 * number, "b": -1.5 + 0.1 * number},
            }
            for number in range(30)
        ),
        {"id": "credit", "skills": ["algebra"], "parameters": {"model": "GPCM", "a": 0.9, "thresholds": [0.5, -0.5]}},
        {"id": "graded", "skills": ["geometry"], "parameters": {"model": "graded", "thresholds": STEPS}},
        {"id": "fresh", "skills": ["algebra"]},
        {"id": "guess", "skills": [], "parameters": {"model": "4PL", "a": 2, "b": 0, "c": 0.2, "d": 0.95}},
    ],
}


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A caller whose addresses are below a course with a bank of items."""
    async with school(database_url, "bank") as opened:
        assert (await opened.put("catalogue", json=BANK)).status_code == 200
        yield opened


async def begin(client: httpx.AsyncClient, **wanted: Any) -> dict[str, Any]:
    """A session, begun; with five items at most unless said."""
    reply = await client.post("sessions", json={"stop": {"max_items": 5}, "seed": 1, **wanted})
    assert reply.status_code == 201, reply.text
    told: dict[str, Any] = reply.json()
    return told


async def send(client: httpx.AsyncClient, session: str, **answer: Any) -> httpx.Response:
    return await client.post(f"http://service/v1/sessions/{session}/responses", json=answer)


async def look(client: httpx.AsyncClient, session: str) -> dict[str, Any]:
    reply = await client.get(f"http://service/v1/sessions/{session}")
    assert reply.status_code == 200, reply.text
    told: dict[str, Any] = reply.json()
    return told


async def go_through(client: httpx.AsyncClient, told: dict[str, Any], *, correct: bool = True) -> list[dict[str, Any]]:
    """Answer whatever is offered until the end; all outcomes."""
    outcomes: list[dict[str, Any]] = []
    following, session = told["next"], told["id"]
    while following is not None:
        reply = await send(client, session, item=following["item"], correct=correct == (len(outcomes) % 3 > 0))
        assert reply.status_code == 201, reply.text
        outcomes.append(reply.json())
        following = outcomes[-1]["next"]
    return outcomes


async def test_session_measures_ability_and_ends(client: httpx.AsyncClient) -> None:
    told = await begin(client, id="t-1", learner="ann", stop={"standard_error": 0.5, "max_items": 30})
    assert (told["id"], told["course"], told["learner"], told["status"]) == ("t-1", "bank", "ann", "open")
    assert told["ability"] == {"theta": 0.0, "standard_error": pytest.approx(1, abs=1e-5)}
    assert told["next"]["reason"]["code"] == "max_information"
    assert told["next"]["reason"]["terms"]["candidates"] == 35
    outcomes = await go_through(client, told)
    errors = [outcome["ability"]["standard_error"] for outcome in outcomes]
    assert errors[-1] <= 0.5 < errors[-2]
    assert outcomes[-1]["stop"]["code"] == "standard_error"
    assert [outcome["position"] for outcome in outcomes] == list(range(1, len(outcomes) + 1))
    items = [outcome["response"]["item"] for outcome in outcomes]
    assert len(set(items)) == len(items)
    seen = await look(client, "t-1")
    assert seen["status"] == "finished"
    assert [step["ability"] for step in seen["responses"]] == [outcome["ability"] for outcome in outcomes]
    assert {row["skill"] for row in seen["mastery"]} <= {"algebra", "geometry"}
    assert await find_differences(app_of(client).state.database, "bank") == []
    listed = (await client.get("sessions")).json()["data"]
    assert [(row["id"], row["status"], row["position"]) for row in listed] == [("t-1", "finished", len(items))]


async def test_session_repeated_answer_returns_first_outcome_and_changes_nothing(client: httpx.AsyncClient) -> None:
    told = await begin(client, id="t-1")
    answer = {"id": "a-1", "item": told["next"]["item"], "correct": True}
    first, again = [await send(client, "t-1", **answer) for _ in range(2)]
    assert (first.status_code, again.status_code) == (201, 200)
    assert first.content == again.content
    other = await send(client, "t-1", **{**answer, "correct": False})
    assert (other.status_code, other.json()["code"]) == (409, "conflict")
    session = {"id": "t-1", "stop": {"max_items": 5}, "seed": 1}
    same = await client.post("sessions", json=session)
    assert (same.status_code, same.json()["position"]) == (200, 1)
    contrary = await client.post("sessions", json={**session, "seed": 2})
    assert (contrary.status_code, contrary.json()["code"]) == (409, "conflict")


async def test_session_counts_one_of_simultaneous_answers(client: httpx.AsyncClient) -> None:
    told = await begin(client, id="t-1")
    answer = {"item": told["next"]["item"], "correct": True}
    same = await asyncio.gather(*(send(client, "t-1", id="a-1", **answer) for _ in range(4)))
    assert sorted(reply.status_code for reply in same) == [200, 200, 200, 201]
    assert len({reply.content for reply in same}) == 1
    answer["item"] = same[0].json()["next"]["item"]
    others = await asyncio.gather(*(send(client, "t-1", id=f"b-{number}", **answer) for number in range(4)))
    assert sorted(reply.status_code for reply in others) == [201, 409, 409, 409]
    assert {reply.json()["code"] for reply in others if reply.status_code == 409} == {"not_offered"}
    begun = await asyncio.gather(
        *(client.post("sessions", json={"id": "t-2", "stop": {"max_items": 2}, "seed": 1}) for _ in range(4))
    )
    assert sorted(reply.status_code for reply in begun) == [200, 200, 200, 201]
    assert (await look(client, "t-1"))["position"] == 2


async def test_session_refuses_answers_to_items_that_were_not_offered(client: httpx.AsyncClient) -> None:
    told = await begin(client, id="t-1")
    other = "q00" if told["next"]["item"] != "q00" else "q01"
    for item in (other, "nothing"):
        refused = await send(client, "t-1", item=item, correct=True)
        assert (refused.status_code, refused.json()["code"]) == (409, "not_offered")
        assert told["next"]["item"] in refused.json()["detail"]
    await go_through(client, told)
    late = await send(client, "t-1", item="q00", correct=True)
    assert (late.status_code, late.json()["code"]) == (409, "session_finished")
    unknown = await send(client, "t-2", item="q00", correct=True)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_session")


async def test_session_offers_the_same_item_after_a_crash(client: httpx.AsyncClient, database_url: str) -> None:
    told = await begin(client, id="t-1", selection={"randomesque": 5}, seed=7)
    first = await send(client, "t-1", item=told["next"]["item"], correct=True)
    key = client.headers["authorization"].removeprefix("Bearer ")
    async with served(database_url) as app:
        transport = httpx.ASGITransport(app)
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(transport=transport, base_url=client.base_url, headers=headers) as other:
            assert (await look(other, "t-1"))["next"] == first.json()["next"]


async def test_session_is_not_changed_by_later_catalogues_and_calibrations(client: httpx.AsyncClient) -> None:
    told = await begin(client, id="t-1")
    twin = await begin(client, id="t-2")
    changed = [{**item, "parameters": {"model": "1PL", "b": 3}} for item in BANK["items"] if item["id"] != "fresh"]
    await go_through(client, twin)
    assert (await client.put("catalogue", json={"items": changed})).status_code == 200
    await go_through(client, told)
    seen, before = await look(client, "t-1"), await look(client, "t-2")
    assert seen["responses"][-1]["ability"] == before["responses"][-1]["ability"]
    assert seen["revision"] == before["revision"]


async def test_session_measures_several_scales_by_their_own_items(client: httpx.AsyncClient) -> None:
    scales = [{"id": "a", "skill": "algebra"}, {"id": "g", "skill": "geometry"}]
    told = await begin(client, scales=scales, stop={"max_items": 8})
    assert told["ability"] is None
    outcomes = await go_through(client, told)
    assert [each["scale"] for each in outcomes[-1]["abilities"]] == ["a", "g"]
    skills = {row["skill"]: row["responses"] for row in (await look(client, told["id"]))["mastery"]}
    assert set(skills) == {"algebra", "geometry"}
    assert all(each["standard_error"] < 1 for each in outcomes[-1]["abilities"])


async def test_session_respects_content_constraints_enemies_first_and_pilot_items(client: httpx.AsyncClient) -> None:
    selection = {
        "constraints": [{"skill": "algebra", "min": 2, "max": 2}, {"tag": "long", "max": 1}],
        "enemies": [["q11", "q13"]],
        "first": ["q07"],
        "pilot": {"items": ["fresh"], "positions": [3]},
    }
    told = await begin(client, selection=selection, stop={"max_items": 6})
    assert (told["next"]["item"], told["next"]["reason"]["code"]) == ("q07", "first_item")
    outcomes = await go_through(client, told)
    items = [outcome["response"]["item"] for outcome in outcomes]
    by_id = {item["id"]: item for item in BANK["items"]}
    scored = [by_id[o["response"]["item"]] for o in outcomes if o["response"]["scored"]]
    assert items[2] == "fresh"
    assert outcomes[2]["ability"] == outcomes[1]["ability"]
    assert len(scored) == 6
    assert sum("algebra" in item["skills"] for item in scored) == 2
    assert sum("long" in item.get("tags", []) for item in scored) <= 1
    assert not {"q11", "q13"} <= set(items)


def tangled(groups: int, items: int = 100, length: int = 50) -> tuple[dict[str, Any], dict[str, Any]]:
    """A course with random tags, and a session whose equal bounds on all of them hardly any test keeps."""
    rng = np.random.default_rng(1)
    has_tag, chosen = rng.random((groups, items)) < 0.5, rng.permutation(items)[:length]
    course = {
        "skills": [],
        "items": [
            {
                "id": f"i{item}",
                "skills": [],
                "tags": [f"t{tag}" for tag in np.flatnonzero(has_tag[:, item])],
                "parameters": {"model": "2PL", "a": 1.0, "b": item / items},
            }
            for item in range(items)
        ],
    }
    bounds = [
        {"tag": f"t{tag}", "min": int(row[chosen].sum()), "max": int(row[chosen].sum())}
        for tag, row in enumerate(has_tag)
    ]
    return course, {"selection": {"constraints": bounds}, "stop": {"max_items": length}}


@pytest.mark.parametrize(("groups", "kept"), [(30, False), (6, True)])
async def test_session_with_bounds_that_no_solver_keeps_goes_on(
    client: httpx.AsyncClient, groups: int, kept: bool
) -> None:
    course, wanted = tangled(groups)
    assert (await client.put("catalogue", json=course)).status_code == 200
    told = await begin(client, pool={"items": [item["id"] for item in course["items"]]}, **wanted)
    outcomes = [told]
    for number in range(4):
        assert ("bounds" in outcomes[-1]["next"]["reason"].get("relaxed", ())) != kept
        reply = await send(client, told["id"], item=outcomes[-1]["next"]["item"], correct=number % 2 == 0)
        assert reply.status_code == 201, reply.text
        outcomes.append(reply.json())
    assert await find_differences(app_of(client).state.database, "bank") == []


async def test_session_is_assembled_while_others_write(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A test that takes long to assemble holds neither the writer nor the event loop."""
    begun, goes_on = threading.Event(), threading.Event()

    def linger(problem: ShadowProblem) -> Assembly:
        begun.set()
        assert goes_on.wait(30)
        return assemble_shadow_test(problem)

    monkeypatch.setattr(shadow_tests, "ASSEMBLIES", LruCache())
    monkeypatch.setattr(shadow_tests, "assemble_shadow_test", linger)
    slow = asyncio.create_task(begin(client, id="slow", selection={"constraints": [{"tag": "long", "max": 1}]}))
    try:
        assert await asyncio.to_thread(begun.wait, 30)
        assert (await begin(client, id="quick"))["next"] is not None
        assert not slow.done()
    finally:
        goes_on.set()
    assert (await slow)["next"] is not None


async def test_session_reports_a_classification(client: httpx.AsyncClient) -> None:
    stop = {"classification": {"cuts": [0.0], "method": "sprt"}, "max_items": 25}
    outcomes = await go_through(client, await begin(client, stop=stop))
    [cut] = outcomes[-1]["classification"]
    assert cut["cut"] == 0
    assert cut["above"] == (cut["probability"] > 0.5)
    assert cut["decided"] == (outcomes[-1]["stop"]["code"] == "classified")


async def test_session_and_practice_are_independent_unless_asked_otherwise(client: httpx.AsyncClient) -> None:
    alone = await begin(client, learner="ann")
    await go_through(client, alone)
    assert (await client.get("learners/ann/mastery")).status_code == 404
    joined = await begin(client, id="t-2", learner="ann", updates_mastery=True)
    outcomes = await go_through(client, joined)
    practice = (await client.get("learners/ann/mastery")).json()
    assert practice["position"] == len(outcomes)
    after = await begin(client, id="t-3", learner="ann", prior_from_practice=True)
    assert after["ability"]["theta"] == pytest.approx(practice["ability"]["theta"], abs=2e-3)
    assert await find_differences(app_of(client).state.database, "bank") == []


async def test_session_avoids_overexposed_items(client: httpx.AsyncClient) -> None:
    selection = {"max_exposure": 0.5}
    first = await go_through(client, await begin(client, selection=selection))
    second = await go_through(client, await begin(client, selection=selection))
    items = [{outcome["response"]["item"] for outcome in outcomes} for outcomes in (first, second)]
    assert not items[0] & items[1]


async def test_session_takes_whole_scores_of_partial_credit_and_graded_items(client: httpx.AsyncClient) -> None:
    for item, highest in (("credit", 2), ("graded", 4)):
        told = await begin(client, selection={"first": [item]}, stop={"max_items": 1})
        refused = await send(client, told["id"], item=item, score=0.5)
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_score")
        beyond = await send(client, told["id"], item=item, score=highest + 1)
        assert (beyond.status_code, beyond.json()["code"]) == (422, "invalid_score")
        assert (await send(client, told["id"], item=item, score=highest)).json()["ability"]["theta"] > 0
    told = await begin(client, selection={"first": ["q07"]}, stop={"max_items": 1})
    assert (await send(client, told["id"], item="q07", score=0.5)).status_code == 422


async def test_session_ends_at_once_when_no_item_is_left(client: httpx.AsyncClient) -> None:
    told = await begin(client, pool={"tags": ["no such tag"]})
    assert (told["status"], told["next"], told["stop"]["code"]) == ("finished", None, "no_items")
    one = await begin(client, pool={"items": ["q01"]})
    outcomes = await go_through(client, one)
    assert [outcome["stop"] and outcome["stop"]["code"] for outcome in outcomes] == ["no_items"]


async def test_session_can_be_ended_and_expires(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    told = await begin(client)
    for _ in range(2):
        ended = (await client.post(f"http://service/v1/sessions/{told['id']}/end")).json()
        assert (ended["status"], ended["stop"]["code"], ended["next"]) == ("finished", "ended", None)
    old = await begin(client, lifetime_s=60)
    monkeypatch.setattr(sessions, "SECOND_US", 0)
    assert (await look(client, old["id"]))["status"] == "expired"
    late = await send(client, old["id"], item=old["next"]["item"], correct=True)
    assert (late.status_code, late.json()["code"]) == (409, "session_finished")


BAD: list[tuple[dict[str, Any], str]] = [
    ({"stop": {}}, "/stop"),
    ({"stop": {"max_items": 2, "min_items": 3}}, "/stop/min_items"),
    ({"pool": {"items": ["none"]}}, "/pool/items/0"),
    ({"pool": {"skills": ["none"]}}, "/pool/skills/0"),
    ({"selection": {"first": ["none"]}}, "/selection/first/0"),
    ({"selection": {"content": [{"skill": "none", "share": 1}]}}, "/selection/content/0/skill"),
    ({"selection": {"content": [{"skill": "algebra", "tag": "long", "share": 1}]}}, "/selection/content/0"),
    ({"scales": [{"id": "a", "skill": "algebra"}, {"id": "a", "skill": "geometry"}]}, "/scales"),
    ({"prior_from_practice": True}, "/learner"),
    ({"updates_mastery": True}, "/learner"),
    ({"seed": -1}, "/seed"),
    ({"extra": 1}, "/extra"),
    ({"selection": {"constraints": [{"tag": "long", "max": 1}]}, "stop": {"standard_error": 0.3}}, "/stop/max_items"),
    (
        {
            "selection": {"constraints": [{"tag": "long", "max": 1}], "enemies": [["q01", "q02"]] * 800},
            "stop": {"max_items": 1000},
        },
        "/selection/constraints",
    ),
    ({"selection": {"randomesque": 5, "exposure_control": True}}, "/selection/randomesque"),
    ({"selection": {"rule": "random", "exposure_control": True}}, "/selection/exposure_control"),
    ({"selection": {"rule": "random", "constraints": [{"tag": "long"}]}}, "/selection/constraints"),
    ({"selection": {"content": [{"tag": "long", "share": 0}]}}, "/selection/content"),
    ({"selection": {"constraints": [{"tag": "x", "min": 3, "max": 2}]}}, "/selection/constraints/0/min"),
    ({"selection": {"first": ["q01"], "pilot": {"items": ["q01"], "positions": [2]}}}, "/selection/first"),
    ({"scales": [{"id": "a", "skill": "algebra"}, {"id": "b", "tag": "none"}]}, "/scales"),
]


@pytest.mark.parametrize(("wanted", "pointer"), BAD)
async def test_session_that_is_impossible_is_refused_with_a_pointer(
    client: httpx.AsyncClient, wanted: dict[str, Any], pointer: str
) -> None:
    reply = await client.post("sessions", json={"stop": {"max_items": 3}, **wanted})
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid"), reply.text
    assert pointer in [fault["pointer"] for fault in reply.json()["errors"]]
    assert (await client.get("sessions")).json()["data"] == []


async def test_session_replies_in_the_language_it_agreed_on(client: httpx.AsyncClient) -> None:
    plan: dict[str, Any] = {"stop": {"max_items": 2}, "selection": {"first": ["q05"]}}
    sessions_ = [await begin(client, **plan, **language) for language in ({}, {"language": "en"}, {"language": "de"})]
    absent, english, german = [[told, *await go_through(client, told)] for told in sessions_]
    texts = [[text for told in run for text in sentences(told)] for run in (absent, english, german)]
    assert texts[0] == texts[1]
    assert texts[0][0] == "The test begins with this item."
    assert texts[0][1].startswith("Of 34 items this item tells most about an ability near -0.")
    assert texts[0][2] == "The test has as many items as it may have."
    assert texts[2][0] == "Der Test beginnt mit dieser Aufgabe."
    assert texts[2][1].startswith("Von 34 Aufgaben sagt diese am meisten über eine Fähigkeit nahe -0,")
    assert texts[2][2] == "Der Test hat so viele Aufgaben, wie er haben darf."
    assert [told["next"] and told["next"]["reason"]["terms"] for told in english] == [
        told["next"] and told["next"]["reason"]["terms"] for told in german
    ]
    again = await look(client, sessions_[2]["id"])
    assert again["stop"]["text"] == texts[2][2]
    refused = await client.post("sessions", json={**plan, "language": "fr"})
    assert [fault["pointer"] for fault in refused.json()["errors"]] == ["/language"]
    assert await find_differences(app_of(client).state.database, "bank") == []


def sentences(told: dict[str, Any]) -> list[str]:
    """Why the next item was chosen, and why the test ended."""
    reasons = [told["next"]["reason"]["text"]] if told["next"] else []
    return reasons + ([told["stop"]["text"]] if told["stop"] else [])


async def test_session_choices_are_fixed_by_the_seed(client: httpx.AsyncClient) -> None:
    selection = {"rule": "random"}
    runs = [
        [o["response"]["item"] for o in await go_through(client, await begin(client, selection=selection, seed=seed))]
        for seed in (5, 5, 6)
    ]
    assert runs[0] == runs[1] != runs[2]


async def test_verification_finds_a_session_that_was_tampered_with(client: httpx.AsyncClient) -> None:
    told = await begin(client, id="t-1")
    await go_through(client, told)
    ended = await begin(client, id="t-2")
    await send(client, "t-2", item=ended["next"]["item"], correct=True)
    await client.post("http://service/v1/sessions/t-2/end")
    database = app_of(client).state.database
    assert await find_differences(database, "bank") == []

    def tamper(db: Connection, score: float) -> None:
        db.execute(update(SessionResponse).where(SessionResponse.position == 2).values(score=score))

    await database.write(tamper, 1.0)
    found = await find_differences(database, "bank")
    assert {text.split(":")[0] for text in found} == {"session t-1"}


async def test_session_ends_after_its_maximum_time(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    told = await begin(client, stop={"max_seconds": 1000}, lifetime_s=31_536_000)
    monkeypatch.setattr(sessions, "SECOND_US", 1)
    outcome = (
        await send(client, told["id"], item=told["next"]["item"], correct=True, occurred_at=minute_text(0))
    ).json()
    assert outcome["stop"]["code"] == "max_seconds"
