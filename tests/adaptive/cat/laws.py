"""What must hold of every adaptive test, and pools and plans to ask it of. `test_controls` breaks each law."""

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.cat import (
    NODES,
    RULES,
    Bound,
    Classification,
    ExamineeState,
    NextItem,
    Plan,
    Pool,
    information_index,
    make_pool,
    next_item,
    selection,
    start_test,
    update_state,
)
from app.adaptive.cat import exposure as passing
from app.adaptive.cat.pool import curve_blocks, information_at, log_curve
from app.adaptive.cat.shadow import ShadowProblem
from app.adaptive.irt.item_models import MODELS

Step = tuple[ExamineeState, NextItem]
ROUNDING = 1e-12


def mixed_pool(seed: int, items: int = 30, scales: int = 1, steps: int = 3) -> Pool:
    """Items of all models, some of them extreme: a from .01 to 6, b to ±10, guessing to .5."""
    rng = np.random.default_rng(seed)
    models = [MODELS[m] for m in rng.integers(0, len(MODELS), items)]
    max_category = np.array([1 if m in MODELS[:4] else rng.integers(1, steps + 1) for m in models])
    wild = rng.random(items) < 0.15
    a = np.where(wild, rng.choice([0.01, 6.0], items), np.exp(rng.normal(0, 0.4, items)))
    b = np.where(wild, rng.choice([-10.0, 10.0], items), rng.normal(0, 1.2, items))
    c = np.where(wild, 0.5, rng.beta(5, 23, items))
    difficulty = b[:, None] * (np.abs(b[:, None]) < 9) + np.sort(rng.normal(0, 1, (items, steps)), axis=1)
    difficulty += 0.1 * np.arange(steps)
    difficulty[:, 0] = np.where(max_category == 1, b, difficulty[:, 0])
    return make_pool(
        models,
        a,
        difficulty,
        max_category=max_category,
        guessing=np.array([c[i] if m in ("3pl", "4pl") else 0 for i, m in enumerate(models)]),
        upper=np.array([0.95 if m == "4pl" else 1 for m in models]),
        scale=np.arange(items) % scales,
        content=rng.integers(-1, 3, items),
        exposure=rng.choice([0.2, 0.6, 1.0], items),
        enemies=[rng.choice(items, 3, replace=False).tolist() for _ in range(items // 10)],
        groups=[np.flatnonzero(rng.random(items) < share).tolist() for share in (0.3, 0.5)],
    )


def plain_pool(items: int = 100, seed: int = 0, guessing: float = 0.0) -> Pool:
    """A bank of right-or-wrong items as banks are."""
    rng = np.random.default_rng(seed)
    a, b = np.exp(rng.normal(0.2, 0.3, items)), rng.normal(0, 1, items)
    return make_pool(["3pl"] * items, a, b, guessing=np.full(items, guessing))


def random_plan(pool: Pool, seed: int) -> Plan:
    """Any plan that this pool can follow."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(pool.count).tolist()
    first, pilots = order[: rng.integers(0, 3)], order[5 : 5 + rng.integers(0, 4)]
    rule = RULES[rng.integers(len(RULES))]
    passes = bool(rng.random() < 0.3) and rule != "random"
    several = 1 if passes or rule == "random" else int(rng.integers(1, 4))
    bound = rule != "random" and rng.random() < 0.2
    cuts = tuple((float(rng.normal()),) for _ in range(pool.scales))
    most = int(rng.integers(1, 12))
    return Plan(
        prior_mean=tuple(rng.normal(0, 0.5, pool.scales).tolist()),
        prior_sd=tuple(rng.uniform(0.5, 1.5, pool.scales).tolist()),
        rule=rule,
        randomesque=several,
        sympson_hetter=passes,
        max_exposure=0.5 if rng.random() < 0.3 else None,
        content_shares=(0.5, 0.2, 0.3) if not bound and rng.random() < 0.3 else (),
        bounds=(Bound(0, 1, 6), Bound(1, 2, 8)) if bound else (),
        first=tuple(first),
        pilots=tuple(pilots),
        pilot_positions=tuple(sorted(rng.choice(8, rng.integers(0, 3), replace=False).tolist())),
        standard_error=0.4 if rng.random() < 0.5 else None,
        standard_error_change=0.01 if rng.random() < 0.2 else None,
        classification=Classification(cuts, "sprt" if rng.random() < 0.5 else "interval")
        if rng.random() < 0.3
        else None,
        max_items=most,
        min_items=int(rng.integers(0, most + 1)),
    )


def random_answers(pool: Pool, seed: int) -> Integers:
    """A category for every item."""
    return np.random.default_rng(seed).integers(0, pool.max_category + 1)


def steps(pool: Pool, plan: Plan, answers: Integers, seed: int, rates: Floats | None = None) -> Iterator[Step]:
    """Every turn of a test with what was known before it; the last one is its end."""
    state = start_test(pool, plan)
    known: tuple[int, ...] = ()
    while True:
        decision = next_item(pool, plan, state, seed, 0.0, rates, known)
        yield state, decision
        if decision.item < 0:
            return
        known = decision.assembly
        state = update_state(pool, plan, state, decision.item, int(answers[decision.item]))


def replay(pool: Pool, plan: Plan, state: ExamineeState) -> ExamineeState:
    """The same answers once more."""
    replayed = start_test(pool, plan)
    for item, category in zip(state.items, state.categories, strict=True):
        replayed = update_state(pool, plan, replayed, item, category)
    return replayed


def keeps_its_plan(pool: Pool, plan: Plan, seed: int) -> None:
    """No item twice, no two enemies, the first items first, pilots in their places, and an end that the plan has."""
    rates = np.random.default_rng(seed).random(pool.count)
    whole = list(steps(pool, plan, random_answers(pool, seed), seed, rates))
    for place, (state, decision) in enumerate(whole[:-1]):
        assert decision.item not in state.items
        assert 0 < decision.propensity <= 1
        assert decision.stop is None
        assert decision.scale == pool.scale[decision.item]
        assert all(np.isfinite(value) for value in decision.terms.values())
        if decision.kind == "pilot":
            assert decision.item in plan.pilots
            assert any(due <= place for due in plan.pilot_positions)
        elif decision.kind == "selected":
            assert decision.item not in plan.pilots
            if plan.max_exposure is not None and not decision.relaxed:
                assert rates[decision.item] < plan.max_exposure
    state, end = whole[-1]
    for group in pool.enemies:
        assert np.isin(group, state.items).sum() <= 1
    free_first = [item for item in plan.first if item in state.items]
    assert list(state.items[: len(free_first)]) == free_first
    scored = [item for item in state.items if item not in plan.pilots]
    assert state.length == len(scored) <= (plan.max_items or pool.count)
    assert end.stop is not None
    if end.stop not in ("max_items", "no_items"):
        assert state.length >= plan.min_items


def resumes_at_the_same_item(pool: Pool, plan: Plan, seed: int) -> None:
    """A test folded again from its answers offers the same item, for the same reason, with the same chance."""
    known: tuple[int, ...] = ()
    for state, decision in steps(pool, plan, random_answers(pool, seed), seed):
        replayed = replay(pool, plan, state)
        assert replayed.log_posterior.tobytes() == state.log_posterior.tobytes()
        assert replayed._replace(log_posterior=state.log_posterior) == state
        assert next_item(pool, plan, replayed, seed, known=known) == decision
        known = decision.assembly


def changes_no_argument(pool: Pool, plan: Plan, seed: int) -> None:
    """Pool, rates and sitting have the same bits after a turn and an answer."""
    rates = np.random.default_rng(seed).random(pool.count)
    before = {each.name: np.copy(getattr(pool, each.name)) for each in fields(Pool) if each.type == "Floats"}
    for state, decision in steps(pool, plan, random_answers(pool, seed), seed, rates):
        held, reported = state.log_posterior.tobytes(), repr(state)
        next_item(pool, plan, state, seed, 0.0, rates)
        if decision.item >= 0:
            update_state(pool, plan, state, decision.item, 0)
        assert (state.log_posterior.tobytes(), repr(state)) == (held, reported)
    assert rates.tobytes() == np.random.default_rng(seed).random(pool.count).tobytes()
    for name, values in before.items():
        assert np.array_equal(getattr(pool, name), values), name


def answers_move_the_right_way(pool: Pool, seed: int) -> None:
    """A wrong answer never raises an ability, a right one never lowers it, a better category gives no lower one."""
    plan = Plan(max_items=12, rule="random")
    for state, decision in steps(pool, plan, random_answers(pool, seed), seed):
        if decision.item < 0:
            return
        reported = [
            update_state(pool, plan, state, decision.item, k).ability[0]
            for k in range(int(pool.max_category[decision.item]) + 1)
        ]
        assert reported[0] <= state.ability[0] + ROUNDING
        assert reported[-1] >= state.ability[0] - ROUNDING
        assert (np.diff(reported) >= -ROUNDING).all()


def is_the_posterior(pool: Pool, seed: int) -> None:
    """Ability and standard error are mean and deviation of prior × curves, summed by hand on the same nodes."""
    plan = Plan(prior_mean=(0.3,), prior_sd=(1.2,), max_items=15, rule="random")
    weights = np.exp(-0.5 * ((NODES - 0.3) / 1.2) ** 2)
    for state, decision in steps(pool, plan, random_answers(pool, seed), seed):
        share = weights / weights.sum()
        mean = float((share * NODES).sum())
        spread = float((share * (NODES - mean) ** 2).sum()) ** 0.5
        np.testing.assert_allclose(state.ability[0], mean, atol=1e-9)
        np.testing.assert_allclose(state.standard_error[0], min(spread, 1.2), atol=1e-7)
        if decision.item >= 0:
            category = int(random_answers(pool, seed)[decision.item])
            weights = weights * np.exp(log_curve(pool, decision.item, NODES)[category])


def extreme_patterns_go_on(pool: Pool, right: bool) -> None:
    """All right or all wrong, no precision asked for ends the test before its greatest length."""
    answers = pool.max_category if right else 0 * pool.max_category
    most = min(10, pool.count)
    for plan in (
        Plan(standard_error=5.0, max_items=most),
        Plan(standard_error_change=5.0, max_items=most),
        Plan(standard_error=5.0, rule="random", max_items=most),
    ):
        *_, (state, end) = steps(pool, plan, answers, 1)
        assert end.stop in ("max_items", "no_items")
        assert end.stop == "no_items" or state.length == most


def finds_the_best(pool: Pool, plan: Plan, seed: int, wanted: int) -> None:
    """What `rank` tells are the best of all that are free, in order, as if every item had been looked at."""
    rng = np.random.default_rng(seed)
    *_, (state, _) = steps(pool, replace(plan, max_items=int(rng.integers(1, 6))), random_answers(pool, seed), seed)
    free = rng.random(pool.count) < rng.choice([0.1, 0.5, 1.0])
    free[list(state.items)] = False
    found = selection.rank(pool, plan, state, 0, free, wanted)
    items = np.flatnonzero(free & (pool.scale == 0))
    values = selection.criterion_values(pool, plan, state, items)
    order = np.lexsort((items, -values))
    many = len(found.items)
    assert many >= min(wanted, len(items))
    assert found.items.tolist() == items[order][:many].tolist()
    assert found.values.tobytes() == values[order][:many].tobytes()


def bounds_hold(pool: Pool, seed: int) -> None:
    """No item's information anywhere in a cell is above the bound of the cell."""
    rng = np.random.default_rng(seed)
    for items, bank in curve_blocks(pool, np.arange(pool.count)):
        bounds = information_index.rounded_up(information_index.upper_bounds(bank))
        for cell in rng.integers(0, information_index.CELLS, 12).tolist():
            for share in (0.0, float(rng.random()), 1.0):
                ability = float(information_index.EDGES[cell] + share * information_index.WIDTH)
                assert (information_at(pool, items, ability) <= bounds[:, cell]).all()


def chances_are_those_of_seeds(pool: Pool, plan: Plan, seed: int, many: int = 3000) -> None:
    """Over many seeds each item comes as often as its propensity says, and the propensities sum to 1."""
    *_, (state, _) = steps(pool, replace(plan, max_items=4), random_answers(pool, seed), seed)
    found: dict[int, list[float]] = {}
    for each in range(many):
        decision = next_item(pool, plan, state, each)
        found.setdefault(decision.item, []).append(decision.propensity)
    reported = {item: values[0] for item, values in found.items()}
    for item, values in found.items():
        np.testing.assert_allclose(values, reported[item], rtol=1e-12)
        share = len(values) / many
        assert abs(share - reported[item]) < 5 * (reported[item] * (1 - reported[item]) / many) ** 0.5 + 1e-3
    assert 0.98 < sum(reported.values()) <= 1 + 1e-9


def passing_sums_to_one(exposure: Floats) -> None:
    """The chances of all candidates in their order."""
    probabilities = passing.selection_probabilities(exposure)
    assert (probabilities >= 0).all()
    np.testing.assert_allclose(probabilities.sum(), 1, atol=1e-12)


def keeps_bounds(pool: Pool, plan: Plan, seed: int) -> int:
    """A test of full length is within every bound, unless it said that none is; how often it said so."""
    whole = list(steps(pool, plan, random_answers(pool, seed), seed))
    gave_up = sum("bounds" in decision.relaxed for _, decision in whole)
    state, end = whole[-1]
    if not gave_up:
        assert end.stop == "max_items"
        for bound in plan.bounds:
            assert bound.least <= np.isin(pool.groups[bound.group], state.items).sum() <= bound.most
    return gave_up


def planted_choice(items: int, length: int, seed: int) -> Booleans:
    """So many of the items, at random; (I,)."""
    chosen = np.zeros(items, dtype=np.bool_)
    chosen[np.random.default_rng(seed).permutation(items)[:length]] = True
    return chosen


def planted_problem(items: int, groups: int, length: int, seed: int) -> ShadowProblem:
    """A shadow test with one bound for each of many groups of half the items, min = max, that one choice keeps."""
    rows = np.random.default_rng([seed, 1]).random((groups, items)) < 0.5
    return _problem(rows, planted_choice(items, length, seed), 0, seed)


def content_problem(items: int, parts: Sequence[int], length: int, slack: int, seed: int) -> ShadowProblem:
    """A shadow test whose items fall into parts in several ways, each part with its number of items, more or less."""
    rng = np.random.default_rng([seed, 1])
    kinds = [(part, rng.integers(0, part, items)) for part in parts]
    rows = np.array([kind == number for part, kind in kinds for number in range(part)])
    return _problem(rows, planted_choice(items, length, seed), slack, seed)


def _problem(rows: Booleans, chosen: Booleans, slack: int, seed: int) -> ShadowProblem:
    counts = rows[:, chosen].sum(axis=1)
    return ShadowProblem(
        items=np.arange(rows.shape[1]),
        values=np.random.default_rng([seed, 2]).random((rows.shape[1],)),
        rows=rows,
        least=np.maximum(counts - slack, 0),
        most=counts + slack,
        left=int(chosen.sum()),
        known=np.zeros(rows.shape[1], dtype=np.bool_),
    )


def turn_rows(problem: ShadowProblem) -> ShadowProblem:
    """The same problem with its rows in the reverse order."""
    return replace(problem, rows=problem.rows[::-1], least=problem.least[::-1], most=problem.most[::-1])


def solve_exactly(problem: ShadowProblem) -> float:
    """The value of the best test, by HiGHS."""
    rows = np.vstack([np.ones(len(problem.items)), problem.rows.astype(np.float64)])
    limits = [problem.left, *problem.least.tolist()], [problem.left, *problem.most.tolist()]
    result = milp(
        -problem.values,
        integrality=np.ones(len(problem.items)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(rows, *limits),
        options={"time_limit": 60},
    )
    return float(-result.fun)
