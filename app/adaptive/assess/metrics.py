"""How good predictions of answers are, and how sure that is.

Every interval resamples learners, not answers (Efron & Tibshirani 1993, chapter 8), as the answers of one learner
hang together. Two models are compared on the same resamples, so that what they share does not count.

Sizes: N answers of L learners, R resamples. `p` (N,) are expected scores within 0 and 1 (both excluded), `score` (N,)
fractions of the maximum. A score of a half or more is a success where only two kinds are told apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.numerics import HALF

BINS = 10
LEVEL = 0.95
METRICS = ("auc", "log_loss", "accuracy", "rmse", "ece")

Interval = tuple[float, float] | None


def auc(p: Floats, score: Floats) -> float:
    """The chance that a success was given the higher prediction (ties count half); .5 if there is only one kind.

    The statistic of Mann & Whitney (1947) over its maximum.
    """
    return float(_weighted_auc(_ranked(p, score, np.zeros(len(p), dtype=np.int64)), np.ones(1)))


def total_loss(p: Floats, score: Floats) -> float:
    """-Σ y log p + (1 - y) log(1 - p)."""
    return float(losses(p, score).sum())


def compute_metrics(p: Floats, score: Floats) -> dict[str, float]:
    """Each of `METRICS`; no answers give those of a coin.

    AUC; mean log loss; accuracy, the share of answers on the predicted side of a half; root mean square error; and
    expected calibration error (Naeini et al. 2015), Σ_b |Σ (y - p)| / N over ten bins of p of equal width.
    """
    if not len(p):
        return {"auc": 0.5, "log_loss": float(np.log(2)), "accuracy": 0.5, "rmse": 0.5, "ece": 0.0}
    replicates = resample_metrics(p, score, np.zeros(len(p), dtype=np.int64), np.ones((1, 1)))
    return {name: float(values[0]) for name, values in replicates.values.items()}


def draw_resamples(learners: int, count: int, rng: np.random.Generator) -> Floats:
    """How often each of L learners is drawn in each of `count` resamples of the same size; (R, L)."""
    drawn = np.zeros((count, learners))
    for row in drawn:
        row[:] = np.bincount(rng.integers(0, learners, learners), minlength=learners)
    return drawn


@dataclass(frozen=True)
class Replicates:
    """Each of `METRICS` in every resample, (R,); AUC says nothing where not `both` kinds of answers were drawn."""

    values: dict[str, Floats]
    both: Booleans


def resample_metrics(p: Floats, score: Floats, learner: Integers, weights: Floats) -> Replicates:
    """Every metric with the learners weighted by each row of `weights` (R, L); `learner` (N,) is whose answer it is.

    No row may leave all answers out.
    """
    count = weights.shape[1]
    size = weights @ np.bincount(learner, minlength=count)

    def mean(values: Floats) -> Floats:
        return np.asarray(weights @ np.bincount(learner, values, count) / size)

    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(learner * BINS + bins, score - p, count * BINS).reshape(count, BINS)
    ranked = _ranked(p, score, learner)
    successes = weights @ np.bincount(learner, score >= HALF, count)
    values = {
        "auc": np.array([_weighted_auc(ranked, row) for row in weights]),
        "log_loss": mean(losses(p, score)),
        "accuracy": mean(((p >= HALF) == (score >= HALF)).astype(np.float64)),
        "rmse": np.sqrt(mean((score - p) ** 2)),
        "ece": np.abs(weights @ gaps).sum(axis=1) / size,
    }
    return Replicates(values, (successes > 0) & (successes < size))


def replicate_intervals(replicates: Replicates) -> dict[str, Interval]:
    """The middle 95 % of the resamples of every metric; none for AUC if a resample has only one kind of answers."""
    return {name: _middle(values, replicates, name) for name, values in replicates.values.items()}


def difference_intervals(replicates: Replicates, other: Replicates, names: tuple[str, ...]) -> Mapping[str, Interval]:
    """The same for the differences to another model on the same resamples."""
    return {name: _middle(replicates.values[name] - other.values[name], replicates, name) for name in names}


def _middle(values: Floats, replicates: Replicates, name: str) -> Interval:
    if not len(values) or (name == "auc" and not replicates.both.all()):
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return low, high


def losses(p: Floats, score: Floats) -> Floats:
    return np.asarray(-(score * np.log(p) + (1 - score) * np.log1p(-p)))


@dataclass(frozen=True)
class _Ranked:
    """The learners of the successes and of the failures, each sorted by p, and how many failures p puts below.

    `below` counts the failures with a lower p than each success, `upto` those with the same p as well.
    """

    successes: Integers
    failures: Integers
    below: Integers
    upto: Integers


def _ranked(p: Floats, score: Floats, learner: Integers) -> _Ranked:
    order = np.argsort(p, kind="stable")
    success = score[order] >= HALF
    up, down = order[success], order[~success]
    return _Ranked(
        learner[up], learner[down], np.searchsorted(p[down], p[up], "left"), np.searchsorted(p[down], p[up], "right")
    )


def _weighted_auc(ranked: _Ranked, weights: Floats) -> float:
    """AUC with each learner's answers weighted, (L,): what a resample would give, without building it."""
    won = weights[ranked.successes]
    lost = np.zeros(len(ranked.failures) + 1)
    np.cumsum(weights[ranked.failures], out=lost[1:])
    pairs = float(won.sum() * lost[-1])
    if not pairs:
        return 0.5
    return float(won @ (lost[ranked.below] + lost[ranked.upto])) / (2 * pairs)
