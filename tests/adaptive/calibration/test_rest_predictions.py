"""An answer is predicted from the learner's other items, and never from itself."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from app.adaptive.arrays import Floats
from app.adaptive.calibration import rest_predictions as module
from app.adaptive.calibration.rest_predictions import (
    RaschFit,
    first_responses,
    first_successes,
    fit_rasch,
    predict_from_rest,
    select_responses,
)
from app.adaptive.irt import ItemResponses
from app.adaptive.response_log import Log

ITEMS = 6


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4)), max_size=30))
def test_first_answers_are_the_earliest_of_each_learner_and_item(given: list[tuple[int, int]]) -> None:
    given = sorted(given, key=lambda pair: pair[0])
    starts = np.searchsorted([who for who, _ in given], np.arange(5))
    items = np.array([item for _, item in given], dtype=np.int64)
    log = Log(starts, items, np.zeros(len(items)), np.zeros(len(items)))
    seen: dict[tuple[int, int], int] = {}
    for place, pair in enumerate(given):
        seen.setdefault(pair, place)
    assert first_responses(log, 5).tolist() == sorted(seen.values())


def some_responses(seed: int, learners: int = 9) -> ItemResponses:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, ITEMS + 1, learners)
    items = np.concatenate([rng.permutation(ITEMS)[:length] for length in lengths])
    return ItemResponses(np.concatenate([[0], np.cumsum(lengths)]), items, rng.integers(0, 2, len(items)))


def slow_rest(fit: RaschFit, responses: ItemResponses, answer: int) -> tuple[float, float]:
    """The ability and the chance of one answer, by sums over a grid of the other answers alone."""
    nodes = np.linspace(-module.WIDEST, module.WIDEST, module.NODES)
    b = fit.item_bank.difficulty[:, 0]

    def curve(item: int) -> Floats:
        return np.asarray(expit(fit.ability_variance**0.5 * nodes - b[item]))

    weights = np.exp(-0.5 * nodes**2)
    for other in np.flatnonzero(responses.rows == responses.rows[answer]).tolist():
        if other != answer:
            p = curve(responses.items[other])
            weights = weights * (p if responses.categories[other] else 1 - p)
    weights /= weights.sum()
    return float(weights @ nodes), float(weights @ curve(responses.items[answer]))


@pytest.mark.parametrize("block", [1, 200, 1 << 22])
def test_predictions_are_those_of_the_other_answers(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block * module.NODES)
    responses = some_responses(1, 40)
    fit = fit_rasch(responses, ITEMS)
    rest = predict_from_rest(fit, responses)
    for answer in range(len(responses.items)):
        assert (rest.ability[answer], rest.p[answer]) == pytest.approx(slow_rest(fit, responses, answer), abs=1e-9)
        assert rest.others[answer] == (responses.rows == responses.rows[answer]).sum() - 1


@given(st.integers(0, 1000))
def test_an_answer_says_nothing_of_itself(seed: int) -> None:
    responses = some_responses(seed)
    fit = fit_rasch(responses, ITEMS)
    answer = seed % max(len(responses.items), 1)
    turned = responses.categories.copy()
    turned[answer : answer + 1] ^= 1
    as_given, as_turned = (
        predict_from_rest(fit, replace(responses, categories=c)) for c in (responses.categories, turned)
    )
    for name in ("ability", "p"):
        values, other_values = getattr(as_given, name), getattr(as_turned, name)
        assert values[answer : answer + 1] == pytest.approx(other_values[answer : answer + 1], abs=1e-9)


def test_only_first_answers_count_and_half_a_score_is_right() -> None:
    log = Log(np.array([0, 3, 4]), np.array([2, 2, 0, 2]), np.array([0.4, 1.0, 0.5, 1.0]), np.zeros(4))
    responses = first_successes(log, 3)
    assert (responses.starts.tolist(), responses.items.tolist()) == ([0, 2, 3], [2, 0, 2])
    assert responses.categories.tolist() == [0, 1, 1]
    second = select_responses(responses, np.array([False, True]))
    assert (second.starts.tolist(), second.items.tolist(), second.categories.tolist()) == ([0, 1], [2], [1])
