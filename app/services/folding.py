"""State = fold(log): from entries of the log to states, and from states to the snapshots that are kept.

A fold may start at a checkpoint, the packed state after some answer on the way, and leaves new ones behind. The result
is the same to the bit; a checkpoint that a late answer or a correction has made wrong is dropped with its transaction.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.filter import fade
from app.adaptive.replay import Log, replay_marked
from app.adaptive.states import ENGINE, pack, unpack
from app.adaptive.types import Booleans, Integers, States
from app.adaptive.uncertainty import standard_error
from app.queries.checkpoints import (
    BEGINNING,
    Place,
    Start,
    drop_checkpoints,
    find_states,
    insert_checkpoints,
    list_starts,
    read_entries_after,
)
from app.queries.learners import LearnerRow, find_learners, list_stale, page_learners, save_learners
from app.queries.responses import Entry, read_entries
from app.services.banks import Bank, read_bank
from app.times import to_days

# A checkpoint at every so many answers of a learner (docs/decisions/0017).
EVERY = 64


@dataclass(frozen=True)
class Past:
    """What is known of some learners at a place of their logs each, and their answers after it."""

    starts: dict[str, Place]
    states: list[bytes]
    entries: Sequence[Entry]


@dataclass(frozen=True)
class Trail:
    """Where the fold of a learner began, and the checkpoints on its way.

    Older ones after that place hold no longer. A fold on the snapshot has no start: nothing comes after it.
    """

    start: Place | None
    checkpoints: list[dict[str, Any]]


@dataclass(frozen=True)
class Folded:
    """The states of some learners after all their answers, and what was expected of every answer that counts."""

    learner_ids: tuple[str, ...]
    states: States
    p_correct: dict[str, float]
    trails: dict[str, Trail]


def fold(bank: Bank, learner_ids: Sequence[str], entries: Sequence[Entry]) -> Folded:
    """Fold the entries of the named learners, each learner's in order; the states are in the order of the names.

    Voided answers are as if they had never been given.
    """
    return fold_on(bank, whole(learner_ids, entries))


def whole(learner_ids: Sequence[str], entries: Sequence[Entry]) -> Past:
    """All entries of some learners, to be folded from the beginning."""
    return Past(dict.fromkeys(learner_ids, BEGINNING), [b""] * len(learner_ids), entries)


def fold_on(bank: Bank, past: Past, fresh: Sequence[Entry] = ()) -> Folded:
    """Fold learners on from where a past begins, with answers that are not in the log yet at their places in it."""
    listed: dict[str, list[Entry]] = {learner_id: [] for learner_id in past.starts}
    entries = sorted([*past.entries, *fresh], key=place_of) if fresh else past.entries
    for entry in entries:
        if entry.score is not None:
            listed[entry.learner_id].append(entry)
    return fold_listed(bank, past.starts, unpack(bank.parameters, past.states), listed)


def fold_listed(
    bank: Bank, starts: Mapping[str, Place | None], before: States, listed: Mapping[str, Sequence[Entry]]
) -> Folded:
    """Fold the answers that count of each learner, in order, into the states at the starts."""
    counted = [entry for group in listed.values() for entry in group]
    log = as_log(bank, counted, [len(group) for group in listed.values()])
    marks = due(before.answers, log.starts)
    states, predicted, kept = replay_marked(bank.parameters, log, marks, before)
    trails = {learner_id: Trail(start, []) for learner_id, start in starts.items()}
    marked = [counted[number] for number in np.flatnonzero(marks).tolist()]
    for entry, packed in zip(marked, pack(bank.parameters, kept), strict=True):
        trails[entry.learner_id].checkpoints.append(checkpoint(bank, entry.learner_id, place_of(entry), packed))
    p_correct = dict(zip((entry.id for entry in counted), predicted.p.tolist(), strict=True))
    return Folded(tuple(listed), states, p_correct, trails)


def place_of(entry: Entry) -> Place:
    """Where an answer stands in the order of the fold."""
    return entry.occurred_at, entry.id


def due(answers: Integers, starts: Integers) -> Booleans:
    """Which answers of a log end a round of `EVERY` of their learner's, who had given `answers` before."""
    count = np.arange(1, starts[-1] + 1) + np.repeat(answers - starts[:-1], np.diff(starts))
    return np.asarray(count % EVERY == 0)


