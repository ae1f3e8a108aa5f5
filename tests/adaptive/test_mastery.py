"""What the number of mastery is allowed to say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.filter import initial
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


@given(st.floats(0.05, 0.95))
def test_the_interval_shrinks_with_evidence(mastery: float) -> None:
    """Not beyond .97: there a Beta of little weight has all its mass at 1 (docs/models.md, "How sure")."""
    low, high = interval(np.full(len(EVIDENCE), mastery), EVIDENCE)
    assert (np.diff(high - low) < 0).all()


def test_the_interval_by_hand() -> None:
    """Mastery .5 without evidence is a Beta(1, 1): .05 to .95. With two answers Beta(2, 2): 3x² - 2x³ = .05."""
    low, high = interval(np.array([0.5, 0.5]), np.array([0, 2]))
    np.testing.assert_allclose(low, [0.05, 0.1353503], atol=1e-6)
    np.testing.assert_allclose(high, [0.95, 0.8646497], atol=1e-6)


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


NEVER = pytest.mark.xfail(
    strict=True, reason="the answers of an able learner say nothing, and mastery falls to P(T) / (P(T) + P(F))"
)


@pytest.mark.parametrize(
    ("prior", "learn", "forget"),
    [
        (0.41, 0.24, 0.001),
        (0.41, 0.24, 0.03),
        (0.02, 0.005, 0.001),
        (0.98, 0.6, 0.06),
        pytest.param(0.41, 0.24, 0.06, marks=NEVER),
        pytest.param(0.02, 0.005, 0.03, marks=NEVER),
    ],
)
def test_somebody_always_right_passes_the_line(prior: float, learn: float, forget: float) -> None:
    """With every rate within the bounds of calibration, else practice of that skill never ends."""
    parameters = course(tree([[]], prior=[prior], learn=[learn], forget=[forget]), bank([[0]]))
    states, _ = replay(parameters, log_of([[(0, 1.0)] * 60]))
    assert states.attained[0, 0]


CLIMBS = pytest.mark.xfail(
    strict=True, reason="a low ability explains the wrong answers, and P(T) lifts the mastery with each of them"
)


@pytest.mark.parametrize(
    ("learn", "forget"),
    [
        (0.24, 0.03),
        (0.05, 0.001),
        pytest.param(0.24, 0.01, marks=CLIMBS),
        pytest.param(0.6, 0.03, marks=CLIMBS),
    ],
)
def test_somebody_always_wrong_is_never_mastered(learn: float, forget: float) -> None:
    parameters = course(tree([[]], learn=[learn], forget=[forget]), bank([[0]]))
    states, _ = replay(parameters, log_of([[(0, 0.0)] * 60]))
    assert not states.attained[0, 0]


@CLIMBS
def test_forty_wrong_answers_do_not_raise_the_mastery() -> None:
    """With the defaults: .41 at first, .86 after forty wrong answers."""
    parameters = course(tree([[]]), bank([[0]]))
    states, _ = replay(parameters, log_of([[(0, 0.0)] * 40]))
    assert states.mastery[0, 0] < 0.5
