"""Fit the filter to a log: item intercepts, the rates of every skill, and the parameters of the population.

Four steps are repeated. Replay the log; Newton for the intercept of each item under the filter's own offsets; EM for
P(L0), P(T), P(F) by forward and backward passes over each learner's answers on a skill (Corbett & Anderson 1995; Baum
et al. 1970), with the filter's likelihoods as emissions; and a search for the population's variances and shifts. All
of it is one-step-ahead likelihood with priors, so that an item or a skill with few answers keeps its prior. Then a
few levels are tried of how often items are guessed of which nobody has said so, one for all of them.

Intercepts are cross-fitted over folds of learners: while rates and variances are fitted, no answer is predicted by an
intercept fitted to it, else every item would look easier to predict than it is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.assess.metrics import auc, losses, total_loss
from app.adaptive.behaviour.fit import FilteredLog, empty_behaviour_model, fit_behaviour_model
from app.adaptive.behaviour.model import FilterOutputs
from app.adaptive.calibration.duplicates import find_duplicates, first_of_each_group
from app.adaptive.numerics import NORMAL_90
from app.adaptive.parameters import Items, Parameters, Population, Skills
from app.adaptive.response_log import Log
from app.adaptive.skill_chains import SkillChains, link_skill_chains
from app.adaptive.state import Prediction
from app.adaptive.tracing.filter import elapsed_days, likelihood_if_known, measure_of_learning
from app.adaptive.tracing.replay import replay

FOLDS = 5
ROUNDS = 4
NEWTON_STEPS = 4
ITEM_VARIANCE = 1.0
PSEUDO_LEARNERS = 20.0
EM_STEPS = 10
SEARCH_LEARNERS = 600
SEARCH_ANSWERS = 150
SEARCH_EVALUATIONS = 160
INTERCEPT_LIMIT = 8.0

DEFAULT_PRIOR, DEFAULT_LEARN, DEFAULT_FORGET = 0.36, 0.30, 0.02
BOUNDS = {"prior": (0.02, 0.98), "p_learn": (0.012, 0.95), "p_forget": (0.001, 0.05)}
# Mastery settles at T / (T + F) where answers say nothing: so somebody always right passes the line, .9, in the end.
LEARN_TO_FORGET = 12.0

# What it costs to move a searched value by one unit of its free scale away from the default.
RIDGE = 2.0

# How often items are guessed of which nobody has said so: as among four options, more, or less.
GUESSING_LEVELS = (0.25, 0.5, 0.1)
GUESSING_ROUNDS = 2
# So many standard errors below 0 a gain says that nothing is guessed at all.
CLEARLY_WORSE = -3.0
GUESSING_LEARNERS = 30
SMALLEST = 1e-12

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class CalibrationFit:
    """The calibrated parameters, and mean log loss and AUC on held-out learners before and after.

    `parameters` were fitted to everybody, `trained` without the held-out learners: `trained` was measured, and is what
    the next calibration has to be compared with. `log_loss_without_behaviour` is the loss after without the behaviour
    model.
    """

    parameters: Parameters
    trained: Parameters
    held_out_responses: int
    log_loss_before: float
    log_loss_after: float
    auc_before: float
    auc_after: float
    log_loss_without_behaviour: float


def ignore_progress(_stage: str, _share: float) -> None:
    """Report nothing."""


def calibrate_parameters(
    before: Parameters, log: Log, fixed: Booleans, held_out: Booleans, seed: int, progress: Progress = ignore_progress
) -> CalibrationFit:
    """Fit the items, skills and population of `before` to the answers of `log`.

    `fixed` (I,) marks items whose parameters are known and stay. The learners of `held_out` (L,) only measure the fit,
    against `before`, which must not have seen them either; the result is then fitted again, from there, to everybody.
    If nobody else is left they are fitted too. Of learners who stand in the log twice one is left out
    (`find_duplicates`). `progress` is called with the name of a stage and the share of the whole that is done.
    """
    rng = np.random.default_rng(seed)
    single = first_of_each_group(find_duplicates(log))
    log, held_out = select_learners(log, single), held_out[single]
    training, validation = select_learners(log, ~held_out), select_learners(log, held_out)
    if not len(training.items):
        training = log
    start = _start_from_defaults(before)
    trained, filtered = _alternate_fits(start, training, fixed, rng, ROUNDS, lambda share: progress("fit", 0.5 * share))
    # Its own random numbers: where nothing is guessed, the fit is the same as without a look.
    trained, filtered = _raise_guessing(trained, filtered, training, fixed, rng.spawn(1)[0])
    progress("fit", 0.6)
    everybody = training is log or not len(validation.items)
    final, filtered_finally = trained, filtered
    if not everybody:
        final, filtered_finally = _alternate_fits(
            trained, log, fixed, rng, 1, lambda share: progress("refit", 0.6 + 0.1 * share)
        )
    behaviour_model, choice = fit_behaviour_model(
        trained.items, filtered, rng, None, lambda share: progress("behaviour", 0.7 + 0.15 * share)
    )
    trained = replace(trained, behaviour=behaviour_model)
    if not everybody:
        behaviour_model, _ = fit_behaviour_model(
            final.items, filtered_finally, rng, choice, lambda share: progress("behaviour", 0.85 + 0.15 * share)
        )
    final = replace(final, behaviour=behaviour_model)
    was, became, alone = (
        measure_predictions(candidate, validation) for candidate in (before, trained, replace(trained, behaviour=None))
    )
    progress("behaviour", 1.0)
    return CalibrationFit(final, trained, len(validation.items), was[0], became[0], was[1], became[1], alone[0])


def calibrate_filter(before: Parameters, log: Log, fixed: Booleans, seed: int) -> Parameters:
    """Fit the items, skills and population of `before` to all answers of `log`, without a behaviour model."""
    rng = np.random.default_rng(seed)
    fitted = _alternate_fits(_start_from_defaults(before), log, fixed, rng, ROUNDS, lambda _share: None)
    return _raise_guessing(*fitted, log, fixed, rng)[0]


def _start_from_defaults(before: Parameters) -> Parameters:
    """Where the fits begin: the items of `before`, and defaults for everything else."""
    start = replace(before, skills=default_rates(before.skills), population=Population(), behaviour=None)
    return _set_guessing(start, Population.guessing)


def _set_guessing(parameters: Parameters, guessing: float) -> Parameters:
    """Take the items of which nobody has said how often they are guessed to be guessed with this chance."""
    items = parameters.items
    if items.undeclared is None:
        return parameters
    guessed = replace(items, guessing=np.where(items.undeclared, guessing, items.guessing))
    return replace(parameters, items=guessed, population=replace(parameters.population, guessing=guessing))


def _raise_guessing(
    parameters: Parameters, filtered: FilteredLog, log: Log, fixed: Booleans, rng: np.random.Generator
) -> tuple[Parameters, FilteredLog]:
    """Fit again with guessing where that predicts better beyond chance (one-sided, 5 %); as `_alternate_fits`.

    Both predict with intercepts that were not fitted to the answer; the learners are the sample.
    """
    undeclared = parameters.items.undeclared
    if undeclared is None or not undeclared.any() or log.learners < GUESSING_LEARNERS:
        return parameters, filtered
    alone, best = _loss_of_learners(filtered), (0.0, parameters, filtered)

    def try_level(level: float) -> float:
        nonlocal best
        guessed = _set_guessing(parameters, level)
        fitted, predicted = _alternate_fits(guessed, log, fixed, rng, GUESSING_ROUNDS, lambda _share: None)
        gains = alone - _loss_of_learners(predicted)
        gain, error = float(gains.mean()), float(gains.std()) / len(gains) ** 0.5
        if gain > max(best[0], NORMAL_90 * error):
            best = gain, fitted, predicted
        return float(gain / max(error, SMALLEST))

    quarter, half, tenth = GUESSING_LEVELS
    found = try_level(quarter)
    if found > NORMAL_90:
        try_level(half)
    elif found > CLEARLY_WORSE:
        try_level(tenth)
    return best[1:]


def _loss_of_learners(filtered: FilteredLog) -> Floats:
    """The log loss of each learner's answers, summed; (L,)."""
    lost = losses(filtered.outputs.p, filtered.scores)
    return np.asarray(np.bincount(filtered.learner, lost, len(filtered.starts) - 1), dtype=np.float64)


