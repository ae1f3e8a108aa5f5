"""Many rows of one kind in one go, without what SQLAlchemy does for every value of every row.

Under load that was a seventh of the processor time of an answer. The statement is still SQLAlchemy's, and so are the
conversions of its types.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, cast

from sqlalchemy import Column, Connection, Dialect, Insert, Table, Update, insert
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeEngine

from app.models import Base

Row = Mapping[str, Any]
Converter = Callable[[Any], Any] | None


def insert_rows(db: Connection, model: type[Base], rows: Sequence[Row]) -> None:
    """Insert rows that name every column of the table, their tenant too."""
    if db.dialect.name == "postgresql":
        _execute_columns(db, _unnest_insert_statement(model), rows)
    else:
        execute_many(db, _insert_statement(model), rows)


@cache
def _insert_statement(model: type[Base]) -> Insert:
    """The statement of `insert_rows`."""
    return insert(model)


def execute_many(db: Connection, statement: Insert | Update, rows: Sequence[Row]) -> None:
    """Execute a statement once for each of the rows, which name all of its parameters."""
    if rows:
        text, parameters = _prepare_statement(statement, db.dialect)
        columns = (_column_values(*parameter, rows) for parameter in parameters)
        db.exec_driver_sql(text, [*zip(*columns, strict=True)])


@dataclass(frozen=True)
class _ColumnwiseStatement:
    """A statement for PostgreSQL that takes an array for each of some columns."""

    text: str
    columns: tuple[Column[Any], ...]


@cache
def _unnest_insert_statement(model: type[Base]) -> _ColumnwiseStatement:
    """The statement of `insert_rows` on PostgreSQL: one execution, where there would be one for each row."""
    columns = tuple(cast("Table", model.__table__).columns)
    names = ", ".join(column.name for column in columns)
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    types = [column.type.dialect_impl(dialect).compile(dialect=dialect).partition(" COLLATE")[0] for column in columns]
    arrays = ", ".join(f"${number}::{type_}[]" for number, type_ in enumerate(types, 1))
    return _ColumnwiseStatement(
        f"INSERT INTO {model.__tablename__} ({names}) SELECT * FROM unnest({arrays})",  # noqa: S608 (names of ours)
        columns,
    )


def _execute_columns(db: Connection, statement: _ColumnwiseStatement, rows: Sequence[Row]) -> None:
    """Execute a statement once for all rows."""
    if rows:
        columns = ((column.name, _find_converter(column.type, db.dialect)) for column in statement.columns)
        db.exec_driver_sql(statement.text, tuple(_column_values(*column, rows) for column in columns))


@lru_cache(64)
def _prepare_statement(statement: Insert | Update, dialect: Dialect) -> tuple[str, list[tuple[str, Converter]]]:
    """The text of a statement, and its parameters in order."""
    compiled = statement.compile(dialect=dialect)
    return str(compiled), [
        (name, _find_converter(compiled.binds[name].type, dialect)) for name in compiled.positiontup or ()
    ]


def _find_converter(type_: TypeEngine[Any], dialect: Dialect) -> Converter:
    """What makes a value of a type the driver's; none if it is that already."""
    return type_.dialect_impl(dialect).bind_processor(dialect)


def _column_values(name: str, convert: Converter, rows: Sequence[Row]) -> list[Any]:
    """The values of a column as the driver wants them."""
    return [row[name] for row in rows] if convert is None else [convert(row[name]) for row in rows]
