"""Wishes for the next exercise, through all layers: kept, chosen again, told alike; what was foretold comes true."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from string import Formatter
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from pydantic_core import from_json
from sqlalchemy import Connection, select, text

from app import texts
from app.adaptive.cat import RULES
from app.adaptive.practice.branches import CODES
from app.adaptive.practice.explain import EXPLANATION_CODES
from app.models import Recommendation
from app.queries.learners import page_learners
from app.schemas.options import NextIn, OfferQuery, PreviewQuery
from app.services.catalogue import upsert
from app.services.corrections import correct_response
from app.services.course_model import CourseModel, LruCache
from app.services.options import RecommendationOptions, options_from_row, options_to_row
from app.services.recommendations import offer_recommendations, preview_recommendations
from app.services.responses import NewResponse, RecordedResponse, record
from app.services.verification import verify_learners, verify_offers
from tests.client import (
    CATALOGUE,
    COURSE,
    MINUTE_US,
    NEW_YEAR_US,
    RunAndUndo,
    app_of,
    find_differences,
    make_response,
    minute_text,
    rolled_back_runs,
    school,
    small_course,
)
from tests.gate.examples import examples

ITEMS = [item["id"] for item in CATALOGUE["items"]]
SKILLS = [skill["id"] for skill in CATALOGUE["skills"]]
LABELS = {"i1": ("easy", "choice"), "i2": ("easy", "text"), "i3": ("hard", "text"), "i5": ("hard", "choice")}
LABELLED = {
    **CATALOGUE,
    "items": [
        {**item, "tags": [LABELS[item["id"]][0]], "kind": LABELS[item["id"]][1]} if item["id"] in LABELS else item
        for item in CATALOGUE["items"]
    ],
}
NOW = NEW_YEAR_US + 100 * MINUTE_US

some_items = st.lists(st.sampled_from([*ITEMS, "none"]), max_size=3).map(tuple)
some_skills = st.lists(st.sampled_from([*SKILLS, "none"]), max_size=3).map(tuple)
wishes = st.builds(
    RecommendationOptions,
    skill=st.just(()) | some_skills,
    tag=st.just(()) | st.lists(st.sampled_from(["easy", "hard", "none"]), max_size=2).map(tuple),
    kind=st.just(()) | st.sampled_from([("choice",), ("text", "choice")]),
    avoid=st.just(()) | some_items,
    repeat_after=st.none() | st.integers(1, 4),
    repeat_after_days=st.none() | st.sampled_from([0.001, 0.01, 30.0]),
    goal=st.just(()) | some_skills,
    target=st.sampled_from([0.5, 0.9, 0.97]),
    switch_after=st.none() | st.integers(1, 3),
    review=st.sampled_from([0.0, 0.5, 1.0]),
    explore=st.sampled_from([0.0, 0.25, 1.0]),
    forecast=st.booleans(),
    why_not=st.just(()) | some_items,
    language=st.sampled_from(["en", "de"]),
    expires_in=st.none() | st.sampled_from([1, 3600]),
)
rows = st.tuples(st.sampled_from(["ann", "bob"]), st.sampled_from(ITEMS), st.integers(0, 6), st.booleans())
histories = st.lists(st.tuples(rows, st.none() | wishes), min_size=1, max_size=8).map(
    lambda listed: [
        replace(make_response(f"{n * 7919 % 1000:03d}", who, item, minute, correct=good), next=wanted)
        for n, ((who, item, minute, good), wanted) in enumerate(listed)
    ]
)
law = examples(20, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def labelled_course(db: Connection) -> None:
    small_course(db)
    upsert(db, 1, COURSE, LABELLED, 2)


@pytest.fixture
def run_and_undo(database_url: str) -> Iterator[RunAndUndo]:
    """Do something with the small course, whose items have labels, and undo it."""
    with rolled_back_runs(database_url, labelled_course) as once:
        yield once


def outcomes_of(results: Sequence[Any]) -> list[bytes]:
    assert all(isinstance(result, RecordedResponse) for result in results), results
    return [result.outcome for result in results]


def found_by_verification(db: Connection) -> list[str]:
    """What `replay --verify` would say."""
    shelf: LruCache[CourseModel] = LruCache()
    pages = verify_learners(db, 1, COURSE, "", shelf)[0], verify_offers(db, 1, COURSE, "", shelf)[0]
    return [each for page in pages for each in page.differences]


@law
@given(history=histories, cuts=st.lists(st.integers(0, 8)))
def test_outcomes_with_any_options_do_not_depend_on_how_answers_are_grouped(
    run_and_undo: RunAndUndo, history: list[NewResponse], cuts: list[int]
) -> None:
    def after(groups: Sequence[Sequence[NewResponse]]) -> Callable[[Connection], Any]:
        return lambda db: (
            [outcome for group in groups for outcome in outcomes_of(record(db, group))],
            page_learners(db, 1, COURSE, None, 100),
        )

    places = sorted({0, *(cut for cut in cuts if cut < len(history)), len(history)})
    groups = [history[a:b] for a, b in pairwise(places)]
    assert run_and_undo(after(groups)) == run_and_undo(after([[each] for each in history]))


@law
@given(history=histories, wanted=wishes, void=st.booleans())
def test_verification_chooses_again_what_any_options_chose(
    run_and_undo: RunAndUndo, history: list[NewResponse], wanted: RecommendationOptions, void: bool
) -> None:
    def live(db: Connection) -> None:
        first = outcomes_of(record(db, history))
        if void:
            correct_response(db, 1, COURSE, history[0].id, None, "misprint", "key", 1)
        for row in page_learners(db, 1, COURSE, None, 100):
            offer_recommendations(db, 1, COURSE, row.id, 2, wanted, NOW)
            shown = preview_recommendations(db, 1, COURSE, row.id, 2, wanted, NOW)
            assert shown == preview_recommendations(db, 1, COURSE, row.id, 2, wanted, NOW)
        again = record(db, history)
        assert [result.outcome for result in again if isinstance(result, RecordedResponse)] == first
        assert {result.status for result in again if isinstance(result, RecordedResponse)} == {"duplicate"}
        assert found_by_verification(db) == []

    run_and_undo(live)


def turned_round(wanted: RecommendationOptions) -> RecommendationOptions:
    """The same options with each list in the other order, and a name in it twice."""
    changed: dict[str, Any] = {}
    for field in fields(wanted):
        if isinstance(value := getattr(wanted, field.name), tuple):
            changed[field.name] = (*reversed(value), *value[:1])
    return replace(wanted, **changed)


SENT_AGAIN: dict[str, Callable[[RecommendationOptions], RecommendationOptions | None]] = {
    "nothing": lambda _: None,
    "the same": lambda wanted: wanted,
    "turned round": turned_round,
    "other extras": lambda wanted: replace(wanted, forecast=True, why_not=("i1",), expires_in=7),
}


@law
@given(history=histories, wanted=wishes, branch=st.booleans(), again=st.sampled_from(sorted(SENT_AGAIN)))
def test_prefetched_recommendation_is_the_one_that_follows(
    run_and_undo: RunAndUndo, history: list[NewResponse], wanted: RecommendationOptions, branch: bool, again: str
) -> None:
    """An answer at the moment of the offer, right or wrong: the same exercise for the same reason, to the bit."""
    wanted = replace(wanted, prefetch=True)

    def live(db: Connection) -> None:
        for earlier in history:
            outcomes_of(record(db, [replace(earlier, learner="ann")]))
        reply = offer_recommendations(db, 1, COURSE, "ann", 2, wanted, NOW)
        if not reply["recommendations"]:
            return
        offered = reply["recommendations"][-1]
        for turn in range(2):
            foretold = offered["if_correct" if branch else "if_wrong"]
            answer = make_response(f"x{turn}", "ann", offered["item"], 100, correct=branch)
            answer = replace(answer, recommendation=offered["id"], received_at=NOW, next=SENT_AGAIN[again](wanted))
            [outcome] = outcomes_of(record(db, [answer]))
            outcome = from_json(outcome)
            assert outcome["offer"] == {"matches": True, "expired": False}
            offered = outcome["next"]
            assert foretold == (offered and {name: offered[name] for name in ("item", "skill", "p_correct", "reason")})
            if offered is None:
                break
        assert found_by_verification(db) == []

    run_and_undo(live)


WISHES_OF_FRONT_ENDS: list[dict[str, Any]] = [
    {},
    {"skill": ["add", "multiply"]},
    {"avoid": ["i6"], "repeat_after": 2},
    {"goal": ["divide"], "target": 0.99, "switch_after": 2, "review": 0.5},
    {"explore": 1.0},
]


async def count_surprises(client: httpx.AsyncClient, wish: dict[str, Any], again: dict[str, Any], answers: int) -> int:
    """How many outcomes differ from what was prefetched, where a front end sends a wish again with each answer."""
    offered, surprises = None, 0
    for number in range(answers):
        if offered is None:
            offer = await client.post("learners/ann/recommendations", params={**wish, "prefetch": True})
            [offered] = offer.json()["recommendations"]
        right = number % 3 > 0
        sent = {"recommendation": offered["id"], "next": again, "occurred_at": minute_text(0)}
        outcome = await send(client, f"r{number:03}", offered["item"], right=right, **sent)
        foretold, offered = offered["if_correct" if right else "if_wrong"], outcome["next"]
        surprises += foretold != (
            offered and {name: offered[name] for name in ("item", "skill", "p_correct", "reason")}
        )
    return surprises


@pytest.mark.parametrize("wish", WISHES_OF_FRONT_ENDS, ids=json.dumps)
def test_wish_sent_again_leaves_what_was_prefetched(database_url: str, wish: dict[str, Any]) -> None:
    again = {**wish, "prefetch": True}
    assert run(database_url, lambda client: count_surprises(client, wish, again, 48)) == 0


@pytest.mark.controls
def test_wish_for_something_else_is_no_repetition(database_url: str) -> None:
    again = {"skill": ["multiply"], "prefetch": True}
    assert run(database_url, lambda client: count_surprises(client, {"explore": 1.0}, again, 48)) > 0


@law
@given(history=histories, wanted=wishes)
def test_filters_exclude_items_from_recommendations(
    run_and_undo: RunAndUndo, history: list[NewResponse], wanted: RecommendationOptions
) -> None:
    history = [replace(each, learner="ann", next=None) for each in history]
    items = {item["id"]: item for item in LABELLED["items"]}

    def live(db: Connection) -> None:
        outcomes_of(record(db, history))
        reply = offer_recommendations(db, 1, COURSE, "ann", 3, wanted, NOW)
        past = sorted(history, key=lambda each: (each.occurred_at, each.id))
        recent = {each.item for each in past[-wanted.repeat_after :]} if wanted.repeat_after else set()
        if wanted.repeat_after_days is not None:
            since = NOW - wanted.repeat_after_days * 24 * 60 * MINUTE_US
            recent |= {each.item for each in past if each.occurred_at > since}
        for each in reply["recommendations"]:
            item = items[each["item"]]
            assert not wanted.skill or each["skill"] in wanted.skill
            assert not wanted.tag or set(item.get("tags", ())) & set(wanted.tag)
            assert not wanted.kind or item.get("kind") in wanted.kind
            assert item["id"] not in {*wanted.avoid, *recent}
        assert len({each["item"] for each in reply["recommendations"]}) == len(reply["recommendations"])
        assert bool(reply["recommendations"]) != ("reason" in reply)
        if reply.get("reason", {}).get("code") == "nothing_eligible":
            used = {name for name in options_to_row(wanted) or {} if getattr(wanted, name)}
            assert reply["reason"].get("filter") in {None, *used}
        assert [each["item"] for each in reply.get("why_not", [])] == list(wanted.why_not)

    run_and_undo(live)


@law
@given(wanted=wishes)
def test_options_are_read_as_they_were_stored(run_and_undo: RunAndUndo, wanted: RecommendationOptions) -> None:
    def live(db: Connection) -> None:
        answer = make_response("a", "ann", "i1", 0, correct=True)
        outcomes_of(record(db, [replace(answer, next=wanted)]))
        kept = db.execute(select(Recommendation.options)).scalar()
        assert kept is None or options_from_row(kept) == wanted

    run_and_undo(live)
    assert options_from_row(options_to_row(wanted)) == wanted
    assert options_from_row(options_to_row(None)) is None


def test_options_have_the_same_names_in_every_schema() -> None:
    names = [field.name for field in fields(RecommendationOptions)]
    assert list(NextIn.model_fields) == names
    assert list(OfferQuery.model_fields) == ["limit", *names]
    assert list(PreviewQuery.model_fields) == ["limit", *names[:-1]]
    assert names[-1] == "expires_in"


# By example, over HTTP


def run(database_url: str, work: Callable[[httpx.AsyncClient], Any]) -> Any:
    async def inside() -> Any:
        async with school(database_url) as client:
            assert (await client.put("catalogue", json=LABELLED)).status_code == 200
            return await work(client)

    return asyncio.run(inside())


async def ask(client: httpx.AsyncClient, **wanted: Any) -> dict[str, Any]:
    reply = await client.get("learners/ann/recommendations", params=wanted)
    assert reply.status_code == 200, reply.text
    result: dict[str, Any] = reply.json()
    return result


async def send(client: httpx.AsyncClient, id_: str, item: str, *, right: bool = True, **more: Any) -> dict[str, Any]:
    body = {"id": id_, "learner": "ann", "item": item, "correct": right, **more}
    reply = await client.post("responses", json=body)
    assert reply.status_code == 201, reply.text
    result: dict[str, Any] = reply.json()
    return result


def test_outcome_says_whether_the_answer_matches_its_offer(database_url: str) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        first = await send(client, "r1", "i1", occurred_at=minute_text(0))
        assert "offer" not in first
        assert "expires_at" not in first["next"]
        fits = await send(client, "r2", first["next"]["item"], recommendation=first["next"]["id"])
        assert fits["offer"] == {"matches": True, "expired": False}
        offered = (await client.post("learners/ann/recommendations", params={"expires_in": 1})).json()[
            "recommendations"
        ][0]
        assert offered["expires_at"].endswith("Z")
        late = await send(client, "r3", "i5", recommendation=offered["id"], occurred_at="2026-11-22T00:00:00Z")
        assert late["offer"]["matches"] == (offered["item"] == "i5")
        held = await send(client, "r4", "i1", next={"expires_in": 60})
        ended = {"recommendation": held["next"]["id"], "occurred_at": held["next"]["expires_at"]}
        assert (await send(client, "r5", "i2", **ended))["offer"]["expired"] is False
        database = app_of(client).state.database
        await database.write(lambda db: db.execute(text("UPDATE recommendation SET expires_at = 1")))
        assert (await send(client, "r6", "i2", recommendation=held["next"]["id"]))["offer"]["expired"] is True

    run(database_url, work)


def test_response_repeated_with_other_options_is_a_conflict(database_url: str) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        body = {"id": "r1", "learner": "ann", "item": "i1", "correct": True, "next": {"skill": ["add"]}}
        first = await client.post("responses", json=body)
        again = await client.post("responses", json=body)
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.content == again.content
        others: list[dict[str, Any]] = [{}, {"next": {}}, {"next": {"skill": ["divide"]}}]
        for other in others:
            refused = await client.post("responses", json={**{k: v for k, v in body.items() if k != "next"}, **other})
            assert (refused.status_code, refused.json()["code"]) == (409, "conflict")

    run(database_url, work)


def test_batch_has_options_for_each_answer(database_url: str) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        answers = [
            {"id": f"r{n}", "learner": "ann", "item": "i1", "correct": True, "next": wanted}
            for n, wanted in enumerate(
                [{"skill": ["divide"]}, {"tag": ["hard"], "kind": ["choice"]}, {"goal": ["none"]}]
            )
        ]
        results = (await client.post("./responses:batch", json={"responses": answers})).json()["results"]
        assert [result["status"] for result in results] == ["created"] * 3
        assert results[0]["next"]["skill"] == "divide"
        assert results[1]["next"]["item"] == "i5"
        assert (results[2]["next"], results[2]["reason"]["filter"]) == (None, "goal")
        assert await find_differences(app_of(client).state.database) == []

    run(database_url, work)


@pytest.mark.parametrize(
    ("wanted", "pointer"),
    [
        ({"target": 0.4}, "/next/target"),
        ({"review": 1.5}, "/next/review"),
        ({"explore": -1}, "/next/explore"),
        ({"repeat_after": 0}, "/next/repeat_after"),
        ({"repeat_after_days": 0}, "/next/repeat_after_days"),
        ({"switch_after": 1.5}, "/next/switch_after"),
        ({"expires_in": 0}, "/next/expires_in"),
        ({"why_not": ["i1"] * 6}, "/next/why_not"),
        ({"language": "fr"}, "/next/language"),
        ({"prefetch": 1}, "/next/prefetch"),
        ({"skil": ["add"]}, "/next/skil"),
        ({"skill": "add"}, "/next/skill"),
    ],
)
def test_options_beyond_a_limit_are_refused_with_their_pointer(
    database_url: str, wanted: dict[str, Any], pointer: str
) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        body = {"id": "r1", "learner": "ann", "item": "i1", "correct": True, "next": wanted}
        refused = await client.post("responses", json=body)
        assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (422, pointer)
        name = pointer.rpartition("/")[2]
        if name not in {"skill", "prefetch"}:
            await send(client, "r2", "i1")
            for method in ("GET", "POST"):
                asked = await client.request(method, "learners/ann/recommendations", params=wanted)
                assert (asked.status_code, asked.json()["errors"][0]["pointer"]) == (422, f"?{name}")

    run(database_url, work)


def test_recommendation_without_eligible_items_has_a_reason(database_url: str) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        empty = client.base_url.join("../nothing/")
        assert (await client.put(empty.join("catalogue"), json={"title": "Nothing yet"})).status_code == 200
        for method in ("GET", "POST"):
            reply = (await client.request(method, empty.join("learners/ann/recommendations"))).json()
            text_ = "This course has no exercises yet."
            assert reply == {"recommendations": [], "reason": {"code": "nothing_eligible", "text": text_}}
        await send(client, "r1", "i1")
        for name, value in (("skill", "none"), ("tag", "none"), ("kind", "none"), ("goal", "none"), ("avoid", ITEMS)):
            reply = await ask(client, **{name: value})
            assert reply["recommendations"] == []
            assert (reply["reason"]["code"], reply["reason"]["filter"]) == ("nothing_eligible", name)
        for number, item in enumerate(ITEMS):
            await send(client, f"s{number}", item, right=False)
        for name, many in (("repeat_after", 8), ("repeat_after_days", 1)):
            assert (await ask(client, **{name: many}))["reason"]["filter"] == name
        # Prerequisites that nobody has practised: there is an exercise all the same, and it says so.
        asked = (await ask(client, skill="divide"))["recommendations"][0]
        assert (asked["skill"], asked["reason"]["code"]) == ("divide", "strengthen_skill")
        for number in range(30):
            await send(client, f"t{number}", ["i1", "i2"][number % 2])
        assert (await ask(client, goal="add", forecast="true")) == {
            "recommendations": [],
            "reason": {"code": "goal_reached", "text": texts.say("en", "goal_reached", target="90 %")},
            "forecast": {"exercises": 0.0, "interval": [0, 0]},
        }
        assert (await ask(client, skill="add"))["reason"]["text"] == "Every skill that was asked for is mastered."
        assert (await ask(client, goal="add", target=0.99, forecast="true"))["forecast"] is None
        one = {"skills": [{"id": "s"}], "items": [{"id": "only", "skills": ["s"]}]}
        single = client.base_url.join("../one/")
        await client.put(single.join("catalogue"), json=one)
        body = {"learner": "ann", "item": "only", "correct": False}
        outcome = (await client.post(single.join("responses"), json=body)).json()
        assert outcome["next"]["item"] == "only"
        body["next"] = {"repeat_after": 1}
        outcome = (await client.post(single.join("responses"), json=body)).json()
        assert (outcome["next"], outcome["reason"]["filter"]) == (None, "repeat_after")

    run(database_url, work)


def test_switch_after_changes_the_skill_after_so_many_items_in_a_row(database_url: str) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        flat = {
            "skills": [{"id": s} for s in "abc"],
            "items": [{"id": f"{s}{n}", "skills": [s]} for s in "abc" for n in range(6)],
        }
        course = client.base_url.join("../flat/")
        await client.put(course.join("catalogue"), json=flat)
        item, practised = "a0", ["a"]
        for _ in range(12):
            body = {"learner": "ann", "item": item, "correct": False, "next": {"switch_after": 2}}
            following = (await client.post(course.join("responses"), json=body)).json()["next"]
            item = following["item"]
            practised.append(following["skill"])
        runs = [practised[n : n + 3] for n in range(len(practised) - 2)]
        assert all(len(set(three)) > 1 for three in runs)
        assert await find_differences(app_of(client).state.database, "flat") == []

    run(database_url, work)


def test_recommendation_differs_between_languages_in_its_texts_only(database_url: str) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        await send(client, "r1", "i1")
        asked = {"why_not": ["i1", "i3", "none", "i6"], "prefetch": "true"}
        english, german = [await ask(client, language=language, **asked) for language in ("en", "de")]
        texts_of = [list(sentences(reply)) for reply in (english, german)]
        assert len(texts_of[0]) == len(texts_of[1]) == 7
        assert not set(texts_of[0]) & set(texts_of[1])
        assert without_texts(english) == without_texts(german)
        codes = [each["reason"]["code"] for each in english["why_not"]]
        assert codes == ["just_answered", "prerequisites_missing", "unknown_item", "asks_for_no_skill"]
        assert "“Add”" in english["why_not"][1]["reason"]["text"]
        assert "„Add“" in german["why_not"][1]["reason"]["text"]

    run(database_url, work)


def sentences(told_: Any) -> Iterator[str]:
    """All texts in a reply."""
    if isinstance(told_, dict):
        yield from ([told_["text"]] if "text" in told_ else [])
        for value in told_.values():
            yield from sentences(value)
    elif isinstance(told_, list):
        for value in told_:
            yield from sentences(value)


def without_texts(told_: Any) -> Any:
    """A reply without its texts."""
    if isinstance(told_, dict):
        return {name: without_texts(value) for name, value in told_.items() if name != "text"}
    return [without_texts(value) for value in told_] if isinstance(told_, list) else told_


def test_verification_finds_options_that_were_changed(database_url: str) -> None:
    """The control of verification: what was wanted belongs to what is chosen again."""

    async def work(client: httpx.AsyncClient) -> None:
        database = app_of(client).state.database
        await send(client, "r1", "i1", next={"skill": ["divide"]})
        await client.post("learners/ann/recommendations", params={"skill": "divide"})
        assert await find_differences(database) == []
        kind = "jsonb" if database.dialect == "postgresql" else "text"
        for table in ("response", "recommendation"):
            kept = await database.read(lambda db, t=table: db.execute(text(f"SELECT id, options FROM {t}")).all())
            await database.write(lambda db, t=table: db.execute(text(f"UPDATE {t} SET options = '{{}}'")))
            assert await find_differences(database)
            for id_, wanted in kept:
                value = wanted if isinstance(wanted, str) or wanted is None else json.dumps(wanted)
                await database.write(
                    lambda db, t=table, i=id_, v=value: db.execute(
                        text(f"UPDATE {t} SET options = CAST(:wishes AS {kind}) WHERE id = :id"),
                        {"id": i, "wishes": v},
                    )
                )
            assert await find_differences(database) == []

    run(database_url, work)


def test_propensity_is_stored_with_each_offer(database_url: str) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        await send(client, "r1", "i1", right=False)
        for _ in range(20):
            await client.post("learners/ann/recommendations", params={"explore": 1, "skill": ["add", "divide"]})
        database = app_of(client).state.database
        kept = await database.read(
            lambda db: db.execute(
                select(Recommendation.item_id, Recommendation.propensity).where(Recommendation.response_id.is_(None))
            ).all()
        )
        # i1 was answered last: i2, i5 and i8 are left, each with a third.
        assert {item for item, _ in kept} <= {"i2", "i5", "i8"}
        assert len({item for item, _ in kept}) > 1
        assert {chance for _, chance in kept} == {1 / 3}

    run(database_url, work)


# The texts


def names_in(sentence: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sentence) if name}


@pytest.mark.parametrize("language", texts.LANGUAGES)
def test_texts_have_the_same_names_in_every_language(language: str) -> None:
    english, other = texts.TEXTS["en"], texts.TEXTS[language]
    assert other.keys() == english.keys()
    for key, sentence in english.items():
        assert names_in(other[key]) == names_in(sentence), key
        assert other[key].strip()


def test_text_that_a_language_lacks_is_in_english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(texts.TEXTS, "de", {"goal_reached": "Ziel: {target}"})
    assert texts.say("de", "goal_reached", target="9") == "Ziel: 9"
    assert texts.say("de", "why_not.recommended") == "This exercise is recommended."
    assert texts.say("xx", "why_not.recommended") == "This exercise is recommended."


def test_codes_of_recommendations_have_texts() -> None:
    used = {*CODES, *(f"why_not.{code}" for code in EXPLANATION_CODES), "why_not.recommended", "why_not.unknown_item"}
    assert used <= texts.TEXTS["en"].keys()


def test_codes_of_sessions_have_texts() -> None:
    stops = ("standard_error", "standard_error_change", "classified", "max_items", "max_seconds", "no_items", "ended")
    reasons = (*RULES, "first_item", "pilot_item")
    used = {f"session.stop.{code}" for code in stops} | {f"session.reason.{code}" for code in reasons}
    found = {key for key in texts.TEXTS["en"] if key.startswith(("session.stop.", "session.reason."))}
    assert found == used
