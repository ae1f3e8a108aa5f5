"""Learners as rows: the snapshots of their folds."""

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, Insert, Select, bindparam, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from app.models import Learner
from app.queries.bulk import execute_many
from app.queries.matching import matches_any_parameter


class LearnerRow(NamedTuple):
    """A snapshot: where the learner's log stands and what the engine knew then."""

    id: str
    position: int
    state: bytes
    last_occurred_at: int | None
    last_response_id: str | None
    calibration: int | None
    revision: int
    engine: int


COLUMNS = (
    Learner.id,
    Learner.position,
    Learner.state,
    Learner.last_occurred_at,
    Learner.last_response_id,
    Learner.calibration,
    Learner.revision,
    Learner.engine,
)
SNAPSHOT = (
    "position",
    "theta",
    "standard_error",
    "state",
    "last_occurred_at",
    "last_response_id",
    "calibration",
    "revision",
    "engine",
)

SAVE = (
    update(Learner)
    .where(
        Learner.tenant_id == bindparam("in_tenant"),
        Learner.course_id == bindparam("in_course"),
        Learner.id == bindparam("key"),
    )
    .values({column: bindparam(column) for column in SNAPSHOT})
)


def find_learners(
    db: Connection, tenant_id: int, course_id: str, ids: Collection[str], *, lock: bool = False
) -> dict[str, LearnerRow]:
    """Those of the learners that exist; `lock` holds their rows, taken in the order of their ids."""
    parameters = {"tenant_id": tenant_id, "course_id": course_id, "ids": list(ids)}
    return {
        row[0]: LearnerRow._make(row) for row in db.execute(_learners_by_id(db.dialect.name, lock=lock), parameters)
    }


@cache
def _learners_by_id(dialect: str, *, lock: bool) -> Select[*tuple[Any, ...]]:
    """The statement of `find_learners`, built once: it is part of every transaction of answers."""
    statement = (
        select(*COLUMNS)
        .where(
            Learner.tenant_id == bindparam("tenant_id"),
            Learner.course_id == bindparam("course_id"),
            matches_any_parameter(dialect, Learner.id, "ids"),
        )
        .order_by(Learner.id)
    )
    return statement.with_for_update() if lock else statement


def insert_learners(db: Connection, tenant_id: int, course_id: str, learners: Sequence[Mapping[str, Any]]) -> None:
    """Add learners, in the order of their ids; one that another transaction has just added stays as it is."""
    rows = [{"tenant_id": tenant_id, "course_id": course_id, **learner} for learner in learners]
    execute_many(db, _learner_insert_statement(db.dialect.name), rows)


@cache
def _learner_insert_statement(dialect: str) -> Insert:
    """The statement of `insert_learners`."""
    make = postgresql.insert if dialect == "postgresql" else sqlite.insert
    return make(Learner).on_conflict_do_nothing()


def save_learners(db: Connection, tenant_id: int, course_id: str, snapshots: list[dict[str, Any]]) -> None:
    """Write snapshots; each names its learner under `key`."""
    key = {"in_tenant": tenant_id, "in_course": course_id}
    execute_many(db, SAVE, [{**key, **snapshot} for snapshot in snapshots])


def page_learners(db: Connection, tenant_id: int, course_id: str, after: str | None, limit: int) -> list[LearnerRow]:
    """Up to `limit` learners from the id `after` on (exclusive), by id."""
    statement = select(*COLUMNS).where(Learner.tenant_id == tenant_id, Learner.course_id == course_id)
    if after is not None:
        statement = statement.where(Learner.id > after)
    return [LearnerRow(*row) for row in db.execute(statement.order_by(Learner.id).limit(limit))]


def list_stale(
    db: Connection,
    tenant_id: int,
    course_id: str,
    version: tuple[int | None, int, int],
    limit: int | None,
) -> list[str]:
    """Learners whose snapshot is not of this version, up to `limit`, if given.

    A version is a calibration, the oldest good revision of the catalogue, and an engine.
    """
    calibration, revision, engine = version
    statement = (
        select(Learner.id)
        .where(
            Learner.tenant_id == tenant_id,
            Learner.course_id == course_id,
            or_(
                Learner.calibration.is_distinct_from(calibration),
                Learner.revision < revision,
                Learner.engine != engine,
            ),
        )
        .order_by(Learner.id)
        .limit(limit)
    )
    return list(db.execute(statement).scalars())
