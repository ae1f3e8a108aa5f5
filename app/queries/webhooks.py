"""Webhooks as rows, and the outbox of calls that are to be made."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, bindparam, delete, exists, func, insert, or_, select, update

from app.models import Course, Outbox, Tenant, Webhook
from app.queries.matching import matches_any

# Whether anybody wants to hear of a course: a column for the statement that reads its row anyway.
IS_WATCHED: ColumnElement[bool] = exists().where(
    Webhook.tenant_id == Course.tenant_id, or_(Webhook.course_id.is_(None), Webhook.course_id == Course.id)
)


class Listener(NamedTuple):
    """A webhook, and the events it is called at."""

    id: str
    events: list[str]


class WebhookRow(NamedTuple):
    """A webhook without its secret, with what is left to tell and what went wrong last."""

    id: str
    url: str
    events: list[str]
    course_id: str | None
    created_at: int
    pending: int
    failed: int
    failed_at: int | None
    error: str | None


class _Recipient(NamedTuple):
    """Where a webhook is called, and what signs the calls."""

    url: str
    secret: str


class _DueCall(NamedTuple):
    """A call that is due; `attempt` counts those made before."""

    id: str
    attempt: int
    body: str


def find_listeners(db: Connection, tenant_id: int, course_id: str) -> list[Listener]:
    """Who wants to hear of a course; none of them can be deleted until the transaction ends."""
    statement = select(Webhook.id, Webhook.events).where(
        Webhook.tenant_id == tenant_id, or_(Webhook.course_id.is_(None), Webhook.course_id == course_id)
    )
    statement = statement.order_by(Webhook.id).with_for_update(read=True, key_share=True)
    return [Listener(*row) for row in db.execute(statement)]


def insert_webhook(db: Connection, row: Mapping[str, Any]) -> None:
    """A new webhook; `row` carries its tenant_id."""
    db.execute(insert(Webhook), dict(row))


def find_webhook(db: Connection, tenant_id: int, webhook_id: str) -> _Recipient | None:
    """Where the webhook is called, if the tenant has it."""
    statement = select(Webhook.url, Webhook.secret).where(Webhook.tenant_id == tenant_id, Webhook.id == webhook_id)
    row = db.execute(statement).one_or_none()
    return None if row is None else _Recipient(*row)


def page_webhooks(db: Connection, tenant_id: int, after: str | None, limit: int) -> list[WebhookRow]:
    """Up to `limit` webhooks by id from `after` on (exclusive)."""
    mine = (Outbox.tenant_id == Webhook.tenant_id, Outbox.webhook_id == Webhook.id)
    failed = select(Outbox).where(*mine, Outbox.failed_at.is_not(None)).order_by(Outbox.failed_at.desc()).limit(1)
    statement = select(
        Webhook.id,
        Webhook.url,
        Webhook.events,
        Webhook.course_id,
        Webhook.created_at,
        select(func.count()).where(*mine, Outbox.due_at.is_not(None)).scalar_subquery().label("pending"),
        select(func.count()).where(*mine, Outbox.due_at.is_(None)).scalar_subquery().label("failed"),
        failed.with_only_columns(Outbox.failed_at).scalar_subquery().label("failed_at"),
        failed.with_only_columns(Outbox.error).scalar_subquery().label("error"),
    ).where(Webhook.tenant_id == tenant_id)
    if after is not None:
        statement = statement.where(Webhook.id > after)
    return [WebhookRow(*row) for row in db.execute(statement.order_by(Webhook.id).limit(limit))]


def count_webhooks(db: Connection, tenant_id: int) -> int:
    """How many webhooks a tenant has; nobody adds one until the transaction ends."""
    db.execute(select(Tenant.id).where(Tenant.id == tenant_id).with_for_update(key_share=True))
    return int(db.scalar(select(func.count()).where(Webhook.tenant_id == tenant_id)) or 0)


def delete_webhook(db: Connection, tenant_id: int, webhook_id: str) -> int | None:
    """Delete a webhook with all that was to be told; how many of its calls were attempted, None if there is none."""
    mine = (Webhook.tenant_id == tenant_id, Webhook.id == webhook_id)
    # A transaction that is about to add a call ends first, so that nothing is left behind.
    if db.execute(select(Webhook.id).where(*mine).with_for_update()).one_or_none() is None:
        return None
    calls = delete(Outbox).where(Outbox.tenant_id == tenant_id, Outbox.webhook_id == webhook_id)
    attempts = db.execute(calls.returning(Outbox.attempt)).scalars().all()
    db.execute(delete(Webhook).where(*mine))
    return sum(attempt > 0 for attempt in attempts)


def insert_outbox(db: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add calls; the rows carry their own tenant_id."""
    db.execute(insert(Outbox), list(rows))


def list_webhooks(db: Connection, now: int) -> list[tuple[int, str, bool]]:
    """Every webhook of everybody as tenant and id, and whether a call of it is due."""
    due = exists().where(Outbox.tenant_id == Webhook.tenant_id, Outbox.webhook_id == Webhook.id, Outbox.due_at <= now)
    statement = select(Webhook.tenant_id, Webhook.id, due).order_by(Webhook.tenant_id, Webhook.id)
    return [(tenant_id, webhook_id, is_due) for tenant_id, webhook_id, is_due in db.execute(statement)]


def lock_due_calls(db: Connection, tenant_id: int, webhook_id: str, now: int, limit: int) -> list[_DueCall]:
    """Up to `limit` calls that are due and that nobody else has locked, the longest due first."""
    statement = (
        select(Outbox.id, Outbox.attempt, Outbox.body)
        .where(Outbox.tenant_id == tenant_id, Outbox.webhook_id == webhook_id, Outbox.due_at <= now)
        .order_by(Outbox.due_at, Outbox.id)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    return [_DueCall(*row) for row in db.execute(statement)]


def reschedule_calls(
    db: Connection, tenant_id: int, webhook_id: str, ids: Collection[str], due_at: int, attempts: int
) -> None:
    """Let calls be due at another time, and count so many attempts more."""
    statement = update(Outbox).where(
        Outbox.tenant_id == tenant_id, Outbox.webhook_id == webhook_id, matches_any(db, Outbox.id, ids)
    )
    db.execute(statement.values(due_at=due_at, attempt=Outbox.attempt + attempts))


def save_failures(db: Connection, tenant_id: int, webhook_id: str, failures: Sequence[Mapping[str, Any]]) -> None:
    """Note attempts that failed: each has the call's id as `key`, and the new `due_at`, `failed_at` and `error`."""
    statement = update(Outbox).where(
        Outbox.tenant_id == tenant_id, Outbox.webhook_id == webhook_id, Outbox.id == bindparam("key")
    )
    values: dict[str, Any] = {name: bindparam(name) for name in ("due_at", "failed_at", "error")}
    db.execute(statement.values(values), [dict(failure) for failure in failures])


def delete_calls(db: Connection, tenant_id: int, webhook_id: str, ids: Collection[str]) -> None:
    """Forget calls that were taken."""
    db.execute(
        delete(Outbox).where(
            Outbox.tenant_id == tenant_id, Outbox.webhook_id == webhook_id, matches_any(db, Outbox.id, ids)
        )
    )


def delete_failed_calls(db: Connection, before: int) -> None:
    """Forget calls that failed for the last time before a moment."""
    db.execute(delete(Outbox).where(Outbox.due_at.is_(None), Outbox.failed_at < before))
