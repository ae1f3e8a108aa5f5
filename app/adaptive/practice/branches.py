"""The branches to the next item that the options open, and which of them is taken."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers, Seeds
from app.adaptive.hashing import uniform
from app.adaptive.parameters import Parameters
from app.adaptive.practice.items import add_jitter, propensities, score_items
from app.adaptive.practice.skills import SkillStatus, goal_skills
from app.adaptive.state import States
from app.adaptive.tracing.mastery import MASTERY_LINE, is_mastered

CODES = (
    "practice_skill",
    "strengthen_skill",
    "practice_item",
    "all_mastered",
    "nothing_eligible",
    "review_skill",
    "explore_item",
    "goal_reached",
)

PRACTISE, STRENGTHEN, NO_SKILL, ALL_MASTERED, NOTHING_ELIGIBLE, REVIEW, EXPLORE, GOAL_REACHED = range(len(CODES))

# Numbers that no item has: the draw of the branch, and that of one item among all.
WHICH_BRANCH, WHICH_ITEM = np.array([-1]), np.array([-2])


@dataclass(frozen=True)
class SelectionCriteria:
    """The criteria for the next exercise of one learner; by default none.

    Only `skills` (S,) are practised, with `items` (I,); None: all. `goal` lists skills to bring to `target`: then only
    these and their prerequisites, as far as still needed. `resting` skills are skipped while there is another. With the
    probability `explore` any eligible exercise is drawn; else with the probability `review` a decayed skill comes
    first, if there is one.
    """

    skills: Booleans | None = None
    items: Booleans | None = None
    goal: Integers | None = None
    target: float = MASTERY_LINE
    resting: Integers | None = None
    review: float = 0.0
    explore: float = 0.0


@dataclass(frozen=True)
class _Branch:
    """A way to choose an exercise, taken with the probability `share`: one of `items`, to practise `skill`.

    If any of the items may be drawn, `skill` is -1 and the item determines it.
    """

    code: int
    share: float
    skill: int
    items: Integers


@dataclass(frozen=True)
class Branches:
    """The branches of one learner; if there are none, `code` says why. `eligible` (S,) are the skills in question."""

    code: int
    branches: tuple[_Branch, ...]
    eligible: Booleans


def plan_branches(
    parameters: Parameters, states: States, skill_status: SkillStatus, avoid: Integers, criteria: SelectionCriteria
) -> Branches:
    """List the branches of one learner with their probabilities; O(items)."""
    allowed = np.ones(parameters.items.count, dtype=np.bool_) if criteria.items is None else criteria.items
    offered = allowed.copy()
    offered[avoid] = False
    doable, unfinished = open_skills(parameters, states, skill_status, criteria)
    if not len(parameters.items.by_skill[1]):
        restricted = criteria.skills is not None or criteria.goal is not None
        items = np.flatnonzero(offered & ~restricted)
        branches = _assign_shares(criteria, [_Branch(NO_SKILL, 0.0, -1, items)], items) if items.size else ()
        return Branches(NOTHING_ELIGIBLE, branches, doable)
    available = _items_per_skill(parameters, offered) > 0
    eligible = (doable | unfinished) & available
    found = [
        (PRACTISE, _without_resting(doable & available, criteria), skill_status.value[0]),
        (STRENGTHEN, _without_resting(unfinished & available, criteria), skill_status.need[0]),
    ]
    usual = [_best_branch(parameters, offered, *each) for each in found if each[1].any()][:1]
    if not usual:
        return Branches(_reason_for_nothing(parameters, states, skill_status, allowed, criteria), (), eligible)
    decayed = _without_resting(eligible & states.attained[0] & ~is_mastered(states)[0], criteria)
    review = (
        [_best_branch(parameters, offered, REVIEW, decayed, skill_status.need[0])]
        if criteria.review and decayed.any()
        else []
    )
    return Branches(
        usual[0].code,
        _assign_shares(criteria, review + usual, _items_for_skills(parameters, offered, eligible)),
        eligible,
    )


def open_skills(
    parameters: Parameters, states: States, skill_status: SkillStatus, criteria: SelectionCriteria
) -> tuple[Booleans, Booleans]:
    """Return which skills of one learner may be practised first, and which are unfinished, as requested; both (S,)."""
    doable, unfinished = skill_status.open[0], ~skill_status.mastered[0]
    if criteria.goal is not None:
        lacking, needed = goal_skills(parameters, states, criteria.goal, criteria.target)
        doable = (lacking & (skill_status.ready[0] == 1)) | (needed & doable)
        unfinished = lacking | (needed & unfinished)
    if criteria.skills is not None:
        doable, unfinished = doable & criteria.skills, unfinished & criteria.skills
    return doable, unfinished


def _without_resting(skills: Booleans, criteria: SelectionCriteria) -> Booleans:
    """Return the skills but for the resting ones, unless there is no other."""
    if criteria.resting is None:
        return skills
    others = skills.copy()
    others[criteria.resting] = False
    return others if others.any() else skills


def _items_per_skill(parameters: Parameters, offered: Booleans) -> Integers:
    """Count the offered items (I,) that ask for each skill; (S,)."""
    asked = parameters.items.skills[offered]
    return np.bincount(asked[asked >= 0], minlength=parameters.skills.count)


def _best_branch(parameters: Parameters, offered: Booleans, code: int, skills: Booleans, value: Floats) -> _Branch:
    """Return the branch that practises the most valuable of some skills with an offered item."""
    skill = int(np.argmax(np.where(skills, value, -np.inf)))
    starts, members = parameters.items.by_skill
    items = members[starts[skill] : starts[skill + 1]]
    return _Branch(code, 0.0, skill, items[offered[items]])


def _items_for_skills(parameters: Parameters, offered: Booleans, skills: Booleans) -> Integers:
    """Return the offered items that ask for one of some skills."""
    asked = parameters.items.skills
    return np.flatnonzero(offered & (skills[asked] & (asked >= 0)).any(axis=1))


def _assign_shares(criteria: SelectionCriteria, branches: Sequence[_Branch], items: Integers) -> tuple[_Branch, ...]:
    """Assign the probabilities: to explore `items`, then to review if that is the first of two, then to the usual."""
    left, result = 1.0, []
    if criteria.explore:
        result.append(_Branch(EXPLORE, criteria.explore, -1, items))
        left = 1 - criteria.explore
    for branch in branches:
        share = left * criteria.review if branch.code == REVIEW else left
        result.append(replace(branch, share=share))
        left -= share
    return tuple(branch for branch in result if branch.share > 0)


def _reason_for_nothing(
    parameters: Parameters, states: States, skill_status: SkillStatus, allowed: Booleans, criteria: SelectionCriteria
) -> int:
    """Return the code for a learner to whom nothing can be offered."""
    if criteria.goal is not None:
        reached = criteria.goal.size and not goal_skills(parameters, states, criteria.goal, criteria.target)[0].any()
        return GOAL_REACHED if reached else NOTHING_ELIGIBLE
    asked = _items_per_skill(parameters, allowed) > 0
    if criteria.skills is not None:
        asked &= criteria.skills
    done = asked.any() and (skill_status.mastered[0] | ~asked).all()
    return ALL_MASTERED if done else NOTHING_ELIGIBLE


def draw_branch(branches: Sequence[_Branch], seeds: Seeds) -> int:
    """Return the index of the branch that the seed of one learner selects."""
    ends = np.cumsum([branch.share for branch in branches])
    return min(int(np.searchsorted(ends, uniform(seeds, WHICH_BRANCH)[0], side="right")), len(branches) - 1)


def draw_item(parameters: Parameters, states: States, seeds: Seeds, branch: _Branch) -> int:
    """Return the item that one learner gets in a branch: any of them, or the best."""
    if branch.code == EXPLORE:
        return int(branch.items[int(uniform(seeds, WHICH_ITEM)[0] * len(branch.items))])
    learners = np.zeros(len(branch.items), dtype=np.int64)
    score = add_jitter(score_items(parameters, states, learners, branch.items).score, seeds[learners], branch.items)
    return int(branch.items[np.argmin(score)])


def item_propensity(parameters: Parameters, states: States, branches: Sequence[_Branch], item: int) -> float:
    """Return the probability that one learner gets an item, over all branches."""
    total = 0.0
    for branch in branches:
        index = np.flatnonzero(branch.items == item)
        if not index.size:
            continue
        if branch.code == EXPLORE:
            total += branch.share / len(branch.items)
        else:
            learners = np.zeros(len(branch.items), dtype=np.int64)
            score = score_items(parameters, states, learners, branch.items).score
            total += branch.share * float(propensities(score, learners, index)[0])
    return min(total, 1.0)


def most_valuable_skill(parameters: Parameters, skill_status: SkillStatus, eligible: Booleans, item: int) -> int:
    """Return the most valuable of the requested skills that an item asks for; -1 if it asks for none."""
    asked = parameters.items.skills[item]
    asked = asked[asked >= 0]
    asked = asked[eligible[asked]]
    return int(asked[np.argmax(skill_status.value[0, asked])]) if asked.size else -1
