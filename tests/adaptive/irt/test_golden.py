"""Calibration against R's mirt 1.45.1 (Chalmers 2012) and the published tables of LSAT and Science."""

import csv
import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from app.adaptive.arrays import Floats
from app.adaptive.irt import FLAT, ItemCalibration, ItemResponses, Model, Priors, calibrate_items
from app.adaptive.irt.ability import estimate
from app.adaptive.irt.curves import log_probabilities
from tests.adaptive.irt_worlds import long_form, lsat, mirt, rmse, simulated

MIRT = mirt()
LOG_LIKELIHOOD, PARAMETER, ABILITY = 0.01, 0.005, 0.001
BETA = (5.0, 23.0)


def fitted(responses: ItemResponses, model: Model, priors: Priors = FLAT) -> ItemCalibration:
    items, highest = int(responses.items.max()) + 1, int(responses.categories.max())
    return calibrate_items(responses, np.full(items, highest), model, priors)


def as_mirt(found: ItemCalibration, responses: ItemResponses, name: str) -> None:
    """Within the tolerances of the reference; a likelihood above mirt's is a search that went further."""
    expected = MIRT[name]
    assert found.converged
    assert found.calibrated.all()
    assert found.log_likelihood > expected["log_likelihood"] - LOG_LIKELIHOOD
    assert found.log_likelihood < expected["log_likelihood"] + LOG_LIKELIHOOD
    np.testing.assert_allclose(found.item_bank.discrimination, expected["a"], atol=PARAMETER)
    np.testing.assert_allclose(found.item_bank.difficulty, expected["b"], atol=PARAMETER)
    np.testing.assert_allclose(found.item_bank.guessing, expected["c"], atol=PARAMETER)
    assert found.ability_variance == pytest.approx(expected["ability_variance"], abs=PARAMETER)
    if "eap" in expected:
        abilities = estimate(found.item_bank, responses, 0.0, found.ability_variance)
        np.testing.assert_allclose(abilities.ability[:10], expected["eap"], atol=ABILITY)
        np.testing.assert_allclose(abilities.standard_error[:10], expected["eap_se"], atol=ABILITY)


@pytest.mark.parametrize(
    ("section", "model", "name"),
    [
        ("lsat6", "rasch", "LSAT6_Rasch"),
        ("lsat6", "2pl", "LSAT6_2PL"),
        ("lsat7", "rasch", "LSAT7_Rasch"),
        ("lsat7", "2pl", "LSAT7_2PL"),
        ("lsat7", "3pl", "LSAT7_3PL"),
    ],
)
def test_fits_of_lsat_equal_those_of_mirt(section: str, model: Model, name: str) -> None:
    responses = lsat(section)
    as_mirt(fitted(responses, model), responses, name)


@pytest.mark.parametrize(
    ("model", "name"), [("graded", "Science_graded"), ("gpcm", "Science_gpcm"), ("pcm", "Science_Rasch_PCM")]
)
def test_fits_of_science_equal_those_of_mirt(model: Model, name: str) -> None:
    responses = science()
    as_mirt(fitted(responses, model), responses, name)


@pytest.mark.parametrize(
    ("name", "model"), [("2pl_1000x50_r0", "2pl"), ("rasch_1000x50_r0", "rasch"), ("grm_1000x20_r0", "graded")]
)
def test_fits_of_simulated_responses_equal_those_of_mirt(name: str, model: Model) -> None:
    responses, truth = simulated(name)
    found = fitted(responses, model)
    as_mirt(found, responses, name)
    expected = MIRT[name]
    b = truth["bs"] if "bs" in truth else truth["b"][:, None]
    assert rmse(found.item_bank.discrimination, truth["a"]) < rmse(np.array(expected["a"]), truth["a"]) + 0.0005
    assert rmse(found.item_bank.difficulty, b) < rmse(np.array(expected["b"]), b) + 0.0005


def test_3pl_with_a_prior_recovers_more_than_mirt() -> None:
    """Means over two sets: a .237 (mirt .253), b .282 (.291), c .071 (.073).

    Not the same estimates: mirt leaves out the chain rule in the gradient of its `expbeta` prior, which so becomes
    about seven times as strong as the beta prior it is named after.
    """
    ours, theirs = np.zeros(3), np.zeros(3)
    for name in ("3pl_1000x50_r0", "3pl_1000x50_r1"):
        responses, truth = simulated(name)
        found = fitted(responses, "3pl", Priors(guessing=BETA))
        assert found.converged
        assert found.log_likelihood > MIRT[name]["log_likelihood"]
        bank, expected = found.item_bank, MIRT[name]
        ours += [
            rmse(bank.discrimination, truth["a"]),
            rmse(bank.difficulty[:, 0], truth["b"]),
            rmse(bank.guessing, truth["c"]),
        ]
        theirs += [
            rmse(np.array(expected["a"]), truth["a"]),
            rmse(np.array(expected["b"])[:, 0], truth["b"]),
            rmse(np.array(expected["c"]), truth["c"]),
        ]
    assert (ours < theirs).all()


def test_standard_errors_of_lsat6_are_those_published_for_ltm() -> None:
    """Those of R's ltm (Rizopoulos 2006) for the 2PL, from the observed information."""
    errors = fitted(lsat("lsat6"), "2pl").standard_errors
    np.testing.assert_allclose(errors.discrimination, [0.2581, 0.1867, 0.2326, 0.1852, 0.2099], atol=0.0005)
    np.testing.assert_allclose(errors.difficulty[:, 0], [0.8669, 0.3073, 0.0997, 0.4341, 0.8700], atol=0.003)


def test_eap_of_the_sum_scores_of_lsat7_is_that_of_mirt() -> None:
    """EAP of the sum scores 0 to 5 (mirt): the patterns' EAP, weighted with how likely each pattern is."""
    bank = fitted(lsat("lsat7"), "2pl").item_bank
    patterns = np.array([[number >> item & 1 for item in range(5)] for number in range(32)])
    chance = pattern_chances(log_probabilities(bank, np.linspace(-6, 6, 61)), patterns)
    ability = estimate(bank, long_form(patterns)).ability
    scores = patterns.sum(axis=1)
    found = np.bincount(scores, chance * ability) / np.bincount(scores, chance)
    np.testing.assert_allclose(found, [-1.870, -1.432, -0.949, -0.413, 0.152, 0.727], atol=ABILITY)


def pattern_chances(log_p: Floats, patterns: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> Floats:
    nodes = np.linspace(-6, 6, 61)
    weights = np.exp(-0.5 * nodes * nodes)
    given = log_p[np.arange(5)[None, :], patterns].sum(axis=1)
    return np.asarray(np.exp(given) @ (weights / weights.sum()))


def science() -> ItemResponses:
    """Attitudes to science, 392 people, four items, four categories: not ours to hand on."""
    folder = os.environ.get("REFERENCE_DATA")
    if not folder:
        pytest.skip("set REFERENCE_DATA to the folder that holds science4")
    with gzip.open(Path(folder) / "science4" / "responses.csv.gz", "rt") as file:
        marks = [int(float(row["correct"])) - 1 for row in csv.DictReader(file)]
    return long_form(np.array(marks).reshape(-1, 4))
