"""Simulated learners live by the rules of their world, alone or together, and the lab runs what the service runs."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.arrays import Integers
from app.adaptive.practice import choose as service
from app.adaptive.simulation import worlds as living
from app.adaptive.simulation.policies import POLICIES, recommend_as_service
from app.adaptive.simulation.practice import Policy, PolicyOffer, PolicyView, PracticeOutcome, practise
from app.adaptive.simulation.worlds import (
    WORLDS,
    Truth,
    World,
    create_course,
    learner_seeds,
    start_learners,
    strength_gain,
    undergo_exercise,
)
from app.adaptive.tracing.filter import initial_states, update_states
from tests.gate.examples import examples

BY_NAME = {world.name: world for world in WORLDS}
ONE = np.array([0])
worlds = st.sampled_from(WORLDS)
seeds = st.integers(0, 2**32 - 1)


def same_outcome(one: PracticeOutcome, other: PracticeOutcome, rows: Integers) -> bool:
    return all((getattr(one, f.name)[rows] == getattr(other, f.name)).all() for f in fields(PracticeOutcome))


def batch_does_not_matter(world: World, policy: Policy, seed: int, most: int) -> None:
    """Alone, in part, in another order: what becomes of a learner is the same."""
    course, learners = create_course(world, seed, 0), learner_seeds(seed, 0, 5)
    whole = practise(world, course, policy, learners, most)
    for rows in (np.array([3]), np.array([4, 1, 0])):
        assert same_outcome(whole, practise(world, course, policy, learners[rows], most), rows)


@pytest.mark.parametrize("name", POLICIES)
def test_simulated_learner_does_not_depend_on_the_others(name: str) -> None:
    batch_does_not_matter(BY_NAME["spacing"], POLICIES[name], 5, 30)
    batch_does_not_matter(BY_NAME["wrong_graph"], POLICIES[name], 6, 30)


@pytest.mark.controls
def test_law_of_independent_learners_notices_a_policy_that_depends_on_the_batch() -> None:
    """A policy that goes by the batch."""

    def by_number(view: PolicyView) -> PolicyOffer:
        items = np.arange(view.states.count) * 20
        return PolicyOffer(items, np.zeros(len(items), dtype=np.bool_))

    with pytest.raises(AssertionError):
        batch_does_not_matter(BY_NAME["binary"], by_number, 5, 30)


def test_simulation_is_fixed_by_its_seed() -> None:
    world = BY_NAME["growth_forgetting"]
    runs = [
        practise(world, create_course(world, seed, 0), recommend_as_service, learner_seeds(seed, 0, 4), 60).right
        for seed in (1, 1, 2)
    ]
    assert (runs[0] == runs[1]).all()
    assert (runs[0] != runs[2]).any()


def test_simulation_offers_what_the_service_would() -> None:
    world = BY_NAME["binary"]
    course, learners = create_course(world, 3, 0), learner_seeds(3, 0, 6)
    truth, states = start_learners(world, course, learners), initial_states(course.parameters, 6)
    rng = np.random.default_rng(1)
    for _ in range(120):
        random = rng.integers(0, 2**64, 6, dtype=np.uint64)
        view = PolicyView(course.parameters, states, states.mastery, random, world, course, truth)
        offer, choices = recommend_as_service(view), service.choose_items(course.parameters, states, random)
        named = choices.item >= 0
        assert (offer.item[named] == choices.item[named]).all()
        assert (offer.done == ~named).all()
        assert (offer.item >= 0).all()
        states, _ = update_states(
            course.parameters, states, offer.item, rng.integers(0, 2, 6).astype(float), np.zeros(6)
        )


@given(worlds, seeds)
@examples(15)
def test_simulated_learners_begin_with_no_skill_whose_prerequisite_is_missing(world: World, seed: int) -> None:
    truth = start_learners(world, create_course(world, seed, 0), learner_seeds(seed, 0, 50))
    known = truth.strength > 0.5
    for place in range(2):
        named = truth.prerequisites[:, :, place]
        there = np.take_along_axis(known, np.maximum(named, 0), axis=1) | (named < 0)
        assert there[known].all()


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
def test_simulated_truth_differs_from_the_parameters_as_much_as_documented(world: World) -> None:
    course = create_course(world, 1, 0)
    items = course.parameters.items
    truth = start_learners(world, course, learner_seeds(1, 0, 400))
    assert abs((truth.strength > 0.5)[:, :4].mean() - 0.3) < 0.03
    error = (truth.intercept - items.intercept) / items.discrimination
    assert abs(error.std() - 0.24) < 0.005
    assert abs(np.log(truth.pace / course.pace).std() - 0.3) < 0.01
    assert abs(truth.ability.std() - 0.8) < 0.08
    rewired = (truth.prerequisites != course.parameters.skills.prerequisites)[:, 4:, 0].mean()
    assert abs(rewired - world.rewired) < 0.03
    assert ((truth.prerequisites // 4)[truth.prerequisites >= 0] < 3).all()


def nobody(world: World, **changes: float) -> tuple[living.SimulatedCourse, Truth]:
    """One learner of average ability who knows the first two layers."""
    course = create_course(world, 1, 0)
    truth = start_learners(world, course, learner_seeds(1, 0, 1))
    truth.strength[:] = truth.peak[:] = 0.0
    truth.strength[:, :8] = truth.peak[:, :8] = 1.0
    for name, value in changes.items():
        getattr(truth, name)[:] = value
    return course, truth


@pytest.mark.parametrize("world", WORLDS, ids=lambda world: world.name)
@pytest.mark.parametrize("right", [0.0, 1.0])
def test_learning_without_a_prerequisite_is_a_fifth(world: World, right: float) -> None:
    course, truth = nobody(world, ability=0.0)
    item, score = np.array([8 * 20]), np.array([right])
    ready = strength_gain(world, course, truth, ONE, item, score)
    truth.strength[:, truth.prerequisites[0, 8, 0]] = 0.0
    np.testing.assert_allclose(strength_gain(world, course, truth, ONE, item, score), 0.2 * ready)
    assert ready[0] > 0


def test_learning_is_fastest_where_success_has_even_odds() -> None:
    world = BY_NAME["growth"]
    course, truth = nobody(world, ability=0.0)
    items = np.arange(8 * 20, 9 * 20)
    everyone = np.zeros(20, dtype=np.int64)
    p = living.true_chance(world, course, truth, everyone, items)
    taught = strength_gain(world, course, truth, everyone, items, np.ones(20))
    assert (np.argsort(-taught) == np.argsort(np.abs(p - 0.5))).all()


def test_performance_factors_learn_most_by_success() -> None:
    course, truth = nobody(BY_NAME["factors"], ability=0.0)
    item = np.array([160])
    by_failure, by_success = (
        strength_gain(BY_NAME["factors"], course, truth, ONE, item, np.array([y])) for y in (0.0, 1.0)
    )
    np.testing.assert_allclose(by_success, 3 * by_failure)


def test_strength_halves_and_spacing_slows_it() -> None:
    world = replace(BY_NAME["spacing"], half_life=10.0)
    course, truth = nobody(world, pace=0.0)
    for _ in range(10):
        undergo_exercise(world, course, truth, np.array([160]), np.array([True]), np.array([0.0]))
    assert abs(truth.strength[0, 0] - 0.5) < 1e-12
    assert abs(truth.half_life[0, 0] - 10) < 1e-12
    undergo_exercise(world, course, truth, np.array([0]), np.array([True]), np.array([0.0]))
    assert abs(truth.half_life[0, 0] - 10 * (1 + world.spacing / 2)) < 1e-12
    assert abs(truth.strength[0, 0] - 0.5) < 1e-12
    still, kept = nobody(BY_NAME["growth"], pace=0.0)
    before = kept.strength.copy()
    undergo_exercise(BY_NAME["growth"], still, kept, np.array([160]), np.array([True]), np.array([0.0]))
    assert (kept.strength == before).all()


def test_skills_are_learnt_as_often_as_their_probability() -> None:
    world = BY_NAME["binary"]
    course = create_course(world, 1, 0)
    truth = start_learners(world, course, learner_seeds(1, 0, 20_000))
    truth.strength[:] = 0.0
    truth.pace[:, 0] = 0.3
    items, right = np.zeros(20_000, dtype=np.int64), np.zeros(20_000, dtype=np.bool_)
    undergo_exercise(world, course, truth, items, right, living.draw_uniform(learner_seeds(2, 0, 20_000), 0, 0))
    assert abs(truth.strength[:, 0].mean() - 0.3) < 0.01
    assert set(np.unique(truth.strength)) == {0.0, 1.0}


def test_random_numbers_of_a_simulation_are_uniform_and_uncorrelated() -> None:
    own = learner_seeds(1, 0, 20_000)
    assert (learner_seeds(1, 0, 7) == own[:7]).all()
    one, other, later = living.draw_uniform(own, 0, 0), living.draw_uniform(own, 1, 0), living.draw_uniform(own, 0, 1)
    for drawn in (one, other, later):
        assert abs(drawn.mean() - 0.5) < 0.01
        assert abs(drawn.var() - 1 / 12) < 0.003
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.03
    assert abs(np.corrcoef(one, later)[0, 1]) < 0.03
    normal = living.draw_normal(own, 2, 0)
    assert abs(normal.mean()) < 0.03
    assert abs(normal.std() - 1) < 0.03
