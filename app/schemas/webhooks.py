"""Webhooks as they are made and listed, and the calls they get."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from app.schemas.common import Identifier, Page, Probability, Reply, Request, Timestamp, examples

WEBHOOK_ID = r"^wh-[0-9a-f]{16}$"
MOST_EVENTS = 20

EventType = Literal["skill.mastered", "learner.stuck", "calibration.finished", "response.corrected"]
Url = Annotated[str, StringConstraints(max_length=2000, strict=True, pattern=r"^https?://[!-~]+$")]


class WebhookIn(Request):
    """Where to call, and at what."""

    model_config = examples({"url": "https://lms.example.org/proxima", "events": ["skill.mastered"]})

    url: Url = Field(description="https, at a public address")
    events: Annotated[list[EventType], Field(min_length=1, max_length=MOST_EVENTS)]
    course: Identifier | None = Field(default=None, description="the events of this course only; if absent: of all")


class WebhookBase(Reply):
    """The fields of every reply about a webhook."""

    id: str
    url: str
    events: list[EventType]
    course: str | None
    created_at: Timestamp


class WebhookMade(WebhookBase):
    """A new webhook."""

    secret: str = Field(description="signs the calls; it is shown this once")


class Failure(Reply):
    """An attempt that failed."""

    at: Timestamp
    reason: str


class WebhookOut(WebhookBase):
    """A webhook, and how its calls fare."""

    pending: int = Field(description="calls that are still to be made, or made again")
    failed: int = Field(description="calls that were tried for three days and not accepted; stored for 30 days")
    last_failure: Failure | None = Field(description="the last attempt that failed, of the calls not yet taken")


class WebhookPage(Page):
    """Webhooks by id."""

    data: list[WebhookOut]


class SkillMasteredData(Reply):
    course: str
    learner: str
    skill: str
    mastery: Probability
    response: str = Field(description="the id of the answer with which it was mastered")
    position: int = Field(description="the place of the answer in the learner's log")


class LearnerStuckData(Reply):
    course: str
    learner: str
    skill: str
    mastery: Probability
    response: str = Field(description="the id of the answer after which no progress was seen")
    position: int = Field(description="the place of the answer in the learner's log")


class LearnerStuck(Reply):
    """Practice makes no progress: eight answers in a row left a skill more likely unknown than known."""

    type: Literal["learner.stuck"]
    timestamp: Timestamp = Field(description="when the answer came in")
    data: LearnerStuckData


class SkillMastered(Reply):
    """A learner has mastered a skill with an answer: for the first time, or again after it had decayed."""

    type: Literal["skill.mastered"]
    timestamp: Timestamp = Field(description="when the answer came in")
    data: SkillMasteredData


class CalibrationFinishedData(Reply):
    course: str
    calibration: str
    status: Literal["succeeded", "failed"]


class CalibrationFinished(Reply):
    """A calibration has ended; its report is at `GET …/calibrations/{calibration}`."""

    type: Literal["calibration.finished"]
    timestamp: Timestamp
    data: CalibrationFinishedData


class ResponseCorrectedData(Reply):
    course: str
    learner: str
    response: str
    kind: Literal["void", "regrade"]
    score: float | None = Field(description="the new score; null for a void")
    position: int = Field(description="the place of the correction in the learner's log")


class ResponseCorrected(Reply):
    """An answer was voided or regraded, and the learner replayed: read the mastery again."""

    type: Literal["response.corrected"]
    timestamp: Timestamp
    data: ResponseCorrectedData
