"""Learners who are in a log twice are found, and nobody else."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from app.adaptive.arrays import Floats, Integers
from app.adaptive.calibration import duplicates as module
from app.adaptive.calibration.duplicates import (
    FALSE_ALARMS,
    LEAST_AGREEMENT,
    LEAST_SHARED,
    SLIP,
    WORTH,
    collect_first_responses,
    find_duplicates,
    surprisal,
)
from app.adaptive.response_log import Log

Learner = list[tuple[int, float]]

seeds = st.integers(0, 2**32 - 1)


def log_of(learners: list[Learner]) -> Log:
    starts = np.concatenate(([0], np.cumsum([len(answers) for answers in learners]))).astype(np.int64)
    answers = [answer for learner in learners for answer in learner]
    items, scores = [item for item, _ in answers], [score for _, score in answers]
    return Log(starts, np.array(items, dtype=np.int64), np.array(scores, dtype=np.float64), np.zeros(len(answers)))


def strangers(
    rng: np.random.Generator, learners: int, shortest: int, longest: int, items: int = 100, spread: float = 1.0
) -> list[Learner]:
    """Independent learners who work through a part of one course in its order; knowledge clusters by four items."""
    intercept = rng.normal(1, 1, items)
    result: list[Learner] = []
    for length in rng.integers(shortest, longest, learners, endpoint=True):
        first = int(rng.integers(0, min(items - length, 5), endpoint=True))
        asked = np.arange(first, first + length)
        eta = intercept[asked] + rng.normal() + rng.normal(0, spread, items)[asked // 4]
        result.append(list(zip(asked.tolist(), (rng.uniform(size=length) < expit(eta)).astype(float), strict=True)))
    return result


def copy_of(rng: np.random.Generator, learner: Learner, slips: float = 0.003) -> Learner:
    return [(item, 1 - score if rng.uniform() < slips else score) for item, score in learner]


def partition(groups: Integers, names: Integers | None = None) -> set[frozenset[int]]:
    named = np.arange(len(groups)) if names is None else names
    return {frozenset(named[groups == group].tolist()) for group in np.unique(groups)}


def slow_duplicates(log: Log) -> set[frozenset[int]]:
    """The rule of the docstring with dictionaries, pair by pair."""
    whose, items, right = collect_first_responses(log)
    telling = WORTH * surprisal(whose, items, right) + np.log(1 - SLIP)
    logs: list[dict[int, tuple[int, float]]] = [{} for _ in range(log.learners)]
    for learner, item, result, said in zip(
        whose.tolist(), items.tolist(), right.tolist(), telling.tolist(), strict=True
    ):
        logs[learner][item] = (result, said)
    compared, candidates = 0, []
    for a, b in combinations(range(log.learners), 2):
        shorter = min(len(logs[a]), len(logs[b]))
        needed = max(LEAST_SHARED, LEAST_AGREEMENT * shorter)
        shared = logs[a].keys() & logs[b].keys()
        agreed = [item for item in shared if logs[a][item][0] == logs[b][item][0]]
        compared += len(shared) >= needed
        if len(agreed) >= needed:
            said = min(sum(logs[who][item][1] for item in agreed) for who in (a, b))
            candidates.append((a, b, said + (shorter - len(agreed)) * np.log(SLIP)))
    group = list(range(log.learners))
    for a, b, evidence in candidates:
        if evidence > np.log(compared / FALSE_ALARMS):
            group = [group[a] if other == group[b] else other for other in group]
    return partition(np.array(group))


@pytest.mark.parametrize(("shortest", "longest", "items"), [(15, 40, 100), (60, 60, 60), (5, 25, 25)])
def test_duplicates_are_not_found_among_independent_learners(shortest: int, longest: int, items: int) -> None:
    """Also where everybody answers the same items, and where knowledge of a skill decides several answers at once."""
    for seed in range(3):
        log = log_of(strangers(np.random.default_rng(seed), 600, shortest, longest, items, spread=2.0))
        assert find_duplicates(log).tolist() == list(range(600))


def test_duplicates_are_found_falsely_if_chance_agreement_is_ignored() -> None:
    """The control of the test above: short logs agree by chance, so that without the chance they would be twins."""
    log = log_of(strangers(np.random.default_rng(0), 600, 15, 25, 25, spread=2.0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WORTH", 1e3)
        assert len(np.unique(find_duplicates(log))) < 550


@pytest.mark.parametrize("part", [slice(None), slice(0, 250), slice(150, None), slice(20, 280)])
def test_duplicates_that_were_planted_are_found(part: slice) -> None:
    """Whole copies and parts of the log, with slips; and the copy may go on elsewhere."""
    rng = np.random.default_rng(3)
    learners = strangers(rng, 120, 400, 400, 420)
    copies = [copy_of(rng, learner[part]) for learner in learners[:20]]
    copies[0] += [(item, 1.0) for item in range(500, 560)]
    copies[1] = [answer for answer in copies[1] for _ in range(2)]
    groups = find_duplicates(log_of(learners + copies))
    assert len(np.unique(groups[:120])) == 120
    whole = {frozenset({n, 120 + n}) for n in range(20)}
    found = {group for group in partition(groups) if len(group) > 1}
    assert found <= whole
    # Somebody who is right nearly always cannot be told from others.
    assert len(found) >= 18


def test_duplicates_of_three_copies_are_one_group_numbered_by_first_appearance() -> None:
    rng = np.random.default_rng(4)
    a, b, c = strangers(rng, 3, 400, 400, 410)
    others = strangers(rng, 30, 400, 400, 410)
    groups = find_duplicates(log_of([a, b, copy_of(rng, a), c, *others, copy_of(rng, a), b]))
    assert groups.tolist() == [0, 1, 0, *range(2, 33), 0, 1]


def test_duplicates_are_not_found_in_opposite_answers() -> None:
    rng = np.random.default_rng(5)
    learners = strangers(rng, 50, 100, 100)
    opposite = [[(item, 1 - score) for item, score in learner] for learner in learners[:10]]
    assert len(np.unique(find_duplicates(log_of(learners + opposite)))) == 60


@given(seeds)
def test_duplicates_equal_those_of_the_slow_reference_in_any_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    learners = strangers(rng, 12, 10, 100)
    learners += [copy_of(rng, learners[n][: int(rng.integers(10, 100))], 0.01) for n in range(4)]
    found = partition(find_duplicates(log_of(learners)))
    assert found == slow_duplicates(log_of(learners))
    order, renamed = rng.permutation(len(learners)), rng.permutation(100)
    mixed: list[Learner] = [
        [
            (int(renamed[item]), score)
            for item, score in (learners[who][at] for at in rng.permutation(len(learners[who])))
        ]
        for who in order
    ]
    assert partition(find_duplicates(log_of(mixed)), order) == found


@given(seeds, st.integers(1, 5000))
def test_duplicates_are_the_same_in_any_blocks(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)
    learners = strangers(rng, 15, 20, 80)
    log = log_of([*learners, *(copy_of(rng, learner) for learner in learners[:5])])
    expected = find_duplicates(log)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        patch.setattr(module, "CHUNK", 3)
        assert find_duplicates(log).tolist() == expected.tolist()


@pytest.mark.parametrize(
    "learners",
    [
        [],
        [[]],
        [[], []],
        [[(0, 1.0)], [(0, 1.0)]],
        [[(0, 0.5)] * 50, [(0, 0.5)] * 50],
        [[(item, 1.0) for item in range(30)]] * 20,
        [[(item, 0.0) for item in range(5000)]] * 2,
    ],
)
def test_duplicates_are_not_found_in_logs_without_information(learners: list[Learner]) -> None:
    """Nobody, nothing, or everybody always right: that many agree is to be expected."""
    groups = find_duplicates(log_of(learners))
    assert groups.dtype == np.int64
    assert len(groups) == len(learners)
    if len(learners) != 2 or len(learners[0]) < 5000:
        assert len(np.unique(groups)) == len(learners)


@given(seeds)
def test_surprise_is_finite_and_larger_for_the_rarer_answer(seed: int) -> None:
    rng = np.random.default_rng(seed)
    intercept = rng.choice([-50.0, 0.0, 50.0], 40)
    whose, items = np.repeat(np.arange(30), 40), np.tile(np.arange(40), 30)
    right = (rng.uniform(size=1200) < (intercept[items] + 50) / 100).astype(np.int64)
    told: Floats = surprisal(whose, items, right)
    assert np.isfinite(told).all()
    assert (told > 0).all()
    once = surprisal(np.arange(10), np.zeros(10, dtype=np.int64), np.array([1] * 9 + [0]))
    assert once[9] > once[0]
