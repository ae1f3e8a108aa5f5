"""Fisher information of an item at an ability: Σ_k (dP_k/dθ)² / P_k over its categories.

Right or wrong (Birnbaum 1968; Magis 2013 for d < 1): [a (d - c) s (1 - s)]² / (P (1 - P)), s = σ(a(θ - b)).
Graded response (Samejima 1969): a² Σ_k P_k (1 - R_k - R_k+1)², R_k the chance of category k or above.
Partial credit (Muraki 1993): a² Var(k), the variance of the category reached.
"""

import numpy as np
from scipy.special import expit, xlogy

from app.adaptive.irt.bank import Bank
from app.adaptive.irt.curves import partial_credit
from app.adaptive.likelihood import ordered_sum
from app.adaptive.types import Floats

# For wrong and right, before as many further axes.
SIDES = [np.array([-1.0, 1.0]).reshape(2, *(1,) * axes) for axes in range(3)]


def information(bank: Bank, nodes: Floats) -> Floats:
    """(I, Q): the information of every item at the nodes. Items of any model."""
    if bank.model == "graded":
        return graded(bank, nodes)
    if bank.model in ("gpcm", "pcm"):
        return partial(bank, nodes)
    return binary(columns(bank)[:, :, None], nodes)


def columns(bank: Bank) -> Floats:
    """(6, I): a, b, a (d - c), 1 - d, c and d - c of items scored right or wrong."""
    a, span = bank.discrimination, bank.upper - bank.guessing
    return np.stack([a, bank.difficulty[:, 0], a * span, 1 - bank.upper, bank.guessing, span])


def binary(given: Floats, nodes: Floats) -> Floats:
    """The information of items scored right or wrong, element by element; `given` are their `columns`."""
    curve = logistic(given, nodes)
    steep = given[2] * curve[0] * curve[1]
    p = given[3:5] + given[5] * curve
    return np.asarray(steep * steep / (p[0] * p[1]))


def binary_log_p(given: Floats, nodes: Floats) -> Floats:
    """(2, …): their log P of wrong and right, element by element."""
    curve = logistic(given, nodes)
    floors = given[3:5].reshape(2, *given.shape[1:], *(1,) * (curve.ndim - given.ndim))
    return np.asarray(xlogy(1.0, floors + given[5] * curve))


def logistic(given: Floats, nodes: Floats) -> Floats:
    """(2, …): σ(-x) and σ(x), x = a(θ - b), each to full precision."""
    x = given[0] * (nodes - given[1])
    return np.asarray(expit(SIDES[x.ndim] * x))


def graded(bank: Bank, nodes: Floats) -> Floats:
    """Graded response; thresholds ascend."""
    reached = reach(bank, nodes)
    share, tilt = reached[:, :-1] - reached[:, 1:], 1 - reached[:, :-1] - reached[:, 1:]
    return bank.discrimination[:, None] ** 2 * over_categories(share * tilt * tilt)


def reach(bank: Bank, nodes: Floats) -> Floats:
    """(I, K + 1, Q): the chance of category k or above in the graded response model; 1 at first, 0 at last."""
    x = bank.discrimination[:, None, None] * (nodes - bank.difficulty[:, :, None])
    held = np.arange(bank.steps) < bank.grades[:, None]
    edge = np.ones((bank.count, 1, len(nodes)))
    return np.concatenate([edge, np.where(held[:, :, None], expit(x), 0.0), 0 * edge], axis=1)


def partial(bank: Bank, nodes: Floats) -> Floats:
    """(Generalised) partial credit."""
    p = partial_credit(bank.grades, bank.discrimination, bank.easiness, nodes).p
    category = np.arange(bank.steps + 1.0)[:, None]
    mean = over_categories(p * category)[:, None]
    return bank.discrimination[:, None] ** 2 * over_categories(p * (category - mean) ** 2)


def over_categories(values: Floats) -> Floats:
    """(I, K, Q) summed to (I, Q), always from the lowest category up."""
    items, categories, nodes = values.shape
    return ordered_sum(np.moveaxis(values, 1, -1).reshape(-1, categories)).reshape(items, nodes)
