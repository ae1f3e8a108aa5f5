"""The write path: new responses into the log, and at once the outcome of each.

Read what a decision rests on, decide, present, write; all in the transaction of the caller.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection

from app.core.database import run_off_loop
from app.core.errors import ProximaError, UnknownCourse
from app.core.telemetry import DECIDE_SECONDS
from app.services.responses.decide import make_decision
from app.services.responses.from_log import create_imported_outcome
from app.services.responses.late import count_affordable
from app.services.responses.present import build_outcomes
from app.services.responses.read import (
    ImportedBefore,
    Stored,
    Verdict,
    conflict_error,
    has_same_content,
    read_known,
    read_stored,
    triage,
)
from app.services.responses.types import (
    AcceptedResponse,
    Decision,
    Known,
    NewResponse,
    Postponed,
    RecordedResponse,
)
from app.services.responses.write import write_decision

__all__ = ["NewResponse", "Postponed", "RecordResult", "RecordedResponse", "record"]

RecordResult = RecordedResponse | ProximaError
# What follows from so many or more is computed beside the event loop.
FEWEST_FOR_THREAD = 8


def record(db: Connection, responses: Sequence[NewResponse]) -> list[RecordResult]:
    """Append responses to the log and update their learners; one result for each, in order.

    What is wrong with a response is its result, and stops no other. Those that are `Postponed` are to be recorded in a
    transaction of their own, in their order; the first response to a course never is.
    """
    by_course: dict[tuple[int, str], list[int]] = {}
    for index, response in enumerate(responses):
        by_course.setdefault((response.tenant_id, response.course_id), []).append(index)
    results: dict[int, RecordResult] = {}
    for (tenant_id, course_id), indices in sorted(by_course.items()):
        of_course = _record_in_course(db, tenant_id, course_id, [responses[index] for index in indices])
        results |= zip(indices, of_course, strict=True)
    return [results[index] for index in range(len(responses))]


def _record_in_course(
    db: Connection, tenant_id: int, course_id: str, responses: Sequence[NewResponse]
) -> list[RecordResult]:
    """`record` for the responses to one course."""
    try:
        stored = read_stored(db, tenant_id, course_id, responses)
    except UnknownCourse as error:
        return [error] * len(responses)
    verdicts = triage(db, stored, responses)
    new: dict[str, AcceptedResponse] = {}
    for verdict in verdicts:
        if isinstance(verdict, AcceptedResponse):
            new.setdefault(verdict.response.id, verdict)
    imported = {verdict.row.id: verdict.row for verdict in verdicts if isinstance(verdict, ImportedBefore)}
    outcomes = {id_: create_imported_outcome(db, stored.course, row) for id_, row in imported.items()}
    if new:
        outcomes |= _record_new(db, stored, list(new.values()))
    return [_to_result(verdict, new, outcomes) for verdict in verdicts]


def _record_new(db: Connection, stored: Stored, responses: Sequence[AcceptedResponse]) -> dict[str, bytes]:
    """Record responses to one course whose ids are new; the outcome of each that one transaction can take."""
    known = read_known(db, stored, responses)
    affordable = count_affordable(known.learners, known.histories, responses)
    if affordable < len(responses):
        known = read_known(db, stored, responses[:affordable])
    # A lone response in order takes less than the way to a thread and back is worth.
    many = affordable >= FEWEST_FOR_THREAD or known.histories
    with DECIDE_SECONDS.time():
        decision, outcomes = run_off_loop(_decide, known) if many else _decide(known)
    write_decision(db, decision, outcomes, known.states.total_responses)
    return outcomes


def _decide(known: Known) -> tuple[Decision, dict[str, bytes]]:
    """The decision on new responses, and their outcomes."""
    decision = make_decision(known)
    return decision, build_outcomes(decision)


def _to_result(verdict: Verdict, new: Mapping[str, AcceptedResponse], outcomes: Mapping[str, bytes]) -> RecordResult:
    """The result of a response; one whose id another response of the group used first repeats or contradicts it."""
    if isinstance(verdict, ImportedBefore):
        return RecordedResponse("duplicate", outcomes[verdict.row.id])
    if not isinstance(verdict, AcceptedResponse):
        return verdict
    id_ = verdict.response.id
    if id_ not in outcomes:
        return Postponed("the answers before this one took long to replay; send this again")
    if new[id_] is verdict:
        return RecordedResponse("created", outcomes[id_])
    return RecordedResponse("duplicate", outcomes[id_]) if has_same_content(verdict, new[id_]) else conflict_error()
