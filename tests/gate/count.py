"""How many tests there are, by kind: `make test-count`, before and after a change of the tests.

A plugin of its own, for `pytest -p tests.gate.count --collect-only`: it also counts the tests of a tree without it.
"""

import sys
from collections import Counter
from collections.abc import Sequence

import pytest

DATABASES = ("sqlite", "postgresql")
MARKERS = ("controls", "statistics", "soak")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Print the table, with the long tests that are left out afterwards."""
    for name, counts in count(items).items():
        lines = (f"| {key} | {number:,} |\n" for key, number in sorted(counts.items()))
        sys.stdout.write(f"\n| {name} | tests |\n|---|--:|\n" + "".join(lines))


def count(items: Sequence[pytest.Item]) -> dict[str, Counter[str]]:
    """How many, by folder, by database and by kind; `functions` before they are multiplied by parameters."""
    folders: Counter[str] = Counter()
    databases: Counter[str] = Counter()
    kinds = Counter({"tests": len(items), "functions": len({item.nodeid.partition("[")[0] for item in items})})
    for item in items:
        parts = item.nodeid.partition("::")[0].split("/")
        folders[parts[1] if len(parts) > 2 else "(top)"] += 1
        specification = getattr(item, "callspec", None)
        parameters = map(str, specification.params.values()) if specification else ()
        databases[next((kind for kind in parameters if kind in DATABASES), "none, or one of its own")] += 1
        kinds.update(name for name in MARKERS if item.get_closest_marker(name))
        kinds["with @given"] += hasattr(getattr(item, "obj", None), "hypothesis")
    return {"folder": folders, "database": databases, "kind": kinds}
