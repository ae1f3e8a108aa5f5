"""State = fold(log): from entries of the log to states, and from states to the snapshots that are kept."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from sqlalchemy import Connection

from app.adaptive.filter import fade
from app.adaptive.replay import Log, replay
from app.adaptive.states import ENGINE, pack, unpack
from app.adaptive.types import Integers, States
from app.adaptive.uncertainty import standard_error
from app.queries.learners import LearnerRow, find_learners, list_stale, page_learners, save_learners
from app.queries.responses import Entry, read_entries
from app.services.banks import Bank, read_bank
from app.times import to_days


@dataclass(frozen=True)
class Folded:
    """The states of some learners after all their answers, and what was expected of every answer that counts."""

    learner_ids: tuple[str, ...]
    states: States
    p_correct: dict[str, float]


def fold(bank: Bank, learner_ids: Sequence[str], entries: Sequence[Entry]) -> Folded:
    """Fold the entries of the named learners, each learner's in order; the states are in the order of the names.

    Voided answers are as if they had never been given.
    """
    listed: dict[str, list[Entry]] = {learner_id: [] for learner_id in learner_ids}
    for entry in entries:
        if entry.score is not None:
            listed[entry.learner_id].append(entry)
    counted = [entry for group in listed.values() for entry in group]
    states, predicted = replay(bank.parameters, as_log(bank, counted, [len(group) for group in listed.values()]))
    p_correct = dict(zip((entry.id for entry in counted), predicted.p.tolist(), strict=True))
    return Folded(tuple(learner_ids), states, p_correct)


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
    states = unpack(bank.parameters, [b"" if is_stale(bank, row) else row.state for row in rows])
    stale = [number for number, row in enumerate(rows) if is_stale(bank, row)]
    if stale:
        states.put(np.array(stale), refold(db, bank, [rows[number].id for number in stale]).states)
    return states


def refold(db: Connection, bank: Bank, learner_ids: Collection[str], until: int | None = None) -> Folded:
    """Fold learners from their logs; up to a time, if given."""
    return fold(bank, list(learner_ids), read_entries(db, bank.tenant_id, bank.course_id, learner_ids, until))


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
        states = refold(db, bank, [row.id for row in stale]).states
        save_learners(db, tenant_id, course_id, snapshots(bank, stale, states))
    return len(ids)


def count_stale(db: Connection, tenant_id: int, course_id: str) -> int:
    """How many snapshots are not of the bank in force."""
    bank = read_bank(db, tenant_id, course_id)
    return len(list_stale(db, tenant_id, course_id, good_version(bank), None))
