"""Courses, skills and items as they are sent and told."""

from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, HttpUrl, model_validator

from app.schemas.common import Identifier, Label, Page, Reply, Request, Title

MAX_SKILLS = 16
MAX_THRESHOLDS = 20


def no_repetition(values: list[Any]) -> list[Any]:
    """A list in which nothing stands twice."""
    if first_repeated(values) is not None:
        raise ValueError("nothing may stand twice")
    return values


def first_repeated(values: Iterable[Hashable]) -> Hashable | None:
    """The first value that stood before."""
    seen: set[Hashable] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    return None


def web_address(text: str) -> str:
    """An http(s) address; kept as it was sent."""
    HttpUrl(text)
    return text


Unique = Field(json_schema_extra={"uniqueItems": True})


class Parameters(Request):
    """Known item parameters on the logistic scale (D = 1) of an ability with mean 0.

    1PL: b. 2PL: a, b. 3PL: a, b, c. 4PL: a, b, c, d. graded (Samejima 1969): a and increasing thresholds.
    """

    model: Literal["1PL", "2PL", "3PL", "4PL", "graded"]
    a: Annotated[float, Field(ge=0.01, le=6)] | None = Field(default=None, description="discrimination, default 1")
    b: Annotated[float, Field(ge=-10, le=10)] | None = Field(default=None, description="difficulty")
    c: Annotated[float, Field(ge=0, le=0.5)] | None = Field(default=None, description="guessing (lower asymptote)")
    d: Annotated[float, Field(ge=0.51, le=1)] | None = Field(default=None, description="upper asymptote")
    thresholds: (
        Annotated[list[Annotated[float, Field(ge=-10, le=10)]], Field(min_length=1, max_length=MAX_THRESHOLDS)] | None
    ) = Field(default=None, description="graded: the m - 1 boundaries between m categories, increasing")

    @model_validator(mode="after")
    def _complete(self) -> "Parameters":
        needed = {"1PL": {"b"}, "2PL": {"a", "b"}, "3PL": {"a", "b", "c"}, "4PL": {"a", "b", "c", "d"}}
        allowed = needed.get(self.model, {"a", "thresholds"}) | {"a"} - ({"a"} if self.model == "1PL" else set())
        given = {name for name in ("a", "b", "c", "d", "thresholds") if getattr(self, name) is not None}
        missing = needed.get(self.model, {"thresholds"}) - given
        if missing:
            raise ValueError(f"{self.model} needs {', '.join(sorted(missing))}")
        if given - allowed:
            raise ValueError(f"{self.model} has no {', '.join(sorted(given - allowed))}")
        thresholds = self.thresholds or []
        if any(low >= high for low, high in pairwise(thresholds)):
            raise ValueError("the thresholds must increase")
        return self


class SkillIn(Request):
    """A skill; what is left out is empty afterwards."""

    id: Identifier
    title: Title | None = None
    prerequisites: Annotated[list[Identifier], AfterValidator(no_repetition), Field(max_length=100), Unique] | None = (
        None
    )


class ItemIn(Request):
    """An item; what is left out is empty afterwards."""

    id: Identifier
    skills: Annotated[list[Identifier], AfterValidator(no_repetition), Field(max_length=MAX_SKILLS), Unique]
    title: Title | None = None
    kind: Label | None = None
    tags: Annotated[list[Label], AfterValidator(no_repetition), Field(max_length=50), Unique] | None = None
    url: (
        Annotated[str, AfterValidator(web_address), Field(max_length=2000, json_schema_extra={"format": "uri"})] | None
    ) = None
    max_score: Annotated[float, Field(gt=0, le=1_000_000)] | None = Field(default=None, description="default 1")
    parameters: Parameters | None = None

    @model_validator(mode="after")
    def _graded(self) -> "ItemIn":
        thresholds = self.parameters.thresholds if self.parameters else None
        if thresholds and self.max_score not in (None, len(thresholds)):
            raise ValueError(f"a graded item's max_score is the number of its thresholds, {len(thresholds)}")
        return self


class CatalogueIn(Request):
    """Skills and items to add or replace; what is not named stays as it is."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "title": "Fractions",
                    "skills": [{"id": "subtract"}, {"id": "borrow", "prerequisites": ["subtract"]}],
                    "items": [{"id": "i1", "skills": ["subtract"]}, {"id": "i2", "skills": ["subtract", "borrow"]}],
                }
            ]
        }
    )

    title: Title | None = None
    skills: Annotated[list[SkillIn], Field(max_length=10_000)] = Field(default_factory=list)
    items: Annotated[list[ItemIn], Field(max_length=100_000)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _ids_once(self) -> "CatalogueIn":
        for records in (self.skills, self.items):
            repeated = first_repeated(record.id for record in records)
            if repeated is not None:
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


class SkillPage(Page):
    """Skills by id."""

    data: Sequence[SkillOut]


class ItemPage(Page):
    """Items by id."""

    data: Sequence[ItemOut]
