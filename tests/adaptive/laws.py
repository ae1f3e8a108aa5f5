"""What must always hold: each law raises AssertionError where it does not. `test_controls` shows that they can."""

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
from scipy.optimize import brentq

from app.adaptive.arrays import Floats
from app.adaptive.calibration import fit
from app.adaptive.parameters import Parameters, Population, Skills
from app.adaptive.practice import choose
from app.adaptive.practice import items as item_scores
from app.adaptive.response_log import Log
from app.adaptive.skill_chains import link_skill_chains
from app.adaptive.state import States
from app.adaptive.tracing import filter as engine
from app.adaptive.tracing import state_codec as snapshots
from app.adaptive.tracing.replay import replay
from app.adaptive.tracing.uncertainty import standard_error
from tests.adaptive.reference import chance
from tests.adaptive.worlds import (
    arrays,
    course,
    log_of,
    make_items,
    random_log,
    random_scores,
    random_states,
    same,
    simulate,
    tree,
)

ROUNDING = 1e-12
SMALLEST = 1e-9


def batch_does_not_matter(parameters: Parameters, seed: int) -> None:
    """`update_states` gives a learner the same bits alone, in a batch, and in a batch in another order."""
    rng = np.random.default_rng(seed)
    before = random_states(parameters, seed, learners=7)
    items = rng.integers(0, parameters.items.count, 7)
    scores = random_scores(parameters, rng, items)
    times = 20_000 + 100 * rng.random(7)
    after, predicted = engine.update_states(parameters, before, items, scores, times)
    order = rng.permutation(7)
    shuffled, shuffled_prediction = engine.update_states(
        parameters, before[order], items[order], scores[order], times[order]
    )
    assert same(shuffled, after[order])
    assert shuffled_prediction.p.tobytes() == predicted.p[order].tobytes()
    for row in range(7):
        only = slice(row, row + 1)
        alone, alone_prediction = engine.update_states(parameters, before[only], items[only], scores[only], times[only])
        assert same(alone, after[only])
        assert alone_prediction.p.tobytes() == predicted.p[only].tobytes()


def replay_is_repeated_step(parameters: Parameters, seed: int) -> None:
    """A replay has the bits of one `update_states` after the other, wherever it is cut, also through stored states."""
    log = random_log(parameters, seed, learners=5, longest=9)
    states, predicted = replay(parameters, log)
    for learner in range(log.learners):
        state = engine.initial_states(parameters, 1)
        for place in range(log.starts[learner], log.starts[learner + 1]):
            state = snapshots.decode_states(parameters, snapshots.encode_states(parameters, state))
            item, score, time = log.items[[place]], log.scores[[place]], log.times[[place]]
            state, prediction = engine.update_states(parameters, state, item, score, time)
            for whole, single in zip(arrays(predicted), arrays(prediction), strict=True):
                assert np.array_equal(whole[place], single[0])
        assert same(state, states[learner : learner + 1])


def stays_finite(parameters: Parameters, log: Log) -> None:
    """After any answers every number is finite and within its bounds."""
    population = parameters.population
    states, predicted = replay(parameters, log)
    for array in [*arrays(states), *arrays(predicted)]:
        assert np.isfinite(array).all()
    assert (np.abs(states.ability) <= 6).all()
    assert (engine.is_at_bound(states) == (np.abs(states.ability) == 6)).all()
    assert (np.abs(states.daily_effect) <= 6).all()
    assert (np.abs(states.skill_effect) <= 6).all()
    within(states.ability_variance, 0.0, population.ability_variance)
    within(states.daily_effect_variance, 0.0, population.daily_effect_variance)
    within(states.skill_effect_variance, 0.0, max(2.0, population.skill_variance))
    within(states.mastery, 0.0, 1.0)
    within(predicted.p, SMALLEST, 1 - SMALLEST)
    everyone, items = np.meshgrid(np.arange(states.count), np.arange(parameters.items.count), indexing="ij")
    chances = engine.predict_score(parameters, states, everyone.reshape(-1), items.reshape(-1))
    assert np.isfinite(chances).all()
    within(chances, SMALLEST, 1 - SMALLEST)


def within(values: Floats, low: float, high: float) -> None:
    """The values are between these, but for the last bits."""
    assert (values >= low - ROUNDING * abs(low)).all()
    assert (values <= high + ROUNDING * abs(high)).all()


