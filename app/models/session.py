"""Adaptive tests: what was agreed at the start, and every answer with its outcome."""

from typing import Any

from sqlalchemy import BigInteger, ForeignKeyConstraint, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Identifier, Instant, Json, Real
from app.models.catalogue import COURSE
from app.models.response import ITEM


class Session(Base):
    """One test of one person, who may be a learner of the course or nobody we know.

    `plan` is everything that was agreed, with the prior in numbers; `excluded_items` had been shown too often when it
    began. With `seed`, `revision`, `calibration` and `engine` the test is a function of its answers.
    `position` counts them, `offer` is what is offered now, and `stop` says why nothing is. It lives `lifetime_s` after
    `active_at`.
    """

    __tablename__ = "session"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "course_id"], COURSE),
        Index(None, "tenant_id", "course_id", "started_at"),
        Index(None, "tenant_id", "course_id", "id"),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier)
    learner_id: Mapped[str | None] = mapped_column(Identifier)
    plan: Mapped[dict[str, Any]] = mapped_column(Json)
    excluded_items: Mapped[list[str]] = mapped_column(Json)
    seed: Mapped[int] = mapped_column(BigInteger)
    revision: Mapped[int] = mapped_column(Integer)
    calibration: Mapped[int | None] = mapped_column(Integer)
    engine: Mapped[int] = mapped_column(Integer)
    position: Mapped[int] = mapped_column(Integer)
    offer: Mapped[dict[str, Any] | None] = mapped_column(Json)
    stop: Mapped[str | None] = mapped_column(String(32))
    lifetime_s: Mapped[int] = mapped_column(Integer)
    started_at: Mapped[int] = mapped_column(Instant)
    active_at: Mapped[int] = mapped_column(Instant)


class SessionResponse(Base):
    """One answer of a test: `offer` is what it answers, `outcome` the reply byte for byte."""

    __tablename__ = "session_response"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "session_id"], ["session.tenant_id", "session.id"]),
        ForeignKeyConstraint(["tenant_id", "course_id", "item_id"], ITEM),
        Index(None, "tenant_id", "session_id", "position", unique=True),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    session_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    course_id: Mapped[str] = mapped_column(Identifier)
    item_id: Mapped[str] = mapped_column(Identifier)
    score: Mapped[float] = mapped_column(Real)
    occurred_at: Mapped[int] = mapped_column(Instant)
    received_at: Mapped[int] = mapped_column(Instant)
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    offer: Mapped[dict[str, Any]] = mapped_column(Json)
    outcome: Mapped[str] = mapped_column(Text)
