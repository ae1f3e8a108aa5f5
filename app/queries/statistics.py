"""What PostgreSQL's planner knows of the tables."""

from sqlalchemy import Connection, text

GROWING_TABLES = ("item", "item_skill", "learner", "response")


def refresh_statistics(db: Connection) -> None:
    """Let the planner look at the tables that a load is filling.

    Of a table without statistics it believes every index alike, and of a small one that reading all of it is cheapest;
    the plan of a foreign key's look-up is kept and then costs a walk through the course for every row. Autovacuum
    would see to it a minute later; an import is over by then. SQLite chooses by the shape of the index.
    """
    if db.dialect.name == "postgresql":
        db.execute(text(f"ANALYZE {', '.join(GROWING_TABLES)}"))
