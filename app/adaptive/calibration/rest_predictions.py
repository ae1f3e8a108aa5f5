"""What a learner's other items say of each answer, by a Rasch model of the course (Rasch 1960).

The chance of an answer is predicted from the posterior of the ability given the learner's first answers to all other
items, so that no answer is compared with itself, and designs in which everybody meets other items, or items near their
level, do no harm: the marginal likelihood of what was answered is right wherever the choice of items depends on
earlier answers only (Mislevy & Wu 1996).

Sizes: L learners, N first answers, I items, Q quadrature nodes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expm1

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.irt import ItemBank, ItemResponses, calibrate_rasch
from app.adaptive.irt.curves import log_probabilities
from app.adaptive.numerics import HALF, ordered_sum
from app.adaptive.response_log import Log

NODES = 31
WIDEST = 6.0
TOLERANCE = 1e-4
# Values that the posteriors of one block of learners may hold.
BLOCK = 1 << 22
# Less than this share of the greatest posterior weighs nothing, and would underflow.
NEGLIGIBLE = -300.0


@dataclass(frozen=True)
class RestPredictions:
    """Before each first answer is looked at, by the other items: the mean of the ability, and the chance of success.

    Both are (N,). The ability is in standard deviations of the population. `others` (N,) counts the other items.
    """

    ability: Floats
    p: Floats
    others: Integers


@dataclass(frozen=True)
class RaschFit:
    """Items with a common slope, and the variance of the ability."""

    item_bank: ItemBank
    ability_variance: float


def first_responses(log: Log, items: int) -> Integers:
    """Return where in the log the first answer of each learner to each item stands, ascending."""
    learner = np.repeat(np.arange(log.learners), np.diff(log.starts))
    return np.sort(np.unique(learner * items + log.items, return_index=True)[1])


def first_successes(log: Log, items: int) -> ItemResponses:
    """Return the first answer of each learner to each item, as right (from half of the score) or wrong."""
    first = first_responses(log, items)
    right = (log.scores[first] >= HALF).astype(np.int64)
    return ItemResponses(np.searchsorted(first, log.starts), log.items[first], right)


def select_responses(responses: ItemResponses, learners: Booleans) -> ItemResponses:
    """Return the answers of some learners (L,)."""
    lengths = np.diff(responses.starts)[learners]
    chosen = learners[responses.rows]
    return ItemResponses(
        np.concatenate([[0], np.cumsum(lengths)]), responses.items[chosen], responses.categories[chosen]
    )


def fit_rasch(responses: ItemResponses, items: int) -> RaschFit:
    """Fit by marginal maximum likelihood with the default priors; right or wrong is category 1 or 0."""
    return RaschFit(*calibrate_rasch(responses, items, NODES, TOLERANCE))


def predict_from_rest(fit: RaschFit, responses: ItemResponses) -> RestPredictions:
    """Predict every answer from the learner's answers to all other items.

    With log L_u(θ) the log-likelihood of all first answers of learner u, the posterior without item i is proportional
    to φ(θ) exp(log L_u(θ) − log P(y_ui | θ)).
    """
    nodes = np.linspace(-WIDEST, WIDEST, NODES)
    table = log_probabilities(fit.item_bank, fit.ability_variance**0.5 * nodes)
    ability, p = np.empty(len(responses.items)), np.empty(len(responses.items))
    lengths = np.diff(responses.starts)
    # A block begins where the answers before it pass another multiple of what it may hold.
    block_of = responses.starts[:-1] // (BLOCK // NODES)
    for block in np.unique(block_of[lengths > 0]).tolist():
        learners = np.flatnonzero((block_of == block) & (lengths > 0))
        first, last = int(responses.starts[learners[0]]), int(responses.starts[learners[-1] + 1])
        part, items = slice(first, last), responses.items[first:last]
        own = table[items, responses.categories[part]]
        posterior = np.add.reduceat(own, responses.starts[learners] - first, axis=0) - 0.5 * nodes * nodes
        rest = np.repeat(posterior, lengths[learners], axis=0) - own
        weights = expm1(np.maximum(rest - rest.max(axis=1, keepdims=True), NEGLIGIBLE)) + 1
        weights /= ordered_sum(weights)[:, None]
        ability[part] = ordered_sum(weights * nodes)
        p[part] = ordered_sum(weights * (expm1(table[items, 1]) + 1))
    return RestPredictions(ability, p, lengths[responses.rows] - 1)
