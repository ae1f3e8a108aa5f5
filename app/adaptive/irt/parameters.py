"""Free parameters: what the search moves, without order to keep, and what is known of them before any answer.

Per item (I, P): log a, then the intercepts e (for the graded response model their mean and the logs of the gaps
between them), then logit c and logit d where the model has asymptotes. A common slope is one number for all items.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.special import expit, log_expit

from app.adaptive.irt.bank import ASYMPTOTIC, COMMON_SLOPE, Bank, Model
from app.adaptive.irt.curves import Curves, asymptotic, graded, partial_credit
from app.adaptive.likelihood import logit
from app.adaptive.types import Booleans, Floats, Integers

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

    Normal, as (mean, standard deviation): of log a, of easiness (every step; of the graded model the mean over the
    steps), and of the logarithm of the gap between neighbouring steps of the graded model. Beta, as (α, β): of c and d.
    The mode is sought on these free scales, where a beta prior peaks at its mean α / (α + β). Defaults: a of .4 to
    2.7, easiness within ±4, c near .18, d near .91.
    """

    log_discrimination: tuple[float, float] | None = (0.0, 0.5)
    easiness: tuple[float, float] | None = (0.0, 2.0)
    log_gap: tuple[float, float] | None = (0.0, 1.0)
    guessing: tuple[float, float] | None = (5.0, 23.0)
    upper: tuple[float, float] | None = (20.0, 2.0)


FLAT = Priors(None, None, None, None, None)


@dataclass(frozen=True)
class Layout:
    """Where the free parameters stand. `place` (I, P): number in the vector that is searched, -1 for none."""

    model: Model
    grades: Integers
    place: Integers
    count: int

    @property
    def steps(self) -> int:
        """M."""
        return int(self.place.shape[1]) - 1 - 2 * (self.model in ASYMPTOTIC)

    @property
    def common(self) -> bool:
        """Whether all items share one slope: then it is the last number of the vector."""
        return self.model in COMMON_SLOPE

    def spread(self, vector: Floats) -> Floats:
        """The vector as (I, P); 0 where there is no parameter."""
        return np.where(self.place >= 0, np.append(vector, 0.0)[self.place], 0.0)

    def gather(self, values: Floats) -> Floats:
        """(I, P) as a vector; what is shared is added up."""
        held = self.place >= 0
        return np.bincount(self.place[held], values[held], self.count).astype(np.float64)


def layout(model: Model, grades: Integers) -> Layout:
    """Number the free parameters of a bank."""
    items, steps = len(grades), int(grades.max(initial=1))
    held = np.ones((items, 1 + steps + 2 * (model in ASYMPTOTIC)), dtype=np.bool_)
    held[:, 1 : 1 + steps] = np.arange(steps) < grades[:, None]
    if model == "3pl":
        held[:, -1] = False
    common = model in COMMON_SLOPE
    held[:, 0] = not common
    place = np.where(held, np.cumsum(held.reshape(-1)).reshape(held.shape) - 1, -1)
    count = int(held.sum())
    if common:
        place[:, 0] = count
    return Layout(model, grades, place, count + common)


class Belief(NamedTuple):
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


def belief(shape: Layout, priors: Priors, weak: Booleans) -> Belief:
    """The prior of every item; those of `weak` (I,) get the default where `priors` has none."""
    mean, precision, rise, fall = (np.zeros(shape.place.shape) for _ in range(4))
    default = Priors()
    last = 1 + shape.steps
    first_gap = 2 if shape.model == "graded" else last

    def normal(columns: slice, given: tuple[float, float] | None, otherwise: tuple[float, float] | None) -> None:
        for chosen, value in ((~weak, given), (weak, given or otherwise)):
            if value is not None:
                mean[chosen, columns], precision[chosen, columns] = value[0], value[1] ** -2

    def beta(column: int, given: tuple[float, float] | None, otherwise: tuple[float, float] | None) -> None:
        for chosen, value in ((~weak, given), (weak, given or otherwise)):
            if value is not None:
                rise[chosen, column], fall[chosen, column] = value

    normal(slice(0, 1), priors.log_discrimination, default.log_discrimination)
    normal(slice(1, first_gap), priors.easiness, default.easiness)
    normal(slice(first_gap, last), priors.log_gap, default.log_gap)
    if shape.model in ASYMPTOTIC:
        beta(last, priors.guessing, default.guessing)
        beta(last + 1, priors.upper, default.upper)
    if shape.common:
        # One slope, one prior, however many items there are.
        precision[:, 0] = 0.0
        if priors.log_discrimination is not None or weak.all():
            precision[:1, 0] = (priors.log_discrimination or (0.0, 0.5))[1] ** -2
    held = shape.place >= 0
    return Belief(mean, *(np.where(held, value, 0.0) for value in (precision, rise, fall)))


