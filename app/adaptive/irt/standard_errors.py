"""Standard errors from the observed information (Louis 1982).

I_observed = E[-∂² complete] - Σ_learners Var(complete score | answers). The variance is exact: it is the sum of squares
of the score's coefficients in the polynomials that are orthonormal under the learner's posterior; a few degrees
suffice, because scores are smooth in θ. The complete-data information alone claims more than is known.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.irt.curves import CategoryCurves
from app.adaptive.irt.design import posteriors
from app.adaptive.irt.items import ItemBank, ItemResponses
from app.adaptive.irt.marginal import (
    LikelihoodProblem,
    Optimum,
    block_layout,
    evaluate_likelihood,
    free_log_curves,
    gradient,
    grid,
    item_blocks,
    parameters_at_bound,
)
from app.adaptive.irt.parameters import Layout, free_curves, to_item_bank

# Up to here all covariances between items are minded; beyond, those along a common shift and stretch of ability.
MAX_FULL_PARAMETERS = 600
HIGHEST_DEGREE = 12
NEGLIGIBLE_SHARE = 1e-5
MIN_NORM = 1e-7
LEARNERS_AT_ONCE = 2048
RESPONSES_AT_ONCE = 1 << 16
COARSE_NODES = 31
STEP = 1e-4


class ParameterCovariance(NamedTuple):
    """The covariance of the free parameters of each item (I, P, P), and the variance of a common log slope."""

    items: Floats
    common: float


def parameter_covariance(
    problem: LikelihoodProblem, responses: ItemResponses, found: Optimum, bounds: tuple[Floats, Floats]
) -> ParameterCovariance:
    """The inverse of the observed information; a parameter at its bound counts as known."""
    vector = found.vector
    fixed = parameters_at_bound(vector, bounds)
    if problem.shape.count <= MAX_FULL_PARAMETERS:
        return full_covariance(problem, found, fixed)
    return _local_covariance(problem, responses, vector, fixed)


def full_covariance(problem: LikelihoodProblem, found: Optimum, fixed: Booleans) -> ParameterCovariance:
    """With all covariances between items."""
    shape = problem.shape
    free = np.append(~fixed, False)
    covariance = np.zeros((shape.count + 1, shape.count + 1))
    known = observed_information(problem, found.vector, found.counts)
    covariance[np.ix_(free, free)] = _inverse(known[np.ix_(~fixed, ~fixed)])
    rows = np.broadcast_to(shape.index[:, :, None], (*shape.index.shape, shape.index.shape[1]))
    return ParameterCovariance(
        covariance[rows, rows.transpose(0, 2, 1)], float(covariance[-2, -2]) if shape.common else 0.0
    )


def observed_information(problem: LikelihoodProblem, vector: Floats, counts: Floats) -> Floats:
    """(n, n): minus the second derivative of the penalised marginal likelihood (Louis 1982)."""
    shape = problem.shape
    complete = complete_information(problem, vector, counts)
    rows = np.broadcast_to(shape.index[:, :, None], complete.shape)
    information = np.zeros((shape.count + 1, shape.count + 1))
    np.add.at(information, (rows, rows.transpose(0, 2, 1)), complete)
    return information[:-1, :-1] - _missing_information(problem, vector)


def _inverse(information: Floats) -> Floats:
    """The inverse of a symmetric matrix; a direction about which nothing is known gets a large variance, not a nan."""
    if not information.size:
        return information
    scale = np.sqrt(np.maximum(np.diagonal(information, axis1=-2, axis2=-1), 1e-8))
    outer = scale[..., :, None] * scale[..., None, :]
    values, vectors = np.linalg.eigh(information / outer)
    return np.asarray((vectors / np.maximum(values, 1e-6)[..., None, :]) @ np.swapaxes(vectors, -1, -2) / outer)


def complete_information(problem: LikelihoodProblem, vector: Floats, counts: Floats) -> Floats:
    """(I, P, P): minus the second derivatives of the expected complete likelihood and the prior."""
    shape, nodes = problem.shape, problem.grid.nodes
    free = shape.spread(vector)
    items, parameters = free.shape

    def score(moved: Floats, here: slice) -> Floats:
        found = free_curves(block_layout(shape, here), moved, nodes).slope
        return (found.reshape(*found.shape[:2], -1) @ counts[here].reshape(len(moved), -1, 1))[:, :, 0]

    result = np.zeros((items, parameters, parameters))
    for here in item_blocks(problem):
        for column in range(parameters):
            change = np.zeros(parameters)
            change[column] = STEP
            result[here, column] = (score(free[here] - change, here) - score(free[here] + change, here)) / (2 * STEP)
    result = (result + result.transpose(0, 2, 1)) / 2
    diagonal = np.arange(parameters)
    result[:, diagonal, diagonal] += problem.prior.curvature(free)
    held = shape.index >= 0
    return result * (held[:, :, None] & held[:, None, :])


def _polynomials(weights: Floats, nodes: Floats) -> Iterator[Floats]:
    """Posterior weights (L, Q) × the polynomials of degree 1, 2, … that are orthonormal under them (Stieltjes)."""
    last, current = np.zeros_like(weights), np.ones_like(weights)
    norm = np.zeros((len(weights), 1))
    for _ in range(min(HIGHEST_DEGREE, len(nodes) - 1)):
        turned = nodes * current
        turned -= (weights * turned * current).sum(axis=1, keepdims=True) * current + norm * last
        norm = np.sqrt((weights * turned * turned).sum(axis=1, keepdims=True))
        # A posterior on fewer nodes than the degree has no further polynomial.
        turned = np.where(norm > MIN_NORM, turned / np.maximum(norm, MIN_NORM), 0.0)
        last, current = current, turned
        yield weights * turned


def _missing_information(problem: LikelihoodProblem, vector: Floats) -> Floats:
    """Σ_learners Var(score | answers), for the whole vector."""
    shape = problem.shape
    free = shape.spread(vector)
    found = free_curves(shape, free, problem.grid.nodes)
    total = np.zeros((shape.count, shape.count))
    for block, weights, _ in posteriors(problem.matrices, free_log_curves(problem, free), problem.grid.log_weights):
        for first in range(0, len(weights), LEARNERS_AT_ONCE):
            here = slice(first, first + LEARNERS_AT_ONCE)
            met = block[here] if isinstance(block, np.ndarray) else block[here].toarray()
            _add_missing_information(problem, found, met, weights[here], total)
    return total


def _add_missing_information(
    problem: LikelihoodProblem, found: CategoryCurves, met: Floats, weights: Floats, total: Floats
) -> None:
    """Add the learners of one block, degree by degree, until a degree no longer matters."""
    shape, matrices = problem.shape, problem.matrices
    items, parameters, categories, nodes = found.slope.shape
    tables = found.slope.transpose(2, 3, 0, 1).reshape(categories, nodes, -1)
    indicators = met.reshape(len(met), items, matrices.categories - matrices.complete)
    for weighted in _polynomials(weights, problem.grid.nodes):
        scores = np.zeros((len(met), items, parameters))
        base = weighted @ tables[0] if matrices.complete else None
        for category in range(indicators.shape[2]):
            table = tables[category + 1] - tables[0] if matrices.complete else tables[category]
            scores += (weighted @ table).reshape(scores.shape) * indicators[:, :, category, None]
        if base is not None:
            scores += base.reshape(scores.shape)
        vectors = _gather_scores(shape, scores)
        added = vectors.T @ vectors
        total += added
        if np.diagonal(added).max(initial=0.0) <= NEGLIGIBLE_SHARE * np.diagonal(total).max(initial=0.0):
            break


def _gather_scores(shape: Layout, scores: Floats) -> Floats:
    """Scores (L, I, P) as vectors (L, n)."""
    held = shape.index >= 0
    if not shape.common:
        return scores[:, held]
    held = held.copy()
    held[:, 0] = False
    return np.concatenate([scores[:, held], scores[:, :, 0].sum(axis=1, keepdims=True)], axis=1)


def _local_covariance(
    problem: LikelihoodProblem, responses: ItemResponses, vector: Floats, fixed: Booleans
) -> ParameterCovariance:
    """Item by item, with what all items share along a common shift and a common stretch of ability.

    With D the item's own blocks of the observed information and V the two directions, the inverse is taken as
    D⁻¹ + V [(V'IV)⁻¹ - (V'DV)⁻¹] V': other covariances are of the order of one in the number of items.
    """
    shape = problem.shape
    coarse = problem._replace(grid=grid(COARSE_NODES))
    _, _, counts = evaluate_likelihood(coarse, vector)
    free = shape.spread(vector)
    complete = complete_information(coarse, vector, counts)
    own = complete - _missing_information_by_item(coarse, responses, free, counts)
    moves = (shape.index >= 0) & ~np.append(fixed, True)[shape.index]
    if shape.common:
        moves[:, 0] = False
    diagonal = np.arange(free.shape[1])
    own = own * (moves[:, :, None] & moves[:, None, :])
    own[:, diagonal, diagonal] = np.where(moves, own[:, diagonal, diagonal], 1.0)
    result = _inverse(own) * (moves[:, :, None] & moves[:, None, :])
    directions = _shared_directions(shape, free) * moves[None]
    joint = np.zeros((len(directions), len(directions)))
    for column, along in enumerate(directions):
        bent = shape.spread(_curvature_along(coarse, vector, shape.gather(along)))
        joint[:, column] = (directions * bent).sum(axis=(1, 2))
    alone = np.einsum("xip,ipj,yij->xy", directions, own, directions)
    extra = _inverse((joint + joint.T) / 2) - _inverse(alone)
    result += np.einsum("xip,xy,yij->ipj", directions, extra, directions)
    if not shape.common:
        return ParameterCovariance(result, 0.0)
    return _add_common_slope(coarse, vector, result)


def _add_common_slope(problem: LikelihoodProblem, vector: Floats, known: Floats) -> ParameterCovariance:
    """The items' covariances (I, P, P) when the common slope is estimated too, and its own (Schur complement)."""
    shape = problem.shape
    bent = _curvature_along(problem, vector, np.append(np.zeros(shape.count - 1), 1.0))
    joint = shape.spread(bent)
    joint[:, 0] = 0.0
    turned = (known @ joint[:, :, None])[:, :, 0]
    common = 1 / max(float(bent[-1] - (joint * turned).sum()), 1e-8)
    return ParameterCovariance(known + common * turned[:, :, None] * turned[:, None, :], common)


