"""`proxima fit`: from a file of answers to parameters, and from there into a course."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive import bkt
from app.adaptive.irt import FLAT, ItemResponses, Model, Priors, calibrate_items
from app.adaptive.response_log import Log
from app.analysis import fit as fitting
from app.analysis.evaluate import ResponseSample, read_sample
from app.cli import main, progress
from app.core.errors import InvalidFile
from app.files.duplicate_rows import ResponseColumns, find_duplicate_rows
from app.schemas.catalogue import CatalogueIn
from app.services.catalogue import Catalogue, apply_change
from app.services.course_model import build_items
from tests.adaptive.irt_worlds import lsat, mirt, random_bank, sample

HEADER = "learner_id,item_id,skill_ids,correct"
MODELS: tuple[Model, ...] = get_args(Model)
CATEGORY_MODELS: tuple[Model, ...] = ("graded", "gpcm", "pcm")
LOG_LIKELIHOOD, PARAMETER = 0.01, 0.005
TRUTH = {"prior": 0.3, "learn": 0.2, "guess": 0.15, "slip": 0.08}


def silent(_stage: str, _done: float, _whole: float) -> None:
    """Nobody watches."""


def write(folder: Path, rows: Sequence[str], name: str = "answers.csv") -> Path:
    path = folder / name
    path.write_text("\n".join([HEADER, *rows, ""]))
    return path


def answers_file(
    folder: Path, answers: ItemResponses, grade: int = 1, skills: Callable[[int], str] = lambda _: "s"
) -> Path:
    given = zip(answers.rows.tolist(), answers.items.tolist(), answers.categories.tolist(), strict=True)
    return write(folder, [f"l{who},i{item},{skills(item)},{got / grade}" for who, item, got in given])


def fit(path: Path, model: str, *options: str) -> Result:
    result = CliRunner().invoke(main, ["fit", str(path), "--model", model, *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def fit_report(path: Path, model: str, *options: str) -> Any:
    """The report as JSON, which holds finite numbers only."""
    result = fit(path, model, "--json", *options)
    assert result.exit_code == 0, result.output
    assert "NaN" not in result.stdout
    assert "Infinity" not in result.stdout
    return json.loads(result.stdout)


def column(report: Any, name: str) -> list[Any]:
    return [item[name] for item in report["items"]]


@pytest.fixture(scope="module")
def lsat7(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 1,000 people of LSAT section 7."""
    return answers_file(tmp_path_factory.mktemp("lsat"), lsat("lsat7"))


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 people, four items of four categories, as parts of 1."""
    answers = sample(random_bank("graded", 4, np.random.default_rng(3)), 400, np.random.default_rng(4))
    return answers_file(tmp_path_factory.mktemp("graded"), answers, 3)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,500 people with eight answers for each of two skills, of which one is known by chance only."""
    rng = np.random.default_rng(8)
    rows = []
    for who in range(1500):
        known = rng.random() < TRUTH["prior"]
        for turn in range(8):
            right = rng.random() < (1 - TRUTH["slip"] if known else TRUTH["guess"])
            known |= rng.random() < TRUTH["learn"]
            rows += [f"l{who},i{turn % 3},read,{int(right)}", f"l{who},c{turn % 2},coin,{int(rng.random() < 0.5)}"]
    return write(tmp_path_factory.mktemp("traced"), rows)


# Item response models


@pytest.mark.parametrize(("model", "name"), [("rasch", "LSAT7_Rasch"), ("2pl", "LSAT7_2PL"), ("3pl", "LSAT7_3PL")])
def test_fit_of_lsat7_has_the_numbers_of_mirt(lsat7: Path, model: Model, name: str) -> None:
    expected, found = mirt()[name], fit_report(lsat7, model, "--no-priors")
    assert found["converged"]
    assert all(column(found, "calibrated"))
    assert column(found, "answers") == [1000] * 5
    assert found["log_likelihood"] == pytest.approx(expected["log_likelihood"], abs=LOG_LIKELIHOOD)
    assert found["ability_variance"] == pytest.approx(expected["ability_variance"], abs=PARAMETER)
    np.testing.assert_allclose(column(found, "b"), np.ravel(expected["b"]), atol=PARAMETER)
    if model != "rasch":
        np.testing.assert_allclose(column(found, "a"), expected["a"], atol=PARAMETER)
    if model == "3pl":
        np.testing.assert_allclose(column(found, "c"), expected["c"], atol=PARAMETER)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("options", [(), ("--no-priors",)])
