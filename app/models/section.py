"""Adaptive sections of 1EdTech CAT: what a delivery platform agreed with us once, and the sessions of its learners."""

from typing import Any

from sqlalchemy import BigInteger, ForeignKeyConstraint, Index, Integer, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Identifier, Instant, Json
from app.models.catalogue import COURSE


class Section(Base):
    """A section: `posted` is what came, as JSON byte for byte; `settings` what its sessions agree on.

    `digest` is that of what was posted and of the course it stands for, so that the same section is made once; it is
    given free when the section ends. `configuration_digest` finds the one that was posted last with the same
    configuration. A section never expires; once it was deleted, `ended_at` says when.
    """

    __tablename__ = "section"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "course_id"], COURSE),
        UniqueConstraint("tenant_id", "digest"),
        Index(None, "tenant_id", "configuration_digest", "posted_at"),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier)
    digest: Mapped[str | None] = mapped_column(String(64))
    configuration_digest: Mapped[str] = mapped_column(String(64))
    posted: Mapped[str] = mapped_column(Text)
    settings: Mapped[dict[str, Any]] = mapped_column(Json)
    posted_at: Mapped[int] = mapped_column(Instant)
    ended_at: Mapped[int | None] = mapped_column(Instant)


class SectionSession(Base):
    """A session that was begun in a section; once it was deleted, `ended_at` says when."""

    __tablename__ = "section_session"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "session_id"], ["session.tenant_id", "session.id"]),
        ForeignKeyConstraint(["tenant_id", "section_id"], ["section.tenant_id", "section.id"]),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    session_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    section_id: Mapped[str] = mapped_column(String(64))
    ended_at: Mapped[int | None] = mapped_column(Instant)


class SectionExchange(Base):
    """What a platform was told: `reply` byte for byte, `offered` the items in it, best first.

    `version` counts the exchanges of a session, and `sessionState` names it. `digest` is that of the results that led
    to it; none for the first.
    """

    __tablename__ = "section_exchange"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "session_id"], ["section_session.tenant_id", "section_session.session_id"]),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    session_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    version: Mapped[int] = mapped_column(Integer, primary_key=True)
    digest: Mapped[str | None] = mapped_column(String(64))
    offered: Mapped[list[str]] = mapped_column(Json)
    reply: Mapped[str] = mapped_column(Text)