def _shared_directions(shape: Layout, free: Floats) -> Floats:
    """(2, I, P): how the parameters change when ability is shifted and stretched; (1, I, P) with a common slope."""
    result = np.zeros((2, *free.shape))
    result[0, :, 1] = np.exp(free[:, 0])
    if shape.model != "graded":
        result[0, :, 1 : 1 + shape.steps] = np.exp(free[:, :1])
    result[1, :, 0] = 1.0
    return result[: 2 - shape.common]


def _curvature_along(problem: LikelihoodProblem, vector: Floats, direction: Floats) -> Floats:
    """Minus the second derivative of the penalised marginal likelihood times a direction, by central differences."""
    step = 1e-3 * direction

    def slope(point: Floats) -> Floats:
        _, _, counts = evaluate_likelihood(problem, point)
        return problem.shape.gather(gradient(problem, point, counts)[0])

    return (slope(vector - step) - slope(vector + step)) / 2e-3


def _missing_information_by_item(
    problem: LikelihoodProblem, responses: ItemResponses, free: Floats, counts: Floats
) -> Floats:
    """(I, P, P): Σ_learners Var(the item's score | answers), from the counts and every answer's mean score."""
    shape = problem.shape
    items, parameters = free.shape
    nodes = len(problem.grid.nodes)
    tables = np.zeros((items, shape.steps + 1, parameters, nodes))
    result = np.zeros((items, parameters, parameters))
    for here in item_blocks(problem):
        found = free_curves(block_layout(shape, here), free[here], problem.grid.nodes)
        flat = found.slope.reshape(*found.slope.shape[:2], -1)
        result[here] = (flat * counts[here].reshape(len(flat), 1, -1)) @ flat.transpose(0, 2, 1)
        tables[here] = found.slope.transpose(0, 2, 1, 3)
    first = 0
    table = tables.reshape(-1, parameters, nodes)
    for _, weights, _ in posteriors(problem.matrices, free_log_curves(problem, free), problem.grid.log_weights):
        begin, end = responses.starts[first], responses.starts[first + len(weights)]
        for low in range(begin, end, RESPONSES_AT_ONCE):
            here = slice(low, min(low + RESPONSES_AT_ONCE, end))
            chosen = responses.items[here]
            rows = table[chosen * (shape.steps + 1) + responses.categories[here]]
            scores = (rows @ weights[responses.rows[here] - first, :, None])[:, :, 0]
            _subtract_squares(result, chosen, scores)
        first += len(weights)
    return result


