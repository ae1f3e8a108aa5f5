"""Replay: from entries of the log to states, and from states to the stored snapshots.

A replay may start at a checkpoint, the packed state after some response, and makes new ones. The result is the same
to the bit; the transaction of a late answer or a correction deletes the checkpoints that it makes wrong.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.response_log import Log
from app.adaptive.state import States
from app.adaptive.tracing.filter import fade_states
from app.adaptive.tracing.replay import replay_marked
from app.adaptive.tracing.state_codec import ENGINE, decode_states, encode_states
from app.adaptive.tracing.uncertainty import standard_error
from app.core.errors import Unavailable
from app.core.times import to_days
from app.queries.checkpoints import (
    BEGINNING,
    CheckpointKey,
    SortKey,
    drop_checkpoints,
    find_states,
    insert_checkpoints,
    list_checkpoint_keys,
    read_entries_after,
)
from app.queries.learners import LearnerRow, find_learners, insert_learners, list_stale, page_learners, save_learners
from app.queries.responses import Entry, read_entries
from app.services.course_model import CourseModel, read_course_model

# A checkpoint at every so many answers of a learner (docs/decisions/0017).
CHECKPOINT_INTERVAL = 64


@dataclass(frozen=True)
class History:
    """The states of some learners at one position of each log, and their answers after it."""

    starts: dict[str, SortKey]
    states: list[bytes]
    entries: Sequence[Entry]


@dataclass(frozen=True)
class CheckpointSet:
    """Where the replay of a learner began, and the checkpoints it passed.

    Stored checkpoints after the start are no longer valid. A replay on the snapshot has no start: no response follows
    it.
    """

    start: SortKey | None
    checkpoints: list[dict[str, Any]]


@dataclass(frozen=True)
class Replayed:
    """The states of some learners after all their answers, and the prediction of every answer that counts."""

    learner_ids: tuple[str, ...]
    states: States
    p_correct: dict[str, float]
    checkpoint_sets: dict[str, CheckpointSet]


def replay_entries(course: CourseModel, learner_ids: Sequence[str], entries: Sequence[Entry]) -> Replayed:
    """Replay the entries of the named learners, each learner's in order; the states are in the order of the names.

    Voided answers are as if they had never been given.
    """
    return replay_history(course, full_history(learner_ids, entries))


def full_history(learner_ids: Sequence[str], entries: Sequence[Entry]) -> History:
    """Return all entries of some learners, to be replayed from the beginning."""
    return History(dict.fromkeys(learner_ids, BEGINNING), [b""] * len(learner_ids), entries)


def replay_history(course: CourseModel, history: History, new_entries: Sequence[Entry] = ()) -> Replayed:
    """Replay learners from where a history begins, with responses that are not in the log yet in their order."""
    by_learner: dict[str, list[Entry]] = {learner_id: [] for learner_id in history.starts}
    entries = sorted([*history.entries, *new_entries], key=entry_sort_key) if new_entries else history.entries
    for entry in entries:
        if entry.score is not None:
            by_learner[entry.learner_id].append(entry)
    return replay_from_states(course, history.starts, decode_states(course.parameters, history.states), by_learner)


def replay_from_states(
    course: CourseModel, starts: Mapping[str, SortKey | None], before: States, by_learner: Mapping[str, Sequence[Entry]]
) -> Replayed:
    """Replay the responses that count of each learner, in order, into the states at the starts."""
    scored_entries = [entry for group in by_learner.values() for entry in group]
    log = to_log(course, scored_entries, [len(group) for group in by_learner.values()])
    marks = checkpoint_marks(before.total_responses, log.starts)
    states, predicted, checkpoints = replay_marked(course.parameters, log, marks, before)
    marked_entries = [scored_entries[number] for number in np.flatnonzero(marks).tolist()]
    checkpoint_rows = encode_checkpoints(course, starts, marked_entries, checkpoints)
    checkpoint_sets = {
        learner_id: CheckpointSet(start, rows)
        for (learner_id, start), rows in zip(starts.items(), checkpoint_rows, strict=True)
    }
    p_correct = dict(zip((entry.id for entry in scored_entries), predicted.p.tolist(), strict=True))
    return Replayed(tuple(by_learner), states, p_correct, checkpoint_sets)


def entry_sort_key(entry: Entry) -> SortKey:
    """Return the sort key of a response."""
    return entry.occurred_at, entry.id


def encode_checkpoints(
    course: CourseModel, learner_ids: Collection[str], entries: Sequence[Entry], states: States
) -> list[list[dict[str, Any]]]:
    """Return for each learner the rows of checkpoints: the `states` as they were after some of their `entries`."""
    rows: dict[str, list[dict[str, Any]]] = {learner_id: [] for learner_id in learner_ids}
    for entry, encoded in zip(entries, encode_states(course.parameters, states), strict=True):
        rows[entry.learner_id].append(_checkpoint_row(course, entry.learner_id, entry_sort_key(entry), encoded))
    return list(rows.values())


def checkpoint_marks(responses_before: Integers, starts: Integers) -> Booleans:
    """Return which responses of a log end a run of `CHECKPOINT_INTERVAL`, after `responses_before` of earlier ones."""
    count = np.arange(1, starts[-1] + 1) + np.repeat(responses_before - starts[:-1], np.diff(starts))
    return np.asarray(count % CHECKPOINT_INTERVAL == 0)


def _checkpoint_row(course: CourseModel, learner_id: str, sort_key: SortKey, encoded: bytes) -> dict[str, Any]:
    """Return the row of a checkpoint."""
    return {
        "tenant_id": course.tenant_id,
        "course_id": course.course_id,
        "learner_id": learner_id,
        "occurred_at": sort_key[0],
        "response_id": sort_key[1],
        "state": encoded,
        "calibration": course.calibration,
        "revision": course.revision,
        "engine": ENGINE,
    }


def course_log(course: CourseModel, entries: Sequence[Entry]) -> tuple[Log, list[str]]:
    """Return a whole course as arrays, for a calibration, and its learners; voided answers are left out."""
    scored_entries = [entry for entry in entries if entry.score is not None]
    lengths = {id_: len(list(group)) for id_, group in groupby(scored_entries, lambda entry: entry.learner_id)}
    return to_log(course, scored_entries, list(lengths.values())), list(lengths)


def to_log(course: CourseModel, entries: Sequence[Entry], lengths: Sequence[int]) -> Log:
    """Return entries of several learners as arrays; `lengths` says how many belong to each."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    items = np.array([course.item_numbers[entry.item_id] for entry in entries], dtype=np.int64)
    times = np.array([to_days(entry.occurred_at) for entry in entries], dtype=np.float64)
    scores = as_fractions(course, items, [(entry.score or 0.0, entry.max_score) for entry in entries])
    durations = known_durations([entry.duration_ms for entry in entries])
    return Log(starts, items, scores, times, find_rapid(course.rapid_below, items, durations))


