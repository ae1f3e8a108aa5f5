"""Fit the head: factors by variational EM, then a ridge logistic regression on what the factors leave over.

Both stand on predictions that have not seen the answer they are fitted to: the filter's are cross-fitted by
`calibrate`, and the factors here over folds of learners. How many factors, how strong a ridge, and whether there is a
head at all, is decided on learners of the log that were kept out of the candidate (docs/models.md, "The head").
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from scipy import sparse
from scipy.optimize import minimize
from scipy.special import expit

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.assess.metrics import total_loss
from app.adaptive.behaviour.model import (
    CONTEXTS,
    CROSSES,
    FEATURES,
    KINDS,
    Features,
    FilterOutputs,
    build_features,
    context_kind,
    expected_p,
    hash_item_contexts,
    hash_skill_sets,
    initial_behaviour_state,
    update_behaviour_state,
)
from app.adaptive.hashing import find_keys
from app.adaptive.parameters import BehaviourModel, Items
from app.adaptive.recent_items import initial_recent_items, remember_items

FOLDS = 4
FACTOR_CHOICES = (0, 4)
EM_STEPS = 15
LOADING_PRECISION = 2.0
SKILL_SET_PRECISION = 2.0
SLOPE_PRECISION = 20.0
START_SPREAD = 0.3
# The ridge of each kind of cross, in the order of `hash_crosses`, and of a feature.
CROSS_RIDGES = (8.0, 4.0, 4.0, 3.0, 5.0, 3.0, 6.0)
FEATURE_RIDGE = 1.0
RIDGE_CHOICES = (1.0, 4.0, 16.0)
# A cross seen once cannot be told from chance, and most are.
LEAST_CROSS = 2
SOLVER_STEPS = 200
LARGEST_BATCH = 4096
# Below this many learners a fold of them says nothing.
LEAST_LEARNERS = 8

Progress = Callable[[float], None]


@dataclass(frozen=True)
class FilteredLog:
    """A log with what the filter said before each answer; `starts` (L + 1,), the rest (N,)."""

    starts: Integers
    items: Integers
    scores: Floats
    outputs: FilterOutputs

    @property
    def learner(self) -> Integers:
        """(N,): whose answer it is."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def of(self, learners: Booleans) -> "FilteredLog":
        """The answers of some learners."""
        lengths = np.diff(self.starts)
        rows = np.flatnonzero(np.repeat(learners, lengths))
        outputs = FilterOutputs(
            **{field.name: getattr(self.outputs, field.name)[rows] for field in fields(FilterOutputs)}
        )
        return FilteredLog(np.append(0, np.cumsum(lengths[learners])), self.items[rows], self.scores[rows], outputs)


@dataclass(frozen=True)
class _ModelChoice:
    """What was chosen on learners kept out: R, the factor on the ridges, and whether a head predicts better at all."""

    factors: int
    ridge: float
    better: bool


def fit_behaviour_model(
    item_bank: Items, log: FilteredLog, rng: np.random.Generator, choice: _ModelChoice | None, progress: Progress
) -> tuple[BehaviourModel | None, _ModelChoice]:
    """The head for a log, or none where it would not predict better, and what was chosen on the way.

    `choice` repeats what was chosen before instead of choosing again.
    """
    learners = len(log.starts) - 1
    nothing = _ModelChoice(0, RIDGE_CHOICES[0], better=False)
    if learners < LEAST_LEARNERS or (choice is not None and not choice.better):
        return None, nothing
    fold = rng.permutation(learners) % FOLDS
    plain = trace_features(empty_behaviour_model(), item_bank, log)
    factors = _choose_factors(item_bank, log, plain, fold == 0) if choice is None else choice.factors
    progress(0.3)
    features = _cross_fit_features(item_bank, log, plain, fold, factors, lambda share: progress(0.3 + 0.3 * share))
    if choice is None:
        choice = _choose_ridge(log, features, fold == 0, factors)
        progress(0.8)
        if not choice.better:
            return None, nothing
    base = fit_factors(item_bank, log, plain, factors)
    behaviour_model = fit_weights(base, features, log.scores, choice.ridge)
    progress(1.0)
    return behaviour_model, choice


