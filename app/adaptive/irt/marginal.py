"""The penalised marginal likelihood of the items (Bock & Aitkin 1981) and the search for its maximum.

Every step is the M-step's Newton step (Lange 1995, the gradient algorithm of EM), turned by what the last steps
taught about the true curvature (L-BFGS, Nocedal 1980; for EM Jamshidian & Jennrich 1997), within bounds.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from app.adaptive.arrays import Booleans, Floats
from app.adaptive.irt.curves import log_probabilities
from app.adaptive.irt.design import ResponseMatrices, expected_counts
from app.adaptive.irt.item_models import ASYMPTOTIC
from app.adaptive.irt.items import ItemBank
from app.adaptive.irt.parameters import Layout, ParameterPrior, asymptotes, free_curves, intercepts
from app.adaptive.parameters import to_difficulty

# Values that the curves of one block of items may hold.
LARGEST_BLOCK = 1 << 22
HISTORY_LENGTH = 10
MAX_STEP = 2.0
MAX_HALVINGS = 25
# So near a bound a parameter counts as being there.
BOUND_TOLERANCE = 1e-6
# Where the answers hardly say anything about an asymptote, no long jumps.
ASYMPTOTE_PRECISION = 1.0
ARMIJO_SHARE = 1e-4

# Of the last steps: how the parameters changed, and by how much the gradient fell.
CurvatureHistory = deque[tuple[Floats, Floats]]


class _Grid(NamedTuple):
    """The nodes of the standard normal ability (Q,) and the logarithms of their weights."""

    nodes: Floats
    log_weights: Floats


def grid(nodes: int, widest: float = 6.0) -> _Grid:
    """Equally spaced nodes from -widest to widest standard deviations."""
    points = np.linspace(-widest, widest, nodes)
    density = np.exp(-0.5 * points * points)
    return _Grid(points, np.log(density / density.sum()))


class LikelihoodProblem(NamedTuple):
    """What is maximised."""

    shape: Layout
    prior: ParameterPrior
    matrices: ResponseMatrices
    grid: _Grid


class Optimum(NamedTuple):
    """Where the search ended: the log-likelihood there without the prior, and the expected counts (I, K, Q)."""

    vector: Floats
    likelihood: float
    counts: Floats
    iterations: int
    converged: bool


def free_log_curves(problem: LikelihoodProblem, free: Floats) -> Floats:
    """(I, K, Q)."""
    shape = problem.shape
    a = np.exp(free[:, 0])
    difficulty = to_difficulty(intercepts(shape, free)[0], a[:, None])
    item_bank = ItemBank(shape.model, shape.max_category, a, difficulty, *asymptotes(shape, free))
    return log_probabilities(item_bank, problem.grid.nodes)


def evaluate_likelihood(problem: LikelihoodProblem, vector: Floats) -> tuple[float, float, Floats]:
    """The log-likelihood with the prior, without it, and the expected counts r (I, K, Q)."""
    free = problem.shape.spread(vector)
    likelihood, counts = expected_counts(problem.matrices, free_log_curves(problem, free), problem.grid.log_weights)
    return likelihood + problem.prior.log_density(free), likelihood, counts


def item_blocks(problem: LikelihoodProblem) -> Iterator[slice]:
    """The items in blocks whose curves fit in memory."""
    items, parameters = problem.shape.index.shape
    each = parameters * (problem.shape.steps + 1) * len(problem.grid.nodes)
    size = max(1, LARGEST_BLOCK // each)
    return (slice(first, first + size) for first in range(0, items, size))


def block_layout(shape: Layout, here: slice) -> Layout:
    """The layout of some of the items."""
    return replace(shape, max_category=shape.max_category[here], index=shape.index[here])


def gradient(problem: LikelihoodProblem, vector: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """The gradient (I, P) of the penalised likelihood by Fisher's identity, and the M-step's information (I, P, P)."""
    free = problem.shape.spread(vector)
    items, parameters = free.shape
    slope = problem.prior.gradient(free)
    information = np.zeros((items, parameters, parameters))
    for here in item_blocks(problem):
        curves = free_curves(block_layout(problem.shape, here), free[here], problem.grid.nodes)
        flat = curves.slope.reshape(*curves.slope.shape[:2], -1)
        slope[here] += (flat @ counts[here].reshape(len(flat), -1, 1))[:, :, 0]
        weights = counts[here].sum(axis=1, keepdims=True) * curves.p
        information[here] = (flat * weights.reshape(len(flat), 1, -1)) @ flat.transpose(0, 2, 1)
    diagonal = np.arange(parameters)
    information[:, diagonal, diagonal] += problem.prior.curvature(free)
    if problem.shape.model in ASYMPTOTIC:
        information[:, diagonal[-2:], diagonal[-2:]] += ASYMPTOTE_PRECISION
    return slope, information


def _precondition(shape: Layout, information: Floats, still: Booleans) -> tuple[Floats, Floats]:
    """The inverse of the M-step's information: item by item (I, P, P), and of a common slope; nothing for `still`."""
    parameters = information.shape[1]
    moves = (shape.index >= 0) & ~np.append(still, True)[shape.index]
    common = 0.0
    if shape.common:
        common = float(information[moves[:, 0], 0, 0].sum())
        moves[:, 0] = False
    diagonal = np.arange(parameters)
    system = information * (moves[:, :, None] & moves[:, None, :])
    system[:, diagonal, diagonal] = np.where(moves, system[:, diagonal, diagonal] * (1 + 1e-9) + 1e-9, 1.0)
    inverse = np.linalg.inv(system)
    inverse[:, diagonal, diagonal] = np.where(moves, inverse[:, diagonal, diagonal], 0.0)
    return inverse, np.array([1 / (common + 1e-9)] if shape.common and common > 0 else [])


