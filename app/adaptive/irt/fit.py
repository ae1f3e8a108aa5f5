"""Calibrate a bank: the one entrance."""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.irt.design import build_matrices
from app.adaptive.irt.item_models import Model
from app.adaptive.irt.items import ItemBank, ItemResponses, check_responses
from app.adaptive.irt.marginal import (
    HISTORY_LENGTH,
    CurvatureHistory,
    LikelihoodProblem,
    Optimum,
    grid,
    maximise_likelihood,
    parameters_at_bound,
)
from app.adaptive.irt.parameters import (
    DIFFICULTY,
    DISCRIMINATION,
    GUESSING,
    UPPER,
    Layout,
    Priors,
    build_layout,
    build_prior,
    parameter_bounds,
    starting_values,
    to_item_bank,
)
from app.adaptive.irt.standard_errors import ParameterCovariance, parameter_covariance, standard_errors

# An item with fewer answers is not called calibrated, whatever its estimate.
MIN_RESPONSES = 30
# What a Newton step still promises, in log-likelihood for each parameter, when the search ends: an error of .0001 SE.
TOLERANCE = 1e-9
MAX_ITERATIONS = 500
NODES = 61
COARSE_NODES = 21
COARSE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class ItemCalibration:
    """A calibrated bank of I items, on a scale where ability is N(0, `ability_variance`).

    The variance is 1 unless the slope is common (then the slope is 1). `standard_errors` has the shape of `item_bank`,
    0 for what was not estimated or ended at a bound. `log_likelihood` is marginal and without the prior.
    `converged`: the search ended because nothing was left to gain. `calibrated` (I,): enough answers, every category
    seen, no discrimination or difficulty at a bound; the others rest on their prior and are not to be relied on.
    """

    item_bank: ItemBank
    standard_errors: ItemBank
    ability_variance: float
    ability_variance_error: float
    log_likelihood: float
    iterations: int
    converged: bool
    calibrated: Booleans


def calibrate_items(
    responses: ItemResponses,
    max_category: Integers,
    model: Model,
    priors: Priors | None = None,
    nodes: int = NODES,
    tolerance: float = TOLERANCE,
    most: int = MAX_ITERATIONS,
) -> ItemCalibration:
    """Marginal maximum likelihood, or with priors the posterior mode (Bock & Aitkin 1981; Mislevy 1986).

    `max_category` (I,) is the highest category of each item. `nodes` quadrature nodes from -6 to 6 standard deviations
    of ability. Items that cannot be calibrated get the default prior wherever `priors` (default: `Priors()`) has none,
    so that every number is finite and bounded. Deterministic. Raises ValueError for responses that fit no item.
    """
    problem, start, enough = _build_problem(responses, max_category, model, priors or Priors(), nodes)
    bounds = parameter_bounds(problem.shape)
    optimum = _find_optimum(problem, start, bounds, tolerance, most)
    covariance = parameter_covariance(problem, responses, optimum, bounds)
    return _build_calibration(problem, optimum, enough, covariance, bounds)


def calibrate_rasch(responses: ItemResponses, items: int, nodes: int, tolerance: float) -> tuple[ItemBank, float]:
    """Return the Rasch items of `calibrate_items` with default priors, and the variance of the ability.

    Standard errors, which take most of the time where items are many, are left out.
    """
    problem, start, _ = _build_problem(responses, np.ones(items, dtype=np.int64), "rasch", Priors(), nodes)
    optimum = _find_optimum(problem, start, parameter_bounds(problem.shape), tolerance, MAX_ITERATIONS)
    item_bank = to_item_bank(problem.shape, problem.shape.spread(optimum.vector))
    return item_bank, float(np.exp(2 * optimum.vector[-1]))


def _build_problem(
    responses: ItemResponses, max_category: Integers, model: Model, priors: Priors, nodes: int
) -> tuple[LikelihoodProblem, Floats, Booleans]:
    """What is to be maximised, where to begin, and which items (I,) have enough responses."""
    check_responses(responses, max_category, model)
    shape = build_layout(model, max_category)
    categories = shape.steps + 1
    reached = np.bincount(responses.items * categories + responses.categories, minlength=len(max_category) * categories)
    counts = reached.reshape(len(max_category), categories).astype(np.float64)
    enough = _have_enough_responses(shape, counts)
    prior = build_prior(shape, priors, ~enough)
    problem = LikelihoodProblem(shape, prior, build_matrices(responses, len(max_category), categories), grid(nodes))
    return problem, starting_values(shape, prior, counts), enough


def _have_enough_responses(shape: Layout, counts: Floats) -> Booleans:
    """(I,): which items have enough answers, and some in each of their categories."""
    seen = (counts > 0).sum(axis=1) == shape.max_category + 1
    return np.asarray((counts.sum(axis=1) >= MIN_RESPONSES) & seen)


def _find_optimum(
    problem: LikelihoodProblem, vector: Floats, bounds: tuple[Floats, Floats], tolerance: float, most: int
) -> Optimum:
    """Find the neighbourhood with a third of the nodes, then the maximum with all."""
    if len(problem.grid.nodes) <= 2 * COARSE_NODES:
        return maximise_likelihood(problem, vector, bounds, tolerance, most)
    history: CurvatureHistory = deque(maxlen=HISTORY_LENGTH)
    coarse = problem._replace(grid=grid(COARSE_NODES))
    rough = maximise_likelihood(coarse, vector, bounds, COARSE_TOLERANCE, most, history)
    optimum = maximise_likelihood(problem, rough.vector, bounds, tolerance, most, history)
    return optimum._replace(iterations=rough.iterations + optimum.iterations)


def _build_calibration(
    problem: LikelihoodProblem,
    optimum: Optimum,
    enough: Booleans,
    covariance: ParameterCovariance,
    bounds: tuple[Floats, Floats],
) -> ItemCalibration:
    """What was found, on the public scale and within the public bounds."""
    shape = problem.shape
    free = shape.spread(optimum.vector)
    item_bank = to_item_bank(shape, free)
    errors = standard_errors(shape, free, covariance)
    # exp and expit may miss their bounds by the last bit.
    limited = np.clip(item_bank.difficulty, -DIFFICULTY, DIFFICULTY)
    slopes, guesses = np.clip(item_bank.discrimination, *DISCRIMINATION), np.minimum(item_bank.guessing, GUESSING[1])
    ceilings = np.maximum(item_bank.upper, UPPER[0])
    variance, variance_error = 1.0, 0.0
    if shape.common:
        variance = float(np.exp(2 * optimum.vector[-1]))
        variance_error = 2 * variance * covariance.common**0.5
    return ItemCalibration(
        item_bank=replace(item_bank, discrimination=slopes, difficulty=limited, guessing=guesses, upper=ceilings),
        standard_errors=replace(errors, difficulty=np.where(limited == item_bank.difficulty, errors.difficulty, 0.0)),
        ability_variance=variance,
        ability_variance_error=variance_error,
        log_likelihood=optimum.likelihood,
        iterations=optimum.iterations,
        converged=optimum.converged,
        calibrated=enough
        & (limited == item_bank.difficulty).all(axis=1)
        & ~_slope_at_bound(shape, optimum.vector, bounds),
    )


def _slope_at_bound(shape: Layout, vector: Floats, bounds: tuple[Floats, Floats]) -> Booleans:
    """(I,): whether the discrimination is a limit, not an estimate."""
    slopes = shape.index[:, 0]
    return parameters_at_bound(vector, bounds)[slopes]