def empty_behaviour_model(factors: int = 0) -> BehaviourModel:
    """A head that predicts what the filter predicts."""
    keys = np.empty(0, dtype=np.uint64)
    return BehaviourModel(
        item_contexts=keys,
        loadings=np.zeros((0, 1 + factors)),
        skill_sets=keys,
        skill_set_loadings=np.zeros((0, 1 + factors)),
        context_loadings=np.zeros((KINDS, 1 + factors)),
        context_slope=np.zeros(KINDS),
        weights=np.zeros(FEATURES),
        context_weights=np.zeros((CONTEXTS, 3)),
        crosses=keys,
        cross_weights=np.zeros(0),
    )


def trace_features(behaviour_model: BehaviourModel, item_bank: Items, log: FilteredLog) -> Features:
    """Every answer of a log as the head sees it before it is given: the t-th of every learner at once."""
    count, lengths = len(log.items), np.diff(log.starts)
    features = Features(
        psi=np.empty(count),
        pull=np.empty(count),
        spread=np.empty(count),
        loading=np.empty((count, behaviour_model.factors)),
        context=np.empty(count, dtype=np.int64),
        values=np.empty((count, FEATURES)),
        crosses=np.empty((count, CROSSES), dtype=np.uint64),
    )
    order = np.argsort(-lengths, kind="stable")
    for first in range(0, len(order), LARGEST_BATCH):
        block = order[first : first + LARGEST_BATCH]
        behaviour_state, recent = initial_behaviour_state(len(block), behaviour_model), initial_recent_items(len(block))
        sizes = lengths[block]
        for t in range(int(sizes[0])):
            active = int(np.searchsorted(-sizes, -t, side="left"))
            rows = log.starts[:-1][block[:active]] + t
            outputs = FilterOutputs(
                **{field.name: getattr(log.outputs, field.name)[rows] for field in fields(FilterOutputs)}
            )
            working, seen = behaviour_state[:active], recent[:active]
            current = build_features(
                behaviour_model, item_bank, working, seen, np.arange(active), log.items[rows], outputs
            )
            update_behaviour_state(working, current, log.items[rows], log.scores[rows])
            remember_items(seen, log.items[rows], log.scores[rows], np.full(active, t + 1))
            for field in fields(Features):
                getattr(features, field.name)[rows] = getattr(current, field.name)
    return features


def _choose_factors(item_bank: Items, log: FilteredLog, plain: Features, validation: Booleans) -> int:
    """How many factors predict best on the learners kept aside."""
    rows = np.repeat(validation, np.diff(log.starts))
    training, testing = log.of(~validation), log.of(validation)
    losses = []
    for factors in FACTOR_CHOICES:
        behaviour_model = fit_factors(item_bank, training, _take_rows(plain, ~rows), factors)
        losses.append(
            total_loss(_clipped_expit(trace_features(behaviour_model, item_bank, testing).psi), testing.scores)
        )
    return FACTOR_CHOICES[int(np.argmin(losses))]


def _cross_fit_features(
    item_bank: Items, log: FilteredLog, plain: Features, fold: Integers, factors: int, progress: Progress
) -> Features:
    """The log as seen with factors that were fitted without the learner."""
    if not factors:
        return plain
    features = replace(plain, loading=np.empty((len(log.items), factors)))
    features = Features(**{field.name: getattr(features, field.name).copy() for field in fields(Features)})
    for number in range(FOLDS):
        validation = fold == number
        rows = np.repeat(validation, np.diff(log.starts))
        behaviour_model = fit_factors(item_bank, log.of(~validation), _take_rows(plain, ~rows), factors)
        part = trace_features(behaviour_model, item_bank, log.of(validation))
        for field in fields(Features):
            getattr(features, field.name)[rows] = getattr(part, field.name)
        progress((number + 1) / FOLDS)
    return features


