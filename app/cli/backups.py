"""`proxima export`, `proxima import tenant`, `proxima backup` and `proxima restore`."""

from pathlib import Path

import click

from app.cli.database import with_any_database, with_database
from app.cli.progress import progress_bar
from app.core.migrate import run_exclusively
from app.core.settings import read_settings
from app.core.times import now
from app.files import backup_format
from app.services import transfer

REPORTED_TABLES = (("tenant", "tenant"), ("course", "course"), ("learner", "learner"), ("response", "answer"))


def export(file: Path, tenant: str | None, *, overwrite: bool) -> None:
    """Write everything of one tenant to a file, for `proxima import tenant` on another database."""
    with (
        progress_bar() as progress,
        backup_format.replace_atomically(file, overwrite=overwrite, progress=progress) as target,
    ):
        contents = with_database(
            lambda database: database.read(transfer.export_tenant, target, tenant, now(), progress)
        )
    _report_contents(f"exported to {file}", contents)


def import_tenant(file: Path) -> None:
    """Add the tenant of a file of `proxima export`, under the number and the name it has there."""
    with progress_bar() as progress:
        header, contents = backup_format.check_backup(file, progress)
        with_database(lambda database: database.write(transfer.import_tenant, file, contents, progress))
    _report_contents(f"tenant {header.tenant} imported", contents)


def back_up(file: Path, *, overwrite: bool) -> None:
    """Write everything to a file, as it is at this moment; the service may run meanwhile."""
    with (
        progress_bar() as progress,
        backup_format.replace_atomically(file, overwrite=overwrite, progress=progress) as target,
    ):
        contents = with_any_database(lambda database: database.read(transfer.dump_database, target, now(), progress))
    _report_contents(f"backed up to {file}", contents)


def restore(file: Path) -> None:
    """Make an empty database, of either kind, into that of a file of `proxima backup` or `proxima export`."""
    url = read_settings().database_url
    with progress_bar() as progress:
        _, contents = backup_format.check_backup(file, progress)
        run_exclusively(url, lambda db: transfer.restore(db, file, contents, progress))
    _report_contents(f"restored from {file}", contents)


def _report_contents(done: str, contents: backup_format.Contents) -> None:
    """Say what a file holds, and the hash by which two databases are compared."""
    counts = ((contents.rows.get(table, 0), name) for table, name in REPORTED_TABLES)
    listed = ", ".join(f"{count:,} {name}{'' if count == 1 else 's'}" for count, name in counts)
    click.echo(f"{done}: {listed}, {contents.total:,} rows in all")
    click.echo(f"state {contents.state}")
