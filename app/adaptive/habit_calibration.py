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

from app.adaptive.habits import (
    CONTEXTS,
    CUES,
    FEATURES,
    KINDS,
    Look,
    Seen,
    expected,
    grouped,
    kin_keys,
    look,
    no_habits,
    observe,
    place_keys,
)
from app.adaptive.keys import found
from app.adaptive.metrics import total_loss
from app.adaptive.types import Booleans, Floats, Head, Integers, Items

FOLDS = 4
FACTOR_CHOICES = (0, 4)
EM_STEPS = 15
LOADING_PRECISION = 2.0
KIN_PRECISION = 2.0
SLOPE_PRECISION = 20.0
START_SPREAD = 0.3
# The ridge of each kind of cue, in the order of `cues_of`, and of a feature.
CUE_RIDGES = (8.0, 4.0, 4.0, 3.0, 5.0, 3.0, 6.0)
FEATURE_RIDGE = 1.0
RIDGE_CHOICES = (1.0, 4.0, 16.0)
# A cue seen once cannot be told from chance, and most are.
LEAST_CUE = 2
SOLVER_STEPS = 200
LARGEST_BATCH = 4096
# Below this many learners a fold of them says nothing.
LEAST_LEARNERS = 8

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Answers:
    """A log with what the filter said before each answer; `starts` (L + 1,), the rest (N,)."""

    starts: Integers
    items: Integers
    scores: Floats
    seen: Seen

    @property
    def learner(self) -> Integers:
        """(N,): whose answer it is."""
        return np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts))

    def of(self, learners: Booleans) -> "Answers":
        """The answers of some learners."""
        lengths = np.diff(self.starts)
        rows = np.flatnonzero(np.repeat(learners, lengths))
        seen = Seen(**{field.name: getattr(self.seen, field.name)[rows] for field in fields(Seen)})
        return Answers(np.append(0, np.cumsum(lengths[learners])), self.items[rows], self.scores[rows], seen)


@dataclass(frozen=True)
class Choice:
    """What was chosen on learners kept out: R, the factor on the ridges, and whether a head predicts better at all."""

    factors: int
    ridge: float
    better: bool


def fit_head(
    bank: Items, answers: Answers, rng: np.random.Generator, choice: Choice | None, progress: Progress
) -> tuple[Head | None, Choice]:
    """The head for a log, or none where it would not predict better, and what was chosen on the way.

    `choice` repeats what was chosen before instead of choosing again.
    """
    learners = len(answers.starts) - 1
    nothing = Choice(0, RIDGE_CHOICES[0], better=False)
    if learners < LEAST_LEARNERS or (choice is not None and not choice.better):
        return None, nothing
    fold = rng.permutation(learners) % FOLDS
    plain = trace(empty_head(), bank, answers)
    factors = choose_factors(bank, answers, plain, fold == 0) if choice is None else choice.factors
    progress(0.3)
    views = crossed(bank, answers, plain, fold, factors, lambda share: progress(0.3 + 0.3 * share))
    if choice is None:
        choice = choose_ridge(answers, views, fold == 0, factors)
        progress(0.8)
        if not choice.better:
            return None, nothing
    base = fit_factors(bank, answers, plain, factors)
    head = fit_weights(base, views, answers.scores, choice.ridge)
    progress(1.0)
    return head, choice


def empty_head(factors: int = 0) -> Head:
    """A head that predicts what the filter predicts."""
    keys = np.empty(0, dtype=np.uint64)
    return Head(
        places=keys,
        loadings=np.zeros((0, 1 + factors)),
        kin=keys,
        kin_loadings=np.zeros((0, 1 + factors)),
        context_loadings=np.zeros((KINDS, 1 + factors)),
        context_slope=np.zeros(KINDS),
        weights=np.zeros(FEATURES),
        context_weights=np.zeros((CONTEXTS, 3)),
        cues=keys,
        cue_weights=np.zeros(0),
    )


