"""The state of a running test: items given, responses, and the posterior of each ability."""

from typing import NamedTuple, TypeVar

import numpy as np
from scipy.special import expm1

from app.adaptive.arrays import Floats
from app.adaptive.cat.plan import Plan, check_plan
from app.adaptive.cat.pool import NODES, Pool, log_curve, log_row
from app.adaptive.irt.ability import BEYOND

T = TypeVar("T")
# 1, θ and θ² at the nodes.
POWERS = np.stack([NODES**0, NODES, NODES**2])


class ExamineeState(NamedTuple):
    """After some answers. Everything that is not of an item is of each of the C scales.

    `items` and `categories` are those given, pilots included. `log_posterior` (C, Q) is at `NODES`, 0 at its greatest.
    `ability` is its mean (EAP), `standard_error` its standard deviation, never above the prior's. `scored` counts the
    answers it rests on; `lowest` and `highest`: whether all of them are in the lowest, or highest, category. `change`
    is by how much the last of them lowered the standard error; None before there is one. `ratios` are the log
    likelihood ratios of a sequential classification, one for each cut.
    """

    items: tuple[int, ...]
    categories: tuple[int, ...]
    log_posterior: Floats
    ability: tuple[float, ...]
    standard_error: tuple[float, ...]
    scored: tuple[int, ...]
    lowest: tuple[bool, ...]
    highest: tuple[bool, ...]
    change: tuple[float | None, ...]
    ratios: tuple[tuple[float, ...], ...]

    @property
    def length(self) -> int:
        """The number of scored answers."""
        return sum(self.scored)

    @property
    def at_bound(self) -> tuple[bool, ...]:
        """Whether so much of a posterior is at the end of the grid that the ability is only a limit."""
        return tuple(bool(max(weights[0], weights[-1]) > BEYOND) for weights in map(posterior, self.log_posterior))


def start_test(pool: Pool, plan: Plan) -> ExamineeState:
    """Return the state before the first answer. Raises ValueError for a plan that this pool cannot follow."""
    check_plan(pool, plan)
    mean, spread = np.array(plan.prior_mean)[:, None], np.array(plan.prior_sd)[:, None]
    log_prior = -0.5 * ((NODES - mean) / spread) ** 2
    log_prior -= log_prior.max(axis=1, keepdims=True)
    moments = [_moments_of(row, sd) for row, sd in zip(log_prior, plan.prior_sd, strict=True)]
    log_prior.setflags(write=False)
    cuts = plan.classification.cuts if plan.classification else ((),) * pool.scales
    all_scales = (True,) * pool.scales
    return ExamineeState(
        items=(),
        categories=(),
        log_posterior=log_prior,
        ability=tuple(ability for ability, _ in moments),
        standard_error=tuple(error for _, error in moments),
        scored=(0,) * pool.scales,
        lowest=all_scales,
        highest=all_scales,
        change=(None,) * pool.scales,
        ratios=tuple((0.0,) * len(scale_cuts) for scale_cuts in cuts),
    )


def update_state(pool: Pool, plan: Plan, state: ExamineeState, item: int, category: int) -> ExamineeState:
    """Return the state after one more answer: `category` from 0 to the item's highest. A pilot item moves no estimate.

    Raises ValueError for an item that does not exist or was given before, or a category that it does not have.
    """
    if not 0 <= item < pool.count or item in state.items:
        raise ValueError("an answer to an item that does not exist or was answered before")
    max_category = int(pool.max_category[item])
    if not 0 <= category <= max_category:
        raise ValueError("an answer in a category that the item does not have")
    if item in plan.unscored:
        return add_unscored(state, item, category)
    scale = int(pool.scale[item])
    row = state.log_posterior[scale] + log_row(pool, item)[category]
    row -= np.maximum.reduce(row)
    ability, error = _moments_of(row, plan.prior_sd[scale])
    if len(state.ability) == 1:
        table = row[None]
    else:
        table = state.log_posterior.copy()
        table[scale] = row
    table.setflags(write=False)
    return ExamineeState(
        items=(*state.items, item),
        categories=(*state.categories, category),
        log_posterior=table,
        ability=_with_value(state.ability, scale, ability),
        standard_error=_with_value(state.standard_error, scale, error),
        scored=_with_value(state.scored, scale, state.scored[scale] + 1),
        lowest=_with_value(state.lowest, scale, state.lowest[scale] and category == 0),
        highest=_with_value(state.highest, scale, state.highest[scale] and category == max_category),
        change=_with_value(state.change, scale, state.standard_error[scale] - error),
        ratios=_ratios_after(pool, plan, state, item, category),
    )


def add_unscored(state: ExamineeState, item: int, category: int = 0) -> ExamineeState:
    """Return the state after an item that was given and is not scored."""
    return state._replace(items=(*state.items, item), categories=(*state.categories, category))


def _with_value(values: tuple[T, ...], index: int, value: T) -> tuple[T, ...]:
    """Return the values with another one at an index."""
    return (value,) if len(values) == 1 else (*values[:index], value, *values[index + 1 :])


def _moments_of(log_posterior: Floats, prior_sd: float) -> tuple[float, float]:
    """Return mean and standard deviation of one posterior; sums run from node to node."""
    total, first, second = np.add.accumulate((expm1(log_posterior) + 1) * POWERS, axis=1)[:, -1].tolist()
    ability = first / total
    return ability, min(max(second / total - ability * ability, 0.0) ** 0.5, prior_sd)


def posterior(log_posterior: Floats) -> Floats:
    """Return the weights of the nodes, (Q,), which sum to 1; `log_posterior` is 0 at its greatest."""
    weights = expm1(log_posterior) + 1
    return np.asarray(weights / np.add.accumulate(weights)[-1])


def _ratios_after(
    pool: Pool, plan: Plan, state: ExamineeState, item: int, category: int
) -> tuple[tuple[float, ...], ...]:
    """Return the log likelihood ratios of cut + delta to cut - delta, with one more answer."""
    rule, scale = plan.classification, int(pool.scale[item])
    if rule is None or rule.method != "sprt" or not rule.cuts[scale]:
        return state.ratios
    cuts = np.array(rule.cuts[scale])
    log_p = log_curve(pool, item, np.concatenate([cuts - rule.delta, cuts + rule.delta]))[category]
    added = log_p[len(cuts) :] - log_p[: len(cuts)]
    moved = tuple(before + more for before, more in zip(state.ratios[scale], added.tolist(), strict=True))
    return _with_value(state.ratios, scale, moved)
