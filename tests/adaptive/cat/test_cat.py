"""Adaptive tests: the laws, every rule against a slow reference, when a test ends, and answers to degenerate cases."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.adaptive.arrays import Floats
from app.adaptive.cat import (
    NODES,
    RULES,
    Bound,
    Classification,
    ExamineeState,
    Plan,
    Pool,
    Rule,
    check_plan,
    cut_levels,
    expected_score,
    find_plan_faults,
    look_ahead,
    make_pool,
    next_item,
    pool_from_bank,
    selection,
    shadow,
    start_test,
    update_state,
)
from app.adaptive.cat.pool import information_at, log_curve
from app.adaptive.cat.shadow import assemble_shadow_test
from app.adaptive.cat.simulate import calibrate_exposure, draw_abilities, simulate_tests
from app.adaptive.cat.state import posterior
from app.adaptive.irt import ItemResponses, Model
from app.adaptive.irt.ability import estimate
from app.adaptive.irt.item_models import MODELS
from tests.adaptive.cat import laws
from tests.adaptive.irt_worlds import random_bank, textbook
from tests.gate.examples import examples

FEW = examples(25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
rules = st.sampled_from(RULES)


# Laws


@FEW
@given(seeds, st.integers(1, 2))
def test_adaptive_test_follows_its_plan(seed: int, scales: int) -> None:
    pool = laws.mixed_pool(seed, scales=scales)
    laws.keeps_its_plan(pool, laws.random_plan(pool, seed), seed)


@FEW
@example(201, 3)  # the bounds ask for items of a scale that is measured well enough
@given(seeds, st.integers(1, 3))
def test_adaptive_test_resumes_at_the_same_item(seed: int, scales: int) -> None:
    pool = laws.mixed_pool(seed, scales=scales)
    laws.resumes_at_the_same_item(pool, laws.random_plan(pool, seed), seed)


@FEW
@given(seeds)
def test_adaptive_test_does_not_change_its_arguments(seed: int) -> None:
    pool = laws.mixed_pool(seed)
    laws.changes_no_argument(pool, laws.random_plan(pool, seed), seed)


@FEW
@given(seeds)
def test_wrong_answer_never_raises_an_ability(seed: int) -> None:
    laws.answers_move_the_right_way(laws.mixed_pool(seed), seed)


@FEW
@given(seeds)
def test_ability_and_error_are_those_of_the_posterior(seed: int) -> None:
    laws.is_the_posterior(laws.mixed_pool(seed), seed)


@FEW
@given(seeds, st.booleans())
def test_extreme_response_patterns_never_stop_a_test_early(seed: int, right: bool) -> None:
    laws.extreme_patterns_go_on(laws.mixed_pool(seed), right)


@FEW
@given(seeds, rules, st.sampled_from([1, 3, 40]))
def test_selected_item_is_the_best_of_all_items(seed: int, rule: Rule, wanted: int) -> None:
    if rule != "random":
        laws.finds_the_best(laws.mixed_pool(seed, 60), Plan(rule=rule), seed, wanted)


@pytest.mark.parametrize("guessing", [0.0, 0.25])
def test_selected_item_is_the_best_in_a_large_pool(guessing: float) -> None:
    """More items than a shelf holds."""
    pool = laws.plain_pool(5000, guessing=guessing)
    for seed in range(40):
        laws.finds_the_best(pool, Plan(), seed, 1 + seed % 5)


@FEW
@given(seeds)
def test_information_is_never_above_its_bound(seed: int) -> None:
    laws.bounds_hold(laws.mixed_pool(seed), seed)


@pytest.mark.statistics
@pytest.mark.parametrize(
    "plan",
    [
        Plan(randomesque=4),
        Plan(sympson_hetter=True),
        Plan(rule="random"),
        Plan(sympson_hetter=True, rule="kullback_leibler"),
        Plan(sympson_hetter=True, bounds=(Bound(0, 1, 3),)),
        Plan(randomesque=3, content_shares=(1.0, 1.0, 1.0)),
    ],
    ids=["randomesque", "sympson_hetter", "random", "with kl", "in a shadow", "within content"],
)
def test_propensities_agree_with_frequencies(plan: Plan) -> None:
    pool = laws.mixed_pool(5, 20)
    many = 300 if plan.bounds else 3000
    fixed = replace(plan, max_items=8) if plan.bounds else plan
    laws.chances_are_those_of_seeds(pool, fixed, 5, many)


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=30))
def test_probabilities_of_passing_the_exposure_control_sum_to_one(exposure: list[float]) -> None:
    laws.passing_sums_to_one(np.array(exposure))


@examples(10, deadline=None)
@given(seeds)
def test_shadow_tests_respect_every_bound(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool = replace(laws.plain_pool(40, seed), groups=tuple(np.flatnonzero(rng.random(40) < 0.4) for _ in range(3)))
    bounds = (Bound(0, 2, 4), Bound(1, 3, 5), Bound(2, 0, 4))
    rule: Rule = "kullback_leibler" if seed % 2 else "max_information"
    plan = Plan(max_items=10, standard_error=0.9, rule=rule, bounds=bounds)
    assert laws.keeps_bounds(pool, replace(plan, standard_error=None), seed) == 0
    *_, (state, end) = laws.steps(pool, plan, laws.random_answers(pool, seed), seed)
    counts = [np.isin(pool.groups[bound.group], state.items).sum() for bound in bounds]
    assert end.stop == "max_items" or all(n >= bound.least for n, bound in zip(counts, bounds, strict=True))


@examples(10, deadline=None)
@given(seeds)
def test_shadow_tests_are_the_same_in_any_order_of_summation(seed: int) -> None:
    """Sums of whole numbers are exact, so no other machine finds another test."""
    problem = laws.planted_problem(60, 12, 20, seed)
    turned = laws.turn_rows(problem)
    assert assemble_shadow_test(problem).items.tolist() == assemble_shadow_test(turned).items.tolist()


@examples(10, deadline=None)
@given(seeds)
def test_known_assembly_is_kept_unless_a_better_one_is_found(seed: int) -> None:
    problem = laws.planted_problem(100, 30, 50, seed)
    known = laws.planted_choice(100, 50, seed)
    found = assemble_shadow_test(replace(problem, known=known))
    assert found.keeps_bounds
    assert problem.values[found.items].sum() >= problem.values[known].sum() * (1 - 1e-6)


@pytest.mark.parametrize(("items", "bounds", "length"), [(100, 30, 50), (300, 30, 30), (500, 30, 40), (500, 60, 40)])
def test_work_on_a_shadow_test_is_counted_and_ends(items: int, bounds: int, length: int, counted: list[int]) -> None:
    """Bounds that no solver keeps in minutes: what is weighed stays within what was promised."""
    assemble_shadow_test(laws.planted_problem(items, bounds, length, 1))
    assert 0 < sum(counted) <= shadow.MOST_EXCHANGES
    assert sum(counted) * items * bounds * length <= 2 * shadow.MOST_PRODUCTS


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each exchange that is weighed."""
    calls: list[int] = []
    best_exchange = shadow._best_exchange

    def count(*given: Any) -> tuple[int, int] | None:
        calls.append(1)
        return best_exchange(*given)

    monkeypatch.setattr(shadow, "_best_exchange", count)
    return calls


