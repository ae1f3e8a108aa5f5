"""Many answers at once, from a file, through the same fold as single ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.filter import initial
from app.adaptive.states import ENGINE
from app.errors import InvalidScore
from app.files import Answer, Rejection
from app.queries.learners import LearnerRow, find_learners
from app.queries.responses import Entry, find_import, find_responses, insert_responses
from app.services.banks import Bank, read_bank
from app.services.catalogue import Catalogue
from app.services.folding import (
    Folded,
    Trail,
    catch_up,
    fold_listed,
    fold_on,
    place_of,
    read_past,
    save_states,
)
from app.services.responses import add_learners, check_score, is_late
from app.times import UNDATED_EPOCH_US


@dataclass
class Imported:
    """What became of the rows of a chunk."""

    created: int = 0
    repeated: int = 0
    rejections: list[Rejection] = field(default_factory=list)


def missing_catalogue(catalogue: Catalogue, answers: Iterable[Answer]) -> dict[str, Any]:
    """An upsert of the skills and items that a file names and the course lacks; the first row of an item counts."""
    skills: dict[str, dict[str, Any]] = {}
    items: dict[str, dict[str, Any]] = {}
    for answer in answers:
        if answer.item not in catalogue.items and answer.item not in items:
            items[answer.item] = {"id": answer.item, "skills": list(answer.skills)}
            skills |= {skill: {"id": skill} for skill in answer.skills if skill not in catalogue.skills}
    return {"skills": list(skills.values()), "items": list(items.values())}


def imported_until(db: Connection, tenant_id: int, course_id: str, digest: str) -> int:
    """The line up to which an earlier run has done the file."""
    return find_import(db, tenant_id, course_id, digest)


def import_chunk(
    db: Connection, tenant_id: int, course_id: str, digest: str, answers: Sequence[Answer], now: int
) -> Imported:
    """Append a chunk of a file to the log and fold it."""
    result = Imported()
    known = find_learners(db, tenant_id, course_id, {answer.learner for answer in answers}, lock=True)
    # Not before the learners are locked: whoever held them may have folded them under a newer bank.
    bank = read_bank(db, tenant_id, course_id)
    checked = list(check_rows(bank, digest, answers, now, result))
    fresh = drop_known(db, bank, checked, result)
    learners = known | add_learners(db, bank, {entry.learner_id for entry, _ in fresh} - known.keys())
    if fresh:
        fold_chunk(db, bank, learners, fresh, now)
    result.created = len(fresh)
    return result


def check_rows(
    bank: Bank, digest: str, answers: Sequence[Answer], now: int, result: Imported
) -> Iterable[tuple[Entry, Answer]]:
    """The rows that the course can take; the others are rejected with a reason."""
    for answer in answers:
        item = bank.item_numbers.get(answer.item)
        row = f"{answer.learner},{answer.item},{answer.score}"
        if item is None:
            result.rejections.append(Rejection(answer.line, "the course has no such item", row))
            continue
        score = answer.score * float(bank.max_scores[item])
        try:
            check_score(bank, item, score)
        except InvalidScore as error:
            result.rejections.append(Rejection(answer.line, error.detail, row))
            continue
        order = answer.line if answer.order is None else answer.order
        moment = UNDATED_EPOCH_US + order if answer.occurred_at is None else answer.occurred_at
        if not 0 <= moment <= now:
            reason = "attempted_at lies in the future" if answer.occurred_at is not None else "order is out of range"
            result.rejections.append(Rejection(answer.line, reason, row))
            continue
        id_ = answer.response_id or f"{digest[:16]}-{answer.line:09d}"
        yield Entry(answer.learner, id_, answer.item, score, moment), answer


def drop_known(
    db: Connection, bank: Bank, checked: Sequence[tuple[Entry, Answer]], result: Imported
) -> list[tuple[Entry, Answer]]:
    """Without the answers that are stored, or stand twice in the chunk; other content under a known id is rejected."""
    found = find_responses(db, bank.tenant_id, bank.course_id, {entry.id for entry, _ in checked})
    seen: dict[str, Entry] = {
        id_: Entry(row.learner_id, id_, row.item_id, row.score, row.occurred_at) for id_, row in found.items()
    }
    fresh = []
    for entry, answer in checked:
        if entry.id not in seen:
            seen[entry.id] = entry
            fresh.append((entry, answer))
        elif seen[entry.id] == entry:
            result.repeated += 1
        else:
            reason = "the response_id is taken by another answer"
            result.rejections.append(Rejection(answer.line, reason, f"{entry.learner_id},{entry.item_id},{entry.id}"))
    return fresh


def fold_chunk(
    db: Connection,
    bank: Bank,
    learners: dict[str, LearnerRow],
    fresh: Sequence[tuple[Entry, Answer]],
    now: int,
) -> None:
    """Fold new answers, each learner's in order, and write answers and snapshots.

    A learner's new answers take their positions in the order of the fold, so that what was predicted of each is what
    it would have been, had they come one by one.
    """
    groups: dict[str, list[Entry]] = {}
    for entry, _ in sorted(fresh, key=lambda pair: (pair[0].learner_id, pair[0].occurred_at, pair[0].id)):
        groups.setdefault(entry.learner_id, []).append(entry)
    rows = [learners[learner_id] for learner_id in groups]
    folded = fold_groups(db, bank, rows, groups)
    answers = {entry.id: answer for entry, answer in fresh}
    insert_responses(
        db,
        [
            response_row(bank, entry, answers[entry.id], row.position + number, folded.p_correct[entry.id], now)
            for row in rows
            for number, entry in enumerate(groups[row.id], start=1)
        ],
    )
    save_states(db, bank, [advanced(row, groups[row.id]) for row in rows], folded.states, folded.trails)


def fold_groups(db: Connection, bank: Bank, rows: Sequence[LearnerRow], groups: Mapping[str, list[Entry]]) -> Folded:
    """Fold each learner's new answers: on the snapshots where they follow, else at their places among the old ones."""
    late = np.array([is_late(row, groups[row.id][0]) for row in rows])
    states = initial(bank.parameters, len(rows))
    p_correct: dict[str, float] = {}
    trails: dict[str, Trail] = {}
    for numbers, fold_some in ((np.flatnonzero(~late), fold_behind), (np.flatnonzero(late), fold_between)):
        if numbers.size:
            mine = [rows[number] for number in numbers.tolist()]
            folded = fold_some(db, bank, mine, {row.id: groups[row.id] for row in mine})
            states.put(numbers, folded.states)
            p_correct |= folded.p_correct
            trails |= folded.trails
    return Folded(tuple(groups), states, p_correct, trails)


