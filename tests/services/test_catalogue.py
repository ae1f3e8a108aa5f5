"""The catalogue: upserts that are whole or nothing, with a history, and what the engine is given of it."""

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import Connection, update

from app.adaptive.parameters import Population
from app.core.database import Database
from app.models import Response
from app.services import catalogue as catalogue_service
from app.services import replay
from app.services.calibration_codec import CalibratedValues
from app.services.catalogue import catalogue_at, read_catalogue
from app.services.course_model import build_items, course_model_at, read_course_model
from tests.client import CATALOGUE, COURSE, app_of, find_differences, school

pytestmark = pytest.mark.anyio

NOTHING = np.empty(0)
NO_VALUES = CalibratedValues(
    Population(), NOTHING, NOTHING, NOTHING, NOTHING, None, NOTHING.astype(int), NOTHING.astype(bool)
)


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with school(database_url) as client:
        yield client


def database_of(client: httpx.AsyncClient) -> Database:
    database: Database = app_of(client).state.database
    return database


async def put(client: httpx.AsyncClient, **body: Any) -> httpx.Response:
    return await client.put("catalogue", json=body)


async def everything(client: httpx.AsyncClient) -> Any:
    return await database_of(client).read(read_catalogue, 1, COURSE)


async def test_upsert_reply_counts_what_was_created_and_changed(client: httpx.AsyncClient) -> None:
    assert (await client.put("catalogue", json=CATALOGUE)).json() == {
        "revision": 2,
        "skills_created": 0,
        "skills_changed": 0,
        "items_created": 0,
        "items_changed": 0,
        "skills": 4,
        "items": 8,
    }
    body = {
        "skills": [{"id": "add", "title": "Adding"}, {"id": "power"}],
        "items": [{"id": "i1", "skills": ["add", "power"]}, {"id": "i2", "skills": ["add"]}, {"id": "n", "skills": []}],
    }
    counts = (await put(client, **body)).json()
    assert counts == {
        "revision": 3,
        "skills_created": 1,
        "skills_changed": 1,
        "items_created": 1,
        "items_changed": 1,
        "skills": 5,
        "items": 9,
    }


async def test_change_of_prerequisites_alone_counts_as_a_change(client: httpx.AsyncClient) -> None:
    counts = (await put(client, skills=[{"id": "add", "title": "Add"}, {"id": "multiply"}])).json()
    assert (counts["skills_created"], counts["skills_changed"]) == (0, 1)


async def test_upsert_replaces_what_it_names_and_leaves_the_rest(client: httpx.AsyncClient) -> None:
    whole = {
        "id": "i1",
        "skills": ["subtract", "add"],
        "title": "One",
        "kind": "choice",
        "tags": ["b", "a"],
        "url": "https://example.org/1",
        "max_score": 3,
    }
    await put(client, items=[whole])
    items = {item["id"]: item for item in (await client.get("items")).json()["data"]}
    assert items["i1"] == {
        **whole,
        "max_score": 3.0,
        "parameters": None,
        "exposure": None,
        "choices": None,
        "reviewed": False,
    }
    await put(client, items=[{"id": "i1", "skills": ["add"]}], skills=[{"id": "divide", "prerequisites": ["add"]}])
    items = {item["id"]: item for item in (await client.get("items")).json()["data"]}
    assert items["i1"] == {
        "id": "i1",
        "skills": ["add"],
        "title": None,
        "kind": None,
        "tags": [],
        "url": None,
        "max_score": 1.0,
        "parameters": None,
        "exposure": None,
        "choices": None,
        "reviewed": False,
    }
    skills = {skill["id"]: skill for skill in (await client.get("skills")).json()["data"]}
    assert skills["divide"] == {"id": "divide", "title": None, "prerequisites": ["add"]}
    assert skills["subtract"]["prerequisites"] == ["add"]
    assert (await everything(client)).title == "Arithmetic"


