"""Decide again on responses that are in the log: to verify them, and to tell the outcome of imported ones."""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from app.adaptive.state import States
from app.queries.learners import LearnerRow, find_learners
from app.queries.responses import RecommendationRow, ResponseRow, insert_recommendations, save_outcome
from app.services.course_model import CourseModel, course_model_at
from app.services.learner_log import LearnerLog, read_learner_logs
from app.services.options import options_from_row
from app.services.replay import full_history, replay_entries
from app.services.responses.decide import find_reading_needs, make_decision
from app.services.responses.present import build_outcomes
from app.services.responses.types import AcceptedResponse, Known, NewResponse
from app.services.responses.write import recommendation_rows


def known_from_logs(
    course: CourseModel,
    learner_logs: Sequence[LearnerLog],
    position: int,
    rows: Sequence[LearnerRow],
    states: States,
    offered: Mapping[str, RecommendationRow],
) -> Known:
    """What was known when the response at a position of each log arrived.

    `rows` and `states` are the learners before that position, `offered` the recommendations that were named, by id.
    """
    logs = {learner_log.row.id: learner_log for learner_log in learner_logs}
    responses = [_to_accepted(course, learner_log.responses[position], offered) for learner_log in learner_logs]
    needs = find_reading_needs(rows, responses)
    histories = {learner: full_history([learner], logs[learner].entries(position - 1)) for learner in needs.late}
    recent = {id_: logs[learner].scored_entries(position - 1) for id_, (learner, _, _) in needs.recent.items()}
    return Known(course, rows, states, responses, histories, recent, {})


def _to_accepted(course: CourseModel, row: ResponseRow, offered: Mapping[str, RecommendationRow]) -> AcceptedResponse:
    """A stored response as it was accepted."""
    response = NewResponse(
        tenant_id=course.tenant_id,
        course_id=course.course_id,
        id=row.id,
        learner=row.learner_id,
        item=row.item_id,
        score=row.score,
        correct=None,
        occurred_at=row.occurred_at,
        has_timestamp=row.has_timestamp,
        received_at=row.received_at,
        duration_ms=row.duration_ms,
        recommendation=row.recommendation_id,
        next=options_from_row(row.options),
    )
    named = row.recommendation_id
    recommendation = None if named is None else offered.get(named)
    item = course.item_numbers[row.item_id]
    return AcceptedResponse(response, item, row.score, row.max_score, recommendation)


def create_imported_outcome(db: Connection, course: CourseModel, row: ResponseRow) -> bytes:
    """The outcome of an imported response, which nobody has been told: as if it had come alone, then.

    From here on it is stored, and so is the recommendation in it.
    """
    learners = find_learners(db, course.tenant_id, course.course_id, [row.learner_id])
    [learner_log] = read_learner_logs(db, course, list(learners.values()))
    course_then = course_model_at(db, course.tenant_id, course.course_id, row.revision, row.calibration)
    states = replay_entries(course_then, [row.learner_id], learner_log.entries(row.position - 1)).states
    rows = [learner_log.row_at(row.position - 1)]
    decision = make_decision(known_from_logs(course_then, [learner_log], row.position, rows, states, {}))
    [outcome] = build_outcomes(decision).values()
    save_outcome(db, course.tenant_id, course.course_id, row.id, outcome.decode())
    insert_recommendations(db, recommendation_rows(decision))
    return outcome