# Against slow references


@FEW
@given(st.sampled_from(MODELS), seeds)
def test_estimate_equals_that_of_the_whole_response_pattern(model: Model, seed: int) -> None:
    """The one for many learners at once has another grid."""
    rng = np.random.default_rng(seed)
    bank = random_bank(model, 12, rng)
    pool, plan = pool_from_bank(bank), Plan(prior_mean=(0.2,), prior_sd=(1.1,))
    categories = rng.integers(0, bank.max_category + 1)
    state = start_test(pool, plan)
    for item, category in enumerate(categories.tolist()):
        state = update_state(pool, plan, state, item, category)
    whole = estimate(bank, ItemResponses(np.array([0, 12]), np.arange(12), categories), 0.2, 1.1**2, nodes=241)
    np.testing.assert_allclose(state.ability[0], whole.ability[0], atol=2e-4)
    np.testing.assert_allclose(state.standard_error[0], whole.standard_error[0], atol=2e-4)


@FEW
@given(st.sampled_from(MODELS), seeds, st.integers(-4000, 4000))
def test_information_is_the_expected_square_of_the_slope(model: Model, seed: int, thousandths: int) -> None:
    """By central differences of the textbook's curves."""
    ability = thousandths / 1000
    bank = random_bank(model, 4, np.random.default_rng(seed))
    found = information_at(pool_from_bank(bank), np.arange(4), ability)
    for item in range(4):
        low, here, high = (np.array(textbook(bank, item, ability + h)) for h in (-1e-4, 0.0, 1e-4))
        expected = (((high - low) / 2e-4) ** 2 / here)[here > 1e-12].sum()
        assert found[item] == pytest.approx(expected, rel=1e-4, abs=1e-8)


