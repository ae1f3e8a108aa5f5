"""What the number P(known) is allowed to say: an interval, and one of four words."""

import numpy as np
from scipy.special import expm1, xlogy

from app.adaptive.arrays import Booleans, Floats, Integers

MASTERY_LINE = 0.9
LEAST_RESPONSES = 3
# Half the width of the 90 % interval in logits: errors of the parameters do not average out with more answers.
LASTING_WIDTH = 0.83
FIRST_WIDTH = 0.05
FEW = 10
# Close to 1 a skill is held there by every right answer, whatever the parameters.
SURE = 0.4
NEARLY_SURE = 20
STRETCH = 1.5
# Where items ask for several skills, each is blamed in full for what one of them lacked.
SHARED_UP = 3.5
SHARED_DOWN = 0.5
SLACK = 0.01
LEAST = 1e-300

INSUFFICIENT, DEVELOPING, MASTERED, DECAYED = range(4)
STATUSES = ("insufficient", "developing", "mastered", "decayed")


def is_mastered(mastery: Floats, responses: Integers) -> Booleans:
    """Whether P(known) is above the line on enough answers."""
    return np.asarray((mastery >= MASTERY_LINE) & (responses >= LEAST_RESPONSES))


def mastery_status(mastery: Floats, responses: Integers, attained: Booleans) -> Integers:
    """One of `STATUSES` by its place; `attained` says that the skill was mastered at some time before."""
    result = np.where(attained, DECAYED, DEVELOPING)
    result[responses < LEAST_RESPONSES] = INSUFFICIENT
    result[is_mastered(mastery, responses)] = MASTERED
    return result


def mastery_interval(
    mastery: Floats, responses: Integers, has_prerequisites: "Floats | float" = 0.0, overlap: "Floats | float" = 0.0
) -> tuple[Floats, Floats]:
    """The 90 % interval of P(known): where it would be, had the engine the true parameters and exact inference.

    Symmetric on the logit scale, of half-width h = (.83 + .05 / (1 + n / 10)) (1 - .4 q²⁰), n answers on the skill; a
    slack of .01 keeps 0 and 1 from being certain. `has_prerequisites`, as in `Skills`, is 1 for a skill that has
    prerequisites; `overlap`, as in `Parameters`, says within 0..1 how far its items lean on other skills. Towards 0 the
    interval is 1 + (1.5 built_on + .5 shared) q times as wide, towards 1 it is 1 + 3.5 shared (1 - q)² times. The
    constants were fitted in simulation (docs/models.md, "How sure"). The arguments have one shape or broadcast; returns
    the two ends.
    """
    missing = 1 - mastery
    width = LASTING_WIDTH + FIRST_WIDTH / (1 + responses / FEW)
    width = width * (1 - SURE * (expm1(xlogy(NEARLY_SURE, mastery)) + 1))
    down = width * (1 + (STRETCH * has_prerequisites + SHARED_DOWN * overlap) * (1 - missing))
    up = width * (1 + SHARED_UP * overlap * missing * missing)
    low = 1 / (1 + (missing + SLACK) * (expm1(down) + 1) / np.maximum(mastery, LEAST))
    high = 1 / (1 + missing * (expm1(-up) + 1) / (mastery + SLACK))
    return np.asarray(np.minimum(low, mastery)), np.asarray(np.maximum(high, mastery))
