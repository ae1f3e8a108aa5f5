"""What all tables share: the naming of constraints and the column types both databases agree on."""

from sqlalchemy import JSON, BigInteger, Double, MetaData, String
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

# The caller's own identifiers sort by their bytes on both databases: pages and folds have one order.
Identifier = String(255).with_variant(String(255, collation="C"), "postgresql")

# Microseconds since 1970 in UTC: SQLite would drop an offset, and integers compare alike everywhere.
Instant = BigInteger

Json = JSON(none_as_null=True).with_variant(JSONB(none_as_null=True), "postgresql")
Real = Double


class Base(DeclarativeBase):
    """The root of all tables."""

    metadata = MetaData(naming_convention=NAMING)
