"""The log as rows: answers, corrections and recommendations."""

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, bindparam, exists, func, insert, literal, select, update

from app.models import Correction, ImportRun, Recommendation, Response
from app.queries.bulk import insert_rows
from app.queries.matching import matches_any, matches_any_parameter


class Entry(NamedTuple):
    """What a replay needs of a response. `score` is the one that counts: the last regrade's, none if voided.

    It counts out of `max_score`, the item's maximum when the answer was given; none: that of today.
    """

    learner_id: str
    id: str
    item_id: str
    score: float | None
    occurred_at: int
    duration_ms: int | None = None
    max_score: float | None = None


class ResponseRow(NamedTuple):
    """A response as it is stored, with the score that it came with."""

    id: str
    learner_id: str
    position: int
    item_id: str
    score: float
    max_score: float | None
    occurred_at: int
    has_timestamp: bool
    received_at: int
    duration_ms: int | None
    recommendation_id: str | None
    options: dict[str, Any] | None
    calibration: int | None
    revision: int
    outcome_version: int
    p_correct: float
    outcome: str | None


class CorrectionRow(NamedTuple):
    """A correction as it is stored: the new score, none if the response was voided."""

    learner_id: str
    response_id: str
    position: int
    score: float | None


class RecommendationRow(NamedTuple):
    """A recommendation as it is stored."""

    id: str
    learner_id: str
    item_id: str
    skill_id: str | None
    code: str
    terms: dict[str, Any]
    p_correct: float
    propensity: float
    seed: int
    avoided: list[str]
    options: dict[str, Any] | None
    position: int
    calibration: int | None
    revision: int
    outcome_version: int
    offered_at: int
    expires_at: int | None


ENTRY = [getattr(Response, name) for name in ("learner_id", *Entry._fields[1:])]
RESPONSE = [getattr(Response, name) for name in ResponseRow._fields]
CORRECTION = [getattr(Correction, name) for name in CorrectionRow._fields]
RECOMMENDATION = [getattr(Recommendation, name) for name in RecommendationRow._fields]


def find_responses(db: Connection, tenant_id: int, course_id: str, ids: Collection[str]) -> dict[str, ResponseRow]:
    """Those of the answers that exist, by id."""
    parameters = {"tenant_id": tenant_id, "course_id": course_id, "ids": list(ids)}
    return {row[0]: ResponseRow._make(row) for row in db.execute(_responses_by_id(db.dialect.name), parameters)}


@cache
def _responses_by_id(dialect: str) -> Select[*tuple[Any, ...]]:
    """The statement of `find_responses`, built once: it is part of every transaction of answers."""
    return select(*RESPONSE).where(
        Response.tenant_id == bindparam("tenant_id"),
        Response.course_id == bindparam("course_id"),
        matches_any_parameter(dialect, Response.id, "ids"),
    )


def insert_responses(db: Connection, rows: list[dict[str, Any]]) -> None:
    """Append answers that carry their own tenant_id; an id that exists is an IntegrityError."""
    insert_rows(db, Response, rows)


def keep_max_scores(db: Connection, tenant_id: int, course_id: str, max_scores: Mapping[str, float]) -> None:
    """Note with the answers to some items what their maximum has been, where that does not stand there yet."""
    for item_id, max_score in max_scores.items():
        db.execute(
            update(Response)
            .where(
                Response.tenant_id == tenant_id,
                Response.course_id == course_id,
                Response.item_id == item_id,
                Response.max_score.is_(None),
            )
            .values(max_score=max_score)
        )


def save_outcome(db: Connection, tenant_id: int, course_id: str, response_id: str, outcome: str) -> None:
    """Keep the outcome that is told of an imported answer from now on."""
    db.execute(
        update(Response)
        .where(Response.tenant_id == tenant_id, Response.course_id == course_id, Response.id == response_id)
        .values(outcome=outcome)
    )


def read_entries(
    db: Connection, tenant_id: int, course_id: str, learner_ids: Collection[str], until: int | None = None
) -> list[Entry]:
    """All answers of some learners, corrected, by learner and sort key; up to a time, if given."""
    statement = select(*ENTRY).where(
        Response.tenant_id == tenant_id,
        Response.course_id == course_id,
        matches_any(db, Response.learner_id, learner_ids),
    )
    if until is not None:
        statement = statement.where(Response.occurred_at <= until)
    statement = statement.order_by(Response.learner_id, Response.occurred_at, Response.id)
    corrected = read_corrected(db, tenant_id, course_id, learner_ids)
    return correct_entries(db.execute(statement), corrected)


def read_recent(
    db: Connection, tenant_id: int, course_id: str, learner_id: str, count: int, since: int | None
) -> list[Entry]:
    """A learner's last `count` answers that are not voided, and all after `since`, if given; by sort key.

    With the scores they came with.
    """
    statement = (
        select(*ENTRY)
        .where(
            Response.tenant_id == tenant_id,
            Response.course_id == course_id,
            Response.learner_id == learner_id,
            ~exists().where(
                Correction.tenant_id == tenant_id,
                Correction.course_id == course_id,
                Correction.response_id == Response.id,
                Correction.score.is_(None),
            ),
        )
        .order_by(Response.occurred_at.desc(), Response.id.desc())
    )
    rows = list(db.execute(statement.limit(count)))
    if since is not None:
        rows = max(rows, list(db.execute(statement.where(Response.occurred_at > since))), key=len)
    return [Entry(*row) for row in reversed(rows)]