def default_rates(skills: Skills) -> Skills:
    """The same skills with the default P(L0), P(T), P(F)."""
    return replace(
        skills,
        prior=np.full(skills.count, DEFAULT_PRIOR),
        p_learn=np.full(skills.count, DEFAULT_LEARN),
        p_forget=np.full(skills.count, DEFAULT_FORGET),
    )


def _alternate_fits(
    parameters: Parameters,
    log: Log,
    fixed: Booleans,
    rng: np.random.Generator,
    count: int,
    progress: Callable[[float], None],
) -> tuple[Parameters, FilteredLog]:
    """Alternate the fits of items, skills and population `count` times; `parameters` have no behaviour model.

    Also return what the filter says before every answer of the log, with an intercept that was not fitted to it.
    """
    folds = rng.permutation(log.learners) % min(FOLDS, max(log.learners, 1))
    fold = np.repeat(folds, np.diff(log.starts))
    intercept = np.tile(parameters.items.intercept, (FOLDS, 1))
    for done in range(count):
        crossed, crossed_log = stack_folds(parameters, intercept, log, fold)
        _, predicted = replay(crossed, crossed_log)
        offset = predicted.logit - intercept[fold, log.items]
        intercept = fit_intercepts(parameters, intercept, log, fold, fixed, offset, predicted)
        progress((done + 0.3) / count)
        crossed, _ = stack_folds(parameters, intercept, log, fold)
        _, predicted = replay(crossed, crossed_log)
        parameters = replace(parameters, skills=_fit_rates(parameters, log, predicted))
        progress((done + 0.6) / count)
        crossed, _ = stack_folds(parameters, intercept, log, fold)
        parameters = replace(parameters, population=search_population(crossed, crossed_log, rng))
        progress((done + 1) / count)
    crossed, crossed_log = stack_folds(parameters, intercept, log, fold)
    _, predicted = replay(crossed, crossed_log)
    offset = predicted.logit - intercept[fold, log.items]
    nobody = np.full(len(log.items), -1)
    everybody = fit_intercepts(parameters, intercept.mean(axis=0)[None], log, nobody, fixed, offset, predicted)
    measured = np.ones(parameters.items.count, dtype=np.bool_)
    fitted = replace(parameters, items=replace(parameters.items, intercept=everybody[0], measured=measured))
    return fitted, _filter_log(crossed, crossed_log, log)


