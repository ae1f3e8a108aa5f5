"""The command line: `proxima`."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import click
from pydantic import ValidationError

from app import __version__, sample
from app.adaptive.bkt import Setup
from app.adaptive.cat import METHODS, RULES
from app.adaptive.irt import FLAT, Model, Priors
from app.analysis import cat_study, evaluate, fit, practice_study
from app.core.database import Database, open_database
from app.core.errors import Invalid, InvalidFile, InvalidSetting, NotMigrated, ProximaError, Unavailable
from app.core.migrate import is_current, migrate, run_exclusively
from app.core.security import SCOPES
from app.core.settings import read_settings
from app.core.telemetry import configure_logging
from app.core.times import now, to_text
from app.files import backup_format, item_parameters
from app.files.responses import Rejection, hash_file, read_catalogue_file, write_rejections
from app.http import server
from app.http.problems import faults_in
from app.jobs.worker import (
    ImportTotals,
    check_file,
    finish_calibration,
    import_responses,
    rebuild_course,
    verify_course,
)
from app.main import Demo, create_app
from app.queries.catalogue import list_courses
from app.queries.durability import connections_allowed, durability_faults
from app.queries.keys import list_tenants
from app.schemas.catalogue import CatalogueIn
from app.services import calibrations, transfer
from app.services.catalogue import upsert
from app.services.course_model import read_course_model
from app.services.imports import last_imported_line
from app.services.keys import choose_tenant, create_key, list_keys, revoke_key
from app.services.replay import count_stale

T = TypeVar("T")

FAILED, MISCONFIGURED = 1, 3
LONG_STATEMENT_S = 600
QUIET_S = 2.0
REPORTED_TABLES = (("tenant", "tenant"), ("course", "course"), ("learner", "learner"), ("response", "answer"))
# As many of the most changed items and skills as fit on a line.
FEW = 5


class Commands(click.Group):
    """A group whose errors are one readable line and an exit code: 1 what failed, 3 what must be set up first."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ProximaError as error:
            click.echo(f"proxima: {error.detail}", err=True)
            for fault in error.faults:
                click.echo(f"  {fault.pointer}: {fault.detail}", err=True)
            is_away = isinstance(error, Unavailable) and ctx.invoked_subcommand == "serve"
            ctx.exit(MISCONFIGURED if is_away or isinstance(error, (InvalidSetting, NotMigrated)) else FAILED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="proxima")
def main() -> None:
    """Adaptive learning as a service: what each learner has mastered, how sure that is, and what comes next."""


tenant_option = click.option("--tenant", help="Whose course; may be left out where there is only one tenant.")
course_option = click.option("--course", required=True, help="The course's id.")


def with_database(work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Run `work` on the configured database, which must be migrated."""

    async def run(database: Database) -> T:
        await need_migrated(database)
        return await work(database)

    return with_any_database(run)


def with_any_database(work: Callable[[Database], Coroutine[Any, Any, T]]) -> T:
    """Run `work` on the configured database, of whatever schema it is."""

    async def run() -> T:
        database = open_database(read_settings().database_url, pool_size=2, statement_timeout_s=LONG_STATEMENT_S)
        try:
            return await work(database)
        finally:
            await database.close()

    return asyncio.run(run())


async def need_migrated(database: Database) -> None:
    """Raises `NotMigrated` if the tables are not those of this program."""
    if not await database.read(is_current):
        raise NotMigrated("the database is not at the version of this program; run `proxima migrate`")


class TerminalProgress:
    """A bar on a terminal, a plain line every other second in a pipe."""

    def __init__(self) -> None:
        self.bar = sys.stderr.isatty()
        self.reported_at = time.monotonic()
        self.started = self.reported_at

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Say how far it is."""
        share = min(done / total, 1.0) if total else 1.0
        moment = time.monotonic()
        if self.bar:
            left = (moment - self.started) * (1 - share) / share if share else 0
            filled = "█" * round(30 * share)
            click.echo(f"\r{stage:24} {filled:30} {share:4.0%} {left:4.0f} s left ", nl=False, err=True)
        elif moment - self.reported_at > QUIET_S:
            click.echo(f"{stage}: {share:.0%}", err=True)
            self.reported_at = moment

    def end(self) -> None:
        """Leave the line of the bar."""
        if self.bar:
            click.echo(f"\r{'':79}\r", nl=False, err=True)


@contextmanager
def progress_bar() -> Iterator[TerminalProgress]:
    """A progress that leaves no trace when it is done."""
    progress = TerminalProgress()
    try:
        yield progress
    finally:
        progress.end()


@main.command("migrate")
@click.option("--to", metavar="REVISION", help="Go up or down to this revision; `base` removes all tables.")
@click.option("--lose-data", is_flag=True, help="Go down even if the older tables cannot hold all data.")
def migrate_command(to: str | None, lose_data: bool) -> None:
    """Bring the database to the version of this program, or to another revision."""
    migrate(read_settings().database_url, to, lose_data=lose_data)
    click.echo(f"the database is at revision {to}" if to else "the database is up to date")


@main.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1, 64))
def serve(host: str, port: int, workers: int) -> None:
    """Serve the HTTP interface."""
    settings = read_settings()
    with_database(lambda database: need_connections(database, workers))
    configure_logging(settings)
    if workers == 1:
        run_server(create_app, host, port, 1)
        return
    with tempfile.TemporaryDirectory(prefix="proxima-metrics-") as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        try:
            run_server("app.main:create_app", host, port, workers)
        finally:
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]


