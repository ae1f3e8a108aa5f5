"""What a session agrees on: the same through JSON, and what cannot be kept is told by the caller's own fields."""

import base64
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sqlalchemy import Connection

from app.adaptive.cat import Plan, find_plan_faults
from app.core.errors import Fault, Invalid
from app.http.problems import faults_in
from app.ims_cat.routes import parse_section
from app.ims_cat.schemas import CatSection, SectionConfiguration
from app.ims_cat.sections import CONFIGURATION, create_section
from app.schemas.sessions import SessionIn
from app.services import item_pools, session_agreement
from app.services.catalogue import upsert
from app.services.session_agreement import POINTERS, decode_agreement, encode_agreement
from app.services.sessions import start_session
from tests.client import NEW_YEAR_US, RunAndUndo, rolled_back_runs, small_course
from tests.gate.examples import examples

COURSE = "bank"
ITEMS = [f"q{number}" for number in range(6)]
BANK: dict[str, Any] = {
    "skills": [{"id": "algebra"}, {"id": "geometry"}],
    "items": [
        {
            "id": item,
            "skills": ["algebra" if number < 3 else "geometry"],
            "tags": ["long"] if number == 2 else [],
            "parameters": {"model": "2PL", "a": 1.0, "b": number / 2 - 1.5},
        }
        for number, item in enumerate(ITEMS)
    ],
}
Json = dict[str, Any]

groups = st.sampled_from(
    [{"skill": "algebra"}, {"skill": "geometry"}, {"skill": "none"}, {"tag": "long"}, {"tag": "x"}]
)
some_items = st.lists(st.sampled_from([*ITEMS, "none"]), min_size=1, max_size=3, unique=True)


def several(*parts: st.SearchStrategy[Json]) -> st.SearchStrategy[list[Json]]:
    """A list of objects, each made up of the parts."""
    merged = st.tuples(*parts).map(lambda found: {name: value for part in found for name, value in part.items()})
    return st.lists(merged, min_size=1, max_size=2)


