"""Whole tests of simulated learners, by the very functions that a service calls, and what is calibrated with them."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expm1, ndtri, xlogy

from app.adaptive.arrays import Booleans, Floats, Integers, Seeds
from app.adaptive.cat.decide import next_item
from app.adaptive.cat.plan import Plan
from app.adaptive.cat.pool import Pool
from app.adaptive.cat.selection import log_curves_at
from app.adaptive.cat.state import ExamineeState, start_test, update_state
from app.adaptive.cat.stopping import Stop, cut_levels
from app.adaptive.hashing import hash_keys, uniform

# Purposes of chance.
TESTS, RESPONSES, ABILITIES = 11, 12, 13
# Exposure parameters: the least, the share of the target that is aimed at, and the gains of steps, first and later.
LEAST_EXPOSURE, SHARE_OF_TARGET = 0.01, 0.9
COARSE, FINE = 1.0, 0.25

CountProgress = Callable[[float, float], None]


@dataclass(frozen=True)
class Records:
    """N whole tests: `truth`, `ability`, `standard_error` and `level` are (N, C), the others (N,) or one for each.

    `length` counts scored items, `items` lists all that were given, `relaxed` the steps in which a constraint had to be
    relaxed.
    """

    truth: Floats
    ability: Floats
    standard_error: Floats
    level: Integers
    length: Integers
    items: tuple[tuple[int, ...], ...]
    stops: tuple[Stop | None, ...]
    relaxed: Integers


def simulate_tests(pool: Pool, plan: Plan, truth: Floats, seed: int, progress: CountProgress | None = None) -> Records:
    """The tests of N learners with the abilities `truth` (N, C), one after the other.

    A learner answers an item alike in every plan: the chance is that of `seed`, learner and item. Where the plan has a
    `max_exposure`, the rates are those of the learners before.
    """
    seeds = _derive_seeds(seed, TESTS, len(truth))
    counts = np.zeros(pool.count)
    states: list[ExamineeState] = []
    stops: list[Stop | None] = []
    relaxed = np.zeros(len(truth), dtype=np.int64)
    for learner, abilities in enumerate(truth):
        responses = _draw_responses(pool, abilities, _derive_seeds(seed, RESPONSES, len(truth))[learner : learner + 1])
        rates = counts / max(learner, 1)
        state, stop, relaxed[learner] = _run_test(pool, plan, responses, int(seeds[learner]), rates)
        counts[list(state.items)] += 1
        states.append(state)
        stops.append(stop)
        if progress is not None:
            progress(learner + 1, len(truth))
    shape = truth.shape
    return Records(
        truth=truth,
        ability=np.array([state.ability for state in states]).reshape(shape),
        standard_error=np.array([state.standard_error for state in states]).reshape(shape),
        level=np.array([cut_levels(plan, state) for state in states], dtype=np.int64).reshape(shape),
        length=np.array([state.length for state in states], dtype=np.int64),
        items=tuple(state.items for state in states),
        stops=tuple(stops),
        relaxed=relaxed,
    )


def _run_test(
    pool: Pool, plan: Plan, responses: Integers, seed: int, rates: Floats
) -> tuple[ExamineeState, Stop | None, int]:
    """One test of somebody whose answer to every item, (I,), is known: its end, why, and how often something gave."""
    state, relaxed = start_test(pool, plan), 0
    known: tuple[int, ...] = ()
    while (decision := next_item(pool, plan, state, seed, 0.0, rates, known)).item >= 0:
        relaxed, known = relaxed + bool(decision.relaxed), decision.assembly
        state = update_state(pool, plan, state, decision.item, int(responses[decision.item]))
    return state, decision.stop, relaxed


def _derive_seeds(seed: int, purpose: int, count: int) -> Seeds:
    """(N,): independent seeds for one purpose."""
    return hash_keys(purpose, np.full(count, seed, dtype=np.uint64).astype(np.int64), np.arange(count))


def draw_abilities(plan: Plan, count: int, seed: int) -> Floats:
    """(N, C): abilities from the prior."""
    keys = _derive_seeds(seed, ABILITIES, count)
    columns = [
        mean + sd * ndtri(np.clip(uniform(keys, np.full(count, scale)), 1e-12, 1 - 1e-12))
        for scale, (mean, sd) in enumerate(zip(plan.prior_mean, plan.prior_sd, strict=True))
    ]
    return np.stack(columns, axis=1)


def _draw_responses(pool: Pool, abilities: Floats, key: Seeds) -> Integers:
    """(I,): the category that a learner reaches in every item."""
    categories = np.zeros(pool.count, dtype=np.int64)
    for scale, items in enumerate(pool.members):
        if not items.size:
            continue
        p = expm1(log_curves_at(pool, items, float(abilities[scale]))) + 1
        below = np.add.accumulate(p, axis=1)[:, :-1]
        reached = (uniform(key, items)[:, None] >= below).sum(axis=1)
        categories[items] = np.minimum(reached, pool.max_category[items])
    return categories


def administration_matrix(pool: Pool, records: Records) -> Booleans:
    """(N, I): which items each learner was given."""
    table = np.zeros((len(records.items), pool.count), dtype=np.bool_)
    for row, items in zip(table, records.items, strict=True):
        row[list(items)] = True
    return table


def calibrate_exposure(
    pool: Pool,
    plan: Plan,
    target: float,
    seed: int,
    learners: int = 100,
    rounds: int = 40,
    progress: CountProgress | None = None,
) -> Pool:
    """The pool with exposure parameters under which no item is given in more than a share `target` of the tests.

    As Sympson & Hetter (1985) by simulation: an item that was given too often is passed over more often in the next
    round, one that was not less often. Their step, k_i ← k_i × target / rate_i, swings; here it is that of Robbins &
    Monro (1951), log k_i ← log k_i - g (rate_i / goal - 1), coarse in the first half of the `rounds` and fine in the
    second, over which log k_i is averaged (Polyak & Juditsky 1992). The goal is `SHARE_OF_TARGET` of the target, so
    that luck does not lift the most exposed of many items above it. Each round draws so many learners from the prior of
    the plan. Raises ValueError for a target that no parameters can reach, as the tests need more items.
    """
    plan = replace(plan, sympson_hetter=True, randomesque=1)
    goal, least = SHARE_OF_TARGET * target, float(xlogy(1.0, LEAST_EXPOSURE))
    log_exposure = xlogy(1.0, pool.exposure)
    averaged = []
    for round_number in range(rounds):
        pool = replace(pool, exposure=_exposure_of(log_exposure))
        truth = draw_abilities(plan, learners, seed + round_number)
        records = simulate_tests(pool, plan, truth, seed + round_number)
        if records.length.mean() > goal * pool.count:
            raise ValueError("tests of this length give items more often than that; ask for less, or enlarge the pool")
        rates = administration_matrix(pool, records).mean(axis=0)
        late = round_number >= rounds // 2
        log_exposure = np.clip(log_exposure - (FINE if late else COARSE) * (rates / goal - 1), least, 0.0)
        if late:
            averaged.append(log_exposure)
        if progress is not None:
            progress(round_number + 1, rounds)
    return replace(pool, exposure=_exposure_of(np.mean(averaged, axis=0)))


def _exposure_of(values: Floats) -> Floats:
    """Exposure parameters of their logarithms."""
    return np.asarray(np.minimum(expm1(values) + 1, 1.0))
