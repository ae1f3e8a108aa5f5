"""The matrix covers what `pyproject.toml` promises, and does not pass over what it cannot run."""

import subprocess
import tomllib

import pytest

from tests import matrix

PROJECT = tomllib.loads((matrix.ROOT / "pyproject.toml").read_text())["project"]


def test_matrix_begins_with_the_oldest_python_allowed() -> None:
    assert PROJECT["requires-python"] == f">={matrix.PYTHONS[0]}"


def test_matrix_runs_tests_that_exist() -> None:
    assert [path for path in matrix.PART if not (matrix.ROOT / path).is_file()] == []


def test_lowest_lock_has_the_lowest_versions_allowed() -> None:
    lock = (matrix.ROOT / "requirements" / matrix.LOWEST).read_text()
    lowest = [text.partition(";")[0].replace(">=", "==").replace("[asyncio]", "") for text in PROJECT["dependencies"]]
    assert [pin for pin in lowest if f"\n{pin}" not in f"\n{lock}"] == []


@pytest.mark.parametrize(
    ("code", "says"), [(0, "tests ran on 0 of 5 combinations; NOT RUN: Python 3.11, newest"), (1, "")]
)
def test_matrix_names_what_did_not_run(
    code: int, says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*_: object, **__: str) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess([], code, stdout="broken", stderr="")

    monkeypatch.setattr(matrix, "find_interpreter", lambda _: None)
    monkeypatch.setattr(matrix, "run", run)
    assert matrix.main() == code
    printed = capsys.readouterr().out
    assert says in printed
    assert ("FAIL  Python 3.12, newest versions: broken" in printed) == bool(code)
