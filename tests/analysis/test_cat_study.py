"""`proxima simulate test`: figures that are right, constraints that are counted and kept, tables, JSON and plots."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from app.adaptive.cat import Bound
from app.adaptive.cat.simulate import Records
from app.analysis import cat_study
from app.analysis.cat_study import (
    CALIBRATION_SEED_SHIFT,
    Z_90,
    CatStudyOptions,
    overlap_of,
    plan_for_rule,
    run_cat_study,
    summarise_tests,
)
from app.cli import main
from app.core.errors import InvalidSetting
from app.files.item_parameters import Constraints, ItemFile
from tests.adaptive.cat import laws


def silent(_stage: str, _done: float, _whole: float) -> None:
    """For whoever does not want to know."""


def make_item_file(items: int = 60) -> ItemFile:
    topics = tuple("abc"[item % 3] for item in range(items))
    pool = replace(laws.plain_pool(items), groups=(np.arange(0, items, 3), np.arange(1, items, 3)))
    return ItemFile("plain.csv", pool, tuple(map(str, range(items))), {"topic": topics})


CONSTRAINTS = Constraints((Bound(0, 6, 8), Bound(1, 0, 1)), 10, 10, ())
WANTED = CatStudyOptions(("max_information", "random"), 40, 2026)


def test_cat_study_figures_equal_those_by_hand() -> None:
    """Two learners, three items; one bound broken by the second of them."""
    pool = replace(laws.plain_pool(3), groups=(np.array([0]),))
    records = Records(
        truth=np.array([[0.0], [1.0]]),
        ability=np.array([[0.3], [0.9]]),
        standard_error=np.array([[0.1], [0.3]]),
        level=np.array([[1], [1]]),
        length=np.array([2, 1]),
        items=((0, 1), (1,)),
        stops=("max_items", "max_items"),
        relaxed=np.array([0, 2]),
    )
    kept = Constraints((Bound(0, 1, 1),), 0, 2, ())
    plan = plan_for_rule(pool, "max_information", kept, replace(WANTED, cuts=(0.5,)))
    found = summarise_tests(pool, plan, kept, records)
    assert (found.items.mean, found.items.error) == (1.5, 0.5)
    assert found.bias.mean == pytest.approx(0.1)
    assert found.bias.error == pytest.approx(0.2)
    assert found.rmse.mean == pytest.approx(0.05**0.5)
    assert found.standard_error.mean == pytest.approx(0.2)
    assert found.covered.mean == 0.5
    assert (found.exposure.mean, found.unused) == (1.0, 1 / 3)
    assert found.overlap.mean == pytest.approx(1 / 1.5)
    assert found.broken is not None
    assert found.broken.mean == 0.5
    assert found.wrong is not None
    assert found.wrong.mean == 0.5
    assert found.relaxed.mean == 1


def test_overlap_is_the_mean_over_pairs() -> None:
    table = np.random.default_rng(1).random((12, 20)) < 0.3
    pairs = [(table[i] & table[j]).sum() for i in range(12) for j in range(i)]
    assert overlap_of(table).mean == pytest.approx(np.mean(pairs) / table.sum(axis=1).mean())


def test_standard_error_of_an_overlap_is_that_of_many_samples() -> None:
    """That of many samples."""
    rng = np.random.default_rng(2)
    rates = rng.beta(0.5, 2, 40)
    found = [overlap_of(rng.random((80, 40)) < rates) for _ in range(200)]
    spread = np.std([each.mean for each in found])
    assert np.mean([each.error for each in found]) == pytest.approx(spread, rel=0.15)


@pytest.mark.statistics
def test_intervals_cover_the_truth_ninety_times_of_a_hundred() -> None:
    """The truth comes from the prior and the items are those of the model, so an interval of the posterior holds."""
    assert abs(Z_90 - 1.645) < 1e-3
    report = run_cat_study([make_item_file(150)], [None], replace(WANTED, learners=300, max_items=15), silent)
    for result in report.results["plain.csv"].values():
        assert abs(result.covered.mean - 0.9) < 3 * (0.09 / 300) ** 0.5
        assert abs(result.bias.mean) < 4 * result.bias.error
        assert result.standard_error.mean == pytest.approx(result.rmse.mean, rel=0.15)


def test_maximum_information_needs_fewer_items_and_repeats_them_more() -> None:
    row = run_cat_study([make_item_file()], [None], replace(WANTED, standard_error=0.5), silent).results["plain.csv"]
    best, random = row["max_information"], row["random"]
    assert best.items.mean < random.items.mean - 3 * random.items.error
    assert best.exposure.mean == 1
    assert best.overlap.mean > random.overlap.mean


def test_constraint_violations_are_counted_and_absent_with_shadow_tests() -> None:
    options = replace(WANTED, rules=("max_information",), learners=12)
    free = run_cat_study([make_item_file()], [CONSTRAINTS], options, silent).results["plain.csv"]["max_information"]
    held = run_cat_study([make_item_file()], [CONSTRAINTS], replace(options, shadow=True), silent).results["plain.csv"][
        "max_information"
    ]
    assert free.broken is not None
    assert held.broken is not None
    assert free.broken.mean > 1
    assert held.broken.mean == held.relaxed.mean == 0
    assert free.items.mean == held.items.mean == 10


def test_content_is_given_by_its_shares() -> None:
    options = replace(WANTED, rules=("max_information",), learners=5, max_items=9, content="Topic")
    records = run_cat_study([make_item_file()], [None], options, silent).records["plain.csv"]["max_information"]
    for items in records.items:
        assert np.bincount(np.array(items) % 3).tolist() == [3, 3, 3]
    with pytest.raises(InvalidSetting, match="no column colour"):
        run_cat_study([make_item_file()], [None], replace(options, content="colour"), silent)


@pytest.mark.statistics
def test_exposure_control_adds_one_row() -> None:
    options = replace(WANTED, learners=100, max_items=5, target=0.5)
    row = run_cat_study([make_item_file()], [None], options, silent).results["plain.csv"]
    assert list(row) == ["max_information", "max_information, exposure 0.5", "random"]
    held = row["max_information, exposure 0.5"].exposure
    assert row["max_information"].exposure.mean == 1
    assert held.mean < 0.5 + 3 * held.error
    with pytest.raises(InvalidSetting, match=r"plain\.csv, max_information, exposure 0\.01: tests of this length"):
        run_cat_study([make_item_file()], [None], replace(options, target=0.01), silent)


def test_exposure_is_calibrated_on_other_examinees_than_reported() -> None:
    assert CALIBRATION_SEED_SHIFT > 100_000


def write(folder: Path) -> Path:
    rng = np.random.default_rng(3)
    lines = [f"i{item},2PL,{rng.uniform(0.8, 2):.3f},{rng.normal():.3f},{item % 2}" for item in range(40)]
    path = folder / "forty.csv"
    path.write_text("\n".join(["item_id,model,a,b,topic", *lines, ""]))
    return path


def call(path: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["simulate", "test", str(path), "--learners", "8", *options])


def test_cat_study_prints_json_by_item_bank_and_rule(tmp_path: Path) -> None:
    path = write(tmp_path)
    asked = ("--json", "--max-items", "6", "--randomesque", "2")
    result = call(path, *asked)
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told == json.loads(call(path, *asked).stdout)
    assert (told["seed"], told["learners"]) == (2026, 8)
    assert told["banks"]["forty.csv"]["items"] == 40
    rules = told["banks"]["forty.csv"]["rules"]
    assert list(rules) == ["max_information", "random"]
    assert rules["random"]["items"] == {"mean": 6, "error": 0}
    assert rules["random"]["broken"] is None
    assert told != json.loads(call(path, *asked, "--seed", "1").stdout)


def test_cat_study_prints_a_table_and_draws_a_plot_for_each_item_bank(tmp_path: Path) -> None:
    result = call(
        write(tmp_path), "--rule", "random", "--cut", "0", "--method", "sprt", "--plots", str(tmp_path / "new")
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "8 learners from N(0, 1), seed 2026"
    assert lines[2].startswith("forty.csv, 40 items")
    assert lines[3].split()[0] == "random"
    assert "<svg" in (tmp_path / "new" / "forty.svg").read_text()


def test_cat_study_reads_constraints_from_a_file(tmp_path: Path) -> None:
    constraints = tmp_path / "constraints.csv"
    constraints.write_text(
        "TYPE,WHAT,CONDITION,LB,UB\nNumber,Item,,6,6\nNumber,Item,TOPIC == 0,6,6\nSum,Item,TOPIC,1,2\n"
    )
    path = write(tmp_path)
    asked = ("--json", "--rule", "max_information", "--constraints", str(constraints))
    counted, kept = call(path, *asked), call(path, *asked, "--shadow")
    assert counted.exit_code == kept.exit_code == 0, kept.output
    assert "left out of the constraints: 4 (Sum Item)" in counted.stderr
    broken = [
        json.loads(each.stdout)["banks"]["forty.csv"]["rules"]["max_information"]["broken"]["mean"]
        for each in (counted, kept)
    ]
    assert broken[0] > 0.5
    assert broken[1] == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--shadow",), "name their file"),
        (("--rule", "best"), "'best' is not one of"),
        (("--exposure", "0"), "0<x<=1"),
        (("--learners", "1"), "2<=x<=100000"),
    ],
)
def test_cat_study_refuses_wrong_options(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    result = call(write(tmp_path), *options)
    assert result.exit_code == 2
    assert said in result.stderr


def test_cat_study_refuses_a_file_that_is_no_item_bank(tmp_path: Path) -> None:
    path = tmp_path / "text.csv"
    path.write_text("item_id,text\n1,hello\n")
    result = call(path)
    assert result.exit_code == 1
    assert "text.csv: there are no item parameters" in result.stderr


def test_cat_study_refuses_plots_without_matplotlib_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(cat_study, "run_cat_study", None)
    result = call(write(tmp_path), "--plots", str(tmp_path))
    assert result.exit_code == 3
    assert "proxima[plots]" in result.stderr
