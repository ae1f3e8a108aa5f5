"""What a calibration would change if it were activated: the scale, the items, and who has mastered what."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.adaptive.calibration import take
from app.adaptive.linking import Curves, Link, mean_shift, steady
from app.adaptive.mastery import is_mastered
from app.adaptive.replay import Log, replay
from app.adaptive.types import Booleans, Floats, Integers, Parameters

DIGITS = 6
# An item is an anchor if both calibrations had so many answers to it, and a scale needs so many anchors.
LEAST_ANSWERS = 30
LEAST_ANCHORS = 5
ITEM_CHANGED = 0.25
# What a person can look at.
LISTED = 20
SKILLS_LISTED = 100
# Values of one kind that the states of one block of learners may hold: bounds the memory at any number of learners.
BLOCK = 1 << 18

Json = dict[str, Any]


def item_changes(
    before: Parameters, after: Parameters, item_ids: Sequence[str], answers: Integers, anchors: Booleans
) -> Json:
    """What becomes of the scale and the items.

    `answers` (I,) counts those that were fitted, `anchors` (I,) says which items both calibrations know well. Where
    they give a scale, items are compared on it; an item whose easiness stays as it is given has not changed.
    """
    link, kept = find_link(before, after, anchors)
    moved = after.items.easiness - before.items.easiness
    change = level(after) - level(before) - link.intercept * before.items.discrimination if kept.any() else moved
    changed = (np.abs(change) > ITEM_CHANGED) & (answers > 0) & (moved != 0)
    largest = np.argsort(-np.abs(change), kind="stable")
    shown = largest[changed[largest]][:LISTED].tolist()
    drifted = largest[(anchors & ~kept)[largest]]
    told: Json = {
        "items_changed": int(changed.sum()),
        "items_without_responses": int((answers == 0).sum()),
        "most_changed_items": [
            {
                "item": item_ids[item],
                # An easiness of minus nothing is one of 0.
                "easiness_before": round(float(before.items.easiness[item]), DIGITS) + 0.0,
                "easiness_after": round(float(after.items.easiness[item]), DIGITS),
                "change": round(float(change[item]), DIGITS),
                "responses": int(answers[item]),
            }
            for item in shown
        ],
        "scale": None,
    }
    if kept.any():
        told["scale"] = {
            "shift": round(link.intercept, DIGITS),
            "anchors": int(kept.sum()),
            "drifted": len(drifted),
            "drifted_items": [item_ids[item] for item in drifted[:LISTED].tolist()],
        }
    return told


def find_link(before: Parameters, after: Parameters, anchors: Booleans) -> tuple[Link, Booleans]:
    """The shift from the new scale to the old one, and the anchors it rests on; none of them if there are too few."""
    old = Curves(level(before), before.items.discrimination)
    new = Curves(level(after), after.items.discrimination)
    kept = steady(old, new, anchors)
    if kept.sum() < LEAST_ANCHORS:
        kept = np.zeros_like(anchors)
    return mean_shift(old, new, kept), kept


def level(parameters: Parameters) -> Floats:
    """Where an item stands between those who know its skills and those who do not, in logits; (I,).

    The easiness alone is not comparable: it can trade its level with the two shifts without any prediction changing.
    """
    population, items = parameters.population, parameters.items
    return items.easiness + items.tagged * (population.known_shift + population.unknown_shift) / 2


def mastery_changes(
    before: Parameters, after: Parameters, log: Log, learner_ids: Sequence[str], skill_ids: Sequence[str]
) -> Json:
    """Who would cross the line of mastery, either way: the log folded under both, some learners at a time."""
    gained, lost = np.zeros((2, len(skill_ids)), dtype=np.int64)
    crossing: list[int] = []
    moved = 0.0
    width = max(1, BLOCK // max(len(skill_ids), 1))
    for first in range(0, log.learners, width):
        part = take(log, np.arange(first, min(first + width, log.learners)))
        old, new = replay(before, part)[0], replay(after, part)[0]
        was, becomes = is_mastered(old.mastery, old.evidence), is_mastered(new.mastery, new.evidence)
        gained += (becomes & ~was).sum(axis=0)
        lost += (was & ~becomes).sum(axis=0)
        crossing += (first + np.flatnonzero((was != becomes).any(axis=1))).tolist()
        moved += float((new.ability - old.ability).sum())
    skills = np.argsort(-(gained + lost), kind="stable")
    skills = skills[(gained + lost)[skills] > 0][:SKILLS_LISTED]
    return {
        "learners": len(crossing),
        "gained": int(gained.sum()),
        "lost": int(lost.sum()),
        "skills": [
            {"skill": skill_ids[skill], "gained": int(gained[skill]), "lost": int(lost[skill])}
            for skill in skills.tolist()
        ],
        "learner_ids": [learner_ids[learner] for learner in crossing[:LISTED]],
        "ability_change": round(moved / max(log.learners, 1), DIGITS),
    }
