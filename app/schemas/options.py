"""The options of a recommendation: parameters of a request for one, and `next` of a response."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from app.adaptive.tracing.mastery import MASTERY_LINE
from app.schemas.common import Absent, Identifier, Label, Request, examples, to_whole_number
from app.services.options import RecommendationOptions
from app.texts import FALLBACK, LANGUAGES

MAX_EXPLAINED = 5
# How many seconds an offer is valid if the options do not say.
DEFAULT_EXPIRES_IN = 24 * 3600
LONGEST_EXPIRES_IN = 30 * DEFAULT_EXPIRES_IN


def known_language(value: str) -> str:
    """A language that there are texts in."""
    if value not in LANGUAGES:
        raise ValueError(f"must be one of: {', '.join(LANGUAGES)}")
    return value


Skills = Annotated[list[Identifier], Field(max_length=100)]
Labels = Annotated[list[Label], Field(max_length=50)]
ExcludedItems = Annotated[list[Identifier], Field(max_length=100)]
ExplainedItems = Annotated[list[Identifier], Field(max_length=MAX_EXPLAINED)]
Count = Annotated[int, Field(ge=1, le=1000), BeforeValidator(to_whole_number)]
Days = Annotated[float, Field(gt=0, le=3650)]
Target = Annotated[float, Field(ge=0.5, le=0.99)]
Chance = Annotated[float, Field(ge=0, le=1)]
OfferLifetime = Annotated[int, Field(ge=1, le=LONGEST_EXPIRES_IN), BeforeValidator(to_whole_number)]
Language = Annotated[str, AfterValidator(known_language), Field(json_schema_extra={"enum": list(LANGUAGES)})]

DESCRIPTIONS = {
    "skill": "only exercises that ask for one of these skills, to practise it",
    "tag": "only exercises with one of these tags",
    "kind": "only exercises of one of these kinds",
    "avoid": "ids of items not to offer, such as those on the learner's screen",
    "repeat_after": "none of the items of so many last answers",
    "repeat_after_days": "none of the items answered in so many last days",
    "goal": "skills to master: only these, and what they build on, as far as still needed",
    "target": "the mastery that a skill of the goal should have",
    "switch_after": "after so many answers in a row on a skill another one comes first, if there is one",
    "review": "with this chance a skill that has decayed comes first, if there is one",
    "explore": "with this chance any exercise that may be offered is drawn, all alike",
    "prefetch": "also return what would follow a right answer and a wrong one",
    "forecast": "also return how many exercises are left to the goal; without one: until everything is mastered",
    "why_not": "items of which to say why they are not recommended",
    "language": "of the sentences",
    "expires_in": "how many seconds the offer is valid",
}


class NextIn(Request):
    """What is wanted of the exercise that follows an answer."""

    model_config = examples({"goal": ["s2"], "repeat_after": 5, "prefetch": True}, {"skill": ["s1"], "language": "de"})

    skill: Skills | None = Field(default=None, description=DESCRIPTIONS["skill"])
    tag: Labels | None = Field(default=None, description=DESCRIPTIONS["tag"])
    kind: Labels | None = Field(default=None, description=DESCRIPTIONS["kind"])
    avoid: ExcludedItems | None = Field(default=None, description=DESCRIPTIONS["avoid"])
    repeat_after: Count | None = Field(default=None, description=DESCRIPTIONS["repeat_after"])
    repeat_after_days: Days | None = Field(default=None, description=DESCRIPTIONS["repeat_after_days"])
    goal: Skills | None = Field(default=None, description=DESCRIPTIONS["goal"])
    target: Target | None = Field(default=None, description=f"{DESCRIPTIONS['target']}; default {MASTERY_LINE}")
    switch_after: Count | None = Field(default=None, description=DESCRIPTIONS["switch_after"])
    review: Chance | None = Field(default=None, description=DESCRIPTIONS["review"])
    explore: Chance | None = Field(default=None, description=DESCRIPTIONS["explore"])
    prefetch: bool | None = Field(default=None, description=DESCRIPTIONS["prefetch"])
    forecast: bool | None = Field(default=None, description=DESCRIPTIONS["forecast"])
    why_not: ExplainedItems | None = Field(default=None, description=DESCRIPTIONS["why_not"])
    language: Language | None = Field(default=None, description=f"{DESCRIPTIONS['language']}; default {FALLBACK}")
    expires_in: OfferLifetime | None = Field(
        default=None, description=f"{DESCRIPTIONS['expires_in']}; if absent: for ever"
    )


class PreviewQuery(BaseModel):
    """How many exercises, and what is wanted of them."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    limit: Annotated[int, Field(ge=1, le=10)] = Field(
        default=1, description="how many exercises at most, each as if those before it were not there"
    )
    skill: Skills = Field(default=[], description=DESCRIPTIONS["skill"])
    tag: Labels = Field(default=[], description=DESCRIPTIONS["tag"])
    kind: Labels = Field(default=[], description=DESCRIPTIONS["kind"])
    avoid: ExcludedItems = Field(default=[], description=DESCRIPTIONS["avoid"])
    repeat_after: Count | Absent = Field(default=None, description=DESCRIPTIONS["repeat_after"])
    repeat_after_days: Days | Absent = Field(default=None, description=DESCRIPTIONS["repeat_after_days"])
    goal: Skills = Field(default=[], description=DESCRIPTIONS["goal"])
    target: Target = Field(default=MASTERY_LINE, description=DESCRIPTIONS["target"])
    switch_after: Count | Absent = Field(default=None, description=DESCRIPTIONS["switch_after"])
    review: Chance = Field(default=0.0, description=DESCRIPTIONS["review"])
    explore: Chance = Field(default=0.0, description=DESCRIPTIONS["explore"])
    prefetch: bool = Field(default=False, description=DESCRIPTIONS["prefetch"])
    forecast: bool = Field(default=False, description=DESCRIPTIONS["forecast"])
    why_not: ExplainedItems = Field(default=[], description=DESCRIPTIONS["why_not"])
    language: Language = Field(default=FALLBACK, description=DESCRIPTIONS["language"])


class OfferQuery(PreviewQuery):
    """How many exercises, what is wanted of them, and how long the offer holds."""

    expires_in: OfferLifetime = Field(default=DEFAULT_EXPIRES_IN, description=DESCRIPTIONS["expires_in"])


def to_options(query: NextIn | PreviewQuery) -> RecommendationOptions:
    """The options as the services take them."""
    values: dict[str, Any] = {name: value for name, value in query if value is not None and name != "limit"}
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return RecommendationOptions(**values)