@FEW
@given(seeds)
def test_selection_criteria_equal_their_definitions(seed: int) -> None:
    """Item by item and category by category, as the papers write them."""
    pool = laws.mixed_pool(seed, 12)
    *_, (state, _) = laws.steps(pool, Plan(max_items=3), laws.random_answers(pool, seed), seed)
    everything = np.arange(pool.count)
    weights, ability = posterior(state.log_posterior[0]), state.ability[0]
    variance = float((weights * (NODES - ability) ** 2).sum())
    lowered = selection.criterion_values(pool, Plan(rule="min_expected_posterior_variance"), state, everything)
    apart = selection.criterion_values(pool, Plan(rule="kullback_leibler"), state, everything)
    for item in range(pool.count):
        assert lowered[item] == pytest.approx(variance - expected_variance(pool, state, item), abs=1e-9)
        here, everywhere = np.exp(log_curve(pool, item, np.array([ability]))), log_curve(pool, item, NODES)
        divergence = (here * (np.log(here) - everywhere)).sum(axis=0)
        assert apart[item] == pytest.approx(float((weights * divergence).sum()), abs=1e-9)


@examples(20, deadline=None)
@given(seeds, st.integers(0, 1))
def test_shadow_test_is_the_best_there_is(seed: int, slack: int) -> None:
    """By an exact solver, on problems of the size and the kind that tests have: parts of content, of format, of key."""
    problem = laws.content_problem(120, (5, 4, 3), 25, slack, seed)
    best = laws.solve_exactly(problem)
    found = assemble_shadow_test(problem)
    assert found.keeps_bounds
    assert problem.values[found.items].sum() >= 0.99 * best


@examples(20, deadline=None)
@given(seeds)
def test_shadow_test_is_found_where_few_keep_the_bounds(seed: int) -> None:
    problem = laws.planted_problem(40, 8, 12, seed)
    assert assemble_shadow_test(problem).keeps_bounds


def expected_variance(pool: Pool, state: ExamineeState, item: int) -> float:
    """Σ_k P(k) Var(θ | k) over the posterior."""
    weights, whole = posterior(state.log_posterior[0]), 0.0
    for curve in np.exp(log_curve(pool, item, NODES)):
        after = weights * curve
        mean = (after * NODES).sum() / after.sum()
        whole += float((after * (NODES - mean) ** 2).sum())
    return whole


def test_expected_score_is_that_of_the_curve() -> None:
    steps, max_category, guessing = np.array([[0.0, 0], [-1, 1]]), np.array([1, 2]), np.array([0.25, 0])
    pool = make_pool(["3pl", "gpcm"], np.ones(2), steps, max_category=max_category, guessing=guessing)
    assert expected_score(pool, 0, 0.0) == pytest.approx(0.25 + 0.75 / 2)
    assert expected_score(pool, 1, 0.0) == pytest.approx(0.5)


# What is asked for, and the end


def test_standard_error_comes_from_the_information_of_the_items() -> None:
    """Items that say nothing leave it, however many they are; seven right answers are no .4."""
    dull = make_pool(["2pl"] * 50, np.full(50, 0.01), np.zeros(50))
    state = played(dull, Plan(max_items=50), 1)
    assert state.standard_error[0] == pytest.approx(1, abs=0.005)
    easy = make_pool(["2pl"] * 7, np.ones(7), np.full(7, -2.0))
    assert played(easy, Plan(standard_error=0.4), 1).standard_error[0] > 0.8


