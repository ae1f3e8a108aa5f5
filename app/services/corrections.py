"""Voids and regrades: further entries of the log, after which the learner is replayed."""

from typing import Any

from sqlalchemy import Connection

from app.core.errors import ResponseVoided, UnknownResponse
from app.queries.learners import find_learners
from app.queries.responses import find_responses, insert_correction, read_corrected
from app.services.catalogue import need_course
from app.services.course_model import read_course_model
from app.services.mastery import mastery_report
from app.services.replay import replay_from_checkpoints, save_states, states_at
from app.services.responses.read import check_score
from app.services.webhooks import RESPONSE_CORRECTED, WebhookEvent, publish_events

VOID, REGRADE = "void", "regrade"


def correct_response(
    db: Connection,
    tenant_id: int,
    course_id: str,
    response_id: str,
    score: float | None,
    reason: str,
    made_by: str,
    now: int,
) -> dict[str, Any]:
    """Regrade an answer to `score`, or void it (None); return the learner's mastery after it.

    Repeating a correction changes nothing. Raises `UnknownResponse`, `InvalidScore`, and `ResponseVoided` for the
    regrade of a voided answer.
    """
    need_course(db, tenant_id, course_id)
    stored = find_responses(db, tenant_id, course_id, [response_id])
    if response_id not in stored:
        raise UnknownResponse("the course has no such response")
    learner_id, item_id = stored[response_id].learner_id, stored[response_id].item_id
    row = find_learners(db, tenant_id, course_id, [learner_id], lock=True)[learner_id]
    # Only once the learner is locked: another transaction may have replayed it under a newer course model.
    course = read_course_model(db, tenant_id, course_id)
    if score is not None:
        item, max_score = course.item_numbers[item_id], stored[response_id].max_score
        if max_score is None:
            max_score = float(course.max_scores[item])
        # The answer was given when the item had another maximum: then it is no category of the item of today.
        is_todays = max_score == course.max_scores[item]
        score = check_score(score, max_score, course.parameters.items.max_category[item] if is_todays else 0)
    corrected = read_corrected(db, tenant_id, course_id, [learner_id])
    voided = response_id in corrected and corrected[response_id] is None
    if voided and score is not None:
        raise ResponseVoided("this response was voided and stays so; send the answer again under a new id")
    if corrected.get(response_id, stored[response_id].score) != score:
        row = row._replace(position=row.position + 1)
        entry = {
            "tenant_id": tenant_id,
            "course_id": course_id,
            "response_id": response_id,
            "position": row.position,
            "learner_id": learner_id,
            "kind": VOID if score is None else REGRADE,
            "score": score,
            "reason": reason,
            "made_by": made_by,
            "made_at": now,
        }
        insert_correction(db, entry)
        summary = {name: entry[name] for name in ("kind", "score", "position")}
        event = WebhookEvent(RESPONSE_CORRECTED, learner_id, now, {"response": response_id, **summary})
        publish_events(db, tenant_id, course_id, [event])
    replayed = replay_from_checkpoints(db, course, {learner_id: (stored[response_id].occurred_at, response_id)})
    save_states(db, course, [row], replayed.states, replayed.checkpoint_sets)
    return mastery_report(course, states_at(course, replayed.states, now), learner_id, row.position)
