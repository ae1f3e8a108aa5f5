"""Linking finds the change of scale that was made, whatever a few drifted anchors say, and stays finite."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.arrays import Booleans
from app.adaptive.calibration import linking
from app.adaptive.calibration.linking import (
    SAME,
    ItemCurves,
    Link,
    mean_shift,
    steady_anchors,
    transform,
)

ITEMS = 24
seeds = st.integers(0, 2**32 - 1)
slopes = st.integers(40, 250).map(lambda hundredths: hundredths / 100)
intercepts = st.integers(-200, 200).map(lambda hundredths: hundredths / 100)


def random_curves(seed: int) -> ItemCurves:
    rng = np.random.default_rng(seed)
    slope = rng.lognormal(0, 0.3, ITEMS)
    return ItemCurves(-slope * rng.normal(0, 1, ITEMS), slope)


def on_another_scale(old: ItemCurves, link: Link) -> ItemCurves:
    """The same items as a calibration gives them whose θ `link` takes to the old scale: the inverse of `transform`."""
    return ItemCurves(old.intercept + old.discrimination * link.intercept, old.discrimination * link.slope)


def everything(count: int = ITEMS) -> Booleans:
    return np.ones(count, dtype=np.bool_)


def close(found: Link, wanted: Link, tolerance: float = 1e-6) -> bool:
    return abs(found.slope - wanted.slope) < tolerance and abs(found.intercept - wanted.intercept) < tolerance


@given(seed=seeds, intercept=intercepts)
def test_linking_recovers_the_shift_of_a_shifted_copy(seed: int, intercept: float) -> None:
    old, link = random_curves(seed), Link(1.0, intercept)
    assert close(mean_shift(old, on_another_scale(old, link), everything()), link, 1e-9)


@given(seed=seeds, slope=slopes, intercept=intercepts)
def test_linking_finds_anchors_on_any_scale(seed: int, slope: float, intercept: float) -> None:
    old, link = random_curves(seed), Link(slope, intercept)
    assert steady_anchors(old, on_another_scale(old, link), everything()).all()
    new, chosen = drifted(old, link, seed)
    assert (steady_anchors(old, new, everything()) == ~chosen).all()


@given(seed=seeds, slope=slopes, intercept=intercepts)
def test_linked_items_have_the_curves_of_the_old_scale(seed: int, slope: float, intercept: float) -> None:
    old, link = random_curves(seed), Link(slope, intercept)
    linked = transform(link, on_another_scale(old, link))
    assert linked.intercept == pytest.approx(old.intercept, abs=1e-9)
    assert linked.discrimination == pytest.approx(old.discrimination, abs=1e-9)
    assert linked.difficulty == pytest.approx(slope * on_another_scale(old, link).difficulty + intercept, abs=1e-7)


def drifted(old: ItemCurves, link: Link, seed: int) -> tuple[ItemCurves, Booleans]:
    """A copy on another scale of which a fifth is easier or harder by .6 to 2 logits, and which items those are."""
    rng = np.random.default_rng(seed)
    new = on_another_scale(old, link)
    chosen = np.zeros(ITEMS, dtype=np.bool_)
    chosen[rng.permutation(ITEMS)[: ITEMS // 5]] = True
    move = np.where(chosen, rng.uniform(0.6, 2.0, ITEMS), 0.0)
    return ItemCurves(new.intercept + move, new.discrimination), chosen


@given(seed=seeds, intercept=intercepts)
def test_linking_is_not_biased_by_drifted_anchors(seed: int, intercept: float) -> None:
    old, link = random_curves(seed), Link(1.0, intercept)
    new, chosen = drifted(old, link, seed)
    anchors = steady_anchors(old, new, everything())
    assert (anchors == ~chosen).all()
    assert close(mean_shift(old, new, anchors), link, 1e-9)


@pytest.mark.controls
def test_linking_without_choice_of_anchors_is_biased_by_drift() -> None:
    """The control of the tests above."""
    old, link = random_curves(7), Link(1.0, 0.4)
    new, _ = drifted(old, link, 7)
    assert not close(mean_shift(old, new, everything()), link, 0.05)


def test_linking_drops_an_anchor_whose_discrimination_changed() -> None:
    old = random_curves(3)
    slope = old.discrimination.copy()
    slope[5] *= 3
    assert np.flatnonzero(~steady_anchors(old, ItemCurves(old.intercept, slope), everything())).tolist() == [5]


def test_linking_takes_anchors_from_the_candidates_only() -> None:
    old = random_curves(4)
    candidates = everything()
    candidates[::2] = False
    assert (steady_anchors(old, old, candidates) == candidates).all()
    new = ItemCurves(np.where(candidates, old.intercept, 5.0), old.discrimination)
    assert close(mean_shift(old, new, candidates), SAME, 1e-12)


@given(seed=seeds)
def test_linking_error_is_that_of_the_mean_of_the_item_errors(seed: int) -> None:
    """.1 logits an item, 24 items: the mean of the errors is off by .02, five times that is far outside."""
    rng = np.random.default_rng(seed)
    old = random_curves(seed)
    new = on_another_scale(old, Link(1.0, 0.5))
    noisy = ItemCurves(new.intercept + rng.normal(0, 0.1, ITEMS), new.discrimination)
    assert abs(mean_shift(old, noisy, steady_anchors(old, noisy, everything())).intercept - 0.5) < 0.1


@pytest.mark.parametrize("slope", [0.01, 1.0, 6.0])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_linking_of_few_and_extreme_items_is_finite(slope: float, count: int) -> None:
    old = ItemCurves(np.array([-8.0, 8.0])[:count], np.full(count, slope))
    new = ItemCurves(np.array([8.0, 8.0])[:count], np.full(count, slope))
    anchors = steady_anchors(old, new, everything(count))
    for chosen in (anchors, everything(count)):
        link = mean_shift(old, new, chosen)
        assert np.isfinite([link.slope, link.intercept]).all()
        assert link.slope > 0
    if count == 0:
        assert mean_shift(old, new, anchors) == SAME


def test_linking_of_equal_calibrations_is_the_identity() -> None:
    assert close(mean_shift(random_curves(2), random_curves(2), everything()), SAME, 1e-9)


def test_linking_does_not_change_its_arguments() -> None:
    old, new, candidates = random_curves(1), random_curves(2), everything()
    steady_anchors(old, new, candidates)
    mean_shift(old, new, candidates)
    assert (old.intercept == random_curves(1).intercept).all()
    assert (new.discrimination == random_curves(2).discrimination).all()
    assert candidates.all()


@pytest.mark.controls
def test_law_of_drifted_anchors_notices_anchors_that_are_never_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the drifted kept, the laws above would not hold."""
    monkeypatch.setattr(linking, "DRIFTED", np.inf)
    with pytest.raises((AssertionError, ExceptionGroup)):
        test_linking_is_not_biased_by_drifted_anchors()
