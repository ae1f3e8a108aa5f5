"""Answers into the log, and at once the outcome of each: the write path.

Everything here runs inside the caller's transaction. The rows of the learners are locked first, in the order of
their ids, so that two transactions never process the same learner at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic_core import to_json
from sqlalchemy import Connection, Row

from app.adaptive.arrays import Floats
from app.adaptive.practice.choose import Choices, choose_items
from app.adaptive.state import States
from app.adaptive.tracing.filter import fade_states, update_states
from app.adaptive.tracing.state_codec import ENGINE
from app.core.errors import (
    Conflict,
    Fault,
    InvalidScore,
    ProximaError,
    Unavailable,
    UnknownCourse,
    UnknownItem,
    UnknownRecommendation,
)
from app.core.times import to_days, to_text
from app.queries.checkpoints import SortKey
from app.queries.learners import LearnerRow, find_learners, insert_learners
from app.queries.responses import (
    Entry,
    find_recommendations,
    find_responses,
    insert_recommendations,
    insert_responses,
    save_outcome,
)
from app.services.course_model import CourseModel, course_model_at, read_course_model
from app.services.learner_log import read_learner_logs
from app.services.options import (
    RecommendationOptions,
    ResolvedOptions,
    options_from_row,
    options_to_row,
    read_entries_for_options,
    resolve_options,
)
from app.services.present import (
    DIGITS,
    OUTCOME_VERSION,
    ability_rows,
    calibration_id,
    item_skill_pairs,
    mastery_rows,
    no_recommendation_reason,
    recommendation_reply,
)
from app.services.recommendations import (
    RecommendationOffer,
    choice_seeds,
    choose_resolved,
    expiry_time,
    next_recommendation_id,
    prefetch_key,
    recommendation_row,
    recommendation_with_extras,
    reply_extras,
)
from app.services.replay import (
    CheckpointSet,
    History,
    as_fractions,
    catch_up,
    entry_sort_key,
    full_history,
    read_history,
    replay_entries,
    replay_history,
    save_states,
)
from app.services.webhooks import WebhookEvent, mastery_events, publish_events


@dataclass(frozen=True, slots=True)
class NewResponse:
    """An answer as it came in, of a known tenant; times in µs. `has_timestamp` if the caller said when it was given.

    `next` is what is wanted of the exercise that follows.
    """

    tenant_id: int
    course_id: str
    id: str
    learner: str
    item: str
    score: float | None
    correct: bool | None
    occurred_at: int
    has_timestamp: bool
    received_at: int
    duration_ms: int | None
    recommendation: str | None
    next: RecommendationOptions | None = None


@dataclass(frozen=True, slots=True)
class RecordedResponse:
    """What to tell: `created` or `duplicate`, and the outcome as JSON, the same bytes each time."""

    status: str
    outcome: bytes


@dataclass
class AcceptedResponse:
    """An answer on its way into the log; `index` is where its result goes, `offered` the recommendation it names."""

    index: int
    response: NewResponse
    item: int
    score: float
    offered: Row[Any] | None = None

    def continues_prefetch(self) -> bool:
        """Whether what follows was prefetched with the recommendation, and nothing else is wanted now."""
        return (
            self.response.next is None
            and self.offered is not None
            and bool((self.offered.options or {}).get("prefetch"))
        )

    def options(self) -> RecommendationOptions | None:
        """What is wanted of the exercise that follows."""
        return (
            options_from_row(self.offered.options)
            if self.offered is not None and self.continues_prefetch()
            else self.response.next
        )


def record(db: Connection, responses: Sequence[NewResponse]) -> list[RecordedResponse | ProximaError]:
    """Append answers and process them; one result for each, in order. A bad answer fails alone, as its result."""
    results: list[RecordedResponse | ProximaError | None] = [None] * len(responses)
    by_course: dict[tuple[int, str], list[int]] = {}
    for index, response in enumerate(responses):
        by_course.setdefault((response.tenant_id, response.course_id), []).append(index)
    for tenant_id, course_id in sorted(by_course):
        indices = by_course[tenant_id, course_id]
        try:
            record_in_course(db, tenant_id, course_id, [(index, responses[index]) for index in indices], results)
        except UnknownCourse as error:
            for index in indices:
                results[index] = error
    return [result for result in results if result is not None]


def record_in_course(
    db: Connection,
    tenant_id: int,
    course_id: str,
    responses: Sequence[tuple[int, NewResponse]],
    results: list[RecordedResponse | ProximaError | None],
) -> None:
    """`record` for the answers of one course; writes into `results`. Raises `UnknownCourse`."""
    learners = find_learners(db, tenant_id, course_id, {response.learner for _, response in responses}, lock=True)
    # Only once the learners are locked: another transaction may have replayed them under a newer course model.
    course = read_course_model(db, tenant_id, course_id)
    new_responses, repeated = triage(db, course, responses, results)
    if new_responses:
        unknown_learners = {accepted.response.learner for accepted in new_responses.values()} - learners.keys()
        learners |= add_learners(db, course, unknown_learners)
        process_new(db, course, learners, list(new_responses.values()), results)
    for accepted in repeated:
        first = new_responses[accepted.response.id]
        results[accepted.index] = repeat_within_group(accepted, first, results[first.index])


def process_new(
    db: Connection,
    course: CourseModel,
    learners: dict[str, LearnerRow],
    new_responses: Sequence[AcceptedResponse],
    results: list[RecordedResponse | ProximaError | None],
) -> None:
    """Process new answers and write everything that follows."""
    rows = [learners[id_] for id_ in sorted({accepted.response.learner for accepted in new_responses})]

    def history(learner_id: str, first: SortKey) -> History:
        return read_history(db, course, {learner_id: first})

    states, checkpoint_sets = catch_up(db, course, rows)
    total_before = states.total_responses.copy()

    def recent(learner_id: str, options: RecommendationOptions, moment: int) -> list[Entry]:
        return read_entries_for_options(db, course, learner_id, options, moment)

    group = ResponseGroup(course, rows, states, history, recent, checkpoint_sets)
    for this_round in split_into_rounds(new_responses):
        for accepted, outcome in zip(this_round, process_round(group, this_round), strict=True):
            results[accepted.index] = RecordedResponse("created", outcome)
    insert_responses(db, group.responses)
    publish_events(db, course.tenant_id, course.course_id, group.events)
    insert_recommendations(db, group.recommendations)
    save_states(db, course, group.learners, group.states, group.checkpoint_sets, total_before)


def check_response(
    course: CourseModel, offered: Mapping[str, Row[Any]], index: int, response: NewResponse
) -> AcceptedResponse | ProximaError:
    """Whether the course can take this answer; `offered` are the recommendations that exist."""
    item = course.item_numbers.get(response.item)
    if item is None:
        return UnknownItem(
            "the course has no such item; add it with PUT …/catalogue",
            [Fault("/item", "no such item in this course")],
        )
    score = response_score(course, response)
    try:
        check_score(course, item, score)
    except InvalidScore as error:
        return error
    named = response.recommendation
    if named is not None and (named not in offered or offered[named].learner_id != response.learner):
        return UnknownRecommendation(
            "this learner was offered no such recommendation; leave the field out if there was none",
            [Fault("/recommendation", "no such recommendation of this learner")],
        )
    return AcceptedResponse(index, response, item, score, None if named is None else offered[named])


def response_score(course: CourseModel, response: NewResponse) -> float:
    """The score of an answer to an item of the course model; `correct` is short for all or nothing."""
    if response.score is not None:
        return response.score
    return float(course.max_scores[course.item_numbers[response.item]]) * bool(response.correct)


def check_score(course: CourseModel, item: int, score: float) -> None:
    """Whether the item can have this score. Raises `InvalidScore`."""
    max_score = float(course.max_scores[item])
    if score > max_score:
        raise InvalidScore(
            f"the score is higher than the item's maximum, {max_score:g}",
            [Fault("/score", f"must be from 0 to {max_score:g}")],
        )
    if course.parameters.items.max_category[item] and score != int(score):
        raise InvalidScore("this item is graded: its score is a whole number", [Fault("/score", "must be whole")])


def add_learners(db: Connection, course: CourseModel, ids: set[str]) -> dict[str, LearnerRow]:
    """Learners never seen before, made and locked; one that another transaction has just made is locked as it is."""
    if not ids:
        return {}
    blank = {
        "position": 0,
        "theta": 0.0,
        "standard_error": float(np.sqrt(course.parameters.population.ability_variance)),
        "state": b"",
        "last_occurred_at": None,
        "last_response_id": None,
        "calibration": course.calibration,
        "revision": course.revision,
        "engine": ENGINE,
    }
    insert_learners(db, course.tenant_id, course.course_id, ids, blank)
    created = find_learners(db, course.tenant_id, course.course_id, ids, lock=True)
    if any(row.revision > course.revision for row in created.values()):
        raise Unavailable("the catalogue has changed at this very moment; send this again")
    return created


def triage(
    db: Connection,
    course: CourseModel,
    responses: Sequence[tuple[int, NewResponse]],
    results: list[RecordedResponse | ProximaError | None],
) -> tuple[dict[str, AcceptedResponse], list[AcceptedResponse]]:
    """The answers that are new, by id, and those that use an id of these once more, open until these are processed.

    What repeats or contradicts what is stored, or cannot be taken, has its place in `results` at once. What is stored
    comes first: a repetition is one however the catalogue has changed since.
    """
    stored = find_responses(db, course.tenant_id, course.course_id, {response.id for _, response in responses})
    named = {response.recommendation for _, response in responses if response.recommendation is not None}
    offered = find_recommendations(db, course.tenant_id, course.course_id, named) if named else {}
    new_responses: dict[str, AcceptedResponse] = {}
    repeated: list[AcceptedResponse] = []
    imported_outcomes: dict[str, bytes] = {}
    for index, response in responses:
        if response.id in stored:
            results[index] = repeat_outcome(db, course, response, stored[response.id], imported_outcomes)
            continue
        accepted = check_response(course, offered, index, response)
        if isinstance(accepted, ProximaError):
            results[index] = accepted
        elif new_responses.setdefault(response.id, accepted) is not accepted:
            repeated.append(accepted)
    return new_responses, repeated


def repeat_outcome(
    db: Connection, course: CourseModel, response: NewResponse, row: Row[Any], imported_outcomes: dict[str, bytes]
) -> RecordedResponse | ProximaError:
    """The first outcome again if the content is the same, else a conflict; `imported_outcomes` are stored."""
    stored = (row.learner_id, row.item_id, row.duration_ms, row.recommendation_id, options_from_row(row.options))
    if response_content(response) != (*stored, row.occurred_at if row.has_timestamp else None) or not has_same_score(
        db, course, response, row
    ):
        return conflict_error()
    if row.outcome is not None:
        return RecordedResponse("duplicate", row.outcome.encode())
    if response.id not in imported_outcomes:
        imported_outcomes[response.id] = create_imported_outcome(db, course, row)
    return RecordedResponse("duplicate", imported_outcomes[response.id])


def response_content(response: NewResponse) -> tuple[Any, ...]:
    """What makes two answers with one id the same answer, but for the score; a time that we set does not count."""
    asked = (response.learner, response.item, response.duration_ms, response.recommendation, response.next)
    return (*asked, response.occurred_at if response.has_timestamp else None)


def has_same_score(db: Connection, course: CourseModel, response: NewResponse, row: Row[Any]) -> bool:
    """Whether an answer has the score that is stored; all or nothing is meant of the maximum at that time."""
    course_then = course
    if response.score is None and response_score(course, response) != row.score and course.revision != row.revision:
        course_then = course_model_at(db, course.tenant_id, course.course_id, row.revision, row.calibration)
    return bool(response_score(course_then, response) == row.score)


def conflict_error() -> Conflict:
    """The same id with other content."""
    return Conflict(
        "this id was used for a different answer; use a new id, or regrade the old one to correct it",
        [Fault("/id", "taken by other content")],
    )


def repeat_within_group(
    accepted: AcceptedResponse, first: AcceptedResponse, result: RecordedResponse | ProximaError | None
) -> RecordedResponse | ProximaError:
    """The result of an answer whose id another answer of the same group used first."""
    same = response_content(accepted.response) == response_content(first.response) and accepted.score == first.score
    if not same or not isinstance(result, RecordedResponse):
        return conflict_error()
    return RecordedResponse("duplicate", result.outcome)


def split_into_rounds(new_responses: Sequence[AcceptedResponse]) -> list[list[AcceptedResponse]]:
    """Split answers into rounds: each learner has one in a round, in the order of arrival.

    What is told of an answer is then the same whatever it was grouped with.
    """
    counts: dict[str, int] = {}
    result: list[list[AcceptedResponse]] = []
    for accepted in new_responses:
        number = counts[accepted.response.learner] = counts.get(accepted.response.learner, -1) + 1
        if number == len(result):
            result.append([])
        result[number].append(accepted)
    return result


@dataclass
class ResponseGroup:
    """The learners of one transaction as they are processed, and the rows to be written at its end.

    `history` gives the log of a learner as it was before the transaction, from a place on at least; `recent` the
    answers of it that the options ask about at a moment.
    """

    course: CourseModel
    learners: list[LearnerRow]
    states: States
    history: Callable[[str, SortKey], History]
    recent: Callable[[str, RecommendationOptions, int], list[Entry]]
    checkpoint_sets: dict[str, CheckpointSet] = field(default_factory=dict)
    pending: dict[str, list[Entry]] = field(default_factory=dict)
    responses: list[dict[str, Any]] = field(default_factory=list)
    recommendations: list[dict[str, Any]] = field(default_factory=list)
    events: list[WebhookEvent] = field(default_factory=list)


def process_round(group: ResponseGroup, this_round: Sequence[AcceptedResponse]) -> list[bytes]:
    """Process one answer each of different learners, and choose what comes next; the outcomes."""
    course = group.course
    index = {row.id: number for number, row in enumerate(group.learners)}
    indices = np.array([index[accepted.response.learner] for accepted in this_round])
    items = np.array([accepted.item for accepted in this_round])
    before = group.states[indices]
    times = np.array([to_days(accepted.response.occurred_at) for accepted in this_round])
    scores = as_fractions(course, items, [accepted.score for accepted in this_round])
    after, predicted = update_states(course.parameters, before, items, scores, times)
    for number, accepted in enumerate(this_round):
        row = group.learners[indices[number]]
        group.pending.setdefault(row.id, []).append(
            Entry(row.id, accepted.response.id, accepted.response.item, accepted.score, accepted.response.occurred_at)
        )
        if is_late(row, accepted.response):
            replay_late(group, row.id, accepted.response.id, after, predicted.p, number)
        group.learners[indices[number]] = advance_row(row, accepted.response)
    group.states.put(indices, after)
    offers = [
        prepare_offer(course, accepted, group.learners[p].position)
        for accepted, p in zip(this_round, indices, strict=True)
    ]
    resolved = [resolve_next_options(group, offer, group.learners[p]) for offer, p in zip(offers, indices, strict=True)]
    # Told is what is known at the moment of the last answer; what the others have faded by then is not kept.
    before_now, now = (fade_states(course.parameters, states, after.seen_at) for states in (before, after))
    seeds = np.array([offer.seed for offer in offers], dtype=np.uint64)
    choices = (
        choose_resolved(course, now, seeds, resolved) if any(resolved) else choose_items(course.parameters, now, seeds)
    )
    outcomes = build_outcomes(course, this_round, offers, (before_now, after, now), predicted.p, choices, resolved)
    if course.watched:
        group.events += mastery_events(course, before_now, now, offers)
    add_response_rows(group, this_round, offers, predicted.p, outcomes)
    created = zip(choices.each(), offers, strict=True)
    group.recommendations += [
        recommendation_row(course, choice, offer) for choice, offer in created if choice.item >= 0
    ]
    return outcomes


def prepare_offer(course: CourseModel, accepted: AcceptedResponse, position: int) -> RecommendationOffer:
    """The recommendation that follows an answer, before it is chosen."""
    response, options = accepted.response, accepted.options()
    name = (
        prefetch_key(accepted.offered.id)
        if accepted.offered is not None and accepted.continues_prefetch()
        else response.id
    )
    id_, [seed] = next_recommendation_id(course, response.id), choice_seeds(course, [name]).tolist()
    avoided = [] if options is None else [item for item in options.avoid if item in course.item_numbers]
    expires_at = expiry_time(options, response.received_at)
    return RecommendationOffer(
        id_, response.learner, response.id, position, seed, avoided, response.received_at, options, expires_at
    )


def resolve_next_options(group: ResponseGroup, offer: RecommendationOffer, row: LearnerRow) -> ResolvedOptions | None:
    """What is wanted of the exercise that follows an answer; none for nothing in particular."""
    if offer.options is None:
        return None
    moment = row.last_occurred_at or 0
    log = [*group.recent(row.id, offer.options, moment), *group.pending[row.id]]
    return resolve_options(group.course, offer.options, sorted(log, key=entry_sort_key), moment)


def is_late(row: LearnerRow, response: NewResponse | Entry) -> bool:
    """Whether the answer belongs before one that was processed already."""
    if row.last_occurred_at is None or row.last_response_id is None:
        return False
    return (response.occurred_at, response.id) < (row.last_occurred_at, row.last_response_id)


def replay_late(group: ResponseGroup, learner_id: str, response_id: str, after: States, p: Floats, number: int) -> None:
    """Replay a learner with an answer that came late: writes the state and the prediction into `after` and `p`."""
    pending = group.pending[learner_id]
    replayed = replay_history(group.course, group.history(learner_id, min(map(entry_sort_key, pending))), pending)
    after.put(np.array([number]), replayed.states)
    p[number] = replayed.p_correct[response_id]
    group.checkpoint_sets |= replayed.checkpoint_sets


def advance_row(row: LearnerRow, response: NewResponse) -> LearnerRow:
    """The learner's row after one more answer; the state is packed at the end."""
    last = (row.last_occurred_at, row.last_response_id)
    if not is_late(row, response):
        last = (response.occurred_at, response.id)
    return row._replace(position=row.position + 1, last_occurred_at=last[0], last_response_id=last[1])


