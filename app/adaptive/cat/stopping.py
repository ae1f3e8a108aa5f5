"""Stopping rules of a test, and its classification."""

from typing import Literal

from scipy.special import log1p, ndtri, xlogy

from app.adaptive.cat.plan import Classification, Plan
from app.adaptive.cat.state import ExamineeState

Stop = Literal["max_items", "max_seconds", "standard_error", "standard_error_change", "classified", "no_items"]


def stop_reason(plan: Plan, state: ExamineeState, elapsed_seconds: float) -> Stop | None:
    """Return why the test ends here, None if it goes on; with several scales, why the last one needs no more.

    The selection finds that no item is left.
    """
    if plan.max_items is not None and state.length >= plan.max_items:
        return "max_items"
    if plan.max_seconds is not None and elapsed_seconds >= plan.max_seconds:
        return "max_seconds"
    if state.length < plan.min_items:
        return None
    reasons = [done_by(plan, state, scale) for scale in range(len(state.ability))]
    return reasons[-1] if all(reasons) else None


def done_by(plan: Plan, state: ExamineeState, scale: int) -> Stop | None:
    """Return why a scale needs no further item, None if it does."""
    if _is_precise(plan, state, scale):
        return "standard_error"
    if _is_flat(plan, state, scale):
        return "standard_error_change"
    if plan.classification is not None and _is_decided(plan.classification, state, scale):
        return "classified"
    return None


def _is_extreme(state: ExamineeState, scale: int) -> bool:
    """Whether all answers so far are in the lowest or in the highest category: then only the prior bounds the ability.

    Such a pattern never ends a test by its precision.
    """
    return state.lowest[scale] or state.highest[scale]


def _is_precise(plan: Plan, state: ExamineeState, scale: int) -> bool:
    """Return whether the standard error is what was asked for."""
    limit = plan.standard_error
    return limit is not None and state.standard_error[scale] <= limit and not _is_extreme(state, scale)


def _is_flat(plan: Plan, state: ExamineeState, scale: int) -> bool:
    """Return whether the last answer hardly lowered the standard error."""
    limit, change = plan.standard_error_change, state.change[scale]
    return limit is not None and change is not None and abs(change) < limit and not _is_extreme(state, scale)


def _is_decided(rule: Classification, state: ExamineeState, scale: int) -> bool:
    """Return whether it is clear on which side of every cut the ability lies."""
    return all(side is not None for side in decide_cuts(rule, state, scale))


def decide_cuts(rule: Classification, state: ExamineeState, scale: int) -> list[bool | None]:
    """Return for each cut of a scale: above, below, or None while that is open."""
    if rule.method == "interval":
        ability, reach = state.ability[scale], float(ndtri((1 + rule.confidence) / 2)) * state.standard_error[scale]
        return [None if abs(ability - cut) <= reach else ability > cut for cut in rule.cuts[scale]]
    accept = float(log1p(-rule.beta) - xlogy(1.0, rule.alpha))
    reject = float(xlogy(1.0, rule.beta) - log1p(-rule.alpha))
    return [True if ratio >= accept else False if ratio <= reject else None for ratio in state.ratios[scale]]


def cut_levels(plan: Plan, state: ExamineeState) -> tuple[int, ...]:
    """Return the level of each scale: how many of its cuts the ability is above; by the EAP where undecided."""
    rule = plan.classification
    if rule is None:
        return (0,) * len(state.ability)
    return tuple(
        sum(
            ability > cut if side is None else side
            for cut, side in zip(rule.cuts[scale], decide_cuts(rule, state, scale), strict=True)
        )
        for scale, ability in enumerate(state.ability)
    )
