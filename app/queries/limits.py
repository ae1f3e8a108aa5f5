"""Counters of what was given out of quotas, a row for each window."""

from sqlalchemy import Connection, delete
from sqlalchemy.dialects import postgresql, sqlite

from app.core.rate_limits import CounterReading
from app.models import QuotaUse
from app.queries.clock import MICROSECONDS, read_clock


def count_use(db: Connection, tenant_id: int, subject: str, window_s: int, amount: int) -> CounterReading:
    """Count so much as given out to `subject` in the window that is running by the database's clock."""
    now, window_us = read_clock(db), window_s * MICROSECONDS
    ends_at = (now // window_us + 1) * window_us
    make = postgresql.insert if db.dialect.name == "postgresql" else sqlite.insert
    row = make(QuotaUse).values(tenant_id=tenant_id, subject=subject, ends_at=ends_at, used=amount)
    statement = row.on_conflict_do_update(
        index_elements=[QuotaUse.tenant_id, QuotaUse.subject, QuotaUse.ends_at],
        set_={"used": QuotaUse.used + row.excluded.used},
    )
    used: int = db.execute(statement.returning(QuotaUse.used)).scalar_one()
    if used == amount:  # the first of its window: a good moment to forget those that have ended
        db.execute(delete(QuotaUse).where(QuotaUse.tenant_id == tenant_id, QuotaUse.ends_at <= now))
    return CounterReading(ends_at, (ends_at - now) / MICROSECONDS, used)
