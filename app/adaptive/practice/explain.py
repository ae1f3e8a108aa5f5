"""Why an exercise was not chosen: the first obstacle, and its own terms beside those of the choice."""

from dataclasses import dataclass

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers, Seeds
from app.adaptive.parameters import Parameters
from app.adaptive.practice.branches import (
    EXPLORE,
    REVIEW,
    Branches,
    SelectionCriteria,
    open_skills,
    plan_branches,
)
from app.adaptive.practice.choose import Choices, build_choices
from app.adaptive.practice.items import add_jitter, score_items
from app.adaptive.practice.skills import SkillStatus, goal_skills, judge_skills
from app.adaptive.state import States

EXPLANATION_CODES = (
    "just_answered",
    "asks_for_no_skill",
    "outside_goal",
    "skill_mastered",
    "not_drawn",
    "item_ranks_lower",
    "review_first",
    "skill_rests",
    "skill_ranks_lower",
    "prerequisites_missing",
    "skill_secured",
    "skill_stuck",
)
(
    JUST_ANSWERED,
    ASKS_FOR_NO_SKILL,
    OUTSIDE_GOAL,
    SKILL_MASTERED,
    NOT_DRAWN,
    ITEM_RANKS_LOWER,
    REVIEW_FIRST,
    SKILL_RESTS,
    SKILL_RANKS_LOWER,
    PREREQUISITES_MISSING,
    SKILL_SECURED,
    SKILL_STUCK,
) = range(len(EXPLANATION_CODES))


@dataclass(frozen=True)
class Explanation:
    """Why an item was not chosen: a code, and the item with its terms as if it had been chosen.

    `rank` is its rank, or that of its skill, among `of` candidates with itself, if that decided; else 0.
    `missing` are the direct prerequisites of its skill that are not secured.
    """

    code: int
    item: Choices
    rank: int
    of: int
    missing: Integers


def explain(
    parameters: Parameters,
    states: States,
    seeds: Seeds,
    avoid: Integers,
    criteria: SelectionCriteria,
    choices: Choices,
    item: int,
) -> Explanation:
    """Return why `choices`, made of the same arguments for one learner, are not `item`, which no argument excludes."""
    chosen, last = int(choices.item[0]), int(states.last_item[0])
    spared = last if chosen >= 0 and last != chosen else -1
    skill_status = judge_skills(parameters, states)
    plan = plan_branches(
        parameters, states, skill_status, np.union1d(avoid, [last]) if spared >= 0 else avoid, criteria
    )
    asked = _skills_asked(parameters, criteria, item)
    code, meant = _find_obstacle(parameters, states, skill_status, criteria, asked, choices)
    if item == spared:
        code = JUST_ANSWERED
    rivals, by = _rival_skills(parameters, states, skill_status, criteria, choices)
    skill = int(np.argmax(np.where(meant, by, -np.inf))) if meant.any() else -1
    rank, of = 0, 0
    if code == ITEM_RANKS_LOWER:
        rank, of = _rank_of_item(parameters, states, seeds, plan, choices, item)
    elif code == SKILL_RANKS_LOWER:
        rank, of = _rank_of_skill(by, rivals & plan.eligible, skill)
    missing = (
        _missing_prerequisites(parameters, skill_status, skill) if code == PREREQUISITES_MISSING else np.empty(0, int)
    )
    named = choices.code.copy(), np.array([skill]), np.array([item])
    item_scores = score_items(parameters, states, np.array([0]), named[2], named[1])
    return Explanation(
        code, build_choices(parameters, states, skill_status, named, item_scores, np.zeros(1)), rank, of, missing
    )


def _skills_asked(parameters: Parameters, criteria: SelectionCriteria, item: int) -> Booleans:
    """Return the skills that an item asks for, of those in question; (S,)."""
    asked = np.zeros(parameters.skills.count, dtype=np.bool_)
    skills = parameters.items.skills[item]
    asked[skills[skills >= 0]] = True
    return asked if criteria.skills is None else asked & criteria.skills