def answers_move_the_right_way(parameters: Parameters, seed: int) -> None:
    """A right answer lowers neither ability nor any mastery, a wrong one raises none; learning is left out."""
    skills = parameters.skills
    none = np.zeros(skills.count)
    before = random_states(parameters, seed, learners=1)
    still = replace(parameters, skills=replace(skills, p_learn=none, p_forget=none))
    items = np.arange(parameters.items.count)
    many = before[np.zeros(len(items), dtype=np.int64)]
    right, _ = engine.update_states(still, many, items, np.ones(len(items)), np.zeros(len(items)))
    wrong, _ = engine.update_states(still, many, items, np.zeros(len(items)), np.zeros(len(items)))
    for name in ("ability", "skill_effect", "mastery"):
        at_first, up, down = getattr(many, name), getattr(right, name), getattr(wrong, name)
        assert (up >= at_first - ROUNDING).all(), name
        assert (down <= at_first + ROUNDING).all(), name
    usual = (np.abs(many.ability) < 5) & (np.abs(parameters.items.intercept) < 4)
    assert (right.ability > wrong.ability)[usual].all()


def fading_raises_nothing(parameters: Parameters, states: States, first: Floats, second: Floats) -> None:
    """With time no mastery rises, none falls below its prior, no ability gets surer; the rest stays. All is finite."""
    sooner = engine.fade_states(parameters, states, np.minimum(first, second))
    later = engine.fade_states(parameters, states, np.maximum(first, second))
    for before, after in ((states, sooner), (sooner, later)):
        for array in arrays(after):
            assert np.isfinite(array).all()
        assert (after.mastery <= before.mastery).all()
        assert (after.mastery >= np.minimum(before.mastery, parameters.skills.prior) - ROUNDING).all()
        assert (after.ability_variance >= before.ability_variance).all()
        assert (after.ability_variance <= parameters.population.ability_variance).all()
        assert (standard_error(parameters, after) >= standard_error(parameters, before) - ROUNDING).all()
        for name in (
            "ability",
            "daily_effect",
            "daily_effect_variance",
            "skill_effect",
            "learning_gain",
            "responses",
            "practised",
            "attained",
        ):
            assert (getattr(after, name) == getattr(before, name)).all()
    assert same(engine.fade_states(parameters, later, np.maximum(first, second)), later)


def an_hour_is_no_pause(parameters: Parameters, log: Log) -> None:
    """Answers within an hour, at every other moment unknown, or with a clock that goes back: not a bit moves."""
    unknown = np.zeros(len(log.items))
    _, expected = replay(parameters, replace(log, times=unknown))
    turns = np.arange(len(log.items))
    seconds = turns / 86_400
    for days in (20_000 + seconds, np.where(turns % 2, 20_000 + seconds, 0.0), 20_000.0 - turns):
        states, predicted = replay(parameters, replace(log, times=np.asarray(days, dtype=np.float64)))
        assert same(predicted, expected)
        assert same(engine.fade_states(parameters, states, np.zeros(states.count)), states)


def prerequisites_are_informed() -> None:
    """An answer on a skill speaks of its direct prerequisites, the same way, and of nothing else."""
    # 0 → 1 → 2, and 3 apart. Items: 0 asks for 1; 1 asks for 1 and for 0 itself; 2 asks for 2.
    parameters = course(tree([[], [0], [1], []]), make_items([[1], [1, 0], [2]]))
    nobody = engine.initial_states(parameters, 1)
    q = nobody.mastery[0]
    for score in (0.0, 1.0):
        sign = 1 if score else -1
        after, _ = engine.update_states(parameters, nobody, np.array([0]), np.array([score]), np.zeros(1))
        assert sign * (after.mastery[0, 0] - q[0]) > 0.01
        assert (after.mastery[0, 2:] == q[2:]).all()
        assert after.responses[0].tolist() == [0, 1, 0, 0]
        after, _ = engine.update_states(parameters, nobody, np.array([2]), np.array([score]), np.zeros(1))
        assert sign * (after.mastery[0, 1] - q[1]) > 0.01
        assert (after.mastery[0, [0, 3]] == q[[0, 3]]).all()
    # Asked for itself: exactly what the answer says of it without the edge.
    apart = replace(parameters, skills=tree([[], [], [], []]))
    with_edge, _ = engine.update_states(parameters, nobody, np.array([1]), np.array([1.0]), np.zeros(1))
    without, _ = engine.update_states(apart, nobody, np.array([1]), np.array([1.0]), np.zeros(1))
    assert same(with_edge, without)


