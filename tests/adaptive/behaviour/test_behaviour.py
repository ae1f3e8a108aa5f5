"""The head: what it sees before an answer, what it remembers, and that nothing of it looks ahead."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.assess.metrics import total_loss
from app.adaptive.behaviour.fit import (
    FilteredLog,
    empty_behaviour_model,
    fit_behaviour_model,
    fit_factors,
    fit_weights,
    trace_features,
)
from app.adaptive.behaviour.model import (
    AGAIN_AFTER_RIGHT,
    BACK_AFTER_RIGHT,
    BACK_AFTER_WRONG,
    FIRST,
    Features,
    FilterOutputs,
    build_features,
    expected_p,
    initial_behaviour_state,
    update_behaviour_state,
)
from app.adaptive.hashing import find_keys, hash_keys
from app.adaptive.parameters import BehaviourModel, Items, Parameters
from app.adaptive.practice.choose import choose_items
from app.adaptive.recent_items import REMEMBERED, initial_recent_items, remember_items
from app.adaptive.response_log import Log
from app.adaptive.state import RecentItems, States
from app.adaptive.tracing.filter import fade_states, initial_states, predict_p_correct, update_states
from app.adaptive.tracing.replay import replay
from app.adaptive.tracing.state_codec import decode_states, encode_states
from tests.adaptive.worlds import random_behaviour_model, random_course, random_log
from tests.adaptive.worlds import same as engine_same
from tests.gate.examples import examples

ITEMS = 12


def make_items(items: int = ITEMS) -> Items:
    """Items of three skills, every fourth of two."""
    first = np.arange(items) % 3
    second = np.where(np.arange(items) % 4 == 0, (first + 1) % 3, -1)
    nothing = np.zeros(items)
    return Items(
        nothing, np.ones(items), nothing, np.ones(items), np.zeros((items, 0)), np.stack([first, second], axis=1)
    )


def plain(count: int, p: float = 0.6) -> FilterOutputs:
    """A filter that always expects the same."""
    return FilterOutputs(
        np.full(count, p), np.ones(count), np.full(count, 0.5), np.zeros(count), np.zeros(count), np.zeros(count)
    )


def simulate(learners: int, length: int, rng: np.random.Generator, habit: float) -> FilteredLog:
    """Learners who try again after a wrong answer; with `habit` the second try is nearly always right."""
    starts = length * np.arange(learners + 1)
    items, scores = np.empty(starts[-1], dtype=np.int64), np.empty(starts[-1])
    for learner in range(learners):
        item, tries = int(rng.integers(ITEMS)), 0
        for place in range(starts[learner], starts[learner + 1]):
            items[place] = item
            scores[place] = rng.random() < 0.6 + habit * 0.38 * min(tries, 1)
            tries = tries + 1 if scores[place] == 0 else 0
            item = item if tries else int(rng.integers(ITEMS))
    return FilteredLog(starts, items, scores, plain(len(items)))


def follow_one_learner(items: list[int], scores: list[float]) -> tuple[list[int], RecentItems]:
    """The contexts of one learner's answers, and what is remembered after them."""
    behaviour_state, contexts = initial_behaviour_state(1, empty_behaviour_model()), []
    recent = initial_recent_items(1)
    for item, score in zip(items, scores, strict=True):
        features = build_features(
            empty_behaviour_model(),
            make_items(200),
            behaviour_state,
            recent,
            np.zeros(1, dtype=np.int64),
            np.array([item]),
            plain(1),
        )
        contexts.append(int(features.context[0]))
        update_behaviour_state(behaviour_state, features, np.array([item]), np.array([score]))
        remember_items(recent, np.array([item]), np.array([score]), np.array([len(contexts)]))
    return contexts, recent


def test_contexts_of_answers_equal_those_by_hand() -> None:
    contexts, _ = follow_one_learner([5, 5, 5, 5, 7, 5, 7, 7], [0, 0, 1, 1, 0, 1, 0, 0])
    assert contexts == [FIRST, 1, 2, AGAIN_AFTER_RIGHT, FIRST, BACK_AFTER_RIGHT, BACK_AFTER_WRONG, 1]


def test_retries_are_counted_up_to_ten() -> None:
    contexts, _ = follow_one_learner([3] * 15, [0] * 15)
    assert contexts == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 10, 10, 10, 10]


