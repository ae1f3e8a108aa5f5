"""Answers as they are sent, and their outcomes."""

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, JsonValue, model_validator

from app.schemas.common import Identifier, Moment, Probability, Reason, Reply, Request, Timestamp

MAX_BATCH = 1000
LONGEST_MS = 366 * 24 * 3600 * 1000

# Exactly one of `correct` and `score`, as the validator below says it.
ONE_RESULT: list[JsonValue] = [
    {"required": ["correct"], "properties": {"correct": {"type": "boolean"}, "score": {"type": "null"}}},
    {"required": ["score"], "properties": {"score": {"type": "number"}, "correct": {"type": "null"}}},
]


class ResponseIn(Request):
    """One answer of one learner."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": ONE_RESULT,
            "examples": [{"id": "r-1", "learner": "ann", "item": "i1", "correct": True}],
        }
    )

    id: Identifier | None = Field(default=None, description="yours, to retry safely; made if absent")
    learner: Identifier
    item: Identifier
    correct: bool | None = Field(default=None, description="short for all or nothing")
    score: Annotated[float, Field(ge=0)] | None = Field(default=None, description="from 0 to the item's max_score")
    occurred_at: Moment | None = Field(default=None, description="when it was given; the time of arrival if absent")
    duration_ms: Annotated[int, Field(ge=0, le=LONGEST_MS)] | None = None
    recommendation: Identifier | None = Field(default=None, description="the id of the recommendation that led to it")

    @model_validator(mode="after")
    def _one_result(self) -> "ResponseIn":
        if (self.correct is None) == (self.score is None):
            raise ValueError("give either correct or score")
        return self


class BatchIn(Request):
    """Up to 1,000 answers. Each is checked on its own: one that is not valid does not stop the others."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"responses": [{"id": "r-2", "learner": "ann", "item": "i2", "score": 1}]}]}
    )

    responses: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)]


class VoidIn(Request):
    """Why an answer should count as never given."""

    reason: Reason


class RegradeIn(Request):
    """The score that an answer should have had, and why."""

    score: Annotated[float, Field(ge=0)]
    reason: Reason


class Ability(Reply):
    """θ with its standard error, in logits."""

    theta: Annotated[float, Field(ge=-6, le=6)]
    standard_error: Annotated[float, Field(ge=0)]
    at_bound: bool | None = Field(default=None, description="true where the scale ended")


class SkillMastery(Reply):
    """P(known) of one skill."""

    skill: str
    mastery: Probability
    interval: Annotated[list[Probability], Field(min_length=2, max_length=2, description="90 %")]
    evidence: int = Field(description="answers on this skill")
    status: Literal["insufficient", "developing", "mastered", "decayed"]
    change: float | None = Field(default=None, description="what this answer changed")


class Why(Reply):
    """A reason: a stable code, a plain sentence, and the terms that were weighed."""

    code: str
    text: str
    terms: dict[str, float] | None = None


class RecommendationOut(Reply):
    """An exercise to do next."""

    id: str
    item: str
    skill: str | None
    p_correct: Probability
    reason: Why


class ResponseOut(Reply):
    """The answer as it was stored."""

    id: str
    learner: str
    item: str
    score: float
    occurred_at: Timestamp
    position: int = Field(description="its place in the learner's log, in the order of arrival")


class Outcome(Reply):
    """What one answer did."""

    response: ResponseOut
    p_correct: Probability = Field(description="predicted before the answer")
    ability: Ability
    mastery: list[SkillMastery]
    next: RecommendationOut | None
    calibration: str | None
    reason: Why | None = Field(default=None, description="only where next is null: why")


class BatchResult(Reply):
    """What became of one answer of a batch: an outcome, or the problem with it."""

    model_config = ConfigDict(extra="allow")

    status: Literal["created", "duplicate", "conflict", "invalid"]
    response: ResponseOut | None = None
    error: dict[str, Any] | None = None


class BatchOut(Reply):
    """One result for each answer, in order."""

    results: list[BatchResult]
