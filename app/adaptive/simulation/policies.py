"""The policies that are compared; each sees a `View` and offers an exercise to every learner.

Whoever holds that everything is mastered goes on all the same: it may not be true.
"""

import numpy as np
from scipy.special import expm1, xlogy

from app.adaptive import policy as service
from app.adaptive.filter import latent, levels, predict
from app.adaptive.likelihood import bounded, expected_score, logit
from app.adaptive.mastery import is_mastered
from app.adaptive.simulation.practice import Offer, Policy, View
from app.adaptive.simulation.worlds import gain, is_ready, is_truly_mastered, true_chance
from app.adaptive.types import Booleans, Floats, Integers, Parameters

# The line of Corbett & Anderson (1995), and the one that is best for linear mastery by the engine (docs/simulation.md).
LINE, BEST_LINE = 0.95, 0.85
TARGET, JITTER = 0.62, 0.2
# The first policy of the service.
TYPICAL_LEARN, FADING, TAUGHT_DISCOUNT, SETTLED, CEILING, STAY = 0.17, 0.2, 0.5, 0.2, 1.1, 0.5
INFORMATION_WEIGHT = 0.3
# Readiness, remediation, appropriate difficulty, continuity, and the log odds of mastery.
READINESS, REMEDIATION, DIFFICULTY, CONTINUITY, MASTERY_LOG_ODDS = 1.0, 2.0, 0.5, 1.0, 2.2
NEAR = 1e-6


def serve(view: View) -> Offer:
    """What the service recommends; where it says that all is mastered, an item of the skill it doubts most."""
    choices = service.choose(view.parameters, view.states, view.seeds)
    done = choices.code == service.ALL_MASTERED
    skill = np.argmax(service.stand(view.parameters, view.states).doubt, axis=1)
    return Offer(np.where(done, target_item(view, skill), choices.item), done)


def first_doubts(view: View) -> Offer:
    """The first policy of the service: a skill is settled when its doubt is, weighed by what it opens up."""
    states, skills = view.states, view.parameters.skills
    idle = np.where(states.evidence > 0, states.answers[:, None] - states.practised, 0)
    faded = states.mastery * (expm1(-FADING * skills.forget * idle) + 1)
    held = np.clip(faded - TAUGHT_DISCOUNT * states.bump, 0.0, 1.0)
    opens_up = 1 + lacking_above(view.parameters, 1 - held)
    speed = TARGET * skills.learn / TYPICAL_LEARN
    doubt = (1 - held) * opens_up * np.sqrt(speed)
    settled = doubt <= SETTLED
    ready = np.ones_like(settled)
    for prerequisite in skills.prerequisites.T:
        ready &= settled[:, prerequisite] | (prerequisite < 0)
    value = opens_up * np.sqrt(speed / (CEILING - held)) + STAY * service.of_last_item(view.parameters, states)
    unmastered = ~is_mastered(held, states.evidence)
    done = none_of(unmastered)
    doubtful = np.argmax(np.where(unmastered | done[:, None], doubt, -np.inf), axis=1)
    skill = best_of(~settled & ready, value, doubtful)
    return Offer(target_item(view, skill), done)


def best_of(among: Booleans, value: Floats, otherwise: Integers) -> Integers:
    """The skill of the greatest value among some of each learner; another where there is none."""
    best = np.argmax(np.where(among, value, -np.inf), axis=1)
    return np.where(among.any(axis=1), best, otherwise)


def lacking_above(parameters: Parameters, missing: Floats) -> Floats:
    """The sum of what is missing over all the skills that each skill opens up; (B, S)."""
    starts, opened = parameters.skills.descendants
    total, opening = np.zeros_like(missing), np.flatnonzero(np.diff(starts))
    total[:, opening] = np.add.reduceat(missing[:, opened], starts[opening], axis=1)
    return total


def linear_skill(view: View, mastery: Floats, line: float) -> tuple[Integers, Booleans]:
    """The first skill below the line, prerequisites first; where there is none, the one practised longest ago."""
    below = mastery < line
    done = none_of(below)
    return np.where(done, np.argmin(view.states.practised, axis=1), np.argmax(below, axis=1)), done


