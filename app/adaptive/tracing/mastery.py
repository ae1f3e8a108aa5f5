"""What the number P(known) is allowed to say: an interval, and one of four words."""

import numpy as np
from scipy.special import expm1, log1p, xlogy

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.state import States

MASTERY_LINE, LEAVING_LINE = 0.9, 0.7
# Answers on a skill in a row that left it more likely unknown: practice makes no progress.
STUCK_AFTER = 8
LEAST_RESPONSES = 3
# The answers alone have to make knowing nine times as likely as before.
CUSUM_LINE = 2.1972245773362196
CUSUM_RISE, HIGHEST_RISE = 0.6, 2.0
LARGEST_LEARN = 1 - 1e-9
# Half the width of the 90 % interval in logits: errors of the parameters do not average out with more answers.
LASTING_WIDTH = 1.0
FIRST_WIDTH = 0.02
FEW = 10
# Close to 1 a skill is held there by every right answer, whatever the parameters.
SURE = 0.4
NEARLY_SURE = 20
STRETCH = 1.5
# Where items ask for several skills, what little is known of one that is missing depends on the others.
SHARED = 1.5
SLACK = 0.01
LEAST = 1e-300

INSUFFICIENT, DEVELOPING, MASTERED, DECAYED = range(4)
STATUSES = ("insufficient", "developing", "mastered", "decayed")


def becomes_mastered(
    mastery: Floats, responses: Integers, cusum: Floats, uncertainty: Floats, p_learn: Floats
) -> Booleans:
    """Whether a skill that was not mastered is now: P(known) and what the answers alone say are above their lines.

    The second line rises with the `uncertainty` (variance) of ability, which disturbs all answers on a skill alike and
    does not average out, over as many answers as are likely to have been given without learning, n (1 - P(T))^n.
    """
    lasting = uncertainty * responses * (expm1(responses * log1p(-np.minimum(p_learn, LARGEST_LEARN))) + 1)
    line = CUSUM_LINE * np.minimum(1 + CUSUM_RISE * lasting, HIGHEST_RISE)
    return np.asarray((mastery >= MASTERY_LINE) & (cusum >= line) & (responses >= LEAST_RESPONSES))


def stays_mastered(mastered: Booleans, mastery: Floats) -> Booleans:
    """Whether a skill that was mastered still is: the line to leave is below the line to enter."""
    return np.asarray(mastered & (mastery >= LEAVING_LINE))


def is_mastered(states: States) -> Booleans:
    """Which skills are mastered at the moment of the states; (B, S)."""
    return stays_mastered(states.mastered, states.mastery)


def is_stuck(states: States) -> Booleans:
    """On which skills practice makes no progress; (B, S).

    Eight answers in a row have left the skill more likely unknown than known: wheel-spinning (Beck & Gong 2013), told
    earlier and by the mastery instead of by three right answers.
    """
    return np.asarray(states.stalled >= STUCK_AFTER)


def mastery_status(mastery: Floats, responses: Integers, attained: Booleans, mastered: Booleans) -> Integers:
    """One of `STATUSES` by its place.

    `mastered` says that the skill was after the last answer, `mastery` is that of now; `attained` says that it was
    mastered at some time before.
    """
    result = np.where(attained, DECAYED, DEVELOPING)
    result[responses < LEAST_RESPONSES] = INSUFFICIENT
    result[stays_mastered(mastered, mastery)] = MASTERED
    return result


def mastery_interval(
    mastery: Floats, responses: Integers, has_prerequisites: "Floats | float" = 0.0, overlap: "Floats | float" = 0.0
) -> tuple[Floats, Floats]:
    """The 90 % interval of P(known): where it would be, had the engine the true parameters and exact inference.

    Symmetric on the logit scale, of half-width h = (1 + .02 / (1 + n / 10)) (1 - .4 q²⁰), n answers on the skill; a
    slack of .01 keeps 0 and 1 from being certain. `has_prerequisites`, as in `Skills`, is 1 for a skill that has
    prerequisites; `overlap`, as in `Parameters`, says within 0..1 how far its items lean on other skills. Towards 0 the
    interval is 1 + 1.5 built_on q times as wide, towards 1 it is 1 + 1.5 shared (1 - q)² times. The
    constants were fitted in simulation (docs/models.md, "How sure"). The arguments have one shape or broadcast; returns
    the two ends.
    """
    missing = 1 - mastery
    width = LASTING_WIDTH + FIRST_WIDTH / (1 + responses / FEW)
    width = width * (1 - SURE * (expm1(xlogy(NEARLY_SURE, mastery)) + 1))
    down = width * (1 + STRETCH * has_prerequisites * (1 - missing))
    up = width * (1 + SHARED * overlap * missing * missing)
    low = 1 / (1 + (missing + SLACK) * (expm1(down) + 1) / np.maximum(mastery, LEAST))
    high = 1 / (1 + missing * (expm1(-up) + 1) / (mastery + SLACK))
    return np.asarray(np.minimum(low, mastery)), np.asarray(np.maximum(high, mastery))
