"""Write a decision: the responses with their outcomes, events, recommendations, and the learners' states."""

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import Connection

from app.adaptive.arrays import Integers
from app.queries.responses import insert_recommendations, insert_responses
from app.services.course_model import CourseModel
from app.services.options import options_to_row
from app.services.present import OUTCOME_VERSION
from app.services.recommendations import recommendation_row
from app.services.replay import save_states
from app.services.responses.types import DecidedRound, Decision
from app.services.webhooks import WebhookEvent, mastery_events, publish_events


def write_decision(
    db: Connection, decision: Decision, outcomes: Mapping[str, bytes], total_responses_before: Integers
) -> None:
    """Write what follows from new responses; `total_responses_before` (L,) are those each state had taken in before."""
    course = decision.course
    insert_responses(db, [row for decided in decision.rounds for row in _response_rows(course, decided, outcomes)])
    publish_events(db, course.tenant_id, course.course_id, _events(decision))
    insert_recommendations(db, recommendation_rows(decision))
    save_states(db, course, decision.learners, decision.states, decision.checkpoint_sets, total_responses_before)


def recommendation_rows(decision: Decision) -> list[dict[str, Any]]:
    """The rows of the recommendations that follow the responses."""
    return [
        recommendation_row(decision.course, choice, offer)
        for decided in decision.rounds
        for choice, offer in zip(decided.choices.each(), decided.offers, strict=True)
        if choice.item >= 0
    ]


def _events(decision: Decision) -> list[WebhookEvent]:
    """What webhooks are told: the skills that became mastered."""
    if not decision.course.watched:
        return []
    return [
        event
        for decided in decision.rounds
        for event in mastery_events(decision.course, decided.before, decided.now, decided.offers)
    ]


def _response_rows(
    course: CourseModel, decided: DecidedRound, outcomes: Mapping[str, bytes]
) -> Iterator[dict[str, Any]]:
    """The rows of the responses of a round."""
    for accepted, offer, p in zip(decided.responses, decided.offers, decided.p.tolist(), strict=True):
        response = accepted.response
        yield {
            "tenant_id": course.tenant_id,
            "course_id": course.course_id,
            "id": response.id,
            "learner_id": response.learner,
            "position": offer.position,
            "item_id": response.item,
            "score": accepted.score,
            "max_score": accepted.max_score,
            "occurred_at": response.occurred_at,
            "has_timestamp": response.has_timestamp,
            "received_at": response.received_at,
            "duration_ms": response.duration_ms,
            "recommendation_id": response.recommendation,
            "options": options_to_row(response.next),
            "calibration": course.calibration,
            "revision": course.revision,
            "outcome_version": OUTCOME_VERSION,
            "p_correct": p,
            "outcome": outcomes[response.id].decode(),
        }
