"""The response curves: log P(category | θ) of every item at every node, and what it changes by with each parameter.

Graded response (Samejima 1969): P(y ≥ k) = σ(aθ + d_k), d_k falling with k.
Partial credit (Masters 1982; Muraki 1992 with slopes): P(y = k) ∝ exp(k aθ + e_1 + … + e_k). With two categories both
are the Rasch model (Rasch 1960) and the 2PL (Birnbaum 1968). 4PL (Barton & Lord 1981): c + (d - c) σ(aθ + e).

SciPy's special functions and sums from left to right, so that the curve of an item never depends on its neighbours.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, expm1, log1p, log_expit

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.irt.item_models import ASYMPTOTIC
from app.adaptive.irt.items import ItemBank
from app.adaptive.numerics import ordered_sum

# A category farther off than this adds nothing to a sum of floats, and its exponential would underflow.
FAR = 200.0


class CategoryCurves(NamedTuple):
    """`log_p` and `p` (I, K, Q); `slope` (I, P, K, Q): d log P / d (aθ-scale slope a, intercepts, c, d)."""

    log_p: Floats
    p: Floats
    slope: Floats


def log_probabilities(item_bank: ItemBank, nodes: Floats) -> Floats:
    """(I, K, Q): log P(category | θ) at the nodes, 0 for categories an item does not have."""
    values = item_bank.discrimination, item_bank.intercept, item_bank.guessing, item_bank.upper
    if item_bank.model in ASYMPTOTIC:
        return asymptotic_curves(*values, nodes).log_p
    if item_bank.model == "graded":
        return graded_curves(item_bank.max_category, *values[:2], nodes).log_p
    return partial_credit_curves(item_bank.max_category, *values[:2], nodes).log_p


def asymptotic_curves(
    slope: Floats, intercepts: Floats, guessing: Floats, upper: Floats, nodes: Floats
) -> CategoryCurves:
    """3PL and 4PL; the slopes are by a, e, c, d."""
    x = slope[:, None] * nodes + intercepts
    right, wrong = expit(x), expit(-x)
    c, d = guessing[:, None], upper[:, None]
    p = np.stack([(1 - d) + (d - c) * wrong, c + (d - c) * right], axis=1)
    sign = np.array([-1.0, 1.0])[:, None] / p
    by_x = sign * ((d - c) * right * wrong)[:, None]
    slopes = np.stack([by_x * nodes, by_x, sign * wrong[:, None], sign * right[:, None]], axis=1)
    return CategoryCurves(np.log(p), p, slopes)


def graded_curves(max_category: Integers, slope: Floats, intercepts: Floats, nodes: Floats) -> CategoryCurves:
    """Graded response; `intercepts` d_k fall with k. The slopes are by a and every d_k."""
    items, steps = intercepts.shape
    x = np.clip((slope[:, None] * nodes)[:, None] + intercepts[:, :, None], 10 - FAR, FAR - 10)
    # Beyond the item's last step no category is reached.
    x = np.where((np.arange(steps) < max_category[:, None])[:, :, None], x, -FAR)
    edge = np.full((items, 1, len(nodes)), FAR)
    above, below = np.concatenate([edge, x], axis=1), np.concatenate([x, -edge], axis=1)
    held = has_category(max_category, steps)[:, :, None]
    gap = np.where(held, np.maximum(above - below, 1e-12), 1.0)
    log_p = np.where(held, log_expit(above) + log_expit(-below) + np.log(-expm1(-gap)), 0.0)
    p = np.where(held, np.exp(np.maximum(log_p, -FAR)), 0.0)
    pull = 1 / expm1(gap)
    by_above = np.where(held, expit(-above) + pull, 0.0)
    by_below = np.where(held, -expit(below) - pull, 0.0)
    slopes = np.zeros((items, steps + 1, steps + 1, len(nodes)))
    slopes[:, 0] = np.where(held, expit(-above) - expit(below), 0.0) * nodes
    for step in range(steps):
        slopes[:, step + 1, step + 1] = by_above[:, step + 1]
        slopes[:, step + 1, step] = np.where((step < max_category)[:, None], by_below[:, step], 0.0)
    return CategoryCurves(log_p, p, slopes)


def partial_credit_curves(max_category: Integers, slope: Floats, intercepts: Floats, nodes: Floats) -> CategoryCurves:
    """Generalised partial credit; the slopes are by a and the intercept d_v of every step."""
    items, steps = intercepts.shape
    held = has_category(max_category, steps)[:, :, None]
    z = np.zeros((items, steps + 1, len(nodes)))
    lift = slope[:, None] * nodes
    for step in range(steps):
        z[:, step + 1] = z[:, step] + lift + intercepts[:, step, None]
    z -= np.where(held, z, -np.inf).max(axis=1, keepdims=True)
    p = np.where(held, np.exp(np.clip(z, -FAR, 0.0)), 0.0)
    total = ordered_sum(np.moveaxis(p, 1, -1).reshape(-1, steps + 1)).reshape(items, 1, len(nodes))
    log_p = np.where(held, z - log1p(total - 1), 0.0)
    p /= total
    slopes = np.zeros((items, steps + 1, steps + 1, len(nodes)))
    tail = np.zeros((items, len(nodes)))
    for step in range(steps - 1, -1, -1):
        tail = tail + p[:, step + 1]
        reached = (np.arange(steps + 1) > step)[None, :, None] & held
        slopes[:, step + 1] = np.where(held & (step < max_category)[:, None, None], reached - tail[:, None], 0.0)
    slopes[:, 0] = slopes[:, 1:].sum(axis=1) * nodes
    return CategoryCurves(log_p, p, slopes)


def has_category(max_category: Integers, steps: int) -> Booleans:
    """(I, K): which categories an item has."""
    return np.asarray(np.arange(steps + 1) <= max_category[:, None])
