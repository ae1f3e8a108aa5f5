"""The models of the field: each never looks ahead, survives every log, and is what its paper says."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.special import expit

from app.adaptive import baselines
from app.adaptive.arrays import Floats, Integers
from app.adaptive.assess.metrics import auc
from app.adaptive.baselines import (
    BktVariant,
    RaschCurves,
    best_choice,
    best_lr,
    best_lr_features,
    bkt,
    bkt_variants,
    fit_logistic,
    fit_rasch,
    irt,
    item_only,
    learner_blocks,
    pfa,
    predict_bkt_variant,
    predict_irt,
    prior_counts,
    skill_matrix,
    skill_sets,
    split,
    with_null_skill,
)
from app.adaptive.response_log import Log
from tests.adaptive.worlds import log_of, make_items, random_course, random_log
from tests.gate.examples import examples

# Fits of whole logs: minutes, and a function of the files they read.
pytestmark = pytest.mark.statistics

Model = Callable[[Integers, Log, Log], Floats]
MODELS: tuple[Model, ...] = (item_only, irt, bkt, pfa, best_lr)

# LSAT 6 (Bock & Lieberman 1970): how many of 1,000 gave each pattern of answers to the five items.
LSAT6 = {
    "00000": 3, "00001": 6, "00010": 2, "00011": 11, "00100": 1, "00101": 1, "00110": 3, "00111": 4, "01000": 1,
    "01001": 8, "01011": 16, "01101": 3, "01110": 2, "01111": 15, "10000": 10, "10001": 29, "10010": 14, "10011": 81,
    "10100": 3, "10101": 28, "10110": 15, "10111": 80, "11000": 16, "11001": 56, "11010": 21, "11011": 173,
    "11100": 11, "11101": 61, "11110": 28, "11111": 298,
}  # fmt: skip


def never_looks_ahead(model: Model, seed: int) -> None:
    """What is expected of an answer depends on the answers before it alone, and on no other learner."""
    parameters = random_course(seed, kinds="plain")
    skills, training = parameters.items.skills, random_log(parameters, seed, learners=6)
    unseen = random_log(parameters, seed + 1, learners=3)
    whole = model(skills, training, unseen)
    assert whole.shape == unseen.scores.shape
    for learner in range(unseen.learners):
        first, last = unseen.starts[learner], unseen.starts[learner + 1]
        alone = Log(
            np.array([0, last - first]), unseen.items[first:last], unseen.scores[first:last], unseen.times[first:last]
        )
        assert model(skills, training, alone) == pytest.approx(whole[first:last], abs=1e-9)
    if len(unseen.scores):
        place = np.random.default_rng(seed).integers(0, len(unseen.scores))
        changed = unseen.scores.copy()
        changed[place] = 1 - changed[place]
        assert model(skills, training, replace(unseen, scores=changed))[place] == pytest.approx(whole[place], abs=1e-9)


@pytest.mark.parametrize("model", MODELS)
def test_baselines_do_not_look_ahead(model: Model) -> None:
    for seed in range(4):
        never_looks_ahead(model, seed)


@pytest.mark.controls
def test_law_of_baselines_notices_a_model_that_looks_ahead() -> None:
    def peeks(skills: Integers, training: Log, unseen: Log) -> Floats:
        return item_only(skills, training, unseen) * 0.9 + 0.05 * unseen.scores

    with pytest.raises(AssertionError):
        never_looks_ahead(peeks, 0)


def stays_sound(model: Model, skills: Integers, training: Log, unseen: Log) -> None:
    """Finite and within its bounds, and the arguments are not changed."""
    for array in (skills, training.items, training.scores, unseen.items, unseen.scores):
        array.setflags(write=False)
    p = model(skills, training, unseen)
    assert p.shape == unseen.scores.shape
    assert np.isfinite(p).all()
    assert ((p >= 1e-9) & (p <= 1 - 1e-9)).all()


ANSWERS = [(0, 1.0), (1, 0.0), (0, 0.5), (2, 1.0)]
WORLDS: dict[str, tuple[list[list[int]], list[list[tuple[int, float]]]]] = {
    "one skill": ([[0], [0], [0]], [ANSWERS] * 4),
    "no skills": ([[], [], []], [ANSWERS] * 4),
    "some without": ([[1], [], [0, 1]], [ANSWERS] * 4),
    "one answer each": ([[0], [1], []], [[answer] for answer in ANSWERS]),
    "all right": ([[0], [1], []], [[(i, 1.0) for i, _ in ANSWERS] * 5] * 4),
    "all wrong": ([[0], [1], []], [[(i, 0.0) for i, _ in ANSWERS] * 5] * 4),
    "one learner": ([[0], [1], []], [ANSWERS]),
    "one answer": ([[0], [1], []], [[(0, 1.0)]]),
    "fractions": ([[0], [1], []], [[(i, 0.3) for i, _ in ANSWERS]] * 4),
    "for ever": ([[0], [0], [0]], [ANSWERS, [(0, 1.0)] * 1500, [(1, 0.0)] * 1500]),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("world", WORLDS)
def test_baselines_are_sound_on_every_log(model: Model, world: str) -> None:
    asked, rows = WORLDS[world]
    skills, training = make_items(asked).skills, log_of(rows)
    for unseen in (training, log_of([[(0, 0.0)] * 3, [(1, 1.0)]]), log_of([[], [(2, 1.0)]]), log_of([])):
        stays_sound(model, skills, training, unseen)


@pytest.mark.parametrize("model", MODELS)
def test_unseen_items_and_skills_are_predicted(model: Model) -> None:
    """Item 3 and skill 2 are never trained on; item 4 has a known skill."""
    skills = make_items([[0], [0], [1], [2], [1]]).skills
    training = log_of([[(0, 1.0), (1, 1.0), (2, 0.0)] * 4] * 8)
    stays_sound(model, skills, training, log_of([[(3, 1.0), (4, 0.0), (3, 0.0)]]))


@examples(15)
@given(st.integers(0, 10_000))
def test_counts_are_those_of_earlier_answers(seed: int) -> None:
    parameters = random_course(seed, kinds="plain")
    log = random_log(parameters, seed)
    tags = skill_matrix(parameters.items.skills)[log.items]
    wins, fails = prior_counts(tags, log)
    learner = np.repeat(np.arange(log.learners), np.diff(log.starts))
    dense = tags.toarray()
    for entry, answer in enumerate(np.repeat(np.arange(len(log.items)), np.diff(tags.indptr))):
        skill = tags.indices[entry]
        before = (learner == learner[answer]) & (np.arange(len(learner)) < answer) & (dense[:, skill] > 0)
        assert wins[entry] == pytest.approx(log.scores[before].sum())
        assert fails[entry] == pytest.approx((1 - log.scores[before]).sum())


def test_items_without_skills_share_one_skill() -> None:
    assert with_null_skill(make_items([[1], [], [0, 1]]).skills).tolist() == [[1, -1], [2, -1], [0, 1]]
    assert with_null_skill(make_items([[], []]).skills).tolist() == [[0], [0]]
    assert skill_matrix(make_items([[1], [], [0, 1]]).skills).toarray().tolist() == [[0, 1, 0], [0, 0, 1], [1, 1, 0]]


def test_features_of_best_lr_equal_those_by_hand() -> None:
    """The third answer of a learner: to item 1 on skills 0 and 1, after a win on skill 0 and a fail on both."""
    log = log_of([[(0, 1.0), (1, 0.0), (1, 1.0)]])
    rows = best_lr_features(make_items([[0], [0, 1]]).skills, log).toarray()
    one, two = np.log(2), np.log(3)
    intercept, item, skills = [1], [0, 1], [1, 1]
    total, same_item, wins, fails = [one, one], [0, one], [one, 0], [one, one]
    assert rows[2] == pytest.approx([*intercept, *item, *skills, *total, *same_item, *wins, *fails])
    assert rows[0] == pytest.approx([1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0])
    assert two > one


def test_best_lr_learns_from_the_earlier_answers_to_an_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """Learners know some of the items of one skill by heart; without the counts of the item nothing tells which."""
    rng = np.random.default_rng(4)
    known = rng.random((80, 10)) < 0.5
    rows = [
        [(item, float(rng.random() < (0.95 if heart[item] else 0.3))) for item in rng.integers(0, 10, 60)]
        for heart in known
    ]
    skills, training, unseen = make_items([[0]] * 10).skills, log_of(rows[:60]), log_of(rows[60:])
    told = auc(best_lr(skills, training, unseen), unseen.scores)

    def without_item_counts(skills: Integers, log: Log) -> csr_array:
        columns = best_lr_features(skills, log).tolil()
        columns[:, [14, 15]] = 0
        return csr_array(columns.tocsr())

    monkeypatch.setattr(baselines, "best_lr_features", without_item_counts)
    assert told > 0.75
    assert auc(best_lr(skills, training, unseen), unseen.scores) < told - 0.1


def newton(rows: Floats, scores: Floats, penalty: Floats) -> Floats:
    """The same regression by plain Newton steps on dense matrices."""
    weights = np.zeros(rows.shape[1])
    for _ in range(50):
        p = expit(rows @ weights)
        gradient = rows.T @ (scores - p) - penalty * weights
        weights = weights + np.linalg.solve((rows.T * (p * (1 - p))) @ rows + np.diag(penalty), gradient)
    return np.asarray(weights)


@pytest.mark.parametrize("ridge", [0.03, 1.0, 30.0])
def test_logistic_regression_converges(ridge: float) -> None:
    rng = np.random.default_rng(3)
    rows = np.column_stack([np.ones(300), rng.random((300, 6)) < 0.3, np.log1p(rng.integers(0, 400, (300, 3)))])
    scores = np.where(rng.random(300) < 0.2, rng.random(300), (rng.random(300) < 0.6).astype(np.float64))
    expected = newton(rows, scores, np.array([0.1, *[ridge] * 9]))
    assert fit_logistic(csr_array(rows), scores, ridge, np.zeros(10)) == pytest.approx(expected, abs=1e-3)
    assert fit_logistic(csr_array(rows), scores, ridge, rng.normal(0, 3, 10)) == pytest.approx(expected, abs=1e-3)


def test_ridge_penalty_is_the_last_before_the_loss_rises() -> None:
    asked = iter([(8.0, 3.0), (4.0, 2.0), (2.0, 2.5), (1.0, 0.0)])
    assert best_choice(asked) == 4.0
    assert next(asked) == (1.0, 0.0)
    assert best_choice(iter([(8.0, 3.0)])) == 8.0


def test_ridge_penalty_is_chosen_on_a_fifth_of_the_learners() -> None:
    log = log_of([[(0, 1.0)] * (n + 1) for n in range(10)])
    fitted, aside = split(log)
    assert (fitted.learners, aside.learners) == (8, 2)
    assert sorted([*np.diff(fitted.starts), *np.diff(aside.starts)]) == list(range(1, 11))
    only = log_of([[(0, 1.0)]])
    assert split(only) == (only, only)


def test_rasch_is_that_of_the_literature() -> None:
    """LSAT 6: discrimination .755, difficulties of R's ltm 1.2 (Rizopoulos 2006), here as easiness."""
    rows = [[(item, float(kind[item])) for item in range(5)] for kind, count in LSAT6.items() for _ in range(count)]
    curves = fit_rasch(skill_matrix(make_items([[]] * 5).skills), log_of(rows), 1e6, RaschCurves(np.zeros(5), 1.0))
    assert curves.discrimination == pytest.approx(0.755, abs=0.01)
    difficulty = [-3.6153, -1.3224, -0.3176, -1.7301, -2.7802]
    assert curves.intercept == pytest.approx(-0.7551 * np.array(difficulty), abs=0.01)


