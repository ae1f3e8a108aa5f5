"""Laws of the calibration of item banks: derivatives, recovery, coverage, and whatever answers may come."""

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.arrays import Floats, Integers
from app.adaptive.irt import (
    FLAT,
    ItemBank,
    ItemCalibration,
    ItemResponses,
    Model,
    Priors,
    calibrate_items,
    calibrate_rasch,
    design,
    fit,
    marginal,
    standard_errors,
)
from app.adaptive.irt.item_models import BY_FILE_NAME, ITEM_MODELS, MODELS, CatalogueModel
from app.adaptive.irt.parameters import (
    ParameterPrior,
    build_layout,
    build_prior,
    parameter_bounds,
    starting_values,
    to_item_bank,
)
from tests.adaptive.irt_worlds import long_form, models, random_bank, rmse, sample, seeds, slow_likelihood
from tests.gate.examples import examples

FEW = examples(20)


def problem_of(
    bank: ItemBank, responses: ItemResponses, priors: Priors, nodes: int = 21
) -> tuple[marginal.LikelihoodProblem, Floats]:
    """What `calibrate_items` maximises, and where it starts."""
    shape = build_layout(bank.model, bank.max_category)
    prior = build_prior(shape, priors, np.zeros(bank.count, dtype=np.bool_))
    matrices = design.build_matrices(responses, bank.count, shape.steps + 1)
    counts = np.zeros((bank.count, shape.steps + 1))
    np.add.at(counts, (responses.items, responses.categories), 1)
    return marginal.LikelihoodProblem(shape, prior, matrices, marginal.grid(nodes)), starting_values(
        shape, prior, counts
    )


def slope_of(problem: marginal.LikelihoodProblem, vector: Floats) -> Floats:
    _, _, counts = marginal.evaluate_likelihood(problem, vector)
    return problem.shape.gather(marginal.gradient(problem, vector, counts)[0])


