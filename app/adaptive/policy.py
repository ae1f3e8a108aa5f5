"""Which exercise comes next, and every term of the reason: first the skill, then the item (docs/models.md).

    trust_s = mastery (1 - .5 exp(-n max(T_s, .15)))       n answers on s; P(T_s) n is how much practice that is
    doubt_s = 1 - trust_s exp(-.2 F_s Δt_s)                Δt_s in answers, not days
    settled: trust ≥ .8;  open: unsettled, all prerequisites settled or without items
    V_s     = 1 + Σ over the skills it opens up of (1 - trust)
    skill   = the last item's while it is open, else of the open skills of the lowest level the one of greatest V_s
              none open → argmax doubt over the skills not mastered
    item    = of that skill, not the last one: the least |logit p - logit .62| - .2 U(0, 1)

The constants were frozen on simulated learners (docs/simulation.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expm1

from app.adaptive.filter import foresee, predict
from app.adaptive.keys import GOLDEN, finalised
from app.adaptive.likelihood import logit
from app.adaptive.mastery import is_mastered
from app.adaptive.types import Booleans, Floats, Integers, Parameters, Seeds, States

UNPRACTISED = 0.5
LEAST_PACE = 0.15
FADING = 0.2
SETTLED = 0.8
# Where a skill is forgotten nearly as fast as it is learnt, right answers alone never lift it to that.
OF_CEILING = 0.85
STAY = 1.0
TARGET = 0.62
JITTER = 0.2

PRACTISE, STRENGTHEN, NO_SKILL, ALL_MASTERED, NOTHING_ELIGIBLE = range(5)
CODES = ("practice_skill", "strengthen_skill", "practice_item", "all_mastered", "nothing_eligible")

LEAST = 1e-9
# Candidates whose factors are multiplied at a time.
PIECE = 512
# 64-point Gauss-Legendre in s, where 1 - u = s³ (width): dense near u = 1, where a choice among very many is decided.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(64)
NODES, WEIGHTS = ((NODES + 1) / 2) ** 3, 3 * ((NODES + 1) / 2) ** 2 * WEIGHTS / 2


@dataclass(frozen=True)
class Choices:
    """One exercise for each of B learners; `item` and `skill` are -1 where there is none, `code` says why.

    `propensity` is the chance this item had, given the skill. The other arrays are the terms of the reason.
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
    prerequisites: Floats


@dataclass(frozen=True)
class Standing:
    """How every skill stands for every learner, each (B, S)."""

    opens_up: Floats
    doubt: Floats
    ready: Floats
    open: Booleans
    mastered: Booleans
    value: Floats


def choose(parameters: Parameters, states: States, seeds: Seeds, avoid: Sequence[Integers] | None = None) -> Choices:
    """The next exercise of each of B learners.

    `states` are those of the moment (see `fade`). `seeds` (B,) are the randomness: the same seed gives the same choice.
    `avoid` lists, for each learner, items not to offer; the last item is avoided too, unless nothing else is left.
    """
    shunned = [np.empty(0, dtype=np.int64)] * states.count if avoid is None else list(avoid)
    shunned = [np.unique(items) for items in shunned]
    fresh = [
        np.union1d(items, [last]) if last >= 0 else items
        for items, last in zip(shunned, states.last_item.tolist(), strict=True)
    ]
    choices = choose_once(parameters, states, seeds, fresh)
    stuck = np.flatnonzero(choices.code == NOTHING_ELIGIBLE)
    if stuck.size:
        again = choose_once(parameters, states[stuck], seeds[stuck], [shunned[i] for i in stuck])
        for name in Choices.__dataclass_fields__:
            getattr(choices, name)[stuck] = getattr(again, name)
    return choices


