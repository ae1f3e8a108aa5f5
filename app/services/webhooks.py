"""Webhooks: which events a caller subscribes to, and the outbox through which they are delivered.

An event is written into the outbox by the transaction in which it happens, so it is delivered if and only if that
commits (docs/decisions/0018). `app.jobs.webhook_delivery` makes the calls: it claims some that are due, which no other
process then takes for a while, and settles them. Only accepted calls are deleted: all others are tried again. `now` is
a moment by the database's clock, which all processes share.
"""

import base64
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import to_json
from sqlalchemy import Connection

from app.adaptive.state import States
from app.adaptive.tracing.mastery import is_mastered, is_stuck
from app.core.errors import TooManyWebhooks, UnknownWebhook
from app.core.times import DAY_US, to_text
from app.queries import webhooks as rows
from app.services.catalogue import need_course
from app.services.course_model import CourseModel
from app.services.present import DIGITS
from app.services.recommendations import RecommendationOffer

SKILL_MASTERED, LEARNER_STUCK, CALIBRATION_FINISHED, RESPONSE_CORRECTED = EVENTS = (
    "skill.mastered",
    "learner.stuck",
    "calibration.finished",
    "response.corrected",
)
SECOND_US = 1_000_000
# Due by any clock.
DUE_AT_ONCE = 0
# How long a process that claimed calls may be silent before others try them: far longer than one call may last.
LEASE_US = 60 * SECOND_US
CLAIMED_AT_ONCE = 16
# 10 s, 40 s, 160 s … and then every 12 hours: a call fails after about three days.
FIRST_PAUSE_US = 10 * SECOND_US
PAUSE_GROWTH = 4
LONGEST_PAUSE_US = DAY_US // 2
MAX_ATTEMPTS = 13
# Of one tenant: every event is a row of the outbox for each of them.
MOST_WEBHOOKS = 50
FAILED_RETENTION_US = 30 * DAY_US
CHANCE = secrets.SystemRandom()


@dataclass(frozen=True, slots=True)
class WebhookEvent:
    """An event in a course at a moment (µs), as it is sent; `learner` is whom it is about."""

    type: str
    learner: str | None
    at: int
    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class WebhookCall:
    """One call of a webhook that is to be made now. `id` and body are the same at every attempt."""

    tenant_id: int
    webhook_id: str
    id: str
    attempt: int
    url: str
    secret: str
    body: bytes


def publish_events(db: Connection, tenant_id: int, course_id: str, events: Sequence[WebhookEvent]) -> None:
    """Write events into the outbox for each subscribed webhook, in the transaction of the change."""
    if not events:
        return
    listeners = rows.find_listeners(db, tenant_id, course_id)
    calls = [
        {
            "tenant_id": tenant_id,
            "webhook_id": listener.id,
            "id": f"msg_{secrets.token_hex(16)}",
            "course_id": course_id,
            "learner_id": event.learner,
            "body": _event_body(course_id, event),
            "due_at": DUE_AT_ONCE,
            "attempt": 0,
            "failed_at": None,
            "error": None,
        }
        for event in events
        for listener in listeners
        if event.type in listener.events
    ]
    if calls:
        rows.insert_outbox(db, calls)


def _event_body(course_id: str, event: WebhookEvent) -> str:
    """Return an event as the body of a call."""
    about = {} if event.learner is None else {"learner": event.learner}
    data = {"course": course_id, **about, **event.data}
    return to_json({"type": event.type, "timestamp": to_text(event.at), "data": data}).decode()


def mastery_events(
    course: CourseModel, before: States, after: States, offers: Sequence[RecommendationOffer]
) -> list[WebhookEvent]:
    """Return an event for every skill that an answer made mastered, or stuck, one answer each of B learners.

    `before` and `after` are the learners at the moment of the event, without the answer and with it; `offers` follow
    the answers.
    """
    events = []
    for type_, happens in ((SKILL_MASTERED, is_mastered), (LEARNER_STUCK, is_stuck)):
        for number, skill in np.argwhere(happens(after) & ~happens(before)).tolist():
            offer = offers[number]
            data = {
                "skill": course.skill_ids[skill],
                "mastery": round(float(after.mastery[number, skill]), DIGITS),
                "response": offer.response,
                "position": offer.position,
            }
            events.append(WebhookEvent(type_, offer.learner, offer.offered_at, data))
    return events


