"""The unified filter: item response theory and Bayesian knowledge tracing in one update.

An item's difficulty and the learner's ability set how likely somebody who knows the skill, or does not, is to answer
correctly; the answer updates ability, skill offsets and mastery together. Ability and offsets are an assumed-density
filter (Gaussian; a Laplace step for each of the two states of knowledge, moments matched), mastery is the filter of
Corbett & Anderson (1995, equations 2 to 4) with slip and guess that belong to the item and the learner. All skills of
an item are needed (Haertel 1989: DINA): an answer speaks of each in the measure in which the others are known.

Everything works element by element in a fixed order: a learner's numbers are bit-identical in any batch.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from scipy.special import expm1, log1p, xlogy

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.behaviour.model import (
    FilterOutputs,
    build_features,
    expected_p,
    initial_behaviour_state,
    update_behaviour_state,
)
from app.adaptive.numerics import clip
from app.adaptive.parameters import Items, Parameters, Population
from app.adaptive.recent_items import find_recent, has_met_another, initial_recent_items, remember_items
from app.adaptive.state import Prediction, States
from app.adaptive.tracing.likelihood import expected_score, likelihood, likelihood_given_p, slopes
from app.adaptive.tracing.mastery import becomes_mastered, stays_mastered

BOUND = 6.0
NEWTON_STEPS = 3
LONGEST_STEP = 1.5
SKILL_VARIANCE_LIMIT = 2.0
# P(T) falls to a fifth, and with it P(known), where a prerequisite is missing.
WITHOUT_PREREQUISITE = 0.2
CERTAIN = 1e-9
# In days: within an hour nothing is forgotten.
SHORTEST_PAUSE = 1 / 24
# A right answer teaches in the measure post / (post + .05): luck, where the skill is all but certainly missing, little.
LUCK = 0.05
# What an item answered again tells, of what it told at first.
REPEATED = 0.5
HIGHEST_EXCUSE = 1.0
# More likely unknown than known after an answer: nothing was gained by it.
STALLED_BELOW = 0.5


class _SkillSlot(NamedTuple):
    """Who is asked for which skill at one place of the items of a batch: rows, skills, cells, each (M,)."""

    column: int
    rows: Integers
    skill: Integers
    cells: Integers


def initial_states(parameters: Parameters, count: int) -> States:
    """`count` learners of whom nothing is known: every value is its prior."""
    population, skills = parameters.population, parameters.skills
    shape = (count, skills.count)
    return States(
        ability=np.zeros(count),
        ability_variance=np.full(count, population.ability_variance),
        daily_effect=np.zeros(count),
        daily_effect_variance=np.full(count, population.daily_effect_variance),
        total_responses=np.zeros(count, dtype=np.int64),
        last_item=np.full(count, -1, dtype=np.int64),
        skill_effect=np.zeros(shape),
        skill_effect_variance=np.full(shape, population.skill_variance),
        mastery=np.broadcast_to(skills.prior, shape).copy(),
        learning_gain=np.zeros(shape),
        cusum=np.zeros(shape),
        mastered=np.zeros(shape, dtype=np.bool_),
        stalled=np.zeros(shape, dtype=np.int64),
        responses=np.zeros(shape, dtype=np.int64),
        practised=np.zeros(shape, dtype=np.int64),
        attained=np.zeros(shape, dtype=np.bool_),
        seen_at=np.zeros(count),
        practised_at=np.zeros(shape),
        successes=np.zeros(shape),
        recent=initial_recent_items(count),
        behaviour=initial_behaviour_state(count, parameters.behaviour),
    )


def predict_score(parameters: Parameters, states: States, learners: Integers, items: Integers) -> Floats:
    """The expected score, as a fraction, of each learner (a row of `states`) on each item; all (N,)."""
    return predict_score_and_gap(parameters, states, learners, items)[0]


def predict_score_and_gap(
    parameters: Parameters, states: States, learners: Integers, items: Integers
) -> tuple[Floats, Floats]:
    """`predict_score`, and how much more who knows all skills is expected to score than who does not; all (N,)."""
    logit, variance, mastery = latent_moments(parameters.items, states, learners, items)
    known, unknown = expected_score(parameters.items, items, logits_by_knowledge(parameters, items, logit, variance))
    return np.asarray(mastery * known + (1 - mastery) * unknown), known - unknown


def _expected_from_latent(
    parameters: Parameters, chosen: Integers, logit: Floats, variance: Floats, mastery: Floats
) -> Floats:
    """The expected score by what `latent_moments` says."""
    known, unknown = expected_score(parameters.items, chosen, logits_by_knowledge(parameters, chosen, logit, variance))
    return np.asarray(mastery * known + (1 - mastery) * unknown)


def predict_p_correct(parameters: Parameters, states: States, learners: Integers, items: Integers) -> Floats:
    """`predict_score` with the head: what is told as `p_correct`; all (N,)."""
    logit, variance, mastery = latent_moments(parameters.items, states, learners, items)
    p = _expected_from_latent(parameters, items, logit, variance, mastery)
    if not parameters.behaviour:
        return p
    total_responses = states.total_responses[learners].astype(np.float64)
    outputs = FilterOutputs(
        p, variance, mastery, total_responses, *_log_counts(parameters.items, states, learners, items)
    )
    features = build_features(
        parameters.behaviour, parameters.items, states.behaviour, states.recent, learners, items, outputs
    )
    return expected_p(parameters.behaviour, features)


def _log_counts(items: Items, states: States, learners: Integers, chosen: Integers) -> tuple[Floats, Floats]:
    """Means over the item's skills of log(1 + successes) and log(1 + failures); both (N,)."""
    successes, failures = np.zeros(len(chosen)), np.zeros(len(chosen))
    skills, weights = items.skills[chosen], items.weights[chosen]
    for column in range(skills.shape[1] if states.skill_effect.shape[1] else 0):
        skill, weight = skills[:, column], weights[:, column]
        right = states.successes[learners, skill]
        successes += weight * log1p(right)
        failures += weight * log1p(np.maximum(states.responses[learners, skill] - right, 0.0))
    return successes, failures


