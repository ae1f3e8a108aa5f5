"""Learners who are in a log twice under two ids: a model trained on one has seen the answers of the other.

Learners are compared by their first answers to each item, right (from half the score) or wrong. Duplicates
agree in so many that hardly any two independent learners would, among all who were compared.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.special import expit, log_expit, logit

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.numerics import HALF
from app.adaptive.response_log import Log

LEAST_SHARED = 15
LEAST_AGREEMENT = 0.9
# How often a copy differs in an answer, and how many false pairs a file of independent learners may have on average.
SLIP = 0.02
FALSE_ALARMS = 1e-3
# Answers of a learner cluster by skill: taken for as informative as half as many independent ones.
WORTH = 0.5
ABILITY_STEPS = 10
LONGEST_STEP = 1.0
# Pairs of learners held at once, and those of which the answers are compared one by one.
BLOCK = 1 << 21
# Beyond so many pairs of answers to the same item nobody is compared: it would take hours.
MOST_PAIRS = 1e10
CHUNK = 1 << 14


@dataclass(frozen=True)
class _FirstResponses:
    """First answers of A learners as sparse rows.

    `items` (A, I) and `answers` (A, 2I), the items with right or wrong, hold ones; `information` (A, 2I) what each
    answer says against chance if another learner agrees (`find_duplicates`); `lengths` (A,) how many they are.
    """

    items: csr_array
    answers: csr_array
    information: csr_array
    lengths: Integers


def find_duplicates(log: Log) -> Integers:
    """Return the group of each learner, (L,): equal for duplicates, numbered in the order of first appearance.

    A learner with n first answers, of which a longer log holds m with the same result, gives the log ratio

        e = Σ_m (-w ln p + ln(1 - s)) + (n - m) ln s,      s = `SLIP`, w = `WORTH`,

    where p is the chance of this result for somebody as able as the one or as the other, whichever is less informative
    (`surprisal`). Were p exact, w = 1 would make this at most the log likelihood ratio of a copy with slips to an
    independent learner, which exceeds ln(C / α) with probability α / C (Ville 1939). C pairs share at least
    `LEAST_SHARED` items and `LEAST_AGREEMENT` of the shorter log; they are duplicates if as many answers agree and e >
    ln(C / α), α = `FALSE_ALARMS`. A duplicate of a duplicate is one too. Memory is bounded by `BLOCK`; time grows with
    the pairs of learners who share an item, summed over items, and where these are more than `MOST_PAIRS` no duplicates
    are reported.
    """
    whose, items, right = collect_first_responses(log)
    lengths = np.bincount(whose, minlength=log.learners)
    long = np.flatnonzero(lengths >= LEAST_SHARED)
    often = np.bincount(items[lengths[whose] >= LEAST_SHARED]).astype(np.float64)
    if len(long) < 2 or (often * often).sum() > MOST_PAIRS:  # noqa: PLR2004
        return np.arange(log.learners)
    compared, first, second, log_ratio = _find_agreeing_pairs(_first_response_rows(whose, items, right, lengths, long))
    found = log_ratio > np.log(max(compared, 1) / FALSE_ALARMS)
    pairs = (np.ones(found.sum()), (long[first[found]], long[second[found]]))
    groups = connected_components(csr_array(pairs, shape=(log.learners, log.learners)), directed=False)[1]
    _, first_rows, number = np.unique(groups, return_index=True, return_inverse=True)
    return np.asarray(np.argsort(np.argsort(first_rows))[number], dtype=np.int64)


def first_of_each_group(groups: Integers) -> Booleans:
    """Return who is the first learner of each group, (L,): an answer that stands in a log twice is still one answer."""
    first = np.zeros(len(groups), dtype=np.bool_)
    first[np.unique(groups, return_index=True)[1]] = True
    return first


def collect_first_responses(log: Log) -> tuple[Integers, Integers, Integers]:
    """Return learner, item and result (0 or 1) of every first answer to an item, sorted by learner and item."""
    whose = np.repeat(np.arange(log.learners), np.diff(log.starts))
    size = int(log.items.max(initial=-1)) + 1
    first_rows = np.unique(whose * size + log.items, return_index=True)[1]
    return whose[first_rows], log.items[first_rows], (log.scores[first_rows] >= HALF).astype(np.int64)


def _first_response_rows(
    whose: Integers, items: Integers, right: Integers, lengths: Integers, chosen: Integers
) -> _FirstResponses:
    """Return the first answers of the chosen learners as rows."""
    size = int(items.max()) + 1
    information = WORTH * surprisal(whose, items, right) + np.log1p(-SLIP)
    starts = np.concatenate(([0], np.cumsum(lengths)))
    ones = np.ones(len(items), dtype=np.int32)
    shape = (len(lengths), 2 * size)
    return _FirstResponses(
        csr_array((ones, items, starts), shape=(len(lengths), size))[chosen],
        csr_array((ones, 2 * items + right, starts), shape=shape)[chosen],
        csr_array((information, 2 * items + right, starts), shape=shape)[chosen],
        lengths[chosen],
    )


def surprisal(whose: Integers, items: Integers, right: Integers) -> Floats:
    """Return -ln p of each answer, (N,): Rasch with the intercept logit((right + ½) / (all + 1)) and ability ~ N(0, 1).

    The ability is the mode given all these answers, so that agreement of those who are nearly always right, or wrong,
    counts for little (Rasch 1960; Newton steps).
    """
    count, rights = np.bincount(items), np.bincount(items, right)
    intercept = logit((rights + 0.5) / (count + 1))[items]
    ability = np.zeros(int(whose.max(initial=-1)) + 1)
    for _ in range(ABILITY_STEPS):
        p = expit(intercept + ability[whose])
        slope = np.bincount(whose, right - p) - ability
        ability += np.clip(slope / (np.bincount(whose, p * (1 - p)) + 1), -LONGEST_STEP, LONGEST_STEP)
    eta = intercept + ability[whose]
    return np.asarray(-log_expit(np.where(right == 1, eta, -eta)))


def _find_agreeing_pairs(rows: _FirstResponses) -> tuple[int, Integers, Integers, Floats]:
    """Count the pairs that share enough items, and return learners and log ratio of those that share enough answers."""
    of_item, of_answer = rows.items.T.tocsr(), rows.answers.T.tocsr()
    learners, compared = len(rows.lengths), 0
    found: list[tuple[Integers, Integers, Floats]] = []
    height = max(1, BLOCK // learners)
    for start in range(0, learners, height):
        block = slice(start, start + height)
        compared += len(_pairs_sharing_enough(rows.items[block] @ of_item, start, rows.lengths)[0])
        first, second = _pairs_sharing_enough(rows.answers[block] @ of_answer, start, rows.lengths)
        for part in range(0, len(first), CHUNK):
            one, other = first[part : part + CHUNK], second[part : part + CHUNK]
            log_ratio = _duplicate_log_ratio(rows, one, other)
            # The final threshold is at least this.
            passed = log_ratio > np.log(max(compared, 1) / FALSE_ALARMS)
            found.append((one[passed], other[passed], log_ratio[passed]))
    nothing = np.zeros(0, dtype=np.int64)
    first, second, log_ratio = (
        np.concatenate(part) for part in zip((nothing, nothing, np.zeros(0)), *found, strict=True)
    )
    return compared, first, second, log_ratio


def _pairs_sharing_enough(common: csr_array, start: int, lengths: Integers) -> tuple[Integers, Integers]:
    """Return the pairs, earlier learner first, that have enough of the shorter log in common."""
    pairs = common.tocoo()
    first, second = pairs.row.astype(np.int64) + start, pairs.col.astype(np.int64)
    needed = np.maximum(LEAST_SHARED, LEAST_AGREEMENT * np.minimum(lengths[first], lengths[second]))
    enough: Booleans = (pairs.data >= needed) & (first < second)
    return first[enough], second[enough]


def _duplicate_log_ratio(rows: _FirstResponses, first: Integers, second: Integers) -> Floats:
    """Return the log ratio of each pair (`find_duplicates`), by the ability that gives the lesser one."""
    one, other = rows.answers[first], rows.answers[second]
    agreed = one.multiply(other).sum(axis=1)
    said = np.minimum(
        rows.information[first].multiply(other).sum(axis=1),
        rows.information[second].multiply(one).sum(axis=1),
    )
    missing = np.minimum(rows.lengths[first], rows.lengths[second]) - agreed
    return np.asarray(said + missing * np.log(SLIP))
