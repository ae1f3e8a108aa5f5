"""The quality of predictions: laws, golden numbers, and intervals that cover."""

from dataclasses import astuple, fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, stdtrit

from app.adaptive.arrays import Floats, Integers
from app.adaptive.assess.metrics import BINS, compute_metrics, draw_resamples, replicate_intervals, resample_metrics
from app.adaptive.assess.quality import Quality, calibration_curve, measure_quality, measure_quality_by_group

Answers = tuple[Floats, Floats, Integers]

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 60)
MEASURES = ("log_loss", "auc", "brier")


def answers(seed: int, size: int, learners: int = 8) -> Answers:
    """Predictions with ties and extremes, scores of all kinds, learners with any numbers."""
    rng = np.random.default_rng(seed)
    p = rng.choice([0.0, 1e-12, 0.2, 0.5, 0.5, 0.9, 1.0, *rng.uniform(size=8)], size)
    score = rng.choice([0.0, 1.0, 1.0, 0.5, 0.25], size)
    return p, score, rng.choice(rng.integers(-100, 100, learners), size)


def dependent(rng: np.random.Generator, learners: int = 60, each: int = 20) -> Answers:
    """Answers of learners who are each better or worse than predicted, and more or less like the prediction at all."""
    learner = np.repeat(np.arange(learners), each)
    known = rng.normal(0, 1.5, learners * each)
    shift, slope = rng.normal(0, 1, learners), rng.uniform(-2, 4, learners)
    score = rng.uniform(size=len(known)) < expit(known * slope[learner] + shift[learner])
    return expit(known), score.astype(np.float64), learner


def numbers(quality: Quality) -> Floats:
    """All of it as one row; what is absent is -1."""
    flat: list[float] = []
    for value in astuple(quality):
        stack = [value]
        while stack:
            top = stack.pop()
            if isinstance(top, tuple):
                stack.extend(top)
            else:
                flat.append(-1 if top is None else top)
    return np.array(flat)


def test_quality_equals_the_golden_numbers() -> None:
    """scikit-learn 1.9.1 (roc_auc_score, log_loss, brier_score_loss, calibration_curve with ten uniform bins), and
    statsmodels 0.15.0 (OLS on a constant, cov_type="cluster", use_t)."""
    k = np.arange(60)
    p, score = ((37 * k + 11) % 97 + 1) / 99, ((k * k + 3 * k) % 7 < 3).astype(np.float64)
    found = measure_quality(p, score, (k * k) % 11)
    assert found.auc == pytest.approx(0.5444596443228454, abs=1e-12)
    assert found.log_loss == pytest.approx(0.8759787378082708, abs=1e-12)
    assert found.brier == pytest.approx(0.3113678876305139, abs=1e-12)
    assert found.log_loss_interval == pytest.approx((0.4919448725731965, 1.2600126030433456), abs=1e-9)
    assert found.brier_interval == pytest.approx((0.16194208556146863, 0.46079368969955925), abs=1e-9)
    assert [point.observed for point in found.curve] == pytest.approx(
        [0.0, 3 / 7, 0.0, 0.6, 3 / 7, 0.0, 3 / 7, 0.5, 0.0, 0.4], abs=1e-12
    )
    assert [point.predicted for point in found.curve[:3]] == pytest.approx(
        [0.05858585858585859, 0.14862914862914864, 0.25252525252525254], abs=1e-12
    )


@given(seeds, sizes)
def test_quality_figures_equal_those_of_an_evaluation(seed: int, size: int) -> None:
    p, score, learner = answers(seed, size)
    p = np.clip(p, 1e-6, 1 - 1e-6)
    found, known = measure_quality(p, score, learner), compute_metrics(p, score)
    assert found.log_loss == pytest.approx(known["log_loss"], abs=1e-12)
    assert found.brier == pytest.approx(known["rmse"] ** 2, abs=1e-12)
    assert found.ece == pytest.approx(known["ece"], abs=1e-12)
    assert (0.5 if found.auc is None else found.auc) == pytest.approx(known["auc"], abs=1e-12)


@given(seeds, sizes)
def test_quality_is_finite_and_within_its_bounds(seed: int, size: int) -> None:
    given_answers = answers(seed, size)
    copies = tuple(values.copy() for values in given_answers)
    found = measure_quality(*given_answers)
    assert np.isfinite(numbers(found)).all()
    for name in MEASURES:
        value, interval = getattr(found, name), getattr(found, f"{name}_interval")
        assert interval is None or 0 <= interval[0] <= value <= interval[1]
        assert interval is None or name == "log_loss" or interval[1] <= 1
    for point in found.curve:
        assert point.interval is None or 0 <= point.interval[0] <= point.observed <= point.interval[1] <= 1
    assert sum(point.responses for point in found.curve) == found.responses == size
    assert all((before == after).all() for before, after in zip(copies, given_answers, strict=True))


@given(seeds, sizes)
def test_quality_does_not_depend_on_order_and_names(seed: int, size: int) -> None:
    p, score, learner = answers(seed, size)
    order = np.random.default_rng(seed).permutation(size)
    found = numbers(measure_quality(p, score, learner))
    assert numbers(measure_quality(p[order], score[order], 1000 - learner[order])) == pytest.approx(found, abs=1e-9)


