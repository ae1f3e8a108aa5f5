"""What a test is to do: prior, rule of selection, exposure, content, and when it ends. Plain values only."""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, get_args

from app.adaptive.cat.information_index import MAX_ABILITY
from app.adaptive.cat.pool import Pool

Rule = Literal["max_information", "min_expected_posterior_variance", "kullback_leibler", "random"]
Method = Literal["interval", "sprt"]
RULES: tuple[Rule, ...] = get_args(Rule)
METHODS: tuple[Method, ...] = get_args(Method)
# A prior narrower than the step of the grid could not be told from one that is wider.
MIN_PRIOR_SD, MAX_PRIOR_SD = 0.1, 10.0


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
    each of the turns `pilot_positions`, counted from 0; elsewhere they are not.

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


def check_plan(pool: Pool, plan: Plan) -> None:
    """Raise ValueError, saying what to change, for a plan that this pool cannot follow or that contradicts itself."""
    check_prior(pool, plan)
    check_selection(plan)
    check_bounds(pool, plan)
    check_positions(pool, plan)
    check_end(pool, plan)


def check_prior(pool: Pool, plan: Plan) -> None:
    """One proper prior for each scale."""
    if not len(plan.prior_mean) == len(plan.prior_sd) == pool.scales:
        raise ValueError(f"the pool measures {pool.scales} scales: give as many prior means and standard deviations")
    if not all(abs(mean) <= MAX_ABILITY for mean in plan.prior_mean):
        raise ValueError(f"a prior mean is within {MAX_ABILITY:g} of 0")
    if not all(MIN_PRIOR_SD <= sd <= MAX_PRIOR_SD for sd in plan.prior_sd):
        raise ValueError(f"a prior standard deviation is from {MIN_PRIOR_SD:g} to {MAX_PRIOR_SD:g}")


def check_selection(plan: Plan) -> None:
    """Rules that exist and may be combined."""
    if plan.rule not in RULES:
        raise ValueError(f"the rule {plan.rule!r} is none of {', '.join(RULES)}")
    if plan.randomesque < 1 or (plan.randomesque > 1 and (plan.sympson_hetter or plan.rule == "random")):
        raise ValueError("randomesque is 1 or more, and 1 with sympson_hetter or the rule random")
    if plan.sympson_hetter and plan.rule == "random":
        raise ValueError("the rule random needs no sympson_hetter")
    if plan.max_exposure is not None and not 0 < plan.max_exposure <= 1:
        raise ValueError("max_exposure is above 0 and at most 1")
    if plan.content_shares and (min(plan.content_shares) < 0 or sum(plan.content_shares) <= 0):
        raise ValueError("content_shares are not negative, and one at least is above 0")


def check_bounds(pool: Pool, plan: Plan) -> None:
    """Bounds that a shadow test can keep in mind."""
    if plan.bounds and (plan.max_items is None or plan.rule == "random" or plan.content_shares):
        raise ValueError("bounds need max_items, and go neither with the rule random nor with content_shares")
    for bound in plan.bounds:
        if not 0 <= bound.group < len(pool.groups) or not 0 <= bound.least <= bound.most:
            raise ValueError("a bound names a group of the pool, and 0 <= least <= most")


def check_positions(pool: Pool, plan: Plan) -> None:
    """Items that exist, at places that there are."""
    for items in (plan.first, plan.pilots):
        if len(set(items)) < len(items) or not all(0 <= item < pool.count for item in items):
            raise ValueError("first and pilots name items of the pool, none of them twice")
    if plan.unscored.intersection(plan.first):
        raise ValueError("a pilot item cannot be among the first")
    if len(set(plan.pilot_positions)) < len(plan.pilot_positions) or min(plan.pilot_positions, default=0) < 0:
        raise ValueError("pilot_positions are turns counted from 0, none of them twice")


def check_end(pool: Pool, plan: Plan) -> None:
    """Limits that can be reached."""
    for name in ("standard_error", "standard_error_change", "max_seconds"):
        limit = getattr(plan, name)
        if limit is not None and not limit > 0:
            raise ValueError(f"{name} is above 0")
    if plan.min_items < 0 or (plan.max_items is not None and plan.max_items < max(plan.min_items, 1)):
        raise ValueError("max_items is at least 1 and at least min_items")
    rule = plan.classification
    if rule is None:
        return
    if rule.method not in METHODS:
        raise ValueError(f"the method {rule.method!r} is none of {', '.join(METHODS)}")
    if len(rule.cuts) != pool.scales or not any(rule.cuts):
        raise ValueError(f"the pool measures {pool.scales} scales: give as many lists of cuts, one of them not empty")
    for cuts in rule.cuts:
        if not all(abs(cut) <= MAX_ABILITY for cut in cuts) or any(low >= high for low, high in pairwise(cuts)):
            raise ValueError(f"cuts ascend and lie within {MAX_ABILITY:g} of 0")
    if not (0 < rule.confidence < 1 and 0 < rule.alpha < 0.5 and 0 < rule.beta < 0.5 and rule.delta > 0):  # noqa: PLR2004
        raise ValueError("confidence is between 0 and 1, alpha and beta between 0 and 1/2, delta above 0")
