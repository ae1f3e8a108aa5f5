"""Why an exercise was not the one chosen: what held it back first, and its own terms beside those of the choice."""

from dataclasses import dataclass

import numpy as np

from app.adaptive.policy import (
    EXPLORE,
    PRACTISE,
    REVIEW,
    Aim,
    Choices,
    Plan,
    Standing,
    goal_skills,
    noisy,
    open_skills,
    plan_ways,
    stand,
    tell,
    weigh,
)
from app.adaptive.types import Booleans, Floats, Integers, Parameters, Seeds, States

OBJECTIONS = (
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
    "skill_settled",
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
    SKILL_SETTLED,
) = range(len(OBJECTIONS))


@dataclass(frozen=True)
class Objection:
    """What speaks against an item: a code, and the item with its terms as if it had been chosen.

    `rank` is its place, or that of its skill, among `of` others and itself, where that is what decided; else 0.
    `missing` are the direct prerequisites of its skill that are not settled.
    """

    code: int
    item: Choices
    rank: int
    of: int
    missing: Integers


def object_to(
    parameters: Parameters, states: States, seeds: Seeds, avoid: Integers, aim: Aim, choices: Choices, item: int
) -> Objection:
    """Why `choices`, made of the same arguments for one learner, are not `item`, which nothing of them excludes."""
    chosen, last = int(choices.item[0]), int(states.last_item[0])
    spared = last if chosen >= 0 and last != chosen else -1
    standing = stand(parameters, states)
    plan = plan_ways(parameters, states, standing, np.union1d(avoid, [last]) if spared >= 0 else avoid, aim)
    asked = skills_asked(parameters, aim, item)
    code, meant = ruled_out(parameters, states, standing, aim, asked, choices)
    if item == spared:
        code = JUST_ANSWERED
    by = standing.value[0] if int(choices.code[0]) == PRACTISE else standing.doubt[0]
    skill = int(np.argmax(np.where(meant, by, -np.inf))) if meant.any() else -1
    rank, of = 0, 0
    if code == ITEM_RANKS_LOWER:
        rank, of = rank_of_item(parameters, states, seeds, plan, choices, item)
    elif code == SKILL_RANKS_LOWER:
        rank, of = rank_of_skill(by, rivals(parameters, states, standing, aim, choices) & plan.wanted, skill)
    missing = missing_prerequisites(parameters, standing, skill) if code == PREREQUISITES_MISSING else np.empty(0, int)
    named = choices.code.copy(), np.array([skill]), np.array([item])
    suits = weigh(parameters, states, np.array([0]), named[2])
    return Objection(code, tell(parameters, states, standing, named, suits, np.zeros(1)), rank, of, missing)


def skills_asked(parameters: Parameters, aim: Aim, item: int) -> Booleans:
    """The skills that an item asks for, of those in question; (S,)."""
    asked = np.zeros(parameters.skills.count, dtype=np.bool_)
    skills = parameters.items.skills[item]
    asked[skills[skills >= 0]] = True
    return asked if aim.skills is None else asked & aim.skills


def ruled_out(
    parameters: Parameters, states: States, standing: Standing, aim: Aim, asked: Booleans, choices: Choices
) -> tuple[int, Booleans]:
    """What held back an item that asks for these skills, and the skills of which that is said."""
    if not len(parameters.items.by_skill[1]):
        return (NOT_DRAWN if int(choices.code[0]) == EXPLORE else ITEM_RANKS_LOWER), asked
    if not asked.any():
        return ASKS_FOR_NO_SKILL, asked
    if aim.goal is not None:
        lacking, needed = goal_skills(parameters, states, aim.goal, aim.target)
        if not (asked & (lacking | needed)).any():
            return OUTSIDE_GOAL, asked
    doable, unfinished = open_skills(parameters, states, standing, aim)
    in_question = asked & (doable | unfinished)
    if not in_question.any():
        return SKILL_MASTERED, asked
    return beaten(standing, aim, in_question, rivals(parameters, states, standing, aim, choices), choices)


def beaten(
    standing: Standing, aim: Aim, in_question: Booleans, rivalling: Booleans, choices: Choices
) -> tuple[int, Booleans]:
    """What went before an item that asks for these skills, and the skills of which that is said."""
    skill = int(choices.skill[0])
    if int(choices.code[0]) == EXPLORE:
        return NOT_DRAWN, in_question
    if skill >= 0 and in_question[skill]:
        return ITEM_RANKS_LOWER, np.arange(len(in_question)) == skill
    if int(choices.code[0]) == REVIEW:
        return REVIEW_FIRST, in_question
    return outranked(standing, aim, in_question & rivalling, in_question)


def rivals(parameters: Parameters, states: States, standing: Standing, aim: Aim, choices: Choices) -> Booleans:
    """The skills among which the one of a choice was the most valuable; (S,)."""
    doable, unfinished = open_skills(parameters, states, standing, aim)
    return doable if int(choices.code[0]) == PRACTISE else unfinished


def outranked(standing: Standing, aim: Aim, rivalling: Booleans, in_question: Booleans) -> tuple[int, Booleans]:
    """Why none of some skills was practised, and those of which that is said."""
    if rivalling.any():
        rested = rivalling.copy()
        rested[[] if aim.resting is None else aim.resting] = False
        return (SKILL_RANKS_LOWER, rested) if rested.any() else (SKILL_RESTS, rivalling)
    waiting = in_question & (standing.ready[0] < 1)
    return (PREREQUISITES_MISSING, waiting) if waiting.any() else (SKILL_SETTLED, in_question)


def rank_of_item(
    parameters: Parameters, states: States, seeds: Seeds, plan: Plan, choices: Choices, item: int
) -> tuple[int, int]:
    """The place of an item among all of the way in which another was chosen, and how many these are."""
    way = next(way for way in plan.ways if way.code == int(choices.code[0]))
    learners = np.zeros(len(way.items), dtype=np.int64)
    score = noisy(weigh(parameters, states, learners, way.items).score, seeds[learners], way.items)
    place = int(np.flatnonzero(way.items == item)[0])
    ahead = (score < score[place]) | ((score == score[place]) & (np.arange(len(score)) < place))
    return int(ahead.sum()) + 1, len(score)


def rank_of_skill(value: Floats, among: Booleans, skill: int) -> tuple[int, int]:
    """The place of a skill among some, the most valuable first, and how many these are."""
    ahead = among & ((value > value[skill]) | ((value == value[skill]) & (np.arange(len(value)) < skill)))
    return int(ahead.sum()) + 1, int(among.sum())


def missing_prerequisites(parameters: Parameters, standing: Standing, skill: int) -> Integers:
    """The direct prerequisites of a skill that hold it up."""
    named = parameters.skills.prerequisites[skill]
    named = named[named >= 0]
    return np.asarray(named[~standing.settled[0, named] & (parameters.item_counts[named] > 0)])