@pytest.mark.parametrize(
    ("skills", "named"),
    [
        ([{"id": "add", "prerequisites": ["add"]}], ["add", "add"]),
        ([{"id": "add", "prerequisites": ["divide"]}], ["add", "divide"]),
        ([{"id": "x", "prerequisites": ["y"]}, {"id": "y", "prerequisites": ["x"]}], ["x", "y"]),
    ],
)
async def test_cycle_of_prerequisites_is_refused_and_named(
    client: httpx.AsyncClient, skills: list[Any], named: list[str]
) -> None:
    before = await everything(client)
    reply = await put(client, title="changed", skills=[{"id": "new"}, *skills], items=[{"id": "n", "skills": ["new"]}])
    assert (reply.status_code, reply.json()["code"]) == (422, "prerequisite_cycle")
    path = reply.json()["detail"].partition(": ")[2].partition(";")[0].split(" → ")
    assert path[0] == path[-1]
    assert set(named) <= set(path)
    edges = {skill["id"]: skill["prerequisites"] for skill in (await everything(client)).skills.values()}
    edges |= {skill["id"]: skill["prerequisites"] for skill in skills}
    assert all(below in edges[above] for above, below in pairwise(path))
    assert await everything(client) == before


async def test_unknown_skill_is_refused_and_named(client: httpx.AsyncClient) -> None:
    before = await everything(client)
    reply = await put(
        client,
        skills=[{"id": "new"}, {"id": "newer", "prerequisites": ["new", "none"]}],
        items=[{"id": "n", "skills": ["new", "add"]}, {"id": "m", "skills": ["add", "nowhere"]}],
    )
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid")
    pointers = [fault["pointer"] for fault in reply.json()["errors"]]
    assert pointers == ["/skills/1/prerequisites/1", "/items/1/skills/1"]
    assert await everything(client) == before


async def test_refused_first_catalogue_creates_no_course(client: httpx.AsyncClient) -> None:
    client.base_url = client.base_url.join("../elsewhere/")
    assert (await put(client, items=[{"id": "i", "skills": ["none"]}])).status_code == 422
    assert (await client.get("items")).json()["code"] == "unknown_course"


async def test_catalogue_revisions_can_all_be_read_again(client: httpx.AsyncClient) -> None:
    def course_models_agree(db: Connection) -> bool:
        now = read_course_model(db, 1, COURSE)
        again = course_model_at(db, 1, COURSE, now.revision, None)
        arrays = [(name, getattr(now.parameters.items, name)) for name in now.parameters.items.__dataclass_fields__]
        return now.item_ids == again.item_ids and all(
            np.array_equal(array, getattr(again.parameters.items, name)) for name, array in arrays
        )

    changes: list[dict[str, Any]] = [
        {"skills": [{"id": "Ähre", "prerequisites": ["divide", "add"]}, {"id": "a"}]},
        {"items": [{"id": "i1", "skills": ["Ähre", "add"], "max_score": 2.5, "tags": ["z", "a"]}]},
        {"title": "Other", "items": [{"id": "i7", "skills": ["multiply"]}]},
        {"skills": [{"id": "add", "prerequisites": ["a"]}], "items": [{"id": "0", "skills": ["a"]}]},
        {"items": [{"id": "i6", "skills": [], "parameters": {"model": "2PL", "a": 0.1, "b": 1e-7}}]},
    ]
    seen = {1: await everything(client)}
    for revision, change in enumerate(changes, start=2):
        assert (await put(client, **change)).json()["revision"] == revision
        seen[revision] = await everything(client)
        assert await database_of(client).read(course_models_agree)
    for revision, then in seen.items():
        again = await database_of(client).read(catalogue_at, 1, COURSE, revision)
        assert again == then
        assert (list(again.skills), list(again.items)) == (list(then.skills), list(then.items))


