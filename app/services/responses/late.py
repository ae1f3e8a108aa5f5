"""Responses that came late: for each, its learner is replayed as the log was once it had come in, all at once.

The outcome of a response says what was known after it arrived. So a learner with n late responses is replayed n times,
each time with one more of them; these replays stand side by side in one batch, whose cost is that of its longest.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from app.adaptive.arrays import Booleans, Floats, Integers
from app.adaptive.response_log import Log
from app.adaptive.state import States
from app.adaptive.tracing.replay import replay_marked
from app.adaptive.tracing.state_codec import decode_states
from app.queries.learners import LearnerRow
from app.queries.responses import Entry
from app.services.course_model import CourseModel
from app.services.replay import CheckpointSet, History, checkpoint_marks, encode_checkpoints, entry_sort_key, to_log
from app.services.responses.types import AcceptedResponse

# Answers that one transaction replays for late responses, beyond those of the first.
REPLAY_BUDGET = 250_000


class LateReplays(NamedTuple):
    """The learners as they were after each of V late responses.

    `rows` says by the id of a response which of the `states` is meant, and which P(correct) before it, `p` (V,).
    """

    rows: Mapping[str, int]
    states: States
    p: Floats
    checkpoint_sets: Mapping[str, CheckpointSet]


class _Arrivals(NamedTuple):
    """The answers of a learner that count, in order, as one log; `number` (N,) says as which new one each came in.

    0 is for those of the log; `late` are the numbers of the new ones that are late.
    """

    log: Log
    entries: Sequence[Entry]
    number: Integers
    late: Sequence[int]


def is_late(row: LearnerRow, entry: Entry) -> bool:
    """Whether a response belongs before one that the state has taken in already."""
    if row.last_occurred_at is None or row.last_response_id is None:
        return False
    return entry_sort_key(entry) < (row.last_occurred_at, row.last_response_id)


def advance_row(row: LearnerRow, entry: Entry) -> LearnerRow:
    """The learner's row after one more response, but for the state."""
    last = (row.last_occurred_at, row.last_response_id) if is_late(row, entry) else entry_sort_key(entry)
    return row._replace(position=row.position + 1, last_occurred_at=last[0], last_response_id=last[1])


def walk_arrivals(
    learners: Sequence[LearnerRow], responses: Sequence[AcceptedResponse]
) -> Iterator[tuple[AcceptedResponse, Entry, LearnerRow, bool]]:
    """Each response in the order of arrival, as an entry, with its learner's row after it, and whether it is late."""
    rows = {row.id: row for row in learners}
    for accepted in responses:
        entry = accepted.entry()
        late = is_late(rows[entry.learner_id], entry)
        rows[entry.learner_id] = advance_row(rows[entry.learner_id], entry)
        yield accepted, entry, rows[entry.learner_id], late


def count_affordable(
    learners: Sequence[LearnerRow], histories: Mapping[str, History], responses: Sequence[AcceptedResponse]
) -> int:
    """How many of the responses, from the first, one transaction can take; at least up to the first late one."""
    if not histories:
        return len(responses)
    sizes = {learner: len(history.entries) for learner, history in histories.items()}
    replayed = 0
    for number, (_, entry, _, late) in enumerate(walk_arrivals(learners, responses)):
        if entry.learner_id in sizes:
            sizes[entry.learner_id] += 1
        if late:
            if replayed and replayed + sizes[entry.learner_id] > REPLAY_BUDGET:
                return number
            replayed += sizes[entry.learner_id]
    return len(responses)


def replay_late(
    course: CourseModel,
    learners: Sequence[LearnerRow],
    histories: Mapping[str, History],
    responses: Sequence[AcceptedResponse],
) -> LateReplays:
    """Replay the learners of all late responses; `histories` reach back before the earliest of each."""
    new: dict[str, list[tuple[Entry, bool]]] = {learner: [] for learner in histories}
    for _, entry, _, late in walk_arrivals(learners, responses):
        if entry.learner_id in new:
            new[entry.learner_id].append((entry, late))
    arrivals = [_line_up(course, histories[learner], entries) for learner, entries in new.items()]
    before = decode_states(course.parameters, [history.states[0] for history in histories.values()])
    replays = [(owner, number) for owner, arrived in enumerate(arrivals) for number in arrived.late]
    owners = np.array([owner for owner, _ in replays], dtype=np.int64)
    offsets = np.cumsum([0, *(len(arrived.entries) for arrived in arrivals)])
    chosen = [np.flatnonzero(arrivals[owner].number <= number) for owner, number in replays]
    positions = np.concatenate([offsets[owner] + indices for owner, indices in zip(owners, chosen, strict=True)])
    starts = np.cumsum([0, *(len(indices) for indices in chosen)])
    log = _pick_answers([arrived.log for arrived in arrivals], positions, starts)
    # Only the last replay of a learner leaves checkpoints behind: the log has all of the others' answers, and more.
    last = np.array([number == arrivals[owner].late[-1] for owner, number in replays])
    marks = checkpoint_marks(before.total_responses[owners], starts) & np.repeat(last, np.diff(starts))
    states, predicted, checkpoints = replay_marked(course.parameters, log, marks, before[owners])
    entries = [entry for arrived in arrivals for entry in arrived.entries]
    marked = [entries[position] for position in positions[marks].tolist()]
    numbers = np.concatenate([arrived.number for arrived in arrivals])[positions]
    own = numbers == np.repeat([number for _, number in replays], np.diff(starts))
    return LateReplays(
        {entries[position].id: row for row, position in enumerate(positions[own].tolist())},
        states,
        predicted.p[own],
        {
            learner: CheckpointSet(history.starts[learner], checkpoint_rows)
            for (learner, history), checkpoint_rows in zip(
                histories.items(), encode_checkpoints(course, histories, marked, checkpoints), strict=True
            )
        },
    )


def _line_up(course: CourseModel, history: History, new: Sequence[tuple[Entry, bool]]) -> _Arrivals:
    """Put new answers, each late or not, among those of a learner's log."""
    numbered = [(entry, 0) for entry in history.entries if entry.score is not None]
    numbered += [(entry, number) for number, (entry, _) in enumerate(new, 1)]
    numbered.sort(key=lambda each: entry_sort_key(each[0]))
    entries = [entry for entry, _ in numbered]
    return _Arrivals(
        to_log(course, entries, [len(entries)]),
        entries,
        np.array([number for _, number in numbered], dtype=np.int64),
        [number for number, (_, late) in enumerate(new, 1) if late],
    )


def _pick_answers(logs: Sequence[Log], positions: Integers, starts: Integers) -> Log:
    """The answers at some positions of several logs, one after the other, as a log of its own."""
    items, scores, times = (
        np.concatenate([getattr(log, name) for log in logs])[positions] for name in ("items", "scores", "times")
    )
    rapid: Booleans | None = None
    if any(log.rapid is not None for log in logs):
        known = [np.zeros(len(log.items), dtype=np.bool_) if log.rapid is None else log.rapid for log in logs]
        rapid = np.concatenate(known)[positions]
    return Log(starts, items, scores, times, rapid)
