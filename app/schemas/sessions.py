"""Adaptive tests: their requests and replies."""

from typing import Annotated, Literal, Self, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from app.adaptive.cat import RULES
from app.adaptive.cat.stopping import Stop as StopCode
from app.schemas.catalogue import check_unique, first_duplicate
from app.schemas.common import (
    Absent,
    Identifier,
    Label,
    Moment,
    OneOf,
    Page,
    Probability,
    Reply,
    Request,
    Timestamp,
    examples,
    to_whole_number,
    words,
)
from app.schemas.options import DESCRIPTIONS, Language
from app.schemas.responses import (
    CALIBRATION,
    CORRECT,
    COURSE,
    ITEM,
    OWN_ID,
    SENTENCE,
    STORED_AS_SCORE,
    Ability,
    Duration,
    Score,
    SkillMastery,
    Terms,
    check_one_result,
)
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


class ItemGroup(Request):
    """The items that ask for a skill, have a tag, or are of a kind: exactly one of the three."""

    skill: Identifier | None = Field(default=None, description="the items that ask for this skill")
    tag: Label | None = Field(default=None, description="the items that have this tag in the catalogue")
    kind: Label | None = Field(default=None, description="the items that are of this kind in the catalogue")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(value is not None for value in (self.skill, self.tag, self.kind)) != 1:
            raise ValueError("give exactly one of skill, tag and kind")
        return self


class Scale(ItemGroup):
    """One of several abilities, and the items that measure it."""

    id: Label = Field(description="what the scale is called in the reply; each a different name")


def check_distinct_scales(scales: list[Scale]) -> list[Scale]:
    """Scales of which each has an id of its own."""
    if first_duplicate(scale.id for scale in scales) is not None:
        raise ValueError("must not have two scales of the same id")
    return scales


Scales = Annotated[list[Scale], AfterValidator(check_distinct_scales), Field(min_length=1, max_length=MOST_SCALES)]


class ContentShare(ItemGroup):
    """The share of the test that these items should have."""

    share: Annotated[float, Field(ge=0, le=100)] = Field(
        description="in any unit: what counts is its part of the sum of all shares"
    )


class Constraint(ItemGroup):
    """How many of these items a test has, at least and at most."""

    min: CountOrNone = Field(default=0, description="at least so many of them")
    max: Count = Field(default=MOST_ITEMS, description="at most so many of them; not less than `min`")


class Prior(Request):
    """What is known of the ability beforehand: a normal distribution, for every scale."""

    mean: Theta = Field(default=0.0, description="in logits; 0 is the average of those the items were fitted on")
    sd: Annotated[float, Field(ge=0.1, le=10)] = Field(
        default=1.0, description="the standard deviation, in logits: larger where less is known"
    )


class PoolFilter(Request):
    """Which items of the course the test draws on: those that fit all lists that are given."""

    items: Annotated[Items, Field(min_length=1)] | None = Field(default=None, description="these items, by their ids")
    skills: Annotated[list[Identifier], Field(min_length=1, max_length=MOST_GROUPS)] | None = Field(
        default=None, description="items that ask for one of these skills"
    )
    tags: Annotated[list[Label], Field(min_length=1, max_length=MOST_GROUPS)] | None = Field(
        default=None, description="items with one of these tags"
    )
    kinds: Annotated[list[Label], Field(min_length=1, max_length=MOST_GROUPS)] | None = Field(
        default=None, description="items of one of these kinds"
    )


class Pilot(Request):
    """Items that are tried out: they are answered, and do not count. They need no parameters."""

    items: Annotated[Items, Field(min_length=1)] = Field(description="the items to try out, by their ids")
    positions: Annotated[list[Count], AfterValidator(check_unique), Field(min_length=1, max_length=50)] = Field(
        description="the positions in the test, from 1, at which one of them comes"
    )


