"""Answers as they are sent, and their outcomes."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from app.adaptive.practice.branches import ALL_MASTERED, CODES, GOAL_REACHED, NOTHING_ELIGIBLE
from app.adaptive.practice.explain import EXPLANATION_CODES
from app.schemas.common import (
    LARGEST_SCORE,
    Absent,
    Identifier,
    Moment,
    OneOf,
    Probability,
    Reason,
    Reply,
    Request,
    Timestamp,
    examples,
    to_whole_number,
    words,
)
from app.schemas.options import NextIn
from app.schemas.problems import Problem

MAX_BATCH = 1000
LONGEST_MS = 366 * 24 * 3600 * 1000

# Nobody means −0 by it, and the database does not keep it.
Score = Annotated[float, Field(ge=0, le=LARGEST_SCORE), AfterValidator(lambda score: score + 0.0)]
Duration = Annotated[int, Field(ge=0, le=LONGEST_MS), BeforeValidator(to_whole_number)]

NONE_CODES = tuple(CODES[code] for code in (ALL_MASTERED, NOTHING_ELIGIBLE, GOAL_REACHED))
CHOICE_CODES = tuple(code for code in CODES if code not in NONE_CODES)
FILTERS = ("skill", "tag", "kind", "goal", "avoid", "repeat_after", "repeat_after_days")

# What more than one schema says in the same words.
LEARNER = Field(description="the id of the learner, as your system names them")
COURSE = Field(description="the id of the course")
ITEM = Field(description="the id of the item in the catalogue")
CORRECT = "all or nothing: true is the item's max_score, false is 0"
CALIBRATION = Field(description="the calibration these numbers come from; null: the defaults, as none is in force")
SENTENCE = Field(description="the same for people: one plain sentence in the language that was asked for")
OWN_ID = "yours, to retry safely: an answer counts once, however often it is sent; made if absent"
STORED_AS_SCORE = Field(ge=0, description="the points it counts with, from 0 to the item's max_score")


class _ResponseFields(Request):
    """What every answer has beside its result."""

    id: Identifier | None = Field(default=None, description=OWN_ID)
    learner: Identifier = Field(description="who answered; a learner never seen before is created")
    item: Identifier = Field(description="the item of the catalogue that was answered")
    occurred_at: Moment | None = Field(
        default=None, description="when it was given, at most five minutes ahead; if absent: now"
    )
    duration_ms: Duration | None = Field(
        default=None, description="how long the learner took, in milliseconds; answers given too fast move no number"
    )
    recommendation: Identifier | None = Field(default=None, description="the id of the recommendation that led to it")
    next: NextIn | None = Field(default=None, description="what is wanted of the exercise that follows")


class ResponseWithCorrect(_ResponseFields):
    """One answer of one learner that was right or wrong."""

    correct: bool = Field(description=CORRECT)
    score: None = Field(default=None, description="not beside `correct`")


class ResponseWithScore(_ResponseFields):
    """One answer of one learner that earned points."""

    correct: None = Field(default=None, description="not beside `score`")
    score: Score = Field(description="the points, from 0 to the item's max_score; whole if the item is graded")


def check_one_result(correct: bool | None, score: float | None) -> None:  # noqa: FBT001 (the fields of a body)
    """Raise `ValueError` unless an answer has exactly one of both."""
    if (correct is None) == (score is None):
        raise ValueError("give either correct or score")


class ResponseIn(_ResponseFields, OneOf):
    """One answer of one learner."""

    model_config = examples(
        {"id": "r-1", "learner": "ann", "item": "i1", "correct": True},
        {"learner": "ann", "item": "i2", "score": 0.5, "occurred_at": "2026-11-22T09:00:00Z", "duration_ms": 21_500},
    )
    forms = (ResponseWithCorrect, ResponseWithScore)

    correct: bool | None = None
    score: Score | None = None

    @model_validator(mode="after")
    def _one_result(self) -> "ResponseIn":
        check_one_result(self.correct, self.score)
        return self


class BatchIn(Request):
    """Up to 1,000 answers. Each is checked on its own: one that is not valid does not stop the others."""

    model_config = examples({"responses": [{"id": "r-2", "learner": "ann", "item": "i2", "score": 1}]})

    # Read one by one, so that each has a result of its own.
    responses: Annotated[list[Any], Field(min_length=1, max_length=MAX_BATCH)] = Field(
        description="the answers; those without a time of their own count in this order",
        json_schema_extra={"items": {"$ref": "#/components/schemas/ResponseIn"}},
    )


class VoidIn(Request):
    """Why an answer should count as never given."""

    model_config = examples({"reason": "the exercise was shown with the wrong picture"})

    reason: Reason = Field(description="why; stored with the correction, for those who read the log later")


class RegradeIn(Request):
    """The score that an answer should have had, and why."""

    model_config = examples({"score": 1, "reason": "a second right answer was found"})

    score: Score = Field(description="the points it should have had, from 0 to the item's max_score")
    reason: Reason = Field(description="why; stored with the correction, for those who read the log later")


class Ability(Reply):
    """θ with its standard error, in logits."""

    theta: Annotated[float, Field(ge=-6, le=6)] = Field(description="θ in logits; 0 is the average of the course")
    standard_error: Annotated[float, Field(ge=0)] = Field(
        description="how uncertain θ is, in logits: two of three learners lie within one of it"
    )
    at_bound: Literal[True] | Absent = Field(default=None, description="only where the scale ended")


class SkillMastery(Reply):
    """P(known) of one skill."""

    skill: str = Field(description="the id of the skill")
    mastery: Probability = Field(description="the probability that the learner knows it now")
    interval: tuple[Probability, Probability] = Field(
        description="from where to where the mastery lies with 90 % certainty"
    )
    responses: int = Field(ge=0, description="how many answers to items that need this skill count")
    status: Literal["insufficient", "developing", "mastered", "decayed"] = Field(
        description="the mastery in a word: too little is known, not yet, mastered, or mastered once and faded since"
    )
    stuck: Literal[True] | Absent = Field(
        default=None, description="only where eight answers in a row left it more likely unknown than known"
    )


class SkillChange(SkillMastery):
    """P(known) of one skill after an answer."""

    change: Annotated[float, Field(ge=-1, le=1, description="what this answer changed")]


Terms = dict[str, float]


class ChoiceReason(Reply):
    """Why this exercise: a stable code, a plain sentence, and the terms that were weighed."""

    code: Annotated[str, words(CHOICE_CODES)] = Field(description="why, for programs; a code keeps its meaning")
    text: str = SENTENCE
    terms: Terms | Absent = Field(
        default=None,
        description="what was weighed: need, unlocks, p_learn, difficulty_match, diagnosticity, delay, prerequisites",
    )


class NoneReason(Reply):
    """Why no exercise follows."""

    code: Annotated[str, words(NONE_CODES)] = Field(description="why, for programs; a code keeps its meaning")
    text: str = SENTENCE
    filter: Annotated[str, words(FILTERS)] | Absent = Field(
        default=None, description="the option that excluded the last items that were left"
    )


class NotChosenReason(Reply):
    """Why an exercise is not recommended."""

    code: Annotated[str, words((*EXPLANATION_CODES, "unknown_item", "recommended", "excluded"))] = Field(
        description="why, for programs; a code keeps its meaning"
    )
    text: str = SENTENCE
    terms: Terms | Absent = Field(
        default=None, description="what was weighed of it, under the names that a recommendation has; only if it was"
    )
    filter: Annotated[str, words(FILTERS)] | Absent = Field(
        default=None, description="the option that excluded the item"
    )
    rank: int | Absent = Field(default=None, description="only where a place in an order decided: which, from 1")
    of: int | Absent = Field(default=None, description="only with rank: how many there were")


class RecommendedItem(Reply):
    """An exercise that would come next."""

    item: str = ITEM
    skill: str | None = Field(description="the skill it is to practise; null for an item that asks for none")
    p_correct: Probability = Field(description="the chance that the learner gets it right")
    reason: ChoiceReason = Field(description="why it was chosen")


class RecommendationOut(RecommendedItem):
    """An exercise to do next."""

    id: str = Field(description="name it in the answer, as `recommendation`; that of a preview is only for show")
    expires_at: Timestamp | Absent = Field(default=None, description="only of an offer: until when it holds")
    if_correct: RecommendedItem | None = Field(
        default=None, description="only if prefetched: what follows full score; null: nothing would follow"
    )
    if_wrong: RecommendedItem | None = Field(
        default=None, description="only if prefetched: what follows score 0; null: nothing would follow"
    )


class NotChosen(Reply):
    """An exercise that was asked about, and why it is not recommended; with its own terms, if it was weighed."""

    item: str = Field(description="the id as it was asked about; perhaps of no item")
    skill: str | None = Field(default=None, description="the skill that is spoken of, if it was weighed")
    p_correct: Probability | Absent = Field(
        default=None, description="the chance that the learner would get it right, if it was weighed"
    )
    reason: NotChosenReason = Field(description="why another one comes first")


class Forecast(Reply):
    """How many exercises are left to the goal."""

    exercises: Annotated[float, Field(ge=0)] = Field(description="how many exercises on average")
    interval: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = Field(
        description="from how many to how many it is with 90 % certainty"
    )


class OfferMatch(Reply):
    """Whether an answer fits the recommendation it names."""

    matches: bool = Field(description="whether it is an answer to the item that was offered")
    expired: bool = Field(description="whether it was given after the offer had ended")


class ResponseOut(Reply):
    """The answer as it was stored."""

    id: str = Field(description="yours, or the one that was made")
    learner: str = LEARNER
    item: str = ITEM
    score: float = STORED_AS_SCORE
    occurred_at: Timestamp = Field(description="when it was given; when it came in, if nobody said")
    position: int = Field(ge=1, description="its place in the learner's log, in the order of arrival")


class ResponseOutcome(Reply):
    """What one answer did."""

    response: ResponseOut = Field(description="the answer as it was stored")
    p_correct: Probability = Field(description="the expected score as a fraction, predicted before the answer")
    ability: Ability = Field(description="how able the learner is now, beside the skills")
    mastery: list[SkillChange] = Field(description="the skills of the item, each as it is known after the answer")
    next: RecommendationOut | None = Field(description="the exercise that follows; null if there is none")
    calibration: str | None = CALIBRATION
    reason: NoneReason | Absent = Field(default=None, description="why nothing follows; only where next is null")
    offer: OfferMatch | Absent = Field(
        default=None, description="whether it fits the recommendation it named; only where it named one"
    )
    suspect: Literal[True] | Absent = Field(
        default=None, description="only where the calibration suspects the item: the answer moved no number"
    )
    rapid: Literal[True] | Absent = Field(
        default=None, description="only where the answer came too fast to be thought about: it moved no number"
    )
    forecast: Forecast | None = Field(
        default=None, description="how many exercises are left; only if asked for; null: no end can be predicted"
    )
    why_not: list[NotChosen] | Absent = Field(
        default=None, description="why the items that were asked about do not come next; only if asked"
    )


class BatchRecorded(ResponseOutcome):
    """An answer of a batch that is in the log: now, or since an earlier request."""

    status: Literal["created", "duplicate"] = Field(
        description="`created` now, or the `duplicate` of an answer sent earlier, with its first outcome"
    )


class BatchRefused(Reply):
    """An answer of a batch that is not in the log, and why."""

    status: Literal["conflict", "invalid"] = Field(
        description="`conflict`: its id has other content in the log; `invalid`: anything else that is wrong with it"
    )
    error: Problem = Field(description="the problem that the answer by itself would have got")


class BatchOut(Reply):
    """One result for each answer, in order."""

    results: list[BatchRecorded | BatchRefused] = Field(description="as many as answers were sent, in their order")
