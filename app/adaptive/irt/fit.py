"""Calibrate a bank: the one entrance."""

from collections import deque
from dataclasses import dataclass, replace

import numpy as np

from app.adaptive.irt.bank import Answers, Bank, Model, check
from app.adaptive.irt.design import design
from app.adaptive.irt.errors import Uncertainty, standard_errors, uncertainty
from app.adaptive.irt.marginal import REMEMBERED, Found, Problem, Remembered, at_bound, grid, maximise
from app.adaptive.irt.parameters import (
    DIFFICULTY,
    DISCRIMINATION,
    GUESSING,
    UPPER,
    Layout,
    Priors,
    belief,
    layout,
    limits,
    reported,
    start,
)
from app.adaptive.types import Booleans, Floats, Integers

# An item with fewer answers is not called calibrated, whatever its estimate.
FEWEST_ANSWERS = 30
# What a Newton step still promises, in log-likelihood for each parameter, when the search ends: an error of .0001 SE.
TOLERANCE = 1e-9
MOST_ITERATIONS = 500
NODES = 61
COARSE_NODES = 21
ROUGH = 1e-5


@dataclass(frozen=True)
class Calibration:
    """A calibrated bank of I items, on a scale where ability is N(0, `ability_variance`).

    The variance is 1 unless the slope is common (then the slope is 1). `standard_errors` has the shape of `bank`, 0
    for what was not estimated or ended at a bound. `log_likelihood` is marginal and without the prior.
    `converged`: the search ended because nothing was left to gain. `calibrated` (I,): enough answers, every category
    seen, no discrimination or difficulty at a bound; the others rest on their prior and are not to be relied on.
    """

    bank: Bank
    standard_errors: Bank
    ability_variance: float
    ability_variance_error: float
    log_likelihood: float
    iterations: int
    converged: bool
    calibrated: Booleans


def calibrate(
    answers: Answers,
    grades: Integers,
    model: Model,
    priors: Priors | None = None,
    nodes: int = NODES,
    tolerance: float = TOLERANCE,
    most: int = MOST_ITERATIONS,
) -> Calibration:
    """Marginal maximum likelihood, or with priors the posterior mode (Bock & Aitkin 1981; Mislevy 1986).

    `grades` (I,) is the highest category of each item. `nodes` quadrature nodes from -6 to 6 standard deviations of
    ability. Items that cannot be calibrated get the default prior wherever `priors` (default: `Priors()`) has none, so
    that every number is finite and bounded. Deterministic. Raises ValueError for answers that do not fit the items.
    """
    check(answers, grades, model)
    shape = layout(model, grades)
    categories = shape.steps + 1
    reached = np.bincount(answers.items * categories + answers.categories, minlength=len(grades) * categories)
    counts = reached.reshape(len(grades), categories).astype(np.float64)
    enough = calibratable(shape, counts)
    prior = belief(shape, priors or Priors(), ~enough)
    problem = Problem(shape, prior, design(answers, len(grades), categories), grid(nodes))
    bounds = limits(shape)
    found = search(problem, start(shape, prior, counts), bounds, tolerance, most)
    known = uncertainty(problem, answers, found, bounds)
    return summary(problem, found, enough, known, bounds)


def calibratable(shape: Layout, counts: Floats) -> Booleans:
    """(I,): which items have enough answers, and some in each of their categories."""
    seen = (counts > 0).sum(axis=1) == shape.grades + 1
    return np.asarray((counts.sum(axis=1) >= FEWEST_ANSWERS) & seen)


def search(problem: Problem, vector: Floats, bounds: tuple[Floats, Floats], tolerance: float, most: int) -> Found:
    """Find the neighbourhood with a third of the nodes, then the maximum with all."""
    if len(problem.grid.nodes) <= 2 * COARSE_NODES:
        return maximise(problem, vector, bounds, tolerance, most)
    remembered: Remembered = deque(maxlen=REMEMBERED)
    coarse = problem._replace(grid=grid(COARSE_NODES))
    rough = maximise(coarse, vector, bounds, ROUGH, most, remembered)
    found = maximise(problem, rough.vector, bounds, tolerance, most, remembered)
    return found._replace(iterations=rough.iterations + found.iterations)


def summary(
    problem: Problem, found: Found, enough: Booleans, known: Uncertainty, bounds: tuple[Floats, Floats]
) -> Calibration:
    """What was found, on the public scale and within the public bounds."""
    shape = problem.shape
    free = shape.spread(found.vector)
    bank = reported(shape, free)
    errors = standard_errors(shape, free, known)
    # exp and expit may miss their bounds by the last bit.
    limited = np.clip(bank.difficulty, -DIFFICULTY, DIFFICULTY)
    slopes, guesses = np.clip(bank.discrimination, *DISCRIMINATION), np.minimum(bank.guessing, GUESSING[1])
    ceilings = np.maximum(bank.upper, UPPER[0])
    variance, variance_error = 1.0, 0.0
    if shape.common:
        variance = float(np.exp(2 * found.vector[-1]))
        variance_error = 2 * variance * known.common**0.5
    return Calibration(
        bank=replace(bank, discrimination=slopes, difficulty=limited, guessing=guesses, upper=ceilings),
        standard_errors=replace(errors, difficulty=np.where(limited == bank.difficulty, errors.difficulty, 0.0)),
        ability_variance=variance,
        ability_variance_error=variance_error,
        log_likelihood=found.likelihood,
        iterations=found.iterations,
        converged=found.converged,
        calibrated=enough & (limited == bank.difficulty).all(axis=1) & ~slope_at_bound(shape, found.vector, bounds),
    )


def slope_at_bound(shape: Layout, vector: Floats, bounds: tuple[Floats, Floats]) -> Booleans:
    """(I,): whether the discrimination is a limit, not an estimate."""
    slopes = shape.place[:, 0]
    return at_bound(vector, bounds)[slopes]
