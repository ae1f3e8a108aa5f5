"""`proxima migrate`."""

import click

from app.core.migrate import migrate
from app.core.settings import read_settings


def migrate_database(to: str | None, *, lose_data: bool) -> None:
    """Bring the database to the version of this program, or to another revision."""
    migrate(read_settings().database_url, to, lose_data=lose_data)
    click.echo(f"the database is at revision {to}" if to else "the database is up to date")