@pytest.mark.parametrize("kind", ["skills", "items"])
async def test_catalogue_pages_are_stable_while_items_are_added(client: httpx.AsyncClient, kind: str) -> None:
    ids = ["A", "Z", "a", "m", "z", "ä", "Ω", "💡", "b/c", "d?e&f"]
    records = [{"id": id_} | ({"skills": ["add"]} if kind == "items" else {}) for id_ in ids]
    await put(client, **{kind: records})
    before = {record["id"] for record in CATALOGUE[kind]} | set(ids)
    seen: list[str] = []
    path: str = f"{kind}?limit=3"
    while path:
        reply = await client.get(path)
        seen += [record["id"] for record in reply.json()["data"]]
        number = len(seen)
        added = [{"id": f"{seen[-1]}+{number}"}, {"id": f"!{number}"}]
        await put(client, **{kind: [new | ({"skills": []} if kind == "items" else {}) for new in added]})
        link = reply.links.get("next", {}).get("url")
        assert (link is None) == (reply.json()["next"] is None)
        path = f"http://service{link}" if link else ""
        assert number < 200
    assert len(seen) == len(set(seen))
    assert seen == sorted(seen)
    assert before <= set(seen)


async def test_known_parameters_reach_the_engine(client: httpx.AsyncClient) -> None:
    items: list[dict[str, Any]] = [
        {"id": "p1", "skills": ["add"], "parameters": {"model": "1PL", "b": 0.7}},
        {"id": "p2", "skills": ["add"], "parameters": {"model": "2PL", "a": 1.5, "b": -0.4}},
        {"id": "p3", "skills": [], "parameters": {"model": "3PL", "a": 0.8, "b": 1.1, "c": 0.25}},
        {"id": "p4", "skills": ["add"], "parameters": {"model": "4PL", "a": 2, "b": 0, "c": 0.1, "d": 0.95}},
        {"id": "g", "skills": ["add"], "parameters": {"model": "graded", "a": 1.2, "thresholds": [-1, 0.5]}},
        {"id": "u", "skills": ["add", "subtract"], "max_score": 5},
    ]
    assert (await put(client, items=items)).status_code == 200
    course_model = await database_of(client).read(read_course_model, 1, COURSE)
    places = [course_model.item_numbers[item["id"]] for item in items]
    arrays = course_model.parameters.items
    assert course_model.known[places].tolist() == [True, True, True, True, True, False]
    assert arrays.discrimination[places].tolist() == [1, 1.5, 0.8, 2, 1.2, 1]
    np.testing.assert_allclose(arrays.intercept[places], [-0.7, 0.6, -0.88, 0, 0, 0], atol=1e-15)
    assert arrays.guessing[places].tolist() == [0, 0, 0.25, 0.1, 0, 0]
    assert arrays.upper[places].tolist() == [1, 1, 1, 0.95, 1, 1]
    assert arrays.max_category[places].tolist() == [0, 0, 0, 0, 2, 0]
    np.testing.assert_allclose(arrays.thresholds[places[4], :2], [-1.2, 0.6])
    assert course_model.max_scores[places].tolist() == [1, 1, 1, 1, 2, 5]
    names = dict[int, str | None](enumerate(course_model.skill_ids)) | {-1: None}
    assert [[names[s] for s in arrays.skills[p].tolist()] for p in places[4:]] == [["add", None], ["add", "subtract"]]
    assert arrays.has_skills[places].tolist() == [1, 1, 0, 1, 1, 1]
    parents = {
        course_model.skill_ids[number]: {course_model.skill_ids[p] for p in row if p >= 0}
        for number, row in enumerate(course_model.parameters.skills.prerequisites.tolist())
    }
    expected = {skill["id"]: set(skill.get("prerequisites", ())) for skill in CATALOGUE["skills"]}
    assert parents == expected


async def test_answers_to_a_graded_item_are_whole_and_bounded(client: httpx.AsyncClient) -> None:
    async def send(score: float) -> httpx.Response:
        return await client.post("responses", json={"learner": "ann", "item": "i8", "score": score})

    assert [(await send(score)).status_code for score in (0, 1, 3)] == [201, 201, 201]
    for score in (1.5, 4):
        reply = await send(score)
        assert (reply.status_code, reply.json()["code"]) == (422, "invalid_score")
    reply = await client.post("responses", json={"learner": "ann", "item": "i8", "correct": True})
    assert reply.json()["response"]["score"] == 3.0