def latent_moments(items: Items, states: States, learners: Integers, chosen: Integers) -> tuple[Floats, Floats, Floats]:
    """Mean and variance of the latent logit, and the chance that all skills of the item are known; all (N,).

    The chance is the product of the masteries, as if they were independent; 0 for an item that asks for no skill.
    """
    slope = items.discrimination[chosen]
    logit = states.ability[learners] + states.daily_effect[learners]
    variance = states.ability_variance[learners] + states.daily_effect_variance[learners]
    mastery = items.has_skills[chosen]
    skills, weights = items.skills[chosen], items.weights[chosen]
    for column in range(skills.shape[1] if states.skill_effect.shape[1] else 0):
        weight = weights[:, column]
        if not np.count_nonzero(weight):
            continue
        # Padding, -1, is somebody's value too, and weighs nothing.
        cells = _cell_indices(states, learners, skills[:, column])
        logit += weight * states.skill_effect.take(cells)
        variance += weight * weight * states.skill_effect_variance.take(cells)
        mastery = mastery * np.where(weight, states.mastery.take(cells), 1.0)
    return items.intercept[chosen] + slope * logit, slope * slope * variance, mastery


def chance_of_others(items: Items, states: States, learners: Integers, chosen: Integers) -> Floats:
    """For each of an item's skills the chance that all its other skills are known; (N, K)."""
    skills = items.skills[chosen]
    others = np.ones(skills.shape)
    if skills.shape[1] == 1 or not states.skill_effect.shape[1]:
        return others
    mastery = np.where(skills >= 0, states.mastery.take(_cell_indices(states, learners[:, None], skills)), 1.0)
    others[:, 1:] = np.multiply.accumulate(mastery, axis=1)[:, :-1]
    others[:, :-1] *= np.multiply.accumulate(mastery[:, ::-1], axis=1)[:, -2::-1]
    return others


