"""The practice policy: each term alone, the whole against a slow reference, honest chances, a code for every case."""

import math
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.adaptive.hashing import uniform
from app.adaptive.parameters import Parameters
from app.adaptive.practice import items as item_scores
from app.adaptive.practice.branches import CODES
from app.adaptive.practice.choose import Choices, choose_items
from app.adaptive.practice.items import JITTER, TARGET, propensities
from app.adaptive.practice.skills import judge_skills
from app.adaptive.state import States
from app.adaptive.tracing.filter import initial_states, latent_moments, predict_score, update_states
from app.adaptive.tracing.replay import replay
from tests.adaptive import laws
from tests.adaptive.reference import Policy, learner_of
from tests.adaptive.worlds import course, frozen, log_of, make_items, random_course, random_states, same, tree
from tests.gate.examples import examples

seeds = st.integers(0, 2**32 - 1)
ONE_SEED = np.array([7], dtype=np.uint64)


def code_of(choices: Choices, row: int = 0) -> str:
    return CODES[choices.code[row]]


def numbers(many: int, seed: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    return np.random.default_rng(seed).integers(0, 2**64, many, dtype=np.uint64)


def test_each_term_alone_decides_the_order() -> None:
    laws.each_term_orders_alone()


@given(seeds, st.sampled_from([0, 0, 4, 10]))
@examples(150)
def test_policy_equals_its_reference(seed: int, avoided: int) -> None:
    parameters = random_course(seed, skills=5, items=12)
    states = random_states(parameters, seed, learners=5, longest=25)
    rng = np.random.default_rng(seed)
    avoid = [rng.integers(0, 12, avoided) for _ in range(5)]
    random = numbers(5, seed)
    found = choose_items(parameters, states, random, avoid)
    for row in range(5):
        policy = Policy(learner_of(parameters, states, row), set(avoid[row].tolist()))
        drawn = [float(uniform(random[[row]], np.array([i]))[0]) for i in range(12)]
        code, skill, item = policy.choose(drawn)
        assert (code_of(found, row), found.skill[row], found.item[row]) == (code, skill, item)
        if item < 0:
            continue
        assert abs(found.p[row] - policy.learner.predict(item)) < 1e-9
        assert abs(found.difficulty_match[row] - math.exp(-policy.distance(item))) < 1e-8
        assert abs(found.diagnosticity[row] - policy.diagnosticity(item, skill)) < 1e-9
        assert abs(found.delay[row] - policy.delay(item, skill)) < 1e-9
        if skill >= 0:
            assert abs(found.need[row] - policy.need(skill)) < 1e-9
            assert abs(found.unlocks[row] - policy.unlocks(skill)) < 1e-9
            assert abs(found.p_learn[row] - policy.p_learn(skill)) < 1e-9


@given(seeds)
def test_skill_statuses_equal_those_of_the_reference(seed: int) -> None:
    parameters = random_course(seed, skills=7)
    states = random_states(parameters, seed, learners=3, longest=25)
    found = judge_skills(parameters, states)
    for row in range(3):
        policy = Policy(learner_of(parameters, states, row), set())
        for s in range(7):
            assert abs(found.need[row, s] - policy.need(s)) < 1e-9
            assert found.mastered[row, s] == policy.mastered(s)
            assert found.open[row, s] == policy.is_open(s)
        order = sorted(range(7), key=policy.order)
        assert (np.diff(found.value[row, order]) >= -1e-9).all()


@given(seeds)
def test_choice_has_the_same_bits_alone_and_in_a_batch(seed: int) -> None:
    parameters = random_course(seed, skills=20, items=40)
    states, random = random_states(parameters, seed, learners=6), numbers(6, seed)
    rng = np.random.default_rng(seed)
    avoid = [rng.integers(0, 40, int(rng.integers(0, 9))) for _ in range(6)]
    whole = choose_items(parameters, states, random, avoid)
    order = rng.permutation(6)
    shuffled = choose_items(parameters, states[order], random[order], [avoid[i] for i in order])
    for name in Choices.__dataclass_fields__:
        assert getattr(shuffled, name).tobytes() == getattr(whole, name)[order].tobytes(), name
    for row in range(6):
        only = slice(row, row + 1)
        alone = choose_items(parameters, states[only], random[only], avoid[only])
        for name in Choices.__dataclass_fields__:
            assert getattr(alone, name).tobytes() == getattr(whole, name)[only].tobytes(), name


@given(seeds)
@examples(20)
def test_choice_is_repeatable_by_its_seed_and_changes_no_argument(seed: int) -> None:
    parameters = frozen(random_course(seed))
    states, random = frozen(random_states(parameters, seed)), numbers(4, seed)
    random.setflags(write=False)
    avoid = [np.array([1, 2, 2])] * 4
    assert same(choose_items(parameters, states, random, avoid), choose_items(parameters, states, random, avoid))
    assert avoid[0].tolist() == [1, 2, 2]


def test_choice_varies_with_the_seed() -> None:
    parameters = course(tree([[]]), make_items([[0]] * 4))
    choices = choose_items(parameters, initial_states(parameters, 400), np.arange(400, dtype=np.uint64))
    assert (np.bincount(choices.item, minlength=4) > 60).all()


def test_random_numbers_are_uniform() -> None:
    """Mean, variance and neighbours' correlation of 200,000 numbers, over seeds and over items."""
    for drawn in (
        uniform(np.arange(200_000, dtype=np.uint64), np.zeros(200_000, dtype=np.int64)),
        uniform(np.full(200_000, 3, dtype=np.uint64), np.arange(200_000)),
    ):
        assert ((drawn >= 0) & (drawn < 1)).all()
        assert abs(drawn.mean() - 0.5) < 0.003
        assert abs(drawn.var() - 1 / 12) < 0.001
        assert abs(np.corrcoef(drawn[1:], drawn[:-1])[0, 1]) < 0.01


def test_uniform_is_splitmix64() -> None:
    """The first outputs of the published generator for seed 0."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    found = uniform(np.zeros(3, dtype=np.uint64), np.arange(3))
    assert found.tolist() == [(z >> 11) * 2.0**-53 for z in published]


@given(seeds, st.integers(1, 12))
@examples(100)
def test_avoided_item_is_never_chosen(seed: int, avoided: int) -> None:
    parameters = random_course(seed, kinds="plain")
    states = random_states(parameters, seed)
    rng = np.random.default_rng(seed)
    avoid = [rng.permutation(12)[:avoided] for _ in range(4)]
    choices = choose_items(parameters, states, numbers(4, seed), avoid)
    for row in range(4):
        assert choices.item[row] not in avoid[row]


@given(seeds)
def test_last_item_is_avoided_while_there_is_another(seed: int) -> None:
    parameters = random_course(seed, kinds="plain")
    states = random_states(parameters, seed)
    tagged = np.flatnonzero(parameters.items.has_skills)
    assume(len(tagged) > 1)
    choices = choose_items(parameters, states, numbers(4, seed))
    for row in range(4):
        others = set(tagged.tolist()) - {int(states.last_item[row])}
        standing = judge_skills(parameters, states[row : row + 1])
        unmastered = any(not standing.mastered[0, s] for i in others for s in parameters.items.skills[i] if s >= 0)
        assert not unmastered or choices.item[row] != states.last_item[row]


def test_item_that_is_avoided_twice_is_counted_once() -> None:
    """The last item is often among the avoided ones too; a skill with an item left is still there."""
    parameters = course(tree([[], []], p_learn=[0.5, 0.1]), make_items([[0], [0], [0], [1]]))
    states = replace(initial_states(parameters, 1), last_item=np.array([1]))
    for avoid in ([0, 1], [0, 0, 1, 1, 1]):
        choices = choose_items(parameters, states, ONE_SEED, [np.array(avoid)])
        assert (choices.skill[0], choices.item[0]) == (0, 2)


def test_propensity_agrees_with_frequencies() -> None:
    laws.chance_is_what_happens()


@given(st.lists(st.integers(0, 500), min_size=1, max_size=12))
@examples(40)
def test_propensities_sum_to_one(thousandths: list[int]) -> None:
    laws.chances_sum_to_one(np.array(thousandths) / 1000)


@pytest.mark.statistics
@pytest.mark.parametrize("many", [100, 1000, 3000])
def test_propensities_sum_to_one_among_very_many_items(many: int) -> None:
    rng = np.random.default_rng(many)
    for distance in (np.full(many, 0.3), rng.uniform(0, 0.4, many)):
        laws.chances_sum_to_one(distance)


def test_propensity_of_a_distant_item_is_small_but_right() -> None:
    """Two items .19 apart: the further wins on the last twentieth, ∫ (u - .95) du = .00125."""
    for gap, expected in ((0.19, 0.00125), (0.1, 0.125), (0.0, 0.5)):
        found = [propensities(np.array([0.0, gap]), np.array([0, 0]), np.array([i]))[0] for i in (0, 1)]
        np.testing.assert_allclose(found, [1 - expected, expected], rtol=1e-3)


def test_target_probability_of_success_is_62_of_100() -> None:
    intercept = np.linspace(-4, 4, 81)
    parameters = course(tree([[]]), make_items([[0]] * 81, intercept=intercept))
    nobody = initial_states(parameters, 1)
    p = predict_score(parameters, nobody, np.zeros(81, dtype=np.int64), np.arange(81))
    for seed in range(50):
        choices = choose_items(parameters, nobody, np.array([seed], dtype=np.uint64))
        distance = abs(np.log(choices.p[0] / (1 - choices.p[0])) - np.log(TARGET / (1 - TARGET)))
        least = np.abs(np.log(p / (1 - p)) - np.log(TARGET / (1 - TARGET))).min()
        assert distance <= least + JITTER


@pytest.mark.parametrize("width", [0, 1])
@pytest.mark.parametrize("skills", [0, 2])
def test_course_without_items_has_nothing_eligible(skills: int, width: int) -> None:
    empty = replace(make_items([]), skills=np.full((0, width), -1))
    parameters = course(tree([[]] * skills), empty)
    choices = choose_items(parameters, initial_states(parameters, 2), numbers(2, 0), [np.empty(0, dtype=np.int64)] * 2)
    assert code_of(choices) == "nothing_eligible"
    assert choices.item.tolist() == [-1, -1]


@pytest.mark.parametrize("width", [0, 1])
@pytest.mark.parametrize("skills", [0, 2])
def test_course_without_skills_offers_the_item_nearest_the_target(skills: int, width: int) -> None:
    """A plain IRT course: the item nearest the target, and a step works too."""
    items = replace(make_items([[], [], []], intercept=[3.0, 0.5, -3.0]), skills=np.full((3, width), -1))
    parameters = course(tree([[]] * skills), items)
    states, _ = update_states(parameters, initial_states(parameters, 1), np.array([0]), np.array([1.0]), np.zeros(1))
    choices = choose_items(parameters, states, ONE_SEED)
    assert (code_of(choices), choices.skill[0], choices.item[0]) == ("practice_item", -1, 1)
    assert choices.propensity[0] == 1
    choices = choose_items(parameters, states, ONE_SEED, [np.arange(3)])
    assert (code_of(choices), choices.item[0]) == ("nothing_eligible", -1)


def test_choice_for_no_learners_is_empty() -> None:
    parameters = random_course(1)
    choices = choose_items(parameters, initial_states(parameters, 0), numbers(0, 0))
    assert choices.item.shape == (0,)


def test_only_item_of_a_course_is_chosen_again() -> None:
    parameters = course(tree([[]]), make_items([[0]]))
    states, _ = update_states(parameters, initial_states(parameters, 1), np.array([0]), np.array([0.0]), np.zeros(1))
    choices = choose_items(parameters, states, ONE_SEED)
    assert (code_of(choices), choices.item[0], choices.propensity[0]) == ("practice_skill", 0, 1.0)
    assert code_of(choose_items(parameters, states, ONE_SEED, [np.array([0])])) == "nothing_eligible"


def mastered(parameters: Parameters) -> States:
    """A learner who knows everything."""
    nobody = initial_states(parameters, 1)
    return replace(
        nobody,
        mastery=np.full_like(nobody.mastery, 0.99),
        responses=np.full_like(nobody.responses, 9),
        mastered=np.ones_like(nobody.mastered),
    )


def test_course_that_is_mastered_is_reported_as_all_mastered() -> None:
    parameters = course(tree([[], [0]]), make_items([[0], [1]]))
    choices = choose_items(parameters, mastered(parameters), ONE_SEED)
    assert (code_of(choices), choices.skill[0], choices.item[0]) == ("all_mastered", -1, -1)
    # Also when nothing could have been offered.
    assert code_of(choose_items(parameters, mastered(parameters), ONE_SEED, [np.arange(2)])) == "all_mastered"


def test_skill_without_items_delays_no_other_skill() -> None:
    """Neither as a prerequisite nor when all the others are mastered."""
    parameters = course(tree([[], [0], []], prior=[0.1, 0.4, 0.4]), make_items([[1]]))
    choices = choose_items(parameters, initial_states(parameters, 1), ONE_SEED)
    assert (code_of(choices), choices.skill[0], choices.prerequisites[0]) == ("practice_skill", 1, 1.0)
    known = mastered(parameters)
    unknown = replace(known, mastery=np.array([[0.1, 0.99, 0.1]]), responses=np.array([[0, 9, 0]]))
    assert code_of(choose_items(parameters, unknown, ONE_SEED)) == "all_mastered"


def test_skill_is_not_chosen_before_its_prerequisite() -> None:
    parameters = course(tree([[], [0]], p_learn=[0.05, 0.6]), make_items([[0], [1]]))
    doubtful = replace(initial_states(parameters, 1), mastery=np.array([[0.1, 0.1]]))
    assert choose_items(parameters, doubtful, ONE_SEED).skill[0] == 0
    settled = replace(doubtful, mastery=np.array([[0.97, 0.1]]), responses=np.array([[5, 0]]))
    assert choose_items(parameters, settled, ONE_SEED).skill[0] == 1


def test_skill_with_the_greatest_need_is_strengthened_if_none_is_open() -> None:
    """Settled but not mastered: both skills are trusted, and below the line of mastery."""
    parameters = course(tree([[], []]), make_items([[0], [1]]))
    states = replace(initial_states(parameters, 1), mastery=np.array([[0.87, 0.84]]), responses=np.array([[20, 20]]))
    choices = choose_items(parameters, states, ONE_SEED)
    assert (code_of(choices), choices.skill[0]) == ("strengthen_skill", 1)


def test_item_with_guessing_is_chosen_by_its_probability_of_success() -> None:
    """A true/false item is judged by its chance of success, as any other."""
    parameters = course(tree([[]]), make_items([[0]] * 2, intercept=[-1.75, 6.0], guessing=[0.5, 0.0]))
    choices = choose_items(parameters, initial_states(parameters, 1), ONE_SEED)
    assert choices.item[0] == 0
    assert abs(choices.p[0] - TARGET) < 0.1


def test_item_of_several_skills_takes_all_of_them() -> None:
    """The chance of the item's skills is their product: .5 and .5³."""
    parameters = course(tree([[], [], []], prior=[0.5] * 3), make_items([[0], [0, 1, 2]]))
    states, learners = initial_states(parameters, 1), np.zeros(2, dtype=np.int64)
    assert latent_moments(parameters.items, states, learners, np.arange(2))[2].tolist() == [0.5, 0.125]
    p = predict_score(parameters, states, learners, np.arange(2))
    assert p[0] > p[1]


def test_practice_of_a_learner_who_is_always_right_masters_every_skill() -> None:
    """Somebody who always answers right masters everything, in the order of the prerequisites."""
    parameters = course(tree([[], [0], [1]]), make_items([[0]] * 3 + [[1]] * 3 + [[2]] * 3))
    states, turns = initial_states(parameters, 1), count()
    order: list[int] = []
    choices = choose_items(parameters, states, ONE_SEED)
    while code_of(choices) != "all_mastered" and len(order) < 100:
        order.append(int(choices.skill[0]))
        states, _ = update_states(parameters, states, choices.item, np.ones(1), np.zeros(1))
        choices = choose_items(parameters, states, np.array([next(turns)], dtype=np.uint64))
    assert code_of(choices) == "all_mastered"
    assert list(dict.fromkeys(order)) == [0, 1, 2]
    replayed, _ = replay(parameters, log_of([[]]))
    assert code_of(choose_items(parameters, replayed, ONE_SEED)) == "practice_skill"


@given(st.floats(0.05, 0.6), st.floats(0.02, 1.0), st.integers(1, 12))
@examples(15, deadline=None)
def test_practice_leaves_a_skill_after_enough_right_answers(p_learn: float, share: float, waiting: int) -> None:
    """Whatever a calibration may find of P(T) and P(F), and however many skills wait for the first."""
    edges: list[list[int]] = [[], *[[0]] * waiting]
    many = [1 + waiting]
    rates = {"p_learn": np.full(many, p_learn), "p_forget": np.full(many, share * p_learn / 12)}
    parameters = course(tree(edges, **rates), make_items([[s] for s in range(1 + waiting)] * 2))
    states, given_to = initial_states(parameters, 1), []
    for turn in range(40 * (1 + waiting)):
        choices = choose_items(parameters, states, np.array([turn], dtype=np.uint64))
        if code_of(choices) == "all_mastered":
            break
        given_to.append(int(choices.skill[0]))
        states, _ = update_states(parameters, states, choices.item, np.ones(1), np.zeros(1))
    assert code_of(choose_items(parameters, states, ONE_SEED)) == "all_mastered"
    assert given_to.count(0) <= 25


@given(seeds, st.integers(1, 9))
def test_propensity_products_have_the_same_bits_in_any_pieces(seed: int, piece: int) -> None:
    """Bit for bit what one sweep over all factors gives, however many candidates are equal."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 30, rng.integers(1, 5))
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    gap = rng.choice(np.concatenate([rng.uniform(-1, 1, 3), [0.0] * 6]), sizes.sum())
    base = 1 - rng.uniform(0.1, 1, (len(sizes), 1)) * item_scores.NODES
    factors = np.clip(np.repeat(base, sizes, axis=0) + gap[:, None], 0.0, 1.0)
    expected = np.multiply.reduceat(factors, starts, axis=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_scores, "PIECE", piece)
        assert item_scores.clipped_products(base, gap, starts).tobytes() == expected.tobytes()


@pytest.mark.parametrize("spread", [0.0, 0.02])
def test_choice_among_thousands_of_items_is_the_same_in_any_pieces(
    spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    intercept = np.random.default_rng(1).normal(0, spread, 3000) if spread else np.zeros(3000)
    parameters = course(tree([[], []]), make_items([[i % 2] for i in range(3000)], intercept=intercept))
    states = random_states(parameters, 3, learners=6, longest=25)
    found = choose_items(parameters, states, numbers(6, 3))
    monkeypatch.setattr(item_scores, "PIECE", 10**6)
    assert same(found, choose_items(parameters, states, numbers(6, 3)))
    assert 0 < found.propensity.min() < 0.05


def test_first_of_items_with_equal_scores_is_chosen() -> None:
    score = np.array([2.0, 1.0, 1.0, -0.0, 0.0, 3.0])
    assert item_scores.smallest_by_learner(score, np.array([0, 0, 0, 2, 2, 3]), 5).tolist() == [1, -1, 3, 5, -1]
