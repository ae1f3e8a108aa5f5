"""`proxima evaluate`: from a file of answers to figures, whatever the file looks like."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from app.adaptive.arrays import Floats, Integers
from app.adaptive.assess.metrics import METRICS
from app.adaptive.calibration import fit
from app.adaptive.parameters import Parameters
from app.adaptive.response_log import Log
from app.analysis import evaluate as evaluation
from app.analysis.evaluate import as_json, as_table, evaluate, hashed_groups, hashed_together, read_sample, split_groups
from app.cli import main
from app.core.errors import InvalidFile
from app.files.duplicate_rows import ResponseColumns, find_duplicate_rows

HEADER = "learner_id,item_id,skill_ids,correct"
MODELS = ["item", "irt", "bkt", "pfa", "best_lr", *evaluation.ENGINES]


def silent(_stage: str, _done: float, _whole: float) -> None:
    """Nobody watches."""


def write(folder: Path, rows: Sequence[str], header: str = HEADER) -> Path:
    path = folder / "answers.csv"
    path.write_text("\n".join([header, *rows, ""]))
    return path


def rows_of(
    learners: int = 12,
    answers: int = 8,
    skills: Callable[[int], str] = lambda item: f"s{item % 2}",
    score: Callable[[np.random.Generator], object] = lambda rng: int(rng.random() < 0.6),
    ends: Callable[[int], str] = lambda _: "",
) -> list[str]:
    rng = np.random.default_rng(5)
    return [
        f"l{who},i{item},{skills(item)},{score(rng)}{ends(who)}"
        for who in range(learners)
        for item in rng.integers(0, 6, answers)
    ]


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is not calibrated: what it is fitted to is tested elsewhere."""

    def uncalibrated_parameters(skills: Integers, *_: Any) -> Parameters:
        return evaluation.uncalibrated_parameters(skills)

    monkeypatch.setattr(evaluation, "_calibrate_engine", uncalibrated_parameters)
    monkeypatch.setattr(evaluation, "RESAMPLES", 40)


def evaluation_report(path: Path, split_column: str | None = None, folds: int | None = None) -> dict[str, Any]:
    """The report as strict JSON; every figure is finite and every interval in order."""
    report = evaluate(path, split_column, folds, silent)
    assert len(as_table(report).splitlines()) == 2 * len(MODELS) + 4
    content: dict[str, Any] = json.loads(json.dumps(as_json(report), allow_nan=False))
    assert list(content["models"]) == MODELS
    for name, model in content["models"].items():
        assert {*model} == {*METRICS, "interval"} | ({"versus_best_lr"} if name != "best_lr" else set())
        assert all(isinstance(model[metric], float) for metric in METRICS)
        assert {*model["interval"]} == {*METRICS}
        for bounds in model["interval"].values():
            assert bounds is None or bounds[0] <= bounds[1]
    return content


KINDS: dict[str, list[str]] = {
    "plain": rows_of(),
    "one skill": rows_of(skills=lambda _: "s"),
    "no skills": rows_of(skills=lambda _: ""),
    "several skills": rows_of(skills=lambda item: "a;b" if item else "c"),
    "an answer each": rows_of(answers=1),
    "fractions": rows_of(score=lambda rng: round(rng.random(), 2)),
    "all right": rows_of(score=lambda _: 1),
    "all wrong": rows_of(score=lambda _: 0),
    "two learners": rows_of(learners=2),
    "unseen items and skills": [f"l{who},i{who},s{who},{who % 2}" for who in range(10) for _ in range(3)],
}


@pytest.mark.statistics
@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_of_any_file_is_finite(tmp_path: Path, kind: str) -> None:
    content = evaluation_report(write(tmp_path, KINDS[kind]))
    assert content["responses"] == len(KINDS[kind])
    assert content["learners"] == len({row.split(",")[0] for row in KINDS[kind]})
    assert content["folds"] == min(5, content["learners"])
    assert content["rejected"] == 0
    for model in content["models"].values():
        assert (model["interval"]["auc"] is None) == (kind in {"all right", "all wrong"}) or kind == "two learners"