def choose_once(parameters: Parameters, states: States, seeds: Seeds, avoid: Sequence[Integers]) -> Choices:
    """`choose` with nothing avoided but what `avoid` says."""
    standing = stand(parameters, states)
    available = count_available(parameters, states.count, avoid)
    skill, code = choose_skill(parameters, states, standing, available > 0)
    learners, candidates = list_candidates(parameters, skill, code, avoid)
    p = predict(parameters, states, learners, candidates)
    distance = np.abs(logit(p) - logit(np.array(TARGET)))
    score = distance - JITTER * uniform(seeds[learners], candidates)
    chosen = first_smallest(score, learners, states.count)
    has = np.flatnonzero(chosen >= 0)
    code[(chosen < 0) & (code != ALL_MASTERED)] = NOTHING_ELIGIBLE
    picked, named = chosen[has], has[skill[has] >= 0]
    rows = skill[named]

    def of_skill(values: Floats) -> Floats:
        result = np.zeros(states.count)
        result[named] = values[named, rows]
        return result

    def of_item(values: Floats, nothing: float) -> Floats:
        result = np.full(states.count, nothing)
        result[has] = values
        return result

    return Choices(
        code=code,
        skill=np.where(chosen >= 0, skill, -1),
        item=of_item(candidates[picked].astype(np.float64), -1).astype(np.int64),
        p=of_item(foresee(parameters, states, has, candidates[picked]), 0.0),
        propensity=of_item(chances(distance, learners, picked), 0.0),
        doubt=of_skill(standing.doubt),
        opens_up=of_skill(standing.opens_up),
        learn=of_skill(np.broadcast_to(parameters.skills.learn, standing.doubt.shape)),
        challenge=of_item(expm1(-distance[picked]) + 1, 0.0),
        prerequisites=of_skill(standing.ready),
    )


def stand(parameters: Parameters, states: States) -> Standing:
    """Judge every skill of every learner."""
    skills = parameters.skills
    practice = states.evidence * np.maximum(skills.learn, LEAST_PACE)
    trust = np.clip(states.mastery, 0.0, 1.0) * (1 - UNPRACTISED * (expm1(-practice) + 1))
    idle = np.where(states.evidence > 0, states.answers[:, None] - states.practised, 0)
    doubt = 1 - trust * (expm1(-FADING * skills.forget * idle) + 1)
    opens_up = np.ones_like(trust)
    starts, opened = skills.descendants
    opening = np.flatnonzero(np.diff(starts))
    if opening.size:
        opens_up[:, opening] += np.add.reduceat(1 - trust[:, opened], starts[opening], axis=1)
    settled = trust >= settled_from(parameters)
    ready = ready_share(parameters, settled)
    # A level weighs more than all that a skill can open up, staying with a skill more than all levels.
    apart = skills.count + 1
    value = opens_up + apart * (STAY * apart * of_last_item(parameters, states) - skills.levels)
    mastered = is_mastered(states.mastery, states.evidence)
    return Standing(opens_up, doubt, ready, ~settled & (ready == 1), mastered, value)


def settled_from(parameters: Parameters) -> Floats:
    """The trust from which each skill is settled; (S,). Who is always right comes to T / (T + F) at least."""
    skills = parameters.skills
    return np.minimum(SETTLED, OF_CEILING * skills.learn / np.maximum(skills.learn + skills.forget, LEAST))


def ready_share(parameters: Parameters, settled: Booleans) -> Floats:
    """The share of each skill's direct prerequisites that are settled; one that no item asks for cannot hold it up."""
    prerequisites = parameters.skills.prerequisites
    satisfied = settled | (item_counts(parameters) == 0)
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


def item_counts(parameters: Parameters) -> Integers:
    """The number of items of each skill; (S,)."""
    counts = np.zeros(parameters.skills.count, dtype=np.int64)
    sizes = np.diff(parameters.items.by_skill[0])
    counts[: len(sizes)] = sizes
    return counts


