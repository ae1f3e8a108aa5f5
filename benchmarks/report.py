"""Figures of several rounds as Markdown, and their place in docs/benchmarks.md."""

import statistics
from collections.abc import Sequence
from pathlib import Path

DOCUMENT = Path(__file__).parents[1] / "docs/benchmarks.md"


def summarise(values: Sequence[float]) -> str:
    """Median, lowest and highest."""
    middle = statistics.median(values)
    digits = 0 if middle >= 100 else 1 if middle >= 10 else 2
    return f"{middle:,.{digits}f} ({min(values):,.{digits}f}–{max(values):,.{digits}f})"


def paired_ratios(over: Sequence[float], under: Sequence[float]) -> list[float]:
    """Ratios, round by round."""
    return [a / b for a, b in zip(over, under, strict=True)]


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    first, *others = [f"| {' | '.join(line)} |" for line in (heading, *rows)]
    return "\n".join([first, "|---" * len(heading) + "|", *others])


def publish(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Put a text between the two comments that carry this name; the rest of the document stays as it is."""
    begin, end = (f"<!-- {name}: {edge} -->" for edge in ("begin", "end"))
    before, found, rest = document.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{document.name} lacks {begin} or {end}")
    document.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", encoding="utf-8")
