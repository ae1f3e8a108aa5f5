"""A transaction is opened where a request, a command or a job begins, and ends by itself.

A commit in the middle of a use case tells half of it to the world; a transaction opened in a helper cannot be
joined with another. So both are found by looking at a few modules.
"""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

APP = Path(__file__).parents[2] / "app"
OPENERS = ("cli/", "group_commit.py", "http/auth.py", "ims_cat/routes.py", "jobs/", "main.py", "routers/")


def calls(source: str) -> Iterator[tuple[int, str, str]]:
    """Line, receiver and method of every call `receiver.method(…)`; of `a.b.c(…)` the receiver is `b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            value = node.func.value
            yield node.lineno, getattr(value, "id", getattr(value, "attr", "")), node.func.attr


def commits(source: str) -> list[int]:
    """Lines that end a transaction by hand."""
    return [line for line, _, method in calls(source) if method in {"commit", "rollback"}]


def openings(source: str) -> list[int]:
    """Lines that open a transaction."""
    return [line for line, receiver, method in calls(source) if receiver == "database" and method in {"read", "write"}]


def faults(check: Callable[[str], list[int]]) -> dict[str, list[int]]:
    """The lines that a check finds, by module."""
    modules = {path.relative_to(APP).as_posix(): path.read_text() for path in sorted(APP.rglob("*.py"))}
    return {module: lines for module, source in modules.items() if (lines := check(source))}


def test_transactions_are_never_ended_by_hand() -> None:
    assert faults(commits) == {}


def test_transactions_are_opened_at_the_edge() -> None:
    assert [module for module in faults(openings) if not module.startswith(OPENERS)] == []


@pytest.mark.controls
def test_checks_of_transactions_find_commits_and_openings() -> None:
    assert commits("def f(db):\n    db.commit()\n    self.session.rollback()") == [2, 3]
    assert openings("await database.write(f)\nawait request.state.database.read(g)\nfile.read()") == [1, 2]
