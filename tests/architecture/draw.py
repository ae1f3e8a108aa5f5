"""The drawn parts of `docs/architecture.md`: layers, modules and rules, from the import contract and the files.

    python -m tests.architecture.draw    draw them anew, after a module or a layer has come, gone or moved

A part stands between two comments that name it. What a module is, is the first sentence of its docstring.
"""

import ast
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "architecture.md"
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`])")
PART = "<!-- {name}: drawn by python -m tests.architecture.draw -->"
END = "<!-- end of {name} -->"


def read_contracts() -> dict[str, Any]:
    """The settings of import-linter."""
    settings: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return settings


def find_module(name: str) -> Path:
    """The file of a module or a package, by its dotted name."""
    path = ROOT.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def describe(path: Path) -> str:
    """The first sentence of a module's docstring; empty if it has none."""
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return SENTENCE_END.split(" ".join(docstring.partition("\n\n")[0].split()))[0]


def draw_layers(settings: dict[str, Any]) -> Iterator[str]:
    """For each contract of layers a table: who may import whom, from the top down."""
    for contract in settings["contracts"]:
        if contract["type"] != "layers":
            continue
        for container in contract.get("containers") or [""]:
            yield f"**{contract['name']}**" + (f", in `{container}`:" if container else ":")
            yield ""
            yield "| | Module | |"
            yield "|--:|---|---|"
            for number, layer in enumerate(contract["layers"], 1):
                for module in split_layer(layer):
                    name = f"{container}.{module}".strip(".")
                    yield f"| {number} | `{module}` | {describe(find_module(name))} |"
            yield ""


def split_layer(layer: str) -> list[str]:
    """The modules of one layer; import-linter puts optional ones into parentheses."""
    return [name.strip("() ") for name in re.split("[:|]", layer)]


def draw_modules(settings: dict[str, Any]) -> Iterator[str]:
    """Every module below the root package, as a tree."""
    root = ROOT / settings["root_package"]
    lines = list(draw_package(root, 0))
    width = max(len(name) for name, _ in lines) + 2
    yield "```text"
    yield from (f"{name:{width}}{sentence}".rstrip() for name, sentence in lines)
    yield "```"


def draw_package(folder: Path, depth: int) -> Iterator[tuple[str, str]]:
    """A package and all within it: an indented name and a sentence each."""
    yield f"{'  ' * depth}{folder.name}/", describe(folder / "__init__.py")
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir() and (path / "__init__.py").exists():
            yield from draw_package(path, depth + 1)
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield f"{'  ' * (depth + 1)}{path.name}", describe(path)


def draw_rules(settings: dict[str, Any]) -> Iterator[str]:
    """The other contracts, in words."""
    yield "| Contract | Says |"
    yield "|---|---|"
    for contract in settings["contracts"]:
        if contract["type"] != "layers":
            yield f"| {contract['name']} | {say_rule(contract)} |"


def say_rule(contract: dict[str, Any]) -> str:
    """What a contract of import-linter demands."""
    match contract["type"]:
        case "acyclic_siblings":
            return f"in {join(contract['ancestors'])} and below, siblings do not import each other in a circle"
        case "protected":
            modules, importers = contract["protected_modules"], contract.get("allowed_importers", [])
            return f"{join(modules)}: imported by {join(importers) or 'nobody else'} only"
        case "forbidden":
            return f"{join(contract['source_modules'])} do not import {join(contract['forbidden_modules'])}"
        case "independence":
            return f"{join(contract['modules'])} do not import each other"
        case other:
            return f"`{other}`: see `pyproject.toml`"


def join(names: Iterable[str]) -> str:
    """Names as code, with commas."""
    return ", ".join(f"`{name}`" for name in names)


PARTS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "layers": draw_layers,
    "modules": draw_modules,
    "import rules": draw_rules,
}


def redraw(document: str) -> str:
    """The document with all of its parts drawn from what is there now. Raises `ValueError` if a part has no place."""
    settings = read_contracts()
    for name, draw in PARTS.items():
        start, end = PART.format(name=name), END.format(name=name)
        before, found, rest = document.partition(start)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise ValueError(f"the document has no place for {name}: between {start} and {end}")
        drawn = "\n".join(draw(settings)).strip()
        document = f"{before}{start}\n\n{drawn}\n\n{end}{after}"
    return document


if __name__ == "__main__":
    DOCUMENT.write_text(redraw(DOCUMENT.read_text()))
