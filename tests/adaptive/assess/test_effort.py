"""Answers that came too fast: found by how long an item takes, and without effect on what is known of a learner."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.assess.effort import LEAST_DURATIONS, LONGEST_MS, rapid_thresholds
from app.adaptive.state import States
from app.adaptive.tracing.filter import initial_states, update_states
from app.adaptive.tracing.replay import replay
from app.adaptive.tracing.uncertainty import standard_error
from tests.adaptive.worlds import random_course, random_log, random_states, same, simulate
from tests.gate.examples import examples

seeds = st.integers(0, 2**32 - 1)
# What an answer changes that says nothing: that it was given, and when.
GIVEN = {"total_responses", "last_item", "recent", "seen_at", "ability_variance"}


def equal(one: Any, other: Any) -> bool:
    """Whether two values of states are the same bit by bit."""
    return same(one, other) if is_dataclass(one) else bool(one.tobytes() == other.tobytes())


def test_threshold_is_a_tenth_of_the_usual_time_where_that_is_known() -> None:
    items = np.repeat([0, 1, 2, 3], [LEAST_DURATIONS, LEAST_DURATIONS - 1, LEAST_DURATIONS, LEAST_DURATIONS])
    durations = np.full(len(items), 20_000.0)
    durations[items == 2] = 300_000.0
    durations[items == 3] = np.nan
    # Somebody went for lunch.
    durations[0] = 3_600_000.0
    assert rapid_thresholds(items, durations, 5).tolist() == [2000, 0, LONGEST_MS, 0, 0]


def test_no_answers_give_no_threshold() -> None:
    assert rapid_thresholds(np.empty(0, dtype=np.int64), np.empty(0), 2).tolist() == [0, 0]


@given(seeds)
@examples(60)
def test_rapid_answer_counts_as_given_and_moves_nothing(seed: int) -> None:
    parameters = random_course(seed)
    states = random_states(parameters, seed, learners=6)
    rng = np.random.default_rng(seed)
    items, scores = rng.integers(0, parameters.items.count, 6), np.ones(6)
    times = states.seen_at + rng.uniform(0, 9, 6) * (states.seen_at > 0)
    rapid = np.arange(6) % 2 == 0
    after, predicted = update_states(parameters, states, items, scores, times, rapid)
    plain, expected = update_states(parameters, states, items, scores, times)
    assert predicted.p.tobytes() == expected.p.tobytes()
    assert same(after[~rapid], plain[~rapid])
    for field in fields(States):
        unmoved = equal(getattr(after[rapid], field.name), getattr(states[rapid], field.name))
        assert unmoved or field.name in GIVEN, field.name
    assert (after.total_responses == states.total_responses + 1).all()
    assert (after.last_item == items).all()
    # The control: the same answers, had they been thought about.
    assert not equal(plain.ability[rapid], states.ability[rapid])


@given(seeds)
@examples(30)
def test_replay_of_rapid_answers_equals_one_after_the_other(seed: int) -> None:
    parameters = random_course(seed)
    log = random_log(parameters, seed)
    log = replace(log, rapid=np.random.default_rng(seed).random(len(log.items)) < 0.3)
    states, _ = replay(parameters, log)
    assert log.rapid is not None
    for learner in range(log.learners):
        single = initial_states(parameters, 1)
        for n in range(log.starts[learner], log.starts[learner + 1]):
            only = slice(n, n + 1)
            single, _ = update_states(
                parameters, single, log.items[only], log.scores[only], log.times[only], log.rapid[only]
            )
        assert same(single, states[learner : learner + 1])


@pytest.mark.statistics
def test_marked_rapid_guesses_do_not_bias_the_ability() -> None:
    """Every third answer of able learners is a guess at .25: θ falls by over half a logit, unless these are marked."""
    parameters = random_course(5, skills=1, items=40, kinds="plain")
    log = simulate(parameters, 5, learners=300, answers=40)
    rng = np.random.default_rng(5)
    rapid = rng.random(len(log.items)) < 1 / 3
    guessed = replace(log, scores=np.where(rapid, rng.random(len(rapid)) < 0.25, log.scores))
    truth, misled, marked = (replay(parameters, each)[0] for each in (log, guessed, replace(guessed, rapid=rapid)))
    able = truth.ability > np.median(truth.ability)
    error = standard_error(parameters, truth)[able].mean() / np.sqrt(able.sum())
    assert (truth.ability - misled.ability)[able].mean() > 0.4
    assert abs((truth.ability - marked.ability)[able].mean()) < 0.2 + 3 * error


@given(seeds)
@examples(30)
def test_answer_to_an_ignored_item_moves_nothing(seed: int) -> None:
    parameters = random_course(seed)
    states = random_states(parameters, seed, learners=4)
    ignored = np.arange(parameters.items.count) % 2 == 0
    careful = replace(parameters, items=replace(parameters.items, ignored=ignored))
    items = np.array([0, 1, 2, 3])
    after, _ = update_states(careful, states, items, np.ones(4), states.seen_at)
    plain, _ = update_states(parameters, states, items, np.ones(4), states.seen_at)
    assert equal(after.mastery[::2], states.mastery[::2])
    assert same(after[1::2], plain[1::2])
    # The control: the same answers, had the items been trusted.
    assert not equal(plain.ability[::2], states.ability[::2])