def one_skill_is_bkt() -> None:
    """Without any doubt about the logit the mastery is that of Corbett & Anderson (1995), worked out by hand.

    P(L0) .5, P(T) .1, P(F) 0, P(G) .2, P(S) .1; answers right, right, wrong, right. The first: .45 / .55 = 9/11,
    then 9/11 + 2/11 · .1 · 1.05 · (9/11) / (9/11 + .05) = .83617, where P(T) counts in the measure in which the answer
    was not luck. Nothing is learnt by a wrong answer. In both we depart from them.
    """
    parameters = course(
        tree([[]], prior=[0.5], p_learn=[0.1], p_forget=[0.0]),
        make_items([[0]]),
        ability_variance=1e-12,
        daily_effect_variance=1e-12,
        skill_drift=0.0,
        known_shift=float(np.log(9)),
        unknown_shift=float(-np.log(4)),
    )
    states = engine.initial_states(parameters, 1)
    for score, expected in ((1.0, 0.8361732508), (1.0, 0.9624413665), (0.0, 0.7620820451), (1.0, 0.9415904752)):
        states, _ = engine.update_states(parameters, states, np.array([0]), np.array([score]), np.zeros(1))
        assert abs(states.mastery[0, 0] - expected) < 1e-8


def chance_is_what_happens(seeds: int = 20_000) -> None:
    """The propensity is how often the item is chosen."""
    parameters = course(tree([[]]), make_items([[0]] * 5, intercept=[0.0, 0.03, 0.1, -0.08, 2.0]))
    choices = choose.choose_items(
        parameters,
        engine.initial_states(parameters, seeds),
        np.arange(seeds, dtype=np.uint64),
    )
    assert set(np.unique(choices.item)) == {0, 1, 2, 3}
    for item in range(4):
        stated = np.unique(choices.propensity[choices.item == item])
        share = (choices.item == item).mean()
        assert stated.size == 1
        assert abs(stated[0] - share) < 4 * np.sqrt(share * (1 - share) / seeds) + 1e-3


def chances_sum_to_one(distance: Floats) -> None:
    """Over all candidates the chances are 1; each is what a plain sum over the random number gives."""
    everyone = np.zeros(len(distance), dtype=np.int64)
    found = [item_scores.propensities(distance, everyone, np.array([i]))[0] for i in range(len(distance))]
    assert abs(sum(found) - 1) < 1e-3
    if len(distance) <= 20:
        slow = [chance(distance.tolist(), i) for i in range(len(distance))]
        np.testing.assert_allclose(found, slow, atol=5e-4)


