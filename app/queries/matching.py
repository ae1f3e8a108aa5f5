"""`column = any of many values`, written so that each database can reuse one prepared statement."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ARRAY, JSON, ColumnElement, Connection, any_, bindparam, func, select
from sqlalchemy.orm import InstrumentedAttribute


def matches_any(db: Connection, column: InstrumentedAttribute[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """Whether the column is one of `values`."""
    return matches_any_parameter(db.dialect.name, column, None, list(values))


def matches_any_parameter(
    dialect: str, column: InstrumentedAttribute[Any], name: str | None, values: list[Any] | None = None
) -> ColumnElement[bool]:
    """Whether the column is one of the values of the parameter `name`.

    An array on PostgreSQL and one of JSON on SQLite: every length of an IN is a new statement.
    """
    value_options = {"required": True} if values is None else {"value": values}
    if dialect == "postgresql":
        return column == any_(bindparam(name, type_=ARRAY(column.type), **value_options))
    elements = func.json_each(bindparam(name, type_=JSON(), **value_options)).table_valued("value")
    return column.in_(select(elements.c.value))
