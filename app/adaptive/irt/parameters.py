"""Free parameters: what the search moves, without order to keep, and what is known of them before any answer.

Per item (I, P): log a, then the intercepts e (for the graded response model their mean and the logs of the gaps
between them), then logit c and logit d where the model has asymptotes. A common slope is one number for all items.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_expit

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.irt.curves import CategoryCurves, asymptotic_curves, graded_curves, partial_credit_curves
from app.adaptive.irt.item_models import ASYMPTOTIC, COMMON_SLOPE, Model
from app.adaptive.irt.items import ItemBank
from app.adaptive.numerics import logit
from app.adaptive.parameters import to_difficulty

# Bounds of what is reported: the interface takes no parameters beyond them.
DISCRIMINATION = (0.01, 6.0)
DIFFICULTY = 10.0
GUESSING = (1e-4, 0.5)
UPPER = (0.51, 1 - 1e-4)
GAP = (1e-3, 20.0)
# A logistic curve with slope 1 under N(0, 1) looks as steep as one with slope 1 / 1.16 at a single ability.
ATTENUATION = 1.16


@dataclass(frozen=True)
class Priors:
    """What is believed of an item before any answer; None: nothing.

    Normal, as (mean, standard deviation): of log a, of the intercept (every step; of the graded model the mean over the
    steps), and of the logarithm of the gap between neighbouring steps of the graded model. Beta, as (α, β): of c and d.
    The mode is sought on these free scales, where a beta prior peaks at its mean α / (α + β). Defaults: a of .4 to
    2.7, intercept within ±4, c near .18, d near .91.
    """

    log_discrimination: tuple[float, float] | None = (0.0, 0.5)
    intercept: tuple[float, float] | None = (0.0, 2.0)
    log_gap: tuple[float, float] | None = (0.0, 1.0)
    guessing: tuple[float, float] | None = (5.0, 23.0)
    upper: tuple[float, float] | None = (20.0, 2.0)


FLAT = Priors(None, None, None, None, None)


@dataclass(frozen=True)
class Layout:
    """Where the free parameters stand. `index` (I, P): number in the vector that is searched, -1 for none."""

    model: Model
    max_category: Integers
    index: Integers
    count: int

    @property
    def steps(self) -> int:
        """M."""
        return int(self.index.shape[1]) - 1 - 2 * (self.model in ASYMPTOTIC)

    @property
    def common(self) -> bool:
        """Whether all items share one slope: then it is the last number of the vector."""
        return self.model in COMMON_SLOPE

    def spread(self, vector: Floats) -> Floats:
        """The vector as (I, P); 0 where there is no parameter."""
        return np.where(self.index >= 0, np.append(vector, 0.0)[self.index], 0.0)

    def gather(self, values: Floats) -> Floats:
        """(I, P) as a vector; what is shared is added up."""
        held = self.index >= 0
        return np.bincount(self.index[held], values[held], self.count).astype(np.float64)


def build_layout(model: Model, max_category: Integers) -> Layout:
    """Number the free parameters of a bank."""
    items, steps = len(max_category), int(max_category.max(initial=1))
    held = np.ones((items, 1 + steps + 2 * (model in ASYMPTOTIC)), dtype=np.bool_)
    held[:, 1 : 1 + steps] = np.arange(steps) < max_category[:, None]
    if model == "3pl":
        held[:, -1] = False
    common = model in COMMON_SLOPE
    held[:, 0] = not common
    index = np.where(held, np.cumsum(held.reshape(-1)).reshape(held.shape) - 1, -1)
    count = int(held.sum())
    if common:
        index[:, 0] = count
    return Layout(model, max_category, index, count + common)


class ParameterPrior(NamedTuple):
    """A prior on each free parameter, each (I, P): normal (mean, precision) times σ(x)^rise σ(-x)^fall."""

    mean: Floats
    precision: Floats
    rise: Floats
    fall: Floats

    def log_density(self, free: Floats) -> float:
        """The logarithm of the prior, up to a constant."""
        normal = -0.5 * self.precision * (free - self.mean) ** 2
        return float((normal + self.rise * log_expit(free) + self.fall * log_expit(-free)).sum())

    def gradient(self, free: Floats) -> Floats:
        """(I, P)."""
        return np.asarray(self.precision * (self.mean - free) + self.rise * expit(-free) - self.fall * expit(free))

    def curvature(self, free: Floats) -> Floats:
        """(I, P): minus the second derivative."""
        return np.asarray(self.precision + (self.rise + self.fall) * expit(free) * expit(-free))


def build_prior(shape: Layout, priors: Priors, weak: Booleans) -> ParameterPrior:
    """The prior of every item; those of `weak` (I,) get the default where `priors` has none."""
    mean, precision, rise, fall = (np.zeros(shape.index.shape) for _ in range(4))
    default = Priors()
    last = 1 + shape.steps
    first_gap = 2 if shape.model == "graded" else last

    def normal(columns: slice, specified: tuple[float, float] | None, fallback: tuple[float, float] | None) -> None:
        for chosen, value in ((~weak, specified), (weak, specified or fallback)):
            if value is not None:
                mean[chosen, columns], precision[chosen, columns] = value[0], value[1] ** -2

    def beta(column: int, specified: tuple[float, float] | None, fallback: tuple[float, float] | None) -> None:
        for chosen, value in ((~weak, specified), (weak, specified or fallback)):
            if value is not None:
                rise[chosen, column], fall[chosen, column] = value

    normal(slice(0, 1), priors.log_discrimination, default.log_discrimination)
    normal(slice(1, first_gap), priors.intercept, default.intercept)
    normal(slice(first_gap, last), priors.log_gap, default.log_gap)
    if shape.model in ASYMPTOTIC:
        beta(last, priors.guessing, default.guessing)
        beta(last + 1, priors.upper, default.upper)
    if shape.common:
        # One slope, one prior, however many items there are.
        precision[:, 0] = 0.0
        if priors.log_discrimination is not None or weak.all():
            precision[:1, 0] = (priors.log_discrimination or (0.0, 0.5))[1] ** -2
    held = shape.index >= 0
    return ParameterPrior(mean, *(np.where(held, value, 0.0) for value in (precision, rise, fall)))


def parameter_bounds(shape: Layout) -> tuple[Floats, Floats]:
    """The bounds of the vector that is searched."""
    steps = shape.steps
    first_gap = 2 if shape.model == "graded" else 1 + steps
    lower, upper = np.full(shape.index.shape[1], -60.0), np.full(shape.index.shape[1], 60.0)
    lower[0], upper[0] = np.log(DISCRIMINATION)
    lower[first_gap : 1 + steps], upper[first_gap : 1 + steps] = np.log(GAP)
    if shape.model in ASYMPTOTIC:
        lower[-2:], upper[-2:] = logit(np.array([GUESSING[0], UPPER[0]])), logit(np.array([GUESSING[1], UPPER[1]]))
    low, high = np.zeros(shape.count), np.zeros(shape.count)
    held = shape.index >= 0
    low[shape.index[held]] = np.broadcast_to(lower, shape.index.shape)[held]
    high[shape.index[held]] = np.broadcast_to(upper, shape.index.shape)[held]
    return low, high


def starting_values(shape: Layout, prior: ParameterPrior, counts: Floats) -> Floats:
    """Where the search begins: slopes of 1, intercepts from how often each category was reached, `counts` (I, K)."""
    free = prior.mean.copy()
    steps = shape.steps
    smooth = counts + 0.5
    if shape.model == "graded":
        held = np.arange(steps) < shape.max_category[:, None]
        reached = np.cumsum(smooth[:, ::-1], axis=1)[:, ::-1]
        intercept_values = ATTENUATION * logit(reached[:, 1:] / reached[:, :1])
        free[:, 1] = (intercept_values * held).sum(axis=1) / shape.max_category
        free[:, 2 : 1 + steps] = np.log(np.clip(intercept_values[:, :-1] - intercept_values[:, 1:], 0.1, 10.0))
    elif shape.model in ASYMPTOTIC:
        has_upper = shape.model == "4pl"
        c, d = (0.15, 0.97 if has_upper else 1.0)
        share = (smooth[:, 1] / smooth.sum(axis=1) - c) / (d - c)
        free[:, 1] = ATTENUATION * logit(np.clip(share, 0.05, 0.98))
        free[:, -2] = float(logit(np.array([c]))[0])
        free[:, -1] = float(logit(np.array([0.97]))[0])
    else:
        free[:, 1:] = ATTENUATION * np.log(smooth[:, 1:] / smooth[:, :-1])
    low, high = parameter_bounds(shape)
    held = shape.index >= 0
    vector = np.zeros(shape.count)
    vector[shape.index[held]] = free[held]
    return np.clip(vector, low, high)


def intercepts(shape: Layout, free: Floats) -> tuple[Floats, Floats]:
    """Intercepts (I, M), 0 past an item's grades, and for the graded model d intercept / d log gap (I, M, M - 1)."""
    steps = shape.steps
    if shape.model != "graded":
        return free[:, 1 : 1 + steps], np.zeros((len(free), steps, 0))
    held = np.arange(steps) < shape.max_category[:, None]
    gaps = np.where(held[:, 1:], np.exp(free[:, 2 : 1 + steps]), 0.0)
    after = np.tri(steps, steps - 1, -1)
    centre = (held[:, :, None] * after).sum(axis=1, keepdims=True) / shape.max_category[:, None, None]
    gap_slopes = (centre - after) * gaps[:, None, :] * held[:, :, None]
    return (free[:, 1, None] + gap_slopes.sum(axis=2)) * held, gap_slopes


