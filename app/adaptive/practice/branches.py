"""The branches to the next item that the options open, and which of them is taken."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from app.adaptive.arrays import Booleans, Integers, Seeds
from app.adaptive.hashing import uniform
from app.adaptive.parameters import Parameters
from app.adaptive.practice.items import add_jitter, propensities, score_items
from app.adaptive.practice.skills import SkillStatus, all_prerequisites, goal_skills
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
    "rest_skill",
    "retry_skill",
    "upkeep_skill",
)
(
    PRACTISE,
    STRENGTHEN,
    NO_SKILL,
    ALL_MASTERED,
    NOTHING_ELIGIBLE,
    REVIEW,
    EXPLORE,
    GOAL_REACHED,
    REST,
    RETRY,
    UPKEEP,
) = range(len(CODES))

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


class OpenSkills(NamedTuple):
    """Which skills of B learners may be practised, each (B, S).

    `doable` may come first, `unfinished` and `finished` are those that are and are not mastered or reached, and
    `fading` those to be kept up when nothing is left.
    """

    doable: Booleans
    unfinished: Booleans
    finished: Booleans
    fading: Booleans

    def limited_to(self, skills: Booleans) -> "OpenSkills":
        """Return those that are among some (S,) or (B, S)."""
        return OpenSkills(*(each & skills for each in self))


def plan_branches(
    parameters: Parameters, states: States, skill_status: SkillStatus, avoid: Integers, criteria: SelectionCriteria
) -> Branches:
    """List the branches of one learner with their probabilities; O(items)."""
    allowed = np.ones(parameters.items.count, dtype=np.bool_) if criteria.items is None else criteria.items
    offered = allowed.copy()
    offered[avoid] = False
    skills = open_skills(parameters, states, skill_status, criteria)
    if not len(parameters.items.by_skill[1]):
        restricted = criteria.skills is not None or criteria.goal is not None
        items = np.flatnonzero(offered & ~restricted)
        branches = _assign_shares(criteria, [_Branch(NO_SKILL, 0.0, -1, items)], items) if items.size else ()
        return Branches(NOTHING_ELIGIBLE, branches, skills.doable[0])
    available = skills.limited_to(_items_per_skill(parameters, offered) > 0)
    [skill], [code] = rank_skills(skill_status, OpenSkills(*(_without_resting(each, criteria) for each in available)))
    if skill < 0:
        reason = _reason_for_nothing(parameters, states, skill_status, allowed, criteria)
        return Branches(reason, (), np.zeros_like(available.doable[0]))
    usual = _practice_branch(parameters, offered, int(code), int(skill))
    eligible = (available.doable | available.unfinished)[0]
    if not eligible.any():
        eligible = available.fading[0]
    decayed = _without_resting(eligible & states.attained & ~is_mastered(states), criteria)[0]
    review = []
    if criteria.review and decayed.any():
        most_needed = int(np.argmax(np.where(decayed, skill_status.need[0], -np.inf)))
        review = [_practice_branch(parameters, offered, REVIEW, most_needed)]
    branches = _assign_shares(criteria, [*review, usual], _items_for_skills(parameters, offered, eligible))
    return Branches(usual.code, branches, eligible)


def open_skills(
    parameters: Parameters, states: States, skill_status: SkillStatus, criteria: SelectionCriteria
) -> OpenSkills:
    """Return which skills of one learner are in question, as requested; each (1, S)."""
    doable, unfinished, finished = skill_status.open, ~skill_status.mastered, skill_status.mastered
    fading = skill_status.fading
    if criteria.goal is not None:
        lacking, needed = goal_skills(parameters, states, criteria.goal, criteria.target)
        doable = (lacking & (skill_status.ready == 1)) | (needed & doable)
        unfinished = lacking | (needed & unfinished)
        named = np.isin(np.arange(parameters.skills.count), criteria.goal)
        finished = finished & ~unfinished & (named | all_prerequisites(parameters, named))
        fading = np.zeros_like(fading)
    skills = OpenSkills(doable, unfinished, finished, fading)
    return skills if criteria.skills is None else skills.limited_to(criteria.skills)


def rank_skills(skill_status: SkillStatus, skills: OpenSkills) -> tuple[Integers, Integers]:
    """Return the skill that each learner practises, -1 for none, and the code of the reason; both (B,).

    First come the open skills, then all that are not mastered; those on which practice makes no progress rest, and
    meanwhile a mastered one is kept up. Where everything is mastered, those that fade are kept up. The code is
    `RETRY` where practice of the skill has made no progress, and `REST` where others rest for its sake.
    """
    awake, unfinished = ~skill_status.resting, skills.unfinished
    left = np.asarray(unfinished.any(axis=1))
    groups = (
        (PRACTISE, skills.doable & awake, skill_status.value),
        (STRENGTHEN, unfinished & awake, skill_status.urgency),
        (UPKEEP, np.where(left[:, None], skills.finished, skills.fading), skill_status.need),
        (PRACTISE, skills.doable, skill_status.value),
        (STRENGTHEN, unfinished, skill_status.urgency),
    )
    rows, code = np.arange(len(left)), np.full(len(left), NOTHING_ELIGIBLE)
    skill = np.full(len(left), -1)
    for name, group, value in groups:
        some = group.any(axis=1) & (skill < 0)
        if np.count_nonzero(some):
            code[some] = name
            skill[some] = np.where(group, value, -np.inf)[some].argmax(axis=1)
        if np.count_nonzero(skill < 0) == 0:
            break
    if not np.count_nonzero(skill_status.stuck):
        return skill, code
    rests = (skill_status.resting & skill_status.just_practised).any(axis=1) | ((code == UPKEEP) & left)
    code = np.where((skill >= 0) & rests, REST, code)
    return skill, np.where((skill >= 0) & skill_status.stuck[rows, skill], RETRY, code)


def _without_resting(skills: Booleans, criteria: SelectionCriteria) -> Booleans:
    """Return the skills (1, S) but for the resting ones of the criteria, unless there is no other."""
    if criteria.resting is None:
        return skills
    others = skills.copy()
    others[:, criteria.resting] = False
    return others if others.any() else skills


def _items_per_skill(parameters: Parameters, offered: Booleans) -> Integers:
    """Count the offered items (I,) that ask for each skill; (S,)."""
    asked = parameters.items.skills[offered]
    return np.bincount(asked[asked >= 0], minlength=parameters.skills.count)


def _practice_branch(parameters: Parameters, offered: Booleans, code: int, skill: int) -> _Branch:
    """Return the branch that practises a skill with an offered item."""
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
    skill = np.full(len(branch.items), branch.skill)
    score = score_items(parameters, states, learners, branch.items, skill).score
    score = add_jitter(score, seeds[learners], branch.items)
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
            skill = np.full(len(branch.items), branch.skill)
            score = score_items(parameters, states, learners, branch.items, skill).score
            total += branch.share * float(propensities(score, learners, index)[0])
    return min(total, 1.0)


def most_valuable_skill(parameters: Parameters, skill_status: SkillStatus, eligible: Booleans, item: int) -> int:
    """Return the most valuable of the requested skills that an item asks for; -1 if it asks for none."""
    asked = parameters.items.skills[item]
    asked = asked[asked >= 0]
    asked = asked[eligible[asked]]
    return int(asked[np.argmax(skill_status.value[0, asked])]) if asked.size else -1
