"""One turn of a test: the next item, the chance it had and why, or the end."""

from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import numpy as np

from app.adaptive.testing.exposure import draw, draw_evenly, within_rate
from app.adaptive.testing.plan import Plan
from app.adaptive.testing.pool import Pool, information_at, open_items
from app.adaptive.testing.selection import Ranked, rank, worth
from app.adaptive.testing.shadow import assemble, keeps_least
from app.adaptive.testing.sitting import Sitting, given
from app.adaptive.testing.stopping import Stop, done_by, stop_reason
from app.adaptive.types import Booleans, Floats

Kind = Literal["first", "pilot", "selected", "end"]
Relaxed = Literal["max_exposure", "content_shares", "bounds"]


class Turn(NamedTuple):
    """`item` is given next, -1 at the end; then `stop` says why it ended.

    `kind` is how the item was found: fixed first, an unscored pilot, or selected by the rule. `propensity` is the
    chance it had given the answers so far, over the seeds. `relaxed`: what the plan asked for and could not be kept.
    `terms` are what was weighed: `ability` and `standard_error` of the item's scale, `information` there; of a selected
    item also `criterion`, its value under the rule, `candidates`, how many items it was selected from, and `rank`, its
    place among them from 1.
    """

    item: int
    stop: Stop | None
    kind: Kind
    scale: int
    propensity: float
    relaxed: tuple[Relaxed, ...]
    terms: Mapping[str, float]


def next_item(
    pool: Pool,
    plan: Plan,
    sitting: Sitting,
    seed: int,
    elapsed_seconds: float = 0.0,
    exposure_rates: Floats | None = None,
) -> Turn:
    """The next item of a test, or its end. The same arguments give the same turn.

    `seed` (0 to 2⁶⁴ - 1) is the chance of the whole test. `exposure_rates` (I,) are the shares of earlier tests in
    which each item was given; they count where the plan has a `max_exposure`.
    """
    stop = stop_reason(plan, sitting, elapsed_seconds)
    if stop is not None and (stop in ("max_items", "max_seconds") or keeps_least(pool, plan, sitting)):
        return ended(stop)
    return offer(pool, plan, sitting, seed, exposure_rates)


def ended(stop: Stop) -> Turn:
    """The turn of a test that is over."""
    return Turn(-1, stop, "end", -1, 0.0, (), {})


def look_ahead(
    pool: Pool,
    plan: Plan,
    sitting: Sitting,
    seed: int,
    many: int,
    exposure_rates: Floats | None = None,
) -> tuple[int, ...]:
    """The next `many` items as they would come if no answer said anything, the first one that of `next_item`.

    For clients that may lose the connection; fewer where the test would be at its longest, or no item is left.
    """
    found: tuple[int, ...] = ()
    while len(found) < many:
        scored = sitting.length + sum(item not in plan.unscored for item in found)
        if plan.max_items is not None and scored >= plan.max_items:
            break
        item = offer(pool, plan, sitting, seed, exposure_rates).item
        if item < 0:
            break
        found = (*found, item)
        sitting = given(sitting, item)
    return found


def offer(pool: Pool, plan: Plan, sitting: Sitting, seed: int, exposure_rates: Floats | None) -> Turn:
    """The next item, wherever the test would end."""
    free = open_items(pool, sitting.items)
    for item in plan.first:
        if free[item]:
            return told(pool, sitting, item, "first", 1.0)
    turn = len(sitting.items)
    if is_pilot_due(plan, sitting):
        pilots = [item for item in plan.pilots if free[item]]
        if pilots:
            drawn = draw_evenly(len(pilots), seed, turn)
            return told(pool, sitting, pilots[drawn.place], "pilot", drawn.propensity)
    if plan.pilots:
        free[list(plan.pilots)] = False
    return select(pool, plan, sitting, (seed, turn), free, exposure_rates)


def is_pilot_due(plan: Plan, sitting: Sitting) -> bool:
    """Whether more pilot items should have been given by now than were."""
    if not plan.pilots:
        return False
    turn = len(sitting.items)
    return sum(place <= turn for place in plan.pilot_places) > sum(item in plan.unscored for item in sitting.items)


def told(pool: Pool, sitting: Sitting, item: int, kind: Kind, propensity: float) -> Turn:
    """The turn of an item that no rule has weighed."""
    scale = int(pool.scale[item])
    ability, error = sitting.ability[scale], sitting.standard_error[scale]
    terms = {"ability": ability, "standard_error": error, "information": information_of(pool, item, ability)}
    return Turn(item, None, kind, scale, propensity, (), terms)


