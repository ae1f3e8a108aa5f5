"""Read what a decision on new responses rests on, and sort out those that need none.

The rows of the learners are locked first, in the order of their ids, so that no two transactions update the same
learner side by side.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection

from app.core.errors import (
    Conflict,
    Fault,
    InvalidScore,
    ProximaError,
    UnknownItem,
    UnknownRecommendation,
)
from app.files.responses import ROUNDING
from app.queries.learners import LearnerRow, find_learners
from app.queries.responses import RecommendationRow, ResponseRow, find_recommendations, find_responses
from app.services.course_model import CourseModel, course_model_at, read_course_model
from app.services.options import options_from_row, read_entries_for_options
from app.services.replay import catch_up, create_learners, read_history
from app.services.responses.decide import find_reading_needs
from app.services.responses.types import AcceptedResponse, Known, NewResponse, RecordedResponse


class Stored(NamedTuple):
    """What is stored about some responses: their learners, those with the same ids, the recommendations they name."""

    learners: dict[str, LearnerRow]
    course: CourseModel
    responses: Mapping[str, ResponseRow]
    offered: Mapping[str, RecommendationRow]


class ImportedBefore(NamedTuple):
    """A response that repeats an imported one, of which nobody has been told an outcome yet."""

    row: ResponseRow


Verdict = AcceptedResponse | RecordedResponse | ImportedBefore | ProximaError


def read_stored(db: Connection, tenant_id: int, course_id: str, responses: Sequence[NewResponse]) -> Stored:
    """Lock the learners of some responses and read what is stored of these. Raises `UnknownCourse`."""
    learners = find_learners(db, tenant_id, course_id, {response.learner for response in responses}, lock=True)
    # Not before the learners are locked: who held them may have updated them under a newer course model.
    course = read_course_model(db, tenant_id, course_id)
    stored = find_responses(db, tenant_id, course_id, {response.id for response in responses})
    named = {response.recommendation for response in responses if response.recommendation is not None}
    offered = find_recommendations(db, tenant_id, course_id, named) if named else {}
    return Stored(learners, course, stored, offered)


def read_known(db: Connection, stored: Stored, responses: Sequence[AcceptedResponse]) -> Known:
    """Read what a decision on new responses rests on; learners never seen before are created."""
    course = stored.course
    ids = {accepted.response.learner for accepted in responses}
    learners = stored.learners | create_learners(db, course, ids - stored.learners.keys())
    rows = [learners[id_] for id_ in sorted(ids)]
    states, checkpoint_sets = catch_up(db, course, rows)
    needs = find_reading_needs(rows, responses)
    histories = {learner: read_history(db, course, {learner: first}) for learner, first in needs.late.items()}
    recent = {id_: read_entries_for_options(db, course, *asked) for id_, asked in needs.recent.items()}
    return Known(course, rows, states, responses, histories, recent, checkpoint_sets)


def triage(db: Connection, stored: Stored, responses: Sequence[NewResponse]) -> list[Verdict]:
    """For each response: accepted, or the result that it has at once.

    What is stored comes first: a repetition is one however the catalogue has changed since.
    """
    return [
        _repeat(db, stored.course, response, stored.responses[response.id])
        if response.id in stored.responses
        else _check_response(stored, response)
        for response in responses
    ]


def _check_response(stored: Stored, response: NewResponse) -> AcceptedResponse | ProximaError:
    """Accept a response, or say why the course cannot take it."""
    course = stored.course
    item = course.item_numbers.get(response.item)
    if item is None:
        return UnknownItem(
            "the course has no such item; add it with PUT …/catalogue",
            [Fault("/item", "no such item in this course")],
        )
    max_score = float(course.max_scores[item])
    try:
        score = check_score(_response_score(response, max_score), max_score, course.parameters.items.max_category[item])
    except InvalidScore as error:
        return error
    named = response.recommendation
    offered = None if named is None else stored.offered.get(named)
    if named is not None and (offered is None or offered.learner_id != response.learner):
        return UnknownRecommendation(
            "this learner was offered no such recommendation; leave the field out if there was none",
            [Fault("/recommendation", "no such recommendation of this learner")],
        )
    return AcceptedResponse(response, item, score, max_score, offered)


def check_score(score: float, max_score: float, max_category: int) -> float:
    """Return the score of an answer out of `max_score`, freed of what sums of parts leave in the last bits.

    `max_category` is above 0 for a graded item. Raises `InvalidScore`.
    """
    score = min(score, max_score) if score <= max_score * (1 + ROUNDING) else score
    if score > max_score:
        raise InvalidScore(
            f"the score is higher than the item's maximum, {max_score:g}",
            [Fault("/score", f"must be from 0 to {max_score:g}")],
        )
    if not max_category:
        return score
    if abs(score - round(score)) > ROUNDING * max_score:
        raise InvalidScore("this item is graded: its score is a whole number", [Fault("/score", "must be whole")])
    return float(round(score))


def _response_score(response: NewResponse, max_score: float) -> float:
    """The score of a response out of a maximum, as it was sent; `correct` is short for all or nothing."""
    return max_score * bool(response.correct) if response.score is None else response.score


def _repeat(db: Connection, course: CourseModel, response: NewResponse, row: ResponseRow) -> Verdict:
    """The first outcome of a stored response if the content is the same, else a conflict."""
    stored = (row.learner_id, row.item_id, row.duration_ms, row.recommendation_id, options_from_row(row.options))
    if _content(response) != (*stored, row.occurred_at if row.has_timestamp else None) or not _has_same_score(
        db, course, response, row
    ):
        return conflict_error()
    return ImportedBefore(row) if row.outcome is None else RecordedResponse("duplicate", row.outcome.encode())


def _content(response: NewResponse) -> tuple[Any, ...]:
    """What makes two responses with one id the same, but for the score; a time that we set does not count."""
    asked = (response.learner, response.item, response.duration_ms, response.recommendation, response.next)
    return (*asked, response.occurred_at if response.has_timestamp else None)


def _has_same_score(db: Connection, course: CourseModel, response: NewResponse, row: ResponseRow) -> bool:
    """Whether a response has the score that is stored; all or nothing is meant of the maximum at that time."""
    max_score = row.max_score
    if max_score is None:
        if response.score is None and course.revision != row.revision:
            course = course_model_at(db, course.tenant_id, course.course_id, row.revision, row.calibration)
        max_score = float(course.max_scores[course.item_numbers[response.item]])
    sent = _response_score(response, max_score)
    return abs(sent - row.score) <= ROUNDING * max(max_score, row.score)


def has_same_content(one: AcceptedResponse, other: AcceptedResponse) -> bool:
    """Whether two responses with one id are the same."""
    return _content(one.response) == _content(other.response) and one.score == other.score


def conflict_error() -> Conflict:
    """The same id with other content."""
    return Conflict(
        "this id was used for a different answer; use a new id, or regrade the old one to correct it",
        [Fault("/id", "taken by other content")],
    )