def test_ability_is_the_posterior_after_earlier_answers() -> None:
    curves = RaschCurves(np.array([0.5, -1.0]), 1.3)
    log = log_of([[], [(0, 1.0), (1, 0.0), (0, 0.4)], [(1, 1.0)]])
    nodes = np.linspace(-6, 6, 601)
    weights = np.exp(-0.5 * nodes**2)
    expected = []
    for learner in range(log.learners):
        posterior = weights / weights.sum()
        for place in range(log.starts[learner], log.starts[learner + 1]):
            p = expit(curves.intercept[log.items[place]] + curves.discrimination * nodes)
            expected.append(float(posterior @ p))
            posterior = posterior * p ** log.scores[place] * (1 - p) ** (1 - log.scores[place])
            posterior /= posterior.sum()
    assert predict_irt(curves, log) == pytest.approx(expected, abs=1e-4)


def test_sets_of_skills_are_one_skill_each() -> None:
    assert skill_sets(make_items([[1], [], [0, 1], [1, 0], [1]]).skills)[:, 0].tolist() == [1, 0, 2, 2, 1]


def test_variants_of_tracing_by_sets_need_items_with_several_skills() -> None:
    single, several = bkt_variants(make_items([[0], [], [1]]).skills), bkt_variants(make_items([[0], [0, 1]]).skills)
    assert len(single) == len(set(single)) == 4
    assert len(several) == len(set(several)) == 8
    assert bkt_variants(make_items([[], []]).skills) == single
    assert set(single) == {variant for variant in several if not variant.by_skill_set}


