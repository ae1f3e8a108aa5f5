"""Every decision has a number, a status and few lines, stands in the index, and names files that exist."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs" / "index.md"
DECISIONS = {path.name: path.read_text() for path in sorted((ROOT / "docs" / "decisions").glob("*.md"))}
MOST_LINES = 25
STATUS = re.compile(r"^Status: (proposed|accepted|rejected|(accepted; .+ )?superseded by \[\d+\]\([\w.-]+\))$")
PATH = re.compile(r"`((?:app|benchmarks|docs|migrations|requirements|tests)/[\w./-]*)`")


def faults(name: str, text: str) -> Iterator[str]:
    """What is wrong with the form of a decision."""
    title, empty, status, *rest = [*text.splitlines(), "", "", ""]
    if not title.startswith(f"# {int(name[:4])}. ") or empty:
        yield "the first line is not the title with the number of the file"
    if not STATUS.match(status):
        yield "the third line is not a status"
    if len("\n".join(rest).strip().splitlines()) > MOST_LINES:
        yield f"more than {MOST_LINES} lines"
    yield from (f"{path} does not exist" for path in named_paths(text) if not (ROOT / path).exists())


def named_paths(text: str) -> list[str]:
    """The files and folders of the repository that a text names as code."""
    return PATH.findall(text)


@pytest.mark.parametrize("name", DECISIONS)
def test_decision_has_status_and_existing_paths(name: str) -> None:
    assert list(faults(name, DECISIONS[name])) == []


def test_index_lists_every_decision_by_its_title() -> None:
    shown = dict(re.findall(r"^\d+\. \[(.+)\]\(decisions/(.+)\)$", INDEX.read_text(), re.MULTILINE))
    titles = {name: text.splitlines()[0].partition(". ")[2] for name, text in DECISIONS.items()}
    assert {name: title for title, name in shown.items()} == titles


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# 7. ", "# 8. ", "title"),
        ("Status: accepted", "Status: fine", "status"),
        ("Status: accepted\n", "", "status"),
        ("A line.\n", "A line.\n" * 26, "more than 25"),
        ("`tests/conftest.py`", "`tests/gone.py`", "tests/gone.py does not exist"),
    ],
)
def test_decision_with_a_fault_is_found(old: str, new: str, fault: str) -> None:
    good = "# 7. Seeds\n\nStatus: accepted\n\nA line.\nSee `tests/conftest.py` and `expm1(x) + 1`.\n"
    assert list(faults("0007-seeds.md", good)) == []
    assert any(fault in found for found in faults("0007-seeds.md", good.replace(old, new)))


def test_decision_may_be_superseded_whole_or_in_part() -> None:
    for status in ("superseded by [9](0009-b.md)", "accepted; the second part is superseded by [9](0009-b.md)"):
        assert list(faults("0007-a.md", f"# 7. A\n\nStatus: {status}\n")) == []
