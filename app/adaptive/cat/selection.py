"""Which items are best: every rule ranks the items that may be given.

max_information: I_i(θ) at the estimate (Lord 1980).
min_expected_posterior_variance: the least Σ_k P(k) Var(θ | k), P(k) under the posterior (Owen 1975; van der Linden
1998, equation 6), as the greatest reduction Var(θ) - Σ_k P(k) Var(θ | k) = Σ_k P(k) (E[θ | k] - E[θ])².
kullback_leibler: Σ_q w_q Σ_k P_k(θ̂) log(P_k(θ̂) / P_k(θ_q)), w the posterior (Chang & Ying 1996; van der Linden 1998).
random: all are alike.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expm1

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.cat.information_index import cell_of
from app.adaptive.cat.plan import Plan
from app.adaptive.cat.pool import NODES, Pool, curve_blocks, information_at, log_curves
from app.adaptive.cat.state import ExamineeState, posterior
from app.adaptive.numerics import ordered_sum

# A matrix product errs by less than this share; what is that near to the best is computed again, in a fixed order.
NEAR = 1e-9
BLOCK_SIZE = 4096


class Ranked(NamedTuple):
    """The best items, best first; among equals the lower number. None that is left out is better than the last."""

    items: Integers
    values: Floats


def rank(pool: Pool, plan: Plan, state: ExamineeState, scale: int, free: Booleans, count: int) -> Ranked:
    """At least `count` of the free items of a scale, or all of them."""
    if plan.rule == "max_information":
        return _most_informative(pool, scale, state.ability[scale], free, count)
    items = _free_items_of_scale(pool, scale, free)
    if plan.rule == "random":
        return Ranked(items, np.zeros(len(items)))
    values = _approximate_values(pool, plan, state, scale)[items]
    if count < len(items):
        least = np.partition(values, -count)[-count]
        items = items[values >= least - NEAR * (abs(least) + NEAR)]
    return _best_first(items, criterion_values(pool, plan, state, items))


def _free_items_of_scale(pool: Pool, scale: int, free: Booleans) -> Integers:
    """The free items of a scale, ascending."""
    members = pool.members[scale]
    return members[free[members]]


def _best_first(items: Integers, values: Floats) -> Ranked:
    """The items, given in ascending order, in the order of their values."""
    order = np.argsort(-values, kind="stable")
    return Ranked(items[order], values[order])


def _most_informative(pool: Pool, scale: int, ability: float, free: Booleans, count: int) -> Ranked:
    """By information at an ability, computed for as few items as prove it (see `information_index`)."""
    index, cell = pool.information_indexes[scale], cell_of(ability)
    for listed, beyond in ((index.near, index.beyond_near), (index.far, index.beyond_far)):
        items = listed[cell]
        items = items[free[items]]
        if len(items) < count:
            continue
        values = information_at(pool, items, ability)
        if count == 1:
            best = int(values.argmax())
            if values[best] > beyond[cell]:
                return Ranked(items[best : best + 1], values[best : best + 1])
            continue
        # What is not above the bound of the others may be less than one of them.
        proven = values > beyond[cell]
        if np.count_nonzero(proven) >= count:
            return _best_first(items[proven], values[proven])
    items = _free_items_of_scale(pool, scale, free)
    return _best_first(items, information_at(pool, items, ability))


def criterion_values(pool: Pool, plan: Plan, state: ExamineeState, items: Integers) -> Floats:
    """Return the criterion of the rule for items, each at the estimate or posterior of its own scale; (n,).

    Sums run in a fixed order, so that an item has the same bits whichever others are passed.
    """
    result = np.zeros(len(items))
    for scale in np.unique(pool.scale[items]).tolist():
        on_scale = np.flatnonzero(pool.scale[items] == scale)
        for first in range(0, len(on_scale), BLOCK_SIZE):
            here = on_scale[first : first + BLOCK_SIZE]
            result[here] = CRITERIA[plan.rule](pool, state, scale, items[here])
    return result


def _information_criterion(pool: Pool, state: ExamineeState, scale: int, items: Integers) -> Floats:
    """Fisher information at the estimate."""
    return information_at(pool, items, state.ability[scale])


def _variance_criterion(pool: Pool, state: ExamineeState, scale: int, items: Integers) -> Floats:
    """By how much the item is expected to lower the variance of the posterior."""
    weights = posterior(state.log_posterior[scale])
    chance = pool.probability[items] * weights
    share = np.add.accumulate(chance, axis=2)[:, :, -1]
    moved = np.add.accumulate(chance * (NODES - state.ability[scale]), axis=2)[:, :, -1]
    return _reduction(share, moved)


def _reduction(share: Floats, moved: Floats) -> Floats:
    """Σ_k moved_k² / share_k: the variance of E[θ | k]; categories that cannot be reached add nothing."""
    return ordered_sum(np.where(share > 0, moved * moved / np.where(share > 0, share, 1.0), 0.0))


def _divergence_criterion(pool: Pool, state: ExamineeState, scale: int, items: Integers) -> Floats:
    """Kullback–Leibler information of the estimate against the posterior."""
    weights = posterior(state.log_posterior[scale])
    log_p = log_curves_at(pool, items, state.ability[scale])
    mean = np.add.accumulate(pool.log_probability[items] * weights, axis=2)[:, :, -1]
    return _divergence(log_p, mean)


def _divergence(log_p: Floats, mean: Floats) -> Floats:
    """Σ_k P_k (log P_k - mean_k); a category that an item does not have has 0 in both."""
    return ordered_sum((expm1(log_p) + 1) * (log_p - mean))


def log_curves_at(pool: Pool, items: Integers, ability: float) -> Floats:
    """(n, K): log P(category) at an ability, 0 for categories that an item does not have."""
    result = np.zeros((len(items), pool.difficulty.shape[1] + 1))
    order = np.argsort(items)
    for block, item_bank in curve_blocks(pool, items):
        rows = order[np.searchsorted(items, block, sorter=order)]
        result[rows, : item_bank.steps + 1] = log_curves(item_bank, np.array([ability]))[:, :, 0]
    return result


def _approximate_values(pool: Pool, plan: Plan, state: ExamineeState, scale: int) -> Floats:
    """(I,): the criterion of every item by matrix products, good to the last few bits; right for those of the scale."""
    weights, ability = posterior(state.log_posterior[scale]), state.ability[scale]
    if plan.rule == "kullback_leibler":
        mean = pool.log_probability @ weights
        return _divergence(log_curves_at(pool, np.arange(pool.count), ability), mean)
    result = pool.probability @ np.stack([weights, weights * (NODES - ability)], axis=1)
    return _reduction(result[:, :, 0], result[:, :, 1])


CRITERIA = {
    "max_information": _information_criterion,
    "min_expected_posterior_variance": _variance_criterion,
    "kullback_leibler": _divergence_criterion,
}