async def need_connections(database: Database, workers: int) -> None:
    """The database must be migrated. If it has too few connections for all workers, say so."""
    await need_migrated(database)
    needed, allowed = workers * read_settings().pool_size, await database.read(connections_allowed)
    if allowed is not None and needed > allowed:
        click.echo(
            f"proxima: {workers} workers may ask for {needed} connections, and the database has {allowed}; "
            "lower PROXIMA_POOL_SIZE or --workers",
            err=True,
        )


def run_server(application: Any, host: str, port: int, workers: int) -> None:
    """Serve until told to stop; what was begun is finished first."""
    try:
        listener = server.open_listener(host, port)
    except OSError as error:
        raise InvalidSetting(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
    if not server.run_uvicorn(application, listener, workers, read_settings().drain_seconds):
        raise InvalidSetting("the service cannot start; the lines above say why")


@main.command()
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535))
def demo(port: int) -> None:
    """From an empty machine to a running service with the sample course and its real answers."""
    settings = read_settings()
    migrate(settings.database_url)
    key = with_database(prepare_demo)
    address = f"http://127.0.0.1:{port}"
    curl = (
        f"curl -s {address}/v1/courses/{sample.COURSE}/responses \\\n"
        f"  -H 'Authorization: Bearer {key}' \\\n"
        f"  -H 'Content-Type: application/json' \\\n"
        f'  -d \'{{"learner": "ann", "item": "{first_sample_item()}", "correct": true}}\''
    )
    click.echo(f"\n  Proxima     {address}\n  Reference   {address}/docs\n  Key         Authorization: Bearer {key}\n")
    click.echo(f"Send one answer and see what it changes and what comes next:\n\n{curl}\n\nCtrl-C stops the service.")
    quiet = settings.model_copy(update={"log_level": "warning", "log_format": "console"})
    run_server(lambda: create_app(quiet, Demo(key, sample.COURSE, curl)), "127.0.0.1", port, 1)


async def prepare_demo(database: Database) -> str:
    """Load and calibrate the sample course unless that was done before; a new key for it."""
    key = await database.write(create_key, "demo", ["admin"], now())
    tenant_id = await database.write(choose_tenant, "demo", now())
    if sample.COURSE not in await database.read(list_courses, tenant_id):
        await database.write(upsert, tenant_id, sample.COURSE, sample.catalogue(), now())
    with progress_bar() as progress:
        await import_responses(database, tenant_id, sample.COURSE, sample.responses(), ignore_rejections, progress)
    course_model = await database.read(read_course_model, tenant_id, sample.COURSE)
    if course_model.calibration is None:
        await calibrate_course(database, tenant_id, sample.COURSE, activate=True)
    return key.text


def ignore_rejections(_: Sequence[Rejection]) -> None:
    """The sample has no bad rows; a test says so."""


def first_sample_item() -> str:
    """The sample item of the first request."""
    return str(sample.catalogue()["items"][0]["id"])


@main.group()
def key() -> None:
    """Make, list and revoke API keys."""


