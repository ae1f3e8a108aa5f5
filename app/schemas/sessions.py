"""Adaptive tests: their requests and replies."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, model_validator

from app.schemas.catalogue import check_unique, first_duplicate
from app.schemas.common import (
    LARGEST_SCORE,
    Absent,
    Identifier,
    Label,
    Moment,
    Page,
    Probability,
    Reply,
    Request,
    Timestamp,
    examples,
    to_whole_number,
)
from app.schemas.options import DESCRIPTIONS, Language
from app.schemas.responses import LONGEST_MS, ONE_RESULT, Ability, ReasonOut, Score, SkillMastery
from app.texts import FALLBACK

MOST_ITEMS = 1000
MOST_GROUPS = 50
MOST_SCALES = 5
DAY_S = 86_400
LONGEST_LIFE_S = 365 * DAY_S
# What JavaScript and JSON keep exactly.
LARGEST_SEED = 2**53 - 1

Items = Annotated[list[Identifier], AfterValidator(check_unique), Field(max_length=MOST_ITEMS)]
Theta = Annotated[float, Field(ge=-6, le=6)]
Share = Annotated[float, Field(gt=0, le=1)]
WholeNumber = BeforeValidator(to_whole_number)
Count = Annotated[int, Field(ge=1, le=MOST_ITEMS), WholeNumber]
CountOrNone = Annotated[int, Field(ge=0, le=MOST_ITEMS), WholeNumber]
Risk = Annotated[float, Field(gt=0, lt=0.5)]

ONE_GROUP: JsonValue = [
    {"required": [name], "properties": {other: {"type": "null"} for other in ("skill", "tag", "kind") if other != name}}
    for name in ("skill", "tag", "kind")
]


class ItemGroup(Request):
    """The items that ask for a skill, have a tag, or are of a kind: exactly one of the three."""

    skill: Identifier | None = None
    tag: Label | None = None
    kind: Label | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.skill, self.tag, self.kind)) != 1:
            raise ValueError("give exactly one of skill, tag and kind")
        return self


class Scale(ItemGroup):
    """One of several abilities, and the items that measure it."""

    id: Label


def check_distinct_scales(scales: list[Scale]) -> list[Scale]:
    """Scales of which each has an id of its own."""
    if first_duplicate(scale.id for scale in scales) is not None:
        raise ValueError("must not have two scales of the same id")
    return scales


Scales = Annotated[list[Scale], AfterValidator(check_distinct_scales), Field(min_length=1, max_length=MOST_SCALES)]


class ContentShare(ItemGroup):
    """The share of the test that these items should have."""

    share: Annotated[float, Field(ge=0, le=100)]


class Constraint(ItemGroup):
    """How many of these items a test has, at least and at most."""

    min: CountOrNone = 0
    max: Count = MOST_ITEMS


class Prior(Request):
    """What is known of the ability beforehand: a normal distribution, for every scale."""

    mean: Theta = 0.0
    sd: Annotated[float, Field(ge=0.1, le=10)] = 1.0


class PoolFilter(Request):
    """Which items of the course the test draws on: those that fit all lists that are given."""

    items: Annotated[Items, Field(min_length=1)] | None = None
    skills: Annotated[list[Identifier], Field(min_length=1, max_length=MOST_GROUPS)] | None = None
    tags: Annotated[list[Label], Field(min_length=1, max_length=MOST_GROUPS)] | None = None
    kinds: Annotated[list[Label], Field(min_length=1, max_length=MOST_GROUPS)] | None = None


class Pilot(Request):
    """Items that are tried out: they are answered, and do not count. They need no parameters."""

    items: Annotated[Items, Field(min_length=1)]
    positions: Annotated[list[Count], AfterValidator(check_unique), Field(min_length=1, max_length=50)] = Field(
        description="the positions in the test, from 1, at which one of them comes"
    )


class Selection(Request):
    """How the next item is chosen."""

    rule: Literal["max_information", "min_expected_posterior_variance", "kullback_leibler", "random"] = (
        "max_information"
    )
    randomesque: Annotated[int, Field(ge=1, le=50), WholeNumber] = Field(
        default=1, description="chance decides among so many of the best"
    )
    exposure_control: bool = Field(default=False, description="heed the `exposure` of the items (Sympson & Hetter)")
    max_exposure: Share | None = Field(
        default=None, description="leave out items that more than this share of the course's latest sessions had"
    )
    content: Annotated[list[ContentShare], Field(min_length=1, max_length=MOST_GROUPS)] | None = Field(
        default=None, description="target shares, in any unit"
    )
    constraints: Annotated[list[Constraint], Field(min_length=1, max_length=MOST_GROUPS)] | None = Field(
        default=None, description="hard bounds, met by shadow tests; the test then has max_items items"
    )
    enemies: Annotated[list[Annotated[Items, Field(min_length=2)]], Field(max_length=MOST_ITEMS)] | None = Field(
        default=None, description="sets of items of which a test has one at most"
    )
    first: Annotated[Items, Field(max_length=50)] | None = Field(
        default=None, description="the test begins with these, in this order"
    )
    pilot: Pilot | None = None


class ClassificationRule(Request):
    """Stop as soon as it is clear on which side of each cut score the ability lies."""

    cuts: Annotated[list[Theta], AfterValidator(check_unique), Field(min_length=1, max_length=10)]
    method: Literal["interval", "sprt"] = "interval"
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = Field(default=0.95, description="of the interval")
    alpha: Risk = Field(default=0.05, description="sprt: the probability of placing a learner too high")
    beta: Risk = Field(default=0.05, description="sprt: the probability of placing a learner too low")
    delta: Annotated[float, Field(gt=0, le=2)] = Field(default=0.2, description="sprt: half the indifference region")


class Stop(Request):
    """When the test ends: as soon as one of these holds, but not before `min_items`. One at least is needed."""

    standard_error: Annotated[float, Field(ge=0.05, le=3)] | None = None
    standard_error_change: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="the last answer changed the standard error by less"
    )
    classification: ClassificationRule | None = None
    max_items: Count | None = None
    min_items: Count = 1
    max_seconds: Annotated[int, Field(ge=1, le=LONGEST_LIFE_S), WholeNumber] | None = None

    @model_validator(mode="after")
    def _sound(self) -> Self:
        ends = (self.standard_error, self.standard_error_change, self.classification, self.max_items, self.max_seconds)
        if all(end is None for end in ends):
            raise ValueError(
                "give standard_error, standard_error_change, classification, max_items or max_seconds, or it never ends"
            )
        return self


class SessionIn(Request):
    """An adaptive test of one person."""

    model_config = examples(
        {"stop": {"standard_error": 0.3, "max_items": 30}},
        {"id": "t-1", "learner": "ann", "stop": {"max_items": 2}, "selection": {"rule": "random"}, "seed": 7},
    )

    id: Identifier | None = Field(default=None, description="yours, to retry safely; made if absent")
    learner: Identifier | None = Field(default=None, description="who is tested; a test may be anonymous")
    stop: Stop
    selection: Selection = Selection()
    pool: PoolFilter = PoolFilter()
    scales: Scales | None = Field(
        default=None, description="several abilities, each measured by its own items; one of all items if absent"
    )
    prior: Prior = Prior()
    prior_from_practice: bool = Field(
        default=False, description="take the learner's ability in practice as the prior, instead of `prior`"
    )
    updates_mastery: bool = Field(
        default=False, description="every answer that counts is recorded as an answer of the learner in the course too"
    )
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED), WholeNumber] | None = Field(
        default=None, description="fixes what is left to chance; drawn if absent"
    )
    lifetime_s: Annotated[int, Field(ge=60, le=LONGEST_LIFE_S), WholeNumber] = Field(
        default=DAY_S, description="how long after the last answer it can be gone on with"
    )
    language: Language | None = Field(default=None, description=f"{DESCRIPTIONS['language']}; default {FALLBACK}")


class SessionResponseIn(Request):
    """The answer to the item that is offered."""

    model_config = examples({"id": "a-1", "item": "i2", "correct": True}, oneOf=ONE_RESULT)

    id: Identifier | None = Field(default=None, description="yours, to retry safely; made if absent")
    item: Identifier
    correct: bool | None = Field(default=None, description="short for all or nothing")
    score: Annotated[Score, Field(le=LARGEST_SCORE)] | None = Field(
        default=None, description="from 0 to the item's max_score"
    )
    occurred_at: Moment | None = Field(default=None, description="when it was given; if absent: now")
    duration_ms: Annotated[int, Field(ge=0, le=LONGEST_MS), WholeNumber] | None = None

    @model_validator(mode="after")
    def _one_result(self) -> Self:
        if (self.correct is None) == (self.score is None):
            raise ValueError("give either correct or score")
        return self


class ScaleAbility(Ability):
    """θ of one of several scales."""

    scale: str


class SelectionReason(ReasonOut):
    """Why an item was chosen, and which parts of the plan could not be met."""

    relaxed: list[Literal["max_exposure", "content_shares", "bounds"]] | Absent = None


class SessionNext(Reply):
    """The item to answer now."""

    item: str
    skill: str | None
    scored: bool = Field(description="false for an item that is tried out")
    p_correct: Probability | None = Field(
        description="the expected score at the ability so far, as a fraction; null for an item that is tried out"
    )
    propensity: Probability = Field(description="the chance this item had to be chosen")
    reason: SelectionReason


class SessionResponseOut(Reply):
    """The answer as it was stored."""

    id: str
    item: str
    score: float
    scored: bool
    occurred_at: Timestamp
    position: int = Field(ge=1)


class CutOut(Reply):
    """On which side of a cut score the ability lies, and how probable that is."""

    cut: float
    above: bool
    probability: Probability = Field(description="that the ability is above it")
    decided: bool = Field(description="whether the rule has decided")
    scale: str | Absent = Field(default=None, description="only where there are several")


class SessionState(Reply):
    """Where a test stands."""

    status: Literal["open", "finished", "expired"]
    position: int = Field(ge=0, description="how many answers there are")
    ability: Ability | None = Field(description="null where there are several scales")
    abilities: list[ScaleAbility] | Absent = Field(default=None, description="only where there are several scales")
    next: SessionNext | None
    stop: ReasonOut | None = Field(description="why it ended; null while it goes on")
    classification: list[CutOut] | Absent = Field(default=None, description="only where there are cut scores")


class SessionOutcome(SessionState):
    """What one answer did."""

    response: SessionResponseOut


class SessionStep(SessionResponseOut):
    """An answer, and what was known after it."""

    ability: Ability | None
    abilities: list[ScaleAbility] | Absent = None


class SessionOut(SessionState):
    """A test as a whole."""

    id: str
    course: str
    learner: str | None
    seed: int
    calibration: str | None
    revision: int = Field(description="of the catalogue; the test stays with it to its end")
    started_at: Timestamp
    expires_at: Timestamp
    responses: list[SessionStep]
    mastery: list[SkillMastery] = Field(description="the skills of the answered items, by these answers alone")


class SessionListed(Reply):
    """A test in a list."""

    id: str
    learner: str | None
    status: Literal["open", "finished", "expired"]
    position: int
    started_at: Timestamp


class SessionPage(Page):
    """Tests by id."""

    data: list[SessionListed]