def _cell_indices(states: States, learners: Integers, skill: Integers) -> Integers:
    """Where a skill of each learner stands in the values by skill, (B, S), taken as one row.

    For a single learner one index costs a third of two.
    """
    return np.asarray(learners * states.skill_effect.shape[1] + skill)


def _skill_slots(items: Items, states: States, chosen: Integers) -> list[_SkillSlot]:
    """Who is asked for which skill by items of their own, (B,), place by place."""
    skills, result = items.skills[chosen], []
    for column in range(skills.shape[1]):
        rows = (skills[:, column] >= 0).nonzero()[0]
        if rows.size:
            skill = skills[rows, column]
            result.append(_SkillSlot(column, rows, skill, _cell_indices(states, rows, skill)))
    return result


def logits_by_knowledge(parameters: Parameters, chosen: Integers, logit: Floats, variance: Floats) -> Floats:
    """The logits of those who know the skills and of those who do not, shrunk for the uncertainty of η; (2, N).

    κ = (1 + πV/8)^-1/2 (MacKay 1992) turns the mean of a logistic over a Gaussian into a logistic of its mean.
    """
    shift = parameters.population.shifts * parameters.items.has_skills[chosen]
    return np.asarray((logit + shift) * (1 / np.sqrt(1 + np.pi / 8 * variance)))


def update_states(
    parameters: Parameters,
    states: States,
    items: Integers,
    scores: Floats,
    times: Floats,
    rapid: Booleans | None = None,
) -> tuple[States, Prediction]:
    """Update the states of B learners by one answer of each.

    `items` (B,) are item numbers, `scores` (B,) fractions of the maximum within 0..1, `times` (B,) days since 1970 (0
    where unknown). `rapid` (B,) marks answers given too fast to say anything: effort-moderated (Wise & DeMars 2006),
    they count as given and move nothing else. Returns the states after the answers and what was expected before them;
    the arguments are not changed.
    """
    after = states.copy()
    return after, advance_states(parameters, after, items, scores, times, rapid)


def advance_states(
    parameters: Parameters,
    states: States,
    items: Integers,
    scores: Floats,
    times: Floats,
    rapid: Booleans | None = None,
) -> Prediction:
    """`update_states` in place: `states` becomes the states after the answers."""
    rows = _find_ignored(parameters.items, items, rapid)
    before = states[rows] if rows.size else states
    prediction = _take_answers(parameters, states, items, scores, times)
    if rows.size:
        given = states[rows]
        _drift_ability(parameters.population, before, times[rows])
        counted = {name: getattr(given, name) for name in ("total_responses", "last_item", "recent")}
        states.put(rows, replace(before, **counted))
    return prediction


def _find_ignored(items: Items, chosen: Integers, rapid: Booleans | None) -> Integers:
    """The rows of answers that say nothing: given too fast, or to an item that is to be ignored."""
    if rapid is None and items.ignored is None:
        return np.empty(0, dtype=np.int64)
    ignored = np.zeros(len(chosen), dtype=np.bool_) if items.ignored is None else items.ignored[chosen]
    return np.flatnonzero(ignored if rapid is None else ignored | rapid)


