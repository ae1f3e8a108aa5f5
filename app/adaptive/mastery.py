"""What the number P(known) is allowed to say: an interval, and one of four words."""

import numpy as np
from scipy.special import betaincinv

from app.adaptive.types import Booleans, Floats, Integers

MASTERY_LINE = 0.9
LEAST_EVIDENCE = 3
INTERVAL = 0.9
PRIOR_WEIGHT = 2.0
JEFFREYS = 0.5

INSUFFICIENT, DEVELOPING, MASTERED, DECAYED = range(4)
STATUSES = ("insufficient", "developing", "mastered", "decayed")


def is_mastered(mastery: Floats, evidence: Integers) -> Booleans:
    """Whether P(known) is above the line on enough answers."""
    return np.asarray((mastery >= MASTERY_LINE) & (evidence >= LEAST_EVIDENCE))


def status(mastery: Floats, evidence: Integers, attained: Booleans) -> Integers:
    """One of `STATUSES` by its place; `attained` says that the skill was mastered at some time before."""
    result = np.where(attained, DECAYED, DEVELOPING)
    result[evidence < LEAST_EVIDENCE] = INSUFFICIENT
    result[is_mastered(mastery, evidence)] = MASTERED
    return result


def interval(mastery: Floats, evidence: Integers) -> tuple[Floats, Floats]:
    """A 90 % interval around P(known): Beta quantiles, as if it were a share seen in 2 + evidence answers (Jeffreys).

    A working rule, not a posterior: P(known) is itself a probability, and what the interval tells is how few answers
    it rests on (docs/models.md, "How sure").
    """
    weight = PRIOR_WEIGHT + evidence
    known, unknown = JEFFREYS + mastery * weight, JEFFREYS + (1 - mastery) * weight
    low = betaincinv(known, unknown, (1 - INTERVAL) / 2)
    high = betaincinv(known, unknown, (1 + INTERVAL) / 2)
    return np.minimum(low, mastery), np.maximum(high, mastery)
