"""`proxima evaluate`."""

import json
from collections.abc import Sequence
from pathlib import Path

import click

from app.analysis import evaluate
from app.cli.progress import progress_bar
from app.files.duplicate_rows import DuplicateRows
from app.files.responses import Rejection


def print_evaluation(
    file: Path, split_column: str | None, folds: int | None, max_score: float | None, *, as_json: bool
) -> None:
    """Compare the engine with the models of the field on the answers of a file."""
    with progress_bar() as progress:
        report = evaluate.evaluate(file, split_column, folds, progress, max_score)
    report_left_out(report.rejections, report.duplicate_rows)
    click.echo(json.dumps(evaluate.as_json(report), indent=1) if as_json else evaluate.as_table(report))


def report_left_out(rejections: Sequence[Rejection], duplicates: DuplicateRows) -> None:
    """Say how many rows of a file could not be used and why the first could not, and how many repeat a response."""
    if rejections:
        rows = "row" if len(rejections) == 1 else "rows"
        click.echo(f"{len(rejections):,} {rows} left out; line {rejections[0].line}: {rejections[0].reason}", err=True)
    report_duplicate_rows(duplicates)


def report_duplicate_rows(found: DuplicateRows) -> None:
    """Say how many rows repeat a response, and how to have them all the same."""
    kinds = [(found.per_skill, "for another skill of its item"), (found.exact, "exactly")]
    counts = [f"{count:,} {how}" for count, how in kinds if count]
    if counts:
        click.echo(
            f"rows that repeat a response, counted once: {', '.join(counts)}; the first is line {found.first_line}. "
            "Rows with a response_id of their own count each.",
            err=True,
        )
    if found.suspected:
        click.echo(
            f"rows that look like one row for each skill of a response, {found.suspected:,}, have a response_id of "
            "their own and were counted each. If they are one response, give them one response_id, or none.",
            err=True,
        )