def build_outcomes(
    course: CourseModel,
    this_round: Sequence[AcceptedResponse],
    offers: Sequence[RecommendationOffer],
    states: tuple[States, States, States],
    p: Floats,
    choices: Choices,
    resolved: Sequence[ResolvedOptions | None],
) -> list[bytes]:
    """What is told of each answer, as JSON.

    `states` are those without the answers, as they would be told; and those with them, as they are kept and told.
    """
    before, stored_states, after = states
    rows, skills = item_skill_pairs(course, [accepted.item for accepted in this_round])
    mastery: list[list[dict[str, Any]]] = [[] for _ in this_round]
    for number, row in zip(rows.tolist(), mastery_rows(course, after, rows, skills, before), strict=True):
        mastery[number].append(row)
    ability = ability_rows(course, after)
    result = []
    for number, (accepted, offer, choice) in enumerate(zip(this_round, offers, choices.each(), strict=True)):
        response, next_options = accepted.response, resolved[number]
        if next_options is None:
            following = recommendation_reply(course, after, choice, number, offer.id)
        else:
            following = recommendation_with_extras(
                course, (stored_states, after), choice, number, offer.id, next_options, offer.expires_at
            )
        outcome = {
            "response": {
                "id": response.id,
                "learner": response.learner,
                "item": response.item,
                "score": accepted.score,
                "occurred_at": to_text(response.occurred_at),
                "position": offer.position,
            },
            "p_correct": round(float(p[number]), DIGITS),
            "ability": ability[number],
            "mastery": mastery[number],
            "next": following,
            "calibration": calibration_id(course.calibration),
        }
        if accepted.offered is not None:
            outcome["offer"] = compare_with_offer(accepted.offered, response)
        if following is None:
            outcome["reason"] = no_recommendation_reason(course, after, choice, number, next_options)
        if next_options is not None:
            single, seeds = slice(number, number + 1), np.array([offer.seed], dtype=np.uint64)
            names = () if following is None else (following["item"],)
            outcome |= reply_extras(course, after[single], seeds, choices[single], next_options, names)
        result.append(to_json(outcome))
    return result