@key.command("create")
@click.option("--tenant", required=True, help="Whose data the key opens; made on first sight.")
@click.option(
    "--scope", "scopes", required=True, multiple=True, type=click.Choice(list(SCOPES)), help="May be repeated."
)
def key_create(tenant: str, scopes: tuple[str, ...]) -> None:
    """Print a new key, alone on standard output. It is stored as a hash and cannot be shown again."""
    click.echo(with_database(lambda database: database.write(create_key, tenant, list(scopes), now())).text)


@key.command("list")
@click.option("--tenant", required=True)
def key_list(tenant: str) -> None:
    """List the keys of a tenant, without their secrets."""
    for row in with_database(lambda database: database.read(list_keys, tenant)):
        state = "in force" if row.revoked_at is None else f"revoked {to_text(row.revoked_at)}"
        click.echo(f"{row.id}  {state}  made {to_text(row.created_at)}  {' '.join(row.scopes)}")


@key.command("revoke")
@click.argument("key_id")
@click.option("--tenant", required=True)
def key_revoke(key_id: str, tenant: str) -> None:
    """Revoke a key: within five seconds no worker accepts it."""
    with_database(lambda database: database.write(revoke_key, tenant, key_id, now()))
    click.echo(f"{key_id} is revoked")


@main.group("import")
def import_group() -> None:
    """Load a catalogue or answers from a file."""


@import_group.command("catalogue")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--course", help="The course's id; the name of the file without its ending if left out.")
@tenant_option
def import_catalogue(file: Path, course: str | None, tenant: str | None) -> None:
    """Load skills and items: JSON as for PUT …/catalogue, or a table of items as CSV or NDJSON."""
    body = validate_catalogue(file.name, read_catalogue_file(file))
    course_id = course or file.name.split(".")[0]

    async def load(database: Database) -> None:
        counts = await database.write(
            upsert, await database.write(choose_tenant, tenant, now()), course_id, body, now()
        )
        click.echo(f"course {course_id}: {counts.skills} skills, {counts.items} items (revision {counts.revision})")

    with_database(load)


def validate_catalogue(name: str, body: dict[str, Any]) -> dict[str, Any]:
    """A catalogue of a file with this name, as PUT …/catalogue would take it. Raises `InvalidFile`."""
    try:
        return CatalogueIn.model_validate(body).model_dump(exclude_none=True)
    except ValidationError as error:
        raise InvalidFile(f"{name} is not a sound catalogue", faults_in(error, body)) from error


@import_group.command("responses")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@course_option
@tenant_option
@click.option("--dry-run", is_flag=True, help="Check the file and store nothing.")
def import_responses_command(file: Path, course: str, tenant: str | None, dry_run: bool) -> None:
    """Load answers (CSV, NDJSON, Parquet); rows that cannot be loaded go to FILE.rejected.csv.

    Started again after an interruption, it goes on where it was, up to 100,000 rows before; nothing is loaded twice.
    """
    target = file.with_name(file.name + ".rejected.csv")
    if dry_run:
        good, rejections = check_file(file)
        target.unlink(missing_ok=True)
        report_rejected(write_rejections(target, rejections) if rejections else 0, target)
        click.echo(f"{good:,} rows can be loaded")
        return
    started = time.monotonic()
    with progress_bar() as progress:

        def write_rejected(rejections: Sequence[Rejection]) -> None:
            if rejections:
                write_rejections(target, rejections)

        async def load(database: Database) -> ImportTotals:
            tenant_id = await database.write(choose_tenant, tenant, now())
            if not await database.read(last_imported_line, tenant_id, course, hash_file(file)):
                target.unlink(missing_ok=True)
            return await import_responses(database, tenant_id, course, file, write_rejected, progress)

        totals = with_database(load)
    rate = totals.created / (time.monotonic() - started)
    report_rejected(totals.rejected, target)
    click.echo(f"{totals.created:,} answers loaded ({rate:,.0f}/s), {totals.repeated:,} were there already")


def report_rejected(count: int, target: Path) -> None:
    """Say where the rejected rows are, if there are any."""
    if count:
        click.echo(f"{count:,} {'row' if count == 1 else 'rows'} rejected: see {target}", err=True)


@import_group.command("tenant")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def import_tenant_command(file: Path) -> None:
    """Add the tenant of a file of `proxima export`, under the number and the name it has there."""
    with progress_bar() as progress:
        header, contents = backup_format.check_backup(file, progress)
        with_database(lambda database: database.write(transfer.import_tenant, file, contents, progress))
    report_contents(f"tenant {header.tenant} imported", contents)


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace FILE if it is there.")


