"""Figures of predictions: what they are by definition, and intervals that mean what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.arrays import Floats, Integers
from app.adaptive.assess.metrics import (
    METRICS,
    auc,
    compute_metrics,
    difference_intervals,
    draw_resamples,
    replicate_intervals,
    resample_metrics,
    total_loss,
)

chances = st.sampled_from([0.01, 0.1, 0.2, 0.2, 0.5, 0.7, 0.95])
scores = st.sampled_from([0.0, 1.0, 0.0, 1.0, 0.25, 0.5, 0.75])
answers = st.lists(st.tuples(chances, scores, st.integers(0, 3)), min_size=1, max_size=25)
Answers = list[tuple[float, float, int]]


def columns(rows: Answers) -> tuple[Floats, Floats, Integers]:
    p, score, learner = zip(*rows, strict=True)
    return np.array(p), np.array(score), np.array(learner)


def slow_auc(p: Floats, score: Floats) -> float:
    """Every pair of a success and a failure by itself."""
    won, lost = p[score >= 0.5], p[score < 0.5]
    pairs = [1.0 if up > down else 0.5 if up == down else 0.0 for up in won for down in lost]
    return sum(pairs) / len(pairs) if pairs else 0.5


@given(answers)
def test_metrics_equal_their_definitions(rows: Answers) -> None:
    p, score, _ = columns(rows)
    found = compute_metrics(p, score)
    assert tuple(found) == METRICS
    assert found["auc"] == pytest.approx(slow_auc(p, score)) == auc(p, score)
    loss = -sum(y * np.log(q) + (1 - y) * np.log(1 - q) for q, y in zip(p, score, strict=True))
    assert total_loss(p, score) == pytest.approx(loss)
    assert found["log_loss"] == pytest.approx(loss / len(p))
    assert found["accuracy"] == pytest.approx(
        np.mean([(q >= 0.5) == (y >= 0.5) for q, y in zip(p, score, strict=True)])
    )
    assert found["rmse"] == pytest.approx(np.sqrt(np.mean((score - p) ** 2)))
    bins = {int(q * 10): 0.0 for q in p}
    for q, y in zip(p, score, strict=True):
        bins[int(q * 10)] += y - q
    assert found["ece"] == pytest.approx(sum(map(abs, bins.values())) / len(p))


@given(answers, st.integers(0, 1000))
def test_weighted_learner_counts_as_that_many(rows: Answers, seed: int) -> None:
    """What a row of weights gives is what the answers give, written down so many times."""
    p, score, learner = columns(rows)
    weights = np.random.default_rng(seed).integers(0, 4, (3, 4)).astype(np.float64)
    weights[:, learner[0]] += 1
    found = resample_metrics(p, score, learner, weights)
    for row, drawn in enumerate(weights):
        copies = np.repeat(np.arange(len(p)), drawn[learner].astype(np.int64))
        expected = compute_metrics(p[copies], score[copies])
        assert {name: values[row] for name, values in found.values.items()} == pytest.approx(expected)
        assert found.both[row] == (0 < (score[copies] >= 0.5).sum() < len(copies))


@given(st.integers(1, 30), st.integers(0, 1000))
def test_resample_has_as_many_learners_as_the_sample(learners: int, seed: int) -> None:
    drawn = draw_resamples(learners, 5, np.random.default_rng(seed))
    assert drawn.shape == (5, learners)
    assert (drawn.sum(axis=1) == learners).all()
    assert (drawn == draw_resamples(learners, 5, np.random.default_rng(seed))).all()


def test_metrics_without_answers_are_those_of_a_coin() -> None:
    nothing = np.zeros(0)
    assert auc(nothing, nothing) == 0.5
    assert total_loss(nothing, nothing) == 0
    assert compute_metrics(nothing, nothing) == pytest.approx(
        {"auc": 0.5, "log_loss": np.log(2), "accuracy": 0.5, "rmse": 0.5, "ece": 0.0}
    )


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_auc_has_no_interval_if_all_answers_have_one_score(score: float) -> None:
    p, scored, learner = np.linspace(0.1, 0.9, 12), np.full(12, score), np.arange(12) % 4
    found = resample_metrics(p, scored, learner, draw_resamples(4, 50, np.random.default_rng(0)))
    assert compute_metrics(p, scored)["auc"] == 0.5
    assert replicate_intervals(found)["auc"] is None
    assert difference_intervals(found, found, ("auc", "log_loss")) == {"auc": None, "log_loss": (0.0, 0.0)}
    assert all(replicate_intervals(found)[name] is not None for name in METRICS if name != "auc")


def test_metrics_without_resamples_have_no_intervals() -> None:
    p, score = np.array([0.2, 0.7]), np.array([0.0, 1.0])
    found = resample_metrics(p, score, np.zeros(2, dtype=np.int64), np.zeros((0, 1)))
    assert replicate_intervals(found) == dict.fromkeys(METRICS)


def world(seed: int, learners: int) -> tuple[Floats, Floats, Integers]:
    """Learners who are better or worse than predicted, each in all of 20 answers."""
    rng = np.random.default_rng(seed)
    learner = np.repeat(np.arange(learners), 20)
    logit = rng.normal(0, 1, len(learner))
    p, truth = (1 / (1 + np.exp(-x)) for x in (logit, logit + rng.normal(0, 3, learners)[learner]))
    return p, (rng.random(len(p)) < truth).astype(np.float64), learner


def covered(learner_of: int) -> float:
    """How often the interval of 60 learners holds the log loss of 4,000."""
    p, score, _ = world(999, 4000)
    truth = compute_metrics(p, score)["log_loss"]
    hits = 0
    for seed in range(120):
        p, score, learner = world(seed, 60)
        whose = learner if learner_of else np.arange(len(p))
        count = int(whose.max()) + 1
        found = replicate_intervals(
            resample_metrics(p, score, whose, draw_resamples(count, 100, np.random.default_rng(seed)))
        )["log_loss"]
        assert found is not None
        hits += found[0] <= truth <= found[1]
    return hits / 120


@pytest.mark.statistics
def test_intervals_cover_because_learners_are_resampled() -> None:
    """95 % wanted, 93 % found; as if answers were independent, 74 %."""
    assert covered(learner_of=1) > 0.88
    assert covered(learner_of=0) < 0.85


def test_interval_of_a_paired_difference_is_narrower_than_two_intervals() -> None:
    p, score, learner = world(1, 60)
    weights = draw_resamples(60, 200, np.random.default_rng(0))
    one, other = (resample_metrics(q, score, learner, weights) for q in (p, np.clip(p + 0.01, 0.01, 0.99)))
    alone, pair = replicate_intervals(one)["log_loss"], difference_intervals(one, other, ("log_loss",))["log_loss"]
    assert alone is not None
    assert pair is not None
    assert pair[1] - pair[0] < (alone[1] - alone[0]) / 3
