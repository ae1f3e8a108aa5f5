"""What a calibration would change: found on simulated courses where it is known, and never mixed up with the scale."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.calibration.fit import select_learners
from app.adaptive.parameters import Items, Parameters, Population, Skills
from app.adaptive.response_log import Log
from app.adaptive.tracing.mastery import is_mastered
from app.adaptive.tracing.replay import replay
from app.services import calibration_impact
from app.services.calibration_impact import MAX_LISTED, MIN_ANCHORS, find_link, item_changes, mastery_changes

ITEMS, SKILLS, LEARNERS, ANSWERS = 40, 4, 30, 40
IDS = [f"i{number}" for number in range(ITEMS)]


def course(seed: int = 1) -> Parameters:
    rng = np.random.default_rng(seed)
    skills = np.arange(ITEMS)[:, None] % (SKILLS + 1)
    items = Items(
        intercept=rng.normal(0, 1, ITEMS),
        discrimination=np.where(np.arange(ITEMS) % 3, 1.0, 1.4),
        guessing=np.zeros(ITEMS),
        upper=np.ones(ITEMS),
        thresholds=np.empty((ITEMS, 0)),
        skills=np.where(skills < SKILLS, skills, -1),
    )
    prior, p_learn, p_forget = (np.full(SKILLS, value) for value in (0.4, 0.3, 0.02))
    return Parameters(Population(), Skills(prior, p_learn, p_forget, np.empty((SKILLS, 0), dtype=np.int64)), items)


def answers(seed: int = 1) -> Log:
    rng = np.random.default_rng(seed)
    starts = np.arange(0, LEARNERS * ANSWERS + 1, ANSWERS)
    scores = (rng.random(starts[-1]) < 0.8).astype(np.float64)
    return Log(starts, rng.integers(0, ITEMS, starts[-1]), scores, np.zeros(len(scores)))


def shifted(
    parameters: Parameters, by: float, drift: "np.ndarray[tuple[int], np.dtype[np.float64]] | None" = None
) -> Parameters:
    """The course as a population that is `by` logits abler would have it calibrated, and some items changed besides."""
    items = parameters.items
    move = by * items.discrimination + (0 if drift is None else drift)
    return replace(parameters, items=replace(items, intercept=items.intercept + move))


EVERYTHING = np.ones(ITEMS, dtype=np.bool_)
MANY = np.full(ITEMS, 100)


@given(by=st.integers(-30, 30).map(lambda tenth: tenth / 10), level=st.integers(-10, 10).map(lambda tenth: tenth / 10))
def test_impact_of_a_change_of_scale_changes_no_items(by: float, level: float) -> None:
    """Neither is an intercept that trades its level with the shifts of knowing and not knowing."""
    before = course()
    after = shifted(before, by)
    tagged = after.items.has_skills
    population = replace(
        after.population,
        known_shift=after.population.known_shift + level,
        unknown_shift=after.population.unknown_shift + level,
    )
    after = replace(
        after,
        population=population,
        items=replace(after.items, intercept=after.items.intercept - level * tagged),
    )
    told = item_changes(before, after, IDS, MANY, EVERYTHING)
    assert told["items_changed"] == 0
    assert told["scale"]["shift"] == pytest.approx(by, abs=1e-6)
    assert (told["scale"]["anchors"], told["scale"]["drifted_items"]) == (ITEMS, [])


def test_impact_lists_changed_items_with_the_most_changed_first() -> None:
    before = course()
    drift = np.zeros(ITEMS)
    drift[[3, 17, 21]] = [0.9, -2.0, 1.2]
    told = item_changes(before, shifted(before, 0.7, drift), IDS, MANY, EVERYTHING)
    assert [row["item"] for row in told["most_changed_items"]] == ["i17", "i21", "i3"]
    slopes = before.items.discrimination[[17, 21, 3]]
    assert slopes.tolist() == [1.0, 1.4, 1.4]
    changes = [row["change"] for row in told["most_changed_items"]]
    assert changes == pytest.approx([2.0, -1.2 / 1.4, -0.9 / 1.4], abs=1e-5)
    assert told["scale"] == {"shift": 0.7, "anchors": ITEMS - 3, "drifted": 3, "drifted_items": ["i17", "i21", "i3"]}


def test_impact_reports_difficulties_as_the_catalogue_would() -> None:
    """b = −d/a; without a scale the change is the difference of what is reported."""
    before = course()
    after = replace(before, items=replace(before.items, intercept=before.items.intercept + 0.7))
    changes = item_changes(before, after, IDS, MANY, np.zeros(ITEMS, dtype=np.bool_))["most_changed_items"]
    assert {before.items.discrimination[IDS.index(row["item"])] for row in changes} == {1.0, 1.4}
    for row in changes:
        index = IDS.index(row["item"])
        a, d = before.items.discrimination[index], before.items.intercept[index]
        assert a * (0 - row["difficulty_before"]) == pytest.approx(d, abs=2e-6)
        assert a * (0 - row["difficulty_after"]) == pytest.approx(d + 0.7, abs=2e-6)
        assert row["change"] == pytest.approx(row["difficulty_after"] - row["difficulty_before"], abs=2e-6)


def test_impact_with_too_few_anchors_has_no_scale() -> None:
    before = course()
    anchors = np.zeros(ITEMS, dtype=np.bool_)
    anchors[: MIN_ANCHORS - 1] = True
    told = item_changes(before, shifted(before, 0.7), IDS, MANY, anchors)
    assert told["scale"] is None
    assert told["items_changed"] == ITEMS
    assert len(told["most_changed_items"]) == MAX_LISTED
    assert not find_link(before, shifted(before, 0.7), np.zeros(ITEMS, dtype=np.bool_))[1].any()


def test_impact_counts_items_without_responses_as_unchanged() -> None:
    before = course()
    drift = np.zeros(ITEMS)
    drift[3] = 3.0
    counts = MANY.copy()
    counts[[3, 4]] = 0
    told = item_changes(before, shifted(before, 0, drift), IDS, counts, counts > 0)
    assert (told["items_changed"], told["items_without_responses"]) == (0, 2)


def crossed(before: Parameters, after: Parameters, log: Log) -> dict[str, list[int]]:
    """The same by a loop over learners."""
    gained, lost = [0] * SKILLS, [0] * SKILLS
    who = []
    for learner in range(log.learners):
        part = select_learners(log, np.array([learner]))
        states = [replay(parameters, part)[0] for parameters in (before, after)]
        was, becomes = [is_mastered(one)[0].tolist() for one in states]
        for skill in range(SKILLS):
            gained[skill] += becomes[skill] and not was[skill]
            lost[skill] += was[skill] and not becomes[skill]
        if was != becomes:
            who.append(learner)
    return {"gained": gained, "lost": lost, "who": who}


@pytest.mark.parametrize("block", [1, 5 * SKILLS, 1 << 18])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_impact_counts_learners_who_cross_the_mastery_line_in_any_blocks(
    seed: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration_impact, "BLOCK", block)
    before, log = course(seed), answers(seed)
    rates = replace(before.skills, prior=np.array([0.9, 0.1, 0.6, 0.2]), p_learn=np.array([0.5, 0.06, 0.4, 0.1]))
    after = replace(before, skills=rates)
    expected = crossed(before, after, log)
    assert expected["who"]
    names = [f"l{number}" for number in range(LEARNERS)]
    skills = [f"s{number}" for number in range(SKILLS)]
    told = mastery_changes(before, after, log, names, skills)
    assert (told["gained"], told["lost"]) == (sum(expected["gained"]), sum(expected["lost"]))
    assert told["learners"] == len(expected["who"])
    assert told["learner_ids"] == [names[number] for number in expected["who"]][:MAX_LISTED]
    for row in told["skills"]:
        place = skills.index(row["skill"])
        assert (row["gained"], row["lost"]) == (expected["gained"][place], expected["lost"][place])


def test_impact_of_the_same_parameters_moves_no_learner() -> None:
    told = mastery_changes(course(), course(), answers(), IDS[:LEARNERS], IDS[:SKILLS])
    assert told == {"learners": 0, "gained": 0, "lost": 0, "skills": [], "learner_ids": [], "ability_change": 0.0}


def test_impact_of_an_abler_population_shows_in_scale_and_abilities() -> None:
    """The prior of abilities stays at 0, so learners stand lower on a scale that was made for abler ones."""
    before, log = course(), answers()
    after = shifted(before, 0.5)
    told = mastery_changes(before, after, log, IDS[:LEARNERS], IDS[:SKILLS])
    assert -0.5 < told["ability_change"] < -0.1


def test_impact_on_an_empty_log_counts_no_learners() -> None:
    empty = Log(np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0), np.empty(0))
    assert mastery_changes(course(), course(2), empty, [], IDS[:SKILLS])["learners"] == 0
