"""Run by Alembic: on the connection of `app.core.migrate`, or on one of its own for a developer's command."""

from collections.abc import Collection, Mapping
from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from sqlalchemy import Connection

from app.core.migrate import after_step, run_exclusively
from app.core.settings import read_settings
from app.models import Base


def run(connection: Connection) -> None:
    """Run the revisions Alembic was asked for on `connection`; each has a transaction, unless one is open for all."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
        transaction_per_migration=True,
        on_version_apply=finish_step,
    )
    with context.begin_transaction():
        context.run_migrations()


def finish_step(
    ctx: MigrationContext,
    step: MigrationInfo,
    heads: Collection[str],
    run_args: Mapping[str, Any],  # noqa: ARG001 (Alembic passes it by this name)
) -> None:
    """Called by Alembic at the end of each revision."""
    asked = context.get_x_argument(as_dictionary=True).get("lose-data") == "yes"
    lose_data = asked or context.config.attributes.get("lose_data", False)
    after_step(step, heads, connection_of(ctx), lose_data=lose_data)


def connection_of(ctx: MigrationContext) -> Connection:
    """The connection that Alembic works on."""
    if ctx.connection is None:
        raise RuntimeError("revisions run on a database only")
    return ctx.connection


if "connection" in context.config.attributes:
    run(context.config.attributes["connection"])
else:
    run_exclusively(read_settings().database_url, run)
