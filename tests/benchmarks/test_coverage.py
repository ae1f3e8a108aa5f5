"""The reported 90 % intervals hold about 90 %: a small part of `benchmarks.coverage`, with controls."""

from dataclasses import replace

import numpy as np
import pytest

from app.adaptive.arrays import Floats
from benchmarks.coverage import WORLDS, Abilities, Masteries, World, held, inside, report, share_rule

CALIBRATION_ERROR = next(world for world in WORLDS if world.name == "calibration error")
TRUE = next(world for world in WORLDS if world.name == "true parameters")
TWO_SKILLS = next(world for world in WORLDS if world.name == "items of two skills")

pytestmark = pytest.mark.statistics


def simulated(world: World) -> tuple[Abilities, Masteries]:
    """Six courses of 80 learners, 100 answers each; not seen when the constants were chosen."""
    return report(world, range(91_000, 91_006), 80, particles=150)


@pytest.fixture(scope="module")
def reported() -> tuple[Abilities, Masteries]:
    return simulated(CALIBRATION_ERROR)


@pytest.fixture(scope="module")
def reported_with_truth() -> tuple[Abilities, Masteries]:
    return simulated(TRUE)


def ninety(holds: Floats) -> None:
    """The law: parameters are estimates, so a little more than 90 % is on the safe side."""
    assert 0.87 <= np.mean(holds) <= 0.95


def of_ability(reported: Abilities, error: Floats) -> None:
    """Overall, after few answers and after many."""
    holds = held(reported, error).astype(np.float64)
    for low, high in [(0, 100), (0, 5), (6, 29), (30, 100)]:
        ninety(holds[(low <= reported.total_responses) & (reported.total_responses <= high)])


def of_mastery(reported: Masteries, low: Floats, high: Floats) -> None:
    """Overall, after few answers and after many, and on both sides of the middle."""
    holds = inside(reported, low, high).astype(np.float64)
    for first, last in [(1, 100), (1, 2), (3, 10), (11, 100)]:
        ninety(holds[(first <= reported.responses) & (reported.responses <= last)])
    for below, above in [(0, 0.5), (0.5, 0.9)]:
        ninety(holds[(reported.responses > 0) & (below <= reported.mastery) & (reported.mastery < above)])


def test_interval_of_ability_covers_the_truth(reported: tuple[Abilities, Masteries]) -> None:
    of_ability(reported[0], reported[0].error)


def test_interval_of_mastery_covers_the_truth(reported: tuple[Abilities, Masteries]) -> None:
    of_mastery(reported[1], reported[1].low, reported[1].high)


@pytest.mark.parametrize("width", [2, 3])
def test_interval_of_mastery_covers_the_truth_with_items_of_several_skills(width: int) -> None:
    """And half as wide it does not."""
    reported = simulated(replace(TWO_SKILLS, width=width))[1]
    answered = reported.responses > 0
    low, high = (reported.low + reported.mastery) / 2, (reported.high + reported.mastery) / 2
    ninety(inside(reported, reported.low, reported.high)[answered].astype(np.float64))
    with pytest.raises(AssertionError):
        ninety(inside(reported, low, high)[answered].astype(np.float64))


def test_law_of_coverage_notices_the_variance_of_the_filter_alone(reported: tuple[Abilities, Masteries]) -> None:
    with pytest.raises(AssertionError):
        of_ability(reported[0], reported[0].filtered)


@pytest.mark.parametrize("factor", [0.8, 1.2])
def test_law_of_coverage_notices_a_wrong_standard_error(reported: tuple[Abilities, Masteries], factor: float) -> None:
    with pytest.raises(AssertionError):
        of_ability(reported[0], factor * reported[0].error)


def test_law_of_coverage_notices_the_interval_of_a_share(reported: tuple[Abilities, Masteries]) -> None:
    with pytest.raises(AssertionError):
        of_mastery(reported[1], *share_rule(reported[1].mastery, reported[1].responses))


@pytest.mark.parametrize("factor", [0.75, 1.4])
def test_law_of_coverage_notices_a_wrong_mastery_interval(reported: tuple[Abilities, Masteries], factor: float) -> None:
    seen = reported[1]
    low, high = seen.mastery - factor * (seen.mastery - seen.low), seen.mastery + factor * (seen.high - seen.mastery)
    with pytest.raises(AssertionError):
        of_mastery(seen, low, high)


def test_exact_posterior_covers_the_true_ability_and_mastery(reported_with_truth: tuple[Abilities, Masteries]) -> None:
    """What everything is held against: it holds the true ability, and of those at P(known) that share knows."""
    abilities, masteries = reported_with_truth
    ninety(held(replace(abilities, theta=abilities.exact), abilities.exact_error).astype(np.float64))
    for low in np.arange(0.0, 1.0, 0.2):
        now = (low <= masteries.exact) & (masteries.exact < low + 0.2)
        assert abs(np.mean(masteries.known[now] - masteries.exact[now])) < 0.03
