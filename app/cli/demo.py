"""`proxima demo`."""

from collections.abc import Sequence

import click

from app import sample
from app.cli.calibrate import calibrate_course
from app.cli.database import with_database
from app.cli.progress import progress_bar
from app.cli.service import run_server
from app.core.database import Database
from app.core.migrate import migrate
from app.core.settings import read_settings
from app.core.times import now
from app.files.responses import Rejection
from app.jobs.imports import import_responses
from app.main import Demo, create_app
from app.queries.catalogue import list_courses
from app.services.catalogue import upsert
from app.services.course_model import read_course_model
from app.services.keys import choose_tenant, create_key


def run_demo(port: int) -> None:
    """From an empty machine to a running service with the sample course and its real answers."""
    settings = read_settings()
    migrate(settings.database_url)
    key = with_database(_prepare_demo)
    address = f"http://127.0.0.1:{port}"
    curl = (
        f"curl -s {address}/v1/courses/{sample.COURSE}/responses \\\n"
        f"  -H 'Authorization: Bearer {key}' \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f'  -d \'{{"learner": "ann", "item": "{_first_sample_item()}", "correct": true}}\''
    )
    click.echo(f"\n  Proxima     {address}\n  Reference   {address}/docs\n  Key         Authorization: Bearer {key}\n")
    click.echo(f"Send one answer and see what it changes and what comes next:\n\n{curl}\n\nCtrl-C stops the service.")
    quiet = settings.model_copy(update={"log_level": "warning", "log_format": "console"})
    run_server(lambda: create_app(quiet, Demo(key, sample.COURSE, curl)), "127.0.0.1", port, 1)


async def _prepare_demo(database: Database) -> str:
    """Load and calibrate the sample course unless that was done before; a new key for it."""
    key = await database.write(create_key, "demo", ["admin"], now())
    tenant_id = await database.write(choose_tenant, "demo", now())
    if sample.COURSE not in await database.read(list_courses, tenant_id):
        await database.write(upsert, tenant_id, sample.COURSE, sample.catalogue(), now())
    with progress_bar() as progress:
        await import_responses(database, tenant_id, sample.COURSE, sample.responses(), _ignore_rejections, progress)
    course_model = await database.read(read_course_model, tenant_id, sample.COURSE)
    if course_model.calibration is None:
        await calibrate_course(database, tenant_id, sample.COURSE, activate=True)
    return key.text


def _ignore_rejections(_: Sequence[Rejection]) -> None:
    """The sample has no bad rows; a test says so."""


def _first_sample_item() -> str:
    """The sample item of the first request."""
    return str(sample.catalogue()["items"][0]["id"])
