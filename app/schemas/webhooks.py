"""Webhooks as they are made and listed, and the calls they get."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field, JsonValue, StringConstraints

from app.schemas.common import Identifier, Page, Probability, Reply, Request, Timestamp, examples
from app.schemas.responses import COURSE, LEARNER

WEBHOOK_ID = r"^wh-[0-9a-f]{16}$"
MOST_EVENTS = 20

EventType = Literal["skill.mastered", "learner.stuck", "calibration.finished", "response.corrected"]
Url = Annotated[str, StringConstraints(max_length=2000, strict=True, pattern=r"^https?://[!-~]+$")]


class WebhookIn(Request):
    """Where to call, and at what."""

    model_config = examples({"url": "https://lms.example.org/proxima", "events": ["skill.mastered"]})

    url: Url = Field(description="https, at a public address")
    events: Annotated[list[EventType], Field(min_length=1, max_length=MOST_EVENTS)] = Field(
        description="the events at which to be called"
    )
    course: Identifier | None = Field(default=None, description="the events of this course only; if absent: of all")


class WebhookBase(Reply):
    """The fields of every reply about a webhook."""

    id: str = Field(description="`wh-` and 16 digits; with it the webhook is deleted")
    url: str = Field(description="the address that calls go to")
    events: list[EventType] = Field(description="the events at which it is called")
    course: str | None = Field(description="the only course whose events it gets; null: those of all")
    created_at: Timestamp = Field(description="when it was made; earlier events are not told")


class WebhookMade(WebhookBase):
    """A new webhook."""

    secret: str = Field(description="signs the calls; it is shown this once")


class Failure(Reply):
    """An attempt that failed."""

    at: Timestamp = Field(description="when it was tried")
    reason: str = Field(description="why the call was not taken, in words")


class WebhookOut(WebhookBase):
    """A webhook, and how its calls fare."""

    pending: int = Field(description="calls that are still to be made, or made again")
    failed: int = Field(description="calls that were tried for three days and not accepted; stored for 30 days")
    last_failure: Failure | None = Field(description="the last attempt that failed, of the calls not yet taken")


class WebhookPage(Page):
    """Webhooks by id."""

    data: list[WebhookOut] = Field(description="the webhooks, by id")


MOMENT = "2026-11-22T09:00:00.000000Z"
EVENT = Field(description="which event this is; a receiver passes over those it does not know")
CALLED_AT = Field(description="when it happened; a call that comes again has the same")
LOG_POSITION = Field(ge=1, description="the place in the learner's log")


def _skill_event(type_: str, mastery: float) -> dict[str, JsonValue]:
    """A call about a skill, as an example."""
    answer: dict[str, JsonValue] = {"response": "b-4", "position": 4}
    data: dict[str, JsonValue] = {"course": "fractions", "learner": "ben", "skill": "borrow-from-whole"}
    return {"type": type_, "timestamp": MOMENT, "data": {**data, "mastery": mastery, **answer}}


class SkillEvent(Reply):
    """A skill of a learner, and the answer after which there was something to tell of it."""

    course: str = COURSE
    learner: str = LEARNER
    skill: str = Field(description="the id of the skill")
    mastery: Probability = Field(description="the probability that the learner knew it after the answer")
    response: str = Field(description="the id of the answer")
    position: int = LOG_POSITION


class SkillMastered(Reply):
    """A learner has mastered a skill with an answer: for the first time, or again after it had decayed."""

    model_config = ConfigDict(json_schema_extra={"examples": [_skill_event("skill.mastered", 0.972)]})

    type: Literal["skill.mastered"] = EVENT
    timestamp: Timestamp = CALLED_AT
    data: SkillEvent = Field(description="the skill, and the answer with which it was mastered")


class LearnerStuck(Reply):
    """Practice makes no progress: eight answers in a row left a skill more likely unknown than known."""

    model_config = ConfigDict(json_schema_extra={"examples": [_skill_event("learner.stuck", 0.214)]})

    type: Literal["learner.stuck"] = EVENT
    timestamp: Timestamp = CALLED_AT
    data: SkillEvent = Field(description="the skill, and the answer after which no progress was seen")


class CalibrationEvent(Reply):
    """Which calibration ended, and how."""

    course: str = COURSE
    calibration: str = Field(description="the id of the calibration, such as `c-2`")
    status: Literal["succeeded", "failed"] = Field(description="how it ended")


class CalibrationFinished(Reply):
    """A calibration has ended; its report is at `GET …/calibrations/{calibration}`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "calibration.finished",
                    "timestamp": MOMENT,
                    "data": {"course": "fractions", "calibration": "c-2", "status": "succeeded"},
                }
            ]
        }
    )

    type: Literal["calibration.finished"] = EVENT
    timestamp: Timestamp = CALLED_AT
    data: CalibrationEvent = Field(description="which one, and how it ended")


class CorrectionEvent(Reply):
    """Which answer was corrected, and how."""

    course: str = COURSE
    learner: str = LEARNER
    response: str = Field(description="the id of the answer")
    kind: Literal["void", "regrade"] = Field(description="`void`: as never given; `regrade`: another score")
    score: float | None = Field(description="the new score; null for a void")
    position: int = LOG_POSITION


class ResponseCorrected(Reply):
    """An answer was voided or regraded, and the learner replayed: read the mastery again."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "response.corrected",
                    "timestamp": MOMENT,
                    "data": {
                        "course": "fractions",
                        "learner": "ben",
                        "response": "b-1",
                        "kind": "regrade",
                        "score": 0.5,
                        "position": 7,
                    },
                }
            ]
        }
    )

    type: Literal["response.corrected"] = EVENT
    timestamp: Timestamp = CALLED_AT
    data: CorrectionEvent = Field(description="which answer, and what it counts now")
