"""The scores of items for learners, and the probability that each item is chosen (docs/models.md)."""

from dataclasses import dataclass

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers, Seeds
from app.adaptive.hashing import uniform
from app.adaptive.numerics import clip, logit, run_lengths, run_starts
from app.adaptive.parameters import Parameters
from app.adaptive.recent_items import REMEMBERED, answers_since
from app.adaptive.state import States
from app.adaptive.tracing.filter import chance_of_others, predict_score_and_gap
from app.adaptive.tracing.mastery import is_stuck

TARGET = 0.62
DIAGNOSTICITY_WEIGHT = 2.0
JITTER = 0.2
# Unseen before seen, then longest ago: in logits of difficulty.
SEEN, SEEN_OF_LATE = 1.5, 0.5
# An item whose answers say nothing comes last.
IGNORED = 5.0
# For every other skill of the item that is new, and for one that is stuck or whose prerequisites are missing.
NEW_SKILL, UNREADY_SKILL = 0.5, 1.0
FEW_RESPONSES, LIKELY_KNOWN = 3, 0.8
# Candidates whose factors are multiplied at a time.
PIECE = 512
# 64-point Gauss-Legendre in s, where 1 - u = s³ (width): dense near u = 1, where a choice among very many is decided.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)

NODES, WEIGHTS = ((NODES + 1) / 2) ** 3, 3 * ((NODES + 1) / 2) ** 2 * WEIGHTS / 2


@dataclass(frozen=True)
class ItemScores:
    """The scores of items for learners, all (N,): the least `score` is best.

    `distance` of the chance of success from the one aimed at, in logits; `diagnosticity`: by how much those who know
    the skill practised are expected to score more than those who do not, with what is known of the item's other skills.
    `delay`, in logits, is for items that were seen, and for other skills that are new or whose time has not come.
    """

    distance: Floats
    diagnosticity: Floats
    delay: Floats

    @property
    def score(self) -> Floats:
        """The score without the random term."""
        return self.distance + self.delay - DIAGNOSTICITY_WEIGHT * self.diagnosticity

    def __getitem__(self, rows: Integers) -> "ItemScores":
        """Return some of the pairs."""
        return ItemScores(self.distance[rows], self.diagnosticity[rows], self.delay[rows])


def score_items(
    parameters: Parameters, states: States, learners: Integers, items: Integers, skill: Integers
) -> ItemScores:
    """Score each of N items for its learner, to practise a skill (-1: none in particular); all (N,)."""
    p, gap = predict_score_and_gap(parameters, states, learners, items)
    asked = parameters.items.skills[items]
    practised = (asked == skill[:, None]) & (asked >= 0)
    delay = _delay_of_seen(states, learners, items)
    if parameters.items.ignored is not None:
        delay = delay + IGNORED * parameters.items.ignored[items]
    if parameters.items.skills.shape[1] > 1:
        others = chance_of_others(parameters.items, states, learners, items)
        gap = gap * np.where(practised.any(axis=1), np.where(practised, others, 0.0).max(axis=1), 1.0)
        delay = delay + _delay_of_others(parameters, states, learners, items, practised)
    return ItemScores(np.abs(logit(p) - logit(np.array(TARGET))), gap, delay)


def _delay_of_seen(states: States, learners: Integers, items: Integers) -> Floats:
    """More for an item the sooner it was seen; none for an unseen one; (N,)."""
    since = answers_since(states.recent, states.total_responses, learners, items)
    late = 1 - np.minimum(since, REMEMBERED) / REMEMBERED
    return np.where(since >= 0, SEEN + SEEN_OF_LATE * late, 0.0)


