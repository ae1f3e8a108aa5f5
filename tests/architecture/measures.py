"""The code in numbers: `python -m tests.architecture.measures [FOLDER]`, for this tree or another one.

They say how much there is to learn before one can work here; no number is a limit. What each counts is in
`docs/codebase.md`.
"""

import ast
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef


def main(root: Path) -> None:
    """Print a table."""
    for name, value in measure(root).items():
        sys.stdout.write(f"| {name} | {value} |\n")


def measure(root: Path) -> dict[str, str]:
    """What is counted in `app` of a tree, by name."""
    sources = {path.relative_to(root / "app"): path.read_text() for path in sorted((root / "app").rglob("*.py"))}
    trees = {path: ast.parse(source) for path, source in sources.items()}
    lines = {path: source.count("\n") for path, source in sources.items()}
    names = {
        node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, Function | ast.ClassDef)
    }
    functions = [node.name for tree in trees.values() for node in tree.body if isinstance(node, Function)]
    private = sum(name.startswith("_") for name in functions)
    classes = Counter(node.name for tree in trees.values() for node in tree.body if isinstance(node, ast.ClassDef))
    rooms = {room_of(path) for path in trees} - {""}
    arrows = {(room_of(path), other) for path, tree in trees.items() for other in rooms_named(tree, rooms)}
    longest = max(lines, key=lambda path: lines[path])
    document = (root / "docs/architecture.md").read_text()
    missing = [room for room in sorted(rooms) if f"{room}.py" not in document and f"{room}/" not in document]
    return {
        "files": f"{len(sources):,}",
        "lines": f"{sum(lines.values()):,}",
        "names of functions and classes for 1,000 lines": f"{1000 * len(names) / sum(lines.values()):.0f}",
        "top-level functions that are private": f"{private / len(functions):.0%} of {len(functions):,}",
        "class names that mean two things": f"{sum(count > 1 for count in classes.values())}",
        "rooms, and arrows between them": f"{len(rooms)} / {len({arrow for arrow in arrows if len(set(arrow)) == 2})}",
        "rooms missing in the architecture document": f"{len(missing)}",
        "longest file": f"{longest.as_posix()}, {lines[longest]} lines",
    }


def room_of(path: Path) -> str:
    """A package or a module directly in `app`; none for `app` itself."""
    name = path.parts[0].removesuffix(".py")
    return "" if name.startswith("__") else name


def rooms_named(tree: ast.Module, rooms: set[str]) -> Iterator[str]:
    """The rooms that a module imports from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        yield from {parts[1] for name in names if (parts := name.split("."))[0] == "app" and len(parts) > 1} & rooms


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT)
