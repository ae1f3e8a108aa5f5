"""Adaptive tests: which item comes next, what the answers say, and when to stop (docs/testing.md).

    pool = make_pool(["2pl", "graded"], [1.2, 0.9], [[0.3, 0], [-1, 1]], grades=[1, 2])   once for a bank; keep it
    plan = Plan(standard_error=0.3, max_items=30)                                         what the test is to do
    sitting = begin(pool, plan)                                                           before the first answer
    while (turn := next_item(pool, plan, sitting, seed)).item >= 0:
        sitting = take(pool, plan, sitting, turn.item, category)

All values are frozen; nothing has a clock or hidden chance. The same pool, plan, answers and seed give the same turn,
so a sitting need not be stored: fold the answers again with `begin` and `take`, and `next_item` offers the same item.

- `Pool`: items of any models and scales, by number. `make_pool(models, discrimination, difficulty, *, grades, guessing,
  upper, scale, content, exposure, enemies, groups)` checks them, `of_bank` takes a calibrated bank. Both raise
  ValueError. A pool computes tables when they are first needed (`pool.shelves` for max_information: a second for
  100,000 items) and keeps them: build it once for a bank.
- `Plan`: plain values. `prior_mean`, `prior_sd` of each scale; `rule` (`RULES`); `randomesque`; `sympson_hetter`;
  `max_exposure`; `content_shares`; `bounds` of `Bound(group, least, most)`, groups being those of the pool; `first`;
  `pilots`, `pilot_places`; `standard_error`, `standard_error_change`, `classification` (`Classification(cuts, method,
  confidence, alpha, beta, delta)`), `max_items`, `min_items`, `max_seconds`. `check_plan(pool, plan)` raises ValueError
  with a sentence that says what to change; `begin` calls it.
- `begin(pool, plan) -> Sitting`; `take(pool, plan, sitting, item, category) -> Sitting`: category 0 to the item's
  grade, 0 and 1 for wrong and right. `Sitting`: `items`, `categories`, `ability` and `standard_error` of each scale
  (mean and standard deviation of the posterior on `NODES`), `at_bound`, `scored`, `length`, `log_posterior`. A pilot
  item is recorded and moves nothing. ValueError for an item that was given before, or a category it does not have.
- `next_item(pool, plan, sitting, seed, elapsed_seconds=0.0, exposure_rates=None) -> Turn`. `Turn.item` is -1 at the end
  and `Turn.stop` says why: max_items, max_seconds, standard_error, standard_error_change, classified, no_items.
  `Turn.kind`: first, pilot, selected, end. `Turn.propensity`: the chance the item had, over the seeds, given the
  answers. `Turn.relaxed`: what the plan asked for and could not be kept: max_exposure, content_shares, bounds.
  `Turn.terms`: ability, standard_error, information, and of a selected item criterion, candidates, rank.
  `seed` is a whole number from 0 to 2**64 - 1; `exposure_rates` (I,) the share of earlier tests that gave each item.
- `look_ahead(pool, plan, sitting, seed, many, exposure_rates=None)`: the next items, best first, as if no answer said
  anything; the first is that of `next_item`.
- `levels(plan, sitting)`: how many cuts each ability is above.
- `expected_score(pool, item, ability)`: the mean score of an item as a share of its highest.
- `simulate`: whole tests with simulated learners by these functions, and the calibration of exposure parameters.

A scale that needs no more items is left; of the others the one with the greatest standard error is measured next.
Answers all in the lowest, or all in the highest, category never end a test by its standard error.
"""

from app.adaptive.testing.plan import METHODS, RULES, Bound, Classification, Method, Plan, Rule, check_plan
from app.adaptive.testing.pool import NODES, Pool, expected_score, make_pool, of_bank
from app.adaptive.testing.sitting import Sitting, begin, take
from app.adaptive.testing.stopping import Stop, levels
from app.adaptive.testing.turn import Kind, Relaxed, Turn, look_ahead, next_item

__all__ = [
    "METHODS",
    "NODES",
    "RULES",
    "Bound",
    "Classification",
    "Kind",
    "Method",
    "Plan",
    "Pool",
    "Relaxed",
    "Rule",
    "Sitting",
    "Stop",
    "Turn",
    "begin",
    "check_plan",
    "expected_score",
    "levels",
    "look_ahead",
    "make_pool",
    "next_item",
    "of_bank",
    "take",
]