class Selection(Request):
    """How the next item is chosen."""

    rule: Literal["max_information", "min_expected_posterior_variance", "kullback_leibler", "random"] = Field(
        default="max_information",
        description="what the best item is: the one that tells most at the ability so far, the one after which "
        "the estimate is expected to be most precise, the one that tells it best from others, or any",
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
    pilot: Pilot | None = Field(default=None, description="items to try out in between, which do not count")


class ClassificationRule(Request):
    """Stop as soon as it is clear on which side of each cut score the ability lies."""

    cuts: Annotated[list[Theta], AfterValidator(check_unique), Field(min_length=1, max_length=10)] = Field(
        description="the cut scores, in logits of the ability"
    )
    method: Literal["interval", "sprt"] = Field(
        default="interval",
        description="decide when the interval of the ability holds no cut, or by Wald's sequential ratio test",
    )
    confidence: Annotated[float, Field(ge=0.5, le=0.999)] = Field(
        default=0.95, description="how certain the interval is that must hold no cut"
    )
    alpha: Risk = Field(default=0.05, description="sprt: the probability of placing a learner too high")
    beta: Risk = Field(default=0.05, description="sprt: the probability of placing a learner too low")
    delta: Annotated[float, Field(gt=0, le=2)] = Field(default=0.2, description="sprt: half the indifference region")


class Stop(Request):
    """When the test ends: as soon as one of these holds, but not before `min_items`. One at least is needed."""

    standard_error: Annotated[float, Field(ge=0.05, le=3)] | None = Field(
        default=None, description="the standard error of the ability is at most this, in logits"
    )
    standard_error_change: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="the last answer changed the standard error by less"
    )
    classification: ClassificationRule | None = Field(
        default=None, description="it is clear on which side of the cut scores the ability lies"
    )
    max_items: Count | None = Field(default=None, description="so many items were answered, those on trial included")
    min_items: Count = Field(default=1, description="nothing but max_items and max_seconds ends it before so many")
    max_seconds: Annotated[int, Field(ge=1, le=LONGEST_LIFE_S), WholeNumber] | None = Field(
        default=None, description="so many seconds have passed since it began"
    )

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

    id: Identifier | None = Field(default=None, description="yours, to retry safely: it begins once; made if absent")
    learner: Identifier | None = Field(default=None, description="who is tested; a test may be anonymous")
    stop: Stop = Field(description="the rules by which it ends: one of them is enough")
    selection: Selection = Field(default=Selection(), description="how the next item is chosen")
    pool: PoolFilter = Field(default=PoolFilter(), description="which items of the course may come; all if absent")
    scales: Scales | None = Field(
        default=None, description="several abilities, each measured by its own items; one of all items if absent"
    )
    prior: Prior = Field(default=Prior(), description="what is known of the ability before the first answer")
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


class _SessionResponseFields(Request):
    """What every answer in a test has beside its result."""

    id: Identifier | None = Field(default=None, description=OWN_ID)
    item: Identifier = Field(description="the item that is offered; another one is refused")
    occurred_at: Moment | None = Field(default=None, description="when it was given; if absent: now")
    duration_ms: Duration | None = Field(default=None, description="how long it took, in milliseconds")


class SessionResponseWithCorrect(_SessionResponseFields):
    """An answer to the item that is offered, right or wrong."""

    correct: bool = Field(description=CORRECT)
    score: None = Field(default=None, description="not beside `correct`")


class SessionResponseWithScore(_SessionResponseFields):
    """An answer to the item that is offered, in points."""

    correct: None = Field(default=None, description="not beside `score`")
    score: Score = Field(description="the points, from 0 to the item's max_score; whole if the item is graded")


class SessionResponseIn(_SessionResponseFields, OneOf):
    """The answer to the item that is offered."""

    model_config = examples({"id": "a-1", "item": "i2", "correct": True})
    forms = (SessionResponseWithCorrect, SessionResponseWithScore)

    correct: bool | None = None
    score: Score | None = None

    @model_validator(mode="after")
    def _one_result(self) -> Self:
        check_one_result(self.correct, self.score)
        return self


class ScaleAbility(Ability):
    """θ of one of several scales."""

    scale: str = Field(description="the id of the scale, as the test was begun with")


class SelectionReason(Reply):
    """Why an item was chosen, and which parts of the plan could not be met."""

    code: Annotated[str, words((*RULES, "first_item", "pilot_item"))] = Field(
        description="the rule that chose it, or that it stood at this place from the beginning"
    )
    text: str = SENTENCE
    terms: Terms = Field(description="what the choice rested on, such as the ability so far and how many candidates")
    relaxed: list[Literal["max_exposure", "content_shares", "bounds"]] | Absent = Field(
        default=None, description="only where something was: the parts of the plan that had to give way"
    )


