"""Webhooks, the events they subscribe to, and their pending calls."""

from sqlalchemy import BigInteger, ForeignKeyConstraint, Index, Integer, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.models.base import Base, Identifier, Instant, Json
from app.models.catalogue import COURSE


class Webhook(Base):
    """An address that is called at some `events`, of one course or (none) of all.

    `secret` signs the calls, so it is stored as it is: anyone who reads this table can sign.
    """

    __tablename__ = "webhook"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id"], ["tenant.id"]),
        ForeignKeyConstraint(["tenant_id", "course_id"], COURSE),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    url: Mapped[str] = mapped_column(Text)
    events: Mapped[list[str]] = mapped_column(Json)
    course_id: Mapped[str | None] = mapped_column(Identifier)
    secret: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[int] = mapped_column(Instant)


class Outbox(Base):
    """A call that is to be made, written in the transaction of the change it reports; deleted once it was accepted.

    `due_at` is when it is tried next: the process that tries it moves it ahead, so that no other does meanwhile. It is
    empty where the call was given up. `attempt` counts the tries, `failed_at` and `error` tell of the last failure.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id", "webhook_id"], ["webhook.tenant_id", "webhook.id"]),
        Index(None, "tenant_id", "webhook_id", "due_at"),
    )

    tenant_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    webhook_id: Mapped[str] = mapped_column(String(32), primary_key=True)
    id: Mapped[str] = mapped_column(String(64), primary_key=True)
    course_id: Mapped[str] = mapped_column(Identifier)
    learner_id: Mapped[str | None] = mapped_column(Identifier)
    body: Mapped[str] = mapped_column(Text)
    due_at: Mapped[int | None] = mapped_column(Instant)
    attempt: Mapped[int] = mapped_column(Integer)
    failed_at: Mapped[int | None] = mapped_column(Instant)
    error: Mapped[str | None] = mapped_column(String(255))
