"""Classical Bayesian knowledge tracing, fitted by EM (Corbett & Anderson 1995; Baum et al. 1970).

A learner knows a skill or does not: before the first answer with P(L0); between two answers it is learnt with P(T)
and, if wanted, forgotten with P(F); who does not know guesses with P(G), who knows slips with P(S). It stands beside
the engine as what analysts know and compare with.

Learners who began alike are one: answers are merged into a tree whose nodes are the distinct beginnings, and expected
counts over the tree are exactly the sums over its learners, because the backward pass is linear. Two states need one
number: forward the odds of knowing, backward the expected number of learners who know.
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property

import numpy as np
from scipy.special import expm1, log1p, xlog1py, xlogy

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.response_log import Log
from app.adaptive.skill_chains import SkillChains, link_skill_chains

# Beyond this and its inverse, odds could leave the range of numbers; it takes hundreds of answers to notice.
LARGEST_ODDS = 1e200
# Distinct keys are found by a table of up to this many places for each key, by sorting beyond.
SPARSEST = 8
# Nodes are dropped once this share of them belongs to skills that have converged.
IDLE = 0.25
LEAST_CHAINS, LEAST_LENGTH, LEAST_CHANCES = 20, 3, 20.0
# What a traced skill has beyond a plain share of right answers: P(L0), P(T), and a second share.
EXTRA_PARAMETERS = 3
LARGEST_STEP = 32.0
SMALLEST = 1e-30
OF_CLASSES = ("guess", "slip")
# Backward products over thousands of answers stop here instead of underflowing.
TINY = 1e-200


@dataclass(frozen=True)
class Rates:
    """Per skill P(L0), P(T), P(F), each (S,); per class of answers P(G) and P(S), each (G,)."""

    prior: Floats
    learn: Floats
    forget: Floats
    guess: Floats
    slip: Floats


@dataclass(frozen=True)
class Setup:
    """How to fit.

    A parameter has a Beta prior with its mode at the value named here and the weight of `pseudo` answers (0: maximum
    likelihood); with `per_item`, guess and slip of an item have theirs around those of its skill, worth `item_pseudo`.
    Limits are inclusive. That of slip ends at .45, so that guess + slip never passes .95 and a right answer always
    speaks for knowing. A skill has converged when a step gains less than `tolerance` of log posterior.
    """

    forgets: bool = False
    per_item: bool = False
    pseudo: float = 2.0
    item_pseudo: float = 20.0
    prior: float = 0.4
    learn: float = 0.15
    forget: float = 0.02
    guess: float = 0.2
    slip: float = 0.1
    rate_limits: tuple[float, float] = (0.0001, 0.9999)
    forget_limits: tuple[float, float] = (0.000001, 0.5)
    guess_limits: tuple[float, float] = (0.001, 0.5)
    slip_limits: tuple[float, float] = (0.001, 0.45)
    tolerance: float = 1e-3
    iterations: int = 200
    starts: int = 1


@dataclass(frozen=True)
class BktFit:
    """Fitted rates, and per skill (S,) whether they are identified, their log likelihood and the steps they took.

    `skills` and `classes` (I, K) name the skill and the class of every item's answers, padded with -1. `share` is the
    share of right answers: what is expected of an item without skills.
    """

    rates: Rates
    skills: Integers
    classes: Integers
    share: float
    identified: Booleans
    log_likelihood: Floats
    iterations: Integers


@dataclass(frozen=True)
class Codes:
    """The kinds of answers there are, each (Q,): their class, its skill, and the score as a fraction."""

    group: Integers
    skill: Integers
    score: Floats


def encode_responses(skills: Integers, classes: Integers, log: Log, chains: SkillChains) -> tuple[Codes, Integers]:
    """The kinds of answers of a log, sorted by skill, and the kind of every entry of `chains.answer`."""
    items, scores = log.items[chains.answer], log.scores[chains.answer]
    group, skill = classes[items, chains.column], skills[items, chains.column]
    whole = scores.astype(np.int64)
    if np.array_equal(whole, scores):
        values, value = np.arange(2.0), whole
    else:
        values, value = np.unique(scores, return_inverse=True)
    size = (int(group.max(initial=0)) + 1) * len(values)
    kind, found = _number_keys(group * len(values) + value, size)
    belongs = np.empty(len(found), dtype=np.int64)
    belongs[kind] = skill
    order = np.argsort(belongs, kind="stable")
    index = np.empty_like(order)
    index[order] = np.arange(len(order))
    found = found[order]
    return Codes(found // len(values), belongs[order], values[found % len(values)]), index[kind]


def _number_keys(keys: Integers, size: int) -> tuple[Integers, Integers]:
    """Return the index of every key among the distinct ones, and these in ascending order; all are below `size`."""
    if size > SPARSEST * len(keys) + SPARSEST:
        distinct, indices = np.unique(keys, return_inverse=True)
        return indices, distinct
    table = np.zeros(size, dtype=np.int64)
    table[keys] = 1
    distinct = np.flatnonzero(table)
    table[distinct] = np.arange(len(distinct))
    return table[keys], distinct


@dataclass(frozen=True)
class _Tree:
    """Chains, merged as far as they begin alike: M nodes by depth, T depths; within a depth sorted by skill.

    `starts` (T + 1,) is where each depth begins. `parent` (M,) counts within the depth above, and names the skill in
    the first. `code` (M,) is what was answered, `count` (M,) how many chains pass, `ending` (M,) how many end there.
    """

    starts: Integers
    parent: Integers
    code: Integers
    count: Floats
    ending: Floats

    @cached_property
    def ends(self) -> Integers:
        """The nodes where chains end."""
        return np.flatnonzero(self.ending)


def build_tree(chains: SkillChains, codes: Codes, code: Integers, skills: int) -> tuple[_Tree, Integers]:
    """Merge chains that begin with the same codes; `code` stands in the order of `chains.answer`.

    Returns the tree and the node of every entry of `chains.answer`.
    """
    first = np.searchsorted(codes.skill, np.arange(skills))
    width = int(np.bincount(codes.skill, minlength=1).max()) if len(codes.skill) else 1
    local = code - first[codes.skill][code]
    node = np.empty(len(code), dtype=np.int64)
    above, size, starts = chains.skill, skills, [0]
    parents, kinds, counts = [], [], []
    for t in range(len(chains.active)):
        positions = chains.positions_at(t)
        above, distinct = _number_keys(above[: len(positions)] * width + local[positions], size * width)
        size = len(distinct)
        kind = np.empty(size, dtype=np.int64)
        kind[above] = code[positions]
        parents.append(distinct // width)
        kinds.append(kind)
        counts.append(np.bincount(above, minlength=size))
        node[positions] = above + starts[-1]
        starts.append(starts[-1] + size)
    ending = [
        here - np.bincount(below, weights=below_count, minlength=len(here))
        for here, below, below_count in zip(counts[:-1], parents[1:], counts[1:], strict=True)
    ]
    flat = [np.concatenate([np.zeros(0, dtype=np.int64), *rows]) for rows in (parents, kinds, counts)]
    left = np.concatenate([np.zeros(0), *ending, *counts[-1:]])
    return _Tree(np.array(starts), flat[0], flat[1], flat[2].astype(np.float64), left), node


def prune(tree: _Tree, codes: Codes, keep: Booleans) -> _Tree:
    """Only the nodes of the skills to keep (S,)."""
    if keep.all():
        return tree
    stays = keep[codes.skill][tree.code]
    index = np.concatenate([[0], np.cumsum(stays)])
    starts = index[tree.starts]
    depth = np.repeat(np.arange(len(tree.starts) - 1), np.diff(tree.starts))
    deeper = depth > 0
    parent = tree.parent.copy()
    above = depth[deeper] - 1
    parent[deeper] = index[parent[deeper] + tree.starts[above]] - starts[above]
    starts = starts[: int(np.count_nonzero(np.diff(starts))) + 1]
    return _Tree(starts, parent[stays], tree.code[stays], tree.count[stays], tree.ending[stays])


def forward(tree: _Tree, start: Floats, ratio: Floats, learn: Floats, forget: Floats) -> tuple[Floats, Floats]:
    """The odds of knowing before and after every node's answer, each (M,).

    `start` are the odds before the first answer of each skill (S,); `ratio` is the likelihood of the answer for who
    knows over that for who does not, `learn` and `forget` the chances after it, each (M,). With x the odds after the
    answer, those before the next are (x (1 - F) + T) / (x F + 1 - T).
    """
    before, after = np.empty(len(ratio)), np.empty(len(ratio))
    coming = start
    forgets = bool(forget.any())
    for low, high in zip(tree.starts[:-1].tolist(), tree.starts[1:].tolist(), strict=True):
        here = slice(low, high)
        x = after[here]
        np.take(coming, tree.parent[here], out=before[here], mode="clip")
        np.multiply(before[here], ratio[here], out=x)
        np.clip(x, 1 / LARGEST_ODDS, LARGEST_ODDS, out=x)
        stay = 1 - learn[here]
        if forgets:
            lost = x * forget[here]
            coming = x - lost
            coming += learn[here]
            stay += lost
        else:
            coming = x + learn[here]
        coming /= stay
    return before, after


def _backward(tree: _Tree, odds: Floats, learn: Floats, forget: Floats) -> tuple[Floats, Floats, Floats]:
    """How many learners of every node are expected to know, and of them who go on to learn, and to forget; each (M,).

    `odds` (M,) are those after the answer, from `forward`. Given that x learners know at the next answer, the share
    of them who knew already is x (1 - F) / (x (1 - F) + T).
    """
    known, learnt, forgot = np.empty(len(odds)), np.empty(len(odds)), np.zeros(len(odds))
    forgets = bool(forget.any())
    bounds = tree.starts.tolist()
    coming = np.zeros(bounds[-1] - bounds[-2] if len(bounds) > 1 else 0)
    for t in range(len(bounds) - 2, -1, -1):
        here = slice(bounds[t], bounds[t + 1])
        x, end = odds[here], tree.ending[here]
        lost = x * forget[here] if forgets else 0.0
        remaining = x - lost
        remaining /= remaining + learn[here]
        remaining *= coming
        np.subtract(coming, remaining, out=learnt[here])
        share = x / (1 + x)
        share *= end
        share += remaining
        if forgets:
            lost /= lost + (1 - learn[here])
            lost *= np.maximum(tree.count[here] - end - coming, 0)
            forgot[here] = lost
            share += lost
        np.maximum(share, TINY, out=share)
        known[here] = share
        if t:
            coming = _sum_by_index(tree.parent[here], share, bounds[t] - bounds[t - 1])
    return known, learnt, forgot


def fit_bkt(skills: Integers, log: Log, setup: Setup, rng: np.random.Generator) -> BktFit:
    """Fit every skill by EM to the answers of a log.

    `skills` (I, K) are the skills of each item, padded with -1. An answer to an item with several counts for each, in
    chains of their own; one without is in none. A score between 0 and 1 counts as that share of a right answer and
    the rest of a wrong one. Starts beyond the first are drawn from `rng`; the best is kept, skill by skill.

    A skill is identified if at least 20 learners gave three answers or more, each of its parameters had 20 expected
    chances to show, and tracing is worth its three further parameters over a constant share of right answers (Schwarz
    1978). One with fewer learners, or with right or with wrong answers only, keeps the values of `setup`.
    """
    count = int(skills.max(initial=-1)) + 1
    chains = link_skill_chains(skills, log)
    codes, code = encode_responses(skills, skills, log, chains)
    tree, _ = build_tree(chains, codes, code, count)
    enough = _is_enough(chains, codes, code, count)
    goal = shared_prior(count, setup)
    found = _best_start(prune(tree, codes, enough), codes, goal, enough, setup, rng)
    worth = found.log_likelihood - _constant_likelihood(
        codes, _sum_by_index(code, np.ones(len(code)), len(codes.skill)), count
    )
    price = EXTRA_PARAMETERS / 2 * xlogy(1.0, np.maximum(np.bincount(chains.skill, minlength=count), 1))
    identified = enough & (worth > price) & (found.chances >= LEAST_CHANCES)
    classes, indices = skills, np.arange(skills.size, dtype=np.int64)
    if setup.per_item:
        classes = np.where(skills >= 0, indices.reshape(skills.shape), -1)
        codes, code = encode_responses(skills, classes, log, chains)
        tree, _ = build_tree(chains, codes, code, count)
        goal = _per_item_prior(goal, found.rates, skills.reshape(-1), setup)
        start = replace(found.rates, guess=goal.centre.guess, slip=goal.centre.slip)
        found = _maximise_rates(prune(tree, codes, enough), codes, goal, start, enough, setup)
    return BktFit(
        rates=found.rates,
        skills=skills,
        classes=classes,
        share=float((log.scores.sum() + 0.5) / (len(log.scores) + 1)),
        identified=identified,
        log_likelihood=found.log_likelihood,
        iterations=found.iterations,
    )


def predict_bkt(fitted: BktFit, log: Log) -> Floats:
    """P(right) of every answer of a log given the earlier ones of its learner, (N,): one, whatever skills it has.

    It is the mean over the skills of the item, and the overall share of right answers for an item without.
    """
    chains = link_skill_chains(fitted.skills, log)
    codes, code = encode_responses(fitted.skills, fitted.classes, log, chains)
    tree, node = build_tree(chains, codes, code, len(fitted.rates.prior))
    before, _ = forward(tree, *forward_inputs(tree, codes, fitted.rates))
    guess, slip = fitted.rates.guess[codes.group], fitted.rates.slip[codes.group]
    p = (before * (1 - slip)[tree.code] + guess[tree.code]) / (1 + before)
    asked = np.bincount(chains.answer, minlength=len(log.items))
    return np.where(
        asked > 0, _sum_by_index(chains.answer, p[node], len(log.items)) / np.maximum(asked, 1), fitted.share
    )


def _is_enough(chains: SkillChains, codes: Codes, code: Integers, count: int) -> Booleans:
    """Which skills (S,) have twenty learners with three answers, and both right and wrong ones."""
    learners = np.bincount(chains.skill[chains.lengths >= LEAST_LENGTH], minlength=count)
    answers = np.bincount(code, minlength=len(codes.skill))
    right = np.bincount(codes.skill, weights=answers * codes.score, minlength=count)
    wrong = np.bincount(codes.skill, weights=answers * (1 - codes.score), minlength=count)
    return np.asarray((learners >= LEAST_CHAINS) & (right > 0) & (wrong > 0))


def _constant_likelihood(codes: Codes, answers: Floats, count: int) -> Floats:
    """The log likelihood of every skill (S,) if each class had its constant share of right answers."""
    groups = int(codes.group.max(initial=-1)) + 1
    right = _sum_by_index(codes.group, answers * codes.score, groups)
    share = ((right + 0.5) / (_sum_by_index(codes.group, answers, groups) + 1))[codes.group]
    likelihood = xlogy(codes.score, share) + xlog1py(1 - codes.score, -share)
    return _sum_by_index(codes.skill, answers * likelihood, count)


@dataclass(frozen=True)
class Goal:
    """What EM maximises beside the likelihood: a Beta prior with mode `centre` that weighs as many answers as said.

    `owner` (G,) is the skill of every class of answers, -1 for classes that are none.
    """

    centre: Rates
    weight: float
    class_weight: float
    owner: Integers

    def by_skill(self, values: Floats) -> Floats:
        """The sums of values of the classes (G,) over each skill, (S,)."""
        held = self.owner >= 0
        return _sum_by_index(self.owner[held], values[held], len(self.centre.prior))


def shared_prior(count: int, setup: Setup) -> Goal:
    """The prior of skills whose items share guess and slip."""
    forget = setup.forget if setup.forgets else 0.0
    values = (setup.prior, setup.learn, forget, setup.guess, setup.slip)
    return Goal(Rates(*(np.full(count, value) for value in values)), setup.pseudo, setup.pseudo, np.arange(count))


def _per_item_prior(goal: Goal, rates: Rates, owner: Integers, setup: Setup) -> Goal:
    """The prior of skills whose items have their own guess and slip, around those of `rates`."""
    centre = replace(goal.centre, guess=rates.guess[owner], slip=rates.slip[owner])
    return Goal(centre, setup.pseudo, setup.item_pseudo, owner)


@dataclass(frozen=True)
class _EmResult:
    """Where EM came to: the rates, and per skill (S,) the log posterior and likelihood, and the steps it took.

    `chances` is how often the parameter that showed least was expected to have been able to show.
    """

    rates: Rates
    log_posterior: Floats
    log_likelihood: Floats
    chances: Floats
    iterations: Integers


def _best_start(
    tree: _Tree, codes: Codes, goal: Goal, traced: Booleans, setup: Setup, rng: np.random.Generator
) -> _EmResult:
    """EM from the centre of the prior and from further starts; for every skill the best."""
    best = _maximise_rates(tree, codes, goal, goal.centre, traced, setup)
    for _ in range(setup.starts - 1):
        other = _maximise_rates(tree, codes, goal, _draw_start(goal, setup, rng), traced, setup)
        better = other.log_posterior > best.log_posterior
        rates = _merge_rates(better, goal.owner, other.rates, best.rates)
        rest = {f.name: np.where(better, getattr(other, f.name), getattr(best, f.name)) for f in fields(_EmResult)[1:]}
        best = _EmResult(rates, **rest)
    return best


def _draw_start(goal: Goal, setup: Setup, rng: np.random.Generator) -> Rates:
    """A start anywhere where learning is plausible."""
    low, high = np.array([[0.05, 0.02, 0.005, 0.05, 0.02], [0.95, 0.4, 0.1, 0.4, 0.3]])
    values = low[:, None] + (high - low)[:, None] * rng.random((5, len(goal.centre.prior)))
    return _limit_rates(Rates(values[0], values[1], values[2] * setup.forgets, values[3], values[4]), setup)


def _maximise_rates(tree: _Tree, codes: Codes, goal: Goal, start: Rates, traced: Booleans, setup: Setup) -> _EmResult:
    """EM for the skills that are `traced` (S,), each until it has converged; the others stay at the centre.

    Two steps are followed by a leap along their direction, and a third (SQUAREM, Varadhan & Roland 2008, scheme S3);
    where the leap leads down, the third step is not taken. So the log posterior never falls.
    """
    rates = _merge_rates(traced, goal.owner, _limit_rates(start, setup), goal.centre)
    going, size = traced.copy(), len(tree.code)
    steps = np.zeros(len(traced), dtype=np.int64)
    posterior, likelihood, chances = np.zeros((3, len(traced)))
    while going.any():
        first, before = em_step(tree, codes, goal, rates, setup)
        second, middle = em_step(tree, codes, goal, first, setup)
        steps[going] += 2
        arrived = going & (
            (middle.log_posterior - before.log_posterior < setup.tolerance) | (steps >= setup.iterations)
        )
        rates = _merge_rates(arrived, goal.owner, first, rates)
        posterior[arrived] = middle.log_posterior[arrived]
        likelihood[arrived] = middle.log_likelihood[arrived]
        chances[arrived] = middle.chances[arrived]
        going &= ~arrived
        if not going.any():
            break
        idle = ~going[codes.skill][tree.code] if arrived.any() else np.zeros(0, dtype=np.bool_)
        if idle.sum() > IDLE * size:
            tree = prune(tree, codes, going)
            size = len(tree.code)
        far = _extrapolate_rates(rates, first, second, goal, setup)
        third, after = em_step(tree, codes, goal, far, setup)
        steps[going] += 1
        rises = after.log_posterior >= middle.log_posterior
        rates = _merge_rates(going & rises, goal.owner, third, _merge_rates(going, goal.owner, second, rates))
    return _EmResult(rates, posterior, likelihood, chances, steps)


def _merge_rates(which: Booleans, owner: Integers, one: Rates, other: Rates) -> Rates:
    """The rates of `one` for some skills (S,) and of `other` for the rest."""
    classes = which[owner] & (owner >= 0)
    return Rates(
        prior=np.where(which, one.prior, other.prior),
        learn=np.where(which, one.learn, other.learn),
        forget=np.where(which, one.forget, other.forget),
        guess=np.where(classes, one.guess, other.guess),
        slip=np.where(classes, one.slip, other.slip),
    )


def _limit_rates(rates: Rates, setup: Setup) -> Rates:
    """The rates within their limits; what is never forgotten stays 0."""
    low, high = setup.rate_limits
    return Rates(
        prior=np.clip(rates.prior, low, high),
        learn=np.clip(rates.learn, low, high),
        forget=np.clip(rates.forget, *setup.forget_limits) if setup.forgets else np.zeros_like(rates.forget),
        guess=np.clip(rates.guess, *setup.guess_limits),
        slip=np.clip(rates.slip, *setup.slip_limits),
    )


def _extrapolate_rates(start: Rates, first: Rates, second: Rates, goal: Goal, setup: Setup) -> Rates:
    """Where two steps of EM point to, within the limits; one length for all parameters of a skill."""
    moves, bends = np.zeros((2, len(start.prior)))
    for field in fields(Rates):
        zero, one, two = (getattr(rates, field.name) for rates in (start, first, second))
        move, bend = (one - zero) ** 2, (two - 2 * one + zero) ** 2
        shared = field.name in OF_CLASSES
        moves += goal.by_skill(move) if shared else move
        bends += goal.by_skill(bend) if shared else bend
    length = np.clip(np.sqrt(moves / np.maximum(bends, SMALLEST)), 1.0, LARGEST_STEP)
    far = {}
    for field in fields(Rates):
        zero, one, two = (getattr(rates, field.name) for rates in (start, first, second))
        by = length[goal.owner] if field.name in OF_CLASSES else length
        far[field.name] = zero + 2 * by * (one - zero) + by**2 * (two - 2 * one + zero)
    return _limit_rates(Rates(**far), setup)


@dataclass(frozen=True)
class _StepValue:
    """What a step of EM saw at the rates it started from, per skill (S,)."""

    log_posterior: Floats
    log_likelihood: Floats
    chances: Floats


def forward_inputs(tree: _Tree, codes: Codes, rates: Rates) -> tuple[Floats, Floats, Floats, Floats]:
    """What `forward` needs: the odds at the start of each skill, and ratio, P(T), P(F) of every node."""
    known, unknown = log_emissions(codes, rates)
    learn, forget = rates.learn[codes.skill][tree.code], rates.forget[codes.skill][tree.code]
    return rates.prior / (1 - rates.prior), (expm1(known - unknown) + 1)[tree.code], learn, forget


def log_emissions(codes: Codes, rates: Rates) -> tuple[Floats, Floats]:
    """The log likelihood of every kind of answer (Q,) for who knows and for who does not."""
    guess, slip, score = rates.guess[codes.group], rates.slip[codes.group], codes.score
    known = xlog1py(score, -slip) + xlogy(1 - score, slip)
    return known, xlogy(score, guess) + xlog1py(1 - score, -guess)


def em_step(tree: _Tree, codes: Codes, goal: Goal, rates: Rates, setup: Setup) -> tuple[Rates, _StepValue]:
    """One step of EM: the next rates, and the value of those it started from. Skills without nodes go to the centre."""
    start, ratio, learn, forget = forward_inputs(tree, codes, rates)
    _, odds = forward(tree, start, ratio, learn, forget)
    chances = e_step_counts(tree, codes, goal, odds, learn, forget)
    likelihood = log_likelihood(tree, codes, rates, odds)
    following, penalty = {}, np.zeros(len(rates.prior))
    for name, (happened, possible) in chances.items():
        old, mode = getattr(rates, name), getattr(goal.centre, name)
        shared = name in OF_CLASSES
        weight = goal.class_weight if shared else goal.weight
        whole = possible + weight
        following[name] = np.where(whole > 0, (happened + weight * mode) / np.where(whole > 0, whole, 1), old)
        part = weight * (xlogy(mode, old) + xlog1py(1 - mode, -old))
        penalty += goal.by_skill(part) if shared else part
    least = np.minimum(chances["learn"][1], chances["prior"][1])
    for name in OF_CLASSES:
        least = np.minimum(least, goal.by_skill(chances[name][1]))
    return _limit_rates(Rates(**following), setup), _StepValue(likelihood + penalty, likelihood, least)


def e_step_counts(
    tree: _Tree, codes: Codes, goal: Goal, odds: Floats, learn: Floats, forget: Floats
) -> dict[str, tuple[Floats, Floats]]:
    """The E-step: how often what each rate is about is expected to have happened, and could have; (S,) or (G,)."""
    skills, kinds = len(goal.centre.prior), len(codes.skill)
    node_known, node_learnt, node_forgot = _backward(tree, odds, learn, forget)
    known = _sum_by_index(tree.code, node_known, kinds)
    unknown = np.maximum(_sum_by_index(tree.code, tree.count, kinds) - known, 0)
    roots = slice(0, int(tree.starts[:2][-1]))
    learners = _sum_by_index(tree.parent[roots], tree.count[roots], skills)
    first = _sum_by_index(tree.parent[roots], node_known[roots], skills)
    learnt = _sum_by_index(codes.skill, _sum_by_index(tree.code, node_learnt, kinds), skills)
    forgot = _sum_by_index(codes.skill, _sum_by_index(tree.code, node_forgot, kinds), skills)
    # Who knows at any answer but the first knew before or has learnt; who does not, did not or has forgotten.
    then_known = _sum_by_index(codes.skill, known, skills) - first
    then_unknown = np.maximum(_sum_by_index(codes.skill, unknown, skills) - (learners - first), 0)
    classes, score = len(goal.owner), codes.score
    return {
        "prior": (first, learners),
        "learn": (learnt, learnt + np.maximum(then_unknown - forgot, 0)),
        "forget": (forgot, forgot + np.maximum(then_known - learnt, 0)),
        "guess": (_sum_by_index(codes.group, unknown * score, classes), _sum_by_index(codes.group, unknown, classes)),
        "slip": (_sum_by_index(codes.group, known * (1 - score), classes), _sum_by_index(codes.group, known, classes)),
    }


def log_likelihood(tree: _Tree, codes: Codes, rates: Rates, odds: Floats) -> Floats:
    """That of every skill (S,), from the odds after every answer.

    With o the odds before and x after it, an answer has the likelihood (1 + x) / (1 + o) of who does not know, and
    1 + o is (1 + x) / (x F + 1 - T) with the x before: most of it cancels but for the last answers.
    """
    skills, kinds = len(rates.prior), len(codes.skill)
    _, unknown = log_emissions(codes, rates)
    sums = unknown * _sum_by_index(tree.code, tree.count, kinds)
    ends = tree.ends
    sums += _sum_by_index(tree.code[ends], tree.ending[ends] * log1p(odds[ends]), kinds)
    going = tree.count - tree.ending
    if rates.forget.any():
        learn, forget = rates.learn[codes.skill][tree.code], rates.forget[codes.skill][tree.code]
        sums += _sum_by_index(tree.code, going * log1p(odds * forget - learn), kinds)
    else:
        sums += _sum_by_index(tree.code, going, kinds) * log1p(-rates.learn[codes.skill])
    roots = slice(0, int(tree.starts[:2][-1]))
    learners = _sum_by_index(tree.parent[roots], tree.count[roots], skills)
    return np.asarray(_sum_by_index(codes.skill, sums, skills) + learners * log1p(-rates.prior))


def _sum_by_index(index: Integers, values: Floats, size: int) -> Floats:
    """The sums of the values with the same index, in order; (size,)."""
    return np.asarray(np.bincount(index, weights=values, minlength=size), dtype=np.float64)
