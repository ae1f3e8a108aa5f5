"""`proxima key`."""

from collections.abc import Sequence

import click

from app.cli.database import with_database
from app.core.times import now, to_text
from app.services import keys


def print_new_key(tenant: str, scopes: Sequence[str]) -> None:
    """Make a key and print it."""
    click.echo(with_database(lambda database: database.write(keys.create_key, tenant, list(scopes), now())).text)


def print_keys(tenant: str) -> None:
    """Print the keys of a tenant, without their secrets."""
    for row in with_database(lambda database: database.read(keys.list_keys, tenant)):
        state = "in force" if row.revoked_at is None else f"revoked {to_text(row.revoked_at)}"
        click.echo(f"{row.id}  {state}  made {to_text(row.created_at)}  {' '.join(row.scopes)}")


def revoke(key_id: str, tenant: str) -> None:
    """Revoke a key: within five seconds no worker accepts it."""
    with_database(lambda database: database.write(keys.revoke_key, tenant, key_id, now()))
    click.echo(f"{key_id} is revoked")
