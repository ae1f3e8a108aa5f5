"""The models of the field that the engine is compared with, each fitted by its own likelihood until it converges.

Every model is a function `(skills, training, unseen) → p`: `skills` (I, K) are the skills of each item, padded with -1;
it is fitted to the log `training` and predicts each of the N answers of `unseen`, other learners, from what that
learner answered before it. What must be chosen (a ridge, a variance) is chosen on a fifth of the learners of
`training`; then all of them are fitted. Items and skills that `training` lacks are predicted from the rest. Items
without a skill share one that stands for none. A fractional score y counts as y of a success and 1 - y of a failure.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csc_array, csr_array, eye_array, hstack
from scipy.sparse.linalg import splu
from scipy.special import expit, log_expit

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.assess.metrics import total_loss
from app.adaptive.bkt import Setup
from app.adaptive.bkt import fit_bkt as fit_tracing
from app.adaptive.bkt import predict_bkt as predict_tracing
from app.adaptive.calibration.fit import INTERCEPT_LIMIT, select_learners
from app.adaptive.response_log import Log

CERTAIN = 1e-9
VALIDATION_SHARE = 5
SEED = 0

# From much to little trust in the prior; the search stops where held-out learners are predicted worse again.
PSEUDO_ANSWERS = (64.0, 32.0, 16.0, 8.0, 4.0, 2.0, 1.0)
RIDGES = (30.0, 10.0, 3.0, 1.0, 0.3, 0.1, 0.03)
INTERCEPT_VARIANCES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
# Keeps logs with only one kind of answers finite.
INTERCEPT_RIDGE = 0.1

STEPS = 2000
GRADIENT = 1e-4
RELATIVE_CHANGE = 1e-12

# Few nodes to fit, many to predict: the posterior of somebody who answered a thousand times is narrow.
FIT_NODES = np.linspace(-4, 4, 21)
NODES = np.linspace(-4.5, 4.5, 61)
EM_STEPS = 500
EM_CHANGE = 1e-3
BLOCK_ANSWERS = 1 << 15
# exp(-200) is nothing beside 1, and far from where numbers lose their digits.
NEGLIGIBLE = -200.0


def item_only(skills: Integers, training: Log, unseen: Log) -> Floats:
    """How easy the item is and nothing else: its mean score, shrunk to the mean of all answers."""

    def fit_bkt(log: Log, weight: float) -> Floats:
        mean = (log.scores.sum() + 1) / (len(log.scores) + 2)
        count = np.bincount(log.items, minlength=len(skills))
        return np.asarray((np.bincount(log.items, log.scores, len(skills)) + weight * mean) / (count + weight))

    fitted, validation = split(training)
    weight = best_choice(
        (weight, total_loss(_clip_probabilities(fit_bkt(fitted, weight)[validation.items]), validation.scores))
        for weight in PSEUDO_ANSWERS
    )
    return _clip_probabilities(fit_bkt(training, weight)[unseen.items])


def pfa(skills: Integers, training: Log, unseen: Log) -> Floats:
    """Performance factors analysis (Pavlik, Cen & Koedinger 2009): the logit is Σ_s β_s + γ_s wins_s + ρ_s fails_s.

    The counts enter as log(1 + n): plain ones predicted worse on both data sets where they were tried.
    """
    return _fit_and_predict_logistic(_pfa_features, skills, training, unseen)


def _pfa_features(skills: Integers, log: Log) -> csr_array:
    """One row an answer: intercept, and for each skill itself, wins and fails on it before."""
    tags = skill_matrix(skills)[log.items]
    wins, fails = prior_counts(tags, log)
    return _join_columns(
        np.ones(len(log.items)), [tags, _with_values(tags, np.log1p(wins)), _with_values(tags, np.log1p(fails))]
    )


def best_lr(skills: Integers, training: Log, unseen: Log) -> Floats:
    """Best-LR (Gervet, Koedinger, Schneider & Mitchell 2020): item, skills, and successes and failures on a log scale.

    The logit is the item's, plus the skills', plus log(1 + wins) and log(1 + fails) over all answers and over those to
    the item, plus the same for each skill with weights of its own. Their attempts instead of our fails predicted worse
    on three data sets, and weights of its own for each item's counts no better.
    """
    return _fit_and_predict_logistic(best_lr_features, skills, training, unseen)


def best_lr_features(skills: Integers, log: Log) -> csr_array:
    """One row an answer: intercept, item, skills, both counts over all answers, to the item, and for each skill."""
    items, tags, count = _one_hot(log.items, len(skills)), skill_matrix(skills)[log.items], len(log.items)
    wins, fails = prior_counts(tags, log)
    totals = prior_counts(_one_hot(np.zeros(count, dtype=np.int64), 1), log)
    parts = [
        items,
        tags,
        csr_array(np.log1p(np.column_stack([*totals, *prior_counts(items, log)]))),
        _with_values(tags, np.log1p(wins)),
        _with_values(tags, np.log1p(fails)),
    ]
    return _join_columns(np.ones(count), parts)


def irt(skills: Integers, training: Log, unseen: Log) -> Floats:
    """Rasch (1960): items by marginal maximum likelihood, ability by the posterior of the answers so far.

    Intercepts have the prior N(mean of the item's skills, τ²); ability is N(0, σ²) and does not change.
    """
    tags = skill_matrix(skills)
    fitted, validation = split(training)
    curves = RaschCurves(np.zeros(len(skills)), 1.0)

    def losses() -> Iterator[tuple[float, float]]:
        nonlocal curves
        for variance in INTERCEPT_VARIANCES:
            curves = fit_rasch(tags, fitted, variance, curves)
            yield variance, total_loss(predict_irt(curves, validation), validation.scores)

    variance = best_choice(losses())
    return predict_irt(fit_rasch(tags, training, variance, curves), unseen)


def bkt(skills: Integers, training: Log, unseen: Log) -> Floats:
    """Bayesian knowledge tracing (Corbett & Anderson 1995) in the variant that predicts held-out learners best.

    Each learner has a chain for each skill, or for each set of skills that an item asks for; a skill may be forgotten,
    or not; guess and slip are those of the skill, or of each item (KT-IDEM, Pardos & Heffernan 2011). All combinations
    are tried. With a chain for each skill, an answer to an item with several is expected to be the mean of what each of
    them says.
    """
    fitted, validation = split(training)

    def validation_loss(variant: BktVariant) -> float:
        return total_loss(predict_bkt_variant(variant, skills, fitted, validation), validation.scores)

    return predict_bkt_variant(min(bkt_variants(skills), key=validation_loss), skills, training, unseen)


@dataclass(frozen=True)
class BktVariant:
    """A variant of knowledge tracing: chains for sets of skills instead of skills, and what else is fitted."""

    by_skill_set: bool
    forgets: bool
    per_item: bool


def bkt_variants(skills: Integers) -> list[BktVariant]:
    """All variants, the plainest first; sets only where an item has several skills, as they are the same elsewhere."""
    sets = (False, True) if ((skills >= 0).sum(axis=1) > 1).any() else (False,)
    return [BktVariant(*choices) for choices in product(sets, (False, True), (False, True))]


def predict_bkt_variant(variant: BktVariant, skills: Integers, training: Log, unseen: Log) -> Floats:
    """What a variant fitted to `training` predicts of `unseen`, (N,)."""
    traced = skill_sets(skills) if variant.by_skill_set else with_null_skill(skills)
    setup = Setup(forgets=variant.forgets, per_item=variant.per_item)
    fitted = fit_tracing(traced, training, setup, np.random.default_rng(SEED))
    return _clip_probabilities(predict_tracing(fitted, unseen))


# What the models share


def _clip_probabilities(p: Floats) -> Floats:
    """Probabilities within 1e-9 and 1 - 1e-9."""
    return np.clip(p, CERTAIN, 1 - CERTAIN)


def split(log: Log) -> tuple[Log, Log]:
    """The log of four fifths of the learners, and of the rest; the same log twice if there is only one learner."""
    if log.learners < 2:  # noqa: PLR2004
        return log, log
    order = np.random.default_rng(SEED).permutation(log.learners)
    validation = order < max(log.learners // VALIDATION_SHARE, 1)
    return select_learners(log, ~validation), select_learners(log, validation)


def best_choice(losses: Iterator[tuple[float, float]]) -> float:
    """The choice before the loss first rises."""
    chosen, least = next(losses)
    for choice, loss in losses:
        if loss >= least:
            break
        chosen, least = choice, loss
    return chosen


def with_null_skill(skills: Integers) -> Integers:
    """The same skills (I, K), at least one an item: those without have the number after the last."""
    skills = skills if skills.shape[1] else np.full((len(skills), 1), -1)
    named = skills.copy()
    named[~(skills >= 0).any(axis=1), 0] = int(skills.max(initial=-1)) + 1
    return named


def skill_sets(skills: Integers) -> Integers:
    """One skill for each distinct set of skills, the empty one too; (I, 1)."""
    return np.unique(np.sort(skills, axis=1), axis=0, return_inverse=True)[1].reshape(-1, 1)


def skill_matrix(skills: Integers) -> csr_array:
    """(I, S): 1 where an item asks for a skill, with `with_null_skill`."""
    skills = with_null_skill(skills)
    items, columns = np.nonzero(skills >= 0)
    shape = (len(skills), int(skills.max(initial=-1)) + 1)
    return csr_array((np.ones(len(items)), (items, skills[items, columns])), shape=shape)


def _one_hot(columns: Integers, count: int) -> csr_array:
    """(N, count): 1 in the column named for each row."""
    rows = len(columns)
    return csr_array((np.ones(rows), columns, np.arange(rows + 1)), shape=(rows, count))


def prior_counts(tags: csr_array, log: Log) -> tuple[Floats, Floats]:
    """How much of its learner's answers with the same tag was right and wrong before, for each entry of `tags` (N, T).

    An answer does not count for itself.
    """
    learner = np.repeat(np.arange(log.learners), np.diff(log.starts))
    answer = np.repeat(np.arange(len(log.items)), np.diff(tags.indptr))
    order = np.argsort(learner[answer] * np.int64(tags.shape[1]) + tags.indices, kind="stable")
    group, score = (learner[answer] * np.int64(tags.shape[1]) + tags.indices)[order], log.scores[answer][order]
    first = np.flatnonzero(np.diff(group, prepend=-1))
    length = np.diff(first, append=len(group))
    wins, fails = np.empty(len(group)), np.empty(len(group))
    for counted, value in ((wins, score), (fails, 1 - score)):
        before = np.cumsum(value) - value
        counted[order] = np.maximum(before - np.repeat(before[first], length), 0.0)
    return wins, fails


def _with_values(tags: csr_array, values: Floats) -> csr_array:
    """The same places with other values."""
    return csr_array((values, tags.indices, tags.indptr), shape=tags.shape)


def _join_columns(intercept: Floats, parts: Sequence[csr_array]) -> csr_array:
    """The columns of all parts side by side, after the intercept."""
    return csr_array(hstack([csr_array(intercept[:, None]), *parts], format="csr"))


# Logistic regression


def _fit_and_predict_logistic(
    features: Callable[[Integers, Log], csr_array], skills: Integers, training: Log, unseen: Log
) -> Floats:
    """Fit a logistic regression with a ridge chosen on held-out learners; its predictions."""
    fitted, validation = split(training)
    rows, other = features(skills, fitted), features(skills, validation)
    weights = np.zeros(rows.shape[1])

    def losses() -> Iterator[tuple[float, float]]:
        nonlocal weights
        for ridge in RIDGES:
            weights = fit_logistic(rows, fitted.scores, ridge, weights)
            yield ridge, total_loss(_clip_probabilities(expit(other @ weights)), validation.scores)

    ridge = best_choice(losses())
    weights = fit_logistic(features(skills, training), training.scores, ridge, weights)
    return _clip_probabilities(expit(features(skills, unseen) @ weights))


def fit_logistic(rows: csr_array, scores: Floats, ridge: float, start: Floats) -> Floats:
    """The weights (D,) that maximise Σ y log p + (1 - y) log(1 - p) - ridge |w|² / 2; the first is the intercept.

    L-BFGS (Liu & Nocedal 1989) on columns scaled to a curvature of at most about 1, from the weights `start`.
    """
    penalty = np.full(rows.shape[1], ridge)
    penalty[0] = INTERCEPT_RIDGE
    scale = 1 / np.sqrt(0.25 * np.bincount(rows.indices, rows.data**2, rows.shape[1]) + penalty)
    columns = rows.T

    def loss(scaled: Floats) -> tuple[float, Floats]:
        weights = scale * scaled
        logit = rows @ weights
        value = -(scores @ log_expit(logit) + (1 - scores) @ log_expit(-logit)) + 0.5 * (penalty @ weights**2)
        return float(value), scale * (columns @ (expit(logit) - scores) + penalty * weights)

    solution = minimize(
        loss,
        start / scale,
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": STEPS, "maxfun": 2 * STEPS, "gtol": GRADIENT, "ftol": RELATIVE_CHANGE, "maxcor": 20},
    )
    return np.asarray(scale * solution.x)


# Item response theory


@dataclass(frozen=True)
class RaschCurves:
    """The logit of item i is intercept_i (I,) + discrimination × ability, the ability N(0, 1)."""

    intercept: Floats
    discrimination: float


def fit_rasch(tags: csr_array, log: Log, variance: float, start: RaschCurves) -> RaschCurves:
    """Marginal maximum likelihood by EM (Bock & Aitkin 1981), a Newton step in every M-step.

    The one discrimination is the spread of ability. The E-step is two sparse products, learners × items with items ×
    nodes.
    """
    learner = np.repeat(np.arange(log.learners), np.diff(log.starts))
    shape = (log.learners, tags.shape[0])
    right = csr_array((log.scores, (learner, log.items)), shape=shape)
    wrong = csr_array((1 - log.scores, (learner, log.items)), shape=shape)
    centre = _centring(tags, np.bincount(log.items, minlength=shape[1]) > 0, variance)
    curves = start
    for _ in range(EM_STEPS):
        logit = curves.intercept[:, None] + curves.discrimination * FIT_NODES
        posterior = _normalise(-0.5 * FIT_NODES**2 + right @ log_expit(logit) + wrong @ log_expit(-logit))
        hits, misses = right.T @ posterior, wrong.T @ posterior
        prior = (centre(curves.intercept) - curves.intercept) / variance
        moved = _newton_step(curves, expit(logit), hits, hits + misses, prior, 1 / variance)
        change = np.abs(moved.intercept - curves.intercept).max(initial=0.0)
        curves = moved
        if change < EM_CHANGE:
            break
    return curves


def _newton_step(
    curves: RaschCurves, p: Floats, hits: Floats, chances: Floats, prior: Floats, precision: float
) -> RaschCurves:
    """Take one Newton step for the intercepts and the discrimination together.

    The successes and the answers expected at each node are (I, Q), `prior` is the gradient of the prior (I,).
    """
    surprise, curvature = hits - chances * p, chances * p * (1 - p)
    gradient = surprise.sum(axis=1) + prior
    information = curvature.sum(axis=1) + precision
    cross = curvature @ FIT_NODES
    # One answer's worth of prior keeps the discrimination near 1 where no answer informs about it.
    slope = float((surprise @ FIT_NODES).sum()) + 1 - curves.discrimination - float(cross @ (gradient / information))
    bend = float((curvature @ FIT_NODES**2).sum()) + 1 - float(cross @ (cross / information))
    move = float(np.clip(slope / bend, -0.2, 0.2))
    intercept = curves.intercept + np.clip((gradient - cross * move) / information, -1, 1)
    intercept = np.clip(intercept, -INTERCEPT_LIMIT, INTERCEPT_LIMIT)
    return RaschCurves(intercept, float(np.clip(curves.discrimination + move, 0.1, 4.0)))


def _centring(tags: csr_array, answered: Booleans, variance: float) -> Callable[[Floats], Floats]:
    """Return a function from the intercepts of the items (I,) to those expected given their skills; (I,).

    An intercept is N(mean of its skills' levels, τ²), levels are N(overall, 1), and overall is free: the levels that
    are most likely given the items that were `answered`.
    """
    shares = csr_array(tags.multiply(1 / np.diff(tags.indptr)[:, None]))
    weighted = csr_array(shares.multiply(answered[:, None]))
    solve = splu(csc_array(weighted.T @ weighted / variance + eye_array(tags.shape[1]))).solve
    free = solve(np.ones(tags.shape[1]))

    def centre(intercept: Floats) -> Floats:
        skill_levels = solve(weighted.T @ intercept / variance)
        overall = skill_levels.mean() / max(1 - free.mean(), CERTAIN)
        return np.asarray(shares @ (skill_levels + overall * free))

    return centre


def predict_irt(curves: RaschCurves, log: Log) -> Floats:
    """The expected score of each answer over the posterior of the learner's ability before it; (N,).

    Exact on the nodes: P(y | earlier answers) = Σ_q P(q | earlier answers) P(y | q).
    """
    p = np.empty(len(log.items))
    for first, last in learner_blocks(log.starts):
        starts = log.starts[first : last + 1]
        span = slice(starts[0], starts[-1])
        logit = curves.intercept[log.items[span], None] + curves.discrimination * NODES
        score = log.scores[span, None]
        gain = score * log_expit(logit) + (1 - score) * log_expit(-logit)
        before = np.cumsum(gain, axis=0) - gain
        lengths = np.diff(starts)
        before -= np.repeat(before[(starts[:-1] - starts[0])[lengths > 0]], lengths[lengths > 0], axis=0)
        posterior = _normalise(before - 0.5 * NODES**2)
        p[span] = (posterior * expit(logit)).sum(axis=1)
    return _clip_probabilities(p)


def learner_blocks(starts: Integers) -> Iterator[tuple[int, int]]:
    """Learners in a row with about `BLOCK_ANSWERS` answers together, as `(first, last + 1)`; none without answers."""
    first, learners = 0, len(starts) - 1
    while first < learners:
        last = int(np.searchsorted(starts, starts[first] + BLOCK_ANSWERS, side="right")) - 1
        last = min(max(last, first + 1), learners)
        yield first, last
        first = last


def _normalise(logs: Floats) -> Floats:
    """Probabilities along the last axis from their logarithms up to a constant."""
    peak = logs - logs.max(axis=1, keepdims=True)
    p = np.exp(np.maximum(peak, NEGLIGIBLE))
    return np.asarray(p / p.sum(axis=1, keepdims=True))
