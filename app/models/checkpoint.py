"""States on the way through a learner's log, from which a replay can start."""

from sqlalchemy import BigInteger, ForeignKeyConstraint, Integer, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Identifier, Instant


class Checkpoint(Base):
    """What the engine knew of a learner after the response with one sort key.

    Packed and bound to a version like the snapshot in `learner`; it can be computed from the log, and may be missing.
    """

    __tablename__ = "checkpoint"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "course_id", "learner_id"], ["learner.tenant_id", "learner.course_id", "learner.id"]
        ),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    learner_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    occurred_at: Mapped[int] = mapped_column(Instant, primary_key=True)
    response_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    state: Mapped[bytes] = mapped_column(LargeBinary)
    calibration: Mapped[int | None] = mapped_column(Integer)
    revision: Mapped[int] = mapped_column(Integer)
    engine: Mapped[int] = mapped_column(Integer)
