"""What the number of mastery is allowed to say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.tracing.filter import fade_states, initial_states
from app.adaptive.tracing.mastery import STATUSES, is_mastered, mastery_interval, mastery_status
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
    ("mastery", "responses", "attained", "expected"),
    [
        (0.99, 0, False, "insufficient"),
        (0.99, 2, False, "insufficient"),
        (0.1, 2, False, "insufficient"),
        (0.1, 3, False, "developing"),
        (0.8999, 30, False, "developing"),
        (0.9, 3, False, "mastered"),
        (0.9, 3, True, "mastered"),
        (0.8999, 9, True, "decayed"),
        (0.0, 9, True, "decayed"),
    ],
)
def test_status_follows_from_mastery_responses_and_attainment(
    mastery: float, responses: int, attained: bool, expected: str
) -> None:
    found = mastery_status(np.array([mastery]), np.array([responses]), np.array([attained]))
    assert STATUSES[found[0]] == expected
    assert is_mastered(np.array([mastery]), np.array([responses]))[0] == (expected == "mastered")


def test_status_is_decayed_after_wrong_answers_and_mastered_again_after_right_ones() -> None:
    """Mastered once, then wrong: decayed, and mastered again later."""
    parameters = course(tree([[]]), make_items([[0]]))
    words = []
    states = initial_states(parameters, 1)
    for score in [1.0] * 8 + [0.0] * 4 + [1.0] * 8:
        states, _ = replay(parameters, log_of([[(0, score)]]), states)
        words.append(STATUSES[mastery_status(states.mastery, states.responses, states.attained)[0, 0]])
    assert list(dict.fromkeys(words)) == ["insufficient", "developing", "mastered", "decayed"]
    assert words[-1] == "mastered"


def test_status_is_decayed_after_a_pause_and_mastered_after_answers() -> None:
    """What is stored after the last answer stays mastered; what is read later is not."""
    parameters = course(tree([[]]), make_items([[0]]))
    states, _ = replay(parameters, replace(log_of([[(0, 1.0)] * 8]), times=np.full(8, 20_000.0)))
    year = fade_states(parameters, states, np.array([20_365.0]))
    again, _ = replay(parameters, replace(log_of([[(0, 1.0)] * 12]), times=np.full(12, 20_365.0)), states)
    words = [STATUSES[mastery_status(s.mastery, s.responses, s.attained)[0, 0]] for s in (states, year, again)]
    assert words == ["mastered", "decayed", "mastered"]


@pytest.mark.parametrize(
    ("prior", "p_learn", "p_forget"),
    [
        (0.36, 0.40, 0.02),
        (0.36, 0.24, 0.001),
        (0.02, 0.05, 0.001),
        (0.02, 0.05, 0.05 / 12),
        (0.98, 0.6, 0.05),
    ],
)
def test_learner_who_is_always_right_passes_the_mastery_line(prior: float, p_learn: float, p_forget: float) -> None:
    """With every rate within the bounds of calibration, else practice of that skill never ends."""
    parameters = course(tree([[]], prior=[prior], p_learn=[p_learn], p_forget=[p_forget]), make_items([[0]]))
    states, _ = replay(parameters, log_of([[(0, 1.0)] * 100]))
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
