"""The log: answers and corrections, appended and never changed, and what was recommended because of them."""

from typing import Any

from sqlalchemy import BigInteger, ForeignKeyConstraint, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Identifier, Instant, Json, Real
from app.models.catalogue import COURSE

LEARNER = ["learner.tenant_id", "learner.course_id", "learner.id"]
ITEM = ["item.tenant_id", "item.course_id", "item.id"]


class Response(Base):
    """One answer, with the prediction made before it and the outcome told after it.

    `position` is its place in the learner's log, in the order of arrival. `outcome` is the reply byte for byte;
    an imported answer has none until somebody asks for it. `outcome_version` says by which arithmetic and in which
    words it was made, `options` what was asked of the next item, `has_timestamp` that the caller gave `occurred_at`.
    `max_score` is the item's maximum when the answer was given; none as long as the item still has it.
    """

    __tablename__ = "response"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "course_id", "learner_id"], LEARNER),
        ForeignKeyConstraint(["tenant_id", "course_id", "item_id"], ITEM),
        Index(None, "tenant_id", "course_id", "learner_id", "occurred_at", "id", unique=True),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    learner_id: Mapped[str] = mapped_column(Identifier)
    position: Mapped[int] = mapped_column(Integer)
    item_id: Mapped[str] = mapped_column(Identifier)
    score: Mapped[float] = mapped_column(Real)
    max_score: Mapped[float | None] = mapped_column(Real)
    occurred_at: Mapped[int] = mapped_column(Instant)
    has_timestamp: Mapped[bool] = mapped_column()
    received_at: Mapped[int] = mapped_column(Instant)
    duration_ms: Mapped[int | None] = mapped_column(BigInteger)
    recommendation_id: Mapped[str | None] = mapped_column(String(255))
    options: Mapped[dict[str, Any] | None] = mapped_column(Json)
    calibration: Mapped[int | None] = mapped_column(Integer)
    revision: Mapped[int] = mapped_column(Integer)
    outcome_version: Mapped[int] = mapped_column(Integer)
    p_correct: Mapped[float] = mapped_column(Real)
    outcome: Mapped[str | None] = mapped_column(Text)


class Correction(Base):
    """A void or a regrade: a further entry of the learner's log, with its reason and the key that made it."""

    __tablename__ = "correction"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "course_id", "response_id"], ["response.tenant_id", "response.course_id", "response.id"]
        ),
        Index(None, "tenant_id", "course_id", "learner_id", "position", unique=True),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    response_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    position: Mapped[int] = mapped_column(Integer, primary_key=True)
    learner_id: Mapped[str] = mapped_column(Identifier)
    kind: Mapped[str] = mapped_column(String(16))
    score: Mapped[float | None] = mapped_column(Real)
    reason: Mapped[str] = mapped_column(Text)
    made_by: Mapped[str] = mapped_column(String(32))
    made_at: Mapped[int] = mapped_column(Instant)


class Recommendation(Base):
    """What was offered, why, and with what chance: after an answer (`response_id`) or on request.

    `position`, `seed`, `avoided` and `options` are what the choice was made from, so that it can be made again. It is
    valid until `expires_at`; none: for ever. `outcome_version` says by which arithmetic and in which words.
    """

    __tablename__ = "recommendation"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "course_id", "learner_id"], LEARNER),
        ForeignKeyConstraint(["tenant_id", "course_id", "item_id"], ITEM),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    learner_id: Mapped[str] = mapped_column(Identifier)
    response_id: Mapped[str | None] = mapped_column(Identifier)
    item_id: Mapped[str] = mapped_column(Identifier)
    skill_id: Mapped[str | None] = mapped_column(Identifier)
    code: Mapped[str] = mapped_column(String(32))
    terms: Mapped[dict[str, Any]] = mapped_column(Json)
    p_correct: Mapped[float] = mapped_column(Real)
    propensity: Mapped[float] = mapped_column(Real)
    seed: Mapped[int] = mapped_column(BigInteger)
    avoided: Mapped[list[str]] = mapped_column(Json)
    options: Mapped[dict[str, Any] | None] = mapped_column(Json)
    position: Mapped[int] = mapped_column(Integer)
    calibration: Mapped[int | None] = mapped_column(Integer)
    revision: Mapped[int] = mapped_column(Integer)
    outcome_version: Mapped[int] = mapped_column(Integer)
    offered_at: Mapped[int] = mapped_column(Instant)
    expires_at: Mapped[int | None] = mapped_column(Instant)


class ImportRun(Base):
    """How far the import of a file has come: `line` is its last line that is done."""

    __tablename__ = "import_run"
    __table_args__ = (ForeignKeyConstraint(["tenant_id", "course_id"], COURSE),)

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    digest: Mapped[str] = mapped_column(String(64), primary_key=True)
    line: Mapped[int] = mapped_column(Integer)