def known_durations(durations: Sequence[int | None]) -> Floats:
    """Return durations in ms as an array, infinite where unknown."""
    return np.array([np.inf if each is None else each for each in durations], dtype=np.float64)


def find_rapid(rapid_below: Integers, items: Integers, durations: Floats) -> Booleans | None:
    """Return which answers were given too fast to be thought about; None where none was."""
    rapid = durations < rapid_below[items]
    return rapid if np.count_nonzero(rapid) else None


def as_fractions(
    course: CourseModel, items: Integers, scores: Sequence[tuple[float, float | None]]
) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Return scores as fractions of what they are out of: the item's maximum at the time, else that of today."""
    score = np.array([score for score, _ in scores], dtype=np.float64)
    highest = np.array([np.nan if max_score is None else max_score for _, max_score in scores], dtype=np.float64)
    return np.minimum(score / np.where(np.isnan(highest), course.max_scores[items], highest), 1.0)


def is_stale(course: CourseModel, row: LearnerRow) -> bool:
    """Return whether a snapshot is of another calibration or engine, or older than a change that concerns it."""
    return row.calibration != course.calibration or row.revision < course.replay_revision or row.engine != ENGINE


def current_version(course: CourseModel) -> tuple[int | None, int, int]:
    """Return the version that a snapshot must have, for `list_stale`."""
    return course.calibration, course.replay_revision, ENGINE


