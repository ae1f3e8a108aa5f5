"""Calibrations as rows."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, and_, func, insert, or_, select, update

from app.models import Calibration, Correction, Course, Learner, Response

RUNNING = "running"
# Much longer than any lease: one that would last so long was given by a clock that was wrong.
LONGEST_LEASE_US = 2 * 3_600_000_000


class CalibrationRow(NamedTuple):
    """A calibration as it is stored, without the packed result."""

    number: int
    status: str
    requested_at: int
    leased_until: int
    finished_at: int | None
    revision: int
    report: dict[str, Any] | None
    error: str | None
    attempt: int
    compared_with: int | None
    activated_at: int | None


CALIBRATION = [getattr(Calibration, name) for name in CalibrationRow._fields]


def find_parameters(db: Connection, tenant_id: int, course_id: str, number: int) -> bytes | None:
    """The packed result of a calibration, if it has one."""
    statement = select(Calibration.parameters).where(
        Calibration.tenant_id == tenant_id, Calibration.course_id == course_id, Calibration.number == number
    )
    return db.execute(statement).scalar_one_or_none()


def find_calibration(
    db: Connection, tenant_id: int, course_id: str, number: int, *, lock: bool = False
) -> CalibrationRow | None:
    """All but the packed result; `lock` holds the row until the transaction ends."""
    statement = select(*CALIBRATION).where(
        Calibration.tenant_id == tenant_id, Calibration.course_id == course_id, Calibration.number == number
    )
    row = db.execute(statement.with_for_update() if lock else statement).one_or_none()
    return None if row is None else CalibrationRow(*row)


def page_calibrations(
    db: Connection, tenant_id: int, course_id: str, below: int | None, limit: int
) -> list[CalibrationRow]:
    """Up to `limit` calibrations with a number below `below`, the newest first."""
    statement = select(*CALIBRATION).where(Calibration.tenant_id == tenant_id, Calibration.course_id == course_id)
    if below is not None:
        statement = statement.where(Calibration.number < below)
    return [CalibrationRow(*row) for row in db.execute(statement.order_by(Calibration.number.desc()).limit(limit))]


def last_calibration_number(db: Connection, tenant_id: int, course_id: str) -> int:
    """The highest number given so far, 0 before the first."""
    statement = select(func.max(Calibration.number)).where(
        Calibration.tenant_id == tenant_id, Calibration.course_id == course_id
    )
    return db.execute(statement).scalar_one() or 0


def insert_calibration(db: Connection, row: Mapping[str, Any]) -> None:
    """A new calibration; `row` carries its tenant_id."""
    db.execute(insert(Calibration), dict(row))


def update_running(
    db: Connection, tenant_id: int, course_id: str, number: int, attempt: int, values: Mapping[str, Any]
) -> bool:
    """Change a calibration that runs, as its attempt of that number; whether it was still that attempt's to change."""
    statement = update(Calibration).where(
        Calibration.tenant_id == tenant_id,
        Calibration.course_id == course_id,
        Calibration.number == number,
        Calibration.status == RUNNING,
        Calibration.attempt == attempt,
    )
    return db.execute(statement.values(**values)).rowcount == 1


def save_activation(db: Connection, tenant_id: int, course_id: str, number: int, now: int) -> None:
    """Note that a calibration was put in force."""
    statement = update(Calibration).where(
        Calibration.tenant_id == tenant_id, Calibration.course_id == course_id, Calibration.number == number
    )
    db.execute(statement.values(activated_at=now))


def list_lapsed(db: Connection, now: int) -> list[tuple[int, str, int]]:
    """Tenant, course and number of every calibration that runs and that nobody works at any more, the oldest first."""
    statement = (
        select(Calibration.tenant_id, Calibration.course_id, Calibration.number)
        .where(
            Calibration.status == RUNNING,
            or_(Calibration.leased_until <= now, Calibration.leased_until > now + LONGEST_LEASE_US),
        )
        .order_by(Calibration.leased_until, Calibration.tenant_id, Calibration.course_id)
    )
    return [(tenant_id, course_id, number) for tenant_id, course_id, number in db.execute(statement)]


def list_stale_courses(db: Connection, engine: int) -> list[tuple[int, str]]:
    """Tenant and id of every course with learners whose snapshot is of another course model or engine."""
    stale = or_(
        Learner.calibration.is_distinct_from(Course.calibration),
        Learner.revision < Course.replay_revision,
        Learner.engine != engine,
    )
    statement = (
        select(Learner.tenant_id, Learner.course_id)
        .join(Course, and_(Course.tenant_id == Learner.tenant_id, Course.id == Learner.course_id))
        .where(stale)
        .distinct()
        .order_by(Learner.tenant_id, Learner.course_id)
    )
    return [(tenant_id, course_id) for tenant_id, course_id in db.execute(statement)]


def ids_received_after(db: Connection, tenant_id: int, course_id: str, moment: int) -> set[str]:
    """The ids of answers that came in later."""
    statement = select(Response.id).where(
        Response.tenant_id == tenant_id, Response.course_id == course_id, Response.received_at > moment
    )
    return set(db.execute(statement).scalars())


def scores_as_of(db: Connection, tenant_id: int, course_id: str, moment: int) -> dict[str, float | None]:
    """What counted then of the answers that were corrected later: the score, none if it was voided already."""
    mine = (Correction.tenant_id == tenant_id, Correction.course_id == course_id)
    later = select(Correction.response_id).where(*mine, Correction.made_at > moment)
    original = select(Response.id, Response.score).where(
        Response.tenant_id == tenant_id, Response.course_id == course_id, Response.id.in_(later)
    )
    corrected = (
        select(Correction.response_id, Correction.score)
        .where(*mine, Correction.made_at <= moment, Correction.response_id.in_(later))
        .order_by(Correction.learner_id, Correction.position)
    )
    scores: dict[str, float | None] = dict(list(db.execute(original)))
    return {**scores, **dict(list(db.execute(corrected)))}


def count_by_item(db: Connection, tenant_id: int, course_id: str, moment: int) -> dict[str, int]:
    """How many answers every item had then; items without one are left out."""
    statement = (
        select(Response.item_id, func.count())
        .where(Response.tenant_id == tenant_id, Response.course_id == course_id, Response.received_at <= moment)
        .group_by(Response.item_id)
    )
    return dict(list(db.execute(statement)))
