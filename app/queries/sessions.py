"""Adaptive tests as rows."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, func, select, update

from app.models import Session, SessionResponse
from app.queries.bulk import insert_rows


class SessionRow(NamedTuple):
    """A session as it is stored."""

    tenant_id: int
    id: str
    course_id: str
    learner_id: str | None
    plan: dict[str, Any]
    excluded_items: list[str]
    seed: int
    revision: int
    calibration: int | None
    engine: int
    position: int
    offer: dict[str, Any] | None
    stop: str | None
    lifetime_s: int
    started_at: int
    active_at: int


class SessionResponseRow(NamedTuple):
    """An answer of a session as it is stored."""

    tenant_id: int
    session_id: str
    id: str
    position: int
    course_id: str
    item_id: str
    score: float
    occurred_at: int
    received_at: int
    duration_ms: int | None
    offer: dict[str, Any]
    outcome: str


SESSION = [getattr(Session, name) for name in SessionRow._fields]
SESSION_RESPONSE = [getattr(SessionResponse, name) for name in SessionResponseRow._fields]


def find_session(db: Connection, tenant_id: int, session_id: str, *, lock: bool = False) -> SessionRow | None:
    """The session, if it is the tenant's; `lock` holds it until the transaction ends."""
    statement = select(*SESSION).where(Session.tenant_id == tenant_id, Session.id == session_id)
    row = db.execute(statement.with_for_update() if lock else statement).one_or_none()
    return None if row is None else SessionRow(*row)


def insert_session(db: Connection, row: SessionRow) -> None:
    """Keep a session that carries its own tenant_id; an id that exists is an IntegrityError."""
    insert_rows(db, Session, [row._asdict()])


def update_session(db: Connection, tenant_id: int, session_id: str, values: Mapping[str, Any]) -> None:
    """Change columns of a session."""
    mine = (Session.tenant_id == tenant_id, Session.id == session_id)
    db.execute(update(Session).where(*mine).values(**values))


def insert_session_response(db: Connection, row: SessionResponseRow) -> None:
    """Append an answer that carries its own tenant_id."""
    insert_rows(db, SessionResponse, [row._asdict()])


def list_session_responses(db: Connection, tenant_id: int, session_id: str) -> list[SessionResponseRow]:
    """All answers of a session in order."""
    statement = (
        select(*SESSION_RESPONSE)
        .where(SessionResponse.tenant_id == tenant_id, SessionResponse.session_id == session_id)
        .order_by(SessionResponse.position)
    )
    return [SessionResponseRow(*row) for row in db.execute(statement)]


def page_sessions(db: Connection, tenant_id: int, course_id: str, after: str, limit: int) -> list[SessionRow]:
    """Up to `limit` sessions of a course by id."""
    statement = (
        select(*SESSION)
        .where(Session.tenant_id == tenant_id, Session.course_id == course_id, Session.id > after)
        .order_by(Session.id)
        .limit(limit)
    )
    return [SessionRow(*row) for row in db.execute(statement)]


def count_exposures(db: Connection, tenant_id: int, course_id: str, latest: int) -> tuple[int, dict[str, int]]:
    """How many of the latest sessions of a course there are, and in how many of them each item was answered."""
    recent = (
        select(Session.id)
        .where(Session.tenant_id == tenant_id, Session.course_id == course_id)
        .order_by(Session.started_at.desc(), Session.id.desc())
        .limit(latest)
        .subquery()
    )
    statement = (
        select(SessionResponse.item_id, func.count())
        .join(recent, SessionResponse.session_id == recent.c.id)
        .where(SessionResponse.tenant_id == tenant_id)
        .group_by(SessionResponse.item_id)
    )
    sessions = db.execute(select(func.count()).select_from(recent)).scalar_one()
    return sessions, dict(list(db.execute(statement)))