def tracing_world(name: str) -> tuple[Integers, Log, Log]:
    """Answers made by one variant: its own items, or a skill for both skills of an item together."""
    rng = np.random.default_rng(6)
    skills = make_items([[0], [1], [0, 1]] * 4).skills
    chain = skill_sets(skills)[:, 0] if name == "by skill set" else np.zeros(12, dtype=np.int64)
    slip = np.where(np.arange(12) < 6, 0.02, 0.4) if name == "per item" else np.full(12, 0.05)
    rows = []
    for _ in range(150):
        knows, answers = rng.random(3) < 0.4, []
        for item in rng.integers(0, 12, 24):
            of = chain[item]
            answers.append((int(item), float(rng.random() < (1 - slip[item] if knows[of] else 0.15))))
            knows[of] |= rng.random() < 0.05
        rows.append(answers)
    skills = skills if name == "by skill set" else make_items([[0]] * 12).skills
    return skills, log_of(rows[:110]), log_of(rows[110:])


@pytest.mark.parametrize("name", ["per item", "by skill set"])
def test_bkt_is_the_variant_that_made_the_answers(name: str) -> None:
    """It predicts clearly better than a chain for each skill with guess and slip of the skill."""
    skills, training, unseen = tracing_world(name)
    plain = predict_bkt_variant(BktVariant(by_skill_set=False, forgets=False, per_item=False), skills, training, unseen)
    assert auc(bkt(skills, training, unseen), unseen.scores) > auc(plain, unseen.scores) + 0.02


def test_blocks_of_learners_hold_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "BLOCK_ANSWERS", 5)
    starts = np.array([0, 0, 3, 3, 9, 10, 12, 12])
    assert list(learner_blocks(starts)) == [(0, 3), (3, 4), (4, 7)]
    assert list(learner_blocks(np.array([0]))) == []


def test_unseen_item_is_predicted_by_its_skill() -> None:
    """Skill 0 is easy and skill 1 is hard; items 2 and 3 are new."""
    skills = make_items([[0], [1], [0], [1]]).skills
    training = log_of([[(0, 1.0), (1, 0.0)] * 6 + [(0, 0.0), (1, 1.0)]] * 40)
    for model in (irt, bkt, pfa, best_lr):
        easy, hard = (model(skills, training, log_of([[(item, 1.0)]]))[0] for item in (2, 3))
        assert easy > hard + 0.05
