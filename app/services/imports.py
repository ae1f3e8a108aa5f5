"""Import many answers at once from a file, and replay them as single ones are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.tracing.filter import initial_states
from app.core.errors import InvalidScore
from app.core.times import UNDATED_EPOCH_US
from app.files.responses import ROUNDING, Rejection, ResponseRecord, nearest_step
from app.queries.learners import LearnerRow, find_learners
from app.queries.responses import Entry, find_import, find_responses, insert_responses
from app.services.catalogue import Catalogue
from app.services.course_model import CourseModel, read_course_model
from app.services.present import OUTCOME_VERSION
from app.services.replay import (
    CheckpointSet,
    Replayed,
    as_fractions,
    catch_up,
    create_learners,
    entry_sort_key,
    read_history,
    replay_from_states,
    replay_history,
    save_states,
)
from app.services.responses.late import is_late
from app.services.responses.read import check_score


@dataclass
class ImportedChunk:
    """How many rows of a chunk were stored, repeated and rejected."""

    created: int = 0
    repeated: int = 0
    rejections: list[Rejection] = field(default_factory=list)


def missing_catalogue(catalogue: Catalogue, responses: Iterable[ResponseRecord]) -> dict[str, Any]:
    """Return an upsert of the skills and items that a file names and the course lacks; an item's first row counts."""
    skills: dict[str, dict[str, Any]] = {}
    items: dict[str, dict[str, Any]] = {}
    for response in responses:
        if response.item not in catalogue.items and response.item not in items:
            items[response.item] = {"id": response.item, "skills": list(response.skills)}
            skills |= {skill: {"id": skill} for skill in response.skills if skill not in catalogue.skills}
    return {"skills": list(skills.values()), "items": list(items.values())}


def last_imported_line(db: Connection, tenant_id: int, course_id: str, digest: str) -> int:
    """Return the line up to which an earlier run has imported the file."""
    return find_import(db, tenant_id, course_id, digest)


def import_chunk(
    db: Connection, tenant_id: int, course_id: str, digest: str, responses: Sequence[ResponseRecord], now: int
) -> ImportedChunk:
    """Append a chunk of a file to the log and process it."""
    result = ImportedChunk()
    known = find_learners(db, tenant_id, course_id, {response.learner for response in responses}, lock=True)
    # Only once the learners are locked: another transaction may have replayed them under a newer course model.
    course = read_course_model(db, tenant_id, course_id)
    checked = list(_check_rows(course, digest, responses, now, result))
    new_responses = _drop_known(db, course, checked, result)
    learners = known | create_learners(db, course, {entry.learner_id for entry, _ in new_responses} - known.keys())
    if new_responses:
        _replay_chunk(db, course, learners, new_responses, now)
    result.created = len(new_responses)
    return result


def _check_rows(
    course: CourseModel, digest: str, responses: Sequence[ResponseRecord], now: int, result: ImportedChunk
) -> Iterable[tuple[Entry, ResponseRecord]]:
    """Return the rows that the course accepts, and reject the others with a reason."""
    for response in responses:
        item = course.item_numbers.get(response.item)
        row = f"{response.learner},{response.item},{response.score}"
        if item is None:
            result.rejections.append(Rejection(response.line, "the course has no such item", row))
            continue
        max_score, max_category = float(course.max_scores[item]), int(course.parameters.items.max_category[item])
        fraction = nearest_step(response.score, max_category) if max_category else response.score
        try:
            score = check_score(fraction * max_score, max_score, max_category)
        except InvalidScore as error:
            result.rejections.append(Rejection(response.line, error.detail, row))
            continue
        order = response.line if response.order is None else response.order
        moment = UNDATED_EPOCH_US + order if response.occurred_at is None else response.occurred_at
        if not 0 <= moment <= now:
            reason = "attempted_at lies in the future" if response.occurred_at is not None else "order is out of range"
            result.rejections.append(Rejection(response.line, reason, row))
            continue
        id_ = response.response_id or f"{digest[:16]}-{response.line:09d}"
        yield Entry(response.learner, id_, response.item, score, moment, response.duration_ms, max_score), response


def _drop_known(
    db: Connection, course: CourseModel, checked: Sequence[tuple[Entry, ResponseRecord]], result: ImportedChunk
) -> list[tuple[Entry, ResponseRecord]]:
    """Drop answers that are stored or repeated in the chunk; reject a known id with other content."""
    stored = find_responses(db, course.tenant_id, course.course_id, {entry.id for entry, _ in checked})
    seen: dict[str, Entry] = {
        id_: Entry(row.learner_id, id_, row.item_id, row.score, row.occurred_at, row.duration_ms, row.max_score)
        for id_, row in stored.items()
    }
    new_responses = []
    for entry, response in checked:
        if entry.id not in seen:
            seen[entry.id] = entry
            new_responses.append((entry, response))
        elif _is_same(course, seen[entry.id], entry):
            result.repeated += 1
        else:
            reason = "the response_id is taken by another answer"
            result.rejections.append(Rejection(response.line, reason, f"{entry.learner_id},{entry.item_id},{entry.id}"))
    return new_responses


