"""What was predicted and what came, as rows."""

from collections.abc import Collection
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, select

from app.models import ItemSkill, Learner, Response
from app.queries.matching import matches_any


class _PredictionRow(NamedTuple):
    """An answer with the prediction made before it. `score` is the one that was sent."""

    id: str
    learner_id: str
    item_id: str
    score: float
    max_score: float | None
    p_correct: float
    calibration: int | None
    occurred_at: int


def page_log_sizes(
    db: Connection, tenant_id: int, course_id: str, since: int | None, after: str | None, limit: int
) -> list[tuple[str, int]]:
    """Learners by id after `after`, each with the number of entries of the log; only who answered from `since` on."""
    statement = select(Learner.id, Learner.position).where(
        Learner.tenant_id == tenant_id, Learner.course_id == course_id
    )
    if since is not None:
        statement = statement.where(Learner.last_occurred_at >= since)
    if after is not None:
        statement = statement.where(Learner.id > after)
    return [(id_, size) for id_, size in db.execute(statement.order_by(Learner.id).limit(limit))]


def list_predictions(
    db: Connection,
    tenant_id: int,
    course_id: str,
    learner_ids: Collection[str],
    *,
    calibration: int | None,
    skill: str | None,
    since: int | None,
    until: int | None,
) -> list[_PredictionRow]:
    """The answers of some learners that fit, in no order; `calibration` 0 are the defaults, `until` is excluded."""
    statement = select(
        Response.id,
        Response.learner_id,
        Response.item_id,
        Response.score,
        Response.max_score,
        Response.p_correct,
        Response.calibration,
        Response.occurred_at,
    ).where(
        Response.tenant_id == tenant_id,
        Response.course_id == course_id,
        matches_any(db, Response.learner_id, learner_ids),
    )
    if calibration is not None:
        statement = statement.where(Response.calibration.is_not_distinct_from(calibration or None))
    if skill is not None:
        statement = statement.where(_has_skill(tenant_id, course_id, skill))
    if since is not None:
        statement = statement.where(Response.occurred_at >= since)
    if until is not None:
        statement = statement.where(Response.occurred_at < until)
    return [_PredictionRow(*row) for row in db.execute(statement)]


def _has_skill(tenant_id: int, course_id: str, skill: str) -> ColumnElement[bool]:
    """Whether the item of an answer asks for a skill."""
    items: Any = select(ItemSkill.item_id).where(
        ItemSkill.tenant_id == tenant_id, ItemSkill.course_id == course_id, ItemSkill.skill_id == skill
    )
    return Response.item_id.in_(items)