def information_of(pool: Pool, item: int, ability: float) -> float:
    """The Fisher information of one item."""
    return float(information_at(pool, np.array([item]), ability)[0])


def select(
    pool: Pool, plan: Plan, sitting: Sitting, chance: tuple[int, int], free: Booleans, exposure_rates: Floats | None
) -> Turn:
    """One of the free items by the rule; `chance` is seed and turn."""
    relaxed: tuple[Relaxed, ...] = ()
    rare = within_rate(plan, free, exposure_rates)
    scale = scale_to_measure(pool, plan, sitting, rare)
    if scale < 0:
        scale, relaxed = scale_to_measure(pool, plan, sitting, free), ("max_exposure",)
        rare = free
    if scale < 0:
        return ended("no_items")
    if plan.bounds:
        rare, scale, given_up = in_shadow(pool, plan, sitting, (rare, free), scale)
        relaxed += given_up
    elif plan.content_shares:
        rare, given_up = of_content(pool, plan, sitting, scale, rare)
        relaxed += given_up

    def ranking(wanted: int) -> Ranked:
        return rank(pool, plan, sitting, scale, rare, wanted)

    ranked, drawn = draw(pool, plan, ranking, *chance)
    item = int(ranked.items[drawn.place])
    criterion = float(ranked.values[drawn.place])
    candidates = np.count_nonzero(rare if pool.scales == 1 else rare[pool.members[scale]])
    informed = plan.rule == "max_information"
    terms = {
        "ability": sitting.ability[scale],
        "standard_error": sitting.standard_error[scale],
        "information": criterion if informed else information_of(pool, item, sitting.ability[scale]),
        "criterion": criterion,
        "candidates": float(candidates),
        "rank": float(drawn.place + 1),
    }
    return Turn(item, None, "selected", scale, drawn.propensity, relaxed, terms)


def scale_to_measure(pool: Pool, plan: Plan, sitting: Sitting, free: Booleans) -> int:
    """The scale with the greatest standard error of those that need an item and have one, -1 if none has."""
    if pool.scales == 1:
        return 0 if np.count_nonzero(free) else -1
    scales = range(pool.scales)
    wanting = [scale for scale in scales if not done_by(plan, sitting, scale)]
    if sitting.length < plan.min_items or not wanting:
        wanting = list(scales)
    return least_sure(pool, sitting, wanting, free)


def least_sure(pool: Pool, sitting: Sitting, scales: Iterable[int], free: Booleans) -> int:
    """Of some scales that with the greatest standard error that has a free item, -1 if none has."""
    having = (scale for scale in scales if free[pool.members[scale]].any())
    return max(having, key=lambda scale: (sitting.standard_error[scale], -scale), default=-1)


def of_content(
    pool: Pool, plan: Plan, sitting: Sitting, scale: int, free: Booleans
) -> tuple[Booleans, tuple[Relaxed, ...]]:
    """The free items of the group of content that is farthest below its share; all if no group with a share has any."""
    groups = pool.content[[item for item in sitting.items if item not in plan.unscored]]
    had = np.bincount(groups[groups >= 0], minlength=len(plan.content_shares))[: len(plan.content_shares)]
    shares = np.array(plan.content_shares)
    missing = shares / shares.sum() - had / max(len(groups), 1)
    for group in np.lexsort((np.arange(len(shares)), -missing)).tolist():
        within = free & (pool.content == group)
        if shares[group] > 0 and within[pool.members[scale]].any():
            return within, ()
    return free, ("content_shares",)


def in_shadow(
    pool: Pool, plan: Plan, sitting: Sitting, offers: tuple[Booleans, Booleans], scale: int
) -> tuple[Booleans, int, tuple[Relaxed, ...]]:
    """The free items of the best test that keeps the bounds, and the scale to measure with them.

    `offers` are the items that were not given too often, and all. Where no test keeps the bounds with the first, the
    rate is given up, and then the bounds.
    """
    rare, free = offers
    attempts: tuple[tuple[Booleans, tuple[Relaxed, ...]], ...] = ((rare, ()), (free, ("max_exposure",)))
    for offered, relaxed in attempts[: 1 if rare is free else 2]:
        items = np.flatnonzero(offered)
        chosen = assemble(pool, plan, sitting, items, worth(pool, plan, sitting, items))
        if len(chosen):
            shadow = np.zeros(pool.count, dtype=np.bool_)
            shadow[chosen] = True
            wanting = scale_to_measure(pool, plan, sitting, shadow)
            # What the bounds ask for may be of scales that need no item any more.
            scale = wanting if wanting >= 0 else least_sure(pool, sitting, range(pool.scales), shadow)
            return shadow, scale, relaxed
    return rare, scale, ("bounds",)
