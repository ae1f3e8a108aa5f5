"""How sure the engine is of an ability and of a mastery: exact where that can be computed, sane everywhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.parameters import Parameters
from app.adaptive.state import States
from app.adaptive.tracing.filter import initial_states
from app.adaptive.tracing.mastery import mastery_interval
from app.adaptive.tracing.uncertainty import autocovariance_sum, disturbance, standard_error
from tests.adaptive.worlds import course, make_items, random_course, random_states, tree

ENDS = st.sampled_from([0.0, 1.0])


@given(st.integers(0, 40), st.integers(0, 1000))
def test_autocovariance_sum_equals_the_double_sum(count: int, thousandths: int) -> None:
    retention = thousandths / 1000
    slow = sum(retention ** abs(i - j) for i in range(count) for j in range(count) if i != j)
    np.testing.assert_allclose(
        autocovariance_sum(np.array([count]), np.array([retention])), [slow], rtol=2e-3, atol=1e-5
    )


def test_disturbance_equals_the_double_sum() -> None:
    """Of one skill: form, the offset at the start, its drift, and whether the skill is known."""
    parameters = course(
        tree([[]], prior=[0.3], p_learn=[0.2], p_forget=[0.01]),
        make_items([[0]]),
        skill_variance=0.2,
        skill_drift=0.01,
        daily_effect_variance=0.4,
        daily_effect_retention=0.9,
        known_shift=1.0,
        unknown_shift=-0.5,
    )
    pairs = [(i, j) for i in range(12) for j in range(12) if i != j]
    slow = sum(
        0.4 * 0.9 ** abs(i - j) + 0.2 + 0.01 * min(i, j) + 0.3 * 0.7 * 1.5**2 * 0.89 ** abs(i - j) for i, j in pairs
    )
    found = disturbance(parameters, np.array([12]), np.array([[12]]))
    np.testing.assert_allclose(found, [slow / 144], rtol=1e-9)


@given(st.integers(0, 2**32 - 1))
def test_standard_error_lies_between_that_of_the_filter_and_that_of_the_prior(seed: int) -> None:
    parameters = random_course(seed)
    states = random_states(parameters, seed, longest=30)
    error = standard_error(parameters, states)
    assert np.isfinite(error).all()
    assert (error >= np.sqrt(states.ability_variance)).all()
    assert (error <= np.sqrt(parameters.population.ability_variance) * (1 + 1e-12)).all()
    alone = np.concatenate([standard_error(parameters, states[row : row + 1]) for row in range(states.count)])
    assert alone.tobytes() == error.tobytes()


@pytest.mark.parametrize("skills", [[], [[]], [[], [0]]])
def test_standard_error_without_answers_is_that_of_the_prior(skills: list[list[int]]) -> None:
    parameters = course(tree(skills), make_items([[]]))
    np.testing.assert_array_equal(standard_error(parameters, initial_states(parameters, 2)), [0.76**0.5] * 2)


@pytest.mark.parametrize("retention", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("variance", [0.0, 1e-12, 0.76, 100.0])
def test_standard_error_is_finite_at_the_extremes(retention: float, variance: float) -> None:
    """With 0, 1, 5,000 and a million answers, learning that is certain or impossible, all variances or none."""
    skills = tree([[], []], prior=[0.0, 1.0], p_learn=[0.0, 1.0], p_forget=[0.0, 1.0])
    population = {"ability_variance": variance, "daily_effect_variance": variance, "daily_effect_retention": retention}
    parameters = course(skills, make_items([[0], [1]]), **population)
    states = initial_states(parameters, 4)
    states.total_responses[:] = [0, 1, 5_000, 1_000_000]
    states.responses[:] = np.array([[0, 0], [1, 0], [5_000, 0], [500_000, 500_000]])
    states.ability_variance[:] /= 1 + states.total_responses
    error = standard_error(parameters, states)
    assert np.isfinite(error).all()
    assert (error <= np.sqrt(variance) + 1e-12).all()


def test_standard_error_falls_with_answers_and_never_to_zero() -> None:
    """A long good day is no proof of ability: with a form that stays, the form's share of the doubt stays."""
    parameters = course(tree([[]]), make_items([[]]), daily_effect_variance=0.3, daily_effect_retention=0.999999)
    states = after(parameters, [1, 10, 100, 1000])
    error = standard_error(parameters, states)
    assert (np.diff(error) < 0).all()
    assert error[-1] > np.sqrt(1 / (1 / 0.76 + 1 / 0.3)) - 1e-3


