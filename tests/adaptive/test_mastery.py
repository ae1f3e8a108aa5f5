"""What the number of mastery is allowed to say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.filter import fade, initial
from app.adaptive.mastery import STATUSES, interval, is_mastered, status
from app.adaptive.replay import replay
from tests.adaptive.worlds import bank, course, log_of, tree

EVIDENCE = np.array([0, 1, 2, 3, 5, 10, 50, 500, 5000])


@given(st.floats(0, 1))
def test_the_interval_holds_the_mastery(mastery: float) -> None:
    values = np.full(len(EVIDENCE), mastery)
    low, high = interval(values, EVIDENCE)
    assert np.isfinite([low, high]).all()
    assert ((low >= 0) & (low <= values) & (values <= high) & (high <= 1)).all()


@given(st.floats(0.0, 1.0))
def test_the_interval_shrinks_with_evidence(mastery: float) -> None:
    low, high = interval(np.full(len(EVIDENCE), mastery), EVIDENCE)
    assert (np.diff(high - low) < 0).all()


@pytest.mark.parametrize(
    ("mastery", "evidence", "attained", "expected"),
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
def test_status(mastery: float, evidence: int, attained: bool, expected: str) -> None:
    found = status(np.array([mastery]), np.array([evidence]), np.array([attained]))
    assert STATUSES[found[0]] == expected
    assert is_mastered(np.array([mastery]), np.array([evidence]))[0] == (expected == "mastered")


def test_attained_is_kept() -> None:
    """Mastered once, then wrong: decayed, and mastered again later."""
    parameters = course(tree([[]]), bank([[0]]))
    words = []
    states = initial(parameters, 1)
    for score in [1.0] * 8 + [0.0] * 4 + [1.0] * 8:
        states, _ = replay(parameters, log_of([[(0, score)]]), states)
        words.append(STATUSES[status(states.mastery, states.evidence, states.attained)[0, 0]])
    assert list(dict.fromkeys(words)) == ["insufficient", "developing", "mastered", "decayed"]
    assert words[-1] == "mastered"


def test_a_pause_makes_decayed_and_answers_make_mastered() -> None:
    """What is stored after the last answer stays mastered; what is read later is not."""
    parameters = course(tree([[]]), bank([[0]]))
    states, _ = replay(parameters, replace(log_of([[(0, 1.0)] * 8]), times=np.full(8, 20_000.0)))
    year = fade(parameters, states, np.array([20_365.0]))
    again, _ = replay(parameters, replace(log_of([[(0, 1.0)] * 12]), times=np.full(12, 20_365.0)), states)
    words = [STATUSES[status(s.mastery, s.evidence, s.attained)[0, 0]] for s in (states, year, again)]
    assert words == ["mastered", "decayed", "mastered"]


@pytest.mark.parametrize(
    ("prior", "learn", "forget"),
    [
        (0.36, 0.40, 0.02),
        (0.36, 0.24, 0.001),
        (0.02, 0.05, 0.001),
        (0.02, 0.05, 0.05 / 12),
        (0.98, 0.6, 0.05),
    ],
)
def test_somebody_always_right_passes_the_line(prior: float, learn: float, forget: float) -> None:
    """With every rate within the bounds of calibration, else practice of that skill never ends."""
    parameters = course(tree([[]], prior=[prior], learn=[learn], forget=[forget]), bank([[0]]))
    states, _ = replay(parameters, log_of([[(0, 1.0)] * 100]))
    assert states.attained[0, 0]


@pytest.mark.parametrize(("learn", "forget"), [(0.40, 0.02), (0.24, 0.01), (0.6, 0.001), (0.05, 0.001)])
def test_wrong_answers_never_raise_the_mastery(learn: float, forget: float) -> None:
    """However low the ability gets that explains them: P(T) counts by the score."""
    parameters = course(tree([[]], learn=[learn], forget=[forget]), bank([[0]]))
    states, before = initial(parameters, 1), 1.0
    for _ in range(60):
        states, _ = replay(parameters, log_of([[(0, 0.0)]]), states)
        assert states.mastery[0, 0] <= before
        before = states.mastery[0, 0]


def test_a_prerequisite_is_informed_no_more_than_knowing_the_skill_would() -> None:
    """Knowing s for certain justifies r / (r + .2 (1 - r)); many right answers on s must not go far beyond."""
    parameters = course(tree([[], [0]]), bank([[0], [1]]))
    prior = parameters.skills.prior[0]
    states, _ = replay(parameters, log_of([[(1, 1.0)] * 20]))
    assert prior < states.mastery[0, 0] <= prior / (prior + 0.2 * (1 - prior))
