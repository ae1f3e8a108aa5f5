"""Which items a learner met of late: what a repeated answer tells, and what has not been seen, depends on it."""

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.numerics import HALF
from app.adaptive.parameters import Parameters
from app.adaptive.state import RecentItems

REMEMBERED = 64


def initial_recent_items(count: int) -> RecentItems:
    """`count` learners who have met nothing."""
    shape = (count, REMEMBERED)
    return RecentItems(
        items=np.full(shape, -1, dtype=np.int64),
        tries=np.zeros(shape, dtype=np.int64),
        scores=np.zeros(shape),
        solved=np.zeros(shape, dtype=np.bool_),
        answered_at=np.zeros(shape, dtype=np.int64),
        met=np.zeros(count, dtype=np.int64),
    )


def find_recent(recent: RecentItems, learners: Integers, items: Integers) -> tuple[Integers, Booleans]:
    """The place of item `items[n]` in the list of learner `learners[n]`, and whether it stands there; both (N,)."""
    held = recent.items[learners]
    slot = np.argmax(held == items[:, None], axis=1)
    return slot, held[np.arange(len(items)), slot] == items


def answers_since(recent: RecentItems, total_responses: Integers, learners: Integers, items: Integers) -> Integers:
    """How many answers ago each learner (a row of `recent`) last answered each item; -1 if not of late; (N,)."""
    slot, seen = find_recent(recent, learners, items)
    return np.where(seen, total_responses[learners] - recent.answered_at[learners, slot], -1)


def has_met_another(
    parameters: Parameters, recent: RecentItems, learners: Integers, items: Integers, skill: Integers
) -> Booleans:
    """Whether the learner has met another item of the skill than this one, or there is no other; (N,)."""
    held = recent.items[learners]
    asked = (parameters.items.skills[held] == skill[:, None, None]).any(axis=2)
    another = (asked & (held >= 0) & (held != items[:, None])).any(axis=1)
    return np.asarray(another | (parameters.item_counts[skill] == 1))


def remember_items(recent: RecentItems, items: Integers, scores: Floats, total_responses: Integers) -> None:
    """Count one answer of each of B learners, in place; a new item takes the place of the one that came first."""
    rows = np.arange(len(items))
    slot, known = find_recent(recent, rows, items)
    slot = np.where(known, slot, recent.met % REMEMBERED)
    recent.items[rows, slot] = items
    recent.tries[rows, slot] = np.where(known, recent.tries[rows, slot] + 1, 1)
    recent.scores[rows, slot] = np.where(known, recent.scores[rows, slot] + scores, scores)
    recent.solved[rows, slot] = scores >= HALF
    recent.answered_at[rows, slot] = total_responses
    recent.met[:] += ~known