async def test_answers_without_times_count_in_the_order_of_their_batch(client: httpx.AsyncClient) -> None:
    batch = [{"learner": "ann", "item": f"i{1 + number % 4}", "correct": number % 3 == 0} for number in range(12)]
    results = (await client.post("/responses:batch", json={"responses": batch})).json()["results"]
    moments = [result["response"]["occurred_at"] for result in results]
    assert moments == sorted(set(moments))


@pytest.mark.parametrize("highest", [1, 5])
async def test_repeated_answer_returns_first_outcome_after_a_change_of_the_catalogue(
    client: httpx.AsyncClient, highest: int
) -> None:
    full = {"id": "r-1", "learner": "ann", "item": "i5", "correct": True}
    half = {"id": "r-2", "learner": "ann", "item": "i5", "score": 1.5}
    first = [await client.post("responses", json=body) for body in (full, half)]
    await put(client, items=[{"id": "i5", "skills": ["add"], "max_score": highest}])
    again = [await client.post("responses", json=body) for body in (full, half)]
    assert [reply.status_code for reply in again] == [200, 200]
    assert [reply.content for reply in again] == [reply.content for reply in first]
    assert (await client.post("responses", json={**full, "correct": False})).status_code == 409


@pytest.mark.parametrize("earlier_program", [False, True])
async def test_answers_are_worth_what_they_were_out_of_the_maximum_of_their_time(
    client: httpx.AsyncClient, *, earlier_program: bool
) -> None:
    """2, 7 and 10 of 10 stay that when the maximum becomes 1; a regrade is out of 10 as well."""
    await put(client, items=[{"id": "points", "skills": ["add"], "max_score": 10}])
    for learner, score in (("two", 2), ("seven", 7), ("ten", 10)):
        body = {"id": learner, "learner": learner, "item": "points", "score": score}
        assert (await client.post("responses", json=body)).status_code == 201
    if earlier_program:
        await database_of(client).write(lambda db: db.execute(update(Response).values(max_score=None)))
    before = [(await client.get(f"learners/{learner}/mastery")).json() for learner in ("two", "seven", "ten")]
    for highest in (1, 4):
        await put(client, items=[{"id": "points", "skills": ["add"], "max_score": highest}])
        after = [(await client.get(f"learners/{learner}/mastery")).json() for learner in ("two", "seven", "ten")]
        assert after == before
    again = {"id": "seven", "learner": "seven", "item": "points", "score": 7}
    assert (await client.post("responses", json=again)).status_code == 200
    regraded = await client.post("responses/two/regrade", json={"score": 10, "reason": "wrong key"})
    assert regraded.json()["ability"] == before[2]["ability"]
    refused = await client.post("responses/ten/regrade", json={"score": 11, "reason": "typing error"})
    assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, "/score")
    assert await find_differences(database_of(client)) == []


def out_of_todays_maximum(course_model: Any, items: Any, scores: Any) -> Any:
    return np.minimum(np.array([score for score, _ in scores]) / course_model.max_scores[items], 1.0)


@pytest.mark.controls
@pytest.mark.parametrize(
    ("module", "name", "mutant", "earlier_program"),
    [
        (catalogue_service, "keep_max_scores", lambda *_: None, True),
        (replay, "as_fractions", out_of_todays_maximum, False),
    ],
)
async def test_answers_change_their_worth_if_the_maximum_of_their_time_is_not_used(
    client: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    module: Any,
    name: str,
    mutant: Any,
    *,
    earlier_program: bool,
) -> None:
    monkeypatch.setattr(module, name, mutant)
    law = test_answers_are_worth_what_they_were_out_of_the_maximum_of_their_time
    with pytest.raises(AssertionError):
        await law(client, earlier_program=earlier_program)


