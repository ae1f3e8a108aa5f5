"""Run by Alembic: inside the transaction of `app.migrate`, or in one of its own for a developer's command."""

from alembic import context
from sqlalchemy import Connection

from app.migrate import alone
from app.models import Base
from app.settings import read_settings


def run(connection: Connection) -> None:
    """Run the revisions Alembic was asked for on `connection`, whose transaction is open."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        render_as_batch=connection.dialect.name == "sqlite",
    )
    context.run_migrations()


if "connection" in context.config.attributes:
    run(context.config.attributes["connection"])
else:
    alone(read_settings().database_url, run)
