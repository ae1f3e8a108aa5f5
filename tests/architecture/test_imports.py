"""What import-linter cannot say: what the engine may import, and how much of SQLAlchemy a use case may know."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
ENGINE = {path.name: path for path in sorted((APP / "adaptive").rglob("*.py"))}
SERVICES = {path.name: path for path in sorted((APP / "services").rglob("*.py"))}

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


@pytest.mark.parametrize("module", ENGINE)
def test_the_engine_imports_arithmetic_only(module: str) -> None:
    allowed = "import numpy as np\nfrom app.adaptive.types import Items\nfrom scipy.special import expit\nimport math"
    assert foreign(allowed) == []
    assert foreign("import time\nfrom app.models import Item\nfrom app import adaptives") == [
        "app",
        "app.models",
        "time",
    ]
    assert more_than_a_connection("from sqlalchemy import Connection, select") == [("sqlalchemy", "select")]