@pytest.mark.usefixtures("hasty")
def test_evaluation_figures_are_of_test_learners_only(tmp_path: Path) -> None:
    path = write(tmp_path, rows_of(ends=lambda who: ",test" if who < 3 else ",train_valid"), HEADER + ",split")
    content = evaluation_report(path)
    assert (content["responses"], content["learners"], content["folds"]) == (24, 3, 1)
    assert evaluation_report(path, None, 4)["folds"] == 4
    assert evaluation_report(path, "split", 4)["folds"] == 1


@pytest.mark.statistics
@pytest.mark.usefixtures("hasty")
def test_evaluation_takes_folds_from_another_column(tmp_path: Path) -> None:
    rows = rows_of(ends=lambda who: f",test,{who % 3 + 2}")
    path = write(tmp_path, rows, HEADER + ",split,fold")
    content = evaluation_report(path, "fold")
    assert (content["responses"], content["learners"], content["folds"]) == (len(rows), 12, 3)
    groups = split_groups(read_sample(path, "fold", silent), "fold")
    assert groups.tolist() == [who % 3 for who in range(12)]
    assert evaluation_report(path, "missing", 4)["folds"] == 4


@pytest.mark.usefixtures("hasty")
def test_training_learners_change_figures_only_by_what_is_fitted(tmp_path: Path) -> None:
    """If an unseen learner could be trained on, the answers to an item that only he meets would be no surprise."""
    rows = [f"l{who},new{who},,1" for who in range(20)] + [f"l{who},old,,{who % 2}" for who in range(20)]
    report = evaluate(write(tmp_path, rows), None, 5, silent)
    assert report.models["item"].figures["auc"] < 0.8


@pytest.mark.parametrize(
    ("rows", "header", "column", "reason"),
    [
        (["a,i,,1", "a,j,,0"], HEADER, None, "there must be learners to fit and others to predict"),
        (["a,i,,-2"], HEADER, None, "no answer that can be used; line 2: correct is below 0"),
        (["a,i,,0.5", "a,i,,2"], HEADER, None, "line 3: correct is 2, more than 1. If these are points"),
        (["a,i,,1", "b,i,,0"], HEADER, "fold", "says nothing in the column fold"),
        (["a,i,,1,test", "b,i,,0,test"], HEADER + ",split", None, "there must be learners to fit"),
        (["a,i,,1,train", "b,i,,0,train"], HEADER + ",split", None, "must name `test` learners or 2 to 50 folds"),
        (["a,i,,1,train", "a,i,,0,test"], HEADER + ",split", None, "the same in all rows of a learner; see a"),
        ([f"l{n},i,,1,{n}" for n in range(60)], HEADER + ",split", None, "not 0, 1, 10, 11, 12, …"),
    ],
)
def test_evaluation_refuses_a_file_with_the_reason(
    tmp_path: Path, rows: list[str], header: str, column: str | None, reason: str
) -> None:
    with pytest.raises(InvalidFile, match=reason):
        evaluate(write(tmp_path, rows, header), column, None, silent)


def test_evaluation_orders_answers_as_an_import(tmp_path: Path) -> None:
    """By time; where there is none, as of the year 2000, by order, else by line; then by id."""
    rows = [
        "a,1,,1,,2001-01-01T00:00:00Z,",
        "a,2,,1,,1999-01-01T00:00:00Z,",
        "b,3,,1,2,,",
        "a,4,,1,7,,",
        "b,5,,1,1,,",
        "a,6,,1,,,",
        "c,7,,1,1,,z",
        "c,8,,1,1,,y",
        "c,9,,0,1,,y",
    ]
    sample = read_sample(write(tmp_path, rows, HEADER + ",order,attempted_at,response_id"), "split", silent)
    assert (sample.log.items + 1).tolist() == [2, 4, 6, 1, 5, 3, 8, 7]
    assert sample.log.starts.tolist() == [0, 4, 6, 8]
    assert sample.learners == ("a", "b", "c")
    assert [(row.line, row.reason) for row in sample.rejections] == [(10, "the response_id is taken by another answer")]