def trace(head: Head, bank: Items, answers: Answers) -> Look:
    """Every answer of a log as the head sees it before it is given: the t-th of every learner at once."""
    count, lengths = len(answers.items), np.diff(answers.starts)
    views = Look(
        psi=np.empty(count),
        pull=np.empty(count),
        spread=np.empty(count),
        loading=np.empty((count, head.factors)),
        context=np.empty(count, dtype=np.int64),
        features=np.empty((count, FEATURES)),
        cues=np.empty((count, CUES), dtype=np.uint64),
    )
    order = np.argsort(-lengths, kind="stable")
    for first in range(0, len(order), LARGEST_BATCH):
        block = order[first : first + LARGEST_BATCH]
        habits, sizes = no_habits(len(block), head), lengths[block]
        for t in range(int(sizes[0])):
            active = int(np.searchsorted(-sizes, -t, side="left"))
            rows = answers.starts[:-1][block[:active]] + t
            seen = Seen(**{field.name: getattr(answers.seen, field.name)[rows] for field in fields(Seen)})
            working = habits[:active]
            view = look(head, bank, working, np.arange(active), answers.items[rows], seen)
            observe(working, view, answers.items[rows], answers.scores[rows])
            for field in fields(Look):
                getattr(views, field.name)[rows] = getattr(view, field.name)
    return views


def choose_factors(bank: Items, answers: Answers, plain: Look, aside: Booleans) -> int:
    """How many factors predict best on the learners kept aside."""
    rows = np.repeat(aside, np.diff(answers.starts))
    training, testing = answers.of(~aside), answers.of(aside)
    losses = []
    for factors in FACTOR_CHOICES:
        head = fit_factors(bank, training, chosen_rows(plain, ~rows), factors)
        losses.append(total_loss(clipped(trace(head, bank, testing).psi), testing.scores))
    return FACTOR_CHOICES[int(np.argmin(losses))]


def crossed(bank: Items, answers: Answers, plain: Look, fold: Integers, factors: int, progress: Progress) -> Look:
    """The log as seen with factors that were fitted without the learner."""
    if not factors:
        return plain
    views = replace(plain, loading=np.empty((len(answers.items), factors)))
    views = Look(**{field.name: getattr(views, field.name).copy() for field in fields(Look)})
    for number in range(FOLDS):
        aside = fold == number
        rows = np.repeat(aside, np.diff(answers.starts))
        head = fit_factors(bank, answers.of(~aside), chosen_rows(plain, ~rows), factors)
        part = trace(head, bank, answers.of(aside))
        for field in fields(Look):
            getattr(views, field.name)[rows] = getattr(part, field.name)
        progress((number + 1) / FOLDS)
    return views


def choose_ridge(answers: Answers, views: Look, aside: Booleans, factors: int) -> Choice:
    """The ridge that predicts best on the learners kept aside, and whether that is better than the filter."""
    rows = np.repeat(aside, np.diff(answers.starts))
    scores = answers.scores[rows]
    losses = []
    for ridge in RIDGE_CHOICES:
        head = fit_weights(empty_head(factors), chosen_rows(views, ~rows), answers.scores[~rows], ridge)
        losses.append(total_loss(expected(head, chosen_rows(views, rows)), scores))
    best = int(np.argmin(losses))
    return Choice(factors, RIDGE_CHOICES[best], losses[best] < total_loss(answers.seen.p[rows], scores))


def chosen_rows(views: Look, rows: Booleans) -> Look:
    """Some of the answers."""
    return Look(**{field.name: getattr(views, field.name)[rows] for field in fields(Look)})


def clipped(logit: Floats) -> Floats:
    """Probabilities that have a logarithm."""
    return np.asarray(np.clip(expit(logit), 1e-9, 1 - 1e-9))


# Factors


@dataclass
class Levels:
    """What the EM moves: loadings (·, 1 + R) of places, kin and kinds of context, and the slope of each kind."""

    places: Floats
    kin: Floats
    kinds: Floats
    slope: Floats


def fit_factors(bank: Items, answers: Answers, plain: Look, factors: int) -> Head:
    """Loadings of items in their contexts on R static traits of the learner.

    Variational EM with the bound of Jaakkola & Jordan (2000) for multidimensional item response theory with the
    filter's logit as offset; loadings are N(mean of kin + mean of the kind of context, 1 / 2).
    """
    head = empty_head(factors)
    if not factors or not len(answers.items):
        return head
    kind = grouped(plain.context)
    keys, first, place = np.unique(place_keys(answers.items, kind), return_index=True, return_inverse=True)
    kin_of, kin = np.unique(kin_keys(bank, answers.items[first], kind[first]), return_inverse=True)
    design = Design(answers.learner, place, kin, kind[first], kind, plain.features[:, 2], answers.scores)
    levels = maximise(design, len(answers.starts) - 1, len(kin_of), factors)
    return replace(
        head,
        places=keys,
        loadings=levels.places,
        kin=kin_of,
        kin_loadings=levels.kin,
        context_loadings=levels.kinds,
        context_slope=levels.slope,
    )


