"""Ability from the answers to calibrated items: the mean of its posterior (EAP), never an unbounded maximum.

Expected a posteriori on a grid with a normal prior (Bock & Mislevy 1982). Sums run in the order of the answers and of
the nodes, so that the ability of a learner has the same bits alone and in a batch.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expm1

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.irt.curves import log_probabilities
from app.adaptive.irt.items import ItemBank, ItemResponses, check_responses
from app.adaptive.numerics import ordered_sum

NODES = 61
WIDEST = 6.0
LEARNERS_AT_ONCE = 4096
# Less than this share of a learner's greatest posterior weighs nothing, and would underflow.
NEGLIGIBLE = -300.0
# So much of the posterior on the last node says that the ability lies beyond the grid.
BEYOND = 0.05


@dataclass(frozen=True)
class Abilities:
    """Posterior mean of θ, its standard deviation, and whether the mean is only a limit, each (L,).

    The standard error never exceeds the standard deviation of the prior.
    """

    ability: Floats
    standard_error: Floats
    at_bound: Booleans


def estimate(
    item_bank: ItemBank, answers: ItemResponses, mean: float = 0.0, variance: float = 1.0, nodes: int = NODES
) -> Abilities:
    """EAP ability of L learners, from whatever items of the bank each has answered; the prior for who answered none.

    The prior N(`mean`, `variance`) is that of the calibration: variance 1, or its `ability_variance`. The nodes lie
    evenly within 6 standard deviations. Raises ValueError for answers that do not fit the bank.
    """
    check_responses(answers, item_bank.max_category, item_bank.model)
    points = np.linspace(-WIDEST, WIDEST, nodes)
    prior = -0.5 * points * points
    abilities = mean + variance**0.5 * points
    used, renamed = np.unique(answers.items, return_inverse=True)
    table = log_probabilities(item_bank[used], abilities)
    found = Abilities(
        np.empty(answers.learners), np.empty(answers.learners), np.empty(answers.learners, dtype=np.bool_)
    )
    lengths = np.diff(answers.starts)
    order = np.argsort(-lengths, kind="stable")
    for first in range(0, answers.learners, LEARNERS_AT_ONCE):
        block = order[first : first + LEARNERS_AT_ONCE]
        posterior = np.repeat(prior[None], len(block), axis=0)
        for t in range(int(lengths[block[0]])):
            active = int(np.searchsorted(-lengths[block], -t, side="left"))
            at = answers.starts[block[:active]] + t
            posterior[:active] += table[renamed[at], answers.categories[at]]
        _fill(found, block, abilities, posterior, variance)
    return found


def _fill(found: Abilities, block: Integers, abilities: Floats, posterior: Floats, variance: float) -> None:
    """Write the moments of the posteriors, given as logarithms (L, Q), of the learners of one block."""
    weights = expm1(np.maximum(posterior - posterior.max(axis=1, keepdims=True), NEGLIGIBLE)) + 1
    weights /= ordered_sum(weights)[:, None]
    ability = ordered_sum(weights * abilities)
    spread = ordered_sum(weights * (abilities - ability[:, None]) ** 2)
    found.ability[block] = ability
    found.standard_error[block] = np.sqrt(np.clip(spread, 0.0, variance))
    found.at_bound[block] = np.maximum(weights[:, 0], weights[:, -1]) > BEYOND
