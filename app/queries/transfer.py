"""Whole tables, whatever they hold: read in one stream, written as they were.

Not the models but the database itself says which tables and columns there are: a backup of an older schema is read
and written as that schema, and a new table cannot be forgotten.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection, TableClause, func, inspect, select, text
from sqlalchemy.exc import StatementError
from sqlalchemy.types import TypeEngine

from app.core.database import is_unavailable
from app.core.errors import Invalid, InvalidFile, Unavailable
from app.files.backup_format import ColumnKind, Table
from app.models.base import Json

OWNER = "tenant"
BATCH_SIZE = 200
KINDS: dict[type[TypeEngine[Any]], ColumnKind] = {
    sa.Boolean: "boolean",
    sa.JSON: "json",
    sa.LargeBinary: "bytes",
    sa.Integer: "integer",
    sa.Float: "real",
    sa.String: "text",
}
TYPES: dict[ColumnKind, TypeEngine[Any]] = {
    "boolean": sa.Boolean(),
    "json": Json,
    "bytes": sa.LargeBinary(),
    "integer": sa.BigInteger(),
    "real": sa.Double(),
    "text": sa.Text(),
}
# table → why neither a backup nor an export holds it; a table that older files hold cannot be added
EXCLUDED_TABLES = {"quota_use": "it counts within windows of seconds, which are over when a file is read"}


def list_tables(db: Connection) -> list[Table]:
    """The tables of tenants, each after those it refers to, but for those left out."""
    inspector = inspect(db)
    names = [
        name
        for name, _ in inspector.get_sorted_table_and_fkc_names()
        if name is not None and name not in EXCLUDED_TABLES
    ]
    tables = [Table(name, {c["name"]: _column_kind(c["type"]) for c in inspector.get_columns(name)}) for name in names]
    ours = [table for table in tables if table.name == OWNER or "tenant_id" in table.columns]
    return [Table(table.name, dict(sorted(table.columns.items()))) for table in ours]


def _column_kind(type_: TypeEngine[Any]) -> ColumnKind:
    """What a column holds. Raises `Invalid` for a type that no table of ours has."""
    for known, kind in KINDS.items():
        if isinstance(type_, known):
            return kind
    raise Invalid(f"a column of the type {type_!r} cannot be backed up")


def _as_clause(table: Table) -> TableClause:
    """A table as statements need it."""
    return sa.table(table.name, *(sa.column(name, TYPES[kind]) for name, kind in table.columns.items()))


def _owner_column(clause: TableClause) -> sa.ColumnClause[Any]:
    """Where a table names the tenant."""
    return clause.c.id if clause.name == OWNER else clause.c.tenant_id


def count_rows(db: Connection, table: Table, tenant_id: int | None) -> int:
    """How many rows a table has; those of one tenant, if given."""
    clause = _as_clause(table)
    statement = select(func.count()).select_from(clause)
    if tenant_id is not None:
        statement = statement.where(_owner_column(clause) == tenant_id)
    return db.scalar(statement) or 0


def stream_rows(db: Connection, table: Table, tenant_id: int | None) -> Iterator[Sequence[Sequence[Any]]]:
    """The rows of a table in batches, in no order; those of one tenant, if given."""
    clause = _as_clause(table)
    statement = select(clause).execution_options(yield_per=BATCH_SIZE)
    if tenant_id is not None:
        statement = statement.where(_owner_column(clause) == tenant_id)
    yield from db.execute(statement).partitions()


def close_streams(db: Connection) -> None:
    """Let go of the tables that were read: PostgreSQL alters none while a cursor is open, even one at its end."""
    if db.dialect.name == "postgresql":
        db.execute(text("CLOSE ALL"))


def insert_table_rows(db: Connection, table: Table, rows: list[dict[str, Any]]) -> None:
    """Store rows as they are. Raises `InvalidFile` for what the table refuses."""
    try:
        db.execute(sa.insert(_as_clause(table)), rows)
    except (StatementError, OverflowError) as error:
        if not is_unavailable(error):
            raise InvalidFile(f"the table {table.name} cannot take its rows: they contradict each other") from error
        if db.dialect.name == "postgresql":
            raise
        raise Unavailable("the database is busy or its disk is full; try again") from error


def finish_load(db: Connection, tables: Sequence[Table]) -> None:
    """After rows were stored: numbers go on behind theirs, and the planner knows the tables."""
    if db.dialect.name == "postgresql":
        last = select(func.max(sa.column("id"))).select_from(sa.table(OWNER)).scalar_subquery()
        number = func.pg_get_serial_sequence(OWNER, "id")
        db.execute(select(func.setval(number, func.greatest(func.nextval(number), last))))
        analyze(db, tables)


def analyze(db: Connection, tables: Sequence[Table]) -> None:
    """Let PostgreSQL's planner look at tables; see `statistics.refresh_statistics`."""
    if db.dialect.name == "postgresql":
        quote = db.dialect.identifier_preparer.quote
        db.execute(text(f"ANALYZE {', '.join(quote(table.name) for table in tables)}"))


def drop_tables(db: Connection) -> None:
    """Leave no table of ours, whatever it holds."""
    quote = db.dialect.identifier_preparer.quote
    existing = {*list_table_names(db)}
    ours = [*(table.name for table in list_tables(db)), *EXCLUDED_TABLES, "alembic_version"]
    for name in reversed([name for name in ours if name in existing]):
        db.execute(text(f"DROP TABLE {quote(name)}"))


def count_dangling(db: Connection) -> int:
    """How many rows refer to nothing, where the database does not see to that by itself."""
    if db.dialect.name == "postgresql":
        return 0
    return len(db.execute(text("PRAGMA foreign_key_check")).all())


def list_table_names(db: Connection) -> list[str]:
    """The names of all tables, ours or not."""
    return inspect(db).get_table_names()


def find_namesake(db: Connection, tenant_id: int, name: str) -> tuple[int, str] | None:
    """A tenant that has this number or this name: its number and name."""
    tenant = sa.table(OWNER, sa.column("id", sa.BigInteger()), sa.column("name", sa.Text()))
    tables = db.execute(select(tenant.c.id, tenant.c.name).where((tenant.c.id == tenant_id) | (tenant.c.name == name)))
    first = tables.first()
    return None if first is None else (first.id, first.name)