def checkpoint(bank: Bank, learner_id: str, place: Place, packed: bytes) -> dict[str, Any]:
    """The row of a checkpoint."""
    return {
        "tenant_id": bank.tenant_id,
        "course_id": bank.course_id,
        "learner_id": learner_id,
        "occurred_at": place[0],
        "response_id": place[1],
        "state": packed,
        "calibration": bank.calibration,
        "revision": bank.revision,
        "engine": ENGINE,
    }


def log_of(bank: Bank, entries: Sequence[Entry]) -> tuple[Log, list[str]]:
    """A whole course as arrays, for a calibration, and whose they are; voided answers are left out."""
    counted = [entry for entry in entries if entry.score is not None]
    lengths = {id_: len(list(group)) for id_, group in groupby(counted, lambda entry: entry.learner_id)}
    return as_log(bank, counted, list(lengths.values())), list(lengths)


def as_log(bank: Bank, entries: Sequence[Entry], lengths: Sequence[int]) -> Log:
    """Entries of several learners as arrays; `lengths` says how many belong to each."""
    starts = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=starts[1:])
    items = np.array([bank.item_numbers[entry.item_id] for entry in entries], dtype=np.int64)
    times = np.array([to_days(entry.occurred_at) for entry in entries], dtype=np.float64)
    return Log(starts, items, as_fractions(bank, items, [entry.score or 0.0 for entry in entries]), times)


def as_fractions(bank: Bank, items: Integers, scores: Sequence[float]) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """Scores as fractions of the items' maxima."""
    return np.minimum(np.array(scores, dtype=np.float64) / bank.max_scores[items], 1.0)


def is_stale(bank: Bank, row: LearnerRow) -> bool:
    """Whether a snapshot was made under another calibration, before a change that concerns it, or by another engine."""
    return row.calibration != bank.calibration or row.revision < bank.refold_revision or row.engine != ENGINE


def good_version(bank: Bank) -> tuple[int | None, int, int]:
    """What a snapshot must be of, for `list_stale`."""
    return bank.calibration, bank.refold_revision, ENGINE


def load_states(db: Connection, bank: Bank, rows: Sequence[LearnerRow]) -> States:
    """The states of learners as they must be under `bank`: snapshots, and stale ones folded again from the log."""
    return catch_up(db, bank, rows)[0]


def catch_up(db: Connection, bank: Bank, rows: Sequence[LearnerRow]) -> tuple[States, dict[str, Trail]]:
    """`load_states`, and the trails of those who had to be folded again."""
    states = unpack(bank.parameters, [b"" if is_stale(bank, row) else row.state for row in rows])
    stale = [number for number, row in enumerate(rows) if is_stale(bank, row)]
    if not stale:
        return states, {}
    folded = refold(db, bank, [rows[number].id for number in stale])
    states.put(np.array(stale), folded.states)
    return states, folded.trails


def refold(db: Connection, bank: Bank, learner_ids: Collection[str]) -> Folded:
    """Fold learners from the beginning of their logs."""
    return fold(bank, list(learner_ids), read_entries(db, bank.tenant_id, bank.course_id, learner_ids))


def refold_from(db: Connection, bank: Bank, places: Mapping[str, Place], until: int | None = None) -> Folded:
    """Fold learners of whose logs nothing has changed before a place each; up to a time, if given."""
    return fold_on(bank, read_past(db, bank, places, until))