@FEW
@given(models, seeds, st.sampled_from([1.0, 0.4]))
def test_likelihood_equals_that_of_the_textbook(model: Model, seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    bank = random_bank(model, 4, rng)
    responses = sample(bank, 12, rng, share)
    problem, vector = problem_of(bank, responses, FLAT)
    _, likelihood, _ = marginal.evaluate_likelihood(problem, vector)
    found = to_item_bank(problem.shape, problem.shape.spread(vector))
    width = np.exp(vector[-1]) if problem.shape.common else 1.0
    slow = slow_likelihood(found, responses, width * problem.grid.nodes, problem.grid.log_weights)
    assert likelihood == pytest.approx(slow, abs=1e-8)


@FEW
@given(models, seeds, st.sampled_from([FLAT, Priors()]))
def test_gradient_is_the_slope_of_the_likelihood(model: Model, seed: int, priors: Priors) -> None:
    rng = np.random.default_rng(seed)
    bank = random_bank(model, 4, rng)
    problem, vector = problem_of(bank, sample(bank, 30, rng, 0.8), priors)
    vector = vector + rng.normal(0, 0.2, len(vector))
    slope = slope_of(problem, vector)
    for place in range(len(vector)):
        step = np.zeros(len(vector))
        step[place] = 1e-5
        rise = (
            marginal.evaluate_likelihood(problem, vector + step)[0]
            - marginal.evaluate_likelihood(problem, vector - step)[0]
        )
        assert slope[place] == pytest.approx(rise / 2e-5, abs=1e-4)


@FEW
@given(models, seeds, st.sampled_from([1.0, 0.5]))
def test_information_is_the_curvature_of_the_likelihood(model: Model, seed: int, share: float) -> None:
    """Louis (1982) against differences of the gradient, the whole matrix."""
    rng = np.random.default_rng(seed)
    bank = random_bank(model, 4, rng)
    problem, vector = problem_of(bank, sample(bank, 60, rng, share), Priors())
    vector = vector + rng.normal(0, 0.1, len(vector))
    _, _, counts = marginal.evaluate_likelihood(problem, vector)
    found = standard_errors.observed_information(problem, vector, counts)
    expected = np.array(
        [
            (slope_of(problem, vector - step) - slope_of(problem, vector + step)) / 2e-4
            for step in 1e-4 * np.eye(len(vector))
        ]
    )
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@FEW
@given(models, seeds)
def test_fit_of_dense_and_of_sparse_responses_is_the_same(model: Model, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bank = random_bank(model, 5, rng)
    responses = sample(bank, 40, rng, 0.6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(design, "DENSE_SPEED_UP", 1000)
        dense = calibrate_items(responses, bank.max_category, model)
        patch.setattr(design, "DENSE_SPEED_UP", 0)
        sparse = calibrate_items(responses, bank.max_category, model)
    assert_close(dense, sparse, 1e-4)


@FEW
@given(models, seeds)
def test_fit_does_not_depend_on_the_order_of_learners_and_items(model: Model, seed: int) -> None:
    rng = np.random.default_rng(seed)
    bank = random_bank(model, 5, rng)
    matrix = matrix_of(sample(bank, 40, rng, 0.7), 5)
    learners, items = rng.permutation(40), rng.permutation(5)
    found = calibrate_items(long_form(matrix), bank.max_category, model)
    turned = calibrate_items(long_form(matrix[learners][:, items]), bank.max_category, model)
    back = np.argsort(items)
    turned = replace(turned, item_bank=turned.item_bank[back], standard_errors=turned.standard_errors[back])
    assert_close(found, turned, 1e-4)


@examples(200)
@given(models, seeds)
def test_fit_of_random_and_degenerate_banks_is_finite_and_bounded(model: Model, seed: int) -> None:
    """R-21: random banks, with items nobody answered, everybody or nobody got right, one answer, one learner."""
    rng = np.random.default_rng(seed)
    items, learners = int(rng.integers(1, 8)), int(rng.integers(0, 80))
    max_category = rng.integers(1, 5, items) if model in ("graded", "gpcm", "pcm") else np.ones(items, dtype=np.int64)
    matrix = rng.integers(0, max_category + 1, (learners, items))
    matrix[rng.random(matrix.shape) < rng.random()] = -1
    for item in range(items):
        kind = rng.integers(0, 6)
        if kind < 2:
            matrix[:, item] = (
                np.minimum(matrix[:, item], 0) if kind else np.where(matrix[:, item] < 0, -1, max_category[item])
            )
        elif kind == 2:
            matrix[1:, item] = -1
    found = calibrate_items(long_form(matrix), max_category, model, FLAT if rng.random() < 0.5 else None)
    sound(found, long_form(matrix), max_category)


def sound(found: ItemCalibration, responses: ItemResponses, max_category: Integers) -> None:
    """Finite, within the bounds, and not called calibrated without reason."""
    bank = found.item_bank
    for values in (bank, found.standard_errors):
        for array in (values.discrimination, values.difficulty, values.guessing, values.upper):
            assert np.isfinite(array).all()
    assert ((bank.discrimination >= 0.01) & (bank.discrimination <= 6)).all()
    assert (np.abs(bank.difficulty) <= 10).all()
    assert ((bank.guessing >= 0) & (bank.guessing <= 0.5)).all()
    assert ((bank.upper >= 0.51) & (bank.upper <= 1)).all()
    assert np.isfinite([found.log_likelihood, found.ability_variance, found.ability_variance_error]).all()
    for item in range(len(max_category)):
        given = responses.categories[responses.items == item]
        if len(given) < fit.MIN_RESPONSES or len(np.unique(given)) < 2:
            assert not found.calibrated[item]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("priors", [None, FLAT])
def test_item_with_one_answer_is_not_calibrated_and_has_its_prior(model: Model, priors: Priors | None) -> None:
    rng = np.random.default_rng(3)
    bank = random_bank(model, 10, rng)
    matrix = matrix_of(sample(bank, 400, rng), 10)
    matrix[1:, 7] = -1
    found = calibrate_items(long_form(matrix), bank.max_category, model, priors)
    assert not found.calibrated[7]
    if priors is None:
        assert found.calibrated.sum() == 9
    assert abs(np.log(found.item_bank.discrimination[7])) < 0.2
    assert abs(found.item_bank.intercept[7].mean()) < 1.5
    if model in ("2pl", "rasch"):
        assert 1.5 < found.standard_errors.difficulty[7, 0] < 2.5


def test_fit_without_answers_converges_and_calibrates_nothing() -> None:
    nothing = np.zeros(0, dtype=np.int64)
    for model in MODELS:
        found = calibrate_items(
            ItemResponses(np.zeros(1, dtype=np.int64), nothing, nothing), np.ones(3, dtype=np.int64), model
        )
        assert found.converged
        assert found.log_likelihood == 0
        assert not found.calibrated.any()
        np.testing.assert_allclose(found.item_bank.discrimination, 1, atol=1e-6)
        none = calibrate_items(ItemResponses(np.zeros(4, dtype=np.int64), nothing, nothing), nothing, model)
        assert none.item_bank.count == 0


def test_fit_refuses_invalid_answers() -> None:
    one = np.ones(1, dtype=np.int64)
    good = ItemResponses(np.array([0, 1]), 0 * one, one)
    calibrate_items(good, one, "2pl")
    for responses, max_category, model in [
        (good, 2 * one, "2pl"),
        (good, 0 * one, "graded"),
        (good, one, "5pl"),
        (replace(good, items=one), one, "2pl"),
        (replace(good, items=-one), one, "2pl"),
        (replace(good, categories=2 * one), one, "2pl"),
        (replace(good, categories=-one), one, "2pl"),
        (replace(good, starts=np.array([0, 2])), one, "2pl"),
        (replace(good, starts=np.array([0, 2, 1])), one, "2pl"),
    ]:
        with pytest.raises(ValueError, match=r"answer|model|categories"):
            calibrate_items(responses, max_category, model)  # type: ignore[arg-type]


@pytest.mark.statistics
@pytest.mark.parametrize("model", MODELS)
def test_parameters_are_recovered(model: Model) -> None:
    """2,000 learners, 30 items of which each meets half."""
    rng = np.random.default_rng(1)
    bank = random_bank(model, 30, rng)
    found = calibrate_items(sample(bank, 2000, rng, 0.5), bank.max_category, model)
    assert found.converged
    assert rmse(found.item_bank.discrimination, bank.discrimination) < (0.35 if model in ("3pl", "4pl") else 0.15)
    assert rmse(found.item_bank.difficulty, bank.difficulty) < (0.6 if model in ("3pl", "4pl") else 0.3)
    assert found.ability_variance == pytest.approx(1, abs=0.15)


@pytest.mark.statistics
@pytest.mark.parametrize("model", MODELS)
def test_intervals_cover_the_truth(model: Model) -> None:
    """95 % intervals of 15 simulated banks; benchmarks/irt.py does the same with many more."""
    rng = np.random.default_rng(2)
    inside = []
    for _ in range(15):
        bank = random_bank(model, 20, rng)
        found = calibrate_items(sample(bank, 800, rng), bank.max_category, model)
        for name in ("discrimination", "difficulty"):
            error = getattr(found.standard_errors, name)
            miss = np.abs(getattr(found.item_bank, name) - getattr(bank, name))
            inside.append((miss < 1.96 * error)[error > 0])
    assert 0.92 < np.mean(np.concatenate(inside)) < 0.98


@pytest.mark.controls
def test_complete_data_errors_are_noticed_as_too_small() -> None:
    """A control: what the E-step alone claims to know is more than is known."""
    rng = np.random.default_rng(5)
    bank = random_bank("2pl", 6, rng)
    problem, vector = problem_of(bank, sample(bank, 500, rng), Priors(), nodes=61)
    found = marginal.maximise_likelihood(problem, vector, parameter_bounds(problem.shape), 1e-8, 200)
    complete = standard_errors.complete_information(problem, found.vector, found.counts)
    claimed = np.linalg.inv(complete)
    known = standard_errors.full_covariance(problem, found, np.zeros(len(vector), dtype=np.bool_)).items
    assert (known[:, 0, 0] > 1.1 * claimed[:, 0, 0]).all()


@pytest.mark.parametrize("model", MODELS)
def test_errors_item_by_item_are_close_to_those_with_all_covariances(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(6)
    bank = random_bank(model, 25, rng)
    responses = sample(bank, 800, rng, 0.8)
    whole = calibrate_items(responses, bank.max_category, model)
    monkeypatch.setattr(standard_errors, "MAX_FULL_PARAMETERS", 0)
    local = calibrate_items(responses, bank.max_category, model)
    for name in ("discrimination", "difficulty"):
        expected = getattr(whole.standard_errors, name)
        np.testing.assert_allclose(getattr(local.standard_errors, name), expected, rtol=0.06, atol=1e-9)
    assert local.ability_variance_error == pytest.approx(whole.ability_variance_error, rel=0.06)


def test_search_that_is_cut_short_reports_no_convergence() -> None:
    rng = np.random.default_rng(7)
    bank = random_bank("3pl", 10, rng)
    assert not calibrate_items(sample(bank, 500, rng), bank.max_category, "3pl", most=2).converged


def test_item_that_is_keyed_wrongly_is_not_calibrated() -> None:
    rng = np.random.default_rng(8)
    bank = random_bank("2pl", 10, rng)
    matrix = matrix_of(sample(bank, 1000, rng), 10)
    matrix[:, 4] = 1 - matrix[:, 4]
    found = calibrate_items(long_form(matrix), bank.max_category, "2pl", FLAT)
    assert not found.calibrated[4]
    assert found.calibrated.sum() == 9


def test_beta_prior_has_its_peak_and_curvature() -> None:
    place = np.full((1, 1), 1.0)
    prior = ParameterPrior(0 * place, 0 * place, 5 * place, 23 * place)
    peak = np.log(5 / 23) * place
    assert prior.gradient(peak)[0, 0] == pytest.approx(0, abs=1e-12)
    bend = (prior.gradient(peak - 1e-5) - prior.gradient(peak + 1e-5)) / 2e-5
    np.testing.assert_allclose(prior.curvature(peak), bend, rtol=1e-6)


def matrix_of(responses: ItemResponses, items: int) -> Integers:
    matrix = np.full((responses.learners, items), -1)
    matrix[responses.rows, responses.items] = responses.categories
    return matrix


def assert_close(one: ItemCalibration, other: ItemCalibration, tolerance: float) -> None:
    for name in ("discrimination", "difficulty", "guessing", "upper"):
        np.testing.assert_allclose(getattr(one.item_bank, name), getattr(other.item_bank, name), atol=20 * tolerance)
        np.testing.assert_allclose(
            getattr(one.standard_errors, name), getattr(other.standard_errors, name), rtol=0.02, atol=20 * tolerance
        )
    assert one.log_likelihood == pytest.approx(other.log_likelihood, abs=tolerance)


def test_table_of_models_has_every_model_once() -> None:
    assert get_args(Model) == MODELS
    assert get_args(CatalogueModel) == tuple(model.catalogue_name for model in ITEM_MODELS)
    assert len(BY_FILE_NAME) == sum(len(model.file_names) for model in ITEM_MODELS)
    assert all(set(model.optional) < set(model.parameters) for model in ITEM_MODELS)


def test_rasch_items_without_standard_errors_are_those_with() -> None:
    responses = sample(random_bank("rasch", 12, np.random.default_rng(3)), 300, np.random.default_rng(4))
    whole = calibrate_items(responses, np.ones(12, dtype=np.int64), "rasch", nodes=31, tolerance=1e-6)
    item_bank, variance = calibrate_rasch(responses, 12, 31, 1e-6)
    assert item_bank.difficulty.tobytes() == whole.item_bank.difficulty.tobytes()
    assert variance == whole.ability_variance