def played(pool: Pool, plan: Plan, category: int) -> ExamineeState:
    """A test in which every answer is alike."""
    *_, (state, _) = laws.steps(pool, plan, np.full(pool.count, category), 1)
    return state


def test_adaptive_test_ends_for_the_reason_that_is_met_first() -> None:
    pool = laws.plain_pool(60)
    answers = np.arange(60) % 2
    ends = {
        "max_items": Plan(max_items=4),
        "standard_error": Plan(standard_error=0.5, max_items=50),
        "standard_error_change": Plan(standard_error_change=0.05, max_items=50),
        "classified": Plan(classification=Classification(((-3.0,),)), max_items=50),
        "no_items": Plan(),
    }
    for stop, plan in ends.items():
        whole = list(laws.steps(pool, plan, answers, 1))
        assert whole[-1][1].stop == stop
        assert len(whole) == 61 if stop == "no_items" else len(whole) < 51
    late = Plan(standard_error=0.5, max_items=50, min_items=30)
    assert [decision.stop for _, decision in laws.steps(pool, late, answers, 1)][-1] == "standard_error"
    assert len(list(laws.steps(pool, late, answers, 1))) == 31
    assert next_item(pool, Plan(max_seconds=60.0, min_items=5), start_test(pool, Plan()), 1, 60.0).stop == "max_seconds"
    assert next_item(pool, Plan(max_seconds=60.0), start_test(pool, Plan()), 1, 59.9).stop is None


def test_adaptive_test_ends_when_the_standard_error_is_reached_and_not_earlier() -> None:
    pool = laws.plain_pool(200)
    records = simulate_tests(pool, Plan(standard_error=0.35), draw_abilities(Plan(), 40, 3), 3)
    assert set(records.stops) == {"standard_error"}
    assert (records.standard_error <= 0.35).all()
    for items, truth in zip(records.items, records.truth, strict=True):
        assert len(items) > 5, truth


def test_first_items_and_pilot_items_come_at_their_positions() -> None:
    pool = laws.plain_pool(20)
    plan = Plan(first=(7, 3), pilots=(5, 6), pilot_positions=(2, 4), max_items=4)
    *whole, (state, _) = laws.steps(pool, plan, np.zeros(20, dtype=np.int64), 8)
    assert [decision.kind for _, decision in whole] == ["first", "first", "pilot", "selected", "pilot", "selected"]
    assert state.items[:2] == (7, 3)
    assert state.length == 4
    assert whole[2][1].propensity == 0.5
    for (before, decision), (after, _) in pairwise(whole):
        assert (before.ability == after.ability) == (decision.kind == "pilot")


def test_content_is_balanced_by_the_shares_of_the_plan() -> None:
    pool = replace(laws.plain_pool(90), content=np.arange(90) % 3)
    *_, (state, _) = laws.steps(pool, Plan(max_items=20, content_shares=(0.5, 0.3, 0.2)), np.arange(90) % 2, 1)
    assert np.bincount(pool.content[list(state.items)]).tolist() == [10, 6, 4]
    bare = replace(pool, content=np.full(90, -1))
    decision = next_item(bare, Plan(content_shares=(1.0,)), start_test(bare, Plan()), 1)
    assert decision.relaxed == ("content_shares",)


def test_overexposed_items_are_selected_only_if_no_other_is_left() -> None:
    pool = laws.plain_pool(10)
    best = next_item(pool, Plan(), start_test(pool, Plan()), 1).item
    rates = np.zeros(10)
    rates[best] = 0.3
    plan = Plan(max_exposure=0.3)
    assert next_item(pool, plan, start_test(pool, plan), 1, 0.0, rates).item != best
    everybody = next_item(pool, plan, start_test(pool, plan), 1, 0.0, np.ones(10))
    assert (everybody.item, everybody.relaxed) == (best, ("max_exposure",))


