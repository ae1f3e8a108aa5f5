"""What may be wanted of the next exercise: as parameters of a recommendation, and as `next` of an answer."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from app.adaptive.mastery import MASTERY_LINE
from app.schemas.common import Absent, Identifier, Label, Request, examples, whole
from app.services.wishes import Wishes
from app.texts import FALLBACK, LANGUAGES

MOST_OBJECTIONS = 5
# How long an offer holds unless something else is wanted.
LEASE_S = 24 * 3600
LONGEST_LEASE_S = 30 * LEASE_S


def known_language(value: str) -> str:
    """A language that there are texts in."""
    if value not in LANGUAGES:
        raise ValueError(f"must be one of: {', '.join(LANGUAGES)}")
    return value


Skills = Annotated[list[Identifier], Field(max_length=100)]
Labels = Annotated[list[Label], Field(max_length=50)]
Avoided = Annotated[list[Identifier], Field(max_length=100)]
AskedAbout = Annotated[list[Identifier], Field(max_length=MOST_OBJECTIONS)]
Count = Annotated[int, Field(ge=1, le=1000), BeforeValidator(whole)]
Days = Annotated[float, Field(gt=0, le=3650)]
Target = Annotated[float, Field(ge=0.5, le=0.99)]
Chance = Annotated[float, Field(ge=0, le=1)]
Lease = Annotated[int, Field(ge=1, le=LONGEST_LEASE_S), BeforeValidator(whole)]
Language = Annotated[str, AfterValidator(known_language), Field(json_schema_extra={"enum": list(LANGUAGES)})]

ABOUT = {
    "skill": "only exercises that ask for one of these skills, to practise it",
    "tag": "only exercises with one of these tags",
    "kind": "only exercises of one of these kinds",
    "avoid": "items not to offer",
    "repeat_after": "none of the items of so many last answers",
    "repeat_after_days": "none of the items answered in so many last days",
    "goal": "skills to master: only these, and what they build on, as far as still needed",
    "target": "the mastery that a skill of the goal should have",
    "switch_after": "after so many answers in a row on a skill another one comes first, if there is one",
    "review": "with this chance a skill that has decayed comes first, if there is one",
    "explore": "with this chance any exercise that may be offered is drawn, all alike",
    "prefetch": "tell also what would follow a right answer and a wrong one",
    "forecast": "tell also how many exercises are left to the goal; without one: until everything is mastered",
    "why_not": "items of which to say why they are not recommended",
    "language": "of the sentences",
    "lease_s": "how many seconds the offer holds",
}


class NextIn(Request):
    """What is wanted of the exercise that follows an answer."""

    model_config = examples({"goal": ["s2"], "repeat_after": 5, "prefetch": True}, {"skill": ["s1"], "language": "de"})

    skill: Skills | None = Field(default=None, description=ABOUT["skill"])
    tag: Labels | None = Field(default=None, description=ABOUT["tag"])
    kind: Labels | None = Field(default=None, description=ABOUT["kind"])
    avoid: Avoided | None = Field(default=None, description=ABOUT["avoid"])
    repeat_after: Count | None = Field(default=None, description=ABOUT["repeat_after"])
    repeat_after_days: Days | None = Field(default=None, description=ABOUT["repeat_after_days"])
    goal: Skills | None = Field(default=None, description=ABOUT["goal"])
    target: Target | None = Field(default=None, description=f"{ABOUT['target']}; default {MASTERY_LINE}")
    switch_after: Count | None = Field(default=None, description=ABOUT["switch_after"])
    review: Chance | None = Field(default=None, description=ABOUT["review"])
    explore: Chance | None = Field(default=None, description=ABOUT["explore"])
    prefetch: bool | None = Field(default=None, description=ABOUT["prefetch"])
    forecast: bool | None = Field(default=None, description=ABOUT["forecast"])
    why_not: AskedAbout | None = Field(default=None, description=ABOUT["why_not"])
    language: Language | None = Field(default=None, description=f"{ABOUT['language']}; default {FALLBACK}")
    lease_s: Lease | None = Field(default=None, description=f"{ABOUT['lease_s']}; if absent: for ever")


class PreviewQuery(BaseModel):
    """How many exercises, and what is wanted of them."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    limit: Annotated[int, Field(ge=1, le=10)] = 1
    skill: Skills = Field(default=[], description=ABOUT["skill"])
    tag: Labels = Field(default=[], description=ABOUT["tag"])
    kind: Labels = Field(default=[], description=ABOUT["kind"])
    avoid: Avoided = Field(default=[], description=ABOUT["avoid"])
    repeat_after: Count | Absent = Field(default=None, description=ABOUT["repeat_after"])
    repeat_after_days: Days | Absent = Field(default=None, description=ABOUT["repeat_after_days"])
    goal: Skills = Field(default=[], description=ABOUT["goal"])
    target: Target = Field(default=MASTERY_LINE, description=ABOUT["target"])
    switch_after: Count | Absent = Field(default=None, description=ABOUT["switch_after"])
    review: Chance = Field(default=0.0, description=ABOUT["review"])
    explore: Chance = Field(default=0.0, description=ABOUT["explore"])
    prefetch: bool = Field(default=False, description=ABOUT["prefetch"])
    forecast: bool = Field(default=False, description=ABOUT["forecast"])
    why_not: AskedAbout = Field(default=[], description=ABOUT["why_not"])
    language: Language = Field(default=FALLBACK, description=ABOUT["language"])


class OfferQuery(PreviewQuery):
    """How many exercises, what is wanted of them, and how long the offer holds."""

    lease_s: Lease = Field(default=LEASE_S, description=ABOUT["lease_s"])


def to_wishes(given: NextIn | PreviewQuery) -> Wishes:
    """The wishes as the services take them."""
    values: dict[str, Any] = {name: value for name, value in given if value is not None and name != "limit"}
    values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
    return Wishes(**values)
