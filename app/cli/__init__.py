"""The command line: `proxima`.

Here is what can be asked; what is done then is in a module for each subject, imported when its command is called. So
`proxima --help` costs what click costs, and not what the engine and the service do.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import click

from app import __version__
from app.core.errors import InvalidSetting, NotMigrated, ProximaError, Unavailable
from app.core.security import SCOPES

FAILED, MISCONFIGURED = 1, 3
UNUSABLE = "the database does not answer"
# The engine's own names: importing them would load it, so they are repeated here, and a test compares them.
Model = Literal["rasch", "2pl", "3pl", "4pl", "graded", "gpcm", "pcm", "bkt"]
Rule = Literal["max_information", "min_expected_posterior_variance", "kullback_leibler", "random"]
Method = Literal["interval", "sprt"]
WORLDS = ("binary", "growth", "growth_forgetting", "factors", "spacing", "guessing", "wrong_graph")
POLICIES = (
    "service",
    "first_doubts",
    "linear",
    "linear_target",
    "linear_best",
    "linear_bkt",
    "gain",
    "alosi",
    "lowest",
    "random",
    "information",
    "oracle",
)
# Not one of the seeds that the constants of the policies were chosen on (docs/simulation.md).
SEED = 2026


class _Commands(click.Group):
    """A group whose errors are one readable line and an exit code: 1 what failed, 3 what must be set up first."""

    def make_context(
        self,
        info_name: str | None,  # noqa: ARG002 (click's signature)
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,
    ) -> click.Context:
        # A checkout and the container start it with `python -c`, which would be its name in the help.
        return super().make_context("proxima", args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ProximaError as error:
            click.echo(f"proxima: {say_error(error)}", err=True)
            for fault in error.faults:
                click.echo(f"  {fault.pointer}: {fault.detail}", err=True)
            is_away = isinstance(error, Unavailable) and ctx.invoked_subcommand == "serve"
            ctx.exit(MISCONFIGURED if is_away or isinstance(error, (InvalidSetting, NotMigrated)) else FAILED)
        except Exception as error:
            reason = _explain(error)
            if reason is None:
                raise
            click.echo(f"proxima: {UNUSABLE}: {reason}", err=True)
            ctx.exit(MISCONFIGURED if ctx.invoked_subcommand == "serve" else FAILED)


def say_error(error: ProximaError) -> str:
    """What an error says; if it is that the database does not answer, also why."""
    reason = _explain(error)
    return error.detail if reason is None else f"{UNUSABLE}: {reason}"


def _explain(error: Exception) -> str | None:
    """Why the database does not answer, if the error is about that."""
    if "app.core.database" not in sys.modules:
        return None
    from app.core.database import explain

    return explain(error)


EXISTING_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
NEW_FILE = click.Path(dir_okay=False, path_type=Path)
NEW_FOLDER = click.Path(file_okay=False, path_type=Path)
POSITIVE = click.FloatRange(0, min_open=True)
PORT = click.IntRange(0, 65535)

course_option = click.option("--course", required=True, help="The course's id.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
max_score_option = click.option(
    "--max-score", type=click.FloatRange(0, min_open=True), help="What the scores are out of.  [default: 1]"
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace FILE if it exists.")
tenant_option = click.option("--tenant", help="The course's tenant.  [default: the only one there is]")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="proxima")
def main() -> None:
    """Adaptive learning as a service: what each learner has mastered, how sure that is, and what comes next."""


@main.command("migrate")
@click.option("--to", metavar="REVISION", help="Go up or down to this revision; `base` removes all tables.")
@click.option("--lose-data", is_flag=True, help="Go down even if the older tables cannot hold all data.")
def migrate_command(to: str | None, lose_data: bool) -> None:
    """Bring the database to the version of this program, or to another revision."""
    from app.cli.migrate import migrate_database

    migrate_database(to, lose_data=lose_data)


@main.command("serve")
@click.option("--host", default="127.0.0.1", show_default=True, help="Listen at this address.")
@click.option("--port", default=8000, show_default=True, type=PORT, help="Listen at this port.")
@click.option(
    "--workers", default=1, show_default=True, type=click.IntRange(1, 64), help="Serve with this many processes."
)
def serve_command(host: str, port: int, workers: int) -> None:
    """Serve the HTTP interface."""
    from app.cli.service import serve

    serve(host, port, workers)


@main.command("demo")
@click.option("--port", default=8000, show_default=True, type=PORT, help="Listen at this port.")
def demo_command(port: int) -> None:
    """From an empty machine to a running service with the sample course and its real answers."""
    from app.cli.demo import run_demo

    run_demo(port)


@main.group("key")
def key_group() -> None:
    """Make, list and revoke API keys."""


@key_group.command("create")
@click.option("--tenant", required=True, help="Tenant whose data the key opens; made if it is new.")
@click.option(
    "--scope", "scopes", required=True, multiple=True, type=click.Choice(list(SCOPES)), help="May be repeated."
)
def key_create_command(tenant: str, scopes: tuple[str, ...]) -> None:
    """Print a new key, alone on standard output. It is stored as a hash and cannot be shown again."""
    from app.cli.keys import print_new_key

    print_new_key(tenant, scopes)


@key_group.command("list")
@click.option("--tenant", required=True, help="Tenant whose keys are listed.")
def key_list_command(tenant: str) -> None:
    """List the keys of a tenant, without their secrets."""
    from app.cli.keys import print_keys

    print_keys(tenant)


@key_group.command("revoke")
@click.argument("key_id")
@click.option("--tenant", required=True, help="Tenant whose key it is.")
def key_revoke_command(key_id: str, tenant: str) -> None:
    """Revoke a key: within five seconds no worker accepts it."""
    from app.cli.keys import revoke

    revoke(key_id, tenant)


@main.group("import")
def import_group() -> None:
    """Load a catalogue or answers from a file."""


@import_group.command("catalogue")
@click.argument("file", type=EXISTING_FILE)
@click.option("--course", help="The course's id.  [default: the name of FILE without its ending]")
@tenant_option
def import_catalogue_command(file: Path, course: str | None, tenant: str | None) -> None:
    """Load skills and items: JSON as for PUT …/catalogue, or a table of items as CSV or NDJSON."""
    from app.cli.imports import load_catalogue

    load_catalogue(file, course, tenant)


@import_group.command("responses")
@click.argument("file", type=EXISTING_FILE)
@course_option
@tenant_option
@click.option("--dry-run", is_flag=True, help="Check the file and store nothing.")
@max_score_option
def import_responses_command(
    file: Path, course: str, tenant: str | None, dry_run: bool, max_score: float | None
) -> None:
    """Load answers (CSV, NDJSON, Parquet); rows that cannot be loaded go to FILE.rejected.csv.

    Started again after an interruption, it goes on where it was, up to 100,000 rows before; nothing is loaded twice.
    """
    from app.cli.imports import check_responses, load_responses

    if dry_run:
        check_responses(file, max_score)
    else:
        load_responses(file, course, tenant, max_score)


@import_group.command("tenant")
@click.argument("file", type=EXISTING_FILE)
def import_tenant_command(file: Path) -> None:
    """Add the tenant of a file of `proxima export`, under the number and the name it has there."""
    from app.cli.backups import import_tenant

    import_tenant(file)


@main.command("export")
@click.argument("file", type=NEW_FILE)
@tenant_option
@overwrite_option
def export_command(file: Path, tenant: str | None, overwrite: bool) -> None:
    """Write everything of one tenant to a file, for `proxima import tenant` on another database."""
    from app.cli.backups import export

    export(file, tenant, overwrite=overwrite)


@main.command("backup")
@click.argument("file", type=NEW_FILE)
@overwrite_option
def backup_command(file: Path, overwrite: bool) -> None:
    """Write everything to a file, as it is at this moment; the service may run meanwhile."""
    from app.cli.backups import back_up

    back_up(file, overwrite=overwrite)


@main.command("restore")
@click.argument("file", type=EXISTING_FILE)
def restore_command(file: Path) -> None:
    """Make an empty database, of either kind, into that of a file of `proxima backup` or `proxima export`."""
    from app.cli.backups import restore

    restore(file)


@main.command("calibrate")
@course_option
@tenant_option
@click.option("--activate", is_flag=True, help="Put the result in force, unless it predicts worse.")
@click.option("--force", is_flag=True, help="With --activate: even if it predicts worse.")
@click.option(
    "--leave-out-learners", "learners", type=EXISTING_FILE, help="Leave out the learners in this file, an id a line."
)
@click.option(
    "--leave-out-span",
    "spans",
    nargs=2,
    multiple=True,
    metavar="SINCE UNTIL",
    help="Leave out the answers of this time; `-` is no end. May be repeated.",
)
def calibrate_command(
    course: str,
    tenant: str | None,
    activate: bool,
    force: bool,
    learners: Path | None,
    spans: tuple[tuple[str, str], ...],
) -> None:
    """Fit item difficulties, skill rates and population to the answers of a course, and say what would change."""
    if force and not activate:
        raise click.UsageError("--force says how to --activate; give both")
    from app.cli.calibrate import calibrate

    calibrate(course, tenant, activate=activate, force=force, learners=learners, spans=spans)


@main.command("evaluate")
@click.argument("file", type=EXISTING_FILE)
@click.option(
    "--split-column",
    help="Predict the learners with `test` in this column, or its values in turn.  [default: split, if there]",
)
@click.option("--folds", type=click.IntRange(2, 50), help="Divide the learners into this many folds instead.")
@max_score_option
@json_option
def evaluate_command(
    file: Path, split_column: str | None, folds: int | None, max_score: float | None, as_json: bool
) -> None:
    """Compare the engine with the models of the field on the answers of a file; needs no database.

    Every model predicts each answer of learners it was not fitted to. Without a column `split` there are 5 folds.
    """
    from app.cli.evaluate import print_evaluation

    print_evaluation(file, split_column, folds, max_score, as_json=as_json)


@main.command("fit")
@click.argument("file", type=EXISTING_FILE)
@click.option("--model", required=True, type=click.Choice(get_args(Model)), help="Fit this model.")
@click.option("--no-priors", is_flag=True, help="Not for bkt: use the likelihood alone.")
@click.option(
    "--categories", type=click.IntRange(2, 21), help="graded, gpcm, pcm: categories of each item.  [default: found]"
)
@click.option("--forgets", is_flag=True, help="bkt: let skills be forgotten.")
@click.option("--per-item", is_flag=True, help="bkt: give every item a guess and a slip of its own.")
@max_score_option
@json_option
@click.option("--catalogue", type=NEW_FILE, help="Write the calibrated items to this .json.")
def fit_command(
    file: Path, model: Model, max_score: float | None, as_json: bool, catalogue: Path | None, **options: Any
) -> None:
    """Fit an item response model, or knowledge tracing, to the answers of a file; needs no database.

    An item response model takes the first answer of each learner to each item; knowledge tracing takes all.
    """
    from app.cli.fit import print_fit

    print_fit(file, model, catalogue, max_score, as_json=as_json, **options)


@main.group("simulate")
def simulate_group() -> None:
    """Try on simulated learners what is hard to try on real ones; needs no database."""


def _learners_option(default: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """How many learners a study simulates."""
    return click.option(
        "--learners",
        default=default,
        show_default=True,
        type=click.IntRange(1, 100_000),
        help="Simulate this many learners in each world.",
    )


seed_option = click.option(
    "--seed", default=SEED, show_default=True, type=click.IntRange(0), help="Seed of all random numbers."
)


@simulate_group.command("practice")
@click.option("--world", "worlds", multiple=True, type=click.Choice(WORLDS), help="May be repeated.  [default: all]")
@click.option(
    "--policy", "policies", multiple=True, type=click.Choice(POLICIES), help="May be repeated.  [default: all]"
)
@_learners_option(1200)
@seed_option
@json_option
@click.option("--plots", type=NEW_FOLDER, help="Draw each world into this folder.")
def simulate_practice_command(
    worlds: tuple[str, ...], policies: tuple[str, ...], learners: int, seed: int, as_json: bool, plots: Path | None
) -> None:
    """Compare policies by the exercises it takes until 90 % of the skills are truly mastered."""
    from app.cli.simulate import print_practice_study

    print_practice_study(worlds or WORLDS, policies or POLICIES, learners, seed, plots, as_json=as_json)


@simulate_group.command("truth")
@click.option("--world", "worlds", multiple=True, help="May be repeated.  [default: all]")
@_learners_option(300)
@seed_option
@json_option
def simulate_truth_command(worlds: tuple[str, ...], learners: int, seed: int, as_json: bool) -> None:
    """Hold what the engine tells to a known truth, before and after a calibration, in worlds of many kinds."""
    from app.cli.simulate import print_truth_study

    print_truth_study(worlds, learners, seed, as_json=as_json)


@simulate_group.command("test")
@click.argument("files", nargs=-1, required=True, type=EXISTING_FILE)
@click.option(
    "--rule",
    "rules",
    multiple=True,
    type=click.Choice(get_args(Rule)),
    default=("max_information", "random"),
    help="Select items by this rule; may be repeated.  [default: max_information, random]",
)
@click.option(
    "--standard-error",
    type=POSITIVE,
    help="Stop when the standard error of θ is at most this.  [default: 0.3 if no other rule stops the test]",
)
@click.option(
    "--max-items",
    type=click.IntRange(1),
    help="Stop after this many items.  [default: that of the constraints, or 200]",
)
@click.option(
    "--randomesque",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    help="Choose at random among this many best items.",
)
@click.option(
    "--exposure",
    type=click.FloatRange(0, 1, min_open=True),
    help="Add each rule again with Sympson–Hetter exposure control at this maximum rate.",
)
@click.option("--content", metavar="COLUMN", help="Give the values of this column in their shares of the item bank.")
@click.option(
    "--constraints",
    type=EXISTING_FILE,
    help="Count the tests that break these bounds, as TestDesign writes them.",
)
@click.option("--shadow", is_flag=True, help="Keep the constraints, by shadow tests.")
@click.option(
    "--cut",
    "cuts",
    multiple=True,
    type=float,
    help="Stop when it is clear on which side of this θ is. May be repeated.",
)
@click.option(
    "--method",
    default="interval",
    show_default=True,
    type=click.Choice(get_args(Method)),
    help="Decide by this method whether it is clear.",
)
@click.option("--scaling", default=1.0, show_default=True, type=POSITIVE, help="Scaling constant D of the files.")
@click.option(
    "--learners",
    default=250,
    show_default=True,
    type=click.IntRange(2, 100_000),
    help="Simulate this many examinees for each rule and item bank.",
)
@click.option(
    "--seed", default=SEED, show_default=True, type=click.IntRange(0, 2**32), help="Seed of all random numbers."
)
@json_option
@click.option("--plots", type=NEW_FOLDER, help="Draw each item bank into this folder.")
def simulate_test_command(files: tuple[Path, ...], as_json: bool, plots: Path | None, **options: Any) -> None:
    """Give adaptive tests from item banks (CSV) and report length, accuracy, exposure and content."""
    if options["shadow"] and options["constraints"] is None:
        raise click.UsageError("--shadow keeps --constraints: name their file")
    if options["shadow"] and options["content"] is not None:
        raise click.UsageError("--shadow goes with no --content: give the constraints shares of it")
    from app.cli.simulate import print_cat_study

    print_cat_study(files, plots, as_json=as_json, **options)


@main.command("replay")
@click.option("--verify", is_flag=True, required=True, expose_value=False, help="Recompute and compare.")
def replay_command() -> None:
    """Recompute every snapshot, outcome and recommendation from the log; exit 1 on the first difference."""
    from app.cli.verify import verify_all

    if not verify_all():
        sys.exit(FAILED)


@main.command("doctor")
@click.option("--course", help="Screen the items and learners of this course as well.")
@tenant_option
def doctor_command(course: str | None, tenant: str | None) -> None:
    """Check everything the service needs, one line each; exit 1 if something is wrong."""
    if tenant is not None and course is None:
        raise click.UsageError("--tenant says whose --course it is; give both")
    from app.cli.doctor import check_all

    if not check_all(course, tenant):
        sys.exit(FAILED)
