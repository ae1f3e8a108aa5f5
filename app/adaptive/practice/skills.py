"""The status of every skill of every learner: mastered, secured, ready, in need of practice."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expm1

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.numerics import clip
from app.adaptive.parameters import Parameters
from app.adaptive.state import States
from app.adaptive.tracing.mastery import LEAST_RESPONSES, MASTERY_LINE, is_mastered, is_stuck

UNPRACTISED = 0.5
LEAST_PACE = 0.15
FADING = 0.2
SECURED = 0.8
# Where a skill is forgotten nearly as fast as it is learnt, right answers alone never lift it to that.
OF_CEILING = 0.85
STAY = 1.0
# Exercises on other skills before one that makes no progress is tried again.
REST = 5
LEAST = 1e-9


@dataclass(frozen=True)
class SkillStatus:
    """The status of every skill of every learner, each (B, S).

    `urgency` is the need by which skills are ranked where none is open: those whose prerequisites are missing come
    after the others, and those that rest last, the longest rested first. `fading` are mastered skills that are below
    the line they had to pass. `resting` is a skill on which practice made no progress (`stuck`), until there have been
    other exercises. `just_practised` are those of the last item.
    """

    unlocks: Floats
    need: Floats
    urgency: Floats
    ready: Floats
    secured: Booleans
    open: Booleans
    mastered: Booleans
    fading: Booleans
    stuck: Booleans
    resting: Booleans
    just_practised: Booleans
    value: Floats


def goal_skills(parameters: Parameters, states: States, goal: Integers, target: float) -> tuple[Booleans, Booleans]:
    """Return which skills of a goal one learner has not reached, and their prerequisites, direct or not; both (S,).

    Reached is a mastery of at least the target on enough answers, as in replies.
    """
    lacking = np.zeros(parameters.skills.count, dtype=np.bool_)
    lacking[goal] = True
    lacking &= (states.mastery[0] < target) | (states.responses[0] < LEAST_RESPONSES)
    return lacking, all_prerequisites(parameters, lacking)


def all_prerequisites(parameters: Parameters, skills: Booleans) -> Booleans:
    """Return the prerequisites of some skills (S,), direct or not; (S,)."""
    result = np.zeros_like(skills)
    starts, opened = parameters.skills.descendants
    opening = (starts[1:] != starts[:-1]).nonzero()[0]
    if opening.size:
        result[opening] = np.logical_or.reduceat(skills[opened], starts[opening])
    return result


def judge_skills(parameters: Parameters, states: States) -> SkillStatus:
    """Return the status of every skill of every learner."""
    skills = parameters.skills
    discounted_mastery = clip(states.mastery, 0.0, 1.0) * practice_discount(parameters, states.responses)
    idle = np.where(states.responses > 0, states.total_responses[:, None] - states.practised, 0)
    need = 1 - discounted_mastery * (expm1(-FADING * skills.p_forget * idle) + 1)
    unlocks = np.ones_like(discounted_mastery)
    starts, opened = skills.descendants
    opening = (starts[1:] != starts[:-1]).nonzero()[0]
    if opening.size:
        unlocks[:, opening] += np.add.reduceat(1 - discounted_mastery[:, opened], starts[opening], axis=1)
    secured = discounted_mastery >= secured_threshold(parameters)
    ready = _ready_share(parameters, secured)
    stuck = is_stuck(states)
    tired = _rest_left(states, stuck)
    just_practised = skills_of_last_item(parameters, states)
    # A level outweighs all that a skill can unlock; staying with a skill outweighs all levels, rest outweighs it.
    apart = skills.count + 1
    value = unlocks + apart * (STAY * apart * (just_practised - 2 * tired) - skills.depth)
    mastered = is_mastered(states)
    return SkillStatus(
        unlocks=unlocks,
        need=need,
        urgency=need - (ready < 1) - 2 * tired,
        ready=ready,
        secured=secured,
        open=~secured & (ready == 1),
        mastered=mastered,
        fading=mastered & (states.mastery < MASTERY_LINE),
        stuck=stuck,
        resting=tired > 0,
        just_practised=just_practised,
        value=value,
    )


def _rest_left(states: States, stuck: Booleans) -> Integers:
    """Return how many exercises on others a stuck skill rests for, and one more, 0 if it does not; (B, S)."""
    if not np.count_nonzero(stuck):
        return np.zeros(stuck.shape, dtype=np.int64)
    since = states.total_responses[:, None] - states.practised
    return stuck * (since < REST) * (1 + REST - since)


def practice_discount(parameters: Parameters, responses: Integers) -> Floats:
    """Return the share of its mastery with which each skill (S) counts after so many responses on it (…, S)."""
    practice = responses * np.maximum(parameters.skills.p_learn, LEAST_PACE)
    return np.asarray(1 - UNPRACTISED * (expm1(-practice) + 1))


def secured_threshold(parameters: Parameters) -> Floats:
    """Return the discounted mastery from which each skill is secured; (S,).

    Right responses alone lift a mastery to at least T / (T + F), so the threshold stays below that.
    """
    skills = parameters.skills
    return np.minimum(SECURED, OF_CEILING * skills.p_learn / np.maximum(skills.p_learn + skills.p_forget, LEAST))


def _ready_share(parameters: Parameters, secured: Booleans) -> Floats:
    """Return the share of secured direct prerequisites of each skill; one that no item asks for counts as secured."""
    prerequisites = parameters.skills.prerequisites
    satisfied = secured | (parameters.item_counts == 0)
    met, total = np.zeros(secured.shape), np.maximum((prerequisites >= 0).sum(axis=1), 1)
    for index in range(prerequisites.shape[1]):
        met += satisfied[:, prerequisites[:, index]] & (prerequisites[:, index] >= 0)
    return np.where((prerequisites >= 0).any(axis=1), met / total, 1.0)


def skills_of_last_item(parameters: Parameters, states: States) -> Booleans:
    """Return which skills the last item asked for; (B, S)."""
    result = np.zeros(states.mastery.shape, dtype=np.bool_)
    last = parameters.items.skills[states.last_item] if parameters.items.count else np.empty((states.count, 0), int)
    for index in range(last.shape[1]):
        rows = np.flatnonzero((states.last_item >= 0) & (last[:, index] >= 0))
        result[rows, last[rows, index]] = True
    return result
