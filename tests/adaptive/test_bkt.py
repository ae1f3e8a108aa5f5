"""Bayesian knowledge tracing: equal to plain Baum-Welch and to pyBKT, and sane where neither has anything to say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.arrays import Floats, Integers
from app.adaptive.bkt import (
    BktFit,
    Codes,
    Goal,
    Rates,
    Setup,
    build_tree,
    e_step_counts,
    em_step,
    encode_responses,
    fit_bkt,
    forward,
    forward_inputs,
    log_emissions,
    log_likelihood,
    predict_bkt,
    prune,
    shared_prior,
)
from app.adaptive.calibration.fit import count_expected
from app.adaptive.response_log import Log
from app.adaptive.skill_chains import link_skill_chains
from tests.adaptive.worlds import arrays, frozen, log_of, same
from tests.adaptive.worlds import tree as skill_tree
from tests.gate.examples import examples

PLAIN = Setup(pseudo=0.0, item_pseudo=0.0, tolerance=1e-10, iterations=5000)
SKILLS = np.array([[0, -1], [1, -1], [0, 1], [-1, -1], [2, 1]])
SEEDS = st.integers(0, 2**32 - 1)


def any_log(seed: int, learners: int = 12, longest: int = 9, *, fractions: bool = False) -> Log:
    """Answers to the five items of `SKILLS`; some learners gave none."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, longest + 1, learners)
    count = int(lengths.sum())
    scores = rng.integers(0, 5, count) / 4 if fractions else rng.integers(0, 2, count).astype(np.float64)
    return Log(np.concatenate([[0], np.cumsum(lengths)]), rng.integers(0, len(SKILLS), count), scores, np.zeros(count))


def any_rates(seed: int, classes: int, *, forgets: bool) -> Rates:
    rng = np.random.default_rng(seed)
    prior, learn, forget = rng.uniform(0.05, 0.9, (3, 3))
    guess, slip = rng.uniform(0.02, 0.45, (2, classes))
    return Rates(prior, learn, forget * forgets / 3, guess, slip)