def _choose_ridge(log: FilteredLog, features: Features, validation: Booleans, factors: int) -> _ModelChoice:
    """The ridge that predicts best on the learners kept aside, and whether that is better than the filter."""
    rows = np.repeat(validation, np.diff(log.starts))
    scores = log.scores[rows]
    losses = []
    for ridge in RIDGE_CHOICES:
        behaviour_model = fit_weights(
            empty_behaviour_model(factors), _take_rows(features, ~rows), log.scores[~rows], ridge
        )
        losses.append(total_loss(expected_p(behaviour_model, _take_rows(features, rows)), scores))
    best = int(np.argmin(losses))
    return _ModelChoice(factors, RIDGE_CHOICES[best], losses[best] < total_loss(log.outputs.p[rows], scores))


def _take_rows(features: Features, rows: Booleans) -> Features:
    """Some of the answers."""
    return Features(**{field.name: getattr(features, field.name)[rows] for field in fields(Features)})


def _clipped_expit(logit: Floats) -> Floats:
    """Probabilities that have a logarithm."""
    return np.asarray(np.clip(expit(logit), 1e-9, 1 - 1e-9))


# Factors


@dataclass
class _Loadings:
    """What the EM fits: loadings (·, 1 + R) of items in contexts, skill sets and context kinds; slopes of the kinds."""

    item_contexts: Floats
    skill_sets: Floats
    kinds: Floats
    slope: Floats


def fit_factors(item_bank: Items, log: FilteredLog, plain: Features, factors: int) -> BehaviourModel:
    """Fit the loadings of items in their contexts on R static traits of the learner.

    Variational EM with the bound of Jaakkola & Jordan (2000) for multidimensional item response theory with the
    filter's logit as offset; loadings are N(mean of the skill set + mean of the kind of context, 1 / 2).
    """
    behaviour_model = empty_behaviour_model(factors)
    if not factors or not len(log.items):
        return behaviour_model
    kind = context_kind(plain.context)
    keys, first, index = np.unique(hash_item_contexts(log.items, kind), return_index=True, return_inverse=True)
    set_keys, skill_sets = np.unique(hash_skill_sets(item_bank, log.items[first], kind[first]), return_inverse=True)
    design = _FactorData(log.learner, index, skill_sets, kind[first], kind, plain.values[:, 2], log.scores)
    loadings = _maximise_loadings(design, len(log.starts) - 1, len(set_keys), factors)
    return replace(
        behaviour_model,
        item_contexts=keys,
        loadings=loadings.item_contexts,
        skill_sets=set_keys,
        skill_set_loadings=loadings.skill_sets,
        context_loadings=loadings.kinds,
        context_slope=loadings.slope,
    )


@dataclass(frozen=True)
class _FactorData:
    """The answers: learner, item in context, kind, filter's logit, score (N,); skill set and kind of context (V,)."""

    learner: Integers
    index: Integers
    skill_set_of_context: Integers
    kind_of_context: Integers
    kind: Integers
    base: Floats
    scores: Floats


def _maximise_loadings(design: _FactorData, learners: int, skill_sets: int, factors: int) -> _Loadings:
    """The EM itself, from a fixed start, so that the same log gives the same loadings."""
    item_contexts, width = len(design.skill_set_of_context), 1 + factors
    start = np.random.default_rng(0).normal(0, START_SPREAD, (item_contexts, factors))
    loadings = _Loadings(
        np.column_stack([np.zeros(item_contexts), start]),
        np.zeros((skill_sets, width)),
        np.zeros((KINDS, width)),
        np.zeros(KINDS),
    )
    mean, covariance = np.zeros((learners, factors)), np.tile(np.eye(factors), (learners, 1, 1))
    for _ in range(EM_STEPS):
        weight = _bound_curvature(design, loadings, mean, covariance)
        mean, covariance = _expect_traits(design, loadings, weight, learners)
        mean, covariance = _standardise(loadings, mean, covariance)
        _fit_loadings(design, loadings, weight, mean, covariance)
        _fit_slopes(design, loadings, weight, mean)
    return loadings


def _fixed_part(design: _FactorData, loadings: _Loadings) -> Floats:
    """ψ without the traits; (N,)."""
    return np.asarray((1 + loadings.slope[design.kind]) * design.base + loadings.item_contexts[design.index, 0])


