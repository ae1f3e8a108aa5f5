"""`proxima simulate practice`: figures that are right, tables, plots, and an oracle nobody beats."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from app.analysis import practice_study
from app.analysis.practice_study import mean_over_courses, run_practice_study
from app.cli import SEED, main


def silent(_stage: str, _done: float, _whole: float) -> None:
    """For whoever does not want to know."""


def test_standard_error_of_a_mean_includes_differences_of_courses() -> None:
    """Without courses the usual one; with courses what differs between them, however many learners they have."""
    rng = np.random.default_rng(1)
    values = rng.normal(5, 2, 400)
    alone = mean_over_courses(values, np.zeros(400, dtype=np.int64))
    assert abs(alone.mean - values.mean()) < 1e-12
    np.testing.assert_allclose(alone.error, values.std(ddof=1) / 20)
    level = np.repeat(rng.normal(0, 3, 20), 20)
    together = mean_over_courses(level, np.repeat(np.arange(20), 20))
    np.testing.assert_allclose(together.error, level[::20].std(ddof=1) / np.sqrt(20))


@pytest.mark.statistics
def test_practice_study_shows_no_policy_better_than_the_oracle() -> None:
    """Nor does anybody waste nothing, or is never early, but the oracle."""
    names = ["service", "linear_target", "lowest", "oracle"]
    report = run_practice_study(["binary", "growth"], names, 40, 11, silent)
    for world, row in report.results.items():
        taken = report.exercises[world]
        for name in names[:-1]:
            ahead = taken[name] - taken["oracle"]
            assert ahead.mean() > -3 * ahead.std() / np.sqrt(len(ahead))
            assert row[name].wasted.mean > 0
        assert row["oracle"].wasted.mean == row["oracle"].early.mean == 0
        assert row["oracle"].less is not None
        assert row["oracle"].less.mean < -0.2
        assert row["oracle"].median == np.median(taken["oracle"])


def test_practice_study_compares_the_same_learners() -> None:
    report = run_practice_study(["binary"], ["service"], 12, 3, silent)
    again = run_practice_study(["binary"], ["linear", "service"], 12, 3, silent)
    taken = again.exercises["binary"]
    assert (report.exercises["binary"]["service"] == taken["service"]).all()
    less = report.results["binary"]["service"].less
    assert less is not None
    assert (less.mean, less.error) == (0.0, 0.0)
    less = again.results["binary"]["linear"].less
    assert less is not None
    np.testing.assert_allclose(less.mean, 1 - taken["service"].mean() / taken["linear"].mean())
    apart = run_practice_study(["binary"], ["linear"], 12, 3, silent)
    assert apart.results["binary"]["linear"].less is None


def run(*options: str) -> str:
    few = ["simulate", "practice", "--world", "binary", "--policy", "oracle", "--policy", "linear_target"]
    result = CliRunner().invoke(main, [*few, "--learners", "6", *options])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_practice_study_prints_json_by_world_and_policy() -> None:
    told = json.loads(run("--json", "--seed", "4"))
    assert told == json.loads(run("--json", "--seed", "4"))
    assert (told["seed"], told["learners"], list(told["worlds"])) == (4, 6, ["binary"])
    assert set(told["worlds"]["binary"]) == {"oracle", "linear_target"}
    assert told["worlds"]["binary"]["oracle"]["exercises"]["mean"] < 200
    assert told != json.loads(run("--json", "--seed", "5"))


def test_practice_study_prints_a_table_with_the_quickest_first() -> None:
    lines = run().splitlines()
    assert f"seed {SEED}" in lines[0]
    assert [line.split()[0] for line in lines[3:]] == ["oracle", "linear_target"]


def test_practice_study_draws_plots(tmp_path: Path) -> None:
    run("--plots", str(tmp_path / "new"))
    drawn = (tmp_path / "new" / "binary.svg").read_text()
    assert "<svg" in drawn
    assert len(drawn) > 10_000


def test_practice_study_refuses_plots_without_matplotlib_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    monkeypatch.setattr(practice_study, "run_practice_study", None)
    result = CliRunner().invoke(main, ["simulate", "practice", "--plots", str(tmp_path)])
    assert result.exit_code == 3
    assert "proxima[plots]" in result.stderr