def some(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.fixed_dictionaries({}, optional=optional)


selections = some(
    rule=st.sampled_from(["max_information", "kullback_leibler", "random"]),
    randomesque=st.sampled_from([1, 3]),
    exposure_control=st.booleans(),
    max_exposure=st.sampled_from([0.3, 1]),
    content=several(groups, st.fixed_dictionaries({"share": st.sampled_from([0, 0.5])})),
    constraints=several(groups, some(min=st.integers(0, 3), max=st.integers(1, 3))),
    enemies=st.just([["q0", "none"], ["q1", "q2"]]),
    first=some_items,
    pilot=st.fixed_dictionaries({"items": some_items, "positions": st.just([1, 3])}),
)
stops = some(
    standard_error=st.just(0.3),
    standard_error_change=st.just(0.1),
    classification=st.just({"cuts": [1, -1]}),
    max_items=st.integers(1, 4),
    min_items=st.integers(1, 4),
).map(lambda stop: {**stop, "max_seconds": 60})
scales = several(groups, st.just({})).map(
    lambda found: [{**group, "id": str(number)} for number, group in enumerate(found)]
)
pools = some(items=some_items, skills=st.just(["algebra"]), tags=st.just(["none"]))
shared = {"selection": selections, "scales": scales, "prior": some(mean=st.sampled_from([0, 1]))}
sessions = st.fixed_dictionaries(
    {"stop": stops},
    optional={
        **shared,
        "pool": pools,
        "learner": st.just("ann"),
        "prior_from_practice": st.booleans(),
        "updates_mastery": st.booleans(),
        "seed": st.integers(0, 3),
        "language": st.sampled_from(["en", "de"]),
    },
)
sections = st.fixed_dictionaries({"pool": st.just(COURSE)}, optional={**shared, "stop": stops, "cut": pools})
law = examples(100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
# A law that is to fail need not be explained.
fails = settings(law, phases=[Phase.generate])


def prepare(db: Connection) -> None:
    small_course(db)
    upsert(db, 1, COURSE, BANK, 1)


@pytest.fixture
def run_and_undo(database_url: str) -> Iterator[RunAndUndo]:
    """Do something with a course that has a bank of items, and undo it."""
    with rolled_back_runs(database_url, prepare) as once:
        yield once


def refuse_session(db: Connection, body: Json, id_: str = "t-1") -> Sequence[Fault]:
    """What is wrong with a session, as its caller is answered; nothing if it was begun."""
    try:
        agreed = decode_agreement(SessionIn.model_validate(body).model_dump(exclude_none=True, exclude={"id"}))
        start_session(db, 1, COURSE, id_, agreed, NEW_YEAR_US)
    except ValidationError as error:
        return check_distinct_faults(faults_in(error, body))
    except Invalid as error:
        return check_distinct_faults(error.faults)
    return ()


def refuse_section(db: Connection, configuration: Json) -> Sequence[Fault]:
    """What is wrong with a section of CAT, by pointers into its configuration; nothing if it was made."""
    encoded = base64.b64encode(json.dumps(configuration).encode()).decode()
    try:
        create_section(db, 1, parse_section(CatSection(sectionConfiguration=encoded)), NEW_YEAR_US)
    except Invalid as error:
        if "no item with known parameters" in error.detail:
            return ()
        faults = check_distinct_faults(error.faults)
        assert all(fault.pointer.startswith(CONFIGURATION) for fault in faults)
        return [Fault(fault.pointer.removeprefix(CONFIGURATION), fault.detail) for fault in faults]
    return ()


def check_distinct_faults(faults: Sequence[Fault]) -> Sequence[Fault]:
    """What was refused has a fault, and each one once."""
    assert faults
    assert len(set(faults)) == len(faults)
    return faults


def check_pointer(body: Any, pointer: str) -> None:
    """It leads to something in the body, or to a member that an object in it lacks."""
    node = body
    for depth, part in enumerate(parts := pointer.split("/")[1:], start=1):
        if isinstance(node, dict) and part not in node:
            assert depth == len(parts), pointer
            return
        node = node[int(part)] if isinstance(node, list) else node[part]


def names_in(schema: Any) -> set[str]:
    """The properties and the values of enumerations in a JSON schema."""
    if isinstance(schema, list):
        return set().union(*map(names_in, schema))
    if not isinstance(schema, dict):
        return set()
    own = {*schema.get("properties", ()), *map(str, schema.get("enum", ()))}
    return own.union(*map(names_in, schema.values()))


def check_words(sentence: str, known: set[str]) -> None:
    """No name of the program that the interface does not have."""
    words = set(re.findall(r"\w+", sentence))
    assert not words & {field.name for field in fields(Plan)} - known, sentence
    assert {word for word in words if "_" in word} <= known, sentence


def check_faults(body: Json, faults: Sequence[Fault], known: set[str]) -> None:
    for fault in faults:
        check_pointer(body, fault.pointer)
        check_words(fault.detail, known)


def session_law(run_and_undo: RunAndUndo, tried: settings = law) -> None:
    """Whatever is wrong with a session is told by a field of the request, in words of the interface."""
    known = names_in(SessionIn.model_json_schema())

    @tried
    @given(body=sessions)
    def run(body: Json) -> None:
        check_faults(body, run_and_undo(lambda db: refuse_session(db, body)), known)

    run()


def section_law(run_and_undo: RunAndUndo, tried: settings = law) -> None:
    """The same of a section of CAT and its configuration."""
    known = names_in(SectionConfiguration.model_json_schema())

    @tried
    @given(configuration=sections)
    def run(configuration: Json) -> None:
        check_faults(configuration, run_and_undo(lambda db: refuse_section(db, configuration)), known)

    run()


LAWS = [session_law, section_law]


@pytest.mark.parametrize("held", LAWS)
def test_refusals_name_the_fields_of_the_caller(run_and_undo: RunAndUndo, held: Callable[..., None]) -> None:
    held(run_and_undo)


@pytest.mark.parametrize("held", LAWS)
def test_law_of_refusals_notices_a_field_of_the_engine_in_a_pointer(
    run_and_undo: RunAndUndo, held: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session_agreement, "POINTERS", {name: f"/plan/{name}" for name in POINTERS})
    with pytest.raises((AssertionError, KeyError)):
        held(run_and_undo, fails)


@pytest.mark.parametrize("held", LAWS)
def test_law_of_refusals_notices_a_word_of_the_engine_in_a_sentence(
    run_and_undo: RunAndUndo, held: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        item_pools,
        "find_plan_faults",
        lambda pool, plan: [
            fault._replace(sentence="needs no sympson_hetter") for fault in find_plan_faults(pool, plan)
        ],
    )
    with pytest.raises(AssertionError, match="sympson_hetter"):
        held(run_and_undo, fails)


@pytest.mark.parametrize("held", LAWS)
def test_law_of_refusals_notices_a_refusal_that_names_no_field(
    run_and_undo: RunAndUndo, held: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise Invalid("the test cannot be held")

    monkeypatch.setattr(item_pools, "find_agreement_faults", refuse)
    with pytest.raises(AssertionError):
        held(run_and_undo, fails)


def test_fields_of_the_engine_have_fields_of_the_caller() -> None:
    assert POINTERS.keys() == {field.name for field in fields(Plan)}
    schema = names_in(SessionIn.model_json_schema())
    assert {part for pointer in POINTERS.values() for part in pointer.split("/")[1:]} <= schema


def test_refusal_names_all_faults_at_once(run_and_undo: RunAndUndo) -> None:
    body = {
        "stop": {"standard_error": 0.3},
        "selection": {"rule": "random", "exposure_control": True, "constraints": [{"tag": "long"}], "first": ["none"]},
        "updates_mastery": True,
    }
    assert {fault.pointer for fault in run_and_undo(lambda db: refuse_session(db, body))} == {
        "/learner",
        "/selection/constraints",
        "/selection/exposure_control",
        "/selection/first/0",
        "/stop/max_items",
    }


def test_refusal_names_an_unknown_item_also_of_a_cached_pool(run_and_undo: RunAndUndo) -> None:
    def twice(db: Connection) -> list[Sequence[Fault]]:
        return [
            refuse_session(db, {"stop": {"max_items": 2}, "selection": {"first": [item]}}, f"t-{item}")
            for item in ("q1", "none")
        ]

    begun, refused = run_and_undo(twice)
    assert (begun, [fault.pointer for fault in refused]) == ((), ["/selection/first/0"])


@examples(200)
@given(body=sessions)
def test_agreement_is_stored_in_the_form_of_the_request(body: Json) -> None:
    try:
        sent = SessionIn.model_validate(body).model_dump(exclude_none=True, exclude={"id"})
    except ValidationError:
        return
    assert json.dumps(encode_agreement(decode_agreement(sent))) == json.dumps(sent)


# As it was stored before there was a type for it.
STORED = """
{"learner": "ann", "stop": {"classification": {"cuts": [0.5, -0.5], "method": "sprt", "confidence": 0.95, "alpha": 0.05,
 "beta": 0.05, "delta": 0.2}, "max_items": 4, "min_items": 1}, "selection": {"rule": "max_information",
 "randomesque": 1, "exposure_control": false, "constraints": [{"tag": "long", "min": 0, "max": 1}],
 "enemies": [["q1", "q2"]], "first": ["q3"], "pilot": {"items": ["new"], "positions": [2, 3]}},
 "pool": {"skills": ["a"]},
 "scales": [{"skill": "a", "id": "s"}], "prior": {"mean": 0.25, "sd": 0.9}, "prior_from_practice": true,
 "updates_mastery": false, "seed": 7, "lifetime_s": 86400}
"""


def test_agreement_of_an_earlier_version_is_read() -> None:
    agreement = decode_agreement(json.loads(STORED))
    assert agreement.selection.pilot == session_agreement.PilotItems(("new",), (2, 3))
    assert agreement.prior == session_agreement.AgreedPrior(0.25, 0.9)
    assert encode_agreement(agreement) == json.loads(STORED)