def linear(view: View) -> Offer:
    """Linear mastery by the engine's mastery, any item."""
    skill, done = linear_skill(view, view.states.mastery, LINE)
    return Offer(any_item(view, skill), done)


def linear_target(view: View) -> Offer:
    """Linear mastery by the engine's mastery, items near the target."""
    skill, done = linear_skill(view, view.states.mastery, LINE)
    return Offer(target_item(view, skill), done)


def linear_best(view: View) -> Offer:
    """The same with the line that is best for it."""
    skill, done = linear_skill(view, view.states.mastery, BEST_LINE)
    return Offer(target_item(view, skill), done)


def linear_bkt(view: View) -> Offer:
    """Linear mastery by plain knowledge tracing, any item."""
    skill, done = linear_skill(view, view.traced, LINE)
    return Offer(any_item(view, skill), done)


def lowest(view: View) -> Offer:
    """The skill of the lowest mastery, any item: the default of OATutor (Pardos et al. 2023)."""
    return Offer(any_item(view, np.argmin(view.states.mastery, axis=1)), all_above(view))


def at_random(view: View) -> Offer:
    """Any item."""
    count = view.parameters.items.count
    luck = service.uniform(view.seeds, np.zeros(len(view.seeds), dtype=np.int64))
    return Offer(np.floor(luck * count).astype(np.int64), all_above(view))


def all_above(view: View) -> Booleans:
    """Whether all skills are above the line; (B,)."""
    return none_of(view.states.mastery < LINE)


def none_of(skills: Booleans) -> Booleans:
    """Whether none of the skills (B, S) is marked; (B,)."""
    return np.asarray(~skills.any(axis=1), dtype=np.bool_)


def information(view: View) -> Offer:
    """The item that tells most of the ability: maximum Fisher information (Lord 1980), as in a test."""
    items = view.parameters.items
    p, c = everything(view), items.guessing
    told = (items.discrimination * (p - c) / (1 - c)) ** 2 * (1 - p) / p
    return Offer(best_item(view, told), all_above(view))


def gain_and_challenge(view: View) -> Offer:
    """One formula over all items: what is missing × what it opens up × pace × readiness × challenge, + information.

    The information is that of the answer on whether the skill is known.
    """
    states, parameters = view.states, view.parameters
    skills, asked = parameters.skills, parameters.items.skills[:, 0]
    missing = 1 - states.mastery
    readiness = np.ones_like(missing)
    for prerequisite in skills.prerequisites.T:
        readiness *= np.where(prerequisite >= 0, states.mastery[:, prerequisite], 1.0)
    worth = missing * (1 + lacking_above(parameters, missing)) * skills.learn / TYPICAL_LEARN * readiness
    challenge = expm1(-np.abs(logit(everything(view)) - logit(np.array(TARGET)))) + 1
    told = INFORMATION_WEIGHT * knowledge_told(view) * readiness[:, asked]
    return Offer(best_item(view, worth[:, asked] * challenge + told), all_above(view))


def alosi(view: View) -> Offer:
    """The weighted rules of Harvard's ALOSI (Rosen et al. 2018), with the weights of its example.

    L are log odds of mastery, L* = 2.2: readiness Σ over the prerequisites of min(L − L*, 0); remediation
    max(L* − L, 0); difficulty −|L − b|; continuity 1 for the skill of the last item.
    """
    parameters = view.parameters
    items, asked = parameters.items, parameters.items.skills[:, 0]
    odds = logit(bounded(view.states.mastery, NEAR, 1 - NEAR))
    short = np.minimum(odds - MASTERY_LOG_ODDS, 0.0)
    readiness = np.zeros_like(short)
    for prerequisite in parameters.skills.prerequisites.T:
        readiness += np.where(prerequisite >= 0, short[:, prerequisite], 0.0)
    of_skill = READINESS * readiness - REMEDIATION * short
    of_skill += CONTINUITY * service.of_last_item(parameters, view.states)
    difficulty = -items.easiness / items.discrimination
    score = of_skill[:, asked] - DIFFICULTY * np.abs(odds[:, asked] - difficulty)
    return Offer(best_item(view, score), all_above(view))