def read_past(db: Connection, bank: Bank, places: Mapping[str, Place], until: int | None = None) -> Past:
    """From the last good checkpoint before a place of each learner on; the beginning, if there is none."""
    tenant_id, course_id = bank.tenant_id, bank.course_id
    found: dict[str, Start] = {}
    for start in list_starts(db, tenant_id, course_id, good_version(bank), places):
        if start[1:] < places[start.learner_id]:
            found[start.learner_id] = start
    states = find_states(db, tenant_id, course_id, found.values()) if found else {}
    others = places.keys() - found.keys()
    entries = read_entries(db, tenant_id, course_id, others, until) if others else []
    for learner_id, start in found.items():
        entries += read_entries_after(db, tenant_id, course_id, learner_id, start[1:], until)
    starts = {learner_id: found[learner_id][1:] if learner_id in found else BEGINNING for learner_id in places}
    return Past(starts, [states.get(learner_id, b"") for learner_id in places], entries)


def at(bank: Bank, states: States, moment: int) -> States:
    """The states as they are at a moment (µs), to be told; what is kept is as it was after the last answer."""
    return fade(bank.parameters, states, np.full(states.count, to_days(moment)))


def snapshots(bank: Bank, rows: Sequence[LearnerRow], states: States) -> list[dict[str, Any]]:
    """What to save of learners: `rows` carry position and last answer, `states` what is known after it."""
    abilities, errors = states.ability.tolist(), standard_error(bank.parameters, states).tolist()
    return [
        {
            "key": row.id,
            "position": row.position,
            "theta": abilities[number],
            "standard_error": errors[number],
            "state": packed,
            "last_occurred_at": row.last_occurred_at,
            "last_response_id": row.last_response_id,
            "calibration": bank.calibration,
            "revision": bank.revision,
            "engine": ENGINE,
        }
        for number, (row, packed) in enumerate(zip(rows, pack(bank.parameters, states), strict=True))
    ]


def save_states(
    db: Connection,
    bank: Bank,
    rows: Sequence[LearnerRow],
    states: States,
    trails: Mapping[str, Trail],
    before: Integers | None = None,
) -> None:
    """Write snapshots, and with them the checkpoints that the folds left behind.

    `before` says how many answers of each had been folded before: whoever has come past a further `EVERY` since leaves
    the snapshot as a checkpoint too.
    """
    saved = snapshots(bank, rows, states)
    save_learners(db, bank.tenant_id, bank.course_id, saved)
    kept = [row for trail in trails.values() for row in trail.checkpoints]
    if before is not None:
        for number in np.flatnonzero(before // EVERY != states.answers // EVERY).tolist():
            row = rows[number]
            place = row.last_occurred_at or 0, row.last_response_id or ""
            kept.append(checkpoint(bank, row.id, place, saved[number]["state"]))
    outdated = {id_: trail.start for id_, trail in trails.items() if trail.start is not None}
    if outdated:
        drop_checkpoints(db, bank.tenant_id, bank.course_id, outdated)
    if kept:
        unique = {(row["learner_id"], row["occurred_at"], row["response_id"]): row for row in kept}
        insert_checkpoints(db, list(unique.values()))


def read_page(db: Connection, bank: Bank, after: str | None, limit: int) -> tuple[list[LearnerRow], States]:
    """A page of a course's learners by id, with their states."""
    rows = page_learners(db, bank.tenant_id, bank.course_id, after, limit)
    return rows, load_states(db, bank, rows)


def refold_stale(db: Connection, tenant_id: int, course_id: str, limit: int) -> int:
    """Fold up to `limit` learners again whose snapshot is not of the bank in force; how many there were."""
    bank = read_bank(db, tenant_id, course_id)
    ids = list_stale(db, tenant_id, course_id, good_version(bank), limit)
    rows = find_learners(db, tenant_id, course_id, ids, lock=True).values() if ids else ()
    # Whoever held them may have folded them under a newer bank.
    bank = read_bank(db, tenant_id, course_id)
    stale = [row for row in rows if is_stale(bank, row)]
    if stale:
        folded = refold(db, bank, [row.id for row in stale])
        save_states(db, bank, stale, folded.states, folded.trails)
    return len(ids)


def count_stale(db: Connection, tenant_id: int, course_id: str) -> int:
    """How many snapshots are not of the bank in force."""
    bank = read_bank(db, tenant_id, course_id)
    return len(list_stale(db, tenant_id, course_id, good_version(bank), None))
