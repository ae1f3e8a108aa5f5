"""Let simulated learners practise under a policy and count what it costs them to master a course in truth."""

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers, Seeds
from app.adaptive.parameters import Parameters
from app.adaptive.simulation.worlds import (
    ANSWER,
    CHOICE,
    LEARNT,
    SimulatedCourse,
    Truth,
    World,
    draw_uniform,
    is_ready,
    is_truly_mastered,
    start_learners,
    true_chance,
    undergo_exercise,
)
from app.adaptive.state import States
from app.adaptive.tracing.filter import advance_states, initial_states

# 15 of 16 skills.
ENOUGH = 0.9
MOST_EXERCISES = 700
LONG_STREAK = 5
# Who has reached the end leaves the batch, together with others: copying the rest costs time too.
LEAVING = 0.1
# Of plain knowledge tracing beside the engine: what items of middling difficulty have here.
GUESS, SLIP = 0.38, 0.25
PER_ANSWER = 0.62


@dataclass(frozen=True)
class PolicyView:
    """What a policy may look at: the engine's states of B learners, and numbers of chance.

    `traced` (B, S) is P(known) by plain knowledge tracing, `seeds` (B,) are new at every turn. The world, the course
    and the truth are for the oracle alone.
    """

    parameters: Parameters
    states: States
    traced: Floats
    seeds: Seeds
    world: World
    course: SimulatedCourse
    truth: Truth


@dataclass(frozen=True)
class PolicyOffer:
    """The next exercise of B learners, and whether the policy holds that they have mastered everything; both (B,)."""

    item: Integers
    done: Booleans


Policy = Callable[[PolicyView], PolicyOffer]


@dataclass(frozen=True)
class PracticeOutcome:
    """What became of L learners, each (L,), until 90 % of their skills were truly mastered.

    `exercises`, and whether the end was `reached` within the most there are; `streaks`: runs of five or more wrong
    answers; `wasted`: exercises on skills that were mastered, `early`: on skills with a prerequisite missing; `right`
    answers; `misled`: whether the policy held that all was mastered when less than 90 % was, and how many were `true`.
    """

    exercises: Integers
    reached: Booleans
    streaks: Integers
    wasted: Integers
    early: Integers
    right: Integers
    misled: Booleans
    true: Integers


@dataclass(frozen=True)
class _PracticeGroup:
    """The learners who go on: their places among all, what is true of them, and what is thought of them."""

    rows: Integers
    truth: Truth
    states: States
    traced: Floats
    run: Integers

    def __getitem__(self, rows: Booleans) -> "_PracticeGroup":
        """The chosen learners."""
        return _PracticeGroup(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def practise(
    world: World, course: SimulatedCourse, policy: Policy, seeds: Seeds, most: int = MOST_EXERCISES
) -> PracticeOutcome:
    """Let every learner (a seed) practise until 90 % of the skills are truly mastered, at most `most` exercises.

    The engine's states come from the `advance_states` of the service. A learner's outcome is the same in any batch.
    """
    parameters, count = course.parameters, len(seeds)
    outcome = PracticeOutcome(
        exercises=np.full(count, most),
        reached=np.zeros(count, dtype=np.bool_),
        streaks=np.zeros(count, dtype=np.int64),
        wasted=np.zeros(count, dtype=np.int64),
        early=np.zeros(count, dtype=np.int64),
        right=np.zeros(count, dtype=np.int64),
        misled=np.zeros(count, dtype=np.bool_),
        true=np.zeros(count, dtype=np.int64),
    )
    states = initial_states(parameters, count)
    group = _PracticeGroup(
        np.arange(count), start_learners(world, course, seeds), states, states.mastery.copy(), np.zeros(count, int)
    )
    for number in range(most + 1):
        group = _retire_learners(world, group, outcome, number)
        if number == most or not len(group.rows):
            break
        _practise_once(world, course, policy, seeds, group, outcome, number)
    return outcome


def _retire_learners(world: World, group: _PracticeGroup, outcome: PracticeOutcome, number: int) -> _PracticeGroup:
    """Note who has reached the end before this turn; those who go on, if it is worth sorting them out."""
    enough = is_truly_mastered(world, group.truth).mean(axis=1) >= ENOUGH
    fresh = group.rows[enough & ~outcome.reached[group.rows]]
    outcome.exercises[fresh] = number
    outcome.reached[fresh] = True
    over = outcome.reached[group.rows]
    return group[~over] if over.mean() > LEAVING or over.all() else group


def _practise_once(
    world: World,
    course: SimulatedCourse,
    policy: Policy,
    seeds: Seeds,
    group: _PracticeGroup,
    outcome: PracticeOutcome,
    number: int,
) -> None:
    """One exercise of everybody in the group, and what it did to them."""
    parameters, rows, everyone = course.parameters, group.rows, np.arange(len(group.rows))
    chance = np.floor(draw_uniform(seeds[rows], CHOICE, number) * 2.0**53).astype(np.uint64)
    offer = policy(PolicyView(parameters, group.states, group.traced, chance, world, course, group.truth))
    skill = parameters.items.skills[offer.item, 0]
    right = draw_uniform(seeds[rows], ANSWER, number) < true_chance(world, course, group.truth, everyone, offer.item)
    group.run[:] = np.where(right, 0, group.run + 1)
    _count_exercise(world, group, outcome, offer, skill, right)
    luck = draw_uniform(seeds[rows], LEARNT, number)
    undergo_exercise(world, course, group.truth, offer.item, right, luck)
    advance_states(parameters, group.states, offer.item, right.astype(np.float64), np.zeros(len(rows)))
    group.traced[everyone, skill] = _trace_knowledge(
        group.traced[everyone, skill], right, PER_ANSWER * parameters.skills.p_learn[skill]
    )


def _count_exercise(
    world: World, group: _PracticeGroup, outcome: PracticeOutcome, offer: PolicyOffer, skill: Integers, right: Booleans
) -> None:
    """Count an exercise, before it changes anybody, of those who have not reached the end."""
    rows, everyone = group.rows, np.arange(len(group.rows))
    counted = ~outcome.reached[rows]
    mastered = is_truly_mastered(world, group.truth)
    known = mastered[everyone, skill]
    outcome.wasted[rows] += known & counted
    outcome.early[rows] += ~is_ready(world, group.truth, everyone, skill) & ~known & counted
    outcome.right[rows] += right & counted
    outcome.streaks[rows] += (group.run == LONG_STREAK) & counted
    first = offer.done & counted & ~outcome.misled[rows]
    outcome.misled[rows[first]] = True
    outcome.true[rows[first]] = mastered[first].sum(axis=1)


def _trace_knowledge(prior: Floats, right: Booleans, p_learn: Floats) -> Floats:
    """One step of plain knowledge tracing (Corbett & Anderson 1995, equations 2 to 4)."""
    known, unknown = np.where(right, 1 - SLIP, SLIP), np.where(right, GUESS, 1 - GUESS)
    posterior = prior * known / (prior * known + (1 - prior) * unknown)
    return np.asarray(posterior + (1 - posterior) * p_learn)
