"""What all reports have: figures with their errors, rounded for JSON and aligned as text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

DIGITS = 4


@dataclass(frozen=True)
class Figure:
    """A mean and its standard error."""

    mean: float
    error: float


def round_figures(result: object) -> dict[str, object]:
    """The fields of a result for JSON: numbers and figures rounded, what is missing as null."""
    return {name: _round_figure(value) for name, value in vars(result).items()}


def _round_figure(value: Figure | float | None) -> dict[str, float] | float | None:
    """One field of a result for JSON."""
    if isinstance(value, Figure):
        return {"mean": round(value.mean, DIGITS), "error": round(value.error, DIGITS)}
    return None if value is None else round(value, DIGITS)


def format_row(title: str, cells: Iterable[str], title_width: int, cell_width: int) -> str:
    """A title and cells as a line of columns of equal width."""
    return f"{title:{title_width}}" + "".join(f"{cell:>{cell_width}}" for cell in cells)


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of text as lines, each column as wide as its longest cell."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
