"""What a test is to do: prior, rule of selection, exposure, content, and when it ends. Plain values only."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple, get_args

from app.adaptive.cat.information_index import MAX_ABILITY
from app.adaptive.cat.pool import Pool

Rule = Literal["max_information", "min_expected_posterior_variance", "kullback_leibler", "random"]
Method = Literal["interval", "sprt"]
RULES: tuple[Rule, ...] = get_args(Rule)
METHODS: tuple[Method, ...] = get_args(Method)
# A prior narrower than the step of the grid could not be told from one that is wider.
MIN_PRIOR_SD, MAX_PRIOR_SD = 0.1, 10.0
# What a shadow test may weigh: items × (bounds and sets of enemies) × its items, which count as so many or more.
MOST_SHADOW_PRODUCTS, LEAST_SHADOW_LENGTH = 25_000_000, 50


@dataclass(frozen=True)
class Bound:
    """Between `least` and `most` of the items of the pool's group number `group` are given."""

    group: int
    least: int
    most: int


@dataclass(frozen=True)
class Classification:
    """Stop when it is clear on which side of each cut score every ability lies.

    `cuts` are those of each scale, ascending; a scale without any has nothing to decide. `interval` (Kingsbury & Weiss
    1979): no cut lies within θ ± z SE, z of the two-sided `confidence`. `sprt` (Wald 1947; Reckase 1983): the
    likelihood ratio of cut + `delta` to cut - `delta` leaves the bounds of the error rates `alpha`, taken for above
    when it is below, and `beta`, the reverse.
    """

    cuts: tuple[tuple[float, ...], ...]
    method: Method = "interval"
    confidence: float = 0.95
    alpha: float = 0.05
    beta: float = 0.05
    delta: float = 0.2


@dataclass(frozen=True)
class Plan:
    """A test. `prior_mean` and `prior_sd` are those of each scale, in logits.

    Selection: `rule` ranks; one of the `randomesque` best is given (Kingsbury & Zara 1989). `sympson_hetter`: each item
    is passed over with a chance of 1 - its exposure parameter (Sympson & Hetter 1985). `max_exposure`: items whose
    observed rate is as high or higher wait (Revuelta & Ponsoda 1998). `content_shares` are the target shares of the
    groups of content, in any unit (Kingsbury & Zara 1989). `bounds` are kept by shadow tests of `max_items` items (van
    der Linden & Reese 1998). `first` are given first, in this order. One of the items `pilots`, unscored, is given at
    each of the `pilot_positions`, counted from 0; elsewhere they are not.

    The end, whichever comes first: all standard errors at most `standard_error`; the last answer lowered a standard
    error by less than `standard_error_change`; a `classification`; `max_items`; `max_seconds`. The first three wait for
    `min_items`. Both counts are of scored items.
    """

    prior_mean: tuple[float, ...] = (0.0,)
    prior_sd: tuple[float, ...] = (1.0,)
    rule: Rule = "max_information"
    randomesque: int = 1
    sympson_hetter: bool = False
    max_exposure: float | None = None
    content_shares: tuple[float, ...] = ()
    bounds: tuple[Bound, ...] = ()
    first: tuple[int, ...] = ()
    pilots: tuple[int, ...] = ()
    pilot_positions: tuple[int, ...] = ()
    standard_error: float | None = None
    standard_error_change: float | None = None
    classification: Classification | None = None
    max_items: int | None = None
    min_items: int = 0
    max_seconds: float | None = None

    @cached_property
    def unscored(self) -> frozenset[int]:
        """The pilot items."""
        return frozenset(self.pilots)


class PlanFault(NamedTuple):
    """A field of a plan that is wrong, as the names and indices that lead to it, and what to do."""

    path: tuple[str | int, ...]
    sentence: str


def check_plan(pool: Pool, plan: Plan) -> None:
    """Raise ValueError, saying what to change, for a plan that this pool cannot follow or that contradicts itself."""
    faults = find_plan_faults(pool, plan)
    if faults:
        raise ValueError("; ".join(f"{'.'.join(map(str, fault.path))} {fault.sentence}" for fault in faults))


def find_plan_faults(pool: Pool, plan: Plan) -> list[PlanFault]:
    """All that keeps a test of this pool from following the plan. The sentences do not name fields of the plan."""
    return [
        *_prior_faults(pool, plan),
        *_selection_faults(plan),
        *_bound_faults(pool, plan),
        *_item_faults(pool, plan),
        *_stop_faults(plan),
        *_classification_faults(plan),
    ]


def _prior_faults(pool: Pool, plan: Plan) -> Iterator[PlanFault]:
    """One proper prior for each scale."""
    for name, values, low, high in (
        ("prior_mean", plan.prior_mean, -MAX_ABILITY, MAX_ABILITY),
        ("prior_sd", plan.prior_sd, MIN_PRIOR_SD, MAX_PRIOR_SD),
    ):
        if len(values) != pool.scales:
            yield PlanFault((name,), f"must be as many as the scales that the pool has items of: {pool.scales}")
        for scale, value in enumerate(values):
            if not low <= value <= high:
                yield PlanFault((name, scale), f"must be from {low:g} to {high:g}")