def free_curves(shape: Layout, free: Floats, nodes: Floats) -> CategoryCurves:
    """The curves, and their slopes by the free parameters (I, P, K, Q)."""
    a = np.exp(free[:, 0])
    intercept_values, gap_slopes = intercepts(shape, free)
    if shape.model in ASYMPTOTIC:
        c, d = expit(free[:, -2]), asymptotes(shape, free)[1]
        curves = asymptotic_curves(a, intercept_values, c, d, nodes)
        chain = np.stack([a, np.ones_like(a), c * (1 - c), d * (1 - d)], axis=1)
        return curves._replace(slope=curves.slope * chain[:, :, None, None])
    make = graded_curves if shape.model == "graded" else partial_credit_curves
    curves = make(shape.max_category, a, intercept_values, nodes)
    curves.slope[:, 0] *= a[:, None, None]
    if shape.model == "graded":
        by_mean = curves.slope[:, 1:].sum(axis=1, keepdims=True)
        by_gap = np.einsum("imj,imkq->ijkq", gap_slopes, curves.slope[:, 1:])
        return curves._replace(slope=np.concatenate([curves.slope[:, :1], by_mean, by_gap], axis=1))
    return curves


def asymptotes(shape: Layout, free: Floats) -> tuple[Floats, Floats]:
    """Guessing and upper asymptote, each (I,)."""
    one = np.ones(len(free))
    if shape.model not in ASYMPTOTIC:
        return 0 * one, one
    return expit(free[:, -2]), (expit(free[:, -1]) if shape.model == "4pl" else one)


def to_item_bank(shape: Layout, free: Floats) -> ItemBank:
    """The public parameters, difficulty without a bound; a common slope is 1, and the spread of ability varies."""
    a = np.exp(free[:, 0])
    slope = np.ones_like(a) if shape.common else a
    difficulty = to_difficulty(intercepts(shape, free)[0], slope[:, None])
    c, d = asymptotes(shape, free)
    return ItemBank(shape.model, shape.max_category, slope, difficulty, c, d)