def compare_with_offer(offered: Row[Any], response: NewResponse) -> dict[str, bool]:
    """Whether an answer is one to the recommendation it names, and whether that held no more when it was given."""
    expired = offered.expires_at is not None and response.occurred_at > offered.expires_at
    return {"matches": offered.item_id == response.item, "expired": expired}


def add_response_rows(
    group: ResponseGroup,
    this_round: Sequence[AcceptedResponse],
    offers: Sequence[RecommendationOffer],
    p: Floats,
    outcomes: Sequence[bytes],
) -> None:
    """Note the rows of the answers."""
    course = group.course
    for number, (accepted, offer) in enumerate(zip(this_round, offers, strict=True)):
        response = accepted.response
        group.responses.append(
            {
                "tenant_id": course.tenant_id,
                "course_id": course.course_id,
                "id": response.id,
                "learner_id": response.learner,
                "position": offer.position,
                "item_id": response.item,
                "score": accepted.score,
                "occurred_at": response.occurred_at,
                "has_timestamp": response.has_timestamp,
                "received_at": response.received_at,
                "duration_ms": response.duration_ms,
                "recommendation_id": response.recommendation,
                "options": options_to_row(response.next),
                "calibration": course.calibration,
                "revision": course.revision,
                "outcome_version": OUTCOME_VERSION,
                "p_correct": float(p[number]),
                "outcome": outcomes[number].decode(),
            }
        )


