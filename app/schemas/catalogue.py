"""Courses, skills and items: their requests and replies."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Any

from pydantic import AfterValidator, Field, JsonValue, StringConstraints, model_validator

from app.adaptive.irt.item_models import BY_CATALOGUE_NAME, ITEM_MODELS, CatalogueModel, ItemModel
from app.schemas.common import LARGEST_SCORE, Identifier, Label, Page, Reply, Request, Title, examples

MAX_SKILLS = 16
MAX_THRESHOLDS = 20

PARAMETERS = ("a", "b", "c", "d", "thresholds")


def check_unique(values: list[Any]) -> list[Any]:
    """A list in which nothing stands twice."""
    if first_duplicate(values) is not None:
        raise ValueError("nothing may stand twice")
    return values


def first_duplicate(values: Iterable[Hashable]) -> Hashable | None:
    """The first value that stood before."""
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def required_parameters_schema(model: ItemModel) -> JsonValue:
    """What `ItemParameters._complete` says of one model, as JSON schema."""
    properties: dict[str, JsonValue] = {"model": {"const": model.catalogue_name}}
    properties |= {name: {"type": "array" if name == "thresholds" else "number"} for name in model.required}
    properties |= {name: {"type": "null"} for name in PARAMETERS if name not in model.parameters}
    return {"properties": properties, "required": list(model.required)}


Unique = Field(json_schema_extra={"uniqueItems": True})
Address = Annotated[str, StringConstraints(max_length=2000, strict=True, pattern=r"^https?://[^\x00-\x20]+$")]


class ItemParameters(Request):
    """Known item parameters on the logistic scale (D = 1) of an ability with mean 0.

    1PL: b. 2PL: a, b. 3PL: a, b, c. 4PL: a, b, c, d. graded (Samejima 1969): a and increasing thresholds. GPCM (Muraki
    1992): a and the difficulty of each step, as thresholds in any order; PCM (Masters 1982): the same with a = 1.
    """

    model_config = examples(
        {"model": "2PL", "a": 1.2, "b": -0.4},
        oneOf=[required_parameters_schema(model) for model in ITEM_MODELS],
    )

    model: CatalogueModel
    a: Annotated[float, Field(ge=0.01, le=6)] | None = Field(default=None, description="discrimination, default 1")
    b: Annotated[float, Field(ge=-10, le=10)] | None = Field(default=None, description="difficulty")
    c: Annotated[float, Field(ge=0, le=0.5)] | None = Field(default=None, description="guessing (lower asymptote)")
    d: Annotated[float, Field(ge=0.51, le=1)] | None = Field(default=None, description="upper asymptote")
    thresholds: (
        Annotated[list[Annotated[float, Field(ge=-10, le=10)]], Field(min_length=1, max_length=MAX_THRESHOLDS)] | None
    ) = Field(default=None, description="between m categories the m - 1 boundaries, increasing, or steps")

    @model_validator(mode="after")
    def _complete(self) -> "ItemParameters":
        model = BY_CATALOGUE_NAME[self.model]
        present = {name for name in PARAMETERS if getattr(self, name) is not None}
        missing = set(model.required) - present
        if missing:
            raise ValueError(f"{self.model} needs {', '.join(sorted(missing))}")
        if extra := present.difference(model.parameters):
            raise ValueError(f"{self.model} has no {', '.join(sorted(extra))}")
        thresholds = self.thresholds or []
        if self.model == "graded" and any(low >= high for low, high in pairwise(thresholds)):
            raise ValueError("the thresholds must increase")
        return self


class SkillIn(Request):
    """A skill; what is left out is empty afterwards."""

    id: Identifier
    title: Title | None = None
    prerequisites: Annotated[list[Identifier], AfterValidator(check_unique), Field(max_length=100), Unique] | None = (
        Field(default=None, description="the skills to know before, all of this course; no cycles")
    )


class ItemIn(Request):
    """An item; what is left out is empty afterwards."""

    id: Identifier
    skills: Annotated[list[Identifier], AfterValidator(check_unique), Field(max_length=MAX_SKILLS), Unique]
    title: Title | None = None
    kind: Label | None = None
    tags: Annotated[list[Label], AfterValidator(check_unique), Field(max_length=50), Unique] | None = None
    url: Address | None = Field(default=None, description="where the item is shown")
    max_score: Annotated[float, Field(gt=0, le=LARGEST_SCORE)] | None = Field(
        default=None, description="default 1; of a graded item the number of its thresholds"
    )
    parameters: ItemParameters | None = None
    exposure: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="exposure parameter in adaptive tests (Sympson & Hetter); default 1"
    )

    choices: Annotated[int, Field(ge=2, le=100)] | None = Field(
        default=None,
        description="how many options there are, one of them right: guessing without parameters",
    )
    reviewed: bool = Field(
        default=False, description="somebody has looked at the item: it counts although a calibration suspects it"
    )

    @model_validator(mode="after")
    def _graded(self) -> "ItemIn":
        thresholds = self.parameters.thresholds if self.parameters else None
        if thresholds and self.max_score not in (None, len(thresholds)):
            raise ValueError(f"a graded item's max_score is the number of its thresholds, {len(thresholds)}")
        return self


class CatalogueIn(Request):
    """Skills and items to add or replace; what is not named stays as it is."""

    model_config = examples(
        {
            "title": "Fractions",
            "skills": [{"id": "subtract"}, {"id": "borrow", "prerequisites": ["subtract"]}],
            "items": [{"id": "i1", "skills": ["subtract"]}, {"id": "i2", "skills": ["subtract", "borrow"]}],
        }
    )

    title: Title | None = None
    skills: Annotated[list[SkillIn], Field(max_length=10_000)] | None = Field(default=None, description="ids once each")
    items: Annotated[list[ItemIn], Field(max_length=100_000)] | None = Field(default=None, description="ids once each")

    @model_validator(mode="after")
    def _ids_once(self) -> "CatalogueIn":
        for records in (self.skills, self.items):
            duplicate = first_duplicate(record.id for record in records or ())
            if duplicate is not None:
                raise ValueError("an id stands twice in one list")
        return self


class CatalogueCounts(Reply):
    """What an upsert did, and what the course holds now."""

    revision: int
    skills_created: int
    skills_changed: int
    items_created: int
    items_changed: int
    skills: int
    items: int


class SkillOut(Reply):
    """A skill."""

    id: str
    title: str | None
    prerequisites: list[str]


class ItemOut(Reply):
    """An item."""

    id: str
    skills: list[str]
    title: str | None
    kind: str | None
    tags: list[str]
    url: str | None
    max_score: float
    parameters: dict[str, Any] | None
    exposure: float | None
    choices: int | None
    reviewed: bool


class SkillPage(Page):
    """Skills by id."""

    data: Sequence[SkillOut]


class ItemPage(Page):
    """Items by id."""

    data: Sequence[ItemOut]
