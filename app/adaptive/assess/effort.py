"""Answers that came too fast to be thought about: rapid guessing."""

import numpy as np

from app.adaptive.arrays import Floats, Integers

# Of the time that an item usually takes, at most so long, and by at least so many answers (Wise & Ma 2012: NT10).
SHARE = 0.1
LONGEST_MS = 10_000
LEAST_DURATIONS = 20


def rapid_thresholds(items: Integers, durations: Floats, count: int) -> Integers:
    """Return for each of `count` items below how many ms an answer was not thought about; 0 where that is not known.

    `items` (N,) and `durations` (N,) in ms, not a number where unknown, are answers. The normative threshold of a tenth
    (Wise & Ma 2012, after Wise & Kong 2005), of the median instead of the mean: who leaves an item open for an hour
    would move a mean.
    """
    result = np.zeros(count, dtype=np.int64)
    use = np.isfinite(durations)
    items, durations = items[use], durations[use]
    order = np.argsort(items, kind="stable")
    groups = np.split(durations[order], np.cumsum(np.bincount(items, minlength=count))[:-1])
    for item, group in enumerate(groups):
        if len(group) >= LEAST_DURATIONS:
            result[item] = min(int(SHARE * np.median(group)), LONGEST_MS)
    return result