def oracle(view: View) -> Offer:
    """Knows what is true: of the skills that are ready, the one finished soonest, by the item that teaches most."""
    world, course, truth = view.world, view.course, view.truth
    known, asked = is_truly_mastered(world, truth), view.parameters.items.skills[:, 0]
    learners, items = pairs(view)
    p = true_chance(world, course, truth, learners, items)
    taught = gain(world, course, truth, learners, items, p)
    left = np.maximum(world.line - truth.strength[learners, asked[items]], NEAR)
    useful = is_ready(world, truth, learners, asked[items]) & ~known[learners, asked[items]]
    rate = np.where(useful, taught / left, 0.0).reshape(truth.count, -1)
    return Offer(best_item(view, rate), none_of(~known))


def pairs(view: View) -> tuple[Integers, Integers]:
    """Every learner with every item; both (B I,)."""
    count, items = view.states.count, view.parameters.items.count
    return np.repeat(np.arange(count), items), np.tile(np.arange(items), count)


def everything(view: View) -> Floats:
    """The predicted chance of success of every learner with every item; (B, I)."""
    return predict(view.parameters, view.states, *pairs(view)).reshape(view.states.count, -1)


def knowledge_told(view: View) -> Floats:
    """How much an answer tells of whether the skill is known: mutual information in nats; (B, I)."""
    learners, items = pairs(view)
    logits, variance, mastery = latent(view.parameters.items, view.states, learners, items)
    known, unknown = (
        expected_score(view.parameters.items, items, x) for x in levels(view.parameters, items, logits, variance)
    )
    whole = mastery * known + (1 - mastery) * unknown
    told = entropy(whole) - mastery * entropy(known) - (1 - mastery) * entropy(unknown)
    return told.reshape(view.states.count, -1)


def entropy(p: Floats) -> Floats:
    """Of a coin, in nats."""
    return np.asarray(-xlogy(p, p) - xlogy(1 - p, 1 - p))


def best_item(view: View, score: Floats) -> Integers:
    """The item of the greatest score (B, I), not the last one again."""
    again = np.arange(score.shape[1]) == view.states.last_item[:, None]
    return np.asarray(np.argmax(np.where(again, -np.inf, score), axis=1))


def chances_of(view: View, skill: Integers) -> tuple[Integers, Floats, Floats, Booleans]:
    """The items of each learner's skill, (B, K): numbers, predicted chances, random numbers, and which was the last."""
    starts, members = view.parameters.items.by_skill
    width = starts[1] - starts[0]
    items = members[starts[skill][:, None] + np.arange(width)]
    rows = np.repeat(np.arange(len(skill)), width)
    p = predict(view.parameters, view.states, rows, items.reshape(-1)).reshape(items.shape)
    luck = service.uniform(view.seeds[rows], items.reshape(-1)).reshape(items.shape)
    return items, p, luck, items == view.states.last_item[:, None]


def least(items: Integers, score: Floats, last: Booleans) -> Integers:
    """The item with the least score, not the last one again."""
    return np.asarray(items[np.arange(len(items)), np.argmin(np.where(last, np.inf, score), axis=1)])


def any_item(view: View, skill: Integers) -> Integers:
    """An item of the skill by chance."""
    items, _, luck, last = chances_of(view, skill)
    return least(items, luck, last)


def target_item(view: View, skill: Integers) -> Integers:
    """An item of the skill by the rule of the service: near a chance of .62."""
    items, p, luck, last = chances_of(view, skill)
    return least(items, np.abs(logit(p) - logit(np.array(TARGET))) - JITTER * luck, last)


POLICIES: dict[str, Policy] = {
    "service": serve,
    "first_doubts": first_doubts,
    "linear": linear,
    "linear_target": linear_target,
    "linear_best": linear_best,
    "linear_bkt": linear_bkt,
    "gain": gain_and_challenge,
    "alosi": alosi,
    "lowest": lowest,
    "random": at_random,
    "information": information,
    "oracle": oracle,
}