def test_evaluation_orders_answers_without_ids_as_the_file(tmp_path: Path) -> None:
    sample = read_sample(write(tmp_path, [f"a,{n},,1,5" for n in range(30)], HEADER + ",order"), "split", silent)
    assert sample.log.items.tolist() == list(range(30))


def test_evaluation_takes_skills_from_the_first_row_of_an_item(tmp_path: Path) -> None:
    sample = read_sample(write(tmp_path, ["a,1,x;y,1", "b,1,z,0", "b,2,,0.5", "b,3,y,0"]), "split", silent)
    assert sample.skills.tolist() == [[0, 1], [-1, -1], [1, -1]]
    assert sample.log.scores.tolist() == [1.0, 0.0, 0.5, 0.0]


@pytest.mark.parametrize("name", ["answers.ndjson", "answers.parquet"])
def test_evaluation_finds_the_split_column_in_every_format(tmp_path: Path, name: str) -> None:
    """Also one that is read for itself as well."""
    rows = [
        {"learner_id": who, "item_id": "i", "skill_ids": "", "correct": 1, "order": 3, "fold": 7, "split": "x"}
        for who in ("a", "b")
    ]
    path = tmp_path / name
    if name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for column, value in (("split", "x"), ("fold", "7"), ("order", "3"), ("learner_id", "a"), ("missing", None)):
        assert read_sample(path, column, silent).splits[0] == value


@given(st.lists(st.text(max_size=5), unique=True, min_size=2, max_size=30), st.integers(2, 7), st.randoms())
def test_folds_depend_on_ids_alone(learners: list[str], folds: int, chance: Any) -> None:
    groups = dict(zip(learners, hashed_groups(learners, folds).tolist(), strict=True))
    sizes = np.bincount(list(groups.values()))
    assert len(sizes) == min(folds, len(learners))
    assert sizes.max() - sizes.min() <= 1
    shuffled = list(learners)
    chance.shuffle(shuffled)
    assert dict(zip(shuffled, hashed_groups(shuffled, folds).tolist(), strict=True)) == groups


