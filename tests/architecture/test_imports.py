"""What import-linter cannot say: what the engine may import, and how much of SQLAlchemy a use case may know."""

import ast
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APP = ROOT / "app"
# These test the benchmarks themselves.
BENCHMARK_TESTS = ROOT / "tests" / "benchmarks"

# A step is a function of its arguments: no clock, no hidden randomness, no files, no network, no logging.
IMPURE = {"asyncio", "datetime", "io", "logging", "os", "pathlib", "random", "secrets", "socket", "subprocess", "time"}
ALLOWED = {"numpy", "scipy", *sys.stdlib_module_names} - IMPURE


def imports(source: str) -> Iterator[tuple[str, str]]:
    """Module and name of everything imported; the name is empty for `import module`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)


def foreign(source: str) -> list[str]:
    """Modules the engine must not import."""
    modules = {module for module, _ in imports(source)}
    return sorted(module for module in modules if not is_allowed(module))


def is_allowed(module: str) -> bool:
    """Whether the module is arithmetic, part of the engine, or a pure part of the standard library."""
    return module.partition(".")[0] in ALLOWED or f"{module}.".startswith("app.adaptive.")


def more_than_a_connection(source: str) -> list[tuple[str, str]]:
    """What is imported from SQLAlchemy besides the type of a connection."""
    found = [(module, name) for module, name in imports(source) if module.split(".")[0] == "sqlalchemy"]
    return [entry for entry in found if entry != ("sqlalchemy", "Connection")]


def faults(package: str, check: Callable[[str], Sequence[object]]) -> dict[str, Sequence[object]]:
    """What a check finds in the modules of a package, by their paths: two folders may hold files of one name."""
    sources = {path.relative_to(APP).as_posix(): path.read_text() for path in sorted((APP / package).rglob("*.py"))}
    assert sources, f"there is no package app/{package}"
    return {name: found for name, source in sources.items() if (found := check(source))}


def imports_of(package: str) -> Callable[[str], list[str]]:
    """A check that finds the imports of a package and of what is in it."""
    return lambda source: [module for module, _ in imports(source) if module.partition(".")[0] == package]


def importers(folder: Path, package: str) -> dict[str, list[str]]:
    """The modules of a folder that import from a package, with what they import of it."""
    check, paths = imports_of(package), sorted(folder.rglob("*.py"))
    assert paths, f"there is nothing in {folder}"
    found = {path.relative_to(ROOT).as_posix(): check(path.read_text()) for path in paths}
    return {path: modules for path, modules in found.items() if modules}


def test_tests_import_no_benchmarks_and_benchmarks_import_only_the_postgres_of_tests() -> None:
    tested = importers(BENCHMARK_TESTS, "benchmarks")
    assert importers(ROOT / "tests", "benchmarks") == tested
    assert importers(ROOT / "benchmarks", "tests") == {"benchmarks/harness.py": ["tests"]}
    assert "from tests import postgres\n" in (ROOT / "benchmarks/harness.py").read_text()
    # The control: those that may are found.
    assert tested


def test_engine_imports_arithmetic_only() -> None:
    assert faults("adaptive", foreign) == {}


@pytest.mark.parametrize("package", ["services", "ims_cat"])
def test_services_know_no_more_of_sqlalchemy_than_a_connection(package: str) -> None:
    assert faults(package, more_than_a_connection) == {}


def test_decide_and_present_know_no_connection() -> None:
    named = faults("services/responses", lambda source: [name for _, name in imports(source) if name == "Connection"])
    assert "decide.py" not in {path.rpartition("/")[2] for path in named}
    assert "present.py" not in {path.rpartition("/")[2] for path in named}
    # The control: those that read and write are found.
    assert {path.rpartition("/")[2] for path in named} >= {"read.py", "write.py"}


@pytest.mark.controls
@pytest.mark.reads("app")
def test_checks_of_imports_notice_forbidden_ones() -> None:
    allowed = (
        "import numpy as np\nfrom app.adaptive.parameters import Items\nfrom scipy.special import expit\nimport math"
    )
    assert foreign(allowed) == []
    assert foreign("import time\nfrom app.models import Item\nfrom app import adaptives") == [
        "app",
        "app.models",
        "time",
    ]
    assert more_than_a_connection("from sqlalchemy import Connection, Row, select") == [
        ("sqlalchemy", "Row"),
        ("sqlalchemy", "select"),
    ]
    found = imports_of("tests")(
        "import tests\nfrom tests.client import opened\nfrom tests import postgres\nimport app.tests"
    )
    assert found == ["tests", "tests.client", "tests"]
    assert "services/__init__.py" in faults("services", lambda _: ["each"])
