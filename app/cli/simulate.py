"""`proxima simulate`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from app.analysis import cat_study, practice_study, truth_study
from app.analysis.plots import need_matplotlib
from app.cli.progress import progress_bar
from app.files.item_parameters import Constraints, ItemFile, read_constraints, read_item_file


def print_practice_study(
    worlds: Sequence[str], policies: Sequence[str], learners: int, seed: int, plots: Path | None, *, as_json: bool
) -> None:
    """Compare practice policies on simulated learners."""
    if plots:
        need_matplotlib()
    with progress_bar() as progress:
        report = practice_study.run_practice_study(worlds, policies, learners, seed, progress)
    click.echo(json.dumps(practice_study.as_json(report), indent=1) if as_json else practice_study.as_table(report))
    for path in practice_study.save_plots(report, plots) if plots else ():
        click.echo(f"{path} written", err=True)


def print_truth_study(worlds: Sequence[str], learners: int, seed: int, *, as_json: bool) -> None:
    """Compare what the engine tells with what is true of simulated learners."""
    unknown = sorted(set(worlds) - set(truth_study.WORLD_NAMES))
    if unknown:
        raise click.BadParameter(
            f"there is no world {unknown[0]!r}; choose among: {'; '.join(truth_study.WORLD_NAMES)}",
            param_hint="--world",
        )
    with progress_bar() as progress:
        report = truth_study.run_truth_study(worlds or truth_study.WORLD_NAMES, learners, seed, progress)
    click.echo(json.dumps(truth_study.as_json(report), indent=1) if as_json else truth_study.as_table(report))


def print_cat_study(
    files: Sequence[Path],
    plots: Path | None,
    constraints: Path | None,
    scaling: float,
    exposure: float | None,
    cuts: Sequence[float],
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Give adaptive tests to simulated examinees from item banks; `options` are those of `CatStudyOptions`."""
    if plots:
        need_matplotlib()
    item_files, limits = _read_item_banks(files, constraints, scaling)
    study_options = cat_study.CatStudyOptions(target=exposure, cuts=tuple(sorted(cuts)), **options)
    with progress_bar() as progress:
        report = cat_study.run_cat_study(item_files, limits, study_options, progress)
    click.echo(json.dumps(cat_study.as_json(report), indent=1) if as_json else cat_study.as_table(report))
    for path in cat_study.save_plots(report, plots) if plots else ():
        click.echo(f"{path} written", err=True)


def _read_item_banks(
    files: Sequence[Path], constraints_file: Path | None, scaling: float
) -> tuple[list[ItemFile], list[Constraints | None]]:
    """The item banks of files, each with the constraints that its items can keep; says which it cannot."""
    item_files, limits = list[ItemFile](), list[Constraints | None]()
    for file in files:
        item_file, constraints = read_item_file(file, scaling), None
        if constraints_file is not None:
            item_file, constraints = read_constraints(constraints_file, item_file)
            if constraints.left_out:
                click.echo(
                    f"{item_file.name}: left out of the constraints: {', '.join(constraints.left_out)}", err=True
                )
        item_files.append(item_file)
        limits.append(constraints)
    return item_files, limits