def test_earliest_item_is_forgotten_first() -> None:
    contexts, recent = follow_one_learner([*range(REMEMBERED + 1), 0, REMEMBERED], [1] * (REMEMBERED + 3))
    assert contexts[-2:] == [FIRST, BACK_AFTER_RIGHT]
    assert recent.met[0] == REMEMBERED + 2


def test_tries_and_scores_of_recent_items_are_summed() -> None:
    _, recent = follow_one_learner([4, 4, 9, 4], [0, 0.5, 1, 1])
    place = int(np.argmax(recent.items[0] == 4))
    assert (recent.tries[0, place], recent.scores[0, place], recent.solved[0, place]) == (3, 1.5, True)
    assert recent.answered_at[0, place] == 4


def fitted(answers: FilteredLog, factors: int) -> BehaviourModel:
    """A head with everything in it."""
    features = trace_features(empty_behaviour_model(), make_items(), answers)
    behaviour_model = fit_factors(make_items(), answers, features, factors)
    return fit_weights(behaviour_model, trace_features(behaviour_model, make_items(), answers), answers.scores, 1.0)


@pytest.fixture(scope="module", params=[0, 3])
def behaviour_model(request: pytest.FixtureRequest) -> BehaviourModel:
    return fitted(simulate(40, 30, np.random.default_rng(1), 1.0), request.param)


def same(one: Features, other: Features) -> bool:
    return all(np.array_equal(getattr(one, field.name), getattr(other, field.name)) for field in fields(Features))


def test_features_of_a_learner_are_the_same_alone_and_in_a_batch(behaviour_model: BehaviourModel) -> None:
    answers = simulate(9, 25, np.random.default_rng(2), 1.0)
    together = trace_features(behaviour_model, make_items(), answers)
    for learner in range(9):
        alone = trace_features(behaviour_model, make_items(), answers.of(np.arange(9) == learner))
        rows = slice(25 * learner, 25 * (learner + 1))
        part = Features(**{field.name: getattr(together, field.name)[rows] for field in fields(Features)})
        assert same(alone, part)
        assert np.array_equal(expected_p(behaviour_model, alone), expected_p(behaviour_model, together)[rows])


def test_behaviour_model_does_not_look_ahead(behaviour_model: BehaviourModel) -> None:
    """What is expected of an answer does not depend on it, nor on any later one."""
    answers = simulate(5, 30, np.random.default_rng(3), 1.0)
    scores = answers.scores.copy()
    later = np.arange(len(scores)) % 30 >= 17
    scores[later] = 1 - scores[later]
    before = expected_p(behaviour_model, trace_features(behaviour_model, make_items(), answers))
    after = expected_p(behaviour_model, trace_features(behaviour_model, make_items(), replace(answers, scores=scores)))
    first = np.arange(len(scores)) % 30 <= 17
    assert np.array_equal(before[first], after[first])
    assert not np.array_equal(before, after)


def test_empty_behaviour_model_predicts_as_the_filter() -> None:
    answers = simulate(4, 20, np.random.default_rng(4), 1.0)
    outputs = replace(answers.outputs, p=np.random.default_rng(5).uniform(0.01, 0.99, len(answers.items)))
    p = expected_p(
        empty_behaviour_model(),
        trace_features(empty_behaviour_model(), make_items(), replace(answers, outputs=outputs)),
    )
    np.testing.assert_allclose(p, outputs.p, rtol=1e-12)


@examples(60)
@given(
    st.lists(st.tuples(st.integers(0, ITEMS - 1), st.sampled_from([0.0, 0.25, 0.5, 1.0])), min_size=1, max_size=120),
    st.sampled_from([1e-9, 0.3, 1 - 1e-9]),
)
def test_behaviour_model_is_finite_and_bounded(
    behaviour_model: BehaviourModel, log: list[tuple[int, float]], p: float
) -> None:
    items, scores = np.array([item for item, _ in log]), np.array([score for _, score in log])
    answers = FilteredLog(np.array([0, len(log)]), items, scores, plain(len(log), p))
    features = trace_features(behaviour_model, make_items(), answers)
    values = expected_p(behaviour_model, features)
    assert np.isfinite(features.values).all()
    assert ((values >= 1e-9) & (values <= 1 - 1e-9)).all()


