"""The gate leaves out what cannot have changed, and nothing else: seen on a project of three files."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FILES = {
    "pyproject.toml": """
[tool.pytest.ini_options]
testpaths = ["tests"]
pythonpath = ["."]
addopts = ["--disable-plugin-autoload", "-p", "hypothesispytest", "--import-mode=importlib", "--strict-markers"]
markers = ["controls", "examples", "statistics", "reads(*paths)"]
""",
    "requirements/runtime.lock": "",
    "requirements/dev.lock": "",
    "tests/conftest.py": 'pytest_plugins = ["tests.gate.plugin"]\n',
    "tests/test_laws.py": """
import pytest
from engine.sums import add

def test_sum_of_one_and_one_is_two() -> None:
    assert add(1, 1) == 2

@pytest.mark.controls
def test_law_of_sums_notices_a_wrong_sum() -> None:
    assert add(1, 1) != 3
""",
    "tests/test_other.py": "def test_nothing() -> None: ...\n",
    "engine/__init__.py": "",
    "engine/sums.py": "from engine.numbers import ZERO\n\ndef add(a, b): return a + b + ZERO\n",
    "engine/numbers.py": "ZERO = 0\n",
    "web/__init__.py": "",
    "web/page.py": "",
}

# What the gate depends on is its own folder.
pytestmark = pytest.mark.controls
Run = Callable[..., dict[str, int]]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project that has this gate."""
    for name, content in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    shutil.copytree(HERE, tmp_path / "tests/gate", ignore=shutil.ignore_patterns("test_*", "*.json", "__pycache__"))
    return tmp_path


@pytest.fixture
def run(project: Path) -> Run:
    """Run pytest in the project: how many tests passed, failed and so on, and how many stamps are wrong."""

    def once(*arguments: str) -> dict[str, int]:
        command = [sys.executable, "-m", "pytest", "-q", *arguments]
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        counts = {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|deselected)", done.stdout)}
        assert (done.returncode == 0) == (not counts.get("failed") and "STAMP" not in done.stdout), done.stdout
        return {**counts, "wrong": done.stdout.count("STAMP ")} if "STAMP" in done.stdout else counts

    return once


def test_control_runs_if_it_has_no_stamp_or_its_dependencies_have_changed(project: Path, run: Run) -> None:
    assert run("--gate") == {"passed": 3}
    assert run("--stamp") == {"passed": 1, "deselected": 2}
    assert run("--gate") == {"passed": 2, "deselected": 1}
    (project / "web/page.py").write_text("PAGE = 1\n")
    assert run("--gate") == {"passed": 2, "deselected": 1}
    (project / "engine/numbers.py").write_text("ZERO = 1\n")
    assert run("--gate") == {"failed": 2, "passed": 1}


def test_rest_runs_what_the_gate_left_out_on_the_same_tree(project: Path, run: Run) -> None:
    run("--stamp")
    run("--gate")
    assert run("--rest") == {"passed": 1, "deselected": 2}
    (project / "web/page.py").write_text("PAGE = 1\n")
    assert run("--rest") == {"passed": 3}


def test_law_is_run_again_on_all_its_examples(project: Path, run: Run) -> None:
    law = "from hypothesis import given, strategies as st\n\n@given(st.integers())\ndef test_any_number(n): ...\n"
    (project / "tests/test_other.py").write_text(law)
    run("--stamp")
    assert run("--gate") == {"passed": 2, "deselected": 1}
    assert run("--rest") == {"passed": 2, "deselected": 1}


def test_control_with_a_stamp_is_not_stamped_again(project: Path, run: Run) -> None:
    assert run("--stamp") == {"passed": 1, "deselected": 2}
    assert run("--stamp") == {"deselected": 3}
    assert run("--rest") == {"passed": 3}


def test_stamp_that_is_missing_stale_or_made_up_is_a_failure(project: Path, run: Run) -> None:
    stamps = project / "tests/gate/stamps.json"
    assert run("--rest") == {"passed": 3, "wrong": 1}
    run("--stamp")
    assert run("--rest") == {"passed": 3}
    (project / "engine/numbers.py").write_text("ZERO = 0.0\n")
    assert run("--rest") == {"passed": 3, "wrong": 1}
    run("--stamp")
    stamps.write_text(json.dumps({**json.loads(stamps.read_text()), "tests/test_gone.py": "0"}))
    assert run("--rest") == {"passed": 3, "wrong": 1}
    # Whoever writes the right hash of something that does not pass is found out too.
    (project / "engine/numbers.py").write_text("ZERO = 1\n")
    assert run("--stamp") == {"failed": 1, "deselected": 2}
    assert json.loads(stamps.read_text()) == {}
    assert run("--rest") == {"failed": 2, "passed": 1, "wrong": 1}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tests/conftest.py", 'pytest_plugins = ["tests.gate.plugin"]\n\n\ndef pytest_configure(): ...\n'),
        ("requirements/dev.lock", "numpy==0\n"),
        ("engine/table.json", "{}"),
        ("engine/__init__.py", "SIDE = 1\n"),
    ],
)
def test_control_runs_if_any_kind_of_dependency_has_changed(file: str, content: str, project: Path, run: Run) -> None:
    run("--stamp")
    (project / file).write_text(content)
    assert run("--gate") == {"passed": 3}


def test_control_depends_on_modules_that_are_only_named_in_a_string(project: Path, run: Run) -> None:
    source = FILES["tests/test_laws.py"] + 'PATCHED = "web.page.PAGE"\n'
    (project / "tests/test_laws.py").write_text(source)
    run("--stamp")
    (project / "web/page.py").write_text("PAGE = 1\n")
    assert run("--gate") == {"passed": 3}