def load_states(db: Connection, course: CourseModel, rows: Sequence[LearnerRow]) -> States:
    """Return the states of learners under `course`: snapshots, and stale ones rebuilt from the log."""
    return catch_up(db, course, rows)[0]


def catch_up(
    db: Connection, course: CourseModel, rows: Sequence[LearnerRow]
) -> tuple[States, dict[str, CheckpointSet]]:
    """Return `load_states`, and the checkpoints of the learners who had to be rebuilt."""
    states = decode_states(course.parameters, [b"" if is_stale(course, row) else row.state for row in rows])
    stale = [number for number, row in enumerate(rows) if is_stale(course, row)]
    if not stale:
        return states, {}
    replayed = rebuild(db, course, [rows[number].id for number in stale])
    states.put(np.array(stale), replayed.states)
    return states, replayed.checkpoint_sets


def rebuild(db: Connection, course: CourseModel, learner_ids: Collection[str]) -> Replayed:
    """Replay learners from the beginning of their logs."""
    return replay_entries(course, list(learner_ids), read_entries(db, course.tenant_id, course.course_id, learner_ids))


def replay_from_checkpoints(
    db: Connection, course: CourseModel, sort_keys: Mapping[str, SortKey], until: int | None = None
) -> Replayed:
    """Replay learners whose logs have not changed before a sort key each; up to a time, if given."""
    return replay_history(course, read_history(db, course, sort_keys, until))


def read_history(
    db: Connection, course: CourseModel, sort_keys: Mapping[str, SortKey], until: int | None = None
) -> History:
    """Read the history from the last good checkpoint before a position of each learner; without one, the whole log."""
    tenant_id, course_id = course.tenant_id, course.course_id
    keys: dict[str, CheckpointKey] = {}
    for start in list_checkpoint_keys(db, tenant_id, course_id, current_version(course), sort_keys):
        if start[1:] < sort_keys[start.learner_id]:
            keys[start.learner_id] = start
    states = find_states(db, tenant_id, course_id, keys.values()) if keys else {}
    others = sort_keys.keys() - keys.keys()
    entries = read_entries(db, tenant_id, course_id, others, until) if others else []
    for learner_id, start in keys.items():
        entries += read_entries_after(db, tenant_id, course_id, learner_id, start[1:], until)
    starts = {learner_id: keys[learner_id][1:] if learner_id in keys else BEGINNING for learner_id in sort_keys}
    return History(starts, [states.get(learner_id, b"") for learner_id in sort_keys], entries)


def states_at(course: CourseModel, states: States, moment: int) -> States:
    """Return the states faded to a moment (µs), for replies; stored states are as they were after the last answer."""
    return fade_states(course.parameters, states, np.full(states.count, to_days(moment)))


def _snapshot_rows(course: CourseModel, rows: Sequence[LearnerRow], states: States) -> list[dict[str, Any]]:
    """Return the snapshot rows of learners: `rows` carry position and last answer, `states` the state after it."""
    abilities, errors = states.ability.tolist(), standard_error(course.parameters, states).tolist()
    return [
        {
            "key": row.id,
            "position": row.position,
            "theta": abilities[number],
            "standard_error": errors[number],
            "state": encoded,
            "last_occurred_at": row.last_occurred_at,
            "last_response_id": row.last_response_id,
            "calibration": course.calibration,
            "revision": course.revision,
            "engine": ENGINE,
        }
        for number, (row, encoded) in enumerate(zip(rows, encode_states(course.parameters, states), strict=True))
    ]


