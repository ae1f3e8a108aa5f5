"""The policies that are compared; each sees a `PolicyView` and offers an exercise to every learner.

A policy that believes everything mastered still offers an exercise: it may be wrong.
"""

import numpy as np
from scipy.special import expm1, xlogy

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.hashing import uniform
from app.adaptive.numerics import clip, logit
from app.adaptive.parameters import Parameters
from app.adaptive.practice.branches import ALL_MASTERED
from app.adaptive.practice.choose import choose_items
from app.adaptive.practice.items import score_items
from app.adaptive.practice.skills import judge_skills, skills_of_last_item
from app.adaptive.simulation.practice import Policy, PolicyOffer, PolicyView
from app.adaptive.simulation.worlds import is_ready, is_truly_mastered, strength_gain, true_chance
from app.adaptive.tracing.filter import latent_moments, logits_by_knowledge, predict_score
from app.adaptive.tracing.likelihood import expected_score
from app.adaptive.tracing.mastery import LEAST_RESPONSES, MASTERY_LINE

# The line of Corbett & Anderson (1995), and the one that is best for linear mastery by the engine (docs/simulation.md).
LINE, BEST_LINE = 0.95, 0.85
TARGET, JITTER = 0.62, 0.2
# The first policy of the service.
TYPICAL_LEARN, FADING, TAUGHT_DISCOUNT, SECURED, CEILING, STAY = 0.17, 0.2, 0.5, 0.2, 1.1, 0.5
INFORMATION_WEIGHT = 0.3
# Readiness, remediation, appropriate difficulty, continuity, and the log odds of mastery.
READINESS, REMEDIATION, DIFFICULTY, CONTINUITY, MASTERY_LOG_ODDS = 1.0, 2.0, 0.5, 1.0, 2.2
NEAR = 1e-6


def recommend_as_service(view: PolicyView) -> PolicyOffer:
    """What the service recommends; where it says that all is mastered, an item of the skill it doubts most."""
    choices = choose_items(view.parameters, view.states, view.seeds)
    done = choices.code == ALL_MASTERED
    skill = np.argmax(judge_skills(view.parameters, view.states).need, axis=1)
    return PolicyOffer(np.where(done, _suited_item(view, skill), choices.item), done)


def _first_need(view: PolicyView) -> PolicyOffer:
    """The first policy of the service: a skill is secured when its need, weighed by what it unlocks, is small."""
    states, skills = view.states, view.parameters.skills
    idle = np.where(states.responses > 0, states.total_responses[:, None] - states.practised, 0)
    faded = states.mastery * (expm1(-FADING * skills.p_forget * idle) + 1)
    held = np.clip(faded - TAUGHT_DISCOUNT * states.learning_gain, 0.0, 1.0)
    unlocks = 1 + _lacking_above(view.parameters, 1 - held)
    speed = TARGET * skills.p_learn / TYPICAL_LEARN
    need = (1 - held) * unlocks * np.sqrt(speed)
    secured = need <= SECURED
    ready = np.ones_like(secured)
    for prerequisite in skills.prerequisites.T:
        ready &= secured[:, prerequisite] | (prerequisite < 0)
    value = unlocks * np.sqrt(speed / (CEILING - held)) + STAY * skills_of_last_item(view.parameters, states)
    unmastered = (held < MASTERY_LINE) | (states.responses < LEAST_RESPONSES)
    done = _none_of(unmastered)
    doubtful = np.argmax(np.where(unmastered | done[:, None], need, -np.inf), axis=1)
    skill = _best_skill(~secured & ready, value, doubtful)
    return PolicyOffer(_target_item(view, skill), done)


def _best_skill(among: Booleans, value: Floats, otherwise: Integers) -> Integers:
    """The skill of the greatest value among some of each learner; another where there is none."""
    best = np.argmax(np.where(among, value, -np.inf), axis=1)
    return np.where(among.any(axis=1), best, otherwise)


def _lacking_above(parameters: Parameters, missing: Floats) -> Floats:
    """The sum of what is missing over all the skills that each skill opens up; (B, S)."""
    starts, opened = parameters.skills.descendants
    total, opening = np.zeros_like(missing), np.flatnonzero(np.diff(starts))
    total[:, opening] = np.add.reduceat(missing[:, opened], starts[opening], axis=1)
    return total


def _linear_skill(view: PolicyView, mastery: Floats, line: float) -> tuple[Integers, Booleans]:
    """The first skill below the line, prerequisites first; where there is none, the one practised longest ago."""
    below = mastery < line
    done = _none_of(below)
    return np.where(done, np.argmin(view.states.practised, axis=1), np.argmax(below, axis=1)), done