def _take_answers(parameters: Parameters, states: States, items: Integers, scores: Floats, times: Floats) -> Prediction:
    """Update the states, in place, by answers that all say something."""
    population, item_bank = parameters.population, parameters.items
    learners, asked = np.arange(states.count), _skill_slots(item_bank, states, items)
    _pass_time(parameters, states, asked, times)
    logit, variance, mastery = latent_moments(item_bank, states, learners, items)
    # Those who know and those who do not in one: for a single learner, each step costs more than its arithmetic.
    both = logits_by_knowledge(parameters, items, logit, variance)
    p = expected_score(item_bank, items, both)
    likely = likelihood_given_p(item_bank, items, both, scores, p)
    without_behaviour = mastery * p[0] + (1 - mastery) * p[1]
    others = chance_of_others(item_bank, states, learners, items)
    successes, failures = (
        _log_counts(item_bank, states, learners, items) if parameters.behaviour else (np.zeros(states.count),) * 2
    )
    prediction = Prediction(
        p=without_behaviour,
        without_behaviour=without_behaviour,
        logit=logit,
        variance=variance,
        known=likely[0],
        unknown=likely[1],
        mastery=mastery,
        others=others,
        successes=successes,
        failures=failures,
    )
    if parameters.behaviour:
        outputs = FilterOutputs(
            without_behaviour, variance, mastery, states.total_responses.astype(np.float64), successes, failures
        )
        features = build_features(
            parameters.behaviour, item_bank, states.behaviour, states.recent, learners, items, outputs
        )
        prediction = replace(prediction, p=expected_p(parameters.behaviour, features))
        update_behaviour_state(states.behaviour, features, items, scores)
    pull, shrinkage = measure_surprise(parameters, items, scores, prediction)
    slope = item_bank.discrimination[items]
    cautious = _cautious_likelihood(parameters, states, items, scores, both, likely)
    _update_ability(population, states, slope, pull, shrinkage)
    states.total_responses[:] += 1
    states.last_item[:] = items
    for slot in asked:
        rows, asking = slot.rows, items[slot.rows]
        loading = slope[rows] * item_bank.weights[asking, slot.column]
        _update_skill_effect(population, states, slot.cells, loading, pull[rows], shrinkage[rows])
        unknown = prediction.unknown[rows]
        known = likelihood_if_known(prediction.known[rows], unknown, others[rows, slot.column])
        posterior = bayes(states.mastery.take(slot.cells), known, unknown)
        _add_to_cusum(states, slot, cautious, others)
        update_prerequisites(parameters, states, slot, asking, posterior, times[rows])
        update_mastery(parameters, states, slot, asking, posterior, scores[rows])
    remember_items(states.recent, items, scores, states.total_responses)
    return prediction


def likelihood_if_known(known: Floats, unknown: Floats, others: Floats) -> Floats:
    """The likelihood of an answer if one of the item's skills is known, from those of all known and not all known.

    `others` is the chance that the other skills are known; without this one, the others make no difference.
    """
    return unknown + others * (known - unknown)


def _cautious_likelihood(
    parameters: Parameters, states: States, items: Integers, scores: Floats, both: Floats, likely: Floats
) -> tuple[Floats, Floats]:
    """The likelihoods (2, B) that count as evidence, and the weight (B,) of the answer: ½ for an item met before.

    Two things are not believed. An item that nobody has measured is not hard: who does not know its skills succeeds
    with at least ½ beyond guessing. And an ability of more than 1 does not explain right answers away.
    """
    unmeasured = parameters.items.unmeasured[items]
    excess = np.maximum(states.ability + states.daily_effect - HIGHEST_EXCUSE, 0.0)
    rows = (unmeasured | (excess > 0)).nonzero()[0]
    if rows.size:
        logits = both[:, rows] - parameters.items.discrimination[items[rows]] * excess[rows]
        least = np.stack([logits[1], np.where(unmeasured[rows], 0.0, logits[1])])
        likely = likely.copy()
        likely[:, rows] = likelihood(parameters.items, items[rows], np.maximum(logits, least), scores[rows])
    seen = find_recent(states.recent, np.arange(states.count), items)[1]
    return likely, np.where(seen, REPEATED, 1.0)