@pytest.mark.statistics
def test_behaviour_model_is_finite_after_many_equal_answers(behaviour_model: BehaviourModel) -> None:
    for score in (0.0, 1.0):
        items = np.zeros(3000, dtype=np.int64)
        answers = FilteredLog(np.array([0, 3000]), items, np.full(3000, score), plain(3000))
        assert np.isfinite(trace_features(behaviour_model, make_items(), answers).values).all()


def test_behaviour_model_predicts_unknown_items_by_those_of_their_skills(behaviour_model: BehaviourModel) -> None:
    larger = make_items(ITEMS + 5)
    features = build_features(
        behaviour_model,
        larger,
        initial_behaviour_state(1, behaviour_model),
        initial_recent_items(1),
        np.zeros(1, dtype=np.int64),
        np.array([ITEMS + 4]),
        plain(1),
    )
    assert 0 < expected_p(behaviour_model, features)[0] < 1


def loss(behaviour_model: BehaviourModel | None, answers: FilteredLog) -> float:
    p = (
        answers.outputs.p
        if behaviour_model is None
        else expected_p(behaviour_model, trace_features(behaviour_model, make_items(), answers))
    )
    return total_loss(p, answers.scores) / len(p)


def fit(answers: FilteredLog) -> BehaviourModel | None:
    return fit_behaviour_model(make_items(), answers, np.random.default_rng(0), None, lambda _share: None)[0]


@pytest.mark.statistics
def test_behaviour_is_found_and_improves_predictions_of_new_learners() -> None:
    behaviour_model = fit(simulate(150, 40, np.random.default_rng(6), 1.0))
    fresh = simulate(100, 40, np.random.default_rng(7), 1.0)
    assert behaviour_model is not None
    assert loss(behaviour_model, fresh) < loss(None, fresh) - 0.03


@pytest.mark.statistics
def test_behaviour_model_loses_next_to_nothing_where_there_is_no_behaviour() -> None:
    fresh = simulate(100, 40, np.random.default_rng(9), 0.0)
    assert loss(fit(simulate(150, 40, np.random.default_rng(8), 0.0)), fresh) < loss(None, fresh) + 0.003


def test_behaviour_model_finds_traits_that_items_share() -> None:
    """Even items hang together beside the ability, and so do odd ones: two answers tell of a third."""
    rng = np.random.default_rng(10)

    def world(learners: int) -> FilteredLog:
        trait = rng.normal(0, 2.0, (learners, 2))
        items = np.tile(rng.permutation(ITEMS), (learners, 1))
        p = 1 / (1 + np.exp(-trait[np.arange(learners)[:, None], items % 2]))
        scores = (rng.random(items.shape) < p).astype(np.float64).reshape(-1)
        return FilteredLog(ITEMS * np.arange(learners + 1), items.reshape(-1), scores, plain(len(scores), 0.5))

    training, fresh = world(300), world(200)
    behaviour_model = fit_factors(
        make_items(), training, trace_features(empty_behaviour_model(), make_items(), training), 2
    )
    p = 1 / (1 + np.exp(-trace_features(behaviour_model, make_items(), fresh).psi))
    assert total_loss(p, fresh.scores) / len(p) < 0.62  # a coin has .693


@pytest.mark.parametrize(
    ("lengths", "score"), [((), 0.0), ((1,), 1.0), ((3,) * 10, 1.0), ((3,) * 10, 0.0), ((1,) * 20, 0.5), ((200,), 0.0)]
)
def test_behaviour_model_can_be_fitted_to_degenerate_logs(lengths: tuple[int, ...], score: float) -> None:
    starts = np.append(0, np.cumsum(lengths)).astype(np.int64)
    count = int(starts[-1])
    answers = FilteredLog(starts, np.arange(count) % ITEMS, np.full(count, score), plain(count))
    behaviour_model = fit(answers)
    if behaviour_model is not None:
        assert np.isfinite(expected_p(behaviour_model, trace_features(behaviour_model, make_items(), answers))).all()


