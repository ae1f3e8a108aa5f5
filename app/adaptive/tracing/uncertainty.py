"""How sure the engine is of an ability: its standard error, with what the filter cannot see added back.

The filter keeps no covariances, and so takes form, offsets and knowledge for fresh noise at every answer. They last,
and what lasts does not average out: its variance of θ falls as if a hundred answers on one good day were a hundred
days. Here the variance that the mean of all this has over the answers is added back (docs/models.md, "How sure").
"""

import numpy as np
from scipy.special import expm1, log1p

from app.adaptive.arrays import Floats, Integers
from app.adaptive.numerics import clip
from app.adaptive.parameters import Parameters
from app.adaptive.state import States

# Of the answers of somebody who does not know a skill, as many succeed as make P(T) count half.
SUCCESS = 0.5
# What is added to the variance because parameters are estimates, as a share (docs/models.md, "How sure").
ESTIMATED = 0.2
LEAST_VARIANCE = 1e-100
SHORTEST_RETENTION = 1e-9
LONGEST_RETENTION = 1 - 1e-6


def standard_error(parameters: Parameters, states: States) -> Floats:
    """The standard error of θ in logits, (B,): θ ± 1.645 of it holds 90 %. Never above the prior's, never below √v.

    The answers told the filter 1/v - 1/v₀ of θ. If their mean is disturbed by something of variance e, they told
    only 1 / (1 / (1/v - 1/v₀) + e); with the prior this leaves a variance of w = v + e d² / (v₀² + e d), d = v₀ - v.
    Parameters are estimates, too: a calibration finds the v₀ that predicts best, which is too small, so w counts
    1 + .2 d / v₀ times.
    """
    prior = max(parameters.population.ability_variance, LEAST_VARIANCE)
    information = np.maximum(parameters.population.ability_variance - states.ability_variance, 0.0)
    disturbance_variance = disturbance(parameters, states.total_responses, states.responses)
    variance = states.ability_variance + disturbance_variance * information * information / (
        prior * prior + disturbance_variance * information
    )
    return np.sqrt(np.minimum(variance * (1 + ESTIMATED * information / prior), np.maximum(variance, prior)))


def disturbance(parameters: Parameters, total_responses: Integers, responses: Integers) -> Floats:
    """The variance, (B,), of what lasts from answer to answer and is not ability, averaged over the answers.

    Only covariances between different answers count, (1/n²) Σ_{i≠j}; the filter minds the rest. The form is an AR(1)
    process with variance σ_f². Two answers on one skill share its offset at the start, v_s₀; the drift before the
    earlier one, q_s; and whether it was known, with variance P(L0) (1 - P(L0)) (δ_h - δ_l)², as long as it neither is
    learnt nor forgotten. `total_responses` (B,) are all, `responses` (B, S) those on each skill.
    """
    population, skills = parameters.population, parameters.skills
    whole = np.maximum(total_responses, 1)
    result = (
        population.daily_effect_variance
        * autocovariance_sum(total_responses, np.array(population.daily_effect_retention))
        / (whole * whole)
    )
    met = np.flatnonzero(responses.any(axis=0))
    if not met.size:
        return np.asarray(result)
    # An item of several skills has a part of each.
    asked = np.maximum(whole, responses.sum(axis=1))
    responses = responses[:, met]
    prior, gap = skills.prior[met], population.known_shift - population.unknown_shift
    known = prior * (1 - prior) * gap * gap
    retention = 1 - SUCCESS * skills.p_learn[met] - skills.p_forget[met]
    pairs = responses * (responses - 1)
    of_skills = (
        population.skill_variance * pairs
        + population.skill_drift * (pairs * (responses - 2)) / 3
        + known * autocovariance_sum(responses, retention)
    )
    # Always from left to right, so that skills nobody has met change no bit.
    total = np.add.accumulate(of_skills, axis=1)[:, -1]
    return np.asarray(result + total / (asked * asked))


def autocovariance_sum(count: Integers, retention: Floats) -> Floats:
    """Σ_{i≠j} ρ^|i-j| over `count` answers: 2ρ [n (1 - ρ) - (1 - ρⁿ)] / (1 - ρ)², never negative."""
    keep = clip(retention, SHORTEST_RETENTION, LONGEST_RETENTION)
    lost = 1 - keep
    return np.asarray(np.maximum(2 * keep * (count * lost + expm1(count * log1p(-lost))) / (lost * lost), 0.0))