def _add_to_cusum(states: States, slot: _SkillSlot, cautious: tuple[Floats, Floats], others: Floats) -> None:
    """The cumulative sum of log likelihood ratios for knowing a skill, never below 0 (CUSUM, Page 1954)."""
    likely, weight = cautious
    rows = slot.rows
    unknown = likely[1][rows]
    ratio = likelihood_if_known(likely[0][rows], unknown, others[rows, slot.column]) / unknown
    gain = weight[rows] * xlogy(1.0, ratio)
    states.cusum.put(slot.cells, np.maximum(states.cusum.take(slot.cells) + gain, 0.0))


def fade_states(parameters: Parameters, states: States, times: Floats) -> States:
    """Return the states at later moments, if nothing is answered until then; `times` (B,) in days, 0 if unknown.

    For reading only: mastery fades by a power of the time since the last answer on a skill, so the filter goes on from
    the states left by that answer, which are never faded in between. The argument is not changed.
    """
    result = states.copy()
    rows, skills = np.nonzero((result.practised_at > 0) & (times[:, None] > 0))
    _forget(parameters, result, _cell_indices(states, rows, skills), skills, times[rows])
    _drift_ability(parameters.population, result, np.where(times > 0, times, result.seen_at))
    return result


def _pass_time(parameters: Parameters, states: States, asked: list[_SkillSlot], times: Floats) -> None:
    """Bring learners to the moment of an answer: the ability, and the skills that its item asks for."""
    _drift_ability(parameters.population, states, times)
    for slot in asked:
        _forget(parameters, states, slot.cells, slot.skill, times[slot.rows])


def _drift_ability(population: Population, states: States, times: Floats) -> None:
    """An ability may change while nobody looks: its variance grows with the days, up to the prior's."""
    if not (np.count_nonzero(times) or np.count_nonzero(states.seen_at)):
        return
    waited = elapsed_days(states.seen_at, times)
    states.ability_variance[:] = np.minimum(
        states.ability_variance + population.daily_drift * waited, population.ability_variance
    )
    states.seen_at[:] = _latest_time(states.seen_at, times)


def _forget(parameters: Parameters, states: States, cells: Integers, skill: Integers, times: Floats) -> None:
    """P(known) of one skill in each cell falls towards what it was before the first answer, never below that.

    base + (q - base) (1 + Δ)^-φ with base = min(q, P(L0)), Δ days beyond the first hour: the power law of forgetting
    (Wickelgren 1974; Wixted & Ebbesen 1991). Waiting never raises a mastery.
    """
    since = states.practised_at.take(cells)
    if not (np.count_nonzero(times) or np.count_nonzero(since)):
        return
    waited = elapsed_days(since, times)
    if np.count_nonzero(waited):
        mastery = states.mastery.take(cells)
        gained = np.maximum(mastery - parameters.skills.prior[skill], 0.0)
        states.mastery.put(cells, mastery + gained * expm1(-parameters.population.fading * log1p(waited)))
    states.practised_at.put(cells, _latest_time(since, times))


def elapsed_days(since: Floats, times: Floats) -> Floats:
    """The days from one moment to another beyond the first hour; 0 where either is unknown, or the clock went back."""
    return np.maximum(times - since - SHORTEST_PAUSE, 0.0) * (np.minimum(since, times) > 0)


def _latest_time(since: Floats, times: Floats) -> Floats:
    """The moment of the last answer once another came; unknown if that of the new one is."""
    return np.maximum(since, times) * (times > 0)


def measure_surprise(
    parameters: Parameters, items: Integers, scores: Floats, prediction: Prediction
) -> tuple[Floats, Floats]:
    """How far the answer pulls the latent logit, and how much of its variance it removes, both per unit of variance.

    The posterior is a mixture of "knew it" and "did not"; its two first moments are kept.
    """
    weight = prediction.mastery * prediction.known
    weight = weight / (weight + (1 - prediction.mastery) * prediction.unknown)
    eta, variance = prediction.logit, prediction.variance
    shift = parameters.population.shifts * parameters.items.has_skills[items]
    x, spread = _posterior_mode(parameters.items, items, scores, eta, variance, shift)
    rest = 1 - weight
    mean = weight * x[0] + rest * x[1]
    apart = spread + (x - mean) ** 2
    left = weight * apart[0] + rest * apart[1]
    return (mean - eta) / variance, np.maximum(variance - left, 0.0) / (variance * variance)