def _selection_faults(plan: Plan) -> Iterator[PlanFault]:
    """Rules that exist and may be combined."""
    if plan.rule not in RULES:
        yield PlanFault(("rule",), f"must be one of {', '.join(RULES)}")
    if plan.randomesque < 1:
        yield PlanFault(("randomesque",), "must be at least 1")
    if plan.randomesque > 1 and plan.sympson_hetter:
        yield PlanFault(("randomesque",), "must be 1 with exposure control: leave out one of them")
    if plan.randomesque > 1 and plan.rule == "random":
        yield PlanFault(("randomesque",), "must be 1 with the rule random, which draws from all items; leave it out")
    if plan.sympson_hetter and plan.rule == "random":
        yield PlanFault(
            ("sympson_hetter",), "must be off with the rule random, which gives all items the same chance; leave it out"
        )
    if plan.max_exposure is not None and not 0 < plan.max_exposure <= 1:
        yield PlanFault(("max_exposure",), "must be above 0 and at most 1")
    for group, share in enumerate(plan.content_shares):
        if share < 0:
            yield PlanFault(("content_shares", group), "must not be negative")
    if plan.content_shares and sum(plan.content_shares) <= 0:
        yield PlanFault(("content_shares",), "must have one share at least that is above 0")


def _bound_faults(pool: Pool, plan: Plan) -> Iterator[PlanFault]:
    """Bounds that a shadow test can keep."""
    if plan.bounds and plan.max_items is None:
        yield PlanFault(("max_items",), "is required with constraints, which count the items of a whole test; give it")
    if plan.bounds and plan.rule == "random":
        yield PlanFault(("bounds",), "are not kept by the rule random; choose another rule or leave them out")
    if plan.bounds and plan.content_shares:
        yield PlanFault(("content_shares",), "do not go with constraints; leave out one of the two")
    for index, bound in enumerate(plan.bounds):
        if not 0 <= bound.group < len(pool.groups):
            yield PlanFault(("bounds", index, "group"), "must be the index of a group of the pool")
        if not 0 <= bound.least <= bound.most:
            yield PlanFault(("bounds", index, "least"), f"must be from 0 to {bound.most}, the highest number allowed")
    if plan.bounds:
        yield from _shadow_size_faults(pool, plan)


def _shadow_size_faults(pool: Pool, plan: Plan) -> Iterator[PlanFault]:
    """A shadow test that can be assembled before each item, in the time of a learner who waits for it."""
    rows, length = len(plan.bounds) + len(pool.enemies), max(plan.max_items or 0, LEAST_SHADOW_LENGTH)
    products = pool.count * rows * length
    if products > MOST_SHADOW_PRODUCTS:
        yield PlanFault(
            ("bounds",),
            f"are too many for a test of this size: {pool.count} items × {rows} constraints and sets of enemies × "
            f"{length} items of the test (at least {LEAST_SHADOW_LENGTH} count) are {products}, and at most "
            f"{MOST_SHADOW_PRODUCTS} can be weighed; leave some out, or draw on fewer items of the course",
        )


def _item_faults(pool: Pool, plan: Plan) -> Iterator[PlanFault]:
    """Items that exist, at positions that there are."""
    for name, items in (("first", plan.first), ("pilots", plan.pilots)):
        if len(set(items)) < len(items) or not all(0 <= item < pool.count for item in items):
            yield PlanFault((name,), "must be items of the pool, none of them twice")
    if plan.unscored.intersection(plan.first):
        yield PlanFault(("first",), "must not have a pilot item; leave it out of one of the two")
    if len(set(plan.pilot_positions)) < len(plan.pilot_positions) or min(plan.pilot_positions, default=0) < 0:
        yield PlanFault(("pilot_positions",), "must be positions in the test, none of them twice")


def _stop_faults(plan: Plan) -> Iterator[PlanFault]:
    """Limits that can be reached."""
    for name in ("standard_error", "standard_error_change", "max_seconds"):
        limit = getattr(plan, name)
        if limit is not None and not limit > 0:
            yield PlanFault((name,), "must be above 0")
    if plan.max_items is not None and plan.max_items < 1:
        yield PlanFault(("max_items",), "must be at least 1")
    if plan.min_items < 0:
        yield PlanFault(("min_items",), "must not be negative")
    if plan.max_items is not None and plan.min_items > plan.max_items:
        yield PlanFault(("min_items",), "must not be greater than max_items")


def _classification_faults(plan: Plan) -> Iterator[PlanFault]:
    """Cut scores on the scale, and a rule that can decide on which side of them an ability lies."""
    rule = plan.classification
    if rule is None:
        return
    if rule.method not in METHODS:
        yield PlanFault(("classification", "method"), f"must be one of {', '.join(METHODS)}")
    if len(rule.cuts) != len(plan.prior_mean) or not any(rule.cuts):
        yield PlanFault(("classification", "cuts"), "must be given for each scale, and for one of them at least")
    for cuts in rule.cuts:
        if not all(abs(cut) <= MAX_ABILITY for cut in cuts) or any(low >= high for low, high in pairwise(cuts)):
            yield PlanFault(("classification", "cuts"), f"must ascend and lie within {MAX_ABILITY:g} of 0")
    for name, highest in (("confidence", 1.0), ("alpha", 0.5), ("beta", 0.5)):
        if not 0 < getattr(rule, name) < highest:
            yield PlanFault(("classification", name), f"must be above 0 and below {highest:g}")
    if not rule.delta > 0:
        yield PlanFault(("classification", "delta"), "must be above 0")
