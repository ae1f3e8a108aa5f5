"""What can be practised: courses, skills with prerequisites, items, and every change ever made to them."""

from typing import Any

from sqlalchemy import BigInteger, Boolean, ForeignKeyConstraint, Integer, String, Text, UniqueConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Identifier, Instant, Json, Real

COURSE = ["course.tenant_id", "course.id"]


class Course(Base):
    """A catalogue and the learners who practise with it.

    `revision` counts the changes of the catalogue; `replay_revision` is the last of them that changed what an
    answer already given says about its learner. `calibration` is the number of the active calibration.
    """

    __tablename__ = "course"
    __table_args__ = (ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),)

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    title: Mapped[str | None] = mapped_column(Text)
    revision: Mapped[int] = mapped_column(Integer)
    replay_revision: Mapped[int] = mapped_column(Integer)
    calibration: Mapped[int | None] = mapped_column(Integer)
    created_at: Mapped[int] = mapped_column(Instant)


class CatalogueChange(Base):
    """One upsert as it was applied: the catalogue at any revision is the replay of these."""

    __tablename__ = "catalogue_change"
    __table_args__ = (ForeignKeyConstraint(["tenant_id", "course_id"], COURSE),)

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    revision: Mapped[int] = mapped_column(Integer, primary_key=True)
    body: Mapped[dict[str, Any]] = mapped_column(Json)
    changed_at: Mapped[int] = mapped_column(Instant)


class Skill(Base):
    """A skill; `number` is its dense place in the arrays of the engine and never changes."""

    __tablename__ = "skill"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "course_id"], COURSE),
        UniqueConstraint("tenant_id", "course_id", "number"),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    number: Mapped[int] = mapped_column(Integer)
    title: Mapped[str | None] = mapped_column(Text)


class Prerequisite(Base):
    """`skill_id` is best learnt after `prerequisite_id`."""

    __tablename__ = "prerequisite"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "course_id", "skill_id"], ["skill.tenant_id", "skill.course_id", "skill.id"]
        ),
        ForeignKeyConstraint(
            ["tenant_id", "course_id", "prerequisite_id"], ["skill.tenant_id", "skill.course_id", "skill.id"]
        ),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    skill_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    prerequisite_id: Mapped[str] = mapped_column(Identifier, primary_key=True)


class Item(Base):
    """An exercise; `number` is its dense place in the arrays of the engine and never changes.

    `exposure` is its exposure parameter in adaptive tests (Sympson & Hetter 1985), 1 where absent. `choices` is how
    many options it has, one of them right; `reviewed`: somebody has looked at it, so it counts even if it is suspect.
    """

    __tablename__ = "item"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "course_id"], COURSE),
        UniqueConstraint("tenant_id", "course_id", "number"),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    number: Mapped[int] = mapped_column(Integer)
    title: Mapped[str | None] = mapped_column(Text)
    kind: Mapped[str | None] = mapped_column(String(64))
    tags: Mapped[list[str]] = mapped_column(Json)
    url: Mapped[str | None] = mapped_column(Text)
    max_score: Mapped[float] = mapped_column(Real)
    parameters: Mapped[dict[str, Any] | None] = mapped_column(Json)
    exposure: Mapped[float | None] = mapped_column(Real)
    choices: Mapped[int | None] = mapped_column(Integer)
    reviewed: Mapped[bool] = mapped_column(Boolean, server_default=false())


class ItemSkill(Base):
    """An item asks for a skill; `position` keeps the caller's order."""

    __tablename__ = "item_skill"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "course_id", "item_id"], ["item.tenant_id", "item.course_id", "item.id"]),
        ForeignKeyConstraint(
            ["tenant_id", "course_id", "skill_id"], ["skill.tenant_id", "skill.course_id", "skill.id"]
        ),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    item_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    skill_id: Mapped[str] = mapped_column(Identifier, primary_key=True)
    position: Mapped[int] = mapped_column(Integer)
