"""1EdTech CAT 1.0: requests, parsed leniently, replies, written strictly, and the configuration of a section.

Requests: unknown members are ignored, `null` is absent, words count in any case, numbers may be texts and the other
way round. Replies have only members of the standard, and no `null`.
"""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from app.adaptive.irt.item_models import CatalogueModel
from app.schemas.catalogue import MAX_SKILLS, ItemIn, check_unique, first_duplicate
from app.schemas.common import (
    LARGEST_SCORE,
    Absent,
    Identifier,
    Label,
    Reply,
    Request,
    Timestamp,
    to_moment,
)
from app.schemas.sessions import (
    DAY_S,
    LARGEST_SEED,
    LONGEST_LIFE_S,
    MOST_ITEMS,
    PoolFilter,
    Prior,
    Scales,
    Selection,
    Stop,
    Theta,
    WholeNumber,
)

MOST_AHEAD = 20
MOST_RESULTS = 1000
DEFAULT_STOP = Stop(standard_error=0.3, max_items=30)
ITEM_RESULT: dict[str, JsonValue] = {
    "identifier": "i2",
    "datestamp": "2026-11-22T09:39:35Z",
    "sessionStatus": "final",
    "outcomeVariables": [
        {"identifier": "SCORE", "cardinality": "single", "baseType": "float", "value": [{"value": "1"}]}
    ],
}


class CatMessage(BaseModel):
    """A request of the standard: lenient."""

    model_config = ConfigDict(extra="ignore", frozen=True, json_schema_extra={"additionalProperties": True})


def example(**given: JsonValue) -> ConfigDict:
    """Return the `model_config` of a message with an example that the tests send."""
    return ConfigDict(json_schema_extra={"examples": [given], "additionalProperties": True})


def to_lower(value: object) -> object:
    """Return a word in small letters."""
    return value.lower() if isinstance(value, str) else value


