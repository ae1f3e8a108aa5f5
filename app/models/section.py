"""Adaptive sections of 1EdTech CAT: what a delivery platform agreed with us once, for all its learners."""

from typing import Any

from sqlalchemy import BigInteger, ForeignKeyConstraint, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Identifier, Instant, Json
from app.models.catalogue import COURSE


class Section(Base):
    """A section: `posted` is what came, as it came; `settings` what we read out of it.

    `digest` is that of what was posted, so that the same section is made once; `configuration_digest` finds the newest
    one with the same configuration. It never expires; once it was deleted, `ended_at` says when.
    """

    __tablename__ = "section"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "course_id"], COURSE),
        UniqueConstraint("tenant_id", "digest"),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier)
    digest: Mapped[str] = mapped_column(String(64))
    configuration_digest: Mapped[str] = mapped_column(String(64))
    posted: Mapped[dict[str, Any]] = mapped_column(Json)
    settings: Mapped[dict[str, Any]] = mapped_column(Json)
    created_at: Mapped[int] = mapped_column(Instant)
    ended_at: Mapped[int | None] = mapped_column(Instant)