def _posterior_mode(
    items: Items, chosen: Integers, scores: Floats, eta: Floats, variance: Floats, shift: Floats
) -> tuple[Floats, Floats]:
    """The mode of N(x; η, V) p(y | x + shift) by Newton steps, and the variance there (Laplace); (2, N) like `shift`.

    Steps are bounded: from far below the mode a full step would overshoot. A step can then never cross η, so a
    correct answer cannot lower the estimate.
    """
    x, precision = eta, 1 / variance
    for number in range(NEWTON_STEPS):
        gradient, information = slopes(items, chosen, x + shift, scores)
        if number:  # at η the prior does not pull
            gradient = gradient - (x - eta) / variance
        x = x + clip(gradient / (information + precision), -LONGEST_STEP, LONGEST_STEP)
    _, information = slopes(items, chosen, x + shift, scores)
    return x, 1 / (information + precision)


def _update_ability(population: Population, states: States, slope: Floats, pull: Floats, shrinkage: Floats) -> None:
    """Ability drifts, form is an AR(1) process: both take their share of the surprise first."""
    gain = slope * states.ability_variance
    states.ability[:] = clip(states.ability + gain * pull, -BOUND, BOUND)
    states.ability_variance[:] += population.ability_drift - gain * gain * shrinkage
    np.minimum(states.ability_variance, population.ability_variance, out=states.ability_variance)
    gain = slope * states.daily_effect_variance
    keep = population.daily_effect_retention
    states.daily_effect[:] = keep * clip(states.daily_effect + gain * pull, -BOUND, BOUND)
    states.daily_effect_variance[:] = (
        keep * keep * (states.daily_effect_variance - gain * gain * shrinkage)
        + (1 - keep * keep) * population.daily_effect_variance
    )


def _update_skill_effect(
    population: Population,
    states: States,
    cells: Integers,
    loading: Floats,
    pull: Floats,
    shrinkage: Floats,
) -> None:
    """The learner's offset on one skill takes its share of the surprise, then drifts."""
    before = states.skill_effect_variance.take(cells)
    gain = loading * before
    states.skill_effect.put(cells, clip(states.skill_effect.take(cells) + gain * pull, -BOUND, BOUND))
    after = before - gain * gain * shrinkage + population.skill_drift
    states.skill_effect_variance.put(cells, np.minimum(after, max(SKILL_VARIANCE_LIMIT, population.skill_variance)))


def update_mastery(
    parameters: Parameters, states: States, asked: _SkillSlot, items: Integers, posterior: Floats, scores: Floats
) -> None:
    """After Bayes one transition: what was known may be forgotten, what was not may be learnt by answering right.

    P(T) counts in the measure of the score. That a wrong answer teaches as much as a right one, as in Corbett &
    Anderson, predicts worse, and would lift somebody who is always wrong to mastery (docs/decisions/0011). It counts
    little where the answer was luck (`measure_of_learning`).
    """
    skills, cells = parameters.skills, asked.cells
    p_learn, forget = skills.p_learn[asked.skill], skills.p_forget[asked.skill]
    learn = p_learn * scores * measure_of_learning(posterior)
    mastery = posterior * (1 - forget) + (1 - posterior) * learn
    responses = states.responses.take(cells) + 1
    states.mastery.put(cells, mastery)
    states.learning_gain.put(cells, np.maximum(mastery - posterior, 0.0))
    states.responses.put(cells, responses)
    states.successes.put(cells, states.successes.take(cells) + scores)
    states.practised.put(cells, states.total_responses[asked.rows])
    states.stalled.put(cells, np.where(mastery < STALLED_BELOW, states.stalled.take(cells) + 1, 0))
    uncertainty = states.ability_variance[asked.rows] + states.daily_effect_variance[asked.rows]
    becomes = becomes_mastered(mastery, responses, states.cusum.take(cells), uncertainty, p_learn)
    if np.count_nonzero(becomes):
        becomes &= has_met_another(parameters, states.recent, asked.rows, items, asked.skill)
    mastered = becomes | stays_mastered(states.mastered.take(cells), mastery)
    states.mastered.put(cells, mastered)
    states.attained.put(cells, states.attained.take(cells) | mastered)