def _bound_curvature(design: _FactorData, loadings: _Loadings, mean: Floats, covariance: Floats) -> Floats:
    """tanh(ξ / 2) / 2ξ at the bound's best ξ² = E[ψ²]; (N,)."""
    factors = mean.shape[1]
    second = covariance.reshape(-1, factors * factors)
    products = (loadings.item_contexts[:, 1:, None] * loadings.item_contexts[:, None, 1:]).reshape(
        -1, factors * factors
    )
    loading = loadings.item_contexts[design.index, 1:]
    psi = _fixed_part(design, loadings) + (loading * mean[design.learner]).sum(axis=1)
    spread = np.empty(len(psi))
    for part in np.array_split(np.arange(len(psi)), 1 + len(psi) // 50_000):
        spread[part] = (second[design.learner[part]] * products[design.index[part]]).sum(axis=1)
    xi = np.sqrt(psi * psi + np.maximum(spread, 0.0)) + 1e-6
    return np.asarray(np.tanh(xi / 2) / (2 * xi))


def _sum_matrix(values: Floats, rows: Integers, columns: Integers, shape: tuple[int, int]) -> sparse.csr_matrix:
    """A sparse matrix; what falls on one place is added up."""
    return sparse.csr_matrix((values, (rows, columns)), shape=shape)


def _expect_traits(design: _FactorData, loadings: _Loadings, weight: Floats, learners: int) -> tuple[Floats, Floats]:
    """The E-step: mean (L, R) and covariance (L, R, R) of every learner's traits."""
    item_contexts, factors = len(loadings.item_contexts), loadings.item_contexts.shape[1] - 1
    shape = (learners, item_contexts)
    products = (loadings.item_contexts[:, 1:, None] * loadings.item_contexts[:, None, 1:]).reshape(item_contexts, -1)
    precision = _sum_matrix(weight, design.learner, design.index, shape) @ products
    precision = precision.reshape(learners, factors, factors) + np.eye(factors)
    pull = design.scores - 0.5 - weight * _fixed_part(design, loadings)
    covariance = np.linalg.inv(precision)
    target = _sum_matrix(pull, design.learner, design.index, shape) @ loadings.item_contexts[:, 1:]
    return np.einsum("lrs,ls->lr", covariance, target), covariance


def _standardise(loadings: _Loadings, mean: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """Give the traits unit covariance over learners and put the scale into the loadings."""
    lower = np.linalg.cholesky((covariance.sum(axis=0) + mean.T @ mean) / len(mean))
    inverse = np.linalg.inv(lower)
    for values in (loadings.item_contexts, loadings.skill_sets, loadings.kinds):
        values[:, 1:] = values[:, 1:] @ lower
    return mean @ inverse.T, inverse @ covariance @ inverse.T


def _fit_loadings(design: _FactorData, loadings: _Loadings, weight: Floats, mean: Floats, covariance: Floats) -> None:
    """The M-step of the loadings: a weighted ridge regression for every place, then the means they shrink to."""
    item_contexts, width = loadings.item_contexts.shape
    shape = (item_contexts, len(mean))
    one = np.column_stack([np.ones(len(mean)), mean])
    second = one[:, :, None] * one[:, None, :]
    second[:, 1:, 1:] += covariance
    normal = _sum_matrix(weight, design.index, design.learner, shape) @ second.reshape(len(mean), -1)
    pull = design.scores - 0.5 - weight * (1 + loadings.slope[design.kind]) * design.base
    target = _sum_matrix(pull, design.index, design.learner, shape) @ one
    centre = loadings.skill_sets[design.skill_set_of_context] + loadings.kinds[design.kind_of_context]
    normal = normal.reshape(item_contexts, width, width) + LOADING_PRECISION * np.eye(width)
    loadings.item_contexts[:] = np.linalg.solve(normal, (target + LOADING_PRECISION * centre)[:, :, None])[:, :, 0]
    loadings.skill_sets[:] = _group_means(
        loadings.item_contexts - loadings.kinds[design.kind_of_context],
        design.skill_set_of_context,
        loadings.skill_sets,
    )
    loadings.kinds[:] = _group_means(
        loadings.item_contexts - loadings.skill_sets[design.skill_set_of_context],
        design.kind_of_context,
        loadings.kinds,
    )


def _group_means(values: Floats, group: Integers, means: Floats) -> Floats:
    """Means of groups, shrunk towards 0 as one of precision 2 is."""
    members = _sum_matrix(np.ones(len(group)), group, np.arange(len(group)), (len(means), len(group)))
    counts = np.bincount(group, minlength=len(means))[:, None]
    return np.asarray(LOADING_PRECISION * (members @ values) / (LOADING_PRECISION * counts + SKILL_SET_PRECISION))


def _fit_slopes(design: _FactorData, loadings: _Loadings, weight: Floats, mean: Floats) -> None:
    """The M-step of how far the filter's logit counts in each kind of context."""
    loading = loadings.item_contexts[design.index]
    rest = loading[:, 0] + (loading[:, 1:] * mean[design.learner]).sum(axis=1)
    gradient = design.base * (design.scores - 0.5 - weight * (rest + design.base))
    information = np.bincount(design.kind, weight * design.base * design.base, KINDS) + SLOPE_PRECISION
    loadings.slope[:] = np.bincount(design.kind, gradient, KINDS) / information


# Weights


def fit_weights(behaviour_model: BehaviourModel, features: Features, scores: Floats, ridge: float) -> BehaviourModel:
    """Fit a ridge logistic regression of the answers on features, contexts and crosses, with ψ as offset."""
    crosses, counts = np.unique(features.crosses, return_counts=True)
    crosses = crosses[counts >= LEAST_CROSS]
    index, is_known = find_keys(crosses, features.crosses)
    rows, kinds = np.nonzero(is_known)
    count, columns = len(scores), index[rows, kinds]
    penalty = np.zeros(len(crosses))
    penalty[columns] = ridge * np.array(CROSS_RIDGES)[kinds]
    by_context = np.stack([np.ones(count), features.psi, features.pull], axis=1)
    contexts = sparse.csr_matrix(
        (by_context.reshape(-1), (3 * features.context[:, None] + np.arange(3)).reshape(-1), 3 * np.arange(count + 1)),
        shape=(count, 3 * CONTEXTS),
    )
    design = sparse.hstack(
        [
            sparse.csr_matrix(features.values),
            contexts,
            _sum_matrix(np.ones(len(rows)), rows, columns, (count, len(crosses))),
        ],
        format="csr",
    )
    dense = FEATURES + 3 * CONTEXTS
    solution = _solve_weights(design, features.psi, scores, np.append(np.full(dense, FEATURE_RIDGE), penalty))
    return replace(
        behaviour_model,
        weights=solution[:FEATURES],
        context_weights=solution[FEATURES:dense].reshape(CONTEXTS, 3),
        crosses=crosses,
        cross_weights=solution[dense:],
    )


def _solve_weights(design: sparse.csr_matrix, psi: Floats, scores: Floats, penalty: Floats) -> Floats:
    """The weights of least penalised loss by L-BFGS on coordinates of about equal curvature."""
    transposed = design.T.tocsr()
    steep = design.multiply(design).T @ np.full(len(scores), 0.15)
    scale = 1 / np.sqrt(np.asarray(steep) + penalty)

    def loss(free: Floats) -> tuple[float, Floats]:
        weights = scale * free
        total = psi + design @ weights
        value = (np.logaddexp(0, total) - scores * total).sum() + 0.5 * (penalty * weights * weights).sum()
        gradient = transposed @ (expit(total) - scores) + penalty * weights
        return float(value) / len(scores), scale * gradient / len(scores)

    options = {"maxiter": SOLVER_STEPS, "maxcor": 10, "ftol": 1e-9, "gtol": 1e-7}
    return np.asarray(scale * minimize(loss, np.zeros(len(penalty)), jac=True, method="L-BFGS-B", options=options).x)