@main.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@tenant_option
@overwrite_option
def export_command(file: Path, tenant: str | None, overwrite: bool) -> None:
    """Write everything of one tenant to a file, for `proxima import tenant` on another database."""
    with (
        progress_bar() as progress,
        backup_format.replace_atomically(file, overwrite=overwrite, progress=progress) as target,
    ):
        contents = with_database(
            lambda database: database.read(transfer.export_tenant, target, tenant, now(), progress)
        )
    report_contents(f"exported to {file}", contents)


@main.command("backup")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@overwrite_option
def backup_command(file: Path, overwrite: bool) -> None:
    """Write everything to a file, as it is at this moment; the service may run meanwhile."""
    with (
        progress_bar() as progress,
        backup_format.replace_atomically(file, overwrite=overwrite, progress=progress) as target,
    ):
        contents = with_any_database(lambda database: database.read(transfer.dump_database, target, now(), progress))
    report_contents(f"backed up to {file}", contents)


@main.command("restore")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def restore_command(file: Path) -> None:
    """Make an empty database, of either kind, into that of a file of `proxima backup` or `proxima export`."""
    url = read_settings().database_url
    with progress_bar() as progress:
        _, contents = backup_format.check_backup(file, progress)
        run_exclusively(url, lambda db: transfer.restore(db, file, contents, progress))
    report_contents(f"restored from {file}", contents)


def report_contents(done: str, contents: backup_format.Contents) -> None:
    """Say what a file holds, and the hash by which two databases are compared."""
    counts = ((contents.rows.get(table, 0), name) for table, name in REPORTED_TABLES)
    listed = ", ".join(f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in counts)
    click.echo(f"{done}: {listed}, {contents.total:,} rows in all")
    click.echo(f"state {contents.state}")


@main.command("calibrate")
@course_option
@tenant_option
@click.option("--activate", is_flag=True, help="Put the result in force, unless it predicts worse.")
@click.option("--force", is_flag=True, help="With --activate: even if it predicts worse.")
def calibrate_command(course: str, tenant: str | None, activate: bool, force: bool) -> None:
    """Fit item difficulties, skill rates and population to the answers of a course, and say what would change."""
    if force and not activate:
        raise click.UsageError("--force says how to --activate; give both")

    async def run(database: Database) -> None:
        tenant_id = await database.write(choose_tenant, tenant, now())
        await calibrate_course(database, tenant_id, course, activate=activate, force=force)

    with_database(run)


async def calibrate_course(
    database: Database, tenant_id: int, course: str, *, activate: bool, force: bool = False
) -> None:
    """Calibrate a course and say what it brought."""
    claim = await database.write(
        calibrations.call_at_database_time, calibrations.request_calibration, tenant_id, course
    )
    with progress_bar() as progress:
        await finish_calibration(
            database,
            read_settings().database_url,
            claim,
            lambda stage, share: progress(f"calibrating: {stage}", share, 1),
        )
    calibration = await database.read(calibrations.describe_calibration, tenant_id, course, claim.number)
    if calibration["error"]:
        raise Invalid(calibration["error"])
    for line in describe_report(calibration["id"], calibration["report"]):
        click.echo(line)
    if activate:
        await database.write(
            calibrations.call_at_database_time, calibrations.activate, tenant_id, course, claim.number, force=force
        )
        replayed = await rebuild_course(database, tenant_id, course)
        click.echo(f"calibration {calibration['id']} is in force; {replayed:,} learners were folded again")


def describe_report(id_: str, report: dict[str, Any]) -> Iterator[str]:
    """What a calibration brought and what it would change."""
    before = report["compared_with"] or "the defaults"
    verdict = "better" if report["log_loss_after"] < report["log_loss_before"] else "no better"
    yield (
        f"calibration {id_}: {report['responses']:,} answers of {report['learners']:,} learners; held-out log "
        f"loss {report['log_loss_before']:.4f} before, {report['log_loss_after']:.4f} after; "
        f"AUC {report['auc_before']:.3f}, {report['auc_after']:.3f}: {verdict} than {before}"
    )
    scale = report["scale"]
    if scale is not None:
        drifted = f", without {', '.join(scale['drifted_items'])}" if scale["drifted"] else ""
        yield f"scale: moved by {scale['shift']:+.3f} logits, by {scale['anchors']:,} anchors{drifted}"
    changed = ", ".join(f"{item['item']} {item['change']:+.2f}" for item in report["most_changed_items"][:FEW])
    yield f"items: {report['items_changed']:,} changed by more than .25 logits{': ' if changed else ''}{changed}"
    mastery = report["mastery"]
    skills = ", ".join(f"{skill['skill']} +{skill['gained']:,} −{skill['lost']:,}" for skill in mastery["skills"][:FEW])
    yield (
        f"mastery: {mastery['gained']:,} gained and {mastery['lost']:,} lost, by {mastery['learners']:,} "
        f"learners{': ' if skills else ''}{skills}"
    )