def measure_of_learning(posterior: Floats) -> Floats:
    """How far P(T) counts for somebody who knew the skill with this probability after the answer; within 0..1.

    post / (post + .05): a right answer that was all but certainly luck teaches hardly anything. So one cannot raise the
    odds of knowing by more than the likelihood ratio times 1 + P(T) / .05.
    """
    return posterior / (posterior + LUCK) * (1 + LUCK)


def update_prerequisites(
    parameters: Parameters,
    states: States,
    asked: _SkillSlot,
    items: Integers,
    posterior: Floats,
    times: Floats,
) -> None:
    """An answer on a skill also speaks of its direct prerequisites (noisy AND), unless the item asks for them itself.

    Knowing s is `WITHOUT_PREREQUISITE` times as likely where the prerequisite r is missing, and such that P(s) stays
    what it is if it can. P(r) then follows what the answer changed in P(s) by Jeffrey's rule (1965), from P(r) towards
    P(r | s) or P(r | not s), in the measure in which the item asks for s. A rise that only makes good what was
    forgotten of s says nothing new of r: else r would rise for ever with right answers on s.
    """
    skills, item_bank = parameters.skills, parameters.items
    informed = parameters.informed_prerequisites[items, asked.column]
    for column in range(informed.shape[1]):
        held = (informed[:, column] >= 0).nonzero()[0]
        if not held.size:
            continue
        r = informed[held, column]
        cells = _cell_indices(states, asked.rows[held], r)
        _forget(parameters, states, cells, r, times[held])
        q_s, q_r = states.mastery.take(asked.cells[held]), states.mastery.take(cells)
        reach = q_r + WITHOUT_PREREQUISITE * (1 - q_r)
        with_it = np.minimum(q_s / reach, 1.0)
        expected_p = clip(with_it * reach, CERTAIN, 1 - CERTAIN)
        if_known, if_unknown = q_r * with_it / expected_p, q_r * (1 - with_it) / (1 - expected_p)
        retained = np.maximum(posterior[held] * (1 - skills.p_forget[asked.skill[held]]) - q_s, 0.0)
        risen = retained / np.maximum(1 - q_s, CERTAIN) * np.maximum(if_known - q_r, 0.0)
        fallen = np.maximum(q_s - posterior[held], 0.0) / np.maximum(q_s, CERTAIN) * np.maximum(q_r - if_unknown, 0.0)
        moved = q_r + item_bank.share[items[held]] * (risen - fallen)
        states.mastery.put(cells, clip(moved, np.minimum(q_r, CERTAIN), np.maximum(q_r, 1 - CERTAIN)))


def bayes(prior: Floats, if_true: Floats, if_false: Floats) -> Floats:
    """P(true | data) from P(true) and the two likelihoods; stops 1e-9 before 0 and 1, which nothing could leave."""
    weight = prior * if_true
    posterior = weight / (weight + (1 - prior) * if_false)
    return clip(posterior, np.minimum(prior, CERTAIN), np.maximum(prior, 1 - CERTAIN))


def is_at_bound(states: States) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    """Whether an ability was stopped at the end of the scale, ±6; (B,)."""
    return np.abs(states.ability) >= BOUND
