"""How many exercises are left: against the engine let loose, monotone, and honest where no end is to be seen."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.parameters import Parameters
from app.adaptive.practice import forecast as forecasts
from app.adaptive.practice.forecast import forecast, passage_times, secured_lines
from app.adaptive.practice.skills import goal_skills, judge_skills
from app.adaptive.tracing.filter import initial_states, predict_score, update_states
from tests.adaptive.worlds import course, frozen, make_items, random_course, random_states, tree
from tests.gate.examples import examples

seeds = st.integers(0, 2**32 - 1)


def one_skill(prior: float = 0.2, p_learn: float = 0.3, p_forget: float = 0.02) -> Parameters:
    """One skill with one item, of a learner about whom nothing else is in doubt."""
    still = {"ability_variance": 1e-9, "daily_effect_variance": 1e-9, "skill_drift": 0.0}
    return course(
        tree([[]], prior=[prior], p_learn=[p_learn], p_forget=[p_forget]), make_items([[0]], intercept=[0.3]), **still
    )


@pytest.mark.parametrize(("prior", "p_learn", "p_forget"), [(0.2, 0.3, 0.02), (0.7, 0.1, 0.005), (0.05, 0.5, 0.03)])
def test_forecast_equals_the_mean_of_simulated_learners(prior: float, p_learn: float, p_forget: float) -> None:
    """4,000 learners who answer as the engine predicts; grid and interpolation cost a few per cent."""
    parameters = one_skill(prior, p_learn, p_forget)
    many = 4000
    states, rng = initial_states(parameters, many), np.random.default_rng(1)
    everybody, item = np.arange(many), np.zeros(many, dtype=np.int64)
    taken = np.full(many, -1)
    for answers in range(300):
        done = (states.mastery[:, 0] >= 0.9) & (states.responses[:, 0] >= 3) & (taken < 0)
        taken[done] = answers
        if (taken >= 0).all():
            break
        right = rng.random(many) < predict_score(parameters, states, everybody, item)
        states, _ = update_states(parameters, states, item, right.astype(np.float64), np.zeros(many))
    found = forecast(parameters, initial_states(parameters, 1), np.array([0]), 0.9)
    assert found is not None
    assert abs(found.mean / taken.mean() - 1) < 0.1
    assert np.mean((taken >= np.floor(found.low)) & (taken <= np.ceil(found.high))) > 0.88


@pytest.mark.parametrize(("prior", "p_learn", "p_forget"), [(0.2, 0.3, 0.02), (0.7, 0.1, 0.005), (0.05, 0.5, 0.03)])
def test_forecast_counts_a_prerequisite_until_it_is_secured(prior: float, p_learn: float, p_forget: float) -> None:
    """Likewise, up to a line that falls while trust is earned."""
    parameters = one_skill(prior, p_learn, p_forget)
    many = 4000
    states, rng = initial_states(parameters, many), np.random.default_rng(2)
    everybody, item = np.arange(many), np.zeros(many, dtype=np.int64)
    taken = np.full(many, -1)
    for answers in range(300):
        taken[judge_skills(parameters, states).secured[:, 0] & (taken < 0)] = answers
        if (taken >= 0).all():
            break
        right = rng.random(many) < predict_score(parameters, states, everybody, item)
        states, _ = update_states(parameters, states, item, right.astype(np.float64), np.zeros(many))
    one = initial_states(parameters, 1)
    mean, variance, reached = passage_times(parameters, one, np.array([0]), secured_lines(parameters, one))
    assert reached[0]
    assert abs(mean[0] / taken.mean() - 1) < 0.1
    assert abs(np.sqrt(variance[0]) / taken.std() - 1) < 0.2


@given(seeds, st.integers(0, 40))
@examples(40)
def test_secured_lines_are_those_of_the_policy(seed: int, more: int) -> None:
    parameters = frozen(random_course(seed, skills=5, items=15))
    states = frozen(random_states(parameters, seed, learners=1, longest=20))
    line = secured_lines(parameters, states)[more]
    later = replace(states, responses=states.responses + more)
    for there, found in ((line + 1e-9, True), (line - 1e-9, False)):
        possible = (there >= 0) & (there <= 1)
        secured = judge_skills(parameters, replace(later, mastery=np.clip(there, 0, 1)[None])).secured[0]
        assert (secured[possible] == found).all()


def test_forecast_of_a_reached_goal_is_zero() -> None:
    parameters = one_skill()
    states = initial_states(parameters, 1)
    known = replace(states, mastery=np.array([[0.95]]), responses=np.array([[3]]))
    found = forecast(parameters, known, np.array([0]), 0.9)
    assert found is not None
    assert (found.mean, found.low, found.high) == (0.0, 0.0, 0.0)
    # Certain, but on a single answer: two more.
    sure = replace(known, responses=np.array([[1]]))
    found = forecast(parameters, sure, np.array([0]), 0.9)
    assert found is not None
    assert found.mean == 2.0


def test_forecast_of_a_goal_out_of_reach_is_missing() -> None:
    parameters = one_skill(p_forget=0.05, p_learn=0.2)
    # Always right, mastery settles at .2 / .25.
    assert forecast(parameters, initial_states(parameters, 1), np.array([0]), 0.99) is None
    without_items = course(tree([[], []]), make_items([[0]]))
    assert forecast(without_items, initial_states(without_items, 1), np.array([0, 1]), 0.9) is None


def test_forecast_includes_prerequisites() -> None:
    parameters = course(tree([[], [0]], prior=[0.1, 0.1]), make_items([[0], [0], [1], [1]]))
    states = initial_states(parameters, 1)
    first, both = [forecast(parameters, states, np.array([skill]), 0.9) for skill in (0, 1)]
    assert first is not None
    assert both is not None
    assert both.mean > first.mean + 2


@given(seeds)
@examples(40)
def test_forecast_is_finite_and_grows_with_the_goal(seed: int) -> None:
    parameters = frozen(random_course(seed, skills=5, items=15))
    states = frozen(random_states(parameters, seed, learners=1, longest=20))
    rng = np.random.default_rng(seed)
    goal = rng.permutation(5)[:2]
    some, less, lower = [forecast(parameters, states, *asked) for asked in ((goal, 0.8), (goal[:1], 0.8), (goal, 0.7))]
    if some is None:
        return
    assert np.isfinite([some.mean, some.low, some.high]).all()
    assert 0 <= some.low <= some.mean
    assert some.low <= some.high
    assert (some.mean == 0) == (not goal_skills(parameters, states, goal, 0.8)[0].any())
    assert less is not None
    assert less.mean <= some.mean + 1e-9
    assert lower is not None
    assert lower.mean <= some.mean + 1e-9


def test_forecast_of_more_skills_than_it_can_count_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = course(tree([[]] * 3), make_items([[0], [1], [2]]))
    states, goal = initial_states(parameters, 1), np.arange(3)
    assert forecast(parameters, states, goal, 0.9) is not None
    monkeypatch.setattr(forecasts, "LARGEST_GOAL", 2)
    assert forecast(parameters, states, goal, 0.9) is None
    assert forecast(parameters, states, goal[:2], 0.9) is not None