@main.command("evaluate")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--split-column", help="Says who is predicted: `test` learners, or folds.  [default: split, if there]")
@click.option("--folds", type=click.IntRange(2, 50), help="Divide the learners into so many folds instead.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def evaluate_command(file: Path, split_column: str | None, folds: int | None, as_json: bool) -> None:
    """Compare the engine with the models of the field on the answers of a file; needs no database.

    Every model predicts each answer of learners it was not fitted to. Without a column `split` there are 5 folds.
    """
    with progress_bar() as progress:
        report = evaluate.evaluate(file, split_column, folds, progress)
    if report.rejections:
        first = report.rejections[0]
        rows = "row" if len(report.rejections) == 1 else "rows"
        click.echo(f"{len(report.rejections):,} {rows} left out; line {first.line}: {first.reason}", err=True)
    click.echo(json.dumps(evaluate.as_json(report), indent=1) if as_json else evaluate.as_table(report))


@main.command("fit")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", required=True, type=click.Choice([*get_args(Model), "bkt"]), help="What to fit.")
@click.option("--no-priors", is_flag=True, help="Not for bkt: maximum likelihood.")
@click.option("--categories", type=click.IntRange(2, 21), help="graded, gpcm, pcm: of each item.  [default: found]")
@click.option("--forgets", is_flag=True, help="bkt: skills may be forgotten.")
@click.option("--per-item", is_flag=True, help="bkt: every item has a guess and a slip of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@click.option("--catalogue", type=click.Path(dir_okay=False, path_type=Path), help="Write calibrated items to a .json.")
def fit_command(
    file: Path, model: Model | Literal["bkt"], as_json: bool, catalogue: Path | None, **options: Any
) -> None:
    """Fit an item response model, or knowledge tracing, to the answers of a file; needs no database.

    An item response model takes the first answer of each learner to each item; knowledge tracing takes all.
    """
    check_fit(model, catalogue, **options)
    if model == "bkt":
        with progress_bar() as progress:
            traced = fit.fit_skills(file, Setup(forgets=options["forgets"], per_item=options["per_item"]), progress)
        report_left_out(traced.file.sample.rejections)
        click.echo(json.dumps(fit.skills_json(traced), indent=1) if as_json else fit.skills_table(traced))
        return
    with progress_bar() as progress:
        priors = FLAT if options["no_priors"] else Priors()
        fitted = fit.fit_items(file, model, priors, options["categories"], progress)
    report_left_out(fitted.file.sample.rejections)
    click.echo(json.dumps(fit.items_json(fitted), indent=1) if as_json else fit.items_table(fitted))
    if catalogue is not None:
        body = validate_catalogue(catalogue.name, fit.build_catalogue(fitted))
        write_catalogue(catalogue, body)
        click.echo(f"{len(body['items']):,} of {len(fitted.file.items):,} items written to {catalogue}", err=True)


@main.group("simulate")
def simulate_group() -> None:
    """Try on simulated learners what is hard to try on real ones; needs no database."""


@simulate_group.command("practice")
@click.option(
    "--world", "worlds", multiple=True, type=click.Choice(practice_study.WORLD_NAMES), help="May be repeated.  [all]"
)
@click.option(
    "--policy", "policies", multiple=True, type=click.Choice(practice_study.POLICY_NAMES), help="Likewise.  [all]"
)
@click.option("--learners", default=1200, show_default=True, type=click.IntRange(1, 100_000), help="In each world.")
@click.option(
    "--seed", default=practice_study.REPORTING_SEED, show_default=True, type=click.IntRange(0), help="Of all chance."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="A folder for a plot of each world.")
def simulate_practice(
    worlds: tuple[str, ...], policies: tuple[str, ...], learners: int, seed: int, as_json: bool, plots: Path | None
) -> None:
    """Compare policies by the exercises it takes until 90 % of the skills are truly mastered."""
    if plots:
        practice_study.need_matplotlib()
    with progress_bar() as progress:
        report = practice_study.run_practice_study(
            worlds or practice_study.WORLD_NAMES, policies or practice_study.POLICY_NAMES, learners, seed, progress
        )
    click.echo(json.dumps(practice_study.as_json(report), indent=1) if as_json else practice_study.as_table(report))
    for path in practice_study.save_plots(report, plots) if plots else ():
        click.echo(f"{path} written", err=True)


@simulate_group.command("test")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--rule", "rules", multiple=True, type=click.Choice(RULES), help="May be repeated.  [the first and random]"
)
@click.option("--standard-error", type=click.FloatRange(0, min_open=True), help="Of θ, ends a test.  [0.3, if no end]")
@click.option("--max-items", type=click.IntRange(1), help="The greatest length.  [that of the constraints, or 200]")
@click.option("--randomesque", default=1, show_default=True, type=click.IntRange(1), help="One of so many best items.")
@click.option(
    "--exposure", type=click.FloatRange(0, 1, min_open=True), help="Also with Sympson–Hetter: no item more often."
)
@click.option("--content", metavar="COLUMN", help="Give its values in their shares of the bank.")
@click.option(
    "--constraints",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Bounds of a test, as TestDesign has them: count the broken ones.",
)
@click.option("--shadow", is_flag=True, help="Keep the constraints, by shadow tests.")
@click.option(
    "--cut", "cuts", multiple=True, type=float, help="End when it is clear on which side θ is. May be repeated."
)
@click.option("--method", default="interval", show_default=True, type=click.Choice(METHODS), help="How that is clear.")
@click.option(
    "--scaling", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True), help="D of the files."
)
@click.option(
    "--learners", default=250, show_default=True, type=click.IntRange(2, 100_000), help="Of each rule and bank."
)
@click.option(
    "--seed",
    default=practice_study.REPORTING_SEED,
    show_default=True,
    type=click.IntRange(0, 2**32),
    help="Of all chance.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option("--plots", type=click.Path(file_okay=False, path_type=Path), help="A folder for a plot of each bank.")
def simulate_test(files: tuple[Path, ...], as_json: bool, plots: Path | None, **options: Any) -> None:
    """Give adaptive tests from banks of items (CSV) and tell length, accuracy, exposure and content."""
    if options["shadow"] and options["constraints"] is None:
        raise click.UsageError("--shadow keeps --constraints: name their file")
    if options["shadow"] and options["content"] is not None:
        raise click.UsageError("--shadow goes with no --content: give the constraints shares of it")
    if plots:
        practice_study.need_matplotlib()
    banks, constraint_sets = [], []
    for file in files:
        bank, constraints = item_parameters.read_item_file(file, options["scaling"]), None
        if options["constraints"] is not None:
            bank, constraints = item_parameters.read_constraints(options["constraints"], bank)
            if constraints.left_out:
                click.echo(f"{bank.name}: left out of the constraints: {', '.join(constraints.left_out)}", err=True)
        banks.append(bank)
        constraint_sets.append(constraints)
    study_options = cat_study.CatStudyOptions(
        rules=options["rules"] or ("max_information", "random"),
        learners=options["learners"],
        seed=options["seed"],
        standard_error=options["standard_error"],
        max_items=options["max_items"],
        randomesque=options["randomesque"],
        target=options["exposure"],
        content=options["content"],
        shadow=options["shadow"],
        cuts=tuple(sorted(options["cuts"])),
        method=options["method"],
    )
    with progress_bar() as progress:
        report = cat_study.run_cat_study(banks, constraint_sets, study_options, progress)
    click.echo(json.dumps(cat_study.as_json(report), indent=1) if as_json else cat_study.as_table(report))
    for path in cat_study.save_plots(report, plots) if plots else ():
        click.echo(f"{path} written", err=True)


def check_fit(
    model: str, catalogue: Path | None, no_priors: bool, categories: int | None, forgets: bool, per_item: bool
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


def report_left_out(rejections: Sequence[Rejection]) -> None:
    """Say how many rows of a file could not be used, and why the first could not."""
    if rejections:
        rows = "row" if len(rejections) == 1 else "rows"
        click.echo(f"{len(rejections):,} {rows} left out; line {rejections[0].line}: {rejections[0].reason}", err=True)


def write_catalogue(path: Path, body: dict[str, Any]) -> None:
    """Write a catalogue for `proxima import catalogue`."""
    try:
        path.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise InvalidFile(f"{path.name} cannot be written: {error.strerror or error}.") from error


@main.command()
@click.option("--verify", is_flag=True, required=True, expose_value=False, help="Recompute and compare.")
def replay() -> None:
    """Recompute every snapshot, outcome and recommendation from the log; exit 1 on the first difference."""

    async def run(database: Database) -> list[str]:
        differences: list[str] = []
        for tenant_id, name in await database.read(list_tenants):
            for course in await database.read(list_courses, tenant_id):
                with progress_bar() as progress:
                    total = await verify_course(
                        database,
                        tenant_id,
                        course,
                        lambda part: progress(f"{part.responses:,} answers", 0, 1),
                    )
                click.echo(
                    f"{name}/{course}: {total.learners:,} learners, {total.responses:,} answers, "
                    f"{total.recommendations:,} recommendations, {total.sessions:,} sessions, "
                    f"{total.stale:,} snapshots to be folded again, "
                    f"{total.other_engine:,} told by another engine, "
                    f"{len(total.differences)} differences"
                )
                differences += total.differences
        return differences

    differences = with_database(run)
    for difference in differences[:20]:
        click.echo(difference, err=True)
    if differences:
        sys.exit(FAILED)


@main.command()
def doctor() -> None:
    """Check everything the service needs, one line each; exit 1 if something is wrong."""
    findings = [(name, *run_check(check)) for name, check in CHECKS]
    for name, passed, message in findings:
        click.echo(f"{'ok  ' if passed else 'FAIL'}  {name}: {message}")
    if not all(passed for _, passed, _ in findings):
        sys.exit(FAILED)


def run_check(check: Callable[[], str]) -> tuple[bool, str]:
    """Whether a check went well, and what it says."""
    try:
        return True, check()
    except ProximaError as error:
        return False, error.detail


def check_settings() -> str:
    """The settings can be read."""
    return f"{read_settings().database_url.split('://')[0]}, log level {read_settings().log_level}"


def check_schema() -> str:
    """The database answers and is migrated."""
    with_database(need_migrated)
    return "the tables are those of this program"


def check_durability() -> str:
    """An acknowledged answer survives a crash."""
    faults = with_database(lambda database: database.read(durability_faults))
    if faults:
        raise Invalid("; ".join(faults))
    return "every commit is synced to the disk"


def check_connections() -> str:
    """The database has a connection for each one that a worker may ask for."""
    size, allowed = read_settings().pool_size, with_database(lambda database: database.read(connections_allowed))
    if allowed is None:
        return "SQLite needs none"
    if allowed < size:
        raise Invalid(f"a worker may ask for {size}, and the database has {allowed}; lower PROXIMA_POOL_SIZE")
    return f"{size} a worker, and the database has {allowed}: enough for {allowed // size}"


def check_disk() -> str:
    """There is room where SQLite writes."""
    url = read_settings().database_url
    folder = Path(url.removeprefix("sqlite:///")).resolve().parent if url.startswith("sqlite") else Path.cwd()
    free = shutil.disk_usage(folder).free
    if free < 1 << 28:
        raise Invalid(f"only {free >> 20} MiB are free; make room")
    return f"{free >> 30} GiB free"


def check_keys() -> str:
    """Somebody can call."""

    async def count(database: Database) -> int:
        tenants = await database.read(list_tenants)
        rows = [row for _, name in tenants for row in await database.read(list_keys, name)]
        return sum(row.revoked_at is None for row in rows)

    keys = with_database(count)
    if not keys:
        raise Invalid("no key is in force; make one with `proxima key create`")
    return f"{keys} in force"


def check_snapshots() -> str:
    """How many learners wait to be folded again."""

    async def count(database: Database) -> int:
        total = 0
        for tenant_id, _ in await database.read(list_tenants):
            for course in await database.read(list_courses, tenant_id):
                total += await database.read(count_stale, tenant_id, course)
        return total

    return f"{with_database(count):,} to be folded again when they are next read"


CHECKS: tuple[tuple[str, Callable[[], str]], ...] = (
    ("settings", check_settings),
    ("database", check_schema),
    ("durability", check_durability),
    ("connections", check_connections),
    ("disk", check_disk),
    ("keys", check_keys),
    ("snapshots", check_snapshots),
)
