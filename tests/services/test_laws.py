"""The state belongs to the set of the answers: order of arrival, grouping and detours leave no trace."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from sqlalchemy import Connection

from app.core.errors import ProximaError
from app.core.times import DAY_US, UNDATED_EPOCH_US, to_days
from app.queries.learners import LearnerRow, page_learners
from app.services.corrections import correct_response
from app.services.mastery import learner_mastery
from app.services.responses import NewResponse, RecordedResponse, record
from tests.client import CATALOGUE, COURSE, MINUTE_US, NEW_YEAR_US, RunAndUndo, make_response, rolled_back_runs
from tests.gate.examples import examples

T = TypeVar("T")
LATER = NEW_YEAR_US + 100 * DAY_US


@pytest.fixture
def run_and_undo(database_url: str) -> Iterator[RunAndUndo]:
    """Do something with the small course, and undo it."""
    with rolled_back_runs(database_url) as once:
        yield once


def make(number: int, learner: str, item: str, minute: int, *, correct: bool) -> NewResponse:
    return make_response(f"{number * 7919 % 1000:03d}", learner, item, minute, correct=correct)


rows = st.tuples(
    st.sampled_from(["ann", "bob", "Zoë"]),
    st.sampled_from([item["id"] for item in CATALOGUE["items"]]),
    st.integers(0, 6),
    st.booleans(),
)
histories = st.lists(rows, min_size=1, max_size=14).map(
    lambda listed: [make(n, who, item, minute, correct=good) for n, (who, item, minute, good) in enumerate(listed)]
)
law = examples(60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def outcomes_of(results: Sequence[RecordedResponse | ProximaError]) -> list[bytes]:
    assert all(isinstance(result, RecordedResponse) for result in results), results
    return [result.outcome for result in results if isinstance(result, RecordedResponse)]


def learners(db: Connection) -> list[LearnerRow]:
    return page_learners(db, 1, COURSE, None, 100)


def states(db: Connection) -> dict[str, bytes]:
    return {row.id: row.state for row in learners(db)}


@law
@given(history=histories, data=st.data())
def test_states_do_not_depend_on_the_order_of_arrival(
    run_and_undo: RunAndUndo, history: list[NewResponse], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(history))

    def after(arrivals: Sequence[NewResponse]) -> Callable[[Connection], list[LearnerRow]]:
        def arrive(db: Connection) -> list[LearnerRow]:
            for each in arrivals:
                outcomes_of(record(db, [each]))
            return learners(db)

        return arrive

    assert run_and_undo(after(shuffled)) == run_and_undo(after(history))


@law
@given(history=histories, cuts=st.lists(st.integers(0, 14)))
def test_states_and_outcomes_do_not_depend_on_how_answers_are_grouped(
    run_and_undo: RunAndUndo, history: list[NewResponse], cuts: list[int]
) -> None:
    def after(groups: Sequence[Sequence[NewResponse]]) -> Callable[[Connection], Any]:
        return lambda db: ([outcome for group in groups for outcome in outcomes_of(record(db, group))], learners(db))

    places = sorted({0, *(cut for cut in cuts if cut < len(history)), len(history)})
    groups = [history[a:b] for a, b in pairwise(places)]
    assert run_and_undo(after(groups)) == run_and_undo(after([[each] for each in history]))


@law
@given(history=histories, place=st.integers(0, 13), late=st.integers(0, 13))
def test_state_after_a_void_is_as_if_the_answer_was_never_given(
    run_and_undo: RunAndUndo, history: list[NewResponse], place: int, late: int
) -> None:
    place %= len(history)
    late = max(place + 1, late % (len(history) + 1))

    def voided(db: Connection) -> dict[str, bytes]:
        outcomes_of(record(db, history[:late]))
        correct_response(db, 1, COURSE, history[place].id, None, "misprint", "key", 1)
        if history[late:]:
            outcomes_of(record(db, history[late:]))
        return states(db)

    def never(db: Connection) -> dict[str, bytes]:
        others = [each for each in history if each is not history[place]]
        if others:
            outcomes_of(record(db, others))
        return states(db)

    with_void, without = run_and_undo(voided), run_and_undo(never)
    gone = with_void.keys() - without.keys()
    assert {id_: state for id_, state in with_void.items() if id_ not in gone} == without
    assert gone <= {history[place].learner}


@law
@given(history=histories, place=st.integers(0, 13), late=st.integers(0, 13))
def test_state_after_a_regrade_is_as_if_the_answer_always_had_that_score(
    run_and_undo: RunAndUndo, history: list[NewResponse], place: int, late: int
) -> None:
    place %= len(history)
    late = max(place + 1, late % (len(history) + 1))
    other = not history[place].correct
    highest = {"i5": 2.0, "i8": 3.0}.get(history[place].item, 1.0)

    def regraded(db: Connection) -> dict[str, bytes]:
        outcomes_of(record(db, history[:late]))
        correct_response(db, 1, COURSE, history[place].id, highest * (not other), "again", "key", 1)
        correct_response(db, 1, COURSE, history[place].id, highest * other, "wrong key", "key", 2)
        if history[late:]:
            outcomes_of(record(db, history[late:]))
        return states(db)

    def always(db: Connection) -> dict[str, bytes]:
        outcomes_of(record(db, [*history[:place], replace(history[place], correct=other), *history[place + 1 :]]))
        return states(db)

    assert run_and_undo(regraded) == run_and_undo(always)


@law
@given(history=histories, minute=st.integers(0, 6))
def test_mastery_as_of_a_time_counts_only_the_answers_until_then(
    run_and_undo: RunAndUndo, history: list[NewResponse], minute: int
) -> None:
    moment = NEW_YEAR_US + minute * MINUTE_US
    until = [each for each in history if each.occurred_at <= moment]

    def looked_back(db: Connection) -> list[Any]:
        outcomes_of(record(db, history))
        return [learner_mastery(db, 1, COURSE, row.id, moment, LATER) for row in learners(db)]

    def at_that_time(db: Connection) -> list[Any]:
        if until:
            outcomes_of(record(db, until))
        return [learner_mastery(db, 1, COURSE, row.id, None, moment) for row in learners(db)]

    def known(reports: Sequence[Any]) -> dict[str, Any]:
        met = [report for report in reports if any(row["responses"] for row in report["mastery"])]
        return {report["learner"]: (report["ability"], report["mastery"]) for report in met}

    assert known(run_and_undo(looked_back)) == known(run_and_undo(at_that_time))


@law
@given(history=histories)
def test_mastery_from_a_snapshot_equals_that_from_a_replay(
    run_and_undo: RunAndUndo, history: list[NewResponse]
) -> None:
    def both(db: Connection) -> tuple[list[Any], list[Any]]:
        outcomes_of(record(db, history))
        stored = [learner_mastery(db, 1, COURSE, row.id, None, LATER) for row in learners(db)]
        folded = [learner_mastery(db, 1, COURSE, row.id, LATER, LATER + 1) for row in learners(db)]
        return stored, folded

    stored, folded = run_and_undo(both)
    assert stored == folded


@law
@given(history=histories, first=st.integers(0, 10**6), second=st.integers(0, 10**6))
def test_mastery_and_certainty_never_rise_when_read_later(
    run_and_undo: RunAndUndo, history: list[NewResponse], first: int, second: int
) -> None:
    """No mastery is higher, no ability surer, the later it is read; and it can be said again as of then."""
    sooner, later = (LATER + days * DAY_US for days in sorted((first, second)))

    def both(db: Connection) -> list[list[Any]]:
        outcomes_of(record(db, history))
        ids = [row.id for row in learners(db)]
        return [[learner_mastery(db, 1, COURSE, id_, None, now) for now in (sooner, later)] for id_ in ids]

    for early, late in run_and_undo(both):
        assert late["ability"]["standard_error"] >= early["ability"]["standard_error"]
        assert late["ability"]["theta"] == early["ability"]["theta"]
        for before, after in zip(early["mastery"], late["mastery"], strict=True):
            assert after["mastery"] <= before["mastery"]
            assert after["status"] == before["status"] or after["status"] == "decayed"


@law
@given(history=histories, days=st.integers(0, 10**6))
def test_answers_without_times_never_fade(run_and_undo: RunAndUndo, history: list[NewResponse], days: int) -> None:
    """Imported in an order without times: the same whenever it is read, and as if all had come at once."""
    undated = [
        replace(each, occurred_at=UNDATED_EPOCH_US + place, has_timestamp=False) for place, each in enumerate(history)
    ]
    at_once = [replace(each, occurred_at=NEW_YEAR_US + place) for place, each in enumerate(history)]

    def read(answers: list[NewResponse], now: int) -> list[Any]:
        def work(db: Connection) -> list[Any]:
            outcomes_of(record(db, answers))
            return [learner_mastery(db, 1, COURSE, row.id, None, now) for row in learners(db)]

        return list(run_and_undo(work))

    assert read(undated, LATER + days * DAY_US) == read(undated, UNDATED_EPOCH_US) == read(at_once, NEW_YEAR_US)


@pytest.mark.parametrize(
    ("moment", "days"),
    [
        (0, 0.0),
        (DAY_US // 2, 0.5),
        (UNDATED_EPOCH_US, 0.0),
        (UNDATED_EPOCH_US + 10**12, 0.0),
        (UNDATED_EPOCH_US - 1, 0.0),
        (UNDATED_EPOCH_US + 183 * DAY_US, 11140.0),
        (NEW_YEAR_US, 20089.0),
    ],
)
def test_times_are_converted_to_days(moment: int, days: float) -> None:
    assert to_days(moment) == days