def _delay_of_others(
    parameters: Parameters, states: States, learners: Integers, items: Integers, practised: Booleans
) -> Floats:
    """More for every other skill of an item that is new to the learner, stuck, or without its prerequisites; (N,)."""
    skills = parameters.items.skills[items]
    doubtful = states.mastery < LIKELY_KNOWN
    rows, columns = ((skills >= 0) & ~practised & doubtful[learners[:, None], skills]).nonzero()
    if not rows.size:
        return np.zeros(len(items))
    whose, other = learners[rows], skills[rows, columns]
    prerequisites = parameters.informed_prerequisites[items[rows], columns]
    unready = ((prerequisites >= 0) & doubtful[whose[:, None], prerequisites]).any(axis=1)
    unready |= is_stuck(states)[whose, other]
    delay = NEW_SKILL * (states.responses[whose, other] < FEW_RESPONSES) + UNREADY_SKILL * unready
    return np.asarray(np.bincount(rows, delay, len(items)))


def add_jitter(score: Floats, seeds: Seeds, items: Integers) -> Floats:
    """Return the scores with the random term of each item: the least one is chosen."""
    return score - JITTER * uniform(seeds, items)


def smallest_by_learner(score: Floats, learners: Integers, count: int) -> Integers:
    """Return for each learner the index of its smallest score in the flat array, -1 if it has none; (B,).

    `learners` is sorted; of equal scores the first one counts.
    """
    result = np.full(count, -1, dtype=np.int64)
    if score.size:
        starts = run_starts(learners)
        least = np.repeat(np.minimum.reduceat(score, starts), run_lengths(starts, len(score)))
        index = (score == least).nonzero()[0]
        first = index[run_starts(learners[index])]
        result[learners[first]] = first
    return result


def propensities(score: Floats, learners: Integers, picked: Integers) -> Floats:
    """Return the probability each picked item had among its learner's candidates, over the uniform numbers U.

    Item i wins if s_i - .2 U_i is the least: ∫ Π_j P(U_j < u + (s_j - s_i) / .2) du, over the u where no factor is
    zero. Items more than .2 above the picked one multiply by 1 and are left out.
    """
    rows = learners[picked]
    best = np.zeros(int(learners.max(initial=-1)) + 1)
    best[rows] = score[picked]
    close = score < best[learners] + JITTER
    close[picked] = False
    near = np.flatnonzero(close)
    whose = learners[near]
    gap = (score[near] - best[whose]) / JITTER
    width, chance = np.ones(len(best)), np.ones(len(best))
    starts = run_starts(whose)
    with np.errstate(under="ignore"):
        if starts.size:
            crowded = whose[starts]
            width[crowded] = np.minimum(np.minimum.reduceat(np.maximum(1 + gap, 0.0), starts), 1.0)
            product = clipped_products(1 - width[crowded, None] * NODES, gap, starts)
            chance[crowded] = np.add.reduce(product * WEIGHTS, axis=1)
        return clip(chance[rows] * width[rows], 0.0, 1.0)


def clipped_products(base: Floats, gap: Floats, starts: Integers) -> Floats:
    """Return Π over the candidates j of each learner of (base + gap_j), within 0..1, at every node; (learners, nodes).

    Always from left to right, in pieces that fit the cache: an uncalibrated course has thousands of equal candidates.
    A product falls from node to node; where it has come to 0 it stays.
    """
    result = np.ones(base.shape)
    owner = np.repeat(np.arange(len(starts)), run_lengths(starts, len(gap)))
    factors = np.empty((min(PIECE, len(gap)) + 1, base.shape[1]))
    for first in range(0, len(gap), PIECE):
        piece = slice(first, first + PIECE)
        owners = owner[piece]
        alone = owners[0] == owners[-1]
        alive = np.count_nonzero(result[owners[0]]) if alone else base.shape[1]
        part = factors[: len(owners) + 1, :alive]
        # What an earlier piece has multiplied goes on here.
        part[0] = result[owners[0], :alive]
        gaps = gap[piece, None]
        own = part[1:2] if alone and (gaps == gaps[0]).all() else part[1:]
        np.add(base[owners[0] if alone else owners, :alive], gaps[: len(own)], out=own)
        np.clip(own, 0.0, 1.0, out=own)
        if alone:
            part[1 + len(own) :] = own[0]
            np.multiply.reduce(part, axis=0, out=result[owners[0], :alive])
        else:
            positions = run_starts(owners)
            positions[1:] += 1
            result[owners[0] : owners[-1] + 1] = np.multiply.reduceat(part, positions, axis=0)
    return result