def _subtract_squares(total: Floats, items: Integers, scores: Floats) -> None:
    """From each item's block the outer products of its answers' mean scores."""
    for one in range(scores.shape[1]):
        for other in range(one + 1):
            added = np.bincount(items, scores[:, one] * scores[:, other], len(total))
            total[:, one, other] -= added
            if other != one:
                total[:, other, one] -= added


def standard_errors(shape: Layout, free: Floats, known: ParameterCovariance) -> ItemBank:
    """The standard errors of the public parameters by the delta method."""
    plain = _public_parameters(shape, free)
    slopes = np.zeros((*plain.shape, free.shape[1]))
    for column in range(free.shape[1]):
        change = np.zeros(free.shape[1])
        change[column] = STEP
        slopes[:, :, column] = (_public_parameters(shape, free + change) - _public_parameters(shape, free - change)) / (
            2 * STEP
        )
    variance = np.einsum("iop,ipj,ioj->io", slopes, known.items, slopes)
    errors = np.sqrt(np.maximum(variance, 0.0))
    steps = shape.steps
    held = np.arange(steps) < shape.max_category[:, None]
    return ItemBank(
        shape.model, shape.max_category, errors[:, 0], errors[:, 1 : 1 + steps] * held, errors[:, -2], errors[:, -1]
    )


def _public_parameters(shape: Layout, free: Floats) -> Floats:
    """The public parameters side by side (I, M + 3)."""
    item_bank = to_item_bank(shape, free)
    return np.concatenate(
        [
            item_bank.discrimination[:, None],
            item_bank.difficulty,
            item_bank.guessing[:, None],
            item_bank.upper[:, None],
        ],
        axis=1,
    )