async def test_scores_are_freed_of_what_arithmetic_leaves(client: httpx.AsyncClient) -> None:
    """A sum of parts a bit above the maximum, or beside a category, and −0, are what they were meant to be."""
    for number, (item, sent, stored) in enumerate(
        [("i8", 3.0000000000000004, 3.0), ("i8", 1.9999999999999998, 2.0), ("i5", 2.0000000000000004, 2.0)]
    ):
        body = {"id": f"r-{number}", "learner": "ann", "item": item, "score": sent}
        for status in (201, 200):
            reply = await client.post("responses", json=body)
            assert (reply.status_code, reply.json()["response"]["score"]) == (status, stored)
    zero = await client.post("responses", json={"id": "zero", "learner": "ann", "item": "i5", "score": -0.0})
    assert b'"score":0.0' in zero.content
    regraded = await client.post("responses/r-0/regrade", json={"score": -0.0, "reason": "a penalty"})
    assert regraded.status_code == 200
    assert (await client.post("responses", json={"learner": "ann", "item": "i5", "score": 2.001})).status_code == 422
    assert await find_differences(database_of(client)) == []


@pytest.mark.parametrize(
    ("limit", "what"),
    [("MOST_SKILLS", "skills"), ("MOST_ITEMS", "items"), ("MOST_FOUNDATIONS", "pairs of a skill and one")],
)
async def test_catalogue_that_is_too_large_for_a_course_is_refused_with_the_number_that_fits(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, limit: str, what: str
) -> None:
    before = await everything(client)

    def foundations(skill: str) -> set[str]:
        direct = before.skills[skill]["prerequisites"]
        return set(direct).union(*map(foundations, direct))

    pairs = sum(len(foundations(skill)) for skill in before.skills)
    have = {"MOST_SKILLS": len(before.skills), "MOST_ITEMS": len(before.items), "MOST_FOUNDATIONS": pairs}[limit]
    # Three skills in a row are three pairs.
    chain = [{"id": f"new-{n}", "prerequisites": [f"new-{n - 1}"] if n else []} for n in range(3)]
    more = {"skills": chain, "items": [{"id": f"new-{n}", "skills": []} for n in range(3)]}
    monkeypatch.setattr(catalogue_service, limit, have + 2)
    reply = await put(client, **more)
    assert (reply.status_code, reply.json()["code"]) == (422, "invalid")
    [error] = reply.json()["errors"]
    assert error["pointer"] == ("/items" if limit == "MOST_ITEMS" else "/skills")
    assert error["detail"].startswith(f"{have + 3} {what}")
    assert error["detail"].endswith(f"at most {have + 2}")
    assert await everything(client) == before
    monkeypatch.setattr(catalogue_service, limit, have + 3)
    assert (await put(client, **more)).status_code == 200


async def test_number_of_choices_is_the_guessing_of_an_item_without_parameters(client: httpx.AsyncClient) -> None:
    known = {"model": "3PL", "a": 1, "b": 0, "c": 0.2}
    given: list[dict[str, Any]] = [
        {"id": "c-1", "skills": ["add"], "choices": 4.0},
        {"id": "c-2", "skills": ["add"], "choices": 4, "parameters": known},
        {"id": "c-3", "skills": ["add"]},
    ]
    await put(client, items=given)
    course_model = await database_of(client).read(read_course_model, 1, COURSE)
    numbers = [course_model.item_numbers[item["id"]] for item in given]
    assert course_model.parameters.items.guessing[numbers].tolist() == [0.25, 0.2, 0.0]
    catalogue = await database_of(client).read(read_catalogue, 1, COURSE)
    guessed, _ = build_items(catalogue, replace(NO_VALUES, population=Population(guessing=0.3)))
    assert guessed.guessing[numbers].tolist() == [0.25, 0.2, 0.3]
    assert (await client.get("items")).json()["data"][0]["choices"] == 4
    assert (await put(client, items=[{"id": "c-1", "skills": ["add"], "choices": 1}])).status_code == 422