def test_constraints_that_cannot_be_met_are_relaxed_and_reported() -> None:
    pool = replace(laws.plain_pool(12), groups=(np.arange(3),))
    plan = Plan(max_items=6, bounds=(Bound(0, 5, 6),))
    decision = next_item(pool, plan, start_test(pool, plan), 1)
    assert decision.relaxed == ("bounds",)
    assert decision.item >= 0
    rates = np.where(np.arange(12) < 3, 0.9, 0.0)
    kept = replace(plan, bounds=(Bound(0, 2, 6),), max_exposure=0.5)
    assert next_item(pool, kept, start_test(pool, kept), 1, 0.0, rates).relaxed == ("max_exposure",)


def test_scale_with_the_largest_standard_error_comes_next() -> None:
    pool = replace(laws.plain_pool(80), scale=np.arange(80) % 2)
    plan = Plan(prior_mean=(0.0, 0.0), prior_sd=(1.0, 0.7), standard_error=0.45)
    *whole, (state, end) = laws.steps(pool, plan, np.arange(80) // 2 % 2, 1)
    assert end.stop == "standard_error"
    assert max(state.standard_error) <= 0.45
    for before, decision in whole:
        alike = before.lowest[decision.scale] or before.highest[decision.scale]
        assert before.standard_error[decision.scale] > 0.45 or alike
    moved = update_state(pool, plan, start_test(pool, plan), 1, 1)
    assert moved.ability[0] == start_test(pool, plan).ability[0]
    assert moved.ability[1] > 0


@pytest.mark.parametrize("rule", RULES)
def test_look_ahead_begins_with_the_next_item(rule: Rule) -> None:
    pool = laws.mixed_pool(4, 20)
    plan = Plan(rule=rule, max_items=6, pilots=(1,), pilot_positions=(2,))
    state = update_state(pool, plan, start_test(pool, plan), 0, 1)
    ahead = look_ahead(pool, plan, state, 9, 3)
    assert len(set(ahead)) == 3
    assert ahead[0] == next_item(pool, plan, state, 9).item
    scored = [item for item in look_ahead(pool, plan, state, 9, 50) if item != 1]
    assert len(scored) == 5
    assert 0 not in scored


def test_look_ahead_respects_the_constraints() -> None:
    pool = replace(laws.plain_pool(30), groups=(np.arange(10),))
    plan = Plan(max_items=8, bounds=(Bound(0, 3, 4),))
    ahead = look_ahead(pool, plan, start_test(pool, plan), 1, 8)
    assert 3 <= np.isin(ahead, np.arange(10)).sum() <= 4


def test_plan_whose_shadow_tests_are_too_large_says_by_how_much() -> None:
    pool = replace(laws.plain_pool(5001), groups=tuple(np.arange(2) for _ in range(100)))
    plan = Plan(max_items=20, bounds=tuple(Bound(group, 0, 2) for group in range(100)))
    [fault] = find_plan_faults(pool, plan)
    assert fault.path == ("bounds",)
    assert "5001 items × 100 constraints" in fault.sentence
    assert "25005000" in fault.sentence
    assert not find_plan_faults(pool, replace(plan, bounds=plan.bounds[:99]))


# Classification


@pytest.mark.statistics
@pytest.mark.parametrize("method", ["interval", "sprt"])
def test_classification_errors_are_near_their_nominal_rates(method: str) -> None:
    """True abilities at cut ± delta, where an SPRT errs most; items that are best at the cut."""
    pool = make_pool(["2pl"] * 300, np.full(300, 1.2), np.linspace(-0.5, 0.5, 300))
    rule = Classification(((0.0,),), "sprt" if method == "sprt" else "interval", alpha=0.1, beta=0.1, delta=0.4)
    plan = Plan(prior_sd=(10.0,), classification=rule, rule="random")
    for side in (-1, 1):
        records = simulate_tests(pool, plan, np.full((150, 1), side * 0.4), 7)
        wrong = (records.level[:, 0] != (side > 0)).mean()
        # .1 and three standard errors; an interval of 95 % errs less.
        assert wrong < 0.1 + 3 * (0.09 / 150) ** 0.5
        assert set(records.stops) <= {"classified", "no_items"}
        assert method == "interval" or wrong > 0.01
        assert records.length.mean() < 150


def test_level_is_the_number_of_cut_scores_below() -> None:
    pool = laws.plain_pool(40)
    plan = Plan(classification=Classification(((-1.0, 1.0),)), max_items=40)
    assert cut_levels(plan, played(pool, plan, 1)) == (2,)
    assert cut_levels(plan, played(pool, plan, 0)) == (0,)
    assert cut_levels(plan, start_test(pool, plan)) == (1,)
    assert cut_levels(Plan(), start_test(pool, Plan())) == (0,)


# Exposure


@pytest.mark.statistics
def test_calibrated_exposure_control_stays_below_the_target() -> None:
    pool = laws.plain_pool(80, seed=2)
    plan, target = Plan(max_items=8), 0.3
    free = simulate_tests(pool, plan, draw_abilities(plan, 300, 1), 1)
    calibrated = calibrate_exposure(pool, plan, target, seed=100, learners=50, rounds=30)
    held = simulate_tests(calibrated, replace(plan, sympson_hetter=True), draw_abilities(plan, 300, 1), 1)
    most = [rates(pool, records.items).max() for records in (free, held)]
    assert most[0] > 0.6
    # Three standard errors of a rate of .3.
    assert most[1] < target + 3 * (0.21 / 300) ** 0.5
    assert held.standard_error.mean() < 1.1 * free.standard_error.mean()
    with pytest.raises(ValueError, match="more often"):
        calibrate_exposure(pool, plan, 0.1, seed=1, learners=5, rounds=1)


def rates(pool: Pool, tests: tuple[tuple[int, ...], ...]) -> Floats:
    """In what share of the tests each item was given."""
    return np.bincount(np.concatenate(tests), minlength=pool.count) / len(tests)


# Degenerate cases


def test_adaptive_test_of_an_empty_pool_ends_at_once() -> None:
    pool = make_pool([], np.zeros(0), np.zeros(0))
    for rule in RULES:
        assert next_item(pool, Plan(rule=rule), start_test(pool, Plan(rule=rule)), 1).stop == "no_items"
    assert look_ahead(pool, Plan(), start_test(pool, Plan()), 1, 3) == ()


def test_adaptive_test_of_one_item_ends_after_it() -> None:
    pool = make_pool(["2pl"], np.ones(1), np.zeros(1))
    for rule in RULES:
        *whole, (_, end) = laws.steps(pool, Plan(rule=rule, max_items=5), np.ones(1, dtype=np.int64), 1)
        assert [decision.item for _, decision in whole] == [0]
        assert whole[0][1].propensity == 1
        assert end.stop == "no_items"


@pytest.mark.parametrize("a", [0.01, 1.0, 6.0])
@pytest.mark.parametrize("b", [-10.0, 0.0, 10.0])
@pytest.mark.parametrize("c", [0.0, 0.5])
def test_adaptive_test_of_extreme_items_stays_finite(a: float, b: float, c: float) -> None:
    pool = make_pool(["3pl"] * 12, np.full(12, a), np.full(12, b), guessing=np.full(12, c))
    for rule in RULES:
        for right in (0, 1):
            state = played(pool, Plan(rule=rule), right)
            assert np.isfinite(state.log_posterior).all()
            assert abs(state.ability[0]) <= 6
            assert 0 <= state.standard_error[0] <= 1


def test_ability_at_the_end_of_the_grid_is_reported_as_a_limit() -> None:
    pool = make_pool(["2pl"] * 300, np.full(300, 3.0), np.full(300, 8.0))
    assert played(pool, Plan(), 1).at_bound == (True,)
    assert start_test(pool, Plan()).at_bound == (False,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"prior_sd": (0.0,)}, "prior_sd.0 must be from"),
        ({"prior_mean": (0.0, 0.0)}, "prior_mean must be as many as the scales"),
        ({"prior_mean": (7.0,)}, "prior_mean.0 must be from"),
        ({"rule": "best"}, "rule must be one of"),
        ({"randomesque": 0}, "randomesque must be at least 1"),
        ({"randomesque": 2, "sympson_hetter": True}, "randomesque must be 1"),
        ({"rule": "random", "sympson_hetter": True}, "sympson_hetter must be off"),
        ({"max_exposure": 0.0}, "max_exposure"),
        ({"content_shares": (0.0,)}, "content_shares"),
        ({"bounds": (Bound(0, 0, 1),)}, "max_items is required"),
        ({"bounds": (Bound(9, 0, 1),), "max_items": 5}, "bounds.0.group must be"),
        ({"first": (99,)}, "first must be items"),
        ({"first": (1,), "pilots": (1,)}, "first must not have a pilot item"),
        ({"pilots": (1,), "pilot_positions": (-1,)}, "pilot_positions"),
        ({"standard_error": 0.0}, "standard_error"),
        ({"max_items": 2, "min_items": 3}, "min_items must not be greater"),
        ({"classification": Classification(())}, "classification.cuts must be given for each scale"),
        ({"classification": Classification(((1.0, 0.0),))}, "classification.cuts must ascend"),
        ({"classification": Classification(((1.0,),), alpha=0.7)}, "classification.alpha must be"),
        ({"classification": Classification(((1.0,),), method="guess")}, "classification.method must be one of"),  # type: ignore[arg-type]
    ],
)
def test_impossible_plan_is_refused_with_its_reason(changes: dict[str, object], said: str) -> None:
    pool = laws.plain_pool(5)
    with pytest.raises(ValueError, match=said):
        check_plan(pool, replace(Plan(), **changes))  # type: ignore[arg-type]


