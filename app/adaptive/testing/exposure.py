"""Which of the best items is given, and with what chance.

Randomesque (Kingsbury & Zara 1989): each of the n best alike. Sympson & Hetter (1985): going down from the best, item i
is given with the chance k_i, its exposure parameter, else the next is asked; if none takes it, the best is given.

Chance is that of the seed and the turn, so an item that was passed over may be given later; the chance of every choice
is exact. The parameters are calibrated under this very rule.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from app.adaptive.keys import mixed
from app.adaptive.policy import uniform
from app.adaptive.testing.plan import Plan
from app.adaptive.testing.pool import Pool
from app.adaptive.testing.selection import Ranked
from app.adaptive.types import Booleans, Floats, Seeds

# Purposes of chance, so that no two uses of a seed and a turn share their numbers.
SEVERAL, PASSING = 1, 2
# So many of the best are asked at first whether they take it.
ASKED = 16


class Drawn(NamedTuple):
    """The place of the item among the ranked ones, and the chance it had."""

    place: int
    propensity: float


def draw(pool: Pool, plan: Plan, ranking: Callable[[int], Ranked], seed: int, turn: int) -> tuple[Ranked, Drawn]:
    """One of the best items; `ranking` gives as many as asked for, or all there are, best first."""
    if plan.sympson_hetter:
        return draw_passing(pool, ranking, seed, turn)
    ranked = ranking(plan.randomesque)
    many = len(ranked.items) if plan.rule == "random" else min(plan.randomesque, len(ranked.items))
    return ranked, draw_evenly(many, seed, turn)


def draw_evenly(many: int, seed: int, turn: int) -> Drawn:
    """One of so many, all alike."""
    if many == 1:
        return Drawn(0, 1.0)
    return Drawn(int(float(uniform(turn_seed(seed, turn, SEVERAL), np.zeros(1, dtype=np.int64))[0]) * many), 1 / many)


def draw_passing(pool: Pool, ranking: Callable[[int], Ranked], seed: int, turn: int) -> tuple[Ranked, Drawn]:
    """The first item that does not pass."""
    wanted, before, key = ASKED, -1, turn_seed(seed, turn, PASSING)
    while True:
        ranked = ranking(wanted)
        takes = uniform(key, ranked.items) < pool.exposure[ranked.items]
        if takes.any() or len(ranked.items) == before or len(ranked.items) < wanted:
            break
        before, wanted = len(ranked.items), 8 * wanted
    if not takes.any():
        return ranked, Drawn(0, float(chances(pool.exposure[ranked.items])[0]))
    place = int(takes.argmax())
    if place == 0:
        # Only then may it have been given because nobody took it.
        ranked = ranking(pool.count) if not (pool.exposure[ranked.items] == 1).any() else ranked
    return ranked, Drawn(place, float(chances(pool.exposure[ranked.items])[place]))


def chances(exposure: Floats) -> Floats:
    """The chance of each of the candidates, best first, to be given; they sum to 1."""
    passed = np.multiply.accumulate(1 - exposure)
    found = exposure * np.concatenate([[1.0], passed[:-1]])
    found[0] += passed[-1]
    return np.asarray(found)


def turn_seed(seed: int, turn: int, purpose: int) -> Seeds:
    """(1,): the seed of one turn of one test for one purpose."""
    return mixed(purpose, np.array([seed], dtype=np.uint64).astype(np.int64), np.array([turn]))


def within_rate(plan: Plan, free: Booleans, rates: Floats | None) -> Booleans:
    """The free items that were not given too often so far; the same array if no rate counts."""
    if plan.max_exposure is None or rates is None:
        return free
    return free & (rates < plan.max_exposure)