def _is_same(course: CourseModel, one: Entry, other: Entry) -> bool:
    """Return whether two answers are the same; a score is one of its own maximum."""
    items = np.array([course.item_numbers[entry.item_id] for entry in (one, other)])
    if one._replace(score=other.score, max_score=other.max_score) != other:
        return False
    fractions = as_fractions(course, items, [(entry.score or 0.0, entry.max_score) for entry in (one, other)])
    steps = int(course.parameters.items.max_category[items[0]])
    first, second = (nearest_step(fraction, steps) if steps else fraction for fraction in fractions.tolist())
    return bool(abs(first - second) < ROUNDING)


def _replay_chunk(
    db: Connection,
    course: CourseModel,
    learners: dict[str, LearnerRow],
    new_responses: Sequence[tuple[Entry, ResponseRecord]],
    now: int,
) -> None:
    """Process new answers, each learner's in order, and write answers and snapshots.

    A learner's new answers take their positions in the order of their sort keys, so each prediction is the same as if
    they had arrived one by one.
    """
    groups: dict[str, list[Entry]] = {}
    for entry, _ in sorted(new_responses, key=lambda pair: (pair[0].learner_id, pair[0].occurred_at, pair[0].id)):
        groups.setdefault(entry.learner_id, []).append(entry)
    rows = [learners[learner_id] for learner_id in groups]
    replayed = _replay_groups(db, course, rows, groups)
    responses = {entry.id: response for entry, response in new_responses}
    insert_responses(
        db,
        [
            _imported_response_row(
                course, entry, responses[entry.id], row.position + number, replayed.p_correct[entry.id], now
            )
            for row in rows
            for number, entry in enumerate(groups[row.id], start=1)
        ],
    )
    save_states(
        db, course, [_row_after(row, groups[row.id]) for row in rows], replayed.states, replayed.checkpoint_sets
    )


def _replay_groups(
    db: Connection, course: CourseModel, rows: Sequence[LearnerRow], groups: Mapping[str, list[Entry]]
) -> Replayed:
    """Replay each learner's new answers: on the snapshots where they follow, else among the old ones."""
    late = np.array([is_late(row, groups[row.id][0]) for row in rows])
    states = initial_states(course.parameters, len(rows))
    p_correct: dict[str, float] = {}
    checkpoint_sets: dict[str, CheckpointSet] = {}
    for numbers, replay_some in ((np.flatnonzero(~late), _replay_appended), (np.flatnonzero(late), _replay_inserted)):
        if numbers.size:
            selected = [rows[number] for number in numbers.tolist()]
            replayed = replay_some(db, course, selected, {row.id: groups[row.id] for row in selected})
            states.put(numbers, replayed.states)
            p_correct |= replayed.p_correct
            checkpoint_sets |= replayed.checkpoint_sets
    return Replayed(tuple(groups), states, p_correct, checkpoint_sets)


def _replay_appended(
    db: Connection, course: CourseModel, rows: Sequence[LearnerRow], groups: Mapping[str, list[Entry]]
) -> Replayed:
    """Replay answers that come after all others of their learners."""
    before, earlier_sets = catch_up(db, course, rows)
    replayed = replay_from_states(course, dict.fromkeys(groups), before, groups)
    for learner_id, checkpoint_set in earlier_sets.items():
        new_checkpoints = replayed.checkpoint_sets[learner_id].checkpoints
        replayed.checkpoint_sets[learner_id] = CheckpointSet(
            checkpoint_set.start, [*checkpoint_set.checkpoints, *new_checkpoints]
        )
    return replayed


def _replay_inserted(
    db: Connection, course: CourseModel, rows: Sequence[LearnerRow], groups: Mapping[str, list[Entry]]
) -> Replayed:
    """Replay answers of which some came late."""
    history = read_history(db, course, {row.id: entry_sort_key(groups[row.id][0]) for row in rows})
    return replay_history(course, history, [entry for group in groups.values() for entry in group])


def _row_after(row: LearnerRow, entries: Sequence[Entry]) -> LearnerRow:
    """Return a learner's row after the entries, which are in order."""
    last = entries[-1]
    row = row._replace(position=row.position + len(entries))
    return row if is_late(row, last) else row._replace(last_occurred_at=last.occurred_at, last_response_id=last.id)


def _imported_response_row(
    course: CourseModel, entry: Entry, response: ResponseRecord, position: int, p_correct: float, now: int
) -> dict[str, Any]:
    """Return the row of an imported answer: no outcome was sent, and nothing was offered after it."""
    return {
        "tenant_id": course.tenant_id,
        "course_id": course.course_id,
        "id": entry.id,
        "learner_id": entry.learner_id,
        "position": position,
        "item_id": entry.item_id,
        "score": entry.score,
        "max_score": entry.max_score,
        "occurred_at": entry.occurred_at,
        "has_timestamp": response.occurred_at is not None,
        "received_at": now,
        "duration_ms": response.duration_ms,
        "recommendation_id": None,
        "options": None,
        "calibration": course.calibration,
        "revision": course.revision,
        "outcome_version": OUTCOME_VERSION,
        "p_correct": p_correct,
        "outcome": None,
    }