@pytest.mark.statistics
def test_behaviour_model_is_the_same_for_the_same_log() -> None:
    answers = simulate(60, 20, np.random.default_rng(11), 1.0)
    one, other = fit(answers), fit(answers)
    assert one is not None
    assert other is not None
    assert np.array_equal(one.cross_weights, other.cross_weights)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(-3, 2**40), st.integers(-3, 2**40)), max_size=50, unique=True))
def test_different_crosses_have_different_keys(cues: list[tuple[int, int, int]]) -> None:
    keys = {int(hash_keys(kind, np.array([first]), np.array([second]))[0]) for kind, first, second in cues}
    assert len(keys) == len(cues)


@given(st.sets(st.integers(0, 50)), st.lists(st.integers(0, 50)))
def test_find_keys_finds_the_keys_that_are_there(held: set[int], wanted: list[int]) -> None:
    keys = np.array(sorted(held), dtype=np.uint64)
    place, there = find_keys(keys, np.array(wanted, dtype=np.uint64))
    assert there.tolist() == [number in held for number in wanted]
    assert all(keys[place[n]] == wanted[n] for n in np.flatnonzero(there))


# Within the engine


def course_with_behaviour(seed: int) -> tuple[Parameters, Log]:
    """A course with a head, and a log of it with pauses."""
    parameters = random_course(seed)
    behaviour_model = random_behaviour_model(np.random.default_rng(seed), parameters.items.count)
    return replace(parameters, behaviour=behaviour_model), random_log(parameters, seed, learners=6, longest=30)


@pytest.mark.parametrize("seed", range(8))
def test_mastery_does_not_depend_on_the_behaviour_model(seed: int) -> None:
    parameters, log = course_with_behaviour(seed)
    with_it, told = replay(parameters, log)
    without, plainly = replay(replace(parameters, behaviour=None), log)
    for field in fields(States):
        if field.name == "recent":
            assert engine_same(with_it.recent, without.recent)
        elif field.name not in ("behaviour", "successes"):
            assert np.array_equal(getattr(with_it, field.name), getattr(without, field.name)), field.name
    assert np.array_equal(told.without_behaviour, plainly.p)
    assert not np.array_equal(told.p, told.without_behaviour)
    seeds = np.arange(log.learners).astype(np.uint64)
    one, other = (
        choose_items(parameters, with_it, seeds),
        choose_items(replace(parameters, behaviour=None), without, seeds),
    )
    for name in ("skill", "item", "code", "propensity", "difficulty_match"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize("seed", range(8))
def test_replay_with_behaviour_equals_steps_through_encoded_states(seed: int) -> None:
    """Also what is packed and unpacked after every answer is the same, bit for bit."""
    parameters, log = course_with_behaviour(seed)
    together, predicted = replay(parameters, log)
    for learner in range(log.learners):
        states = initial_states(parameters, 1)
        for place in range(log.starts[learner], log.starts[learner + 1]):
            one = slice(place, place + 1)
            foreseen = predict_p_correct(
                parameters, fade_states(parameters, states, log.times[one]), np.zeros(1, int), log.items[one]
            )
            states, prediction = update_states(parameters, states, log.items[one], log.scores[one], log.times[one])
            states = decode_states(parameters, encode_states(parameters, states))
            assert prediction.p[0] == predicted.p[place]
            assert foreseen[0] == prediction.p[0]
        assert engine_same(states, together[np.array([learner])])


def test_p_correct_of_a_recommendation_is_that_of_an_answer_at_once() -> None:
    """`p_correct` of the exercise to come is that of its answer, if it is given at once."""
    parameters, log = course_with_behaviour(3)
    states, _ = replay(parameters, log)
    now = fade_states(parameters, states, states.seen_at)
    choices = choose_items(parameters, now, np.arange(log.learners).astype(np.uint64))
    rows = np.flatnonzero(choices.item >= 0)
    _, prediction = update_states(
        parameters, states[rows], choices.item[rows], np.ones(len(rows)), states.seen_at[rows]
    )
    np.testing.assert_allclose(choices.p[rows], prediction.p, rtol=1e-12)


def test_torn_behaviour_states_are_refused() -> None:
    parameters, log = course_with_behaviour(2)
    [data] = encode_states(parameters, replay(parameters, log)[0][:1])
    for end in (60, 90, len(data) - 1):
        with pytest.raises(ValueError, match="torn"):
            decode_states(parameters, [data[:end]])
