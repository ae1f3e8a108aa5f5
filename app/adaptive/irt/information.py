"""Fisher information of an item at an ability: Σ_k (dP_k/dθ)² / P_k over its categories.

Right or wrong (Birnbaum 1968; Magis 2013 for d < 1): [a (d - c) s (1 - s)]² / (P (1 - P)), s = σ(a(θ - b)).
Graded response (Samejima 1969): a² Σ_k P_k (1 - R_k - R_k+1)², R_k the chance of category k or above.
Partial credit (Muraki 1993): a² Var(k), the variance of the category reached.
"""

import numpy as np
from scipy.special import expit, xlogy

from app.adaptive.arrays import Floats
from app.adaptive.irt.curves import partial_credit_curves
from app.adaptive.irt.items import ItemBank
from app.adaptive.numerics import ordered_sum

# For wrong and right, before as many further axes.
SIDES = [np.array([-1.0, 1.0]).reshape(2, *(1,) * axes) for axes in range(3)]


def fisher_information(item_bank: ItemBank, nodes: Floats) -> Floats:
    """(I, Q): the information of every item at the nodes. Items of any model."""
    if item_bank.model == "graded":
        return _graded_information(item_bank, nodes)
    if item_bank.model in ("gpcm", "pcm"):
        return _partial_credit_information(item_bank, nodes)
    return binary_information(binary_columns(item_bank)[:, :, None], nodes)


def binary_columns(item_bank: ItemBank) -> Floats:
    """(6, I): a, b, a (d - c), 1 - d, c and d - c of items scored right or wrong."""
    a, span = item_bank.discrimination, item_bank.upper - item_bank.guessing
    return np.stack([a, item_bank.difficulty[:, 0], a * span, 1 - item_bank.upper, item_bank.guessing, span])


def binary_information(columns: Floats, nodes: Floats) -> Floats:
    """The information of items scored right or wrong, element by element; `columns` are their `binary_columns`."""
    curve = _logistic_pair(columns, nodes)
    steep = columns[2] * curve[0] * curve[1]
    p = columns[3:5] + columns[5] * curve
    return np.asarray(steep * steep / (p[0] * p[1]))


def binary_log_p(columns: Floats, nodes: Floats) -> Floats:
    """(2, …): their log P of wrong and right, element by element."""
    curve = _logistic_pair(columns, nodes)
    floors = columns[3:5].reshape(2, *columns.shape[1:], *(1,) * (curve.ndim - columns.ndim))
    return np.asarray(xlogy(1.0, floors + columns[5] * curve))


def _logistic_pair(columns: Floats, nodes: Floats) -> Floats:
    """(2, …): σ(-x) and σ(x), x = a(θ - b), each to full precision."""
    x = columns[0] * (nodes - columns[1])
    return np.asarray(expit(SIDES[x.ndim] * x))


def _graded_information(item_bank: ItemBank, nodes: Floats) -> Floats:
    """Graded response; thresholds ascend."""
    reached = cumulative_probabilities(item_bank, nodes)
    share, tilt = reached[:, :-1] - reached[:, 1:], 1 - reached[:, :-1] - reached[:, 1:]
    return item_bank.discrimination[:, None] ** 2 * sum_over_categories(share * tilt * tilt)


def cumulative_probabilities(item_bank: ItemBank, nodes: Floats) -> Floats:
    """(I, K + 1, Q): the chance of category k or above in the graded response model; 1 at first, 0 at last."""
    x = item_bank.discrimination[:, None, None] * (nodes - item_bank.difficulty[:, :, None])
    held = np.arange(item_bank.steps) < item_bank.max_category[:, None]
    edge = np.ones((item_bank.count, 1, len(nodes)))
    return np.concatenate([edge, np.where(held[:, :, None], expit(x), 0.0), 0 * edge], axis=1)


def _partial_credit_information(item_bank: ItemBank, nodes: Floats) -> Floats:
    """(Generalised) partial credit."""
    p = partial_credit_curves(item_bank.max_category, item_bank.discrimination, item_bank.intercept, nodes).p
    category = np.arange(item_bank.steps + 1.0)[:, None]
    mean = sum_over_categories(p * category)[:, None]
    return item_bank.discrimination[:, None] ** 2 * sum_over_categories(p * (category - mean) ** 2)


def sum_over_categories(values: Floats) -> Floats:
    """(I, K, Q) summed to (I, Q), always from the lowest category up."""
    items, categories, nodes = values.shape
    return ordered_sum(np.moveaxis(values, 1, -1).reshape(-1, categories)).reshape(items, nodes)
