"""Information, EAP, standard error and the item chosen, against catsim and what was published of catR."""

import os
from pathlib import Path

import numpy as np
import pytest

from app.adaptive.arrays import Floats
from app.adaptive.cat import ExamineeState, Plan, Pool, Rule, make_pool, next_item, start_test, update_state
from app.adaptive.cat.pool import information_at
from app.adaptive.cat.state import add_unscored
from app.files.item_parameters import ItemFile, read_item_file

# catsim 0.20.0 on this bank: `irt.inf_hpc(θ, bank)`, and `MaxInfoSelector().select(item_bank=ItemBank(bank),
# administered_items=those chosen so far, est_theta=θ)` until none was left; `irt.see(θ, bank)`. It has no EAP.
CATSIM_BANK = np.array(
    [
        [0.6, 1.2, 0.0, 1.0],
        [0.85, -2.0, 0.04, 0.98],
        [1.1, 0.4, 0.08, 0.96],
        [1.35, -0.8, 0.12, 1.0],
        [1.6, 2.1, 0.16, 0.98],
        [1.85, 0.0, 0.2, 0.96],
        [2.1, -1.4, 0.24, 1.0],
        [2.35, 0.9, 0.28, 0.98],
    ]
)
CATSIM = {
    -2.0: (
        [0.040144675, 0.1596641156, 0.0303336282, 0.1376915062, 2.53823e-05, 0.0064212328, 0.3125285271, 1.60612e-05],
        [6, 1, 3, 0, 2, 5, 4, 7],
        1.2066377604136673,
    ),
    -0.5: (
        [
            0.0701236359,
            0.1065817035,
            0.1684467769,
            0.3564208535,
            0.0027597806,
            0.3364175221,
            0.3687764678,
            0.0153015902,
        ],
        [6, 3, 5, 2, 1, 0, 7, 4],
        0.8377582804095156,
    ),
    0.0: (
        [0.0792744544, 0.0789643818, 0.2177412037, 0.2916203065, 0.011891029, 0.5071931445, 0.1578355612, 0.1090008808],
        [5, 3, 2, 6, 7, 0, 1, 4],
        0.829448355356397,
    ),
    1.3: (
        [
            0.0899190486,
            0.0270895225,
            0.1819696597,
            0.0834285937,
            0.2227816194,
            0.1234657152,
            0.0114671005,
            0.6506218178,
        ],
        [7, 4, 2, 5, 0, 3, 1, 6],
        0.8479623047581103,
    ),
}


def pool_of(parameters: Floats) -> Pool:
    """Rows of a, b, c, d."""
    a, b, c, d = parameters.T
    return make_pool(["4pl"] * len(a), a, b, guessing=c, upper=d)


@pytest.mark.parametrize("ability", CATSIM)
def test_information_and_choices_are_those_of_catsim(ability: float) -> None:
    pool, (told, order, error) = pool_of(CATSIM_BANK), CATSIM[ability]
    found = information_at(pool, np.arange(8), ability)
    np.testing.assert_allclose(found, told, atol=1e-10)
    assert found.sum() ** -0.5 == pytest.approx(error, rel=1e-9)
    state = start_test(pool, Plan())._replace(ability=(ability,))
    for item in order:
        assert next_item(pool, Plan(), state, 1).item == item
        state = add_unscored(state, item)


def test_eap_and_standard_error_are_those_of_catr() -> None:
    """catR's `eapEst` and `semTheta` of three items, as the tests of the R package caMST expect them.

    `eapEst` has 33 nodes from -4 to 4. `semTheta` is that of the Bayes mode, (I(θ) + 1)^-1/2 at θ = .1307695.
    """
    pool = pool_of(np.array([[1.0, -1.0, 0.0, 1.0], [1.2, 0.0, 0.0, 1.0], [0.8, 1.0, 0.0, 1.0]]))
    state = start_test(pool, Plan())
    for item, category in enumerate((1, 0, 1)):
        state = update_state(pool, Plan(), state, item, category)
    assert state.ability[0] == pytest.approx(0.1446946, abs=1e-5)
    at_mode = information_at(pool, np.arange(3), 0.1307695).sum()
    assert (at_mode + 1) ** -0.5 == pytest.approx(0.7705124, abs=1e-6)


def tcals() -> ItemFile:
    """The bank of catR's examples; as data of others it is not in the repository."""
    folder = os.environ.get("REFERENCE_DATA")
    if folder is None:
        pytest.skip("set REFERENCE_DATA to the folder that holds itembanks/catr_tcals85.csv")
    return read_item_file(Path(folder) / "itembanks" / "catr_tcals85.csv")


def best(pool: Pool, plan: Plan, state: ExamineeState) -> int:
    """The next item, counted from 1 as catR does."""
    return next_item(pool, plan, state, 1).item + 1


def test_maximum_information_choices_are_those_of_catr() -> None:
    """The examples of `nextItem` in catR's manual (Magis & Raîche 2012): θ = 0, then without 63, then without 10."""
    pool = tcals().pool
    state = start_test(pool, Plan())
    for item in (63, 10, 62):
        assert best(pool, Plan(), state) == item
        state = add_unscored(state, item - 1)


@pytest.mark.parametrize(("rule", "item"), [("min_expected_posterior_variance", 19), ("kullback_leibler", 44)])
def test_bayesian_choices_are_those_of_catr(rule: Rule, item: int) -> None:
    """The same, after a wrong answer to item 63: criteria MEPV and KLP.

    They weigh alike; P of the next answer is catR's at an estimate by weighted likelihood, here under the posterior.
    """
    pool, plan = tcals().pool, Plan(rule=rule)
    assert best(pool, plan, update_state(pool, plan, start_test(pool, plan), 62, 0)) == item


def test_content_balanced_choice_is_that_of_catr() -> None:
    """The same with shares of content, after items 12, 33, 46 and 63 at θ = 0."""
    bank = tcals()
    names = sorted(set(bank.attributes["group"]))
    assert names == ["Audio1", "Audio2", "Written1", "Written2", "Written3"]
    content = np.array([names.index(group) for group in bank.attributes["group"]])
    pool = make_pool(
        ["4pl"] * bank.pool.count,
        bank.pool.discrimination,
        bank.pool.difficulty[:, 0],
        guessing=bank.pool.guessing,
        upper=bank.pool.upper,
        content=content,
    )
    plan = Plan(content_shares=(0.1, 0.2, 0.2, 0.2, 0.3))
    state = start_test(pool, plan)
    for item in (12, 33, 46, 63):
        state = add_unscored(state, item - 1)
    assert best(pool, plan, state) == 70
