"""Bring the item parameters of two calibrations onto one scale.

An item response model fixes its scale by convention, so two calibrations of the same items differ by an affine change
of θ besides their errors: θ_old = A θ_new + B. Anchors, items that both have estimated well, give A and B; an anchor
whose content or use has changed (drift) must not.

Items are in the slope-intercept form of `app.adaptive.parameters.Items`: logit = intercept + discrimination × θ, so
that the IRT difficulty is b = −intercept / discrimination. On the old scale an item of the new calibration has
a* = a / A, b* = A b + B, intercept* = intercept − a B / A (Kolen & Brennan 2014, equations 6.2 and 6.3).
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expm1

from app.adaptive.arrays import Booleans, Floats
from app.adaptive.parameters import to_difficulty

# Beyond so many robust standard deviations from the median an anchor has drifted: 3 in 1,000 by chance.
DRIFTED = 3.0
# Differences below this, in logits, are estimation error whatever their spread says.
NOISE = 0.05
# .74 times the distance of the quartiles is the standard deviation of a normal distribution.
QUARTILES_TO_SIGMA = 0.74


@dataclass(frozen=True)
class Link:
    """θ on the old scale is `slope` × θ on the new one + `intercept`."""

    slope: float
    intercept: float


SAME = Link(1.0, 0.0)


@dataclass(frozen=True)
class ItemCurves:
    """The intercept and discrimination (> 0) of I items as one calibration has them; each (I,)."""

    intercept: Floats
    discrimination: Floats

    @property
    def difficulty(self) -> Floats:
        """Where the curve crosses one half, b; (I,)."""
        return to_difficulty(self.intercept, self.discrimination)

    def __getitem__(self, chosen: Booleans) -> "ItemCurves":
        """The chosen items."""
        return ItemCurves(self.intercept[chosen], self.discrimination[chosen])


def transform(link: Link, new: ItemCurves) -> ItemCurves:
    """The items of the new calibration on the old scale."""
    slope = new.discrimination / link.slope
    return ItemCurves(new.intercept - slope * link.intercept, slope)


def steady_anchors(old: ItemCurves, new: ItemCurves, candidates: Booleans) -> Booleans:
    """Which of the candidates (I,) may be anchors: those that moved as the others did; (I,).

    Robust z (Huynh & Meyer 2010): first the logarithms of the ratios of discriminations, then, at the slope that
    their median gives, the differences of difficulties; what lies more than `DRIFTED` robust standard deviations from
    the median has drifted. Up to a quarter of the anchors may drift without moving the result.
    """
    is_steady = candidates.copy()
    ratio = np.log(new.discrimination / old.discrimination)
    is_steady[candidates] &= np.abs(_robust_z(ratio[candidates])) <= DRIFTED
    if not is_steady.any():
        return is_steady
    slope = float(expm1(np.median(ratio[is_steady])) + 1)
    # In logits, the unit of NOISE, and not of b, which is endless for a flat item.
    moved = old.discrimination * (old.difficulty - slope * new.difficulty)
    centre = float(np.median((old.difficulty - slope * new.difficulty)[is_steady]))
    is_steady[is_steady] = np.abs(_robust_z((moved - old.discrimination * centre)[is_steady])) <= DRIFTED
    return is_steady


def _robust_z(values: Floats) -> Floats:
    """Distances from the median in robust standard deviations, of at least `NOISE`; the shape of `values`."""
    if not len(values):
        return values.copy()
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return np.asarray((values - middle) / max(QUARTILES_TO_SIGMA * (high - low), NOISE))


def mean_shift(old: ItemCurves, new: ItemCurves, anchors: Booleans) -> Link:
    """The link between calibrations that share their discriminations: the slope is 1, the rest is the mean shift.

    It weighs each anchor's difference of difficulties by its discrimination: differences of intercepts are
    estimated, and equally well, whereas b = −d/a multiplies the error of a flat item.
    """
    if not anchors.any():
        return SAME
    moved = new.intercept[anchors] - old.intercept[anchors]
    return Link(1.0, float(moved.sum() / old.discrimination[anchors].sum()))
