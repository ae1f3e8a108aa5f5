"""How many exercises are left until a goal is reached, by the engine's own rates: a rough count with an interval.

Every skill that is missing is taken for itself, with the mastery and the ability of now. At each mastery it is
practised with the one of its items that suits best, the answer comes as the engine predicts it, and moves the mastery
as `step` does; so the number of answers until it is high enough is the first passage time of a Markov chain, here on a
grid of logits. What is high enough for a prerequisite falls from answer to answer, as the discount does. The times of
the skills are added up as if they were independent, and so are their variances; what they have in common widens the
interval of the sum, which is that of a lognormal. Left out are days, an ability that moves, and prerequisites that
become doubtful again. How well this holds is measured in docs/models.md.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit, expm1, log1p

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.numerics import NORMAL_90, logit
from app.adaptive.parameters import Parameters
from app.adaptive.practice.items import DIAGNOSTICITY_WEIGHT, TARGET
from app.adaptive.practice.skills import goal_skills as skills_of_goal
from app.adaptive.practice.skills import judge_skills, practice_discount, secured_threshold
from app.adaptive.state import States
from app.adaptive.tracing.filter import logits_by_knowledge, measure_of_learning
from app.adaptive.tracing.likelihood import expected_score
from app.adaptive.tracing.mastery import LEAST_RESPONSES

# Their passage times take a second or so.
LARGEST_GOAL = 1000
LONGEST = 200
STEPS = 72
EDGE = 9.0
GRID = np.linspace(-EDGE, EDGE, STEPS)
# A goal that more than this share of chains have not reached after `LONGEST` answers has no forecast.
UNREACHED = 0.05
# The standard deviation of what all skills have in common, an ability misjudged above all, as a share of the mean.
COMMON = 0.25


@dataclass(frozen=True)
class _GoalForecast:
    """Exercises left to a goal: the mean, and the ends of the 90 % interval."""

    mean: float
    low: float
    high: float


def forecast(parameters: Parameters, states: States, goal: Integers, target: float) -> _GoalForecast | None:
    """Return the exercises left for one learner (the row of `states`) until each skill of `goal` has mastery `target`.

    None if the goal cannot be reached, as the engine's rates end below the target or a skill has no item, or if more
    than `LARGEST_GOAL` skills are left.
    """
    lacking, unsecured = _missing_skills(parameters, states, goal, target)
    needed_skills = lacking | unsecured
    skills = np.flatnonzero(needed_skills)
    if skills.size > LARGEST_GOAL or (parameters.item_counts[skills] == 0).any():
        return None
    if not skills.size:
        return _GoalForecast(0.0, 0.0, 0.0)
    lines = np.maximum(np.where(lacking, target, 0.0), np.where(unsecured, secured_lines(parameters, states), 0.0))
    mean, variance, reached = passage_times(parameters, states, skills, lines[:, skills])
    if not reached.all():
        return None
    share = _skill_shares(parameters)[skills]
    total = float(np.add.accumulate(mean * share)[-1])
    spread = float(np.add.accumulate(variance * share * share)[-1]) + COMMON * COMMON * total * total
    width = float(np.sqrt(log1p(spread / (total * total))))
    middle = total / float(np.sqrt(1 + spread / (total * total)))
    return _GoalForecast(
        total, middle * float(expm1(-NORMAL_90 * width) + 1), middle * float(expm1(NORMAL_90 * width) + 1)
    )


def _missing_skills(parameters: Parameters, states: States, goal: Integers, target: float) -> tuple[Booleans, Booleans]:
    """Return which skills a goal lacks, and which have to be secured for these and can be; both (S,)."""
    lacking, needed = skills_of_goal(parameters, states, goal, target)
    secured = judge_skills(parameters, states).secured[0]
    return lacking, needed & ~secured & (parameters.item_counts > 0)


def secured_lines(parameters: Parameters, states: States) -> Floats:
    """Return the mastery from which each skill is secured after so many more answers on it; (LONGEST + 1, S)."""
    answers = states.responses[0] + np.arange(LONGEST + 1)[:, None]
    return secured_threshold(parameters) / practice_discount(parameters, answers)


def _skill_shares(parameters: Parameters) -> Floats:
    """Return the share of an exercise for each skill: the mean over its items of 1 / (number of their skills)."""
    asked = parameters.items.skills >= 0
    skills, count = parameters.items.skills[asked], parameters.skills.count
    total = np.bincount(skills, parameters.items.weights[asked], count)
    return np.asarray(total / np.maximum(np.bincount(skills, minlength=count), 1))


def passage_times(
    parameters: Parameters, states: States, skills: Integers, lines: Floats
) -> tuple[Floats, Floats, Booleans]:
    """Return mean and variance of the answers on each skill until its mastery is at its line, and whether it ever is.

    `lines` (LONGEST + 1, skills) is where a mastery has to be after so many more answers.
    """
    known, unknown = _scores_on_grid(parameters, states, skills)
    q = expit(GRID)
    right = q * known + (1 - q) * unknown
    p_learn, p_forget = parameters.skills.p_learn[skills, None], parameters.skills.p_forget[skills, None]
    after_right, after_wrong = q * known / right, q * (1 - known) / (1 - right)
    learnt = (1 - after_right) * p_learn * measure_of_learning(after_right)
    up, down = after_right * (1 - p_forget) + learnt, after_wrong * (1 - p_forget)
    up_location, down_location = _locate_on_grid(up), _locate_on_grid(down)
    begin, few = states.mastery[0, skills, None], LEAST_RESPONSES - states.responses[0, skills]
    going = _scatter(np.where(begin < lines[0, :, None], 1.0, 0.0), _locate_on_grid(begin))
    mean, square = np.zeros(len(skills)), np.zeros(len(skills))
    for answers in range(LONGEST):
        left = np.where(answers < few, 1.0, np.add.accumulate(going, axis=1)[:, -1])
        mean += left
        square += (2 * answers + 1) * left
        line = lines[answers + 1, :, None]
        going = _scatter(going * right * (up < line), up_location) + _scatter(
            going * (1 - right) * (down < line), down_location
        )
    return mean, np.maximum(square - mean * mean, 0.0), np.add.accumulate(going, axis=1)[:, -1] <= UNREACHED


def _scores_on_grid(parameters: Parameters, states: States, skills: Integers) -> tuple[Floats, Floats]:
    """Return the expected scores with and without each skill, on the item that would be chosen at each mastery."""
    starts, members = parameters.items.by_skill
    q = expit(GRID)
    known, unknown = np.empty((len(skills), STEPS)), np.empty((len(skills), STEPS))
    for row, skill in enumerate(skills.tolist()):
        items = members[starts[skill] : starts[skill + 1]]
        high, low = _expected_pair(parameters, states, skill, items)
        distance = np.abs(logit(q[:, None] * high + (1 - q[:, None]) * low) - logit(np.array(TARGET)))
        best = np.argmin(distance - DIAGNOSTICITY_WEIGHT * (high - low), axis=1)
        known[row], unknown[row] = high[best], low[best]
    return known, unknown


def _expected_pair(parameters: Parameters, states: States, skill: int, items: Integers) -> tuple[Floats, Floats]:
    """Return the expected scores of items if their skills are known and if not, at the present ability."""
    item_bank = parameters.items
    slope = item_bank.discrimination[items]
    mean = states.ability[0] + states.daily_effect[0] + states.skill_effect[0, skill]
    variance = states.ability_variance[0] + states.daily_effect_variance[0] + states.skill_effect_variance[0, skill]
    high, low = logits_by_knowledge(
        parameters, items, item_bank.intercept[items] + slope * mean, slope * slope * variance
    )
    return expected_score(item_bank, items, high), expected_score(item_bank, items, low)


def _locate_on_grid(q: Floats) -> tuple[Integers, Floats]:
    """Return the lower of the two grid points around each mastery, and the fraction of the way to the upper one."""
    x = np.clip((logit(np.clip(q, 1e-9, 1 - 1e-9)) + EDGE) / (2 * EDGE) * (STEPS - 1), 0, STEPS - 1)
    cell = np.minimum(x.astype(np.int64), STEPS - 2)
    return cell, x - cell


def _scatter(mass: Floats, location: tuple[Integers, Floats]) -> Floats:
    """Share out the mass at such positions to the two grid points around each (rows, …); (rows, STEPS)."""
    cell, share = location
    flat = (np.arange(len(mass))[:, None] * STEPS + cell).ravel()
    size = len(mass) * STEPS
    low = np.bincount(flat, (mass * (1 - share)).ravel(), size)
    return np.asarray(low + np.bincount(flat + 1, (mass * share).ravel(), size)).reshape(-1, STEPS)