def read_all_entries(db: Connection, tenant_id: int, course_id: str) -> list[Entry]:
    """All answers of a course, corrected, by learner and sort key."""
    statement = (
        select(*ENTRY)
        .where(Response.tenant_id == tenant_id, Response.course_id == course_id)
        .order_by(Response.learner_id, Response.occurred_at, Response.id)
    )
    corrected = read_corrected(db, tenant_id, course_id)
    return correct_entries(db.execute(statement), corrected)


def correct_entries(rows: Iterable[Any], corrected: Mapping[str, float | None]) -> list[Entry]:
    """Entries from rows of `ENTRY`, with the scores that count."""
    return [entry._replace(score=corrected.get(entry.id, entry.score)) for entry in map(Entry._make, rows)]


def read_corrected(
    db: Connection, tenant_id: int, course_id: str, learner_ids: Collection[str] | None = None
) -> dict[str, float | None]:
    """The score that counts of every corrected answer of some learners, or of all; none if it was voided."""
    statement = select(Correction.response_id, Correction.score).where(
        Correction.tenant_id == tenant_id, Correction.course_id == course_id
    )
    if learner_ids is not None:
        statement = statement.where(matches_any(db, Correction.learner_id, learner_ids))
    statement = statement.order_by(Correction.learner_id, Correction.position)
    return dict(list(db.execute(statement)))


def list_corrections(
    db: Connection, tenant_id: int, course_id: str, learner_ids: Collection[str]
) -> list[CorrectionRow]:
    """The corrections of some learners, each learner's oldest first."""
    statement = (
        select(*CORRECTION)
        .where(
            Correction.tenant_id == tenant_id,
            Correction.course_id == course_id,
            matches_any(db, Correction.learner_id, learner_ids),
        )
        .order_by(Correction.learner_id, Correction.position)
    )
    return [CorrectionRow(*row) for row in db.execute(statement)]


def insert_correction(db: Connection, row: Mapping[str, Any]) -> None:
    """Append a void or a regrade that carries its own tenant_id."""
    db.execute(insert(Correction), dict(row))


def insert_recommendations(db: Connection, rows: list[dict[str, Any]]) -> None:
    """Keep what was offered; the rows carry their own tenant_id."""
    insert_rows(db, Recommendation, rows)


def find_recommendations(
    db: Connection, tenant_id: int, course_id: str, ids: Collection[str]
) -> dict[str, RecommendationRow]:
    """Those of the recommendations that exist."""
    parameters = {"tenant_id": tenant_id, "course_id": course_id, "ids": list(ids)}
    statement = _recommendations_by_id(db.dialect.name)
    return {row[0]: RecommendationRow._make(row) for row in db.execute(statement, parameters)}


@cache
def _recommendations_by_id(dialect: str) -> Select[*tuple[Any, ...]]:
    """The statement of `find_recommendations`, built once: most transactions of answers name a recommendation."""
    return select(*RECOMMENDATION).where(
        Recommendation.tenant_id == bindparam("tenant_id"),
        Recommendation.course_id == bindparam("course_id"),
        matches_any_parameter(dialect, Recommendation.id, "ids"),
    )


def count_responses(db: Connection, tenant_id: int, course_id: str) -> int:
    """The number of answers of a course."""
    statement = select(func.count()).where(Response.tenant_id == tenant_id, Response.course_id == course_id)
    return db.execute(statement).scalar_one()


def has_more_responses(db: Connection, tenant_id: int, course_id: str, count: int) -> bool:
    """Whether a course has more answers than that, without counting what is beyond."""
    statement = select(literal(1)).where(Response.tenant_id == tenant_id, Response.course_id == course_id)
    return db.execute(statement.offset(count).limit(1)).first() is not None


def read_log(db: Connection, tenant_id: int, course_id: str, learner_ids: Collection[str]) -> list[ResponseRow]:
    """Everything kept of the answers of some learners, in the order of arrival: what `replay --verify` goes through."""
    statement = (
        select(*RESPONSE)
        .where(
            Response.tenant_id == tenant_id,
            Response.course_id == course_id,
            matches_any(db, Response.learner_id, learner_ids),
        )
        .order_by(Response.learner_id, Response.position)
    )
    return [ResponseRow(*row) for row in db.execute(statement)]


def page_offers(db: Connection, tenant_id: int, course_id: str, after: str, limit: int) -> list[RecommendationRow]:
    """Recommendations that were asked for, by id after `after`."""
    statement = (
        select(*RECOMMENDATION)
        .where(
            Recommendation.tenant_id == tenant_id,
            Recommendation.course_id == course_id,
            Recommendation.response_id.is_(None),
            Recommendation.id > after,
        )
        .order_by(Recommendation.id)
        .limit(limit)
    )
    return [RecommendationRow(*row) for row in db.execute(statement)]


def find_import(db: Connection, tenant_id: int, course_id: str, digest: str) -> int:
    """The last line of a file that was imported, 0 if none."""
    statement = select(ImportRun.line).where(
        ImportRun.tenant_id == tenant_id, ImportRun.course_id == course_id, ImportRun.digest == digest
    )
    return db.execute(statement).scalar_one_or_none() or 0


def save_import(db: Connection, tenant_id: int, course_id: str, digest: str, line: int) -> None:
    """Note how far the import of a file has come."""
    mine = (ImportRun.tenant_id == tenant_id, ImportRun.course_id == course_id, ImportRun.digest == digest)
    if db.execute(update(ImportRun).where(*mine).values(line=line)).rowcount == 0:
        db.execute(insert(ImportRun), {"tenant_id": tenant_id, "course_id": course_id, "digest": digest, "line": line})