def test_fit_reports_what_calibration_finds(graded: Path, lsat7: Path, model: Model, options: tuple[str, ...]) -> None:
    """With parts of 1 read as categories; nothing is lost but digits."""
    if model in CATEGORY_MODELS:
        path, grade = graded, 3
        given = sample(random_bank("graded", 4, np.random.default_rng(3)), 400, np.random.default_rng(4))
    else:
        path, grade, given = lsat7, 1, lsat("lsat7")
    found = fit_report(path, model, *options)
    count = int(given.items.max()) + 1
    expected = calibrate_items(given, np.full(count, grade), model, FLAT if options else Priors())
    assert found["log_likelihood"] == pytest.approx(expected.log_likelihood, abs=1e-4)
    assert column(found, "calibrated") == expected.calibrated.tolist()
    name = fitting.STEPS.get(model, "b")
    own = [item if isinstance(item, list) else [item] for item in column(found, name)]
    np.testing.assert_allclose(own, expected.item_bank.difficulty, atol=1e-4)
    errors = np.array([np.ravel(item["standard_errors"][name]) for item in found["items"]], dtype=np.float64)
    np.testing.assert_allclose(np.nan_to_num(errors), expected.standard_errors.difficulty, atol=1e-3)
    assert 0 < found["reliability"] < 1


def test_fit_prints_the_same_in_a_table_as_in_json(lsat7: Path, graded: Path) -> None:
    lines = fit(lsat7, "2pl").stdout.splitlines()
    assert lines[0] == "2pl: first answers of 1,000 learners to 5 items; 0 repeated answers left out"
    report = fit_report(lsat7, "2pl")
    assert f"log-likelihood {report['log_likelihood']:.3f} after {report['iterations']} iterations" in lines[1]
    assert f"converged, reliability {report['reliability']:.3f}" in lines[1]
    assert lines[3].split("  ")[0] == "item"
    for line, item in zip(lines[4:], report["items"], strict=True):
        errors = item["standard_errors"]
        cells = [f"{item[name]:.3f} ({errors[name]:.3f})" for name in ("a", "b")]
        assert [cell.strip() for cell in line.split("  ") if cell] == [item["item"], "1,000", *cells, "yes"]
    assert "b1 (SE)" in fit(graded, "pcm").stdout
    assert "ability variance" in fit(graded, "pcm").stdout


@given(st.integers(1, 9), st.integers(2, 6))
def test_fit_finds_categories_from_rounded_scores(grade: int, digits: int) -> None:
    scores = np.array([round(part / grade, digits) for part in range(grade + 1)])
    assert max_category_of(scores, "graded", None) == grade
    assert max_category_of(scores, "gpcm", grade + 1) == grade
    assert max_category_of(scores[[0, 1, -1]], "pcm", None) == grade


def max_category_of(scores: np.ndarray[Any, np.dtype[np.float64]], model: Model, categories: int | None) -> int:
    log = Log(np.array([0, len(scores)]), np.zeros(len(scores), dtype=np.int64), scores, np.zeros(len(scores)))
    one = np.full((1, 1), -1)
    file = ResponseSample(
        "f.csv", one, log, ("l",), (None,), ("i",), (), None, find_duplicate_rows(ResponseColumns()), ()
    )
    return int(fitting.max_categories(file, model, categories)[0])


def test_max_category_counts_categories_that_nobody_reached() -> None:
    assert max_category_of(np.array([0, 1 / 3, 1.0]), "graded", None) == 3
    assert max_category_of(np.array([0, 0.5, 1.0]), "graded", 5) == 4
    assert max_category_of(np.array([1.0]), "graded", None) == 1


@pytest.mark.parametrize(
    ("scores", "model", "categories", "said"),
    [
        ([0, 1, 0.5], "2pl", None, "item i has the score 0.5; 2pl takes 0 and 1 only"),
        ([0, 0.995], "rasch", None, "0.995"),
        ([0, 0.5, 1 / 3, 0.47], "graded", None, "--categories"),
        ([0, 1, 0.5], "gpcm", 4, "0.5; which is no multiple of 1/3"),
    ],
)
def test_fit_refuses_scores_that_a_model_does_not_allow(
    scores: list[float], model: Model, categories: int | None, said: str
) -> None:
    with pytest.raises(InvalidFile, match=r"f\.csv: item i has the score") as error:
        max_category_of(np.array(scores, dtype=np.float64), model, categories)
    assert said in error.value.detail


