"""Which items may be the most informative at an ability: bounds over short cells of ability, made once for a pool.

The index lists, for each cell, the items with the greatest upper bounds of information over the whole cell.
If the best of them, computed exactly, is above the bound of all others, the choice is that of looking at every item.

Within a cell of width h from l to r, with L = d log I / dθ (docs/testing.md):
right or wrong: a(1 - 3s) ≤ L ≤ a(2 - 3s) and s rises: I ≤ I(l) exp(h a (2 - 3s(l))⁺), I ≤ I(r) exp(h a (3s(r) - 1)⁺).
partial credit: |L| ≤ aM as the third cumulant of the category is at most M times its variance.
graded: each term of Σ P_k (1 - R_k - R_k+1)² at its greatest, as every R rises.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, expm1

from app.adaptive.arrays import Floats, Integers
from app.adaptive.irt.information import cumulative_probabilities, fisher_information, sum_over_categories
from app.adaptive.irt.items import ItemBank

MAX_ABILITY = 6.0
CELLS = 240
WIDTH = 2 * MAX_ABILITY / CELLS
EDGES = np.linspace(-MAX_ABILITY, MAX_ABILITY, CELLS + 1)
NEAR, FAR = 32, 256
# More than rounding can add, also to single precision.
ROUNDING_SLACK, LEAST = 1 + 1e-6, 1e-12


class InformationIndex(NamedTuple):
    """For each cell of one scale: the items with the greatest bounds, a few and more, each ascending by number.

    `near` (CELLS, n) and `far` (CELLS, m), these among them; `beyond_near` and `beyond_far` (CELLS,) are the greatest
    bounds of all other items, negative where there are none.
    """

    near: Integers
    far: Integers
    beyond_near: Floats
    beyond_far: Floats


def build_information_index(blocks: Iterable[tuple[Integers, ItemBank]]) -> InformationIndex:
    """Build the index of the items of one scale, given in blocks: their numbers and parameters."""
    numbers, tables = [np.empty(0, dtype=np.int64)], [np.empty((0, CELLS), dtype=np.float32)]
    for ids, item_bank in blocks:
        numbers.append(ids)
        tables.append(rounded_up(upper_bounds(item_bank)))
    items, bounds = np.concatenate(numbers), np.concatenate(tables)
    near, beyond_near = _greatest(items, bounds, NEAR)
    far, beyond_far = _greatest(items, bounds, FAR)
    return InformationIndex(near, far, beyond_near, beyond_far)


def _greatest(items: Integers, bounds: NDArray[np.float32], count: int) -> tuple[Integers, Floats]:
    """The items with the greatest bounds in each cell, ascending by number, and the greatest bound of the others."""
    count = min(count, len(items))
    result, beyond = np.empty((CELLS, count), dtype=np.int64), np.full(CELLS, -1.0)
    for cell in range(CELLS):
        if count < len(items):
            order = np.argpartition(-bounds[:, cell], count)
            result[cell] = np.sort(items[order[:count]])
            beyond[cell] = bounds[order[count], cell]
        else:
            result[cell] = np.sort(items)
    return result, beyond


def upper_bounds(item_bank: ItemBank) -> Floats:
    """(I, CELLS): at least the information of every item anywhere in each cell."""
    if item_bank.model == "graded":
        return _graded_bounds(item_bank)
    at_edges = fisher_information(item_bank, EDGES)
    left, right = at_edges[:, :-1], at_edges[:, 1:]
    slope = item_bank.discrimination[:, None]
    if item_bank.model == "gpcm":
        steepest = slope * item_bank.max_category[:, None]
        return np.sqrt(left * right) * _grown(0.5 * WIDTH * steepest)
    reached = expit(slope * (EDGES - item_bank.difficulty))
    rise = np.maximum(2 - 3 * reached[:, :-1], 0.0)
    fall = np.maximum(3 * reached[:, 1:] - 1, 0.0)
    return np.minimum(left * _grown(WIDTH * slope * rise), right * _grown(WIDTH * slope * fall))


def _graded_bounds(item_bank: ItemBank) -> Floats:
    """The same for the graded response model."""
    reached = cumulative_probabilities(item_bank, EDGES)
    low, high = reached[:, :, :-1], reached[:, :, 1:]
    share = np.maximum(high[:, :-1] - low[:, 1:], 0.0)
    tilt = np.maximum(np.abs(1 - low[:, :-1] - low[:, 1:]), np.abs(1 - high[:, :-1] - high[:, 1:]))
    return item_bank.discrimination[:, None] ** 2 * sum_over_categories(share * tilt * tilt)


def _grown(exponent: Floats) -> Floats:
    """exp(exponent)."""
    return np.asarray(expm1(exponent) + 1)


def rounded_up(bounds: Floats) -> NDArray[np.float32]:
    """The bounds with room for rounding, to single precision: it halves what a large pool needs for a moment."""
    return (bounds * ROUNDING_SLACK + LEAST).astype(np.float32)


def cell_of(ability: float) -> int:
    """The cell an ability lies in."""
    return min(max(int((ability + MAX_ABILITY) / WIDTH), 0), CELLS - 1)