def each_term_orders_alone() -> None:
    """With all else equal, the skill goes by the one term that differs, and the item by its distance to the target."""
    apart = make_items([[0], [1]])

    def chosen(parameters: Parameters, **changes: list[Any]) -> int:
        states = replace(engine.initial_states(parameters, 1), **{k: np.array(v) for k, v in changes.items()})  # type: ignore[arg-type]
        return int(choose.choose_items(parameters, states, np.array([5], dtype=np.uint64)).skill[0])

    # What it opens up: skill 2 needs one of the two.
    three = make_items([[0], [1], [2]])
    assert chosen(course(tree([[], [], [1]]), three)) == 1
    assert chosen(course(tree([[], [], [0]]), three)) == 0
    # The lower level first, whatever a skill opens up: skill 0 is settled, 1 stands alone, and 3 and 4 need 2.
    layers = course(tree([[], [], [0], [2], [2]]), make_items([[0], [1], [2], [3], [4]]))
    known: dict[str, list[Any]] = {"mastery": [[0.99, 0.4, 0.4, 0.4, 0.4]], "responses": [[9, 0, 0, 0, 0]]}
    assert chosen(layers, **known) == 1
    # Staying with the skill of the last item, also on a higher level.
    two_each = course(tree([[], []]), make_items([[0], [0], [1], [1]]))
    for item, skill in ((0, 0), (2, 1)):
        states = replace(engine.initial_states(two_each, 1), last_item=np.array([item]))
        assert choose.choose_items(two_each, states, np.array([5], dtype=np.uint64)).skill[0] == skill
    again = replace(layers, items=make_items([[0], [1], [2], [2], [3], [4]]))
    assert chosen(again, **known, last_item=[2]) == 2
    # What is mastered on few answers is practised on, and what is learnt more slowly for longer.
    equal = course(tree([[], []]), apart)
    for mastery, responses in (([0.9, 0.9], [9, 3]), ([0.9, 0.7], [9, 9])):
        assert chosen(equal, mastery=[mastery], responses=[responses]) == 1
        assert chosen(equal, mastery=[mastery[::-1]], responses=[responses[::-1]]) == 0
    for p_learn, skill in (([0.4, 0.16], 1), ([0.16, 0.4], 0)):
        slow = course(tree([[], []], p_learn=p_learn), apart)
        assert chosen(slow, mastery=[[0.9, 0.9]], responses=[[5, 5]]) == skill
    # Where nothing is open: what was practised long ago has faded.
    long_ago: dict[str, list[Any]] = {"total_responses": [200], "mastery": [[0.85, 0.85]], "responses": [[30, 30]]}
    assert chosen(equal, **long_ago, practised=[[0, 199]]) == 0
    assert chosen(equal, **long_ago, practised=[[199, 0]]) == 1
    # Challenge: the item whose chance is nearest .62, whatever its place.
    for intercept in ([3.0, 0.4, -3.0], [-3.0, 3.0, 0.4], [0.4, -3.0, 3.0]):
        one = course(tree([[]]), make_items([[0]] * 3, intercept=intercept))
        choices = choose.choose_items(one, engine.initial_states(one, 1), np.array([5], dtype=np.uint64))
        assert choices.item[0] == intercept.index(0.4)
    # What it tells: with the same chance of success, the item on which those who know and who do not are further apart.
    for guessing in ([0.5, 0.1], [0.1, 0.5]):
        one = course(
            tree([[]], prior=[0.5]), make_items([[0]] * 2, guessing=guessing, intercept=intercept_for(guessing))
        )
        choices = choose.choose_items(one, engine.initial_states(one, 1), np.array([5], dtype=np.uint64))
        assert choices.difficulty_match[0] > 0.999
        assert choices.item[0] == guessing.index(0.1)


def intercept_for(guessing: list[float]) -> list[float]:
    """With these chances to guess, the easiness at which a new learner of a single skill succeeds with .62."""

    def missed(intercept: float, c: float) -> float:
        one = course(tree([[]], prior=[0.5]), make_items([[0]], guessing=[c], intercept=[intercept]))
        return (
            float(engine.predict_score(one, engine.initial_states(one, 1), np.array([0]), np.array([0]))[0])
            - item_scores.TARGET
        )

    return [float(brentq(missed, -9.0, 9.0, args=(c,))) for c in guessing]


def expected_counts_enumerate_all_hidden_paths() -> None:
    """`count_expected` equals an enumeration of every hidden path, pauses among them."""
    rng = np.random.default_rng(3)
    skills = tree([[], []], prior=[0.3, 0.7], p_learn=[0.2, 0.4], p_forget=[0.05, 0.02])
    log = random_log(course(skills, make_items([[0], [1], [0, 1]])), 8, learners=6, longest=6)
    chains = link_skill_chains(make_items([[0], [1], [0, 1]]).skills, log)
    known, unknown = rng.uniform(0.1, 0.9, (2, len(chains.answer)))
    taught = rng.integers(0, 2, len(chains.answer)).astype(float)
    faded = rng.uniform(0, 0.8, len(chains.answer)) * rng.integers(0, 2, len(chains.answer))
    found = fit.count_expected(skills, chains, known, unknown, taught, faded, np.ones_like)
    for number, (start, length) in enumerate(zip(chains.starts, chains.lengths, strict=True)):
        skill = int(chains.skill[number])
        prior, p_learn, p_forget = (float(r[skill]) for r in (skills.prior, skills.p_learn, skills.p_forget))
        anew = begun_anew(skills, skill, known, unknown, taught, faded, range(start, start + length))
        total, counts = 0.0, np.zeros(5)
        # After each answer but the last: what is known then, and what is left of it when the next one comes.
        for path in product((0, 1), repeat=2 * length - 1):
            states, later = path[::2], path[1::2]
            weight = prior if states[0] else 1 - prior
            for t, state in enumerate(states):
                weight *= known[start + t] if state else unknown[start + t]
            for t, (state, after, coming) in enumerate(zip(states, later, states[1:], strict=False)):
                chance_up = 1 - p_forget if state else p_learn * taught[start + t]
                weight *= chance_up if after else 1 - chance_up
                drawn = prior if coming else 1 - prior
                weight *= anew[t + 1] * drawn + (1 - anew[t + 1]) * (coming == after)
            steps = list(zip(states, later, strict=False))
            counts += weight * np.array(
                [
                    states[0],
                    steps.count((0, 1)),
                    sum(taught[start + t] for t, state in enumerate(states[:-1]) if not state),
                    steps.count((1, 0)),
                    states[:-1].count(1),
                ]
            )
            total += weight
        fast = [
            found["prior"][0][number],
            *(found["p_learn"][i][number] for i in (0, 1)),
            *(found["p_forget"][i][number] for i in (0, 1)),
        ]
        np.testing.assert_allclose(fast, counts / total, atol=1e-10)


