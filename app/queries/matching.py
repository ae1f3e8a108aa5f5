"""`column = any of many values`, written so that each database can reuse one prepared statement."""

from collections.abc import Collection
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Connection, any_, literal
from sqlalchemy.orm import InstrumentedAttribute


def among(db: Connection, column: InstrumentedAttribute[Any], values: Collection[Any]) -> ColumnElement[bool]:
    """Whether the column is one of `values`: an array on PostgreSQL, where every length of an IN is a new statement."""
    if db.dialect.name == "postgresql":
        return column == any_(literal(list(values), ARRAY(column.type)))
    return column.in_(list(values))
