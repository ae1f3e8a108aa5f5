"""`proxima fit`."""

import json
from pathlib import Path
from typing import Any, Literal

import click

from app.adaptive.bkt import Setup
from app.adaptive.irt import FLAT, Model, Priors
from app.analysis import fit
from app.cli.catalogue import validate_catalogue
from app.cli.evaluate import report_left_out
from app.cli.progress import progress_bar
from app.core.errors import InvalidFile


def print_fit(
    file: Path,
    model: Model | Literal["bkt"],
    catalogue: Path | None,
    max_score: float | None,
    *,
    as_json: bool,
    **options: Any,
) -> None:
    """Fit an item response model, or knowledge tracing, to the responses of a file; `options` are those of the fit."""
    _check_fit(model, catalogue, **options)
    if model == "bkt":
        with progress_bar() as progress:
            traced = fit.fit_skills(
                file, Setup(forgets=options["forgets"], per_item=options["per_item"]), progress, max_score
            )
        report_left_out(traced.sample.rejections, traced.sample.duplicates)
        click.echo(json.dumps(fit.skills_json(traced), indent=1) if as_json else fit.skills_table(traced))
        return
    with progress_bar() as progress:
        priors = FLAT if options["no_priors"] else Priors()
        fitted = fit.fit_items(file, model, priors, options["categories"], progress, max_score)
    report_left_out(fitted.sample.rejections, fitted.sample.duplicates)
    click.echo(json.dumps(fit.items_json(fitted), indent=1) if as_json else fit.items_table(fitted))
    if catalogue is not None:
        body = validate_catalogue(catalogue.name, fit.build_catalogue(fitted))
        _write_catalogue(catalogue, body)
        click.echo(f"{len(body['items']):,} of {len(fitted.sample.items):,} items written to {catalogue}", err=True)


def _check_fit(
    model: str, catalogue: Path | None, *, no_priors: bool, categories: int | None, forgets: bool, per_item: bool
) -> None:
    """Refuse what the model has no use for, before it costs time."""
    if model == "bkt" and no_priors:
        raise click.UsageError("--no-priors is for item response models")
    if model != "bkt" and (forgets or per_item):
        raise click.UsageError("--forgets and --per-item are for --model bkt")
    if model not in fit.STEPS and categories is not None:
        raise click.UsageError(f"--categories is for --model {', '.join(fit.STEPS)}")
    if catalogue is None:
        return
    if model not in fit.CATALOGUE_MODELS:
        taken = ", ".join(fit.CATALOGUE_MODELS)
        raise click.UsageError(f"the engine takes no items of {model}, so there is no --catalogue; it takes {taken}")
    if catalogue.suffix.lower() != ".json":
        raise click.UsageError("the name of --catalogue must end in .json")


def _write_catalogue(path: Path, body: dict[str, Any]) -> None:
    """Write a catalogue for `proxima import catalogue`."""
    try:
        path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidFile(f"{path.name} cannot be written: {error.strerror or error}.") from error
