"""Answers as they are sent, and their outcomes."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from app.schemas.common import (
    LARGEST_SCORE,
    Absent,
    Identifier,
    Moment,
    Probability,
    Reason,
    Reply,
    Request,
    Timestamp,
    examples,
    to_whole_number,
)
from app.schemas.options import NextIn
from app.schemas.problems import Problem

MAX_BATCH = 1000
LONGEST_MS = 366 * 24 * 3600 * 1000

# Exactly one of `correct` and `score`, as the validator below says it.
ONE_RESULT: list[JsonValue] = [
    {"required": ["correct"], "properties": {"correct": {"type": "boolean"}, "score": {"type": "null"}}},
    {"required": ["score"], "properties": {"score": {"type": "number"}, "correct": {"type": "null"}}},
]


# What an answer of a batch may be: anything, but only this one is recorded.
BATCH_ITEM: JsonValue = {
    "anyOf": [
        {"$ref": "#/components/schemas/ResponseIn"},
        {"description": "anything else is not recorded; its result has the status `invalid`"},
    ]
}

# Nobody means −0 by it, and the database does not keep it.
Score = Annotated[float, Field(ge=0, le=LARGEST_SCORE), AfterValidator(lambda score: score + 0.0)]


class ResponseIn(Request):
    """One answer of one learner."""

    model_config = examples(
        {"id": "r-1", "learner": "ann", "item": "i1", "correct": True},
        {"learner": "ann", "item": "i2", "score": 0.5, "occurred_at": "2026-11-22T09:00:00Z", "duration_ms": 21_500},
        oneOf=ONE_RESULT,
    )

    id: Identifier | None = Field(default=None, description="yours, to retry safely; made if absent")
    learner: Identifier
    item: Identifier
    correct: bool | None = Field(default=None, description="short for all or nothing")
    score: Score | None = Field(default=None, description="from 0 to the item's max_score; whole if it is graded")
    occurred_at: Moment | None = Field(
        default=None, description="when it was given, at most five minutes ahead; if absent: now"
    )
    duration_ms: Annotated[int, Field(ge=0, le=LONGEST_MS), BeforeValidator(to_whole_number)] | None = None
    recommendation: Identifier | None = Field(default=None, description="the id of the recommendation that led to it")
    next: NextIn | None = Field(default=None, description="what is wanted of the exercise that follows")

    @model_validator(mode="after")
    def _one_result(self) -> "ResponseIn":
        if (self.correct is None) == (self.score is None):
            raise ValueError("give either correct or score")
        return self


class BatchIn(Request):
    """Up to 1,000 answers. Each is checked on its own: one that is not valid does not stop the others."""

    model_config = examples({"responses": [{"id": "r-2", "learner": "ann", "item": "i2", "score": 1}]})

    responses: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH, json_schema_extra={"items": BATCH_ITEM})]


class VoidIn(Request):
    """Why an answer should count as never given."""

    model_config = examples({"reason": "the exercise was shown with the wrong picture"})

    reason: Reason


class RegradeIn(Request):
    """The score that an answer should have had, and why."""

    model_config = examples({"score": 1, "reason": "a second right answer was found"})

    score: Score
    reason: Reason


class Ability(Reply):
    """θ with its standard error, in logits."""

    theta: Annotated[float, Field(ge=-6, le=6)]
    standard_error: Annotated[float, Field(ge=0)]
    at_bound: Literal[True] | Absent = Field(default=None, description="only where the scale ended")


class SkillMastery(Reply):
    """P(known) of one skill."""

    skill: str
    mastery: Probability
    interval: Annotated[list[Probability], Field(min_length=2, max_length=2, description="90 %")]
    responses: int = Field(ge=0, description="responses to items that need this skill")
    status: Literal["insufficient", "developing", "mastered", "decayed"]
    stuck: Literal[True] | Absent = Field(
        default=None, description="only where eight answers in a row left it more likely unknown than known"
    )


class SkillChange(SkillMastery):
    """P(known) of one skill after an answer."""

    change: Annotated[float, Field(ge=-1, le=1, description="what this answer changed")]


class ReasonOut(Reply):
    """A reason: a stable code, a plain sentence, and the terms that were weighed."""

    code: str
    text: str
    terms: dict[str, float] | Absent = Field(default=None, description="only of an exercise that was weighed")
    filter: str | Absent = Field(default=None, description="the option that excluded the item, or every item")
    rank: int | Absent = Field(default=None, description="only where a place in an order decided: which, from 1")
    of: int | Absent = Field(default=None, description="only with rank: how many there were")


class RecommendedItem(Reply):
    """An exercise that would come next."""

    item: str
    skill: str | None
    p_correct: Probability
    reason: ReasonOut


class RecommendationOut(RecommendedItem):
    """An exercise to do next."""

    id: str
    expires_at: Timestamp | Absent = Field(default=None, description="only of an offer: until when it holds")
    if_correct: RecommendedItem | None = Field(
        default=None, description="only if prefetched; null: nothing would follow"
    )
    if_wrong: RecommendedItem | None = Field(default=None, description="only if prefetched; null: nothing would follow")


class NotChosen(Reply):
    """An exercise that was asked about, and why it is not recommended; with its own terms, if it was weighed."""

    item: str
    skill: str | None = Field(default=None, description="the skill that is spoken of, if it was weighed")
    p_correct: Probability | Absent = None
    reason: ReasonOut


class Forecast(Reply):
    """How many exercises are left to the goal."""

    exercises: Annotated[float, Field(ge=0, description="the mean")]
    interval: Annotated[list[int], Field(min_length=2, max_length=2, description="90 %")]


class OfferMatch(Reply):
    """Whether an answer fits the recommendation it names."""

    matches: bool = Field(description="whether it is an answer to the item that was offered")
    expired: bool = Field(description="whether it was given after the offer had ended")


class ResponseOut(Reply):
    """The answer as it was stored."""

    id: str
    learner: str
    item: str
    score: float
    occurred_at: Timestamp
    position: int = Field(ge=1, description="its place in the learner's log, in the order of arrival")


class ResponseOutcome(Reply):
    """What one answer did."""

    response: ResponseOut
    p_correct: Probability = Field(description="predicted before the answer")
    ability: Ability
    mastery: list[SkillChange] = Field(description="the skills of the item")
    next: RecommendationOut | None
    calibration: str | None
    reason: ReasonOut | Absent = Field(default=None, description="only where next is null: why")
    offer: OfferMatch | Absent = Field(default=None, description="only where a recommendation was named")
    suspect: Literal[True] | Absent = Field(
        default=None, description="only where the calibration suspects the item: the answer moved no number"
    )
    rapid: Literal[True] | Absent = Field(
        default=None, description="only where the answer came too fast to be thought about: it moved no number"
    )
    forecast: Forecast | None = Field(default=None, description="only if asked for; null: no end can be predicted")
    why_not: list[NotChosen] | Absent = Field(default=None, description="only if asked")


class BatchRecorded(ResponseOutcome):
    """An answer of a batch that is in the log: now, or since an earlier request."""

    status: Literal["created", "duplicate"]


class BatchRefused(Reply):
    """An answer of a batch that is not in the log, and why."""

    status: Literal["conflict", "invalid"]
    error: Problem


class BatchOut(Reply):
    """One result for each answer, in order."""

    results: list[BatchRecorded | BatchRefused]
