"""The answers as matrices: what the E-step of Bock & Aitkin (1981) multiplies with, in blocks of learners.

A column is a category of an item. Where nobody left anything out, the lowest category is the difference to all the
others, and its columns are spared. Dense (BLAS) where a fifth of the cells is filled, sparse elsewhere.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from app.adaptive.arrays import Floats, Integers
from app.adaptive.irt.items import ItemResponses

# BLAS multiplies so many cells in the time in which a sparse product gathers one (measured: 4 to 6).
DENSE_SPEED_UP = 5
MAX_DENSE_CELLS = 1 << 26
ROWS_DENSE, ROWS_SPARSE = 2048, 16384
# Less than e^-100 of a learner's greatest likelihood weighs nothing, and would underflow.
NEGLIGIBLE = -100.0


@dataclass(frozen=True)
class ResponseMatrices:
    """`blocks`: the matrix (rows, columns) of consecutive learners. `complete`: everyone answered every item once."""

    blocks: list[Any]
    categories: int
    complete: bool

    def expand(self, table: Floats) -> tuple[Floats, Floats]:
        """A table (I, K, Q) as columns (C, Q), and what every learner has in common (Q,)."""
        if not self.complete:
            return table.reshape(-1, table.shape[2]), np.zeros(table.shape[2])
        return (table[:, 1:] - table[:, :1]).reshape(-1, table.shape[2]), table[:, 0].sum(axis=0)

    def collect(self, columns: Floats, total: Floats) -> Floats:
        """The reverse for counts: columns (C, Q) as (I, K, Q), given the count of all learners (Q,)."""
        shape = (-1, self.categories - self.complete, columns.shape[1])
        counts = columns.reshape(shape)
        if not self.complete:
            return counts
        rest = total - counts.sum(axis=1, keepdims=True)
        return np.concatenate([np.maximum(rest, 0.0), counts], axis=1)


def build_matrices(responses: ItemResponses, items: int, categories: int) -> ResponseMatrices:
    """The matrices of a set of answers."""
    learners, count = responses.learners, len(responses.items)
    cells = learners * items
    complete = count == cells > 0 and _has_all_responses(responses, items)
    width = items * (categories - complete)
    column = responses.items * (categories - complete) + responses.categories - complete
    used = responses.categories >= complete
    dense = learners * width <= min(DENSE_SPEED_UP * int(used.sum()), MAX_DENSE_CELLS)
    step = ROWS_DENSE if dense else ROWS_SPARSE
    build_block = _dense_block if dense else _sparse_block
    return ResponseMatrices(
        [build_block(responses, column, used, first, step, width) for first in range(0, learners, step)],
        categories,
        complete,
    )


def _has_all_responses(responses: ItemResponses, items: int) -> bool:
    """Whether every learner answered every item, none twice."""
    if (np.diff(responses.starts) != items).any():
        return False
    return bool(
        (np.bincount(responses.rows * items + responses.items, minlength=responses.learners * items) == 1).all()
    )


def _response_slice(responses: ItemResponses, first: int, step: int) -> slice:
    """The answers of some consecutive learners."""
    last = min(first + step, responses.learners)
    return slice(int(responses.starts[first]), int(responses.starts[last]))


def _dense_block(responses: ItemResponses, column: Integers, used: Any, first: int, step: int, width: int) -> Floats:
    """A block as a dense matrix; an item answered twice counts twice."""
    here = _response_slice(responses, first, step)
    rows = min(step, responses.learners - first)
    cell = ((responses.rows[here] - first) * width + column[here])[used[here]]
    return np.bincount(cell, minlength=rows * width).astype(np.float64).reshape(rows, width)


def _sparse_block(responses: ItemResponses, column: Integers, used: Any, first: int, step: int, width: int) -> Any:
    """A block as a sparse matrix."""
    here = _response_slice(responses, first, step)
    rows = min(step, responses.learners - first)
    row = (responses.rows[here] - first)[used[here]]
    starts = np.zeros(rows + 1, dtype=np.int64)
    np.cumsum(np.bincount(row, minlength=rows), out=starts[1:])
    columns = column[here][used[here]].astype(np.int32)
    return csr_array((np.ones(len(columns)), columns, starts.astype(np.int32)), shape=(rows, width))


def posteriors(matrices: ResponseMatrices, log_p: Floats, log_weights: Floats) -> Iterator[tuple[Any, Floats, float]]:
    """Per block: its matrix, the posterior (rows, Q) of every learner over the nodes, and the log-likelihood."""
    columns, common = matrices.expand(log_p)
    for block in matrices.blocks:
        weights = block @ columns
        weights += common + log_weights
        highest = weights.max(axis=1, keepdims=True)
        weights -= highest
        np.maximum(weights, NEGLIGIBLE, out=weights)
        np.exp(weights, out=weights)
        total = weights.sum(axis=1, keepdims=True)
        weights /= total
        yield block, weights, float(highest.sum() + np.log(total).sum())


def expected_counts(matrices: ResponseMatrices, log_p: Floats, log_weights: Floats) -> tuple[float, Floats]:
    """The E-step: the marginal log-likelihood, and r (I, K, Q), how many learners at a node gave each answer."""
    likelihood = 0.0
    width, nodes = log_p.shape[0] * (matrices.categories - matrices.complete), log_p.shape[2]
    counts, total = np.zeros((width, nodes)), np.zeros(nodes)
    for block, weights, value in posteriors(matrices, log_p, log_weights):
        likelihood += value
        counts += block.T @ weights
        total += weights.sum(axis=0)
    return likelihood, matrices.collect(counts, total)
