"""Each law of adaptive tests must be able to fail: something is broken on purpose and the law has to notice."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from app.adaptive.arrays import Floats
from app.adaptive.cat import Bound, Plan, Pool, decide, exposure, information_index, pool, shadow, state, stopping
from tests.adaptive.cat import laws

pytestmark = pytest.mark.controls

Patch = pytest.MonkeyPatch


def forget_the_administered_items(patch: Patch) -> None:
    patch.setattr(decide, "open_items", lambda bank, _: np.ones(bank.count, dtype=np.bool_))


def forget_the_enemies(patch: Patch) -> None:
    patch.setattr(pool.Pool, "enemies_of", {})


def choose_by_the_length(patch: Patch) -> None:
    """Chance that depends on something else than answers and seed."""
    calls, select_by_rule = iter(range(10**9)), decide.select_by_rule

    def by_the_call(bank: Any, plan: Any, before: Any, _: Any, *others: Any) -> Any:
        return select_by_rule(bank, plan, before, (next(calls), 0), *others)

    patch.setattr(decide, "select_by_rule", by_the_call)


def reverse_an_answer(patch: Patch) -> None:
    log_row = pool.log_row
    patch.setattr(state, "log_row", lambda bank, item: log_row(bank, item)[: bank.max_category[item] + 1][::-1])


def count_answers(patch: Patch) -> None:
    """A standard error of 1 / √n, as one peer has it."""
    calls = iter(range(1, 10**9))
    patch.setattr(state, "_moments_of", lambda _, sd: (0.0, min(sd, next(calls) ** -0.5)))


def believe_extremes(patch: Patch) -> None:
    patch.setattr(stopping, "_is_extreme", lambda *_: False)


def trust_the_first_few(patch: Patch) -> None:
    """The nearest items are taken for the best ones without a proof."""
    patch.setattr(information_index, "rounded_up", lambda bounds: np.zeros(bounds.shape, dtype=np.float32))


def bound_by_the_left_edge(patch: Patch) -> None:
    patch.setattr(information_index, "_grown", lambda exponent: np.ones(exponent.shape))


def report_half_the_propensity(patch: Patch) -> None:
    patch.setattr(exposure, "selection_probabilities", lambda given: np.full(len(given), 0.5))


def lose_a_bound(patch: Patch) -> None:
    shadow_problem = shadow.shadow_problem

    def only_the_length(*given: Any) -> Any:
        problem = shadow_problem(*given)
        return replace(problem, rows=problem.rows[:0], least=problem.least[:0], most=problem.most[:0])

    patch.setattr(decide, "shadow_problem", only_the_length)


def over(law: Callable[[Pool, Plan, int], Any]) -> Callable[[], None]:
    """The law on twenty pools and plans."""

    def check() -> None:
        for seed in range(20):
            bank = laws.mixed_pool(seed)
            law(bank, laws.random_plan(bank, seed), seed)

    return check


def directions() -> None:
    for seed in range(5):
        laws.answers_move_the_right_way(laws.mixed_pool(seed), seed)


def posteriors() -> None:
    laws.is_the_posterior(laws.plain_pool(), 1)


def extremes() -> None:
    laws.extreme_patterns_go_on(laws.plain_pool(), right=True)


def best_ones() -> None:
    bank = laws.plain_pool(3000)
    for seed in range(20):
        laws.finds_the_best(bank, Plan(), seed, 1)


def bounds_of_cells() -> None:
    laws.bounds_hold(laws.plain_pool(), 1)


def frequencies() -> None:
    laws.chances_are_those_of_seeds(laws.mixed_pool(5, 20), Plan(sympson_hetter=True), 5, 500)


def sums() -> None:
    given: Floats = np.array([0.2, 0.5, 0.9])
    laws.passing_sums_to_one(given)


def shadows() -> None:
    bank = laws.plain_pool(30)
    grouped = pool.make_pool(["2pl"] * 30, bank.discrimination, bank.difficulty, groups=[range(10)])
    laws.keeps_bounds(grouped, Plan(max_items=8, bounds=(Bound(0, 7, 8),)), 1)


CONTROLS: list[tuple[Callable[[Patch], None], Callable[[], None]]] = [
    (forget_the_administered_items, over(laws.keeps_its_plan)),
    (forget_the_enemies, over(laws.keeps_its_plan)),
    (choose_by_the_length, over(laws.resumes_at_the_same_item)),
    (reverse_an_answer, directions),
    (count_answers, posteriors),
    (believe_extremes, extremes),
    (trust_the_first_few, best_ones),
    (bound_by_the_left_edge, bounds_of_cells),
    (report_half_the_propensity, frequencies),
    (report_half_the_propensity, sums),
    (lose_a_bound, shadows),
]


@pytest.mark.parametrize(("fault", "law"), CONTROLS, ids=[fault.__name__ for fault, _ in CONTROLS])
def test_law_of_adaptive_tests_notices_its_planted_fault(
    monkeypatch: Patch, fault: Callable[[Patch], None], law: Callable[[], None]
) -> None:
    law()
    fault(monkeypatch)
    with pytest.raises((AssertionError, ValueError)):
        law()


def test_posterior_of_an_examinee_state_is_read_only() -> None:
    """A take that writes into the posterior it was given is refused by the array itself."""
    bank = laws.plain_pool(3)
    with pytest.raises(ValueError, match="read-only"):
        state.start_test(bank, Plan()).log_posterior[0] = 0.0
