"""What the number of mastery is allowed to say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.state import States
from app.adaptive.tracing.filter import fade_states, initial_states
from app.adaptive.tracing.mastery import STATUSES, becomes_mastered, mastery_interval, mastery_status
from app.adaptive.tracing.replay import replay
from tests.adaptive.worlds import course, log_of, make_items, tree

EVIDENCE = np.array([0, 1, 2, 3, 5, 10, 50, 500, 5000])


@given(st.floats(0, 1))
def test_interval_holds_the_mastery(mastery: float) -> None:
    values = np.full(len(EVIDENCE), mastery)
    low, high = mastery_interval(values, EVIDENCE)
    assert np.isfinite([low, high]).all()
    assert ((low >= 0) & (low <= values) & (values <= high) & (high <= 1)).all()


@given(st.floats(0.0, 1.0))
def test_interval_shrinks_with_responses(mastery: float) -> None:
    low, high = mastery_interval(np.full(len(EVIDENCE), mastery), EVIDENCE)
    assert (np.diff(high - low) < 0).all()


@pytest.mark.parametrize(
    ("mastery", "responses", "attained", "mastered", "expected"),
    [
        (0.99, 0, False, False, "insufficient"),
        (0.99, 2, False, False, "insufficient"),
        (0.1, 3, False, False, "developing"),
        (0.99, 30, False, False, "developing"),
        (0.9, 3, False, True, "mastered"),
        (0.7, 3, True, True, "mastered"),
        (0.6999, 9, True, True, "decayed"),
        (0.99, 9, True, False, "decayed"),
    ],
)
def test_status_follows_from_mastery_responses_and_attainment(
    mastery: float, responses: int, attained: bool, mastered: bool, expected: str
) -> None:
    found = mastery_status(np.array([mastery]), np.array([responses]), np.array([attained]), np.array([mastered]))
    assert STATUSES[found[0]] == expected


def becomes(mastery: float, responses: int, cusum: float, uncertainty: float = 0.0, p_learn: float = 0.2) -> bool:
    values = (np.array([value]) for value in (mastery, responses, cusum, uncertainty, p_learn))
    return bool(becomes_mastered(*values)[0])


def test_mastered_takes_a_high_mastery_three_answers_and_evidence_of_nine_to_one() -> None:
    nine = float(np.log(9))
    assert becomes(0.901, 3, nine + 1e-9)
    assert not becomes(0.899, 3, 9.0)
    assert not becomes(0.999, 2, 9.0)
    assert not becomes(0.999, 3, nine - 1e-9)


@given(st.floats(0, 1), st.integers(0, 40), st.floats(0, 9), st.floats(1e-9, 1), st.floats(0.005, 0.95))
def test_uncertain_ability_never_makes_mastered_easier(
    mastery: float, responses: int, cusum: float, uncertainty: float, p_learn: float
) -> None:
    """Least of all where nothing is learnt, so that all answers share the error."""
    if becomes(mastery, responses, cusum, uncertainty, p_learn):
        assert becomes(mastery, responses, cusum, 0.0, p_learn)
    assert not becomes(0.93, 15, 3.0, 0.4, 0.012)
    assert becomes(0.93, 15, 3.0, 0.4, 0.5)


def test_one_item_again_and_again_is_not_enough_where_there_are_others() -> None:
    two = course(tree([[]]), make_items([[0], [0]]))
    same_item, _ = replay(two, log_of([[(0, 1.0)] * 40]))
    both, _ = replay(two, log_of([[(0, 1.0), (1, 1.0)] * 20]))
    assert (same_item.mastered[0, 0], both.mastered[0, 0]) == (False, True)
    assert same_item.cusum[0, 0] < both.cusum[0, 0]


def test_answer_tells_of_one_skill_what_the_others_leave() -> None:
    """A wrong answer on two skills blames the doubtful one; a known one keeps its name."""
    parameters = course(tree([[], []]), make_items([[0], [0], [0, 1]]))
    states, _ = replay(parameters, log_of([[(0, 1.0), (1, 1.0)] * 6 + [(2, 0.0)] * 12]))
    assert states.mastery[0, 0] > 0.5
    assert states.mastery[0, 1] < 0.05


def test_lucky_answer_teaches_hardly_anything() -> None:
    """After many failures one right answer leaves a skill in doubt, however large P(T)."""
    parameters = course(tree([[]], p_learn=[0.9]), make_items([[0]] * 3))
    states, _ = replay(parameters, log_of([[(0, 0.0), (1, 0.0), (2, 0.0)] * 4 + [(0, 1.0)]]))
    assert states.mastery[0, 0] < 0.2


def status(states: States) -> str:
    return STATUSES[mastery_status(states.mastery, states.responses, states.attained, states.mastered)[0, 0]]


def test_status_is_decayed_after_wrong_answers_and_mastered_again_after_right_ones() -> None:
    """Mastered once, then wrong: decayed, and mastered again later."""
    parameters = course(tree([[]]), make_items([[0]] * 40))
    words = []
    states = initial_states(parameters, 1)
    for item, score in enumerate([1.0] * 8 + [0.0] * 4 + [1.0] * 16):
        states, _ = replay(parameters, log_of([[(item, score)]]), states)
        words.append(status(states))
    assert list(dict.fromkeys(words)) == ["insufficient", "developing", "mastered", "decayed"]
    assert words[-1] == "mastered"


def test_status_is_decayed_after_a_pause_and_mastered_after_answers() -> None:
    """What is stored after the last answer stays mastered; what is read later is not."""
    parameters = course(tree([[]]), make_items([[0]] * 24))
    states, _ = replay(parameters, replace(log_of([[(i, 1.0) for i in range(8)]]), times=np.full(8, 20_000.0)))
    year = fade_states(parameters, states, np.array([20_365.0]))
    later = [(i, 1.0) for i in range(8, 24)]
    again, _ = replay(parameters, replace(log_of([later]), times=np.full(16, 20_365.0)), states)
    words = [status(each) for each in (states, year, again)]
    assert words == ["mastered", "decayed", "mastered"]


@pytest.mark.parametrize(
    ("prior", "p_learn", "p_forget"),
    [
        (0.36, 0.40, 0.02),
        (0.36, 0.24, 0.001),
        (0.02, 0.05, 0.001),
        (0.02, 0.05, 0.05 / 12),
        (0.02, 0.012, 0.001),
        (0.98, 0.6, 0.05),
        (0.98, 0.95, 0.05),
    ],
)
def test_learner_who_is_always_right_passes_the_mastery_line(prior: float, p_learn: float, p_forget: float) -> None:
    """With every rate within the bounds of calibration, else practice of that skill never ends."""
    rates = tree([[]], prior=[prior], p_learn=[p_learn], p_forget=[p_forget])
    parameters = course(rates, make_items([[0]] * 4))
    states, _ = replay(parameters, log_of([[(i % 4, 1.0) for i in range(100)]]))
    assert states.attained[0, 0]


@pytest.mark.parametrize(("p_learn", "p_forget"), [(0.40, 0.02), (0.24, 0.01), (0.6, 0.001), (0.05, 0.001)])
def test_wrong_answers_never_raise_the_mastery(p_learn: float, p_forget: float) -> None:
    """However low the ability gets that explains them: P(T) counts by the score."""
    parameters = course(tree([[]], p_learn=[p_learn], p_forget=[p_forget]), make_items([[0]]))
    states, before = initial_states(parameters, 1), 1.0
    for _ in range(60):
        states, _ = replay(parameters, log_of([[(0, 0.0)]]), states)
        assert states.mastery[0, 0] <= before
        before = states.mastery[0, 0]


def test_prerequisite_rises_no_more_than_by_certain_knowledge_of_the_skill() -> None:
    """Knowing s for certain justifies r / (r + .2 (1 - r)); many right answers on s must not go far beyond."""
    parameters = course(tree([[], [0]]), make_items([[0], [1]]))
    prior = parameters.skills.prior[0]
    states, _ = replay(parameters, log_of([[(1, 1.0)] * 20]))
    assert prior < states.mastery[0, 0] <= prior / (prior + 0.2 * (1 - prior))