def fold_behind(db: Connection, bank: Bank, rows: Sequence[LearnerRow], groups: Mapping[str, list[Entry]]) -> Folded:
    """Fold answers that come after all others of their learners."""
    before, caught_up = catch_up(db, bank, rows)
    folded = fold_listed(bank, dict.fromkeys(groups), before, groups)
    for learner_id, trail in caught_up.items():
        ahead = folded.trails[learner_id].checkpoints
        folded.trails[learner_id] = Trail(trail.start, [*trail.checkpoints, *ahead])
    return folded


def fold_between(db: Connection, bank: Bank, rows: Sequence[LearnerRow], groups: Mapping[str, list[Entry]]) -> Folded:
    """Fold answers of which some came late."""
    past = read_past(db, bank, {row.id: place_of(groups[row.id][0]) for row in rows})
    return fold_on(bank, past, [entry for group in groups.values() for entry in group])


def advanced(row: LearnerRow, entries: Sequence[Entry]) -> LearnerRow:
    """A learner's row after the entries, which are in order."""
    last = entries[-1]
    row = row._replace(position=row.position + len(entries))
    return row if is_late(row, last) else row._replace(last_occurred_at=last.occurred_at, last_response_id=last.id)


def response_row(bank: Bank, entry: Entry, answer: Answer, position: int, p_correct: float, now: int) -> dict[str, Any]:
    """The row of an imported answer; nobody was told an outcome, and nothing was offered after it."""
    return {
        "tenant_id": bank.tenant_id,
        "course_id": bank.course_id,
        "id": entry.id,
        "learner_id": entry.learner_id,
        "position": position,
        "item_id": entry.item_id,
        "score": entry.score,
        "occurred_at": entry.occurred_at,
        "dated": answer.occurred_at is not None,
        "received_at": now,
        "duration_ms": answer.duration_ms,
        "recommendation_id": None,
        "wishes": None,
        "calibration": bank.calibration,
        "revision": bank.revision,
        "engine": ENGINE,
        "p_correct": p_correct,
        "outcome": None,
    }
