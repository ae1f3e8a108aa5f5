"""Adaptive tests: select the next item, update the ability estimate, decide when to stop (docs/testing.md).

    pool = make_pool(["2pl", "graded"], [1.2, 0.9], [[0.3, 0], [-1, 1]], max_category=[1, 2])   once for a bank; keep it
    plan = Plan(standard_error=0.3, max_items=30)                                  what the test is to do
    state = start_test(pool, plan)                                                 before the first response
    while (decision := next_item(pool, plan, state, seed)).item >= 0:
        state = update_state(pool, plan, state, decision.item, category)

All values are frozen; nothing reads a clock or hidden randomness. The same pool, plan, responses and seed give the same
decision, so a state need not be stored: replay the responses with `start_test` and `update_state`, and `next_item`
selects the same item. A plan with `bounds` has one thing more to hand on, the `assembly` of the decision before.

- `Pool`: items of any models and scales, by index. `make_pool(models, discrimination, difficulty, *, max_category,
  guessing, upper, scale, content, exposure, enemies, groups)` checks them, `pool_from_bank` takes a calibrated bank.
  Both raise ValueError. A pool computes tables when they are first needed (`pool.information_indexes` for
  max_information: a second for 100,000 items) and keeps them: build it once for a bank.
- `Plan`: plain values. `prior_mean`, `prior_sd` of each scale; `rule` (`RULES`); `randomesque`; `sympson_hetter`;
  `max_exposure`; `content_shares`; `bounds` of `Bound(group, least, most)`, groups being those of the pool; `first`;
  `pilots`, `pilot_positions`; `standard_error`, `standard_error_change`, `classification` (`Classification(cuts,
  method, confidence, alpha, beta, delta)`), `max_items`, `min_items`, `max_seconds`. `find_plan_faults(pool, plan)`
  lists what cannot be followed as `PlanFault(path, sentence)`; `check_plan(pool, plan)` raises ValueError with all of
  it, and `start_test` calls it.
- `start_test(pool, plan) -> ExamineeState`; `update_state(pool, plan, state, item, category) -> ExamineeState`:
  category 0 to the item's highest, 0 and 1 for wrong and right. `ExamineeState`: `items`, `categories`, `ability` and
  `standard_error` of each scale (mean and standard deviation of the posterior on `NODES`), `at_bound`, `scored`,
  `length`, `log_posterior`. A pilot item is recorded and changes no estimate. ValueError for an item that was given
  before, or a category it does not have.
- `next_item(pool, plan, state, seed, elapsed_seconds=0.0, exposure_rates=None, known=(), assemble=assemble_shadow_test)
  -> NextItem`. `NextItem.item` is -1 at the end and `NextItem.stop` says why: max_items, max_seconds, standard_error,
  standard_error_change, classified, no_items. `NextItem.kind`: first, pilot, selected, end. `NextItem.propensity`: the
  probability of the item, over the seeds, given the responses. `NextItem.relaxed`: what the plan asked for and could
  not be kept: max_exposure, content_shares, bounds. `NextItem.terms`: ability, standard_error, information, and of a
  selected item criterion, candidates, rank. `NextItem.assembly`: the shadow test, to be handed on as `known`. `seed` is
  an integer from 0 to 2**64 - 1; `exposure_rates` (I,) the share of earlier tests that gave each item.
- `look_ahead(pool, plan, state, seed, count, exposure_rates=None, known=(), assemble=assemble_shadow_test)`: the next
  items, best first, as if no response changed the estimate; the first is that of `next_item`.
- `assemble_shadow_test(problem: ShadowProblem) -> Assembly`: the part of `next_item` that may take long.
- `cut_levels(plan, state)`: how many cuts each ability is above.
- `expected_score(pool, item, ability)`: the mean score of an item as a share of its highest.
- `simulate`: whole tests with simulated learners by these functions, and the calibration of exposure parameters.

A scale that needs no more items is left; of the others the one with the greatest standard error is measured next.
Responses all in the lowest, or all in the highest, category never end a test by its standard error.
"""

from app.adaptive.cat.decide import Kind, NextItem, Relaxed, look_ahead, next_item
from app.adaptive.cat.plan import (
    METHODS,
    RULES,
    Bound,
    Classification,
    Method,
    Plan,
    PlanFault,
    Rule,
    check_plan,
    find_plan_faults,
)
from app.adaptive.cat.pool import NODES, Pool, expected_score, make_pool, pool_from_bank
from app.adaptive.cat.shadow import Assemble, Assembly, ShadowProblem, assemble_shadow_test
from app.adaptive.cat.state import ExamineeState, start_test, update_state
from app.adaptive.cat.stopping import Stop, cut_levels

__all__ = [
    "METHODS",
    "NODES",
    "RULES",
    "Assemble",
    "Assembly",
    "Bound",
    "Classification",
    "ExamineeState",
    "Kind",
    "Method",
    "NextItem",
    "Plan",
    "PlanFault",
    "Pool",
    "Relaxed",
    "Rule",
    "ShadowProblem",
    "Stop",
    "assemble_shadow_test",
    "check_plan",
    "cut_levels",
    "expected_score",
    "find_plan_faults",
    "look_ahead",
    "make_pool",
    "next_item",
    "pool_from_bank",
    "start_test",
    "update_state",
]
