"""Every error a caller can meet, each with a stable code.

    ProximaError
    ├── Malformed            the bytes are not what they claim to be
    ├── Unauthenticated, Forbidden
    ├── NotFound             absent, or another tenant's
    ├── Conflict             true, but not with what is stored
    ├── TooSlow, TooLarge, HeaderTooLarge, UnsupportedMediaType, NotAcceptable, MethodNotAllowed
    ├── Invalid              well-formed, but not acceptable
    ├── RateLimited          too often
    ├── Unavailable          try again later
    └── InvalidSetting, NotMigrated        the operator's errors, shown on the command line

`docs/errors.md` has an entry for every code. The HTTP status of each branch is decided in
`app.http.problems`; nothing here knows HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class Fault:
    """One place in the input that is wrong: a JSON pointer and a sentence."""

    pointer: str
    detail: str


class ProximaError(Exception):
    """The root. `detail` says what happened and what to do about it."""

    code: ClassVar[str] = "internal"
    title: ClassVar[str] = "Something went wrong on our side"

    def __init__(self, detail: str, faults: Sequence[Fault] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.faults = tuple(faults)


class Malformed(ProximaError):
    code = "malformed_json"
    title = "The body is not strict JSON"


class Unauthenticated(ProximaError):
    code = "unauthenticated"
    title = "A valid key is needed"


class Forbidden(ProximaError):
    code = "missing_scope"
    title = "The key lacks a scope"


class NotFound(ProximaError):
    code = "not_found"
    title = "There is nothing here"


class UnknownCourse(NotFound):
    code = "unknown_course"
    title = "Unknown course"


class UnknownItem(NotFound):
    code = "unknown_item"
    title = "Unknown item"


class UnknownSkill(NotFound):
    code = "unknown_skill"
    title = "Unknown skill"


class UnknownLearner(NotFound):
    code = "unknown_learner"
    title = "Unknown learner"


class UnknownResponse(NotFound):
    code = "unknown_response"
    title = "Unknown response"


class UnknownRecommendation(NotFound):
    code = "unknown_recommendation"
    title = "Unknown recommendation"


class UnknownCalibration(NotFound):
    code = "unknown_calibration"
    title = "Unknown calibration"


class UnknownWebhook(NotFound):
    code = "unknown_webhook"
    title = "Unknown webhook"


class UnknownSession(NotFound):
    code = "unknown_session"
    title = "Unknown session"


class UnknownSection(NotFound):
    code = "unknown_section"
    title = "Unknown section"


class Conflict(ProximaError):
    code = "conflict"
    title = "The id is taken by other content"


class ResponseVoided(Conflict):
    code = "response_voided"
    title = "The response was voided"


class NotOffered(Conflict):
    code = "not_offered"
    title = "The item was not offered"


class SessionFinished(Conflict):
    code = "session_finished"
    title = "The session is over"


class CalibrationNotReady(Conflict):
    code = "calibration_not_ready"
    title = "The calibration cannot be activated"


class CalibrationRunning(Conflict):
    code = "calibration_running"
    title = "A calibration of this course is running"


class CalibrationWorse(Conflict):
    code = "calibration_worse"
    title = "The calibration predicts worse than the one before"


class NothingToCalibrate(Conflict):
    code = "nothing_to_calibrate"
    title = "The course has too few responses"


class TooManyWebhooks(Conflict):
    code = "too_many_webhooks"
    title = "Too many webhooks"


class TooSlow(ProximaError):
    code = "too_slow"
    title = "The body came too slowly"


class TooLarge(ProximaError):
    code = "too_large"
    title = "The body is too large"


class HeaderTooLarge(ProximaError):
    code = "header_too_large"
    title = "The header of the request is too large"


class UnsupportedMediaType(ProximaError):
    code = "unsupported_media_type"
    title = "The body must be plain application/json"


class NotAcceptable(ProximaError):
    code = "not_acceptable"
    title = "The reply cannot be given in that form"


class MethodNotAllowed(ProximaError):
    code = "method_not_allowed"
    title = "The method is not allowed here"


class Invalid(ProximaError):
    code = "invalid"
    title = "The request is invalid"


class PrerequisiteCycle(Invalid):
    code = "prerequisite_cycle"
    title = "The prerequisites form a cycle"


class InvalidScore(Invalid):
    code = "invalid_score"
    title = "The score is not one this item can have"


class OccurredInFuture(Invalid):
    code = "occurred_in_future"
    title = "The answer lies in the future"


class InvalidCursor(Invalid):
    code = "invalid_cursor"
    title = "The cursor is not one of ours"


class InvalidFile(Invalid):
    code = "invalid_file"
    title = "The file cannot be imported"


class RateLimited(ProximaError):
    """`retry_after` are the seconds until there is a new quota."""

    code = "rate_limited"
    title = "A quota is used up"

    def __init__(self, detail: str, retry_after: int = 60) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class TooManyFailures(RateLimited):
    code = "too_many_failures"
    title = "Too many keys were not valid"


class Unavailable(ProximaError):
    code = "database_unavailable"
    title = "The database does not answer"


class Overloaded(Unavailable):
    code = "overloaded"
    title = "Too much is waiting"


class Stopping(Unavailable):
    code = "stopping"
    title = "The service is about to stop"


class InvalidSetting(ProximaError):
    code = "invalid_setting"
    title = "A setting is wrong"


class NotMigrated(ProximaError):
    code = "not_migrated"
    title = "The database is not at the version of this program"
