"""Laws of ability estimation: a proper posterior, the same bits in any batch, the right direction."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.arrays import Integers
from app.adaptive.irt import ItemBank, ItemResponses, Model
from app.adaptive.irt.ability import Abilities, estimate
from tests.adaptive.irt_worlds import long_form, models, random_bank, sample, seeds, textbook
from tests.gate.examples import examples

FEW = examples(30)


def alone(answers: ItemResponses, learner: int) -> ItemResponses:
    here = slice(int(answers.starts[learner]), int(answers.starts[learner + 1]))
    items, categories = answers.items[here], answers.categories[here]
    return ItemResponses(np.array([0, len(items)]), items, categories)


def same(one: Abilities, other: Abilities) -> bool:
    pairs = zip(vars(one).values(), vars(other).values(), strict=True)
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


@FEW
@given(models, seeds)
def test_ability_has_the_same_bits_alone_and_in_a_batch(model: Model, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bank = random_bank(model, 6, rng)
    answers = sample(bank, 5, rng, 0.6)
    together = estimate(bank, answers)
    for learner in range(5):
        single = estimate(bank, alone(answers, learner))
        assert same(single, Abilities(*(value[learner : learner + 1] for value in vars(together).values())))


@FEW
@given(models, seeds)
def test_posterior_of_ability_is_that_of_bayes(model: Model, seed: int) -> None:
    """Against the integral by the textbook's curves on a much finer grid."""
    rng = np.random.default_rng(seed)
    bank = random_bank(model, 6, rng)
    answers = sample(bank, 3, rng)
    found = estimate(bank, answers, 0.3, 1.4)
    points = np.linspace(-7, 7, 561)
    for learner in range(3):
        here = alone(answers, learner)
        weight = np.exp(-((points - 0.3) ** 2) / 2.8)
        for item, category in zip(here.items, here.categories, strict=True):
            weight = weight * np.array([textbook(bank, item, theta)[category] for theta in points])
        mean = (weight * points).sum() / weight.sum()
        error = np.sqrt((weight * (points - mean) ** 2).sum() / weight.sum())
        assert found.ability[learner] == pytest.approx(mean, abs=1e-4)
        assert found.standard_error[learner] == pytest.approx(min(error, 1.4**0.5), abs=1e-4)


@FEW
@given(models, seeds)
def test_better_answer_never_lowers_the_ability(model: Model, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bank = random_bank(model, 6, rng)
    matrix = rng.integers(0, bank.max_category + 1, (8, 6))
    better = matrix.copy()
    item = int(rng.integers(6))
    better[:, item] = np.minimum(better[:, item] + 1, bank.max_category[item])
    before, after = (estimate(bank, long_form(marks)).ability for marks in (matrix, better))
    assert (after >= before - 1e-12).all()
    assert (after > before)[better[:, item] > matrix[:, item]].all()


@FEW
@given(models, st.floats(0.01, 6), st.floats(-10, 10), st.sampled_from([0, 1, 5, 2000]), st.booleans())
def test_ability_is_finite_for_extreme_answers(model: Model, a: float, b: float, length: int, right: bool) -> None:
    bank = one_item(model, a, round(b, 9))
    answers = ItemResponses(np.array([0, length]), np.zeros(length, np.int64), np.full(length, int(right)))
    found = estimate(bank, answers)
    assert np.isfinite(found.ability).all()
    assert (np.abs(found.ability) <= 6).all()
    assert ((found.standard_error >= 0) & (found.standard_error <= 1)).all()


def test_ability_without_answers_is_the_prior() -> None:
    bank = one_item("2pl", 1.0, 0.0)
    nothing = np.zeros(0, np.int64)
    found = estimate(bank, ItemResponses(np.zeros(3, np.int64), nothing, nothing), 0.5, 1.44)
    np.testing.assert_allclose(found.ability, [0.5, 0.5], atol=1e-9)
    np.testing.assert_allclose(found.standard_error, [1.2, 1.2], atol=1e-6)
    assert not found.at_bound.any()
    assert len(estimate(bank, ItemResponses(np.zeros(1, np.int64), nothing, nothing)).ability) == 0


def test_ability_beyond_the_grid_is_reported_as_a_limit() -> None:
    """A thousand right answers to an item of difficulty 8."""
    long = np.zeros(1000, np.int64)
    found = estimate(one_item("2pl", 2.0, 8.0), ItemResponses(np.array([0, 1000]), long, long + 1))
    assert found.at_bound.all()
    assert found.ability[0] == pytest.approx(6, abs=0.1)
    assert not estimate(
        one_item("2pl", 2.0, 0.0), ItemResponses(np.array([0, 5]), long[:5], long[:5] + 1)
    ).at_bound.any()


def test_intervals_cover_the_ability() -> None:
    """90 % intervals of 4,000 learners with 20 items."""
    rng = np.random.default_rng(4)
    bank = random_bank("2pl", 20, rng)
    abilities = rng.normal(0, 1, 4000)
    p = 1 / (1 + np.exp(-bank.discrimination * (abilities[:, None] - bank.difficulty[:, 0])))
    found = estimate(bank, long_form((rng.random(p.shape) < p).astype(np.int64)))
    covered = np.abs(found.ability - abilities) < 1.645 * found.standard_error
    assert 0.885 < covered.mean() < 0.915


def test_ability_refuses_invalid_answers() -> None:
    with pytest.raises(ValueError, match="does not exist"):
        estimate(one_item("2pl", 1.0, 0.0), long_form(np.ones((1, 2), dtype=np.int64)))


def one_item(model: Model, a: float, b: float) -> ItemBank:
    one = np.ones(1)
    max_category: Integers = np.ones(1, dtype=np.int64)
    return ItemBank(
        model, max_category, a * one, b * np.ones((1, 1)), 0.2 * one if model in ("3pl", "4pl") else 0 * one, one
    )
