"""What PostgreSQL's planner knows of the tables."""

from sqlalchemy import Connection, text

GROWING = ("item", "item_skill", "learner", "response")


def refresh_statistics(db: Connection) -> None:
    """Let the planner look at the tables that a load has just filled.

    Of a table without statistics it believes every index alike, and may look up an id by an index that begins with
    the tenant and the course only: each foreign key then costs a walk through the course. Autovacuum would see to it
    a minute later; an import is over by then. SQLite chooses by the shape of the index.
    """
    if db.dialect.name == "postgresql":
        db.execute(text(f"ANALYZE {', '.join(GROWING)}"))
