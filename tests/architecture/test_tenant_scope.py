"""Every query names the tenant: one forgotten condition would show a school the learners of another."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

QUERIES = Path(__file__).parents[2] / "app" / "queries"
STATEMENTS = {"select", "update", "delete", "insert", "text"}

# module.function → why it may look at all tenants
ACROSS_TENANTS = {
    "clock.read_clock": "it asks the database what time it is",
    "matching.matches_any_parameter": "it is a condition; what it selects from is a parameter",
    "keys.find_tenant": "a tenant is found by its name, before anybody belongs to it",
    "statistics.refresh_statistics": "it is about tables, not about rows",
    "durability.connections_allowed": "it asks the database about itself, not about rows",
    "durability.durability_faults": "it asks the database about itself, not about rows",
    "durability.missing_indexes": "it asks the database about itself, not about rows",
    "durability.unmet_settings": "it asks the database about itself, not about rows",
    "keys.list_tenants": "the operator's command line goes through all of them",
    "keys.insert_tenant": "the tenant does not exist yet",
    "transfer.count_rows": "of one tenant, or of all for a backup",
    "transfer.stream_rows": "of one tenant, or of all for a backup",
    "transfer.find_namesake": "a tenant that is to be imported must not be there",
    "transfer.insert_table_rows": "the rows are whole rows",
    "transfer.finish_load": "it is about the numbers of tenants",
    "transfer.analyze": "it is about tables, not about rows",
    "transfer.close_streams": "it is about cursors, not about rows",
    "transfer.drop_tables": "it is about tables without rows",
    "transfer.count_dangling": "it asks the database about itself, not about rows",
    "webhooks.delete_failed_calls": "what is over is over for all",
    # an insert without a tenant fails: the column is the first of the key and has no default
    "calibrations.insert_calibration": "the row is a whole row",
    "catalogue._insert_many": "the rows are whole rows",
    "webhooks.insert_outbox": "the rows are whole rows",
    "webhooks.insert_webhook": "the row is a whole row",
    "responses.insert_correction": "the row is a whole row",
    "bulk._insert_statement": "the rows are whole rows",
}


def unscoped(module: str, source: str) -> Iterator[str]:
    """Functions that build a statement and do not mention `tenant_id`, as `module.function`."""
    for function in ast.parse(source).body:
        nodes = list(ast.walk(function))
        prose = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        builds = any(isinstance(node, ast.Call) and name_of(node.func) in STATEMENTS for node in nodes)
        if builds and not any(mentions_tenant(node) for node in nodes if id(node) not in prose):
            yield f"{module.removesuffix('.py')}.{getattr(function, 'name', f'line {function.lineno}')}"


def name_of(function: ast.expr) -> str:
    """`select` of `select(…)`, of `sa.select(…)` and of `sqlite.insert(…)`."""
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def mentions_tenant(node: ast.AST) -> bool:
    """Whether the code, or the text of a raw statement, says `tenant_id`."""
    return (
        (isinstance(node, ast.Attribute) and node.attr == "tenant_id")
        or (isinstance(node, ast.Constant) and isinstance(node.value, str) and "tenant_id" in node.value)
        or (isinstance(node, ast.keyword) and node.arg == "tenant_id")
    )


def all_unscoped() -> set[str]:
    """The same of all modules; in a folder below, `folder/module.function`."""
    paths = sorted(QUERIES.rglob("*.py"))
    return {name for path in paths for name in unscoped(path.relative_to(QUERIES).as_posix(), path.read_text())}


def test_statements_name_the_tenant_and_all_exceptions_are_needed() -> None:
    assert all_unscoped() == set(ACROSS_TENANTS)


@pytest.mark.controls
def test_check_of_tenant_scope_notices_statements_without_a_tenant() -> None:
    scoped = "def f(db, tenant):\n    return db.execute(select(Item).where(Item.tenant_id == tenant))"
    bare = "def g(db):\n    'Without tenant_id.'\n    return db.execute(select(Item))\nSTATEMENT = insert(Item)"
    assert list(unscoped("items.py", scoped)) == []
    assert list(unscoped("items.py", bare)) == ["items.g", "items.line 4"]