def test_evaluate_command_prints_nothing_but_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real calibration, whose search is cut short."""
    monkeypatch.setattr(fit, "SEARCH_EVALUATIONS", 8)
    path = write(tmp_path, [*rows_of(), "x,i1,,many"])
    result = CliRunner().invoke(main, ["evaluate", str(path), "--folds", "2", "--json"])
    assert result.exit_code == 0, result.output
    content = json.loads(result.stdout)
    assert list(content["models"]) == MODELS
    assert (content["responses"], content["learners"], content["rejected"]) == (96, 12, 1)
    assert "1 row left out; line 98: correct is not a number" in result.stderr
    again = CliRunner().invoke(main, ["evaluate", str(path), "--folds", "2", "--json"])
    assert again.stdout == result.stdout


@pytest.mark.usefixtures("hasty")
def test_evaluate_command_prints_a_table(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["evaluate", str(write(tmp_path, rows_of()))])
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("96 answers of 12 learners predicted in 5 folds; 95 % intervals by learner\n")
    for name in MODELS:
        assert f"\n{name} " in result.stdout


def memory(_skills: Integers, training: Log, unseen: Log) -> Floats:
    """Recognises: predicts what the training learner answered who agrees best with the answers so far."""
    known = np.full((training.learners, 1 + max(training.items.max(), unseen.items.max())), 0.5)
    known[np.repeat(np.arange(training.learners), np.diff(training.starts)), training.items] = training.scores
    p = np.full(len(unseen.items), 0.5)
    for start, end in zip(unseen.starts[:-1], unseen.starts[1:], strict=True):
        agreement = np.zeros(training.learners)
        for place in range(start, end):
            told = known[:, unseen.items[place]]
            p[place] = 0.1 + 0.8 * told[np.argmax(agreement)]
            agreement -= np.abs(told - unseen.scores[place])
    return p


def rows_with_duplicates(split: bool) -> list[str]:
    """30 learners on 200 items; the first 10 again, with two slips, and of the third only the half."""
    rng = np.random.default_rng(8)
    scores = rng.integers(0, 2, (30, 200))
    rows = []
    for who in range(40):
        answers = scores[who % 30].copy()
        answers[rng.integers(0, 200, 2 if who >= 30 else 0)] ^= 1
        side = ("test" if who >= 30 or who == 29 else "train") if split else ""
        rows += [f"l{who},i{item},s,{answers[item]},{side}" for item in range(100 if who == 32 else 200)]
    return rows


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("split", [True, False])
def test_evaluation_predicts_no_learner_whose_duplicate_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: bool
) -> None:
    """A model that recognises learners gains nothing; without the search for duplicates it seems to know nearly all."""
    monkeypatch.setattr(evaluation, "BASELINES", {"memory": memory, "best_lr": evaluation.BASELINES["item"]})
    path = write(tmp_path, rows_with_duplicates(split), HEADER + ",split")
    report = evaluate(path, None, None, silent)
    assert report.models["memory"].figures["auc"] < 0.6
    assert report.duplicates == evaluation.DuplicateCounts(10 if split else 20, 10)
    assert as_json(report)["duplicates"] == {
        "learners": report.duplicates.learners,
        "left_out": report.duplicates.left_out,
    }
    said = (
        "Predicted learners who repeat the log of another: {learners}; left out of training because of them: {left_out}"
    )
    assert as_table(report).endswith("\n\n" + said.format(**vars(report.duplicates)))
    monkeypatch.setattr(evaluation, "find_duplicates", lambda log: np.arange(log.learners))
    deceived = evaluate(path, None, None, silent)
    assert deceived.models["memory"].figures["auc"] > (0.85 if split else 0.65)
    assert deceived.duplicates == evaluation.DuplicateCounts(0, 0)
    assert "repeat" not in as_table(deceived)
    assert (deceived.responses, deceived.learners) == (report.responses, report.learners)


def test_evaluation_refuses_duplicates_as_the_only_training_learners(tmp_path: Path) -> None:
    rows = [row for row in rows_with_duplicates(split=True) if row.split(",")[0] in {"l0", "l1", "l30", "l31"}]
    with pytest.raises(InvalidFile, match="all learners to fit have the same answers as learners to predict"):
        evaluate(write(tmp_path, rows, HEADER + ",split"), None, None, silent)


def rows_of_two_skills(*, per_skill: bool) -> list[str]:
    """Answers to items of two skills each that depend on the learner; as one row each, or as one row per skill."""
    rng = np.random.default_rng(12)
    ability = rng.normal(0, 1, 40)
    answers = [
        (who, item, int(rng.random() < 1 / (1 + np.exp(-ability[who]))))
        for who in range(40)
        for item in rng.integers(0, 12, 30)
    ]
    return [
        f"l{who},i{item},{skills},{score}"
        for who, item, score in answers
        for skills in ([f"s{item % 3}", f"t{item % 4}"] if per_skill else [f"s{item % 3};t{item % 4}"])
    ]


@pytest.mark.usefixtures("hasty")
def test_evaluation_counts_a_response_once_that_has_a_row_per_skill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every figure is that of the file with one row a response; left as they are, such rows give answers away."""
    monkeypatch.setattr(evaluation, "BASELINES", {"best_lr": evaluation.BASELINES["best_lr"]})
    honest = as_json(evaluate(write(tmp_path, rows_of_two_skills(per_skill=False)), None, None, silent))
    path = write(tmp_path, rows_of_two_skills(per_skill=True))
    merged = as_json(evaluate(path, None, None, silent))
    assert honest.pop("duplicate_rows") == {"per_skill": 0, "exact": 0, "suspected": 0}
    assert merged.pop("duplicate_rows") == {"per_skill": 1200, "exact": 0, "suspected": 0}
    assert merged == honest
    nothing = find_duplicate_rows(ResponseColumns())
    monkeypatch.setattr(
        evaluation,
        "find_duplicate_rows",
        lambda columns: replace(nothing, repeats=np.zeros(len(columns.lines), dtype=np.bool_)),
    )
    leaking = as_json(evaluate(path, None, None, silent))
    assert leaking["responses"] == 2 * honest["responses"]
    assert leaking["models"]["best_lr"]["auc"] > honest["models"]["best_lr"]["auc"] + 0.05


