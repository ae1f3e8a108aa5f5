"""How likely a score is, given a latent logit: 1PL to 4PL and the graded response model behind one interface.

SciPy's special functions work element by element, so a learner's numbers never depend on who else is in the batch;
NumPy's own `exp` and `log` may differ in the last bit with the layout of the array and the processor.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, expm1, xlog1py, xlogy

from app.adaptive.arrays import Floats, Integers
from app.adaptive.numerics import TINY, clip, ordered_sum
from app.adaptive.parameters import Items


class _Slopes(NamedTuple):
    """The derivative of log p(y | x), and the expected curvature (Fisher information, never negative)."""

    gradient: Floats
    information: Floats


def expected_score(items: Items, chosen: Integers, x: Floats) -> Floats:
    """E[y | x], the expected score as a fraction of the maximum, within [1e-9, 1 - 1e-9].

    4PL: c + (d - c) σ(x) (Barton & Lord 1981). Graded: the mean of P(category ≥ k) (Samejima 1969).
    `chosen` is (N,), `x` (N,) or (2, N), here and below: those who know and those who do not are judged at once.
    """
    p = np.asarray(expit(x))
    if not items.plain:
        guessing = items.guessing[chosen]
        p = guessing + (items.upper[chosen] - guessing) * p
        graded = items.max_category[chosen].nonzero()[0]
        if graded.size:
            reached = expit(x[..., graded, None] - items.thresholds[chosen[graded]])
            p[..., graded] = ordered_sum(reached) / items.max_category[chosen[graded]]
    return clip(p, TINY, 1 - TINY)


def likelihood(items: Items, chosen: Integers, x: Floats, score: Floats) -> Floats:
    """p(y | x), at least 1e-9. A fractional score counts as that fraction of a success."""
    return likelihood_given_p(items, chosen, x, score, expected_score(items, chosen, x))


def likelihood_given_p(items: Items, chosen: Integers, x: Floats, score: Floats, p: Floats) -> Floats:
    """`likelihood` where the expected score is known already."""
    right = score == 1
    result = np.where(right, p, 1 - p)
    if np.count_nonzero(score) != np.count_nonzero(right):
        partial = ((score != 0) & ~right).nonzero()[0]
        y, q = score[partial], p[..., partial]
        result[..., partial] = expm1(xlogy(y, q) + xlog1py(1 - y, -q)) + 1
    if not items.plain:
        graded = items.max_category[chosen].nonzero()[0]
        if graded.size:
            above, below, _, _ = _category_probabilities(items, chosen[graded], x[..., graded], score[graded])
            result[..., graded] = above - below
    return np.maximum(result, TINY)


def slopes(items: Items, chosen: Integers, x: Floats, score: Floats) -> _Slopes:
    """d/dx log p(y | x) and the Fisher information at x."""
    s = expit(x)
    if items.plain:
        return _Slopes(score - s, s * (1 - s))
    guessing, upper = items.guessing[chosen], items.upper[chosen]
    p = clip(guessing + (upper - guessing) * s, TINY, 1 - TINY)
    steepness = (upper - guessing) * s * (1 - s)
    spread = p * (1 - p)
    # An item without asymptotes has the plain formula bit for bit, whatever other items the bank holds.
    simple = (guessing == 0) & (upper == 1)
    gradient = np.where(simple, score - s, (score - p) * steepness / spread)
    information = np.where(simple, s * (1 - s), steepness * steepness / spread)
    graded = items.max_category[chosen].nonzero()[0]
    if graded.size:
        above, below, above_slope, below_slope = _category_probabilities(
            items, chosen[graded], x[..., graded], score[graded]
        )
        gradient[..., graded] = (above_slope - below_slope) / np.maximum(above - below, TINY)
        information[..., graded] = _graded_information(items, chosen[graded], x[..., graded])
    return _Slopes(gradient, information)


def _category_probabilities(
    items: Items, chosen: Integers, x: Floats, score: Floats
) -> tuple[Floats, Floats, Floats, Floats]:
    """For graded items: P(at least this category), P(a higher one), and their derivatives."""
    thresholds = np.pad(items.thresholds[chosen], ((0, 0), (1, 1)), constant_values=np.inf)
    thresholds[:, 0] = -np.inf
    category = np.rint(score * items.max_category[chosen]).astype(np.int64)
    rows = np.arange(len(chosen))
    above = expit(x - thresholds[rows, category])
    below = expit(x - thresholds[rows, category + 1])
    return above, below, above * (1 - above), below * (1 - below)


def _graded_information(items: Items, chosen: Integers, x: Floats) -> Floats:
    """Σ_k (P'_k)² / P_k over the categories of the graded response model (Samejima 1969)."""
    reached = expit(x[..., None] - items.thresholds[chosen])
    edges = np.pad(reached, [(0, 0)] * x.ndim + [(1, 1)])
    edges[..., 0] = 1.0
    slope = edges * (1 - edges)
    probability = np.maximum(edges[..., :-1] - edges[..., 1:], TINY)
    return ordered_sum((slope[..., :-1] - slope[..., 1:]) ** 2 / probability)