@dataclass(frozen=True)
class Design:
    """Who answered what: learner, place, kind of context, the filter's logit and the score (N,); kin and kind (V,)."""

    learner: Integers
    place: Integers
    kin_of_place: Integers
    kind_of_place: Integers
    kind: Integers
    base: Floats
    scores: Floats


def maximise(design: Design, learners: int, kin: int, factors: int) -> Levels:
    """The EM itself, from a fixed start, so that the same log gives the same loadings."""
    places, width = len(design.kin_of_place), 1 + factors
    start = np.random.default_rng(0).normal(0, START_SPREAD, (places, factors))
    levels = Levels(
        np.column_stack([np.zeros(places), start]), np.zeros((kin, width)), np.zeros((KINDS, width)), np.zeros(KINDS)
    )
    mean, covariance = np.zeros((learners, factors)), np.tile(np.eye(factors), (learners, 1, 1))
    for _ in range(EM_STEPS):
        weight = curvature(design, levels, mean, covariance)
        mean, covariance = expect_traits(design, levels, weight, learners)
        mean, covariance = standardise(levels, mean, covariance)
        fit_loadings(design, levels, weight, mean, covariance)
        fit_slopes(design, levels, weight, mean)
    return levels


def offset(design: Design, levels: Levels) -> Floats:
    """ψ without the traits; (N,)."""
    return np.asarray((1 + levels.slope[design.kind]) * design.base + levels.places[design.place, 0])