class StopReason(Reply):
    """Why a test ended."""

    code: Annotated[str, words((*get_args(StopCode), "ended"))] = Field(
        description="the rule of `stop` that was met, `no_items`, or `ended` from outside"
    )
    text: str = SENTENCE


class SessionNext(Reply):
    """The item to answer now."""

    item: str = ITEM
    skill: str | None = Field(description="the first skill that it asks for; null if it asks for none")
    scored: bool = Field(description="false for an item that is tried out")
    p_correct: Probability | None = Field(
        description="the expected score at the ability so far, as a fraction; null for an item that is tried out"
    )
    propensity: Probability = Field(description="the chance this item had to be chosen")
    reason: SelectionReason = Field(description="why this item")


class SessionResponseOut(Reply):
    """The answer as it was stored."""

    id: str = Field(description="yours, or the one that was made")
    item: str = ITEM
    score: float = STORED_AS_SCORE
    scored: bool = Field(description="whether it counts; false for an item that is tried out")
    occurred_at: Timestamp = Field(description="when it was given; when it came in, if nobody said")
    position: int = Field(ge=1, description="its place in the test")


class CutOut(Reply):
    """On which side of a cut score the ability lies, and how probable that is."""

    cut: float = Field(description="the cut score, in logits")
    above: bool = Field(description="whether the ability is more likely above it than below")
    probability: Probability = Field(description="that the ability is above it")
    decided: bool = Field(description="whether the rule has decided")
    scale: str | Absent = Field(default=None, description="the scale it lies on; only where there are several")


STATUS = Field(description="`open`: an item is offered; `finished`; `expired`: nobody went on with it in its lifetime")


class SessionState(Reply):
    """Where a test stands."""

    status: Literal["open", "finished", "expired"] = STATUS
    position: int = Field(ge=0, description="how many answers there are")
    ability: Ability | None = Field(description="the ability so far; null where there are several scales")
    abilities: list[ScaleAbility] | Absent = Field(
        default=None, description="the abilities so far; only where there are several scales"
    )
    next: SessionNext | None = Field(description="the item to answer now; null when it has ended")
    stop: StopReason | None = Field(description="why it ended; null while it goes on")
    classification: list[CutOut] | Absent = Field(
        default=None, description="on which side of each cut score it lies; only where there are cut scores"
    )


class SessionOutcome(SessionState):
    """What one answer did."""

    response: SessionResponseOut = Field(description="the answer as it was stored")


class SessionStep(SessionResponseOut):
    """An answer, and what was known after it."""

    ability: Ability | None = Field(description="after this answer; null where there are several scales")
    abilities: list[ScaleAbility] | Absent = Field(
        default=None, description="after this answer, only where there are several scales"
    )


class SessionOut(SessionState):
    """A test as a whole."""

    id: str = Field(description="yours, or the one that was made")
    course: str = COURSE
    learner: str | None = Field(description="who is tested; null if nobody said")
    seed: int = Field(ge=0, description="what fixes the draws: with it the same answers meet the same items")
    calibration: str | None = CALIBRATION
    revision: int = Field(description="the revision of the catalogue, with which the test stays to its end")
    started_at: Timestamp = Field(description="when it was begun")
    expires_at: Timestamp = Field(description="until when it can be gone on with; each answer puts it off")
    responses: list[SessionStep] = Field(description="the answers so far, in their order")
    mastery: list[SkillMastery] = Field(description="the skills of the answered items, by these answers alone")


class SessionListed(Reply):
    """A test in a list."""

    id: str = Field(description="with it the whole test is read")
    learner: str | None = Field(description="who is tested; null if nobody said")
    status: Literal["open", "finished", "expired"] = STATUS
    position: int = Field(ge=0, description="how many answers there are")
    started_at: Timestamp = Field(description="when it was begun")


class SessionPage(Page):
    """Tests by id."""

    data: list[SessionListed] = Field(description="the tests of the course, by id")