def world(seed: int, forget: float = 0.0, learners: int = 400, longest: int = 12) -> Log:
    """One skill, three items; P(L0) .3, P(T) .2."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, longest + 1, learners)
    knows = rng.random(learners) < 0.3
    item = rng.integers(0, 3, (longest, learners))
    right = np.zeros((longest, learners))
    for t in range(longest):
        p = np.where(knows, 1 - np.array([0.15, 0.05, 0.1])[item[t]], np.array([0.1, 0.2, 0.3])[item[t]])
        right[t] = rng.random(learners) < p
        luck = rng.random(learners)
        knows = np.where(knows, luck >= forget, luck < 0.2)
    held = (np.arange(longest)[:, None] < lengths).T
    return Log(np.concatenate([[0], np.cumsum(lengths)]), item.T[held], right.T[held], np.zeros(held.sum()))


ONE_SKILL = np.zeros((3, 1), dtype=np.int64)


def fitted(skills: Integers, log: Log, setup: Setup) -> BktFit:
    return fit_bkt(skills, log, setup, np.random.default_rng(0))


def slow(skills: Integers, classes: Integers, log: Log, rates: Rates) -> tuple[Floats, dict[str, Floats], Floats]:
    """Plain Baum-Welch, one chain and one answer at a time: log likelihoods, counts, and predictions."""
    likelihood = np.zeros(len(rates.prior))
    sizes = {"prior": 3, "learn": 3, "forget": 3, "guess": len(rates.guess), "slip": len(rates.guess)}
    counts = {name: np.zeros((2, size)) for name, size in sizes.items()}
    sums, asked = np.zeros(len(log.items)), np.zeros(len(log.items))
    for learner in range(log.learners):
        for skill in range(len(rates.prior)):
            chain = [
                (place, int(classes[log.items[place], k]))
                for place in range(log.starts[learner], log.starts[learner + 1])
                for k in range(skills.shape[1])
                if skills[log.items[place], k] == skill
            ]
            if not chain:
                continue
            learn, forget = rates.learn[skill], rates.forget[skill]
            move = np.array([[1 - learn, learn], [forget, 1 - forget]])
            state = np.array([1 - rates.prior[skill], rates.prior[skill]])
            alphas, emissions, scale = [], [], []
            for place, group in chain:
                y = log.scores[place]
                p = np.array([rates.guess[group], 1 - rates.slip[group]])
                sums[place] += state @ p
                asked[place] += 1
                emission = p**y * (1 - p) ** (1 - y)
                scale.append(float((state * emission).sum()))
                alphas.append(state * emission / scale[-1])
                emissions.append(emission)
                state = alphas[-1] @ move
            likelihood[skill] += np.log(scale).sum()
            beta = np.ones(2)
            for t in range(len(chain) - 1, -1, -1):
                unknown, known = alphas[t] * beta
                (place, group), y = chain[t], log.scores[chain[t][0]]
                counts["guess"][:, group] += unknown * y, unknown
                counts["slip"][:, group] += known * (1 - y), known
                if not t:
                    counts["prior"][:, skill] += known, 1
                    continue
                joint = alphas[t - 1][:, None] * move * (emissions[t] * beta)[None] / scale[t]
                counts["learn"][:, skill] += joint[0, 1], joint[0].sum()
                counts["forget"][:, skill] += joint[1, 0], joint[1].sum()
                beta = move @ (emissions[t] * beta) / scale[t]
    return likelihood, counts, np.where(asked > 0, sums / np.maximum(asked, 1), np.nan)


@examples(25, deadline=None)
@given(SEEDS, st.booleans(), st.booleans(), st.booleans())
def test_bkt_equals_plain_baum_welch(seed: int, forgets: bool, per_item: bool, fractions: bool) -> None:
    log = any_log(seed, fractions=fractions)
    classes = np.where(SKILLS >= 0, np.arange(SKILLS.size).reshape(SKILLS.shape), -1) if per_item else SKILLS
    owner = SKILLS.reshape(-1) if per_item else np.arange(3)
    rates = any_rates(seed, len(owner), forgets=forgets)
    chains = link_skill_chains(SKILLS, log)
    codes, code = encode_responses(SKILLS, classes, log, chains)
    tree, _ = build_tree(chains, codes, code, 3)
    _, ratio, learn, forget = forward_inputs(tree, codes, rates)
    _, odds = forward(tree, rates.prior / (1 - rates.prior), ratio, learn, forget)
    likelihood, counts, predicted = slow(SKILLS, classes, log, rates)
    np.testing.assert_allclose(log_likelihood(tree, codes, rates, odds), likelihood, rtol=1e-10, atol=1e-10)
    found = e_step_counts(tree, codes, Goal(rates, 0.0, 0.0, owner), odds, learn, forget)
    for name, expected in counts.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, atol=1e-10, err_msg=name)
    nothing = np.zeros(3)
    known = BktFit(rates, SKILLS, classes, 0.25, nothing > 0, nothing, nothing.astype(np.int64))
    np.testing.assert_allclose(predict_bkt(known, log), np.where(np.isnan(predicted), 0.25, predicted), rtol=1e-11)


# pyBKT 1.4.3, built from its source package, on `world(1, forget)`: EM_fit from prior .4, learns .15, forgets 0 or .02,
# guesses .2, slips .1, with tol=-1 and as many steps; then prior, learns, forgets, guesses, slips.
PYBKT = {
    (0.0, 1): (0.3704820639802906, 0.1833747801506226, 0.0, 0.20046428039885397, 0.10282812517021994),
    (0.05, 1): (
        0.3642035206020957,
        0.17211453529341098,
        0.025292398876687845,
        0.20949471329933453,
        0.11493018783433334,
    ),
    (0.0, 2000): (0.3368437130967347, 0.2077730153854164, 0.0, 0.19321072658232655, 0.10289581663018207),
    (0.05, 5000): (
        0.35096618459626383,
        0.21698245378371508,
        0.0432659072248638,
        0.18481051935022041,
        0.11500936422717552,
    ),
}
# predict_onestep with the parameters after 2,000 steps: the first six answers, all of the first learner.
PYBKT_PREDICTED = [
    0.43031281219112116,
    0.7310616285023115,
    0.5024866451000813,
    0.3901352038634701,
    0.6981985374749854,
    0.8534979032055231,
]


@pytest.mark.parametrize(("forget", "steps"), PYBKT)
def test_bkt_fit_equals_that_of_pybkt(forget: float, steps: int) -> None:
    log, setup = world(1, forget), replace(PLAIN, forgets=forget > 0)
    if steps == 1:
        chains = link_skill_chains(ONE_SKILL, log)
        codes, code = encode_responses(ONE_SKILL, ONE_SKILL, log, chains)
        tree, _ = build_tree(chains, codes, code, 1)
        goal = shared_prior(1, setup)
        rates, _ = em_step(tree, codes, goal, goal.centre, setup)
        tolerance = 1e-12
    else:
        rates = fitted(ONE_SKILL, log, setup).rates
        tolerance = 2e-5
    ours = [float(value[0]) for value in arrays(rates)]
    np.testing.assert_allclose(ours, PYBKT[forget, steps], atol=tolerance)


def test_bkt_predicts_as_pybkt() -> None:
    log = world(1)
    np.testing.assert_allclose(predict_bkt(fitted(ONE_SKILL, log, PLAIN), log)[:6], PYBKT_PREDICTED, atol=2e-6)


@examples(15, deadline=None)
@given(SEEDS, st.booleans(), st.sampled_from([0.0, 2.0]))
def test_em_step_of_bkt_never_lowers_the_posterior(seed: int, forgets: bool, pseudo: float) -> None:
    log, setup = any_log(seed, learners=30), replace(PLAIN, forgets=forgets, pseudo=pseudo)
    chains = link_skill_chains(SKILLS, log)
    codes, code = encode_responses(SKILLS, SKILLS, log, chains)
    tree, _ = build_tree(chains, codes, code, 3)
    goal = shared_prior(3, setup)
    rates, last = goal.centre, np.full(3, -np.inf)
    for _ in range(12):
        rates, value = em_step(tree, codes, goal, rates, setup)
        assert (value.log_posterior >= last - 1e-9).all()
        last = value.log_posterior


@examples(20, deadline=None)
@given(SEEDS, st.booleans())
def test_expected_counts_of_bkt_equal_those_of_calibrations(seed: int, forgets: bool) -> None:
    """Odds over merged beginnings here, probabilities of each learner there: the same up to rounding."""
    log, rates = any_log(seed, learners=20), any_rates(seed, 3, forgets=forgets)
    chains = link_skill_chains(SKILLS, log)
    codes, code = encode_responses(SKILLS, SKILLS, log, chains)
    tree, _ = build_tree(chains, codes, code, 3)
    _, ratio, learn, forget = forward_inputs(tree, codes, rates)
    _, odds = forward(tree, rates.prior / (1 - rates.prior), ratio, learn, forget)
    found = e_step_counts(tree, codes, shared_prior(3, PLAIN), odds, learn, forget)
    known, unknown = (np.exp(part)[code] for part in log_emissions(codes, rates))
    skills = skill_tree([[], [], []], prior=rates.prior, p_learn=rates.learn, p_forget=rates.forget)
    never = np.zeros(len(code))
    expected = count_expected(skills, chains, known, unknown, np.ones(len(code)), never, np.ones_like)
    for name, other in (("prior", "prior"), ("learn", "p_learn"), ("forget", "p_forget")):
        for counted, each in zip(found[name], expected[other], strict=True):
            np.testing.assert_allclose(counted, np.bincount(chains.skill, each, 3), atol=1e-9)


@pytest.mark.statistics
def test_accelerated_steps_of_bkt_end_where_plain_steps_end() -> None:
    log = world(2, 0.05)
    setup = replace(PLAIN, forgets=True)
    found = fitted(ONE_SKILL, log, setup)
    chains = link_skill_chains(ONE_SKILL, log)
    codes, code = encode_responses(ONE_SKILL, ONE_SKILL, log, chains)
    tree, _ = build_tree(chains, codes, code, 1)
    goal = shared_prior(1, setup)
    rates = goal.centre
    for _ in range(3000):
        rates, _ = em_step(tree, codes, goal, rates, setup)
    _, value = em_step(tree, codes, goal, rates, setup)
    np.testing.assert_allclose(found.log_likelihood, value.log_likelihood, atol=1e-6)
    assert found.iterations[0] < 300


@examples(10, deadline=None)
@given(SEEDS, st.booleans())
def test_skill_is_fitted_with_the_same_bits_alone(seed: int, per_item: bool) -> None:
    """Bit for bit, also when skills are dropped as they converge."""
    log = any_log(seed, learners=150, longest=20)
    setup = Setup(per_item=per_item, forgets=True)
    together = fitted(SKILLS, log, setup)
    for skill in range(3):
        only = np.where(skill == SKILLS, 0, -1)
        alone = fitted(only, log, setup)
        assert alone.log_likelihood[0] == together.log_likelihood[skill]
        assert alone.identified[0] == together.identified[skill]
        for name in ("prior", "learn", "forget"):
            assert getattr(alone.rates, name)[0] == getattr(together.rates, name)[skill]


@examples(10, deadline=None)
@given(SEEDS)
def test_bkt_predicts_an_answer_before_it_is_used(seed: int) -> None:
    """What comes later, and who else is there, changes no bit of it."""
    rng = np.random.default_rng(seed)
    found = fitted(SKILLS, any_log(seed, learners=60), Setup())
    log = any_log(seed + 1)
    whole = predict_bkt(found, log)
    for learner in range(log.learners):
        low, high = log.starts[learner : learner + 2]
        alone = Log(np.array([0, high - low]), log.items[low:high], log.scores[low:high], log.times[low:high])
        assert predict_bkt(found, alone).tobytes() == whole[low:high].tobytes()
        cut = int(rng.integers(low, high + 1))
        other = log.scores.copy()
        other[cut:high] = 1 - other[cut:high]
        assert (predict_bkt(found, replace(log, scores=other))[low : cut + 1] == whole[low : cut + 1])[
            : cut + 1 - low
        ].all()


@examples(25, deadline=None)
@given(SEEDS, st.booleans(), st.booleans(), st.booleans())
def test_bkt_rates_stay_within_their_limits(seed: int, forgets: bool, per_item: bool, fractions: bool) -> None:
    setup = Setup(forgets=forgets, per_item=per_item, pseudo=0.0, item_pseudo=0.0)
    log = any_log(seed, learners=40, longest=6, fractions=fractions)
    check(fitted(SKILLS, log, setup), log, setup)


@pytest.mark.parametrize("pseudo", [0.0, 2.0])
@pytest.mark.parametrize("forgets", [False, True])
@pytest.mark.parametrize(
    "log",
    [
        log_of([]),
        log_of([[], []]),
        log_of([[(0, 1.0)]]),
        log_of([[(0, 1.0)] * 30] * 30),
        log_of([[(0, 0.0)] * 30] * 30),
        log_of([[(0, 0.0)] * 700 + [(0, 1.0)] * 700] * 25),
        log_of([[(0, 1.0)] * 700 + [(0, 0.0)] * 700] * 25),
        log_of([[(4, 0.5)]] * 50),
    ],
    ids=["nobody", "no answers", "one", "all right", "all wrong", "wrong, then right", "right, then wrong", "half"],
)
def test_bkt_can_be_fitted_to_degenerate_logs(log: Log, pseudo: float, forgets: bool) -> None:
    for per_item in (False, True):
        setup = Setup(forgets=forgets, per_item=per_item, pseudo=pseudo, item_pseudo=pseudo)
        check(fitted(SKILLS, log, setup), log, setup)


def check(found: BktFit, log: Log, setup: Setup) -> None:
    """Finite, within the limits, and never a slip and a guess that make a wrong answer speak for knowing."""
    for values in arrays(found):
        assert np.isfinite(values).all()
    rates = found.rates
    assert (rates.guess + rates.slip <= 0.95 + 1e-12).all()
    for name, (low, high) in {
        "prior": setup.rate_limits,
        "learn": setup.rate_limits,
        "forget": (0.0, setup.forget_limits[1]),
        "guess": setup.guess_limits,
        "slip": setup.slip_limits,
    }.items():
        assert (getattr(rates, name) >= low).all()
        assert (getattr(rates, name) <= high).all()
    p = predict_bkt(found, log)
    assert p.shape == log.items.shape
    assert ((p > 0) & (p < 1)).all()


def test_bkt_without_skills_predicts_the_share_of_right_answers() -> None:
    log = log_of([[(0, 1.0), (0, 1.0), (0, 0.0)]])
    found = fitted(np.full((1, 1), -1), log, Setup())
    assert predict_bkt(found, log).tolist() == [2.5 / 4] * 3


def test_bkt_recovers_simulated_rates() -> None:
    """4,000 learners; errors measured: P(L0) .006, P(T) .003, guess .019 and slip .003 at most."""
    found = fitted(ONE_SKILL, world(3, learners=4000), Setup(per_item=True))
    assert found.identified.all()
    assert abs(found.rates.prior[0] - 0.3) < 0.03
    assert abs(found.rates.learn[0] - 0.2) < 0.02
    np.testing.assert_allclose(found.rates.guess, [0.1, 0.2, 0.3], atol=0.03)
    np.testing.assert_allclose(found.rates.slip, [0.15, 0.05, 0.1], atol=0.03)


def test_bkt_recovers_forgetting() -> None:
    found = fitted(ONE_SKILL, world(4, 0.1, learners=4000, longest=30), Setup(forgets=True))
    assert abs(found.rates.forget[0] - 0.1) < 0.02
    assert abs(found.rates.learn[0] - 0.2) < 0.03


def test_bkt_with_rates_per_item_predicts_better() -> None:
    """On fresh learners, where items differ; what fails if classes are mixed up."""
    log, fresh = world(5, learners=1000), world(6, learners=1000)
    loss = {}
    for per_item in (False, True):
        p = predict_bkt(fitted(ONE_SKILL, log, Setup(per_item=per_item)), fresh)
        loss[per_item] = -np.log(np.where(fresh.scores > 0, p, 1 - p)).mean()
    assert loss[True] < loss[False] - 0.005


def test_bkt_rates_that_are_not_identified_stay_at_their_prior() -> None:
    """Skill 1 has learners enough but is a coin without memory; skill 2 has three learners."""
    log = world(7)
    rng = np.random.default_rng(7)
    rows = [
        [(0, float(y)) for y in log.scores[low:high]] + [(1, float(y)) for y in rng.integers(0, 2, 6)]
        for low, high in zip(log.starts[:-1], log.starts[1:], strict=True)
    ]
    rows[:3] = [[*row, (2, 1.0), (2, 0.0), (2, 1.0)] for row in rows[:3]]
    setup = Setup()
    found = fitted(np.array([[0], [1], [2]]), log_of(rows), setup)
    assert found.identified.tolist() == [True, False, False]
    kept = [float(value[2]) for value in arrays(found.rates)]
    assert kept == [setup.prior, setup.learn, 0.0, setup.guess, setup.slip]


def test_unseen_item_has_the_guess_and_slip_of_its_skill() -> None:
    log = world(8)
    skills = np.zeros((4, 1), dtype=np.int64)
    shared = fitted(skills, log, Setup())
    found = fitted(skills, log, Setup(per_item=True))
    assert found.rates.guess[3] == shared.rates.guess[0]
    assert found.rates.slip[3] == shared.rates.slip[0]


@pytest.mark.statistics
def test_further_starts_of_bkt_are_never_worse_and_repeatable() -> None:
    log = any_log(9, learners=200, longest=15)
    once, more = fitted(SKILLS, log, PLAIN), fitted(SKILLS, log, replace(PLAIN, starts=4))
    assert (more.log_likelihood >= once.log_likelihood).all()
    assert same(more, fitted(SKILLS, log, replace(PLAIN, starts=4)))


def test_bkt_does_not_change_its_arguments() -> None:
    log, skills = frozen(any_log(10, learners=50)), SKILLS.copy()
    skills.setflags(write=False)
    found = fitted(skills, log, Setup(per_item=True))
    predict_bkt(frozen(found), log)


@examples(20, deadline=None)
@given(SEEDS)
def test_tree_of_sequences_merges_exactly_and_prunes_whole_skills(seed: int) -> None:
    log = any_log(seed, learners=30)
    chains = link_skill_chains(SKILLS, log)
    codes, code = encode_responses(SKILLS, SKILLS, log, chains)
    tree, node = build_tree(chains, codes, code, 3)
    assert (tree.code[node] == code).all()
    assert tree.count.sum() == len(code)
    assert tree.ending.sum() == len(chains.skill)
    rates, setup = any_rates(seed, 3, forgets=True), replace(PLAIN, forgets=True)
    goal = shared_prior(3, setup)
    rates_next, value = em_step(tree, codes, goal, rates, setup)
    keep = np.array([True, False, True])
    pruned_next, pruned = em_step(prune(tree, codes, keep), codes, goal, rates, setup)
    assert (pruned.log_likelihood[keep] == value.log_likelihood[keep]).all()
    assert (pruned_next.learn[keep] == rates_next.learn[keep]).all()
    assert pruned.log_likelihood[1] == 0


def test_bkt_encodes_any_number_of_different_scores() -> None:
    """More kinds than a table has room for are sorted: the same codes."""
    rng = np.random.default_rng(0)
    log = Log(np.array([0, 40]), rng.integers(0, 400, 40), rng.random(40), np.zeros(40))
    skills = np.arange(400)[:, None] % 3
    codes, code = encode_responses(skills, np.arange(400)[:, None], log, link_skill_chains(skills, log))
    assert isinstance(codes, Codes)
    answer = link_skill_chains(skills, log).answer
    assert (codes.group[code] == log.items[answer]).all()
    assert (codes.score[code] == log.scores[answer]).all()
    assert (np.diff(codes.skill) >= 0).all()