@given(seeds, sizes)
def test_quality_intervals_do_not_shrink_by_repeated_answers(seed: int, size: int) -> None:
    p, score, learner = answers(seed, size)
    once, twice = (
        measure_quality(p, score, learner),
        measure_quality(np.tile(p, 2), np.tile(score, 2), np.tile(learner, 2)),
    )
    for field in fields(Quality):
        if field.name not in {"responses", "curve"}:
            assert getattr(twice, field.name) == pytest.approx(getattr(once, field.name), abs=1e-9), field.name
    others = measure_quality(np.tile(p, 2), np.tile(score, 2), np.concatenate([learner, learner + 1000]))
    assert others.learners == 2 * once.learners
    if once.log_loss_interval is not None and others.log_loss_interval is not None:
        assert np.ptp(others.log_loss_interval) <= np.ptp(once.log_loss_interval) + 1e-12


@given(seeds, sizes)
def test_quality_of_a_group_is_measured_as_if_alone(seed: int, size: int) -> None:
    p, score, learner = answers(seed, size)
    group = np.random.default_rng(seed).integers(0, 4, size)
    for number, found in enumerate(measure_quality_by_group(p, score, learner, group, np.arange(5))):
        alone = measure_quality(p[group == number], score[group == number], learner[group == number])
        assert numbers(found) == pytest.approx(numbers(alone), abs=1e-12)


def test_quality_without_answers_is_empty() -> None:
    empty = np.empty(0)
    assert measure_quality(empty, empty, np.empty(0, dtype=np.int64)) == Quality(0, 0)


def test_quality_of_certain_and_right_predictions_is_perfect() -> None:
    score = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    found = measure_quality(score, score, np.arange(5))
    assert (found.auc, found.auc_interval) == (1.0, None)
    assert found.log_loss == pytest.approx(0, abs=1e-8)
    assert found.brier == pytest.approx(0, abs=1e-15)
    assert found.ece == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("kind", [0.0, 1.0])
def test_auc_is_missing_if_all_answers_have_one_score(kind: float) -> None:
    found = measure_quality(np.full(6, 0.7), np.full(6, kind), np.arange(6) // 2)
    assert (found.auc, found.auc_interval) == (None, None)
    [point] = found.curve
    assert point.observed == kind
    assert point.interval is not None
    assert np.ptp(point.interval) > 0.5


def test_quality_of_one_learner_has_no_interval() -> None:
    found = measure_quality(np.array([0.3, 0.6, 0.61]), np.array([0.0, 1.0, 0.0]), np.zeros(3, dtype=np.int64))
    assert (found.log_loss_interval, found.auc_interval, found.brier_interval) == (None, None, None)
    assert [point.interval for point in found.curve] == [None, None]


def test_intervals_of_one_answer_a_learner_are_those_of_the_textbook() -> None:
    """The standard error of a mean, and Wilson's interval: its ends are where the score test is just rejected."""
    rng = np.random.default_rng(1)
    p, score = rng.uniform(0.3, 0.4, 40), (rng.uniform(size=40) < 0.35).astype(np.float64)
    reach = stdtrit(39, 0.975)
    brier = (p - score) ** 2
    half = reach * brier.std(ddof=1) / np.sqrt(40)
    assert measure_quality(p, score, np.arange(40)).brier_interval == pytest.approx(
        (brier.mean() - half, brier.mean() + half)
    )
    [point] = calibration_curve(p, score, np.arange(40))
    assert point.interval is not None
    for end in point.interval:
        assert abs(end - point.observed) == pytest.approx(reach * np.sqrt(end * (1 - end) / 39))


def test_intervals_are_those_of_resampled_learners() -> None:
    p, score, learner = dependent(np.random.default_rng(2), learners=150)
    found = measure_quality(p, score, learner)
    drawn = replicate_intervals(resample_metrics(p, score, learner, draw_resamples(150, 400, np.random.default_rng(3))))
    for name in ("log_loss", "auc"):
        ends = drawn[name]
        assert ends is not None
        assert np.ptp(getattr(found, f"{name}_interval")) == pytest.approx(np.ptp(ends), rel=0.12), name


def coverage(name: str, truth: float, *, clustered: bool) -> float:
    """How often the interval of a measure holds the truth."""
    hits = 0
    for seed in range(300):
        p, score, learner = dependent(np.random.default_rng(seed))
        found = measure_quality(p, score, learner if clustered else np.arange(len(p)))
        low, high = getattr(found, f"{name}_interval")
        hits += low <= truth <= high
    return hits / 300


@pytest.mark.statistics
@pytest.mark.parametrize("name", ["log_loss", "auc"])
def test_intervals_cover_when_answers_of_a_learner_are_dependent(name: str) -> None:
    p, score, learner = dependent(np.random.default_rng(1000), learners=40_000)
    truth = getattr(measure_quality(p, score, learner), name)
    assert 0.92 <= coverage(name, truth, clustered=True) <= 0.98
    assert coverage(name, truth, clustered=False) < 0.9


def test_interval_of_a_bin_covers_when_answers_of_a_learner_are_dependent() -> None:
    p, score, learner = dependent(np.random.default_rng(1000), learners=40_000)
    truth = {int(point.predicted * BINS): point.observed for point in calibration_curve(p, score, learner)}
    hits = []
    for seed in range(100):
        for point in calibration_curve(*dependent(np.random.default_rng(seed))):
            assert point.interval is not None
            hits.append(point.interval[0] <= truth[int(point.predicted * BINS)] <= point.interval[1])
    assert 0.92 <= np.mean(hits) <= 0.98