def limits(shape: Layout) -> tuple[Floats, Floats]:
    """The bounds of the vector that is searched."""
    steps = shape.steps
    first_gap = 2 if shape.model == "graded" else 1 + steps
    lower, upper = np.full(shape.place.shape[1], -60.0), np.full(shape.place.shape[1], 60.0)
    lower[0], upper[0] = np.log(DISCRIMINATION)
    lower[first_gap : 1 + steps], upper[first_gap : 1 + steps] = np.log(GAP)
    if shape.model in ASYMPTOTIC:
        lower[-2:], upper[-2:] = logit(np.array([GUESSING[0], UPPER[0]])), logit(np.array([GUESSING[1], UPPER[1]]))
    low, high = np.zeros(shape.count), np.zeros(shape.count)
    held = shape.place >= 0
    low[shape.place[held]] = np.broadcast_to(lower, shape.place.shape)[held]
    high[shape.place[held]] = np.broadcast_to(upper, shape.place.shape)[held]
    return low, high


def start(shape: Layout, prior: Belief, counts: Floats) -> Floats:
    """Where the search begins: slopes of 1, intercepts from how often each category was reached, `counts` (I, K)."""
    free = prior.mean.copy()
    steps = shape.steps
    smooth = counts + 0.5
    if shape.model == "graded":
        held = np.arange(steps) < shape.grades[:, None]
        reached = np.cumsum(smooth[:, ::-1], axis=1)[:, ::-1]
        levels = ATTENUATION * logit(reached[:, 1:] / reached[:, :1])
        free[:, 1] = (levels * held).sum(axis=1) / shape.grades
        free[:, 2 : 1 + steps] = np.log(np.clip(levels[:, :-1] - levels[:, 1:], 0.1, 10.0))
    elif shape.model in ASYMPTOTIC:
        has_upper = shape.model == "4pl"
        c, d = (0.15, 0.97 if has_upper else 1.0)
        share = (smooth[:, 1] / smooth.sum(axis=1) - c) / (d - c)
        free[:, 1] = ATTENUATION * logit(np.clip(share, 0.05, 0.98))
        free[:, -2] = float(logit(np.array([c]))[0])
        free[:, -1] = float(logit(np.array([0.97]))[0])
    else:
        free[:, 1:] = ATTENUATION * np.log(smooth[:, 1:] / smooth[:, :-1])
    low, high = limits(shape)
    held = shape.place >= 0
    vector = np.zeros(shape.count)
    vector[shape.place[held]] = free[held]
    return np.clip(vector, low, high)


def intercepts(shape: Layout, free: Floats) -> tuple[Floats, Floats]:
    """Intercepts (I, M), 0 past an item's grades, and for the graded model d intercept / d log gap (I, M, M - 1)."""
    steps = shape.steps
    if shape.model != "graded":
        return free[:, 1 : 1 + steps], np.zeros((len(free), steps, 0))
    held = np.arange(steps) < shape.grades[:, None]
    gaps = np.where(held[:, 1:], np.exp(free[:, 2 : 1 + steps]), 0.0)
    after = np.tri(steps, steps - 1, -1)
    centre = (held[:, :, None] * after).sum(axis=1, keepdims=True) / shape.grades[:, None, None]
    turn = (centre - after) * gaps[:, None, :] * held[:, :, None]
    return (free[:, 1, None] + turn.sum(axis=2)) * held, turn


def free_curves(shape: Layout, free: Floats, nodes: Floats) -> Curves:
    """The curves, and their slopes by the free parameters (I, P, K, Q)."""
    a = np.exp(free[:, 0])
    levels, turn = intercepts(shape, free)
    if shape.model in ASYMPTOTIC:
        c, d = expit(free[:, -2]), asymptotes(shape, free)[1]
        found = asymptotic(a, levels, c, d, nodes)
        chain = np.stack([a, np.ones_like(a), c * (1 - c), d * (1 - d)], axis=1)
        return found._replace(slope=found.slope * chain[:, :, None, None])
    make = graded if shape.model == "graded" else partial_credit
    found = make(shape.grades, a, levels, nodes)
    found.slope[:, 0] *= a[:, None, None]
    if shape.model == "graded":
        by_mean = found.slope[:, 1:].sum(axis=1, keepdims=True)
        by_gap = np.einsum("imj,imkq->ijkq", turn, found.slope[:, 1:])
        return found._replace(slope=np.concatenate([found.slope[:, :1], by_mean, by_gap], axis=1))
    return found


def asymptotes(shape: Layout, free: Floats) -> tuple[Floats, Floats]:
    """Guessing and upper asymptote, each (I,)."""
    one = np.ones(len(free))
    if shape.model not in ASYMPTOTIC:
        return 0 * one, one
    return expit(free[:, -2]), (expit(free[:, -1]) if shape.model == "4pl" else one)


def reported(shape: Layout, free: Floats) -> Bank:
    """The public parameters, difficulty without a bound; a common slope is 1, and the spread of ability varies."""
    a = np.exp(free[:, 0])
    difficulty = -intercepts(shape, free)[0] / (1.0 if shape.common else a[:, None])
    c, d = asymptotes(shape, free)
    slope = np.ones_like(a) if shape.common else a
    return Bank(shape.model, shape.grades, slope, difficulty, c, d)
