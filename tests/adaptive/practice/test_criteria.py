"""What a caller may want of a choice: no filter leaks, chances are what happens, and every refusal has its reason."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.adaptive.arrays import Booleans, Integers, Seeds
from app.adaptive.parameters import Parameters
from app.adaptive.practice.branches import CODES, Branches, SelectionCriteria, item_propensity, plan_branches
from app.adaptive.practice.choose import Choices, choose_items
from app.adaptive.practice.explain import EXPLANATION_CODES, Explanation, explain
from app.adaptive.practice.skills import goal_skills, judge_skills
from app.adaptive.state import States
from app.adaptive.tracing.filter import initial_states
from app.adaptive.tracing.mastery import MASTERY_LINE, is_mastered
from tests.adaptive.worlds import course, make_items, random_course, random_states, tree
from tests.gate.examples import examples

seeds = st.integers(0, 2**32 - 1)
NONE = np.empty(0, dtype=np.int64)
ONE_SEED = np.array([7], dtype=np.uint64)


def random_criteria(rng: np.random.Generator, parameters: Parameters) -> SelectionCriteria:
    """Each wish with the chance ½."""
    skills, items = parameters.skills.count, parameters.items.count
    some = rng.random(7) < 0.5
    return SelectionCriteria(
        skills=rng.random(skills) < 0.6 if some[0] else None,
        items=rng.random(items) < 0.7 if some[1] else None,
        goal=rng.permutation(skills)[: rng.integers(0, 3)] if some[2] else None,
        target=float(rng.uniform(0.5, 0.95)) if some[3] else 0.9,
        resting=rng.permutation(skills)[: rng.integers(0, 2)] if some[4] else None,
        review=float(rng.choice([0.2, 1.0])) if some[5] else 0.0,
        explore=float(rng.choice([0.1, 1.0])) if some[6] else 0.0,
    )


def numbers(many: int, seed: int) -> Seeds:
    return np.random.default_rng(seed).integers(0, 2**64, many, dtype=np.uint64)


def bits(choices: Choices, rows: slice | Integers = slice(None)) -> dict[str, bytes]:
    return {name: getattr(choices, name)[rows].tobytes() for name in Choices.__dataclass_fields__}


def code_of(choices: Choices) -> str:
    return CODES[choices.code[0]]


def plan_of(parameters: Parameters, states: States, avoid: Integers, aim: SelectionCriteria, chosen: int) -> Branches:
    """The plan from which a choice came: the last item is avoided unless it was all there was."""
    last = int(states.last_item[0])
    shunned = np.union1d(avoid, [last]) if last not in (-1, chosen) else avoid
    return plan_branches(parameters, states, judge_skills(parameters, states), shunned, aim)


@given(seeds)
@examples(60)
def test_empty_criteria_change_no_bit_of_a_choice(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parameters = random_course(seed, skills=int(rng.integers(1, 8)), items=int(rng.integers(1, 25)))
    states, random = random_states(parameters, seed, learners=5, longest=30), numbers(5, seed)
    avoid = [rng.integers(0, parameters.items.count, int(rng.integers(0, 6))) for _ in range(5)]
    aims = [SelectionCriteria() if rng.random() < 0.7 else None for _ in range(5)]
    assert bits(choose_items(parameters, states, random, avoid, aims)) == bits(
        choose_items(parameters, states, random, avoid)
    )


@given(seeds)
def test_criteria_of_other_learners_change_no_bit_of_a_choice(seed: int) -> None:
    parameters = random_course(seed, skills=6, items=20)
    states, random = random_states(parameters, seed, learners=6, longest=20), numbers(6, seed)
    rng = np.random.default_rng(seed)
    aims = [random_criteria(rng, parameters) if rng.random() < 0.6 else None for _ in range(6)]
    avoid = [rng.integers(0, 20, int(rng.integers(0, 9))) for _ in range(6)]
    whole = choose_items(parameters, states, random, avoid, aims)
    for row in range(6):
        only = slice(row, row + 1)
        alone = choose_items(parameters, states[only], random[only], avoid[only], aims[only])
        assert bits(alone) == bits(whole, only)


@given(seeds)
@examples(60)
def test_excluded_items_are_never_chosen(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parameters = random_course(seed, skills=6, items=20)
    states = random_states(parameters, seed, learners=1, longest=30)
    aim, avoid = random_criteria(rng, parameters), rng.integers(0, 20, int(rng.integers(0, 9)))
    found = choose_items(parameters, states, numbers(1, seed), [avoid], [aim])
    item, skill = int(found.item[0]), int(found.skill[0])
    if item < 0:
        assert code_of(found) in {"nothing_eligible", "all_mastered", "goal_reached"}
        return
    assert item not in avoid
    assert aim.items is None or aim.items[item]
    assert skill in parameters.items.skills[item]
    assert aim.skills is None or aim.skills[skill]
    if aim.goal is not None:
        lacking, needed = goal_skills(parameters, states, aim.goal, aim.target)
        assert (lacking | needed)[skill]
    assert found.propensity[0] > 0


@given(seeds)
@examples(100)
def test_choice_is_made_wherever_an_unfinished_skill_has_an_eligible_item(seed: int) -> None:
    """Wherever a wanted skill is not finished and has an item left, there is an exercise."""
    rng = np.random.default_rng(seed)
    parameters = random_course(seed, skills=5, items=12)
    states = random_states(parameters, seed, learners=1, longest=20)
    aim, avoid = random_criteria(rng, parameters), rng.integers(0, 12, int(rng.integers(0, 9)))
    found = choose_items(parameters, states, numbers(1, seed), [avoid], [aim])
    offered = np.ones(12, dtype=np.bool_) if aim.items is None else aim.items.copy()
    offered[avoid] = False
    standing = judge_skills(parameters, states)
    unfinished = ~standing.mastered[0]
    if aim.goal is not None:
        lacking, needed = goal_skills(parameters, states, aim.goal, aim.target)
        unfinished = lacking | (needed & unfinished)
    left = [s for s in range(5) if unfinished[s] and (aim.skills is None or aim.skills[s])]
    some = any(offered[i] and s in parameters.items.skills[i] for i in range(12) for s in left)
    if some:
        assert found.item[0] >= 0
    elif found.item[0] >= 0:
        # Mastered, but not trusted yet.
        assert standing.open[0, found.skill[0]]


@given(seeds)
@examples(100)
def test_propensities_of_all_candidates_sum_to_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parameters = random_course(seed, skills=4, items=15)
    states = random_states(parameters, seed, learners=1, longest=30)
    aim, avoid = random_criteria(rng, parameters), rng.integers(0, 15, int(rng.integers(0, 5)))
    found = choose_items(parameters, states, numbers(1, seed), [avoid], [aim])
    assume(found.item[0] >= 0)
    plan = plan_of(parameters, states, avoid, aim, int(found.item[0]))
    chance = [item_propensity(parameters, states, plan.branches, item) for item in range(15)]
    assert abs(sum(chance) - 1) < 1e-3
    assert found.propensity[0] == chance[int(found.item[0])]


def one_learner_with_a_decayed_skill() -> tuple[Parameters, States]:
    """Two open skills and one that has decayed; eight items near the target and some far from it."""
    parameters = course(
        tree([[], [], []], p_learn=[0.3, 0.2, 0.2]),
        make_items(
            [[0]] * 4 + [[1]] * 3 + [[2], [2], [0, 2]], intercept=[0.3, 0.35, 0.4, 2.0, 0.1, 0.3, 3.0, -0.5, -0.45, 0.5]
        ),
    )
    nobody = initial_states(parameters, 1)
    states = replace(
        nobody,
        mastery=np.array([[0.3, 0.3, 0.8]]),
        responses=np.array([[2, 2, 6]]),
        attained=np.array([[False, False, True]]),
        last_item=np.array([0]),
    )
    return parameters, states


@pytest.mark.statistics
@pytest.mark.parametrize(
    ("explore", "review"), [(0.0, 0.0), (0.3, 0.0), (0.0, 0.4), (0.25, 0.5), (1.0, 0.0), (0.1, 1.0)]
)
def test_propensity_agrees_with_frequencies_in_every_branch(explore: float, review: float) -> None:
    """3,000 draws: each item as often as its chance says, within five standard errors."""
    parameters, states = one_learner_with_a_decayed_skill()
    aim, many = SelectionCriteria(explore=explore, review=review), 3000
    crowd = states[np.zeros(many, dtype=np.int64)]
    found = choose_items(parameters, crowd, numbers(many, 5), None, [aim] * many)
    share = np.bincount(found.item, minlength=10) / many
    plan = plan_of(parameters, states, NONE, aim, -2)
    expected = np.array([item_propensity(parameters, states, plan.branches, item) for item in range(10)])
    assert (np.abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / many) + 1e-3).all()
    for item in np.unique(found.item):
        assert np.unique(found.propensity[found.item == item]).tolist() == [expected[item]]
    explored = (found.code == CODES.index("explore_item")).mean()
    assert abs(explored - explore) < 5 * np.sqrt(0.25 / many)


def test_exploration_draws_all_eligible_items_with_equal_probability() -> None:
    parameters, states = one_learner_with_a_decayed_skill()
    crowd = states[np.zeros(3000, dtype=np.int64)]
    found = choose_items(parameters, crowd, numbers(3000, 1), None, [SelectionCriteria(explore=1.0)] * 3000)
    share = np.bincount(found.item, minlength=10) / 3000
    assert share[0] == 0
    assert (np.abs(share[1:] - 1 / 9) < 0.03).all()
    assert (found.propensity == 1 / 9).all()
    assert {CODES[code] for code in found.code} == {"explore_item"}
    both = found.skill[found.item == 9]
    assert (both == both[0]).all()


def test_decayed_skill_comes_first_when_asked() -> None:
    parameters, states = one_learner_with_a_decayed_skill()
    found = choose_items(parameters, states, ONE_SEED, None, [SelectionCriteria(review=1.0)])
    assert (code_of(found), found.skill[0]) == ("review_skill", 2)
    assert choose_items(parameters, states, ONE_SEED).skill[0] != 2
    never = replace(states, attained=np.zeros((1, 3), dtype=np.bool_))
    assert bits(choose_items(parameters, never, ONE_SEED, None, [SelectionCriteria(review=1.0)])) == bits(
        choose_items(parameters, never, ONE_SEED)
    )


@given(seeds, st.floats(0.05, 1))
def test_review_chooses_decayed_skills_only(seed: int, review: float) -> None:
    parameters = random_course(seed, skills=5, items=20)
    states = random_states(parameters, seed, learners=6, longest=60)
    found = choose_items(parameters, states, numbers(6, seed), None, [SelectionCriteria(review=review)] * 6)
    decayed = states.attained & ~is_mastered(states)
    for row in np.flatnonzero(found.code == CODES.index("review_skill")):
        assert decayed[row, found.skill[row]]


def test_resting_skill_is_chosen_only_if_no_other_is_left() -> None:
    parameters, states = one_learner_with_a_decayed_skill()
    first = int(choose_items(parameters, states, ONE_SEED).skill[0])
    then = int(
        choose_items(parameters, states, ONE_SEED, None, [SelectionCriteria(resting=np.array([first]))]).skill[0]
    )
    assert then != first
    alone = np.arange(3) == first
    found = choose_items(
        parameters, states, ONE_SEED, None, [SelectionCriteria(resting=np.array([first]), skills=alone)]
    )
    assert found.skill[0] == first


def chain(mastery: list[float], responses: list[int]) -> tuple[Parameters, States]:
    """Three skills that build on each other, and one apart."""
    parameters = course(tree([[], [0], [1], []]), make_items([[0]] * 2 + [[1]] * 2 + [[2]] * 2 + [[3]] * 2))
    states = initial_states(parameters, 1)
    told = np.array([mastery]) >= MASTERY_LINE
    return parameters, replace(states, mastery=np.array([mastery]), responses=np.array([responses]), mastered=told)


@pytest.mark.parametrize(
    ("mastery", "goal", "target", "skill"),
    [
        ([0.1, 0.1, 0.1, 0.1], [3], 0.9, 3),
        ([0.1, 0.1, 0.1, 0.1], [1], 0.9, 0),
        ([0.99, 0.1, 0.1, 0.1], [1], 0.9, 1),
        ([0.1, 0.99, 0.99, 0.1], [2], 0.9, -1),
        ([0.99, 0.99, 0.8, 0.1], [2], 0.7, -1),
        ([0.99, 0.99, 0.93, 0.1], [2], 0.95, 2),
        ([0.99, 0.99, 0.99, 0.1], [2, 3], 0.9, 3),
    ],
)
def test_goal_is_practised_with_its_prerequisites(
    mastery: list[float], goal: list[int], target: float, skill: int
) -> None:
    parameters, states = chain(mastery, [5] * 4)
    found = choose_items(parameters, states, ONE_SEED, None, [SelectionCriteria(goal=np.array(goal), target=target)])
    assert (found.skill[0], code_of(found)) == (skill, "practice_skill" if skill >= 0 else "goal_reached")


def test_goal_without_skills_is_never_reached() -> None:
    parameters, states = chain([0.99] * 4, [5] * 4)
    assert (
        code_of(choose_items(parameters, states, ONE_SEED, None, [SelectionCriteria(goal=NONE)])) == "nothing_eligible"
    )


def test_goal_on_too_few_answers_is_not_reached() -> None:
    parameters, states = chain([0.99] * 4, [5, 5, 2, 5])
    assert choose_items(parameters, states, ONE_SEED, None, [SelectionCriteria(goal=np.array([2]))]).skill[0] == 2


def test_choice_is_reported_as_all_mastered_if_the_filters_leave_nothing_else() -> None:
    parameters, states = chain([0.99, 0.1, 0.1, 0.99], [5] * 4)
    mastered = np.array([True, False, False, True])
    assert (
        code_of(choose_items(parameters, states, ONE_SEED, None, [SelectionCriteria(skills=mastered)]))
        == "all_mastered"
    )
    nothing = np.zeros(8, dtype=np.bool_)
    assert (
        code_of(choose_items(parameters, states, ONE_SEED, None, [SelectionCriteria(items=nothing)]))
        == "nothing_eligible"
    )


@pytest.mark.parametrize(
    "wanted", [SelectionCriteria(skills=np.zeros(0, dtype=np.bool_)), SelectionCriteria(goal=NONE)]
)
def test_criteria_by_skill_find_nothing_in_a_course_without_skills(wanted: SelectionCriteria) -> None:
    parameters = course(tree([]), replace(make_items([[], []]), skills=np.full((2, 0), -1)))
    assert (
        code_of(choose_items(parameters, initial_states(parameters, 1), ONE_SEED, None, [wanted])) == "nothing_eligible"
    )


def test_course_without_skills_allows_exploration_of_any_item() -> None:
    parameters = course(
        tree([]), replace(make_items([[]] * 4, intercept=[0.0, 0.1, 5.0, 6.0]), skills=np.full((4, 0), -1))
    )
    crowd = initial_states(parameters, 1000)
    found = choose_items(parameters, crowd, numbers(1000, 1), None, [SelectionCriteria(explore=0.5)] * 1000)
    assert (np.bincount(found.item, minlength=4) > 100).all()
    assert set(np.unique(found.skill)) == {-1}
    assert {CODES[code] for code in found.code} == {"explore_item", "practice_item"}


# Why not


def explanation_of(
    parameters: Parameters, states: States, aim: SelectionCriteria, item: int, avoid: Integers = NONE
) -> tuple[str, Explanation]:
    found = choose_items(parameters, states, ONE_SEED, [avoid], [aim])
    said = explain(parameters, states, ONE_SEED, avoid, aim, found, item)
    return EXPLANATION_CODES[said.code], said


@given(seeds)
@examples(100)
def test_explanation_of_an_item_that_was_not_chosen_is_true(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parameters = random_course(seed, skills=5, items=20)
    states, random = random_states(parameters, seed, learners=1, longest=30), numbers(1, seed)
    aim, avoid = random_criteria(rng, parameters), rng.integers(0, 20, int(rng.integers(0, 5)))
    found = choose_items(parameters, states, random, [avoid], [aim])
    chosen, standing = int(found.item[0]), judge_skills(parameters, states)
    for item in range(20):
        if item == chosen or item in avoid or not (aim.items is None or aim.items[item]):
            continue
        said = explain(parameters, states, random, avoid, aim, found, item)
        code, skill = EXPLANATION_CODES[said.code], int(said.item.skill[0])
        asked = [s for s in parameters.items.skills[item].tolist() if s >= 0 and (aim.skills is None or aim.skills[s])]
        assert skill in asked or (skill == -1 and code in {"asks_for_no_skill", "just_answered"}), code
        assert said.item.item[0] == item
        assert (code == "just_answered") == (item == states.last_item[0] and chosen >= 0)
        if code == "asks_for_no_skill":
            assert not asked
        elif code == "skill_mastered":
            goal = np.empty(0, int) if aim.goal is None else aim.goal
            assert all(standing.mastered[0, s] or s in goal or aim.goal is not None for s in asked)
        elif code in {"item_ranks_lower", "skill_ranks_lower"}:
            assert 1 <= said.rank <= said.of
            assert said.rank > 1 or aim.resting is not None
        elif code == "prerequisites_missing":
            assert standing.ready[0, skill] < 1
            assert said.missing.size
            assert (parameters.item_counts[said.missing] > 0).all()
        elif code == "skill_secured":
            assert not standing.open[0, skill]
        elif code in {"not_drawn", "review_first"}:
            assert code_of(found) == {"not_drawn": "explore_item", "review_first": "review_skill"}[code]


@given(seeds)
@examples(100)
def test_second_item_is_chosen_when_the_first_is_avoided(seed: int) -> None:
    parameters = random_course(seed, skills=3, items=20)
    states, random = random_states(parameters, seed, learners=1, longest=20), numbers(1, seed)
    found = choose_items(parameters, states, random)
    assume(found.item[0] >= 0)
    without = choose_items(parameters, states, random, [found.item])
    assume(without.skill[0] == found.skill[0] and without.item[0] != states.last_item[0])
    said = explain(parameters, states, random, NONE, SelectionCriteria(), found, int(without.item[0]))
    assert (EXPLANATION_CODES[said.code], said.rank) == ("item_ranks_lower", 2)
    for name in ("p", "need", "unlocks", "p_learn", "difficulty_match", "diagnosticity", "prerequisites"):
        assert getattr(said.item, name)[0] == getattr(without, name)[0]


def test_explanation_codes_have_an_example_each() -> None:
    parameters, states = chain([0.3, 0.1, 0.1, 0.99], [5] * 4)
    assert explanation_of(parameters, states, SelectionCriteria(), 6)[0] == "skill_mastered"
    code, said = explanation_of(parameters, states, SelectionCriteria(), 2)
    assert (code, said.missing.tolist()) == ("prerequisites_missing", [0])
    assert explanation_of(parameters, states, SelectionCriteria(goal=np.array([0])), 2)[0] == "outside_goal"
    assert (
        explanation_of(parameters, replace(states, last_item=np.array([0])), SelectionCriteria(), 0)[0]
        == "just_answered"
    )
    parameters, states = one_learner_with_a_decayed_skill()
    assert explanation_of(parameters, states, SelectionCriteria(), 6)[0] in {"skill_ranks_lower", "item_ranks_lower"}
    assert explanation_of(parameters, states, SelectionCriteria(review=1.0), 4)[0] == "review_first"
    explored = int(choose_items(parameters, states, ONE_SEED, None, [SelectionCriteria(explore=1.0)]).item[0])
    other = 4 if explored != 4 else 5
    assert explanation_of(parameters, states, SelectionCriteria(explore=1.0), other)[0] == "not_drawn"
    first = int(choose_items(parameters, states, ONE_SEED).skill[0])
    rests = SelectionCriteria(resting=np.array([first]))
    item = int(np.flatnonzero((parameters.items.skills[:, 0] == first) & (np.arange(10) > 0))[0])
    assert explanation_of(parameters, states, rests, item)[0] == "skill_rests"


def test_item_without_skills_is_explained_as_asking_for_no_skill() -> None:
    parameters = course(tree([[]]), make_items([[0], []]))
    assert explanation_of(parameters, initial_states(parameters, 1), SelectionCriteria(), 1)[0] == "asks_for_no_skill"


def test_secured_skill_is_not_practised_while_another_is_open() -> None:
    parameters = course(tree([[], []], p_learn=[0.05, 0.6]), make_items([[0], [1]]))
    states = replace(initial_states(parameters, 1), mastery=np.array([[0.85, 0.1]]), responses=np.array([[9, 9]]))
    assert explanation_of(parameters, states, SelectionCriteria(), 0)[0] == "skill_secured"


def mask(size: int, *places: int) -> Booleans:
    return np.isin(np.arange(size), places)


def test_filter_that_excludes_the_prerequisite_still_allows_a_choice() -> None:
    """Prerequisites nobody has practised: the skill asked for is strengthened all the same."""
    parameters, states = chain([0.1] * 4, [0] * 4)
    found = choose_items(parameters, states, ONE_SEED, None, [SelectionCriteria(skills=mask(4, 2))])
    assert (code_of(found), found.skill[0], found.prerequisites[0]) == ("strengthen_skill", 2, 0.0)