def _filter_log(crossed: Parameters, crossed_log: Log, log: Log) -> FilteredLog:
    """The answers of a log with what the cross-fitted filter says before each, for the fit of a head."""
    _, predicted = replay(replace(crossed, behaviour=empty_behaviour_model()), crossed_log)
    before = np.arange(len(log.items)) - np.repeat(log.starts[:-1], np.diff(log.starts))
    filtered = FilterOutputs(
        predicted.without_behaviour,
        predicted.variance,
        predicted.mastery,
        before.astype(np.float64),
        predicted.successes,
        predicted.failures,
    )
    return FilteredLog(log.starts, log.items, log.scores, filtered)


def select_learners(log: Log, learners: Booleans | Integers) -> Log:
    """The log of some learners, in the order they are named."""
    chosen = np.flatnonzero(learners) if learners.dtype == np.bool_ else learners
    lengths = np.diff(log.starts)[chosen]
    starts = np.zeros(len(chosen) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    positions = np.repeat(log.starts[:-1][chosen] - starts[:-1], lengths) + np.arange(starts[-1])
    return Log(starts, log.items[positions], log.scores[positions], log.times[positions])


def stack_folds(parameters: Parameters, intercept: Floats, log: Log, fold: Integers) -> tuple[Parameters, Log]:
    """Copy the items once for each fold, and point the log of each fold to the copy that was not fitted to it."""
    item_bank, copies = parameters.items, len(intercept)
    stacked = Items(
        intercept=intercept.reshape(-1),
        discrimination=np.tile(item_bank.discrimination, copies),
        guessing=np.tile(item_bank.guessing, copies),
        upper=np.tile(item_bank.upper, copies),
        thresholds=np.tile(item_bank.thresholds, (copies, 1)),
        skills=np.tile(item_bank.skills, (copies, 1)),
    )
    return replace(parameters, items=stacked), replace(log, items=log.items + fold * item_bank.count)


def fit_intercepts(
    parameters: Parameters,
    intercept: Floats,
    log: Log,
    fold: Integers,
    fixed: Booleans,
    offset: Floats,
    predicted: Prediction,
) -> Floats:
    """Fit the intercept of every item in every fold by Newton's method; (folds, I).

    Row f is fitted to the answers outside fold f. The prior is normal around the mean of the item's skills with
    variance 1; `offset` (N,) is the rest of the logit, as the filter had it before each answer.
    """
    item_bank = parameters.items
    shrink = 1 / np.sqrt(1 + np.pi / 8 * predicted.variance)
    tagged = item_bank.has_skills[log.items]
    shifts = (tagged * parameters.population.known_shift, tagged * parameters.population.unknown_shift)
    result = intercept.copy()
    for row in range(len(result)):
        use = np.flatnonzero(fold != row)
        items, score, mastery = log.items[use], log.scores[use], predicted.mastery[use]
        bottom, reach = item_bank.guessing[items], item_bank.upper[items] - item_bank.guessing[items]
        for _ in range(NEWTON_STEPS):
            x = shrink[use] * (result[row, items] + offset[use] + shifts[0][use])
            z = shrink[use] * (result[row, items] + offset[use] + shifts[1][use])
            high, low = expit(x), expit(z)
            p = np.clip(bottom + reach * (mastery * high + (1 - mastery) * low), 1e-6, 1 - 1e-6)
            slope = reach * shrink[use] * (mastery * high * (1 - high) + (1 - mastery) * low * (1 - low))
            spread = p * (1 - p)
            gradient = np.bincount(items, (score - p) * slope / spread, item_bank.count)
            information = np.asarray(np.bincount(items, slope * slope / spread, item_bank.count), dtype=np.float64)
            centre = _skill_means(item_bank, result[row], information)
            move = (gradient - (result[row] - centre) / ITEM_VARIANCE) / (information + 1 / ITEM_VARIANCE)
            result[row] = np.clip(result[row] + np.clip(move, -1, 1), -INTERCEPT_LIMIT, INTERCEPT_LIMIT)
            result[row, fixed] = item_bank.intercept[fixed]
    return result


def _skill_means(item_bank: Items, intercept: Floats, weight: Floats) -> Floats:
    """Return the mean intercept of each item's skills, shrunk to the mean of all items; (I,)."""
    weight = weight / (weight + 1 / ITEM_VARIANCE)
    overall = float((weight * intercept).sum() / max(weight.sum(), 1e-9))
    if item_bank.skills.shape[1] == 0:
        return np.full(item_bank.count, overall)
    is_skill = item_bank.skills >= 0
    rows = np.repeat(np.arange(item_bank.count), is_skill.sum(axis=1))
    skills, size = item_bank.skills[is_skill], int(item_bank.skills.max(initial=-1)) + 1
    total = np.bincount(skills, weight[rows] * intercept[rows], size) + overall
    mean = total / (np.bincount(skills, weight[rows], size) + 1)
    centre = np.bincount(rows, mean[skills] * item_bank.weights[is_skill], item_bank.count)
    return np.where(item_bank.has_skills > 0, centre, overall)


def _fit_rates(parameters: Parameters, log: Log, predicted: Prediction) -> Skills:
    """EM for P(L0), P(T), P(F) of every skill, with about 20 learners' worth of the mean over skills as prior."""
    skills = parameters.skills
    chains = link_skill_chains(parameters.items.skills, log)
    if not len(chains.skill):
        return skills
    taught, unknown = log.scores[chains.answer], predicted.unknown[chains.answer]
    known = likelihood_if_known(predicted.known[chains.answer], unknown, predicted.others[chains.answer, chains.column])
    faded = _fade_over_pauses(parameters.population, chains, log)
    for _ in range(EM_STEPS):
        counts = count_expected(skills, chains, known, unknown, taught, faded, measure_of_learning)
        rates = {}
        for name, (happened, possible) in counts.items():
            hits = np.bincount(chains.skill, happened, skills.count)
            chances = np.bincount(chains.skill, possible, skills.count)
            default = {"prior": DEFAULT_PRIOR, "p_learn": DEFAULT_LEARN, "p_forget": DEFAULT_FORGET}[name]
            mean = (hits.sum() + PSEUDO_LEARNERS * default) / (chances.sum() + PSEUDO_LEARNERS)
            rates[name] = np.clip((hits + PSEUDO_LEARNERS * mean) / (chances + PSEUDO_LEARNERS), *BOUNDS[name])
        rates["p_forget"] = np.minimum(rates["p_forget"], highest_forget(rates["p_learn"]))
        skills = replace(skills, **rates)
    return skills


def _fade_over_pauses(population: Population, chains: SkillChains, log: Log) -> Floats:
    """Which part of what practice had added is forgotten before each answer of the chains, in their order; (N,)."""
    times = log.times[chains.answer]
    waited = elapsed_days(np.roll(times, 1), times)
    waited[chains.starts] = 0.0
    return np.asarray(-np.expm1(-population.fading * np.log1p(waited)))


def count_expected(
    skills: Skills,
    chains: SkillChains,
    known: Floats,
    unknown: Floats,
    taught: Floats,
    faded: Floats,
    measure: Callable[[Floats], Floats],
) -> dict[str, tuple[Floats, Floats]]:
    """The E-step: for every chain how often something is expected to have happened, and could have; each (C,).

    `known`, `unknown`, `taught`, the score that P(T) counts by, and `faded`, the part of a mastery beyond P(L0) that
    was lost before the answer, stand in the order of `chains.answer`; `measure` says how far P(T) counts besides for
    somebody who knew the skill with such a probability after the answer. That part is lost as if so many learners
    began anew; who knows the skill less than P(L0) loses nothing.
    """
    prior = skills.prior[chains.skill]
    p_learn, p_forget = skills.p_learn[chains.skill], skills.p_forget[chains.skill]
    before, after, may_learn = np.empty((3, len(known)))
    anew = np.zeros(len(known))
    mastery = prior.copy()
    for t in range(len(chains.active)):
        positions = chains.positions_at(t)
        active = len(positions)
        anew[positions] = np.where(mastery[:active] > prior[:active], faded[positions], 0.0)
        q = mastery[:active] + anew[positions] * (prior[:active] - mastery[:active])
        weight = q * known[positions]
        posterior = weight / (weight + (1 - q) * unknown[positions])
        before[positions], after[positions] = q, posterior
        may_learn[positions] = taught[positions] * measure(posterior)
        learning = p_learn[:active] * may_learn[positions]
        mastery[:active] = posterior * (1 - p_forget[:active]) + (1 - posterior) * learning
    smoothed = np.empty(len(known))
    learnt, could_learn, forgot, could_forget = np.zeros((4, len(chains.skill)))
    following = 0
    for t in range(len(chains.active) - 1, -1, -1):
        positions = chains.positions_at(t)
        smoothed[positions[following:]] = after[positions[following:]]
        now, coming = positions[:following], positions[:following] + 1
        gained = (1 - after[now]) * p_learn[:following] * may_learn[now]
        retained = after[now] * (1 - p_forget[:following])
        # P(known next | all) / P(known next | so far), and the same for not known: the backward correction.
        up = smoothed[coming] / np.maximum(before[coming], 1e-12)
        down = (1 - smoothed[coming]) / np.maximum(1 - before[coming], 1e-12)
        begun = anew[coming] * (prior[:following] * up + (1 - prior[:following]) * down)
        up, down = (1 - anew[coming]) * up + begun, (1 - anew[coming]) * down + begun
        lost = after[now] * p_forget[:following]
        smoothed[now] = retained * up + lost * down
        learnt[:following] += gained * up
        could_learn[:following] += may_learn[now] * (1 - smoothed[now])
        forgot[:following] += lost * down
        could_forget[:following] += smoothed[now]
        following = len(positions)
    ones = np.ones(len(chains.skill))
    return {
        "prior": (smoothed[chains.starts], ones),
        "p_learn": (learnt, could_learn),
        "p_forget": (forgot, could_forget),
    }


def highest_forget(p_learn: Floats) -> Floats:
    """The highest P(F) that a fit gives skills with these P(T), (S,): a learner who is always right stays mastered."""
    return np.minimum(BOUNDS["p_forget"][1], p_learn / LEARN_TO_FORGET)


def search_population(parameters: Parameters, log: Log, rng: np.random.Generator) -> Population:
    """Nelder-Mead for what the population shares, on the first answers of a sample of learners.

    Values move on logarithmic or logit scales and pay a ridge for leaving the defaults.
    """
    sample = select_learners(log, np.sort(rng.permutation(log.learners)[:SEARCH_LEARNERS]))
    lengths = np.minimum(np.diff(sample.starts), SEARCH_ANSWERS)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    positions = np.repeat(sample.starts[:-1] - starts[:-1], lengths) + np.arange(starts[-1])
    sample = Log(starts, sample.items[positions], sample.scores[positions], sample.times[positions])
    timed = has_pauses(sample)
    origin = to_free(Population(), timed=timed)

    def loss(free: Floats) -> float:
        population = replace(from_free(free), guessing=parameters.population.guessing)
        _, predicted = replay(replace(parameters, population=population), sample)
        return total_loss(predicted.p, sample.scores) + RIDGE * float(((free - origin) ** 2).sum())

    start = to_free(parameters.population, timed=timed)
    simplex = np.vstack([start, start + 0.25 * np.eye(len(start))])
    solution = minimize(
        loss,
        start,
        method="Nelder-Mead",
        options={"initial_simplex": simplex, "maxfev": SEARCH_EVALUATIONS, "xatol": 0.02, "fatol": 0.05},
    )
    return replace(from_free(solution.x), guessing=parameters.population.guessing)


def has_pauses(log: Log) -> bool:
    """Return whether any learner of a log came back after more than an hour, so that it informs about forgetting."""
    within = np.ones(max(len(log.times) - 1, 0), dtype=np.bool_)
    borders = log.starts[1:-1] - 1
    within[borders[(borders >= 0) & (borders < len(within))]] = False
    return bool((elapsed_days(log.times[:-1], log.times[1:])[within] > 0).any())


def to_free(population: Population, *, timed: bool) -> Floats:
    """The searched values on scales without bounds; what concerns pauses only where there are any."""
    keep = population.daily_effect_retention
    return np.array(
        [
            np.log(population.ability_variance),
            np.log(population.skill_drift),
            np.log(population.daily_effect_variance),
            np.log(keep / (1 - keep)),
            population.unknown_shift,
            np.log(population.known_shift - population.unknown_shift),
            *([np.log(population.fading)] if timed else []),
        ]
    )


def from_free(free: Floats) -> Population:
    """The inverse of `to_free`, with everything kept within what the filter can bear."""
    ability, drift, daily_effect, keep, unknown, gap, *fading = np.clip(free, -8, 6).tolist()
    return Population(
        ability_variance=float(np.clip(np.exp(ability), 0.05, 9.0)),
        skill_drift=float(np.clip(np.exp(drift), 1e-5, 0.2)),
        daily_effect_variance=float(np.clip(np.exp(daily_effect), 1e-4, 2.0)),
        daily_effect_retention=float(np.clip(expit(keep), 0.5, 0.999)),
        unknown_shift=float(np.clip(unknown, -3, 0)),
        known_shift=float(np.clip(unknown, -3, 0) + np.clip(np.exp(gap), 0.5, 6.0)),
        fading=float(np.clip(np.exp(fading[0]), 0.01, 1.0)) if fading else Population.fading,
    )


def measure_predictions(parameters: Parameters, log: Log) -> tuple[float, float]:
    """Mean log loss and AUC of the predictions of a log."""
    _, predicted = replay(parameters, log)
    return total_loss(predicted.p, log.scores) / max(len(log.scores), 1), auc(predicted.p, log.scores)
