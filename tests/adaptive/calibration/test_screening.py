"""Items that lie and learners who do not try are found, and good ones are left in peace."""

import csv
import gzip
import io
import json
from importlib.resources import files

import numpy as np
import pytest
from scipy.special import expit, ndtr

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.calibration.item_analysis import ItemAnalysis
from app.adaptive.calibration.screening import Screening, screen_log
from app.adaptive.numerics import pad_numbers
from app.adaptive.response_log import Log

Answers = list[tuple[int, float]]


def log_of(learners: list[Answers]) -> Log:
    starts = np.concatenate([[0], np.cumsum([len(answers) for answers in learners])]).astype(np.int64)
    pairs = [pair for answers in learners for pair in answers]
    items = np.array([item for item, _ in pairs], dtype=np.int64)
    scores = np.array([score for _, score in pairs], dtype=np.float64)
    return Log(starts, items, scores, np.zeros(len(items)))


def without_skills(items: int) -> Integers:
    return np.empty((items, 0), dtype=np.int64)


def answer_at_random(
    rng: np.random.Generator, learners: int, items: int, each: int, spread: float = 0.5, guessing: float = 0.0
) -> tuple[Log, Floats]:
    """Learners of a 3PL world who answer `each` of the items in random order; the log and the abilities."""
    ability, difficulty = rng.normal(size=learners), rng.normal(size=items)
    slope, floor = np.exp(rng.normal(0, spread, items)), np.where(rng.uniform(size=items) < 0.5, guessing, 0.0)
    result: list[Answers] = []
    for theta in ability:
        asked = rng.permutation(items)[:each]
        p = floor[asked] + (1 - floor[asked]) * expit(slope[asked] * (theta - difficulty[asked]))
        result.append(list(zip(asked.tolist(), (rng.uniform(size=each) < p).astype(float).tolist(), strict=True)))
    return log_of(result), ability


def answer_adaptively(rng: np.random.Generator, learners: int, items: int, each: int) -> Log:
    """Learners of a Rasch world who are always given one of the five items nearest to their level so far."""
    difficulty = rng.normal(size=items)
    result: list[Answers] = []
    for theta in rng.normal(size=learners):
        level, left, answers = 0.0, np.ones(items, dtype=np.bool_), []
        for step in range(each):
            near = np.argsort(np.where(left, np.abs(difficulty - level), np.inf))[:5]
            item = int(rng.choice(near))
            right = rng.uniform() < expit(theta - difficulty[item])
            left[item] = False
            level += (2 if right else -2) / (step + 2)
            answers.append((item, float(right)))
        result.append(answers)
    return log_of(result)


def turn_keys(log: Log, turned: Booleans) -> Log:
    return Log(log.starts, log.items, np.where(turned[log.items], 1 - log.scores, log.scores), log.times)


def analyse(log: Log, items: int, skills: Integers | None = None) -> ItemAnalysis:
    return screen_log(log, without_skills(items) if skills is None else skills).items


def naive_flags(analysis: ItemAnalysis) -> Booleans:
    """A test at 5 % of every item by itself."""
    return np.asarray(ndtr(analysis.correlation * np.sqrt(analysis.responses)) < 0.05)


@pytest.mark.parametrize(
    ("learners", "items", "each", "spread", "guessing"),
    [(300, 20, 20, 0.0, 0.0), (800, 300, 40, 0.5, 0.0), (800, 300, 40, 0.5, 0.25)],
)
def test_good_items_are_not_suspect(learners: int, items: int, each: int, spread: float, guessing: float) -> None:
    for seed in range(3):
        log, _ = answer_at_random(np.random.default_rng(seed), learners, items, each, spread, guessing)
        assert not analyse(log, items).suspect.any()


def test_good_items_of_an_adaptive_design_are_not_suspect() -> None:
    analysis = analyse(answer_adaptively(np.random.default_rng(1), 1000, 200, 25), 200)
    assert not analysis.suspect.any()
    judged = analysis.judged
    # The range of those who meet an item is narrow, and the correlation with it: what is expected knows that.
    assert analysis.correlation[judged].mean() < 0.25
    assert analysis.correlation[judged].mean() == pytest.approx(analysis.expected[judged].mean(), abs=0.03)


def test_wrong_keys_are_found_from_150_answers() -> None:
    found, false = 0, 0
    for seed in range(10):
        rng = np.random.default_rng(seed)
        log, _ = answer_at_random(rng, 150, 40, 40, spread=0.3)
        turned = np.arange(40) < 4
        analysis = analyse(turn_keys(log, turned), 40)
        assert (analysis.responses == 150).all()
        found += int(analysis.negative[turned].sum())
        false += int(analysis.suspect[~turned].sum())
    assert found >= 34  # of 40
    assert false == 0


def coins(seed: int, learners: int, items: int, coins: int, each: int) -> tuple[Log, Booleans]:
    """A world in which the answers to the first `coins` items are tossed for."""
    rng = np.random.default_rng(seed)
    log, _ = answer_at_random(rng, learners, items, each, spread=0.3)
    tossed = np.arange(items) < coins
    scores = np.where(tossed[log.items], rng.uniform(size=len(log.items)) < 0.4, log.scores)
    return Log(log.starts, log.items, scores, log.times), tossed


def test_hundreds_of_items_that_tell_nothing_are_not_called_wrongly_keyed() -> None:
    """At most one report in twenty may do so; a test of each item by itself does it in every report."""
    flagged, naive = 0, 0
    for seed in range(8):
        log, tossed = coins(seed, 600, 300, 200, 40)
        analysis = analyse(log, 300)
        flagged += bool(analysis.negative[tossed].any())
        naive += bool(naive_flags(analysis)[tossed].any())
    assert flagged <= 2
    assert naive == 8


