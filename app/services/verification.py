"""Verification: replay every learner's log, and compare the result with everything that was stored and sent.

The entries of a page of learners are processed in the order of arrival, under the calibration and the catalogue that
were active then, by the same functions that processed them the first time.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from sqlalchemy import Connection

from app.adaptive.arrays import Booleans
from app.adaptive.state import States
from app.adaptive.tracing.filter import initial_states
from app.adaptive.tracing.replay import replay_marked
from app.adaptive.tracing.state_codec import ENGINE, encode_states
from app.queries.checkpoints import StoredCheckpoint, list_checkpoints
from app.queries.learners import LearnerRow, find_learners, page_learners
from app.queries.responses import RecommendationRow, find_recommendations, page_offers
from app.queries.sessions import page_sessions
from app.services.course_model import CourseModel, LruCache, course_model_at, read_course_model
from app.services.learner_log import LearnerLog, read_learner_logs
from app.services.options import NO_OPTIONS, options_from_row, resolve_options
from app.services.present import OUTCOME_VERSION
from app.services.recommendations import RecommendationOffer, choose_resolved, recommendation_row
from app.services.replay import (
    current_version,
    entry_sort_key,
    is_stale,
    rebuild,
    replay_entries,
    states_at,
    to_log,
)
from app.services.responses.decide import make_decision
from app.services.responses.from_log import known_from_logs
from app.services.responses.present import build_outcomes
from app.services.responses.types import Decision
from app.services.responses.write import recommendation_rows
from app.services.sessions import find_session_differences

PAGE = 200
COMPARED_COLUMNS = (
    "item_id",
    "skill_id",
    "code",
    "terms",
    "p_correct",
    "propensity",
    "seed",
    "avoided",
    "options",
    "position",
    "calibration",
    "expires_at",
)
ModelVersion = tuple[int, int | None]


@dataclass
class VerificationResult:
    """How much was compared, and the differences found, in words."""

    learners: int = 0
    responses: int = 0
    recommendations: int = 0
    sessions: int = 0
    stale: int = 0
    other_version: int = 0
    differences: list[str] = field(default_factory=list)

    def add(self, part: "VerificationResult") -> None:
        """Add the counts and differences of a part."""
        self.learners += part.learners
        self.responses += part.responses
        self.recommendations += part.recommendations
        self.sessions += part.sessions
        self.stale += part.stale
        self.other_version += part.other_version
        self.differences += part.differences


@dataclass
class _ReplayedLearners:
    """The page of learners under one version; `current` marks those whose state is that of the last position."""

    course: CourseModel
    rows: list[LearnerRow]
    states: States
    current: Booleans


def verify_learners(
    db: Connection, tenant_id: int, course_id: str, after: str, course_models: LruCache[CourseModel]
) -> tuple[VerificationResult, str | None]:
    """Compare a page of learners; return the result, and the last learner of the page (None at the end).

    `course_models` caches the course models of former versions from page to page.
    """
    result = VerificationResult()
    rows = page_learners(db, tenant_id, course_id, after, PAGE)
    if not rows:
        return result, None
    course = read_course_model(db, tenant_id, course_id)
    _compare_snapshots(db, course, rows, result)
    learner_logs = read_learner_logs(db, course, rows)
    _compare_positions(learner_logs, result)
    _compare_checkpoints(db, course, learner_logs, result)
    replayed_by_version: dict[ModelVersion, _ReplayedLearners] = {}
    for position in range(1, max(learner_log.end for learner_log in learner_logs) + 1):
        for version, indices in _group_by_version(learner_logs, position).items():
            if version not in replayed_by_version:
                replayed_by_version[version] = _start_replay(
                    course_model_at(db, tenant_id, course_id, *version, course_models), learner_logs
                )
            _replay_round(db, replayed_by_version[version], learner_logs, indices, position, result)
            for other, replayed in replayed_by_version.items():
                replayed.current[indices] = other == version
        skipped = [index for index, learner_log in enumerate(learner_logs) if _is_skipped(learner_log, position)]
        result.other_version += sum(position in learner_logs[index].responses for index in skipped)
        for replayed in replayed_by_version.values():
            replayed.current[skipped] = False
    result.learners = len(rows)
    return result, rows[-1].id


def _is_skipped(learner_log: LearnerLog, position: int) -> bool:
    """Return whether the entry at a position is a correction, or a response with an outcome of another version."""
    return position in learner_log.corrections or (
        position in learner_log.responses and learner_log.responses[position].outcome_version != OUTCOME_VERSION
    )


def _compare_snapshots(
    db: Connection, course: CourseModel, rows: Sequence[LearnerRow], result: VerificationResult
) -> None:
    """Compare snapshots with the replay of the log; a stale one is never read, only counted."""
    current_rows = [row for row in rows if not is_stale(course, row)]
    result.stale += len(rows) - len(current_rows)
    if not current_rows:
        return
    expected = encode_states(course.parameters, rebuild(db, course, [row.id for row in current_rows]).states)
    blank = encode_states(course.parameters, initial_states(course.parameters, 1))[0]
    for row, state in zip(current_rows, expected, strict=True):
        if (row.state or blank) != state:
            result.differences.append(f"learner {row.id}: the snapshot is not what the log replays to")


def _compare_positions(learner_logs: Sequence[LearnerLog], result: VerificationResult) -> None:
    """Compare where snapshots say that the log ends with where it does."""
    for learner_log in learner_logs:
        if learner_log.row != learner_log.row_at(learner_log.end):
            result.differences.append(f"learner {learner_log.row.id}: the snapshot is not of the end of the log")


def _compare_checkpoints(
    db: Connection, course: CourseModel, learner_logs: Sequence[LearnerLog], result: VerificationResult
) -> None:
    """Compare checkpoints with the replay of the log up to them; stale ones are never read."""
    stored: dict[str, list[StoredCheckpoint]] = defaultdict(list)
    ids = [learner_log.row.id for learner_log in learner_logs]
    for row in list_checkpoints(db, course.tenant_id, course.course_id, current_version(course), ids):
        stored[row.learner_id].append(row)
    for learner_log in [learner_log for learner_log in learner_logs if learner_log.row.id in stored]:
        rows = stored[learner_log.row.id]
        entries = learner_log.scored_entries(learner_log.end)
        sort_keys = [entry_sort_key(entry) for entry in entries]
        end_indices = np.array([bisect_right(sort_keys, row[1:3]) for row in rows], dtype=np.int64)
        marks = np.zeros(len(entries) + 1, dtype=np.bool_)
        marks[end_indices] = True
        _, _, states = replay_marked(course.parameters, to_log(course, entries, [len(entries)]), marks[1:])
        expected = [encode_states(course.parameters, initial_states(course.parameters, 1))[0]] if marks[0] else []
        expected += encode_states(course.parameters, states)
        for row, index in zip(rows, np.unique(end_indices, return_inverse=True)[1].tolist(), strict=True):
            if row.state != expected[index]:
                result.differences.append(f"learner {learner_log.row.id}: a checkpoint is not what the log replays to")


def _group_by_version(learner_logs: Sequence[LearnerLog], position: int) -> dict[ModelVersion, list[int]]:
    """Group the learners who answered at this position by the version their answer was processed under.

    An outcome of another version has other words or numbers, so it cannot be compared.
    """
    groups: dict[ModelVersion, list[int]] = defaultdict(list)
    for index, learner_log in enumerate(learner_logs):
        if position in learner_log.responses and learner_log.responses[position].outcome_version == OUTCOME_VERSION:
            response = learner_log.responses[position]
            groups[response.revision, response.calibration].append(index)
    return groups


def _start_replay(course: CourseModel, learner_logs: Sequence[LearnerLog]) -> _ReplayedLearners:
    """Return a page of learners before their first response."""
    rows = [learner_log.row_at(0) for learner_log in learner_logs]
    states = initial_states(course.parameters, len(rows))
    return _ReplayedLearners(course, rows, states, np.zeros(len(rows), dtype=np.bool_))


def _replay_round(
    db: Connection,
    replayed: _ReplayedLearners,
    learner_logs: Sequence[LearnerLog],
    indices: Sequence[int],
    position: int,
    result: VerificationResult,
) -> None:
    """Decide once more on the responses at a position, and compare what follows from them."""
    course = replayed.course
    _bring_up_to(replayed, learner_logs, [index for index in indices if not replayed.current[index]], position - 1)
    logs = [learner_logs[index] for index in indices]
    responses = [learner_log.responses[position] for learner_log in logs]
    named = {response.recommendation_id for response in responses if response.recommendation_id is not None}
    offered = find_recommendations(db, course.tenant_id, course.course_id, named) if named else {}
    rows, states = [replayed.rows[index] for index in indices], replayed.states[np.array(indices)]
    decision = make_decision(known_from_logs(course, logs, position, rows, states, offered))
    outcomes = build_outcomes(decision)
    [decided] = decision.rounds
    for stored, p in zip(responses, decided.p.tolist(), strict=True):
        if stored.p_correct != p:
            result.differences.append(f"response {stored.id}: another prediction follows from the log")
        if stored.outcome is not None and stored.outcome.encode() != outcomes[stored.id]:
            result.differences.append(f"response {stored.id}: another outcome follows from the log")
    result.responses += len(responses)
    imported = {response.id for response in responses if response.outcome is None}
    _compare_recommendations(db, decision, imported, result)
    replayed.states.put(np.array(indices), decision.states)
    for index, row in zip(indices, decision.learners, strict=True):
        replayed.rows[index] = row


def _bring_up_to(
    replayed: _ReplayedLearners, learner_logs: Sequence[LearnerLog], indices: Sequence[int], position: int
) -> None:
    """Replay some learners of the page from their logs up to a position."""
    if not indices:
        return
    ids = [learner_logs[index].row.id for index in indices]
    entries = [entry for index in indices for entry in learner_logs[index].entries(position)]
    replayed.states.put(np.array(indices), replay_entries(replayed.course, ids, entries).states)
    for index in indices:
        replayed.rows[index] = learner_logs[index].row_at(position)


def _compare_recommendations(
    db: Connection, decision: Decision, imported: set[str], result: VerificationResult
) -> None:
    """Compare what followed an answer with what is stored; after imported answers nothing was offered."""
    recomputed = {row["id"]: row for row in recommendation_rows(decision) if row["response_id"] not in imported}
    if not recomputed:
        return
    stored = find_recommendations(db, decision.course.tenant_id, decision.course.course_id, set(recomputed))
    for id_, row in recomputed.items():
        same = id_ in stored and all(getattr(stored[id_], name) == row[name] for name in COMPARED_COLUMNS)
        if not same:
            result.differences.append(f"recommendation {id_}: another choice follows from the log")
    result.recommendations += len(recomputed)


def verify_offers(
    db: Connection, tenant_id: int, course_id: str, after: str, course_models: LruCache[CourseModel]
) -> tuple[VerificationResult, str | None]:
    """Compare a page of offered recommendations; return the result, and the last id (None at the end)."""
    result = VerificationResult()
    offers = page_offers(db, tenant_id, course_id, after, PAGE)
    if not offers:
        return result, None
    course = read_course_model(db, tenant_id, course_id)
    rows = find_learners(db, tenant_id, course_id, {offer.learner_id for offer in offers})
    learner_logs = {
        learner_log.row.id: learner_log for learner_log in read_learner_logs(db, course, list(rows.values()))
    }
    for offer in offers:
        if offer.outcome_version != OUTCOME_VERSION:
            result.other_version += 1
            continue
        result.recommendations += 1
        course_then = course_model_at(db, tenant_id, course_id, offer.revision, offer.calibration, course_models)
        if not _same_offer(course_then, learner_logs[offer.learner_id], offer):
            result.differences.append(f"recommendation {offer.id}: another choice follows from the log")
    return result, offers[-1].id


def _same_offer(course: CourseModel, learner_log: LearnerLog, offer: RecommendationRow) -> bool:
    """Return whether the same would be offered again, for the same reasons and with the same propensity."""
    states = replay_entries(course, [learner_log.row.id], learner_log.entries(offer.position)).states
    states_then, options = states_at(course, states, offer.offered_at), options_from_row(offer.options) or NO_OPTIONS
    resolved = resolve_options(
        course, options, learner_log.scored_entries(offer.position), offer.offered_at, offer.avoided
    )
    [choice] = choose_resolved(course, states_then, np.array([offer.seed], dtype=np.uint64), [resolved]).each()
    if choice.item < 0:
        return False
    asked = (offer.avoided, offer.offered_at, options_from_row(offer.options), offer.expires_at)
    again = RecommendationOffer(offer.id, learner_log.row.id, None, offer.position, offer.seed, *asked)
    recomputed = recommendation_row(course, choice, again)
    return all(getattr(offer, name) == recomputed[name] for name in COMPARED_COLUMNS)


def verify_sessions(
    db: Connection, tenant_id: int, course_id: str, after: str, _: LruCache[CourseModel]
) -> tuple[VerificationResult, str | None]:
    """Replay a page of adaptive tests; return the result, and the last id (None at the end)."""
    result = VerificationResult()
    sessions = page_sessions(db, tenant_id, course_id, after, PAGE)
    if not sessions:
        return result, None
    for session in sessions:
        if session.engine == ENGINE:
            result.differences += find_session_differences(db, session)
        else:
            result.other_version += 1
    result.sessions = len(sessions)
    return result, sessions[-1].id
