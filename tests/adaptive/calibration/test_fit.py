"""Calibration: finds what was simulated, survives every degenerate log, and never lets an answer judge itself."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.assess.metrics import auc, total_loss
from app.adaptive.calibration import fit as calibration
from app.adaptive.calibration.fit import (
    BOUNDS,
    INTERCEPT_LIMIT,
    CalibrationFit,
    calibrate_parameters,
    default_rates,
    from_free,
    measure_predictions,
    select_learners,
    to_free,
)
from app.adaptive.parameters import Parameters, Population
from app.adaptive.response_log import Log
from tests.adaptive import laws
from tests.adaptive.worlds import (
    arrays,
    course,
    frozen,
    log_of,
    make_items,
    random_course,
    random_log,
    same,
    simulate,
    tree,
)
from tests.gate.examples import examples

# Fits of whole logs: minutes, and a function of the files they read.
pytestmark = pytest.mark.statistics

SKILLS, ITEMS = 4, 24
TRUTH = course(
    tree([[]] * SKILLS, prior=[0.2, 0.4, 0.6, 0.5], p_learn=[0.1, 0.3, 0.5, 0.4], p_forget=[0.01] * SKILLS),
    make_items([[i % SKILLS] for i in range(ITEMS)], intercept=np.random.default_rng(0).normal(0, 1, ITEMS)),
    ability_variance=1.36,
    daily_effect_variance=0.1,
)
SEED = 1


def untouched(parameters: Parameters) -> Parameters:
    """The same course before any calibration."""
    items = replace(parameters.items, intercept=np.zeros(parameters.items.count))
    return Parameters(Population(), default_rates(parameters.skills), items)


def free(parameters: Parameters) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """No item is fixed."""
    return np.zeros(parameters.items.count, dtype=np.bool_)


def aside(log: Log) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """One learner in five is held out."""
    return np.asarray(np.arange(log.learners) % 5 == 0)


def fitted(parameters: Parameters, log: Log, seed: int) -> CalibrationFit:
    """A calibration of a course whose items are all free."""
    return calibrate_parameters(parameters, log, free(parameters), aside(log), seed)


@pytest.fixture(scope="module")
def found() -> CalibrationFit:
    """A calibration on 400 learners with 30 answers each, 500 answers an item."""
    return fitted(untouched(TRUTH), simulate(TRUTH, 1, 400, 30), SEED)


@pytest.mark.statistics
def test_calibration_recovers_intercepts(found: CalibrationFit) -> None:
    """Within a skill to .1 (measured .08 to .13). The level of a skill is less sure, see below."""
    error = found.parameters.items.intercept - TRUTH.items.intercept
    for skill in range(SKILLS):
        assert error[skill::SKILLS].std() < 0.2
        assert abs(error[skill::SKILLS].mean()) < 0.8
    assert np.corrcoef(found.parameters.items.intercept, TRUTH.items.intercept)[0, 1] > 0.9


def test_calibration_orders_learning_rates_but_shrinks_them(found: CalibrationFit) -> None:
    """How fast a skill is learnt is told apart; few who know it and hard items look the same (measured off by .23)."""
    p_learn = found.parameters.skills.p_learn
    assert p_learn[0] < p_learn[1]
    assert p_learn[0] < p_learn[2]
    assert (np.abs(p_learn - TRUTH.skills.p_learn) < 0.15).all()
    assert (np.abs(found.parameters.skills.prior - TRUTH.skills.prior) < 0.3).all()


def test_calibration_recovers_the_population(found: CalibrationFit) -> None:
    """The spread of abilities 1.36 (measured 1.0 to 1.3), the two shifts (measured within .12)."""
    population = found.parameters.population
    assert 0.8 < population.ability_variance < 1.9
    assert population.daily_effect_variance < Population().daily_effect_variance
    assert abs(population.known_shift - TRUTH.population.known_shift) < 0.3
    assert abs(population.unknown_shift - TRUTH.population.unknown_shift) < 0.3


def test_calibration_predicts_new_learners_as_well_as_the_truth(found: CalibrationFit) -> None:
    """Log loss on 300 fresh learners: within .003 of the truth (measured .001), .04 better than before."""
    fresh = simulate(TRUTH, 99, 300, 30)
    before, after, truth = (measure_predictions(p, fresh) for p in (untouched(TRUTH), found.parameters, TRUTH))
    assert after[0] < truth[0] + 0.003
    assert after[0] < before[0] - 0.04
    assert after[1] > truth[1] - 0.003


def test_calibration_report_is_of_held_out_learners(found: CalibrationFit) -> None:
    assert found.held_out_responses == 80 * 30
    assert found.log_loss_after < found.log_loss_before
    assert found.auc_after > found.auc_before


def test_calibration_uses_known_guessing_parameters() -> None:
    """With c = .25 the easiness is not that of the raw success: measured off by -.22, and by .76 if c is ignored."""
    parameters = course(tree([]), make_items([[]] * 12, intercept=np.linspace(-2, 1, 12), guessing=np.full(12, 0.25)))
    fit = fitted(untouched(parameters), simulate(parameters, 2, 500, 15), SEED)
    assert abs((fit.parameters.items.intercept - parameters.items.intercept).mean()) < 0.4


def test_expected_counts_equal_an_enumeration_of_all_hidden_paths() -> None:
    laws.expected_counts_enumerate_all_hidden_paths()


def test_intercepts_for_a_fold_do_not_depend_on_its_answers() -> None:
    laws.intercepts_of_a_fold_ignore_its_answers()


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.2, 0.5, 0.9]), st.booleans()), max_size=30))
def test_auc_is_the_share_of_pairs_in_the_right_order(answers: list[tuple[float, bool]]) -> None:
    p, y = np.array([a for a, _ in answers]), np.array([float(b) for _, b in answers])
    pairs = [np.sign(a - b) / 2 + 0.5 for a in p[y == 1] for b in p[y == 0]]
    assert abs(auc(p, y) - (np.mean(pairs) if pairs else 0.5)) < 1e-12


def test_log_loss_equals_a_calculation_by_hand() -> None:
    """-(log .8 + log .6), and a half score in between."""
    assert abs(total_loss(np.array([0.8, 0.4]), np.array([1.0, 0.0])) - 0.7339691751) < 1e-9
    assert abs(total_loss(np.array([0.5]), np.array([0.5])) - np.log(2)) < 1e-12


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short search: what it finds is not the point."""
    monkeypatch.setattr(calibration, "SEARCH_EVALUATIONS", 12)


