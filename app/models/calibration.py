"""Calibrations: immutable and numbered; the course points to the active one."""

from typing import Any

from sqlalchemy import BigInteger, ForeignKeyConstraint, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Identifier, Instant, Json
from app.models.catalogue import COURSE


class Calibration(Base):
    """One fit. `parameters` is the packed result, `report` what it improves; both are absent until it succeeded.

    While it runs it is leased: the process of attempt number `attempt` may work at it until `leased_until`, and renews
    that; later anybody may take it over with the next number. `compared_with` is the calibration that was in force
    when it was requested, `activated_at` when it was last put in force itself.
    """

    __tablename__ = "calibration"
    __table_args__ = (ForeignKeyConstraint(["tenant_id", "course_id"], COURSE),)

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    number: Mapped[int] = mapped_column(Integer, primary_key=True)
    status: Mapped[str] = mapped_column(String(16))
    requested_at: Mapped[int] = mapped_column(Instant)
    leased_until: Mapped[int] = mapped_column(Instant)
    finished_at: Mapped[int | None] = mapped_column(Instant)
    revision: Mapped[int] = mapped_column(Integer)
    parameters: Mapped[bytes | None] = mapped_column(LargeBinary)
    report: Mapped[dict[str, Any] | None] = mapped_column(Json)
    error: Mapped[str | None] = mapped_column(Text)
    attempt: Mapped[int] = mapped_column(Integer)
    compared_with: Mapped[int | None] = mapped_column(Integer)
    activated_at: Mapped[int | None] = mapped_column(Instant)