def _newton_step(shape: Layout, inverse: tuple[Floats, Floats], vector: Floats) -> Floats:
    """The M-step's Newton step for a gradient, both as vectors."""
    spread = shape.spread(vector)
    if shape.common:
        spread[:, 0] = 0.0
    result = (inverse[0] @ spread[:, :, None])[:, :, 0]
    if shape.common:
        result[:, 0] = 0.0
    step = shape.gather(result)
    if inverse[1].size:
        step[-1] = vector[-1] * inverse[1][0]
    return step


def maximise_likelihood(
    problem: LikelihoodProblem,
    vector: Floats,
    bounds: tuple[Floats, Floats],
    tolerance: float,
    most: int,
    history: CurvatureHistory | None = None,
) -> Optimum:
    """Climb from `vector` until what a Newton step promises is below `tolerance` for each parameter.

    `history`, the curvature found by an earlier search, is used and added to.
    """
    shape = problem.shape
    history = deque(maxlen=HISTORY_LENGTH) if history is None else history
    value, likelihood, counts = evaluate_likelihood(problem, vector)
    slope, information = gradient(problem, vector, counts)
    uphill = shape.gather(slope)
    for iteration in range(most):
        step, free = _direction(shape, vector, uphill, information, history, bounds)
        if step @ free <= tolerance * max(shape.count, 1):
            return Optimum(vector, likelihood, counts, iteration, converged=True)
        moved = _line_search(problem, vector, value, free, step, bounds)
        if moved is None:
            if not history:
                return Optimum(vector, likelihood, counts, iteration, converged=False)
            history.clear()
            continue
        after, value, likelihood, counts = moved
        slope, information = gradient(problem, after, counts)
        before, uphill = uphill, shape.gather(slope)
        change, bend = after - vector, before - uphill
        if change @ bend > 1e-10 * np.linalg.norm(change) * np.linalg.norm(bend):
            history.append((change, bend))
        vector = after
    return Optimum(vector, likelihood, counts, most, converged=False)


def _direction(
    shape: Layout,
    vector: Floats,
    uphill: Floats,
    information: Floats,
    history: CurvatureHistory,
    bounds: tuple[Floats, Floats],
) -> tuple[Floats, Floats]:
    """Where to go from here, and the gradient of those who may: who stands at a bound does not press against it."""
    at_low, at_high = vector <= bounds[0] + BOUND_TOLERANCE, vector >= bounds[1] - BOUND_TOLERANCE
    still = (at_low & (uphill < 0)) | (at_high & (uphill > 0))
    while True:
        free = np.where(still, 0.0, uphill)
        inverse = _precondition(shape, information, still)
        step = np.where(still, 0.0, _limit_step(shape, _quasi_newton(shape, inverse, free, history)))
        if step @ free <= 0:
            history.clear()
            step = _limit_step(shape, _newton_step(shape, inverse, free))
        pressed = (at_low & (step < 0)) | (at_high & (step > 0))
        if not pressed.any():
            return step, free
        still |= pressed


def parameters_at_bound(vector: Floats, bounds: tuple[Floats, Floats]) -> Booleans:
    """(n,): which parameters are limits, not estimates."""
    return np.asarray((vector <= bounds[0] + BOUND_TOLERANCE) | (vector >= bounds[1] - BOUND_TOLERANCE))


def _limit_step(shape: Layout, step: Floats) -> Floats:
    """The step, shorter for items of which a parameter would move too far; an item keeps its direction."""
    farthest = np.abs(shape.spread(step)).max(axis=1, initial=MAX_STEP, keepdims=True)
    held = shape.index >= 0
    result = step.copy()
    result[shape.index[held]] *= np.broadcast_to(MAX_STEP / farthest, held.shape)[held]
    return result


def _quasi_newton(shape: Layout, inverse: tuple[Floats, Floats], uphill: Floats, history: CurvatureHistory) -> Floats:
    """The two-loop recursion of Nocedal (1980) around the M-step's Newton step."""
    result = uphill.copy()
    shares = []
    for change, bend in reversed(history):
        share = (change @ result) / (change @ bend)
        result -= share * bend
        shares.append(share)
    result = _newton_step(shape, inverse, result)
    for (change, bend), share in zip(history, reversed(shares), strict=True):
        result += (share - (bend @ result) / (change @ bend)) * change
    return result


def _line_search(
    problem: LikelihoodProblem,
    vector: Floats,
    value: float,
    uphill: Floats,
    step: Floats,
    bounds: tuple[Floats, Floats],
) -> tuple[Floats, float, float, Floats] | None:
    """Halve the step until the likelihood rises by a fair share of what the slope promises (Armijo 1966)."""
    rounding = 1e-13 * abs(value)
    for halved in range(MAX_HALVINGS):
        after = np.clip(vector + step * 0.5**halved, *bounds)
        reached, likelihood, counts = evaluate_likelihood(problem, after)
        if reached >= value + ARMIJO_SHARE * float(uphill @ (after - vector)) - rounding:
            return after, reached, likelihood, counts
    return None
