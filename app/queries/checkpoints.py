"""Checkpoints as rows: states on the way through learners' logs, and the answers after them."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Select, bindparam, delete, select, tuple_

from app.models import Checkpoint, Response
from app.models.base import Identifier, Instant
from app.queries.bulk import insert_rows
from app.queries.matching import matches_any
from app.queries.responses import ENTRY, Entry, correct_entries, read_corrected

# The sort key of a response: when it was given, and its id.
SortKey = tuple[int, str]
BEGINNING: SortKey = (-(1 << 63), "")


class CheckpointKey(NamedTuple):
    """The place of a checkpoint."""

    learner_id: str
    occurred_at: int
    response_id: str


class StoredCheckpoint(NamedTuple):
    """A checkpoint with its state."""

    learner_id: str
    occurred_at: int
    response_id: str
    state: bytes


def list_checkpoint_keys(
    db: Connection, tenant_id: int, course_id: str, version: tuple[int | None, int, int], learner_ids: Collection[str]
) -> list[CheckpointKey]:
    """The keys of the checkpoints of this version, each learner's in order.

    A version is a calibration, the oldest good revision of the catalogue, and an engine.
    """
    statement = _ordered_checkpoints(db, tenant_id, course_id, version, learner_ids)
    return [CheckpointKey(*row) for row in db.execute(statement)]


def list_checkpoints(
    db: Connection, tenant_id: int, course_id: str, version: tuple[int | None, int, int], learner_ids: Collection[str]
) -> list[StoredCheckpoint]:
    """`list_checkpoint_keys` with the states."""
    statement = _ordered_checkpoints(db, tenant_id, course_id, version, learner_ids).add_columns(Checkpoint.state)
    return [StoredCheckpoint(*row) for row in db.execute(statement)]


def _ordered_checkpoints(
    db: Connection, tenant_id: int, course_id: str, version: tuple[int | None, int, int], learner_ids: Collection[str]
) -> Select[str, int, str]:
    """The statement of `list_checkpoint_keys`."""
    return (
        select(Checkpoint.learner_id, Checkpoint.occurred_at, Checkpoint.response_id)
        .where(Checkpoint.tenant_id == tenant_id, Checkpoint.course_id == course_id, *_matches_version(version))
        .where(matches_any(db, Checkpoint.learner_id, learner_ids))
        .order_by(Checkpoint.learner_id, Checkpoint.occurred_at, Checkpoint.response_id)
    )


def _matches_version(version: tuple[int | None, int, int]) -> tuple[ColumnElement[bool], ...]:
    """Whether a checkpoint is of a version."""
    calibration, revision, engine = version
    return (
        Checkpoint.calibration.is_not_distinct_from(calibration),
        Checkpoint.revision >= revision,
        Checkpoint.engine == engine,
    )


def find_states(db: Connection, tenant_id: int, course_id: str, starts: Collection[CheckpointKey]) -> dict[str, bytes]:
    """The states kept at some checkpoints, one for each learner."""
    statement = select(Checkpoint.learner_id, Checkpoint.state).where(
        Checkpoint.tenant_id == tenant_id,
        Checkpoint.course_id == course_id,
        matches_any(db, Checkpoint.learner_id, [start.learner_id for start in starts]),
        matches_any(db, Checkpoint.response_id, [start.response_id for start in starts]),
    )
    return dict(list(db.execute(statement)))


def read_entries_after(
    db: Connection, tenant_id: int, course_id: str, learner_id: str, after: SortKey, until: int | None = None
) -> list[Entry]:
    """The answers of one learner after a sort key, corrected and in their order; up to a time, if given."""
    statement = select(*ENTRY).where(
        Response.tenant_id == tenant_id,
        Response.course_id == course_id,
        Response.learner_id == learner_id,
        tuple_(Response.occurred_at, Response.id) > after,
    )
    if until is not None:
        statement = statement.where(Response.occurred_at <= until)
    corrected = read_corrected(db, tenant_id, course_id, [learner_id])
    return correct_entries(db.execute(statement.order_by(Response.occurred_at, Response.id)), corrected)


def drop_checkpoints(db: Connection, tenant_id: int, course_id: str, after: Mapping[str, SortKey]) -> None:
    """Drop the checkpoints of some learners after a place each."""
    moment, response = bindparam("moment", type_=Instant), bindparam("response", type_=Identifier)
    statement = delete(Checkpoint).where(
        Checkpoint.tenant_id == tenant_id,
        Checkpoint.course_id == course_id,
        Checkpoint.learner_id == bindparam("learner"),
        tuple_(Checkpoint.occurred_at, Checkpoint.response_id) > tuple_(moment, response),
    )
    db.execute(
        statement, [{"learner": id_, "moment": sort_key[0], "response": sort_key[1]} for id_, sort_key in after.items()]
    )


def insert_checkpoints(db: Connection, rows: list[dict[str, Any]]) -> None:
    """Keep checkpoints that carry their own tenant_id."""
    insert_rows(db, Checkpoint, rows)
