"""What the database says of its own safety."""

from collections.abc import Mapping

from sqlalchemy import Connection, PrimaryKeyConstraint, UniqueConstraint, text

from app.models import Base

SQLITE_FULL = 2
INDEXED = (PrimaryKeyConstraint, UniqueConstraint)


def durability_faults(db: Connection) -> list[str]:
    """Why an acknowledged answer might not survive a crash; empty if nothing speaks against it."""
    if db.dialect.name == "postgresql":
        wrong = [
            (name, value)
            for name in ("fsync", "synchronous_commit", "full_page_writes")
            if (value := str(db.execute(text(f"SHOW {name}")).scalar_one())) in ("off", "local")
        ]
        return [f"{name} is {value}: set it to on" for name, value in wrong]
    faults = []
    if db.execute(text("PRAGMA synchronous")).scalar_one() < SQLITE_FULL:
        faults.append("synchronous is not FULL")
    if db.execute(text("PRAGMA journal_mode")).scalar_one() != "wal":
        faults.append("the journal is not a WAL: run `proxima migrate`; if it stays so, is the file on a network disk?")
    damage = db.execute(text("PRAGMA quick_check(1)")).scalar_one()
    return faults if damage == "ok" else [*faults, f"the file is damaged: {damage}"]


def connections_allowed(db: Connection) -> int | None:
    """How many connections the database has for all of us together; none where it does not count them."""
    if db.dialect.name != "postgresql":
        return None
    # PostgreSQL 15 has no reserved_connections; a superuser is bound by neither of the other two limits.
    statement = """
        SELECT least(
            current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
                - coalesce(current_setting('reserved_connections', true), '0')::int,
            CASE WHEN rolsuper THEN NULL ELSE nullif(rolconnlimit, -1) END,
            CASE WHEN rolsuper THEN NULL ELSE nullif(datconnlimit, -1) END)
        FROM pg_roles, pg_database WHERE rolname = session_user AND datname = current_database()"""
    return int(db.execute(text(statement)).scalar_one())


def unmet_settings(db: Connection, asked: Mapping[str, str]) -> list[str]:
    """What was asked for when the session began and is not so, as behind a pooler that leaves it out."""
    if db.dialect.name != "postgresql":
        return []
    rows = db.execute(text("SELECT name, setting FROM pg_settings WHERE name = ANY(:names)"), {"names": list(asked)})
    return sorted(f"{name} is {setting} and not {asked[name]}" for name, setting in rows if setting != asked[name])


def missing_indexes(db: Connection) -> list[str]:
    """The indexes of our tables that the database lacks, or has only in part after an interruption."""
    tables = Base.metadata.tables.values()
    names = {str(index.name) for table in tables for index in table.indexes}
    if db.dialect.name == "postgresql":
        keys = [key for table in tables for key in table.constraints if isinstance(key, INDEXED)]
        names |= {str(key.name) for key in keys}
        statement = """
            SELECT relname FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid
            WHERE indisvalid AND pg_table_is_visible(indrelid)"""
    else:  # the indexes of keys have no name of ours there, and cannot be dropped
        statement = "SELECT name FROM sqlite_master WHERE type = 'index'"
    return sorted(names - set(db.execute(text(statement)).scalars()))
