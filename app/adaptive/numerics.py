"""Arithmetic that more than one part of the engine needs."""

from collections.abc import Sequence

import numpy as np
from scipy.special import log1p, xlogy

from app.adaptive.arrays import Floats, Integers

HALF = 0.5
# Of a normal distribution 90 % lie within so many standard deviations.
NORMAL_90 = 1.6448536269514722
TINY = 1e-9


def ragged(lists: list[list[int]]) -> tuple[Integers, Integers]:
    """Rows of different length as `(starts, values)`: row i is `values[starts[i]:starts[i + 1]]`."""
    starts = np.zeros(len(lists) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in lists], out=starts[1:])
    return starts, np.array([value for row in lists for value in row], dtype=np.int64)


def pad_numbers(lists: Sequence[Sequence[int]]) -> Integers:
    """Return rows of different length as one array, filled up with -1."""
    width = max((len(row) for row in lists), default=0)
    rows = [[*row, *[-1] * (width - len(row))] for row in lists]
    return np.array(rows, dtype=np.int64).reshape(len(lists), width)


def clip(x: Floats, low: "Floats | float", high: "Floats | float") -> Floats:
    """What `np.clip` does, without its detours, which cost more than the work for one learner."""
    return np.minimum(np.maximum(x, low), high)


def ordered_sum(columns: Floats) -> Floats:
    """The sum over the last axis, always from left to right, so that padding with zeros changes no bit."""
    total = columns[..., 0].copy()
    for column in range(1, columns.shape[-1]):
        total += columns[..., column]
    return total


def logit(p: Floats) -> Floats:
    """log(p / (1 - p)), from SciPy's element-wise functions."""
    return np.asarray(xlogy(1.0, p) - log1p(-p))


def run_starts(values: Integers) -> Integers:
    """Where each run of equal values begins."""
    edge = np.ones(len(values), dtype=np.bool_)
    np.not_equal(values[1:], values[:-1], out=edge[1:])
    return edge.nonzero()[0]


def run_lengths(starts: Integers, end: int) -> Integers:
    """The lengths of runs that begin at `starts`, the last one before `end`."""
    result = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=result[:-1])
    result[-1:] = end - starts[-1:]
    return result
