"""Calibrations as rows."""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, update

from app.models import Calibration

SUMMARY = (
    Calibration.number,
    Calibration.status,
    Calibration.requested_at,
    Calibration.alive_at,
    Calibration.finished_at,
    Calibration.revision,
    Calibration.report,
    Calibration.error,
)


def find_parameters(db: Connection, tenant_id: int, course_id: str, number: int) -> bytes | None:
    """The packed result of a calibration, if it has one."""
    statement = select(Calibration.parameters).where(
        Calibration.tenant_id == tenant_id, Calibration.course_id == course_id, Calibration.number == number
    )
    return db.execute(statement).scalar_one_or_none()


def find_calibration(db: Connection, tenant_id: int, course_id: str, number: int) -> Row[Any] | None:
    """All but the packed result."""
    statement = select(*SUMMARY).where(
        Calibration.tenant_id == tenant_id, Calibration.course_id == course_id, Calibration.number == number
    )
    return db.execute(statement).one_or_none()


def page_calibrations(db: Connection, tenant_id: int, course_id: str, below: int | None, limit: int) -> list[Row[Any]]:
    """Up to `limit` calibrations with a number below `below`, the newest first."""
    statement = select(*SUMMARY).where(Calibration.tenant_id == tenant_id, Calibration.course_id == course_id)
    if below is not None:
        statement = statement.where(Calibration.number < below)
    return list(db.execute(statement.order_by(Calibration.number.desc()).limit(limit)))


def last_number(db: Connection, tenant_id: int, course_id: str) -> int:
    """The highest number given so far, 0 before the first."""
    statement = select(func.max(Calibration.number)).where(
        Calibration.tenant_id == tenant_id, Calibration.course_id == course_id
    )
    return db.execute(statement).scalar_one() or 0


def insert_calibration(db: Connection, row: Mapping[str, Any]) -> None:
    """A new calibration; `row` carries its tenant_id."""
    db.execute(insert(Calibration), dict(row))


def update_calibration(db: Connection, tenant_id: int, course_id: str, number: int, values: Mapping[str, Any]) -> None:
    """Change a calibration that is still running; a finished one is immutable."""
    db.execute(
        update(Calibration)
        .where(
            Calibration.tenant_id == tenant_id,
            Calibration.course_id == course_id,
            Calibration.number == number,
            Calibration.status == "running",
        )
        .values(**values)
    )
