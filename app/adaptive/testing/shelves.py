"""Which items may be the most informative at an ability: bounds over short cells of ability, made once for a pool.

A shelf lists, for each cell, the items whose information can be greatest there, by an upper bound over the whole cell.
Going down the shelf and computing exactly, one may stop where no bound is left above what was found: the choice is
that of looking at every item.

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

from app.adaptive.irt.bank import Bank
from app.adaptive.irt.information import information, over_categories, reach
from app.adaptive.types import Floats, Integers

HIGHEST = 6.0
CELLS = 240
WIDTH = 2 * HIGHEST / CELLS
EDGES = np.linspace(-HIGHEST, HIGHEST, CELLS + 1)
LONGEST = 256
# More than rounding can add, also to single precision.
SLACK, LEAST = 1 + 1e-6, 1e-12


class Shelf(NamedTuple):
    """For each cell of one scale: `items` (CELLS, T), best bound first, and `bounds` (CELLS, T + 1) of these.

    The last bound is that of everything which is not on the shelf.
    """

    items: Integers
    bounds: Floats


def make_shelf(blocks: Iterable[tuple[Integers, Bank]]) -> Shelf:
    """The shelf of the items of one scale, given in blocks: their numbers and parameters."""
    named, tables = [], []
    for ids, bank in blocks:
        named.append(ids)
        tables.append(rounded_up(upper_bounds(bank)))
    if not named:
        return Shelf(np.empty((CELLS, 0), dtype=np.int64), np.full((CELLS, 1), -1.0))
    listed, found = np.concatenate(named), np.concatenate(tables)
    length = min(LONGEST, len(listed))
    items, bounds = np.empty((CELLS, length), dtype=np.int64), np.full((CELLS, length + 1), -1.0)
    for cell in range(CELLS):
        column = found[:, cell].astype(np.float64)
        near = np.argpartition(-column, length)[: length + 1] if length < len(column) else np.arange(length)
        near = near[np.lexsort((listed[near], -column[near]))]
        items[cell] = listed[near[:length]]
        bounds[cell, : len(near)] = column[near]
    return Shelf(items, bounds)


def upper_bounds(bank: Bank) -> Floats:
    """(I, CELLS): at least the information of every item anywhere in each cell."""
    if bank.model == "graded":
        return graded_bounds(bank)
    at_edges = information(bank, EDGES)
    left, right = at_edges[:, :-1], at_edges[:, 1:]
    slope = bank.discrimination[:, None]
    if bank.model == "gpcm":
        steepest = slope * bank.grades[:, None]
        return np.sqrt(left * right) * grown(0.5 * WIDTH * steepest)
    reached = expit(slope * (EDGES - bank.difficulty))
    rise = np.maximum(2 - 3 * reached[:, :-1], 0.0)
    fall = np.maximum(3 * reached[:, 1:] - 1, 0.0)
    return np.minimum(left * grown(WIDTH * slope * rise), right * grown(WIDTH * slope * fall))


def graded_bounds(bank: Bank) -> Floats:
    """The same for the graded response model."""
    reached = reach(bank, EDGES)
    low, high = reached[:, :, :-1], reached[:, :, 1:]
    share = np.maximum(high[:, :-1] - low[:, 1:], 0.0)
    tilt = np.maximum(np.abs(1 - low[:, :-1] - low[:, 1:]), np.abs(1 - high[:, :-1] - high[:, 1:]))
    return bank.discrimination[:, None] ** 2 * over_categories(share * tilt * tilt)


def grown(exponent: Floats) -> Floats:
    """exp(exponent)."""
    return np.asarray(expm1(exponent) + 1)


def rounded_up(bounds: Floats) -> NDArray[np.float32]:
    """The bounds with room for rounding, to single precision: it halves what a large pool needs for a moment."""
    return (bounds * SLACK + LEAST).astype(np.float32)


def cell_of(ability: float) -> int:
    """The cell an ability lies in."""
    return min(max(int((ability + HIGHEST) / WIDTH), 0), CELLS - 1)