def create_webhook(
    db: Connection, tenant_id: int, url: str, events: Sequence[str], course_id: str | None, now: int
) -> dict[str, Any]:
    """Create a webhook and return it with its secret, which cannot be read again.

    Raises `UnknownCourse`, and `TooManyWebhooks` if the tenant has as many as it may.
    """
    if rows.count_webhooks(db, tenant_id) >= MOST_WEBHOOKS:
        raise TooManyWebhooks(f"there are {MOST_WEBHOOKS} webhooks, as many as there may be; delete one first")
    if course_id is not None:
        need_course(db, tenant_id, course_id)
    row = {
        "id": f"wh-{secrets.token_hex(8)}",
        "url": url,
        "events": sorted(set(events)),
        "course_id": course_id,
        "secret": f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}",
        "created_at": now,
    }
    rows.insert_webhook(db, {"tenant_id": tenant_id, **row})
    reply = {name: row[name] for name in ("id", "url", "events", "secret")}
    return {**reply, "course": course_id, "created_at": to_text(now)}


def page_of_webhooks(db: Connection, tenant_id: int, after: str | None, limit: int) -> list[dict[str, Any]]:
    """Return webhooks by id, as replies."""
    return [_to_webhook_reply(row) for row in rows.page_webhooks(db, tenant_id, after, limit)]


def _to_webhook_reply(row: rows.WebhookRow) -> dict[str, Any]:
    """Return a webhook as a reply of the interface."""
    return {
        "id": row.id,
        "url": row.url,
        "events": row.events,
        "course": row.course_id,
        "created_at": to_text(row.created_at),
        "pending": row.pending,
        "failed": row.failed,
        "last_failure": None if row.failed_at is None else {"at": to_text(row.failed_at), "reason": row.error},
    }


def remove_webhook(db: Connection, tenant_id: int, webhook_id: str) -> bool:
    """Delete a webhook and its pending calls; return whether some may be under way. Raises `UnknownWebhook`."""
    attempted = rows.delete_webhook(db, tenant_id, webhook_id)
    if attempted is None:
        raise UnknownWebhook("there is no such webhook; GET /v1/webhooks lists those there are")
    return attempted > 0


def claim_calls(db: Connection, tenant_id: int, webhook_id: str, now: int) -> list[WebhookCall]:
    """Claim some calls of a webhook that are due, to be made at once; calls that nobody settles are due again later."""
    webhook = rows.find_webhook(db, tenant_id, webhook_id)
    due_calls = rows.lock_due_calls(db, tenant_id, webhook_id, now, CLAIMED_AT_ONCE)
    if webhook is None or not due_calls:
        return []
    rows.reschedule_calls(db, tenant_id, webhook_id, [row.id for row in due_calls], now + LEASE_US, attempts=1)
    return [
        WebhookCall(tenant_id, webhook_id, row.id, row.attempt + 1, webhook.url, webhook.secret, row.body.encode())
        for row in due_calls
    ]


def return_calls(db: Connection, tenant_id: int, webhook_id: str, calls: Sequence[WebhookCall], now: int) -> None:
    """Undo the claim of calls, so that another process can make them."""
    rows.reschedule_calls(db, tenant_id, webhook_id, [call.id for call in calls], now, attempts=-1)


def settle_calls(
    db: Connection, tenant_id: int, webhook_id: str, outcomes: Sequence[tuple[WebhookCall, str | None]], now: int
) -> None:
    """Delete the accepted calls of a webhook; the others, each with the reason, are due again or have failed."""
    delivered = [call.id for call, error in outcomes if error is None]
    failures = [
        {"key": call.id, "due_at": next_attempt_at(call.attempt, now), "failed_at": now, "error": error}
        for call, error in outcomes
        if error is not None
    ]
    if delivered:
        rows.delete_calls(db, tenant_id, webhook_id, delivered)
    if failures:
        rows.save_failures(db, tenant_id, webhook_id, failures)


def next_attempt_at(attempt: int, now: int) -> int | None:
    """Return when to try again after a failed attempt, at random within a quarter of the pause; None after the last."""
    if attempt >= MAX_ATTEMPTS:
        return None
    pause: int = min(FIRST_PAUSE_US * PAUSE_GROWTH ** (attempt - 1), LONGEST_PAUSE_US)
    return now + round(pause * CHANCE.uniform(0.75, 1.25))


def delete_failed_calls(db: Connection, now: int) -> None:
    """Delete the calls that failed long ago."""
    rows.delete_failed_calls(db, now - FAILED_RETENTION_US)