def begun_anew(
    skills: Skills,
    skill: int,
    known: Floats,
    unknown: Floats,
    taught: Floats,
    faded: Floats,
    places: range,
) -> list[float]:
    """By the plain filter: which part of the learners begins anew before each answer of a chain."""
    prior, p_learn, p_forget = (float(r[skill]) for r in (skills.prior, skills.p_learn, skills.p_forget))
    result, q = [], prior
    for place in places:
        result.append(float(faded[place]) if q > prior else 0.0)
        q += result[-1] * (prior - q)
        q = q * known[place] / (q * known[place] + (1 - q) * unknown[place])
        q = q * (1 - p_forget) + (1 - q) * p_learn * taught[place]
    return result


def intercepts_of_a_fold_ignore_its_answers() -> None:
    """The easiness a fold of learners meets does not depend on that fold's answers."""
    parameters = course(tree([[], []]), make_items([[0], [1], [0, 1], []], intercept=[0.2, -0.4, 0.0, 0.5]))
    log = simulate_first(parameters)
    fold = np.repeat(np.arange(log.learners) % 3, np.diff(log.starts))
    intercept = np.tile(parameters.items.intercept, (3, 1))

    def fitted(scores: Floats) -> Floats:
        answers = replace(log, scores=scores)
        crossed, crossed_log = fit.stack_folds(parameters, intercept, answers, fold)
        _, predicted = replay(crossed, crossed_log)
        offset = predicted.logit - intercept[fold, log.items]
        fixed = np.zeros(4, dtype=np.bool_)
        return fit.fit_intercepts(parameters, intercept, answers, fold, fixed, offset, predicted)

    usual = fitted(log.scores)
    for row in range(3):
        other = fitted(np.where(fold == row, 1 - log.scores, log.scores))
        assert other[row].tobytes() == usual[row].tobytes()
        assert (other != usual).any()


def simulate_first(parameters: Parameters) -> Log:
    """Answers of 30 learners, eight each."""
    return simulate(parameters, seed=1, learners=30, answers=8)


def extreme_world() -> tuple[Parameters, int]:
    """Items of every extreme: a, b, c and rates at 0 and 1; one learner for each item and habit."""
    rates = [(0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 1.0), (1.0, 1.0, 1.0), (0.5, 0.2, 0.03), (1e-9, 0.01, 0.001)]
    grid = [
        (skill, a, b, c)
        for skill in range(len(rates))
        for a in (0.01, 1.0, 6.0)
        for b in (-10, 0, 10)
        for c in (0.0, 0.5)
    ]
    skill, a, b, c = (np.array(column) for column in zip(*grid, strict=True))
    prior, p_learn, p_forget = (list(column) for column in zip(*rates, strict=True))
    skills = tree([[], [0], [1], [4, 5], [], [4]], prior=prior, p_learn=p_learn, p_forget=p_forget)
    items = make_items([[int(s)] for s in skill], intercept=-a * b, discrimination=a, guessing=c)
    return course(skills, items), len(grid)


def extreme_log(parameters: Parameters, answers: int) -> Log:
    """Each item answered by three learners: always right, always wrong, in turns."""
    rows = [
        [(item, float(score)) for score in habit]
        for item in range(parameters.items.count)
        for habit in ([1] * answers, [0] * answers, ([1, 0] * answers)[:answers])
    ]
    return log_of(rows)


def with_population(parameters: Parameters, **values: float) -> Parameters:
    """The same with other values of the population."""
    return replace(parameters, population=replace(Population(), **values))


def copies(states: States, row: int, count: int) -> States:
    """One learner many times."""
    return states[np.full(count, row)]