def as_text(value: object) -> object:
    """Return a number, or true and false, as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, (int, float)) else value


def as_moment(value: object) -> object:
    """Return a time as microseconds since 1970; without an offset it is UTC."""
    try:
        return to_moment(value)
    except ValueError:
        if isinstance(value, str) and _is_local(value):
            return to_moment(f"{value}Z")
        raise


def _is_local(text: str) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is None
    except ValueError:
        return False


def check_finite(value: float) -> float:
    """A number that is one."""
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


Text = Annotated[str, BeforeValidator(as_text, json_schema_input_type=str | float | bool)]


Metadata = dict[str, Any] | str
METADATA = "what the platform says of the items; kept and given back, not read"
SECTION = "made by this service: `s-` and 32 digits"
STATE = "give it back with the next results; another one is refused, as it belongs to an earlier moment"


class CatSection(CatMessage):
    """An adaptive section: what it is configured by, and the statistics and description of its items."""

    model_config = example(sectionConfiguration="eyJwb29sIjogImMxIn0=")

    sectionConfiguration: str = Field(description='Base64 of a configuration, such as `{"pool": "c1"}`')
    qtiUsagedata: str | None = Field(default=None, description="Base64 of QTI usage data")
    qtiMetadata: Metadata | None = Field(default=None, description=METADATA)


class KeyValuePair(CatMessage):
    """One thing that is known of the learner."""

    key: Text = Field(
        description="learnerId, priorMean, priorSd, initialEstimatedAbility or seed; others are passed over"
    )
    value: Text = Field(description="the value as text: an id, or a number in logits")


class CatSession(CatMessage):
    """A session: `personalNeedsAndPreferences` and `demographics` are ignored."""

    model_config = example(priorData=[{"key": "initialEstimatedAbility", "value": "0.0"}])

    priorData: list[KeyValuePair] | None = Field(default=None, description="what is known of the learner before")


class PriorData(CatMessage):
    """The keys that we know of what is known of the learner."""

    learnerId: Identifier | None = None
    priorMean: Theta | None = None
    priorSd: Annotated[float, Field(ge=0.1, le=10)] | None = None
    initialEstimatedAbility: Theta | None = None
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] | None = None


class OutcomeVariable(CatMessage):
    """An outcome variable; all but SCORE are ignored."""

    identifier: Text = Field(description="SCORE, in any case")
    normalMaximum: float | str | None = Field(
        default=None, description="the highest score there is; the item's max_score if absent"
    )
    normalMinimum: float | str | None = Field(default=None, description="the lowest score there is; 0 if absent")
    value: Any = Field(default=None, description="a list of objects with `value`; of others than SCORE anything")

    def score(self) -> float | None:
        """The first value as a number, if there is one. Raises `ValueError`."""
        first = self.value[0] if isinstance(self.value, list) and self.value else self.value
        value = first.get("value") if isinstance(first, dict) else first
        return None if value in (None, "", []) else as_score(value)


def as_score(value: Any) -> float:
    """A number of a size that scores have. Raises `ValueError`."""
    number = check_finite(float(value)) if isinstance(value, (str, int, float)) else math.nan
    if not abs(number) <= LARGEST_SCORE:
        raise ValueError("must be a number")
    return number


class ItemResult(CatMessage):
    """What came of one item."""

    identifier: Text = Field(description="the id of the item, as it was offered")
    datestamp: Annotated[int, BeforeValidator(as_moment, json_schema_input_type=str)] = Field(
        description="when it was answered, by RFC 3339; without an offset it is UTC"
    )
    sessionStatus: Annotated[
        Literal["final", "initial", "pendingresponseprocessing", "pendingsubmission"],
        BeforeValidator(to_lower, json_schema_input_type=str),
    ] = Field(description="final, initial, pendingResponseProcessing or pendingSubmission; only final ones count")
    outcomeVariables: list[OutcomeVariable] | None = Field(
        default=None, description="what came of it; without a SCORE the item was skipped"
    )

    def scores(self) -> tuple[float | None, float | None, float | None]:
        """The SCORE, and the lowest and the highest it could be, as far as they came. Raises `ValueError`."""
        for variable in self.outcomeVariables or ():
            if variable.identifier.upper() == "SCORE":
                ends = (variable.normalMinimum, variable.normalMaximum)
                lowest, highest = (None if end is None else as_score(end) for end in ends)
                return variable.score(), lowest, highest
        return None, None, None


class AssessmentResult(CatMessage):
    """The results of a test; all but those of items are ignored."""

    itemResult: Annotated[list[ItemResult], Field(max_length=MOST_RESULTS)] | None = Field(
        default=None, description="the results of items that were offered; of one item the latest counts"
    )


class CatResults(CatMessage):
    """Results of what was offered, and the state that came with it."""

    model_config = example(assessmentResult={"itemResult": [ITEM_RESULT]}, sessionState="v1.0.0123456789abcdef")

    assessmentResult: AssessmentResult = Field(description="what came of the items that were presented")
    sessionState: str | None = Field(default=None, description="as the reply before had it")


class ConfiguredItem(Request):
    """An item of a section that brings its own."""

    id: Identifier
    model: CatalogueModel | None = None
    a: float | None = None
    b: float | None = None
    c: float | None = None
    d: float | None = None
    thresholds: list[float] | None = None
    maxScore: Annotated[float, Field(gt=0, le=LARGEST_SCORE)] | None = None
    skills: Annotated[list[Identifier], AfterValidator(check_unique), Field(max_length=MAX_SKILLS)] = Field(
        default_factory=list
    )
    tags: Annotated[list[Label], AfterValidator(check_unique), Field(max_length=50)] | None = None
    kind: Label | None = None
    exposure: Annotated[float, Field(gt=0, le=1)] | None = None

    def to_catalogue(self, model: str | None) -> dict[str, Any]:
        """The item as a catalogue has it. Without a model it is the smallest that has its parameters.

        Raises `ValueError`.
        """
        given = self.model_dump(exclude_none=True, include={"a", "b", "c", "d", "thresholds"})
        chosen = self.model or model or ("4PL" if "d" in given else "3PL" if "c" in given else None)
        if chosen is None and "thresholds" in given:
            raise ValueError("say which model the thresholds belong to: graded, GPCM or PCM")
        if chosen in {"3PL", "4PL"}:
            given.setdefault("a", 1.0)
        chosen = chosen or ("2PL" if "a" in given else "1PL")
        stored = self.model_dump(exclude_none=True, include={"id", "skills", "tags", "kind", "exposure"})
        parameters = {"model": chosen, **given} if given else None
        item = ItemIn.model_validate({**stored, "max_score": self.maxScore, "parameters": parameters})
        return item.model_dump(exclude_none=True)


class FormItem(CatMessage):
    """An item of a fixed form."""

    itemId: Identifier


class FixedForm(CatMessage):
    """A fixed form."""

    items: Annotated[list[FormItem], Field(min_length=1, max_length=MOST_ITEMS)]


class UsageOptions(Request):
    """Which numbers of the usage data to take, and the scale they are on: there θ is slope · θ + intercept."""

    context: str | None = None
    slope: Annotated[float, Field(gt=0, le=LARGEST_SCORE)] = 1.0
    intercept: Annotated[float, Field(ge=-LARGEST_SCORE, le=LARGEST_SCORE)] = 0.0
    d: Annotated[float, Field(ge=1, le=2)] = Field(default=1.0, description="1, or 1.7 for slopes of the normal ogive")


class SectionRules(Request):
    """What is common to all ways to configure a section."""

    stop: Stop = DEFAULT_STOP
    selection: Selection = Selection()
    cut: PoolFilter = PoolFilter()
    scales: Scales | None = None
    prior: Prior | None = None
    lifetime_s: Annotated[int, Field(ge=60, le=LONGEST_LIFE_S), WholeNumber] = DAY_S
    lookAhead: Annotated[int, Field(ge=0, le=MOST_AHEAD), WholeNumber] = 2
    skipped: Literal["zero", "ignore"] = "zero"
    endOfTest: Literal["empty", "omit"] = "empty"

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.selection.constraints is not None and self.skipped == "ignore":
            raise ValueError("constraints say how many items a test has: with them skipped items count, as zero")
        return self

    def settings(self, forms: Sequence[list[str]] = ()) -> dict[str, Any]:
        """What the sessions of the section agree on; `forms` are their items if the order is fixed."""
        plan = self.model_dump(exclude_none=True, include={"stop", "selection", "scales", "lifetime_s"})
        return {
            "plan": {
                **plan,
                "pool": self.cut.model_dump(exclude_none=True),
                "prior": (self.prior or Prior()).model_dump(),
                "prior_from_practice": False,
                "updates_mastery": False,
            },
            "prior": self.prior is not None,
            "forms": list(forms),
            "lookAhead": self.lookAhead,
            "skipped": self.skipped,
            "endOfTest": self.endOfTest,
        }


class SectionConfiguration(SectionRules):
    """A section by a stored pool, by its own items, or (neither) by usage data."""

    pool: Identifier | None = None
    items: Annotated[list[ConfiguredItem], Field(min_length=1, max_length=100_000)] | None = None
    model: CatalogueModel | None = None
    usage: UsageOptions = UsageOptions()

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.pool is not None and self.items is not None:
            raise ValueError("give pool or items, not both")
        if first_duplicate(item.id for item in self.items or ()) is not None:
            raise ValueError("an item stands twice")
        return self


class FixedForms(CatMessage):
    """Fixed forms, as some engines are configured; other members are passed over."""

    forms: Annotated[list[FixedForm], Field(min_length=1, max_length=MOST_ITEMS)]

    def item_ids(self) -> list[list[str]]:
        """The items of each form in their order, each once."""
        return [list(dict.fromkeys(item.itemId for item in form.items)) for form in self.forms]


class CatSectionMade(Reply):
    """A section."""

    sectionIdentifier: str = Field(description=SECTION)


class ItemSet(Reply):
    """The items of a section."""

    itemIdentifiers: Annotated[list[str], Field(min_length=1)] = Field(description="every item that may come")


class CatSectionPosted(Reply):
    """A section as it was posted."""

    sectionConfiguration: str = Field(description="Base64, as it came")
    qtiUsagedata: str | Absent = Field(default=None, description="Base64, as it came; only if it came")
    qtiMetadata: Metadata | Absent = Field(default=None, description=METADATA)


class CatSectionOut(Reply):
    """A section and its items."""

    items: ItemSet = Field(description="the items of its pool")
    section: CatSectionPosted = Field(description="what it was made of")


class NextItemSet(Reply):
    """What to present, best first, and how many of them before asking again; empty at the end."""

    itemIdentifiers: list[str] = Field(description="the items to present, the best first; empty: the test is over")
    stageLength: Annotated[int, Field(ge=0)] = Field(description="how many of them to present before asking again")


class CatSessionMade(Reply):
    """A session and its first items."""

    sessionIdentifier: str = Field(description="made by this service: `t-` and 32 digits")
    nextItems: NextItemSet | Absent = Field(default=None, description="what to present first")
    sessionState: str = Field(description=STATE)


class TypedValue(Reply):
    """A value and its type."""

    baseType: Literal["float", "identifier"] = Field(description="how the text is to be read")
    value: str = Field(description="the value as text")


class OutcomeVariableOut(Reply):
    """THETA, SE, STOP_REASON or MASTERY_…."""

    identifier: str = Field(
        description="THETA, SE, STOP_REASON, or MASTERY_ and a skill; of several scales with the name of the scale"
    )
    cardinality: Literal["single"] = Field(description="that it has one value")
    baseType: Literal["float", "identifier"] = Field(description="float for numbers, identifier for words")
    normalMaximum: float | Absent = Field(default=None, description="the highest mastery there is, 1")
    normalMinimum: float | Absent = Field(default=None, description="the lowest mastery there is, 0")
    masteryValue: float | Absent = Field(
        default=None, description="of a mastery: from where on the skill is called mastered"
    )
    value: list[TypedValue] = Field(
        description="one element: θ and its standard error in logits, a mastery from 0 to 1, or why it ended"
    )


class TestResultOut(Reply):
    """What is known after the results."""

    identifier: str = Field(description="the id of the section")
    datestamp: Timestamp = Field(description="when it was computed")
    outcomeVariables: list[OutcomeVariableOut] = Field(
        description="abilities with their standard errors, masteries of skills, and at the end why it ended"
    )


class AssessmentResultOut(Reply):
    """What is known after the results."""

    testResult: TestResultOut = Field(description="the result of the test so far")


class CatNext(Reply):
    """What comes next, and what is known."""

    nextItems: NextItemSet | Absent = Field(
        default=None, description="what to present next; empty, or left out if so configured, at the end"
    )
    sessionState: str = Field(description=STATE)
    assessmentResult: AssessmentResultOut = Field(description="what is known of the learner now")
