"""Shadow tests (van der Linden & Reese 1998): before each item a whole test that keeps every bound is assembled.

maximise Σ value_i x_i over the items that may still be given, x_i 0 or 1, so that the given items and the chosen ones
together have the length of the test, are within every bound, and are no enemies of one another. The next item is the
best of the chosen. As long as the first of these problems has a solution, so have the others: the rest of the one
before is one.
"""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.cat.plan import Plan
from app.adaptive.cat.pool import Pool
from app.adaptive.cat.state import ExamineeState

CHOSEN = 0.5


def assemble_shadow_test(pool: Pool, plan: Plan, state: ExamineeState, items: Integers, values: Floats) -> Integers:
    """Those of the free `items` (n,) that complete the best test, empty if none keeps the bounds."""
    administered = np.array([item for item in state.items if item not in plan.unscored], dtype=np.int64)
    left = (plan.max_items or 0) - len(administered)
    rows, least, most = [np.ones(len(items), dtype=np.bool_)], [left], [left]
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
    return solve_shadow_test(items, values, rows, (least, most))


def solve_shadow_test(
    items: Integers, values: Floats, rows: list[Booleans], limits: tuple[list[int], list[int]]
) -> Integers:
    """The items of the best selection that keeps the limits of every row, empty if there is none."""
    if not len(items) or min(limits[1]) < 0:
        return items[:0]
    result = milp(
        -values,
        integrality=np.ones(len(items)),
        bounds=Bounds(0, 1),
        constraints=LinearConstraint(csr_array(np.array(rows, dtype=np.float64)), *limits),
    )
    return items[result.x > CHOSEN] if result.success else items[:0]


def meets_lower_bounds(pool: Pool, plan: Plan, state: ExamineeState) -> bool:
    """Whether what was given has reached the lower limit of every bound, so that the test may end early."""
    scored = [item for item in state.items if item not in plan.unscored]
    return all(int(np.isin(scored, pool.groups[bound.group]).sum()) >= bound.least for bound in plan.bounds)
