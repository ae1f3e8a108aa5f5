"""`proxima simulate truth`: figures that are right, and words that luck and other skills do not change."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from app.adaptive.calibration import fit
from app.adaptive.parameters import Parameters
from app.adaptive.simulation.truth_worlds import (
    TRUTH_WORLDS,
    LearnerHistory,
    answer_items,
    calibrate_on_others,
    create_truth_course,
)
from app.adaptive.simulation.worlds import learner_seeds
from app.adaptive.tracing import filter as engine
from app.adaptive.tracing import mastery
from app.analysis.truth_study import TruthFigures, measure_history
from app.cli import main

WORLDS = {world.name: world for world in TRUTH_WORLDS}
Patch = pytest.MonkeyPatch


def history(mastered: list[list[list[bool]]], known: list[list[list[bool]]], items: list[list[int]]) -> LearnerHistory:
    """What learners were told of skills, (T, B, S), and what was true; told as .9 or .1."""
    told = np.array(mastered)
    return LearnerHistory(
        items=np.array(items),
        practised=np.full(told.shape[:2], -1),
        scores=np.ones(told.shape[:2]),
        known=np.array(known),
        mastery=np.where(told, 0.9, 0.1),
        low=np.where(told, 0.8, 0.0),
        high=np.where(told, 1.0, 0.2),
        mastered=told,
        ability_error=np.array([[0.5, 2.0]] * len(told)),
        ability=np.array([1.0, -1.0]),
    )


def test_figures_of_a_history_equal_those_by_hand() -> None:
    """Two learners, one skill, four answers: the first is told right at last, the second wrong from the second on."""
    mastered = [[[False], [False]], [[False], [True]], [[True], [True]], [[True], [False]]]
    known = [[[False], [False]], [[True], [False]], [[True], [False]], [[True], [False]]]
    found = measure_history(
        history(mastered, known, [[0, 0], [1, 0], [0, 1], [1, 1]]), np.array([[0], [0]]), known_ability=True
    )
    assert found.first_false == 0.5
    assert found.false == 0.0
    assert found.first == 2.5
    assert found.missed == 0.0
    assert found.early == 1.0
    assert found.flips == 1.5
    assert found.most_flips == 2
    assert found.ability == 0.5
    assert found.run == 2.5
    # The second answer of the second learner repeats an item while another is unseen.
    assert found.repeats == 0.125


def figures(name: str, learners: int = 60) -> TruthFigures:
    """Without a calibration."""
    world = WORLDS[name]
    course = create_truth_course(world, 5)
    told = answer_items(world, course, course.given, learner_seeds(5, 0, learners), 60)
    return measure_history(told, course.items.skills, known_ability=False)


@pytest.mark.statistics
@pytest.mark.parametrize("name", ["coins, undeclared", "coins, c .25 declared", "coins, c .5 declared"])
def test_coin_tosser_is_hardly_ever_told_mastered_within_twenty_answers(name: str) -> None:
    """On four skills; measured .00 to .05."""
    assert figures(name).early <= 0.1


@pytest.mark.controls
def test_coin_tosser_is_told_mastered_without_evidence(monkeypatch: Patch) -> None:
    monkeypatch.setattr(mastery, "CUSUM_LINE", 0.0)
    assert figures("coins, undeclared").early > 0.2


@pytest.mark.statistics
def test_known_skills_are_not_blamed_for_the_missing_one() -> None:
    """Random items, no calibration, one of the eight skills of fractions missing."""
    found = figures("lacks one of fractions", 64)
    assert found.separable is not None
    assert found.blamed is not None
    assert found.missing is not None
    assert found.separable > 0.85
    assert found.blamed < 0.05
    assert found.missing < 0.2


@pytest.mark.controls
def test_known_skills_are_blamed_if_each_takes_the_whole_answer(monkeypatch: Patch) -> None:
    monkeypatch.setattr(engine, "likelihood_if_known", lambda known, _unknown, _others: known)
    blamed = figures("lacks one of fractions", 64).blamed
    assert blamed is not None
    assert blamed > 0.08


def calibrated(name: str) -> Parameters:
    """Fitted to the answers of 300 learners."""
    world = WORLDS[name]
    return calibrate_on_others(world, create_truth_course(world, 2), 2, 60)


@pytest.mark.statistics
def test_guessing_that_nobody_declared_is_found_where_it_is() -> None:
    assert calibrated("guessing .5, undeclared").population.guessing >= 0.25
    for name in ("believed", "guessing .5, declared"):
        assert calibrated(name).population.guessing == 0


@pytest.mark.controls
def test_guessing_is_not_found_without_its_price(monkeypatch: Patch) -> None:
    monkeypatch.setattr(fit, "_loss_of_learners", lambda filtered: np.zeros(len(filtered.starts) - 1))
    assert calibrated("guessing .5, undeclared").population.guessing == 0


@pytest.mark.statistics
def test_rates_of_learning_are_found_across_a_pause() -> None:
    """Half of what was learnt is lost in 60 days; measured .16 to .25 on four skills, where .2 is true."""
    p_learn = calibrated("pause of 60 days").skills.p_learn
    assert ((p_learn > 0.12) & (p_learn < 0.35)).all()


@pytest.mark.controls
def test_rates_of_learning_are_not_found_if_pauses_are_not_seen(monkeypatch: Patch) -> None:
    monkeypatch.setattr(fit, "_fade_over_pauses", lambda _population, chains, _log: np.zeros(len(chains.answer)))
    assert calibrated("pause of 60 days").skills.p_learn.max() < 0.12


def test_histories_do_not_depend_on_the_batch() -> None:
    world = WORLDS["compound items, next"]
    course = create_truth_course(world, 1)
    seeds = learner_seeds(1, 0, 6)
    together = answer_items(world, course, course.given, seeds, 12)
    alone = answer_items(world, course, course.given, seeds[2:3], 12)
    for name in ("items", "scores", "known", "mastery", "mastered"):
        assert np.array_equal(getattr(together, name)[:, 2:3], getattr(alone, name)), name


def test_unknown_world_is_refused_by_name() -> None:
    result = CliRunner().invoke(main, ["simulate", "truth", "--world", "heaven"])
    assert result.exit_code == 2
    assert "heaven" in result.output
    assert "nobody learns" in result.output


@pytest.mark.statistics
def test_truth_study_prints_figures_with_and_without_calibration() -> None:
    names = ["simulate", "truth", "--world", "two items a skill", "--learners", "9", "--seed", "3"]
    table = CliRunner().invoke(main, names)
    assert table.exit_code == 0
    assert "first_false" in table.output
    report = json.loads(CliRunner().invoke(main, [*names, "--json"]).stdout)
    assert set(report["worlds"]["two items a skill"]) == {"defaults", "calibrated"}
