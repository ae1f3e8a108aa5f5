"""Which exercise comes next, and every term of the reason: first the skill, then the item (docs/models.md).

    trust_s = mastery (1 - .5 exp(-n max(T_s, .15)))       n answers on s; P(T_s) n is how much practice that is
    doubt_s = 1 - trust_s exp(-.2 F_s Δt_s)                Δt_s in answers, not days
    settled: trust ≥ .8;  open: unsettled, all prerequisites settled or without items
    V_s     = 1 + Σ over the skills it opens up of (1 - trust)
    skill   = the last item's while it is open, else of the open skills of the lowest level the one of greatest V_s
              none open → argmax doubt over the skills not mastered
    item    = of that skill, not the last one: the least |logit p - logit .62| - 2 (p_known - p_unknown) - .2 U(0, 1)

The constants were frozen on simulated learners (docs/simulation.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.special import expm1

from app.adaptive.filter import foresee, predict_with_gap
from app.adaptive.keys import GOLDEN, finalised
from app.adaptive.likelihood import bounded, logit
from app.adaptive.mastery import LEAST_EVIDENCE, MASTERY_LINE, is_mastered
from app.adaptive.types import Booleans, Floats, Integers, Parameters, Seeds, States

UNPRACTISED = 0.5
LEAST_PACE = 0.15
FADING = 0.2
SETTLED = 0.8
# Where a skill is forgotten nearly as fast as it is learnt, right answers alone never lift it to that.
OF_CEILING = 0.85
STAY = 1.0
TARGET = 0.62
TELLING = 2.0
JITTER = 0.2

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

# Numbers that no item has: which way to find an exercise, and which one of all.
WHICH_WAY, WHICH_ITEM = np.array([-1]), np.array([-2])

LEAST = 1e-9
# Candidates whose factors are multiplied at a time.
PIECE = 512
# 64-point Gauss-Legendre in s, where 1 - u = s³ (width): dense near u = 1, where a choice among very many is decided.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
NODES, WEIGHTS = ((NODES + 1) / 2) ** 3, 3 * ((NODES + 1) / 2) ** 2 * WEIGHTS / 2


class Choice(NamedTuple):
    """The exercise of one learner, as `Choices` has it for many, in plain numbers."""

    code: int
    skill: int
    item: int
    p: float
    propensity: float
    doubt: float
    opens_up: float
    learn: float
    challenge: float
    tells: float
    prerequisites: float


@dataclass(frozen=True)
class Choices:
    """One exercise for each of B learners; `item` and `skill` are -1 where there is none, `code` says why.

    `propensity` is the chance this item had, whichever way it was found. The other arrays are the terms of the reason.
    """

    code: Integers
    skill: Integers
    item: Integers
    p: Floats
    propensity: Floats
    doubt: Floats
    opens_up: Floats
    learn: Floats
    challenge: Floats
    tells: Floats
    prerequisites: Floats

    def __getitem__(self, rows: slice | Integers) -> "Choices":
        """Those of the chosen learners."""
        return Choices(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})

    def each(self) -> list[Choice]:
        """One after the other."""
        return [*map(Choice._make, zip(*(getattr(self, name).tolist() for name in Choice._fields), strict=True))]


@dataclass(frozen=True)
class Standing:
    """How every skill stands for every learner, each (B, S)."""

    opens_up: Floats
    doubt: Floats
    ready: Floats
    settled: Booleans
    open: Booleans
    mastered: Booleans
    value: Floats


@dataclass(frozen=True)
class Suits:
    """How items suit learners, all (N,): `score`, the least is best.

    `distance` of the chance of success from the one aimed at, in logits; `tells`: by how much those who know the skills
    are expected to score more than those who do not.
    """

    distance: Floats
    tells: Floats

    @property
    def score(self) -> Floats:
        """What decides, but for chance."""
        return self.distance - TELLING * self.tells

    def __getitem__(self, rows: Integers) -> "Suits":
        """Some of the pairs."""
        return Suits(self.distance[rows], self.tells[rows])


@dataclass(frozen=True)
class Aim:
    """What the next exercise of one learner is to be aimed at; by default at nothing in particular.

    Only `skills` (S,) are practised, with `items` (I,); none: all. `goal` lists skills to bring to `target`: then only
    these, and what they build on, as far as still needed. `resting` skills are passed over while there is another.
    With the chance `explore` any exercise that may be offered is drawn; else with the chance `review` a skill that has
    decayed comes first, if there is one.
    """

    skills: Booleans | None = None
    items: Booleans | None = None
    goal: Integers | None = None
    target: float = MASTERY_LINE
    resting: Integers | None = None
    review: float = 0.0
    explore: float = 0.0


@dataclass(frozen=True)
class Way:
    """A way to find an exercise, which is gone with the chance `share`: one of `items`, to practise `skill`.

    Where any of the items is drawn, the skill (-1) is told by the item.
    """

    code: int
    share: float
    skill: int
    items: Integers


@dataclass(frozen=True)
class Plan:
    """The ways there are for one learner; without any, `code` says why. `wanted` (S,) are the skills in question."""

    code: int
    ways: tuple[Way, ...]
    wanted: Booleans


def choose(
    parameters: Parameters,
    states: States,
    seeds: Seeds,
    avoid: Sequence[Integers] | None = None,
    aims: Sequence[Aim | None] | None = None,
) -> Choices:
    """The next exercise of each of B learners.

    `states` are those of the moment (see `fade`). `seeds` (B,) are the randomness: the same seed gives the same choice.
    `avoid` lists, for each learner, items not to offer; the last item is avoided too, unless nothing else is left.
    `aims` says for each learner what is wanted, none for nothing in particular.
    """
    shunned = np.empty((2, 0), dtype=np.int64) if avoid is None else pairs_of(avoid)
    aims = [None] * states.count if aims is None else aims
    seen = (states.last_item >= 0).nonzero()[0]
    last = np.array([seen, states.last_item[seen]])
    fresh = last if avoid is None else np.unique(np.concatenate([shunned, last], axis=1), axis=1)
    choices = choose_once(parameters, states, seeds, fresh, aims)
    stuck = np.flatnonzero(choices.code == NOTHING_ELIGIBLE)
    if stuck.size:
        some = [aims[row] for row in stuck.tolist()]
        again = choose_once(parameters, states[stuck], seeds[stuck], pairs_among(shunned, stuck), some)
        put_choices(choices, stuck, again)
    return choices


def pairs_of(avoid: Sequence[Integers]) -> Integers:
    """Pairs of learner and avoided item, each once and in order; (2, M)."""
    learners = np.repeat(np.arange(len(avoid)), [len(items) for items in avoid])
    items = np.concatenate(avoid) if learners.size else learners
    return np.asarray(np.unique(np.array([learners, items], dtype=np.int64), axis=1))


def pairs_among(pairs: Integers, rows: Integers) -> Integers:
    """The pairs of some learners, in order, who are counted anew; (2, M')."""
    place = np.searchsorted(rows, pairs[0])
    held = rows[np.minimum(place, len(rows) - 1)] == pairs[0] if len(rows) else np.zeros(len(place), dtype=np.bool_)
    return np.array([place[held], pairs[1, held]])


def put_choices(choices: Choices, rows: Integers, values: Choices) -> None:
    """Write the choices of some learners."""
    for name in Choices.__dataclass_fields__:
        getattr(choices, name)[rows] = getattr(values, name)


def choose_once(
    parameters: Parameters, states: States, seeds: Seeds, avoid: Integers, aims: Sequence[Aim | None]
) -> Choices:
    """`choose` with nothing avoided but the pairs `avoid`: all without an aim at once, and each of the others."""
    aimed = [row for row, aim in enumerate(aims) if aim is not None]
    if not aimed:
        return choose_plainly(parameters, states, seeds, avoid)
    plain = [row for row, aim in enumerate(aims) if aim is None]
    rows = np.array(plain, dtype=np.int64)
    part = choose_plainly(parameters, states[rows], seeds[rows], pairs_among(avoid, rows))
    empty = {name: np.empty(states.count, getattr(part, name).dtype) for name in Choices.__dataclass_fields__}
    choices = Choices(**empty)
    put_choices(choices, rows, part)
    for row in aimed:
        only, aim = slice(row, row + 1), aims[row]
        if aim is not None:
            found = choose_aimed(parameters, states[only], seeds[only], avoid[1, avoid[0] == row], aim)
            put_choices(choices, np.array([row]), found)
    return choices


def choose_plainly(parameters: Parameters, states: States, seeds: Seeds, avoid: Integers) -> Choices:
    """The skill that is most worth it, and the item that suits best, for each of B learners."""
    standing = stand(parameters, states)
    available = count_available(parameters, states.count, avoid)
    skill, code = choose_skill(parameters, states, standing, available > 0)
    learners, candidates = list_candidates(parameters, skill, code, avoid)
    suits = weigh(parameters, states, learners, candidates)
    score = suits.score
    chosen = first_smallest(noisy(score, seeds[learners], candidates), learners, states.count)
    picked = chosen[chosen >= 0]
    code[(chosen < 0) & (code != ALL_MASTERED)] = NOTHING_ELIGIBLE
    item = np.full(states.count, -1, dtype=np.int64)
    item[chosen >= 0] = candidates[picked]
    propensity = chances(score, learners, picked)
    return tell(parameters, states, standing, (code, np.where(chosen >= 0, skill, -1), item), suits[picked], propensity)


def tell(
    parameters: Parameters,
    states: States,
    standing: Standing,
    chosen: tuple[Integers, Integers, Integers],
    suits: Suits,
    propensity: Floats,
) -> Choices:
    """The choices with their terms. `chosen` are code, skill and item of each learner, -1 where there is none.

    `suits` and `propensity` are those of the learners who have an item.
    """
    code, skill, item = chosen
    has, named = np.flatnonzero(item >= 0), np.flatnonzero(skill >= 0)
    rows = skill[named]

    def of_skill(values: Floats) -> Floats:
        result = np.zeros(states.count)
        result[named] = values[named, rows]
        return result

    def of_item(values: Floats) -> Floats:
        result = np.zeros(states.count)
        result[has] = values
        return result

    return Choices(
        code=code,
        skill=skill,
        item=item,
        p=of_item(foresee(parameters, states, has, item[has])),
        propensity=of_item(propensity),
        doubt=of_skill(standing.doubt),
        opens_up=of_skill(standing.opens_up),
        learn=of_skill(np.broadcast_to(parameters.skills.learn, standing.doubt.shape)),
        challenge=of_item(expm1(-suits.distance) + 1),
        tells=of_item(suits.tells),
        prerequisites=of_skill(standing.ready),
    )


def weigh(parameters: Parameters, states: States, learners: Integers, items: Integers) -> Suits:
    """How each of N items suits a learner; all (N,)."""
    p, tells = predict_with_gap(parameters, states, learners, items)
    return Suits(np.abs(logit(p) - logit(np.array(TARGET))), tells)


def noisy(score: Floats, seeds: Seeds, items: Integers) -> Floats:
    """The score with the luck of each item: the least one is chosen."""
    return score - JITTER * uniform(seeds, items)


def choose_aimed(parameters: Parameters, states: States, seeds: Seeds, avoid: Integers, aim: Aim) -> Choices:
    """The next exercise of one learner, as it is wanted."""
    standing = stand(parameters, states)
    plan = plan_ways(parameters, states, standing, avoid, aim)
    code, skill, item = np.array([plan.code]), np.array([-1]), np.array([-1])
    suits, propensity = Suits(np.empty(0), np.empty(0)), np.empty(0)
    if plan.ways:
        way = plan.ways[draw_way(plan.ways, seeds)]
        code[0], skill[0] = way.code, way.skill
        item[0] = draw_item(parameters, states, seeds, way)
        if way.code == EXPLORE:
            skill[0] = skill_of(parameters, standing, plan.wanted, int(item[0]))
        suits = weigh(parameters, states, np.array([0]), item)
        propensity = np.array([chance_of(parameters, states, plan.ways, int(item[0]))])
    return tell(parameters, states, standing, (code, skill, item), suits, propensity)


def plan_ways(parameters: Parameters, states: States, standing: Standing, avoid: Integers, aim: Aim) -> Plan:
    """What may be offered to one learner, and with which chance in which way; O(items)."""
    allowed = np.ones(parameters.items.count, dtype=np.bool_) if aim.items is None else aim.items
    offered = allowed.copy()
    offered[avoid] = False
    doable, unfinished = open_skills(parameters, states, standing, aim)
    if not len(parameters.items.by_skill[1]):
        restricted = aim.skills is not None or aim.goal is not None
        items = np.flatnonzero(offered & ~restricted)
        ways = shared(aim, [Way(NO_SKILL, 0.0, -1, items)], items) if items.size else ()
        return Plan(NOTHING_ELIGIBLE, ways, doable)
    available = items_per_skill(parameters, offered) > 0
    wanted = (doable | unfinished) & available
    found = [
        (PRACTISE, rested(doable & available, aim), standing.value[0]),
        (STRENGTHEN, rested(unfinished & available, aim), standing.doubt[0]),
    ]
    usual = [best_way(parameters, offered, *each) for each in found if each[1].any()][:1]
    if not usual:
        return Plan(why_nothing(parameters, states, standing, allowed, aim), (), wanted)
    decayed = rested(wanted & states.attained[0] & ~is_mastered(states.mastery, states.evidence)[0], aim)
    review = [best_way(parameters, offered, REVIEW, decayed, standing.doubt[0])] if aim.review and decayed.any() else []
    return Plan(usual[0].code, shared(aim, review + usual, items_of(parameters, offered, wanted)), wanted)


def open_skills(parameters: Parameters, states: States, standing: Standing, aim: Aim) -> tuple[Booleans, Booleans]:
    """Which skills of one learner may be practised first, and which are not finished, as far as wanted; both (S,)."""
    doable, unfinished = standing.open[0], ~standing.mastered[0]
    if aim.goal is not None:
        lacking, needed = goal_skills(parameters, states, aim.goal, aim.target)
        doable = (lacking & (standing.ready[0] == 1)) | (needed & doable)
        unfinished = lacking | (needed & unfinished)
    if aim.skills is not None:
        doable, unfinished = doable & aim.skills, unfinished & aim.skills
    return doable, unfinished


def goal_skills(parameters: Parameters, states: States, goal: Integers, target: float) -> tuple[Booleans, Booleans]:
    """Which skills of a goal one learner has not reached, and what these build on, directly or not; both (S,).

    Reached is a mastery of at least the target on enough answers, as it is told.
    """
    lacking = np.zeros(parameters.skills.count, dtype=np.bool_)
    lacking[goal] = True
    lacking &= (states.mastery[0] < target) | (states.evidence[0] < LEAST_EVIDENCE)
    needed = np.zeros_like(lacking)
    starts, opened = parameters.skills.descendants
    opening = (starts[1:] != starts[:-1]).nonzero()[0]
    if opening.size:
        needed[opening] = np.logical_or.reduceat(lacking[opened], starts[opening])
    return lacking, needed


def rested(skills: Booleans, aim: Aim) -> Booleans:
    """The skills but for those that are to rest, unless there is no other."""
    if aim.resting is None:
        return skills
    others = skills.copy()
    others[aim.resting] = False
    return others if others.any() else skills


def items_per_skill(parameters: Parameters, offered: Booleans) -> Integers:
    """How many of the offered items (I,) ask for each skill; (S,)."""
    asked = parameters.items.skills[offered]
    return np.bincount(asked[asked >= 0], minlength=parameters.skills.count)


def best_way(parameters: Parameters, offered: Booleans, code: int, skills: Booleans, value: Floats) -> Way:
    """To practise the most valuable of some skills with an item that is offered."""
    skill = int(np.argmax(np.where(skills, value, -np.inf)))
    starts, members = parameters.items.by_skill
    items = members[starts[skill] : starts[skill + 1]]
    return Way(code, 0.0, skill, items[offered[items]])


def items_of(parameters: Parameters, offered: Booleans, skills: Booleans) -> Integers:
    """The offered items that ask for one of some skills."""
    asked = parameters.items.skills
    return np.flatnonzero(offered & (skills[asked] & (asked >= 0)).any(axis=1))


def shared(aim: Aim, ways: Sequence[Way], items: Integers) -> tuple[Way, ...]:
    """The ways with their chances: to explore `items`, then to review if that is the first of two, then the usual."""
    left, result = 1.0, []
    if aim.explore:
        result.append(Way(EXPLORE, aim.explore, -1, items))
        left = 1 - aim.explore
    for way in ways:
        share = left * aim.review if way.code == REVIEW else left
        result.append(replace(way, share=share))
        left -= share
    return tuple(way for way in result if way.share > 0)


def why_nothing(parameters: Parameters, states: States, standing: Standing, allowed: Booleans, aim: Aim) -> int:
    """The code for a learner to whom nothing can be offered."""
    if aim.goal is not None:
        reached = aim.goal.size and not goal_skills(parameters, states, aim.goal, aim.target)[0].any()
        return GOAL_REACHED if reached else NOTHING_ELIGIBLE
    asked = items_per_skill(parameters, allowed) > 0
    if aim.skills is not None:
        asked &= aim.skills
    done = asked.any() and (standing.mastered[0] | ~asked).all()
    return ALL_MASTERED if done else NOTHING_ELIGIBLE


def draw_way(ways: Sequence[Way], seeds: Seeds) -> int:
    """The place of the way that the randomness of one learner takes."""
    ends = np.cumsum([way.share for way in ways])
    return min(int(np.searchsorted(ends, uniform(seeds, WHICH_WAY)[0], side="right")), len(ways) - 1)


def draw_item(parameters: Parameters, states: States, seeds: Seeds, way: Way) -> int:
    """The item that one learner gets in a way: any of them, or the one that suits best."""
    if way.code == EXPLORE:
        return int(way.items[int(uniform(seeds, WHICH_ITEM)[0] * len(way.items))])
    learners = np.zeros(len(way.items), dtype=np.int64)
    score = noisy(weigh(parameters, states, learners, way.items).score, seeds[learners], way.items)
    return int(way.items[np.argmin(score)])


def chance_of(parameters: Parameters, states: States, ways: Sequence[Way], item: int) -> float:
    """The chance that one learner gets an item, in whichever way."""
    total = 0.0
    for way in ways:
        place = np.flatnonzero(way.items == item)
        if not place.size:
            continue
        if way.code == EXPLORE:
            total += way.share / len(way.items)
        else:
            learners = np.zeros(len(way.items), dtype=np.int64)
            score = weigh(parameters, states, learners, way.items).score
            total += way.share * float(chances(score, learners, place)[0])
    return min(total, 1.0)


def skill_of(parameters: Parameters, standing: Standing, wanted: Booleans, item: int) -> int:
    """The most valuable of the wanted skills that an item asks for; -1 if it asks for none."""
    asked = parameters.items.skills[item]
    asked = asked[asked >= 0]
    asked = asked[wanted[asked]]
    return int(asked[np.argmax(standing.value[0, asked])]) if asked.size else -1


def stand(parameters: Parameters, states: States) -> Standing:
    """Judge every skill of every learner."""
    skills = parameters.skills
    trust = bounded(states.mastery, 0.0, 1.0) * earned(parameters, states.evidence)
    idle = np.where(states.evidence > 0, states.answers[:, None] - states.practised, 0)
    doubt = 1 - trust * (expm1(-FADING * skills.forget * idle) + 1)
    opens_up = np.ones_like(trust)
    starts, opened = skills.descendants
    opening = (starts[1:] != starts[:-1]).nonzero()[0]
    if opening.size:
        opens_up[:, opening] += np.add.reduceat(1 - trust[:, opened], starts[opening], axis=1)
    settled = trust >= settled_from(parameters)
    ready = ready_share(parameters, settled)
    # A level weighs more than all that a skill can open up, staying with a skill more than all levels.
    apart = skills.count + 1
    value = opens_up + apart * (STAY * apart * of_last_item(parameters, states) - skills.levels)
    mastered = is_mastered(states.mastery, states.evidence)
    return Standing(opens_up, doubt, ready, settled, ~settled & (ready == 1), mastered, value)


def earned(parameters: Parameters, evidence: Integers) -> Floats:
    """The share of its mastery to which each skill (S) is trusted after so many answers on it (…, S)."""
    practice = evidence * np.maximum(parameters.skills.learn, LEAST_PACE)
    return np.asarray(1 - UNPRACTISED * (expm1(-practice) + 1))


def settled_from(parameters: Parameters) -> Floats:
    """The trust from which each skill is settled; (S,). Who is always right comes to T / (T + F) at least."""
    skills = parameters.skills
    return np.minimum(SETTLED, OF_CEILING * skills.learn / np.maximum(skills.learn + skills.forget, LEAST))


def ready_share(parameters: Parameters, settled: Booleans) -> Floats:
    """The share of each skill's direct prerequisites that are settled; one that no item asks for cannot hold it up."""
    prerequisites = parameters.skills.prerequisites
    satisfied = settled | (parameters.item_counts == 0)
    met, total = np.zeros(settled.shape), np.maximum((prerequisites >= 0).sum(axis=1), 1)
    for place in range(prerequisites.shape[1]):
        met += satisfied[:, prerequisites[:, place]] & (prerequisites[:, place] >= 0)
    return np.where((prerequisites >= 0).any(axis=1), met / total, 1.0)


def of_last_item(parameters: Parameters, states: States) -> Booleans:
    """Which skills the last item asked for; (B, S)."""
    result = np.zeros(states.mastery.shape, dtype=np.bool_)
    last = parameters.items.skills[states.last_item] if parameters.items.count else np.empty((states.count, 0), int)
    for place in range(last.shape[1]):
        rows = np.flatnonzero((states.last_item >= 0) & (last[:, place] >= 0))
        result[rows, last[rows, place]] = True
    return result


def count_available(parameters: Parameters, learners: int, avoid: Integers) -> Integers:
    """The number of items of each skill that each learner does not avoid; (B, S). `avoid` are pairs, (2, M)."""
    available = np.broadcast_to(parameters.item_counts, (learners, parameters.skills.count)).copy()
    rows, skills = avoid[0], parameters.items.skills[avoid[1]]
    for place in range(skills.shape[1]):
        held = (skills[:, place] >= 0).nonzero()[0]
        np.subtract.at(available, (rows[held], skills[held, place]), 1)
    return available


def choose_skill(
    parameters: Parameters, states: States, standing: Standing, available: Booleans
) -> tuple[Integers, Integers]:
    """The skill of each learner and the code of the reason; both (B,)."""
    count = states.count
    if not len(parameters.items.by_skill[1]):
        return np.full(count, -1), np.full(count, NO_SKILL)
    candidates = standing.open & available
    rows = np.arange(count)
    best = np.argmax(np.where(candidates, standing.value, -np.inf), axis=1)
    code = np.where(candidates[rows, best], PRACTISE, STRENGTHEN)
    unmastered = available & ~standing.mastered
    fallback = np.argmax(np.where(unmastered, standing.doubt, -np.inf), axis=1)
    skill = np.where(code == PRACTISE, best, fallback)
    nothing = (code == STRENGTHEN) & ~unmastered[rows, fallback]
    practisable = parameters.item_counts > 0
    done = np.atleast_1d((standing.mastered | ~practisable).all(axis=1))
    code[nothing] = np.where(done[nothing], ALL_MASTERED, NOTHING_ELIGIBLE)
    return np.where(nothing, -1, skill), code


def list_candidates(
    parameters: Parameters, skill: Integers, code: Integers, avoid: Integers
) -> tuple[Integers, Integers]:
    """All items of the chosen skills but the avoided pairs, as `(learner, item)` pairs sorted by learner."""
    starts, members = parameters.items.by_skill
    if (code == NO_SKILL).all():
        sizes = np.full(len(skill), parameters.items.count)
        first, members = np.zeros(len(skill), dtype=np.int64), np.arange(parameters.items.count)
    else:
        named = skill >= 0
        sizes = np.where(named, starts[skill + 1] - starts[skill], 0)
        first = np.where(named, starts[skill], 0)
    learners = np.repeat(np.arange(len(skill)), sizes)
    within = np.arange(len(learners)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    items = members[np.repeat(first, sizes) + within]
    count = parameters.items.count
    pairs, avoided = learners * count + items, avoid[0] * count + avoid[1]
    keep = np.ones(len(pairs), dtype=np.bool_)
    if len(pairs):  # in order, so that what is avoided is found by halving
        found = pairs.searchsorted(avoided)
        keep[found[pairs.take(found, mode="clip") == avoided]] = False
    return learners[keep], items[keep]


def first_smallest(score: Floats, learners: Integers, count: int) -> Integers:
    """For each learner the place of its smallest score in the flat array, -1 if it has none; (B,).

    `learners` is sorted; of equal scores the first one counts.
    """
    result = np.full(count, -1, dtype=np.int64)
    if score.size:
        starts = runs(learners)
        least = np.repeat(np.minimum.reduceat(score, starts), lengths(starts, len(score)))
        place = (score == least).nonzero()[0]
        first = place[runs(learners[place])]
        result[learners[first]] = first
    return result


def runs(values: Integers) -> Integers:
    """Where each run of equal values begins."""
    edge = np.ones(len(values), dtype=np.bool_)
    np.not_equal(values[1:], values[:-1], out=edge[1:])
    return edge.nonzero()[0]


def lengths(starts: Integers, end: int) -> Integers:
    """The lengths of runs that begin at `starts`, the last one before `end`."""
    result = np.empty_like(starts)
    np.subtract(starts[1:], starts[:-1], out=result[:-1])
    result[-1:] = end - starts[-1:]
    return result


def chances(score: Floats, learners: Integers, picked: Integers) -> Floats:
    """The chance each picked item had among its learner's candidates, over the uniform numbers U.

    Item i wins if s_i - .2 U_i is the least: ∫ Π_j P(U_j < u + (s_j - s_i) / .2) du, over the u where no factor is
    zero. Items more than .2 above the picked one multiply by 1 and are left out.
    """
    rows = learners[picked]
    best = np.zeros(int(learners.max(initial=-1)) + 1)
    best[rows] = score[picked]
    close = score < best[learners] + JITTER
    close[picked] = False
    near = np.flatnonzero(close)
    whose = learners[near]
    gap = (score[near] - best[whose]) / JITTER
    width, chance = np.ones(len(best)), np.ones(len(best))
    starts = runs(whose)
    with np.errstate(under="ignore"):
        if starts.size:
            crowded = whose[starts]
            width[crowded] = np.minimum(np.minimum.reduceat(np.maximum(1 + gap, 0.0), starts), 1.0)
            product = products(1 - width[crowded, None] * NODES, gap, starts)
            chance[crowded] = np.add.reduce(product * WEIGHTS, axis=1)
        return bounded(chance[rows] * width[rows], 0.0, 1.0)


def products(base: Floats, gap: Floats, starts: Integers) -> Floats:
    """Π over the candidates j of each learner of (base + gap_j), within 0..1, at every node; (learners, nodes).

    Always from left to right, in pieces that fit the cache: an uncalibrated course has thousands of equal candidates.
    A product falls from node to node; where it has come to 0 it stays.
    """
    result = np.ones(base.shape)
    owner = np.repeat(np.arange(len(starts)), lengths(starts, len(gap)))
    factors = np.empty((min(PIECE, len(gap)) + 1, base.shape[1]))
    for first in range(0, len(gap), PIECE):
        piece = slice(first, first + PIECE)
        owners = owner[piece]
        alone = owners[0] == owners[-1]
        alive = np.count_nonzero(result[owners[0]]) if alone else base.shape[1]
        part = factors[: len(owners) + 1, :alive]
        # What an earlier piece has multiplied goes on here.
        part[0] = result[owners[0], :alive]
        gaps = gap[piece, None]
        own = part[1:2] if alone and (gaps == gaps[0]).all() else part[1:]
        np.add(base[owners[0] if alone else owners, :alive], gaps[: len(own)], out=own)
        np.clip(own, 0.0, 1.0, out=own)
        if alone:
            part[1 + len(own) :] = own[0]
            np.multiply.reduce(part, axis=0, out=result[owners[0], :alive])
        else:
            places = runs(owners)
            places[1:] += 1
            result[owners[0] : owners[-1] + 1] = np.multiply.reduceat(part, places, axis=0)
    return result


def uniform(seeds: Seeds, items: Integers) -> Floats:
    """U(0, 1) for each pair of seed and item: SplitMix64 (Steele, Lea & Flood 2014) as a counter-based generator."""
    with np.errstate(over="ignore"):
        z = finalised(seeds + (items.astype(np.uint64) + np.uint64(1)) * GOLDEN)
    return np.asarray((z >> np.uint64(11)) * 2.0**-53)
