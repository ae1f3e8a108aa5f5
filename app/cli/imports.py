"""`proxima import catalogue` and `proxima import responses`."""

import time
from collections.abc import Sequence
from pathlib import Path

import click

from app.cli.catalogue import validate_catalogue
from app.cli.database import with_database
from app.cli.evaluate import report_duplicate_rows
from app.cli.progress import progress_bar
from app.core.database import Database
from app.core.errors import InvalidFile
from app.core.times import now
from app.files.responses import Rejection, hash_file, read_catalogue_file, write_rejections
from app.jobs.imports import ImportTotals, check_file, import_responses
from app.services.catalogue import upsert
from app.services.imports import last_imported_line
from app.services.keys import choose_tenant


def load_catalogue(file: Path, course: str | None, tenant: str | None) -> None:
    """Load skills and items into a course, by default the one that the file is named after."""
    body = validate_catalogue(file.name, read_catalogue_file(file))
    course_id = course or file.name.split(".")[0]

    async def load(database: Database) -> None:
        counts = await database.write(
            upsert, await database.write(choose_tenant, tenant, now()), course_id, body, now()
        )
        click.echo(f"course {course_id}: {counts.skills} skills, {counts.items} items (revision {counts.revision})")

    with_database(load)


def check_responses(file: Path, max_score: float | None) -> None:
    """Say how many rows of a file could be loaded, and write the others beside it."""
    target = _rejected_file(file)
    good, rejections, duplicates = check_file(file, max_score)
    target.unlink(missing_ok=True)
    if rejections:
        write_rejections(target, rejections)
    if rejections and not good:
        raise _no_usable_row(len(rejections), rejections[0], target)
    _report_rejected(len(rejections), target)
    report_duplicate_rows(duplicates)
    click.echo(f"{good:,} {'row' if good == 1 else 'rows'} can be loaded")


def load_responses(file: Path, course: str, tenant: str | None, max_score: float | None) -> None:
    """Load the answers of a file, and write the rows that cannot be loaded beside it."""
    target, started, first_rejections = _rejected_file(file), time.monotonic(), list[Rejection]()
    with progress_bar() as progress:

        def write_rejected(rejections: Sequence[Rejection]) -> None:
            if rejections:
                write_rejections(target, rejections)
                first_rejections.append(rejections[0])

        async def load(database: Database) -> tuple[ImportTotals, bool]:
            tenant_id = await database.write(choose_tenant, tenant, now())
            resumed = bool(await database.read(last_imported_line, tenant_id, course, hash_file(file)))
            if not resumed:
                target.unlink(missing_ok=True)
            loading = import_responses(database, tenant_id, course, file, write_rejected, progress, max_score)
            return await loading, resumed

        totals, resumed = with_database(load)
    if first_rejections and not (totals.created or totals.repeated or resumed):
        raise _no_usable_row(totals.rejected, first_rejections[0], target)
    rate = totals.created / (time.monotonic() - started)
    _report_rejected(totals.rejected, target)
    if totals.duplicates is not None:
        report_duplicate_rows(totals.duplicates)
    answers = "answer" if totals.created == 1 else "answers"
    click.echo(f"{totals.created:,} {answers} loaded ({rate:,.0f}/s), {totals.repeated:,} were there already")


def _no_usable_row(count: int, first: Rejection, target: Path) -> InvalidFile:
    """The error for a file that has rows, but none that can be loaded."""
    rows = "the only row was" if count == 1 else f"all {count:,} rows were"
    return InvalidFile(f"nothing was loaded: {rows} rejected, as on line {first.line}: {first.reason}; see {target}")


def _rejected_file(file: Path) -> Path:
    """Where the rows of a file go that cannot be loaded."""
    return file.with_name(file.name + ".rejected.csv")


def _report_rejected(count: int, target: Path) -> None:
    """Say where the rejected rows are, if there are any."""
    if count:
        click.echo(f"{count:,} {'row' if count == 1 else 'rows'} rejected: see {target}", err=True)