def test_rows_of_one_response_id_are_one_response(tmp_path: Path) -> None:
    """With the skills of all of them; an id with another answer is refused as before."""
    rows = ["a,1,x,1,,r", "a,1,y,1,,r", "a,1,y,1,,r", "a,1,x,0,,r", "a,1,x,0,,q"]
    sample = read_sample(write(tmp_path, rows, HEADER + ",order,response_id"), "split", silent)
    assert (sample.log.scores.tolist(), sample.skills.tolist()) == ([1.0, 0.0], [[0, 1]])
    assert (sample.duplicates.per_skill, sample.duplicates.first_line) == (2, 3)
    assert [(row.line, row.reason) for row in sample.rejections] == [(5, "the response_id is taken by another answer")]


@pytest.mark.usefixtures("hasty")
def test_commands_report_rows_that_repeat_a_response(tmp_path: Path) -> None:
    rows = rows_of_two_skills(per_skill=True)
    path = write(tmp_path, [f"{row},{n // 2}" for n, row in enumerate([*rows, *rows[-2:]])], HEADER + ",order")
    path.write_text(path.read_text().replace(",1200\n", ",1199\n"))
    message = (
        "rows that repeat a response, counted once: 1,200 for another skill of its item, 2 exactly; "
        "the first is line 3. Rows with a response_id of their own count each.\n"
    )
    for command in (["evaluate"], ["fit", "--model", "rasch"], ["fit", "--model", "bkt"]):
        result = CliRunner().invoke(main, [*command, "--json", str(path)])
        assert result.exit_code == 0, result.output
        assert result.stderr.endswith(message)
        assert json.loads(result.stdout)["duplicate_rows"] == {"per_skill": 1200, "exact": 2, "suspected": 0}
    result = CliRunner().invoke(main, ["import", "responses", "--course", "c", "--dry-run", str(path)])
    assert (result.stdout, result.stderr) == ("1,200 rows can be loaded\n", message)
    path = write(tmp_path, [f"{row},{n}" for n, row in enumerate(rows)], HEADER + ",response_id")
    result = CliRunner().invoke(main, ["import", "responses", "--course", "c", "--dry-run", str(path)])
    assert result.stdout == "2,400 rows can be loaded\n"
    assert result.stderr.startswith(
        "rows that look like one row for each skill of a response, 1,200, have a response_id"
    )


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(2, 5), st.randoms())
def test_duplicates_are_in_one_fold_in_any_order(groups: list[int], folds: int, chance: Any) -> None:
    learners = [f"l{n}" for n in range(len(groups))]
    placed = hashed_together(learners, np.array(groups), folds)
    for group in set(groups):
        assert len({fold for fold, other in zip(placed.tolist(), groups, strict=True) if other == group}) == 1
    order = list(range(len(groups)))
    chance.shuffle(order)
    renumbered = np.array([7 - groups[at] for at in order])
    again = hashed_together([learners[at] for at in order], renumbered, folds)
    assert sorted(zip(order, again.tolist(), strict=True)) == list(enumerate(placed.tolist()))


def test_evaluate_command_reports_why_a_file_cannot_be_evaluated(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["evaluate", str(write(tmp_path, ["a,1,,1"]))])
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("proxima: answers.csv: there must be learners to fit and others to predict.")
