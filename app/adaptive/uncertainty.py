"""How sure the engine is of an ability: its standard error, with what the filter cannot see added back.

The filter keeps no covariances, and so takes form, offsets and knowledge for fresh noise at every answer. They last,
and what lasts does not average out: its variance of θ falls as if a hundred answers on one good day were a hundred
days. Here the variance that the mean of all this has over the answers is added back (docs/models.md, "How sure").
"""

import numpy as np
from scipy.special import expm1, log1p

from app.adaptive.likelihood import bounded
from app.adaptive.types import Floats, Integers, Parameters, States

# Of the answers of somebody who does not know a skill, as many succeed as make P(T) count half.
SUCCESS = 0.5
LEAST_VARIANCE = 1e-100
SHORTEST_RETENTION = 1e-9
LONGEST_RETENTION = 1 - 1e-6


def standard_error(parameters: Parameters, states: States) -> Floats:
    """The standard error of θ in logits, (B,): θ ± 1.645 of it holds 90 %. Never above the prior's, never below √v.

    The answers told the filter 1/v - 1/v₀ of θ. If their mean is disturbed by something of variance e, they told
    only 1 / (1 / (1/v - 1/v₀) + e); with the prior this leaves a variance of v + e d² / (v₀² + e d), d = v₀ - v.
    """
    prior = max(parameters.population.ability_variance, LEAST_VARIANCE)
    told = np.maximum(parameters.population.ability_variance - states.ability_variance, 0.0)
    disturbed = disturbance(parameters, states.answers, states.evidence)
    return np.sqrt(states.ability_variance + disturbed * told * told / (prior * prior + disturbed * told))


def disturbance(parameters: Parameters, answers: Integers, evidence: Integers) -> Floats:
    """The variance, (B,), of what lasts from answer to answer and is not ability, averaged over the answers.

    Only covariances between different answers count, (1/n²) Σ_{i≠j}; the filter minds the rest. The form is an AR(1)
    process with variance σ_f². Two answers on one skill share its offset at the start, v_s₀; the drift before the
    earlier one, q_s; and whether it was known, with variance P(L0) (1 - P(L0)) (δ_h - δ_l)², as long as it neither is
    learnt nor forgotten. `answers` (B,) are all, `evidence` (B, S) those on each skill.
    """
    population, skills = parameters.population, parameters.skills
    whole = np.maximum(answers, 1)
    result = population.form_variance * lasting(answers, np.array(population.form_retention)) / (whole * whole)
    met = np.flatnonzero(evidence.any(axis=0))
    if not met.size:
        return np.asarray(result)
    # An item of several skills has a part of each.
    asked = np.maximum(whole, evidence.sum(axis=1))
    evidence = evidence[:, met]
    prior, gap = skills.prior[met], population.known_shift - population.unknown_shift
    known = prior * (1 - prior) * gap * gap
    retention = 1 - SUCCESS * skills.learn[met] - skills.forget[met]
    pairs = evidence * (evidence - 1)
    of_skills = (
        population.skill_variance * pairs
        + population.skill_drift * (pairs * (evidence - 2)) / 3
        + known * lasting(evidence, retention)
    )
    # Always from left to right, so that skills nobody has met change no bit.
    total = np.add.accumulate(of_skills, axis=1)[:, -1]
    return np.asarray(result + total / (asked * asked))


def lasting(count: Integers, retention: Floats) -> Floats:
    """Σ_{i≠j} ρ^|i-j| over `count` answers: 2ρ [n (1 - ρ) - (1 - ρⁿ)] / (1 - ρ)², never negative."""
    keep = bounded(retention, SHORTEST_RETENTION, LONGEST_RETENTION)
    lost = 1 - keep
    return np.asarray(np.maximum(2 * keep * (count * lost + expm1(count * log1p(-lost))) / (lost * lost), 0.0))