def _find_obstacle(
    parameters: Parameters,
    states: States,
    skill_status: SkillStatus,
    criteria: SelectionCriteria,
    asked: Booleans,
    choices: Choices,
) -> tuple[int, Booleans]:
    """Return the code of what held back an item that asks for these skills, and the skills it is about."""
    if not len(parameters.items.by_skill[1]):
        return (NOT_DRAWN if int(choices.code[0]) == EXPLORE else ITEM_RANKS_LOWER), asked
    if not asked.any():
        return ASKS_FOR_NO_SKILL, asked
    if criteria.goal is not None:
        lacking, needed = goal_skills(parameters, states, criteria.goal, criteria.target)
        if not (asked & (lacking | needed)).any():
            return OUTSIDE_GOAL, asked
    skills = open_skills(parameters, states, skill_status, criteria)
    rivals, _ = _rival_skills(parameters, states, skill_status, criteria, choices)
    in_question = asked & (skills.doable[0] | skills.unfinished[0] | rivals)
    if not in_question.any():
        return SKILL_MASTERED, asked
    return _find_preferred(skill_status, criteria, in_question, rivals, choices)


def _find_preferred(
    skill_status: SkillStatus, criteria: SelectionCriteria, in_question: Booleans, rivalling: Booleans, choices: Choices
) -> tuple[int, Booleans]:
    """Return the code of what was preferred to an item that asks for these skills, and the skills it is about."""
    skill = int(choices.skill[0])
    if int(choices.code[0]) == EXPLORE:
        return NOT_DRAWN, in_question
    if skill >= 0 and in_question[skill]:
        return ITEM_RANKS_LOWER, np.arange(len(in_question)) == skill
    if int(choices.code[0]) == REVIEW:
        return REVIEW_FIRST, in_question
    return _find_outranking(skill_status, criteria, in_question & rivalling, in_question)


def _rival_skills(
    parameters: Parameters, states: States, skill_status: SkillStatus, criteria: SelectionCriteria, choices: Choices
) -> tuple[Booleans, Floats]:
    """Return the skills among which the one of a choice was chosen, and by which value; both (S,)."""
    skills, skill = open_skills(parameters, states, skill_status, criteria), int(choices.skill[0])
    if skill >= 0 and skills.doable[0, skill]:
        return skills.doable[0], skill_status.value[0]
    if skill < 0 or skills.unfinished[0, skill]:
        return skills.unfinished[0], skill_status.urgency[0]
    return skills.finished[0] if skills.unfinished.any() else skills.fading[0], skill_status.need[0]


def _find_outranking(
    skill_status: SkillStatus, criteria: SelectionCriteria, rivalling: Booleans, in_question: Booleans
) -> tuple[int, Booleans]:
    """Return why none of some skills was practised, and the skills that is about."""
    if rivalling.any():
        rested = rivalling.copy()
        rested[[] if criteria.resting is None else criteria.resting] = False
        if not rested.any():
            return SKILL_RESTS, rivalling
        awake = rested & ~skill_status.resting[0]
        return (SKILL_RANKS_LOWER, awake) if awake.any() else (SKILL_STUCK, rested)
    not_ready = in_question & (skill_status.ready[0] < 1)
    return (PREREQUISITES_MISSING, not_ready) if not_ready.any() else (SKILL_SECURED, in_question)


def _rank_of_item(
    parameters: Parameters, states: States, seeds: Seeds, plan: Branches, choices: Choices, item: int
) -> tuple[int, int]:
    """Return the rank of an item among all of the branch in which another was chosen, and how many these are."""
    branch = next(branch for branch in plan.branches if branch.code == int(choices.code[0]))
    learners = np.zeros(len(branch.items), dtype=np.int64)
    skill = np.full(len(branch.items), branch.skill)
    score = score_items(parameters, states, learners, branch.items, skill).score
    score = add_jitter(score, seeds[learners], branch.items)
    index = int(np.flatnonzero(branch.items == item)[0])
    ahead = (score < score[index]) | ((score == score[index]) & (np.arange(len(score)) < index))
    return int(ahead.sum()) + 1, len(score)


def _rank_of_skill(value: Floats, among: Booleans, skill: int) -> tuple[int, int]:
    """Return the rank of a skill among some, the most valuable first, and how many these are."""
    ahead = among & ((value > value[skill]) | ((value == value[skill]) & (np.arange(len(value)) < skill)))
    return int(ahead.sum()) + 1, int(among.sum())


def _missing_prerequisites(parameters: Parameters, skill_status: SkillStatus, skill: int) -> Integers:
    """Return the direct prerequisites of a skill that hold it up."""
    named = parameters.skills.prerequisites[skill]
    named = named[named >= 0]
    return np.asarray(named[~skill_status.secured[0, named] & (parameters.item_counts[named] > 0)])
