"""How good predictions turned out to be, as an analyst asks: log loss, AUC, Brier score, calibration; each with doubt.

The answers of one learner hang together, so every interval counts learners, not answers: 95 %, from cluster-robust
standard errors with Student's t at one degree of freedom less than there are learners (Liang & Zeger 1986; Cameron &
Miller 2015). Unlike resampling (`metrics`) they cost one pass, so that thousands of groups can be told at once.

Sizes: N answers. `p` (N,) are expected scores from 0 to 1, `score` (N,) fractions of the maximum, `learner` (N,) is
whose answer it is, any integers. A score of a half or more is a success where only two kinds are told apart.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, stdtrit

from app.adaptive.arrays import Floats, Integers
from app.adaptive.assess.metrics import BINS, LEVEL, Interval
from app.adaptive.numerics import HALF

SMALLEST = 1e-9
# On the scale of logits; beyond, a probability has no digits left.
FARTHEST = 30.0


@dataclass(frozen=True)
class _Point:
    """The answers whose prediction fell into one bin: their mean prediction and mean score."""

    responses: int
    predicted: float
    observed: float
    interval: Interval


@dataclass(frozen=True)
class Quality:
    """What `measure_quality` finds; None where there is nothing to say. `curve` has the bins with answers, in order."""

    responses: int
    learners: int
    predicted: float | None = None
    observed: float | None = None
    log_loss: float | None = None
    log_loss_interval: Interval = None
    auc: float | None = None
    auc_interval: Interval = None
    brier: float | None = None
    brier_interval: Interval = None
    ece: float | None = None
    curve: tuple[_Point, ...] = ()


def measure_quality(p: Floats, score: Floats, learner: Integers) -> Quality:
    """The quality of predictions that were made before the answers.

    Log loss: mean of -(y log p + (1 - y) log(1 - p)). Brier score (1950): mean of (p - y)². AUC: the chance that a
    success was given the higher prediction; None if there is only one kind. Expected calibration error (Naeini et al.
    2015): Σ_b |Σ (y - p)| / N over the bins of `curve`. Intervals are None for a single learner; AUC's also where
    success and failure are told apart without a fault, which nothing varies around.
    """
    if not len(p):
        return Quality(0, 0)
    p = np.clip(p, SMALLEST, 1 - SMALLEST)
    whose, learners = _numbered(learner)
    loss = np.asarray(-(score * np.log(p) + (1 - score) * np.log1p(-p)))
    brier = (p - score) ** 2
    area, area_interval = _auc(p, score, whose, learners)
    points = calibration_curve(p, score, whose)
    return Quality(
        responses=len(p),
        learners=learners,
        predicted=float(p.mean()),
        observed=float(score.mean()),
        log_loss=float(loss.mean()),
        log_loss_interval=_around_mean(loss, whose, learners, np.inf),
        auc=area,
        auc_interval=area_interval,
        brier=float(brier.mean()),
        brier_interval=_around_mean(brier, whose, learners, 1.0),
        ece=sum(point.responses * abs(point.observed - point.predicted) for point in points) / len(p),
        curve=points,
    )


def measure_quality_by_group(
    p: Floats, score: Floats, learner: Integers, group: Integers, groups: Integers
) -> list[Quality]:
    """`measure_quality` for the answers of each of `groups`; `group` (N,) is the one an answer belongs to."""
    order = np.argsort(group, kind="stable")
    ends = (np.searchsorted(group[order], groups, side) for side in ("left", "right"))
    parts = [order[first:last] for first, last in zip(*ends, strict=True)]
    return [measure_quality(p[part], score[part], learner[part]) for part in parts]


def calibration_curve(p: Floats, score: Floats, learner: Integers) -> tuple[_Point, ...]:
    """Mean prediction and mean score in ten bins of p of equal width; empty ones are left out.

    The interval of the mean score is Wilson's (1927) with the effective number of answers: as many independent ones as
    would give the cluster-robust variance (Korn & Graubard 1998), but no more than there are. Where all are right, or
    all wrong, nothing varies, and each learner counts as one answer.
    """
    bins = np.minimum((p * BINS).astype(np.int64), BINS - 1)
    parts = (np.flatnonzero(bins == number) for number in range(BINS))
    return tuple(_point(p[part], score[part], learner[part]) for part in parts if len(part))


def _point(p: Floats, score: Floats, learner: Integers) -> _Point:
    whose, learners = _numbered(learner)
    observed = float(score.mean())
    spread = observed * (1 - observed)
    error = _standard_error((score - observed) / len(p), whose, learners)
    size = min(len(p), spread / max(error * error, SMALLEST**2)) if spread > 0 else learners
    return _Point(len(p), float(p.mean()), observed, _wilson(observed, size, learners))


def _wilson(share: float, size: float, learners: int) -> Interval:
    if learners == 1:
        return None
    reach = _reach(learners)
    weight = reach * reach / size
    centre = (share + weight / 2) / (1 + weight)
    half = np.sqrt(weight * share * (1 - share) + weight * weight / 4) / (1 + weight)
    return max(float(centre - half), 0.0), min(float(centre + half), 1.0)


def _auc(p: Floats, score: Floats, whose: Integers, learners: int) -> tuple[float | None, Interval]:
    """AUC, and its interval on the scale of logits from placements summed by learner (Obuchowski 1997)."""
    success = score >= HALF
    up, down = p[success], p[~success]
    if not len(up) or not len(down):
        return None, None
    placement = np.empty(len(p))
    placement[success] = _share_below(down, up)
    placement[~success] = 1 - _share_below(up, down)
    area = float(placement[success].mean())
    error = _standard_error((placement - area) / np.where(success, len(up), len(down)), whose, learners)
    slope = area * (1 - area)
    if learners == 1 or slope <= 0 or error <= 0:
        return area, None
    ends = logit(area) + _reach(learners) * error / slope * np.array([-1.0, 1.0])
    low, high = expit(np.clip(ends, -FARTHEST, FARTHEST)).tolist()
    return area, (low, high)


def _share_below(values: Floats, marks: Floats) -> Floats:
    """The share of `values` below each of `marks`; ties count half."""
    ordered = np.sort(values)
    below = np.searchsorted(ordered, marks, "left") + np.searchsorted(ordered, marks, "right")
    return np.asarray(below / (2 * len(values)))


def _around_mean(values: Floats, whose: Integers, learners: int, most: float) -> Interval:
    mean = float(values.mean())
    if learners == 1:
        return None
    half = _reach(learners) * _standard_error((values - mean) / len(values), whose, learners)
    return max(mean - half, 0.0), min(mean + half, most)


def _standard_error(shares: Floats, whose: Integers, learners: int) -> float:
    """Of a sum whose deviation each answer has a share in, if learners were drawn; 0 for a single one."""
    totals = np.bincount(whose, shares, learners)
    return float(np.sqrt((totals * totals).sum() * learners / max(learners - 1, 1)))


def _reach(learners: int) -> float:
    return float(stdtrit(learners - 1, (1 + LEVEL) / 2))


def _numbered(learner: Integers) -> tuple[Integers, int]:
    """The learners as dense numbers from 0, and how many they are."""
    ids, whose = np.unique(learner, return_inverse=True)
    return whose, len(ids)
