"""Exposure control: which of the best items is given, and with what probability.

Randomesque (Kingsbury & Zara 1989): each of the n best alike. Sympson & Hetter (1985): going down from the best, item i
is given with the chance k_i, its exposure parameter, else the next is asked; if none takes it, the best is given.

Each draw depends on the seed and the step, so an item that was passed over may be given later; the probability of
every choice is exact. The parameters are calibrated under this very rule.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Seeds
from app.adaptive.cat.plan import Plan
from app.adaptive.cat.pool import Pool
from app.adaptive.cat.selection import Ranked
from app.adaptive.hashing import hash_keys, uniform

# Purposes of draws, so that no two uses of a seed and a step share their numbers.
RANDOMESQUE, EXPOSURE_CONTROL = 1, 2
# So many of the best are asked at first whether they take it.
FIRST_CANDIDATES = 16


class _Drawn(NamedTuple):
    """The place of the item among the ranked ones, and the chance it had."""

    position: int
    propensity: float


def draw_item(pool: Pool, plan: Plan, ranking: Callable[[int], Ranked], seed: int, step: int) -> tuple[Ranked, _Drawn]:
    """Draw one of the best items; `ranking` gives as many as asked for, or all there are, best first."""
    if plan.sympson_hetter:
        return _draw_with_exposure_control(pool, ranking, seed, step)
    ranked = ranking(plan.randomesque)
    count = len(ranked.items) if plan.rule == "random" else min(plan.randomesque, len(ranked.items))
    return ranked, draw_evenly(count, seed, step)


def draw_evenly(count: int, seed: int, step: int) -> _Drawn:
    """Draw one of so many with equal probability."""
    if count == 1:
        return _Drawn(0, 1.0)
    return _Drawn(
        int(float(uniform(_step_seed(seed, step, RANDOMESQUE), np.zeros(1, dtype=np.int64))[0]) * count), 1 / count
    )


def _draw_with_exposure_control(
    pool: Pool, ranking: Callable[[int], Ranked], seed: int, step: int
) -> tuple[Ranked, _Drawn]:
    """Draw the first item that is not passed over."""
    count, previous_count, key = FIRST_CANDIDATES, -1, _step_seed(seed, step, EXPOSURE_CONTROL)
    while True:
        ranked = ranking(count)
        accepts = uniform(key, ranked.items) < pool.exposure[ranked.items]
        if accepts.any() or len(ranked.items) == previous_count or len(ranked.items) < count:
            break
        previous_count, count = len(ranked.items), 8 * count
    if not accepts.any():
        return ranked, _Drawn(0, float(selection_probabilities(pool.exposure[ranked.items])[0]))
    position = int(accepts.argmax())
    if position == 0:
        # Only then may it have been given because nobody took it.
        ranked = ranking(pool.count) if not (pool.exposure[ranked.items] == 1).any() else ranked
    return ranked, _Drawn(position, float(selection_probabilities(pool.exposure[ranked.items])[position]))


def selection_probabilities(exposure: Floats) -> Floats:
    """Return the probability of each of the candidates, best first, to be given; they sum to 1."""
    passed = np.multiply.accumulate(1 - exposure)
    result = exposure * np.concatenate([[1.0], passed[:-1]])
    result[0] += passed[-1]
    return np.asarray(result)


def _step_seed(seed: int, step: int, purpose: int) -> Seeds:
    """Return the seed of one step of one test for one purpose; (1,)."""
    return hash_keys(purpose, np.array([seed], dtype=np.uint64).astype(np.int64), np.array([step]))


def filter_by_exposure(plan: Plan, free: Booleans, rates: Floats | None) -> Booleans:
    """Return the free items that were not given too often so far; the same array if no rate counts."""
    if plan.max_exposure is None or rates is None:
        return free
    return free & (rates < plan.max_exposure)
