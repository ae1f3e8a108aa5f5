"""What the database says of its own safety."""

from sqlalchemy import Connection, text

SQLITE_FULL = 2


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
        faults.append("the journal is not a WAL: is the file on a network disk?")
    damage = db.execute(text("PRAGMA quick_check(1)")).scalar_one()
    return faults if damage == "ok" else [*faults, f"the file is damaged: {damage}"]


def connections_allowed(db: Connection) -> int | None:
    """How many connections the database has for all of us together; none where it does not count them."""
    if db.dialect.name != "postgresql":
        return None
    total, *reserved = (
        int(db.execute(text(f"SHOW {name}")).scalar_one())
        for name in ("max_connections", "superuser_reserved_connections", "reserved_connections")
    )
    return total - sum(reserved)
