"""A learner in a course: the snapshot after the replay of the learner's log."""

from sqlalchemy import BigInteger, ForeignKeyConstraint, Integer, LargeBinary
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Identifier, Instant, Real
from app.models.catalogue import COURSE


class Learner(Base):
    """One learner in one course.

    `position` counts the entries of the learner's log. `state` is what the engine knows after them, packed by
    `app.adaptive.tracing.state_codec`, by that `engine`, under `calibration` (none: the defaults) and the catalogue of
    `revision`; `last_occurred_at` and `last_response_id` are the sort key of the latest response.
    """

    __tablename__ = "learner"
    __table_args__ = (ForeignKeyConstraint(["tenant_id", "course_id"], COURSE),)

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
    theta: Mapped[float] = mapped_column(Real)
    standard_error: Mapped[float] = mapped_column(Real)
    state: Mapped[bytes] = mapped_column(LargeBinary)
    last_occurred_at: Mapped[int | None] = mapped_column(Instant)
    last_response_id: Mapped[str | None] = mapped_column(Identifier)
    calibration: Mapped[int | None] = mapped_column(Integer)
    revision: Mapped[int] = mapped_column(Integer)
    engine: Mapped[int] = mapped_column(Integer)
