"""The architecture document shows the layers and modules there are."""

import re
from pathlib import Path

import pytest

from tests.architecture.draw import (
    DOCUMENT,
    PART,
    PARTS,
    ROOT,
    describe,
    draw_layers,
    read_contracts,
    redraw,
    split_layer,
)

MODULES = sorted((ROOT / read_contracts()["root_package"]).rglob("*.py"))


def test_architecture_document_is_current() -> None:
    text = DOCUMENT.read_text()
    assert redraw(text) == text, "run python -m tests.architecture.draw, and read what has changed"


def test_architecture_document_names_every_module() -> None:
    text = DOCUMENT.read_text()
    assert [path.name for path in MODULES if path.name not in text and path.name != "__init__.py"] == []


def test_modules_say_what_they_are() -> None:
    assert [path.relative_to(ROOT).as_posix() for path in MODULES if not describe(path)] == []


@pytest.mark.parametrize("name", PARTS)
def test_outdated_drawing_is_found(name: str) -> None:
    text = DOCUMENT.read_text()
    start = PART.format(name=name)
    outdated = text.replace(start, f"{start}\n\nA module that has gone.")
    assert outdated != text
    assert redraw(outdated) == text
    with pytest.raises(ValueError, match=f"no place for {name}"):
        redraw(text.replace(f"<!-- end of {name} -->", ""))


def test_first_sentence_of_a_docstring_is_found(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text('"""Sums, e.g. of\nskills. No clock.\n\nMore."""\n')
    assert describe(module) == "Sums, e.g. of skills."
    module.write_text("import math\n")
    assert describe(module) == ""


def test_layers_are_read_as_import_linter_reads_them() -> None:
    assert split_layer("a : b | (c)") == ["a", "b", "c"]
    settings = read_contracts()
    drawn = [line.split("`")[1] for line in draw_layers(settings) if re.match(r"\| \d+ \|", line)]
    contracts = [contract for contract in settings["contracts"] if contract["type"] == "layers"]
    assert drawn == [module for each in contracts for layer in each["layers"] for module in split_layer(layer)]
