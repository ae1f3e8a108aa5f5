"""Deciding on responses is pure: it changes nothing it was given, and the same facts lead to the same decision."""

import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import Connection

from app.adaptive.state import States
from app.services.options import RecommendationOptions
from app.services.responses import NewResponse, record
from app.services.responses.decide import make_decision
from app.services.responses.present import build_outcomes
from app.services.responses.read import read_known, read_stored, triage
from app.services.responses.types import AcceptedResponse, Known
from tests.client import CATALOGUE, COURSE, RunAndUndo, make_response, rolled_back_runs
from tests.gate.examples import examples

ITEMS = [item["id"] for item in CATALOGUE["items"]]

rows = st.tuples(st.sampled_from(["ann", "bob", "Zoë"]), st.sampled_from(ITEMS), st.integers(0, 6), st.booleans())
groups = st.lists(rows, min_size=1, max_size=8)
law = examples(30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@pytest.fixture
def run_and_undo(database_url: str) -> Iterator[RunAndUndo]:
    with rolled_back_runs(database_url) as once:
        yield once


def to_responses(name: str, group: Sequence[tuple[str, str, int, bool]]) -> list[NewResponse]:
    return [
        make_response(f"{name}-{number}", learner, item, minute, correct=correct)
        for number, (learner, item, minute, correct) in enumerate(group)
    ]


def facts(db: Connection, before: list[NewResponse], responses: list[NewResponse]) -> Known:
    """What a decision on `responses` rests on after `before`, of which some may be later."""
    record(db, before)
    stored = read_stored(db, 1, COURSE, responses)
    accepted = [verdict for verdict in triage(db, stored, responses) if isinstance(verdict, AcceptedResponse)]
    assert len(accepted) == len(responses)
    return read_known(db, stored, accepted)


def content(known: Known) -> bytes:
    """All that a decision must not change."""
    return pickle.dumps((known.learners, vars(known.states), known.responses, known.recent, known.checkpoint_sets))


def check(run_and_undo: RunAndUndo, before: list[NewResponse], responses: list[NewResponse]) -> None:
    known = run_and_undo(lambda db: facts(db, before, responses))
    given_facts = content(known)
    first = build_outcomes(make_decision(known))
    assert content(known) == given_facts
    assert build_outcomes(make_decision(known)) == first
    # And it is what is written.
    told = run_and_undo(lambda db: (record(db, before), record(db, responses))[1])
    assert [result.outcome for result in told] == [first[response.id] for response in responses]


@law
@given(before=groups, group=groups)
def test_decision_changes_no_argument_and_equals_what_is_recorded(
    run_and_undo: RunAndUndo, before: Any, group: Any
) -> None:
    check(run_and_undo, to_responses("before", before), to_responses("now", group))


def test_decision_on_options_and_late_responses_needs_no_database(run_and_undo: RunAndUndo) -> None:
    options = RecommendationOptions(repeat_after=2, switch_after=2, why_not=("i1",), forecast=True, prefetch=True)
    before = to_responses("before", [("ann", "i1", 5, True), ("ann", "i2", 6, True), ("bob", "i3", 5, False)])
    late = to_responses("late", [("ann", "i4", 1, True), ("bob", "i1", 2, True), ("ann", "i6", 0, False)])
    check(run_and_undo, before, [replace(response, next=options) for response in late])


@pytest.mark.controls
def test_law_of_decisions_notices_one_that_changes_its_facts(
    run_and_undo: RunAndUndo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(States, "copy", lambda states: states)
    group = to_responses("now", [("ann", "i1", 0, True)])
    with pytest.raises(AssertionError):
        check(run_and_undo, [], group)