def test_fit_allows_items_with_different_numbers_of_categories(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    rows = [f"l{who},{item},,{rng.integers(0, grade + 1) / grade:.2f}" for who in range(60) for item, grade in MIXED]
    report = fit_report(write(tmp_path, rows), "gpcm")
    assert column(report, "categories") == [2, 3, 6]
    assert [len(item["steps"]) for item in report["items"]] == [1, 2, 5]
    assert len(fit(tmp_path / "answers.csv", "gpcm").stdout.splitlines()) == 7


MIXED = [("two", 1), ("three", 2), ("six", 5)]


def test_fit_ignores_repeated_answers(tmp_path: Path, lsat7: Path) -> None:
    rows = lsat7.read_text().splitlines()[1:]
    again = fit_report(write(tmp_path, [*rows, *(row[:-3] + "0.0" for row in rows[:50])]), "2pl")
    once = fit_report(lsat7, "2pl")
    assert (once.pop("repeated"), again.pop("repeated")) == (0, 50)
    assert again == once


# Knowledge tracing


def test_fit_of_bkt_recovers_simulated_rates(traced: Path) -> None:
    report = fit_report(traced, "bkt")
    read, coin = report["skills"]
    assert (report["learners"], report["answers"]) == (1500, 24_000)
    assert (read["skill"], read["learners"], read["answers"]) == ("read", 1500, 12_000)
    assert {name: read[name] for name in TRUTH} == pytest.approx(TRUTH, abs=0.03)
    assert (read["identified"], read["converged"], read["forget"]) == (True, True, 0)
    assert (coin["skill"], coin["identified"]) == ("coin", False)
    found = read_sample(traced, "split", silent)
    expected = bkt.fit_bkt(found.skills, found.log, bkt.Setup(), np.random.default_rng(0))
    assert [skill["slip"] for skill in report["skills"]] == pytest.approx(expected.rates.slip.tolist(), abs=1e-6)
    line = fit(traced, "bkt").stdout.splitlines()[4]
    shown = [f"{read[name]:.3f}" for name in ("prior", "learn", "forget", "guess", "slip")]
    assert line.split() == ["read", "1,500", "12,000", *shown, "yes"]


def test_fit_of_bkt_takes_its_options(traced: Path) -> None:
    report = fit_report(traced, "bkt", "--forgets", "--per-item")
    assert report["skills"][0]["forget"] > 0
    assert "guess" not in report["skills"][0]
    assert [(item["item"], item["skill"]) for item in report["items"]] == [
        ("i0", "read"),
        ("c0", "coin"),
        ("i1", "read"),
        ("c1", "coin"),
        ("i2", "read"),
    ]
    assert [item["guess"] for item in report["items"][::2]] == pytest.approx([TRUTH["guess"]] * 3, abs=0.05)
    assert fit(traced, "bkt", "--per-item").stdout.splitlines()[7].split() == ["item", "skill", "guess", "slip"]


def test_fit_of_bkt_needs_skills(tmp_path: Path) -> None:
    result = fit(write(tmp_path, ["l,i,,1"]), "bkt")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "proxima: answers.csv names no skill; knowledge tracing is about skills.\n"


# Whatever the file

ODD = {
    "one answer": ["l0,i0,s,1"],
    "all right": [f"l{who},i{item},s,1" for who in range(40) for item in range(3)],
    "all wrong": [f"l{who},i{item},s,0" for who in range(40) for item in range(3)],
    "one learner": [f"l0,i{item},s,{item % 2}" for item in range(40)],
    "one item": [f"l{who},i0,s,{who % 2}" for who in range(40)],
    "one each": [f"l{who},i{who},s;t,{who % 2}" for who in range(40)],
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("model", [*MODELS, "bkt"])
def test_fit_of_any_file_is_finite(tmp_path: Path, kind: str, model: str) -> None:
    path = write(tmp_path, ODD[kind])
    report = fit_report(path, model)
    assert fit(path, model).exit_code == 0
    if model == "bkt":
        assert not any(skill["identified"] for skill in report["skills"])
    elif kind != "one item":
        assert not any(column(report, "calibrated"))


@pytest.mark.parametrize("model", ["rasch", "bkt"])
def test_fit_refuses_a_file_without_answers(tmp_path: Path, model: str) -> None:
    for rows in ([], ["l,i,s,maybe"]):
        result = fit(write(tmp_path, rows), model)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "answers.csv has no answer that can be used" in result.stderr


@pytest.mark.parametrize("options", [("3pl",), ("graded",), ("bkt", "--per-item", "--forgets")])
def test_fit_of_the_same_file_gives_the_same_bytes(lsat7: Path, options: tuple[str, ...]) -> None:
    assert fit(lsat7, *options, "--json").stdout == fit(lsat7, *options, "--json").stdout


def test_fit_reports_rows_left_out_and_progress_on_standard_error(
    lsat7: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "QUIET_S", 0.0)
    result = fit(write(tmp_path, [*lsat7.read_text().splitlines()[1:], "l,i,,-2"]), "rasch")
    assert "1 row left out; line 5002: correct is below 0" in result.stderr
    assert "calibrating: 0%" in result.stderr
    assert result.stdout == fit(lsat7, "rasch").stdout


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("bkt", ["--no-priors"]),
        ("2pl", ["--forgets"]),
        ("2pl", ["--per-item"]),
        ("2pl", ["--categories", "3"]),
        ("graded", ["--categories", "1"]),
        ("gpcm", ["--catalogue", "out.json"]),
        ("pcm", ["--catalogue", "out.json"]),
        ("bkt", ["--catalogue", "out.json"]),
        ("2pl", ["--catalogue", "out.csv"]),
        ("5pl", []),
    ],
)
def test_fit_refuses_options_that_a_model_does_not_use(lsat7: Path, model: str, options: list[str]) -> None:
    result = fit(lsat7, model, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr


# Into a course


@pytest.mark.parametrize("model", list(fitting.CATALOGUE_MODELS))
def test_fit_writes_a_catalogue_that_can_be_imported(lsat7: Path, graded: Path, tmp_path: Path, model: Model) -> None:
    """As the schema takes them, and with the very numbers that were told."""
    target = tmp_path / "fitted.json"
    result = fit(graded if model == "graded" else lsat7, model, "--json", "--catalogue", str(target))
    report, body = json.loads(result.stdout), json.loads(target.read_text())
    told_items = report["items"]
    assert f"{len(told_items)} of {len(told_items)} items written to {target}" in result.stderr
    checked = CatalogueIn.model_validate(body)
    assert checked.skills is not None
    assert [skill.id for skill in checked.skills] == ["s"]
    for item, shown in zip(body["items"], told_items, strict=True):
        assert (item["id"], item["skills"]) == (shown["item"], ["s"])
        given = item["parameters"]
        assert given.pop("model") == fitting.CATALOGUE_MODELS[model]
        assert given == {name: shown[name] for name in shown["standard_errors"]}
    url = f"sqlite:///{tmp_path / 'proxima.db'}"
    loaded = [
        CliRunner().invoke(main, arguments, env={"PROXIMA_DATABASE_URL": url})
        for arguments in (["migrate"], ["key", "create", "--tenant", "t", "--scope", "admin"], imported(target))
    ]
    assert [step.exit_code for step in loaded] == [0, 0, 0], loaded[-1].output
    assert loaded[-1].stdout == f"course fitted: 1 skills, {len(told_items)} items (revision 1)\n"


def imported(path: Path) -> list[str]:
    return ["import", "catalogue", str(path)]


@pytest.mark.parametrize("model", list(fitting.CATALOGUE_MODELS))
def test_engine_reads_the_curves_that_were_fitted(lsat7: Path, graded: Path, tmp_path: Path, model: Model) -> None:
    target = tmp_path / "fitted.json"
    report = fit_report(graded if model == "graded" else lsat7, model, "--catalogue", str(target))
    catalogue = Catalogue()
    apply_change(catalogue, json.loads(target.read_text()))
    items, known = build_items(catalogue, None)
    assert known.all()
    a = np.array([item.get("a", 1.0) for item in report["items"]])
    np.testing.assert_allclose(items.discrimination, a)
    if model == "graded":
        np.testing.assert_allclose(items.thresholds, a[:, None] * column(report, "thresholds"))
    else:
        np.testing.assert_allclose(items.intercept, -a * column(report, "b"))
        np.testing.assert_allclose(items.guessing, [item.get("c", 0.0) for item in report["items"]])
        np.testing.assert_allclose(items.upper, [item.get("d", 1.0) for item in report["items"]])


def test_fit_writes_calibrated_items_only(lsat7: Path, tmp_path: Path) -> None:
    rows = lsat7.read_text().splitlines()[1:]
    path = write(tmp_path, [*rows, *(f"l{who},rare,other,{who % 2}" for who in range(20))])
    target = tmp_path / "fitted.json"
    report = fit_report(path, "2pl", "--catalogue", str(target))
    assert [item["item"] for item in report["items"] if not item["calibrated"]] == ["rare"]
    body = json.loads(target.read_text())
    assert [item["id"] for item in body["items"]] == [f"i{item}" for item in range(5)]
    assert body["skills"] == [{"id": "s"}]


def test_fit_writes_no_item_that_is_keyed_the_wrong_way_round(tmp_path: Path) -> None:
    """A prior hides it: a stops above 0, with a small standard error."""
    rng = np.random.default_rng(31)
    ability, difficulty = rng.normal(size=600), rng.normal(size=10)
    right = rng.random((600, 10)) < 1 / (1 + np.exp(-1.3 * (ability[:, None] - difficulty)))
    right[:, 4] = ~right[:, 4]
    path = write(tmp_path, [f"l{who},i{item},s,{int(right[who, item])}" for who in range(600) for item in range(10)])
    target = tmp_path / "fitted.json"
    report = fit_report(path, "2pl", "--catalogue", str(target))
    assert [item["item"] for item in report["items"] if not item["calibrated"]] == ["i4"]
    written = [item["id"] for item in json.loads(target.read_text())["items"]]
    assert written == [f"i{item}" for item in range(10) if item != 4]
    assert fit(path, "2pl", "--catalogue", str(target)).stdout.count(" yes") == 9


def too_many_skills(lsat7: Path) -> list[str]:
    many = ";".join(f"s{skill}" for skill in range(17))
    return [row.replace(",s,", f",{many},") for row in lsat7.read_text().splitlines()[1:]]


def test_fit_writes_no_catalogue_that_cannot_be_imported(
    lsat7: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "fitted.json"
    few, many = write(tmp_path, ODD["one each"], "few.csv"), write(tmp_path, too_many_skills(lsat7), "many.csv")
    refusals = [
        (few, target, "few.csv: not one item is calibrated"),
        (many, target, "/items/0/skills"),
        (lsat7, tmp_path / "none" / "fitted.json", "fitted.json cannot be written: No such file or directory."),
    ]
    for path, out, said in refusals:
        result = fit(path, "rasch", "--catalogue", str(out))
        assert result.exit_code == 1
        assert result.stdout.startswith("rasch: ")
        assert said in result.stderr
    monkeypatch.setattr(fitting, "calibrate_items", partial(calibrate_items, most=1))
    result = fit(lsat7, "2pl", "--catalogue", str(target))
    assert "NOT converged" in result.stdout
    assert (result.exit_code, "has not converged" in result.stderr) == (1, True)
    assert not target.exists()


def test_fit_names_an_item_with_a_wrong_key(tmp_path: Path) -> None:
    """With the number it rests on, in the table and as JSON; without it there is nothing to say."""
    responses = sample(random_bank("rasch", 12, np.random.default_rng(3)), 300, np.random.default_rng(4))
    rows = list(zip(responses.rows.tolist(), responses.items.tolist(), responses.categories.tolist(), strict=True))
    good = write(tmp_path, [f"l{who},i{item},s,{right}" for who, item, right in rows], "good.csv")
    wrong = write(tmp_path, [f"l{who},i{item},s,{1 - right if item == 3 else right}" for who, item, right in rows])
    assert "WARNING" not in fit(good, "2pl").stdout
    assert [item["item_rest"]["problem"] for item in fit_report(good, "2pl")["items"]] == [None] * 12
    lines = fit(wrong, "2pl").stdout.splitlines()
    assert lines[-2].startswith("WARNING suspect_items: 1 of 12 items ")
    assert lines[-1].startswith("item i3: its key is probably wrong: item-rest correlation -0.")
    report = fit_report(wrong, "2pl")
    suspect = [item for item in report["items"] if item["item_rest"]["problem"] is not None]
    assert [(item["item"], item["item_rest"]["problem"]) for item in suspect] == [("i3", "negative_discrimination")]
    assert suspect[0]["item_rest"]["responses"] == 300
    assert report["person_fit"]["judged"] == 0
