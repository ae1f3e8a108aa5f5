"""Shadow tests (van der Linden & Reese 1998): before each item a whole test that keeps every bound is assembled.

maximise Σ value_i x_i over the items that may still be given, x_i 0 or 1, so that the given items and the chosen ones
together have the length of the test, are within every bound, and are no enemies of one another. The next item is the
best of the chosen. As long as the first of these problems has a solution, so have the others: the rest of the one
before is one, and is kept unless a better one is found.

Bounds on overlapping groups make this a problem that no method solves in a time known beforehand, so what is done is
counted: multipliers of the bounds by subgradients of the Lagrangian (Held, Wolfe & Crowder 1974), which also tell how
good a test can be at most; then exchanges of one item for another, the best that was not just undone (Glover 1989),
with penalties that rise while a bound is broken and fall while none is. Values, multipliers and penalties are whole
numbers, whose sums are exact in any order: every machine finds the same test.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.cat.plan import Plan
from app.adaptive.cat.pool import Pool
from app.adaptive.cat.state import ExamineeState

# The best item is worth so much; the least penalty; multipliers and penalties stay below the last, sums below 2⁵³.
BEST_VALUE, LEAST_WEIGHT, MAX_WEIGHT = float(1 << 20), float(1 << 7), float(1 << 30)
# Steps of the multipliers at most and at least, and numbers they may read; steps without a better bound halve the step.
MOST_DUAL_STEPS, LEAST_DUAL_STEPS, MOST_READ, DUAL_PATIENCE = 200, 50, 1 << 25, 6
# Exchanges that are made at most and at least, and products that weighing them may take.
MOST_EXCHANGES, LEAST_EXCHANGES, MOST_PRODUCTS = 1000, 50, 1 << 28
# A test that is worth all but this share of the bound on its value is the best.
GAP = 1e-4
# An exchange takes part: so many of the best for each item that is left, and in all, and more than each bound needs.
CORE_PER_ITEM, CORE_ITEMS, CORE_PER_ROW = 4, 256, 8
# Weights of broken bounds rise by one part in so many, of others they fall; of all, while none is broken.
RISE, FALL, CALM = 20, 200, 10
# An item that was put in, or taken out, rests for this many exchanges: the least, and how much it varies.
REST_IN, REST_OUT = (1, 4), (2, 5)


@dataclass(frozen=True)
class ShadowProblem:
    """Which `left` of n items complete a test; row r counts from `least` to `most` (R,) of its members `rows` (R, n).

    `items` (n,) ascend and are worth `values`; `known` (n,) are those of the assembly before, if there was one.
    """

    items: Integers
    values: Floats
    rows: Booleans
    least: Integers
    most: Integers
    left: int
    known: Booleans


class Assembly(NamedTuple):
    """The items that complete a test, ascending, and whether every bound is kept with them."""

    items: Integers
    keeps_bounds: bool


Assemble = Callable[[ShadowProblem], Assembly]


class _Core(NamedTuple):
    """A problem in whole numbers: rows (R, n), limits (R,), values (n,), and values less multipliers of the rows."""

    rows: Floats
    least: Floats
    most: Floats
    values: Floats
    reduced: Floats


def shadow_problem(
    pool: Pool, plan: Plan, state: ExamineeState, items: Integers, values: Floats, known: tuple[int, ...]
) -> ShadowProblem:
    """Return the problem of completing a test with free `items` (n,); `known` is the assembly before."""
    administered = np.array([item for item in state.items if item not in plan.unscored], dtype=np.int64)
    rows, least, most = [], [], []
    for bound in plan.bounds:
        group = pool.groups[bound.group]
        already = int(np.isin(administered, group).sum())
        rows.append(np.isin(items, group))
        least.append(bound.least - already)
        most.append(bound.most - already)
    for group in pool.enemies:
        together = np.isin(items, group)
        if together.sum() > 1:
            rows.append(together)
            least.append(0)
            most.append(1)
    return ShadowProblem(
        items=items,
        values=values,
        rows=np.array(rows, dtype=np.bool_).reshape(len(rows), len(items)),
        least=np.array(least, dtype=np.int64),
        most=np.array(most, dtype=np.int64),
        left=(plan.max_items or 0) - len(administered),
        known=np.isin(items, np.array(known, dtype=np.int64)),
    )


def assemble_shadow_test(problem: ShadowProblem) -> Assembly:
    """Assemble the best test that was found; if none keeps all bounds, one that breaks them by the fewest items."""
    count = len(problem.items)
    if not 0 < problem.left < count:
        everything = np.full(count, problem.left > 0)
        return Assembly(problem.items[everything], problem.left == count and _keeps_rows(problem, everything))
    scale = BEST_VALUE / max(float(problem.values.max()), np.finfo(np.float64).tiny)
    rows, values = problem.rows.astype(np.float64), np.rint(problem.values * scale)
    least, most = problem.least.astype(np.float64), problem.most.astype(np.float64)
    multipliers, bound = _find_multipliers(_Core(rows, least, most, values, values), problem.left)
    core = _Core(rows, least, most, values, values - multipliers @ rows)
    chosen, keeps = _improve(problem, core, bound)
    known = take_known_assembly(problem)
    if known is not None and not (keeps and values[chosen].sum() >= values[problem.known].sum()):
        return known
    return Assembly(problem.items[np.sort(chosen)], keeps)


def take_known_assembly(problem: ShadowProblem) -> Assembly | None:
    """Return what is left of the assembly before, if it still completes a test within all bounds."""
    if problem.left > 0 and problem.known.sum() == problem.left and _keeps_rows(problem, problem.known):
        return Assembly(problem.items[problem.known], keeps_bounds=True)
    return None


def _keeps_rows(problem: ShadowProblem, chosen: Booleans) -> bool:
    """Return whether a choice (n,) keeps all rows."""
    counts = problem.rows[:, chosen].sum(axis=1)
    return bool(((problem.least <= counts) & (counts <= problem.most)).all())


def _find_multipliers(core: _Core, left: int) -> tuple[Floats, float]:
    """Return multipliers of the rows (R,), and the least bound on the value of a test that they gave.

    Above 0 they make members dearer, as too many would be taken; below 0 cheaper.
    """
    multipliers, best, bound = np.zeros(len(core.least)), np.zeros(len(core.least)), np.inf
    step, waited, is_range = BEST_VALUE / 4, 0, core.least < core.most
    for _ in range(_within(MOST_READ // max(core.rows.size, 1), LEAST_DUAL_STEPS, MOST_DUAL_STEPS)):
        reduced = core.values - multipliers @ core.rows
        taken = np.argsort(-reduced, kind="stable")[:left]
        counts = core.rows[:, taken].sum(axis=1)
        limits = np.where(multipliers > 0, core.most, core.least)
        value = float(reduced[taken].sum() + (multipliers * limits).sum())
        waited = 0 if value < bound else waited + 1
        if value < bound:
            best, bound = multipliers, value
        elif waited >= DUAL_PATIENCE:
            step, waited = max(step // 2, 1.0), 0
        slope = np.where(multipliers == 0, _excess(core, counts), counts - limits)
        length = float(np.abs(slope).sum())
        if length == 0:
            break
        moved = np.clip(multipliers + np.trunc(step * slope / length), -MAX_WEIGHT, MAX_WEIGHT)
        # What is neither too many nor too few costs nothing: a multiplier stops there before it changes its sign.
        multipliers = np.where((moved * multipliers < 0) & is_range, 0.0, moved)
    return best, bound


def _within(number: int, least: int, most: int) -> int:
    """Return a number, or the limit that it is beyond."""
    return min(max(number, least), most)


def _excess(core: _Core, counts: Floats) -> Floats:
    """Return by how many items each row is above (> 0) or below (< 0) its limits; (R,)."""
    return np.maximum(counts - core.most, 0.0) - np.maximum(core.least - counts, 0.0)


def _improve(problem: ShadowProblem, whole: _Core, bound: float) -> tuple[Integers, bool]:
    """Return the positions of the best test that exchanges lead to, and whether it keeps all rows."""
    positions = _core_positions(problem, whole)
    core = _Core(whole.rows[:, positions], whole.least, whole.most, whole.values[positions], whole.reduced[positions])
    chosen = np.zeros(len(positions), dtype=np.bool_)
    chosen[np.argsort(-core.reduced, kind="stable")[: problem.left]] = True
    counts, rests = core.rows[:, chosen].sum(axis=1), np.zeros(len(positions), dtype=np.int64)
    weights = np.full(len(core.least), BEST_VALUE / 64)
    best, score = chosen.copy(), (-np.inf, -np.inf)
    products = problem.left * max(core.rows.size, 1)
    for step in range(_within(MOST_PRODUCTS // products, LEAST_EXCHANGES, MOST_EXCHANGES)):
        broken = np.abs(_excess(core, counts))
        reached = (-float(broken.sum()), float(core.values[chosen].sum()))
        if reached > score:
            best, score = chosen.copy(), reached
        if score >= (0.0, bound * (1 - GAP)):
            break
        swap = _best_exchange(core, chosen, counts, weights, rests > step)
        if swap is None:
            continue
        out, into = swap
        chosen[out], chosen[into] = False, True
        counts = counts + core.rows[:, into] - core.rows[:, out]
        rests[out], rests[into] = (step + least + step * 7919 % span for least, span in (REST_OUT, REST_IN))
        weights = _adapted(weights, broken)
    return positions[best], score[0] == 0


def _core_positions(problem: ShadowProblem, whole: _Core) -> Integers:
    """Return the positions of the items that exchanges consider: the best of all, and the best members of each row."""
    order = np.argsort(-whole.reduced, kind="stable")
    considered = np.zeros(len(order), dtype=np.bool_)
    considered[order[: CORE_PER_ITEM * problem.left + CORE_ITEMS]] = True
    for members, least in zip(problem.rows, problem.least.tolist(), strict=True):
        considered[order[members[order]][: max(least, 0) + CORE_PER_ROW]] = True
    return np.flatnonzero(considered)


def _best_exchange(
    core: _Core, chosen: Booleans, counts: Floats, weights: Floats, resting: Booleans
) -> tuple[int, int] | None:
    """Return the item to take out and the one to put in that gain most, or lose least; None if all rest.

    What a row costs with one member more, or one less, adds up, but for rows that both items are members of: those
    stay as they are.
    """
    cost = weights * np.abs(_excess(core, counts))
    more = weights * np.abs(_excess(core, counts + 1)) - cost
    less = weights * np.abs(_excess(core, counts - 1)) - cost
    out, into = np.flatnonzero(chosen & ~resting), np.flatnonzero(~chosen & ~resting)
    if not (out.size and into.size):
        return None
    gains = (-core.reduced - less @ core.rows)[out][:, None] + (core.reduced - more @ core.rows)[into]
    shared = more + less
    tight = np.flatnonzero(shared)
    gains += (core.rows[np.ix_(tight, out)] * shared[tight, None]).T @ core.rows[np.ix_(tight, into)]
    best = int(gains.argmax())
    return int(out[best // into.size]), int(into[best % into.size])


def _adapted(weights: Floats, broken: Floats) -> Floats:
    """Return the weights of the rows after an exchange: heavier where a row is broken."""
    if not broken.any():
        return np.maximum(weights - weights // CALM, LEAST_WEIGHT)
    heavier = np.minimum(weights + weights // RISE, MAX_WEIGHT)
    return np.where(broken > 0, heavier, np.maximum(weights - weights // FALL, LEAST_WEIGHT))


def meets_lower_bounds(pool: Pool, plan: Plan, state: ExamineeState) -> bool:
    """Return whether what was given has reached the lower limit of every bound, so that the test may end early."""
    scored = [item for item in state.items if item not in plan.unscored]
    return all(int(np.isin(scored, pool.groups[bound.group]).sum()) >= bound.least for bound in plan.bounds)