def new_learner(course: CourseModel, learner: str) -> LearnerRow:
    """Return the row of a learner of whom nothing is known yet."""
    return LearnerRow(learner, 0, b"", None, None, course.calibration, course.revision, ENGINE)


def create_learners(db: Connection, course: CourseModel, ids: Collection[str]) -> dict[str, LearnerRow]:
    """Create and lock learners never seen before; one that another transaction has just created is locked as it is."""
    if not ids:
        return {}
    error = float(np.sqrt(course.parameters.population.ability_variance))
    blank = {**new_learner(course, "")._asdict(), "theta": 0.0, "standard_error": error}
    insert_learners(db, course.tenant_id, course.course_id, [{**blank, "id": id_} for id_ in sorted(ids)])
    created = find_learners(db, course.tenant_id, course.course_id, ids, lock=True)
    if any(row.revision > course.revision for row in created.values()):
        raise Unavailable("the catalogue has changed at this very moment; send this again")
    return created


def save_states(
    db: Connection,
    course: CourseModel,
    rows: Sequence[LearnerRow],
    states: States,
    checkpoint_sets: Mapping[str, CheckpointSet],
    before: Integers | None = None,
) -> None:
    """Write snapshots, and with them the checkpoints that the replays made.

    `before` is the number of responses of each that had been replayed before: the snapshot of a learner who has passed
    a further `CHECKPOINT_INTERVAL` since is saved as a checkpoint too.
    """
    saved = _snapshot_rows(course, rows, states)
    save_learners(db, course.tenant_id, course.course_id, saved)
    checkpoints = [row for checkpoint_set in checkpoint_sets.values() for row in checkpoint_set.checkpoints]
    if before is not None:
        for number in np.flatnonzero(
            before // CHECKPOINT_INTERVAL != states.total_responses // CHECKPOINT_INTERVAL
        ).tolist():
            row = rows[number]
            sort_key = row.last_occurred_at or 0, row.last_response_id or ""
            checkpoints.append(_checkpoint_row(course, row.id, sort_key, saved[number]["state"]))
    outdated_after = {
        id_: checkpoint_set.start for id_, checkpoint_set in checkpoint_sets.items() if checkpoint_set.start is not None
    }
    if outdated_after:
        drop_checkpoints(db, course.tenant_id, course.course_id, outdated_after)
    if checkpoints:
        unique = {(row["learner_id"], row["occurred_at"], row["response_id"]): row for row in checkpoints}
        insert_checkpoints(db, list(unique.values()))


def read_states_page(
    db: Connection, course: CourseModel, after: str | None, limit: int
) -> tuple[list[LearnerRow], States]:
    """Return a page of a course's learners by id, with their states."""
    rows = page_learners(db, course.tenant_id, course.course_id, after, limit)
    return rows, load_states(db, course, rows)


def rebuild_stale(db: Connection, tenant_id: int, course_id: str, limit: int) -> int:
    """Rebuild up to `limit` learners whose snapshot is not of the active course model; return how many there were."""
    course = read_course_model(db, tenant_id, course_id)
    ids = list_stale(db, tenant_id, course_id, current_version(course), limit)
    rows = find_learners(db, tenant_id, course_id, ids, lock=True).values() if ids else ()
    # Another transaction may have replayed them under a newer course model.
    course = read_course_model(db, tenant_id, course_id)
    stale = [row for row in rows if is_stale(course, row)]
    if stale:
        replayed = rebuild(db, course, [row.id for row in stale])
        save_states(db, course, stale, replayed.states, replayed.checkpoint_sets)
    return len(ids)


def count_stale(db: Connection, tenant_id: int, course_id: str) -> int:
    """Count the snapshots that are not of the active course model."""
    course = read_course_model(db, tenant_id, course_id)
    return len(list_stale(db, tenant_id, course_id, current_version(course), None))