def test_plan_is_refused_with_all_its_faults_at_once() -> None:
    pool = laws.plain_pool(5)
    plan = Plan(rule="random", sympson_hetter=True, bounds=(Bound(0, 2, 1),), max_items=2, min_items=3)
    assert {fault.path for fault in find_plan_faults(pool, plan)} == {
        ("sympson_hetter",), ("bounds",), ("bounds", 0, "group"), ("bounds", 0, "least"), ("min_items",)
    }  # fmt: skip
    assert find_plan_faults(pool, Plan()) == []


def test_pool_refuses_invalid_items() -> None:
    one = np.ones(1)
    with pytest.raises(ValueError, match="unknown model"):
        make_pool(["5pl"], one, one)
    with pytest.raises(ValueError, match="discrimination"):
        make_pool(["2pl"], 0 * one, one)
    with pytest.raises(ValueError, match="finite"):
        make_pool(["2pl"], np.nan * one, one)
    with pytest.raises(ValueError, match="one difficulty"):
        make_pool(["2pl"], one, np.ones(2))
    with pytest.raises(ValueError, match="within"):
        make_pool(["2pl"], one, 50 * one)
    with pytest.raises(ValueError, match="ascend"):
        make_pool(["graded"], one, np.array([[1.0, 0.0]]), max_category=np.array([2]))
    with pytest.raises(ValueError, match="step for every grade"):
        make_pool(["graded"], one, one, max_category=np.array([2]))
    with pytest.raises(ValueError, match="guessing < upper"):
        make_pool(["4pl"], one, one, guessing=0.6 * one, upper=0.5 * one)
    with pytest.raises(ValueError, match="only 3pl"):
        make_pool(["2pl"], one, one, guessing=0.2 * one)
    with pytest.raises(ValueError, match="exposure"):
        make_pool(["2pl"], one, one, exposure=0 * one)
    with pytest.raises(ValueError, match="names an item"):
        make_pool(["2pl"], one, one, enemies=[[0, 1]])
    with pytest.raises(ValueError, match="scales"):
        make_pool(["2pl"], one, one, scale=np.array([-1]))


def test_adaptive_test_refuses_invalid_answers() -> None:
    pool = laws.plain_pool(3)
    state = update_state(pool, Plan(), start_test(pool, Plan()), 1, 1)
    for item, category, said in ((1, 0, "before"), (3, 0, "exist"), (-1, 0, "exist"), (0, 2, "category")):
        with pytest.raises(ValueError, match=said):
            update_state(pool, Plan(), state, item, category)