def _linear(view: PolicyView) -> PolicyOffer:
    """Linear mastery by the engine's mastery, any item."""
    skill, done = _linear_skill(view, view.states.mastery, LINE)
    return PolicyOffer(_any_item(view, skill), done)


def _linear_target(view: PolicyView) -> PolicyOffer:
    """Linear mastery by the engine's mastery, items as in the service."""
    skill, done = _linear_skill(view, view.states.mastery, LINE)
    return PolicyOffer(_suited_item(view, skill), done)


def _linear_best(view: PolicyView) -> PolicyOffer:
    """The same with the line that is best for it."""
    skill, done = _linear_skill(view, view.states.mastery, BEST_LINE)
    return PolicyOffer(_suited_item(view, skill), done)


def _linear_bkt(view: PolicyView) -> PolicyOffer:
    """Linear mastery by plain knowledge tracing, any item."""
    skill, done = _linear_skill(view, view.traced, LINE)
    return PolicyOffer(_any_item(view, skill), done)


def _lowest(view: PolicyView) -> PolicyOffer:
    """The skill of the lowest mastery, any item: the default of OATutor (Pardos et al. 2023)."""
    return PolicyOffer(_any_item(view, np.argmin(view.states.mastery, axis=1)), _all_above(view))


def _at_random(view: PolicyView) -> PolicyOffer:
    """Any item."""
    count = view.parameters.items.count
    luck = uniform(view.seeds, np.zeros(len(view.seeds), dtype=np.int64))
    return PolicyOffer(np.floor(luck * count).astype(np.int64), _all_above(view))


def _all_above(view: PolicyView) -> Booleans:
    """Whether all skills are above the line; (B,)."""
    return _none_of(view.states.mastery < LINE)


def _none_of(skills: Booleans) -> Booleans:
    """Whether none of the skills (B, S) is marked; (B,)."""
    return np.asarray(~skills.any(axis=1), dtype=np.bool_)


def _most_informative_item(view: PolicyView) -> PolicyOffer:
    """The item that tells most of the ability: maximum Fisher information (Lord 1980), as in a test."""
    items = view.parameters.items
    p, c = _everything(view), items.guessing
    information = (items.discrimination * (p - c) / (1 - c)) ** 2 * (1 - p) / p
    return PolicyOffer(_best_item(view, information), _all_above(view))


def _gain_and_difficulty_match(view: PolicyView) -> PolicyOffer:
    """One formula over all items: what is missing × what it opens up × pace × readiness × challenge, + information.

    The information is that of the answer on whether the skill is known.
    """
    states, parameters = view.states, view.parameters
    skills, asked = parameters.skills, parameters.items.skills[:, 0]
    missing = 1 - states.mastery
    readiness = np.ones_like(missing)
    for prerequisite in skills.prerequisites.T:
        readiness *= np.where(prerequisite >= 0, states.mastery[:, prerequisite], 1.0)
    worth = missing * (1 + _lacking_above(parameters, missing)) * skills.p_learn / TYPICAL_LEARN * readiness
    difficulty_match = expm1(-np.abs(logit(_everything(view)) - logit(np.array(TARGET)))) + 1
    information = INFORMATION_WEIGHT * _knowledge_information(view) * readiness[:, asked]
    return PolicyOffer(_best_item(view, worth[:, asked] * difficulty_match + information), _all_above(view))


def _alosi(view: PolicyView) -> PolicyOffer:
    """The weighted rules of Harvard's ALOSI (Rosen et al. 2018), with the weights of its example.

    L are log odds of mastery, L* = 2.2: readiness Σ over the prerequisites of min(L − L*, 0); remediation
    max(L* − L, 0); difficulty −|L − b|; continuity 1 for the skill of the last item.
    """
    parameters = view.parameters
    items, asked = parameters.items, parameters.items.skills[:, 0]
    odds = logit(clip(view.states.mastery, NEAR, 1 - NEAR))
    short = np.minimum(odds - MASTERY_LOG_ODDS, 0.0)
    readiness = np.zeros_like(short)
    for prerequisite in parameters.skills.prerequisites.T:
        readiness += np.where(prerequisite >= 0, short[:, prerequisite], 0.0)
    of_skill = READINESS * readiness - REMEDIATION * short
    of_skill += CONTINUITY * skills_of_last_item(parameters, view.states)
    score = of_skill[:, asked] - DIFFICULTY * np.abs(odds[:, asked] - items.difficulty)
    return PolicyOffer(_best_item(view, score), _all_above(view))


