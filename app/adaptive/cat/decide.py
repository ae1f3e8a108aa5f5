"""The next item of a test, the probability it had and why, or the end of the test."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.cat.exposure import draw_evenly, draw_item, filter_by_exposure
from app.adaptive.cat.plan import Plan
from app.adaptive.cat.pool import Pool, information_at, open_items
from app.adaptive.cat.selection import Ranked, criterion_values, rank
from app.adaptive.cat.shadow import (
    Assemble,
    Assembly,
    ShadowProblem,
    assemble_shadow_test,
    meets_lower_bounds,
    shadow_problem,
    take_known_assembly,
)
from app.adaptive.cat.state import ExamineeState, add_unscored
from app.adaptive.cat.stopping import Stop, done_by, stop_reason

Kind = Literal["first", "pilot", "selected", "end"]
Relaxed = Literal["max_exposure", "content_shares", "bounds"]


class NextItem(NamedTuple):
    """`item` is given next, -1 at the end; then `stop` says why it ended.

    `kind` is how the item was found: fixed first, an unscored pilot, or selected by the rule. `propensity` is the
    chance it had given the answers so far, over the seeds. `relaxed`: what the plan asked for and could not be kept.
    `terms` are what was weighed: `ability` and `standard_error` of the item's scale, `information` there; of a selected
    item also `criterion`, its value under the rule, `candidates`, how many items it was selected from, and `rank`, its
    place among them from 1. `assembly` are the items of the shadow test, the given one among them.
    """

    item: int
    stop: Stop | None
    kind: Kind
    scale: int
    propensity: float
    relaxed: tuple[Relaxed, ...]
    terms: Mapping[str, float]
    assembly: tuple[int, ...] = ()


def next_item(
    pool: Pool,
    plan: Plan,
    state: ExamineeState,
    seed: int,
    elapsed_seconds: float = 0.0,
    exposure_rates: Floats | None = None,
    known: tuple[int, ...] = (),
    assemble: Assemble = assemble_shadow_test,
) -> NextItem:
    """Return the next item of a test, or its end. The same arguments give the same item.

    `seed` (0 to 2⁶⁴ - 1) is the chance of the whole test. `exposure_rates` (I,) are the shares of earlier tests in
    which each item was given; they count where the plan has a `max_exposure`. `known` is the `assembly` of the decision
    before; `assemble` computes the next one, or has it computed elsewhere.
    """
    stop = stop_reason(plan, state, elapsed_seconds)
    if stop is not None and (stop in ("max_items", "max_seconds") or meets_lower_bounds(pool, plan, state)):
        return _end_of_test(stop)
    return _select_item(pool, plan, state, seed, exposure_rates, known, assemble)


def _end_of_test(stop: Stop) -> NextItem:
    """Return the decision that ends a test."""
    return NextItem(-1, stop, "end", -1, 0.0, (), {})


def look_ahead(
    pool: Pool,
    plan: Plan,
    state: ExamineeState,
    seed: int,
    count: int,
    exposure_rates: Floats | None = None,
    known: tuple[int, ...] = (),
    assemble: Assemble = assemble_shadow_test,
) -> tuple[int, ...]:
    """Return the next `count` items as if no answer changed the estimate, the first one that of `next_item`.

    For clients that may lose the connection; fewer where the test would be at its longest, or no item is left. `known`
    is the `assembly` of the decision that offered the first of them: what is left of it serves for the others.
    """

    def reuse(problem: ShadowProblem) -> Assembly:
        return take_known_assembly(problem) or assemble(problem)

    ahead: tuple[int, ...] = ()
    while len(ahead) < count:
        scored = state.length + sum(item not in plan.unscored for item in ahead)
        if plan.max_items is not None and scored >= plan.max_items:
            break
        decision = _select_item(pool, plan, state, seed, exposure_rates, known, reuse)
        if decision.item < 0:
            break
        ahead, known = (*ahead, decision.item), decision.assembly
        state = add_unscored(state, decision.item)
    return ahead


def _select_item(
    pool: Pool,
    plan: Plan,
    state: ExamineeState,
    seed: int,
    exposure_rates: Floats | None,
    known: tuple[int, ...],
    assemble: Assemble,
) -> NextItem:
    """Select the next item, whether or not the test would end."""
    free = open_items(pool, state.items)
    for item in plan.first:
        if free[item]:
            return _as_next_item(pool, state, item, "first", 1.0)
    step = len(state.items)
    if _is_pilot_due(plan, state):
        pilots = [item for item in plan.pilots if free[item]]
        if pilots:
            drawn = draw_evenly(len(pilots), seed, step)
            return _as_next_item(pool, state, pilots[drawn.position], "pilot", drawn.propensity, known)
    if plan.pilots:
        free[list(plan.pilots)] = False
    return select_by_rule(pool, plan, state, (seed, step), free, exposure_rates, known, assemble)


def _is_pilot_due(plan: Plan, state: ExamineeState) -> bool:
    """Return whether more pilot items should have been given by now than were."""
    if not plan.pilots:
        return False
    due = sum(position <= len(state.items) for position in plan.pilot_positions)
    return due > sum(item in plan.unscored for item in state.items)


def _as_next_item(
    pool: Pool, state: ExamineeState, item: int, kind: Kind, propensity: float, known: tuple[int, ...] = ()
) -> NextItem:
    """Return the decision for an item that no rule has weighed."""
    scale = int(pool.scale[item])
    ability, error = state.ability[scale], state.standard_error[scale]
    terms = {"ability": ability, "standard_error": error, "information": _item_information(pool, item, ability)}
    return NextItem(item, None, kind, scale, propensity, (), terms, known)


def _item_information(pool: Pool, item: int, ability: float) -> float:
    """Return the Fisher information of one item."""
    return float(information_at(pool, np.array([item]), ability)[0])


def select_by_rule(
    pool: Pool,
    plan: Plan,
    state: ExamineeState,
    seed_and_step: tuple[int, int],
    free: Booleans,
    exposure_rates: Floats | None,
    known: tuple[int, ...] = (),
    assemble: Assemble = assemble_shadow_test,
) -> NextItem:
    """Select one of the free items by the rule; `seed_and_step` is the seed and the step of the test."""
    relaxed: tuple[Relaxed, ...] = ()
    assembly: tuple[int, ...] = ()
    eligible = filter_by_exposure(plan, free, exposure_rates)
    scale = _scale_to_measure(pool, plan, state, eligible)
    if scale < 0:
        scale, relaxed = _scale_to_measure(pool, plan, state, free), ("max_exposure",)
        eligible = free
    if scale < 0:
        return _end_of_test("no_items")
    if plan.bounds:
        found, newly_relaxed = _assemble_from(pool, plan, state, (eligible, free), known, assemble)
        relaxed, assembly = relaxed + newly_relaxed, tuple(found.tolist())
        eligible, scale = _limit_to_assembly(pool, plan, state, found)
    elif plan.content_shares:
        eligible, newly_relaxed = _limit_to_content(pool, plan, state, scale, eligible)
        relaxed += newly_relaxed

    def ranking(count: int) -> Ranked:
        return rank(pool, plan, state, scale, eligible, count)

    ranked, drawn = draw_item(pool, plan, ranking, *seed_and_step)
    item = int(ranked.items[drawn.position])
    criterion = float(ranked.values[drawn.position])
    candidates = np.count_nonzero(eligible if pool.scales == 1 else eligible[pool.members[scale]])
    informed = plan.rule == "max_information"
    terms = {
        "ability": state.ability[scale],
        "standard_error": state.standard_error[scale],
        "information": criterion if informed else _item_information(pool, item, state.ability[scale]),
        "criterion": criterion,
        "candidates": float(candidates),
        "rank": float(drawn.position + 1),
    }
    return NextItem(item, None, "selected", scale, drawn.propensity, relaxed, terms, assembly)


def _scale_to_measure(pool: Pool, plan: Plan, state: ExamineeState, free: Booleans) -> int:
    """Return the scale with the greatest standard error of those that need an item and have one, -1 if none has."""
    if pool.scales == 1:
        return 0 if np.count_nonzero(free) else -1
    scales = range(pool.scales)
    unfinished = [scale for scale in scales if not done_by(plan, state, scale)]
    if state.length < plan.min_items or not unfinished:
        unfinished = list(scales)
    return _least_precise_scale(pool, state, unfinished, free)


def _least_precise_scale(pool: Pool, state: ExamineeState, scales: Iterable[int], free: Booleans) -> int:
    """Return, of some scales, that with the greatest standard error that has a free item, -1 if none has."""
    available = (scale for scale in scales if free[pool.members[scale]].any())
    return max(available, key=lambda scale: (state.standard_error[scale], -scale), default=-1)


def _limit_to_content(
    pool: Pool, plan: Plan, state: ExamineeState, scale: int, free: Booleans
) -> tuple[Booleans, tuple[Relaxed, ...]]:
    """Return the free items of the content group farthest below its share; all if no group with a share has any."""
    groups = pool.content[[item for item in state.items if item not in plan.unscored]]
    administered = np.bincount(groups[groups >= 0], minlength=len(plan.content_shares))[: len(plan.content_shares)]
    shares = np.array(plan.content_shares)
    missing = shares / shares.sum() - administered / max(len(groups), 1)
    for group in np.lexsort((np.arange(len(shares)), -missing)).tolist():
        within = free & (pool.content == group)
        if shares[group] > 0 and within[pool.members[scale]].any():
            return within, ()
    return free, ("content_shares",)


def _assemble_from(
    pool: Pool,
    plan: Plan,
    state: ExamineeState,
    masks: tuple[Booleans, Booleans],
    known: tuple[int, ...],
    assemble: Assemble,
) -> tuple[Integers, tuple[Relaxed, ...]]:
    """Return the items of the best test that keeps the bounds.

    `masks` are the items that were not given too often, and all. If no test keeps the bounds with the first, the
    rate is relaxed, and then the bounds.
    """
    eligible, free = masks
    attempts: tuple[tuple[Booleans, tuple[Relaxed, ...]], ...] = ((eligible, ()), (free, ("max_exposure",)))
    nearest = np.zeros(0, dtype=np.int64)
    for candidate_mask, relaxed in attempts[: 1 if eligible is free else 2]:
        items = np.flatnonzero(candidate_mask)
        values = criterion_values(pool, plan, state, items)
        nearest, keeps_bounds = assemble(shadow_problem(pool, plan, state, items, values, known))
        if keeps_bounds:
            return nearest, relaxed
    return nearest, ("bounds",)


def _limit_to_assembly(pool: Pool, plan: Plan, state: ExamineeState, found: Integers) -> tuple[Booleans, int]:
    """Return the items of a shadow test as a mask (I,), and the scale to measure with them."""
    shadow = np.zeros(pool.count, dtype=np.bool_)
    shadow[found] = True
    unfinished = _scale_to_measure(pool, plan, state, shadow)
    # What the bounds ask for may be of scales that need no item any more.
    return shadow, unfinished if unfinished >= 0 else _least_precise_scale(pool, state, range(pool.scales), shadow)