def test_an_item_that_tells_nothing_is_found_where_answers_are_many() -> None:
    log, tossed = coins(1, 2000, 20, 2, 20)
    analysis = analyse(log, 20)
    assert analysis.uninformative.tolist() == tossed.tolist()
    assert not analysis.negative.any()
    few, _ = coins(1, 100, 20, 2, 20)
    assert not analyse(few, 20).suspect.any()


def test_items_of_a_skill_unlike_the_others_inform_about_their_skill() -> None:
    rng = np.random.default_rng(3)
    learners, items = 6000, 24
    own_skill = np.arange(items) % 8 == 0
    ability = np.where(own_skill, rng.normal(size=(learners, 1)), rng.normal(size=(learners, 1)))
    scores = (rng.uniform(size=(learners, items)) < expit(ability - rng.normal(size=items))).astype(float)
    log = Log(
        np.arange(learners + 1) * items, np.tile(np.arange(items), learners), scores.ravel(), np.zeros(scores.size)
    )
    assert analyse(log, items).uninformative[own_skill].any()
    assert not analyse(log, items, np.where(own_skill, 7, np.arange(items) % 7)[:, None]).suspect.any()


def test_intervals_hold_the_correlation() -> None:
    """90 in 100, over worlds of the same items; the truth is what 60,000 learners show."""
    truth = analyse(fixed_world(0, 60_000), 10)
    held = []
    for seed in range(1, 31):
        low, high = analyse(fixed_world(seed, 200), 10).interval
        held.append((low <= truth.correlation) & (truth.correlation <= high))
    assert 0.85 <= np.mean(held) <= 0.95


def fixed_world(seed: int, learners: int) -> Log:
    rng = np.random.default_rng(seed)
    slope, difficulty = np.linspace(0.3, 2, 10), np.linspace(-1, 1, 10)[[3, 1, 4, 0, 5, 9, 2, 6, 8, 7]]
    p = expit(slope * (rng.normal(size=(learners, 1)) - difficulty))
    scores = (rng.uniform(size=p.shape) < p).astype(float)
    return Log(np.arange(learners + 1) * 10, np.tile(np.arange(10), learners), scores.ravel(), np.zeros(scores.size))


@pytest.mark.parametrize("answers", [0, 1, 29])
def test_what_rests_on_little_is_not_judged(answers: int) -> None:
    log = log_of([[(0, float(who % 2)), (1, float(who % 3 > 0))] for who in range(answers)])
    screening = screen_log(log, without_skills(2))
    assert not screening.items.judged.any()
    assert not screening.items.suspect.any()
    assert not screening.persons.judged.any()
    assert np.isfinite(screening.items.correlation).all()


def test_items_that_all_get_right_or_nobody_else_answers_are_finite() -> None:
    log = log_of([[(0, 1.0), (1, 0.0)] for _ in range(50)] + [[(2, float(who % 2))] for who in range(50)])
    analysis = analyse(log, 3)
    assert not analysis.suspect.any()
    assert np.isfinite(np.concatenate([analysis.correlation, analysis.standard_error, analysis.expected])).all()


# Learners


def sample_course() -> tuple[list[Answers], Integers]:
    """The answers of the 536 learners of the sample course, and the skills of its items."""
    folder = files("app.sample")
    catalogue = json.loads((folder / "catalogue.json").read_text("utf-8"))
    skills = {skill["id"]: number for number, skill in enumerate(catalogue["skills"])}
    items = {item["id"]: number for number, item in enumerate(catalogue["items"])}
    learners: dict[str, Answers] = {}
    text = gzip.decompress((folder / "responses.csv.gz").read_bytes()).decode()
    for row in csv.DictReader(io.StringIO(text)):
        learners.setdefault(row["learner_id"], []).append((items[row["item_id"]], float(row["correct"])))
    return list(learners.values()), pad_numbers([[skills[s] for s in item["skills"]] for item in catalogue["items"]])


def add_bots(learners: list[Answers], bots: int, seed: int) -> Log:
    """The same learners and some who toss a coin, twice for each of the twenty items."""
    rng = np.random.default_rng(seed)
    tossed = [
        [(int(item), float(rng.uniform() < 0.5)) for item in np.concatenate([rng.permutation(20), rng.permutation(20)])]
        for _ in range(bots)
    ]
    return log_of(learners + tossed)


def screen_sample(bots: int, seed: int = 1) -> Screening:
    learners, skills = sample_course()
    return screen_log(add_bots(learners, bots, seed), skills)


def test_the_sample_course_has_good_items_and_learners_who_try() -> None:
    screening = screen_sample(0)
    assert not screening.items.suspect.any()
    assert not screening.persons.many
    assert screening.persons.misfitting.mean() < 0.05


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_eighty_bots_among_the_learners_of_the_sample_course_are_noticed(seed: int) -> None:
    persons = screen_sample(80, seed).persons
    assert persons.many
    assert persons.misfitting[536:].mean() > 0.5
    assert persons.misfitting[:536].mean() < 0.05


@pytest.mark.parametrize("each", [15, 40])
def test_learners_who_try_seldom_misfit(each: int) -> None:
    shares = []
    for seed in range(4):
        log, _ = answer_at_random(np.random.default_rng(seed), 500, 60, each, spread=0.3, guessing=0.25)
        persons = screen_log(log, without_skills(60)).persons
        assert not persons.many
        shares.append(persons.misfitting[persons.judged].mean())
    assert np.mean(shares) < 0.03
