"""The impact of a calibration: how activating it would change the scale, the items, and who has mastered what."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.calibration.fit import select_learners
from app.adaptive.calibration.linking import ItemCurves, Link, mean_shift, steady_anchors
from app.adaptive.parameters import Parameters, to_difficulty
from app.adaptive.response_log import Log
from app.adaptive.tracing.mastery import is_mastered
from app.adaptive.tracing.replay import replay

DIGITS = 6
# An item is an anchor if both calibrations had so many answers to it, and a scale needs so many anchors.
MIN_RESPONSES_OF_ANCHOR = 30
MIN_ANCHORS = 5
ITEM_CHANGE_THRESHOLD = 0.25
# What a person can look at.
MAX_LISTED = 20
MAX_SKILLS_LISTED = 100
# Values of one kind that the states of one block of learners may hold: bounds the memory at any number of learners.
BLOCK = 1 << 18

Json = dict[str, Any]


def item_changes(
    before: Parameters, after: Parameters, item_ids: Sequence[str], response_counts: Integers, anchors: Booleans
) -> Json:
    """Report how the scale and the items would change.

    `response_counts` (I,) counts those that were fitted, `anchors` (I,) says which items both calibrations know
    well. Where they give a scale, items are compared on it; one whose intercept stays as it is given has not changed.
    Difficulties are b = −d/a (Lord 1980), each on the scale of its own calibration; `change` is that of b on the scale
    before, positive where the item has become harder. An item counts as changed by its logits, a·b, because b is
    endless for a flat item.
    """
    link, stable = find_link(before, after, anchors)
    moved = after.items.intercept - before.items.intercept
    logits = (
        _mean_logits(after) - _mean_logits(before) - link.intercept * before.items.discrimination
        if stable.any()
        else moved
    )
    changed = (np.abs(logits) > ITEM_CHANGE_THRESHOLD) & (response_counts > 0) & (moved != 0)
    largest = np.argsort(-np.abs(logits), kind="stable")
    shown = largest[changed[largest]][:MAX_LISTED].tolist()
    difficulty_before, difficulty_after = before.items.difficulty, after.items.difficulty
    change = to_difficulty(logits, before.items.discrimination)
    drifted = largest[(anchors & ~stable)[largest]]
    report: Json = {
        "items_changed": int(changed.sum()),
        "items_without_responses": int((response_counts == 0).sum()),
        "most_changed_items": [
            {
                "item": item_ids[item],
                "difficulty_before": _round_difficulty(difficulty_before[item]),
                "difficulty_after": _round_difficulty(difficulty_after[item]),
                "change": _round_difficulty(change[item]),
                "responses": int(response_counts[item]),
            }
            for item in shown
        ],
        "scale": None,
    }
    if stable.any():
        report["scale"] = {
            "shift": round(link.intercept, DIGITS),
            "anchors": int(stable.sum()),
            "drifted": len(drifted),
            "drifted_items": [item_ids[item] for item in drifted[:MAX_LISTED].tolist()],
        }
    return report


def _round_difficulty(difficulty: "np.float64") -> float:
    """Return a difficulty as a person reads it: rounded, never −0."""
    return round(float(difficulty), DIGITS) + 0.0


def find_link(before: Parameters, after: Parameters, anchors: Booleans) -> tuple[Link, Booleans]:
    """Return the shift from the new scale to the old one and the anchors it rests on; too few anchors give no shift."""
    old = ItemCurves(_mean_logits(before), before.items.discrimination)
    new = ItemCurves(_mean_logits(after), after.items.discrimination)
    stable = steady_anchors(old, new, anchors)
    if stable.sum() < MIN_ANCHORS:
        stable = np.zeros_like(anchors)
    return mean_shift(old, new, stable), stable


def _mean_logits(parameters: Parameters) -> Floats:
    """Return the mean logit of each item over those who know its skills and those who do not; (I,).

    The intercept alone is not comparable: it can trade its level with the two shifts without any prediction changing.
    """
    population, items = parameters.population, parameters.items
    return items.intercept + items.has_skills * (population.known_shift + population.unknown_shift) / 2


def mastery_changes(
    before: Parameters, after: Parameters, log: Log, learner_ids: Sequence[str], skill_ids: Sequence[str]
) -> Json:
    """Count who would cross the threshold of mastery, either way: replay the log under both, in blocks of learners."""
    gained, lost = np.zeros((2, len(skill_ids)), dtype=np.int64)
    crossing: list[int] = []
    moved = 0.0
    width = max(1, BLOCK // max(len(skill_ids), 1))
    for first in range(0, log.learners, width):
        part = select_learners(log, np.arange(first, min(first + width, log.learners)))
        old, new = replay(before, part)[0], replay(after, part)[0]
        mastered_before, mastered_after = is_mastered(old), is_mastered(new)
        gained += (mastered_after & ~mastered_before).sum(axis=0)
        lost += (mastered_before & ~mastered_after).sum(axis=0)
        crossing += (first + np.flatnonzero((mastered_before != mastered_after).any(axis=1))).tolist()
        moved += float((new.ability - old.ability).sum())
    skills = np.argsort(-(gained + lost), kind="stable")
    skills = skills[(gained + lost)[skills] > 0][:MAX_SKILLS_LISTED]
    return {
        "learners": len(crossing),
        "gained": int(gained.sum()),
        "lost": int(lost.sum()),
        "skills": [
            {"skill": skill_ids[skill], "gained": int(gained[skill]), "lost": int(lost[skill])}
            for skill in skills.tolist()
        ],
        "learner_ids": [learner_ids[learner] for learner in crossing[:MAX_LISTED]],
        "ability_change": round(moved / max(log.learners, 1), DIGITS),
    }
