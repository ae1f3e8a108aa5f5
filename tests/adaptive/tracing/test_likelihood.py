"""The likelihoods: derivatives, totals and information."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.numerics import logit
from app.adaptive.parameters import Items
from app.adaptive.tracing.likelihood import expected_score, likelihood, slopes
from tests.adaptive.reference import Item
from tests.adaptive.worlds import make_items, random_course

ONE = np.zeros(1, dtype=np.int64)

binary = st.builds(lambda c, d: make_items([[]], guessing=[c], upper=[d]), st.floats(0, 0.5), st.floats(0.7, 1.0))
graded = st.lists(st.floats(-3, 3), min_size=1, max_size=5, unique_by=lambda t: round(t, 1)).map(
    lambda thresholds: make_items([[]], thresholds=[sorted(thresholds)])
)
plain = st.just(make_items([[]]))
logits = st.floats(-6, 6)


def log_likelihood(items: Items, x: float, score: float) -> float:
    return float(np.log(likelihood(items, ONE, np.array([x]), np.array([score]))[0]))


def numeric(items: Items, x: float, score: float) -> float:
    step = 1e-5
    return (log_likelihood(items, x + step, score) - log_likelihood(items, x - step, score)) / (2 * step)


@given(st.one_of(plain, binary), logits, st.sampled_from([0.0, 0.3, 0.5, 1.0]))
def test_likelihood_slope_is_the_derivative(items: Items, x: float, score: float) -> None:
    found = slopes(items, ONE, np.array([x]), np.array([score])).gradient[0]
    assert abs(found - numeric(items, x, score)) < 1e-5


@given(graded, logits, st.integers(0, 5))
def test_likelihood_slope_of_a_graded_item_is_the_derivative(items: Items, x: float, category: int) -> None:
    score = min(category / items.max_category[0], 1.0)
    found = slopes(items, ONE, np.array([x]), np.array([score])).gradient[0]
    assert abs(found - numeric(items, x, score)) < 1e-4


@given(st.one_of(plain, binary, graded), logits)
def test_likelihoods_of_all_scores_sum_to_one(items: Items, x: float) -> None:
    max_category = max(int(items.max_category[0]), 1)
    scores = np.arange(max_category + 1) / max_category
    every = np.zeros(max_category + 1, dtype=np.int64)
    chances = likelihood(items, every, np.full(max_category + 1, x), scores)
    assert abs(chances.sum() - 1) < 1e-8
    assert abs((chances * scores).sum() - expected_score(items, ONE, np.array([x]))[0]) < 1e-8


@given(st.one_of(plain, binary, graded), logits)
def test_information_is_the_mean_of_the_squared_slope_over_scores(items: Items, x: float) -> None:
    """Fisher: I = E[(d log p / dx)²] over the scores."""
    max_category = max(int(items.max_category[0]), 1)
    scores = np.arange(max_category + 1) / max_category
    every, at = np.zeros(max_category + 1, dtype=np.int64), np.full(max_category + 1, x)
    found = slopes(items, every, at, scores)
    mean = (likelihood(items, every, at, scores) * found.gradient**2).sum()
    np.testing.assert_allclose(found.information, mean, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("x", [-3.0, 0.0, 2.5])
def test_information_of_a_3pl_item_is_that_of_birnbaum(x: float) -> None:
    """I = ((p - c) / (1 - c))² (1 - p) / p."""
    c = 0.2
    p = c + (1 - c) / (1 + np.exp(-x))
    found = slopes(make_items([[]], guessing=[c]), ONE, np.array([x]), np.ones(1)).information[0]
    assert abs(found - ((p - c) / (1 - c)) ** 2 * (1 - p) / p) < 1e-12


def test_likelihood_of_a_graded_item_equals_a_calculation_by_hand() -> None:
    """Thresholds -1 and 1 at x = 0: 1 - σ(1), σ(1) - σ(-1), σ(-1) = .268941, .462117, .268941."""
    items = make_items([[]] * 3, thresholds=[[-1.0, 1.0]] * 3)
    found = likelihood(items, np.arange(3), np.zeros(3), np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(found, [0.2689414214, 0.4621171573, 0.2689414214], atol=1e-9)


def test_graded_item_with_one_threshold_equals_a_binary_item() -> None:
    both = make_items([[], []], thresholds=[[0.7], [np.inf]], intercept=[0.0, 0.0])
    x = np.linspace(-4, 4, 9)
    for score in (0.0, 1.0):
        scores = np.full(9, score)
        one = likelihood(both, np.zeros(9, dtype=np.int64), x, scores)
        other = likelihood(both, np.ones(9, dtype=np.int64), x - 0.7, scores)
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("x", [-1e4, -800.0, -40.0, 0.0, 40.0, 800.0, 1e4])
@pytest.mark.parametrize("score", [0.0, 1 / 3, 1.0])
def test_likelihood_is_finite_at_extreme_logits(x: float, score: float) -> None:
    parameters = random_course(5, items=30)
    chosen, at = np.arange(30), np.full(30, x)
    scores = np.where((parameters.items.max_category > 0) & (score < 1), 0.0, score)
    chances = likelihood(parameters.items, chosen, at, scores)
    found = slopes(parameters.items, chosen, at, scores)
    expected = expected_score(parameters.items, chosen, at)
    assert (chances >= 1e-9).all()
    assert (chances <= 1).all()
    assert ((expected >= 1e-9) & (expected <= 1 - 1e-9)).all()
    assert np.isfinite(found.gradient).all()
    assert (found.information >= 0).all()
    assert np.isfinite(logit(expected)).all()


@given(st.floats(-6, 6), st.floats(0, 1))
def test_likelihood_of_a_fractional_score_counts_that_share_of_a_success(x: float, score: float) -> None:
    """A fractional score counts as that share of a success: p^y (1 - p)^(1 - y)."""
    found = likelihood(make_items([[]]), ONE, np.array([x]), np.array([score]))[0]
    assert abs(found - Item(0.0, 1.0, 0.0, 1.0, [], []).likelihood(x, score)) < 1e-12
