"""Item analysis: which items do not measure what the rest measures, because of a wrong key or of nothing in them.

The classical figure is the corrected item-rest correlation (Henrysson 1963; Lord & Novick 1968, ch. 15): the
point-biserial correlation of an item's score with the score on the other items. Here the score on the others is the
mean of the ability given the first answers to them (`rest_predictions`), so that learners may have met different
items.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.calibration.rest_predictions import RestPredictions
from app.adaptive.irt import ItemResponses
from app.adaptive.numerics import NORMAL_90

# Fewer answers, or fewer of one kind, are not judged: a normal distribution does not describe them.
MIN_RESPONSES = 30
MIN_OF_A_KIND = 5
# The share of what is flagged that may be flagged by chance; where all items are good, the chance of any flag.
FALSE_DISCOVERIES = 0.05
# An item discriminates if it does so by this share of what an average item would in its place.
LEAST_SHARE = 0.25
SMALLEST = 1e-12
DIGITS = 4
NEGATIVE, UNINFORMATIVE = "negative_discrimination", "no_discrimination"


@dataclass(frozen=True)
class ItemAnalysis:
    """What the rest says of every item, each (I,); nothing (0, False) of those that are not `judged`.

    `correlation` with its `standard_error` is that of the first answer with the ability by all other items, over the
    `responses` of learners who answered others too. `expected` is what it would be, for these learners, if the item
    discriminated as the course does on the average. `negative`: it falls with ability, so the key is probably wrong.
    `uninformative`: it has less than a quarter of what was expected, and says nothing of its own skills either.
    """

    responses: Integers
    correlation: Floats
    standard_error: Floats
    expected: Floats
    judged: Booleans
    negative: Booleans
    uninformative: Booleans

    @property
    def suspect(self) -> Booleans:
        """(I,): whether an item is flagged for either reason."""
        return self.negative | self.uninformative

    @property
    def interval(self) -> tuple[Floats, Floats]:
        """The 90 % interval of the correlation, within −1 and 1; both ends (I,)."""
        reach = NORMAL_90 * self.standard_error
        return np.maximum(self.correlation - reach, -1.0), np.minimum(self.correlation + reach, 1.0)

    def describe(self, item: int) -> dict[str, Any] | None:
        """What is reported of an item: its problem, if it has one, and what that rests on; None if it is not judged."""
        if not self.judged[item]:
            return None
        low, high = self.interval
        return {
            "problem": NEGATIVE if self.negative[item] else UNINFORMATIVE if self.uninformative[item] else None,
            "correlation": _rounded(self.correlation[item]),
            "interval": [_rounded(low[item]), _rounded(high[item])],
            "expected": _rounded(self.expected[item]),
            "responses": int(self.responses[item]),
        }


def _rounded(value: "np.float64") -> float:
    """As many digits as mean something, never −0."""
    return round(float(value), DIGITS) + 0.0


@dataclass(frozen=True)
class _Moments:
    """Sums over the answers to each item: `items` (N,) of I items."""

    items: Integers
    count: Integers

    def mean(self, values: Floats) -> Floats:
        """The mean of values (N,) over each item, (I,); 0 without answers."""
        return np.asarray(np.bincount(self.items, values, len(self.count)) / np.maximum(self.count, 1))

    def centre(self, values: Floats) -> Floats:
        """Values (N,) as differences from their means."""
        return values - self.mean(values)[self.items]


def analyse_items(responses: ItemResponses, rest: RestPredictions, skills: Integers) -> ItemAnalysis:
    """Correlate every item with the rest; `skills` (I, K) are those of each item, padded with −1.

    With y the answer, t the ability by the others and P the predicted chance, r = cov(y, t) / (s_y s_t); expected is
    cov(P, t) / (s_y s_t). The standard error is that of the influence function z_y z_t − r (z_y² + z_t²) / 2 (Devlin,
    Gnanadesikan & Kettenring 1975).

    An item is `negative` where r √n is too low for ρ = 0, and `uninformative` where r is too low for ρ = ¼ expected
    and the item says nothing of its skills (`_skill_support`). Either test keeps the expected share of false flags
    among all its flags below 5 %, whatever the number of items (Benjamini & Hochberg 1995).
    """
    used = rest.others > 0
    items, y = responses.items[used], responses.categories[used].astype(np.float64)
    t, p = rest.ability[used], rest.p[used]
    count = np.bincount(items, minlength=len(skills))
    successes = np.bincount(items, y, len(skills))
    over = _Moments(items, count)
    from_mean, from_ability = over.centre(y), over.centre(t)
    spread, breadth = over.mean(from_mean**2), over.mean(from_ability**2)
    judged = (count >= MIN_RESPONSES) & (np.minimum(successes, count - successes) >= MIN_OF_A_KIND)
    judged &= breadth > SMALLEST
    scale = np.sqrt(np.where(judged, spread * breadth, 1.0))
    correlation = np.where(judged, over.mean(from_mean * from_ability) / scale, 0.0)
    expected = np.where(judged, over.mean(over.centre(p) * from_ability) / scale, 0.0)
    z_y = from_mean / np.sqrt(np.where(judged, spread, 1.0))[items]
    z_t = from_ability / np.sqrt(np.where(judged, breadth, 1.0))[items]
    influence = z_y * z_t - correlation[items] / 2 * (z_y**2 + z_t**2)
    error = np.where(judged, np.sqrt(over.mean(influence**2) / np.maximum(count, 1)), 0.0)
    negative = _discoveries(ndtr(correlation * np.sqrt(count)), judged)
    low = _discoveries(ndtr((correlation - LEAST_SHARE * expected) / np.maximum(error, SMALLEST)), judged)
    supported = _skill_support(responses, rest, skills) > NORMAL_90
    return ItemAnalysis(count, correlation, error, expected, judged, negative, np.asarray(low & ~negative & ~supported))


def _discoveries(p: Floats, judged: Booleans) -> Booleans:
    """Return which of the judged hypotheses to reject at `FALSE_DISCOVERIES`, by Benjamini & Hochberg (1995); (I,)."""
    order = np.flatnonzero(judged)[np.argsort(p[judged], kind="stable")]
    passed = np.flatnonzero(p[order] <= FALSE_DISCOVERIES * np.arange(1, len(order) + 1) / max(len(order), 1))
    rejected = np.zeros(len(p), dtype=np.bool_)
    rejected[order[: passed[-1] + 1 if len(passed) else 0]] = True
    return rejected


def _skill_support(responses: ItemResponses, rest: RestPredictions, skills: Integers) -> Floats:
    """Return how many standard errors an item's residuals agree with those of other items of its skills; (I,).

    In a course of unrelated skills an item may say nothing of the ability and much of its skill. With e = y − P, this
    is the correlation of e with the sum of e over the learner's other items of a common skill, times √n.
    """
    residual = responses.categories - rest.p
    asked = skills[responses.items]
    answer, column = np.nonzero(asked >= 0)
    cell = responses.rows[answer] * (int(skills.max(initial=-1)) + 1) + asked[answer, column]
    cells, cell = np.unique(cell, return_inverse=True)
    totals, sizes = np.bincount(cell, residual[answer], len(cells)), np.bincount(cell, minlength=len(cells))
    total = np.bincount(answer, totals[cell] - residual[answer], len(residual))
    others = np.bincount(answer, sizes[cell] - 1, len(residual))
    used = others > 0
    items = responses.items[used]
    over = _Moments(items, np.bincount(items, minlength=len(skills)))
    own, common = over.centre(residual[used]), over.centre(total[used] / np.sqrt(others[used]))
    scale = np.sqrt(over.mean(own**2) * over.mean(common**2) + SMALLEST)
    return np.asarray(over.mean(own * common) / scale * np.sqrt(over.count))