def curvature(design: Design, levels: Levels, mean: Floats, covariance: Floats) -> Floats:
    """tanh(ξ / 2) / 2ξ at the bound's best ξ² = E[ψ²]; (N,)."""
    factors = mean.shape[1]
    second = covariance.reshape(-1, factors * factors)
    products = (levels.places[:, 1:, None] * levels.places[:, None, 1:]).reshape(-1, factors * factors)
    loading = levels.places[design.place, 1:]
    psi = offset(design, levels) + (loading * mean[design.learner]).sum(axis=1)
    spread = np.empty(len(psi))
    for part in np.array_split(np.arange(len(psi)), 1 + len(psi) // 50_000):
        spread[part] = (second[design.learner[part]] * products[design.place[part]]).sum(axis=1)
    xi = np.sqrt(psi * psi + np.maximum(spread, 0.0)) + 1e-6
    return np.asarray(np.tanh(xi / 2) / (2 * xi))


def matrix(values: Floats, rows: Integers, columns: Integers, shape: tuple[int, int]) -> sparse.csr_matrix:
    """A sparse matrix; what falls on one place is added up."""
    return sparse.csr_matrix((values, (rows, columns)), shape=shape)


def expect_traits(design: Design, levels: Levels, weight: Floats, learners: int) -> tuple[Floats, Floats]:
    """The E-step: mean (L, R) and covariance (L, R, R) of every learner's traits."""
    places, factors = len(levels.places), levels.places.shape[1] - 1
    shape = (learners, places)
    products = (levels.places[:, 1:, None] * levels.places[:, None, 1:]).reshape(places, -1)
    precision = matrix(weight, design.learner, design.place, shape) @ products
    precision = precision.reshape(learners, factors, factors) + np.eye(factors)
    pull = design.scores - 0.5 - weight * offset(design, levels)
    covariance = np.linalg.inv(precision)
    target = matrix(pull, design.learner, design.place, shape) @ levels.places[:, 1:]
    return np.einsum("lrs,ls->lr", covariance, target), covariance


def standardise(levels: Levels, mean: Floats, covariance: Floats) -> tuple[Floats, Floats]:
    """Give the traits unit covariance over learners and put the scale into the loadings."""
    lower = np.linalg.cholesky((covariance.sum(axis=0) + mean.T @ mean) / len(mean))
    inverse = np.linalg.inv(lower)
    for values in (levels.places, levels.kin, levels.kinds):
        values[:, 1:] = values[:, 1:] @ lower
    return mean @ inverse.T, inverse @ covariance @ inverse.T


def fit_loadings(design: Design, levels: Levels, weight: Floats, mean: Floats, covariance: Floats) -> None:
    """The M-step of the loadings: a weighted ridge regression for every place, then the means they shrink to."""
    places, width = levels.places.shape
    shape = (places, len(mean))
    one = np.column_stack([np.ones(len(mean)), mean])
    second = one[:, :, None] * one[:, None, :]
    second[:, 1:, 1:] += covariance
    normal = matrix(weight, design.place, design.learner, shape) @ second.reshape(len(mean), -1)
    pull = design.scores - 0.5 - weight * (1 + levels.slope[design.kind]) * design.base
    target = matrix(pull, design.place, design.learner, shape) @ one
    centre = levels.kin[design.kin_of_place] + levels.kinds[design.kind_of_place]
    normal = normal.reshape(places, width, width) + LOADING_PRECISION * np.eye(width)
    levels.places[:] = np.linalg.solve(normal, (target + LOADING_PRECISION * centre)[:, :, None])[:, :, 0]
    levels.kin[:] = group_means(levels.places - levels.kinds[design.kind_of_place], design.kin_of_place, levels.kin)
    levels.kinds[:] = group_means(levels.places - levels.kin[design.kin_of_place], design.kind_of_place, levels.kinds)


def group_means(values: Floats, group: Integers, means: Floats) -> Floats:
    """Means of groups, shrunk towards 0 as one of precision 2 is."""
    members = matrix(np.ones(len(group)), group, np.arange(len(group)), (len(means), len(group)))
    counts = np.bincount(group, minlength=len(means))[:, None]
    return np.asarray(LOADING_PRECISION * (members @ values) / (LOADING_PRECISION * counts + KIN_PRECISION))


def fit_slopes(design: Design, levels: Levels, weight: Floats, mean: Floats) -> None:
    """The M-step of how far the filter's logit counts in each kind of context."""
    loading = levels.places[design.place]
    rest = loading[:, 0] + (loading[:, 1:] * mean[design.learner]).sum(axis=1)
    gradient = design.base * (design.scores - 0.5 - weight * (rest + design.base))
    information = np.bincount(design.kind, weight * design.base * design.base, KINDS) + SLOPE_PRECISION
    levels.slope[:] = np.bincount(design.kind, gradient, KINDS) / information


# Weights


def fit_weights(head: Head, views: Look, scores: Floats, ridge: float) -> Head:
    """Ridge logistic regression of the answers on features, contexts and cues, with ψ as offset, to convergence."""
    cues, counts = np.unique(views.cues, return_counts=True)
    cues = cues[counts >= LEAST_CUE]
    place, there = found(cues, views.cues)
    rows, kinds = np.nonzero(there)
    count, columns = len(scores), place[rows, kinds]
    penalty = np.zeros(len(cues))
    penalty[columns] = ridge * np.array(CUE_RIDGES)[kinds]
    by_context = np.stack([np.ones(count), views.psi, views.pull], axis=1)
    contexts = sparse.csr_matrix(
        (by_context.reshape(-1), (3 * views.context[:, None] + np.arange(3)).reshape(-1), 3 * np.arange(count + 1)),
        shape=(count, 3 * CONTEXTS),
    )
    design = sparse.hstack(
        [
            sparse.csr_matrix(views.features),
            contexts,
            matrix(np.ones(len(rows)), rows, columns, (count, len(cues))),
        ],
        format="csr",
    )
    dense = FEATURES + 3 * CONTEXTS
    found_weights = solve(design, views.psi, scores, np.append(np.full(dense, FEATURE_RIDGE), penalty))
    return replace(
        head,
        weights=found_weights[:FEATURES],
        context_weights=found_weights[FEATURES:dense].reshape(CONTEXTS, 3),
        cues=cues,
        cue_weights=found_weights[dense:],
    )


def solve(design: sparse.csr_matrix, psi: Floats, scores: Floats, penalty: Floats) -> Floats:
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
