"""Person fit: learners whose answers have nothing to do with how difficult the items are, as those who do not try."""

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.calibration.rest_predictions import RestPredictions
from app.adaptive.irt import ItemResponses

# Fewer first answers are not judged: l_z is too skewed.
MIN_RESPONSES = 15
# The share of learners who fit and are flagged nevertheless.
LEVEL = 0.01
# So many flagged learners are more than a few odd ones.
MANY_SHARE, MANY_LEARNERS = 0.05, 5
SMALLEST = 1e-9


@dataclass(frozen=True)
class PersonFit:
    """`l_z` of every learner (L,), whether there were enough answers (`judged`), and who does not fit."""

    l_z: Floats
    judged: Booleans
    misfitting: Booleans

    @property
    def many(self) -> bool:
        """Whether so many do not fit that they may move the items."""
        count = int(self.misfitting.sum())
        return count >= MANY_LEARNERS and count > MANY_SHARE * int(self.judged.sum())

    @property
    def worst(self) -> Integers:
        """The learners who do not fit, those who fit least first."""
        order = np.argsort(self.l_z, kind="stable")
        return order[self.misfitting[order]]


def measure_person_fit(responses: ItemResponses, rest: RestPredictions) -> PersonFit:
    """Standardise the log-likelihood of a learner's first answers (l_z: Drasgow, Levine & Williams 1985).

    l_z = Σ [log-likelihood of y − its mean] / √(Σ its variance), where each answer has the chance P that the learner's
    other items give it. An ability estimated from the same answers would make them fit too well (Snijders 2001).
    Low is unlikely; normal by chance.
    """
    p = np.clip(rest.p, SMALLEST, 1 - SMALLEST)
    logit = np.log(p) - np.log1p(-p)
    learners = responses.learners
    surplus = np.bincount(responses.rows, (responses.categories - p) * logit, learners)
    variance = np.bincount(responses.rows, p * (1 - p) * logit * logit, learners)
    l_z = surplus / np.sqrt(variance + SMALLEST)
    judged = np.diff(responses.starts) >= MIN_RESPONSES
    return PersonFit(l_z, judged, judged & (l_z < ndtri(LEVEL)))
