"""Laws of adaptive tests, over pools of every model and plans of every rule."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.adaptive.testing import RULES, Bound, Classification, Plan, Pool, Sitting, begin, make_pool, next_item, take
from app.adaptive.testing.pool import NODES, information_at, log_curve
from app.adaptive.testing.simulate import answers_of, calibrate_exposure, draw_abilities, simulate
from app.adaptive.testing.simulate import given as given_items
from app.adaptive.testing.turn import look_ahead

FEW = settings(max_examples=25, deadline=None)
MODELS = ["rasch", "2pl", "3pl", "4pl", "graded", "gpcm", "pcm"]
EXTREME = pytest.mark.parametrize("right", [True, False])


def some_pool(rng: np.random.Generator, size: int, models: list[str] | None = None, **more: Any) -> Pool:
    """A pool of mixed models; thresholds ascend."""
    named = [str(model) for model in rng.choice(models or MODELS, size)]
    grades = np.array([rng.integers(1, 4) if model in {"graded", "gpcm", "pcm"} else 1 for model in named])
    difficulty = np.sort(rng.normal(0, 1.2, (size, 3)), axis=1)
    common = [model in {"rasch", "pcm"} for model in named]
    return make_pool(
        named,
        np.where(common, 1.0, np.exp(rng.normal(0.1, 0.4, size))),
        difficulty,
        grades=grades,
        guessing=np.where([model in {"3pl", "4pl"} for model in named], rng.uniform(0, 0.3, size), 0.0),
        upper=np.where([model == "4pl" for model in named], rng.uniform(0.8, 1.0, size), 1.0),
        **more,
    )


def hold(pool: Pool, plan: Plan, seed: int, answers: np.random.Generator) -> tuple[list[int], list[Sitting]]:
    """A whole test with any answers: the items, and the sitting after each."""
    sitting, path = begin(pool, plan), []
    while (turn := next_item(pool, plan, sitting, seed)).item >= 0:
        category = int(answers.integers(0, pool.grades[turn.item] + 1))
        sitting = take(pool, plan, sitting, turn.item, category)
        path.append(sitting)
    return list(sitting.items), path


@FEW
@given(seed=st.integers(0, 10**6), rule=st.sampled_from(RULES), scales=st.integers(1, 3), many=st.integers(1, 4))
def test_no_item_comes_twice_and_what_is_resumed_goes_on_alike(seed: int, rule: Any, scales: int, many: int) -> None:
    rng = np.random.default_rng(seed)
    size = 24
    scale = rng.permutation(np.arange(size) % scales)
    pool = some_pool(rng, size, scale=scale, enemies=[[0, 1, 2], [3, 4]])
    plan = Plan(
        prior_mean=(0.0,) * scales,
        prior_sd=(1.0,) * scales,
        rule=rule,
        randomesque=1 if rule == "random" else many,
        max_items=12,
        pilots=(5,),
        pilot_places=(2,),
    )
    items, path = hold(pool, plan, seed, rng)
    assert len(set(items)) == len(items)
    assert len(items) == 13
    assert items[2] == 5
    assert len({0, 1, 2} & set(items)) <= 1
    assert len({3, 4} & set(items)) <= 1
    middle = path[6]
    again = begin(pool, plan)
    for item, category in zip(middle.items, middle.categories, strict=True):
        again = take(pool, plan, again, item, category)
    assert next_item(pool, plan, again, seed) == next_item(pool, plan, middle, seed)
    assert np.array_equal(again.log_posterior, middle.log_posterior)
    ahead = look_ahead(pool, plan, middle, seed, 3)
    assert ahead[0] == items[7]
    assert len(set(ahead) | set(middle.items)) == len(ahead) + len(middle.items)


@FEW
@given(seed=st.integers(0, 10**6))
def test_the_estimate_is_mean_and_spread_of_the_posterior_and_of_nothing_else(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool, plan = some_pool(rng, 15), Plan(prior_sd=(0.8,), max_items=10)
    _, path = hold(pool, plan, seed, rng)
    for sitting in path:
        log_posterior = -0.5 * (NODES / 0.8) ** 2
        for item, category in zip(sitting.items, sitting.categories, strict=True):
            log_posterior = log_posterior + log_curve(pool, item, NODES)[category]
        weights = np.exp(log_posterior - log_posterior.max())
        weights /= weights.sum()
        mean = float((weights * NODES).sum())
        spread = float((weights * (NODES - mean) ** 2).sum()) ** 0.5
        assert sitting.ability[0] == pytest.approx(mean, abs=1e-9)
        assert sitting.standard_error[0] == pytest.approx(min(spread, 0.8), abs=1e-9)


@FEW
@given(seed=st.integers(0, 10**6))
def test_a_wrong_answer_never_raises_and_a_right_one_never_lowers_the_estimate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool, plan = some_pool(rng, 20), Plan(max_items=20)
    sitting = begin(pool, plan)
    for item in range(15):
        grade = int(pool.grades[item])
        after = [take(pool, plan, sitting, item, category).ability[0] for category in range(grade + 1)]
        assert after[0] <= sitting.ability[0] + 1e-12
        assert after[-1] >= sitting.ability[0] - 1e-12
        assert all(low <= high + 1e-12 for low, high in pairwise(after))
        sitting = take(pool, plan, sitting, item, int(rng.integers(0, grade + 1)))


@EXTREME
def test_who_is_always_right_or_always_wrong_is_not_done_by_a_standard_error(*, right: bool) -> None:
    pool = some_pool(np.random.default_rng(1), 40, ["2pl"])
    plan = Plan(standard_error=0.9, standard_error_change=0.5, max_items=30)
    sitting = begin(pool, plan)
    while (turn := next_item(pool, plan, sitting, 1)).item >= 0:
        sitting = take(pool, plan, sitting, turn.item, int(right))
    assert turn.stop == "max_items"
    assert abs(sitting.ability[0]) <= 6
    ordinary = take(pool, plan, take(pool, plan, begin(pool, plan), 0, 1), 1, 0)
    assert next_item(pool, replace(plan, standard_error_change=None), ordinary, 1).stop == "standard_error"


@FEW
@given(seed=st.integers(0, 10**6), models=st.sampled_from([["2pl"], ["3pl", "2pl"], MODELS]))
def test_the_item_chosen_is_the_most_informative_of_all_that_are_left(seed: int, models: list[str]) -> None:
    rng = np.random.default_rng(seed)
    pool, plan = some_pool(rng, 300, models), Plan(max_items=15)
    sitting = begin(pool, plan)
    for _ in range(15):
        turn = next_item(pool, plan, sitting, seed)
        values = information_at(pool, np.arange(pool.count), sitting.ability[0])
        values[list(sitting.items)] = -1
        assert turn.item == int(values.argmax())
        sitting = take(pool, plan, sitting, turn.item, int(rng.integers(0, pool.grades[turn.item] + 1)))


@pytest.mark.parametrize("plan", [Plan(randomesque=4), Plan(rule="random"), Plan(sympson_hetter=True)])
def test_propensities_are_the_frequencies_of_the_items(plan: Plan) -> None:
    rng = np.random.default_rng(3)
    pool = some_pool(rng, 8, ["2pl"], exposure=rng.uniform(0.2, 0.9, 8))
    sitting = begin(pool, replace(plan, max_items=5))
    turns = [next_item(pool, replace(plan, max_items=5), sitting, seed) for seed in range(4000)]
    chance = {turn.item: turn.propensity for turn in turns}
    counts = Counter(turn.item for turn in turns)
    assert sum(chance.values()) == pytest.approx(1, abs=0.01)
    for item, propensity in chance.items():
        assert counts[item] / 4000 == pytest.approx(propensity, abs=4 * (propensity * (1 - propensity) / 4000) ** 0.5)


@FEW
@given(seed=st.integers(0, 10**6))
def test_shadow_tests_keep_every_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = [list(range(10)), list(range(5, 20)), [0, 5, 12]]
    pool = some_pool(rng, 30, groups=groups, enemies=[[1, 6], [2, 11, 21]])
    plan = Plan(max_items=10, bounds=(Bound(0, 2, 4), Bound(1, 3, 5), Bound(2, 0, 1)), standard_error=0.5)
    items, _ = hold(pool, plan, seed, rng)
    for bound in plan.bounds:
        assert bound.least <= len(set(groups[bound.group]) & set(items)) <= bound.most
    assert len({1, 6} & set(items)) <= 1
    assert len({2, 11, 21} & set(items)) <= 1


def test_what_cannot_be_kept_is_given_up_and_named() -> None:
    pool = some_pool(np.random.default_rng(5), 6, ["2pl"], groups=[[0, 1]])
    plan = Plan(max_items=3, bounds=(Bound(0, 3, 3),))
    assert next_item(pool, plan, begin(pool, plan), 1).relaxed == ("bounds",)
    plan = Plan(max_items=3, max_exposure=0.2)
    turn = next_item(pool, plan, begin(pool, plan), 1, exposure_rates=np.full(6, 0.5))
    assert (turn.item >= 0, turn.relaxed) == (True, ("max_exposure",))
    open_still = next_item(pool, plan, begin(pool, plan), 1, exposure_rates=np.array([0.5] * 5 + [0.1]))
    assert (open_still.item, open_still.relaxed) == (5, ())


@pytest.mark.parametrize("rule", RULES)
def test_an_empty_pool_and_a_single_item_have_an_answer(rule: Any) -> None:
    empty = make_pool([], np.empty(0), np.empty(0))
    plan = Plan(rule=rule, max_items=5)
    assert next_item(empty, plan, begin(empty, plan), 1).stop == "no_items"
    one = make_pool(["2pl"], np.array([1.0]), np.array([0.5]))
    turn = next_item(one, plan, begin(one, plan), 1)
    assert (turn.item, turn.propensity) == (0, 1.0)
    assert next_item(one, plan, take(one, plan, begin(one, plan), 0, 1), 1).stop == "no_items"


@pytest.mark.parametrize("rule", RULES)
@EXTREME
def test_numbers_stay_finite_at_the_extremes(rule: Any, *, right: bool) -> None:
    a = np.array([0.01, 6.0, 6.0, 0.01, 2.0, 2.0])
    b = np.array([-10.0, 10.0, -10.0, 10.0, 0.0, 0.0])
    pool = make_pool(["4pl"] * 6, a, b, guessing=np.full(6, 0.5), upper=np.full(6, 0.51))
    plan = Plan(rule=rule, max_items=6, prior_sd=(10.0,))
    sitting = begin(pool, plan)
    while (turn := next_item(pool, plan, sitting, 1)).item >= 0:
        assert all(np.isfinite(list(turn.terms.values())))
        sitting = take(pool, plan, sitting, turn.item, int(right))
        assert np.isfinite([*sitting.ability, *sitting.standard_error]).all()
        assert abs(sitting.ability[0]) <= 6
        assert sitting.standard_error[0] <= 10


@pytest.mark.parametrize("method", ["interval", "sprt"])
def test_classifications_err_no_more_often_than_asked(method: Any) -> None:
    pool = some_pool(np.random.default_rng(8), 200, ["2pl"])
    rule = Classification(((0.0,),), method=method, alpha=0.1, beta=0.1, delta=0.3, confidence=0.9)
    plan = Plan(classification=rule, max_items=60)
    truth = np.concatenate([np.full((60, 1), -0.3), np.full((60, 1), 0.3)])
    records = simulate(pool, plan, truth, 4)
    decided = np.array([stop == "classified" for stop in records.stops])
    wrong = (records.level[:, 0] == 1) != (truth[:, 0] > 0)
    assert decided.mean() > 0.5
    assert (wrong & decided).sum() / decided.sum() <= 0.1 + 2 * (0.1 * 0.9 / decided.sum()) ** 0.5


def test_exposure_parameters_keep_what_was_asked_for() -> None:
    pool, plan, target = some_pool(np.random.default_rng(9), 30, ["2pl"]), Plan(max_items=5), 0.4
    truth = draw_abilities(plan, 200, 99)
    free = given_items(pool, simulate(pool, plan, truth, 5)).mean(axis=0)
    calibrated = calibrate_exposure(pool, plan, target, 1, learners=80, rounds=12)
    kept = given_items(pool, simulate(calibrated, replace(plan, sympson_hetter=True), truth, 5)).mean(axis=0)
    assert free.max() > 0.9
    assert kept.max() < target + 3 * (target * (1 - target) / 200) ** 0.5
    with pytest.raises(ValueError, match="more often"):
        calibrate_exposure(pool, plan, 0.05, 1, learners=20, rounds=1)


def test_a_simulated_learner_answers_alike_whatever_is_asked() -> None:
    pool = some_pool(np.random.default_rng(10), 12)
    key = np.array([77], dtype=np.uint64)
    first, again = (answers_of(pool, np.array([0.4]), key) for _ in range(2))
    assert np.array_equal(first, again)
    assert (first <= pool.grades).all()


BAD = [
    {"rule": "best"},
    {"randomesque": 0},
    {"randomesque": 3, "sympson_hetter": True},
    {"max_exposure": 0.0},
    {"first": (0, 0)},
    {"first": (99,)},
    {"first": (0,), "pilots": (0,)},
    {"bounds": (Bound(0, 0, 1),)},
    {"standard_error": 0.0},
    {"max_items": 2, "min_items": 3},
    {"prior_sd": (0.0,)},
    {"prior_mean": (0.0, 0.0)},
    {"classification": Classification(((),))},
]


@pytest.mark.parametrize("wanted", BAD, ids=str)
def test_a_plan_that_cannot_be_followed_is_refused(wanted: dict[str, Any]) -> None:
    pool = some_pool(np.random.default_rng(11), 5)
    with pytest.raises(ValueError, match=r"\w"):
        begin(pool, Plan(**wanted))