def _oracle(view: PolicyView) -> PolicyOffer:
    """Knows what is true: of the skills that are ready, the one finished soonest, by the item that teaches most."""
    world, course, truth = view.world, view.course, view.truth
    known, asked = is_truly_mastered(world, truth), view.parameters.items.skills[:, 0]
    learners, items = _pairs(view)
    p = true_chance(world, course, truth, learners, items)
    taught = strength_gain(world, course, truth, learners, items, p)
    left = np.maximum(world.line - truth.strength[learners, asked[items]], NEAR)
    useful = is_ready(world, truth, learners, asked[items]) & ~known[learners, asked[items]]
    rate = np.where(useful, taught / left, 0.0).reshape(truth.count, -1)
    return PolicyOffer(_best_item(view, rate), _none_of(~known))


def _pairs(view: PolicyView) -> tuple[Integers, Integers]:
    """Every learner with every item; both (B I,)."""
    count, items = view.states.count, view.parameters.items.count
    return np.repeat(np.arange(count), items), np.tile(np.arange(items), count)


def _everything(view: PolicyView) -> Floats:
    """The predicted chance of success of every learner with every item; (B, I)."""
    return predict_score(view.parameters, view.states, *_pairs(view)).reshape(view.states.count, -1)


def _knowledge_information(view: PolicyView) -> Floats:
    """How much an answer tells of whether the skill is known: mutual information in nats; (B, I)."""
    learners, items = _pairs(view)
    logits, variance, mastery = latent_moments(view.parameters.items, view.states, learners, items)
    known, unknown = (
        expected_score(view.parameters.items, items, x)
        for x in logits_by_knowledge(view.parameters, items, logits, variance)
    )
    expected = mastery * known + (1 - mastery) * unknown
    information = _entropy(expected) - mastery * _entropy(known) - (1 - mastery) * _entropy(unknown)
    return information.reshape(view.states.count, -1)


def _entropy(p: Floats) -> Floats:
    """Of a coin, in nats."""
    return np.asarray(-xlogy(p, p) - xlogy(1 - p, 1 - p))


def _best_item(view: PolicyView, score: Floats) -> Integers:
    """The item of the greatest score (B, I), not the last one again."""
    again = np.arange(score.shape[1]) == view.states.last_item[:, None]
    return np.asarray(np.argmax(np.where(again, -np.inf, score), axis=1))


def _items_of_skill(view: PolicyView, skill: Integers) -> tuple[Integers, Floats, Floats, Booleans]:
    """The items of each learner's skill, (B, K): numbers, predicted chances, random numbers, and which was the last."""
    starts, members = view.parameters.items.by_skill
    width = starts[1] - starts[0]
    items = members[starts[skill][:, None] + np.arange(width)]
    rows = np.repeat(np.arange(len(skill)), width)
    p = predict_score(view.parameters, view.states, rows, items.reshape(-1)).reshape(items.shape)
    luck = uniform(view.seeds[rows], items.reshape(-1)).reshape(items.shape)
    return items, p, luck, items == view.states.last_item[:, None]


def _least(items: Integers, score: Floats, last: Booleans) -> Integers:
    """The item with the least score, not the last one again."""
    return np.asarray(items[np.arange(len(items)), np.argmin(np.where(last, np.inf, score), axis=1)])


def _any_item(view: PolicyView, skill: Integers) -> Integers:
    """An item of the skill by chance."""
    items, _, luck, last = _items_of_skill(view, skill)
    return _least(items, luck, last)


def _target_item(view: PolicyView, skill: Integers) -> Integers:
    """An item of the skill near a chance of .62."""
    items, p, luck, last = _items_of_skill(view, skill)
    return _least(items, np.abs(logit(p) - logit(np.array(TARGET))) - JITTER * luck, last)


def _suited_item(view: PolicyView, skill: Integers) -> Integers:
    """An item of the skill by the rule of the service."""
    items, _, luck, last = _items_of_skill(view, skill)
    rows = np.repeat(np.arange(len(skill)), items.shape[1])
    item_scores = score_items(view.parameters, view.states, rows, items.reshape(-1), skill[rows])
    return _least(items, item_scores.score.reshape(items.shape) - JITTER * luck, last)


POLICIES: dict[str, Policy] = {
    "service": recommend_as_service,
    "first_doubts": _first_need,
    "linear": _linear,
    "linear_target": _linear_target,
    "linear_best": _linear_best,
    "linear_bkt": _linear_bkt,
    "gain": _gain_and_difficulty_match,
    "alosi": _alosi,
    "lowest": _lowest,
    "random": _at_random,
    "information": _most_informative_item,
    "oracle": _oracle,
}