def after(parameters: Parameters, total_responses: list[int]) -> States:
    """Learners whose answers told 1/4 each, as the filter counts."""
    states = initial_states(parameters, len(total_responses))
    states.total_responses[:] = total_responses
    states.ability_variance[:] = 1 / (1 / parameters.population.ability_variance + states.total_responses / 4)
    return states


@given(st.floats(0, 1) | ENDS, st.integers(0, 5000), ENDS, st.integers(0, 1000))
def test_mastery_interval_holds_the_mastery_and_stays_within_0_and_1(
    mastery: float, responses: int, has_prerequisites: float, thousandths: int
) -> None:
    """It holds the mastery, lies within 0 and 1, is never certain, and follows the mastery."""
    values, counts = np.array([mastery, min(mastery + 0.001, 1.0)]), np.full(2, responses)
    low, high = mastery_interval(values, counts, has_prerequisites, thousandths / 1000)
    assert ((low >= 0) & (low <= values) & (values <= high) & (high <= 1)).all()
    assert ((high - low) > 0.005).all()
    assert low[0] <= low[1]
    assert high[0] <= high[1]
    plain = mastery_interval(values, counts)
    assert (low <= plain[0]).all()
    assert (high >= plain[1]).all()


def test_mastery_interval_of_a_skill_with_prerequisites_widens_towards_0() -> None:
    """Skill 1 builds on 0, and that widens its interval towards 0 only."""
    skills = tree([[], [0], []])
    np.testing.assert_array_equal(skills.has_prerequisites, [0, 1, 0])
    low, high = mastery_interval(np.full(3, 0.8), np.full(3, 5), skills.has_prerequisites)
    assert low[1] < low[0] == low[2]
    assert high[1] == high[0] == high[2]


def test_overlap_of_skills_equals_a_calculation_by_hand() -> None:
    """Skill 0 is asked for alone, with one other and with two; 1 with one and with two; 2 with two; 3 never."""
    parameters = course(tree([[], [], [], []]), make_items([[0], [0, 1], [2, 1, 0], []]))
    np.testing.assert_allclose(parameters.overlap, [(0 + 1 / 2 + 2 / 3) / 3, (1 / 2 + 2 / 3) / 2, 2 / 3, 0])
    assert course(tree([]), make_items([[]])).overlap.shape == (0,)


def test_mastery_interval_equals_a_calculation_by_hand() -> None:
    """P(known) = .5 after 10 answers: e^±1.01 to one on the odds, .01 added on the far side."""
    low, high = mastery_interval(np.array([0.5]), np.array([10]))
    np.testing.assert_allclose(low, 0.5 / (0.5 + 0.51 * np.exp(1.01)), rtol=1e-6)
    np.testing.assert_allclose(high, 0.51 / (0.51 + 0.5 * np.exp(-1.01)), rtol=1e-6)
    low, high = mastery_interval(np.array([0.5]), np.array([10]), 1.0, 0.5)
    np.testing.assert_allclose(low, 0.5 / (0.5 + 0.51 * np.exp(1.01 * (1 + 0.5 * 1.5))), rtol=1e-6)
    np.testing.assert_allclose(high, 0.51 / (0.51 + 0.5 * np.exp(-1.01 * (1 + 1.5 * 0.5 * 0.25))), rtol=1e-6)