def create_imported_outcome(db: Connection, course: CourseModel, row: Row[Any]) -> bytes:
    """The outcome of an answer that was imported and so was told to nobody: as if it had come alone, then.

    From here on it is told: the outcome is kept, and what it recommends.
    """
    [learner_log] = read_learner_logs(
        db, course, list(find_learners(db, course.tenant_id, course.course_id, [row.learner_id]).values())
    )
    course_then = course_model_at(db, course.tenant_id, course.course_id, row.revision, row.calibration)
    earlier = learner_log.entries(row.position - 1)
    states = replay_entries(course_then, [row.learner_id], earlier).states
    rows = [learner_log.row_at(row.position - 1)]
    # Nothing was wanted of what follows an imported answer.
    group = ResponseGroup(course_then, rows, states, lambda *_: full_history([row.learner_id], earlier), lambda *_: [])
    [outcome] = process_round(
        group,
        [AcceptedResponse(0, to_new_response(course_then, row), course_then.item_numbers[row.item_id], row.score)],
    )
    save_outcome(db, course.tenant_id, course.course_id, row.id, outcome.decode())
    insert_recommendations(db, group.recommendations)
    return outcome


def to_new_response(course: CourseModel, row: Row[Any]) -> NewResponse:
    """An answer of the log as it came in."""
    return NewResponse(
        tenant_id=course.tenant_id,
        course_id=course.course_id,
        id=row.id,
        learner=row.learner_id,
        item=row.item_id,
        score=row.score,
        correct=None,
        occurred_at=row.occurred_at,
        has_timestamp=row.has_timestamp,
        received_at=row.received_at,
        duration_ms=row.duration_ms,
        recommendation=row.recommendation_id,
        next=options_from_row(row.options),
    )
