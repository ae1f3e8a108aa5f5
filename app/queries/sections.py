"""Sections of 1EdTech CAT, their sessions and their turns, as rows."""

from typing import Any, NamedTuple

from sqlalchemy import Connection, select, update

from app.models import Section, SectionExchange, SectionSession
from app.queries.bulk import insert_rows


class SectionRow(NamedTuple):
    """A section as it is stored."""

    tenant_id: int
    id: str
    course_id: str
    digest: str | None
    configuration_digest: str
    posted: str
    settings: dict[str, Any]
    posted_at: int
    ended_at: int | None


class SectionSessionRow(NamedTuple):
    """The place of a session in a section."""

    tenant_id: int
    session_id: str
    section_id: str
    ended_at: int | None


class ExchangeRow(NamedTuple):
    """One exchange of a session."""

    tenant_id: int
    session_id: str
    version: int
    digest: str | None
    offered: list[str]
    reply: str


LAST = 2**31 - 1
SECTION = [getattr(Section, name) for name in SectionRow._fields]
SECTION_SESSION = [getattr(SectionSession, name) for name in SectionSessionRow._fields]
EXCHANGE = [getattr(SectionExchange, name) for name in ExchangeRow._fields]


def find_section(db: Connection, tenant_id: int, section_id: str) -> SectionRow | None:
    """The section, if it is the tenant's and has not ended."""
    mine = (Section.tenant_id == tenant_id, Section.id == section_id, Section.ended_at.is_(None))
    row = db.execute(select(*SECTION).where(*mine)).one_or_none()
    return None if row is None else SectionRow(*row)


def find_same_section(db: Connection, tenant_id: int, digest: str) -> SectionRow | None:
    """The section that was made of the same."""
    row = db.execute(select(*SECTION).where(Section.tenant_id == tenant_id, Section.digest == digest)).one_or_none()
    return None if row is None else SectionRow(*row)


def find_latest_section(db: Connection, tenant_id: int, configuration_digest: str) -> SectionRow | None:
    """Of the sections with this configuration that have not ended, the one that was posted last."""
    mine = (
        Section.tenant_id == tenant_id,
        Section.configuration_digest == configuration_digest,
        Section.ended_at.is_(None),
    )
    newest = select(*SECTION).where(*mine).order_by(Section.posted_at.desc(), Section.id.desc()).limit(1)
    row = db.execute(newest).one_or_none()
    return None if row is None else SectionRow(*row)


def insert_section(db: Connection, row: SectionRow) -> None:
    """Keep a section that carries its own tenant_id; a digest that exists is an IntegrityError."""
    insert_rows(db, Section, [row._asdict()])


def update_section(db: Connection, tenant_id: int, section_id: str, **values: Any) -> None:
    """Change columns of a section."""
    db.execute(update(Section).where(Section.tenant_id == tenant_id, Section.id == section_id).values(**values))


def insert_section_session(db: Connection, row: SectionSessionRow) -> None:
    """Keep that a session belongs to a section."""
    insert_rows(db, SectionSession, [row._asdict()])


def find_section_session(db: Connection, tenant_id: int, section_id: str, session_id: str) -> SectionSessionRow | None:
    """The place of a session in this section, if it was begun there and not deleted."""
    mine = (
        SectionSession.tenant_id == tenant_id,
        SectionSession.session_id == session_id,
        SectionSession.section_id == section_id,
        SectionSession.ended_at.is_(None),
    )
    row = db.execute(select(*SECTION_SESSION).where(*mine)).one_or_none()
    return None if row is None else SectionSessionRow(*row)


def end_section_session(db: Connection, tenant_id: int, session_id: str, now: int) -> None:
    """Say when a session of a section was deleted."""
    mine = (SectionSession.tenant_id == tenant_id, SectionSession.session_id == session_id)
    db.execute(update(SectionSession).where(*mine).values(ended_at=now))


def insert_exchange(db: Connection, row: ExchangeRow) -> None:
    """Keep what was told."""
    insert_rows(db, SectionExchange, [row._asdict()])


def find_exchange(db: Connection, tenant_id: int, session_id: str, version: int) -> ExchangeRow | None:
    """One exchange of a session, if it has come."""
    mine = (
        SectionExchange.tenant_id == tenant_id,
        SectionExchange.session_id == session_id,
        SectionExchange.version == version,
    )
    row = db.execute(select(*EXCHANGE).where(*mine)).one_or_none()
    return None if row is None else ExchangeRow(*row)


def need_exchange(db: Connection, tenant_id: int, session_id: str, latest: int = LAST) -> ExchangeRow:
    """The latest exchange of a session, or the latest up to a version."""
    mine = (
        SectionExchange.tenant_id == tenant_id,
        SectionExchange.session_id == session_id,
        SectionExchange.version <= latest,
    )
    statement = select(*EXCHANGE).where(*mine).order_by(SectionExchange.version.desc()).limit(1)
    return ExchangeRow(*db.execute(statement).one())