def count_available(parameters: Parameters, learners: int, avoid: Sequence[Integers]) -> Integers:
    """The number of items of each skill that each learner does not avoid; (B, S)."""
    available = np.broadcast_to(item_counts(parameters), (learners, parameters.skills.count)).copy()
    if parameters.items.skills.shape[1] == 0:
        return available
    rows = np.repeat(np.arange(learners), [len(items) for items in avoid])
    skills = parameters.items.skills[np.concatenate(avoid)] if rows.size else np.empty((0, 1), dtype=np.int64)
    for place in range(skills.shape[1]):
        held = skills[:, place] >= 0
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
    practisable = item_counts(parameters) > 0
    done = np.atleast_1d((standing.mastered | ~practisable).all(axis=1))
    code[nothing] = np.where(done[nothing], ALL_MASTERED, NOTHING_ELIGIBLE)
    return np.where(nothing, -1, skill), code


def list_candidates(
    parameters: Parameters, skill: Integers, code: Integers, avoid: Sequence[Integers]
) -> tuple[Integers, Integers]:
    """All items of the chosen skills but the avoided ones, as `(learner, item)` pairs sorted by learner."""
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
    keep = np.ones(len(items), dtype=np.bool_)
    ends = np.cumsum(sizes)
    for row, shunned in enumerate(avoid):
        if len(shunned):
            place = slice(ends[row] - sizes[row], ends[row])
            keep[place] = ~np.isin(items[place], shunned)
    return learners[keep], items[keep]


def first_smallest(score: Floats, learners: Integers, count: int) -> Integers:
    """For each learner the place of its smallest score in the flat array, -1 if it has none; (B,).

    `learners` is sorted; of equal scores the first one counts.
    """
    result = np.full(count, -1, dtype=np.int64)
    if score.size:
        starts = np.flatnonzero(np.diff(learners, prepend=-1))
        least = np.repeat(np.minimum.reduceat(score, starts), np.diff(starts, append=len(score)))
        place = np.flatnonzero(score == least)
        first = place[np.flatnonzero(np.diff(learners[place], prepend=-1))]
        result[learners[first]] = first
    return result


def chances(distance: Floats, learners: Integers, picked: Integers) -> Floats:
    """The chance each picked item had among its learner's candidates, over the uniform numbers U.

    Item i wins if d_i - .2 U_i is the least: ∫ Π_j P(U_j < u + (d_j - d_i) / .2) du, over the u where no factor is
    zero. Items further than .2 away from the picked one multiply by 1 and are left out.
    """
    rows = learners[picked]
    best = np.zeros(int(learners.max(initial=-1)) + 1)
    best[rows] = distance[picked]
    close = distance < best[learners] + JITTER
    close[picked] = False
    near = np.flatnonzero(close)
    whose = learners[near]
    gap = (distance[near] - best[whose]) / JITTER
    width, chance = np.ones(len(best)), np.ones(len(best))
    starts = np.flatnonzero(np.diff(whose, prepend=-1))
    with np.errstate(under="ignore"):
        if starts.size:
            crowded = whose[starts]
            width[crowded] = np.minimum(np.minimum.reduceat(np.maximum(1 + gap, 0.0), starts), 1.0)
            product = products(1 - width[crowded, None] * NODES, gap, starts)
            chance[crowded] = np.add.reduce(product * WEIGHTS, axis=1)
        return np.asarray(np.clip(chance[rows] * width[rows], 0.0, 1.0))


def products(base: Floats, gap: Floats, starts: Integers) -> Floats:
    """Π over the candidates j of each learner of (base + gap_j), within 0..1, at every node; (learners, nodes).

    Always from left to right, in pieces that fit the cache: an uncalibrated course has thousands of equal candidates.
    A product falls from node to node; where it has come to 0 it stays.
    """
    result = np.ones(base.shape)
    owner = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(gap)))
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
            places = np.flatnonzero(np.diff(owners)) + 2
            result[owners[0] : owners[-1] + 1] = np.multiply.reduceat(part, [0, *places], axis=0)
    return result


def uniform(seeds: Seeds, items: Integers) -> Floats:
    """U(0, 1) for each pair of seed and item: SplitMix64 (Steele, Lea & Flood 2014) as a counter-based generator."""
    with np.errstate(over="ignore"):
        z = finalised(seeds + (items.astype(np.uint64) + np.uint64(1)) * GOLDEN)
    return np.asarray((z >> np.uint64(11)) * 2.0**-53)