def is_safe(fit: CalibrationFit) -> None:
    """Every value is finite and within its bounds."""
    for array in arrays(fit.parameters):
        assert not np.isnan(array).any()
    assert (np.abs(fit.parameters.items.intercept) <= INTERCEPT_LIMIT).all()
    for name, (low, high) in BOUNDS.items():
        values = getattr(fit.parameters.skills, name)
        assert ((values >= low) & (values <= high)).all()
    population = fit.parameters.population
    assert population.known_shift - population.unknown_shift >= 0.5
    assert 0.05 <= population.ability_variance <= 9
    assert 0.5 <= population.daily_effect_retention <= 0.999
    assert np.isfinite([fit.log_loss_before, fit.log_loss_after]).all()
    assert 0 <= fit.auc_after <= 1


HABITS: dict[str, list[list[tuple[int, float]]]] = {
    "no learners": [],
    "no answers": [[], [], []],
    "one answer": [[(0, 1.0)]],
    "one learner": [[(0, 1.0), (1, 0.0), (2, 1.0)] * 5],
    "two learners": [[(0, 1.0)], [(1, 0.0)]],
    "all right": [[(0, 1.0), (1, 1.0), (2, 1.0)] * 4] * 30,
    "all wrong": [[(0, 0.0), (1, 0.0), (2, 0.0)] * 4] * 30,
    "always the same item": [[(0, 1.0), (0, 0.0)] * 4] * 10,
    "halves": [[(0, 0.5), (2, 0.5)] * 4] * 10,
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("habit", HABITS)
def test_calibration_of_degenerate_logs_stays_near_the_prior(habit: str) -> None:
    """Item 3 is never answered, and nor is skill 2: they keep a value near their prior."""
    parameters = course(tree([[], [0], []]), make_items([[0], [1], [0, 1], [2]]))
    fit = fitted(parameters, log_of(HABITS[habit]), SEED)
    is_safe(fit)
    items, skills = fit.parameters.items.intercept, fit.parameters.skills
    if habit in {"no learners", "no answers"}:
        assert (items == 0).all()
        assert skills.prior == pytest.approx(calibration.DEFAULT_PRIOR)
    if habit == "all right":
        assert (items[:3] > 0.2).all()
    if habit == "all wrong":
        assert (items[:3] < -0.2).all()
    assert min(items[:3]) - 0.5 <= items[3] <= max(items[:3]) + 0.5


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("width", [0, 1])
@pytest.mark.parametrize("skills", [0, 2])
def test_calibration_of_a_course_without_items_is_possible(skills: int, width: int) -> None:
    parameters = course(tree([[]] * skills), replace(make_items([]), skills=np.full((0, width), -1)))
    is_safe(fitted(parameters, log_of([[], []]), SEED))


@pytest.mark.usefixtures("quick")
@given(st.integers(0, 2**32 - 1), st.integers(0, 6))
@examples(25)
def test_calibration_of_random_courses_is_safe(seed: int, learners: int) -> None:
    parameters = random_course(seed)
    is_safe(fitted(parameters, random_log(parameters, seed, learners, longest=6), seed))


@pytest.mark.usefixtures("quick")
def test_calibration_is_repeatable_by_its_seed_and_changes_no_argument() -> None:
    parameters, log = frozen(random_course(2)), frozen(random_log(random_course(2), 2, learners=12))
    fits = [fitted(parameters, log, seed) for seed in (5, 5, 6)]
    assert same(fits[0].parameters, fits[1].parameters)
    assert fits[0].parameters.population == fits[1].parameters.population
    assert not same(fits[0].parameters, fits[2].parameters)


@pytest.mark.usefixtures("quick")
def test_fixed_items_stay_and_anchor_the_others() -> None:
    """Also outside the bounds of what is fitted. What a fixed item would have been does not move its neighbours."""
    parameters = course(tree([[]]), make_items([[0]] * 3, intercept=[-9.0, 2.0, 0.0]))
    fixed = np.array([True, True, False])
    log = log_of([[(1, 0.0)]] * 200)
    fit = calibrate_parameters(parameters, log, fixed, aside(log), SEED)
    assert fit.parameters.items.intercept[:2].tolist() == [-9.0, 2.0]
    assert fit.parameters.items.intercept[2] > 1
    same_otherwise = replace(fit.parameters.items, intercept=parameters.items.intercept, measured=None)
    assert same(same_otherwise, parameters.items)


@pytest.mark.usefixtures("quick")
def test_calibration_progress_goes_from_0_to_1() -> None:
    told: list[tuple[str, float]] = []
    parameters = random_course(1)
    log = random_log(parameters, 1)
    calibrate_parameters(
        parameters, log, free(parameters), aside(log), SEED, lambda stage, share: told.append((stage, share))
    )
    shares = [share for _, share in told]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert list(dict.fromkeys(stage for stage, _ in told)) == ["fit", "refit", "behaviour"]


def test_item_with_one_answer_stays_near_the_mean_of_its_skill() -> None:
    """One surprising answer moves it by less than half a logit from the mean of its skill."""
    parameters = course(tree([[]]), make_items([[0]] * 5))
    rows = [[(i, float((i + n) % 3 > 0)) for i in range(4)] for n in range(60)]
    rows[0].append((4, 0.0))
    intercept = fitted(parameters, log_of(rows), SEED).parameters.items.intercept
    assert -0.6 < intercept[4] - intercept[:4].mean() < 0


def test_selected_learners_have_all_their_answers() -> None:
    log = random_log(random_course(1), 1, learners=6)
    mask = np.array([True, False, True, True, False, True])
    for taken in (select_learners(log, mask), select_learners(log, np.flatnonzero(mask))):
        assert taken.learners == 4
        for place, learner in enumerate(np.flatnonzero(mask)):
            old, new = (slice(one.starts[k], one.starts[k + 1]) for one, k in ((log, learner), (taken, place)))
            assert taken.items[new].tolist() == log.items[old].tolist()
            assert taken.scores[new].tolist() == log.scores[old].tolist()
    backwards = select_learners(log, np.array([5, 0]))
    assert backwards.items.tolist() == [*log.items[log.starts[5] :].tolist(), *log.items[: log.starts[1]].tolist()]


@given(
    st.floats(0.06, 8),
    st.floats(4e-4, 0.15),
    st.floats(0.001, 1.5),
    st.floats(0.55, 0.99),
    st.floats(-2.5, -0.1),
    st.none() | st.floats(0.02, 0.9),
)
def test_free_parameters_are_inverted_to_the_same_population(
    ability: float, drift: float, daily_effect: float, keep: float, unknown: float, fading: float | None
) -> None:
    population = Population(
        ability_variance=ability,
        skill_drift=drift,
        daily_effect_variance=daily_effect,
        daily_effect_retention=keep,
        unknown_shift=unknown,
        known_shift=unknown + 1.5,
        fading=Population.fading if fading is None else fading,
    )
    back = from_free(to_free(population, timed=fading is not None))
    for name in Population.__dataclass_fields__:
        assert getattr(back, name) == pytest.approx(getattr(population, name), rel=1e-9)


@given(st.lists(st.floats(-100, 100), min_size=6, max_size=7))
def test_population_of_any_free_parameters_stays_finite(values: list[float]) -> None:
    population = from_free(np.array(values))
    parameters = replace(random_course(3), population=population)
    laws.stays_finite(parameters, random_log(parameters, 3))
    assert population.known_shift > population.unknown_shift


def test_replay_of_stacked_folds_equals_that_of_the_course() -> None:
    """With the same easiness in all copies the crossed log gives the same predictions."""
    parameters = random_course(6)
    log = random_log(parameters, 6)
    fold = np.repeat(np.arange(log.learners) % 3, np.diff(log.starts))
    crossed, crossed_log = calibration.stack_folds(parameters, np.tile(parameters.items.intercept, (3, 1)), log, fold)
    assert measure_predictions(crossed, crossed_log) == measure_predictions(parameters, log)
    assert isinstance(crossed_log, Log)


def test_fading_is_fitted_only_if_a_learner_came_back() -> None:
    """Between learners no time passes, and within an hour none that counts."""
    log = log_of([[(0, 1.0), (1, 0.0)], [], [(1, 1.0), (0, 1.0)], [(0, 0.0)]])
    for times, expected in (
        ([0, 0, 0, 0, 0], False),
        ([9, 9, 5, 5.04, 7], False),
        ([1, 1, 400, 400, 900], False),
        ([1, 0, 2, 2, 3], False),
        ([1, 1, 2, 2.05, 3], True),
    ):
        timed = replace(log, times=np.array(times, dtype=np.float64))
        assert calibration.has_pauses(timed) == expected
        sample = course(tree([[]]), make_items([[0], [0]]))
        found = calibration.search_population(sample, timed, np.random.default_rng(0))
        assert (found.fading != Population.fading) == expected
    assert not calibration.has_pauses(log_of([]))


def test_calibration_finds_forgetting() -> None:
    """Whoever comes back after a month and fails where nothing failed before has forgotten."""
    rows = [[(0, 1.0)] * 6 + [(0, share)] * 4 for share in (0.0, 1.0) * 60]
    log = log_of(rows)
    days = np.where(np.arange(len(log.items)) % 10 < 6, 20_000.0, 20_030.0)
    parameters = course(tree([[]]), make_items([[0]]))
    forgetful = calibration.search_population(parameters, replace(log, times=days), np.random.default_rng(0))
    steady = replace(log, times=days, scores=np.ones(len(log.items)))
    assert forgetful.fading > calibration.search_population(parameters, steady, np.random.default_rng(0)).fading
